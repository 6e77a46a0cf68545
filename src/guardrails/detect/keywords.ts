/** Finds many keywords in one walk, whatever their case (Aho, Corasick 1975): one table look-up per character of the text. */

import { isAsciiLetter } from "./characters.ts";

export type Keywords = (text: string, hit: (keyword: number, start: number) => void) => void;

/** Takes keywords in lower case, of characters below U+0080 or of the few others that occur in them. */
export function prepareKeywords(keywords: readonly string[]): Keywords {
  const { classes, width } = classify(keywords);
  const { next, ends, outputs } = complete(trie(keywords, classes, width), width);
  return (text, hit) => {
    let state = 0;
    for (let at = 0; at < text.length; at++) {
      state = next[state * width + (classes[text.charCodeAt(at)] ?? 0)] ?? 0;
      if (ends[state] === 0) continue;
      for (const keyword of outputs[state] ?? []) hit(keyword, at + 1 - (keywords[keyword]?.length ?? 0));
    }
  };
}

/** A small number for every unit that occurs, the same for both cases of a letter; 0 for all others. `width`: how many there are. */
function classify(keywords: readonly string[]): { classes: Uint8Array; width: number } {
  const classes = new Uint8Array(65_536);
  let width = 1;
  for (const unit of new Set(keywords.join(""))) {
    const code = unit.charCodeAt(0);
    classes[code] = width;
    if (isAsciiLetter(code)) classes[code - 32] = width;
    width++;
  }
  return { classes, width };
}

/** A state is what was read so far of some keywords; 0 is nothing. */
type Trie = {
  /** By state and class: the state after that character, 0 for none. */
  readonly next: Uint16Array;
  readonly states: number;
  /** By state: one that follows it, another one that follows what it follows, and the class that leads there. */
  readonly follower: Uint16Array;
  readonly sibling: Uint16Array;
  readonly symbol: Uint8Array;
  /** By state: the keywords that end there. */
  readonly outputs: (readonly number[] | undefined)[];
};

function trie(keywords: readonly string[], classes: Uint8Array, width: number): Trie {
  const most = 1 + keywords.reduce((sum, keyword) => sum + keyword.length, 0);
  const next = new Uint16Array(most * width);
  const [follower, sibling, symbol] = [new Uint16Array(most), new Uint16Array(most), new Uint8Array(most)];
  const outputs = new Array<readonly number[] | undefined>(most);
  let states = 1;
  for (let index = 0; index < keywords.length; index++) {
    const keyword = keywords[index] ?? "";
    let state = 0;
    for (let at = 0; at < keyword.length; at++) {
      const unit = classes[keyword.charCodeAt(at)] ?? 0;
      const child = next[state * width + unit] || states++;
      if (next[state * width + unit] === 0) {
        next[state * width + unit] = child;
        symbol[child] = unit;
        sibling[child] = follower[state] ?? 0;
        follower[state] = child;
      }
      state = child;
    }
    outputs[state] = [...(outputs[state] ?? []), index];
  }
  return { next: next.slice(0, states * width), states, follower, sibling, symbol, outputs };
}

type Table = Pick<Trie, "next" | "outputs"> & { readonly ends: Uint8Array };

/**
 * Fills in where each state goes on a character it has no branch for, and what ends there as well: both as in the state of the longest other
 * beginning that it ends with. Rows are copied from there as a whole.
 */
function complete({ next, states, follower, sibling, symbol, outputs }: Trie, width: number): Table {
  const fallback = new Uint16Array(states);
  const ends = new Uint8Array(states);
  const queue = new Uint16Array(states);
  let queued = 1;
  for (let head = 0; head < states; head++) {
    const state = queue[head] ?? 0;
    const other = fallback[state] ?? 0;
    if (state !== 0) next.copyWithin(state * width, other * width, (other + 1) * width);
    for (let child = follower[state] ?? 0; child !== 0; child = sibling[child] ?? 0) {
      const slot = symbol[child] ?? 0;
      const onward = state === 0 ? 0 : (next[other * width + slot] ?? 0);
      next[state * width + slot] = child;
      fallback[child] = onward;
      const also = outputs[onward];
      if (also !== undefined) outputs[child] = [...(outputs[child] ?? []), ...also];
      if (outputs[child] !== undefined) ends[child] = 1;
      queue[queued++] = child;
    }
  }
  return { next, ends, outputs };
}
