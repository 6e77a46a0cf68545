import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { readChat } from "../../../src/wire/openai/chat-request.ts";
import type { Block, Draft, Fields } from "../../../src/wire/openai/draft.ts";

const MODEL = "claude-sonnet-4-6";
const HI = [{ role: "user", content: "Hi" }];

function draftOf(fields: Fields): Draft {
  const draft = readChat({ model: MODEL, messages: HI, ...fields });
  if (!draft.ok) throw new Error(JSON.stringify(draft.error));
  return draft.value;
}
function refusalOf(fields: Fields): { param?: unknown; message?: string } {
  const draft = readChat({ model: MODEL, messages: HI, ...fields });
  return draft.ok ? { param: "accepted" } : (draft.error as { param?: unknown; message?: string });
}
const turnsOf = (...messages: unknown[]) => draftOf({ messages }).turns;
const text = (text: string) => ({ type: "text", text });
const use = (id: string, input: unknown = {}, name = "f") => ({ type: "tool_use", id, name, input });
const result = (id: string, said?: string) => ({
  type: "tool_result",
  tool_use_id: id,
  ...(said === undefined ? {} : { content: [text(said)] }),
});
const functionCall = (id: string, args: unknown = "{}") => ({
  id,
  type: "function",
  function: { name: "f", arguments: args },
});

