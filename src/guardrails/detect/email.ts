/**
 * E-mail addresses, found from their `@` outwards. The local part may be international (RFC 6531), and yet a Chinese sentence that touches
 * the address is no part of it: a script without spaces belongs to the address only where the address itself is written in it.
 */
import { isAlphanumeric, isAsciiLetter, isDigit, isSpacedLetter, isUnspacedScript, unitAt } from "./characters.ts";
import { Certainty, type Report } from "./finding.ts";

/** RFC 5321 §4.5.3.1.1 and .2, in characters. */
const MAX_LOCAL = 64;
const MAX_DOMAIN = 255;
/** A name of a person in Han or Hangul; what is longer is a sentence. */
const MAX_UNSPACED_NAME = 4;
/** How far a URL's `://` may be before the `@` of its user and password. */
const MAX_USERINFO = 128;

/** Of RFC 5322's atext, what addresses in use have, without what stands before addresses in texts and code. */
const LOCAL_SIGNS = new Set([..."._%+-'&~"].map((sign) => sign.charCodeAt(0)));
/** Endings of files that no top-level domain has: `icon@2x.png` is a picture. */
const FILE_ENDINGS = new Set(
  "png jpg jpeg gif svg webp css js jsx tsx json html htm xml yaml yml txt pdf exe dll".split(" "),
);
const UNSPACED_TLDS = [
  "中国",
  "中國",
  "公司",
  "网络",
  "網絡",
  "集团",
  "在线",
  "香港",
  "台湾",
  "台灣",
  "澳門",
  "新加坡",
  "한국",
  "みんな",
  "世界",
];

export function findEmails(text: string, report: Report): void {
  let from = 0;
  for (let at = text.indexOf("@"); at >= 0; at = text.indexOf("@", at + 1)) {
    const start = localStart(text, at, from);
    if (start === at) continue;
    const end = domainEnd(text, at + 1);
    if (end < 0 || isNoAddress(text, start, at, end)) continue;
    report({ start, end, type: "EMAIL", certainty: Certainty.byCheck });
    from = end;
  }
}

function isLocal(unit: number): boolean {
  return isAlphanumeric(unit) || LOCAL_SIGNS.has(unit) || isSpacedLetter(unit);
}

/** Where the local part before `at` begins; `at` itself when there is none. */
function localStart(text: string, at: number, from: number): number {
  const limit = Math.max(from, at - MAX_LOCAL);
  let start = at;
  while (start > limit && isLocal(text.charCodeAt(start - 1))) start--;
  start = unspacedStart(text, start, at, limit);
  // Quotes, signs and dots that stand before an address.
  while (start < at && !isLetterOrDigit(text.charCodeAt(start)) && text.charCodeAt(start) !== 95) start++;
  return text.charCodeAt(at - 1) === 46 ? at : start;
}

/** `秀英.胡79@`: a name in a script without spaces, dotted or followed by nothing but digits before an address in the same script. */
function unspacedStart(text: string, start: number, at: number, limit: number): number {
  if (!isUnspacedScript(unitAt(text, start - 1)) || start <= limit) return start;
  for (let index = start; index < at; index++) if (!isDigit(text.charCodeAt(index))) return start;
  const last = unspacedRun(text, start, limit);
  if (text.charCodeAt(last - 1) === 46 && last - 1 > limit) {
    const first = unspacedRun(text, last - 1, limit);
    if (first < last - 1) return Math.max(first, last - 1 - MAX_UNSPACED_NAME);
  }
  return isUnspacedScript(unitAt(text, at + 1)) ? Math.max(last, start - MAX_UNSPACED_NAME) : start;
}

function unspacedRun(text: string, end: number, limit: number): number {
  let start = end;
  while (start > limit && isUnspacedScript(text.charCodeAt(start - 1))) start--;
  return start;
}

function isLetterOrDigit(unit: number): boolean {
  return isAlphanumeric(unit) || isSpacedLetter(unit) || isUnspacedScript(unit);
}

/** Where the domain that begins at `from` ends, or -1 when it is none. */
function domainEnd(text: string, from: number): number {
  const limit = Math.min(text.length, from + MAX_DOMAIN);
  let end = -1;
  let labels = 0;
  for (let at = from; at < limit; ) {
    const label = labelEnd(text, at, limit);
    if (label === at) break;
    labels++;
    if (labels > 1 && isTopLevel(text, at, label)) end = label;
    if (text.charCodeAt(label) !== 46) break;
    at = label + 1;
  }
  return end;
}

function labelEnd(text: string, from: number, limit: number): number {
  if (isUnspacedScript(unitAt(text, from))) {
    const known = UNSPACED_TLDS.find((tld) => text.startsWith(tld, from));
    if (known !== undefined) return from + known.length;
    let end = from;
    while (end < limit && isUnspacedScript(text.charCodeAt(end))) end++;
    return end;
  }
  let end = from;
  while (
    end < limit &&
    (isAlphanumeric(unitAt(text, end)) || unitAt(text, end) === 45 || isSpacedLetter(unitAt(text, end)))
  )
    end++;
  while (end > from && text.charCodeAt(end - 1) === 45) end--;
  return unitAt(text, from) === 45 ? from : end;
}

function isTopLevel(text: string, start: number, end: number): boolean {
  if (isUnspacedScript(unitAt(text, start))) return UNSPACED_TLDS.includes(text.slice(start, end));
  if (end - start < 2 || end - start > 24) return false;
  const label = text.slice(start, end).toLowerCase();
  if (label.startsWith("xn--")) return true;
  for (let at = start; at < end; at++) {
    if (!isAsciiLetter(text.charCodeAt(at)) && !isSpacedLetter(text.charCodeAt(at))) return false;
  }
  return !FILE_ENDINGS.has(label);
}

/** `git@host:path`, `package@1.2.3-next`, and the password of a URL, which is a secret and not an address. */
function isNoAddress(text: string, start: number, at: number, end: number): boolean {
  const local = text.slice(start, at);
  if (local === "git" && text.charCodeAt(end) === 58) return true;
  if (/^v?\d+\.\d/.test(text.slice(at + 1, at + 24))) return true;
  if (!":/".includes(text.charAt(start - 1)) || start === 0) return false;
  const before = text.slice(Math.max(0, start - MAX_USERINFO), start);
  const scheme = before.lastIndexOf("://");
  return scheme >= 0 && !/[\s/?#]/.test(before.slice(scheme + 3));
}
