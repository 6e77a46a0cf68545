/**
 * Whatever a body says and whoever is to answer it: it is refused, with the place that is wrong, or becomes a body that the
 * Messages API takes. Bodies of both APIs and of Cursor's mixture, good and bad, and ones that are odd in every place.
 */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { KNOWN_MODELS, modelFacts } from "../../../src/wire/anthropic/model-facts.ts";
import { readRequestFacts } from "../../../src/wire/anthropic/request.ts";
import { readChat } from "../../../src/wire/openai/chat-request.ts";
import { type Block, type Draft, EFFORTS, type Fields } from "../../../src/wire/openai/draft.ts";
import { messagesJson, requestHeaders } from "../../../src/wire/openai/messages-body.ts";
import { readResponses } from "../../../src/wire/openai/responses-request.ts";
import { fit as fitDraft } from "../../../src/wire/openai/steps.ts";
import { problemsOf } from "../../support/messages-rules.ts";
import { oddBody } from "../../support/odd-bodies.ts";
import { typeProblems } from "../../support/sdk-types.ts";

const RUNS = Number(process.env.FUZZ_RUNS ?? 1_000);
const TYPED_RUNS = 300;
const MODELS = [...KNOWN_MODELS.map(({ id }) => id), "claude-haiku-4-5-20251001", "claude-opus-9"];
/** Each becomes a word of its own, so that one can be looked for. */
const WORD = "WORD";

const maybe = <T>(...values: T[]) => fc.constantFrom(undefined, ...values);
const text = fc.constantFrom("", " ", "\n", WORD, `${WORD} `, ` ${WORD}`);
const name = fc.constantFrom("f", "g.h", "sql");
const nativeId = fc.constantFrom("c1", "c2", "toolu_3");
const cache_control = maybe({ type: "ephemeral" }, { type: "ephemeral", ttl: "1h" });

const textPart = fc.record({ type: fc.constant("text"), text, cache_control });
const media = fc.constantFrom(
  { type: "image_url", image_url: { url: "data:image/png;base64,iVBO" } },
  { type: "file", file: { filename: "a.txt", file_data: "data:text/plain,abc" } },
);
const shown = fc.oneof(text, fc.array(fc.oneof(textPart, media), { maxLength: 3 }));
const toolResult = fc.record({ type: fc.constant("tool_result"), tool_use_id: nativeId, content: shown });
const toolUse = fc.record({ type: fc.constant("tool_use"), id: nativeId, name, input: fc.constant({ a: 1 }) });
const thinking = fc.record({ type: fc.constant("thinking"), thinking: text, signature: fc.constantFrom("", "s") });
const toolCall = fc.record({
  id: fc.constantFrom("c1", "c2", "c 3", ""),
  type: fc.constant("function"),
  index: fc.nat({ max: 3 }),
  function: fc.record({ name, arguments: fc.constantFrom("", "{}", '{"a":1}', "[1]", '{"a') }),
  cache_control,
});

const message = fc.oneof(
  fc.record({
    role: fc.constantFrom("system", "developer"),
    content: fc.oneof(text, fc.array(textPart, { maxLength: 3 })),
    cache_control,
  }),
  fc.record({
    role: fc.constant("user"),
    content: fc.oneof(text, fc.constant(null), fc.array(fc.oneof(textPart, media, toolResult), { maxLength: 3 })),
    cache_control,
  }),
  fc.record({
    role: fc.constant("assistant"),
    content: fc.oneof(text, fc.constant(null), fc.array(fc.oneof(textPart, toolUse, thinking), { maxLength: 3 })),
    tool_calls: maybe([]),
    refusal: maybe(WORD),
    reasoning_content: maybe("unsigned"),
    reasoning_details: maybe([{ type: "reasoning.text", text: "t", signature: "s" }]),
    cache_control,
  }),
  fc.record({
    role: fc.constant("assistant"),
    content: fc.oneof(text, fc.constant(null)),
    tool_calls: fc.array(toolCall, { maxLength: 3 }),
    cache_control,
  }),
  fc.record({
    role: fc.constant("assistant"),
    function_call: fc.record({ name, arguments: fc.constant("{}") }),
  }),
  fc.record({
    role: fc.constantFrom("tool", "function"),
    name,
    tool_call_id: fc.constantFrom("c1", "c2", "c 3", "", "lost"),
    content: shown,
    cache_control,
  }),
);

