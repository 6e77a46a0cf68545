/**
 * Cuts the bytes of an event stream, which come in any pieces, into whole events, blank line included. Lines end in LF,
 * CRLF or CR (wire notes §4.5). Joined, what is given out is what came in.
 */
import { joined } from "../../pieces.ts";

/** An event larger than this is not waited for. Blocks of server tools hold whole documents, and come as one line. */
export const MAX_EVENT_BYTES = 16 * 1024 * 1024;

const LF = 10;
const CR = 13;
const NOTHING = new Uint8Array(0);

/** An event, or a piece of one that is too large, and where it ends in the bytes that have come. */
export type Cut = { readonly bytes: Uint8Array; readonly end: number; readonly oversize: boolean };

export class EventSplitter {
  #pieces: Uint8Array[] = [];
  #size = 0;
  /** Nothing stands in the present line yet. */
  #lineIsEmpty = true;
  /** A line feed that comes first belongs to the carriage return before it. */
  #afterCr = false;
  /** The present event is too large: it is let through. */
  #oversize = false;

  /** Whether what comes next begins an event. */
  get isBetween(): boolean {
    return this.#pieces.length === 0 && this.#lineIsEmpty && !this.#afterCr && !this.#oversize;
  }

  /** The event that ends first in these bytes, from a place on; null: none does, and the rest of them is kept. */
  next(chunk: Uint8Array, from: number): Cut | null {
    let at = from;
    if (this.#afterCr && at < chunk.length) {
      this.#afterCr = false;
      if (chunk[at] === LF) at++;
    }
    let isEmpty = this.#lineIsEmpty;
    while (at < chunk.length) {
      const byte = chunk[at++];
      if (byte !== LF && byte !== CR) {
        isEmpty = false;
        continue;
      }
      if (byte === CR) {
        if (at === chunk.length) this.#afterCr = true;
        else if (chunk[at] === LF) at++;
      }
      if (isEmpty) {
        this.#lineIsEmpty = true;
        const oversize = this.#oversize;
        this.#oversize = false;
        return { bytes: this.#joined(chunk.subarray(from, at)), end: at, oversize };
      }
      isEmpty = true;
    }
    this.#lineIsEmpty = isEmpty;
    if (from === chunk.length) return null;
    // A copy: whoever reads the stream may use its buffer again.
    this.#pieces.push(chunk.slice(from));
    this.#size += chunk.length - from;
    if (this.#size > MAX_EVENT_BYTES) this.#oversize = true;
    return this.#oversize ? { bytes: this.#joined(NOTHING), end: chunk.length, oversize: true } : null;
  }

  /** What has come of an event that has not ended. */
  rest(): Uint8Array {
    return this.#joined(NOTHING);
  }

  #joined(last: Uint8Array): Uint8Array {
    if (this.#pieces.length === 0) return last;
    const whole = joined([...this.#pieces, last]);
    this.#pieces = [];
    this.#size = 0;
    return whole;
  }
}

/** What an event's lines say. */
export type EventLines = {
  readonly name: string | null;
  /** Its data; null: it has none. */
  readonly data: Uint8Array | null;
  /** Where the data stands in the event, if it is one line. */
  readonly at: number | null;
  /** How its lines end. */
  readonly lineEnd: string;
};

const decoder = new TextDecoder();
const DATA = new TextEncoder().encode("data:");
const EVENT = new TextEncoder().encode("event:");
const SPACE = 0x20;
const LINE_FEED = new Uint8Array([LF]);

/** Reads an event as it was cut. A byte order mark may lead, and a line feed that belongs to the line before. */
export function readLines(bytes: Uint8Array): EventLines {
  let name: string | null = null;
  const data: Uint8Array[] = [];
  let dataAt = 0;
  let lineEnd = "\n";
  let at = bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf ? 3 : 0;
  const hasCr = bytes.includes(CR);
  while (at < bytes.length) {
    let end = bytes.indexOf(LF, at);
    if (hasCr) {
      const cr = bytes.indexOf(CR, at);
      if (cr !== -1 && (end === -1 || cr < end)) end = cr;
    }
    if (end === -1) end = bytes.length;
    const line = bytes.subarray(at, end);
    if (startsWith(line, DATA)) {
      const skipped = line[DATA.length] === SPACE ? DATA.length + 1 : DATA.length;
      if (data.length > 0) data.push(LINE_FEED);
      data.push(line.subarray(skipped));
      dataAt = at + skipped;
    } else if (startsWith(line, EVENT)) {
      name = decoder.decode(line.subarray(line[EVENT.length] === SPACE ? EVENT.length + 1 : EVENT.length));
    }
    at = end + 1;
    if (bytes[end] !== CR) continue;
    lineEnd = bytes[at] === LF ? "\r\n" : "\r";
    if (bytes[at] === LF) at++;
  }
  if (data.length === 0) return { name, data: null, at: null, lineEnd };
  return { name, data: joined(data), at: data.length === 1 ? dataAt : null, lineEnd };
}

function startsWith(line: Uint8Array, prefix: Uint8Array): boolean {
  for (let i = 0; i < prefix.length; i++) if (line[i] !== prefix[i]) return false;
  return true;
}
