/** Metrics inside the Workers runtime: the objects that count, the ledgers that tell them, and who may read. */
import { evictDurableObject, runDurableObjectAlarm, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { NOTHING } from "../../src/ledger/amounts.ts";
import type { Batch } from "../../src/ledger/batch-queue.ts";
import { Outbox } from "../../src/ledger/outbox.ts";
import type { Message } from "../../src/ledger/protocol.ts";
import { metricsConsumer, TELL_EVERY_MS } from "../../src/metrics/consumer.ts";
import { merge } from "../../src/metrics/exposition.ts";
import { type Gauges, hubAt, hubOf, type MetricsHub, type Report, SHARDS, shardOf } from "../../src/metrics/hub.ts";
import { GAUGE_LIFE_MS } from "../../src/metrics/metrics.ts";
import { observe } from "../../src/metrics/tally.ts";
import { poolOf } from "../../src/upstream/protocol.ts";
import { newId } from "../../src/wire/ids.ts";
import { ADMIN_TOKEN, auditRecord, makeKey, send } from "../admin/control-plane.ts";
import { scraped } from "./scraped.ts";

const MODEL = "claude-opus-5-5";
const NOTHING_HELD: Report = { gauges: {}, counters: {} };
const shardStub = (shard: number) => env.METRICS.getByName(`shard-${shard}`);

beforeEach(() => void vi.spyOn(console, "error").mockImplementation(() => {}));
afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
});

let ledgers = 0;
const newLedger = (): string => `test-ledger-${Date.now()}-${ledgers++}`;
const batch = (seq: number, ...costs: number[]): Batch => ({
  seq,
  records: JSON.stringify(costs.map((cost_micro_usd) => auditRecord({ cost_micro_usd }))),
});

/** What all metrics objects say together: every test looks at differences. */
const readAll = async () =>
  merge(await Promise.all(Array.from({ length: SHARDS }, (_, shard) => hubAt(env.METRICS, shard).read())));
async function counted() {
  const { tally } = await readAll();
  const of = (series: string, place = 0) => tally[series]?.[place] ?? 0;
  return {
    requests: of(`requests|/v1/messages|${MODEL}|200|complete`),
    cost: of(`usage|${MODEL}`, 6),
    calls: of("ledger_calls"),
    dropped: of("outbox_dropped"),
  };
}
type Counted = Awaited<ReturnType<typeof counted>>;
async function rise(before: Counted): Promise<Partial<Counted>> {
  const after = await counted();
  const names = Object.keys(after) as (keyof Counted)[];
  return Object.fromEntries(names.map((name) => [name, after[name] - before[name]]).filter(([, by]) => by !== 0));
}

/** The metrics, of which `fate` decides at each call: it works, is away, hangs, or answers nothing though it did the work. */
function fateful(fate: () => "works" | "away" | "silent") {
  const calls: string[] = [];
  const guard = async <T>(name: string, work: () => Promise<T>): Promise<T> => {
    calls.push(name);
    const now = fate();
    if (now === "away") throw new Error("Network connection lost.");
    const answer = await work();
    if (now === "silent") throw new Error("Network connection lost.");
    return answer;
  };
  const namespace = {
    getByName(name: string): MetricsHub {
      const real = env.METRICS.getByName(name) as unknown as MetricsHub;
      return {
        add: (delivery) => guard("add", () => real.add(delivery)),
        report: (ledger, report) => guard("report", () => real.report(ledger, report)),
        read: () => real.read(),
      };
    },
  } as unknown as Env["METRICS"];
  return { calls, namespace };
}

