/** A call's way through the pool, against the table in docs/upstreams.md: whole histories in a simulated world. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ranked } from "../../src/upstream/choice.ts";
import { MAX_COOLING_MS, OPEN_AFTER, OPEN_MS } from "../../src/upstream/health.ts";
import type { Wanted } from "../../src/upstream/pool.ts";
import { MAX_LATE_ATTEMPTS, MAX_RETRY_WAIT_MS } from "../../src/upstream/retry.ts";
import { START } from "../ledger/simulation.ts";
import {
  type Act,
  type Attempt,
  type Call,
  type CallPlan,
  fine,
  type Isolate,
  says,
  TIMEOUTS,
  World,
} from "./world.ts";

const RUNS = 2_000;
const HOUR_MS = 3_600_000;

const wanted = (affinity: string, more: Partial<Wanted> = {}): Wanted => ({
  affinity,
  model: "claude-a",
  bound: false,
  pinned: null,
  ...more,
});

const plan = (more: Partial<CallPlan> = {}): CallPlan => ({
  wanted: wanted("c"),
  stream: true,
  leavesAfterMs: null,
  maxAttempts: 3,
  ...more,
});

const statusOf = (act: Act): number => {
  switch (act.kind) {
    case "answer":
      return act.status;
    case "error first":
      return (
        { overloaded_error: 529, rate_limit_error: 429, api_error: 500, authentication_error: 401 }[act.type] ?? 500
      );
    case "hang":
      return 504;
    default:
      return 502;
  }
};

/** What an answer asks for, by the table: numbers, a date, or nonsense. */
function askedPauseMs({ act, endedAt }: Attempt): number {
  if (act.kind === "error first" && act.type === "rate_limit_error") return 1_000;
  if (act.kind !== "answer") return 0;
  const usual = act.status === 429 ? 1_000 : 0;
  const exact = Number(act.headers["retry-after-ms"] ?? Number.NaN);
  const said = act.headers["retry-after"];
  const seconds = Number(said ?? Number.NaN) * 1_000;
  const date = said !== undefined && /[A-Z]/.test(said) ? Date.parse(said) - (endedAt ?? 0) : Number.NaN;
  const ms = [exact, seconds, date].find((one) => !Number.isNaN(one)) ?? usual;
  return ms > 0 ? Math.min(ms, MAX_COOLING_MS) : usual;
}

const retryAfters = fc.constantFrom<Record<string, string>>(
  {},
  { "retry-after": "2" },
  { "retry-after": "0.5" },
  { "retry-after": "30" },
  { "retry-after": "99999999" },
  { "retry-after": "-1" },
  { "retry-after": "abc" },
  { "retry-after-ms": "150" },
  { "retry-after-ms": "1500", "retry-after": "9" },
  { "retry-after": new Date(START + 4_000).toUTCString() },
  { "retry-after": new Date(START - 4_000).toUTCString() },
);
const delays = fc.constantFrom(1, 5, 40, 700, 3_000);
const faults: fc.Arbitrary<Act> = fc.oneof(
  fc
    .record({
      status: fc.constantFrom(429, 429, 500, 502, 529, 401, 403, 402, 404, 408, 409, 400, 413),
      headers: retryAfters,
      retry: fc.constantFrom(null, null, null, "true", "false"),
      ms: delays,
    })
    .map(({ status, headers, retry, ms }) =>
      says(status, retry === null ? headers : { ...headers, "x-should-retry": retry }, ms),
    ),
  fc.record({
    kind: fc.constant("error first" as const),
    type: fc.constantFrom("overloaded_error", "rate_limit_error", "api_error"),
    ms: delays,
  }),
  fc.record({ kind: fc.constantFrom("reset" as const, "cut" as const), ms: delays }),
  fc.record({ kind: fc.constant("hang" as const), alive: fc.boolean() }),
);
const acts = fc
  .record({
    many: fc.array(fc.oneof(faults, delays.map(fine)), { maxLength: 12 }),
    last: fc.oneof({ weight: 3, arbitrary: delays.map(fine) }, { weight: 1, arbitrary: faults }),
  })
  .map(({ many, last }) => [...many, last]);
