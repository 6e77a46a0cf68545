/** The chain of a key's audit rows: made by the outbox, stored by D1, walked by `GET /admin/audit/verify`. */
import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { type ChainEnd, linkHash, NO_HASH, rowOf } from "../../src/audit/chain.ts";
import { AUDIT_CONSUMER, auditConsumer } from "../../src/audit/consumer.ts";
import type { AuditRecord } from "../../src/audit/record.ts";
import { sweepAudit } from "../../src/audit/retention.ts";
import { AUDIT_COLUMNS } from "../../src/audit/store.ts";
import { verifyChain } from "../../src/audit/verify.ts";
import { Outbox } from "../../src/ledger/outbox.ts";
import { newId } from "../../src/wire/ids.ts";
import { auditRecord, call, problem } from "../admin/control-plane.ts";
import { storeAudit } from "../support/store-audit.ts";

const DAY = 24 * 60 * 60 * 1_000;
const NOW = Date.parse("2026-11-21T12:00:00Z");
const NO_ALARM = { arm: () => {} };

let logged: string[] = [];
beforeEach(async () => {
  logged = [];
  vi.spyOn(console, "error").mockImplementation((line: string) => void logged.push(line));
  await env.DB.prepare("DELETE FROM audit_retention").run();
});
afterEach(() => vi.restoreAllMocks());

type Lean = Record<string, unknown> & { request_id: string };
const lean = (key_id: string, at = NOW, changes: Record<string, unknown> = {}): Lean => ({
  request_id: newId("req", at),
  key_id,
  workspace: "ws_chain",
  at,
  route: "/v1/messages",
  method: "POST",
  dialect: "anthropic",
  status: 200,
  outcome: "complete",
  duration_ms: 5,
  ...changes,
});

/** Runs on the storage of the key's own ledger, so that the route finds what it notes there. */
function inLedger<T>(key: string, work: (storage: DurableObjectStorage) => Promise<T>): Promise<T> {
  return runInDurableObject(env.KEY_LEDGER.getByName(key), (_, state) => work(state.storage));
}

async function runAlarms(outbox: Outbox, from = NOW): Promise<void> {
  let now = from;
  for (let i = 0; i < 200; i++) {
    const at = outbox.nextAlarmAt();
    if (at === null) return;
    now = Math.max(now, at);
    await outbox.flush(now);
  }
}

/** Carries records to D1 as the key's ledger does, in deliveries of their own. */
async function carry(key: string, ...messages: (readonly unknown[])[]): Promise<void> {
  await inLedger(key, async (storage) => {
    for (const records of messages) {
      const outbox = new Outbox(storage, [auditConsumer(env.DB)], NO_ALARM);
      outbox.add(JSON.stringify(records), NOW);
      await runAlarms(outbox);
    }
  });
}

const endOf = (key: string): Promise<ChainEnd | null> =>
  inLedger(key, async (storage) => {
    const note = new Outbox(storage, [auditConsumer(env.DB)], NO_ALARM).noteOf(AUDIT_CONSUMER);
    return note === "" ? null : ((JSON.parse(note) as Record<string, ChainEnd>)[key] ?? null);
  });

const verify = async (key: string, from = 1, limit = 1_000) => verifyChain(env.DB, key, from, limit, await endOf(key));

/** A key with `count` rows in its chain, one delivery for each three of them. */
async function chained(count: number, at = NOW): Promise<{ key: string; rows: Lean[] }> {
  const key = newId("key", at);
  const rows = Array.from({ length: count }, (_, i) => lean(key, at + i));
  for (let i = 0; i < count; i += 3) await carry(key, rows.slice(i, i + 3));
  return { key, rows };
}

const change = (sql: string, ...values: unknown[]) =>
  env.DB.prepare(sql)
    .bind(...values)
    .run();

