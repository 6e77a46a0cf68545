/** IBANs: a country, two check digits, then as many characters as that country has; together or in groups, in either case. */
import { isAlphanumeric, isAsciiLetter, isDigit, unitAt } from "./characters.ts";
import { ibanLength, mod97 } from "./checks.ts";
import { Certainty, type Report } from "./finding.ts";

/** The country and the check digits: nothing parts them, and they are reckoned last. */
const MOVED = 4;

export function findIbans(text: string, report: Report): void {
  for (let at = 2; at < text.length - 10; at++) {
    // Two digits after two letters, with nothing of the kind before.
    if (!isDigit(text.charCodeAt(at + 1))) {
      at++;
      continue;
    }
    if (!isDigit(text.charCodeAt(at))) continue;
    if (!isAsciiLetter(text.charCodeAt(at - 1)) || !isAsciiLetter(text.charCodeAt(at - 2))) continue;
    if (isAlphanumeric(unitAt(text, at - 3)) && !/iban$/i.test(text.slice(Math.max(0, at - 6), at - 2))) continue;
    const end = ibanEnd(text, at - 2);
    if (end < 0) continue;
    report({ start: at - 2, end, type: "IBAN", certainty: Certainty.byCheck });
    at = end;
  }
}

function ibanEnd(text: string, start: number): number {
  const length = ibanLength(text.slice(start, start + 2).toUpperCase());
  if (length === undefined) return -1;
  let count = 0;
  let rest = 0;
  let at = start;
  for (; count < length && at < text.length; at++) {
    const unit = text.charCodeAt(at);
    if (isAlphanumeric(unit)) {
      if (++count > MOVED) rest = mod97(rest, unit);
    }
    // Groups are of four on paper, and of any size but one in forms.
    else if (count < 2 || !isSeparator(unit) || !isAlphanumeric(unitAt(text, afterSpaces(text, at)))) return -1;
  }
  if (count < length || isAlphanumeric(unitAt(text, at))) return -1;
  for (let moved = start; moved < start + MOVED; moved++) rest = mod97(rest, text.charCodeAt(moved));
  return rest === 1 ? at : -1;
}

function isSeparator(unit: number): boolean {
  return unit === 32 || unit === 45 || unit === 46;
}

/** The place after a separator: two spaces are one. */
function afterSpaces(text: string, at: number): number {
  return text.charCodeAt(at) === 32 && text.charCodeAt(at + 1) === 32 ? at + 2 : at + 1;
}
