/** Requests that wait for a slot: who gets it next, for how long they wait, what they hold meanwhile, and what it costs. */
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { KeyPolicy, Limits, Rules } from "../../src/identity/key-record.ts";
import { type Amounts, NOTHING } from "../../src/ledger/amounts.ts";
import type { Admission, Patience, Reservation } from "../../src/ledger/lease-book.ts";
import { LEASE_MS, LOAN_EXPIRES_MS } from "../../src/ledger/protocol.ts";
import { Line, MAX_WAITING, type Ticket } from "../../src/ledger/queue.ts";
import { Turns } from "../../src/ledger/turns.ts";
import { Isolate, keyPolicy, type Network, randomFrom, SimulatedLedger, Time } from "./simulation.ts";

const RUNS = 60;
const NEAR: Network = { delayMs: 5, lose: 0, repeat: 0 };
const ONE: Amounts = { requests: 1, inputTokens: 10, outputTokens: 10, microUsd: 100, slots: 1 };
const NO_USE = { inputTokens: 1, outputTokens: 1, microUsd: 1, learned: null };

type Ran = { readonly id: number; readonly isolate: number; readonly cameAt: number; at: number };

/** Keys of one workspace, and isolates whose requests run for a while. */
function world(
  limits: Limits,
  isolates = 1,
  options: { workspace?: Limits; keys?: readonly Limits[]; seed?: number } = {},
) {
  const time = new Time();
  const random = randomFrom(options.seed ?? 1);
  const policies = (options.keys ?? [limits]).map((own, n) => keyPolicy(own, null, { id: `key_${n}` }));
  const none = (id: string, own: Limits): Rules => ({ id, version: 1, limits: own, budget: null });
  const ledgers = new Map<string, SimulatedLedger>();
  for (const policy of policies) ledgers.set(policy.id, new SimulatedLedger(policy, time, NEAR, random));
  ledgers.set("ws:w", new SimulatedLedger(none("w", options.workspace ?? {}), time, NEAR, random));
  ledgers.set("up:u", new SimulatedLedger(none("u", limits), time, NEAR, random));
  const ledger = (name: string): SimulatedLedger => ledgers.get(name) as SimulatedLedger;
  const all = Array.from({ length: isolates }, () => new Isolate(time, ledger, 250));
  const ran: Ran[] = [];
  const kinds: Record<string, number> = {};
  let [running, peak, count] = [0, 0, 0];
  const patient = (forMs = 10_000, signal: AbortSignal | null = null): Patience => ({ forMs, signal });
  const end = (at: Isolate, id: string, reservation: Reservation): void =>
    void at.book.settle(id, reservation, NO_USE, '"r"', at.access);
  /** Comes, waits, runs, ends. */
  const call = async (n: number, lastsMs: number, patience = patient(), key = 0): Promise<Admission> => {
    const [at, policy] = [all[n] as Isolate, policies[key] as KeyPolicy];
    const one: Ran = { id: count++, isolate: n, cameAt: time.at, at: 0 };
    const admission = await at.book.admit(policy, () => ONE, at.access, patience);
    kinds[admission.kind] = (kinds[admission.kind] ?? 0) + 1;
    if (admission.kind !== "admitted") return admission;
    one.at = time.at;
    ran.push(one);
    peak = Math.max(peak, ++running);
    for (let left = lastsMs; left > 0; left -= 10_000) {
      await time.clock().wait(Math.min(left, 10_000));
      if (left > 10_000) void at.book.keepAlive(admission.reservation, at.access);
    }
    running--;
    end(at, policy.id, admission.reservation);
    return admission;
  };
  const calls = (): number => [...ledgers.values()].reduce((sum, one) => sum + one.calls, 0);
  const rest = async (): Promise<void> => {
    for (let n = 0; n < 70; n++) {
      await time.pass(1_000);
      for (const one of ledgers.values()) one.expire();
    }
  };
  const out = (): Amounts[] => [...ledgers.values()].map(({ account }) => account.out);
  return {
    time,
    random,
    ledger,
    policies,
    isolates: all,
    ran,
    kinds,
    patient,
    call,
    calls,
    rest,
    out,
    peak: () => peak,
  };
}

const slots = (n: number): Limits => ({ concurrent_requests: n });

