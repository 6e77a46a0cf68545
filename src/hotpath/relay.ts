/**
 * The way of a relayed call, from the door to the last byte: authenticate, check, admit, ask the upstream, pass its
 * answer on untouched, settle. From the moment the caller is known every way out goes through `record.settle`.
 */
import { readCapped, readJsonBytes } from "../body.ts";
import { type AppContext, fail, type Handler } from "../context.ts";
import { mayUseModel, type Scope } from "../identity/key-record.ts";
import type { RequestQuota } from "../ledger/lease-book.ts";
import { err, ok, type Result } from "../result.ts";
import { askUpstream } from "../upstream/ask.ts";
import { readAnswer } from "../wire/anthropic/answer.ts";
import { type RequestFacts, readRequestFacts } from "../wire/anthropic/request.ts";
import { describeFailure, type Failure } from "../wire/errors.ts";
import { clientResponseHeaders, upstreamRequestHeaders } from "../wire/headers.ts";
import { authenticate, type Caller } from "./authenticate.ts";
import { clock, leaseBook } from "./leases.ts";
import { CallRecord } from "./settle.ts";
import { type OpenStream, openStream } from "./tap.ts";

/** Answers that are not streamed are held until they are whole, so that a cut one can still become a status code. */
const MAX_ANSWER_BYTES = 64 * 1024 * 1024;
/** What nginx and others write for a client that left before its answer; nobody ever receives it. */
const CLIENT_GONE_STATUS = 499;
const NO_BODY_STATUS = new Set([204, 205, 304]);
const decoder = new TextDecoder();

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
  /** Rewrites a complete 200 answer for this caller; null leaves its bytes as they are. */
  readonly rewrite?: (text: string, caller: Caller) => string | null;
};

/** A request that has passed the door. */
type Admitted = {
  readonly path: string;
  readonly body: Uint8Array | null;
  readonly facts: RequestFacts | null;
  readonly quota: RequestQuota | null;
};

/** The handler of a relayed route. */
export function relayed(route: RelayRoute): Handler {
  return async function relay(c) {
    const caller = await authenticate(c);
    if (!caller.ok) return fail(c, caller.error);
    const record = new CallRecord(c, caller.value, route.name);
    const refuse = (failure: Failure, quota: RequestQuota | null): Response => {
      const wire = describeFailure(failure);
      record.settle({ status: wire.status, outcome: "error", errorType: wire.type });
      return fail(c, failure, quotaHeaders(quota));
    };
    try {
      const admitted = await admit(c, route, caller.value, record);
      if (!admitted.ok) return refuse(admitted.error.failure, admitted.error.quota);
      return await answer(c, route, caller.value, admitted.value, record, refuse);
    } catch (bug) {
      refuse({ kind: "internal" }, null);
      throw bug;
    }
  };
}

type Refusal = { readonly failure: Failure; readonly quota: RequestQuota | null };

async function admit(
  c: AppContext,
  route: RelayRoute,
  caller: Caller,
  record: CallRecord,
): Promise<Result<Admitted, Refusal>> {
  const { settings } = c.var.call;
  const { policy, ledger } = caller;
  const no = (failure: Failure): Result<never, Refusal> => err({ failure, quota: null });
  if (!policy.scopes.includes(route.scope)) return no({ kind: "scope_missing", scope: route.scope });
  const path = route.upstreamPath ? route.upstreamPath(c) : ok(route.name);
  if (!path.ok) return no(path.error);
  const forbidden = route.permit?.(c, caller);
  if (forbidden) return no(forbidden);
  // Two values arrive joined by a comma, and no version has one.
  if (c.req.raw.headers.get("anthropic-version")?.includes(",")) {
    return no({ kind: "invalid_request", message: "anthropic-version: more than one value" });
  }
  let body: Uint8Array | null = null;
  let facts: RequestFacts | null = null;
  if (route.hasBody) {
    const limit = Math.min(settings.maxRequestBytes, policy.limits.max_request_bytes ?? settings.maxRequestBytes);
    const bytes = await readJsonBytes(c.req.raw, limit);
    if (!bytes.ok) return no(bytes.error);
    body = bytes.value;
    const read = readRequestFacts(body);
    if (!read.ok) return no(read.error);
    facts = read.value;
    record.modelRequested = facts.model;
    record.stream = facts.stream;
    if (!mayUseModel(policy, facts.model)) return no({ kind: "model_not_allowed", model: facts.model });
  }
  const admission = await leaseBook.admit(policy.id, ledger);
  switch (admission.kind) {
    case "admitted":
      return ok({ path: path.value, body, facts, quota: admission.quota });
    case "denied": {
      const { quota, retryAfterMs } = admission;
      return err({ failure: { kind: "rate_limited", limitPerMinute: quota.limit, retryAfterMs }, quota });
    }
    case "unknown":
      return no({ kind: "unauthenticated" });
    case "unreachable":
      return no({ kind: "unavailable", what: "The key's ledger", retryAfterMs: 1000 });
  }
}

