/**
 * Usage as Claude reports it, brought into one shape. Rules: wire notes §4.4 and §5.2. Counters of a stream are
 * cumulative, so a later one replaces an earlier one; the 5 m / 1 h split of cache writes stands in `message_start`
 * alone, their total in the last `message_delta`.
 */

/** Token counts above this are no counts. The largest context is 1,000,000 tokens. */
const MAX_PLAUSIBLE_COUNT = 1_000_000_000;

/** Tokens, calls and price conditions of one answer. */
export type Usage = {
  /** Input tokens neither written to nor read from the prompt cache. */
  inputTokens: number;
  /** Thinking tokens included. */
  outputTokens: number;
  cacheWrite5mTokens: number;
  cacheWrite1hTokens: number;
  cacheReadTokens: number;
  thinkingTokens: number;
  webSearchRequests: number;
  webFetchRequests: number;
  serviceTier: string | null;
  inferenceGeo: string | null;
  speed: string | null;
  /** Passes that are billed beside the top-level counters (beta `iterations` of type `compaction`). */
  extraPasses: Pass[];
  /** Some count was missing, absurd or guessed. */
  estimated: boolean;
};

/** Tokens of one pass over a model. */
export type Pass = {
  model: string | null;
  inputTokens: number;
  outputTokens: number;
  cacheWrite5mTokens: number;
  cacheWrite1hTokens: number;
  cacheReadTokens: number;
};

type Fields = Readonly<Record<string, unknown>>;

export function emptyUsage(): Usage {
  return {
    inputTokens: 0,
    outputTokens: 0,
    cacheWrite5mTokens: 0,
    cacheWrite1hTokens: 0,
    cacheReadTokens: 0,
    thinkingTokens: 0,
    webSearchRequests: 0,
    webFetchRequests: 0,
    serviceTier: null,
    inferenceGeo: null,
    speed: null,
    extraPasses: [],
    estimated: false,
  };
}

/** Lays a `usage` object of a Message, a `message_start` or a `message_delta` over what is known. Never throws. */
export function applyUsage(usage: Usage, reported: unknown): void {
  const fields = asFields(reported);
  if (!fields) {
    usage.estimated = true;
    return;
  }
  const count = (source: Fields, name: string, before: number): number => {
    const value = source[name];
    if (value === undefined || value === null) return before;
    if (isCount(value)) return value;
    usage.estimated = true;
    return before;
  };
  usage.inputTokens = count(fields, "input_tokens", usage.inputTokens);
  usage.outputTokens = count(fields, "output_tokens", usage.outputTokens);
  usage.cacheReadTokens = count(fields, "cache_read_input_tokens", usage.cacheReadTokens);

  const split = asFields(fields.cache_creation);
  if (split) usage.cacheWrite1hTokens = count(split, "ephemeral_1h_input_tokens", usage.cacheWrite1hTokens);
  if (split) usage.cacheWrite5mTokens = count(split, "ephemeral_5m_input_tokens", usage.cacheWrite5mTokens);
  const written = usage.cacheWrite5mTokens + usage.cacheWrite1hTokens;
  const total = count(fields, "cache_creation_input_tokens", written);
  if (total !== written) {
    // Without a split for them, writes are of the five-minute kind (wire notes §5.4).
    usage.cacheWrite1hTokens = Math.min(usage.cacheWrite1hTokens, total);
    usage.cacheWrite5mTokens = total - usage.cacheWrite1hTokens;
  }

  const details = asFields(fields.output_tokens_details);
  if (details) usage.thinkingTokens = count(details, "thinking_tokens", usage.thinkingTokens);
  const tools = asFields(fields.server_tool_use);
  if (tools) {
    usage.webSearchRequests = count(tools, "web_search_requests", usage.webSearchRequests);
    usage.webFetchRequests = count(tools, "web_fetch_requests", usage.webFetchRequests);
  }
  usage.serviceTier = asText(fields.service_tier) ?? usage.serviceTier;
  usage.inferenceGeo = asText(fields.inference_geo) ?? usage.inferenceGeo;
  usage.speed = asText(fields.speed) ?? usage.speed;
  if (Array.isArray(fields.iterations)) usage.extraPasses = fields.iterations.flatMap(extraPass);
}

function extraPass(iteration: unknown): Pass[] {
  const fields = asFields(iteration);
  if (fields?.type !== "compaction") return [];
  const pass = emptyUsage();
  applyUsage(pass, { ...fields, iterations: undefined });
  return [{ model: asText(fields.model), ...tokensOf(pass) }];
}

/** The five counters that have a price per token. */
export function tokensOf(usage: Usage): Omit<Pass, "model"> {
  const { inputTokens, outputTokens, cacheWrite5mTokens, cacheWrite1hTokens, cacheReadTokens } = usage;
  return { inputTokens, outputTokens, cacheWrite5mTokens, cacheWrite1hTokens, cacheReadTokens };
}

export function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= MAX_PLAUSIBLE_COUNT;
}

/** The value as an object to read fields of, or undefined. */
export function asFields(value: unknown): Fields | undefined {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Fields) : undefined;
}

export function asText(value: unknown): string | null {
  return typeof value === "string" ? value : null;
}
