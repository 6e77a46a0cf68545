import fc from "fast-check";
import OpenAI from "openai";
import { describe, expect, it } from "vitest";
import type { StreamEvent } from "../../../src/wire/anthropic/events.ts";
import { chatAnswer } from "../../../src/wire/openai/chat-answer.ts";
import { chatStream } from "../../../src/wire/openai/chat-stream.ts";
import type { Telling } from "../../../src/wire/openai/draft.ts";
import { wholeMessage } from "../../../src/wire/openai/whole-message.ts";
import { answers, bytesOf, cut, lines, tellBytes, tellingOf } from "../../support/messages-streams.ts";
import { type ReadChat, readChatStream } from "../../support/openai-match.mjs";

const NAME = { id: "req_1", created: 1_700_000_000 };
const tellings = fc
  .record({ includeUsage: fc.boolean(), legacyFunctions: fc.boolean(), shape: fc.constantFrom("chat", "responses") })
  .map((more) => tellingOf(more as Partial<Telling>));

const tellEvents = (events: readonly StreamEvent[], telling = tellingOf()) =>
  tellBytes(chatStream(NAME, telling), [bytesOf(events)]);

function tellWhole(body: unknown, telling = tellingOf()) {
  const message = wholeMessage(body);
  if (message === null) throw new Error("no message");
  return JSON.parse(chatAnswer(message, NAME, telling));
}

/** All that `readChatStream` passes over. */
function details(told: string): unknown[] {
  return told
    .split("\n\n")
    .filter((frame) => frame.startsWith("data: {"))
    .flatMap((frame) => JSON.parse(frame.slice(6)).choices ?? [])
    .flatMap(({ delta }) => delta.reasoning_details ?? []);
}

/** Arguments as raw text are what Cursor asks for; no other invariant may break. */
const brokenIn = ({ errors }: ReadChat, { shape }: Telling) =>
  errors.filter((error) => shape === "chat" || !error.startsWith("S10: arguments are not a JSON object"));

