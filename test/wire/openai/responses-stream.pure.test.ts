import fc from "fast-check";
import OpenAI from "openai";
import type { Response as OpenAIResponse, ResponseStreamEvent } from "openai/resources/responses/responses";
import { describe, expect, it } from "vitest";
import { EventReader, type StreamEvent } from "../../../src/wire/anthropic/events.ts";
import type { Block, Fields, Telling } from "../../../src/wire/openai/draft.ts";
import { responsesAnswer } from "../../../src/wire/openai/responses-answer.ts";
import { responsesStream } from "../../../src/wire/openai/responses-stream.ts";
import type { WholeMessage } from "../../../src/wire/openai/stream-mapper.ts";
import { wholeMessage } from "../../../src/wire/openai/whole-message.ts";
import { tellingOf } from "../../support/drafts.ts";

/** Each run has a client of its own. */
const PATIENCE_MS = 60_000;
const NAME = { id: "resp_early", created: 1_790_000_000 };
const seal = async (model: string, blocks: readonly Block[]) => `sealed for ${model}:${JSON.stringify(blocks)}`;

function telling(over: Partial<Telling> = {}): Telling {
  return tellingOf({
    shape: "responses",
    tools: new Map([
      ["apply_patch", { name: "ApplyPatch", freeForm: true }],
      ["get_weather_1", { name: "get.weather", freeForm: false }],
    ]),
    ...over,
  });
}

/** A block, in the pieces in which upstream sends it. */
type Script = { readonly block: Block; readonly pieces: readonly string[] };

const pieces = fc.array(fc.string({ unit: "grapheme", maxLength: 8 }), { maxLength: 5 });
const textScript = pieces.map((each): Script => ({ block: { type: "text", text: each.join("") }, pieces: each }));
const thinkingScript = fc.tuple(pieces, fc.constantFrom("", "SIG", "SIG2")).map(
  ([each, signature]): Script => ({
    block: { type: "thinking", thinking: each.join(""), signature },
    pieces: each,
  }),
);
const redactedScript = fc.string({ minLength: 1 }).map(
  (data): Script => ({
    block: { type: "redacted_thinking", data },
    pieces: [],
  }),
);
const serverScript = fc.constant<Script>({
  block: { type: "server_tool_use", id: "srvtoolu_1", name: "web_search", input: {} },
  pieces: [],
});
const toolScript = fc
  .tuple(
    fc.nat(1_000),
    fc.constantFrom("apply_patch", "get_weather_1", "plain"),
    fc.dictionary(fc.string({ maxLength: 5 }), fc.jsonValue({ maxDepth: 1 }), { noNullPrototype: true }),
    fc.string(),
    fc.integer({ min: 1, max: 9 }),
  )
  .map(([n, name, fields, text, size]): Script => {
    // As JSON has it: no `__proto__`, no -0.
    const input: Fields = name === "apply_patch" ? { input: text } : JSON.parse(JSON.stringify(fields));
    const json = JSON.stringify(input);
    const cut: string[] = [];
    if (json !== "{}") for (let at = 0; at < json.length; at += size) cut.push(json.slice(at, at + size));
    return { block: { type: "tool_use", id: `toolu_${n}`, name, input }, pieces: cut };
  });
const scripts = fc.array(fc.oneof(textScript, thinkingScript, redactedScript, serverScript, toolScript), {
  maxLength: 7,
});
const STOPS = ["end_turn", "tool_use", "max_tokens", "stop_sequence", "refusal", "pause_turn", "something_new"];

const USAGE = {
  input_tokens: 10,
  output_tokens: 5,
  cache_read_input_tokens: 3,
  cache_creation_input_tokens: 2,
  output_tokens_details: { thinking_tokens: 1 },
};

type Ending = { readonly stop: string; readonly details: Fields | null };

/** The events that upstream sends of a message, its pings and empty deltas among them. */
function upstreamEvents(script: readonly Script[], { stop, details }: Ending): StreamEvent[] {
  const message = { id: "msg_01CASE", model: "claude-opus-5", content: [], usage: { ...USAGE, output_tokens: 1 } };
  const events: StreamEvent[] = [{ type: "message_start", message }, { type: "ping" }];
  for (const [index, { block, pieces }] of script.entries()) {
    const { type } = block;
    const empty = EMPTY[type] ?? {};
    events.push({ type: "content_block_start", index, content_block: { ...block, ...empty } });
    for (const piece of pieces) {
      const delta =
        type === "text"
          ? { type: "text_delta", text: piece }
          : type === "thinking"
            ? { type: "thinking_delta", thinking: piece }
            : { type: "input_json_delta", partial_json: piece };
      events.push({ type: "content_block_delta", index, delta });
    }
    if (type === "thinking" && block.signature !== "") {
      const delta = { type: "signature_delta", signature: block.signature };
      events.push({ type: "content_block_delta", index, delta });
    }
    events.push({ type: "content_block_stop", index });
  }
  events.push({ type: "message_delta", delta: { stop_reason: stop, stop_details: details }, usage: USAGE });
  events.push({ type: "message_stop" });
  return events;
}

