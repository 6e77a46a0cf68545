/**
 * What the Messages API refuses, as far as is known (wire notes; OpenAI notes §0 to §3): every rule that a translated body has to
 * keep, said once more and independently of the code that keeps them. The models' rules are written out here by name, not read
 * from the gateway's own table.
 */
type Fields = Readonly<Record<string, unknown>>;

const MIN_BUDGET = 1_024;
const MAX_BREAKPOINTS = 4;
const TOOL_NAME = /^[a-zA-Z0-9_-]{1,128}$/;
const TOOL_ID = /^[a-zA-Z0-9_-]+$/;
const EFFORTS = ["low", "medium", "high", "xhigh", "max"];
const FIELDS = new Set([
  "model",
  "max_tokens",
  "system",
  "messages",
  "tools",
  "tool_choice",
  "thinking",
  "output_config",
  "temperature",
  "top_p",
  "top_k",
  "stop_sequences",
  "stream",
  "cache_control",
  "metadata",
  "service_tier",
  "container",
  "mcp_servers",
]);

type ModelRules = {
  readonly sampling: boolean;
  readonly thinking: readonly string[];
  readonly efforts: readonly string[];
  readonly forced: boolean;
  readonly prefill: boolean;
  readonly systemTurns: boolean;
  readonly maxTokens: number;
};

/** OpenAI notes §0, line by line. */
function rulesOf(id: string): ModelRules {
  const model = id.replace(/-20\d{6}$/, "").replace("claude-", "");
  const newer = {
    sampling: false,
    efforts: EFFORTS,
    forced: true,
    prefill: false,
    systemTurns: true,
    maxTokens: 128_000,
  };
  const older = { sampling: true, forced: true, systemTurns: false };
  switch (model) {
    case "haiku-4-5":
    case "sonnet-4-5":
      return { ...older, thinking: ["enabled", "disabled"], efforts: [], prefill: true, maxTokens: 64_000 };
    case "opus-4-5":
      return { ...older, thinking: ["enabled"], efforts: EFFORTS.slice(0, 3), prefill: true, maxTokens: 64_000 };
    case "sonnet-4-6":
    case "opus-4-6":
      return {
        ...older,
        thinking: ["adaptive", "enabled", "disabled"],
        efforts: EFFORTS.filter((effort) => effort !== "xhigh"),
        prefill: false,
        maxTokens: 128_000,
      };
    case "opus-4-7":
    case "sonnet-5":
      return { ...newer, thinking: ["adaptive", "disabled"], systemTurns: false };
    case "sonnet-5-5":
      return { ...newer, thinking: ["adaptive", "between_tools"], forced: false };
    case "opus-5-5":
    case "fable-5-1":
    case "fable-5-2":
    case "mythos-5-1":
    case "mythos-5-2":
      return { ...newer, thinking: ["adaptive"], forced: false };
    case "fable-5":
    case "mythos-5":
      return { ...newer, thinking: ["adaptive"] };
    default:
      return { ...newer, thinking: ["adaptive", "disabled"] };
  }
}

/** Everything that the API would refuse about a body; empty: nothing. `version`: the API's, of the request's header. */
export function problemsOf(body: Fields, version: string): string[] {
  const rules = rulesOf(String(body.model));
  return [
    ...(/(?<!\\)(?:\\\\)*\\ud/.test(JSON.stringify(body)) ? ["no low surrogate in string"] : []),
    ...Object.keys(body)
      .filter((field) => !FIELDS.has(field))
      .map((field) => `${field}: extra input`),
    ...limits(body, rules),
    ...sampling(body, rules, version),
    ...thinking(body, rules),
    ...output(body, rules),
    ...tools(body, rules),
    ...breakpoints(body),
    ...system(body),
    ...turns(body, rules, version),
  ];
}

function limits({ max_tokens: max, stop_sequences: stops, service_tier: tier, metadata }: Fields, rules: ModelRules) {
  const wrong: string[] = [];
  if (!Number.isInteger(max) || Number(max) < 1) wrong.push("max_tokens: not a count");
  if (Number(max) > rules.maxTokens) wrong.push("max_tokens: more than the model writes");
  for (const stop of list(stops))
    if (typeof stop !== "string" || stop.trim() === "") wrong.push("stop_sequences: blank");
  if (tier !== undefined && tier !== "auto" && tier !== "standard_only") wrong.push("service_tier: unknown");
  const user = fields(metadata).user_id;
  if (metadata !== undefined && (typeof user !== "string" || user.includes("@")))
    wrong.push("metadata.user_id: not opaque");
  return wrong;
}

