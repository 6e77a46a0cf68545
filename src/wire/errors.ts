/**
 * Every failure the gateway itself can answer with, and the one place where each becomes a status, an error type and
 * a sentence. Shapes: wire notes §3 (`{"type":"error","error":{"type","message"},"request_id"}`).
 *
 * A failure carries data, never text from a secret: messages are made here and name only what the caller sent.
 */

import { type BudgetState, spentHeaders } from "./anthropic/limit-headers.ts";
import { asFields, asText } from "./anthropic/usage.ts";
import { parseJson } from "./json.ts";

/**
 * Whose limit it is: the key's own, or the one that all keys of its workspace share. Or that of an upstream account, which
 * callers are told nothing of.
 */
type LimitScope = "key" | "workspace" | "upstream";

/** One arm per failure, with what its answer needs. */
export type Failure =
  | {
      readonly kind: "invalid_request";
      readonly message: string;
      /** Where in the body, and OpenAI's word for it; told in that dialect alone. */
      readonly param?: string | null;
      readonly code?: string | null;
    }
  | { readonly kind: "invalid_json"; readonly problem: string; readonly position: number }
  /** A request, or its answer, holds what the key's guardrails or its workspace's do not let pass. A sentence. */
  | { readonly kind: "guardrails"; readonly message: string }
  | { readonly kind: "unauthenticated" }
  | { readonly kind: "scope_missing"; readonly scope: string }
  /** A token that is for less than this; `what` it is for. */
  | { readonly kind: "token_too_narrow"; readonly what: string }
  | { readonly kind: "grant_exceeded"; readonly message: string }
  | { readonly kind: "model_not_allowed"; readonly model: string }
  | {
      readonly kind: "not_found";
      readonly what: string;
      /** As above. */
      readonly param?: string | null;
      readonly code?: string | null;
    }
  | {
      /** A path of the API that the gateway does not serve, or of nobody's. */
      readonly kind: "not_served";
      readonly path: string;
      /** A sentence. */
      readonly why?: string | null;
    }
  | { readonly kind: "method_not_allowed"; readonly allow: readonly string[] }
  | { readonly kind: "conflict"; readonly message: string }
  /** The idempotency key belongs to another request; `message` where it was given otherwise than in the header. */
  | { readonly kind: "idempotency_mismatch"; readonly message?: string }
  /** `what` is too large, with its verb; left out: the body. */
  | { readonly kind: "request_too_large"; readonly limitBytes: number; readonly what?: string }
  /** One of the gateway's own limits on conversations. A sentence. `retryAfterMs` null: waiting alone does not help. */
  | { readonly kind: "limit_reached"; readonly message: string; readonly retryAfterMs?: number | null }
  | { readonly kind: "unsupported_media_type"; readonly message: string }
  /** A page of an origin that is not in `ALLOWED_ORIGINS`. */
  | { readonly kind: "origin_refused" }
  /** A session's call that may be the doing of another site's page. */
  | { readonly kind: "cross_site" }
  /** The path is a WebSocket's. */
  | { readonly kind: "upgrade_required" }
  | {
      readonly kind: "rate_limited";
      readonly limit: "requests" | "input_tokens" | "output_tokens" | "concurrency";
      readonly scope: LimitScope;
      /** What the limit allows, a minute or (`concurrency`) at the same moment. */
      readonly figure: number;
      readonly retryAfterMs: number;
    }
  | {
      /** More than the full bucket holds: no waiting helps. */
      readonly kind: "exceeds_bucket";
      readonly limit: "requests" | "input_tokens" | "output_tokens";
      readonly scope: LimitScope;
      readonly needed: number;
      readonly capacity: number;
    }
  | {
      /** The budget is used up or, if less is spent than its limit, this one request did not fit. */
      readonly kind: "over_budget";
      readonly scope: LimitScope;
      readonly mode: "strict" | "soft";
      readonly budget: BudgetState;
      /** What the request wanted to reserve: its worst case (`strict`) or its usual cost (`soft`). */
      readonly neededMicroUsd: number;
      /** Until the period ends, or a moment where only what is reserved stands in the way; null for a budget without end. */
      readonly retryAfterMs: number | null;
    }
  | { readonly kind: "upstream_unreachable" }
  | { readonly kind: "upstream_redirect" }
  | { readonly kind: "upstream_cut" }
  | {
      /** What is asked for is kept by an upstream account that the gateway no longer has. */
      readonly kind: "holder_removed";
      readonly upstream: string;
    }
  | {
      readonly kind: "upstream_timeout";
      readonly phase: "connect" | "first byte" | "silence" | "total";
      readonly limitMs: number;
    }
  /** A stream whose first event is an `error`: nothing has been shown of it yet. `body` is that event's data. */
  | { readonly kind: "upstream_error_event"; readonly type: string; readonly body: string }
  /** The upstream does not accept the gateway's own credential (401), or not for this (403). */
  | { readonly kind: "upstream_refused"; readonly status: 401 | 403 }
  /** Every upstream account has said that its limits are reached. */
  | { readonly kind: "upstreams_cooling"; readonly retryAfterMs: number }
  /** Every place for calls at the upstreams is taken. */
  | { readonly kind: "upstream_full"; readonly retryAfterMs: number }
  /** No upstream serves this model; null: there is none at all, or those that do are being drained. */
  | { readonly kind: "no_upstream"; readonly model: string | null }
  /** Who owns what can't be looked up or written down. */
  | { readonly kind: "register_away"; readonly what: string }
  /** The upstream has given the id of somebody else's. */
  | { readonly kind: "upstream_id_taken" }
  | { readonly kind: "unavailable"; readonly what: string; readonly retryAfterMs: number }
  | { readonly kind: "misconfigured"; readonly message: string }
  | { readonly kind: "internal" };

