/** The control plane of the pool: what it takes, keeps sealed, hands to the pool's object, and never says. */
import { createScheduledController, evictDurableObject, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import fc from "fast-check";
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import worker from "../../src/index.ts";
import { openUpstream } from "../../src/upstream/open-upstream.ts";
import { type Pool, poolOf } from "../../src/upstream/protocol.ts";
import { readMasterKeys } from "../../src/upstream/sealing.ts";
import type { UpstreamRecord } from "../../src/upstream/upstream.ts";
import { getUpstream, insertUpstream, MAX_UPSTREAMS } from "../../src/upstream/upstream-store.ts";
import { newId } from "../../src/wire/ids.ts";
import { SOME_CHANGE } from "../support/changes.ts";
import { type Answer, answered, call, database, makeKey, problem } from "./control-plane.ts";

const CANARY = "sk-ant-POOLKEY-CANARY-0123456789";
const NEXT_CANARY = "sk-ant-NEXTKEY-CANARY-0123456789";
const FIRST = "1:bWFzdGVyLWtleS1vZi10aGUtdGVzdHMtMDEyMzQ1Njc=";
const SECOND = `2:${btoa("second-master-key-of-the-tests-0")}`;
const upstreamUrl = String((env as unknown as Record<string, string>).UPSTREAM_URL);
const TIME = expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/);

const logged: string[] = [];
beforeAll(() => {
  for (const level of ["log", "error"] as const) {
    vi.spyOn(console, level).mockImplementation((line: string) => void logged.push(line));
  }
});
afterAll(() => vi.restoreAllMocks());
beforeEach(async () => {
  await env.DB.prepare("DELETE FROM upstreams").run();
  await runInDurableObject(stub(), async (_, { storage }) => storage.deleteAll());
  await evictDurableObject(stub());
});

const stub = () => env.UPSTREAM_POOL.getByName("pool");
const own = () => poolOf(env.UPSTREAM_POOL);
const given = { name: "team a", base_url: "https://api.anthropic.com", api_key: CANARY };
const make = (json: object = {}, more = {}) => call("upstreams", { json: { ...given, ...json }, ...more });
const made = async (json: object = {}): Promise<Answer["body"]> => {
  const { status, body, text } = await make(json);
  expect([status, text]).toEqual([201, text]);
  return body;
};
const patch = (id: string, json: unknown, more = {}) => call(`upstreams/${id}`, { method: "PATCH", json, ...more });
const post = (path: string, more = {}) => call(`upstreams/${path}`, { method: "POST", ...more });
const remove = (id: string, more = {}) => call(`upstreams/${id}`, { method: "DELETE", ...more });
const row = (id: string) => getUpstream(env.DB, id);
const inPool = async (): Promise<readonly UpstreamRecord[]> =>
  (await own().exchange({ version: 0, hints: [], homes: [], since: 0 })).upstreams ?? [];
const withMasters = (MASTER_KEY: string | undefined) => ({ env: { MASTER_KEY } as unknown as Partial<Env> });
/** What an isolate with these master keys makes of a record. */
const opened = (record: UpstreamRecord | null | undefined, masters = FIRST) => {
  const masterKeys = readMasterKeys(masters);
  if (!record || !masterKeys.ok) throw new Error("nothing to open");
  const baseUrls = { hosts: ["api.anthropic.com"], allowLocal: true };
  return openUpstream(record, { masterKeys: masterKeys.value, baseUrls });
};
/** A pool whose named method fails as often as given, before it does anything. */
function failingPool(failing: Partial<Record<"put" | "hints", number>>) {
  const left = { put: 0, hints: 0, ...failing };
  const guarded = (name: "put" | "hints") => {
    if (left[name]-- > 0) throw new Error("cut");
  };
  const face: Partial<Pool> = {
    put: async (record) => {
      guarded("put");
      await own().put(record);
    },
    hints: async () => {
      guarded("hints");
      return own().hints();
    },
  };
  return { env: { UPSTREAM_POOL: { getByName: () => face } as unknown as Env["UPSTREAM_POOL"] } };
}

