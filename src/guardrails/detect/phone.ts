/**
 * Telephone numbers. A shape that a country uses and little else has is enough (international prefix, North American 3-3-4, Chinese
 * mobile and landline); any other row of digits is a number only with a word about telephones beside it.
 */
import { isAlphanumeric, isAsciiLetter, isDigit, isWord, unitAt } from "./characters.ts";
import { arePartedBy, digitsIn, type Group, type Groups, joinedDigits, sizesOf } from "./groups.ts";

/** E.164 §6.2.1: at most 15 digits. */
const MAX_DIGITS = 15;
/** `011`, the longest prefix for calls abroad that is known here. */
const MAX_PREFIX = 3;
/** The shortest numbers in use are of six digits. */
export const MIN_PHONE_DIGITS = 6;
const MAX_EXTENSION = 6;
const LOOK_BACK = 32;

/** Words that say so although they touch the number. */
const GLUED_PHONE = /(?<![a-z])(?:tel|phone|telephone|mobile|mob|cell|fax)$/i;
const GLUED_ENDINGS: ReadonlySet<string> = new Set(["el", "ne", "le", "ob", "ll", "ax"]);
/** Words that say so of digits in groups. */
const ABOUT_PHONES =
  /phone|\btel\b|\btél|telef|\bmobil|\bcell|\bfax\b|\b(?:call|dial)(?:ed|ing|s)?(?: \w{1,12}){0,2}(?: at| on| under)?:? ?$|\b(?:reach|ring|text|contact)(?:ed|ing)?(?: \w{1,12}){0,2}(?: me| us| him| her| them| at| on| under|:) ?$|answering|whats ?app|\bsms\b|hotline|helpline|landline|\bhandy|numéro|numero|rufnummer|电话|電話|手机|手機|座机|热线|联系方式|传真|拨打|致电|(?<!订单|快递|证件|身份证|账户?|单)号码/i;
