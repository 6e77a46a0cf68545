/** The routes of conversations, as far as they are the Worker's own: who may, what is asked of the object, what is told. */
import { env } from "cloudflare:workers";
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { app } from "../../src/app.ts";
import { remoteOf } from "../../src/conversations/object.ts";
import { registryOf } from "../../src/conversations/registry.ts";
import { clock } from "../../src/hotpath/leases.ts";
import { mintConversationId } from "../../src/identity/conversation-id.ts";
import { err, ok } from "../../src/result.ts";
import { call, failed, keyOf, type Options, StandIns, senderIn, settled, TURN } from "./door.ts";

const NAME = "/v1/conversations";
const NOW = Date.now();
const MESSAGE = "msg_01jd6v7q8r9s0t1v2w3x4y5z6a";
let objects: StandIns;
let keyA: string;
let keyB: string;
let keyOfA2: string;

beforeAll(async () => {
  vi.spyOn(console, "log").mockImplementation(() => {});
  vi.spyOn(console, "error").mockImplementation(() => {});
  keyA = await keyOf("ws_a");
  keyOfA2 = await keyOf("ws_a");
  keyB = await keyOf("ws_b");
});

afterAll(settled);

beforeEach(() => {
  objects = new StandIns();
});

const ask = (path: string, options: Options = {}) => call(objects, path, { as: keyA, ...options });

async function make(key = keyA): Promise<string> {
  const response = await ask(NAME, { as: key, json: { model: "claude-haiku-5-5" } });
  expect(response.status).toBe(201);
  return (await response.json<{ id: string }>()).id;
}

/** The error of an answer, in the shape that all of them have. */
async function problem(response: Response, status: number, type: string): Promise<string> {
  const body = await response.json<{ type: string; error: { type: string; message: string }; request_id: string }>();
  expect([response.status, body.type, body.error.type]).toEqual([status, "error", type]);
  expect(body.request_id).toBe(response.headers.get("x-sluice-request-id"));
  return body.error.message;
}

describe("X-06 every route × every id", () => {
  // From the table of routes itself: one that is added is tried as well.
  const routes = [
    ...new Set(app.routes.filter(({ path }) => path.startsWith(`${NAME}/:id`)).map((r) => `${r.method} ${r.path}`)),
  ].map((route) => route.split(" ") as [method: string, path: string]);

  const body = (method: string, path: string): Options => {
    if (method === "PATCH") return { json: { max_tokens: 5 } };
    if (method !== "POST") return {};
    return { json: path.endsWith("/messages") ? { content: "hi" } : {} };
  };
  const upgrade = (path: string) => (path.endsWith("/socket") ? { headers: { upgrade: "websocket" } } : {});

  it("is every route that there is", () => {
    expect(routes.length).toBe(9);
  });

  it.each(routes)("%s %s", async (method, path) => {
    const own = await make();
    const foreign = await make(keyB);
    const never = await mintConversationId(["a secret that was never ours"], "ws_a", NOW);
    const deleted = await make();
    expect((await ask(`${NAME}/${deleted}`, { method: "DELETE" })).status).toBe(200);
    const at = (id: string, as = keyA) =>
      ask(path.replace(":id", id), { method, as, ...body(method, path), ...upgrade(path) });

    const told = new Set<string>();
    for (const id of [
      foreign,
      never,
      deleted,
      own.slice(0, -1),
      `${own}0`,
      "x",
      "018f3a3e-5c1d-7c3a-9d2e-000000000001",
    ]) {
      const before = objects.reached.length;
      const response = await at(id);
      told.add(await problem(response, 404, "not_found_error"));
      // X-01: no object is asked for strangers; only of one that was its own it is known by none but itself.
      expect(objects.reached.length - before).toBe(id === deleted ? 1 : 0);
    }
    expect([...told]).toEqual(["There is no such conversation."]);
    expect((await at(own, keyB)).status).toBe(404);
    expect([200, 101]).toContain((await at(own, keyOfA2)).status);
    expect((await at(own, "sk-sluice-no")).status).toBe(401);
  });

  it("PUT is no method of any of them", async () => {
    const own = await make();
    for (const [, path] of routes) {
      const response = await ask(path.replace(":id", own), { method: "PUT" });
      expect(response.headers.get("allow")).toBeTruthy();
      await problem(response, 405, "invalid_request_error");
    }
    expect((await ask(`${NAME}/${own}/nothing`)).status).toBe(404);
  });

  it("an id of a secret that is gone is found in the list, in its own workspace", async () => {
    const id = await mintConversationId(["the secret before the last one"], "ws_a", NOW);
    objects.made.add(`ws_a ${id}`);
    expect((await ask(`${NAME}/${id}`)).status).toBe(404);
    const entry = { id, keyId: "k", model: "m", metadata: "{}", createdAt: NOW, updatedAt: NOW, turns: 0 };
    await registryOf(env.DB).put({ ...entry, workspace: "ws_a", expiresAt: NOW + 60_000 });
    expect((await ask(`${NAME}/${id}`)).status).toBe(200);
    expect((await ask(`${NAME}/${id}`, { as: keyB })).status).toBe(404);
    const gone = { prepare: () => ({ bind: () => ({ first: async () => Promise.reject(new Error("away")) }) }) };
    expect((await ask(`${NAME}/${id}`, { env: { DB: gone as unknown as D1Database } })).status).toBe(404);
    const own = await make();
    expect((await ask(`${NAME}/${own}`, { env: { DB: gone as unknown as D1Database } })).status).toBe(200);
  });
});

