/**
 * Patterns of a workspace's own, compiled when they are saved into tables with one row per state (deterministic automata). Matching takes one
 * look-up per character on the way back through the text, which tells where matches may begin, and from each such place at most MAX_MATCH more:
 * linear whatever the pattern and the text. A pattern whose table would be too large is refused.
 */
import { err, ok, type Result } from "../../result.ts";
import { isWord, unitAt } from "./characters.ts";
import { type Node, readPattern, type UnitSet } from "./pattern-syntax.ts";

/** UTF-16 units. A longer match is found in pieces of this length. */
const MAX_MATCH = 128;
const MAX_PARTS = 1_000;
const MAX_STATES = 500;

export type Pattern = {
  readonly source: string;
  /** By state and class of character: the next state; 0 is the end of the road, 1 the start. */
  readonly next: Uint16Array;
  readonly accepts: Uint8Array;
  /** By class: 1 where a match may end with it. */
  readonly lasts: Uint8Array;
  readonly classes: number;
  /** First units of the classes, in order. */
  readonly bounds: Uint32Array;
  /** The classes of the characters below U+0080. */
  readonly ascii: Uint16Array;
  readonly wordStart: boolean;
  readonly wordEnd: boolean;
  /** Read from the end of a text to its start: accepts where a match may begin. */
  readonly starts: Starts;
};

/** Checks and compiles; the error is a sentence's end: what is not allowed, and where. */
export function parsePattern(source: string): Result<Pattern, string> {
  const syntax = readPattern(source);
  if (!syntax.ok) return syntax;
  const parts = new Parts();
  const end = parts.add({ set: undefined, to: [] });
  const start = parts.build(syntax.value.node, end);
  if (start === undefined) return err(`a pattern of more than ${MAX_PARTS} parts is not allowed`);
  const table = tabulate(parts.list, start, end, MAX_STATES);
  if (table === undefined) return err(`a pattern of more than ${MAX_STATES} states is not allowed`);
  if (table.accepts[1] === 1) return err("a pattern that matches nothing at all is not allowed");
  const { node, wordStart, wordEnd } = syntax.value;
  const ascii = Uint16Array.from({ length: 128 }, (_, unit) => classOf(table.bounds, unit));
  return ok({ source, ...table, ascii, wordStart, wordEnd, starts: tabulateStarts(node, table.classes) });
}

/** Reports matches in order, each the longest from the first place where one begins, without overlap. */
export function findMatches(pattern: Pattern, text: string, report: (start: number, end: number) => void): void {
  const { lasts } = pattern;
  // Where the next character stands that a match may end with: without one in reach no match begins.
  let last = 0;
  while (last < text.length && lasts[classAt(pattern, text, last)] === 0) last++;
  if (last === text.length) return;
  const { classes, begins } = readBackwards(pattern, text);
  for (let at = 0; at < text.length; ) {
    if (last < at) {
      last = at;
      while (last < text.length && lasts[classes[last] ?? 0] === 0) last++;
      if (last === text.length) return;
    }
    if (last - at >= MAX_MATCH) at = last - MAX_MATCH + 1;
    if (begins[at] === 0) {
      at = begins.indexOf(1, at);
      if (at < 0) return;
      continue;
    }
    const end = matchEnd(pattern, text, classes, at);
    if (end > at) report(at, end);
    at = Math.max(end, at + 1);
  }
}

type Read = {
  /** The class of every character, looked up once however many matches try it. */
  readonly classes: Uint16Array;
  /** 1 for every place where a match may begin, so that what never becomes one is not tried from every place. */
  readonly begins: Uint8Array;
};

function readBackwards(pattern: Pattern, text: string): Read {
  const classes = new Uint16Array(text.length);
  const begins = new Uint8Array(text.length);
  const { next, accepts, classes: width } = pattern.starts;
  let state = 1;
  for (let at = text.length - 1; at >= 0; at--) {
    const symbol = classAt(pattern, text, at);
    classes[at] = symbol;
    state = next[state * width + symbol] ?? 0;
    begins[at] = accepts[state] ?? 0;
  }
  return { classes, begins };
}

