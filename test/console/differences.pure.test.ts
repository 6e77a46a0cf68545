import { describe, expect, it } from "vitest";
import { differences } from "../../src/console/differences.ts";

const told = (before: unknown, after: unknown): string[] =>
  differences(before, after).map(({ field, before, after }) => `${field}: ${before} -> ${after}`);

describe("the differences of a change", () => {
  it.each<[unknown, unknown, string[]]>([
    [{ name: "a", x: 1 }, { name: "b", x: 1 }, ['name: "a" -> "b"']],
    [{ limits: { a: 1, b: 2 } }, { limits: { b: 3 } }, ["limits.b: 2 -> 3", "limits.a: 1 -> null"]],
    [{ limits: {} }, { limits: { a: 1 } }, ["limits.a: null -> 1"]],
    [{ budget: null }, { budget: { usd: 1 } }, ['budget: null -> {"usd":1}']],
    [{ models: ["a"] }, { models: ["a", "b"] }, ['models: ["a"] -> ["a","b"]']],
    [{ version: 1, updated_at: "x" }, { version: 2, updated_at: "y" }, []],
    [null, { name: "a", budget: null, limits: {} }, ['name: null -> "a"']],
    [{ name: "a" }, null, ['name: "a" -> null']],
    [null, null, []],
    ["a", 1, [': "a" -> 1']],
    [JSON.parse('{"__proto__": 1}'), JSON.parse('{"__proto__": 2}'), ["__proto__: 1 -> 2"]],
  ])("%j to %j: %j", (before, after, expected) => {
    expect(told(before, after)).toEqual(expected);
  });

  it("are one text where it goes too deep", () => {
    const nested = (value: unknown, depth: number): unknown => (depth === 0 ? value : { a: nested(value, depth - 1) });
    const [first, ...more] = told(nested(1, 9), nested(2, 9));
    expect([first?.split(": ")[0], more]).toEqual(["a.a.a.a.a.a", []]);
  });
});
