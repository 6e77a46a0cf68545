/**
 * Everything that is made of digits: identity numbers, cards, dotted quads, telephone numbers. The text is walked once; at each number
 * its groups are read (a window of bounded length), and the first reading that holds decides.
 */
import { isAlphanumeric, isAsciiLetter, isDigit, isWord, unitAt } from "./characters.ts";
import { cardIssuer, isCnIdentity, isOldCnIdentity, isSsn, passesLuhn } from "./checks.ts";
import { Certainty, type DetectedType, type Report } from "./finding.ts";
import {
  afterSeparator,
  arePartedBy,
  digitsIn,
  type Group,
  type Groups,
  joinedDigits,
  readGroups,
  runEnd,
  sizesOf,
} from "./groups.ts";
import { isOctet, isQuadElsewhere } from "./ip.ts";
import { isTail, MIN_PHONE_DIGITS, phoneAt } from "./phone.ts";

/** ISO/IEC 7812-1 allows fewer, issuers do not. */
const MIN_CARD_DIGITS = 12;
const CONTEXT = 40;

const ABOUT_CARDS =
  /card|credit|debit|\bcc\b|\bpan\b|visa|master|maestro|amex|american express|diners|discover|jcb|union ?pay|payment|charge|卡|银行|账户|帐户|信用|銀行|カード/i;
const ABOUT_ORDERS =
  /order|track|invoice|parcel|shipment|ticket|reference|\bref\b|serial|isbn|imei|\bsku\b|单号|订单|快递|物流|流水|编号/i;
const ABOUT_SSN = /\bssn|social\s?sec|\bitin\b|tax(?:payer)? id/i;
const ABOUT_CN_ID = /身份证|身份證|证件|公民|identity|\bid (?:card|no|number)/i;

export function findNumbers(text: string, types: ReadonlySet<string>, report: Report): void {
  const length = text.length;
  let groups: Group[] = [];
  for (let at = 0; at < length; at++) {
    if (!isDigit(text.charCodeAt(at))) continue;
    const first = runEnd(text, at);
    // What was read behind the last number is not read again.
    if (groups[0]?.start !== at) groups = [];
    let end = -1;
    if (groups.length > 0 || !isNothing(text, at, first)) {
      readGroups(text, at, groups);
      if (isLongEnough(groups)) end = takeNumber(text, at, groups, types, report);
    }
    at = end < 0 ? first : end - 1;
    if (end < 0) groups.shift();
    else groups = [];
  }
}

/** Whether digits are few and alone, or a part of a word: most are, and nothing of them needs to be read. */
function isNothing(text: string, at: number, end: number): boolean {
  const size = end - at;
  if (size < MIN_PHONE_DIGITS && afterSeparator(text, end) < 0) return true;
  // Identity numbers may stand behind letters, whole or in groups.
  return size < 15 && size !== 6 && isWord(unitAt(text, at - 1)) && isTail(text, at);
}

/** Reads what begins with the digit at `at`; the end of what was found, or -1. */
function takeNumber(text: string, at: number, groups: Groups, types: ReadonlySet<string>, report: Report): number {
  const found = (type: DetectedType, start: number, end: number, certainty: 1 | 2 | 3): number => {
    if (types.has(type)) report({ start, end, type, certainty });
    return end;
  };
  const cn = cnIdentityEnd(text, groups);
  if (cn > 0) return found("CN_ID", at, cn, Certainty.byCheck);
  const card = cardEnd(text, groups);
  if (card > 0) return found("CREDIT_CARD", at, card, Certainty.byCheck);
  const ssn = ssnEnd(text, groups);
  if (ssn > 0) return found("US_SSN", at, ssn, Certainty.byShape);
  const quad = quadEnd(text, groups);
  if (quad > 0) return found("IP", at, quad, Certainty.byShape);
  if (!types.has("PHONE")) return -1;
  const phone = phoneAt(text, at, groups);
  return phone === undefined ? -1 : found("PHONE", phone.start, phone.end, Certainty.byContext);
}

/** The shortest of all but a dotted quad are telephone numbers. */
function isLongEnough(groups: Groups): boolean {
  return digitsIn(groups, groups.length) >= MIN_PHONE_DIGITS || groups[1]?.parted === ".";
}

/** Whether the digits from `start` to `end` are a part of something longer: a word, a decimal, an identifier. */
function isPart(text: string, start: number, end: number): boolean {
  const before = unitAt(text, start - 1);
  if (isWord(before)) return true;
  if (before === 46 && isDigit(unitAt(text, start - 2))) return true;
  if (before === 45 && isAlphanumeric(unitAt(text, start - 2))) return true;
  const after = unitAt(text, end);
  if (isWord(after)) return true;
  return (after === 46 || after === 45) && isAlphanumeric(unitAt(text, end + 1)) && isDigit(unitAt(text, end + 1));
}