const schema: fc.Arbitrary<Fields> = fc
  .letrec<{ any: Fields; object: Fields }>((tie) => ({
    any: fc.oneof(
      { maxDepth: 3, withCrossShrink: true },
      fc.constantFrom<Fields>(
        { type: "string", format: "date" },
        { type: "integer", minimum: 3 },
        { enum: ["a", null] },
        { const: 1 },
        { type: ["string", "null"], maxLength: 4 },
        { $ref: "#/$defs/d" },
        {},
        { type: "object", additionalProperties: { type: "string" } },
      ),
      tie("object"),
      fc.record({ type: fc.constant("array"), items: tie("any"), minItems: fc.constantFrom(0, 1, 2) }),
      fc.record({ oneOf: fc.array(tie("any"), { minLength: 1, maxLength: 3 }) }),
    ),
    object: fc
      .dictionary(fc.constantFrom("a", "b", "enum", "$ref", "__proto__"), tie("any"), { minKeys: 1, maxKeys: 4 })
      .map((properties): Fields => ({ type: "object", properties, required: Object.keys(properties).slice(1) })),
  }))
  .object.map((root) => ({ ...root, $defs: { d: { type: "string" } } }));

const options = {
  reasoning_effort: maybe(...EFFORTS),
  temperature: fc.option(fc.double({ min: -1, max: 3, noNaN: true })),
  top_p: maybe(0, 0.3, 0.96, 1),
  top_k: maybe<unknown>(-1, 0, 5, "x"),
  stop: maybe<unknown>(" ", ["a", ""]),
  stream: fc.boolean(),
  thinking: maybe<unknown>(
    ...[{ type: "adaptive" }, { type: "adaptive", display: "omitted" }, { type: "enabled", budget_tokens: 2_000 }],
    ...[{ type: "enabled", budget_tokens: 1, display: "x" }, { type: "disabled" }, { type: "between_tools" }, true],
  ),
  output_config: maybe<unknown>({ effort: "max" }, { effort: "x", other: 1 }),
  cache_control,
  prompt_cache_options: maybe({ mode: "explicit" }),
  container: maybe("c"),
  mcp_servers: maybe([{ type: "url", url: "https://m.example.com", name: "m" }]),
  user: fc.option(fc.emailAddress()),
  service_tier: maybe("auto", "default", "flex"),
  parallel_tool_calls: maybe(true, false),
};
const optional = { requiredKeys: [] as [] };

const chatTools = (parameters: Fields) => [
  { type: "function", function: { name: "f", parameters, strict: true } },
  { name: "g.h", input_schema: parameters, cache_control: { type: "ephemeral" } },
  { type: "custom", custom: { name: "sql" } },
];
const chatBody: fc.Arbitrary<Fields> = fc
  .tuple(
    fc.record({ model: fc.constantFrom(...MODELS), messages: fc.array(message, { minLength: 1, maxLength: 14 }) }),
    fc.record(
      {
        ...options,
        max_tokens: maybe(50, 5_000, 9_000_000),
        response_format: fc.oneof(
          fc.constantFrom({ type: "json_object" }, { type: "text" }),
          schema.map((found) => ({ type: "json_schema", json_schema: { name: "r", schema: found } })),
        ),
        tools: schema.chain((found) => fc.subarray(chatTools(found))),
        tool_choice: maybe<unknown>("auto", "required", "none", { type: "tool", name: "f" }),
      },
      optional,
    ),
  )
  .map(([own, more]) => ({ ...own, ...more }));

const said = fc.constantFrom("a", "b c", " ", "", "…");
const partsOf = (type: string) =>
  fc.oneof(
    said,
    fc.array(said, { maxLength: 3 }).map((all) => all.map((text) => ({ type, text }))),
  );
