/** What the simulator's tests share: a reader of streams written from the protocol alone, and requests of all kinds. */
import fc from "fast-check";
import { PromptCache } from "../../simulator/cache.ts";
import { isApiError } from "../../simulator/errors.ts";
import { type Faults, NO_FAULTS } from "../../simulator/faults.ts";
import { eventsOf, type MessageParts } from "../../simulator/message.ts";
import { compose } from "../../simulator/messages.ts";
import { findModel, type Model } from "../../simulator/models.ts";
import { byteSteps, eventSteps } from "../../simulator/stream.ts";
import type { Version } from "../../simulator/validate.ts";

export type Json = Record<string, unknown>;

export const MODEL = "claude-opus-5-5";

export function modelNamed(id: string): Model {
  const model = findModel(id);
  if (!model) throw new Error(`no model ${id}`);
  return model;
}

export type Options = { version?: Version; cache?: PromptCache; now?: number; faults?: Faults; scope?: string };

/** The answer to a body, or the message of the error it gets. */
export function ask(body: Json, options: Options = {}): MessageParts | string {
  const { version = "2026-10-21", cache = new PromptCache(), now = 0, faults = NO_FAULTS, scope = "key" } = options;
  const whole: Json = { model: MODEL, max_tokens: 1000, ...body };
  const id = String(whole.model);
  const parts = compose({ body: whole, id, model: modelNamed(id), faults }, version, cache, scope, now);
  return isApiError(parts) ? `${parts.status} ${parts.type} ${parts.message}` : parts;
}

/** The same where an answer is expected. */
export function answered(body: Json, options: Options = {}): MessageParts {
  const parts = ask(body, options);
  if (typeof parts === "string") throw new Error(parts);
  return parts;
}

/** The bytes of the stream, in the pieces they are written in, as far as it needs no clock. */
export function writes(parts: MessageParts, faults: Faults = NO_FAULTS): Uint8Array[] {
  const steps = byteSteps(eventSteps(eventsOf(parts, faults), faults, "req_test"), faults);
  return [...steps].flatMap((step) => (step.do === "write" ? [step.bytes] : []));
}

export function textOf(pieces: readonly Uint8Array[]): string {
  return Buffer.concat(pieces).toString("utf8");
}

export type SseEvent = { name: string; data: Json };

/** The events of a body; every one must have a name, one line of JSON and its blank line. */
export function parseSse(text: string): SseEvent[] {
  const frames = text.split("\n\n");
  if (frames.pop() !== "") throw new Error("the last event has no blank line");
  return frames.map((frame) => {
    const [, name, data] = /^event: ([a-z_]+)\ndata: ([^\n]*)$/.exec(frame) ?? [];
    if (name === undefined || data === undefined) throw new Error(`not an event: ${frame}`);
    return { name, data: JSON.parse(data) as Json };
  });
}

/** Checks events against the grammar of the protocol and puts the Message together, as a client would. */
export function accumulate(events: readonly SseEvent[]): Json {
  const [first, ...rest] = events;
  if (first?.name !== "message_start") throw new Error("a stream begins with message_start");
  const message = first.data.message as Json & { content: Json[]; usage: Json };
  let open: (Json & { json?: string }) | undefined;
  let state: "blocks" | "delta" | "stopped" = "blocks";
  const expect = (condition: boolean, what: string): void => {
    if (!condition) throw new Error(what);
  };
  for (const { name, data } of rest) {
    expect(data.type === name, `${name} carries the type ${String(data.type)}`);
    expect(state !== "stopped", `${name} after message_stop`);
    if (name === "ping") continue;
    if (name === "content_block_start") {
      expect(state === "blocks" && !open, "one block at a time, before the message's delta");
      expect(data.index === message.content.length, "indexes are contiguous from 0");
      open = { ...(data.content_block as Json) };
      message.content.push(open);
    } else if (name === "content_block_delta") {
      expect(open !== undefined && data.index === message.content.length - 1, "a delta belongs to the open block");
      addDelta(open as Json, data.delta as Json);
    } else if (name === "content_block_stop") {
      expect(open !== undefined && data.index === message.content.length - 1, "a stop belongs to the open block");
      open = undefined;
    } else if (name === "message_delta") {
      expect(!open, "the message's delta comes after the blocks");
      state = "delta";
      Object.assign(message, data.delta);
      Object.assign(message.usage, data.usage);
      if (data.context_management) message.context_management = data.context_management;
    } else if (name === "message_stop") {
      expect(state === "delta", "message_stop comes after message_delta");
      state = "stopped";
    } else {
      throw new Error(`unknown event ${name}`);
    }
  }
  expect(state === "stopped", "a stream ends with message_stop");
  return message;
}

