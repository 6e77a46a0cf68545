import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { mintKey } from "../../src/identity/api-key.ts";
import { KEY_DEFAULTS, type KeyRecord } from "../../src/identity/key-record.ts";
import { getKey, insertKey, loadPolicy, updateKey } from "../../src/identity/key-store.ts";
import { SCOPES } from "../../src/identity/scopes.ts";
import { newId } from "../../src/wire/ids.ts";
import { SOME_CHANGE } from "../support/changes.ts";
import {
  ADMIN_TOKEN,
  type Answer,
  answered,
  call,
  database,
  ledgers,
  type MadeKey,
  makeKey,
  policyOf,
  problem,
  send,
} from "./control-plane.ts";

const TAG_SECRET = "tag-secret-of-the-tests-0123456789";
const logged: string[] = [];

beforeAll(() => {
  for (const level of ["log", "error", "warn"] as const) {
    vi.spyOn(console, level).mockImplementation((...parts) => void logged.push(parts.join(" ")));
  }
});

/** Whether a key opens the data plane's ledger at this moment, by the policy in force. */
async function isAdmitted({ key }: MadeKey): Promise<boolean> {
  return (await send("keys?limit=1", { as: key })).status !== 401;
}
const patch = (id: string, json: unknown, more = {}) => call(`keys/${id}`, { method: "PATCH", json, ...more });
const revoke = (id: string, more = {}) => call(`keys/${id}`, { method: "DELETE", ...more });
const rotate = (id: string, json?: unknown, more = {}) =>
  call(`keys/${id}/rotate`, { method: "POST", ...(json === undefined ? {} : { json }), ...more });
const message = (answer: Answer) => problem(answer, answer.status, answer.body.error.type);

const sleep = (ms: number) => new Promise((done) => setTimeout(done, ms));

