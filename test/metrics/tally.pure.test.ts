import fc from "fast-check";
import { describe, expect, it, vi } from "vitest";
import { CONTENT_TYPE, exposition, merge } from "../../src/metrics/exposition.ts";
import { FAMILIES } from "../../src/metrics/families.ts";
import { COUNTERS, type GaugeSums, type Reading, SHARDS, shardOf } from "../../src/metrics/hub.ts";
import {
  CACHE_RESULTS,
  DENIALS,
  MAX_MODELS,
  modelLabel,
  OUTCOMES,
  outcomeLabel,
  routeLabel,
  statusLabel,
  TOKEN_KINDS,
  upstreamOutcomeLabel,
  VOCABULARY,
} from "../../src/metrics/labels.ts";
import {
  addTo,
  BUCKETS_MS,
  bounded,
  MAX_UPSTREAM_SERIES,
  observe,
  type Tally,
  type Totals,
} from "../../src/metrics/tally.ts";
import type { UpstreamsNow } from "../../src/metrics/upstreams.ts";
import { UPSTREAM_ID } from "../../src/upstream/protocol.ts";
import { MAX_UPSTREAMS } from "../../src/upstream/upstream-store.ts";
import table from "../../src/wire/anthropic/prices.json";
import { scraped } from "./scraped.ts";

const RUNS = 500;
// The machine may be busy with other tests.
vi.setConfig({ testTimeout: 60_000 });
const NOW = Date.UTC(2026, 10, 21);
const GAUGES: GaugeSums = {
  outbox_rows: 0,
  outbox_bytes: 0,
  outbox_oldest_at: null,
  open_streams: 0,
  lent_requests: 0,
  reserved_micro_usd: 0,
  silent_ledgers: 0,
};
const readingOf = (tally: Tally, gauges: Partial<GaugeSums> = {}): Reading => ({
  tally,
  gauges: { ...GAUGES, ...gauges },
});
const scrapeOf = (records: readonly unknown[]) =>
  scraped(exposition(readingOf(observe([JSON.stringify(records)])), "1", NOW));

const upstreamId = (n: number): string => `up_${String(n).padStart(26, "0")}`;
const healthy = (...ids: string[]): UpstreamsNow => new Map(ids.map((id) => [id, { state: "healthy", reason: null }]));

/** Records as settle writes them, with what may be left out left out. */
const record = fc.record(
  {
    route: fc.constantFrom(...VOCABULARY.route),
    status: fc.constantFrom(200, 400, 429, 499, 500, 529, 418),
    outcome: fc.constantFrom("complete", "client_gone", "upstream_cut", "error", "unreported"),
    requests: fc.integer({ min: -3, max: 3 }),
    model: fc.constantFrom("claude-opus-5-5", "claude-haiku-4-5-20251001", "gpt"),
    model_requested: fc.constantFrom("claude-opus-5-5", "x"),
    denial: fc.constantFrom(null, ...VOCABULARY.reason),
    admission: fc.constantFrom(null, ...VOCABULARY.by),
    ledger_ms: fc.nat(900),
    duration_ms: fc.nat(700_000),
    ttfb_ms: fc.nat(70_000),
    stream: fc.constantFrom(0, 1),
    estimated: fc.constantFrom(0, 1),
    drained: fc.constantFrom(0, 1),
    cost_micro_usd: fc.integer({ min: -1_000, max: 1_000_000 }),
    input_tokens: fc.nat(200_000),
    output_tokens: fc.nat(64_000),
    cache_read_input_tokens: fc.nat(200_000),
    thinking_tokens: fc.nat(1_000),
    upstream: fc.constantFrom("up_default", upstreamId(1), upstreamId(2), "x"),
    attempts: fc.nat(10),
    cache: fc.constantFrom(null, "hit", "miss", "bypass"),
    replayed: fc.constantFrom(0, 1),
  },
  { requiredKeys: ["route", "status", "outcome"] },
);
const batches = fc.array(fc.array(record, { maxLength: 5 }), { maxLength: 8 });
const textOf = (records: readonly unknown[]): string => JSON.stringify(records);
const added = (...tallies: readonly Tally[]): Tally => {
  const totals: Totals = new Map();
  for (const tally of tallies) addTo(totals, tally);
  return Object.fromEntries(totals);
};

