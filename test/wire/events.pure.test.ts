import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  EventReader,
  MAX_LINE_CHARS,
  type RawEvent,
  RawEventReader,
  type StreamEvent,
} from "../../src/wire/anthropic/events.ts";
import { heldOf } from "../support/heap.ts";
import { answers, bytesOf, cut, lines } from "../support/messages-streams.ts";

const FIXTURES = join(import.meta.dirname, "../fixtures/anthropic");
const streams = readdirSync(FIXTURES).filter((name) => name.endsWith(".sse"));

function read(pieces: readonly Uint8Array[]): StreamEvent[] {
  const reader = new EventReader();
  return pieces.flatMap((piece) => reader.read(piece));
}
const readText = (text: string) => read([new TextEncoder().encode(text)]);
const delta = (data: string) => `event: content_block_delta\ndata: ${data}\n\n`;
const UNREADABLE = {
  type: "error",
  error: { type: "api_error", message: "The upstream API sent an event that can't be read." },
};

describe("EventReader", () => {
  it("gives back what was written, however it is written and cut", () => {
    fc.assert(
      fc.property(answers(), lines, fc.array(fc.nat(), { maxLength: 20 }), ({ events }, form, cuts) => {
        const meant = events.map((event) =>
          event.type === "ping" ? { type: "ping" } : JSON.parse(JSON.stringify(event)),
        );
        expect(read(cut(bytesOf(events, form), cuts))).toEqual(meant);
      }),
      { numRuns: 500 },
    );
  });

  it.each(streams)("reads %s the same at every size of its pieces", (name) => {
    const bytes = new Uint8Array(readFileSync(join(FIXTURES, name)));
    const whole = read([bytes]);
    for (const size of [1, 3, 64]) {
      const places = Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) => i * size);
      expect(read(cut(bytes, places))).toEqual(whole);
    }
    expect(whole.length).toBeGreaterThan(0);
  });

  it("ends no event before its blank line", () => {
    const stop = 'event: message_stop\ndata: {"type":"message_stop"}\n';
    expect(readText(stop)).toEqual([]);
    expect(readText(`${stop}\n`)).toEqual([{ type: "message_stop" }]);
    // What closes a torn event makes a ping of it.
    expect(readText(`${delta('{"type":"content').slice(0, -2)}\nevent: ping\n\n`)).toEqual([{ type: "ping" }]);
    const whole = delta('{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"}}');
    expect(readText(`${whole.slice(0, -1)}event: ping\n\n`)).toEqual([{ type: "ping" }]);
  });

  it.each([
    // Each is a step away from the form that is read without parsing it.
    ['{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"}, "x":"b"}}', null],
    [
      '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a","x":"b"}}',
      { text: "a", x: "b" },
    ],
    ['{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a\\"}}', null],
    ['{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a\\u12"}}', null],
    ['{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a\tb"}}', null],
    ['{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a\\tb"}}', { text: "a\tb" }],
    ['{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a\\tb"]}', null],
    ['{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a\\tb"} }', { text: "a\tb" }],
    ['{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"}  }', { text: "a" }],
    ['{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"}}}', null],
    ['{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"\\ud83d"}}', { text: "\ud83d" }],
    ['{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":""}}', { text: "" }],
  ])("reads a delta as JSON does: %s", (data, more) => {
    const event = { type: "content_block_delta", index: 0, delta: { type: "text_delta", ...more } };
    expect(readText(delta(data))).toEqual([more ? event : UNREADABLE]);
  });

  it("takes a piece of the message that is not JSON for the end, and passes over others", () => {
    const stop = 'event: message_stop\ndata: {"type":"message_stop"}\n\n';
    expect(readText(`${delta("{oops")}${stop}`)).toEqual([UNREADABLE]);
    expect(readText(`event: message_delta\ndata: 7\n\n${stop}`)).toEqual([UNREADABLE]);
    expect(readText(`event: tomorrow\ndata: {oops\n\n${stop}`)).toEqual([{ type: "message_stop" }]);
    expect(readText(`data: [DONE]\n\nevent: nothing\n\n${stop}`)).toEqual([{ type: "message_stop" }]);
  });

  it("goes by the names `error` and `ping`, and else by what the data says", () => {
    expect(readText("event: error\ndata: <html>\n\n")).toEqual([UNREADABLE]);
    expect(readText('event: error\ndata: {"error":{"type":"overloaded_error","message":"Overloaded"}}\n\n')).toEqual([
      { type: "error", error: { type: "overloaded_error", message: "Overloaded" } },
    ]);
    expect(readText('event: ping\ndata: {"type":"message_stop"}\n\n')).toEqual([{ type: "ping" }]);
    expect(readText('data: {"type":"message_stop"}\n\n')).toEqual([{ type: "message_stop" }]);
    expect(readText("event: message_stop\ndata: {}\n\n")).toEqual([{ type: "message_stop" }]);
  });

  it("holds no line longer than its limit", () => {
    const reader = new EventReader();
    const piece = new Uint8Array(MAX_LINE_CHARS / 4).fill(97);
    expect(reader.read(new TextEncoder().encode("event: content_block_start\ndata:"))).toEqual([]);
    for (let i = 0; i < 3; i++) expect(reader.read(piece)).toEqual([]);
    expect(reader.read(piece.subarray(5))).toEqual([]);
    expect(reader.read(piece.subarray(0, 1))).toEqual([UNREADABLE]);
    expect(reader.read(piece)).toEqual([]);
  });

  it("never throws, whatever bytes it is fed", () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 60 }), { maxLength: 20 }), (pieces) => {
        read(pieces);
      }),
      { numRuns: 1000 },
    );
  });

  it("says what does not hold what it was read from", () => {
    let said = "";
    const { text, held } = heldOf(({ delta }) => {
      said += (delta as { text: string }).text;
    });
    // Beside its 20 characters a piece takes about 50 bytes of the heap; the event that said it has 130.
    expect(held).toBeLessThan(5 * text.length);
    expect(said).toBe(text);
  });
});

