import * as jose from "jose";
import { beforeAll, describe, expect, it, vi } from "vitest";
import { fromBase64Url, type JsonObject, parseToken, toBase64Url } from "../../../src/identity/jwt/form.ts";
import { readPublicKey, readSharedSecret, type VerificationKey } from "../../../src/identity/jwt/keys.ts";
import { type Expected, type Refusal, verifyToken } from "../../../src/identity/jwt/verify.ts";
import {
  AUDIENCE,
  EXPECTED,
  goodClaims,
  ISSUER,
  makePair,
  makeSecretKey,
  NOW,
  type Pair,
  SECONDS,
  sign,
  signTexts,
} from "./made.ts";

let es: Pair;
let rs: Pair;
let otherEs: Pair;
/** Group order of P-256 (FIPS 186-5, SEC 2 §2.4.2). */
const N = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n;

beforeAll(async () => {
  [es, rs, otherEs] = await Promise.all([makePair("ES256", "es"), makePair("RS256", "rs"), makePair("ES256", "es")]);
});

/** What becomes of a text: the subject, or the refusal. */
async function outcome(
  text: string,
  key: VerificationKey = es,
  changes: Partial<Expected> = {},
  now = NOW,
): Promise<Refusal | { readonly subject: string | null }> {
  const token = parseToken(text);
  if (!token) return "form";
  const verified = await verifyToken(token, key, { ...EXPECTED, ...changes }, now);
  return verified.ok ? { subject: verified.value.subject } : verified.error;
}
const GOOD = { subject: "user-1" };
const claimsWith = (changes: Record<string, unknown>) => sign(es, { ...goodClaims(), ...changes });

