/**
 * A key's own limits, in the header names that Anthropic's clients read: `anthropic-ratelimit-{requests,tokens,
 * input-tokens,output-tokens}-*` for its buckets (wire notes §2.3) and `anthropic-ratelimit-unified-*` for its budget,
 * as Anthropic's own gateway sends them, so that Claude Code shows its 75 % and 95 % notices (ADR 0006).
 *
 * On the way of every answer: no `Date` object where a day's text will do, and a plain object instead of pairs, which
 * the runtime turns into headers in less than half the time (ADR 0006).
 */

/** Names, in lower case, and values. */
export type HeaderFields = Record<string, string>;

/** A bucket, as a client is told of it. */
export type Meter = {
  /** What the bucket holds when full. */
  readonly limit: number;
  /** Whole units left. A debt counts as 0. */
  readonly remaining: number;
  /** When it will be full again, in ms since the epoch; any time not after now if it is. */
  readonly fullAt: number;
};

/** A budget's period so far. */
export type BudgetState = {
  readonly limitMicroUsd: number;
  readonly spentMicroUsd: number;
  /** Set aside for requests that are running. */
  readonly reservedMicroUsd: number;
  readonly period: "day" | "week" | "month" | "total";
  /** When the period ends, in ms since the epoch. Null for `total`. */
  readonly resetsAt: number | null;
};

/** Null: no such limit. */
export type LimitState = {
  readonly requests: Meter | null;
  readonly inputTokens: Meter | null;
  readonly outputTokens: Meter | null;
  readonly budget: BudgetState | null;
};

/** Claude Code shows a notice past each of them; the highest first. */
const THRESHOLDS = [
  [0.95, "0.95"],
  [0.75, "0.75"],
] as const;
/** What the reference sends as `overage-period`. `total` has no word there. */
const PERIOD_WORDS = { day: "daily", week: "weekly", month: "monthly", total: null } as const;

/** The headers of every answer to a key, except those with status 429 (see `deniedHeaders`). Written to `headers`. */
export function limitHeaders(state: LimitState, now: number, headers: HeaderFields = {}): HeaderFields {
  deniedHeaders(state, now, headers);
  const { budget } = state;
  if (!budget) return headers;
  const used = usedShare(budget);
  const threshold = THRESHOLDS.find(([share]) => used >= share)?.[1];
  const status = threshold ? "allowed_warning" : "allowed";
  headers["anthropic-ratelimit-unified-status"] = status;
  headers["anthropic-ratelimit-unified-representative-claim"] = "overage";
  headers["anthropic-ratelimit-unified-overage-status"] = status;
  headers["anthropic-ratelimit-unified-overage-utilization"] = hundredths(used);
  if (threshold) headers["anthropic-ratelimit-unified-overage-surpassed-threshold"] = threshold;
  setResets(headers, budget);
  return headers;
}

/**
 * The headers of an answer with status 429, upstream's own included: the buckets alone. Beside a 429 Claude Code takes
 * `unified-representative-claim` and `-overage-status` for the reason, whatever they say, and shows "You've hit your
 * usage limit" in place of the error's message. A refusal by a budget brings its own headers (`spentHeaders`).
 */
export function deniedHeaders(state: LimitState, now: number, headers: HeaderFields = {}): HeaderFields {
  const { requests, inputTokens, outputTokens } = state;
  if (requests) {
    headers["anthropic-ratelimit-requests-limit"] = String(requests.limit);
    headers["anthropic-ratelimit-requests-remaining"] = remainingOf(requests);
    headers["anthropic-ratelimit-requests-reset"] = resetOf(requests, now);
  }
  const tokens = either(inputTokens, outputTokens, emptier);
  if (tokens) {
    headers["anthropic-ratelimit-tokens-limit"] = String(tokens.limit);
    headers["anthropic-ratelimit-tokens-remaining"] = remainingOf(tokens);
    headers["anthropic-ratelimit-tokens-reset"] = resetOf(tokens, now);
  }
  if (inputTokens) {
    headers["anthropic-ratelimit-input-tokens-limit"] = String(inputTokens.limit);
    headers["anthropic-ratelimit-input-tokens-remaining"] = remainingOf(inputTokens);
    headers["anthropic-ratelimit-input-tokens-reset"] = resetOf(inputTokens, now);
  }
  if (outputTokens) {
    headers["anthropic-ratelimit-output-tokens-limit"] = String(outputTokens.limit);
    headers["anthropic-ratelimit-output-tokens-remaining"] = remainingOf(outputTokens);
    headers["anthropic-ratelimit-output-tokens-reset"] = resetOf(outputTokens, now);
  }
  return headers;
}

