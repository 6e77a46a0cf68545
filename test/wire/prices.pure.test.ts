import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { builtInPrices, type PriceTable, parsePriceList } from "../../src/wire/anthropic/price-list.ts";
import { costMicroUsd, pricesOf, reservationMicroUsd } from "../../src/wire/anthropic/prices.ts";
import { emptyUsage, type Pass, TOKEN_KINDS, type Usage } from "../../src/wire/anthropic/usage.ts";

// Every expected figure is worked out by hand from the published prices: USD per million tokens is µUSD per token.

const NOW = Date.parse("2026-11-21T00:00:00Z");
const OCTOBER_7 = Date.parse("2026-10-07T00:00:00Z");
const table = builtInPrices();
const usage = (fields: Partial<Usage>): Usage => ({ ...emptyUsage(), ...fields });
const pass = (fields: Partial<Pass>): Pass => ({
  model: null,
  inputTokens: 0,
  outputTokens: 0,
  cacheWrite5mTokens: 0,
  cacheWrite1hTokens: 0,
  cacheReadTokens: 0,
  ...fields,
});
const cost = (model: string, fields: Partial<Usage>, at = NOW) => costMicroUsd(table, model, usage(fields), at);

const rate = (input: number, output = input * 5) => ({
  input,
  output,
  cache_read: input / 10,
  cache_write_5m: input,
  cache_write_1h: input * 2,
});
const list = (models: Record<string, unknown>, more: Record<string, unknown> = {}) => ({
  models,
  inference_geo_us_multiplier: 1.1,
  batch_multiplier: 0.5,
  web_search_request_usd: 0.01,
  ...more,
});
function tableOf(value: unknown): PriceTable {
  const parsed = parsePriceList(value);
  if (!parsed.ok) throw new Error(parsed.error);
  return parsed.value;
}

describe("costMicroUsd: the price of each kind of token, for each model", () => {
  // A million tokens of each kind: the published USD figure, times a million µUSD.
  const fable5 = [10, 50, 1, 12.5, 20];
  const opus5 = [5, 25, 0.5, 6.25, 10];
  it.each<[string, number[]]>([
    ["claude-fable-5-2", [8, 40, 0.2, 10, 16]],
    ["claude-mythos-5-2", [8, 40, 0.2, 10, 16]],
    ["claude-fable-5-1", [10, 50, 0.25, 12.5, 20]],
    ["claude-mythos-5-1", [10, 50, 0.25, 12.5, 20]],
    ["claude-fable-5", fable5],
    ["claude-mythos-5", fable5],
    ["claude-opus-5-5", [4, 20, 0.2, 5, 8]],
    ["claude-opus-5", opus5],
    ["claude-opus-4-8", opus5],
    ["claude-opus-4-7", opus5],
    ["claude-opus-4-6", opus5],
    ["claude-opus-4-5", opus5],
    ["claude-sonnet-5-5", [2, 10, 0.1, 2.5, 4]],
    ["claude-sonnet-5", [2, 10, 0.2, 2.5, 4]],
    ["claude-sonnet-4-6", [3, 15, 0.3, 3.75, 6]],
    ["claude-sonnet-4-5", [3, 15, 0.3, 3.75, 6]],
    ["claude-haiku-4-5", [1, 5, 0.1, 1.25, 2]],
    // Above 100,000 prompt tokens, but for the output, which has a prompt of none.
    ["claude-haiku-5-5", [0.5, 0.5, 0.05, 0.625, 1]],
  ])("%s", (model, [input, output, read, write5m, write1h]) => {
    const million = 1_000_000;
    expect([
      cost(model, { inputTokens: million }),
      cost(model, { outputTokens: million }),
      cost(model, { cacheReadTokens: million }),
      cost(model, { cacheWrite5mTokens: million }),
      cost(model, { cacheWrite1hTokens: million }),
    ]).toEqual([input, output, read, write5m, write1h].map((usd) => (usd ?? Number.NaN) * million));
  });

  it.each([
    ["claude-opus-5-5", 20],
    ["claude-fable-5-2", 40],
    ["claude-fable-5-1", 40],
    ["claude-fable-5", 10],
    ["claude-sonnet-4-6", 10],
    ["claude-sonnet-5-5", 20],
  ])("%s reads its cache at 1/%d of the input price, writes at 1.25 and 2 times it", (model, factor) => {
    const input = cost(model, { inputTokens: 4_000_000 });
    expect(cost(model, { cacheReadTokens: 4_000_000 })).toBe(input / factor);
    expect(cost(model, { cacheWrite5mTokens: 4_000_000 })).toBe(input * 1.25);
    expect(cost(model, { cacheWrite1hTokens: 4_000_000 })).toBe(input * 2);
  });
});

