/** JSON as the answer: a schema that the model is held to, or the wish for an object (OpenAI notes §3.6). */
import type { ModelFacts } from "../anthropic/model-facts.ts";
import { asFields } from "../anthropic/usage.ts";
import type { Failure } from "../errors.ts";
import { answerSchema, resolve } from "./answer-schema.ts";
import { type Draft, type Fields, type OutputFormat, refuse, type Step, type ToolDraft, toolDraft } from "./draft.ts";
import { mustCall } from "./tool-choice.ts";

const OBJECT_INSTRUCTION =
  "Answer with one valid JSON object and nothing else: no text before or after it, and no code fence around it.";
const TOOL_NAME = "json";
const TOOL_DESCRIPTION =
  "Gives the answer to the user. Call it once, when the answer is ready: its input is the whole answer.";
const PARAM_OF_OWN = "output_config.format.schema";

export const fitFormat: Step = (draft, model) => {
  const format = formatOf(draft);
  switch (format.kind) {
    case "text":
      return null;
    case "json_object":
      instruct(draft);
      return null;
    case "json_schema":
      return holdTo(draft, model, format.schema, format.param);
  }
};

/** The client's own `output_config.format`, where the request has none in OpenAI's words. */
function formatOf({ format, extra }: Draft): OutputFormat {
  if (format.kind !== "text") return format;
  const own = asFields(asFields(extra.output_config)?.format);
  const schema = asFields(own?.schema);
  return own?.type === "json_schema" && schema ? { kind: "json_schema", schema, param: PARAM_OF_OWN } : format;
}

/** Behind the client's own system text, so that what is cached of it stays. */
function instruct({ turns }: Draft): void {
  const first = turns.findIndex(({ role }) => role !== "system");
  const at = first === -1 ? turns.length : first;
  turns.splice(at, 0, { role: "system", content: [{ type: "text", text: OBJECT_INSTRUCTION }] });
}

function holdTo(draft: Draft, model: ModelFacts, schema: Fields, param: string): Failure | null {
  const fitted = answerSchema(schema);
  if (fitted.kind === "invalid") return refuse(`Invalid schema: it ${fitted.why}.`, param, "invalid_json_schema");
  if (fitted.kind === "schema" && model.structuredOutputs) {
    draft.body.outputConfig = { ...draft.body.outputConfig, format: { type: "json_schema", schema: fitted.schema } };
    return null;
  }
  const why = fitted.kind === "schema" ? "has no structured output" : `cannot be held to a schema that ${fitted.why}`;
  if (!model.forcedTools) return refuse(`The model \`${model.id}\` ${why}.`, param, "invalid_json_schema");
  const input = objectSchema(schema);
  if (!input) return refuse("Invalid schema: its root must be an object.", param, "invalid_json_schema");
  answerByTool(draft, input);
  return null;
}

/**
 * A schema that only a tool can express becomes one, which the model has to call. Where the client has tools of its own, the
 * model may call those first; where it must call one of them, no answer in JSON is wanted yet.
 */
function answerByTool(draft: Draft, schema: Fields): void {
  const { toolChoice: choice, tools } = draft;
  const callable = tools.length > 0 && choice?.kind !== "none";
  if (callable && mustCall(choice)) return;
  const name = freeName(tools);
  tools.push(toolDraft(name, { description: TOOL_DESCRIPTION, schema }));
  draft.telling.jsonTool = name;
  draft.parallelToolCalls = false;
  if (choice?.kind === "allowed") draft.toolChoice = { ...choice, names: [...choice.names, name], must: true };
  else draft.toolChoice = callable ? { kind: "any" } : { kind: "tool", name };
}

function freeName(tools: readonly ToolDraft[]): string {
  const taken = new Set(tools.map(({ name }) => name));
  let name = TOOL_NAME;
  while (taken.has(name)) name += "_";
  return name;
}

/** A tool's input is an object, and says so itself: what the root refers to is put in its place. */
function objectSchema(schema: Fields): Fields | null {
  let root = schema;
  const seen = new Set<string>();
  while (typeof root.$ref === "string" && !seen.has(root.$ref)) {
    seen.add(root.$ref);
    const { $ref, ...siblings } = root;
    root = { ...asFields(resolve(schema, root.$ref)), ...siblings };
  }
  const unions = ["anyOf", "oneOf", "allOf"].some((name) => Array.isArray(root[name]));
  return root.type === "object" || root.properties !== undefined || unions ? root : null;
}
