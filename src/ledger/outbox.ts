/**
 * Audit records between the ledger and D1. They are durable here before the settling call is answered, and are deleted
 * only after D1 has them; D1 ignores a request id it knows, so a crash between the two costs nothing and doubles
 * nothing. While D1 fails the alarm comes back with growing pauses, and requests notice nothing.
 */
import { insertAudit } from "../audit/store.ts";
import type { Settlement } from "./protocol.ts";

/** How long records wait for company before they travel, ms. */
const FLUSH_DELAY_MS = 1_000;
/** One flush carries at most this many records: about half a MB, below D1's 2 MB for one value. */
const FLUSH_ROWS = 500;
/** Pauses after failures: 1, 2, 4 … 60 s. */
const RETRY_BASE_MS = 1_000;
const RETRY_MAX_MS = 60_000;

export class Outbox {
  readonly #storage: DurableObjectStorage;
  readonly #db: D1Database;
  /** An alarm is set and has not fired. After a restart this is unknown, and setting it once more is harmless. */
  #armed = false;
  #failures = 0;

  constructor(storage: DurableObjectStorage, db: D1Database) {
    this.#storage = storage;
    this.#db = db;
    storage.sql.exec(
      "CREATE TABLE IF NOT EXISTS outbox (seq INTEGER PRIMARY KEY AUTOINCREMENT, request_id TEXT NOT NULL UNIQUE, record TEXT NOT NULL)",
    );
  }

  /** Takes records over, in one write. A request id that waits here already is not taken twice. */
  add(settlements: readonly Settlement[], now: number): void {
    if (settlements.length === 0) return;
    this.#storage.sql.exec(
      "INSERT OR IGNORE INTO outbox (request_id, record) SELECT value->>'requestId', value->>'record' FROM json_each(?)",
      JSON.stringify(settlements),
    );
    this.#arm(now + FLUSH_DELAY_MS);
  }

  /** Moves what waits to D1, oldest first. Never throws: an alarm that throws is given up after six tries. */
  async flush(clock: () => number): Promise<void> {
    this.#armed = false;
    const rows = this.#storage.sql
      .exec<{ seq: number; record: string }>("SELECT seq, record FROM outbox ORDER BY seq LIMIT ?", FLUSH_ROWS)
      .toArray();
    const last = rows.at(-1);
    if (!last) return;
    try {
      await insertAudit(
        this.#db,
        rows.map((row) => row.record),
      );
    } catch (error) {
      const pause = Math.min(RETRY_MAX_MS, RETRY_BASE_MS * 2 ** this.#failures++);
      console.error(
        JSON.stringify({
          level: "error",
          msg: "outbox_flush_failed",
          rows: rows.length,
          error: String(error),
          retry_ms: pause,
        }),
      );
      this.#arm(clock() + pause);
      return;
    }
    this.#failures = 0;
    this.#storage.sql.exec("DELETE FROM outbox WHERE seq <= ?", last.seq);
    if (rows.length === FLUSH_ROWS) this.#arm(clock());
    else if (this.#storage.sql.exec("SELECT 1 FROM outbox LIMIT 1").toArray().length > 0) {
      this.#arm(clock() + FLUSH_DELAY_MS);
    }
  }

  #arm(at: number): void {
    if (this.#armed) return;
    this.#armed = true;
    void this.#storage.setAlarm(at);
  }
}
