/**
 * A Messages call that the gateway makes by itself for a key: an upstream call of a conversation's turn. It goes the way of
 * a relayed one (relay.ts), less the door: the key's policy of this moment, admission, pool, retries, metering, ledgers and
 * audit are the same. From the moment the key is known every way out is settled, exactly once.
 *
 * Admitting and sending are two steps, so that what the call is made for can be stored in between, when it is certain that
 * it may be made. Whoever has admitted a call sends it or releases it; if the object dies instead, its loans expire and are
 * booked.
 */
import type { Call } from "../context.ts";
import { type Settings, settingsOf } from "../env.ts";
import { modelRefused, timeoutsFor } from "../identity/key-record.ts";
import type { Rights } from "../identity/rights.ts";
import type { NeedFor } from "../ledger/lease-book.ts";
import { LEASE_MS } from "../ledger/protocol.ts";
import { ownedUpstream } from "../ownership/store.ts";
import { err, ok, type Result } from "../result.ts";
import type { Wanted } from "../upstream/pool.ts";
import { modelsOf, readRequestFacts } from "../wire/anthropic/request.ts";
import type { Failure } from "../wire/errors.ts";
import { upstreamRequestHeaders } from "../wire/headers.ts";
import { newId } from "../wire/ids.ts";
import { aboutHolder, admit, billedNeed, needsOneRequest, settleFailed, wantedFor } from "./admit.ts";
import { type Caller, callerOf } from "./authenticate.ts";
import { CLIENT_GONE_STATUS, type Forwarding, type ForwardOptions, forward } from "./forward.ts";
import { betasAsked, type GuardAnswer, guardCall, type Shelf } from "./guard.ts";
import { accessFor, clock, whileLive } from "./leases.ts";
import { type CallRecord, recordOf, type Settled } from "./settle.ts";

/** Names of these calls in log and audit. No request has such a path, so they are never taken for those of clients. */
export const INNER_ROUTE = {
  turn: "/v1/conversations/:id/turn",
  summary: "/v1/conversations/:id/summary",
  count: "/v1/conversations/:id/count",
} as const;

export type InnerCall = {
  /** Whose call it is, and who pays. */
  readonly keyId: string;
  /** Null: whichever of the key's (the message was accepted with one that was live then). */
  readonly secretSha256: string | null;
  /** Of the token that was shown with it; null: it was the key itself. */
  readonly rights: Rights | null;
  /** The conversation's; the key must be of it. */
  readonly workspace: string;
  readonly route: (typeof INNER_ROUTE)[keyof typeof INNER_ROUTE];
  /** A count of tokens is free: it takes a request of its key, and nothing else. */
  readonly path: "/v1/messages" | "/v1/messages/count_tokens";
  /** JSON of a Messages body. */
  readonly body: Uint8Array;
  /** `anthropic-version`, `anthropic-beta`; names in lower case. */
  readonly headers: Readonly<Record<string, string>>;
  /** The conversation: which upstream it stays with. */
  readonly affinity: string;
  /** Organization that signed the body's thinking; null: unknown. Left out: there is none. */
  readonly thoughtsOf?: string | null;
  /** Whose words the body begins with; left out: no template's. */
  readonly template?: { readonly name: string; readonly version: number } | null;
  /** For the audit. */
  readonly conversation: string;
  readonly turn: string;
  readonly traceId: string;
  /** Where the conversation keeps which placeholder stands for what. */
  readonly placeholders?: Shelf;
  /** `user-agent`. */
  readonly client: string | null;
};

/** Admitted: to be sent or released, once. */
export type Admitted = {
  readonly requestId: string;
  /**
   * Sends it. The response is upstream's (an event stream, a message, or its error), or why there is none. When the signal
   * fires the upstream is stopped at once and the call settled with an estimate; a response's body breaks then.
   */
  send(signal: AbortSignal): Promise<Result<Response, Failure | "aborted">>;
  /** It is not sent after all: what was reserved goes back. Once it has been sent, this does nothing. */
  release(): void;
  /** Resolves when it has been settled. Never rejects. */
  readonly ended: Promise<Settled>;
};

/** What a Durable Object's state is needed for: work that outlasts an answer. */
type Context = { waitUntil(work: Promise<unknown>): void };