/** How many who came later ran before each. */
function overtakenBy(ran: readonly Ran[]): number[] {
  return ran.map((one) => ran.filter((other) => other.cameAt > one.cameAt && other.at < one.at).length);
}

vi.setConfig({ testTimeout: 60_000 });
beforeEach(() => void vi.spyOn(console, "error").mockImplementation(() => {}));
afterEach(() => void vi.restoreAllMocks());

describe("a crowd on five slots", () => {
  it.each([1, 3])("in %i isolates: everybody runs, five at a time, and hardly a slot is idle", async (isolates) => {
    const { time, kinds, call, calls, rest, out, peak } = world(slots(5), isolates);
    const began = time.at;
    let lastAt = 0;
    const all = Array.from({ length: 50 }, (_, n) => call(n % isolates, 200).then(() => (lastAt = time.at)));
    await time.pass(9_000);
    await Promise.all(all);
    expect(kinds).toEqual({ admitted: 50 });
    expect(peak()).toBe(5);
    // Ten rounds of 200 ms, were every slot taken the moment it is free.
    expect(lastAt - began).toBeLessThan(isolates === 1 ? 2_600 : 3_600);
    expect(calls()).toBeLessThan(3 * 50);
    await rest();
    expect(out()).toEqual(out().map(() => NOTHING));
  });

  it("one isolate serves them in the order in which they came, and no newcomer before them", async () => {
    const { time, ran, kinds, call } = world(slots(2));
    const all: Promise<Admission>[] = [];
    for (let n = 0; n < 100; n++) {
      all.push(call(0, 60));
      await time.pass(7);
    }
    await time.pass(8_000);
    await Promise.all(all);
    expect(kinds).toEqual({ admitted: 100 });
    expect(ran.map(({ id }) => id)).toEqual(ran.map((_, n) => n));
  });

  it(`several isolates serve them nearly so: only a lease of before is used up first (${RUNS} runs)`, async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer(), fc.integer({ min: 1, max: 6 }), async (seed, most) => {
        const { time, random, ran, kinds, call, peak } = world(slots(most), 3, { seed });
        const all: Promise<Admission>[] = [];
        for (let n = 0; n < 60; n++) {
          all.push(call(Math.floor(random() * 3), 100 + random() * 300, { forMs: 60_000, signal: null }));
          await time.pass(random() * 60);
        }
        await time.pass(60_000);
        await Promise.all(all);
        expect(kinds).toEqual({ admitted: 60 });
        expect(peak()).toBeLessThanOrEqual(most);
        expect(Math.max(...overtakenBy(ran))).toBeLessThanOrEqual(2 * most + 2);
      }),
      { numRuns: RUNS },
    );
  });

  it("one that waits alone in its isolate is not starved by a stream of others elsewhere", async () => {
    const { time, ran, call } = world(slots(2), 2);
    const all: Promise<Admission>[] = [];
    let lone: Promise<Admission> | undefined;
    for (let n = 0; n < 300; n++) {
      all.push(call(0, 100, { forMs: 2_000, signal: null }));
      if (n === 100) lone = call(1, 100);
      await time.pass(30);
    }
    expect((await lone)?.kind).toBe("admitted");
    const one = ran.find(({ isolate }) => isolate === 1) as Ran;
    // The others' line is two seconds long; it waits as they do.
    expect(one.at - one.cameAt).toBeLessThan(2_500);
    await time.pass(5_000);
    await Promise.all(all);
  });
});

describe("a slot that is free in one isolate and waited for in another", () => {
  it("is given up by a busy one as soon as by a quiet one", async () => {
    const { time, ran, call } = world(slots(5), 2);
    const all = Array.from({ length: 5 }, () => call(0, 300));
    await time.pass(50);
    const began = time.at;
    all.push(call(1, 10));
    await time.pass(5_000);
    await Promise.all(all);
    // The calls end after 250 ms, that is told 50 ms later, and asked for within 250 ms.
    expect((ran[5] as Ran).at - began).toBeLessThan(600);
  });

  it("is not used by later ones until the lease it came with is over", async () => {
    const { time, ran, call } = world(slots(1), 2);
    // All of these are asked for at once, so their loan stays open while there is one slot for them.
    const all = Array.from({ length: 20 }, () => call(0, 10));
    await time.pass(50);
    const lone = call(1, 10);
    await time.pass(10);
    for (let n = 0; n < 100; n++) all.push(call(0, 10));
    await time.pass(9_000);
    await Promise.all([...all, lone]);
    expect(overtakenBy(ran.filter(({ isolate, id }) => isolate === 1 || id > 20))[0]).toBe(0);
    const at = ran.findIndex(({ isolate }) => isolate === 1);
    expect(overtakenBy(ran)[at]).toBeLessThan(5);
  });
});

