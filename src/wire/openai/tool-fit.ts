/** The steps that bring a draft's tools, and what it says of them, into the form that its model takes. */
import type { ModelFacts } from "../anthropic/model-facts.ts";
import { asFields, asText } from "../anthropic/usage.ts";
import type { Failure } from "../errors.ts";
import {
  type Block,
  bareName,
  type Draft,
  type Fields,
  FREE_FORM_FIELD,
  refuse,
  type ToolChoice,
  type ToolDraft,
} from "./draft.ts";
import { FittedNames } from "./fitted-names.ts";
import { betaFor } from "./hosted-tools.ts";
import { fitStrictly, noneStrict, type StrictUse } from "./strict-schema.ts";
import { fitSchema, MAX_JOINED_CHARS, type Room } from "./tool-schema.ts";

/** 400: "String should match pattern '^[a-zA-Z0-9_-]{1,128}$'". */
const MAX_NAME_CHARS = 128;

/**
 * Fits schemas, `strict` and names: those of the tools and, by the same rewriting, those in the choice and in the
 * history's calls. `draft.telling.tools` says afterwards what the client calls them.
 */
export function fitTools(draft: Draft, model: ModelFacts): Failure | null {
  const used = noneStrict();
  const room = { chars: MAX_JOINED_CHARS };
  for (const tool of draft.tools) {
    if (tool.definition) {
      const beta = betaFor(tool.definition);
      if (beta) draft.betas.add(beta);
    } else fitTool(tool, model, used, room);
  }
  fitNames(draft);
  return null;
}

function fitTool(tool: ToolDraft, model: ModelFacts, used: StrictUse, room: Room): void {
  const { schema, exact } = fitSchema(tool.schema ?? {}, room);
  // A model that is held to the merged schema could still write what the union forbids, so `strict` would promise too much.
  const strict = tool.strict === true && model.structuredOutputs && exact ? fitStrictly(schema, used) : null;
  tool.schema = strict ?? schema;
  tool.strict = strict === null ? null : true;
}

function fitNames(draft: Draft): void {
  const names = new FittedNames(MAX_NAME_CHARS);
  const fitted = new Map<string, string>();
  const freeForm = new Set<string>();
  // Who can keep his name does: first the built-in tools, whose names are fixed, then the client's, then the history's.
  for (const tool of draft.tools) if (tool.definition) names.claim(tool.name);
  for (const { definition, name } of draft.tools) if (!definition && names.claim(name)) fitted.set(name, name);
  for (const tool of draft.tools) {
    if (tool.definition) continue;
    const { name, freeForm: free, namespace } = tool;
    const called = fitted.get(name) ?? names.fit(namespace ? `${namespace}__${bareName(namespace, name)}` : name);
    fitted.set(name, called);
    tool.name = called;
    if (free) freeForm.add(name);
    const known = { name, freeForm: free, ...(namespace !== undefined && { namespace }) };
    if (called !== name || free) draft.telling.tools.set(called, known);
  }
  for (const tool of draft.tools) if (tool.definition && !fitted.has(tool.name)) fitted.set(tool.name, tool.name);
  draft.toolChoice = renamed(draft.toolChoice, fitted);
  for (const block of calls(draft)) {
    const name = asText(block.name) ?? "";
    const called = fitted.get(name) ?? names.fit(name);
    fitted.set(name, called);
    block.name = called;
    if (freeForm.has(name)) block.input = textInput(block.input);
  }
}

function* calls(draft: Draft): Generator<Block> {
  for (const { role, content } of draft.turns) {
    if (role !== "assistant") continue;
    for (const block of content) if (block.type === "tool_use") yield block;
  }
}

function renamed(choice: ToolChoice | null, fitted: ReadonlyMap<string, string>): ToolChoice | null {
  if (choice?.kind === "tool") return { ...choice, name: fitted.get(choice.name) ?? choice.name };
  if (choice?.kind === "allowed") return { ...choice, names: choice.names.map((name) => fitted.get(name) ?? name) };
  return choice;
}

/** A free-form tool was called with text; where that text was JSON, it has been read as such. */
function textInput(input: unknown): Fields {
  const fields = asFields(input) ?? {};
  return typeof fields[FREE_FORM_FIELD] === "string" ? fields : { [FREE_FORM_FIELD]: JSON.stringify(fields) };
}

/**
 * Leaves only the tools that may be called, and of the choice what the model takes: null, `any`, `tool` or `none`, or
 * `auto` where calls may not be parallel. After `fitTools`, and before thinking, which a forced call excludes.
 */
export function fitToolChoice(draft: Draft, model: ModelFacts): Failure | null {
  const choice = draft.toolChoice;
  if (draft.tools.length === 0) {
    draft.toolChoice = null;
    draft.parallelToolCalls = null;
    return null;
  }
  if (choice?.kind === "allowed") {
    if (!keepOnly(draft, choice.names)) return noSuchTool("None of the tools that 'tool_choice' allows is");
    draft.toolChoice = { kind: choice.must ? "any" : "auto" };
  } else if (choice?.kind === "tool") {
    if (!draft.tools.some((tool) => tool.name === choice.name)) {
      return noSuchTool(`The tool '${choice.name.slice(0, 128)}' of 'tool_choice' is not`);
    }
  }
  if (!model.forcedTools) relax(draft);
  if (draft.toolChoice?.kind === "none") draft.parallelToolCalls = null;
  else if (draft.parallelToolCalls === false) draft.toolChoice ??= { kind: "auto" };
  else if (draft.toolChoice?.kind === "auto") draft.toolChoice = null;
  return null;
}

/** Drops all tools but those named. False: nothing would be left. */
function keepOnly(draft: Draft, names: readonly string[]): boolean {
  const wanted = new Set(names);
  const kept = draft.tools.filter((tool) => wanted.has(tool.name));
  if (kept.length === 0) return false;
  draft.tools = kept;
  return true;
}

function noSuchTool(what: string): Failure {
  return refuse(`${what} among 'tools'.`, "tool_choice", "invalid_value");
}

/** As near to a forced call as a model gets that can't be forced: it may still answer without one. */
function relax(draft: Draft): void {
  const choice = draft.toolChoice;
  if (choice?.kind === "tool") keepOnly(draft, [choice.name]);
  if (choice?.kind === "tool" || choice?.kind === "any") draft.toolChoice = { kind: "auto" };
}
