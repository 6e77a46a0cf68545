/** What the API refuses, in the order it looks, with its wordings where they are known (wire notes §2.2, §3, §5.1). */
import { type ApiError, invalid } from "./errors.ts";
import { asFields, asList, asText, blocksOf, type Fields } from "./json.ts";
import { type Model, takesAdaptive, takesBetweenTools, takesBudget, takesPrefill, takesSampling } from "./models.ts";

const VERSIONS = ["2023-06-01", "2026-10-21"] as const;
export type Version = (typeof VERSIONS)[number];

/** The value of the `anthropic-version` header. */
export function asVersion(text: string | null): Version | ApiError {
  if (text === null) return invalid("anthropic-version: header is required");
  return VERSIONS.find((known) => known === text) ?? invalid(`anthropic-version: "${text}" is not a valid version`);
}

const MAX_MESSAGES = 100_000;
const MIN_THINKING_BUDGET = 1024;
const TOOL_NAME = /^[a-zA-Z0-9_-]{1,128}$/;
const THINKING_TYPES = ["adaptive", "between_tools", "disabled", "enabled"];
const ROLES = ["user", "assistant", "system"];

/** The first thing wrong with the fields that count_tokens and Messages share; undefined when all is well. */
export function validatePrompt(body: Fields, version: Version, model: Model): ApiError | undefined {
  return (
    validateMessages(body, version) ?? validateTools(body) ?? validateSystem(body) ?? validateThinking(body, model)
  );
}

/** The same for the fields of Messages alone. */
export function validateSampling(body: Fields, version: Version, model: Model): ApiError | undefined {
  const { max_tokens: maxTokens } = body;
  if (maxTokens === undefined) return invalid("max_tokens: Field required");
  if (!Number.isInteger(maxTokens)) return invalid("max_tokens: Input should be a valid integer");
  const limit = maxTokens as number;
  if (limit < 0) return invalid("max_tokens: Input should be greater than or equal to 0");
  if (limit > model.maxOutputTokens) {
    return invalid(
      `max_tokens: ${limit} > ${model.maxOutputTokens}, which is the maximum allowed number of output tokens for ${model.id}`,
    );
  }
  if (body.stream !== undefined && typeof body.stream !== "boolean") {
    return invalid("stream: Input should be a valid boolean");
  }
  for (const [name, neutral] of [
    ["temperature", 1],
    ["top_p", 1],
    ["top_k", undefined],
  ] as const) {
    const value = body[name];
    if (value === undefined) continue;
    if (version === "2026-10-21") return invalid(`\`${name}\` is not supported`);
    if (typeof value !== "number") return invalid(`${name}: Input should be a valid number`);
    if (!takesSampling(model) && value !== neutral) return invalid(`\`${name}\` is not supported on ${model.id}`);
    if (name !== "top_k" && (value < 0 || value > 1)) return invalid(`${name}: range: 0..1`);
  }
  const stops = body.stop_sequences;
  if (stops !== undefined && !Array.isArray(stops)) return invalid("stop_sequences: Input should be a valid list");
  for (const stop of asList(stops)) {
    if (typeof stop !== "string") return invalid("stop_sequences: Input should be a valid string");
    if (stop.trim() === "") return invalid("stop_sequences: each stop sequence must contain non-whitespace");
  }
  const messages = asList(body.messages) as readonly Fields[];
  const last = messages.findLast((message) => message.role !== "system");
  // An answer that has paused is sent back as it is, and gone on with.
  const paused = last?.role === "assistant" && blocksOf(last.content).at(-1)?.type === "server_tool_use";
  if (last?.role === "assistant" && !paused && !takesPrefill(model)) {
    return invalid(
      "This model does not support assistant message prefill. The conversation must end with a user message.",
    );
  }
  if (last?.role === "assistant" && /\s$/.test(asText(blocksOf(last.content).at(-1)?.text) ?? "")) {
    return invalid("messages: final assistant content cannot end with trailing whitespace");
  }
  const budget = asFields(body.thinking)?.budget_tokens;
  if (typeof budget === "number" && budget >= limit) {
    return invalid("`max_tokens` must be greater than `thinking.budget_tokens`.");
  }
  return undefined;
}