describe("tallies", () => {
  it(`come to the same however batches are split, grouped and ordered (${RUNS} runs)`, () => {
    fc.assert(
      fc.property(batches, fc.nat(8), fc.nat(8), (all, a, b) => {
        const texts = all.map(textOf);
        const whole = observe(texts);
        const [first, second] = [Math.min(a, b), Math.max(a, b)];
        const x = observe(texts.slice(0, first));
        const y = observe(texts.slice(first, second));
        const z = observe(texts.slice(second));
        expect(added(x, y, z)).toEqual(whole);
        expect(added(added(x, y), z)).toEqual(added(x, added(y, z)));
        expect(added(z, x, y)).toEqual(whole);
        expect(added(...all.flat().map((one) => observe([textOf([one])])))).toEqual(whole);
        expect(observe([textOf(all.flat())])).toEqual(whole);
        // Nothing is nothing, and adding changes no tally that was added.
        expect(added(whole, observe([]), observe(["[]"]))).toEqual(whole);
        expect(observe(texts)).toEqual(whole);
      }),
      { numRuns: RUNS },
    );
  });

  it(`add up to what the records say, and their text is valid (${RUNS} runs)`, () => {
    fc.assert(
      fc.property(batches, (all) => {
        const rows = all.flat();
        const reported = rows.filter(({ outcome }) => outcome !== "unreported");
        const total = (pick: (row: (typeof rows)[number]) => number) =>
          reported.reduce((sum, row) => sum + pick(row), 0);
        const inUse = healthy(upstreamId(1), upstreamId(2));
        const text = exposition(readingOf(observe(all.map(textOf))), "1", NOW, inUse);
        const scrape = scraped(text);
        expect(scrape.sum("sluice_requests_total")).toBe(total(({ requests }) => Math.max(0, requests ?? 1)));
        expect(scrape.sum("sluice_cost_micro_usd_total")).toBe(total((row) => Math.max(0, row.cost_micro_usd ?? 0)));
        for (const kind of ["input", "output"] as const) {
          expect(scrape.sum("sluice_tokens_total", { kind })).toBe(total((row) => row[`${kind}_tokens`] ?? 0));
        }
        expect(scrape.sum("sluice_tokens_total", { kind: "cache_write_5m" })).toBe(0);
        const denied = reported.filter(({ denial }) => denial);
        expect(scrape.sum("sluice_denials_total")).toBe(denied.length);
        expect(scrape.sum("sluice_request_duration_seconds_count")).toBe(
          reported.filter(({ denial, requests }) => !denial && requests !== 0).length,
        );
        expect(scrape.sum("sluice_estimated_requests_total")).toBe(total((row) => row.estimated ?? 0));
        const admitted = reported.filter(({ admission }) => admission);
        expect(scrape.sum("sluice_admissions_total")).toBe(admitted.length);
        expect(scrape.sum("sluice_ledger_wait_seconds_count")).toBe(admitted.length);
        expect(scrape.sum("sluice_limiter_fallbacks_total")).toBe(
          admitted.filter(({ admission }) => admission === "fail_open").length,
        );
        const asked = reported.filter(({ attempts }) => (attempts ?? 0) > 0);
        expect(scrape.sum("sluice_upstream_attempts_total")).toBe(total((row) => row.attempts ?? 0));
        expect(scrape.sum("sluice_upstream_retries_total")).toBe(total((row) => Math.max(0, (row.attempts ?? 0) - 1)));
        expect(scrape.sum("sluice_upstream_requests_total")).toBe(asked.length);
        for (const upstream of ["up_default", upstreamId(1)]) {
          expect(scrape.sum("sluice_upstream_requests_total", { upstream })).toBe(
            asked.filter((row) => row.upstream === upstream).length,
          );
        }
        for (const result of CACHE_RESULTS) {
          expect(scrape.sum("sluice_cache_requests_total", { result })).toBe(
            reported.filter(({ cache }) => cache === result).length,
          );
        }
        expect(scrape.sum("sluice_replayed_requests_total")).toBe(total((row) => row.replayed ?? 0));
        const booked = scrape.sum("sluice_unreported_cost_micro_usd_total", { entry: "booked" });
        const returned = scrape.sum("sluice_unreported_cost_micro_usd_total", { entry: "returned" });
        const unreported = rows.filter(({ outcome }) => outcome === "unreported");
        expect(booked - returned).toBe(unreported.reduce((sum, row) => sum + (row.cost_micro_usd ?? 0), 0));
      }),
      { numRuns: RUNS },
    );
  });

  it("sort times into buckets with their bounds included, and all that is longer into the last", () => {
    for (const [i, bound] of BUCKETS_MS.entries()) {
      const at = observe([textOf([{ route: "/v1/models", duration_ms: bound }])])["duration|/v1/models"];
      const past = observe([textOf([{ route: "/v1/models", duration_ms: Math.floor(bound) + 1 }])])[
        "duration|/v1/models"
      ];
      expect(at?.[1 + i]).toBe(1);
      expect(past?.[2 + i]).toBe(1);
    }
    const text = exposition(
      readingOf(
        observe([
          textOf([
            { route: "/v1/key", duration_ms: 250 },
            { route: "/v1/key", duration_ms: 251 },
          ]),
        ]),
      ),
      "1",
      NOW,
    );
    expect(text).toContain('sluice_request_duration_seconds_bucket{route="/v1/key",le="0.1"} 0\n');
    expect(text).toContain('sluice_request_duration_seconds_bucket{route="/v1/key",le="0.25"} 1\n');
    expect(text).toContain('sluice_request_duration_seconds_bucket{route="/v1/key",le="+Inf"} 2\n');
    expect(text).toContain('sluice_request_duration_seconds_sum{route="/v1/key"} 0.501\n');
  });

  it("know models by their ids, dated or not, statuses one by one or by their hundred, and one outcome per error", () => {
    expect(Object.keys(table.models).length).toBeLessThanOrEqual(MAX_MODELS);
    for (const model of Object.keys(table.models)) {
      expect([model, `${model}-20261121`, `${model}-latest`].map(modelLabel)).toEqual([model, model, model]);
    }
    expect([null, undefined, "", 7].map(modelLabel)).toEqual(["none", "none", "none", "none"]);
    expect(
      ["none", "other", "claude", "__proto__", "claude-opus-5-5-2026112", "x".repeat(1e6)].map(modelLabel),
    ).toEqual(new Array(6).fill("other"));
    expect([200, 429, 418, 599, 204, 600, "200", null].map(statusLabel)).toEqual([
      "200",
      "429",
      "4xx",
      "5xx",
      "other",
      "other",
      "other",
      "other",
    ]);
    expect(outcomeLabel(500, "client_gone")).toBe("error");
    expect(outcomeLabel(499, "error")).toBe("client_gone");
    expect(outcomeLabel(200, "client_gone")).toBe("client_gone");
    expect(outcomeLabel(200, "<script>")).toBe("error");
  });

  it("count what they can't read, and go on", () => {
    const scrape = scraped(
      exposition(readingOf(observe(["{", "null", '[1,null,"x",[],{"route":"/v1/key","status":200}]'])), "1", NOW),
    );
    expect(scrape.value("sluice_unreadable_records_total")).toBe(6);
    expect(scrape.sum("sluice_requests_total")).toBe(1);
  });
});