describe("POST /admin/keys", () => {
  it("makes a key with everything given", async () => {
    const fields = {
      name: "  team \t",
      workspace: "ws_red",
      scopes: ["messages", "metrics"],
      models: ["claude-opus-5-5", "claude-haiku-*"],
      limits: {
        requests_per_minute: 60,
        requests_burst: 20,
        input_tokens_per_minute: 100_000,
        input_tokens_burst: 200_000,
        output_tokens_per_minute: 20_000,
        output_tokens_burst: 5_000,
        concurrent_requests: 7,
        max_request_bytes: 1_000,
      },
      budget: { usd: 4.35, period: "month", mode: "soft" },
      on_disconnect: "drain",
      on_revoke: "cut",
      fail_open: true,
      timeouts: {
        connect_ms: 1_000,
        first_byte_ms: 2_000,
        silence_ms: 3_000,
        total_ms: 4_000,
        stream_total_ms: 80_000_000,
      },
      cache: { ttl_seconds: 600 },
      aliases: { "gpt-4o": "claude-sonnet-5-5(high)", mine: { model: "opus", thinking: true } },
      guardrails: { redact: ["EMAIL"], patterns: [{ name: "ORDER", pattern: "AB-[0-9]+" }] },
      expires_at: "2999-01-31T00:00:00Z",
      metadata: { owner: "Zoë", constructor: "x" },
    };
    const { status, body } = await call("keys", { json: fields });
    expect(status).toBe(201);
    expect(body).toEqual({
      ...fields,
      id: expect.stringMatching(/^key_[0-9a-hjkmnp-tv-z]{26}$/),
      key: expect.stringMatching(/^sk-sluice-/),
      name: "team",
      budget: { usd: 4.35, micro_usd: 4_350_000, period: "month", mode: "soft" },
      version: 1,
      hint: expect.stringMatching(/^sk-sluice-.{6}….{4}$/),
      created_at: expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/),
      updated_at: body.created_at,
      expires_at: "2999-01-31T00:00:00.000Z",
      revoked_at: null,
      secrets: [{ hint: body.hint, created_at: body.created_at, expires_at: null }],
    });
    expect(body.key.slice(-4)).toBe(body.hint.slice(-4));
    const { key: _, ...record } = body;
    expect((await call(`keys/${body.id}`)).body).toEqual(record);
    expect((await call("keys?workspace=ws_red")).body.data).toEqual([record]);
    expect(await policyOf(body.id)).toMatchObject({
      limits: fields.limits,
      budget: { micro_usd: 4_350_000, period: "month", mode: "soft" },
      on_disconnect: "drain",
      on_revoke: "cut",
      fail_open: true,
      cache: { ttl_seconds: 600 },
    });
  });

  it("fills in what is not given", async () => {
    const { id } = await makeKey();
    expect((await call(`keys/${id}`)).body).toMatchObject({
      workspace: "ws_default",
      scopes: ["messages", "conversations", "templates:read"],
      models: null,
      limits: {},
      budget: null,
      on_disconnect: "cancel",
      on_revoke: "finish",
      fail_open: false,
      timeouts: {},
      cache: null,
      expires_at: null,
      metadata: {},
    });
  });

  it("keeps every budget to the µUSD, on its whole way through JSON and D1 (25 runs)", async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 10_000_000_000_000 }), async (micro) => {
        const digits = String(micro).padStart(7, "0");
        const usd = `${digits.slice(0, -6)}.${digits.slice(-6)}`;
        const raw = `{"name":"n","budget":{"usd":${usd},"period":"total"}}`;
        const made = await call("keys", { raw, headers: { "content-type": "application/json" } });
        expect(made.body.budget).toEqual({ usd: Number(usd), micro_usd: micro, period: "total", mode: "strict" });
        expect((await call(`keys/${made.body.id}`)).body.budget).toEqual(made.body.budget);
        expect((await loadPolicy(env.DB, made.body.id))?.budget?.micro_usd).toBe(micro);
      }),
      { numRuns: 25, examples: [[100_000], [1_005_000], [4_350_000], [1], [10_000_000_000_000]] },
    );
  });

  it("refuses a burst without its limit", async () => {
    const json = { name: "n", limits: { input_tokens_burst: 5, requests_per_minute: 5 } };
    expect(problem(await call("keys", { json }), 400, "invalid_request_error")).toBe(
      "limits.input_tokens_burst: needs limits.input_tokens_per_minute beside it",
    );
  });

  it("leaves the ledger alone, which learns of the key by itself", async () => {
    const { calls, env: bindings } = ledgers();
    const { body } = await call("keys", { json: { name: "n" }, env: bindings });
    expect(calls.stubs).toBe(0);
    expect(await policyOf(body.id)).toEqual(await loadPolicy(env.DB, body.id));
  });

  it("refuses bodies that are none", async () => {
    const headers = { "content-type": "application/json" };
    expect(problem(await call("keys", { raw: "{}" }), 415, "invalid_request_error")).toContain("application/json");
    expect((await call("keys", { raw: '{"name":"n"}', headers: { "content-type": "text/plain" } })).status).toBe(415);
    expect(message(await call("keys", { raw: '{"name":}', headers }))).toMatch(/not valid JSON: .* at position 8/);
    expect(message(await call("keys", { raw: "", headers }))).toContain("not valid JSON");
    expect(message(await call("keys", { raw: "[]", headers }))).toBe("the request body must be a JSON object");
    const padded = (bytes: number) => `{"name":"n"${" ".repeat(bytes - 12)}}`;
    expect((await call("keys", { raw: padded(65_536), headers })).status).toBe(201);
    expect(problem(await call("keys", { raw: padded(65_537), headers }), 413, "request_too_large")).toContain("65536");
    const endless = new ReadableStream({
      type: "bytes",
      pull: (controller) => controller.enqueue(new TextEncoder().encode(" ".repeat(10_000))),
    });
    expect((await call("keys", { raw: endless, headers })).status).toBe(413);
  });

  it("says field by field what is wrong, and stores nothing", async () => {
    const before = await env.DB.prepare("SELECT count(*) AS n FROM api_keys").first("n");
    const json = { name: "n", limits: { requests_per_minute: 0, foo: 1 }, colour: "red" };
    expect(
      problem(await call("keys", { json }), 400, "invalid_request_error")
        .split("; ")
        .sort(),
    ).toEqual([
      "colour: unknown field",
      "limits.foo: unknown field",
      "limits.requests_per_minute: must be a whole number from 1 to 1000000",
    ]);
    const past = await call("keys", { json: { name: "n", expires_at: "2020-01-01T00:00:00Z" } });
    expect(problem(past, 400, "invalid_request_error")).toBe("expires_at: must be in the future");
    expect(await env.DB.prepare("SELECT count(*) AS n FROM api_keys").first("n")).toBe(before);
  });

  it("Q-01 keeps SQL as the text it is", async () => {
    for (const name of ["' OR 1=1--", '"; DROP TABLE api_keys;--', "%27", "Robert'); DELETE FROM audit;--"]) {
      const { id } = await makeKey({ name, metadata: { [name]: name } });
      expect((await call(`keys/${id}`)).body).toMatchObject({ name, metadata: { [name]: name } });
      expect((await patch(id, { name: `${name}2` })).body.name).toBe(`${name}2`);
    }
    const tables = await env.DB.prepare("SELECT count(*) AS n FROM sqlite_schema WHERE name IN ('api_keys', 'audit')");
    expect(await tables.first("n")).toBe(2);
  });
});