describe("RawEventReader", () => {
  const raw = (pieces: readonly Uint8Array[]): RawEvent[] => {
    const reader = new RawEventReader();
    return pieces.flatMap((piece) => reader.read(piece));
  };
  const rawText = (text: string) => raw([new TextEncoder().encode(text)]);

  it("reads the events of the plain reader, each with its own JSON in one line", () => {
    fc.assert(
      fc.property(answers(), lines, fc.array(fc.nat(), { maxLength: 20 }), ({ events }, form, cuts) => {
        const bytes = bytesOf(events, form);
        const found = raw(cut(bytes, cuts));
        expect(found.map(({ event }) => event)).toEqual(read([bytes]));
        for (const [i, { data, event }] of found.entries()) {
          expect(data).not.toMatch(/[\r\n]/);
          expect(JSON.parse(data)).toEqual(JSON.parse(JSON.stringify(events[i])));
          expect(JSON.parse(data).type).toBe(event.type);
        }
      }),
      { numRuns: 500 },
    );
  });

  it.each(streams)("gives the data of %s to the letter", (name) => {
    const bytes = new Uint8Array(readFileSync(join(FIXTURES, name)));
    const ended = new TextDecoder()
      .decode(bytes)
      .split(/\r?\n\r?\n/)
      .slice(0, -1);
    const data = ended.flatMap((event) => /^data: ([^\r\n]*)/m.exec(event)?.[1] ?? []);
    expect(raw([bytes]).map((event) => event.data)).toEqual(data);
    expect(raw(Array.from(bytes, (byte) => new Uint8Array([byte]))).map((event) => event.data)).toEqual(data);
  });

  it("keeps padding, escapes and unknown fields, and makes spaces of line breaks", () => {
    const padded = '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"\\u00e9 \\n"}  }';
    expect(rawText(delta(padded))).toMatchObject([{ data: padded, event: { delta: { text: "é \n" } } }]);
    expect(rawText('event: new\ndata: {"type":"new",\ndata: "a":1}\n\n')).toEqual([
      { data: '{"type":"new", "a":1}', event: { type: "new", a: 1 } },
    ]);
    expect(
      rawText('event: error\ndata: {"type":"error","error":{"type":"a","message":"b"},"request_id":"r"}\n\n'),
    ).toEqual([
      {
        data: '{"type":"error","error":{"type":"a","message":"b"},"request_id":"r"}',
        event: { type: "error", error: { type: "a", message: "b" } },
      },
    ]);
  });

  it("says the type where the data doesn't, and leaves out what only closes a torn event", () => {
    expect(rawText('event: new\ndata: {"a":1}\n\n')[0]?.data).toBe('{"a":1,"type":"new"}');
    expect(rawText("event: ping\n\n")).toEqual([{ data: '{"type":"ping"}', event: { type: "ping" } }]);
    expect(rawText(`${delta('{"type":"content').slice(0, -2)}\nevent: ping\n\n`)).toEqual([]);
    expect(rawText("event: error\ndata: 7\n\n")).toEqual([{ data: JSON.stringify(UNREADABLE), event: UNREADABLE }]);
    expect(rawText(delta("{oops"))).toEqual([{ data: JSON.stringify(UNREADABLE), event: UNREADABLE }]);
    expect(rawText("event: new\ndata: [1]\n\n")).toEqual([]);
  });
});