describe("costMicroUsd: rules", () => {
  it.each<[string, string, Partial<Usage>, number]>([
    // 1000 × 4 + 500 × 20
    ["input and output", "claude-opus-5-5", { inputTokens: 1000, outputTokens: 500 }, 14_000],
    // 50 × 4 + 1000 × 5 + 2000 × 8 + 100000 × 0.2 + 7 × 20 = 200 + 5000 + 16000 + 20000 + 140
    [
      "a cached prompt",
      "claude-opus-5-5",
      {
        inputTokens: 50,
        cacheWrite5mTokens: 1000,
        cacheWrite1hTokens: 2000,
        cacheReadTokens: 100_000,
        outputTokens: 7,
      },
      41_340,
    ],
    // 100000 × 0.1 + 1000 × 0.5
    ["haiku 5.5 at the band's edge", "claude-haiku-5-5", { inputTokens: 100_000, outputTokens: 1000 }, 10_500],
    // 100001 × 0.5 + 1000 × 2.5 = 50000.5 + 2500, half up
    [
      "haiku 5.5 one token beyond, output too",
      "claude-haiku-5-5",
      { inputTokens: 100_001, outputTokens: 1000 },
      52_501,
    ],
    // 99998 × 0.1 + 0.125 + 0.2 is below; all kinds of prompt tokens count for the band: 9999.8 + 0.125 + 0.2 = 10000.125
    [
      "haiku 5.5 with writes, at the edge",
      "claude-haiku-5-5",
      { inputTokens: 99_998, cacheWrite5mTokens: 1, cacheWrite1hTokens: 1 },
      10_000,
    ],
    // 99998 × 0.5 + 0.625 + 1 + 0.05 = 49999 + 1.675
    [
      "haiku 5.5 with a cache read beyond it",
      "claude-haiku-5-5",
      { inputTokens: 99_998, cacheWrite5mTokens: 1, cacheWrite1hTokens: 1, cacheReadTokens: 1 },
      50_001,
    ],
    // 1 × 0.5 + 100000 × 0.05
    [
      "haiku 5.5: cache reads count for the band",
      "claude-haiku-5-5",
      { inputTokens: 1, cacheReadTokens: 100_000 },
      5001,
    ],
    // Output is no prompt: 100000 × 0.1 + 900000 × 0.5
    ["haiku 5.5: output does not", "claude-haiku-5-5", { inputTokens: 100_000, outputTokens: 900_000 }, 460_000],
    // Only haiku 5.5 has a band: 400000 × 4
    ["a long prompt elsewhere", "claude-opus-5-5", { inputTokens: 400_000 }, 1_600_000],
    // 5 × 0.1 = 0.5 → 1; 4 × 0.1 = 0.4 → 0; 15 × 0.1 = 1.5 → 2; 25 × 0.1 = 2.5 → 3
    ["rounding 0.5 up", "claude-haiku-5-5", { inputTokens: 5 }, 1],
    ["rounding 0.4 down", "claude-haiku-5-5", { inputTokens: 4 }, 0],
    ["rounding 1.5 up", "claude-haiku-5-5", { inputTokens: 15 }, 2],
    ["rounding 2.5 up, not to even", "claude-haiku-5-5", { inputTokens: 25 }, 3],
    // 0.1 + 0.2 + 0.2: each would round to nothing, together they are 0.5
    [
      "rounding once, of the sum",
      "claude-haiku-5-5",
      { inputTokens: 1, cacheWrite1hTokens: 1, cacheReadTokens: 20 },
      1,
    ],
    // (100 × 4 + 10 × 20) × 2
    ["fast mode, Opus 5.5", "claude-opus-5-5", { inputTokens: 100, outputTokens: 10, speed: "fast" }, 1200],
    // (100 × 5 + 10 × 25 + 10 × 0.5) × 2 = (500 + 250 + 5) × 2
    [
      "fast mode, Opus 5, cache included",
      "claude-opus-5",
      { inputTokens: 100, outputTokens: 10, cacheReadTokens: 10, speed: "fast" },
      1510,
    ],
    ["fast mode, Opus 4.8", "claude-opus-4-8", { inputTokens: 100, speed: "fast" }, 1000],
    ["no fast mode: Opus 4.7", "claude-opus-4-7", { inputTokens: 100, speed: "fast" }, 500],
    ["no fast mode: Sonnet 5.5", "claude-sonnet-5-5", { inputTokens: 100, speed: "fast" }, 200],
    ["no fast mode: Haiku 5.5", "claude-haiku-5-5", { inputTokens: 100, speed: "fast" }, 10],
    ["the standard speed", "claude-opus-5-5", { inputTokens: 100, speed: "standard" }, 400],
    // 100 × 4 × 1.1
    ["inference in the US", "claude-opus-5-5", { inputTokens: 100, inferenceGeo: "us" }, 440],
    // 7 × 0.1 × 1.1 = 0.77; 100 × 1 × 1.1 would be 110
    ["inference in the US, cheaply", "claude-haiku-5-5", { inputTokens: 7, inferenceGeo: "us" }, 1],
    ["inference in the US, Opus 4.6", "claude-opus-4-6", { inputTokens: 100, inferenceGeo: "us" }, 550],
    ["inference in the US, Sonnet 4.6", "claude-sonnet-4-6", { inputTokens: 100, inferenceGeo: "us" }, 330],
    ["inference in the US before 4.6: Opus 4.5", "claude-opus-4-5", { inputTokens: 100, inferenceGeo: "us" }, 500],
    ["inference in the US before 4.6: Sonnet 4.5", "claude-sonnet-4-5", { inputTokens: 100, inferenceGeo: "us" }, 300],
    ["inference in the US before 4.6: Haiku 4.5", "claude-haiku-4-5", { inputTokens: 100, inferenceGeo: "us" }, 100],
    ["global inference", "claude-opus-5-5", { inputTokens: 100, inferenceGeo: "global" }, 400],
    // (100 × 4) × 2 × 1.1
    ["fast and US together", "claude-opus-5-5", { inputTokens: 100, speed: "fast", inferenceGeo: "us" }, 880],
    // 101 × 4 × 0.5
    ["the batch discount", "claude-opus-5-5", { inputTokens: 101, serviceTier: "batch" }, 202],
    // (1000 × 0.2 + 100 × 5 + 100 × 8) × 0.5 = (200 + 500 + 800) / 2
    [
      "the batch discount on cached input",
      "claude-opus-5-5",
      { cacheReadTokens: 1000, cacheWrite5mTokens: 100, cacheWrite1hTokens: 100, serviceTier: "batch" },
      750,
    ],
    // 1000 × 4 × 1.1 × 0.5
    ["batch and US together", "claude-opus-5-5", { inputTokens: 1000, serviceTier: "batch", inferenceGeo: "us" }, 2200],
    [
      "no batch discount in fast mode",
      "claude-opus-5-5",
      { inputTokens: 100, serviceTier: "batch", speed: "fast" },
      800,
    ],
    ["the priority tier, by the list", "claude-opus-5-5", { inputTokens: 100, serviceTier: "priority" }, 400],
    ["web searches, undiscounted", "claude-opus-5-5", { webSearchRequests: 3, serviceTier: "batch" }, 30_000],
    // 5400 × 4 + 90 × 20 + 10000
    [
      "a web search and its tokens",
      "claude-opus-5-5",
      { inputTokens: 5400, outputTokens: 90, webSearchRequests: 1 },
      33_400,
    ],
    ["web fetches, free", "claude-opus-5-5", { webFetchRequests: 3 }, 0],
    ["thinking inside the output", "claude-opus-5-5", { outputTokens: 40, thinkingTokens: 31 }, 800],
    ["nothing", "claude-opus-5-5", {}, 0],
    // 120 × 4 + 33 × 20, and beside it 150500 × 4 + 900 × 20: 480 + 660 + 602000 + 18000
    [
      "a compaction beside the message",
      "claude-opus-5-5",
      {
        inputTokens: 120,
        outputTokens: 33,
        extraPasses: [pass({ inputTokens: 150_500, outputTokens: 900 })],
      },
      621_140,
    ],
    // 1000 × 2 + 100 × 10, and the advisor 800 × 8 + 500 × 40: 2000 + 1000 + 6400 + 20000
    [
      "an advisor of another model beside the message",
      "claude-sonnet-5",
      {
        inputTokens: 1000,
        outputTokens: 100,
        extraPasses: [pass({ model: "claude-fable-5-2", inputTokens: 800, outputTokens: 500 })],
      },
      29_400,
    ],
    // Bands are each pass's own: 100001 × 0.5 for the message, 10 × 0.1 for the compaction, 50000.5 + 1 half up
    [
      "bands pass by pass",
      "claude-haiku-5-5",
      { inputTokens: 100_001, extraPasses: [pass({ inputTokens: 10 })] },
      50_002,
    ],
    // Multipliers are each model's own: 100 × 4 × 2 × 1.1 + 100 × 5 (Opus 4.5: neither fast nor US)
    [
      "multipliers pass by pass",
      "claude-opus-5-5",
      {
        inputTokens: 100,
        speed: "fast",
        inferenceGeo: "us",
        extraPasses: [pass({ model: "claude-opus-4-5", inputTokens: 100 })],
      },
      1380,
    ],
    // 25 × 8 + 4 × 40 by the first model, 27 × 4 + 17 × 20 by the second: 200 + 160 + 108 + 340
    [
      "a fallback to another model, each part at its own price",
      "claude-opus-5-5",
      {
        inputTokens: 25,
        outputTokens: 21,
        hops: [
          pass({ model: "claude-fable-5-2", inputTokens: 25, outputTokens: 4 }),
          pass({ model: "claude-opus-5-5", inputTokens: 27, outputTokens: 17 }),
        ],
      },
      808,
    ],
    // As above, but the total has 100 output tokens more than the parts explain: + 100 × 20
    [
      "what a fallback's parts leave unexplained",
      "claude-opus-5-5",
      {
        inputTokens: 25,
        outputTokens: 121,
        hops: [
          pass({ model: "claude-fable-5-2", inputTokens: 25, outputTokens: 4 }),
          pass({ model: "claude-opus-5-5", inputTokens: 27, outputTokens: 17 }),
        ],
      },
      2808,
    ],
  ])("prices %s", (_name, model, fields, expected) => {
    expect(cost(model, fields)).toBe(expected);
  });

  it("uses the rate that is valid at the moment, to the millisecond", () => {
    const read = { cacheReadTokens: 1_000_000 };
    expect(cost("claude-sonnet-5-5", read, 0)).toBe(200_000);
    expect(cost("claude-sonnet-5-5", read, OCTOBER_7 - 1)).toBe(200_000);
    expect(cost("claude-sonnet-5-5", read, OCTOBER_7)).toBe(100_000);
    expect(cost("claude-sonnet-5-5", read, OCTOBER_7 + 1)).toBe(100_000);
  });

  it("stays exact beyond 2^53 parts, and a safe integer whatever the counts", () => {
    const most = 1_000_000_000;
    // 999,999,999 × 4 = 3,999,999,996; with US × 1.1 = 4,399,999,995.6
    expect(cost("claude-opus-5-5", { inputTokens: most - 1 })).toBe(3_999_999_996);
    expect(cost("claude-opus-5-5", { inputTokens: most - 1, inferenceGeo: "us" })).toBe(4_399_999_996);
    // 999,999,995 × 0.5 (above the band) = 499,999,997.5, half up
    expect(cost("claude-haiku-5-5", { inputTokens: most - 5 })).toBe(499_999_998);
    // The last token below nine dollars and the first above: 450359 × 20 = 9,007,180; 450360 × 20 = 9,007,200
    expect(cost("claude-opus-5-5", { outputTokens: 450_359 })).toBe(9_007_180);
    expect(cost("claude-opus-5-5", { outputTokens: 450_360 })).toBe(9_007_200);
    const dear = tableOf(
      list({ "claude-opus-9": { rates: [rate(20_000)], fast_multiplier: 100 } }, { inference_geo_us_multiplier: 100 }),
    );
    const all = usage({ inputTokens: most, outputTokens: most, speed: "fast", inferenceGeo: "us" });
    // 10^9 × (20,000 + 100,000) × 10,000 = 1.2 × 10^18, which is above 2^53
    expect(costMicroUsd(dear, "claude-opus-9", all, NOW)).toBe(Number.MAX_SAFE_INTEGER);
  });

  it("is the exact sum, rounded half up once, for any counts and terms (2,000 runs)", () => {
    const count = fc.oneof(fc.nat(1000), fc.nat(2_000_000), fc.nat(1_000_000_000));
    fc.assert(
      fc.property(
        fc.constantFrom("claude-opus-5-5", "claude-sonnet-4-5", "claude-haiku-4-5"),
        fc.array(count, { minLength: 5, maxLength: 5 }),
        fc.constantFrom(null, "fast"),
        fc.constantFrom(null, "us"),
        fc.constantFrom(null, "batch"),
        fc.nat(100),
        (model, counts, speed, inferenceGeo, serviceTier, webSearchRequests) => {
          const fields = Object.fromEntries(TOKEN_KINDS.map((kind, i) => [kind, counts[i]]));
          const nano = { "claude-opus-5-5": [4000, 20000, 5000, 8000, 200] }[model as string] ?? [
            ...(model === "claude-haiku-4-5" ? [1000, 5000, 1250, 2000, 100] : [3000, 15000, 3750, 6000, 300]),
          ];
          const isOpus = model === "claude-opus-5-5";
          let twentieths = 20n * counts.reduce((sum, n, i) => sum + BigInt(n) * BigInt(nano[i] ?? 0), 0n);
          if (speed && isOpus) twentieths *= 2n;
          if (inferenceGeo && isOpus) twentieths = (twentieths * 11n) / 10n;
          if (serviceTier && !speed) twentieths /= 2n;
          const expected = (twentieths + 10_000n) / 20_000n + 10_000n * BigInt(webSearchRequests);
          expect(cost(model, { ...fields, speed, inferenceGeo, serviceTier, webSearchRequests })).toBe(
            Number(expected),
          );
        },
      ),
      { numRuns: 2000 },
    );
  });
});

