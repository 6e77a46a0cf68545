import { readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { readAnswer } from "../../src/wire/anthropic/answer.ts";
import { builtInPrices } from "../../src/wire/anthropic/price-list.ts";
import { costMicroUsd } from "../../src/wire/anthropic/prices.ts";
import { StreamMeter } from "../../src/wire/anthropic/stream-meter.ts";
import { applyUsage, emptyUsage, type Usage } from "../../src/wire/anthropic/usage.ts";

const NOW = Date.parse("2026-11-21T00:00:00Z");
const fixture = (name: string) => readFileSync(join(import.meta.dirname, "../fixtures/anthropic", name));
const usageAfter = (...reports: unknown[]): Usage => {
  const usage = emptyUsage();
  for (const report of reports) applyUsage(usage, report);
  return usage;
};
const split = (write5m: unknown, write1h: unknown) => ({
  ephemeral_5m_input_tokens: write5m,
  ephemeral_1h_input_tokens: write1h,
});

describe("applyUsage", () => {
  it("overwrites cumulative counters and never adds", () => {
    expect(
      usageAfter(
        { input_tokens: 5, output_tokens: 1, cache_read_input_tokens: 7 },
        { output_tokens: 20, cache_read_input_tokens: 8 },
        { output_tokens: 30 },
      ),
    ).toMatchObject({ inputTokens: 5, outputTokens: 30, cacheReadTokens: 8, estimated: false });
  });

  it("takes upstream's word for a count that becomes smaller", () => {
    expect(usageAfter({ input_tokens: 9, output_tokens: 300 }, { input_tokens: 4, output_tokens: 200 })).toMatchObject({
      inputTokens: 4,
      outputTokens: 200,
      estimated: false,
    });
  });

  it("takes the input that server tools add at the end", () => {
    // The figures of Anthropic's own example of a web search.
    expect(
      usageAfter(
        { input_tokens: 2679, cache_creation_input_tokens: 0, cache_read_input_tokens: 0, output_tokens: 3 },
        { input_tokens: 10_682, output_tokens: 510, server_tool_use: { web_search_requests: 1 } },
      ),
    ).toMatchObject({ inputTokens: 10_682, outputTokens: 510, webSearchRequests: 1, estimated: false });
  });

  it("learns nothing from null and absent", () => {
    const known = {
      input_tokens: 5,
      output_tokens: 6,
      cache_read_input_tokens: 7,
      server_tool_use: { web_fetch_requests: 2 },
    };
    const nothing = {
      input_tokens: null,
      cache_creation_input_tokens: null,
      cache_read_input_tokens: null,
      cache_creation: null,
      output_tokens_details: null,
      server_tool_use: null,
      service_tier: null,
      inference_geo: null,
      speed: null,
      iterations: null,
    };
    expect(usageAfter(known, nothing)).toEqual(usageAfter(known));
    expect(usageAfter(known, {})).toEqual(usageAfter(known));
  });

  it("believes an explicit 0, and tells it from one that was never stated", () => {
    expect(usageAfter({ input_tokens: 0, output_tokens: 0 })).toMatchObject({
      inputTokens: 0,
      outputTokens: 0,
      estimated: false,
      stated: { input: true, output: true },
    });
    expect(usageAfter({ input_tokens: 5, output_tokens: 9 }, { input_tokens: 0, output_tokens: 0 })).toMatchObject({
      inputTokens: 0,
      outputTokens: 0,
    });
    expect(usageAfter({ output_tokens: 5 }).stated).toMatchObject({ input: false, output: true });
    expect(usageAfter({ input_tokens: -5 }).stated).toMatchObject({ input: false, output: false });
    expect(Object.is(usageAfter({ input_tokens: -0 }).inputTokens, 0)).toBe(true);
  });

  it.each([-1, 0.5, "7", "", Number.NaN, Number.POSITIVE_INFINITY, 1_000_000_001, 1e300, true, [], {}, [5]])(
    "passes over the count %j and marks the usage as estimated",
    (absurd) => {
      const before = {
        input_tokens: 1,
        output_tokens: 9,
        cache_read_input_tokens: 3,
        cache_creation: split(4, 5),
        output_tokens_details: { thinking_tokens: 6 },
        server_tool_use: { web_search_requests: 7, web_fetch_requests: 8 },
      };
      for (const report of [
        { input_tokens: absurd },
        { output_tokens: absurd },
        { cache_read_input_tokens: absurd },
        { cache_creation_input_tokens: absurd },
        { cache_creation: split(absurd, undefined) },
        { cache_creation: split(undefined, absurd) },
        { output_tokens_details: { thinking_tokens: absurd } },
        { server_tool_use: { web_search_requests: absurd } },
        { server_tool_use: { web_fetch_requests: absurd } },
      ]) {
        expect(usageAfter(before, report)).toEqual({ ...usageAfter(before), estimated: true });
        // What is good beside it counts.
        expect(usageAfter(before, { ...report, service_tier: "batch" }).serviceTier).toBe("batch");
      }
    },
  );

  it("takes a count of a thousand million, and no more", () => {
    expect(usageAfter({ input_tokens: 1_000_000_000 })).toMatchObject({ inputTokens: 1_000_000_000, estimated: false });
  });

  it.each([undefined, null, 5, "usage", [], true])("marks the usage %j as estimated", (report) => {
    expect(usageAfter({ input_tokens: 5 }, report)).toMatchObject({ inputTokens: 5, estimated: true });
  });

  it("never takes more thinking than output", () => {
    const thinking = (n: number) => ({ output_tokens_details: { thinking_tokens: n } });
    expect(usageAfter({ output_tokens: 40, ...thinking(31) })).toMatchObject({ thinkingTokens: 31, estimated: false });
    expect(usageAfter({ output_tokens: 40, ...thinking(40) })).toMatchObject({ thinkingTokens: 40, estimated: false });
    expect(usageAfter({ output_tokens: 40, ...thinking(41) })).toMatchObject({ thinkingTokens: 40, estimated: true });
    expect(usageAfter({ output_tokens: 40, ...thinking(31) }, { output_tokens: 20 })).toMatchObject({
      outputTokens: 20,
      thinkingTokens: 20,
      estimated: false,
    });
    expect(
      usageAfter({ output_tokens: 40, ...thinking(31) }, { output_tokens: 20 }, { output_tokens: 50 }).thinkingTokens,
    ).toBe(31);
  });

  it.each<[string, unknown[], [number, number], boolean]>([
    ["no split: of the five-minute kind", [{ cache_creation_input_tokens: 300 }], [300, 0], false],
    [
      "the split of message_start",
      [{ cache_creation_input_tokens: 300, cache_creation: split(100, 200) }],
      [100, 200],
      false,
    ],
    [
      "a split without a total",
      [{ cache_creation_input_tokens: null, cache_creation: split(100, 200) }],
      [100, 200],
      false,
    ],
    [
      "the same total in message_delta",
      [{ cache_creation_input_tokens: 300, cache_creation: split(100, 200) }, { cache_creation_input_tokens: 300 }],
      [100, 200],
      false,
    ],
    [
      "a larger total: more of the five-minute kind",
      [{ cache_creation_input_tokens: 300, cache_creation: split(100, 200) }, { cache_creation_input_tokens: 500 }],
      [300, 200],
      false,
    ],
    [
      "a smaller total: the dearer kind stays",
      [{ cache_creation_input_tokens: 300, cache_creation: split(100, 200) }, { cache_creation_input_tokens: 250 }],
      [50, 200],
      false,
    ],
    [
      "a total below the dearer kind",
      [{ cache_creation_input_tokens: 300, cache_creation: split(100, 200) }, { cache_creation_input_tokens: 150 }],
      [0, 150],
      false,
    ],
    [
      "totals that go down and up again",
      [
        { cache_creation_input_tokens: 300, cache_creation: split(100, 200) },
        { cache_creation_input_tokens: 0 },
        { cache_creation_input_tokens: 300 },
      ],
      [100, 200],
      false,
    ],
    [
      "a split that replaces an older total",
      [{ cache_creation_input_tokens: 300 }, { cache_creation: split(1, 2) }],
      [1, 2],
      false,
    ],
    [
      "a split and a total that contradict each other",
      [{ cache_creation_input_tokens: 500, cache_creation: split(100, 200) }],
      [300, 200],
      true,
    ],
  ])("cache writes: %s", (_name, reports, [write5m, write1h], estimated) => {
    expect(usageAfter(...reports)).toMatchObject({
      cacheWrite5mTokens: write5m,
      cacheWrite1hTokens: write1h,
      estimated,
    });
  });

  describe("iterations", () => {
    const counts = (input: number, output: number) => ({ input_tokens: input, output_tokens: output });
    const top = counts(120, 33);

    it("sets compaction and advisor passes beside the counters, each with its model", () => {
      const usage = usageAfter({
        ...top,
        iterations: [
          { type: "compaction", ...counts(150_500, 900), cache_creation_input_tokens: 10, cache_creation: split(4, 6) },
          { type: "advisor_message", model: "claude-fable-5-2", ...counts(800, 500), cache_read_input_tokens: 3 },
          { type: "message", model: "claude-opus-5-5", ...top },
        ],
      });
      expect(usage).toMatchObject({ inputTokens: 120, outputTokens: 33, hops: [], estimated: false });
      expect(usage.extraPasses).toEqual([
        {
          model: null,
          inputTokens: 150_500,
          outputTokens: 900,
          cacheWrite5mTokens: 4,
          cacheWrite1hTokens: 6,
          cacheReadTokens: 0,
        },
        {
          model: "claude-fable-5-2",
          inputTokens: 800,
          outputTokens: 500,
          cacheWrite5mTokens: 0,
          cacheWrite1hTokens: 0,
          cacheReadTokens: 3,
        },
      ]);
    });

    it("replaces the list of before, and keeps it where there is none", () => {
      const first = { ...top, iterations: [{ type: "compaction", ...counts(5, 5) }] };
      const second = {
        ...top,
        iterations: [
          { type: "compaction", ...counts(5, 5) },
          { type: "compaction", ...counts(6, 6) },
        ],
      };
      expect(usageAfter(first, second).extraPasses).toHaveLength(2);
      expect(usageAfter(second, first).extraPasses).toHaveLength(1);
      expect(usageAfter(second, top).extraPasses).toHaveLength(2);
      expect(usageAfter(second, { ...top, iterations: [] }).extraPasses).toHaveLength(0);
    });

    it.each([
      [{ type: "compaction" }],
      [{ type: "compaction", input_tokens: -5, output_tokens: 5 }],
      [{ type: "compaction", input_tokens: 5 }],
      [{ type: "a_kind_of_tomorrow", input_tokens: 5, output_tokens: 5 }],
      [{}],
      [null],
      ["compaction"],
    ])("marks the usage as estimated for %j", (iteration) => {
      expect(usageAfter({ ...top, iterations: [iteration] }).estimated).toBe(true);
    });

    it("is not led into depth", () => {
      let nested: object = { type: "compaction", ...counts(1, 1) };
      for (let i = 0; i < 5_000; i++) nested = { type: "compaction", ...counts(1, 1), iterations: [nested] };
      expect(usageAfter({ ...top, iterations: [nested] }).extraPasses).toHaveLength(1);
    });
  });
});

describe("whole answers", () => {
  const table = builtInPrices();
  const metered = (bytes: Uint8Array) => {
    const meter = new StreamMeter();
    meter.push(bytes);
    return meter.facts;
  };
  const costOf = ({ model, usage }: { model: string | null; usage: Usage }) =>
    costMicroUsd(table, model ?? "", usage, NOW);

  // All of them worked out by hand from the fixtures' figures.
  it.each([
    // Opus 5.5: 50 × 4 + 1000 × 5 + 2000 × 8 + 100000 × 0.2 + 7 × 20
    ["cache-usage.sse", 41_340],
    // 5400 × 4 + 90 × 20 + one search
    ["web-search.sse", 33_400],
    // A failed search costs nothing: 25 × 4 + 30 × 20
    ["web-search-error.sse", 700],
    // 25 × 4 + 40 × 20, 31 of them thought
    ["thinking-omitted.sse", 900],
    // 120 × 4 + 33 × 20 + 150500 × 4 + 900 × 20
    ["beta-compaction.sse", 621_140],
    // Fable 5.2: 25 × 8 + 4 × 40; Opus 5.5: 27 × 4 + 17 × 20
    ["beta-fallback.sse", 808],
    // 25 × 4 + 1 × 20
    ["refusal.sse", 120],
  ])("%s costs %d µUSD", (name, expected) => {
    const facts = metered(fixture(name));
    expect(facts.usage.estimated).toBe(false);
    expect(costOf(facts)).toBe(expected);
  });

  it.each(["beta-compaction", "beta-fallback", "cache-usage", "web-search", "thinking", "refusal"])(
    "%s costs the same as a stream and as JSON",
    (name) => {
      const json = readAnswer(fixture(`${name}.final.json`).toString());
      const stream = metered(fixture(`${name}.sse`));
      expect(costOf(json)).toBe(costOf(stream));
      expect({ ...json.usage, stated: null }).toEqual({ ...stream.usage, stated: null });
    },
  );

  it("name the model that served after a fallback", () => {
    expect(metered(fixture("beta-fallback.sse")).model).toBe("claude-opus-5-5");
    expect(readAnswer(fixture("beta-fallback.final.json").toString()).model).toBe("claude-opus-5-5");
  });

  it("that begin with 0 input and 0 output are believed when they end so", () => {
    const stream = (end: object) =>
      metered(
        new TextEncoder().encode(
          [
            {
              type: "message_start",
              message: { model: "claude-opus-5-5", usage: { input_tokens: 0, output_tokens: 0 } },
            },
            { type: "message_delta", delta: {}, usage: end },
            { type: "message_stop" },
          ]
            .map((event) => `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`)
            .join(""),
        ),
      );
    expect(stream({ output_tokens: 5 })).toMatchObject({
      usage: { inputTokens: 0, outputTokens: 5, estimated: false },
    });
    expect(stream({ input_tokens: 8, output_tokens: 5 })).toMatchObject({ usage: { inputTokens: 8, outputTokens: 5 } });
    expect(costOf(stream({ input_tokens: 0, output_tokens: 0 }))).toBe(0);
  });
});

describe("applyUsage, properties", () => {
  const count = fc.nat(1_000_000_000);
  const maybe = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { nil: undefined });
  const valid = fc.record({
    input_tokens: maybe(fc.option(count)),
    output_tokens: maybe(count),
    cache_read_input_tokens: maybe(fc.option(count)),
    service_tier: maybe(fc.constantFrom("standard", "batch", null)),
    server_tool_use: maybe(fc.option(fc.record({ web_search_requests: count, web_fetch_requests: count }))),
    cache_creation_input_tokens: maybe(fc.option(count)),
  });

  it("any order of valid events ends with the last value stated for each counter (3,000 runs)", () => {
    fc.assert(
      fc.property(fc.array(valid, { maxLength: 8 }), (events) => {
        const last = (read: (event: (typeof events)[number]) => unknown, initial: unknown) =>
          events.map(read).findLast((value) => value !== undefined && value !== null) ?? initial;
        const usage = usageAfter(...events);
        expect(usage).toMatchObject({
          inputTokens: last((event) => event.input_tokens, 0),
          outputTokens: last((event) => event.output_tokens, 0),
          cacheReadTokens: last((event) => event.cache_read_input_tokens, 0),
          webSearchRequests: last((event) => event.server_tool_use?.web_search_requests, 0),
          webFetchRequests: last((event) => event.server_tool_use?.web_fetch_requests, 0),
          serviceTier: last((event) => event.service_tier, null),
          cacheWrite5mTokens: last((event) => event.cache_creation_input_tokens, 0),
          cacheWrite1hTokens: 0,
          estimated: false,
        });
      }),
      { numRuns: 3000 },
    );
  });

  it("the split of message_start and the last total decide the cache writes, whatever lies between (3,000 runs)", () => {
    fc.assert(
      fc.property(count, count, fc.array(count, { minLength: 1, maxLength: 6 }), (write5m, write1h, totals) => {
        const usage = usageAfter(
          {
            cache_creation_input_tokens: Math.min(write5m + write1h, 1_000_000_000),
            cache_creation: split(write5m, write1h),
          },
          ...totals.map((total) => ({ cache_creation_input_tokens: total })),
        );
        const total = totals.at(-1) ?? 0;
        expect(usage.cacheWrite5mTokens + usage.cacheWrite1hTokens).toBe(total);
        expect(usage.cacheWrite1hTokens).toBe(Math.min(write1h, total));
      }),
      { numRuns: 3000 },
    );
  });

  it("F-18 garbage never throws, and never makes a count or a cost that is negative or not whole (5,000 runs)", () => {
    const value = fc.oneof(
      fc.anything(),
      fc.double(),
      fc.integer({ min: -5, max: 2_000_000_000 }),
      fc.constantFrom("5", null, Number.NaN, -0, 1e300),
    );
    const tokens = fc.dictionary(
      fc.constantFrom(
        "type",
        "model",
        "input_tokens",
        "output_tokens",
        "cache_creation_input_tokens",
        "cache_read_input_tokens",
        "ephemeral_5m_input_tokens",
        "ephemeral_1h_input_tokens",
        "thinking_tokens",
        "web_search_requests",
        "web_fetch_requests",
      ),
      fc.oneof(value, fc.constantFrom("compaction", "advisor_message", "message", "fallback_message")),
    );
    const garbage = fc.oneof(
      fc.anything(),
      fc.record(
        {
          input_tokens: value,
          output_tokens: value,
          cache_creation_input_tokens: value,
          cache_creation: fc.oneof(tokens, value),
          output_tokens_details: fc.oneof(tokens, value),
          server_tool_use: fc.oneof(tokens, value),
          iterations: fc.oneof(fc.array(fc.oneof(tokens, value), { maxLength: 5 }), value),
          speed: fc.oneof(fc.constant("fast"), value),
          inference_geo: fc.oneof(fc.constant("us"), value),
          service_tier: fc.oneof(fc.constant("batch"), value),
        },
        { requiredKeys: [] },
      ),
    );
    const table = builtInPrices();
    fc.assert(
      fc.property(fc.array(garbage, { maxLength: 5 }), fc.string(), fc.integer(), (reports, model, at) => {
        const usage = usageAfter(...reports);
        const counts = [usage, ...usage.extraPasses, ...usage.hops].flatMap((tokens) =>
          Object.values(tokens).filter((n) => typeof n === "number"),
        );
        for (const n of counts) expect(Number.isInteger(n) && n >= 0 && n <= 1_000_000_000).toBe(true);
        expect(usage.thinkingTokens).toBeLessThanOrEqual(usage.outputTokens);
        const cost = costMicroUsd(table, model, usage, at);
        expect(Number.isSafeInteger(cost) && cost >= 0 && !Object.is(cost, -0)).toBe(true);
      }),
      { numRuns: 5000 },
    );
  });
});
