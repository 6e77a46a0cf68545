/** The change log: every write of the control plane leaves its change, in its own transaction, or is none. */
import { createScheduledController } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeEach, describe, expect, it, vi } from "vitest";
import { app } from "../../src/app.ts";
import { ALWAYS, ifVersion, writeRecorded } from "../../src/changes/store.ts";
import { getKey, insertKey, updateKey } from "../../src/identity/key-store.ts";
import worker from "../../src/index.ts";
import { builtInPrices } from "../../src/wire/anthropic/price-list.ts";
import { newId } from "../../src/wire/ids.ts";
import { answered, call, database, ledgers, makeKey, problem } from "../admin/control-plane.ts";
import { SOME_CHANGE } from "../support/changes.ts";

type Told = {
  id: string;
  at: string;
  actor: string;
  action: string;
  kind: string;
  target: string;
  before: Record<string, unknown> | null;
  after: Record<string, unknown> | null;
  request_id: string | null;
};

const CANARY = "sk-ant-CANARY-of-the-change-log";
/** The master key of the tests, and the one that follows it. */
const MASTER_KEYS = `2:${btoa("second-master-key-of-these-tests")},1:${btoa("master-key-of-the-tests-01234567")}`;

beforeEach(() => {
  for (const level of ["log", "error"] as const) vi.spyOn(console, level).mockImplementation(() => {});
});

async function changes(query = ""): Promise<Told[]> {
  const { status, body } = await call(`changes?${query}`);
  expect(status).toBe(200);
  return body.data;
}
const count = async (): Promise<number> =>
  (await env.DB.prepare("SELECT count(*) AS n FROM changes").first<{ n: number }>())?.n ?? 0;

const makeUpstream = async (): Promise<string> => {
  const json = { name: "u", base_url: "https://api.anthropic.com", api_key: CANARY };
  const { status, body } = await call("upstreams", { json });
  expect(status).toBe(201);
  return body.id;
};
const makeWorkspace = async (): Promise<string> =>
  (await call("workspaces", { json: { id: newId("ws", Date.now()), name: "w" } })).body.id;

const issuer = async () => ({
  name: newId("n", Date.now()),
  issuer: newId("https://issuer.example/", Date.now()),
  audiences: ["sluice"],
  secret: `${CANARY}-secret-of-32-bytes`,
  mappings: [{ when: { sub: "*" }, key: (await makeKey()).id }],
});
const makeIssuer = async (): Promise<string> => (await call("issuers", { json: await issuer() })).body.id;
const publishTemplate = async (): Promise<string> => {
  const name = newId("upl", Date.now()).toLowerCase();
  expect((await call(`templates/${name}`, { json: TEMPLATE })).status).toBe(201);
  return name;
};
const TEMPLATE = {
  model: "m",
  max_tokens: 1,
  system: "Say {{what}}.",
  variables: { properties: { what: { type: "string" } }, type: "object" },
};

/** What makes something: nothing was before. */
const MAKES = /\.(create|publish)$/;

