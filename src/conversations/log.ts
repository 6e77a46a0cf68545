/**
 * The numbered log of a conversation: every event that viewers are told, stored before they are. Entries of one moment
 * share a row, since rows are billed; one as long as many shares none.
 *
 * Old turns are dropped from it (their messages stay in the history): everything up to the floor is gone, everything
 * behind it is there.
 */
import type { Tables } from "./schema.ts";

export type LogKind = "turn.queued" | "turn.started" | "context.cut" | "event" | "turn.completed" | "turn.failed";
/** `data`: JSON text without line breaks: the upstream event itself, or the members of a frame beside type, seq, turn. */
export type LogEntry = { readonly kind: LogKind; readonly turn: string; readonly data: string };
export type Numbered = LogEntry & { readonly seq: number };

/** Ended turns that stay, the newest ones, as long as they have no more bytes together. The newest one always stays. */
export const KEPT_TURNS = 16;
export const KEPT_BYTES = 8 * 1024 * 1024;
/** Of a row with several entries: whoever wants the last of them reads all. */
export const ROW_BYTES = 64 * 1024;
/** Rows are read one, two, four … at once, so that little is read in vain; 2 MB of them at most. */
const READ_ROWS = 32;

/** Stored by their place here: only ever added to. */
const KINDS: readonly LogKind[] = [
  "turn.queued",
  "turn.started",
  "context.cut",
  "event",
  "turn.completed",
  "turn.failed",
];
/** In front of an entry's text: its length (four bytes, big end first) and its kind (one). */
const HEAD_BYTES = 5;

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: false, ignoreBOM: true });

type Row = {
  readonly last: number;
  readonly turn: string;
  readonly entries: number;
  readonly body: ArrayBuffer | null;
};
type TurnRow = { readonly first: number; readonly began: number | null };
/** A place where the log may end: `total` counts the bytes ever appended up to it. */
type Mark = { readonly seq: number; readonly total: number };
type Encoded = { readonly kind: LogKind; readonly data: Uint8Array };

export class EventLog {
  readonly #tables: Tables;
  #end: Mark | undefined;
  #floor: Mark | undefined;
  /** A turn whose beginning is written down. */
  #begun: string | null = null;

  constructor(tables: Tables) {
    this.#tables = tables;
    tables.onReload(() => {
      this.#end = undefined;
      this.#floor = undefined;
      this.#begun = null;
    });
  }

  /** 0: nothing yet. */
  get lastSeq(): number {
    return this.#atEnd().seq;
  }

  /** Everything up to this number is kept no more. */
  get floor(): number {
    return this.#atFloor().seq;
  }

  get bytes(): number {
    return this.#atEnd().total - this.#atFloor().total;
  }

  /** Entries of one moment, stored before they are returned with their numbers. One row for many. */
  append(entries: readonly LogEntry[]): readonly Numbered[] {
    let seq = this.lastSeq;
    const numbered = entries.map((entry) => ({ ...entry, seq: ++seq }));
    let row: Encoded[] = [];
    let bytes = 0;
    for (const [i, { kind, data, turn }] of entries.entries()) {
      const encoded = { kind, data: encoder.encode(data) };
      const more = HEAD_BYTES + encoded.data.byteLength;
      if (row.length > 0 && bytes + more > ROW_BYTES) {
        this.#insert(turn, row, bytes);
        row = [];
        bytes = 0;
      }
      row.push(encoded);
      bytes += more;
      if (entries[i + 1]?.turn === turn) continue;
      this.#insert(turn, row, bytes);
      row = [];
      bytes = 0;
    }
    return numbered;
  }

  /** What comes after a number, oldest first, of at most about so many bytes (at least one entry). */
  read(after: number, maxBytes: number): readonly Numbered[] {
    const found: Numbered[] = [];
    let room = maxBytes;
    for (const entry of this.#from(Math.max(after, this.floor), null)) {
      room -= entry.bytes;
      if (found.length > 0 && room < 0) break;
      found.push(entry.numbered);
      if (room <= 0) break;
    }
    return found;
  }

  /** Whether anything of a turn's answer (an `event`) is in the log. */
  hasEvents(turn: string): boolean {
    for (const _ of this.eventsOf(turn)) return true;
    return false;
  }

  /** All `event`s of a turn. */
  *eventsOf(turn: string): Iterable<Numbered> {
    const began = this.#turn(turn)?.began;
    if (typeof began !== "number") return;
    for (const { numbered } of this.#from(Math.max(began - 1, this.floor), turn)) {
      if (numbered.kind === "event") yield numbered;
    }
  }

  /** Number of the last entry before a turn's first one. 0 for a turn that is not in the log: whoever reads from there is told of what is kept no more. */
  before(turn: string): number {
    const known = this.#turn(turn);
    return known ? Math.max(known.first - 1, this.floor) : 0;
  }

  /** Number of a turn's `turn.started`; null: not in the log. */
  began(turn: string): number | null {
    return this.#turn(turn)?.began ?? null;
  }

