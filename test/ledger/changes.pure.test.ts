/**
 * What holds while things change around a key: its policy (L5), its ledger's reach (L6), the isolates beside it; and what
 * an isolate keeps of it.
 */
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { KeyPolicy, Limits, Rules } from "../../src/identity/key-record.ts";
import { type Amounts, NOTHING } from "../../src/ledger/amounts.ts";
import type { Admission, Reservation } from "../../src/ledger/lease-book.ts";
import { type Answer, KEEP_ALIVE_MS, LEASE_MS, type Ledger, LOAN_EXPIRES_MS } from "../../src/ledger/protocol.ts";
import { Isolate, keyPolicy, type Network, randomFrom, SimulatedLedger, Time } from "./simulation.ts";

const RUNS = 200;
const NEAR: Network = { delayMs: 3, lose: 0, repeat: 0 };
const AWAY: Network = { delayMs: 0, lose: 1, repeat: 0 };
const ONE: Amounts = { requests: 1, inputTokens: 10, outputTokens: 10, microUsd: 100, slots: 1 };
const FREE: Amounts = { ...NOTHING, requests: 1, slots: 1 };

const none: Rules = { id: "w", version: 1, limits: {}, budget: null };

/** A key, its workspace, and as many isolates as are wanted. */
function world(key: KeyPolicy, workspace: Rules = none, network = NEAR, seed = 1) {
  const time = new Time();
  const random = randomFrom(seed);
  const ledger = new SimulatedLedger(key, time, network, random);
  const shared = new SimulatedLedger(workspace, time, network, random);
  const reach = (name: string): SimulatedLedger => (name.startsWith("ws:") ? shared : ledger);
  const isolate = (offset?: () => number, stored?: () => Promise<Rules | null>) =>
    new Isolate(time, reach, 250, offset, stored);
  const soon = async <T>(work: Promise<T>, ms = 260): Promise<T> => {
    await time.pass(ms);
    return work;
  };
  const admit = (at: Isolate, need = ONE): Promise<Admission> =>
    at.book.admit(ledger.rules as KeyPolicy, () => need, at.access);
  const settle = (at: Isolate, reservation: Reservation, microUsd = 0): Promise<void> =>
    at.book.settle(
      "key_1",
      reservation,
      { inputTokens: 1, outputTokens: 1, microUsd, learned: null },
      '"r"',
      at.access,
    );
  return { time, random, ledger, shared, isolate, soon, admit, settle };
}

function reservationOf(admission: Admission): Reservation {
  if (admission.kind !== "admitted") throw new Error(`not admitted: ${JSON.stringify(admission)}`);
  return admission.reservation;
}

vi.setConfig({ testTimeout: 60_000 });
beforeEach(() => void vi.spyOn(console, "error").mockImplementation(() => {}));
afterEach(() => void vi.restoreAllMocks());

