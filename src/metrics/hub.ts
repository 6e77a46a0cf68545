/**
 * What ledgers tell the metrics objects, and how they find them.
 *
 * The ledgers are spread over a fixed number of objects. A ledger must always find the same one, for it holds the number
 * of the ledger's last batch that was counted and its counters as they stood then; another number of shards would move
 * ledgers to objects that know neither, and count their counters anew.
 */
import { fnv1a } from "../digest.ts";
import type { Tally } from "./tally.ts";

/** One object takes some 500 reports a second; a busy ledger makes one a second. */
export const SHARDS = 4;

/** What a ledger holds at this moment. A gauge that is left out is 0. */
export type Gauges = {
  readonly outbox_rows?: number;
  readonly outbox_bytes?: number;
  /** When the oldest record that waits was taken over, ms since the epoch; left out or null with none. */
  readonly outbox_oldest_at?: number | null;
  readonly open_streams?: number;
  readonly lent_requests?: number;
  readonly reserved_micro_usd?: number;
};

/** What ledgers count by themselves, from when they were made and over their restarts. Each is a series of that name. */
export const COUNTERS = ["ledger_calls", "outbox_parked", "outbox_dropped", "outbox_missed"] as const;

export type Report = {
  readonly gauges: Gauges;
  /** One that is left out has not changed. */
  readonly counters: Readonly<Partial<Record<(typeof COUNTERS)[number], number>>>;
};

export type Delivery = {
  readonly ledger: string;
  /** The first and the last batch that `tally` holds. */
  readonly fromSeq: number;
  readonly toSeq: number;
  readonly tally: Tally;
  readonly report: Report;
};

/** The gauges of many ledgers, added up. */
export type GaugeSums = {
  readonly outbox_rows: number;
  readonly outbox_bytes: number;
  /** The earliest of them. */
  readonly outbox_oldest_at: number | null;
  readonly open_streams: number;
  readonly lent_requests: number;
  readonly reserved_micro_usd: number;
  /** Ledgers that have gone silent with records in their outbox. */
  readonly silent_ledgers: number;
};

export type Reading = { readonly tally: Tally; readonly gauges: GaugeSums };

/** The RPC face of a metrics object. */
export interface MetricsHub {
  /**
   * Counts the batches, unless some of them are counted already: then it counts none. Answers with the last batch that
   * is counted now, so that whoever gets less than `toSeq` folds the rest and comes again.
   */
  add(delivery: Delivery): Promise<number>;
  /** Takes over gauges and counters alone. */
  report(ledger: string, report: Report): Promise<void>;
  read(): Promise<Reading>;
}

type Namespace = Env["METRICS"];

/** The object that counts for a ledger. A stub that has thrown stays broken, so it is taken anew for each call. */
export function hubOf(namespace: Namespace, ledger: string): MetricsHub {
  return hubAt(namespace, shardOf(ledger));
}

export function hubAt(namespace: Namespace, shard: number): MetricsHub {
  return namespace.getByName(`shard-${shard}`) as unknown as MetricsHub;
}

export function shardOf(ledger: string): number {
  return fnv1a(ledger) % SHARDS;
}

/** Whether any gauge says something. */
export function isBusy({ gauges }: Report): boolean {
  return Object.values(gauges).some((value) => value !== null && value !== 0);
}

/** The earlier of two moments, of which either may be none. */
export function earlier(a: number | null, b: number | null): number | null {
  if (a === null || b === null) return a ?? b;
  return Math.min(a, b);
}
