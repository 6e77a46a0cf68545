/** Texts are read and rendered as the library reads and renders them, but for what is refused. */

import fc from "fast-check";
import Mustache from "mustache";
import { describe, expect, it } from "vitest";
import { parseText, Renderer, type Values } from "../../src/templates/text.ts";
import { expectLinear } from "../support/processor-time.ts";

const NAMES = ["a", "b", "list", "deep.er", "."];
const piece = fc.oneof(
  fc.constantFrom(" ", "\t", "\n", "\r\n", "word", "}", "}}", "{ ", "\u00a0", "\n\n", "  \n"),
  fc.string({ maxLength: 4 }).map((text) => text.replaceAll("{", "(")),
);
const value = fc.constantFrom(
  ...NAMES.flatMap((name) => [`{{${name}}}`, `{{{ ${name} }}}`, `{{& ${name}}}`, `{{!${name}}}`, "{{! a\nb }}"]),
);
/** A text whose tags are well formed. */
const { text } = fc.letrec<{ text: string }>((tie) => ({
  text: fc
    .array(fc.oneof({ maxDepth: 3 }, piece, value, section(tie("text"))), { maxLength: 6 })
    .map((parts) => parts.join("")),
}));
function section(inside: fc.Arbitrary<string>): fc.Arbitrary<string> {
  return fc
    .tuple(fc.constantFrom("#", "^"), fc.constantFrom(...NAMES), inside, fc.constantFrom("", " ", "\n"))
    .map(([sigil, name, text, space]) => `{{${sigil}${space}${name}}}${text}{{/${name}${space}}}`);
}
function withoutPrototype(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutPrototype);
  if (typeof value !== "object" || value === null) return value;
  const copy: Values = Object.create(null);
  for (const [name, inner] of Object.entries(value)) copy[name] = withoutPrototype(inner);
  return copy;
}

const scalar = fc.oneof(fc.string({ unit: "binary", maxLength: 5 }), fc.integer(), fc.boolean(), fc.constant(null));
/** The library trips over null in a list. */
const something = scalar.filter((value) => value !== null);
const view = fc.record({
  a: scalar,
  b: fc.oneof(scalar, fc.array(something, { maxLength: 3 })),
  list: fc.array(fc.record({ a: scalar, b: scalar }), { maxLength: 3 }),
  deep: fc.record({ er: scalar }),
});

describe("a text", () => {
  it("becomes the library's own tree", () => {
    fc.assert(
      fc.property(text, (text) => {
        const complaints: string[] = [];
        const { tokens } = parseText(text, (problem) => complaints.push(problem));
        expect(complaints).toEqual([]);
        const drop = (list: unknown): unknown =>
          Array.isArray(list) ? list.filter((each) => !(Array.isArray(each) && each[0] === "!")).map(drop) : list;
        expect(shape(tokens)).toEqual(shape(drop(new Mustache.Writer().parse(text))));
      }),
      { numRuns: 300 },
    );
  });

  it("renders as the library does, but that objects are no text", () => {
    fc.assert(
      fc.property(text, view, (text, given) => {
        const { tokens, varies } = parseText(text, () => {});
        let isClean = true;
        const ours = new Renderer(withoutPrototype(given) as Values, 1e6).render({ tokens, varies }, () => {
          isClean = false;
        });
        fc.pre(isClean);
        const parsed = new Mustache.Writer();
        expect(ours).toBe(parsed.render(text, given, undefined, { escape: String }));
      }),
      { numRuns: 300 },
    );
  });

  it("varies where a variable decides, and not by a comment or a single brace", () => {
    const varies = (text: string) => parseText(text, () => {}).varies;
    expect(["{{a}}", "{{#a}}{{/a}}", "{{^a}}{{/a}}", "{{{a}}}"].map(varies)).toEqual([true, true, true, true]);
    expect(["", "a {b} }}", "{{! a }}"].map(varies)).toEqual([false, false, false]);
  });

  it("N-01 finds nothing that a prototype has", () => {
    const names = ["constructor", "__proto__", "toString", "a.constructor", "a.length", "deep.hasOwnProperty"];
    const text = names.map((name) => `{{${name}}}{{#${name}}}x{{/${name}}}`).join("");
    const absent: string[] = [];
    const values = withoutPrototype({ a: "text", deep: { er: 1 } }) as Values;
    const out = new Renderer(values, 1e6).render(
      parseText(text, () => {}),
      ([, name]) => absent.push(name),
    );
    expect(out).toBe("");
    expect(absent).toEqual(names);
  });

  it("is read in linear time, whatever it is", () => {
    for (const hostile of ["{{", "{{ ", "{{a}}", " ", "\n", "{{#a}}", "{", "}", "{{!", "{{a"]) {
      expectLinear((size) => parseText(hostile.repeat(size / hostile.length), () => {}), 200_000, hostile);
    }
  });

  it("stops where it would become too large, or go on for ever over nothing", () => {
    const list = Array.from({ length: 1_000 }, () => "x");
    const values = withoutPrototype({ list }) as Values;
    const nested = (inside: string) =>
      parseText(`{{#list}}{{#list}}{{#list}}${inside}{{/list}}{{/list}}{{/list}}`, () => {});
    for (const inside of ["word", ""]) {
      const renderer = new Renderer(values, 100_000);
      // A thousand million times the word, where nothing stops it.
      expect(renderer.render(nested(inside), () => {}).length).toBeLessThanOrEqual(100_000);
      expect(renderer.isTooLarge).toBe(true);
    }
  });
});

/** Values and structure; comments are left out, and texts around them are one. */
function shape(tokens: unknown): unknown {
  if (!Array.isArray(tokens)) return [];
  const out: unknown[] = [];
  for (const [kind, value, , , inside] of tokens as [string, string, number, number, unknown][]) {
    const last = out.at(-1);
    if (kind === "text" && Array.isArray(last) && last[0] === "text") last[1] += value;
    else out.push(kind === "#" || kind === "^" ? [kind, value, shape(inside)] : [kind, value]);
  }
  return out;
}
