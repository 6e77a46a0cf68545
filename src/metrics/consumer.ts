/**
 * A ledger's way to the metrics: the batches of its outbox, folded into numbers and counted once each however often they
 * are delivered, and what the ledger holds, told again while that is anything.
 *
 * Metrics that are away cost a ledger a short wait now and then, and nothing else: batches wait in the outbox behind
 * those for D1, and at its cap it is these that are given up, and counted.
 */
import type { Batch } from "../ledger/batch-queue.ts";
import type { Consumer } from "../ledger/outbox.ts";
import { within } from "../within.ts";
import { type Gauges, hubOf, isBusy, type Report } from "./hub.ts";
import { observe } from "./tally.ts";

/** Records of one delivery: some 20 ms of parsing. */
const MAX_ROWS = 1_000;
/** An answer takes milliseconds. Short, since the ledger's alarm waits for it, and D1's next turn for the alarm. */
const DEADLINE_MS = 2_000;
/** How often gauges that are not 0 are told; six times in the life of a gauge at the other end. */
export const TELL_EVERY_MS = 10_000;
/** How long metrics that failed to take a report are left alone. */
const RETRY_MS = 30_000;

export type MetricsConsumer = Consumer & {
  /** Tells what the ledger holds if that is due. To be called after each flush; never rejects. */
  tell(): Promise<void>;
  /** When `tell` wants to be called again at the latest, if nothing else happens; null: it has told everything. */
  nextTellAt(): number | null;
};

export function metricsConsumer(
  namespace: Env["METRICS"],
  /** Names the ledger for ever. */
  ledger: string,
  /** What the ledger holds and has counted. */
  measure: (now: number) => Report,
  now: () => number = Date.now,
): MetricsConsumer {
  /** As the metrics know it; null: not known, after a restart or a failure. */
  let told: { readonly report: Report; readonly at: number } | null = null;
  let failedAt = Number.NEGATIVE_INFINITY;

  /** Waits for an answer to what holds this report. */
  async function ask<T>(report: Report, question: () => Promise<T>): Promise<T> {
    try {
      const answer = await within(DEADLINE_MS, question());
      told = { report, at: now() };
      failedAt = Number.NEGATIVE_INFINITY;
      return answer;
    } catch (error) {
      told = null;
      failedAt = now();
      throw error;
    }
  }

  function isDue(report: Report): boolean {
    const at = now();
    if (Math.abs(at - failedAt) < RETRY_MS) return false;
    if (!told) return true;
    if (isBusy(told.report) !== isBusy(report) || hasBacklog(told.report) !== hasBacklog(report)) return true;
    return Math.abs(at - told.at) >= TELL_EVERY_MS && (isBusy(report) || !sameCounters(told.report, report));
  }

  return {
    name: "metrics",
    maxRows: MAX_ROWS,
    mayMiss: true,

    async deliver(batches) {
      // The second round is for the rest of what was counted in part before, by a delivery whose answer got lost.
      for (let rest = batches, round = 1; ; round++) {
        const first = rest[0];
        const last = rest.at(-1);
        if (!first || !last) return;
        if (round > 2) throw new Error("the metrics count no further");
        // Where nothing waited before, nothing will when this flush is over; if that was wrong, `tell` follows at once.
        const measured = measure(now());
        const report = told && hasBacklog(told.report) ? measured : withoutBacklog(measured);
        const tally = observe(rest.map(({ records }: Batch) => records));
        const delivery = { ledger, fromSeq: first.seq, toSeq: last.seq, tally, report };
        const counted = await ask(report, () => hubOf(namespace, ledger).add(delivery));
        rest = rest.filter(({ seq }) => seq > counted);
      }
    },

    async tell() {
      try {
        const report = measure(now());
        if (isDue(report)) await ask(report, () => hubOf(namespace, ledger).report(ledger, report));
      } catch (error) {
        console.error(JSON.stringify({ level: "error", msg: "metrics_not_told", error: String(error).slice(0, 200) }));
      }
    },

    nextTellAt() {
      if (!told) return now() + (failedAt > 0 ? RETRY_MS : TELL_EVERY_MS);
      return isBusy(told.report) ? now() + TELL_EVERY_MS : null;
    },
  };
}

const OUTBOX: readonly (keyof Gauges)[] = ["outbox_rows", "outbox_bytes", "outbox_oldest_at"];

function withoutBacklog({ gauges, counters }: Report): Report {
  const rest = Object.entries(gauges).filter(([name]) => !OUTBOX.some((own) => own === name));
  return { gauges: Object.fromEntries(rest), counters };
}

function hasBacklog({ gauges }: Report): boolean {
  return (gauges.outbox_rows ?? 0) > 0;
}

function sameCounters(a: Report, b: Report): boolean {
  return JSON.stringify(a.counters) === JSON.stringify(b.counters);
}
