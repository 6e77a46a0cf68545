import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Fields } from "../../../src/wire/openai/draft.ts";
import { fitSchema } from "../../../src/wire/openai/tool-schema.ts";

const TEXT = { type: "string" };
const NUMBER = { type: "number" };

describe("fitSchema", () => {
  it.each<[string, Fields]>([
    ["properties", { type: "object", properties: { a: TEXT }, required: ["a"], additionalProperties: false }],
    [
      "definitions, referred to below",
      { type: "object", properties: { a: { $ref: "#/$defs/A" } }, $defs: { A: TEXT } },
    ],
    ["nothing but its type", { type: "object" }],
    ["unions below the top", { type: "object", properties: { a: { anyOf: [TEXT, { type: "null" }] } } }],
    [
      "types in a list and boolean schemas below the top",
      { type: "object", properties: { a: { type: ["string", "null"] }, b: true } },
    ],
    [
      "words that are nobody's business",
      { type: "object", $schema: "http://json-schema.org/draft-07/schema#", title: "T" },
    ],
  ])("leaves an object with %s as it is", (_, schema) => {
    expect(fitSchema(schema)).toEqual({ schema, exact: true });
    expect(fitSchema(schema).schema).toBe(schema);
  });

  it.each<[string, Fields, Fields]>([
    ["nothing", {}, { type: "object", properties: {} }],
    ["no type", { properties: { a: TEXT } }, { type: "object", properties: { a: TEXT } }],
    ["a list of types", { type: ["object", "null"], properties: {} }, { type: "object", properties: {} }],
    ["another type", { type: "string" }, { type: "object", properties: {} }],
    ["null for a type", { type: null }, { type: "object", properties: {} }],
    ["null for fields", { type: "object", properties: null, required: null }, { type: "object", properties: {} }],
    [
      "required of an older draft",
      { type: "object", properties: { a: TEXT }, required: true },
      { type: "object", properties: { a: TEXT } },
    ],
    ["a ban alone", { additionalProperties: false }, { type: "object", properties: {}, additionalProperties: false }],
  ])("makes an object of %s", (_, schema, fitted) => {
    expect(fitSchema(schema)).toEqual({ schema: fitted, exact: true });
  });

  it.each(["anyOf", "oneOf"])("merges %s at the top: all properties, what all require, the rest in words", (union) => {
    const branches = [
      {
        type: "object",
        properties: { kind: { const: "a" }, x: TEXT },
        required: ["kind", "x"],
        additionalProperties: false,
      },
      {
        type: "object",
        properties: { kind: { const: "b" }, y: NUMBER, x: TEXT },
        required: ["kind"],
        additionalProperties: false,
      },
      { type: "null" },
    ];
    expect(fitSchema({ [union]: branches, $defs: { D: TEXT }, description: "d" })).toEqual({
      schema: {
        type: "object",
        properties: { kind: { anyOf: [{ const: "a" }, { const: "b" }] }, x: TEXT, y: NUMBER },
        required: ["kind"],
        additionalProperties: false,
        $defs: { D: TEXT },
        description: `d\n\nThe input must also match this JSON Schema: {"${union}": ${JSON.stringify(branches)}}`,
      },
      exact: false,
    });
  });

  it("keeps a property as the schema itself has it where branches only narrow it", () => {
    const { schema, exact } = fitSchema({
      type: "object",
      properties: { p: TEXT, q: TEXT },
      required: ["p"],
      anyOf: [{ required: ["p"] }, { required: ["q"], properties: { q: { enum: ["a"] } } }],
    });
    expect(schema).toEqual({
      type: "object",
      properties: { p: TEXT, q: TEXT },
      required: ["p"],
      description: expect.stringContaining('"enum":["a"]'),
    });
    expect(exact).toBe(false);
  });

  it("merges allOf at the top without a word", () => {
    expect(
      fitSchema({
        allOf: [
          { $ref: "#/$defs/Base" },
          { properties: { b: NUMBER }, required: ["b"] },
          { properties: { a: { minLength: 1 } } },
        ],
        $defs: { Base: { type: "object", properties: { a: TEXT }, required: ["a"] } },
      }),
    ).toEqual({
      schema: {
        type: "object",
        properties: { a: { allOf: [TEXT, { minLength: 1 }] }, b: NUMBER },
        required: ["a", "b"],
        $defs: { Base: { type: "object", properties: { a: TEXT }, required: ["a"] } },
      },
      exact: true,
    });
  });

  it("keeps a ban of further properties only where it bans none that another part has", () => {
    const closed = { properties: { a: TEXT }, additionalProperties: false };
    expect(fitSchema({ allOf: [closed, { required: ["a"] }] }).schema).toMatchObject({ additionalProperties: false });
    expect(fitSchema({ allOf: [closed, { properties: { b: TEXT } }] }).schema).not.toHaveProperty(
      "additionalProperties",
    );
  });

  it("follows a reference at the top, step by step, and keeps the definitions", () => {
    const $defs = {
      "a/b": { $ref: "#/$defs/Real" },
      Real: { type: "object", properties: { x: TEXT }, additionalProperties: false },
    };
    expect(fitSchema({ $ref: "#/$defs/a~1b", $defs })).toEqual({
      schema: { type: "object", properties: { x: TEXT }, additionalProperties: false, $defs },
      exact: true,
    });
  });

  it("does without references that lead nowhere or back, and says so", () => {
    expect(fitSchema({ $ref: "#/$defs/Gone" })).toEqual({
      schema: {
        type: "object",
        properties: {},
        description: 'The input must also match this JSON Schema: {"$ref": "#/$defs/Gone"}',
      },
      exact: false,
    });
    for (const schema of [
      { $ref: "#" },
      { $ref: "https://example.com/schema" },
      { $ref: "#/$defs/A", $defs: { A: { $ref: "#/$defs/B" }, B: { $ref: "#/$defs/A" } } },
      { anyOf: [{ $ref: "#/$defs/T" }], $defs: { T: { oneOf: [{ $ref: "#/$defs/T" }, { $ref: "#/$defs/T" }] } } },
    ]) {
      expect(fitSchema(schema).schema).toMatchObject({ type: "object", properties: {} });
    }
  });

  it("gives an object without a union at its top, whatever stands there", () => {
    const words = [
      "type",
      "properties",
      "required",
      "anyOf",
      "oneOf",
      "allOf",
      "$ref",
      "$defs",
      "additionalProperties",
      "A",
    ];
    const { schema } = fc.letrec((tie) => ({
      schema: fc.dictionary(fc.constantFrom(...words), tie("value"), { maxKeys: 6 }),
      value: fc.oneof(
        { maxDepth: 5 },
        fc.constantFrom(
          "object",
          "string",
          "#/$defs/A",
          "#/properties/A",
          "#",
          true,
          null,
          ["A", "type"],
          ["object", "null"],
        ),
        fc.array(tie("schema"), { maxLength: 4 }),
        tie("schema"),
      ),
    }));
    fc.assert(
      fc.property(schema, (written) => {
        const before = JSON.stringify(written);
        const { schema: fitted } = fitSchema(written as Fields);
        expect(fitted.type).toBe("object");
        for (const union of ["anyOf", "oneOf", "allOf", "$ref"]) expect(fitted[union]).toBeUndefined();
        if (fitted.properties !== undefined) expect(fitted.properties).toBeTypeOf("object");
        if (fitted.required !== undefined) expect(fitted.required).toSatisfy(Array.isArray);
        // The client's own schema is not ours to change.
        expect(JSON.stringify(written)).toBe(before);
        expect(fitSchema(fitted).schema).toEqual(fitted);
      }),
      { numRuns: 500 },
    );
  });

  it("is not blown up by references that many branches share", () => {
    const wide = Object.fromEntries(Array.from({ length: 5_000 }, (_, i) => [`p${i}`, TEXT]));
    const doubling = Object.fromEntries(
      Array.from({ length: 60 }, (_, i) => [
        `d${i}`,
        { anyOf: [{ $ref: `#/$defs/d${i + 1}` }, { $ref: `#/$defs/d${i + 1}`, title: "t" }] },
      ]),
    );
    const itself = Array.from({ length: 10 }, () => ({ $ref: "#/$defs/T" }));
    const started = performance.now();
    for (const union of ["anyOf", "allOf"]) {
      const branches = Array.from({ length: 5_000 }, (_, i) => ({ title: `${i}`, $ref: "#/$defs/wide" }));
      expect(fitSchema({ [union]: branches, $defs: { wide: { properties: wide } } }).schema.type).toBe("object");
    }
    expect(fitSchema({ $ref: "#/$defs/d0", $defs: { ...doubling, d60: { properties: wide } } }).schema.type).toBe(
      "object",
    );
    expect(fitSchema({ anyOf: itself, $defs: { T: { oneOf: itself } } }).schema.type).toBe("object");
    expect(performance.now() - started).toBeLessThan(2_000);
  });
});
