/** Tokens and money as they are told: in the words of a Message. */
import type { Usage } from "../../clients/typescript/protocol.ts";
import type { Usage as Metered } from "../wire/anthropic/usage.ts";

export type Spent = { readonly usage: Usage; readonly microUsd: number };
type Counts = Omit<Usage, "cache_read_share" | "estimated">;

export const NO_USAGE: Usage = toldUsage([]);
export const NOTHING_SPENT: Spent = { usage: NO_USAGE, microUsd: 0 };

/** What calls used together. */
export function toldUsage(calls: readonly Metered[]): Usage {
  const sum = (count: (one: Metered) => number): number => calls.reduce((total, one) => total + count(one), 0);
  const counts = {
    input_tokens: sum(({ inputTokens }) => inputTokens),
    output_tokens: sum(({ outputTokens }) => outputTokens),
    cache_read_input_tokens: sum(({ cacheReadTokens }) => cacheReadTokens),
    cache_creation_input_tokens: sum(
      ({ cacheWrite5mTokens, cacheWrite1hTokens }) => cacheWrite5mTokens + cacheWrite1hTokens,
    ),
  };
  return usageOf(
    counts,
    calls.some(({ estimated }) => estimated),
  );
}

/** Counts with what follows from them. */
export function usageOf(counts: Counts, estimated: boolean): Usage {
  const { input_tokens, output_tokens, cache_read_input_tokens, cache_creation_input_tokens } = counts;
  const prompt = promptOf(counts);
  return {
    input_tokens,
    output_tokens,
    cache_read_input_tokens,
    cache_creation_input_tokens,
    cache_read_share: prompt === 0 ? 0 : cache_read_input_tokens / prompt,
    ...(estimated && { estimated }),
  };
}

/** All of the input. */
export function promptOf(counts: Counts): number {
  return counts.input_tokens + counts.cache_read_input_tokens + counts.cache_creation_input_tokens;
}