describe("readChat: fields", () => {
  it("reads a whole body", () => {
    const draft = draftOf({
      stream: true,
      stream_options: { include_usage: true },
      max_completion_tokens: 100,
      max_tokens: 50,
      temperature: 0,
      top_p: 0.5,
      stop: ["a", " \n", "", "b"],
      reasoning_effort: "high",
      safety_identifier: "sid",
      user: "u",
      service_tier: "default",
      parallel_tool_calls: false,
      prompt_cache_options: { mode: "explicit" },
    });
    expect(draft).toMatchObject({
      model: MODEL,
      stream: true,
      turns: [{ role: "user", content: [text("Hi")] }],
      maxTokens: 100,
      temperature: 0,
      topP: 0.5,
      topK: null,
      stop: ["a", "b"],
      effort: "high",
      showThinking: true,
      user: "sid",
      serviceTier: "standard_only",
      parallelToolCalls: false,
      caching: "explicit",
      format: { kind: "text" },
      telling: { shape: "chat", includeUsage: true, legacyFunctions: false },
    });
  });

  it("takes null for absent everywhere", () => {
    const names = [
      ...["stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature", "top_p", "stop", "n"],
      ...["reasoning_effort", "reasoning", "response_format", "user", "metadata", "service_tier", "tools", "functions"],
      ...["tool_choice", "function_call", "parallel_tool_calls", "modalities", "audio", "prompt_cache_key", "thinking"],
    ];
    const nulls = draftOf(Object.fromEntries(names.map((name) => [name, null])));
    expect(nulls).toEqual(draftOf({}));
    expect(nulls).toMatchObject({ stream: false, maxTokens: null, temperature: null, stop: [], effort: null });
  });

  it("passes over what Claude has nothing like", () => {
    const ignored = {
      ...{ seed: 7, logprobs: true, top_logprobs: 3, presence_penalty: 0.5, frequency_penalty: -0.5, store: true },
      ...{ logit_bias: { "50256": -100 }, prediction: { type: "content", content: "y" }, verbosity: "low", n: 1 },
      ...{ web_search_options: {}, prompt_cache_retention: "24h", modalities: ["text"], foo_unknown: 1 },
      ...{ metadata: { a: "b" }, service_tier: "flex", moderation: {} },
    };
    expect(draftOf(ignored)).toEqual(draftOf({}));
  });

  it("names the field that it refuses", () => {
    for (const [fields, param] of [
      [{ model: undefined }, "model"],
      [{ model: "" }, "model"],
      [{ model: 7 }, "model"],
      [{ model: "m".repeat(257) }, "model"],
      [{ messages: undefined }, "messages"],
      [{ messages: [] }, "messages"],
      [{ messages: "Hi" }, "messages"],
      [{ n: 2 }, "n"],
      [{ n: 0 }, "n"],
      [{ n: "1" }, "n"],
      [{ modalities: ["text", "audio"] }, "modalities"],
      [{ audio: { voice: "alloy", format: "mp3" } }, "audio"],
      [{ stream: "yes" }, "stream"],
      [{ stream_options: 1 }, "stream_options"],
      [{ stream_options: { include_usage: 1 } }, "stream_options.include_usage"],
      [{ max_tokens: 0 }, "max_tokens"],
      [{ max_tokens: 1.5 }, "max_tokens"],
      [{ max_completion_tokens: "9" }, "max_completion_tokens"],
      [{ max_completion_tokens: -1 }, "max_completion_tokens"],
      [{ temperature: "hot" }, "temperature"],
      [{ top_p: Number.POSITIVE_INFINITY }, "top_p"],
      [{ stop: 7 }, "stop"],
      [{ stop: ["a", 7] }, "stop[1]"],
      [{ reasoning_effort: "extreme" }, "reasoning_effort"],
      [{ reasoning: { effort: 7 } }, "reasoning.effort"],
      [{ reasoning: "high" }, "reasoning"],
      [{ response_format: "json" }, "response_format"],
      [{ response_format: { type: "xml" } }, "response_format.type"],
      [{ response_format: { schema: {} } }, "response_format.type"],
      [{ response_format: { type: "json_schema" } }, "response_format.json_schema"],
      [{ response_format: { type: "json_schema", json_schema: { schema: 1 } } }, "response_format.json_schema.schema"],
      [{ user: 7 }, "user"],
      [{ cache_control: 7 }, "cache_control"],
      [{ system: [{ type: "image" }] }, "system[0]"],
      [{ tools: 7 }, "tools"],
      [{ tool_choice: 7 }, "tool_choice"],
    ] as const) {
      expect([fields, refusalOf(fields).param]).toEqual([fields, param]);
      expect(refusalOf(fields).message).not.toBe("");
    }
  });

  it("takes one stop sequence, and Anthropic's name for several", () => {
    expect(draftOf({ stop: "END" }).stop).toEqual(["END"]);
    expect(draftOf({ stop: "\n\n" }).stop).toEqual([]);
    expect(draftOf({ stop_sequences: ["X"] }).stop).toEqual(["X"]);
  });

  it("reads reasoning as a word, as Cursor's object, and as OpenRouter's", () => {
    const read = (fields: Fields) => {
      const { effort, showThinking } = draftOf(fields);
      return [effort, showThinking];
    };
    expect(read({})).toEqual([null, false]);
    expect(read({ reasoning: { effort: "xhigh" } })).toEqual(["xhigh", true]);
    expect(read({ reasoning: { effort: "low" }, reasoning_effort: "max" })).toEqual(["max", true]);
    expect(read({ reasoning_effort: "none" })).toEqual(["none", false]);
    expect(read({ reasoning: { enabled: false } })).toEqual(["none", false]);
    expect(read({ reasoning: { effort: "high", exclude: true } })).toEqual(["high", false]);
    expect(read({ reasoning: { summary: "auto" } })).toEqual([null, true]);
  });

  it("reads output formats", () => {
    const schema = { type: "object" };
    expect(draftOf({ response_format: { type: "json_object" } }).format).toEqual({ kind: "json_object" });
    expect(draftOf({ response_format: { type: "text" } }).format).toEqual({ kind: "text" });
    expect(draftOf({ response_format: { type: "json_schema", json_schema: { name: "r", schema } } }).format).toEqual({
      kind: "json_schema",
      schema,
      param: "response_format",
    });
    expect(draftOf({ response_format: { type: "json_schema", json_schema: { name: "r" } } }).format).toEqual({
      kind: "json_object",
    });
  });

  it("ties a conversation together by Cursor's id, else by the cache key", () => {
    expect(draftOf({ metadata: { cursorConversationId: "c1" }, prompt_cache_key: "k" }).conversation).toBe("c1");
    expect(draftOf({ metadata: {}, prompt_cache_key: "k" }).conversation).toBe("k");
    expect(draftOf({ metadata: "x", prompt_cache_key: 7 }).conversation).toBeNull();
  });

  it("knows who asks", () => {
    expect(draftOf({ user: "u" }).user).toBe("u");
    expect(draftOf({ safety_identifier: "s", user: "u" }).user).toBe("s");
    expect(draftOf({ metadata: { user_id: "m" } }).user).toBe("m");
    expect(draftOf({ user: "" }).user).toBeNull();
  });

  it("passes Messages fields on that are typed right, and no others", () => {
    const thinking = { type: "adaptive" };
    const output_config = { effort: "low" };
    const mcp_servers = [{ type: "url", name: "n", url: "https://x.test/" }];
    const draft = draftOf({ thinking, output_config, container: "c", mcp_servers, top_k: 5, betas: ["x"] });
    expect(draft.extra).toEqual({ thinking, output_config, container: "c", mcp_servers });
    expect(draft.topK).toBe(5);
    // Elsewhere these mean no limit.
    expect([draftOf({ top_k: 0 }).topK, draftOf({ top_k: -1 }).topK]).toEqual([null, null]);
    const wrong = draftOf({ thinking: true, output_config: [], container: 7, mcp_servers: {}, top_k: "5" });
    expect([wrong.extra, wrong.topK]).toEqual([{}, null]);
    expect(draftOf({ cache_control: { type: "ephemeral", ttl: "1h" } }).extra).toEqual({
      cache_control: { type: "ephemeral", ttl: "1h" },
    });
  });
});

