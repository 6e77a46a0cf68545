/** IPv6 addresses (RFC 4291 §2.2) from their colons outwards; IPv4 dotted quads from the numbers that `numbers.ts` reads. */
import { isHex, isWord, unitAt } from "./characters.ts";
import { Certainty, type Report } from "./finding.ts";

/** "ffff:" six times and a dotted quad. */
const MAX_V6 = 45;
const NO_ADDRESS_BEFORE =
  /(?:(?:versi[oó]n|release|build|section|\bsec|chapter|revision|\brev|firmware|software|driver|plugin|package|\bver|\boid)["']?[.:=(]?\s?["']?|\bv[.:]?\s?|§\s?|版本号?[::]?\s?|版)$/i;
const LOOK_BACK = 16;

export function isOctet(digits: string): boolean {
  return digits.length <= 3 && Number(digits) <= 255 && (digits.length === 1 || !digits.startsWith("0"));
}

/** Whether what stands around a dotted quad says that it is something else: a version, a longer number, an object identifier. */
export function isQuadElsewhere(text: string, start: number, end: number): boolean {
  const before = unitAt(text, start - 1);
  if (isWord(before) || before === 46) return true;
  // Chrome/130.0.1.2, but not ://10.0.0.1
  if (before === 47 && isWord(unitAt(text, start - 2))) return true;
  const after = unitAt(text, end);
  if (isWord(after)) return true;
  if ((after === 46 || after === 45) && isWord(unitAt(text, end + 1)) && !isRange(text, end)) return true;
  return NO_ADDRESS_BEFORE.test(text.slice(Math.max(0, start - LOOK_BACK), start));
}

/** `10.0.0.1-10.0.0.9` */
function isRange(text: string, end: number): boolean {
  return text.charCodeAt(end) === 45 && /^\d{1,3}\.\d{1,3}\.\d/.test(text.slice(end + 1, end + 12));
}

export function findIpv6(text: string, report: Report): void {
  let done = 0;
  for (let colon = text.indexOf(":"); colon >= 0; colon = text.indexOf(":", Math.max(done, colon + 1))) {
    let end = colon;
    let colons = 0;
    let compressed = false;
    for (; end < text.length && isInside(text.charCodeAt(end)); end++) {
      if (text.charCodeAt(end) !== 58) continue;
      colons++;
      compressed ||= text.charCodeAt(end + 1) === 58;
    }
    const from = done;
    done = end;
    // All eight groups have seven colons between them; six with a dotted quad at the end.
    if (colons < 6 && !compressed) continue;
    let start = colon;
    while (start > from && isHex(text.charCodeAt(start - 1))) start--;
    // A colon before or after belongs to the sentence unless it is one of two.
    if (start === colon && text.charCodeAt(colon + 1) !== 58) start++;
    while (end > start && (text.charCodeAt(end - 1) === 46 || isLoneColon(text, end - 1))) end--;
    if (end - start > MAX_V6 || isWord(unitAt(text, start - 1)) || isWord(unitAt(text, end))) continue;
    if (isIpv6(text.slice(start, end))) report({ start, end, type: "IP", certainty: Certainty.byShape });
  }
}

function isInside(unit: number): boolean {
  return isHex(unit) || unit === 58 || unit === 46;
}

function isLoneColon(text: string, at: number): boolean {
  return text.charCodeAt(at) === 58 && text.charCodeAt(at - 1) !== 58;
}

function isIpv6(value: string): boolean {
  const halves = value.split("::");
  if (halves.length > 2) return false;
  const groups = halves.flatMap((half) => (half === "" ? [] : half.split(":")));
  const last = groups.at(-1) ?? "";
  let count = groups.length;
  if (last.includes(".")) {
    const quad = last.split(".");
    if (quad.length !== 4 || !quad.every((octet) => octet !== "" && isOctet(octet))) return false;
    groups.pop();
    count++;
  }
  if (!groups.every((group) => /^[0-9a-f]{1,4}$/i.test(group))) return false;
  if (halves.length === 1) return count === 8;
  if (count > 7) return false;
  // `1::2` is a slice and `a::b` a path in some languages: a compressed address shows more than that.
  return value === "::1" || last.includes(".") || (/\d/.test(value) && groups.some((group) => group.length >= 3));
}
