/** Both ways of an answer, with the real detectors: what is said in a stream is what is said as a whole, however it is cut. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type Guardrails, stricter } from "../../src/guardrails/policy.ts";
import { Rails, type Rewriter } from "../../src/guardrails/rails.ts";
import { PlaceholderTable } from "../../src/guardrails/table.ts";
import { bytesOf, jsonBytes, textOfBytes } from "./stand-in.ts";
import { callBlock, cut, streamOf, textBlock, thinkingBlock, through, told } from "./streams.ts";

const ODD = 'CASE "4\\2"\n😀';
/** What the request held. */
const tableOf = (): PlaceholderTable =>
  PlaceholderTable.from({
    values: [
      ["EMAIL_1", "ada@example.com"],
      ["EMAIL_12", "twelve@example.com"],
      ["CASE_1", ODD],
    ],
    taken: [],
  });

const POLICIES: Readonly<Record<string, Guardrails>> = {
  "values put back": { redact: ["EMAIL"], unmask: true },
  "answers redacted": { output: { redact: ["EMAIL", "IBAN", "US_SSN"], secrets: "mask" } },
  both: { redact: ["EMAIL"], unmask: true, output: { redact: ["EMAIL", "IBAN", "CREDIT_CARD"], secrets: "mask" } },
};

const piece = fc.oneof(
  fc.constantFrom("[EMAIL_1]", "[EMAIL_12]", "[CASE_1]", "\\[EMAIL\\_1\\]", "[EMAIL_1", "[EMAIL_9]", "[", "]", "\\"),
  fc.constantFrom("bob@example.org", "eve@example.net", "DE89370400440532013000", "4111 1111 1111 1111"),
  fc.constantFrom(
    "sk-ant-api03-AbCdEf0123456789AbCdEf0123456789AbCdEf0123456789",
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
  ),
  fc.constantFrom("word", "é", "😀", "\n", '"', "a much longer row of words that fills the window", "。", "1", "@"),
);
const words = fc
  .array(fc.tuple(piece, fc.constantFrom(" ", " ", " ", "", ", ")), { maxLength: 14 })
  .map((parts) => parts.flat().join(""));
const places = fc.array(fc.nat(10_000), { maxLength: 14 });

/** What a client has in the end of an answer with these words, as a whole. */
function whole(rails: Rails, text: string, input: object, more: string): unknown[] {
  const content = [
    { type: "text", text },
    { type: "thinking", thinking: more, signature: "c2ln[EMAIL_1]" },
    { type: "tool_use", id: "toolu_2", name: "f", input },
    { type: "text", text: more },
  ];
  const { bytes } = rails.message(jsonBytes({ content }), tableOf());
  return JSON.parse(textOfBytes(bytes)).content;
}

function streamed(rewriter: Rewriter, stream: string, pieces: number | readonly number[]): unknown[] {
  const { blocks, types } = told(through(rewriter as never, stream, pieces));
  expect(types.slice(-2)).toEqual(["message_delta", "message_stop"]);
  return blocks.map(({ json, ...block }) =>
    block.type === "tool_use" ? { ...block, input: JSON.parse(String(json)) } : block,
  );
}

describe.each(Object.entries(POLICIES))("with %s", (_what, guardrails) => {
  const rails = new Rails(stricter(guardrails, null) ?? expect.unreachable());

  it("a stream says what the whole answer says, however words and bytes are cut", () => {
    fc.assert(
      fc.property(words, words, places, places, fc.boolean(), (text, more, cuts, byteCuts, spaced) => {
        const input = { a: [text, { deep: more }], n: 1 };
        const events = [
          ...textBlock(0, ...cut(text, cuts)),
          ...thinkingBlock(1, ...cut(more, cuts)),
          ...callBlock(2, "", ...cut(JSON.stringify(input, null, spaced ? 1 : 0), cuts)),
          ...textBlock(3, ...cut(more, byteCuts)),
        ];
        expect(streamed(rails.stream(tableOf()), streamOf(events), byteCuts)).toEqual(whole(rails, text, input, more));
      }),
      { numRuns: 150 },
    );
  });

  it("is so for what stands in one token with secrets before it", () => {
    for (const secrets of [1, 2, 3]) {
      const text = `${"sk-ant-api03-AbCdEf0123456789AbCdEf0123456789AbCdEf0123456789".repeat(secrets)}bob@example.org and on`;
      for (const size of [1, 20, 1_000]) {
        const texts = text.match(new RegExp(`.{1,${size}}`, "g")) ?? [];
        const events = streamOf([
          ...textBlock(0, ...texts),
          ...thinkingBlock(1, ""),
          ...callBlock(2, "", "{}"),
          ...textBlock(3),
        ]);
        expect(streamed(rails.stream(tableOf()), events, 100_000)).toEqual(whole(rails, text, {}, ""));
      }
    }
  });

  it("is so with every cut there is, of bytes and of words", () => {
    const text = `to [EMAIL_1] and [CASE_1], not bob@example.org. [EMAIL`;
    const input = { a: `[CASE_1] "eve@example.net"` };
    const json = JSON.stringify(input);
    const expected = whole(rails, text, input, "");
    expect(JSON.stringify(expected)).not.toContain(JSON.stringify(text));
    const of = (texts: readonly string[], jsons: readonly string[]): string =>
      streamOf([...textBlock(0, ...texts), ...thinkingBlock(1, ""), ...callBlock(2, ...jsons), ...textBlock(3)]);
    for (let at = 0; at <= text.length; at++) {
      const events = of([text.slice(0, at), text.slice(at)], [json.slice(0, at), json.slice(at)]);
      expect(streamed(rails.stream(tableOf()), events, 100_000)).toEqual(expected);
    }
    const letters = of([...text], [...json]);
    for (const pieces of [1, 7, 100_000]) expect(streamed(rails.stream(tableOf()), letters, pieces)).toEqual(expected);
    const stream = of([text], [json]);
    for (let at = 0; at <= bytesOf(stream).length; at++) {
      expect(streamed(rails.stream(tableOf()), stream, [at])).toEqual(expected);
    }
  });
});
