/** How a draft becomes a body that its model takes: one line for each sentence of the notes (OpenAI notes §3.4, §3.7, §3.8). */
import { describe, expect, it } from "vitest";
import { modelFacts } from "../../../src/wire/anthropic/model-facts.ts";
import type { Block, Draft, Fields, ToolDraft, Turn } from "../../../src/wire/openai/draft.ts";
import { userIdOf } from "../../../src/wire/openai/identity.ts";
import { messagesBody, requestHeaders } from "../../../src/wire/openai/messages-body.ts";
import { fit as fitDraft } from "../../../src/wire/openai/steps.ts";
import { draftOf, toolDraft } from "../../support/drafts.ts";

type Change = Partial<Draft>;

function fitted(model: string, changes: Change = {}): { body: Fields; headers: Fields; draft: Draft } {
  const draft = draftOf(changes);
  const failure = fitDraft(draft, modelFacts(`claude-${model}`));
  if (failure) throw new Error(JSON.stringify(failure));
  return { body: messagesBody(draft), headers: requestHeaders(draft), draft };
}

function bodyOf(model: string, changes: Change = {}): Fields {
  return fitted(model, changes).body;
}

const text = (words: string, more: Fields = {}): Block => ({ type: "text", text: words, ...more });
const turn = (role: Turn["role"], ...content: Block[]): Turn => ({ role, content });
const use = (id: string): Block => ({ type: "tool_use", id, name: "a", input: {} });
const result = (id: string): Block => ({ type: "tool_result", tool_use_id: id });
const thought: Block = { type: "thinking", thinking: "hm", signature: "sig" };
const marked = (ttl?: "5m" | "1h") => ({ cache_control: { type: "ephemeral" as const, ...(ttl && { ttl }) } });

describe("limits", () => {
  it.each([
    ["a client's own goes through as it is", "opus-5", { maxTokens: 50 }, 50],
    ["down to the model's", "haiku-4-5", { maxTokens: 100_000 }, 64_000],
    ["down to the model's", "opus-5", { maxTokens: 1_000_000 }, 128_000],
    ["a stream may use all of the model's", "opus-5", { stream: true }, 128_000],
    ["a stream may use all of the model's", "sonnet-4-5", { stream: true }, 64_000],
    ["a whole answer must come within ten minutes", "opus-5", {}, 21_333],
    ["a budget comes on top of a limit that nobody set", "haiku-4-5", { effort: "max" }, 53_333],
  ] as const)("%s: %s %j", (_, model, changes, limit) => {
    expect(bodyOf(model, changes).max_tokens).toBe(limit);
  });
});

describe("sampling", () => {
  const thinks = { extra: { thinking: { type: "enabled", budget_tokens: 2_000 } } };
  it.each([
    ["0 is a temperature", "sonnet-4-6", { temperature: 0 }, { temperature: 0 }],
    ["clamped to 1", "sonnet-4-6", { temperature: 1.7 }, { temperature: 1 }],
    ["both: the temperature stays", "sonnet-4-6", { temperature: 0.3, topP: 0.5 }, { temperature: 0.3 }],
    ["both: a top_p of 1 says nothing", "haiku-4-5", { temperature: 1, topP: 1 }, { temperature: 1 }],
    ["both: a temperature of 1 says nothing", "haiku-4-5", { temperature: 1, topP: 0.4 }, { top_p: 0.4 }],
    ["top_p alone", "opus-4-5", { topP: 0 }, { top_p: 0 }],
    ["a top_p of 1 alone", "opus-4-6", { topP: 1 }, {}],
    ["top_k", "opus-4-6", { topK: 5 }, { top_k: 5 }],
    ["not on models after Opus 4.6", "opus-4-7", { temperature: 0, topP: 0.5, topK: 3 }, {}],
    ["not on models after Opus 4.6, at the default either", "opus-5-5", { temperature: 1, topP: 1 }, {}],
    ["not while thinking", "haiku-4-5", { temperature: 0.5, topP: 0.5, topK: 3, ...thinks }, {}],
    ["but a high top_p", "haiku-4-5", { topP: 0.95, ...thinks }, { top_p: 0.95 }],
    ["not while thinking", "sonnet-4-6", { temperature: 0.5, effort: "low" }, {}],
    ["with thinking off", "sonnet-4-6", { temperature: 0.5, effort: "none" }, { temperature: 0.5 }],
  ] as const)("%s: %s %j", (_, model, changes, sent) => {
    const { body, headers } = fitted(model, changes as Change);
    const { temperature, top_p, top_k } = body;
    expect(JSON.parse(JSON.stringify({ temperature, top_p, top_k }))).toEqual(sent);
    expect(headers["anthropic-version"]).toBe(Object.keys(sent).length > 0 ? "2023-06-01" : "2026-10-21");
  });
});