/** Each route that may write: a call of it that does, and what it is called; null: it writes nothing. */
const WRITES: Record<string, (() => Promise<{ path: string; action: string; json?: unknown; env?: object }>) | null> = {
  "POST /admin/keys": async () => ({ path: "keys", action: "key.create", json: { name: "n" } }),
  "PATCH /admin/keys/:id": async () => ({
    path: `keys/${(await makeKey()).id}`,
    action: "key.change",
    json: { name: "m" },
  }),
  "DELETE /admin/keys/:id": async () => ({ path: `keys/${(await makeKey()).id}`, action: "key.revoke" }),
  "POST /admin/keys/:id/rotate": async () => ({
    path: `keys/${(await makeKey()).id}/rotate`,
    action: "key.rotate",
    json: {},
  }),
  "POST /admin/workspaces": async () => ({ path: "workspaces", action: "workspace.create", json: { name: "n" } }),
  "PATCH /admin/workspaces/:id": async () => ({
    path: `workspaces/${await makeWorkspace()}`,
    action: "workspace.change",
    json: { name: "m" },
  }),
  "POST /admin/workspaces/:id/cache/purge": async () => ({
    path: `workspaces/${await makeWorkspace()}/cache/purge`,
    action: "workspace.purge_cache",
  }),
  "POST /admin/upstreams": async () => ({
    path: "upstreams",
    action: "upstream.create",
    json: { name: "u", base_url: "https://api.anthropic.com", api_key: CANARY },
  }),
  "PATCH /admin/upstreams/:id": async () => ({
    path: `upstreams/${await makeUpstream()}`,
    action: "upstream.change",
    json: { weight: 3, api_key: `${CANARY}-next` },
  }),
  "POST /admin/upstreams/:id/drain": async () => ({
    path: `upstreams/${await makeUpstream()}/drain`,
    action: "upstream.drain",
  }),
  "DELETE /admin/upstreams/:id": async () => ({
    path: `upstreams/${await makeUpstream()}`,
    action: "upstream.remove",
  }),
  "POST /admin/upstreams/:id/test": null,
  "POST /admin/upstreams/reseal": async () => {
    await env.DB.prepare("DELETE FROM upstreams").run();
    await makeUpstream();
    return {
      path: "upstreams/reseal",
      action: "upstream.reseal",
      env: { MASTER_KEY: MASTER_KEYS },
    };
  },
  "POST /admin/issuers": async () => ({ path: "issuers", action: "issuer.create", json: await issuer() }),
  "PATCH /admin/issuers/:id": async () => ({
    path: `issuers/${await makeIssuer()}`,
    action: "issuer.change",
    json: { secret: `${CANARY}-next-secret-of-32-bytes` },
  }),
  "DELETE /admin/issuers/:id": async () => ({ path: `issuers/${await makeIssuer()}`, action: "issuer.remove" }),
  "POST /admin/issuers/:id/test": null,
  "POST /admin/templates/:name": async () => ({
    path: `templates/${await publishTemplate()}`,
    action: "template.publish",
    json: { ...TEMPLATE, system: "Say {{what}} again." },
  }),
  "PATCH /admin/templates/:name": async () => ({
    path: `templates/${await publishTemplate()}`,
    action: "template.change",
    json: { state: "archived" },
  }),
  "PUT /admin/prices": async () => ({ path: "prices", action: "prices.replace", json: builtInPrices().list }),
  "DELETE /admin/prices": async () => {
    await call("prices", { method: "PUT", json: builtInPrices().list });
    return { path: "prices", action: "prices.restore" };
  },
};

/** Sessions answer in a way of their own: test/admin/sessions.worker.test.ts. */
const routes = app.routes
  .filter(({ method, path }) => path.startsWith("/admin/") && method !== "GET" && method !== "ALL")
  .filter(({ path }) => !path.startsWith("/admin/session"))
  .map(({ method, path }) => `${method} ${path}`);

