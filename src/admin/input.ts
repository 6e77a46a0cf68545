/** What administrators may send, field by field. Unknown fields are refused with their names. */
import * as z from "zod/mini";
import { readJsonBytes } from "../body.ts";
import { SCOPES } from "../identity/key-record.ts";
import { err, ok, type Result } from "../result.ts";
import type { Failure } from "../wire/errors.ts";
import { scanJson } from "../wire/json-scan.ts";

/** No admin body is a tenth of this. */
const MAX_ADMIN_BODY_BYTES = 64 * 1024;
const MAX_LIMIT = 1_000_000;
const MAX_REQUEST_BYTES = 32 * 1024 * 1024;
/** Thirty days. */
const MAX_GRACE_SECONDS = 2_592_000;

const RFC_3339 = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)$/;
const FIRST_TIME = Date.parse("0000-01-01T00:00:00Z");
const LAST_TIME = Date.parse("9999-12-31T23:59:59.999Z");
export const WORKSPACE = /^[A-Za-z0-9_-]{1,64}$/;
const MODEL = /^[A-Za-z0-9._:@[\]/-]{1,127}\*?$/;
/** Printable characters, counted as code points; without halves of surrogate pairs, which D1 can't keep. */
const NAME = /^[^\p{Cc}\p{Cs}\p{Zl}\p{Zp}]{1,100}$/u;
const MAX_METADATA_PAIRS = 16;
const MAX_METADATA_KEY_CHARS = 64;
const MAX_METADATA_VALUE_CHARS = 512;
/** Longest name of an unknown field that is repeated in an answer. */
const MAX_SHOWN_NAME = 64;

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

const wholeNumber = (min: number, max: number) => {
  const message = `must be a whole number from ${min} to ${max}`;
  return z.int(message).check(z.minimum(min, message), z.maximum(max, message));
};
const matching = (pattern: RegExp, message: string) => z.string(message).check(z.regex(pattern, message));
const NAME_RULE = "must be 1 to 100 printable characters";
const noneTwice = z.refine<readonly string[]>((list) => new Set(list).size === list.length, "holds an entry twice");

const time = z.pipe(
  z.string("must be an RFC 3339 time, such as 2027-01-31T00:00:00Z, or null"),
  z.transform((text: string, context) => {
    const at = parseTime(text);
    if (at !== null) return at;
    context.issues.push({
      code: "custom",
      message: "must be an RFC 3339 time, such as 2027-01-31T00:00:00Z",
      input: text,
    });
    return z.NEVER;
  }),
);

/** Checked by hand: `z.record` would drop a pair named `__proto__` without a word. */
const metadata = z
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

const fields = {
  name: z.string(NAME_RULE).check(z.trim(), z.regex(NAME, NAME_RULE)),
  scopes: z
    .array(z.enum(SCOPES, `must be one of ${SCOPES.join(", ")}`), "must be a list of scopes")
    .check(z.minLength(1, "must name at least one scope"), noneTwice),
  models: z.nullable(
    z
      .array(matching(MODEL, "must be a model id, or a prefix ending in *"), "must be a list of model ids, or null")
      .check(
        z.minLength(1, "must name at least one model"),
        z.maxLength(100, "must not name more than 100 models"),
        noneTwice,
      ),
  ),
  expires_at: z.nullable(time),
  metadata,
};
const requestsPerMinute = wholeNumber(1, MAX_LIMIT);
const requestBytes = wholeNumber(1, MAX_REQUEST_BYTES);

const CreateKey = z.strictObject({
  name: fields.name,
  workspace: z.optional(matching(WORKSPACE, "must be 1 to 64 letters, digits, _ or -")),
  scopes: z.optional(fields.scopes),
  models: z.optional(fields.models),
  limits: z.optional(
    z.strictObject(
      {
        requests_per_minute: z.optional(requestsPerMinute),
        max_request_bytes: z.optional(requestBytes),
      },
      "must be an object",
    ),
  ),
  expires_at: z.optional(fields.expires_at),
  metadata: z.optional(fields.metadata),
});

const ChangeKey = z.strictObject({
  name: z.optional(fields.name),
  scopes: z.optional(fields.scopes),
  models: z.optional(fields.models),
  limits: z.optional(
    z.strictObject(
      {
        requests_per_minute: z.optional(z.nullable(requestsPerMinute)),
        max_request_bytes: z.optional(z.nullable(requestBytes)),
      },
      "must be an object",
    ),
  ),
  expires_at: z.optional(fields.expires_at),
  metadata: z.optional(fields.metadata),
});

const RotateKey = z.strictObject({ grace_seconds: z.optional(wholeNumber(0, MAX_GRACE_SECONDS)) });

export type CreateKeyInput = z.infer<typeof CreateKey>;
export type ChangeKeyInput = z.infer<typeof ChangeKey>;
export type RotateKeyInput = z.infer<typeof RotateKey>;

export const parseCreateKey = parser<CreateKeyInput>(CreateKey);
export const parseChangeKey = parser<ChangeKeyInput>(ChangeKey);
export const parseRotateKey = parser<RotateKeyInput>(RotateKey);

/** A function that checks a value and tells everything that is wrong with it at once, and never repeats a value. */
function parser<T>(schema: z.ZodMiniType<T>): (value: unknown) => Result<T, Failure> {
  return function parse(value) {
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      return err({ kind: "invalid_request", message: "the request body must be a JSON object" });
    }
    const parsed = schema.safeParse(value);
    if (parsed.success) return ok(parsed.data);
    const problems = parsed.error.issues.flatMap((issue) => {
      if (issue.code === "unrecognized_keys") {
        return issue.keys.map((name) => `${fieldName([...issue.path, name])}: unknown field`);
      }
      const [first] = issue.path;
      const missing = issue.path.length === 1 && first !== undefined && !Object.hasOwn(value, first);
      return [`${fieldName(issue.path)}: ${missing ? "Field required" : issue.message}`];
    });
    // A number can break one rule in two ways.
    return err({ kind: "invalid_request", message: [...new Set(problems)].join("; ") });
  };
}

/** `limits.requests_per_minute`; names that callers made up are cut short. */
function fieldName(path: readonly PropertyKey[]): string {
  return path.map((name) => String(name).slice(0, MAX_SHOWN_NAME)).join(".");
}

/** The body of an admin request as a JSON value; undefined where a body is optional and there is none. */
export async function readAdminBody(request: Request): Promise<Result<unknown, Failure>> {
  const bytes = await readJsonBytes(request, MAX_ADMIN_BODY_BYTES);
  if (!bytes.ok) return bytes;
  const scan = scanJson(bytes.value);
  return scan.ok ? ok(JSON.parse(new TextDecoder().decode(bytes.value))) : scan;
}
