/** Tokens through the whole gateway: traded for a key, used on every family of routes, and dead with what they stand on. */
import { createScheduledController } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { afterAll, afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { checkSender } from "../../src/hotpath/inner-call.ts";
import { mintKey } from "../../src/identity/api-key.ts";
import { type IssuerRecord, markOf } from "../../src/identity/jwt/issuer.ts";
import { insertIssuer, secretPlaceOf, updateIssuer } from "../../src/identity/jwt/issuer-store.ts";
import { loadSigningKeys } from "../../src/identity/jwt/signing-store.ts";
import worker from "../../src/index.ts";
import { seal } from "../../src/upstream/sealing.ts";
import { newId } from "../../src/wire/ids.ts";
import { call as admin, makeKey, problem } from "../admin/control-plane.ts";
import { call, type Options, StandIns, settled } from "../conversations/door.ts";
import { makePair, makeSecretKey, sign } from "../identity/jwt/made.ts";
import { issuerRecord } from "../identity/jwt/providers.ts";
import { SOME_CHANGE } from "../support/changes.ts";

const MODEL = "claude-opus-5-5";
const MESSAGE = {
  type: "message",
  model: MODEL,
  content: [{ type: "text", text: "Hello" }],
  stop_reason: "end_turn",
  usage: { input_tokens: 10, output_tokens: 5 },
};
const SECRET = "a secret of exactly 32 bytes ...";
const ctx = { waitUntil: (work: Promise<unknown>) => void work.catch(() => {}) };

type Json = Readonly<Record<string, unknown>>;
/** What is asked of a token, and what is told of it. */
type Token = { readonly token: string; readonly id: string; readonly expires_at: string } & Json;

/** How often an upstream, or anybody else, was asked. */
let fetched: string[];
let objects: StandIns;

beforeEach(() => {
  for (const level of ["log", "error"] as const) vi.spyOn(console, level).mockImplementation(() => {});
  fetched = [];
  objects = new StandIns();
  vi.spyOn(globalThis, "fetch").mockImplementation(async (input) => {
    fetched.push(String(input));
    return Response.json(MESSAGE, { headers: { "request-id": "req_upstream" } });
  });
});
afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
});
afterAll(settled);

const ask = (path: string, as: string, options: Options = {}) => call(objects, path, { as, ...options });
const trade = (key: string, json: unknown = {}) => ask("/v1/token", key, { json });

async function traded(key: string, fields: Json = {}): Promise<Token> {
  const response = await trade(key, fields);
  expect(response.status).toBe(201);
  return response.json<Token>();
}

const say = (as: string, model = MODEL) =>
  ask("/v1/messages", as, { json: { model, max_tokens: 5, messages: [{ role: "user", content: "hi" }] } });

async function outcome(response: Response): Promise<readonly [number, string]> {
  const body = await response.json<{ error?: { message: string } }>();
  return [response.status, body.error?.message ?? ""];
}

const statusOf = async (response: Promise<Response>): Promise<number> => (await response).status;

