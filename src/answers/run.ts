/**
 * One answer, from its first byte on: what came of it so far, for any number of readers, each at its own pace.
 *
 * Bytes go to SQLite in pieces, as they come; what has not been written yet is at most one piece, in memory, where
 * readers find it too. So no reader waits for another one, none sees a gap, and memory is flat in the length of the
 * answer and the slowness of its readers. What an object sends waits for what it has written before, so little is
 * written, and nothing early: most answers are one piece, written at their end (a run whose object dies is void anyway).
 *
 * An answer that gets too large to be kept is passed on through a window: what all readers have read is dropped, and
 * when they are far behind it waits for them.
 */
import type { Unanswered } from "../hotpath/forward.ts";

/** Largest answer that is kept, and how far an answer larger than that may run ahead of its slowest reader. */
export const MAX_KEPT_BYTES = 64 * 1024 * 1024;
/** A piece is written when it is so large (a row may have 2 MB), the last one when the answer has ended. */
export const PIECE_BYTES = 64 * 1024;

export const PIECES_TABLE =
  "CREATE TABLE IF NOT EXISTS pieces (run TEXT, at INTEGER, bytes BLOB NOT NULL, PRIMARY KEY (run, at)) WITHOUT ROWID";

/** An answer's status and headers, as the upstream sent them, less those of one hop. */
export type Head = {
  readonly status: number;
  readonly headers: readonly (readonly [string, string])[];
  /** Has a body, be it of no bytes. */
  readonly hasBody: boolean;
};

/** What began: an answer, or a failure in its place. */
export type Beginning = { readonly ok: true; readonly head: Head } | { readonly ok: false; readonly why: Unanswered };

/** Someone who wants the answer, from the moment they ask until they have it or leave. */
export class Reader {
  /** What they have read. */
  at = 0;
  left = false;
  readonly #leave: () => void;

  constructor(leave: (reader: Reader) => void) {
    this.#leave = () => leave(this);
  }

  /** They have it all, or have left. May be called twice. */
  leave(): void {
    this.left = true;
    this.#leave();
  }
}

export class Run {
  readonly id: string;
  readonly #sql: SqlStorage;
  readonly #prepare: () => void;
  readonly #maxKeptBytes: number;
  readonly #readers = new Set<Reader>();
  readonly #beginning = Promise.withResolvers<Beginning>();
  /** Bytes in SQLite. */
  #stored = 0;
  /** What comes after them; a piece's room, from the first byte on. */
  #tail = new Uint8Array(0);
  #tailBytes = 0;
  #state: "open" | "whole" | "broken" = "open";
  #changed = Promise.withResolvers<void>();
  #moved = Promise.withResolvers<void>();
  /** Called when a reader has left and none is there any more. */
  onDeserted: () => void = () => {};
  /** Called when a reader comes. */
  onReader: () => void = () => {};

  /** `prepare` is called before something is written. */
  constructor(id: string, sql: SqlStorage, prepare: () => void, maxKeptBytes = MAX_KEPT_BYTES) {
    this.id = id;
    this.#sql = sql;
    this.#prepare = prepare;
    this.#maxKeptBytes = maxKeptBytes;
  }

  /** One whose answer is found whole in SQLite. */
  static kept(id: string, sql: SqlStorage, head: Head, bytes: number): Run {
    const run = new Run(id, sql, () => {});
    run.#stored = bytes;
    run.begin(head);
    run.finish();
    return run;
  }

  /** Resolves when the answer begins, or when it is known that it never will. Never rejects. */
  get beginning(): Promise<Beginning> {
    return this.#beginning.promise;
  }

  get bytes(): number {
    return this.#stored + this.#tailBytes;
  }

  /** Whether all of it is there from the first byte on. */
  get keepable(): boolean {
    return this.bytes <= this.#maxKeptBytes;
  }

  get hasReaders(): boolean {
    return this.#readers.size > 0;
  }

  /** The upstream has begun to answer. */
  begin(head: Head): void {
    this.#beginning.resolve({ ok: true, head });
  }

  /** There is no answer, and will be none. */
  fail(why: Unanswered): void {
    this.#beginning.resolve({ ok: false, why });
  }

