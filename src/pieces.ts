/** Values larger than a row may be, cut into pieces that each fit into one. */

/** A row, a string or a BLOB may have 2 MB (developers.cloudflare.com/durable-objects/platform/limits). */
export const PIECE_BYTES = 1024 * 1024;

/** The pieces of a value in order, each behind the place in it where it begins. An empty value has none. */
export function* inPieces(value: Uint8Array): Generator<readonly [at: number, piece: ArrayBuffer]> {
  for (let at = 0; at < value.byteLength; at += PIECE_BYTES) yield [at, value.slice(at, at + PIECE_BYTES).buffer];
}

/** What they were cut from, given in order. */
export function joinPieces(pieces: readonly { readonly bytes: ArrayBuffer }[]): Uint8Array {
  const whole = new Uint8Array(pieces.reduce((sum, { bytes }) => sum + bytes.byteLength, 0));
  let at = 0;
  for (const { bytes } of pieces) {
    whole.set(new Uint8Array(bytes), at);
    at += bytes.byteLength;
  }
  return whole;
}