describe("a Chat Completion's stream", () => {
  it("S1-S12 says the same as the whole answer, whatever upstream says and however it is cut", async () => {
    await fc.assert(
      fc.asyncProperty(
        answers(),
        tellings,
        lines,
        fc.array(fc.nat(), { maxLength: 9 }),
        async (answer, telling, form, cuts) => {
          const told = await tellBytes(chatStream(NAME, telling), cut(bytesOf(answer.events, form), cuts));
          const read = readChatStream(told);
          expect(brokenIn(read, telling)).toEqual([]);
          const { choices, usage, ...envelope } = tellWhole(answer.message, telling);
          const [{ message, finish_reason }] = choices;
          expect(read.message.content).toBe(message.content ?? "");
          expect(read.message.reasoning_content ?? undefined).toBe(message.reasoning_content);
          expect(read.message.refusal || null).toBe(message.refusal || null);
          expect(read.message.tool_calls).toEqual(sameArguments(message.tool_calls, read));
          expect(read.finish_reason).toBe(finish_reason);
          expect(read.usage).toEqual(telling.includeUsage ? usage : undefined);
          expect(details(told)).toEqual(message.reasoning_details ?? []);
          expect(told.includes('"usage"')).toBe(telling.includeUsage);
          const first = JSON.parse(
            told.slice(told.indexOf("data: ") + 6, told.indexOf("\n\n", told.indexOf("data: "))),
          );
          expect(first).toMatchObject({ id: envelope.id, created: envelope.created, model: envelope.model });
          expect(told).not.toContain("hidden");
        },
      ),
      { numRuns: 600 },
    );
  });

  it("tells text and arguments as the blocks have them", async () => {
    await fc.assert(
      fc.asyncProperty(answers(), async ({ events, message }) => {
        const read = readChatStream(await tellEvents(events)).message;
        const of = (type: string, field: string) =>
          message.content.filter((block) => block.type === type).map((block) => block[field]);
        expect(read.content).toBe(of("text", "text").join(""));
        expect(read.reasoning_content ?? "").toBe(of("thinking", "thinking").join(""));
        const inputs = of("tool_use", "input");
        expect(
          read.tool_calls?.map((call) => call.custom?.input ?? JSON.parse(call.function?.arguments ?? "")) ?? [],
        ).toEqual(
          inputs.map((input, i) => (read.tool_calls?.[i]?.custom ? (input as { input: string }).input : input)),
        );
        expect(read.tool_calls?.map(({ id }) => id) ?? []).toEqual(of("tool_use", "id"));
      }),
      { numRuns: 300 },
    );
  });

  it("S11 ends in an error frame and in nothing else wherever upstream breaks off", async () => {
    await fc.assert(
      fc.asyncProperty(answers(), tellings, lines, fc.nat(), async ({ events }, telling, form, place) => {
        const bytes = bytesOf(events, form);
        // The last line end is the blank line that makes `message_stop` an event.
        const told = await tellBytes(chatStream(NAME, telling), [
          bytes.subarray(0, place % (bytes.length - form.eol.length + 1)),
        ]);
        expectFailed(told, telling, { type: "server_error" });
      }),
      { numRuns: 400 },
    );
  });

  it("S11 ends in upstream's own error wherever that comes, and tells nothing after it", async () => {
    await fc.assert(
      fc.asyncProperty(answers(), tellings, fc.nat(), async ({ events }, telling, place) => {
        const at = place % events.length;
        const error = { type: "error", error: { type: "overloaded_error", message: "Overloaded" } };
        const told = await tellEvents([...events.slice(0, at), error, ...events.slice(at)], telling);
        expectFailed(told, telling, {
          type: "overloaded_error",
          message: "Overloaded",
          code: "overloaded",
          param: null,
        });
      }),
      { numRuns: 400 },
    );
  });

  it("keeps its invariants whatever order events come in", async () => {
    await fc.assert(
      fc.asyncProperty(answers(), answers(), fc.array(fc.nat(), { maxLength: 60 }), async (one, other, picks) => {
        const all = [...one.events, ...other.events];
        const events = picks.map((pick) => all[pick % all.length] ?? { type: "ping" });
        for (const stream of [events, [...one.events.slice(0, 1), ...events]]) {
          const { errors, done, error } = readChatStream(await tellEvents(stream));
          expect(errors.filter((text) => !text.startsWith("S10: arguments"))).toEqual([]);
          expect(done).toBe(error === null);
        }
      }),
      { numRuns: 500 },
    );
  });

  it("is read by OpenAI's own client as the whole answer is", async () => {
    await fc.assert(
      fc.asyncProperty(answers({ freeForm: false }), fc.boolean(), async ({ events, message }, legacyFunctions) => {
        const telling = tellingOf({ legacyFunctions });
        const whole = tellWhole(message, telling);
        const { choices, usage, id, model } = await clientOf(await tellEvents(events, telling)).finalChatCompletion();
        const [choice] = choices;
        expect({ id, model, usage, finish: choice?.finish_reason }).toEqual({
          id: whole.id,
          model: whole.model,
          usage: whole.usage,
          finish: whole.choices[0].finish_reason,
        });
        const [{ message: meant }] = whole.choices;
        expect(choice?.message.content ?? "").toBe(meant.content ?? "");
        expect(choice?.message.tool_calls?.map((call) => "function" in call && call.function.name)).toEqual(
          meant.tool_calls?.map((call: { function: { name: string } }) => call.function.name),
        );
        expect(choice?.message.function_call?.name).toBe(meant.function_call?.name);
      }),
      { numRuns: 200 },
    );
  });

  it("makes OpenAI's own client throw where it failed", async () => {
    const error = { type: "error", error: { type: "overloaded_error", message: "Overloaded" } };
    const told = await tellEvents([START, textStart(0), text(0, "Hel"), error]);
    await expect(clientOf(told).finalChatCompletion()).rejects.toMatchObject({
      message: "Overloaded",
      code: "overloaded",
    });
  });
});

/** The calls as the stream wrote them, where they say the same. */
function sameArguments(calls: ReadChat["message"]["tool_calls"], read: ReadChat) {
  return calls?.map((call, i) => {
    const written = read.message.tool_calls?.[i]?.function?.arguments;
    if (written === undefined || call.function === undefined) return call;
    const same = written === call.function.arguments || sameJson(written, call.function.arguments);
    return same ? { ...call, function: { ...call.function, arguments: written } } : call;
  });
}

function sameJson(a: string, b: string): boolean {
  try {
    return JSON.stringify(JSON.parse(a)) === JSON.stringify(JSON.parse(b));
  } catch {
    return false;
  }
}

function expectFailed(told: string, telling: Telling, error: object) {
  const read = readChatStream(told);
  expect(brokenIn(read, telling)).toEqual([]);
  expect(read).toMatchObject({ finish_reason: null, done: false, error });
  // The frame is the last thing of all.
  expect(told.lastIndexOf('data: {"error"')).toBe(told.lastIndexOf("data: "));
  expect(told.endsWith("}\n\n")).toBe(true);
}

function clientOf(told: string) {
  const answer = () => Promise.resolve(new Response(told, { headers: { "content-type": "text/event-stream" } }));
  const client = new OpenAI({ apiKey: "key", baseURL: "http://gateway.invalid/v1", fetch: answer, maxRetries: 0 });
  return client.chat.completions.stream({ model: "m", messages: [], stream_options: { include_usage: true } });
}