describe("the end of a wait", () => {
  it("in time, with a refusal that says when to come back", async () => {
    const { time, call } = world(slots(1));
    void call(0, 60_000);
    await time.pass(50);
    const began = time.at;
    let endedAt = 0;
    const refused = call(0, 1, { forMs: 3_000, signal: null }).finally(() => (endedAt = time.at));
    await time.pass(3_100);
    expect(await refused).toMatchObject({
      kind: "denied",
      scope: "key",
      failure: { kind: "rate_limited", limit: "concurrency", figure: 1 },
    });
    expect(endedAt - began).toBe(3_000);
    const { failure } = (await refused) as Extract<Admission, { kind: "denied" }>;
    expect(failure.kind === "rate_limited" && failure.retryAfterMs).toBeGreaterThanOrEqual(1_000);
  });

  it("at once, where nobody has given it time", async () => {
    const { time, call } = world(slots(1));
    void call(0, 60_000);
    await time.pass(50);
    const refused = call(0, 1, { forMs: 0, signal: null });
    await time.pass(10);
    expect(await refused).toMatchObject({ kind: "denied", failure: { limit: "concurrency" } });
  });

  it(`at once for the one after ${MAX_WAITING} others, who are told how long the line takes`, async () => {
    const { time, kinds, call } = world(slots(1));
    const all = Array.from({ length: MAX_WAITING + 1 }, () => call(0, 400));
    await time.pass(5_000);
    const { admitted = 0, denied = 0 } = kinds;
    expect(admitted).toBeGreaterThan(10);
    expect(denied).toBe(0);
    for (let n = 1; n < admitted; n++) all.push(call(0, 400));
    const refused = call(0, 400);
    await time.pass(5);
    expect(kinds.denied).toBe(1);
    const { failure } = (await refused) as Extract<Admission, { kind: "denied" }>;
    expect(failure).toMatchObject({ kind: "rate_limited", limit: "concurrency" });
    expect(failure.kind === "rate_limited" && failure.retryAfterMs).toBeGreaterThan(40_000);
    await time.pass(30_000);
    await Promise.all(all);
  });

  it("F-26 with its client: at once, with nothing held, and the next one is served", async () => {
    const { time, ran, call, out, rest } = world(slots(1));
    void call(0, 1_000);
    await time.pass(50);
    const gone = new AbortController();
    const leaving = call(0, 1, { forMs: 10_000, signal: gone.signal });
    const next = call(0, 1);
    await time.pass(500);
    gone.abort();
    await time.pass(0);
    expect((await leaving).kind).toBe("left");
    await time.pass(1_000);
    expect((await next).kind).toBe("admitted");
    expect(ran.map(({ id }) => id)).toEqual([0, 2]);
    await rest();
    expect(out()).toEqual(out().map(() => NOTHING));
  });

  it("F-26 with its client, even in the moment in which a slot is on its way to it", async () => {
    for (let ms = 0; ms < 40; ms++) {
      const { time, call, ledger, rest } = world(slots(1));
      void call(0, 300);
      await time.pass(50);
      const gone = new AbortController();
      const leaving = call(0, 5, { forMs: 10_000, signal: gone.signal });
      await time.pass(240 + ms);
      gone.abort();
      await time.pass(50);
      expect(["left", "admitted"]).toContain((await leaving).kind);
      await time.pass(LEASE_MS + 500);
      expect(ledger("key_0").account.out.slots).toBe(0);
      await rest();
    }
  });

  it("at once, when it turns out that a rate refuses it", async () => {
    const { time, call } = world({ concurrent_requests: 1, requests_per_minute: 1, requests_burst: 3 });
    void call(0, 500);
    await time.pass(50);
    const all = [call(0, 500), call(0, 500), call(0, 500)];
    await time.pass(1_500);
    const kinds = await Promise.all(all);
    expect(kinds.map(({ kind }) => kind)).toEqual(["admitted", "admitted", "denied"]);
    expect(kinds[2]).toMatchObject({ failure: { limit: "requests" } });
  });

  it("L5 at once, when its key is revoked meanwhile", async () => {
    const { time, ledger, policies, call } = world(slots(1));
    void call(0, 60_000);
    await time.pass(50);
    const refused = (policy: KeyPolicy) => (policy.revoked_at === null ? null : ({ kind: "unauthenticated" } as const));
    const waiting = call(0, 1, { forMs: 10_000, signal: null, refused });
    await time.pass(1_000);
    await ledger("key_0").putPolicy({ ...policies[0], version: 2, revoked_at: 1 } as KeyPolicy);
    await time.pass(LEASE_MS);
    expect(await waiting).toMatchObject({ kind: "denied", failure: { kind: "unauthenticated" } });
  });

  it("R-06 a thousand that come, wait and leave at random, in isolates that die, take no slot with them", async () => {
    const { time, random, isolates, ledger, call, rest, out, peak } = world(slots(7), 3, { seed: 5 });
    for (let n = 0; n < 1_000; n++) {
      const gone = new AbortController();
      void call(n % 3, 50 + random() * 200, { forMs: 4_000, signal: gone.signal });
      void time
        .clock()
        .wait(random() * 400)
        .then(() => gone.abort());
      if (n % 250 === 249) {
        (isolates[n % 3] as Isolate).dead = true;
        isolates[n % 3] = new Isolate(time, ledger, 250);
      }
      await time.pass(random() * 20);
    }
    await time.pass(LOAN_EXPIRES_MS);
    await rest();
    expect(peak()).toBeGreaterThan(4);
    expect(out()).toEqual(out().map(() => NOTHING));
    const again = Array.from({ length: 7 }, () => call(0, 10, { forMs: 0, signal: null }));
    await time.pass(50);
    expect((await Promise.all(again)).map(({ kind }) => kind)).toEqual(Array(7).fill("admitted"));
  });
});

