/** JSON as the answer (OpenAI notes §3.6). */
import { describe, expect, it } from "vitest";
import { modelFacts } from "../../../src/wire/anthropic/model-facts.ts";
import { answerSchema } from "../../../src/wire/openai/answer-schema.ts";
import type { Draft, Fields, Turn } from "../../../src/wire/openai/draft.ts";
import { messagesBody } from "../../../src/wire/openai/messages-body.ts";
import { fit as fitDraft } from "../../../src/wire/openai/steps.ts";
import { draftOf, toolDraft } from "../../support/drafts.ts";

const object = (properties: Fields, more: Fields = {}) => ({ type: "object", properties, ...more });
const closed = (properties: Fields, more: Fields = {}) => ({
  ...object(properties, more),
  additionalProperties: false,
});
const string = { type: "string" };
const NODE = object({ next: { $ref: "#/$defs/Node" } });

describe("a schema becomes one that structured output takes", () => {
  it.each<[string, Fields, Fields]>([
    ["an object is closed", object({ a: string }), closed({ a: string })],
    [
      "an open one too, where it has properties",
      object({ a: string }, { additionalProperties: true }),
      closed({ a: string }),
    ],
    ["so is one inside", object({ a: object({ b: string }) }), closed({ a: closed({ b: string }) })],
    [
      "so is one in a list",
      object({ a: { type: "array", items: object({ b: string }) } }),
      closed({ a: { type: "array", items: closed({ b: string }) } }),
    ],
    ["required stays", object({ a: string }, { required: ["a"] }), closed({ a: string }, { required: ["a"] })],
    [
      "oneOf is anyOf",
      object({ a: { oneOf: [string, { type: "null" }] } }),
      closed({ a: { anyOf: [string, { type: "null" }] } }),
    ],
    [
      "anyOf and allOf stay",
      object({ a: { anyOf: [string] }, b: { allOf: [string] } }),
      closed({ a: { anyOf: [string] }, b: { allOf: [string] } }),
    ],
    [
      "enum and const stay",
      object({ a: { type: "string", enum: ["x"] }, b: { const: 5 } }),
      closed({ a: { type: "string", enum: ["x"] }, b: { const: 5 } }),
    ],
    ["several types stay", object({ a: { type: ["string", "null"] } }), closed({ a: { type: ["string", "null"] } })],
    [
      "several types with an object are variants",
      object({ a: { type: ["object", "null"], properties: { b: string } } }),
      closed({ a: { anyOf: [closed({ b: string }), { type: "null" }] } }),
    ],
    ["known formats stay", object({ a: { ...string, format: "date" } }), closed({ a: { ...string, format: "date" } })],
    [
      "others are said",
      object({ a: { ...string, format: "color" } }),
      closed({ a: { ...string, description: '{format: "color"}' } }),
    ],
    [
      "minItems 1 stays",
      object({ a: { type: "array", items: string, minItems: 1 } }),
      closed({ a: { type: "array", items: string, minItems: 1 } }),
    ],
    [
      "minItems 2 is said",
      object({ a: { type: "array", items: string, minItems: 2 } }),
      closed({ a: { type: "array", items: string, description: "{minItems: 2}" } }),
    ],
    [
      "so is everything else",
      object({ a: { type: "integer", minimum: 1, description: "d" } }),
      closed({ a: { type: "integer", description: "d\n\n{minimum: 1}" } }),
    ],
    [
      "titles stay",
      object({ a: { ...string, title: "A" } }, { title: "T" }),
      closed({ a: { ...string, title: "A" } }, { title: "T" }),
    ],
    ["$schema says nothing", object({ a: string }, { $schema: "x", $id: "y" }), closed({ a: string })],
    [
      "definitions stay",
      object({ a: { $ref: "#/$defs/x" } }, { $defs: { x: object({ b: string }) } }),
      closed({ a: { $ref: "#/$defs/x" } }, { $defs: { x: closed({ b: string }) } }),
    ],
    [
      "older definitions move",
      object({ a: { $ref: "#/definitions/x" } }, { definitions: { x: string } }),
      closed({ a: { $ref: "#/$defs/x" } }, { $defs: { x: string } }),
    ],
    [
      "a property may be called anything",
      object({ $ref: string, enum: string, default: string }),
      closed({ $ref: string, enum: string, default: string }),
    ],
    ["a missing type is found", object({ a: { properties: { b: string } } }), closed({ a: closed({ b: string }) })],
    ["an empty object that is closed", object({}, { additionalProperties: false }), closed({})],
    [
      "what is required must be there",
      object({ a: string }, { required: ["a", "z"] }),
      closed({ a: string }, { required: ["a"] }),
    ],
  ])("%s", (_, schema, expected) => {
    const before = structuredClone(schema);
    expect(answerSchema(schema)).toEqual({ kind: "schema", schema: expected });
    expect(schema).toEqual(before);
  });

  const optional = (count: number) => Object.fromEntries(Array.from({ length: count }, (_, i) => [`p${i}`, string]));
  it.each<[string, Fields]>([
    ["refers to itself", { $defs: { Node: NODE }, $ref: "#/$defs/Node" }],
    ["refers to itself", object({ a: string, children: { type: "array", items: { $ref: "#" } } })],
    ["refers to itself", object({ a: object({ b: { $ref: "#/properties/a" } }) })],
    ["has an object with properties of any name", object({ a: { type: "object", additionalProperties: string } })],
    ["has an object with properties of any name", object({ a: { type: "object" } })],
    ["has an object with properties of any name", object({ a: { type: "object", patternProperties: { x: string } } })],
    ["has 13 optional properties, more than 12", object(optional(13))],
    ["has 13 optional properties, more than 12", object({ a: object(optional(12)) })],
    ["leaves a value open to anything", object({ a: {} })],
    ["leaves a value open to anything", object({ a: true })],
    ["leaves the items of a list open to anything", object({ a: { type: "array" } })],
  ])("one that %s can't be", (why, schema) => expect(answerSchema(schema)).toEqual({ kind: "inexpressible", why }));

  it("twelve optional properties can be", () => {
    expect(answerSchema(object(optional(12))).kind).toBe("schema");
    expect(answerSchema(object(optional(30), { required: Object.keys(optional(30)) })).kind).toBe("schema");
  });

  it("a reference to nothing, or to another document, is refused", () => {
    for (const $ref of ["#/$defs/x", "https://example.com/x.json", "other"]) {
      expect(answerSchema(object({ a: { $ref } }))).toMatchObject({ kind: "invalid" });
    }
  });

  it("references may lead to references, though not for ever", () => {
    const chain = (length: number) => {
      const $defs = Object.fromEntries(Array.from({ length }, (_, i) => [`d${i}`, { $ref: `#/$defs/d${i + 1}` }]));
      return object({ a: { $ref: "#/$defs/d0" } }, { $defs: { ...$defs, [`d${length}`]: string } });
    };
    expect(answerSchema(chain(200)).kind).toBe("schema");
    expect(answerSchema(chain(50_000)).kind).toBe("inexpressible");
  });

  it("one without end is refused", () => {
    let deep: Fields = string;
    for (let i = 0; i < 50_000; i++) deep = { type: "array", items: deep };
    expect(answerSchema(object({ a: deep }))).toMatchObject({ kind: "invalid" });
  });
});

