/** Which upstream is asked, and what is known of each. */
import { describe, expect, it } from "vitest";
import { fnv1a } from "../../src/digest.ts";
import { Health, MAX_COOLING_MS, OPEN_AFTER, OPEN_MS, REFUSED_MS } from "../../src/upstream/health.ts";
import { Pool, type Tried, type Wanted } from "../../src/upstream/pool.ts";
import { judge } from "../../src/upstream/retry.ts";
import type { Upstream } from "../../src/upstream/upstream.ts";

const HOUR_MS = 3_600_000;
const up = (id: string, more: Partial<Upstream> = {}): Upstream => ({
  id,
  base_url: `https://${id}.test`,
  weight: 100,
  models: null,
  concurrent_requests: null,
  state: "active",
  apiKey: `key of ${id}`,
  ...more,
});
const wanted = (more: Partial<Wanted> = {}): Wanted => ({
  affinity: "c",
  model: "claude-a",
  bound: false,
  pinned: null,
  ...more,
});
const tried = (home?: string): Tried => ({ asked: new Map(), useless: new Set(), again: null, home });
const pickIn = (pool: Pool, what: Wanted, before = tried(pool.homeOf(what))): string => {
  const pick = pool.pick(what, before, 0);
  return pick.kind === "picked" ? pick.upstream.id : pick.kind;
};

describe("the pool", () => {
  it("knows conversations apart whose names have the same hash of 32 bits", () => {
    const pool = new Pool();
    const seen = new Map<number, string>();
    let twins = 0;
    for (let n = 0; n < 300_000; n++) {
      const affinity = (Math.imul(n, 0x9e3779b1) >>> 0).toString(36) + (n * n).toString(36);
      const hash = fnv1a(affinity);
      const twin = seen.get(hash);
      seen.set(hash, affinity);
      if (twin === undefined) continue;
      twins++;
      expect(pool.homeNames(wanted({ affinity }))).not.toEqual(pool.homeNames(wanted({ affinity: twin })));
    }
    expect(twins).toBeGreaterThan(0);
  });

  it("knows nothing of an upstream that has a new key or address, and all of one that was otherwise changed", () => {
    const pool = new Pool();
    pool.replace([up("up_a"), up("up_b")]);
    for (const id of ["up_a", "up_b"]) {
      pool.health(id).refusedFor(REFUSED_MS, 0);
      pool.health(id).coolFor(5_000, null, 0);
    }
    pool.replace([up("up_a", { apiKey: "new" }), up("up_b", { weight: 7 })]);
    expect(pool.health("up_a").hold(null, 1)).toBeNull();
    expect(pool.health("up_b").hold(null, 1)).toBe("refused");
    pool.replace([up("up_a", { apiKey: "new" }), up("up_b", { base_url: "https://elsewhere.test" })]);
    expect(pool.health("up_b").hold(null, 1)).toBeNull();
  });

  it("the last upstream, while it drains, takes what can go nowhere else and nothing new", () => {
    const pool = new Pool();
    pool.replace([up("up_a", { state: "draining" })]);
    expect(pickIn(pool, wanted({ bound: true }))).toBe("up_a");
    expect(pickIn(pool, wanted({ pinned: "up_a" }))).toBe("up_a");
    expect(pickIn(pool, wanted())).toBe("none");
  });

  it("an only upstream is asked though it cools, but not again by the same call", () => {
    const pool = new Pool();
    pool.replace([up("up_a", { models: ["claude-a"] })]);
    pool.health("up_a").coolFor(5_000, null, 0);
    expect(pickIn(pool, wanted())).toBe("up_a");
    expect(pickIn(pool, wanted(), { ...tried(), asked: new Map([["up_a", 1]]) })).toBe("resting");
    expect(pickIn(pool, wanted(), { ...tried(), useless: new Set(["up_a"]) })).toBe("none");
    expect(pickIn(pool, wanted({ model: "claude-b" }))).toBe("none");
    expect(pickIn(pool, wanted({ pinned: "up_b" }))).toBe("none");
  });

  it("a conversation has a home for each model that its own home does not serve, and none moves another", () => {
    const pool = new Pool();
    pool.replace([up("up_a"), up("up_b"), up("up_c", { models: ["claude-b"] })]);
    const [a, b] = [wanted(), wanted({ model: "claude-b" })];
    for (const first of ["up_a", "up_b"]) {
      pool.settleIn(a, first, pool.homeOf(a));
      pool.settleIn(b, "up_c", pool.homeOf(b));
      expect([first, pickIn(pool, a), pickIn(pool, b)]).toEqual([first, first, "up_c"]);
    }
    pool.settleIn(b, "up_b", pool.homeOf(b));
    expect([pickIn(pool, a), pickIn(pool, b)]).toEqual(["up_b", "up_b"]);
  });

  it("a conversation goes where another isolate has moved it, unless this one has moved it since", () => {
    const pool = new Pool();
    pool.replace([up("up_a"), up("up_b")]);
    const [name = ""] = pool.homeNames(wanted());
    pool.settleIn(wanted(), "up_a", undefined);
    pool.hearMoved([[name, "up_b"]]);
    expect(pool.homeOf(wanted())).toBe("up_a");
    pool.takeNewHomes(10);
    pool.hearMoved([[name, "up_b"]]);
    expect(pool.homeOf(wanted())).toBe("up_b");
  });

  it("a conversation stays where it is when an upstream is stored that serves other models", () => {
    const pool = new Pool();
    pool.replace([up("up_a"), up("up_b")]);
    for (const home of ["up_a", "up_b"]) {
      const what = wanted({ affinity: home });
      pool.settleIn(what, home, undefined);
      pool.replace([up("up_a"), up("up_b"), up("up_c", { models: ["claude-b"] })]);
      expect(pickIn(pool, what)).toBe(home);
      pool.replace([up("up_a"), up("up_b")]);
    }
  });
});

