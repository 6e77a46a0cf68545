/**
 * What an answer costs, in whole µUSD. The table is data (prices.json: USD per million tokens, which is the same
 * number as µUSD per token); the rules are those of the wire notes §5.4. All arithmetic is on integers: rates in
 * nano-USD per token, so that sums are exact and rounding happens once, at the end, half up.
 */
import table from "./prices.json";
import { type Pass, tokensOf, type Usage } from "./usage.ts";

type Rate = {
  readonly input: number;
  readonly output: number;
  readonly cache_read: number;
  readonly cache_write_5m: number;
  readonly cache_write_1h: number;
  readonly until?: string;
};

type ModelPrices = {
  readonly rates: readonly Rate[];
  /** Prompts above this many tokens are billed whole, output included, at `rates_above`. */
  readonly above_prompt_tokens?: number;
  readonly rates_above?: readonly Rate[];
  readonly fast_multiplier?: number;
  /** False where `inference_geo: "us"` costs nothing more (Claude before 4.6). */
  readonly us_surcharge?: boolean;
};

const NANO_PER_MICRO = 1000;
const MODELS: Readonly<Record<string, ModelPrices>> = table.models;
const WEB_SEARCH_MICRO_USD = Math.round(table.web_search_request_usd * 1_000_000);
const FAMILIES = ["haiku", "sonnet", "opus", "fable", "mythos"];

/**
 * The price list entry for a model id. A dated id (`…-20251001`) is its undated model; an unknown id is priced like the
 * dearest known model of its family, and one of no known family like the dearest of all. Nothing is ever free.
 */
export function pricesOf(model: string): {
  readonly id: string;
  readonly prices: ModelPrices;
  readonly known: boolean;
} {
  const undated = model.replace(/-\d{8}$/, "");
  const prices = Object.hasOwn(MODELS, undated) ? MODELS[undated] : undefined;
  if (prices) return { id: undated, prices, known: true };
  const family = FAMILIES.find((name) => model.toLowerCase().includes(name));
  let dearest: { id: string; prices: ModelPrices; known: boolean } | undefined;
  for (const [id, candidate] of Object.entries(MODELS)) {
    if (family && !id.includes(family)) continue;
    if (!dearest || peak(candidate) > peak(dearest.prices)) dearest = { id, prices: candidate, known: false };
  }
  if (!dearest) throw new Error("the price table is empty");
  return dearest;
}

function peak(prices: ModelPrices): number {
  return Math.max(...[...prices.rates, ...(prices.rates_above ?? [])].map((rate) => rate.output));
}

/** The cost of one answer in µUSD. `at` (ms since the epoch) chooses the rate that was valid then. */
export function costMicroUsd(model: string, usage: Usage, at: number): number {
  let nano = passNanoUsd(model, tokensOf(usage), usage.speed, at);
  for (const pass of usage.extraPasses) nano += passNanoUsd(pass.model ?? model, pass, usage.speed, at);
  const { prices } = pricesOf(model);
  // Tenths, then halves, as integer ratios: 1.1 and 0.5 of the published rules.
  if (usage.inferenceGeo === "us" && prices.us_surcharge !== false) {
    nano = (nano * Math.round(table.inference_geo_us_multiplier * 10)) / 10;
  }
  if (usage.serviceTier === "batch" && usage.speed !== "fast") nano *= table.batch_multiplier;
  return Math.round(nano / NANO_PER_MICRO) + usage.webSearchRequests * WEB_SEARCH_MICRO_USD;
}

function passNanoUsd(model: string, pass: Omit<Pass, "model">, speed: string | null, at: number): number {
  const { prices } = pricesOf(model);
  const written = pass.cacheWrite5mTokens + pass.cacheWrite1hTokens;
  const prompt = pass.inputTokens + written + pass.cacheReadTokens;
  const above = prices.above_prompt_tokens !== undefined && prompt > prices.above_prompt_tokens;
  const rate = rateAt(above && prices.rates_above ? prices.rates_above : prices.rates, at);
  const nano = (usdPerMillion: number): number => Math.round(usdPerMillion * NANO_PER_MICRO);
  const sum =
    pass.inputTokens * nano(rate.input) +
    pass.outputTokens * nano(rate.output) +
    pass.cacheWrite5mTokens * nano(rate.cache_write_5m) +
    pass.cacheWrite1hTokens * nano(rate.cache_write_1h) +
    pass.cacheReadTokens * nano(rate.cache_read);
  return sum * (speed === "fast" ? (prices.fast_multiplier ?? 1) : 1);
}

function rateAt(rates: readonly Rate[], at: number): Rate {
  const rate = rates.find((candidate) => candidate.until === undefined || at < Date.parse(candidate.until));
  if (!rate) throw new Error("a model of the price table has no rate that is valid today");
  return rate;
}