const scripts = fc.array(
  fc.record({
    acts,
    organization: fc.constantFrom("org 1", "org 2", "org 3"),
    slots: fc.constantFrom(1, 2, 100, 100),
  }),
  { minLength: 1, maxLength: 4 },
);
const calls = fc.array(
  fc.record({
    gapMs: fc.constantFrom(0, 0, 3, 50, 900, 4_000),
    isolate: fc.nat(1),
    conversation: fc.nat(3),
    bound: fc.boolean(),
    pinned: fc.option(fc.nat(3), { freq: 8 }),
    model: fc.constantFrom("claude-a", "claude-a", "claude-b", null),
    stream: fc.boolean(),
    leavesAfterMs: fc.option(fc.constantFrom(0, 1, 7, 60, 1_500, 5_000), { freq: 5 }),
    maxAttempts: fc.integer({ min: 1, max: 5 }),
  }),
  { minLength: 1, maxLength: 12 },
);
const histories = fc.record({
  scripts,
  calls,
  seed: fc.nat(),
  /** Before this call: the pool changes, or a clock steps. */
  change: fc.option(fc.record({ at: fc.nat(11), what: fc.constantFrom("remove", "new key"), which: fc.nat(3) })),
  step: fc.option(fc.record({ at: fc.nat(11), isolate: fc.nat(1), ms: fc.constantFrom(-HOUR_MS, HOUR_MS) }), {
    freq: 4,
  }),
});

type History = typeof histories extends fc.Arbitrary<infer T> ? T : never;

/** Lives a history through, checking every attempt when it is made and every call when it is over. */
async function live(history: History): Promise<void> {
  const world = new World(history.scripts, 2, history.seed);
  const { change, step } = history;
  const ids = [...world.scripts.keys()];
  const removed = new Set<string>();
  world.onAttempt = (attempt) => checkAttempt(attempt, world, removed, step !== null);
  await world.live(async () => {
    for (const [i, one] of history.calls.entries()) {
      await world.pass(one.gapMs);
      const changed = change && change.at === i ? ids[change.which % ids.length] : undefined;
      if (change && changed !== undefined) {
        if (change.what === "remove") removed.add(changed);
        for (const isolate of world.isolates) {
          if (change.what === "remove") isolate.know(ids.filter((id) => id !== changed));
          else isolate.know(ids, { [changed]: "a new key" });
        }
      }
      if (step && step.at === i) (world.isolates[step.isolate] as World["isolates"][0]).offset += step.ms;
      const pinned = one.pinned === null ? null : `up_${one.pinned}`;
      world.isolates[one.isolate]?.call({
        ...one,
        wanted: wanted(`c ${one.conversation}`, { bound: one.bound, pinned, model: one.model }),
      });
    }
    await world.pass(10 * 60_000);
  });
  for (const isolate of world.isolates) for (const call of isolate.calls) checkCall(call, step !== null);
  // Every slot is given up, in whatever way its call has ended.
  expect(world.held).toBe(0);
  expect(world.bugs).toEqual([]);
}

function checkAttempt(attempt: Attempt, world: World, removed: ReadonlySet<string>, stepped: boolean): void {
  const { call, upstream, at } = attempt;
  const { isolate, plan, stop, home } = call;
  expect(stop.over, "an attempt after the client has left").toBe(false);
  const { pinned, bound, model } = plan.wanted;
  if (pinned !== null) expect(upstream).toBe(pinned);
  const before = call.attempts.slice(0, -1);
  if (bound && pinned === null) {
    const first = home ?? call.attempts[0]?.upstream ?? upstream;
    const refuses = (id: string): boolean => before.some((one) => one.upstream === id && refused(one));
    const organization = (id: string): string | undefined => world.scripts.get(id)?.organization;
    if (!removed.has(first) && !refuses(first)) expect(organization(upstream)).toBe(organization(first));
  }
  if (stepped) return;
  // It is left alone for as long as it has asked, by all calls of the isolate, unless it is the only one.
  const only = isolate.pool.upstreams.length === 1 && before.length === 0;
  for (const { call: other, act, endedAt, upstream: asked, ...rest } of world.attempts) {
    if (only || asked !== upstream || endedAt === null || other.isolate !== isolate) continue;
    if (statusOf(act) !== 429 || rest.aborted || rest.apiKey !== attempt.apiKey) continue;
    const about = other.plan.wanted.model;
    if (about !== null && about !== model) continue;
    expect(at).toBeGreaterThanOrEqual(endedAt + askedPauseMs({ call: other, act, endedAt, upstream: asked, ...rest }));
  }
}

