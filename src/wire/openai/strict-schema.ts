/**
 * `strict` tools: Claude is held to their schemas, which then have to be ones that structured output can express, and
 * only so many of them fit into one request (structured outputs: schema complexity limits).
 */
import { asFields } from "../anthropic/usage.ts";
import { answerSchema } from "./answer-schema.ts";
import type { Fields } from "./draft.ts";

const MAX_STRICT_TOOLS = 20;
const MAX_UNIONS = 16;
/** 24 is what upstream states; from about 13 on grammars have been refused as too large (OpenAI notes §3.6). */
const MAX_OPTIONAL = 12;

/** What the strict tools of a request have used of its limits. */
export type StrictUse = { tools: number; optional: number; unions: number };

export function noneStrict(): StrictUse {
  return { tools: 0, optional: 0, unions: 0 };
}

/** The schema as it is enforced, counted in `used`; null: it can't be expressed, or no more fits into the request. */
export function fitStrictly(schema: Fields, used: StrictUse): Fields | null {
  if (used.tools >= MAX_STRICT_TOOLS) return null;
  const answer = answerSchema(schema);
  if (answer.kind !== "schema") return null;
  const more = { ...used, tools: used.tools + 1 };
  count(answer.schema, more);
  if (more.optional > MAX_OPTIONAL || more.unions > MAX_UNIONS) return null;
  Object.assign(used, more);
  return answer.schema;
}

/** Counts in a schema that has been rewritten: its keywords are the few that are left, and no deeper than these may be. */
function count(node: unknown, used: StrictUse): void {
  const schema = asFields(node);
  if (!schema) return;
  const { anyOf, allOf, type, items, properties, required, $defs } = schema;
  if (Array.isArray(anyOf) || Array.isArray(type)) used.unions++;
  for (const list of [anyOf, allOf]) if (Array.isArray(list)) for (const each of list) count(each, used);
  const fields = asFields(properties) ?? {};
  const needed = Array.isArray(required) ? required.length : 0;
  used.optional += Math.max(0, Object.keys(fields).length - needed);
  for (const map of [fields, asFields($defs) ?? {}]) for (const each of Object.values(map)) count(each, used);
  count(items, used);
}