describe("reasoning", () => {
  const adaptive = { type: "adaptive" };
  const effort = (word: string) => ({ effort: word });
  it.each([
    ["opus-5", "none", { type: "disabled" }, undefined],
    ["sonnet-5", "none", { type: "disabled" }, undefined],
    ["haiku-5-5", "none", { type: "disabled" }, undefined],
    ["sonnet-4-6", "none", { type: "disabled" }, undefined],
    ["sonnet-5-5", "none", { type: "between_tools" }, undefined],
    ["opus-5-5", "none", undefined, effort("low")],
    ["fable-5-2", "none", undefined, effort("low")],
    ["haiku-4-5", "none", undefined, undefined],
    ["opus-4-5", "none", undefined, undefined],
    ["opus-5", "minimal", adaptive, effort("low")],
    ["opus-5", "low", adaptive, effort("low")],
    ["opus-5", "medium", adaptive, effort("medium")],
    ["opus-5", "high", adaptive, effort("high")],
    ["opus-5", "xhigh", adaptive, effort("xhigh")],
    ["opus-4-6", "xhigh", adaptive, effort("high")],
    ["sonnet-4-6", "max", adaptive, effort("max")],
    ["opus-5-5", "max", adaptive, effort("max")],
    ["haiku-4-5", "minimal", { type: "enabled", budget_tokens: 2_048 }, undefined],
    ["sonnet-4-5", "low", { type: "enabled", budget_tokens: 2_048 }, undefined],
    ["opus-4-5", "medium", { type: "enabled", budget_tokens: 4_096 }, undefined],
    ["haiku-4-5", "high", { type: "enabled", budget_tokens: 8_192 }, undefined],
    ["haiku-4-5", "xhigh", { type: "enabled", budget_tokens: 16_384 }, undefined],
    ["haiku-4-5", "max", { type: "enabled", budget_tokens: 32_000 }, undefined],
  ] as const)("%s, effort %s", (model, word, thinking, output) => {
    const body = bodyOf(model, { effort: word });
    expect(body.thinking).toEqual(thinking);
    expect(body.output_config).toEqual(output);
  });

  it.each([
    ["low", 1_500, 1_499],
    ["low", 1_025, 1_024],
    ["low", 1_024, undefined],
    ["high", 50, undefined],
    ["high", 8_193, 8_192],
    ["max", 4_000, 3_999],
  ] as const)("a budget for %s stays below a limit of %i", (word, maxTokens, budget) => {
    const { thinking, max_tokens: limit } = bodyOf("haiku-4-5", { effort: word, maxTokens });
    expect((thinking as Fields | undefined)?.budget_tokens).toBe(budget);
    expect(limit).toBe(maxTokens);
  });

  it.each(["opus-5", "haiku-4-5", "opus-5-5", "sonnet-4-6"])("%s: no effort, no word on thinking", (model) => {
    expect(bodyOf(model)).not.toHaveProperty("thinking");
    expect(bodyOf(model)).not.toHaveProperty("output_config");
  });

  it.each([
    ["opus-5", { effort: "high" }, { ...adaptive, display: "summarized" }],
    ["opus-5", {}, { ...adaptive, display: "summarized" }],
    ["sonnet-4-6", {}, undefined],
    ["haiku-4-5", {}, undefined],
    ["opus-5", { effort: "none" }, { type: "disabled" }],
  ] as const)("%s %j, thinking to be shown", (model, changes, thinking) => {
    expect(bodyOf(model, { ...changes, showThinking: true }).thinking).toEqual(thinking);
  });

  const toolLoop = (...first: Block[]) => ({
    tools: [toolDraft("a")],
    turns: [turn("user", text("w?")), turn("assistant", ...first), turn("user", result("c1"))],
  });
  it.each([
    ["a bare tool loop", "haiku-4-5", toolLoop(use("c1")), undefined],
    ["a bare tool loop", "sonnet-4-6", toolLoop(use("c1")), adaptive],
    ["one with its thought", "haiku-4-5", toolLoop(thought, use("c1")), { type: "enabled", budget_tokens: 4_096 }],
    ["one with a redacted thought", "haiku-4-5", toolLoop({ type: "redacted_thinking", data: "x" }, use("c1")), "*"],
    ["a prefill", "haiku-4-5", { turns: [turn("user", text("a")), turn("assistant", text("b"))] }, undefined],
    ["a forced tool", "haiku-4-5", { tools: [toolDraft("a")], toolChoice: { kind: "any" } }, undefined],
    ["a forced tool", "opus-5", { tools: [toolDraft("a")], toolChoice: { kind: "tool", name: "a" } }, undefined],
    ["a tool may be chosen", "opus-5", { tools: [toolDraft("a")], toolChoice: { kind: "auto" } }, adaptive],
    ["a choice among no tools", "opus-5", { toolChoice: { kind: "any" } }, adaptive],
  ] as const)("%s on %s", (_, model, changes, thinking) => {
    const body = bodyOf(model, { effort: "medium", ...(changes as Change) });
    if (thinking === "*") expect(body.thinking).toMatchObject({ type: "enabled" });
    else expect(body.thinking).toEqual(thinking);
  });

  it("thinking that comes back to a model that binds it may be dropped there", () => {
    const { body, headers } = fitted("opus-5-5", toolLoop(thought, use("c1")));
    expect(body.thinking).toEqual({ ...adaptive, block_binding: { prefix_mismatch_behavior: "drop_block" } });
    expect(headers["anthropic-beta"]).toBe("thinking-binding-controls-2026-08-01");
    expect(fitted("opus-5", toolLoop(thought, use("c1"))).body).not.toHaveProperty("thinking");
    expect(fitted("sonnet-5-5", { ...toolLoop(thought, use("c1")), effort: "none" }).body.thinking).toEqual({
      type: "between_tools",
    });
  });

  it("a forced tool leaves no thinking to bind", () => {
    const changes: Change = { ...toolLoop(thought, use("c1")), toolChoice: { kind: "any" }, effort: "high" };
    const { body, headers } = fitted("haiku-5-5", changes);
    expect(JSON.stringify(body)).not.toContain("thinking");
    expect(body.output_config).toEqual({ effort: "high" });
    expect(headers).not.toHaveProperty("anthropic-beta");
  });

  it.each([
    ["opus-5", { type: "adaptive", display: "omitted" }, { type: "adaptive", display: "omitted" }, undefined],
    ["opus-5", { type: "enabled", budget_tokens: 5_000 }, adaptive, effort("high")],
    ["opus-5", { type: "enabled", budget_tokens: 90_000 }, adaptive, effort("max")],
    ["opus-5", { type: "enabled" }, adaptive, undefined],
    ["opus-5", { type: "disabled" }, { type: "disabled" }, undefined],
    ["opus-5-5", { type: "disabled" }, undefined, effort("low")],
    ["sonnet-5-5", { type: "disabled" }, { type: "between_tools" }, undefined],
    ["opus-5", { type: "between_tools" }, { type: "disabled" }, undefined],
    ["opus-5", { type: "x" }, undefined, undefined],
    ["opus-5", true, undefined, undefined],
    ["sonnet-4-6", { type: "enabled", budget_tokens: 5_000 }, { type: "enabled", budget_tokens: 5_000 }, undefined],
    ["haiku-4-5", { type: "enabled", budget_tokens: 5_000 }, { type: "enabled", budget_tokens: 5_000 }, undefined],
    ["haiku-4-5", { type: "enabled", budget_tokens: 50 }, { type: "enabled", budget_tokens: 1_024 }, undefined],
    ["haiku-4-5", { type: "enabled", budget_tokens: 50_000 }, { type: "enabled", budget_tokens: 21_332 }, undefined],
    ["haiku-4-5", { type: "adaptive" }, { type: "enabled", budget_tokens: 8_192 }, undefined],
    ["haiku-4-5", { type: "disabled" }, undefined, undefined],
  ])("%s: the client's own thinking %j", (model, thinking, sent, output) => {
    const body = bodyOf(model, { extra: { thinking } });
    expect(body.thinking).toEqual(sent);
    expect(body.output_config).toEqual(output);
  });

  it.each([
    ["opus-5", { effort: "medium" }, effort("medium")],
    ["opus-4-6", { effort: "xhigh" }, effort("high")],
    ["opus-4-5", { effort: "max" }, effort("high")],
    ["haiku-4-5", { effort: "max" }, undefined],
    ["opus-5", { effort: "huge" }, undefined],
    ["opus-5", { effort: null, other: 1 }, undefined],
    ["opus-5", "x", undefined],
  ])("%s: the client's own output_config %j", (model, own, sent) => {
    const body = bodyOf(model, { extra: { output_config: own } });
    expect(body.output_config).toEqual(sent);
    expect(body).not.toHaveProperty("thinking");
  });

  it("thinking switched off goes with no effort above high", () => {
    const extra = { thinking: { type: "disabled" }, output_config: { effort: "max" } };
    expect(bodyOf("opus-5", { extra })).toMatchObject({
      thinking: { type: "disabled" },
      output_config: effort("high"),
    });
  });
});

