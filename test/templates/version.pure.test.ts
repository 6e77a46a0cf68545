/** What can be saved as a version, and what is told of what can't. */
import { describe, expect, it } from "vitest";
import { MAX_CONTENT_BYTES } from "../../src/templates/content.ts";
import { parseVersion } from "../../src/templates/version.ts";
import { problemOf, saved, TEXT, variables } from "./drafts.ts";

const hi = [{ role: "user", content: "Hi" }];
const text = (content: string) => [{ role: "user", content: [{ type: "text", text: content }] }];
const problem = (json: unknown) => problemOf(parseVersion(json));

describe("a version", () => {
  it("is kept as it came, with what is usual for the rest", () => {
    expect(parseVersion({ messages: hi })).toEqual({
      ok: true,
      value: { messages: hi, defaults: {}, variables: { type: "object" }, operator: ["system", "tools"] },
    });
    const whole = {
      model: "claude-haiku-4-5",
      max_tokens: 10,
      system: [{ type: "text", text: "You are {{who}}.", cache_control: { type: "ephemeral", ttl: "1h" } }],
      messages: text("{{#list}}{{.}}, {{/list}}{{! not sent }}{{{who}}}{{&who}}"),
      tools: [{ name: "{{as_it_is}}", input_schema: { type: "object" } }],
      defaults: { temperature: 0.5, thinking: { type: "adaptive" } },
      variables: variables({ who: TEXT, list: { type: "array", items: TEXT } }),
      operator: ["model", "tools"],
    };
    expect(parseVersion(whole)).toEqual({ ok: true, value: whole });
  });

  it.each([
    ["a body", null, "must be a JSON object"],
    ["unknown fields", { messages: hi, extra: 1, stream: true }, "extra: unknown field; stream: unknown field"],
    ["neither system nor messages", {}, "system, messages: one of them"],
    [
      "a role",
      { messages: [{ role: "tool", content: "x" }] },
      "messages.0.role: must be one of user, assistant, system",
    ],
    ["a message's fields", { messages: [{ ...hi[0], name: "x" }] }, "messages.0.name: unknown field"],
    ["a block", { messages: [{ role: "user", content: [{}] }] }, "messages.0.content.0: must be a content block"],
    ["a block's text", { system: [{ type: "text", text: 3 }] }, "system.0.text: must be a text"],
    ["an empty text", { messages: [{ role: "user", content: " " }] }, "messages.0.content: must not be empty"],
    ["a tool", { messages: hi, tools: ["x"] }, "tools.0: must be a tool"],
    ["10,000 tools (D-13)", { messages: hi, tools: Array(10_000).fill({}) }, "tools: must not be more than 500"],
    ["max_tokens 1e9 (D-13)", { messages: hi, max_tokens: 1e9 }, "max_tokens: must be a whole number"],
    ["defaults of fields with a place", { messages: hi, defaults: { system: "x" } }, "defaults.system: stands beside"],
    ["defaults of no field", { messages: hi, defaults: { variables: {} } }, "defaults.variables: is no field"],
    [
      "defaults by prototype (N-01)",
      JSON.parse('{"messages":[],"defaults":{"__proto__":{"a":1}}}'),
      "defaults.__proto__: is no field",
    ],
    ["operator's names", { messages: hi, operator: ["label", "a b"] }, "operator.0: must be the name of a field"],
    ["operator's model that is not there", { messages: hi, operator: ["model"] }, "operator: holds model"],
    [
      "a fifth breakpoint",
      { system: Array(5).fill({ type: "text", text: "x", cache_control: { type: "ephemeral" } }) },
      "cache_control: stands at more than 4 places",
    ],
    ["1 MB (T-04)", { system: "x".repeat(MAX_CONTENT_BYTES) }, `not be larger than ${MAX_CONTENT_BYTES} bytes`],
  ])("is refused for %s", (_, json, told) => {
    expect(problem(json)).toContain(told);
  });

  it.each([
    ["an open tag", "Hi {{name", "has a tag that is not closed (at character 4)"],
    ["an open section", "{{#name}}", "never closes `name` (at character 1)"],
    ["a section closed twice", "{{/name}}", "closes `name`, which is not open"],
    ["sections crossed", "{{#name}}{{#b}}{{/name}}{{/b}}", "closes `name` where `b` is open"],
    ["a partial: itself (T-04)", "{{> greeting}}", "has a partial"],
    ["other delimiters", "{{=<% %>=}}", "changes the delimiters"],
    ["a name that is none", "{{a b}}", "has a tag that is no name of a variable"],
    ["code", "{{name.constructor()}}", "has a tag that is no name of a variable"],
    ["an undeclared variable", "{{nam}}", "`nam` is not declared in variables (at character 1)"],
    ["constructor (N-01)", "{{constructor}}", "`constructor` is not declared"],
    ["__proto__ (N-01)", "{{__proto__}} {{name.__proto__}}", "`__proto__` is not declared"],
    ["a text's own members (N-01)", "{{name.length}}", "`name.length` is not declared"],
    ["a section that is not declared", "{{#x}}{{/x}}", "`x` is not declared"],
    ["a member outside of its section", "{{#items}}{{title}}{{/items}}{{title}}", "`title` is not declared"],
    ["a list for a text", "{{items}}", "`items` is an object or a list"],
    ["everything for a text", "{{.}}", "`.` is an object or a list"],
    ["deep sections", `${"{{#name}}".repeat(17)}${"{{/name}}".repeat(17)}`, "has sections nested deeper than 16"],
    ["too many tags", "{{name}}".repeat(2_001), "has more than 2000 tags"],
  ])("T-04 names the text with %s", (_, content, told) => {
    const schema = variables({ name: TEXT, items: { type: "array", items: variables({ title: TEXT }) } });
    const found = problem({ messages: text(content), variables: schema });
    expect(found).toContain(`messages.0.content.0.text: ${told}`);
  });

  it("looks at texts inside of results and documents, and at nothing else", () => {
    const source = { type: "text", media_type: "text/plain", data: "{{a}}" };
    const content = [
      { type: "tool_result", tool_use_id: "{{b}}", content: [{ type: "text", text: "{{c}}" }] },
      { type: "document", source, title: "{{d}}" },
    ];
    const found = problem({ messages: [{ role: "user", content }], tools: [{ name: "x", description: "{{e}}" }] });
    expect(found.match(/`.`/g)).toEqual(["`c`", "`a`"]);
    expect(found).toContain("messages.0.content.0.content.0.text");
    expect(found).toContain("messages.0.content.1.source.data");
  });

  it("takes names through sections, lists, dots and references", () => {
    const schema = {
      type: "object",
      $defs: { person: { type: "object", properties: { name: TEXT, "first-name": TEXT } } },
      properties: {
        user: { $ref: "#/$defs/person" },
        team: { type: "array", items: { $ref: "#/$defs/person" } },
        title: { anyOf: [TEXT, { type: "number" }] },
        größe: { type: "number" },
      },
    };
    const content =
      "{{user.name}}{{#user}}{{first-name}}{{title}}{{/user}}{{#team}}{{name}}{{user.name}}{{/team}}{{größe}}";
    expect(problem({ messages: text(content), variables: schema })).toBe("");
  });
});

