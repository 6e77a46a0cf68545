/** Every metric family there is: what it means, and where its numbers stand in a reading. docs/metrics.md says more. */
import { DEFAULT_UPSTREAM } from "../upstream/upstream.ts";
import type { Reading } from "./hub.ts";
import {
  ADMISSIONS,
  CACHE_RESULTS,
  DENIALS,
  ENTRIES,
  FAIL_OPEN,
  OTHER,
  TOKEN_KINDS,
  UPSTREAM_OUTCOMES,
  VOCABULARY,
} from "./labels.ts";
import { BUCKETS_MS, COST } from "./tally.ts";
import type { UpstreamsNow } from "./upstreams.ts";

type Labels = Readonly<Record<string, string>>;
/** One series; `value` is a whole histogram where the family is one: the sum in ms, then calls per bucket. */
type Series<Value> = readonly [labels: Labels, value: Value];

type Source = {
  readonly reading: Reading;
  readonly version: string;
  readonly now: number;
  readonly upstreams: UpstreamsNow | null;
};
type Described = { readonly name: string; readonly help: string };

export type Family = Described &
  (
    | { readonly type: "counter" | "gauge"; readonly read: (source: Source) => readonly Series<number>[] }
    | { readonly type: "histogram"; readonly read: (source: Source) => readonly Series<readonly number[]>[] }
  );

const NO_TIMES: readonly number[] = new Array<number>(BUCKETS_MS.length + 2).fill(0);

export const FAMILIES: readonly Family[] = [
  {
    name: "sluice_requests_total",
    help: "Calls of known keys that have ended. Only /v1/messages is counted by model.",
    type: "counter",
    read: ({ reading }) =>
      seriesOf(reading, "requests").map(
        ([[route = OTHER, model = OTHER, status = OTHER, outcome = OTHER], [calls]]) => [
          { route, model, status, outcome },
          calls ?? 0,
        ],
      ),
  },
  {
    name: "sluice_tokens_total",
    help: "Tokens by kind. Thinking is part of output, so the kinds do not add up to anything.",
    type: "counter",
    read: ({ reading }) =>
      seriesOf(reading, "usage").flatMap(([[model = OTHER], numbers]) =>
        TOKEN_KINDS.map(([, kind], i): Series<number> => [{ kind, model }, numbers[i] ?? 0]),
      ),
  },
  {
    name: "sluice_cost_micro_usd_total",
    help: "What the calls cost by the price list, in millionths of a US dollar.",
    type: "counter",
    read: ({ reading }) =>
      seriesOf(reading, "usage").map(([[model = OTHER], numbers]) => [{ model }, numbers[COST] ?? 0]),
  },
  {
    name: "sluice_denials_total",
    help: "Calls refused by a limit, a budget, or because the ledger could not be reached.",
    type: "counter",
    read: ({ reading }) => byWord(reading, "denials", "reason", DENIALS),
  },
  {
    name: "sluice_request_duration_seconds",
    help: "From arrival to the end of the answer, denied calls left out.",
    type: "histogram",
    read: ({ reading }) => seriesOf(reading, "duration").map(([[route = OTHER], times]) => [{ route }, times]),
  },
  {
    name: "sluice_time_to_first_byte_seconds",
    help: "From arrival to the first byte of upstream's answer.",
    type: "histogram",
    read: ({ reading }) => VOCABULARY.stream.map((stream) => [{ stream }, reading.tally[`ttfb|${stream}`] ?? NO_TIMES]),
  },
  {
    name: "sluice_ledger_wait_seconds",
    help: "How long admitted calls waited to be admitted; near 0 for those that had a lease.",
    type: "histogram",
    read: ({ reading }) => [[{}, reading.tally.wait ?? NO_TIMES]],
  },
  {
    name: "sluice_admissions_total",
    help: "Admitted calls by who admitted them: a lease at hand, the ledger itself, or nobody (fail_open).",
    type: "counter",
    read: ({ reading }) => byWord(reading, "admissions", "by", ADMISSIONS),
  },
  {
    name: "sluice_limiter_fallbacks_total",
    help: "Calls admitted without a ledger, which could not be reached.",
    type: "counter",
    read: ({ reading }) => [[{}, reading.tally[`admissions|${FAIL_OPEN}`]?.[0] ?? 0]],
  },
  scalar("sluice_estimated_requests_total", "Calls whose usage is a bounded estimate.", "estimated"),
  scalar("sluice_drained_requests_total", "Calls read to their end though the client had left.", "drained"),
  scalar("sluice_upstream_attempts_total", "How often upstreams were asked.", "attempts"),
  scalar("sluice_upstream_retries_total", "Those of them that were not the first of their call.", "attempts", 1),
  {
    name: "sluice_upstream_requests_total",
    help: "Calls by the upstream that was asked last, and whether it did its part.",
    type: "counter",
    read: ({ reading, upstreams }) =>
      [...upstreamsToShow(reading, upstreams)].flatMap((upstream) =>
        UPSTREAM_OUTCOMES.map(
          (outcome): Series<number> => [
            { upstream, outcome },
            reading.tally[`upstream|${upstream}|${outcome}`]?.[0] ?? 0,
          ],
        ),
      ),
  },
  {
    name: "sluice_upstream_state",
    help: "1 for the state that an upstream is in, with the reason for it.",
    type: "gauge",
    read: ({ upstreams }) =>
      [...(upstreams ?? [])].map(([upstream, { state, reason }]) => [
        reason === null ? { upstream, state } : { upstream, state, reason },
        1,
      ]),
  },
  gauge("sluice_upstream_pool_up", "Whether the pool of upstreams could be asked.", ({ upstreams }) =>
    upstreams === null ? 0 : 1,
  ),
  {
    name: "sluice_cache_requests_total",
    help: "Calls that the response cache had a part in, by what it did for them.",
    type: "counter",
    read: ({ reading }) => byWord(reading, "cache", "result", CACHE_RESULTS),
  },
  scalar("sluice_replayed_requests_total", "Calls answered by an earlier one with their idempotency key.", "replayed"),
  {
    name: "sluice_unreported_requests_total",
    help: "Requests lent to isolates that never gave account of them, booked in full, and what was returned of these.",
    type: "counter",
    read: ({ reading }) => unreported(reading, 0),
  },
  {
    name: "sluice_unreported_cost_micro_usd_total",
    help: "Money lent to isolates that never gave account of it, booked in full, and what was returned of it.",
    type: "counter",
    read: ({ reading }) => unreported(reading, 1),
  },
  scalar(
    "sluice_ledger_calls_total",
    "Calls from isolates to ledgers of keys, workspaces and upstreams.",
    "ledger_calls",
  ),
  gauge("sluice_open_streams", "Streams that are open.", ({ reading }) => reading.gauges.open_streams),
  gauge(
    "sluice_lent_requests",
    "Requests that are running or may be admitted from a lease.",
    ({ reading }) => reading.gauges.lent_requests,
  ),
  gauge(
    "sluice_reserved_micro_usd",
    "Money set aside for these, in millionths of a US dollar.",
    ({ reading }) => reading.gauges.reserved_micro_usd,
  ),
  gauge("sluice_outbox_records", "Records waiting in outboxes.", ({ reading }) => reading.gauges.outbox_rows),
  gauge("sluice_outbox_bytes", "Their text in bytes.", ({ reading }) => reading.gauges.outbox_bytes),
  gauge("sluice_outbox_oldest_age_seconds", "Age of the oldest of them.", ({ reading, now }) => {
    const at = reading.gauges.outbox_oldest_at;
    return at === null ? 0 : Math.max(0, now - at) / 1_000;
  }),
  scalar("sluice_outbox_parked_total", "Records that a consumer refused for what they hold.", "outbox_parked"),
  scalar("sluice_outbox_dropped_total", "Records that came when an outbox was full, and are lost.", "outbox_dropped"),
  scalar(
    "sluice_outbox_missed_total",
    "Records that these metrics do not count, given up for want of room.",
    "outbox_missed",
  ),
  gauge(
    "sluice_silent_ledgers",
    "Ledgers not heard of for a minute though records wait in their outboxes.",
    ({ reading }) => reading.gauges.silent_ledgers,
  ),
  scalar("sluice_unreadable_records_total", "Records that these metrics could not read.", "unreadable"),
  {
    name: "sluice_build_info",
    help: "Always 1; the label names what runs.",
    type: "gauge",
    read: ({ version }) => [[{ version }, 1]],
  },
];

