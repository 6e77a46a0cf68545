/** The account on its own: clocks that step under it, numbers that are absurd. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Rules } from "../../src/identity/key-record.ts";
import { Account } from "../../src/ledger/account.ts";
import { type Amounts, MAX_AMOUNT, NOTHING } from "../../src/ledger/amounts.ts";
import { LOAN_EXPIRES_MS } from "../../src/ledger/protocol.ts";

const RUNS = 500;
const NOW = Date.UTC(2026, 10, 21, 12);
const HOUR_MS = 3_600_000;
const ONE: Amounts = { requests: 1, inputTokens: 10, outputTokens: 10, microUsd: 100, slots: 1 };
const rules = (more: Partial<Rules> = {}): Rules => ({ id: "k", version: 1, limits: {}, budget: null, ...more });

describe("a ledger's clock that steps", () => {
  it("back by hours keeps a vanished client's slot no longer than a loan lasts", () => {
    const account = new Account(rules({ limits: { concurrent_requests: 1 } }), undefined, [], []);
    expect(account.lend("a", ONE, NOTHING, NOW)).toEqual(ONE);
    const stepped = NOW - 5 * HOUR_MS;
    expect(account.nextExpiry(stepped)).toBe(stepped + LOAN_EXPIRES_MS);
    expect(account.expire(stepped)).toEqual([]);
    expect(account.expire(stepped + LOAN_EXPIRES_MS)).toEqual([{ loan: "a", amounts: ONE }]);
    expect(account.lend("b", ONE, NOTHING, stepped + LOAN_EXPIRES_MS)).toEqual(ONE);
  });

  it.each([-1, -8 * 24 * HOUR_MS, -1e12])("before 1970 breaks nothing: %d", (now) => {
    const account = new Account(
      rules({ limits: { requests_per_minute: 60 }, budget: { micro_usd: 1_000, period: "week", mode: "strict" } }),
      undefined,
      [],
      [],
    );
    expect(account.lend("a", ONE, NOTHING, now)).toEqual(ONE);
    const used = { inputTokens: 1, outputTokens: 1, microUsd: 70, learned: null };
    account.report({ loan: "a", unused: null, closed: true, ended: ONE, used }, now);
    expect(account.state(now).budget).toMatchObject({ spentMicroUsd: 70, reservedMicroUsd: 0 });
    expect(account.validMs(now)).toBeGreaterThan(0);
  });
});

describe("numbers", () => {
  it(`that are absurd leave sums exact, and take and book nothing that is none (${RUNS} runs)`, () => {
    const absurd = fc.oneof(
      fc.constantFrom(Number.NaN, Number.POSITIVE_INFINITY, -1, -0, 0.1, 1e300, 2 ** 53, 2 ** 53 - 1, MAX_AMOUNT),
      fc.integer({ min: 0, max: 1_000 }),
    );
    const amounts = fc.record({
      requests: absurd,
      inputTokens: absurd,
      outputTokens: absurd,
      microUsd: absurd,
      slots: absurd,
    });
    fc.assert(
      fc.property(fc.array(fc.tuple(amounts, amounts), { maxLength: 100 }), (loans) => {
        const account = new Account(rules(), undefined, [], []);
        const out: Amounts[] = [];
        for (const [i, [wanted, ended]] of loans.entries()) {
          const lent = account.lend(`l${i}`, wanted, NOTHING, NOW);
          for (const value of Object.values(lent)) expect(Number.isSafeInteger(value) && value >= 0).toBe(true);
          out.push(lent);
          const used = { ...ended, learned: null };
          account.report({ loan: `l${i}`, unused: null, closed: false, ended, used }, NOW);
          for (const value of Object.values(account.out)) expect(Number.isSafeInteger(value) && value >= 0).toBe(true);
        }
        for (const [i, unused] of out.entries()) {
          if (account.loans.has(`l${i}`))
            account.report({ loan: `l${i}`, unused, closed: true, ended: null, used: null }, NOW);
        }
        expect(account.out).toEqual(NOTHING);
        expect(account.loans.size).toBe(0);
        for (const microUsd of account.spend.values()) expect(Number.isSafeInteger(microUsd)).toBe(true);
      }),
      { numRuns: RUNS },
    );
  });
});