describe("the format of an answer", () => {
  const schema = object({ a: string }, { required: ["a"] });
  const asked = (of: Fields): Partial<Draft> => ({
    format: { kind: "json_schema", schema: of, param: "response_format" },
  });
  const fitted = (model: string, changes: Partial<Draft>) => {
    const draft = draftOf(changes);
    const failure = fitDraft(draft, modelFacts(`claude-${model}`));
    return { failure, draft, body: messagesBody(draft) };
  };
  const map = object({ any: { type: "object", additionalProperties: string } });

  it("is sent as a schema, without its name", () => {
    const { body } = fitted("opus-5-5", asked(schema));
    expect(body.output_config).toEqual({
      format: { type: "json_schema", schema: closed({ a: string }, { required: ["a"] }) },
    });
  });

  it("goes with an effort", () => {
    expect(fitted("opus-5", { ...asked(schema), effort: "low" }).body.output_config).toMatchObject({
      effort: "low",
      format: { type: "json_schema" },
    });
  });

  it("may be the client's own in Anthropic's words", () => {
    const extra = { output_config: { format: { type: "json_schema", schema } } };
    expect(fitted("opus-5", { extra }).body.output_config).toEqual({
      format: { type: "json_schema", schema: closed({ a: string }, { required: ["a"] }) },
    });
  });

  it("text is no format", () => expect(fitted("opus-5", {}).body).not.toHaveProperty("output_config"));

  it("json_object is an instruction behind the client's own, and no schema", () => {
    const turns: Turn[] = [
      { role: "system", content: [{ type: "text", text: "S" }] },
      { role: "user", content: [{ type: "text", text: "u" }] },
    ];
    const { body } = fitted("opus-5", { turns, format: { kind: "json_object" } });
    expect(body.system).toEqual([
      { type: "text", text: "S" },
      { type: "text", text: expect.stringContaining("JSON object") },
    ]);
    expect(body).not.toHaveProperty("output_config");
  });

  it("that only a tool can express becomes one that must be called", () => {
    const { body, draft } = fitted("opus-5", { ...asked(map), effort: "high" });
    expect(body).toMatchObject({
      tools: [{ name: "json", input_schema: map }],
      tool_choice: { type: "tool", name: "json", disable_parallel_tool_use: true },
      output_config: { effort: "high" },
    });
    expect(body.thinking).toBeUndefined();
    expect(draft.telling.jsonTool).toBe("json");
  });

  it.each([
    [{ kind: "auto" }, { type: "any", disable_parallel_tool_use: true }, "json_"],
    [null, { type: "any", disable_parallel_tool_use: true }, "json_"],
    [{ kind: "none" }, { type: "tool", name: "json_", disable_parallel_tool_use: true }, "json_"],
    [{ kind: "any" }, { type: "any" }, undefined],
    [{ kind: "tool", name: "json" }, { type: "tool", name: "json" }, undefined],
    [{ kind: "allowed", names: ["json"], must: true }, { type: "any" }, undefined],
    [{ kind: "allowed", names: ["json"], must: false }, { type: "any", disable_parallel_tool_use: true }, "json_"],
  ] as const)("beside tools of the client's, with the choice %j", (toolChoice, choice, name) => {
    const { body, draft } = fitted("opus-5", { ...asked(map), tools: [toolDraft("json")], toolChoice });
    expect(body.tool_choice).toEqual(choice);
    expect(draft.telling.jsonTool).toBe(name);
    expect((body.tools as readonly unknown[]).length).toBe(name ? 2 : 1);
  });

  it("a root that refers elsewhere is put in its place", () => {
    const { body } = fitted("opus-5", asked({ $defs: { Node: NODE }, $ref: "#/$defs/Node" }));
    expect(body.tools).toMatchObject([
      { input_schema: { type: "object", $defs: { Node: NODE }, properties: NODE.properties } },
    ]);
  });

  it.each([
    ["where no tool can be forced", "opus-5-5", map],
    ["where the root is no object", "opus-5", { type: "array", items: { $ref: "#" } }],
    ["where it refers to nothing", "opus-5", object({ a: { $ref: "#/$defs/x" } })],
    ["where it refers only to itself", "opus-5", { $ref: "#" }],
  ])("is refused %s", (_, model, of) => {
    expect(fitted(model, asked(of)).failure).toMatchObject({
      kind: "invalid_request",
      param: "response_format",
      code: "invalid_json_schema",
    });
  });
});
