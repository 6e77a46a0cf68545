/** `GET /v1/key`: what a key may do, what is left of it, and when that comes back. Pure. */
import type { BudgetState, LimitState, Meter } from "../wire/anthropic/limit-headers.ts";
import type { KeyPolicy, Limits, Rules } from "./key-record.ts";
import { type Rights, speakerName } from "./rights.ts";

/** What a ledger knows of the limits it enforces, at one moment. */
export type Standing = LimitState & {
  /** Requests that run at this moment. */
  readonly running: number;
};

/** A workspace as its keys may see it: what it enforces, and where it stands. */
export type WorkspaceStanding = { readonly rules: Rules; readonly standing: Standing };

/**
 * The answer's body. It is made field by field from what may be shown, so that nothing new in a policy (a secret's
 * hash above all) can slip into it. `limits` is as the control plane knows it, `left` is where it stands. Times are
 * RFC 3339, money is in whole µUSD. `shared` is what all keys of the workspace share, null where that is nothing.
 * `rights`: of the token that was shown; `policy` reaches no further.
 */
export function keyView(
  policy: KeyPolicy,
  standing: Standing,
  workspace: WorkspaceStanding | null,
  rights: Rights | null,
  now: number,
): Record<string, unknown> {
  const { max_request_bytes } = policy.limits;
  const own = share(policy, standing, now);
  return {
    id: policy.id,
    name: policy.name,
    workspace: policy.workspace,
    scopes: policy.scopes,
    models: policy.models,
    aliases: policy.aliases,
    expires_at: time(policy.expires_at),
    on_disconnect: policy.on_disconnect,
    on_revoke: policy.on_revoke,
    fail_open: policy.fail_open,
    guardrails: policy.guardrails,
    ...own,
    limits: max_request_bytes === undefined ? own.limits : { ...own.limits, max_request_bytes },
    shared: workspace && share(workspace.rules, workspace.standing, now),
    token: rights && {
      conversation: rights.conversation,
      expires_at: time(rights.expiresAt),
      subject: speakerName(rights),
    },
  };
}

type Share = { readonly limits: Limits; readonly left: object; readonly budget: object | null };

function share({ limits, budget }: Rules, standing: Standing, now: number): Share {
  const { concurrent_requests } = limits;
  return {
    limits: pick(limits),
    left: {
      requests: meter(standing.requests, now),
      input_tokens: meter(standing.inputTokens, now),
      output_tokens: meter(standing.outputTokens, now),
      concurrent_requests:
        concurrent_requests === undefined
          ? null
          : { running: standing.running, remaining: Math.max(0, concurrent_requests - standing.running) },
    },
    budget: budget && standing.budget && { ...money(standing.budget), mode: budget.mode },
  };
}

const LIMIT_NAMES = [
  "requests_per_minute",
  "requests_burst",
  "input_tokens_per_minute",
  "input_tokens_burst",
  "output_tokens_per_minute",
  "output_tokens_burst",
  "concurrent_requests",
] as const satisfies readonly (keyof Limits)[];

function pick(limits: Limits): Limits {
  return Object.fromEntries(LIMIT_NAMES.flatMap((name) => (limits[name] === undefined ? [] : [[name, limits[name]]])));
}

function meter(bucket: Meter | null, now: number): object | null {
  if (!bucket) return null;
  return {
    capacity: bucket.limit,
    remaining: Math.max(0, Math.floor(bucket.remaining)),
    full_at: time(Math.max(now, bucket.fullAt)),
  };
}

function money(state: BudgetState): object {
  const { limitMicroUsd, spentMicroUsd, reservedMicroUsd } = state;
  return {
    period: state.period,
    limit_micro_usd: limitMicroUsd,
    spent_micro_usd: spentMicroUsd,
    reserved_micro_usd: reservedMicroUsd,
    remaining_micro_usd: Math.max(0, limitMicroUsd - spentMicroUsd - reservedMicroUsd),
    resets_at: time(state.resetsAt),
  };
}

function time(ms: number | null): string | null {
  return ms === null ? null : new Date(ms).toISOString();
}
