/** Ids that sort by the moment they were made: ULID's layout (48 bits of time, 80 of chance), in lower case. */

const ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz";
const HEX = "0123456789abcdef";
const TIME_CHARS = 10;
const RANDOM_CHARS = 16;

/** Crockford's base 32, one character for the low five bits of each byte. */
export function base32(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += ALPHABET[byte & 31];
  return text;
}

/** Chance is drawn this many bytes at a time, none of which is used twice. */
const POOL_BYTES = 4_096;
let pool = new Uint8Array(0);
let drawn = 0;

/** `count` characters of chance, five bits each. */
export function randomBase32(count: number): string {
  return base32(randomBytes(count));
}

/** `count` bytes of chance, as twice as many characters. */
export function randomHex(count: number): string {
  let text = "";
  for (const byte of randomBytes(count)) text += HEX.charAt(byte >> 4) + HEX.charAt(byte & 15);
  return text;
}

/** Chance of cryptographic quality; valid until the next call. `count` is at most POOL_BYTES. */
function randomBytes(count: number): Uint8Array {
  if (drawn + count > pool.length) {
    pool = crypto.getRandomValues(new Uint8Array(POOL_BYTES));
    drawn = 0;
  }
  drawn += count;
  return pool.subarray(drawn - count, drawn);
}

/** The ten characters every id made in this millisecond begins with; times before 1970 count as its first moment. */
export function timePrefix(ms: number): string {
  let rest = Math.max(0, ms);
  let text = "";
  for (let i = 0; i < TIME_CHARS; i++) {
    text = ALPHABET[rest % 32] + text;
    rest = Math.floor(rest / 32);
  }
  return text;
}

/** `req_01k…`: 26 characters after the prefix. */
export function newId(prefix: string, now: number): string {
  return `${prefix}_${timePrefix(now)}${randomBase32(RANDOM_CHARS)}`;
}