describe("readChat: messages", () => {
  it("keeps every message a turn, system and developer where they stand", () => {
    expect(
      turnsOf(
        { role: "system", content: [{ type: "text", text: "S", cache_control: { type: "ephemeral", ttl: "1h" } }] },
        { role: "developer", content: "D" },
        { role: "user", content: "a", name: "bob" },
        { role: "user", content: ["b", text("c")] },
        { role: "system", content: "later" },
      ),
    ).toEqual([
      { role: "system", content: [{ ...text("S"), cache_control: { type: "ephemeral", ttl: "1h" } }] },
      { role: "system", content: [text("D")] },
      { role: "user", content: [text("a")] },
      { role: "user", content: [text("b"), text("c")] },
      { role: "system", content: [text("later")] },
    ]);
  });

  it("takes a `system` beside the messages for the first of them", () => {
    expect(draftOf({ system: "S" }).turns[0]).toEqual({ role: "system", content: [text("S")] });
    expect(draftOf({ system: null }).turns).toHaveLength(1);
  });

  it("names the message that it refuses, and what of it", () => {
    for (const [message, param] of [
      [7, "messages[1]"],
      [null, "messages[1]"],
      [{}, "messages[1].role"],
      [{ role: "critic", content: "x" }, "messages[1].role"],
      [{ role: ["user"], content: "x" }, "messages[1].role"],
      [{ role: "user", content: 7 }, "messages[1].content"],
      [{ role: "user", content: [{ type: "input_audio" }] }, "messages[1].content[0]"],
      [{ role: "system", content: [{ type: "image_url" }] }, "messages[1].content[0]"],
      [{ role: "assistant", audio: { id: "a" } }, "messages[1].audio"],
      [{ role: "assistant", tool_calls: {} }, "messages[1].tool_calls"],
      [{ role: "assistant", tool_calls: [7] }, "messages[1].tool_calls[0]"],
      [{ role: "assistant", tool_calls: [{ id: 7 }] }, "messages[1].tool_calls[0].id"],
      [{ role: "assistant", tool_calls: [{ id: "c" }] }, "messages[1].tool_calls[0].function"],
      [{ role: "assistant", tool_calls: [{ id: "c", type: "custom" }] }, "messages[1].tool_calls[0].custom"],
      [{ role: "assistant", tool_calls: [{ id: "c", function: {} }] }, "messages[1].tool_calls[0].function.name"],
      [{ role: "assistant", function_call: "f" }, "messages[1].function_call"],
      [{ role: "assistant", function_call: {} }, "messages[1].function_call.name"],
      [{ role: "tool", tool_call_id: 7 }, "messages[1].tool_call_id"],
      [{ role: "tool", tool_call_id: "c", content: {} }, "messages[1].content"],
      [{ role: "user", content: "x", cache_control: "yes" }, "messages[1].cache_control"],
    ] as const) {
      expect([message, refusalOf({ messages: [...HI, message] }).param]).toEqual([message, param]);
    }
  });

  it("writes an assistant as Claude would have: thinking, text, calls", () => {
    const [turn] = turnsOf({
      role: "assistant",
      tool_calls: [{ ...functionCall("c1", '{"a":1}'), index: 0, cache_control: { type: "ephemeral" } }],
      content: [text("said"), { type: "refusal", refusal: "no" }],
      refusal: "never",
      reasoning_content: "hm",
      reasoning_details: [{ type: "reasoning.text", text: "hm", signature: "s" }],
    });
    expect(turn).toEqual({
      role: "assistant",
      content: [
        { type: "thinking", thinking: "hm", signature: "s" },
        text("said"),
        text("no"),
        text("never"),
        { ...use("c1", { a: 1 }), cache_control: { type: "ephemeral" } },
      ],
    });
  });

  it("takes thinking from one place alone, and never unsigned", () => {
    const signed = { type: "thinking", thinking: "t", signature: "s" };
    const details = [{ type: "reasoning.text", text: "t", signature: "s" }];
    for (const message of [
      { content: [signed, text("x")], reasoning_details: details },
      {
        content: "x",
        thinking_blocks: [signed, { type: "thinking", thinking: "unsigned" }],
        reasoning_details: details,
      },
      { content: "x", reasoning_details: details, reasoning_content: "t" },
    ]) {
      expect(turnsOf({ role: "assistant", ...message })[0]?.content).toEqual([signed, text("x")]);
    }
    expect(turnsOf({ role: "assistant", content: "x", reasoning_content: "t", reasoning: "t" })[0]?.content).toEqual([
      text("x"),
    ]);
  });

  it("adds nothing for an assistant without words or calls", () => {
    for (const message of [
      { content: null },
      {},
      { content: [], tool_calls: [] },
      { tool_calls: null, refusal: null },
    ]) {
      expect(turnsOf({ role: "assistant", ...message })).toEqual([{ role: "assistant", content: [] }]);
    }
  });

  it("makes an object of whatever was called with", () => {
    const inputs = (args: unknown) =>
      turnsOf({ role: "assistant", tool_calls: [functionCall("c", args)] })[0]?.content[0]?.input;
    for (const nothing of ["", " ", undefined, null, "null", "{}", {}]) expect(inputs(nothing)).toEqual({});
    expect(inputs('{"a":[1]}')).toEqual({ a: [1] });
    expect(inputs({ a: 1 })).toEqual({ a: 1 });
    expect(inputs('{"city": "Os')).toEqual({ input: '{"city": "Os' });
    expect(inputs("[1,2]")).toEqual({ input: "[1,2]" });
    expect(inputs([1, 2])).toEqual({ input: "[1,2]" });
    expect(inputs('"x"')).toEqual({ input: '"x"' });
    const deep = `${'{"a":'.repeat(200_000)}1${"}".repeat(200_000)}`;
    expect(inputs(deep)).toEqual({ input: deep });
  });

  it("leaves a free-form tool's text alone, even where it is JSON", () => {
    const tools = [{ type: "custom", custom: { name: "sql" } }];
    const calls = [
      { id: "a", type: "custom", custom: { name: "sql", input: '{"x":1}' } },
      { id: "b", type: "function", function: { name: "sql", arguments: '{"x":1}' } },
    ];
    expect(draftOf({ tools, messages: [{ role: "assistant", tool_calls: calls }] }).turns[0]?.content).toEqual([
      use("a", { input: '{"x":1}' }, "sql"),
      use("b", { input: '{"x":1}' }, "sql"),
    ]);
  });

  it("makes a user's turn of each result, its text and images kept", () => {
    const image = { type: "image_url", image_url: { url: "https://x.test/a.png" } };
    expect(
      turnsOf(
        { role: "assistant", tool_calls: [functionCall("c1"), functionCall("c2")] },
        { role: "tool", tool_call_id: "c2", name: "f", content: [text("x"), image] },
        { role: "tool", tool_call_id: "c1", content: null, cache_control: { type: "ephemeral" } },
      ).slice(1),
    ).toEqual([
      {
        role: "user",
        content: [
          {
            type: "tool_result",
            tool_use_id: "c2",
            content: [text("x"), { type: "image", source: { type: "url", url: "https://x.test/a.png" } }],
          },
        ],
      },
      { role: "user", content: [{ ...result("c1"), cache_control: { type: "ephemeral" } }] },
    ]);
  });

  it("puts a message's cache breakpoint on its last block, never on thinking", () => {
    const cache_control = { type: "ephemeral", ttl: "1h" };
    expect(turnsOf({ role: "user", content: [text("a"), text("b")], cache_control })[0]?.content).toEqual([
      text("a"),
      { ...text("b"), cache_control },
    ]);
    const thinking = { type: "thinking", thinking: "", signature: "s" };
    expect(turnsOf({ role: "assistant", content: [text("a"), thinking], cache_control })[0]?.content).toEqual([
      { ...text("a"), cache_control },
      thinking,
    ]);
  });

  it("reads Cursor's Anthropic blocks", () => {
    const draft = draftOf({
      messages: [
        { role: "system", content: [{ type: "text", text: "Sys", cache_control: { type: "ephemeral" } }] },
        { role: "user", content: [text("read a.txt")] },
        { role: "assistant", content: [text("Reading."), use("toolu_9", { path: "a.txt" }, "read_file")] },
        { role: "user", content: [{ type: "tool_result", tool_use_id: "toolu_9", content: [text("hello")] }] },
      ],
      tools: [{ name: "read_file", description: "Read", input_schema: { type: "object" } }],
      tool_choice: { type: "tool", name: "read_file", disable_parallel_tool_use: true },
    });
    expect(draft.turns.map(({ content }) => content)).toEqual([
      [{ ...text("Sys"), cache_control: { type: "ephemeral" } }],
      [text("read a.txt")],
      [text("Reading."), use("toolu_9", { path: "a.txt" }, "read_file")],
      [result("toolu_9", "hello")],
    ]);
    expect(draft).toMatchObject({
      tools: [{ name: "read_file", description: "Read", freeForm: false }],
      toolChoice: { kind: "tool", name: "read_file" },
      parallelToolCalls: false,
    });
  });

  it("takes calls that are written twice, as blocks and as tool_calls, once", () => {
    expect(
      turnsOf({ role: "assistant", content: [use("c1")], tool_calls: [functionCall("c1"), functionCall("c2")] })[0]
        ?.content,
    ).toEqual([use("c1"), use("c2")]);
  });
});

