import { env } from "cloudflare:workers";
import { beforeAll, beforeEach, describe, expect, it } from "vitest";
import { type Believed, type Believing, believe, type NotBelieved } from "../../../src/identity/jwt/believe.ts";
import { fromBase64Url, toBase64Url } from "../../../src/identity/jwt/form.ts";
import type { IssuerRecord } from "../../../src/identity/jwt/issuer.ts";
import {
  getIssuer,
  ISSUERS_HELD_MS,
  ISSUERS_STALE_MS,
  Issuers,
  insertIssuer,
  loadIssuers,
  removeIssuer,
  resealIssuers,
  secretPlaceOf,
  updateIssuer,
} from "../../../src/identity/jwt/issuer-store.ts";
import { keepSigningKeys, type SigningRoom } from "../../../src/identity/jwt/keep-signing-keys.ts";
import { KeySets } from "../../../src/identity/jwt/key-set.ts";
import { mintToken } from "../../../src/identity/jwt/own-token.ts";
import { SigningKeys } from "../../../src/identity/jwt/signing.ts";
import { loadSigningKeys } from "../../../src/identity/jwt/signing-store.ts";
import { MAX_HELD_MS, VerifiedTokens } from "../../../src/identity/jwt/verified.ts";
import { type MasterKey, seal } from "../../../src/upstream/sealing.ts";
import { SOME_CHANGE } from "../../support/changes.ts";
import { StillClock } from "./clocks.ts";
import { goodClaims, makePair, makeSecretKey, NOW, type Pair, sign } from "./made.ts";
import { ACCESS, GITHUB, issuerRecord, KEY, OIDC } from "./providers.ts";

const OWN = "https://sluice.example";
const KEY_SET_HOSTS = ["*.cloudflareaccess.com", "token.actions.githubusercontent.com", "id.example.com"];
const SECRET = "a secret of exactly 32 bytes ...";
const master = (version: string, fill: number): MasterKey => ({ version, bytes: new Uint8Array(32).fill(fill) });
const MASTERS = [master("1", 1)];
const GRANT = {
  keyId: KEY,
  scopes: ["messages" as const],
  models: null,
  conversation: null,
  secretMark: "0123456789abcdef",
  issuer: OWN,
  lifetimeSeconds: 900,
};

let rs: Pair;
let clock: StillClock;
let by: Believing;
let room: SigningRoom;
let fetched: string[];
/** By address: the keys that are published there. */
let published: Record<string, readonly unknown[]>;

beforeAll(async () => {
  rs = await makePair("RS256", "rs");
});

beforeEach(async () => {
  await env.DB.batch([env.DB.prepare("DELETE FROM issuers"), env.DB.prepare("DELETE FROM signing_keys")]);
  clock = new StillClock(NOW);
  room = { db: env.DB, masterKeys: MASTERS, alg: "ES256" };
  fetched = [];
  published = {};
  const fetchSet = (async (url: string) => {
    fetched.push(url);
    const keys = published[url];
    return keys ? Response.json({ keys }) : new Response(null, { status: 404 });
  }) as typeof fetch;
  by = {
    issuer: OWN,
    room,
    keySetUrls: { hosts: KEY_SET_HOSTS, allowLocal: false },
    signing: new SigningKeys(clock),
    issuers: new Issuers(clock),
    sets: new KeySets({ fetch: fetchSet, clock }),
    verified: new VerifiedTokens(),
  };
});

const outcome = async (text: string): Promise<Believed | NotBelieved> => {
  const believed = await believe(text, by, clock.now());
  return believed.ok ? believed.value : believed.error;
};
const store = (record: IssuerRecord) => insertIssuer(env.DB, record, SOME_CHANGE);
const provided = (provider: { header: { kid: string } }, claims: Record<string, unknown>, pair = rs) =>
  sign({ ...pair, kid: provider.header.kid }, claims, { typ: undefined, ...provider.header });
