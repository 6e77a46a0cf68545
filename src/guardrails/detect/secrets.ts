/**
 * Secrets. One walk finds the keywords of all rules; a rule is tried only where its keyword stands. What a try costs is bounded, or shared
 * with the tries after it (a run of characters that was read once is not read again), so the whole is linear.
 */
import {
  type Assigned,
  entropy,
  isKey,
  isPassword,
  isReference,
  isWords,
  KEY_NAMES,
  PASSWORD_NAMES,
  readAssigned,
} from "./assigned.ts";
import { isAlphanumeric, isAsciiLetter, isWord, unitAt } from "./characters.ts";
import { Certainty, type Report } from "./finding.ts";
import { type Keywords, prepareKeywords } from "./keywords.ts";
import { NAMED_RULES, type NamedRule, SECRET_RULES, type SecretRule } from "./secret-rules.ts";

/** Takes the text, where the keyword begins and where it ends; reports what it finds. */
type Try = (search: Search, start: number, end: number) => void;

/** What one walk over one text remembers. */
type Search = {
  readonly text: string;
  readonly report: Report;
  /** By rule: where its last find ended. What lies inside is not looked at again. */
  readonly ends: Map<SecretRule | Try, number>;
  /** Where the next `-----END` stands, as far as it is known; the text's length for none. */
  pemEnd: number;
  /** A row of characters that is too long for a value: names inside it are no names. */
  valueStart: number;
  valueEnd: number;
  /** What was read last, and behind which place: several rules have the same word. */
  read: Assigned | undefined;
  readAt: number;
  readSpaced: boolean;
};

let prepared:
  | { readonly find: Keywords; readonly tries: readonly (readonly Try[])[]; readonly lengths: readonly number[] }
  | undefined;

export function findSecrets(text: string, report: Report): void {
  prepared ??= prepare();
  const { find, tries, lengths } = prepared;
  const search: Search = {
    text,
    report,
    ends: new Map(),
    pemEnd: -1,
    valueStart: 0,
    valueEnd: 0,
    read: undefined,
    readAt: -1,
    readSpaced: false,
  };
  find(text, (keyword, start) => {
    for (const attempt of tries[keyword] ?? []) attempt(search, start, start + (lengths[keyword] ?? 0));
  });
}

function prepare(): NonNullable<typeof prepared> {
  const byKeyword = new Map<string, Try[]>();
  const add = (keyword: string, attempt: Try): void => {
    byKeyword.set(keyword, [...(byKeyword.get(keyword) ?? []), attempt]);
  };
  for (const rule of SECRET_RULES) add(rule.keyword, tryRule(rule));
  for (const rule of NAMED_RULES) add(rule.keyword, tryNamed(rule));
  for (const name of PASSWORD_NAMES) add(name, tryPassword);
  for (const name of KEY_NAMES) add(name, tryKey);
  add("-----begin", tryPem);
  add("eyj", tryJwt);
  add("://", tryUrl);
  for (const der of ["mii", "mhcc", "migk", "migh", "mige"]) add(der, tryDer);
  const keywords = [...byKeyword.keys()];
  return {
    find: prepareKeywords(keywords),
    tries: [...byKeyword.values()],
    lengths: keywords.map(({ length }) => length),
  };
}

function tell(search: Search, start: number, end: number, rule: string, certainty: 1 | 2 | 3): void {
  search.report({ start, end, type: "SECRET", rule, certainty });
}

/** What documentation has in the place of a token, and members of an object `s`. */
const MADE_UP = /x{8}|EXAMPLE(?:KEY)?$|^s\.[a-z]+$/i;

function tryRule(rule: SecretRule): Try {
  return (search, keyword) => {
    const start = keyword - rule.back;
    if (start < (search.ends.get(rule) ?? 0)) return;
    if (!rule.hidden && isAlphanumeric(unitAt(search.text, start - 1))) return;
    rule.shape.lastIndex = start;
    const match = rule.shape.exec(search.text)?.[0];
    if (match === undefined) return;
    search.ends.set(rule, start + match.length);
    if ((rule.entropy > 0 && (entropy(match) < rule.entropy || isWords(match))) || MADE_UP.test(match)) return;
    // The scheme of an Authorization header is not secret.
    const scheme = rule.id.endsWith("-authorization") ? match.indexOf(" ") + 1 : 0;
    if (scheme > 0 && !/\d/.test(match)) return;
    const end = start + match.length;
    if (!rule.hidden) tell(search, start + scheme, end, rule.id, scheme > 0 ? Certainty.byContext : Certainty.byCheck);
    if (rule.companion !== undefined) tellCompanion(search, end, rule.id, rule.companion);
  };
}