function sampling(
  { temperature, top_p: topP, top_k: topK, thinking: how }: Fields,
  rules: ModelRules,
  version: string,
) {
  const wrong: string[] = [];
  const given = [temperature, topP, topK].filter((value) => value !== undefined);
  if (given.length === 0) return wrong;
  if (version !== "2023-06-01") wrong.push(`sampling: extra inputs in ${version}`);
  if (!rules.sampling) wrong.push("sampling: not taken by the model");
  if (temperature !== undefined && topP !== undefined) wrong.push("sampling: temperature and top_p");
  for (const value of [temperature, topP]) {
    if (value !== undefined && !(typeof value === "number" && value >= 0 && value <= 1))
      wrong.push("sampling: range 0..1");
  }
  if (topK !== undefined && !(Number.isInteger(topK) && Number(topK) > 0)) wrong.push("top_k: not a count");
  const thinks = ["enabled", "adaptive"].includes(String(fields(how).type));
  if (thinks && (temperature !== undefined || topK !== undefined || Number(topP) < 0.95)) {
    wrong.push("sampling: not while thinking");
  }
  return wrong;
}

function thinking(body: Fields, rules: ModelRules): string[] {
  if (body.thinking === undefined) return [];
  const wrong: string[] = [];
  const { type, budget_tokens: budget, display, ...rest } = fields(body.thinking);
  if (!rules.thinking.includes(String(type))) wrong.push(`thinking.${type}: not supported for this model`);
  if (type === "enabled") {
    if (!Number.isInteger(budget) || Number(budget) < MIN_BUDGET) wrong.push("budget_tokens: less than 1024");
    if (Number(budget) >= Number(body.max_tokens)) wrong.push("budget_tokens: not below max_tokens");
    if (forces(body)) wrong.push("Thinking may not be enabled when tool_choice forces tool use.");
    if (endsBare(list(body.messages).map(fields))) wrong.push("Expected `thinking` or `redacted_thinking`");
  } else if (budget !== undefined) wrong.push("budget_tokens: extra input");
  if (display !== undefined && display !== "summarized" && display !== "omitted") wrong.push("display: unknown");
  if (display !== undefined && type !== "adaptive" && type !== "enabled") wrong.push("display: extra input");
  for (const field of Object.keys(rest)) if (field !== "block_binding") wrong.push(`thinking.${field}: extra input`);
  return wrong;
}

function endsBare(messages: readonly Fields[]): boolean {
  const content = list(messages.findLast(({ role }) => role === "assistant")?.content).map(fields);
  const thought = content.some(({ type }) => type === "thinking" || type === "redacted_thinking");
  const prefill = messages.findLast(({ role }) => role !== "system")?.role === "assistant";
  return prefill || (!thought && content.some(({ type }) => type === "tool_use"));
}

function output(body: Fields, rules: ModelRules): string[] {
  if (body.output_config === undefined) return [];
  const wrong: string[] = [];
  const { effort, format, ...rest } = fields(body.output_config);
  if (effort !== undefined && !rules.efforts.includes(String(effort))) wrong.push(`effort ${effort}: not supported`);
  const off = ["disabled", "between_tools"].includes(String(fields(body.thinking).type));
  if (off && (effort === "xhigh" || effort === "max")) wrong.push("effort: above high without thinking");
  if (format !== undefined && fields(format).type !== "json_schema") wrong.push("format: unknown type");
  if (format !== undefined) wrong.push(...openObjects(fields(format).schema, "schema"));
  for (const field of Object.keys(rest)) wrong.push(`output_config.${field}: extra input`);
  return wrong;
}

/** Keywords of JSON Schema that structured output takes. */
const KEYWORDS = new Set([
  "type",
  "properties",
  "required",
  "additionalProperties",
  "items",
  "minItems",
  "enum",
  "const",
  "anyOf",
  "allOf",
  "$ref",
  "$defs",
  "description",
  "title",
  "format",
]);

