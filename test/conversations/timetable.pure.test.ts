/** When a conversation is looked at: the earliest reason, never later than needed. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { MAX_RETRY_MS, RETRY_MS, retryDelay } from "../../src/conversations/listing.ts";
import { alarmAt, GUARD_MS, MAX_AHEAD_MS, type Standing } from "../../src/conversations/timetable.ts";

const TIME = fc.integer({ min: 0, max: 4_000_000_000_000 });
const STANDING: fc.Arbitrary<Standing> = fc.record({
  now: TIME,
  busy: fc.boolean(),
  expiresAt: fc.option(TIME),
  heartbeatAt: fc.option(TIME),
  registryAt: fc.option(TIME),
});

describe("the alarm", () => {
  it("rings at the earliest reason there is, and a day ahead at most", () => {
    fc.assert(
      fc.property(STANDING, (standing) => {
        const { now, busy, expiresAt, heartbeatAt, registryAt } = standing;
        const reasons = [heartbeatAt, registryAt, busy ? now + GUARD_MS : expiresAt].filter((at) => at !== null);
        const at = alarmAt(standing);
        if (reasons.length === 0) {
          expect(at).toBeNull();
          return;
        }
        expect([...reasons, now + MAX_AHEAD_MS]).toContain(at);
        for (const reason of [...reasons, now + MAX_AHEAD_MS]) expect(at).toBeLessThanOrEqual(reason);
      }),
    );
  });
});

describe("a write to the list that failed", () => {
  it("waits longer after each failure, up to a bound", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 10_000 }),
        fc.double({ min: 0, max: 1, noNaN: true }),
        (failures, random) => {
          const delay = retryDelay(failures, random);
          expect(delay).toBeGreaterThanOrEqual(RETRY_MS / 2);
          expect(delay).toBeLessThanOrEqual(MAX_RETRY_MS);
          if (failures > 10) expect(delay).toBeGreaterThanOrEqual(MAX_RETRY_MS / 2);
        },
      ),
    );
  });
});