describe("who may", () => {
  const ROUTES: readonly (readonly [string, string])[] = [
    ["POST", "keys"],
    ["GET", "keys"],
    ["GET", "keys/key_00000000000000000000000000"],
    ["PATCH", "keys/key_00000000000000000000000000"],
    ["DELETE", "keys/key_00000000000000000000000000"],
    ["POST", "keys/key_00000000000000000000000000/rotate"],
    ["POST", "workspaces"],
    ["GET", "workspaces"],
    ["GET", "workspaces/ws_x"],
    ["PATCH", "workspaces/ws_x"],
    ["GET", "audit"],
    ["GET", "audit.ndjson"],
    ["GET", "audit.csv"],
    ["GET", "usage"],
  ];

  it("A-06 nobody without a credential, and no data key, on any route", async () => {
    const plain = await makeKey({ scopes: SCOPES.filter((scope) => !scope.startsWith("admin")) });
    const bodies = new Set<string>();
    for (const [method, path] of ROUTES) {
      for (const as of [null, "", "wrong", `${ADMIN_TOKEN}x`, ADMIN_TOKEN.slice(0, -1), "' OR 1=1--"]) {
        const answer = await call(path, { method, as });
        expect(problem(answer, 401, "authentication_error")).toContain(
          "missing, malformed, expired, revoked or unknown",
        );
        bodies.add(answer.body.error.message);
      }
      expect(problem(await call(path, { method, as: plain.key }), 403, "permission_error")).toContain(
        method === "GET" ? "`admin:read`" : "`admin:write`",
      );
    }
    expect(bodies.size).toBe(1);
  });

  it("takes the admin token and admin keys from any of the three headers, and no two different ones", async () => {
    const admin = await makeKey({ scopes: ["admin"] });
    for (const credential of [ADMIN_TOKEN, admin.key]) {
      for (const headers of [
        { authorization: `bearer ${credential}` },
        { "x-api-key": credential },
        { "api-key": credential },
        { "x-api-key": credential, authorization: `Bearer ${credential}` },
      ]) {
        expect((await call("keys?limit=1", { as: null, headers })).status).toBe(200);
      }
    }
    const both = { "x-api-key": admin.key, authorization: `Bearer ${ADMIN_TOKEN}` };
    problem(await call("keys", { as: null, headers: both }), 401, "authentication_error");
  });

  it("K-04 asks nobody about a key with a wrong tag", async () => {
    const admin = await makeKey({ scopes: ["admin"] });
    const { calls, env: ledger } = ledgers();
    const { statements, env: db } = database();
    const forged = `${admin.key.slice(0, -1)}${admin.key.endsWith("0") ? "1" : "0"}`;
    problem(await call("keys", { as: forged, env: { ...ledger, ...db } }), 401, "authentication_error");
    expect([calls.stubs, statements.length]).toEqual([0, 0]);
  });

  it("refuses a well-tagged key that does not exist, and a wrong secret, with the same answer", async () => {
    const admin = await makeKey({ scopes: ["admin"] });
    for (const { key } of [await mintKey(TAG_SECRET, Date.now()), await mintKey(TAG_SECRET, Date.now(), admin.id)]) {
      problem(await call("keys", { as: key }), 401, "authentication_error");
    }
  });

  it("no expired and no revoked admin key", async () => {
    const short = await makeKey({ scopes: ["admin"], expires_at: new Date(Date.now() + 1_000).toISOString() });
    const revoked = await makeKey({ scopes: ["admin"] });
    expect(await isAdmitted(short)).toBe(true);
    expect(await isAdmitted(revoked)).toBe(true);
    await revoke(revoked.id);
    problem(await call("keys", { as: revoked.key }), 401, "authentication_error");
    await sleep(1_100);
    problem(await call("keys", { as: short.key }), 401, "authentication_error");
  });

  it("K-12 an admin key grants no more than it holds: neither new, nor by PATCH, nor by a rotation", async () => {
    const admin = await makeKey({ scopes: ["admin", "messages"] });
    const beyond = { name: "n", scopes: ["messages", "files", "batches"] };
    expect(problem(await call("keys", { json: beyond, as: admin.key }), 403, "permission_error")).toBe(
      "Your own key can't grant this. scopes: yours lack files, batches.",
    );
    // The default scopes are a grant too.
    expect(problem(await call("keys", { json: { name: "n" }, as: admin.key }), 403, "permission_error")).toContain(
      "conversations, templates:read",
    );
    const made = await makeKey({ scopes: ["messages", "admin"] }, admin.key);
    expect(problem(await patch(made.id, { scopes: ["files"] }, { as: admin.key }), 403, "permission_error")).toContain(
      "files",
    );
    const before = await getKey(env.DB, made.id);
    expect(before?.version).toBe(1);
    expect((await patch(made.id, { scopes: ["messages"] }, { as: admin.key })).status).toBe(200);

    const mighty = await makeKey({ scopes: ["admin", "messages", "files"] });
    expect(problem(await rotate(mighty.id, undefined, { as: admin.key }), 403, "permission_error")).toContain("files");
    expect(await isAdmitted(mighty)).toBe(true);
    expect((await rotate(made.id, undefined, { as: admin.key })).status).toBe(200);
  });

  it("K-12 nor more money, models, limits or time, nor anything in another workspace", async () => {
    const bounds = {
      scopes: ["admin", "messages"],
      workspace: "ws_k12",
      models: ["claude-haiku-*"],
      limits: { requests_per_minute: 5 },
      budget: { usd: 1, period: "month" },
      expires_at: "2999-01-01T00:00:00Z",
    };
    const { key } = await makeKey(bounds);
    const { workspace, ...within } = { ...bounds, scopes: ["messages"], models: ["claude-haiku-5-5"] };
    const made = await makeKey(within, key);
    expect((await getKey(env.DB, made.id))?.workspace).toBe(workspace);
    const beyond: Record<string, unknown>[] = [
      { models: null },
      { models: ["claude-opus-5-5"] },
      { limits: {} },
      { limits: { requests_per_minute: 6 } },
      { budget: null },
      { budget: { usd: 1.000001, period: "month" } },
      { expires_at: null },
      { expires_at: "2999-01-01T00:00:01Z" },
      { workspace: "ws_other" },
    ];
    for (const fields of beyond) {
      const [name = ""] = Object.keys(fields);
      const answer = await call("keys", { json: { name: "n", ...within, ...fields }, as: key });
      expect(problem(answer, 403, "permission_error")).toContain(`${name}`);
      if (name === "workspace" || name === "limits") continue;
      expect(problem(await patch(made.id, fields, { as: key }), 403, "permission_error")).toContain(name);
    }
    const limits = { requests_per_minute: null };
    expect(problem(await patch(made.id, { limits }, { as: key }), 403, "permission_error")).toContain(
      "requests_per_minute",
    );
    // What gives nobody any rights may be changed.
    expect((await patch(made.id, { name: "renamed", on_revoke: "cut" }, { as: key })).status).toBe(200);
    const elsewhere = await makeKey({ scopes: ["messages"], workspace: "ws_other" });
    for (const fields of [{ scopes: ["messages", "admin"] }, { budget: { usd: 1, period: "day" } }]) {
      expect(problem(await patch(elsewhere.id, fields, { as: key }), 403, "permission_error")).toContain("workspace");
    }
    expect((await patch(elsewhere.id, { name: "renamed" }, { as: key })).status).toBe(200);
    expect(problem(await rotate(elsewhere.id, undefined, { as: key }), 403, "permission_error")).toContain("workspace");
  });

  it("A-01..05 nobody writes a field beyond the schema: not with the admin token, an admin key or a data key", async () => {
    const admin = await makeKey({ scopes: ["admin"] });
    const plain = await makeKey();
    const { id } = await makeKey({ budget: { usd: 1, period: "day" } });
    const before = await getKey(env.DB, id);
    const names = ["role", "user_role", "is_admin", "allowed_routes", "tenant_id", "created_by", "workspace"];
    for (const [as, status] of [
      [ADMIN_TOKEN, 400],
      [admin.key, 400],
      [plain.key, 403],
    ] as const) {
      for (const name of names) {
        const answer = await patch(id, { name: "n2", [name]: "admin" }, { as });
        expect(answer.status).toBe(status);
        if (status === 400) expect(message(answer)).toBe(`${name}: unknown field`);
      }
      expect((await patch(id, { budget: { usd: 9, period: "day", spent: 0 } }, { as })).status).toBe(status);
      expect((await patch(id, { limits: { requests_per_minute: 9, role: 1 } }, { as })).status).toBe(status);
    }
    problem(await patch(id, { budget: { usd: 9, period: "day" } }, { as: plain.key }), 403, "permission_error");
    expect(await getKey(env.DB, id)).toEqual(before);
  });

  it("logs who it was", async () => {
    const admin = await makeKey({ scopes: ["admin"] });
    logged.length = 0;
    await call("keys?limit=1");
    await call("keys?limit=1", { as: admin.key });
    expect(logged.join("\n")).toMatch(new RegExp(`"actor":"admin-token"[^]*"actor":"${admin.id}"`));
  });

  it("waits for the ledger of an admin key, a little", async () => {
    const admin = await makeKey({ scopes: ["admin"] });
    const flaky = ledgers({ policy: 2 });
    expect((await call("keys?limit=1", { as: admin.key, env: flaky.env })).status).toBe(200);
    expect(flaky.calls).toMatchObject({ policy: 3, stubs: 3 });
    const down = ledgers({ policy: 99 });
    const answer = await call("keys", { json: { name: "n", scopes: ["admin"] }, as: admin.key, env: down.env });
    expect(problem(answer, 503, "api_error")).toContain("Nothing was done. Repeat the call");
    expect(answer.headers.get("retry-after")).toBe("1");
    expect(down.calls.policy).toBe(3);
    const overloaded = ledgers({ policy: 99 }, Object.assign(new Error("too much"), { overloaded: true }));
    expect((await call("keys", { as: admin.key, env: overloaded.env })).status).toBe(503);
    expect(overloaded.calls.policy).toBe(1);
  });
});

