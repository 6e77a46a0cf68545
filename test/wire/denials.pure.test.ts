import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { BudgetState } from "../../src/wire/anthropic/limit-headers.ts";
import { describeFailure, type Failure } from "../../src/wire/errors.ts";

const RUNS = 1_000;
const MIDNIGHT = Date.UTC(2026, 10, 22);
const DAY_MS = 86_400_000;

describe("a rate limit", () => {
  it.each([
    ["requests", "key", 50, "This key's limit of 50 requests per minute is reached."],
    ["input_tokens", "workspace", 40_000, "This workspace's limit of 40000 input tokens per minute is reached."],
    ["output_tokens", "key", 8_000, "This key's limit of 8000 output tokens per minute is reached."],
    ["concurrency", "workspace", 5, "This workspace's limit of 5 concurrent requests is reached."],
  ] as const)("of %s of a %s says which, how much and when to come back", (limit, scope, figure, message) => {
    expect(describeFailure({ kind: "rate_limited", limit, scope, figure, retryAfterMs: 1_200 })).toEqual({
      status: 429,
      type: "rate_limit_error",
      message,
      headers: { "retry-after": "2" },
    });
  });

  it.each(["key", "workspace"] as const)(
    "R-04: a request larger than the %s's bucket is refused for good, with both figures",
    (scope) => {
      const { status, type, message, headers } = describeFailure({
        kind: "exceeds_bucket",
        limit: "input_tokens",
        scope,
        needed: 1_000_000,
        capacity: 100_000,
      });
      expect([status, type]).toEqual([429, "rate_limit_error"]);
      expect(message).toMatch(/^Request exceeds bucket size: it needs 1000000 input tokens/);
      expect(message).toContain(`this ${scope}'s limit never holds more than 100000.`);
      expect(headers).toEqual({ "x-should-retry": "false" });
    },
  );
});

type OverBudget = Extract<Failure, { kind: "over_budget" }>;
const overBudget = (budget: Partial<BudgetState>, change: Partial<OverBudget> = {}): OverBudget => ({
  kind: "over_budget",
  scope: "key",
  mode: "strict",
  budget: {
    limitMicroUsd: 5_000_000,
    spentMicroUsd: 5_020_000,
    reservedMicroUsd: 0,
    period: "day",
    resetsAt: MIDNIGHT,
    ...budget,
  },
  neededMicroUsd: 2_560_000,
  retryAfterMs: 37_799_001,
  ...change,
});

describe("a budget", () => {
  it("that is used up is told in the words whose reset Claude Code shows in local time", () => {
    const { status, type, message, headers } = describeFailure(overBudget({}));
    expect([status, type]).toEqual([429, "billing_error"]);
    expect(message).toBe(
      "spend limit reached · resets Nov 22 · this key's budget of $5.00 per day (UTC) is used up: $5.02 spent",
    );
    expect(headers).toMatchObject({
      "retry-after": "37800",
      "x-should-retry": "false",
      "anthropic-ratelimit-unified-status": "rejected",
    });
  });

  it(`writes every day as that client does, or it would not find it (${RUNS} runs)`, () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 40_000 }), (day) => {
        const end = new Date(day * DAY_MS);
        const written = end.toLocaleDateString("en-US", { month: "short", day: "numeric", timeZone: "UTC" });
        const { message } = describeFailure(overBudget({ resetsAt: day * DAY_MS }));
        expect(message.split(" · ").slice(0, 2)).toEqual(["spend limit reached", `resets ${written}`]);
      }),
      { numRuns: RUNS },
    );
  });

  it("without a period has neither reset nor retry-after, and is never worth a retry", () => {
    const { message, headers } = describeFailure(
      overBudget({ period: "total", resetsAt: null }, { retryAfterMs: null, scope: "workspace" }),
    );
    expect(message).toBe("spend limit reached · this workspace's budget of $5.00 in total is used up: $5.02 spent");
    expect(headers["retry-after"]).toBeUndefined();
    expect(headers["x-should-retry"]).toBe("false");
    expect(headers["anthropic-ratelimit-unified-overage-scope"]).toBe("group_pool");
  });

  it("that a strict request does not fit says what it needs at most and what is left", () => {
    const { message, headers } = describeFailure(
      overBudget({ spentMicroUsd: 3_400_000, reservedMicroUsd: 1_200_400, period: "month" }),
    );
    expect(message).toBe(
      "This request does not fit: it may cost up to $2.56, and $0.3996 is left of this key's budget of $5.00 per month (UTC)" +
        " · $3.40 spent, $1.2004 reserved by running requests · resets Nov 22 · a smaller max_tokens may fit",
    );
    expect(headers["x-should-retry"]).toBe("false");
    expect(headers["anthropic-ratelimit-unified-status"]).toBeUndefined();
  });

  it("that only running requests stand in the way of is told to come back in a moment, and says so", () => {
    for (const [change, needed] of [
      [{ mode: "strict", neededMicroUsd: 1_600_000 }, "may cost up to $1.60"],
      [{ mode: "soft", neededMicroUsd: 9_600_000 }, "would usually cost $9.60"],
    ] as const) {
      const { type, message, headers } = describeFailure(
        overBudget({ spentMicroUsd: 3_400_000, reservedMicroUsd: 1_600_000 }, { ...change, retryAfterMs: 1_000 }),
      );
      expect(type).toBe("billing_error");
      expect(message).toContain(`This request does not fit: it ${needed}, and $0.00 is left`);
      expect(message).toContain("$1.60 reserved by running requests · worth another try when some of them have ended");
      expect(headers).toEqual({ "retry-after": "1", "x-should-retry": "false" });
    }
    // One µUSD more can't fit in this period, whatever comes back.
    const { headers } = describeFailure(
      overBudget({ spentMicroUsd: 3_400_000, reservedMicroUsd: 1_600_000 }, { neededMicroUsd: 1_600_001 }),
    );
    expect(headers["x-should-retry"]).toBe("false");
  });

  it("in soft mode speaks of the usual cost", () => {
    expect(
      describeFailure(overBudget({ spentMicroUsd: 4_999_999 }, { mode: "soft", neededMicroUsd: 30_001 })).message,
    ).toBe(
      "This request does not fit: it would usually cost $0.030001, and $0.000001 is left of this key's budget of" +
        " $5.00 per day (UTC) · $4.999999 spent · resets Nov 22",
    );
  });
});
