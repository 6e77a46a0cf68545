/** `/admin/issuers`: whom an administrator may have us believe, and what is never told of it. */
import { env } from "cloudflare:workers";
import { beforeEach, describe, expect, it, vi } from "vitest";
import { getIssuer, secretPlaceOf } from "../../src/identity/jwt/issuer-store.ts";
import { keepSigningKeys } from "../../src/identity/jwt/keep-signing-keys.ts";
import { loadSigningKeys } from "../../src/identity/jwt/signing-store.ts";
import { open } from "../../src/upstream/sealing.ts";
import { makeSecretKey, signTexts } from "../identity/jwt/made.ts";
import { answered, call, type MadeKey, makeKey, problem } from "./control-plane.ts";

const SECRET = "CANARY-shared-secret-of-32-bytes";
const NEXT = "CANARY-the-next-secret-of-32-bytes";
const JWKS = "https://token.actions.githubusercontent.com/.well-known/jwks";
const MASTER = "master-key-of-the-tests-01234567";
const SECOND = "second-master-key-of-these-tests";
const masters = (...texts: string[]) => texts.map((text, i) => `${texts.length - i}:${btoa(text)}`).join(",");

let key: MadeKey;
const logged: string[] = [];

beforeEach(async () => {
  await env.DB.prepare("DELETE FROM issuers").run();
  await env.DB.prepare("DELETE FROM upstreams").run();
  await env.DB.prepare("DELETE FROM signing_keys").run();
  logged.length = 0;
  answered.length = 0;
  for (const level of ["log", "error"] as const) {
    vi.spyOn(console, level).mockImplementation((line) => {
      logged.push(String(line));
    });
  }
  key = await makeKey();
});

let made = 0;
const good = (fields: Record<string, unknown> = {}): Record<string, unknown> => ({
  name: `issuer ${++made}`,
  issuer: `https://issuer-${made}.example`,
  audiences: ["sluice"],
  secret: SECRET,
  mappings: [{ when: { sub: "user-*" }, key: key.id }],
  ...fields,
});
const withKeySet = (fields: Record<string, unknown> = {}) => good({ jwks_url: JWKS, secret: undefined, ...fields });
const make = async (fields: Record<string, unknown> = {}) => {
  const answer = await call("issuers", { json: good(fields) });
  expect(answer.status).toBe(201);
  return answer.body;
};
const patch = (id: string, json: unknown, as?: string) =>
  call(`issuers/${id}`, { method: "PATCH", json, ...(as ? { as } : {}) });
const mapping = (fields: Record<string, unknown>) => ({ mappings: [{ when: {}, key: key.id, ...fields }] });
const many = (count: number) => Array.from({ length: count }, (_, i) => `n${i}`);

/** A token of the issuer's that the tests share a secret with. */
async function token(issuer: string, claims: Record<string, unknown> = {}, secret = SECRET): Promise<string> {
  const now = Math.floor(Date.now() / 1_000);
  const payload = { iss: issuer, aud: "sluice", sub: "user-1", iat: now, exp: now + 600, ...claims };
  return signTexts('{"alg":"HS256"}', JSON.stringify(payload), "HS256", await makeSecretKey(secret));
}