describe("B-10 pricesOf: no model is free", () => {
  it.each([
    ["claude-haiku-4-5-20251001", "claude-haiku-4-5"],
    ["claude-haiku-4-5@20251001", "claude-haiku-4-5"],
    ["claude-haiku-4-5@latest", "claude-haiku-4-5"],
    ["claude-opus-5-5-latest", "claude-opus-5-5"],
    ["Claude-Opus-5-5", "claude-opus-5-5"],
    ["CLAUDE-OPUS-5-5-LATEST", "claude-opus-5-5"],
    ["anthropic.claude-opus-5-5", "claude-opus-5-5"],
    ["us.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5"],
    ["global.anthropic.claude-opus-4-6-v1", "claude-opus-4-6"],
    ["anthropic/claude-opus-4.5", "claude-opus-4-5"],
    ["vertex_ai/claude-sonnet-5@20260701", "claude-sonnet-5"],
    ["claude-sonnet-4-6[1m]", "claude-sonnet-4-6"],
    ["arn:aws:bedrock:us-east-1:1:inference-profile/us.anthropic.claude-haiku-4-5-20251001-v1:0", "claude-haiku-4-5"],
  ])("knows %s as %s", (model, id) => {
    expect(pricesOf(table, model)).toEqual({ prices: table.models.get(id), known: true });
  });

  const million = { inputTokens: 1_000_000, outputTokens: 1_000_000, cacheReadTokens: 1_000_000 };
  it.each([
    // 5 + 25 + 0.5
    ["claude-opus-9", 30_500_000],
    ["claude-3-opus-20240229", 30_500_000],
    ["CLAUDE-OPUS-5-5-TURBO", 30_500_000],
    // 3 + 15 + 0.3
    ["anthropic.claude-3-5-sonnet-20241022-v2:0", 18_300_000],
    // 1 + 5 + 0.1: Haiku 4.5 is dearer than 5.5 above its band
    ["claude-haiku-9-1", 6_100_000],
    // 10 + 50 + 1
    ["claude-mythos-preview", 61_000_000],
    ["claude-fable-7", 61_000_000],
    ["gpt-7", 61_000_000],
    ["claude-2.1", 61_000_000],
    ["", 61_000_000],
    ["constructor", 61_000_000],
    ["__proto__", 61_000_000],
    ["x".repeat(100_000), 61_000_000],
  ])("prices the unknown %s like the dearest", (model, expected) => {
    expect(pricesOf(table, model).known).toBe(false);
    expect(cost(model, million)).toBe(expected);
  });

  it("takes the highest of each price and multiplier of a family, at each moment", () => {
    const at = (day: string) => Date.parse(`2026-${day}T00:00:00Z`);
    const mixed = tableOf(
      list({
        // Dear output, cheap input; and the other way round until June.
        "claude-opus-8": { rates: [{ ...rate(2), output: 90 }], us_surcharge: false },
        "claude-opus-7": { rates: [{ ...rate(9), until: "2026-06-01T00:00:00Z" }, rate(3)], fast_multiplier: 3 },
        "claude-haiku-8": { rates: [rate(1)] },
      }),
    );
    const both = usage({ inputTokens: 100, outputTokens: 10 });
    // 100 × 9 + 10 × 90, then 100 × 3 + 10 × 90; and × 3 × 1.1
    expect(costMicroUsd(mixed, "claude-opus-99", both, at("05-31"))).toBe(1800);
    expect(costMicroUsd(mixed, "claude-opus-99", both, at("06-01"))).toBe(1200);
    expect(costMicroUsd(mixed, "claude-opus-99", { ...both, speed: "fast", inferenceGeo: "us" }, at("06-01"))).toBe(
      3960,
    );
    expect(costMicroUsd(mixed, "claude-haiku-99", both, at("06-01"))).toBe(150);
    expect(costMicroUsd(mixed, "mystery", both, at("06-01"))).toBe(1200);
  });

  it("never falls back to a model that is free", () => {
    const some = tableOf(
      list({
        "claude-opus-8": { rates: [rate(0)], free_because: "a gift" },
        "claude-haiku-8": { rates: [rate(1)] },
      }),
    );
    expect(costMicroUsd(some, "claude-opus-8", usage({ inputTokens: 1000 }), NOW)).toBe(0);
    expect(costMicroUsd(some, "claude-opus-9", usage({ inputTokens: 1000 }), NOW)).toBe(1000);
  });

  it("never costs nothing, whatever the model is called (2,000 runs)", () => {
    fc.assert(
      fc.property(
        fc.oneof(fc.string(), fc.string({ unit: "binary" }), fc.constantFrom(...table.models.keys())),
        (model) => {
          expect(cost(model, { inputTokens: 100_001, outputTokens: 1 })).toBeGreaterThan(0);
        },
      ),
      { numRuns: 2000 },
    );
  });

  it("remembers no more than a thousand names", () => {
    for (let i = 0; i < 5_000; i++) pricesOf(table, `claude-opus-${i}`);
    expect(table.seen.size).toBeLessThanOrEqual(1_000);
    pricesOf(table, "y".repeat(257));
    expect(table.seen.has("y".repeat(257))).toBe(false);
  });
});

