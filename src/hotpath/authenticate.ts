/**
 * Who is calling: a credential becomes the policy of a live key, or one and the same refusal for every reason. Form
 * and tag are checked first, so a forged key costs two hashes and asks nobody.
 */
import type { AppContext, LogFacts } from "../context.ts";
import { type ParsedKey, parseKey } from "../identity/api-key.ts";
import { readCredential } from "../identity/credential.ts";
import { looksLikeToken } from "../identity/jwt/form.ts";
import { LEEWAY_SECONDS } from "../identity/jwt/verify.ts";
import { type KeyPolicy, secretIsLive } from "../identity/key-record.ts";
import { loadPolicy } from "../identity/key-store.ts";
import { narrowed, type Rights } from "../identity/rights.ts";
import { believingOf, secretOf, shownBy, speakerRefused } from "../identity/tokens.ts";
import type { Access } from "../ledger/lease-book.ts";
import { LEASE_MS } from "../ledger/protocol.ts";
import { err, ok, type Result } from "../result.ts";
import type { Failure } from "../wire/errors.ts";
import { within } from "../within.ts";
import { accessFor, clock, leaseBook } from "./leases.ts";

/** Keys whose tag this isolate has verified. Only genuine ones get in, so nobody else can fill it. */
const MAX_VERIFIED = 10_000;
const verified = new Map<string, ParsedKey>();

/**
 * A genuine key that the policy at hand refuses may be one that was made a moment ago: a policy older than this is
 * asked for anew before it is refused. Shorter than the way from a rotation's answer to the new secret's first use, and
 * long enough that an old secret, however often it comes, asks its own ledger no more than fifty times a second.
 */
const RECHECK_MS = 20;

/** How long a request waits for D1 in place of a ledger. */
const STORED_DEADLINE_MS = 1_000;

export const LEDGER_AWAY = {
  kind: "unavailable",
  what: "The key's ledger",
  retryAfterMs: 1000,
} as const satisfies Failure;

export type Caller = {
  readonly policy: KeyPolicy;
  readonly access: Access;
  /** Of the key's secrets the one that was shown; null: none was, and the key itself is what counts. */
  readonly secretSha256: string | null;
  /** Of the token that was shown; `policy` reaches no further. Null: the key itself was. */
  readonly rights: Rights | null;
};

export function authenticate(c: AppContext): Promise<Result<Caller, Failure>> {
  const credential = readCredential(c.var.call.headers);
  const key = credential === null ? undefined : verified.get(credential);
  return key ? callerAtDoor(c, key) : verify(c, credential);
}

/** By a token: the key that it acts as, with what it leaves of that key's rights. */
async function believed(c: AppContext, token: string): Promise<Result<Caller, Failure>> {
  const { settings, log, startedAt } = c.var.call;
  const shown = await shownBy(token, believingOf(c.env, settings), startedAt, (word) => {
    log.token_refused = word;
  });
  if (!shown.ok) return shown;
  const { keyId: id, secretMark, rights } = shown.value;
  return callerAtDoor(c, { id, secretSha256: null, secretMark, rights });
}

async function verify(c: AppContext, credential: string | null): Promise<Result<Caller, Failure>> {
  if (credential === null) return err({ kind: "unauthenticated" });
  if (looksLikeToken(credential)) return believed(c, credential);
  const key = await parseKey(c.var.call.settings.keyTagSecrets, credential);
  if (!key) return err({ kind: "unauthenticated" });
  if (verified.size >= MAX_VERIFIED) verified.clear();
  verified.set(credential, key);
  return callerAtDoor(c, key);
}

function callerAtDoor(c: AppContext, key: Asking): Promise<Result<Caller, Failure>> {
  const { settings, log, startedAt } = c.var.call;
  return callerOf(key, startedAt, log, c.env.DB, accessFor(c.env, c.executionCtx, settings.ledgerDeadlineMs));
}

/** What is known of a caller before its key is asked for. */
export type Asking = {
  readonly id: string;
  /** Null: no secret was shown, or it is one with this mark. */
  readonly secretSha256: string | null;
  readonly secretMark?: string | null;
  readonly rights?: Rights | null;
};

/** Whose key this is, if it is live; what is known of it is at most `maxAgeMs` old, as far as anybody can be asked. */
export async function callerOf(
  { id, secretSha256, secretMark: mark = null, rights = null }: Asking,
  at: number,
  log: LogFacts,
  db: D1Database,
  access: Access,
  maxAgeMs = LEASE_MS,
): Promise<Result<Caller, Failure>> {
  if (rights && endOf(rights) <= at) return err({ kind: "unauthenticated" });
  const refused = rights?.speaker ? await speakerRefused(db, rights.speaker) : null;
  if (refused) return err(refused);
  for (const ageMs of [maxAgeMs, RECHECK_MS]) {
    let policy = await leaseBook.policyOf(id, access, ageMs);
    if (policy === "unreachable") {
      const known = await knownPolicy(db, id);
      if (!known) return err(LEDGER_AWAY);
      policy = known;
    }
    if (policy === "unknown") break;
    if (!secretIsLive(policy, secretSha256, at)) continue;
    const secret = mark === null ? secretSha256 : await secretOf(policy, mark, at);
    if (mark !== null && secret === null) continue;
    log.key_id = id;
    return ok({ policy: rights ? narrowed(policy, rights) : policy, access, secretSha256: secret, rights });
  }
  return err({ kind: "unauthenticated" });
}

/** Ours end when they say so; another issuer's clock may differ from ours, and its tokens are verified with that in mind. */
function endOf({ expiresAt, speaker }: Rights): number {
  return speaker === null ? expiresAt : expiresAt + LEEWAY_SECONDS * 1_000;
}

/**
 * What admission decides by when a key's ledger is away: the policy as D1 has it, looked at every two seconds, else as it
 * was last heard of here. One that is refused without its ledger anyway is not looked for again.
 */
async function knownPolicy(db: D1Database, keyId: string): Promise<KeyPolicy | null> {
  const key = leaseBook.key(keyId);
  const known = key.policy as KeyPolicy | undefined;
  const now = clock.now();
  const looked = now < key.storedUntil && key.storedUntil - now <= LEASE_MS;
  if (known && (looked || !known.fail_open)) return known;
  key.storedUntil = now + LEASE_MS;
  try {
    const stored = await within(STORED_DEADLINE_MS, loadPolicy(db, keyId));
    if (stored === null) return null;
    key.read(stored);
  } catch {
    // D1 is away too, or late. What was heard of the key last counts, or the caller is told that the ledger is away.
  }
  return (key.policy as KeyPolicy | undefined) ?? null;
}