describe("an issuer", () => {
  it("is made with what is left out filled in, read, listed page by page, changed and removed", async () => {
    const body = await make();
    expect(body).toEqual({
      id: expect.stringMatching(/^iss_[0-9a-z]{26}$/),
      name: `issuer ${made}`,
      issuer: `https://issuer-${made}.example`,
      audiences: ["sluice"],
      jwks_url: null,
      has_secret: true,
      typ: null,
      max_lifetime_seconds: 86_400,
      mappings: [{ when: { sub: "user-*" }, key: key.id }],
      blocked_subjects: [],
      state: "active",
      created_at: body.updated_at,
      updated_at: expect.stringMatching(/^\d{4}-.*Z$/),
      version: 1,
    });
    const [second, third] = [await make(), await make()];
    expect((await call(`issuers/${body.id}`)).body).toEqual(body);
    const first = (await call("issuers?limit=2")).body;
    expect(first).toMatchObject({ has_more: true, data: [{ id: third.id }, { id: second.id }] });
    const rest = (await call(`issuers?limit=2&cursor=${first.next_cursor}`)).body;
    expect(rest).toMatchObject({ has_more: false, next_cursor: null, data: [{ id: body.id }] });
    const changed = await patch(body.id, { blocked_subjects: ["user-1"], typ: "at+jwt", state: "disabled" });
    expect(changed.body).toEqual({
      ...body,
      ...{ blocked_subjects: ["user-1"], typ: "at+jwt", state: "disabled", version: 2 },
      updated_at: changed.body.updated_at,
    });
    expect((await call(`issuers/${body.id}`, { method: "DELETE" })).body).toEqual(changed.body);
    problem(await call(`issuers/${body.id}`), 404, "not_found_error");
    problem(await call(`issuers/${body.id}`, { method: "DELETE" }), 404, "not_found_error");
  });

  it("has a key set or a secret, each of which takes the other's place", async () => {
    const { id } = await make();
    expect((await patch(id, { jwks_url: JWKS })).body).toMatchObject({ jwks_url: JWKS, has_secret: false });
    expect((await getIssuer(env.DB, id))?.sealed_secret).toBeNull();
    expect((await patch(id, { secret: NEXT })).body).toMatchObject({ jwks_url: null, has_secret: true });
    for (const [path, method, json] of [
      ["issuers", "POST", good({ jwks_url: JWKS })],
      ["issuers", "POST", good({ secret: undefined })],
      [`issuers/${id}`, "PATCH", { secret: SECRET, jwks_url: JWKS }],
    ] as const) {
      expect(problem(await call(path, { method, json }), 400, "invalid_request_error")).toMatch(/^jwks_url, secret: /);
    }
  });

  it.each([
    ["name", { name: "" }],
    ["issuer", { issuer: "" }],
    ["issuer", { issuer: "x".repeat(513) }],
    ["issuer", { issuer: "a\nb" }],
    ["issuer", { issuer: "sluice" }],
    ["audiences", { audiences: [] }],
    ["audiences", { audiences: many(21) }],
    ["audiences", { audiences: ["a", "a"] }],
    ["audiences.0", { audiences: [""] }],
    ["secret", { secret: "x".repeat(31) }],
    ["secret", { secret: "x".repeat(1_025) }],
    ["typ", { typ: "application/jwt" }],
    ["max_lifetime_seconds", { max_lifetime_seconds: 59 }],
    ["max_lifetime_seconds", { max_lifetime_seconds: 86_401 }],
    ["mappings", { mappings: [] }],
    ["mappings", { mappings: Array.from({ length: 51 }, () => ({ when: {}, key: "k" })) }],
    ["mappings.0.when", { mappings: [{ key: "k" }] }],
    ["mappings.0.when", { mappings: [{ when: [], key: "k" }] }],
    ["mappings.0.when", { mappings: [{ when: Object.fromEntries(many(21).map((n) => [n, "x"])), key: "k" }] }],
    ["mappings.0.when.sub", { mappings: [{ when: { sub: [] }, key: "k" }] }],
    ["mappings.0.when.sub", { mappings: [{ when: { sub: many(21) }, key: "k" }] }],
    ["mappings.0.when.sub", { mappings: [{ when: { sub: "a*b" }, key: "k" }] }],
    ["mappings.0.when.sub", { mappings: [{ when: { sub: 1 }, key: "k" }] }],
    ["mappings.0.when.sub", { mappings: [{ when: { sub: [["a"]] }, key: "k" }] }],
    ["mappings.0.when.__proto__", { mappings: [{ when: JSON.parse('{"__proto__":"a"}'), key: "k" }] }],
    ["mappings.0.key", { mappings: [{ when: {}, key: "key_1" }] }],
    ["mappings.0.key", { mappings: [{ when: {}, key: `key_${"0".repeat(26)}` }] }],
    ["mappings.0.other", { mappings: [{ when: {}, key: "k", other: 1 }] }],
    ["mappings.0.scopes", { mappings: [{ when: {}, key: "k", scopes: [] }] }],
    ["mappings.0.scopes.0", { mappings: [{ when: {}, key: "k", scopes: ["admin"] }] }],
    ["mappings.0.models.0", { mappings: [{ when: {}, key: "k", models: ["a*b"] }] }],
    ["mappings.0.models", { mappings: [{ when: {}, key: "k", models: [] }] }],
    ["mappings.0.admin", { mappings: [{ when: {}, key: "k", admin: "all" }] }],
    ["blocked_subjects", { blocked_subjects: many(1_001) }],
    ["blocked_subjects.0", { blocked_subjects: ["\u0000"] }],
    ["state", { state: "gone" }],
    ["sealed_secret", { sealed_secret: {} }],
    ["id", { id: "iss_1" }],
  ])("is refused for a wrong %s, by its name: %#", async (field, fields) => {
    const { id } = await make();
    for (const answer of [await call("issuers", { json: good(fields) }), await patch(id, fields)]) {
      const told = problem(answer, 400, "invalid_request_error");
      expect(told.split("; ").map((one) => one.split(":")[0])).toContain(field);
    }
  });

  it.each([
    "http://token.actions.githubusercontent.com/.well-known/jwks",
    "https://elsewhere.example.com/jwks",
    "https://token.actions.githubusercontent.com",
    "https://token.actions.githubusercontent.com/",
    "https://token.actions.githubusercontent.com/jwks?x=1",
    "https://token.actions.githubusercontent.com:8443/jwks",
    "https://u@token.actions.githubusercontent.com/jwks",
    "https://169.254.169.254/jwks",
    "http://127.0.0.1:8080/jwks",
    "https://cloudflareaccess.com/jwks",
  ])("S-05 has no key set at %s", async (jwks_url) => {
    const deployed = { ALLOW_LOCAL_UPSTREAMS: "false" } as unknown as Partial<Env>;
    const answer = await call("issuers", { json: withKeySet({ jwks_url }), env: deployed });
    const told = problem(answer, 400, "invalid_request_error");
    expect(told).toMatch(/^jwks_url: /);
    expect(told).not.toContain(jwks_url);
  });

  it("S-05 may have its key set where the deployment says so, and nowhere else", async () => {
    const bindings = { ISSUER_HOSTS: "sso.example.com" } as unknown as Partial<Env>;
    const url = "https://sso.example.com/certs";
    expect((await call("issuers", { json: withKeySet({ jwks_url: url }), env: bindings })).status).toBe(201);
    const told = problem(await call("issuers", { json: withKeySet(), env: bindings }), 400, "invalid_request_error");
    expect(told).toContain("ISSUER_HOSTS");
  });

  it("has a name and an issuer that no other has", async () => {
    const [one, two] = [await make(), await make()];
    for (const fields of [{ name: one.name }, { issuer: one.issuer }]) {
      problem(await call("issuers", { json: good(fields) }), 409, "conflict_error");
      problem(await patch(two.id, fields), 409, "conflict_error");
    }
    const json = good();
    const answers = await Promise.all([1, 2, 3, 4].map(() => call("issuers", { json })));
    expect(answers.map(({ status }) => status).sort()).toEqual([201, 409, 409, 409]);
  });

  it("leads to live keys alone", async () => {
    const other = await makeKey();
    await call(`keys/${other.id}`, { method: "DELETE" });
    const json = good({ mappings: [{ when: {}, key: other.id }] });
    expect(problem(await call("issuers", { json }), 400, "invalid_request_error")).toBe("mappings.0.key: is revoked");
  });

  it("E-01 shows its secret nowhere, and keeps it sealed and bound to its row", async () => {
    const body = await make();
    await patch(body.id, { secret: NEXT });
    await call(`issuers/${body.id}/test`, { json: { token: await token(body.issuer, {}, NEXT) } });
    await call("issuers");
    await call("changes");
    const { results } = await env.DB.prepare("SELECT * FROM issuers").all();
    const { results: changes } = await env.DB.prepare("SELECT * FROM changes").all();
    expect(`${answered}${logged}${JSON.stringify([results, changes])}`).not.toContain("CANARY");
    const sealed = (await getIssuer(env.DB, body.id))?.sealed_secret;
    if (!sealed) throw new Error("not sealed");
    const keys = [{ version: "1", bytes: new Uint8Array(new TextEncoder().encode(MASTER)) }];
    expect(await open(keys, sealed, secretPlaceOf(body.id))).toEqual({ ok: true, value: NEXT });
    expect((await open(keys, sealed, secretPlaceOf("iss_other"))).ok).toBe(false);
    expect(JSON.stringify(changes)).not.toContain(sealed.data);
  });

  it("stores no secret where there is no master key, and says so", async () => {
    const bindings = { MASTER_KEY: "" } as unknown as Partial<Env>;
    const answer = await call("issuers", { json: good(), env: bindings });
    expect([answer.status, answer.text]).toEqual([503, expect.stringContaining("MASTER_KEY")]);
    expect((await call("issuers", { json: withKeySet(), env: bindings })).status).toBe(201);
  });

  it("is sealed anew with everything else when the master key is exchanged", async () => {
    const { id, issuer } = await make();
    const both = { MASTER_KEY: masters(SECOND, MASTER) } as unknown as Partial<Env>;
    const reseal = (bindings: Partial<Env>) => call("upstreams/reseal", { method: "POST", env: bindings });
    const first = [{ version: "1", bytes: new Uint8Array(new TextEncoder().encode(MASTER)) }];
    await keepSigningKeys({ db: env.DB, masterKeys: first, alg: "ES256" }, Date.now());
    expect((await reseal(both)).body).toEqual({ resealed: 2, failed: [] });
    expect((await loadSigningKeys(env.DB)).map(({ sealed_private }) => sealed_private.master)).toEqual(["2"]);
    expect((await getIssuer(env.DB, id))?.sealed_secret?.master).toBe("2");
    const json = { token: await token(issuer) };
    expect((await call(`issuers/${id}/test`, { json, env: both })).body).toMatchObject({ believed: true });
    const lost = { MASTER_KEY: `3:${btoa(MASTER)}` } as unknown as Partial<Env>;
    expect((await reseal(lost)).body).toEqual({ resealed: 0, failed: [id, expect.any(String)] });
  });
});

