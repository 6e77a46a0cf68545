/**
 * Keys that verify. An algorithm belongs to a key from the moment it is read, and a token that names another one is
 * refused: so no public key is ever taken for a shared secret (RFC 8725 §2.1, §3.1).
 */
import { fromBase64Url, isKid, isObject, type Json, type JsonObject, ownOf } from "./form.ts";

export const ALGORITHMS = ["RS256", "ES256"] as const;
/** What can be verified with a public key. */
export type PublicAlgorithm = (typeof ALGORITHMS)[number];
export type Algorithm = PublicAlgorithm | "HS256";

export type VerificationKey = {
  /** Null: a shared secret, which every name means. */
  readonly kid: string | null;
  readonly alg: Algorithm;
  readonly key: CryptoKey;
};

/** RFC 7518 §3.3. */
const MIN_RSA_BITS = 2_048;
/** What a verification may cost: no provider's key is larger. */
const MAX_RSA_BITS = 8_192;
/** 65537, the exponent of every key in use. A small one makes forging easier, and 1 makes it trivial. */
const EXPONENT = "AQAB";
/** P-256: a coordinate has 32 bytes, a signature two of those (RFC 7518 §3.4, §6.2.1). */
const COORDINATE_BYTES = 32;
/** RFC 7518 §3.2: at least as long as the hash. */
export const MIN_SECRET_BYTES = 32;

/** Members that only a private key, or a secret one, has (RFC 7518 §6.2.2, §6.3.2, §6.4.1). */
const PRIVATE = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/** What WebCrypto wants to be told, for each algorithm. */
export const IMPORTED = {
  RS256: { name: "RSASSA-PKCS1-v1_5", hash: "SHA-256" },
  ES256: { name: "ECDSA", namedCurve: "P-256" },
  HS256: { name: "HMAC", hash: "SHA-256" },
} as const;
export const SIGNED = {
  RS256: { name: "RSASSA-PKCS1-v1_5" },
  ES256: { name: "ECDSA", hash: "SHA-256" },
  HS256: { name: "HMAC" },
} as const;

/** A public key as key sets publish it (RFC 7517), with nothing but what a verifier needs. */
type PublicJwk =
  | { readonly kty: "RSA"; readonly n: string; readonly e: string }
  | { readonly kty: "EC"; readonly crv: "P-256"; readonly x: string; readonly y: string };

/**
 * A key of somebody's set, if it is a public one that signs with an algorithm we take: RSA of 2,048 to 8,192 bits, or
 * P-256. Null for every other, and for one that should not have been published.
 */
export async function readPublicKey(jwk: Json): Promise<(VerificationKey & { readonly kid: string }) | null> {
  if (!isObject(jwk)) return null;
  const own = ownOf(jwk);
  const kid = own("kid");
  const parts = publicParts(own);
  if (!isKid(kid) || !parts || PRIVATE.some((name) => Object.hasOwn(jwk, name))) return null;
  const alg = parts.kty === "RSA" ? "RS256" : "ES256";
  const [use, operations, named] = [own("use"), own("key_ops"), own("alg")];
  if (use !== undefined && use !== "sig") return null;
  if (operations !== undefined && !(Array.isArray(operations) && operations.includes("verify"))) return null;
  if (named !== undefined && named !== alg) return null;
  const key = await importPublic(parts, alg);
  return key && { kid, alg, key };
}

/** The public members, if they are all there and of a size we take. */
function publicParts(own: (name: string) => JsonObject[string] | undefined): PublicJwk | null {
  const [kty, n, e, crv, x, y] = [own("kty"), own("n"), own("e"), own("crv"), own("x"), own("y")];
  if (kty === "RSA" && typeof n === "string" && e === EXPONENT) {
    const modulus = fromBase64Url(n);
    const bits = modulus ? bitsOf(modulus) : 0;
    return bits >= MIN_RSA_BITS && bits <= MAX_RSA_BITS ? { kty, n, e } : null;
  }
  if (kty === "EC" && crv === "P-256" && typeof x === "string" && typeof y === "string") {
    const fits = [x, y].every((coordinate) => fromBase64Url(coordinate)?.length === COORDINATE_BYTES);
    return fits ? { kty, crv, x, y } : null;
  }
  return null;
}

/** How many bits a number has, which may begin with zeros. */
function bitsOf(bytes: Uint8Array): number {
  const first = bytes.findIndex((byte) => byte !== 0);
  const top = bytes[first];
  return top === undefined ? 0 : (bytes.length - first) * 8 - (Math.clz32(top) - 24);
}

/** Null for a point that is not on the curve, or a number that WebCrypto does not like. */
async function importPublic(jwk: PublicJwk, alg: PublicAlgorithm): Promise<CryptoKey | null> {
  try {
    return await crypto.subtle.importKey("jwk", jwk, IMPORTED[alg], false, ["verify"]);
  } catch {
    return null;
  }
}

/** The secret that is shared with an issuer, as its UTF-8. Null: it is shorter than 32 bytes. */
export async function readSharedSecret(secret: string): Promise<VerificationKey | null> {
  const bytes = new TextEncoder().encode(secret);
  if (bytes.length < MIN_SECRET_BYTES) return null;
  return {
    kid: null,
    alg: "HS256",
    key: await crypto.subtle.importKey("raw", bytes, IMPORTED.HS256, false, ["verify"]),
  };
}
