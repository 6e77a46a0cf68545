/**
 * JSON Schemas as structured output takes them, by the rule of Anthropic's own SDK (OpenAI notes §3.6): what it knows stays, what
 * it does not is said in the description, every object is closed.
 */
import { asFields } from "../anthropic/usage.ts";
import type { Fields } from "./draft.ts";

/** Twenty-four properties that may be left out are refused for certain, and schemas with half as many have been (OpenAI notes §3.6). */
const MAX_OPTIONAL = 12;
/** Deeper than any schema people write, and far from the end of the stack. */
const MAX_DEPTH = 64;
/** Far more than any grammar is made of; a larger schema is not looked through for what else is wrong with it. */
const MAX_VALUES = 50_000;
/** The same of references that lead to references. */
const MAX_CHAIN = 256;
const FORMATS = new Set(["date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"]);
/** Where schemas of both generations keep their definitions. */
const DEFINITIONS = ["$defs", "definitions"] as const;
/** Names for the schema itself: they constrain nothing. */
const SILENT = ["$schema", "$id", "$comment"] as const;

export type AnswerSchema =
  | { readonly kind: "schema"; readonly schema: Fields }
  /** A schema that structured output cannot express, though a tool can; `why` goes on after "the schema". */
  | { readonly kind: "inexpressible"; readonly why: string }
  /** A schema that nothing could follow. */
  | { readonly kind: "invalid"; readonly why: string };

/** A schema for `output_config.format`, or why there is none. */
export function answerSchema(schema: Fields): AnswerSchema {
  const { depth, values } = sizeOf(schema);
  if (depth > MAX_DEPTH) return { kind: "invalid", why: `is nested deeper than ${MAX_DEPTH} levels` };
  if (values > MAX_VALUES) return { kind: "inexpressible", why: `holds more than ${MAX_VALUES} values` };
  const found: Findings = { why: null, optional: 0 };
  const references = new References(schema);
  const { broken } = references;
  if (broken !== undefined) return { kind: "invalid", why: `refers to \`${broken}\`, which it does not define` };
  if (isRecursive(schema, references)) return { kind: "inexpressible", why: "refers to itself" };
  const rewritten = rewrite(schema, found);
  if (found.why !== null) return { kind: "inexpressible", why: found.why };
  if (found.optional > MAX_OPTIONAL) {
    return { kind: "inexpressible", why: `has ${found.optional} optional properties, more than ${MAX_OPTIONAL}` };
  }
  return { kind: "schema", schema: rewritten };
}

type Findings = { why: string | null; optional: number };

/** How deep it is and how many values it holds, neither counted past its limit. */
function sizeOf(schema: Fields): { readonly depth: number; readonly values: number } {
  let deepest = 0;
  let values = 0;
  const walk = (value: unknown, depth: number): void => {
    if (++values > MAX_VALUES) return;
    if (depth > deepest) deepest = depth;
    if (typeof value !== "object" || value === null || depth > MAX_DEPTH) return;
    for (const inner of Object.values(value)) {
      walk(inner, depth + 1);
      if (values > MAX_VALUES) return;
    }
  };
  walk(schema, 0);
  return { depth: deepest, values };
}

function rewrite(value: unknown, found: Findings): Fields {
  const schema = asFields(value);
  if (!schema) {
    // `true` and `{}` allow everything, `false` nothing.
    found.why ??= "leaves a value open to anything";
    return {};
  }
  const rest: Record<string, unknown> = { ...schema };
  const take = (name: string): unknown => {
    const taken = rest[name];
    delete rest[name];
    return taken;
  };
  for (const name of SILENT) take(name);
  const definitions = DEFINITIONS.flatMap((name) => Object.entries(asFields(take(name)) ?? {}));
  const out: Record<string, unknown> = {};
  if (definitions.length > 0) out.$defs = mapped(definitions, found);
  const reference = take("$ref");
  if (typeof reference === "string") return { ...out, $ref: reference.replace("#/definitions/", "#/$defs/") };

  const type = take("type");
  const literals = literalsOf(schema);
  if (literals) {
    if (typeof type === "string") out.type = type;
    for (const name of Object.keys(literals)) out[name] = take(name);
  } else if (variantsOf(schema)) {
    Object.assign(out, combined(schema, take, found));
  } else {
    Object.assign(out, typed(type ?? impliedType(schema), rest, take, found));
  }
  return described(out, take, rest);
}