describe("POST /admin/upstreams", () => {
  it("stores an upstream with everything given, and hands it to the pool", async () => {
    const fields = { weight: 250, models: ["claude-opus-5-5", "claude-haiku-*"], concurrent_requests: 40 };
    const body = await made({
      ...fields,
      name: "  team a ",
      base_url: "https://api.anthropic.com:443/x/",
      api_key: ` ${CANARY}\n`,
    });
    expect(body).toEqual({
      ...fields,
      id: expect.stringMatching(/^up_[0-9a-hjkmnp-tv-z]{26}$/),
      source: "stored",
      name: "team a",
      base_url: "https://api.anthropic.com/x",
      state: "active",
      fingerprint: expect.stringMatching(/^[0-9a-f]{12}$/),
      sealed_under: "1",
      created_at: TIME,
      updated_at: body.created_at,
      version: 1,
      health: { state: "healthy" },
    });
    expect((await call(`upstreams/${body.id}`)).body).toEqual(body);
    const stored = await row(body.id);
    expect(await inPool()).toEqual([stored]);
    expect(await opened(stored)).toMatchObject({ ok: true, value: { apiKey: CANARY, concurrent_requests: 40 } });
  });

  it("fills in what is not given", async () => {
    expect(await made()).toMatchObject({ weight: 100, models: null, concurrent_requests: null, state: "active" });
  });

  it("has one fingerprint for a key wherever it is, and another for another", async () => {
    const [a, b, c] = [await made(), await made(), await made({ api_key: NEXT_CANARY })];
    expect(a.fingerprint).toBe(b.fingerprint);
    expect(a.fingerprint).not.toBe(c.fingerprint);
    const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(CANARY));
    expect(new Uint8Array(digest).toHex().startsWith(a.fingerprint)).toBe(true);
  });

  it.each([
    [{ name: "" }, "name: must be"],
    [{ name: undefined }, "name: Field required"],
    [{ api_key: undefined }, "api_key: Field required"],
    [{ base_url: undefined }, "base_url: Field required"],
    [{ base_url: 5 }, "base_url: must be"],
    [{ api_key: "short77" }, "api_key: must be 8 to 512"],
    [{ api_key: `${CANARY} x` }, "api_key: must be 8 to 512"],
    [{ api_key: `${CANARY}\r\nx: y` }, "api_key: must be 8 to 512"],
    [{ api_key: `${CANARY}é` }, "api_key: must be 8 to 512"],
    [{ api_key: CANARY.repeat(17) }, "api_key: must be 8 to 512"],
    [{ api_key: [CANARY] }, "api_key: must be 8 to 512"],
    [{ weight: 0 }, "weight: must be a whole number from 1 to 1000"],
    [{ weight: 1_001 }, "weight: must be"],
    [{ weight: 1.5 }, "weight: must be"],
    [{ models: [] }, "models: must name"],
    [{ models: ["a b"] }, "models.0: must be a model id"],
    [{ concurrent_requests: 0 }, "concurrent_requests: must be"],
    [{ state: "active" }, "state: unknown field"],
    [{ id: "up_default" }, "id: unknown field"],
    [{ sealed_key: {}, fingerprint: "x" }, "sealed_key: unknown field; fingerprint: unknown field"],
    [{ is_admin: true }, "is_admin: unknown field"],
  ])("A-01 refuses %j, stores nothing and repeats no key", async (fields, start) => {
    const answer = await make(fields);
    expect(problem(answer, 400, "invalid_request_error")).toContain(start);
    expect(answer.text).not.toContain("CANARY");
    expect(await inPool()).toEqual([]);
  });

  it.each([
    "http://api.anthropic.com",
    "https://user:pw@api.anthropic.com",
    "https://127.0.0.1",
    "https://[::1]",
    "https://0x7f.1",
    "https://2130706433",
    "https://017700000001",
    "https://[::ffff:169.254.169.254]",
    "https://metadata.google.internal",
    "https://x.local",
    "https://evil.com.",
    "https://evil.com",
    "https://аpi.anthropic.com",
    "https://api.anthropic.com:22",
    "https://api.anthropic.com@evil",
    "http://127.0.0.1",
    "http://169.254.169.254:8080",
  ])("S-02 refuses the address %s, with the development flag and without, also as a change", async (base_url) => {
    const { id } = await made();
    for (const ALLOW_LOCAL_UPSTREAMS of ["true", "false"]) {
      const more = { env: { ALLOW_LOCAL_UPSTREAMS } as unknown as Partial<Env> };
      for (const answer of [await make({ base_url }, more), await patch(id, { base_url }, more)]) {
        expect(problem(answer, 400, "invalid_request_error")).toMatch(/^base_url: /);
        expect(answer.text).not.toContain(base_url.slice(8));
      }
    }
    expect((await row(id))?.base_url).toBe("https://api.anthropic.com");
  });

  it("S-02 admits this machine by the development flag alone", async () => {
    const base_url = "http://127.0.0.1:8787";
    const without = { env: { ALLOW_LOCAL_UPSTREAMS: "false" } as unknown as Partial<Env> };
    problem(await make({ base_url }, without), 400, "invalid_request_error");
    expect((await made({ base_url })).base_url).toBe(base_url);
  });

  it("E-03 stores no key without a master key, and says why; other changes go on", async () => {
    const { id } = await made();
    const before = await row(id);
    for (const answer of [
      await make({}, withMasters(undefined)),
      await patch(id, { api_key: NEXT_CANARY }, withMasters("")),
      await post("reseal", withMasters(undefined)),
    ]) {
      expect(problem(answer, 503, "api_error")).toContain("MASTER_KEY is not set");
    }
    expect(await row(id)).toEqual(before);
    expect((await patch(id, { weight: 7 }, withMasters(undefined))).body).toMatchObject({ weight: 7 });
  });

  it("E-03 with a malformed master key every route is a 503 that names it, never its value", async () => {
    const broken = withMasters(`1:${btoa("too short")}`);
    for (const path of ["upstreams", "keys", "usage"]) {
      const response = await worker.fetch(
        new Request(`https://gw.test/admin/${path}`),
        { ...env, ...broken.env } as Env,
        { waitUntil() {}, passThroughOnException() {} } as unknown as ExecutionContext,
      );
      const text = await response.text();
      expect([response.status, text]).toEqual([503, expect.stringContaining("MASTER_KEY")]);
      expect(text).not.toContain(btoa("too short"));
    }
    expect(logged.join("")).not.toContain(btoa("too short"));
  });

  it("says when the pool was not told, and a change completes it", async () => {
    const failed = await make({}, failingPool({ put: 3 }));
    const message = problem(failed, 503, "api_error");
    const [id = ""] = /up_[0-9a-z]{26}/.exec(message) ?? [];
    expect(message).toBe(
      `The upstream is stored as ${id} but not yet used. PATCH its name: the upstream pool is unavailable at the moment.`,
    );
    expect((await patch(id, { name: "again" })).status).toBe(200);
    expect(await inPool()).toEqual([await row(id)]);
    // Two failures are not seen.
    expect((await make({}, failingPool({ put: 2 }))).status).toBe(201);
  });

  it(`stores ${MAX_UPSTREAMS} at most, removed ones not counted`, async () => {
    const { id } = await made();
    const record = (await row(id)) as UpstreamRecord;
    for (let n = 1; n < MAX_UPSTREAMS; n++) {
      expect(await insertUpstream(env.DB, { ...record, id: newId("up", n) }, SOME_CHANGE)).toBe(true);
    }
    expect(problem(await make(), 409, "conflict_error")).toContain("Remove one first");
    expect((await remove(id)).status).toBe(200);
    expect((await make()).status).toBe(201);
    expect((await make()).status).toBe(409);
  });

  it("says so while the database is away, and nothing is in use", async () => {
    const answer = await make(
      {},
      database((sql) => sql.includes("INSERT")),
    );
    expect(problem(answer, 503, "api_error")).toMatch(/^The upstream may be stored\. .* the database is unavailable/);
    expect(answer.text).not.toContain("INSERT");
    expect(await inPool()).toEqual([]);
  });
});