describe("L5 revocation and policy changes hold everywhere within two seconds", () => {
  it(`whatever is lost, late or out of order, and whatever isolates' clocks do (${RUNS} runs)`, async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer(), fc.integer({ min: 1, max: 4 }), async (seed, count) => {
        const network = { delayMs: 120, lose: 0.1, repeat: 0.1 };
        const { time, random, ledger, isolate, admit } = world(
          keyPolicy({ requests_per_minute: 6_000 }),
          none,
          network,
          seed,
        );
        const offsets = Array.from({ length: count }, () => 0);
        const isolates = offsets.map((_, i) => isolate(() => offsets[i] ?? 0));
        let changedAt = Number.POSITIVE_INFINITY;
        const call = async (at: Isolate): Promise<void> => {
          const policy = await at.book.policyOf("key_1", at.access);
          if (typeof policy === "string") return;
          if (policy.revoked_at === null) expect(time.at).toBeLessThan(changedAt + LEASE_MS);
          else expect(time.at).toBeGreaterThanOrEqual(changedAt);
          await admit(at, FREE);
        };
        const calls: Promise<void>[] = [];
        for (let step = 0; step < 60; step++) {
          const i = Math.floor(random() * count);
          const at = isolates[i];
          if (random() < 0.1) offsets[i] = Math.floor((random() - 0.5) * 7_200_000);
          if (at) calls.push(call(at));
          if (step === 25) {
            changedAt = time.at;
            await ledger.putPolicy({
              ...keyPolicy({ requests_per_minute: 6_000 }, null, { revoked_at: 1 }),
              version: 2,
            });
          }
          await time.pass(Math.floor(random() * 150));
        }
        await time.pass(60_000);
        await Promise.all(calls);
      }),
      { numRuns: RUNS },
    );
  });

  it(`limits lowered while loans are out bind within a lease, those removed stop binding (${RUNS} runs)`, async () => {
    const limits = fc.integer({ min: 1, max: 60 });
    await fc.assert(
      fc.asyncProperty(limits, limits, fc.integer(), async (before, after, seed) => {
        const rules = (n: number): Limits => ({
          requests_per_minute: n,
          requests_burst: n,
          concurrent_requests: 2 * n,
        });
        const { time, random, ledger, isolate, admit, settle } = world(keyPolicy(rules(before)), none, NEAR, seed);
        const isolates = [isolate(), isolate(), isolate()];
        const admittedAt: number[] = [];
        const call = async (at: Isolate): Promise<void> => {
          const admission = await admit(at, FREE);
          if (admission.kind !== "admitted") return;
          admittedAt.push(time.at);
          await time.clock().wait(random() * 300);
          await settle(at, admission.reservation);
        };
        const load = async (steps: number): Promise<void> => {
          for (let step = 0; step < steps; step++) {
            for (const at of isolates) for (let n = random() * 4; n > 0; n--) void call(at);
            await time.pass(100);
          }
        };
        await load(20);
        const changedAt = time.at;
        await ledger.putPolicy({ ...keyPolicy(rules(after)), version: 2 });
        await load(40);
        const bound = admittedAt.filter((at) => at >= changedAt + LEASE_MS);
        expect(bound.length).toBeLessThanOrEqual(after + (4_000 * after) / 60_000 + 1);
        const removedAt = time.at;
        await ledger.putPolicy({ ...keyPolicy({}), version: 3 });
        await time.pass(LEASE_MS);
        admittedAt.length = 0;
        await Promise.all(isolates.map((at) => call(at)).concat(time.pass(1_000)));
        expect(admittedAt).toHaveLength(3);
        expect(admittedAt.every((at) => at >= removedAt)).toBe(true);
        await time.pass(LOAN_EXPIRES_MS);
        expect(ledger.account.out).toEqual(NOTHING);
      }),
      { numRuns: RUNS },
    );
  });

  it.each([
    ["limits", { requests_per_minute: 6_000 }],
    ["no limits", {}],
  ])(`so does a workspace's purged cache, of one with %s (${RUNS} runs)`, async (_, limits) => {
    await fc.assert(
      fc.asyncProperty(fc.integer(), async (seed) => {
        const network = { delayMs: 120, lose: 0.1, repeat: 0.1 };
        const { time, random, shared, isolate, admit } = world(keyPolicy({}), { ...none, limits }, network, seed);
        let offset = 0;
        const at = isolate(() => offset);
        let purgedAt = Number.POSITIVE_INFINITY;
        let asked = 0;
        const call = async (): Promise<void> => {
          const rules = await at.book.rulesOf("w", at.access);
          if (rules === "unreachable") return;
          asked++;
          if (rules.cache_epoch === undefined) expect(time.at).toBeLessThan(purgedAt + LEASE_MS);
          else expect(time.at).toBeGreaterThanOrEqual(purgedAt);
          if (random() < 0.5) await admit(at, FREE);
        };
        const calls: Promise<void>[] = [];
        for (let step = 0; step < 60; step++) {
          if (random() < 0.1) offset = Math.floor((random() - 0.5) * 7_200_000);
          calls.push(call());
          if (step === 25) {
            purgedAt = time.at;
            await shared.putPolicy({ ...none, limits, version: 2, cache_epoch: 1 });
          }
          await time.pass(Math.floor(random() * 150));
        }
        await time.pass(60_000);
        await Promise.all(calls);
        expect(asked).toBeGreaterThan(0);
      }),
      { numRuns: RUNS },
    );
  });

  it("asking for a workspace's rules costs no call where they are known, and one where they are not", async () => {
    const { time, shared, isolate, soon } = world(keyPolicy({}));
    const at = isolate();
    for (let i = 0; i < 5; i++) expect(await soon(at.book.rulesOf("w", at.access), 20)).toEqual(none);
    expect(shared.calls).toBe(1);
    await time.pass(LEASE_MS);
    await soon(Promise.all([1, 2, 3].map(() => at.book.rulesOf("w", at.access))), 20);
    expect(shared.calls).toBe(2);
    shared.network = AWAY;
    await time.pass(LEASE_MS);
    expect(await soon(at.book.rulesOf("w", at.access))).toBe("unreachable");
  });

  it("a refusal that was believed ends with the limit that caused it", async () => {
    const day = { micro_usd: 50, period: "day", mode: "strict" } as const;
    for (const [tight, wide] of [
      [keyPolicy({ requests_per_minute: 1 }), keyPolicy({ requests_per_minute: 1_000 })],
      [keyPolicy({ input_tokens_per_minute: 5 }), keyPolicy({ input_tokens_per_minute: 1_000 })],
      [keyPolicy({}, day), keyPolicy({}, { ...day, micro_usd: 5_000 })],
      [keyPolicy({}, day), keyPolicy({})],
    ] as const) {
      const { time, ledger, isolate, soon, admit } = world(tight);
      const at = isolate();
      const refused = async (): Promise<boolean> => (await soon(admit(at), 10)).kind === "denied";
      await refused();
      expect(await refused()).toBe(true);
      // A bucket that is given a larger size fills with time.
      await ledger.putPolicy({ ...wide, version: 2 });
      await time.pass(LEASE_MS);
      expect(await refused()).toBe(false);
    }
  });

  it("a lowered budget that is spent already refuses, and one that is raised again admits", async () => {
    const budget = (micro_usd: number, version: number) => ({
      ...keyPolicy({}, { micro_usd, period: "month", mode: "strict" }),
      version,
    });
    const { time, ledger, isolate, soon, admit, settle } = world(budget(1_000, 1));
    const at = isolate();
    const first = reservationOf(await soon(admit(at), 10));
    await soon(settle(at, first, 90), 500);
    await ledger.putPolicy(budget(80, 2));
    await time.pass(LEASE_MS);
    const refused = await soon(admit(at), 10);
    expect(refused).toMatchObject({ kind: "denied", failure: { kind: "over_budget", budget: { spentMicroUsd: 90 } } });
    await ledger.putPolicy(budget(200, 3));
    await time.pass(LEASE_MS);
    expect((await soon(admit(at), 10)).kind).toBe("admitted");
  });
});

