/** Foreign issuers against the real bundle: a key set on this machine, tokens of two issuers, and what their keys pay. */
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { makePair, makeSecretKey, type Pair, sign, signTexts } from "../identity/jwt/made.ts";
import { type Gateway, type Key, startGateway, until } from "../support/gateway.ts";
import { type ScriptedUpstream, startScriptedUpstream } from "../support/scripted-upstream.ts";

const ISSUER = "https://issuer.example";
const SHARED = "https://shared.example";
const SECRET = "CANARY-secret-that-two-parties-share";
const REVOKED_WITHIN_MS = 2_000;

let upstream: ScriptedUpstream;
let gateway: Gateway;
let issuer: { server: Server; url: string; keys: object[]; away: boolean; asked: number };
let pair: Pair;
let key: Key;
let id: string;

async function startIssuer(): Promise<typeof issuer> {
  const made: typeof issuer = { server: createServer(), url: "", keys: [], away: false, asked: 0 };
  made.server.on("request", (_request, response) => {
    made.asked++;
    response.writeHead(made.away ? 503 : 200, { "content-type": "application/json" });
    response.end(JSON.stringify({ keys: made.keys }));
  });
  await new Promise<void>((done) => made.server.listen(0, "127.0.0.1", done));
  return Object.assign(made, { url: `http://127.0.0.1:${(made.server.address() as AddressInfo).port}/jwks` });
}

beforeAll(async () => {
  upstream = await startScriptedUpstream();
  upstream.script = (response) => {
    response.writeHead(200, { "content-type": "application/json" });
    const usage = { input_tokens: 1_000, output_tokens: 1_000 };
    const message = { type: "message", model: "claude-opus-5-5", content: [], stop_reason: "end_turn", usage };
    response.end(JSON.stringify(message));
  };
  issuer = await startIssuer();
  gateway = await startGateway(upstream.url);
  pair = await makePair("ES256", "first");
});
afterAll(async () => {
  await gateway?.stop();
  await upstream?.stop();
  issuer?.server.close();
});

/** Each test has its own issuer, so that none finds what another has left behind. */
let nth = 0;
const named = () => `${ISSUER}/${nth}`;
beforeEach(async () => {
  nth++;
  issuer.keys = [pair.jwk];
  issuer.away = false;
  key = await gateway.makeKey();
  const mappings = [{ when: { sub: "user-*", groups: ["writers"] }, key: key.id, models: ["claude-opus-*"] }];
  id = await make({ name: `n${nth}`, issuer: named(), jwks_url: `${issuer.url}/${nth}`, mappings });
});

async function make(fields: Record<string, unknown>): Promise<string> {
  const response = await gateway.admin("issuers", { json: { audiences: ["sluice"], ...fields } });
  const body = (await response.json()) as { id: string };
  expect([response.status, body]).toEqual([201, expect.anything()]);
  return body.id;
}

function claims(changes: Record<string, unknown> = {}): Record<string, unknown> {
  const now = Math.floor(Date.now() / 1_000);
  return {
    iss: named(),
    aud: "sluice",
    sub: "user-1",
    groups: ["readers", "writers"],
    iat: now,
    exp: now + 600,
    ...changes,
  };
}
const token = (changes: Record<string, unknown> = {}, by = pair) => sign(by, claims(changes), { typ: "JWT" });

async function ask(credential: string, { model = "claude-opus-5-5", header = "authorization" } = {}) {
  const value = header === "authorization" ? `Bearer ${credential}` : credential;
  const response = await fetch(`${gateway.url}/v1/messages`, {
    method: "POST",
    headers: { [header]: value, "content-type": "application/json" },
    body: JSON.stringify({ model, max_tokens: 5, messages: [{ role: "user", content: "x" }] }),
  });
  await response.text();
  return response.status;
}

