/** Which tools a client wants called: OpenAI's `tool_choice` in both envelopes, Anthropic's, and `function_call` of old. */
import { err, ok, type Result } from "../../result.ts";
import { asFields, asText } from "../anthropic/usage.ts";
import type { Failure } from "../errors.ts";
import { type Fields, inNamespace, refuse, type ToolChoice } from "./draft.ts";
import type { FieldReader } from "./fields.ts";
import { hostedToolName } from "./hosted-tools.ts";

const WORDS: ReadonlyMap<unknown, ToolChoice> = new Map([
  ["auto", { kind: "auto" }],
  ["none", { kind: "none" }],
  ["required", { kind: "any" }],
  ["any", { kind: "any" }],
]);

/** `tool_choice`, or `function_call` where the tools are `functions`. Null: the client says nothing. */
export function readToolChoice(body: Fields): Result<ToolChoice | null, Failure> {
  const param = (body.tool_choice ?? null) === null && (body.tools ?? null) === null ? "function_call" : "tool_choice";
  const written = body[param] ?? null;
  if (written === null) return ok(null);
  const choice = WORDS.get(written) ?? choiceOf(asFields(written));
  return choice ? ok(choice) : err(refuse(`Invalid value for '${param}'.`, param, "invalid_value"));
}

function choiceOf(choice: Fields | undefined): ToolChoice | null {
  if (!choice) return null;
  if (choice.type === "allowed_tools") return allowedOf(asFields(choice.allowed_tools) ?? choice);
  const name = nameIn(choice);
  if (name !== null) return { kind: "tool", name };
  // A word, as Anthropic writes it, with nothing else that matters here.
  return WORDS.get(choice.type) ?? null;
}

function allowedOf({ mode, tools }: Fields): ToolChoice | null {
  if (!Array.isArray(tools) || (mode !== undefined && mode !== "auto" && mode !== "required")) return null;
  const names = tools.map((each) => nameIn(asFields(each) ?? {})).filter((name) => name !== null);
  return { kind: "allowed", names, must: mode === "required" };
}

/** The tool that one is about: `{function: {name}}`, `{custom: {name}}`, `{name}`, or a hosted type. */
function nameIn(tool: Fields): string | null {
  const name = asText(asFields(tool.function)?.name) ?? asText(asFields(tool.custom)?.name) ?? asText(tool.name);
  if (name !== null) return typeof tool.namespace === "string" ? inNamespace(tool.namespace, name) : name;
  return typeof tool.type === "string" ? hostedToolName(tool.type) : null;
}

/** `parallel_tool_calls`, or what Anthropic's `tool_choice` says of it. */
export function readParallelToolCalls(fields: FieldReader): boolean | null {
  const disabled = asFields(fields.fields.tool_choice)?.disable_parallel_tool_use;
  return fields.flag("parallel_tool_calls") ?? (typeof disabled === "boolean" ? !disabled : null);
}

/** Whether the model has to call some tool. */
export function mustCall(choice: ToolChoice | null): boolean {
  return choice?.kind === "any" || choice?.kind === "tool" || (choice?.kind === "allowed" && choice.must);
}
