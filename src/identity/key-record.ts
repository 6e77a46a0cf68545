/** What a key is and may do, as it is stored in D1 and enforced by its ledger. */
import type { Timeouts } from "../env.ts";
import type { Guardrails } from "../guardrails/policy.ts";
import type { Failure } from "../wire/errors.ts";
import { allows } from "./patterns.ts";
import type { Scope } from "./scopes.ts";

export const DEFAULT_WORKSPACE = "ws_default";

/**
 * Limits of a key or of a workspace; an absent one is no limit. A `…_per_minute` flows back continuously; a `…_burst`
 * is what its bucket holds at most, one minute's worth unless set.
 */
export type Limits = {
  readonly requests_per_minute?: number;
  readonly requests_burst?: number;
  /** Input tokens as the provider counts them for its own limits: cache writes included, cache reads not. */
  readonly input_tokens_per_minute?: number;
  readonly input_tokens_burst?: number;
  readonly output_tokens_per_minute?: number;
  readonly output_tokens_burst?: number;
  /** Requests that may run at the same moment. */
  readonly concurrent_requests?: number;
};

export type KeyLimits = Limits & {
  /** Largest request body in bytes, below the gateway's own limit. */
  readonly max_request_bytes?: number;
};

/** Each burst, and the limit whose it is. */
export const BURSTS = [
  ["requests_burst", "requests_per_minute"],
  ["input_tokens_burst", "input_tokens_per_minute"],
  ["output_tokens_burst", "output_tokens_per_minute"],
] as const satisfies readonly (readonly [keyof Limits, keyof Limits])[];

/** Periods begin at midnight UTC; weeks on Monday, months on the first. `total` never ends. */
export const BUDGET_PERIODS = ["day", "week", "month", "total"] as const;
export const BUDGET_MODES = ["strict", "soft"] as const;

/** What may be spent in a period. */
export type Budget = {
  readonly micro_usd: number;
  readonly period: (typeof BUDGET_PERIODS)[number];
  /** `strict` reserves the worst case of each request, `soft` its usual cost. */
  readonly mode: (typeof BUDGET_MODES)[number];
};

/** What a ledger enforces: of one key, or of a workspace for all its keys together. */
export type Rules = {
  readonly id: string;
  readonly version: number;
  readonly limits: Limits;
  readonly budget: Budget | null;
  /** Of a workspace: which generation of its cached answers counts. Left out: 0. */
  readonly cache_epoch?: number;
  /** What may go out and come back. Left out or null: anything. */
  readonly guardrails?: Guardrails | null;
};

/** Rules that were never heard of are none; whoever acts on them has asked before. */
export function limitsNothing(rules: Rules | undefined): boolean {
  return !rules || (rules.budget === null && Object.keys(rules.limits).length === 0);
}

/** Whether the upstream is stopped, or read to its end, when the client leaves. */
export const ON_DISCONNECT = ["cancel", "drain"] as const;
/** Whether a stream that runs when its key is revoked may end, or is cut. */
export const ON_REVOKE = ["finish", "cut"] as const;

/** Limits of time that a key sets for its calls in place of the gateway's own (`Timeouts` in env.ts), ms. */
export type KeyTimeouts = {
  readonly connect_ms?: number;
  readonly first_byte_ms?: number;
  readonly silence_ms?: number;
  readonly total_ms?: number;
  readonly stream_total_ms?: number;
};

/** The limits of time of one key's calls: its own where it has them, else the gateway's. */
export function timeoutsFor(gateway: Timeouts, own: KeyTimeouts): Timeouts {
  return {
    connectMs: own.connect_ms ?? gateway.connectMs,
    firstByteMs: own.first_byte_ms ?? gateway.firstByteMs,
    silenceMs: own.silence_ms ?? gateway.silenceMs,
    totalMs: own.total_ms ?? gateway.totalMs,
    streamTotalMs: own.stream_total_ms ?? gateway.streamTotalMs,
  };
}

/** The response cache of a key's calls. Null: only calls that ask for it by a header use it. */
export type KeyCache = { readonly ttl_seconds: number };

/**
 * What another name for a model asks for: a model and perhaps suffixes, as in `claude-sonnet-5-5(high)`, or the same as an
 * object. `thinking`: what is thought is shown (src/openai/model-names.ts).
 */