describe("caching", () => {
  const places = (body: Fields) => JSON.stringify(body).split('"cache_control"').length - 1;
  const six = [1, 2, 3, 4, 5, 6].map((n) => text(String(n), marked("1h")));

  it("the last four stay, with their lifetime", () => {
    const { body } = fitted("sonnet-4-6", { turns: [turn("user", ...six)] });
    const [message] = body.messages as readonly { content: Block[] }[];
    expect(message?.content.map((block) => block.cache_control)).toEqual([
      undefined,
      undefined,
      ...Array(4).fill(marked("1h").cache_control),
    ]);
    expect(places(body)).toBe(4);
  });

  it("tools come before the system, the system before messages, and blocks in results count", () => {
    const inside: Block = { ...result("c1"), content: [text("r", marked())] };
    const tools: ToolDraft[] = [
      toolDraft("a", { cacheControl: marked().cache_control }),
      toolDraft("b", { schema: null, definition: { type: "web_search_20250305", name: "web_search", ...marked() } }),
    ];
    const turns = [
      turn("system", text("s", marked())),
      turn("user", text("u", marked())),
      turn("assistant", use("c1")),
      turn("user", inside, text("more", marked())),
    ];
    const { body } = fitted("sonnet-4-6", { tools, turns });
    expect(body.tools).toMatchObject([{ name: "a" }, { name: "web_search" }]);
    expect(JSON.stringify(body.tools)).not.toContain("cache_control");
    expect(places(body)).toBe(4);
    expect(body).not.toHaveProperty("cache_control");
  });

  it.each([
    ["by itself", {}, { type: "ephemeral" }],
    ["not where the client says it sets its own", { caching: "explicit" }, undefined],
    ["not where there are four", { turns: [turn("user", ...six.slice(2), text("x"))] }, undefined],
    ["with three", { turns: [turn("user", ...six.slice(3), text("x"))] }, { type: "ephemeral" }],
    ["not where the last block has one", { turns: [turn("user", text("x", marked("1h")))] }, undefined],
    [
      "as the client wrote it",
      { extra: { cache_control: { type: "ephemeral", ttl: "1h" } } },
      { type: "ephemeral", ttl: "1h" },
    ],
  ] as const)("the automatic one: %s", (_, changes, sent) => {
    expect(bodyOf("opus-5", changes as unknown as Change).cache_control).toEqual(sent);
  });

  it("thinking has none, nor is there one of an unknown kind", () => {
    const turns = [
      turn(
        "user",
        text("a", { cache_control: { type: "forever" } as never }),
        text("b", { cache_control: { type: "ephemeral", ttl: "2h" } as never }),
      ),
      turn("assistant", { ...thought, ...marked() }, text("c")),
      turn("user", text("d")),
    ];
    const { body } = fitted("opus-5", { caching: "explicit", turns });
    expect(
      (body.messages as readonly Turn[]).flatMap(({ content }) => content.map((block) => block.cache_control)),
    ).toEqual([undefined, { type: "ephemeral" }, undefined, undefined, undefined]);
  });
});

