/**
 * Tokens of our own: what a key is traded for. A token acts as its key, which is looked at with every call as ever, and
 * has of the key's rights those that it names. It names the secret it was traded for by a mark, and dies with that.
 */
import { sha256Hex } from "../../digest.ts";
import { newId } from "../../wire/ids.ts";
import type { Patterns } from "../patterns.ts";
import { SCOPES, type Scope } from "../scopes.ts";
import { isTexts, type JsonObject, ownOf, toBase64Url } from "./form.ts";
import { type PublicAlgorithm, SIGNED } from "./keys.ts";
import type { Claims, Expected } from "./verify.ts";

/** RFC 9068 §2.1. */
const OWN_TYPE = "at+jwt";
const OWN_AUDIENCE = "sluice";
/** A browser that has lost its token gets another; one that was stolen is of no use for longer. */
export const MAX_LIFETIME_SECONDS = 3_600;

/** 64 bits: it tells one key's few secrets apart, and reveals nothing of them. */
const MARK_CHARS = 16;
const MARK = /^[0-9a-f]{16}$/;
const KEY_ID = /^key_[0-9a-hjkmnp-tv-z]{26}$/;

/** Rights that a token gives. */
export type Grant = {
  /** The key it acts as. */
  readonly keyId: string;
  readonly scopes: readonly Scope[];
  readonly models: Patterns;
  /** The only conversation it may be used for. Null: any of the key's. */
  readonly conversation: string | null;
  /** Which of the key's secrets it was traded for, as `secretMark` has it. */
  readonly secretMark: string;
};

/** A key that signs: in memory alone, and not to be read out of it. */
export type SigningKey = { readonly kid: string; readonly alg: PublicAlgorithm; readonly privateKey: CryptoKey };

export type Minted = { readonly token: string; readonly id: string; readonly expiresAt: number };

const encoder = new TextEncoder();

/** `secretSha256`: as key records have it. */
export async function secretMark(secretSha256: string): Promise<string> {
  return (await sha256Hex(secretSha256)).slice(0, MARK_CHARS);
}

/**
 * A token from this second on. `issuer`: the setting, never what a caller says our name is. `lifetimeSeconds` is cut to an
 * hour. `expiresAt`: seconds since the epoch.
 */
export async function mintToken(
  grant: Grant & { readonly issuer: string; readonly lifetimeSeconds: number },
  { kid, alg, privateKey }: SigningKey,
  now: number,
): Promise<Minted> {
  const issuedAt = Math.floor(now / 1_000);
  const expiresAt = issuedAt + Math.max(1, Math.min(MAX_LIFETIME_SECONDS, Math.floor(grant.lifetimeSeconds)));
  const id = newId("tok", now);
  const claims: JsonObject = {
    ...{
      iss: grant.issuer,
      aud: OWN_AUDIENCE,
      sub: grant.keyId,
      jti: id,
      iat: issuedAt,
      nbf: issuedAt,
      exp: expiresAt,
    },
    ...{ scope: grant.scopes.join(" "), sec: grant.secretMark },
    ...(grant.models === null ? {} : { models: grant.models }),
    ...(grant.conversation === null ? {} : { conversation: grant.conversation }),
  };
  const bare = `${part({ alg, kid, typ: OWN_TYPE })}.${part(claims)}`;
  const signature = await crypto.subtle.sign(SIGNED[alg], privateKey, encoder.encode(bare));
  return { token: `${bare}.${toBase64Url(new Uint8Array(signature))}`, id, expiresAt };
}

function part(value: JsonObject): string {
  return toBase64Url(encoder.encode(JSON.stringify(value)));
}

/** What our own tokens must be. */
export function ownExpected(issuer: string): Expected {
  return {
    issuer,
    audiences: [OWN_AUDIENCE],
    types: [OWN_TYPE],
    algorithms: ["ES256", "RS256"],
    maxLifetimeSeconds: MAX_LIFETIME_SECONDS,
  };
}

/** The rights in a verified token of our own; null for claims that we do not write so. A scope we don't know gives nothing. */
export function readGrant({ subject, all }: Claims): Grant | null {
  const own = ownOf(all);
  const [scope, models, conversation, mark] = [own("scope"), own("models"), own("conversation"), own("sec")];
  if (subject === null || !KEY_ID.test(subject) || typeof scope !== "string") return null;
  if (typeof mark !== "string" || !MARK.test(mark)) return null;
  if (models !== undefined && !isTexts(models)) return null;
  if (conversation !== undefined && typeof conversation !== "string") return null;
  const named = scope.split(" ");
  return {
    keyId: subject,
    scopes: SCOPES.filter((one) => named.includes(one)),
    models: models ?? null,
    conversation: conversation ?? null,
    secretMark: mark,
  };
}
