import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  type BudgetState,
  deniedHeaders,
  type HeaderFields,
  type LimitState,
  limitHeaders,
  type Meter,
  spentHeaders,
  tightest,
} from "../../src/wire/anthropic/limit-headers.ts";

const RUNS = 2_000;
const NOW = Date.UTC(2026, 10, 21, 9, 30, 0, 250);
const MIDNIGHT = Date.UTC(2026, 10, 22);
const NOTHING: LimitState = { requests: null, inputTokens: null, outputTokens: null, budget: null };
const NOT_ON_A_429 = ["anthropic-ratelimit-unified-representative-claim", "anthropic-ratelimit-unified-overage-status"];

const budgetOf = (change: Partial<BudgetState> = {}): BudgetState => ({
  limitMicroUsd: 1_000_000,
  spentMicroUsd: 0,
  reservedMicroUsd: 0,
  period: "day",
  resetsAt: MIDNIGHT,
  ...change,
});
const short = (headers: HeaderFields): HeaderFields =>
  Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.replace("anthropic-ratelimit-", ""), value]));
const spending = (spentMicroUsd: number): HeaderFields =>
  short(limitHeaders({ ...NOTHING, budget: budgetOf({ spentMicroUsd }) }, NOW));

describe("limitHeaders: buckets", () => {
  const state: LimitState = {
    requests: { limit: 50, remaining: 49, fullAt: NOW + 1_200 },
    inputTokens: { limit: 40_000, remaining: 39_000, fullAt: NOW + 1_500 },
    outputTokens: { limit: 8_000, remaining: 8_000, fullAt: NOW },
    budget: null,
  };

  it("says limit, what is left and when the bucket is full, in the API's own names", () => {
    expect(short(limitHeaders(state, NOW))).toEqual({
      "requests-limit": "50",
      "requests-remaining": "49",
      "requests-reset": "2026-11-21T09:30:02Z",
      "tokens-limit": "40000",
      "tokens-remaining": "39000",
      "tokens-reset": "2026-11-21T09:30:02Z",
      "input-tokens-limit": "40000",
      "input-tokens-remaining": "39000",
      "input-tokens-reset": "2026-11-21T09:30:02Z",
      "output-tokens-limit": "8000",
      "output-tokens-remaining": "8000",
      "output-tokens-reset": "2026-11-21T09:30:01Z",
    });
  });

  it("says nothing of what is not limited", () => {
    expect(limitHeaders(NOTHING, NOW)).toEqual({});
    expect(Object.keys(short(limitHeaders({ ...state, inputTokens: null, requests: null }, NOW)))).toEqual([
      "tokens-limit",
      "tokens-remaining",
      "tokens-reset",
      "output-tokens-limit",
      "output-tokens-remaining",
      "output-tokens-reset",
    ]);
  });

  it("writes to the headers at hand, if there are any", () => {
    const headers = { "request-id": "req_1" };
    expect(limitHeaders(state, NOW, headers)).toBe(headers);
    expect(headers).toMatchObject({ "request-id": "req_1", "anthropic-ratelimit-requests-limit": "50" });
  });

  it("takes for `tokens` the bucket with the smaller share left", () => {
    const outputTokens: Meter = { limit: 8_000, remaining: 1_000, fullAt: NOW + 50_000 };
    expect(short(limitHeaders({ ...state, outputTokens }, NOW))["tokens-limit"]).toBe("8000");
    const inputTokens: Meter = { limit: 1_000_000, remaining: 10_000, fullAt: NOW + 50_000 };
    expect(short(limitHeaders({ ...state, inputTokens, outputTokens }, NOW))["tokens-limit"]).toBe("1000000");
  });

  it(`never says less than nothing, and writes every second as RFC 3339 (${RUNS} runs)`, () => {
    const at = fc.integer({ min: 0, max: 4_102_444_800_000 });
    fc.assert(
      fc.property(at, fc.integer({ min: -10_000_000, max: 100_000_000 }), fc.integer(), (now, ahead, remaining) => {
        const requests: Meter = { limit: 10, remaining, fullAt: now + ahead };
        const headers = short(limitHeaders({ ...NOTHING, requests }, now));
        expect(Number(headers["requests-remaining"])).toBe(Math.max(0, remaining));
        const full = Math.max(now, now + ahead);
        const reset = headers["requests-reset"] ?? "";
        expect(reset).toBe(`${new Date(Math.ceil(full / 1000) * 1000).toISOString().slice(0, 19)}Z`);
        expect(Date.parse(reset)).toBeGreaterThanOrEqual(full);
      }),
      { numRuns: RUNS },
    );
  });
});

