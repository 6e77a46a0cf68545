import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  changeOf,
  DEFAULTS,
  MAX_DEPTH,
  parseCancel,
  parseChange,
  parseCreate,
  readIncoming,
  readMessage,
  specOf,
} from "../../src/conversations/input.ts";
import type { Result } from "../../src/result.ts";
import type { Failure } from "../../src/wire/errors.ts";

const MESSAGE = "msg_01jd6v7q8r9s0t1v2w3x4y5z6a";

/** What is told of a value that is refused. */
function told(result: Result<unknown, Failure>): string {
  if (result.ok) throw new Error(`accepted: ${JSON.stringify(result.value)}`);
  if (result.error.kind !== "invalid_request") throw new Error(result.error.kind);
  return result.error.message;
}

function taken<T>(result: Result<T, Failure>): T {
  if (!result.ok) throw new Error(told(result));
  return result.value;
}

const nested = (levels: number): unknown => {
  let value: unknown = "x";
  for (let i = 0; i < levels; i++) value = i % 2 === 0 ? [value] : { a: value };
  return value;
};

describe("a conversation to be made", () => {
  it("needs a model and nothing else", () => {
    expect(
      specOf("conv_x", { ...taken(parseCreate({ model: "claude-haiku-5-5" })), model: "claude-haiku-5-5" }),
    ).toEqual({
      id: "conv_x",
      model: "claude-haiku-5-5",
      system: null,
      maxTokens: 8192,
      tools: [],
      options: {},
      context: { strategy: "summarize", max_input_tokens: null, keep_turns: 4, summary_model: null },
      ttlSeconds: 2_592_000,
      onBusy: "queue",
      metadata: {},
    });
    expect(told(parseCreate({}))).toBe("model: Field required");
  });

  it("tells all that is wrong at once, each with its path", () => {
    const message = told(
      parseCreate({
        model: "",
        system: "",
        max_tokens: 0,
        tools: [1],
        options: { messages: [], model: "m", betas: ["a b"] },
        context: { strategy: "forget", keep_turns: 0, colour: 1 },
        ttl_seconds: 34_560_001,
        on_busy: "wait",
        metadata: { a: 1 },
        template: "greeting",
      }),
    );
    expect(message.split("; ").sort()).toEqual([
      "context.colour: unknown field",
      "context.keep_turns: must be a whole number from 1 to 1000",
      "context.strategy: must be one of summarize, truncate, none",
      "max_tokens: must be a whole number from 1 to 10000000",
      "metadata.a: must be a text",
      "model: must be a model id",
      "on_busy: must be one of queue, reject",
      "options.betas: must be a list of up to 50 names of betas",
      "options.messages: is made from the conversation",
      "options.model: stands beside `options`",
      "system: must not be empty",
      "template: must be {name, label? or version?, variables?}",
      "tools.0: must be a tool",
      "ttl_seconds: must be a whole number from 1 to 34560000",
    ]);
  });

  it.each([
    [1, true],
    [34_560_000, true],
    [0, false],
    [34_560_001, false],
    [1.5, false],
    ["60", false],
  ])("ttl_seconds %j: %j", (ttl, fine) => {
    expect(parseCreate({ model: "m", ttl_seconds: ttl }).ok).toBe(fine);
  });

  it("passes on what it does not know of Messages as it came", () => {
    const options = {
      thinking: { type: "adaptive" },
      new_thing: [1, { deep: null }],
      betas: ["context-1m-2025-08-07"],
    };
    const tools = [{ name: "t", input_schema: { type: "object" } }, { type: "web_search_29990101" }];
    const system = [{ type: "text", text: "s", cache_control: { type: "ephemeral" } }];
    const spec = specOf("c", { ...taken(parseCreate({ model: "m", options, tools, system })), model: "m" });
    expect([spec.options, spec.tools, spec.system]).toEqual([options, tools, system]);
  });

  it.each([null, 1, "x", []])("is no object: %j", (body) => {
    expect(told(parseCreate(body))).toBe("the request body must be a JSON object");
  });
});

describe("a change", () => {
  it("holds the fields that were given, and no other", () => {
    expect(changeOf(taken(parseChange({ max_tokens: 9, system: null, leaf: MESSAGE })), DEFAULTS.context)).toEqual({
      maxTokens: 9,
      system: null,
      leaf: MESSAGE,
    });
    expect(changeOf(taken(parseChange({})), DEFAULTS.context)).toEqual({});
  });

  it("changes the context field by field", () => {
    const present = { strategy: "truncate", max_input_tokens: 900, keep_turns: 2, summary_model: "m" } as const;
    expect(changeOf(taken(parseChange({ context: { max_input_tokens: null } })), present)).toEqual({
      context: { ...present, max_input_tokens: null },
    });
  });

  it("refuses what can't be changed", () => {
    expect(told(parseChange({ id: "x", leaf: "m" }))).toBe("leaf: must be the id of a message; id: unknown field");
  });
});