describe("reservationMicroUsd", () => {
  const plain = { cacheWrites: false, fast: false, us: false };
  it.each<[string, string, number, number, Partial<typeof plain>, number]>([
    // 1000 × 4 + 500 × 20
    ["input and output", "claude-opus-5-5", 1000, 500, {}, 14_000],
    // 1000 × 8 + 500 × 20: the one-hour write is the dearest
    ["cache writes", "claude-opus-5-5", 1000, 500, { cacheWrites: true }, 18_000],
    ["fast mode", "claude-opus-5-5", 1000, 500, { fast: true }, 28_000],
    ["fast mode where there is none", "claude-sonnet-5", 1000, 500, { fast: true }, 7_000],
    ["the US", "claude-opus-5-5", 1000, 500, { us: true }, 15_400],
    ["the US before 4.6", "claude-opus-4-5", 1000, 500, { us: true }, 17_500],
    // (1000 × 8 + 500 × 20) × 2 × 1.1
    ["everything at once", "claude-opus-5-5", 1000, 500, { cacheWrites: true, fast: true, us: true }, 39_600],
    // 100000 × 0.1 + 1000 × 0.5, and one more: 100001 × 0.5 + 1000 × 2.5 = 52500.5, up
    ["haiku 5.5 at the band's edge", "claude-haiku-5-5", 100_000, 1000, {}, 10_500],
    ["haiku 5.5 beyond it", "claude-haiku-5-5", 100_001, 1000, {}, 52_501],
    // 100001 × 1 + 1000 × 2.5
    ["haiku 5.5 beyond it with cache writes", "claude-haiku-5-5", 100_001, 1000, { cacheWrites: true }, 102_501],
    ["a fraction, up", "claude-haiku-5-5", 1, 0, {}, 1],
    ["nothing", "claude-opus-5-5", 0, 0, {}, 0],
    ["an unknown model", "gpt-7", 1000, 500, {}, 35_000],
  ])("reserves for %s", (_name, model, inputTokens, outputTokens, terms, expected) => {
    expect(reservationMicroUsd(table, model, { inputTokens, outputTokens }, NOW, { ...plain, ...terms })).toBe(
      expected,
    );
  });

  it("does not count on a band that is cheaper, and goes by the day", () => {
    const odd = tableOf(
      list({
        "claude-a": {
          rates: [{ ...rate(4), until: "2026-06-01T00:00:00Z" }, rate(5)],
          above_prompt_tokens: 10,
          rates_above: [rate(1)],
        },
      }),
    );
    const tokens = { inputTokens: 1000, outputTokens: 0 };
    expect(reservationMicroUsd(odd, "claude-a", tokens, Date.parse("2026-05-31T23:59:59.999Z"), plain)).toBe(4000);
    expect(reservationMicroUsd(odd, "claude-a", tokens, Date.parse("2026-06-01T00:00:00Z"), plain)).toBe(5000);
  });

  it("stays exact, and safe, for huge counts", () => {
    const tokens = { inputTokens: 1_000_000_001, outputTokens: 1_000_000_000 };
    // 1,000,000,001 × 10 + 10^9 × 50, × 1.1 = 66,000,000,011
    expect(reservationMicroUsd(table, "gpt-7", tokens, NOW, { ...plain, us: true })).toBe(66_000_000_011);
    const dear = tableOf(
      list({ m: { rates: [rate(20_000)], fast_multiplier: 100 } }, { inference_geo_us_multiplier: 100 }),
    );
    expect(reservationMicroUsd(dear, "m", tokens, NOW, { cacheWrites: true, fast: true, us: true })).toBe(
      Number.MAX_SAFE_INTEGER,
    );
  });

  it("B-05 is never below what those tokens then cost, and is reached by some split of them (3,000 runs)", () => {
    const price = fc.integer({ min: 1, max: 50_000 }).map((nano) => nano / 1000);
    const prices = fc.record({
      input: price,
      output: price,
      cache_read: price,
      cache_write_5m: price,
      cache_write_1h: price,
    });
    const model = fc.record({
      rates: fc.tuple(prices),
      above_prompt_tokens: fc.integer({ min: 1, max: 2_000 }),
      rates_above: fc.tuple(prices),
      fast_multiplier: fc.integer({ min: 100, max: 400 }).map((n) => n / 100),
      us_surcharge: fc.boolean(),
    });
    const part = fc.nat(1_000);
    fc.assert(
      fc.property(
        model,
        fc.tuple(part, part, part, part, part),
        fc.boolean(),
        fc.boolean(),
        fc.boolean(),
        fc.boolean(),
        (listed, [input, read, write5m, write1h, output], cacheWrites, fast, us, batch) => {
          const random = tableOf(list({ m: listed }));
          const spent = usage({
            inputTokens: input,
            cacheReadTokens: read,
            cacheWrite5mTokens: cacheWrites ? write5m : 0,
            cacheWrite1hTokens: cacheWrites ? write1h : 0,
            outputTokens: output,
            speed: fast ? "fast" : null,
            inferenceGeo: us ? "us" : null,
            serviceTier: batch ? "batch" : null,
          });
          const prompt = input + read + spent.cacheWrite5mTokens + spent.cacheWrite1hTokens;
          const tokens = { inputTokens: prompt, outputTokens: output };
          const terms = { cacheWrites, fast, us };
          const reserved = reservationMicroUsd(random, "m", tokens, NOW, terms);
          expect(reserved).toBeGreaterThanOrEqual(costMicroUsd(random, "m", spent, NOW));
          const kinds = TOKEN_KINDS.filter((kind) => kind !== "outputTokens" && (cacheWrites || !/Write/.test(kind)));
          const costs = kinds.flatMap((kind) =>
            [prompt, Math.min(prompt, listed.above_prompt_tokens)].map((count) =>
              costMicroUsd(
                random,
                "m",
                usage({ [kind]: count, outputTokens: output, speed: spent.speed, inferenceGeo: spent.inferenceGeo }),
                NOW,
              ),
            ),
          );
          // Two bands, each dearer in something: then the reservation may be above both.
          const [low] = listed.rates;
          const [high] = listed.rates_above;
          const ordered = Object.entries(low).every(([kind, value]) => value <= high[kind as keyof typeof high]);
          if (ordered || prompt <= listed.above_prompt_tokens) {
            expect(reserved - Math.max(...costs)).toBeLessThanOrEqual(1);
          }
        },
      ),
      { numRuns: 3000 },
    );
  });
});
