/**
 * What every Messages call goes through before an upstream hears of it, whether it came to the door (relay.ts) or the
 * gateway makes it itself for a key (inner-call.ts): what it needs of its accounts, its admission, where it may go, and how
 * a refusal is recorded.
 */
import type { Denial } from "../audit/record.ts";
import { mayUseModel, secretIsLive } from "../identity/key-record.ts";
import type { NeedFor } from "../ledger/lease-book.ts";
import type { Wanted } from "../upstream/pool.ts";
import type { RequestFacts } from "../wire/anthropic/request.ts";
import { describeFailure, type Failure } from "../wire/errors.ts";
import { type Caller, LEDGER_AWAY } from "./authenticate.ts";
import { clock, leaseBook } from "./leases.ts";
import { guess, JUST_A_REQUEST, needOf } from "./need.ts";
import { priceTable } from "./price-table.ts";
import type { CallRecord } from "./settle.ts";

/** Of a call that costs no tokens. */
export const needsOneRequest: NeedFor = () => JUST_A_REQUEST;

/** What a call needs whose answer costs tokens: as much as is usual for its key, at today's prices. */
export function billedNeed(
  { policy, access }: Caller,
  record: CallRecord,
  asked: RequestFacts,
  db: D1Database,
): NeedFor {
  const { facts } = record;
  const { startedAt } = facts;
  const { usual } = leaseBook.key(policy.id);
  const prices = priceTable.current();
  const refresh = priceTable.refreshIfDue(db);
  if (refresh) access.background(refresh);
  const guessed = guess(asked, usual, prices, startedAt);
  facts.stream = asked.stream;
  facts.maxTokens = asked.maxTokens;
  facts.guess = guessed;
  return (rules) => needOf(rules, asked, guessed, usual, prices, startedAt);
}

/**
 * Has a call admitted, when it is its turn; from then on the record holds what was reserved for it. Else why not. It waits
 * for a slot for `forMs` at most, and no longer than until the signal fires.
 */
export async function admit(
  { policy, access, secretSha256 }: Caller,
  record: CallRecord,
  needFor: NeedFor,
  forMs: number,
  signal: AbortSignal,
): Promise<Failure | "client gone" | null> {
  const { modelRequested } = record.facts;
  const asked = clock.now();
  const admission = await leaseBook.admit(policy, needFor, access, {
    forMs,
    signal,
    refused(now) {
      if (!secretIsLive(now, secretSha256, clock.now())) return { kind: "unauthenticated" };
      return modelRequested === null || mayUseModel(now, modelRequested)
        ? null
        : { kind: "model_not_allowed", model: modelRequested };
    },
  });
  record.facts.ledgerMs = clock.now() - asked;
  switch (admission.kind) {
    case "admitted":
      record.facts.admission = admission.reservation.by;
      record.hold(admission.reservation);
      return null;
    case "denied":
      return admission.failure;
    case "left":
      return "client gone";
    case "unknown":
      return { kind: "unauthenticated" };
    case "unreachable":
      return LEDGER_AWAY;
  }
}

/** Which upstreams can answer a body. `thoughtsOf` is heeded where there is thinking in it. */
export function wantedFor(
  { model, bound }: Pick<RequestFacts, "model" | "bound">,
  pinned: string | null,
  thoughtsOf: string | null | undefined,
): Omit<Wanted, "affinity"> {
  if (!bound || thoughtsOf === undefined) return { model, bound, pinned };
  return { model, bound: false, pinned, thoughtsOf };
}

/** That the only upstream which can answer is not in the pool says more than that there is none. */
export function aboutHolder(failure: Failure, { pinned }: Pick<Wanted, "pinned">): Failure {
  return failure.kind === "no_upstream" && pinned !== null ? { kind: "holder_removed", upstream: pinned } : failure;
}

/** Settles a call that has no answer, unless whoever knows more of it has. Returns its status. */
export function settleFailed(record: CallRecord, failure: Failure): number {
  const { status, type } = describeFailure(failure);
  record.settle({ status, outcome: "error", errorType: type, denial: denialOf(failure) });
  return status;
}

function denialOf(failure: Failure): Denial | null {
  switch (failure.kind) {
    case "rate_limited":
    case "exceeds_bucket":
      // An account of the gateway's own is no limit of the caller's.
      if (failure.scope === "upstream") return null;
      return failure.scope === "workspace" ? `workspace_${failure.limit}` : failure.limit;
    case "over_budget":
      return failure.scope === "workspace" ? "workspace_budget" : "budget";
    case "unavailable":
      return failure.what === LEDGER_AWAY.what ? "ledger" : null;
    case "guardrails":
      return "guardrails";
    default:
      return null;
  }
}