describe("L6 with a ledger away a budget is refused, and nothing else where fail_open says so", () => {
  const budget = { micro_usd: 1e9, period: "day", mode: "soft" } as const;
  const shared: Rules = { ...none, budget };
  const cases: [string, KeyPolicy, Rules, Rules | null | "away", Admission["kind"]][] = [
    ["fail_open false", keyPolicy({}), none, null, "unreachable"],
    ["fail_open true", keyPolicy({}, null, { fail_open: true }), none, null, "admitted"],
    ["a budget of its own", keyPolicy({}, budget, { fail_open: true }), none, null, "unreachable"],
    ["a budget of its workspace, as stored", keyPolicy({}, null, { fail_open: true }), shared, shared, "unreachable"],
    ["a workspace nobody can tell of", keyPolicy({}, null, { fail_open: true }), none, "away", "unreachable"],
  ];
  for (const [name, policy, rules, stored, kind] of cases) {
    it(`${name}: ${kind}`, async () => {
      const { isolate, soon, admit } = world(policy, rules, AWAY);
      const at = isolate(undefined, () =>
        stored === "away" ? Promise.reject(new Error("away")) : Promise.resolve(stored),
      );
      expect((await soon(admit(at))).kind).toBe(kind);
      // What was heard of a workspace counts for as long as nothing newer is.
      expect((await soon(admit(at))).kind).toBe(kind);
    });
  }

  it("what was heard of a workspace is not asked for again", async () => {
    const { ledger, shared: workspace, isolate, soon, admit } = world(keyPolicy({}, null, { fail_open: true }), shared);
    const at = isolate(undefined, () => Promise.reject(new Error("away")));
    await soon(admit(at));
    ledger.network = workspace.network = AWAY;
    await soon(Promise.resolve(), LEASE_MS);
    expect((await soon(admit(at))).kind).toBe("unreachable");
  });

  it("a refusal of the one that answers counts, and so does what it lent", async () => {
    const key = keyPolicy({ requests_per_minute: 2 }, null, { fail_open: true });
    const {
      ledger,
      shared: workspace,
      isolate,
      soon,
      admit,
      settle,
    } = world(key, { ...none, limits: { requests_per_minute: 1_000 } });
    const at = isolate();
    await soon(admit(at));
    workspace.network = AWAY;
    await soon(Promise.resolve(), LEASE_MS + 200);
    const second = reservationOf(await soon(admit(at)));
    expect(second.by).toBe("fail_open");
    expect(second.shares.map(({ share }) => share.loan === null)).toEqual([false, true]);
    expect((await soon(admit(at))).kind).toBe("denied");
    void settle(at, second);
    await soon(Promise.resolve(), 10_000);
    expect(ledger.records).toEqual(["r"]);
    workspace.network = NEAR;
    ledger.network = AWAY;
    await workspace.putPolicy({ ...none, version: 2, limits: { requests_per_minute: 1_000, concurrent_requests: 1 } });
    await soon(Promise.resolve(), 60_000);
    await soon(admit(at));
    expect(await soon(admit(at), 400)).toMatchObject({ kind: "denied", scope: "workspace" });
  });

  it("a crowd that takes everything from each other is refused, and never let through for that", async () => {
    const policy = keyPolicy({ concurrent_requests: 1 }, null, { fail_open: true });
    const { time, ledger, isolate, admit, settle } = world(policy);
    let running = 0;
    const kinds = new Set<string>();
    const call = async (at: Isolate): Promise<void> => {
      const admission = await admit(at, FREE);
      kinds.add(admission.kind === "admitted" ? admission.reservation.by : admission.kind);
      if (admission.kind !== "admitted") return;
      expect(++running).toBe(1);
      await time.clock().wait(1);
      running--;
      void settle(at, admission.reservation);
    };
    const isolates = [isolate(), isolate(), isolate()];
    const calls = isolates.flatMap((at) => Array.from({ length: 300 }, () => call(at)));
    await time.pass(30_000);
    await Promise.all(calls);
    expect([...kinds].filter((kind) => kind === "fail_open" || kind === "unreachable")).toEqual([]);
    expect(ledger.account.out.slots).toBe(0);
  });

  it("a ledger that promises and never lends is no ledger that is away", async () => {
    const { time, ledger, shared: workspace } = world(keyPolicy({ concurrent_requests: 5 }, null, { fail_open: true }));
    // As it looks to a request whose slot another isolate takes each time.
    const taken: Ledger = {
      exchange: async (message) => ({
        ...((await ledger.exchange({ ...message, ask: null })) as Answer),
        lent: NOTHING,
      }),
      policy: () => ledger.policy(),
      putPolicy: (rules) => ledger.putPolicy(rules),
    };
    const at = new Isolate(time, (name) => (name.startsWith("ws:") ? workspace : taken), 250);
    const call = at.book.admit(ledger.rules as KeyPolicy, () => FREE, at.access);
    await time.pass(5_000);
    expect(await call).toMatchObject({ kind: "denied", failure: { kind: "unavailable" } });
  });
});

