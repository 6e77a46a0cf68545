import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Block, Draft, Fields, ToolChoice, ToolDraft } from "../../../src/wire/openai/draft.ts";
import { fitToolChoice, fitTools } from "../../../src/wire/openai/tool-fit.ts";
import { readTools } from "../../../src/wire/openai/tools.ts";
import { draftOf, modelThat } from "../../support/drafts.ts";

const MODEL = modelThat({ forcedTools: true, structuredOutputs: true });
const UNFORCED = modelThat({ forcedTools: false });
const NAME = /^[a-zA-Z0-9_-]{1,128}$/;

function toolsOf(list: readonly unknown[]): ToolDraft[] {
  const tools = readTools({ tools: list });
  if (!tools.ok) throw new Error(JSON.stringify(tools.error));
  return tools.value;
}

const called = (...names: string[]): Block[] =>
  names.map((name, i) => ({ type: "tool_use", id: `c${i}`, name, input: {} }));

function fitted(list: readonly unknown[], more: Partial<Draft> = {}, model = MODEL): Draft {
  const draft = draftOf({ turns: [], tools: toolsOf(list), ...more });
  expect(fitTools(draft, model)).toBeNull();
  return draft;
}

describe("fitTools", () => {
  it("leaves names alone that Claude takes", () => {
    const draft = fitted([{ name: "a-B_9" }, { name: "x".repeat(128) }]);
    expect(draft.tools.map(({ name }) => name)).toEqual(["a-B_9", "x".repeat(128)]);
    expect(draft.telling.tools.size).toBe(0);
  });

  it("rewrites the others, the same everywhere, and tells which is which", () => {
    const names = ["mcp.server/tool", "mcp_server/tool", "read file", "läs_fil", "x".repeat(129), " "];
    const draft = fitted(
      names.map((name) => ({ name })),
      { turns: [{ role: "assistant", content: called(...names) }], toolChoice: { kind: "tool", name: "läs_fil" } },
    );
    const ours = draft.tools.map(({ name }) => name);
    for (const name of ours) expect(name).toMatch(NAME);
    expect(ours[0]).toMatch(/^mcp_server_tool_[0-9a-f]{8}$/);
    expect(new Set(ours).size).toBe(names.length);
    expect(draft.turns[0]?.content.map(({ name }) => name)).toEqual(ours);
    expect(draft.toolChoice).toEqual({ kind: "tool", name: ours[3] });
    expect(ours.map((name) => draft.telling.tools.get(name))).toEqual(names.map((name) => ({ name, freeForm: false })));
  });

  it("leaves a name to the client that has it, even if another's would become the same", () => {
    const rewritten = fitted([{ name: "a.b" }]).tools[0]?.name as string;
    const draft = fitted([{ name: "a.b" }, { name: rewritten }]);
    expect(draft.tools.map(({ name }) => name)).toEqual([`${rewritten}_1`, rewritten]);
  });

  it("leaves built-in tools their fixed names", () => {
    const draft = fitted([{ name: "web_search" }, { type: "web_search" }], {
      turns: [{ role: "assistant", content: called("web_search") }],
    });
    const [own] = draft.tools;
    expect(own?.name).toMatch(/^web_search_[0-9a-f]{8}$/);
    expect(draft.turns[0]?.content[0]?.name).toBe(own?.name);
    expect(draft.telling.tools.get(own?.name ?? "")).toEqual({ name: "web_search", freeForm: false });
  });

  it("rewrites names in the history of tools that are no longer offered", () => {
    const draft = fitted([], { turns: [{ role: "assistant", content: called("a b", "a_b", "a b") }] });
    const names = draft.turns[0]?.content.map(({ name }) => String(name)) ?? [];
    expect(names[0]).toMatch(/^a_b_[0-9a-f]{8}$/);
    expect(names).toEqual([names[0], "a_b", names[0]]);
  });

  it("tells free-form tools, and gives their calls in the history a text", () => {
    const draft = fitted([{ type: "custom", name: "patch" }], {
      turns: [
        {
          role: "assistant",
          content: [
            { type: "tool_use", id: "1", name: "patch", input: { input: "***" } },
            { type: "tool_use", id: "2", name: "patch", input: { a: 1 } },
          ],
        },
      ],
    });
    expect(draft.telling.tools.get("patch")).toEqual({ name: "patch", freeForm: true });
    expect(draft.turns[0]?.content.map(({ input }) => input)).toEqual([{ input: "***" }, { input: '{"a":1}' }]);
  });

  it("asks for the betas of built-in tools", () => {
    const draft = fitted([
      { type: "computer_20251124", name: "computer" },
      { type: "bash_20250124", name: "bash" },
    ]);
    expect([...draft.betas]).toEqual(["computer-use-2025-11-24"]);
  });

  it("gives every tool a valid name of its own, whatever the client calls them", () => {
    const letters = fc.constantFrom("a", "_", "-", ".", " ", "é", "💡", "\ud800", "_d7a1b2c3");
    const name = fc.oneof(
      fc.string({ unit: letters, minLength: 1, maxLength: 4 }),
      fc.string({ minLength: 1, maxLength: 200 }),
    );
    fc.assert(
      fc.property(fc.uniqueArray(name, { minLength: 1 }), fc.array(name), (offered, before) => {
        const make = () =>
          fitted(
            offered.map((each) => ({ name: each })),
            { turns: [{ role: "assistant", content: called(...offered, ...before) }] },
          );
        const draft = make();
        const ours = draft.turns[0]?.content.map((block) => String(block.name)) ?? [];
        for (const each of ours) expect(each).toMatch(NAME);
        // One of ours for each of theirs, and the other way round.
        const theirs = [...offered, ...before];
        expect(new Set(ours).size).toBe(new Set(theirs).size);
        expect(new Set(theirs.map((each, i) => JSON.stringify([each, ours[i]]))).size).toBe(new Set(theirs).size);
        for (const [i, { name: mine }] of draft.tools.entries()) {
          expect(draft.telling.tools.get(mine)?.name ?? mine).toBe(offered[i]);
        }
        expect(make().turns).toEqual(draft.turns);
      }),
      { numRuns: 500 },
    );
  });

  it("keeps strict where the model is held to it and the schema can be", () => {
    const schema = { type: "object", properties: { n: { type: "integer", minimum: 2 } }, required: ["n"] };
    const tools = [{ name: "f", strict: true, parameters: schema }];
    expect(fitted(tools).tools[0]).toMatchObject({
      strict: true,
      schema: {
        type: "object",
        properties: { n: { type: "integer", description: "{minimum: 2}" } },
        required: ["n"],
        additionalProperties: false,
      },
    });
    const loose = fitted(tools, {}, modelThat({ structuredOutputs: false })).tools[0];
    expect(loose).toMatchObject({ strict: null, schema });
    expect(fitted([{ name: "f", strict: false, parameters: schema }]).tools[0]).toMatchObject({ strict: null, schema });
  });

  it.each<[string, Fields]>([
    ["an open map", { type: "object", additionalProperties: { type: "string" } }],
    ["a value of any kind", { type: "object", properties: { a: {} } }],
    ["a boolean schema", { type: "object", properties: { a: true } }],
    [
      "a recursive schema",
      {
        type: "object",
        properties: { a: { $ref: "#/$defs/T" } },
        $defs: { T: { type: "array", items: { $ref: "#/$defs/T" } } },
      },
    ],
    [
      "thirteen fields that may be missing",
      {
        type: "object",
        properties: Object.fromEntries(Array.from({ length: 13 }, (_, i) => [`p${i}`, { type: "string" }])),
      },
    ],
    ["no parameters and no ban of any", { type: "object" }],
  ])("drops strict for %s and leaves the schema", (_, parameters) => {
    const tool = fitted([{ name: "f", strict: true, parameters }]).tools[0];
    expect(tool).toMatchObject({ strict: null });
    expect(tool?.schema).toEqual(parameters);
  });

  it("drops strict where the schema had to be merged: it would promise too much", () => {
    const parameters = {
      anyOf: [{ properties: { a: { type: "string" } } }, { properties: { b: { type: "string" } } }],
    };
    expect(fitted([{ name: "f", strict: true, parameters }]).tools[0]).toMatchObject({ strict: null });
  });

  it("holds no more tools strictly than one request may have", () => {
    const strict = (list: readonly unknown[]) => fitted(list).tools.filter((tool) => tool.strict).length;
    const empty = { strict: true, parameters: { type: "object", properties: {}, additionalProperties: false } };
    expect(strict(Array.from({ length: 25 }, (_, i) => ({ name: `f${i}`, ...empty })))).toBe(20);
    const of = (properties: Fields) => ({ strict: true, parameters: { type: "object", properties, required: ["n"] } });
    const nullable = of({ n: { type: ["string", "null"] } });
    expect(strict(Array.from({ length: 18 }, (_, i) => ({ name: `f${i}`, ...nullable })))).toBe(16);
    const optional = of({ n: { type: "string" }, o: { type: "string" } });
    expect(strict(Array.from({ length: 14 }, (_, i) => ({ name: `f${i}`, ...optional })))).toBe(12);
  });
});