describe("verifyToken", () => {
  it("believes tokens of either algorithm, made here or by jose, and jose believes ours", async () => {
    for (const pair of [es, rs]) {
      const own = await sign(pair);
      expect(await outcome(own, pair)).toEqual(GOOD);
      const theirs = await new jose.SignJWT(goodClaims())
        .setProtectedHeader({ alg: pair.alg, kid: pair.kid, typ: "application/AT+JWT" })
        .sign(pair.privateKey);
      expect(await outcome(theirs, pair)).toEqual(GOOD);
      const { payload } = await jose.jwtVerify(own, pair.key, {
        ...{ issuer: ISSUER, audience: AUDIENCE, typ: "at+jwt", algorithms: [pair.alg] },
        currentDate: new Date(NOW),
      });
      expect(payload).toEqual(goodClaims());
    }
  });

  it("tells issuer, subject, times and all claims", async () => {
    const token = parseToken(await claimsWith({ email: "a@example.com", sub: undefined }));
    if (!token) throw new Error("no token");
    const { iss, aud, iat, nbf, exp } = goodClaims();
    const all = { iss, aud, iat, nbf, exp, email: "a@example.com" };
    expect(await verifyToken(token, es, EXPECTED, NOW)).toEqual({
      ok: true,
      value: { issuer: ISSUER, subject: null, issuedAt: SECONDS - 10, expiresAt: SECONDS + 600, all },
    });
  });

  it("J-02 refuses HS256 under anything that is public of a key", async () => {
    for (const pair of [es, rs]) {
      const spki = new Uint8Array((await crypto.subtle.exportKey("spki", pair.key)) as ArrayBuffer);
      const { n, x } = pair.jwk;
      const base64 = btoa(String.fromCharCode(...spki));
      const pem = `-----BEGIN PUBLIC KEY-----\n${base64.replace(/.{64}/g, "$&\n")}\n-----END PUBLIC KEY-----`;
      const part = fromBase64Url(n ?? x ?? "") ?? new Uint8Array();
      for (const secret of [spki, pem, `${pem}\n`, base64, JSON.stringify(pair.jwk), part, n ?? x ?? "", pair.kid]) {
        const header = JSON.stringify({ alg: "HS256", kid: pair.kid, typ: "at+jwt" });
        const token = await signTexts(header, JSON.stringify(goodClaims()), "HS256", await makeSecretKey(secret));
        expect(await outcome(token, pair)).toBe("algorithm");
        expect(await outcome(token, pair, { algorithms: ["HS256", "RS256", "ES256"] })).toBe("algorithm");
      }
    }
  });

  it.each(["none", "None", "", "PS256", "RS512", "RS384", "ES384", "ES256K", "EdDSA", "HS256", "es256", "ES256 "])(
    "J-03 refuses the algorithm %j",
    async (alg) => {
      expect(await outcome(await sign(es, goodClaims(), { alg }), es)).toBe("algorithm");
      expect(await outcome(await sign(rs, goodClaims(), { alg }), rs)).toBe("algorithm");
    },
  );

  it("J-03 takes the algorithm from the key, not from the header", async () => {
    expect(await outcome(await sign(rs, goodClaims(), { kid: "es" }), es)).toBe("algorithm");
    expect(await outcome(await sign(es, goodClaims(), { kid: "rs" }), rs)).toBe("algorithm");
    expect(await outcome(await sign(rs, goodClaims(), { kid: "es", alg: "ES256" }), es)).toBe("signature");
    expect(await outcome(await sign(es, goodClaims(), { kid: "rs", alg: "RS256" }), rs)).toBe("signature");
    expect(await outcome(await sign(es), es, { algorithms: ["RS256"] })).toBe("algorithm");
  });

  it("J-03 wants the key named, and that one", async () => {
    expect(await outcome(await sign(es, goodClaims(), { kid: undefined }))).toBe("key");
    expect(await outcome(await sign(es, goodClaims(), { kid: "es2" }))).toBe("key");
    expect(await outcome(await sign(otherEs))).toBe("signature");
  });

  it("J-04 does not look at keys or addresses in the header", async () => {
    const fetched = vi.spyOn(globalThis, "fetch");
    for (const header of [
      { jwk: otherEs.jwk },
      { jku: "https://evil.example/jwks.json" },
      { x5u: "https://evil.example/cert.pem" },
      { x5c: ["MIIB"], x5t: "AAAA" },
    ]) {
      expect(await outcome(await sign(otherEs, goodClaims(), header))).toBe("signature");
      expect(await outcome(await sign(es, goodClaims(), header))).toEqual(GOOD);
    }
    expect(fetched).not.toHaveBeenCalled();
    fetched.mockRestore();
  });

  it.each<[string, unknown, Refusal | "accepted"]>([
    ["a second ago", SECONDS - 1, "accepted"],
    ["exactly now", SECONDS, "accepted"],
    ["29 s ago", SECONDS - 29, "accepted"],
    ["30 s ago, the leeway", SECONDS - 30, "expired"],
    ["61 s ago", SECONDS - 61, "expired"],
    ["missing", undefined, "times"],
    ["null", null, "times"],
    ["a text", String(SECONDS + 60), "times"],
    ["1e308", 1e308, "times"],
    ["2^53", 2 ** 53, "times"],
    ["negative", -1, "times"],
    ["with a fraction", SECONDS + 60.5, "times"],
    ["a list", [SECONDS + 60], "times"],
    ["milliseconds", NOW + 60_000, "lifetime"],
  ])("J-06 exp %s", async (_, exp, expected) => {
    expect(await outcome(await claimsWith({ exp, iat: SECONDS - 100, nbf: SECONDS - 100 }))).toEqual(
      expected === "accepted" ? GOOD : expected,
    );
  });

  it("J-06 ends to the millisecond", async () => {
    const token = await claimsWith({ exp: SECONDS + 60 });
    expect(await outcome(token, es, {}, NOW + 89_999)).toEqual(GOOD);
    expect(await outcome(token, es, {}, NOW + 90_000)).toBe("expired");
  });

  it.each<[string, Record<string, unknown>, Refusal | "accepted"]>([
    ["nbf in 10 min", { nbf: SECONDS + 600 }, "too_early"],
    ["nbf in 31 s", { nbf: SECONDS + 31 }, "too_early"],
    ["nbf in 30 s", { nbf: SECONDS + 30 }, "accepted"],
    ["nbf a text", { nbf: "0" }, "times"],
    ["nbf null", { nbf: null }, "times"],
    ["nbf with a fraction", { nbf: 0.5 }, "times"],
    ["no nbf", { nbf: undefined }, "accepted"],
    ["iat in 10 min", { iat: SECONDS + 600 }, "too_early"],
    ["iat in 31 s", { iat: SECONDS + 31, nbf: undefined }, "too_early"],
    ["iat in 30 s", { iat: SECONDS + 30 }, "accepted"],
    ["no iat", { iat: undefined }, "times"],
    ["iat negative", { iat: -5 }, "times"],
    ["the longest life", { iat: SECONDS, exp: SECONDS + 3_600 }, "accepted"],
    ["a second longer", { iat: SECONDS, exp: SECONDS + 3_601 }, "lifetime"],
  ])("J-07 %s", async (_, changes, expected) => {
    expect(await outcome(await claimsWith(changes))).toEqual(expected === "accepted" ? GOOD : expected);
  });

  const many = (count: number) => [...Array.from({ length: count - 1 }, (_, i) => `other-${i}`), AUDIENCE];
  it.each<[string, unknown, boolean]>([
    ["the right one", AUDIENCE, true],
    ["a list with it", ["other", AUDIENCE], true],
    ["20 with it", many(20), true],
    ["21 with it", many(21), false],
    ["300 with it", many(300), false],
    ["missing", undefined, false],
    ["null", null, false],
    ["another", "other", false],
    ["an empty text", "", false],
    ["an empty list", [], false],
    ["its beginning", "sluic", false],
    ["it and more", "sluice2", false],
    ["it inside", "https://sluice", false],
    ["another case", "Sluice", false],
    ["a space behind it", "sluice ", false],
    ["a list that holds more than texts", [AUDIENCE, 1], false],
    ["a list in a list", [[AUDIENCE]], false],
    ["an object", { sluice: true }, false],
  ])("J-08 aud is %s", async (_, aud, accepted) => {
    expect(await outcome(await claimsWith({ aud }))).toEqual(accepted ? GOOD : "audience");
  });

  it("J-08 refuses 1,000 recipients for the token's length already", async () => {
    expect(await outcome(await claimsWith({ aud: many(1_000) }))).toBe("form");
  });

  it.each([`${ISSUER}/`, "https://ISSUER.example", "", undefined, null, [ISSUER]])(
    "refuses the issuer %j",
    async (iss) => {
      expect(await outcome(await claimsWith({ iss }))).toBe("issuer");
    },
  );

  it.each([1, null, ["user-1"], { id: 1 }])("refuses the subject %j", async (sub) => {
    expect(await outcome(await claimsWith({ sub }))).toBe("subject");
  });

  it.each(["JWT", "jwt", "id-token", "dpop+jwt", "at+jwt ", "logout+jwt", "application/jwt", "", undefined])(
    "J-11 refuses the type %j where at+jwt is expected",
    async (typ) => {
      expect(await outcome(await sign(es, goodClaims(), { typ }))).toBe("type");
    },
  );

  it("J-11 takes what the issuer is configured for", async () => {
    const types = ["jwt", null];
    for (const typ of ["JWT", "application/jwt", undefined]) {
      expect(await outcome(await sign(es, goodClaims(), { typ }), es, { types })).toEqual(GOOD);
    }
    for (const typ of ["at+jwt", "dpop+jwt"]) {
      expect(await outcome(await sign(es, goodClaims(), { typ }), es, { types })).toBe("type");
    }
  });
});

