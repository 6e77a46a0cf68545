import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { MAX_TOOLS } from "../../../src/wire/anthropic/request.ts";
import type { Fields, ToolDraft } from "../../../src/wire/openai/draft.ts";
import { FieldReader } from "../../../src/wire/openai/fields.ts";
import { readParallelToolCalls, readToolChoice } from "../../../src/wire/openai/tool-choice.ts";
import { readTools } from "../../../src/wire/openai/tools.ts";

const SCHEMA = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const TOOL: ToolDraft = {
  name: "f",
  description: "d",
  schema: SCHEMA,
  strict: null,
  freeForm: false,
  cacheControl: null,
  definition: null,
};

function read(body: Fields): ToolDraft[] {
  const tools = readTools(body);
  if (!tools.ok) throw new Error(JSON.stringify(tools.error));
  return tools.value;
}

const tool = (written: unknown): ToolDraft | undefined => read({ tools: [written] })[0];
const refusal = (body: Fields): unknown => {
  const tools = readTools(body);
  return tools.ok ? null : tools.error;
};

describe("readTools", () => {
  it.each([
    ["Chat's envelope", { type: "function", function: { name: "f", description: "d", parameters: SCHEMA } }],
    ["the flat form", { type: "function", name: "f", description: "d", parameters: SCHEMA }],
    ["the flat form without a type", { name: "f", description: "d", parameters: SCHEMA }],
    ["a bare Anthropic tool", { name: "f", description: "d", input_schema: SCHEMA }],
    ["an Anthropic tool that says custom", { type: "custom", name: "f", description: "d", input_schema: SCHEMA }],
    [
      "an Anthropic tool in an envelope",
      { type: "function", function: { name: "f", description: "d", input_schema: SCHEMA } },
    ],
  ])("reads %s", (_, written) => {
    expect(tool(written)).toEqual(TOOL);
  });

  it("reads forms of all kinds in one list", () => {
    const names = read({
      tools: [
        { type: "function", function: { name: "a" } },
        { name: "b", input_schema: SCHEMA },
        { type: "custom", custom: { name: "c" } },
        { type: "function", name: "d", parameters: null },
        { type: "bash_20250124", name: "bash" },
      ],
    }).map(({ name }) => name);
    expect(names).toEqual(["a", "b", "c", "d", "bash"]);
  });

  it("reads the functions of old, and only where there are no tools", () => {
    expect(read({ functions: [{ name: "f", description: "d", parameters: SCHEMA }] })).toEqual([TOOL]);
    expect(read({ tools: [], functions: [{ name: "f" }] })).toEqual([]);
    expect(refusal({ functions: [{}] })).toMatchObject({ param: "functions[0].name" });
  });

  it.each([
    ["no parameters", {}],
    ["null", { parameters: null }],
    ["an empty schema", { parameters: {} }],
    ["true", { parameters: true }],
    ["false", { parameters: false }],
  ])("takes %s for an object of anything", (_, fields) => {
    expect(tool({ type: "function", function: { name: "f", ...fields } })?.schema).toEqual({});
  });

  it("keeps strict, from the tool or from its envelope", () => {
    expect(tool({ type: "function", function: { name: "f", strict: true } })?.strict).toBe(true);
    expect(tool({ type: "function", strict: true, function: { name: "f" } })?.strict).toBe(true);
    expect(tool({ type: "function", name: "f", strict: false })?.strict).toBe(false);
  });

  it.each([
    ["Chat's", { type: "custom", custom: { name: "f", description: "d", format: { type: "text" } } }],
    ["the flat", { type: "custom", name: "f", description: "d" }],
  ])("makes %s free-form tool one with a single text", (_, written) => {
    expect(tool(written)).toMatchObject({
      name: "f",
      description: "d",
      freeForm: true,
      schema: { type: "object", properties: { input: { type: "string" } }, required: ["input"] },
    });
  });

  it.each([
    [
      "Chat's",
      {
        type: "custom",
        custom: {
          name: "f",
          description: "d",
          format: { type: "grammar", grammar: { syntax: "lark", definition: "start: WORD" } },
        },
      },
    ],
    [
      "the flat",
      {
        type: "custom",
        name: "f",
        description: "d",
        format: { type: "grammar", syntax: "lark", definition: "start: WORD" },
      },
    ],
  ])("tells of the grammar in %s free-form tool's description", (_, written) => {
    expect(tool(written)?.description).toBe("d\n\nThe input must follow this lark grammar:\nstart: WORD");
  });

  it("keeps cache breakpoints, in the tool or its envelope, in both wordings", () => {
    const cacheControl = { type: "ephemeral", ttl: "1h" };
    expect(tool({ name: "f", cache_control: cacheControl })?.cacheControl).toEqual(cacheControl);
    expect(tool({ type: "function", function: { name: "f", cache_control: cacheControl } })?.cacheControl).toEqual(
      cacheControl,
    );
    expect(tool({ type: "function", function: { name: "f" }, cache_control: cacheControl })?.cacheControl).toEqual(
      cacheControl,
    );
    const explicit = { prompt_cache_breakpoint: { mode: "explicit" } };
    expect(tool({ type: "function", name: "f", ...explicit })?.cacheControl).toEqual({ type: "ephemeral" });
    const native = { type: "bash_20250124", name: "bash" };
    expect(tool({ ...native, cache_control: cacheControl })?.definition).toEqual({
      ...native,
      cache_control: cacheControl,
    });
  });

  it("passes Anthropic's own types whole", () => {
    for (const type of ["web_search_20260318", "text_editor_20250728", "mcp_toolset", "tool_search_tool_bm25"]) {
      expect(tool({ type, name: "n", max_uses: 3 })).toMatchObject({
        name: "n",
        schema: null,
        definition: { type, name: "n", max_uses: 3 },
      });
    }
  });

  it.each(["web_search", "web_search_preview", "web_search_2025_08_26", "web_search_preview_2025_03_11"])(
    "makes %s Claude's web search",
    (type) => {
      const location = { type: "approximate", city: "Oslo", country: "NO", region: null };
      const filters = { allowed_domains: ["a.example"], blocked_domains: ["b.example"] };
      expect(tool({ type, filters, user_location: location, search_context_size: "low" })?.definition).toEqual({
        type: "web_search_20250305",
        name: "web_search",
        allowed_domains: ["a.example"],
        user_location: { type: "approximate", city: "Oslo", country: "NO" },
      });
      expect(tool({ type, user_location: null, filters: null })?.definition).toEqual({
        type: "web_search_20250305",
        name: "web_search",
      });
    },
  );

  it("takes a namespace's tools out of it", () => {
    const functions = { type: "function", name: "f", description: "d", parameters: SCHEMA };
    const custom = { type: "custom", name: "g" };
    const space = { type: "namespace", name: "n", description: "All of n.", tools: [functions, custom] };
    const [plain, first, second] = read({ tools: [functions, space] });
    expect(plain).toEqual(TOOL);
    expect(first).toEqual({
      ...TOOL,
      name: "n.f",
      namespace: "n",
      description: "d\n\nAbout all tools of `n`: All of n.",
    });
    expect(second).toMatchObject({ name: "n.g", namespace: "n", freeForm: true, description: null });
  });

  it.each<[string, unknown, string]>([
    ["without a name", { tools: [{ name: "f" }] }, "tools[0].name"],
    ["without tools", { name: "n" }, "tools[0].tools"],
    ["in a namespace", { name: "n", tools: [{ type: "namespace", name: "m", tools: [] }] }, "tools[0].tools[0].type"],
  ])("refuses a namespace %s", (_, fields, param) => {
    expect(refusal({ tools: [{ type: "namespace", ...(fields as Fields) }] })).toMatchObject({ param });
  });

  it("keeps of a bare tool what only Messages has a word for, where its type is right", () => {
    const native = {
      defer_loading: true,
      eager_input_streaming: false,
      allowed_callers: ["direct"],
      input_examples: [],
    };
    expect(tool({ name: "f", input_schema: SCHEMA, ...native, other: 1 })?.native).toEqual(native);
    expect(tool({ name: "f", input_schema: SCHEMA, defer_loading: "yes", input_examples: {} })?.native).toBeUndefined();
    expect(tool({ type: "function", name: "f", parameters: SCHEMA, ...native })?.native).toBeUndefined();
  });

  it.each(["file_search", "code_interpreter", "image_generation", "mcp", "computer_use_preview", "local_shell", ""])(
    "refuses the hosted type '%s'",
    (type) => {
      expect(refusal({ tools: [{ name: "f" }, { type, name: "f" }] })).toMatchObject({
        kind: "invalid_request",
        param: "tools[1].type",
      });
    },
  );

  it.each<[string, unknown, string]>([
    ["no list", {}, "tools"],
    ["a null entry", [null], "tools[0]"],
    ["a text", ["f"], "tools[0]"],
    ["no name in an envelope", [{ type: "function", function: {} }], "tools[0].function.name"],
    ["an empty name", [{ name: "" }], "tools[0].name"],
    ["no name in a free-form tool", [{ type: "custom", custom: {} }], "tools[0].custom.name"],
    ["a number for a name", [{ name: 7 }], "tools[0].name"],
    ["a list for parameters", [{ name: "f", parameters: [] }], "tools[0].parameters"],
    [
      "a text for parameters",
      [{ type: "function", function: { name: "f", parameters: "{}" } }],
      "tools[0].function.parameters",
    ],
    ["a number for a description", [{ name: "f", description: 1 }], "tools[0].description"],
    ["a text for strict", [{ name: "f", strict: "yes" }], "tools[0].strict"],
    ["a number for a type", [{ name: "f", type: 1 }], "tools[0].type"],
    ["another cache control", [{ name: "f", cache_control: { type: "for ever" } }], "tools[0].cache_control"],
  ])("refuses %s and says where", (_, tools, param) => {
    expect(refusal({ tools })).toMatchObject({ kind: "invalid_request", param });
  });

  it("keeps the last of several tools with one name, in the place of the first", () => {
    const tools = read({
      tools: [{ name: "a", description: "1" }, { name: "b" }, { type: "custom", name: "a", description: "2" }],
    });
    expect(tools.map(({ name, description }) => [name, description])).toEqual([
      ["a", "2"],
      ["b", null],
    ]);
  });

  it("tells a function from a built-in tool of the same name", () => {
    expect(
      read({
        tools: [{ type: "web_search" }, { name: "web_search" }, { type: "mcp_toolset" }, { type: "mcp_toolset" }],
      }),
    ).toHaveLength(4);
    expect(read({ tools: [{ type: "web_search" }, { type: "web_search_preview" }] })).toHaveLength(1);
  });

  it(`takes ${MAX_TOOLS} tools and refuses one more`, () => {
    const tools = Array.from({ length: MAX_TOOLS }, (_, i) => ({ name: `f${i}` }));
    expect(read({ tools })).toHaveLength(MAX_TOOLS);
    expect(refusal({ tools: [...tools, { name: "more" }] })).toMatchObject({ param: "tools" });
  });

  it("reads or refuses whatever stands there", () => {
    const words = fc.constantFrom("type", "name", "function", "custom", "parameters", "format", "strict", "filters");
    const value = fc.oneof(
      fc.jsonValue({ maxDepth: 2 }),
      fc.constantFrom("function", "custom", "web_search", "bash_20250124", "f"),
    );
    const tools = fc.array(fc.dictionary(words, fc.oneof(value, fc.dictionary(words, value))));
    fc.assert(
      fc.property(fc.oneof(tools, fc.jsonValue({ maxDepth: 2 })), (list) => {
        const result = readTools({ tools: list });
        if (!result.ok)
          expect(result.error).toMatchObject({ kind: "invalid_request", param: expect.stringMatching(/^tools/) });
      }),
      { numRuns: 300 },
    );
  });
});

