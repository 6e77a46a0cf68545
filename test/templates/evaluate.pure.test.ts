/** Values held against schemas: as another implementation of JSON Schema does it. */
import { type Schema, validate } from "@cfworker/json-schema";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { evaluate } from "../../src/templates/evaluate.ts";
import { FORMATS, hasFormat } from "../../src/templates/formats.ts";
import { readSchema } from "../../src/templates/schema-reader.ts";

const NAME = fc.constantFrom("a", "b", "c");
const { value } = fc.letrec<{ value: unknown }>((tie) => ({
  value: fc.oneof(
    { maxDepth: 3 },
    fc.constantFrom("", "a", "ab", "b1", "\u{1f600}", "2026-02-29", "10.0.0.1"),
    fc.constantFrom(0, -0, 1, 2, 2.5, 0.3, -7, 1e300),
    fc.constantFrom(null, true, false),
    fc.array(tie("value"), { maxLength: 3 }),
    fc.dictionary(NAME, tie("value"), { maxKeys: 3 }),
  ),
}));
const number = fc.constantFrom(-1, 0, 1, 2, 2.5);
const count = fc.nat(3);
const some = <T>(of: fc.Arbitrary<T>) => fc.array(of, { minLength: 1, maxLength: 3 });
const { schema } = fc.letrec<{ schema: object }>((tie) => ({
  schema: fc.oneof(
    { maxDepth: 3, withCrossShrink: true },
    fc.record(
      {
        type: fc.oneof(
          fc.constantFrom("string", "number", "integer", "boolean", "null", "object", "array"),
          fc.constant(["string", "integer"]),
        ),
        minimum: number,
        exclusiveMaximum: number,
        multipleOf: fc.constantFrom(0.1, 2, 2.5),
        minLength: count,
        maxLength: count,
        pattern: fc.constantFrom("^a", "[0-9]$"),
        format: fc.constantFrom("date", "ipv4"),
        minItems: count,
        maxProperties: count,
        enum: some(value),
        const: value,
      },
      { requiredKeys: [] },
    ),
    fc.record(
      {
        items: tie("schema"),
        prefixItems: some(tie("schema")),
        uniqueItems: fc.boolean(),
        properties: fc.dictionary(NAME, fc.oneof(tie("schema"), fc.boolean()), { maxKeys: 3 }),
        required: fc.uniqueArray(NAME, { maxLength: 2 }),
      },
      { requiredKeys: [] },
    ),
    fc.record(
      {
        allOf: some(tie("schema")),
        anyOf: some(tie("schema")),
        oneOf: some(tie("schema")),
        not: tie("schema"),
        if: tie("schema"),
        // biome-ignore lint/suspicious/noThenProperty: a keyword of JSON Schema
        then: tie("schema"),
        else: tie("schema"),
      },
      { requiredKeys: [] },
    ),
  ),
}));

describe("a value held against a schema", () => {
  it("fits where another implementation says so", () => {
    const outcomes = { fits: 0, not: 0 };
    fc.assert(
      fc.property(schema, value, (inner, given) => {
        const problems: string[] = [];
        const whole = { type: "object", properties: { v: inner } };
        const { rule } = readSchema(whole, problems);
        fc.pre(problems.length === 0);
        const told = evaluate(rule, { v: given }, "variables");
        outcomes[told.length === 0 ? "fits" : "not"]++;
        expect(told.length === 0, told.join()).toBe(validate({ v: given }, whole as Schema, "2020-12").valid);
      }),
      { numRuns: 400 },
    );
    expect(Math.min(outcomes.fits, outcomes.not)).toBeGreaterThan(30);
  });

  it("is told by its place and never by its text", () => {
    const { rule } = readSchema(
      {
        type: "object",
        properties: { list: { type: "array", items: { properties: { n: { maxLength: 2 } }, required: ["m"] } } },
      },
      [],
    );
    expect(evaluate(rule, { list: [{ m: 1 }, { n: "canary" }] }, "variables")).toEqual([
      "variables.list.1.m: is missing",
      "variables.list.1.n: is too long",
    ]);
  });

  it("is held against no more schemas than a call may cost, and refused beyond", () => {
    const { rule } = readSchema({ type: "object", properties: { l: { items: { anyOf: [{}, {}] }, not: {} } } }, []);
    const told = evaluate(rule, { l: Array(100_000).fill(1) }, "variables");
    expect(told.at(-1)).toBe("variables: hold too much for the schema of this template");
  });
});

describe("formats", () => {
  it.each([
    ["date", ["2024-02-29", "0001-01-01"], ["2023-02-29", "2024-2-1", "2024-02-29 ", "20240229"]],
    ["time", ["10:00:00Z", "23:59:60z", "10:00:00.123+05:30"], ["10:00:00", "24:00:00Z", "10:00Z", "10:00:00+24:00"]],
    ["date-time", ["2024-02-29T10:00:00Z", "2024-02-29t10:00:00.5-01:00"], ["2024-02-29", "2024-02-30T10:00:00Z"]],
    ["duration", ["P1D", "PT1H30M", "P3Y6M4DT12H30M5S", "P2W"], ["P", "PT", "P1Y2D", "PT1H2S", "1D", "P1WT1H"]],
    ["email", ["a@example.com", "a.b+c@d-e.example"], ["a", "a@", "@a", "a..b@c", "a@b@c..d", `${"a".repeat(65)}@b`]],
    ["hostname", ["a", "a-b.example", "1.example"], ["", "-a", "a-", "a..b", "a_b", `${"a".repeat(64)}.b`]],
    ["ipv4", ["0.0.0.0", "255.255.255.255"], ["256.0.0.1", "1.2.3", "1.2.3.4.", "1.2.3.4.5", "01.2.3.4"]],
    [
      "ipv6",
      ["::", "::1", "2001:db8::ff00:42:8329", "::ffff:1.2.3.4"],
      [":", "1::2::3", "12345::", "fe80::1%1", "1.2.3.4"],
    ],
    ["uri", ["https://a.example/b?c=%20#d", "urn:isbn:1", "mailto:a@b"], ["/a", "a b:c", "https://a/%zz", "http://ä"]],
    ["uuid", ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567e89b12d3a456426614174000", "x"]],
  ] as const)("%s", (format, good, bad) => {
    expect(good.filter((text) => !hasFormat(text, format))).toEqual([]);
    expect(bad.filter((text) => hasFormat(text, format))).toEqual([]);
  });

  it("are all held in time that is linear in the text", () => {
    for (const format of FORMATS) {
      for (const part of ["1", "a", "1Y", ".", "a.", "%", "::", "-", "P1D"])
        expect(hasFormat(part.repeat(50_000), format)).toBe(false);
    }
  });
});