const refused = ({ act }: Attempt): boolean => [401, 403].includes(statusOf(act));

function checkCall(call: Call, stepped: boolean): void {
  const { plan, attempts, outcome, begunAt, endedAt, stop } = call;
  if (!outcome) throw new Error("a call has no end");
  expect(outcome.attempts).toBe(attempts.length);
  expect(attempts.length).toBeLessThanOrEqual(plan.maxAttempts);
  const late = attempts.filter(({ aborted }) => aborted).length;
  expect(late).toBeLessThanOrEqual(stop.over ? MAX_LATE_ATTEMPTS + 1 : MAX_LATE_ATTEMPTS);
  // The total limit, and as much again as a step of the clock can hide.
  expect(endedAt - begunAt).toBeLessThanOrEqual(TIMEOUTS.totalMs * (stepped ? 3 : 1) + 100);
  for (const [i, attempt] of attempts.entries()) {
    const next = attempts[i + 1];
    if (!next) continue;
    expect(attempt.endedAt).not.toBeNull();
    if (attempt.act.kind !== "answer") continue;
    expect(attempt.act.headers["x-should-retry"]).not.toBe("false");
    expect([400, 413].includes(attempt.act.status) && attempt.act.headers["x-should-retry"] !== "true").toBe(false);
    const pauseMs = askedPauseMs(attempt);
    if (stepped || next.upstream !== attempt.upstream || next.apiKey !== attempt.apiKey) continue;
    expect(next.at - (attempt.endedAt ?? 0)).toBeGreaterThanOrEqual(Math.min(MAX_RETRY_WAIT_MS, pauseMs));
  }
  checkTold(call);
}

/** The caller hears a 400 or 413 of its own, else of several failures the last 429, else that we were refused, else the last one. */
function checkTold({ attempts, outcome, stop }: Call): void {
  const last = attempts.at(-1);
  if (!outcome || !last || stop.over) return;
  const { result, headers } = outcome;
  // What an upstream would have said in the end, had it been given the time, was never heard.
  const statuses = attempts.map(({ act, aborted }) => (aborted ? 504 : statusOf(act)));
  if (statuses.at(-1) === 200 && !last.aborted && ["answer"].includes(last.act.kind)) {
    expect(result.ok && result.value.response.status).toBe(200);
    return;
  }
  const told = result.ok ? result.value.response.status : result.error.kind;
  // That slots were taken counts as a failure, and may come last.
  if (told === "upstream_full") return;
  if (result.ok && [400, 413].includes(Number(told))) {
    expect(told).toBe(statuses.at(-1));
    return;
  }
  if (statuses.includes(429)) {
    expect([429, "upstream_error_event"]).toContain(told);
    expect(Number(headers["retry-after"])).toBeGreaterThanOrEqual(1);
    expect(Number(headers["retry-after"])).toBeLessThanOrEqual(MAX_COOLING_MS / 1_000);
  } else if (statuses.some((status) => status === 401 || status === 403)) expect(told).toBe("upstream_refused");
  else if (result.ok) {
    expect(told).toBe(statuses.at(-1));
    const said = result.value.response.headers.get("x-should-retry");
    if (Number(told) >= 500 && attempts.length > 1 && said === null) expect(headers["x-should-retry"]).toBe("false");
  } else if (attempts.length > 1 && told !== "upstream_timeout") expect(headers["x-should-retry"]).toBe("false");
}

