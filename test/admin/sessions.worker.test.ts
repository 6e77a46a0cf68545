/** Sessions of the control plane: what opens one, what it opens, what ends it, and whose page may use it. */
import { env } from "cloudflare:workers";
import { describe, expect, it } from "vitest";
import { SESSION_MS } from "../../src/identity/session.ts";
import { forgetSessions } from "../../src/identity/session-store.ts";
import { answered, call, makeKey, problem, send } from "./control-plane.ts";

type Opened = { readonly id: string; readonly cookie: string; readonly csrf: string; readonly headers: Headers };

async function open(as?: string): Promise<Opened> {
  const answer = await call("session", { method: "POST", ...(as === undefined ? {} : { as }) });
  expect(answer.status).toBe(201);
  const cookie = answer.headers.get("set-cookie")?.split(";")[0] ?? "";
  return { id: answer.body.id, cookie, csrf: answer.body.csrf_token, headers: answer.headers };
}

const OWN = "https://gw.test";
/** As a page of ours asks. */
const byPage = ({ cookie, csrf }: Opened, more: Record<string, string> = {}) => ({
  as: null,
  headers: { cookie, "x-sluice-csrf": csrf, origin: OWN, "sec-fetch-site": "same-origin", ...more },
});
const change = (session: Opened, more: Record<string, string> = {}) =>
  call("keys", { json: { name: "made by a page" }, ...byPage(session, more) });