function openObjects(value: unknown, at: string): string[] {
  const schema = fields(value);
  const wrong = Object.keys(schema)
    .filter((keyword) => !KEYWORDS.has(keyword))
    .map((keyword) => `${at}.${keyword}: not supported`);
  if (schema.type === "object" && schema.additionalProperties !== false) wrong.push(`${at}: an open object`);
  if (![0, 1, undefined].some((count) => count === schema.minItems)) wrong.push(`${at}.minItems: only 0 or 1`);
  const inner = [
    ...Object.entries(fields(schema.properties)),
    ...Object.entries(fields(schema.$defs)),
    ...Object.entries({ items: schema.items }).filter(([, items]) => items !== undefined),
    ...[...list(schema.anyOf), ...list(schema.allOf)].entries(),
  ];
  return [...wrong, ...inner.flatMap(([name, one]) => openObjects(one, `${at}.${name}`))];
}

function tools(body: Fields, rules: ModelRules): string[] {
  const wrong: string[] = [];
  const names = new Set<unknown>();
  for (const tool of list(body.tools).map(fields)) {
    const own = tool.type === undefined || tool.type === "custom";
    if (own && !TOOL_NAME.test(String(tool.name))) wrong.push(`tools: the name ${JSON.stringify(tool.name)}`);
    if (tool.name !== undefined && names.has(tool.name)) wrong.push("tools: names must be unique");
    names.add(tool.name);
    const schema = fields(tool.input_schema);
    if (own && schema.type !== "object") wrong.push("input_schema.type: must be object");
    if (own && ["oneOf", "anyOf", "allOf"].some((name) => schema[name] !== undefined))
      wrong.push("input_schema: root union");
  }
  const choice = fields(body.tool_choice);
  if (body.tools !== undefined && list(body.tools).length === 0) wrong.push("tools: empty");
  if (body.tool_choice === undefined) return wrong;
  if (names.size === 0) wrong.push("tool_choice: may only be specified while providing tools");
  if (!["auto", "any", "tool", "none"].includes(String(choice.type))) wrong.push("tool_choice: unknown type");
  if (choice.type === "tool" && !names.has(choice.name)) wrong.push("tool_choice: not among the tools");
  if (choice.type === "none" && choice.disable_parallel_tool_use !== undefined)
    wrong.push("tool_choice.none: extra input");
  if (forces(body) && !rules.forced) wrong.push("tool_choice: forced tool use is not supported for this model");
  return wrong;
}

function forces(body: Fields): boolean {
  const { type } = fields(body.tool_choice);
  return type === "any" || type === "tool";
}

function breakpoints(body: Fields): string[] {
  const wrong: string[] = [];
  let count = 0;
  const walk = (value: unknown): void => {
    if (Array.isArray(value)) for (const item of value) walk(item);
    else if (typeof value === "object" && value !== null) {
      const { cache_control: control, type, content } = value as Fields;
      if (control !== undefined) {
        count++;
        const { type: kind, ttl } = fields(control);
        if (kind !== "ephemeral" || ![undefined, "5m", "1h"].some((one) => one === ttl))
          wrong.push("cache_control: unknown");
        if (type === "thinking" || type === "redacted_thinking") wrong.push("cache_control: on thinking");
      }
      walk(content);
    }
  };
  for (const part of [body.tools, body.system, body.messages, { cache_control: body.cache_control }]) walk(part);
  if (count > MAX_BREAKPOINTS) wrong.push(`cache_control: ${count} breakpoints`);
  return wrong;
}

function system(body: Fields): string[] {
  if (body.system === undefined || typeof body.system === "string") return [];
  const blocks = list(body.system).map(fields);
  if (blocks.length === 0) return ["system: empty"];
  return blocks.flatMap(({ type, text }) =>
    type === "text" && !isBlank(text) ? [] : ["system: only text that is not blank"],
  );
}

