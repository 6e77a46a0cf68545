/**
 * What an answer costs, and the most that a request can cost, in whole µUSD. The prices are a table (price-list.ts);
 * the rules are those of the wire notes §5.4. Arithmetic is on whole numbers, and rounding happens once, at the end.
 */
import { type ModelPrices, type PriceTable, rateAt } from "./price-list.ts";
import { type Pass, TOKEN_KINDS, tokensOf, type Usage } from "./usage.ts";

/** Model ids remembered with their prices. Callers write them, so their number and length have bounds. */
const MAX_SEEN = 1_000;
const MAX_SEEN_CHARS = 256;

/** Prices are in nano-USD; each of the three multipliers is in hundredths. */
const PARTS_PER_MICRO_USD = 1_000 * 100 ** 3;
const RESERVATION_PARTS_PER_MICRO_USD = 1_000 * 100 ** 2;

/**
 * What a model costs. A model id is looked up as it is, then without what names it more closely: a date
 * (`…-20251001`, `…@20251001`), `-latest`, a provider (`anthropic.…`, `us.anthropic.…`, `anthropic/…`), a provider's
 * revision (`…-v1:0`) or a context mark (`…[1m]`), in whatever case. One that is still not `known` costs what the
 * dearest of its family costs, and one of no known family what the dearest of all costs: nothing is ever free.
 */
export function pricesOf(table: PriceTable, model: string): { readonly prices: ModelPrices; readonly known: boolean } {
  const seen = table.seen.get(model);
  if (seen) return seen;
  const found = lookUp(table, model);
  if (model.length <= MAX_SEEN_CHARS) {
    if (table.seen.size >= MAX_SEEN) table.seen.clear();
    table.seen.set(model, found);
  }
  return found;
}

function lookUp(table: PriceTable, model: string): { readonly prices: ModelPrices; readonly known: boolean } {
  const id = model.toLowerCase();
  const prices = table.models.get(id) ?? table.models.get(plainId(id));
  if (prices) return { prices, known: true };
  let dearest: ModelPrices | undefined;
  for (const [family, candidate] of table.families) {
    if (!id.includes(family)) continue;
    if (!dearest || candidate.rates[0].output > dearest.rates[0].output) dearest = candidate;
  }
  return { prices: dearest ?? table.dearest, known: false };
}