const image = { type: "input_image", image_url: "data:image/png;base64,iVBORw0KGgo=", detail: "auto" };
const callId = fc.constantFrom("call_1", "call_2", "call.3");
const toolName = fc.constantFrom("f", "a.b", "ApplyPatch", "gone");

const item: fc.Arbitrary<Fields> = fc.oneof(
  fc.record({ role: fc.constantFrom("user", "system", "developer"), content: partsOf("input_text") }),
  fc.record({ type: fc.constant("message"), role: fc.constant("assistant"), content: partsOf("output_text") }),
  fc.constant({ role: "user", content: [{ type: "input_text", text: "see" }, image] }),
  fc.record({
    type: fc.constant("function_call"),
    call_id: callId,
    name: toolName,
    arguments: fc.constantFrom("{}", "", '{"a":1}', "not JSON", "[1]"),
  }),
  fc.record({ type: fc.constant("custom_tool_call"), call_id: callId, name: toolName, input: said }),
  fc.record({
    type: fc.constantFrom("function_call_output", "custom_tool_call_output"),
    call_id: callId,
    output: fc.oneof(said, fc.constant([image])),
  }),
  fc.constantFrom({ type: "reasoning", summary: [], encrypted_content: "sealed" }, { type: "reasoning", summary: [] }),
);

const responsesTools = (parameters: Fields): Fields[] => [
  { type: "function", name: "f", parameters, strict: false },
  { type: "function", name: "a.b", parameters: null },
  { type: "custom", name: "ApplyPatch", format: { type: "grammar", syntax: "lark", definition: "start: x" } },
  { type: "web_search" },
];
const responsesBody: fc.Arbitrary<Fields> = fc
  .tuple(
    fc.record({
      model: fc.constantFrom(...MODELS),
      input: fc.oneof(said, fc.array(item, { minLength: 1, maxLength: 10 })),
    }),
    fc.record(
      {
        ...options,
        instructions: said,
        max_output_tokens: fc.integer({ min: 1, max: 200_000 }),
        reasoning: fc.record({ effort: fc.constantFrom(...EFFORTS), summary: fc.constantFrom("auto", null) }),
        text: schema.map((found) => ({ format: { type: "json_schema", name: "r", schema: found } })),
        tools: schema.chain((found) => fc.subarray(responsesTools(found))),
        tool_choice: fc.constantFrom<unknown>(...["auto", "none", "required", { type: "function", name: "f" }], {
          type: "allowed_tools",
          mode: "auto",
          tools: [{ type: "function", name: "a.b" }],
        }),
      },
      optional,
    ),
  )
  .map(([own, more]) => ({ ...own, ...more }));

type Made = { readonly body: Fields; readonly version: string };

/** As the dialect does, but for what it remembers. Null: refused, and how. */
function translated(written: Fields): Made | null {
  const draft =
    written.messages === undefined && written.input !== undefined ? readResponses(written) : readChat(written);
  const unfit = draft.ok ? fitDraft(opened(draft.value), modelFacts(draft.value.model)) : draft.error;
  if (draft.ok && unfit === null) {
    const body = JSON.parse(messagesJson(draft.value)) as Fields;
    return { body, version: requestHeaders(draft.value)["anthropic-version"] ?? "" };
  }
  expect(unfit).toMatchObject({ kind: "invalid_request", param: expect.stringMatching(/./) });
  return null;
}

/** What the client keeps sealed can be opened; what it refers to is not there. */
function opened(draft: Draft): Draft {
  const thinking: Block = { type: "thinking", thinking: "T", signature: "S" };
  for (const turn of draft.turns) {
    turn.content = turn.content.flatMap((block) => {
      if (block.type === "item_reference") return [];
      return block.type === "sealed" ? [{ ...thinking }] : [block];
    });
  }
  return draft;
}

it("half a character goes up as the mark for one that is lost, and what only looks like it as it is", () => {
  const content = "cut \ud83d, whole \ud83d\ude00, written \\ud83d and \\\ud83d, \udc00";
  const made = translated({ model: "claude-opus-5", messages: [{ role: "user", content }] });
  expect(made?.body.messages).toEqual([{ role: "user", content: [{ type: "text", text: content.toWellFormed() }] }]);
});

