/**
 * One pass over a JSON body, byte by byte: is it well formed, how deep and how large is it, and where do the values
 * stand that the gateway decides by. Nothing is built, so a body of 32 MB costs no memory beside itself, and the bytes
 * go upstream exactly as they came. Grammar: RFC 8259; encoding: UTF-8 without a byte order mark.
 */
import { err, ok, type Result } from "../result.ts";
import type { Failure } from "./errors.ts";

/** Deeper bodies are refused: recursive readers behind us overflow their stack long before 10,000 levels. */
export const MAX_JSON_DEPTH = 100;
/** Values in one body, keys not counted. A Messages request has some ten thousand at the very most. */
export const MAX_JSON_VALUES = 1_000_000;

/** Strings of `data` fields that are at least so long are taken for media. */
export const MIN_MEDIA_BYTES = 1_024;

/** Where a top-level field's value stands, and how many elements it has if it is an array. */
export type FieldSpan = { readonly start: number; readonly end: number; readonly elements: number };

export type JsonScan = {
  /** Whether the document is an object; the spans below are of its fields. */
  readonly isObject: boolean;
  /** The tracked fields that are there. A field that occurs twice has its last value here. */
  readonly fields: ReadonlyMap<string, FieldSpan>;
  /** Tracked fields that occur more than once, in whatever spelling (`"mod\u0065l"` is `model`). */
  readonly duplicates: readonly string[];
  /** Bytes in long string values of fields named `data`, at any depth: base64 of images and documents. */
  readonly mediaBytes: number;
  /** How many such values there are. */
  readonly mediaCount: number;
  /**
   * Whether there is something, at any depth, that only the account that made it can read: a `signature` or
   * `encrypted_content`, or a redacted thinking block.
   */
  readonly bound: boolean;
  /**
   * Ids of files that the body refers to, each once: `file_id` of objects of the type `file` or `container_upload`, at any
   * depth. A `file_id` of anything else (a tool's own argument, an output of code execution) is just text.
   */
  readonly fileIds: readonly string[];
};

/** More different files than this in one body are refused. */
export const MAX_FILE_IDS = 1_000;
/** No id is longer; of one that is, this much is kept. */
const MAX_FILE_ID_CHARS = 256;

/** A set of top-level field names to track, prepared once. */
export type TrackedFields = readonly { readonly name: string; readonly bytes: Uint8Array }[];

export function trackFields(...names: string[]): TrackedFields {
  const encoder = new TextEncoder();
  return names.map((name) => ({ name, bytes: encoder.encode(name) }));
}

const QUOTE = 0x22;
const COMMA = 0x2c;
const COLON = 0x3a;
const BACKSLASH = 0x5c;
const OPEN_ARRAY = 0x5b;
const CLOSE_ARRAY = 0x5d;
const OPEN_OBJECT = 0x7b;
const CLOSE_OBJECT = 0x7d;

/** 1 for the bytes a string cannot simply run over: quote, backslash, controls, and everything beyond ASCII. */
const STOPS_STRING = new Uint8Array(256);
for (let byte = 0; byte < 256; byte++) {
  if (byte < 0x20 || byte === QUOTE || byte === BACKSLASH || byte >= 0x80) STOPS_STRING[byte] = 1;
}
/** 1 for what may follow a backslash and ends the escape. */
const SHORT_ESCAPE = new Uint8Array(256);
for (const letter of '"\\/bfnrt') SHORT_ESCAPE[letter.charCodeAt(0)] = 1;

const IS_OBJECT = 1;

/** Fields whose values are looked at wherever they stand. */
const WATCHED = ["", "data", "signature", "encrypted_content", "file_id", "type"] as const;
const WATCHED_BYTES = WATCHED.map((name) => new TextEncoder().encode(name));
const DATA = 1;
const FILE_ID = 4;
const TYPE = 5;
const REFERRING = ["file", "container_upload"];
const REFERRING_BYTES = REFERRING.map((word) => new TextEncoder().encode(`"${word}"`));
/** No such type is longer, all of its characters escaped. */
const MAX_REFERRING_BYTES = 16 * 6;
/** The shortest of them in another spelling (`d\u0061ta`). */
const MIN_ESCAPED_CHARS = 9;
const REDACTED = new TextEncoder().encode('"redacted_thinking"');