const publish = (url: string, kid: string, pair = rs) => {
  published[url] = [{ ...pair.jwk, kid }];
};

describe("tokens of our own", () => {
  it("are believed for what they grant, by every isolate", async () => {
    const key = await by.signing.signingKey(room);
    if (!key.ok) throw new Error(key.error);
    const { token } = await mintToken(GRANT, key.value, clock.now());
    const { issuer: _, lifetimeSeconds: __, ...grant } = GRANT;
    for (const signing of [by.signing, new SigningKeys(clock)]) {
      by = { ...by, signing, verified: new VerifiedTokens() };
      expect(await outcome(token)).toMatchObject({ kind: "own", grant, claims: { subject: KEY } });
    }
  });

  it("are made with keys that the real D1 keeps: one a day, however many make them", async () => {
    const all = await Promise.all(Array.from({ length: 6 }, () => keepSigningKeys(room, NOW)));
    expect(all.filter(({ made }) => made !== null)).toHaveLength(1);
    await Promise.all(Array.from({ length: 6 }, () => keepSigningKeys(room, NOW + 86_400_000)));
    expect(await loadSigningKeys(env.DB)).toHaveLength(2);
    expect(await keepSigningKeys(room, NOW + 86_400_000 + 7_200_000)).toMatchObject({ made: null, deleted: 1 });
    expect(await keepSigningKeys({ ...room, masterKeys: [master("2", 2), ...MASTERS] }, NOW)).toMatchObject({
      resealed: 1,
    });
  });

  it("J-20 are remembered whole: a forged twin and a neighbour never find another's entry", async () => {
    const key = await by.signing.signingKey(room);
    if (!key.ok) throw new Error(key.error);
    const mint = (keyId: string) => mintToken({ ...GRANT, keyId }, key.value, NOW);
    const names = [KEY, "key_01k9s3v0q0zzzzzzzzzzzzzzzz"];
    const [one, other] = await Promise.all(names.map(mint));
    if (!one || !other) throw new Error("no tokens");
    expect(one.token.slice(0, 100)).toBe(other.token.slice(0, 100));
    for (let i = 0; i < 3; i++) {
      expect(await outcome(one.token)).toMatchObject({ grant: { keyId: names[0] } });
      expect(await outcome(other.token)).toMatchObject({ grant: { keyId: names[1] } });
    }
    expect(by.verified.size).toBe(2);
    const [header, claims, signature] = one.token.split(".");
    const swapped = `${header}.${other.token.split(".")[1]}.${signature}`;
    expect(await outcome(swapped)).toBe("signature");
    expect(await outcome(`${header}.${claims}.${other.token.split(".")[2]}`)).toBe("signature");
    expect(await outcome(`${one.token.slice(0, -86)}${"A".repeat(86)}`)).toBe("signature");
    expect(by.verified.size).toBe(2);
  });

  it("J-20 end on the second, remembered or not", async () => {
    const key = await by.signing.signingKey(room);
    if (!key.ok) throw new Error(key.error);
    const { token } = await mintToken({ ...GRANT, lifetimeSeconds: 60 }, key.value, NOW);
    expect(await outcome(token)).toMatchObject({ kind: "own" });
    clock.at = NOW + 89_999;
    expect(await outcome(token)).toMatchObject({ kind: "own" });
    clock.at = NOW + 90_000;
    expect(await outcome(token)).toBe("expired");
  });

  it("are refused with claims that we do not write, and from a key of another name", async () => {
    const key = await by.signing.signingKey(room);
    if (!key.ok) throw new Error(key.error);
    const claims = goodClaims({ iss: OWN, aud: "sluice", sub: "user-1" });
    expect(await outcome(await sign(key.value, claims))).toBe("rights");
    expect(await outcome(await sign({ ...rs, kid: key.value.kid }, claims))).toBe("algorithm");
    expect(await outcome(await sign(rs, claims))).toBe("key");
    expect(fetched).toEqual([]);
  });
});

