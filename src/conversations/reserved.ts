/** What a conversation that began with a template keeps for it: fields that are the operator's stay as they were. Pure. */

import { wrongFields } from "../templates/operator.ts";
import type { Failure } from "../wire/errors.ts";
import type { Change, Spec } from "./protocol.ts";

/** Fields of a conversation as a Messages body calls them: those that are given. */
export function ownFields({ model, system, tools, maxTokens }: Change): Readonly<Record<string, unknown>> {
  return {
    ...(model !== undefined && { model }),
    ...(system !== undefined && { system }),
    ...(tools !== undefined && { tools }),
    ...(maxTokens !== undefined && { max_tokens: maxTokens }),
  };
}

/** Why these fields may not be set; null: nothing speaks against it. */
export function reservedFields(
  spec: Pick<Spec, "template"> | null,
  fields: Readonly<Record<string, unknown>>,
): Failure | null {
  const problems = spec?.template ? wrongFields(spec.template, fields) : [];
  return problems.length > 0 ? { kind: "invalid_request", message: problems.join("; ") } : null;
}

/** A change as it is made: new options take the place of all but the operator's. */
export function withReserved(spec: Pick<Spec, "template" | "options"> | null, change: Change): Change {
  if (!spec?.template || !change.options) return change;
  const { template, options } = spec;
  const kept = Object.entries(options).filter(([name, value]) => wrongFields(template, { [name]: value }).length > 0);
  return { ...change, options: { ...Object.fromEntries(kept), ...change.options } };
}
