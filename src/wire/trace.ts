/** W3C Trace Context (https://www.w3.org/TR/trace-context/): the trace id of a request, for logs. */
import { randomHex } from "./ids.ts";

const TRACEPARENT = /^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-|$)/;
const INVALID_TRACE_ID = "0".repeat(32);

/** The trace id that `traceparent` names, or a new one where there is none or it is malformed. */
export function traceIdOf(traceparent: string | undefined): string {
  const id = !traceparent || traceparent.startsWith("ff") ? undefined : TRACEPARENT.exec(traceparent)?.[1];
  return id === undefined || id === INVALID_TRACE_ID ? randomHex(16) : id;
}
