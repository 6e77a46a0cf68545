/**
 * Errors as OpenAI's clients know them (OpenAI notes §4.3): `{"error":{"message","type","param","code"}}`, made of the
 * gateway's own failures and of what upstream answers. What a client does next follows from status, `code` and headers:
 * it retries 408, 409, 429 and everything from 500 on, unless `x-should-retry` says otherwise.
 */
import { asFields, asText } from "../anthropic/usage.ts";
import { describeFailure, type Failure } from "../errors.ts";
import { parseJson } from "../json.ts";

export type ErrorObject = {
  readonly message: string;
  readonly type: string;
  readonly param: string | null;
  readonly code: string | null;
};

export type ToldError = {
  readonly status: number;
  readonly error: ErrorObject;
  /** The body: JSON. */
  readonly body: string;
  /** Headers that belong to this error, over those of the answer that it tells. */
  readonly headers: Readonly<Record<string, string>>;
};

const NO_HEADERS: Readonly<Record<string, string>> = {};
const NEVER_AGAIN = { "x-should-retry": "false" };

/** How each of Anthropic's error types is told; one that is not here keeps its name. */
type Kind = { readonly type: string; readonly code: string | null };
const KINDS: ReadonlyMap<string, Kind> = new Map([
  ["invalid_request_error", { type: "invalid_request_error", code: null }],
  ["authentication_error", { type: "authentication_error", code: "invalid_api_key" }],
  ["billing_error", { type: "insufficient_quota", code: "insufficient_quota" }],
  ["permission_error", { type: "permission_error", code: null }],
  ["not_found_error", { type: "not_found_error", code: null }],
  ["conflict_error", { type: "conflict_error", code: null }],
  ["request_too_large", { type: "invalid_request_error", code: "request_too_large" }],
  ["rate_limit_error", { type: "rate_limit_error", code: "rate_limit_exceeded" }],
  ["api_error", { type: "server_error", code: null }],
  ["timeout_error", { type: "timeout_error", code: null }],
  ["overloaded_error", { type: "overloaded_error", code: "overloaded" }],
]);

/** For bodies that don't say of what type they are. */
const TYPE_OF_STATUS: ReadonlyMap<number, string> = new Map([
  [401, "authentication_error"],
  [402, "billing_error"],
  [403, "permission_error"],
  [404, "not_found_error"],
  [409, "conflict_error"],
  [413, "request_too_large"],
  [429, "rate_limit_error"],
  [504, "timeout_error"],
  [529, "overloaded_error"],
]);

/** Anthropic's words for a prompt that no model's context holds. */
const TOO_LONG = /^(?:messages: )?prompt is too long|exceeds? (?:the )?context (?:limit|window)/i;
/** A 404 that is about a model; others are about files and the like. */
const ABOUT_MODEL = /\bmodel\b/i;

/** Upstream's word for its own overload, which is no registered status. */
const OVERLOADED = 529;
const NOT_PERMITTED = "The upstream API does not permit this with the gateway's credential.";
const REFUSED_CREDENTIAL = "The upstream API refused the gateway's own credential.";

/**
 * What an error says, by Anthropic's type for it: as it stands in an error body, and in the frame that ends a stream.
 * `stated`: the code that upstream itself gives, where we have none of our own.
 */
export function errorObject(type: string, message: string, stated: string | null = null): ErrorObject {
  const kind = KINDS.get(type);
  return { message, type: kind?.type ?? type, param: null, code: codeOf(type, message) ?? stated };
}

function codeOf(type: string, message: string): string | null {
  if (type === "invalid_request_error" && TOO_LONG.test(message)) return "context_length_exceeded";
  if (type === "not_found_error" && ABOUT_MODEL.test(message)) return "model_not_found";
  return KINDS.get(type)?.code ?? null;
}

/** A failure of the gateway's own. */
export function errorOfFailure(failure: Failure): ToldError {
  const { status, type, message, headers } = describeFailure(failure);
  const error = errorObject(type, message);
  switch (failure.kind) {
    case "invalid_request":
      return told(status, { ...error, param: failure.param ?? null, code: failure.code ?? error.code }, headers);
    case "model_not_allowed":
      return told(status, { ...error, param: "model", code: "model_not_found" }, headers);
    case "no_upstream":
      return failure.model === null
        ? told(status, error, headers)
        : told(status, { ...error, param: "model", code: "model_not_found" }, headers);
    case "not_found":
      return told(status, { ...error, param: failure.param ?? null, code: failure.code ?? null }, headers);
    case "not_served":
      return told(status, { ...error, type: "invalid_request_error", code: "unknown_url" }, headers);
    case "upstream_refused":
      return failure.status === 403
        ? told(403, errorObject("permission_error", NOT_PERMITTED), headers)
        : told(status, error, headers);
    case "upstream_error_event":
      return errorOfAnswer(status, failure.body);
    default:
      return told(status, error, headers);
  }
}

/**
 * An error that upstream answers. `body` is what it answered with, JSON or not. The answer's own headers stay: `retry-after`
 * and `x-should-retry` above all; those that are given here come on top.
 */
export function errorOfAnswer(status: number, body: string): ToldError {
  const fields = asFields(parseJson(body));
  const said = asFields(fields?.error);
  const type = asText(said?.type) ?? typeOf(status);
  const requestId = asText(fields?.request_id);
  const headers = requestId === null ? NO_HEADERS : { "x-request-id": requestId };
  // The caller's key was good enough for us: whose was not is the gateway.
  if (status === 401 || type === "authentication_error") {
    return told(502, errorObject("api_error", REFUSED_CREDENTIAL), { ...headers, ...NEVER_AGAIN });
  }
  const message = asText(said?.message) || `The upstream API answered with status ${status} and no message.`;
  const error = errorObject(type, message, asText(asFields(said?.details)?.error_code));
  if (status === 402 || type === "billing_error") return told(429, error, { ...headers, ...NEVER_AGAIN });
  return told(status === OVERLOADED ? 503 : status, error, headers);
}

function typeOf(status: number): string {
  return TYPE_OF_STATUS.get(status) ?? (status < 500 ? "invalid_request_error" : "api_error");
}

/** An answer with status 200 that is no message. */
export function notAMessage(): ToldError {
  return told(
    502,
    errorObject("api_error", "The upstream API answered with something other than a message."),
    NO_HEADERS,
  );
}

function told(status: number, error: ErrorObject, headers: Readonly<Record<string, string>>): ToldError {
  return { status, error, body: JSON.stringify({ error }), headers };
}
