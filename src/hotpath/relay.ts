/**
 * The way of a relayed call, from the door to the last byte: authenticate, check, admit, forward, settle. From the moment
 * the caller is known every way out goes through `record.settle`.
 */
import type { Denial } from "../audit/record.ts";
import { readJsonBytes } from "../body.ts";
import { type AppContext, fail, type Handler } from "../context.ts";
import { mayUseModel, type Scope } from "../identity/key-record.ts";
import type { NeedFor } from "../ledger/lease-book.ts";
import { err, ok, type Result } from "../result.ts";
import { deniedHeaders, type HeaderFields, limitHeaders, tightest } from "../wire/anthropic/limit-headers.ts";
import { readRequestFacts } from "../wire/anthropic/request.ts";
import { describeFailure, type Failure } from "../wire/errors.ts";
import { upstreamRequestHeaders } from "../wire/headers.ts";
import { authenticate, type Caller, LEDGER_AWAY } from "./authenticate.ts";
import { forwardToDrain } from "./drain.ts";
import { CLIENT_GONE_STATUS, type Forwarding, forward } from "./forward.ts";
import { clock, leaseBook, whileLive } from "./leases.ts";
import { guess, JUST_A_REQUEST, needOf } from "./need.ts";
import { priceTable } from "./price-table.ts";
import { type CallRecord, openRecord } from "./settle.ts";

export type RelayRoute = {
  /** The route's name in log and audit, and its path at the upstream unless `upstreamPath` says otherwise. */
  readonly name: string;
  readonly scope: Scope;
  /** The path to ask for, made of constants and validated parts. */
  readonly upstreamPath?: (c: AppContext) => Result<string, Failure>;
  /** Refuses a caller for what the path names. */
  readonly permit?: (c: AppContext, caller: Caller) => Failure | null;
  /** Whether the call carries a Messages body. */
  readonly hasBody: boolean;
  /** Whether the upstream makes tokens for it: what buckets of tokens and budgets are for. */
  readonly billed: boolean;
  /** Rewrites a complete 200 answer for this caller; null leaves its bytes as they are. */
  readonly rewrite?: (text: string, caller: Caller) => string | null;
};

/** The handler of a relayed route. */
export function relayed(route: RelayRoute): Handler {
  return async function relay(c) {
    const authenticated = await authenticate(c);
    if (!authenticated.ok) return fail(c, authenticated.error);
    const caller = authenticated.value;
    const { settings, requestId } = c.var.call;
    const record = openRecord(c, caller.policy, caller.access, route.name);
    const refuse = (failure: Failure): Response => {
      const wire = describeFailure(failure);
      record.settle({ status: wire.status, outcome: "error", errorType: wire.type, denial: denialOf(failure) });
      return fail(c, failure, ownHeaders(caller, wire.status));
    };
    try {
      const admitted = await admit(c, route, caller, record);
      if (!admitted.ok) return refuse(admitted.error);
      const forwarding = admitted.value;
      const { signal } = c.req.raw;
      const cut = caller.policy.on_revoke === "cut";
      const answer =
        route.billed && caller.policy.on_disconnect === "drain"
          ? await forwardToDrain(c.env.DRAIN, forwarding, record, signal, cut)
          : await forward(forwarding, record, signal, settings, {
              ...(route.rewrite ? { rewrite: (text) => route.rewrite?.(text, caller) ?? null } : {}),
              ...(cut ? { mayGoOn: whileLive(caller.policy.id, caller.access) } : {}),
            });
      if (!answer.ok)
        return answer.error === "client gone"
          ? new Response(null, { status: CLIENT_GONE_STATUS })
          : refuse(answer.error);
      const { headers, status } = answer.value;
      headers.set("x-sluice-request-id", requestId);
      const own = ownHeaders(caller, status);
      for (const name in own) headers.set(name, own[name] ?? "");
      return answer.value;
    } catch (bug) {
      refuse({ kind: "internal" });
      throw bug;
    }
  };
}

/** Checks a call and has it admitted; from then on the record holds what was reserved for it. */
async function admit(
  c: AppContext,
  route: RelayRoute,
  caller: Caller,
  record: CallRecord,
): Promise<Result<Forwarding, Failure>> {
  const { settings, startedAt, headers } = c.var.call;
  const { policy, access } = caller;
  const request = c.req.raw;
  if (!policy.scopes.includes(route.scope)) return err({ kind: "scope_missing", scope: route.scope });
  const path = route.upstreamPath ? route.upstreamPath(c) : ok(route.name);
  if (!path.ok) return path;
  const forbidden = route.permit?.(c, caller);
  if (forbidden) return err(forbidden);
  // Two values arrive joined by a comma, and no version has one.
  if (headers.get("anthropic-version")?.includes(",")) {
    return err({ kind: "invalid_request", message: "anthropic-version: more than one value" });
  }
  let body: Uint8Array | null = null;
  let needFor: NeedFor = () => JUST_A_REQUEST;
  if (route.hasBody) {
    const limit = Math.min(settings.maxRequestBytes, policy.limits.max_request_bytes ?? settings.maxRequestBytes);
    const bytes = await readJsonBytes(request, headers, limit);
    if (!bytes.ok) return bytes;
    body = bytes.value;
    const read = readRequestFacts(body);
    if (!read.ok) return read;
    const facts = read.value;
    record.facts.modelRequested = facts.model;
    if (!mayUseModel(policy, facts.model)) return err({ kind: "model_not_allowed", model: facts.model });
    if (route.billed) {
      const { usual } = leaseBook.key(policy.id);
      const prices = priceTable.current();
      const refresh = priceTable.refreshIfDue(c.env.DB);
      if (refresh) access.background(refresh);
      const guessed = guess(facts, usual, prices, startedAt);
      record.facts.stream = facts.stream;
      record.facts.maxTokens = facts.maxTokens;
      record.facts.guess = guessed;
      needFor = (rules) => needOf(rules, facts, guessed, usual, prices, startedAt);
    }
  }
  const asked = clock.now();
  const admission = await leaseBook.admit(policy, needFor, access);
  record.facts.ledgerMs = clock.now() - asked;
  switch (admission.kind) {
    case "admitted":
      record.facts.admission = admission.reservation.by;
      record.hold(admission.reservation);
      return ok({
        url: `${settings.upstreamUrl}${path.value}${queryOf(request.url)}`,
        method: request.method,
        headers: upstreamRequestHeaders(headers, settings.upstreamKey),
        body,
      });
    case "denied":
      return err(admission.failure);
    case "unknown":
      return err({ kind: "unauthenticated" });
    case "unreachable":
      return err(LEDGER_AWAY);
  }
}

/** The key's own state, or its workspace's where that is tighter (design §6). */
function ownHeaders({ policy }: Caller, status: number): HeaderFields {
  const now = clock.now();
  const key = leaseBook.key(policy.id).standing(now);
  if (!key) return {};
  const state = tightest(key, leaseBook.workspace(policy.workspace).standing(now));
  return status === 429 ? deniedHeaders(state, now) : limitHeaders(state, now);
}

function denialOf(failure: Failure): Denial | null {
  switch (failure.kind) {
    case "rate_limited":
    case "exceeds_bucket":
      return failure.scope === "workspace" ? `workspace_${failure.limit}` : failure.limit;
    case "over_budget":
      return failure.scope === "workspace" ? "workspace_budget" : "budget";
    case "unavailable":
      return "ledger";
    default:
      return null;
  }
}

/** The query as the client wrote it, `?` included. */
function queryOf(url: string): string {
  const at = url.indexOf("?");
  return at === -1 ? "" : url.slice(at);
}
