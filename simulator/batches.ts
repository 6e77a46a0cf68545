/**
 * Message batches (SDK 1.11.0 resources/messages/batches.ts), in the isolate's memory. A batch is processed for as long
 * as its call asks for and then ended; its requests are answered when somebody first looks at it after that, all at
 * once. What has not been processed when it is canceled, or after 24 hours, is canceled or expired. When there is no
 * room for a new batch, those ended longest ago are forgotten.
 */
import { type ApiError, apiError, errorFields, invalid } from "./errors.ts";
import { asFields, asText, type Fields } from "./json.ts";
import type { Version } from "./validate.ts";

const MAX_REQUESTS = 100_000;
const CUSTOM_ID = /^[a-zA-Z0-9_-]{1,64}$/;
const HOUR_MS = 3_600_000;
const LIFE_MS = 24 * HOUR_MS;
const RESULTS_LIFE_MS = 29 * 24 * HOUR_MS;
const MAX_BATCHES = 1000;
/** Of requests not yet answered and of results, in characters, over all batches. */
const MAX_HELD_CHARS = 256 * 1024 * 1024;
/** Results of one batch; requests after that are errored. */
const MAX_RESULT_CHARS = 128 * 1024 * 1024;

type Item = { readonly customId: string; readonly params: Fields };
type Counts = Record<"processing" | "succeeded" | "errored" | "canceled" | "expired", number>;

export type Batch = {
  readonly id: string;
  readonly scope: string;
  readonly version: Version;
  readonly count: number;
  /** When processing would end by itself; times in ms. */
  readonly createdAt: number;
  readonly dueAt: number;
  canceled: { readonly at: number; readonly endsAt: number } | undefined;
  /** What is still to be answered; empty once the batch has ended. */
  items: readonly Item[];
  ended: { readonly at: number; readonly counts: Counts; readonly results: string } | undefined;
  heldChars: number;
};

/** Answers one request of a batch at a time in ms: its `result`. */
export type AnswerItem = (params: Fields, version: Version, scope: string, now: number) => Fields;

export class Batches {
  readonly #batches = new Map<string, Batch>();
  readonly #answer: AnswerItem;
  #heldChars = 0;

  constructor(answer: AnswerItem) {
    this.#answer = answer;
  }

  /** `chars`: the length of the body, which is held until the batch has ended. */
  create(
    order: { readonly scope: string; readonly version: Version; readonly processingMs: number; readonly chars: number },
    body: Fields,
    now: number,
  ): Batch | ApiError {
    const items = itemsOf(body);
    if (!Array.isArray(items)) return items as ApiError;
    const { scope, version, processingMs, chars } = order;
    if (!this.#makeRoom(chars)) return apiError(529, "The simulator holds too many batches in progress.");
    const batch: Batch = {
      id: `msgbatch_011sim${crypto.randomUUID().replaceAll("-", "").slice(0, 18)}`,
      scope,
      version,
      count: items.length,
      createdAt: now,
      dueAt: now + processingMs,
      canceled: undefined,
      items,
      ended: undefined,
      heldChars: chars,
    };
    this.#batches.set(batch.id, batch);
    this.#heldChars += chars;
    return batch;
  }

  /** A batch of this organization, as it stands at a time in ms. */
  find(scope: string, id: string, now: number): Batch | ApiError {
    const batch = this.#batches.get(id);
    if (batch?.scope !== scope) return apiError(404, `Message batch not found: ${id}`);
    this.#settle(batch, now);
    return batch;
  }

  /** All batches of an organization, newest first. */
  list(scope: string, now: number): readonly Batch[] {
    const own = [...this.#batches.values()].filter((batch) => batch.scope === scope).reverse();
    for (const batch of own) this.#settle(batch, now);
    return own;
  }

  /** Begins to cancel, which takes `takesMs`. A batch that is being canceled already stays as it is. */
  cancel(batch: Batch, takesMs: number, now: number): ApiError | undefined {
    if (batch.ended) return invalid(`Message batch ${batch.id} has ended and cannot be canceled.`);
    batch.canceled ??= { at: now, endsAt: Math.min(now + takesMs, batch.createdAt + LIFE_MS) };
    this.#settle(batch, now);
    return undefined;
  }

  delete(batch: Batch): ApiError | undefined {
    if (!batch.ended) {
      return invalid(`Message batch ${batch.id} is still being processed: cancel it, and delete it once it has ended.`);
    }
    this.#forget(batch);
    return undefined;
  }

  /** The results as lines of JSON, in another order than the requests. */
  results(batch: Batch, now: number): string | ApiError {
    if (!batch.ended) return apiError(404, `Message batch ${batch.id} has no results before it has ended.`);
    return archivedAt(batch) > now ? batch.ended.results : apiError(404, `Message batch ${batch.id} is archived.`);
  }

  /** Ends a batch whose time has come. */
  #settle(batch: Batch, now: number): void {
    const expiresAt = batch.createdAt + LIFE_MS;
    const endsAt = batch.canceled?.endsAt ?? Math.min(batch.dueAt, expiresAt);
    if (batch.ended || now < endsAt) return;
    const stoppedAt = Math.min(batch.canceled?.at ?? expiresAt, expiresAt);
    const share = Math.min(1, (stoppedAt - batch.createdAt) / (batch.dueAt - batch.createdAt));
    // 0 / 0: nothing can be stopped that takes no time.
    const done = Number.isNaN(share) ? batch.count : Math.floor(share * batch.count);
    const left: Fields = { type: batch.canceled ? "canceled" : "expired" };
    const counts: Counts = { processing: 0, succeeded: 0, errored: 0, canceled: 0, expired: 0 };
    const lines: string[] = [];
    let chars = 0;
    for (const [at, { customId, params }] of batch.items.entries()) {
      const answered = at < done ? this.#answer(params, batch.version, batch.scope, endsAt) : left;
      const result = chars > MAX_RESULT_CHARS ? TOO_LONG : answered;
      counts[result.type as keyof Counts]++;
      const line = `${JSON.stringify({ custom_id: customId, result })}\n`;
      lines.push(line);
      chars += line.length;
    }
    const results = lines.reverse().join("");
    this.#heldChars += results.length - batch.heldChars;
    batch.heldChars = results.length;
    batch.items = [];
    batch.ended = { at: endsAt, counts, results };
  }

  /** Forgets ended batches, oldest first, until there is room; false when there is none. */
  #makeRoom(chars: number): boolean {
    const isFull = (): boolean => this.#batches.size >= MAX_BATCHES || this.#heldChars + chars > MAX_HELD_CHARS;
    for (const batch of this.#batches.values()) {
      if (!isFull()) break;
      if (batch.ended) this.#forget(batch);
    }
    return !isFull();
  }

