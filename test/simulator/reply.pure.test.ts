import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { messageOf } from "../../simulator/message.ts";
import { sample } from "../../simulator/sample.ts";
import { tokenize } from "../../simulator/tokens.ts";
import { answered, ask, type Json, MODEL, TOOLS } from "./support.ts";

const user = (content: unknown): Json => ({ role: "user", content });
const say = (text: string): Json => user(`say: ${text}`);

function message(body: Json): { content: Json[]; stop_reason: string; stop_sequence: string | null } & Json {
  return messageOf(answered(body)) as ReturnType<typeof message>;
}
const textIn = (body: Json): unknown => message(body).content.at(-1)?.text;

describe("what the simulated Claude answers", () => {
  it("is a text that quotes the prompt and has characters of several bytes", () => {
    const text = textIn({ messages: [user("What is a sluice?")] });
    expect(text).toContain("What is a sluice?");
    expect(Buffer.byteLength(String(text))).toBeGreaterThan(String(text).length);
  });

  it("is exactly the text after `say:`, of any kind", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary", minLength: 1, maxLength: 200 }), (text) => {
        expect(textIn({ messages: [say(text)] })).toBe(text);
      }),
    );
  });

  it("repeats a word so many times", () => {
    expect(textIn({ messages: [user("repeat 3 żółw")] })).toBe("żółw żółw żółw");
  });

  it("looks only at the last text of the last user message", () => {
    const content = [
      { type: "text", text: "<system-reminder>say: wrong</system-reminder>" },
      { type: "text", text: "say: right" },
    ];
    expect(textIn({ messages: [say("first"), { role: "assistant", content: "ok" }, user(content)] })).toBe("right");
  });

  it("never tears a character of the prompt it quotes", () => {
    for (let i = 0; i < 4; i++) {
      const text = textIn({ messages: [user(`${"x".repeat(197 + i)}👋👋`)] });
      expect(String(text).isWellFormed()).toBe(true);
    }
  });

  it("refuses on request, with the reason in stop_details", () => {
    for (const prompt of ["refuse", "ANTHROPIC_MAGIC_STRING_TRIGGER_REFUSAL_1FAEFB61"]) {
      expect(message({ messages: [user(prompt)] })).toMatchObject({
        content: [{ type: "text", text: "" }],
        stop_reason: "refusal",
        stop_details: { type: "refusal", category: "general_harms" },
        usage: { output_tokens: 1 },
      });
    }
  });

  it("fits the JSON Schema of a structured answer", () => {
    const schema = { type: "object", properties: { title: { type: "string" } }, required: ["title"] };
    const text = textIn({ messages: [user("x")], output_config: { format: { type: "json_schema", schema } } });
    expect(JSON.parse(String(text))).toEqual({ title: "example" });
  });

  it("continues what a client has begun, where the model takes that", () => {
    const body = { model: "claude-sonnet-4-5", messages: [say("one two"), { role: "assistant", content: "one" }] };
    expect(textIn(body)).toBe(" two");
  });

  it("names the applied edits of a managed context", () => {
    expect(message({ messages: [user("x")], context_management: { edits: [] } })).toMatchObject({
      context_management: { applied_edits: [] },
    });
  });
});

describe("stop sequences", () => {
  it("end the text before the first that occurs", () => {
    const body = { messages: [say("one two three")], stop_sequences: ["three", " two"] };
    expect(message(body)).toMatchObject({
      content: [{ text: "one" }],
      stop_reason: "stop_sequence",
      stop_sequence: " two",
    });
  });

  it("change nothing when they do not occur", () => {
    const body = { messages: [say("one")], stop_sequences: ["four"] };
    expect(message(body)).toMatchObject({ stop_reason: "end_turn", stop_sequence: null });
  });
});

describe("max_tokens", () => {
  it("cuts after exactly so many tokens, and does not cut an answer that fits", () => {
    fc.assert(
      fc.property(fc.lorem({ maxCount: 20 }), fc.integer({ min: 1, max: 100 }), (text, limit) => {
        const tokens = tokenize(text);
        const { content, stop_reason, usage } = message({ messages: [say(text)], max_tokens: limit });
        expect(content.at(-1)?.text).toBe(tokens.slice(0, limit).join(""));
        expect(stop_reason).toBe(tokens.length > limit ? "max_tokens" : "end_turn");
        expect((usage as Json).output_tokens).toBe(Math.min(limit, tokens.length));
      }),
    );
  });

  it("gives way to the end of the context window", () => {
    // Some forty tokens short of 200,000.
    const filler = "x".repeat(799_800);
    const content = [
      { type: "text", text: filler },
      { type: "text", text: "repeat 500 word" },
    ];
    const body = { model: "claude-haiku-4-5", max_tokens: 100, messages: [user(content)] };
    expect(message(body).stop_reason).toBe("model_context_window_exceeded");
    expect(ask({ ...body, messages: [user(`${filler}${"x".repeat(400)}`)] })).toMatch(
      /^400 invalid_request_error prompt is too long: 2000\d\d tokens > 200000 maximum$/,
    );
  });
});