describe("a message", () => {
  const usual = { clientId: null, content: "hi", options: {}, onBusy: null, edit: null, regenerate: null };

  it("is a text or blocks, with or without a role", () => {
    expect(taken(readIncoming({ content: "hi" }))).toEqual(usual);
    expect(taken(readIncoming({ role: "user", content: "hi", id: "c1" }))).toEqual({ ...usual, clientId: "c1" });
    const content = [
      { type: "text", text: "hi" },
      { type: "of_tomorrow", x: [1] },
    ];
    expect(taken(readIncoming({ content }))).toEqual({ ...usual, content });
  });

  it.each([
    [{}, "content: Field required"],
    [{ content: "" }, "content: must not be empty"],
    [{ content: " \n" }, "content: must not be empty"],
    [{ content: [] }, "content: must not be empty"],
    [{ content: null }, "content: must be a text or a list of content blocks"],
    [{ content: [{ text: "x" }, "y"] }, "content.0.type: Field required; content.1: must be a content block"],
    [{ content: "x", role: "assistant" }, "role: must be user"],
    [{ content: "x", id: "" }, "id: must be 1 to 255 printable ASCII characters"],
    [{ content: "x", id: "é" }, "id: must be 1 to 255 printable ASCII characters"],
    [{ content: "x", colour: 1 }, "colour: unknown field"],
    [{ content: "x", regenerate: true }, "content: not together with `regenerate`"],
    [{ regenerate: true, edit: MESSAGE }, "edit: not together with `regenerate`"],
    [{ regenerate: false }, "regenerate: must be true or the id of a message"],
    [{ content: "x", options: { edit: "e" } }, "options.edit: must be the id of a message"],
    [{ content: "x", edit: MESSAGE, options: { edit: MESSAGE } }, "options.edit: given twice"],
    [{ content: "x", options: { stream: true } }, "options.stream: stands beside `options`"],
    [{ content: "x", options: { system: "y" } }, "options.system: is the conversation's own"],
    [{ content: "x", options: { betas: ["a,b"] } }, "options.betas: must be a list of up to 50 names of betas"],
    [
      { options: { model: 1 }, stream: 1 },
      "options.model: must be a model id; stream: must be true or false; content: Field required",
    ],
  ])("%j: %s", (body, message) => {
    expect(told(readMessage(body)).split("; ").sort()).toEqual(message.split("; ").sort());
  });

  it("may say how it is taken inside its options, which the upstream is not told", () => {
    const options = { on_busy: "reject", edit: MESSAGE, temperature: 0 };
    expect(taken(readIncoming({ content: "hi", options }))).toEqual({
      ...usual,
      options: { temperature: 0 },
      onBusy: "reject",
      edit: MESSAGE,
    });
    expect(taken(readIncoming({ options: { regenerate: true } }))).toEqual({
      ...usual,
      content: null,
      regenerate: true,
    });
    expect(taken(readIncoming({ regenerate: MESSAGE })).regenerate).toBe(MESSAGE);
  });

  it("may be nested to a limit, and no deeper", () => {
    const block = (levels: number) => ({ content: [{ type: "t", deep: nested(levels) }] });
    // The list, the block and the text at the bottom are levels, too.
    expect(readIncoming(block(MAX_DEPTH - 2)).ok).toBe(true);
    expect(told(readIncoming(block(MAX_DEPTH - 1)))).toContain("content: must not be nested deeper than 64 levels");
    expect(told(readIncoming({ content: [{ type: "t", deep: nested(200_000) }] }))).toContain("nested");
    expect(told(readIncoming({ content: "x", options: { a: nested(200_000) } }))).toContain(
      "options: must not be nested",
    );
  });

  it("never throws, and never takes what it would not take again", () => {
    const names = fc.constantFrom(
      "content",
      "id",
      "role",
      "options",
      "on_busy",
      "edit",
      "regenerate",
      "stream",
      "x",
      "__proto__",
    );
    const values = fc.oneof(
      fc.jsonValue(),
      fc.constantFrom<unknown>("hi", MESSAGE, true, "queue", {}, { edit: MESSAGE }),
    );
    fc.assert(
      fc.property(fc.dictionary(names, values), (fields) => {
        const first = readMessage(fields);
        expect(readMessage(JSON.parse(JSON.stringify(fields)))).toEqual(first);
        if (first.ok) {
          const { content, regenerate } = first.value.incoming;
          expect(content === null).toBe(regenerate !== null);
        }
      }),
    );
  });
});

describe("a cancellation", () => {
  it("names a turn, or none", () => {
    expect(taken(parseCancel({}))).toEqual({});
    expect(told(parseCancel({ turn: "t" }))).toBe("turn: must be the id of a turn");
  });
});