function validateMessages(body: Fields, version: Version): ApiError | undefined {
  const { messages } = body;
  if (messages === undefined) return invalid("messages: Field required");
  if (!Array.isArray(messages)) return invalid("messages: Input should be a valid list");
  if (messages.length === 0) return invalid("messages: at least one message is required");
  if (messages.length > MAX_MESSAGES) return invalid(`messages: List should have at most ${MAX_MESSAGES} items`);
  let open: string[] = [];
  let openAt = 0;
  for (const [i, item] of messages.entries()) {
    const message = asFields(item);
    if (!message) return invalid(`messages.${i}: Input should be a valid dictionary`);
    if (message.role === undefined) return invalid(`messages.${i}.role: Field required`);
    if (!ROLES.includes(asText(message.role) ?? "")) {
      return invalid(`messages.${i}.role: Input should be 'user', 'assistant' or 'system'`);
    }
    if (message.content === undefined) return invalid(`messages.${i}.content: Field required`);
    if (typeof message.content !== "string" && !Array.isArray(message.content)) {
      return invalid(`messages.${i}.content: Input should be a valid string or list`);
    }
    const blocks = blocksOf(message.content);
    const final = i === messages.length - 1 && message.role === "assistant";
    if (!final && (blocks.length === 0 || message.content === "")) {
      return invalid(
        `messages.${i}: all messages must have non-empty content except for the optional final assistant message`,
      );
    }
    const wrong = validateBlocks(blocks, i, message, version);
    if (wrong) return wrong;
    if (message.role === "system") continue;
    const results = blocks.flatMap((block) => (block.type === "tool_result" ? (asText(block.tool_use_id) ?? "") : []));
    const stray = results.find((id) => !open.includes(id));
    if (stray !== undefined) {
      return invalid(
        `messages.${i}.content.${blocks.findIndex((block) => block.tool_use_id === stray)}: unexpected \`tool_use_id\` found in \`tool_result\` blocks: ${stray}. Each \`tool_result\` block must have a corresponding \`tool_use\` block in the previous message.`,
      );
    }
    const missing = open.filter((id) => !results.includes(id));
    if (missing.length > 0) {
      return invalid(
        `messages.${openAt}: \`tool_use\` ids were found without \`tool_result\` blocks immediately after: ${missing.join(", ")}. Each \`tool_use\` block must have a corresponding \`tool_result\` block in the next message.`,
      );
    }
    open = blocks.flatMap((block) => (block.type === "tool_use" ? (asText(block.id) ?? "") : []));
    openAt = i;
  }
  return undefined;
}

function validateBlocks(blocks: readonly Fields[], i: number, message: Fields, version: Version): ApiError | undefined {
  for (const [j, block] of blocks.entries()) {
    const at = `messages.${i}.content.${j}`;
    if (typeof block.type !== "string") return invalid(`${at}.type: Field required`);
    if (block.type === "text") {
      if (typeof block.text !== "string") return invalid(`${at}.text.text: Field required`);
      if (block.text === "" && Array.isArray(message.content)) {
        return invalid("messages: text content blocks must be non-empty");
      }
      if (version === "2026-10-21" && message.role === "user" && asList(block.citations).length > 0) {
        return invalid(`${at}.citations: citations are not allowed on text blocks of a user message`);
      }
    }
    if (block.type === "document" && message.role === "assistant" && version === "2026-10-21") {
      return invalid(`${at}: document blocks are not allowed in assistant messages`);
    }
    if (block.type === "tool_use") {
      for (const name of ["id", "name", "input"]) {
        if (block[name] === undefined) return invalid(`${at}.tool_use.${name}: Field required`);
      }
    }
    if (block.type === "tool_result" && typeof block.tool_use_id !== "string") {
      return invalid(`${at}.tool_result.tool_use_id: Field required`);
    }
    if (block.type === "thinking" && typeof block.signature !== "string") {
      return invalid(`${at}.thinking.signature: Field required`);
    }
  }
  return undefined;
}

