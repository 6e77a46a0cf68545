/** Which files a body refers to, and the elements of arrays in it. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { elementsOf, MAX_FILE_IDS, scanJson, trackFields } from "../../src/wire/json-scan.ts";

const encoder = new TextEncoder();
const decoder = new TextDecoder();
const RUNS = 500;

function fileIds(text: string): readonly string[] {
  const scan = scanJson(encoder.encode(text));
  if (!scan.ok) throw new Error(scan.error.kind);
  return scan.value.fileIds;
}

/** The rule, said again: a string `file_id` of an object whose `type` refers to a file. */
function referred(value: unknown, found = new Set<string>()): Set<string> {
  if (Array.isArray(value)) for (const element of value) referred(element, found);
  else if (typeof value === "object" && value !== null) {
    const { type, file_id: id } = value as Record<string, unknown>;
    for (const inner of Object.values(value)) referred(inner, found);
    if ((type === "file" || type === "container_upload") && typeof id === "string") found.add(id);
  }
  return found;
}

/** The same text with characters of its keys and values written as escapes. */
function escaped(text: string, every: number): string {
  let n = 0;
  return text.replace(/file_id|type|container_upload|file/g, (word) =>
    [...word]
      .map((letter) => (n++ % every === 0 ? `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}` : letter))
      .join(""),
  );
}

const word = fc.constantFrom("type", "file_id", "source", "text", "data", "t", "f", "toString", "file_idx");
const scalar = fc.oneof(
  fc.constantFrom<unknown>("file", "container_upload", "file_a", "file_b", "text", 7, null, true, "a\\b"),
  fc.string({ maxLength: 5 }),
);
const tree = fc.letrec((tie) => ({
  node: fc.oneof(
    { maxDepth: 5 },
    scalar,
    fc.array(tie("node"), { maxLength: 4 }),
    fc.dictionary(word, tie("node"), { maxKeys: 5 }),
    fc.record({
      type: fc.constantFrom("file", "container_upload", "base64"),
      file_id: fc.constantFrom("x1", "x2", "x3"),
    }),
    fc.record({ file_id: fc.constantFrom("y1", "y2"), between: tie("node"), type: fc.constantFrom("file", "text") }),
  ),
})).node;

describe("R-03 files that a body refers to", () => {
  it(`are found at any depth, in any order and spelling, and nothing else is (${RUNS} trees)`, () => {
    fc.assert(
      fc.property(tree, fc.integer({ min: 1, max: 9 }), (value, every) => {
        const expected = [...referred(value)].sort();
        const text = JSON.stringify(value);
        expect([...fileIds(text)].sort()).toEqual(expected);
        expect([...fileIds(escaped(text, every))].sort()).toEqual(expected);
        expect([...fileIds(JSON.stringify(value, null, 2))].sort()).toEqual(expected);
      }),
      { numRuns: RUNS },
    );
  });

  it("a tool's own argument, an output of code execution and a schema are none", () => {
    const others = [
      { type: "tool_use", id: "t", name: "n", input: { file_id: "file_mine" } },
      { type: "bash_code_execution_output", file_id: "file_made" },
      { name: "n", input_schema: { type: "object", properties: { file_id: { type: "string" } } } },
      { file_id: { type: "file" } },
    ];
    expect(fileIds(JSON.stringify(others))).toEqual([]);
  });

  it("of doubled fields each counts, whichever one a parser would take", () => {
    expect(fileIds('{"type":"file","file_id":"a","type":"text","file_id":"b"}')).toEqual(["b", "a"]);
  });

  it(`are ${MAX_FILE_IDS} at the most`, () => {
    const body = (count: number) =>
      encoder.encode(JSON.stringify(Array.from({ length: count }, (_, i) => ({ type: "file", file_id: `f${i}` }))));
    expect(scanJson(body(MAX_FILE_IDS))).toMatchObject({ ok: true });
    expect(scanJson(body(MAX_FILE_IDS + 1))).toMatchObject({ ok: false, error: { kind: "invalid_request" } });
    const doubled = `{${'"file_id":"a",'.repeat(MAX_FILE_IDS)}"file_id":"a"}`;
    expect(scanJson(encoder.encode(doubled))).toMatchObject({ ok: false, error: { kind: "invalid_request" } });
  });
});

describe("elementsOf", () => {
  it(`gives an array's elements as they were written (${RUNS} arrays)`, () => {
    fc.assert(
      fc.property(fc.array(fc.jsonValue({ maxDepth: 4 })), fc.integer({ min: 0, max: 3 }), (values, indent) => {
        const bytes = encoder.encode(JSON.stringify({ before: "]", requests: values, after: [1] }, null, indent));
        const scan = scanJson(bytes, trackFields("requests"));
        const span = scan.ok ? scan.value.fields.get("requests") : undefined;
        if (!span) throw new Error("no span");
        const found = [...elementsOf(bytes, span)].map((element) => JSON.parse(decoder.decode(element)) as unknown);
        expect(found).toEqual(JSON.parse(JSON.stringify(values)));
        expect(found).toHaveLength(span.elements);
      }),
      { numRuns: RUNS },
    );
  });
});