describe("GET /admin/keys", () => {
  const fill = async (workspace: string, count: number): Promise<string[]> => {
    const records = Array.from({ length: count }, (_, i): KeyRecord => {
      const at = Date.now() + i;
      return {
        id: newId("key", at),
        version: 1,
        workspace,
        name: `key ${i}`,
        scopes: ["messages"],
        models: null,
        limits: {},
        ...KEY_DEFAULTS,
        metadata: {},
        created_at: at,
        updated_at: at,
        expires_at: null,
        revoked_at: i % 3 === 0 ? at : null,
        secrets: [{ sha256: "0", hint: "h", created_at: at, expires_at: null }],
      };
    });
    for (const record of records) await insertKey(env.DB, record, SOME_CHANGE);
    return records.map((record) => record.id).reverse();
  };

  it("pages through every key once, newest first, whatever the size of the pages", async () => {
    const ids = await fill("ws_pages", 23);
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 25 }), async (limit) => {
        const seen: string[] = [];
        let cursor = "";
        do {
          const { body } = await call(`keys?workspace=ws_pages&limit=${limit}${cursor && `&cursor=${cursor}`}`);
          expect(body.data.length).toBeLessThanOrEqual(limit);
          expect(body.has_more).toBe(body.next_cursor !== null);
          seen.push(...body.data.map((key: { id: string }) => key.id));
          cursor = body.next_cursor ?? "";
        } while (cursor);
        expect(seen).toEqual(ids);
      }),
      { numRuns: 12, examples: [[1], [23], [22], [24]] },
    );
  });

  it("takes 100 by default and 500 at most", async () => {
    await fill("ws_many", 101);
    expect((await call("keys?workspace=ws_many")).body).toMatchObject({ has_more: true });
    expect((await call("keys?workspace=ws_many")).body.data.length).toBe(100);
    expect((await call("keys?workspace=ws_many&limit=500")).body.data.length).toBe(101);
  });

  it("filters by workspace and by being revoked", async () => {
    await fill("ws_filter", 7);
    const count = async (query: string) => (await call(`keys?workspace=ws_filter${query}`)).body.data.length;
    expect([await count(""), await count("&revoked=true"), await count("&revoked=false")]).toEqual([7, 3, 4]);
    expect((await call("keys?workspace=ws_none")).body).toEqual({ data: [], has_more: false, next_cursor: null });
  });

  it.each([
    ["limit=0", "limit"],
    ["limit=501", "limit"],
    ["limit=1e9", "limit"],
    ["limit=-1", "limit"],
    ["cursor=x", "cursor"],
    ["cursor=key_x' OR 1=1--", "cursor"],
    ["revoked=1", "revoked"],
    ["workspace=' UNION SELECT * FROM api_keys--", "workspace"],
    ["sort=id;--", "sort"],
    ["order=(CASE WHEN 1 THEN 1 END)", "order"],
    ["fields=*", "fields"],
    ["limit=5&limit=6", "limit"],
  ])("Q-02 refuses ?%s", async (query, name) => {
    const answer = await call(`keys?${query}`);
    expect(problem(answer, 400, "invalid_request_error")).toMatch(new RegExp(`^${name}: `));
  });

  it("knows no key by a wrong or malformed id", async () => {
    for (const id of ["key_00000000000000000000000000", "key_x", "%27%20OR%201=1--", "__proto__", "k".repeat(1_000)]) {
      for (const method of ["GET", "DELETE", "POST"]) {
        const path = method === "POST" ? `keys/${id}/rotate` : `keys/${id}`;
        problem(await call(path, { method }), 404, "not_found_error");
      }
      problem(await patch(id, { name: "n" }), 404, "not_found_error");
    }
  });
});