  /** Drops the oldest ended turns beyond the bounds on turns and bytes; never `running`. */
  compact(running: string | null): void {
    if (!this.#tables.made) return;
    const { sql } = this.#tables;
    const began = (running !== null && this.#turn(running)?.began) || Number.POSITIVE_INFINITY;
    const ends = sql
      .exec<Mark>("SELECT ended AS seq, total FROM log_turn WHERE ended IS NOT NULL ORDER BY ended DESC")
      .toArray();
    const marks = [...ends, this.#atFloor()];
    const newest = marks[0]?.total ?? 0;
    // To end at the nth mark is to keep n turns: as many as may stay, but one at least.
    let kept = 1;
    while (kept < KEPT_TURNS && newest - (marks[kept + 1]?.total ?? Number.NEGATIVE_INFINITY) <= KEPT_BYTES) kept++;
    const end = marks.slice(kept).find(({ seq }) => seq < began);
    if (!end || end.seq <= this.floor) return;
    sql.exec(
      "DELETE FROM piece WHERE owner IN (SELECT 'log ' || last FROM log WHERE last <= ? AND body IS NULL)",
      end.seq,
    );
    sql.exec("DELETE FROM log WHERE last <= ?", end.seq);
    sql.exec("DELETE FROM log_turn WHERE ended <= ?", end.seq);
    sql.exec("INSERT OR REPLACE INTO log_floor (one, seq, total) VALUES (1, ?, ?)", end.seq, end.total);
    this.#floor = end;
  }

  #insert(turn: string, row: readonly Encoded[], bytes: number): void {
    const { sql } = this.#tables;
    const { seq, total: before } = this.#atEnd();
    const [last, total] = [seq + row.length, before + bytes];
    const body = packed(row, bytes);
    const events = row.filter(({ kind }) => kind === "event").length;
    if (bytes > ROW_BYTES) this.#tables.putBytes(ownerOf(last), body);
    sql.exec(
      "INSERT INTO log (last, turn, entries, events, total, body) VALUES (?, ?, ?, ?, ?, ?)",
      last,
      turn,
      row.length,
      events,
      total,
      bytes > ROW_BYTES ? null : body.buffer,
    );
    this.#end = { seq: last, total };
    const place = (is: (kind: LogKind) => boolean): number | null => {
      const at = row.findIndex(({ kind }) => is(kind));
      return at === -1 ? null : seq + at + 1;
    };
    const began = place((kind) => kind !== "turn.queued");
    const ended = place((kind) => kind === "turn.completed" || kind === "turn.failed");
    if (turn === this.#begun && ended === null) return;
    sql.exec(
      `INSERT INTO log_turn (turn, first, began, ended, total) VALUES (?, ?, ?, ?, ?) ON CONFLICT (turn) DO UPDATE SET
       began = coalesce(began, excluded.began), ended = coalesce(excluded.ended, ended),
       total = coalesce(excluded.total, total)`,
      turn,
      seq + 1,
      began,
      ended,
      ended === null ? null : total,
    );
    if (began !== null) this.#begun = turn;
  }

  /** Entries behind a number, of one turn or of all. Rows are read as they are needed, and none is open in between. */
  *#from(after: number, turn: string | null): Generator<{ readonly numbered: Numbered; readonly bytes: number }> {
    let at = after;
    for (let limit = 1; this.#tables.made; limit = Math.min(2 * limit, READ_ROWS)) {
      const rows = this.#tables.sql
        .exec<Row>(
          `SELECT last, turn, entries, body FROM log WHERE last > ? AND (? IS NULL OR turn = ? AND events > 0)
           ORDER BY last LIMIT ?`,
          at,
          turn,
          turn,
          limit,
        )
        .toArray();
      for (const row of rows) yield* this.#unpacked(row, after);
      const last = rows.at(-1)?.last;
      if (last === undefined) return;
      at = last;
    }
  }

  *#unpacked(row: Row, after: number): Generator<{ readonly numbered: Numbered; readonly bytes: number }> {
    const body = row.body === null ? this.#tables.bytes(ownerOf(row.last)) : new Uint8Array(row.body);
    const view = new DataView(body.buffer);
    let at = 0;
    for (let seq = row.last - row.entries + 1; seq <= row.last; seq++) {
      const [bytes, kind] = [view.getUint32(at), KINDS[view.getUint8(at + 4)]];
      at += HEAD_BYTES + bytes;
      if (seq <= after || kind === undefined) continue;
      const data = decoder.decode(body.subarray(at - bytes, at));
      yield { numbered: { seq, kind, turn: row.turn, data }, bytes };
    }
  }

  #turn(turn: string): TurnRow | undefined {
    if (!this.#tables.made) return undefined;
    return this.#tables.sql.exec<TurnRow>("SELECT first, began FROM log_turn WHERE turn = ?", turn).toArray()[0];
  }

  #atEnd(): Mark {
    this.#end ??= this.#mark("SELECT last AS seq, total FROM log ORDER BY last DESC LIMIT 1") ?? this.#atFloor();
    return this.#end;
  }

  #atFloor(): Mark {
    this.#floor ??= this.#mark("SELECT seq, total FROM log_floor") ?? { seq: 0, total: 0 };
    return this.#floor;
  }

  #mark(statement: string): Mark | undefined {
    return this.#tables.made ? this.#tables.sql.exec<Mark>(statement).toArray()[0] : undefined;
  }
}

function ownerOf(last: number): string {
  return `log ${last}`;
}

function packed(row: readonly Encoded[], bytes: number): Uint8Array<ArrayBuffer> {
  const body = new Uint8Array(bytes);
  const view = new DataView(body.buffer);
  let at = 0;
  for (const { kind, data } of row) {
    view.setUint32(at, data.byteLength);
    view.setUint8(at + 4, KINDS.indexOf(kind));
    body.set(data, at + HEAD_BYTES);
    at += HEAD_BYTES + data.byteLength;
  }
  return body;
}
