/** A message as events, the events as bytes, and the bytes on their way with whatever is to go wrong. */
import { errorBody } from "./errors.ts";
import type { Faults } from "./faults.ts";
import type { Fields } from "./json.ts";
import type { Reply } from "./reply.ts";

type Event = { readonly name: string; readonly data: string };

export type MessageParts = {
  readonly id: string;
  readonly model: string;
  readonly reply: Reply;
  readonly usage: Fields;
};

const REFUSAL_DETAILS = {
  type: "refusal",
  category: "general_harms",
  explanation: "The simulator was asked to refuse.",
};

/** The whole Message, as an answer that is not streamed. */
export function messageOf({ id, model, reply, usage }: MessageParts): Fields {
  return {
    model,
    id,
    type: "message",
    role: "assistant",
    content: reply.blocks.map((block) => {
      const text = block.pieces.join("");
      if (block.type === "text") return { type: "text", text };
      if (block.type === "thinking") {
        return { type: "thinking", thinking: block.shown ? text : "", signature: block.signature };
      }
      return { type: "tool_use", id: block.id, name: block.name, caller: { type: "direct" }, input: parsed(text) };
    }),
    stop_reason: reply.stopReason,
    stop_sequence: reply.stopSequence,
    stop_details: reply.refused ? REFUSAL_DETAILS : null,
    usage,
  };
}

function parsed(json: string): unknown {
  try {
    return JSON.parse(json);
  } catch {
    // Cut by max_tokens.
    return {};
  }
}

/** The events of a message, in the grammar of wire notes §4. */
export function* eventsOf(parts: MessageParts, faults: Faults): Generator<Event, void, void> {
  const { id, model, reply, usage } = parts;
  const event = (name: string, rest: Fields): Event => ({ name, data: JSON.stringify({ type: name, ...rest }) });
  const { output_tokens_details: details, ...startUsage } = usage;
  yield event("message_start", {
    message: {
      model,
      id,
      type: "message",
      role: "assistant",
      content: [],
      stop_reason: null,
      stop_sequence: null,
      stop_details: null,
      usage: { ...startUsage, output_tokens: Math.min(1, reply.outputTokens) },
    },
  });
  const delta = (index: number, fields: Fields): Event => event("content_block_delta", { index, delta: fields });
  for (const [index, block] of reply.blocks.entries()) {
    yield event("content_block_start", {
      index,
      content_block:
        block.type === "text"
          ? { type: "text", text: "" }
          : block.type === "thinking"
            ? { type: "thinking", thinking: "", signature: "" }
            : { type: "tool_use", id: block.id, name: block.name, caller: { type: "direct" }, input: {} },
    });
    if (index === 0) yield event("ping", {});
    if (index === 0 && faults.unknown_event)
      yield event("sim_unknown", { note: "clients ignore what they do not know" });
    if (index === 0 && faults.big_event) yield event("ping", { padding: "x".repeat(faults.big_event) });
    if (block.type === "tool_use") yield delta(index, { type: "input_json_delta", partial_json: "" });
    for (const piece of block.pieces) {
      if (block.type === "text") yield delta(index, { type: "text_delta", text: piece });
      else if (block.type === "tool_use") yield delta(index, { type: "input_json_delta", partial_json: piece });
      else if (block.shown) yield delta(index, { type: "thinking_delta", thinking: piece });
    }
    if (block.type === "text" && faults.endless) {
      for (let i = 0; ; i++) yield delta(index, { type: "text_delta", text: ` word${i}` });
    }
    if (block.type === "thinking") yield delta(index, { type: "signature_delta", signature: block.signature });
    yield event("content_block_stop", { index });
  }
  yield event("message_delta", {
    delta: {
      stop_reason: reply.stopReason,
      stop_sequence: reply.stopSequence,
      stop_details: reply.refused ? REFUSAL_DETAILS : null,
    },
    usage: {
      input_tokens: usage.input_tokens,
      cache_creation_input_tokens: usage.cache_creation_input_tokens,
      cache_read_input_tokens: usage.cache_read_input_tokens,
      output_tokens: reply.outputTokens,
      ...(details ? { output_tokens_details: details } : {}),
    },
  });
  yield event("message_stop", {});
}

/** What happens next on the connection. */
type Step =
  | { readonly do: "write"; readonly bytes: Uint8Array }
  | { readonly do: "wait"; readonly ms: number }
  | { readonly do: "break" | "hang" };

