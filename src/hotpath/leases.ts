/** The isolate's one lease book, the clock that everything on the hot path decides by, and the way to the ledgers. */
import { loadWorkspaceRules } from "../identity/workspace-store.ts";
import { type Access, type Clock, LeaseBook } from "../ledger/lease-book.ts";
import type { Ledger } from "../ledger/protocol.ts";

export const clock: Clock = { now: () => Date.now(), wait: (ms) => scheduler.wait(ms) };

export const leaseBook = new LeaseBook(clock);

/** How a call reaches ledgers; what outlasts its answer is kept alive by `context`. */
export function accessFor(
  env: Env,
  context: { waitUntil(work: Promise<unknown>): void },
  ledgerDeadlineMs: number,
): Access {
  return {
    ledger: (name) => env.KEY_LEDGER.getByName(name) as unknown as Ledger,
    background: (work) => context.waitUntil(work),
    deadlineMs: ledgerDeadlineMs,
    since: leaseBook.now,
    storedRules: (workspace) => loadWorkspaceRules(env.DB, workspace),
  };
}

/** How old the policy may be by which a running stream is let go on. With the tap's look a revocation cuts within 2 s. */
const LIVE_MAX_AGE_MS = 500;

/** Asks whether a key has been revoked meanwhile. A ledger that can't be reached cuts nothing. */
export function whileLive(keyId: string, access: Access): () => Promise<boolean> {
  return async function mayGoOn() {
    const policy = await leaseBook.policyOf(keyId, access, LIVE_MAX_AGE_MS);
    return typeof policy === "string" || policy.revoked_at === null;
  };
}