describe("A-07 an admin's own key bounds whom it may have us believe", () => {
  const rights = { scopes: ["admin", "messages"], models: ["claude-haiku-*"] };

  it.each([
    ["scopes", {}, { models: ["claude-haiku-5"] }, {}],
    ["models", {}, { scopes: ["messages"] }, {}],
    ["workspace", { workspace: "ws_other" }, { scopes: ["messages"], models: ["claude-haiku-5"] }, {}],
    ["budget", {}, { scopes: ["messages"], models: ["claude-haiku-5"] }, { budget: { usd: 1, period: "day" } }],
  ])("in %s", async (field, fields, narrowing, more) => {
    const admin = await makeKey({ ...rights, ...more });
    const target = await makeKey(fields);
    const json = good({ mappings: [{ when: {}, key: target.id, ...narrowing }] });
    const told = problem(await call("issuers", { json, as: admin.key }), 403, "permission_error");
    expect(told).toContain(`mappings.0.${field}: `);
    expect((await call("issuers", { json })).status).toBe(201);
  });

  it("and admin rights are given by those alone who have them", async () => {
    const target = await makeKey({ scopes: ["admin"] });
    const admin = await makeKey({ scopes: ["admin:write"] });
    const json = good({ mappings: [{ when: {}, key: target.id, admin: "read" }] });
    const told = problem(await call("issuers", { json, as: admin.key }), 403, "permission_error");
    expect(told).toContain("admin:read");
  });

  it("to what it may grant, narrowed by the mapping", async () => {
    const admin = await makeKey(rights);
    const json = good(mapping({ scopes: ["messages"], models: ["claude-haiku-*"] }));
    const { status, body } = await call("issuers", { json, as: admin.key });
    expect([status, body.mappings[0].models]).toEqual([201, ["claude-haiku-*"]]);
  });

  it.each([
    { secret: NEXT },
    { jwks_url: JWKS },
    { issuer: "https://mine.example" },
    { audiences: ["mine"] },
    { typ: "mine" },
    { max_lifetime_seconds: 86_400 },
    { blocked_subjects: [] },
    { state: "active" },
  ])("and whose tokens reach mappings that are there already: %j", async (changes) => {
    const admin = await makeKey(rights);
    const { id } = await make({ blocked_subjects: ["a"], state: "disabled" });
    problem(await patch(id, changes, admin.key), 403, "permission_error");
    expect((await patch(id, changes)).status).toBe(200);
  });

  it.each([{ state: "disabled" }, { blocked_subjects: ["a", "b"] }, { name: "another" }])(
    "but not what takes rights away: %j",
    async (changes) => {
      const admin = await makeKey(rights);
      const { id } = await make({ blocked_subjects: ["a"] });
      expect((await patch(id, changes, admin.key)).status).toBe(200);
    },
  );
});

