/** Token counts in OpenAI's two forms. There a prompt counts whole, with what was read from the cache and written to it. */
import type { Usage } from "../anthropic/usage.ts";
import type { Fields } from "./draft.ts";

/** The `usage` of a Chat Completion. */
export function chatUsage(usage: Usage): Fields {
  const { prompt, written } = promptOf(usage);
  const { outputTokens, cacheReadTokens, thinkingTokens } = usage;
  return {
    prompt_tokens: prompt,
    completion_tokens: outputTokens,
    total_tokens: prompt + outputTokens,
    prompt_tokens_details: { cached_tokens: cacheReadTokens, cache_write_tokens: written },
    completion_tokens_details: { reasoning_tokens: thinkingTokens },
  };
}

/** The `usage` of a Response. */
export function responsesUsage(usage: Usage): Fields {
  const { prompt, written } = promptOf(usage);
  const { outputTokens, cacheReadTokens, thinkingTokens } = usage;
  return {
    input_tokens: prompt,
    input_tokens_details: { cached_tokens: cacheReadTokens, cache_write_tokens: written },
    output_tokens: outputTokens,
    output_tokens_details: { reasoning_tokens: thinkingTokens },
    total_tokens: prompt + outputTokens,
  };
}

function promptOf(usage: Usage): { prompt: number; written: number } {
  const written = usage.cacheWrite5mTokens + usage.cacheWrite1hTokens;
  return { prompt: usage.inputTokens + written + usage.cacheReadTokens, written };
}