/**
 * The budget's headers on the 429 that it caused. When it is used up the client is told so; when one request did not
 * fit, `-unified-status` is missing, so that the client prints the message but holds nothing against the next request.
 * Neither `-representative-claim` nor `-overage-status`: they would replace the message.
 */
export function spentHeaders(budget: BudgetState, scope: string): HeaderFields {
  const { spentMicroUsd, limitMicroUsd, period } = budget;
  const headers: HeaderFields = {
    "anthropic-ratelimit-unified-overage-disabled-reason": "org_spend_cap_reached",
  };
  setResets(headers, budget);
  if (spentMicroUsd < limitMicroUsd) return headers;
  const used = Math.round(usedShare(budget) * 100) / 100;
  headers["anthropic-ratelimit-unified-status"] = "rejected";
  headers["anthropic-ratelimit-unified-overage-utilization"] = String(used);
  headers["anthropic-ratelimit-unified-overage-surpassed-threshold"] = "1";
  const word = PERIOD_WORDS[period];
  if (word) headers["anthropic-ratelimit-unified-overage-period"] = word;
  // Tells the client that it is not the caller's own cap.
  if (scope === "workspace") headers["anthropic-ratelimit-unified-overage-scope"] = "group_pool";
  return headers;
}

/**
 * What a key is told when its workspace has limits too: of each kind the tighter one, since a request must pass both.
 * Of two budgets the fuller one, as the reference does.
 */
export function tightest(key: LimitState, workspace: LimitState | null): LimitState {
  if (!workspace) return key;
  return {
    requests: either(key.requests, workspace.requests, tighter),
    inputTokens: either(key.inputTokens, workspace.inputTokens, tighter),
    outputTokens: either(key.outputTokens, workspace.outputTokens, tighter),
    budget: either(key.budget, workspace.budget, fuller),
  };
}

function either<T>(a: T | null, b: T | null, choose: (a: T, b: T) => T): T | null {
  return a !== null && b !== null ? choose(a, b) : (a ?? b);
}

/** The one with the smaller share left: input and output tokens can't be compared by number. */
function emptier(a: Meter, b: Meter): Meter {
  return b.remaining * a.limit < a.remaining * b.limit ? b : a;
}

/** The one with fewer units left; of equals the smaller bucket. */
function tighter(a: Meter, b: Meter): Meter {
  if (a.remaining !== b.remaining) return a.remaining < b.remaining ? a : b;
  return b.limit < a.limit ? b : a;
}

function fuller(a: BudgetState, b: BudgetState): BudgetState {
  return usedShare(b) > usedShare(a) ? b : a;
}

/** Money that is only reserved does not count: a strict reservation is mostly given back, and a notice must not flicker. */
function usedShare(budget: BudgetState): number {
  return budget.limitMicroUsd > 0 ? budget.spentMicroUsd / budget.limitMicroUsd : 1;
}

function setResets(headers: HeaderFields, { resetsAt }: BudgetState): void {
  if (resetsAt === null) return;
  const reset = String(Math.floor(resetsAt / 1000));
  headers["anthropic-ratelimit-unified-reset"] = reset;
  headers["anthropic-ratelimit-unified-overage-reset"] = reset;
}

/** A share with two decimals, below 1: this answer was allowed. */
function hundredths(share: number): string {
  const n = Math.min(99, Math.max(0, Math.round(share * 100)));
  return n < 10 ? `0.0${n}` : `0.${n}`;
}

function remainingOf(meter: Meter): string {
  return String(Math.max(0, Math.floor(meter.remaining)));
}

const DAY_SECONDS = 86_400;
const TWO_DIGITS = Array.from({ length: 60 }, (_, n) => String(n).padStart(2, "0"));
/** Resets lie a minute or two ahead, so one day's date serves nearly all of them. */
let day = -1;
let date = "";

/** RFC 3339 in whole seconds, rounded up: at that time it is true. */
function resetOf(meter: Meter, now: number): string {
  const seconds = Math.ceil(Math.max(now, meter.fullAt) / 1000);
  const days = Math.floor(seconds / DAY_SECONDS);
  if (days !== day) {
    day = days;
    date = new Date(days * DAY_SECONDS * 1000).toISOString().slice(0, 11);
  }
  const second = seconds - days * DAY_SECONDS;
  const minute = Math.floor(second / 60);
  return `${date}${TWO_DIGITS[Math.floor(minute / 60)]}:${TWO_DIGITS[minute % 60]}:${TWO_DIGITS[second % 60]}Z`;
}
