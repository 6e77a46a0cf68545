/**
 * Puts placeholders for what a detector finds into the texts of a document. Bytes are spliced inside of the strings in
 * which something was found; every other byte stays as it came, and so does a document in which nothing was.
 */
import { charsIn, escaped, Places, placeFrom, textOf } from "./apply/json-text.ts";
import { apart, type Counts, count, type Detect } from "./detector.ts";
import { MAX_WRITTEN, type PlaceholderTable, writtenIn } from "./table.ts";
import type { Span, TextSpan } from "./texts.ts";

/** A finding in a document: its bytes, and the text they stand for. */
export type Found = Span & { readonly type: string; readonly value: string };

/** What was found in a document, in its order, and which placeholders stand in it as words. */
export type Inspected = {
  readonly found: readonly Found[];
  readonly written: ReadonlySet<string>;
  /**
   * Placeholders in words of the model's or of a tool, and the text where each stands first, in their order. Most repeat those of values before them, and a body
   * that has grown by an answer must be masked as before: only to values that come later they are not given.
   */
  readonly echoed: ReadonlyMap<string, number>;
};

/**
 * A string is looked through in pieces of so many bytes, so that what is made of it stays small. With each the detector is
 * shown what stands before it and behind it: more than says what a number is, and the longest finding, a private key.
 */
const PIECE_BYTES = 1024 * 1024;
const BEFORE_BYTES = 4 * 1024;
const BEHIND_BYTES = 64 * 1024;

/** Looks through some strings of a document, at least until there are more findings than `most`. */
export function inspect(
  bytes: Uint8Array,
  texts: readonly TextSpan[],
  detect: Detect,
  most = Number.POSITIVE_INFINITY,
): Inspected {
  const found: Found[] = [];
  const written = new Set<string>();
  const echoed = new Map<string, number>();
  for (const { start, end, echoes } of texts) {
    let shownFrom = start;
    for (let from = start; from < end && found.length <= most; ) {
      const cut = placeFrom(bytes, from, from + PIECE_BYTES, end);
      const { text, findings } = shown(bytes, shownFrom, cut, end, detect);
      if (text.includes("[") && written.size + echoed.size <= MAX_WRITTEN) {
        for (const name of writtenIn(text)) {
          if (!echoes) written.add(name);
          else if (!echoed.has(name)) echoed.set(name, start);
        }
      }
      const first = from === shownFrom ? 0 : charsIn(bytes, shownFrom, from);
      const next = cut === end ? text.length : charsIn(bytes, shownFrom, cut);
      const own = findings.filter((finding) => finding.start >= first && finding.start < next);
      const places = new Places(bytes, shownFrom);
      from = cut;
      for (const { start: begin, end: stop, type } of apart(text, own)) {
        const span = { start: places.byteOf(begin), end: places.byteOf(stop) };
        found.push({ ...span, type, value: copied(text.slice(begin, stop)) });
        from = Math.max(from, span.end);
      }
      shownFrom = placeFrom(bytes, shownFrom, from - BEFORE_BYTES, end);
    }
  }
  return { found, written, echoed };
}

/** What is found in a piece and behind it, until what has been found by then has an end. */
function shown(bytes: Uint8Array, from: number, cut: number, end: number, detect: Detect) {
  for (let behind = BEHIND_BYTES; ; behind *= 4) {
    const until = placeFrom(bytes, cut, cut + behind, end);
    const text = textOf(bytes, from, until);
    const findings = detect(text);
    if (until === end || findings.at(-1)?.end !== text.length) return { text, findings };
  }
}

/** A text of its own: what is cut out of another keeps all of that in memory, and a value is kept as long as its answer takes. */
const copied = (text: string): string => JSON.parse(JSON.stringify(text)) as string;

/** Writes placeholders in the place of findings. */
export function replaceFound(
  bytes: Uint8Array,
  { found, written, echoed }: Inspected,
  table: PlaceholderTable,
  masks: (type: string) => boolean = () => true,
): Uint8Array {
  table.reserve(written);
  const echoes = [...echoed];
  let next = 0;
  const reserveUntil = (end: number): void => {
    for (let echo = echoes[next]; echo && echo[1] < end; echo = echoes[++next]) table.reserve([echo[0]]);
  };
  const parts: Replaced[] = [];
  for (const { start, end, type, value } of found) {
    if (!masks(type)) continue;
    reserveUntil(start);
    parts.push({ start, end, text: table.placeholderFor(type, value) });
  }
  reserveUntil(bytes.length);
  return parts.length === 0 ? bytes : splice(bytes, parts);
}

export function countsOf({ found }: Inspected): Counts {
  const counts: Counts = {};
  for (const { type } of found) count(counts, type);
  return counts;
}

const encoder = new TextEncoder();

type Replaced = Span & { readonly text: string };

/** Puts other texts into the strings of a document, in their order. Nothing is kept beside the result: there may be very many. */
export function splice(bytes: Uint8Array, parts: readonly Replaced[]): Uint8Array {
  let size = bytes.length;
  for (const { start, end, text } of parts) size += encoder.encode(escaped(text)).length - (end - start);
  const whole = new Uint8Array(size);
  let at = 0;
  let to = 0;
  for (const { start, end, text } of parts) {
    whole.set(bytes.subarray(at, start), to);
    to += start - at;
    to += encoder.encodeInto(escaped(text), whole.subarray(to)).written;
    at = end;
  }
  whole.set(bytes.subarray(at), to);
  return whole;
}