describe("a link", () => {
  it("is the SHA-256 over the hash before, a line feed and version 1 of the columns, which never changes", async () => {
    const row = rowOf({ ...auditRecord({ at: NOW, request_id: "req_1", key_id: "key_1" }), chain_seq: 7 });
    const columns = AUDIT_COLUMNS.filter((name) => name !== "chain_seq" && name !== "chain_hash");
    expect(Object.keys(row)).toEqual(columns);
    const text = `${NO_HASH}\n${JSON.stringify(["audit-1", 7, ...Object.values(row)])}`;
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text)));
    const hash = [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    expect(await linkHash(NO_HASH, 7, row)).toBe(hash);
    // What was hashed once must be hashed so for ever.
    expect(hash).toBe("9f5fe879183fbf4682b2d20f215589694779b87d2c4db5656c7f6e28e7774f40");
  });

  it("is made of whole characters without NUL, of numbers where there shall be numbers, and of what absence means", () => {
    const odd = {
      client: "a\0b\ud800c",
      session_id: 7,
      agent_id: {},
      stream: true,
      attempts: "3",
      status: null,
      at: -0,
    };
    expect(rowOf(odd)).toMatchObject({
      ...{ client: "a\ufffdb\ufffdc", session_id: null, agent_id: null, stream: 1, attempts: 0, status: null, at: 0 },
      ...{ requests: 1, input_tokens: 0, model: null, key_id: null },
    });
    for (const none of [null, 7, "text", [], undefined]) expect(rowOf(none)).toEqual(rowOf({}));
  });

  it("can be made again from what D1 gives back, whatever stood in the record (25 runs)", async () => {
    const text = fc.oneof(
      fc.string({ unit: "binary", maxLength: 12 }),
      fc.constantFrom("\ud800", "a\udc00b", "\0", "x\0y", "null", "\u2028", "😀", "1", "1e400", " 12 ", ""),
      fc.array(fc.integer({ min: 0, max: 0xffff }), { maxLength: 6 }).map((units) => String.fromCharCode(...units)),
    );
    const number = fc.oneof(
      fc.integer(),
      fc.maxSafeInteger(),
      fc.double({ noNaN: true, noDefaultInfinity: true }),
      fc.constantFrom(0, -0, 1, 0.1, 1e15, 1e16, 1e20, 1e21, 1e300, -1e300, 5e-324, 2 ** 53 + 2, 2 ** 63, -(2 ** 63)),
    );
    const odd = fc.oneof(text, number, fc.boolean(), fc.constant(null), fc.constant([1]), fc.constant({ a: 1 }));
    const required = new Set(["request_id", "key_id", "workspace", "at", "route", "method", "dialect", "status"]);
    const optional = AUDIT_COLUMNS.filter((name) => !required.has(name) && name !== "outcome");
    const fields = fc.record(Object.fromEntries(optional.map((name) => [name, odd])), { requiredKeys: [] });
    await fc.assert(
      fc.asyncProperty(
        fc.array(fields, { minLength: 1, maxLength: 5 }),
        text,
        number,
        async (records, client, cost) => {
          const key = newId("key", NOW);
          const rows = records.map((record) => lean(key, NOW, { ...record, client, cost_micro_usd: cost }));
          await carry(key, rows);
          expect(await verify(key)).toMatchObject({ verified: rows.length, last: rows.length, broken: null });
        },
      ),
      { numRuns: 25 },
    );
  });
});

