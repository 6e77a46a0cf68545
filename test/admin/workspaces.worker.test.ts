import { env } from "cloudflare:workers";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import type { WorkspaceRecord } from "../../src/identity/key-record.ts";
import { getWorkspace, insertWorkspace, loadWorkspaceRules } from "../../src/identity/workspace-store.ts";
import { SOME_CHANGE } from "../support/changes.ts";
import { type Answer, call, database, ledgers, makeKey, problem } from "./control-plane.ts";

beforeAll(() => {
  vi.spyOn(console, "log").mockImplementation(() => {});
  vi.spyOn(console, "error").mockImplementation(() => {});
});
afterAll(() => vi.restoreAllMocks());

const make = (json: object, more = {}) => call("workspaces", { json: { name: "n", ...json }, ...more });
const patch = (id: string, json: unknown, more = {}) => call(`workspaces/${id}`, { method: "PATCH", json, ...more });
const message = (answer: Answer) => problem(answer, answer.status, answer.body.error.type);

describe("POST /admin/workspaces", () => {
  it("makes a workspace with everything given", async () => {
    const fields = {
      id: "team-red",
      name: "  Team Red ",
      limits: {
        requests_per_minute: 600,
        requests_burst: 100,
        input_tokens_per_minute: 1_000_000,
        input_tokens_burst: 2_000_000,
        output_tokens_per_minute: 200_000,
        output_tokens_burst: 100_000,
        concurrent_requests: 50,
      },
      budget: { usd: 1.005, period: "month" },
      metadata: { owner: "Zoë" },
    };
    const { status, body } = await make(fields);
    expect(status).toBe(201);
    expect(body).toEqual({
      ...fields,
      name: "Team Red",
      version: 1,
      cache_epoch: 0,
      guardrails: null,
      budget: { usd: 1.005, micro_usd: 1_005_000, period: "month", mode: "strict" },
      created_at: expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/),
      updated_at: body.created_at,
    });
    expect((await call("workspaces/team-red")).body).toEqual(body);
    expect(await loadWorkspaceRules(env.DB, "team-red")).toEqual({
      id: "team-red",
      version: 1,
      limits: fields.limits,
      budget: { micro_usd: 1_005_000, period: "month", mode: "strict" },
      cache_epoch: 0,
      guardrails: null,
    });
  });

  it("fills in what is not given, the id too", async () => {
    const { body } = await make({});
    expect(body).toMatchObject({
      id: expect.stringMatching(/^ws_[0-9a-hjkmnp-tv-z]{26}$/),
      limits: {},
      budget: null,
      metadata: {},
    });
    expect((await call(`workspaces/${body.id}`)).body).toEqual(body);
    expect(await loadWorkspaceRules(env.DB, "ws_never_made")).toBeNull();
  });

  it("makes an id once, and the second attempt changes nothing", async () => {
    await make({ id: "ws_once", limits: { requests_per_minute: 1 } });
    const before = await getWorkspace(env.DB, "ws_once");
    const { puts, env: bindings } = ledgers();
    await makeKey({ workspace: "ws_once" });
    const second = await make({ id: "ws_once", budget: { usd: 1, period: "day" } }, { env: bindings });
    expect(problem(second, 409, "conflict_error")).toBe("There is a workspace with this id already.");
    expect(await getWorkspace(env.DB, "ws_once")).toEqual(before);
    expect(puts).toEqual([]);
  });

  it("lets one of many win that make the same id at once", async () => {
    const answers = await Promise.all(
      Array.from({ length: 6 }, (_, i) => make({ id: "ws_race", metadata: { i: `${i}` } })),
    );
    expect(answers.map((answer) => answer.status).sort()).toEqual([201, 409, 409, 409, 409, 409]);
    const won = answers.find((answer) => answer.status === 201);
    expect((await call("workspaces/ws_race")).body).toEqual(won?.body);
  });

  it("leaves a ledger alone that nobody can have used, and it learns of its workspace by itself", async () => {
    const { calls, env: bindings } = ledgers();
    expect((await make({ id: "ws_unnamed", limits: { requests_per_minute: 1 } }, { env: bindings })).status).toBe(201);
    expect(calls.stubs).toBe(0);
  });

  it("puts limits on the keys that name it already", async () => {
    await makeKey({ workspace: "ws_late" });
    expect(problem(await call("workspaces/ws_late"), 404, "not_found_error")).toBe("There is no such workspace.");
    const { puts, env: bindings } = ledgers();
    const limits = { concurrent_requests: 2 };
    expect((await make({ id: "ws_late", limits }, { env: bindings })).status).toBe(201);
    expect(puts).toEqual([
      ["ws:ws_late", { id: "ws_late", version: 1, limits, budget: null, cache_epoch: 0, guardrails: null }],
    ]);
  });

  it("says when it is stored but not enforced, and a change completes it", async () => {
    await makeKey({ workspace: "ws_heal" });
    const down = ledgers({ putPolicy: 99 });
    const limits = { requests_per_minute: 3 };
    const failed = await make({ id: "ws_heal", limits }, { env: down.env });
    expect(problem(failed, 503, "api_error")).toBe(
      "The workspace is stored but not yet enforced. PATCH its limits and budget: the workspace's ledger is unavailable at the moment.",
    );
    expect(down.calls).toMatchObject({ putPolicy: 3, stubs: 3 });
    expect((await getWorkspace(env.DB, "ws_heal"))?.limits).toEqual(limits);
    const { puts, env: bindings } = ledgers();
    expect((await patch("ws_heal", { limits }, { env: bindings })).status).toBe(200);
    expect(puts).toEqual([
      ["ws:ws_heal", { id: "ws_heal", version: 2, limits, budget: null, cache_epoch: 0, guardrails: null }],
    ]);
  });

  it("says field by field what is wrong, and stores nothing", async () => {
    const count = () => env.DB.prepare("SELECT count(*) AS n FROM workspaces").first("n");
    const before = await count();
    const wrong = await make({ id: "a:b", limits: { max_request_bytes: 1 }, budget: { usd: 0, period: "day" } });
    expect(problem(wrong, 400, "invalid_request_error").split("; ").sort()).toEqual([
      "budget.usd: must be a number above 0, up to 10000000, with at most 6 decimals",
      "id: must be 1 to 64 letters, digits, _ or -",
      "limits.max_request_bytes: unknown field",
    ]);
    expect(message(await make({ limits: { output_tokens_burst: 1 } }))).toBe(
      "limits.output_tokens_burst: needs limits.output_tokens_per_minute beside it",
    );
    expect(message(await call("workspaces", { json: [] }))).toBe("the request body must be a JSON object");
    expect(await count()).toBe(before);
  });

  it("Q-01 keeps SQL as the text it is", async () => {
    for (const name of ["' OR 1=1--", '"; DROP TABLE workspaces;--']) {
      const { body } = await make({ name, metadata: { [name]: name } });
      expect((await patch(body.id, { name: `${name}2` })).body).toMatchObject({
        name: `${name}2`,
        metadata: { [name]: name },
      });
    }
  });
});

