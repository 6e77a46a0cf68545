import { describe, expect, it } from "vitest";
import { costMicroUsd, pricesOf } from "../../src/wire/anthropic/prices.ts";
import { emptyUsage, type Usage } from "../../src/wire/anthropic/usage.ts";

const NOW = Date.parse("2026-11-21T00:00:00Z");
const usage = (fields: Partial<Usage>): Usage => ({ ...emptyUsage(), ...fields });

describe("costMicroUsd", () => {
  it.each<[string, string, Partial<Usage>, number]>([
    ["input and output", "claude-opus-5-5", { inputTokens: 1000, outputTokens: 500 }, 1000 * 4 + 500 * 20],
    ["cache writes of both lifetimes", "claude-opus-5-5", { cacheWrite5mTokens: 100, cacheWrite1hTokens: 100 }, 1300],
    ["cache reads at a twentieth", "claude-opus-5-5", { cacheReadTokens: 10_000 }, 2000],
    ["cache reads at a fortieth", "claude-fable-5-2", { cacheReadTokens: 1000 }, 200],
    ["a dated id", "claude-haiku-4-5-20251001", { inputTokens: 10, outputTokens: 10 }, 60],
    ["haiku 5.5 at the band's edge", "claude-haiku-5-5", { inputTokens: 100_000, outputTokens: 1000 }, 10_500],
    [
      "haiku 5.5 one token beyond: the whole request",
      "claude-haiku-5-5",
      { inputTokens: 100_001, outputTokens: 1000 },
      52_501,
    ],
    ["the band counts cached input too", "claude-haiku-5-5", { inputTokens: 1, cacheReadTokens: 100_000 }, 5001],
    ["rounding half up, once", "claude-haiku-5-5", { inputTokens: 5 }, 1],
    ["fast mode", "claude-opus-5-5", { inputTokens: 100, outputTokens: 10, speed: "fast" }, 1200],
    ["fast mode where it costs nothing more", "claude-sonnet-5-5", { inputTokens: 100, speed: "fast" }, 200],
    ["inference in the US", "claude-opus-5-5", { inputTokens: 100, inferenceGeo: "us" }, 440],
    ["inference in the US before 4.6", "claude-opus-4-5", { inputTokens: 100, inferenceGeo: "us" }, 500],
    ["global inference", "claude-opus-5-5", { inputTokens: 100, inferenceGeo: "global" }, 400],
    ["the batch discount", "claude-opus-5-5", { inputTokens: 101, serviceTier: "batch" }, 202],
    ["batch and US together", "claude-opus-5-5", { inputTokens: 1000, serviceTier: "batch", inferenceGeo: "us" }, 2200],
    ["web searches, undiscounted", "claude-opus-5-5", { webSearchRequests: 3, serviceTier: "batch" }, 30_000],
    ["web fetches are free", "claude-opus-5-5", { webFetchRequests: 3 }, 0],
    ["thinking is inside the output", "claude-opus-5-5", { outputTokens: 40, thinkingTokens: 31 }, 800],
    [
      "a compaction pass beside the message",
      "claude-opus-5-5",
      {
        inputTokens: 120,
        outputTokens: 33,
        extraPasses: [
          {
            model: null,
            inputTokens: 150_500,
            outputTokens: 900,
            cacheWrite5mTokens: 0,
            cacheWrite1hTokens: 0,
            cacheReadTokens: 0,
          },
        ],
      },
      120 * 4 + 33 * 20 + 150_500 * 4 + 900 * 20,
    ],
    ["nothing", "claude-opus-5-5", {}, 0],
  ])("prices %s", (_name, model, fields, expected) => {
    expect(costMicroUsd(model, usage(fields), NOW)).toBe(expected);
  });

  it("uses the rate that was valid at the time", () => {
    const read = usage({ cacheReadTokens: 1_000_000 });
    expect(costMicroUsd("claude-sonnet-5-5", read, Date.parse("2026-10-06T23:59:59.999Z"))).toBe(200_000);
    expect(costMicroUsd("claude-sonnet-5-5", read, Date.parse("2026-10-07T00:00:00Z"))).toBe(100_000);
  });

  it.each([
    ["claude-opus-9", "claude-opus-5"],
    ["claude-haiku-9-1", "claude-haiku-4-5"],
    ["anthropic.claude-3-5-sonnet-20241022-v2:0", "claude-sonnet-4-6"],
  ])("prices the unknown %s like the dearest of its family", (model, like) => {
    const used = usage({ inputTokens: 1000, outputTokens: 1000 });
    expect(pricesOf(model).known).toBe(false);
    expect(costMicroUsd(model, used, NOW)).toBe(costMicroUsd(like, used, NOW));
  });

  it("prices a model of no known family like the dearest of all, and prototype names are no models", () => {
    for (const model of ["gpt-7", "constructor", "__proto__", ""]) {
      expect(costMicroUsd(model, usage({ outputTokens: 1_000_000 }), NOW)).toBe(50_000_000);
    }
  });
});
