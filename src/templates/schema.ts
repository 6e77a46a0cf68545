/**
 * The variables of a template: a JSON Schema (draft 2020-12) of a kind whose evaluation is bounded, and the values of one
 * call held against it: copies without prototypes, without names that nobody has declared. References are written out
 * when the schema is read, so there is nothing to fetch and nothing to go round in. Pure.
 */
import { asFields } from "../wire/anthropic/usage.ts";
import { type Fields, MAX_NESTING, measure } from "./content.ts";
import { evaluate, type Rule } from "./evaluate.ts";
import type { Shape } from "./shape.ts";
import { DECLARED, type Values } from "./text.ts";

/** Values of one call, those of lists and objects counted. */
export const MAX_VALUES = 5_000;
/** Texts of one call, in UTF-16 units. */
export const MAX_VALUE_CHARS = 2 * 1024 * 1024;

export type Variables = { readonly shape: Shape; readonly rule: Rule };

export type Checked = {
  /** Copies that a rendering may use, with defaults in their places; null: not even looked at. */
  readonly values: Values | null;
  /** All that is wrong with them. */
  readonly problems: readonly string[];
};

/** Holds the values of a call against a template's variables. */
export function checkValues({ shape, rule }: Variables, given: unknown): Checked {
  const refused = (problem: string): Checked => ({ values: null, problems: [`variables: ${problem}`] });
  const fields = asFields(given);
  if (!fields) return refused("must be an object");
  const { depth, values: count } = measure(fields);
  if (depth > MAX_NESTING) return refused(`must not be nested deeper than ${MAX_NESTING}`);
  if (count > MAX_VALUES) return refused(`must not hold more than ${MAX_VALUES} values`);
  const copier = new Copier();
  const values = copier.object(fields, shape, "variables");
  if (copier.chars > MAX_VALUE_CHARS) {
    return refused(`must not hold more than ${MAX_VALUE_CHARS} characters`);
  }
  const problems = [...copier.problems, ...evaluate(rule, values, "variables")];
  return { values, problems: [...new Set(problems)] };
}

/** Copies values into objects that inherit nothing, and notes names that are none of the template's. */
class Copier {
  readonly problems: string[] = [];
  chars = 0;

  object(fields: Fields, shape: Shape, path: string): Values {
    const copy: Values = Object.create(null);
    for (const [name, value] of Object.entries(fields)) {
      const declared = shape.properties.get(name);
      if (declared) copy[name] = this.#value(value, declared, `${path}.${name}`);
      else this.problems.push(`${path}.${shown(name)}: is not a variable of this template`);
    }
    for (const [name, { fallback }] of shape.properties) {
      // A default is copied by whoever declared it, and bounded with the schema.
      if (fallback && !Object.hasOwn(copy, name)) {
        const declared = shape.properties.get(name);
        if (declared) copy[name] = this.#value(fallback.value, declared, `${path}.${name}`);
      }
    }
    Object.defineProperty(copy, DECLARED, { value: shape.properties });
    return copy;
  }

  #value(value: unknown, shape: Shape, path: string): unknown {
    if (typeof value === "string") this.chars += value.length;
    if (typeof value !== "object" || value === null) return value;
    if (!Array.isArray(value)) return this.object(value as Fields, shape, path);
    return value.map((item: unknown, i) => this.#value(item, shape.items, `${path}.${i}`));
  }
}

/** A name that a caller made up, cut short. */
function shown(name: string): string {
  return name.length > 64 ? `${name.slice(0, 64)}…` : name;
}