describe("signatures of ES256", () => {
  const numbers = (bytes: Uint8Array): [bigint, bigint] => {
    const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
    return [BigInt(`0x${hex.slice(0, 64)}`), BigInt(`0x${hex.slice(64)}`)];
  };
  const bytesOf = (...values: bigint[]) =>
    Uint8Array.from(
      values
        .map((value) => value.toString(16).padStart(64, "0"))
        .join("")
        .match(/../g) ?? [],
      (pair) => Number.parseInt(pair, 16),
    );
  /** DER of the two numbers (RFC 3279 §2.2.3). */
  const der = (r: bigint, s: bigint) => {
    const integer = (value: bigint) => {
      const bytes = bytesOf(value);
      const bare = bytes.subarray(
        Math.max(
          0,
          bytes.findIndex((byte) => byte !== 0),
        ),
      );
      const body = (bare[0] ?? 0) >= 0x80 ? [0, ...bare] : [...bare];
      return [2, body.length, ...body];
    };
    const inner = [...integer(r), ...integer(s)];
    return Uint8Array.from([0x30, inner.length, ...inner]);
  };

  it("J-12 are two numbers of 32 bytes within their bounds", async () => {
    const token = await sign(es);
    const bare = token.slice(0, token.lastIndexOf("."));
    const signature = fromBase64Url(token.slice(bare.length + 1)) ?? new Uint8Array();
    const [r, s] = numbers(signature);
    const wrong: [string, Uint8Array][] = [
      ["zeros", new Uint8Array(64)],
      ["r zero", bytesOf(0n, s)],
      ["s zero", bytesOf(r, 0n)],
      ["r = n", bytesOf(N, s)],
      ["s = n", bytesOf(r, N)],
      ["r = s = n", bytesOf(N, N)],
      ["all ones", new Uint8Array(64).fill(255)],
      ["swapped", bytesOf(s, r)],
      ["DER", der(r, s)],
      ["63 bytes", signature.subarray(0, 63)],
      ["65 bytes", Uint8Array.from([...signature, 0])],
      ["65 bytes, zero first", Uint8Array.from([0, ...signature])],
      ["one byte", new Uint8Array(1)],
      ["128 bytes", Uint8Array.from([...signature, ...signature])],
    ];
    for (const [name, bytes] of wrong) {
      expect([name, await outcome(`${bare}.${toBase64Url(bytes)}`)]).toEqual([name, "signature"]);
    }
    // The other valid signature that anybody can make of one: the same token in another spelling, for the same caller.
    expect(await outcome(`${bare}.${toBase64Url(bytesOf(r, N - s))}`)).toEqual(GOOD);
  });
});