/** The same for a number whose check character and date leave little doubt: letters may stand before it. */
function isInWord(text: string, start: number, end: number): boolean {
  const before = unitAt(text, start - 1);
  return isPart(text, isAsciiLetter(before) || before === 95 ? -1 : start, end);
}

function lookBack(text: string, start: number): string {
  return text.slice(Math.max(0, start - CONTEXT), start);
}

function cnIdentityEnd(text: string, groups: Groups): number {
  const first = groups[0];
  const second = groups[1];
  if (first === undefined || (first.digits.length !== 6 && first.digits.length < 15)) return -1;
  let last = first;
  let id = first.digits;
  // The region, the date of birth and the rest stand apart on paper.
  if (id.length === 6 && (second?.parted === " " || second?.parted === "-")) {
    for (const group of groups.slice(1)) {
      if (id.length >= 17 || group.parted !== second.parted) break;
      id += group.digits;
      last = group;
    }
  }
  if (id.length < 15) return -1;
  let { end } = last;
  if (id.length === 17 && (unitAt(text, end) | 32) === 120) id += text.charAt(end++);
  if (isInWord(text, first.start, end)) return -1;
  if (isCnIdentity(id)) return end;
  return isOldCnIdentity(id) && ABOUT_CN_ID.test(lookBack(text, first.start)) ? end : -1;
}

/** How cards are printed: the sizes of their groups. */
const CARD_SHAPES = new Set([
  "4-4-4-4",
  "4-4-4-4-3",
  "4-6-5",
  "4-6-4",
  "4-4-4",
  "4-4-5",
  "6-13",
  "4-4-4-1",
  "4-4-4-3",
  "4-4-4-2",
]);

const CARD_SEPARATORS: ReadonlySet<string> = new Set([" ", "-", ".", "  "]);

function cardEnd(text: string, groups: Groups): number {
  const first = groups[0];
  if (first === undefined) return -1;
  if (first.digits.length >= MIN_CARD_DIGITS)
    return isCard(text, first.start, first.end, first.digits) ? first.end : -1;
  if (first.digits.length !== 4 && first.digits.length !== 6) return -1;
  const separator = groups[1]?.parted;
  if (separator === undefined || !CARD_SEPARATORS.has(separator)) return -1;
  for (let count = Math.min(5, groups.length); count > 1; count--) {
    const last = groups[count - 1];
    if (last === undefined || digitsIn(groups, count) < MIN_CARD_DIGITS) break;
    if (!arePartedBy(groups, count, separator) || !CARD_SHAPES.has(sizesOf(groups, count))) continue;
    if (isCard(text, first.start, last.end, joinedDigits(groups, count))) return last.end;
  }
  return -1;
}

function isCard(text: string, start: number, end: number, digits: string): boolean {
  if (digits.length > 19 || isPart(text, start, end)) return false;
  const issuer = passesLuhn(digits) ? cardIssuer(digits) : undefined;
  if (issuer === undefined) return false;
  const before = lookBack(text, start);
  if (ABOUT_CARDS.test(before) || ABOUT_CARDS.test(text.slice(end, end + CONTEXT / 2))) return true;
  return issuer === "sure" && !ABOUT_ORDERS.test(before.slice(-CONTEXT / 2));
}

function ssnEnd(text: string, groups: Groups): number {
  const area = groups[0];
  if (area === undefined) return -1;
  if (area.digits.length === 9) {
    const whole = area.digits;
    if (isPart(text, area.start, area.end) || !isSsn(whole.slice(0, 3), whole.slice(3, 5), whole.slice(5))) return -1;
    return ABOUT_SSN.test(lookBack(text, area.start)) ? area.end : -1;
  }
  const group = groups[1];
  const serial = groups[2];
  if (area.digits.length !== 3 || group?.digits.length !== 2 || serial?.digits.length !== 4) return -1;
  const separator = group.parted;
  if (separator.length !== 1 || serial.parted !== separator || isPart(text, area.start, serial.end)) return -1;
  const told = ABOUT_SSN.test(lookBack(text, area.start));
  // Numbers for taxpayers without one (9xx) are written alike and are as personal.
  if (told && area.digits.startsWith("9") && group.digits !== "00") return serial.end;
  return isSsn(area.digits, group.digits, serial.digits) && (told || separator === "-") ? serial.end : -1;
}

function quadEnd(text: string, groups: Groups): number {
  const first = groups[0];
  const fourth = groups[3];
  if (first === undefined || fourth === undefined || !arePartedBy(groups, 4, ".")) return -1;
  for (const { digits } of groups.slice(0, 4)) if (!isOctet(digits)) return -1;
  return isQuadElsewhere(text, first.start, fourth.end) ? -1 : fourth.end;
}