describe("a metrics object", () => {
  it("counts a batch once, however often and in whatever pieces it comes, over evictions", async () => {
    const ledger = newLedger();
    const before = await counted();
    const add = (fromSeq: number, toSeq: number, ...costs: number[]) =>
      hubOf(env.METRICS, ledger).add({
        ledger,
        fromSeq,
        toSeq,
        tally: observe([batch(fromSeq, ...costs).records]),
        report: NOTHING_HELD,
      });
    expect(await add(1, 3, 1, 2, 3)).toBe(3);
    expect(await add(1, 3, 1, 2, 3)).toBe(3);
    await evictDurableObject(shardStub(shardOf(ledger)));
    expect(await add(1, 3, 1, 2, 3)).toBe(3);
    // A part of this is counted: none of it is, and the answer says from where on to come again.
    expect(await add(2, 5, 2, 3, 4, 5)).toBe(3);
    expect(await add(4, 5, 4, 5)).toBe(5);
    // Batches in between were given up.
    expect(await add(9, 9, 9)).toBe(9);
    expect(await add(6, 8, 6, 7, 8)).toBe(9);
    expect(await rise(before)).toEqual({ requests: 6, cost: 24 });
  });

  it("counts a ledger's own counters from where it knew them, never backwards", async () => {
    const ledger = newLedger();
    const before = await counted();
    const report = (ledger_calls: number) =>
      hubOf(env.METRICS, ledger).report(ledger, { gauges: {}, counters: { ledger_calls } });
    for (const calls of [5, 3, 5, 8, Number.NaN, -1, 0.5]) await report(calls);
    await evictDurableObject(shardStub(shardOf(ledger)));
    await report(8);
    await report(9);
    expect(await rise(before)).toEqual({ calls: 9 });
  });

  it("keeps two ledgers apart, though they share an object and the numbers of their batches", async () => {
    const first = newLedger();
    let second = newLedger();
    while (shardOf(second) !== shardOf(first)) second = newLedger();
    const before = await counted();
    for (const ledger of [first, second, first]) {
      const tally = observe([batch(1, 10).records]);
      const report = { gauges: {}, counters: { ledger_calls: 2 } };
      await hubOf(env.METRICS, ledger).add({ ledger, fromSeq: 1, toSeq: 1, tally, report });
    }
    expect(await rise(before)).toEqual({ requests: 2, cost: 20, calls: 4 });
  });

  it("adds up gauges that were told in the last minute, and names ledgers that went silent with records", async () => {
    const start = Date.now() + 10 * GAUGE_LIFE_MS;
    vi.useFakeTimers({ now: start, toFake: ["Date"] });
    const one = newLedger();
    const two = newLedger();
    const report = (ledger: string, gauges: Gauges) =>
      hubOf(env.METRICS, ledger).report(ledger, { gauges, counters: {} });
    const gauges = async () => (await readAll()).gauges;
    const silentBefore = (await gauges()).silent_ledgers;
    await report(one, { open_streams: 2, outbox_rows: 1, outbox_oldest_at: start - 5 });
    vi.setSystemTime(start + 30_000);
    await report(two, { open_streams: 3, outbox_rows: 4, outbox_oldest_at: start - 9, reserved_micro_usd: 7 });
    expect(await gauges()).toMatchObject({
      open_streams: 5,
      outbox_rows: 5,
      outbox_oldest_at: start - 9,
      reserved_micro_usd: 7,
    });
    vi.setSystemTime(start + GAUGE_LIFE_MS - 1);
    expect((await gauges()).open_streams).toBe(5);
    vi.setSystemTime(start + GAUGE_LIFE_MS);
    expect(await gauges()).toMatchObject({
      open_streams: 3,
      outbox_rows: 4,
      outbox_oldest_at: start - 9,
      silent_ledgers: silentBefore + 1,
    });
    await evictDurableObject(shardStub(shardOf(two)));
    expect((await gauges()).open_streams).toBe(3);
    await report(two, {});
    await report(one, {});
    expect(await gauges()).toMatchObject({ open_streams: 0, outbox_oldest_at: null, silent_ledgers: silentBefore });
  });
});

