/**
 * Bytes on their way out, in their order. What came in and goes out as one row is handed on as it is; all else is put
 * together in blocks, since to make room for a few bytes costs more than to copy them.
 */

/** Room for a dozen events; each stream has its own block, and there may be thousands. */
const BLOCK_BYTES = 2_048;
/** Fewer bytes than this are copied faster one by one. */
const MANY = 256;
const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const NOTHING = new Uint8Array(0);

export class Outgoing {
  #block = NOTHING;
  /** What has been put together since the last time: from here on, up to there. */
  #from = 0;
  #to = 0;
  /** A row that nothing was put to yet. */
  #row: Uint8Array | null = null;
  #rowFrom = 0;
  #rowTo = 0;

  /** Some of the bytes of a chunk. */
  add(chunk: Uint8Array, from = 0, to = chunk.length): void {
    if (from === to) return;
    if (this.#from === this.#to && this.#row === null) {
      this.#row = chunk;
      this.#rowFrom = from;
      this.#rowTo = to;
    } else if (this.#row === chunk && this.#rowTo === from) this.#rowTo = to;
    else {
      this.#settle();
      this.#copy(chunk, from, to);
    }
  }

  /** Plain text that may stand between the quotes of a JSON string as it is; false, and nothing is added: it is not. */
  addPlain(text: string): boolean {
    this.#settle();
    this.#reserve(text.length);
    const block = this.#block;
    const to = this.#to;
    for (let at = 0; at < text.length; at++) {
      const unit = text.charCodeAt(at);
      if (unit < 0x20 || unit > 0x7e || unit === QUOTE || unit === BACKSLASH) return false;
      block[to + at] = unit;
    }
    this.#to += text.length;
    return true;
  }

  /** All of it. What comes next does not touch these bytes. */
  taken(): Uint8Array {
    const row = this.#row;
    this.#row = null;
    if (row !== null) {
      return this.#rowFrom === 0 && this.#rowTo === row.length ? row : row.subarray(this.#rowFrom, this.#rowTo);
    }
    if (this.#from === this.#to) return NOTHING;
    const said = this.#block.subarray(this.#from, this.#to);
    this.#from = this.#to;
    return said;
  }

  #settle(): void {
    const row = this.#row;
    if (row === null) return;
    this.#row = null;
    this.#copy(row, this.#rowFrom, this.#rowTo);
  }

  #copy(chunk: Uint8Array, from: number, to: number): void {
    const size = to - from;
    this.#reserve(size);
    if (size >= MANY) this.#block.set(chunk.subarray(from, to), this.#to);
    else {
      const block = this.#block;
      const shift = this.#to - from;
      for (let at = from; at < to; at++) block[shift + at] = chunk[at] ?? 0;
    }
    this.#to += size;
  }

  #reserve(size: number): void {
    if (this.#to + size <= this.#block.length) return;
    const begun = this.#block.subarray(this.#from, this.#to);
    const block = new Uint8Array(Math.max(BLOCK_BYTES, 2 * (begun.length + size)));
    block.set(begun);
    this.#block = block;
    this.#from = 0;
    this.#to = begun.length;
  }
}
