/**
 * Holds values against a schema of variables, as far as it is left when it has been read (schema-reader.ts): JSON Schema
 * (draft 2020-12). What is wrong is told by its place, in our words, and never with a value. Ours and not a library's: one
 * that tells places and keeps to bounds would have had to be surrounded by as much code again, and brings what no schema
 * here may have. The tests hold a library against it. Pure.
 */
import { type Format, hasFormat } from "./formats.ts";
import type { Pattern } from "./pattern.ts";
import type { Kind } from "./shape.ts";

/** Texts of one call that have a pattern, together: 500 steps of a pattern × 20,000 are some 50 ms at the very worst. */
export const MAX_MATCHED_CHARS = 20_000;

/** Times that values of one call are held against a schema, those of alternatives counted: some 10 ms at the very worst. */
const MAX_HELD = 25_000;

/** A schema. False is fulfilled by nothing, true by anything. */
export type Rule = boolean | Rules;
export type Rules = {
  kinds?: ReadonlySet<Kind>;
  /** `keyOf` each value that it may be. */
  values?: ReadonlySet<string>;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  exclusiveMaximum?: number;
  multipleOf?: number;
  minLength?: number;
  maxLength?: number;
  format?: Format;
  pattern?: Pattern;
  minItems?: number;
  maxItems?: number;
  uniqueItems?: true;
  prefixItems?: readonly Rule[];
  items?: Rule;
  minProperties?: number;
  maxProperties?: number;
  required?: readonly string[];
  properties?: ReadonlyMap<string, Rule>;
  all?: readonly Rule[];
  anyOf?: readonly Rule[];
  oneOf?: readonly Rule[];
  not?: Rule;
  if?: Rule;
  then?: Rule;
  else?: Rule;
};

/** All that is wrong with a value, each with its place: `variables.items.0.name: is missing`. */
export function evaluate(rule: Rule, value: unknown, path: string): readonly string[] {
  return new Evaluation().problems(rule, value, path);
}

type Tell = (path: string, problem: string) => void;

class Evaluation {
  #matched = 0;
  #held = 0;

