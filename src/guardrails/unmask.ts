/**
 * Puts the values back for their placeholders, in an answer: a whole message or a stream, its bytes cut anywhere. What
 * holds no placeholder of the table passes byte for byte, and a stream waits for nothing but what may still become one:
 * never for more than the longest placeholder of the table, in its longest spelling.
 *
 * Thinking stays as it is: it is signed, and goes back to the model, which knows the placeholders.
 */
import { escaped, isJson, readJsonSource, type Source, textOf } from "./apply/json-text.ts";
import { type Flow, StreamRewriter } from "./apply/stream-rewriter.ts";
import { splice } from "./mask.ts";
import { type PlaceholderTable, plainName, WRITTEN } from "./table.ts";
import { type DocumentKind, type Span, textsOf } from "./texts.ts";

const OPEN_BRACKET = 0x5b;
const BACKSLASH = 0x5c;
const LETTER_U = 0x75;

/** The answer with its values. `bytes` is what it was given if there is nothing to put back, or if it is no JSON. */
export function unmaskMessage(
  bytes: Uint8Array,
  table: PlaceholderTable,
  kind: Extract<DocumentKind, "message" | "result"> = "message",
): Uint8Array {
  if (table.size === 0 || !mayHold(bytes) || !isJson(bytes)) return bytes;
  return unmaskTexts(bytes, textsOf(bytes, kind, { keys: true }), table);
}

/** A stream of events, for one answer. */
export function unmaskingStream(table: PlaceholderTable): StreamRewriter {
  return new StreamRewriter({
    text: () => new UnmaskingFlow(table, PLAIN),
    json: () => new UnmaskingFlow(table, JSON_SOURCE),
    whole: (data) => unmaskTexts(data, textsOf(data, "event", { keys: true }), table),
    concerns: (events) => table.size > 0 && mayHold(events),
    unreadable: "pass",
    refused: () => null,
  });
}

/**
 * Every placeholder has a bracket, as it is or as an escape of JSON (`\u005b`). What ends with a backslash, which is written
 * as two, may go on with a bracket.
 */
function mayHold(bytes: Uint8Array): boolean {
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at];
    if (byte === OPEN_BRACKET) return true;
    if (byte === BACKSLASH && (bytes[at + 1] === LETTER_U || bytes[at + 1] === BACKSLASH)) return true;
  }
  return false;
}

function unmaskTexts(bytes: Uint8Array, texts: readonly Span[], table: PlaceholderTable): Uint8Array {
  const parts: (Span & { text: string })[] = [];
  for (const { start, end } of texts) {
    const text = textOf(bytes, start, end);
    const unmasked = unmaskText(text, table);
    if (unmasked !== text) parts.push({ start, end, text: unmasked });
  }
  return parts.length === 0 ? bytes : splice(bytes, parts);
}

/** A text with the table's values in the place of their placeholders. */
export function unmaskText(text: string, table: PlaceholderTable): string {
  if (!text.includes("[")) return text;
  return text.replaceAll(WRITTEN, (found, _slash, name: string) => table.valueOf(plainName(name)) ?? found);
}

/** How a piece of a block is written. */
type Writing = {
  readonly read: (source: string) => Source;
  readonly write: (text: string) => string;
};

const PLAIN: Writing = {
  read: (source) => ({ text: source, at: (unit) => unit, whole: source.length }),
  write: (text) => text,
};

const JSON_SOURCE: Writing = { read: readJsonSource, write: escaped };

class UnmaskingFlow implements Flow {
  readonly #table: PlaceholderTable;
  readonly #writing: Writing;
  #held = "";

  constructor(table: PlaceholderTable, writing: Writing) {
    this.#table = table;
    this.#writing = writing;
  }

  readonly push = (piece: string): string => {
    const source = this.#held + piece;
    this.#held = "";
    if (!source.includes("[") && !source.includes("\\")) return source;
    const { text, at, whole } = this.#writing.read(source);
    const until = at(beginningOfOpen(text, this.#table));
    this.#held = source.slice(until);
    if (until > whole) return source;
    let said = "";
    let from = 0;
    for (const found of text.matchAll(WRITTEN)) {
      const value = this.#table.valueOf(plainName(found[2] ?? ""));
      if (value === undefined) continue;
      said += source.slice(from, at(found.index)) + this.#writing.write(value);
      from = at(found.index + found[0].length);
    }
    return said + source.slice(from, until);
  };

  readonly end = (): string => {
    const held = this.#held;
    this.#held = "";
    return held;
  };

  readonly holds = (): boolean => this.#held !== "";
}

/** A placeholder that ends here may have begun: bracket, name, and a backslash before each bracket or underscore. */
const MAYBE_OPEN = /^(?:[A-Za-z0-9-]|\\?_)*\\?$/;

/** Where the end of a text may be the beginning of one of the table's placeholders; the text's length if it can't be. */
function beginningOfOpen(text: string, table: PlaceholderTable): number {
  const bracket = text.lastIndexOf("[");
  if (bracket !== -1) {
    const rest = text.slice(bracket + 1);
    const begins = rest === "" || (MAYBE_OPEN.test(rest) && table.hasNameFrom(plainName(rest)));
    if (begins) return text[bracket - 1] === "\\" ? bracket - 1 : bracket;
  }
  return text.endsWith("\\") ? text.length - 1 : text.length;
}
