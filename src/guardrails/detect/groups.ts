/** Groups of digits, as numbers are written: read once, and asked about by everything that is made of digits. */
import { isDigit, unitAt } from "./characters.ts";

/** Digits read from one place: groups parted by single separators. No number sought has more groups. */
const MAX_GROUPS = 7;
/** Longer rows of digits are no number of anybody's. */
const MAX_RUN = 20;

export type Group = {
  readonly start: number;
  readonly end: number;
  readonly digits: string;
  /** What stands between it and the group before. */
  readonly parted: string;
};
export type Groups = readonly Group[];

export function runEnd(text: string, at: number, limit = text.length): number {
  let end = at;
  while (end < limit && isDigit(text.charCodeAt(end))) end++;
  return end;
}

/** Adds what is missing of the groups from `at` on. */
export function readGroups(text: string, at: number, groups: Group[]): void {
  let end = groups.at(-1)?.end;
  while (groups.length < MAX_GROUPS) {
    const start = end === undefined ? at : afterSeparator(text, end);
    if (start < 0) return;
    const parted = end === undefined ? "" : text.slice(end, start);
    end = runEnd(text, start, Math.min(text.length, start + MAX_RUN + 1));
    if (end - start > MAX_RUN) return;
    groups.push({ start, end, digits: text.slice(start, end), parted });
  }
}

/** The digit after one separator, alone or between spaces, or after a bracket with one: `12) 34`, `12 (34`, `12(34`, `12 / 34`, `12  34`. */
export function afterSeparator(text: string, end: number): number {
  let at = end;
  if (text.charCodeAt(at) === 41) at++;
  if (text.charCodeAt(at) === 32) at++;
  const unit = unitAt(text, at);
  if (unit === 32 || unit === 45 || unit === 46 || unit === 47) {
    at++;
    if (unit !== 32 && text.charCodeAt(at) === 32 && text.charCodeAt(at - 2) === 32) at++;
  }
  if (text.charCodeAt(at) === 40) at++;
  return at > end && isDigit(unitAt(text, at)) ? at : -1;
}

/** How many digits the first groups have. */
export function digitsIn(groups: Groups, count: number): number {
  let digits = 0;
  for (let index = 0; index < count; index++) digits += groups[index]?.digits.length ?? 0;
  return digits;
}

/** Their sizes: `3-3-4`. */
export function sizesOf(groups: Groups, count: number): string {
  let sizes = `${groups[0]?.digits.length}`;
  for (let index = 1; index < count; index++) sizes += `-${groups[index]?.digits.length}`;
  return sizes;
}

export function joinedDigits(groups: Groups, count: number): string {
  let digits = "";
  for (let index = 0; index < count; index++) digits += groups[index]?.digits;
  return digits;
}

/** Whether they have nothing but this between them. */
export function arePartedBy(groups: Groups, count: number, separator: string): boolean {
  for (let index = 1; index < count; index++) if (groups[index]?.parted !== separator) return false;
  return true;
}
