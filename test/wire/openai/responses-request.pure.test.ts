import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Draft, Fields } from "../../../src/wire/openai/draft.ts";
import { readResponses } from "../../../src/wire/openai/responses-request.ts";

const MODEL = "claude-sonnet-4-6";
const PNG = "data:image/png;base64,iVBORw0KGgo=";

function read(body: Fields): Draft {
  const draft = readResponses({ model: MODEL, ...body });
  if (!draft.ok) throw new Error(JSON.stringify(draft.error));
  return draft.value;
}

function refusal(body: Fields) {
  const draft = readResponses({ model: MODEL, input: "x", ...body });
  if (draft.ok) throw new Error("not refused");
  return draft.error;
}

const text = (said: string) => ({ type: "text", text: said });
const user = (...content: unknown[]) => ({ role: "user", content });
const assistant = (...content: unknown[]) => ({ role: "assistant", content });

describe("the input of a Responses body", () => {
  it("is a text, with the instructions before it", () => {
    const { model, stream, maxTokens, turns } = read({ instructions: "Be brief.", input: "Hi", max_output_tokens: 64 });
    expect({ model, stream, maxTokens }).toEqual({ model: MODEL, stream: false, maxTokens: 64 });
    expect(turns).toEqual([{ role: "system", content: [text("Be brief.")] }, user(text("Hi"))]);
  });

  it("is messages, with or without a type", () => {
    const { turns } = read({
      input: [
        { role: "developer", content: "D" },
        { type: "message", role: "system", content: [{ type: "input_text", text: "S" }] },
        { role: "user", content: "a" },
        {
          type: "message",
          role: "user",
          status: "completed",
          content: [
            { type: "input_text", text: "b" },
            { type: "input_image", image_url: PNG, detail: "auto" },
            { type: "input_file", filename: "n.txt", file_data: "data:text/plain;base64,aGk=" },
          ],
        },
        {
          type: "message",
          id: "msg_1",
          role: "assistant",
          phase: "final_answer",
          content: [
            { type: "output_text", text: "c", annotations: [], logprobs: [] },
            { type: "refusal", refusal: "d" },
          ],
        },
      ],
    });
    expect(turns).toEqual([
      { role: "system", content: [text("D")] },
      { role: "system", content: [text("S")] },
      user(
        text("a"),
        text("b"),
        { type: "image", source: { type: "base64", media_type: "image/png", data: "iVBORw0KGgo=" } },
        { type: "document", title: "n.txt", source: { type: "text", media_type: "text/plain", data: "hi" } },
      ),
      assistant(text("c"), text("d")),
    ]);
  });

  it("is calls and their outputs, of functions and of free-form tools", () => {
    const { turns } = read({
      input: [
        { role: "user", content: "go" },
        { type: "function_call", id: "fc_1", call_id: "call_1", name: "f", arguments: '{"a":1}', status: "completed" },
        { type: "custom_tool_call", id: "ctc_1", call_id: "call_2", name: "ApplyPatch", input: '{"not":"JSON"}' },
        { type: "function_call", call_id: "call_3", name: "g", arguments: "" },
        { type: "function_call_output", call_id: "call_1", output: "4C" },
        {
          type: "function_call_output",
          call_id: "call_3",
          output: [
            { type: "input_text", text: "see" },
            { type: "input_image", image_url: "https://x.example/a.png", detail: "low" },
          ],
        },
        { type: "custom_tool_call_output", call_id: "call_2", output: "" },
        { role: "user", content: "and?" },
      ],
    });
    expect(turns).toEqual([
      user(text("go")),
      assistant(
        { type: "tool_use", id: "call_1", name: "f", input: { a: 1 } },
        { type: "tool_use", id: "call_2", name: "ApplyPatch", input: { input: '{"not":"JSON"}' } },
        { type: "tool_use", id: "call_3", name: "g", input: {} },
      ),
      user(
        { type: "tool_result", tool_use_id: "call_1", content: [text("4C")] },
        {
          type: "tool_result",
          tool_use_id: "call_3",
          content: [text("see"), { type: "image", source: { type: "url", url: "https://x.example/a.png" } }],
        },
        { type: "tool_result", tool_use_id: "call_2", content: [text("")] },
        text("and?"),
      ),
    ]);
  });

  it("has the text of a free-form tool also where its call is told as a function's, and keeps cache breakpoints", () => {
    const cache_control = { type: "ephemeral", ttl: "1h" };
    const { turns } = read({
      tools: [{ type: "custom", name: "ApplyPatch" }],
      input: [
        { role: "user", content: "go", cache_control },
        { type: "function_call", call_id: "call_1", name: "ApplyPatch", arguments: '{"not":"JSON"}' },
        { type: "function_call_output", call_id: "call_1", output: "ok", cache_control },
      ],
    });
    expect(turns).toEqual([
      user({ ...text("go"), cache_control }),
      assistant({ type: "tool_use", id: "call_1", name: "ApplyPatch", input: { input: '{"not":"JSON"}' } }),
      user({ type: "tool_result", tool_use_id: "call_1", content: [text("ok")], cache_control }),
    ]);
  });

  it("is thinking, as far as it is sealed, in the turn that it belongs to", () => {
    const reasoning = { type: "reasoning", id: "rs_1", summary: [{ type: "summary_text", text: "T1" }] };
    const { turns } = read({
      input: [
        { role: "user", content: "w?" },
        { ...reasoning, encrypted_content: "slc1.x" },
        { ...reasoning, encrypted_content: null },
        reasoning,
        { type: "function_call", call_id: "toolu_1", name: "f", arguments: "{}" },
      ],
    });
    expect(turns[1]).toEqual(
      assistant({ type: "sealed", data: "slc1.x" }, { type: "tool_use", id: "toolu_1", name: "f", input: {} }),
    );
  });

  it("is references to items of earlier responses, with or without a type", () => {
    const { turns } = read({ input: [{ type: "item_reference", id: "msg_x_0" }, { id: "fc_x_0" }] });
    expect(turns).toEqual([
      assistant(
        { type: "item_reference", data: "msg_x_0", param: "input[0]" },
        { type: "item_reference", data: "fc_x_0", param: "input[1]" },
      ),
    ]);
  });

  it.each([
    ["computer_call"],
    ["web_search_call"],
    ["file_search_call"],
    ["code_interpreter_call"],
    ["image_generation_call"],
    ["local_shell_call"],
    ["mcp_call"],
    ["compaction"],
    ["x".repeat(300)],
  ])("is no %s", (type) => {
    const input = [
      { role: "user", content: "x" },
      { type, id: "i" },
    ];
    expect(refusal({ input })).toMatchObject({ kind: "invalid_request", param: "input[1]" });
  });

  it.each<[unknown, string]>([
    [undefined, "input"],
    [null, "input"],
    [[], "input"],
    [7, "input"],
    [[7], "input[0]"],
    [["x"], "input[0]"],
    [[{ role: "pope", content: "x" }], "input[0].role"],
    [[{ role: "user", content: [{ type: "input_audio" }] }], "input[0].content[0]"],
    [[{ type: "function_call", name: "f", arguments: "{}" }], "input[0].call_id"],
    [[{ type: "function_call", call_id: "c", arguments: "{}" }], "input[0].name"],
    [[{ type: "function_call_output", output: "x" }], "input[0].call_id"],
    [[{ type: "function_call_output", call_id: "c", output: 7 }], "input[0].output"],
    [[{ type: "item_reference" }], "input[0].id"],
    [[{ type: 7 }], "input[0]"],
  ])("is not %j", (input, param) => {
    expect(refusal({ input })).toMatchObject({ kind: "invalid_request", param });
  });

  it("may be empty where the conversation is stored", () => {
    for (const input of [undefined, null, []])
      expect(read({ previous_response_id: "resp_1", input }).turns).toEqual([]);
  });
});

