/** What an administrator may write as guardrails, field by field. Unknown fields are refused with their names. */
import * as z from "zod/mini";
import { matching, noneTwice, oneOf, wholeNumber } from "../fields.ts";
import { DETECTED_TYPES } from "./detect/finding.ts";
import { parsePattern } from "./detect/pattern.ts";
import { MODES } from "./policy.ts";
import { MAX_TYPE_CHARS } from "./table.ts";

/** They travel with the policy, every two seconds. */
export const MAX_PATTERNS = 20;
export const MAX_LISTED = 100;
/** Above every context there is. */
const MAX_INPUT_CHARS = 100_000_000;

/** It becomes part of a placeholder, and of a name in the audit. */
const PATTERN_NAME = new RegExp(`^[A-Za-z][A-Za-z0-9_-]{0,${MAX_TYPE_CHARS - 1}}$`);
const TOOL = /^[A-Za-z0-9_.:-]{0,128}\*?$/;
const HOST = /^(?:\*\.)?(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;
const MAX_HOST_CHARS = 255;

const mode = oneOf(MODES);
const optional = <T extends z.ZodMiniType>(type: T) => z.exactOptional(type);

const list = <T extends z.ZodMiniType>(entry: T, what: string) =>
  z
    .array(entry, `must be a list of ${what}`)
    .check(z.maxLength(MAX_LISTED, `must not have more than ${MAX_LISTED} entries`), noneTwice);

const types = list(oneOf(DETECTED_TYPES), "types");
const names = list(
  matching(TOOL, "must be 1 to 128 letters, digits, _, -, . or :, and may end in *").check(
    z.minLength(1, "must not be empty"),
  ),
  "names",
);
const HOST_RULE = "must be a host such as example.com or *.example.com, in lower case";
const hosts = list(matching(HOST, HOST_RULE).check(z.maxLength(MAX_HOST_CHARS, HOST_RULE)), "hosts");
const isList = (value: unknown): boolean => Array.isArray(value);

/** A union would not tell which of a list's entries is wrong. */
const urlSources = z.custom<boolean | readonly string[]>().check((context) => {
  if (typeof context.value === "boolean") return;
  const input: unknown = context.value;
  if (!isList(input)) {
    context.issues.push({ code: "custom", message: "must be true, false or a list of hosts", path: [], input });
    return;
  }
  for (const { path, message } of hosts.safeParse(input).error?.issues ?? []) {
    context.issues.push({ code: "custom", message, path: [...path], input });
  }
});

const patterns = z
  .array(
    z.strictObject(
      {
        name: matching(
          PATTERN_NAME,
          `must be 1 to ${MAX_TYPE_CHARS} letters, digits, _ or -, and begin with a letter`,
        ).check(
          z.refine(
            (name) => !(DETECTED_TYPES as readonly string[]).includes(name.toUpperCase()),
            "is the name of a type that is built in",
          ),
        ),
        // What it may hold is the detector's matter.
        pattern: z.string("must be a text").check((context) => {
          const parsed = parsePattern(context.value);
          if (!parsed.ok) context.issues.push({ code: "custom", message: parsed.error, input: context.value });
        }),
        mode: optional(mode),
      },
      "must be an object",
    ),
    "must be a list of patterns",
  )
  .check(
    z.maxLength(MAX_PATTERNS, `must not have more than ${MAX_PATTERNS} entries`),
    z.refine(
      (given) => new Set(given.map(({ name }) => name.toUpperCase())).size === given.length,
      "holds a name twice",
    ),
  );

/** For the bodies of keys and workspaces. */
export const guardrailsInput = z.strictObject(
  {
    mode: optional(mode),
    redact: optional(types),
    secrets: optional(mode),
    block: optional(types),
    patterns: optional(patterns),
    max_input_chars: optional(wholeNumber(1, MAX_INPUT_CHARS)),
    allow_tools: optional(names),
    allow_url_sources: optional(urlSources),
    betas: optional(names),
    unmask: optional(z.boolean("must be true or false")),
    output: optional(z.strictObject({ redact: optional(types), secrets: optional(mode) }, "must be an object")),
  },
  "must be an object, or null",
);