// What may come next.
const VALUE = 0;
const VALUE_OR_END = 1;
const KEY = 2;
const KEY_OR_END = 3;
const COMMA_OR_END = 4;
const NOTHING = 5;

/** Scans a body. The error is the failure to answer with; its position counts bytes from 0. */
export function scanJson(
  bytes: Uint8Array,
  tracked: TrackedFields = [],
  maxValues = MAX_JSON_VALUES,
): Result<JsonScan, Failure> {
  return new Scanner(bytes, tracked, maxValues).run();
}

/** What a body says, once it has been scanned. */
export function readJson(bytes: Uint8Array, maxValues?: number): Result<unknown, Failure> {
  const scan = scanJson(bytes, [], maxValues);
  return scan.ok ? ok(JSON.parse(new TextDecoder().decode(bytes))) : scan;
}

/** The elements of an array in a document that has been scanned, each as its own bytes. */
export function* elementsOf(bytes: Uint8Array, { start, end }: FieldSpan): Generator<Uint8Array> {
  let depth = 0;
  let from = -1;
  for (let at = start; at < end; at++) {
    const byte = bytes[at];
    if (byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09) continue;
    if (depth === 1 && (byte === COMMA || byte === CLOSE_ARRAY)) {
      if (from !== -1) yield bytes.subarray(from, at);
      from = -1;
      if (byte === CLOSE_ARRAY) return;
      continue;
    }
    if (depth === 1 && from === -1) from = at;
    if (byte === OPEN_OBJECT || byte === OPEN_ARRAY) depth++;
    else if (byte === CLOSE_OBJECT || byte === CLOSE_ARRAY) depth--;
    else if (byte === QUOTE) at = endOfString(bytes, at);
  }
}

/** So far a string's end is looked for byte by byte: most are short, and a search of the runtime's own costs more to begin. */
const NEAR = 32;

/** Where the string that begins at `at` has its closing quote; the end of the bytes if it has none. */
export function endOfString(bytes: Uint8Array, at: number): number {
  const near = Math.min(bytes.length, at + NEAR);
  for (let end = at + 1; end < near; end++) {
    const byte = bytes[end];
    if (byte === QUOTE) return end;
    if (byte === BACKSLASH) break;
  }
  for (let end = bytes.indexOf(QUOTE, at + 1); end !== -1; end = bytes.indexOf(QUOTE, end + 1)) {
    let slashes = 0;
    while (bytes[end - 1 - slashes] === BACKSLASH) slashes++;
    if (slashes % 2 === 0) return end;
  }
  return bytes.length;
}

class Scanner {
  private readonly bytes: Uint8Array;
  /** The same bytes, for reading four at once wherever they stand. */
  private readonly view: DataView;
  private readonly tracked: TrackedFields;
  private readonly maxValues: number;
  private at = 0;
  private problem: Failure | undefined;

  constructor(bytes: Uint8Array, tracked: TrackedFields, maxValues: number) {
    this.bytes = bytes;
    this.maxValues = maxValues;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.tracked = tracked;
  }