describe("PATCH /admin/keys/:id", () => {
  it("changes what is given, merges limits, replaces metadata, and is in force at once", async () => {
    const made = await makeKey({
      limits: { requests_per_minute: 10, max_request_bytes: 99 },
      metadata: { a: "1", b: "2" },
      expires_at: "2999-01-01T00:00:00Z",
      models: ["m"],
    });
    const before = (await call(`keys/${made.id}`)).body;
    const { body } = await patch(made.id, { limits: { requests_per_minute: 20 }, metadata: { c: "3" }, name: " new " });
    expect(body).toEqual({
      ...before,
      name: "new",
      limits: { requests_per_minute: 20, max_request_bytes: 99 },
      metadata: { c: "3" },
      version: 2,
      updated_at: body.updated_at,
    });
    expect(await policyOf(made.id)).toMatchObject({ version: 2, name: "new", limits: body.limits });
    const cleared = await patch(made.id, {
      limits: { requests_per_minute: null },
      models: null,
      expires_at: null,
      scopes: ["files"],
    });
    expect(cleared.body).toMatchObject({
      limits: { max_request_bytes: 99 },
      models: null,
      expires_at: null,
      scopes: ["files"],
      version: 3,
    });
    expect(await policyOf(made.id)).toMatchObject({ version: 3, limits: { max_request_bytes: 99 }, models: null });
    expect((await call(`keys/${made.id}`)).body).toEqual(cleared.body);
  });

  it("sets limits of time one by one, takes them away with null, and puts them in force", async () => {
    const made = await makeKey({ timeouts: { silence_ms: 5_000, total_ms: 60_000 } });
    const change = async (timeouts: object) => (await patch(made.id, { timeouts })).body.timeouts;
    expect((await call(`keys/${made.id}`)).body.timeouts).toEqual({ silence_ms: 5_000, total_ms: 60_000 });
    expect(await change({ silence_ms: null, connect_ms: 7 })).toEqual({ total_ms: 60_000, connect_ms: 7 });
    expect((await patch(made.id, { name: "other" })).body.timeouts).toEqual({ total_ms: 60_000, connect_ms: 7 });
    expect((await policyOf(made.id))?.timeouts).toEqual({ total_ms: 60_000, connect_ms: 7 });
    expect(await change({ total_ms: null, connect_ms: null })).toEqual({});
    expect((await patch(made.id, { timeouts: { idle_ms: 1 } })).status).toBe(400);
  });

  it("replaces aliases whole, and puts them in force", async () => {
    const made = await makeKey({ aliases: { a: "opus", b: "haiku" } });
    expect((await policyOf(made.id))?.aliases).toEqual({ a: "opus", b: "haiku" });
    expect((await patch(made.id, { name: "other" })).body.aliases).toEqual({ a: "opus", b: "haiku" });
    expect((await patch(made.id, { aliases: { c: "fable" } })).body.aliases).toEqual({ c: "fable" });
    expect((await policyOf(made.id))?.aliases).toEqual({ c: "fable" });
    expect((await call(`keys/${made.id}`)).body.aliases).toEqual({ c: "fable" });
    expect((await patch(made.id, { aliases: {} })).body.aliases).toEqual({});
    expect((await patch(made.id, { aliases: { a: "b" } })).status).toBe(400);
  });

  it("replaces a budget whole, removes it with null, and leaves it alone otherwise", async () => {
    const { id } = await makeKey({ budget: { usd: 1, period: "day", mode: "soft" } });
    const budgetAfter = async (json: object) => {
      const { body } = await patch(id, json);
      expect((await call(`keys/${id}`)).body).toEqual(body);
      const enforced = (await policyOf(id))?.budget;
      expect(enforced?.micro_usd).toBe(body.budget?.micro_usd);
      return body.budget;
    };
    const soft = { usd: 1, micro_usd: 1_000_000, period: "day", mode: "soft" };
    expect(await budgetAfter({ name: "n2" })).toEqual(soft);
    expect(await budgetAfter({ limits: { concurrent_requests: 1 } })).toEqual(soft);
    // Mode and period of the old budget do not live on in the new one.
    const strict = { usd: 2.5, micro_usd: 2_500_000, period: "week", mode: "strict" };
    expect(await budgetAfter({ budget: { usd: 2.5, period: "week" } })).toEqual(strict);
    expect(message(await patch(id, { budget: { usd: 3 } }))).toBe("budget.period: Field required");
    expect(await budgetAfter({ on_revoke: "cut" })).toEqual(strict);
    expect(await budgetAfter({ budget: null })).toBeNull();
  });

  it("changes what happens on a disconnect, a revocation and without the ledger, each by itself", async () => {
    const { id } = await makeKey();
    const rules = { on_disconnect: "cancel", on_revoke: "finish", fail_open: false };
    for (const json of [{ on_disconnect: "drain" }, { on_revoke: "cut" }, { fail_open: true }, { fail_open: false }]) {
      Object.assign(rules, json);
      expect((await patch(id, json)).body).toMatchObject(rules);
      expect(await policyOf(id)).toMatchObject(rules);
      expect((await call(`keys/${id}`)).body).toMatchObject(rules);
    }
  });

  it("checks a burst against the limits as they will be", async () => {
    const { id } = await makeKey({ limits: { requests_per_minute: 10 } });
    const limitsAfter = async (limits: object) => (await patch(id, { limits })).body.limits;
    const problemAfter = async (limits: object) => message(await patch(id, { limits }));
    expect(await limitsAfter({ requests_burst: 3 })).toEqual({ requests_per_minute: 10, requests_burst: 3 });
    expect(await problemAfter({ requests_per_minute: null })).toBe(
      "limits.requests_burst: needs limits.requests_per_minute beside it",
    );
    expect(await problemAfter({ output_tokens_burst: 3 })).toBe(
      "limits.output_tokens_burst: needs limits.output_tokens_per_minute beside it",
    );
    expect((await getKey(env.DB, id))?.limits).toEqual({ requests_per_minute: 10, requests_burst: 3 });
    expect(await limitsAfter({ requests_per_minute: null, requests_burst: null })).toEqual({});
  });

  it("refuses an empty change, unknown fields, a past end, and leaves the row as it was", async () => {
    const { id } = await makeKey();
    const before = await getKey(env.DB, id);
    expect(message(await patch(id, {}))).toBe("the request body changes nothing");
    expect(message(await patch(id, { workspace: "tB", role: "admin" }))).toBe(
      "workspace: unknown field; role: unknown field",
    );
    expect(message(await patch(id, { expires_at: "2020-01-01T00:00:00Z" }))).toBe("expires_at: must be in the future");
    for (const json of [{ revoked_at: null }, { secrets: [] }, { version: 9 }, { id: "x" }, { name: null }]) {
      expect((await patch(id, json)).status).toBe(400);
    }
    expect(await getKey(env.DB, id)).toEqual(before);
  });

  it("loses no change of two that are made at once", async () => {
    const { id } = await makeKey();
    const answers = await Promise.all(Array.from({ length: 6 }, (_, i) => patch(id, { metadata: { i: `${i}` } })));
    const won = answers.filter((answer) => answer.status === 200);
    for (const lost of answers.filter((answer) => answer.status !== 200)) problem(lost, 409, "conflict_error");
    const record = await getKey(env.DB, id);
    expect(record?.version).toBe(1 + won.length);
    expect(await policyOf(id)).toMatchObject({ version: record?.version });
  });

  it("heals: what is stored but not enforced is enforced by the repeated call", async () => {
    const { id } = await makeKey();
    await policyOf(id);
    const json = { limits: { requests_per_minute: 7 } };
    const down = ledgers({ putPolicy: 99 });
    const failed = await patch(id, json, { env: down.env });
    expect(problem(failed, 503, "api_error")).toContain(
      "The change is stored but not yet enforced. Repeat the call: the key's ledger is unavailable",
    );
    expect(down.calls).toMatchObject({ putPolicy: 3, stubs: 3 });
    expect((await getKey(env.DB, id))?.limits).toEqual(json.limits);
    expect((await policyOf(id))?.limits).toEqual({});
    expect((await patch(id, json)).body).toMatchObject({ version: 3, ...json });
    expect((await policyOf(id))?.limits).toEqual(json.limits);
  });

  it("gets over two failures of the ledger by itself", async () => {
    const { id } = await makeKey();
    expect((await patch(id, { name: "n2" }, ledgers({ putPolicy: 2 }))).status).toBe(200);
    expect(await policyOf(id)).toMatchObject({ name: "n2" });
  });

  it("L-01 says what holds when D1 fails, and not what D1 said", async () => {
    const { id } = await makeKey();
    const { env: writesFail } = database((sql) => sql.startsWith("UPDATE"));
    expect(problem(await patch(id, { name: "n2" }, { env: writesFail }), 503, "api_error")).toBe(
      "The change may be stored but is not yet enforced. Repeat the call: the database is unavailable at the moment.",
    );
    const { env: allFails } = database(() => true);
    for (const answer of [
      await patch(id, { name: "n2" }, { env: allFails }),
      await call("keys", { env: allFails }),
      await call(`keys/${id}`, { env: allFails }),
      await call("keys", { json: { name: "n" }, env: allFails }),
    ]) {
      expect(problem(answer, 503, "api_error")).toBe("The database is unavailable at the moment.");
      expect(answer.text).not.toMatch(/D1_ERROR|SELECT/);
    }
  });
});

