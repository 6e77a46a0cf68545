import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { PlaceholderTable } from "../../src/guardrails/table.ts";
import { unmaskingStream, unmaskMessage, unmaskText } from "../../src/guardrails/unmask.ts";
import { bytesOf, textOfBytes } from "./stand-in.ts";
import { callBlock, cut, delta, END, event, streamOf, textBlock, thinkingBlock, through, told } from "./streams.ts";

const ODD = 'jo"\\é😀\n\u0001@x.org';
const table = PlaceholderTable.from({
  values: [
    ["EMAIL_1", "a@x.org"],
    ["EMAIL_2", ODD],
    ["EMAIL_12", "twelve@x.org"],
    ["ticket-no_1", "T 1"],
  ],
  taken: [],
});
const unmasked = (stream: string, pieces: number | readonly number[] = 7): string =>
  through(unmaskingStream(table), stream, pieces);

describe("unmaskText", () => {
  it.each([
    ["to the letter", "[EMAIL_1]", "a@x.org"],
    ["twice, side by side", "[EMAIL_1][EMAIL_12]", "a@x.orgtwelve@x.org"],
    ["with Markdown's backslashes", "\\[EMAIL_1\\] [EMAIL\\_1] \\[EMAIL\\_1\\]", "a@x.org a@x.org a@x.org"],
    ["as a link's text, and inside of brackets", "[EMAIL_1](x) [[EMAIL_1]]", "a@x.org(x) [a@x.org]"],
    ["behind an escaped backslash", "\\\\[EMAIL_1]", "\\\\a@x.org"],
    ["an own pattern's", "[ticket-no_1]", "T 1"],
    ["not without brackets", "EMAIL_1", "EMAIL_1"],
    ["not in lower case", "[email_1]", "[email_1]"],
    ["not one that is not its own", "[EMAIL_3] [EMAIL_1", "[EMAIL_3] [EMAIL_1"],
    ["not with one backslash of two", "[EMAIL_1\\]", "[EMAIL_1\\]"],
  ])("finds a placeholder %s", (_how, text, expected) => {
    expect(unmaskText(text, table)).toBe(expected);
  });
});

describe("unmaskMessage", () => {
  it("puts values back, as JSON, also what is written with escapes, also in what a tool is given", () => {
    const json =
      '{ "content":[{"type":"text","text":"\\u005bEMAIL_2\\u005d \\u00e9"},{"type":"thinking","thinking":"[EMAIL_1]","signature":"[EMAIL_1]"},' +
      '{"type":"tool_use","id":"[EMAIL_1]","name":"f","input":{"[EMAIL_1]":["[EMAIL_2]"]}}], "model":"[EMAIL_1]"}';
    const after = JSON.parse(textOfBytes(unmaskMessage(bytesOf(json), table)));
    expect(after).toEqual({
      content: [
        { type: "text", text: `${ODD} é` },
        { type: "thinking", thinking: "[EMAIL_1]", signature: "[EMAIL_1]" },
        { type: "tool_use", id: "[EMAIL_1]", name: "f", input: { "a@x.org": [ODD] } },
      ],
      model: "[EMAIL_1]",
    });
  });

  it("gives back the very bytes that hold nothing to put back, and those that are no JSON", () => {
    for (const text of ['{"content":[{"type":"text","text":"[1] \\u00e9"}]}', '{"content":"[EMAIL_1]', "[EMAIL_1]"]) {
      const bytes = bytesOf(text);
      expect(unmaskMessage(bytes, table)).toBe(bytes);
    }
  });
});

const piece = fc.oneof(
  fc.constantFrom(
    "[EMAIL_1]",
    "[EMAIL_2]",
    "[EMAIL_12]",
    "\\[EMAIL\\_1\\]",
    "[ticket-no_1]",
    "[EMAIL_1",
    "[EMAIL",
    "[",
    "\\",
    "]",
  ),
  fc.constantFrom("\\[", "é", "😀", "\n", '"', "[EMAIL_3]", "[1]", "_1]", " "),
  fc.string({ maxLength: 8 }),
);
const words = fc.array(piece, { maxLength: 10 }).map((parts) => parts.join(""));
const cuts = fc.array(fc.nat(10_000), { maxLength: 12 });
const lineEnd = fc.constantFrom("\n", "\r\n", "\r");