describe("who may", () => {
  it("only keys with the scope, and of conversations only with models that the key has", async () => {
    const without = await keyOf("ws_a", { scopes: ["messages"] });
    expect(await problem(await ask(NAME, { as: without }), 403, "permission_error")).toContain("`conversations`");
    const narrow = await keyOf("ws_a", { models: ["claude-haiku-*"] });
    const made = (model: string, context = {}) => ask(NAME, { as: narrow, json: { model, context } });
    await problem(await made("claude-opus-5-5"), 403, "permission_error");
    await problem(await made("claude-haiku-5-5", { summary_model: "claude-opus-5-5" }), 403, "permission_error");
    expect((await made("claude-haiku-5-5")).status).toBe(201);
    const id = await make();
    const change = (json: object) => ask(`${NAME}/${id}`, { as: narrow, method: "PATCH", json });
    await problem(await change({ model: "claude-opus-5-5" }), 403, "permission_error");
    expect((await change({ model: "claude-haiku-5-5" })).status).toBe(200);
  });

  it("a credential in the address is none", async () => {
    const id = await make();
    const query = `?api_key=${keyA}&access_token=${keyA}&x-api-key=${keyA}`;
    for (const path of [NAME, `${NAME}/${id}`, `${NAME}/${id}/events`]) {
      await problem(await ask(path + query, { as: null }), 401, "authentication_error");
    }
  });

  it("a client can't say who it is in the object's own words", async () => {
    const id = await make();
    const headers = { "x-sluice-sender": JSON.stringify({ keyId: "key_else", workspace: "ws_b" }), "user-agent": "né" };
    await ask(`${NAME}/${id}/events`, { headers });
    const request = objects.asked.at(-1)?.with[0] as Request;
    expect(senderIn(request)).toMatchObject({ workspace: "ws_a", keyId: expect.stringMatching(/^key_/) });
    expect(senderIn(request).keyId).not.toBe("key_else");
    expect(request.headers.get("x-api-key")).toBeNull();
  });
});