function mapped(entries: readonly (readonly [string, unknown])[], found: Findings): Fields {
  return Object.fromEntries(entries.map(([name, inner]) => [name, rewrite(inner, found)]));
}

/** `enum` and `const` of plain values. */
function literalsOf(schema: Fields): Fields | null {
  const literals: Record<string, unknown> = {};
  const { enum: values, const: value } = schema;
  if (Array.isArray(values) && values.length > 0 && values.every(isPlain)) literals.enum = values;
  if (value !== undefined && isPlain(value)) literals.const = value;
  return Object.keys(literals).length > 0 ? literals : null;
}

function isPlain(value: unknown): boolean {
  return typeof value !== "object" || value === null;
}

/** Of an object that also has variants the object is kept: they then say what of it goes together, in words. */
function variantsOf(schema: Fields): "anyOf" | "oneOf" | "allOf" | null {
  if (schema.properties !== undefined) return null;
  return (["anyOf", "oneOf", "allOf"] as const).find((name) => Array.isArray(schema[name])) ?? null;
}

function combined(schema: Fields, take: (name: string) => unknown, found: Findings): Fields {
  const name = variantsOf(schema);
  const variants = name && take(name);
  if (!name || !Array.isArray(variants)) return {};
  return { [name === "allOf" ? name : "anyOf"]: variants.map((variant) => rewrite(variant, found)) };
}

/** Schemas leave the type out where the rest of them tells it. */
function impliedType(schema: Fields): string | undefined {
  if (schema.properties !== undefined) return "object";
  if (schema.items !== undefined) return "array";
  return undefined;
}

function typed(type: unknown, rest: Fields, take: (name: string) => unknown, found: Findings): Fields {
  if (Array.isArray(type) && type.some((one) => one === "object" || one === "array")) {
    return { anyOf: type.map((one) => typed(one, rest, take, found)) };
  }
  switch (type) {
    case "object":
      return objectOf(take, found);
    case "array":
      return arrayOf(rest, take, found);
    case undefined:
      found.why ??= "leaves a value open to anything";
      return {};
    default: {
      const format = rest.format;
      return typeof format === "string" && FORMATS.has(format) ? { type, format: take("format") } : { type };
    }
  }
}

function objectOf(take: (name: string) => unknown, found: Findings): Fields {
  const properties = asFields(take("properties"));
  const additional = take("additionalProperties");
  const patterns = take("patternProperties");
  const required = take("required");
  const isMap = asFields(additional) !== undefined || patterns !== undefined;
  if (isMap || (additional !== false && Object.keys(properties ?? {}).length === 0)) {
    found.why ??= "has an object with properties of any name";
  }
  const names = Array.isArray(required) ? required.filter((name) => properties && Object.hasOwn(properties, name)) : [];
  found.optional += Object.keys(properties ?? {}).length - new Set(names).size;
  return {
    type: "object",
    properties: mapped(Object.entries(properties ?? {}), found),
    ...(Array.isArray(required) && { required: names }),
    additionalProperties: false,
  };
}

function arrayOf(rest: Fields, take: (name: string) => unknown, found: Findings): Fields {
  const items = take("items");
  if (items === undefined) found.why ??= "leaves the items of a list open to anything";
  return {
    type: "array",
    ...(items !== undefined && { items: rewrite(items, found) }),
    ...((rest.minItems === 0 || rest.minItems === 1) && { minItems: take("minItems") }),
  };
}