describe("a key's slots and its workspace's", () => {
  it(`whoever waits for one holds none of the other, and nobody starves (${RUNS} runs)`, async () => {
    const few = fc.integer({ min: 1, max: 3 });
    await fc.assert(
      fc.asyncProperty(fc.integer(), few, few, few, async (seed, shared, first, second) => {
        const { time, random, kinds, call, peak, rest, out } = world({}, 2, {
          workspace: slots(shared),
          keys: [slots(first), slots(second)],
          seed,
        });
        const all: Promise<Admission>[] = [];
        for (let n = 0; n < 30; n++) {
          const isolate = Math.floor(random() * 2);
          const key = Math.floor(random() * 2);
          all.push(call(isolate, 50 + random() * 150, { forMs: 30_000, signal: null }, key));
          await time.pass(random() * 40);
        }
        await time.pass(30_000);
        await Promise.all(all);
        expect(kinds).toEqual({ admitted: 30 });
        expect(peak()).toBeLessThanOrEqual(shared);
        await rest();
        expect(out()).toEqual(out().map(() => NOTHING));
      }),
      { numRuns: RUNS },
    );
  });
});

describe("what waiting costs", () => {
  it("L4 two hundred that wait ten seconds in three isolates cost a ledger no more than four calls a second each", async () => {
    const { time, call, calls } = world(slots(5), 3);
    for (let n = 0; n < 5; n++) void call(n % 3, 60_000);
    await time.pass(100);
    const all = Array.from({ length: 200 }, (_, n) => call(n % 3, 60_000));
    await time.pass(1_000);
    const before = calls();
    await time.pass(8_000);
    // Three isolates ask the key's ledger, and once in two seconds whether the workspace still has no limits.
    expect(calls() - before).toBeLessThanOrEqual(8 * 3 * (4 + 1));
    await time.pass(2_000);
    expect((await Promise.all(all)).every(({ kind }) => kind === "denied")).toBe(true);
  });
});