describe("DELETE /admin/keys/:id", () => {
  it("revokes at once, and again changes nothing", async () => {
    const made = await makeKey({ scopes: ["admin"] });
    expect(await isAdmitted(made)).toBe(true);
    const first = await revoke(made.id);
    expect(first.status).toBe(200);
    expect(first.body).toMatchObject({ id: made.id, version: 2, revoked_at: first.body.updated_at });
    expect(await isAdmitted(made)).toBe(false);
    expect((await revoke(made.id)).body).toEqual(first.body);
    expect((await call(`keys/${made.id}`)).body).toEqual(first.body);
  });

  it("is final: neither PATCH nor a rotation goes through", async () => {
    const { id } = await makeKey();
    await revoke(id);
    problem(await patch(id, { name: "n" }), 409, "conflict_error");
    problem(await rotate(id), 409, "conflict_error");
  });

  it("tells the ledger first: with the ledger down nothing is stored", async () => {
    const made = await makeKey({ scopes: ["admin"] });
    for (const failing of [{ policy: 99 }, { putPolicy: 99 }] as const) {
      const answer = await revoke(made.id, ledgers(failing));
      expect(problem(answer, 503, "api_error")).toContain("The key may still be in force. Repeat the call");
    }
    expect(await getKey(env.DB, made.id)).toMatchObject({ revoked_at: null, version: 1 });
    expect(await isAdmitted(made)).toBe(true);
    expect((await revoke(made.id, ledgers({ putPolicy: 1 }))).status).toBe(200);
    expect(await isAdmitted(made)).toBe(false);
  });

  it("works for a key in use while D1 is down, and heals when D1 is back", async () => {
    const made = await makeKey({ scopes: ["admin"] });
    await policyOf(made.id);
    const { env: down } = database(() => true);
    const answer = await revoke(made.id, { env: down });
    expect(problem(answer, 503, "api_error")).toContain("The key is revoked, but this is not stored yet.");
    expect(await isAdmitted(made)).toBe(false);
    expect((await getKey(env.DB, made.id))?.revoked_at).toBeNull();
    // Changes that are still possible in D1 bring the key back no more.
    await patch(made.id, { name: "n2" });
    await patch(made.id, { name: "n3" });
    expect(await isAdmitted(made)).toBe(false);
    expect((await revoke(made.id)).body.revoked_at).not.toBeNull();
    expect((await getKey(env.DB, made.id))?.revoked_at).not.toBeNull();
  });

  it("wins against changes made at the same moment", async () => {
    for (let round = 0; round < 5; round++) {
      const made = await makeKey({ scopes: ["admin"] });
      const [revoked] = await Promise.all([
        revoke(made.id),
        ...Array.from({ length: 4 }, (_, i) => patch(made.id, { metadata: { i: `${i}` } })),
      ]);
      expect(revoked.status).toBe(200);
      expect((await getKey(env.DB, made.id))?.revoked_at).not.toBeNull();
      expect(await isAdmitted(made)).toBe(false);
    }
  });
});