describe("readToolChoice", () => {
  it.each<[string, unknown, unknown]>([
    ["null", null, null],
    ["auto", "auto", { kind: "auto" }],
    ["none", "none", { kind: "none" }],
    ["required", "required", { kind: "any" }],
    ["Anthropic's any", { type: "any" }, { kind: "any" }],
    ["Anthropic's auto", { type: "auto", disable_parallel_tool_use: true }, { kind: "auto" }],
    ["Anthropic's none", { type: "none" }, { kind: "none" }],
    ["Anthropic's tool", { type: "tool", name: "f" }, { kind: "tool", name: "f" }],
    ["Chat's function", { type: "function", function: { name: "f" } }, { kind: "tool", name: "f" }],
    ["Chat's custom tool", { type: "custom", custom: { name: "f" } }, { kind: "tool", name: "f" }],
    ["a flat function", { type: "function", name: "f" }, { kind: "tool", name: "f" }],
    ["a flat custom tool", { type: "custom", name: "f" }, { kind: "tool", name: "f" }],
    ["web search", { type: "web_search_preview" }, { kind: "tool", name: "web_search" }],
    [
      "Chat's allowed tools",
      {
        type: "allowed_tools",
        allowed_tools: { mode: "required", tools: [{ type: "function", function: { name: "f" } }] },
      },
      { kind: "allowed", names: ["f"], must: true },
    ],
    [
      "flat allowed tools",
      {
        type: "allowed_tools",
        mode: "auto",
        tools: [{ type: "function", name: "f" }, { type: "web_search" }, { type: "mcp", server_label: "x" }],
      },
      { kind: "allowed", names: ["f", "web_search"], must: false },
    ],
  ])("reads %s", (_, written, choice) => {
    expect(readToolChoice({ tools: [], tool_choice: written })).toEqual({ ok: true, value: choice });
  });

  it("reads the function_call of old, only without tools", () => {
    expect(readToolChoice({ functions: [], function_call: { name: "f" } })).toEqual({
      ok: true,
      value: { kind: "tool", name: "f" },
    });
    expect(readToolChoice({ function_call: "none" })).toEqual({ ok: true, value: { kind: "none" } });
    expect(readToolChoice({ tools: [], function_call: "none" })).toEqual({ ok: true, value: null });
  });

  it.each<[unknown]>([
    ["constructor"],
    ["sometimes"],
    [true],
    [[]],
    [{}],
    [{ type: "file_search" }],
    [{ type: "function" }],
    [{ type: "allowed_tools" }],
    [{ type: "allowed_tools", mode: "none", tools: [] }],
  ])("refuses %j", (written) => {
    expect(readToolChoice({ tool_choice: written })).toMatchObject({ ok: false, error: { param: "tool_choice" } });
  });

  it("reads whether calls may be parallel, in either dialect", () => {
    const read = (body: Fields) => {
      const fields = new FieldReader(body);
      return [readParallelToolCalls(fields), fields.failure?.kind];
    };
    expect(read({})).toEqual([null, undefined]);
    expect(read({ parallel_tool_calls: false })).toEqual([false, undefined]);
    expect(read({ tool_choice: { type: "auto", disable_parallel_tool_use: true } })).toEqual([false, undefined]);
    expect(read({ parallel_tool_calls: "no" })).toEqual([null, "invalid_request"]);
  });
});
