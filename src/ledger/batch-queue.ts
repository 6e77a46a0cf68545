/**
 * The outbox's tables: batches of records in the order they came, each consumer's place among them, parked records, and
 * counts of what did not get through. Everything here is synchronous, so it belongs to whatever transaction the caller
 * is in. Sums are kept in memory and rebuilt at the start.
 */

/** A longer message is split. In UTF-16 units: at most 1.5 MB of UTF-8, below the 2 MB of one value in SQLite and D1. */
const MAX_BATCH_CHARS = 512 * 1024;
/** No single value may be longer: 1.97 MB of UTF-8 at the worst. */
const MAX_VALUE_CHARS = 640 * 1024;
/** What may wait: 500,000 rows are 2.7 hours of 50 calls a second, 512 MB a twentieth of what the object may store. */
const MAX_ROWS = 500_000;
const MAX_BYTES = 512 * 1024 * 1024;
/** Parked records kept here, the newest; each was logged and told to its consumer too. */
const MAX_PARKED = 1_000;
/** Characters kept of a text that could not even be stored. */
const MAX_PARKED_CHARS = 64 * 1024;
/** Records of the first release that become one batch: about 400 KB. */
const CARRY_OVER_ROWS = 400;
const DROP_LOG_MS = 60_000;

/** Rows of the text bound first; null if it is not the JSON text of an array. CASE, since functions fail on other text. */
const COUNT_ROWS = "CASE WHEN json_valid(?1) THEN CASE json_type(?1) WHEN 'array' THEN json_array_length(?1) END END";

export type Batch = {
  readonly seq: number;
  /** JSON text of an array of records. */
  readonly records: string;
};

export type Parked = {
  /** Empty if the record names none. */
  readonly requestId: string;
  /** The record's JSON text. */
  readonly record: string;
  readonly error: string;
  readonly at: number;
};

/** What one outbox may hold. */
export type Cap = { readonly rows: number; readonly bytes: number };

/** Records ever parked, dropped at the cap, and given up for a consumer that may miss them. */
export type Totals = { parked: number; dropped: number; missed: number };

/** A consumer's place: the last batch it has taken over, its failures in a row, and when it wants to be served next. */
export type Place = { readonly cursor: number; readonly failures: number; readonly due: number };

type Size = { readonly seq: number; readonly rows: number; readonly bytes: number };

export class BatchQueue {
  readonly totals: Readonly<Totals>;
  readonly #totals: Totals;
  readonly #sql: SqlStorage;
  readonly #cap: Cap;
  #rows = 0;
  #bytes = 0;
  #lastSeq = 0;
  #forgotten = 0;
  #dropLoggedAt = Number.NEGATIVE_INFINITY;

  constructor(sql: SqlStorage, cap: Partial<Cap> = {}) {
    this.#sql = sql;
    this.#cap = { rows: MAX_ROWS, bytes: MAX_BYTES, ...cap };
    sql.exec(
      "CREATE TABLE IF NOT EXISTS outbox_batch (seq INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, rows INTEGER NOT NULL, bytes INTEGER NOT NULL, records TEXT NOT NULL)",
    );
    sql.exec(
      "CREATE TABLE IF NOT EXISTS outbox_consumer (name TEXT PRIMARY KEY, cursor INTEGER NOT NULL, failures INTEGER NOT NULL, due INTEGER NOT NULL) WITHOUT ROWID",
    );
    sql.exec(
      "CREATE TABLE IF NOT EXISTS parked (id INTEGER PRIMARY KEY AUTOINCREMENT, consumer TEXT NOT NULL, seq INTEGER NOT NULL, position INTEGER NOT NULL, request_id TEXT NOT NULL, record TEXT NOT NULL, error TEXT NOT NULL, at INTEGER NOT NULL)",
    );
    sql.exec(
      "CREATE TABLE IF NOT EXISTS outbox_total (id INTEGER PRIMARY KEY CHECK (id = 1), parked INTEGER NOT NULL, dropped INTEGER NOT NULL, missed INTEGER NOT NULL)",
    );
    // Apart from the places: an earlier release, which replaces those whole, would take it away.
    sql.exec("CREATE TABLE IF NOT EXISTS outbox_note (name TEXT PRIMARY KEY, note TEXT NOT NULL) WITHOUT ROWID");
    this.#carryOver();
    const [totals] = sql.exec<Totals>("SELECT parked, dropped, missed FROM outbox_total").toArray();
    this.#totals = totals ?? { parked: 0, dropped: 0, missed: 0 };
    this.totals = this.#totals;
    const sums = sql
      .exec<Size>(
        "SELECT coalesce(max(seq), 0) AS seq, coalesce(sum(rows), 0) AS rows, coalesce(sum(bytes), 0) AS bytes FROM outbox_batch",
      )
      .one();
    this.#rows = sums.rows;
    this.#bytes = sums.bytes;
    this.#lastSeq = sums.seq;
  }

