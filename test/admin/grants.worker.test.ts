/** Nobody grants what they do not hold, whatever a key with `admin:write` sends: told by what a key can do in the end. */
import { env } from "cloudflare:workers";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type KeyLimits, type KeyPolicy, type KeyRecord, mayUseModel } from "../../src/identity/key-record.ts";
import { getKey } from "../../src/identity/key-store.ts";
import { holds, SCOPES } from "../../src/identity/scopes.ts";
import { getWorkspace } from "../../src/identity/workspace-store.ts";
import { newId } from "../../src/wire/ids.ts";
import { type Answer, call, makeKey, problem } from "./control-plane.ts";

const SOON = "2999-01-01T00:00:00.000Z";
const LATER = "2999-01-02T00:00:00.000Z";

const limit = fc.constantFrom(1, 5, 9);
/** Fields of a key as an administrator sends them. */
const fields = fc.record(
  {
    scopes: fc.subarray(["messages", "files", "admin", "admin:read", "admin:write", "metrics"] as const, {
      minLength: 1,
    }),
    models: fc.option(fc.uniqueArray(fc.constantFrom("a", "ab", "a*", "b*"), { minLength: 1 }), { nil: null }),
    limits: fc.record(
      { requests_per_minute: limit, concurrent_requests: limit, max_request_bytes: limit },
      { requiredKeys: [] },
    ),
    budget: fc.option(
      fc.record({
        usd: limit,
        period: fc.constantFrom("day", "month", "total"),
        mode: fc.constantFrom("strict", "soft"),
      }),
      { nil: null },
    ),
    expires_at: fc.constantFrom(null, SOON, LATER),
    guardrails: fc.constantFrom(null, { redact: ["EMAIL"] }, { redact: ["EMAIL", "IP"], max_input_chars: 9 }),
    fail_open: fc.boolean(),
    on_revoke: fc.constantFrom("finish", "cut"),
  },
  { requiredKeys: [] },
);
/** In a change null takes a limit away, and a burst may come alone. */
const changes = fc
  .tuple(
    fields,
    fc.record(
      {
        requests_per_minute: fc.option(limit, { nil: null }),
        requests_burst: fc.option(limit, { nil: null }),
        concurrent_requests: fc.option(limit, { nil: null }),
      },
      { requiredKeys: [] },
    ),
    fc.record({ name: fc.constant("renamed"), aliases: fc.constant({ mine: "opus" }) }),
  )
  .map(([rights, limits, beside]) => ({ ...rights, limits, ...beside }));

const bucket = ({ requests_per_minute: perMinute, requests_burst: burst }: KeyLimits) =>
  [perMinute ?? Infinity, burst ?? perMinute ?? Infinity] as const;
const PER_YEAR = { day: 366, week: 53, month: 12, total: 1 };

/** What a key can do that another can't, found out without the code that decides; empty: nothing. */
function more(than: KeyPolicy, key: KeyPolicy): string[] {
  const models = ["a", "ab", "abc", "b", "c"];
  const found: [string, boolean][] = [
    ["workspace", key.workspace !== than.workspace],
    ["scopes", SCOPES.some((scope) => holds(key.scopes, scope) && !holds(than.scopes, scope))],
    ["models", models.some((model) => mayUseModel(key, model) && !mayUseModel(than, model))],
    ["rate", bucket(key.limits).some((most, i) => most > (bucket(than.limits)[i] ?? 0))],
    ["concurrency", (key.limits.concurrent_requests ?? Infinity) > (than.limits.concurrent_requests ?? Infinity)],
    ["bytes", (key.limits.max_request_bytes ?? Infinity) > (than.limits.max_request_bytes ?? Infinity)],
    ["time", (key.expires_at ?? Infinity) > (than.expires_at ?? Infinity)],
    ["guardrails", (than.guardrails?.redact ?? []).some((type) => !key.guardrails?.redact?.includes(type))],
    ["input", (key.guardrails?.max_input_chars ?? Infinity) > (than.guardrails?.max_input_chars ?? Infinity)],
    ["fail_open", key.fail_open && !than.fail_open],
    ["on_revoke", key.on_revoke === "finish" && than.on_revoke === "cut"],
  ];
  if (than.budget) {
    const own = than.budget;
    const { budget } = key;
    found.push(["money at once", !budget || budget.micro_usd > own.micro_usd]);
    const yearly = budget ? budget.micro_usd * PER_YEAR[budget.period] : Infinity;
    found.push(["money", yearly > own.micro_usd * PER_YEAR[own.period]]);
    found.push(["mode", own.mode === "strict" && budget?.mode !== "strict"]);
  }
  return found.flatMap(([name, is]) => (is ? [name] : []));
}

async function record(id: string): Promise<KeyRecord> {
  const found = await getKey(env.DB, id);
  if (!found) throw new Error("no such key");
  return found;
}

const firstOf = (object: object) => Object.fromEntries(Object.entries(object).slice(-1));

const refused = (answer: Answer) => expect(problem(answer, 403, "permission_error")).toContain("can't grant this");

