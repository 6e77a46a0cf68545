/**
 * What one isolate knows of the keys it serves: their policies, the requests it may admit without asking, and the
 * settlements it has not handed in yet. All of it may be lost at any time: a lost allowance is a little capacity gone,
 * and settlements are handed in within milliseconds (their loss with a dying isolate is the race left open here).
 *
 * Requests never wait for each other's promises: work begun by a call that is cancelled would never finish for the
 * others. On a cold key each concurrent call therefore asks the ledger itself.
 */
import type { KeyPolicy } from "../identity/key-record.ts";
import { LEASE_MS, type Ledger, type Settlement } from "./protocol.ts";

/** Calls to the ledger are given up after this long. */
const LEDGER_DEADLINE_MS = 5_000;
/** Keys remembered by one isolate; the longest known go first. */
const MAX_KEYS = 10_000;
/** How long a settlement waits for others to travel with. */
const SETTLE_DELAY_MS = 50;
const SETTLE_ATTEMPTS = 4;
const SETTLE_RETRY_MS = 500;
/** A call that has been collecting for this long was cancelled; the next one takes its place. */
const COLLECTING_ABANDONED_MS = 1_000;

export type RequestQuota = {
  readonly limit: number;
  readonly remaining: number;
  /** When the bucket is full again, ms since the epoch. */
  readonly resetAt: number;
};

/** The way to a key's ledger; taken anew for each call, since one that has failed stays broken. */
export type LedgerOf = () => Ledger;

export type Admission =
  | { readonly kind: "admitted"; readonly quota: RequestQuota | null }
  | { readonly kind: "denied"; readonly quota: RequestQuota; readonly retryAfterMs: number }
  | { readonly kind: "unknown" }
  | { readonly kind: "unreachable" };

/** Platform pieces that decide by time, passed in. */
export type Clock = { now(): number; wait(ms: number): Promise<unknown> };

class KeyEntry {
  policy: KeyPolicy | undefined;
  validUntil = 0;
  /** Requests that may be admitted without a call. */
  left = 0;
  /** Until then the answer is no without asking again. */
  deniedUntil = 0;
  /** When a request could be admitted again, ms since the epoch. */
  retryAt = 0;
  remaining = 0;
  resetAt = 0;
  /** Requests that asked in the present and in the last full second: the demand that a lease is sized by. */
  demandNow = 0;
  demandBefore = 0;
  demandSince = 0;
  pending: Settlement[] = [];
  collectingSince = 0;
}