describe("limitHeaders: a budget", () => {
  it.each([
    [0, "0.00", "allowed", undefined],
    [4_000, "0.00", "allowed", undefined],
    [90_000, "0.09", "allowed", undefined],
    [500_000, "0.50", "allowed", undefined],
    [749_000, "0.75", "allowed", undefined],
    [749_999, "0.75", "allowed", undefined],
    [750_000, "0.75", "allowed_warning", "0.75"],
    [820_000, "0.82", "allowed_warning", "0.75"],
    [949_000, "0.95", "allowed_warning", "0.75"],
    [950_000, "0.95", "allowed_warning", "0.95"],
    [999_999, "0.99", "allowed_warning", "0.95"],
    // Spent while this answer was on its way, or a call that no budget blocks: it was allowed all the same.
    [1_000_000, "0.99", "allowed_warning", "0.95"],
    [5_000_000, "0.99", "allowed_warning", "0.95"],
  ])("%i of 1,000,000 µUSD is %s, %s, past %s", (spent, utilization, status, threshold) => {
    expect(spending(spent)).toEqual({
      "unified-status": status,
      "unified-representative-claim": "overage",
      "unified-overage-status": status,
      "unified-overage-utilization": utilization,
      ...(threshold === undefined ? {} : { "unified-overage-surpassed-threshold": threshold }),
      "unified-reset": String(MIDNIGHT / 1000),
      "unified-overage-reset": String(MIDNIGHT / 1000),
    });
  });

  it("does not count what is only reserved", () => {
    const budget = budgetOf({ spentMicroUsd: 100_000, reservedMicroUsd: 900_000 });
    expect(short(limitHeaders({ ...NOTHING, budget }, NOW))["unified-overage-utilization"]).toBe("0.10");
  });

  it("of nothing is used up, and one without a period has no reset", () => {
    const budget = budgetOf({ limitMicroUsd: 0, period: "total", resetsAt: null });
    expect(short(limitHeaders({ ...NOTHING, budget }, NOW))).toEqual({
      "unified-status": "allowed_warning",
      "unified-representative-claim": "overage",
      "unified-overage-status": "allowed_warning",
      "unified-overage-utilization": "0.99",
      "unified-overage-surpassed-threshold": "0.95",
    });
  });

  it(`never reads 1 or more while allowed, and warns from three quarters on (${RUNS} runs)`, () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 1e13 }), fc.double({ min: 0, max: 3, noNaN: true }), (limit, share) => {
        const spentMicroUsd = Math.floor(limit * share);
        const budget = budgetOf({ limitMicroUsd: limit, spentMicroUsd });
        const headers = short(limitHeaders({ ...NOTHING, budget }, NOW));
        const utilization = headers["unified-overage-utilization"] ?? "";
        expect(utilization).toMatch(/^0\.\d\d$/);
        expect(Math.abs(Number(utilization) - Math.min(spentMicroUsd / limit, 0.99))).toBeLessThanOrEqual(0.0101);
        const threshold = headers["unified-overage-surpassed-threshold"];
        const expected =
          spentMicroUsd * 20 >= limit * 19 ? "0.95" : spentMicroUsd * 4 >= limit * 3 ? "0.75" : undefined;
        expect(threshold).toBe(expected);
        expect(headers["unified-status"]).toBe(threshold ? "allowed_warning" : "allowed");
      }),
      { numRuns: RUNS },
    );
  });
});

describe("a 429", () => {
  it("carries the buckets, and nothing that Claude Code would read as a used-up budget", () => {
    const requests: Meter = { limit: 5, remaining: 0, fullAt: NOW };
    const names = Object.keys(deniedHeaders({ ...NOTHING, requests, budget: budgetOf() }, NOW));
    expect(names).toEqual([
      "anthropic-ratelimit-requests-limit",
      "anthropic-ratelimit-requests-remaining",
      "anthropic-ratelimit-requests-reset",
    ]);
  });

  it.each([
    ["day", "daily"],
    ["week", "weekly"],
    ["month", "monthly"],
  ] as const)("for a used-up budget per %s is the reference's, to the letter", (period, word) => {
    expect(short(spentHeaders(budgetOf({ period, spentMicroUsd: 1_000_000 }), "key"))).toEqual({
      "unified-status": "rejected",
      "unified-reset": String(MIDNIGHT / 1000),
      "unified-overage-reset": String(MIDNIGHT / 1000),
      "unified-overage-utilization": "1",
      "unified-overage-surpassed-threshold": "1",
      "unified-overage-period": word,
      "unified-overage-disabled-reason": "org_spend_cap_reached",
    });
  });

  it("for a budget of the workspace says that it is not the caller's own", () => {
    const spent = budgetOf({ spentMicroUsd: 1_030_000, period: "total", resetsAt: null });
    expect(short(spentHeaders(spent, "workspace"))).toEqual({
      "unified-status": "rejected",
      "unified-overage-utilization": "1.03",
      "unified-overage-surpassed-threshold": "1",
      "unified-overage-scope": "group_pool",
      "unified-overage-disabled-reason": "org_spend_cap_reached",
    });
  });

  it("for one request that did not fit holds nothing against the next", () => {
    expect(short(spentHeaders(budgetOf({ spentMicroUsd: 999_999 }), "key"))).toEqual({
      "unified-reset": String(MIDNIGHT / 1000),
      "unified-overage-reset": String(MIDNIGHT / 1000),
      "unified-overage-disabled-reason": "org_spend_cap_reached",
    });
  });

  it("never brings what would replace its message", () => {
    for (const spentMicroUsd of [0, 999_999, 1_000_000]) {
      const names = Object.keys(spentHeaders(budgetOf({ spentMicroUsd }), "workspace"));
      for (const name of NOT_ON_A_429) expect(names).not.toContain(name);
    }
  });
});

describe("tightest", () => {
  const meter = (limit: number, remaining: number): Meter => ({ limit, remaining, fullAt: NOW });
  it("takes of each kind the one that ends first", () => {
    const key: LimitState = {
      requests: meter(100, 7),
      inputTokens: meter(100, 50),
      outputTokens: null,
      budget: budgetOf({ spentMicroUsd: 400_000 }),
    };
    const workspace: LimitState = {
      requests: meter(1_000, 6),
      inputTokens: meter(1_000, 50),
      outputTokens: meter(10, 1),
      budget: budgetOf({ limitMicroUsd: 10_000_000, spentMicroUsd: 9_000_000 }),
    };
    expect(tightest(key, workspace)).toEqual({
      requests: workspace.requests,
      inputTokens: key.inputTokens,
      outputTokens: workspace.outputTokens,
      budget: workspace.budget,
    });
    expect(tightest(workspace, key)).toEqual(tightest(key, workspace));
    expect(tightest(key, null)).toBe(key);
    expect(tightest(key, NOTHING)).toEqual(key);
    expect(tightest(NOTHING, key)).toEqual(key);
  });
});