describe("POST /v1/token", () => {
  it("trades a key that was made a moment ago for a token with its data-plane rights", async () => {
    const { id, key } = await makeKey({ scopes: ["messages", "admin:read"], models: ["claude-*"] });
    const before = Math.floor(Date.now() / 1_000) * 1_000;
    const response = await ask("/v1/token", key, { method: "POST" });
    expect([response.status, response.headers.get("cache-control")]).toEqual([201, "no-store"]);
    const told = await response.json<Token>();
    expect(told).toMatchObject({
      token_type: "Bearer",
      scopes: ["messages"],
      models: ["claude-*"],
      conversation: null,
    });
    expect(told.id).toMatch(/^tok_/);
    const madeAt = Date.parse(told.expires_at) - 900_000;
    expect([madeAt >= before, madeAt <= Date.now()]).toEqual([true, true]);
    const seen = await (await ask("/v1/key", told.token)).json<Json>();
    expect(seen).toMatchObject({
      id,
      scopes: ["messages"],
      token: { conversation: null, expires_at: told.expires_at, subject: null },
    });
  });

  it("gives just what was asked for", async () => {
    const { key } = await makeKey({ scopes: ["messages", "conversations", "admin"] });
    const made = await (await ask("/v1/conversations", key, { json: { model: MODEL } })).json<{ id: string }>();
    const asked = { scopes: ["conversations", "admin:read"], models: [MODEL], conversation: made.id };
    expect(await traded(key, { ...asked, expires_in_seconds: 1 })).toMatchObject(asked);
  });

  it.each([
    [{ scopes: ["batches"] }, 403, /lack batches/],
    [{ scopes: ["admin:read"] }, 403, /lack admin:read/],
    [{ scopes: ["nothing"] }, 400, /^scopes/],
    [{ scopes: [] }, 400, /^scopes/],
    [{ models: null }, 403, /models: yours are claude-opus-\*/],
    [{ models: ["claude-*"] }, 403, /models/],
    [{ models: [] }, 400, /^models/],
    [{ conversation: "conv_unknown" }, 404, /no such conversation/],
    [{ expires_in_seconds: 0 }, 400, /from 1 to 3600/],
    [{ expires_in_seconds: 3_601 }, 400, /from 1 to 3600/],
    [{ sub: "key_other" }, 400, /sub: unknown field/],
    [[], 400, /JSON object/],
  ])("A-06 refuses %j with %i", async (fields, status, message) => {
    const { key } = await makeKey({ scopes: ["messages", "conversations"], models: ["claude-opus-*"] });
    const [told, why] = await outcome(await trade(key, fields));
    expect([told, why]).toEqual([status, expect.stringMatching(message)]);
  });

  it("refuses another workspace's conversation as one that does not exist", async () => {
    const theirs = await makeKey({ workspace: "ws_theirs" });
    const made = await (await ask("/v1/conversations", theirs.key, { json: { model: MODEL } })).json<{ id: string }>();
    const { key } = await makeKey({ workspace: "ws_mine" });
    expect(await statusOf(trade(key, { conversation: made.id }))).toBe(404);
  });

  it("never trades a token for another one", async () => {
    const { token } = await traded((await makeKey()).key);
    expect(await outcome(await trade(token))).toEqual([403, expect.stringContaining("show the key itself")]);
  });

  it("takes a request of the key's, and says which setting is missing", async () => {
    const { key } = await makeKey({ limits: { requests_per_minute: 1, requests_burst: 2 } });
    const without = { json: {}, env: { MASTER_KEY: "" } };
    expect(await outcome(await ask("/v1/token", key, without))).toEqual([503, expect.stringContaining("MASTER_KEY")]);
    await traded(key);
    expect(await statusOf(trade(key))).toBe(429);
  });
});

