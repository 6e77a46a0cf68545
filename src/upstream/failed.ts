/**
 * An attempt that was no success: what it says of the upstream, and what the caller hears of it if nothing better comes.
 * These are the last two columns of the table in docs/upstreams.md.
 */
import { err, type Result } from "../result.ts";
import { describeFailure, type Failure, retryAfterSeconds } from "../wire/errors.ts";
import { type Health, OPEN_MS, REFUSED_MS } from "./health.ts";
import type { Pick } from "./pool.ts";
import { judge, type Reason, reasonOf, type Verdict } from "./retry.ts";
import type { Upstream } from "./upstream.ts";

export type Answer<T> = { readonly response: Response; readonly content: T };

export type Failed<T> = {
  /** The answer's, or the one that stands for the failure. */
  readonly status: number;
  readonly result: Result<Answer<T>, Failure>;
  readonly verdict: Verdict;
};

export type TellHint = (
  upstream: string,
  kind: "cooling" | "refused" | "open",
  forMs: number,
  reason: Reason,
  model: string | null,
) => void;

const decoder = new TextDecoder();

/** Statuses below 500 that speak of our credential, of limits, or of a moment. */
const NOT_THE_CALLERS = [401, 402, 403, 404, 408, 409, 429];

/** A refusal of the call itself, and not of our credential: it says more than any failure that was met on the way to it. */
export function isCallersOwn<T>({ status, verdict }: Failed<T>): boolean {
  return verdict.retry === "no" && status < 500 && !NOT_THE_CALLERS.includes(status);
}

export function verdictOn<T>(answer: Result<Answer<T>, Failure>, now: number): Failed<T> {
  if (!answer.ok) {
    const verdict = judge({ kind: "failure", failure: answer.error }, now);
    return { status: describeFailure(answer.error).status, result: answer, verdict };
  }
  const { status, headers } = answer.value.response;
  return { status, result: answer, verdict: judge({ kind: "answer", status, headers }, now) };
}

/** What the attempt says of the upstream. */
export function blame<T>(
  { status, verdict, result }: Failed<T>,
  upstream: Upstream,
  health: Health,
  model: string | null,
  at: number,
  hint: TellHint,
): void {
  const why = reasonOf(result.ok ? status : result.error);
  if (result.ok && status < 500) health.answered();
  if (verdict.blame !== "nothing" && verdict.blame !== "lacks_model") health.reason = why;
  switch (verdict.blame) {
    case "nothing":
      // It has answered, and not with a fault of its own.
      if (status < 500) health.succeeded();
      break;
    case "cooling":
      health.coolFor(verdict.coolMs, model, at);
      hint(upstream.id, "cooling", verdict.coolMs, why, model);
      break;
    case "refused":
      health.refusedFor(REFUSED_MS, at);
      hint(upstream.id, "refused", REFUSED_MS, why, null);
      break;
    case "lacks_model":
      if (model !== null && names(result, model)) health.lacksModel(model, at);
      break;
    case "failed":
      if (health.failed(at)) hint(upstream.id, "open", OPEN_MS, why, null);
  }
}

/** Whether a 404 is about the model; it may be about a file. */
function names<T>(result: Result<Answer<T>, Failure>, model: string): boolean {
  if (!result.ok || !(result.value.content instanceof Uint8Array)) return false;
  return decoder.decode(result.value.content).includes(JSON.stringify(`model: ${model}`).slice(1, -1));
}

/** That an upstream refuses our credential is our fault and none of the caller's. */
export function refusedAs<T>({ status, result }: Failed<T>): Result<Answer<T>, Failure> {
  return status === 401 || status === 403 ? err({ kind: "upstream_refused", status }) : result;
}

/**
 * What the caller is told beside the failure: when to come back after a 429, and not to try again at once where we have
 * done so already, or must not, for `enough` is tried. What the upstream says itself about trying again stands.
 */
export function lastWord<T>(
  { status, result, verdict }: Failed<T>,
  enough: boolean,
  next: Pick,
): Record<string, string> {
  const headers: Record<string, string> = {};
  const said = result.ok ? result.value.response.headers : null;
  const waitMs = status === 429 && next.kind === "resting" ? next.waitMs : verdict.coolMs;
  if (waitMs > 0) {
    headers["retry-after"] = retryAfterSeconds(waitMs);
    // Clients obey it first.
    if (said?.has("retry-after-ms")) headers["retry-after-ms"] = String(Math.ceil(waitMs));
  }
  if (verdict.overload && enough && !said?.has("x-should-retry")) headers["x-should-retry"] = "false";
  return headers;
}

/** An upstream whose slots are all taken is passed over. */
export function full<T>(retryAfterMs: number): Failed<T> {
  const failure: Failure = { kind: "upstream_full", retryAfterMs };
  const verdict: Verdict = { retry: "elsewhere", backoff: false, blame: "nothing", coolMs: 0, overload: false };
  return { status: 503, result: err(failure), verdict };
}
