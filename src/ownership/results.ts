/** Results of a batch while they flow to a client: each line is read aside and booked at the batch's book. */
import type { Onlooker } from "../hotpath/flow.ts";
import { LineSplitter } from "../lines.ts";
import { type AnswerFacts, noFacts } from "../wire/anthropic/answer.ts";
import { readBatchResult } from "../wire/anthropic/batch.ts";
import type { PriceTable } from "../wire/anthropic/price-list.ts";
import { costMicroUsd } from "../wire/anthropic/prices.ts";
import type { Booking, ResultLine } from "./batch-book.ts";
import type { Owned } from "./store.ts";

/** A longer line is passed on unread. The longest answer there is has some 300,000 tokens. */
const MAX_LINE_BYTES = 4 * 1024 * 1024;
/** Longest id that is kept; the API's own have 64 characters at most. */
const MAX_CUSTOM_ID_CHARS = 200;
/** Lines that travel to the book together. */
const LINES_AT_ONCE = 1_000;
/** The book is told again so often. */
const ATTEMPTS = 3;

const decoder = new TextDecoder();

/** The object that keeps what of a batch has been booked; as much of it as is needed here. */
export type Book = { book(booking: Booking): Promise<void> };

export class ResultsReader implements Onlooker {
  /** Lines that could not be read, and so were not booked. */
  #unread = 0;
  readonly #lines = new LineSplitter(MAX_LINE_BYTES);
  readonly #batch: Owned;
  readonly #prices: PriceTable;
  readonly #book: () => Book;
  #waiting: ResultLine[] = [];

  /** Prices are those of the moment at which the batch was made. */
  constructor(batch: Owned, prices: PriceTable, book: () => Book) {
    this.#batch = batch;
    this.#prices = prices;
    this.#book = book;
  }

  see(piece: Uint8Array): Promise<void> | undefined {
    for (const line of this.#lines.push(piece)) this.#read(line);
    return this.#waiting.length >= LINES_AT_ONCE ? this.#tell() : undefined;
  }

  async over(whole: boolean): Promise<AnswerFacts> {
    // Its last line may have no end.
    if (whole) this.#read(this.#lines.end());
    await this.#tell();
    // What was booked has records of its own; this one tells whether that was all.
    const facts = noFacts();
    facts.usage.estimated = this.#unread > 0;
    return facts;
  }

  #read(line: Uint8Array | null): void {
    const text = line && decoder.decode(line).trim();
    if (text === "") return;
    const result = text && readBatchResult(text);
    if (!result || result.customId.length > MAX_CUSTOM_ID_CHARS) {
      this.#unread++;
      return;
    }
    const { customId, usage } = result;
    if (!usage) return;
    const model = result.model ?? "";
    const counts = [
      usage.inputTokens,
      usage.outputTokens,
      usage.cacheWrite5mTokens,
      usage.cacheWrite1hTokens,
      usage.cacheReadTokens,
      usage.thinkingTokens,
      usage.webSearchRequests,
      usage.webFetchRequests,
      costMicroUsd(this.#prices, model, usage, this.#batch.created_at),
    ];
    this.#waiting.push({ customId, model, counts, estimated: usage.estimated });
  }

  async #tell(): Promise<void> {
    const lines = this.#waiting;
    this.#waiting = [];
    if (lines.length === 0) return;
    const { key_id: keyId, workspace, upstream } = this.#batch;
    for (let attempt = 1; ; attempt++) {
      try {
        // A stub that has failed stays broken: each attempt has its own.
        return await this.#book().book({ keyId, workspace, upstream, lines });
      } catch (error) {
        if (attempt === ATTEMPTS) throw error;
      }
    }
  }
}