describe("a call through the pool", () => {
  it(`F-01 F-02 F-03 F-05 F-06 F-10 F-26 F-29 keeps to the table in every history (${RUNS} runs)`, async () => {
    await fc.assert(fc.asyncProperty(histories, live), { numRuns: RUNS });
  }, 120_000);

  it(`a conversation that has moved stays while its new home works (${RUNS} runs)`, async () => {
    const healing = fc.record({
      sick: fc.array(fc.oneof(faults, delays.map(fine)), { maxLength: 6 }),
      slow: delays,
    });
    const worlds = fc.record({
      upstreams: fc.array(healing, { minLength: 2, maxLength: 4 }),
      gaps: fc.array(fc.constantFrom(0, 0, 5, 100, 2_000, 61_000), { minLength: 1, maxLength: 25 }),
      seed: fc.nat(),
    });
    await fc.assert(
      fc.asyncProperty(worlds, async ({ upstreams, gaps, seed }) => {
        const world = new World(
          upstreams.map(({ sick, slow }) => ({ acts: [...sick, fine(slow)], organization: "o", slots: 100 })),
          1,
          seed,
        );
        const [isolate] = world.isolates;
        if (!isolate) return;
        let home: string | undefined;
        const look = (): void => {
          const now = isolate.pool.homeOf(wanted("c"));
          const left = home;
          home = now;
          if (left === undefined || now === left) return;
          // It moved only because its home has failed a call of late.
          const failures = world.attempts.filter(
            ({ upstream, act, aborted, endedAt }) =>
              upstream === left && endedAt !== null && (aborted || statusOf(act) !== 200 || act.kind !== "answer"),
          );
          expect(failures.some(({ endedAt }) => world.at - (endedAt ?? 0) <= 130_000)).toBe(true);
        };
        await world.live(async () => {
          for (const gap of gaps) {
            for (let passed = 0; passed < gap; passed += Math.min(gap, 500)) {
              await world.pass(Math.min(gap, 500));
              look();
            }
            isolate.call(plan());
          }
          for (let i = 0; i < 60; i++) {
            await world.pass(1_000);
            look();
          }
        });
        expect(world.bugs).toEqual([]);
      }),
      { numRuns: RUNS },
    );
  }, 120_000);

  it(`F-30 every overload of 100 requests or more is answered with at most 1.2 attempts for each (200 runs)`, async () => {
    const overloads = fc.record({
      upstreams: fc.integer({ min: 1, max: 3 }),
      requests: fc.integer({ min: 100, max: 300 }),
      everyMs: fc.constantFrom(0, 5, 100, 500, 2_000),
      act: fc.constantFrom<Act>(says(529), says(500), { kind: "reset", ms: 1 }, { kind: "cut", ms: 5 }),
      seed: fc.nat(),
    });
    await fc.assert(
      fc.asyncProperty(overloads, async ({ upstreams, requests, everyMs, act, seed }) => {
        const script = { acts: [act], organization: "o", slots: 1_000 };
        const world = new World(
          Array.from({ length: upstreams }, () => script),
          1,
          seed,
        );
        await world.live(async () => {
          for (let i = 0; i < requests; i++) {
            world.isolates[0]?.call(plan({ wanted: wanted(`c ${i % 7}`) }));
            await world.pass(everyMs);
          }
          await world.pass(60_000);
        });
        expect(world.attempts.length).toBeLessThanOrEqual(1.2 * requests);
      }),
      { numRuns: 200 },
    );
  }, 120_000);

  it("a call that was sent before its conversation moved does not move it back", async () => {
    const world = new World([
      { acts: [fine(3_000), says(429), fine()], organization: "o", slots: 9 },
      { acts: [fine()], organization: "o", slots: 9 },
    ]);
    const [isolate] = world.isolates;
    const first = affinityOf("up_0");
    await world.live(async () => {
      liveAt(isolate, wanted(first), "up_0");
      isolate?.call(plan({ wanted: wanted(first) }));
      await world.pass(50);
      isolate?.call(plan({ wanted: wanted(first) }));
      await world.pass(200);
      expect(isolate?.pool.homeOf(wanted(first))).toBe("up_1");
      await world.pass(10_000);
    });
    expect(isolate?.pool.homeOf(wanted(first))).toBe("up_1");
  });

  it("a bound call stays with the home it came to, wherever its conversation is moved meanwhile", async () => {
    const world = new World([
      { acts: [says(500), says(500), fine()], organization: "org 1", slots: 9 },
      { acts: [fine()], organization: "org 2", slots: 9 },
    ]);
    const [isolate] = world.isolates;
    await world.live(async () => {
      liveAt(isolate, wanted("c"), "up_0");
      const bound = isolate?.call(plan({ wanted: wanted("c", { bound: true }) }));
      await world.pass(8);
      liveAt(isolate, wanted("c"), "up_1");
      await world.pass(10_000);
      expect(bound?.attempts.map(({ upstream }) => upstream)).toEqual(["up_0", "up_0", "up_0"]);
    });
  });

  it("the end of an attempt's sign of life does not end the attempt after it", async () => {
    const world = new World([{ acts: [{ kind: "reset", ms: 2_500 }, fine(3_000)], organization: "o", slots: 9 }]);
    world.deaf = true;
    await world.live(async () => {
      const call = world.isolates[0]?.call(plan());
      await world.pass(60_000);
      expect(call?.attempts.map(({ aborted }) => aborted)).toEqual([false, false]);
      expect(call?.outcome?.result.ok).toBe(true);
    });
  });

  it("a late answer is told by the limit that was set, however little of it an attempt had left", async () => {
    const world = new World([
      { acts: [says(500, {}, 4_000), { kind: "hang", alive: true }], organization: "o", slots: 9 },
    ]);
    await world.live(async () => {
      const call = world.isolates[0]?.call(plan({ stream: false }));
      await world.pass(60_000);
      expect(call?.attempts.length).toBe(2);
      expect((call?.endedAt ?? 0) - (call?.begunAt ?? 0)).toBe(TIMEOUTS.totalMs);
      expect(call?.outcome?.result).toEqual({
        ok: false,
        error: { kind: "upstream_timeout", phase: "total", limitMs: TIMEOUTS.totalMs },
      });
    });
  });

  it.each([
    ["they are drained", "draining", null, null],
    ["their lists lack it", "active", ["claude-b"], "claude-a"],
    ["both", "draining", ["claude-b*"], "claude-a"],
  ] as const)("a model that no upstream may be asked for, since %s", async (_, state, models, model) => {
    for (const count of [1, 2]) {
      const world = new World(Array(count).fill({ acts: [fine()], organization: "o", slots: 9 }));
      const [isolate] = world.isolates;
      isolate?.pool.replace(isolate.pool.upstreams.map((upstream) => ({ ...upstream, state, models })));
      await world.live(async () => {
        const call = isolate?.call(plan());
        await world.pass(10);
        expect(call?.attempts).toEqual([]);
        expect(call?.outcome?.result).toEqual({ ok: false, error: { kind: "no_upstream", model } });
      });
    }
  });

  it("one call at a time tries an upstream whose breaker was open", async () => {
    const broken: Act[] = Array.from({ length: OPEN_AFTER }, () => says(500));
    const world = new World([
      { acts: [...broken, fine(500)], organization: "o", slots: 99 },
      { acts: [fine()], organization: "o", slots: 99 },
    ]);
    const [isolate] = world.isolates;
    await world.live(async () => {
      for (let i = 0; i < OPEN_AFTER; i++) isolate?.pool.health("up_0").failed(world.at);
      world.asked.set("up_0", OPEN_AFTER);
      await world.pass(OPEN_MS);
      for (let i = 0; i < 50; i++) isolate?.call(plan({ wanted: wanted(affinityOf("up_0", i)) }));
      await world.pass(400);
      expect(world.attempts.filter(({ upstream }) => upstream === "up_0").length).toBe(1);
      await world.pass(1_000);
      // Its success lets all of them back.
      expect(isolate?.pool.health("up_0").breaker(world.at)).toBe("closed");
    });
  });

  it("an upstream whose slots are taken costs no retry", async () => {
    const world = new World([
      { acts: [fine()], organization: "o", slots: 0 },
      { acts: [fine()], organization: "o", slots: 99 },
    ]);
    const [isolate] = world.isolates;
    await world.live(async () => {
      for (let i = 0; i < 30; i++) isolate?.call(plan({ wanted: wanted(affinityOf("up_0", i)) }));
      await world.pass(1_000);
    });
    expect(isolate?.calls.map(({ outcome }) => outcome?.result.ok)).toEqual(Array(30).fill(true));
  });
});

function liveAt(isolate: Isolate | undefined, what: Wanted, upstream: string): void {
  if (isolate) isolate.pool.learnHomes(isolate.pool.homeNames(what), [upstream]);
}

/** What a hash sends to this one of two upstreams. */
function affinityOf(upstream: string, nth = 0): string {
  const two = [0, 1].map((i) => ({ id: `up_${i}`, weight: 100 }));
  for (let i = nth * 100; ; i++) if (ranked(`a ${i}`, two)[0]?.id === upstream) return `a ${i}`;
}