describe("a key's requests", () => {
  it("are taken by reading and making, and neither by sending nor by stopping", async () => {
    const key = await keyOf("ws_a", { limits: { requests_per_minute: 2 } });
    const id = await make(key);
    const at = (path: string, options: Options = {}) => ask(`${NAME}/${id}${path}`, { as: key, ...options });
    expect((await at("")).status).toBe(200);
    await problem(await at("/messages"), 429, "rate_limit_error");
    expect((await at("/messages", { json: { content: "hi" } })).status).toBe(200);
    expect((await at("/cancel", { method: "POST" })).status).toBe(200);
    expect((await at("/cancel", { method: "POST" })).status).toBe(200);
    // What is wrong in itself takes nothing.
    expect((await at("/events?after=x")).status).toBe(400);
  });

  it("X-02 are taken by guesses, which ask D1", async () => {
    const key = await keyOf("ws_a", { limits: { requests_per_minute: 1 } });
    const guess = await mintConversationId(["a secret that was never ours"], "ws_a", NOW);
    const post = { as: key, json: { content: "hi" } };
    expect((await ask(`${NAME}/x/messages`, post)).status).toBe(404);
    expect((await ask(`${NAME}/${guess}/messages`, post)).status).toBe(404);
    expect((await ask(`${NAME}/${guess}/messages`, post)).status).toBe(429);
  });
});

describe("the list", () => {
  const put = (id: string, workspace: string) =>
    registryOf(env.DB).put({
      id,
      workspace,
      keyId: "k",
      model: "m",
      metadata: '{"a":"b"}',
      createdAt: NOW,
      updatedAt: NOW,
      expiresAt: NOW + 600_000,
      turns: 2,
    });

  it("X-04 goes from page to page with cursors of its own, and takes no others", async () => {
    await env.DB.prepare("DELETE FROM conversations").run();
    const ids: string[] = [];
    for (let i = 0; i < 5; i++) {
      const id = await mintConversationId([env.KEY_TAG_SECRET], "ws_a", NOW + i * 10);
      await put(id, "ws_a");
      ids.unshift(id);
    }
    await put(await mintConversationId([env.KEY_TAG_SECRET], "ws_b", NOW), "ws_b");
    type Page = { data: { id: string }[]; has_more: boolean; next_cursor: string | null };
    const seen: string[] = [];
    let cursor: string | null = null;
    do {
      const response = await ask(`${NAME}?limit=2${cursor === null ? "" : `&cursor=${cursor}`}`);
      const body: Page = await response.json<Page>();
      expect(body.has_more).toBe(body.next_cursor !== null);
      seen.push(...body.data.map(({ id }) => id));
      cursor = body.next_cursor;
    } while (cursor !== null);
    expect(seen).toEqual(ids);

    const first = await (await ask(`${NAME}?limit=1`)).json<Page & { data: object[] }>();
    expect(first.data[0]).toEqual({
      id: ids[0],
      type: "conversation",
      model: "m",
      metadata: { a: "b" },
      created_at: new Date(NOW).toISOString(),
      updated_at: new Date(NOW).toISOString(),
      expires_at: new Date(NOW + 600_000).toISOString(),
      turns: 2,
    });
    const foreign = first.next_cursor ?? "";
    const edited = `${foreign.slice(0, -1)}${foreign.endsWith("0") ? "1" : "0"}`;
    for (const [given, as] of [
      [foreign, keyB],
      [edited, keyA],
      ["x", keyA],
      ["", keyA],
      [ids[0], keyA],
    ] as const) {
      const message = await problem(await ask(`${NAME}?cursor=${given}`, { as }), 400, "invalid_request_error");
      expect(message).toBe("cursor: must be a cursor from `next_cursor`");
    }
  });

  it.each(["limit=0", "limit=501", "limit=x", "limit=1&limit=2", "colour=1"])(
    "?%s is refused by name",
    async (query) => {
      const message = await problem(await ask(`${NAME}?${query}`), 400, "invalid_request_error");
      expect(message).toContain(`${query.split("=")[0]}: `);
    },
  );

  it("is not to be had while D1 is away, and conversations are", async () => {
    const fails = async () => Promise.reject(new Error("away"));
    const DB = {
      prepare: () => ({ bind: () => ({ first: fails, all: fails, run: fails }), first: fails, all: fails }),
    };
    const away = { env: { DB: DB as unknown as D1Database } };
    const response = await ask(NAME, away);
    expect(response.headers.get("retry-after")).toBe("5");
    await problem(response, 503, "api_error");
    const made = await ask(NAME, { json: { model: "m" }, ...away });
    expect(made.status).toBe(201);
    const { id } = await made.json<{ id: string }>();
    expect((await ask(`${NAME}/${id}/messages`, { json: { content: "hi" }, ...away })).status).toBe(200);
  });
});