  run(): Result<JsonScan, Failure> {
    const { bytes } = this;
    const length = bytes.length;
    const kinds = new Uint8Array(MAX_JSON_DEPTH + 1);
    const fields = new Map<string, FieldSpan>();
    const duplicates: string[] = [];
    let depth = 0;
    let values = 0;
    let expect = VALUE;
    let isObject = false;
    // The tracked top-level field whose value is being read.
    let field: string | undefined;
    let fieldStart = 0;
    let elements = 0;
    // Which of the watched fields the value being read belongs to; 0: none.
    let watched = 0;
    let mediaBytes = 0;
    let mediaCount = 0;
    let bound = false;
    const fileIds = new Set<string>();
    // By depth: the object there is of a type that refers to a file. And the ids seen in objects that are still open.
    const refers = new Uint8Array(MAX_JSON_DEPTH + 1);
    const named: { depth: number; start: number; end: number }[] = [];

    for (;;) {
      let byte = bytes[this.at] ?? 0;
      while (byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09) byte = bytes[++this.at] ?? 0;
      if (this.at >= length) break;

      if (expect === COMMA_OR_END) {
        if (byte === COMMA) {
          this.at++;
          watched = 0;
          expect = kinds[depth] === IS_OBJECT ? KEY : VALUE;
          continue;
        }
        if (byte !== (kinds[depth] === IS_OBJECT ? CLOSE_OBJECT : CLOSE_ARRAY)) {
          return this.fail(kinds[depth] === IS_OBJECT ? "expected `,` or `}`" : "expected `,` or `]`");
        }
      } else if (expect === KEY || expect === KEY_OR_END) {
        if (byte === QUOTE) {
          const keyStart = this.at;
          if (!this.string()) return this.stop();
          const keyLength = this.at - keyStart - 2;
          watched =
            keyLength === 4 || keyLength === 7 || keyLength >= MIN_ESCAPED_CHARS
              ? this.watchedName(keyStart + 1, this.at - 1)
              : 0;
          if (depth === 1) {
            field = this.trackedName(keyStart + 1, this.at - 1);
            if (field !== undefined && fields.has(field) && !duplicates.includes(field)) duplicates.push(field);
          }
          byte = bytes[this.at] ?? 0;
          while (byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09) byte = bytes[++this.at] ?? 0;
          if (byte !== COLON) return this.fail("expected `:` after a key");
          this.at++;
          expect = VALUE;
          continue;
        }
        if (expect === KEY || byte !== CLOSE_OBJECT) return this.fail("expected a key in double quotes");
      } else if (expect === NOTHING) {
        return this.fail("unexpected text after the document");
      }

      const closes = byte === CLOSE_OBJECT || byte === CLOSE_ARRAY;
      if (
        closes &&
        (expect === COMMA_OR_END || expect === KEY_OR_END || (expect === VALUE_OR_END && byte === CLOSE_ARRAY))
      ) {
        this.at++;
        for (let last = named.at(-1); last?.depth === depth; last = named.at(-1)) {
          named.pop();
          if (refers[depth] === 1) fileIds.add(this.text(last.start, last.end).slice(0, MAX_FILE_ID_CHARS));
        }
        if (fileIds.size > MAX_FILE_IDS) return tooManyFiles();
        depth--;
      } else {
        if (++values > this.maxValues) {
          return err({
            kind: "invalid_request",
            message: `The request body holds more than ${this.maxValues} JSON values (at position ${this.at}).`,
          });
        }
        if (depth === 1) {
          fieldStart = this.at;
          elements = 0;
        } else if (depth === 2) elements++;

        if (byte === OPEN_OBJECT || byte === OPEN_ARRAY) {
          if (depth === 0) isObject = byte === OPEN_OBJECT;
          if (++depth > MAX_JSON_DEPTH) {
            return err({
              kind: "invalid_request",
              message: `The request body's JSON nesting is too deep: more than ${MAX_JSON_DEPTH} levels (at position ${this.at}).`,
            });
          }
          kinds[depth] = byte === OPEN_OBJECT ? IS_OBJECT : 0;
          watched = 0;
          refers[depth] = 0;
          expect = byte === OPEN_OBJECT ? KEY_OR_END : VALUE_OR_END;
          this.at++;
          continue;
        }
        const start = this.at;
        if (!this.scalar(byte)) return this.stop();
        if (byte === QUOTE) {
          const size = this.at - start - 2;
          if (watched === DATA) {
            if (size >= MIN_MEDIA_BYTES) {
              mediaBytes += size;
              mediaCount++;
            }
          } else if (watched === FILE_ID) {
            if (named.push({ depth, start, end: this.at }) > MAX_FILE_IDS) return tooManyFiles();
          } else if (watched === TYPE) {
            if (size <= MAX_REFERRING_BYTES && this.refers(start, size)) refers[depth] = 1;
            else if (size === REDACTED.length - 2 && this.is(REDACTED, start)) bound = true;
          } else if (watched !== 0) {
            if (size > 0) bound = true;
          } else if (size === REDACTED.length - 2 && this.is(REDACTED, start)) bound = true;
        }
      }

      // A value is complete.
      if (depth === 1 && field !== undefined) {
        fields.set(field, { start: fieldStart, end: this.at, elements });
        field = undefined;
      }
      expect = depth === 0 ? NOTHING : COMMA_OR_END;
    }
    if (expect !== NOTHING) return this.fail(length === 0 ? "the body is empty" : "unexpected end");
    return ok({ isObject, fields, duplicates, mediaBytes, mediaCount, bound, fileIds: [...fileIds] });
  }

