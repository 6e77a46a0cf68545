import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { StreamMeter } from "../../src/wire/anthropic/stream-meter.ts";

const TOKENS_PER_SECOND = 300;
const encoder = new TextEncoder();
const event = (type: string, rest: object = {}) => `event: ${type}\ndata: ${JSON.stringify({ type, ...rest })}\n\n`;
const start = (output = 1) =>
  event("message_start", { message: { model: "m", usage: { input_tokens: 5, output_tokens: output } } });
const blockStart = (content_block: object, index = 0) => event("content_block_start", { index, content_block });
const delta = (fields: object, index = 0) => event("content_block_delta", { index, delta: fields });
const stop = (index = 0) => event("content_block_stop", { index });
const text = (value: string, index = 0) => delta({ type: "text_delta", text: value }, index);
const THINKING = { type: "thinking", thinking: "", signature: "" };

function meter(stream: string, cut = Number.POSITIVE_INFINITY): StreamMeter {
  const scanner = new StreamMeter();
  const bytes = encoder.encode(stream);
  for (let at = 0; at < bytes.length; at += cut) scanner.push(bytes.subarray(at, at + cut));
  return scanner;
}

describe("StreamMeter.estimateOutputTokens", () => {
  it("B-06 is never below the true count of text with three bytes to a token, however it is cut, and never above max_tokens (2,000 runs)", () => {
    // A token is a piece of text with at least three bytes in UTF-8; a delta carries one token or several.
    const token = fc.oneof(
      fc.string({ minLength: 3, maxLength: 8 }),
      fc.string({ unit: "binary", minLength: 3, maxLength: 5 }),
      fc.constantFrom(" the", "\n\n\n", "漢", "語", "👋", '"""', "\\\\\\", "    }"),
    );
    const kind = fc.constantFrom("text", "thinking", "partial_json");
    const block = fc.tuple(kind, fc.array(fc.array(token, { minLength: 1, maxLength: 6 }), { maxLength: 12 }));
    fc.assert(
      fc.property(
        fc.array(block, { maxLength: 4 }),
        fc.integer({ min: 1, max: 300 }),
        fc.nat(400),
        fc.nat(20),
        (blocks, cut, maxTokens, counted) => {
          let stream = start(counted);
          let written = 0;
          for (const [index, [name, pieces]] of blocks.entries()) {
            const type = { text: "text_delta", thinking: "thinking_delta", partial_json: "input_json_delta" }[name];
            stream += blockStart({ type: name === "partial_json" ? "tool_use" : name }, index);
            for (const tokens of pieces) {
              written += tokens.length;
              stream += delta({ type, [name]: tokens.join("") }, index);
            }
            stream += stop(index);
          }
          const scanner = meter(stream, cut);
          expect(scanner.estimateOutputTokens()).toBeGreaterThanOrEqual(counted + written);
          // What upstream has counted is a fact, whatever the request allowed.
          const bounded = scanner.estimateOutputTokens(maxTokens);
          expect(bounded).toBeGreaterThanOrEqual(Math.max(counted, Math.min(maxTokens, counted + written)));
          expect(bounded).toBeLessThanOrEqual(Math.max(counted, maxTokens));
        },
      ),
      { numRuns: 2000 },
    );
  });

  it("is not far above the true count either: half as much again for text of four bytes to a token", () => {
    const stream = start() + blockStart({ type: "text", text: "" }) + text("four".repeat(25)).repeat(100);
    expect(meter(stream).estimateOutputTokens()).toBeLessThanOrEqual(2_500 * 1.5);
    expect(meter(stream).estimateOutputTokens()).toBeGreaterThanOrEqual(2_500);
  });

  it("is upstream's last count, and what was written since", () => {
    const stream = start() + text("x".repeat(900)) + event("message_delta", { usage: { output_tokens: 7 } });
    expect(meter(stream).estimateOutputTokens()).toBe(7);
    expect(meter(stream + text("y".repeat(300))).estimateOutputTokens()).toBeGreaterThanOrEqual(107);
    expect(meter(stream + text("y".repeat(300))).estimateOutputTokens(50)).toBe(50);
    expect(meter(stream).estimateOutputTokens(3)).toBe(7);
  });

  it("of a stream that has said nothing is nothing", () => {
    expect(new StreamMeter().estimateOutputTokens(100, 10_000)).toBe(0);
  });

  it("B-05 bounds thinking that is not shown by the time it took", () => {
    const hidden = start() + blockStart(THINKING);
    // 1 + 10 s × 300 tokens
    expect(meter(hidden).estimateOutputTokens(null, 10_000)).toBe(1 + 10 * TOKENS_PER_SECOND);
    expect(meter(hidden).estimateOutputTokens(2_000, 10_000)).toBe(2_000);
    expect(meter(hidden).estimateOutputTokens(null, 1)).toBe(2);
    expect(meter(hidden).estimateOutputTokens(null, -5_000)).toBe(1);
    // Nobody tells the time: what is known.
    expect(meter(hidden).estimateOutputTokens()).toBe(1);
    // A summary shows less than was thought; more text than the time allows counts as it is.
    const summary = hidden + delta({ type: "thinking_delta", thinking: "s".repeat(300) });
    expect(meter(summary).estimateOutputTokens(null, 10_000)).toBe(1 + 10 * TOKENS_PER_SECOND);
    expect(meter(summary).estimateOutputTokens(null, 10)).toBeGreaterThanOrEqual(101);
  });

  it("counts the signature once thinking is over, and time no more", () => {
    // A signature is base64 of all that was thought: 1,000 tokens of 3 bytes make 4,000 characters.
    const signature = delta({ type: "signature_delta", signature: "c".repeat(4_000) });
    const thought = start() + blockStart(THINKING) + signature + stop();
    expect(meter(thought).estimateOutputTokens(null, 60_000)).toBe(meter(thought).estimateOutputTokens());
    expect(meter(thought).estimateOutputTokens()).toBeGreaterThanOrEqual(1_001);
    const answering = thought + blockStart({ type: "text", text: "" }, 1) + text("4", 1);
    expect(meter(answering).estimateOutputTokens(null, 60_000)).toBeLessThan(1_500);
  });

  it("counts redacted thinking and tools' names, which come whole, and no results of tools", () => {
    const redacted = blockStart({ type: "redacted_thinking", data: "d".repeat(3_000) });
    expect(meter(start() + redacted).estimateOutputTokens()).toBeGreaterThanOrEqual(1_001);
    const tool = blockStart({ type: "tool_use", id: "toolu_01", name: "n".repeat(60), input: {} });
    expect(meter(start() + tool).estimateOutputTokens()).toBeGreaterThanOrEqual(21);
    const result = blockStart({
      type: "web_search_tool_result",
      tool_use_id: "srvtoolu_1",
      content: ["r".repeat(9_000)],
    });
    expect(meter(start() + result).estimateOutputTokens(null, 9_000)).toBe(1);
  });

  it.each([1, 2, 7, 50, 127, 128, 129])("knows a thinking block in pieces of %d bytes", (cut) => {
    const hidden = start() + event("ping") + blockStart(THINKING);
    expect(meter(hidden, cut).estimateOutputTokens(null, 1_000)).toBe(1 + TOKENS_PER_SECOND);
    const redacted = start() + blockStart({ type: "redacted_thinking", data: "d".repeat(3_000) });
    expect(meter(redacted, cut).estimateOutputTokens(null, 1_000)).toBeGreaterThanOrEqual(1_001);
  });

  it("never throws and stays whole, whatever bytes it is fed (1,000 runs)", () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 300 }), { maxLength: 20 }), fc.double(), (pieces, elapsed) => {
        const scanner = new StreamMeter();
        for (const piece of pieces) scanner.push(piece);
        const estimate = scanner.estimateOutputTokens(1_000, elapsed);
        expect(Number.isInteger(estimate) && estimate >= 0).toBe(true);
      }),
      { numRuns: 1000 },
    );
  });
});