describe("GET /admin/workspaces", () => {
  const list = async (query: string) => (await call(`workspaces?${query}`)).body;

  it("pages through every workspace once, newest first, whatever the size of the pages (12 runs)", async () => {
    // Ids that do not sort by time, and several of the same millisecond.
    const later = Date.now() + 1_000_000;
    const ids: string[] = [];
    for (let i = 0; i < 23; i++) {
      const at = later + Math.floor(i / 3);
      const id = `page-${(i * 7) % 23}`.padEnd(10, "x");
      const record: WorkspaceRecord = {
        ...{ id, version: 1, name: "n", limits: {}, budget: null, metadata: {}, cache_epoch: 0, guardrails: null },
        ...{ created_at: at, updated_at: at },
      };
      expect(await insertWorkspace(env.DB, record, SOME_CHANGE)).toBe(true);
      ids.push(`${at}/${id}`);
    }
    const expected = ids
      .sort()
      .reverse()
      .map((id) => id.split("/")[1]);
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 25 }), async (limit) => {
        const seen: string[] = [];
        let cursor = "";
        do {
          const body = await list(`limit=${limit}${cursor && `&cursor=${cursor}`}`);
          expect(body.data.length).toBeLessThanOrEqual(limit);
          expect(body.has_more).toBe(body.next_cursor !== null);
          seen.push(...body.data.map((workspace: { id: string }) => workspace.id));
          cursor = body.next_cursor ?? "";
        } while (cursor);
        expect(seen.slice(0, 23)).toEqual(expected);
        expect(new Set(seen).size).toBe(seen.length);
        expect(seen.length).toBe(await env.DB.prepare("SELECT count(*) AS n FROM workspaces").first("n"));
      }),
      { numRuns: 12, examples: [[1], [23], [22], [24]] },
    );
    expect((await list("limit=1")).data[0]).toEqual((await call(`workspaces/${expected[0]}`)).body);
  });

  it.each([
    ["limit=0", "limit"],
    ["limit=501", "limit"],
    ["cursor=x' OR 1=1--", "cursor"],
    ["workspace=x", "workspace"],
    ["sort=id;--", "sort"],
  ])("Q-02 refuses ?%s", async (query, name) => {
    expect(problem(await call(`workspaces?${query}`), 400, "invalid_request_error")).toMatch(new RegExp(`^${name}: `));
  });
});

