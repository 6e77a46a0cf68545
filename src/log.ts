/** One JSON line per request. It tells who, what and how long; never a credential, a query string or any text of a body. */
import type { LogFacts } from "./context.ts";

/** Who a line is about. */
export type LogCall = {
  readonly requestId: string;
  readonly traceId: string;
  readonly method: string;
  readonly log: LogFacts;
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

/** The line of a call that left no audit record. */
export function requestLine(call: LogCall, status: number, durationMs: number): string {
  const { requestId, traceId, method, log } = call;
  return JSON.stringify({
    level: status >= 500 ? "error" : "info",
    msg: "request",
    request_id: requestId,
    trace_id: traceId,
    method,
    route: log.route ?? "unmatched",
    status,
    error_type: log.error_type,
    error_kind: log.error_kind,
    token_refused: log.token_refused,
    key_id: log.key_id,
    actor: log.actor,
    duration_ms: durationMs,
  });
}

/** The line of a call that left one: the record itself, `record` being its JSON text, so that it is written out once. */
export function recordLine(traceId: string, log: LogFacts, status: number, record: string): string {
  const level = status >= 500 ? "error" : "info";
  const start = JSON.stringify({ level, msg: "request", trace_id: traceId, error_kind: log.error_kind });
  return `${start.slice(0, -1)},${record.slice(1)}`;
}