  get rows(): number {
    return this.#rows;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Of the newest batch; 0 if none has come since the object started. */
  get lastSeq(): number {
    return this.#lastSeq;
  }

  /** When the oldest batch came; null: there is none. */
  oldestAt(): number | null {
    const [oldest] = this.#sql.exec<{ at: number }>("SELECT at FROM outbox_batch ORDER BY seq LIMIT 1").toArray();
    return oldest?.at ?? null;
  }

  /**
   * Stores the JSON text of an array of records as it came, in batches that fit a value. Text that is no array is
   * parked. What is above the cap is counted and logged, after `makeRoom` has said that it can free nothing.
   */
  add(records: string, now: number, makeRoom: () => boolean): void {
    const pieces = records.length > MAX_BATCH_CHARS ? this.#pieces(records) : [records];
    for (const piece of pieces) this.#store(piece, now, makeRoom);
  }

  /** The batches after one: as much as one delivery may hold, and at least one batch. */
  after(cursor: number, maxRows: number, maxBytes: number): Batch[] {
    // Sizes first: a cursor that is left before its end would stay open until it is collected.
    const sizes = this.#sql
      .exec<Size>("SELECT seq, rows, bytes FROM outbox_batch WHERE seq > ? ORDER BY seq LIMIT ?", cursor, maxRows)
      .toArray();
    let last = sizes[0]?.seq ?? cursor;
    let rows = 0;
    let bytes = 0;
    for (const size of sizes) {
      rows += size.rows;
      bytes += size.bytes;
      if (rows > maxRows || bytes > maxBytes) break;
      last = size.seq;
    }
    return this.#sql
      .exec<Batch>("SELECT seq, records FROM outbox_batch WHERE seq > ? AND seq <= ? ORDER BY seq", cursor, last)
      .toArray();
  }

  /** Deletes batches up to this one. */
  forget(through: number): void {
    if (through <= this.#forgotten) return;
    this.#forgotten = through;
    for (const { rows, bytes } of this.#sql.exec<Size>(
      "DELETE FROM outbox_batch WHERE seq <= ? RETURNING seq, rows, bytes",
      through,
    )) {
      this.#rows -= rows;
      this.#bytes -= bytes;
    }
  }

  place(consumer: string): Place {
    const [kept] = this.#sql
      .exec<Place>("SELECT cursor, failures, due FROM outbox_consumer WHERE name = ?", consumer)
      .toArray();
    return kept ?? { cursor: 0, failures: 0, due: 0 };
  }

  keepPlace(consumer: string, { cursor, failures, due }: Place): void {
    this.#sql.exec(
      "INSERT OR REPLACE INTO outbox_consumer (name, cursor, failures, due) VALUES (?, ?, ?, ?)",
      consumer,
      cursor,
      failures,
      due,
    );
  }

  /** What a consumer has noted with its place; empty: nothing. */
  noteOf(consumer: string): string {
    const [kept] = this.#sql.exec<{ note: string }>("SELECT note FROM outbox_note WHERE name = ?", consumer).toArray();
    return kept?.note ?? "";
  }

  keepNote(consumer: string, note: string): void {
    this.#sql.exec("INSERT OR REPLACE INTO outbox_note (name, note) VALUES (?, ?)", consumer, note);
  }

  /** Counts the rows that a consumer will not get, as its place is moved from one batch to another. */
  miss(consumer: string, from: number, through: number): void {
    const { rows } = this.#sql
      .exec<{ rows: number }>(
        "SELECT coalesce(sum(rows), 0) AS rows FROM outbox_batch WHERE seq > ? AND seq <= ?",
        from,
        through,
      )
      .one();
    this.#totals.missed += rows;
    this.#keepTotals();
    log({ msg: "outbox_given_up", consumer, rows });
  }

