/** Answers over HTTP: the headers that every one has, errors, and the faults that strike before there is an answer. */
import { type ApiError, errorBody, messageOfType, typeOf } from "./errors.ts";
import { type Faults, NO_FAULTS } from "./faults.ts";
import type { Entry } from "./journal.ts";
import type { Account } from "./limits.ts";
import { type Delivery, jsonBody, MAX_SILENCE_MS, waited } from "./stream.ts";

const ORGANIZATION = "00000000-0000-4000-8000-000000000000";
const WORKSPACE = "wrkspc_01Simulated00000000000000";
/** Nothing listens there: who follows the redirect fails instead of reaching somebody. */
const REDIRECT_TARGET = "https://redirected.invalid/v1/messages";

/** One request on its way. `now`: when it arrived, in ms. */
export type Call = {
  readonly id: string;
  readonly request: Request;
  readonly entry: Entry;
  readonly now: number;
  readonly context: ExecutionContext;
  /** Known once the credential is. */
  readonly account?: Account;
};

export const deliveryOf = ({ id, request, entry }: Call): Delivery => {
  return { entry, requestId: id, signal: request.signal };
};

/** `request-id` always; workspace and rate limits only for who has been recognized. */
export function commonHeaders({ id, account }: Call): Headers {
  const headers = new Headers({ "request-id": id, "anthropic-organization-id": ORGANIZATION });
  if (account) {
    headers.set("anthropic-workspace-id", WORKSPACE);
    account.setHeaders(headers);
  }
  return headers;
}

/** A JSON answer. */
export function answerJson(call: Call, text: string, faults: Faults): Response {
  const headers = commonHeaders(call);
  headers.set("content-type", faults.content_type ?? "application/json");
  return new Response(jsonBody(text, faults, deliveryOf(call)), { headers });
}

/** An error as the API tells it. */
export function refuse(call: Call, error: ApiError, faults: Faults = NO_FAULTS): Response {
  const headers = commonHeaders(call);
  headers.set("content-type", faults.content_type ?? "application/json");
  for (const [name, value] of Object.entries(error.headers ?? {})) headers.set(name, value);
  const isJson = faults.content_type === undefined || faults.content_type.includes("json");
  const text = isJson ? errorBody(error, call.id) : `<html><body><h1>${error.status}</h1></body></html>`;
  return new Response(jsonBody(text, faults, deliveryOf(call)), { status: error.status, headers });
}

/** Plays what is to happen before there is an answer; a response when there will be no other. */
export async function strike(call: Call, faults: Faults): Promise<Response | undefined> {
  const silence = faults.hang || faults.no_headers ? MAX_SILENCE_MS : (faults.ttfb ?? 0);
  if (silence > 0) {
    const wait = waited(silence, call.request.signal);
    // Without this the runtime forgets the request before it tells us that the client has left.
    call.context.waitUntil(wait);
    if (!(await wait)) {
      call.entry.end("client_gone");
      // Nobody is there to get it.
      return new Response(null, { status: 499 });
    }
  }
  if (faults.redirect !== undefined) {
    const headers = commonHeaders(call);
    headers.set("location", faults.location ?? REDIRECT_TARGET);
    call.entry.end("complete");
    return new Response(null, { status: faults.redirect, headers });
  }
  if (faults.status === undefined) return undefined;
  const headers: Record<string, string> = {};
  if (faults.retry_after !== undefined) headers["retry-after"] = String(faults.retry_after);
  if (faults.retry_after_ms !== undefined) headers["retry-after-ms"] = String(faults.retry_after_ms);
  if (faults.should_retry !== undefined) headers["x-should-retry"] = faults.should_retry;
  const type = faults.error_type ?? typeOf(faults.status);
  const code = faults.error_code === undefined ? {} : { code: faults.error_code };
  return refuse(call, { status: faults.status, type, message: messageOfType(type), headers, ...code }, faults);
}