const USAGE = { input_tokens: 1, output_tokens: 1 };
const START: StreamEvent = {
  type: "message_start",
  message: { id: "msg_01A", type: "message", role: "assistant", model: "claude-opus-5-5", content: [], usage: USAGE },
};
const STOP: StreamEvent = { type: "message_stop" };
const ended = (stop_reason: string, usage: object = { output_tokens: 2 }): StreamEvent => ({
  type: "message_delta",
  delta: { stop_reason },
  usage,
});
const blockStart = (index: number, content_block: object): StreamEvent => ({
  type: "content_block_start",
  index,
  content_block,
});
const textStart = (index: number) => blockStart(index, { type: "text", text: "" });
const blockDelta = (index: number, delta: object): StreamEvent => ({ type: "content_block_delta", index, delta });
const text = (index: number, piece: string) => blockDelta(index, { type: "text_delta", text: piece });
const blockStop = (index: number): StreamEvent => ({ type: "content_block_stop", index });
const call = (index: number, id: string, name: string, ...pieces: string[]): StreamEvent[] => [
  blockStart(index, { type: "tool_use", id, name, input: {} }),
  ...pieces.map((piece) => blockDelta(index, { type: "input_json_delta", partial_json: piece })),
  blockStop(index),
];

/** Everything that was said, less what all chunks share. */
function chunks(told: string): unknown[] {
  return told
    .split("\n\n")
    .filter((frame) => frame.startsWith("data: {"))
    .map((frame) => JSON.parse(frame.slice(6)))
    .map(({ choices, usage, error }) => error ?? (choices[0] ? [choices[0].delta, choices[0].finish_reason] : usage));
}

