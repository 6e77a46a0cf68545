/**
 * Schemas of tools as Claude takes them: at the top an object, and no union there ("input_schema does not support oneOf,
 * allOf, or anyOf at the top level"). Below the top everything stays as the client wrote it.
 *
 * A union at the top becomes one object that has the properties of all its branches and requires what all of them
 * require. That allows more than the client meant, so the union itself goes into the schema's description.
 */
import { asFields } from "../anthropic/usage.ts";
import { resolve } from "./answer-schema.ts";
import type { Fields } from "./draft.ts";

/** Branches within branches, references to references: deeper ones are left to the description. */
const MAX_LEVELS = 16;
/** Properties that the branches of one tool may bring together: a reference that a thousand branches share is a cheap bomb. */
const MAX_JOINED_PROPERTIES = 4_096;
/**
 * JSON of properties that the tools of one request describe differently in different branches, and that therefore stand in
 * it again: what one reference leads to could otherwise be written out once for each of a thousand branches.
 */
export const MAX_JOINED_CHARS = 1024 * 1024;
/** A longer union says nothing that a model would read. */
const MAX_NOTE_CHARS = 20_000;
const UNIONS = ["allOf", "anyOf", "oneOf"] as const;

export type FittedSchema = {
  readonly schema: Fields;
  /** It allows what the client's own schema allows, and no more. */
  readonly exact: boolean;
};

/** How much of `MAX_JOINED_CHARS` is left to a request. */
export type Room = { chars: number };

/** An object's schema without a union at its top. The very one that came where nothing is to be done. */
export function fitSchema(schema: Fields, room: Room = { chars: MAX_JOINED_CHARS }): FittedSchema {
  if (isFit(schema)) return { schema, exact: true };
  const left: string[] = [];
  const merger = new Merger(schema, room);
  const { type: _, properties, required, description, ...rest } = merger.merge(schema, left, MAX_LEVELS);
  const names = strings(required);
  const note = left.length > 0 ? `The input must also match this JSON Schema: {${left.join(", ")}}` : "";
  const texts = [typeof description === "string" ? description : "", note].filter((text) => text !== "");
  return {
    schema: {
      type: "object",
      properties: asFields(properties) ?? {},
      ...(names.length > 0 ? { required: names } : {}),
      ...(texts.length > 0 ? { description: texts.join("\n\n") } : {}),
      ...rest,
    },
    exact: left.length === 0,
  };
}

function isFit(schema: Fields): boolean {
  return (
    schema.type === "object" &&
    schema.$ref === undefined &&
    UNIONS.every((union) => schema[union] === undefined) &&
    (schema.properties === undefined || asFields(schema.properties) !== undefined) &&
    (schema.required === undefined || isTexts(schema.required))
  );
}

class Merger {
  /** What `#` in a reference stands for. */
  readonly #root: Fields;
  /** Merged already; what one reference leads to is merged once. */
  readonly #merged = new Map<Fields, Fields>();
  readonly #room: Room;
  #joined = 0;

  constructor(root: Fields, room: Room) {
    this.#root = root;
    this.#room = room;
  }

