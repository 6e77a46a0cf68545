/**
 * Masks a text while it grows. Only what can't become part of a finding any more is let go; how long that takes is bounded
 * by the longest finding of each type that is looked for.
 */
import { apart, type Detect, isInside } from "../detector.ts";

/**
 * What is held back for a type; beside it less than `STEP`, and then at most this.
 *
 * `chars`: so many of the last characters: the longest the type is written, with separators. `run`: only the last
 * characters without a space between them, as such a finding has none; of a run that is longer, seven eighths.
 *
 * Findings that fit are masked as if the text had been there as a whole. A longer one is masked as far as it has come, and
 * so is what follows it, up to the next space.
 */
export type Window = { readonly chars: number } | { readonly run: number };

/** So much at a time is looked through, since each look takes in the words before it too. */
const STEP = 24;

const WINDOWS: Readonly<Record<string, Window>> = {
  // RFC 5321 allows 64 characters, @ and 255; some of them percent-encoded.
  EMAIL: { run: 512 },
  // 19 digits with a sign between any two.
  CREDIT_CARD: { chars: 64 },
  // 34 characters in groups of four.
  IBAN: { chars: 72 },
  // 15 digits with a country's code, brackets, signs between groups and an extension.
  PHONE: { chars: 64 },
  US_SSN: { chars: 40 },
  // 18 digits in groups.
  CN_ID: { chars: 48 },
  // 45 characters with an IPv4 tail, percent-encoded or with a zone.
  IP: { run: 96 },
  // Tokens have no spaces; a signed JWT of 3 kB is a long one. Private keys have a rule of their own, below.
  SECRET: { run: 4_096 },
};
/** Own patterns may hold spaces; how long their findings are is not known. */
const OWN: Window = { chars: 256 };
/** A private key stands between two lines. An RSA key of 8,192 bits has 6,500 characters; of a longer one nothing is held. */
const MAX_PRIVATE_KEY_CHARS = 8_192;
const PRIVATE_KEY = "-----BEGIN ";
const END_OF_KEY = /-----END [^-]*-----/;

/**
 * So much of what has been said is shown to the detector again: words that stand before a number say what it is. Of the
 * token that it begins in, so much more.
 */
const CONTEXT_CHARS = 128;

/** Between these and what is next to them no token goes on: spaces, and the signs and letters of Chinese and Japanese. */
const BOUNDARY = /[^\S\ufeff]|[\u3000-\u9fff]/;

/** The same for one character. */
function isBoundary(unit: number): boolean {
  if (unit < 0x80) return unit === 0x20 || (unit >= 0x09 && unit <= 0x0d);
  return BOUNDARY.test(String.fromCharCode(unit));
}

/** How much of the end of a growing text is kept for some types of findings. */
export class HoldBack {
  readonly #chars: number;
  readonly #run: number;
  readonly #keys: boolean;

  constructor(types: Iterable<string>) {
    let chars = 0;
    let run = 0;
    let keys = false;
    for (const type of types) {
      const window = (Object.hasOwn(WINDOWS, type) ? WINDOWS[type] : undefined) ?? OWN;
      if ("chars" in window) chars = Math.max(chars, window.chars);
      else run = Math.max(run, window.run);
      if (type === "SECRET") keys = true;
    }
    this.#chars = chars;
    this.#run = run;
    this.#keys = keys;
  }

  /** From where on a text is kept; never before `from`. */
  start(text: string, from: number): number {
    let start = text.length - this.#chars;
    const earliest = Math.max(from, text.length - this.#run);
    let run = text.length;
    while (run > earliest && !isBoundary(text.charCodeAt(run - 1))) run--;
    // Of a run that is too long an eighth is let go at a time, lest all of it be looked through for every character.
    if (run > from && run === text.length - this.#run) run += this.#run >> 3;
    start = Math.min(start, run);
    if (this.#keys) {
      const key = text.lastIndexOf(PRIVATE_KEY);
      const isOpen = key !== -1 && !END_OF_KEY.test(text.slice(key));
      if (isOpen && text.length - key <= MAX_PRIVATE_KEY_CHARS) start = Math.min(start, key);
    }
    start = Math.max(start, from);
    return isInside(text, start) ? start - 1 : start;
  }
}

/** What to write for a finding; null: it stays. */
export type Replace = (type: string, value: string) => string | null;

export class GrowingText {
  readonly #detect: Detect;
  readonly #holdBack: HoldBack;
  readonly #replace: Replace;
  /** What has been said last, as it was before it was masked. */
  #before = "";
  #held = "";
  /** A finding was longer than can be held: what belongs to it is not said either. */
  #swallows = false;

  constructor(detect: Detect, holdBack: HoldBack, replace: Replace) {
    this.#detect = detect;
    this.#holdBack = holdBack;
    this.#replace = replace;
  }

  push(piece: string): string {
    const text = this.#before + this.#held + this.#kept(piece);
    const from = this.#before.length;
    const until = this.#holdBack.start(text, from);
    return until - from < STEP ? this.#keep(text, from) : this.#say(text, from, until);
  }

  end(): string {
    const text = this.#before + this.#held;
    const said = this.#say(text, this.#before.length, text.length);
    this.#swallows = false;
    return said;
  }

  #keep(text: string, from: number): string {
    this.#held = text.slice(from);
    return "";
  }

  #say(text: string, from: number, until: number): string {
    let said = "";
    let at = from;
    let end = until;
    for (const { start, end: stop, type } of apart(text, this.#detect(text), 0)) {
      if (stop <= from) continue;
      if (start >= end) break;
      const begin = Math.max(start, from);
      const written = this.#replace(type, text.slice(begin, stop));
      // What began before the rest is kept can't change any more: it is said as a whole.
      end = Math.max(end, stop);
      if (written === null) continue;
      said += text.slice(at, begin) + written;
      at = stop;
      this.#swallows = stop === text.length && stop > until;
    }
    said += text.slice(at, end);
    this.#before = contextOf(text.slice(0, end));
    this.#held = text.slice(end);
    return said;
  }

  /** What is left of a piece behind a finding that was too long. */
  #kept(piece: string): string {
    if (!this.#swallows) return piece;
    const boundary = piece.search(BOUNDARY);
    if (boundary === -1) return "";
    this.#swallows = false;
    return piece.slice(boundary);
  }
}

/** The end of what has been said, from the beginning of a token on, lest half of a number be taken for a whole one. */
function contextOf(text: string): string {
  const from = text.length - CONTEXT_CHARS;
  for (let start = from; start > from - CONTEXT_CHARS; start--) {
    if (start <= 0) return text;
    if (isBoundary(text.charCodeAt(start - 1))) return text.slice(start);
  }
  const end = text.slice(from);
  return end.slice(end.search(BOUNDARY) + 1);
}
