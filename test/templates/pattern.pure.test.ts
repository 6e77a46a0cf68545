/** Patterns match what the runtime's own engine matches, in linear time. */

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { compilePattern } from "../../src/templates/pattern.ts";
import { expectLinear } from "../support/processor-time.ts";

const atom = fc.constantFrom(
  "a",
  "b",
  ".",
  "\\d",
  "\\w",
  "[ab]",
  "[^a-c]",
  "\\u{1f600}",
  "\\.",
  "\\p{L}",
  "^",
  "$",
  "\\n",
  "[\\]-]",
);
const quantifier = fc.constantFrom("", "", "*", "+", "?", "*?", "{2}", "{1,3}", "{0,}", "{2,}?");
const { pattern } = fc.letrec<{ pattern: string }>((tie) => ({
  pattern: fc
    .array(
      fc.array(
        fc.tuple(
          fc.oneof(
            { maxDepth: 2 },
            atom,
            tie("pattern").map((inside) => `(${inside})`),
            tie("pattern").map((inside) => `(?:${inside})`),
          ),
          quantifier,
        ),
        { maxLength: 3 },
      ),
      { minLength: 1, maxLength: 3 },
    )
    .map((choices) =>
      choices
        .map((parts) => parts.map((part) => (/^[$^]$/.test(part[0]) ? part[0] : part.join(""))).join(""))
        .join("|"),
    ),
}));
const subject = fc
  .array(fc.constantFrom("a", "b", "c", "1", ".", "\n", "😀", "]", "\ud800", "é"), { maxLength: 8 })
  .map((list) => list.join(""));

describe("a pattern", () => {
  it("matches what the runtime's own engine matches", () => {
    fc.assert(
      fc.property(pattern, fc.array(subject, { minLength: 1, maxLength: 5 }), (source, texts) => {
        const compiled = compilePattern(source);
        fc.pre(compiled.ok);
        if (!compiled.ok) return;
        const own = new RegExp(source, "u");
        for (const text of texts)
          expect(compiled.value(text), `${source} ${JSON.stringify(text)}`).toBe(own.test(text));
      }),
      { numRuns: 300 },
    );
  });

  it.each([
    ["^[^@]+@[^@]+\\.[a-z]{2,}$", "a@b.example", "a@b"],
    ["^(?:[A-Z]{2}-)?\\d{4}$", "DE-1234", "de-1234"],
    ["^\\p{Lu}", "Ü", "ü"],
    ["", "", null],
  ])("%s", (source, yes, no) => {
    const compiled = compilePattern(source);
    if (!compiled.ok) throw new Error(compiled.error);
    expect(compiled.value(yes)).toBe(true);
    if (no !== null) expect(compiled.value(no)).toBe(false);
  });

  it("takes linear time where the runtime's own engine takes for ever", () => {
    for (const source of [
      "^(a+)+$",
      "^(a|a)*$",
      "^(a*)*$",
      "(.*)*x",
      "^(\\w+\\s?)*$",
      "a*a*a*a*b",
      "^(a?){50}a{50}$",
    ]) {
      const compiled = compilePattern(source);
      if (!compiled.ok) throw new Error(compiled.error);
      expectLinear((size) => expect(compiled.value(`${"a".repeat(size)}!`)).toBe(false), 20_000, source);
    }
  });
});