describe("a token of a foreign issuer", () => {
  it("acts as its key, which the audit names, and what it spends is the key's", async () => {
    const limited = await gateway.makeKey({ budget: { usd: 0.05, period: "total" } });
    const mappings = [{ when: { sub: "user-1" }, key: limited.id }];
    await gateway.admin(`issuers/${id}`, { method: "PATCH", json: { mappings } });
    const shown = await token();
    await until(async () => ((await ask(shown)) === 200 ? true : undefined), "the mapping to be in force");
    const [row] = await gateway.audit(limited, 1);
    expect(row).toMatchObject({ key_id: limited.id, status: 200, input_tokens: 1_000, subject: `${named()} user-1` });
    // A key's own calls are nobody's else.
    await ask(key.key);
    expect((await gateway.audit(key, 1))[0]).toMatchObject({ key_id: key.id, subject: null });
    await until(async () => ((await ask(shown)) === 429 ? true : undefined), "the budget to be spent");
    // Of the key itself just as much.
    expect(await ask(limited.key)).toBe(429);
    expect(gateway.log()).not.toContain(shown.slice(-40));
    expect(upstream.received.some(({ headers }) => JSON.stringify(headers).includes(shown))).toBe(false);
  });

  it("is taken in each header, and from Cloudflare Access where no other credential is shown", async () => {
    const shown = await token();
    for (const header of ["authorization", "x-api-key", "api-key", "cf-access-jwt-assertion"]) {
      expect([header, await ask(shown, { header })]).toEqual([header, 200]);
    }
  });

  it("J-08 has no rights beyond its mapping, and none without one", async () => {
    expect(await ask(await token(), { model: "claude-haiku-5" })).toBe(403);
    expect(await ask(key.key, { model: "claude-haiku-5" })).toBe(200);
    for (const changes of [
      { groups: ["readers"] },
      { sub: "admin" },
      { aud: "another" },
      { iss: "https://no.example" },
    ]) {
      expect([changes, await ask(await token(changes))]).toEqual([changes, 401]);
    }
  });

  it("J-22 ends with its subject, its issuer and its key, within two seconds each", async () => {
    const shown = await token();
    const change = (json: unknown) => gateway.admin(`issuers/${id}`, { method: "PATCH", json });
    const within = async (status: number) => {
      const since = Date.now();
      await until(async () => ((await ask(shown)) === status ? true : undefined), `a ${status}`);
      return Date.now() - since;
    };
    expect(await ask(shown)).toBe(200);
    await change({ blocked_subjects: ["user-1"] });
    expect(await within(401)).toBeLessThan(REVOKED_WITHIN_MS + 500);
    expect(await ask(await token({ sub: "user-2" }))).toBe(200);
    await change({ blocked_subjects: [] });
    await within(200);
    await change({ state: "disabled" });
    expect(await within(401)).toBeLessThan(REVOKED_WITHIN_MS + 500);
    await change({ state: "active" });
    await within(200);
    await gateway.admin(`keys/${key.id}`, { method: "DELETE" });
    expect(await within(401)).toBeLessThan(REVOKED_WITHIN_MS + 500);
  });

  it("J-18 is believed while the issuer's key set is away, and a key that the issuer has changed is found", async () => {
    expect(await ask(await token())).toBe(200);
    issuer.away = true;
    const asked = issuer.asked;
    // A token that was never seen, by a key that was.
    expect(await ask(await token({ jti: "another" }))).toBe(200);
    expect(issuer.asked).toBe(asked);
    issuer.away = false;
    const next = await makePair("RS256", "second");
    issuer.keys = [pair.jwk, next.jwk];
    // Its own set, so that no unknown key was asked for before.
    await gateway.admin(`issuers/${id}`, { method: "PATCH", json: { jwks_url: `${issuer.url}/rotated-${nth}` } });
    const shown = await token({}, next);
    await until(async () => ((await ask(shown)) === 200 ? true : undefined), "the next key to be found");
    expect(await ask(await token({ jti: "third" }))).toBe(200);
  });

  it("J-18 is a 503, and no 401, while its issuer's key set was never to be had", async () => {
    issuer.away = true;
    expect(await ask(await token())).toBe(503);
  });

  it("J-02 J-03 of an issuer with a shared secret is taken by HS256 alone", async () => {
    const mappings = [{ when: { sub: "user-1" }, key: key.id }];
    await make({ name: `shared ${nth}`, issuer: SHARED, secret: SECRET, mappings });
    const payload = JSON.stringify(claims({ iss: SHARED }));
    const by = async (secret: string) => signTexts('{"alg":"HS256"}', payload, "HS256", await makeSecretKey(secret));
    const good = await by(SECRET);
    await until(async () => ((await ask(good)) === 200 ? true : undefined), "the issuer to be known");
    expect(await ask(await by(`${SECRET}!`))).toBe(401);
    expect(await ask(await token({ iss: SHARED }))).toBe(401);
    // The public key as a secret, to an issuer that has no secret.
    const confused = await signTexts(
      JSON.stringify({ alg: "HS256", kid: pair.kid }),
      JSON.stringify(claims()),
      "HS256",
      await makeSecretKey(JSON.stringify(pair.jwk).padEnd(32)),
    );
    expect(await ask(confused)).toBe(401);
    expect(gateway.log()).not.toContain("CANARY");
  });

  it("can be tried beforehand, with the word for what is wrong with it", async () => {
    const tried = async (text: string) =>
      (await gateway.admin(`issuers/${id}/test`, { json: { token: text } })).json() as Promise<object>;
    expect(await tried(await token())).toMatchObject({ believed: true, key: key.id, models: ["claude-opus-*"] });
    expect(await tried(await token({}, await makePair("ES256", "unknown")))).toEqual({
      believed: false,
      refused: "key",
    });
    issuer.away = true;
    expect(await tried(await token())).toEqual({ believed: false, refused: "unavailable", key_set: "status" });
  });
});
