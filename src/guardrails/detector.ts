/** What a detector is to everybody else: a pure function over one text. */
import type { Finding } from "./detect/finding.ts";

/** Findings in the order of the text, not overlapping. */
export type Detect = (text: string) => readonly Finding[];

/** How many findings there were of each type. */
export type Counts = Record<string, number>;

export function count(counts: Counts, type: string): void {
  counts[type] = (Object.hasOwn(counts, type) ? (counts[type] ?? 0) : 0) + 1;
}

/**
 * Findings as a text is cut by: in order, none empty, none with half of a character, and of what overlaps the one before
 * only what lies behind that.
 */
export function* apart(text: string, findings: readonly Finding[], from = 0): Generator<Finding> {
  let at = from;
  for (const { start, end, type } of findings) {
    const begin = Math.max(isInside(text, start) ? start - 1 : start, at);
    const stop = Math.min(isInside(text, end) ? end + 1 : end, text.length);
    if (stop <= begin) continue;
    yield { start: begin, end: stop, type };
    at = stop;
  }
}

/** Whether a place is between the two units of a character. */
export function isInside(text: string, at: number): boolean {
  return (text.charCodeAt(at) & 0xfc00) === 0xdc00 && (text.charCodeAt(at - 1) & 0xfc00) === 0xd800;
}
