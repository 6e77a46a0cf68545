/**
 * Audit records folded into numbers that can be added up in any order. A tally maps the name of a series to a few
 * whole numbers; two tallies are added number by number. Names are made of the fixed words of labels.ts alone, so a
 * tally holds no text of a caller's.
 *
 * Series, with `|` between their words: `requests|route|model|status|outcome` [calls] · `usage|model` [tokens by
 * kind, µUSD] · `duration|route`, `ttfb|stream`, `wait` [sum in ms, calls per bucket] · `denials|reason`, `admissions|by`,
 * `cache|result`, `upstream|id|outcome`, `estimated`, `drained`, `replayed`, `unreadable` [times] · `attempts` [all, those
 * beyond the first] · `unreported|entry` [calls, µUSD]. The ledgers' own counters (hub.ts) are series too.
 */
import { asFields } from "../wire/anthropic/usage.ts";
import { parseJson } from "../wire/json.ts";
import {
  admissionLabel,
  cacheLabel,
  denialLabel,
  MODEL_ROUTE,
  modelLabel,
  NO_MODEL,
  OTHER,
  outcomeLabel,
  routeLabel,
  statusLabel,
  TOKEN_KINDS,
  upstreamLabel,
  upstreamOutcomeLabel,
} from "./labels.ts";

export type Tally = Readonly<Record<string, readonly number[]>>;
/** A tally that grows. */
export type Totals = Map<string, number[]>;

/** Where the cost stands in a `usage` series: behind the tokens, kind by kind. */
export const COST = TOKEN_KINDS.length;

/**
 * Upper bounds of the histograms' buckets, ms. From 1 ms, the resolution of the runtime's clock, to 600 s, the longest
 * call there is by default. Neighbours are at most a factor of 2.5 apart, and a factor of 2 where answers of a
 * language model lie (0.5 to 60 s), which bounds the error of any quantile. Every deadline of the gateway is a bound
 * (250 ms ledger, 60 s first byte, 600 s total), so that what ran into one can be counted.
 * Other bounds need other series names: what is stored was sorted by these.
 */
export const BUCKETS_MS = [
  1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_000, 4_000, 8_000, 15_000, 30_000, 60_000, 120_000, 300_000, 600_000,
] as const;

/** No single call has more of anything: sums stay exact far beyond nine thousand of the absurdest. */
const MAX_PER_RECORD = 1e12;

const UPSTREAM_SERIES = "upstream|";
/**
 * Series of upstreams that are kept, two for each: of so many accounts in the life of a deployment. Those that come later
 * are counted together.
 */
export const MAX_UPSTREAM_SERIES = 1_000;

/** A tally whose upstreams beyond those that there is room for, beside the ones known, have become `other`. */
export function bounded(known: ReadonlyMap<string, unknown>, tally: Tally): Totals {
  const result: Totals = new Map();
  const isUpstream = (series: string): boolean => series.startsWith(UPSTREAM_SERIES);
  let room: number | undefined;
  for (const [series, numbers] of Object.entries(tally)) {
    let name = series;
    if (isUpstream(series) && !known.has(series)) {
      room ??= MAX_UPSTREAM_SERIES - [...known.keys()].filter(isUpstream).length;
      if (room-- <= 0) name = `${UPSTREAM_SERIES}${OTHER}|${series.split("|")[2] ?? OTHER}`;
    }
    result.set(name, sum(result.get(name), numbers));
  }
  return result;
}

/** Folds batches of records, each the JSON text of an array. A missing field means null, or 0; `requests` means 1. */
export function observe(batches: readonly string[]): Tally {
  const totals: Totals = new Map();
  for (const batch of batches) {
    const records = parseJson(batch);
    if (!Array.isArray(records)) count(totals, "unreadable", 1);
    else for (const record of records) observeOne(totals, asFields(record));
  }
  return Object.fromEntries(totals);
}

/** Adds a tally, number by number. */
export function addTo(totals: Totals, tally: Tally): void {
  for (const [series, numbers] of Object.entries(tally)) totals.set(series, sum(totals.get(series), numbers));
}

