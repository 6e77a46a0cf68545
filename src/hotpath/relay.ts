/**
 * The way of a relayed call, from the door to the last byte: authenticate, check, admit, forward, settle. From the moment
 * the caller is known every way out goes through `record.settle`.
 */
import { idempotencyOf, type Sent } from "../answers/idempotency.ts";
import { type Turn, takeTurn } from "../answers/turn.ts";
import { discard, readJsonBytes } from "../body.ts";
import { sharedAnswer } from "../cache/shared-answer.ts";
import { CACHE_HEADER } from "../cache/wish.ts";
import { type AppContext, type Guarded, guarded } from "../context.ts";
import { refusalOf } from "../identity/attempts.ts";
import { modelRefused, timeoutsFor } from "../identity/key-record.ts";
import type { Scope } from "../identity/scopes.ts";
import type { NeedFor } from "../ledger/lease-book.ts";
import type { Duty } from "../ownership/duty.ts";
import { ownedUpstream } from "../ownership/store.ts";
import { err, ok, type Result } from "../result.ts";
import type { Wanted } from "../upstream/pool.ts";
import { deniedHeaders, type HeaderFields, limitHeaders, tightest } from "../wire/anthropic/limit-headers.ts";
import { modelsOf, type RequestFacts, readRequestFacts } from "../wire/anthropic/request.ts";
import type { Failure } from "../wire/errors.ts";
import { upstreamRequestHeaders } from "../wire/headers.ts";
import { aboutHolder, admit, billedNeed, needsOneRequest, settleFailed, wantedFor } from "./admit.ts";
import { authenticate, type Caller } from "./authenticate.ts";
import { type Dialect, NATIVE, NO_HEADERS, type Translated } from "./dialect.ts";
import { forwardToDrain } from "./drain.ts";
import { CLIENT_GONE_STATUS, type Forwarding, type ForwardOptions, forward, type Unanswered } from "./forward.ts";
import { betasAsked, type GuardAnswer, guardCall } from "./guard.ts";
import { clock, leaseBook, whileLive } from "./leases.ts";
import type { Answered } from "./remote.ts";
import { type CallRecord, openRecord } from "./settle.ts";
import { shown } from "./shown.ts";

export type RelayRoute = {
  /** The route's name in log and audit, and its path at the upstream unless `upstreamPath` says otherwise. */
  readonly name: string;
  /** `key`: none at all, and any live key may call it. */
  readonly scope: Scope | "key";
  /** The path to ask for, made of constants and validated parts. */
  readonly upstreamPath?: (c: AppContext) => Result<string, Failure>;
  /** Whether the call carries a Messages body, or one that its dialect makes a Messages body of. */
  readonly hasBody: boolean;
  /** How its callers speak; left out: as Claude does. */
  readonly dialect?: Dialect;
  /** Whether the upstream makes tokens for it: what buckets of tokens and budgets are for. */
  readonly billed: boolean;
  /** Finds out, in place of all that, how the call is to be answered. The scope has been checked. */
  readonly prepare?: (c: AppContext, caller: Caller, record: CallRecord) => Promise<Result<Prepared, Failure>>;
  /** Answers with the body that would go upstream, as guardrails leave it, and sends nothing. */
  readonly preview?: true;
  /** Whether its answers may come from the response cache. */
  readonly cached?: boolean;
  readonly rewrite?: ForwardOptions["rewrite"];
};

/** A call to be forwarded in a way of its own, or to be answered from many. */
export type Prepared = {
  /** What it needs of its accounts; left out: a request, and nothing else. */
  readonly needFor?: NeedFor;
} & (
  | {
      /** Path and query at the upstream. */
      readonly path: string;
      readonly body?: Uint8Array | ReadableStream<Uint8Array>;
      readonly unique?: boolean;
      readonly wanted?: Partial<Wanted>;
      /** Says the hooks below as plain data, so that an object can see to them in this call's place. */
      readonly duty?: Duty;
      /** Asked once the call is admitted; a failure refuses it. */
      readonly begin?: () => Promise<Failure | null>;
      /** Told that there was no answer, and why; returns what the caller is told. */
      readonly unanswered?: (failure: Failure) => Promise<Failure>;
      /** What is begun must be seen to its end, whether or not the client stays. */
      readonly readOn?: boolean;
      readonly take?: ForwardOptions["take"];
      readonly flow?: ForwardOptions["flow"];
      /** What guardrails do to its answer. */
      readonly guard?: GuardAnswer | null;
    }
  | {
      /** Answers an admitted call, and settles it if it does. */
      readonly answer: () => Promise<Result<Response, Failure | "client gone">>;
      /** The call itself takes nothing: what it begins is admitted where it is done. */
      readonly free?: boolean;
    }
);