function classAt({ ascii, bounds }: Pattern, text: string, at: number): number {
  const unit = text.charCodeAt(at);
  return ascii[unit] ?? classOf(bounds, unit);
}

function matchEnd(pattern: Pattern, text: string, of: Uint16Array, start: number): number {
  const { next, accepts, classes, wordStart, wordEnd } = pattern;
  if (wordStart && isWord(unitAt(text, start - 1)) === isWord(unitAt(text, start))) return -1;
  const limit = Math.min(text.length, start + MAX_MATCH);
  let state = 1;
  let end = -1;
  for (let at = start; at < limit; at++) {
    state = next[state * classes + (of[at] ?? 0)] ?? 0;
    if (state === 0) break;
    if (accepts[state] === 0) continue;
    if (!wordEnd || isWord(unitAt(text, at)) !== isWord(unitAt(text, at + 1))) end = at + 1;
  }
  return end;
}

function classOf(bounds: Uint32Array, unit: number): number {
  let low = 0;
  let high = bounds.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((bounds[middle] ?? 0) <= unit) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/** A place in a pattern: takes a character of its set, or leads on without one. */
type Part = { readonly set: UnitSet | undefined; readonly to: number[] };

/** Thompson's construction, from the end to the start. */
class Parts {
  readonly list: Part[] = [];

  add(part: Part): number {
    this.list.push(part);
    return this.list.length - 1;
  }

  /** The part that begins a node which goes on at `after`; undefined when there are too many. */
  build(node: Node, after: number): number | undefined {
    if (this.list.length > MAX_PARTS) return undefined;
    switch (node.kind) {
      case "set":
        return this.add({ set: node.set, to: [after] });
      case "sequence":
        return node.of.reduceRight<number | undefined>(
          (next, inner) => (next === undefined ? next : this.build(inner, next)),
          after,
        );
      case "choice": {
        const starts = node.of.map((inner) => this.build(inner, after));
        return starts.includes(undefined)
          ? undefined
          : this.add({ set: undefined, to: starts.filter((start) => start !== undefined) });
      }
      case "repeat":
        return this.buildRepeat(node.of, node.min, node.max, after);
    }
  }

  private buildRepeat(node: Node, min: number, max: number, after: number): number | undefined {
    let next: number | undefined = after;
    if (max === Number.POSITIVE_INFINITY) {
      const loop: Part = { set: undefined, to: [after] };
      next = this.add(loop);
      const once = this.build(node, next);
      if (once === undefined) return undefined;
      loop.to.push(once);
    } else {
      for (let left = max - min; left > 0 && next !== undefined; left--) {
        const once: number | undefined = this.build(node, next);
        next = once === undefined ? undefined : this.add({ set: undefined, to: [once, after] });
      }
    }
    for (let left = min; left > 0 && next !== undefined; left--) next = this.build(node, next);
    return next;
  }
}

type Starts = Pick<Pattern, "next" | "accepts" | "classes">;
type Table = Starts & Pick<Pattern, "lasts" | "bounds">;

/** States of a table of starts. */
const MAX_START_STATES = 128;
/**
 * Repetitions that are counted in it; more are taken to be without end, which only lets more places begin. The fewer, the smaller the table.
 */
const COUNTED = [4, 1];
const ANYTHING: Node = {
  kind: "repeat",
  of: { kind: "set", set: [[0, 0xffff]] },
  min: 0,
  max: Number.POSITIVE_INFINITY,
};

/**
 * The table of the pattern read backwards, behind anything. Its sets, and so its classes of characters, are those of the pattern. Where it
 * would be too large, one that lets a match begin anywhere.
 */
function tabulateStarts(node: Node, classes: number): Starts {
  for (const counted of COUNTED) {
    const parts = new Parts();
    const end = parts.add({ set: undefined, to: [] });
    const start = parts.build({ kind: "sequence", of: [ANYTHING, backwards(node, counted)] }, end);
    const table = start === undefined ? undefined : tabulate(parts.list, start, end, MAX_START_STATES);
    if (table !== undefined) return table;
  }
  return { next: new Uint16Array(2 * classes), accepts: Uint8Array.of(1, 1), classes };
}

function backwards(node: Node, counted: number): Node {
  switch (node.kind) {
    case "set":
      return node;
    case "sequence":
      return { kind: "sequence", of: node.of.map((inner) => backwards(inner, counted)).reverse() };
    case "choice":
      return { kind: "choice", of: node.of.map((inner) => backwards(inner, counted)) };
    case "repeat":
      return {
        kind: "repeat",
        of: backwards(node.of, counted),
        min: Math.min(node.min, counted),
        max: node.max > counted ? Number.POSITIVE_INFINITY : node.max,
      };
  }
}

/** The subset construction. */
function tabulate(parts: readonly Part[], start: number, end: number, most: number): Table | undefined {
  const bounds = boundsOf(parts);
  const classesTaken = classesBySet(bounds);
  const rows: (readonly number[])[] = [[]];
  const accepts = [0];
  const sets: (readonly number[])[] = [[]];
  const numbers = new Map<string, number>([["", 0]]);
  /** By the parts that a character leads to, before they are followed: most characters lead to the same ones. */
  const known = new Map<string, number>([["", 0]]);
  const numberOf = (targets: readonly number[]): number => {
    const reached = targets.join();
    const before = known.get(reached);
    if (before !== undefined) return before;
    const set = close(parts, targets);
    const name = set.join();
    const number = numbers.get(name) ?? sets.length;
    known.set(reached, number);
    if (number < sets.length) return number;
    numbers.set(name, number);
    accepts.push(set.includes(end) ? 1 : 0);
    sets.push(set);
    return number;
  };
  numberOf([start]);
  for (let state = 1; state < sets.length; state++) {
    if (sets.length > most) return undefined;
    const targets: number[][] = Array.from(bounds, () => []);
    for (const index of sets[state] ?? []) {
      const { set, to } = parts[index] ?? { set: undefined, to: [] };
      if (set !== undefined) for (const symbol of classesTaken(set)) targets[symbol]?.push(...to);
    }
    rows.push(targets.map(numberOf));
  }
  const next = new Uint16Array(rows.length * bounds.length);
  for (const [state, row] of rows.entries()) next.set(row, state * bounds.length);
  const lasts = Uint8Array.from(bounds, (_, symbol) => (rows.some((row) => accepts[row[symbol] ?? 0] === 1) ? 1 : 0));
  return { next, accepts: Uint8Array.from(accepts), lasts, classes: bounds.length, bounds };
}

/** The classes of characters that a set takes; parts made of one node share theirs. */
function classesBySet(bounds: Uint32Array): (set: UnitSet) => readonly number[] {
  const known = new Map<UnitSet, readonly number[]>();
  return (set) => {
    const before = known.get(set);
    if (before !== undefined) return before;
    const taken: number[] = [];
    bounds.forEach((unit, symbol) => {
      if (set.some(([first, last]) => unit >= first && unit <= last)) taken.push(symbol);
    });
    known.set(set, taken);
    return taken;
  };
}

/** Everything that is reached without a character; only parts that take one, and the end, are kept. */
function close(parts: readonly Part[], from: readonly number[]): readonly number[] {
  const seen = new Set(from);
  const kept: number[] = [];
  for (const index of seen) {
    const part = parts[index];
    if (part === undefined) continue;
    if (part.set !== undefined || part.to.length === 0) kept.push(index);
    else for (const to of part.to) seen.add(to);
  }
  return kept.sort((a, b) => a - b);
}

function boundsOf(parts: readonly Part[]): Uint32Array {
  const bounds = new Set([0]);
  for (const { set } of parts) {
    for (const [first, last] of set ?? []) {
      bounds.add(first);
      if (last < 0xffff) bounds.add(last + 1);
    }
  }
  return Uint32Array.from(bounds).sort();
}