  /** Keeps a record that a consumer refused, with its place in its batch, and tells the log of it. */
  park(consumer: string, seq: number, position: number, { requestId, record, error, at }: Parked): void {
    this.#sql.exec(
      "INSERT INTO parked (consumer, seq, position, request_id, record, error, at) VALUES (?, ?, ?, ?, ?, ?, ?)",
      consumer,
      seq,
      position,
      requestId,
      record,
      error,
      at,
    );
    // Those of the batch in hand stay: they are how its next try knows what to leave out.
    this.#sql.exec(
      "DELETE FROM parked WHERE id <= (SELECT max(id) FROM parked) - ? AND (consumer <> ? OR seq <> ?)",
      MAX_PARKED,
      consumer,
      seq,
    );
    this.#totals.parked++;
    this.#keepTotals();
    // The class of the error and no more: its text is not ours, and might quote the record.
    const kind = /SQLITE_[A-Z]+/.exec(error)?.[0] ?? error.split(":", 1).join("");
    log({ msg: "outbox_parked", request_id: requestId, consumer, error: kind });
  }

  /** Places within a batch of the records that a consumer has refused already. */
  parkedOf(consumer: string, seq: number): ReadonlySet<number> {
    const rows = this.#sql.exec<{ position: number }>(
      "SELECT position FROM parked WHERE consumer = ? AND seq = ?",
      consumer,
      seq,
    );
    return new Set([...rows].map((row) => row.position));
  }

  #store(records: string, now: number, makeRoom: () => boolean): void {
    if (records.length <= MAX_VALUE_CHARS) {
      const [stored] = this.#insert(records, now);
      if (stored) {
        this.#rows += stored.rows;
        this.#bytes += stored.bytes;
        this.#lastSeq = stored.seq;
        return;
      }
    }
    const rows = this.#count(records);
    if (rows === null || records.length > MAX_VALUE_CHARS) {
      const error = rows === null ? "not a JSON array" : "too large";
      this.park("", 0, 0, { requestId: "", record: records.slice(0, MAX_PARKED_CHARS), error, at: now });
    } else if (rows > 0) {
      if (makeRoom()) this.#store(records, now, makeRoom);
      else this.#drop(rows, now);
    }
  }

  /** One statement, so that the text is bound and parsed once. No row comes back if it is empty, no array or too much. */
  #insert(records: string, now: number): Size[] {
    return this.#sql
      .exec<Size>(
        `WITH size AS MATERIALIZED (SELECT ${COUNT_ROWS} AS rows, octet_length(?1) AS bytes)
         INSERT INTO outbox_batch (at, rows, bytes, records)
         SELECT ?2, rows, bytes, ?1 FROM size
         WHERE rows > 0 AND rows <= ?3 AND bytes <= ?4
         RETURNING seq, rows, bytes`,
        records,
        now,
        this.#cap.rows - this.#rows,
        this.#cap.bytes - this.#bytes,
      )
      .toArray();
  }

  #count(records: string): number | null {
    return this.#sql.exec<{ rows: number | null }>(`SELECT ${COUNT_ROWS} AS rows`, records).one().rows;
  }

  /** The records of a long message as several arrays, in order. */
  #pieces(records: string): string[] {
    if (this.#count(records) === null) return [records];
    return this.#sql
      .exec<{ records: string }>(
        `SELECT '[' || group_concat(record, ',' ORDER BY key) || ']' AS records
         FROM (
           SELECT key, record, sum(length(record) + 1) OVER (ORDER BY key) / ? AS part
           FROM (SELECT key, iif(type IN ('object', 'array'), value, json_quote(value)) AS record FROM json_each(?))
         )
         GROUP BY part ORDER BY part`,
        MAX_BATCH_CHARS,
        records,
      )
      .toArray()
      .map((row) => row.records);
  }

  #drop(rows: number, now: number): void {
    this.#totals.dropped += rows;
    this.#keepTotals();
    if (Math.abs(now - this.#dropLoggedAt) < DROP_LOG_MS) return;
    this.#dropLoggedAt = now;
    log({ msg: "outbox_full", rows: this.#rows, bytes: this.#bytes, dropped: this.#totals.dropped });
  }

  #keepTotals(): void {
    const { parked, dropped, missed } = this.#totals;
    this.#sql.exec(
      "INSERT OR REPLACE INTO outbox_total (id, parked, dropped, missed) VALUES (1, ?, ?, ?)",
      parked,
      dropped,
      missed,
    );
  }

  /** The first release kept single records, each checked to be JSON by its maker. They come first, in their order. */
  #carryOver(): void {
    const sql = this.#sql;
    if (sql.exec("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'outbox'").toArray().length === 0) return;
    for (;;) {
      const { last } = sql
        .exec<{ last: number | null }>(
          "SELECT max(seq) AS last FROM (SELECT seq FROM outbox ORDER BY seq LIMIT ?)",
          CARRY_OVER_ROWS,
        )
        .one();
      if (last === null) break;
      sql.exec(
        `INSERT INTO outbox_batch (at, rows, bytes, records)
         SELECT at, rows, octet_length(records), records
         FROM (
           SELECT coalesce(min(record->>'at'), 0) AS at, count(*) AS rows,
             '[' || group_concat(record, ',' ORDER BY seq) || ']' AS records
           FROM outbox WHERE seq <= ?
         )`,
        last,
      );
      sql.exec("DELETE FROM outbox WHERE seq <= ?", last);
    }
    sql.exec("DROP TABLE outbox");
  }
}

export function log(facts: Record<string, unknown>): void {
  console.error(JSON.stringify({ level: "error", ...facts }));
}