describe("GET /admin/upstreams", () => {
  it("lists the environment's first, in use only while no other is stored", async () => {
    const [first] = (await call("upstreams")).body.data;
    expect(first).toEqual({
      id: "up_default",
      source: "environment",
      in_use: true,
      name: "ANTHROPIC_API_KEY",
      base_url: expect.stringMatching(/^http:\/\/127\.0\.0\.1:\d+$/),
      weight: 100,
      models: null,
      concurrent_requests: null,
      state: "active",
      fingerprint: expect.stringMatching(/^[0-9a-f]{12}$/),
      sealed_under: null,
      created_at: null,
      updated_at: null,
      version: 0,
      health: { state: "healthy" },
    });
    const { id } = await made();
    const { data } = (await call("upstreams")).body;
    expect(data.map((entry: { id: string; in_use?: boolean }) => [entry.id, entry.in_use])).toEqual([
      ["up_default", false],
      [id, undefined],
    ]);
    expect((await call("upstreams/up_default")).body).toEqual({ ...first, in_use: false });
    await remove(id);
    expect((await call("upstreams/up_default")).body.in_use).toBe(true);
  });

  it("pages by keyset through all of them once, whatever the page's size", async () => {
    const ids: string[] = [];
    for (let n = 0; n < 5; n++) ids.unshift((await made({ name: `n${n}` })).id);
    const ordered = ids.sort().reverse();
    for (const limit of [1, 2, 3, 6, 7]) {
      const seen: string[] = [];
      let cursor: string | null = null;
      do {
        const answer: Answer = await call(`upstreams?limit=${limit}${cursor ? `&cursor=${cursor}` : ""}`);
        expect(answer.body.data.length).toBeLessThanOrEqual(limit);
        seen.push(...answer.body.data.map(({ id }: { id: string }) => id));
        cursor = answer.body.next_cursor;
        expect(answer.body.has_more).toBe(cursor !== null);
      } while (cursor);
      expect(seen).toEqual(["up_default", ...ordered]);
    }
  });

  it("lists removed ones by themselves", async () => {
    const [kept, gone] = [await made(), await made()];
    await remove(gone.id);
    const idsOf = async (query: string) =>
      (await call(`upstreams${query}`)).body.data.map(({ id }: { id: string }) => id);
    expect(await idsOf("")).toEqual(["up_default", kept.id]);
    expect(await idsOf("?removed=false")).toEqual(["up_default", kept.id]);
    expect(await idsOf("?removed=true")).toEqual([gone.id]);
  });

  it.each([
    "removed=yes",
    "limit=0",
    "limit=501",
    "cursor=up_x",
    "cursor=%27%20OR%201=1--",
    "sort=id",
    "limit=1&limit=2",
  ])("Q-02 refuses ?%s", async (query) => {
    problem(await call(`upstreams?${query}`), 400, "invalid_request_error");
  });

  it("shows what isolates have told the pool, and nothing of it while the pool is away", async () => {
    const { id } = await made();
    const at = Date.now() - 1_000;
    const until = at + 60_000;
    const told = { upstream: id, kind: "open", reason: "server_error", at, until } as const;
    await own().exchange({ version: 0, hints: [told], homes: [], since: 0 });
    const open = {
      state: "open",
      reason: "server_error",
      since: new Date(at).toISOString(),
      until: new Date(until).toISOString(),
    };
    expect((await call(`upstreams/${id}`)).body.health).toEqual(open);
    expect((await call("upstreams")).body.data[1].health).toEqual(open);
    const away = await call(`upstreams/${id}`, failingPool({ hints: 99 }));
    expect([away.status, away.body.health]).toEqual([200, null]);
    await own().exchange({ version: 0, hints: [{ ...told, kind: "healthy", at: at + 1 }], homes: [], since: 0 });
    expect((await call(`upstreams/${id}`)).body.health).toEqual({ state: "healthy" });
    // What none can open is not healthy, whatever was said of it.
    const unusable = { state: "unusable", reason: "unknown_master" };
    expect((await call(`upstreams/${id}`, withMasters(SECOND))).body.health).toEqual(unusable);
    expect((await call("upstreams", withMasters(undefined))).body.data[1].health).toEqual(unusable);
  });

  it("knows no other ids", async () => {
    for (const id of [newId("up", 1), "up_x", "reseal", "key_1", "%27"]) {
      expect(problem(await call(`upstreams/${id}`), 404, "not_found_error")).toBe("There is no such upstream.");
    }
  });
});

