/**
 * What a conversation begins with: what its maker says or, for what a template says, a version of it. That is chosen and
 * filled in once; what becomes of the template later changes nothing here.
 */
import { err, ok, type Result } from "../result.ts";
import { readCall, type Wish } from "../templates/call.ts";
import type { Version } from "../templates/content.ts";
import { findVersion } from "../templates/find.ts";
import type { Prompt } from "../templates/render.ts";
import { shelf } from "../templates/shelf.ts";
import { shelvesOf } from "../templates/shelves.ts";
import type { Failure } from "../wire/errors.ts";
import type { Asked } from "./call.ts";
import { type CreateInput, MODEL_MISSING, parseCreate, specOf } from "./input.ts";
import type { FromTemplate, Spec } from "./protocol.ts";
import { reservedFields } from "./reserved.ts";

const WORDS_OF_ITS_OWN =
  "template: it has messages of its own, which a conversation can't begin with. Say what they say in its system.";

export async function beginning(call: Asked, id: string, input: CreateInput): Promise<Result<Spec, Failure>> {
  const { template, ...own } = input;
  if (template === undefined) {
    const { model } = own;
    return model === undefined ? refused(MODEL_MISSING) : ok(specOf(id, { ...own, model }));
  }
  if (!call.caller.policy.scopes.includes("templates:read"))
    return err({ kind: "scope_missing", scope: "templates:read" });
  if (own.system !== undefined) return refused("system: can't stand beside template");
  const { name, ...said } = template;
  const wish = readCall(said);
  if (!wish.ok) return wish;
  const version = await versionFor(call, id, name, wish.value.wish);
  if (!version.ok) return version;
  const { operator } = version.value.content;
  const from: FromTemplate = { name, version: version.value.version, operator };
  const { options, model, max_tokens, tools } = own;
  const given = Object.entries({ model, max_tokens, tools }).filter(([, value]) => value !== undefined);
  const reserved = reservedFields({ template: from }, { ...options, ...Object.fromEntries(given) });
  if (reserved) return err(reserved);
  const { renderPrompt } = await import("../templates/render.ts");
  const prompt = renderPrompt(version.value, wish.value.variables);
  return prompt.ok ? laidOver(id, prompt.value, own, from) : prompt;
}

function versionFor({ c, caller }: Asked, id: string, name: string, wish: Wish): Promise<Result<Version, Failure>> {
  return findVersion(shelf, shelvesOf(c), name, wish, { workspace: caller.policy.workspace, who: id });
}

/** The maker's fields over the template's. What comes out has to be what any maker could have said. */
function laidOver(
  id: string,
  prompt: Prompt,
  own: Omit<CreateInput, "template">,
  from: FromTemplate,
): Result<Spec, Failure> {
  if (prompt.messages.length > 0) return refused(WORDS_OF_ITS_OWN);
  // Whether an answer is streamed is said with each message.
  const { stream: _, ...defaults } = prompt.defaults;
  const { model, max_tokens, system, tools } = prompt;
  const whole = parseCreate({
    ...(model !== undefined && { model }),
    ...(max_tokens !== undefined && { max_tokens }),
    ...(system !== undefined && { system }),
    ...(tools !== undefined && { tools }),
    ...own,
    options: { ...defaults, ...own.options },
  });
  if (!whole.ok) return whole;
  if (whole.value.model === undefined) return refused(MODEL_MISSING);
  return ok({ ...specOf(id, { ...whole.value, model: whole.value.model }), template: from });
}

function refused(message: string): Result<never, Failure> {
  return err({ kind: "invalid_request", message });
}
