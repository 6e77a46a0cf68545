/** What administrators may say of a foreign issuer, field by field. */
import * as z from "zod/mini";
import { matching, noneTwice, oneOf, parser, wholeNumber } from "../fields.ts";
import { MAX_MODELS, modelPattern, scopesOf } from "../identity/fields.ts";
import {
  ADMIN_RIGHTS,
  type Condition,
  DEFAULT_LIFETIME_SECONDS,
  ISSUER_STATES,
  type Mapping,
} from "../identity/jwt/issuer.ts";
import { MIN_SECRET_BYTES } from "../identity/jwt/keys.ts";
import { CONTROL_SCOPES, SCOPES, type Scope } from "../identity/scopes.ts";
import { name } from "./input.ts";
import { KEY_ID } from "./keys.ts";

/** As tokens name them: nobody counts more for one (see verify.ts). */
const MAX_AUDIENCES = 20;
const MAX_MAPPINGS = 50;
const MAX_CONDITIONS = 20;
const MAX_PATTERNS = 20;
/** They are held by every isolate, and looked through for each token. */
const MAX_BLOCKED = 1_000;
/** A path of claims, the longest names among which are addresses. */
const MAX_PATH_CHARS = 200;
const MAX_SECRET_CHARS = 1_024;
const MIN_LIFETIME_SECONDS = 60;

/** Counted as code points; without halves of surrogate pairs, which D1 can't keep. */
const PRINTABLE = /^[^\p{Cc}\p{Cs}\p{Zl}\p{Zp}]{1,512}$/u;
const PRINTABLE_RULE = "must be 1 to 512 printable characters";
/** RFC 6838 §4.2, without `application/`. */
const TYP = /^[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,63}$/;

const text = matching(PRINTABLE, PRINTABLE_RULE);

const listOf = (one: z.ZodMiniType<string, string>, what: string, min: number, max: number) =>
  z
    .array(one, `must be a list of ${what}`)
    .check(
      z.minLength(min, `must not have less than ${min}`),
      z.maxLength(max, `must not have more than ${max}`),
      noneTwice,
    );

/** What is wrong with a condition; null: nothing. */
function conditionProblem(condition: unknown): string | null {
  if (!Array.isArray(condition)) return patternProblem(condition);
  if (condition.length < 1 || condition.length > MAX_PATTERNS) return `must have 1 to ${MAX_PATTERNS} patterns`;
  return condition.map(patternProblem).find((problem) => problem !== null) ?? null;
}

/** A star elsewhere would be a star, and not what who wrote it meant. */
function patternProblem(pattern: unknown): string | null {
  if (typeof pattern !== "string") return "must be a pattern, or a list of them";
  if (!PRINTABLE.test(pattern)) return PRINTABLE_RULE;
  return pattern.slice(0, -1).includes("*") ? "may have a * at its end alone" : null;
}

/** Checked by hand: `z.record` would drop a claim named `__proto__` without a word. */
const when = z
  .custom<Readonly<Record<string, Condition>>>(
    (value) => typeof value === "object" && value !== null && !Array.isArray(value),
    "must be an object of claims and patterns",
  )
  .check((context) => {
    const conditions = Object.entries(context.value);
    const problem = (message: string, ...path: string[]) =>
      context.issues.push({ code: "custom", message, path, input: context.value });
    if (conditions.length > MAX_CONDITIONS) problem(`must not have more than ${MAX_CONDITIONS} conditions`);
    for (const [path, condition] of conditions) {
      if (path === "__proto__") problem("can't be the name of a claim", path);
      else if (path.length > MAX_PATH_CHARS || !PRINTABLE.test(path)) {
        problem(`must be named by 1 to ${MAX_PATH_CHARS} printable characters`, path);
      }
      const wrong = conditionProblem(condition);
      if (wrong !== null) problem(wrong, path);
    }
  });

/** What a mapping can leave of a key's scopes; the control plane is given by `admin`, in so many words. */
const DATA_SCOPES: readonly Scope[] = SCOPES.filter((scope) => !CONTROL_SCOPES.includes(scope));

const mapping = z.strictObject(
  {
    when,
    key: matching(KEY_ID, "must be the id of a key"),
    scopes: z.optional(scopesOf(DATA_SCOPES)),
    models: z.optional(listOf(modelPattern, "model ids", 1, MAX_MODELS)),
    admin: z.optional(oneOf(ADMIN_RIGHTS)),
  },
  "must be an object",
);

const fields = {
  name,
  issuer: text,
  audiences: listOf(text, "texts", 1, MAX_AUDIENCES),
  mappings: z
    .array(mapping, "must be a list of mappings")
    .check(
      z.minLength(1, "must hold at least one mapping"),
      z.maxLength(MAX_MAPPINGS, `must not hold more than ${MAX_MAPPINGS} mappings`),
    ),
};

const SECRET_RULE = `must be a text of at least ${MIN_SECRET_BYTES} bytes and at most ${MAX_SECRET_CHARS} characters`;
const secret = z
  .string(SECRET_RULE)
  .check(
    z.refine(
      (value) =>
        value.isWellFormed() &&
        value.length <= MAX_SECRET_CHARS &&
        new TextEncoder().encode(value).length >= MIN_SECRET_BYTES,
      SECRET_RULE,
    ),
  );

const optional = {
  /** What an address may be is the deployment's matter (upstream/base-url.ts). */
  jwks_url: z.optional(z.string("must be an https address")),
  secret: z.optional(secret),
  typ: z.optional(z.nullable(matching(TYP, "must be a media type without application/, such as at+jwt, or null"))),
  max_lifetime_seconds: z.optional(wholeNumber(MIN_LIFETIME_SECONDS, DEFAULT_LIFETIME_SECONDS)),
  blocked_subjects: z.optional(listOf(text, "subjects", 0, MAX_BLOCKED)),
  state: z.optional(oneOf(ISSUER_STATES)),
};

const Create = z.strictObject({ ...fields, ...optional });
const Change = z.strictObject({
  name: z.optional(fields.name),
  issuer: z.optional(fields.issuer),
  audiences: z.optional(fields.audiences),
  mappings: z.optional(fields.mappings),
  ...optional,
});
/** A longer one is no token, which the answer can say. */
const Test = z.strictObject({ token: z.string("must be a text") });

export type CreateIssuerInput = z.infer<typeof Create>;
export type ChangeIssuerInput = z.infer<typeof Change>;

export const parseCreateIssuer = parser<CreateIssuerInput>(Create);
export const parseChangeIssuer = parser<ChangeIssuerInput>(Change);
export const parseTestToken = parser<z.infer<typeof Test>>(Test);

/** Mappings without the undefined ones that an optional field may leave. */
export function mappingsOf(input: CreateIssuerInput["mappings"]): readonly Mapping[] {
  return input.map(({ when: conditions, key, scopes, models, admin }) => ({
    when: conditions,
    key,
    ...(scopes ? { scopes } : {}),
    ...(models ? { models } : {}),
    ...(admin ? { admin } : {}),
  }));
}
