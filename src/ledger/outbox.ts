/**
 * What a ledger has to tell others: batches of audit records, stored in the same transaction as the money they account
 * for, and carried by the ledger's alarm to every consumer. Each consumer has its own place in the queue, its own pauses
 * after failures and its own deadline, so none of them holds up another; a batch is deleted when all have passed it.
 *
 * Delivery is in order and at least once: a crash between a delivery and the note of it repeats the delivery, so a
 * consumer must know what it has (D1 by request id, others by `seq`). A record that a consumer refuses for what it holds
 * is found by halving and parked. At the cap the oldest are kept and new records are counted instead of stored; money is
 * booked elsewhere and stays exact.
 */

import { within } from "../within.ts";
import { type Batch, BatchQueue, type Cap, log, type Parked, type Totals } from "./batch-queue.ts";

/** How long records wait for company before they travel, ms. */
const FLUSH_DELAY_MS = 1_000;
/** Pauses after failures: 1, 2, 4 … 60 s. */
const RETRY_BASE_MS = 1_000;
const RETRY_MAX_MS = 60_000;
/** D1 gives a query 30 s; a delivery that takes longer has failed, whatever becomes of it. */
const DELIVERY_DEADLINE_MS = 30_000;
/** Deliveries to one consumer in one flush: far below the 1,000 queries that D1 allows an invocation. */
const DELIVERIES_PER_FLUSH = 200;
/** No delivery begins later than this after its flush has: the platform ends an alarm after 15 minutes. */
const FLUSH_MS = 60_000;
/** Text of one delivery, unless one batch alone is longer. */
const MAX_DELIVERY_BYTES = 1024 * 1024;
/** A failure that may be the records' fault counts as such after this many in a row, if deliveries work otherwise. */
const SPLIT_AFTER = 3;
/** A record is parked when it was refused this often, sent alone. */
const PARK_AFTER = 3;
const MAX_ERROR_CHARS = 200;

export type Consumer = {
  /** Under this name its place in the queue is kept. */
  readonly name: string;
  /** Records of one delivery, unless one batch alone holds more. */
  readonly maxRows: number;
  /**
   * Takes batches over, in order. They may come again. Rejects when that failed, wholly or in part. `note` is what the
   * delivery before has returned, left out at first: kept with its place in the queue, so a repeated delivery gets the
   * note that it got before.
   */
  deliver(batches: readonly Batch[], note?: string): Promise<string | undefined>;
  /** At the cap its backlog is given up, and counted, before any new record is refused. */
  readonly mayMiss?: boolean;
  /**
   * For a consumer that may refuse a record for what it holds, and knows records by their request id: batches are then
   * split until the culprit is alone. Without this every failure counts as "away".
   */
  readonly refusals?: {
    /** Whose fault a failure was: the consumer is away, the records are refused, or it can't be told. */
    judge(error: unknown): "away" | "refused" | "unclear";
    /** Resolves if deliveries work as such. Asked before an unclear failure is blamed on the records. */
    works(): Promise<void>;
    /** Takes note of a parked record. If it rejects, an unclear failure is not blamed on the record. */
    report(parked: Parked): Promise<void>;
  };
};

export type OutboxOptions = {
  /** Asks for `flush` at this time at the latest; called again whenever that moves forward. */
  arm(at: number): void;
  readonly cap?: Partial<Cap>;
  readonly deliveryDeadlineMs?: number;
  /** Bounds the time that one flush takes. Default: `Date.now`. */
  readonly clock?: () => number;
};

export type OutboxState = Readonly<Totals> & {
  /** Waiting for at least one consumer. */
  readonly rows: number;
  readonly bytes: number;
  readonly oldest_age_ms: number;
  /** In a row, of the consumer that is worst off. */
  readonly failures: number;
};

/** A consumer and its place, in memory too, since only this object moves it. */
type Line = {
  readonly consumer: Consumer;
  /** The last batch it has taken over. */
  cursor: number;
  /** What it has noted there. */
  note: string;
  /** In a row, over restarts. */
  failures: number;
  /** When it wants to be served; null: it has everything, or is being served. */
  dueAt: number | null;
  busy: boolean;
};

/** What one consumer may still do in this flush, and how often in a row it had failed before. */
type Visit = {
  left: number;
  readonly until: number;
  readonly now: number;
  readonly failures: number;
  /** Of the last delivery; ahead of the line's while only a part of a batch is taken over. */
  note: string;
};

/** How a delivery ended; "pause": this flush has done enough, the next one goes on. */
type Sent = { readonly kind: "done" | "pause" } | { readonly kind: "failed"; readonly error: unknown };
const DONE: Sent = { kind: "done" };
const PAUSE: Sent = { kind: "pause" };

/** One record of a batch, by its place there. */
type Item = { readonly position: number; readonly record: string };

export class Outbox {
  readonly #queue: BatchQueue;
  readonly #lines: readonly Line[];
  readonly #options: OutboxOptions;
  readonly #clock: () => number;
  /** When `flush` was last asked for and has not come. After a restart this is unknown, and asking again is harmless. */
  #armedAt = Number.POSITIVE_INFINITY;

