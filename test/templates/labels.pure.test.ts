/** Which version a label means for whom. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { choose, type Label, parseLabels, tieOf, type Weighted } from "../../src/templates/labels.ts";
import { problemOf } from "./drafts.ts";

const TIES = Array.from({ length: 100_000 }, (_, i) => tieOf("greeting", "canary", `key_${i.toString(36)}`));
const chosen = (label: Label) => TIES.map((tie) => choose(label, tie));
const share = (versions: readonly number[], version: number) =>
  versions.filter((each) => each === version).length / TIES.length;
const two = (first: number, second: number): Weighted[] => [
  { version: 3, weight: first },
  { version: 4, weight: second },
];

describe("a weighted label", () => {
  it.each([
    [two(90, 10)],
    [two(1, 1)],
    [two(1, 999)],
    [[...two(70, 20), { version: 9, weight: 10 }]],
    [Array.from({ length: 10 }, (_, i) => ({ version: i + 1, weight: i + 1 }))],
  ])("honours its weights within 1 %%: %j", (label) => {
    const versions = chosen(label);
    const sum = label.reduce((all, { weight }) => all + weight, 0);
    for (const { version, weight } of label) {
      expect(Math.abs(share(versions, version) - weight / sum)).toBeLessThan(0.01);
    }
  });

  it("gives each version its share of 10,000 callers, whatever weights, versions and names there are", () => {
    const callers = 10_000;
    const label = fc.uniqueArray(
      fc.record({
        version: fc.integer({ min: 1, max: 999_999_999 }),
        weight: fc.oneof(fc.integer({ min: 1, max: 100 }), fc.integer({ min: 1, max: 1_000_000 })),
      }),
      { minLength: 1, maxLength: 10, selector: ({ version }) => version },
    );
    fc.assert(
      fc.property(label, fc.string(), fc.string(), (label, name, before) => {
        const counts = new Map<number, number>();
        for (let i = 0; i < callers; i++) {
          const version = choose(label, tieOf(name, "canary", before + i));
          counts.set(version, (counts.get(version) ?? 0) + 1);
        }
        const sum = label.reduce((all, { weight }) => all + weight, 0);
        for (const { version, weight } of label) {
          const share = weight / sum;
          // Six standard deviations, and what a handful of callers is in a share of nearly none.
          const bound = 6 * Math.sqrt(callers * share * (1 - share)) + 6;
          expect(Math.abs((counts.get(version) ?? 0) - callers * share)).toBeLessThan(bound);
        }
      }),
      { numRuns: 40 },
    );
  });

  it("is for one caller as long as nobody changes it, and moves no more than the share that was moved", () => {
    const share = fc.integer({ min: 1, max: 99 });
    fc.assert(
      fc.property(share, share, fc.string(), (was, is, before) => {
        const ties = Array.from({ length: 10_000 }, (_, i) => tieOf("a", "b", before + i));
        const [first, again, then] = [two(100 - was, was), two(100 - was, was), two(100 - is, is)].map((label) =>
          ties.map((tie) => choose(label, tie)),
        );
        expect(again).toEqual(first);
        const moved = ties.filter((_, i) => first?.[i] !== then?.[i]).length;
        expect(Math.abs(moved / ties.length - Math.abs(was - is) / 100)).toBeLessThan(0.03);
      }),
      { numRuns: 20 },
    );
  });

  it("moves only those who have to, from 10 to 20 %", () => {
    const before = chosen(two(90, 10));
    const after = chosen(two(80, 20));
    let moved = 0;
    for (const [i, version] of before.entries()) {
      if (after[i] === version) continue;
      moved++;
      expect([version, after[i]]).toEqual([3, 4]);
    }
    expect(Math.abs(moved / TIES.length - 0.1)).toBeLessThan(0.01);
  });

  it("moves nobody to a version that has not grown beside theirs", () => {
    const weights = fc.array(fc.integer({ min: 1, max: 1_000 }), { minLength: 4, maxLength: 4 });
    const label = (list: readonly number[]) => list.map((weight, i) => ({ version: i + 1, weight }));
    fc.assert(
      fc.property(weights, weights, fc.array(fc.string(), { minLength: 50, maxLength: 50 }), (was, is, ties) => {
        for (const tie of ties) {
          const [from, to] = [choose(label(was), tie), choose(label(is), tie)];
          if (from === to) continue;
          const grown = (version: number) => (is[version - 1] ?? 0) / (was[version - 1] ?? 1);
          expect(grown(to)).toBeGreaterThan(grown(from));
        }
      }),
      { numRuns: 100 },
    );
  });

  it("is one choice for a tie, whatever the order, and another one for another label or template", () => {
    const reversed = two(50, 50).toReversed();
    for (const tie of TIES.slice(0, 1_000)) expect(choose(two(50, 50), tie)).toBe(choose(reversed, tie));
    const differing = Array.from({ length: 1_000 }, (_, i) => `conv_${i}`).filter(
      (who) => choose(two(50, 50), tieOf("a", "b", who)) !== choose(two(50, 50), tieOf("a", "c", who)),
    );
    expect(differing.length).toBeGreaterThan(400);
    expect(choose(7, "anybody")).toBe(7);
  });
});

describe("labels as they are sent", () => {
  it("are kept in the order of their names", () => {
    const labels = { production: 1, canary: two(90, 10) };
    expect(parseLabels(labels, 4)).toEqual({ ok: true, value: labels });
    expect(parseLabels({}, 0)).toEqual({ ok: true, value: {} });
  });

  it.each([
    [null, "labels: must be an object"],
    [{ "A b": 1 }, "labels.A b: must be a name"],
    [JSON.parse('{"__proto__": 1}'), "labels.__proto__: must be a name"],
    [{ a: 5 }, "labels.a: must be a version from 1 to 4"],
    [{ a: 0 }, "labels.a: must be a version"],
    [{ a: "1" }, "labels.a: must be a version"],
    [{ a: 1.5 }, "labels.a: must be a version"],
    [{ a: [] }, "labels.a: must be 1 to 10 versions"],
    [{ a: [{ version: 1, weight: 0 }] }, "labels.a.0.weight: must be a whole number"],
    [{ a: [{ version: 1, weight: 0.5 }] }, "labels.a.0.weight: must be a whole number"],
    [{ a: [{ version: 1, weight: -1 }] }, "labels.a.0.weight: must be a whole number"],
    [{ a: [{ version: 1, weight: 1_000_001 }] }, "labels.a.0.weight: must be a whole number from 1 to 1000000"],
    [{ a: [{ version: 1, weight: "90" }] }, "labels.a.0.weight: must be a whole number"],
    [{ a: [{ version: 1 }] }, "labels.a.0.weight: must be a whole number"],
    [{ a: [{ weight: 1 }] }, "labels.a.0.version: must be a version"],
    [{ a: [1, 2] }, "labels.a.0: must be {version, weight}"],
    [{ a: [null] }, "labels.a.0: must be {version, weight}"],
    [{ a: Array(11).fill({ version: 1, weight: 1 }) }, "labels.a: must be 1 to 10 versions"],
    [{ a: two(1, 1)[0] }, "labels.a: must be a version"],
    [{ a: [{ version: 9, weight: 1 }] }, "labels.a.0.version: must be a version from 1 to 4"],
    [{ a: [{ version: 1, weight: 1, x: 1 }] }, "labels.a.0.x: unknown field"],
    [{ a: [...two(1, 1), { version: 3, weight: 1 }] }, "labels.a: names a version twice"],
    [Object.fromEntries(Array.from({ length: 21 }, (_, i) => [`l${i}`, 1])), "labels: must not be more than 20"],
  ])("are refused: %j", (labels, told) => {
    expect(problemOf(parseLabels(labels, 4))).toContain(told);
  });
});