describe("a session", () => {
  it("is opened with the admin token, and does what that may", async () => {
    const session = await open();
    expect(session.headers.get("set-cookie")).toMatch(
      /^__Host-sluice_session=[0-9a-f]{64}; Path=\/; Secure; HttpOnly; SameSite=Strict; Max-Age=28800$/,
    );
    expect((await change(session)).status).toBe(201);
    const who = await call("session", byPage(session));
    expect(who.body).toMatchObject({ id: session.id, actor: "admin-token", scopes: null, csrf_token: session.csrf });
    expect(Date.parse(who.body.expires_at) - Date.now()).toBeLessThanOrEqual(SESSION_MS);
  });

  it("A-06 does what its key may, and ends with its key and with the key's scope", async () => {
    const reader = await makeKey({ scopes: ["admin:read"] });
    const session = await open(reader.key);
    expect((await call("keys", byPage(session))).status).toBe(200);
    expect(problem(await change(session), 403, "permission_error")).toContain("admin:write");
    await call(`keys/${reader.id}`, { method: "PATCH", json: { scopes: ["messages"] } });
    problem(await call("keys", byPage(session)), 403, "permission_error");
    await call(`keys/${reader.id}`, { method: "DELETE" });
    problem(await call("keys", byPage(session)), 401, "authentication_error");
  });

  it("A-11 ends at once when it is closed, by whoever has it or by another admin", async () => {
    const [mine, theirs] = [await open(), await open()];
    const closed = await send("session", { method: "DELETE", ...byPage(mine) });
    expect([closed.status, closed.headers.get("set-cookie")]).toEqual([
      204,
      "__Host-sluice_session=; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=0",
    ]);
    problem(await call("keys", byPage(mine)), 401, "authentication_error");
    const listed = await call("sessions?limit=500");
    expect(listed.body.data.map(({ id }: { id: string }) => id)).toContain(theirs.id);
    expect(listed.body.data.map(({ id }: { id: string }) => id)).not.toContain(mine.id);
    expect((await send(`sessions/${theirs.id}`, { method: "DELETE" })).status).toBe(204);
    problem(await call("keys", byPage(theirs)), 401, "authentication_error");
    problem(await call(`sessions/${theirs.id}`, { method: "DELETE" }), 404, "not_found_error");
  });

  it("A-11 ends when its browser signs in again, and no other one does", async () => {
    const [mine, theirs] = [await open(), await open()];
    const again = await call("session", { method: "POST", headers: { cookie: mine.cookie } });
    expect(again.status).toBe(201);
    problem(await call("keys", byPage(mine)), 401, "authentication_error");
    expect((await call("keys", byPage(theirs))).status).toBe(200);
    const told = (await call("changes?kind=session&limit=2")).body.data as { action: string; target: string }[];
    expect(told.map(({ action, target }) => [action, target])).toEqual([
      ["session.open", again.body.id],
      ["session.close", mine.id],
    ]);
    // Who is refused ends nothing.
    problem(
      await call("session", { method: "POST", as: "wrong", headers: { cookie: theirs.cookie } }),
      401,
      "authentication_error",
    );
    expect((await call("keys", byPage(theirs))).status).toBe(200);
  });

  it("A-11 ends when its key's secret is exchanged, and not before the grace is over", async () => {
    const made = await makeKey({ scopes: ["admin"] });
    const session = await open(made.key);
    await call(`keys/${made.id}/rotate`, { json: { grace_seconds: 60 } });
    expect((await call("keys", byPage(session))).status).toBe(200);
    await call(`keys/${made.id}/rotate`, { json: {} });
    problem(await call("keys", byPage(session)), 401, "authentication_error");
  });

  it("leaves in the change log who opened it and who ended it, and not what is in its cookie", async () => {
    const reader = await makeKey({ scopes: ["admin:read"] });
    const session = await open(reader.key);
    await send(`sessions/${session.id}`, { method: "DELETE" });
    const { body, text } = await call(`changes?kind=session&target=${session.id}`);
    expect(body.data).toMatchObject([
      { action: "session.close", actor: "admin-token", before: { actor: reader.id }, after: null },
      { action: "session.open", actor: reader.id, before: null, after: { id: session.id, scopes: ["admin:read"] } },
    ]);
    expect(text).not.toMatch(/sha256|[0-9a-f]{64}/i);
  });

  it("ends with its time, and with the admin token that it was opened with", async () => {
    const session = await open();
    await env.DB.prepare("UPDATE admin_sessions SET expires_at = ? WHERE id = ?").bind(Date.now(), session.id).run();
    problem(await call("keys", byPage(session)), 401, "authentication_error");
    const older = await open();
    const changed = await call("keys", {
      ...byPage(older),
      env: { ADMIN_TOKEN: "another-token-of-the-tests" } as never,
    });
    problem(changed, 401, "authentication_error");
  });

  it("A-06 is opened by nobody without an admin scope, and by no session", async () => {
    const { key } = await makeKey({ scopes: ["messages", "metrics"] });
    problem(await call("session", { method: "POST", as: key }), 403, "permission_error");
    problem(await call("session", { method: "POST", as: null }), 401, "authentication_error");
    problem(await call("session", { method: "POST", ...byPage(await open()) }), 400, "invalid_request_error");
  });

  it("opens nothing beside a credential that is none", async () => {
    const session = await open();
    const { headers } = byPage(session);
    problem(await call("keys", { as: "wrong", headers }), 401, "authentication_error");
    problem(await call("keys", { as: null, headers: { ...headers, "x-api-key": "" } }), 401, "authentication_error");
  });

  it("is nobody's whose cookie is another, torn, doubled or of another name", async () => {
    const { cookie, csrf } = await open();
    const value = cookie.split("=")[1] ?? "";
    for (const wrong of [
      `__Host-sluice_session=${"0".repeat(64)}`,
      cookie.slice(0, -1),
      `${cookie}; ${cookie}`,
      `sluice_session=${value}`,
      "__Host-sluice_session=' OR 1=1--",
    ]) {
      const answer = await call("keys", byPage({ id: "", cookie: wrong, csrf, headers: new Headers() }));
      problem(answer, 401, "authentication_error");
    }
  });
});

