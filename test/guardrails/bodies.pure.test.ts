/**
 * Whole bodies of the Messages API, of every kind of block there is, in any spelling: what is to be masked in them is known
 * from how they are made, and so is every byte of what must come out.
 */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type Guardrails, stricter } from "../../src/guardrails/policy.ts";
import { Rails } from "../../src/guardrails/rails.ts";
import { PlaceholderTable } from "../../src/guardrails/table.ts";
import { bytesOf, textOfBytes } from "./stand-in.ts";

/** What the real detectors find, by itself, and what is the same for all its spellings. */
const FINDINGS: readonly (readonly [type: string, value: string, same: string])[] = [
  ["EMAIL", "jane.doe@example.com", "jane"],
  ["EMAIL", "Jane.Doe@Example.com", "jane"],
  ["EMAIL", "wei@beispiel.de", "wei"],
  ["IBAN", "DE89370400440532013000", "iban"],
  ["SECRET", "sk-ant-api03-AbCdEf0123456789AbCdEf0123456789AbCdEf0123456789", "key"],
  ["CASE", "CASE/1234", "1234"],
  ["CASE", "CASE/5678", "5678"],
];
const GUARDRAILS: Guardrails = {
  redact: ["EMAIL", "IBAN"],
  secrets: "mask",
  patterns: [{ name: "CASE", pattern: "CASE/[0-9]{4}" }],
};
const FILLERS = [
  "hello",
  "né",
  "😀",
  'a"b\\c',
  "\u0007",
  "\ud800",
  "/a/b",
  "[1]",
  "\n",
  "<b>",
  "\u2028",
  "你好",
  "\u007f",
];

type Part = { readonly text: string; readonly found: (typeof FINDINGS)[number] | null };
/** A value, and what of it people have written. */
type Node =
  | { readonly kind: "text"; readonly parts: readonly Part[] }
  | { readonly kind: "opaque"; readonly text: string }
  | { readonly kind: "json"; readonly json: string }
  | { readonly kind: "list"; readonly items: readonly Node[] }
  | { readonly kind: "object"; readonly fields: readonly (readonly [string, Node])[] };

const json = (value: unknown): Node => ({ kind: "json", json: JSON.stringify(value) });
const list = (...items: Node[]): Node => ({ kind: "list", items });
const object = (fields: Readonly<Record<string, Node | string>>): Node => ({
  kind: "object",
  fields: Object.entries(fields).map(([key, node]) => [key, typeof node === "string" ? json(node) : node]),
});

const finding = fc.constantFrom(...FINDINGS);
const text: fc.Arbitrary<Node> = fc
  .array(
    fc.oneof(
      finding.map((found): Part => ({ text: found[1], found })),
      fc.constantFrom(...FILLERS).map((filler): Part => ({ text: filler, found: null })),
    ),
    { minLength: 1, maxLength: 4 },
  )
  .map((parts) => ({ kind: "text", parts }));
/** Ids, base64, signatures, names: findings stand in them as they may, and nobody looks. */
const opaque: fc.Arbitrary<Node> = finding.map(([, value]) => ({ kind: "opaque", text: `${value} ${value}` }));
const cache = fc.constantFrom(json(null), json({ type: "ephemeral" }), object({ type: "ephemeral", ttl: "1h" }));

const made = (fields: Readonly<Record<string, fc.Arbitrary<Node> | string>>): fc.Arbitrary<Node> =>
  fc
    .record(
      Object.fromEntries(
        Object.entries(fields).map(([key, value]) => [
          key,
          typeof value === "string" ? fc.constant(json(value)) : value,
        ]),
      ),
    )
    .map(object);
const listOf = (item: fc.Arbitrary<Node>): fc.Arbitrary<Node> =>
  fc.array(item, { maxLength: 2 }).map((items) => list(...items));

