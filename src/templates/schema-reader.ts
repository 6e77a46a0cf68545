/**
 * Reads a JSON Schema of variables: only keywords that are known and bounded, references written out (so a loop is found
 * where it closes, and one that grows without end where it is too large). Gives the shape that texts and values are held
 * against, and the rule that values are (evaluate.ts). Pure.
 */
import { asFields } from "../wire/anthropic/usage.ts";
import { type Fields, MAX_NESTING, measure } from "./content.ts";
import { keyOf, type Rule, type Rules } from "./evaluate.ts";
import { FORMATS } from "./formats.ts";
import { compilePattern } from "./pattern.ts";
import { ANYTHING, anyOf, type Joined, joinAll, KINDS, type Kind, type Shape } from "./shape.ts";

/** Schemas in a schema once its references are written out. */
export const MAX_SCHEMAS = 2_000;
/** Schemas that are held against one and the same value. */
const MAX_AT_ONE_PLACE = 50;
export const MAX_VARIABLES = 500;
const MAX_SCHEMA_VALUES = 20_000;
const MAX_ENUM = 500;
const MAX_PROBLEMS = 20;
const VARIABLE = /^(?!__proto__$)[\p{L}_][\p{L}\p{N}_-]{0,63}$/u;

/** What a schema says; `here` counts the schemas in it that are held against one and the same value. */
type Read = { readonly shape: Shape; readonly rule: Rule; readonly here: number };
const NOTHING_SAID: Read = { shape: ANYTHING, rule: true, here: 1 };

/** Checks of keywords that hold no schema. Those of null have no effect here. */
const isCount = (value: unknown) =>
  typeof value === "number" && Number.isInteger(value) && value >= 0 ? null : "must be a whole number from 0";
const isNumber = (value: unknown) => (typeof value === "number" && Number.isFinite(value) ? null : "must be a number");
const isText = (value: unknown) => (typeof value === "string" ? null : "must be a text");
const isFlag = (value: unknown) => (typeof value === "boolean" ? null : "must be true or false");
const SCHEMA_URIS = /^https?:\/\/json-schema\.org\/(?:draft\/2020-12|draft\/2019-09|draft-07)\/schema#?$/;

const PLAIN: Readonly<Record<string, (value: unknown) => string | null>> = {
  minimum: isNumber,
  maximum: isNumber,
  exclusiveMinimum: isNumber,
  exclusiveMaximum: isNumber,
  multipleOf: (value) => (typeof value === "number" && value > 0 ? isNumber(value) : "must be a number above 0"),
  minLength: isCount,
  maxLength: isCount,
  minItems: isCount,
  maxItems: isCount,
  minProperties: isCount,
  maxProperties: isCount,
  format: (value) => (FORMATS.some((known) => known === value) ? null : `must be one of ${FORMATS.join(", ")}`),
};
const ANNOTATIONS: typeof PLAIN = {
  $schema: (value) => (SCHEMA_URIS.test(String(value)) ? null : "must be JSON Schema's draft 2020-12, 2019-09 or 07"),
  $comment: isText,
  title: isText,
  description: isText,
  default: () => null,
  examples: (value) => (Array.isArray(value) ? null : "must be a list"),
  deprecated: isFlag,
  readOnly: isFlag,
  writeOnly: isFlag,
};
const OF_SCHEMAS = ["allOf", "anyOf", "oneOf"] as const;
const OF_ONE = ["not", "if", "then", "else"] as const;
/** Seen to one by one below. */
const OWN = new Set<string>([
  "type",
  "properties",
  "required",
  "additionalProperties",
  "items",
  "prefixItems",
  "uniqueItems",
  "pattern",
  "enum",
  "const",
  "$ref",
  "$defs",
  "definitions",
  ...OF_SCHEMAS,
  ...OF_ONE,
]);

/** A schema of variables. What is wrong with it is told by its place, and then it takes anything. */
export function readSchema(schema: Fields, problems: string[]): Pick<Read, "shape" | "rule"> {
  const { depth, values } = measure(schema);
  if (values > MAX_SCHEMA_VALUES || depth > 4 * MAX_NESTING) {
    problems.push(`variables: is too large, or nested too deep, for a schema of variables`);
    return NOTHING_SAID;
  }
  const reader = new SchemaReader(schema);
  const read = reader.read(schema, { path: "variables", refs: [], isSure: true });
  const { kinds, properties } = read.shape;
  if (kinds?.size !== 1 || !kinds.has("object")) reader.complain("variables.type", "must be object");
  if (properties.size > MAX_VARIABLES)
    reader.complain("variables.properties", `must not be more than ${MAX_VARIABLES}`);
  for (const name of Array.isArray(schema.required) ? schema.required : []) {
    if (!properties.has(name)) reader.complain("variables.required", `${String(name).slice(0, 64)} is not declared`);
  }
  problems.push(...reader.problems);
  return read;
}