describe("a test of a token", () => {
  const tested = async (id: string, text: string) => (await call(`issuers/${id}/test`, { json: { token: text } })).body;

  it("tells as whom it acts, with which rights", async () => {
    const { id, issuer } = await make(mapping({ models: ["claude-haiku-*"], scopes: ["messages"] }));
    expect(await tested(id, await token(issuer))).toEqual({
      believed: true,
      subject: "user-1",
      expires_at: expect.stringMatching(/Z$/),
      key: key.id,
      workspace: "ws_default",
      scopes: ["messages"],
      models: ["claude-haiku-*"],
    });
  });

  it.each([
    ["form", "no token"],
    ["form", "a.b.c"],
    ["audience", { aud: "another" }],
    ["issuer", { iss: "https://another.example" }],
    ["expired", { iat: 1, exp: 601 }],
    ["subject", { sub: "blocked" }],
    ["mapping", { sub: "nobody" }],
    ["signature", null],
  ])("tells the reason: %s", async (refused, claims) => {
    const { id, issuer } = await make({ blocked_subjects: ["blocked"] });
    const text =
      typeof claims === "string" ? claims : await token(issuer, claims ?? {}, claims === null ? NEXT : SECRET);
    expect(await tested(id, text)).toEqual({ believed: false, refused });
    expect(`${answered}${logged}`).not.toContain(text.slice(-20));
  });

  it("tells that the issuer is disabled, or the key dead, and else as for a good one", async () => {
    const { id, issuer } = await make({ state: "disabled" });
    const text = await token(issuer);
    expect(await tested(id, text)).toMatchObject({ believed: false, refused: "disabled", key: key.id });
    await patch(id, { state: "active" });
    await call(`keys/${key.id}`, { method: "DELETE" });
    expect(await tested(id, text)).toMatchObject({ believed: false, refused: "key_dead", key: key.id });
  });
});