describe("what is known of an upstream", () => {
  it.each([-HOUR_MS, HOUR_MS])(
    "a clock that steps by %d ms shuts it out for no longer than its longest span",
    (step) => {
      const health = new Health();
      health.coolFor(HOUR_MS, null, 0);
      health.refusedFor(HOUR_MS, 0);
      for (let i = 0; i < OPEN_AFTER; i++) health.failed(0);
      health.lacksModel("claude-a", 0);
      health.learn(
        new Headers({
          "anthropic-ratelimit-requests-remaining": "0",
          "anthropic-ratelimit-requests-reset": "2099-01-01",
        }),
        0,
      );
      const end = step + MAX_COOLING_MS;
      expect(health.hold("claude-a", end)).toBeNull();
      expect(health.lacks("claude-a", end)).toBe(false);
      expect(health.hasRoom(end)).toBe(true);
      // And a pause from before the step does not lengthen one from after it.
      health.coolFor(1_000, null, end);
      expect(health.coolingMs(null, end + 1_000)).toBe(0);
    },
  );

  it("a pause is not made shorter by an answer that names none", () => {
    const health = new Health();
    health.coolFor(30_000, "claude-a", 0);
    health.coolFor(1_000, "claude-a", 100);
    expect(health.coolingMs("claude-a", 100)).toBe(29_900);
  });

  it("a probe's place is given up by the probe alone", () => {
    const health = new Health();
    for (let i = 0; i < OPEN_AFTER; i++) health.failed(0);
    const probe = health.begin(OPEN_MS);
    health.end(health.begin(OPEN_MS + 1));
    expect(health.hold(null, OPEN_MS + 2)).toBe("open");
    health.end(probe);
    expect(health.hold(null, OPEN_MS + 3)).toBeNull();
  });
});

describe("x-should-retry", () => {
  it.each([400, 401, 402, 403, 404, 408, 409, 413, 422, 500, 529])("F-06 is obeyed both ways on a %d", (status) => {
    const told = (word: string) =>
      judge({ kind: "answer", status, headers: new Headers({ "x-should-retry": word, "retry-after": "2" }) }, 0);
    expect(told("false").retry).toBe("no");
    expect(told("true")).toMatchObject({ retry: "again", backoff: true, coolMs: 2_000 });
  });
});
