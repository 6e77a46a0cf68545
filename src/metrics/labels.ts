/**
 * The words that may stand in a label. Each label has a fixed vocabulary and everything else is `other`, so that no
 * caller, and no upstream, decides how many series there are (the arithmetic is in docs/metrics.md and in a test). The
 * one exception are the ids of upstream accounts, which the administrator makes, at most 100 at a time.
 */
import type { AuditRecord, Denial, Outcome } from "../audit/record.ts";
import { HINT_REASONS, type Hint, isUpstreamId } from "../upstream/protocol.ts";
import type { Standing } from "../upstream/standing.ts";
import table from "../wire/anthropic/prices.json";

export const OTHER = "other";
/** The model label of a call that names no model, and of routes that are not counted by model. */
export const NO_MODEL = "none";

/** The one route whose calls are counted by model. Tokens and money are, whatever their route. */
export const MODEL_ROUTE = "/v1/messages";
/** Groups of routes that share a word. */
const GROUPS = ["/v1/messages/batches", "/v1/files", "/v1/responses", "/v1/conversations"];
/** The routes that leave audit records. */
const ROUTES = [
  MODEL_ROUTE,
  "/v1/messages/count_tokens",
  "/v1/chat/completions",
  "/v1/models",
  "/v1/models/:id",
  "/v1/key",
  "/v1/conversations/:id/turn",
  ...GROUPS,
];

/** A model costs about thirty series. Models further down a price list that outgrows this are `other`. */
export const MAX_MODELS = 20;
const MODELS = Object.keys(table.models).slice(0, MAX_MODELS);
/** No known name, dated or not, is longer than this, and a caller's may be very long. */
const MAX_MODEL_CHARS = 100;

/** What the gateway itself answers with, and what upstream usually does. */
const STATUSES = [200, 400, 401, 403, 404, 413, 429, 499, 500, 502, 503, 504, 529];
/** A client that left before its answer; nothing was sent. */
const CLIENT_GONE_STATUS = 499;

export const OUTCOMES = Object.keys({ complete: 0, client_gone: 0, upstream_cut: 0, error: 0 } satisfies Record<
  Exclude<Outcome, "unreported">,
  0
>);

export const DENIALS = Object.keys({
  requests: 0,
  input_tokens: 0,
  output_tokens: 0,
  concurrency: 0,
  budget: 0,
  workspace_requests: 0,
  workspace_input_tokens: 0,
  workspace_output_tokens: 0,
  workspace_concurrency: 0,
  workspace_budget: 0,
  ledger: 0,
  guardrails: 0,
} satisfies Record<Denial, 0>);

export const FAIL_OPEN = "fail_open";
export const ADMISSIONS = Object.keys({ lease: 0, ledger: 0, [FAIL_OPEN]: 0 } satisfies Record<
  NonNullable<AuditRecord["admission"]>,
  0
>);

export const CACHE_RESULTS = Object.keys({ hit: 0, miss: 0, bypass: 0 } satisfies Record<
  NonNullable<AuditRecord["cache"]>,
  0
>);

/** Whether an upstream did its part: what is the caller's own fault, and a client that leaves, are none of its. */
export const UPSTREAM_OUTCOMES = ["ok", "error"] as const;
/** What the gateway answers with when an upstream refuses, is at its limits or has no credit; and all from 500 on. */
const UPSTREAM_FAULTS = [402, 408, 429];

/** As upstreams' health is told; `unusable`: its key or address can't be used. */
export const UPSTREAM_STATES = Object.keys({
  healthy: 0,
  cooling: 0,
  open: 0,
  refused: 0,
  unusable: 0,
} satisfies Record<Standing["state"], 0>);

const REASONS = Object.keys({
  ...(Object.fromEntries(HINT_REASONS.map((reason) => [reason, 0])) as Record<Hint["reason"], 0>),
  unknown_master: 0,
  tampered: 0,
  host_not_allowed: 0,
} satisfies Record<NonNullable<Standing["reason"]>, 0>);

/** The kinds of tokens: the record's field, and its word. Thinking is part of output. */
export const TOKEN_KINDS = [
  ["input_tokens", "input"],
  ["output_tokens", "output"],
  ["cache_read_input_tokens", "cache_read"],
  ["cache_creation_5m_input_tokens", "cache_write_5m"],
  ["cache_creation_1h_input_tokens", "cache_write_1h"],
  ["thinking_tokens", "thinking"],
] as const;

/** What was booked of an unreported loan, and what came back of it. Apart, since a counter must not fall. */
export const ENTRIES = ["booked", "returned"] as const;

/** Every label with everything it may say; `le`, `version` and `upstream` are numbers, the release and ids. */
export const VOCABULARY = {
  route: [...ROUTES, OTHER],
  model: [...MODELS, OTHER, NO_MODEL],
  status: [...STATUSES.map(String), "4xx", "5xx", OTHER],
  outcome: [...OUTCOMES, ...UPSTREAM_OUTCOMES.filter((word) => !OUTCOMES.includes(word))],
  reason: [...DENIALS, ...REASONS.filter((word) => word !== OTHER), OTHER],
  by: [...ADMISSIONS, OTHER],
  kind: TOKEN_KINDS.map(([, word]) => word),
  stream: ["true", "false"],
  entry: ENTRIES,
  result: [...CACHE_RESULTS, OTHER],
  state: UPSTREAM_STATES,
} as const satisfies Record<string, readonly string[]>;

export function routeLabel(route: unknown): string {
  if (typeof route !== "string" || ROUTES.includes(route)) return known(ROUTES, route);
  return GROUPS.find((group) => route.startsWith(`${group}/`)) ?? OTHER;
}

/** A dated id is its undated model, and so is the latest of it. */
export function modelLabel(model: unknown): string {
  if (typeof model !== "string" || model === "") return NO_MODEL;
  if (model.length > MAX_MODEL_CHARS) return OTHER;
  return known(MODELS, model.replace(/-(\d{8}|latest)$/, ""));
}

export function statusLabel(status: unknown): string {
  if (typeof status !== "number") return OTHER;
  if (STATUSES.includes(status)) return String(status);
  if (status >= 400 && status < 500) return "4xx";
  return status >= 500 && status < 600 ? "5xx" : OTHER;
}

/** An error status has one outcome, whatever the client did while it was told; an outcome nobody knows is an error. */
export function outcomeLabel(status: unknown, outcome: unknown): string {
  if (status === CLIENT_GONE_STATUS) return "client_gone";
  if (typeof status === "number" && status >= 400) return "error";
  return typeof outcome === "string" && OUTCOMES.includes(outcome) ? outcome : "error";
}

export function denialLabel(denial: string): string {
  return known(DENIALS, denial);
}

export function admissionLabel(admission: string): string {
  return known(ADMISSIONS, admission);
}

export function cacheLabel(cache: string): string {
  return known(CACHE_RESULTS, cache);
}

export function upstreamLabel(upstream: string): string {
  return isUpstreamId(upstream) ? upstream : OTHER;
}

export function upstreamOutcomeLabel(status: unknown, outcome: unknown): (typeof UPSTREAM_OUTCOMES)[number] {
  if (outcome === "upstream_cut" || typeof status !== "number") return "error";
  return status >= 500 || UPSTREAM_FAULTS.includes(status) ? "error" : "ok";
}

function known(words: readonly string[], word: unknown): string {
  return typeof word === "string" && words.includes(word) ? word : OTHER;
}
