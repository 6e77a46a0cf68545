/**
 * The deltas of a block differ in their words and in nothing else. One that begins byte for byte as the one before it did,
 * and ends behind its words, is known without being parsed.
 */

import { asText } from "../../wire/anthropic/usage.ts";
import { parseJson } from "../../wire/json.ts";

const LF = 0x0a;
const SPACE = 0x20;
const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const CLOSE_OBJECT = 0x7d;

/** Words may begin with U+FEFF. */
const decoder = new TextDecoder("utf-8", { fatal: false, ignoreBOM: true });

/** A delta, and where its words stand in the bytes that have come. */
export type Delta = { readonly words: string; readonly from: number; readonly to: number; readonly end: number };

/** How the deltas of a block begin: up to the quote before their words. */
export class Beginning {
  readonly #bytes: Uint8Array;

  private constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  /** Null: something may stand behind the words of such a delta, or its lines end in a way of their own. */
  static of(event: Uint8Array, wordsFrom: number, wordsTo: number): Beginning | null {
    return endOf(event, wordsTo) === event.length ? new Beginning(event.slice(0, wordsFrom)) : null;
  }

  /** The delta that begins at a place; null: what is there has not come as a whole, or has to be parsed. */
  read(chunk: Uint8Array, at: number): Delta | null {
    const begins = this.#bytes;
    const from = at + begins.length;
    if (from >= chunk.length) return null;
    for (let n = 0; n < begins.length; n++) if (chunk[at + n] !== begins[n]) return null;
    let to = from;
    let isPlain = true;
    for (; to < chunk.length; to++) {
      const byte = chunk[to] ?? 0;
      if (byte === QUOTE) break;
      if (byte < SPACE) return null;
      if (byte >= 0x80) isPlain = false;
      else if (byte === BACKSLASH) {
        isPlain = false;
        to++;
      }
    }
    const end = endOf(chunk, to);
    if (end === -1) return null;
    const raw = from === to ? "" : decoder.decode(chunk.subarray(from, to));
    const words = isPlain || !raw.includes("\\") ? raw : asText(parseJson(`"${raw}"`));
    return typeof words === "string" ? { words, from, to, end } : null;
  }
}

/** Where an event ends whose words end at a quote, if it closes two objects and does nothing else; -1 if not. */
function endOf(bytes: Uint8Array, quote: number): number {
  if (bytes[quote] !== QUOTE) return -1;
  let open = 2;
  let at = quote + 1;
  for (; open > 0 || bytes[at] === SPACE; at++) {
    if (bytes[at] === CLOSE_OBJECT && open > 0) open--;
    else if (bytes[at] !== SPACE) return -1;
  }
  return bytes[at] === LF && bytes[at + 1] === LF ? at + 2 : -1;
}