describe("PATCH /admin/upstreams/:id", () => {
  it("changes what is given and nothing else, in D1 and in the pool", async () => {
    const before = await made({ models: ["a"], concurrent_requests: 3 });
    const changes = {
      name: "b",
      base_url: "http://localhost:9999/p",
      weight: 1,
      models: null,
      concurrent_requests: null,
    };
    const { status, body } = await patch(before.id, changes);
    expect([status, body]).toEqual([200, { ...before, ...changes, updated_at: TIME, version: 2 }]);
    expect(await inPool()).toEqual([await row(before.id)]);
    expect((await opened(await row(before.id))).ok).toBe(true);
  });

  it("rotates the key: the next one is sealed and used, the one before is nowhere", async () => {
    const before = await made();
    const { body } = await patch(before.id, { api_key: NEXT_CANARY });
    expect(body).toMatchObject({ id: before.id, version: 2, sealed_under: "1", state: "active" });
    expect(body.fingerprint).not.toBe(before.fingerprint);
    const [pooled] = await inPool();
    expect(await opened(pooled)).toMatchObject({ value: { apiKey: NEXT_CANARY } });
  });

  it.each([
    [{}, "the request body changes nothing"],
    [{ weight: 0 }, "weight: must be"],
    [{ name: null }, "name: must be"],
    [{ api_key: null }, "api_key: must be"],
    [{ state: "removed" }, "state: must be active"],
    [{ state: "draining" }, "state: must be active"],
    [{ fingerprint: "0" }, "fingerprint: unknown field"],
    [{ version: 9 }, "version: unknown field"],
  ])("refuses %j", async (json, start) => {
    const { id } = await made();
    expect(problem(await patch(id, json), 400, "invalid_request_error")).toContain(start);
    expect((await row(id))?.version).toBe(1);
  });

  it("lets one of two win that change at the same moment", async () => {
    const { id } = await made();
    let raced = false;
    const batch = async (statements: D1PreparedStatement[]) => {
      if (!raced) {
        raced = true;
        await env.DB.prepare("UPDATE upstreams SET weight = 9, version = version + 1 WHERE id = ?").bind(id).run();
      }
      return env.DB.batch(statements);
    };
    const prepare = (sql: string) => env.DB.prepare(sql);
    const answer = await patch(id, { weight: 5 }, { env: { DB: { prepare, batch } as unknown as D1Database } });
    expect(problem(answer, 409, "conflict_error")).toContain("changed by somebody else");
    expect(await row(id)).toMatchObject({ weight: 9, version: 2 });
  });

  it("says when the pool was not told, and a repetition completes it", async () => {
    const { id } = await made();
    await inPool();
    const failed = await patch(id, { weight: 5 }, failingPool({ put: 3 }));
    expect(problem(failed, 503, "api_error")).toBe(
      "The change is stored but not yet enforced. Repeat the call: the upstream pool is unavailable at the moment.",
    );
    expect((await inPool())[0]).toMatchObject({ weight: 100 });
    expect((await patch(id, { weight: 5 })).status).toBe(200);
    expect((await inPool())[0]).toMatchObject({ weight: 5, version: 3 });
  });
});