describe("each event's chunk", () => {
  it("is made at once", () => {
    const mapper = chatStream(NAME, tellingOf({ includeUsage: false }));
    const chunk = (delta: object, reason: string | null = null) =>
      `data: ${JSON.stringify({
        id: "chatcmpl-01A",
        object: "chat.completion.chunk",
        created: 1_700_000_000,
        model: "claude-opus-5-5",
        choices: [{ index: 0, delta, logprobs: null, finish_reason: reason }],
      })}\n\n`;
    const [opened, piece, closed] = call(2, "toolu_1", "renamed", '{"a":1}');
    const steps: [StreamEvent | undefined, string][] = [
      [START, chunk({ role: "assistant", content: "" })],
      [{ type: "ping" }, ": keep-alive\n\n"],
      [blockStart(0, { type: "thinking", thinking: "", signature: "" }), ""],
      [blockDelta(0, { type: "thinking_delta", thinking: "Hm" }), chunk({ reasoning_content: "Hm" })],
      [blockDelta(0, { type: "signature_delta", signature: "S" }), ""],
      [blockStop(0), chunk({ reasoning_details: [{ type: "reasoning.text", text: "Hm", signature: "S" }] })],
      [textStart(1), ""],
      [text(1, 'a"\n\ud83d'), chunk({ content: 'a"\n\ud83d' })],
      [text(1, ""), ""],
      [blockStop(1), ""],
      [
        opened,
        chunk({
          tool_calls: [
            { index: 0, id: "toolu_1", type: "function", function: { name: "a name.with/dots", arguments: "" } },
          ],
        }),
      ],
      [piece, chunk({ tool_calls: [{ index: 0, function: { arguments: '{"a":1}' } }] })],
      [closed, ""],
      [ended("tool_use"), ""],
      [STOP, `${chunk({}, "tool_calls")}data: [DONE]\n\n`],
      [text(1, "late"), ""],
      [START, ""],
    ];
    for (const [event, told] of steps) if (event) expect(mapper.push(event)).toBe(told);
    expect(mapper.end()).toBe("");
  });

  it("gives a call without arguments an empty object, and each call its own index", async () => {
    const told = await tellEvents([START, ...call(0, "a", "now"), ...call(1, "b", "now", ""), ended("tool_use"), STOP]);
    expect(readChatStream(told)).toMatchObject({
      errors: [],
      finish_reason: "tool_calls",
      order: ["tool:0", "tool:1"],
      message: {
        tool_calls: [
          { id: "a", function: { arguments: "{}" } },
          { id: "b", function: { arguments: "{}" } },
        ],
      },
    });
  });

  it("takes the input that a block begins with where no piece of it comes", async () => {
    const opened = blockStart(0, { type: "tool_use", id: "a", name: "n", input: { x: 1 } });
    const told = await tellEvents([START, opened, blockStop(0), ended("tool_use"), STOP]);
    expect(readChatStream(told).message.tool_calls).toMatchObject([{ function: { arguments: '{"x":1}' } }]);
  });

  it("tells a free-form call whole, in the form in which its tool was offered", async () => {
    const events = [START, ...call(0, "a", "free", '{"input":"*** ', 'Begin \\"x\\""}'), ended("tool_use"), STOP];
    expect(chunks(await tellEvents(events))).toContainEqual([
      { tool_calls: [{ index: 0, id: "a", type: "custom", custom: { name: "apply_patch", input: '*** Begin "x"' } }] },
      null,
    ]);
    expect(chunks(await tellEvents(events, tellingOf({ shape: "responses" })))).toContainEqual([
      {
        tool_calls: [
          { index: 0, id: "a", type: "function", function: { name: "apply_patch", arguments: '*** Begin "x"' } },
        ],
      },
      null,
    ]);
  });

  it.each(['{"input":"ab', '{"input":"ab\\', '{"input":"ab\\u00', '{"input":"ab"', '{"input": "ab"}'])(
    "tells of a free-form call that was cut what there is: %s",
    async (json) => {
      const told = await tellEvents([START, ...call(0, "a", "free", json), ended("max_tokens"), STOP]);
      expect(readChatStream(told)).toMatchObject({
        finish_reason: "length",
        message: { tool_calls: [{ custom: { input: "ab" } }] },
      });
    },
  );

  it("tells nothing of a free-form call that was cut before its text", async () => {
    for (const json of ["{", '{"inp', '{"input"', '{"input": ']) {
      const told = await tellEvents([START, ...call(0, "a", "free", json), ended("max_tokens"), STOP]);
      expect(readChatStream(told).message.tool_calls).toMatchObject([{ custom: { input: "" } }]);
    }
  });

  it("has room for one call in the old form, and tells more of them in the new one", async () => {
    const legacy = tellingOf({ legacyFunctions: true, includeUsage: false });
    const one = call(0, "a", "f", '{"x"', ":1}");
    expect(chunks(await tellEvents([START, ...one, ended("tool_use"), STOP], legacy)).slice(1)).toEqual([
      [{ function_call: { name: "f", arguments: '{"x":1}' } }, null],
      [{}, "function_call"],
    ]);
    const two = readChatStream(
      await tellEvents([START, ...one, ...call(1, "b", "g"), ended("tool_use"), STOP], legacy),
    );
    expect(two).toMatchObject({ errors: [], finish_reason: "tool_calls" });
    expect(two.message.tool_calls).toMatchObject([{ id: "a" }, { id: "b", function: { arguments: "{}" } }]);
  });

  it("lets the last count of each kind win", async () => {
    const first: StreamEvent = {
      ...START,
      message: { id: "m", model: "c", usage: { input_tokens: 5, cache_read_input_tokens: 7, output_tokens: 1 } },
    };
    const usage = { input_tokens: null, output_tokens: 9, output_tokens_details: { thinking_tokens: 4 } };
    const events = [first, ended("end_turn", { output_tokens: 3, input_tokens: 6 }), ended("end_turn", usage), STOP];
    expect(readChatStream(await tellEvents(events)).usage).toEqual({
      prompt_tokens: 13,
      completion_tokens: 9,
      total_tokens: 22,
      prompt_tokens_details: { cached_tokens: 7, cache_write_tokens: 0 },
      completion_tokens_details: { reasoning_tokens: 4 },
    });
  });

  it("passes over what belongs to no block, and fails where a second message begins", async () => {
    const stray = [
      text(0, "x"),
      START,
      text(0, "y"),
      textStart(0),
      text(3, "z"),
      blockStop(5),
      text(0, "ok"),
      blockStop(0),
    ];
    const told = await tellEvents([STOP, ...stray, text(0, "late"), ended("end_turn"), STOP]);
    expect(readChatStream(told)).toMatchObject({ errors: [], message: { content: "ok" }, finish_reason: "stop" });
    const twice = readChatStream(
      await tellEvents([START, textStart(0), text(0, "a"), START, textStart(0), text(0, "b")]),
    );
    expect(twice).toMatchObject({ errors: [], message: { content: "a" }, error: { type: "server_error" } });
  });

  it("keeps the message whole, what is not told included", () => {
    fc.assert(
      fc.property(answers(), ({ events, message }) => {
        const mapper = chatStream(NAME, tellingOf());
        for (const event of JSON.parse(JSON.stringify(events)) as StreamEvent[]) {
          expect(typeof mapper.push(event)).toBe("string");
          if (event.type !== "message_delta" && event.type !== "message_stop") continue;
          const { usage, ...kept } = mapper.message ?? { usage: null };
          const { usage: _, ...meant } = wholeMessage(message) ?? { usage: null };
          expect(kept).toEqual(JSON.parse(JSON.stringify(meant)));
          expect(usage).toMatchObject({ estimated: false });
        }
      }),
      { numRuns: 200 },
    );
    expect(chatStream(NAME, tellingOf()).message).toBeNull();
  });
});
