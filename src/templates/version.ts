/**
 * The strict reader of a version, for when it is saved. What a Messages body may hold is an open list (block types, tools,
 * defaults) and the upstream judges it; what the gateway itself works with must be right here, for nobody can change a
 * version later. Import it late: it brings Mustache and the validator along. Pure.
 */
import * as z from "zod/mini";
import { matching, parser, wholeNumber } from "../fields.ts";
import { err, ok, type Result } from "../result.ts";
import { MAX_MAX_TOKENS } from "../wire/anthropic/request.ts";
import { asFields } from "../wire/anthropic/usage.ts";
import type { Failure } from "../wire/errors.ts";
import { MAX_BREAKPOINTS, ownBreakpoints } from "./breakpoints.ts";
import { compile } from "./compile.ts";
import {
  type Content,
  type Fields,
  MAX_BLOCKS,
  MAX_CONTENT_BYTES,
  MAX_MESSAGES,
  MAX_TOOLS,
  measure,
} from "./content.ts";

/** As upstream may call a model one day: visible ASCII. */
const MODEL = /^[\x21-\x7e]{1,200}$/;
const FIELD = /^[a-z][a-z0-9_]{0,63}$/;
const MAX_FIELDS = 50;
/** What reads and writes values is recursive; a body may have 100 levels, some of which are the route's. */
const MAX_DEPTH = 64;
const ROLES: readonly unknown[] = ["user", "assistant", "system"];

/** A caller who could set these would say what the operator says, or do what the operator can. */
const DEFAULT_OPERATOR: readonly string[] = ["system", "tools"];
/** Fields with a place of their own in a version, and fields of a call that are no part of the body. */
const NOT_DEFAULTS = ["model", "max_tokens", "system", "messages", "tools"];
const NOT_IN_BODY = ["variables", "label", "version"];

type Issue = (message: string, ...path: (string | number)[]) => void;

/** A value that is kept as it came, once it has been looked at: zod would make another of it. */
const asItCame = <T>(isOne: (value: unknown) => boolean, message: string, look: (value: T, issue: Issue) => void) =>
  z.custom<T>(isOne, message).check((context) => {
    const issue: Issue = (message, ...path) => {
      context.issues.push({ code: "custom", message, path, input: context.value });
    };
    if (measure(context.value).depth > MAX_DEPTH) issue(`must not be nested deeper than ${MAX_DEPTH} levels`);
    else look(context.value, issue);
  });

const isFields = (value: unknown): boolean => asFields(value) !== undefined;

function lookAtBlocks(blocks: unknown, issue: Issue, ...path: (string | number)[]): void {
  if (typeof blocks === "string") {
    if (blocks.trim() === "") issue("must not be empty", ...path);
    return;
  }
  if (!Array.isArray(blocks)) {
    issue("must be a text or a list of content blocks", ...path);
    return;
  }
  if (blocks.length === 0 || blocks.length > MAX_BLOCKS) issue(`must be 1 to ${MAX_BLOCKS} blocks`, ...path);
  blocks.slice(0, MAX_BLOCKS).forEach((block: unknown, i) => {
    const fields = asFields(block);
    if (typeof fields?.type !== "string" || fields.type === "") issue("must be a content block", ...path, i);
    else if (fields.type === "text" && typeof fields.text !== "string") issue("must be a text", ...path, i, "text");
    else if (fields.type === "text" && fields.text === "") issue("must not be empty", ...path, i, "text");
  });
}

const system = asItCame<NonNullable<Content["system"]>>(
  (value) => typeof value === "string" || Array.isArray(value),
  "must be a text or a list of content blocks",
  (value, issue) => lookAtBlocks(value, issue),
);

const messages = asItCame<Content["messages"]>(Array.isArray, "must be a list of messages", (list, issue) => {
  if (list.length > MAX_MESSAGES) return issue(`must not be more than ${MAX_MESSAGES}`);
  list.forEach((message: unknown, i) => {
    const fields = asFields(message);
    if (!fields) {
      issue("must be a message", i);
      return;
    }
    for (const name of Object.keys(fields)) {
      if (name !== "role" && name !== "content") issue("unknown field", i, name.slice(0, 64));
    }
    if (!ROLES.includes(fields.role)) issue(`must be one of ${ROLES.join(", ")}`, i, "role");
    lookAtBlocks(fields.content, issue, i, "content");
  });
});

