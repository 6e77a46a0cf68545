/** Bytes in pieces: put together again, and cut so that each fits into a row. */

/** A row, a string or a BLOB may have 2 MB (developers.cloudflare.com/durable-objects/platform/limits). */
export const PIECE_BYTES = 1024 * 1024;

/** The pieces of a value in order, each behind the place in it where it begins. An empty value has none. */
export function* inPieces(value: Uint8Array): Generator<readonly [at: number, piece: ArrayBuffer]> {
  for (let at = 0; at < value.byteLength; at += PIECE_BYTES) yield [at, value.slice(at, at + PIECE_BYTES).buffer];
}

/** What these are pieces of, in their order. One alone is that itself, and no copy. */
export function joined(pieces: readonly Uint8Array[]): Uint8Array {
  if (pieces.length === 1 && pieces[0]) return pieces[0];
  const whole = new Uint8Array(pieces.reduce((size, piece) => size + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}

/** The same of rows. */
export function joinedRows(rows: Iterable<{ readonly bytes: ArrayBuffer }>): Uint8Array {
  return joined(Array.from(rows, ({ bytes }) => new Uint8Array(bytes)));
}
