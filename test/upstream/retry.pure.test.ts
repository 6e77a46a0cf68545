/** What is retried, after how long, and how often at the most. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { backoffMs, best, judge, RetryBudget, retryAfterMs } from "../../src/upstream/retry.ts";

const NOW = Date.parse("2026-11-21T12:00:00Z");
const headers = (fields: Record<string, string>): Headers => new Headers(fields);

describe("retry-after (F-02)", () => {
  it.each([
    [{ "retry-after": "2" }, 2_000],
    [{ "retry-after": "0.4" }, 400],
    [{ "retry-after": " 3 " }, 3_000],
    [{ "retry-after-ms": "150" }, 150],
    [{ "retry-after-ms": "150", "retry-after": "40" }, 150],
    [{ "retry-after-ms": "soon", "retry-after": "40" }, 40_000],
    [{ "retry-after": "Sat, 21 Nov 2026 12:00:30 GMT" }, 30_000],
    [{ "retry-after": "Sat, 21 Nov 2026 11:59:30 GMT" }, null],
    [{ "retry-after": "Fri, 31 Dec 9999 23:59:59 GMT" }, 60_000],
    [{ "retry-after": "60" }, 60_000],
    [{ "retry-after": "61" }, 60_000],
    [{ "retry-after": "99999999" }, 60_000],
    [{ "retry-after": "0" }, null],
    [{ "retry-after": "-1" }, null],
    [{ "retry-after": "abc" }, null],
    [{ "retry-after": "" }, null],
    [{ "retry-after": "1e3" }, null],
    [{ "retry-after": "0x10" }, null],
    [{ "retry-after": "1, 2" }, null],
    [{ "retry-after": "Infinity" }, null],
    [{}, null],
  ])("%j is %s ms", (fields, ms) => {
    expect(retryAfterMs(headers(fields as Record<string, string>), NOW)).toBe(ms);
  });

  it("is nothing, or more than 0 and a minute at the most, whatever they say", () => {
    const value = fc.oneof(
      fc.string({ unit: fc.constantFrom(..."0123456789.-+eExX ,:GMTabc") }),
      fc.double().map(String),
      fc.date({ noInvalidDate: true }).map((date) => date.toUTCString()),
    );
    fc.assert(
      fc.property(value, value, fc.boolean(), (one, other, both) => {
        const ms = retryAfterMs(headers({ "retry-after": one, ...(both ? { "retry-after-ms": other } : {}) }), NOW);
        if (ms !== null) {
          expect(ms).toBeGreaterThan(0);
          expect(ms).toBeLessThanOrEqual(60_000);
        }
      }),
    );
  });
});

describe("the verdict on an answer", () => {
  const verdict = (status: number, fields: Record<string, string> = {}) =>
    judge({ kind: "answer", status, headers: headers(fields) }, NOW);

  it.each([
    [400, "no"],
    [405, "no"],
    [413, "no"],
    [422, "no"],
    [401, "elsewhere"],
    [402, "elsewhere"],
    [403, "elsewhere"],
    [404, "elsewhere"],
    [429, "elsewhere"],
    [408, "again"],
    [409, "again"],
    [500, "again"],
    [503, "again"],
    [529, "again"],
    [599, "again"],
  ])("%i is retried: %s", (status, retry) => {
    expect(verdict(status).retry).toBe(retry);
  });

  it("obeys x-should-retry both ways, and never tries a success again (F-06)", () => {
    fc.assert(
      fc.property(fc.integer({ min: 200, max: 599 }), (status) => {
        expect(verdict(status, { "x-should-retry": "false" }).retry).toBe("no");
        const told = verdict(status, { "x-should-retry": "true" });
        if (status < 400) expect(told.retry).toBe("no");
        else expect(told.retry).not.toBe("no");
        // What it says of the upstream stays, whatever is to be done with the call.
        expect(verdict(status, { "x-should-retry": "false" }).blame).toBe(verdict(status).blame);
      }),
    );
  });

  it("cools a limited upstream for as long as it says, else for a second", () => {
    expect(verdict(429, { "retry-after": "2" })).toMatchObject({ blame: "cooling", coolMs: 2_000 });
    expect(verdict(429, { "retry-after": "-5" })).toMatchObject({ blame: "cooling", coolMs: 1_000 });
    expect(verdict(429)).toMatchObject({ blame: "cooling", coolMs: 1_000 });
  });
});

it("a pause has full jitter: anything from nothing to 250 ms, doubled each time, up to 4 s (F-03)", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 2, max: 50 }),
      fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
      (next, random) => {
        const most = Math.min(4_000, 250 * 2 ** (next - 2));
        expect(backoffMs(next, random)).toBeCloseTo(random * most, 6);
      },
    ),
  );
});

it("the failure that is told is the last 429, else the last refusal, else the last one (F-29)", () => {
  const status = fc.constantFrom(400, 401, 402, 403, 404, 429, 500, 502, 504, 529);
  fc.assert(
    fc.property(fc.array(status, { minLength: 1, maxLength: 10 }), (statuses) => {
      const failures = statuses.map((one, n) => ({ status: one, n }));
      const told = best(failures);
      const of = (...which: number[]) => failures.filter((failure) => which.includes(failure.status)).at(-1);
      expect(told).toBe(of(429) ?? of(401, 403) ?? failures.at(-1));
    }),
  );
  expect(best([])).toBeUndefined();
});

describe("the retry budget (F-30)", () => {
  it("gives no more than a handful, a tenth of the requests and one a second between successes, and nothing for a clock that steps", () => {
    const step = fc.record({
      passed: fc.oneof(fc.nat(50), fc.integer({ min: -100_000, max: 0 })),
      requests: fc.nat(5),
      retries: fc.nat(5),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
        const budget = new RetryBudget();
        let now = NOW;
        let forward = 0;
        let requests = 0;
        let given = 0;
        for (const { passed, ...wanted } of steps) {
          now += passed;
          forward += Math.max(0, passed);
          budget.succeeded(now);
          for (let n = 0; n < wanted.requests; n++) budget.earn();
          requests += wanted.requests;
          for (let n = 0; n < wanted.retries; n++) if (budget.spend()) given++;
          expect(given).toBeLessThanOrEqual(10 + requests / 10 + forward / 1_000 + 1e-6);
        }
      }),
    );
  });

  it("saves no more than a handful up, however long nobody needed it", () => {
    const budget = new RetryBudget();
    for (let n = 0; n < 1_000; n++) budget.earn();
    let given = 0;
    while (budget.spend()) given++;
    expect(given).toBe(10);
  });

  it("keeps all attempts of a storm below 1.2 times its requests", () => {
    const budget = new RetryBudget();
    let attempts = 0;
    const requests = 200 * 30;
    for (let n = 0; n < requests; n++) {
      budget.earn();
      attempts++;
      for (let retry = 0; retry < 2; retry++) if (budget.spend()) attempts++;
    }
    expect(attempts).toBeLessThanOrEqual(1.2 * requests);
    // And it is not nothing.
    expect(attempts).toBeGreaterThan(1.05 * requests);
  });
});