  constructor(storage: DurableObjectStorage, consumers: readonly Consumer[], options: OutboxOptions) {
    const queue = new BatchQueue(storage.sql, options.cap);
    this.#queue = queue;
    this.#options = options;
    this.#clock = options.clock ?? Date.now;
    this.#lines = consumers.map((consumer) => {
      const { cursor, failures, due } = queue.place(consumer.name);
      const note = queue.noteOf(consumer.name);
      // The platform takes no alarm at 0; any other past moment means at once.
      return { consumer, cursor, note, failures, dueAt: cursor < queue.lastSeq ? Math.max(1, due) : null, busy: false };
    });
  }

  /**
   * Takes records over: the JSON text of an array of them, stored as it came. Synchronous, so it belongs to whatever
   * transaction the caller is in; the last thing there, since the sums in memory would not roll back. Text that is no
   * array is parked, what is above the cap is counted.
   */
  add(records: string, now: number): void {
    this.#queue.add(records, now, () => this.#giveUp());
    for (const line of this.#lines) {
      if (line.busy || line.cursor >= this.#queue.lastSeq) continue;
      // A time too far away is from before the clock was set back.
      if (line.dueAt === null || line.dueAt > now + RETRY_MAX_MS) line.dueAt = now + FLUSH_DELAY_MS;
    }
    this.#arm();
  }

  /** When the next flush is due; null: nothing waits. The ledger's alarm must come then at the latest. */
  nextAlarmAt(): number | null {
    const times = this.#lines.flatMap((line) => line.dueAt ?? []);
    return times.length === 0 ? null : Math.min(...times);
  }

  /** Serves every consumer that is not in a pause. To be called by each alarm; never throws, and asks for the next. */
  async flush(now: number): Promise<void> {
    this.#armedAt = Number.POSITIVE_INFINITY;
    const ready = this.#lines.filter(
      ({ dueAt, failures, busy }) =>
        dueAt !== null && !busy && (failures === 0 || dueAt <= now || dueAt > now + RETRY_MAX_MS),
    );
    await Promise.all(ready.map((line) => this.#serve(line, now)));
    this.#arm();
  }

  /** What a consumer has noted with its place. */
  noteOf(consumer: string): string {
    return this.#lines.find((line) => line.consumer.name === consumer)?.note ?? "";
  }

  /** For metrics and health: cheap, whatever waits. */
  state(now: number): OutboxState {
    const { rows, bytes, totals } = this.#queue;
    const oldest = this.#queue.oldestAt();
    return {
      rows,
      bytes,
      oldest_age_ms: oldest === null ? 0 : Math.max(0, now - oldest),
      ...totals,
      failures: Math.max(0, ...this.#lines.map((line) => line.failures)),
    };
  }

  async #serve(line: Line, now: number): Promise<void> {
    line.busy = true;
    const visit: Visit = {
      left: DELIVERIES_PER_FLUSH,
      until: this.#clock() + FLUSH_MS,
      now,
      failures: line.failures,
      note: line.note,
    };
    line.dueAt = null;
    let sent: Sent;
    try {
      do {
        const batches = this.#queue.after(line.cursor, line.consumer.maxRows, MAX_DELIVERY_BYTES);
        sent = batches.length === 0 ? DONE : await this.#carry(line, batches, visit);
      } while (sent.kind === "done" && line.cursor < this.#queue.lastSeq);
    } catch (error) {
      sent = { kind: "failed", error };
    }
    line.busy = false;
    if (sent.kind === "failed") this.#failed(line, sent.error, now);
    else line.dueAt = line.cursor < this.#queue.lastSeq ? now : null;
  }

  #failed(line: Line, error: unknown, now: number): void {
    const pause = Math.min(RETRY_MAX_MS, RETRY_BASE_MS * 2 ** Math.min(line.failures, 10));
    line.failures++;
    line.dueAt = now + pause;
    log({
      msg: "outbox_flush_failed",
      consumer: line.consumer.name,
      rows: this.#queue.rows,
      failures: line.failures,
      error: textOf(error),
      retry_ms: pause,
    });
    try {
      this.#keepPlace(line);
    } catch {
      // Memory knows the pause; storage that fails resets the object, and then the next call arms anew.
    }
  }

  /** Delivers batches, or as many of their records as the consumer takes. */
  async #carry(line: Line, batches: readonly Batch[], visit: Visit): Promise<Sent> {
    if (visit.left-- <= 0 || this.#clock() > visit.until) return PAUSE;
    const sent = await this.#deliver(line, batches, visit);
    const last = batches.at(-1);
    const first = batches[0];
    if (!first || !last) return DONE;
    if (sent.kind === "failed") {
      if (!(await this.#isRefusal(line, sent.error, visit))) return sent;
      if (batches.length > 1) {
        const middle = batches.length >> 1;
        const half = await this.#carry(line, batches.slice(0, middle), visit);
        return half.kind === "done" ? this.#carry(line, batches.slice(middle), visit) : half;
      }
      const known = this.#queue.parkedOf(line.consumer.name, first.seq);
      const items = (JSON.parse(first.records) as unknown[])
        .map((record, position): Item => ({ position, record: JSON.stringify(record) }))
        .filter((item) => !known.has(item.position));
      const rest = await this.#carryItems(line, first.seq, items, visit);
      if (rest.kind !== "done") return rest;
    }
    line.cursor = Math.max(line.cursor, last.seq);
    line.failures = 0;
    // In one transaction with the place: no await between them.
    if (visit.note !== line.note) this.#queue.keepNote(line.consumer.name, visit.note);
    line.note = visit.note;
    this.#keepPlace(line);
    this.#forget();
    return DONE;
  }

  /** The same within one batch, down to single records. */
  async #carryItems(line: Line, seq: number, items: readonly Item[], visit: Visit): Promise<Sent> {
    const [first] = items;
    if (!first) return DONE;
    const records = `[${items.map((item) => item.record).join(",")}]`;
    let sent: Sent = DONE;
    for (let tries = 0; tries < (items.length === 1 ? PARK_AFTER : 1); tries++) {
      if (visit.left-- <= 0 || this.#clock() > visit.until) return PAUSE;
      sent = await this.#deliver(line, [{ seq, records }], visit);
      if (sent.kind !== "failed") return sent;
      if (!(await this.#isRefusal(line, sent.error, visit))) return sent;
    }
    if (items.length === 1) return this.#park(line, seq, first, sent.kind === "failed" ? sent.error : null, visit.now);
    const middle = items.length >> 1;
    const half = await this.#carryItems(line, seq, items.slice(0, middle), visit);
    return half.kind === "done" ? this.#carryItems(line, seq, items.slice(middle), visit) : half;
  }

  async #deliver(line: Line, batches: readonly Batch[], visit: Visit): Promise<Sent> {
    try {
      visit.note = (await this.#inTime(line.consumer.deliver(batches, visit.note))) ?? visit.note;
      return DONE;
    } catch (error) {
      return { kind: "failed", error };
    }
  }

  /** Whether a failure is to be blamed on the records. In doubt it is not, and all of them wait. */
  async #isRefusal(line: Line, error: unknown, visit: Visit): Promise<boolean> {
    const { refusals } = line.consumer;
    const verdict = refusals?.judge(error) ?? "away";
    if (verdict !== "unclear" || !refusals) return verdict === "refused";
    if (visit.failures < SPLIT_AFTER) return false;
    return this.#inTime(refusals.works()).then(
      () => true,
      () => false,
    );
  }

  async #park(line: Line, seq: number, item: Item, error: unknown, now: number): Promise<Sent> {
    const { refusals } = line.consumer;
    const id = (JSON.parse(item.record) as { request_id?: unknown } | null)?.request_id;
    const parked: Parked = {
      requestId: typeof id === "string" ? id : "",
      record: item.record,
      error: textOf(error),
      at: now,
    };
    try {
      if (refusals) await this.#inTime(refusals.report(parked));
    } catch (failure) {
      // A database that takes no note either is in trouble itself, unless it said what it minds in this record.
      if (refusals?.judge(error) !== "refused") return { kind: "failed", error: failure };
    }
    this.#queue.park(line.consumer.name, seq, item.position, parked);
    return DONE;
  }

  #inTime<T>(work: Promise<T>): Promise<T> {
    return within(this.#options.deliveryDeadlineMs ?? DELIVERY_DEADLINE_MS, work);
  }

  /** Makes room by moving those that may miss records to where the others are. False: there was nothing to gain. */
  #giveUp(): boolean {
    const before = this.#queue.rows;
    const needed = this.#lines.filter((line) => !line.consumer.mayMiss).map((line) => line.cursor);
    const floor = Math.min(this.#queue.lastSeq, ...needed);
    for (const line of this.#lines) {
      if (line.cursor >= floor) continue;
      this.#queue.miss(line.consumer.name, line.cursor, floor);
      line.cursor = floor;
      this.#keepPlace(line);
    }
    this.#forget();
    return this.#queue.rows < before;
  }

  /** Deletes what every consumer has passed. */
  #forget(): void {
    this.#queue.forget(Math.min(this.#queue.lastSeq, ...this.#lines.map((line) => line.cursor)));
  }

  #keepPlace({ consumer, cursor, failures, dueAt }: Line): void {
    this.#queue.keepPlace(consumer.name, { cursor, failures, due: dueAt ?? 0 });
  }

  #arm(): void {
    const at = this.nextAlarmAt();
    if (at === null || at >= this.#armedAt) return;
    try {
      this.#options.arm(at);
      this.#armedAt = at;
    } catch (error) {
      // The next record, the next alarm or the next start of the object asks again.
      log({ msg: "outbox_not_armed", error: textOf(error) });
    }
  }
}

/** What an error says, bounded; even one that can't say it. */
function textOf(error: unknown): string {
  try {
    return String(error).slice(0, MAX_ERROR_CHARS);
  } catch {
    return "unknown";
  }
}
