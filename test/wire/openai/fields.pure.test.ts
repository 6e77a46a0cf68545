import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { FieldReader, saysSomething } from "../../../src/wire/openai/fields.ts";

describe("FieldReader", () => {
  it("keeps the first failure, with where it is, and reads what is wrong as absent", () => {
    const fields = new FieldReader({ a: 1, b: "x", c: [1], d: {}, e: null, f: true }, "outer.");
    expect([fields.number("a"), fields.text("b"), fields.list("c"), fields.object("d"), fields.flag("f")]).toEqual([
      1,
      "x",
      [1],
      {},
      true,
    ]);
    expect([fields.text("e"), fields.whole("missing", 0), fields.texts("b"), fields.failure]).toEqual([
      null,
      null,
      ["x"],
      null,
    ]);
    expect([fields.text("a"), fields.flag("b"), fields.object("c"), fields.list("d"), fields.texts("c")]).toEqual([
      null,
      null,
      null,
      null,
      null,
    ]);
    expect(fields.failure).toMatchObject({ param: "outer.a", code: "invalid_type" });
  });

  it("holds numbers to their bounds", () => {
    const whole = (n: unknown): number | null => new FieldReader({ n }).whole("n", 1);
    expect([whole(1), whole(0), whole(1.5), whole(2 ** 60), whole("1"), whole(Number.NaN)]).toEqual([
      1,
      null,
      null,
      null,
      null,
      null,
    ]);
  });
});

describe("saysSomething", () => {
  it("is what is left of a trimmed text", () => {
    fc.assert(
      fc.property(
        fc.string({ unit: fc.constantFrom(" ", "\n", "\u00a0", "\u2003", "\u0000", "\ud800", "a", "é") }),
        (text) => {
          expect(saysSomething(text)).toBe(text.trim() !== "");
        },
      ),
    );
  });
});
