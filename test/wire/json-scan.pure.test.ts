import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { MAX_JSON_DEPTH, MAX_JSON_VALUES, MIN_MEDIA_BYTES, scanJson, trackFields } from "../../src/wire/json-scan.ts";

const encoder = new TextEncoder();
const TRACKED = trackFields("model", "stream", "tools");
const scan = (text: string) => scanJson(encoder.encode(text), TRACKED);

/** What the platform's own parser says of the same bytes. */
function parses(bytes: Uint8Array): boolean {
  try {
    JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes));
    return true;
  } catch {
    return false;
  }
}

describe("scanJson", () => {
  it("accepts every JSON document, however it is spaced", () => {
    fc.assert(
      fc.property(fc.json({ maxDepth: 6 }), fc.integer({ min: 0, max: 8 }), (text, indent) => {
        expect(scan(JSON.stringify(JSON.parse(text), null, indent)).ok).toBe(true);
      }),
      { numRuns: 2000 },
    );
  });

  it("agrees with JSON.parse on documents with bytes changed, lost or put in", () => {
    const seed = encoder.encode(
      '{"a":[1,-0.5e+7,true,false,null,"x\\u00e9\\n\\\\\\"ü€😀"],"b":{"c":{}},"long":"0123456789abcdefghijklmnopqrstuvwxyz"} ',
    );
    const edit = fc.record({
      at: fc.nat(seed.length - 1),
      drop: fc.nat(3),
      put: fc.uint8Array({ maxLength: 3 }),
    });
    fc.assert(
      fc.property(fc.array(edit, { maxLength: 3 }), (edits) => {
        let bytes = [...seed];
        for (const { at, drop, put } of edits) bytes.splice(Math.min(at, bytes.length), drop, ...put);
        bytes = bytes.map((byte) => byte & 0xff);
        const document = new Uint8Array(bytes);
        expect(scanJson(document).ok).toBe(parses(document));
      }),
      { numRuns: 20_000 },
    );
  });

  it("agrees with JSON.parse on strings of the bytes that decide about UTF-8 (30,000 strings)", () => {
    const byte = fc.constantFrom(
      ...[0x41, 0x5c, 0x22, 0x1f, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xec],
      ...[0xed, 0xee, 0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xff],
    );
    const character = fc.constantFrom("a", "\\n", "é", "€", "가", "\ud7ff", "\ue000", "\uffff", "😀", "\u{10ffff}");
    const piece = fc.oneof(
      { weight: 3, arbitrary: character.map((text) => [...encoder.encode(text)]) },
      { weight: 1, arbitrary: fc.array(byte, { maxLength: 3 }) },
    );
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 9 }), fc.nat(5), (pieces, before) => {
        const document = new Uint8Array([0x22, ...Array<number>(before).fill(0x61), ...pieces.flat(), 0x22]);
        expect(scanJson(document).ok).toBe(parses(document));
      }),
      { numRuns: 30_000 },
    );
  });

  it("agrees with JSON.parse on short texts of JSON's own characters", () => {
    const character = fc.constantFrom(...'{}[]",:0123456789.eE+-truefalsn\\u \n\t\x01é');
    fc.assert(
      fc.property(fc.array(character, { maxLength: 12 }), (characters) => {
        const bytes = encoder.encode(characters.join(""));
        expect(scanJson(bytes).ok).toBe(parses(bytes));
      }),
      { numRuns: 50_000 },
    );
  });

  it.each([
    ["", "the body is empty", 0],
    ['{"model": claude}', "unexpected character", 10],
    ['{"model":"x",}', "expected a key in double quotes", 13],
    ['{"a":1', "unexpected end", 6],
    ['{"a":1} x', "unexpected text after the document", 8],
    ['{"a" 1}', "expected `:` after a key", 5],
    ["[1 2]", "expected `,` or `]`", 3],
    ['{"a":1 "b":2}', "expected `,` or `}`", 7],
    ["[01]", "expected `,` or `]`", 2],
    ["[1.]", "expected a digit", 3],
    ["[tru]", "expected `true`", 4],
    ['["a\nb"]', "a control character in a string must be escaped", 3],
    ['["\\x"]', "invalid escape", 3],
    ['["\\u12g4"]', "expected four hexadecimal digits", 6],
    ["\uFEFF{}", "unexpected character", 0],
  ])("says what is wrong with %j, and where", (text, problem, position) => {
    expect(scan(text)).toEqual({ ok: false, error: { kind: "invalid_json", problem, position } });
  });

  it.each([
    ["an overlong form", [0x22, 0xc0, 0x80, 0x22]],
    ["a surrogate", [0x22, 0xed, 0xa0, 0x80, 0x22]],
    ["a code point beyond Unicode", [0x22, 0xf4, 0x90, 0x80, 0x80, 0x22]],
    ["a torn character", [0x22, 0xe2, 0x82, 0x22]],
    ["a lone continuation", [0x22, 0x80, 0x22]],
  ])("refuses %s as invalid UTF-8", (_name, bytes) => {
    expect(scanJson(new Uint8Array(bytes))).toMatchObject({ ok: false, error: { problem: "invalid UTF-8" } });
  });

  it("refuses UTF-16", () => {
    const utf16 = new Uint8Array([..."{}"].flatMap((character) => [character.charCodeAt(0), 0]));
    expect(scanJson(utf16).ok).toBe(false);
  });

  it("takes nesting at the limit and refuses one level more, and a million levels", () => {
    const nested = (levels: number) => scan("[".repeat(levels) + "]".repeat(levels));
    expect(nested(MAX_JSON_DEPTH).ok).toBe(true);
    for (const levels of [MAX_JSON_DEPTH + 1, 1_000_000]) {
      const result = nested(levels);
      expect(result).toMatchObject({ ok: false, error: { kind: "invalid_request" } });
      if (!result.ok) expect(JSON.stringify(result.error)).toContain("nesting is too deep");
    }
  });

  it("takes as many values as the limit says and refuses one more", () => {
    const list = (count: number) => scan(`[${"1,".repeat(count - 1)}1]`);
    expect(list(MAX_JSON_VALUES - 1).ok).toBe(true);
    expect(list(MAX_JSON_VALUES)).toMatchObject({ ok: false, error: { kind: "invalid_request" } });
  });

  it("finds tracked fields of the top level only, as they are spelled, and counts their elements", () => {
    const text = '{ "x": {"model": 1}, "model" : "a\\u0062" ,"tools":[{"n":[1,2]},{}, 3], "stream":true}';
    const result = scan(text);
    if (!result.ok) throw new Error("refused");
    const { fields } = result.value;
    const span = (name: string) => {
      const field = fields.get(name);
      return field && text.slice(field.start, field.end);
    };
    expect(span("model")).toBe('"a\\u0062"');
    expect(span("stream")).toBe("true");
    expect(fields.get("tools")?.elements).toBe(3);
    expect(result.value.duplicates).toEqual([]);
  });

  it("sees a doubled field through its escapes", () => {
    const result = scan('{"model":"a","mod\\u0065l":"b","stream":true}');
    expect(result).toMatchObject({ ok: true, value: { duplicates: ["model"] } });
  });

  it("weighs the media of a body, whatever it looks like (3,000 documents)", () => {
    const name = fc.constantFrom("data", "dat", "datax", "date", "mata", "type", "content");
    const text = fc
      .tuple(
        fc.constantFrom(0, 3, MIN_MEDIA_BYTES - 1, MIN_MEDIA_BYTES, MIN_MEDIA_BYTES + 77),
        fc.constantFrom("a", "+"),
      )
      .map(([length, character]) => character.repeat(length));
    const { value } = fc.letrec<{ value: unknown }>((tie) => ({
      value: fc.oneof(
        { depthSize: "small" },
        text,
        fc.constantFrom(1, true, null),
        fc.array(tie("value"), { maxLength: 3 }),
        fc.dictionary(name, tie("value"), { maxKeys: 3 }),
      ),
    }));
    const weigh = (node: unknown, key: string | null): readonly [bytes: number, count: number] => {
      if (typeof node === "string") return key === "data" && node.length >= MIN_MEDIA_BYTES ? [node.length, 1] : [0, 0];
      if (typeof node !== "object" || node === null) return [0, 0];
      const parts = Object.entries(node).map(([name, child]) => weigh(child, Array.isArray(node) ? null : name));
      return parts.reduce(([bytes, count], part) => [bytes + part[0], count + part[1]], [0, 0] as const);
    };
    fc.assert(
      fc.property(value, fc.integer({ min: 0, max: 2 }), (document, indent) => {
        const [mediaBytes, mediaCount] = weigh(document, null);
        expect(scan(JSON.stringify(document, null, indent))).toMatchObject({
          ok: true,
          value: { mediaBytes, mediaCount },
        });
      }),
      { numRuns: 3_000 },
    );
  });
});