describe("mutants", () => {
  it("J-16 are refused, whichever byte has changed, and none throws", async () => {
    let tried = 0;
    for (const pair of [es, rs]) {
      const token = await sign(pair);
      const mutants = new Set<string>();
      for (let at = 0; at < token.length; at++) {
        const char = token.charCodeAt(at);
        for (let bit = 0; bit < 8; bit++) {
          mutants.add(token.slice(0, at) + String.fromCharCode(char ^ (1 << bit)) + token.slice(at + 1));
        }
        mutants.add(token.slice(0, at) + token.slice(at + 1));
        mutants.add(`${token.slice(0, at)}A${token.slice(at)}`);
      }
      // And of the bytes that are written so: every bit of each.
      const parts = token.split(".");
      for (const [index, part] of parts.entries()) {
        const bytes = fromBase64Url(part) ?? new Uint8Array();
        for (let bit = 0; bit < bytes.length * 8; bit++) {
          const changed = bytes.slice();
          changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7));
          mutants.add(parts.with(index, toBase64Url(changed)).join("."));
        }
      }
      mutants.delete(token);
      for (const mutant of mutants) expect(typeof (await outcome(mutant, pair))).toBe("string");
      tried += mutants.size;
    }
    expect(tried).toBeGreaterThan(10_000);
  });

  it("J-16 of chance are refused", async () => {
    for (const pair of [es, rs]) {
      const [header = "", claims = ""] = (await sign(pair)).split(".");
      for (let i = 0; i < 500; i++) {
        const bytes = crypto.getRandomValues(new Uint8Array(pair === es ? 64 : 256));
        expect(await outcome(`${header}.${claims}.${toBase64Url(bytes)}`, pair)).toBe("signature");
      }
    }
  });

  it("J-15 have no second spelling: of a signature's last character, one alone is taken", async () => {
    const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    for (const pair of [es, rs]) {
      const token = await sign(pair);
      const taken = [];
      for (const last of alphabet) {
        if (typeof (await outcome(token.slice(0, -1) + last, pair)) === "object") taken.push(last);
      }
      expect(taken).toEqual([token.at(-1)]);
    }
  });
});

