/** What a Chat and a Responses body say in the same words. */
import { ok, type Result } from "../../result.ts";
import { asFields, asText } from "../anthropic/usage.ts";
import type { Failure } from "../errors.ts";
import { type Draft, EFFORTS, type Fields, type OutputFormat } from "./draft.ts";
import type { FieldReader } from "./fields.ts";
import { MCP_BETA } from "./hosted-tools.ts";
import { readParallelToolCalls, readToolChoice } from "./tool-choice.ts";
import { readTools } from "./tools.ts";

/** No model has a longer name. */
const MAX_MODEL_CHARS = 256;
/** Of who asks, and of what ties calls together; OpenAI's own limits are shorter. Both are hashed, for which a body is too much. */
const MAX_NAME_CHARS = 1_024;

type Own = "turns" | "tools" | "toolChoice" | "maxTokens" | "stop" | "format" | "telling";

/** All that the two forms have in common but tools and what is said; what is wrong with it is the reader's failure. */
export function readShared(fields: FieldReader): Omit<Draft, Own> {
  return {
    model: readModel(fields),
    stream: fields.flag("stream") ?? false,
    temperature: fields.number("temperature"),
    topP: fields.number("top_p"),
    parallelToolCalls: readParallelToolCalls(fields),
    ...readEffort(fields),
    ...readIdentity(fields),
    ...readNative(fields.fields),
    body: {},
  };
}

export function readOffered(body: Fields): Result<Pick<Draft, "tools" | "toolChoice">, Failure> {
  const tools = readTools(body);
  if (!tools.ok) return tools;
  const toolChoice = readToolChoice(body);
  return toolChoice.ok ? ok({ tools: tools.value, toolChoice: toolChoice.value }) : toolChoice;
}

/** The tools whose input is plain text. */
export function freeFormNames(tools: Draft["tools"]): ReadonlySet<string> {
  return new Set(tools.filter(({ freeForm }) => freeForm).map(({ name }) => name));
}

/** The kind of a format, which must say it. */
export function readFormatKind(format: FieldReader): OutputFormat["kind"] {
  const kind = format.oneOf("type", ["text", "json_object", "json_schema"]);
  if (kind === null && Object.keys(format.fields).length > 0) format.missing("type");
  return kind ?? "text";
}

/** `stream_options.include_usage`, which Cursor also sends in Responses bodies. */
export function readIncludeUsage(fields: FieldReader): boolean {
  return fields.inner("stream_options").flag("include_usage") ?? false;
}

function readModel(fields: FieldReader): string {
  const model = fields.required("model");
  if (model.length > MAX_MODEL_CHARS) fields.refuse("model", `'model' is longer than ${MAX_MODEL_CHARS} characters.`);
  return model;
}

/** `reasoning_effort`, or the object `reasoning` that Cursor and OpenRouter's clients send. Who asks for it wants to see it. */
function readEffort(fields: FieldReader): Pick<Draft, "effort" | "showThinking"> {
  const reasoning = fields.inner("reasoning");
  const { enabled, summary, exclude } = reasoning.fields;
  const stated = fields.oneOf("reasoning_effort", EFFORTS) ?? reasoning.oneOf("effort", EFFORTS);
  const effort = stated ?? (enabled === false ? "none" : null);
  const asked = effort !== null || enabled === true || typeof summary === "string";
  return { effort, showThinking: asked && effort !== "none" && exclude !== true };
}

function readIdentity(fields: FieldReader): Pick<Draft, "user" | "serviceTier" | "conversation" | "caching"> {
  const { service_tier: tier, prompt_cache_options: caching, prompt_cache_key: key } = fields.fields;
  const metadata = asFields(fields.fields.metadata);
  const user = fields.text("safety_identifier") ?? fields.text("user") ?? asText(metadata?.user_id);
  if (user !== null && user.length > MAX_NAME_CHARS) {
    fields.refuse("user", `'user' is longer than ${MAX_NAME_CHARS} characters.`, "string_above_max_length");
  }
  const conversation = asText(metadata?.cursorConversationId) || asText(key) || "";
  return {
    user: user || null,
    serviceTier: tier === "auto" ? "auto" : tier === "default" || tier === "standard_only" ? "standard_only" : null,
    conversation: conversation !== "" && conversation.length <= MAX_NAME_CHARS ? conversation : null,
    caching: asFields(caching)?.mode === "explicit" ? "explicit" : "automatic",
  };
}

/** What a client can only have from Messages itself. A field of another type is somebody else's, and is passed over. */
function readNative(body: Fields): Pick<Draft, "extra" | "topK" | "betas"> {
  const { thinking, output_config: output, container, mcp_servers: servers, top_k: topK } = body;
  const extra: Draft["extra"] = {};
  if (typeof asFields(thinking)?.type === "string") extra.thinking = thinking;
  if (asFields(output)) extra.output_config = output;
  if ((typeof container === "string" && container !== "") || asFields(container)) extra.container = container;
  const betas = new Set<string>();
  if (Array.isArray(servers) && servers.length > 0 && servers.every(isServer)) {
    extra.mcp_servers = servers;
    betas.add(MCP_BETA);
  }
  return {
    extra,
    betas,
    topK: typeof topK === "number" && Number.isSafeInteger(topK) && topK > 0 ? topK : null,
  };
}

function isServer(written: unknown): boolean {
  const { type, name, url } = asFields(written) ?? {};
  return type === "url" && typeof name === "string" && typeof url === "string";
}
