/** Many isolates on one bucket, with delays, restarts and a clock that steps: a seeded simulation of leases. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { KeyPolicy } from "../../src/identity/key-record.ts";
import { available, type Bucket, fullBucket, fullInMs, refill, take, waitMs } from "../../src/ledger/bucket.ts";
import { LeaseBook } from "../../src/ledger/lease-book.ts";
import type { Lease, LeaseRequest, Ledger, Settlement } from "../../src/ledger/protocol.ts";

const RUNS = 200;

describe("a bucket", () => {
  it(`never gives more than its capacity and what flowed back, whatever the clock does (${RUNS} runs)`, () => {
    const step = fc.record({ elapse: fc.integer({ min: -5_000, max: 20_000 }), want: fc.nat(30) });
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 1000 }), fc.array(step, { maxLength: 200 }), (perMinute, steps) => {
        let now = 1_000_000;
        let latest = now;
        let bucket: Bucket = fullBucket(perMinute, now);
        let taken = 0;
        let flowed = 0;
        for (const { elapse, want } of steps) {
          now += elapse;
          flowed += Math.max(0, now - latest);
          latest = Math.max(latest, now);
          bucket = refill(bucket, perMinute, now);
          const granted = Math.min(want, available(bucket));
          bucket = take(bucket, granted);
          taken += granted;
          expect(taken).toBeLessThanOrEqual(perMinute + (flowed * perMinute) / 60_000);
          expect(available(refill(bucket, perMinute, latest + waitMs(bucket, perMinute, 1)))).toBeGreaterThanOrEqual(1);
          expect(fullInMs(bucket, perMinute)).toBeLessThanOrEqual(60_000);
        }
      }),
      { numRuns: RUNS },
    );
  });
});

/** Time that passes only when the simulation says so. */
class Time {
  at = 1_000_000;
  #sleepers: { until: number; wake: () => void }[] = [];
  readonly clock = {
    now: () => this.at,
    wait: (ms: number) => new Promise<void>((wake) => this.#sleepers.push({ until: this.at + ms, wake })),
  };
  async pass(ms: number): Promise<void> {
    const end = this.at + ms;
    for (;;) {
      for (let i = 0; i < 12; i++) await Promise.resolve();
      const due = this.#sleepers.filter((sleeper) => sleeper.until <= end);
      const next = due.toSorted((a, b) => a.until - b.until)[0];
      if (!next) break;
      this.at = Math.max(this.at, next.until);
      const now = this.#sleepers.filter((sleeper) => sleeper.until <= this.at);
      this.#sleepers = this.#sleepers.filter((sleeper) => sleeper.until > this.at);
      for (const sleeper of now) sleeper.wake();
    }
    this.at = end;
  }
}

const policyWith = (limit: number): KeyPolicy => ({
  id: "key_1",
  version: 1,
  workspace: "w",
  name: "n",
  scopes: ["messages"],
  models: null,
  limits: { requests_per_minute: limit },
  expires_at: null,
  revoked_at: null,
  secrets: [],
});

/** The ledger's own arithmetic, with a network between it and the isolates. */
class SimulatedLedger implements Ledger {
  bucket: Bucket | undefined;
  calls = 0;
  readonly settled = new Map<string, number>();
  failNext = 0;
  readonly limit: number;
  readonly time: Time;
  readonly delayMs: number;
  constructor(limit: number, time: Time, delayMs: number) {
    this.limit = limit;
    this.time = time;
    this.delayMs = delayMs;
  }
  async lease(request: LeaseRequest): Promise<Lease> {
    await this.#arrive();
    for (const { requestId } of request.settlements) this.#book(requestId);
    const now = this.time.at;
    const bucket = refill(take(this.bucket ?? fullBucket(this.limit, now), -request.unused), this.limit, now);
    const left = available(bucket);
    const granted = Math.min(left, Math.max(1, Math.min(request.want, Math.floor(left / 10))));
    const after = take(bucket, granted);
    this.bucket = after;
    await this.time.clock.wait(this.delayMs);
    const retryAfterMs = granted > 0 ? 0 : waitMs(after, this.limit, 1);
    return { policy: policyWith(this.limit), granted, remaining: left - granted, retryAfterMs, fullInMs: 0 };
  }
  async settle(settlements: readonly Settlement[]): Promise<void> {
    await this.#arrive();
    for (const { requestId } of settlements) this.#book(requestId);
  }
  async policy(): Promise<KeyPolicy> {
    return policyWith(this.limit);
  }
  async putPolicy(): Promise<void> {}
  async #arrive(): Promise<void> {
    this.calls++;
    await this.time.clock.wait(this.delayMs);
    if (this.failNext === 0) return;
    this.failNext--;
    throw new Error("the object was reset");
  }
  #book(requestId: string): void {
    this.settled.set(requestId, (this.settled.get(requestId) ?? 0) + 1);
  }
}

