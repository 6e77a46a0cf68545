import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { AnswerBuilder } from "../../../src/conversations/context/builder.ts";
import { EventReader, type StreamEvent } from "../../../src/wire/anthropic/events.ts";
import { heldOf } from "../../support/heap.ts";
import { answers } from "../../support/messages-streams.ts";

type Fields = Readonly<Record<string, unknown>>;

const FIXTURES = join(import.meta.dirname, "../../fixtures/anthropic");
const names = readdirSync(FIXTURES).filter((name) => name.endsWith(".sse"));
const whole = names.filter((name) => !/^(?:error|truncated)-/.test(name));

const eventsOf = (name: string) => new EventReader().read(new Uint8Array(readFileSync(join(FIXTURES, name))));
const finalOf = (name: string) =>
  JSON.parse(readFileSync(join(FIXTURES, name.replace(/(?:\.\w+)?\.sse$/, ".final.json")), "utf8")) as Fields;
const isBlank = ({ type, text }: Fields) => type === "text" && String(text).trim() === "";

function built(events: readonly StreamEvent[]): AnswerBuilder {
  const builder = new AnswerBuilder();
  for (const event of events) builder.push(event);
  return builder;
}

const start = (usage: unknown = { input_tokens: 3, output_tokens: 1 }): StreamEvent => ({
  type: "message_start",
  message: { model: "claude-opus-5-5", usage },
});
const block = (index: number, content_block: Fields, ...deltas: Fields[]): StreamEvent[] => [
  { type: "content_block_start", index, content_block },
  ...deltas.map((delta) => ({ type: "content_block_delta", index, delta })),
];
const end = (index: number): StreamEvent => ({ type: "content_block_stop", index });
const stop = (stop_reason: string, usage: unknown = { output_tokens: 9 }): StreamEvent[] => [
  { type: "message_delta", delta: { stop_reason }, usage },
  { type: "message_stop" },
];
const call = { type: "tool_use", id: "toolu_1", name: "look", input: {} };
const search = { type: "server_tool_use", id: "srvtoolu_1", name: "web_search", input: {} };
const found = { type: "web_search_tool_result", tool_use_id: "srvtoolu_1", content: [] };
const json = (partial_json: string) => ({ type: "input_json_delta", partial_json });
const text = (said: string) => ({ type: "text_delta", text: said });

