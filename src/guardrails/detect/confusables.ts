/**
 * What looks like an ASCII character or like nothing at all. Data: Unicode's confusables (UTS #39) as far as they serve e-mail addresses,
 * digits and keys; blocks of digits (general category Nd); format characters (Cf).
 */

/** What is not seen, and what needs a look: no character has this number. */
export const DROPPED = 0xffff;
/** A character that stands for itself. */
export const ITSELF = 0;

/** Blocks whose first ten characters are the digits 0 to 9. */
const ZEROS = [
  0x0660, 0x06f0, 0x07c0, 0x0966, 0x09e6, 0x0a66, 0x0ae6, 0x0b66, 0x0be6, 0x0c66, 0x0ce6, 0x0d66, 0x0e50, 0x0ed0,
  0x0f20, 0x1040, 0x17e0, 0x1810,
];

const LOOK_ALIKES: Readonly<Record<string, string>> = {
  // Cyrillic
  аеорсухіјѕһԁԛԝӏ: "aeopcyxijshdqwl",
  АВЕКМНОРСТУХІЈЅ: "ABEKMHOPCTYXIJS",
  // Greek
  αικνορυχ: "aikvopux",
  ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ: "ABEZHIKMNOPTYX",
  // Latin
  ıɡɑℓℯℊℴſ: "igalegos",
  // Signs
  "‐‑‒–—―−﹘﹣": "---------",
  "․·﹒": "...",
  "﹫": "@",
  "﹕": ":",
};

const COMBINING: readonly (readonly [number, number])[] = [
  [0x0300, 0x036f],
  [0x1ab0, 0x1aff],
  [0x1dc0, 0x1dff],
  [0x20d0, 0x20ff],
  [0xfe20, 0xfe2f],
];

const INVISIBLE: readonly (readonly [number, number])[] = [
  [0x00ad, 0x00ad],
  [0x061c, 0x061c],
  [0x180b, 0x180e],
  [0x200b, 0x200f],
  [0x202a, 0x202e],
  [0x2060, 0x206f],
  [0xfe00, 0xfe0f],
  [0xfeff, 0xfeff],
];

const SPACES = [0x00a0, 0x1680, 0x202f, 0x205f, 0x3000];

let table: Uint16Array | undefined;

export const PERCENT = 37;
export const BACKSLASH = 92;
/** First halves of pairs that need a look at the second. */
export const HIGH_MATHEMATICAL = 0xd835;
export const HIGH_INVISIBLE = 0xdb40;

/** By unit: the ASCII unit that it stands for, ITSELF, or DROPPED for what is not seen and for what needs a look at what comes after. */
export function foldTable(): Uint16Array {
  table ??= makeTable();
  return table;
}

/** 128 KB, made when the first text beyond ASCII comes. */
function makeTable(): Uint16Array {
  const made = new Uint16Array(65_536);
  for (let unit = 0xff01; unit <= 0xff5e; unit++) made[unit] = unit - 0xfee0;
  for (const zero of ZEROS) for (let digit = 0; digit < 10; digit++) made[zero + digit] = 48 + digit;
  for (const [from, to] of [...COMBINING, ...INVISIBLE]) made.fill(DROPPED, from, to + 1);
  for (const unit of [PERCENT, BACKSLASH, HIGH_MATHEMATICAL, HIGH_INVISIBLE]) made[unit] = DROPPED;
  for (const space of SPACES) made[space] = 32;
  made.fill(32, 0x2000, 0x200b);
  for (const [strange, plain] of Object.entries(LOOK_ALIKES)) {
    for (let index = 0; index < strange.length; index++) made[strange.charCodeAt(index)] = plain.charCodeAt(index);
  }
  return made;
}

export function isCombining(unit: number): boolean {
  return COMBINING.some(([from, to]) => unit >= from && unit <= to);
}

/** Whether the second half of a pair that begins with U+DB40 makes it a tag or a variation selector. */
export function isInvisibleLow(low: number): boolean {
  return (low >= 0xdc00 && low < 0xdc80) || (low >= 0xdd00 && low <= 0xddef);
}

/** Mathematical alphanumeric symbols, counted from U+1D400: the letter or digit behind the style, or DROPPED where there is none. */
export function mathematical(index: number): number {
  if (index >= 0 && index < 0x2a4) {
    const letter = index % 52;
    return letter < 26 ? 65 + letter : 71 + letter;
  }
  if (index >= 0x3ce && index < 0x400) return 48 + ((index - 0x3ce) % 10);
  return DROPPED;
}
