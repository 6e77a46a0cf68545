/** The ledger's invariants L1 to L4 and L6, in a simulated world of isolates, delays, losses, deaths and clock steps. */
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { Rules } from "../../src/identity/key-record.ts";
import { type Amounts, NOTHING } from "../../src/ledger/amounts.ts";
import { LEASE_MS } from "../../src/ledger/protocol.ts";
import { Isolate, keyPolicy, randomFrom, SimulatedLedger, Time } from "./simulation.ts";
import { type Done, live, worlds } from "./world.ts";

const RUNS = 150;

const limited = (limits: Rules["limits"]): Rules => ({ id: "key_1", version: 1, limits, budget: null });

/** No window may hold more than the capacity and what flows back in it: checked for every pair of admissions. */
function expectWithin(done: readonly Done[], of: (one: Done) => number, capacity: number, perMinute: number): void {
  const sorted = done.toSorted((a, b) => a.at - b.at);
  // The largest excess over the refill since any earlier admission, carried along in one pass.
  let level = 0;
  let last = Number.NEGATIVE_INFINITY;
  for (const one of sorted) {
    level = Math.max(0, level - ((one.at - last) * perMinute) / 60_000) + of(one);
    last = one.at;
    expect(level).toBeLessThanOrEqual(capacity + 1e-6);
  }
}

// Isolates that died go on telling their log that nobody hears them.
vi.setConfig({ testTimeout: 60_000 });
beforeEach(() => void vi.spyOn(console, "error").mockImplementation(() => {}));
afterEach(() => void vi.restoreAllMocks());

const small = fc.integer({ min: 1, max: 300 });

describe("L1 no bucket admits more than its capacity and what flowed back, in any window", () => {
  const rules = fc.record({ a: small, b: small, c: small, d: small }).map(({ a, b, c, d }) =>
    limited({
      requests_per_minute: a,
      requests_burst: b,
      input_tokens_per_minute: 40 + c,
      input_tokens_burst: 40 + d,
    }),
  );
  for (const [name, trouble] of [
    ["a network that delays", {}],
    ["calls and answers that get lost or come twice", { lose: 0.1, repeat: 0.2 }],
    ["isolates that die and ledgers that restart", { deaths: 0.1, restarts: 0.2, lose: 0.05, repeat: 0.1 }],
    ["calls that go on in other isolates", { handOvers: 0.5, deaths: 0.05, lose: 0.05, repeat: 0.1 }],
    ["isolates whose clocks step by up to an hour", { isolateSteps: 0.3, lose: 0.05, repeat: 0.1 }],
  ] as const) {
    it(`requests and input tokens, of a key and of its workspace, with ${name} (${RUNS} runs)`, async () => {
      await fc.assert(
        fc.asyncProperty(worlds(rules, trouble), async (world) => {
          const { admitted } = await live(world, () => {});
          for (const { limits } of [world.key, world.workspace]) {
            expectWithin(admitted, () => 1, limits.requests_burst ?? 0, limits.requests_per_minute ?? 0);
            expectWithin(
              admitted,
              (done) => done.used.inputTokens,
              limits.input_tokens_burst ?? 0,
              limits.input_tokens_per_minute ?? 0,
            );
          }
        }),
        { numRuns: RUNS },
      );
    });
  }

  it(`with clocks that step by seconds, no more than the time they showed (${RUNS} runs)`, async () => {
    await fc.assert(
      fc.asyncProperty(worlds(rules, { clockSteps: 0.3 }), async (world) => {
        const { admitted, time } = await live(world, () => {});
        // A clock that runs ahead by ten seconds at the most has shown ten seconds more.
        const shownMs = time.at - Math.min(...admitted.map((done) => done.at), time.at) + 10_000;
        const { requests_burst = 0, requests_per_minute = 0 } = world.key.limits;
        expect(admitted.length).toBeLessThanOrEqual(requests_burst + (shownMs * requests_per_minute) / 60_000);
      }),
      { numRuns: RUNS },
    );
  });

  it(`no more requests run at once than may, whoever vanishes (${RUNS} runs)`, async () => {
    const slots = fc.integer({ min: 1, max: 20 }).map((n) => limited({ concurrent_requests: n }));
    await fc.assert(
      fc.asyncProperty(
        worlds(slots, { leavers: 0.4, deaths: 0.1, handOvers: 0.3, lose: 0.05, repeat: 0.1 }),
        async (world) => {
          const { key, workspace } = await live(world, ({ admitted }) => {
            const running = admitted.filter((done) => done.endedAt === null && !done.lost).length;
            expect(running).toBeLessThanOrEqual(world.key.limits.concurrent_requests ?? 0);
            expect(running).toBeLessThanOrEqual(world.workspace.limits.concurrent_requests ?? 0);
          });
          expect(key.account.out).toEqual(NOTHING);
          expect(workspace.account.out).toEqual(NOTHING);
        },
      ),
      { numRuns: RUNS },
    );
  });
});