  #forget(batch: Batch): void {
    if (this.#batches.delete(batch.id)) this.#heldChars -= batch.heldChars;
  }
}

const TOO_LONG: Fields = {
  type: "errored",
  error: errorFields(apiError(500, `The simulator holds ${MAX_RESULT_CHARS} characters of results of a batch.`), null),
};

const archivedAt = (batch: Batch): number => batch.createdAt + RESULTS_LIFE_MS;

/** A batch as the API tells it. `origin`: where the caller finds this API. */
export function tellBatch(batch: Batch, origin: string, now: number): Fields {
  const time = (ms: number): string => new Date(ms).toISOString();
  const { ended, canceled } = batch;
  const isArchived = archivedAt(batch) <= now;
  return {
    id: batch.id,
    type: "message_batch",
    processing_status: ended ? "ended" : canceled ? "canceling" : "in_progress",
    request_counts: ended?.counts ?? { processing: batch.count, succeeded: 0, errored: 0, canceled: 0, expired: 0 },
    created_at: time(batch.createdAt),
    expires_at: time(batch.createdAt + LIFE_MS),
    ended_at: ended ? time(ended.at) : null,
    archived_at: isArchived ? time(archivedAt(batch)) : null,
    cancel_initiated_at: canceled ? time(canceled.at) : null,
    results_url: ended && !isArchived ? `${origin}/v1/messages/batches/${batch.id}/results` : null,
  };
}

/** The requests of a new batch, or the first thing wrong with them. What their params say is looked at later. */
function itemsOf({ requests }: Fields): Item[] | ApiError {
  if (requests === undefined) return invalid("requests: Field required");
  if (!Array.isArray(requests)) return invalid("requests: Input should be a valid list");
  if (requests.length === 0) return invalid("requests: List should have at least 1 item");
  if (requests.length > MAX_REQUESTS) return invalid(`requests: List should have at most ${MAX_REQUESTS} items`);
  const known = new Set<string>();
  const items: Item[] = [];
  for (const [i, value] of requests.entries()) {
    const request = asFields(value);
    if (!request) return invalid(`requests.${i}: Input should be a valid dictionary`);
    if (request.custom_id === undefined) return invalid(`requests.${i}.custom_id: Field required`);
    const customId = asText(request.custom_id);
    if (customId === undefined) return invalid(`requests.${i}.custom_id: Input should be a valid string`);
    if (!CUSTOM_ID.test(customId)) {
      return invalid(`requests.${i}.custom_id: String should match pattern '${CUSTOM_ID.source}'`);
    }
    if (known.has(customId)) return invalid(`requests.${i}.custom_id: must be unique within the batch: ${customId}`);
    known.add(customId);
    if (request.params === undefined) return invalid(`requests.${i}.params: Field required`);
    const params = asFields(request.params);
    if (!params) return invalid(`requests.${i}.params: Input should be a valid dictionary`);
    items.push({ customId, params });
  }
  return items;
}
