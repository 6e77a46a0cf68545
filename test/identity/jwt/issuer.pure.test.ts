import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { JsonObject } from "../../../src/identity/jwt/form.ts";
import {
  type Condition,
  claimAt,
  expectedOf,
  isMarkOf,
  type Mapping,
  mapClaims,
  markOf,
} from "../../../src/identity/jwt/issuer.ts";
import { ACCESS, GITHUB, issuerRecord, KEY, OIDC, OTHER_KEY } from "./providers.ts";

const claimsOf = (all: JsonObject) => ({
  issuer: "",
  subject: typeof all.sub === "string" ? all.sub : null,
  issuedAt: 0,
  expiresAt: 0,
  all,
});
const map = (all: JsonObject, mappings: readonly Mapping[], blocked: readonly string[] = []) => {
  const mapped = mapClaims(issuerRecord({ mappings, blocked_subjects: blocked }), claimsOf(all));
  return mapped.ok ? mapped.value : mapped.error;
};
const holds = (all: JsonObject, when: Readonly<Record<string, Condition>>) =>
  map(all, [{ when, key: KEY }]) !== "mapping";

describe("mapClaims", () => {
  it.each<[string, JsonObject, Readonly<Record<string, Condition>>, boolean]>([
    ["Access: a domain's people", ACCESS.user, { email: "ada@*" }, true],
    ["Access: one person or another", ACCESS.user, { email: ["bob@example.com", "ada@example.com"] }, true],
    ["Access: nobody else", ACCESS.user, { email: "ada@example.co" }, false],
    ["Access: another case", ACCESS.user, { email: "Ada@example.com" }, false],
    ["Access: a group", ACCESS.user, { "custom.groups": "on-call" }, true],
    ["Access: a service", ACCESS.service, { common_name: "e367826f93b8d71185e03fe518aff3b4.access" }, true],
    ["Access: a service has no mail", ACCESS.service, { email: "*" }, false],
    [
      "GitHub: a branch of a repository",
      GITHUB.claims,
      { repository: "octo-org/octo-repo", ref: "refs/heads/*" },
      true,
    ],
    ["GitHub: its subject", GITHUB.claims, { sub: "repo:octo-org/octo-repo:ref:refs/heads/main" }, true],
    ["GitHub: all of an owner's", GITHUB.claims, { repository: "octo-org/*", ref_protected: "true" }, true],
    ["GitHub: a name that only begins so", GITHUB.claims, { repository: "octo-org/octo" }, false],
    [
      "GitHub: one of two does not hold",
      GITHUB.claims,
      { repository: "octo-org/*", event_name: "pull_request" },
      false,
    ],
    ["OIDC: a role", OIDC.claims, { "realm_access.roles": "ai-admin" }, true],
    ["OIDC: one of many roles", OIDC.claims, { "realm_access.roles": ["x", "offline_*"] }, true],
    ["OIDC: deeper", OIDC.claims, { "resource_access.account.roles": "view-profile" }, true],
    ["OIDC: a claim named like a URL", OIDC.claims, { "https://example.com/roles": "writer" }, true],
    ["OIDC: true", OIDC.claims, { email_verified: "true" }, true],
    ["OIDC: not false", OIDC.claims, { email_verified: "false" }, false],
    ["OIDC: a number", OIDC.claims, { level: "3" }, true],
    ["OIDC: scope is one text", OIDC.claims, { scope: "email" }, false],
    ["OIDC: an object is no text", OIDC.claims, { realm_access: "*" }, false],
    ["OIDC: a claim that is not there", OIDC.claims, { nickname: "*" }, false],
    ["nothing of a prototype", OIDC.claims, { "constructor.name": "*", toString: "*" }, false],
    ["a list without patterns", OIDC.claims, { azp: [] }, false],
    ["no condition at all", OIDC.claims, {}, true],
    ["null", { a: null }, { a: "*" }, false],
    ["a list in a list", { a: [["x"]] }, { a: "x" }, false],
    ["an empty text", { a: "" }, { a: "" }, true],
  ])("%s", (_, claims, when, expected) => {
    expect(holds(claims, when)).toBe(expected);
  });

  it("takes the first mapping that holds, with what it narrows", () => {
    const mappings: readonly Mapping[] = [
      { when: { ref: "refs/tags/*" }, key: KEY, admin: "write" },
      { when: { ref: "refs/heads/main" }, key: OTHER_KEY, scopes: ["messages"], models: ["claude-haiku-*"] },
      { when: {}, key: KEY, admin: "read" },
    ];
    expect(map(GITHUB.claims, mappings)).toEqual({
      key: OTHER_KEY,
      scopes: ["messages"],
      models: ["claude-haiku-*"],
      admin: null,
      nth: 1,
    });
    const rest = { scopes: null, models: null };
    expect(map({ ref: "refs/heads/x" }, mappings)).toEqual({ key: KEY, admin: "read", nth: 2, ...rest });
    expect(map({ ref: "refs/tags/v1" }, mappings)).toEqual({ key: KEY, admin: "write", nth: 0, ...rest });
    expect(map({ ref: "refs/heads/x" }, mappings.slice(0, 2))).toBe("mapping");
    expect(map(GITHUB.claims, [])).toBe("mapping");
  });

  it("J-22 marks a decision by all that it stands on, and by nothing else", async () => {
    const mappings: readonly Mapping[] = [
      { when: { a: "b" }, key: KEY },
      { when: {}, key: KEY },
      { when: {}, key: KEY },
    ];
    const mark = await markOf(issuerRecord({ mappings }), 1);
    const same = [{ name: "another" }, { blocked_subjects: ["x"] }, { version: 9 }, { state: "disabled" as const }];
    for (const changes of [...same, { mappings: mappings.slice(0, 2) }]) {
      expect([changes, await isMarkOf(issuerRecord({ mappings, ...changes }), mark)]).toEqual([changes, true]);
    }
    for (const changes of [
      { id: "iss_2" },
      { audiences: ["x"] },
      { jwks_url: "https://id.example.com/other" },
      { typ: "at+jwt" },
      { mappings: mappings.slice(0, 1) },
      { mappings: mappings.with(0, { when: { a: "c" }, key: KEY }) },
      { mappings: mappings.with(1, { when: {}, key: KEY, admin: "read" as const }) },
      { jwks_url: null, sealed_secret: { master: "1", iv: "a", data: "b" } },
    ]) {
      expect([changes, await isMarkOf(issuerRecord({ mappings, ...changes }), mark)]).toEqual([changes, false]);
    }
    expect(await isMarkOf(issuerRecord({ mappings }), "")).toBe(false);
  });

  it("J-22 refuses a blocked subject whatever the mappings say", () => {
    const mappings = [{ when: {}, key: KEY }];
    expect(map(ACCESS.user, mappings, [ACCESS.user.sub])).toBe("subject");
    expect(map(ACCESS.user, mappings, [ACCESS.user.sub.toUpperCase(), "other", ""])).toMatchObject({ key: KEY });
    expect(map(ACCESS.service, mappings, [""])).toBe("subject");
    expect(map({}, mappings, [""])).toMatchObject({ key: KEY });
  });

  it("is total: it maps or refuses whatever claims hold", () => {
    const path = fc.stringMatching(/^[ab.]{0,6}$/);
    fc.assert(
      fc.property(fc.dictionary(path, fc.jsonValue()), path, fc.string(), (claims, at, pattern) => {
        const all: JsonObject = JSON.parse(JSON.stringify(claims));
        expect(["object", "string"]).toContain(typeof map(all, [{ when: { [at]: pattern }, key: KEY }]));
      }),
    );
  });
});