/** Whatever is left is said in words, in the form that Anthropic's SDK gives it. */
function described(out: Record<string, unknown>, take: (name: string) => unknown, rest: Fields): Fields {
  const description = take("description");
  const title = take("title");
  const left = Object.entries(rest).map(([name, value]) => `${name}: ${JSON.stringify(value)}`);
  const words = [
    ...(typeof description === "string" && description !== "" ? [description] : []),
    ...(left.length > 0 ? [`{${left.join(", ")}}`] : []),
  ];
  if (words.length > 0) out.description = words.join("\n\n");
  if (typeof title === "string") out.title = title;
  return out;
}

/** What a reference within the schema names (RFC 6901); undefined: nothing that is there. */
export function resolve(root: Fields, reference: string): unknown {
  if (reference !== "#" && !reference.startsWith("#/")) return undefined;
  let at: unknown = root;
  for (const step of reference.split("/").slice(1)) {
    const name = step.replaceAll("~1", "/").replaceAll("~0", "~");
    if (typeof at !== "object" || at === null || !Object.hasOwn(at, name)) return undefined;
    at = (at as Fields)[name];
  }
  return at;
}

/**
 * Where the references of a schema lead. They are kept in the order in which they stand, so that those of any part of it
 * are a stretch of the list, and each is resolved once.
 */
class References {
  readonly #names: string[] = [];
  readonly #targets: readonly unknown[];
  /** Of each part of the schema where its own begin and end; of the whole without its definitions, which count where they are referred to. */
  readonly #spans = new Map<unknown, { readonly from: number; readonly to: number }>();

  constructor(root: Fields) {
    for (const name in root) if (!isDefinitions(name)) this.#field(root, name);
    this.#spans.set(root, { from: 0, to: this.#names.length });
    for (const name of DEFINITIONS) if (name in root) this.#field(root, name);
    const resolved = new Map<string, unknown>();
    for (const name of this.#names) if (!resolved.has(name)) resolved.set(name, resolve(root, name));
    this.#targets = this.#names.map((name) => resolved.get(name));
  }

  /** One that leads nowhere. */
  get broken(): string | undefined {
    return this.#names[this.#targets.indexOf(undefined)];
  }

  get targets(): readonly unknown[] {
    return this.#targets;
  }

  /** Where those in a part of the schema lead. */
  from(part: unknown): readonly unknown[] {
    const span = this.#spans.get(part);
    return span ? this.#targets.slice(span.from, span.to) : [];
  }

  #walk(value: unknown): void {
    if (typeof value !== "object" || value === null) return;
    const from = this.#names.length;
    if (Array.isArray(value)) for (const each of value) this.#walk(each);
    else for (const name in value) this.#field(value as Fields, name);
    const to = this.#names.length;
    if (to > from) this.#spans.set(value, { from, to });
  }

  #field(fields: Fields, name: string): void {
    const value = fields[name];
    if (name === "$ref" && typeof value === "string") this.#names.push(value);
    else if (MAPS.has(name)) this.#walk(Object.values(asFields(value) ?? {}));
    else if (!DATA.has(name)) this.#walk(value);
  }
}

/** Whether any schema can be reached from itself, or seems to without end. Each is looked at once, however it is referred to. */
function isRecursive(root: Fields, references: References): boolean {
  const done = new Set<unknown>();
  const open = new Set<unknown>();
  const returns = (part: unknown): boolean => {
    if (open.has(part) || open.size > MAX_CHAIN) return true;
    if (done.has(part)) return false;
    open.add(part);
    const recursive = references.from(part).some(returns);
    open.delete(part);
    done.add(part);
    return recursive;
  };
  return returns(root) || references.targets.some(returns);
}

const isDefinitions = (name: string): boolean => name === "$defs" || name === "definitions";

/** Fields whose values are data, and ones whose names are the author's own. */
const DATA = new Set(["enum", "const", "default", "examples", "example"]);
const MAPS = new Set(["properties", "patternProperties", ...DEFINITIONS]);
