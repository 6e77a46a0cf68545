/**
 * One text for all JSON texts that say the same: members in the order of their names, no space between anything, escapes
 * only where one is needed, numbers by their exact value. What a double would round together stays apart, and so do
 * texts of different code points, however alike they look (NFC and NFD).
 */

const QUOTE = 0x22;
const OPEN_ARRAY = 0x5b;
const CLOSE_ARRAY = 0x5d;
const OPEN_OBJECT = 0x7b;
const CLOSE_OBJECT = 0x7d;
const COMMA = 0x2c;
const ZERO = 0x30;
/** An exponent with more digits is not added to: such a number stays as it is written. */
const MAX_EXPONENT_CHARS = 15;
const NUMBER = /^(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?$/;

/**
 * The canonical text of a document that `scanJson` has accepted (so it is well formed and of bounded depth). Null: an
 * object in it has a name twice, and which of the two counts nobody but the reader knows.
 */
export function canonicalJson(text: string): string | null {
  return new Reader(text).value();
}

class Reader {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  value(): string | null {
    switch (this.#next()) {
      case OPEN_OBJECT:
        return this.#object();
      case OPEN_ARRAY:
        return this.#array();
      case QUOTE:
        return this.#string();
      default:
        return this.#word();
    }
  }

  #object(): string | null {
    const members: (readonly [name: string, value: string])[] = [];
    this.#at++;
    while (this.#next() !== CLOSE_OBJECT) {
      if (this.#next() === COMMA) {
        this.#at++;
        this.#next();
      }
      const name = this.#string();
      this.#next();
      // The colon.
      this.#at++;
      const value = this.value();
      if (value === null) return null;
      members.push([name, value]);
    }
    this.#at++;
    members.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
    let text = "{";
    let before: string | undefined;
    for (const [name, value] of members) {
      if (name === before) return null;
      text += `${before === undefined ? "" : ","}${name}:${value}`;
      before = name;
    }
    return `${text}}`;
  }

  #array(): string | null {
    let text = "[";
    this.#at++;
    while (this.#next() !== CLOSE_ARRAY) {
      if (this.#next() === COMMA) {
        this.#at++;
        text += ",";
      }
      const value = this.value();
      if (value === null) return null;
      text += value;
    }
    this.#at++;
    return `${text}]`;
  }

  #string(): string {
    const start = this.#at;
    let end = start;
    do end = this.#text.indexOf('"', end + 1);
    while (this.#isEscaped(end));
    this.#at = end + 1;
    const raw = this.#text.slice(start, end + 1);
    return raw.includes("\\") ? JSON.stringify(JSON.parse(raw)) : raw;
  }

  /** Whether an odd number of backslashes stands before. */
  #isEscaped(at: number): boolean {
    let first = at;
    while (this.#text[first - 1] === "\\") first--;
    return (at - first) % 2 === 1;
  }

  /** A number, or one of the three words. */
  #word(): string {
    const start = this.#at;
    while (this.#at < this.#text.length && !endsWord(this.#text.charCodeAt(this.#at))) this.#at++;
    return canonicalNumber(this.#text.slice(start, this.#at));
  }

  /** The next character that is no space; NaN at the end. */
  #next(): number {
    for (;;) {
      const code = this.#text.charCodeAt(this.#at);
      if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return code;
      this.#at++;
    }
  }
}

const endsWord = (code: number): boolean =>
  code === COMMA || code === CLOSE_ARRAY || code === CLOSE_OBJECT || code <= 0x20;

/** Sign, digits without zeros at either end, and a power of ten: `1.0` and `10e-1` are `1`. Words pass. */
function canonicalNumber(word: string): string {
  const [, sign = "", whole = "", fraction = "", exponent = "0"] = NUMBER.exec(word) ?? [];
  if (whole === "" || exponent.length > MAX_EXPONENT_CHARS) return word;
  const digits = whole + fraction;
  let first = 0;
  while (first < digits.length && digits.charCodeAt(first) === ZERO) first++;
  if (first === digits.length) return "0";
  let end = digits.length;
  while (digits.charCodeAt(end - 1) === ZERO) end--;
  const power = Number(exponent) - fraction.length + (digits.length - end);
  return `${sign}${digits.slice(first, end)}${power === 0 ? "" : `e${power}`}`;
}
