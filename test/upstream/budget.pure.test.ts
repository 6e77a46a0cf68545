/** What may be tried again while nothing succeeds, and after. */
import { describe, expect, it } from "vitest";
import { RetryBudget } from "../../src/upstream/retry.ts";

describe("the retry budget", () => {
  it("F-30 holds ten, a tenth for each request, and nothing for time in which nothing succeeds", () => {
    const budget = new RetryBudget();
    let spent = 0;
    for (let i = 0; i < 100; i++) {
      budget.earn();
      while (budget.spend()) spent++;
    }
    expect(spent).toBeLessThanOrEqual(20);
    expect(spent).toBeGreaterThanOrEqual(19);
  });

  it("is full again ten seconds after a success, whatever clocks do", () => {
    const budget = new RetryBudget();
    budget.succeeded(0);
    while (budget.spend());
    budget.succeeded(-3_600_000);
    expect(budget.spend()).toBe(false);
    budget.succeeded(-3_600_000 + 10_000);
    for (let i = 0; i < 10; i++) expect(budget.spend()).toBe(true);
    expect(budget.spend()).toBe(false);
  });
});
