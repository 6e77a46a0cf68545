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
export const WORKSPACE = /^[A-Za-z0-9_-]{1,64}$/;
const MODEL = /^[A-Za-z0-9._:@[\]/-]{1,127}\*?$/;
/** Printable, and not only spaces. */
const NAME = /^(?=.*\S)[^\p{Cc}\p{Zl}\p{Zp}]{1,100}$/u;

/** Milliseconds since the epoch for an RFC 3339 time, or null. */
export function parseTime(text: string): number | null {
  const at = RFC_3339.test(text) ? Date.parse(text) : Number.NaN;
  return Number.isNaN(at) ? null : at;
}

const wholeNumber = (min: number, max: number) => {
  const message = `must be a whole number from ${min} to ${max}`;
  return z.int(message).check(z.minimum(min, message), z.maximum(max, message));
};
const matching = (pattern: RegExp, message: string) => z.string(message).check(z.regex(pattern, message));
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

const fields = {
  name: matching(NAME, "must be 1 to 100 printable characters"),
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
  metadata: z
    .record(
      z.string().check(z.maxLength(64, "has a key of more than 64 characters")),
      z.string("must be a text").check(z.maxLength(512, "must not be longer than 512 characters")),
      "must be an object of texts",
    )
    .check(z.refine((pairs) => Object.keys(pairs).length <= 16, "must not have more than 16 entries")),
};
const requestsPerMinute = wholeNumber(1, MAX_LIMIT);
const requestBytes = wholeNumber(1, MAX_REQUEST_BYTES);

const CreateKey = z.strictObject({
  name: fields.name,
  workspace: z.optional(matching(WORKSPACE, "must be 1 to 64 letters, digits, _ or -")),
  scopes: z.optional(fields.scopes),
  models: z.optional(fields.models),
  limits: z.optional(
    z.strictObject({
      requests_per_minute: z.optional(requestsPerMinute),
      max_request_bytes: z.optional(requestBytes),
    }),
  ),
  expires_at: z.optional(fields.expires_at),
  metadata: z.optional(fields.metadata),
});

const ChangeKey = z.strictObject({
  name: z.optional(fields.name),
  scopes: z.optional(fields.scopes),
  models: z.optional(fields.models),
  limits: z.optional(
    z.strictObject({
      requests_per_minute: z.optional(z.nullable(requestsPerMinute)),
      max_request_bytes: z.optional(z.nullable(requestBytes)),
    }),
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

/** A function that checks a value and tells everything that is wrong with it at once. */
function parser<T>(schema: z.ZodMiniType<T>): (value: unknown) => Result<T, Failure> {
  return function parse(value) {
    const parsed = schema.safeParse(value);
    if (parsed.success) return ok(parsed.data);
    const problems = parsed.error.issues.flatMap((issue) => {
      const at = (name: PropertyKey) => [...issue.path, name].map(String).join(".");
      if (issue.code === "unrecognized_keys") return issue.keys.map((key) => `${at(key)}: unknown field`);
      const path = issue.path.map(String).join(".");
      if (issue.code === "invalid_type" && issue.input === undefined) return [`${path}: Field required`];
      return [path === "" ? "the request body must be a JSON object" : `${path}: ${issue.message}`];
    });
    return err({ kind: "invalid_request", message: problems.join("; ") });
  };
}

/** The body of an admin request as a JSON value; undefined where a body is optional and there is none. */
export async function readAdminBody(request: Request): Promise<Result<unknown, Failure>> {
  const bytes = await readJsonBytes(request, MAX_ADMIN_BODY_BYTES);
  if (!bytes.ok) return bytes;
  const scan = scanJson(bytes.value);
  return scan.ok ? ok(JSON.parse(new TextDecoder().decode(bytes.value))) : scan;
}