export type WireError = {
  readonly status: number;
  readonly type: string;
  readonly message: string;
  /** Response headers that belong to this error. */
  readonly headers: Readonly<Record<string, string>>;
};

const NO_HEADERS: Readonly<Record<string, string>> = {};

/** Whole seconds, at least 1: `retry-after: 0` sends an SDK into its own default (wire notes §2.4). */
export function retryAfterSeconds(ms: number): string {
  return String(Math.max(1, Math.ceil(ms / 1000)));
}

/** A path that can be said back as it came. */
const PRINTABLE_PATH = /^\/[A-Za-z0-9_./-]{1,100}$/;

const LIMIT_WORDS = {
  requests: "requests per minute",
  input_tokens: "input tokens per minute",
  output_tokens: "output tokens per minute",
  concurrency: "concurrent requests",
} as const;
const BUCKET_WORDS = { requests: "requests", input_tokens: "input tokens", output_tokens: "output tokens" } as const;
const PERIOD_WORDS = {
  day: "per day (UTC)",
  week: "per week (UTC)",
  month: "per month (UTC)",
  total: "in total",
} as const;
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/**
 * One sentence in parts, as Claude Code prints it. Where it begins with `spend limit reached · resets Nov 22`, to the
 * letter, that client shows the reset in the user's own time (ADR 0006).
 */
function overBudgetMessage(failure: Extract<Failure, { kind: "over_budget" }>): string {
  const { scope, mode, neededMicroUsd, budget } = failure;
  const brief = onlyReserved(failure);
  const { limitMicroUsd, spentMicroUsd, reservedMicroUsd } = budget;
  const name = `this ${scope}'s budget of ${dollars(limitMicroUsd)} ${PERIOD_WORDS[budget.period]}`;
  const end = budget.resetsAt === null ? null : new Date(budget.resetsAt);
  const reset = end && `resets ${MONTHS[end.getUTCMonth()]} ${end.getUTCDate()}`;
  const spent = `${dollars(spentMicroUsd)} spent`;
  if (spentMicroUsd >= limitMicroUsd) {
    return inParts("spend limit reached", reset, `${name} is used up: ${spent}`);
  }
  const left = dollars(Math.max(0, limitMicroUsd - spentMicroUsd - reservedMicroUsd));
  const reserved = reservedMicroUsd > 0 ? `, ${dollars(reservedMicroUsd)} reserved by running requests` : "";
  const cost = mode === "strict" ? "may cost up to" : "would usually cost";
  return inParts(
    `This request does not fit: it ${cost} ${dollars(neededMicroUsd)}, and ${left} is left of ${name}`,
    `${spent}${reserved}`,
    brief ? "worth another try when some of them have ended" : reset,
    mode === "strict" ? "a smaller max_tokens may fit" : null,
  );
}

