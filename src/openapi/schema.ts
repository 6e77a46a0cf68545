/** JSON Schema in few words, as OpenAPI 3.1 has it. */
import * as z from "zod/mini";
import type { Parser } from "../fields.ts";

export type Schema = Readonly<Record<string, unknown>>;
type Fields = Readonly<Record<string, Schema>>;

export const text: Schema = { type: "string" };
export const flag: Schema = { type: "boolean" };
export const whole: Schema = { type: "integer" };
export const number: Schema = { type: "number" };
export const time: Schema = { type: "string", format: "date-time" };
export const anything: Schema = {};
/** What Claude's API decides about. */
export const fieldsOfClaude: Schema = { type: "object" };

export const between = (minimum: number, maximum: number): Schema => ({ type: "integer", minimum, maximum });
export const oneOf = (...values: readonly string[]): Schema => ({ type: "string", enum: values });
export const just = (value: string): Schema => ({ const: value });
export const list = (items: Schema): Schema => ({ type: "array", items });
export const mapOf = (values: Schema): Schema => ({ type: "object", additionalProperties: values });
export const orNull = (schema: Schema): Schema => ({ anyOf: [schema, { type: "null" }] });
export const either = (...schemas: readonly Schema[]): Schema => ({ anyOf: schemas });
export const ref = (name: string): Schema => ({ $ref: `#/components/schemas/${name}` });

/** Fields that are always there, and those that may be left out. */
export const object = (always: Fields, perhaps: Fields = {}): Schema => ({
  type: "object",
  properties: { ...always, ...perhaps },
  required: Object.keys(always),
});

export const pageOf = (item: Schema): Schema => object({ data: list(item), has_more: flag, next_cursor: orNull(text) });

/**
 * What a body is read by. `byHand`: what its reader checks by hand, by path (`[]`: each entry of a list), since zod can't
 * say that in JSON Schema. Throws for a field of which nothing is said either way: then one was added.
 */
export function readBy(parse: Pick<Parser<unknown>, "schema">, byHand: Fields = {}): Schema {
  const { $schema: _, ...schema } = z.toJSONSchema(parse.schema, { io: "input", unrepresentable: "any" });
  const unused = new Set(Object.keys(byHand));
  const filled = fill(schema, "", (path) => {
    unused.delete(path);
    return byHand[path];
  });
  if (unused.size > 0) throw new Error(`There is no such field: ${[...unused].join(", ")}`);
  return filled;
}

function fill(schema: Schema, path: string, found: (path: string) => Schema | undefined): Schema {
  const given = found(path);
  if (given) return given;
  if (Object.keys(schema).length === 0) throw new Error(`Nothing says what ${path} may be.`);
  const inner = (value: unknown, name: string): Schema =>
    fill(value as Schema, path === "" ? name : `${path}.${name}`, found);
  const { properties, items, anyOf } = schema;
  return {
    ...schema,
    ...(typeof properties === "object" && {
      properties: Object.fromEntries(
        Object.entries({ ...properties }).map(([name, value]) => [name, inner(value, name)]),
      ),
    }),
    ...(typeof items === "object" && { items: inner(items, "[]") }),
    // Of a field that may be null.
    ...(Array.isArray(anyOf) && { anyOf: anyOf.map((each: Schema) => fill(each, path, found)) }),
  };
}
