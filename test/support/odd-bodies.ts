/**
 * Bodies of OpenAI's dialect as no client should write them: those of the acceptance cases, and a few with everything in
 * them, changed at random places into something odd. Mostly valid still, so that they get past the first check.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";

export type Body = Record<string, unknown>;

const CASES = join(import.meta.dirname, "../fixtures/openai-cases");
const schema = {
  type: "object",
  properties: { a: { type: "string" }, b: { anyOf: [{ type: "integer" }, { type: "null" }] } },
  required: ["a"],
  $defs: { d: { type: "number" } },
};
const union = { oneOf: [schema, { type: "object", properties: { c: { $ref: "#/$defs/d" } } }], $defs: schema.$defs };
const picture = "data:image/png;base64,iVBORw0KGgo=";
const cached = { cache_control: { type: "ephemeral", ttl: "1h" } };

/** Chat with all that Chat has. */
const CHAT: Body = {
  model: "claude-opus-5",
  messages: [
    { role: "system", content: [{ type: "text", text: "rules", ...cached }] },
    { role: "developer", content: "more rules" },
    {
      role: "user",
      name: "ann",
      content: [
        { type: "text", text: "look" },
        { type: "image_url", image_url: { url: picture, detail: "low" } },
        { type: "file", file: { filename: "a.pdf", file_data: "data:application/pdf;base64,JVBERg==" } },
        { type: "file", file: { filename: "a.txt", file_data: "data:text/plain,abc" } },
      ],
    },
    {
      role: "assistant",
      content: null,
      reasoning_content: "hm",
      tool_calls: [
        { id: "call.1", type: "function", index: 0, function: { name: "a.b", arguments: '{"a":"x"}' } },
        { id: "call_2", type: "custom", custom: { name: "patch", input: "*** Begin" } },
      ],
    },
    { role: "system", content: "in between" },
    { role: "tool", tool_call_id: "call_2", content: [{ type: "text", text: "done" }] },
    { role: "tool", tool_call_id: "call.1", name: "a.b", content: "" },
    { role: "assistant", function_call: { name: "a.b", arguments: "{" } },
    { role: "function", name: "a.b", content: "1" },
    { role: "assistant", content: "so", refusal: null, tool_calls: [] },
    { role: "user", content: "go on" },
  ],
  tools: [
    { type: "function", function: { name: "a.b", description: "d", parameters: schema, strict: true } },
    {
      type: "custom",
      custom: { name: "patch", format: { type: "grammar", grammar: { syntax: "lark", definition: "s: x" } } },
    },
    { type: "function", function: { name: "union", parameters: union } },
    { name: "bare", input_schema: schema, ...cached },
    { type: "web_search" },
  ],
  tool_choice: { type: "function", function: { name: "a.b" } },
  parallel_tool_calls: false,
  response_format: { type: "json_schema", json_schema: { name: "r", schema, strict: true } },
  reasoning_effort: "high",
  temperature: 0,
  top_p: 0.9,
  stop: ["END"],
  max_completion_tokens: 5_000,
  n: 1,
  stream: true,
  stream_options: { include_usage: true },
  user: "ann@example.com",
  metadata: { cursorConversationId: "c" },
  service_tier: "default",
  prompt_cache_key: "k",
};

/** What Cursor sends for models that it takes for Claude. */
const BLOCKS: Body = {
  model: "claude-sonnet-4-6",
  system: [{ type: "text", text: "rules", ...cached }],
  messages: [
    { role: "user", content: [{ type: "text", text: "hi", ...cached }] },
    {
      role: "assistant",
      content: [
        { type: "text", text: "a" },
        { type: "tool_use", id: "toolu_1", name: "bare", input: { a: 1 } },
      ],
    },
    {
      role: "user",
      content: [
        { type: "text", text: "wait" },
        {
          type: "tool_result",
          tool_use_id: "toolu_1",
          content: [{ type: "image", source: { type: "base64", media_type: "image/png", data: "iVBORw0KGgo=" } }],
          is_error: false,
        },
        { type: "document", source: { type: "text", media_type: "text/plain", data: "abc" }, title: "t" },
      ],
    },
  ],
  tools: [{ name: "bare", description: "d", input_schema: schema }],
  tool_choice: { type: "any", disable_parallel_tool_use: true },
  thinking: { type: "adaptive", display: "summarized" },
  output_config: { effort: "medium" },
  top_k: 5,
  stream: false,
};

