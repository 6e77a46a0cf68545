/**
 * The audit record: one per authenticated call, made once by settle, carried by the ledger's outbox, stored in D1.
 * It holds counts, names and times; never prompt or answer text, never a secret.
 */

/** How a call ended. */
export type Outcome = "complete" | "client_gone" | "upstream_cut" | "error";

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
  readonly dialect: "anthropic";
  readonly model_requested: string | null;
  readonly model: string | null;
  readonly stream: 0 | 1;
  readonly status: number;
  readonly error_type: string | null;
  readonly outcome: Outcome;
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
};
