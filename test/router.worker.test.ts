/** Every route there is, with every sort of caller: who may pass is written down here once more, beside the code. */
import { createExecutionContext } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, it } from "vitest";
import { app, routes } from "../src/app.ts";
import { holds, neededFor, SCOPES, type Scope } from "../src/identity/scopes.ts";
import { ADMIN_TOKEN, call, makeKey, send } from "./admin/control-plane.ts";

/** What a path needs, the first that matches; a route that is in none of these lines fails the walk. */
const TABLE: readonly (readonly [pattern: RegExp, read: Scope | "key" | "nothing", write?: Scope])[] = [
  [/^\/($|health$|console|api\/hello$|\.well-known\/jwks\.json$|openapi\.json$)/, "nothing"],
  [/^\/metrics$/, "metrics"],
  [/^\/admin\/session$/, "admin:read"],
  [/^\/admin\/templates(\/|$)/, "templates:write"],
  [/^\/admin\//, "admin:read", "admin:write"],
  [/^\/v1\/(key|token)$/, "key"],
  [/^\/v1\/templates\//, "templates:read"],
  [/^\/v1\/messages\/batches(\/|$)/, "batches"],
  [/^\/v1\/files(\/|$)/, "files"],
  [/^\/v1\/conversations(\/|$)/, "conversations"],
  [/^\/v1\/(messages|messages\/count_tokens|chat\/completions)$/, "messages"],
  [/^\/v1\/(models|responses)(\/|$)/, "messages"],
];

/** Whoever comes: what is shown, and what that may do. */
type Caller = {
  readonly name: string;
  readonly headers: Readonly<Record<string, string>>;
  /** Null: nobody who is known. */
  readonly scopes: readonly Scope[] | null;
  /** The admin token's and a session's: where it leads nowhere but to the control plane. */
  readonly onlyControl?: true;
  /** A token of one conversation's: what is beyond it is refused, or is not there. */
  readonly onlyOne?: true;
  /** May not be traded for a token. */
  readonly isToken?: true;
};
const callers: Caller[] = [];

async function traded(key: string, fields: object): Promise<string> {
  const headers = { authorization: `Bearer ${key}`, "content-type": "application/json" };
  const request = new Request("https://gw.test/v1/token", { method: "POST", headers, body: JSON.stringify(fields) });
  const response = await app.fetch(request, env, createExecutionContext());
  expect(response.status).toBe(201);
  return (await response.json<{ token: string }>()).token;
}

/** As a page of ours asks. */
async function sessionOf(as: string): Promise<{ readonly id: string; readonly headers: Caller["headers"] }> {
  const { headers, body } = await call("session", { method: "POST", as });
  const cookie = headers.get("set-cookie")?.split(";")[0] ?? "";
  const page = { cookie, "x-sluice-csrf": body.csrf_token, origin: "https://gw.test", "sec-fetch-site": "same-origin" };
  return { id: body.id, headers: page };
}

beforeAll(async () => {
  const bearer = (credential: string) => ({ authorization: `Bearer ${credential}` });
  const known = (name: string, credential: string, scopes: readonly Scope[], more: Partial<Caller> = {}) =>
    callers.push({ name, headers: bearer(credential), scopes, ...more });
  const unknown = (name: string, headers: Caller["headers"]) => callers.push({ name, headers, scopes: null });
  const make = async (fields: object) => makeKey({ name: "walker", ...fields });
  for (const scope of SCOPES) known(`a key with ${scope}`, (await make({ scopes: [scope] })).key, [scope]);
  const data: readonly Scope[] = DATA;
  const all: readonly Scope[] = [...data, "admin"];
  const { key } = await make({ scopes: all });
  known("a key with everything", key, all);
  known("a key of another workspace", (await make({ scopes: data, workspace: "ws_other" })).key, data);
  for (const scopes of [["messages"], ["conversations", "files"], ["admin:read"], ["admin"]] as const) {
    known(`a token narrowed to ${scopes}`, await traded(key, { scopes }), scopes, { isToken: true });
  }
  const made = await app.fetch(
    new Request("https://gw.test/v1/conversations", {
      method: "POST",
      headers: { ...bearer(key), "content-type": "application/json" },
      body: '{"model":"claude-opus-5-5"}',
    }),
    env,
    createExecutionContext(),
  );
  const conversation = (await made.json<{ id: string }>()).id;
  const one = await traded(key, { scopes: [...data, "admin"], conversation });
  known("a token of one conversation", one, data, { isToken: true, onlyOne: true });
  callers.push({ name: "the admin token", headers: bearer(ADMIN_TOKEN), scopes: ["admin"], onlyControl: true });
  const reader = (await make({ scopes: ["admin:read"] })).key;
  callers.push({ name: "a session", ...(await sessionOf(ADMIN_TOKEN)), scopes: ["admin"], onlyControl: true });
  callers.push({ name: "a reader's session", ...(await sessionOf(reader)), scopes: ["admin:read"], onlyControl: true });

  unknown("nobody", {});
  unknown("a forged key", bearer(`${key.slice(0, -4)}zzzz`));
  unknown("a forged token", bearer(`${await traded(key, {})}A`));
  unknown("two keys at once", { ...bearer(key), "x-api-key": reader });
  const gone = await make({ scopes: all });
  const dead = await traded(gone.key, { scopes: all });
  const ended = await sessionOf(gone.key);
  expect((await send(`keys/${gone.id}`, { method: "DELETE" })).status).toBe(200);
  unknown("a revoked key", bearer(gone.key));
  unknown("a revoked key's token", bearer(dead));
  unknown("a revoked key's session", ended.headers);
  const [revoked, expired] = [await sessionOf(ADMIN_TOKEN), await sessionOf(ADMIN_TOKEN)];
  expect((await send(`sessions/${revoked.id}`, { method: "DELETE" })).status).toBe(204);
  unknown("a revoked session", revoked.headers);
  await env.DB.prepare("UPDATE admin_sessions SET expires_at = ? WHERE id = ?").bind(Date.now(), expired.id).run();
  unknown("an expired session", expired.headers);
  // What an isolate knows of a key may be two seconds old.
  await scheduler.wait(2_000);
});

/** Those of the data plane: no admin scope, and nothing that one holds. */
const DATA = SCOPES.filter((scope) => !holds(["admin"], scope));

function needOf(method: string, path: string): Scope | "key" | "nothing" {
  const [, read, write = read] = TABLE.find(([pattern]) => pattern.test(path)) ?? [];
  if (read === undefined || write === undefined) throw new Error(`${method} ${path} is in no line of the table`);
  return method === "GET" ? read : write;
}

function isLetIn(caller: Caller, method: string, path: string): boolean | "unknown caller" {
  const { scopes } = caller;
  const needed = needOf(method, path);
  if (needed === "nothing") return true;
  if (scopes === null) return "unknown caller";
  const isControl = needed === "metrics" || needed === "templates:write" || needed.startsWith("admin");
  if (caller.onlyControl && !isControl) return "unknown caller";
  // Lists and new conversations are nothing for who has one alone.
  if (caller.onlyOne && (isControl || path === "/v1/conversations")) return false;
  if (needed === "key") return !(caller.isToken && path === "/v1/token");
  // Whoever reads the control plane reads all of it.
  if (isControl && method === "GET" && holds(scopes, "admin:read")) return true;
  return holds(scopes, needed);
}

/** 401, 403 for what the caller is, or let in, whatever is found there then. */
async function verdictOf({ headers }: Caller, method: string, path: string): Promise<boolean | "unknown caller"> {
  const bare = method === "GET" || method === "DELETE";
  const request = new Request(`https://gw.test${path}`, {
    method,
    headers: {
      ...headers,
      ...(path.endsWith("/socket") ? { upgrade: "websocket" } : {}),
      ...(bare ? {} : { "content-type": "application/json" }),
    },
    ...(bare ? {} : { body: "[]" }),
  });
  // What is settled afterwards is nobody's here, and takes seconds.
  const response = await app.fetch(request, env, createExecutionContext());
  await response.text();
  if (response.status === 401) return "unknown caller";
  return response.status !== 403;
}

/** Names that nothing has. */
const filled = (path: string): string => path.replace(/:\w+/g, "none-here");

/** Those who come with a session end it there, so that comes last. */
const LAST = "DELETE /admin/session";
const walked = routes
  .map(([method, path, handle]) => ({ method, path, handle }))
  .sort((a, b) => Number(`${a.method} ${a.path}` === LAST) - Number(`${b.method} ${b.path}` === LAST));

describe("A-06 P-08 every route with every caller", () => {
  it.each(walked)("$method $path", async (route) => {
    const { method, path, handle } = route;
    const needed = needOf(method, path);
    const said = handle.needs;
    expect(said === "key" || said === "nothing" ? said : neededFor(method, said)).toBe(needed);
    const verdicts = await Promise.all(
      callers.map(async (caller) => [caller.name, await verdictOf(caller, method, filled(path))]),
    );
    expect(verdicts).toEqual(callers.map((caller) => [caller.name, isLetIn(caller, method, path)]));
  });

  it.each(["/messages", "//v1//messages", "/v1/messages?beta=true"])(
    "P-06 %s asks for what /v1/messages asks for",
    async (path) => {
      for (const caller of callers) {
        expect([caller.name, await verdictOf(caller, "POST", path)]).toEqual([
          caller.name,
          isLetIn(caller, "POST", "/v1/messages"),
        ]);
      }
    },
  );
});
