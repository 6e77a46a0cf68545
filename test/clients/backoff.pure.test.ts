import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { AFTER_A_DROP, AFTER_A_LIMIT, waitMs } from "../../clients/typescript/backoff.ts";

const chance = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });

describe("waiting before the next attempt", () => {
  it.each([AFTER_A_DROP, AFTER_A_LIMIT])("stays between floor and ceiling, at any attempt", (backoff) => {
    fc.assert(
      fc.property(fc.nat(), chance, (attempt, random) => {
        const wait = waitMs(attempt, () => random, backoff);
        expect(wait).toBeGreaterThanOrEqual(backoff.floorMs);
        expect(wait).toBeLessThanOrEqual(Math.min(backoff.capMs, backoff.baseMs * 2 ** attempt));
      }),
    );
  });

  it("uses the whole of it: full jitter", () => {
    expect(waitMs(3, () => 0, AFTER_A_DROP)).toBe(0);
    expect(waitMs(3, () => 0.5, AFTER_A_DROP)).toBe(2_000);
    expect(waitMs(40, () => 0.999999, AFTER_A_DROP)).toBe(30_000);
  });

  it("spreads a thousand clients that lost their gateway for a minute over the time after it", () => {
    const random = chanceOf(7);
    const [clients, goneMs] = [1_000, 60_000];
    const attempts = new Map<number, number>();
    let last = 0;
    for (let client = 0; client < clients; client++) {
      let at = 0;
      for (let attempt = 0; at < goneMs; attempt++) {
        at += waitMs(attempt, random, AFTER_A_DROP);
        const second = Math.floor(at / 1_000);
        attempts.set(second, (attempts.get(second) ?? 0) + 1);
      }
      last = Math.max(last, at);
    }
    const busiest = Math.max(...[...attempts].map(([second, count]) => (second * 1_000 >= goneMs ? count : 0)));
    expect(busiest).toBeLessThan(clients / 10);
    expect(last).toBeLessThanOrEqual(goneMs + AFTER_A_DROP.capMs);
  });
});

/** mulberry32. */
function chanceOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
