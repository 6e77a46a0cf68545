/**
 * A version and a call become a Messages body. A value fills text inside of one block and nothing else: blocks, roles and
 * tools are the template's, and JSON is written once, at the end. The same version, variables and fields make the same
 * bytes, so that what is cached is found. Import it late: it brings Mustache and the validator along. Pure.
 */
import { err, ok, type Result } from "../result.ts";
import { asFields } from "../wire/anthropic/usage.ts";
import type { Failure } from "../wire/errors.ts";
import { wellFormedJson } from "../wire/json.ts";
import { constantPart, placeBreakpoint } from "./breakpoints.ts";
import { type Compiled, ready } from "./compile.ts";
import {
  type Content,
  type Fields,
  MAX_RENDERED_CHARS,
  type Message,
  mapMessages,
  mapSystem,
  type Version,
} from "./content.ts";
import { wrongFields } from "./operator.ts";
import { checkValues } from "./schema.ts";
import { Renderer, type Token, type Trouble } from "./text.ts";

export type Rendered = {
  /** The body of `POST /v1/messages`. */
  readonly body: Uint8Array;
  readonly template: string;
  readonly version: number;
};

/** As many as there may be variables; a list can have more wrong items. */
const MAX_TOLD = 500;
/** In this order, then the others by their names. What is cached stands in tools, system and messages. */
const FIRST = ["model", "max_tokens"];
const LAST = ["tools", "system", "messages"];
/** With one of these from the caller nothing of a prompt is as in other calls. */
const BRING_TOOLS = ["tools", "mcp_servers"];

/**
 * `variables`: what the caller gave, undefined for nothing. `fields`: the Messages fields of the call, without what names
 * the version (`readCall`). Everything that is wrong is told at once.
 */
export function render(version: Version, variables: unknown, fields: Fields): Result<Rendered, Failure> {
  const { content } = version;
  const compiled = ready(content);
  const problems = wrongFields(content, fields);
  const filled = fill(content, compiled, variables ?? {}, problems);
  if (problems.length > 0) return invalid(problems);
  const body = merged(content, filled, compiled, fields);
  const absent = FIRST.filter((name) => body[name] === undefined);
  if (!Array.isArray(body.messages) || body.messages.length === 0) absent.push("messages");
  if (absent.length > 0) return invalid(absent.map((name) => `${name}: Field required`));
  const bytes = new TextEncoder().encode(wellFormedJson(body));
  return ok({ body: bytes, template: version.template, version: version.version });
}

/** What a version says once its variables are filled in, before there is a call: what a conversation begins with. */
export type Prompt = Pick<Content, "model" | "max_tokens" | "system" | "messages" | "tools" | "defaults">;

/**
 * As `render`, without a call's fields. There is a breakpoint only where system goes on behind the constant part: whoever adds
 * turns places those at its end and in them.
 */
export function renderPrompt(version: Version, variables: unknown): Result<Prompt, Failure> {
  const { model, max_tokens, tools, defaults } = version.content;
  const problems: string[] = [];
  const compiled = ready(version.content);
  const { messages, ...filled } = fill(version.content, compiled, variables ?? {}, problems);
  if (problems.length > 0) return invalid(problems);
  const varies = variesIn(compiled.texts);
  const constant = constantPart(version.content, varies, null);
  const isMarked = varies("system") && asFields(defaults.cache_control) === undefined;
  const prompt = { tools, system: filled.system, messages: [] };
  const { system, tools: all } = isMarked ? placeBreakpoint(prompt, constant) : prompt;
  return ok({
    ...(model !== undefined && { model }),
    ...(max_tokens !== undefined && { max_tokens }),
    ...(system !== undefined && { system }),
    messages,
    ...(all !== undefined && { tools: all }),
    defaults,
  });
}

type Filled = {
  readonly system: Content["system"];
  readonly messages: readonly Message[];
};

