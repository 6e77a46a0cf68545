/** Keys and tokens that tests make themselves: well-formed ones, and every way in which one can be wrong. */
import { type JsonObject, toBase64Url } from "../../../src/identity/jwt/form.ts";
import { type Algorithm, IMPORTED, SIGNED, type VerificationKey } from "../../../src/identity/jwt/keys.ts";
import type { Expected } from "../../../src/identity/jwt/verify.ts";

export const NOW = Date.parse("2026-11-22T10:00:00Z");
export const SECONDS = NOW / 1_000;
export const ISSUER = "https://issuer.example";
export const AUDIENCE = "sluice";

const encoder = new TextEncoder();
export const encode = (text: string): string => toBase64Url(encoder.encode(text));

export type Pair = VerificationKey & {
  readonly kid: string;
  readonly privateKey: CryptoKey;
  readonly jwk: Readonly<Record<string, string>>;
};

export async function makePair(alg: "RS256" | "ES256", kid: string, bits = 2_048): Promise<Pair> {
  const algorithm =
    alg === "RS256"
      ? { ...IMPORTED.RS256, modulusLength: bits, publicExponent: new Uint8Array([1, 0, 1]) }
      : IMPORTED.ES256;
  const made = (await crypto.subtle.generateKey(algorithm, true, ["sign", "verify"])) as CryptoKeyPair;
  const exported = (await crypto.subtle.exportKey("jwk", made.publicKey)) as JsonWebKey;
  const { kty = "", crv = "", x = "", y = "", n = "", e = "" } = exported;
  const parts = kty === "EC" ? { kty, crv, x, y } : { kty, n, e };
  return { kid, alg, key: made.publicKey, privateKey: made.privateKey, jwk: { ...parts, kid, alg, use: "sig" } };
}

export async function makeSecretKey(secret: string | Uint8Array<ArrayBuffer>): Promise<CryptoKey> {
  const bytes = typeof secret === "string" ? encoder.encode(secret) : secret;
  return crypto.subtle.importKey("raw", bytes, IMPORTED.HS256, false, ["sign", "verify"]);
}

/** A token of these very texts, signed by whatever algorithm whatever its header says. */
export async function signTexts(header: string, payload: string, alg: Algorithm, key: CryptoKey): Promise<string> {
  const bare = `${encode(header)}.${encode(payload)}`;
  const signature = await crypto.subtle.sign(SIGNED[alg], key, encoder.encode(bare));
  return `${bare}.${toBase64Url(new Uint8Array(signature))}`;
}

export function goodClaims(changes: JsonObject = {}): JsonObject {
  return {
    iss: ISSUER,
    aud: AUDIENCE,
    sub: "user-1",
    iat: SECONDS - 10,
    nbf: SECONDS - 10,
    exp: SECONDS + 600,
    ...changes,
  };
}

/** A token of this pair; `header` and `claims` change single fields, undefined leaves one out. */
export function sign(
  pair: Pick<Pair, "kid" | "alg" | "privateKey">,
  claims: Readonly<Record<string, unknown>> = goodClaims(),
  header: Readonly<Record<string, unknown>> = {},
): Promise<string> {
  const fields = { alg: pair.alg, kid: pair.kid, typ: "at+jwt", ...header };
  return signTexts(JSON.stringify(fields), JSON.stringify(claims), pair.alg, pair.privateKey);
}

export const EXPECTED: Expected = {
  issuer: ISSUER,
  audiences: [AUDIENCE],
  types: ["at+jwt"],
  algorithms: ["RS256", "ES256"],
  maxLifetimeSeconds: 3_600,
};