describe("tokens of foreign issuers", () => {
  it.each([
    ["Cloudflare Access, a user", ACCESS, ACCESS.user],
    ["Cloudflare Access, a service", ACCESS, ACCESS.service],
    ["GitHub Actions", GITHUB, GITHUB.claims],
    ["a generic OpenID provider", OIDC, OIDC.claims],
  ])("are believed of %s", async (_, provider, claims) => {
    const { issuer, jwks, audience } = provider;
    const mappings = [{ when: { iss: issuer }, key: KEY, scopes: ["messages" as const] }];
    await store(issuerRecord({ issuer, jwks_url: jwks, audiences: [audience], mappings }));
    publish(jwks, provider.header.kid);
    const token = await provided(provider, claims);
    for (let i = 0; i < 3; i++) {
      expect(await outcome(token)).toMatchObject({
        kind: "foreign",
        issuer: { name: "staff" },
        actor: { key: KEY, scopes: ["messages"], models: null, admin: null },
        claims: { subject: claims.sub },
      });
    }
    expect(fetched).toEqual([jwks]);
    expect(await outcome(await provided(provider, { ...claims, aud: "another" }))).toBe("audience");
    expect(await outcome(await provided(provider, { ...claims, iss: "https://evil.example" }))).toBe("issuer");
  });

  it("are nobody's reason to ask an issuer unless all that costs nothing is right", async () => {
    await store(issuerRecord());
    const wrong = [
      await provided(OIDC, { ...OIDC.claims, aud: "another" }),
      await provided(OIDC, { ...OIDC.claims, exp: 1 }),
      await provided(OIDC, { ...OIDC.claims, iss: "https://evil.example" }),
      await sign(rs, OIDC.claims, { typ: "dpop+jwt" }),
      await sign(rs, OIDC.claims, { typ: "JWT", alg: "HS256" }),
      await sign(rs, OIDC.claims, { typ: "JWT", alg: "none" }),
      await sign(rs, OIDC.claims, { typ: "JWT", kid: undefined }),
    ];
    expect(await Promise.all(wrong.map(outcome))).toEqual([
      "audience",
      "expired",
      "issuer",
      "type",
      "algorithm",
      "algorithm",
      "key",
    ]);
    expect(fetched).toEqual([]);
  });

  it("are 503 while the issuer's keys can't be had, and 401 for a key it does not have", async () => {
    await store(issuerRecord());
    const token = await provided(OIDC, OIDC.claims);
    expect(await outcome(token)).toBe("unavailable");
    publish(OIDC.jwks, "another");
    clock.at += 2_000;
    expect(await outcome(token)).toBe("key");
  });

  it("J-16 are refused in 10,000 mutants and 1,000 of chance, on the whole way in, and none throws or asks", async () => {
    await store(issuerRecord());
    publish(OIDC.jwks, OIDC.header.kid);
    const token = await provided(OIDC, OIDC.claims);
    expect(await outcome(token)).toMatchObject({ kind: "foreign" });
    const mutants = new Set<string>();
    for (let at = 0; at < token.length; at++) {
      for (let bit = 0; bit < 8; bit++) {
        mutants.add(token.slice(0, at) + String.fromCharCode(token.charCodeAt(at) ^ (1 << bit)) + token.slice(at + 1));
      }
    }
    const parts = token.split(".");
    for (const [index, part] of parts.entries()) {
      const bytes = fromBase64Url(part) ?? new Uint8Array();
      for (let bit = 0; bit < bytes.length * 8; bit++) {
        const changed = bytes.slice();
        changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7));
        mutants.add(parts.with(index, toBase64Url(changed)).join("."));
      }
    }
    for (let i = 0; i < 1_000; i++) {
      mutants.add(parts.with(i % 3, toBase64Url(crypto.getRandomValues(new Uint8Array(1 + (i % 300))))).join("."));
    }
    mutants.delete(token);
    const accepted = [];
    for (const mutant of mutants) if (typeof (await outcome(mutant)) !== "string") accepted.push(mutant);
    expect([accepted, mutants.size > 10_000, fetched]).toEqual([[], true, [OIDC.jwks]]);
  });

  it("are bound to a shared secret where there is one, and to nothing else", async () => {
    const record = issuerRecord({ jwks_url: null });
    const sealed_secret = await seal(MASTERS[0] as MasterKey, SECRET, secretPlaceOf(record.id));
    await store({ ...record, sealed_secret });
    const privateKey = await makeSecretKey(SECRET);
    const token = await sign({ kid: "any", alg: "HS256" as "ES256", privateKey }, OIDC.claims, { typ: "JWT" });
    expect(await outcome(token)).toMatchObject({ kind: "foreign" });
    expect(await outcome(await provided(OIDC, OIDC.claims))).toBe("algorithm");
    const other = await makeSecretKey(`${SECRET}.`);
    const forged = await sign({ kid: "any", alg: "HS256" as "ES256", privateKey: other }, OIDC.claims, { typ: "JWT" });
    expect(await outcome(forged)).toBe("signature");
    expect(fetched).toEqual([]);
    // Under a new master key, and after the old one is gone.
    const both = [master("2", 2), ...MASTERS];
    expect(await resealIssuers(env.DB, both)).toEqual({ resealed: 1, failed: [] });
    expect(await resealIssuers(env.DB, both)).toEqual({ resealed: 0, failed: [] });
    by = { ...by, room: { ...room, masterKeys: both.slice(0, 1) }, verified: new VerifiedTokens() };
    clock.at += ISSUERS_HELD_MS;
    expect(await outcome(token)).toMatchObject({ kind: "foreign" });
    expect(await resealIssuers(env.DB, [master("3", 3)])).toEqual({ resealed: 0, failed: [record.id] });
  });

  it("J-22 end with their subject, their issuer, or its configuration, within two seconds", async () => {
    await store(issuerRecord());
    publish(OIDC.jwks, OIDC.header.kid);
    const token = await provided(OIDC, OIDC.claims);
    let version = 1;
    const change = async (changes: Partial<IssuerRecord>) => {
      const record = issuerRecord({ ...changes, version: ++version });
      expect(await updateIssuer(env.DB, record, SOME_CHANGE)).toBe(true);
      clock.at += ISSUERS_HELD_MS;
    };
    expect(await outcome(token)).toMatchObject({ kind: "foreign" });
    await change({ blocked_subjects: [OIDC.claims.sub] });
    expect(await outcome(token)).toBe("subject");
    await change({ audiences: ["another"] });
    expect(await outcome(token)).toBe("audience");
    await change({ mappings: [] });
    expect(await outcome(token)).toBe("mapping");
    await change({ state: "disabled" });
    expect(await outcome(token)).toBe("issuer");
    await change({});
    expect(await outcome(token)).toMatchObject({ kind: "foreign" });
    await removeIssuer(env.DB, issuerRecord({ version }), SOME_CHANGE);
    clock.at += ISSUERS_HELD_MS;
    expect(await outcome(token)).toBe("issuer");
  });

  it("S-05 are not believed, and their issuer is not asked, where the deployment does not list its host any more", async () => {
    await store(issuerRecord());
    publish(OIDC.jwks, OIDC.header.kid);
    const token = await provided(OIDC, OIDC.claims);
    const listed = by;
    by = { ...by, keySetUrls: { hosts: ["example.com"], allowLocal: false } };
    expect([await outcome(token), fetched]).toEqual(["issuer", []]);
    expect(await believe(token, listed, clock.now())).toMatchObject({ ok: true });
    // Remembered, too.
    expect(await outcome(token)).toBe("issuer");
  });

  it("end with their key in ten minutes, remembered or not", async () => {
    await store(issuerRecord());
    publish(OIDC.jwks, OIDC.header.kid);
    const token = await provided(OIDC, { ...OIDC.claims, exp: OIDC.claims.iat + 3_600 });
    expect(await outcome(token)).toMatchObject({ kind: "foreign" });
    publish(OIDC.jwks, "next");
    clock.at += MAX_HELD_MS;
    expect(await outcome(token)).toBe("key");
  });
});