describe("draining and removing", () => {
  it("drains and comes back", async () => {
    const { id } = await made();
    expect((await post(`${id}/drain`)).body).toMatchObject({ state: "draining", version: 2 });
    expect((await inPool())[0]).toMatchObject({ state: "draining" });
    expect((await post(`${id}/drain`)).body).toMatchObject({ state: "draining", version: 2 });
    expect((await patch(id, { state: "active" })).body).toMatchObject({ state: "active", version: 3 });
    expect((await inPool())[0]).toMatchObject({ state: "active" });
  });

  it("removes for good: the key is wiped, the row stays, once or often", async () => {
    const before = await made();
    const { status, body } = await remove(before.id);
    expect([status, body]).toEqual([
      200,
      { ...before, state: "removed", sealed_under: null, updated_at: TIME, version: 2, health: null },
    ]);
    expect((await remove(before.id)).body).toEqual(body);
    expect((await row(before.id))?.sealed_key).toBeNull();
    expect(await inPool()).toEqual([]);
    expect((await call(`upstreams/${before.id}`)).body).toMatchObject({ state: "removed" });
    for (const answer of [
      await patch(before.id, { state: "active" }),
      await patch(before.id, { api_key: CANARY }),
      await post(`${before.id}/drain`),
      await post(`${before.id}/test`),
    ]) {
      problem(answer, 409, "conflict_error");
    }
  });

  it.each(["remove", "drain"] as const)("%s: what the pool was not told is completed by a repetition", async (what) => {
    const { id } = await made();
    await inPool();
    const act = (more = {}) => (what === "remove" ? remove(id, more) : post(`${id}/drain`, more));
    problem(await act(failingPool({ put: 3 })), 503, "api_error");
    expect((await inPool())[0]).toMatchObject({ state: "active" });
    problem(await act(failingPool({ put: 3 })), 503, "api_error");
    expect((await act()).status).toBe(200);
    expect((await inPool()).map(({ state }) => state)).toEqual(what === "remove" ? [] : ["draining"]);
  });

  it("leaves the environment's as it is", async () => {
    for (const answer of [
      await patch("up_default", { weight: 1 }),
      await remove("up_default"),
      await post("up_default/drain"),
    ]) {
      expect(problem(answer, 409, "conflict_error")).toContain("ANTHROPIC_API_KEY");
    }
  });
});

