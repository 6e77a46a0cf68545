/**
 * Whom a token is believed. Nothing here throws, asks anybody, or looks at what the token says about where keys are (`jwk`,
 * `jku`, `x5u`, `x5c`): the key is one that was configured, and its algorithm is its own.
 *
 * Signatures are checked with WebCrypto itself, not through a library: a token has been parsed strictly before, so that
 * what is left is one call, and a library would parse it a second time, in its own way. The tests have the library `jose`
 * as the other opinion.
 */
import { err, ok, type Result } from "../../result.ts";
import { type Json, type JsonObject, ownOf, type ParsedToken } from "./form.ts";
import { type Algorithm, SIGNED, type VerificationKey } from "./keys.ts";

/** How far our clock and an issuer's may be apart, seconds. */
export const LEEWAY_SECONDS = 30;
/** More recipients than this in one token are refused. */
const MAX_AUDIENCES = 20;
/** Two numbers of 32 bytes each, raw (RFC 7518 §3.4): DER is another spelling. */
const ES256_BYTES = 64;

/**
 * Why a token is refused, for the log: a word, never anything of the token. Callers are told one and the same 401.
 * `form`: no token, or none in its one spelling. `issuer`: one that nobody has configured. `subject`: a blocked one.
 * `mapping`: none of the issuer's holds. `rights`: a token of ours whose claims about rights can't be read.
 */
export type Refusal =
  | "form"
  | "algorithm"
  | "key"
  | "type"
  | "issuer"
  | "audience"
  | "times"
  | "expired"
  | "too_early"
  | "lifetime"
  | "signature"
  | "subject"
  | "mapping"
  | "rights";

/** What a token must be, as its issuer's configuration says. */
export type Expected = {
  readonly issuer: string;
  /** The token must be for one of them, to the letter. */
  readonly audiences: readonly string[];
  /** Values of `typ` in lower case and without `application/` (RFC 7515 §4.1.9). Null among them: it may be absent. */
  readonly types: readonly (string | null)[];
  readonly algorithms: readonly Algorithm[];
  readonly maxLifetimeSeconds: number;
};

/** What a verified token says. Times are whole seconds since the epoch. */
export type Claims = {
  readonly issuer: string;
  /** Null: it names none. */
  readonly subject: string | null;
  readonly issuedAt: number;
  readonly expiresAt: number;
  /** All of them, as they came. */
  readonly all: JsonObject;
};

/** `now`: ms since the epoch. */
export async function verifyToken(
  token: ParsedToken,
  key: VerificationKey,
  expected: Expected,
  now: number,
): Promise<Result<Claims, Refusal>> {
  const claims = readClaims(token, expected, now);
  if (!claims.ok) return claims;
  if (token.alg !== key.alg || !expected.algorithms.includes(key.alg)) return err("algorithm");
  // A shared secret has no name. Any other key must be named, and be the one that is.
  if (key.kid === null ? key.alg !== "HS256" : token.kid !== key.kid) return err("key");
  return (await isSigned(token, key)) ? claims : err("signature");
}

/**
 * What can be said without a key: a token that is refused here is nobody's reason to ask for one. Whether the claims are
 * true is for `verifyToken` to say.
 */
export function readClaims(token: ParsedToken, expected: Expected, now: number): Result<Claims, Refusal> {
  if (!expected.algorithms.some((alg) => alg === token.alg)) return err("algorithm");
  if (!expected.types.includes(typeOf(token.typ))) return err("type");
  const { claims } = token;
  const own = ownOf(claims);
  if (own("iss") !== expected.issuer) return err("issuer");
  if (!isFor(expected.audiences, own("aud"))) return err("audience");
  const times = readTimes(own, expected.maxLifetimeSeconds, now);
  if (!times.ok) return times;
  const subject = own("sub");
  if (subject !== undefined && typeof subject !== "string") return err("subject");
  return ok({ issuer: expected.issuer, subject: subject ?? null, ...times.value, all: claims });
}

function typeOf(typ: string | null): string | null {
  return typ === null ? null : typ.toLowerCase().replace(/^application\//, "");
}

/** Members count whole: no prefix, no other case. */
function isFor(audiences: readonly string[], aud: Json | undefined): boolean {
  if (typeof aud === "string") return audiences.includes(aud);
  if (!Array.isArray(aud) || aud.length > MAX_AUDIENCES) return false;
  return aud.every((one) => typeof one === "string") && aud.some((one) => audiences.includes(one));
}

/** `exp` and `iat` must be there: without both, nobody knows how long it was meant to live. */
function readTimes(
  own: (name: string) => Json | undefined,
  maxLifetimeSeconds: number,
  now: number,
): Result<Pick<Claims, "issuedAt" | "expiresAt">, Refusal> {
  const [exp, iat] = [own("exp"), own("iat")];
  const nbf = own("nbf") ?? iat;
  if (!isTime(exp) || !isTime(iat) || !isTime(nbf) || own("nbf") === null) return err("times");
  const seconds = now / 1_000;
  if (seconds >= exp + LEEWAY_SECONDS) return err("expired");
  if (Math.max(iat, nbf) > seconds + LEEWAY_SECONDS) return err("too_early");
  if (exp - iat > maxLifetimeSeconds) return err("lifetime");
  return ok({ issuedAt: iat, expiresAt: exp });
}

function isTime(value: Json | undefined): value is number {
  return Number.isSafeInteger(value) && Number(value) >= 0;
}

async function isSigned({ signed, signature }: ParsedToken, { alg, key }: VerificationKey): Promise<boolean> {
  if (alg === "ES256" && signature.length !== ES256_BYTES) return false;
  try {
    return await crypto.subtle.verify(SIGNED[alg], key, signature, signed);
  } catch {
    // A signature that the runtime would not even look at.
    return false;
  }
}
