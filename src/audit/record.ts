/**
 * The audit record: one per authenticated call, made once by settle, carried by the ledger's outbox, stored in D1.
 * It holds counts, names and times; never prompt or answer text, never a secret.
 */

/**
 * How a call ended. `unreported`: not one call but what an isolate had been lent and never accounted for, booked in
 * full when its loan ran out (negative where a late account of it arrived after all).
 */
export const OUTCOMES = ["complete", "client_gone", "upstream_cut", "error", "unreported"] as const;
export type Outcome = (typeof OUTCOMES)[number];

/**
 * What refused a call, or null. `workspace_…`: a limit that the workspace's keys share. `guardrails`: they refused the
 * request, or withheld the answer.
 */
export const DENIALS = [
  "requests",
  "input_tokens",
  "output_tokens",
  "concurrency",
  "budget",
  "workspace_requests",
  "workspace_input_tokens",
  "workspace_output_tokens",
  "workspace_concurrency",
  "workspace_budget",
  "ledger",
  "guardrails",
] as const;
export type Denial = (typeof DENIALS)[number];

/** Times in milliseconds since the epoch, durations in ms, money in µUSD, everything else as named. */
export type AuditRecord = {
  /** Sorts by time: ids begin with their millisecond (see `newRequestId`). */
  readonly request_id: string;
  readonly upstream_request_id: string | null;
  readonly key_id: string;
  readonly workspace: string;
  readonly at: number;
  /** The route's name, e.g. `/v1/messages`; never the caller's own path. */
  readonly route: string;
  readonly method: string;
  /** Wire dialect of the caller. */
  readonly dialect: "anthropic" | "openai";
  readonly model_requested: string | null;
  readonly model: string | null;
  readonly stream: 0 | 1;
  readonly status: number;
  readonly error_type: string | null;
  readonly outcome: Outcome;
  /** Calls this row stands for: 1, and any number in an `unreported` one. */
  readonly requests: number;
  readonly denial: Denial | null;
  /** Who admitted the call: the isolate from its lease, the ledger itself, or nobody, because none could be reached. */
  readonly admission: "lease" | "ledger" | "fail_open" | null;
  /** The upstream that was asked last. Null: none was. */
  readonly upstream: string | null;
  /** How often an upstream was asked. */
  readonly attempts: number;
  /** What the response cache did for it. Null: it had no part in the call. */
  readonly cache: "hit" | "miss" | "bypass" | null;
  /** 1: the answer is that of an earlier call with the same idempotency key, which paid for it. */
  readonly replayed: 0 | 1;
  /** How long admission waited for the ledger. Null: the call was refused before. */
  readonly ledger_ms: number | null;
  /** 1: the client had left and the answer was read to its end all the same. */
  readonly drained: 0 | 1;
  /** 1: some count below is a bounded estimate, not upstream's own figure. */
  readonly estimated: 0 | 1;
  readonly input_tokens: number;
  readonly output_tokens: number;
  readonly cache_creation_5m_input_tokens: number;
  readonly cache_creation_1h_input_tokens: number;
  readonly cache_read_input_tokens: number;
  readonly thinking_tokens: number;
  readonly web_search_requests: number;
  readonly web_fetch_requests: number;
  readonly cost_micro_usd: number;
  readonly ttfb_ms: number | null;
  readonly duration_ms: number;
  readonly stop_reason: string | null;
  readonly session_id: string | null;
  readonly agent_id: string | null;
  readonly parent_agent_id: string | null;
  readonly client: string | null;
  /** The conversation that the call is about, and the turn that it was made for. */
  readonly conversation_id: string | null;
  readonly turn_id: string | null;
  /** Who a foreign token spoke for. Null: the call came with no such token. */
  readonly subject: string | null;
  /** The template that the call's words come from, and its version. */
  readonly template: string | null;
  readonly template_version: number | null;
  /** What guardrails found: JSON text of counts per type, never text. Null: nothing. */
  readonly findings: string | null;
  /** The row's place in the chain of its key, from 1, and its link (chain.ts). Null: of a release that had no chain. */
  readonly chain_seq: number | null;
  readonly chain_hash: string | null;
};