async function answer(
  c: AppContext,
  route: RelayRoute,
  caller: Caller,
  admitted: Admitted,
  record: CallRecord,
  refuse: (failure: Failure, quota: RequestQuota | null) => Response,
): Promise<Response> {
  const { settings, requestId } = c.var.call;
  const { timeouts } = settings;
  const { quota, facts } = admitted;
  const streams = facts?.stream ?? false;
  const request = c.req.raw;
  const abort = new AbortController();
  request.signal.addEventListener("abort", () => abort.abort(), { once: true });

  const gone = (): Response => {
    record.settle({ status: CLIENT_GONE_STATUS, outcome: "client_gone" });
    return new Response(null, { status: CLIENT_GONE_STATUS });
  };
  const asked = await askUpstream({
    url: `${settings.upstreamUrl}${admitted.path}${queryOf(request.url)}`,
    method: request.method,
    headers: upstreamRequestHeaders(request.headers, settings.upstreamKey),
    body: admitted.body,
    abort,
    limit: streams
      ? { phase: "first byte", limitMs: timeouts.firstByteMs }
      : { phase: "total", limitMs: timeouts.totalMs },
    // A stream is read by the tap; everything else is held until it is whole.
    read: async (response): Promise<Result<OpenStream | Uint8Array, Failure>> => {
      if (isEventStream(response)) {
        return openStream(response.body, { abort, timeouts, requestId, maxTokens: facts?.maxTokens ?? null });
      }
      record.firstByteAt = clock.now();
      const bytes = await readCapped(response, MAX_ANSWER_BYTES);
      return bytes === "too large" ? err({ kind: "upstream_cut" }) : ok(bytes);
    },
  });
  if (!asked.ok) return request.signal.aborted ? gone() : refuse(asked.error, quota);
  const { response, content } = asked.value;
  record.firstByteAt ??= clock.now();
  record.upstreamRequestId = response.headers.get("request-id");
  const headers = clientResponseHeaders(response.headers);
  headers.push(["x-sluice-request-id", requestId], ...Object.entries(quotaHeaders(quota)));
  const { status } = response;

  if (!(content instanceof Uint8Array)) {
    // What ends a stream ends it without throwing, so this is the one way to its settlement.
    void content.ended.then((end) => record.settle({ status, ...end }));
    return new Response(content.readable, { status, headers });
  }
  const text = decoder.decode(content);
  const read = readAnswer(text);
  const failed = status >= 400;
  if (!failed && facts && read.model === null && route.name === "/v1/messages") read.usage.estimated = true;
  record.settle({ status, outcome: failed ? "error" : "complete", facts: read, errorType: read.errorType });
  const rewritten = status === 200 ? (route.rewrite?.(text, caller) ?? null) : null;
  return new Response(NO_BODY_STATUS.has(status) ? null : (rewritten ?? content), { status, headers });
}

function isEventStream(response: Response): response is Response & { body: ReadableStream<Uint8Array> } {
  return response.body !== null && /^text\/event-stream\b/i.test(response.headers.get("content-type") ?? "");
}

/** The query as the client wrote it, `?` included. */
function queryOf(url: string): string {
  const at = url.indexOf("?");
  return at === -1 ? "" : url.slice(at);
}

/** The key's own state, in the header names that Anthropic's clients read (design §6). */
function quotaHeaders(quota: RequestQuota | null): Record<string, string> {
  if (!quota) return {};
  return {
    "anthropic-ratelimit-requests-limit": String(quota.limit),
    "anthropic-ratelimit-requests-remaining": String(quota.remaining),
    "anthropic-ratelimit-requests-reset": `${new Date(quota.resetAt).toISOString().slice(0, 19)}Z`,
  };
}