describe("every route that writes", () => {
  it("is known here: who adds one says what it leaves in the change log", () => {
    expect([...new Set(routes)].sort()).toEqual(Object.keys(WRITES).sort());
  });

  it.each(routes)("%s leaves one change, told with its call, and no secret", async (route) => {
    const prepare = WRITES[route];
    if (!prepare) return;
    const [method] = route.split(" ");
    const { path, action, json, env: bindings } = await prepare();
    const before = await count();
    const answer = await call(path, { method: method ?? "", json, env: bindings ?? {} });
    expect([answer.status, await count()]).toEqual([MAKES.test(action) ? 201 : 200, before + 1]);
    const [told] = await changes("limit=1");
    expect(told).toMatchObject({
      action,
      actor: "admin-token",
      kind: action.split(".")[0],
      request_id: answer.headers.get("x-sluice-request-id"),
    });
    expect(told?.id).toMatch(/^chg_[0-9a-z]{26}$/);
    expect(told?.before === null).toBe(MAKES.test(action));
    expect(told?.after === null).toBe(action === "issuer.remove");
    if (route.includes(":id") && told) expect(path).toContain(told.target);
  });

  it.each(routes)(
    "%s leaves no change when it is refused, and none of it is stored without its change",
    async (route) => {
      const prepare = WRITES[route];
      if (!prepare) return;
      const [method = ""] = route.split(" ");
      const { path, json, env: bindings } = await prepare();
      const tables = [
        "api_keys",
        "workspaces",
        "upstreams",
        "issuers",
        "price_lists",
        "templates",
        "template_versions",
        "changes",
      ];
      const state = async () =>
        JSON.stringify(await Promise.all(tables.map((table) => env.DB.prepare(`SELECT * FROM ${table}`).raw())));
      const before = await state();
      problem(await call(path, { method, json, as: null, env: bindings ?? {} }), 401, "authentication_error");
      // The change can't be stored, so nothing is.
      await env.DB.prepare("ALTER TABLE changes RENAME TO changes_away").run();
      try {
        problem(await call(path, { method, json, env: bindings ?? {} }), 503, "api_error");
      } finally {
        await env.DB.prepare("ALTER TABLE changes_away RENAME TO changes").run();
      }
      expect(await state()).toBe(before);
    },
  );
});

