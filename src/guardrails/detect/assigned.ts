/**
 * Values that are given to a name which says that they are secret: `password = "…"`, `"api_key": "…"`, `密码：…`. The name alone is not
 * enough: a value that is code, a reference, a placeholder or a word is left alone.
 */
import { isWord, unitAt } from "./characters.ts";

export type Assigned = { readonly start: number; readonly end: number; readonly value: string };

/** Names of passwords: people choose them, so little is asked of the value. */
export const PASSWORD_NAMES = ["password", "passwd", "passphrase", "pwd", "pass", "密码", "口令"];
/** Names of keys and tokens: machines make them, so the value must look made. */
export const KEY_NAMES = [
  "secret",
  "token",
  "api_key",
  "api-key",
  "apikey",
  "api key",
  "access_key",
  "access-key",
  "accesskey",
  "auth_key",
  "private_key",
  "privatekey",
  "encryption_key",
  "signing_key",
  "master_key",
  "account_key",
  "accountkey",
  "credential",
  "密钥",
];

/** From the end of the word to the operator: `_for_production`, `']`, spaces. */
const MAX_REST_OF_NAME = 24;
const MAX_GAP = 4;
const MAX_VALUE = 200;
const MIN_PASSWORD = 6;
const MIN_KEY = 16;

/**
 * Reads the value assigned to the name in which a word ends at `at`, if one is. A value that is too long comes back empty, with the place of
 * what was read of it. `spaced`: words may stand between (`Dropbox token = …`).
 */
export function readAssigned(text: string, at: number, spaced = false): Assigned | undefined {
  let next = at;
  while (next < at + MAX_REST_OF_NAME && (isNamePart(unitAt(text, next)) || (spaced && unitAt(text, next) === 32)))
    next++;
  next = skip(text, next, " \t'\"`]）)");
  const operated = afterOperator(text, next);
  if (operated < 0 || ABOUT_ITSELF.test(text.slice(at, at + 12))) return undefined;
  const start = skip(text, operated, " \t'\"`");
  const quote = start > operated && "'\"`".includes(text.charAt(start - 1)) ? text.charCodeAt(start - 1) : -1;
  const end = valueEnd(text, start, quote);
  if (end - start >= MAX_VALUE) return { start, end, value: "" };
  return end - start < MIN_PASSWORD ? undefined : { start, end, value: text.slice(start, end) };
}

function isNamePart(unit: number): boolean {
  return isWord(unit) || unit === 45 || unit === 46;
}

function skip(text: string, from: number, units: string): number {
  let at = from;
  while (at < from + MAX_GAP && at < text.length && units.includes(text.charAt(at))) at++;
  return at;
}

/** The offset after `=`, `:`, `:=`, `=>`, ` is `, `是`, `为`; -1 when there is none, or when it compares. */
function afterOperator(text: string, at: number): number {
  const two = text.slice(at, at + 2);
  if (two === "==" || two === "::") return -1;
  if (two === ":=" || two === "=>") return at + 2;
  const one = two.charAt(0);
  if (one === "=" || one === ":" || one === "是" || one === "为") return at + 1;
  return text.startsWith("is ", at) || text.startsWith("is:", at) ? at + 3 : -1;
}

/** What ends a value without quotes. */
const VALUE_ENDS = new Set([..." \t\n\r'\"`,;)}]<>|"].map((sign) => sign.charCodeAt(0)));
/** From here on: scripts without spaces, and their signs. */
const FIRST_UNSPACED = 0x2e80;

function valueEnd(text: string, start: number, quote: number): number {
  const limit = Math.min(text.length, start + MAX_VALUE);
  let end = start;
  for (; end < limit; end++) {
    const unit = text.charCodeAt(end);
    if (quote < 0 ? VALUE_ENDS.has(unit) || unit >= FIRST_UNSPACED : unit === quote || unit === 10 || unit === 13)
      break;
  }
  if (end - start >= MAX_VALUE) return end;
  if (quote >= 0) return unitAt(text, end) === quote ? end : start;
  while (end > start && ".!?:".includes(text.charAt(end - 1))) end--;
  return end;
}

const REFERENCE =
  /^(?:[$%<{[(*.]|\\|process\.|os\.|env|config|settings|self\.|this\.|ctx\.|req|await|new |get|your|my[_-]|example|sample|placeholder|change|dummy|none|null|nil|undefined|true|false|redacted|https?:|sha\d|data:|https|string|required|optional)/i;
const PLACEHOLDER = /x{4}|\*{3}|\.{3}|<|>|\$\{|\{\{|\(|your[_-]|_here|example|placeholder|redacted|process\.env/i;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

/** What a name goes on with that makes its value something about the secret: `token_count`, `secretName`. */
const ABOUT_ITSELF =
  /^s?[_.-]?(?:names?|ids?|ur[il]s?|files?|path|type|length|expir\w*|count|limit|endpoint|version|size|label|hint|prefix|policy|field|format|used|usage)(?![a-z])/i;
/** `user.password1`, and words with numbers in a row: `my-app-secrets-v2`. */
const DOTTED_NAME = /^[A-Za-z_$][\w$]{0,40}(?:\.[A-Za-z_$][\w$]{0,40}){1,6}$/;
const WORD = "(?:(?:[A-Z]{1,14}|[A-Z]?[a-z]{1,14}(?:[A-Z][a-z]{1,14}){0,3})\\d{0,2}|v?\\d{1,4})";
const WORDS = new RegExp(`^${WORD}(?:[-_./:]${WORD}){1,16}$`);

export function isReference(value: string): boolean {
  return REFERENCE.test(value) || PLACEHOLDER.test(value) || DOTTED_NAME.test(value);
}

/** A password mixes kinds of characters; a word, a number and a path are none. */
export function isPassword(value: string): boolean {
  if (value.length > 64 || isReference(value) || /\s/.test(value)) return false;
  const letters = /[A-Za-z]/.test(value);
  const digits = /\d/.test(value);
  const signs = /[^\w.\-/]/.test(value);
  return (letters && digits) || (signs && (letters || digits) && !/^[A-Za-z]+[:@,]/.test(value));
}

/** A key is long, of one alphabet, and no row of words. */
export function isKey(value: string): boolean {
  if (
    value.length < MIN_KEY ||
    !/^[\w.+/=~-]+$/.test(value) ||
    isReference(value) ||
    UUID.test(value) ||
    isWords(value)
  )
    return false;
  return /\d/.test(value) && /[A-Za-z]/.test(value) && entropy(value) >= 3.4;
}

/** Whether a value is made of words and small numbers, as names of things are. */
export function isWords(value: string): boolean {
  return WORDS.test(value);
}

/** How often each ASCII character occurs in the value at hand; all zero in between. */
const occurrences = new Uint16Array(128);

/** Shannon entropy in bits per character, over the first 256 of them. Takes ASCII. */
export function entropy(value: string): number {
  const length = Math.min(value.length, 256);
  for (let at = 0; at < length; at++) {
    const unit = value.charCodeAt(at) & 127;
    occurrences[unit] = (occurrences[unit] ?? 0) + 1;
  }
  // Most occur once.
  const once = (1 / length) * Math.log2(1 / length);
  let bits = 0;
  for (let at = 0; at < length; at++) {
    const unit = value.charCodeAt(at) & 127;
    const count = occurrences[unit] ?? 0;
    if (count > 0) bits -= count === 1 ? once : (count / length) * Math.log2(count / length);
    occurrences[unit] = 0;
  }
  return bits;
}
