import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { readTruncated } from "../../simulator/json.ts";
import { messageOf } from "../../simulator/message.ts";
import { byteSteps } from "../../simulator/stream.ts";
import { promptBlocks, sumTokens } from "../../simulator/tokens.ts";
import { accumulate, answered, type Json, parseSse, requests, textOf, writes } from "./support.ts";

/** The SDK's own reading of a truncated JSON text. It is no public export, so it is found by its place. */
const { partialParse } = (await import(
  new URL("../../node_modules/@anthropic-ai/sdk/_vendor/partial-json-parser/parser.mjs", import.meta.url).href
)) as { partialParse: (text: string) => unknown };

describe("a stream", () => {
  it("obeys the grammar and accumulates to the message that is not streamed", () => {
    fc.assert(
      fc.property(requests, (body) => {
        const parts = answered(body);
        const streamed = accumulate(parseSse(textOf(writes(parts)))) as Json & { content: Json[] };
        for (const block of streamed.content) {
          if (block.type === "tool_use") block.input = block.json ? partialParse(String(block.json)) : {};
          delete block.json;
        }
        expect(streamed).toEqual(JSON.parse(JSON.stringify(messageOf(parts))));
      }),
      { numRuns: 300 },
    );
  });

  it("is the same bytes in pieces of any size", () => {
    fc.assert(
      fc.property(requests, fc.integer({ min: 1, max: 300 }), (body, size) => {
        const parts = answered(body);
        const pieces = writes(parts, { chunk: size });
        expect(textOf(pieces)).toBe(textOf(writes(parts)));
        expect(pieces.every((piece) => piece.length <= size)).toBe(true);
      }),
      { numRuns: 50 },
    );
  });

  it("is cut after exactly as many bytes as asked, inside a character too", () => {
    const parts = answered({ messages: [{ role: "user", content: "say: 👋👋" }] });
    const whole = Buffer.concat(writes(parts));
    for (let count = 0; count <= whole.length; count++) {
      expect(Buffer.concat(writes(parts, { cut: count })).equals(whole.subarray(0, count))).toBe(true);
    }
    const last = [...byteSteps([{ do: "write", bytes: whole, event: true }], { cut: 7 })].at(-1);
    expect(last).toEqual({ do: "break" });
  });

  it("has the first ping right after the first block's start, and an empty first piece of tool input", () => {
    const parts = answered({
      messages: [{ role: "user", content: "use save" }],
      tools: [{ name: "save", input_schema: { type: "object", properties: { a: { type: "null" } } } }],
    });
    const events = parseSse(textOf(writes(parts)));
    expect(events.slice(0, 3).map(({ name }) => name)).toEqual(["message_start", "content_block_start", "ping"]);
    const json = events.flatMap(({ data }) => {
      const delta = data.delta as Json | undefined;
      return delta?.type === "input_json_delta" ? [delta.partial_json] : [];
    });
    expect(json[0]).toBe("");
    expect(json.join("")).toBe('{"a":null}');
  });
});

describe("usage", () => {
  it("adds up, and agrees with the token count", () => {
    fc.assert(
      fc.property(requests, (body) => {
        const { usage } = answered(body);
        const { input_tokens, cache_creation_input_tokens, cache_read_input_tokens, cache_creation } = usage;
        expect(input_tokens).toBeGreaterThanOrEqual(0);
        expect(input_tokens + cache_creation_input_tokens + cache_read_input_tokens).toBe(
          sumTokens(promptBlocks(body)),
        );
        expect(cache_creation.ephemeral_5m_input_tokens + cache_creation.ephemeral_1h_input_tokens).toBe(
          cache_creation_input_tokens,
        );
        expect(usage.output_tokens).toBeLessThanOrEqual(Number(body.max_tokens));
        expect(usage.output_tokens_details?.thinking_tokens ?? 0).toBeLessThanOrEqual(usage.output_tokens);
      }),
      { numRuns: 300 },
    );
  });

  it("has every counter of the API's usage in message_start, with no more than one output token", () => {
    const parts = answered({ messages: [{ role: "user", content: "Hi" }], thinking: { type: "adaptive" } });
    const start = parseSse(textOf(writes(parts)))[0]?.data ?? {};
    const { usage } = start.message as { usage: Json };
    expect(Object.keys(usage).sort()).toEqual([
      "cache_creation",
      "cache_creation_input_tokens",
      "cache_read_input_tokens",
      "inference_geo",
      "input_tokens",
      "output_tokens",
      "output_tokens_details",
      "server_tool_use",
      "service_tier",
      "speed",
    ]);
    expect(usage.output_tokens).toBe(1);
    expect(parts.usage.output_tokens_details?.thinking_tokens).toBeGreaterThan(1);
  });
});

describe("tool input that max_tokens cut", () => {
  it("is read as the SDK reads it, wherever the cut", () => {
    fc.assert(
      fc.property(fc.dictionary(fc.string(), fc.jsonValue({ maxDepth: 3 })), fc.nat(), (value, at) => {
        const text = JSON.stringify(value);
        const cut = text.slice(0, 1 + (at % text.length));
        expect(readTruncated(cut), cut).toEqual(partialParse(cut));
      }),
      { numRuns: 1000 },
    );
  });
});
