/**
 * One pass over a document of the Messages API that finds the strings in which people's words stand, in their order, and
 * what a policy asks for beside them: tools, addresses to fetch from, betas. Which fields those are says apply/fields.ts.
 *
 * The order of the keys in an object, the spelling of a key and how often it occurs make no difference: every occurrence
 * is found, so that nothing which some other reader of the document might take for its text goes by unseen.
 * Nothing is built. A document that is not what it should be has fewer strings, or none.
 */
import { endOfString } from "../wire/json-scan.ts";
import { isOpaque, READ, type Read, readingInside, readingOf, readingOfElement } from "./apply/fields.ts";
import { textOf } from "./apply/json-text.ts";

/** What a document is. */
export const DOCUMENTS = {
  /** A body of `POST /v1/messages`, or of a count of tokens. */
  messages: READ.body,
  /** A body of `POST /v1/messages/batches`. */
  batch: READ.batch,
  /** An answer that is not a stream. */
  message: READ.answer,
  /** The data of one event of a stream. */
  event: READ.event,
  /** A line of a batch's results. */
  result: READ.result,
} as const;
export type DocumentKind = keyof typeof DOCUMENTS;

/** The bytes between the quotes of a string. */
export type Span = { readonly start: number; readonly end: number };
/** One of text. `echoes`: the model's own words, or a tool's about what the model gave it; they repeat placeholders. */
export type TextSpan = Span & { readonly echoes?: boolean };

/** A tool of the request; each occurrence of its fields, in case there are several. */
export type ToolFacts = {
  readonly at: number;
  readonly types: readonly string[];
  readonly names: readonly string[];
  /** It is an MCP server, with all of its tools. */
  readonly server: boolean;
};

export type BodyFacts = {
  /** Strings of text, in their order. */
  readonly texts: readonly TextSpan[];
  readonly tools: readonly ToolFacts[];
  /** Addresses that documents and images are to be fetched from, and those of MCP servers. */
  readonly urls: readonly Span[];
  /** Betas that the body itself asks for. */
  readonly betas: readonly Span[];
};

type Options = {
  /** Whether the keys of what a tool is given are texts too. */
  readonly keys?: boolean;
};

/** The strings of text of a well-formed document. Bytes that are no JSON make no sense here, but do no harm. */
export function textsOf(bytes: Uint8Array, kind: DocumentKind, options: Options = {}): readonly TextSpan[] {
  return bodyFacts(bytes, kind, options).texts;
}

/** The same, and what else a policy asks for. */
export function bodyFacts(bytes: Uint8Array, kind: DocumentKind, { keys = false }: Options = {}): BodyFacts {
  return new Walk(bytes, keys).run(DOCUMENTS[kind]);
}

const QUOTE = 0x22;
const COMMA = 0x2c;
const BACKSLASH = 0x5c;
const OPEN_ARRAY = 0x5b;
const CLOSE_ARRAY = 0x5d;
const OPEN_OBJECT = 0x7b;
const CLOSE_OBJECT = 0x7d;

/** No name that says anything is longer; escaped, six times that. */
const MAX_NAME_BYTES = 192;
/** Longest type, or name of a tool, that is compared. */
const MAX_COMPARED_BYTES = 1_024;

/** A container that stands open. */
type Frame = {
  readonly at: number;
  readonly read: Read;
  readonly isObject: boolean;
  /** It stands under the name `source`. */
  readonly isSource: boolean;
  /** How many texts came before. */
  readonly textsBefore: number;
  /** Its role is the model's. */
  isModels: boolean;
  types: string[] | null;
  names: string[] | null;
  urls: Span[] | null;
  /** Strings that its type decides about: their place among the texts, and how they are read. */
  pending: (readonly [text: number, read: Read])[] | null;
};

class Walk {
  readonly #bytes: Uint8Array;
  readonly #keys: boolean;
  /** Null: it turned out to be no text. */
  readonly #texts: (TextSpan | null)[] = [];
  readonly #tools: ToolFacts[] = [];
  readonly #urls: Span[] = [];
  readonly #betas: Span[] = [];
  #dropped = false;

  constructor(bytes: Uint8Array, keys: boolean) {
    this.#bytes = bytes;
    this.#keys = keys;
  }

