/**
 * One text of a template. Mustache without escaping, partials, lambdas and other delimiters. The library renders; the
 * reading is ours, for the library's takes 40 ms for 100,000 characters and names no place. What is read is the library's
 * own tree, lines that hold nothing but sections left out of it as there. Pure.
 */
import Mustache from "mustache";
import { MAX_NESTING } from "./content.ts";

/** A tag is a name, perhaps a dotted one; this is more than any. */
const MAX_TAG_CHARS = 500;
const MAX_COMMENT_CHARS = 10_000;
export const MAX_TAGS = 2_000;
/** Lists in lists in lists may ask for more turns than anybody has texts for. */
const MAX_TURNS = 200_000;
/** A dotted name, or what a list is gone through by. */
export const NAME = /^(?:\.|[\p{L}_][\p{L}\p{N}_-]*(?:\.[\p{L}_][\p{L}\p{N}_-]*)*)$/u;

type Kind = "text" | "name" | "&" | "#" | "^";
/** As the library has it: what it is, its value, where it begins and ends, what is inside, where that ends. */
export type Token = readonly [Kind, string, number, number, (readonly Token[])?, number?];

export type ParsedText = {
  readonly tokens: readonly Token[];
  /** Whether it holds a tag that a variable decides; what holds none is the same in every call. */
  readonly varies: boolean;
};

/** `at`: in UTF-16 units, from 0. */
export type Complaint = (problem: string, at: number) => void;

type Tag = { readonly sigil: string; readonly name: string; readonly start: number; readonly end: number };

/** The tree of a text. What is wrong with it is complained of, and left out. */
export function parseText(text: string, complain: Complaint): ParsedText {
  const lines = new Lines();
  const open: Tag[] = [];
  let varies = false;
  let tags = 0;
  let at = 0;
  for (let start = text.indexOf("{{"); start !== -1; start = text.indexOf("{{", at)) {
    lines.text(text, at, start);
    const tag = readTag(text, start, complain);
    if (tag === null) return { tokens: [], varies: true };
    at = tag.end;
    if (++tags > MAX_TAGS) {
      complain(`has more than ${MAX_TAGS} tags`, start);
      return { tokens: [], varies: true };
    }
    if (tag.sigil !== "!") varies = true;
    if (tag.sigil === "#" || tag.sigil === "^") {
      if (open.push(tag) > MAX_NESTING) complain(`has sections nested deeper than ${MAX_NESTING}`, start);
    } else if (tag.sigil === "/") {
      const opened = open.pop();
      if (opened?.name !== tag.name) {
        const shut = opened
          ? `closes \`${tag.name}\` where \`${opened.name}\` is open`
          : `closes \`${tag.name}\`, which is not open`;
        complain(shut, start);
        return { tokens: [], varies: true };
      }
    }
    lines.tag(tag);
  }
  lines.text(text, at, text.length);
  const left = open.pop();
  if (left) {
    complain(`never closes \`${left.name}\``, left.start);
    return { tokens: [], varies: true };
  }
  return { tokens: nest(lines.done()), varies };
}

/** The tag that begins at `start`; null for one whose end nobody knows. */
function readTag(text: string, start: number, complain: Complaint): Tag | null {
  const triple = text[start + 2] === "{";
  const close = triple ? "}}}" : "}}";
  const from = start + close.length;
  const to = text.indexOf(close, from);
  if (to === -1) {
    complain("has a tag that is not closed", start);
    return null;
  }
  const end = to + close.length;
  const inside = text.slice(from, Math.min(to, from + MAX_COMMENT_CHARS)).trim();
  const sigil = triple ? "&" : /^[#^/&!>=]/.test(inside) ? inside.slice(0, 1) : "name";
  const name = (triple || sigil === "name" ? inside : inside.slice(1)).trim();
  if (sigil === "!") {
    if (to - from >= MAX_COMMENT_CHARS) complain("has a comment that is too long", start);
    return { sigil, name: "", start, end };
  }
  if (sigil === ">") complain("has a partial, which templates can't have", start);
  else if (sigil === "=") complain("changes the delimiters, which templates can't", start);
  else if (to - from > MAX_TAG_CHARS || !NAME.test(name)) {
    complain("has a tag that is no name of a variable (letters, digits, _ and -, with dots between)", start);
  }
  return { sigil, name, start, end };
}

/** A token on its way into the tree, or the end of a section. */
type Flat = Token | readonly ["/", string, number, number];

/**
 * Collects tokens line by line: of a line that has sections, ends of them or comments and else nothing but white space,
 * the white space is left out, its end included.
 */
class Lines {
  readonly #tokens: Flat[] = [];
  /** Of the present line, of which it is not known yet what stays. */
  #line: Flat[] = [];
  #hasTag = false;
  #hasWord = false;

  text(text: string, from: number, to: number): void {
    const first = text.indexOf("\n", from);
    if (first === -1 || first >= to) {
      this.#piece(text, from, to);
      return;
    }
    this.#piece(text, from, first + 1);
    this.#endLine();
    // Whole lines without a tag stay, however many they are.
    const last = text.lastIndexOf("\n", to - 1);
    if (last > first) this.#push(["text", text.slice(first + 1, last + 1), first + 1, last + 1]);
    this.#piece(text, last + 1, to);
  }

  #piece(text: string, from: number, to: number): void {
    if (from === to) return;
    const piece = text.slice(from, to);
    if (/\S/.test(piece)) this.#hasWord = true;
    this.#line.push(["text", piece, from, to]);
  }

  tag({ sigil, name, start, end }: Tag): void {
    this.#hasTag = true;
    if (sigil === "name" || sigil === "&") this.#hasWord = true;
    if (sigil === "name" || sigil === "&" || sigil === "#" || sigil === "^") this.#line.push([sigil, name, start, end]);
    else if (sigil === "/") this.#line.push(["/", name, start, end]);
  }

  done() {
    this.#endLine();
    return this.#tokens;
  }

  #endLine(): void {
    const isAlone = this.#hasTag && !this.#hasWord;
    for (const token of this.#line) if (!isAlone || token[0] !== "text") this.#push(token);
    this.#line = [];
    this.#hasTag = false;
    this.#hasWord = false;
  }

  /** Texts that follow each other are one. */
  #push(token: Flat): void {
    const last = this.#tokens.at(-1);
    if (token[0] === "text" && last?.[0] === "text") {
      this.#tokens[this.#tokens.length - 1] = ["text", last[1] + token[1], last[2], token[3]];
    } else this.#tokens.push(token);
  }
}