describe("L2 spent and reserved stay within a strict budget, and a soft one is overshot by what was running", () => {
  type Budget = NonNullable<Rules["budget"]>;
  const budgets = (mode: Budget["mode"], period: fc.Arbitrary<Budget["period"]> = fc.constant("total")) =>
    fc
      .record({ micro_usd: fc.integer({ min: 50, max: 5_000 }), period })
      .map((budget): Rules => ({ id: "key_1", version: 1, limits: {}, budget: { ...budget, mode } }));
  const sum = (list: readonly Done[]): number => list.reduce((all, done) => all + done.used.microUsd, 0);
  const expectUnspent = (ledger: SimulatedLedger): void => {
    const { budget } = ledger.account.state(ledger.now);
    const committed = (budget?.spentMicroUsd ?? 0) + (budget?.reservedMicroUsd ?? 0);
    expect(committed).toBeLessThanOrEqual(budget?.limitMicroUsd ?? 0);
  };

  it(`strict, of key and workspace, whoever dies, steps or moves (${RUNS} runs)`, async () => {
    const trouble = { deaths: 0.05, restarts: 0.1, lose: 0.05, repeat: 0.1, handOvers: 0.3, isolateSteps: 0.1 };
    await fc.assert(
      fc.asyncProperty(worlds(budgets("strict"), trouble), async (world) => {
        const { admitted } = await live(world, ({ key, workspace }) => {
          expectUnspent(key);
          expectUnspent(workspace);
        });
        expect(sum(admitted)).toBeLessThanOrEqual(
          Math.min(world.key.budget?.micro_usd ?? 0, world.workspace.budget?.micro_usd ?? 0),
        );
      }),
      { numRuns: RUNS },
    );
  });

  it(`strict, over the end of a day, a week and a month (${RUNS} runs)`, async () => {
    // The night from Sunday to Monday, 1 June: all three begin anew.
    const midnight = Date.UTC(2026, 5, 1);
    const today = midnight / 86_400_000;
    const rules = budgets("strict", fc.constantFrom("day", "week", "month"));
    const trouble = { startAt: midnight - 6_000, deaths: 0.02, restarts: 0.1, lose: 0.02, handOvers: 0.3 };
    let begunAnew = 0;
    await fc.assert(
      fc.asyncProperty(worlds(rules, trouble), async (world) => {
        const { admitted, key } = await live(world, (now) => {
          expectUnspent(now.key);
          expectUnspent(now.workspace);
        });
        const least = Math.min(world.key.budget?.micro_usd ?? 0, world.workspace.budget?.micro_usd ?? 0);
        const before = admitted.filter(({ at }) => at < midnight);
        // One that held its key's share at midnight and waited for its workspace's is booked before it.
        const after = admitted.filter(({ at }) => at >= midnight + 1_000);
        for (const period of [before, after]) expect(sum(period)).toBeLessThanOrEqual(least);
        if (sum(before) > 0 && after.length > 0) begunAnew++;
        // What was admitted before midnight is booked there, however late it ends.
        const { spend } = key.account;
        for (const [day, list] of [
          [today - 1, before],
          [today, after],
        ] as const) {
          const settled = list.filter(({ endedAt, isolate }) => endedAt !== null && !isolate.dead);
          expect(spend.get(day) ?? 0).toBeGreaterThanOrEqual(sum(settled));
        }
      }),
      { numRuns: RUNS },
    );
    expect(begunAnew).toBeGreaterThan(RUNS / 10);
  });

  it(`soft: nothing is admitted once the budget is spent, but from leases of before (${RUNS} runs)`, async () => {
    await fc.assert(
      // Answers cost up to three times what was set aside for them.
      fc.asyncProperty(worlds(budgets("soft"), { overrun: 3, handOvers: 0.2 }), async (world) => {
        const spentAt = new Map<SimulatedLedger, { at: number; spent: number }>();
        const { admitted, key, workspace } = await live(world, (now) => {
          for (const ledger of [now.key, now.workspace]) {
            const { budget } = ledger.account.state(ledger.now);
            if (!budget || spentAt.has(ledger) || budget.spentMicroUsd < budget.limitMicroUsd) continue;
            spentAt.set(ledger, { at: now.time.at, spent: budget.spentMicroUsd });
          }
        });
        for (const { at, spent } of spentAt.values()) {
          for (const done of admitted) expect(done.at).toBeLessThan(at + LEASE_MS);
          // Of what had ended by then all but the last second's had been told.
          const running = admitted.filter(({ endedAt }) => endedAt === null || endedAt > at - 1_000);
          expect(sum(admitted)).toBeLessThanOrEqual(spent + sum(running));
        }
        expect(key.account.out).toEqual(NOTHING);
        expect(workspace.account.out).toEqual(NOTHING);
      }),
      { numRuns: RUNS },
    );
  });
});