describe("a schema of variables", () => {
  const schemaProblem = (schema: unknown) => problem({ messages: hi, variables: schema });
  const of = (schema: unknown) => ({ type: "object", properties: { a: schema } });

  it.each([
    ["no schema", [], "variables: must be a JSON Schema"],
    ["another type", { type: "string" }, "variables.type: must be object"],
    ["an unknown type", of({ type: "text" }), "variables.properties.a.type: must be one or several of"],
    ["an unknown keyword", of({ minLenght: 3 }), "variables.properties.a.minLenght: is no keyword"],
    ["a wrong bound", of({ minLength: -1 }), "variables.properties.a.minLength: must be a whole number"],
    ["a schema that is none", of(3), "variables.properties.a: must be a schema"],
    ["required by prototype", { type: "object", required: "a" }, "variables.required: must be a list"],
    ["required, and not declared", { type: "object", required: ["a"] }, "variables.required: a is not declared"],
    ["a remote reference", of({ $ref: "https://example.com/s.json" }), "variables.properties.a.$ref: must point into"],
    ["a reference to nothing", of({ $ref: "#/$defs/x" }), "variables.properties.a.$ref: points to nothing"],
    ["a reference by prototype", of({ $ref: "#/constructor" }), "points to nothing"],
    ["a loop (D-13)", { ...of({ $ref: "#/$defs/a" }), $defs: { a: { $ref: "#/$defs/a" } } }, "leads back to itself"],
    [
      "a long loop (D-13)",
      {
        ...of({ $ref: "#/$defs/a" }),
        $defs: { a: { items: { $ref: "#/$defs/b" } }, b: { allOf: [{ $ref: "#/$defs/a" }] } },
      },
      "leads back to itself",
    ],
    ["the whole as a part (D-13)", of({ $ref: "#" }), "leads back to itself"],
    ["an unsafe pattern", of({ pattern: "(a)\\1" }), "variables.properties.a.pattern: must not use \\1"],
    ["looking around", of({ pattern: "(?=a)b" }), "variables.properties.a.pattern: must not look around"],
    ["a pattern that is none", of({ pattern: "(" }), "variables.properties.a.pattern: must be a regular expression"],
    ["a huge pattern", of({ pattern: "(a{1,300}){1,300}" }), "variables.properties.a.pattern: is too large"],
    ["an unknown format", of({ format: "regex" }), "variables.properties.a.format: must be one of"],
    [
      "a name that is none",
      { type: "object", properties: { "a b": TEXT } },
      "variables.properties.a b: can't be the name",
    ],
    ["__proto__ (N-01)", JSON.parse('{"type":"object","properties":{"__proto__":{}}}'), "__proto__: can't be the name"],
    ["a default of another type", of({ type: "string", default: 3 }), "variables.a: must be string, by its default"],
    [
      "many schemas for one value",
      of({ allOf: Array(60).fill({ minLength: 1 }) }),
      "more than 50 schemas against one value",
    ],
  ])("is refused for %s", (_, schema, told) => {
    expect(schemaProblem(schema)).toContain(told);
  });

  it("T-04 is refused with 10,000 variables, and with references that multiply", () => {
    const many = Object.fromEntries(Array.from({ length: 10_000 }, (_, i) => [`v${i}`, {}]));
    expect(schemaProblem({ type: "object", properties: many })).toContain("must not be more than");
    const $defs: Record<string, unknown> = { d0: {} };
    for (let i = 1; i < 40; i++)
      $defs[`d${i}`] = { properties: { a: { $ref: `#/$defs/d${i - 1}` }, b: { $ref: `#/$defs/d${i - 1}` } } };
    // 2^39 of them, where nobody stops.
    expect(schemaProblem({ ...of({ $ref: "#/$defs/d39" }), $defs })).toContain("must not be more than 2000 schemas");
  });

  it("declares what any of several ways declares", () => {
    const ways = { anyOf: [{ properties: { a: TEXT } }, { properties: { a: { type: "number" }, b: TEXT } }] };
    const schema = { type: "object", properties: { x: ways, y: { allOf: [{ type: "array" }, { items: TEXT }] } } };
    const content = "{{x.a}}{{#x}}{{b}}{{/x}}{{#y}}{{.}}{{/y}}";
    expect(problem({ messages: text(content), variables: schema })).toBe("");
    expect(problem({ messages: text("{{y}}"), variables: schema })).toContain("`y` is an object or a list");
  });

  it("may ask of all of them what no default alone fulfils", () => {
    const properties = { a: { ...TEXT, default: "x" }, ab: TEXT, b: TEXT };
    const either = [{ required: ["ab"] }, { required: ["b"] }];
    expect(schemaProblem({ type: "object", properties, anyOf: either, minProperties: 2 })).toBe("");
    expect(schemaProblem(of({ type: "object", properties: { b: TEXT }, required: ["b"], default: {} }))).toBe(
      "variables.a.b: is missing, by its default",
    );
  });

  it("may hold every keyword that is known, and a variable named constructor", () => {
    const a = {
      $comment: "x",
      title: "x",
      description: "x",
      examples: ["ab"],
      default: "ab",
      type: ["string", "null"],
      minLength: 1,
      maxLength: 9,
      pattern: "^[a-z]+$",
      enum: ["ab", null],
      not: { const: "x" },
    };
    const properties = {
      a,
      n: { type: "integer", minimum: 0, exclusiveMaximum: 9, multipleOf: 2 },
      l: { type: "array", prefixItems: [TEXT], items: TEXT, uniqueItems: true, minItems: 0, maxItems: 3 },
      o: {
        if: { required: ["a"] },
        // biome-ignore lint/suspicious/noThenProperty: a keyword of JSON Schema
        then: { properties: { a: TEXT } },
        else: { properties: { b: TEXT } },
        additionalProperties: false,
      },
      constructor: { type: "string", format: "date" },
    };
    const $schema = "https://json-schema.org/draft/2020-12/schema";
    expect(schemaProblem({ $schema, type: "object", properties })).toBe("");
    expect(
      saved({ messages: text("{{constructor}}"), variables: variables({ constructor: TEXT }) }).messages,
    ).toHaveLength(1);
  });
});