/** Words that say so even of a bare row of digits. */
const ABOUT_BARE_PHONES =
  /phone|\btel\b|\btél|telef|\bmobil|\bcell(?=:| (?:is|no|number|#))|\b(?:my|your|his|her|our|their) cell\b|\bfax\b|\b(?:call|dial)(?: me| us| him| her| them)?(?: at| on)? $|\b(?:text|ring|reach|contact)(?: me| us| him| her| them)(?: at| on)? $|answering|whats ?app|\bsms\b|hotline|helpline|landline|rufnummer|电话|電話|手机|手機|座机|热线|联系方式|传真|拨打|致电/i;
/** A word about something else between the word about telephones and the number. */
const ABOUT_OTHERS =
  /order|invoice|ticket|\bid\b|\bref|version|amount|price|account|error|\bport\b|\bpid\b|zip|单号|订单/i;
const ABOUT_PHONES_AFTER = /[\s,\\(-]{0,3}(?:office|fax|mobile|cell|home|work|direct|phone|landline|tel\b|手机|电话)/iy;
const ABOUT_ORDERS = /order|track|invoice|parcel|ticket|serial|\bid\b|[_-]id"?\s?[:=]|#$|单号|订单|快递|编号|流水/i;

/** Where the number begins whose first digit is at `at`: its plus sign and brackets are part of it. */
function phoneStart(text: string, at: number): number {
  let start = at;
  if (text.charCodeAt(start - 1) === 40) start--;
  if (text.charCodeAt(start - 1) === 43) start--;
  if (start < at && text.charCodeAt(start - 1) === 40 && text.charCodeAt(start) === 43) start--;
  return start;
}

/** The place of the telephone number whose first digit is at `at` and that has these groups, or undefined. */
export function phoneAt(text: string, at: number, groups: Groups): { start: number; end: number } | undefined {
  const start = phoneStart(text, at);
  const end = phoneEnd(text, start, groups);
  if (end < 0) return undefined;
  // A bracket that nothing closes belongs to the sentence.
  const opened = text.charCodeAt(start) === 40 && !/^[^(]*\)/.test(text.slice(start + 1, end));
  return { start: opened ? start + 1 : start, end };
}

function phoneEnd(text: string, start: number, groups: Groups): number {
  if (!couldBePhone(groups) || isSpacedTail(text, start, groups) || isTail(text, start)) return -1;
  const hint = new Hint(text, start);
  const all = joinedDigits(groups, groups.length);
  let size = all.length;
  for (let count = groups.length; size >= MIN_PHONE_DIGITS; count--) {
    const last = groups[count - 1];
    if (last === undefined) break;
    const digits = size;
    size -= last.digits.length;
    if (digits > MAX_DIGITS + MAX_PREFIX) continue;
    const end = withExtension(text, last.end);
    if (isHead(text, end)) continue;
    if (isPhone(text, start, groups.slice(0, count), all.slice(0, digits), hint)) return end;
  }
  return -1;
}

/** Enough digits, and not all in groups of one or two: tells lists of small numbers apart at once. */
function couldBePhone(groups: Groups): boolean {
  let lone = 0;
  for (let index = 0; index < groups.length; index++) if (groups[index]?.digits.length === 1) lone++;
  return lone <= 2;
}

/** Whether something before makes the digits a part of it. */
export function isTail(text: string, start: number): boolean {
  const before = unitAt(text, start - 1);
  if (isAsciiLetter(before)) {
    const ending = text.slice(Math.max(0, start - 2), start).toLowerCase();
    return !GLUED_ENDINGS.has(ending) || !GLUED_PHONE.test(text.slice(Math.max(0, start - 10), start));
  }
  if (isWord(before) || before === 47 || before === 36) return true;
  if (before === 44) return isDigit(unitAt(text, start - 2));
  return (before === 46 || before === 45) && isAlphanumeric(unitAt(text, start - 2));
}

function isHead(text: string, end: number): boolean {
  const after = unitAt(text, end);
  if (isWord(after)) return true;
  return (after === 46 || after === 44 || after === 58 || after === 45) && isDigit(unitAt(text, end + 1));
}

/** `x818`, ` ext. 12` */
function withExtension(text: string, end: number): number {
  const spaced = text.charCodeAt(end) === 32;
  const letter = text.charAt(spaced ? end + 1 : end);
  if (letter === "" || !(spaced ? "xeXE分" : "xeXE").includes(letter)) return end;
  const match = /^(?: ?x| ?ext\.? ?| ?分机)(\d{1,6})(?!\w)/i.exec(text.slice(end, end + 8 + MAX_EXTENSION));
  return match === null ? end : end + match[0].length;
}

/** Words beside a number, looked for once and only when a shape asks. */
class Hint {
  private readonly text: string;
  private readonly start: number;
  private before: string | undefined;
  /** What the words before say of digits in groups, and of bare ones. */
  private ofGroups: boolean | undefined;
  private ofBare: boolean | undefined;

  constructor(text: string, start: number) {
    this.text = text;
    this.start = start;
  }

  private lookBack(): string {
    if (this.before === undefined) {
      const window = this.text.slice(Math.max(0, this.start - LOOK_BACK), this.start);
      // What is said about another number is not said about this one.
      this.before = window.slice(Math.max(window.lastIndexOf("\n") + 1, lastDigit(window) + 1));
    }
    return this.before;
  }

  isPhone(end: number, bare: boolean): boolean {
    ABOUT_PHONES_AFTER.lastIndex = end;
    if (ABOUT_PHONES_AFTER.test(this.text)) return true;
    if (bare) {
      this.ofBare ??= this.isTold(ABOUT_BARE_PHONES);
      return this.ofBare;
    }
    this.ofGroups ??= this.isTold(ABOUT_PHONES);
    return this.ofGroups;
  }

  private isTold(words: RegExp): boolean {
    const before = this.lookBack();
    // No word is shorter.
    const told = before.length < 2 ? -1 : before.search(words);
    return told >= 0 && !ABOUT_OTHERS.test(before.slice(told));
  }

  isOrder(): boolean {
    return ABOUT_ORDERS.test(this.lookBack().slice(-LOOK_BACK / 2));
  }
}

function lastDigit(text: string): number {
  let at = text.length - 1;
  while (at >= 0 && !isDigit(text.charCodeAt(at))) at--;
  return at;
}

function isPhone(text: string, start: number, groups: Groups, digits: string, hint: Hint): boolean {
  const first = groups[0];
  const last = groups.at(-1);
  if (first === undefined || last === undefined) return false;
  if (digits.length > MAX_DIGITS && digits.length > MAX_DIGITS + (/^(?:00|011)/.exec(digits)?.[0].length ?? 0))
    return false;
  if (digits.charCodeAt(0) === digits.charCodeAt(1) && /^(\d)\1+$/.test(digits)) return false;
  if (start < first.start && text.slice(start, first.start).includes("+")) return isInternational(groups, digits);
  if (isStrokeIn(groups, 1)) return isStroked(groups, hint);
  if (isChinese(groups, digits)) return !hint.isOrder();
  if (isNorthAmerican(groups, digits)) return true;
  if (isNational(text, groups, digits)) return !hint.isOrder();
  // The prefix for calls abroad, written out.
  if (digits.length >= 10 && digits.startsWith("0") && /^(?:00[1-9]|011[2-9])/.test(digits)) {
    return isPlain(groups) && (groups.length > 2 || hint.isPhone(last.end, true));
  }
  const bracketed = text.charCodeAt(start) === 40 && text.charCodeAt(first.end) === 41;
  if (bracketed && first.digits.length <= 4 && groups.length > 1 && digits.length >= 8) return true;
  return digits.length <= 13 && hint.isPhone(last.end, groups.length === 1) && isPlain(groups) && !isDate(groups);
}

function isInternational(groups: Groups, digits: string): boolean {
  if (digits.startsWith("0") || digits.length < 8) return false;
  if (groups.length === 1 && digits.startsWith("86") && digits.length === 13) return isMobile(digits.slice(2));
  // A bare sum is shorter: +1234567
  return groups.length > 1 ? isPlain(groups, INTERNATIONAL_PARTS) : digits.length >= 10;
}

const STROKES: ReadonlySet<string> = new Set(["/", " /", "/ ", " / "]);

function isStrokeIn(groups: Groups, from: number): boolean {
  for (let index = from; index < groups.length; index++) if (groups[index]?.parted.includes("/")) return true;
  return false;
}

/** A stroke parts an area code from its number, and nothing else. */
function isStroked(groups: Groups, hint: Hint): boolean {
  const [area, local, rest] = groups;
  const last = groups.at(-1);
  if (area === undefined || local === undefined || last === undefined) return false;
  if (!STROKES.has(local.parted) || isStrokeIn(groups, 2)) return false;
  // 668/386-9602
  if (rest !== undefined && groups.length === 3 && /^[2-9]\d{2}$/.test(area.digits)) {
    return /^[2-9]\d{2}$/.test(local.digits) && rest.digits.length === 4 && rest.parted !== " ";
  }
  if (!/^0\d{2,4}$/.test(area.digits) || !isPlain(groups.slice(1))) return false;
  const digits = digitsIn(groups, groups.length);
  if (digits >= 10 && digits <= 12 && /^0[1-9]/.test(area.digits) && local.digits.length > 2) return !hint.isOrder();
  return digits >= 8 && hint.isPhone(last.end, true);
}

/** Whether a number in groups parted by spaces goes on from another one: `DE89 3704 0044 0532`. */
function isSpacedTail(text: string, start: number, groups: Groups): boolean {
  const first = groups[0];
  return (
    first !== undefined &&
    isDigit(unitAt(text, start)) &&
    text.charCodeAt(first.end) === 32 &&
    text.charCodeAt(start - 1) === 32 &&
    isDigit(unitAt(text, start - 2))
  );
}

function isMobile(digits: string): boolean {
  return /^1[3-9]\d{9}$/.test(digits);
}

const MOBILE_SIZES: ReadonlySet<string> = new Set(["11", "3-4-4", "3-3-5", "3-8", "7-4"]);

/** Mobiles in their groups, with the country's code or without; landlines by their area code (0 and two or three digits). */
function isChinese(groups: Groups, digits: string): boolean {
  if (digits.length === 11 && isMobile(digits)) return MOBILE_SIZES.has(sizesOf(groups, groups.length));
  const national = digits.length > 12 ? digits.replace(/^(?:0086|086|86)/, "") : digits;
  if (national !== digits && isMobile(national)) return groups.length <= 4;
  if (!digits.startsWith("0") || groups.length > 3) return false;
  const [area, local] = groups;
  if (area === undefined || local === undefined) return false;
  return (
    /^0(?:10|2\d|[3-9]\d{2})$/.test(area.digits) &&
    /^[2-8]\d{6,7}$/.test(digits.slice(area.digits.length)) &&
    (groups.length === 2 || local.digits.length === 4)
  );
}

/** 3-3-4, the country's code or the prefix for calls abroad before it. */
function isNorthAmerican(groups: Groups, digits: string): boolean {
  const count = groups.length;
  const office = groups[count - 2];
  if (groups[count - 1]?.digits.length !== 4 || office?.digits.length !== 3 || groups[count - 3]?.digits.length !== 3)
    return false;
  if (count > 3 && (count > 4 || !/^(?:1|001)$/.test(digits.slice(0, -10)))) return false;
  // Numbers parted by spaces are everywhere; there the plan's own rules must hold.
  return !office.parted.startsWith(" ") || /^[2-9]\d{2}[2-9]\d{6}$/.test(digits.slice(-10));
}

/**
 * Shapes of national numbers that little else has: five pairs as in France, mobiles of the United Kingdom, an area code and a number parted by
 * a hyphen as in Germany, three groups parted by hyphens as in Japan and Korea, 8 (9xx) xxx-xx-xx as in Russia.
 */
function isNational(text: string, groups: Groups, digits: string): boolean {
  const lead = digits.charCodeAt(0);
  if (lead !== 48 && lead !== 55 && lead !== 56) return false;
  const [first, second] = groups;
  const last = groups.at(-1);
  if (first === undefined || second === undefined || last === undefined) return false;
  const sizes = sizesOf(groups, groups.length);
  if (sizes === "2-2-2-2-2") return /^0[1-9]/.test(digits) && !goesOn(text, second, last.end);
  if (sizes === "5-6") return digits.startsWith("07");
  if (sizes === "1-3-3-2-2") return /^[78]9/.test(digits) && text.charCodeAt(second.start - 1) === 40;
  if (!arePartedBy(groups, groups.length, "-")) return false;
  if (/^[3-5]-[678]$/.test(sizes)) return /^0[1-9]/.test(digits) && digits.length >= 10 && digits.length <= 12;
  return /^(?:0[236]-\d{4}-\d{4}|02-\d{3}-\d{4}|01[016-9]-\d{3,4}-\d{4}|0[5789]0-\d{4}-\d{4}|0120-\d{3}-\d{3}|0[1-9]\d{2}-\d{2}-\d{4})$/.test(
    text.slice(first.start, last.end),
  );
}

/** Whether another digit comes after the same separator. */
function goesOn(text: string, second: Group, end: number): boolean {
  return text.charCodeAt(end) === text.charCodeAt(second.start - 1) && isDigit(unitAt(text, end + 1));
}

/** Digits in one group: of a national number, and behind a country's code. */
const NATIONAL_PARTS = 8;
const INTERNATIONAL_PARTS = 12;

const PLAIN: ReadonlySet<string> = new Set([" ", ".", "-", ")", ") ", ")-", "(", " (", "-("]);
const PLAIN_ABROAD: ReadonlySet<string> = new Set([...PLAIN, "  ", " - ", " . ", " / ", "/"]);

/** Digits parted by nothing but spaces, hyphens, dots, strokes abroad and brackets, in groups that telephone numbers have. */
function isPlain(groups: Groups, most = NATIONAL_PARTS): boolean {
  const separators = most === NATIONAL_PARTS ? PLAIN : PLAIN_ABROAD;
  return groups.every(({ parted, digits }, index) => index === 0 || (separators.has(parted) && digits.length <= most));
}

function isDate(groups: Groups): boolean {
  const sizes = sizesOf(groups, groups.length);
  const year = (group: Group | undefined): boolean => /^(?:19|20)\d{2}$/.test(group?.digits ?? "");
  return (
    (/^4-[12]-[12](?:-|$)/.test(sizes) && year(groups[0])) || (/^[12]-[12]-4(?:-|$)/.test(sizes) && year(groups[2]))
  );
}
