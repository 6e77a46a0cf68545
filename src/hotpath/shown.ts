/** The answer to a preview: the Messages body that a call would send. */
import { ok, type Result } from "../result.ts";
import type { CallRecord } from "./settle.ts";

export function shown(body: Uint8Array, record: CallRecord): () => Promise<Result<Response, never>> {
  return async () => {
    record.settle({ status: 200, outcome: "complete" });
    return ok(new Response(body, { headers: { "content-type": "application/json", "cache-control": "no-store" } }));
  };
}