const tools = asItCame<NonNullable<Content["tools"]>>(Array.isArray, "must be a list of tools", (list, issue) => {
  if (list.length > MAX_TOOLS) return issue(`must not be more than ${MAX_TOOLS}`);
  list.forEach((tool: unknown, i) => {
    if (!isFields(tool)) issue("must be a tool", i);
  });
});

const defaults = asItCame<Fields>(isFields, "must be an object of Messages fields", (fields, issue) => {
  const names = Object.keys(fields);
  if (names.length > MAX_FIELDS) issue(`must not be more than ${MAX_FIELDS}`);
  for (const name of names) {
    if (NOT_DEFAULTS.includes(name)) issue("stands beside `defaults`", name);
    else if (!FIELD.test(name) || NOT_IN_BODY.includes(name))
      issue("is no field of a Messages body", name.slice(0, 64));
  }
});

const operator = asItCame<readonly string[]>(Array.isArray, "must be a list of fields", (names, issue) => {
  if (names.length > MAX_FIELDS) return issue(`must not be more than ${MAX_FIELDS}`);
  names.forEach((name: unknown, i) => {
    if (typeof name !== "string" || !FIELD.test(name) || NOT_IN_BODY.includes(name)) {
      issue("must be the name of a field of a Messages body", i);
    }
  });
});

const variables = asItCame<Fields>(isFields, "must be a JSON Schema of an object", () => {});

const Given = z.strictObject({
  model: z.optional(matching(MODEL, "must be a model id")),
  max_tokens: z.optional(wholeNumber(1, MAX_MAX_TOKENS)),
  system: z.optional(system),
  messages: z.optional(messages),
  tools: z.optional(tools),
  defaults: z.optional(defaults),
  variables: z.optional(variables),
  operator: z.optional(operator),
});

export const parseGiven = parser<z.infer<typeof Given>>(Given);

/** What a version holds that is to be published, or all that is wrong with it. */
export function parseVersion(json: unknown): Result<Content, Failure> {
  const given = parseGiven(json);
  if (!given.ok) return given;
  const content = withDefaults(given.value);
  if (new TextEncoder().encode(JSON.stringify(content)).length > MAX_CONTENT_BYTES) {
    return invalid([`a version must not be larger than ${MAX_CONTENT_BYTES} bytes`]);
  }
  const problems: string[] = [];
  compile(content, problems);
  problems.push(...atOdds(content));
  return problems.length > 0 ? invalid(problems) : ok(content);
}

/** In the order in which a person reads it. The schema of a template without variables has none. */
function withDefaults(given: z.infer<typeof Given>): Content {
  const { model, max_tokens, system, messages = [], tools, defaults = {}, variables, operator } = given;
  return {
    ...(model !== undefined && { model }),
    ...(max_tokens !== undefined && { max_tokens }),
    ...(system !== undefined && { system }),
    messages,
    ...(tools !== undefined && { tools }),
    defaults,
    variables: { type: "object", ...variables },
    operator: [...new Set(operator ?? DEFAULT_OPERATOR)],
  };
}

/** What is right by itself and wrong beside the rest. */
function atOdds(content: Content): readonly string[] {
  const problems: string[] = [];
  if (content.system === undefined && content.messages.length === 0) {
    problems.push("system, messages: one of them must be there");
  }
  // A field that must be in every body, and that nobody could ever set.
  for (const name of ["model", "max_tokens"] as const) {
    if (content.operator.includes(name) && content[name] === undefined) {
      problems.push(`operator: holds ${name}, which the version does not set`);
    }
  }
  if (content.operator.includes("messages") && content.messages.length === 0) {
    problems.push("operator: holds messages, of which the version has none");
  }
  const marks = ownBreakpoints(content) + (content.defaults.cache_control ? 1 : 0);
  if (marks > MAX_BREAKPOINTS) problems.push(`cache_control: stands at more than ${MAX_BREAKPOINTS} places`);
  return problems;
}

function invalid(problems: readonly string[]): Result<never, Failure> {
  return err({ kind: "invalid_request", message: problems.join("; ") });
}
