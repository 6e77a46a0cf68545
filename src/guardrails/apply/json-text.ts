/** Strings of a JSON document as they stand in its bytes. The documents have been proven well-formed. */
import { asText } from "../../wire/anthropic/usage.ts";
import { parseJson } from "../../wire/json.ts";

const BACKSLASH = 0x5c;
const LETTER_U = 0x75;

/** A text may begin with U+FEFF, and is no document that a byte order mark could lead. */
const decoder = new TextDecoder("utf-8", { fatal: false, ignoreBOM: true });

/** The text between two quotes; as it stands there, if it is no JSON. */
export function textOf(bytes: Uint8Array, start: number, end: number): string {
  const raw = decoder.decode(bytes.subarray(start, end));
  return raw.includes("\\") ? (asText(parseJson(`"${raw}"`)) ?? raw) : raw;
}

/** Whether bytes that came from elsewhere are a JSON document. */
export function isJson(bytes: Uint8Array): boolean {
  return parseJson(decoder.decode(bytes)) !== undefined;
}

/** A text as it stands between the quotes of a JSON string. */
export function escaped(text: string): string {
  return JSON.stringify(text).slice(1, -1);
}

/** Finds the bytes of places in a string's text, none of them inside a character. Ask in ascending order. */
export class Places {
  readonly #bytes: Uint8Array;
  #at: number;
  #unit = 0;

  constructor(bytes: Uint8Array, start: number) {
    this.#bytes = bytes;
    this.#at = start;
  }

  byteOf(wanted: number): number {
    const bytes = this.#bytes;
    let at = this.#at;
    let unit = this.#unit;
    for (; unit < wanted; unit++) {
      const byte = bytes[at] ?? 0;
      if (byte === BACKSLASH) at += bytes[at + 1] === LETTER_U ? 6 : 2;
      else if (byte < 0x80) at++;
      else if (byte < 0xe0) at += 2;
      else if (byte < 0xf0) at += 3;
      else {
        at += 4;
        unit++;
      }
    }
    this.#at = at;
    this.#unit = unit;
    return at;
  }
}

/** The first place between two characters of a string at or behind `wanted`, from such a place on; at most `end`. */
export function placeFrom(bytes: Uint8Array, from: number, wanted: number, end: number): number {
  if (wanted >= end) return end;
  let at = from;
  while (at < wanted) {
    const byte = bytes[at] ?? 0;
    if (byte === BACKSLASH) at += bytes[at + 1] === LETTER_U ? 6 : 2;
    else at += byte < 0x80 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
  }
  return Math.min(at, end);
}

/** How many UTF-16 units the text between two quotes has, without making it. */
export function charsIn(bytes: Uint8Array, start: number, end: number): number {
  let chars = 0;
  for (let at = start; at < end; at++) {
    const byte = bytes[at] ?? 0;
    if (byte === BACKSLASH) at += bytes[at + 1] === LETTER_U ? 5 : 1;
    // A continuation was counted with its lead, and a lead of four bytes stands for two units.
    else if (byte >= 0x80) {
      if (byte < 0xc0) continue;
      if (byte >= 0xf0) chars++;
    }
    chars++;
  }
  return chars;
}

/** The text that a piece of JSON writes. */
export type Source = {
  readonly text: string;
  /** Where each of its units begins in the piece. */
  readonly at: (unit: number) => number;
  /** Where an escape begins that has not ended; the piece's length if none does. */
  readonly whole: number;
};

/** A backslash begins an escape wherever JSON has one, so escapes are told apart without knowing where strings begin. */
export function readJsonSource(source: string): Source {
  if (!source.includes("\\")) return { text: source, at: (unit) => unit, whole: source.length };
  let text = "";
  const starts: number[] = [];
  let at = 0;
  while (at < source.length) {
    const size = source[at] !== "\\" ? 1 : source[at + 1] === "u" ? 6 : 2;
    if (at + size > source.length) break;
    starts.push(at);
    text += size === 1 ? source[at] : unescaped(source.slice(at, at + size));
    at += size;
  }
  starts.push(at);
  return { text, at: (unit) => starts[unit] ?? at, whole: at };
}

const SHORT: Readonly<Record<string, string>> = { b: "\b", f: "\f", n: "\n", r: "\r", t: "\t" };

function unescaped(written: string): string {
  const letter = written[1] ?? "";
  return letter === "u" ? String.fromCharCode(Number.parseInt(written.slice(2), 16)) : (SHORT[letter] ?? letter);
}