function validateTools(body: Fields): ApiError | undefined {
  if (body.tools !== undefined && !Array.isArray(body.tools)) return invalid("tools: Input should be a valid list");
  const names = new Set<string>();
  for (const [i, item] of asList(body.tools).entries()) {
    const tool = asFields(item);
    if (!tool) return invalid(`tools.${i}: Input should be a valid dictionary`);
    const custom = tool.type === undefined || tool.type === "custom";
    const name = asText(tool.name);
    if (custom && name === undefined) return invalid(`tools.${i}.custom.name: Field required`);
    if (custom && !TOOL_NAME.test(name ?? "")) {
      return invalid(`tools.${i}.custom.name: String should match pattern '^[a-zA-Z0-9_-]{1,128}$'`);
    }
    if (custom && !asFields(tool.input_schema)) return invalid(`tools.${i}.custom.input_schema: Field required`);
    if (custom && asFields(tool.input_schema)?.type !== "object") {
      return invalid(`tools.${i}.custom.input_schema.type: Input should be 'object'`);
    }
    if (name !== undefined && names.has(name)) return invalid("tools: Tool names must be unique.");
    if (name !== undefined) names.add(name);
  }
  const choice = asFields(body.tool_choice);
  if (!choice) return undefined;
  if (!["auto", "any", "tool", "none"].includes(asText(choice.type) ?? "")) {
    return invalid("tool_choice.type: Input should be 'auto', 'any', 'tool' or 'none'");
  }
  if (names.size === 0 && asList(body.tools).length === 0) {
    return invalid("tool_choice: may only be specified while providing tools.");
  }
  if (choice.type === "tool" && !names.has(asText(choice.name) ?? "")) {
    return invalid(`tool_choice: Tool '${choice.name}' not found in provided tools`);
  }
  const thinks = ["enabled", "adaptive"].includes(asText(asFields(body.thinking)?.type) ?? "");
  if (thinks && (choice.type === "any" || choice.type === "tool")) {
    return invalid("Thinking may not be enabled when tool_choice forces tool use.");
  }
  return undefined;
}

function validateSystem({ system }: Fields): ApiError | undefined {
  if (system === undefined || typeof system === "string") return undefined;
  if (!Array.isArray(system)) return invalid("system: Input should be a valid string or list");
  for (const [i, block] of system.entries()) {
    if (asFields(block)?.type !== "text") return invalid(`system.${i}.type: Input should be 'text'`);
    if (typeof asFields(block)?.text !== "string") return invalid(`system.${i}.text: Field required`);
  }
  return undefined;
}

function validateThinking(body: Fields, model: Model): ApiError | undefined {
  const thinking = asFields(body.thinking);
  if (!thinking) return undefined;
  if (thinking.type === "enabled") {
    if (!takesBudget(model)) {
      return invalid(
        '"thinking.type.enabled" is not supported for this model. Use "thinking.type.adaptive" and "output_config.effort" to control thinking behavior.',
      );
    }
    if (!Number.isInteger(thinking.budget_tokens)) return invalid("thinking.enabled.budget_tokens: Field required");
    if ((thinking.budget_tokens as number) < MIN_THINKING_BUDGET) {
      return invalid(`thinking.enabled.budget_tokens: Input should be greater than or equal to ${MIN_THINKING_BUDGET}`);
    }
    return undefined;
  }
  if (thinking.type === "adaptive" && !takesAdaptive(model)) {
    return invalid("adaptive thinking is not supported on this model");
  }
  if (thinking.type === "between_tools" && !takesBetweenTools(model)) {
    return invalid('"thinking.type.between_tools" is not supported for this model.');
  }
  if (!THINKING_TYPES.includes(asText(thinking.type) ?? "")) {
    return invalid(`thinking.type: Input should be ${THINKING_TYPES.map((type) => `'${type}'`).join(", ")}`);
  }
  return undefined;
}