const EMPTY: Readonly<Record<string, Fields>> = {
  text: { text: "" },
  thinking: { thinking: "", signature: "" },
  tool_use: { input: {} },
};

/** The same message as upstream's plain answer has it. */
function plainMessage(script: readonly Script[], { stop, details }: Ending): WholeMessage {
  const content = script.map(({ block }) => block);
  const body = { type: "message", id: "msg_01CASE", model: "claude-opus-5", content, usage: USAGE };
  const message = wholeMessage({ ...body, stop_reason: stop, stop_details: details });
  if (!message) throw new Error("no message");
  return message;
}

/** What is said of a stream of these events that comes in pieces of `size` bytes, and then of its end. */
async function tell(events: readonly StreamEvent[], told: Telling, size = 1_000): Promise<string> {
  const text = events.map((event) => `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`).join("");
  const bytes = new TextEncoder().encode(text);
  const reader = new EventReader();
  const mapper = responsesStream(NAME, told, seal);
  let said = "";
  for (let at = 0; at < bytes.length; at += size) {
    for (const event of reader.read(bytes.subarray(at, at + size))) said += await mapper.push(event);
  }
  return said + (await mapper.end());
}

/** The official client, for whom `sse` is the answer, cut into pieces of `size` bytes. */
function clientOf(sse: string, size: number): OpenAI {
  const bytes = new TextEncoder().encode(sse);
  return new OpenAI({
    apiKey: "sk-test",
    baseURL: "http://gateway.invalid/v1",
    fetch: async () => {
      let at = 0;
      const body = new ReadableStream<Uint8Array>({
        pull(controller) {
          if (at >= bytes.length) return controller.close();
          controller.enqueue(bytes.slice(at, at + size));
          at += size;
        },
      });
      return new Response(body, { headers: { "content-type": "text/event-stream" } });
    },
  });
}

/** The events of a stream; R1 (the event line is the type) and R2 (numbers from 0, without a gap) hold for each. */
function eventsOf(sse: string): ResponseStreamEvent[] {
  const events: ResponseStreamEvent[] = [];
  for (const frame of sse.split("\n\n")) {
    if (frame === "" || frame.startsWith(":")) continue;
    const [first = "", second = "", ...more] = frame.split("\n");
    expect(more).toEqual([]);
    const event = JSON.parse(second.slice("data: ".length));
    expect(first).toBe(`event: ${event.type}`);
    expect(event.sequence_number).toBe(events.length);
    events.push(event);
  }
  return events;
}

const types = (events: readonly ResponseStreamEvent[]): string[] =>
  events.map(({ type }) => type).filter((type, i, all) => type !== all[i - 1]);

/** R3 to R6, and that each item is whole before the next one opens. Gives the response at the end. */
function checkOrder(events: readonly ResponseStreamEvent[]): OpenAIResponse {
  const items: string[] = [];
  const text: string[] = [];
  const args = new Map<string, string>();
  let open = -1;
  let parts = 0;
  for (const event of events) {
    if ("output_index" in event && event.type !== "response.output_item.added") expect(event.output_index).toBe(open);
    if ("item_id" in event && "output_index" in event) expect(event.item_id).toBe(items[event.output_index]);
    switch (event.type) {
      case "response.output_item.added":
        expect(open).toBe(-1);
        open = event.output_index;
        expect(open).toBe(items.length);
        items.push(event.item.id ?? "");
        break;
      case "response.output_item.done":
        expect(event.item.id).toBe(items[open]);
        expect(parts).toBe(0);
        if (event.item.type === "function_call") expect(args.get(event.item.id ?? "")).toBe(event.item.arguments);
        open = -1;
        break;
      case "response.content_part.added":
      case "response.reasoning_summary_part.added":
        expect(++parts).toBe(1);
        break;
      case "response.content_part.done":
      case "response.reasoning_summary_part.done":
        expect(--parts).toBe(0);
        break;
      case "response.output_text.delta":
        expect(event.delta).not.toBe("");
        text.push(event.delta);
        break;
      case "response.function_call_arguments.delta":
        expect(event.delta).not.toBe("");
        args.set(event.item_id, (args.get(event.item_id) ?? "") + event.delta);
        break;
    }
  }
  const first = events[0];
  const last = events.at(-1);
  if (first?.type !== "response.created" || !last || !("response" in last)) throw new Error("no whole stream");
  expect(last.response.id).toBe(first.response.id);
  expect(new Set(items).size).toBe(items.length);
  expect(last.response.output.map(({ id }) => id)).toEqual(items);
  if (last.type !== "response.failed") {
    expect(open).toBe(-1);
    expect(outputText(last.response)).toBe(text.join(""));
  }
  return last.response;
}