/** Anything at all where a record is expected, and the very words that could break the text. */
const anything = fc.oneof(
  fc.string({ unit: "binary" }),
  fc.constantFrom("a|b", 'x"} 1\nevil 1', "\\", "__proto__", "constructor", "other", "none", "complete|x"),
  fc.double(),
  fc.constantFrom(null, true, [], {}, 1e300, -1e300, 0.5, 200, 499),
);
const FIELDS = [
  ...["route", "status", "outcome", "requests", "model", "model_requested", "denial", "admission", "ledger_ms"],
  ...[
    "duration_ms",
    "ttfb_ms",
    "stream",
    "estimated",
    "drained",
    "cost_micro_usd",
    "request_id",
    "client",
    "session_id",
  ],
  ...TOKEN_KINDS.map(([field]) => field),
  ...["upstream", "attempts", "cache", "replayed"],
];
const absurd = fc
  .record(Object.fromEntries(FIELDS.map((field) => [field, anything])), { requiredKeys: [] })
  .chain((odd) => record.map((plain) => ({ ...plain, ...odd })));

/** What labels may say at the most, family by family: docs/metrics.md has the same sum. */
function most(models: number): number {
  const { route, kind, by } = VOCABULARY;
  const statuses = VOCABULARY.status.length;
  // 200 and "other" have every outcome, the others one each.
  const ends = statuses - 2 + 2 * OUTCOMES.length;
  const histogram = BUCKETS_MS.length + 3;
  return (
    (models + 2 + route.length - 1) * ends +
    (models + 1) * (kind.length + 1) +
    histogram * (route.length + VOCABULARY.stream.length + 1) +
    DENIALS.length +
    1 +
    by.length +
    VOCABULARY.result.length +
    2 * VOCABULARY.entry.length +
    FAMILIES.length
  );
}

