/** Names and ids of a client's in the letters that Claude takes, each its own, and the same for the same history. */
import { fnv1a } from "../../digest.ts";

const FIT = /^[a-zA-Z0-9_-]+$/;
const UNFIT = /[^a-zA-Z0-9_-]/g;

/** `_` and a hash of 8 hex digits. */
const SUFFIX_CHARS = 9;

/** Ids have no stated limit (400: "String should match pattern '^[a-zA-Z0-9_-]+$'"); none that is made is longer. */
const MAX_REWRITTEN_CHARS = 64;

export class FittedNames {
  readonly #taken = new Set<string>();
  /** How often a rewritten name has been wanted by somebody else: so that a thousand names of one hash don't count each from 0. */
  readonly #wanted = new Map<string, number>();
  readonly #maxChars: number;

  /** `maxChars`: what is longer is rewritten. */
  constructor(maxChars: number) {
    this.#maxChars = maxChars;
  }

  fits(name: string): boolean {
    return name.length <= this.#maxChars && FIT.test(name);
  }

  /** Takes a name as it is; false: it doesn't fit, or is another's already. */
  claim(name: string): boolean {
    if (this.#taken.has(name) || !this.fits(name)) return false;
    this.#taken.add(name);
    return true;
  }

  /** Takes a name that says as much of the given one as it can: its letters and a hash of all of it. */
  rewrite(name: string): string {
    const most = Math.min(this.#maxChars, MAX_REWRITTEN_CHARS) - SUFFIX_CHARS;
    const hash = fnv1a(name).toString(16).padStart(8, "0");
    const base = `${name.slice(0, most).replace(UNFIT, "_")}_${hash}`;
    let nth = this.#wanted.get(base) ?? 0;
    let fitted = base;
    // A number can't make it too long: there are fewer names than the 128 - 64 characters left have numbers.
    while (this.#taken.has(fitted)) fitted = `${base}_${++nth}`;
    this.#wanted.set(base, nth);
    this.#taken.add(fitted);
    return fitted;
  }

  /** The name itself where it can be had, else one that stands for it. */
  fit(name: string): string {
    return this.claim(name) ? name : this.rewrite(name);
  }
}