describe("a fair share", () => {
  it(`an isolate that borrowed and went quiet keeps nobody waiting for longer than its lease (${RUNS} runs)`, async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 50 }), fc.integer({ min: 1, max: 80 }), async (slots, burst) => {
        const { time, isolate, admit, settle } = world(keyPolicy({ concurrent_requests: slots }));
        const [busy, other] = [isolate(), isolate()];
        const calls = Array.from({ length: burst }, () => admit(busy, FREE));
        await time.pass(300);
        for (const admission of await Promise.all(calls)) {
          if (admission.kind === "admitted") void settle(busy, admission.reservation);
        }
        const began = time.at;
        for (;;) {
          const attempt = admit(other, FREE);
          await time.pass(20);
          if ((await attempt).kind === "admitted") break;
          await time.pass(80);
          expect(time.at - began).toBeLessThan(LEASE_MS + 300);
        }
      }),
      { numRuns: RUNS },
    );
  });

  it("what can't serve a request is lent to nobody, and is there for a smaller one", async () => {
    const { ledger, isolate, soon, admit } = world(keyPolicy({ input_tokens_per_minute: 100 }));
    const [large, small] = [isolate(), isolate()];
    await soon(admit(large, { ...ONE, inputTokens: 90 }), 10);
    // None of these has been told anything yet, so each asks.
    for (const at of [isolate(), isolate(), isolate()]) {
      expect((await soon(admit(at, { ...ONE, inputTokens: 60 }), 10)).kind).toBe("denied");
    }
    expect(ledger.account.out.inputTokens).toBe(90);
    expect((await soon(admit(small, { ...ONE, inputTokens: 5 }), 10)).kind).toBe("admitted");
  });
});