type At = {
  readonly path: string;
  /** The references that lead here. */
  readonly refs: readonly string[];
  /** Whether what is said here must be so, and not only in one of several ways. */
  readonly isSure: boolean;
};

class SchemaReader {
  readonly problems: string[] = [];
  readonly #root: Fields;
  #schemas = 0;

  constructor(root: Fields) {
    this.#root = root;
  }

  complain(path: string, problem: string): void {
    const whole = `${path}: ${problem}`;
    if (this.problems.length < MAX_PROBLEMS && !this.problems.includes(whole)) this.problems.push(whole);
  }

  read(schema: unknown, at: At): Read {
    if (typeof schema === "boolean") return { ...NOTHING_SAID, rule: schema };
    const fields = asFields(schema);
    if (!fields) {
      this.complain(at.path, "must be a schema");
      return NOTHING_SAID;
    }
    if (++this.#schemas > MAX_SCHEMAS) {
      if (this.#schemas === MAX_SCHEMAS + 1)
        this.complain("variables", `must not be more than ${MAX_SCHEMAS} schemas, references written out`);
      return NOTHING_SAID;
    }
    const rule: Rules = this.#simple(fields, at);
    const own = this.#own(fields, rule, at);
    const joined = this.#joined(fields, rule, at);
    this.#definitions(fields, at);
    const here = joined.reduce((sum, each) => sum + each.here, 1);
    if (here > MAX_AT_ONE_PLACE)
      this.complain(at.path, `holds more than ${MAX_AT_ONE_PLACE} schemas against one value`);
    return { shape: joinAll(own, joined), rule, here };
  }

  /** What is to be read in one way only, and stays as it is. */
  #simple(fields: Fields, { path }: At): Rules {
    const rule: Record<string, unknown> = {};
    for (const [name, value] of Object.entries(fields)) {
      if (OWN.has(name)) continue;
      const isPlain = Object.hasOwn(PLAIN, name);
      const check = isPlain ? PLAIN[name] : Object.hasOwn(ANNOTATIONS, name) ? ANNOTATIONS[name] : undefined;
      const problem = check ? check(value) : "is no keyword that a template's schema may have";
      if (problem !== null) this.complain(`${path}.${name.slice(0, 64)}`, problem);
      else if (isPlain) rule[name] = value;
    }
    return rule;
  }

