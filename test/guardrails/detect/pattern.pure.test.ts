import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { detect, parsePattern } from "../../../src/guardrails/detect/detect.ts";

const places = (source: string, text: string): string[] => {
  const pattern = parsePattern(source);
  if (!pattern.ok) throw new Error(pattern.error);
  return detect(text, [], [{ name: "OWN", pattern: pattern.value }]).map(
    ({ start, end, type }) => `${type}=${text.slice(start, end)}`,
  );
};

describe("D-10: patterns that are refused, and why", () => {
  it.each([
    ["(a+)+$", "a repetition without end that is repeated, or that repeats one, is not allowed (at character 5)"],
    ["(a|b*)*", "a repetition without end that is repeated, or that repeats one, is not allowed (at character 7)"],
    ["(a{1,3})+", "a repetition without end that is repeated, or that repeats one, is not allowed (at character 9)"],
    ["((a?){2})*", "a repetition without end that is repeated, or that repeats one, is not allowed (at character 10)"],
    ["(?<=a)b", "look-around is not allowed (at character 1)"],
    ["(?!a)b", "look-around is not allowed (at character 1)"],
    ["(a)\\1", "a reference to a group is not allowed (at character 4)"],
    ["\\k<n>", "a reference to a group is not allowed (at character 1)"],
    ["(?<n>a)", "a named group or a flag is not allowed (at character 2)"],
    ["^a", "the anchor ^ is not allowed (at character 1)"],
    ["a$", "the anchor $ is not allowed (at character 2)"],
    ["a+?", "a second or lazy quantifier is not allowed (at character 3)"],
    ["a{129}", "a repetition of more than 128 times, or from more to less, is not allowed (at character 2)"],
    ["\\p{L}", "the escape \\p is not allowed (at character 1)"],
    ["a\\bb", "\\b inside a pattern is not allowed (at character 2)"],
    ["(a", "a bracket that nothing closes is not allowed (at character 3)"],
    ["a)", "a bracket that nothing opens is not allowed (at character 2)"],
    ["[z-a]", "a range from more to less is not allowed (at character 5)"],
    ["", "a pattern that matches nothing at all is not allowed"],
    ["a*", "a pattern that matches nothing at all is not allowed"],
    ["a".repeat(257), "a pattern has at most 256 characters"],
    ["a".repeat(10_240), "a pattern has at most 256 characters"],
    ["(a{100}){100}", "a pattern of more than 1000 parts is not allowed"],
    ["[ab]*a[ab]{20}", "a pattern of more than 500 states is not allowed"],
    [`${"(".repeat(40)}a${")".repeat(40)}`, "nesting deeper than 16 is not allowed (at character 17)"],
  ])("%s", (source, error) => {
    expect(parsePattern(source)).toEqual({ ok: false, error });
  });
});

describe("patterns that are taken", () => {
  it.each([
    ["EMP-\\d{4,6}", "EMP-12345 and EMP-123", ["OWN=EMP-12345"]],
    ["(?i)\\bproject[- ]x\\b", "Project X, projects x, PROJECT-Xylophone", ["OWN=Project X"]],
    ["(?:\\d{1,3}\\.){3}\\d{1,3}", "at 10.0.0.12!", ["OWN=10.0.0.12"]],
    ["工号\\d+", "工号12345，工号9", ["OWN=工号12345", "OWN=工号9"]],
    ["cat|category", "category", ["OWN=category"]],
    ["a.c", "a\nc abc", ["OWN=abc"]],
    ["[^\\s,]+@corp", "x,bob@corp", ["OWN=bob@corp"]],
    ["\\x41\\u0042", "AB", ["OWN=AB"]],
    ["EMP-\\d{4}", "ＥＭＰ-１２３４", ["OWN=ＥＭＰ-１２３４"]],
  ])("%s", (source, text, expected) => {
    expect(places(source, text)).toEqual(expected);
  });

  it("knows where a match can't begin, however many states it takes to count", () => {
    for (const source of [
      "a.{20}b",
      "(?:a.{3}){4}b",
      "[ab]{9}c[ab]{9}",
      "(?:north|south|east|west|summer|winter|spring|autumn){1,9}",
    ]) {
      const pattern = parsePattern(source);
      if (!pattern.ok) throw new Error(pattern.error);
      const { next, accepts, classes } = pattern.value.starts;
      // What stands before nothing begins no match, and neither does a character that the pattern doesn't know.
      expect(accepts[1], source).toBe(0);
      expect(accepts[next[classes] ?? 1], source).toBe(0);
    }
  });

  it("a match longer than 128 characters is found in pieces, all of it", () => {
    expect(places("\\d+", "7".repeat(300)).map((found) => found.length - 4)).toEqual([128, 128, 44]);
  });

  it("finds what JavaScript's own engine finds", () => {
    const atom = fc.constantFrom("a", "b", "[ab]", "\\d", ".", "[^a]", "(?:ab|c)");
    const piece = fc.tuple(atom, fc.constantFrom("", "?", "*", "+", "{2}", "{1,3}")).map(([one, times]) => one + times);
    const source = fc.array(piece, { minLength: 1, maxLength: 4 }).map((pieces) => `x${pieces.join("")}`);
    fc.assert(
      fc.property(source, fc.string({ unit: fc.constantFrom(..."xab1c"), maxLength: 12 }), (pattern, text) => {
        // Without a choice between prefixes the first match is also the longest; where both match is compared.
        const theirs = [...text.matchAll(new RegExp(pattern, "g"))][0]?.index;
        const parsed = parsePattern(pattern);
        if (!parsed.ok) return;
        const ours = detect(text, [], [{ name: "OWN", pattern: parsed.value }])[0]?.start;
        expect(ours).toBe(theirs);
      }),
      { numRuns: 500 },
    );
  });
});