/** How far after an identifier its secret may stand: on the next lines of a configuration. */
const MAX_APART = 160;

/** The secret that belongs to an identifier beside it: alone it is a row of characters like any other. */
function tellCompanion(search: Search, from: number, rule: string, companion: RegExp): void {
  const found = companion.exec(search.text.slice(from, from + MAX_APART));
  const secret = found?.[1];
  if (found === null || secret === undefined || entropy(secret) < 3.5 || !/\d/.test(secret) || !/[g-z/+]/i.test(secret))
    return;
  const start = from + found.index + found[0].indexOf(secret);
  tell(search, start, start + secret.length, rule, Certainty.byShape);
}

/** Reads what is assigned, unless the name itself stands in a value that was read before. */
function assignedAfter(search: Search, start: number, end: number, spaced = false): Assigned | undefined {
  if (start < search.valueEnd && start >= search.valueStart) return undefined;
  if (search.readAt !== end || search.readSpaced !== spaced) {
    search.read = readAssigned(search.text, end, spaced);
    search.readAt = end;
    search.readSpaced = spaced;
  }
  const { read } = search;
  if (read === undefined || read.value !== "") return read;
  search.valueStart = read.start;
  search.valueEnd = read.end;
  return undefined;
}

/** Sixteen hexadecimal digits by chance have less than 2.5 bits once in ten thousand times; words and counts often do. */
const MIN_NAMED_ENTROPY = 2.5;

function tryNamed(rule: NamedRule): Try {
  return (search, start, end) => {
    const assigned = assignedAfter(search, start, end, true);
    if (assigned === undefined || !rule.value.test(assigned.value) || isReference(assigned.value)) return;
    if (!/\d/.test(assigned.value) || entropy(assigned.value) < MIN_NAMED_ENTROPY) return;
    tell(search, assigned.start, assigned.end, rule.id, Certainty.byShape);
  };
}

const tryPassword: Try = (search, start, end) => {
  // "pass" inside "bypass" or "compass" is no name.
  if (end - start === 4 && isAsciiLetter(unitAt(search.text, start - 1)) && isAsciiLetter(unitAt(search.text, end)))
    return;
  const assigned = assignedAfter(search, start, end);
  if (assigned !== undefined && isPassword(assigned.value))
    tell(search, assigned.start, assigned.end, "password", Certainty.byContext);
};

const tryKey: Try = (search, start, end) => {
  const assigned = assignedAfter(search, start, end);
  if (assigned !== undefined && isKey(assigned.value))
    tell(search, assigned.start, assigned.end, "key", Certainty.byContext);
};

/** RFC 7468 and OpenPGP armour. A block that is cut off is taken as far as it looks like one. */
const PEM_HEADER = /-----BEGIN[ A-Z0-9_-]{0,80}PRIVATE KEY(?: BLOCK)?-----/iy;
const MAX_PEM = 32_768;
const MIN_PEM_BODY = 40;

const tryPem: Try = (search, start) => {
  const { text, ends } = search;
  if (start < (ends.get(tryPem) ?? 0)) return;
  PEM_HEADER.lastIndex = start;
  const header = PEM_HEADER.exec(text)?.[0];
  if (header === undefined) return;
  const body = start + header.length;
  if (search.pemEnd < body) {
    const found = text.indexOf("-----END", body);
    search.pemEnd = found < 0 ? text.length : found;
  }
  let end = search.pemEnd;
  if (end - start <= MAX_PEM && end < text.length) {
    const line = text.indexOf("-----", end + 8);
    if (line > 0 && line - end < 128) end = line + 5;
  } else {
    end = body;
    while (end < text.length && end - start < MAX_PEM && isPemBody(text.charCodeAt(end))) end++;
    while (end > body && !isBase64(text.charCodeAt(end - 1))) end--;
  }
  if (end - body < MIN_PEM_BODY) return;
  ends.set(tryPem, end);
  tell(search, start, end, "private-key", Certainty.byCheck);
};