function fill(content: Content, { variables, texts, meant }: Compiled, given: unknown, problems: string[]): Filled {
  const checked = checkValues(variables, given);
  if (!checked.values) {
    problems.push(...checked.problems);
    return { system: undefined, messages: [] };
  }
  const renderer = new Renderer(checked.values, MAX_RENDERED_CHARS);
  const found = new Set(checked.problems);
  // One that the schema has spoken of is not told twice.
  const told = new Set(checked.problems.map((problem) => problem.split(": ", 1)[0]?.replace(/\.\d+(?=\.|$)/g, ".*")));
  const trouble = (tag: Token, what: Trouble) => {
    const name = meant.get(tag) ?? `variables.${tag[1]}`;
    if (told.has(name)) return;
    found.add(`${name}: ${what === "absent" ? "is missing" : "must be a text, a number or a boolean"}`);
  };
  const text = (raw: string, path: string) => {
    const parsed = texts.get(path);
    return parsed ? renderer.render(parsed, trouble) : raw;
  };
  const filled = { system: mapSystem(content, text), messages: mapMessages(content, text) };
  if (renderer.isTooLarge) found.add(`the template must not become larger than ${MAX_RENDERED_CHARS} characters`);
  problems.push(...found);
  return filled;
}

/** The caller's fields over the template's own, and those over its defaults; the caller's messages come last. */
function merged(content: Content, filled: Filled, { texts }: Compiled, fields: Fields): Fields {
  const { model, max_tokens: maxTokens, tools, defaults } = content;
  const { messages: more, ...others } = fields;
  const body: Fields = {
    ...defaults,
    ...(model !== undefined && { model }),
    ...(maxTokens !== undefined && { max_tokens: maxTokens }),
    ...(tools !== undefined && { tools }),
    ...(filled.system !== undefined && { system: filled.system }),
    ...others,
    // As they are: upstream joins what two messages of one role say, and a block of a template's must not grow.
    messages: [...filled.messages, ...(Array.isArray(more) ? more : [])],
  };
  const isMarkedAsAWhole = asFields(body.cache_control) !== undefined;
  if (isMarkedAsAWhole) return inOrder(body);
  const ends = BRING_TOOLS.some((name) => fields[name] !== undefined)
    ? "tools"
    : fields.system !== undefined
      ? "system"
      : null;
  const constant = constantPart(content, variesIn(texts), ends);
  return inOrder({ ...body, ...placeBreakpoint(promptOf(body, filled.messages), constant) });
}

/** Whether a place, or one inside of it, holds a tag. */
function variesIn(texts: Compiled["texts"]): (path: string) => boolean {
  const varying = [...texts].flatMap(([path, parsed]) => (parsed.varies ? [path] : []));
  const prefixes = new Set(varying.flatMap(prefixesOf));
  return (path) => prefixes.has(path);
}

function promptOf(body: Fields, own: readonly Message[]) {
  const more = Array.isArray(body.messages) ? body.messages.slice(own.length) : [];
  return {
    ...(Array.isArray(body.tools) && { tools: body.tools }),
    ...((typeof body.system === "string" || Array.isArray(body.system)) && { system: body.system }),
    messages: [...own, ...more],
  };
}

/** `system`, `system.0` and `system.0.text` for the last. */
function prefixesOf(path: string): readonly string[] {
  const parts = path.split(".");
  return parts.map((_, i) => parts.slice(0, i + 1).join("."));
}

function inOrder(body: Fields): Fields {
  const others = Object.keys(body).filter((name) => !FIRST.includes(name) && !LAST.includes(name));
  const names = [...FIRST, ...others.sort(), ...LAST].filter((name) => body[name] !== undefined);
  return Object.fromEntries(names.map((name) => [name, body[name]]));
}

function invalid(problems: readonly string[]): Result<never, Failure> {
  const more = problems.length - MAX_TOLD;
  const told = more > 0 ? [...problems.slice(0, MAX_TOLD), `and ${more} more`] : problems;
  return err({ kind: "invalid_request", message: told.join("; ") });
}
