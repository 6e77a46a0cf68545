/**
 * The patterns of a schema, matched in time that is linear in the text: an engine that goes back and forth, as the
 * runtime's own does, can be kept busy for minutes by 50 characters. Here all ways are followed at once (Thompson 1968).
 * What can't be matched so (what was found before, looking around) is refused when the template is saved. Pure.
 */
import { err, ok, type Result } from "../result.ts";

/** Steps of a compiled pattern; each may be looked at for each character. */
const MAX_STEPS = 500;
const MAX_PATTERN_CHARS = 500;
const MAX_GROUPS_DEEP = 20;

/** Whether a text has the pattern anywhere in it, as JSON Schema has it. */
export type Pattern = (text: string) => boolean;

type Step =
  | { readonly kind: "one"; readonly is: (char: string) => boolean }
  | { readonly kind: "either"; readonly first: number; readonly second: number }
  | { readonly kind: "jump"; readonly to: number }
  | { readonly kind: "start" | "end" | "found" };

type Node =
  | { readonly kind: "one"; readonly is: (char: string) => boolean }
  | { readonly kind: "start" | "end" }
  | { readonly kind: "sequence"; readonly parts: readonly Node[] }
  | { readonly kind: "choice"; readonly parts: readonly Node[] }
  | { readonly kind: "repeat"; readonly part: Node; readonly min: number; readonly max: number };

/** An ECMAScript pattern (flag `u`) of the safe subset, or what is wrong with it. */
export function compilePattern(source: string): Result<Pattern, string> {
  if (source.length > MAX_PATTERN_CHARS) return err(`must not be longer than ${MAX_PATTERN_CHARS} characters`);
  try {
    new RegExp(source, "u");
  } catch {
    return err("must be a regular expression");
  }
  const reader = new Reader(source);
  const node = reader.choice(0);
  if (reader.problem !== null) return err(reader.problem);
  if (sizeOf(node) + 1 > MAX_STEPS) return err("is too large: it repeats too much");
  const steps: Step[] = [];
  emit(node, steps);
  steps.push({ kind: "found" });
  return ok((text) => runs(steps, text));
}

/** One item that may stand anywhere: a class, an escape, or any other character. */
const ATOM = /\[(?:\\.|[^\]\\])*\]|\\(?:u\{[0-9a-fA-F]+\}|u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|[pP]\{[^}]*\}|.)|[\s\S]/uy;
const COUNT = /\{(\d+)(,(\d*))?\}/y;

class Reader {
  problem: string | null = null;
  readonly #source: string;
  #at = 0;

  constructor(source: string) {
    this.#source = source;
  }