/** What Cursor sends for models that it takes for OpenAI's. */
const RESPONSES: Body = {
  model: "claude-opus-5-5",
  instructions: "rules",
  input: [
    { role: "developer", content: "more rules" },
    {
      type: "message",
      role: "user",
      content: [
        { type: "input_text", text: "hi" },
        { type: "input_image", image_url: picture },
      ],
    },
    { type: "reasoning", id: "rs_1", summary: [], encrypted_content: "sealed" },
    { type: "function_call", call_id: "call_1", name: "a.b", arguments: '{"a":"x"}' },
    { type: "function_call_output", call_id: "call_1", output: "1" },
    { type: "custom_tool_call", call_id: "call_2", name: "ApplyPatch", input: "*** Begin" },
    { type: "custom_tool_call_output", call_id: "call_2", output: [{ type: "input_text", text: "done" }] },
    { type: "message", role: "assistant", content: [{ type: "output_text", text: "so", annotations: [] }] },
    { role: "user", content: [{ type: "input_file", filename: "a.txt", file_data: "data:text/plain,abc" }] },
  ],
  tools: [
    { type: "function", name: "a.b", parameters: schema, strict: false },
    { type: "custom", name: "ApplyPatch", format: { type: "grammar", syntax: "lark", definition: "start: x" } },
  ],
  tool_choice: { type: "allowed_tools", mode: "auto", tools: [{ type: "function", name: "a.b" }] },
  text: { format: { type: "json_schema", name: "r", schema }, verbosity: "low" },
  reasoning: { effort: "low", summary: "auto" },
  include: ["reasoning.encrypted_content"],
  max_output_tokens: 3_000,
  metadata: { a: "b" },
  truncation: "auto",
  store: false,
  stream: true,
};

export const BODIES: readonly Body[] = [
  ...Array.from({ length: 8 }, () => [CHAT, BLOCKS, RESPONSES]).flat(),
  ...readdirSync(CASES).flatMap((name) => {
    if (!name.endsWith(".json")) return [];
    const { steps } = JSON.parse(readFileSync(join(CASES, name), "utf8")) as {
      steps: { request: { body?: unknown } }[];
    };
    return steps.flatMap(({ request: { body } }) => (isObject(body) ? [body] : []));
  }),
];

/** Written as JSON, since a literal can't have all of them. */
const ODDITIES: readonly string[] = [
  ...["null", "true", "false", "0", "-1", "1.5", "1e308", "-1e999", "9007199254740993", "[]", "{}", "[[]]", "[null]"],
  ...[
    '""',
    '" "',
    '"\\u0000"',
    '"\\ud800"',
    '"a\\udc00b"',
    '"\\u2028"',
    '"x"',
    '"none"',
    '"auto"',
    '"user"',
    '"system"',
  ],
  ...['"assistant"', '"tool"', '"text"', '"json_schema"', '"enabled"', '"__proto__"', '"constructor"', '"data:,"'],
  ...[
    '{"__proto__":{"type":"text"}}',
    '{"constructor":{"prototype":1}}',
    '{"type":"text","text":""}',
    '{"type":"ephemeral"}',
  ],
  ...['{"type":"object"}', '{"role":"assistant","content":""}', '{"role":"user","content":[]}', '{"$ref":"#"}'],
  ...[`"${"x".repeat(300)}"`, `${"[".repeat(80)}${"]".repeat(80)}`, `${'{"a":'.repeat(60)}1${"}".repeat(60)}`],
  JSON.stringify(`${'{"a":'.repeat(99)}1${"}".repeat(99)}`),
];
const FIELDS = [
  ...[
    "__proto__",
    "constructor",
    "toString",
    "type",
    "role",
    "content",
    "text",
    "name",
    "id",
    "cache_control",
    "thinking",
  ],
  ...["tool_calls", "tool_call_id", "function_call", "input", "system", "stop_sequences", "output_config", "container"],
  ...["reasoning_details", "audio", "conversation", "$ref", "$defs", "anyOf", "allOf", "additionalProperties"],
  ...["caller", "citations", "title", "context", "source", "mcp_servers", "strict", "description", "required"],
];