describe("a change", () => {
  it("tells the record before and after as its route answers it, who changed it and when", async () => {
    const admin = await makeKey({ scopes: ["admin"] });
    const { id } = await makeKey();
    const before = (await call(`keys/${id}`)).body;
    const after = await call(`keys/${id}`, { method: "PATCH", json: { name: "new" }, as: admin.key });
    expect(after.status).toBe(200);
    const [told] = await changes(`target=${id}`);
    expect(told).toMatchObject({ actor: admin.id, action: "key.change", before, after: after.body });
    expect(told?.at).toBe(after.body.updated_at);
  });

  it("K-13 holds no secret: neither a key, nor its hash, nor a credential, sealed or open", async () => {
    const made = await makeKey();
    const rotated = (await call(`keys/${made.id}/rotate`, { json: { grace_seconds: 60 } })).body;
    const upstream = await makeUpstream();
    await call(`upstreams/${upstream}`, { method: "PATCH", json: { api_key: `${CANARY}-next` } });
    const { results } = await env.DB.prepare("SELECT * FROM changes").all();
    const text = JSON.stringify(results) + answered.slice(-1);
    const record = await getKey(env.DB, made.id);
    const sealed = await env.DB.prepare("SELECT sealed_key FROM upstreams WHERE id = ?")
      .bind(upstream)
      .first<{ sealed_key: string }>();
    const { iv, data } = JSON.parse(sealed?.sealed_key ?? "{}");
    const secrets = [made.key, rotated.key, CANARY, iv, data, ...(record?.secrets.map(({ sha256 }) => sha256) ?? [])];
    expect(secrets.length).toBe(7);
    for (const secret of secrets) expect(text).not.toContain(secret);
    const [told] = await changes(`target=${made.id}`);
    expect(told?.after).toMatchObject({ hint: rotated.hint });
    const [change] = await changes(`target=${upstream}`);
    expect(change?.before?.fingerprint).not.toBe(change?.after?.fingerprint);
  });

  it("is kept by the one of several writers who won", async () => {
    const { id } = await makeKey();
    const answers = await Promise.all(
      Array.from({ length: 8 }, (_, i) => call(`keys/${id}`, { method: "PATCH", json: { name: `n${i}` } })),
    );
    const won = answers.filter(({ status }) => status === 200);
    expect(won.length).toBeGreaterThan(0);
    const told = await changes(`target=${id}`);
    // The newest first: each goes on from the one before it.
    expect(told.map(({ after }) => after?.version)).toEqual(
      [...Array(won.length).keys()].map((i) => won.length + 1 - i).concat(1),
    );
    for (const [i, one] of told.slice(0, -1).entries()) expect(one.before).toEqual(told[i + 1]?.after);
    expect(won.map(({ body }) => body.name).sort()).toEqual(
      told
        .slice(0, -1)
        .map(({ after }) => after?.name)
        .sort(),
    );
  });

  it("is kept of each of many purges and price lists at once", async () => {
    const id = await makeWorkspace();
    await Promise.all(Array.from({ length: 8 }, () => call(`workspaces/${id}/cache/purge`, { method: "POST" })));
    const told = await changes(`target=${id}&limit=8`);
    expect(told.map(({ after }) => after?.cache_epoch)).toEqual([8, 7, 6, 5, 4, 3, 2, 1]);
    expect(told.map(({ before }) => before?.cache_epoch)).toEqual([7, 6, 5, 4, 3, 2, 1, 0]);
  });

  it("tells of a revocation that D1 heard of late, and of one in the midst of other changes, once", async () => {
    const { id } = await makeKey();
    const down = database((sql) => sql.startsWith("UPDATE api_keys"));
    problem(await call(`keys/${id}`, { method: "DELETE", env: down.env }), 503, "api_error");
    expect((await changes(`target=${id}`)).length).toBe(1);
    for (const _ of [1, 2]) expect((await call(`keys/${id}`, { method: "DELETE" })).status).toBe(200);
    const told = await changes(`target=${id}`);
    expect(told.map(({ action }) => action)).toEqual(["key.revoke", "key.create"]);
    expect([told[0]?.before?.revoked_at, typeof told[0]?.after?.revoked_at]).toEqual([null, "string"]);

    const busy = await makeKey();
    let races = 3;
    const batch = async (statements: D1PreparedStatement[]) => {
      if (races-- > 0) {
        await env.DB.prepare("UPDATE api_keys SET name = name || '!', version = version + 1 WHERE id = ?")
          .bind(busy.id)
          .run();
      }
      return env.DB.batch(statements);
    };
    const DB = { prepare: (sql: string) => env.DB.prepare(sql), batch } as unknown as D1Database;
    expect((await call(`keys/${busy.id}`, { method: "DELETE", env: { DB } })).status).toBe(200);
    const [revoked, created, ...more] = await changes(`target=${busy.id}`);
    expect([revoked?.action, revoked?.before?.name, created?.action, more]).toEqual([
      "key.revoke",
      "test!!!",
      "key.create",
      [],
    ]);
  });

  it("tells of a rotation and of its being taken back", async () => {
    const { id } = await makeKey();
    const failed = ledgers({ putPolicy: 99 });
    problem(await call(`keys/${id}/rotate`, { json: {}, env: failed.env }), 503, "api_error");
    const told = await changes(`target=${id}`);
    expect(told.map(({ action }) => action)).toEqual(["key.rotate_undo", "key.rotate", "key.create"]);
    expect(told[0]?.after?.secrets).toEqual(told[2]?.after?.secrets);
  });

  it("is the system's where the cron made it, and names no call", async () => {
    await env.DB.prepare("DELETE FROM upstreams").run();
    const id = await makeUpstream();
    const bindings = { ...env, MASTER_KEY: MASTER_KEYS } as Env;
    await worker.scheduled(createScheduledController(), bindings);
    const [told] = await changes(`target=${id}`);
    expect(told).toMatchObject({ actor: "system", action: "upstream.reseal", request_id: null });
    expect([told?.before?.sealed_under, told?.after?.sealed_under]).toEqual(["1", "2"]);
    expect((await changes("actor=system"))[0]).toEqual(told);
    const before = await count();
    await worker.scheduled(createScheduledController(), bindings);
    expect(await count()).toBe(before);
  });
});