describe("fitToolChoice", () => {
  const choose = (toolChoice: ToolChoice | null, parallelToolCalls: boolean | null = null, model = MODEL) => {
    const draft = fitted([{ name: "a" }, { name: "b" }], { toolChoice, parallelToolCalls }, model);
    const failure = fitToolChoice(draft, model);
    return {
      failure,
      choice: draft.toolChoice,
      parallel: draft.parallelToolCalls,
      tools: draft.tools.map((t) => t.name),
    };
  };
  const tools = ["a", "b"];

  it.each<[ToolChoice | null, ToolChoice | null]>([
    [null, null],
    [{ kind: "auto" }, null],
    [{ kind: "any" }, { kind: "any" }],
    [{ kind: "none" }, { kind: "none" }],
    [
      { kind: "tool", name: "b" },
      { kind: "tool", name: "b" },
    ],
  ])("makes %j %j", (asked, choice) => {
    expect(choose(asked)).toEqual({ failure: null, choice, parallel: null, tools });
    expect(choose(asked, true)).toMatchObject({ choice });
  });

  it("says that calls may not be parallel where there is a choice to say it in", () => {
    expect(choose(null, false)).toMatchObject({ choice: { kind: "auto" }, parallel: false });
    expect(choose({ kind: "auto" }, false)).toMatchObject({ choice: { kind: "auto" }, parallel: false });
    expect(choose({ kind: "any" }, false)).toMatchObject({ choice: { kind: "any" }, parallel: false });
    expect(choose({ kind: "none" }, false)).toMatchObject({ choice: { kind: "none" }, parallel: null });
  });

  it("offers only the tools that are allowed", () => {
    const allowed = (must: boolean): ToolChoice => ({ kind: "allowed", names: ["b", "c"], must });
    expect(choose(allowed(false))).toEqual({ failure: null, choice: null, parallel: null, tools: ["b"] });
    expect(choose(allowed(true))).toMatchObject({ choice: { kind: "any" }, tools: ["b"] });
    expect(choose(allowed(true), false, UNFORCED)).toMatchObject({
      choice: { kind: "auto" },
      parallel: false,
      tools: ["b"],
    });
  });

  it("does not force a model that takes no forcing", () => {
    expect(choose({ kind: "any" }, null, UNFORCED)).toMatchObject({ choice: null, tools });
    expect(choose({ kind: "tool", name: "b" }, null, UNFORCED)).toMatchObject({ choice: null, tools: ["b"] });
    expect(choose({ kind: "none" }, null, UNFORCED)).toMatchObject({ choice: { kind: "none" }, tools });
  });

  it("refuses a tool that is not offered", () => {
    expect(choose({ kind: "tool", name: "c" }).failure).toMatchObject({ param: "tool_choice" });
    expect(choose({ kind: "tool", name: "c" }, null, UNFORCED).failure).toMatchObject({ param: "tool_choice" });
    expect(choose({ kind: "allowed", names: ["c"], must: false }).failure).toMatchObject({ param: "tool_choice" });
  });

  it("drops a choice without tools", () => {
    const draft = fitted([], { toolChoice: { kind: "tool", name: "f" }, parallelToolCalls: false });
    expect(fitToolChoice(draft, MODEL)).toBeNull();
    expect(draft).toMatchObject({ toolChoice: null, parallelToolCalls: null });
  });
});
