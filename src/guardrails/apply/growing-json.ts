/** Masks the strings of a JSON document while its text grows, each by itself; keys and all else stay as they are. */
import type { GrowingText } from "./growing-text.ts";
import { escaped, readJsonSource } from "./json-text.ts";
import type { Flow } from "./stream-rewriter.ts";

/** Deeper than this, keys are taken for values, and looked at too. */
const MAX_DEPTH = 1_000;

export class GrowingJson implements Flow {
  readonly #begin: () => GrowingText;
  /** Whether each container that stands open is an object. */
  readonly #open: boolean[] = [];
  #expectsKey = false;
  #string: GrowingText | "key" | null = null;
  /** An escape that has not ended. */
  #escape = "";

  /** `begin`: a text for each string. */
  constructor(begin: () => GrowingText) {
    this.#begin = begin;
  }

  readonly push = (piece: string): string => {
    const source = this.#escape + piece;
    this.#escape = "";
    let said = "";
    let at = 0;
    while (at < source.length) {
      if (this.#string === null) {
        const quote = source.indexOf('"', at);
        const end = quote === -1 ? source.length : quote + 1;
        this.#structure(source, at, end);
        said += source.slice(at, end);
        at = end;
        if (quote !== -1) this.#string = this.#expectsKey ? "key" : this.#begin();
        continue;
      }
      const end = endOfPart(source, at);
      const part = source.slice(at, end);
      at = end;
      const closes = source[end] === '"';
      if (closes) at++;
      if (this.#string === "key") {
        const { whole } = readJsonSource(part);
        this.#escape = part.slice(whole);
        said += part.slice(0, whole);
      } else {
        const { text, whole } = readJsonSource(part);
        this.#escape = part.slice(whole);
        said += escaped(this.#string.push(text));
        if (closes) said += escaped(this.#string.end());
      }
      if (!closes) continue;
      said += `${this.#escape}"`;
      this.#escape = "";
      this.#expectsKey = false;
      this.#string = null;
    }
    return said;
  };

  readonly end = (): string => {
    const rest = this.#string === null || this.#string === "key" ? "" : escaped(this.#string.end());
    const said = rest + this.#escape;
    this.#escape = "";
    this.#string = null;
    return said;
  };

  readonly holds = (): boolean => true;

  #structure(source: string, from: number, to: number): void {
    for (let at = from; at < to; at++) {
      switch (source[at]) {
        case "{":
        case "[":
          if (this.#open.length < MAX_DEPTH) this.#open.push(source[at] === "{");
          this.#expectsKey = source[at] === "{" && this.#open.length < MAX_DEPTH;
          break;
        case "}":
        case "]":
          this.#open.pop();
          this.#expectsKey = false;
          break;
        case ",":
          this.#expectsKey = this.#open.at(-1) === true && this.#open.length < MAX_DEPTH;
      }
    }
  }
}

/** Where the string that goes on at `at` has its closing quote; the end of the source if it has none there. */
function endOfPart(source: string, at: number): number {
  for (let end = at; end < source.length; end++) {
    if (source[end] === "\\") end++;
    else if (source[end] === '"') return end;
  }
  return source.length;
}