  /** What the schema itself says of a value and what is inside of it. */
  #own(fields: Fields, rule: Rules, at: At): Shape {
    const kinds = this.#kinds(fields.type, at);
    if (kinds) rule.kinds = kinds;
    this.#values(fields, rule, at);
    this.#pattern(fields.pattern, rule, at);
    const { uniqueItems = false } = fields;
    if (uniqueItems === true) rule.uniqueItems = true;
    else if (uniqueItems !== false) this.complain(`${at.path}.uniqueItems`, "must be true or false");
    const properties = this.#properties(fields, rule, at);
    return {
      kinds,
      properties,
      items: this.#items(fields, rule, at),
      fallback: at.isSure && Object.hasOwn(fields, "default") ? { value: fields.default } : null,
    };
  }

  #kinds(type: unknown, { path }: At): Set<Kind> | null {
    if (type === undefined) return null;
    const list: readonly unknown[] = Array.isArray(type) ? type : [type];
    const kinds = KINDS.filter((kind) => list.includes(kind));
    if (kinds.length > 0 && kinds.length === list.length) return new Set(kinds);
    this.complain(`${path}.type`, `must be one or several of ${KINDS.join(", ")}`);
    return null;
  }

  #properties(fields: Fields, rule: Rules, at: At): Shape["properties"] {
    const { properties: given = {}, required = [], additionalProperties } = fields;
    const path = `${at.path}.properties`;
    const shapes = new Map<string, Shape>();
    const rules = new Map<string, Rule>();
    if (!asFields(given)) this.complain(path, "must be an object of schemas");
    for (const [name, schema] of Object.entries(asFields(given) ?? {})) {
      if (!VARIABLE.test(name)) {
        this.complain(
          `${path}.${name.slice(0, 64)}`,
          "can't be the name of a variable (letters, digits, _ and -, up to 64)",
        );
        continue;
      }
      const read = this.read(schema, { ...at, path: `${path}.${name}` });
      shapes.set(name, read.shape);
      rules.set(name, read.rule);
    }
    if (rules.size > 0) rule.properties = rules;
    if (!Array.isArray(required) || !required.every((name) => typeof name === "string")) {
      this.complain(`${at.path}.required`, "must be a list of names");
    } else if (required.length > 0) rule.required = required;
    // Unknown names are always refused; all that a schema for them could be is wrong.
    if (additionalProperties !== undefined)
      this.read(additionalProperties, { ...at, path: `${at.path}.additionalProperties` });
    return shapes;
  }

  #items({ items, prefixItems }: Fields, rule: Rules, at: At): Shape {
    const shapes: Shape[] = [];
    if (prefixItems !== undefined) {
      const read = this.#list(prefixItems, "prefixItems", { ...at, isSure: false });
      rule.prefixItems = read.map((each) => each.rule);
      shapes.push(...read.map((each) => each.shape));
    }
    if (items !== undefined) {
      const isSure = at.isSure && prefixItems === undefined;
      const read = this.read(items, { ...at, path: `${at.path}.items`, isSure });
      rule.items = read.rule;
      shapes.push(read.shape);
    }
    return shapes.length === 0 ? ANYTHING : anyOf(shapes);
  }

  #list(schemas: unknown, name: string, at: At): readonly Read[] {
    const path = `${at.path}.${name}`;
    if (Array.isArray(schemas) && schemas.length > 0) {
      return schemas.map((schema, i) => this.read(schema, { ...at, path: `${path}.${i}` }));
    }
    this.complain(path, "must be a list of schemas");
    return [];
  }

  #values(fields: Fields, rule: Rules, { path }: At): void {
    const { enum: values } = fields;
    if (values !== undefined) {
      if (Array.isArray(values) && values.length > 0 && values.length <= MAX_ENUM) {
        rule.values = new Set(values.map(keyOf));
      } else this.complain(`${path}.enum`, `must be a list of 1 to ${MAX_ENUM} values`);
    }
    if (!Object.hasOwn(fields, "const")) return;
    const only = keyOf(fields.const);
    rule.values = new Set(!rule.values || rule.values.has(only) ? [only] : []);
  }

  #pattern(pattern: unknown, rule: Rules, { path }: At): void {
    if (pattern === undefined) return;
    const compiled = typeof pattern === "string" ? compilePattern(pattern) : null;
    if (!compiled) this.complain(`${path}.pattern`, "must be a text");
    else if (!compiled.ok) this.complain(`${path}.pattern`, compiled.error);
    else rule.pattern = compiled.value;
  }

  /** Schemas that are held against the same value. */
  #joined(fields: Fields, rule: Rules, at: At): readonly (Joined & Read)[] {
    const joined: (Joined & Read)[] = [];
    const all: Rule[] = [];
    const { $ref: ref } = fields;
    if (ref !== undefined) {
      const read = this.#reference(ref, at);
      joined.push({ how: "all", ...read });
      all.push(read.rule);
    }
    for (const name of OF_SCHEMAS) {
      if (fields[name] === undefined) continue;
      const how = name === "allOf" ? "all" : "any";
      const reads = this.#list(fields[name], name, { ...at, isSure: at.isSure && how === "all" });
      joined.push(...reads.map((read) => ({ how, ...read, group: name }) as const));
      const rules = reads.map((read) => read.rule);
      if (name === "allOf") all.push(...rules);
      else if (rules.length > 0) rule[name] = rules;
    }
    if (all.length > 0) rule.all = all;
    for (const name of OF_ONE) {
      if (fields[name] === undefined) continue;
      const read = this.read(fields[name], { ...at, path: `${at.path}.${name}`, isSure: false });
      rule[name] = read.rule;
      joined.push({ how: name === "then" || name === "else" ? "names" : "nothing", ...read });
    }
    return joined;
  }

  #reference(ref: unknown, at: At): Read {
    const path = `${at.path}.$ref`;
    if (typeof ref !== "string" || !/^#(?:\/|$)/.test(ref)) {
      this.complain(path, "must point into this schema (#/$defs/…)");
      return NOTHING_SAID;
    }
    if (ref === "#" || at.refs.includes(ref)) {
      this.complain(path, "leads back to itself");
      return NOTHING_SAID;
    }
    const target = this.#find(ref);
    if (target === undefined) {
      this.complain(path, "points to nothing");
      return NOTHING_SAID;
    }
    return this.read(target, { ...at, path, refs: [...at.refs, ref] });
  }

  #find(ref: string): unknown {
    let target: unknown = this.#root;
    for (const part of ref.split("/").slice(1)) {
      const name = part.replaceAll("~1", "/").replaceAll("~0", "~");
      if (typeof target !== "object" || target === null || !Object.hasOwn(target, name)) return undefined;
      target = Reflect.get(target, name);
    }
    return target;
  }

  /** Those that nobody refers to must be right as well. */
  #definitions(fields: Fields, at: At): void {
    for (const name of ["$defs", "definitions"]) {
      const given = fields[name];
      if (given === undefined) continue;
      const path = `${at.path}.${name}`;
      if (!asFields(given)) this.complain(path, "must be an object of schemas");
      for (const [key, schema] of Object.entries(asFields(given) ?? {})) {
        const self = at.path === "variables" ? [`#/${name}/${key.replaceAll("~", "~0").replaceAll("/", "~1")}`] : [];
        this.read(schema, { path: `${path}.${key.slice(0, 64)}`, refs: self, isSure: true });
      }
    }
  }
}