/** The bytes of the events, with the faults that concern events, each write one event. */
function* eventSteps(events: Iterable<Event>, faults: Faults, requestId: string): Generator<Step, void, void> {
  const encoder = new TextEncoder();
  const lineEnd = faults.crlf ? "\r\n" : faults.cr ? "\r" : "\n";
  const text = (event: Event): string => {
    const data = faults.padded ? event.data.replace(/\}$/, `${" ".repeat(event.data.length % 17)}}`) : event.data;
    const comment = faults.comments ? `: keep-alive${lineEnd}` : "";
    return `${comment}event: ${event.name}${lineEnd}data: ${data}${lineEnd}${lineEnd}`;
  };
  const write = (value: string): Step => ({ do: "write", bytes: encoder.encode(value) });
  const failure = (type: string): Step =>
    write(text({ name: "error", data: errorBody(type, "Overloaded (simulated)", requestId) }));
  if (faults.bom) yield write("\uFEFF");
  if (faults.error_first) return yield failure(faults.error_first);
  let count = 0;
  for (const event of events) {
    if (count > 0 && faults.pace) yield { do: "wait", ms: faults.pace };
    if (faults.error_after === count) return yield failure(faults.error_type ?? "overloaded_error");
    if (faults.silence_after === count) return yield { do: "hang" };
    if (faults.cut_after === count) return yield { do: "break" };
    if (faults.end_after === count) return;
    yield write(text(faults.malformed === count ? { ...event, data: event.data.slice(0, -2) } : event));
    count++;
  }
}

/** Lays the faults that concern bytes over the writes: size of pieces, cut or end after a number of bytes. */
function* byteSteps(steps: Iterable<Step>, faults: Faults): Generator<Step, void, void> {
  const limit = faults.cut ?? faults.end ?? Number.POSITIVE_INFINITY;
  const size = faults.drip ?? faults.chunk ?? Number.POSITIVE_INFINITY;
  let sent = 0;
  for (const step of steps) {
    if (step.do !== "write") {
      yield step;
      continue;
    }
    const bytes = step.bytes.subarray(0, Math.max(0, limit - sent));
    for (let at = 0; at < bytes.length; at += size) {
      yield { do: "write", bytes: bytes.subarray(at, Math.min(bytes.length, at + size)) };
      if (faults.drip) yield { do: "wait", ms: faults.drip_ms ?? 10 };
      // Pieces arrive as pieces only if there is a breath between them.
      else if (faults.chunk) yield { do: "wait", ms: 0 };
    }
    sent += bytes.length;
    if (sent >= limit) {
      if (faults.cut !== undefined) yield { do: "break" };
      return;
    }
  }
}

/** How a body ended, for the record of requests. */
export type BodyEnd = "complete" | "cut" | "client_gone";

/** The body of an event stream. */
export function streamBody(
  parts: MessageParts,
  faults: Faults,
  requestId: string,
  ended: (end: BodyEnd) => void,
): ReadableStream<Uint8Array> | Uint8Array {
  return play(byteSteps(eventSteps(eventsOf(parts, faults), faults, requestId), faults), faults, ended);
}

/** The body of an answer that is not streamed. */
export function jsonBody(
  text: string,
  faults: Faults,
  ended: (end: BodyEnd) => void,
): ReadableStream<Uint8Array> | Uint8Array {
  const whole = faults.malformed === undefined ? text : text.slice(0, -2);
  const steps: Step[] = [{ do: "write", bytes: new TextEncoder().encode(whole) }];
  return play(byteSteps(steps, faults), faults, ended);
}

const TIMED: readonly (keyof Faults)[] = ["pace", "drip", "chunk", "cut", "cut_after", "silence_after", "endless"];

/** Plays the steps. What needs no time and breaks nothing is one buffer, which keeps load tests cheap. */
function play(
  steps: Generator<Step, void, void>,
  faults: Faults,
  ended: (end: BodyEnd) => void,
): ReadableStream<Uint8Array> | Uint8Array {
  if (!TIMED.some((name) => faults[name] !== undefined)) {
    const pieces = [...steps].flatMap((step) => (step.do === "write" ? [step.bytes] : []));
    ended("complete");
    return concat(pieces);
  }
  let gone = false;
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        for (;;) {
          const { value: step, done } = steps.next();
          if (done || !step) {
            ended("complete");
            controller.close();
            return;
          }
          if (step.do === "write") {
            controller.enqueue(step.bytes);
            return;
          }
          if (step.do === "break") {
            ended("cut");
            controller.error(new Error("the connection is cut on request"));
            return;
          }
          if (step.do === "wait") await scheduler.wait(step.ms);
          else await new Promise(() => {});
          if (gone) return;
        }
      },
      cancel() {
        gone = true;
        ended("client_gone");
      },
    },
    { highWaterMark: 0 },
  );
}

function concat(pieces: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}