  private fail(problem: string): Result<JsonScan, Failure> {
    return err({ kind: "invalid_json", problem, position: this.at });
  }

  private stop(): Result<JsonScan, Failure> {
    return this.problem ? err(this.problem) : this.fail("unexpected character");
  }

  /** Notes what is wrong at the present position; false, for callers to return. */
  private wrong(problem: string): false {
    this.problem = {
      kind: "invalid_json",
      problem: this.at >= this.bytes.length ? "unexpected end" : problem,
      position: this.at,
    };
    return false;
  }

  /** The text of a string that has been scanned, quotes included in the span. */
  private text(start: number, end: number): string {
    return JSON.parse(new TextDecoder().decode(this.bytes.subarray(start, end))) as string;
  }

  /** Whether the type that ends here refers to a file, in whatever spelling. */
  private refers(start: number, size: number): boolean {
    for (const word of REFERRING_BYTES) if (size === word.length - 2 && this.is(word, start)) return true;
    const isEscaped = size >= MIN_ESCAPED_CHARS && this.bytes.subarray(start, this.at).includes(BACKSLASH);
    return isEscaped && REFERRING.includes(this.text(start, this.at));
  }

  private is(expected: Uint8Array, start: number): boolean {
    for (let i = 0; i < expected.length; i++) if (expected[i] !== this.bytes[start + i]) return false;
    return true;
  }

  /** Which of the watched names a key is, in whatever spelling; 0: none. */
  private watchedName(start: number, end: number): number {
    for (let i = 1; i < WATCHED.length; i++) {
      const name = WATCHED_BYTES[i];
      if (name?.length === end - start && this.is(name, start)) return i;
    }
    if (!this.bytes.subarray(start, end).includes(BACKSLASH)) return 0;
    return Math.max(0, (WATCHED as readonly string[]).indexOf(this.text(start - 1, end + 1)));
  }

  private trackedName(start: number, end: number): string | undefined {
    const { bytes, tracked } = this;
    const length = end - start;
    for (let i = start; i < end; i++) {
      if (bytes[i] !== BACKSLASH) continue;
      const name: unknown = JSON.parse(new TextDecoder().decode(bytes.subarray(start - 1, end + 1)));
      return tracked.find((candidate) => candidate.name === name)?.name;
    }
    for (const candidate of tracked) {
      if (candidate.bytes.length !== length) continue;
      let i = 0;
      while (i < length && candidate.bytes[i] === bytes[start + i]) i++;
      if (i === length) return candidate.name;
    }
    return undefined;
  }

  private scalar(byte: number): boolean {
    switch (byte) {
      case QUOTE:
        return this.string();
      case 0x74:
        return this.literal("true");
      case 0x66:
        return this.literal("false");
      case 0x6e:
        return this.literal("null");
      default:
        if (byte === 0x2d || (byte >= 0x30 && byte <= 0x39)) return this.number(byte);
        return this.wrong("unexpected character");
    }
  }

  private literal(word: string): boolean {
    for (let i = 0; i < word.length; i++, this.at++) {
      if (this.bytes[this.at] !== word.charCodeAt(i)) return this.wrong(`expected \`${word}\``);
    }
    return true;
  }

  private digits(): boolean {
    const start = this.at;
    let byte = this.bytes[this.at] ?? 0;
    while (byte >= 0x30 && byte <= 0x39) byte = this.bytes[++this.at] ?? 0;
    return this.at > start || this.wrong("expected a digit");
  }

  private number(first: number): boolean {
    if (first === 0x2d) this.at++;
    if (this.bytes[this.at] === 0x30) this.at++;
    else if (!this.digits()) return false;
    if (this.bytes[this.at] === 0x2e) {
      this.at++;
      if (!this.digits()) return false;
    }
    if (((this.bytes[this.at] ?? 0) | 0x20) === 0x65) {
      this.at++;
      const sign = this.bytes[this.at];
      if (sign === 0x2b || sign === 0x2d) this.at++;
      if (!this.digits()) return false;
    }
    return true;
  }