/** Nothing that Claude would refuse, and nothing that the gateway's own door would. */
function judge({ body, version }: Made): void {
  expect(problemsOf(body, version)).toEqual([]);
  expect(readRequestFacts(new TextEncoder().encode(JSON.stringify(body)))).toMatchObject({ ok: true });
}

/** The body as it would come over the wire, every word in it a different one; and these words. */
function written(fields: object): { body: Fields; words: string[] } {
  const words: string[] = [];
  const json = JSON.stringify(fields).replaceAll(WORD, () => {
    words.push(`word${words.length}.`);
    return words.at(-1) ?? "";
  });
  return { body: JSON.parse(json), words };
}

/** Thinking that doesn't go up, and a result that a later one has replaced, may take their words with them. */
function mayLose({ messages }: Fields): boolean {
  const json = JSON.stringify(messages);
  return json.includes('"thinking"') || json.includes("tool_call_id") || json.includes("tool_use_id");
}

const KINDS = [
  ["Chat", chatBody],
  ["Responses", responsesBody],
  ["odd", oddBody(MODELS)],
] as const;

describe.each<readonly [string, fc.Arbitrary<Fields>]>(KINDS)("any body of the kind %s, any model", (_, bodies) => {
  it("becomes a body that the API takes, the same for the same, or is refused with its place", {
    timeout: 120_000,
  }, () => {
    let taken = 0;
    fc.assert(
      fc.property(bodies, (fields) => {
        const { body, words } = written(fields);
        const made = translated(structuredClone(body));
        if (!made) return;
        taken++;
        judge(made);
        expect(translated(body)).toEqual(made);
        if (words.length > 0 && !mayLose(body))
          for (const word of words) expect(JSON.stringify(made.body)).toContain(word);
      }),
      { numRuns: RUNS },
    );
    expect(taken).toBeGreaterThan(RUNS / 4);
  });

  it("becomes one of the SDK's types", { timeout: 120_000 }, () => {
    const made = fc
      .sample(bodies, { numRuns: TYPED_RUNS, seed: 5 })
      .map((fields) => translated(written(fields).body)?.body);
    expect(typeProblems(made.filter((body) => body !== undefined))).toBe("");
  });
});

it("the compiler finds what is not of the SDK's types", () => {
  expect(typeProblems([{ model: "m", max_tokens: "1", messages: [] }])).toContain("TS2322");
}, 60_000);

/** One more round, as a client adds it to the conversation. */
const rounds = fc.constantFrom<readonly Fields[]>(
  [
    { role: "assistant", content: "so" },
    { role: "user", content: "and?" },
  ],
  [
    {
      role: "assistant",
      tool_calls: [{ id: "new.1", type: "function", function: { name: "f.new", arguments: "{}" } }],
    },
    { role: "tool", tool_call_id: "new.1", content: "r" },
  ],
);

it("a conversation that goes on leaves what was said as it went up before, for the prompt cache", {
  timeout: 60_000,
}, () => {
  let compared = 0;
  fc.assert(
    fc.property(chatBody, rounds, (fields, round) => {
      const { body } = written(fields);
      const asked = [...(body.messages as Fields[]), { role: "user", content: "?" }];
      const before = translated(structuredClone({ ...body, messages: asked }))?.body;
      const after = translated(structuredClone({ ...body, messages: [...asked, ...round] }))?.body;
      if (!before || !after) return;
      compared++;
      const [first, second] = [prefix(before), prefix(after)];
      expect({ ...second, messages: second.messages.slice(0, first.messages.length) }).toEqual(first);
    }),
    { numRuns: RUNS },
  );
  expect(compared).toBeGreaterThan(RUNS / 4);
});

/** What a cache knows a prompt by: breakpoints are no part of it. */
function prefix({ tools, system, messages }: Fields): { tools: unknown; system: unknown; messages: unknown[] } {
  const text = JSON.stringify({ tools, system, messages }, (name, value) =>
    name === "cache_control" ? undefined : value,
  );
  return JSON.parse(text);
}

