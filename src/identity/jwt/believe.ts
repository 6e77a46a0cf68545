/**
 * From a token's text to who it is: the one way in for the door. What costs nothing is looked at first, so that no token
 * is reason for a question to D1 or an issuer unless it is well-formed, meant for us, in time, and names who may have
 * made it.
 */
import { Recent } from "../../recent.ts";
import { err, ok, type Result } from "../../result.ts";
import { type BaseUrlRules, parseBaseUrl } from "../../upstream/base-url.ts";
import { open } from "../../upstream/sealing.ts";
import { looksLikeToken, MAX_TOKEN_CHARS, type ParsedToken, parseToken } from "./form.ts";
import { type Actor, expectedOf, type IssuerRecord, mapClaims } from "./issuer.ts";
import { type Issuers, secretPlaceOf } from "./issuer-store.ts";
import type { SigningRoom } from "./keep-signing-keys.ts";
import type { KeySets } from "./key-set.ts";
import { readSharedSecret, type VerificationKey } from "./keys.ts";
import { type Grant, ownExpected, readGrant } from "./own-token.ts";
import type { SigningKeys } from "./signing.ts";
import type { VerifiedTokens } from "./verified.ts";
import { type Claims, type Expected, type Refusal, readClaims, verifyToken } from "./verify.ts";

/** `unavailable`: whether it is good can't be said at the moment (503). Every other word is a 401. */
export type NotBelieved = Refusal | "unavailable";

export type Believed =
  | { readonly kind: "own"; readonly claims: Claims; readonly grant: Grant }
  | { readonly kind: "foreign"; readonly claims: Claims; readonly issuer: IssuerRecord; readonly actor: Actor };

/** A verified token's claims, and the version of the configuration they were verified by. */
export type Remembered = { readonly claims: Claims; readonly source: string };

/** What an isolate has for it. */
export type Believing = {
  /** Our own name, as a setting has it. */
  readonly issuer: string;
  readonly room: SigningRoom;
  /** Where foreign key sets may be, now: what was stored under another list is not fetched. */
  readonly keySetUrls: BaseUrlRules;
  readonly signing: SigningKeys;
  readonly issuers: Issuers;
  readonly sets: KeySets;
  readonly verified: VerifiedTokens<Remembered>;
};

type KeyAnswer = Result<VerificationKey, "unknown" | "unavailable">;

/** How tokens of one issuer are verified and read, as it is configured now. */
type Source = {
  /** Different for every version of the configuration. */
  readonly name: string;
  readonly expected: Expected;
  keyOf(token: ParsedToken): Promise<KeyAnswer>;
  read(claims: Claims): Result<Believed, Refusal>;
};

/** Who it is, for a text that `looksLikeToken`. `now`: ms since the epoch. */
export async function believe(text: string, by: Believing, now: number): Promise<Result<Believed, NotBelieved>> {
  if (!looksLikeToken(text) || text.length > MAX_TOKEN_CHARS) return err("form");
  const { name, value: known } = await by.verified.find(text, now);
  if (known) {
    const source = await sourceOf(known.claims.issuer, by);
    if (!source.ok) return source;
    // Of another configuration: what it says now may be something else.
    if (source.value.name === known.source) return source.value.read(known.claims);
  }
  const token = parseToken(text);
  if (!token) return err("form");
  const issuer = Object.hasOwn(token.claims, "iss") ? token.claims.iss : undefined;
  const source = typeof issuer === "string" ? await sourceOf(issuer, by) : err("issuer" as const);
  if (!source.ok) return source;
  const claims = await verify(token, source.value, now);
  if (!claims.ok) return claims;
  const remembered = { claims: claims.value, source: source.value.name };
  by.verified.remember(name, remembered, claims.value.expiresAt, text.length, now);
  return source.value.read(claims.value);
}

async function sourceOf(named: string, by: Believing): Promise<Result<Source, NotBelieved>> {
  if (named === by.issuer) {
    return ok({
      name: "own",
      expected: ownExpected(named),
      keyOf: ({ kid }) => by.signing.verificationKey(by.room, kid),
      read: readOwn,
    });
  }
  const issuer = await by.issuers.find(by.room.db, named);
  if (issuer === "unavailable") return err(issuer);
  if (issuer?.state !== "active") return err("issuer");
  const elsewhere = issuer.jwks_url !== null && !parseBaseUrl(issuer.jwks_url, by.keySetUrls).ok;
  return elsewhere ? err("issuer") : ok(foreignSource(issuer, by));
}

/** What would become of a token that a foreign issuer has made, whether or not that is active. Nothing is remembered. */
export async function examine(
  text: string,
  issuer: IssuerRecord,
  by: Believing,
  now: number,
): Promise<Result<{ readonly claims: Claims; readonly actor: Actor }, NotBelieved>> {
  const token = looksLikeToken(text) && text.length <= MAX_TOKEN_CHARS ? parseToken(text) : null;
  if (!token) return err("form");
  const claims = await verify(token, foreignSource(issuer, by), now);
  if (!claims.ok) return claims;
  const actor = mapClaims(issuer, claims.value);
  return actor.ok ? ok({ claims: claims.value, actor: actor.value }) : actor;
}

function foreignSource(issuer: IssuerRecord, by: Believing): Source {
  return {
    name: `${issuer.id}/${issuer.version}`,
    expected: expectedOf(issuer),
    keyOf: (token) => foreignKey(token, issuer, by),
    read: (claims) => readForeign(claims, issuer),
  };
}

function readOwn(claims: Claims): Result<Believed, Refusal> {
  const grant = readGrant(claims);
  return grant ? ok({ kind: "own", claims, grant }) : err("rights");
}

function readForeign(claims: Claims, issuer: IssuerRecord): Result<Believed, Refusal> {
  const actor = mapClaims(issuer, claims);
  return actor.ok ? ok({ kind: "foreign", claims, issuer, actor: actor.value }) : actor;
}

async function verify(
  token: ParsedToken,
  { expected, keyOf }: Source,
  now: number,
): Promise<Result<Claims, NotBelieved>> {
  const read = readClaims(token, expected, now);
  if (!read.ok) return read;
  const key = await keyOf(token);
  if (!key.ok) return err(key.error === "unknown" ? "key" : "unavailable");
  return verifyToken(token, key.value, expected, now);
}

const MAX_SECRETS = 200;
/** Opened and imported once, by what was sealed: no two seals are the same. */
const secrets = new Recent<VerificationKey>(MAX_SECRETS);

async function foreignKey({ kid }: ParsedToken, issuer: IssuerRecord, { sets, room }: Believing): Promise<KeyAnswer> {
  if (issuer.jwks_url !== null) return sets.key(issuer.jwks_url, kid);
  const sealed = issuer.sealed_secret;
  if (sealed === null) return err("unknown");
  const name = `${issuer.id}/${sealed.data}`;
  const known = secrets.get(name);
  if (known) return ok(known);
  const secret = await open(room.masterKeys, sealed, secretPlaceOf(issuer.id));
  // Sealed by a master key that is not here, which is the deployment's fault and no caller's.
  if (!secret.ok) return err("unavailable");
  const key = await readSharedSecret(secret.value);
  if (key) secrets.set(name, key);
  return key ? ok(key) : err("unknown");
}