describe("L3 conservation", () => {
  it(`what was lent is settled, returned or booked as unreported, and every record arrives once (${RUNS} runs)`, async () => {
    const rules = fc.constant(limited({ requests_per_minute: 10_000, concurrent_requests: 500 }));
    const trouble = { deaths: 0.08, restarts: 0.1, lose: 0.1, repeat: 0.2, handOvers: 0.3, isolateSteps: 0.1 };
    await fc.assert(
      fc.asyncProperty(worlds(rules, trouble), async (world) => {
        const { admitted, key, workspace } = await live(world, () => {});
        for (const ledger of [key, workspace]) {
          const { account } = ledger;
          expect(account.out).toEqual(NOTHING);
          const unreported = ledger.unreported.reduce((sum, { amounts }) => sum + amounts.microUsd, 0);
          const spent = [...account.spend.values()].reduce((sum, microUsd) => sum + microUsd, 0);
          expect(spent).toBe(ledger.reportedMicroUsd + unreported);
          // What died unheard is never free.
          const known = admitted.filter((done) => done.endedAt !== null && !done.isolate.dead);
          const died = admitted.filter((done) => done.lost);
          const sum = (list: readonly Done[]): number => list.reduce((all, done) => all + done.used.microUsd, 0);
          expect(ledger.reportedMicroUsd).toBeGreaterThanOrEqual(sum(known));
          expect(spent).toBeGreaterThanOrEqual(sum(known) + sum(died));
          expect(unreported).toBeGreaterThanOrEqual(sum(died));
        }
        expect(new Set(key.records).size).toBe(key.records.length);
        const settled = admitted.filter((done) => done.endedAt !== null && !done.isolate.dead);
        expect(key.records.length).toBeGreaterThanOrEqual(settled.length);
        expect(workspace.records).toEqual([]);
      }),
      { numRuns: RUNS },
    );
  });

  it(`a refusal by one of key and workspace leaves nothing reserved at the other (${RUNS} runs)`, async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 40 }),
        fc.integer({ min: 0, max: 5 }),
        fc.boolean(),
        async (burst, tight, keyIsTight) => {
          const time = new Time();
          const network = { delayMs: 5, lose: 0, repeat: 0 };
          const wide = limited({ requests_per_minute: 100_000, requests_burst: 1_000 });
          const narrow = limited({ requests_per_minute: 1, requests_burst: Math.max(1, tight) });
          const key = new SimulatedLedger(keyIsTight ? narrow : wide, time, network, randomFrom(burst));
          const workspace = new SimulatedLedger(keyIsTight ? wide : narrow, time, network, randomFrom(tight));
          const isolate = new Isolate(time, (name) => (name.startsWith("ws:") ? workspace : key), 250);
          const need: Amounts = { requests: 1, inputTokens: 1, outputTokens: 1, microUsd: 1, slots: 1 };
          const policy = keyPolicy(key.rules.limits);
          const calls = Promise.all(
            Array.from({ length: burst }, () => isolate.book.admit(policy, () => need, isolate.access)),
          );
          await time.pass(200);
          let admitted = 0;
          for (const admission of await calls) if (admission.kind === "admitted") admitted++;
          expect(admitted).toBe(Math.min(burst, Math.max(1, tight)));
          await time.pass(LEASE_MS + 500);
          const open = keyIsTight ? workspace : key;
          expect(open.account.out.requests).toBe(admitted);
          expect(open.account.state(time.at).requests?.level).toBeGreaterThanOrEqual(1_000 - admitted);
        },
      ),
      { numRuns: RUNS },
    );
  });
});