describe("L-06 labels and series", () => {
  it(`no record, however absurd, makes a label outside the vocabulary or breaks the text (${RUNS} runs)`, () => {
    fc.assert(
      fc.property(fc.array(absurd, { maxLength: 20 }), (records) => {
        const scrape = scrapeOf(records);
        for (const [label, values] of scrape.labels) {
          if (label === "le" || label === "version") continue;
          if (label === "upstream") {
            expect([...values].filter((id) => id !== "other" && id !== "up_default" && !UPSTREAM_ID.test(id))).toEqual(
              [],
            );
            continue;
          }
          expect(VOCABULARY).toHaveProperty(label);
          const words: readonly string[] = VOCABULARY[label as keyof typeof VOCABULARY];
          expect([...values].filter((value) => !words.includes(value))).toEqual([]);
        }
        for (const { samples } of scrape.families.values()) {
          for (const value of samples.values()) expect(Number.isFinite(value)).toBe(true);
        }
      }),
      { numRuns: RUNS },
    );
  });

  it("conversations share a word, and the calls upstream of their turns have another", () => {
    const one = "/v1/conversations/:id";
    const routes = ["/v1/conversations", `${one}/messages`, `${one}/summary`, `${one}/turn`, "/v1/conversationss"];
    expect(routes.map(routeLabel)).toEqual([...new Array(3).fill("/v1/conversations"), `${one}/turn`, "other"]);
  });

  it("there are at most 1,300 series, and no more after 10,000 callers who each name something else", () => {
    expect(most(MAX_MODELS)).toBeLessThanOrEqual(1_300);
    // Of upstreams two counters and a state for each in use, and the counters of the environment's and of all others.
    expect(most(MAX_MODELS) + 3 * MAX_UPSTREAMS + 4).toBeLessThanOrEqual(1_600);
    const few = Object.values(VOCABULARY.status);
    const records = Array.from({ length: 10_000 }, (_, i) => ({
      route: VOCABULARY.route[i % 9] ?? `/v1/${i}`,
      status: Number(few[i % few.length]) || i,
      outcome: VOCABULARY.outcome[i % 5] ?? `outcome-${i}`,
      model_requested: i % 3 ? Object.keys(table.models)[i % 30] : `model-${i}`,
      model: i % 5 ? undefined : `claude-${i}-20260101`,
      denial: i % 2 ? undefined : (VOCABULARY.reason[i % 20] ?? `denial-${i}`),
      admission: VOCABULARY.by[i % 6] ?? `by-${i}`,
      stream: i % 2,
      ttfb_ms: i,
      duration_ms: i,
      input_tokens: 1,
      cost_micro_usd: 1,
      upstream: `upstream-${i}`,
      attempts: 2,
      cache: `cache-${i}`,
      client: `client-${i}`,
      session_id: `session-${i}`,
      key_id: `key_${i}`,
    }));
    const scrape = scrapeOf(records);
    expect(scrape.sum("sluice_requests_total")).toBe(10_000);
    expect(scrape.series).toBeGreaterThan(300);
    expect(scrape.series).toBeLessThanOrEqual(most(VOCABULARY.model.length - 2));
    expect(scrape.sum("sluice_cache_requests_total", { result: "other" })).toBe(10_000);
    expect(JSON.stringify([...scrape.labels].map(([label, values]) => [label, [...values]]))).not.toMatch(
      /client-|session-|upstream-|cache-|key_|model-\d|claude-\d+"|denial-|by-|outcome-/,
    );
  });
});

