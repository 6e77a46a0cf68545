/** The outbox on the real SQLite of a Durable Object, before D1 and before consumers that fail in every way. */
import { evictDurableObject, runDurableObjectAlarm, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { readEnds } from "../../src/audit/chain.ts";
import { auditConsumer } from "../../src/audit/consumer.ts";
import { verifyChain } from "../../src/audit/verify.ts";
import type { Batch } from "../../src/ledger/batch-queue.ts";
import { type Consumer, Outbox, type OutboxOptions } from "../../src/ledger/outbox.ts";
import { newId } from "../../src/wire/ids.ts";

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const START = Date.parse("2026-11-21T00:00:00Z");
const NO_ALARM: OutboxOptions = { arm: () => {} };

let lines: Record<string, unknown>[] = [];
const linesOf = (msg: string) => lines.filter((line) => line.msg === msg);
beforeEach(() => {
  lines = [];
  vi.spyOn(console, "error").mockImplementation((line: string) => void lines.push(JSON.parse(line)));
});
afterEach(() => vi.restoreAllMocks());

let objects = 0;
/** Runs inside a fresh object, on its own storage. */
function inObject<T>(work: (storage: DurableObjectStorage) => Promise<T>): Promise<T> {
  return runInDurableObject(env.KEY_LEDGER.getByName(`outbox-test-${objects++}`), (_, state) => work(state.storage));
}

const idsOf = (batches: readonly Batch[]): string[] =>
  batches.flatMap(({ records }) => (JSON.parse(records) as { request_id: string }[]).map((row) => row.request_id));
const recordsOf = (ids: readonly string[]): string => JSON.stringify(ids.map((request_id) => ({ request_id })));
const numbered = (count: number, from = 0): string[] => Array.from({ length: count }, (_, i) => `r${from + i}`);

/** A consumer that remembers, by request id, what came first; `fail` says what goes wrong, before or after it is kept. */
function remembering(options: Partial<Consumer> & { fail?: (batches: readonly Batch[], nth: number) => void } = {}) {
  const { fail, ...rest } = options;
  const known = new Set<string>();
  const deliveries: (readonly Batch[])[] = [];
  const consumer: Consumer = {
    name: "memory",
    maxRows: 1_000,
    async deliver(batches) {
      deliveries.push(batches);
      fail?.(batches, deliveries.length);
      for (const id of idsOf(batches)) known.add(id);
    },
    ...rest,
  };
  return { consumer, known, deliveries };
}

/** Flushes as the alarm would, with the clock set to when it is due, until nothing waits or it was too often. */
async function runAlarms(outbox: Outbox, from: number, most = 1_000): Promise<number> {
  let now = from;
  for (let i = 0; i < most; i++) {
    const at = outbox.nextAlarmAt();
    if (at === null) return now;
    now = Math.max(now, at);
    await outbox.flush(now);
  }
  return now;
}

/** A record as a ledger would keep it, without what may be left out. */
const lean = (keyId: string, at: number, changes: Record<string, unknown> = {}) => ({
  request_id: newId("req", at),
  key_id: keyId,
  workspace: "ws_default",
  at,
  route: "/v1/messages",
  method: "POST",
  dialect: "anthropic",
  status: 200,
  outcome: "complete",
  input_tokens: 10,
  cost_micro_usd: 7,
  ...changes,
});

async function inD1(keyId: string): Promise<{ rows: number; cost: number; requests: number }> {
  const row = await env.DB.prepare(
    `SELECT (SELECT count(*) FROM audit WHERE key_id = ?1) AS rows,
       (SELECT coalesce(sum(cost_micro_usd), 0) FROM audit WHERE key_id = ?1) AS cost,
       (SELECT coalesce(sum(requests), 0) FROM usage_hourly WHERE key_id = ?1) AS requests`,
  )
    .bind(keyId)
    .first<{ rows: number; cost: number; requests: number }>();
  return row ?? { rows: 0, cost: 0, requests: 0 };
}

/** D1, of which `fate` decides at each statement: it works, is away, or answers nothing though it did the work. */
function fatefulD1(fate: () => "works" | "away" | "silent"): D1Database {
  return {
    prepare: (sql: string) => ({
      bind: (...values: unknown[]) => ({
        async run() {
          const now = fate();
          if (now === "away") throw new Error("D1_ERROR: Network connection lost.");
          const result = await env.DB.prepare(sql)
            .bind(...values)
            .run();
          if (now === "silent") throw new Error("D1_ERROR: Network connection lost.");
          return result;
        },
      }),
    }),
  } as unknown as D1Database;
}

describe("Outbox: taking over", () => {
  it("keeps the text as it came and hands it on in order, in as few deliveries as may be", () =>
    inObject(async (storage) => {
      const { consumer, deliveries } = remembering({ maxRows: 10 });
      const outbox = new Outbox(storage, [consumer], NO_ALARM);
      const text = ' [ {"request_id":"a","x":"\\u00e9\\/ ü 😀"} , {"request_id":"b"} ] ';
      outbox.add(text, START);
      for (let i = 0; i < 9; i++) outbox.add(recordsOf([`c${i}`]), START);
      outbox.add("[]", START);
      expect(outbox.state(START + 5)).toMatchObject({ rows: 11, oldest_age_ms: 5, parked: 0, dropped: 0, failures: 0 });
      await outbox.flush(START);
      expect(deliveries.map((batches) => idsOf(batches).length)).toEqual([10, 1]);
      expect(deliveries[0]?.[0]?.records).toBe(text);
      expect(deliveries.flat().map((batch) => batch.seq)).toEqual(numbered(10).map((_, i) => i + 1));
      expect(outbox.state(START)).toMatchObject({ rows: 0, bytes: 0, oldest_age_ms: 0 });
    }));

  it("splits a long message into batches that fit a value, losing and changing nothing", () =>
    inObject(async (storage) => {
      const { consumer, deliveries } = remembering();
      const outbox = new Outbox(storage, [consumer], NO_ALARM);
      const rows = numbered(3_000).map((request_id, i) => ({ request_id, text: "é😀\n\"'".repeat(i % 120), n: i }));
      const text = JSON.stringify(rows);
      expect(text.length).toBeGreaterThan(1024 * 1024);
      outbox.add(text, START);
      expect(outbox.state(START).rows).toBe(3_000);
      await runAlarms(outbox, START);
      const batches = deliveries.flat();
      expect(batches.length).toBeGreaterThan(2);
      for (const { records } of batches) {
        expect(records.length).toBeLessThanOrEqual(512 * 1024 + 2_000);
        expect(new TextEncoder().encode(records).length).toBeLessThan(2_000_000);
      }
      expect(batches.flatMap(({ records }) => JSON.parse(records))).toEqual(rows);
    }));

  it.each(["", "{", "null", '{"request_id":"a"}', "[1,", '"text"'])(
    "parks %j, which is no array, and goes on",
    (text) =>
      inObject(async (storage) => {
        const { consumer, known } = remembering();
        const outbox = new Outbox(storage, [consumer], NO_ALARM);
        outbox.add(text, START);
        outbox.add(recordsOf(["a"]), START);
        expect(outbox.state(START)).toMatchObject({ rows: 1, parked: 1 });
        await outbox.flush(START);
        expect([...known]).toEqual(["a"]);
        expect(linesOf("outbox_parked").length).toBe(1);
      }),
  );

  it("carries over what the first release kept, before anything newer and in order", () =>
    inObject(async (storage) => {
      storage.sql.exec(
        "CREATE TABLE outbox (seq INTEGER PRIMARY KEY AUTOINCREMENT, request_id TEXT NOT NULL UNIQUE, record TEXT NOT NULL)",
      );
      for (const id of numbered(1_001)) {
        storage.sql.exec(
          "INSERT INTO outbox (request_id, record) VALUES (?, ?)",
          id,
          JSON.stringify({ request_id: id, at: START, text: `"'${id}é` }),
        );
      }
      const { consumer, deliveries } = remembering();
      const outbox = new Outbox(storage, [consumer], NO_ALARM);
      expect(outbox.state(START + 1)).toMatchObject({ rows: 1_001, oldest_age_ms: 1 });
      expect(outbox.nextAlarmAt()).toBe(1);
      outbox.add(recordsOf(["new"]), START);
      await runAlarms(new Outbox(storage, [consumer], NO_ALARM), START);
      expect(deliveries.flatMap(idsOf)).toEqual([...numbered(1_001), "new"]);
      expect(JSON.parse(deliveries[0]?.[0]?.records ?? "")[7]).toEqual({ request_id: "r7", at: START, text: `"'r7é` });
    }));
});

describe("Outbox: consumers", () => {
  it("keeps a batch until all have passed it; one that fails holds up none, pauses for itself, and over restarts", () =>
    inObject(async (storage) => {
      let away = true;
      const good = remembering({ name: "good" });
      const bad = remembering({
        name: "bad",
        fail: () => {
          if (away) throw new Error("away");
        },
      });
      const open = () => new Outbox(storage, [bad.consumer, good.consumer], NO_ALARM);
      let outbox = open();
      let now = START;
      const pauses: number[] = [];
      for (let i = 0; i < 9; i++) {
        outbox.add(recordsOf([`r${i}`]), now);
        await outbox.flush(now);
        expect([...good.known]).toEqual(numbered(i + 1));
        expect(outbox.state(now)).toMatchObject({ rows: i + 1, failures: i + 1 });
        const at = outbox.nextAlarmAt() ?? 0;
        pauses.push(at - now);
        // Earlier alarms change nothing for the one that pauses.
        await outbox.flush(at - 1);
        expect(bad.deliveries.length).toBe(i + 1);
        now = at;
        if (i % 2) outbox = open();
      }
      expect(pauses).toEqual([1, 2, 4, 8, 16, 32, 60, 60, 60].map((seconds) => seconds * 1_000));
      away = false;
      await outbox.flush(now);
      expect([...bad.known]).toEqual(numbered(9));
      expect(good.deliveries.flatMap(idsOf)).toEqual(numbered(9));
      expect(outbox.state(now)).toMatchObject({ rows: 0, failures: 0 });
      expect(outbox.nextAlarmAt()).toBeNull();
    }));

  it("U-08 survives whatever a consumer throws, refuses or never answers, and comes back for the rest", () =>
    inObject(async (storage) => {
      const hostile = {
        toString(): string {
          throw new Error("no text either");
        },
      };
      const fates: (() => Promise<undefined>)[] = [
        () => {
          throw new Error("at once");
        },
        () => Promise.reject(undefined),
        () => Promise.reject(hostile),
        () => Promise.reject(Symbol("x")),
        () => new Promise(() => {}),
        () => {
          throw null;
        },
        () => Promise.reject(new Error("seventh")),
        () => Promise.reject(new Error("eighth")),
      ];
      let turn = 0;
      const { consumer } = remembering();
      const seen: string[] = [];
      const failing: Consumer = {
        ...consumer,
        deliver: (batches) => fates[turn++]?.() ?? Promise.resolve(void seen.push(...idsOf(batches))),
        refusals: {
          judge: () => (turn % 2 ? "unclear" : "away"),
          works: () => {
            throw new Error("neither");
          },
          report: () => new Promise(() => {}),
        },
      };
      const armed: number[] = [];
      const outbox = new Outbox(storage, [failing], { arm: (at) => void armed.push(at), deliveryDeadlineMs: 5 });
      outbox.add(recordsOf(["a"]), START);
      let now = START;
      for (const _ of fates) {
        const before = armed.length;
        await outbox.flush(now);
        expect(armed.length).toBe(before + 1);
        now = armed.at(-1) ?? 0;
        expect(now).toBe(outbox.nextAlarmAt());
      }
      await outbox.flush(now);
      expect(seen).toEqual(["a"]);
      expect(outbox.state(now).rows).toBe(0);
    }));

  it("U-08 asks for its alarm again with the next record when asking failed, when the object restarted or the clock went back", () =>
    inObject(async (storage) => {
      const { consumer } = remembering({
        fail: () => {
          throw new Error("away");
        },
      });
      const armed: number[] = [];
      let broken = true;
      const arm = (at: number) => {
        if (broken) throw new Error("no alarm");
        armed.push(at);
      };
      const outbox = new Outbox(storage, [consumer], { arm });
      outbox.add(recordsOf(["a"]), START);
      await outbox.flush(START + 1_000);
      expect(armed).toEqual([]);
      broken = false;
      outbox.add(recordsOf(["b"]), START + 1_500);
      outbox.add(recordsOf(["c"]), START + 1_600);
      expect(armed).toEqual([START + 2_000]);
      const again = new Outbox(storage, [consumer], { arm });
      expect(again.nextAlarmAt()).toBe(START + 2_000);
      again.add(recordsOf(["d"]), START + 1_700);
      expect(armed).toEqual([START + 2_000, START + 2_000]);
      // An alarm of the ledger's own, after the clock went back an hour: a pause that long was never meant.
      await again.flush(START - HOUR);
      expect(again.nextAlarmAt()).toBe(START - HOUR + 2_000);
      again.add(recordsOf(["e"]), START - 3 * HOUR);
      expect(armed.at(-1)).toBe(START - 3 * HOUR + 1_000);
    }));

  it("U-08 the ledger's alarm is set after more failures than the platform forgives", async () => {
    const keyId = newId("key", Date.now());
    const ledger = env.KEY_LEDGER.getByName(keyId);
    await env.DB.prepare("ALTER TABLE audit RENAME TO audit_away").run();
    try {
      await runInDurableObject(ledger, (_, state) => {
        const outbox = new Outbox(state.storage, [auditConsumer(env.DB)], {
          arm: (at) => void state.storage.setAlarm(at),
        });
        outbox.add(JSON.stringify([lean(keyId, Date.now())]), Date.now());
      });
      await evictDurableObject(ledger);
      for (let i = 0; i < 8; i++) expect(await runDurableObjectAlarm(ledger)).toBe(true);
      expect(await runInDurableObject(ledger, (_, state) => state.storage.getAlarm())).toBeGreaterThan(0);
    } finally {
      await env.DB.prepare("ALTER TABLE audit_away RENAME TO audit").run();
    }
    expect(await inD1(keyId)).toMatchObject({ rows: 0 });
  });
});

describe("Outbox: the cap", () => {
  const away = (name: string, mayMiss?: true) =>
    remembering({
      name,
      ...(mayMiss ? { mayMiss } : {}),
      fail: () => {
        throw new Error("away");
      },
    });

  it("U-06 stores up to the cap in rows, counts what is beyond, says so once a minute, and keeps the oldest", () =>
    inObject(async (storage) => {
      const { consumer } = away("audit");
      const open = () => new Outbox(storage, [consumer], { ...NO_ALARM, cap: { rows: 10 } });
      let outbox = open();
      outbox.add(recordsOf(numbered(8)), START);
      outbox.add(recordsOf(numbered(3, 8)), START);
      expect(outbox.state(START)).toMatchObject({ rows: 8, dropped: 3 });
      outbox.add(recordsOf(numbered(2, 20)), START);
      expect(outbox.state(START)).toMatchObject({ rows: 10, dropped: 3 });
      for (let second = 0; second < 120; second++) outbox.add(recordsOf(["x"]), START + second * 1_000);
      expect(outbox.state(START)).toMatchObject({ rows: 10, dropped: 123 });
      expect(linesOf("outbox_full").length).toBe(2);
      outbox = open();
      outbox.add(recordsOf(["x"]), START);
      expect(outbox.state(START)).toMatchObject({ rows: 10, dropped: 124 });
      const healed = remembering({ name: "audit" });
      await runAlarms(new Outbox(storage, [healed.consumer], NO_ALARM), START);
      expect([...healed.known]).toEqual([...numbered(8), "r20", "r21"]);
    }));

  it("U-06 the same in bytes", () =>
    inObject(async (storage) => {
      const text = recordsOf(["ü"]);
      const bytes = new TextEncoder().encode(text).length;
      const outbox = new Outbox(storage, [away("audit").consumer], { ...NO_ALARM, cap: { bytes: 3 * bytes } });
      for (let i = 0; i < 3; i++) outbox.add(text, START);
      expect(outbox.state(START)).toMatchObject({ rows: 3, bytes: 3 * bytes, dropped: 0 });
      outbox.add(text, START);
      expect(outbox.state(START)).toMatchObject({ rows: 3, dropped: 1 });
    }));

  it("gives up the backlog of a consumer that may miss records before it refuses one", () =>
    inObject(async (storage) => {
      const metrics = away("metrics", true);
      const audit = remembering({ name: "audit" });
      const outbox = new Outbox(storage, [metrics.consumer, audit.consumer], { ...NO_ALARM, cap: { rows: 10 } });
      for (let i = 0; i < 25; i++) {
        outbox.add(recordsOf([`r${i}`]), START);
        await outbox.flush(START);
      }
      expect([...audit.known]).toEqual(numbered(25));
      expect(outbox.state(START)).toMatchObject({ dropped: 0, missed: 20, rows: 5 });
      expect(linesOf("outbox_given_up").length).toBe(2);
    }));
});

describe("Outbox: poison", () => {
  it("U-04 gets through a batch of nothing but poison over several flushes, parks each row once, and keeps the newest 1,000", () =>
    inObject(async (storage) => {
      const refused = new Set(numbered(1_150));
      const { consumer, known, deliveries } = remembering({
        fail: (batches) => {
          if (idsOf(batches).some((id) => refused.has(id))) throw new Error("refused");
        },
        refusals: { judge: () => "refused", works: async () => {}, report: async () => {} },
      });
      const outbox = new Outbox(storage, [consumer], NO_ALARM);
      outbox.add(recordsOf(numbered(1_100)), START);
      let flushes = 0;
      for (let before = 0; outbox.nextAlarmAt() !== null; flushes++) {
        await outbox.flush(START);
        expect(deliveries.length - before).toBeLessThanOrEqual(200);
        before = deliveries.length;
      }
      expect(flushes).toBeGreaterThan(10);
      expect(outbox.state(START)).toMatchObject({ rows: 0, parked: 1_100 });
      outbox.add(recordsOf([...numbered(50, 1_100), "good"]), START);
      await runAlarms(outbox, START);
      expect([...known]).toEqual(["good"]);
      expect(outbox.state(START)).toMatchObject({ rows: 0, parked: 1_150 });
      const kept = storage.sql.exec<{ request_id: string }>("SELECT request_id FROM parked ORDER BY id").toArray();
      expect(kept.map((row) => row.request_id)).toEqual(numbered(1_000, 150));
    }));

  it("U-04 finds the culprit among many small messages at once after three failures that it can't place, not after three for each half", () =>
    inObject(async (storage) => {
      const { consumer, known } = remembering({
        fail: (batches) => {
          if (idsOf(batches).includes("r41")) throw new Error("hm");
        },
        refusals: { judge: () => "unclear", works: async () => {}, report: async () => {} },
      });
      const outbox = new Outbox(storage, [consumer], NO_ALARM);
      for (const id of numbered(64)) outbox.add(recordsOf([id]), START);
      // Three failures: 1 + 2 + 4 s of pauses; then one flush finds it.
      expect(await runAlarms(outbox, START, 4)).toBe(START + 8_000);
      expect([...known]).toEqual(numbered(64).filter((id) => id !== "r41"));
      expect(outbox.state(START)).toMatchObject({ rows: 0, parked: 1 });
    }));

  it("a consumer without a view on refusals is waited for, however often it fails, and nothing is parked", () =>
    inObject(async (storage) => {
      let nth = 0;
      const { consumer, known } = remembering({
        fail: () => {
          if (nth++ < 20) throw new Error("NOT NULL constraint failed: SQLITE_CONSTRAINT");
        },
      });
      const outbox = new Outbox(storage, [consumer], NO_ALARM);
      outbox.add(recordsOf(["a", "b"]), START);
      await runAlarms(outbox, START);
      expect([...known]).toEqual(["a", "b"]);
      expect(outbox.state(START).parked).toBe(0);
    }));
});

describe("Outbox: what a simulation finds", () => {
  type Step =
    | { readonly do: "add"; readonly rows: number; readonly poison: readonly number[] }
    | { readonly do: "flush"; readonly fate: "works" | "away" | "silent" | "unclear" | "hangs"; readonly after: number }
    | { readonly do: "restart" }
    | { readonly do: "clock"; readonly ms: number };
  const step: fc.Arbitrary<Step> = fc.oneof(
    {
      weight: 4,
      arbitrary: fc.record({
        do: fc.constant("add" as const),
        rows: fc.integer({ min: 0, max: 12 }),
        poison: fc.oneof(fc.constant([]), fc.array(fc.integer({ min: 0, max: 11 }), { maxLength: 4 })),
      }),
    },
    {
      weight: 4,
      arbitrary: fc.record({
        do: fc.constant("flush" as const),
        fate: fc.constantFrom("works", "away", "silent", "unclear", "hangs"),
        after: fc.integer({ min: 0, max: 6 }),
      }),
    },
    { weight: 1, arbitrary: fc.constant({ do: "restart" as const }) },
    {
      weight: 1,
      arbitrary: fc.record({ do: fc.constant("clock" as const), ms: fc.integer({ min: -2 * HOUR, max: 2 * HOUR }) }),
    },
  );
  let runs = 0;

  it("L7 U-04 U-05 loses and doubles nothing, keeps the order, and parks exactly the poison (1,000 runs)", async () => {
    await inObject(async (storage) => {
      await fc.assert(
        fc.asyncProperty(
          fc.array(step, { minLength: 3, maxLength: 40 }),
          fc.integer({ min: 1, max: 20 }),
          async (steps, maxRows) => {
            runs++;
            for (const table of ["outbox_batch", "outbox_consumer", "outbox_note", "parked", "outbox_total"]) {
              storage.sql.exec(`DROP TABLE IF EXISTS ${table}`);
            }
            let now = START;
            let next = 0;
            const sent: string[] = [];
            const poison = new Set<string>();
            // The other sides, which outlive every restart of this one.
            const arrived: string[] = [];
            const known = new Set<string>();
            // What each was numbered when it was first stored: as the note that comes with a delivery says.
            const numbers = new Map<string, number>();
            const reported = new Set<string>();
            const counted: string[] = [];
            let countedThrough = 0;
            let fate: "works" | "away" | "silent" | "unclear" | "hangs" = "works";
            let left = 0;
            const database: Consumer = {
              name: "audit",
              maxRows,
              async deliver(batches, note = "0") {
                const current = left-- > 0 ? "works" : fate;
                if (current === "away") throw new Error("away");
                if (current === "unclear") throw new Error("hm");
                const ids = idsOf(batches);
                if (ids.some((id) => poison.has(id))) throw new Error(maxRows % 2 ? "refused" : "hm");
                let number = Number(note);
                for (const id of ids) {
                  if (!known.has(id)) arrived.push(id);
                  known.add(id);
                  number++;
                  // The same at each repetition.
                  expect(numbers.get(id) ?? number).toBe(number);
                  numbers.set(id, number);
                }
                if (current === "silent") throw new Error("away");
                if (current === "hangs") await new Promise(() => {});
                return String(number);
              },
              refusals: {
                judge: (error) => {
                  const { message } = error as Error;
                  return message === "refused" ? "refused" : message === "hm" ? "unclear" : "away";
                },
                works: async () => {
                  if (fate !== "works") throw new Error("away");
                },
                report: async ({ requestId }) => {
                  if (fate !== "works") throw new Error("away");
                  reported.add(requestId);
                },
              },
            };
            const metrics: Consumer = {
              name: "metrics",
              maxRows: 7,
              async deliver(batches) {
                if (fate === "away" && now % 3 === 0) throw new Error("away");
                for (const batch of batches) {
                  if (batch.seq <= countedThrough) continue;
                  countedThrough = batch.seq;
                  counted.push(...idsOf([batch]));
                }
                if (fate === "silent") throw new Error("away");
              },
            };
            const open = () =>
              new Outbox(storage, [database, metrics], { ...NO_ALARM, deliveryDeadlineMs: 1, clock: () => now });
            let outbox = open();
            for (const current of steps) {
              if (current.do === "add") {
                const ids = numbered(current.rows, next);
                next += current.rows;
                for (const place of current.poison) if (ids[place] !== undefined) poison.add(ids[place]);
                sent.push(...ids);
                outbox.add(recordsOf(ids), now);
              } else if (current.do === "flush") {
                fate = current.fate;
                left = current.after;
                now = Math.max(now, outbox.nextAlarmAt() ?? now);
                await outbox.flush(now);
              } else if (current.do === "restart") outbox = open();
              else now += current.ms;
            }
            fate = "works";
            left = 0;
            await runAlarms(outbox, now);
            const { rows, bytes, parked, dropped, failures } = outbox.state(now);
            expect([rows, bytes, dropped, failures]).toEqual([0, 0, 0, 0]);
            expect(arrived).toEqual(sent.filter((id) => !poison.has(id)));
            expect(counted).toEqual(sent);
            expect([...numbers.values()]).toEqual(arrived.map((_, i) => i + 1));
            expect(parked).toBe(poison.size);
            const kept = storage.sql
              .exec<{ request_id: string }>("SELECT request_id FROM parked ORDER BY id")
              .toArray();
            expect(kept.map((row) => row.request_id)).toEqual(sent.filter((id) => poison.has(id)));
            expect(reported.size).toBeLessThanOrEqual(poison.size);
          },
        ),
        { numRuns: 1_000 },
      );
    });
    expect(runs).toBeGreaterThanOrEqual(1_000);
  });
});

describe("Outbox: into D1", () => {
  it("L7 U-05 carries 180,000 rows through an hour of dead D1 at 50 a second: none lost, none doubled, in order", async () => {
    const keyId = newId("key", START);
    await inObject(async (storage) => {
      let now = START;
      let lost = 0;
      const db = fatefulD1(() => {
        if (now < START + HOUR) return "away";
        // Afterwards some answers get lost.
        return ++lost % 17 === 0 ? "silent" : "works";
      });
      const order: number[] = [];
      const consumer = auditConsumer(db);
      const watched: Consumer = {
        ...consumer,
        deliver: (batches, note) => {
          order.push(...batches.map((batch) => batch.seq));
          return consumer.deliver(batches, note);
        },
      };
      const outbox = new Outbox(storage, [watched], { ...NO_ALARM, clock: () => now });
      let tries = 0;
      for (let second = 0; second < 3_600; second++) {
        now = START + second * 1_000;
        outbox.add(JSON.stringify(Array.from({ length: 50 }, (_, i) => lean(keyId, now + i * 20))), now);
        if ((outbox.nextAlarmAt() ?? Number.POSITIVE_INFINITY) <= now) {
          tries++;
          await outbox.flush(now);
        }
      }
      // Doubling up to a minute: the hour costs some 65 tries, not 3,600.
      expect(tries).toBeGreaterThan(55);
      expect(tries).toBeLessThan(80);
      expect(outbox.state(now)).toMatchObject({ rows: 180_000, dropped: 0, parked: 0, oldest_age_ms: HOUR - 1_000 });
      now = START + HOUR;
      order.length = 0;
      now = await runAlarms(outbox, now);
      expect([...new Set(order)]).toEqual([...new Set(order)].sort((a, b) => a - b));
      expect(new Set(order).size).toBe(3_600);
      expect(outbox.state(now)).toMatchObject({ rows: 0, bytes: 0, dropped: 0, parked: 0 });
    });
    expect(await inD1(keyId)).toEqual({ rows: 180_000, cost: 7 * 180_000, requests: 180_000 });
    const ends = await env.DB.prepare(
      "SELECT min(chain_seq) AS first, max(chain_seq) AS last, count(DISTINCT chain_seq) AS n FROM audit WHERE key_id = ?",
    )
      .bind(keyId)
      .first();
    expect(ends).toEqual({ first: 1, last: 180_000, n: 180_000 });
  }, 120_000);

  it("U-05 repeats a delivery whose note was lost with the object, and D1 counts it once", async () => {
    const keyId = newId("key", START);
    await inObject(async (storage) => {
      const answer = Promise.withResolvers<void>();
      const consumer = auditConsumer(env.DB);
      const committed = Promise.withResolvers<void>();
      const dying: Consumer = {
        ...consumer,
        async deliver(batches, note) {
          const noted = await consumer.deliver(batches, note);
          committed.resolve();
          await answer.promise;
          return noted;
        },
      };
      const first = new Outbox(storage, [dying], NO_ALARM);
      first.add(JSON.stringify(Array.from({ length: 20 }, (_, i) => lean(keyId, START + i))), START);
      const flush = first.flush(START);
      await committed.promise;
      // Here the object dies; what it had noted is what the next one finds.
      const second = new Outbox(storage, [consumer], NO_ALARM);
      expect(second.state(START).rows).toBe(20);
      second.add(JSON.stringify([lean(keyId, START + 50)]), START);
      await runAlarms(second, START);
      answer.resolve();
      await flush;
    });
    expect(await inD1(keyId)).toEqual({ rows: 21, cost: 7 * 21, requests: 21 });
  });

  it("U-04 delivers everything around poison rows at random places and parks those, by D1's own errors (25 runs)", async () => {
    const bad: ((row: ReturnType<typeof lean>) => unknown)[] = [
      (row) => ({ ...row, key_id: undefined }),
      (row) => ({ ...row, at: null }),
      () => ({}),
      () => 7,
      () => null,
      () => "text",
      () => [],
    ];
    await fc.assert(
      fc.asyncProperty(
        fc.array(
          fc.tuple(
            fc.integer({ min: 1, max: 30 }),
            fc.array(fc.tuple(fc.nat(29), fc.nat(bad.length - 1)), { maxLength: 2 }),
          ),
          {
            minLength: 1,
            maxLength: 8,
          },
        ),
        async (messages) => {
          const keyId = newId("key", START);
          await inObject(async (storage) => {
            const outbox = new Outbox(storage, [auditConsumer(env.DB)], NO_ALARM);
            const good: string[] = [];
            let poison = 0;
            for (const [count, places] of messages) {
              const rows: unknown[] = Array.from({ length: count }, (_, i) => lean(keyId, START + i));
              for (const [place, kind] of places) {
                if (place < count) rows[place] = bad[kind]?.(lean(keyId, START));
              }
              outbox.add(JSON.stringify(rows), START);
              const whole = rows.filter(
                (row) =>
                  row !== null &&
                  typeof row === "object" &&
                  "key_id" in row &&
                  row.key_id !== undefined &&
                  "at" in row &&
                  row.at !== null,
              );
              good.push(...whole.map((row) => (row as { request_id: string }).request_id));
              poison += rows.length - whole.length;
            }
            await runAlarms(outbox, START);
            expect(outbox.state(START)).toMatchObject({ rows: 0, parked: poison, failures: 0 });
            const { results } = await env.DB.prepare("SELECT request_id FROM audit WHERE key_id = ?").bind(keyId).all();
            expect(results.map((row) => row.request_id).sort()).toEqual(good.sort());
            expect(storage.sql.exec("SELECT count(*) AS n FROM parked").one()).toEqual({ n: poison });
            const end = readEnds(outbox.noteOf("audit"))[keyId] ?? null;
            const walk = await verifyChain(env.DB, keyId, 1, 1_000, end);
            expect(walk).toMatchObject({ verified: good.length, broken: null });
          });
        },
      ),
      { numRuns: 25 },
    );
  });

  it("U-04 parks a row that is too large for D1 in its own words, and tells the log its id and no word of it", async () => {
    const keyId = newId("key", START);
    const row = lean(keyId, START, { client: "canary" });
    const report: unknown[] = [];
    const consumer = auditConsumer(env.DB);
    await inObject(async (storage) => {
      const outbox = new Outbox(
        storage,
        [
          {
            ...consumer,
            async deliver(batches, note) {
              if (batches.some(({ records }) => records.includes("canary"))) {
                throw new Error("D1_ERROR: string or blob too big: SQLITE_TOOBIG");
              }
              return consumer.deliver(batches, note);
            },
          },
        ],
        NO_ALARM,
      );
      outbox.add(JSON.stringify([lean(keyId, START), row, lean(keyId, START)]), START);
      await outbox.flush(START);
      expect(outbox.state(START)).toMatchObject({ rows: 0, parked: 1 });
    });
    report.push(await env.DB.prepare("SELECT * FROM audit_parked WHERE request_id = ?").bind(row.request_id).first());
    expect(report).toMatchObject([{ key_id: keyId, at: START, record: JSON.stringify(row) }]);
    expect(await inD1(keyId)).toMatchObject({ rows: 2, requests: 2 });
    expect(linesOf("outbox_parked")).toEqual([
      { level: "error", msg: "outbox_parked", request_id: row.request_id, consumer: "audit", error: "SQLITE_TOOBIG" },
    ]);
    expect(JSON.stringify(lines)).not.toContain("canary");
  });

  it.each([
    ["ALTER TABLE audit RENAME TO audit_away", "ALTER TABLE audit_away RENAME TO audit"],
    ["ALTER TABLE audit RENAME COLUMN denial TO denial_away", "ALTER TABLE audit RENAME COLUMN denial_away TO denial"],
    ["ALTER TABLE usage_hourly RENAME COLUMN errors TO e", "ALTER TABLE usage_hourly RENAME COLUMN e TO errors"],
  ])("parks nothing while the database is behind the code (%s)", async (breaks, heals) => {
    const keyId = newId("key", START);
    await inObject(async (storage) => {
      const outbox = new Outbox(storage, [auditConsumer(env.DB)], NO_ALARM);
      outbox.add(JSON.stringify([lean(keyId, START), lean(keyId, START)]), START);
      let now = START;
      await env.DB.prepare(breaks).run();
      try {
        now = await runAlarms(outbox, now, 8);
      } finally {
        await env.DB.prepare(heals).run();
      }
      expect(outbox.state(now).parked).toBe(0);
      await runAlarms(outbox, now);
    });
    expect(await inD1(keyId)).toMatchObject({ rows: 2 });
  });

  it.each([
    ["refused", "D1_ERROR: NOT NULL constraint failed: audit.key_id: SQLITE_CONSTRAINT"],
    ["refused", "D1_ERROR: malformed JSON: SQLITE_ERROR"],
    ["refused", "D1_ERROR: string or blob too big: SQLITE_TOOBIG"],
    ["away", "D1_ERROR: no such table: audit: SQLITE_ERROR"],
    ["away", "D1_ERROR: table audit has no column named denial: SQLITE_ERROR"],
    ["away", "D1_ERROR: database disk image is malformed: SQLITE_CORRUPT"],
    ["away", "D1_ERROR: Network connection lost."],
    ["away", "D1_ERROR: D1 DB is overloaded. Requests queued for too long."],
    ["away", "D1_ERROR: Exceeded maximum DB size"],
    ["away", "D1_ERROR: D1 DB storage operation exceeded timeout which caused object to be reset."],
    ["away", "no answer within 30000 ms"],
    ["unclear", "D1_ERROR: something new"],
  ])("U-04 takes for %s: %s", (verdict, text) => {
    expect(auditConsumer(env.DB).refusals?.judge(new Error(text))).toBe(verdict);
  });

  it("blames an error it does not know on a row only after three failures, and only if D1 takes note of the row", async () => {
    const keyId = newId("key", START);
    let notes = false;
    const consumer = auditConsumer(env.DB);
    const { refusals } = consumer;
    if (!refusals) throw new Error("no refusals");
    await inObject(async (storage) => {
      const outbox = new Outbox(
        storage,
        [
          {
            ...consumer,
            deliver: (batches, note) =>
              batches.some(({ records }) => records.includes("odd"))
                ? Promise.reject(new Error("D1_ERROR: something new"))
                : consumer.deliver(batches, note),
            refusals: {
              ...refusals,
              report: (parked) => (notes ? refusals.report(parked) : Promise.reject(new Error("away"))),
            },
          },
        ],
        NO_ALARM,
      );
      outbox.add(JSON.stringify([lean(keyId, START), lean(keyId, START, { client: "odd" })]), START);
      let now = await runAlarms(outbox, START, 3);
      expect(await inD1(keyId)).toMatchObject({ rows: 0 });
      now = await runAlarms(outbox, now, 3);
      expect(await inD1(keyId)).toMatchObject({ rows: 1 });
      expect(outbox.state(now)).toMatchObject({ rows: 2, parked: 0 });
      notes = true;
      await runAlarms(outbox, now);
      expect(outbox.state(now)).toMatchObject({ rows: 0, parked: 1 });
    });
  });
});
