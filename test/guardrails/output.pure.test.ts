import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { MAX_EVENT_BYTES } from "../../src/guardrails/apply/event-splitter.ts";
import { type OutputRules, redactingStream, redactMessage } from "../../src/guardrails/output.ts";
import type { Act } from "../../src/guardrails/policy.ts";
import { PlaceholderTable } from "../../src/guardrails/table.ts";
import { bytesOf, jsonBytes, maskBody, standIn, textOfBytes } from "./stand-in.ts";
import { callBlock, cut, delta, event, streamOf, textBlock, thinkingBlock, through, told } from "./streams.ts";

const ALL: readonly (readonly [string, Act])[] = [
  ["EMAIL", "mask"],
  ["US_SSN", "mask"],
  ["SECRET", "mask"],
];
const rules = (acts = ALL, detect = standIn): OutputRules => ({
  detect,
  acts: new Map(acts),
  table: new PlaceholderTable(),
});
const redacted = (stream: string, pieces: number | readonly number[] = 7, given = rules()): string =>
  through(redactingStream(given).stream, stream, pieces);

const piece = fc.oneof(
  fc.constantFrom("jane@doe.org", "x@y.org", "joé@ex.com", "123-45-6789", "123-45-67890", "sk-abcdefgh12", "sk-a"),
  fc.constantFrom(
    " ",
    "\n",
    "@",
    "-",
    "😀",
    '"',
    "\\",
    "。",
    "a long way to go from here to there, word by word",
    "[EMAIL_1]",
  ),
  fc.string({ unit: "binary", maxLength: 6 }),
);
const words = fc.array(piece, { maxLength: 14 }).map((parts) => parts.join(""));
const cuts = fc.array(fc.nat(10_000), { maxLength: 12 });

