/** What is common to the bodies of our own endpoints: kinds of fields, and the one way in which what is wrong is told. */
import * as z from "zod/mini";
import { err, ok, type Result } from "./result.ts";
import type { Failure } from "./wire/errors.ts";

const RFC_3339 = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)$/;
const FIRST_TIME = Date.parse("0000-01-01T00:00:00Z");
const LAST_TIME = Date.parse("9999-12-31T23:59:59.999Z");
const MAX_METADATA_PAIRS = 16;
const MAX_METADATA_KEY_CHARS = 64;
const MAX_METADATA_VALUE_CHARS = 512;
/** Longest name of an unknown field that is repeated in an answer. */
const MAX_SHOWN_NAME = 64;

/** A change that names no field. */
export const CHANGES_NOTHING: Failure = { kind: "invalid_request", message: "the request body changes nothing" };

/**
 * Milliseconds since the epoch for an RFC 3339 time, or null. `Date.parse` alone would take 30 February for 2 March
 * and 24:00 for the next day.
 */
export function parseTime(text: string): number | null {
  if (!RFC_3339.test(text) || text.slice(11, 13) === "24") return null;
  const day = text.slice(0, 10);
  const midnight = Date.parse(day);
  if (Number.isNaN(midnight) || new Date(midnight).toISOString().slice(0, 10) !== day) return null;
  const at = Date.parse(text);
  // An offset can lead out of the years that RFC 3339 can write.
  return at >= FIRST_TIME && at <= LAST_TIME ? at : null;
}

export const wholeNumber = (min: number, max: number) => {
  const message = `must be a whole number from ${min} to ${max}`;
  return z.int(message).check(z.minimum(min, message), z.maximum(max, message));
};
export const matching = (pattern: RegExp, message: string) => z.string(message).check(z.regex(pattern, message));
export const oneOf = <const T extends readonly string[]>(values: T) =>
  z.enum(values, `must be one of ${values.join(", ")}`);
export const noneTwice = z.refine<readonly unknown[]>(
  (list) => new Set(list).size === list.length,
  "holds an entry twice",
);
/** Checked by hand: `z.record` would drop a pair named `__proto__` without a word. */
export const metadata = z
  .custom<Readonly<Record<string, string>>>(
    (value) => typeof value === "object" && value !== null && !Array.isArray(value),
    "must be an object of texts",
  )
  .check((context) => {
    const pairs = Object.entries(context.value);
    const problem = (message: string, ...path: string[]) =>
      context.issues.push({ code: "custom", message, path, input: context.value });
    if (pairs.length > MAX_METADATA_PAIRS) problem(`must not have more than ${MAX_METADATA_PAIRS} entries`);
    for (const [name, value] of pairs) {
      if (name === "__proto__") problem("can't be the name of an entry", name);
      else if (name.length > MAX_METADATA_KEY_CHARS) {
        problem(`must not have a name of more than ${MAX_METADATA_KEY_CHARS} characters`, name);
      }
      if (typeof value !== "string") problem("must be a text", name);
      else if (value.length > MAX_METADATA_VALUE_CHARS) {
        problem(`must not be longer than ${MAX_METADATA_VALUE_CHARS} characters`, name);
      }
    }
  });

/** Checks a value. `schema`: what it holds the value against, for the description of the API. */
export type Parser<T> = ((value: unknown) => Result<T, Failure>) & { readonly schema: z.ZodMiniType<T> };

/** A function that checks a value and tells everything that is wrong with it at once, and never repeats a value. */
export function parser<T>(schema: z.ZodMiniType<T>): Parser<T> {
  return Object.assign(
    function parse(value: unknown): Result<T, Failure> {
      if (typeof value !== "object" || value === null || Array.isArray(value)) {
        return err({ kind: "invalid_request", message: "the request body must be a JSON object" });
      }
      const parsed = schema.safeParse(value);
      if (parsed.success) return ok(parsed.data);
      const problems = parsed.error.issues.flatMap((issue) => {
        if (issue.code === "unrecognized_keys") {
          return issue.keys.map((name) => `${fieldName([...issue.path, name])}: unknown field`);
        }
        return [`${fieldName(issue.path)}: ${isThere(value, issue.path) ? issue.message : "Field required"}`];
      });
      // A number can break one rule in two ways.
      return err({ kind: "invalid_request", message: [...new Set(problems)].join("; ") });
    },
    { schema },
  );
}

/** Whether a value has something at a path of fields. */
function isThere(value: unknown, [first, ...rest]: readonly PropertyKey[]): boolean {
  if (first === undefined) return true;
  if (typeof value !== "object" || value === null || !Object.hasOwn(value, first)) return false;
  return isThere(Reflect.get(value, first), rest);
}

/** `limits.requests_per_minute`; names that callers made up are cut short. */
function fieldName(path: readonly PropertyKey[]): string {
  return path.map((name) => String(name).slice(0, MAX_SHOWN_NAME)).join(".");
}