function isBase64(unit: number): boolean {
  return isAlphanumeric(unit) || unit === 43 || unit === 47 || unit === 61;
}

/** Base64, white space, and what headers and escaped line ends are made of. */
function isPemBody(unit: number): boolean {
  return (
    isBase64(unit) ||
    unit === 32 ||
    unit === 10 ||
    unit === 13 ||
    unit === 9 ||
    unit === 92 ||
    unit === 58 ||
    unit === 44 ||
    unit === 45
  );
}

/** RFC 7519 in compact form: a header in Base64 that begins with `{"`, and a body alike; five parts when encrypted. */
const MIN_PART = 8;

const tryJwt: Try = (search, start) => {
  const { text, ends } = search;
  if (start < (ends.get(tryJwt) ?? 0) || isAlphanumeric(unitAt(text, start - 1)) || unitAt(text, start + 1) !== 121)
    return;
  const dots: number[] = [];
  let end = start;
  for (; end < text.length; end++) {
    const unit = text.charCodeAt(end);
    if (unit === 46 && dots.length < 4) dots.push(end);
    else if (!isWord(unit) && unit !== 45 && unit !== 43 && unit !== 47 && unit !== 61) break;
  }
  ends.set(tryJwt, end);
  const [first, second] = dots;
  if (first === undefined || first - start < MIN_PART) return;
  const signed = text.startsWith("eyJ", first + 1) && (second ?? end) - first > MIN_PART;
  if (!signed && dots.length !== 4) return;
  while (text.charCodeAt(end - 1) === 46 && dots.length > 2) end--;
  if (entropy(text.slice(start, end)) >= 3) tell(search, start, end, "json-web-token", Certainty.byCheck);
};

/** `scheme://user:password@host` (RFC 3986 §3.2.1). */
const MAX_USER = 64;
const MAX_PASSWORD = 128;
const MIN_URL_PASSWORD = 3;

const tryUrl: Try = (search, _, end) => {
  const { text } = search;
  const colon = userinfoEnd(text, end, end + MAX_USER, true);
  if (text.charCodeAt(colon) !== 58) return;
  const at = userinfoEnd(text, colon + 1, colon + MAX_PASSWORD, false);
  if (text.charCodeAt(at) !== 64 || at - colon <= MIN_URL_PASSWORD || isReference(text.slice(colon + 1, at))) return;
  tell(search, colon + 1, at, "url-credentials", Certainty.byShape);
};

function userinfoEnd(text: string, from: number, limit: number, untilColon: boolean): number {
  let at = from;
  while (at < limit && at < text.length) {
    const unit = text.charAt(at);
    if (/[\s/?#@'"<>]/.test(unit) || (untilColon && unit === ":")) break;
    at++;
  }
  return at;
}

/** A private key's DER in Base64 without its armour: PKCS #1 and #8 by their version number, SEC 1 by its first octets. */
const DER = /(?:MII[A-Za-z0-9+/]{3}IBA(?:A[JK]|DA)|MHcCAQEE|MIGkAgEBB|MIGHAgEAMBMG|MIGEAgEAMBAG)[A-Za-z0-9+/]/y;
const MIN_DER = 100;

const tryDer: Try = (search, start) => {
  const { text, ends } = search;
  if (start < (ends.get(tryDer) ?? 0) || isAlphanumeric(unitAt(text, start - 1))) return;
  DER.lastIndex = start;
  if (!DER.test(text)) return;
  let end = start;
  let last = start;
  for (; end < text.length && end - start < MAX_PEM; end++) {
    const unit = text.charCodeAt(end);
    if (isBase64(unit)) last = end + 1;
    else if (unit === 10 && isBase64Line(text, end + 1)) continue;
    else if (unit !== 13 && unit !== 32 && unit !== 9) break;
    else if (unit === 32 && text.charCodeAt(end - 1) !== 10 && text.charCodeAt(end - 1) !== 32) break;
  }
  ends.set(tryDer, end);
  if (last - start >= MIN_DER) tell(search, start, last, "private-key", Certainty.byCheck);
};

/** Whether a line, indented or not, begins with Base64 that no prose has. */
function isBase64Line(text: string, at: number): boolean {
  return /^[ \t]{0,32}(?:[A-Za-z0-9+/]{24}|[A-Za-z0-9+/=]{1,64}(?:\s|$))/.test(text.slice(at, at + 100));
}
