/** What administrators may send, field by field. Unknown fields are refused with their names. */
import * as z from "zod/mini";
import { readJsonBody } from "../body.ts";
import { MAX_TTL_SECONDS } from "../cache/wish.ts";
import type { AppContext } from "../context.ts";
import { matching, metadata, oneOf, parser, parseTime, wholeNumber } from "../fields.ts";
import { guardrailsInput } from "../guardrails/input.ts";
import { modelPatterns, scopeList, WORKSPACE } from "../identity/fields.ts";
import {
  type Aliases,
  BUDGET_MODES,
  BUDGET_PERIODS,
  type Budget,
  type KeyLimits,
  type KeyTimeouts,
  type Limits,
  ON_DISCONNECT,
  ON_REVOKE,
} from "../identity/key-record.ts";
import { aliasProblems } from "../openai/aliases.ts";
import type { Result } from "../result.ts";
import type { Failure } from "../wire/errors.ts";

/** No admin body but a template's is a tenth of this. */
const MAX_ADMIN_BODY_BYTES = 64 * 1024;
const MAX_REQUESTS = 1_000_000;
/** Above what any account has, and exact even in sixty-thousandths, a bucket's unit. */
const MAX_TOKENS = 1_000_000_000;
const MAX_CONCURRENT_REQUESTS = 100_000;
const MAX_REQUEST_BYTES = 32 * 1024 * 1024;
const MAX_WEIGHT = 1_000;
/** An hour: more than any answer that is not streamed takes, and than any upstream keeps a connection silent for. */
const MAX_WAIT_MS = 3_600_000;
/** A day, for a whole stream. */
const MAX_STREAM_MS = 86_400_000;
const MICRO_PER_USD = 1_000_000;
const MAX_BUDGET_USD = 10_000_000;
/** Thirty days. */
const MAX_GRACE_SECONDS = 2_592_000;

/** Printable characters, counted as code points; without halves of surrogate pairs, which D1 can't keep. */
const NAME = /^[^\p{Cc}\p{Cs}\p{Zl}\p{Zp}]{1,100}$/u;
/** A credential as a header can carry it. */
const API_KEY = /^[\x21-\x7e]{8,512}$/;

const NAME_RULE = "must be 1 to 100 printable characters";

/** What `parse` makes of a value; null from it is an error. */
const parsed = <I, O>(type: z.ZodMiniType<I, I>, parse: (value: I) => O | null, message: string) =>
  z.pipe(
    type,
    z.transform((value: I, context): O => {
      const made = parse(value);
      if (made !== null) return made;
      context.issues.push({ code: "custom", message, input: value });
      return z.NEVER;
    }),
  );

const TIME_RULE = "must be an RFC 3339 time, such as 2027-01-31T00:00:00Z";
const time = parsed(z.string(`${TIME_RULE}, or null`), parseTime, TIME_RULE);

export const name = z.string(NAME_RULE).check(z.trim(), z.regex(NAME, NAME_RULE));
const workspace = matching(WORKSPACE, "must be 1 to 64 letters, digits, _ or -");

/** µUSD for dollars with at most six decimals, or null for any other number. */
function microUsd(usd: number): number | null {
  // Exact: both sides of the comparison are the doubles next to their decimals, and no two amounts in whole µUSD of
  // up to 10 million dollars share one.
  const micro = Math.round(usd * MICRO_PER_USD);
  const fits = micro >= 1 && micro <= MAX_BUDGET_USD * MICRO_PER_USD && micro / MICRO_PER_USD === usd;
  return fits ? micro : null;
}

const USD_RULE = `must be a number above 0, up to ${MAX_BUDGET_USD}, with at most 6 decimals`;
const budget = z.nullable(
  z.pipe(
    z.strictObject(
      {
        usd: parsed(z.number(USD_RULE), microUsd, USD_RULE),
        period: oneOf(BUDGET_PERIODS),
        mode: z.optional(oneOf(BUDGET_MODES)),
      },
      "must be an object, or null",
    ),
    z.transform(({ usd: micro_usd, period, mode = "strict" }): Budget => ({ micro_usd, period, mode })),
  ),
);

const requests = wholeNumber(1, MAX_REQUESTS);
const tokens = wholeNumber(1, MAX_TOKENS);
const limits = {
  requests_per_minute: requests,
  requests_burst: requests,
  input_tokens_per_minute: tokens,
  input_tokens_burst: tokens,
  output_tokens_per_minute: tokens,
  output_tokens_burst: tokens,
  concurrent_requests: wholeNumber(1, MAX_CONCURRENT_REQUESTS),
} satisfies Record<keyof Limits, unknown>;
const keyLimits = { ...limits, max_request_bytes: wholeNumber(1, MAX_REQUEST_BYTES) } satisfies Record<
  keyof KeyLimits,
  unknown
>;

const wait = wholeNumber(1, MAX_WAIT_MS);
const timeouts = {
  connect_ms: wait,
  first_byte_ms: wait,
  silence_ms: wait,
  total_ms: wait,
  stream_total_ms: wholeNumber(1, MAX_STREAM_MS),
} satisfies Record<keyof KeyTimeouts, unknown>;

