/**
 * Reads the events of a Messages stream from its bytes, cut anywhere, as the SDKs do (wire notes §4.5): lines end in LF,
 * CRLF or CR, a byte order mark may lead, comments and unknown fields are passed over, the lines of `data` are joined, and
 * an event counts when its blank line has come; what the stream breaks off in is no event.
 *
 * This runs for every event that is told in another dialect, so the one event that makes up nearly all of a stream, a
 * piece of text, is not parsed as JSON but recognized to the letter; whatever deviates by a byte takes the long way.
 */
import { parseJson } from "../json.ts";
import { asFields, asText, type Fields } from "./usage.ts";

/** What an event of a Messages stream says. Unknown types pass as they are. */
export type StreamEvent = { readonly type: string } & Fields;

/** A line longer than this is no event. Blocks of server tools hold whole documents, and come as one line. */
export const MAX_LINE_CHARS = 16 * 1024 * 1024;

/**
 * A delta that is one string, from its name on. Groups: index, kind, the string as far as it needs no unescaping, and its
 * end with the blank line behind it. Spaces before the last brace are padding, so that lengths leak less.
 */
const DELTA =
  /event: content_block_delta\ndata: \{"type":"content_block_delta","index":(0|[1-9]\d{0,5}),"delta":\{"type":"(text_delta","text|thinking_delta","thinking|input_json_delta","partial_json)":"([ !#-[\]-\uffff]*)("\} *\}\n\n)?/y;

/** Where the data of such a delta begins. */
const DELTA_DATA = "event: content_block_delta\ndata: ".length;

const CLOSING_BRACE = 125;
const LF = 10;
const CR = 13;
const BYTE_ORDER_MARK = "\ufeff";

const UNREADABLE = "The upstream API sent an event that can't be read.";

abstract class Reader<T> {
  readonly #decoder = new TextDecoder("utf-8", { fatal: false, ignoreBOM: true });
  /** The beginning of a line whose end has not come. */
  #carry = "";
  /** A line feed that comes first belongs to the carriage return before it. */
  #swallowLf = false;
  #begun = false;
  /** The present event: its name, and its data so far. */
  #name: string | null = null;
  #data: string | null = null;
  /** What came can't be read; the rest is not looked at. */
  #broken = false;

  /**
   * The events that these bytes complete. What can't be read where something of the message must stand, or a line beyond
   * all measure, is given as an `error` event, and is the last: an answer with a hole in it must not pass for whole.
   */
  read(bytes: Uint8Array): T[] {
    const events: T[] = [];
    if (this.#broken) return events;
    let text = this.#decoder.decode(bytes, { stream: true });
    if (text === "") return events;
    if (!this.#begun) {
      this.#begun = true;
      if (text.startsWith(BYTE_ORDER_MARK)) text = text.slice(1);
    }
    let at = this.#swallowLf && text.charCodeAt(0) === LF ? 1 : 0;
    this.#swallowLf = false;
    let nextCr = text.indexOf("\r", at);
    while (at < text.length && !this.#broken) {
      if (this.#name === null && this.#data === null && this.#carry === "") {
        const delta = quickDelta(text, at);
        if (delta !== null) {
          this.#tell(events, delta.event, text, at + DELTA_DATA, delta.next - 2);
          at = delta.next;
          continue;
        }
      }
      if (nextCr !== -1 && nextCr < at) nextCr = text.indexOf("\r", at);
      let end = text.indexOf("\n", at);
      if (nextCr !== -1 && (end === -1 || nextCr < end)) end = nextCr;
      if (end === -1) {
        this.#keep(text.slice(at), events);
        return events;
      }
      const line = this.#carry + text.slice(at, end);
      this.#carry = "";
      this.#line(line, events);
      at = end + 1;
      if (text.charCodeAt(end) !== CR) continue;
      if (at === text.length) this.#swallowLf = true;
      else if (text.charCodeAt(at) === LF) at++;
    }
    return events;
  }

  #keep(piece: string, events: T[]): void {
    this.#carry += piece;
    if (this.#carry.length > MAX_LINE_CHARS) this.#break(events);
  }

  #line(line: string, events: T[]): void {
    if (line === "") this.#dispatch(events);
    else if (line.startsWith("data:")) {
      const value = fieldValue(line, 5);
      this.#data = this.#data === null ? value : `${this.#data}\n${value}`;
      if (this.#data.length > MAX_LINE_CHARS) this.#break(events);
    } else if (line.startsWith("event:")) this.#name = fieldValue(line, 6);
  }

  #dispatch(events: T[]): void {
    const name = this.#name;
    const data = this.#data;
    this.#name = null;
    this.#data = null;
    // The SDKs go by these two names, whatever the data is. A torn event is named `ping` by whoever closes it.
    if (name === "ping") this.#tell(events, { type: "ping" }, data ?? "");
    else if (name === "error") this.#tell(events, errorEvent(data), data ?? "");
    else if (data !== null) {
      const event = eventOf(name, data);
      if (event) this.#tell(events, event, data);
      else if (name !== null && isOfMessage(name)) this.#break(events);
    }
  }

