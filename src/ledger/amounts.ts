/**
 * What a request takes of an account (a key's or a workspace's), in whole units: the ledger lends such amounts, isolates
 * spend them, and reports give account of them.
 */
export type Amounts = {
  readonly requests: number;
  readonly inputTokens: number;
  readonly outputTokens: number;
  readonly microUsd: number;
  /** Requests running at the same moment. */
  readonly slots: number;
};

export const NOTHING: Amounts = { requests: 0, inputTokens: 0, outputTokens: 0, microUsd: 0, slots: 0 };

/**
 * No single amount is believed to be larger: ten million dollars in µUSD, the largest budget there is. So the sums of all
 * that a key can have out stay far below 2^53, and exact.
 */
export const MAX_AMOUNT = 10_000_000_000_000;

/** One amount made from two, resource by resource. */
function combine(a: Amounts, b: Amounts, of: (x: number, y: number) => number): Amounts {
  return {
    requests: of(a.requests, b.requests),
    inputTokens: of(a.inputTokens, b.inputTokens),
    outputTokens: of(a.outputTokens, b.outputTokens),
    microUsd: of(a.microUsd, b.microUsd),
    slots: of(a.slots, b.slots),
  };
}

const plus = (x: number, y: number): number => x + y;
const minus = (x: number, y: number): number => x - y;

export const add = (a: Amounts, b: Amounts): Amounts => combine(a, b, plus);
export const subtract = (a: Amounts, b: Amounts): Amounts => combine(a, b, minus);
export const least = (a: Amounts, b: Amounts): Amounts => combine(a, b, Math.min);

export const covers = (held: Amounts, needed: Amounts): boolean =>
  held.requests >= needed.requests &&
  held.inputTokens >= needed.inputTokens &&
  held.outputTokens >= needed.outputTokens &&
  held.microUsd >= needed.microUsd &&
  held.slots >= needed.slots;

export const isNothing = (a: Amounts): boolean =>
  a.requests === 0 && a.inputTokens === 0 && a.outputTokens === 0 && a.microUsd === 0 && a.slots === 0;
