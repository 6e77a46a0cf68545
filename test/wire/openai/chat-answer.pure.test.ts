import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { chatAnswer, finishReason } from "../../../src/wire/openai/chat-answer.ts";
import { chatStream } from "../../../src/wire/openai/chat-stream.ts";
import { wholeMessage } from "../../../src/wire/openai/whole-message.ts";
import { tellBytes, tellingOf } from "../../support/messages-streams.ts";
import { readChatStream } from "../../support/openai-match.mjs";

const FIXTURES = join(import.meta.dirname, "../../fixtures/anthropic");
const finals = readdirSync(FIXTURES).filter((name) => name.endsWith(".final.json"));
const NAME = { id: "req_1", created: 7 };

const USAGE = { input_tokens: 10, output_tokens: 5 };
function tell(fields: object, telling = tellingOf()) {
  const body = {
    id: "msg_01A",
    type: "message",
    model: "claude-opus-5-5",
    content: [],
    stop_reason: null,
    usage: USAGE,
  };
  const message = wholeMessage({ ...body, ...fields });
  if (!message) throw new Error("no message");
  return JSON.parse(chatAnswer(message, NAME, telling));
}
const toolUse = (name: string, input: unknown, id = "toolu_1") => ({ type: "tool_use", id, name, input });

describe("a Chat Completion", () => {
  it("has all that OpenAI's has", () => {
    expect(tell({ content: [{ type: "text", text: "ok", citations: null }], stop_reason: "end_turn" })).toEqual({
      id: "chatcmpl-01A",
      object: "chat.completion",
      created: 7,
      model: "claude-opus-5-5",
      choices: [
        {
          index: 0,
          message: { role: "assistant", content: "ok", refusal: null },
          logprobs: null,
          finish_reason: "stop",
        },
      ],
      usage: {
        prompt_tokens: 10,
        completion_tokens: 5,
        total_tokens: 15,
        prompt_tokens_details: { cached_tokens: 0, cache_write_tokens: 0 },
        completion_tokens_details: { reasoning_tokens: 0 },
      },
      service_tier: null,
      system_fingerprint: null,
    });
  });

  it("joins texts, and has none where there is no text block", () => {
    const blocks = [
      { type: "text", text: "a" },
      { type: "server_tool_use", id: "s" },
      { type: "text", text: "b" },
    ];
    expect(tell({ content: blocks }).choices[0].message.content).toBe("ab");
    expect(tell({ content: [toolUse("f", {})] }).choices[0].message.content).toBeNull();
  });

  it("calls the client's tools by the client's names, and only those", () => {
    const content = [
      { type: "server_tool_use", id: "s", name: "web_search", input: {} },
      toolUse("renamed", { a: [1, "ä"] }, "1"),
      toolUse("plain", {}, "2"),
      toolUse("plain", "no object", "3"),
      toolUse("free", { input: "raw" }, "4"),
      toolUse("free", { other: "raw too" }, "5"),
      toolUse("free", { a: 1, b: 2 }, "6"),
      toolUse("free", {}, "7"),
    ];
    const { message, finish_reason } = tell({ content, stop_reason: "tool_use" }).choices[0];
    const custom = (id: string, input: string) => ({ id, type: "custom", custom: { name: "apply_patch", input } });
    expect(message.tool_calls).toEqual([
      { id: "1", type: "function", function: { name: "a name.with/dots", arguments: '{"a":[1,"ä"]}' } },
      { id: "2", type: "function", function: { name: "plain", arguments: "{}" } },
      { id: "3", type: "function", function: { name: "plain", arguments: "{}" } },
      custom("4", "raw"),
      custom("5", "raw too"),
      custom("6", '{"a":1,"b":2}'),
      custom("7", ""),
    ]);
    expect(finish_reason).toBe("tool_calls");
    const asked = tell({ content, stop_reason: "tool_use" }, tellingOf({ shape: "responses" })).choices[0].message;
    expect(asked.tool_calls[3]).toEqual({
      id: "4",
      type: "function",
      function: { name: "apply_patch", arguments: "raw" },
    });
  });

  it("answers `functions` with one function_call, and with tool_calls where there are more", () => {
    const legacy = tellingOf({ legacyFunctions: true });
    const one = tell({ content: [toolUse("f", { x: 1 })], stop_reason: "tool_use" }, legacy).choices[0];
    expect(one).toMatchObject({
      message: { function_call: { name: "f", arguments: '{"x":1}' } },
      finish_reason: "function_call",
    });
    expect(one.message).not.toHaveProperty("tool_calls");
    const two = tell({ content: [toolUse("f", {}), toolUse("g", {})], stop_reason: "tool_use" }, legacy).choices[0];
    expect(two).toMatchObject({ message: { tool_calls: [{}, {}] }, finish_reason: "tool_calls" });
    expect(two.message).not.toHaveProperty("function_call");
  });

  it("gives back what was thought, and what Claude needs to know it again", () => {
    const content = [
      { type: "thinking", thinking: "a", signature: "S1" },
      { type: "redacted_thinking", data: "D" },
      { type: "thinking", thinking: "b", signature: "" },
    ];
    expect(tell({ content }).choices[0].message).toMatchObject({
      reasoning_content: "ab",
      reasoning_details: [
        { type: "reasoning.text", text: "a", signature: "S1" },
        { type: "reasoning.encrypted", data: "D" },
      ],
    });
    const omitted = tell({ content: [{ type: "thinking", thinking: "", signature: "S" }] }).choices[0].message;
    expect(omitted).not.toHaveProperty("reasoning_content");
    expect(omitted.reasoning_details).toEqual([{ type: "reasoning.text", text: "", signature: "S" }]);
    expect(tell({}).choices[0].message).not.toHaveProperty("reasoning_details");
  });

  it.each([
    ["end_turn", 0, "stop"],
    ["stop_sequence", 0, "stop"],
    ["pause_turn", 0, "stop"],
    ["compaction", 0, "stop"],
    ["reason_of_tomorrow", 1, "stop"],
    ["tool_use", 1, "tool_calls"],
    ["tool_use", 0, "stop"],
    [null, 0, "stop"],
    [null, 2, "tool_calls"],
    ["max_tokens", 1, "length"],
    ["model_context_window_exceeded", 0, "length"],
    ["refusal", 1, "content_filter"],
  ])("ends %s with %i calls in %s", (stopReason, calls, finish) => {
    expect(finishReason(stopReason, calls, false)).toBe(finish);
  });

  it("says why an answer was refused", () => {
    const stop_details = { type: "refusal", category: "cyber", explanation: "No." };
    expect(tell({ stop_reason: "refusal", stop_details }).choices[0]).toMatchObject({
      message: { content: null, refusal: "No." },
      finish_reason: "content_filter",
    });
    expect(tell({ stop_reason: "refusal" }).choices[0].message.refusal).toBeNull();
    expect(tell({ stop_reason: "end_turn", stop_details }).choices[0].message.refusal).toBeNull();
  });

  it.each([null, "text", [], {}, { type: "error", error: {} }, { type: "message" }, { type: "message", content: "x" }])(
    "is made of messages only: %j",
    (body) => {
      expect(wholeMessage(body)).toBeNull();
    },
  );

  it("takes a message of which much is missing", () => {
    const message = wholeMessage({ type: "message", content: [null, {}, 7, { type: "text" }, { type: "tool_use" }] });
    expect(message && JSON.parse(chatAnswer(message, NAME, tellingOf()))).toMatchObject({
      id: "chatcmpl-1",
      model: "claude",
      choices: [{ message: { content: "", tool_calls: [{ id: "", function: { name: "", arguments: "{}" } }] } }],
    });
  });

  it.each(finals)("says of %s what the stream of the same name says", async (name) => {
    const message = wholeMessage(JSON.parse(readFileSync(join(FIXTURES, name), "utf8")));
    if (!message) throw new Error("no message");
    const { choices, usage } = JSON.parse(chatAnswer(message, NAME, tellingOf()));
    const [{ message: whole, finish_reason }] = choices;
    const bytes = new Uint8Array(readFileSync(join(FIXTURES, name.replace(".final.json", ".sse"))));
    const read = readChatStream(await tellBytes(chatStream(NAME, tellingOf()), [bytes]));
    expect(read).toMatchObject({ errors: [], finish_reason, usage });
    expect(read.message.content).toBe(whole.content ?? "");
    expect(read.message.reasoning_content ?? undefined).toBe(whole.reasoning_content);
    expect(read.message.refusal ?? null).toBe(whole.refusal);
    const input = (call: { function?: { arguments: string } }) => JSON.parse(call.function?.arguments ?? "null");
    expect(read.message.tool_calls?.map(input)).toEqual(whole.tool_calls?.map(input));
  });
});