describe("L4 calls", () => {
  const budget = { micro_usd: 1e12, period: "month", mode: "strict" } as const;
  const all: Rules = {
    ...limited({
      requests_per_minute: 600_000,
      input_tokens_per_minute: 100_000_000,
      output_tokens_per_minute: 100_000_000,
      concurrent_requests: 50_000,
    }),
    budget,
  };
  for (const [name, workspaceRules, answersMs] of [
    ["every limit on the key", limited({}), 5],
    ["every limit on the key and on its workspace", all, 5],
    ["every limit on both, and answers that take seconds", all, 1_900],
  ] as const) {
    it(`a thousand requests a second far from every limit cost at most ten calls in a thousand, of all ledgers: ${name}`, async () => {
      const time = new Time();
      const network = { delayMs: 3, lose: 0, repeat: 0 };
      const key = new SimulatedLedger(all, time, network, randomFrom(1));
      const workspace = new SimulatedLedger(workspaceRules, time, network, randomFrom(2));
      const isolate = new Isolate(time, (name) => (name.startsWith("ws:") ? workspace : key), 250);
      const policy = keyPolicy(all.limits, budget);
      const need: Amounts = { requests: 1, inputTokens: 300, outputTokens: 200, microUsd: 5_000, slots: 1 };
      const used = { inputTokens: 250, outputTokens: 50, microUsd: 900, learned: null };
      let admitted = 0;
      const one = async (): Promise<void> => {
        const admission = await isolate.book.admit(policy, () => need, isolate.access);
        if (admission.kind !== "admitted") return;
        admitted++;
        await time.clock().wait(answersMs);
        void isolate.book.settle("key_1", admission.reservation, used, '"r"', isolate.access);
      };
      const second = async (): Promise<void> => {
        for (let i = 0; i < 100; i++) {
          for (let n = 0; n < 10; n++) void one();
          await time.pass(10);
        }
      };
      for (let n = 0; n < 4; n++) await second();
      key.calls = 0;
      workspace.calls = 0;
      admitted = 0;
      for (let n = 0; n < 8; n++) await second();
      expect(admitted).toBe(8_000);
      expect(((key.calls + workspace.calls) * 1_000) / admitted).toBeLessThanOrEqual(10);
    });
  }

  it("a burst on a cold key costs a handful of calls, and admits exactly what there is", async () => {
    const time = new Time();
    const network = { delayMs: 5, lose: 0, repeat: 0 };
    const key = new SimulatedLedger(limited({ requests_per_minute: 60 }), time, network, randomFrom(1));
    const workspace = new SimulatedLedger(limited({}), time, network, randomFrom(2));
    const isolate = new Isolate(time, (name) => (name.startsWith("ws:") ? workspace : key), 250);
    const calls = Promise.all(
      Array.from({ length: 1_000 }, () =>
        isolate.book.admit(keyPolicy(key.rules.limits), () => ({ ...NOTHING, requests: 1, slots: 1 }), isolate.access),
      ),
    );
    await time.pass(240);
    const admissions = await calls;
    expect(admissions.filter(({ kind }) => kind === "admitted")).toHaveLength(60);
    expect(admissions.filter(({ kind }) => kind === "denied")).toHaveLength(940);
    expect(key.calls).toBeLessThan(6);
    for (const admission of admissions) {
      if (admission.kind !== "denied" || admission.failure.kind !== "rate_limited") continue;
      expect(admission.failure.retryAfterMs).toBeLessThanOrEqual(1_000);
    }
  });
});

describe("L6 a ledger that can't be reached", () => {
  const away = { delayMs: 100_000, lose: 0, repeat: 0 };
  const start = (policy: ReturnType<typeof keyPolicy>, network = away, random = randomFrom(1)) => {
    const time = new Time();
    const key = new SimulatedLedger(policy, time, network, random);
    const workspace = new SimulatedLedger(limited({}), time, { ...away, delayMs: 1 }, randomFrom(2));
    const isolate = new Isolate(time, (name) => (name.startsWith("ws:") ? workspace : key), 250);
    const admit = () => isolate.book.admit(policy, () => ({ ...NOTHING, requests: 1, slots: 1 }), isolate.access);
    return { time, key, admit };
  };
  it("costs a request its deadline; when it stays silent, one request a second and nobody else", async () => {
    const { time, admit } = start(keyPolicy({}));
    for (let i = 0; i < 2; i++) {
      const call = admit();
      await time.pass(260);
      expect((await call).kind).toBe("unreachable");
    }
    await time.pass(1_000);
    const probe = admit();
    await time.pass(260);
    expect((await probe).kind).toBe("unreachable");
    const before = time.at;
    const next = admit();
    await time.pass(1);
    expect((await next).kind).toBe("unreachable");
    expect(time.at - before).toBeLessThan(2);
  });
  it("is there again with its late answer, for whoever came meanwhile", async () => {
    const { time, key, admit } = start(keyPolicy({}), { ...away, delayMs: 300 }, () => 0.5);
    const first = admit();
    await time.pass(260);
    expect((await first).kind).toBe("unreachable");
    key.network = { ...away, delayMs: 1 };
    const second = admit();
    await time.pass(100);
    expect((await second).kind).toBe("admitted");
  });
  it("lets a key through that may go on without, unless it has a budget", async () => {
    for (const [policy, kind] of [
      [keyPolicy({}, null, { fail_open: true }), "admitted"],
      [keyPolicy({}, null, { fail_open: false }), "unreachable"],
      [keyPolicy({}, { micro_usd: 1e9, period: "day", mode: "soft" }, { fail_open: true }), "unreachable"],
    ] as const) {
      const { time, admit } = start(policy);
      const call = admit();
      await time.pass(251);
      expect((await call).kind).toBe(kind);
    }
  });
});