function outputText({ output }: OpenAIResponse): string {
  const parts = output.flatMap((item) => (item.type === "message" ? item.content : []));
  return parts.map((part) => (part.type === "output_text" ? part.text : "")).join("");
}

const text = (...pieces: string[]): Script => ({ block: { type: "text", text: pieces.join("") }, pieces });

describe("a stream of the Responses API", () => {
  it(
    "keeps its invariants, ends as the plain answer does, and the official client reads it, however it is cut",
    async () => {
      const chance = fc.record({
        script: scripts,
        stop: fc.constantFrom(...STOPS),
        details: fc.constantFrom(null, { explanation: "I can't help with that." }, { explanation: null }),
        encryptedReasoning: fc.boolean(),
        size: fc.integer({ min: 1, max: 400 }),
      });
      await fc.assert(
        fc.asyncProperty(chance, async ({ script, stop, details, encryptedReasoning, size }) => {
          const told = telling({ encryptedReasoning });
          const sse = await tell(upstreamEvents(script, { stop, details }), told, size);
          const response = checkOrder(eventsOf(sse));
          const message = plainMessage(script, { stop, details });
          expect(response).toEqual(JSON.parse(await responsesAnswer(message, NAME, told, seal)));

          const stream = clientOf(sse, size).responses.stream({ model: "claude-opus-5", input: "x" });
          const final = await stream.finalResponse();
          expect(final.output_text).toBe(outputText(response));
          expect(final.status).toBe(response.status);
          expect(final.output).toMatchObject(response.output);
        }),
        { numRuns: 150 },
      );
    },
    PATIENCE_MS,
  );

  it(
    "ends with response.failed when it breaks off or fails, wherever that is",
    async () => {
      const failure = { type: "error", error: { type: "overloaded_error", message: "Overloaded" } };
      await fc.assert(
        fc.asyncProperty(scripts, fc.nat(60), fc.boolean(), fc.boolean(), async (script, cut, cutOff, encrypted) => {
          const whole = upstreamEvents(script, { stop: "end_turn", details: null });
          const some = whole.slice(0, Math.min(cut, whole.length - 1));
          const sse = await tell(cutOff ? some : [...some, failure], telling({ encryptedReasoning: encrypted }));
          const events = eventsOf(sse);
          const response = checkOrder(events);
          expect(types(events).slice(0, 2)).toEqual(["response.created", "response.in_progress"]);
          expect(events.at(-1)?.type).toBe("response.failed");
          expect(response).toMatchObject({ status: "failed", error: { code: "server_error" } });
          if (!cutOff) expect(response.error?.message).toBe("Overloaded");
          const final = await clientOf(sse, 50).responses.stream({ model: "m", input: "x" }).finalResponse();
          expect(final.status).toBe("failed");
        }),
        { numRuns: 100 },
      );
    },
    PATIENCE_MS,
  );

  it("tells each delta at once", async () => {
    const mapper = responsesStream(NAME, telling(), seal);
    const [start, ...deltas] = upstreamEvents([text("a", "b", "c")], { stop: "end_turn", details: null });
    const said: unknown[] = [];
    for (const event of [start, ...deltas]) {
      const told = event ? await mapper.push(event) : "";
      if (event?.type === "content_block_delta") said.push(eventDelta(told));
    }
    expect(said).toEqual(["a", "b", "c"]);
  });
});

/** The delta in the last event of a text. */
function eventDelta(told: string): unknown {
  return JSON.parse(told.split("\n\n").at(-2)?.split("data: ")[1] ?? "").delta;
}