type Change = { readonly at: number; readonly kind: string; readonly with: number; readonly field: string };

const change: fc.Arbitrary<Change> = fc.record({
  at: fc.nat(),
  kind: fc.constantFrom("odd", "odd", "other", "other", "gone", "added", "twice", "swapped", "empty"),
  with: fc.nat(),
  field: fc.constantFrom(...FIELDS),
});

/** One of the bodies with some changes, `most` of them at most, for one of the models. */
export function oddBody(models: readonly string[], most = 4): fc.Arbitrary<Body> {
  const made = fc
    .tuple(fc.nat(), fc.constantFrom(...models), fc.array(change, { maxLength: most }))
    .map(([which, model, changes]) => {
      const body = structuredClone({ ...pick(BODIES, which), model });
      for (const one of changes) apply(body, one);
      return body;
    });
  // Small numbers would mean the first fields of the first bodies.
  return fc.noBias(made);
}

/** Somewhere in a body: what holds a value, and under which name. */
type Place = { readonly holder: Body | unknown[]; readonly name: string };

function apply(body: Body, { at, kind, with: which, field }: Change): void {
  const places = placesIn(body);
  if (places.length === 0) return;
  const { holder, name } = pick(places, at);
  const value = (holder as Body)[name];
  switch (kind) {
    case "odd":
      put(holder, name, JSON.parse(pick(ODDITIES, which)));
      break;
    case "other":
      put(holder, name, anythingOf(which));
      break;
    case "gone":
      if (Array.isArray(holder)) holder.splice(Number(name), 1);
      else delete holder[name];
      break;
    case "added":
      if (isObject(value)) put(value, field, which % 2 ? JSON.parse(pick(ODDITIES, which)) : anythingOf(which));
      else if (Array.isArray(value)) value.push(anythingOf(which));
      break;
    case "twice":
      if (Array.isArray(holder)) holder.splice(which % (holder.length + 1), 0, structuredClone(value));
      break;
    case "swapped":
      if (Array.isArray(holder)) {
        const to = which % holder.length;
        put(holder, name, holder[to]);
        put(holder, String(to), value);
      }
      break;
    default:
      put(holder, name, Array.isArray(value) ? [] : isObject(value) ? {} : "");
  }
}

/** Some value out of any of the bodies. */
function anythingOf(which: number): unknown {
  const { holder, name } = pick(placesIn(pick(BODIES, which)), Math.floor(which / BODIES.length));
  return structuredClone((holder as Body)[name]);
}

function placesIn(value: unknown, places: Place[] = []): Place[] {
  if (typeof value !== "object" || value === null) return places;
  for (const name of Object.keys(value)) {
    places.push({ holder: value as Body, name });
    placesIn((value as Body)[name], places);
  }
  return places;
}

/** Also under `__proto__`. */
function put(holder: object, name: string, value: unknown): void {
  Object.defineProperty(holder, name, { value, enumerable: true, writable: true, configurable: true });
}

function pick<T>(list: readonly T[], which: number): T {
  return list[which % list.length] as T;
}

function isObject(value: unknown): value is Body {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