const citation = made({ type: "char_location", cited_text: text, document_title: text, file_id: opaque, url: opaque });
const words = made({ type: "text", text, cache_control: cache, citations: listOf(citation) });
const source = fc.oneof(
  made({ type: "base64", media_type: "application/pdf", data: opaque }),
  made({ type: "url", url: opaque }),
  made({ type: "file", file_id: opaque }),
  made({ type: "text", media_type: "text/plain", data: text }),
  made({ type: "content", content: fc.oneof(text, listOf(words)) }),
);
const picture = made({
  type: "image",
  source: fc.oneof(made({ type: "base64", data: opaque }), made({ type: "url", url: opaque })),
});
const paper = made({
  type: "document",
  source,
  title: text,
  context: text,
  citations: fc.constant(json({ enabled: true })),
});
const hit = made({ type: "search_result", source: opaque, title: text, content: listOf(words), citations: made({}) });
const given = made({ id: text, url: text, deep: listOf(made({ type: text, data: text, signature: text })) });
const BLOCKS: readonly fc.Arbitrary<Node>[] = [
  words,
  picture,
  paper,
  hit,
  made({ type: "thinking", thinking: opaque, signature: opaque }),
  made({ type: "redacted_thinking", data: opaque }),
  made({ type: "tool_use", id: opaque, name: opaque, input: given, caller: made({ tool_id: opaque }) }),
  made({ type: "tool_result", tool_use_id: opaque, content: text }),
  made({ type: "tool_result", tool_use_id: opaque, content: listOf(fc.oneof(words, picture, paper, hit)) }),
  made({ type: "server_tool_use", id: opaque, name: "web_search", input: made({ query: text }) }),
  made({
    type: "web_search_tool_result",
    tool_use_id: opaque,
    content: listOf(
      made({ type: "web_search_result", url: opaque, title: text, encrypted_content: opaque, page_age: opaque }),
    ),
  }),
  made({
    type: "web_fetch_tool_result",
    tool_use_id: opaque,
    content: made({ type: "web_fetch_result", url: opaque, content: paper }),
  }),
  made({
    type: "bash_code_execution_tool_result",
    content: made({ stdout: text, stderr: text, content: listOf(made({ file_id: opaque })) }),
  }),
  made({ type: "mcp_tool_use", id: opaque, name: opaque, server_name: opaque, input: given }),
  made({ type: "mcp_tool_result", tool_use_id: opaque, content: listOf(words) }),
  made({ type: "container_upload", file_id: opaque }),
  made({ type: "compaction", content: text, encrypted_content: opaque }),
  made({ type: "hologram", id: opaque, caption: text, parts: listOf(made({ words: text, encrypted_index: opaque })) }),
];
const content = fc.oneof(text, listOf(fc.oneof(...BLOCKS)));
const schema = made({
  type: "object",
  description: text,
  properties: made({ email: made({ type: "string", description: text, pattern: opaque, default: opaque }) }),
});
const body = made({
  model: opaque,
  system: fc.oneof(text, listOf(words)),
  messages: listOf(made({ role: "user", content })),
  metadata: made({ user_id: opaque }),
  tools: listOf(made({ name: opaque, type: "custom", description: text, input_schema: schema, cache_control: cache })),
  tool_choice: made({ type: "tool", name: opaque }),
  stop_sequences: listOf(opaque),
  container: opaque,
  mcp_servers: listOf(made({ type: "url", url: opaque, name: opaque, authorization_token: opaque })),
});

/** Writes a body in an odd way, and what must become of it. */
class Writer {
  given = "";
  expected = "";
  found = 0;
  readonly #choices: readonly number[];
  readonly #numbers = new Map<string, string>();
  readonly #counts = new Map<string, number>();
  #next = 0;

  constructor(choices: readonly number[]) {
    this.#choices = choices;
  }

  #choose(of: number): number {
    const choice = this.#choices[this.#next++ % this.#choices.length] ?? 0;
    return (choice + this.#next) % of;
  }