  /** Takes all that a body brings; false when it broke. Readers are told of the end by `finish`. */
  async take(body: ReadableStream<Uint8Array> | null): Promise<boolean> {
    if (!body) return true;
    const reader = body.getReader({ mode: "byob" });
    let buffer = new ArrayBuffer(PIECE_BYTES);
    try {
      for (;;) {
        const { done, value } = await reader.read(new Uint8Array(buffer));
        if (done || !value) break;
        this.#append(value);
        buffer = value.buffer;
        while (this.bytes - this.#low() > this.#maxKeptBytes) await this.#moved.promise;
      }
      return true;
    } catch {
      // The source broke off. What came of it is there.
      return false;
    }
  }

  /** Nothing comes any more. An answer that broke must not look as if it had ended: its readers break too. */
  finish(how: "whole" | "broken" = "whole"): void {
    this.#state = how;
    this.#wake();
  }

  join(): Reader {
    const reader = new Reader((who) => {
      if (!this.#readers.delete(who)) return;
      this.#readerMoved();
      if (this.#readers.size === 0) this.onDeserted();
    });
    this.#readers.add(reader);
    this.onReader();
    return reader;
  }

  /** The answer's bytes from the first on, at the reader's pace. */
  stream(reader: Reader): ReadableStream<Uint8Array> {
    return new ReadableStream(
      {
        type: "bytes",
        pull: async (controller) => {
          while (reader.at === this.bytes && this.#state === "open") await this.#changed.promise;
          if (reader.left) return;
          const piece = this.#pieceAt(reader.at);
          if (piece) {
            reader.at += piece.length;
            this.#readerMoved();
            controller.enqueue(piece);
            return;
          }
          reader.leave();
          if (this.#state === "whole" && reader.at === this.bytes) {
            controller.close();
            controller.byobRequest?.respond(0);
          } else controller.error(new Error("the answer broke off"));
        },
        cancel: () => reader.leave(),
      },
      { highWaterMark: 0 },
    );
  }

  /** Removes its bytes. */
  drop(): void {
    if (this.#stored > 0) this.#sql.exec("DELETE FROM pieces WHERE run = ?", this.id);
  }

  #append(bytes: Uint8Array): void {
    if (this.#tail.length === 0) this.#tail = new Uint8Array(PIECE_BYTES);
    for (let from = 0; from < bytes.length; ) {
      const part = bytes.subarray(from, from + PIECE_BYTES - this.#tailBytes);
      this.#tail.set(part, this.#tailBytes);
      this.#tailBytes += part.length;
      from += part.length;
      if (this.#tailBytes === PIECE_BYTES) this.save();
    }
    this.#wake();
  }

  /** Writes what has not been written yet. */
  save(): void {
    if (this.#tailBytes === 0) return;
    if (this.#stored === 0) this.#prepare();
    const bytes = this.#tail.slice(0, this.#tailBytes).buffer;
    this.#sql.exec("INSERT INTO pieces (run, at, bytes) VALUES (?, ?, ?)", this.id, this.#stored, bytes);
    this.#stored += this.#tailBytes;
    this.#tailBytes = 0;
    if (this.keepable) return;
    this.#sql.exec("DELETE FROM pieces WHERE run = ? AND at + length(bytes) <= ?", this.id, this.#low());
  }

  #pieceAt(at: number): Uint8Array | null {
    if (at >= this.#stored) {
      return at < this.bytes ? this.#tail.slice(at - this.#stored, this.#tailBytes) : null;
    }
    const [row] = this.#sql
      .exec<{ at: number; bytes: ArrayBuffer }>(
        "SELECT at, bytes FROM pieces WHERE run = ? AND at <= ? ORDER BY at DESC LIMIT 1",
        this.id,
        at,
      )
      .toArray();
    if (!row || row.at + row.bytes.byteLength <= at) return null;
    return new Uint8Array(row.bytes, at - row.at);
  }

  /** Where the slowest reader is. */
  #low(): number {
    let low = this.bytes;
    for (const { at } of this.#readers) low = Math.min(low, at);
    return low;
  }

  #wake(): void {
    const { resolve } = this.#changed;
    this.#changed = Promise.withResolvers();
    resolve();
  }

  #readerMoved(): void {
    const { resolve } = this.#moved;
    this.#moved = Promise.withResolvers();
    resolve();
  }
}
