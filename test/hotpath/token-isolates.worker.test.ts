/** What ends a token in one isolate ends it in the others: by the clock, two seconds later at the most. */
import { env } from "cloudflare:workers";
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { ADMIN_TOKEN } from "../admin/control-plane.ts";
import { makeSecretKey, sign } from "../identity/jwt/made.ts";
import { type Isolate, startIsolates } from "./isolates.ts";

const SECRET = "a secret of exactly 32 bytes ...";
const WITHIN_MS = 2_000;
/** A busy machine is slow to ask. */
const SLACK_MS = 500;

let here: Isolate;
let there: Isolate;
let key: { readonly id: string; readonly key: string };
let issuer: string;
let shown: string;
let own: string;
let nth = 0;

beforeAll(async () => {
  for (const level of ["log", "error"] as const) vi.spyOn(console, level).mockImplementation(() => {});
  [here, there] = (await startIsolates(2)) as [Isolate, Isolate];
});
afterAll(() => void vi.restoreAllMocks());

const admin = async <T>(path: string, asked: { method?: string; json?: unknown } = {}): Promise<T> => {
  const response = await here.ask(`/admin/${path}`, { as: ADMIN_TOKEN, ...asked });
  expect([path, response.ok]).toEqual([path, true]);
  return response.json<T>();
};
const statuses = (credential: string) =>
  Promise.all([here, there].map(async (isolate) => (await isolate.ask("/v1/key", { as: credential })).status));

/** How long it took until both answer so, and stayed with it. */
async function until(credential: string, status: number): Promise<number> {
  const since = Date.now();
  for (;;) {
    const seen = await statuses(credential);
    if (seen.every((one) => one === status)) break;
    if (Date.now() - since > 5 * WITHIN_MS) throw new Error(`still ${seen}`);
    await scheduler.wait(20);
  }
  const took = Date.now() - since;
  for (let i = 0; i < 10; i++) expect(await statuses(credential)).toEqual([status, status]);
  return took;
}

beforeEach(async () => {
  const name = `https://issuer-${++nth}.example`;
  key = await admin("keys", { json: { name } });
  const mappings = [{ when: { sub: "ada" }, key: key.id }];
  const json = { name, issuer: name, audiences: ["sluice"], secret: SECRET, mappings };
  issuer = `issuers/${(await admin<{ id: string }>("issuers", { json })).id}`;
  const now = Math.floor(Date.now() / 1_000);
  const claims = { iss: name, aud: "sluice", sub: "ada", iat: now, exp: now + 600 };
  const privateKey = await makeSecretKey(SECRET);
  shown = await sign({ kid: "any", alg: "HS256" as never, privateKey }, claims, { typ: "JWT" });
  own = (await (await there.ask("/v1/token", { as: key.key, json: {} })).json<{ token: string }>()).token;
  expect(await until(shown, 200)).toBeLessThan(WITHIN_MS + SLACK_MS);
  expect(await until(own, 200)).toBeLessThan(WITHIN_MS + SLACK_MS);
});

describe("J-22 a token ends in every isolate within two seconds", () => {
  it.each<[string, () => unknown]>([
    ["its subject is blocked", () => ({ blocked_subjects: ["ada"] })],
    ["its issuer is disabled", () => ({ state: "disabled" })],
    ["no mapping is left for it", () => ({ mappings: [{ when: { sub: "grace" }, key: key.id }] })],
    ["its issuer has another secret", () => ({ secret: `${SECRET}!` })],
  ])("once %s", async (_, change) => {
    await admin(issuer, { method: "PATCH", json: change() });
    expect(await until(shown, 401)).toBeLessThan(WITHIN_MS + SLACK_MS);
    expect(await statuses(own)).toEqual([200, 200]);
  });

  it("once its issuer is removed", async () => {
    await admin(issuer, { method: "DELETE" });
    expect(await until(shown, 401)).toBeLessThan(WITHIN_MS + SLACK_MS);
  });

  it("K-07 once its key is revoked, whoever has made it, and the key with it", async () => {
    expect(await until(key.key, 200)).toBeLessThan(WITHIN_MS);
    await admin(`keys/${key.id}`, { method: "DELETE" });
    for (const credential of [shown, own, key.key]) {
      expect(await until(credential, 401)).toBeLessThan(WITHIN_MS + SLACK_MS);
    }
  });

  it("once the secret that it was traded for is rotated away, and no other's", async () => {
    const rotated = await admin<{ key: string }>(`keys/${key.id}/rotate`, { json: { grace_seconds: 0 } });
    expect(await until(own, 401)).toBeLessThan(WITHIN_MS + SLACK_MS);
    expect(await until(rotated.key, 200)).toBeLessThan(WITHIN_MS + SLACK_MS);
    expect(await statuses(shown)).toEqual([200, 200]);
  });

  it("Q-01 with words of SQL in it is refused, and changes nothing", async () => {
    const tables = () => env.DB.prepare("SELECT count(*) AS n FROM sqlite_master").first<{ n: number }>();
    const before = await tables();
    const privateKey = await makeSecretKey(SECRET);
    for (const words of ["' OR 1=1--", '"; DROP TABLE issuers', "%27", "../../keys", "\u0000"]) {
      for (const claims of [{ iss: words }, { sub: words, iss: `https://issuer-${nth}.example`, aud: "sluice" }]) {
        const now = Math.floor(Date.now() / 1_000);
        const times = { iat: now, exp: now + 60 };
        const header = { typ: "JWT", kid: words };
        const text = await sign({ kid: words, alg: "HS256" as never, privateKey }, { ...claims, ...times }, header);
        expect([words, await statuses(text)]).toEqual([words, [401, 401]]);
      }
    }
    expect(await tables()).toEqual(before);
    expect(await statuses(shown)).toEqual([200, 200]);
  });
});