  problems(rule: Rule, value: unknown, path: string): readonly string[] {
    const problems: string[] = [];
    this.#hold(rule, value, path, (where, problem) => problems.push(`${where}: ${problem}`));
    if (this.#held >= MAX_HELD) problems.push(`${path}: hold too much for the schema of this template`);
    return problems;
  }

  #fits(rule: Rule, value: unknown): boolean {
    let fits = true;
    this.#hold(rule, value, "", () => {
      fits = false;
    });
    return fits;
  }

  #hold(rule: Rule, value: unknown, path: string, tell: Tell): void {
    if (rule === true || this.#held >= MAX_HELD) return;
    this.#held++;
    if (rule === false) {
      tell(path, "must not be there");
      return;
    }
    const { kinds, values } = rule;
    if (kinds && !isOf(kinds, value)) tell(path, `must be ${[...kinds].join(" or ")}`);
    if (values && !values.has(keyOf(value))) {
      tell(path, values.size === 1 ? "is not the value that it must have" : "is none of the values that it may have");
    }
    if (typeof value === "number") holdNumber(rule, value, path, tell);
    else if (typeof value === "string") this.#holdText(rule, value, path, tell);
    else if (Array.isArray(value)) this.#holdList(rule, value, path, tell);
    else if (typeof value === "object" && value !== null) this.#holdObject(rule, value, path, tell);
    this.#holdJoined(rule, value, path, tell);
  }

  #holdText({ minLength, maxLength, format, pattern }: Rules, text: string, path: string, tell: Tell): void {
    if (minLength !== undefined && (text.length < minLength || charsOf(text) < minLength)) tell(path, "is too short");
    if (maxLength !== undefined && text.length > maxLength && charsOf(text) > maxLength) tell(path, "is too long");
    if (format && !hasFormat(text, format)) tell(path, "has not the format that it must have");
    if (!pattern) return;
    this.#matched += text.length;
    if (this.#matched > MAX_MATCHED_CHARS) {
      tell(path, `must not be longer than ${MAX_MATCHED_CHARS} characters, with all others that have a pattern`);
    } else if (!pattern(text)) tell(path, "does not match its pattern");
  }

  #holdList(rule: Rules, list: readonly unknown[], path: string, tell: Tell): void {
    const { minItems = 0, maxItems = Number.POSITIVE_INFINITY, uniqueItems, prefixItems = [], items = true } = rule;
    if (list.length < minItems) tell(path, "has too few items");
    if (list.length > maxItems) tell(path, "has too many items");
    if (uniqueItems && new Set(list.map(keyOf)).size < list.length) tell(path, "has an item twice");
    if (items === true && prefixItems.length === 0) return;
    for (const [i, item] of list.entries()) this.#hold(prefixItems[i] ?? items, item, `${path}.${i}`, tell);
  }

  #holdObject(rule: Rules, object: object, path: string, tell: Tell): void {
    const { minProperties = 0, maxProperties = Number.POSITIVE_INFINITY, required = [], properties } = rule;
    const size = Object.keys(object).length;
    if (size < minProperties) tell(path, "has too few members");
    if (size > maxProperties) tell(path, "has too many members");
    for (const name of required) if (!Object.hasOwn(object, name)) tell(`${path}.${name}`, "is missing");
    for (const [name, inner] of properties ?? []) {
      if (Object.hasOwn(object, name)) this.#hold(inner, Reflect.get(object, name), `${path}.${name}`, tell);
    }
  }

  /** Schemas beside this one, held against the same value. */
  #holdJoined(rule: Rules, value: unknown, path: string, tell: Tell): void {
    const { all, anyOf, oneOf, not } = rule;
    for (const each of all ?? []) this.#hold(each, value, path, tell);
    if (anyOf && !anyOf.some((each) => this.#fits(each, value))) tell(path, "fits none of what it may be");
    if (oneOf && oneOf.filter((each) => this.#fits(each, value)).length !== 1) {
      tell(path, "does not fit exactly one of what it may be");
    }
    if (not !== undefined && this.#fits(not, value)) tell(path, "is what it must not be");
    if (rule.if === undefined) return;
    const then = this.#fits(rule.if, value) ? rule.then : rule.else;
    if (then !== undefined) this.#hold(then, value, path, tell);
  }
}

function holdNumber(rule: Rules, value: number, path: string, tell: Tell): void {
  const { minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf } = rule;
  if ((minimum !== undefined && value < minimum) || (exclusiveMinimum !== undefined && value <= exclusiveMinimum)) {
    tell(path, "is too small");
  }
  if ((maximum !== undefined && value > maximum) || (exclusiveMaximum !== undefined && value >= exclusiveMaximum)) {
    tell(path, "is too large");
  }
  if (multipleOf !== undefined && !isMultiple(value / multipleOf))
    tell(path, "is no multiple of what it must be one of");
}

/** 0.3 is three times 0.1, though not in the runtime's numbers. */
function isMultiple(times: number): boolean {
  return Math.abs(times - Math.round(times)) <= Math.abs(times) * Number.EPSILON;
}

function isOf(kinds: ReadonlySet<Kind>, value: unknown): boolean {
  if (value === null) return kinds.has("null");
  if (Array.isArray(value)) return kinds.has("array");
  if (typeof value === "number" && Number.isInteger(value) && kinds.has("integer")) return true;
  return kinds.has(typeof value as Kind);
}

/** Characters, not UTF-16 units: the second half of a pair counts for nothing. */
function charsOf(text: string): number {
  let chars = text.length;
  for (let i = 1; i < text.length; i++) {
    if ((text.charCodeAt(i) & 0xfc00) === 0xdc00 && (text.charCodeAt(i - 1) & 0xfc00) === 0xd800) chars--;
  }
  return chars;
}

/** One text for values that are the same, whatever the order of their members. */
export function keyOf(value: unknown): string {
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(keyOf).join()}]`;
  const members = Object.entries(value).map(([name, inner]) => `${JSON.stringify(name)}:${keyOf(inner)}`);
  return `{${members.sort().join()}}`;
}