/**
 * Has a call admitted. It waits for a slot as a relayed one does (`QUEUE_WAIT_MS`), and no longer than until the signal
 * fires ("aborted"). A refusal is settled by then.
 */
export async function admitInner(
  call: InnerCall,
  env: Env,
  ctx: Context,
  signal: AbortSignal,
): Promise<Result<Admitted, Failure | "aborted">> {
  const settings = knownSettings(env);
  const opened = openedCall(call, settings);
  const caller = await callerFor(call, opened, env, ctx);
  if (!caller.ok) return caller;
  const record = recordOf(opened, "POST", env.DB, caller.value, call.route, "anthropic");
  record.facts.conversationId = call.conversation;
  record.facts.turnId = call.turn;
  record.facts.template = call.template?.name ?? null;
  record.facts.templateVersion = call.template?.version ?? null;
  const inner = new Inner({ call, opened, record, caller: caller.value, env, settings });
  try {
    const denied = await inner.admit(signal);
    return denied === null ? ok(inner) : err(denied);
  } catch (bug) {
    settleFailed(record, { kind: "internal" });
    throw bug;
  }
}

/**
 * Whether this key and secret may still be used for their workspace's conversations: null, or why not. Acts on what is
 * known of the key for `maxAgeMs` at most; where nobody can be asked, nothing speaks against it.
 */
export async function checkSender(
  sender: Pick<InnerCall, "keyId" | "secretSha256" | "workspace"> & Partial<Pick<InnerCall, "rights">>,
  env: Env,
  ctx: Context,
  maxAgeMs = LEASE_MS,
): Promise<Failure | null> {
  const { ledgerDeadlineMs } = knownSettings(env);
  const access = accessFor(env, ctx, ledgerDeadlineMs);
  const { keyId: id, secretSha256, rights = null } = sender;
  const caller = await callerOf({ id, secretSha256, rights }, clock.now(), {}, env.DB, access, maxAgeMs);
  if (!caller.ok) return caller.error.kind === "unavailable" ? null : caller.error;
  return isOf(caller.value, sender.workspace) ? lacksScope(caller.value) : { kind: "unauthenticated" };
}

/** Whose call it is, if the key is live and of the conversation's workspace. */
async function callerFor(call: InnerCall, opened: Call, env: Env, ctx: Context): Promise<Result<Caller, Failure>> {
  const access = accessFor(env, ctx, opened.settings.ledgerDeadlineMs);
  const { keyId: id, secretSha256, rights } = call;
  const caller = await callerOf({ id, secretSha256, rights }, opened.startedAt, opened.log, env.DB, access);
  return caller.ok && !isOf(caller.value, call.workspace) ? err({ kind: "unauthenticated" }) : caller;
}

function isOf({ policy }: Caller, workspace: string): boolean {
  return policy.workspace === workspace;
}

function lacksScope({ policy }: Caller): Failure | null {
  return policy.scopes.includes("conversations") ? null : { kind: "scope_missing", scope: "conversations" };
}

/** Settings are checked at the door, which a conversation has come through. */
function knownSettings(env: Env): Settings {
  const settings = settingsOf(env);
  if (!settings.ok) throw new Error(settings.error);
  return settings.value;
}

/** The facts that a call at the door has. */
function openedCall({ client, traceId }: InnerCall, settings: Settings): Call {
  const startedAt = clock.now();
  const headers = new Map(client === null ? [] : [["user-agent", client]]);
  return { requestId: newId("req", startedAt), startedAt, traceId, settings, headers, log: {} };
}

type Parts = {
  readonly call: InnerCall;
  readonly opened: Call;
  readonly record: CallRecord;
  readonly caller: Caller;
  readonly env: Env;
  readonly settings: Settings;
};

class Inner implements Admitted {
  readonly ended: Promise<Settled>;
  readonly #parts: Parts;
  #forwarding: Forwarding | null = null;
  #guard: GuardAnswer | null = null;

  constructor(parts: Parts) {
    this.#parts = parts;
    const { record } = parts;
    this.ended = new Promise((done) => {
      record.onSettled = done;
    });
  }

  get requestId(): string {
    return this.#parts.record.facts.requestId;
  }

