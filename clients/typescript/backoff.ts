/** When to try again: pure, chance is passed in. */

export type Backoff = {
  /** The longest first wait, ms; it doubles with each attempt. */
  readonly baseMs: number;
  /** No wait is longer. */
  readonly capMs: number;
  /** No wait is shorter. */
  readonly floorMs: number;
};

/** After a lost line. Full jitter: a thousand clients of one gateway that restarts do not come back in one moment. */
export const AFTER_A_DROP: Backoff = { baseMs: 500, capMs: 30_000, floorMs: 0 };
/** After 4429: whoever was told that it asks too much waits in earnest. */
export const AFTER_A_LIMIT: Backoff = { baseMs: 20_000, capMs: 300_000, floorMs: 10_000 };

/** How long to wait before attempt `attempt` (from 0), ms. `random` gives numbers from 0 to below 1. */
export function waitMs(attempt: number, random: () => number, { baseMs, capMs, floorMs }: Backoff): number {
  // 2^30 of any base is beyond every cap; a larger exponent would only lose precision.
  const ceiling = Math.min(capMs, baseMs * 2 ** Math.min(attempt, 30));
  return Math.round(floorMs + random() * Math.max(0, ceiling - floorMs));
}
