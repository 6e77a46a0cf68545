/** What may be an alias: the rules for those of a key and of the setting MODEL_ALIASES. Pure. */
import type { Aliases } from "../identity/key-record.ts";
import { err, ok, type Result } from "../result.ts";
import { asFields } from "../wire/anthropic/usage.ts";
import { parseJson } from "../wire/json.ts";
import { meaningOf, readingsOf } from "./model-names.ts";

/** An alias is a name in one or two parts (of a path), without what is a language's or a header's own. */
const ALIAS_NAME = /^[A-Za-z0-9][A-Za-z0-9._:@+()[\]-]*(?:\/[A-Za-z0-9._:@+()[\]-]+)?$/;
const MAX_ALIAS_CHARS = 100;

type Problem = { readonly name: string; readonly message: string };

/** What is wrong with some aliases, each for itself and all together. */
export function aliasProblems(aliases: Readonly<Record<string, unknown>>, max: number): readonly Problem[] {
  const names = Object.keys(aliases);
  const problems: Problem[] = [];
  if (names.length > max) problems.push({ name: "", message: `must not hold more than ${max} aliases` });
  for (const name of names) {
    const message = problemWith(name, aliases[name], aliases);
    if (message !== null) problems.push({ name, message });
  }
  return problems;
}

function problemWith(name: string, alias: unknown, aliases: Readonly<Record<string, unknown>>): string | null {
  if (name.length > MAX_ALIAS_CHARS || !ALIAS_NAME.test(name)) {
    return `must be named by 1 to ${MAX_ALIAS_CHARS} letters, digits and . _ : @ + ( ) [ ] -, with one / at most`;
  }
  const model = modelOf(alias);
  if (model === null) return "must be a model's name, or an object of `model` and perhaps `thinking` (true or false)";
  if (readingsOf(model).some((reading) => Object.hasOwn(aliases, reading.name))) {
    return "must not lead to another alias";
  }
  return meaningOf(model, [], null)
    ? null
    : "must lead to a Claude model: its id, its id without `claude-` or the name of its line, and perhaps suffixes";
}

/** What an alias leads to; null: it is none. */
function modelOf(alias: unknown): string | null {
  if (typeof alias === "string") return alias;
  const fields = asFields(alias);
  if (!fields || Object.keys(fields).some((name) => name !== "model" && name !== "thinking")) return null;
  const { model, thinking = false } = fields;
  return typeof model === "string" && typeof thinking === "boolean" ? model : null;
}

/** A variable of a Worker holds 5 KB. */
const MAX_GATEWAY_ALIASES = 200;

/** The setting MODEL_ALIASES: a JSON object. The error is one sentence. */
export function readModelAliases(text: string): Result<Aliases, string> {
  if (text === "") return ok({});
  const aliases = asFields(parseJson(text));
  if (!aliases) return err("MODEL_ALIASES is not a JSON object.");
  const problem = aliasProblems(aliases, MAX_GATEWAY_ALIASES)[0];
  if (problem) {
    const of = problem.name === "" ? "" : `, \`${problem.name.slice(0, MAX_ALIAS_CHARS)}\`:`;
    return err(`MODEL_ALIASES${of} ${problem.message}.`);
  }
  return ok(aliases as Aliases);
}
