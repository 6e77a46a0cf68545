/**
 * The body of an upload, which is too large to be held and is sent once: it is hashed while it passes. Two attempts at the
 * same upload differ in their bytes, since every client makes up a new boundary for each, so the boundary is left out.
 */

/** How an upload's body can be read. Plain data: it travels with an order. */
export type Upload = {
  /** What stands between its parts. */
  readonly boundary: string;
  readonly bytes: number;
};

const CR = 13;
/** How much is read at once. */
const PIECE_BYTES = 64 * 1024;
const encoder = new TextEncoder();

/** How a call's body can be read, by its headers (RFC 2046 §5.1.1). Null: they don't say. */
export function uploadBy(headers: ReadonlyMap<string, string>): Upload | null {
  const type = /^multipart\/form-data *;(?:.*;)? *boundary=(?:"([ -~]{1,70})"|([!#-:<-~]{1,70})) *(?:;|$)/i;
  const found = type.exec(headers.get("content-type") ?? "");
  const length = headers.get("content-length") ?? "";
  const boundary = found?.[1] ?? found?.[2];
  return boundary !== undefined && /^\d{1,15}$/.test(length) ? { boundary, bytes: Number(length) } : null;
}

/** A body without its boundaries, piece by piece, wherever the pieces begin and end. */
export class WithoutBoundary {
  readonly #delimiter: Uint8Array;
  readonly #kept: number;
  /** May be the beginning of a delimiter. The first one has no line before it. */
  #held = encoder.encode("\r\n");

  constructor(boundary: string) {
    this.#delimiter = encoder.encode(`\r\n--${boundary}`);
    this.#kept = this.#delimiter.length - boundary.length;
  }

  /** What is known to come next. */
  push(piece: Uint8Array): Uint8Array {
    const bytes = new Uint8Array(this.#held.length + piece.length);
    bytes.set(this.#held);
    bytes.set(piece, this.#held.length);
    let from = 0;
    let to = 0;
    // What is left moves forward over what is left out.
    const keep = (until: number): void => {
      bytes.copyWithin(to, from, until);
      to += until - from;
    };
    let at = bytes.indexOf(CR);
    while (at !== -1) {
      const matched = this.#matchedAt(bytes, at);
      if (matched === this.#delimiter.length) {
        keep(at + this.#kept);
        from = at + matched;
      } else if (at + matched === bytes.length) break;
      at = bytes.indexOf(CR, matched === this.#delimiter.length ? from : at + 1);
    }
    const end = at === -1 ? bytes.length : at;
    this.#held = bytes.slice(end);
    keep(end);
    return bytes.subarray(0, to);
  }

  /** What was held to the end. */
  end(): Uint8Array {
    return this.#held;
  }

  #matchedAt(bytes: Uint8Array, at: number): number {
    let n = 1;
    while (n < this.#delimiter.length && at + n < bytes.length && bytes[at + n] === this.#delimiter[n]) n++;
    return n;
  }
}

export type Reading = {
  /** Of all of it; null: it did not come to its end. Never rejects. */
  readonly hash: Promise<string | null>;
  /** What has not been read by now need not be. */
  stop(): void;
};

/** Reads an upload, hashes it, and passes it on. */
export function readThrough(
  body: ReadableStream<Uint8Array>,
  { boundary, bytes }: Upload,
  into: WritableStream<Uint8Array> | null,
): Reading {
  const { promise: hash, resolve } = Promise.withResolvers<string | null>();
  const reader = body.getReader({ mode: "byob" });
  const writer = into?.getWriter();
  const digest = new crypto.DigestStream("SHA-256");
  const hashing = digest.getWriter();
  digest.digest.catch(() => {});
  const stop = (): void => {
    resolve(null);
    for (const end of [reader.cancel(), writer?.abort(), hashing.abort()]) end?.catch(() => {});
  };
  const read = async (): Promise<void> => {
    const without = new WithoutBoundary(boundary);
    let left = bytes;
    let buffer = new ArrayBuffer(PIECE_BYTES);
    for (;;) {
      const { done, value } = await reader.read(new Uint8Array(buffer));
      if (done || !value) break;
      left -= value.length;
      await hashing.write(without.push(value));
      if (left === 0) {
        await hashing.write(without.end());
        await hashing.close();
        resolve(new Uint8Array(await digest.digest).toHex());
      }
      await writer?.write(value);
      buffer = value.buffer;
    }
    // The runtime ends some bodies that broke as if they were whole.
    if (left > 0) stop();
    else await writer?.close();
  };
  read().catch(stop);
  return { hash, stop };
}
