/** One JSON line per request. It tells who, what and how long; never a credential, a query string or any text of a body. */
import type { AppContext } from "./context.ts";

/** The fields of a line that a record can bring; all of them are counts, names, ids and times. */
type LineFacts = {
  readonly key_id?: string;
  readonly route?: string;
  readonly status: number;
  readonly outcome?: string;
  readonly error_type?: string | null;
  readonly model?: string | null;
  readonly upstream_request_id?: string | null;
  readonly input_tokens?: number;
  readonly output_tokens?: number;
  readonly cost_micro_usd?: number;
  readonly ttfb_ms?: number | null;
  readonly duration_ms: number;
};

/** Lines that share one write at the most; also what is lost of them if the call that gathers them is cancelled. */
const MAX_JOINED_LINES = 100;
const waiting: string[] = [];

/**
 * Writes the line of a request. Where Cloudflare takes the log, each line is an event of its own (`joinMs` 0). Where the
 * log is a pipe to another process, each write wakes that process, which costs as much CPU as a good part of the
 * request; lines of the same moment then share a write.
 */
export async function writeLine(line: string, joinMs: number, wait: (ms: number) => Promise<unknown>): Promise<void> {
  if (joinMs === 0) {
    console.log(line);
    return;
  }
  waiting.push(line);
  if (waiting.length === 1) await wait(joinMs);
  else if (waiting.length < MAX_JOINED_LINES) return;
  if (waiting.length > 0) console.log(waiting.splice(0).join("\n"));
}

export function requestLine(c: AppContext, facts: LineFacts): string {
  const { call } = c.var;
  return JSON.stringify({
    level: facts.status >= 500 ? "error" : "info",
    msg: "request",
    request_id: call.requestId,
    trace_id: call.traceId,
    method: c.req.raw.method,
    route: facts.route ?? call.log.route ?? "unmatched",
    status: facts.status,
    outcome: facts.outcome,
    error_type: facts.error_type ?? call.log.error_type,
    error_kind: call.log.error_kind,
    key_id: facts.key_id,
    actor: call.log.actor,
    model: facts.model ?? undefined,
    upstream_request_id: facts.upstream_request_id ?? undefined,
    input_tokens: facts.input_tokens,
    output_tokens: facts.output_tokens,
    cost_micro_usd: facts.cost_micro_usd,
    ttfb_ms: facts.ttfb_ms ?? undefined,
    duration_ms: facts.duration_ms,
  });
}