  #both(json: string): void {
    this.given += json;
    this.expected += json;
  }

  #space(): void {
    this.#both(["", "", "", " ", "\n\t", "\r\n  "][this.#choose(6)] ?? "");
  }

  #spelled(text: string): string {
    let json = "";
    for (const letter of text) {
      const choice = this.#choose(9);
      const hex = (upper: boolean): string =>
        [...Array(letter.length).keys()]
          .map((at) => letter.charCodeAt(at).toString(16).padStart(4, "0"))
          .map((code) => `\\u${upper ? code.toUpperCase() : code}`)
          .join("");
      if (choice < 2 || /[\ud800-\udfff]/u.test(letter)) json += hex(choice === 1);
      else if (letter === "/" && choice < 5) json += "\\/";
      else json += JSON.stringify(letter).slice(1, -1);
    }
    return json;
  }

  #placeholder([type, , same]: (typeof FINDINGS)[number]): string {
    this.found++;
    const known = this.#numbers.get(`${type} ${same}`);
    if (known) return known;
    const number = (this.#counts.get(type) ?? 0) + 1;
    this.#counts.set(type, number);
    this.#numbers.set(`${type} ${same}`, `[${type}_${number}]`);
    return `[${type}_${number}]`;
  }

  write(node: Node): void {
    this.#space();
    switch (node.kind) {
      case "json":
        this.#both(node.json);
        break;
      case "opaque":
        this.#both(`"${this.#spelled(node.text)}"`);
        break;
      case "text":
        this.#both('"');
        for (const [at, { text, found }] of node.parts.entries()) {
          if (at > 0) this.#both(" ");
          const json = this.#spelled(text);
          this.given += json;
          this.expected += found ? this.#placeholder(found) : json;
        }
        this.#both('"');
        break;
      case "list":
        this.#both("[");
        for (const [at, item] of node.items.entries()) {
          if (at > 0) this.#both(",");
          this.write(item);
        }
        this.#both("]");
        break;
      case "object": {
        const turned = this.#choose(node.fields.length + 1);
        const fields = [...node.fields.slice(turned), ...node.fields.slice(0, turned)];
        // A field that occurs twice is the same kind of thing both times.
        const again = fields[this.#choose(fields.length * 4)];
        if (again) fields.push(again);
        this.#both("{");
        for (const [at, [key, value]] of fields.entries()) {
          if (at > 0) this.#both(",");
          this.#space();
          this.#both(`"${this.#spelled(key)}"`);
          this.#space();
          this.#both(":");
          this.write(value);
        }
        this.#both("}");
      }
    }
    this.#space();
  }
}

const rails = new Rails(stricter(GUARDRAILS, null) ?? expect.unreachable());
const choices = fc.array(fc.nat(1_000), { minLength: 1, maxLength: 40 });

function guarded(node: Node, how: readonly number[], kind: "messages" | "batch"): Writer {
  const writer = new Writer(how);
  writer.write(node);
  JSON.parse(writer.given);
  const { bytes, counts, done } = rails.request(
    { bytes: bytesOf(writer.given), kind, betas: null },
    new PlaceholderTable(),
  );
  expect(textOfBytes(bytes)).toBe(writer.expected);
  expect(Object.values(counts).reduce((sum, n) => sum + n, 0)).toBe(writer.found);
  expect(done).toBe(writer.found > 0 ? "masked" : "passed");
  return writer;
}

describe("a body", () => {
  it("is masked in what people wrote, and is the same everywhere else, byte for byte (N-02, N-05)", () => {
    fc.assert(
      fc.property(body, choices, (node, how) => void guarded(node, how, "messages")),
      { numRuns: 150 },
    );
  });

  it("is so block by block", () => {
    for (const block of BLOCKS) {
      const inMessage = block.map((node) => object({ messages: list(object({ role: "user", content: list(node) })) }));
      fc.assert(
        fc.property(inMessage, choices, (node, how) => void guarded(node, how, "messages")),
        { numRuns: 15 },
      );
    }
  });

  it("is so in a batch, whose names of requests nobody looks into", () => {
    const batch = made({ requests: listOf(made({ custom_id: opaque, params: body })) });
    fc.assert(
      fc.property(batch, choices, (node, how) => void guarded(node, how, "batch")),
      { numRuns: 40 },
    );
  });
});
