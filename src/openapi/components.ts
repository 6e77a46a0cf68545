/** What several pages of the description share: shapes, failures in each dialect, credentials. */

import { DETECTED_TYPES } from "../guardrails/detect/finding.ts";
import { guardrailsInput } from "../guardrails/input.ts";
import { SCOPES } from "../identity/scopes.ts";
import {
  between,
  either,
  flag,
  just,
  list,
  mapOf,
  object,
  oneOf,
  orNull,
  readBy,
  ref,
  type Schema,
  text,
} from "./schema.ts";

const perMinute = between(1, 1_000_000);
const tokens = between(1, 1_000_000_000);
const error = { type: text, message: text };

export const SHARED_SCHEMAS: Readonly<Record<string, Schema>> = {
  /** Upstream's own errors may say more. */
  Error: object(
    { type: just("error"), error: object(error, { details: {} }), request_id: text },
    { turn: { ...ref("TurnResult"), description: "Beside the error of a turn that has begun." } },
  ),
  OpenAIError: object({ error: object({ ...error, param: orNull(text), code: orNull(text) }) }),
  /** In both dialects' shape. */
  ModelsError: object({
    type: just("error"),
    error: object(error, { param: orNull(text), code: orNull(text), details: {} }),
    request_id: text,
  }),
  Scopes: list(oneOf(...SCOPES)),
  ModelPatterns: {
    ...orNull(list(text)),
    description: "Model ids, or prefixes that end in `*`; null: every model.",
  },
  Aliases: mapOf(either(text, object({ model: text }, { thinking: flag }))),
  Metadata: {
    ...mapOf({ type: "string", maxLength: 512 }),
    maxProperties: 16,
    propertyNames: { type: "string", maxLength: 64 },
  },
  Limits: object(
    {},
    {
      requests_per_minute: perMinute,
      requests_burst: perMinute,
      input_tokens_per_minute: tokens,
      input_tokens_burst: tokens,
      output_tokens_per_minute: tokens,
      output_tokens_burst: tokens,
      concurrent_requests: between(1, 100_000),
      max_request_bytes: between(1, 33_554_432),
    },
  ),
  Guardrails: {
    ...readBy({ schema: guardrailsInput }, { allow_url_sources: either(flag, list(text)) }),
    description: `What is masked, refused or counted. Types: ${DETECTED_TYPES.join(", ")}, and own patterns by their name.`,
  },
};

/** When a status means a failure, in a line. */
export const FAILURES: Readonly<Record<number, string>> = {
  400: "Something is malformed, unknown or missing: the message names it.",
  401: "No live credential, whatever the reason.",
  402: "Upstream's own.",
  403: "The scope, the model, or more than one's own rights.",
  404: "There is none, or none for this caller.",
  409: "Changed by somebody else meanwhile, or in a state that does not allow this.",
  413: "The body is too large.",
  415: "The body is of another media type, or compressed.",
  422: "The idempotency key was used for another request.",
  426: "Without `upgrade: websocket`.",
  429: "A limit or a budget; `retry-after` says when to come back, `x-should-retry: false` that waiting alone does not help.",
  500: "A bug; the log names it under the request id.",
  502: "Upstream can't be reached, was cut or refused the gateway.",
  503: "Something that the gateway stands on is away, or a setting is missing.",
  504: "Upstream is too slow.",
  529: "Upstream is overloaded.",
};

/** In whose words a route tells failures: the name of the shape, and what its responses' names begin with. */
export type Words = "Error" | "OpenAIError" | "ModelsError";

const REQUEST_ID = { $ref: "#/components/headers/RequestId" };
export const HEADERS = { "x-sluice-request-id": REQUEST_ID };

export const failureName = (words: Words, status: number): string => `${words}${status}`;

export function failureResponse(words: Words, status: number): object {
  const hints = status === 429 || status === 503 ? { "retry-after": { $ref: "#/components/headers/RetryAfter" } } : {};
  return {
    description: FAILURES[status],
    headers: { ...HEADERS, ...hints, "x-should-retry": { $ref: "#/components/headers/ShouldRetry" } },
    content: { "application/json": { schema: ref(words) } },
  };
}

export const COMMON_HEADERS = {
  RequestId: { description: "The gateway's own id of the request, on every answer.", schema: text },
  RetryAfter: { description: "Seconds.", schema: { type: "integer", minimum: 1 } },
  ShouldRetry: { description: "`false`: repeating the call does not help.", schema: just("false") },
};

/** Ways to show a credential; any of them does. */
export const CREDENTIALS = {
  apiKey: { type: "apiKey", in: "header", name: "x-api-key", description: "A key or a token." },
  bearer: { type: "http", scheme: "bearer", description: "A key or a token; the admin token, at the control plane." },
  azureKey: { type: "apiKey", in: "header", name: "api-key", description: "As Azure's clients send it." },
  access: {
    type: "apiKey",
    in: "header",
    name: "cf-access-jwt-assertion",
    description: "What Cloudflare Access says of who calls, where nothing else is shown.",
  },
} as const;

/** Of people at a browser, at the control plane alone. */
export const SESSION = {
  session: {
    type: "apiKey",
    in: "cookie",
    name: "__Host-sluice_session",
    description: "`POST /admin/session` sets it.",
  },
  csrf: {
    type: "apiKey",
    in: "header",
    name: "x-sluice-csrf",
    description:
      "The session's `csrf_token`, with everything that changes something; such a call also says by `origin` or " +
      "`sec-fetch-site` that it comes from the gateway's own pages.",
  },
} as const;