it("a message may have more parts than a function takes arguments", () => {
  const parts = Array.from({ length: 130_000 }, () => ({ type: "text", text: "x" }));
  const cached = parts.map((part) => ({ ...part, cache_control: { type: "ephemeral" } }));
  const chat = readChat({
    model: "claude-opus-5",
    messages: [
      { role: "assistant", tool_calls: [{ id: "c", type: "function", function: { name: "f", arguments: "{}" } }] },
      { role: "tool", tool_call_id: "c", content: cached },
      { role: "user", content: parts },
    ],
  });
  const input = ["hi", parts].map((content) => ({ role: "user", content }));
  for (const draft of [chat, readResponses({ model: "claude-opus-5", input })]) {
    if (!draft.ok) throw new Error(JSON.stringify(draft.error));
    expect(fitDraft(draft.value, modelFacts("claude-opus-5"))).toBeNull();
  }
}, 30_000);

const COUNT = 100_000;
const many = <T>(make: (i: number) => T, count = COUNT): T[] => Array.from({ length: count }, (_, i) => make(i));
const called = (written: string, id = "c", by = "f") => ({
  role: "assistant",
  tool_calls: [{ id, type: "function", function: { name: by, arguments: written } }],
});
const hi = { role: "user", content: "hi" };

/** Each would take minutes if anything were looked for anew for every message, call or tool. */
const LARGE: Readonly<Record<string, () => Fields>> = {
  "100,000 messages of all roles": () => ({
    messages: many((i) => ({ role: ["user", "system", "assistant", "developer", "tool"][i % 5], content: `m${i}` })),
  }),
  "100,000 messages of one role": () => ({ messages: many(() => hi) }),
  "100,000 results without a call": () => ({
    messages: many(() => ({ role: "tool", tool_call_id: "gone", content: "x" })),
  }),
  "50,000 calls without an id in one turn, their results by name": () => ({
    messages: [
      { role: "assistant", tool_calls: many(() => ({ type: "function", function: { name: "f" } }), COUNT / 2) },
      ...many(() => ({ role: "function", name: "f", content: "x" }), COUNT / 2),
    ],
  }),
  "50,000 calls in one turn, their results in another order, ids and names that don't fit": () => ({
    messages: [
      {
        role: "assistant",
        tool_calls: many((i) => ({ ...called("{}", `c.${i}`, `f.${i}`).tool_calls[0] }), COUNT / 2),
      },
      ...many((i) => ({ role: "tool", tool_call_id: `c.${COUNT / 2 - i}`, content: "x" }), COUNT / 2),
    ],
  }),
  "50,000 calls without a result, all of one id": () => ({ messages: [hi, ...many(() => called("{}"), COUNT / 2)] }),
  "4,096 tools and a choice among as many": () => ({
    messages: [hi],
    tools: many((i) => ({ type: "function", function: { name: `${"f".repeat(200)}${i}`, strict: true } }), 4_096),
    tool_choice: {
      type: "allowed_tools",
      mode: "required",
      tools: many((i) => ({ name: `${"f".repeat(200)}${i}` }), 4_096),
    },
  }),
  "32 MB of text": () => ({ messages: [{ role: "user", content: `${" ".repeat(16 << 20)}${"x".repeat(16 << 20)}` }] }),
  "arguments that are deeper than a body may be": () => ({
    messages: [
      hi,
      ...[93, 94, 95, 96, 99].map((depth) => called(`${'{"a":'.repeat(depth)}1${"}".repeat(depth)}`, `c${depth}`)),
    ],
  }),
  "30 MB of brackets as arguments": () => ({ messages: [hi, called("[".repeat(30 << 20))] }),
};

it.each(Object.entries(LARGE))("takes %s", { timeout: 30_000 }, (_, make) => {
  const made = translated({ model: "claude-opus-5-5", ...make() });
  if (!made) throw new Error("refused");
  judge(made);
});