describe("POST /admin/keys/:id/rotate", () => {
  const rotated = async (
    id: string,
    json?: unknown,
  ): Promise<MadeKey & { secrets: { expires_at: string | null }[] }> => {
    const { status, body } = await rotate(id, json);
    expect(status).toBe(200);
    return body;
  };

  it("without grace the old secret is gone at once", async () => {
    const old = await makeKey({ scopes: ["admin"] });
    expect(await isAdmitted(old)).toBe(true);
    const fresh = await rotated(old.id);
    expect(fresh.secrets.length).toBe(1);
    expect([await isAdmitted(old), await isAdmitted(fresh)]).toEqual([false, true]);
    expect((await rotate(old.id, {})).status).toBe(200);
    expect(await isAdmitted(fresh)).toBe(false);
  });

  it("with grace both work until it ends", async () => {
    const old = await makeKey({ scopes: ["admin"] });
    const fresh = await rotated(old.id, { grace_seconds: 1 });
    expect([await isAdmitted(old), await isAdmitted(fresh)]).toEqual([true, true]);
    expect(fresh.secrets.map((secret) => secret.expires_at === null)).toEqual([true, false]);
    await sleep(1_100);
    expect([await isAdmitted(old), await isAdmitted(fresh)]).toEqual([false, true]);
  });

  it("keeps two secrets alive at most, and a second rotation never lengthens a grace", async () => {
    const first = await makeKey({ scopes: ["admin"] });
    const second = await rotated(first.id, { grace_seconds: 3_600 });
    const third = await rotated(first.id, { grace_seconds: 3_600 });
    expect(third.secrets.length).toBe(2);
    expect([await isAdmitted(first), await isAdmitted(second), await isAdmitted(third)]).toEqual([false, true, true]);
    const fourth = await rotated(first.id, { grace_seconds: 0 });
    expect([await isAdmitted(second), await isAdmitted(third), await isAdmitted(fourth)]).toEqual([false, false, true]);
  });

  it("refuses a grace past its limit", async () => {
    const { id } = await makeKey();
    expect((await rotate(id, { grace_seconds: 2_592_000 })).status).toBe(200);
    for (const json of [{ grace_seconds: 2_592_001 }, { grace_seconds: -1 }, { grace: 1 }, []]) {
      expect((await rotate(id, json)).status).toBe(400);
    }
    expect((await getKey(env.DB, id))?.version).toBe(2);
  });

  it("heals: one that can't be enforced is taken back, so that repeating it never pushes out the secret in use", async () => {
    const old = await makeKey({ scopes: ["admin"] });
    expect(await isAdmitted(old)).toBe(true);
    for (let round = 0; round < 3; round++) {
      const failed = await rotate(old.id, { grace_seconds: 60 }, ledgers({ putPolicy: 99 }));
      expect(problem(failed, 503, "api_error")).toContain("The rotation is taken back");
      expect(failed.text).not.toContain("sk-sluice-");
      expect((await getKey(env.DB, old.id))?.secrets.map((secret) => secret.expires_at)).toEqual([null]);
    }
    expect(await isAdmitted(old)).toBe(true);
    const fresh = await rotated(old.id, { grace_seconds: 60 });
    expect([await isAdmitted(old), await isAdmitted(fresh)]).toEqual([true, true]);
  });
});

