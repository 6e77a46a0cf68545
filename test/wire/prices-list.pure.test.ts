import { readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { builtInPrices, parsePriceList } from "../../src/wire/anthropic/price-list.ts";
import { costMicroUsd } from "../../src/wire/anthropic/prices.ts";
import { emptyUsage } from "../../src/wire/anthropic/usage.ts";

const RATE = { input: 4, output: 20, cache_read: 0.2, cache_write_5m: 5, cache_write_1h: 8 };
const JUNE = "2026-06-01T00:00:00Z";
const JULY = "2026-07-01T00:00:00Z";
const list = (model: unknown, more: Record<string, unknown> = {}) => ({
  models: { m: model },
  inference_geo_us_multiplier: 1.1,
  batch_multiplier: 0.5,
  web_search_request_usd: 0.01,
  ...more,
});
const problemOf = (value: unknown): string | null => {
  const parsed = parsePriceList(value);
  return parsed.ok ? null : parsed.error;
};
const model = (fields: Record<string, unknown>) => list({ rates: [RATE], ...fields });
const rates = (...changes: Record<string, unknown>[]) =>
  list({ rates: changes.map((change) => ({ ...RATE, ...change })) });

describe("parsePriceList", () => {
  it("takes the list that the documentation shows", () => {
    const page = readFileSync(join(import.meta.dirname, "../../docs/api.md"), "utf8");
    const [, example] = /```json\n(\{[^`]*"rates"[^`]*)```/.exec(page) ?? [];
    expect(problemOf(JSON.parse(example ?? ""))).toBeNull();
  });

  it("takes the built-in list, and what that reads as", () => {
    const { list: own } = builtInPrices();
    expect(problemOf(own)).toBeNull();
    expect(problemOf(JSON.parse(JSON.stringify(own)))).toBeNull();
    expect(Object.keys(own.models)).toHaveLength(18);
  });

  it.each<[string, unknown]>([
    ["one model", model({})],
    ["a source", list({ rates: [RATE] }, { source: "the contract of May" })],
    ["three decimals", rates({ input: 0.125 })],
    ["the dearest price", rates({ input: 100_000 })],
    ["the cheapest price", rates({ input: 0.001 })],
    ["decimals that binary has not", rates({ input: 0.57, output: 1.005, cache_read: 4.35, cache_write_5m: 8.2 })],
    ["rates joined by until", rates({ until: JUNE }, { until: JULY }, {})],
    ["rates joined by from", rates({}, { from: JUNE }, { from: JULY })],
    ["rates joined by both", rates({ until: JUNE }, { from: "2026-06-01T02:00:00+02:00" })],
    ["a first rate with a beginning", rates({ from: JUNE, until: JULY }, {})],
    ["a band", model({ above_prompt_tokens: 1, rates_above: [RATE] })],
    ["multipliers at their bounds", model({ fast_multiplier: 100, us_surcharge: false })],
    [
      "a model that is free and says why",
      { ...model({}), models: { m: { rates: [RATE] }, n: { rates: [{ ...RATE, input: 0 }], free_because: "ours" } } },
    ],
  ])("takes %s", (_name, value) => {
    expect(problemOf(value)).toBeNull();
  });

  const priceRule = "must be a price in USD per million tokens, above 0 and up to 100000, with at most 3 decimals";
  const zero = "must be above 0; a model that costs nothing says so in `free_because`";
  const fastRule = "must be from 1 to 100, with at most 2 decimals";
  it.each<[unknown, string]>([
    [null, "must be a JSON object"],
    [[], "must be a JSON object"],
    [
      {},
      "models: Field required; inference_geo_us_multiplier: Field required; batch_multiplier: Field required; web_search_request_usd: Field required",
    ],
    [list({ rates: [RATE] }, { models: [] }), "models: must be an object of models"],
    [
      list({ rates: [RATE] }, { models: {} }),
      "models: must hold a model that costs something, for unknown models to cost",
    ],
    [list({ rates: [RATE] }, { currency: "EUR" }), "currency: unknown field"],
    [list(5), "models.m: must be an object"],
    [list({}), "models.m.rates: Field required"],
    [model({ colour: 1 }), "models.m.colour: unknown field"],
    [model({ rates: [] }), "models.m.rates: must hold a rate"],
    [model({ rates: RATE }), "models.m.rates: must be a list of rates"],
    [model({ rates: [{ ...RATE, output: undefined }] }), `models.m.rates.0.output: ${priceRule}`],
    [
      model({ rates: [{ input: 1 }] }),
      "models.m.rates.0.output: Field required; models.m.rates.0.cache_read: Field required; models.m.rates.0.cache_write_5m: Field required; models.m.rates.0.cache_write_1h: Field required",
    ],
    [rates({ input: "4" }), `models.m.rates.0.input: ${priceRule}`],
    [rates({ input: 0.0001 }), `models.m.rates.0.input: ${priceRule}`],
    [rates({ input: 100_000.001 }), `models.m.rates.0.input: ${priceRule}`],
    [rates({ input: Number.NaN }), `models.m.rates.0.input: ${priceRule}`],
    [rates({ input: Number.POSITIVE_INFINITY }), `models.m.rates.0.input: ${priceRule}`],
    [rates({ cache_read: 0 }), `models.m.rates.0.cache_read: ${zero}`],
    [rates({ input: -1 }), `models.m.rates.0.input: ${priceRule}`],
    [
      model({ rates_above: [{ ...RATE, output: 0 }], above_prompt_tokens: 5 }),
      `models.m.rates_above.0.output: ${zero}`,
    ],
    [model({ free_because: "ours" }), "models: must hold a model that costs something, for unknown models to cost"],
    [model({ free_because: "" }), "models.m.free_because: must say why"],
    [
      {
        ...list({ rates: [{ ...RATE, input: -1 }], free_because: "ours" }),
        models: { n: { rates: [RATE] }, m: { rates: [{ ...RATE, input: -1 }], free_because: "ours" } },
      },
      `models.m.rates.0.input: ${priceRule}`,
    ],
    [rates({ until: JUNE }), "models.m.rates.0.until: the last rate must not end"],
    [rates({}, {}), "models.m.rates.0.until: Field required, since another rate follows"],
    [
      rates({ until: JUNE }, { from: JULY }),
      "models.m.rates.0.until: must be the moment that the next rate is valid from",
    ],
    [rates({ until: JULY }, { until: JUNE }, {}), "models.m.rates.1: must end later than it begins"],
    [rates({ from: JUNE, until: JUNE }, {}), "models.m.rates.0: must end later than it begins"],
    [
      rates({ until: "2026-02-30T00:00:00Z" }, {}),
      "models.m.rates.0.until: must be an RFC 3339 time, such as 2027-01-31T00:00:00Z",
    ],
    [
      rates({ until: "2026-06-01" }, {}),
      "models.m.rates.0.until: must be an RFC 3339 time, such as 2027-01-31T00:00:00Z",
    ],
    [rates({ until: 5 }, {}), "models.m.rates.0.until: must be an RFC 3339 time, such as 2027-01-31T00:00:00Z"],
    [model({ above_prompt_tokens: 5 }), "models.m: above_prompt_tokens and rates_above need each other"],
    [model({ rates_above: [RATE] }), "models.m: above_prompt_tokens and rates_above need each other"],
    [
      model({ above_prompt_tokens: 0.5, rates_above: [RATE] }),
      "models.m.above_prompt_tokens: must be a whole number from 1 to 1000000000",
    ],
    [model({ fast_multiplier: 0.5 }), `models.m.fast_multiplier: ${fastRule}`],
    [model({ fast_multiplier: 2.001 }), `models.m.fast_multiplier: ${fastRule}`],
    [model({ us_surcharge: "no" }), "models.m.us_surcharge: must be true or false"],
    [
      list({ rates: [RATE] }, { batch_multiplier: 0 }),
      "batch_multiplier: must be above 0 and at most 1, with at most 2 decimals",
    ],
    [
      list({ rates: [RATE] }, { batch_multiplier: 1.5 }),
      "batch_multiplier: must be above 0 and at most 1, with at most 2 decimals",
    ],
    [list({ rates: [RATE] }, { inference_geo_us_multiplier: 0.9 }), `inference_geo_us_multiplier: ${fastRule}`],
    [
      list({ rates: [RATE] }, { web_search_request_usd: 0 }),
      "web_search_request_usd: must be above 0 and at most 1 USD, with at most 6 decimals",
    ],
    [
      list({ rates: [RATE] }, { web_search_request_usd: -1 }),
      "web_search_request_usd: must be above 0 and at most 1 USD, with at most 6 decimals",
    ],
    [
      list({ rates: [RATE] }, { models: { "Claude-X": { rates: [RATE] } } }),
      "models.Claude-X: must be a model id in lower case",
    ],
    [list({ rates: [RATE] }, { models: { "": { rates: [RATE] } } }), "models.: must be a model id in lower case"],
    [
      JSON.parse(JSON.stringify(model({})).replace('"m":', '"m":{"rates":[]},"__proto__":')),
      "models.m.rates: must hold a rate",
    ],
    [
      JSON.parse(JSON.stringify(model({})).replace('"m":', `"n":{"rates":[${JSON.stringify(RATE)}]},"__proto__":`)),
      "models.__proto__: must be a model id in lower case",
    ],
  ])("refuses %j", (value, problem) => {
    expect(problemOf(value)).toBe(problem);
  });

  it("tells everything that is wrong at once, and cuts made-up names short", () => {
    const long = "x".repeat(5_000);
    const problem = problemOf(list({ rates: [{ ...RATE, input: "1", [long]: 1 }], [long]: 1 })) ?? "";
    expect(problem.split("; ").sort()).toEqual(
      [
        `models.m.rates.0.input: ${priceRule}`,
        `models.m.rates.0.${"x".repeat(64)}: unknown field`,
        `models.m.${"x".repeat(64)}: unknown field`,
      ].sort(),
    );
  });

  it("holds a thousand models and no more", () => {
    const many = (count: number) => ({
      ...model({}),
      models: Object.fromEntries(Array.from({ length: count }, (_, i) => [`m-${i}`, { rates: [RATE] }])),
    });
    expect(problemOf(many(1_000))).toBeNull();
    expect(problemOf(many(1_001))).toBe("models: must not hold more than 1000");
  });

  it("never throws, and what it takes has a price for every moment (2,000 runs)", () => {
    const price = fc.oneof(
      { weight: 20, arbitrary: fc.constantFrom(0.001, 0.125, 4) },
      fc.constantFrom(0, -1, 1e9),
      fc.double(),
      fc.string(),
    );
    const moment = fc.option(fc.constantFrom(JUNE, JULY, "2026-08-01T00:00:00Z", "soon"), { nil: undefined, freq: 1 });
    const rate = fc.record(
      {
        from: moment,
        until: moment,
        input: fc.constantFrom(4, 0.5, 1),
        output: price,
        cache_read: fc.constant(1),
        cache_write_5m: fc.constant(1),
        cache_write_1h: fc.constant(2),
      },
      { noNullPrototype: true },
    );
    let taken = 0;
    fc.assert(
      fc.property(
        fc.oneof(
          fc.anything(),
          fc.record({ rates: fc.array(rate, { maxLength: 3 }) }).map((m) => JSON.parse(JSON.stringify(list(m)))),
        ),
        fc.date({ noInvalidDate: true }),
        (value, at) => {
          const parsed = parsePriceList(value);
          if (!parsed.ok) return;
          taken++;
          for (const id of ["m", "unknown"]) {
            expect(
              costMicroUsd(parsed.value, id, { ...emptyUsage(), inputTokens: 1_000 }, at.getTime()),
            ).toBeGreaterThan(0);
          }
        },
      ),
      { numRuns: 2000 },
    );
    expect(taken).toBeGreaterThan(50);
  });
});
