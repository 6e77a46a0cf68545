/**
 * The price table that this isolate counts with, and the history of tables in D1. A table that is replaced is in force
 * within MAX_AGE_MS: calls begin a refresh in the background when the last one is REFRESH_MS old, and a settlement whose
 * table is older than MAX_AGE_MS, or was never loaded, looks for itself before it counts. While D1 is away, and until it has
 * answered once, the last table known is used, at first the built-in one.
 *
 * Calls never wait for each other's promises: work begun by a call that is cancelled would never finish for the others.
 * Left open: a reservation is made with the table at hand, which in an isolate that has long been idle may be an older
 * one until its first refresh is there.
 */
import type { Change } from "../changes/change.ts";
import { writeRecorded } from "../changes/store.ts";
import type { Clock } from "../ledger/lease-book.ts";
import { builtInPrices, type PriceTable, parsePriceList } from "../wire/anthropic/price-list.ts";
import { parseJson } from "../wire/json.ts";
import { clock } from "./leases.ts";

export const MAX_AGE_MS = 30_000;
/** A third of the bound, so that a refresh may be lost with its call, and a second one fail. */
export const REFRESH_MS = 10_000;
/** How long a settlement waits for D1, and how long after a failure nobody waits. */
export const LOAD_DEADLINE_MS = 1_000;
export const RETRY_MS = 5_000;

/** One row of the history. `json` is null where the built-in table was put back. */
export type PriceVersion = {
  readonly version: number;
  /** Milliseconds since the epoch. */
  readonly at: number;
  readonly actor: string;
  readonly json: string | null;
};

const COLUMNS = "version, at, actor, json";

/** The version in force, or null when nobody has ever replaced the built-in table. */
export async function readPriceVersion(db: D1Database): Promise<PriceVersion | null> {
  return db.prepare(`SELECT ${COLUMNS} FROM price_lists ORDER BY version DESC LIMIT 1`).first<PriceVersion>();
}

/** Puts a table in force as the version after the last; false when that is not the one before it any more. */
export async function writePriceVersion(
  db: D1Database,
  { version, at, actor, json }: PriceVersion,
  change: Change,
): Promise<boolean> {
  const isNext = { sql: "(SELECT coalesce(max(version), 0) FROM price_lists) = ?", values: [version - 1] };
  const insert = db
    .prepare(`INSERT INTO price_lists (${COLUMNS}) SELECT ?, ?, ?, ? WHERE ${isNext.sql}`)
    .bind(version, at, actor, json, ...isNext.values);
  return writeRecorded(db, change, isNext, insert);
}

export class CurrentPriceTable {
  #table: PriceTable | undefined;
  /** The version in use; 0: the built-in table, and no version was ever stored. */
  #version = 0;
  /** When the table was last known to be in force. */
  #checkedAt = Number.NEGATIVE_INFINITY;
  #refreshAt = Number.NEGATIVE_INFINITY;
  #failedAt = Number.NEGATIVE_INFINITY;
  /** Loads are numbered as they begin, so that a late answer never replaces a newer one. */
  #begun = 0;
  #taken = 0;
  readonly #clock: Clock;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** The table to count with at this moment. Asks nobody and never throws. */
  current(): PriceTable {
    this.#table ??= builtInPrices();
    return this.#table;
  }

  /** Begins a look into D1 when one is due: a promise for `waitUntil` that never rejects; else undefined. */
  refreshIfDue(db: D1Database): Promise<void> | undefined {
    const now = this.#clock.now();
    // A clock that has stepped back would otherwise put the next refresh off for as long.
    if (now < this.#refreshAt && this.#refreshAt - now <= REFRESH_MS) return undefined;
    this.#refreshAt = now + REFRESH_MS;
    return this.#load(db);
  }

  /**
   * The table to settle with: at most MAX_AGE_MS behind, unless D1 fails. Waits for D1 only when the table is older, at
   * most LOAD_DEADLINE_MS, and not again for RETRY_MS after a failure. Never rejects.
   */
  async upToDate(db: D1Database): Promise<PriceTable> {
    const now = this.#clock.now();
    const fresh = isWithin(now, this.#checkedAt, MAX_AGE_MS);
    if (!fresh && !isWithin(now, this.#failedAt, RETRY_MS)) {
      this.#refreshAt = now + REFRESH_MS;
      const late = this.#clock.wait(LOAD_DEADLINE_MS).then(() => "late");
      if ((await Promise.race([this.#load(db), late])) === "late") this.#failedAt = this.#clock.now();
    }
    return this.current();
  }

  /** Takes over a version that was written just now. */
  take(row: PriceVersion): void {
    this.#apply(row, ++this.#begun);
  }

  async #load(db: D1Database): Promise<void> {
    const nth = ++this.#begun;
    try {
      this.#apply(await readPriceVersion(db), nth);
    } catch (error) {
      this.#failedAt = this.#clock.now();
      console.error(JSON.stringify({ level: "error", msg: "price_list_not_loaded", error: String(error) }));
    }
  }

  #apply(row: PriceVersion | null, nth: number): void {
    if (nth < this.#taken) return;
    this.#taken = nth;
    this.#checkedAt = this.#clock.now();
    this.#failedAt = Number.NEGATIVE_INFINITY;
    const version = row?.version ?? 0;
    if (version === this.#version) return;
    const table = tableOf(row);
    this.#version = version;
    if (table) this.#table = table;
    else {
      console.error(JSON.stringify({ level: "error", msg: "price_list_unusable", version }));
    }
  }
}

/** The table of a version; null for one that this code can't read, stored by a later release perhaps. */
export function tableOf(row: PriceVersion | null): PriceTable | null {
  if (row === null || row.json === null) return builtInPrices();
  const parsed = parsePriceList(parseJson(row.json));
  return parsed.ok ? parsed.value : null;
}

/** Whether `now` lies in the span that begins at `since`; a clock that has stepped back before it is outside. */
function isWithin(now: number, since: number, spanMs: number): boolean {
  return now >= since && now - since <= spanMs;
}

export const priceTable = new CurrentPriceTable(clock);