describe("the metrics consumer", () => {
  it("U-05 counts once what is delivered again after lost answers, failures and new batches in between", async () => {
    const before = await counted();
    const fates: ("works" | "away" | "silent")[] = ["silent", "away", "works", "works", "silent", "works"];
    const { namespace, calls } = fateful(() => fates.shift() ?? "works");
    const consumer = metricsConsumer(namespace, newLedger(), () => NOTHING_HELD);
    const all = [batch(1, 1), batch(2, 2, 3), batch(5, 4)];
    await expect(consumer.deliver(all.slice(0, 2))).rejects.toThrow();
    await expect(consumer.deliver(all)).rejects.toThrow();
    // Two of three are counted already: asks, hears so, and comes again with the rest.
    await consumer.deliver(all);
    expect(calls).toEqual(["add", "add", "add", "add"]);
    await expect(consumer.deliver([batch(6, 5)])).rejects.toThrow();
    await consumer.deliver([batch(6, 5)]);
    await consumer.deliver(all);
    expect(await rise(before)).toEqual({ requests: 5, cost: 15 });
  });

  it("U-08 away or hanging, holds up no other consumer, and is given up before a new record is refused", async () => {
    const taken: number[] = [];
    const other = { name: "other", maxRows: 10, deliver: async (of: readonly Batch[]) => void taken.push(of.length) };
    const hanging = { getByName: () => ({ add: () => new Promise(() => {}) }) } as unknown as Env["METRICS"];
    const { namespace, calls } = fateful(() => "away");
    await runInDurableObject(env.KEY_LEDGER.getByName(newLedger()), async (_, { storage }) => {
      const away = metricsConsumer(namespace, newLedger(), () => NOTHING_HELD);
      const outbox = new Outbox(storage, [other, away], { arm: () => {}, cap: { rows: 3 } });
      for (let now = 1; now <= 5; now++) {
        outbox.add(batch(0, 1).records, now);
        await outbox.flush(now);
      }
      expect(taken).toEqual([1, 1, 1, 1, 1]);
      expect(calls).toEqual(["add"]);
      expect(outbox.state(5)).toMatchObject({ dropped: 0, missed: 3 });
      const started = Date.now();
      const slow = metricsConsumer(hanging, newLedger(), () => NOTHING_HELD);
      await expect(slow.deliver([batch(1, 1)])).rejects.toThrow("no answer within 2000 ms");
      expect(Date.now() - started).toBeLessThan(10_000);
      // Left alone after that.
      await slow.tell();
    });
  });

  it("tells gauges once a change of them matters, every ten seconds while they are anything, and not more", async () => {
    let now = 1_000_000;
    let gauges: Gauges = {};
    const told: Gauges[] = [];
    const hub = {
      add: async ({ toSeq, report }: { toSeq: number; report: Report }) => {
        told.push(report.gauges);
        return toSeq;
      },
      report: async (_: string, report: Report) => void told.push(report.gauges),
    };
    const namespace = { getByName: () => hub } as unknown as Env["METRICS"];
    const consumer = metricsConsumer(
      namespace,
      "l",
      () => ({ gauges, counters: {} }),
      () => now,
    );
    // What the metrics know is not known after a start.
    expect(consumer.nextTellAt()).toBe(now + TELL_EVERY_MS);
    await consumer.tell();
    await consumer.tell();
    expect(told.splice(0)).toEqual([{}]);
    expect(consumer.nextTellAt()).toBeNull();
    // Records on their way are no backlog yet.
    gauges = { outbox_rows: 1, outbox_bytes: 9, outbox_oldest_at: 5, open_streams: 0 };
    await consumer.deliver([batch(1, 1)]);
    expect(told.splice(0)).toEqual([{ open_streams: 0 }]);
    // They are one after a flush that did not get rid of them, and from then on.
    await consumer.tell();
    await consumer.deliver([batch(2, 1)]);
    expect(told.splice(0)).toEqual([gauges, gauges]);
    gauges = { open_streams: 1 };
    await consumer.tell();
    gauges = { open_streams: 2 };
    now += TELL_EVERY_MS - 1;
    await consumer.tell();
    expect(told.splice(0)).toEqual([{ open_streams: 1 }]);
    now += 1;
    await consumer.tell();
    now += TELL_EVERY_MS;
    await consumer.tell();
    expect(told.splice(0)).toEqual([{ open_streams: 2 }, { open_streams: 2 }]);
    gauges = {};
    expect(consumer.nextTellAt()).toBe(now + TELL_EVERY_MS);
    await consumer.tell();
    now += 10 * TELL_EVERY_MS;
    await consumer.tell();
    expect(told.splice(0)).toEqual([{}]);
    expect(consumer.nextTellAt()).toBeNull();
  });
});

let messages = 0;
const message = (fields: Partial<Message> = {}): Message => ({
  id: `metrics-${++messages}`,
  isolate: "i",
  ask: null,
  loans: [],
  holding: [],
  records: "",
  openStreams: 0,
  ...fields,
});