/** Whether a refused request would fit if nothing were set aside for running ones. */
function onlyReserved({ mode, neededMicroUsd, budget }: Extract<Failure, { kind: "over_budget" }>): boolean {
  const unspent = budget.limitMicroUsd - budget.spentMicroUsd;
  return budget.reservedMicroUsd > 0 && unspent >= (mode === "strict" ? neededMicroUsd : 1);
}

function inParts(...parts: readonly (string | null)[]): string {
  return parts.filter((part) => part !== null).join(" · ");
}

/** µUSD as people write dollars: two decimals, and up to six where there are that many. */
function dollars(microUsd: number): string {
  const [whole, fraction = ""] = (microUsd / 1_000_000).toFixed(6).split(".");
  return `$${whole}.${fraction.slice(0, 2)}${fraction.slice(2).replace(/0+$/, "")}`;
}

/** Maps a failure to Anthropic's error vocabulary. Total: every arm has an answer. */
export function describeFailure(failure: Failure): WireError {
  const make = (status: number, type: string, message: string, headers = NO_HEADERS): WireError => ({
    status,
    type,
    message,
    headers,
  });
  switch (failure.kind) {
    case "invalid_request":
    case "guardrails":
      return make(400, "invalid_request_error", failure.message);
    case "invalid_json":
      return make(
        400,
        "invalid_request_error",
        `The request body is not valid JSON: ${failure.problem} at position ${failure.position}.`,
      );
    case "unauthenticated":
      // One and the same answer for every reason, so that it tells an attacker nothing. Claude Code would retry a
      // bare 401 for minutes (wire notes §6.2).
      return make(401, "authentication_error", "The API key is missing, malformed, expired, revoked or unknown.", {
        "x-should-retry": "false",
      });
    case "scope_missing":
      return make(403, "permission_error", `This key lacks the scope \`${failure.scope}\` that this route needs.`);
    case "token_too_narrow":
      return make(403, "permission_error", `This token is for ${failure.what} alone.`);
    case "grant_exceeded":
      return make(403, "permission_error", failure.message);
    case "model_not_allowed":
      return make(403, "permission_error", `This key may not use the model \`${failure.model}\`.`);
    case "not_found":
      return make(404, "not_found_error", failure.what);
    case "not_served": {
      const path = PRINTABLE_PATH.test(failure.path) ? `\`${failure.path}\`` : "this path";
      const message = `This gateway does not serve ${path}.${failure.why ? ` ${failure.why}` : ""}`;
      return make(404, "not_found_error", message, { "x-should-retry": "false" });
    }
    case "method_not_allowed":
      return make(405, "invalid_request_error", `Method not allowed. Allowed: ${failure.allow.join(", ")}.`, {
        allow: failure.allow.join(", "),
      });
    case "conflict":
      return make(409, "conflict_error", failure.message);
    case "idempotency_mismatch":
      return make(
        422,
        "invalid_request_error",
        failure.message ??
          "This Idempotency-Key was used for another request (method, path, query, body and anthropic-* headers must " +
            "be the same). Send a new key with a new request.",
        { "x-should-retry": "false" },
      );
    case "request_too_large":
      return make(
        413,
        "request_too_large",
        `${failure.what ?? "The request body is"} larger than the limit of ${failure.limitBytes} bytes.`,
      );
    case "limit_reached":
      return make(429, "rate_limit_error", failure.message, hintOf(failure.retryAfterMs));
    case "unsupported_media_type":
      return make(415, "invalid_request_error", failure.message);
    case "origin_refused":
      return make(403, "permission_error", "Pages of this origin may not connect here.");
    case "cross_site":
      return make(
        403,
        "permission_error",
        "A session's calls come from the gateway's own pages, and those that change something show its `csrf_token` in the " +
          "header `x-sluice-csrf`.",
      );
    case "upgrade_required":
      return make(426, "invalid_request_error", "This path is a WebSocket's: ask with `upgrade: websocket`.", {
        upgrade: "websocket",
      });
    case "rate_limited":
      if (failure.scope === "upstream") return describeFailure({ ...failure, kind: "upstream_full" });
      return make(
        429,
        "rate_limit_error",
        `This ${failure.scope}'s limit of ${failure.figure} ${LIMIT_WORDS[failure.limit]} is reached.`,
        { "retry-after": retryAfterSeconds(failure.retryAfterMs) },
      );
    case "exceeds_bucket":
      return make(
        429,
        "rate_limit_error",
        `Request exceeds bucket size: it needs ${failure.needed} ${BUCKET_WORDS[failure.limit]}, and this ` +
          `${failure.scope}'s limit never holds more than ${failure.capacity}. Repeating it can't help.`,
        { "x-should-retry": "false" },
      );
    case "over_budget": {
      // Where it would fit but for what running requests have set aside, nothing is over yet, and no notice is shown.
      const headers = onlyReserved(failure) ? {} : spentHeaders(failure.budget, failure.scope);
      headers["x-should-retry"] = "false";
      if (failure.retryAfterMs !== null) headers["retry-after"] = retryAfterSeconds(failure.retryAfterMs);
      return make(429, "billing_error", overBudgetMessage(failure), headers);
    }
    case "upstream_unreachable":
      return make(502, "api_error", "The upstream API could not be reached.");
    case "upstream_redirect":
      return make(502, "api_error", "The upstream API answered with a redirect, which is never followed.");
    case "upstream_cut":
      return make(502, "api_error", "The upstream API closed the connection before its answer was complete.");
    case "upstream_error_event": {
      const { type, body } = failure;
      return make(statusOfEvent(type), type, messageOf(body) ?? "The upstream API ended its answer with an error.");
    }
    case "upstream_timeout":
      return make(
        504,
        "timeout_error",
        `The upstream API exceeded the ${failure.phase} limit of ${failure.limitMs} ms.`,
      );
    case "holder_removed":
      return make(
        503,
        "api_error",
        `The upstream account that holds this, \`${failure.upstream}\`, has been removed from the gateway.`,
        { "x-should-retry": "false" },
      );
    case "upstream_refused":
      return make(502, "api_error", "The upstream API refused the gateway's own credential.", {
        "x-should-retry": "false",
      });
    case "upstreams_cooling":
      return make(429, "rate_limit_error", "Every upstream account has reached its limits.", {
        "retry-after": retryAfterSeconds(failure.retryAfterMs),
      });
    case "upstream_full":
      return make(503, "api_error", "Every place that the gateway has at the upstream API is taken.", {
        "retry-after": retryAfterSeconds(failure.retryAfterMs),
      });
    case "no_upstream":
      return failure.model === null
        ? make(503, "api_error", "The gateway has no upstream account in use that could answer this.", {
            "x-should-retry": "false",
          })
        : make(404, "not_found_error", `model: ${failure.model}`);
    case "register_away":
      return make(503, "api_error", failure.what, { "retry-after": "5" });
    case "upstream_id_taken":
      return make(502, "api_error", "The upstream API answered with an id that it had given to another workspace.", {
        "x-should-retry": "false",
      });
    case "unavailable":
      return make(503, "api_error", `${failure.what} is unavailable at the moment.`, {
        "retry-after": retryAfterSeconds(failure.retryAfterMs),
      });
    case "misconfigured":
      return make(503, "api_error", failure.message);
    case "internal":
      return make(500, "api_error", "An internal error occurred. The request id names it in the gateway's log.");
  }
}

