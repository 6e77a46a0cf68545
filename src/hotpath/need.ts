/**
 * What a request will need of its accounts, guessed before it is sent: input tokens from the size and kind of its body,
 * corrected by what the upstream counted for this key before, output tokens from what this key's answers usually have,
 * money from both.
 */
import type { Rules } from "../identity/key-record.ts";
import { type Amounts, MAX_AMOUNT, NOTHING } from "../ledger/amounts.ts";
import type { Learned, Usual } from "../ledger/protocol.ts";
import type { PriceTable } from "../wire/anthropic/price-list.ts";
import { reservationMicroUsd } from "../wire/anthropic/prices.ts";
import { extrasOf, type RequestFacts } from "../wire/anthropic/request.ts";
import type { Usage } from "../wire/anthropic/usage.ts";

/** English text has about four bytes to a token, code and other scripts fewer; three is on the dear side. */
const BYTES_PER_TOKEN = 3;
/** An image costs up to about this (the API scales larger ones down); a document's pages are told by its size. */
const TOKENS_PER_MEDIA = 1_600;
const MEDIA_BYTES_PER_TOKEN = 100;
/**
 * How far a prompt may exceed what is guessed of it, by its bytes or by what was learned of its key, before a strict
 * reservation is too small: dear text has 2.4 bytes to a token. What was learned may raise a strict guess and never
 * lowers it, or a key could teach the gateway that its prompts are small.
 */
const STRICT_MARGIN = 1.25;
/** `max_tokens` of a request that has none; the API refuses it anyway. */
const NO_MAX_TOKENS = 4_096;

/** One running request and nothing else: what lists and token counts need, since they are free. */
export const JUST_A_REQUEST: Amounts = { ...NOTHING, requests: 1, slots: 1 };

export type Guess = {
  /** From the body alone; what learned ratios are ratios to. */
  readonly tokens: number;
  /** What the request is expected to cost before correction. */
  readonly microUsd: number;
  readonly promptTokens: number;
  readonly outputTokens: number;
};

export function guess(facts: RequestFacts, usual: Usual, prices: PriceTable, at: number): Guess {
  const { bytes, mediaBytes, mediaCount, model, maxTokens } = facts;
  const media = mediaCount * TOKENS_PER_MEDIA + mediaBytes / MEDIA_BYTES_PER_TOKEN;
  const tokens = Math.max(1, Math.ceil((bytes - mediaBytes) / BYTES_PER_TOKEN + media));
  const promptTokens = Math.ceil(tokens * usual.promptRatio);
  const outputTokens = Math.max(1, Math.min(maxTokens ?? NO_MAX_TOKENS, Math.ceil(usual.outputTokens)));
  const terms = { cacheWrites: false, fast: facts.fast, us: facts.geo === "us" };
  const microUsd = reservationMicroUsd(prices, model, { inputTokens: promptTokens, outputTokens }, at, terms);
  return { tokens, microUsd, promptTokens, outputTokens };
}

/** What a Messages request needs of an account with these rules. */
export function needOf(
  rules: Rules | undefined,
  facts: RequestFacts,
  guessed: Guess,
  usual: Usual,
  prices: PriceTable,
  at: number,
): Amounts {
  const limits = rules?.limits;
  const capacity = limits?.output_tokens_burst ?? limits?.output_tokens_per_minute ?? Number.POSITIVE_INFINITY;
  let microUsd = Math.max(1, Math.ceil(guessed.microUsd * usual.costRatio));
  if (rules?.budget?.mode === "strict") {
    microUsd = Math.max(1, worstMicroUsd(facts, guessed, prices, at));
  }
  return {
    requests: 1,
    inputTokens: Math.max(1, Math.ceil(guessed.tokens * usual.inputRatio)),
    // More than this is taken from the bucket when it is known: it may go into debt, and only time repays it.
    outputTokens: Math.min(guessed.outputTokens, capacity),
    microUsd: Math.min(microUsd, MAX_AMOUNT),
    slots: 1,
  };
}

/** The most a request can cost, as far as it tells (docs/api.md, Budgets, says what it does not). */
function worstMicroUsd(facts: RequestFacts, guessed: Guess, prices: PriceTable, at: number): number {
  const tokens = {
    inputTokens: Math.ceil(Math.max(guessed.tokens, guessed.promptTokens) * STRICT_MARGIN),
    outputTokens: facts.maxTokens ?? NO_MAX_TOKENS,
  };
  // Where a request names no place the upstream account's default counts, and that may be the dear one.
  const terms = { cacheWrites: true, fast: facts.fast, us: facts.geo !== "global" };
  const { webSearches, passes } = extrasOf(facts);
  let microUsd = webSearches * prices.webSearchMicroUsd;
  for (const model of [facts.model, ...passes]) microUsd += reservationMicroUsd(prices, model, tokens, at, terms);
  return microUsd;
}

/** Input tokens as the provider's own limits count them (wire notes §2.3): cache writes included, cache reads not. */
export function countedInput(usage: Usage): number {
  return usage.inputTokens + usage.cacheWrite5mTokens + usage.cacheWrite1hTokens;
}

/** What a complete answer teaches about its key's next requests. */
export function lesson(guessed: Guess, usage: Usage, microUsd: number): Learned {
  const inputTokens = countedInput(usage);
  return {
    requests: 1,
    guessedTokens: guessed.tokens,
    inputTokens,
    promptTokens: inputTokens + usage.cacheReadTokens,
    outputTokens: usage.outputTokens,
    expectedMicroUsd: guessed.microUsd,
    microUsd,
  };
}