/** A call whose caller is known. */
type Relay = {
  readonly c: AppContext;
  readonly route: RelayRoute;
  readonly caller: Caller;
  readonly record: CallRecord;
  readonly dialect: Dialect;
  /** How its answer is told; the body may say more of that. */
  tell: Translated["tell"];
  /** What guardrails do to its answer before that; null: nothing. */
  guard: GuardAnswer | null;
};

/** Why a call has no answer, and perhaps what its caller is told beside it. */
type NoAnswer = Failure | Unanswered | "client gone";

/** The handler of a relayed route. */
export function relayed(route: RelayRoute): Guarded {
  const { dialect = NATIVE } = route;
  return guarded(route.scope, async function relay(c) {
    const caller = await authenticate(c);
    if (!caller.ok) return dialect.fail(c, await refusalOf(c, caller.error), {});
    const record = openRecord(c, caller.value, route.name, dialect.name);
    const call: Relay = {
      c,
      route,
      caller: caller.value,
      record,
      dialect,
      tell: (answer) => dialect.own(c, answer),
      guard: null,
    };
    try {
      const answer = await answerTo(call);
      const guarded = answer.ok && call.guard ? await call.guard(answer.value) : answer;
      return guarded.ok ? await call.tell(withOwn(call, guarded.value)) : refuse(call, guarded.error);
    } catch (bug) {
      refuse(call, { kind: "internal" });
      throw bug;
    }
  });
}

async function answerTo(call: Relay): Promise<Result<Response, NoAnswer>> {
  const checked = await check(call);
  if (!checked.ok) return checked;
  const { forwarding, needFor, prepared, sent = forwarding } = checked.value;
  if (!forwarding && prepared.free) return prepared.answer();
  const turn = forwarding && sent ? await turnOf(call, forwarding, sent) : ok(null);
  if (!turn.ok) return turn;
  // What is made for another call, or was, is paid for by that one.
  const { queueWaitMs } = call.c.var.call.settings;
  const need = turn.value?.attached ? needsOneRequest : needFor;
  const denied = await admit(call.caller, call.record, need, queueWaitMs, call.c.req.raw.signal);
  if (denied) {
    turn.value?.release();
    return err(denied);
  }
  if (!forwarding) return prepared.answer();
  // An object that makes the answer sees to what was prepared itself.
  return forwarded(call, forwarding, turn.value ? null : prepared, turn.value);
}

/** An answer with what the gateway adds to it. */
function withOwn({ caller, record }: Relay, response: Response): Response {
  const { headers, status } = response;
  headers.set("x-sluice-request-id", record.facts.requestId);
  const own = { ...ownHeaders(caller, status), ...cacheHeader(record) };
  for (const name in own) headers.set(name, own[name] ?? "");
  return response;
}

/** Settles a call that has no answer, unless whoever knows more of it has. */
function refuse({ c, caller, record, dialect }: Relay, why: NoAnswer): Response {
  record.saw(null);
  if (why === "client gone") {
    record.settle({ status: CLIENT_GONE_STATUS, outcome: "client_gone" });
    // Nobody receives this.
    return new Response(null, { status: CLIENT_GONE_STATUS });
  }
  const { failure, headers } = "kind" in why ? { failure: why, headers: {} } : why;
  const status = settleFailed(record, failure);
  // An upload is refused before it is read, and whoever still sends it would meet a closed connection instead.
  caller.access.background(discard(c.req.raw).catch(() => {}));
  return dialect.fail(c, failure, { ...ownHeaders(caller, status), ...cacheHeader(record), ...headers });
}

type PreparedForwarding = Extract<Prepared, { path: string }>;

/** What is left of a call when it has been looked at: what goes to an upstream, and what it needs of its accounts. */
type Checked = {
  readonly needFor: NeedFor;
  /** The client's own request, where another one is forwarded for it. */
  readonly sent?: Sent;
} & (
  | { readonly forwarding: Forwarding; readonly prepared: PreparedForwarding | null }
  | { readonly forwarding: null; readonly prepared: Exclude<Prepared, PreparedForwarding> }
);