describe("claimAt", () => {
  it("reads names with dots and paths alike, and nothing that could be read in two ways", () => {
    expect(claimAt({ a: { b: 1 } }, "a.b")).toBe(1);
    expect(claimAt({ "a.b": 1 }, "a.b")).toBe(1);
    expect(claimAt({ "a.b": { c: 1 } }, "a.b.c")).toBe(1);
    expect(claimAt({ a: { "b.c": 1 } }, "a.b.c")).toBe(1);
    expect(claimAt({ a: { b: 1 }, "a.b": 2 }, "a.b")).toBeUndefined();
    expect(claimAt({ a: { "b.c": 1 }, "a.b": { c: 1 } }, "a.b.c")).toBeUndefined();
    expect(claimAt({ a: [{ b: 1 }] }, "a.b")).toBeUndefined();
    expect(claimAt({ "": { "": 1 } }, ".")).toBe(1);
  });
});

describe("expectedOf", () => {
  it("takes HS256 with a shared secret alone, and then nothing else", () => {
    expect(expectedOf(issuerRecord()).algorithms).toEqual(["RS256", "ES256"]);
    expect(expectedOf(issuerRecord({ jwks_url: null })).algorithms).toEqual(["HS256"]);
    expect(expectedOf(issuerRecord()).types).toEqual(["jwt", null]);
    expect(expectedOf(issuerRecord({ typ: "AT+jwt" })).types).toEqual(["at+jwt"]);
  });
});