describe("PATCH /admin/workspaces/:id", () => {
  it("changes what is given, merges limits, replaces budget and metadata, and is in force at once", async () => {
    const { body: made } = await make({
      limits: { requests_per_minute: 10, requests_burst: 5 },
      budget: { usd: 1, period: "day", mode: "soft" },
      metadata: { a: "1" },
    });
    const { puts, env: bindings } = ledgers();
    const changes = {
      name: "new",
      limits: { requests_per_minute: 20, requests_burst: null, concurrent_requests: 3 },
      budget: { usd: 0.1, period: "total" },
      metadata: { b: "2" },
    };
    const { body } = await patch(made.id, changes, { env: bindings });
    const limits = { requests_per_minute: 20, concurrent_requests: 3 };
    const budget = { micro_usd: 100_000, period: "total", mode: "strict" };
    expect(body).toEqual({
      ...made,
      name: "new",
      limits,
      budget: { usd: 0.1, ...budget },
      metadata: { b: "2" },
      version: 2,
      updated_at: body.updated_at,
    });
    expect((await call(`workspaces/${made.id}`)).body).toEqual(body);
    expect(puts).toEqual([
      [`ws:${made.id}`, { id: made.id, version: 2, limits, budget, cache_epoch: 0, guardrails: null }],
    ]);
    expect((await patch(made.id, { name: "newer" })).body).toMatchObject({ limits, budget, version: 3 });
    expect((await patch(made.id, { budget: null })).body).toMatchObject({ limits, budget: null, version: 4 });
    expect(await loadWorkspaceRules(env.DB, made.id)).toEqual({
      id: made.id,
      version: 4,
      limits,
      budget: null,
      cache_epoch: 0,
      guardrails: null,
    });
  });

  it("A-05 lets no key loosen what binds its own workspace, and tighten it", async () => {
    const bounds = {
      limits: { requests_per_minute: 10 },
      budget: { usd: 1, period: "day" },
      guardrails: { redact: ["EMAIL"], allow_tools: ["calc"] },
    };
    const { body: made } = await make(bounds);
    const { key } = await makeKey({ workspace: made.id, scopes: ["admin:write"] });
    for (const [loose, field] of [
      [{ guardrails: null }, "guardrails"],
      [{ guardrails: { ...bounds.guardrails, mode: "audit" } }, "guardrails"],
      [{ guardrails: { redact: ["EMAIL"] } }, "guardrails"],
      [{ limits: { requests_per_minute: null } }, "limits.requests_per_minute"],
      [{ limits: { requests_per_minute: 11 } }, "limits.requests_per_minute"],
      [{ budget: null }, "budget"],
      [{ name: "mine", budget: { usd: 2, period: "day" } }, "budget"],
    ] as const) {
      const refused = await call(`workspaces/${made.id}`, { method: "PATCH", json: loose, as: key });
      expect(problem(refused, 403, "permission_error")).toContain(`grant this. ${field}: yours`);
    }
    expect((await call(`workspaces/${made.id}`)).body).toEqual(made);
    const tighter = {
      name: "mine",
      limits: { requests_per_minute: 9, concurrent_requests: 1 },
      guardrails: { redact: ["EMAIL", "IP"], allow_tools: [] },
    };
    const { status } = await call(`workspaces/${made.id}`, { method: "PATCH", json: tighter, as: key });
    expect(status).toBe(200);
    expect((await patch(made.id, { guardrails: null, limits: { requests_per_minute: 100 } })).status).toBe(200);
  });

  it("A-01..05 refuses what changes nothing, unknown fields and a lone burst, and leaves the row as it was", async () => {
    const { id } = (await make({ limits: { requests_per_minute: 1, requests_burst: 1 } })).body;
    const admin = await makeKey({ scopes: ["admin"] });
    const plain = await makeKey({ workspace: id });
    const before = await getWorkspace(env.DB, id);
    expect(message(await patch(id, {}))).toBe("the request body changes nothing");
    expect(message(await patch(id, { limits: { requests_per_minute: null } }))).toBe(
      "limits.requests_burst: needs limits.requests_per_minute beside it",
    );
    const names = ["role", "user_role", "is_admin", "allowed_routes", "tenant_id", "created_by", "id", "version"];
    for (const name of names) {
      for (const more of [{}, { as: admin.key }]) {
        expect(message(await patch(id, { name: "n2", [name]: 1 }, more))).toBe(`${name}: unknown field`);
        expect(message(await make({ limits: {}, ...(name === "id" ? { key: 1 } : { [name]: 1 }) }, more))).toContain(
          "unknown field",
        );
      }
    }
    // A key can't lift what it shares with others.
    const lifted = await patch(id, { budget: null, limits: { requests_per_minute: 1_000 } }, { as: plain.key });
    problem(lifted, 403, "permission_error");
    expect(await getWorkspace(env.DB, id)).toEqual(before);
    expect((await patch(id, { name: "n2" }, { as: admin.key })).status).toBe(200);
  });

  it("loses no change of two that are made at once", async () => {
    const { id } = (await make({})).body;
    const answers = await Promise.all(Array.from({ length: 6 }, (_, i) => patch(id, { metadata: { i: `${i}` } })));
    const won = answers.filter((answer) => answer.status === 200);
    for (const lost of answers.filter((answer) => answer.status !== 200)) {
      expect(problem(lost, 409, "conflict_error")).toContain("The workspace was changed by somebody else");
    }
    expect((await getWorkspace(env.DB, id))?.version).toBe(1 + won.length);
  });

  it("heals: what is stored but not enforced is enforced by the repeated call", async () => {
    const { id } = (await make({})).body;
    const json = { limits: { requests_per_minute: 7 } };
    const down = ledgers({ putPolicy: 99 });
    expect(problem(await patch(id, json, { env: down.env }), 503, "api_error")).toContain(
      "The change is stored but not yet enforced. Repeat the call: the workspace's ledger is unavailable",
    );
    expect(down.puts).toEqual([]);
    expect((await getWorkspace(env.DB, id))?.limits).toEqual(json.limits);
    const flaky = ledgers({ putPolicy: 2 });
    expect((await patch(id, json, { env: flaky.env })).body).toMatchObject({ version: 3, ...json });
    expect(flaky.puts).toEqual([
      [`ws:${id}`, { id, version: 3, limits: json.limits, budget: null, cache_epoch: 0, guardrails: null }],
    ]);
  });

  it("L-01 says what holds when D1 fails, and not what D1 said", async () => {
    const { id } = (await make({})).body;
    const { env: writesFail } = database((sql) => sql.startsWith("UPDATE"));
    expect(problem(await patch(id, { name: "n2" }, { env: writesFail }), 503, "api_error")).toBe(
      "The change may be stored but is not yet enforced. Repeat the call: the database is unavailable at the moment.",
    );
    const { env: allFails } = database(() => true);
    for (const answer of [
      await patch(id, { name: "n2" }, { env: allFails }),
      await call("workspaces", { env: allFails }),
      await call(`workspaces/${id}`, { env: allFails }),
    ]) {
      expect(problem(answer, 503, "api_error")).toBe("The database is unavailable at the moment.");
      expect(answer.text).not.toMatch(/D1_ERROR|SELECT/);
    }
    const made = await make({ id: "ws_d1_away" }, { env: allFails });
    expect(problem(made, 503, "api_error")).toBe(
      "The workspace may be stored. Repeat the call, and after a 409 PATCH its limits and budget: the database is unavailable at the moment.",
    );
    expect(await getWorkspace(env.DB, "ws_d1_away")).toBeNull();
  });

  it("gets over a table that is away, for real", async () => {
    const { id } = (await make({ limits: { requests_per_minute: 1 } })).body;
    await env.DB.exec("ALTER TABLE workspaces RENAME TO workspaces_away");
    try {
      for (const answer of [
        await call(`workspaces/${id}`),
        await call("workspaces"),
        await make({ id: "ws_meanwhile" }),
        await patch(id, { limits: { requests_per_minute: 9 } }),
      ]) {
        problem(answer, 503, "api_error");
      }
    } finally {
      await env.DB.exec("ALTER TABLE workspaces_away RENAME TO workspaces");
    }
    expect((await call(`workspaces/${id}`)).body).toMatchObject({ version: 1, limits: { requests_per_minute: 1 } });
    problem(await call("workspaces/ws_meanwhile"), 404, "not_found_error");
  });
});

