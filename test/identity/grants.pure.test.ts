/** Grants and their grantors. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Guardrails } from "../../src/guardrails/policy.ts";
import { beyondGrantor, type Grant } from "../../src/identity/grants.ts";
import { type KeyPolicy, mayUseModel } from "../../src/identity/key-record.ts";
import { holds, neededFor, SCOPES } from "../../src/identity/scopes.ts";

const policy = (fields: Partial<KeyPolicy> = {}): KeyPolicy =>
  ({
    workspace: "ws_a",
    scopes: ["messages", "admin"],
    models: null,
    limits: {},
    budget: null,
    expires_at: null,
    guardrails: null,
    fail_open: false,
    on_revoke: "finish",
    ...fields,
  }) as KeyPolicy;
const usd = (micro_usd: number, period: "day" | "month" | "total" = "month", mode: "strict" | "soft" = "strict") => ({
  micro_usd,
  period,
  mode,
});

describe("K-12 a grant beyond its grantor", () => {
  it.each<[Partial<KeyPolicy>, Grant, string]>([
    [{}, { scopes: ["messages", "files"] }, "scopes: yours lack files"],
    [{ scopes: ["admin:write"] }, { scopes: ["admin:read"] }, "scopes: yours lack admin:read"],
    [{}, { workspace: "ws_b" }, "workspace: yours is ws_a"],
    [{ models: ["claude-haiku-*"] }, { models: null }, "models: yours are claude-haiku-*"],
    [{ models: ["claude-haiku-*"] }, { models: ["claude-*"] }, "models: yours are claude-haiku-*"],
    [{ limits: { requests_per_minute: 5 } }, { limits: {} }, "limits.requests_per_minute: yours is 5"],
    [
      { limits: { max_request_bytes: 5 } },
      { limits: { max_request_bytes: 6 } },
      "limits.max_request_bytes: yours is 5",
    ],
    [{ budget: usd(1_000_000) }, { budget: null }, "budget: yours is 1 USD a month"],
    [{ budget: usd(1_000_000) }, { budget: usd(1_000_001) }, "budget: yours is 1 USD a month"],
    [{ budget: usd(1_000_000) }, { budget: usd(1_000_000, "day") }, "budget: yours is 1 USD a month"],
    [{ budget: usd(1_000_000) }, { budget: usd(1, "month", "soft") }, "budget: yours is 1 USD a month"],
    // A bucket without a burst holds a minute's worth.
    [
      { limits: { requests_per_minute: 5 } },
      { limits: { requests_per_minute: 5, requests_burst: 6 } },
      "limits.requests_burst: yours is 5",
    ],
    [
      { limits: { input_tokens_per_minute: 5, input_tokens_burst: 2 } },
      { limits: { input_tokens_per_minute: 5 } },
      "limits.input_tokens_burst: yours is 2",
    ],
    [{}, { fail_open: true }, "fail_open: yours is false"],
    [{ on_revoke: "cut" }, { on_revoke: "finish" }, "on_revoke: yours is cut"],
    [{ expires_at: 5 }, { expires_at: null }, "expires_at: yours is earlier"],
    [{ expires_at: 5 }, { expires_at: 6 }, "expires_at: yours is earlier"],
  ])("%j grants not %j", (grantor, grant, problem) => {
    expect(beyondGrantor(policy(grantor), grant)).toEqual([problem]);
  });

  it.each<[Partial<KeyPolicy>, Grant]>([
    [{}, { scopes: ["messages", "admin:read", "admin:write", "metrics", "admin"], workspace: "ws_a", models: null }],
    [{ scopes: ["admin:read", "admin:write"] }, { scopes: ["admin"] }],
    [{ models: ["claude-haiku-*"] }, { models: ["claude-haiku-5-5", "claude-haiku-5*"] }],
    [{ limits: { requests_per_minute: 5 } }, { limits: { requests_per_minute: 5, concurrent_requests: 9 } }],
    [{ budget: usd(1_000_000, "month", "soft") }, { budget: usd(1_000_000, "total") }],
    [{ limits: { requests_per_minute: 5, requests_burst: 9 } }, { limits: { requests_per_minute: 5 } }],
    [{ fail_open: true }, { fail_open: true, on_revoke: "finish" }],
    [{ expires_at: 5 }, { expires_at: 5 }],
    [{ models: ["x"], expires_at: 5, budget: usd(1), limits: { requests_burst: 1 } }, {}],
  ])("%j may grant %j", (grantor, grant) => {
    expect(beyondGrantor(policy(grantor), grant)).toEqual([]);
  });

  it("gives no model and no scope that the grantor has not", () => {
    const pattern = fc.constantFrom("a", "ab", "abc", "a*", "ab*", "b*", "*");
    const patterns = fc.option(fc.uniqueArray(pattern), { nil: null });
    const scopes = fc.subarray([...SCOPES]);
    fc.assert(
      fc.property(patterns, patterns, scopes, scopes, (own, models, ownScopes, given) => {
        const grantor = policy({ models: own, scopes: ownScopes });
        const problems = beyondGrantor(grantor, { models, scopes: given });
        const grantee = policy({ models, scopes: given });
        if (problems.length > 0) return;
        for (const model of ["a", "ab", "abc", "abd", "b", "c", ""]) {
          expect(mayUseModel(grantee, model) && !mayUseModel(grantor, model)).toBe(false);
        }
        for (const scope of SCOPES) expect(holds(given, scope) && !holds(ownScopes, scope)).toBe(false);
      }),
    );
  });
});

describe("guardrails", () => {
  it("are granted as strict as one's own, or stricter", () => {
    const own = { redact: ["EMAIL"], max_input_chars: 100 } as const;
    const grantor = policy({ guardrails: own });
    const beyond = (guardrails: Guardrails | null) => beyondGrantor(grantor, { guardrails });
    expect(beyond(own)).toEqual([]);
    expect(beyond({ ...own, block: ["EMAIL", "IP"], max_input_chars: 99 })).toEqual([]);
    for (const weaker of [null, {}, { ...own, mode: "audit" }, { ...own, max_input_chars: 101 }] as const) {
      expect(beyond(weaker)).toEqual(["guardrails: yours are stricter"]);
    }
    expect(beyondGrantor(policy({}), { guardrails: null })).toEqual([]);
  });
});

describe("scopes", () => {
  it("admin is reading and writing, templates too, and nothing of the data plane", () => {
    expect(SCOPES.filter((scope) => holds(["admin"], scope))).toEqual([
      "templates:write",
      "metrics",
      "admin",
      "admin:read",
      "admin:write",
    ]);
    expect(SCOPES.filter((scope) => holds(["admin:read"], scope))).toEqual(["metrics", "admin:read"]);
    expect(SCOPES.filter((scope) => holds(["admin:write"], scope))).toEqual(["templates:write", "admin:write"]);
  });

  it("a method that reads needs the right to read, any other one to write", () => {
    expect(
      ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "anything"].map((method) => neededFor(method, "admin")),
    ).toEqual(["admin:read", "admin:read", ...Array.from({ length: 5 }, () => "admin:write")]);
    expect(neededFor("GET", "files")).toBe("files");
  });
});