describe("POST /admin/upstreams/:id/test", () => {
  const real = globalThis.fetch;
  const answering = (answer: (request: Request) => Response | Promise<Response>) => {
    const asked: Request[] = [];
    vi.stubGlobal("fetch", async (url: string, init: RequestInit) => {
      const request = new Request(url, init);
      asked.push(request);
      expect(init.redirect).toBe("manual");
      return answer(request);
    });
    return asked;
  };
  const tested = async (id: string) => {
    const answer = await post(`${id}/test`);
    vi.stubGlobal("fetch", real);
    expect(answer.status).toBe(200);
    return answer.body;
  };

  it("asks the upstream one real thing, with its own credential", async () => {
    const { id } = await made({ base_url: `${upstreamUrl}/prefix` });
    expect(await tested(id)).toEqual({ ok: true, status: 200, latency_ms: expect.any(Number) });
    const asked = answering(() => Response.json({ data: [] }));
    expect(await tested(id)).toMatchObject({ ok: true });
    expect(asked.map(({ method, url }) => [method, url])).toEqual([["GET", `${upstreamUrl}/prefix/v1/models?limit=1`]]);
    expect(Object.fromEntries(asked[0]?.headers ?? [])).toEqual({
      "x-api-key": CANARY,
      "anthropic-version": "2023-06-01",
    });
    await post(`${id}/drain`);
    expect(await tested(id)).toMatchObject({ ok: true });
    expect(await tested("up_default")).toMatchObject({ ok: true, status: 200 });
  });

  it.each<[string, () => Response | Promise<Response>, object]>([
    [
      "a refused credential",
      () => Response.json({ type: "error", error: { type: "authentication_error", message: CANARY } }, { status: 401 }),
      { ok: false, status: 401, error_type: "authentication_error" },
    ],
    [
      "an overload",
      () => Response.json({ type: "error", error: { type: "overloaded_error" } }, { status: 529 }),
      { ok: false, status: 529, error_type: "overloaded_error" },
    ],
    [
      "a type that nobody knows",
      () => Response.json({ error: { type: CANARY } }, { status: 400 }),
      { ok: false, status: 400, error_type: "other" },
    ],
    [
      "no JSON",
      () => new Response(`<b>${CANARY}</b>`, { status: 502 }),
      { ok: false, status: 502, error_type: "other" },
    ],
    ["a huge error", () => new Response("x".repeat(70_000), { status: 500 }), { status: 500, error_type: "other" }],
    ["an empty one", () => new Response(null, { status: 404 }), { ok: false, status: 404, error_type: "other" }],
    [
      "S-03 a redirect",
      () => new Response(null, { status: 307, headers: { location: "https://evil.com/" } }),
      { ok: false, status: 307, error_type: "redirect" },
    ],
    [
      "no connection",
      () => Promise.reject(new Error(`connect to ${CANARY}`)),
      { ok: false, status: null, error_type: "unreachable" },
    ],
  ])("tells of %s by its type alone", async (_, answer, expected) => {
    const { id } = await made();
    answering(answer);
    const body = await tested(id);
    expect(body).toMatchObject(expected);
    expect(JSON.stringify(body)).not.toContain("CANARY");
  });

  it("says why it could not ask, and asks nobody", async () => {
    const { id } = await made();
    const asked = answering(() => Response.json({}));
    expect((await post(`${id}/test`, withMasters(SECOND))).body).toMatchObject({
      ok: false,
      error_type: "unknown_master",
    });
    const hosts = { env: { UPSTREAM_HOSTS: "other.example.com" } as unknown as Partial<Env> };
    expect((await post(`${id}/test`, hosts)).body).toMatchObject({
      ok: false,
      status: null,
      error_type: "host_not_allowed",
    });
    await env.DB.prepare("UPDATE upstreams SET base_url = 'https://evil.com' WHERE id = ?").bind(id).run();
    expect((await post(`${id}/test`)).body).toMatchObject({ error_type: "host_not_allowed" });
    vi.stubGlobal("fetch", real);
    expect(asked).toEqual([]);
  });

  it("E-02 a sealed key that was moved to another row does not open there", async () => {
    const [one, two] = [await made(), await made({ api_key: NEXT_CANARY })];
    await env.DB.prepare(
      "UPDATE upstreams SET sealed_key = (SELECT sealed_key FROM upstreams WHERE id = ?) WHERE id = ?",
    )
      .bind(one.id, two.id)
      .run();
    expect(await tested(two.id)).toMatchObject({ ok: false, error_type: "tampered" });
  });
});