/** A counter of one series. */
function scalar(name: string, help: string, series: string, place = 0): Family {
  return { name, help, type: "counter", read: ({ reading }) => [[{}, reading.tally[series]?.[place] ?? 0]] };
}

/** Those in use, and what was counted under no id of theirs. The others' counters end; the audit has them. */
function upstreamsToShow(reading: Reading, upstreams: UpstreamsNow | null): ReadonlySet<string> {
  if (!upstreams) return new Set();
  const isCounted = (id: string): boolean => UPSTREAM_OUTCOMES.some((word) => reading.tally[`upstream|${id}|${word}`]);
  return new Set([...upstreams.keys(), ...[DEFAULT_UPSTREAM, OTHER].filter(isCounted)]);
}

function gauge(name: string, help: string, value: (source: Source) => number): Family {
  return { name, help, type: "gauge", read: (source) => [[{}, value(source)]] };
}

/** The series that begin with this word, with the words behind it, in the order of their names. */
function seriesOf(reading: Reading, first: string): [words: readonly string[], numbers: readonly number[]][] {
  return Object.keys(reading.tally)
    .filter((series) => series.startsWith(`${first}|`))
    .sort()
    .map((series) => [series.split("|").slice(1), reading.tally[series] ?? []]);
}

/** All words, those that have not occurred too, so that the first time is a rise from 0; `other` only if it has. */
function byWord(reading: Reading, first: string, label: string, words: readonly string[]): Series<number>[] {
  const all = reading.tally[`${first}|${OTHER}`] ? [...words, OTHER] : words;
  return all.map((word) => [{ [label]: word }, reading.tally[`${first}|${word}`]?.[0] ?? 0]);
}

function unreported(reading: Reading, place: number): Series<number>[] {
  return ENTRIES.map((entry) => [{ entry }, reading.tally[`unreported|${entry}`]?.[place] ?? 0]);
}