describe("key-store", () => {
  it("replaces only the version that was read, and knows nothing it was not given", async () => {
    const { id } = await makeKey();
    const record = await getKey(env.DB, id);
    if (!record) throw new Error("no record");
    expect(await updateKey(env.DB, { ...record, version: 2, name: "a" }, SOME_CHANGE)).toBe(true);
    expect(await updateKey(env.DB, { ...record, version: 2, name: "b" }, SOME_CHANGE)).toBe(false);
    expect(await updateKey(env.DB, { ...record, id: newId("key", 0), version: 3 }, SOME_CHANGE)).toBe(false);
    expect(await getKey(env.DB, id)).toMatchObject({ name: "a", version: 2 });
    expect(await loadPolicy(env.DB, "key_' OR 1=1--")).toBeNull();
    const policy = await loadPolicy(env.DB, id);
    expect(policy).not.toHaveProperty("metadata");
    expect(policy).not.toHaveProperty("created_at");
  });
});

describe("K-13 secrets", () => {
  afterAll(() => vi.restoreAllMocks());

  it("stand in exactly one answer, and in no row, no ledger and no log line", async () => {
    const made = await makeKey({ scopes: ["admin"] });
    const { key: rotatedKey } = (await rotate(made.id, { grace_seconds: 60 })).body as MadeKey;
    await isAdmitted(made);
    await call("keys?limit=500");
    await call(`keys/${made.id}`);
    await patch(made.id, { name: "n" }, { as: rotatedKey });
    await call("keys", { json: { name: "n", [rotatedKey]: 1, metadata: { [rotatedKey]: rotatedKey } } });
    await revoke(made.id);
    await call("keys", { as: rotatedKey });
    const rows = JSON.stringify((await env.DB.prepare("SELECT * FROM api_keys").all()).results);
    const ledger = await runInDurableObject(env.KEY_LEDGER.getByName(made.id), (_, state) =>
      JSON.stringify(state.storage.sql.exec("SELECT json FROM policy").toArray()),
    );
    for (const key of [made.key, rotatedKey]) {
      const secret = key.slice("sk-sluice-".length + 27, -16);
      expect(secret.length).toBe(32);
      expect(answered.filter((text) => text.includes(key)).length).toBe(1);
      expect(logged.filter((line) => line.includes(secret))).toEqual([]);
      expect(ledger).not.toContain(secret);
    }
    expect(rows).not.toContain(rotatedKey);
    for (const canary of [ADMIN_TOKEN, TAG_SECRET, "UPKEY-CANARY"]) {
      for (const place of [...answered, ...logged, rows, ledger]) expect(place).not.toContain(canary);
    }
  });
});
