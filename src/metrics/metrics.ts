/**
 * The object that adds up what ledgers have counted. Every batch of a ledger's outbox counts once: the number of the
 * last one is stored in the same transaction as the sums, so a batch that comes again, because an answer was lost or
 * the ledger restarted, changes nothing.
 *
 * A ledger's row is never forgotten. It says which batches must not count again and how far the ledger's own counters
 * had got, and there is no moment at which neither could be needed: a ledger may come back after any time. It costs
 * some 300 bytes for each ledger that ever was, against the object's 10 GB.
 *
 * Accepted: what a ledger drops or parks before it has been delivered here is counted as dropped or parked, and in
 * nothing else.
 */
import { DurableObject } from "cloudflare:workers";
import {
  COUNTERS,
  type Delivery,
  earlier,
  type GaugeSums,
  type Gauges,
  isBusy,
  type MetricsHub,
  type Reading,
  type Report,
} from "./hub.ts";
import { bounded, sum, type Tally, type Totals } from "./tally.ts";

/** A gauge that was not told again for this long says nothing about now. */
export const GAUGE_LIFE_MS = 60_000;

const SCHEMA = [
  "CREATE TABLE IF NOT EXISTS series (name TEXT PRIMARY KEY, numbers TEXT NOT NULL) WITHOUT ROWID",
  `CREATE TABLE IF NOT EXISTS ledgers (ledger TEXT PRIMARY KEY, seq INTEGER NOT NULL, counters TEXT NOT NULL,
    gauges TEXT NOT NULL, busy INTEGER NOT NULL, heard_at INTEGER NOT NULL) WITHOUT ROWID`,
  // Only ledgers with something to show are looked at by a scrape.
  "CREATE INDEX IF NOT EXISTS busy_ledgers ON ledgers (heard_at) WHERE busy = 1",
];

type LedgerRow = { readonly seq: number; readonly counters: string };

export class Metrics extends DurableObject<Env> implements MetricsHub {
  readonly #totals: Totals = new Map();

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env);
    const { sql } = ctx.storage;
    for (const statement of SCHEMA) sql.exec(statement);
    for (const { name, numbers } of sql.exec<{ name: string; numbers: string }>("SELECT name, numbers FROM series")) {
      this.#totals.set(name, JSON.parse(numbers) as number[]);
    }
  }

  async add({ ledger, fromSeq, toSeq, tally, report }: Delivery): Promise<number> {
    const { seq } = this.#row(ledger);
    const counts = fromSeq > seq;
    this.#store(ledger, counts ? toSeq : seq, counts ? tally : {}, report);
    return counts ? toSeq : seq;
  }

  async report(ledger: string, report: Report): Promise<void> {
    this.#store(ledger, this.#row(ledger).seq, {}, report);
  }

  async read(): Promise<Reading> {
    return { tally: Object.fromEntries(this.#totals), gauges: this.#gauges(Date.now()) };
  }

  /** Everything a call brings, or nothing: memory follows only what has been written. */
  #store(ledger: string, seq: number, tally: Tally, report: Report): void {
    const { sql } = this.ctx.storage;
    const known = JSON.parse(this.#row(ledger).counters) as Record<string, number>;
    const delta = bounded(this.#totals, tally);
    for (const counter of COUNTERS) {
      const value = report.counters[counter] ?? 0;
      // Never downwards: an older report may come after a newer one.
      const grown = value - (known[counter] ?? 0);
      if (!Number.isSafeInteger(value) || grown <= 0) continue;
      known[counter] = value;
      delta.set(counter, [grown]);
    }
    const sums = [...delta].map(([name, numbers]) => [name, sum(this.#totals.get(name), numbers)] as const);
    this.ctx.storage.transactionSync(() => {
      if (sums.length > 0) {
        sql.exec(
          "INSERT OR REPLACE INTO series (name, numbers) SELECT value->>0, value->>1 FROM json_each(?)",
          JSON.stringify(sums.map(([name, numbers]) => [name, JSON.stringify(numbers)])),
        );
      }
      sql.exec(
        "INSERT OR REPLACE INTO ledgers (ledger, seq, counters, gauges, busy, heard_at) VALUES (?, ?, ?, ?, ?, ?)",
        ledger,
        seq,
        JSON.stringify(known),
        JSON.stringify(report.gauges),
        isBusy(report) ? 1 : 0,
        Date.now(),
      );
    });
    for (const [name, numbers] of sums) this.#totals.set(name, numbers);
  }

  #row(ledger: string): LedgerRow {
    const [row] = this.ctx.storage.sql
      .exec<LedgerRow>("SELECT seq, counters FROM ledgers WHERE ledger = ?", ledger)
      .toArray();
    // Batches are numbered from 1.
    return row ?? { seq: 0, counters: "{}" };
  }

  #gauges(now: number): GaugeSums {
    const { sql } = this.ctx.storage;
    const oldest = now - GAUGE_LIFE_MS;
    const totals = { outbox_rows: 0, outbox_bytes: 0, open_streams: 0, lent_requests: 0, reserved_micro_usd: 0 };
    let outboxOldestAt: number | null = null;
    for (const row of sql.exec<{ gauges: string }>(
      "SELECT gauges FROM ledgers WHERE busy = 1 AND heard_at > ?",
      oldest,
    )) {
      const gauges = JSON.parse(row.gauges) as Gauges;
      for (const name of Object.keys(totals) as (keyof typeof totals)[]) totals[name] += gauges[name] ?? 0;
      outboxOldestAt = earlier(outboxOldestAt, gauges.outbox_oldest_at ?? null);
    }
    const [silent] = sql
      .exec<{ n: number }>(
        "SELECT count(*) AS n FROM ledgers WHERE busy = 1 AND heard_at <= ? AND gauges->>'outbox_rows' > 0",
        oldest,
      )
      .toArray();
    return { ...totals, outbox_oldest_at: outboxOldestAt, silent_ledgers: silent?.n ?? 0 };
  }
}