describe("the order of events", () => {
  const run = async (script: readonly Script[], stop = "end_turn", over: Partial<Telling> = {}) =>
    eventsOf(await tell(upstreamEvents(script, { stop, details: { explanation: "No." } }), telling(over)));
  const tool = (name: string, input: Fields): Script => ({
    block: { type: "tool_use", id: "toolu_1", name, input },
    pieces: Object.keys(input).length > 0 ? [JSON.stringify(input)] : [],
  });
  const start = ["response.created", "response.in_progress"];
  const message = [
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
  ];
  const call = [
    "response.output_item.added",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.output_item.done",
  ];

  it("has one message for adjacent text", async () => {
    const events = await run([text("a"), text("b")]);
    expect(types(events)).toEqual([...start, ...message, "response.completed"]);
    expect(checkOrder(events).output).toMatchObject([{ content: [{ text: "ab" }] }]);
  });

  it("closes a message before the call that follows it, and names the function in its last arguments", async () => {
    const events = await run([text("a"), tool("get_weather_1", { city: "Oslo" }), tool("plain", {})], "tool_use");
    expect(types(events)).toEqual([...start, ...message, ...call, ...call, "response.completed"]);
    const done = events.filter(({ type }) => type === "response.function_call_arguments.done");
    expect(done).toMatchObject([
      { name: "get.weather", arguments: '{"city":"Oslo"}' },
      { name: "plain", arguments: "{}" },
    ]);
    expect(checkOrder(events).output).toMatchObject([
      { type: "message" },
      { type: "function_call", call_id: "toolu_1", status: "completed" },
      { type: "function_call", call_id: "toolu_1", status: "completed" },
    ]);
  });

  it("tells a free-form call by its text", async () => {
    const events = await run([tool("apply_patch", { input: "*** Begin\n" })], "tool_use");
    expect(types(events)).toEqual([
      ...start,
      "response.output_item.added",
      "response.custom_tool_call_input.delta",
      "response.custom_tool_call_input.done",
      "response.output_item.done",
      "response.completed",
    ]);
    expect(checkOrder(events).output).toMatchObject([
      { type: "custom_tool_call", name: "ApplyPatch", input: "*** Begin\n", call_id: "toolu_1" },
    ]);
  });

  it("tells thinking as a summary, and keeps it sealed where that was asked for", async () => {
    const block = { type: "thinking", thinking: "T1", signature: "SIG1" };
    const redacted = { block: { type: "redacted_thinking", data: "RED1" }, pieces: [] };
    const script = [{ block, pieces: ["T", "1"] }, redacted, text("a")];
    const reasoning = [
      "response.output_item.added",
      "response.reasoning_summary_part.added",
      "response.reasoning_summary_text.delta",
      "response.reasoning_summary_text.done",
      "response.reasoning_summary_part.done",
      "response.output_item.done",
    ];
    const plain = await run(script);
    expect(types(plain)).toEqual([...start, ...reasoning, ...message, "response.completed"]);
    expect(checkOrder(plain).output[0]).not.toHaveProperty("encrypted_content");
    const sealed = await run(script, "end_turn", { encryptedReasoning: true });
    expect(checkOrder(sealed).output).toMatchObject([
      {
        summary: [{ type: "summary_text", text: "T1" }],
        encrypted_content: `sealed for claude-opus-5:${JSON.stringify([block])}`,
      },
      {
        type: "reasoning",
        summary: [],
        encrypted_content: `sealed for claude-opus-5:${JSON.stringify([redacted.block])}`,
      },
      { type: "message" },
    ]);
  });

  it.each([
    ["max_tokens", "max_output_tokens"],
    ["model_context_window_exceeded", "max_output_tokens"],
    ["refusal", "content_filter"],
  ])("is incomplete after %s, with its last item", async (stop, reason) => {
    const events = await run([text("a"), tool("plain", { a: 1 }), text("b")], stop);
    expect(events.at(-1)?.type).toBe("response.incomplete");
    const { status, incomplete_details, output } = checkOrder(events);
    expect({ status, incomplete_details }).toEqual({ status: "incomplete", incomplete_details: { reason } });
    expect(output.map((item) => "status" in item && item.status)).toEqual(["completed", "completed", "incomplete"]);
  });

  it("says a refusal, within the message that is open or in one of its own", async () => {
    const refusal = { type: "refusal", refusal: "No." };
    const own = await run([], "refusal");
    expect(types(own)).toEqual([
      ...start,
      "response.output_item.added",
      "response.content_part.added",
      "response.refusal.delta",
      "response.refusal.done",
      "response.content_part.done",
      "response.output_item.done",
      "response.incomplete",
    ]);
    expect(checkOrder(own).output).toMatchObject([{ type: "message", content: [refusal] }]);
    const after = checkOrder(await run([text("I")], "refusal"));
    expect(after.output).toMatchObject([{ content: [{ type: "output_text", text: "I" }, refusal] }]);
  });
});