/** Two rows of numbers added; the longer one's rest stays as it is. */
export function sum(a: readonly number[] | undefined, b: readonly number[]): number[] {
  const result = [...(a ?? [])];
  b.forEach((number, i) => {
    result[i] = (result[i] ?? 0) + number;
  });
  return result;
}

function observeOne(totals: Totals, record: ReturnType<typeof asFields>): void {
  if (!record) {
    count(totals, "unreadable", 1);
    return;
  }
  const { status, outcome, denial, admission } = record;
  const calls = signed(record.requests ?? 1);
  const cost = signed(record.cost_micro_usd);
  if (outcome === "unreported") {
    // Not one of the calls: what is known of them comes by itself or never. Corrections are counted apart, because a
    // counter that falls looks like a restart to whoever reads it.
    if (calls > 0 || cost > 0) count(totals, "unreported|booked", Math.max(0, calls), Math.max(0, cost));
    if (calls < 0 || cost < 0) count(totals, "unreported|returned", Math.max(0, -calls), Math.max(0, -cost));
    return;
  }
  const route = routeLabel(record.route);
  const model = modelLabel(record.model ?? record.model_requested);
  const words = [route, route === MODEL_ROUTE ? model : NO_MODEL, statusLabel(status), outcomeLabel(status, outcome)];
  count(totals, `requests|${words.join("|")}`, Math.max(0, calls));
  const usage = [...TOKEN_KINDS.map(([field]) => whole(record[field])), Math.max(0, cost)];
  if (usage.some((number) => number > 0)) count(totals, `usage|${model === NO_MODEL ? OTHER : model}`, ...usage);
  if (whole(record.estimated) > 0) count(totals, "estimated", 1);
  if (whole(record.drained) > 0) count(totals, "drained", 1);
  const attempts = whole(record.attempts);
  if (attempts > 0) {
    count(totals, "attempts", attempts, attempts - 1);
    const words = [upstreamLabel(String(record.upstream)), upstreamOutcomeLabel(status, outcome)];
    count(totals, `${UPSTREAM_SERIES}${words.join("|")}`, 1);
  }
  if (typeof record.cache === "string") count(totals, `cache|${cacheLabel(record.cache)}`, 1);
  if (whole(record.replayed) > 0) count(totals, "replayed", 1);
  if (typeof admission === "string") {
    count(totals, `admissions|${admissionLabel(admission)}`, 1);
    // A wait of 0 may have been left out.
    time(totals, "wait", whole(record.ledger_ms));
  }
  if (typeof denial === "string") {
    // Denials are quick, and would hide how long the others take.
    count(totals, `denials|${denialLabel(denial)}`, 1);
    return;
  }
  // What was booked without a call of its own: the time is another call's.
  if (calls === 0) return;
  time(totals, `duration|${route}`, whole(record.duration_ms));
  if (typeof record.ttfb_ms === "number") {
    time(totals, `ttfb|${whole(record.stream) > 0 ? "true" : "false"}`, whole(record.ttfb_ms));
  }
}

function count(totals: Totals, series: string, ...numbers: readonly number[]): void {
  totals.set(series, sum(totals.get(series), numbers));
}

/** One observation of a histogram: the sum, then how many fell into each bucket, the last one being all that is longer. */
function time(totals: Totals, series: string, ms: number): void {
  const numbers = totals.get(series) ?? new Array<number>(BUCKETS_MS.length + 2).fill(0);
  const found = BUCKETS_MS.findIndex((bound) => ms <= bound);
  const bucket = 1 + (found === -1 ? BUCKETS_MS.length : found);
  numbers[0] = (numbers[0] ?? 0) + ms;
  numbers[bucket] = (numbers[bucket] ?? 0) + 1;
  totals.set(series, numbers);
}

function signed(value: unknown): number {
  if (typeof value !== "number" || !Number.isFinite(value)) return 0;
  return Math.max(-MAX_PER_RECORD, Math.min(MAX_PER_RECORD, Math.trunc(value)));
}

function whole(value: unknown): number {
  return Math.max(0, signed(value));
}
