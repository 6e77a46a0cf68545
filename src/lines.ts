/** Bytes cut into lines while they pass. What of a line has come is kept until its end comes, up to a limit. */
import { joined } from "./pieces.ts";

const NEWLINE = 0x0a;
const NOTHING = new Uint8Array(0);

export class LineSplitter {
  readonly #maxBytes: number;
  #parts: Uint8Array[] = [];
  #bytes = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** The lines that end in this piece, without their ends; null: one beyond the limit. The piece may be reused afterwards. */
  *push(piece: Uint8Array): Generator<Uint8Array | null> {
    let from = 0;
    for (let end = piece.indexOf(NEWLINE); end !== -1; end = piece.indexOf(NEWLINE, from)) {
      yield this.#close(piece.subarray(from, end));
      from = end + 1;
    }
    const rest = piece.subarray(from);
    this.#bytes += rest.length;
    if (this.#bytes > this.#maxBytes) this.#parts = [];
    else if (rest.length > 0) this.#parts.push(rest.slice());
  }

  /** The stream has ended: what has come of a line that has no end. */
  end(): Uint8Array | null {
    return this.#close(NOTHING);
  }

  #close(last: Uint8Array): Uint8Array | null {
    const parts = [...this.#parts, last];
    const bytes = this.#bytes + last.length;
    this.#parts = [];
    this.#bytes = 0;
    return bytes > this.#maxBytes ? null : joined(parts);
  }
}