function turns(body: Fields, rules: ModelRules, version: string): string[] {
  const wrong: string[] = [];
  const messages = list(body.messages).map(fields);
  if (messages.length === 0) wrong.push("messages: at least one message is required");
  let open = new Set<unknown>();
  let before: unknown;
  const ids = new Set<unknown>();
  for (const [i, { role, content }] of messages.entries()) {
    const at = `messages.${i}`;
    const blocks = list(content).map(fields);
    if (blocks.length === 0) wrong.push(`${at}: must have non-empty content`);
    if (blocks.some(({ type, text }) => type === "text" && isBlank(text))) wrong.push(`${at}: blank text`);
    if (role === "system") {
      wrong.push(...systemTurn(messages, i, rules));
      continue;
    }
    if (role !== "user" && role !== "assistant") wrong.push(`${at}.role: unknown`);
    if (role === before) wrong.push(`${at}: two turns of the ${role}`);
    before = role;
    const results = blocks.filter(({ type }) => type === "tool_result").map((block) => block.tool_use_id);
    const last = blocks.findLastIndex(({ type }) => type === "tool_result");
    if (blocks.slice(0, Math.max(0, last)).some(({ type }) => type !== "tool_result"))
      wrong.push(`${at}: something before a result`);
    const answered = new Set(results);
    if (answered.size !== results.length) wrong.push(`${at}: two results of one call`);
    for (const id of results) if (!open.has(id)) wrong.push(`${at}: a result without its call`);
    for (const id of open) if (!answered.has(id)) wrong.push(`${at}: a call without its result`);
    open = new Set(blocks.filter(({ type }) => type === "tool_use").map(({ id }) => id));
    for (const id of open) {
      if (!TOOL_ID.test(String(id))) wrong.push(`${at}: the id ${JSON.stringify(id)}`);
      if (ids.has(id)) wrong.push(`${at}: the id ${JSON.stringify(id)} twice`);
      ids.add(id);
    }
    wrong.push(...blocks.flatMap((block) => oneBlock(block, role, version)).map((problem) => `${at}: ${problem}`));
  }
  const last = messages.findLast(({ role }) => role !== "system");
  if (last?.role === "assistant" && !rules.prefill) wrong.push("messages: must end with a user message");
  const end = fields(list(last?.content).at(-1)).text;
  if (last?.role === "assistant" && typeof end === "string" && end !== end.trimEnd())
    wrong.push("messages: prefill ends in space");
  if (open.size > 0) wrong.push("messages: ends with calls");
  return wrong;
}

function systemTurn(messages: readonly Fields[], i: number, rules: ModelRules): string[] {
  const wrong: string[] = [];
  if (!rules.systemTurns) wrong.push(`messages.${i}: system turns are not taken by the model`);
  const [before, after] = [messages[i - 1], messages[i + 1]];
  const server = fields(list(before?.content).at(-1)).type;
  const afterServer = before?.role === "assistant" && typeof server === "string" && server.endsWith("_tool_result");
  if (before?.role !== "user" && !afterServer) wrong.push(`messages.${i}: role 'system' must follow a 'user' message`);
  if (after && after.role !== "assistant")
    wrong.push(`messages.${i}: role 'system' must precede an 'assistant' message`);
  if (list(messages[i]?.content).some((block) => fields(block).type !== "text")) wrong.push(`messages.${i}: only text`);
  return wrong;
}

function oneBlock(block: Fields, role: unknown, version: string): string[] {
  const wrong: string[] = [];
  const { type } = block;
  if (type === "tool_use" && role !== "assistant") wrong.push("tool_use of the user");
  if (type === "tool_use" && (typeof block.input !== "object" || block.input === null || Array.isArray(block.input))) {
    wrong.push("tool_use.input: not an object");
  }
  if (type === "tool_use" && !TOOL_NAME.test(String(block.name))) wrong.push("tool_use.name");
  if (type === "tool_result" && role !== "user") wrong.push("tool_result of the assistant");
  if (type === "tool_result" && Array.isArray(block.content) && block.content.length === 0)
    wrong.push("tool_result: empty list");
  if (type === "thinking" && typeof block.signature !== "string") wrong.push("thinking without a signature");
  if (type === "document" && role === "assistant" && version !== "2023-06-01") wrong.push("document of the assistant");
  if (type === "image" && role === "assistant") wrong.push("image of the assistant");
  return wrong;
}

function isBlank(text: unknown): boolean {
  return typeof text !== "string" || text.trim() === "";
}

function fields(value: unknown): Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Fields) : {};
}

/** A text is one block. */
function list(value: unknown): readonly unknown[] {
  if (typeof value === "string") return [{ type: "text", text: value }];
  return Array.isArray(value) ? value : [];
}