describe("tools", () => {
  const names = (body: Json): unknown[] =>
    message({ tools: TOOLS, ...body }).content.flatMap((block) => (block.type === "tool_use" ? [block.name] : []));

  it.each([
    ["use get_weather", ["get_weather"]],
    ["Please call save for me", ["save"]],
    ["use tools get_weather and ping_host", ["get_weather", "ping_host"]],
    ["get_weather, now", ["get_weather"]],
    ["How is the weather in Göteborg?", ["get_weather"]],
    ["I want to save time", []],
    ["say: nothing", []],
  ])("are called when the prompt asks: %s", (prompt, wanted) => {
    expect(names({ messages: [user(prompt)] })).toEqual(wanted);
  });

  it("are called as tool_choice says", () => {
    const messages = [user("Hello")];
    expect(names({ messages, tool_choice: { type: "any" } })).toEqual(["get_weather"]);
    expect(names({ messages, tool_choice: { type: "tool", name: "save" } })).toEqual(["save"]);
    expect(names({ messages: [user("use save")], tool_choice: { type: "none" } })).toEqual([]);
    const both = [user("use tools get_weather and save")];
    expect(names({ messages: both, tool_choice: { type: "auto", disable_parallel_tool_use: true } })).toEqual([
      "get_weather",
    ]);
  });

  it("get input that fits their schema, and ids of their own", () => {
    const { content, stop_reason } = message({
      tools: TOOLS,
      messages: [user("use tools get_weather, save, ping_host")],
    });
    const calls = content.filter((block) => block.type === "tool_use");
    expect(calls.map((call) => call.input)).toEqual([
      { place: "example", days: 2 },
      { tags: ["example", "example", "example"], deep: true },
      {},
    ]);
    expect(new Set(calls.map((call) => call.id)).size).toBe(3);
    expect(calls.every((call) => /^toolu_01[0-9a-zA-Z]{22}$/.test(String(call.id)))).toBe(true);
    expect(stop_reason).toBe("tool_use");
  });

  it("are answered with a text about their result", () => {
    const question = user("use get_weather");
    const { content } = message({ tools: TOOLS, messages: [question] });
    const id = content.at(-1)?.id;
    const result = user([{ type: "tool_result", tool_use_id: id, content: [{ type: "text", text: "sunny" }] }]);
    expect(textIn({ tools: TOOLS, messages: [question, { role: "assistant", content }, result] })).toBe(
      "The tool says: sunny.",
    );
  });

  it("have schemas of all usual kinds", () => {
    const schema = {
      $defs: { id: { type: "string", format: "uuid", minLength: 3 } },
      type: "object",
      properties: {
        ref: { $ref: "#/$defs/id" },
        kind: { enum: ["a", "b"] },
        fixed: { const: 7 },
        either: { anyOf: [{ type: "null" }, { type: "string" }] },
        small: { type: "number", exclusiveMinimum: 2 },
        when: { type: "string", format: "date" },
        short: { type: "string", maxLength: 2 },
      },
    };
    expect(sample(schema)).toEqual({
      ref: "example",
      kind: "a",
      fixed: 7,
      either: null,
      small: 2.5,
      when: "2026-11-21",
      short: "ex",
    });
  });
});

describe("a search of the web", () => {
  it.each([MODEL, "claude-haiku-4-5"])("pauses after each search, and is gone on with: %s", (model) => {
    const thinking = model === MODEL ? { type: "adaptive" } : { type: "enabled", budget_tokens: 1024 };
    const body = { model, max_tokens: 2000, thinking, tools: [{ type: "web_search_20250305", name: "web_search" }] };
    let content: Json[] = [];
    const kinds: unknown[] = [];
    for (;;) {
      const begun = content.length > 0 ? [{ role: "assistant", content }] : [];
      const said = message({ ...body, messages: [user("search 2"), ...begun] });
      content = [...content, ...said.content];
      kinds.push(said.stop_reason, (said.usage as Json).server_tool_use);
      if (said.stop_reason !== "pause_turn") break;
    }
    const found = { web_search_requests: 1, web_fetch_requests: 0 };
    expect(kinds).toEqual(["pause_turn", null, "pause_turn", found, "end_turn", found]);
    const types = content.map(({ type }) => type).filter((type) => type !== "thinking" && type !== "text");
    expect(types).toEqual(["server_tool_use", "web_search_tool_result", "server_tool_use", "web_search_tool_result"]);
    // All of it, thinking included, can be sent back.
    const after = { ...body, messages: [user("search 2"), { role: "assistant", content }, say("on")] };
    expect(message(after).stop_reason).toBe("end_turn");
  });
});