describe("a ledger", () => {
  it("has each of its records and calls counted once, over evictions and alarms that come again", async () => {
    const { id } = await makeKey();
    const ledger = () => env.KEY_LEDGER.getByName(id);
    const before = await counted();
    const record = (cost_micro_usd: number) => JSON.stringify([auditRecord({ key_id: id, cost_micro_usd })]);
    const told = message({ records: record(5) });
    await ledger().exchange(told);
    await ledger().exchange(told);
    await runDurableObjectAlarm(ledger());
    expect(await rise(before)).toEqual({ requests: 1, cost: 5, calls: 2 });
    await evictDurableObject(ledger());
    await ledger().exchange(message({ records: record(6) }));
    await runDurableObjectAlarm(ledger());
    // The note of what was delivered is lost: everything that is still there comes again.
    await runInDurableObject(ledger(), (_, { storage }) => {
      storage.sql.exec("UPDATE outbox_consumer SET cursor = 0 WHERE name = 'metrics'");
    });
    await evictDurableObject(ledger());
    await ledger().exchange(message({ records: record(7) }));
    for (let i = 0; i < 3; i++) await runDurableObjectAlarm(ledger());
    expect(await rise(before)).toEqual({ requests: 3, cost: 18, calls: 4 });
  });

  it("U-08 settles and has its audit row in D1 while the metrics fail, and is counted when they are back", async () => {
    const { id } = await makeKey();
    const ledger = env.KEY_LEDGER.getByName(id);
    const name = await runInDurableObject(ledger, (_, { id: own }) => own.toString());
    const shard = shardStub(shardOf(name));
    const before = await counted();
    const rename = (from: string, to: string) =>
      runInDurableObject(shard, (_, { storage }) => void storage.sql.exec(`ALTER TABLE ${from} RENAME TO ${to}`));
    await rename("series", "series_away");
    const records = JSON.stringify([auditRecord({ key_id: id, cost_micro_usd: 9 })]);
    expect(await ledger.exchange(message({ records }))).toMatchObject({ policy: { id } });
    expect(await runDurableObjectAlarm(ledger)).toBe(true);
    const audited = await env.DB.prepare("SELECT count(*) AS n FROM audit WHERE key_id = ?").bind(id).first("n");
    expect(audited).toBe(1);
    expect(await rise(before)).toEqual({});
    await rename("series_away", "series");
    vi.useFakeTimers({ now: Date.now() + 120_000, toFake: ["Date"] });
    expect(await runDurableObjectAlarm(ledger)).toBe(true);
    expect(await rise(before)).toEqual({ requests: 1, cost: 9, calls: 1 });
  });

  it("tells of open streams by its alarm, again and again, and of none when it goes idle, without any record", async () => {
    const { id } = await makeKey();
    const ledger = env.KEY_LEDGER.getByName(id);
    const streams = async () => (await readAll()).gauges.open_streams;
    const alarmAt = () => runInDurableObject(ledger, (_, { storage }) => storage.getAlarm());
    let now = Date.now() + 100 * GAUGE_LIFE_MS;
    vi.useFakeTimers({ now, toFake: ["Date"] });
    const before = await streams();
    await ledger.exchange(message({ openStreams: 3 }));
    expect(await alarmAt()).toBe(now + TELL_EVERY_MS);
    for (let i = 0; i < 8; i++) {
      now += TELL_EVERY_MS;
      vi.setSystemTime(now);
      await ledger.exchange(message({ openStreams: 3 }));
      expect(await runDurableObjectAlarm(ledger)).toBe(true);
      expect((await streams()) - before).toBe(3);
    }
    expect(await alarmAt()).toBe(now + TELL_EVERY_MS);
    await ledger.exchange(message());
    vi.setSystemTime(now + TELL_EVERY_MS);
    expect(await runDurableObjectAlarm(ledger)).toBe(true);
    expect((await streams()) - before).toBe(0);
    // Idle: nothing is left to be told, and no alarm set.
    expect(await alarmAt()).toBeNull();
    // The next call sets it again, though the metrics know all that was before.
    await ledger.exchange(message({ openStreams: 1 }));
    expect(await alarmAt()).toBe(now + 2 * TELL_EVERY_MS);
    expect(await runDurableObjectAlarm(ledger)).toBe(true);
    expect((await streams()) - before).toBe(1);
  });

  it("an isolate that vanished with open streams is forgotten after a minute", async () => {
    const { id } = await makeKey();
    const ledger = env.KEY_LEDGER.getByName(id);
    const start = Date.now() + 200 * GAUGE_LIFE_MS;
    vi.useFakeTimers({ now: start, toFake: ["Date"] });
    const before = (await readAll()).gauges.open_streams;
    await ledger.exchange(message({ openStreams: 3 }));
    for (let at = start; at <= start + 70_000; at += TELL_EVERY_MS) {
      vi.setSystemTime(at);
      await runDurableObjectAlarm(ledger);
    }
    expect((await readAll()).gauges.open_streams).toBe(before);
  });

  it("of a workspace tells of its calls, and not again of what its keys hold", async () => {
    const name = `ws:${newId("ws", Date.now())}`;
    const before = await counted();
    const gaugesBefore = (await readAll()).gauges;
    const wanted = { ...NOTHING, requests: 1, slots: 1 };
    const ask = { loan: "a", wanted, more: NOTHING };
    await env.KEY_LEDGER.getByName(name).exchange(message({ ask, openStreams: 2 }));
    await runDurableObjectAlarm(env.KEY_LEDGER.getByName(name));
    expect(await rise(before)).toEqual({ calls: 1 });
    const { gauges } = await readAll();
    expect(gauges.open_streams).toBe(gaugesBefore.open_streams);
    expect(gauges.lent_requests).toBe(gaugesBefore.lent_requests);
  });
});