describe("exchanging the master key", () => {
  const reseal = (masters: string) => post("reseal", withMasters(masters));
  const both = `${SECOND},${FIRST}`;

  it("E-02 seals everything anew under the first one, in D1 and in the pool; both open meanwhile", async () => {
    const ids = [(await made()).id, (await made()).id];
    const gone = (await made()).id;
    await remove(gone);
    const fresh = (await make({}, withMasters(both))).body;
    expect(fresh.sealed_under).toBe("2");
    for (const id of ids) expect((await opened(await row(id), both)).ok).toBe(true);
    expect((await reseal(both)).body).toEqual({ resealed: 2, failed: [] });
    for (const record of await inPool()) {
      expect(record.sealed_key?.master).toBe("2");
      expect(await opened(record, SECOND)).toMatchObject({ value: { apiKey: CANARY } });
      expect(await opened(record, FIRST)).toEqual({ ok: false, error: { kind: "unknown_master", master: "2" } });
      expect(await row(record.id)).toEqual(record);
    }
    expect((await reseal(both)).body).toEqual({ resealed: 0, failed: [] });
    expect((await row(gone))?.version).toBe(2);
  });

  it("E-02 names the rows that no key opens, and seals the others", async () => {
    const [lost, damaged, good] = [await made(), await made(), (await make({}, withMasters(both))).body];
    await env.DB.prepare("UPDATE upstreams SET sealed_key = ? WHERE id = ?")
      .bind(JSON.stringify({ master: "2", iv: "AAAA", data: "AAAA" }), damaged.id)
      .run();
    const third = `3:${btoa("third-master-key-of-the-tests-00")}`;
    const { body } = await reseal(`${third},${SECOND}`);
    expect(body.resealed).toBe(1);
    expect([...body.failed].sort()).toEqual([lost.id, damaged.id].sort());
    expect((await row(good.id))?.sealed_key?.master).toBe("3");
    // What could not be sealed anew is as it was.
    expect((await opened(await row(lost.id))).ok).toBe(true);
  });

  it.each(["nonsense", "5", "{}", '{"master":1}'])(
    "a row whose key somebody has made %s costs nobody else",
    async (sealed) => {
      const [damaged, good] = [await made(), await made()];
      const update = "UPDATE upstreams SET sealed_key = ?, models = ? WHERE id = ?";
      await env.DB.prepare(update).bind(sealed, sealed, damaged.id).run();
      expect((await call("upstreams")).body.data).toHaveLength(3);
      expect((await call(`upstreams/${damaged.id}`)).body).toMatchObject({ models: [], sealed_under: "" });
      expect((await post(`${damaged.id}/test`)).body).toMatchObject({ ok: false, error_type: "unknown_master" });
      expect((await reseal(both)).body).toEqual({ resealed: 1, failed: [damaged.id] });
      expect((await inPool()).map(({ id }) => id).sort()).toEqual([damaged.id, good.id].sort());
      expect((await patch(damaged.id, { api_key: CANARY, models: null })).body).toMatchObject({ sealed_under: "1" });
      expect((await opened(await row(damaged.id))).ok).toBe(true);
    },
  );

  it("names those that the pool was not told of, and a repetition completes it", async () => {
    const { id } = await made();
    await inPool();
    const failing = { env: { ...withMasters(both).env, ...failingPool({ put: 1 }).env } };
    expect((await post("reseal", failing)).body).toEqual({ resealed: 1, failed: [id] });
    expect((await inPool())[0]?.sealed_key?.master).toBe("1");
    expect((await reseal(both)).body).toEqual({ resealed: 0, failed: [] });
    expect((await inPool())[0]?.sealed_key?.master).toBe("2");
  });

  it("loses no change that is made meanwhile", async () => {
    const { id } = await made();
    let raced = false;
    const batch = async (statements: D1PreparedStatement[]) => {
      if (!raced) {
        raced = true;
        await patch(id, { weight: 9, api_key: NEXT_CANARY });
      }
      return env.DB.batch(statements);
    };
    const prepare = (sql: string) => env.DB.prepare(sql);
    const meanwhile = { env: { ...withMasters(both).env, DB: { prepare, batch } as unknown as D1Database } };
    expect((await post("reseal", meanwhile)).body).toEqual({ resealed: 1, failed: [] });
    expect(await row(id)).toMatchObject({ weight: 9, version: 3, sealed_key: { master: "2" } });
    expect(await opened(await row(id), SECOND)).toMatchObject({ value: { apiKey: NEXT_CANARY } });
  });

  it("is done by the cron, which also tells the pool what it was not told", async () => {
    const { id } = await made();
    await inPool();
    problem(await patch(id, { weight: 5 }, failingPool({ put: 3 })), 503, "api_error");
    const cron = (masters: string | undefined) =>
      worker.scheduled(createScheduledController(), { ...env, ...withMasters(masters).env } as Env);
    const resealed = () => logged.map((line) => JSON.parse(line)).filter(({ msg }) => msg === "resealed");
    await cron(FIRST);
    expect((await inPool())[0]).toMatchObject({ weight: 5, sealed_key: { master: "1" } });
    logged.length = 0;
    await cron(both);
    expect((await inPool())[0]).toMatchObject({ weight: 5, sealed_key: { master: "2" } });
    expect(resealed()).toEqual([{ level: "info", msg: "resealed", resealed: 1, failed: [] }]);
    logged.length = 0;
    await cron(FIRST);
    await cron(undefined);
    const told = { level: "error", msg: "resealed", resealed: 0, failed: [id] };
    expect(resealed()).toEqual([told, told]);
  });
});