  run(root: Read): BodyFacts {
    const bytes = this.#bytes;
    const open: Frame[] = [];
    let top: Frame | undefined;
    // How the next value is read; in an object, whether its key comes first.
    let read: Read = root;
    let expectsKey = false;
    for (let at = 0; at < bytes.length; at++) {
      switch (bytes[at]) {
        case QUOTE: {
          const end = endOfString(bytes, at);
          if (expectsKey && top) {
            read = this.#key(at + 1, end, top);
            expectsKey = false;
          } else this.#string({ start: at + 1, end }, read, top);
          at = end;
          break;
        }
        case OPEN_OBJECT:
        case OPEN_ARRAY: {
          if (read === READ.skip) {
            at = this.#endOfContainer(at);
            break;
          }
          const isObject = bytes[at] === OPEN_OBJECT;
          const inside = readingInside(read, top?.read ?? READ.skip);
          const isSource = read === READ.source;
          const textsBefore = this.#texts.length;
          const none = { isModels: false, types: null, names: null, urls: null, pending: null };
          top = { at, read: inside, isObject, isSource, textsBefore, ...none };
          open.push(top);
          expectsKey = isObject;
          read = isObject ? READ.skip : readingOfElement(inside);
          break;
        }
        case CLOSE_OBJECT:
        case CLOSE_ARRAY:
          if (top) this.#close(top);
          open.pop();
          top = open.at(-1);
          expectsKey = false;
          break;
        case COMMA:
          if (top?.isObject) expectsKey = true;
          else if (top) read = readingOfElement(top.read);
          break;
      }
    }
    const texts = this.#dropped ? this.#texts.filter((text) => text !== null) : (this.#texts as TextSpan[]);
    return { texts, tools: this.#tools, urls: this.#urls, betas: this.#betas };
  }

  #key(start: number, end: number, { read }: Frame): Read {
    if (read === READ.values) {
      if (this.#keys) this.#texts.push({ start, end });
      return read;
    }
    // A name too long to say anything is one that is not known.
    return readingOf(read, end - start > MAX_NAME_BYTES ? "" : this.#name(start, end));
  }

  /** Most names are short and plain, and no decoder is needed for them. */
  #name(start: number, end: number): string {
    let name = "";
    for (let at = start; at < end; at++) {
      const byte = this.#bytes[at] ?? 0;
      if (byte === BACKSLASH || byte >= 0x80) return textOf(this.#bytes, start, end);
      name += String.fromCharCode(byte);
    }
    return name;
  }

  #string(span: Span, read: Read, top: Frame | undefined): void {
    switch (read) {
      case READ.look:
      case READ.said:
      case READ.values:
        if (span.end > span.start) this.#texts.push(span);
        return;
      case READ.betas:
        this.#betas.push(span);
        return;
    }
    if (!top) return;
    switch (read) {
      case READ.data:
      case READ.thinking:
      case READ.compacted:
        top.pending ??= [];
        top.pending.push([this.#texts.push(span) - 1, read]);
        return;
      case READ.type:
        top.types ??= [];
        top.types.push(this.#compared(span));
        return;
      case READ.name:
        top.names ??= [];
        top.names.push(this.#compared(span));
        return;
      case READ.role:
        if (this.#compared(span) === "assistant") top.isModels = true;
        return;
      case READ.url:
        top.urls ??= [];
        top.urls.push(span);
    }
  }

  #compared({ start, end }: Span): string {
    return textOf(this.#bytes, start, Math.min(end, start + MAX_COMPARED_BYTES));
  }

  /** An object is complete: now its type is known. */
  #close({ at, read, isObject, isSource, textsBefore, isModels, types, names, urls, pending }: Frame): void {
    if (!isObject) return;
    if (isModels || types?.some((type) => type.endsWith("tool_result"))) {
      for (let text = textsBefore; text < this.#texts.length; text++) {
        const span = this.#texts[text];
        if (span) this.#texts[text] = { ...span, echoes: true };
      }
    }
    for (const [text, kind] of pending ?? []) {
      if (!isOpaque(kind, types ?? [])) continue;
      this.#texts[text] = null;
      this.#dropped = true;
    }
    if (urls && (isSource || read === READ.server || types?.includes("url"))) this.#urls.push(...urls);
    if (read === READ.tool || read === READ.server) {
      this.#tools.push({ at, types: types ?? [], names: names ?? [], server: read === READ.server });
    }
  }

  /** The last byte of a container in which nothing is looked at. */
  #endOfContainer(from: number): number {
    const bytes = this.#bytes;
    let depth = 0;
    for (let at = from; at < bytes.length; at++) {
      const byte = bytes[at];
      if (byte === QUOTE) at = endOfString(bytes, at);
      else if (byte === OPEN_OBJECT || byte === OPEN_ARRAY) depth++;
      else if ((byte === CLOSE_OBJECT || byte === CLOSE_ARRAY) && --depth === 0) return at;
    }
    return bytes.length;
  }
}

/** Names that the API itself gives to fields. Others may be a caller's words. */
const PLAIN_NAME = /^[a-z][a-z_]{0,31}$/;
/** Deeper places are told by the place they stand in. */
const MAX_STEPS = 8;

/** Where in a document a byte stands, such as `messages.2.content.0.text`; without names that a caller made up. */
export function placeOf(bytes: Uint8Array, byte: number): string {
  const steps: { name: string | number; isObject: boolean }[] = [];
  let expectsKey = false;
  for (let at = 0; at < byte && at < bytes.length; at++) {
    const top = steps.at(-1);
    switch (bytes[at]) {
      case QUOTE: {
        const end = endOfString(bytes, at);
        if (expectsKey && top) {
          top.name = end - at > MAX_NAME_BYTES ? "" : textOf(bytes, at + 1, end);
          expectsKey = false;
        }
        if (end < byte) at = end;
        else at = byte;
        break;
      }
      case OPEN_OBJECT:
        steps.push({ name: "", isObject: true });
        expectsKey = true;
        break;
      case OPEN_ARRAY:
        steps.push({ name: 0, isObject: false });
        expectsKey = false;
        break;
      case CLOSE_OBJECT:
      case CLOSE_ARRAY:
        steps.pop();
        expectsKey = false;
        break;
      case COMMA:
        if (top?.isObject) expectsKey = true;
        else if (top && typeof top.name === "number") top.name++;
    }
  }
  const told: (string | number)[] = [];
  for (const { name } of steps.slice(0, MAX_STEPS)) {
    if (typeof name === "string" && !PLAIN_NAME.test(name)) break;
    told.push(name);
    // What a tool is given, and what it is to be given, has names of the caller's.
    if (name === "input" || name === "input_schema" || name === "input_examples") break;
  }
  return told.join(".") || "the body";
}
