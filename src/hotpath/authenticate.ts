/**
 * Who is calling: a credential becomes the policy of a live key, or one and the same refusal for every reason. Form
 * and tag are checked first, so a forged key costs two hashes and asks nobody.
 */
import type { AppContext } from "../context.ts";
import { type ParsedKey, parseKey } from "../identity/api-key.ts";
import { readCredential } from "../identity/credential.ts";
import { type KeyPolicy, secretIsLive } from "../identity/key-record.ts";
import type { LedgerOf } from "../ledger/lease-book.ts";
import { LEASE_MS, type Ledger } from "../ledger/protocol.ts";
import { err, ok, type Result } from "../result.ts";
import type { Failure } from "../wire/errors.ts";
import { leaseBook } from "./leases.ts";

/** Keys whose tag this isolate has verified. Only genuine ones get in, so nobody else can fill it. */
const MAX_VERIFIED = 10_000;
const verified = new Map<string, ParsedKey>();

/**
 * A genuine key that the policy at hand refuses may be one that was made a moment ago: a policy older than this is
 * asked for anew before it is refused.
 */
const RECHECK_MS = 250;

export type Caller = { readonly policy: KeyPolicy; readonly ledger: LedgerOf };

export async function authenticate(c: AppContext): Promise<Result<Caller, Failure>> {
  const { settings, log, startedAt } = c.var.call;
  const credential = readCredential(c.req.raw.headers);
  if (credential === null) return err({ kind: "unauthenticated" });
  let key = verified.get(credential);
  if (!key) {
    const parsed = await parseKey(settings.keyTagSecrets, credential);
    if (!parsed) return err({ kind: "unauthenticated" });
    key = parsed;
    if (verified.size >= MAX_VERIFIED) verified.clear();
    verified.set(credential, key);
  }
  const { id } = key;
  const ledger: LedgerOf = () => c.env.KEY_LEDGER.getByName(id) as unknown as Ledger;
  for (const maxAgeMs of [LEASE_MS, RECHECK_MS]) {
    const policy = await leaseBook.policyOf(key.id, ledger, maxAgeMs);
    if (policy === "unreachable") return err({ kind: "unavailable", what: "The key's ledger", retryAfterMs: 1000 });
    if (policy === "unknown") break;
    if (!secretIsLive(policy, key.secretSha256, startedAt)) continue;
    log.key_id = key.id;
    return ok({ policy, ledger });
  }
  return err({ kind: "unauthenticated" });
}