describe("AnswerBuilder", () => {
  it.each(whole)("builds of %s what upstream would have answered without a stream", (name) => {
    const builder = built(eventsOf(name));
    const final = finalOf(name);
    expect(builder.content()).toEqual((final.content as Fields[]).filter((one) => !isBlank(one)));
    expect(builder).toMatchObject({ finished: true, model: final.model, stopReason: final.stop_reason });
    const { input_tokens, output_tokens, cache_read_input_tokens, cache_creation_input_tokens } = final.usage as Fields;
    expect(builder.usage).toMatchObject({ output_tokens, cache_read_input_tokens, cache_creation_input_tokens });
    expect(builder.usage).toMatchObject({ input_tokens });
    expect(builder.outputTokens).toBe(output_tokens);
    expect(builder.promptTokens).toBe(
      Number(input_tokens) + Number(cache_read_input_tokens) + Number(cache_creation_input_tokens),
    );
  });

  it.each(names.filter((name) => !whole.includes(name)))(
    "does not take %s for finished, nor its calls for answerable",
    (name) => {
      const builder = built(eventsOf(name));
      expect(builder.finished).toBe(false);
      expect(builder.content().some(({ type }) => type === "tool_use")).toBe(false);
    },
  );

  it("builds any answer, and of any part of it only what can stand", () => {
    fc.assert(
      fc.property(answers(), fc.nat(), ({ events, message }, cut) => {
        const wanted = JSON.parse(JSON.stringify(message.content)) as Fields[];
        const complete = built(events);
        expect(complete.finished).toBe(true);
        const stood = JSON.parse(JSON.stringify(complete.content())) as Fields[];
        for (const one of stood) expect(wanted).toContainEqual(one);
        for (const one of wanted) {
          const serverUse = one.type === "server_tool_use" || one.type === "mcp_tool_use";
          if (!isBlank(one) && !serverUse && !isCutCall(one, message.stop_reason)) expect(stood).toContainEqual(one);
        }

        const part = built(events.slice(0, cut % events.length));
        for (const one of part.content()) {
          expect(one.type).not.toBe("tool_use");
          expect(isBlank(one)).toBe(false);
          if (one.type === "thinking") expect(one.signature).toBeTruthy();
          if (one.type === "text") {
            expect(
              wanted.some(({ type, text: said }) => type === "text" && String(said).startsWith(String(one.text))),
            ).toBe(true);
          }
        }
      }),
      { numRuns: 250 },
    );
  });

  it("never throws, whatever comes in whatever order", () => {
    const odd = fc.oneof(fc.jsonValue({ maxDepth: 2 }), fc.constantFrom(0, 1, "text", call, search, found));
    const event = fc.record(
      {
        type: fc.constantFrom(
          "message_start",
          "content_block_start",
          "content_block_delta",
          "content_block_stop",
          "message_delta",
          "message_stop",
          "error",
          "ping",
          "new",
        ),
        index: fc.oneof(fc.nat(1), odd),
        message: odd,
        content_block: fc.oneof(
          odd,
          fc.record({
            type: fc.constantFrom("text", "thinking", "tool_use", "x"),
            text: odd,
            thinking: odd,
            input: odd,
          }),
        ),
        delta: fc.oneof(
          odd,
          fc.record({
            type: fc.constantFrom(
              "text_delta",
              "thinking_delta",
              "input_json_delta",
              "signature_delta",
              "citations_delta",
              "x",
            ),
            text: odd,
            partial_json: odd,
            signature: odd,
          }),
        ),
        usage: odd,
      },
      { requiredKeys: ["type"] },
    );
    fc.assert(
      fc.property(fc.array(event, { maxLength: 30 }), (events) => {
        const builder = new AnswerBuilder();
        builder.push({ type: "message_start", message: {} });
        for (const one of events) {
          builder.push(one);
          expect(Array.isArray(builder.content())).toBe(true);
          expect(builder.usage.cache_read_share).toBeLessThanOrEqual(1);
        }
        builder.goOn();
        expect(builder.finished).toBe(false);
      }),
      { numRuns: 250 },
    );
  });

  it("keeps torn text, but no torn call, no half of a character and no thinking without its signature", () => {
    const thinking = block(
      0,
      { type: "thinking", thinking: "", signature: "" },
      { type: "thinking_delta", thinking: "Hm" },
    );
    expect(built([start(), ...thinking]).content()).toEqual([]);
    const signed = [
      ...thinking,
      { type: "content_block_delta", index: 0, delta: { type: "signature_delta", signature: "c2ln" } },
      end(0),
    ];
    const torn = [start(), ...signed, ...block(1, { type: "text", text: "" }, text("Hi \ud83d"))];
    const kept = [
      { type: "thinking", thinking: "Hm", signature: "c2ln" },
      { type: "text", text: "Hi " },
    ];
    expect(built(torn).content()).toEqual(kept);
    expect(built([...torn, end(1), ...block(2, call, json('{"a":'))]).content()).toEqual([
      kept[0],
      { type: "text", text: "Hi \ud83d" },
    ]);
  });

  it("takes calls of a finished answer only, and none whose input was cut", () => {
    const first = [start(), ...block(0, call, json("")), end(0)];
    expect(built(first).content()).toEqual([]);
    expect(built([...first, ...stop("tool_use")]).content()).toEqual([call]);
    expect(built([...first, ...stop("max_tokens")]).content()).toEqual([]);
    const cut = [start(), ...block(0, call, json('{"a":"b')), end(0), ...stop("max_tokens")];
    expect(built(cut).content()).toEqual([]);
  });

  it("goes on with an answer that paused: its server's tool finds its result, counters are added over the calls", () => {
    const usage = { input_tokens: 10, cache_read_input_tokens: 30, output_tokens: 1 };
    const paused = [
      start(usage),
      ...block(0, search, json('{"q":1}')),
      end(0),
      ...stop("pause_turn", { output_tokens: 5 }),
    ];
    const use = { ...search, input: { q: 1 } };
    const builder = built(paused);
    expect(builder.content()).toEqual([use]);
    builder.goOn();
    expect(builder.content()).toEqual([use]);
    expect(builder.promptTokens).toBe(40);
    builder.push(start({ input_tokens: 50, cache_read_input_tokens: 30, output_tokens: 1 }));
    // Cancelled now, nobody would ever answer the tool.
    expect(builder.content()).toEqual([]);
    for (const event of [...block(0, found), end(0), ...block(1, { type: "text", text: "" }, text("So.")), end(1)])
      builder.push(event);
    for (const event of stop("end_turn", { output_tokens: 7 })) builder.push(event);
    expect(builder.content()).toEqual([use, found, { type: "text", text: "So." }]);
    expect(builder.usage).toEqual({
      input_tokens: 60,
      output_tokens: 12,
      cache_read_input_tokens: 60,
      cache_creation_input_tokens: 0,
      cache_read_share: 0.5,
    });
    expect([builder.promptTokens, builder.outputTokens]).toEqual([80, 7]);
    // Read back from a log nobody says where a call went on.
    const replayed = built([...paused, start(usage), ...block(0, found), end(0), ...stop("end_turn")]);
    expect(replayed.content()).toEqual([use, found]);
    expect(replayed.usage).toMatchObject({ input_tokens: 20, output_tokens: 14 });
  });

  it("hears nothing behind an error", () => {
    const error = { type: "error", error: { type: "overloaded_error", message: "Overloaded" } };
    const builder = built([start(), ...block(0, { type: "text", text: "" }, text("Well")), error, ...stop("end_turn")]);
    expect(builder.finished).toBe(false);
    expect(builder.stopReason).toBeNull();
    expect(builder.content()).toEqual([{ type: "text", text: "Well" }]);
  });

  it("holds what was said, and nothing of the stream that said it", () => {
    const builder = built([start(), ...block(0, { type: "text", text: "" })]);
    const { text: all, held } = heldOf((event) => builder.push(event));
    expect(held).toBeLessThan(1.5 * all.length);
    expect(builder.content()).toEqual([{ type: "text", text: all }]);
  });
});

function isCutCall({ type, input }: Fields, stopReason: unknown): boolean {
  const isEmpty = Object.keys((input ?? {}) as Fields).length === 0;
  return type === "tool_use" && isEmpty && ["max_tokens", "model_context_window_exceeded"].includes(String(stopReason));
}
