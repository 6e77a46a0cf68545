/** Who is asked: only who may be, the conversation's own first, and nobody who wants to be left alone. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { hasModel } from "../../src/upstream/choice.ts";
import { Pool, type Tried, type Wanted } from "../../src/upstream/pool.ts";
import type { Upstream } from "../../src/upstream/upstream.ts";

const NOW = Date.parse("2026-11-21T12:00:00Z");
/** Of an upstream whose limit is used up for a minute. */
const FULL = new Headers({
  "anthropic-ratelimit-requests-remaining": "0",
  "anthropic-ratelimit-requests-reset": new Date(NOW + 60_000).toISOString(),
});
const MODELS = ["a-1", "a-2", "b-1"];

const upstreamOf = (n: number, fields: Partial<Upstream> = {}): Upstream => ({
  id: `up_${n}`,
  base_url: "https://up.test",
  weight: 100,
  models: null,
  concurrent_requests: null,
  state: "active",
  apiKey: `key-${n}`,
  ...fields,
});
const wantedOf = (fields: Partial<Wanted> = {}): Wanted => ({
  affinity: "c",
  model: "a-1",
  bound: false,
  pinned: null,
  ...fields,
});
const fresh = (home?: string): Tried => ({ asked: new Map(), useless: new Set(), again: null, home });

const pools = fc
  .array(
    fc.record({
      weight: fc.integer({ min: 1, max: 10 }),
      models: fc.constantFrom(null, null, ["a-1"], ["a*"], ["b*"]),
      state: fc.constantFrom("active" as const, "active" as const, "draining" as const),
    }),
    { minLength: 1, maxLength: 5 },
  )
  .map((all) => all.map((fields, n) => upstreamOf(n, fields)));

type Mishap = {
  readonly of: number;
  readonly kind: "cool" | "fail" | "refuse" | "lack" | "useless" | "asked" | "full";
  readonly ms: number;
};
const mishap: fc.Arbitrary<Mishap> = fc.record({
  of: fc.nat(4),
  kind: fc.constantFrom(
    "cool" as const,
    "fail" as const,
    "refuse" as const,
    "lack" as const,
    "useless" as const,
    "asked" as const,
    "full" as const,
  ),
  ms: fc.integer({ min: 1, max: 60_000 }),
});

/** A pool to which all that has happened, and what an earlier attempt has taught. */
function poolAfter(
  upstreams: readonly Upstream[],
  mishaps: readonly Mishap[],
  model: string,
): { pool: Pool; tried: Tried } {
  const pool = new Pool();
  pool.replace(upstreams);
  const tried: Tried = fresh();
  for (const { of, kind, ms } of mishaps) {
    const upstream = upstreams[of];
    if (!upstream) continue;
    const health = pool.health(upstream.id);
    if (kind === "cool") health.coolFor(ms, model, NOW);
    else if (kind === "refuse") health.refusedFor(ms, NOW);
    else if (kind === "lack") health.lacksModel(model, NOW);
    else if (kind === "fail") for (let n = 0; n < 5; n++) health.failed(NOW);
    else if (kind === "full") health.learn(FULL, NOW);
    else if (kind === "useless") tried.useless.add(upstream.id);
    else tried.asked.set(upstream.id, 1);
  }
  return { pool, tried };
}