describe("the rest", () => {
  it("says who asks by a name that is always the same and never the user's", async () => {
    const id = await userIdOf("ann@example.com");
    expect(id).toMatch(/^user_[0-9a-f]{32}$/);
    expect(await userIdOf("ann@example.com")).toBe(id);
    expect(await userIdOf("bob@example.com")).not.toBe(id);
    expect(bodyOf("opus-5", { user: "ann@example.com", body: { userId: id } }).metadata).toEqual({ user_id: id });
    expect(bodyOf("opus-5", { user: "ann@example.com" }).metadata).toBeUndefined();
  });

  it.each(["auto", "standard_only", null] as const)("the service tier %s", (serviceTier) => {
    expect(bodyOf("opus-5", { serviceTier }).service_tier).toBe(serviceTier ?? undefined);
  });

  it("passes what else the client has from Messages, and the betas of it", () => {
    const servers = [{ type: "url", url: "https://mcp.example.com", name: "m" }];
    const extra = { container: "c_1", mcp_servers: servers, thinking: 1, output_config: 1, cache_control: 1, top_k: 1 };
    const { body, headers } = fitted("opus-5", { extra, betas: new Set(["b", "a"]) });
    expect(Object.keys(body)).toEqual(["model", "max_tokens", "messages", "cache_control", "container", "mcp_servers"]);
    expect(body).toMatchObject({ container: "c_1", mcp_servers: servers, cache_control: { type: "ephemeral" } });
    expect(headers).toEqual({ "anthropic-version": "2026-10-21", "anthropic-beta": "a,b" });
  });

  it("a field of the client's own never replaces one of the body", () => {
    expect(bodyOf("opus-5", { extra: { messages: [], model: "x" } })).toMatchObject({
      model: "claude-opus-5",
      messages: [{ role: "user" }],
    });
  });

  it.each([
    [null, null, undefined],
    [null, true, undefined],
    [null, false, { type: "auto", disable_parallel_tool_use: true }],
    [{ kind: "auto" }, null, undefined],
    [{ kind: "any" }, false, { type: "any", disable_parallel_tool_use: true }],
    [{ kind: "tool", name: "a" }, null, { type: "tool", name: "a" }],
    [{ kind: "none" }, false, { type: "none" }],
  ] as const)("tool_choice %j, parallel calls %j", (toolChoice, parallelToolCalls, sent) => {
    expect(bodyOf("opus-5", { tools: [toolDraft("a")], toolChoice, parallelToolCalls }).tool_choice).toEqual(sent);
    expect(bodyOf("opus-5", { toolChoice, parallelToolCalls })).not.toHaveProperty("tool_choice");
  });

  it("system turns at the front are the system, later ones stay", () => {
    const turns = [
      turn("system", text("1")),
      turn("system", text("2")),
      turn("user", text("u")),
      turn("system", text("3")),
    ];
    expect(bodyOf("opus-5", { turns })).toMatchObject({
      system: [text("1"), text("2")],
      messages: [turn("user", text("u")), turn("system", text("3"))],
    });
  });

  it("writes a tool with its description, and strict only where it is", () => {
    const input_schema = { type: "object", properties: { x: { type: "string" } }, additionalProperties: false };
    const tools = [
      toolDraft("a", { description: "d", strict: true, schema: input_schema }),
      toolDraft("b", { strict: false, schema: input_schema }),
    ];
    expect(bodyOf("opus-5", { tools }).tools).toEqual([
      { name: "a", description: "d", input_schema, strict: true },
      { name: "b", input_schema },
    ]);
  });
});