describe("a change", () => {
  it("is of the fields given; those of the context are laid over what it is", async () => {
    const id = await make();
    const context = { strategy: "none", max_input_tokens: 7, keep_turns: 9, summary_model: null };
    objects.deeds = { read: () => ok({ context }) };
    const change = async (json: unknown) => (await ask(`${NAME}/${id}`, { method: "PATCH", json })).json();
    expect(await change({ context: { keep_turns: 2 }, leaf: MESSAGE })).toMatchObject({
      changed: { context: { ...context, keep_turns: 2 }, leaf: MESSAGE },
    });
    expect(await problem(await ask(`${NAME}/${id}`, { method: "PATCH", json: {} }), 400, "invalid_request_error")).toBe(
      "the request body changes nothing",
    );
  });
});

describe("a message", () => {
  const say = async (json: unknown = { content: "hi" }, headers: Record<string, string> = {}) =>
    ask(`${NAME}/${await make()}/messages`, { json, headers });
  const asked = (what: string) => objects.asked.filter((one) => one.what === what);

  it("is answered when its turn has ended", async () => {
    const response = await say();
    expect([response.status, await response.json()]).toEqual([
      200,
      { id: TURN, type: "turn", state: "completed", message: null },
    ]);
    expect(asked("ended")[0]?.with).toEqual([TURN]);
  });

  it.each([
    [{ content: "hi", stream: true }, {}],
    [{ content: "hi" }, { accept: "text/event-stream" }],
  ])("is streamed for %j %j", async (json, headers) => {
    const response = await say(json, headers);
    expect(response.headers.get("content-type")).toContain("text/event-stream");
    expect(response.headers.get("cache-control")).toBe("no-store");
    expect(await response.text()).toBe(`at /events?after=4&turn=${TURN}`);
    expect(asked("ended")).toEqual([]);
  });

  it("that says not to be streamed is not", async () => {
    const response = await say({ content: "hi", stream: false }, { accept: "text/event-stream" });
    expect(response.headers.get("content-type")).toBe("application/json");
  });

  it("whose other tool results are awaited is taken: 202", async () => {
    objects.deeds = { send: () => ok({ kind: "awaiting", awaiting: ["toolu_2"] }) };
    const response = await say({ content: [{ type: "tool_result", tool_use_id: "toolu_1" }], stream: true });
    expect([response.status, await response.json()]).toEqual([
      202,
      { state: "awaiting_tool_results", awaiting_tool_results: ["toolu_2"] },
    ]);
  });

  it.each([
    ["rate_limit_error", 429],
    ["billing_error", 429],
    ["invalid_request_error", 400],
    ["not_found_error", 404],
    ["overloaded_error", 529],
    ["api_error", 500],
    ["timeout_error", 504],
    ["of_tomorrow", 500],
  ])("whose turn fails with %s is answered with %i and the turn", async (type, status) => {
    const error = { type, message: "so it is", retry_after_seconds: 7 };
    objects.deeds = { ended: () => ok({ id: TURN, state: "failed", error }) };
    const response = await say();
    expect(response.headers.get("retry-after")).toBe("7");
    const body = await response.clone().json<{ turn: object }>();
    expect(body.turn).toEqual({ id: TURN, state: "failed", error });
    expect(await problem(response, status, type)).toBe("so it is");
  });

  it("whose turn was cancelled is answered with what came of it; interrupted: with an error", async () => {
    objects.deeds = { ended: () => ok({ id: TURN, state: "cancelled", error: { type: "cancelled", message: "c" } }) };
    expect((await say()).status).toBe(200);
    objects.deeds = {
      ended: () => ok({ id: TURN, state: "interrupted", error: { type: "interrupted", message: "i" } }),
    };
    await problem(await say(), 502, "interrupted");
  });

  it("has the Idempotency-Key for its id where it has none of its own", async () => {
    await say({ content: "hi" }, { "idempotency-key": "k1" });
    await say({ content: "hi", id: "c1" }, { "idempotency-key": "k1" });
    await say({ content: "hi" });
    const ids = asked("send").map((one) => (one.with[0] as { clientId: string | null }).clientId);
    expect(ids).toEqual(["k1", "c1", null]);
    await problem(await say({ content: "hi" }, { "idempotency-key": "é" }), 400, "invalid_request_error");
  });

  it("is refused as its turn is", async () => {
    objects.deeds = { send: () => err({ kind: "conflict", message: "A turn is running." }) };
    await problem(await say(), 409, "conflict_error");
    await problem(await say({ content: "" }), 400, "invalid_request_error");
    await problem(await ask(`${NAME}/${await make()}/messages`, { method: "POST" }), 415, "invalid_request_error");
  });
});