function addDelta(block: Json, delta: Json): void {
  const allowed: Record<string, string> = {
    text_delta: "text",
    thinking_delta: "thinking",
    signature_delta: "thinking",
    input_json_delta: "tool_use",
  };
  if (allowed[String(delta.type)] !== block.type) throw new Error(`${delta.type} in a block of ${block.type}`);
  if (delta.type === "text_delta") block.text = `${block.text}${delta.text}`;
  if (delta.type === "thinking_delta") block.thinking = `${block.thinking}${delta.thinking}`;
  if (delta.type === "signature_delta") block.signature = delta.signature;
  if (delta.type === "input_json_delta") block.json = `${block.json ?? ""}${delta.partial_json}`;
}

const anyText = fc.oneof(
  fc.string({ unit: "grapheme", maxLength: 60 }),
  fc.string({ unit: "binary", maxLength: 20 }),
  fc.lorem({ maxCount: 30 }),
);
const solidText = anyText.map((text) => `${text}.`);

export const TOOLS = [
  {
    name: "get_weather",
    input_schema: {
      type: "object",
      properties: { place: { type: "string" }, days: { type: "integer", minimum: 2 } },
      required: ["place", "days"],
    },
  },
  {
    name: "save",
    input_schema: {
      type: "object",
      properties: { tags: { type: "array", items: { type: "string" }, minItems: 3 }, deep: { type: "boolean" } },
    },
  },
  { name: "ping_host", input_schema: { type: "object", properties: {} } },
];

const prompt = fc.oneof(
  solidText,
  solidText.map((text) => `say: ${text}`),
  fc.nat(50).map((count) => `repeat ${count} wörd`),
  fc
    .subarray(["get_weather", "save", "ping_host"], { minLength: 1 })
    .map((names) => `use tools ${names.join(" and ")}`),
  fc.constant("refuse"),
);

/** Bodies that the API accepts, of every kind the simulator answers differently. */
export const requests: fc.Arbitrary<Json> = fc
  .record(
    {
      messages: fc.tuple(fc.array(fc.tuple(solidText, solidText), { maxLength: 3 }), prompt).map(([turns, last]) => [
        ...turns.flatMap(([user, assistant]) => [
          { role: "user", content: user },
          { role: "assistant", content: [{ type: "text", text: assistant }] },
        ]),
        { role: "user", content: last },
      ]),
      max_tokens: fc.oneof(fc.nat(60), fc.constant(5000)),
      system: fc.oneof(
        solidText,
        solidText.map((text) => [{ type: "text", text, cache_control: { type: "ephemeral" } }]),
      ),
      tools: fc.constant(TOOLS),
      thinking: fc.constantFrom(
        { type: "adaptive" },
        { type: "adaptive", display: "omitted" },
        { type: "between_tools" },
        { type: "disabled" },
      ),
      stop_sequences: fc.array(fc.constantFrom(".", "e", "wörd wörd", "simulated", "👋"), { maxLength: 2 }),
      cache_control: fc.constantFrom({ type: "ephemeral" }, { type: "ephemeral", ttl: "1h" }),
      context_management: fc.constant({ edits: [] }),
      speed: fc.constantFrom("standard", "fast"),
    },
    { requiredKeys: ["messages", "max_tokens"] },
  )
  // A lifetime of an hour may not follow one of five minutes.
  .filter((body) => !(Array.isArray(body.system) && body.cache_control?.ttl === "1h"));