describe("K-12 what a key makes of keys", () => {
  it("is never more than the key itself or than was there, and a refusal leaves the row (40 runs)", async () => {
    const seen = { made: 0, changed: 0, rotated: 0, refused: 0 };
    const run = async (own: object, others: object, change: object, near: boolean, elsewhere: boolean) => {
      // Most keys that have nothing in common may do nothing to each other: here they differ in one field.
      const of = { scopes: ["messages"], ...(near ? { ...own, ...firstOf(others) } : others) };
      const scopes = [...((own as { scopes?: string[] }).scopes ?? ["messages"]), "admin:write"];
      const grantor = await makeKey({ ...own, scopes: [...new Set(scopes)] });
      const bounds = await record(grantor.id);

      const made = await call("keys", { json: { name: "n", ...of }, as: grantor.key });
      if (made.status === 201) {
        seen.made++;
        expect(more(bounds, await record(made.body.id))).toEqual([]);
      } else refused(made);

      const workspace = elsewhere ? { workspace: "ws_elsewhere" } : {};
      const target = await makeKey({ ...of, ...workspace });
      const before = await record(target.id);
      for (const [path, json] of [
        [`keys/${target.id}`, change],
        [`keys/${target.id}/rotate`, {}],
        [`keys/${grantor.id}`, change],
      ] as const) {
        const was = await record(path.split("/")[1] ?? "");
        const method = path.endsWith("rotate") ? "POST" : "PATCH";
        const answer = await call(path, { method, json, as: grantor.key });
        const is = await record(was.id);
        if (answer.status !== 200) {
          seen.refused++;
          // A burst that stays without its limit is no key at all.
          if (answer.status !== 400) refused(answer);
          expect(is).toEqual(was);
        } else if (method === "POST") {
          seen.rotated++;
          expect(more(bounds, is)).toEqual([]);
        } else {
          seen.changed++;
          if (more(was, is).length > 0) expect(more(bounds, is)).toEqual([]);
          if (is.workspace !== bounds.workspace) expect([more(was, is), more(is, was)]).toEqual([[], []]);
        }
      }
      expect(before.workspace).toBe((await record(target.id)).workspace);
    };
    // Chance alone may leave out one of the ways to end.
    const renamed = { name: "renamed", aliases: { mine: "opus" }, limits: {} };
    await fc.assert(fc.asyncProperty(fields, fields, changes, fc.boolean(), fc.boolean(), run), {
      numRuns: 40,
      examples: [
        [{}, {}, renamed, false, false],
        [{}, { scopes: ["files"] }, renamed, false, false],
      ],
    });
    for (const often of Object.values(seen)) expect(often).toBeGreaterThan(0);
  });

  it("is not two halves of more: a scope here, all models there", async () => {
    const own = await makeKey({ scopes: ["messages", "admin:write"], models: ["a"] });
    const { id } = await makeKey({ scopes: ["files"] });
    const before = await record(id);
    const answer = await call(`keys/${id}`, { method: "PATCH", json: { scopes: ["messages"] }, as: own.key });
    expect(problem(answer, 403, "permission_error")).toContain("models: yours are a");
    expect(await record(id)).toEqual(before);
  });

  it("is nothing that outlives a token of ours", async () => {
    const { key } = await makeKey({ scopes: ["messages", "admin:write"] });
    const traded = await call("../v1/token", {
      as: key,
      json: { scopes: ["messages", "admin:write"], expires_in_seconds: 600 },
    });
    expect(traded.status).toBe(201);
    const as = traded.body.token;
    const json = { name: "n", scopes: ["messages"] };
    expect(problem(await call("keys", { json, as }), 403, "permission_error")).toContain("expires_at");
    const expires_at = new Date(Date.now() + 300_000).toISOString();
    expect((await call("keys", { json: { ...json, expires_at }, as })).status).toBe(201);
  });
});

describe("K-12 what a key makes of workspaces", () => {
  const bounds = { limits: { requests_per_minute: 5 }, budget: { usd: 1, period: "day" } };
  const rules = { ...bounds, guardrails: { redact: ["EMAIL"] } };

  it.each([
    { budget: null },
    { budget: { usd: 1, period: "day", mode: "soft" } },
    { limits: { requests_per_minute: 6 } },
    { limits: { requests_per_minute: null } },
    { limits: { requests_burst: 6 } },
    { guardrails: null },
    { guardrails: { redact: ["EMAIL"], mode: "audit" } },
  ])("is none that lets its own keys do more: %j", async (json) => {
    const { id } = (await call("workspaces", { json: { id: newId("ws", Date.now()), name: "w", ...rules } })).body;
    const { key } = await makeKey({ scopes: ["admin"], workspace: id });
    const before = await getWorkspace(env.DB, id);
    refused(await call(`workspaces/${id}`, { method: "PATCH", json, as: key }));
    expect(await getWorkspace(env.DB, id)).toEqual(before);
    expect((await call(`workspaces/${id}`, { method: "PATCH", json })).status).toBe(200);
  });

  it("is a stricter one, and in another's workspace a name", async () => {
    const { id } = (await call("workspaces", { json: { id: newId("ws", Date.now()), name: "w", ...rules } })).body;
    const [here, elsewhere] = [
      await makeKey({ scopes: ["admin"], workspace: id }),
      await makeKey({ scopes: ["admin"] }),
    ];
    const patch = (json: object, as: string) => call(`workspaces/${id}`, { method: "PATCH", json, as });
    expect((await patch({ limits: { requests_per_minute: 4, concurrent_requests: 1 } }, here.key)).status).toBe(200);
    const closer = await patch({ limits: { requests_per_minute: 3 } }, elsewhere.key);
    expect(problem(closer, 403, "permission_error")).toContain("workspace: yours is ws_default");
    expect((await patch({ name: "renamed" }, elsewhere.key)).status).toBe(200);
  });
});
