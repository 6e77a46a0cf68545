/**
 * Lists of patterns for names of models: exact ids, or prefixes that end in `*`. Null allows all, an empty list none.
 * Rights are narrowed by the intersection of two lists, and a grant is compared with its grantor's. Pure.
 */
import { matches } from "../patterns.ts";

export type Patterns = readonly string[] | null;

export function allows(patterns: Patterns, name: string): boolean {
  return patterns === null || patterns.some((pattern) => matches(pattern, name));
}

/**
 * Allows what both allow, and nothing else. Each pattern of the result is one of theirs: of two prefixes the longer one is
 * what they have in common, or they have nothing.
 */
export function intersect(a: Patterns, b: Patterns): Patterns {
  if (a === null) return b;
  if (b === null) return a;
  const both = [...a.filter((pattern) => isWithin(b, pattern)), ...b.filter((pattern) => isWithin(a, pattern))];
  return [...new Set(both)];
}

/** Whether `b` grants nothing that `a` does not. */
export function covers(a: Patterns, b: Patterns): boolean {
  return a === null || (b ?? ["*"]).every((pattern) => isWithin(a, pattern));
}

/** Whether one of them alone allows all that a pattern does. Several together never do more: names have no end. */
function isWithin(patterns: readonly string[], pattern: string): boolean {
  const prefix = pattern.endsWith("*");
  const stem = prefix ? pattern.slice(0, -1) : pattern;
  return patterns.some((wider) => (prefix && !wider.endsWith("*") ? false : matches(wider, stem)));
}