describe("a pick", () => {
  it("is one that serves the model, takes calls, is not useless and wants no rest", () => {
    fc.assert(
      fc.property(
        pools,
        fc.array(mishap, { maxLength: 8 }),
        fc.constantFrom(...MODELS),
        fc.string(),
        (all, mishaps, model, affinity) => {
          const { pool, tried } = poolAfter(all, mishaps, model);
          const pick = pool.pick(wantedOf({ affinity, model }), tried, NOW);
          const able = all.filter(
            ({ id, state, models }) => state === "active" && hasModel(models, model) && !tried.useless.has(id),
          );
          if (pick.kind === "none") {
            expect(able).toEqual([]);
            return;
          }
          if (pick.kind === "resting") {
            const rests = able.map(({ id }) => pool.health(id).coolingMs(model, NOW)).filter((ms) => ms > 0);
            expect(rests.length).toBeGreaterThan(0);
            expect(pick.waitMs).toBeGreaterThan(0);
            expect(rests).toContain(pick.waitMs);
            return;
          }
          expect(able).toContain(pick.upstream);
          const { id } = pick.upstream;
          const alone = pool.health(id).coolingMs(model, NOW);
          if (all.length > 1 || tried.asked.has(id)) expect(alone).toBe(0);
          // Whoever nothing stands in the way of comes before whoever something does.
          const free = able.filter((one) => pool.health(one.id).hold(model, NOW) === null);
          const having = free.filter((one) => !pool.health(one.id).lacks(model, NOW));
          if (having.length > 0) expect(having).toContain(pick.upstream);
          // And of these, whoever has not been asked.
          const unasked = having.filter((one) => !tried.asked.has(one.id));
          if (unasked.length > 0) expect(unasked).toContain(pick.upstream);
          // And of these, whoever has room.
          const roomy = unasked.filter((one) => pool.health(one.id).hasRoom(NOW));
          if (roomy.length > 0) expect(roomy).toContain(pick.upstream);
        },
      ),
      { numRuns: 1_000 },
    );
  });

  it("is the conversation's home while that works, wherever it is and whoever else comes", () => {
    fc.assert(
      fc.property(fc.integer({ min: 2, max: 6 }), fc.nat(5), fc.string(), (size, home, affinity) => {
        const pool = new Pool();
        const all = Array.from({ length: size }, (_, n) => upstreamOf(n));
        pool.replace(all);
        const id = `up_${home % size}`;
        pool.settleIn(wantedOf({ affinity }), id, undefined);
        for (const upstreams of [all, [...all, upstreamOf(90), upstreamOf(91)]]) {
          pool.replace(upstreams);
          const pick = pool.pick(wantedOf({ affinity }), fresh(pool.homeOf(wantedOf({ affinity }))), NOW);
          expect(pick.kind === "picked" && pick.upstream.id).toBe(id);
        }
      }),
    );
  });

  it("of a bound call is nowhere but at home, or with the same organization (U-18)", () => {
    fc.assert(
      fc.property(fc.array(mishap, { maxLength: 8 }), fc.nat(2), fc.boolean(), (mishaps, home, related) => {
        const all = [0, 1, 2].map((n) => upstreamOf(n));
        const { pool, tried } = poolAfter(all, mishaps, "a-1");
        pool.settleIn(wantedOf(), `up_${home}`, undefined);
        // Where home has refused the call there is no staying.
        fc.pre(!tried.useless.has(`up_${home}`));
        const other = (home + 1) % 3;
        if (related) {
          for (const n of [home, other]) {
            pool.health(`up_${n}`).learn(new Headers({ "anthropic-organization-id": "org" }), NOW);
          }
        }
        const pick = pool.pick(wantedOf({ bound: true }), { ...tried, home: `up_${home}` }, NOW);
        if (pick.kind !== "picked") return;
        expect(related ? [`up_${home}`, `up_${other}`] : [`up_${home}`]).toContain(pick.upstream.id);
      }),
      { numRuns: 500 },
    );
  });

  it("of a pinned call is that one or none", () => {
    fc.assert(
      fc.property(pools, fc.array(mishap), fc.nat(5), (all, mishaps, n) => {
        const { pool, tried } = poolAfter(all, mishaps, "a-1");
        const pick = pool.pick(wantedOf({ pinned: `up_${n}` }), tried, NOW);
        if (pick.kind === "picked") expect(pick.upstream.id).toBe(`up_${n}`);
        if (!all.some(({ id }) => id === `up_${n}`)) expect(pick.kind).toBe("none");
      }),
    );
  });
});

describe("homes", () => {
  it("are told once, and again where they could not be", () => {
    const pool = new Pool();
    pool.replace([upstreamOf(0), upstreamOf(1)]);
    pool.settleIn(wantedOf({ affinity: "x" }), "up_0", pool.homeOf(wantedOf({ affinity: "x" })));
    pool.settleIn(wantedOf({ affinity: "x" }), "up_0", pool.homeOf(wantedOf({ affinity: "x" })));
    pool.settleIn(wantedOf({ affinity: "y" }), "up_1", pool.homeOf(wantedOf({ affinity: "y" })));
    const told = pool.takeNewHomes(10);
    expect(told.map(([, id]) => id)).toEqual(["up_0", "up_1"]);
    expect(told.join()).not.toMatch(/[xy],/);
    expect(pool.takeNewHomes(10)).toEqual([]);
    pool.returnNewHomes(told);
    expect(pool.takeNewHomes(10)).toEqual(told);
  });

  it("are none where there is but one upstream", () => {
    const pool = new Pool();
    pool.replace([upstreamOf(0)]);
    expect(pool.settleIn(wantedOf({ affinity: "x" }), "up_0", pool.homeOf(wantedOf({ affinity: "x" })))).toBe(false);
    expect(pool.takeNewHomes(10)).toEqual([]);
  });
});
