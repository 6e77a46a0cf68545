import { describe, expect, it } from "vitest";
import { GrowingAnswer, piecesOf, wordsOf } from "../../src/console/answer.ts";

const start = (index: number, content_block: object) => ({ type: "content_block_start", index, content_block });
const delta = (index: number, delta: object) => ({ type: "content_block_delta", index, delta });

describe("an answer that grows", () => {
  it("puts text, thinking and a tool's input together, and leaves alone what it does not know", () => {
    const answer = new GrowingAnswer();
    const events = [
      { type: "message_start" },
      start(0, { type: "thinking", thinking: "" }),
      delta(0, { type: "thinking_delta", thinking: "Hm" }),
      delta(0, { type: "signature_delta", signature: "x" }),
      { type: "ping" },
      start(1, { type: "text", text: "" }),
      delta(1, { type: "text_delta", text: "a" }),
      { type: "something_new", index: 1 },
      delta(1, { type: "text_delta", text: "b" }),
      start(2, { type: "tool_use", id: "t", name: "look", input: {} }),
      delta(2, { type: "input_json_delta", partial_json: '{"a"' }),
      delta(2, { type: "input_json_delta", partial_json: ":1}" }),
      delta(7, { type: "text_delta", text: "of no block" }),
    ];
    const text = events.map((event) => answer.take(event)?.text ?? "").join("");
    expect(text).toBe("Hmab");
    expect(answer.pieces).toEqual([
      { type: "thinking", text: "Hm", name: "", input: "" },
      { type: "text", text: "ab", name: "", input: "" },
      { type: "tool_use", text: "", name: "look", input: '{"a":1}' },
    ]);
  });

  it("goes on behind what is there when a turn has a second upstream call", () => {
    const answer = new GrowingAnswer();
    for (const word of ["one", "two"]) {
      answer.take({ type: "message_start" });
      answer.take(start(0, { type: "text", text: "" }));
      answer.take(delta(0, { type: "text_delta", text: word }));
    }
    expect(answer.pieces.map(({ text }) => text)).toEqual(["one", "two"]);
  });

  it("tells messages of words alone from others", () => {
    expect(wordsOf("plain")).toBe("plain");
    expect(wordsOf([{ type: "text", text: "one" }])).toBe("one");
    expect(wordsOf([{ type: "image" }])).toBeNull();
    expect(piecesOf([{ type: "tool_result", tool_use_id: "t", content: "sunny" }])).toEqual([
      { type: "tool_result", text: "", name: "t", input: "sunny" },
    ]);
  });
});
