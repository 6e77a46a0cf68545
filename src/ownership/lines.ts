/** Bytes cut into lines while they pass. What of a line has come is kept until its end comes, up to a limit. */

const NEWLINE = 0x0a;
const decoder = new TextDecoder();

export class LineReader {
  /** Lines that were longer than the limit, and not read. */
  skipped = 0;
  readonly #maxBytes: number;
  #parts: Uint8Array[] = [];
  #bytes = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** The lines that end in this piece, without their ends; empty ones are left out. The piece may be reused afterwards. */
  *push(piece: Uint8Array): Generator<string> {
    let from = 0;
    for (let end = piece.indexOf(NEWLINE); end !== -1; end = piece.indexOf(NEWLINE, from)) {
      const line = this.#close(piece.subarray(from, end));
      if (line !== null && line !== "") yield line;
      from = end + 1;
    }
    const rest = piece.subarray(from);
    this.#bytes += rest.length;
    if (this.#bytes > this.#maxBytes) this.#parts = [];
    else if (rest.length > 0) this.#parts.push(rest.slice());
  }

  /** The stream has ended as it should: its last line may have no end. */
  *end(): Generator<string> {
    const line = this.#close(new Uint8Array(0));
    if (line !== null && line !== "") yield line;
  }

  #close(last: Uint8Array): string | null {
    const parts = this.#parts;
    const bytes = this.#bytes + last.length;
    this.#parts = [];
    this.#bytes = 0;
    if (bytes > this.#maxBytes) {
      this.skipped++;
      return null;
    }
    if (parts.length === 0) return decoder.decode(last).trim();
    const whole = new Uint8Array(bytes);
    let at = 0;
    for (const part of [...parts, last]) {
      whole.set(part, at);
      at += part.length;
    }
    return decoder.decode(whole).trim();
  }
}