  choice(depth: number): Node {
    if (depth > MAX_GROUPS_DEEP) this.problem = "has too many groups in each other";
    const parts = [this.#sequence(depth)];
    while (this.problem === null && this.#source[this.#at] === "|") {
      this.#at++;
      parts.push(this.#sequence(depth));
    }
    return { kind: "choice", parts };
  }

  #sequence(depth: number): Node {
    const parts: Node[] = [];
    while (this.problem === null && this.#at < this.#source.length) {
      const char = this.#source[this.#at];
      if (char === "|" || char === ")") break;
      parts.push(this.#quantified(this.#part(depth)));
    }
    return { kind: "sequence", parts };
  }

  #part(depth: number): Node {
    const rest = this.#source.slice(this.#at, this.#at + 3);
    if (rest.startsWith("(")) {
      if (rest.startsWith("(?") && rest !== "(?:") this.problem = "must not look around or name groups";
      this.#at += rest === "(?:" ? 3 : 1;
      const node = this.choice(depth + 1);
      this.#at++;
      return node;
    }
    if (rest.startsWith("^") || rest.startsWith("$")) {
      this.#at++;
      return { kind: rest.startsWith("^") ? "start" : "end" };
    }
    ATOM.lastIndex = this.#at;
    const atom = ATOM.exec(this.#source)?.[0] ?? "";
    this.#at += atom.length;
    if (/^\\[1-9kbB]/.test(atom)) this.problem = `must not use ${atom.slice(0, 2)}`;
    return { kind: "one", is: matcher(this.problem === null ? atom : ".") };
  }

  #quantified(part: Node): Node {
    const [min, max] = this.#count();
    if (max === 1 && min === 1) return part;
    // Lazy or greedy: whether there is a match is the same.
    if (this.#source[this.#at] === "?") this.#at++;
    return { kind: "repeat", part, min, max };
  }

  #count(): [min: number, max: number] {
    COUNT.lastIndex = this.#at;
    const counted = COUNT.exec(this.#source);
    if (counted) {
      this.#at += counted[0].length;
      const min = Number(counted[1]);
      if (counted[2] === undefined) return [min, min];
      return [min, counted[3] === "" ? Number.POSITIVE_INFINITY : Number(counted[3])];
    }
    const char = this.#source[this.#at] ?? "";
    if (!"*+?".includes(char) || char === "") return [1, 1];
    this.#at++;
    return [char === "+" ? 1 : 0, char === "?" ? 1 : Number.POSITIVE_INFINITY];
  }
}

/** The runtime's own word on one character; what it has said of ASCII is kept. */
function matcher(atom: string): (char: string) => boolean {
  const one = new RegExp(`^${atom}$`, "u");
  const ascii: (boolean | undefined)[] = [];
  return (char) => {
    const code = char.length === 1 ? char.charCodeAt(0) : 128;
    if (code > 127) return one.test(char);
    ascii[code] ??= one.test(char);
    return ascii[code];
  };
}

/** How many steps a node becomes; counted first, since repeats multiply. */
function sizeOf(node: Node): number {
  switch (node.kind) {
    case "sequence":
      return node.parts.reduce((sum, part) => sum + sizeOf(part), 0);
    case "choice":
      return node.parts.reduce((sum, part) => sum + sizeOf(part) + 2, -2);
    case "repeat": {
      const size = sizeOf(node.part);
      if (node.max === Number.POSITIVE_INFINITY) return (size + 2) * (node.min + 1);
      return size * node.min + (size + 1) * Math.max(0, node.max - node.min);
    }
    default:
      return 1;
  }
}

function emit(node: Node, steps: Step[]): void {
  switch (node.kind) {
    case "sequence":
      for (const part of node.parts) emit(part, steps);
      return;
    case "choice":
      emitChoice(node.parts, steps);
      return;
    case "repeat":
      emitRepeat(node, steps);
      return;
    default:
      steps.push(node);
  }
}

function emitChoice([first, ...others]: readonly Node[], steps: Step[]): void {
  if (first === undefined) return;
  if (others.length === 0) {
    emit(first, steps);
    return;
  }
  const fork = steps.push({ kind: "found" }) - 1;
  emit(first, steps);
  const leave = steps.push({ kind: "found" }) - 1;
  steps[fork] = { kind: "either", first: fork + 1, second: steps.length };
  emitChoice(others, steps);
  steps[leave] = { kind: "jump", to: steps.length };
}

function emitRepeat({ part, min, max }: Node & { readonly kind: "repeat" }, steps: Step[]): void {
  for (let i = 0; i < min; i++) emit(part, steps);
  if (max === Number.POSITIVE_INFINITY) {
    const fork = steps.push({ kind: "found" }) - 1;
    emit(part, steps);
    steps.push({ kind: "jump", to: fork });
    steps[fork] = { kind: "either", first: fork + 1, second: steps.length };
    return;
  }
  const forks: number[] = [];
  for (let i = min; i < max; i++) {
    forks.push(steps.push({ kind: "found" }) - 1);
    emit(part, steps);
  }
  for (const fork of forks) steps[fork] = { kind: "either", first: fork + 1, second: steps.length };
}

/** Follows all ways at once. Each step is entered at most once for each character. */
function runs(steps: readonly Step[], text: string): boolean {
  const enteredAt = new Int32Array(steps.length).fill(-1);
  let ways: number[] = [];
  let at = 0;
  let moment = 0;
  const enter = (into: number[], from: number): boolean => {
    const todo = [from];
    for (let i = todo.pop(); i !== undefined; i = todo.pop()) {
      const step = steps[i];
      if (!step || enteredAt[i] === moment) continue;
      enteredAt[i] = moment;
      if (step.kind === "found") return true;
      if (step.kind === "one") into.push(i);
      else if (step.kind === "jump") todo.push(step.to);
      else if (step.kind === "either") todo.push(step.second, step.first);
      else if (step.kind === "start" ? at === 0 : at === text.length) todo.push(i + 1);
    }
    return false;
  };
  if (enter(ways, 0)) return true;
  while (at < text.length) {
    const char = String.fromCodePoint(text.codePointAt(at) ?? 0);
    at += char.length;
    moment++;
    const next: number[] = [];
    for (const i of ways) {
      const step = steps[i];
      if (step?.kind === "one" && step.is(char) && enter(next, i + 1)) return true;
    }
    // A match may begin anywhere.
    if (enter(next, 0)) return true;
    ways = next;
  }
  return false;
}