describe("upstreams", () => {
  const asked = (upstream: string, more: object = {}) => ({
    upstream,
    attempts: 1,
    status: 200,
    outcome: "complete",
    ...more,
  });
  const scrapeWith = (records: readonly unknown[], upstreams: UpstreamsNow | null) =>
    scraped(exposition(readingOf(observe([textOf(records)])), "1", NOW, upstreams));

  it("are at fault for their refusals, limits, errors and cuts, and not for what callers do", () => {
    const faults = [402, 408, 429, 500, 502, 503, 504, 529].map((status) => upstreamOutcomeLabel(status, "error"));
    expect(new Set(faults)).toEqual(new Set(["error"]));
    expect(upstreamOutcomeLabel(200, "upstream_cut")).toBe("error");
    const fine = [400, 404, 409, 413].map((status) => upstreamOutcomeLabel(status, "error"));
    expect(new Set([...fine, upstreamOutcomeLabel(200, "complete"), upstreamOutcomeLabel(499, "client_gone")])).toEqual(
      new Set(["ok"]),
    );
  });

  it("in use are shown with their counters from 0, removed ones not, and the environment's if it was ever asked", () => {
    const records = [asked(upstreamId(1)), asked(upstreamId(1), { status: 529 }), asked(upstreamId(9)), asked("evil")];
    const scrape = scrapeWith(records, healthy(upstreamId(1), upstreamId(2)));
    expect([...(scrape.families.get("sluice_upstream_requests_total")?.samples ?? [])]).toEqual([
      [`sluice_upstream_requests_total{upstream="${upstreamId(1)}",outcome="ok"}`, 1],
      [`sluice_upstream_requests_total{upstream="${upstreamId(1)}",outcome="error"}`, 1],
      [`sluice_upstream_requests_total{upstream="${upstreamId(2)}",outcome="ok"}`, 0],
      [`sluice_upstream_requests_total{upstream="${upstreamId(2)}",outcome="error"}`, 0],
      ['sluice_upstream_requests_total{upstream="other",outcome="ok"}', 1],
      ['sluice_upstream_requests_total{upstream="other",outcome="error"}', 0],
    ]);
    const later = scrapeWith([asked("up_default")], healthy(upstreamId(1)));
    expect(later.value('sluice_upstream_requests_total{upstream="up_default",outcome="ok"}')).toBe(1);
  });

  it("have one state each, with its reason, and none while the pool is away", () => {
    const now: UpstreamsNow = new Map([
      [upstreamId(1), { state: "healthy", reason: null }],
      [upstreamId(2), { state: "cooling", reason: "rate_limited" }],
      [upstreamId(3), { state: "unusable", reason: "unknown_master" }],
    ]);
    const scrape = scrapeWith([asked(upstreamId(1))], now);
    expect([...(scrape.families.get("sluice_upstream_state")?.samples.keys() ?? [])]).toEqual([
      `sluice_upstream_state{upstream="${upstreamId(1)}",state="healthy"}`,
      `sluice_upstream_state{upstream="${upstreamId(2)}",state="cooling",reason="rate_limited"}`,
      `sluice_upstream_state{upstream="${upstreamId(3)}",state="unusable",reason="unknown_master"}`,
    ]);
    expect(scrape.sum("sluice_upstream_state")).toBe(3);
    expect(scrape.value("sluice_upstream_pool_up")).toBe(1);
    const away = scrapeWith([asked(upstreamId(1))], null);
    expect(away.value("sluice_upstream_pool_up")).toBe(0);
    expect(away.families.get("sluice_upstream_state")?.samples.size).toBe(0);
    expect(away.families.get("sluice_upstream_requests_total")?.samples.size).toBe(0);
    expect(away.value("sluice_upstream_attempts_total")).toBe(1);
  });

  it("beyond those that an object has room for are counted together, and the ones it knows go on", () => {
    const ids = Array.from({ length: MAX_UPSTREAM_SERIES }, (_, i) => upstreamId(i));
    const totals: Totals = new Map();
    const take = (tally: Tally) => addTo(totals, Object.fromEntries(bounded(totals, tally)));
    const first = ids.slice(0, MAX_UPSTREAM_SERIES / 2);
    take(observe([textOf(first.flatMap((id) => [asked(id), asked(id, { status: 500 })]))]));
    expect(totals.size).toBeGreaterThanOrEqual(MAX_UPSTREAM_SERIES);
    take(observe([textOf(ids.map((id) => asked(id)))]));
    const upstreams = [...totals].filter(([series]) => series.startsWith("upstream|"));
    expect(upstreams.length).toBe(MAX_UPSTREAM_SERIES + 1);
    expect(totals.get(`upstream|${first[0]}|ok`)).toEqual([2]);
    expect(totals.get("upstream|other|ok")).toEqual([ids.length - first.length]);
    expect(upstreams.reduce((sum, [, [calls = 0]]) => sum + calls, 0)).toBe(2 * ids.length);
    // One message may bring more than there is room for.
    const crowd = Array.from({ length: 2 * MAX_UPSTREAM_SERIES }, (_, i) => asked(upstreamId(i)));
    expect(bounded(new Map(), observe([textOf(crowd)])).get("upstream|other|ok")).toEqual([MAX_UPSTREAM_SERIES]);
  });
});

