/** The pool's object: what it takes over, keeps over a restart, and says. Each test has an object of its own. */
import { evictDurableObject, runDurableObjectAlarm, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { type Hint, MAX_HINT_MS, MAX_MOVED, type Pool, type PoolMessage } from "../../src/upstream/protocol.ts";
import type { UpstreamRecord } from "../../src/upstream/upstream.ts";
import { MAX_KEPT_HOMES, type UpstreamPool } from "../../src/upstream/upstream-pool.ts";
import { insertUpstream } from "../../src/upstream/upstream-store.ts";
import { newId } from "../../src/wire/ids.ts";
import { SOME_CHANGE } from "../support/changes.ts";

const DAY = 86_400_000;
let name = 0;
const stub = () => env.UPSTREAM_POOL.getByName(`test-${name}`);
const pool = () => stub() as unknown as Pool;
const inside = <T>(run: (instance: UpstreamPool, state: DurableObjectState) => T | Promise<T>): Promise<T> =>
  runInDurableObject(stub() as unknown as DurableObjectStub<UpstreamPool>, run);
const sqlOf = (statement: string, ...values: unknown[]) =>
  inside((_, { storage }) => storage.sql.exec<Record<string, SqlStorageValue>>(statement, ...values).toArray());

const upstream = (changes: Partial<UpstreamRecord> = {}): UpstreamRecord => ({
  id: newId("up", Date.now()),
  name: "one",
  base_url: "https://api.anthropic.com",
  weight: 100,
  models: ["claude-*"],
  concurrent_requests: 4,
  state: "active",
  sealed_key: { master: "1", iv: "aXY=", data: "ZGF0YQ==" },
  fingerprint: "0123456789ab",
  created_at: 1,
  updated_at: 2,
  version: 1,
  ...changes,
});
const removed = (record: UpstreamRecord): UpstreamRecord => ({
  ...record,
  state: "removed",
  sealed_key: null,
  version: record.version + 1,
});
const say = (message: Partial<PoolMessage> = {}) =>
  pool().exchange({ version: 0, hints: [], homes: [], since: 0, ...message });
const hint = (of: UpstreamRecord | string, changes: Partial<Hint> = {}): Hint => ({
  upstream: typeof of === "string" ? of : of.id,
  kind: "cooling",
  until: Date.now() + 60_000,
  reason: "rate_limited",
  at: Date.now() - 1_000,
  ...changes,
});

beforeEach(async () => {
  name++;
  await env.DB.prepare("DELETE FROM upstreams").run();
});

describe("the upstreams", () => {
  it("are loaded from D1 at the first call, and from then on D1 may be away, over restarts too", async () => {
    const [one, two] = [upstream(), upstream({ models: null, concurrent_requests: null, state: "draining" })];
    await insertUpstream(env.DB, one, SOME_CHANGE);
    await insertUpstream(env.DB, two, SOME_CHANGE);
    const first = await say();
    expect(first.version).toBeGreaterThan(0);
    expect(first.upstreams).toHaveLength(2);
    expect(first.upstreams).toEqual(expect.arrayContaining([one, two]));
    await evictDurableObject(stub());
    await env.DB.prepare("ALTER TABLE upstreams RENAME TO away").run();
    try {
      expect(await say()).toEqual(first);
    } finally {
      await env.DB.prepare("ALTER TABLE away RENAME TO upstreams").run();
    }
  });

  it("are thrown for while D1 is away and was never read, and loaded when it is back; homes need none", async () => {
    const one = upstream();
    await insertUpstream(env.DB, one, SOME_CHANGE);
    await env.DB.prepare("ALTER TABLE upstreams RENAME TO away").run();
    await expect(
      inside((instance) => instance.exchange({ version: 0, hints: [], homes: [], since: 0 })),
    ).rejects.toThrow(/no such table/);
    expect(await pool().homesOf(["a"])).toEqual([null]);
    await env.DB.prepare("ALTER TABLE away RENAME TO upstreams").run();
    expect((await say()).upstreams).toEqual([one]);
  });

  it("are loaded once for all who ask at the same moment", async () => {
    const asked = await inside((instance) => {
      const looks = vi.fn((sql: string) => env.DB.prepare(sql));
      Reflect.set(instance, "env", { ...env, DB: { prepare: looks } });
      const message = { version: 0, hints: [], homes: [], since: 0 };
      return Promise.all(Array.from({ length: 20 }, () => instance.exchange(message))).then(() => looks.mock.calls);
    });
    expect(asked).toHaveLength(1);
  });

  it("an empty pool has a version too", async () => {
    const none = await say();
    expect(none).toMatchObject({ upstreams: [], hints: [], cursor: 0 });
    expect(none.version).toBeGreaterThan(0);
    expect((await say({ version: none.version })).upstreams).toBeNull();
  });

  it("are sent when the isolate's version is another, older or newer, and null else", async () => {
    const one = upstream();
    await pool().put(one);
    const { version } = await say();
    for (const other of [0, version - 1, version + 1, -1, Number.NaN]) {
      expect((await say({ version: other })).upstreams).toEqual([one]);
    }
    expect((await say({ version })).upstreams).toBeNull();
  });

  it("change by a newer version only, and each change has a version of the pool", async () => {
    const one = upstream({ version: 5 });
    await pool().put(one);
    const before = await say();
    await pool().put({ ...one, weight: 1, version: 5 });
    await pool().put({ ...one, weight: 2, version: 4 });
    expect(await say()).toEqual(before);
    await pool().put({ ...one, weight: 3, version: 6 });
    const after = await say({ version: before.version });
    expect(after.version).toBeGreaterThan(before.version);
    expect(after.upstreams).toEqual([{ ...one, weight: 3, version: 6 }]);
    await evictDurableObject(stub());
    expect(await say()).toEqual(after);
  });

  it("what was put before the first load is newer than what D1 says", async () => {
    const one = upstream();
    await insertUpstream(env.DB, one, SOME_CHANGE);
    const next = { ...one, name: "renamed", version: 2 };
    await pool().put(next);
    expect((await say()).upstreams).toEqual([next]);
  });

  it("removed ones go, their keys with them, and no older word brings them back", async () => {
    const one = upstream();
    await pool().put(one);
    const { version } = await say();
    await pool().put(removed(one));
    expect(await say({ version })).toMatchObject({ upstreams: [] });
    await pool().put({ ...one, name: "late" });
    await evictDurableObject(stub());
    expect((await say()).upstreams).toEqual([]);
    expect(JSON.stringify(await sqlOf("SELECT * FROM upstream"))).not.toContain("ZGF0YQ");
  });
});

describe("hints", () => {
  it("are told to everybody, are one for each upstream, and the newer one wins", async () => {
    const [one, two] = [upstream(), upstream()];
    await pool().put(one);
    await pool().put(two);
    const first = hint(one);
    const told = await say({ hints: [first, hint(two, { kind: "open", reason: "server_error" })] });
    expect(told.hints).toHaveLength(2);
    const later = await say({ hints: [hint(one, { kind: "refused", reason: "authentication", at: first.at - 1 })] });
    expect(later).toEqual(told);
    const newer = hint(one, { kind: "healthy", reason: "recovered", at: first.at + 1 });
    const after = await say({ hints: [newer], since: told.cursor });
    expect(after.hints.filter(({ upstream }) => upstream === one.id)).toEqual([newer]);
    expect(after.cursor).toBeGreaterThan(told.cursor);
    expect(await pool().hints()).toEqual(after.hints);
    await evictDurableObject(stub());
    const restarted = await say();
    expect(restarted).toMatchObject({ version: after.version, cursor: after.cursor });
    expect(restarted.hints).toHaveLength(2);
    expect(restarted.hints).toEqual(expect.arrayContaining([...after.hints]));
  });

  it("of the same moment: the longer one wins, whichever comes first", async () => {
    const one = upstream();
    await pool().put(one);
    const at = Date.now() - 5;
    const long = hint(one, { at, until: at + 50_000, kind: "open" });
    const short = hint(one, { at, until: at + 10_000 });
    expect((await say({ hints: [long, short] })).hints).toEqual([long]);
    expect((await say({ hints: [short, long] })).hints).toEqual([long]);
  });

  it("end, and are forgotten by the alarm", async () => {
    const one = upstream();
    await pool().put(one);
    expect((await say({ hints: [hint(one, { until: Date.now() - 1 })] })).hints).toEqual([]);
    expect(await sqlOf("SELECT * FROM hint")).toHaveLength(1);
    expect(await runDurableObjectAlarm(stub())).toBe(true);
    expect(await sqlOf("SELECT * FROM hint")).toEqual([]);
  });

  it("are bounded: in time, in words, in number, and to upstreams that there are", async () => {
    const one = upstream();
    const gone = upstream();
    await pool().put(one);
    await pool().put(gone);
    await say({ hints: [hint(gone)] });
    await pool().put(removed(gone));
    const odd = (changes: object) => ({ ...hint(one, { at: Date.now() }), ...changes }) as unknown as Hint;
    const refused = [
      hint(gone),
      hint(upstream()),
      hint("up_default\n"),
      hint("nonsense"),
      odd({ upstream: 5 }),
      odd({ kind: "exploded" }),
      odd({ until: "soon" }),
      odd({ at: Number.NaN }),
      odd({ until: Number.POSITIVE_INFINITY }),
    ];
    expect((await say({ hints: refused })).hints).toEqual([]);
    const now = Date.now();
    const far = odd({ until: now + 10 * DAY, at: now + 10 * DAY, reason: "sk-ant-UPKEY-CANARY" });
    const [kept] = (await say({ hints: [far] })).hints;
    expect(kept?.reason).toBe("other");
    expect(kept?.until).toBeLessThanOrEqual(Date.now() + MAX_HINT_MS);
    expect(kept?.at).toBeLessThanOrEqual(Date.now());
    const many = Array.from({ length: 1_001 }, () => hint(one, { at: 1, until: 2 }));
    many[1_000] = hint("up_default");
    expect((await say({ hints: many })).hints).toHaveLength(1);
    many[999] = hint("up_default");
    expect((await say({ hints: many })).hints).toHaveLength(2);
  });
});

describe("homes", () => {
  it("are kept over restarts, and asked for in any order", async () => {
    const [one, two] = [upstream(), upstream()];
    await pool().put(one);
    await pool().put(two);
    await say({
      homes: [
        ["a", one.id],
        ["b", two.id],
        ["c", "up_default"],
      ],
    });
    await evictDurableObject(stub());
    expect(await pool().homesOf(["b", "x", "a", "c", "a"])).toEqual([two.id, null, one.id, "up_default", one.id]);
  });

  it("move by a newer message only", async () => {
    const [one, two] = [upstream(), upstream()];
    const now = Date.now();
    await say({ homes: [["a", one.id]], at: now - 1_000 });
    await say({ homes: [["a", two.id]], at: now - 2_000 });
    expect(await pool().homesOf(["a"])).toEqual([one.id]);
    await say({ homes: [["a", two.id]], at: now - 500 });
    expect(await pool().homesOf(["a"])).toEqual([two.id]);
    // A clock that is ahead counts as this moment's, so it does not keep others out.
    await say({ homes: [["a", one.id]], at: now + DAY });
    await say({ homes: [["a", two.id]] });
    expect(await pool().homesOf(["a"])).toEqual([two.id]);
  });

  it("that have moved are told to isolates that do not know of it, once, the last place last", async () => {
    const [one, two] = [upstream(), upstream()];
    const before = await say({ homes: [["a", one.id]] });
    expect(before.moved).toEqual([]);
    const mover = await say({ homes: [["a", two.id]] });
    // Whoever tells it knows.
    expect(mover.moved).toEqual([]);
    const other = await say({ moves: before.moves ?? 0 });
    expect(other.moved).toEqual([["a", two.id]]);
    expect((await say({ moves: other.moves ?? 0 })).moved).toEqual([]);
    await say({ homes: [["a", one.id]] });
    expect((await say()).moved).toEqual([
      ["a", two.id],
      ["a", one.id],
    ]);
    await evictDurableObject(stub());
    expect(await say({ moves: other.moves ?? 0 })).toMatchObject({ moved: [], moves: 0 });
  });

  it("that have moved are remembered up to a thousand", async () => {
    const [one, two] = [upstream(), upstream()];
    for (const { id } of [one, two]) {
      for (const half of ["a", "b"])
        await say({ homes: Array.from({ length: 501 }, (_, i) => [`${half}${i}`, id] as const) });
    }
    const { moved } = await say();
    expect(moved?.length).toBe(MAX_MOVED);
    expect(moved?.at(-1)).toEqual(["b500", two.id]);
  });

  it("at a removed upstream are none", async () => {
    const one = upstream();
    await pool().put(one);
    await say({ homes: [["a", one.id]] });
    await pool().put(removed(one));
    expect(await pool().homesOf(["a"])).toEqual([null]);
  });

  it("end thirty days after their last use", async () => {
    const one = upstream();
    await say({
      homes: [
        ["used", one.id],
        ["unused", one.id],
        ["fresh", one.id],
      ],
    });
    const age = (affinity: string, days: number) =>
      sqlOf("UPDATE home SET used = ? WHERE affinity = ?", Date.now() - days * DAY, affinity);
    await age("used", 29);
    await age("unused", 29);
    expect(await pool().homesOf(["used"])).toEqual([one.id]);
    await sqlOf("UPDATE home SET used = used - ?", 2 * DAY);
    expect(await pool().homesOf(["used", "unused", "fresh"])).toEqual([one.id, null, one.id]);
    await runDurableObjectAlarm(stub());
    expect(await sqlOf("SELECT affinity FROM home ORDER BY affinity")).toEqual([
      { affinity: "fresh" },
      { affinity: "used" },
    ]);
    expect(await inside((_, { storage }) => storage.getAlarm())).not.toBeNull();
  });

  it("are at most 200,000: the ones longest unused go", async () => {
    const one = upstream();
    await say({ homes: [["first", one.id]] });
    await sqlOf(
      `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ${MAX_KEPT_HOMES - 1})
       INSERT INTO home SELECT 'n' || i, 'up_default', 1, ${Date.now() - DAY} + i FROM n`,
    );
    await evictDurableObject(stub());
    await say({
      homes: [
        ["x", one.id],
        ["first", one.id],
        ["y", one.id],
      ],
    });
    expect(await sqlOf("SELECT count(*) AS n FROM home")).toEqual([{ n: MAX_KEPT_HOMES }]);
    expect(await pool().homesOf(["n1", "n2", "n3", "first", "x", "y"])).toEqual([
      null,
      null,
      "up_default",
      one.id,
      one.id,
      one.id,
    ]);
  });

  it("are bounded in size and number, and only at ids of upstreams", async () => {
    const { id } = upstream();
    const long = "a".repeat(257);
    await say({
      homes: [
        ["", id],
        [long, id],
        ["a", "elsewhere"],
        ["b", 5 as unknown as string],
        [6 as unknown as string, id],
        ["", "up_default"],
      ],
    });
    expect(await sqlOf("SELECT * FROM home")).toEqual([]);
    const many = Array.from({ length: 1_001 }, (_, i) => [`m${i}`, id] as const);
    await say({ homes: many });
    expect(await sqlOf("SELECT count(*) AS n FROM home")).toEqual([{ n: 1_000 }]);
    await say({ homes: [["m1000", id]] });
    const homes = await pool().homesOf(many.map(([affinity]) => affinity));
    expect(homes).toHaveLength(1_001);
    expect(homes.filter((home) => home === null)).toHaveLength(1);
    expect(await pool().homesOf([long])).toEqual([null]);
  });

  it("said again cost no write", async () => {
    const { id } = upstream();
    await say({ homes: [["a", id]] });
    const [before] = await sqlOf("SELECT * FROM home");
    await say({ homes: [["a", id]], at: Date.now() });
    expect(await sqlOf("SELECT * FROM home")).toEqual([before]);
  });
});

it("takes messages of a release that knows less or more than this one", async () => {
  const one = upstream();
  await pool().put(one);
  const bare = { version: 0 } as unknown as PoolMessage;
  expect((await pool().exchange(bare)).upstreams).toEqual([one]);
  const rich = { version: 0, hints: [{ ...hint(one), severity: 3 }], homes: [["a", one.id, "x"]], since: 0, more: {} };
  const answer = await pool().exchange(rich as unknown as PoolMessage);
  expect(Object.keys(answer.hints[0] ?? {}).sort()).toEqual(["at", "kind", "reason", "until", "upstream"]);
  expect(await pool().homesOf(["a"])).toEqual([one.id]);
  const wrong = { version: 0, hints: "many", homes: { length: 3 }, since: 0, at: "now" };
  expect((await pool().exchange(wrong as unknown as PoolMessage)).upstreams).toEqual([one]);
});

it("sets one alarm while there is something to forget, and none else", async () => {
  const alarm = () => inside((_, { storage }) => storage.getAlarm());
  await say();
  expect(await alarm()).toBeNull();
  const one = upstream();
  await pool().put(one);
  await say({ homes: [["a", one.id]] });
  const at = await alarm();
  expect(at).toBeGreaterThan(Date.now());
  await say({ homes: [["b", one.id]], hints: [hint(one)] });
  expect(await alarm()).toBe(at);
  await sqlOf("UPDATE home SET used = 0");
  await say({ hints: [hint(one, { at: Date.now(), until: Date.now() - 1 })] });
  await runDurableObjectAlarm(stub());
  expect(await sqlOf("SELECT * FROM home")).toEqual([]);
  expect(await alarm()).toBeNull();
});

describe("a clock that steps", () => {
  afterEach(() => {
    vi.useRealTimers();
  });
  const at = (time: number) => vi.useFakeTimers({ now: time, toFake: ["Date"] });

  for (const days of [-1, 1]) {
    it(`by ${days} day: no hint outlasts its longest time, new ones count, and conversations can move`, async () => {
      const [one, two] = [upstream(), upstream()];
      const start = Date.now();
      at(start);
      await pool().put(one);
      await pool().put(two);
      await say({ hints: [hint(one, { kind: "open" })], homes: [["a", one.id]], at: start });
      expect((await say()).hints).toHaveLength(1);
      const stepped = start + days * DAY;
      at(stepped);
      expect((await say()).hints).toEqual([]);
      expect(await pool().homesOf(["a"])).toEqual([one.id]);
      const told = hint(one, { kind: "cooling" });
      expect((await say({ hints: [told] })).hints).toEqual([told]);
      await say({ homes: [["a", two.id]], at: stepped });
      expect(await pool().homesOf(["a"])).toEqual([two.id]);
      at(stepped + MAX_HINT_MS + 1);
      expect((await say()).hints).toEqual([]);
    });
  }
});
