/**
 * The end of an authenticated call, told exactly once: one audit record to the key's ledger and one line to the log,
 * whatever became of the call.
 */
import type { AuditRecord, Outcome } from "../audit/record.ts";
import type { AppContext } from "../context.ts";
import { requestLine, writeLine } from "../log.ts";
import { type AnswerFacts, noFacts } from "../wire/anthropic/answer.ts";
import { costMicroUsd } from "../wire/anthropic/prices.ts";
import type { Caller } from "./authenticate.ts";
import { clock, leaseBook } from "./leases.ts";

/** Longest text taken from a request header into a record. */
const MAX_HEADER_CHARS = 200;

export type Ending = {
  readonly status: number;
  readonly outcome: Outcome;
  readonly facts?: AnswerFacts;
  readonly errorType?: string | null;
};

/** Collects what is known of a call while it runs. */
export class CallRecord {
  modelRequested: string | null = null;
  stream = false;
  upstreamRequestId: string | null = null;
  firstByteAt: number | null = null;
  readonly #context: AppContext;
  readonly #caller: Caller;
  readonly #route: string;
  readonly #settled = Promise.withResolvers<unknown>();
  #ended = false;

  constructor(context: AppContext, caller: Caller, route: string) {
    this.#context = context;
    this.#caller = caller;
    this.#route = route;
    context.var.call.log.settles = true;
    // From the start: without it the platform may end the call with its client, before anyone has settled it.
    context.executionCtx.waitUntil(this.#settled.promise);
  }

  /** Writes the record. A second ending of the same call is ignored. */
  settle(ending: Ending): void {
    if (this.#ended) return;
    this.#ended = true;
    const { policy, ledger } = this.#caller;
    const record = this.#record(ending);
    const settlement = { requestId: record.request_id, record: JSON.stringify(record) };
    const { logJoinMs } = this.#context.var.call.settings;
    const told = [
      leaseBook.settle(policy.id, settlement, ledger),
      writeLine(requestLine(this.#context, record), logJoinMs, clock.wait),
    ];
    this.#settled.resolve(Promise.all(told));
  }

  #record(ending: Ending): AuditRecord {
    const { call } = this.#context.var;
    const { policy } = this.#caller;
    const { headers, method } = this.#context.req.raw;
    const facts = ending.facts ?? noFacts();
    const { usage } = facts;
    const header = (name: string): string | null => headers.get(name)?.slice(0, MAX_HEADER_CHARS) ?? null;
    const model = facts.model ?? this.modelRequested;
    return {
      request_id: call.requestId,
      upstream_request_id: this.upstreamRequestId,
      key_id: policy.id,
      workspace: policy.workspace,
      at: call.startedAt,
      route: this.#route,
      method,
      dialect: "anthropic",
      model_requested: this.modelRequested,
      model: facts.model,
      stream: this.stream ? 1 : 0,
      status: ending.status,
      error_type: ending.errorType ?? facts.errorType,
      outcome: ending.outcome,
      estimated: usage.estimated ? 1 : 0,
      input_tokens: usage.inputTokens,
      output_tokens: usage.outputTokens,
      cache_creation_5m_input_tokens: usage.cacheWrite5mTokens,
      cache_creation_1h_input_tokens: usage.cacheWrite1hTokens,
      cache_read_input_tokens: usage.cacheReadTokens,
      thinking_tokens: usage.thinkingTokens,
      web_search_requests: usage.webSearchRequests,
      web_fetch_requests: usage.webFetchRequests,
      cost_micro_usd: model === null ? 0 : costMicroUsd(model, usage, call.startedAt),
      ttfb_ms: this.firstByteAt === null ? null : this.firstByteAt - call.startedAt,
      duration_ms: clock.now() - call.startedAt,
      stop_reason: facts.stopReason,
      session_id: header("x-claude-code-session-id"),
      agent_id: header("x-claude-code-agent-id"),
      parent_agent_id: header("x-claude-code-parent-agent-id"),
      client: header("user-agent"),
    };
  }
}