describe("who may", () => {
  const routes: readonly [string, string][] = [
    ["POST", "upstreams"],
    ["GET", "upstreams"],
    ["GET", "upstreams/up_default"],
    ["PATCH", "upstreams/up_default"],
    ["DELETE", "upstreams/up_default"],
    ["POST", "upstreams/up_default/drain"],
    ["POST", "upstreams/up_default/test"],
    ["POST", "upstreams/reseal"],
  ];

  it.each(routes)("A-06 %s /admin/%s is for admins alone", async (method, path) => {
    const data = await makeKey();
    const metrics = await makeKey({ scopes: ["metrics", "messages"] });
    const admin = await makeKey({ scopes: ["admin"] });
    for (const key of [data, metrics]) {
      problem(await call(path, { method, as: key.key }), 403, "permission_error");
    }
    for (const as of [null, "sk-ant-UPKEY-CANARY", `${admin.key}x`]) {
      problem(await call(path, { method, as }), 401, "authentication_error");
    }
    const allowed = await call(path, { method, as: admin.key });
    expect([401, 403, 404, 405]).not.toContain(allowed.status);
    expect(await env.DB.prepare("SELECT count(*) AS n FROM upstreams").first("n")).toBe(0);
  });
});

it("E-04 K-13 no answer, log line, row of D1 or of the object ever holds a key", async () => {
  const { id } = await made({ base_url: upstreamUrl });
  await patch(id, { api_key: NEXT_CANARY });
  await patch(id, { api_key: `${CANARY} with a space` });
  await patch(id, { api_key: NEXT_CANARY }, failingPool({ put: 3 }));
  await make(
    {},
    database((sql) => sql.includes("INSERT")),
  );
  await make({ base_url: `https://${CANARY}@api.anthropic.com` });
  await make({ base_url: `https://api.anthropic.com/?key=${CANARY}` });
  await call("upstreams", { raw: `{"api_key":"${CANARY}"`, headers: { "content-type": "application/json" } });
  await post("reseal", withMasters(`${SECOND},${FIRST}`));
  await post(`${id}/test`, withMasters(SECOND));
  await call("upstreams");
  await inPool();
  const dump = async (query: (sql: string) => Promise<unknown[]>) => {
    const texts: string[] = [];
    const tables = await query(
      "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '\\_cf%' ESCAPE '\\'",
    );
    for (const { name } of tables as { name: string }[]) {
      texts.push(JSON.stringify(await query(`SELECT * FROM "${name}"`)));
    }
    return texts.join("\n");
  };
  const d1 = await dump(async (sql) => (await env.DB.prepare(sql).all()).results);
  const object = await runInDurableObject(stub(), (_, { storage }) =>
    dump(async (sql) => storage.sql.exec(sql).toArray()),
  );
  for (const [where, text] of Object.entries({ answers: answered.join("\n"), log: logged.join("\n"), d1, object })) {
    expect(text.length, where).toBeGreaterThan(100);
    for (const key of [CANARY, NEXT_CANARY]) {
      // In no encoding that is one step away either.
      for (const spelled of [
        key,
        btoa(key).slice(0, -4),
        encodeURIComponent(key),
        new TextEncoder().encode(key).toHex(),
      ]) {
        expect(text.includes(spelled), where).toBe(false);
      }
    }
  }
  expect(d1).toContain(id);
  expect(object).toContain(id);
});

it("keeps any key whole, from the request to where it is used (25 runs)", async () => {
  const printable = fc.string({
    unit: fc.integer({ min: 0x21, max: 0x7e }).map((c) => String.fromCharCode(c)),
    minLength: 8,
    maxLength: 512,
  });
  await fc.assert(
    fc.asyncProperty(printable, async (api_key) => {
      const { id } = await made({ api_key });
      expect(await opened(await row(id))).toMatchObject({ value: { apiKey: api_key } });
      await env.DB.prepare("DELETE FROM upstreams").run();
    }),
    { numRuns: 25 },
  );
});
