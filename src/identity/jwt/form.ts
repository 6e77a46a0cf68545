/**
 * Tokens, read: JWS in its compact form (RFC 7515 §7.1) around a JSON object of claims (RFC 7519). This room owns what a
 * token is, whom it is believed, and our own keys for signing. Here only the form is looked at, strictly, so that a token
 * has one spelling and one meaning: what two parsers could read in two ways is refused. Pure, and never throws.
 */

/** Beyond this nobody reads on. Tokens of the providers we know have 700 to 3,000 characters. */
export const MAX_TOKEN_CHARS = 8 * 1024;
/** Deeper claims are refused; those we know are nested four levels deep. */
const MAX_DEPTH = 32;
/** Every header begins with `{"`. Keys of ours begin with `sk-`. */
const BEGINNING = "eyJ";
const MAX_KID_CHARS = 256;

/**
 * Header fields by which the rest would mean something else: extensions that must be understood (RFC 7515 §4.1.11), an
 * unencoded payload (RFC 7797), a token inside this one (RFC 7519 §5.2), and those of encrypted ones. We understand none.
 */
const OTHER_MEANING = ["crit", "b64", "cty", "enc", "zip"];

export type Json = null | boolean | number | string | readonly Json[] | JsonObject;
export type JsonObject = { readonly [name: string]: Json };

export type ParsedToken = {
  readonly alg: string;
  /** Null: the header names no key. */
  readonly kid: string | null;
  /** As it is written. Null: the header has none. */
  readonly typ: string | null;
  /** Nothing of it is to be believed before `verifyToken` has said so. */
  readonly claims: JsonObject;
  /** What the signature is over. */
  readonly signed: Uint8Array;
  readonly signature: Uint8Array<ArrayBuffer>;
};

const encoder = new TextEncoder();
/** A byte order mark stays, and is no JSON. */
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Whether it is worth to be parsed as a token. One look at its beginning. */
export function looksLikeToken(text: string): boolean {
  return text.startsWith(BEGINNING);
}

/** Null for whatever is not a token in its one form. */
export function parseToken(text: string): ParsedToken | null {
  if (!looksLikeToken(text) || text.length > MAX_TOKEN_CHARS) return null;
  const parts = text.split(".", 4);
  if (parts.length !== 3) return null;
  const [first = "", second = "", third = ""] = parts;
  const header = readObject(first);
  const claims = header && readObject(second);
  const signature = claims && fromBase64Url(third);
  if (!header || !claims || !signature) return null;
  if (OTHER_MEANING.some((name) => Object.hasOwn(header, name))) return null;
  const own = ownOf(header);
  const [alg, kid = null, typ = null] = [own("alg"), own("kid"), own("typ")];
  if (typeof alg !== "string") return null;
  if (Object.hasOwn(header, "kid") && !isKid(kid)) return null;
  if (Object.hasOwn(header, "typ") && typeof typ !== "string") return null;
  const signed = encoder.encode(text.slice(0, first.length + 1 + second.length));
  return { alg, kid: isKid(kid) ? kid : null, typ: typeof typ === "string" ? typ : null, claims, signed, signature };
}

export function isKid(value: unknown): value is string {
  return typeof value === "string" && value !== "" && value.length <= MAX_KID_CHARS;
}

/** Reads members that a prototype could not have put there. */
export function ownOf(object: JsonObject): (name: string) => Json | undefined {
  return (name) => (Object.hasOwn(object, name) ? object[name] : undefined);
}

export function isTexts(value: unknown): value is readonly string[] {
  return Array.isArray(value) && value.every((one) => typeof one === "string");
}

function readObject(part: string): JsonObject | null {
  const bytes = fromBase64Url(part);
  if (!bytes) return null;
  try {
    const text = decoder.decode(bytes);
    const value: Json = JSON.parse(text);
    return isObject(value) && countMembers(value, 1) === countColons(text) ? value : null;
  } catch {
    // No UTF-8, or no JSON.
    return null;
  }
}

export function isObject(value: Json | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * The members of all objects in a value. A name that an object has twice leaves one member, and takes along what the other
 * one held: there are fewer members than colons then, and only then. NaN, which equals nothing, for what is too deep.
 */
function countMembers(value: Json, depth: number): number {
  if (typeof value !== "object" || value === null) return 0;
  if (depth > MAX_DEPTH) return Number.NaN;
  const inner = Object.values<Json>(value);
  let count = Array.isArray(value) ? 0 : inner.length;
  for (const one of inner) count += countMembers(one, depth + 1);
  return count;
}

const QUOTE = 0x22;
const COLON = 0x3a;
const BACKSLASH = 0x5c;

/**
 * The colons outside of strings in a text that is JSON: one for each member that is written. -1 if a name is written with
 * an escape: V8 13.6 takes some of those for another name (after `{"p":1,"\\":1}`, it reads `{"p":1,"\u0022":1}` with a
 * backslash for a name), and no issuer writes one.
 */
function countColons(text: string): number {
  let count = 0;
  let inString = false;
  let escaped = false;
  for (let at = 0; at < text.length; at++) {
    const char = text.charCodeAt(at);
    if (char === QUOTE) {
      if (!inString) escaped = false;
      inString = !inString;
    } else if (inString && char === BACKSLASH) {
      escaped = true;
      at++;
    } else if (!inString && char === COLON) {
      if (escaped) return -1;
      count++;
    }
  }
  return count;
}

const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const NO_DIGIT = 64;
const DIGITS = new Uint8Array(128).fill(NO_DIGIT);
for (const [digit, char] of [...ALPHABET].entries()) DIGITS[char.charCodeAt(0)] = digit;

/**
 * The bytes of unpadded base64url (RFC 4648 §5), or null: for an empty text, for any other character, for a length that
 * no bytes have, and for bits after the last byte that are not zero, since they would be a second spelling.
 */
export function fromBase64Url(text: string): Uint8Array<ArrayBuffer> | null {
  if (text === "" || text.length % 4 === 1) return null;
  const bytes = new Uint8Array(Math.floor((text.length * 3) / 4));
  let bits = 0;
  let held = 0;
  let to = 0;
  for (let at = 0; at < text.length; at++) {
    const digit = DIGITS[text.charCodeAt(at)] ?? NO_DIGIT;
    if (digit === NO_DIGIT) return null;
    held = (held << 6) | digit;
    bits += 6;
    if (bits < 8) continue;
    bits -= 8;
    bytes[to++] = held >> bits;
    held &= (1 << bits) - 1;
  }
  return held === 0 ? bytes : null;
}

/** Unpadded base64url. */
export function toBase64Url(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}
