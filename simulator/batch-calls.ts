/** `/v1/messages/batches` over HTTP. */
import { answerWhole, type KnownCall } from "./answer.ts";
import { Batches, tellBatch } from "./batches.ts";
import { type ApiError, invalid, isApiError } from "./errors.ts";
import type { Faults } from "./faults.ts";
import { answerItem, readJson } from "./messages.ts";
import { pageById } from "./paging.ts";
import type { Version } from "./validate.ts";

/** As on the real API. */
export const MAX_BATCH_BYTES = 256 * 1024 * 1024;
/** How long a batch is processed, and how long it takes to cancel one, unless `batch_ms` says otherwise. */
const PROCESSING_MS = 1000;
const CANCELING_MS = 250;

const batches = new Batches(answerItem);

/** `POST /v1/messages/batches`. */
export function createBatch(call: KnownCall, faults: Faults, bytes: Uint8Array, version: Version): Response | ApiError {
  const read = readJson(call, bytes);
  if (isApiError(read)) return read;
  const scope = call.caller.organization.id;
  const processingMs = faults.batch_ms ?? PROCESSING_MS;
  const batch = batches.create({ scope, version, processingMs, chars: bytes.length }, read.body, call.now);
  return isApiError(batch) ? batch : answerBatch(call, faults, batch);
}

/** `GET /v1/messages/batches`. */
export function listBatches(call: KnownCall, faults: Faults, { origin, searchParams }: URL): Response | ApiError {
  const own = batches.list(call.caller.organization.id, call.now);
  const page = pageById(own, searchParams, (batch) => tellBatch(batch, origin, call.now), "message batch");
  return typeof page === "string" ? invalid(page) : answerWhole(call, JSON.stringify(page), faults);
}

/** `GET` and `DELETE /v1/messages/batches/{id}`, `POST …/{id}/cancel` and `GET …/{id}/results`. */
export function answerBatchCall(call: KnownCall, faults: Faults, id: string, action: string): Response | ApiError {
  const batch = batches.find(call.caller.organization.id, id, call.now);
  if (isApiError(batch)) return batch;
  if (action === "results") {
    const results = batches.results(batch, call.now);
    return isApiError(results) ? results : answerWhole(call, results, faults, "application/x-jsonl");
  }
  if (call.request.method === "DELETE") {
    return batches.delete(batch) ?? answerWhole(call, JSON.stringify({ id, type: "message_batch_deleted" }), faults);
  }
  const wrong = action === "cancel" && batches.cancel(batch, faults.batch_ms ?? CANCELING_MS, call.now);
  return wrong || answerBatch(call, faults, batch);
}

function answerBatch(call: KnownCall, faults: Faults, batch: Parameters<typeof tellBatch>[0]): Response {
  const { origin } = new URL(call.request.url);
  return answerWhole(call, JSON.stringify(tellBatch(batch, origin, call.now)), faults);
}
