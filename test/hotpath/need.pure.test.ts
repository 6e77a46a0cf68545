/** What is set aside for a request: a strict budget's worst case covers everything that the body tells. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { guess, needOf } from "../../src/hotpath/need.ts";
import type { Rules } from "../../src/identity/key-record.ts";
import type { Usual } from "../../src/ledger/protocol.ts";
import { builtInPrices } from "../../src/wire/anthropic/price-list.ts";
import { costMicroUsd } from "../../src/wire/anthropic/prices.ts";
import { extrasOf, modelsOf, type RequestFacts, readRequestFacts } from "../../src/wire/anthropic/request.ts";
import { emptyUsage, type Usage } from "../../src/wire/anthropic/usage.ts";

const RUNS = 2_000;
const AT = Date.UTC(2026, 10, 21);
const prices = builtInPrices();
const FRESH: Usual = { inputRatio: 1, promptRatio: 1, outputTokens: 1_000, costRatio: 1 };
const strict: Rules = { id: "k", version: 1, limits: {}, budget: { micro_usd: 1e9, period: "day", mode: "strict" } };

function read(body: Record<string, unknown>): RequestFacts {
  const facts = readRequestFacts(new TextEncoder().encode(JSON.stringify({ model: "claude-opus-5-5", ...body })));
  if (!facts.ok) throw new Error("refused");
  return facts.value;
}

function reserved(body: Record<string, unknown>, usual = FRESH): number {
  const facts = read(body);
  return needOf(strict, facts, guess(facts, usual, prices, AT), usual, prices, AT).microUsd;
}

/** An answer that uses all it may: each prompt token a cache write of an hour, and all of `max_tokens`. */
function dearest(bytes: number, maxTokens: number, more: Partial<Usage> = {}): Usage {
  const cacheWrite1hTokens = Math.floor(bytes / 2.4);
  return { ...emptyUsage(), cacheWrite1hTokens, outputTokens: maxTokens, ...more };
}