describe("what an isolate keeps", () => {
  it("100,000 keys over days leave few accounts behind, and a busy one is never forgotten", async () => {
    const time = new Time();
    const isolate = new Isolate(time, () => new SimulatedLedger(keyPolicy({}), time, NEAR, Math.random), 250);
    const busy = isolate.book.key("busy");
    busy.adopt({ loan: "l", reserved: FREE }, time.at);
    const told = isolate.book.workspace("told");
    told.end({ loan: "l", reserved: FREE }, { inputTokens: 1, outputTokens: 1, microUsd: 1, learned: null });
    let most = 0;
    for (let i = 0; i < 100_000; i++) {
      isolate.book.key(`key_${i}`);
      if (i % 10 === 0) time.at += 10_000;
      most = Math.max(most, isolate.book.size);
    }
    expect(most).toBeLessThan(2_000);
    for (let i = 0; i < 30_000; i++) isolate.book.key(`again_${i}`);
    expect(isolate.book.size).toBeLessThanOrEqual(10_001);
    expect(isolate.book.key("busy")).toBe(busy);
    expect(isolate.book.workspace("told")).toBe(told);
  });

  it("a request that vanished without a word gives its slot back, though its isolate lives and a neighbour runs", async () => {
    const { time, ledger, isolate, soon, admit } = world(keyPolicy({ concurrent_requests: 2 }));
    const at = isolate();
    await soon(admit(at, FREE), 20);
    const neighbour = reservationOf(await soon(admit(at, FREE), 20));
    for (let passed = 0; passed < 2 * LOAN_EXPIRES_MS; passed += KEEP_ALIVE_MS) {
      if (passed < LOAN_EXPIRES_MS) expect(ledger.account.out.slots).toBe(2);
      await time.pass(KEEP_ALIVE_MS);
      void at.book.keepAlive(neighbour, at.access);
      await time.pass(10);
      ledger.expire();
    }
    expect(ledger.account.out.slots).toBe(1);
    expect(ledger.unreported.map(({ amounts }) => amounts.requests)).toEqual([1]);
    expect((await soon(admit(isolate(), FREE), 20)).kind).toBe("admitted");
  });

  it("a call that went on elsewhere is kept alive there and not here", async () => {
    const { time, ledger, isolate, soon, admit } = world(keyPolicy({ concurrent_requests: 2 }));
    const [here, there] = [isolate(), isolate()];
    const moved = reservationOf(await soon(admit(here, FREE), 20));
    const staying = reservationOf(await soon(admit(here, FREE), 20));
    there.book.adopt(here.book.handOver(moved), moved.by);
    there.dead = true;
    for (let passed = 0; passed <= LOAN_EXPIRES_MS + KEEP_ALIVE_MS; passed += KEEP_ALIVE_MS / 2) {
      await time.pass(KEEP_ALIVE_MS / 2);
      void here.book.keepAlive(staying, here.access);
      await time.pass(10);
      ledger.expire();
    }
    expect(ledger.account.out.slots).toBe(1);
  });

  it("speaks of what runs every few seconds, and not in each message", async () => {
    const { time, isolate } = world(keyPolicy({}));
    const key = isolate().book.key("key_1");
    for (let i = 0; i < 2_000; i++) key.adopt({ loan: `l${i}`, reserved: FREE }, time.at);
    const spoken = (ms: number): number => key.message("m", "i", null, time.at + ms).holding.length;
    expect([0, 1, KEEP_ALIVE_MS / 2 - 1, KEEP_ALIVE_MS / 2, KEEP_ALIVE_MS / 2 + 1].map(spoken)).toEqual([
      2_000, 0, 0, 2_000, 0,
    ]);
    expect(key.mustSpeak(time.at + KEEP_ALIVE_MS / 2 + KEEP_ALIVE_MS)).toBe(true);
  });

  it("a question goes on though the request that asked is cancelled: others' records are in it", async () => {
    const { ledger, isolate, soon, admit, settle } = world(keyPolicy({}));
    const at = isolate();
    const kept: Promise<unknown>[] = [];
    const access = { ...at.access, background: (work: Promise<unknown>) => void kept.push(work) };
    void settle(at, reservationOf(await soon(admit(at), 10)));
    void at.book.refresh(at.book.key("key_1"), access);
    expect(kept).toHaveLength(1);
    await soon(Promise.all(kept), 20);
    expect(ledger.records).toEqual(["r"]);
  });

  it("the newer of two answers counts, whichever comes first", async () => {
    const { time, isolate } = world(keyPolicy({ requests_per_minute: 10 }));
    const { book } = isolate();
    const key = book.key("key_1");
    const answer = (level: number): Answer => ({
      policy: keyPolicy({ requests_per_minute: 10 }),
      lent: null,
      validMs: LEASE_MS,
      state: {
        requests: { capacity: 10, perMinute: 10, level },
        inputTokens: null,
        outputTokens: null,
        slots: null,
        budget: null,
        running: 0,
      },
      usual: { inputRatio: 1, promptRatio: 1, outputTokens: 1, costRatio: 1 },
    });
    const message = key.message("m", "i", null, time.at);
    key.answered(answer(0), message, time.at + 5, time.at + 10);
    key.answered(answer(9), message, time.at, time.at + 11);
    expect(key.refusal(FREE, time.at + 12)).toMatchObject({ kind: "rate_limited" });
  });

  it("a ledger that never answers holds a report up for less time than the platform gives it", async () => {
    const { time, ledger, isolate, soon, admit, settle } = world(keyPolicy({}));
    const at = isolate();
    const reservation = reservationOf(await soon(admit(at), 10));
    ledger.network = { delayMs: 1e9, lose: 0, repeat: 0 };
    let over = false;
    void settle(at, reservation).then(() => {
      over = true;
    });
    await time.pass(30_000);
    expect(over).toBe(true);
    expect(console.error).toHaveBeenCalledWith(expect.stringContaining('"msg":"unsettled"'));
  });
});