describe("a token of ours", () => {
  it("is for the models that it names, on the wire and beyond", async () => {
    const { token } = await traded((await makeKey()).key, { scopes: ["messages"], models: ["claude-opus-*"] });
    expect(await statusOf(say(token))).toBe(200);
    expect(fetched).toHaveLength(1);
    expect(await outcome(await say(token, "claude-haiku-4-5"))).toEqual([403, expect.stringContaining("may not use")]);
    const chat = { model: "claude-haiku-4-5", messages: [{ role: "user", content: "hi" }] };
    expect(await statusOf(ask("/v1/chat/completions", token, { json: chat }))).toBe(403);
    expect(fetched).toHaveLength(1);
  });

  it.each([
    ["an advisor", { tools: [{ type: "advisor_20260301", name: "advisor", model: "claude-fable-5" }] }],
    ["a fallback", { fallbacks: [{ model: "claude-fable-5" }] }],
  ])("K-11 does not reach a model beyond its own as %s", async (_, fields) => {
    const { token } = await traded((await makeKey()).key, { scopes: ["messages"], models: ["claude-opus-*"] });
    const json = { model: MODEL, max_tokens: 5, messages: [{ role: "user", content: "hi" }], ...fields };
    const refused = await outcome(await ask("/v1/messages", token, { json }));
    expect(refused).toEqual([403, expect.stringContaining("claude-fable-5")]);
    expect(fetched).toEqual([]);
  });

  it("A-06 lacks what it does not name, on each family of routes", async () => {
    const scopes = ["messages", "conversations", "batches", "files", "metrics", "admin"];
    const { key } = await makeKey({ scopes });
    const paths = ["/v1/models", "/v1/conversations", "/v1/messages/batches", "/v1/files", "/metrics", "/admin/keys"];
    for (const [nth, scope] of scopes.entries()) {
      const { token } = await traded(key, { scopes: [scope] });
      for (const [other, path] of paths.entries()) {
        // Metrics are read by admins, too.
        if (scope === "admin" && path === "/metrics") continue;
        const headers = { authorization: `Bearer ${token}` };
        const status = await statusOf(call(objects, path, { headers }));
        expect([scope, path, status === 401 || status === 403]).toEqual([scope, path, nth !== other]);
      }
    }
  });

  it("knows of one conversation alone", async () => {
    const { key } = await makeKey();
    const make = async () =>
      (await (await ask("/v1/conversations", key, { json: { model: MODEL } })).json<{ id: string }>()).id;
    const [mine, other] = [await make(), await make()];
    const { token } = await traded(key, { conversation: mine });
    const statuses = [`/v1/conversations/${mine}`, `/v1/conversations/${other}`, "/v1/conversations"].map((path) =>
      statusOf(ask(path, token)),
    );
    expect(await Promise.all(statuses)).toEqual([200, 404, 403]);
    expect(await statusOf(ask("/v1/conversations", token, { json: { model: MODEL } }))).toBe(403);
  });

  it("ends by itself, and with its secret, and with its key", async () => {
    const { id, key } = await makeKey();
    const [brief, long] = [await traded(key, { expires_in_seconds: 60 }), await traded(key)];
    expect(await statusOf(say(brief.token))).toBe(200);
    vi.useFakeTimers({ toFake: ["Date"], now: Date.parse(brief.expires_at) });
    expect(await statusOf(say(brief.token))).toBe(401);
    expect(await statusOf(say(long.token))).toBe(200);
    vi.useRealTimers();
    const { body } = await admin(`keys/${id}/rotate`, { json: { grace_seconds: 0 } });
    const next = await traded(body.key);
    expect(await statusOf(say(next.token))).toBe(200);
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + 3_000 });
    expect(await statusOf(say(long.token))).toBe(401);
    vi.useRealTimers();
    await admin(`keys/${id}`, { method: "DELETE" });
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + 6_000 });
    expect(await statusOf(say(next.token))).toBe(401);
  });

  it("opens the control plane as far as it says so, and a session that ends when it does", async () => {
    const { id, key } = await makeKey({ scopes: ["messages", "admin"] });
    const plain = await traded(key);
    problem(await admin("keys", { as: plain.token }), 403, "permission_error");
    const reader = await traded(key, { scopes: ["admin:read"], expires_in_seconds: 600 });
    expect((await admin("keys", { as: reader.token })).status).toBe(200);
    problem(await admin("keys", { as: reader.token, json: { name: "n" } }), 403, "permission_error");
    const opened = await admin("session", { as: reader.token, method: "POST" });
    expect(opened.body).toMatchObject({ actor: id, scopes: ["metrics", "admin:read"] });
    expect(opened.body.expires_at).toBe(reader.expires_at);
    const cookie = opened.headers.get("set-cookie")?.split(";")[0] ?? "";
    const bySession = () => admin("keys", { as: null, headers: { cookie } });
    expect((await bySession()).status).toBe(200);
    await admin(`keys/${id}/rotate`, { json: { grace_seconds: 0 } });
    problem(await bySession(), 401, "authentication_error");
    problem(await admin("keys", { as: reader.token }), 401, "authentication_error");
  });
});

