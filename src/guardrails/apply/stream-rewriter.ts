/**
 * Changes the words of a Messages stream on their way, and leaves everything else as it came, byte for byte. What is held
 * back of a block's words goes out before whatever ends the block: joined to its next delta, or as one of its own.
 */

import { asFields, asText } from "../../wire/anthropic/usage.ts";
import { parseJson } from "../../wire/json.ts";
import { type Span, textsOf } from "../texts.ts";
import { Beginning } from "./alike.ts";
import { type EventLines, EventSplitter, readLines } from "./event-splitter.ts";
import { escaped, textOf } from "./json-text.ts";
import { Outgoing } from "./outgoing.ts";

/** The words of one block, as they grow. */
export type Flow = {
  /** What can be said by now. */
  readonly push: (piece: string) => string;
  /** What was held back; no more will come. */
  readonly end: () => string;
  /** Whether something is held back, or has to be known of what comes next. */
  readonly holds: () => boolean;
};

export type Rewriting = {
  /** A block of text begins, or what a tool is given: JSON, in pieces. */
  readonly text: () => Flow;
  readonly json: () => Flow;
  /** Strings of an event that come as a whole; the bytes that are given, if nothing is changed. */
  readonly whole: (data: Uint8Array) => Uint8Array;
  /** Whether any event in these bytes may have to be changed, where nothing is held back. */
  readonly concerns: (events: Uint8Array) => boolean;
  /** What nobody can look into is let through, or ends the stream. */
  readonly unreadable: "pass" | "end";
  /** Why the answer has to end here; asked after each event. Null: it goes on. */
  readonly refused: () => string | null;
};

type Kind = "text_delta" | "input_json_delta";
type Open = {
  readonly index: unknown;
  readonly kind: Kind;
  readonly flow: Flow;
  /** How its deltas begin, once one has come whose words are all that it says. */
  beginning: Beginning | null;
};

const encoder = new TextEncoder();
const decoder = new TextDecoder();
const NOTHING = new Uint8Array(0);
const LF = 0x0a;
const TOO_LARGE = "An event of the answer is too large, or not well formed, to be looked through.";

export class StreamRewriter {
  readonly #rewriting: Rewriting;
  readonly #splitter = new EventSplitter();
  readonly #out = new Outgoing();
  #open: Open | null = null;
  #lineEnd = "\n";
  #ended = false;

  constructor(rewriting: Rewriting) {
    this.#rewriting = rewriting;
  }

  /** Whether the stream has been ended before its time, by an `error` event; nothing more is said. */
  get ended(): boolean {
    return this.#ended;
  }