describe("an object that does not answer", () => {
  const thrown = (flags: object) => Object.assign(new Error("of the platform"), flags);
  const failing = (times: number, flags: object) => {
    let failures = 0;
    return <T>(value: T) =>
      () => {
        if (failures++ < times) throw thrown(flags);
        return ok(value);
      };
  };
  const RESET = { retryable: true, remote: true };

  it("is asked again where it may help, three times in all", async () => {
    const id = await make();
    objects.deeds = { read: failing(2, RESET)({ id }) };
    expect((await ask(`${NAME}/${id}`)).status).toBe(200);
    objects.deeds = { read: failing(3, RESET)({ id }) };
    const response = await ask(`${NAME}/${id}`);
    expect(response.headers.get("retry-after")).toBe("1");
    await problem(response, 503, "api_error");
  });

  it("is waited for however often it is reset, as long as it lives for a while in between", async () => {
    let now = 0;
    const watched = vi.spyOn(clock, "now").mockImplementation(() => now);
    let asked = 0;
    const waits = (livesMs: number) => async () => {
      if (++asked === 6) return ok("ended");
      now += livesMs;
      throw thrown(RESET);
    };
    const remote = remoteOf({ getByName: () => ({}) }, "w", "conv");
    expect(await remote.ask(true, waits(5_000))).toEqual(ok("ended"));
    asked = 0;
    expect(await remote.ask(true, waits(4_999))).toMatchObject({ ok: false, error: { kind: "unavailable" } });
    watched.mockRestore();
  });

  it("is not told twice what has no id, and is what has", async () => {
    const id = await make();
    const sent = { kind: "turn", turn: TURN, state: "processing", after: 0, known: false };
    const say = (json: object) => ask(`${NAME}/${id}/messages`, { json: { content: "hi", ...json } });
    objects.deeds = { send: failing(1, RESET)(sent) };
    await problem(await say({}), 503, "api_error");
    objects.deeds = { send: failing(1, RESET)(sent) };
    expect((await say({ id: "c1" })).status).toBe(200);
  });

  it("with too much to do is left alone", async () => {
    const id = await make();
    objects.deeds = { read: failing(1, { overloaded: true, retryable: true })({ id }) };
    await problem(await ask(`${NAME}/${id}`), 503, "api_error");
    expect(objects.asked.filter(({ what }) => what === "read").length).toBe(1);
  });

  it("for a fault of its own is a fault", async () => {
    const id = await make();
    objects.deeds = { read: failing(1, { remote: true })({ id }) };
    await problem(await ask(`${NAME}/${id}`), 500, "api_error");
  });
});

