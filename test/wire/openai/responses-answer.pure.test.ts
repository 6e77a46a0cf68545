import type { Response as OpenAIResponse } from "openai/resources/responses/responses";
import { describe, expect, it } from "vitest";
import { applyUsage, emptyUsage } from "../../../src/wire/anthropic/usage.ts";
import type { Block, Fields, Telling } from "../../../src/wire/openai/draft.ts";
import { responsesAnswer } from "../../../src/wire/openai/responses-answer.ts";
import { readResponses } from "../../../src/wire/openai/responses-request.ts";

type Required<T> = { [K in keyof T]-?: Record<never, never> extends Pick<T, K> ? never : K }[keyof T];
/** What the client's type of a response always has; `output_text` the client makes itself. */
const REQUIRED: Record<Exclude<Required<OpenAIResponse>, "output_text">, true> = {
  id: true,
  created_at: true,
  error: true,
  incomplete_details: true,
  instructions: true,
  metadata: true,
  model: true,
  object: true,
  output: true,
  parallel_tool_calls: true,
  temperature: true,
  tool_choice: true,
  tools: true,
  top_p: true,
};

function tellingOf(body: Fields): Telling {
  const draft = readResponses({ model: "claude-opus-5", input: "x", ...body });
  if (!draft.ok) throw new Error(JSON.stringify(draft.error));
  return draft.value.telling;
}

async function answer(content: Block[], body: Fields = {}, stopReason = "end_turn"): Promise<OpenAIResponse> {
  const usage = emptyUsage();
  applyUsage(usage, {
    input_tokens: 15,
    output_tokens: 7,
    cache_creation_input_tokens: 100,
    cache_read_input_tokens: 85,
    output_tokens_details: { thinking_tokens: 2 },
  });
  const message = { id: "msg_01CASE", model: "claude-opus-5", content, stopReason, stopDetails: null, usage };
  const seal = async (model: string, blocks: readonly Block[]) => `sealed for ${model}:${JSON.stringify(blocks)}`;
  return JSON.parse(await responsesAnswer(message, { id: "req_1", created: 1_790_000_000 }, tellingOf(body), seal));
}

describe("responsesAnswer", () => {
  it("has all that the client's type requires, for a body that asks for nothing", async () => {
    const response = await answer([{ type: "text", text: "ok" }]);
    for (const name of Object.keys(REQUIRED)) expect(response).toHaveProperty(name);
    expect(response).toMatchObject({
      id: "resp_01CASE",
      object: "response",
      created_at: 1_790_000_000,
      status: "completed",
      model: "claude-opus-5",
      output: [
        {
          id: "msg_01CASE_0",
          type: "message",
          role: "assistant",
          status: "completed",
          content: [{ type: "output_text", text: "ok", annotations: [] }],
        },
      ],
      metadata: {},
      parallel_tool_calls: true,
      previous_response_id: null,
      reasoning: { effort: null, summary: null },
      store: true,
      text: { format: { type: "text" } },
      tool_choice: "auto",
      tools: [],
      truncation: "disabled",
    });
  });

  it("repeats what was asked for", async () => {
    const body = {
      instructions: "I",
      metadata: { a: "b" },
      tools: [{ type: "function", name: "f", parameters: {}, strict: false }],
      tool_choice: "required",
      parallel_tool_calls: false,
      temperature: 0.5,
      top_p: 1,
      max_output_tokens: 64,
      previous_response_id: "resp_0",
      store: false,
      text: { format: { type: "json_object" }, verbosity: "low" },
    };
    expect(await answer([], body)).toMatchObject(body);
  });

  it("counts a prompt whole, with what was read from the cache and written to it", async () => {
    expect((await answer([])).usage).toEqual({
      input_tokens: 200,
      input_tokens_details: { cached_tokens: 85, cache_write_tokens: 100 },
      output_tokens: 7,
      output_tokens_details: { reasoning_tokens: 2 },
      total_tokens: 207,
    });
  });

  it("gives no item for what the client can't use: empty text, unsigned silence, tools of the server's", async () => {
    const content: Block[] = [
      { type: "text", text: "" },
      { type: "thinking", thinking: "", signature: "" },
      { type: "redacted_thinking", data: "R" },
      { type: "server_tool_use", id: "srvtoolu_1", name: "web_search", input: {} },
      { type: "web_search_tool_result", tool_use_id: "srvtoolu_1", content: [] },
    ];
    expect((await answer(content)).output).toEqual([]);
  });

  it("seals thinking that was not shown, where that was asked for", async () => {
    const block = { type: "thinking", thinking: "", signature: "SIG" };
    const { output } = await answer([block], { include: ["reasoning.encrypted_content"] });
    expect(output).toEqual([
      {
        id: "rs_01CASE_0",
        type: "reasoning",
        summary: [],
        encrypted_content: `sealed for claude-opus-5:${JSON.stringify([block])}`,
      },
    ]);
  });

  it("marks the item that the limit cut off", async () => {
    const content = [
      { type: "text", text: "a" },
      { type: "tool_use", id: "toolu_1", name: "f", input: {} },
    ];
    expect(await answer(content, {}, "max_tokens")).toMatchObject({
      status: "incomplete",
      incomplete_details: { reason: "max_output_tokens" },
      output: [
        { status: "completed" },
        { type: "function_call", id: "fc_01CASE_0", call_id: "toolu_1", arguments: "{}", status: "incomplete" },
      ],
    });
  });
});