describe("the text", () => {
  it("describes every family once, under the right content type, with what has not occurred at 0", () => {
    expect(CONTENT_TYPE).toBe("text/plain; version=0.0.4; charset=utf-8");
    const scrape = scraped(exposition(readingOf({}), "1", NOW));
    expect([...scrape.families.keys()]).toEqual(FAMILIES.map(({ name }) => name));
    expect(scrape.families.get("sluice_denials_total")?.samples.size).toBe(DENIALS.length);
    expect(scrape.value('sluice_time_to_first_byte_seconds_bucket{stream="true",le="+Inf"}')).toBe(0);
    expect(scrape.families.get("sluice_ledger_wait_seconds")?.samples.size).toBe(BUCKETS_MS.length + 3);
  });

  it("escapes what is not ours to choose", () => {
    const scrape = scraped(exposition(readingOf({}), 'a"b\\c\nd', NOW));
    expect([...(scrape.labels.get("version") ?? [])]).toEqual(['a"b\\c\nd']);
  });

  it("shows the ledgers' own counters, and ages up to now", () => {
    const tally = Object.fromEntries(COUNTERS.map((name, i) => [name, [i + 1]]));
    const text = exposition(readingOf(tally, { outbox_oldest_at: NOW - 1_500, outbox_rows: 3 }), "1", NOW);
    const scrape = scraped(text);
    expect(scrape.value("sluice_ledger_calls_total")).toBe(1);
    expect(scrape.value("sluice_outbox_parked_total")).toBe(2);
    expect(scrape.value("sluice_outbox_dropped_total")).toBe(3);
    expect(scrape.value("sluice_outbox_missed_total")).toBe(4);
    expect(scrape.value("sluice_outbox_records")).toBe(3);
    expect(scrape.value("sluice_outbox_oldest_age_seconds")).toBe(1.5);
  });

  it(`of several shards is the text of their sum (${RUNS} runs)`, () => {
    fc.assert(
      fc.property(batches, (all) => {
        const shards = all.map((batch, i) => readingOf(observe([textOf(batch)]), { open_streams: i, outbox_rows: 1 }));
        const together = readingOf(observe(all.map(textOf)), {
          open_streams: all.reduce((sum, _, i) => sum + i, 0),
          outbox_rows: all.length,
        });
        expect(exposition(merge(shards), "1", NOW)).toBe(exposition(together, "1", NOW));
      }),
      { numRuns: RUNS },
    );
  });
});

describe("shards", () => {
  it("take a ledger to the same object for ever, and all of them about as many", () => {
    // Other figures here would move ledgers away from what was counted of them.
    expect(["", "a", "key_1", "ws:ws_default"].map(shardOf)).toEqual([1, 0, 0, 3]);
    const counts = new Array<number>(SHARDS).fill(0);
    for (let i = 0; i < 4_000; i++) {
      const shard = shardOf(i.toString(16).padStart(64, "0"));
      counts[shard] = (counts[shard] ?? 0) + 1;
    }
    for (const count of counts) expect(Math.abs(count - 1_000)).toBeLessThan(200);
  });
});