describe("the issuers' store", () => {
  it("gives back what it was given, once for each name and each issuer", async () => {
    const record = issuerRecord({
      sealed_secret: await seal(MASTERS[0] as MasterKey, SECRET, "somewhere"),
      typ: "at+jwt",
      mappings: [{ when: { a: ["x", "y*"], "b.c": "z" }, key: KEY, scopes: ["files"], models: [], admin: "read" }],
      blocked_subjects: ["x"],
    });
    await store(record);
    expect(await getIssuer(env.DB, record.id)).toEqual(record);
    for (const changes of [{}, { id: "iss_2" }, { id: "iss_2", name: "other" }, { id: "iss_2", issuer: "other" }]) {
      expect(await store(issuerRecord(changes))).toBe(false);
    }
    await store(issuerRecord({ id: "iss_2", name: "other", issuer: "other" }));
    const clash = issuerRecord({ id: "iss_2", name: "staff", issuer: "other", version: 2 });
    expect(await updateIssuer(env.DB, clash, SOME_CHANGE)).toBe(false);
    expect(await updateIssuer(env.DB, issuerRecord({ version: 5 }), SOME_CHANGE)).toBe(false);
    expect((await loadIssuers(env.DB)).map(({ name }) => name)).toEqual(["staff", "other"]);
  });

  it("lets nobody in by a row that can't be read", async () => {
    await store(issuerRecord());
    publish(OIDC.jwks, OIDC.header.kid);
    const token = await provided(OIDC, OIDC.claims);
    for (const [column, text] of [
      ["mappings", "[{}]"],
      ["mappings", '[{"when":{},"key":"k","models":"x"}]'],
      ["mappings", '[{"when":{},"key":"k","admin":true}]'],
      ["mappings", "{"],
      ["blocked_subjects", "none"],
    ]) {
      await env.DB.prepare(`UPDATE issuers SET mappings = '[{"when":{},"key":"k"}]', blocked_subjects = '[]'`).run();
      clock.at += ISSUERS_HELD_MS;
      expect(await outcome(token)).toMatchObject({ kind: "foreign" });
      await env.DB.prepare(`UPDATE issuers SET ${column} = ?`).bind(text).run();
      clock.at += ISSUERS_HELD_MS;
      expect(await outcome(token)).toBe("mapping");
    }
  });

  it("is asked once a second while nothing changes, and for a minute is not missed", async () => {
    await store(issuerRecord());
    const issuers = new Issuers(clock);
    let asked = 0;
    let away = false;
    const db = {
      prepare: (sql: string) => {
        asked++;
        if (away) throw new Error("away");
        return env.DB.prepare(sql);
      },
    } as unknown as D1Database;
    for (let i = 0; i < 100; i++) expect(await issuers.find(db, OIDC.issuer)).toMatchObject({ name: "staff" });
    expect(asked).toBe(1);
    expect(await issuers.find(db, "other")).toBeNull();
    away = true;
    const since = clock.at;
    clock.at = since + ISSUERS_STALE_MS - 1;
    expect(await issuers.find(db, OIDC.issuer)).toMatchObject({ name: "staff" });
    clock.at = since + ISSUERS_STALE_MS;
    expect(await issuers.find(db, OIDC.issuer)).toBe("unavailable");
    away = false;
    clock.at += 1_000;
    expect(await issuers.find(db, OIDC.issuer)).toMatchObject({ name: "staff" });
  });
});
