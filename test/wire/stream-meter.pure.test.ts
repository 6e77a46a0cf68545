import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { StreamMeter } from "../../src/wire/anthropic/stream-meter.ts";

const FIXTURES = join(import.meta.dirname, "../fixtures/anthropic");
const streams = readdirSync(FIXTURES).filter((name) => name.endsWith(".sse"));
const bytesOf = (name: string) => new Uint8Array(readFileSync(join(FIXTURES, name)));

function meter(bytes: Uint8Array, cuts: readonly number[]): StreamMeter {
  const scanner = new StreamMeter();
  const places = [0, ...cuts.map((cut) => cut % (bytes.length + 1)), bytes.length].sort((a, b) => a - b);
  for (let i = 1; i < places.length; i++) scanner.push(bytes.subarray(places[i - 1], places[i]));
  return scanner;
}

const seen = (scanner: StreamMeter) => ({
  facts: scanner.facts,
  finished: scanner.finished,
  failed: scanner.failed,
  insideEvent: scanner.insideEvent,
  first: scanner.first,
  heard: scanner.heard,
  quiet: scanner.quiet,
});

describe("StreamMeter", () => {
  it.each(streams)("reads %s the same, however it is cut", (name) => {
    const bytes = bytesOf(name);
    const whole = seen(meter(bytes, []));
    for (const size of [1, 3, 64]) {
      const cuts = Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) => i * size);
      expect(seen(meter(bytes, cuts))).toEqual(whole);
    }
    fc.assert(
      fc.property(fc.array(fc.nat(bytes.length), { maxLength: 30 }), (cuts) => {
        expect(seen(meter(bytes, cuts))).toEqual(whole);
      }),
      { numRuns: 100 },
    );
  });

  it.each(streams.filter((name) => !/^(?:error|truncated)-/.test(name)))("sees the end of %s", (name) => {
    const final = JSON.parse(
      readFileSync(join(FIXTURES, name.replace(/(?:\.(?:bom|comments|crlf|padded))?\.sse$/, ".final.json")), "utf8"),
    );
    const { facts, finished, failed, insideEvent } = meter(bytesOf(name), []);
    expect({ finished, failed, insideEvent }).toEqual({ finished: true, failed: false, insideEvent: false });
    expect(facts.stopReason).toBe(final.stop_reason);
    expect(facts.usage).toMatchObject({
      inputTokens: final.usage.input_tokens,
      outputTokens: final.usage.output_tokens,
      cacheReadTokens: final.usage.cache_read_input_tokens ?? 0,
      estimated: false,
    });
    const { cacheWrite5mTokens, cacheWrite1hTokens } = facts.usage;
    expect(cacheWrite5mTokens + cacheWrite1hTokens).toBe(final.usage.cache_creation_input_tokens ?? 0);
  });

  it.each(streams.filter((name) => name.startsWith("truncated-")))("sees no end of %s", (name) => {
    expect(meter(bytesOf(name), [])).toMatchObject({ finished: false, failed: false });
  });

  it.each(streams.filter((name) => name.startsWith("error-")))("sees the error of %s", (name) => {
    const { failed, facts } = meter(bytesOf(name), []);
    expect(failed).toBe(true);
    expect(facts.errorType).toMatch(/_error$/);
  });

  const fed = (text: string, size = text.length): StreamMeter => {
    const bytes = new TextEncoder().encode(text);
    return meter(
      bytes,
      Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) => i * size),
    );
  };
  const named = (name: string, fields: object = {}) =>
    `event: ${name}\ndata: ${JSON.stringify({ type: name, ...fields })}\n\n`;

  it.each([
    ["", null],
    ["\n\n\r\n", null],
    [": comment\n\n", null],
    ["id: 1\nretry: 5\n\n", null],
    ["event: ping\ndata: {}\n", null],
    ["event: ping\n\n", { error: false, data: "" }],
    ["data: 1\n\n", { error: false, data: "" }],
    [`${named("message_start")}${named("error")}`, { error: false, data: "" }],
    ["event: error\n\n", { error: true, data: "" }],
    ["event: error\ndata: {a\ndata: b\n\n", { error: true, data: "{a\nb" }],
    ['\ufeff: x\n\ndata: {"type":"error"}\r\rdata: 2\n\n', { error: true, data: '{"type":"error"}' }],
    // A ping is a ping whatever it carries, as for the SDKs.
    ['event: ping\ndata: {"type":"error"}\n\n', { error: false, data: "" }],
    ["event: errors\ndata: 1\n\n", { error: false, data: "" }],
  ])("F-11 F-19 knows what the first whole event is: %j", (text, first) => {
    for (const size of [1, 2, 1_000]) expect(fed(text, size).first).toEqual(first);
  });

  it.each([
    [named("ping"), false],
    ["event: ping\n\n", false],
    ['data: {"type": "ping"}\n\n', false],
    [": comment\n\n\n", false],
    ["id: 1\nretry: 5\n\n", false],
    [named("message_start"), true],
    [named("content_block_delta"), true],
    [named("brand_new"), true],
    ["event: brand_new\n\n", true],
    // A long event that is still on its way says something, too.
    ["event: content_block_delta\ndata: {", true],
    ["event: ping\ndata: {", false],
    [": comm", false],
  ])("F-13 tells pings and comments from events: %j", (text, heard) => {
    for (const size of [1, 3, 1_000]) expect(fed(text, size).heard).toBe(heard);
  });

  it("knows when the model has begun to show something", () => {
    const block = (type: string) => named("content_block_start", { index: 0, content_block: { type } });
    const quiet = [
      "",
      named("ping"),
      named("message_start"),
      named("message_start") + block("thinking"),
      `${named("message_start")}${block("thinking")}: c\n\n${named("ping")}`,
    ];
    for (const text of quiet) for (const size of [1, 1_000]) expect(fed(text, size).quiet).toBe(true);
    const loud = [block("text"), block("tool_use"), block("redacted_thinking"), named("content_block_delta")];
    for (const text of [...loud, named("message_stop"), named("error"), named("brand_new")]) {
      for (const size of [1, 1_000]) expect(fed(named("message_start") + text, size).quiet).toBe(false);
    }
  });

  it("reads streams whose lines end in CR alone", () => {
    const text = new TextDecoder().decode(bytesOf("thinking.sse"));
    const bytes = new TextEncoder().encode(text.replaceAll("\n", "\r"));
    for (const cuts of [[], Array.from({ length: bytes.length }, (_, i) => i)]) {
      expect(meter(bytes, cuts)).toMatchObject({ finished: true, facts: { usage: { thinkingTokens: 31 } } });
    }
  });

  it("never throws and never holds more than a line, whatever bytes it is fed", () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 200 }), { maxLength: 40 }), (pieces) => {
        const scanner = new StreamMeter();
        for (const piece of pieces) scanner.push(piece);
      }),
      { numRuns: 2000 },
    );
  });

  it("passes over a line of 40 MB and marks the count as an estimate only where it mattered", () => {
    const encoder = new TextEncoder();
    const big = new Uint8Array(1024 * 1024).fill(0x61);
    const feed = (event: string) => {
      const scanner = new StreamMeter();
      scanner.push(encoder.encode(`event: ${event}\ndata: {"type":"${event}","x":"`));
      for (let i = 0; i < 40; i++) scanner.push(big);
      scanner.push(encoder.encode('"}\n\nevent: message_stop\ndata: {"type":"message_stop"}\n\n'));
      return scanner;
    };
    expect(feed("content_block_delta")).toMatchObject({ finished: true, facts: { usage: { estimated: false } } });
    expect(feed("message_delta")).toMatchObject({ finished: true, facts: { usage: { estimated: true } } });
  });

  it("counts what was written since the last cumulative count", () => {
    const scanner = new StreamMeter();
    const delta = { type: "content_block_delta", index: 0, delta: { type: "text_delta", text: "x".repeat(300) } };
    scanner.push(new TextEncoder().encode(`event: content_block_delta\ndata: ${JSON.stringify(delta)}\n\n`));
    expect(scanner.estimateOutputTokens()).toBeGreaterThanOrEqual(90);
    expect(scanner.estimateOutputTokens()).toBeLessThanOrEqual(110);
  });

  it("lets later counters replace earlier ones and clamps absurd ones", () => {
    const scanner = new StreamMeter();
    const send = (type: string, rest: object) =>
      scanner.push(new TextEncoder().encode(`event: ${type}\ndata: ${JSON.stringify({ type, ...rest })}\n\n`));
    send("message_start", { message: { model: "m", usage: { input_tokens: 5, output_tokens: 1 } } });
    send("message_delta", { delta: {}, usage: { input_tokens: 7, output_tokens: 20 } });
    send("message_delta", { delta: {}, usage: { output_tokens: 30, cache_read_input_tokens: null } });
    expect(scanner.facts.usage).toMatchObject({ inputTokens: 7, outputTokens: 30, estimated: false });
    send("message_delta", { delta: {}, usage: { output_tokens: -4, input_tokens: 1e300 } });
    expect(scanner.facts.usage).toMatchObject({ inputTokens: 7, outputTokens: 30, estimated: true });
  });
});
