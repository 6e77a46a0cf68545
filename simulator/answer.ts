/** Answers over HTTP: the headers that every one has, errors, and the faults that strike before there is an answer. */
import { type ApiError, errorBody, invalid, messageOfType, typeOf } from "./errors.ts";
import { Failures, type Faults, NO_FAULTS, parseFaults } from "./faults.ts";
import type { Entry } from "./journal.ts";
import type { Account } from "./limits.ts";
import { NOBODY, type Organization } from "./organization.ts";
import { type Delivery, MAX_SILENCE_MS, waited, wholeBody } from "./stream.ts";

/** Nothing listens there: who follows the redirect fails instead of reaching somebody. */
const REDIRECT_TARGET = "https://redirected.invalid/v1/messages";
/** `big_headers` comes in headers of this length. */
const PADDING_BYTES = 8000;

const failures = new Failures();

/** One request on its way. `now`: when it arrived, in ms. */
export type Call = {
  readonly id: string;
  readonly request: Request;
  readonly entry: Entry;
  readonly now: number;
  readonly context: ExecutionContext;
  /** The faults that its key and its headers ask for. */
  readonly pairs: readonly string[];
  /** Known once the credential is. */
  readonly caller?: Caller;
};

/** Who calls: a key's rate limits, and the organization that owns what the call makes. */
export type Caller = { readonly account: Account; readonly organization: Organization };
/** A call whose credential is known. */
export type KnownCall = Call & { readonly caller: Caller };

/** The faults that pairs ask for, of a call at a time in ms. Of two with one name the last counts. */
export function faultsOf(pairs: readonly string[], now: number): Faults | ApiError {
  const faults = parseFaults(pairs);
  return typeof faults === "string" ? invalid(faults) : failures.next(faults, now);
}

export const deliveryOf = ({ id, request, entry }: Call): Delivery => {
  return { entry, requestId: id, signal: request.signal };
};

/** `request-id` always; workspace and rate limits only for who has been recognized. */
export function commonHeaders({ id, caller }: Call, faults: Faults = NO_FAULTS): Headers {
  const headers = new Headers({
    "request-id": id,
    "anthropic-organization-id": caller?.organization.id ?? NOBODY,
  });
  if (caller) {
    headers.set("anthropic-workspace-id", caller.organization.workspace);
    caller.account.setHeaders(headers);
  }
  if (faults.double_headers) {
    for (const value of ["1", "2"]) {
      headers.append("set-cookie", `sim=${value}`);
      headers.append("x-sim-double", value);
    }
  }
  for (let left = faults.big_headers ?? 0, i = 0; left > 0; left -= PADDING_BYTES, i++) {
    headers.set(`x-sim-padding-${i}`, "x".repeat(Math.min(left, PADDING_BYTES)));
  }
  return headers;
}

/** An answer in one piece: JSON, lines of JSON, or the bytes of a file. */
export function answerWhole(
  call: Call,
  body: string | Uint8Array,
  faults: Faults,
  contentType = "application/json",
): Response {
  const headers = commonHeaders(call, faults);
  headers.set("content-type", faults.content_type ?? contentType);
  return new Response(wholeBody(body, faults, deliveryOf(call)), { headers });
}

/** An error as the API tells it. */
export function refuse(call: Call, error: ApiError, faults: Faults = NO_FAULTS): Response {
  const headers = commonHeaders(call, faults);
  headers.set("content-type", faults.content_type ?? "application/json");
  for (const [name, value] of Object.entries(error.headers ?? {})) headers.set(name, value);
  const isJson = faults.content_type === undefined || faults.content_type.includes("json");
  const text = isJson ? errorBody(error, call.id) : `<html><body><h1>${error.status}</h1></body></html>`;
  return new Response(wholeBody(text, faults, deliveryOf(call)), { status: error.status, headers });
}

/** Waits so many milliseconds; false when the client has left before. */
export function stayed(call: Call, ms: number): Promise<boolean> {
  const wait = waited(ms, call.request.signal);
  // Without this the runtime forgets the request before it tells us that the client has left.
  call.context.waitUntil(wait);
  return wait;
}

/** The end of a call whose client has left: nobody is there to get it. */
export function gone(call: Call): Response {
  call.entry.end("client_gone");
  return new Response(null, { status: 499 });
}

/** Plays what is to happen before there is an answer; a response when there will be no other. */
export async function strike(call: Call, faults: Faults): Promise<Response | undefined> {
  const silence = faults.hang || faults.no_headers ? MAX_SILENCE_MS : (faults.ttfb ?? 0);
  if (silence > 0 && !(await stayed(call, silence))) return gone(call);
  if (faults.redirect !== undefined) {
    const headers = commonHeaders(call, faults);
    headers.set("location", faults.location ?? REDIRECT_TARGET);
    call.entry.end("complete");
    return new Response(null, { status: faults.redirect, headers });
  }
  if (faults.status === undefined) return undefined;
  return refuse(call, errorOf(faults, faults.status, call.now), faults);
}

/** The error that `status` asks for. `now`: what `retry_after_date` counts from, in ms. */
export function errorOf(faults: Faults, status: number, now: number): ApiError {
  const headers: Record<string, string> = {};
  if (faults.retry_after_date !== undefined) {
    headers["retry-after"] = new Date(now + faults.retry_after_date * 1000).toUTCString();
  }
  if (faults.retry_after !== undefined) headers["retry-after"] = faults.retry_after;
  if (faults.retry_after_ms !== undefined) headers["retry-after-ms"] = faults.retry_after_ms;
  if (faults.should_retry !== undefined) headers["x-should-retry"] = faults.should_retry;
  const type = faults.error_type ?? typeOf(status);
  const code = faults.error_code === undefined ? {} : { code: faults.error_code };
  return { status, type, message: messageOfType(type), headers, ...code };
}