describe("events and history", () => {
  it.each([
    ["", {}, "0"],
    ["?after=7", {}, "7"],
    ["?after=7", { "last-event-id": "9" }, "9"],
    ["?after=x", { "last-event-id": "9" }, "9"],
    ["?after=7&cache-buster=1", {}, "7"],
  ])("after%s %j: %s", async (query, headers, after) => {
    const response = await ask(`${NAME}/${await make()}/events${query}`, { headers });
    expect(await response.text()).toBe(`at /events?after=${after}`);
  });

  it.each([
    ["?after=-1", {}],
    ["?after=1.5", {}],
    ["?after=", {}],
    ["?after=1&after=2", {}],
    ["?after=1e3", {}],
    ["", { "last-event-id": "x" }],
    ["?after=1", { "last-event-id": "-1" }],
  ])("after%s %j: 400", async (query, headers) => {
    await problem(await ask(`${NAME}/${await make()}/events${query}`, { headers }), 400, "invalid_request_error");
  });

  it("tell what the object refuses", async () => {
    const id = await make();
    objects.deeds = { fetch: () => failed({ kind: "invalid_request", message: "after: above the newest" }) };
    expect(await problem(await ask(`${NAME}/${id}/events?after=9`), 400, "invalid_request_error")).toContain("above");
  });

  it("HEAD has the headers, and holds nothing open", async () => {
    let cancelled = false;
    const id = await make();
    objects.deeds = {
      fetch: () =>
        new Response(
          new ReadableStream({
            cancel() {
              cancelled = true;
            },
          }),
        ),
    };
    const response = await ask(`${NAME}/${id}/events`, { method: "HEAD" });
    expect([response.status, response.headers.get("content-type"), await response.text()]).toEqual([
      200,
      "text/event-stream; charset=utf-8",
      "",
    ]);
    expect(cancelled).toBe(true);
  });

  it("messages come by pages of a branch", async () => {
    const path = `${NAME}/${await make()}/messages`;
    const query = async (text: string) => (await (await ask(path + text)).json<{ query: unknown }>()).query;
    expect(await query("")).toEqual({ limit: 100, after: null, leaf: null });
    expect(await query(`?limit=3&cursor=${MESSAGE}&leaf=${MESSAGE}`)).toEqual({
      limit: 3,
      after: MESSAGE,
      leaf: MESSAGE,
    });
    expect(await query(`?after=${MESSAGE}`)).toEqual({ limit: 100, after: MESSAGE, leaf: null });
    for (const wrong of ["?limit=501", "?leaf=x", "?cursor=x", "?x=1", `?after=${MESSAGE}&cursor=${MESSAGE}`]) {
      await problem(await ask(path + wrong), 400, "invalid_request_error");
    }
  });

  it("the export is a file", async () => {
    const id = await make();
    const response = await ask(`${NAME}/${id}/export`);
    expect(response.headers.get("content-disposition")).toBe(`attachment; filename="${id}.json"`);
    expect(await response.text()).toBe("at /export");
  });
});

it("paths are the same without /v1 and with doubled slashes", async () => {
  const id = await make();
  for (const path of [`/conversations/${id}`, `//v1//conversations//${id}`]) expect((await ask(path)).status).toBe(200);
});

describe("pages of other origins", () => {
  const ALLOWED_ORIGINS = "https://chat.example";
  const from = (origin: string, path: string, options: Options = {}) =>
    ask(path, { ...options, headers: { origin, ...options.headers }, env: { ALLOWED_ORIGINS } });

  it("of the list may read answers, refusals too, and ask what they may send", async () => {
    const preflight = await from("https://chat.example", `${NAME}/x/messages`, {
      method: "OPTIONS",
      as: null,
      headers: { "access-control-request-method": "POST", "access-control-request-headers": "content-type,x-api-key" },
    });
    expect(preflight.status).toBe(204);
    expect(Object.fromEntries(preflight.headers)).toMatchObject({
      "access-control-allow-origin": "https://chat.example",
      "access-control-allow-methods": "POST, GET, HEAD, OPTIONS",
      "access-control-allow-headers": "content-type,x-api-key",
      vary: "access-control-request-headers, origin",
    });
    for (const as of [keyA, null]) {
      const { headers } = await from("https://chat.example", NAME, { as });
      expect(headers.get("access-control-allow-origin")).toBe("https://chat.example");
      expect(headers.get("access-control-expose-headers")).toContain("x-sluice-request-id");
    }
  });

  it.each(["https://evil.example", "null", "https://chat.example.evil.example", "http://chat.example"])(
    "%s may not",
    async (origin) => {
      const preflight = await from(origin, NAME, { method: "OPTIONS", as: null });
      expect(preflight.status).toBe(405);
      for (const { headers } of [preflight, await from(origin, NAME)]) {
        expect([...headers.keys()].filter((name) => name.startsWith("access-control-"))).toEqual([]);
        expect(headers.get("vary")).toBe("origin");
      }
    },
  );
});
