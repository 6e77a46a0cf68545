/**
 * Who is calling: a credential becomes the policy of a live key, or one and the same refusal for every reason. Form
 * and tag are checked first, so a forged key costs two hashes and asks nobody.
 */
import type { AppContext } from "../context.ts";
import { type ParsedKey, parseKey } from "../identity/api-key.ts";
import { readCredential } from "../identity/credential.ts";
import { type KeyPolicy, secretIsLive } from "../identity/key-record.ts";
import { loadPolicy } from "../identity/key-store.ts";
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
  /** Of the key's secrets the one that was shown. */
  readonly secretSha256: string;
};

export async function authenticate(c: AppContext): Promise<Result<Caller, Failure>> {
  const { settings, log, startedAt, headers } = c.var.call;
  const credential = readCredential(headers);
  if (credential === null) return err({ kind: "unauthenticated" });
  let key = verified.get(credential);
  if (!key) {
    const parsed = await parseKey(settings.keyTagSecrets, credential);
    if (!parsed) return err({ kind: "unauthenticated" });
    key = parsed;
    if (verified.size >= MAX_VERIFIED) verified.clear();
    verified.set(credential, key);
  }
  const access = accessFor(c.env, c.executionCtx, settings.ledgerDeadlineMs);
  for (const maxAgeMs of [LEASE_MS, RECHECK_MS]) {
    let policy = await leaseBook.policyOf(key.id, access, maxAgeMs);
    if (policy === "unreachable") {
      const known = await knownPolicy(c.env.DB, key.id);
      if (!known) return err(LEDGER_AWAY);
      policy = known;
    }
    if (policy === "unknown") break;
    if (!secretIsLive(policy, key.secretSha256, startedAt)) continue;
    log.key_id = key.id;
    return ok({ policy, access, secretSha256: key.secretSha256 });
  }
  return err({ kind: "unauthenticated" });
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