describe("the chain", () => {
  it("numbers rows from 1 in the order of delivery, over deliveries and restarts", async () => {
    const { key, rows } = await chained(10);
    const { results } = await change(
      "SELECT request_id, chain_seq FROM audit WHERE key_id = ? ORDER BY chain_seq",
      key,
    );
    expect(results).toEqual(rows.map(({ request_id }, i) => ({ request_id, chain_seq: i + 1 })));
    expect(await verify(key)).toMatchObject({ verified: 10, first: 1, last: 10, broken: null, more: false });
    expect(await endOf(key)).toMatchObject({ seq: 10, at: NOW + 9, before: "" });
  });

  it("takes no number for a record that came twice, in one delivery or in two, or that D1 has without one", async () => {
    const key = newId("key", NOW);
    const [a, b, c, old] = [lean(key), lean(key), lean(key), lean(key)];
    await storeAudit(env.DB, [old]);
    await carry(key, [a, a, b], [old, b, c, a], [a], [lean(key)]);
    expect(await verify(key)).toMatchObject({ verified: 4, last: 4, broken: null });
    const { results } = await change("SELECT request_id FROM audit WHERE key_id = ? AND chain_seq IS NULL", key);
    expect(results).toEqual([{ request_id: old?.request_id }]);
  });

  it("begins behind what an earlier release has stored, and takes over what that has not noted", async () => {
    const key = newId("key", NOW);
    const before = [lean(key, NOW), lean(key, NOW + 1)];
    await storeAudit(env.DB, before);
    // Delivered by that release, which died before it had noted so.
    await carry(key, [before[1], lean(key, NOW + 2), lean(key, NOW + 3)]);
    expect(await endOf(key)).toMatchObject({ seq: 2, before: before[1]?.request_id });
    expect(await verify(key)).toMatchObject({ verified: 2, broken: null });
  });

  it("U-05 goes on with the same numbers when a crash or a lost answer repeats a delivery, whole or in part", async () => {
    const key = newId("key", NOW);
    await inLedger(key, async (storage) => {
      const consumer = auditConsumer(env.DB);
      const dying = { ...consumer, deliver: async () => Promise.reject(new Error("Network connection lost.")) };
      const first = new Outbox(storage, [dying], NO_ALARM);
      first.add(JSON.stringify([lean(key), lean(key), lean(key)]), NOW);
      await first.flush(NOW);
      // Stored, and the object died before it could note so.
      const [batch] = storage.sql.exec<{ records: string }>("SELECT records FROM outbox_batch").toArray();
      await consumer.deliver([{ seq: 1, records: batch?.records ?? "" }]);
      const second = new Outbox(storage, [consumer], NO_ALARM);
      second.add(JSON.stringify([lean(key), lean(key)]), NOW);
      await runAlarms(second);
    });
    expect(await verify(key)).toMatchObject({ verified: 5, last: 5, broken: null });
  });

  it("takes an error for none when D1 has done the work all the same, in whatever words", async () => {
    const key = newId("key", NOW);
    let errors = 3;
    const db = {
      prepare: (sql: string) => ({
        bind: (...values: unknown[]) => ({
          async run() {
            const result = await change(sql, ...values);
            if (sql.startsWith("INSERT INTO audit ") && errors-- > 0) throw new Error("D1_ERROR: something new");
            return result;
          },
        }),
      }),
    } as unknown as D1Database;
    await inLedger(key, async (storage) => {
      const outbox = new Outbox(storage, [auditConsumer(db)], NO_ALARM);
      outbox.add(JSON.stringify([lean(key), lean(key)]), NOW);
      await outbox.flush(NOW);
      expect(outbox.state(NOW)).toMatchObject({ rows: 0, parked: 0, failures: 0 });
      outbox.add(JSON.stringify([lean(key)]), NOW);
      await runAlarms(outbox);
    });
    expect(await verify(key)).toMatchObject({ verified: 3, broken: null });
  });

  it("L7 U-04 has neither gap nor double after crashes, lost answers, poison, double records and a full outbox (25 runs)", async () => {
    const step = fc.oneof(
      {
        weight: 4,
        arbitrary: fc.record({ rows: fc.integer({ min: 1, max: 6 }), odd: fc.integer({ min: 0, max: 12 }) }),
      },
      { weight: 4, arbitrary: fc.constantFrom("works" as const, "away" as const, "silent" as const, "dies" as const) },
    );
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 3, maxLength: 20 }), async (steps) => {
        const key = newId("key", NOW);
        await inLedger(key, async (storage) => {
          let fate: string = "works";
          let sent: unknown[] = [];
          let now = NOW;
          const db = {
            prepare: (sql: string) => ({
              bind: (...values: unknown[]) => ({
                async run() {
                  if (fate === "away") throw new Error("D1_ERROR: Network connection lost.");
                  const result = await change(sql, ...values);
                  if (fate === "silent") throw new Error("D1_ERROR: Network connection lost.");
                  if (fate === "dies") await new Promise(() => {});
                  return result;
                },
              }),
            }),
          } as unknown as D1Database;
          const open = () =>
            new Outbox(storage, [auditConsumer(db)], {
              ...NO_ALARM,
              deliveryDeadlineMs: fate === "dies" ? 2 : 5_000,
              cap: { rows: 12 },
              clock: () => now,
            });
          let outbox = open();
          for (const current of steps) {
            if (typeof current === "string") {
              fate = current;
              outbox = open();
              now = Math.max(now, outbox.nextAlarmAt() ?? now);
              await outbox.flush(now);
              fate = "works";
              outbox = open();
              continue;
            }
            const rows: unknown[] = Array.from({ length: current.rows }, () => lean(key, now));
            if (current.odd === 1) rows[0] = { ...lean(key), status: null };
            if (current.odd === 2) rows.splice(1, 0, null);
            if (current.odd === 3 && sent.length > 0) rows.push(...sent);
            sent = rows.filter((row) => row !== null);
            outbox.add(JSON.stringify(rows), now);
          }
          await runAlarms(outbox, now);
          expect(outbox.state(now).rows).toBe(0);
        });
        const walk = await verify(key);
        expect(walk).toMatchObject({ broken: null, more: false });
        const { results } = await change("SELECT count(*) AS n FROM audit WHERE key_id = ?", key);
        expect(results).toEqual([{ n: walk.verified }]);
        expect((await endOf(key))?.seq ?? 0).toBe(walk.verified);
      }),
      { numRuns: 25 },
    );
  });
});

