/**
 * Random scripts, of a seed that is always the same and of a new one. FAULT_SEED and FAULT_SCRIPTS choose both for a run
 * (and `npm run faults` plays thousands).
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { crowdedKey, playCrowd } from "../faults/crowd.ts";
import { CROWDED, startWorld, type World } from "../faults/world.ts";

const SCRIPTS = Number(process.env.FAULT_SCRIPTS ?? 250);
const SEEDS = process.env.FAULT_SEED ? [Number(process.env.FAULT_SEED)] : [7, Date.now() % 1_000_000];
const AT_ONCE = 25;

let world: World;
beforeAll(async () => {
  world = await startWorld(
    Array.from({ length: 25 }, () => 3),
    { bindings: CROWDED, keyOf: crowdedKey },
  );
});
afterAll(() => world?.stop());

describe("random faults of three upstreams, random clients", () => {
  it.each(SEEDS)(
    "keep every invariant: seed %i",
    async (seed) => {
      const summary = await playCrowd(world, { seed, calls: SCRIPTS, atOnce: AT_ONCE });
      expect(summary.wrong, JSON.stringify(summary)).toEqual([]);
      expect(summary.calls).toBe(SCRIPTS);
      // Not all of them went wrong, and some were tried again.
      expect(summary.endings.whole).toBeGreaterThan(SCRIPTS / 10);
      expect((summary.attempts[2] ?? 0) + (summary.attempts[3] ?? 0)).toBeGreaterThan(0);
    },
    180_000,
  );
});