/** Whether asking again helps, where that is known. */
function hintOf(retryAfterMs: number | null | undefined): Readonly<Record<string, string>> {
  if (retryAfterMs === undefined) return NO_HEADERS;
  return retryAfterMs === null ? { "x-should-retry": "false" } : { "retry-after": retryAfterSeconds(retryAfterMs) };
}

const EVENT_STATUS: Readonly<Record<string, number>> = {
  invalid_request_error: 400,
  authentication_error: 401,
  billing_error: 402,
  permission_error: 403,
  not_found_error: 404,
  request_too_large: 413,
  rate_limit_error: 429,
  api_error: 500,
  timeout_error: 504,
  overloaded_error: 529,
};

/** The status that an `error` event would have had if it had come in time (wire notes §3). */
export function statusOfEvent(type: string): number {
  return Object.hasOwn(EVENT_STATUS, type) ? (EVENT_STATUS[type] ?? 500) : 500;
}

/** The message in an error body. */
function messageOf(body: string): string | null {
  return asText(asFields(asFields(parseJson(body))?.error)?.message);
}

/** The body of an error answer, also the `data` of an `error` event inside a stream (wire notes §3 and §3.1). */
export function errorBody(type: string, message: string, requestId: string): string {
  return JSON.stringify({ type: "error", error: { type, message }, request_id: requestId });
}