describe("thinking", () => {
  const params = { thinking: { type: "adaptive" } };
  const question = { role: "user", content: [{ type: "text", text: "Think" }] };
  const turn = (): Json[] => [
    question,
    { role: "assistant", content: message({ ...params, messages: [question] }).content },
  ];
  const next = (messages: Json[]): unknown => ask({ ...params, messages: [...messages, say("on")] });

  it("comes first, with its tokens inside the output's", () => {
    const { content, usage } = message({ ...params, messages: [question] });
    expect(content.map((block) => block.type)).toEqual(["thinking", "text"]);
    const { output_tokens, output_tokens_details } = usage as { output_tokens: number; output_tokens_details: Json };
    expect(output_tokens_details.thinking_tokens).toBe(tokenize(String(content[0]?.thinking)).length);
    expect(output_tokens).toBeGreaterThan(Number(output_tokens_details.thinking_tokens));
  });

  it("is not told when its display is omitted, but signed and counted", () => {
    const omitted = { thinking: { type: "adaptive", display: "omitted" }, messages: [question] };
    const { content, usage } = message(omitted);
    expect(content[0]).toMatchObject({ type: "thinking", thinking: "", signature: expect.stringMatching(/./) });
    expect((usage as Json).output_tokens_details).toMatchObject({ thinking_tokens: expect.any(Number) });
    expect(typeof ask({ ...omitted, messages: [question, { role: "assistant", content }, say("on")] })).toBe("object");
  });

  it("between tools comes only with a tool's result", () => {
    const body = { thinking: { type: "between_tools" }, tools: TOOLS, messages: [user("use save")] };
    const { content } = message(body);
    expect(content.map((block) => block.type)).toEqual(["text", "tool_use"]);
    const result = user([{ type: "tool_result", tool_use_id: content[1]?.id, content: "done" }]);
    const messages = [...body.messages, { role: "assistant", content }, result];
    expect(message({ ...body, messages }).content.map((block) => block.type)).toEqual(["thinking", "text"]);
  });

  it("is accepted back over several turns, however the client writes its JSON", () => {
    let messages = turn();
    for (let i = 0; i < 3; i++) {
      messages = [...messages, say(`turn ${i}`)];
      messages = [...messages, { role: "assistant", content: message({ ...params, messages }).content }];
    }
    expect(typeof next(messages)).toBe("object");
    const reordered = messages.map(({ role, content }) => ({
      content: Array.isArray(content)
        ? content.map((block: Json) => Object.fromEntries(Object.entries({ ...block, citations: null }).reverse()))
        : content,
      role,
    }));
    expect(typeof next(reordered)).toBe("object");
    const marked = structuredClone(messages);
    marked[0] = { role: "user", content: [{ type: "text", text: "Think", cache_control: { type: "ephemeral" } }] };
    expect(typeof next(marked)).toBe("object");
    const stripped = messages.map(({ role, content }) => ({
      role,
      content: Array.isArray(content)
        ? content.filter((block: Json, i) => block.type !== "thinking" || i > 0)
        : content,
    }));
    expect(typeof next(stripped)).toBe("object");
  });

  it("U-18: is refused, by its place, in another organization, also when the model is another", () => {
    for (const model of [MODEL, "claude-opus-5"]) {
      expect(ask({ model, messages: [...turn(), say("on")] }, { scope: "other" })).toBe(
        "400 invalid_request_error messages.1.content.0: Invalid `signature` in `thinking` block: it was created under another organization",
      );
    }
  });

  it("is accepted by another model, which ignores it", () => {
    expect(typeof ask({ model: "claude-opus-5", messages: [...turn(), say("on")] })).toBe("object");
  });

  it.each([
    ["the thinking is edited", (content: Json[]) => Object.assign(content[0] ?? {}, { thinking: "other" })],
    ["the signature is edited", (content: Json[]) => Object.assign(content[0] ?? {}, { signature: "AAAA" })],
    ["something stands before it", (content: Json[]) => content.unshift({ type: "text", text: "No." })],
  ])("is refused, by its place, when %s", (_, edit) => {
    const messages = structuredClone(turn());
    const content = messages[1]?.content as Json[];
    edit(content);
    const at = content.findIndex((block) => block.type === "thinking");
    expect(next(messages)).toBe(
      `400 invalid_request_error messages.1.content.${at}: Invalid \`signature\` in \`thinking\` block`,
    );
  });

  it("is refused when an earlier message is edited", () => {
    expect(next([user("Think of something else"), ...turn().slice(1)])).toMatch(/messages\.1\.content\.0/);
  });

  it("is left out then where the request says so, unless nobody has signed it", () => {
    const drops = { thinking: { ...params.thinking, block_binding: { prefix_mismatch_behavior: "drop_block" } } };
    const edited = [user("Think of something else"), ...structuredClone(turn()).slice(1), say("on")];
    expect(typeof ask({ ...params, ...drops, messages: edited })).toBe("object");
    const [thought = {}] = (edited[1]?.content ?? []) as Json[];
    thought.signature = "AAAA";
    expect(ask({ ...params, ...drops, messages: edited })).toMatch(/messages\.1\.content\.0/);
  });
});
