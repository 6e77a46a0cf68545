/** Questions about single UTF-16 units. An offset outside the text answers -1, which is none of them. */

export function unitAt(text: string, at: number): number {
  return at >= 0 && at < text.length ? text.charCodeAt(at) : -1;
}

export function isDigit(unit: number): boolean {
  return unit >= 48 && unit <= 57;
}

export function isAsciiLetter(unit: number): boolean {
  const lower = unit | 32;
  return unit >= 0 && lower >= 97 && lower <= 122;
}

export function isAlphanumeric(unit: number): boolean {
  return isDigit(unit) || isAsciiLetter(unit);
}

/** `\w`. */
export function isWord(unit: number): boolean {
  return isAlphanumeric(unit) || unit === 95;
}

export function isHex(unit: number): boolean {
  const lower = unit | 32;
  return isDigit(unit) || (unit >= 0 && lower >= 97 && lower <= 102);
}

/** Scripts written without spaces between words: Han, kana, Hangul. What touches a number or a name there is no part of it. */
export function isUnspacedScript(unit: number): boolean {
  return (
    (unit >= 0x2e80 && unit <= 0x9fff) ||
    (unit >= 0xac00 && unit <= 0xd7af) ||
    (unit >= 0x1100 && unit <= 0x11ff) ||
    (unit >= 0xf900 && unit <= 0xfaff) ||
    (unit >= 0xd840 && unit <= 0xd88f)
  );
}

const LETTER = /^\p{L}$/u;

/** A letter of a script with spaces between words, beyond ASCII: é, ş, ж, λ, ع. */
export function isSpacedLetter(unit: number): boolean {
  return unit >= 0xc0 && !isUnspacedScript(unit) && LETTER.test(String.fromCharCode(unit));
}