describe("readChat: calls without ids", () => {
  const ids = (...messages: unknown[]): unknown[] =>
    draftOf({ functions: [{ name: "f" }], messages }).turns.flatMap(({ content }) =>
      content.map((block: Block) => block.tool_use_id ?? block.id ?? block.text),
    );
  const legacy = (name: string) => ({ role: "assistant", content: null, function_call: { name, arguments: "{}" } });
  const answer = (name: string) => ({ role: "function", name, content: "x" });

  it("get ids in their order, and the results of `function` messages the same ones", () => {
    const [a, b, c, d] = ids(legacy("f"), answer("f"), legacy("f"), answer("f"));
    expect(b).toBe(a);
    expect(d).toBe(c);
    expect(c).not.toBe(a);
    expect(ids(legacy("f"), answer("f"), legacy("f"), answer("f"))).toEqual([a, b, c, d]);
    expect(draftOf({ functions: [{ name: "f" }] }).telling.legacyFunctions).toBe(true);
  });

  it("find results by name, then by order, and never an earlier assistant's call", () => {
    const bare = (name: string) => ({ type: "function", function: { name } });
    const calls = { role: "assistant", tool_calls: [bare("f"), bare("g"), bare("f")] };
    const [f1, g, f2, ...answered] = ids(calls, answer("f"), { role: "tool", content: "" }, answer("f"));
    expect(answered).toEqual([f1, g, f2]);
    const [open, next, said] = ids(legacy("f"), legacy("f"), answer("f"));
    expect([said === next, said === open]).toEqual([true, false]);
  });

  it("leave a result alone that answers nothing", () => {
    const [a, b, c] = ids(answer("f"), legacy("f"), answer("f"));
    expect(a).not.toBe(b);
    expect(c).toBe(b);
  });

  it("are passed over where the client has written tool_calls too", () => {
    const message = { ...legacy("f"), tool_calls: [functionCall("c1")] };
    expect(ids(message)).toEqual(["c1"]);
  });
});

