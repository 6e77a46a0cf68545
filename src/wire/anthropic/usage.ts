/**
 * Usage as Claude reports it, brought into one shape. Rules: wire notes §4.4 and §5.2. Counters of a stream are
 * cumulative, so a later one replaces an earlier one, larger or smaller; one that is absent or null says nothing; an
 * explicit 0 is believed. The 5 m / 1 h split of cache writes stands in `message_start` alone, their total in the last
 * `message_delta`. What can't be a count (negative, fractional, text, absurdly large) is passed over: the last good
 * value stays, and the usage is marked as estimated.
 */

/** Token counts above this are no counts. The largest context is 1,000,000 tokens. */
const MAX_PLAUSIBLE_COUNT = 1_000_000_000;

/** The five counters that have a price per token. */
export const TOKEN_KINDS = [
  "inputTokens",
  "outputTokens",
  "cacheWrite5mTokens",
  "cacheWrite1hTokens",
  "cacheReadTokens",
] as const;
type Tokens = { [K in (typeof TOKEN_KINDS)[number]]: number };

/** Tokens, calls and price conditions of one answer. */
export type Usage = Tokens & {
  // inputTokens: neither written to nor read from the prompt cache. outputTokens: thinking included.
  /** Never more than the output tokens. */
  thinkingTokens: number;
  webSearchRequests: number;
  webFetchRequests: number;
  serviceTier: string | null;
  inferenceGeo: string | null;
  speed: string | null;
  /** Passes that are billed beside the top-level counters (beta `iterations`: compaction, advisor). */
  extraPasses: Pass[];
  /**
   * The passes inside the top-level counters, where the message went from one model to another on the way (beta
   * `iterations` with a `fallback_message`), each billed as its own model; the last one served the answer. Else empty.
   */
  hops: Pass[];
  /** Some count was missing, absurd or guessed. */
  estimated: boolean;
  /** What upstream has said so far. */
  readonly stated: Stated;
};

type Stated = {
  /** Whether a number of input or output tokens was among it: a 0 that was never stated is no 0. */
  input: boolean;
  output: boolean;
  thinking: number;
  /** Cache writes: the last split, and the last total, where it is newer than the split or came with it. */
  write5m: number;
  write1h: number;
  writes: number | null;
};

/** Tokens of one pass over a model; null: the message's own. */
export type Pass = Tokens & { model: string | null };

/** The members of a JSON object. */
export type Fields = Readonly<Record<string, unknown>>;

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
    hops: [],
    estimated: false,
    stated: { input: false, output: false, thinking: 0, write5m: 0, write1h: 0, writes: null },
  };
}

/** Lays a `usage` object of a Message, a `message_start` or a `message_delta` over what is known. Never throws. */
export function applyUsage(usage: Usage, reported: unknown): void {
  const fields = asFields(reported);
  if (!fields) {
    usage.estimated = true;
    return;
  }
  const stated = (source: Fields, name: string): number | null => {
    const value = source[name];
    if (value === undefined || value === null) return null;
    // Adding 0 turns the -0 that JSON can write into 0.
    if (isCount(value)) return value + 0;
    usage.estimated = true;
    return null;
  };
  const count = (source: Fields, name: string, before: number): number => stated(source, name) ?? before;

  const input = stated(fields, "input_tokens");
  const output = stated(fields, "output_tokens");
  usage.stated.input ||= input !== null;
  usage.stated.output ||= output !== null;
  usage.inputTokens = input ?? usage.inputTokens;
  usage.outputTokens = output ?? usage.outputTokens;
  usage.cacheReadTokens = count(fields, "cache_read_input_tokens", usage.cacheReadTokens);
  applyCacheWrites(usage, asFields(fields.cache_creation), stated(fields, "cache_creation_input_tokens"), stated);

  const details = asFields(fields.output_tokens_details);
  const thinking = details ? stated(details, "thinking_tokens") : null;
  if (thinking !== null && thinking > usage.outputTokens) usage.estimated = true;
  usage.stated.thinking = thinking ?? usage.stated.thinking;
  usage.thinkingTokens = Math.min(usage.stated.thinking, usage.outputTokens);
  const tools = asFields(fields.server_tool_use);
  if (tools) {
    usage.webSearchRequests = count(tools, "web_search_requests", usage.webSearchRequests);
    usage.webFetchRequests = count(tools, "web_fetch_requests", usage.webFetchRequests);
  }
  usage.serviceTier = asText(fields.service_tier) ?? usage.serviceTier;
  usage.inferenceGeo = asText(fields.inference_geo) ?? usage.inferenceGeo;
  usage.speed = asText(fields.speed) ?? usage.speed;
  if (Array.isArray(fields.iterations)) applyIterations(usage, fields.iterations);
}

function applyCacheWrites(
  usage: Usage,
  split: Fields | undefined,
  total: number | null,
  stated: (source: Fields, name: string) => number | null,
): void {
  const last = usage.stated;
  const write5m = split ? stated(split, "ephemeral_5m_input_tokens") : null;
  const write1h = split ? stated(split, "ephemeral_1h_input_tokens") : null;
  const splits = write5m !== null || write1h !== null;
  last.write5m = write5m ?? last.write5m;
  last.write1h = write1h ?? last.write1h;
  const sum = last.write5m + last.write1h;
  // In one object they can't differ.
  if (splits && total !== null && total !== sum) usage.estimated = true;
  if (splits || total !== null) last.writes = total;
  // Without a split for them, writes are of the five-minute kind (wire notes §5.4).
  const writes = last.writes ?? sum;
  usage.cacheWrite1hTokens = Math.min(last.write1h, writes);
  usage.cacheWrite5mTokens = writes - usage.cacheWrite1hTokens;
}

/**
 * A compaction and an advisor's answer are not in the top-level counters; the other passes are (wire notes §4.4).
 * Those matter by themselves only where a fallback model finished what another model had begun.
 */
function applyIterations(usage: Usage, iterations: readonly unknown[]): void {
  const extra: Pass[] = [];
  const own: Pass[] = [];
  let fellBack = false;
  for (const iteration of iterations) {
    const type = asFields(iteration)?.type;
    const beside = type === "compaction" || type === "advisor_message";
    if (!beside && type !== "message" && type !== "fallback_message") {
      usage.estimated = true;
      continue;
    }
    if (type === "fallback_message") fellBack = true;
    (beside ? extra : own).push(passOf(usage, iteration as Fields));
  }
  usage.extraPasses = extra;
  usage.hops = fellBack ? own : [];
}

function passOf(usage: Usage, fields: Fields): Pass {
  const pass = emptyUsage();
  applyUsage(pass, { ...fields, iterations: undefined });
  if (pass.estimated || !pass.stated.input || !pass.stated.output) usage.estimated = true;
  return { model: asText(fields.model), ...tokensOf(pass) };
}

/** The model that wrote the end of the answer, where it is not the one that began it. */
export function servingModel(usage: Usage): string | null {
  return usage.hops.at(-1)?.model ?? null;
}

/** The counters that have a price per token. */
export function tokensOf(usage: Usage): Tokens {
  const { inputTokens, outputTokens, cacheWrite5mTokens, cacheWrite1hTokens, cacheReadTokens } = usage;
  return { inputTokens, outputTokens, cacheWrite5mTokens, cacheWrite1hTokens, cacheReadTokens };
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= MAX_PLAUSIBLE_COUNT;
}

/** The value as an object to read fields of, or undefined. */
export function asFields(value: unknown): Fields | undefined {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Fields) : undefined;
}

export function asText(value: unknown): string | null {
  return typeof value === "string" ? value : null;
}
