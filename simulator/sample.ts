/** A value that a JSON Schema accepts: the input of a tool call, or a structured answer. Deterministic. */
import { asFields, asList, asText, type Fields } from "./json.ts";

/** Recursive schemas end here. */
const MAX_DEPTH = 8;

export function sample(schema: unknown, root: unknown = schema, depth = 0): unknown {
  const fields = asFields(schema);
  if (!fields || depth > MAX_DEPTH) return {};
  if (fields.const !== undefined) return fields.const;
  if (fields.default !== undefined) return fields.default;
  const [first] = [...asList(fields.enum), ...asList(fields.examples)];
  if (first !== undefined) return first;
  const reference = asText(fields.$ref);
  if (reference) return sample(resolve(root, reference), root, depth + 1);
  const alternatives = [...asList(fields.anyOf), ...asList(fields.oneOf)];
  if (alternatives.length > 0) return sample(alternatives[0], root, depth + 1);
  if (Array.isArray(fields.allOf)) {
    return Object.assign({}, ...fields.allOf.map((part: unknown) => sample(part, root, depth + 1)));
  }
  const type = Array.isArray(fields.type) ? fields.type[0] : fields.type;
  switch (type) {
    case "string":
      return text(fields);
    case "integer":
    case "number":
      return number(fields);
    case "boolean":
      return true;
    case "null":
      return null;
    case "array": {
      const count = Math.max(1, typeof fields.minItems === "number" ? fields.minItems : 1);
      return Array.from({ length: Math.min(count, 100) }, () => sample(fields.items ?? {}, root, depth + 1));
    }
    default:
      return object(fields, root, depth);
  }
}

function object(schema: Fields, root: unknown, depth: number): Record<string, unknown> {
  const properties = asFields(schema.properties) ?? {};
  const required = asList(schema.required).map(String);
  const names = required.length > 0 ? required : Object.keys(properties);
  return Object.fromEntries(names.map((name) => [name, sample(properties[name] ?? {}, root, depth + 1)]));
}

function text(schema: Fields): string {
  switch (schema.format) {
    case "date":
      return "2026-11-21";
    case "date-time":
      return "2026-11-21T00:00:00Z";
    case "uri":
      return "https://example.com/";
    case "email":
      return "someone@example.com";
  }
  const min = typeof schema.minLength === "number" ? schema.minLength : 0;
  const max = typeof schema.maxLength === "number" ? schema.maxLength : Number.POSITIVE_INFINITY;
  return "example".padEnd(Math.min(min, 10_000), "x").slice(0, max);
}

function number(schema: Fields): number {
  const step = schema.type === "integer" ? 1 : 0.5;
  if (typeof schema.minimum === "number") return schema.type === "integer" ? Math.ceil(schema.minimum) : schema.minimum;
  if (typeof schema.exclusiveMinimum === "number") return schema.exclusiveMinimum + step;
  return typeof schema.maximum === "number" ? Math.min(1, schema.maximum) : 1;
}

function resolve(root: unknown, reference: string): unknown {
  let at: unknown = root;
  for (const part of reference.replace(/^#\/?/, "").split("/").filter(Boolean)) {
    at = asFields(at)?.[part.replaceAll("~1", "/").replaceAll("~0", "~")];
  }
  return at;
}