describe("verifyChain", () => {
  it.each(AUDIT_COLUMNS)("finds a changed %s", async (name) => {
    const { key, rows } = await chained(7);
    const id = rows[3]?.request_id;
    const { results } = await change("SELECT * FROM audit WHERE request_id = ?", id);
    const [row] = results as AuditRecord[];
    const value = row?.[name];
    const other = typeof value === "number" ? value + 1 : name === "findings" ? '{"EMAIL":1}' : `${value ?? "a"}x`;
    const edited = value === null && name === "template_version" ? 1 : other;
    await change(`UPDATE audit SET ${name} = ? WHERE request_id = ?`, edited, id);
    const { broken, verified } = await verify(key);
    expect(broken).not.toBeNull();
    expect([broken?.chain_seq, verified]).toEqual(name === "chain_seq" ? [4, 3] : [4, 3]);
    if (value !== null) return;
    // Null is not the empty text, and no value is the text of it.
    for (const near of ["", "null", 0]) {
      await change(`UPDATE audit SET ${name} = ? WHERE request_id = ?`, near, id);
      expect((await verify(key)).broken).not.toBeNull();
    }
  });

  it("finds a deleted row, the first one, and a cut tail", async () => {
    for (const [place, seq] of [
      [3, 4],
      [0, 1],
      [6, 7],
    ] as const) {
      const { key, rows } = await chained(7);
      await change("DELETE FROM audit WHERE request_id = ?", rows[place]?.request_id);
      expect(await verify(key)).toMatchObject({
        verified: seq - 1,
        broken: { chain_seq: seq, request_id: null, reason: "missing" },
      });
    }
    const { key } = await chained(7);
    await change("DELETE FROM audit WHERE key_id = ?", key);
    expect((await verify(key)).broken).toEqual({ chain_seq: 1, request_id: null, reason: "missing" });
  });

  it("finds an inserted row: with a number that is taken, with none, with one below, behind the end, with a right hash", async () => {
    const forged = async (key: string, changes: Partial<AuditRecord>) => {
      const row = auditRecord({ key_id: key, at: NOW + 1, ...changes });
      await storeAudit(env.DB, [row]);
      return { request_id: row.request_id, broken: (await verify(key)).broken };
    };
    const { key } = await chained(5);
    for (const at of [NOW - DAY, NOW + DAY]) {
      const taken = await forged(key, { chain_seq: 3, chain_hash: "0".repeat(64), request_id: newId("req", at) });
      expect(taken.broken).toEqual({ chain_seq: 3, request_id: taken.request_id, reason: "repeated" });
      await change("DELETE FROM audit WHERE request_id = ?", taken.request_id);
    }
    const bare = await forged(key, {});
    expect(bare.broken).toEqual({ chain_seq: null, request_id: bare.request_id, reason: "unchained" });
    await change("DELETE FROM audit WHERE request_id = ?", bare.request_id);
    for (const chain_seq of [0, -3, -1e300, 2.5]) {
      const below = await forged(key, { chain_seq, chain_hash: NO_HASH });
      expect(below.broken).toMatchObject({ request_id: below.request_id, reason: "hash" });
      await change("DELETE FROM audit WHERE request_id = ?", below.request_id);
    }
    const gap = await forged(key, { chain_seq: 9, chain_hash: NO_HASH });
    expect(gap.broken).toEqual({ chain_seq: 6, request_id: null, reason: "missing" });
    await change("DELETE FROM audit WHERE request_id = ?", gap.request_id);
    // One that is linked rightly behind the end stands until the next row comes, and is found then.
    const last = await endOf(key);
    const row = rowOf(auditRecord({ key_id: key, at: NOW + 9 }));
    const chain_hash = await linkHash(last?.hash ?? "", 6, row);
    await storeAudit(env.DB, [{ ...row, chain_seq: 6, chain_hash }]);
    await carry(key, [lean(key, NOW + 10)]);
    expect((await verify(key)).broken).toMatchObject({ chain_seq: 6, reason: "repeated" });
  });

  it("finds two rows that have changed places, and a chain that was made anew from a changed row on", async () => {
    const { key, rows } = await chained(6);
    const [a, b] = [rows[1]?.request_id, rows[4]?.request_id];
    const links = await change("SELECT request_id, chain_seq, chain_hash FROM audit WHERE key_id = ?", key);
    const linkOf = (id: unknown) => (links.results as AuditRecord[]).find(({ request_id }) => request_id === id);
    const relink = "UPDATE audit SET chain_seq = ?, chain_hash = ? WHERE request_id = ?";
    await change(relink, linkOf(b)?.chain_seq, linkOf(b)?.chain_hash, a);
    await change(relink, linkOf(a)?.chain_seq, linkOf(a)?.chain_hash, b);
    expect((await verify(key)).broken).toEqual({ chain_seq: 2, request_id: b, reason: "hash" });

    const other = await chained(6);
    await change("UPDATE audit SET cost_micro_usd = 0, status = 418 WHERE request_id = ?", other.rows[2]?.request_id);
    const { results } = await change("SELECT * FROM audit WHERE key_id = ? ORDER BY chain_seq", other.key);
    let hash = NO_HASH;
    for (const row of results as AuditRecord[]) {
      hash = await linkHash(hash, row.chain_seq, row);
      await change("UPDATE audit SET chain_hash = ? WHERE request_id = ?", hash, row.request_id);
    }
    // Nothing but the ledger knows.
    expect((await verifyChain(env.DB, other.key, 1, 100, undefined)).broken).toBeNull();
    expect((await verify(other.key)).broken).toEqual({
      chain_seq: 6,
      request_id: other.rows[5]?.request_id,
      reason: "hash",
    });
  });

  it("walks page by page to the same verdict, whatever the page's size and wherever it begins (30 runs)", async () => {
    const { key, rows } = await chained(20);
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 22 }), fc.integer({ min: 0, max: 20 }), async (limit, edited) => {
        const id = rows[edited]?.request_id ?? "";
        await change("UPDATE audit SET client = 'x' WHERE request_id = ?", id);
        let from = 1;
        let verified = 0;
        for (;;) {
          const walk = await verify(key, from, limit);
          expect(walk.verified).toBeLessThanOrEqual(limit);
          verified += walk.verified;
          if (walk.broken) expect([walk.broken.chain_seq, walk.broken.request_id]).toEqual([edited + 1, id]);
          if (!walk.more) {
            expect(walk.broken === null).toBe(edited === 20);
            break;
          }
          from = (walk.last ?? 0) + 1;
        }
        expect(verified).toBe(edited);
        await change("UPDATE audit SET client = NULL WHERE request_id = ?", id);
        expect((await verify(key, edited + 1)).broken).toBeNull();
      }),
      { numRuns: 30 },
    );
  });

  it("holds what retention leaves, gaps near its line and an empty rest included, and nothing else", async () => {
    const key = newId("key", NOW);
    const old = NOW - 10 * DAY;
    // The third call began before the line and ended after others that began behind it.
    const times = [old, old + 1, NOW - 8 * DAY + 7_200_000, old + 2, NOW - 8 * DAY + 7_200_001, NOW, NOW];
    const rows = times.map((at) => lean(key, at));
    await carry(key, rows.slice(0, 3), rows.slice(3));
    expect(await verify(key)).toMatchObject({ verified: 7, broken: null });
    await sweepAudit(env.DB, 8, () => NOW);
    expect(await verify(key)).toMatchObject({ verified: 4, first: 3, last: 7, broken: null });
    await change("DELETE FROM audit WHERE request_id = ?", rows[5]?.request_id);
    expect((await verify(key)).broken).toEqual({ chain_seq: 6, request_id: null, reason: "missing" });

    const idle = await chained(3, old);
    await sweepAudit(env.DB, 8, () => NOW);
    expect(await verify(idle.key)).toMatchObject({ verified: 0, last: null, broken: null });
    await carry(idle.key, [lean(idle.key, NOW)]);
    // Its first row is not near the line; the ledger knows that the one before it was.
    expect(await verify(idle.key)).toMatchObject({ verified: 1, first: 4, last: 4, broken: null });
    await carry(idle.key, [lean(idle.key, NOW + 1), lean(idle.key, NOW + 2)]);
    await change("DELETE FROM audit WHERE key_id = ? AND chain_seq < 6", idle.key);
    expect((await verify(idle.key)).broken).toEqual({ chain_seq: 1, request_id: null, reason: "missing" });
  });
});