describe("unmaskingStream", () => {
  it("says what unmasking the whole text would, however text and bytes are cut, and keeps the grammar", () => {
    fc.assert(
      fc.property(
        words,
        words,
        words,
        cuts,
        cuts,
        lineEnd,
        fc.boolean(),
        (text, more, key, places, bytePlaces, end, spaced) => {
          const input = { [key]: [text, { deep: more }] };
          const json = JSON.stringify(input, null, spaced ? 2 : 0);
          const events = [
            ...textBlock(0, ...cut(text, places)),
            ...thinkingBlock(1, ...cut(more, places)),
            ...callBlock(2, "", ...cut(json, places)),
            ...textBlock(3, ...cut(more, bytePlaces)),
          ];
          const { blocks, types } = told(unmasked(streamOf(events, end), bytePlaces));
          expect(blocks.map(({ text: said }) => said)).toEqual([
            unmaskText(text, table),
            undefined,
            undefined,
            unmaskText(more, table),
          ]);
          expect(blocks[1]).toMatchObject({ thinking: more, signature: "c2ln[EMAIL_1]" });
          const entries = [[unmaskText(key, table), [unmaskText(text, table), { deep: unmaskText(more, table) }]]];
          expect(JSON.parse(String(blocks[2]?.json))).toEqual(Object.fromEntries(entries));
          expect(types.slice(-2)).toEqual(["message_delta", "message_stop"]);
        },
      ),
      { numRuns: 350 },
    );
  });

  it("puts a value back wherever the bytes are cut, byte by byte", () => {
    const stream = streamOf([
      ...textBlock(0, "to [EM", "AIL_", "12] and", " [EMAIL_2]!"),
      ...callBlock(1, '{"a":"[', 'EMAIL_2]"}'),
    ]);
    const whole = unmasked(stream, 1_000_000);
    const { blocks } = told(whole);
    expect(blocks[0]?.text).toBe(`to twelve@x.org and ${ODD}!`);
    expect(JSON.parse(String(blocks[1]?.json))).toEqual({ a: ODD });
    for (let at = 0; at <= bytesOf(stream).length; at++) expect(unmasked(stream, [at])).toBe(whole);
    expect(unmasked(stream, 1)).toBe(whole);
  });

  it("finds brackets that are escaped in the JSON of an event, or in that of a tool's input", () => {
    const escapedTwice = '{"a":"\\u005bEMAIL_1\\u005d \\u005BEMAIL_1]"}';
    const raw = (json: string) => `event: content_block_delta\ndata: ${json}\n\n`;
    const [startOf, , stopOf] = textBlock(0, "x");
    const stream =
      event(startOf ?? {}) +
      raw('{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"\\u005bEMAIL_1\\u005D"}}') +
      event(stopOf ?? {}) +
      callBlock(1, ...escapedTwice.split(""))
        .map((data) => event(data))
        .join("");
    const { blocks } = told(unmasked(stream, 3));
    expect(blocks[0]?.text).toBe("a@x.org");
    expect(JSON.parse(String(blocks[1]?.json))).toEqual({ a: "a@x.org a@x.org" });
  });

  it("passes every event byte for byte that holds no placeholder, in every recorded stream", () => {
    const folder = join(import.meta.dirname, "../fixtures/anthropic");
    for (const name of readdirSync(folder).filter((file) => file.endsWith(".sse"))) {
      const stream = readFileSync(join(folder, name), "utf8");
      for (const size of [1, 61, 100_000]) expect(unmasked(stream, size), name).toBe(stream);
    }
    const odd =
      "\ufeff: [EMAIL_1]\r\n\r\nevent: ping\ndata: [EMAIL_1]\n\n" +
      'event: new_thing\rdata: {"type":"new_thing","text":"[EMAIL_1]"}\r\r' +
      'id: 1\nretry: 5\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"new_delta","text":"[EMAIL_1]"}}\n\n' +
      'data: {"broken [EMAIL_1]\n\ndata\n\n\n\nevent: error\ndata: {"type":"error","error":{"message":"[EMAIL_1]"}}\n\ndata: {"type"';
    for (const size of [1, 2, 3, 100_000]) expect(unmasked(odd, size)).toBe(odd);
  });

  it("takes a line feed behind a carriage return for part of it, wherever they are cut", () => {
    const [, words] = textBlock(0, "[EMAIL_1]");
    const stream = `event: ping\r\ndata: ${JSON.stringify(words)}\r\n\r\n`;
    for (let at = 0; at <= stream.length; at++) expect(unmasked(stream, [at])).toBe(stream);
  });

  it("lets go at once of what can't become a placeholder, and holds no more than what can", () => {
    const said = (...pieces: string[]): string[] => {
      const stream = unmaskingStream(table);
      const [begin, ...deltas] = textBlock(0, ...pieces).slice(0, -1);
      stream.push(bytesOf(event(begin ?? {})));
      return deltas.map((data) => {
        const out = textOfBytes(stream.push(bytesOf(event(data))));
        return out === "" ? "" : String(JSON.parse(out.slice(out.indexOf("data: ") + 6)).delta.text);
      });
    };
    expect(said("see [", "1] x", "[EMAIL_3", "[EMAIL_1x", "[E", "MAIL_1", "]")).toEqual([
      "see ",
      "[1] x",
      "[EMAIL_3",
      "[EMAIL_1x",
      "",
      "",
      "a@x.org",
    ]);
    expect(said("a\\", "b", "\\[EMAIL_12\\", "]")).toEqual(["a", "\\b", "", "twelve@x.org"]);
  });

  it("says what it holds before a block, a message or the stream ends, and before an error", () => {
    const events = textBlock(0, "x [EMAIL");
    const saidUpTo = (data: Record<string, unknown>, ...more: string[]) => {
      const { types, blocks } = told(
        unmasked(
          events
            .slice(0, -1)
            .map((one) => event(one))
            .join("") +
            event(data) +
            more.join(""),
        ),
      );
      expect(blocks[0]?.text).toBe("x [EMAIL");
      return types.slice(-1);
    };
    expect(saidUpTo({ type: "content_block_stop", index: 0 })).toEqual(["content_block_stop"]);
    expect(saidUpTo(END[0] ?? {})).toEqual(["message_delta"]);
    expect(saidUpTo({ type: "error", error: { type: "overloaded_error", message: "x" } })).toEqual(["error"]);
    // The stream breaks off, after a ping and inside of an event.
    expect(saidUpTo({ type: "ping" })).toEqual(["content_block_delta"]);
    expect(
      unmasked(
        `${events
          .slice(0, 2)
          .map((one) => event(one))
          .join("")}event: x`,
      ),
    ).toMatch(/\[EMAIL"\}\}\n\nevent: x$/);
  });

  it("keeps what it holds over pings and citations, and puts values back into citations", () => {
    const citation = {
      type: "char_location",
      cited_text: "of [EMAIL_2]",
      document_title: "[EMAIL_1]",
      file_id: "[EMAIL_1]",
    };
    const [begin, one, two, end] = textBlock(0, "[EMAIL", "_1]");
    const events = [begin, one, { type: "ping" }, delta(0, "citations_delta", "citation", citation), two, end];
    const { blocks } = told(unmasked(events.map((data) => event(data ?? {})).join(""), 5));
    expect(blocks[0]).toMatchObject({
      text: "a@x.org",
      citations: [{ ...citation, cited_text: `of ${ODD}`, document_title: "a@x.org" }],
    });
  });

  it("changes nothing without a table", () => {
    const stream = streamOf(textBlock(0, "[EMA", "IL_1]"));
    const empty = unmaskingStream(new PlaceholderTable());
    expect(through(empty, stream, 3)).toBe(stream);
  });

  it("reads data in several lines", () => {
    const stream =
      'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,\ndata: "delta":{"type":"text_delta","text":"[EMAIL_1]"}}\n\n';
    expect(unmasked(stream)).toContain('"text":"a@x.org"');
  });
});