describe("GET /metrics", () => {
  const scrape = (as: string | null, bindings?: Partial<Env>) =>
    send("../metrics", { as, ...(bindings ? { env: bindings } : {}) });

  it("A-10 opens to the admin and to keys with the scope admin or metrics, and to nobody else", async () => {
    const [metrics, admin, plain] = await Promise.all(
      [["metrics"], ["admin"], ["messages"]].map((scopes) => makeKey({ scopes })),
    );
    const revoked = await makeKey({ scopes: ["metrics"] });
    await send(`keys/${revoked.id}`, { method: "DELETE" });
    const statusOf = async (as: string | null | undefined) => (await scrape(as ?? null)).status;
    expect(await statusOf(ADMIN_TOKEN)).toBe(200);
    expect(await statusOf(metrics?.key)).toBe(200);
    expect(await statusOf(admin?.key)).toBe(200);
    expect(await statusOf(plain?.key)).toBe(403);
    expect(await statusOf(revoked.key)).toBe(401);
    expect(await statusOf("sk-sluice-forged")).toBe(401);
    expect(await statusOf(null)).toBe(401);
    const refusal = (await (await scrape(plain?.key ?? "")).json()) as { error: { message: string } };
    expect(refusal.error.message).toContain("metrics");
    // The scope opens nothing else.
    expect((await send("usage", { as: metrics?.key ?? "" })).status).toBe(403);
    expect((await send("../metrics", { method: "POST" })).status).toBe(405);
  });

  it("L-06 is valid text that is never cached and holds no key, secret, name or word of a caller's", async () => {
    const made = await makeKey({ name: "NAME-CANARY", scopes: ["messages"] });
    const ledger = env.KEY_LEDGER.getByName(made.id);
    const canary = {
      model: "MODEL-CANARY",
      model_requested: "MODEL-CANARY",
      client: "AGENT-CANARY",
      session_id: "S-CANARY",
    };
    const odd = { ...auditRecord({ key_id: made.id }), ...canary, route: "/ROUTE-CANARY", denial: "DENIAL-CANARY" };
    await ledger.exchange(message({ records: JSON.stringify([odd]) }));
    await runDurableObjectAlarm(ledger);
    const response = await scrape(ADMIN_TOKEN);
    expect(response.headers.get("content-type")).toBe("text/plain; version=0.0.4; charset=utf-8");
    expect(response.headers.get("cache-control")).toBe("no-store");
    expect(response.headers.get("x-sluice-request-id")).toMatch(/^req_/);
    const text = await response.text();
    const read = scraped(text);
    expect(read.sum("sluice_requests_total", { route: "other" })).toBeGreaterThan(0);
    expect(text).not.toMatch(/CANARY|key_|req_|ws_|sk-/i);
    expect(text).not.toContain(made.key);
    expect(text).not.toContain(ADMIN_TOKEN);
  });

  it("tells the state of every upstream in use, and goes on without it while the pool is away", async () => {
    vi.spyOn(console, "log").mockImplementation(() => {});
    await env.DB.prepare("DELETE FROM upstreams").run();
    await runInDurableObject(env.UPSTREAM_POOL.getByName("pool"), (_, { storage }) => storage.deleteAll());
    await evictDurableObject(env.UPSTREAM_POOL.getByName("pool"));
    const alone = scraped(await (await scrape(ADMIN_TOKEN)).text());
    expect(alone.value('sluice_upstream_state{upstream="up_default",state="healthy"}')).toBe(1);
    const made = await Promise.all(
      ["a", "b", "c", "d"].map(async (name) => {
        const json = { name, base_url: "https://api.anthropic.com", api_key: "sk-ant-KEY-CANARY-0123456789" };
        return ((await (await send("upstreams", { json })).json()) as { id: string }).id;
      }),
    );
    const [cooling, refused, fine, gone] = made;
    if (!cooling || !refused || !fine || !gone) throw new Error("no upstreams");
    await send(`upstreams/${gone}`, { method: "DELETE" });
    const at = Date.now();
    const hints = [
      { upstream: cooling, kind: "cooling", reason: "rate_limited", model: "MODEL-CANARY", at, until: at + 60_000 },
      { upstream: refused, kind: "refused", reason: "authentication", at, until: at + 60_000 },
      { upstream: fine, kind: "healthy", reason: "recovered", at, until: at + 60_000 },
    ] as const;
    await poolOf(env.UPSTREAM_POOL).exchange({ version: 0, hints, homes: [], since: 0 });
    const states = (text: string) => [...(scraped(text).families.get("sluice_upstream_state")?.samples.keys() ?? [])];
    const text = await (await scrape(ADMIN_TOKEN)).text();
    expect(states(text).sort()).toEqual(
      [
        `sluice_upstream_state{upstream="${cooling}",state="cooling",reason="rate_limited"}`,
        `sluice_upstream_state{upstream="${refused}",state="refused",reason="authentication"}`,
        `sluice_upstream_state{upstream="${fine}",state="healthy"}`,
      ].sort(),
    );
    expect(text).not.toMatch(/CANARY|anthropic\.com/);
    const otherMaster = { MASTER_KEY: `9:${btoa("master-key-that-has-sealed-none!")}` } as unknown as Partial<Env>;
    expect(states(await (await scrape(ADMIN_TOKEN, otherMaster)).text())).toContain(
      `sluice_upstream_state{upstream="${fine}",state="unusable",reason="unknown_master"}`,
    );
    const broken = { getByName: () => ({ exchange: () => Promise.reject(new Error("overloaded")) }) };
    const response = await scrape(ADMIN_TOKEN, { UPSTREAM_POOL: broken as unknown as Env["UPSTREAM_POOL"] });
    const away = await response.text();
    expect([response.status, states(away), scraped(away).value("sluice_upstream_pool_up")]).toEqual([200, [], 0]);
    expect(scraped(away).families.has("sluice_requests_total")).toBe(true);
    for (const id of made) await send(`upstreams/${id}`, { method: "DELETE" });
  });

  it("is a 503 when a shard does not answer, with no number in it, and tries twice before", async () => {
    const shard2 = { tries: 0, fails: 1 };
    const namespace = {
      getByName(name: string) {
        if (name !== "shard-2" || shard2.tries++ >= shard2.fails) return env.METRICS.getByName(name);
        return { read: () => Promise.reject(new Error("overloaded")) };
      },
    } as unknown as Env["METRICS"];
    expect((await scrape(ADMIN_TOKEN, { METRICS: namespace })).status).toBe(200);
    Object.assign(shard2, { tries: 0, fails: 2 });
    const response = await scrape(ADMIN_TOKEN, { METRICS: namespace });
    expect(response.status).toBe(503);
    expect(response.headers.get("retry-after")).not.toBeNull();
    const text = await response.text();
    expect(JSON.parse(text)).toMatchObject({
      error: { message: "A part of the metrics (1 of 4 shards) is unavailable at the moment." },
    });
    expect(text).not.toContain("sluice_requests_total");
  });
});
