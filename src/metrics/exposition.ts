/** Readings as text that Prometheus reads: exposition format 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats). */
import { FAMILIES } from "./families.ts";
import { earlier, type GaugeSums, type Reading } from "./hub.ts";
import { addTo, BUCKETS_MS, type Totals } from "./tally.ts";
import type { UpstreamsNow } from "./upstreams.ts";

export const CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8";

/** The readings of all shards as one. */
export function merge(readings: readonly Reading[]): Reading {
  const totals: Totals = new Map();
  let gauges = NO_GAUGES;
  for (const { tally, gauges: own } of readings) {
    addTo(totals, tally);
    gauges = {
      outbox_rows: gauges.outbox_rows + own.outbox_rows,
      outbox_bytes: gauges.outbox_bytes + own.outbox_bytes,
      outbox_oldest_at: earlier(gauges.outbox_oldest_at, own.outbox_oldest_at),
      open_streams: gauges.open_streams + own.open_streams,
      lent_requests: gauges.lent_requests + own.lent_requests,
      reserved_micro_usd: gauges.reserved_micro_usd + own.reserved_micro_usd,
      silent_ledgers: gauges.silent_ledgers + own.silent_ledgers,
    };
  }
  return { tally: Object.fromEntries(totals), gauges };
}

/** `now` in ms since the epoch: ages are counted to it. `upstreams`: null where nothing is known of them. */
export function exposition(
  reading: Reading,
  version: string,
  now: number,
  upstreams: UpstreamsNow | null = null,
): string {
  const source = { reading, version, now, upstreams };
  const lines: string[] = [];
  for (const family of FAMILIES) {
    const { name, help, type } = family;
    lines.push(`# HELP ${name} ${help.replaceAll("\\", "\\\\").replaceAll("\n", "\\n")}`, `# TYPE ${name} ${type}`);
    if (family.type === "histogram") {
      for (const [labels, [sumMs = 0, ...calls]] of family.read(source)) {
        let cumulated = 0;
        for (const [i, bound] of [...BUCKETS_MS, Number.POSITIVE_INFINITY].entries()) {
          cumulated += calls[i] ?? 0;
          const le = Number.isFinite(bound) ? String(bound / 1_000) : "+Inf";
          lines.push(line(`${name}_bucket`, { ...labels, le }, cumulated));
        }
        lines.push(line(`${name}_sum`, labels, sumMs / 1_000), line(`${name}_count`, labels, cumulated));
      }
    } else for (const [labels, value] of family.read(source)) lines.push(line(name, labels, value));
  }
  return `${lines.join("\n")}\n`;
}

const NO_GAUGES: GaugeSums = {
  outbox_rows: 0,
  outbox_bytes: 0,
  outbox_oldest_at: null,
  open_streams: 0,
  lent_requests: 0,
  reserved_micro_usd: 0,
  silent_ledgers: 0,
};

function line(name: string, labels: Readonly<Record<string, string>>, value: number): string {
  const pairs = Object.entries(labels).map(([label, text]) => `${label}="${escaped(text)}"`);
  return `${name}${pairs.length > 0 ? `{${pairs.join(",")}}` : ""} ${value}`;
}

function escaped(text: string): string {
  return text.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
}