describe("an upstream's slots", () => {
  const hold = (at: Isolate, forMs: number) => at.book.holdUpstream("u", at.access, { forMs, signal: null });

  it("are held while the call runs, and go to the next one when it moves on", async () => {
    const { time, isolates, ledger, rest } = world(slots(1), 2);
    const [here, there] = isolates as [Isolate, Isolate];
    const first = hold(here, 0);
    await time.pass(20);
    const slot = await first;
    if (slot.kind !== "held") throw new Error(slot.kind);
    const full = hold(there, 0);
    await time.pass(20);
    expect(await full).toEqual({ kind: "full", retryAfterMs: 1_000 });
    for (let passed = 0; passed < 2 * LOAN_EXPIRES_MS; passed += 10_000) {
      void here.book.keepAlive({ shares: [slot.held] }, here.access);
      await time.pass(10_000);
      ledger("up:u").expire();
    }
    expect(ledger("up:u").account.out.slots).toBe(1);
    const waiting = hold(there, 5_000);
    await time.pass(1_000);
    here.book.releaseUpstream(slot.held, here.access);
    await time.pass(500);
    expect((await waiting).kind).toBe("held");
    expect([...ledger("up:u").account.spend.values()]).toEqual([]);
    await rest();
  });

  it("are not waited for where the ledger is away: the call may go on", async () => {
    const { time, isolates, ledger } = world(slots(1));
    ledger("up:u").network = { delayMs: 0, lose: 1, repeat: 0 };
    const slot = hold(isolates[0] as Isolate, 5_000);
    await time.pass(300);
    expect((await slot).kind).toBe("unreachable");
  });
});

describe("the line", () => {
  const ticket = (number: number): Ticket => ({
    number,
    since: 0,
    need: ONE,
    countedBy: [],
    tries: false,
    seenAt: 0,
  });

  it("passes over whoever has not looked for two seconds, and lets it in again at its place", () => {
    const line = new Line();
    const [first, second] = [ticket(1), ticket(2)];
    line.enter(second, 0);
    line.enter(first, 0);
    expect([line.before(first, 0), line.before(second, 1_900)]).toEqual([0, 1]);
    expect(line.bars(second, 2_100)).toBe(false);
    expect(line.before(second, 2_100)).toBe(0);
    expect(line.before(first, 2_200)).toBe(0);
    expect(line.before(second, 2_200)).toBe(1);
  });

  it(`has room for ${MAX_WAITING}`, () => {
    const line = new Line();
    for (let n = 0; n < MAX_WAITING; n++) expect(line.enter(ticket(n), 0)).toBe(true);
    expect(line.enter(ticket(MAX_WAITING), 0)).toBe(false);
  });
});

describe("turns", () => {
  it("a slot goes to whoever has waited longest, and the spare ones to the others", () => {
    const turns = new Turns();
    turns.heard("a", [900, 500, 100], 1_000);
    turns.heard("b", [700], 1_000);
    expect([1, 2, 3, 4].map((free) => turns.share("a", 3, free, 1_000))).toEqual([1, 1, 2, 3]);
    expect([1, 2].map((free) => turns.share("b", 1, free, 1_000))).toEqual([0, 1]);
    expect([4, 5].map((free) => turns.share("newcomer", 1, free, 1_000))).toEqual([0, 1]);
    turns.served("a", 1);
    expect(turns.share("b", 1, 1, 1_000)).toBe(1);
    // One that is not heard of any more keeps nobody waiting.
    turns.heard("b", [1_701], 2_001);
    expect(turns.elsewhere("b", 2_001)).toEqual({ all: 0, before: 0 });
  });
});

it("a clock that leaps by a day passes nobody over for good, and does not make for long waits once it goes on", () => {
  for (const leap of [86_400_000, -86_400_000]) {
    const line = new Line();
    const start = 200 * 86_400_000;
    const ticket = (number: number): Ticket => {
      return { number, since: start, need: NOTHING, countedBy: [], tries: false, seenAt: start };
    };
    const [first, second, third] = [ticket(1), ticket(2), ticket(3)];
    for (const one of [first, second, third]) expect(line.enter(one, start)).toBe(true);
    line.served(start);
    let now = start + leap;
    expect([first, second, third].map((one) => line.before(one, now))).toEqual([0, 1, 2]);
    for (let n = 0; n < 40; n++) {
      now += 10;
      line.served(now);
    }
    expect(line.retryAfterMs).toBeLessThan(3_000);
  }
});