describe("B-03 a strict reservation", () => {
  it(`is never less than what the answer costs, with whatever speed, place, searches and fallbacks (${RUNS} runs)`, () => {
    fc.assert(
      fc.property(
        fc.record({
          model: fc.constantFrom(
            "claude-opus-5-5",
            "claude-haiku-5-5",
            "claude-sonnet-5-5",
            "claude-opus-4-8",
            "unheard-of",
          ),
          max_tokens: fc.integer({ min: 0, max: 200_000 }),
          speed: fc.constantFrom(undefined, null, "standard", "fast", "faster"),
          inference_geo: fc.constantFrom(undefined, null, "global", "us", "eu"),
          searches: fc.integer({ min: 0, max: 20 }),
          fallback: fc.constantFrom(undefined, "claude-fable-5"),
          system: fc.integer({ min: 0, max: 400_000 }).map((n) => "x".repeat(n)),
          promptRatio: fc.double({ min: 0.01, max: 20, noNaN: true }),
        }),
        ({ searches, fallback, promptRatio, ...fields }) => {
          const body = {
            ...fields,
            tools: [{ type: "web_search_20250305", name: "web_search", max_uses: searches }],
            ...(fallback ? { fallbacks: [{ model: fallback }] } : {}),
          };
          const facts = read(body);
          const answer = dearest(facts.bytes, fields.max_tokens, {
            webSearchRequests: searches,
            speed: fields.speed === "fast" ? "fast" : "standard",
            inferenceGeo: fields.inference_geo === "global" ? "global" : "us",
          });
          const passes = fallback ? [fields.model, fallback] : [fields.model];
          const cost = passes.reduce((sum, model, i) => {
            return sum + costMicroUsd(prices, model, i === 0 ? answer : { ...answer, webSearchRequests: 0 }, AT);
          }, 0);
          expect(reserved(body, { ...FRESH, promptRatio })).toBeGreaterThanOrEqual(cost);
        },
      ),
      { numRuns: RUNS },
    );
  });

  const plain = { max_tokens: 10_000, inference_geo: "global" };
  it.each([
    ["fast mode doubles it", { speed: "fast" }, 2],
    ["a speed nobody knows too", { speed: "turbo" }, 2],
    ["the US cost a tenth more", { inference_geo: "us" }, 1.1],
    ["a request that names no place may run there", { inference_geo: null }, 1.1],
    ["both", { speed: "fast", inference_geo: "us" }, 2.2],
    ["a compaction is another pass", { context_management: { edits: [{ type: "compact_20260112" }] } }, 2],
    ["so is an advisor's answer", { tools: [{ type: "advisor_20260301", model: "claude-opus-5-5" }] }, 2],
    ["and each fallback", { fallbacks: ["claude-opus-5-5", { model: "claude-opus-5-5" }] }, 3],
    ["tools of other kinds cost nothing more", { tools: [{ name: "web_search", description: "my own" }] }, 1],
  ])("%s", (_, fields, factor) => {
    // Beside 10,000 tokens of output the few bytes of the fields themselves are nothing.
    expect(reserved({ ...plain, ...fields }) / reserved(plain)).toBeCloseTo(factor, 1);
  });

  it("sets a search tool's searches aside, ten where it does not say", () => {
    const searches = (tool: object) => extrasOf(read({ tools: [tool] })).webSearches;
    expect(searches({ type: "web_search_20250305", max_uses: 3 })).toBe(3);
    expect(searches({ type: "web_search_20260209" })).toBe(10);
    expect(searches({ type: "web_search_20250305", max_uses: 1e9 })).toBe(100);
    expect(searches({ type: "web_search_20250305", max_uses: -1 })).toBe(10);
    expect(searches({ type: "web_fetch_20250910" })).toBe(0);
    // In whatever spelling.
    const bytes = new TextEncoder().encode('{"model":"m","tools":[{"type":"web\\u005fsearch_20250305","max_uses":2}]}');
    const facts = readRequestFacts(bytes);
    expect(facts.ok && extrasOf(facts.value).webSearches).toBe(2);
  });

  it("takes odd shapes for what they are", () => {
    for (const tools of [7, null, "web_search", {}, [null, 7, "web_search_1", [], { type: 7, a: "web_search" }]]) {
      expect(extrasOf(read({ tools })).webSearches).toBe(0);
    }
    expect(extrasOf(read({ fallbacks: [{}, null, 7] })).passes).toEqual(Array(3).fill("claude-opus-5-5"));
    expect(extrasOf(read({ compaction: null })).passes).toEqual([]);
    for (const body of ['"speed":"fast","speed":"standard"', '"inference_geo":1,"inference_geo":"us"']) {
      expect(readRequestFacts(new TextEncoder().encode(`{"model":"m",${body}}`)).ok).toBe(false);
    }
  });

  it("names every model that a request may put to work", () => {
    const advisor = { type: "advisor_20260301", name: "advisor", model: "claude-fable-5" };
    const models = (fields: Record<string, unknown>) => [...modelsOf(read(fields))].slice(1);
    expect(models({})).toEqual([]);
    expect(models({ tools: [{ ...advisor, max_uses: 0 }], fallbacks: [{ model: "a" }, "b", {}, null, 7] })).toEqual([
      ...["claude-fable-5", "a", "b"],
    ]);
    expect(models({ fallbacks: Array(150).fill("a") })).toHaveLength(150);
    expect(models({ tools: [{ ...advisor, model: 7 }, { name: "advisor", model: "mine" }, null, 7] })).toEqual([]);
    const escaped = '{"model":"m","tools":[{"\\u0074ype":"\\u0061dvisor_1","model":"n"}]}';
    const facts = readRequestFacts(new TextEncoder().encode(escaped));
    expect(facts.ok && [...modelsOf(facts.value)]).toEqual(["m", "n"]);
    expect(readRequestFacts(new TextEncoder().encode('{"model":"m","tools":[],"tools":[]}')).ok).toBe(false);
  });

  it("is not made smaller by what its key has shown before", () => {
    const body = { ...plain, system: "x".repeat(100_000) };
    expect(reserved(body, { ...FRESH, promptRatio: 0.01 })).toBe(reserved(body));
    expect(reserved(body, { ...FRESH, promptRatio: 2 })).toBeGreaterThan(1.4 * reserved(body));
  });
});