describe("readChat: any body", () => {
  const json = fc.jsonValue({ maxDepth: 3 });
  const some = <T>(values: fc.Arbitrary<T>) => fc.oneof({ weight: 4, arbitrary: values }, json);
  const part = fc.record(
    {
      type: some(fc.constantFrom("text", "image_url", "file", "refusal", "tool_use", "tool_result", "thinking")),
      text: some(fc.string()),
      id: some(fc.string()),
      name: some(fc.string()),
      tool_use_id: some(fc.string()),
      content: json,
      cache_control: some(fc.constant({ type: "ephemeral" })),
    },
    { requiredKeys: ["type"] },
  );
  const message = fc.record(
    {
      role: some(fc.constantFrom("system", "developer", "user", "assistant", "tool", "function")),
      content: some(fc.oneof(fc.string(), fc.array(part, { maxLength: 3 }))),
      tool_calls: some(
        fc.array(
          fc.record({ id: some(fc.string()), function: some(fc.record({ name: fc.string(), arguments: json })) }),
        ),
      ),
      tool_call_id: some(fc.string()),
      function_call: json,
      reasoning_details: some(fc.array(fc.record({ type: fc.string(), text: json, signature: json, data: json }))),
      refusal: json,
      name: json,
    },
    { requiredKeys: ["role"] },
  );
  const body = fc.record(
    {
      model: some(fc.string()),
      messages: some(fc.array(message, { maxLength: 6 })),
      tools: json,
      tool_choice: json,
      functions: json,
      response_format: json,
      reasoning: json,
      metadata: json,
      stop: json,
      thinking: json,
      system: json,
      stream_options: json,
    },
    { requiredKeys: ["model", "messages"] },
  );

  it("gives a draft or a refusal that says where, and the same one every time", () => {
    fc.assert(
      fc.property(fc.oneof(body, fc.dictionary(fc.string(), json)), (written) => {
        const draft = readChat(structuredClone(written));
        expect(readChat(structuredClone(written))).toEqual(draft);
        if (draft.ok) {
          expect(draft.value.turns.length).toBeGreaterThan(0);
          for (const { content } of draft.value.turns)
            for (const { type } of content) expect(typeof type).toBe("string");
        } else {
          expect(draft.error).toMatchObject({ kind: "invalid_request", param: expect.stringMatching(/./) });
        }
      }),
      { numRuns: 500 },
    );
  });

  it("takes a hundred thousand messages, and no more", () => {
    const messages = Array.from({ length: 100_001 }, () => ({ role: "user", content: "x" }));
    expect(draftOf({ messages: messages.slice(1) }).turns).toHaveLength(100_000);
    expect(refusalOf({ messages }).param).toBe("messages");
  });
});
