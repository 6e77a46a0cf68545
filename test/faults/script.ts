/**
 * What an upstream does to one call, as data: steps at places of its answer. A script without steps is an upstream that
 * works. The same script tells a stream and a whole answer, where both make sense.
 */

/** In the order in which an answer passes them. */
export const PLACES = ["connect", "headers", "first_event", "mid", "last_event"] as const;
/**
 * `connect`: the request is there, nothing of the answer is. `headers`: status and headers are out. `first_event`: one
 * event (of a whole answer: one byte) is out. `mid`: half of it is. `last_event`: all but the last event (or byte) is.
 */
export type Place = (typeof PLACES)[number];

export type Action =
  | { readonly sleep: number }
  /** A whole answer other than the usual one. */
  | { readonly status: number; readonly headers?: Headers; readonly body?: string }
  /** Headers of the answer to come. */
  | { readonly headers: Headers }
  /** So many bytes of headers. */
  | { readonly headerBytes: number }
  | { readonly informational: number }
  /** The model that the answer names. */
  | { readonly model: string }
  /** RST. */
  | { readonly reset: true }
  /** The connection is closed; the body is not. */
  | { readonly fin: true }
  /** The body is closed as HTTP wants it, and is not all of the answer. */
  | { readonly end: true }
  /** Nothing more, for ever. */
  | { readonly hang: true }
  /** An `error` event of this type, and the end. */
  | { readonly error: string }
  /** Nothing but pings, each after so many ms, for ever. */
  | { readonly pings: number }
  | { readonly text: string }
  | { readonly hex: string }
  /** One event with a `data:` line of so many bytes. */
  | { readonly line: number }
  /** Of the request no more than so many bytes are read. */
  | { readonly stall: number };

type Headers = readonly (readonly [string, string])[];

export type Step = { readonly after: Place; readonly do: Action };
export type Script = readonly Step[];

/** Model and prices of these tests (wire notes §5.4): µUSD per token of input and of output. */
export const MODEL = "claude-opus-5-5";
export const MICRO_USD = { input: 4, output: 20 } as const;

export type Tokens = { readonly input: number; readonly output: number };

/** The pieces of an answer between the places. */
export type Pieces = Readonly<Record<"first" | "second" | "third" | "last", string>>;

export function errorJson(type: string, message = type): string {
  return JSON.stringify({ type: "error", error: { type, message } });
}

export function event(name: string, fields: object = {}): string {
  return `event: ${name}\ndata: ${JSON.stringify({ type: name, ...fields })}\n\n`;
}

/** An answer that says which call and which attempt it is for, so that no two are alike. */
export function piecesOf(stream: boolean, mark: string, model: string, tokens: Tokens): Pieces {
  const usage = { input_tokens: tokens.input, output_tokens: tokens.output };
  const texts = [`answer ${mark}`, " grüße 👋", " and more", " to come"];
  if (!stream) {
    const message = JSON.stringify({
      id: `msg_${mark}`,
      type: "message",
      role: "assistant",
      model,
      content: [{ type: "text", text: texts.join("") }],
      stop_reason: "end_turn",
      usage,
    });
    const half = message.length >> 1;
    return {
      first: message.slice(0, 1),
      second: message.slice(1, half),
      third: message.slice(half, -1),
      last: message.slice(-1),
    };
  }
  const message = { id: `msg_${mark}`, type: "message", role: "assistant", model, content: [] };
  const [one, two, three, four] = texts.map((text) =>
    event("content_block_delta", { index: 0, delta: { type: "text_delta", text } }),
  );
  return {
    first: event("message_start", { message: { ...message, usage: { ...usage, output_tokens: 1 } } }),
    second: `${event("content_block_start", { index: 0, content_block: { type: "text", text: "" } })}${one}${two}`,
    third: `${three}${four}${event("content_block_stop", { index: 0 })}${event("message_delta", {
      delta: { stop_reason: "end_turn", stop_sequence: null },
      usage,
    })}`,
    last: event("message_stop"),
  };
}