export type Alias = string | { readonly model: string; readonly thinking?: boolean };
/** By name. Exact: upper case and spaces count. */
export type Aliases = Readonly<Record<string, Alias>>;

/** One accepted secret of a key. A key has one, and two while a rotation's grace lasts. */
export type KeySecret = {
  /** SHA-256 of the secret part, lower-case hex. The secret itself is stored nowhere. */
  readonly sha256: string;
  /** What may be shown of the whole key again: its first characters and its last four. */
  readonly hint: string;
  /** Milliseconds since the epoch. */
  readonly created_at: number;
  /** When this secret stops working (end of a rotation's grace), or null. */
  readonly expires_at: number | null;
};

/**
 * What is enforced. `version` grows by one with every change, so that a late write never replaces a newer one.
 * Times are milliseconds since the epoch.
 */
export type KeyPolicy = Rules & {
  readonly workspace: string;
  readonly name: string;
  readonly scopes: readonly Scope[];
  /** Allowed model ids, exact, or a prefix that ends in `*`. Null: every model. */
  readonly models: readonly string[] | null;
  /** Names of its own for models, in the OpenAI dialect. What they lead to must be allowed like any other. */
  readonly aliases: Aliases;
  readonly limits: KeyLimits;
  readonly on_disconnect: (typeof ON_DISCONNECT)[number];
  readonly on_revoke: (typeof ON_REVOKE)[number];
  /** Serve without limits while the ledger can't be reached. A key with a budget is refused then, whatever this says. */
  readonly fail_open: boolean;
  readonly timeouts: KeyTimeouts;
  readonly cache: KeyCache | null;
  /** The key's own; its workspace's hold as well. */
  readonly guardrails: Guardrails | null;
  readonly expires_at: number | null;
  readonly revoked_at: number | null;
  readonly secrets: readonly KeySecret[];
};

/** What a key is that was made without these fields, today or before there were any. */
export const KEY_DEFAULTS = {
  budget: null,
  on_disconnect: "cancel",
  on_revoke: "finish",
  fail_open: false,
  timeouts: {},
  cache: null,
  guardrails: null,
  aliases: {},
} as const satisfies Partial<KeyPolicy>;

/** A policy as a ledger may have stored it before it knew the fields with defaults. */
export type StoredPolicy = Omit<KeyPolicy, keyof typeof KEY_DEFAULTS> & Partial<KeyPolicy>;

export function completePolicy(stored: StoredPolicy): KeyPolicy {
  return { ...KEY_DEFAULTS, ...stored };
}

/** The whole record: the policy, and what only people read. */
export type KeyRecord = KeyPolicy & {
  readonly metadata: Readonly<Record<string, string>>;
  readonly created_at: number;
  readonly updated_at: number;
};

/** A workspace: what all its keys share. A key may name one that was never made; it then has no limits. */
export type WorkspaceRecord = Rules & {
  readonly cache_epoch: number;
  readonly guardrails: Guardrails | null;
  readonly name: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly created_at: number;
  readonly updated_at: number;
};

/** Whether the policy lets the key use a model: exact id, or a listed prefix ending in `*`. */
export function mayUseModel(policy: KeyPolicy, model: string): boolean {
  return allows(policy.models, model);
}

/** The first of these models that the key may not use. */
export function modelRefused(policy: KeyPolicy, models: Iterable<string | null | undefined>): Failure | null {
  if (policy.models === null) return null;
  for (const model of models) {
    if (typeof model === "string" && !mayUseModel(policy, model)) return { kind: "model_not_allowed", model };
  }
  return null;
}

/**
 * Whether this secret opens the key at this moment: key neither revoked nor expired, secret known and not run out. Null:
 * no secret is asked for, since one has been looked at before; the key itself must be live.
 */
export function secretIsLive(policy: KeyPolicy, sha256: string | null, now: number): boolean {
  if (policy.revoked_at !== null) return false;
  if (policy.expires_at !== null && policy.expires_at <= now) return false;
  if (sha256 === null) return true;
  // Hashes of 160 random bits: how long this comparison takes tells nothing that could be used.
  return policy.secrets.some(
    (secret) => secret.sha256 === sha256 && (secret.expires_at === null || secret.expires_at > now),
  );
}
