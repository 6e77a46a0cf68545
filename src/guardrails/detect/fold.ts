/**
 * Folding: the copy of a text that the detectors read, with what hides a value undone: full-width forms, look-alike letters and digits of
 * other scripts, zero-width characters, combining marks, percent-encoding, the escapes of JSON inside JSON (`\n`, `\"`, `\u0040`). A copy is
 * never longer than its text (no character becomes two: U+FDFA, eighteen in Unicode's own normal form, stays one), and its offsets lead back
 * exactly. Text that needs none of it is its own copy.
 */
import {
  BACKSLASH,
  DROPPED,
  foldTable,
  HIGH_INVISIBLE,
  HIGH_MATHEMATICAL,
  ITSELF,
  isCombining,
  isInvisibleLow,
  mathematical,
  PERCENT,
} from "./confusables.ts";

export type Folded = {
  readonly text: string;
  /** The original offset at which the character at this offset of the copy begins. */
  readonly start: (offset: number) => number;
  /** The original offset at which the character before this offset of the copy ends. */
  readonly end: (offset: number) => number;
};

const NEEDS_A_LOOK = /[^\0-\x7f]|%[2-7][0-9a-f]|\\[nrtu"/]/i;
/** `%40`, `%2540`, `%252540`: as often as proxies are known to encode twice, and once more. */
const MAX_ENCODINGS = 3;
/** Rows up to this long are cheaper copied than cut out. */
const MAX_SHORT = 16;
const MAX_PENDING = 256;
/** What a letter stands for behind a backslash. */
const ESCAPED: Readonly<Record<string, number>> = { n: 10, r: 13, t: 9, '"': 34, "/": 47 };

export function fold(text: string): Folded {
  const from = text.search(NEEDS_A_LOOK);
  if (from < 0) return { text, start: same, end: same };
  const folds = foldTable();
  const copy = new Copy(text);
  for (let at = from; at < text.length; ) {
    const unit = text.charCodeAt(at);
    // Most characters stand for themselves, and are copied in rows.
    if (folds[unit] === ITSELF) at++;
    else at = copy.take(unit, at);
  }
  return copy.finish();
}

const same = (offset: number): number => offset;

/** The copy as it grows, and the places at which its offsets stop running beside the original's. */
class Copy {
  private readonly original: string;
  private readonly pieces: string[] = [];
  /** Single characters and short rows that are no piece yet. */
  private readonly pending = new Uint16Array(MAX_PENDING);
  private pendingCount = 0;
  private length = 0;
  /** How far the original is copied. */
  private copied = 0;
  /** Triples: offset in the copy, where its character begins, where the one before it ends. */
  private seams = new Uint32Array(96);
  private seamCount = 0;
  /** Where the next character begins if nothing is left out. */
  private beside = 0;
  /** Where the last character ends. */
  private ended = 0;

  constructor(original: string) {
    this.original = original;
  }

  /** Takes everything up to the character at `at`, and what that stands for; tells where the next one begins. */
  take(unit: number, at: number): number {
    this.row(at);
    this.copied = this.fold(unit, at);
    return this.copied;
  }

  finish(): Folded {
    this.row(this.original.length);
    this.flush();
    const text = this.pieces.join("");
    const { seams, seamCount, ended } = this;
    return {
      text,
      start: (offset) => {
        const seam = lastSeam(seams, seamCount, offset);
        return seam < 0 ? offset : (seams[seam + 1] ?? 0) + offset - (seams[seam] ?? 0);
      },
      end: (offset) => {
        if (offset === text.length) return ended;
        const seam = lastSeam(seams, seamCount, offset);
        if (seam < 0) return offset;
        const begins = seams[seam] ?? 0;
        return begins === offset ? (seams[seam + 2] ?? 0) : (seams[seam + 1] ?? 0) + offset - begins;
      },
    };
  }

  private fold(unit: number, at: number): number {
    if (unit === PERCENT) return this.percent(at);
    if (unit === BACKSLASH) return this.escape(at);
    if (unit === HIGH_MATHEMATICAL || unit === HIGH_INVISIBLE) return this.pair(unit, at);
    const folded = foldTable()[unit] ?? DROPPED;
    if (folded !== DROPPED) return this.put(folded, at, 1);
    // A mark belongs to the letter before it, an invisible character to nothing.
    if (isCombining(unit) && this.ended === at) this.ended = at + 1;
    return at + 1;
  }

  /** Copies what stands for itself, up to `to`. */
  private row(to: number): void {
    if (to === this.copied) return;
    if (this.copied !== this.beside) this.seam(this.copied);
    if (to - this.copied > MAX_SHORT) {
      this.flush();
      this.pieces.push(this.original.slice(this.copied, to));
    } else for (let at = this.copied; at < to; at++) this.append(this.original.charCodeAt(at));
    this.length += to - this.copied;
    this.beside = to;
    this.ended = to;
  }

  private put(unit: number, at: number, consumed: number): number {
    if (at !== this.beside) this.seam(at);
    this.append(unit);
    this.length++;
    this.beside = at + 1;
    this.ended = at + consumed;
    return this.ended;
  }

  private append(unit: number): void {
    if (this.pendingCount === MAX_PENDING) this.flush();
    this.pending[this.pendingCount++] = unit;
  }

  private flush(): void {
    if (this.pendingCount === 0) return;
    this.pieces.push(Reflect.apply(String.fromCharCode, undefined, this.pending.subarray(0, this.pendingCount)));
    this.pendingCount = 0;
  }

  private seam(at: number): void {
    const next = this.seamCount * 3;
    if (next + 3 > this.seams.length) {
      const grown = new Uint32Array(this.seams.length * 2);
      grown.set(this.seams);
      this.seams = grown;
    }
    this.seams[next] = this.length;
    this.seams[next + 1] = at;
    this.seams[next + 2] = this.ended;
    this.seamCount++;
  }

  private percent(at: number): number {
    let digits = at + 1;
    for (let level = 0; level < MAX_ENCODINGS; level++) {
      const value = hexByte(this.original, digits);
      if (value >= 32 && value < 127 && value !== PERCENT) return this.put(value, at, digits + 2 - at);
      if (value !== PERCENT) break;
      digits += 2;
    }
    return this.put(PERCENT, at, 1);
  }

  private escape(at: number): number {
    const letter = this.original.charAt(at + 1);
    const stands = ESCAPED[letter];
    if (stands !== undefined) return this.put(stands, at, 2);
    if (letter === "u" && this.original.startsWith("00", at + 2)) {
      const value = hexByte(this.original, at + 4);
      if (value >= 32 && value < 127) return this.put(value, at, 6);
    }
    return this.put(BACKSLASH, at, 1);
  }

  private pair(high: number, at: number): number {
    const low = this.original.charCodeAt(at + 1);
    if (high === HIGH_INVISIBLE && isInvisibleLow(low)) return at + 2;
    const letter = high === HIGH_MATHEMATICAL ? mathematical(low - 0xdc00) : DROPPED;
    return letter === DROPPED ? this.put(high, at, 1) : this.put(letter, at, 2);
  }
}

/** The index of the last seam at or before an offset of the copy, or -1. */
function lastSeam(seams: Uint32Array, count: number, offset: number): number {
  let low = 0;
  let high = count;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((seams[middle * 3] ?? 0) <= offset) low = middle + 1;
    else high = middle;
  }
  return (low - 1) * 3;
}

function hexByte(text: string, at: number): number {
  const high = hexValue(text.charCodeAt(at));
  const low = hexValue(text.charCodeAt(at + 1));
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

function hexValue(unit: number): number {
  if (unit >= 48 && unit <= 57) return unit - 48;
  const lower = unit | 32;
  return lower >= 97 && lower <= 102 ? lower - 87 : -1;
}
