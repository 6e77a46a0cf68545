/** Where a rendered prompt is cached: at the end of what no variable changes. */
import { describe, expect, it } from "vitest";
import type { Fields } from "../../src/templates/content.ts";
import { render, renderPrompt } from "../../src/templates/render.ts";
import { TEXT, variables, version } from "./drafts.ts";

const MARK = { type: "ephemeral" };
const HOUR = { type: "ephemeral", ttl: "1h" };
const text = (text: string, control?: object) => ({ type: "text", text, ...(control && { cache_control: control }) });
const user = (...content: object[]) => ({ role: "user", content });

/** The places with a breakpoint, and what it is. */
function marks(json: Record<string, unknown>, fields: Fields = {}): Record<string, unknown> {
  const rendered = render(version({ variables: variables({ a: TEXT }), ...json }), { a: "A" }, fields);
  if (!rendered.ok) throw new Error(JSON.stringify(rendered.error));
  const found: Record<string, unknown> = {};
  const walk = (value: unknown, path: string): void => {
    if (typeof value !== "object" || value === null) return;
    for (const [name, inner] of Object.entries(value)) {
      if (name === "cache_control") found[path] = inner;
      else walk(inner, path === "" ? name : `${path}.${name}`);
    }
  };
  walk(JSON.parse(new TextDecoder().decode(rendered.value.body)), "");
  return found;
}

const tools = [{ name: "x" }, { name: "y" }, { name: "z", defer_loading: true }];