describe("at the door", () => {
  /** A database that counts. */
  function counting() {
    const sql: string[] = [];
    const DB = {
      prepare: (text: string) => {
        sql.push(text);
        return env.DB.prepare(text);
      },
      batch: (all: D1PreparedStatement[]) => env.DB.batch(all),
    };
    return { sql, env: { DB: DB as unknown as D1Database } };
  }

  it("J-01 J-04 J-15 what is malformed, forged or of nobody asks neither upstream nor, where its form tells, D1", async () => {
    const { token } = await traded((await makeKey()).key);
    const [header = "", payload = "", signature = ""] = token.split(".");
    const pair = await makePair("ES256", "sig_01k9s3v0q0a1b2c3d4e5f6g7h8");
    const now = Math.floor(Date.now() / 1_000);
    const claims = {
      iss: "sluice",
      aud: "sluice",
      sub: newId("key", 1),
      iat: now,
      nbf: now,
      exp: now + 60,
      scope: "admin",
    };
    const encode = (value: object) =>
      btoa(JSON.stringify(value)).replace(/=+$/, "").replace(/\+/g, "-").replace(/\//g, "_");
    const byForm = [
      `${encode({ alg: "none", typ: "at+jwt" })}.${payload}.`,
      `${header}.${payload}.${signature}=`,
      `${header}.${payload}.`,
      `${header}.${payload}`,
      `${encode({ ...JSON.parse(atob(header)), crit: ["exp"] })}.${payload}.${signature}`,
      await sign(pair, { ...claims, exp: now - 31 }),
      await sign(pair, { ...claims, aud: "Sluice" }),
      await sign(pair, claims, { kid: "sig_elsewhere", jku: "https://evil.example/keys" }),
    ];
    const door = counting();
    for (const text of byForm) {
      const response = await ask("/v1/messages", text, { json: { model: MODEL }, env: door.env });
      expect([text, response.status]).toEqual([text, 401]);
    }
    expect(door.sql).toEqual([]);
    const forged = [
      `${header}.${encode({ ...JSON.parse(atob(payload.replace(/-/g, "+").replace(/_/g, "/"))), scope: "admin" })}.${signature}`,
      `${header}.${payload}.${"A".repeat(signature.length)}`,
      await sign(pair, claims, { jwk: pair.jwk }),
      await sign(pair, { ...claims, iss: "https://nobody.example" }),
    ];
    for (const text of forged) expect([text, await statusOf(say(text))]).toEqual([text, 401]);
    for (const text of [...byForm, ...forged]) {
      problem(await admin("keys", { as: text }), 401, "authentication_error");
    }
    expect(fetched).toEqual([]);
  });

  it("J-18 publishes public keys alone, for pages of any origin, and says when it can't", async () => {
    await traded((await makeKey()).key);
    const path = "/.well-known/jwks.json";
    const response = await call(objects, path);
    const { headers } = response;
    expect([response.status, headers.get("cache-control"), headers.get("access-control-allow-origin")]).toEqual([
      200,
      "public, max-age=300",
      "*",
    ]);
    const { keys } = await response.json<{ keys: Json[] }>();
    expect(keys.length).toBeGreaterThan(0);
    for (const key of keys) expect(Object.keys(key).sort()).toEqual(["alg", "crv", "kid", "kty", "use", "x", "y"]);
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + 2 * 3_600_000 });
    const prepare = () => {
      throw new Error("D1_ERROR");
    };
    const away = await call(objects, path, { env: { DB: { prepare } as unknown as D1Database } });
    expect([away.status, away.headers.get("access-control-allow-origin")]).toEqual([503, "*"]);
  });

  it("J-18 publishes an empty set for no longer than it is empty", async () => {
    await env.DB.prepare("DELETE FROM signing_keys").run();
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + 4 * 3_600_000 });
    const response = await call(objects, "/.well-known/jwks.json");
    expect([await response.json(), response.headers.get("cache-control")]).toEqual([{ keys: [] }, "no-store"]);
  });

  it("J-15 refuses what is far too long before it looks at it", async () => {
    const { token } = await traded((await makeKey()).key);
    const door = counting();
    const looks = [vi.spyOn(crypto.subtle, "digest"), vi.spyOn(crypto.subtle, "verify")];
    const [header, payload, signature] = token.split(".");
    for (const text of [`${token}${"A".repeat(100_000)}`, `${header}.${payload}${"A".repeat(100_000)}.${signature}`]) {
      expect(await statusOf(ask("/v1/key", text, { env: door.env }))).toBe(401);
    }
    expect(door.sql).toEqual([]);
    const looked = () => looks.some((look) => look.mock.calls.length > 0);
    expect(looked()).toBe(false);
    expect([await statusOf(ask("/v1/key", token)), looked()]).toEqual([200, true]);
  });

  it("K-01 K-03 K-04 a forged key takes the same way whatever is wrong with it: one tag, nobody asked, one answer", async () => {
    const { key } = await makeKey();
    const other = (at: number) => key.slice(0, at) + (key[at] === "0" ? "1" : "0") + key.slice(at + 1);
    const door = counting();
    const objectsAsked = vi.fn();
    const KEY_LEDGER = { getByName: objectsAsked } as unknown as Env["KEY_LEDGER"];
    const sign = vi.spyOn(crypto.subtle, "sign");
    const digest = vi.spyOn(crypto.subtle, "digest");
    const seen = [];
    // Another id, another secret, another tag.
    for (const at of ["sk-sluice-".length + 3, "sk-sluice-".length + 40, key.length - 1]) {
      sign.mockClear();
      digest.mockClear();
      const response = await ask("/v1/key", other(at), { env: { ...door.env, KEY_LEDGER } });
      const { error } = await response.json<{ error: object }>();
      seen.push([response.status, error, sign.mock.calls.length, digest.mock.calls.length]);
    }
    expect(seen).toEqual([seen[0], seen[0], seen[0]]);
    expect(seen[0]).toEqual([401, expect.objectContaining({ type: "authentication_error" }), 1, 0]);
    expect([door.sql, objectsAsked.mock.calls, fetched]).toEqual([[], [], []]);
  });

  it("K-09 a key that is asked for before it is there works as soon as it is", async () => {
    const { key } = await makeKey();
    const [id, bare] = [newId("key", Date.now()), "sk-sluice-".length];
    const minted = await mintKey("tag-secret-of-the-tests-0123456789", Date.now(), id);
    expect(minted.key.slice(bare, bare + 26)).toBe(id.slice("key_".length));
    for (let i = 0; i < 3; i++) expect(await statusOf(ask("/v1/key", minted.key))).toBe(401);
    const like = await env.DB.prepare("SELECT * FROM api_keys WHERE id = ?")
      .bind(`key_${key.slice(bare, bare + 26)}`)
      .first();
    const secrets = [{ sha256: minted.secretSha256, hint: minted.hint, created_at: Date.now(), expires_at: null }];
    const row = { ...like, id, secrets: JSON.stringify(secrets) };
    const names = Object.keys(row);
    await env.DB.prepare(`INSERT INTO api_keys (${names.join(", ")}) VALUES (${names.map(() => "?").join(", ")})`)
      .bind(...Object.values(row))
      .run();
    const since = Date.now();
    await vi.waitFor(async () => expect(await statusOf(ask("/v1/key", minted.key))).toBe(200), { timeout: 10_000 });
    expect(Date.now() - since).toBeLessThan(2_500);
  });

  it("the cron makes the next key, a day later", async () => {
    await traded((await makeKey()).key);
    const before = await loadSigningKeys(env.DB);
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + 25 * 3_600_000 });
    await worker.scheduled?.(createScheduledController(), env);
    expect((await loadSigningKeys(env.DB)).length).toBe(before.length + 1);
    await env.DB.prepare("DELETE FROM signing_keys WHERE seq > ?")
      .bind(before.at(-1)?.seq ?? 0)
      .run();
  });
});