describe("GET /admin/audit/verify", () => {
  it("answers where a walk has come to, page by page, and what is broken", async () => {
    const { key, rows } = await chained(5);
    const of = async (query: string) => {
      const { status, body } = await call(`audit/verify?key=${key}${query}`);
      expect(status).toBe(200);
      return body;
    };
    const whole = { key, verified: 5, first_seq: 1, last_seq: 5, ok: true, broken: null, tail: "compared" };
    expect(await of("")).toEqual({ ...whole, kept_from: null, next_cursor: null });
    const first = await of("&limit=3");
    expect(first).toMatchObject({ verified: 3, last_seq: 3, ok: true, tail: "ahead", next_cursor: "3" });
    expect(await of("&cursor=3")).toMatchObject({ verified: 2, first_seq: 4, last_seq: 5, next_cursor: null });
    expect(await of("&from=5")).toMatchObject({ verified: 1, first_seq: 5, ok: true });
    await change("UPDATE audit SET cost_micro_usd = 1 WHERE request_id = ?", rows[1]?.request_id);
    expect(await of("")).toMatchObject({
      verified: 1,
      last_seq: 1,
      ok: false,
      broken: { chain_seq: 2, request_id: rows[1]?.request_id, reason: "hash" },
      next_cursor: null,
    });
    const none = await call(`audit/verify?key=${newId("key", NOW)}`);
    expect(none.body).toMatchObject({ verified: 0, first_seq: null, last_seq: null, ok: true, tail: "compared" });
  });

  it("tells that the end is not known while the ledger is away, and refuses what is no question", async () => {
    const { key, rows } = await chained(4);
    await change("DELETE FROM audit WHERE request_id = ?", rows[3]?.request_id);
    const away = { chainEnd: () => Promise.reject(new Error("cut")) };
    const bindings = { KEY_LEDGER: { getByName: () => away } as unknown as Env["KEY_LEDGER"] };
    expect((await call(`audit/verify?key=${key}`, { env: bindings })).body).toMatchObject({
      verified: 3,
      ok: true,
      tail: "unknown",
    });
    expect(problem(await call("audit/verify"), 400, "invalid_request_error")).toBe("key: Field required");
    for (const query of ["key=x", `key=${key}&from=0`, `key=${key}&limit=5001`, `key=${key}&cursor=a`]) {
      problem(await call(`audit/verify?${query}`), 400, "invalid_request_error");
    }
    problem(await call(`audit/verify?key=${key}`, { as: null }), 401, "authentication_error");
  });
});