/** Checks a call and reads its body. Nothing is reserved for it yet. */
async function check(call: Relay): Promise<Result<Checked, Failure>> {
  const { c, route, caller } = call;
  if (route.scope !== "key" && !caller.policy.scopes.includes(route.scope)) {
    return err({ kind: "scope_missing", scope: route.scope });
  }
  const path = route.upstreamPath ? route.upstreamPath(c) : ok(route.name);
  if (!path.ok) return path;
  // Two values arrive joined by a comma, and no version has one.
  if (c.var.call.headers.get("anthropic-version")?.includes(",")) {
    return err({ kind: "invalid_request", message: "anthropic-version: more than one value" });
  }
  if (route.prepare) return checkPrepared(call, await route.prepare(c, caller, call.record));
  const query = queryOf(c.req.raw.url);
  if (!route.hasBody) {
    return ok({
      needFor: needsOneRequest,
      forwarding: forwardingOf(call, path.value + query, null, {}),
      prepared: null,
    });
  }
  const asked = await readMessages(call);
  if (!asked.ok) return asked;
  const { sent, translated, facts, pinned, needFor } = asked.value;
  const { body, headers, conversation } = translated;
  if (route.preview) return ok({ needFor, forwarding: null, prepared: { answer: shown(body, call.record) } });
  const wanted = wantedFor(facts, pinned, translated.thoughtsOf);
  const target = path.value + (call.dialect.ownQuery ? "" : query);
  const forwarding = forwardingOf(call, target, body, wanted, conversation ?? facts.userId);
  return ok({
    needFor,
    forwarding: headers === NO_HEADERS ? forwarding : { ...forwarding, headers: { ...forwarding.headers, ...headers } },
    sent: { method: forwarding.method, path: c.req.path + query, body: sent },
    prepared: null,
  });
}

/** The same for a call that its route has prepared. */
function checkPrepared(call: Relay, prepared: Result<Prepared, Failure>): Result<Checked, Failure> {
  if (!prepared.ok) return prepared;
  const { needFor = needsOneRequest } = prepared.value;
  if ("answer" in prepared.value) return ok({ needFor, forwarding: null, prepared: prepared.value });
  const { path, body = null, unique = false, duty = null, wanted = {}, guard = null } = prepared.value;
  call.guard = guard;
  const forwarding = { ...forwardingOf(call, path, body, wanted), unique, duty };
  return ok({ needFor, forwarding, prepared: prepared.value });
}

function forwardingOf(
  { c, caller: { policy } }: Relay,
  path: string,
  body: Forwarding["body"],
  wanted: Partial<Wanted>,
  conversation: string | null = null,
): Forwarding {
  const { settings, headers } = c.var.call;
  const tied = headers.get("x-claude-code-session-id") ?? conversation ?? policy.id;
  return {
    path,
    method: c.req.raw.method,
    headers: upstreamRequestHeaders(headers),
    body,
    wanted: { affinity: `${policy.workspace} ${tied}`, model: null, bound: false, pinned: null, ...wanted },
    timeouts: timeoutsFor(settings.timeouts, policy.timeouts),
  };
}

type Messages = {
  /** The client's own body. */
  readonly sent: Uint8Array;
  readonly translated: Translated;
  readonly facts: RequestFacts;
  /** The upstream that holds the files which the body names. */
  readonly pinned: string | null;
  readonly needFor: NeedFor;
};

/** Reads the body of a Messages call, and whether this caller may ask for what is in it. */
async function readMessages(call: Relay): Promise<Result<Messages, Failure>> {
  const { c, route, caller, record } = call;
  const { settings, headers } = c.var.call;
  const { policy } = caller;
  const ownLimit = policy.limits.max_request_bytes ?? settings.maxRequestBytes;
  const limit = Math.min(settings.maxRequestBytes, ownLimit, call.dialect.maxBodyBytes);
  const sent = await readJsonBytes(c.req.raw, headers, limit);
  if (!sent.ok) return sent;
  const translated = await call.dialect.translate(c, caller, sent.value);
  if (!translated.ok) return translated;
  const { body, tell, template, headers: added } = translated.value;
  call.tell = tell;
  if (template) record.facts.template = template.name;
  if (template) record.facts.templateVersion = template.version;
  const betas = betasAsked(headers.get("anthropic-beta"), added["anthropic-beta"]);
  const guarded = await guardCall(caller, { bytes: body, betas }, record);
  if (!guarded.ok) return guarded;
  const { bytes, answer } = guarded.value;
  // Of a preview no model has said anything.
  call.guard = route.preview ? null : answer;
  const facts = readRequestFacts(bytes);
  if (!facts.ok) return facts;
  record.facts.modelRequested = facts.value.model;
  const refused = modelRefused(policy, modelsOf(facts.value));
  if (refused) return err(refused);
  const holder = await ownedUpstream(c.env.DB, policy.workspace, facts.value.fileIds);
  if (!holder.ok) return holder;
  const needFor = route.billed ? billedNeed(caller, record, facts.value, c.env.DB) : needsOneRequest;
  const asked = { ...translated.value, body: bytes };
  return ok({ sent: sent.value, translated: asked, facts: facts.value, pinned: holder.value, needFor });
}

