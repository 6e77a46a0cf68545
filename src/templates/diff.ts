/** What has changed between two versions, field by field; texts line by line. Pure. */
import { asFields } from "../wire/anthropic/usage.ts";
import type { Content } from "./content.ts";

export type Line = { readonly op: "same" | "removed" | "added"; readonly text: string };

export type Difference = {
  /** `messages.0.content.1.text`. */
  readonly path: string;
  readonly change: "added" | "removed" | "changed";
  /** Left out where there was, or is, nothing. */
  readonly before?: unknown;
  readonly after?: unknown;
  /** Of a text that has changed and has several lines, before or after. */
  readonly lines?: readonly Line[];
};

/** A table of more cells than this is not made: what lies between the same beginning and end is told as replaced. */
const MAX_CELLS = 1_000_000;

/** In the order of the fields before; what is new comes after. Nothing for two that say the same. */
export function diffVersions(before: Content, after: Content): readonly Difference[] {
  const differences: Difference[] = [];
  compare(before, after, "", differences);
  return differences;
}

function compare(before: unknown, after: unknown, path: string, into: Difference[]): void {
  const inside = (name: string | number) => (path === "" ? String(name) : `${path}.${name}`);
  if (Array.isArray(before) && Array.isArray(after)) {
    for (let i = 0; i < Math.max(before.length, after.length); i++) {
      if (i >= after.length) into.push({ path: inside(i), change: "removed", before: before[i] });
      else if (i >= before.length) into.push({ path: inside(i), change: "added", after: after[i] });
      else compare(before[i], after[i], inside(i), into);
    }
    return;
  }
  const [was, is] = [asFields(before), asFields(after)];
  if (was && is) {
    for (const name of new Set([...Object.keys(was), ...Object.keys(is)])) {
      if (!Object.hasOwn(is, name)) into.push({ path: inside(name), change: "removed", before: was[name] });
      else if (!Object.hasOwn(was, name)) into.push({ path: inside(name), change: "added", after: is[name] });
      else compare(was[name], is[name], inside(name), into);
    }
    return;
  }
  if (before === after) return;
  const isText = typeof before === "string" && typeof after === "string";
  const hasLines = isText && (before.includes("\n") || after.includes("\n"));
  into.push({ path, change: "changed", before, after, ...(hasLines && { lines: diffLines(before, after) }) });
}

/** Every line of both texts, those that they share once. The fewest are removed and added, within reason. */
export function diffLines(before: string, after: string): readonly Line[] {
  const [was, is] = [before.split("\n"), after.split("\n")];
  const least = Math.min(was.length, is.length);
  let start = 0;
  while (start < least && was[start] === is[start]) start++;
  let end = 0;
  while (end < least - start && was.at(-1 - end) === is.at(-1 - end)) end++;
  const line = (op: Line["op"]) => (text: string) => ({ op, text });
  return [
    ...was.slice(0, start).map(line("same")),
    ...between(was.slice(start, was.length - end), is.slice(start, is.length - end)),
    ...was.slice(was.length - end).map(line("same")),
  ];
}

/** The longest common subsequence, by the table. */
function between(was: readonly string[], is: readonly string[]): Line[] {
  const lines: Line[] = [];
  const width = is.length + 1;
  const isSmall = was.length * is.length <= MAX_CELLS;
  const common = new Uint32Array(isSmall ? (was.length + 1) * width : 0);
  const at = (i: number, j: number) => common[i * width + j] ?? 0;
  if (isSmall) {
    for (let i = was.length - 1; i >= 0; i--) {
      for (let j = is.length - 1; j >= 0; j--) {
        common[i * width + j] = was[i] === is[j] ? at(i + 1, j + 1) + 1 : Math.max(at(i + 1, j), at(i, j + 1));
      }
    }
  }
  let [i, j] = [0, 0];
  while (i < was.length || j < is.length) {
    const [old, fresh] = [was[i], is[j]];
    if (isSmall && old !== undefined && old === fresh) {
      lines.push({ op: "same", text: old });
      i++;
      j++;
    } else if (old !== undefined && (fresh === undefined || at(i + 1, j) >= at(i, j + 1))) {
      lines.push({ op: "removed", text: old });
      i++;
    } else {
      lines.push({ op: "added", text: fresh ?? "" });
      j++;
    }
  }
  return lines;
}
