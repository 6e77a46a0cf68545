import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { canonicalJson } from "../../src/cache/canonical-json.ts";
import { jsonTexts, spelled } from "./spelling.ts";

describe("canonicalJson", () => {
  it("C-04 is the same for every spelling of a value, and says the same value (3,000 values)", () => {
    fc.assert(
      fc.property(jsonTexts, fc.infiniteStream(fc.nat()), fc.infiniteStream(fc.nat()), (value, one, other) => {
        const canonical = canonicalJson(spelled(value, one));
        expect(canonicalJson(spelled(value, other))).toBe(canonical);
        expect(canonicalJson(canonical ?? "")).toBe(canonical);
        expect(JSON.parse(canonical ?? "")).toEqual(JSON.parse(JSON.stringify(value)));
      }),
      { numRuns: 3_000 },
    );
  });

  it("C-04 is another one for another value (3,000 pairs)", () => {
    fc.assert(
      fc.property(jsonTexts, jsonTexts, (a, b) => {
        // Sorted members are what JSON.stringify lacks for a judgement of its own; parsing brings them in no order.
        const same = JSON.stringify(sorted(a)) === JSON.stringify(sorted(b));
        expect(canonicalJson(JSON.stringify(a)) === canonicalJson(JSON.stringify(b))).toBe(same);
      }),
      { numRuns: 3_000 },
    );
  });

  it.each([
    ["1.0", "1"],
    ["1", "1"],
    ["10", "1e1"],
    ["100e-1", "1e1"],
    ["0.10", "1e-1"],
    ["-1.50E+2", "-15e1"],
    ["0", "0"],
    ["-0.000e9", "0"],
    ["9007199254740993", "9007199254740993"],
    ["9007199254740992", "9007199254740992"],
    ["0.1000000000000000055", "1000000000000000055e-19"],
    ["1e400", "1e400"],
    ["1e-400", "1e-400"],
    ["1e9999999999999999", "1e9999999999999999"],
    ["true", "true"],
    ["null", "null"],
    [' "\\u0041\\/" ', '"A/"'],
    ['"\\ud83d\\ude00"', '"😀"'],
    ['"\\ud800"', '"\\ud800"'],
    ['"a\\\\"', '"a\\\\"'],
    ['"\\\\\\""', '"\\\\\\""'],
    ["[ ]", "[]"],
    ["{ }", "{}"],
    ['{"b":1,"a":[1 , {"d":2,"c":3}]}', '{"a":[1,{"c":3,"d":2}],"b":1}'],
    ['{"__proto__":1,"a":2}', '{"__proto__":1,"a":2}'],
  ])("C-04 writes %s as %s", (text, canonical) => {
    expect(canonicalJson(text)).toBe(canonical);
  });

  it("C-04 keeps NFC and NFD apart", () => {
    expect(canonicalJson('"é"'.normalize("NFC"))).not.toBe(canonicalJson('"é"'.normalize("NFD")));
    expect(canonicalJson('"\\u00e9"')).toBe(canonicalJson('"é"'.normalize("NFC")));
  });

  it.each(['{"a":1,"a":1}', '[{"x":{"a":1,"b":2,"\\u0061":3}}]', '{"":1," ":2,"":3}'])(
    "has none for a name that occurs twice: %s",
    (text) => {
      expect(canonicalJson(text)).toBeNull();
    },
  );

  it("takes time in proportion to the text, whatever it is made of", () => {
    const size = 1_000_000;
    const texts = [
      `[${"0".repeat(1)}.${"0".repeat(size)}1]`,
      `"${"\\\\".repeat(size / 2)}"`,
      `"${'\\"'.repeat(size / 2)}"`,
      `${"[".repeat(99)}"${"x".repeat(size)}"${"]".repeat(99)}`,
      `{${Array.from({ length: 50_000 }, (_, i) => `"${i}":${i}`).join(",")}}`,
    ];
    const started = performance.now();
    for (const text of texts) expect(canonicalJson(text)).not.toBeNull();
    // Milliseconds; a square of the size would take minutes.
    expect(performance.now() - started).toBeLessThan(10_000);
  });
});

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== "object" || value === null) return Object.is(value, -0) ? 0 : value;
  return Object.entries(value)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, member]) => [name, sorted(member)])
    .concat([["an object"]]);
}