/**
 * Where a call's answer is made that others may have too, for its idempotency key or in the response cache: by this call,
 * or by an earlier one. Null: it is this call's alone.
 */
async function turnOf(
  { c, route, caller: { policy, access }, record }: Relay,
  forwarding: Forwarding,
  sent: Sent,
): Promise<Result<Turn | null, Failure | "client gone">> {
  const { headers, requestId } = c.var.call;
  const { signal } = c.req.raw;
  const { stream } = record.facts;
  const { cached = false } = route;
  const shared = await sharedAnswer({ cached, headers, policy, access, requestId, stream, forwarding });
  if (!shared.ok) return shared;
  if (shared.value !== null) record.cache = "bypass";
  const wish = await idempotencyOf(headers, policy.id, requestId, sent);
  if (!wish.ok) return wish;
  if (wish.value !== null) return takeTurn(c.env.ANSWER, wish.value, access.background, signal);
  if (shared.value === null || shared.value === "bypass") return ok(null);
  const turn = await takeTurn(c.env.ANSWER, shared.value, access.background, signal);
  // Where what keeps the answer is away, the call is made for itself alone.
  if (!turn.ok) return turn.error === "client gone" ? turn : ok(null);
  record.cache = "miss";
  return turn;
}

/** Has an admitted call answered, and what was prepared for it told how that went. */
async function forwarded(
  call: Relay,
  forwarding: Forwarding,
  prepared: PreparedForwarding | null,
  turn: Turn | null,
): Promise<Result<Response, NoAnswer>> {
  const hindered = await prepared?.begin?.();
  if (hindered) return err(hindered);
  const answer = await send(call, forwarding, prepared, turn);
  if (answer.ok) return answer;
  if (answer.error === "client gone") {
    await prepared?.unanswered?.({ kind: "upstream_cut" });
    return answer;
  }
  const { failure, headers } = answer.error;
  const told = (await prepared?.unanswered?.(failure)) ?? failure;
  return err({ failure: aboutHolder(told, forwarding.wanted), headers });
}

/** To where the answer is made: for others too, where it can outlive the client, or else here. */
function send(
  { c, route, caller, record }: Relay,
  forwarding: Forwarding,
  prepared: PreparedForwarding | null,
  turn: Turn | null,
): Promise<Answered> {
  const { signal } = c.req.raw;
  const { policy, access } = caller;
  const cut = policy.on_revoke === "cut";
  if (turn) return turn.answer(forwarding, record, signal, cut);
  const here = (): Promise<Answered> =>
    forward(forwarding, record, signal, c.env, c.var.call.settings, {
      ...(route.rewrite ? { rewrite: route.rewrite } : {}),
      ...(prepared?.take ? { take: prepared.take } : {}),
      ...(prepared?.flow ? { flow: prepared.flow } : {}),
      ...(prepared?.readOn ? { drain: () => () => {} } : {}),
      ...(cut ? { mayGoOn: whileLive(policy.id, access) } : {}),
    });
  return route.billed && policy.on_disconnect === "drain"
    ? forwardToDrain(c.env.DRAIN, forwarding, record, signal, cut, here)
    : here();
}

/** What the response cache did, where it was spoken of. */
function cacheHeader({ cache }: CallRecord): HeaderFields {
  return cache === null ? {} : { [CACHE_HEADER]: cache };
}

/** The key's own state, or its workspace's where that is tighter (design §6). */
function ownHeaders({ policy }: Caller, status: number): HeaderFields {
  const now = clock.now();
  const key = leaseBook.key(policy.id).standing(now);
  if (!key) return {};
  const state = tightest(key, leaseBook.workspace(policy.workspace).standing(now));
  return status === 429 ? deniedHeaders(state, now) : limitHeaders(state, now);
}

/** The query as the client wrote it, `?` included. */
export function queryOf(url: string): string {
  const at = url.indexOf("?");
  return at === -1 ? "" : url.slice(at);
}