function plainId(id: string): string {
  return id
    .slice(Math.max(0, id.indexOf("claude")))
    .replace(/[@:[].*$/s, "")
    .replaceAll(".", "-")
    .replace(/-v\d{1,3}$/, "")
    .replace(/-latest$/, "")
    .replace(/-\d{8}$/, "");
}

/**
 * The cost of one answer in µUSD, rounded half up; never more than the largest safe integer. `at` (ms since the epoch)
 * chooses the rates that were valid then.
 */
export function costMicroUsd(table: PriceTable, model: string, usage: Usage, at: number): number {
  const terms = passesOf(usage).flatMap((pass) => termsOf(table, pass.model ?? model, pass, usage, at));
  const searches = usage.webSearchRequests * table.webSearchMicroUsd;
  // No term is negative, so a sum that is a safe integer was one at every step, and is exact.
  const sum = terms.reduce((total, [tokens, nano, multiplier]) => total + tokens * nano * multiplier, 0);
  if (sum <= Number.MAX_SAFE_INTEGER) {
    const rest = sum % PARTS_PER_MICRO_USD;
    return (sum - rest) / PARTS_PER_MICRO_USD + (rest * 2 >= PARTS_PER_MICRO_USD ? 1 : 0) + searches;
  }
  // From some nine dollars on.
  const exact = terms.reduce(
    (total, [tokens, nano, multiplier]) => total + BigInt(tokens) * BigInt(nano) * BigInt(multiplier),
    0n,
  );
  const parts = BigInt(PARTS_PER_MICRO_USD);
  return safe((2n * exact + parts) / (2n * parts) + BigInt(searches));
}

/** The passes over models that make up an answer. */
function passesOf(usage: Usage): readonly Pass[] {
  const { hops, extraPasses } = usage;
  const whole = { model: null, ...tokensOf(usage) };
  if (hops.length === 0) return extraPasses.length === 0 ? [whole] : [whole, ...extraPasses];
  // What the hops leave unexplained of the whole is priced as the message's own model.
  for (const kind of TOKEN_KINDS) {
    whole[kind] = Math.max(0, whole[kind] - hops.reduce((sum, hop) => sum + hop[kind], 0));
  }
  return [whole, ...hops, ...extraPasses];
}

/** Tokens, nano-USD per token, and the multipliers' product, one for each kind of token. */
type Term = readonly [tokens: number, nano: number, multiplier: number];

function termsOf(table: PriceTable, model: string, pass: Pass, usage: Usage, at: number): readonly Term[] {
  const { prices } = pricesOf(table, model);
  const { band } = prices;
  const prompt = pass.inputTokens + pass.cacheWrite5mTokens + pass.cacheWrite1hTokens + pass.cacheReadTokens;
  const rate = rateAt(band && prompt > band.above ? band.rates : prices.rates, at);
  const fast = usage.speed === "fast";
  const multiplier =
    (fast ? prices.fastHundredths : 100) *
    (usage.inferenceGeo === "us" ? prices.usHundredths : 100) *
    (usage.serviceTier === "batch" && !fast ? table.batchHundredths : 100);
  return [
    [pass.inputTokens, rate.input, multiplier],
    [pass.outputTokens, rate.output, multiplier],
    [pass.cacheWrite5mTokens, rate.cache_write_5m, multiplier],
    [pass.cacheWrite1hTokens, rate.cache_write_1h, multiplier],
    [pass.cacheReadTokens, rate.cache_read, multiplier],
  ];
}

/** What decides a price beside the tokens; true where it may be so. */
export type ReservationTerms = {
  /** The request asks for cache writes, the one-hour kind included. */
  readonly cacheWrites: boolean;
  readonly fast: boolean;
  /** Inference may be in the US. */
  readonly us: boolean;
};

/**
 * The most that so many tokens can cost in one pass over the model, in µUSD, rounded up: every token of the prompt at
 * the dearest price of the kinds it can be of. A prompt that reaches a dearer band is priced there, and one that
 * reaches a cheaper one is not: it may turn out smaller. Beyond it lie only what the request does not tell: web
 * searches, compaction, advisors and fallbacks to a dearer model.
 */
export function reservationMicroUsd(
  table: PriceTable,
  model: string,
  tokens: { readonly inputTokens: number; readonly outputTokens: number },
  at: number,
  terms: ReservationTerms,
): number {
  const { prices } = pricesOf(table, model);
  const { band } = prices;
  const rate = rateAt(prices.rates, at);
  let input = terms.cacheWrites ? rate.dearest_prompt : rate.dearest_read;
  let output = rate.output;
  if (band && tokens.inputTokens > band.above) {
    const above = rateAt(band.rates, at);
    input = Math.max(input, terms.cacheWrites ? above.dearest_prompt : above.dearest_read);
    output = Math.max(output, above.output);
  }
  const multiplier = (terms.fast ? prices.fastHundredths : 100) * (terms.us ? prices.usHundredths : 100);
  const sum = (tokens.inputTokens * input + tokens.outputTokens * output) * multiplier;
  if (sum <= Number.MAX_SAFE_INTEGER) {
    const rest = sum % RESERVATION_PARTS_PER_MICRO_USD;
    return (sum - rest) / RESERVATION_PARTS_PER_MICRO_USD + (rest > 0 ? 1 : 0);
  }
  const exact =
    (BigInt(tokens.inputTokens) * BigInt(input) + BigInt(tokens.outputTokens) * BigInt(output)) * BigInt(multiplier);
  const parts = BigInt(RESERVATION_PARTS_PER_MICRO_USD);
  return safe((exact + parts - 1n) / parts);
}

function safe(microUsd: bigint): number {
  const most = BigInt(Number.MAX_SAFE_INTEGER);
  return Number(microUsd < most ? microUsd : most);
}
