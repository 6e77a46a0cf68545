/**
 * The patterns that a workspace may write: a subset of JavaScript's regular expressions which needs no backtracking. What is left out
 * (look-around, references, anchors, lazy and nested open repetition) is refused with its name and place.
 */
import { err, ok, type Result } from "../../result.ts";

/** Pairs of first and last UTF-16 unit, in order, not touching. */
export type UnitSet = readonly (readonly [number, number])[];

export type Node =
  | { readonly kind: "set"; readonly set: UnitSet }
  | { readonly kind: "sequence"; readonly of: readonly Node[] }
  | { readonly kind: "choice"; readonly of: readonly Node[] }
  | { readonly kind: "repeat"; readonly of: Node; readonly min: number; readonly max: number };

export type Syntax = { readonly node: Node; readonly wordStart: boolean; readonly wordEnd: boolean };

const MAX_PATTERN_CHARS = 256;
/** As long as a match may be. */
const MAX_REPEAT = 128;
const MAX_DEPTH = 16;
const LAST_UNIT = 0xffff;

const DIGITS: UnitSet = [[48, 57]];
const WORD: UnitSet = [
  [48, 57],
  [65, 90],
  [95, 95],
  [97, 122],
];
const SPACE: UnitSet = [
  [9, 13],
  [32, 32],
  [0xa0, 0xa0],
  [0x2000, 0x200a],
  [0x2028, 0x2029],
  [0x3000, 0x3000],
];
const LINE_ENDS: UnitSet = [
  [10, 10],
  [13, 13],
  [0x2028, 0x2029],
];
const SETS: Readonly<Record<string, UnitSet>> = {
  d: DIGITS,
  D: except(DIGITS),
  w: WORD,
  W: except(WORD),
  s: SPACE,
  S: except(SPACE),
};
const CONTROLS: Readonly<Record<string, number>> = { t: 9, n: 10, r: 13 };

/** Reads a pattern; the error tells what is not allowed and where (counted from 1). */
export function readPattern(text: string): Result<Syntax, string> {
  if (text.length > MAX_PATTERN_CHARS) return err(`a pattern has at most ${MAX_PATTERN_CHARS} characters`);
  const anyCase = text.startsWith("(?i)");
  const reader = new Reader(text, anyCase ? 4 : 0, anyCase);
  const wordStart = reader.takes("\\b");
  const node = reader.choice(0);
  const wordEnd = reader.endsWithBoundary();
  if (reader.failure === undefined && !reader.done())
    reader.fail(reader.peek() === ")" ? "a bracket that nothing opens" : "\\b inside a pattern");
  return reader.failure === undefined ? ok({ node, wordStart, wordEnd }) : err(reader.failure);
}

/** Reads from left to right. After the first failure it only runs to its end. */
class Reader {
  failure: string | undefined;
  private readonly text: string;
  private readonly anyCase: boolean;
  private at: number;

  constructor(text: string, at: number, anyCase: boolean) {
    this.text = text;
    this.at = at;
    this.anyCase = anyCase;
  }

  peek(): string {
    return this.text.charAt(this.at);
  }

  done(): boolean {
    return this.at >= this.text.length;
  }

  takes(expected: string): boolean {
    if (!this.text.startsWith(expected, this.at)) return false;
    this.at += expected.length;
    return true;
  }

  /** `\b` means something at the very start and end only. */
  endsWithBoundary(): boolean {
    return this.at + 2 === this.text.length && this.takes("\\b");
  }

  fail(what: string): void {
    this.failure ??= `${what} is not allowed (at character ${this.at + 1})`;
    this.at = this.text.length;
  }

  choice(depth: number): Node {
    const of = [this.sequence(depth)];
    while (this.takes("|")) of.push(this.sequence(depth));
    const [only] = of;
    return of.length === 1 && only !== undefined ? only : { kind: "choice", of };
  }

  private sequence(depth: number): Node {
    const of: Node[] = [];
    while (!this.done() && this.peek() !== "|" && this.peek() !== ")" && !this.text.startsWith("\\b", this.at)) {
      of.push(this.repeated(this.atom(depth)));
    }
    return { kind: "sequence", of };
  }

  private repeated(node: Node): Node {
    const from = this.at;
    const range = this.range();
    if (range === undefined) return node;
    const [min, max] = range;
    if (max < min || (max !== Number.POSITIVE_INFINITY && max > MAX_REPEAT) || min > MAX_REPEAT) {
      this.at = from;
      this.fail(`a repetition of more than ${MAX_REPEAT} times, or from more to less,`);
    }
    if (repeats(node, max === Number.POSITIVE_INFINITY)) {
      this.at = from;
      this.fail("a repetition without end that is repeated, or that repeats one,");
    }
    if (this.peek() === "?" || this.peek() === "+" || this.peek() === "*") this.fail("a second or lazy quantifier");
    return { kind: "repeat", of: node, min, max };
  }

  private range(): readonly [number, number] | undefined {
    if (this.takes("?")) return [0, 1];
    if (this.takes("*")) return [0, Number.POSITIVE_INFINITY];
    if (this.takes("+")) return [1, Number.POSITIVE_INFINITY];
    const braces = /^\{(\d{1,4})(,(\d{0,4}))?\}/.exec(this.text.slice(this.at, this.at + 12));
    if (braces === null) return undefined;
    this.at += braces[0].length;
    const min = Number(braces[1]);
    if (braces[2] === undefined) return [min, min];
    return [min, braces[3] === "" ? Number.POSITIVE_INFINITY : Number(braces[3])];
  }