describe("the fields of a Responses body", () => {
  it("become a draft's", () => {
    const draft = read({
      input: "x",
      stream: true,
      temperature: 0,
      top_p: 0.5,
      text: {
        format: { type: "json_schema", name: "r", strict: true, schema: { type: "object" } },
        verbosity: "low",
      },
      reasoning: { effort: "high", summary: "auto" },
      tools: [
        { type: "function", name: "f", parameters: { type: "object" }, strict: false },
        { type: "custom", name: "p" },
      ],
      tool_choice: { type: "function", name: "f" },
      parallel_tool_calls: false,
      safety_identifier: "u1",
      user: "u2",
      service_tier: "default",
      prompt_cache_key: "k",
      prompt_cache_options: { mode: "explicit" },
      store: false,
      include: ["reasoning.encrypted_content"],
      previous_response_id: "resp_1",
      stream_options: { include_usage: true, include_obfuscation: false },
    });
    expect(draft).toMatchObject({
      stream: true,
      temperature: 0,
      topP: 0.5,
      format: { kind: "json_schema", schema: { type: "object" } },
      effort: "high",
      showThinking: true,
      tools: [
        { name: "f", freeForm: false },
        { name: "p", freeForm: true },
      ],
      toolChoice: { kind: "tool", name: "f" },
      parallelToolCalls: false,
      user: "u1",
      serviceTier: "standard_only",
      conversation: "k",
      caching: "explicit",
      telling: {
        shape: "responses",
        store: false,
        encryptedReasoning: true,
        includeUsage: true,
        previousResponseId: "resp_1",
      },
    });
  });

  it("are told again as they were written, null being nothing", () => {
    const tools = [{ type: "function", name: "f", parameters: null }];
    const { echo } = read({
      input: "x",
      instructions: "I",
      tools,
      text: { verbosity: "high" },
      reasoning: { effort: "low" },
      metadata: { a: "b" },
      temperature: null,
      truncation: "auto",
      max_output_tokens: 64,
      include: [],
      stream: true,
    }).telling;
    expect(echo).toEqual({
      instructions: "I",
      tools,
      text: { verbosity: "high", format: { type: "text" } },
      reasoning: { effort: "low", summary: null },
      metadata: { a: "b" },
      truncation: "auto",
      max_output_tokens: 64,
    });
  });

  it("are what Cursor sends to Chat's path", () => {
    const draft = read({
      user: "google-oauth2|user_01",
      input: [
        { role: "system", content: "You are an agent." },
        { role: "user", content: [{ type: "input_text", text: "hi" }] },
        { type: "reasoning", id: "rs_0", summary: [], encrypted_content: "gAAAAforeign" },
        { type: "function_call", call_id: "call_1", name: "read_file", arguments: '{"path":"a"}' },
        { type: "function_call_output", call_id: "call_1", output: "hello" },
      ],
      tools: [
        { type: "function", name: "read_file", description: "Read", parameters: { type: "object", properties: {} } },
        { type: "custom", name: "ApplyPatch", format: { type: "grammar", syntax: "lark", definition: "start: x" } },
      ],
      tool_choice: "auto",
      include: ["reasoning.encrypted_content"],
      reasoning: { effort: "medium", summary: "auto" },
      text: { verbosity: "low" },
      store: false,
      stream: true,
      truncation: "auto",
      previous_response_id: null,
      prompt_cache_retention: "24h",
      stream_options: { include_usage: true },
      metadata: { cursorConversationId: "c1" },
    });
    expect(draft.turns.map(({ role }) => role)).toEqual(["system", "user", "assistant", "user"]);
    expect(draft).toMatchObject({ conversation: "c1", effort: "medium", telling: { includeUsage: true } });
  });

  it.each<[Fields, string]>([
    [{ model: "" }, "model"],
    [{ background: true }, "background"],
    [{ prompt: { id: "pmpt_1" } }, "prompt"],
    [{ conversation: "conv_1" }, "conversation"],
    [{ stream: "yes" }, "stream"],
    [{ store: 1 }, "store"],
    [{ max_output_tokens: 0 }, "max_output_tokens"],
    [{ max_output_tokens: 1.5 }, "max_output_tokens"],
    [{ instructions: ["x"] }, "instructions"],
    [{ reasoning: { effort: "extreme" } }, "reasoning.effort"],
    [{ text: { format: { type: "xml" } } }, "text.format.type"],
    [{ text: { format: { type: "json_schema", name: "r" } } }, "text.format.schema"],
    [{ text: "x" }, "text"],
    [{ tools: [{ type: "file_search", vector_store_ids: [] }] }, "tools[0].type"],
    [{ tool_choice: 7 }, "tool_choice"],
    [{ include: 7 }, "include"],
    [{ stream_options: 7 }, "stream_options"],
    [{ metadata: { a: 1 } }, "metadata"],
    [{ metadata: { a: "x".repeat(513) } }, "metadata"],
    [{ metadata: { ["x".repeat(65)]: "" } }, "metadata"],
    [{ metadata: Object.fromEntries(Array.from({ length: 17 }, (_, i) => [i, ""])) }, "metadata"],
  ])("are not %j", (body, param) => {
    expect(refusal(body)).toMatchObject({ kind: "invalid_request", param });
  });

  it("are accepted up to their limits, and where they ask for what is anyway", () => {
    const pairs = Array.from({ length: 16 }, (_, i) => [`${i}`.padEnd(64, "k"), "v".repeat(512)]);
    read({ input: "x", metadata: Object.fromEntries(pairs), background: false, prompt: null, conversation: null });
  });

  it("may be anything without an exception, and what is wrong is named", () => {
    const names = [
      "input",
      "tools",
      "text",
      "reasoning",
      "metadata",
      "include",
      "tool_choice",
      "stream_options",
      "store",
    ];
    const types = [
      "message",
      "function_call",
      "function_call_output",
      "custom_tool_call",
      "reasoning",
      "item_reference",
    ];
    const item = fc.record(
      {
        type: fc.oneof(fc.constantFrom(...types), fc.jsonValue()),
        role: fc.oneof(fc.constantFrom("user", "assistant", "system", "tool"), fc.jsonValue()),
        content: fc.jsonValue(),
        output: fc.jsonValue(),
        call_id: fc.jsonValue(),
        name: fc.jsonValue(),
        arguments: fc.jsonValue(),
        encrypted_content: fc.jsonValue(),
        id: fc.jsonValue(),
      },
      { requiredKeys: [] },
    );
    const body = fc.oneof(
      fc.dictionary(fc.constantFrom(...names), fc.jsonValue()),
      fc.record({ input: fc.array(item) }),
    );
    fc.assert(
      fc.property(body, (fields) => {
        const draft = readResponses({ model: MODEL, input: "x", ...fields });
        if (draft.ok) return;
        expect(draft.error).toMatchObject({ kind: "invalid_request", param: expect.any(String) });
      }),
      { numRuns: 1_000 },
    );
  });
});
