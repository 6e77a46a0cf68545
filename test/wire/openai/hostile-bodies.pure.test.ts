/** Bodies within the limits that once cost seconds, or grew by a hundred on their way (SECURITY D-*: cheap bombs). */
import { expect, it } from "vitest";
import { modelFacts } from "../../../src/wire/anthropic/model-facts.ts";
import { readChat } from "../../../src/wire/openai/chat-request.ts";
import { messagesBody } from "../../../src/wire/openai/messages-body.ts";
import { fit as fitToModel } from "../../../src/wire/openai/steps.ts";

/** Each is done in a few hundred at most, and took from three thousand to a hundred thousand. */
const MAX_CPU_MS = 2_000;

const many = <T>(n: number, each: (i: number) => T): T[] => Array.from({ length: n }, (_, i) => each(i));
const tools = (parameters: object[], strict = false): object => ({
  tools: parameters.map((schema, i) => ({ type: "function", function: { name: `t${i}`, parameters: schema, strict } })),
});
const format = (schema: object): object => ({
  response_format: { type: "json_schema", json_schema: { name: "x", schema: { type: "object", ...schema } } },
});
const leaves = (n: number): object[] => many(n, () => ({ type: "string" }));
const nested = (levels: number, of: object): object =>
  levels === 0 ? of : { type: "object", properties: { x: nested(levels - 1, of) } };
/** Names of one definition: each of its `~` may be written in two ways. */
const spellings = (n: number): object[] =>
  many(n, (i) => ({ $ref: `#/$defs/${many(14, (bit) => ((i >> bit) & 1 ? "~0" : "~")).join("")}` }));
const doubling = (word: string): object => ({
  $ref: "#/$defs/a0",
  $defs: Object.fromEntries(
    many(300, (i) => [
      `a${i}`,
      { [word]: many(2, () => (i < 299 ? { $ref: `#/$defs/a${i + 1}` } : { type: "object" })) },
    ]),
  ),
});
const marked = { cache_control: { type: "ephemeral" } };
const shared = {
  $defs: { b: { type: "object", properties: { k: { enum: many(3_000, (i) => `v${i}`) } } } },
  anyOf: many(500, (i) => ({ allOf: [{ $ref: "#/$defs/b" }, { properties: { k: { const: i } } }] })),
};
const parts = [
  ...many(40_000, () => ({ type: "thinking", thinking: "t", signature: "s" })),
  ...many(40_000, () => ({ type: "text", text: " ", ...marked })),
  { type: "text", text: "ok" },
];

it.each<[string, object]>([
  ["blanks with breakpoints behind thinking", { messages: [{ role: "assistant", content: parts }] }],
  ["a property that all branches share and describe anew", tools(many(40, () => shared))],
  ["a schema of many properties", format({ properties: Object.fromEntries(leaves(150_000).entries()) })],
  [
    "references to each level of a deep schema",
    format({
      properties: { q: { anyOf: many(28, (i) => ({ $ref: `#/$defs/a${"/properties/x".repeat(i)}` })) } },
      $defs: { a: nested(28, { anyOf: leaves(200_000) }) },
    }),
  ],
  [
    "one definition in many spellings",
    tools(
      many(20, () => ({
        type: "object",
        properties: { q: { anyOf: spellings(1_000) } },
        $defs: { "~~~~~~~~~~~~~~": { anyOf: leaves(10_000) } },
      })),
      true,
    ),
  ],
  ...["anyOf", "allOf", "oneOf"].map((word): [string, object] => [
    `${word} that doubles`,
    tools([doubling(word)], true),
  ]),
])("%s: quick, and not much larger than it came", (_, fields) => {
  const body = { model: "m", messages: [{ role: "user", content: "hi" }], ...fields };
  const size = JSON.stringify(body).length;
  const before = process.cpuUsage();
  const draft = readChat(body);
  if (!draft.ok) throw new Error(JSON.stringify(draft.error));
  fitToModel(draft.value, modelFacts("claude-haiku-4-5"));
  expect(JSON.stringify(messagesBody(draft.value)).length).toBeLessThan(2 * size + 2_000_000);
  expect(process.cpuUsage(before).user / 1_000).toBeLessThan(MAX_CPU_MS);
});

it("takes `__proto__` and `constructor` for names like any other", () => {
  const names = '"__proto__":{"type":"string"},"constructor":{"type":"number"}';
  const schema = `{"anyOf":[{"properties":{${names}}},{"properties":{"a":{}}}],"allOf":[{"$defs":{${names}}},{"$defs":{}}]}`;
  const body = `{"model":"m","messages":[{"role":"user","content":"x"}],"__proto__":{"tools":1},
    "tools":[{"type":"function","function":{"name":"__proto__","parameters":${schema}}}]}`;
  const draft = readChat(JSON.parse(body));
  if (!draft.ok) throw new Error(JSON.stringify(draft.error));
  expect(fitToModel(draft.value, modelFacts("claude-opus-5-5"))).toBeNull();
  const [tool] = JSON.parse(JSON.stringify(messagesBody(draft.value))).tools;
  expect(tool.name).toBe("__proto__");
  expect(Object.keys(tool.input_schema.properties)).toEqual(["__proto__", "constructor", "a"]);
  expect(Object.keys(tool.input_schema.$defs)).toEqual(["__proto__", "constructor"]);
});