describe("leases", () => {
  it(`admit no more than the bucket gave, over isolates that come and go (${RUNS} runs)`, async () => {
    const step = fc.record({
      isolate: fc.nat(4),
      burst: fc.integer({ min: 1, max: 40 }),
      pass: fc.nat(1500),
      restart: fc.nat(9),
    });
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 600 }),
        fc.integer({ min: 0, max: 120 }),
        fc.array(step, { minLength: 1, maxLength: 20 }),
        async (limit, delay, steps) => {
          const time = new Time();
          const ledger = new SimulatedLedger(limit, time, delay);
          const books = Array.from({ length: 5 }, () => new LeaseBook(time.clock));
          const started = time.at;
          let admitted = 0;
          for (const { isolate, burst, pass, restart } of steps) {
            const book = restart === 0 ? new LeaseBook(time.clock) : (books[isolate] ?? new LeaseBook(time.clock));
            books[isolate] = book;
            const calls = Promise.all(Array.from({ length: burst }, () => book.admit("key_1", () => ledger)));
            await time.pass(pass + 4 * delay + 1);
            for (const admission of await calls) if (admission.kind === "admitted") admitted++;
            expect(admitted).toBeLessThanOrEqual(limit + ((time.at - started) * limit) / 60_000);
          }
        },
      ),
      { numRuns: RUNS },
    );
  });

  it("admit exactly the bucket when two hundred come at once to one isolate", async () => {
    const time = new Time();
    const ledger = new SimulatedLedger(60, time, 5);
    const book = new LeaseBook(time.clock);
    const calls = Promise.all(Array.from({ length: 200 }, () => book.admit("key_1", () => ledger)));
    await time.pass(100);
    const admissions = await calls;
    expect(admissions.filter((admission) => admission.kind === "admitted")).toHaveLength(60);
    for (const admission of admissions) {
      if (admission.kind === "denied") expect(admission.retryAfterMs).toBeLessThanOrEqual(1000);
    }
  });

  it("cost few calls at a steady load, and a refused key costs few until it can be served", async () => {
    const time = new Time();
    const busy = new SimulatedLedger(60_000, time, 2);
    const book = new LeaseBook(time.clock);
    for (let i = 0; i < 3000; i++) {
      const call = book.admit("key_1", () => busy);
      await time.pass(5);
      expect((await call).kind).toBe("admitted");
    }
    // Ten seconds and more: a call for each two of them, and those that find out the demand.
    expect(busy.calls).toBeLessThan(60);
    const empty = new SimulatedLedger(1, time, 2);
    const other = new LeaseBook(time.clock);
    for (let i = 0; i < 500; i++) {
      const call = other.admit("key_2", () => empty);
      await time.pass(5);
      await call;
    }
    expect(empty.calls).toBeLessThan(6);
  });

  it("are answered as unreachable when the ledger is, and the next call finds it again", async () => {
    const time = new Time();
    const ledger = new SimulatedLedger(10, time, 1);
    ledger.failNext = 1;
    const book = new LeaseBook(time.clock);
    const first = book.admit("key_1", () => ledger);
    await time.pass(10);
    expect(await first).toEqual({ kind: "unreachable" });
    const second = book.admit("key_1", () => ledger);
    await time.pass(10);
    expect((await second).kind).toBe("admitted");
  });
});

describe("settlements", () => {
  it(`each reach the ledger, in few calls, while it fails now and then (${RUNS} runs)`, async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.nat(80), { minLength: 1, maxLength: 40 }), fc.nat(3), async (gaps, failures) => {
        const time = new Time();
        const ledger = new SimulatedLedger(1000, time, 3);
        ledger.failNext = failures;
        const book = new LeaseBook(time.clock);
        const all: Promise<void>[] = [];
        for (const [i, gap] of gaps.entries()) {
          all.push(book.settle("key_1", { requestId: `req_${i}`, record: "{}" }, () => ledger));
          await time.pass(gap);
        }
        await time.pass(10_000);
        await Promise.all(all);
        expect(ledger.settled.size).toBe(gaps.length);
        expect(ledger.calls).toBeLessThanOrEqual(gaps.length + failures);
      }),
      { numRuns: RUNS },
    );
  });
});