export class LeaseBook {
  readonly #keys = new Map<string, KeyEntry>();
  readonly #clock: Clock;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** The key's policy, at most `maxAgeMs` old (LEASE_MS at the very most). */
  async policyOf(keyId: string, ledger: LedgerOf, maxAgeMs = LEASE_MS): Promise<KeyPolicy | "unknown" | "unreachable"> {
    const entry = this.#entry(keyId);
    if (entry.policy && this.#clock.now() < entry.validUntil - LEASE_MS + maxAgeMs) return entry.policy;
    const outcome = await this.#lease(entry, ledger);
    return outcome === "leased" && entry.policy ? entry.policy : outcome === "leased" ? "unknown" : outcome;
  }

  /** Admits one request of the key, from the allowance at hand or by asking the ledger. */
  async admit(keyId: string, ledger: LedgerOf): Promise<Admission> {
    const entry = this.#entry(keyId);
    const now = this.#clock.now();
    count(entry, now);
    if (now >= entry.validUntil || (this.#limited(entry) && entry.left === 0 && now >= entry.deniedUntil)) {
      const outcome = await this.#lease(entry, ledger);
      if (outcome !== "leased") return { kind: outcome };
    }
    const limit = entry.policy?.limits.requests_per_minute;
    if (limit === undefined) return { kind: "admitted", quota: null };
    const admitted = entry.left > 0;
    if (admitted) entry.left--;
    const quota = { limit, remaining: entry.remaining + entry.left, resetAt: entry.resetAt };
    if (admitted) return { kind: "admitted", quota };
    return { kind: "denied", quota, retryAfterMs: Math.max(1, entry.retryAt - this.#clock.now()) };
  }

  /**
   * Hands a settlement to the ledger, together with those of other calls that end in the same moment. Resolves when
   * this call has nothing left to do; meant for `waitUntil`.
   */
  async settle(keyId: string, settlement: Settlement, ledger: LedgerOf): Promise<void> {
    const entry = this.#entry(keyId);
    entry.pending.push(settlement);
    const started = this.#clock.now();
    if (started - entry.collectingSince < COLLECTING_ABANDONED_MS) return;
    entry.collectingSince = started;
    await this.#clock.wait(SETTLE_DELAY_MS);
    // Whoever settles from here on collects anew, so that this call ends when its own batch is stored.
    const batch = entry.pending;
    entry.pending = [];
    entry.collectingSince = 0;
    for (let attempt = 1; batch.length > 0; attempt++) {
      try {
        await ledger().settle(batch);
        return;
      } catch (error) {
        if (attempt === SETTLE_ATTEMPTS) return logUnsettled(keyId, batch, error);
        await this.#clock.wait(SETTLE_RETRY_MS * attempt);
      }
    }
  }

  #limited(entry: KeyEntry): boolean {
    return entry.policy?.limits.requests_per_minute !== undefined;
  }

  async #lease(entry: KeyEntry, ledger: LedgerOf): Promise<"leased" | "unknown" | "unreachable"> {
    const asked = this.#clock.now();
    const unused = asked >= entry.validUntil ? entry.left : 0;
    if (unused > 0) entry.left = 0;
    const settlements = entry.pending;
    entry.pending = [];
    const want = Math.max(1, entry.demandNow, entry.demandBefore);
    let lease: Awaited<ReturnType<Ledger["lease"]>> | "late";
    try {
      const deadline = this.#clock.wait(LEDGER_DEADLINE_MS).then((): "late" => "late");
      lease = await Promise.race([ledger().lease({ want, unused, settlements }), deadline]);
    } catch {
      lease = "late";
    }
    if (lease === "late") {
      // Settling twice is settling once, so they can simply wait for the next call.
      entry.pending = [...settlements, ...entry.pending];
      return "unreachable";
    }
    if (lease === null) return "unknown";
    // Valid from the moment of asking: the answer is not fresher than that. A late answer never replaces a newer one.
    if (!entry.policy || lease.policy.version >= entry.policy.version) entry.policy = lease.policy;
    entry.validUntil = Math.max(entry.validUntil, asked + LEASE_MS);
    if (lease.granted !== null) {
      const now = this.#clock.now();
      entry.left += lease.granted;
      entry.remaining = lease.remaining ?? 0;
      entry.resetAt = now + lease.fullInMs;
      entry.retryAt = lease.granted > 0 ? 0 : now + lease.retryAfterMs;
      entry.deniedUntil = Math.min(entry.retryAt, entry.validUntil);
    }
    return "leased";
  }

  #entry(keyId: string): KeyEntry {
    let entry = this.#keys.get(keyId);
    if (entry) return entry;
    if (this.#keys.size >= MAX_KEYS) {
      for (const [id, old] of this.#keys) {
        if (old.pending.length > 0) continue;
        this.#keys.delete(id);
        break;
      }
    }
    entry = new KeyEntry();
    this.#keys.set(keyId, entry);
    return entry;
  }
}

/** Counts a request into its second. */
function count(entry: KeyEntry, now: number): void {
  const elapsed = now - entry.demandSince;
  if (elapsed >= 1000) {
    entry.demandBefore = elapsed < 2000 ? entry.demandNow : 0;
    entry.demandNow = 0;
    entry.demandSince = now;
  }
  entry.demandNow++;
}

/** The last resort: the records go to the log, which holds no secret of theirs, so that they can be booked by hand. */
function logUnsettled(keyId: string, settlements: readonly Settlement[], error: unknown): void {
  for (const { record } of settlements) {
    console.error(JSON.stringify({ level: "error", msg: "unsettled", key_id: keyId, record, error: String(error) }));
  }
}