  /** What can be passed on, now that these bytes have come. */
  push(chunk: Uint8Array): Uint8Array {
    if (this.#ended) return NOTHING;
    if (this.#passes(chunk)) return chunk;
    for (let at = 0; at < chunk.length && !this.#ended; ) {
      const end = this.#alike(chunk, at);
      if (end > at) at = end;
      else {
        const cut = this.#splitter.next(chunk, at);
        if (cut === null) break;
        at = cut.end;
        if (cut.oversize) this.#unreadable(cut.bytes);
        else if (this.#alike(cut.bytes, 0) === 0) this.#event(cut.bytes);
      }
      const why = this.#ended ? null : this.#rewriting.refused();
      if (why !== null) this.#end(why);
    }
    return this.#out.taken();
  }

  /** Whether these bytes are whole events, none of which has to be looked into. */
  #passes(chunk: Uint8Array): boolean {
    const { length } = chunk;
    if (length < 2 || chunk[length - 1] !== LF || chunk[length - 2] !== LF) return false;
    return this.#splitter.isBetween && !this.#open?.flow.holds() && !this.#rewriting.concerns(chunk);
  }

  /** Takes the delta at a place if it is like the one before it; where it ends. */
  #alike(chunk: Uint8Array, at: number): number {
    const open = this.#open;
    if (!open?.beginning || !this.#splitter.isBetween) return at;
    const delta = open.beginning.read(chunk, at);
    if (delta === null) return at;
    const { words, from, to, end } = delta;
    this.#lineEnd = "\n";
    const said = open.flow.push(words);
    if (said === words) this.#out.add(chunk, at, end);
    else if (said !== "") this.#replaced(chunk, at, from, said, to, end);
    return end;
  }

  /** What was held back when the stream ended, and what had come of an event. */
  end(): Uint8Array {
    if (this.#ended) return NOTHING;
    this.#flush();
    const rest = this.#splitter.rest();
    // Half an event says nothing to anybody, and nobody has looked into it.
    if (this.#rewriting.unreadable === "pass") this.#out.add(rest);
    const why = this.#rewriting.refused();
    if (why !== null) this.#end(why);
    return this.#out.taken();
  }

  #event(bytes: Uint8Array): void {
    if (!this.#open?.flow.holds() && !this.#rewriting.concerns(bytes)) {
      this.#out.add(bytes);
      return;
    }
    const lines = readLines(bytes);
    this.#lineEnd = lines.lineEnd;
    const { name, data } = lines;
    if (name === "ping" || data === null) {
      this.#out.add(bytes);
      return;
    }
    const fields = asFields(parseJson(decoder.decode(data)));
    const type = name === "error" ? name : (asText(fields?.type) ?? name);
    if (type === "error" || type === "content_block_stop" || type === "message_delta" || type === "message_stop") {
      this.#flush();
      this.#out.add(bytes);
    } else if (!fields) this.#unreadable(bytes);
    else if (type === "content_block_delta") this.#delta(bytes, lines, data, fields);
    else {
      const known = type === "message_start" || type === "content_block_start";
      if (known) this.#flush();
      if (known || this.#rewriting.unreadable === "end") this.#whole(bytes, lines, data);
      else this.#out.add(bytes);
    }
  }

  #delta(bytes: Uint8Array, lines: EventLines, data: Uint8Array, event: Readonly<Record<string, unknown>>): void {
    const delta = asFields(event.delta);
    const kind = asText(delta?.type);
    const words = kind === "text_delta" ? delta?.text : kind === "input_json_delta" ? delta?.partial_json : null;
    if ((kind !== "text_delta" && kind !== "input_json_delta") || typeof words !== "string") {
      const known = kind === "citations_delta" || this.#rewriting.unreadable === "end";
      if (known) this.#whole(bytes, lines, data);
      else this.#out.add(bytes);
      return;
    }
    if (this.#open && (this.#open.index !== event.index || this.#open.kind !== kind)) this.#flush();
    if (this.#open === null) {
      const flow = kind === "text_delta" ? this.#rewriting.text() : this.#rewriting.json();
      this.#open = { index: event.index, kind, flow, beginning: null };
    }
    const said = this.#open.flow.push(words);
    const place = placeOf(words, lines, data);
    this.#open.beginning = place && Beginning.of(bytes, place.start, place.end);
    if (said === words) this.#out.add(bytes);
    else if (said === "") return;
    else if (place) this.#replaced(bytes, 0, place.start, said, place.end, bytes.length);
    else this.#say(event.index, kind, said);
  }

  /** The event from `at` to `end`, with other words from `from` to `to`. */
  #replaced(chunk: Uint8Array, at: number, from: number, said: string, to: number, end: number): void {
    this.#out.add(chunk, at, from);
    if (!this.#out.addPlain(said)) this.#out.add(encoder.encode(escaped(said)));
    this.#out.add(chunk, to, end);
  }

  #whole(bytes: Uint8Array, lines: EventLines, data: Uint8Array): void {
    const changed = this.#rewriting.whole(data);
    if (changed === data) this.#out.add(bytes);
    else if (lines.at !== null) {
      this.#out.add(bytes, 0, lines.at);
      this.#out.add(changed);
      this.#out.add(bytes, lines.at + data.length);
    } else {
      // In JSON, line breaks stand between values only.
      const json = decoder.decode(changed).replaceAll("\n", " ");
      this.#write(lines.name, json);
    }
  }

  /** Says what is held back. The block may go on. */
  #flush(): void {
    if (this.#open === null) return;
    const { index, kind, flow } = this.#open;
    this.#open = null;
    const said = flow.end();
    if (said !== "") this.#say(index, kind, said);
  }

  #say(index: unknown, kind: Kind, said: string): void {
    const field = kind === "text_delta" ? "text" : "partial_json";
    const event = { type: "content_block_delta", index, delta: { type: kind, [field]: said } };
    this.#write("content_block_delta", JSON.stringify(event));
  }

  #write(name: string | null, json: string): void {
    const end = this.#lineEnd;
    this.#out.add(encoder.encode(`${name === null ? "" : `event: ${name}${end}`}data: ${json}${end}${end}`));
  }

  #unreadable(bytes: Uint8Array): void {
    if (this.#rewriting.unreadable === "end") {
      this.#end(TOO_LARGE);
      return;
    }
    this.#flush();
    this.#out.add(bytes);
  }

  #end(message: string): void {
    this.#flush();
    this.#ended = true;
    this.#write("error", JSON.stringify({ type: "error", error: { type: "api_error", message } }));
  }
}

/** Where the words of a delta stand in its bytes, if they are the only ones. */
function placeOf(words: string, lines: EventLines, data: Uint8Array): Span | null {
  const texts = textsOf(data, "event");
  const [only] = texts;
  if (!only || texts.length > 1 || lines.at === null || textOf(data, only.start, only.end) !== words) return null;
  return { start: lines.at + only.start, end: lines.at + only.end };
}