  /** From the opening quote to behind the closing one. */
  private string(): boolean {
    const { bytes, view } = this;
    const length = bytes.length;
    const lastWord = length - 4;
    let at = this.at + 1;
    for (;;) {
      // Four bytes at a time (the bit tricks of Hacker's Delight, 6-1): the high bit of a byte is set where a stop
      // stands. Borrows travel upwards only, from a byte that is a stop, so the lowest one set is always right.
      let stops = 0;
      while (at <= lastWord) {
        const four = view.getInt32(at, true);
        const quote = four ^ 0x22222222;
        const slash = four ^ 0x5c5c5c5c;
        stops =
          (four | (four - 0x20202020) | ((quote - 0x01010101) & ~quote) | ((slash - 0x01010101) & ~slash)) & 0x80808080;
        if (stops !== 0) break;
        at += 4;
      }
      if (stops !== 0) at += (31 - Math.clz32(stops & -stops)) >> 3;
      else while (at < length && STOPS_STRING[bytes[at] as number] === 0) at++;
      if (at >= length) {
        this.at = length;
        return this.wrong("unexpected end");
      }
      const byte = bytes[at] as number;
      if (byte === QUOTE) {
        this.at = at + 1;
        return true;
      }
      if (byte === BACKSLASH) {
        if (at + 1 < length && SHORT_ESCAPE[bytes[at + 1] as number] === 1) {
          at += 2;
          continue;
        }
        this.at = at;
        if (!this.unicodeEscape()) return false;
        at = this.at;
        continue;
      }
      if (byte < 0x20) {
        this.at = at;
        return this.wrong("a control character in a string must be escaped");
      }
      // Where one character beyond ASCII stands, more of them follow: most are of two bytes or three, and these leads
      // allow every continuation.
      for (let lead = byte; lead >= 0x80; lead = bytes[at] ?? 0) {
        if (lead >= 0xe1 && lead <= 0xec && continues(bytes[at + 1]) && continues(bytes[at + 2])) at += 3;
        else if (lead >= 0xc2 && lead <= 0xdf && continues(bytes[at + 1])) at += 2;
        else {
          this.at = at;
          if (!this.multiByte(lead)) return false;
          at = this.at;
        }
      }
    }
  }

  private unicodeEscape(): boolean {
    if (this.bytes[++this.at] !== 0x75) return this.wrong("invalid escape");
    this.at++;
    for (let i = 0; i < 4; i++, this.at++) {
      const digit = this.bytes[this.at] ?? 0;
      const lower = digit | 0x20;
      if (!((digit >= 0x30 && digit <= 0x39) || (lower >= 0x61 && lower <= 0x66))) {
        return this.wrong("expected four hexadecimal digits");
      }
    }
    return true;
  }

  /** One character beyond ASCII, by the well-formed sequences of the Unicode Standard's table 3-7. */
  private multiByte(lead: number): boolean {
    let low = 0x80;
    let high = 0xbf;
    let more: number;
    if (lead >= 0xc2 && lead <= 0xdf) more = 1;
    else if (lead >= 0xe0 && lead <= 0xef) {
      more = 2;
      if (lead === 0xe0) low = 0xa0;
      if (lead === 0xed) high = 0x9f;
    } else if (lead >= 0xf0 && lead <= 0xf4) {
      more = 3;
      if (lead === 0xf0) low = 0x90;
      if (lead === 0xf4) high = 0x8f;
    } else return this.wrong("invalid UTF-8");
    this.at++;
    for (; more > 0; more--, this.at++) {
      const next = this.bytes[this.at] ?? 0;
      if (next < low || next > high) return this.wrong("invalid UTF-8");
      low = 0x80;
      high = 0xbf;
    }
    return true;
  }
}

function tooManyFiles(): Result<never, Failure> {
  return err({ kind: "invalid_request", message: `file_id: more than ${MAX_FILE_IDS} files` });
}

/** Whether a byte is a continuation of UTF-8. */
function continues(byte: number | undefined): boolean {
  return ((byte ?? 0) & 0xc0) === 0x80;
}