describe("another issuer's token", () => {
  let nth = 0;
  /** It never goes back here, as the memory of the issuers knows only one clock. */
  let ahead = 0;
  /** So old may an isolate's memory of the issuers be. */
  const later = () => {
    vi.useRealTimers();
    ahead += 2_001;
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + ahead });
  };
  /** An issuer whose tokens act as a new key. */
  async function issuer(mapping: Json, key: Json = {}) {
    const { id } = await makeKey(key);
    const own = newId("iss", Date.now() + ++nth);
    const master = {
      version: "1",
      bytes: Uint8Array.from("master-key-of-the-tests-01234567", (char) => char.charCodeAt(0)),
    };
    const record: IssuerRecord = {
      ...issuerRecord({ id: own, name: own, issuer: `https://${own}.example`, jwks_url: null }),
      sealed_secret: await seal(master, SECRET, secretPlaceOf(own)),
      mappings: [{ when: {}, key: id, ...mapping }],
    };
    await insertIssuer(env.DB, record, SOME_CHANGE);
    const privateKey = await makeSecretKey(SECRET);
    const now = Math.floor(Date.now() / 1_000);
    const claims = { iss: record.issuer, aud: "sluice", sub: "ada", iat: now - 300, nbf: now - 300, exp: now + 600 };
    const signed = (changes: Json = {}) =>
      sign({ kid: "any", alg: "HS256" as never, privateKey }, { ...claims, ...changes }, { typ: "JWT" });
    const token = await signed();
    later();
    const change = async (fields: Partial<IssuerRecord>) => {
      expect(await updateIssuer(env.DB, { ...record, ...fields, version: 2 }, SOME_CHANGE)).toBe(true);
      later();
    };
    return { id, record, token, sign: signed, change, name: `${record.issuer} ada` };
  }

  it("acts as its key, says for whom, and can't be traded", async () => {
    const { id, token, name } = await issuer({ models: ["claude-opus-*"] });
    expect(await statusOf(say(token))).toBe(200);
    expect(await statusOf(say(token, "claude-haiku-4-5"))).toBe(403);
    expect(await statusOf(trade(token))).toBe(403);
    const seen = await (await ask("/v1/key", token)).json<Json>();
    expect(seen).toMatchObject({ id, models: ["claude-opus-*"], token: { subject: name } });
    vi.useRealTimers();
    await settled();
    await vi.waitFor(
      async () => {
        const { body } = await admin(`audit?key=${id}`);
        expect(body.data.map(({ subject }: { subject: string }) => subject)).toEqual([name, name, name, name]);
      },
      { timeout: 15_000, interval: 200 },
    );
  });

  it("J-06 J-07 is taken with 30 seconds of leeway, and not one more", async () => {
    const { sign: of } = await issuer({});
    const outcomes = async (changes: readonly Record<string, number>[]) => {
      const now = Math.floor(Date.now() / 1_000);
      return Promise.all(
        changes.map(async (change) =>
          statusOf(say(await of(Object.fromEntries(Object.entries(change).map(([name, by]) => [name, now + by]))))),
        ),
      );
    };
    expect(await outcomes([{ exp: -1 }, { exp: 0 }, { exp: -20 }, { iat: 20 }, { nbf: 20 }])).toEqual(
      Array.from({ length: 5 }, () => 200),
    );
    expect(await outcomes([{ exp: -31 }, { exp: -60 }, { iat: 40 }, { nbf: 600 }])).toEqual(
      Array.from({ length: 4 }, () => 401),
    );
  });

  it("opens the control plane as Cloudflare Access shows it, where the call shows nothing else", async () => {
    const { token } = await issuer({ admin: "write" }, { scopes: ["messages", "admin"] });
    const byAccess = (headers: Record<string, string>, path = "/admin/keys", method = "GET") =>
      statusOf(call(objects, path, { method, headers: { "cf-access-jwt-assertion": token, ...headers } }));
    const page = { origin: "https://gw.test", "sec-fetch-site": "same-origin" };
    expect(await byAccess({})).toBe(200);
    expect(await byAccess(page, "/admin/session", "POST")).toBe(201);
    const cookie = `__Host-sluice_session=${"0".repeat(64)}`;
    for (const shown of [{ authorization: "Bearer no" }, { cookie }, { "sec-fetch-site": "cross-site" }]) {
      expect(await byAccess(shown)).toBe(401);
    }
    const evil = { origin: "https://evil.example", "sec-fetch-site": "cross-site" };
    expect(await byAccess(evil, "/admin/session", "POST")).toBe(401);
  });

  it("A-06 has nothing of the control plane that its mapping does not give", async () => {
    const paths = ["/admin/keys", "/admin/templates", "/metrics"];
    const scopes = ["messages", "metrics", "templates:write", "admin"];
    for (const [mapping, expected] of [
      [{}, [403, 403, 403]],
      [{ scopes: ["messages", "metrics"] }, [403, 403, 200]],
      [{ scopes: ["templates:write"] }, [403, 200, 403]],
      [{ admin: "read" }, [200, 200, 200]],
    ] as const) {
      const { token } = await issuer(mapping, { scopes });
      const headers = { authorization: `Bearer ${token}` };
      const statuses = await Promise.all(paths.map((path) => statusOf(call(objects, path, { headers }))));
      expect([mapping, statuses]).toEqual([mapping, expected]);
    }
    const { token } = await issuer({ admin: "read" }, { scopes });
    problem(await admin("templates/none", { as: token, json: {} }), 403, "permission_error");
  });

  const mapped = (key: string, more: Json = {}) => ({ when: {}, key, ...more });
  it.each<[string, (id: string) => Json, readonly [number, number, string | null]]>([
    ["is disabled", () => ({ state: "disabled" }), [401, 401, "unauthenticated"]],
    ["blocks him", () => ({ blocked_subjects: ["ada"] }), [401, 401, "unauthenticated"]],
    ["gives him no admin rights any more", (id) => ({ mappings: [mapped(id)] }), [200, 401, "unauthenticated"]],
    ["gives him more", (id) => ({ mappings: [mapped(id, { admin: "write" })] }), [200, 401, "unauthenticated"]],
    ["lets nobody in", () => ({ mappings: [] }), [401, 401, "unauthenticated"]],
    [
      "has another mapping before his",
      (id) => ({ mappings: [mapped(id, { when: { sub: "b*" } }), mapped(id, { admin: "read" })] }),
      [200, 401, "unauthenticated"],
    ],
    ["is for other recipients", () => ({ audiences: ["another"] }), [401, 401, "unauthenticated"]],
    [
      "has another mapping behind his, another name, and blocks somebody else",
      (id) => ({
        mappings: [mapped(id, { admin: "read" }), mapped(id, { when: { sub: "b*" } })],
        name: `renamed ${id}`,
        blocked_subjects: ["bob"],
      }),
      [200, 200, null],
    ],
  ])("J-22 two seconds after its issuer %s: here, in sessions, on sockets", async (_, fields, expected) => {
    const { id, token, change, name, record } = await issuer({ admin: "read" }, { scopes: ["conversations", "admin"] });
    const opened = await admin("session", { as: token, method: "POST" });
    expect([opened.status, opened.body.actor, opened.body.scopes]).toEqual([
      201,
      name,
      ["conversations", "metrics", "admin:read"],
    ]);
    expect(Date.parse(opened.body.expires_at) - Date.now()).toBeGreaterThan(7 * 3_600_000);
    const cookie = opened.headers.get("set-cookie")?.split(";")[0] ?? "";
    const bySession = () => admin("keys", { as: null, headers: { cookie } });
    const rights = {
      scopes: ["conversations" as const],
      models: null,
      conversation: null,
      expiresAt: Number.POSITIVE_INFINITY,
      speaker: { issuer: record.issuer, subject: "ada", mark: await markOf(record, 0) },
    };
    const sender = { keyId: id, secretSha256: null, workspace: "ws_default", rights };
    const seen = async () => [
      await statusOf(ask("/v1/key", token)),
      (await bySession()).status,
      (await checkSender(sender, env, ctx))?.kind ?? null,
    ];
    expect(await seen()).toEqual([200, 200, null]);
    await change(fields(id) as Partial<IssuerRecord>);
    expect(await seen()).toEqual(expected);
  });

  it("A-06 has of what an administrator may only what its mapping names", async () => {
    const statuses = async (mapping: Record<string, unknown>, scopes: string[]) => {
      const { token } = await issuer(mapping, { scopes });
      const answers = [
        await admin("keys", { as: token }),
        await admin("templates", { as: token }),
        await admin("templates/of-a-login", { as: token, json: { system: "Hello." } }),
      ];
      return answers.map(({ status }) => status);
    };
    const both = ["conversations", "admin"];
    expect(await statuses({}, both)).toEqual([403, 403, 403]);
    expect(await statuses({ admin: "read" }, both)).toEqual([200, 200, 403]);
    expect(await statuses({ admin: "write" }, both)).toEqual([200, 200, 201]);
    expect(await statuses({ scopes: ["templates:write"] }, both)).toEqual([403, 200, 201]);
    expect(await statuses({}, ["templates:write"])).toEqual([403, 403, 403]);
  });
});
