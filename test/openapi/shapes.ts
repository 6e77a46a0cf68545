/** Values held against the shapes of the description. */
import { type Schema, Validator } from "@cfworker/json-schema";

export type Fields = Readonly<Record<string, unknown>>;

export const asFields = (value: unknown): Fields =>
  typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Fields) : {};

/** What a path leads to. */
export const at = (from: unknown, ...path: readonly string[]): unknown =>
  path.reduce<unknown>((value, name) => asFields(value)[name], from);

/** Shapes that are Claude's or OpenAI's: they hold more than is said of them. */
const OPEN = /^(?:Claude|Messages|Template(?:Call|Labels)|Model|Batch|File|ChatCompletion|Response|Error)/;

/** An own answer may hold nothing that is not described, for then a field was added and is described nowhere. */
function closed(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(closed);
  if (typeof value !== "object" || value === null) return value;
  const inner = Object.fromEntries(Object.entries(value).map(([name, each]) => [name, closed(each)]));
  return "properties" in inner && !("additionalProperties" in inner)
    ? { ...inner, additionalProperties: false }
    : inner;
}

/** What is wrong with a value, in words; nothing: it fits. */
export function misfits(description: Fields, schema: unknown, value: unknown): readonly string[] {
  const shapes = Object.entries(asFields(at(description, "components", "schemas"))).map(
    ([name, shape]) => [name, OPEN.test(name) ? shape : closed(shape)] as const,
  );
  const whole = { ...asFields(closed(schema)), components: { schemas: Object.fromEntries(shapes) } };
  const { valid, errors } = new Validator(whole as Schema, "2020-12", false).validate(value);
  return valid ? [] : errors.map(({ instanceLocation, error }) => `${instanceLocation}: ${error}`);
}

/** The shape of an answer's JSON. */
export function shapeOf(description: Fields, method: string, path: string, status: number): unknown {
  const said = at(description, "paths", path, method.toLowerCase(), "responses", String(status));
  const shared = at(said, "$ref");
  const answer =
    typeof shared === "string" ? at(description, "components", "responses", shared.split("/").at(-1) ?? "") : said;
  return at(answer, "content", "application/json", "schema");
}