  private atom(depth: number): Node {
    const unit = this.peek();
    if (unit === "(") return this.group(depth);
    if (unit === "[") return this.set(this.bracket());
    if (unit === ".") {
      this.at++;
      return this.set(except(LINE_ENDS));
    }
    if (unit === "\\") return this.set(this.escape());
    if ("^$".includes(unit)) this.fail(`the anchor ${unit}`);
    else if ("*+?{}]".includes(unit)) this.fail(`${unit} with nothing to repeat or close`);
    else this.at++;
    return this.set(single(unit.charCodeAt(0)));
  }

  private group(depth: number): Node {
    if (depth >= MAX_DEPTH) this.fail(`nesting deeper than ${MAX_DEPTH}`);
    if (/^\(\?<?[=!]/.test(this.text.slice(this.at, this.at + 4))) this.fail("look-around");
    this.at++;
    if (this.peek() === "?" && !this.takes("?:")) this.fail("a named group or a flag");
    const node = this.choice(depth + 1);
    if (this.failure === undefined && !this.takes(")"))
      this.fail(this.done() ? "a bracket that nothing closes" : "\\b inside a pattern");
    return node;
  }

  private escape(): UnitSet {
    this.at++;
    const unit = this.peek();
    this.at++;
    const set = SETS[unit];
    if (set !== undefined) return set;
    const control = CONTROLS[unit];
    if (control !== undefined) return single(control);
    const hex = /^(?:x([0-9a-f]{2})|u([0-9a-f]{4}))/i.exec(this.text.slice(this.at - 1, this.at + 4));
    if (hex !== null) {
      this.at += hex[0].length - 1;
      return single(Number.parseInt(hex[1] ?? hex[2] ?? "", 16));
    }
    if (unit === "" || /[A-Za-z0-9]/.test(unit)) {
      this.at -= 2;
      this.fail(/[1-9k]/.test(unit) ? "a reference to a group" : `the escape \\${unit}`);
    }
    return single(unit.charCodeAt(0));
  }

  private bracket(): UnitSet {
    this.at++;
    const negated = this.takes("^");
    const parts: (readonly [number, number])[] = [];
    while (!this.done() && this.peek() !== "]") {
      const first = this.member();
      const [only] = first;
      if (
        this.peek() === "-" &&
        this.text.charAt(this.at + 1) !== "]" &&
        only !== undefined &&
        first.length === 1 &&
        only[0] === only[1]
      ) {
        this.at++;
        const [last] = this.member();
        if (last === undefined || last[0] !== last[1] || last[1] < only[0]) this.fail("a range from more to less");
        else parts.push([only[0], last[1]]);
      } else parts.push(...first);
    }
    if (parts.length === 0) this.fail("an empty set of characters");
    if (this.failure === undefined && !this.takes("]")) this.fail("a bracket that nothing closes");
    const set = merge(this.anyCase ? bothCases(parts) : parts);
    return negated ? except(set) : set;
  }

  private member(): UnitSet {
    if (this.peek() === "\\") return this.escape();
    const unit = this.text.charCodeAt(this.at);
    if (unit >= 0xd800 && unit <= 0xdfff) this.fail("a character beyond U+FFFF in a set");
    this.at++;
    return single(unit);
  }

  private set(set: UnitSet): Node {
    return { kind: "set", set: this.anyCase ? merge(bothCases(set)) : set };
  }
}

/** Whether a node holds a repetition that must not be repeated: an open one, or any with a choice of lengths under an open one. */
function repeats(node: Node, open: boolean): boolean {
  if (node.kind === "set") return false;
  if (node.kind !== "repeat") return node.of.some((inner) => repeats(inner, open));
  if (node.max === Number.POSITIVE_INFINITY) return true;
  return (open && node.max !== node.min) || repeats(node.of, open);
}

function single(unit: number): UnitSet {
  return [[unit, unit]];
}

function bothCases(set: UnitSet): UnitSet {
  const letters: (readonly [number, number])[] = [];
  for (const [first, last] of set) {
    // Sets of whole scripts hold both cases already.
    for (let unit = first; unit <= Math.min(last, first + 512); unit++) {
      const letter = String.fromCharCode(unit);
      for (const other of [letter.toLowerCase(), letter.toUpperCase()]) {
        if (other.length === 1 && other !== letter) letters.push([other.charCodeAt(0), other.charCodeAt(0)]);
      }
    }
  }
  return [...set, ...letters];
}

function merge(set: UnitSet): UnitSet {
  const merged: [number, number][] = [];
  for (const [first, last] of [...set].sort((a, b) => a[0] - b[0])) {
    const before = merged.at(-1);
    if (before !== undefined && first <= before[1] + 1) before[1] = Math.max(before[1], last);
    else merged.push([first, last]);
  }
  return merged;
}

function except(set: UnitSet): UnitSet {
  const left: [number, number][] = [];
  let from = 0;
  for (const [first, last] of set) {
    if (first > from) left.push([from, first - 1]);
    from = last + 1;
  }
  if (from <= LAST_UNIT) left.push([from, LAST_UNIT]);
  return left;
}