describe("V-04 another site's page", () => {
  it.each([
    ["says so", { "sec-fetch-site": "cross-site" }],
    ["is of the same site only", { "sec-fetch-site": "same-site" }],
    ["has another origin", { origin: "https://evil.example" }],
    ["hides its origin", { origin: "null" }],
    ["does not know the word", { "x-sluice-csrf": "" }],
    ["guesses the word", { "x-sluice-csrf": "0".repeat(64) }],
  ])("changes nothing where it %s", async (_, headers) => {
    const session = await open();
    problem(await change(session, headers), 403, "permission_error");
    expect((await change(session)).status).toBe(201);
  });

  it("changes nothing by what says nothing of where it comes from", async () => {
    const { cookie, csrf } = await open();
    const headers = { cookie, "x-sluice-csrf": csrf };
    problem(await call("keys", { json: { name: "no" }, as: null, headers }), 403, "permission_error");
  });

  it.each([
    ["application/x-www-form-urlencoded", "name=csrf"],
    ["text/plain", '{"name":"csrf","x":"="}'],
    ["multipart/form-data; boundary=x", '--x\r\ncontent-disposition: form-data; name="name"\r\n\r\ncsrf\r\n--x--\r\n'],
  ])("changes nothing by a form or a fetch that asks nobody (%s)", async (type, raw) => {
    const { cookie } = await open();
    const from = { origin: "https://evil.example", "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors" };
    const count = () => env.DB.prepare("SELECT count(*) AS n FROM api_keys").first();
    const before = await count();
    for (const headers of [from, { origin: OWN, "sec-fetch-site": "same-origin" }, {}]) {
      const answer = await call("keys", { raw, as: null, headers: { cookie, "content-type": type, ...headers } });
      problem(answer, 403, "permission_error");
    }
    expect(await count()).toEqual(before);
  });

  it.each(["https://evil.example", "null", "https://gw.test.evil.example", "http://gw.test"])(
    "V-05 is allowed nothing: %s",
    async (origin) => {
      const session = await open();
      const asked = {
        origin,
        "access-control-request-method": "DELETE",
        "access-control-request-headers": "x-sluice-csrf",
      };
      for (const path of ["keys", "session", "sessions", "changes"]) {
        const preflight = await call(path, { method: "OPTIONS", as: null, headers: asked });
        const read = await call(path, byPage(session, { origin }));
        for (const { headers } of [preflight, read]) {
          expect([...headers.keys()].filter((name) => name.startsWith("access-control"))).toEqual([]);
        }
        expect([preflight.status, read.status]).toEqual([405, 403]);
      }
    },
  );

  it("reads nothing", async () => {
    const session = await open();
    problem(await call("keys", byPage(session, { "sec-fetch-site": "cross-site" })), 403, "permission_error");
  });
});

describe("opening sessions", () => {
  it("is limited by address", async () => {
    const headers = { "cf-connecting-ip": "192.0.2.1" };
    const attempts = Array.from({ length: 12 }, () => call("session", { method: "POST", as: "wrong", headers }));
    const statuses = (await Promise.all(attempts)).map(({ status }) => status);
    expect(statuses.filter((status) => status === 401)).toHaveLength(10);
    const limited = await call("session", { method: "POST", headers });
    expect(limited.headers.get("retry-after")).toBe("60");
    problem(limited, 429, "rate_limit_error");
    const elsewhere = await call("session", { method: "POST", headers: { "cf-connecting-ip": "192.0.2.2" } });
    expect(elsewhere.status).toBe(201);
  });

  it("leaves no cookie's value anywhere", async () => {
    const { cookie } = await open();
    const value = cookie.split("=")[1] ?? "";
    const { results } = await env.DB.prepare("SELECT * FROM admin_sessions").all();
    expect(JSON.stringify(results)).not.toContain(value);
    expect(answered.join("")).not.toContain(value);
  });

  it("keeps the rows of sessions for a day after their end, and no longer", async () => {
    const [old, recent] = [await open(), await open()];
    const end = (id: string, at: number) =>
      env.DB.prepare("UPDATE admin_sessions SET expires_at = ? WHERE id = ?").bind(at, id).run();
    await end(old.id, Date.now() - 25 * 3_600_000);
    await end(recent.id, Date.now() - 23 * 3_600_000);
    await forgetSessions(env, Date.now);
    const { results } = await env.DB.prepare("SELECT id FROM admin_sessions").all<{ id: string }>();
    const ids = results.map(({ id }) => id);
    expect([ids.includes(old.id), ids.includes(recent.id)]).toEqual([false, true]);
  });

  it("is stored with its change or not at all, and so is its end", async () => {
    const session = await open();
    const rows = () => env.DB.prepare("SELECT * FROM admin_sessions ORDER BY id").raw();
    const before = await rows();
    await env.DB.prepare("ALTER TABLE changes RENAME TO changes_away").run();
    try {
      for (const attempt of [
        () => call("session", { method: "POST" }),
        () => call("session", { method: "DELETE", ...byPage(session) }),
        () => call(`sessions/${session.id}`, { method: "DELETE" }),
      ]) {
        const answer = await attempt();
        problem(answer, 503, "api_error");
        expect(answer.headers.get("set-cookie")).toBeNull();
      }
    } finally {
      await env.DB.prepare("ALTER TABLE changes_away RENAME TO changes").run();
    }
    expect(await rows()).toEqual(before);
    expect((await call("keys", byPage(session))).status).toBe(200);
  });

  it("fails clearly while the database is away", async () => {
    const session = await open();
    const away = {
      DB: {
        prepare: () => {
          throw new Error("D1_ERROR: secret words");
        },
      },
    } as never;
    const answer = await call("keys", { ...byPage(session), env: away });
    expect(problem(answer, 503, "api_error")).not.toContain("secret words");
  });
});