describe("redactingStream", () => {
  it("says what the whole message says once it is masked, however text and bytes are cut", () => {
    fc.assert(
      fc.property(words, words, words, cuts, cuts, fc.boolean(), (text, more, key, places, bytePlaces, spaced) => {
        const input = { [key]: [text, { deep: more }, 1], more: [] };
        const json = JSON.stringify(input, null, spaced ? 2 : 0);
        const message = {
          type: "message",
          content: [
            { type: "text", text },
            { type: "thinking", thinking: more, signature: "c2ln[EMAIL_1]" },
            { type: "tool_use", id: "toolu_2", name: "f", input },
          ],
        };
        const events = [
          ...textBlock(0, ...cut(text, places)),
          ...thinkingBlock(1, ...cut(more, places)),
          ...callBlock(2, "", ...cut(json, places)),
        ];
        const whole = redactMessage(jsonBytes(message), rules());
        const { stream, counts } = redactingStream(rules());
        const { blocks } = told(through(stream, streamOf(events), bytePlaces));
        const { content } = JSON.parse(textOfBytes(whole.bytes));
        expect(blocks[0]?.text).toBe(content[0].text);
        expect(blocks[1]?.thinking).toBe(more);
        expect(JSON.parse(String(blocks[2]?.json))).toEqual(content[2].input);
        expect(counts).toEqual(whole.counts);
      }),
      { numRuns: 250 },
    );
  });

  it("masks what is cut anywhere, byte by byte", () => {
    const stream = streamOf([
      ...textBlock(0, "to ja", "ne@doe.", "org, 123-4", "5-6789"),
      ...callBlock(1, '{"a":"x@y.', 'o\\u0072g"}'),
    ]);
    const whole = told(redacted(stream, 1_000_000));
    expect(whole.blocks[0]?.text).toBe("to [EMAIL_1], [US_SSN_1]");
    expect(JSON.parse(String(whole.blocks[1]?.json))).toEqual({ a: "[EMAIL_2]" });
    for (let at = 0; at <= bytesOf(stream).length; at++) expect(told(redacted(stream, [at]))).toEqual(whole);
  });

  it("holds back no more than a finding can be", () => {
    const text = "word ".repeat(160);
    const delayed = (acts: readonly (readonly [string, Act])[], long = text): number => {
      const { stream } = redactingStream(rules(acts));
      const [begin, ...deltas] = textBlock(0, ...(long.match(/[\s\S]{1,3}/g) ?? [])).slice(0, -1);
      let out = textOfBytes(stream.push(bytesOf(event(begin ?? {}))));
      let most = 0;
      let given = 0;
      for (const data of deltas) {
        out += textOfBytes(stream.push(bytesOf(event(data))));
        given += String((data.delta as { text: string }).text).length;
        most = Math.max(most, given - String(told(out).blocks[0]?.text).length);
      }
      return most;
    };
    expect(delayed([["EMAIL", "mask"]])).toBeLessThan(24 + 5);
    expect(delayed([["SECRET", "mask"]])).toBeLessThan(24 + 5);
    expect(delayed([["US_SSN", "mask"]])).toBeLessThan(40 + 24);
    expect(delayed([["own", "mask"]])).toBeLessThan(256 + 24);
    expect(delayed([["EMAIL", "mask"]], "x".repeat(900))).toBeLessThan(512 + 3);
    expect(delayed([["EMAIL", "audit"]], "x".repeat(900))).toBe(0);
    expect(delayed([["EMAIL", "mask"]], "这是一个很长的句子没有空格".repeat(50))).toBeLessThan(24);
  });

  it("shows the detector the words that stand before, wherever the text is cut", () => {
    const detect = (text: string) =>
      [...text.matchAll(/(?<=the pin is: )\d{4}/g)].map(({ index }) => ({ start: index, end: index + 4, type: "PIN" }));
    for (let shift = 0; shift < 60; shift++) {
      const text = `${"word ".repeat(60)}${"x".repeat(shift)} the pin is: 1234 ${"word ".repeat(70)}`;
      const said = redacted(
        streamOf(textBlock(0, ...(text.match(/[\s\S]{1,24}/g) ?? []))),
        999,
        rules([["PIN", "mask"]], detect),
      );
      expect(told(said).blocks[0]?.text).toBe(text.replace("1234", "[PIN_1]"));
    }
  });

  it("cuts no character of two units", () => {
    for (const shift of ["", "x"]) {
      const stream = streamOf(
        textBlock(0, ...Array.from({ length: 90 }, (_, n) => (n === 0 ? `${shift}😀` : "😀 😀"))),
      );
      expect(redacted(stream)).not.toMatch(/\\ud/);
      expect(redacted(stream, 7, rules([["own", "mask"]]))).not.toMatch(/\\ud/);
    }
  });

  it("masks a finding that is longer than the window as far as it goes", () => {
    const secret = `sk-${"a".repeat(9_000)}`;
    const pieces = `see ${secret} and on`.match(/[\s\S]{1,100}/g) ?? [];
    const { blocks } = told(redacted(streamOf(textBlock(0, ...pieces))));
    expect(blocks[0]?.text).toBe("see [SECRET_1] and on");
  });

  it("waits for the end of a private key", () => {
    const key = `-----BEGIN RSA PRIVATE KEY-----\n${"QUJD ".repeat(300)}\n-----END RSA PRIVATE KEY-----`;
    const detect = (text: string) =>
      [...text.matchAll(/-----BEGIN[^-]*-----[^-]*-----END[^-]*-----/g)].map(({ index, 0: found }) => ({
        start: index,
        end: index + found.length,
        type: "SECRET",
      }));
    const pieces = `see ${key} end`.match(/[\s\S]{1,9}/g) ?? [];
    const { blocks } = told(redacted(streamOf(textBlock(0, ...pieces)), 500, rules([["SECRET", "mask"]], detect)));
    expect(blocks[0]?.text).toBe("see [SECRET_1] end");
  });

  it("only counts in audit, and says everything at once as it came", () => {
    const { stream, counts } = redactingStream(
      rules([
        ["EMAIL", "audit"],
        ["US_SSN", "audit"],
        ["SECRET", "audit"],
      ]),
    );
    const text = streamOf([...textBlock(0, "a@x.", "org 123-45", "-6789"), ...callBlock(1, '{"k":"b@x.org"}')]);
    expect(through(stream, text, 5)).toBe(text);
    expect(counts).toEqual({ EMAIL: 2, US_SSN: 1 });
  });

  it("ends the stream at what must not be said", () => {
    const given = () =>
      rules([
        ["EMAIL", "mask"],
        ["SECRET", "block"],
      ]);
    const stream = streamOf([...textBlock(0, "a@x.org sk-abcdef", "gh12 and more"), ...textBlock(1, "never")]);
    const said = redacted(stream, 9, given());
    expect(said).not.toContain("sk-");
    expect(said).not.toContain("never");
    expect(told(said).types.at(-1)).toBe("error");
    expect(told(said).blocks[0]?.text).toMatch(/^\[EMAIL_1\] \[SECRET_1\]/);
    expect(redactMessage(jsonBytes({ content: [{ type: "text", text: "sk-abcdefgh12" }] }), given()).blocked).toBe(
      "SECRET",
    );
  });

  it("looks through what comes as a whole, and ends at what it can't look through", () => {
    const citation = { type: "char_location", cited_text: "a@x.org", url: "a@x.org" };
    const result = {
      type: "web_fetch_tool_result",
      content: { url: "a@x.org", content: { source: { type: "text", data: "b@x.org" } } },
    };
    const [begin, end] = textBlock(0);
    const events = [begin, delta(0, "citations_delta", "citation", citation), end];
    const all = [
      ...events,
      { type: "content_block_start", index: 1, content_block: result },
      { type: "content_block_stop", index: 1 },
    ];
    const said = redacted(all.map((data) => event(data ?? {})).join(""), 11);
    expect(said).toContain('"cited_text":"[EMAIL_1]","url":"a@x.org"');
    expect(said).toContain('"url":"a@x.org","content":{"source":{"type":"text","data":"[EMAIL_2]"}}');
    expect(redacted('event: new\ndata: {"type":"new","words":"a@x.org"}\n\n')).toContain('"words":"[EMAIL_1]"');
    for (const torn of [
      'event: content_block_delta\ndata: {"text":"a@x.org"\n\n',
      'data: {"type":"content_block_delta","delta":{"text":"a@x.org"',
    ]) {
      expect(redacted(torn)).not.toContain("a@x.org");
    }
    const { stream } = redactingStream(rules());
    const large = bytesOf(`data: "${"x".repeat(MAX_EVENT_BYTES)}`);
    expect(textOfBytes(stream.push(large))).toContain("event: error");
    expect(stream.ended).toBe(true);
    expect(stream.push(bytesOf("more")).length).toBe(0);
  });

  it("keeps the request's placeholders apart from its own", () => {
    const table = new PlaceholderTable();
    maskBody(jsonBytes({ system: "a@x.org" }), standIn, table);
    const { bytes } = redactMessage(jsonBytes({ content: [{ text: "[EMAIL_1] b@x.org" }] }), {
      ...rules(),
      table: new PlaceholderTable(table),
    });
    expect(textOfBytes(bytes)).toContain("[EMAIL_1] [EMAIL_2]");
  });
});
