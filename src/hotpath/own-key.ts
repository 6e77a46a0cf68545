/** `GET /v1/key`: what the calling key may do, what is left of it, and when that comes back. */
import { fail, guarded, json } from "../context.ts";
import { refusalOf } from "../identity/attempts.ts";
import { limitsNothing } from "../identity/key-record.ts";
import { keyView, type WorkspaceStanding } from "../identity/key-view.ts";
import type { Borrower } from "../ledger/borrower.ts";
import { describeFailure } from "../wire/errors.ts";
import { authenticate, LEDGER_AWAY } from "./authenticate.ts";
import { clock, leaseBook } from "./leases.ts";
import { openRecord } from "./settle.ts";

/** 200 with the state of this moment, asked of the ledgers; takes nothing from any bucket. */
export const readOwnKey = guarded("key", async (c) => {
  const caller = await authenticate(c);
  if (!caller.ok) return fail(c, await refusalOf(c, caller.error));
  const { policy, access, rights } = caller.value;
  const record = openRecord(c, caller.value, "/v1/key");
  const key = leaseBook.key(policy.id);
  const workspace = leaseBook.workspace(policy.workspace);
  const asked = await Promise.all([leaseBook.refresh(key, access), leaseBook.refresh(workspace, access)]);
  const now = clock.now();
  const own = key.standing(now);
  if (asked.includes("unreachable") || !own) {
    const { status, type } = describeFailure(LEDGER_AWAY);
    record.settle({ status, outcome: "error", errorType: type, denial: "ledger" });
    return fail(c, LEDGER_AWAY);
  }
  record.settle({ status: 200, outcome: "complete" });
  const running = { running: key.running };
  return json(c, 200, keyView(policy, { ...own, ...running }, shared(workspace, now), rights, now));
});

/** Null: the workspace limits nothing. */
function shared(workspace: Borrower, now: number): WorkspaceStanding | null {
  const standing = workspace.standing(now);
  const rules = workspace.policy;
  if (!standing || !rules || limitsNothing(rules)) return null;
  return { rules, standing: { ...standing, running: workspace.running } };
}
