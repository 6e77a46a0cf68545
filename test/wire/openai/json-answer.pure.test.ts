/** A format that became a tool: whoever asked for it gets text, however it is told. */
import { describe, expect, it } from "vitest";
import type { StreamEvent } from "../../../src/wire/anthropic/events.ts";
import { chatAnswer } from "../../../src/wire/openai/chat-answer.ts";
import { chatStream } from "../../../src/wire/openai/chat-stream.ts";
import { responsesAnswer } from "../../../src/wire/openai/responses-answer.ts";
import { responsesStream } from "../../../src/wire/openai/responses-stream.ts";
import { wholeMessage } from "../../../src/wire/openai/whole-message.ts";
import { bytesOf, tellBytes, tellingOf } from "../../support/messages-streams.ts";
import { readChatStream } from "../../support/openai-match.mjs";

const NAME = { id: "req_1", created: 7 };
const seal = async (): Promise<string> => "sealed";
const telling = () => tellingOf({ jsonTool: "json" });
const USAGE = { input_tokens: 1, output_tokens: 1 };
const HEAD = { id: "msg_1", type: "message", role: "assistant", model: "claude-opus-5", usage: USAGE };
const message = (input: unknown, ...more: unknown[]) =>
  wholeMessage(
    { ...HEAD, stop_reason: "tool_use", content: [{ type: "tool_use", id: "t1", name: "json", input }, ...more] },
    telling(),
  );

function events(pieces: readonly string[], name = "json"): StreamEvent[] {
  return [
    { type: "message_start", message: { ...HEAD, content: [], stop_reason: null } },
    { type: "content_block_start", index: 0, content_block: { type: "tool_use", id: "t1", name, input: {} } },
    ...pieces.map((partial_json) => ({
      type: "content_block_delta",
      index: 0,
      delta: { type: "input_json_delta", partial_json },
    })),
    { type: "content_block_stop", index: 0 },
    { type: "message_delta", delta: { stop_reason: "tool_use", stop_sequence: null }, usage: { output_tokens: 5 } },
    { type: "message_stop" },
  ];
}

describe("an answer by a tool", () => {
  it.each([
    [{ a: { b: 1 } }, '{"a":{"b":1}}'],
    [{}, "{}"],
  ])("%j is the content of a Chat Completion", (input, text) => {
    const whole = message(input);
    if (!whole) throw new Error("no message");
    const [choice] = JSON.parse(chatAnswer(whole, NAME, telling())).choices;
    expect(choice).toMatchObject({ message: { content: text }, finish_reason: "stop" });
    expect(choice.message).not.toHaveProperty("tool_calls");
  });

  it.each([
    [['{"a":', "", '{"b":1}}'], '{"a":{"b":1}}'],
    [[], "{}"],
    [[""], "{}"],
  ])("%j is the content of its stream, piece by piece", async (pieces, text) => {
    const mapper = chatStream(NAME, telling());
    const read = readChatStream(await tellBytes(mapper, [bytesOf(events(pieces))]));
    expect(read.errors).toEqual([]);
    expect(read.message).toMatchObject({ content: text });
    expect(read.message).not.toHaveProperty("tool_calls");
    expect(read.finish_reason).toBe("stop");
    expect(mapper.message?.content).toEqual([{ type: "text", text }]);
  });

  it("is the output text of a response, whole and streamed", async () => {
    const whole = message({ a: 1 });
    if (!whole) throw new Error("no message");
    const output = [{ type: "message", content: [{ type: "output_text", text: '{"a":1}' }] }];
    const told = JSON.parse(await responsesAnswer(whole, NAME, telling(), seal));
    expect(told).toMatchObject({ status: "completed", output });
    const stream = await tellBytes(responsesStream(NAME, telling(), seal), [bytesOf(events(['{"a"', ":1}"]))]);
    const last = stream.trim().split("\n\n").at(-1)?.split("data: ")[1] ?? "";
    expect(JSON.parse(last)).toMatchObject({ type: "response.completed", response: { status: "completed", output } });
  });

  it("a call of another tool stays one", async () => {
    const read = readChatStream(await tellBytes(chatStream(NAME, telling()), [bytesOf(events(["{}"], "json_"))]));
    expect(read.finish_reason).toBe("tool_calls");
    const whole = message({}, { type: "tool_use", id: "t2", name: "json_", input: {} });
    expect(whole?.content.map(({ type }) => type)).toEqual(["text", "tool_use"]);
  });
});