describe("writeRecorded", () => {
  it("stores both or neither: when the version is another, when the write fails, when the change does", async () => {
    const { id } = await makeKey();
    const record = await getKey(env.DB, id);
    if (!record) throw new Error("no record");
    const before = await count();
    expect(await updateKey(env.DB, { ...record, version: 7 }, SOME_CHANGE)).toBe(false);
    expect(await updateKey(env.DB, { ...record, id: newId("key", 0), version: 2 }, SOME_CHANGE)).toBe(false);
    await expect(insertKey(env.DB, record, SOME_CHANGE)).rejects.toThrow(/UNIQUE/);
    const wrong = env.DB.prepare("UPDATE api_keys SET name = NULL WHERE id = ?").bind(id);
    await expect(writeRecorded(env.DB, SOME_CHANGE, ifVersion("api_keys", id, 1), wrong)).rejects.toThrow(/NOT NULL/);
    await expect(
      writeRecorded(env.DB, { ...SOME_CHANGE, target: null as unknown as string }, ALWAYS, wrong),
    ).rejects.toThrow(/NOT NULL/);
    expect([await count(), await getKey(env.DB, id)]).toEqual([before, record]);
    expect(await updateKey(env.DB, { ...record, version: 2 }, SOME_CHANGE)).toBe(true);
    expect(await count()).toBe(before + 1);
  });
});

describe("GET /admin/changes", () => {
  it("pages newest first through each change once, and goes on where it was when more come", async () => {
    const { id } = await makeKey();
    for (let i = 0; i < 6; i++) await call(`keys/${id}`, { method: "PATCH", json: { name: `n${i}` } });
    const whole = await changes(`target=${id}`);
    expect(whole.map(({ after }) => after?.version)).toEqual([7, 6, 5, 4, 3, 2, 1]);
    for (const limit of [1, 3, 7, 8]) {
      const seen: Told[] = [];
      let cursor = "";
      do {
        const { body } = await call(`changes?target=${id}&limit=${limit}${cursor && `&cursor=${cursor}`}`);
        expect(body.data.length).toBeLessThanOrEqual(limit);
        expect(body.has_more).toBe(body.next_cursor !== null);
        seen.push(...body.data);
        cursor = body.next_cursor ?? "";
        await makeKey();
      } while (cursor);
      expect(seen).toEqual(whole);
    }
  });

  it("filters by each field, by several at once, and by time", async () => {
    const admin = await makeKey({ scopes: ["admin"] });
    const workspace = newId("ws", Date.now());
    await call("workspaces", { json: { id: workspace, name: "n" }, as: admin.key });
    await call(`workspaces/${workspace}`, { method: "PATCH", json: { name: "m" }, as: admin.key });
    const [newest, oldest] = await changes(`actor=${admin.id}`);
    expect([newest?.action, oldest?.action]).toEqual(["workspace.change", "workspace.create"]);
    expect(await changes(`kind=workspace&target=${workspace}&actor=${admin.id}`)).toEqual([newest, oldest]);
    expect(await changes(`kind=key&target=${workspace}`)).toEqual([]);
    expect((await changes("kind=key")).every(({ kind }) => kind === "key")).toBe(true);
    const [from, to] = [oldest?.at ?? "", newest?.at ?? ""];
    expect(await changes(`actor=${admin.id}&from=${from}`)).toEqual([newest, oldest]);
    expect(await changes(`actor=${admin.id}&to=${from}`)).toEqual([]);
    const later = new Date(Date.parse(to) + 1).toISOString();
    expect(await changes(`actor=${admin.id}&from=${later}`)).toEqual([]);
  });

  it("refuses what is no question, and who is no admin", async () => {
    for (const query of ["kind=K", "target=%00", "actor=", "from=x", "cursor=y", "limit=501", "limit=0", "who=me"]) {
      problem(await call(`changes?${query}`), 400, "invalid_request_error");
    }
    problem(await call("changes", { as: (await makeKey()).key }), 403, "permission_error");
    problem(await call("changes", { as: null }), 401, "authentication_error");
    problem(await call("changes", { method: "DELETE" }), 405, "invalid_request_error");
    const down = database((sql) => sql.includes("FROM changes"));
    problem(await call("changes", { env: down.env }), 503, "api_error");
  });
});
