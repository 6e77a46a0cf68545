import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { allows, covers, intersect, type Patterns } from "../../src/identity/patterns.ts";

/** Few letters, so that patterns meet. */
const name = fc.stringMatching(/^[ab*]{0,4}$/);
const patterns: fc.Arbitrary<Patterns> = fc.option(fc.array(name, { maxLength: 4 }), { nil: null });
/** Every name of up to five letters tells two lists of patterns of up to four apart. */
const NAMES: string[] = [""];
for (const from of NAMES) if (from.length < 5) NAMES.push(...["a", "b", "*", "c"].map((letter) => from + letter));

describe("intersect", () => {
  it("allows a name if and only if both do", () => {
    fc.assert(
      fc.property(patterns, patterns, (a, b) => {
        const both = intersect(a, b);
        expect(NAMES.filter((one) => allows(both, one))).toEqual(
          NAMES.filter((one) => allows(a, one) && allows(b, one)),
        );
      }),
      { numRuns: 200 },
    );
  });

  it.each<[Patterns, Patterns, Patterns]>([
    [null, null, null],
    [null, ["x"], ["x"]],
    [["claude-*"], ["claude-opus-*", "gpt"], ["claude-opus-*"]],
    [["claude-opus-5"], ["claude-*"], ["claude-opus-5"]],
    [["a"], ["b"], []],
    [["a*"], ["a*", "a*"], ["a*"]],
    [["*"], ["a"], ["a"]],
    [[], null, []],
  ])("%j and %j: %j", (a, b, both) => {
    expect(intersect(a, b)).toEqual(both);
    expect(intersect(b, a)).toEqual(both);
  });
});

describe("covers", () => {
  it("holds if and only if every name that the second allows is allowed by the first", () => {
    fc.assert(
      fc.property(patterns, patterns, (a, b) => {
        expect(covers(a, b)).toBe(NAMES.every((one) => !allows(b, one) || allows(a, one)));
        expect(covers(a, intersect(a, b))).toBe(true);
      }),
      { numRuns: 200 },
    );
  });
});
