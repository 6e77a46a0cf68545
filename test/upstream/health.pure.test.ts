/** The breaker, pauses, and that nothing shuts an upstream out for longer than its longest span. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Health, MAX_COOLING_MS, OPEN_AFTER, OPEN_MS, REFUSED_MS } from "../../src/upstream/health.ts";

const NOW = Date.parse("2026-11-21T12:00:00Z");
/** A probe nobody told the end of, and a pause after it. */
const LONGEST_MS = 30_000 + MAX_COOLING_MS;

type Move =
  | { readonly kind: "wait"; readonly ms: number }
  | { readonly kind: "call"; readonly result: "success" | "failure" | "forgotten" }
  | { readonly kind: "cool" | "refuse" | "open"; readonly ms: number };

const ms = fc.oneof(fc.nat(3_000), fc.nat(200_000));
const move: fc.Arbitrary<Move> = fc.oneof(
  fc.record({ kind: fc.constant("wait" as const), ms: fc.oneof(ms, fc.integer({ min: -500_000, max: 0 })) }),
  fc.record({
    kind: fc.constant("call" as const),
    result: fc.constantFrom("success" as const, "failure" as const, "forgotten" as const),
  }),
  fc.record({ kind: fc.constantFrom("cool" as const, "refuse" as const, "open" as const), ms }),
);

describe("the breaker", () => {
  it("opens after five failures in a row, lets one call through after a second, and closes with its success", () => {
    const health = new Health();
    for (let n = 1; n < OPEN_AFTER; n++) health.failed(NOW);
    health.succeeded();
    for (let n = 1; n < OPEN_AFTER; n++) expect(health.failed(NOW)).toBe(false);
    expect(health.hold(null, NOW)).toBeNull();
    expect(health.failed(NOW)).toBe(true);
    expect(health.breaker(NOW + OPEN_MS - 1)).toBe("open");
    expect(health.hold(null, NOW + OPEN_MS - 1)).toBe("open");
    expect(health.breaker(NOW + OPEN_MS)).toBe("half_open");
    expect(health.hold(null, NOW + OPEN_MS)).toBeNull();
    const probe = health.begin(NOW + OPEN_MS);
    expect(probe).toBe(true);
    expect(health.hold(null, NOW + OPEN_MS)).toBe("open");
    health.end(probe);
    expect(health.failed(NOW + OPEN_MS)).toBe(true);
    expect(health.hold(null, NOW + OPEN_MS + 1)).toBe("open");
    const again = health.begin(NOW + 2 * OPEN_MS);
    health.end(again);
    health.succeeded();
    expect(health.breaker(NOW + 2 * OPEN_MS)).toBe("closed");
    expect(health.hold(null, NOW + 2 * OPEN_MS)).toBeNull();
  });

  it("never lets two probes run at the same time", () => {
    fc.assert(
      fc.property(fc.array(fc.record({ pause: fc.nat(1_500), fails: fc.boolean(), ends: fc.boolean() })), (steps) => {
        const health = new Health();
        let now = NOW;
        for (let n = 0; n < OPEN_AFTER; n++) health.failed(now);
        let running: boolean | null = null;
        for (const { pause, fails, ends } of steps) {
          now += pause;
          if (now - NOW > 25_000) return;
          if (running !== null && ends) {
            health.end(running);
            running = null;
            if (fails) health.failed(now);
            else return;
          }
          if (health.hold(null, now) !== null) continue;
          expect(running).toBeNull();
          running = health.begin(now);
          expect(running).toBe(true);
        }
      }),
    );
  });
});

describe("a pause", () => {
  it("lasts exactly as long as asked, a minute at the most, and no later answer makes it shorter", () => {
    fc.assert(
      fc.property(fc.array(fc.record({ after: fc.nat(5_000), ms: fc.nat(200_000) }), { minLength: 1 }), (pauses) => {
        const health = new Health();
        let now = NOW;
        let until = 0;
        for (const { after, ms: length } of pauses) {
          now += after;
          health.coolFor(length, "m", now);
          until = Math.max(until, now + Math.min(length, MAX_COOLING_MS));
          expect(health.coolingMs("m", now)).toBe(Math.max(0, until - now));
        }
        expect(health.hold("m", until)).toBeNull();
        if (until > now) expect(health.hold("m", until - 1)).toBe("cooling");
      }),
    );
  });

  it("of one model is none of another, and one of no model is one of all", () => {
    const health = new Health();
    health.coolFor(1_000, "a", NOW);
    expect(health.hold("b", NOW)).toBeNull();
    health.coolFor(2_000, null, NOW);
    expect(health.hold("b", NOW)).toBe("cooling");
    expect(health.coolingMs("a", NOW)).toBe(2_000);
  });
});

it("nothing shuts an upstream out for longer than the longest span, whatever happened and however the clock stepped", () => {
  fc.assert(
    fc.property(fc.array(move, { maxLength: 60 }), (moves) => {
      const health = new Health();
      let now = NOW;
      for (const one of moves) {
        if (one.kind === "wait") now += one.ms;
        if (one.kind === "cool") health.coolFor(one.ms, "m", now);
        if (one.kind === "refuse") health.refusedFor(one.ms, now);
        if (one.kind === "open") health.openFor(one.ms, now);
        if (one.kind === "call") {
          const probe = health.begin(now);
          if (one.result === "forgotten") continue;
          health.end(probe);
          if (one.result === "success") health.succeeded();
          else health.failed(now);
        }
        expect(health.coolingMs("m", now)).toBeLessThanOrEqual(MAX_COOLING_MS);
      }
      // A clock that steps back may bring one back that was over, for as long as it lasts, and none for longer.
      const later = now + LONGEST_MS + REFUSED_MS + 1;
      const holds = [health.hold("m", now), health.hold("m", later), health.hold("m", later + LONGEST_MS + REFUSED_MS)];
      expect(holds).toContain(null);
    }),
    { numRuns: 500 },
  );
});