describe("POST /admin/workspaces/:id/cache/purge", () => {
  const purge = (id: string, more = {}) => call(`workspaces/${id}/cache/purge`, { method: "POST", ...more });

  it("C-02 counts up, and is in force at once; the record's other fields stay as they are", async () => {
    const { body: made } = await make({ limits: { requests_per_minute: 5 }, metadata: { a: "1" } });
    const { puts, env: bindings } = ledgers();
    const first = await purge(made.id, { env: bindings });
    expect([first.status, first.body]).toEqual([200, { workspace: made.id, cache_epoch: 1 }]);
    expect((await purge(made.id, { env: bindings })).body).toEqual({ workspace: made.id, cache_epoch: 2 });
    const rules = { id: made.id, limits: { requests_per_minute: 5 }, budget: null };
    expect(puts).toEqual([
      [`ws:${made.id}`, { ...rules, version: 2, cache_epoch: 1, guardrails: null }],
      [`ws:${made.id}`, { ...rules, version: 3, cache_epoch: 2, guardrails: null }],
    ]);
    const { body } = await call(`workspaces/${made.id}`);
    expect(body).toEqual({ ...made, version: 3, cache_epoch: 2, updated_at: body.updated_at });
    // Neither a change nor a purge takes the other back.
    expect((await patch(made.id, { name: "n2" })).body).toMatchObject({ name: "n2", version: 4, cache_epoch: 2 });
    expect((await purge(made.id)).body).toEqual({ workspace: made.id, cache_epoch: 3 });
  });

  it("makes a workspace that keys merely name, without limits", async () => {
    const { body } = await purge("ws_purged_first");
    expect(body).toEqual({ workspace: "ws_purged_first", cache_epoch: 1 });
    const nothing = { limits: {}, budget: null, metadata: {} };
    expect((await call("workspaces/ws_purged_first")).body).toMatchObject({
      ...{ id: "ws_purged_first", name: "ws_purged_first", version: 1, cache_epoch: 1, guardrails: null },
      ...nothing,
    });
    problem(await make({ id: "ws_purged_first" }), 409, "conflict_error");
  });

  it("counts each of many at once", async () => {
    const answers = await Promise.all(Array.from({ length: 6 }, () => purge("ws_purged_often")));
    expect(answers.map((answer) => answer.body.cache_epoch).sort()).toEqual([1, 2, 3, 4, 5, 6]);
    expect(await loadWorkspaceRules(env.DB, "ws_purged_often")).toMatchObject({ version: 6, cache_epoch: 6 });
  });

  it("says when it is stored but not in force, and the repeated call completes it", async () => {
    const down = ledgers({ putPolicy: 99 });
    expect(problem(await purge("ws_purge_heal", { env: down.env }), 503, "api_error")).toBe(
      "The purge is stored but not yet in force. Repeat the call: the workspace's ledger is unavailable at the moment.",
    );
    const { puts, env: bindings } = ledgers();
    expect((await purge("ws_purge_heal", { env: bindings })).body.cache_epoch).toBe(2);
    expect(puts.map(([, rules]) => rules.cache_epoch)).toEqual([2]);
    const { env: away } = database(() => true);
    expect(problem(await purge("ws_purge_heal", { env: away }), 503, "api_error")).toBe(
      "The cache may not be purged. Repeat the call: the database is unavailable at the moment.",
    );
  });

  it("is for administrators, and for ids that can be one", async () => {
    const plain = await makeKey();
    problem(await purge("ws_default", { as: plain.key }), 403, "permission_error");
    for (const id of ["a%2Fb", "k".repeat(65), "%27%20OR%201=1--"]) problem(await purge(id), 404, "not_found_error");
  });
});

describe("other ways", () => {
  it("knows no workspace by a wrong or malformed id", async () => {
    for (const id of ["ws_none", "%27%20OR%201=1--", "a%2Fb", "k".repeat(65), "__proto__"]) {
      problem(await call(`workspaces/${id}`), 404, "not_found_error");
      problem(await patch(id, { name: "n" }), 404, "not_found_error");
    }
  });

  it("deletes none: keys and audit rows name it", async () => {
    const { id } = (await make({})).body;
    const answer = await call(`workspaces/${id}`, { method: "DELETE" });
    problem(answer, 405, "invalid_request_error");
    expect(answer.headers.get("allow")).toBe("GET, HEAD, PATCH");
    expect((await call(`workspaces/${id}`)).status).toBe(200);
  });
});
