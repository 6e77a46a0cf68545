/** Tokens at the door: what this isolate has to believe them by, and as which key, with which of its rights, each acts. */
import { type Settings, settingsOf } from "../env.ts";
import { err, ok, type Result } from "../result.ts";
import type { Failure } from "../wire/errors.ts";
import { type Believed, type Believing, believe, type Remembered } from "./jwt/believe.ts";
import { type Actor, isMarkOf, markOf } from "./jwt/issuer.ts";
import { Issuers } from "./jwt/issuer-store.ts";
import { keepTokens } from "./jwt/keep-signing-keys.ts";
import { KeySets } from "./jwt/key-set.ts";
import { secretMark } from "./jwt/own-token.ts";
import { SigningKeys } from "./jwt/signing.ts";
import { VerifiedTokens } from "./jwt/verified.ts";
import { type KeyPolicy, secretIsLive } from "./key-record.ts";
import type { Rights, Speaker } from "./rights.ts";
import { CONTROL_SCOPES, holds, SCOPES, type Scope } from "./scopes.ts";

export const AGAIN_MS = 1_000;

const held = {
  signing: new SigningKeys(),
  issuers: new Issuers(),
  sets: new KeySets(),
  verified: new VerifiedTokens<Remembered>(),
};

export function believingOf({ DB: db }: Env, settings: Settings): Believing {
  const { tokenIssuer: issuer, tokenAlg: alg, masterKeys, keySetUrls } = settings;
  return { ...held, issuer, room: { db, masterKeys, alg }, keySetUrls };
}

/** This isolate's next call must not believe whom its own administrator has just said it shall not. */
export function outdateIssuers(): void {
  held.issuers.outdate();
}

/** Whom a token shows: a key, the mark of the secret that it was traded for, and what is left of the key's rights. */
export type Shown = {
  readonly keyId: string;
  /** Null: it was not traded for any. */
  readonly secretMark: string | null;
  readonly rights: Rights;
};

const VERIFIER_AWAY: Failure = {
  kind: "unavailable",
  what: "What this token is verified by",
  retryAfterMs: AGAIN_MS,
};

/** `text`: what `looksLikeToken`. `note` gets the word for why it is not believed, for the log. */
export async function shownBy(
  text: string,
  by: Believing,
  now: number,
  note: (word: string) => void,
): Promise<Result<Shown, Failure>> {
  const believed = await believe(text, by, now);
  if (believed.ok) return ok(await shownOf(believed.value));
  note(believed.error);
  return err(believed.error === "unavailable" ? VERIFIER_AWAY : { kind: "unauthenticated" });
}

async function shownOf(believed: Believed): Promise<Shown> {
  if (believed.kind === "own") {
    const expiresAt = believed.claims.expiresAt * 1_000;
    const { keyId, secretMark, scopes, models, conversation } = believed.grant;
    return { keyId, secretMark, rights: { scopes, models, conversation, expiresAt, speaker: null } };
  }
  const { actor, claims, issuer } = believed;
  const speaker = { issuer: claims.issuer, subject: claims.subject, mark: await markOf(issuer, actor.nth) };
  const rights = { ...leftBy(actor), conversation: null, expiresAt: claims.expiresAt * 1_000, speaker };
  return { keyId: actor.key, secretMark: null, rights };
}

/** What is left of a key's rights to whom an issuer's mapping has it act. */
export function leftBy(actor: Pick<Actor, "scopes" | "models" | "admin">): Pick<Rights, "scopes" | "models"> {
  return { scopes: scopesOf(actor), models: actor.models };
}

/** Of the control plane, and of what an admin scope holds beside it, only what its mapping says in so many words. */
function scopesOf({ scopes, admin }: Pick<Actor, "scopes" | "admin">): readonly Scope[] {
  const data =
    scopes?.filter((scope) => !CONTROL_SCOPES.includes(scope)) ?? SCOPES.filter((scope) => !holds(["admin"], scope));
  if (admin === null) return data;
  return [...data, "admin:read", ...(admin === "write" ? (["admin:write"] as const) : [])];
}

/**
 * Whether somebody is still listened to whom a token spoke for when it was shown: null, or why not. It is out of force two
 * seconds after his issuer was disabled or removed, he was blocked, or what let him in has changed.
 */
export async function speakerRefused(db: D1Database, { issuer, subject, mark }: Speaker): Promise<Failure | null> {
  const found = await held.issuers.find(db, issuer);
  if (found === "unavailable") return VERIFIER_AWAY;
  const isBlocked = subject !== null && found?.blocked_subjects.includes(subject);
  const isHeard = found?.state === "active" && !isBlocked && (await isMarkOf(found, mark));
  return isHeard ? null : { kind: "unauthenticated" };
}

/** The key's live secret with this mark; null: none has it, or not any more. */
export async function secretOf(policy: KeyPolicy, mark: string, at: number): Promise<string | null> {
  for (const { sha256 } of policy.secrets) {
    if (secretIsLive(policy, sha256, at) && (await secretMark(sha256)) === mark) return sha256;
  }
  return null;
}

/** The cron's part. */
export async function keepTokensOf(env: Env, now: () => number): Promise<void> {
  const settings = settingsOf(env);
  // Another part of the cron says so.
  if (settings.ok) await keepTokens(believingOf(env, settings.value).room, now());
}
