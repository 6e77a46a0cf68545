/**
 * Which placeholder stands for which value. The same value, however it is spelled, has the same placeholder throughout a
 * body, and throughout a conversation that keeps its table (`data`, `PlaceholderTable.from`).
 *
 * A placeholder that somebody has written himself is never given to a value: he would be shown another's address for it.
 */

/** Values that one table keeps. Beyond them, and beyond `MAX_VALUE_CHARS`, a value becomes `[EMAIL]`, for good. */
export const MAX_VALUES = 10_000;
/** All values of a table together; with their names they fit into a row of 2 MB. */
export const MAX_VALUE_CHARS = 256 * 1024;
/** Placeholders written as words that are kept apart. A body with more of them has its values become `[EMAIL]`. */
export const MAX_WRITTEN = 50_000;
/** As many of them a table remembers beyond the body they stand in. */
const MAX_TAKEN = 1_000;
/** Longest value that is folded: normalizing may make a text eighteen times as long. */
const MAX_FOLDED_CHARS = 1_024;

/** Longest name of a type, own patterns included. */
export const MAX_TYPE_CHARS = 32;
/** A name with its number: no table gets past a million. */
const MAX_NAME_CHARS = MAX_TYPE_CHARS + 8;

/**
 * A placeholder as it may come back from a model: to the letter, or with the backslashes of Markdown before both of its
 * brackets or its underscores. Nothing else: `EMAIL_1` by itself may be a variable's name, and `[email_1]` a footnote's.
 */
export const WRITTEN = new RegExp(`(\\\\?)\\[((?:[A-Za-z](?:[A-Za-z0-9-]|\\\\?_){0,${MAX_NAME_CHARS}}))\\1\\]`, "g");

/** The name in a placeholder, without Markdown's backslashes. */
export const plainName = (written: string): string => written.replaceAll("\\", "");

/** Names of what stands in a text and looks like a placeholder. */
export function* writtenIn(text: string): Generator<string> {
  for (const [, , written = ""] of text.matchAll(WRITTEN)) {
    const name = plainName(written);
    if (NUMBER.test(name)) yield name;
  }
}

/** A table as data: names without brackets, such as `EMAIL_1`, each with its value. */
export type TableData = {
  readonly values: readonly (readonly [name: string, value: string])[];
  readonly taken: readonly string[];
};

const NUMBER = /_\d{1,7}$/;
/** Invisible characters inside of a value. */
const FORMAT = /\p{Cf}/gu;

const PLAIN = /^[ -~]*$/;

/** What is the same for all spellings of a value. */
function folded(type: string, value: string): string {
  if (value.length > MAX_FOLDED_CHARS) return value;
  const plain = PLAIN.test(value) ? value : value.normalize("NFKC").replace(FORMAT, "");
  switch (type) {
    case "EMAIL":
      return plain.replaceAll("%40", "@").toLowerCase();
    case "IP":
      return plain.toLowerCase();
    case "PHONE":
    case "CREDIT_CARD":
    case "IBAN":
    case "US_SSN":
    case "CN_ID":
      return plain.replace(/[^\p{L}\p{N}]/gu, "").toUpperCase();
    case "SECRET":
      return /^[0-9a-f]+$/i.test(value) ? value.toLowerCase() : value;
    default:
      return value;
  }
}

export class PlaceholderTable {
  /** By type and folded value. */
  readonly #names = new Map<string, string>();
  readonly #values = new Map<string, string>();
  /** Placeholders that stand somewhere as words. */
  readonly #taken = new Set<string>();
  readonly #next = new Map<string, number>();
  /** Another table whose names are not used here. */
  readonly #beside: PlaceholderTable | null;
  #chars = 0;
  #sorted: readonly string[] | null = null;

  constructor(beside: PlaceholderTable | null = null) {
    this.#beside = beside;
  }

  /** A table that has been kept as data. */
  static from({ values, taken }: TableData): PlaceholderTable {
    const table = new PlaceholderTable();
    for (const [name, value] of values) table.#add(name.replace(NUMBER, ""), value, name);
    table.reserve(taken);
    return table;
  }

  get data(): TableData {
    return { values: [...this.#values], taken: [...this.#taken].slice(0, MAX_TAKEN) };
  }

  /** How many values have a placeholder. */
  get size(): number {
    return this.#values.size;
  }

  /** Whether the name of one of its placeholders begins so, or is this. */
  hasNameFrom(beginning: string): boolean {
    this.#sorted ??= [...this.#values.keys()].sort();
    let low = 0;
    let high = this.#sorted.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#sorted[middle] ?? "") < beginning) low = middle + 1;
      else high = middle;
    }
    return this.#sorted[low]?.startsWith(beginning) === true;
  }

  /** Placeholders that stand in a text: they are not given out from now on. Those of the table itself stay its own. */
  reserve(names: Iterable<string>): void {
    for (const name of names) {
      if (this.#taken.size > MAX_WRITTEN) return;
      if (!this.#values.has(name)) this.#taken.add(name);
    }
  }

  /** What to write for a value. */
  placeholderFor(type: string, value: string): string {
    const name = this.#names.get(keyOf(type, value)) ?? this.#give(type, value);
    return name === null ? `[${type}]` : `[${name}]`;
  }

  /** The value that a name stands for, as it was first written. */
  valueOf(name: string): string | undefined {
    return this.#values.get(name);
  }

  #give(type: string, value: string): string | null {
    if (
      this.#taken.size > MAX_WRITTEN ||
      this.#values.size >= MAX_VALUES ||
      this.#chars + value.length > MAX_VALUE_CHARS
    )
      return null;
    let number = this.#next.get(type) ?? 1;
    while (this.uses(`${type}_${number}`)) number++;
    const name = `${type}_${number}`;
    this.#next.set(type, number + 1);
    this.#add(type, value, name);
    return name;
  }

  #add(type: string, value: string, name: string): void {
    this.#names.set(keyOf(type, value), name);
    this.#values.set(name, value);
    this.#chars += value.length;
    this.#sorted = null;
  }

  /** Whether a name can't be given out. */
  uses(name: string): boolean {
    return this.#values.has(name) || this.#taken.has(name) || this.#beside?.uses(name) === true;
  }
}

const keyOf = (type: string, value: string): string => `${type}\n${folded(type, value)}`;