describe("readPublicKey", () => {
  it("takes public keys that sign", async () => {
    for (const pair of [es, rs]) {
      const key = await readPublicKey({ ...pair.jwk, x5t: "AAAA" });
      expect(key).toMatchObject({ kid: pair.kid, alg: pair.alg });
      expect(await outcome(await sign(pair), key ?? undefined)).toEqual(GOOD);
      const { kid = "", kty = "", crv = "", x = "", y = "", n = "", e = "" } = pair.jwk;
      const bare: JsonObject = kty === "EC" ? { kty, kid, crv, x, y } : { kty, kid, n, e };
      expect(await readPublicKey(bare)).not.toBeNull();
      expect(await readPublicKey({ ...bare, key_ops: ["verify"] })).not.toBeNull();
    }
  });

  it("J-18 leaves out every other", async () => {
    const [ec, rsa] = [es.jwk, rs.jwk];
    const short = (await makePair("RS256", "short", 1_024)).jwk;
    const offCurve = toBase64Url(new Uint8Array(32).fill(1));
    const wrong: [string, unknown][] = [
      ["no object", "key"],
      ["a private member of EC", { ...ec, d: ec.x }],
      ["a private member of RSA", { ...rsa, p: "AA" }],
      ["a member k", { ...ec, k: "AA" }],
      ["a shared secret", { kty: "oct", kid: "o", k: toBase64Url(new Uint8Array(32)) }],
      ["for encryption", { ...ec, use: "enc" }],
      ["use of another type", { ...ec, use: 1 }],
      ["that only wraps", { ...rsa, key_ops: ["wrapKey"] }],
      ["key_ops that are no list", { ...rsa, key_ops: "verify" }],
      ["no kid", { ...ec, kid: undefined }],
      ["an empty kid", { ...ec, kid: "" }],
      ["kid a number", { ...ec, kid: 1 }],
      ["RSA for PS256", { ...rsa, alg: "PS256" }],
      ["RSA for RS512", { ...rsa, alg: "RS512" }],
      ["RSA as ES256", { ...rsa, alg: "ES256" }],
      ["EC as RS256", { ...ec, alg: "RS256" }],
      ["alg HS256", { ...ec, alg: "HS256" }],
      ["1,024 bits", short],
      [
        "1,024 bits behind zeros",
        {
          ...short,
          n: toBase64Url(Uint8Array.from([...new Uint8Array(128), ...(fromBase64Url(short.n ?? "") ?? [])])),
        },
      ],
      ["16,384 bits", { ...rsa, n: toBase64Url(new Uint8Array(2_048).fill(255)) }],
      ["the exponent 1", { ...rsa, e: "AQ" }],
      ["the exponent 3", { ...rsa, e: "Aw" }],
      ["another curve", { ...ec, crv: "P-384" }],
      ["secp256k1", { ...ec, crv: "secp256k1" }],
      ["a point off the curve", { ...ec, x: offCurve }],
      ["a short coordinate", { ...ec, x: toBase64Url(new Uint8Array(31)) }],
      ["a coordinate missing", { ...ec, y: undefined }],
      ["a coordinate with padding", { ...ec, x: `${ec.x}=` }],
      ["Ed25519", { kty: "OKP", crv: "Ed25519", kid: "o", x: ec.x }],
    ];
    for (const [name, jwk] of wrong) {
      const given = JSON.parse(JSON.stringify(jwk));
      expect([name, await readPublicKey(given)]).toEqual([name, null]);
    }
  });
});

describe("shared secrets", () => {
  const SECRET = "0123456789abcdef0123456789abcdef";
  const expected: Partial<Expected> = { algorithms: ["HS256"] };

  it("have at least 32 bytes", async () => {
    expect(await readSharedSecret(SECRET.slice(1))).toBeNull();
    expect(await readSharedSecret(SECRET)).toMatchObject({ kid: null, alg: "HS256" });
    expect(await readSharedSecret("é".repeat(16))).not.toBeNull();
  });

  it("verify HS256 with or without a name, and nothing else", async () => {
    const key = await readSharedSecret(SECRET);
    if (!key) throw new Error("no key");
    const privateKey = await makeSecretKey(SECRET);
    for (const header of [{}, { kid: undefined }]) {
      const token = await sign({ kid: "any", alg: "HS256" as "ES256", privateKey }, goodClaims(), header);
      expect(await outcome(token, key, expected)).toEqual(GOOD);
      expect(await outcome(token, key)).toBe("algorithm");
      expect(await outcome(`${token.slice(0, -4)}AAAA`, key, expected)).toBe("signature");
      expect(await outcome(token.slice(0, -3), key, expected)).toMatch(/form|signature/);
    }
    for (const pair of [es, rs]) {
      expect(await outcome(await sign(pair), key, expected)).toBe("algorithm");
      expect(await outcome(await sign(pair), pair, expected)).toBe("algorithm");
    }
    const theirs = await new jose.SignJWT(goodClaims())
      .setProtectedHeader({ alg: "HS256", typ: "at+jwt" })
      .sign(new TextEncoder().encode(SECRET));
    expect(await outcome(theirs, key, expected)).toEqual(GOOD);
  });
});
