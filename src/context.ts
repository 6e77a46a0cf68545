/** What every handler gets: Hono's context with this call's own facts, and the one way to answer with a failure. */
import type { Context } from "hono";
import type { Settings } from "./env.ts";
import type { Needs } from "./identity/scopes.ts";
import { describeFailure, errorBody, type Failure, type WireError } from "./wire/errors.ts";

/** Facts of one call, fixed when it arrives. */
export type Call = {
  /** `req_…`, ours; goes out as `x-sluice-request-id`. */
  readonly requestId: string;
  /** Milliseconds since the epoch, taken once. */
  readonly startedAt: number;
  /** W3C trace id, taken over from `traceparent` or made. */
  readonly traceId: string;
  readonly settings: Settings;
  /** The request's headers, names in lower case; taken once, since each look into the runtime's own costs a crossing. */
  readonly headers: ReadonlyMap<string, string>;
  /** What the log line tells beyond the obvious; filled in on the way. */
  readonly log: LogFacts;
};

export type LogFacts = {
  key_id?: string;
  actor?: string;
  error_type?: string;
  error_kind?: string;
  /** Why a token was not believed, in a word. */
  token_refused?: string;
  /** The matched route's own name. */
  route?: string;
  /** The call settles, and that writes the line. */
  settles?: true;
};

export type AppEnv = { Bindings: Env; Variables: { call: Call } };
export type AppContext = Context<AppEnv>;
export type Handler = (c: AppContext) => Response | Promise<Response>;
/** A handler that says what it needs of its caller, and has seen to it before it does anything. The only sort of a route. */
export type Guarded = Handler & { readonly needs: Needs };

/** Says of a handler what it needs. Who calls this must have seen to it that the handler asks for just that. */
export function guarded(needs: Needs, handle: Handler): Guarded {
  return Object.assign(handle, { needs });
}

/** For everybody. */
export const open = (handle: Handler): Guarded => guarded("nothing", handle);

/** The answer for a failure, in Anthropic's shape; `headers` are added to the failure's own. */
export function fail(c: AppContext, failure: Failure, headers: Readonly<Record<string, string>> = {}): Response {
  noteFailure(c, failure);
  return failureResponse(failure, c.var.call.requestId, headers);
}

/** Has the log line name the failure; returns how it is described. */
export function noteFailure(c: AppContext, failure: Failure): WireError {
  const { log } = c.var.call;
  const described = describeFailure(failure);
  log.error_type = described.type;
  log.error_kind = failure.kind;
  return described;
}

/** The same, where there is no call yet. */
export function failureResponse(
  failure: Failure,
  requestId: string,
  headers: Readonly<Record<string, string>> = {},
): Response {
  const { status, type, message, headers: own } = describeFailure(failure);
  return new Response(errorBody(type, message, requestId), {
    status,
    // `request-id` too: it is where SDKs look for the id of an error (wire notes §2.3).
    headers: { ...jsonHeaders(requestId), "request-id": requestId, ...own, ...headers },
  });
}

/** A JSON answer of one of our own endpoints. */
export function json(c: AppContext, status: number, body: unknown): Response {
  return new Response(JSON.stringify(body), {
    status,
    headers: jsonHeaders(c.var.call.requestId),
  });
}

/** Of every answer that is our own. */
export function jsonHeaders(requestId: string): Record<string, string> {
  return { "content-type": "application/json", "x-sluice-request-id": requestId, "cache-control": "no-store" };
}