  /** The schema with its reference followed and its unions merged into it; `left` gets the keywords that it can't say so. */
  merge(schema: Fields, left: string[], levels: number): Fields {
    const known = this.#merged.get(schema);
    if (known) return known;
    // Who comes back here on the way has nothing to add to himself.
    this.#merged.set(schema, {});
    const { $ref, allOf, anyOf, oneOf, ...own } = schema;
    const parts: Fields[] = [own];
    const target = typeof $ref === "string" ? asFields(resolve(this.#root, $ref)) : undefined;
    if (target && levels > 0) parts.push(this.merge(target, left, levels - 1));
    else if ($ref !== undefined) say(left, "$ref", $ref);
    const all = this.#branches(allOf, left, levels);
    if (!all) say(left, "allOf", allOf);
    let merged = allOfThem([...parts, ...(all ?? [])], this.#room);
    for (const [word, union] of [
      ["anyOf", anyOf],
      ["oneOf", oneOf],
    ] as const) {
      if (union === undefined) continue;
      say(left, word, union);
      // What its branches leave unsaid is said with the union itself.
      merged = anyOfThem(merged, this.#branches(union, [], levels) ?? [], this.#room);
    }
    this.#merged.set(schema, merged);
    return merged;
  }

  /** Null: too many, or too deep. */
  #branches(union: unknown, left: string[], levels: number): Fields[] | null {
    const branches = new Set<Fields>();
    for (const each of Array.isArray(union) ? union : []) {
      const branch = asFields(each);
      if (!branch) continue;
      if (levels === 0) return null;
      const merged = this.merge(branch, left, levels - 1);
      // A branch that is no object, `null` above all, has nothing to add.
      if (!isOfObjects(merged) || branches.has(merged)) continue;
      this.#joined += Object.keys(asFields(merged.properties) ?? {}).length + 1;
      if (this.#joined > MAX_JOINED_PROPERTIES) return null;
      branches.add(merged);
    }
    return [...branches];
  }
}

function isOfObjects({ type, properties }: Fields): boolean {
  const types = Array.isArray(type) ? type : [type];
  return type === undefined || types.includes("object") || asFields(properties) !== undefined;
}

/** A schema that demands what each of some does. A keyword that can't be joined stays as the first one has it. */
function allOfThem(schemas: readonly Fields[], room: Room): Fields {
  const [first = {}, ...others] = schemas.filter((schema) => Object.keys(schema).length > 0);
  if (others.length === 0) return first;
  const joined: Record<string, unknown> = Object.fromEntries([first, ...others].reverse().flatMap(Object.entries));
  const properties = joinProperties(schemas, "allOf", room);
  if (properties) joined.properties = properties;
  const required = new Set(schemas.flatMap((schema) => strings(schema.required)));
  if (required.size > 0) joined.required = [...required];
  const defs = schemas.map((schema) => asFields(schema.$defs)).filter((each) => each !== undefined);
  if (defs.length > 0) joined.$defs = Object.fromEntries(defs.reverse().flatMap(Object.entries));
  // A ban of further properties was for who knew only his own; kept, it would ban the others'.
  const count = Object.keys(properties ?? {}).length;
  const bans = schemas.some((schema) => schema.additionalProperties === false);
  const bansOthers = schemas.some(
    (schema) => schema.additionalProperties === false && Object.keys(asFields(schema.properties) ?? {}).length < count,
  );
  if (bans && bansOthers) delete joined.additionalProperties;
  else if (bans) joined.additionalProperties = false;
  return joined;
}

/** A schema that has a place for whatever any branch has. */
function anyOfThem(own: Fields, branches: readonly Fields[], room: Room): Fields {
  const first = branches[0];
  if (!first) return own;
  const joined: Record<string, unknown> = { ...own };
  const alternatives = joinProperties(branches, "anyOf", room);
  // What the schema itself says of a property holds in every branch, and is said here in its own words.
  if (alternatives) joined.properties = { ...alternatives, ...asFields(own.properties) };
  const others = branches.slice(1).map((branch) => new Set(strings(branch.required)));
  const inAll = strings(first.required).filter((name) => others.every((names) => names.has(name)));
  const required = new Set([...strings(own.required), ...inAll]);
  if (required.size > 0) joined.required = [...required];
  if (own.additionalProperties === undefined && branches.every((branch) => branch.additionalProperties === false)) {
    joined.additionalProperties = false;
  }
  return joined;
}

/** Every property of some schemas; one that they describe differently has all descriptions under `join`, as far as there is room. */
function joinProperties(schemas: readonly Fields[], join: "allOf" | "anyOf", room: Room): Fields | undefined {
  const lists = new Set(schemas.map((schema) => asFields(schema.properties)).filter((list) => list !== undefined));
  const [only] = lists;
  if (lists.size < 2) return only;
  const found = new Map<string, Set<unknown>>();
  for (const list of lists) {
    for (const [name, property] of Object.entries(list)) {
      const descriptions = found.get(name);
      if (descriptions) descriptions.add(property);
      else found.set(name, new Set([property]));
    }
  }
  const joined = [...found].map(([name, descriptions]): [string, unknown] => {
    const different = differing(descriptions, room);
    return [name, different.length === 1 ? different[0] : { [join]: different }];
  });
  return Object.fromEntries(joined);
}

/** Those that are not equal. Where there is no room for them all, none: whatever is allowed is then said with the union. */
function differing(descriptions: ReadonlySet<unknown>, room: Room): unknown[] {
  if (descriptions.size === 1) return [...descriptions];
  const different = new Map<string, unknown>();
  for (const each of descriptions) {
    if (room.chars <= 0) return [{}];
    const text = JSON.stringify(each);
    room.chars -= text.length;
    different.set(text, each);
  }
  return [...different.values()];
}

function isTexts(list: unknown): boolean {
  return Array.isArray(list) && list.every((each) => typeof each === "string");
}

function strings(list: unknown): string[] {
  return Array.isArray(list) ? list.filter((each) => typeof each === "string") : [];
}

function say(left: string[], keyword: string, value: unknown): void {
  const text = `"${keyword}": ${JSON.stringify(value)}`;
  left.push(text.length > MAX_NOTE_CHARS ? `"${keyword}": …` : text);
}
