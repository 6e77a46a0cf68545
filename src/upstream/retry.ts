/**
 * What becomes of an attempt that was no success: whether the call is tried again, where, after how long, and which
 * failure the caller hears of in the end (design §7). Pure; docs/upstreams.md shows it as a table.
 */
import { type Failure, statusOfEvent } from "../wire/errors.ts";
import { MAX_COOLING_MS } from "./health.ts";
import type { Hint } from "./protocol.ts";

/** Full jitter: a random part of this, doubled with each attempt. */
const BACKOFF_BASE_MS = 250;
const BACKOFF_CAP_MS = 4_000;
/** A call waits no longer than this for an upstream that has asked for a pause; its caller can do that better. */
export const MAX_RETRY_WAIT_MS = 5_000;
/** For a 429 that does not say when to come back, or says nonsense. */
const DEFAULT_COOLING_MS = 1_000;
/** Attempts of one call that may end at a limit of time: more would keep its caller waiting for too long. */
export const MAX_LATE_ATTEMPTS = 2;

/** How an attempt ended: with an answer that is no success, or without one. */
export type Attempt =
  | { readonly kind: "answer"; readonly status: number; readonly headers: Headers }
  | { readonly kind: "failure"; readonly failure: Failure };

export type Verdict = {
  /** `no`: the caller gets this. `elsewhere`: only another upstream can do better. `again`: this one may, too. */
  readonly retry: "no" | "elsewhere" | "again";
  /** Whether a pause comes before the next attempt even at another upstream. */
  readonly backoff: boolean;
  /** What it says of the upstream. `nothing`: the call itself was at fault, or nobody's. */
  readonly blame: "nothing" | "failed" | "refused" | "cooling" | "lacks_model";
  readonly coolMs: number;
  /** More attempts by the client would only add to the load. */
  readonly overload: boolean;
};

const PASS: Verdict = { retry: "no", backoff: false, blame: "nothing", coolMs: 0, overload: false };

export function judge(attempt: Attempt, now: number): Verdict {
  if (attempt.kind === "failure") return judgeFailure(attempt.failure);
  const { status, headers } = attempt;
  const retryAfter = retryAfterMs(headers, now);
  const usual = judgeStatus(status, retryAfter);
  const told = headers.get("x-should-retry");
  if (told === "false") return { ...usual, retry: "no" };
  if (told === "true" && status >= 400 && status !== 429) {
    return { ...usual, retry: "again", backoff: true, coolMs: retryAfter ?? 0 };
  }
  return usual;
}

function judgeStatus(status: number, retryAfter: number | null): Verdict {
  if (status < 400) return PASS;
  if (status === 429) {
    return { ...PASS, retry: "elsewhere", blame: "cooling", coolMs: retryAfter ?? DEFAULT_COOLING_MS };
  }
  // Our own credential, or what its account has; the caller's credential is never seen by an upstream.
  if (status === 401 || status === 402) return { ...PASS, retry: "elsewhere", blame: "refused" };
  if (status === 403) return { ...PASS, retry: "elsewhere" };
  if (status === 404) return { ...PASS, retry: "elsewhere", blame: "lacks_model" };
  if (status === 408 || status === 409) return { ...PASS, retry: "again", backoff: true, coolMs: retryAfter ?? 0 };
  if (status >= 500) {
    return { retry: "again", backoff: true, blame: "failed", coolMs: retryAfter ?? 0, overload: true };
  }
  return PASS;
}

function judgeFailure(failure: Failure): Verdict {
  switch (failure.kind) {
    case "upstream_unreachable":
    case "upstream_cut":
      return { ...PASS, retry: "again", backoff: true, blame: "failed", overload: true };
    case "upstream_timeout":
      // A whole answer that took too long says nothing of the upstream, and there is no time for another.
      if (failure.phase === "total") return PASS;
      return { ...PASS, retry: "elsewhere", blame: "failed", overload: true };
    case "upstream_redirect":
      return { ...PASS, blame: "failed" };
    case "upstream_error_event":
      return judgeStatus(statusOfEvent(failure.type), null);
    default:
      return PASS;
  }
}

export type Reason = Hint["reason"];

/** A failure, or the status of an answer, in the one word that people and other isolates are told. */
export function reasonOf(what: Failure | number): Reason {
  if (typeof what === "number") return STATUS_REASONS[what] ?? (what >= 500 ? "server_error" : "other");
  switch (what.kind) {
    case "upstream_unreachable":
      return "unreachable";
    case "upstream_cut":
      return "cut";
    case "upstream_redirect":
      return "redirect";
    case "upstream_timeout":
      return "first_byte_timeout";
    case "upstream_error_event":
      return reasonOf(statusOfEvent(what.type));
    default:
      return "other";
  }
}

const STATUS_REASONS: Readonly<Record<number, Reason>> = {
  401: "authentication",
  402: "billing",
  403: "permission",
  404: "not_found",
  429: "rate_limited",
  529: "overloaded",
};

/**
 * How long an upstream wants to be left alone, ms: `retry-after-ms`, else `retry-after` in seconds or as a date. Null
 * where it does not say, or says nonsense; never more than MAX_COOLING_MS.
 */
export function retryAfterMs(headers: Headers, now: number): number | null {
  const exact = headers.get("retry-after-ms");
  const said = headers.get("retry-after");
  let ms = exact === null ? Number.NaN : decimal(exact);
  if (Number.isNaN(ms) && said !== null) {
    ms = decimal(said) * 1_000;
    if (Number.isNaN(ms) && /[A-Za-z]/.test(said)) ms = Date.parse(said) - now;
  }
  return ms > 0 ? Math.min(ms, MAX_COOLING_MS) : null;
}

const decimal = (text: string): number => (/^\s*\d+(?:\.\d+)?\s*$/.test(text) ? Number(text) : Number.NaN);

/** The pause before attempt `next` (2 is the first one that repeats), ms. `random` is from [0, 1). */
export function backoffMs(next: number, random: number): number {
  return random * Math.min(BACKOFF_CAP_MS, BACKOFF_BASE_MS * 2 ** (next - 2));
}

/**
 * The failure to tell, of all attempts of a call: the last 429; else that we were refused (401, 403); else the last one.
 */
export function best<T extends { readonly status: number }>(failures: readonly T[]): T | undefined {
  const last = (...statuses: number[]): T | undefined => failures.findLast(({ status }) => statuses.includes(status));
  return last(429) ?? last(401, 403) ?? failures.at(-1);
}

/** Every request earns this much of a repeated attempt. */
const BUDGET_PER_REQUEST = 0.1;
const BUDGET_PER_MS = 1 / 1_000;
const BUDGET_CAPACITY = 10;

/**
 * Keeps an overload from being made worse by whoever tries again: while nothing succeeds, the repeated attempts of an
 * isolate stay below a tenth of its requests, and ten. What time has earned counts once something has succeeded.
 */
export class RetryBudget {
  #left = BUDGET_CAPACITY;
  #succeededAt: number | null = null;

  /** A request has come. */
  earn(): void {
    this.#add(BUDGET_PER_REQUEST);
  }

  /** A call has been answered. */
  succeeded(now: number): void {
    this.#add(Math.max(0, now - (this.#succeededAt ?? now)) * BUDGET_PER_MS);
    this.#succeededAt = now;
  }

  /** Whether there is enough for one more attempt, which is taken then. */
  spend(): boolean {
    if (this.#left < 1) return false;
    this.#left--;
    return true;
  }

  #add(more: number): void {
    this.#left = Math.min(BUDGET_CAPACITY, this.#left + more);
  }
}