  /** Null: what it needs is reserved, and it may be sent. Else it is settled. */
  async admit(signal: AbortSignal): Promise<Failure | "aborted" | null> {
    const { record, caller, settings } = this.#parts;
    const checked = await this.#check();
    const denied = checked.ok
      ? await admit(caller, record, checked.value.needFor, settings.queueWaitMs, signal)
      : checked.error;
    if (denied === "client gone" || (denied === null && signal.aborted)) {
      this.#settleUnsent();
      return "aborted";
    }
    if (denied !== null) return this.#fail(denied);
    this.#forwarding = checked.ok ? checked.value.forwarding : null;
    return null;
  }

  async send(signal: AbortSignal): Promise<Result<Response, Failure | "aborted">> {
    const { record, env, settings } = this.#parts;
    const forwarding = this.#forwarding;
    this.#forwarding = null;
    if (!forwarding) return err("aborted");
    const answer = await forward(forwarding, record, signal, env, settings, this.#options()).catch((bug: unknown) => {
      console.error(JSON.stringify({ level: "error", msg: "inner_call_failed", error: String(bug) }));
      return err({ failure: { kind: "internal" } as const });
    });
    if (answer.ok) return this.#guard ? this.#guard(answer.value) : answer;
    if (answer.error === "client gone") {
      record.saw(null);
      return err("aborted");
    }
    return err(this.#fail(aboutHolder(answer.error.failure, forwarding.wanted)));
  }

  release(): void {
    if (this.#forwarding === null) return;
    this.#forwarding = null;
    this.#settleUnsent();
  }

  #settleUnsent(): void {
    this.#parts.record.saw(null);
    this.#parts.record.settle({ status: CLIENT_GONE_STATUS, outcome: "client_gone" });
  }

  #fail(failure: Failure): Failure {
    const { record, opened } = this.#parts;
    record.saw(null);
    opened.log.error_kind = failure.kind;
    settleFailed(record, failure);
    return failure;
  }

  /** What the key may ask for, and what it needs for that. */
  async #check(): Promise<Result<{ readonly forwarding: Forwarding; readonly needFor: NeedFor }, Failure>> {
    const { call, record, caller, env } = this.#parts;
    const lacking = lacksScope(caller);
    if (lacking) return err(lacking);
    const betas = betasAsked(undefined, call.headers["anthropic-beta"]);
    const guarded = await guardCall(caller, { bytes: call.body, betas, shelf: call.placeholders }, record);
    if (!guarded.ok) return guarded;
    const { bytes, answer } = guarded.value;
    this.#guard = answer;
    const facts = readRequestFacts(bytes);
    if (!facts.ok) return facts;
    const { model, fileIds } = facts.value;
    record.facts.modelRequested = model;
    const refused = modelRefused(caller.policy, modelsOf(facts.value));
    if (refused) return err(refused);
    const holder = await ownedUpstream(env.DB, caller.policy.workspace, fileIds);
    if (!holder.ok) return holder;
    const isFree = call.path === "/v1/messages/count_tokens";
    return ok({
      forwarding: this.#forwardingOf(bytes, wantedFor(facts.value, holder.value, call.thoughtsOf)),
      needFor: isFree ? needsOneRequest : billedNeed(caller, record, facts.value, env.DB),
    });
  }

  #forwardingOf(body: Uint8Array, wanted: Omit<Wanted, "affinity">): Forwarding {
    const { call, caller, settings } = this.#parts;
    const { workspace, timeouts } = caller.policy;
    const client = call.client === null ? {} : { "user-agent": call.client };
    const headers = { ...client, "content-type": "application/json", ...call.headers };
    return {
      path: call.path,
      method: "POST",
      headers: upstreamRequestHeaders(Object.entries(headers)),
      body,
      wanted: { ...wanted, affinity: `${workspace} ${call.affinity}` },
      timeouts: timeoutsFor(settings.timeouts, timeouts),
    };
  }

  #options(): ForwardOptions {
    const { policy, access } = this.#parts.caller;
    // Whoever watches a turn is kept alive by the conversation, and what upstream never said is in no log.
    const options = { keepAliveMs: Number.POSITIVE_INFINITY, readerIsOurs: true };
    return policy.on_revoke === "cut" ? { ...options, mayGoOn: whileLive(policy.id, access) } : options;
  }
}