/** Sections with what is inside of them. They are closed in order, or `parseText` has complained. */
function nest(flat: readonly Flat[]): readonly Token[] {
  const root: Token[] = [];
  const open: { readonly token: Token; readonly inside: Token[] }[] = [];
  for (const token of flat) {
    if (token[0] === "/") {
      const section = open.pop();
      if (!section) continue;
      const [kind, name, start, end] = section.token;
      (open.at(-1)?.inside ?? root).push([kind, name, start, end, section.inside, token[2]]);
    } else if (token[0] === "#" || token[0] === "^") open.push({ token, inside: [] });
    else (open.at(-1)?.inside ?? root).push(token);
  }
  return root;
}

/** An object of variables: none of its names comes from a prototype. `DECLARED` holds those that may be absent. */
export const DECLARED: unique symbol = Symbol("declared");
export type Values = { [name: string]: unknown; [DECLARED]?: Pick<ReadonlyMap<string, unknown>, "has"> };

const isValues = (value: unknown): value is Values =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** The way to a value as Mustache goes it, over own members alone. Texts have no length here, and nothing is called. */
class Scope extends Mustache.Context {
  override push(view: unknown): Scope {
    return new Scope(view, this);
  }

  override lookup(name: string): unknown {
    if (name === ".") return this.view;
    const [first = "", ...rest] = name.split(".");
    let value = this.#outwards(first);
    for (const part of rest) value = isValues(value) && Object.hasOwn(value, part) ? value[part] : undefined;
    return value;
  }

  /** The innermost that declares the name decides, whether or not it has a value. */
  #outwards(name: string): unknown {
    for (let scope: Mustache.Context | undefined = this; scope; scope = scope.parent) {
      const view: unknown = scope.view;
      if (!isValues(view)) continue;
      if (Object.hasOwn(view, name)) return view[name];
      if (view[DECLARED]?.has(name)) return undefined;
    }
    return undefined;
  }
}

/** What a tag has met where a text should be. */
export type Trouble = "absent" | "no text";
type Tell = (tag: Token, what: Trouble) => void;

/** Renders texts of one call, all within the same bounds. */
export class Renderer {
  readonly #writer: BoundedWriter;
  readonly #view: Values;

  constructor(view: Values, maxChars: number) {
    this.#view = view;
    this.#writer = new BoundedWriter(maxChars);
  }

  /** Asked after the last text: whether there was too much of it. */
  get isTooLarge(): boolean {
    return this.#writer.isSpent;
  }

  render({ tokens }: ParsedText, trouble: Tell): string {
    this.#writer.trouble = trouble;
    // The library's types have a token be a list of texts, which it is not.
    return this.#writer.renderTokens(tokens as unknown as string[][], new Scope(this.#view));
  }
}

class BoundedWriter extends Mustache.Writer {
  trouble: Tell = () => {};
  #chars: number;
  #turns = MAX_TURNS;

  constructor(maxChars: number) {
    super();
    this.#chars = maxChars;
  }

  get isSpent(): boolean {
    return this.#chars < 0 || this.#turns < 0;
  }

  override renderTokens(tokens: string[][], context: Mustache.Context): string {
    this.#turns--;
    return this.isSpent ? "" : super.renderTokens(tokens, context);
  }

  override rawValue([, text = ""]: string[]): string {
    return this.#take(text);
  }

  override escapedValue(token: string[], context: Mustache.Context): string {
    return this.#value(token as unknown as Token, context);
  }

  override unescapedValue(token: string[], context: Mustache.Context): string {
    return this.#value(token as unknown as Token, context);
  }

  #value(tag: Token, context: Mustache.Context): string {
    const value: unknown = context.lookup(tag[1]);
    if (value === null) return "";
    if (value === undefined) this.trouble(tag, "absent");
    else if (typeof value === "object") this.trouble(tag, "no text");
    else return this.#take(String(value));
    return "";
  }

  #take(text: string): string {
    this.#chars -= text.length;
    return this.#chars < 0 ? "" : text;
  }
}