describe("the breakpoint", () => {
  it.each([
    ["behind tools", { tools, system: "{{a}}", messages: [user(text("x"))] }, { "tools.1": MARK }],
    ["behind system", { tools, system: "x", messages: [user(text("{{a}}"))] }, { "system.0": MARK }],
    [
      "inside of system",
      { system: [text("x"), text("{{a}}"), text("y")], messages: [user(text("x"))] },
      { "system.0": MARK },
    ],
    [
      "inside of a message",
      { system: "x", messages: [user(text("x"), text("{{a}}"))] },
      { "messages.0.content.0": MARK },
    ],
    ["behind all of it", { messages: [{ role: "user", content: "x" }] }, { "messages.0.content.0": MARK }],
    ["nowhere", { messages: [user(text("{{a}}"), text("x"))] }, {}],
    ["not for a comment", { messages: [user(text("x{{! a }}"))] }, { "messages.0.content.0": MARK }],
    [
      "not on thinking or blanks",
      {
        messages: [
          user(text("x")),
          { role: "assistant", content: [text(" "), { type: "thinking", thinking: "x", signature: "s" }] },
        ],
      },
      { "messages.0.content.0": MARK },
    ],
    ["on tools alone", { tools: [{ name: "x" }], messages: [user(text("{{a}}"))] }, { "tools.0": MARK }],
    [
      "not where a tool has one",
      { tools: [{ name: "x", cache_control: MARK }], system: "{{a}}", messages: [user(text("x"))] },
      { "tools.0": MARK },
    ],
    [
      "behind leading messages",
      {
        system: "s",
        messages: [user(text("x")), { role: "assistant", content: "y" }, { role: "user", content: "{{a}}" }],
      },
      { "messages.1.content.0": MARK },
    ],
    [
      "not on a message that is blank for a comment, but before it",
      { system: "s", messages: [{ role: "user", content: "{{! nothing }}" }, user(text("{{a}}"))] },
      { "system.0": MARK },
    ],
    [
      "not on kinds that have no place for one",
      {
        messages: [
          user(text("x")),
          {
            role: "assistant",
            content: ["redacted_thinking", "fallback", "mcp_tool_listing"].map((type) => ({ type })),
          },
        ],
      },
      { "messages.0.content.0": MARK },
    ],
    [
      "behind a result that has one further in",
      { messages: [user({ type: "tool_result", tool_use_id: "t", content: [text("x", MARK), text("y")] })] },
      { "messages.0.content.0.content.0": MARK, "messages.0.content.0": MARK },
    ],
    [
      "not behind a document that ends with one",
      { messages: [user({ type: "document", source: { type: "content", content: [text("x"), text("y", MARK)] } })] },
      { "messages.0.content.0.source.content.1": MARK },
    ],
    [
      "before a result that varies inside",
      { messages: [user(text("x"), { type: "tool_result", tool_use_id: "t", content: [text("{{a}}")] })] },
      { "messages.0.content.0": MARK },
    ],
  ])("stands %s", (_, json, expected) => {
    expect(marks(json)).toEqual(expected);
  });

  it("is never a fifth, and leaves those that are there", () => {
    const own = { system: [text("a", MARK), text("b", HOUR), text("c", MARK)], messages: [user(text("x"))] };
    expect(marks(own)).toMatchObject({ "system.1": HOUR, "messages.0.content.0": MARK });
    expect(Object.keys(marks({ ...own, messages: [user(text("x", MARK), text("y"))] }))).toHaveLength(4);
    const more = { messages: [user(text("y", MARK))] };
    expect(marks(own, more)).not.toHaveProperty(["messages.0.content.0"]);
    expect(marks({ system: [text("a", HOUR)], messages: [user(text("{{a}}"))] })).toEqual({ "system.0": HOUR });
  });

  it("is none where the template or the caller marks the whole", () => {
    const json = { messages: [user(text("x"))] };
    expect(marks({ ...json, defaults: { cache_control: MARK } })).toEqual({ "": MARK });
    expect(marks(json, { cache_control: HOUR })).toEqual({ "": HOUR });
  });

  it("makes a fifth of none, wherever the four are", () => {
    const four = [text("a", MARK), text("b", MARK), text("c", MARK), text("d", MARK)];
    const nested = { type: "document", source: { type: "content", content: four } };
    for (const more of [user(...four), user(nested), user({ type: "tool_result", tool_use_id: "t", content: four })]) {
      expect(Object.keys(marks({ system: "x", messages: [] }, { messages: [more] }))).toHaveLength(4);
      expect(marks({ system: "x", messages: [more] })).not.toHaveProperty(["system.0"]);
    }
    expect(() => marks({ system: four, messages: [user(text("e", MARK))] })).toThrow("more than 4 places");
  });

  it("of a conversation's beginning stands where its system goes on behind it, and nowhere else", () => {
    const begins = (json: Record<string, unknown>) => {
      const prompt = renderPrompt(version({ variables: variables({ a: TEXT }), ...json }), { a: "A" });
      if (!prompt.ok) throw new Error(prompt.error.kind);
      return [prompt.value.tools, prompt.value.system];
    };
    expect(begins({ tools, system: [text("x"), text("{{a}}")] })).toEqual([tools, [text("x", MARK), text("A")]]);
    expect(begins({ tools: [{ name: "x" }], system: "{{a}}" })).toEqual([[{ name: "x", cache_control: MARK }], "A"]);
    expect(begins({ tools, system: "x" })).toEqual([tools, "x"]);
    const whole = { system: [text("x"), text("{{a}}")], defaults: { cache_control: MARK } };
    expect(begins(whole)).toEqual([undefined, [text("x"), text("A")]]);
  });

  it("lives an hour where one behind it does", () => {
    expect(marks({ system: "x", messages: [user(text("{{a}}"), text("y", HOUR))] })).toEqual({
      "system.0": HOUR,
      "messages.0.content.1": HOUR,
    });
    expect(
      marks({ system: "x", messages: [user(text("{{a}}"))] }, { messages: [user(text("y", HOUR))] }),
    ).toMatchObject({
      "system.0": HOUR,
    });
  });

  it("ends where the caller brings tools or a system of its own", () => {
    const json = { tools, system: "x", messages: [user(text("x"))], operator: [] };
    expect(marks(json, { tools: [{ name: "own" }] })).toEqual({});
    expect(marks(json, { system: "own" })).toEqual({ "tools.1": MARK });
    expect(marks(json, { mcp_servers: [{ type: "url", name: "m", url: "https://m.test" }] })).toEqual({});
  });
});