  /** `text`, from and to: the data as it came, line breaks between its lines included. */
  protected abstract told(event: StreamEvent, text: string, from: number, to: number): T | null;

  #tell(events: T[], event: StreamEvent, text: string, from = 0, to = text.length): void {
    const told = this.told(event, text, from, to);
    if (told !== null) events.push(told);
  }

  #break(events: T[]): void {
    this.#broken = true;
    this.#carry = "";
    this.#data = null;
    this.#tell(events, errorEvent(null), "");
  }
}

/** Gives each event as what it says. */
export class EventReader extends Reader<StreamEvent> {
  protected told(event: StreamEvent): StreamEvent {
    return event;
  }
}

/** An event and the JSON object that said it, in one line. */
export type RawEvent = { readonly data: string; readonly event: StreamEvent };

/**
 * Gives each event together with its data as it came, to the letter, but for line breaks, which are spaces: in JSON they
 * stand between values only. What has no JSON object that says its type is written anew, and a `ping` that isn't one
 * (whoever closes a torn event calls it that) is left out.
 */
export class RawEventReader extends Reader<RawEvent> {
  protected told(event: StreamEvent, text: string, from: number, to: number): RawEvent | null {
    const data = text.slice(from, to);
    switch (event.type) {
      case "content_block_delta":
        // Nearly all there is; as it was recognized it is whole.
        if (from > 0) return { data, event };
        break;
      case "ping":
        if (data !== "" && !saysType(data, event.type)) return null;
        break;
      case "error":
        return hasError(data) ? { data: inOneLine(data), event } : { data: JSON.stringify(event), event };
    }
    return { data: saysType(data, event.type) ? inOneLine(data) : JSON.stringify(event), event };
  }
}

function saysType(data: string, type: string): boolean {
  return asFields(parseJson(data))?.type === type;
}

function hasError(data: string): boolean {
  const said = asFields(parseJson(data));
  const error = asFields(said?.error);
  return said?.type === "error" && asText(error?.type) !== null && asText(error?.message) !== null;
}

function inOneLine(json: string): string {
  return json.includes("\n") ? json.replaceAll("\n", " ") : json;
}

/** The delta that stands here, if one does, and where the next line begins. */
function quickDelta(text: string, at: number): { readonly event: StreamEvent; readonly next: number } | null {
  DELTA.lastIndex = at;
  const found = DELTA.exec(text);
  if (found === null) return null;
  const [, index = "", kind, plain = "", end] = found;
  let next = DELTA.lastIndex;
  let value: string;
  if (end !== undefined) {
    // A copy: what is cut out of a text keeps all of it in memory, for as long as somebody collects what is said.
    value = JSON.parse(`"${plain}"`) as string;
  } else {
    // It needs unescaping, or is of another form: the string alone is parsed, which proves that it is one.
    const lineEnd = text.indexOf("\n", next);
    if (lineEnd === -1 || text.charCodeAt(lineEnd + 1) !== LF) return null;
    if (text.charCodeAt(lineEnd - 1) !== CLOSING_BRACE || text.charCodeAt(lineEnd - 2) !== CLOSING_BRACE) return null;
    const parsed = asText(parseJson(text.slice(next - plain.length - 1, lineEnd - 2)));
    if (parsed === null) return null;
    value = parsed;
    next = lineEnd + 2;
  }
  return { event: { type: "content_block_delta", index: Number(index), delta: deltaOf(kind, value) }, next };
}

function deltaOf(kind: string | undefined, value: string): StreamEvent {
  switch (kind) {
    case 'text_delta","text':
      return { type: "text_delta", text: value };
    case 'thinking_delta","thinking':
      return { type: "thinking_delta", thinking: value };
    default:
      return { type: "input_json_delta", partial_json: value };
  }
}

/** The value of a field, less the one space that may stand before it. */
function fieldValue(line: string, at: number): string {
  return line.slice(line.charCodeAt(at) === 32 ? at + 1 : at);
}

/** An event by its data; one that does not say what it is goes by its name. Null for what is no object. */
function eventOf(name: string | null, data: string): StreamEvent | null {
  const fields = asFields(parseJson(data));
  if (!fields) return null;
  return { ...fields, type: asText(fields.type) ?? name ?? "" };
}

function isOfMessage(name: string): boolean {
  return name.startsWith("message_") || name.startsWith("content_block_");
}

/** An `error` event with a type and a message, whatever of them there was. */
function errorEvent(data: string | null): StreamEvent {
  const error = asFields(data === null ? null : asFields(parseJson(data))?.error);
  return {
    type: "error",
    error: { ...error, type: asText(error?.type) ?? "api_error", message: asText(error?.message) ?? UNREADABLE },
  };
}