type Numbers = Readonly<Record<string, z.ZodMiniType<number, number>>>;
const someOf = <T extends Readonly<Record<string, z.ZodMiniType>>>(shape: T) =>
  z.optional(z.partial(z.strictObject(shape, "must be an object")));
/** In a change, null takes one away. */
const orNull = <T extends Numbers>(shape: T) =>
  Object.fromEntries(Object.entries(shape).map(([name, number]) => [name, z.nullable(number)])) as {
    readonly [K in keyof T]: z.ZodMiniNullable<T[K]>;
  };

/** They travel with the key's policy, every two seconds. */
const MAX_ALIASES = 50;
/** Checked by hand, as metadata is. */
const aliases = z
  .custom<Aliases>(
    (value) => typeof value === "object" && value !== null && !Array.isArray(value),
    "must be an object of names and what they lead to",
  )
  .check((context) => {
    for (const { name, message } of aliasProblems(context.value, MAX_ALIASES)) {
      context.issues.push({ code: "custom", message, path: name === "" ? [] : [name], input: context.value });
    }
  });

const ofBoth = {
  budget: z.optional(budget),
  metadata: z.optional(metadata),
  guardrails: z.optional(z.nullable(guardrailsInput)),
};
const ofKey = {
  ...ofBoth,
  scopes: z.optional(scopeList),
  models: z.optional(modelPatterns),
  aliases: z.optional(aliases),
  on_disconnect: z.optional(oneOf(ON_DISCONNECT)),
  on_revoke: z.optional(oneOf(ON_REVOKE)),
  fail_open: z.optional(z.boolean("must be true or false")),
  cache: z.optional(
    z.nullable(z.strictObject({ ttl_seconds: wholeNumber(1, MAX_TTL_SECONDS) }, "must be an object, or null")),
  ),
  expires_at: z.optional(z.nullable(time)),
};

const CreateKey = z.strictObject({
  ...ofKey,
  name,
  workspace: z.optional(workspace),
  limits: someOf(keyLimits),
  timeouts: someOf(timeouts),
});
const ChangeKey = z.strictObject({
  ...ofKey,
  name: z.optional(name),
  limits: someOf(orNull(keyLimits)),
  timeouts: someOf(orNull(timeouts)),
});
const CreateWorkspace = z.strictObject({ ...ofBoth, id: z.optional(workspace), name, limits: someOf(limits) });
const ChangeWorkspace = z.strictObject({ ...ofBoth, name: z.optional(name), limits: someOf(orNull(limits)) });
const API_KEY_RULE = "must be 8 to 512 printable ASCII characters without spaces";
const apiKey = z.string(API_KEY_RULE).check(z.trim(), z.regex(API_KEY, API_KEY_RULE));
const ofUpstream = {
  weight: z.optional(wholeNumber(1, MAX_WEIGHT)),
  models: z.optional(modelPatterns),
  concurrent_requests: z.optional(z.nullable(wholeNumber(1, MAX_CONCURRENT_REQUESTS))),
};
/** What an address may be is the deployment's matter (upstream/base-url.ts). */
const baseUrl = z.string("must be an https address");
const CreateUpstream = z.strictObject({ ...ofUpstream, name, base_url: baseUrl, api_key: apiKey });
const ChangeUpstream = z.strictObject({
  ...ofUpstream,
  name: z.optional(name),
  base_url: z.optional(baseUrl),
  api_key: z.optional(apiKey),
  state: z.optional(z.literal("active", "must be active; /drain and DELETE lead to the other states")),
});
const RotateKey = z.strictObject({ grace_seconds: z.optional(wholeNumber(0, MAX_GRACE_SECONDS)) });

export type CreateKeyInput = z.infer<typeof CreateKey>;
export type ChangeKeyInput = z.infer<typeof ChangeKey>;
export type RotateKeyInput = z.infer<typeof RotateKey>;
export type CreateWorkspaceInput = z.infer<typeof CreateWorkspace>;
export type ChangeWorkspaceInput = z.infer<typeof ChangeWorkspace>;

export type CreateUpstreamInput = z.infer<typeof CreateUpstream>;
export type ChangeUpstreamInput = z.infer<typeof ChangeUpstream>;

export const parseCreateKey = parser<CreateKeyInput>(CreateKey);
export const parseChangeKey = parser<ChangeKeyInput>(ChangeKey);
export const parseRotateKey = parser<RotateKeyInput>(RotateKey);
export const parseCreateWorkspace = parser<CreateWorkspaceInput>(CreateWorkspace);
export const parseChangeWorkspace = parser<ChangeWorkspaceInput>(ChangeWorkspace);
export const parseCreateUpstream = parser<CreateUpstreamInput>(CreateUpstream);
export const parseChangeUpstream = parser<ChangeUpstreamInput>(ChangeUpstream);

/** The body of an admin request as a JSON value. */
export function readAdminBody(c: AppContext, limit = MAX_ADMIN_BODY_BYTES): Promise<Result<unknown, Failure>> {
  return readJsonBody(c.req.raw, c.var.call.headers, limit);
}
