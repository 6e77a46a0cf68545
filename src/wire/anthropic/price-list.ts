/**
 * The price list as data: what people write (USD per million tokens, RFC 3339 times), checked once and made ready to
 * count with. Prices become whole nano-USD per token (USD per million tokens is µUSD per token, and three decimals of
 * it are nano-USD), multipliers whole hundredths, so that every sum is exact. The rules that use it: prices.ts.
 */
import * as z from "zod/mini";
import { err, ok, type Result } from "../../result.ts";
import builtInList from "./prices.json";

/** USD per million tokens, far above any price there is: a guard against prices written per token or in cents. */
const MAX_USD_PER_MILLION = 100_000;
const MAX_MULTIPLIER = 100;
/** A thousand million searches then still cost a safe integer of µUSD. */
const MAX_SEARCH_USD = 1;
const MAX_MODELS = 1_000;
const MAX_RATES = 100;
const MAX_BAND_TOKENS = 1_000_000_000;
const MAX_TEXT_CHARS = 1_000;
/** Longest name that an answer repeats. */
const MAX_SHOWN_NAME = 64;

/** Lower case: ids are compared so. */
const MODEL_ID = /^[a-z0-9][a-z0-9._:@[\]/-]{0,127}$/;
/** Words of model ids that name no family. */
const NO_FAMILY = new Set(["claude", "anthropic", "latest", "preview"]);

const KINDS = ["input", "output", "cache_read", "cache_write_5m", "cache_write_1h"] as const;
type Kind = (typeof KINDS)[number];

/** The number in units of 1/`parts`, where it is a whole number of them and not negative. */
function wholeParts(value: number, parts: number): number | null {
  const whole = Math.round(value * parts);
  // Decimals have no exact binary form: 0.57 * 100 is 56.99999999999999.
  return Math.abs(value * parts - whole) <= whole * 1e-12 ? whole : null;
}

const decimal = (max: number, decimals: number, rule: string) => {
  const message = `must be ${rule}, with at most ${decimals} decimals`;
  return z.number(message).check(
    z.maximum(max, message),
    z.refine((value) => wholeParts(value, 10 ** decimals) !== null, message),
  );
};
const text = z.string("must be a text").check(z.maxLength(MAX_TEXT_CHARS, `must not be longer than ${MAX_TEXT_CHARS}`));
const TIME_RULE = "must be an RFC 3339 time, such as 2027-01-31T00:00:00Z";
const time = z.iso.datetime({ offset: true, error: TIME_RULE });
/** Negative ones are no whole parts; zero is decided on with the model, which may say why. */
const price = decimal(
  MAX_USD_PER_MILLION,
  3,
  `a price in USD per million tokens, above 0 and up to ${MAX_USD_PER_MILLION}`,
);

const Rate = z.strictObject(
  {
    from: z.optional(time),
    until: z.optional(time),
    input: price,
    output: price,
    cache_read: price,
    cache_write_5m: price,
    cache_write_1h: price,
  },
  "must be an object of prices",
);
const Rates = z
  .array(Rate, "must be a list of rates")
  .check(z.minLength(1, "must hold a rate"), z.maxLength(MAX_RATES, `must not hold more than ${MAX_RATES} rates`));
const bandTokens = `must be a whole number from 1 to ${MAX_BAND_TOKENS}`;
const Model = z.strictObject(
  {
    rates: Rates,
    above_prompt_tokens: z.optional(
      z.int(bandTokens).check(z.minimum(1, bandTokens), z.maximum(MAX_BAND_TOKENS, bandTokens)),
    ),
    rates_above: z.optional(Rates),
    fast_multiplier: z.optional(
      decimal(MAX_MULTIPLIER, 2, `from 1 to ${MAX_MULTIPLIER}`).check(
        z.minimum(1, `must be from 1 to ${MAX_MULTIPLIER}, with at most 2 decimals`),
      ),
    ),
    us_surcharge: z.optional(z.boolean("must be true or false")),
    free_because: z.optional(text.check(z.minLength(1, "must say why"))),
  },
  "must be an object",
);
export const PriceListShape = z.strictObject({
  source: z.optional(text),
  models: z.record(z.string(), Model, "must be an object of models"),
  inference_geo_us_multiplier: decimal(MAX_MULTIPLIER, 2, `from 1 to ${MAX_MULTIPLIER}`).check(
    z.minimum(1, `must be from 1 to ${MAX_MULTIPLIER}, with at most 2 decimals`),
  ),
  batch_multiplier: decimal(1, 2, "above 0 and at most 1").check(
    z.gt(0, "must be above 0 and at most 1, with at most 2 decimals"),
  ),
  web_search_request_usd: decimal(MAX_SEARCH_USD, 6, `above 0 and at most ${MAX_SEARCH_USD} USD`).check(
    z.gt(0, `must be above 0 and at most ${MAX_SEARCH_USD} USD, with at most 6 decimals`),
  ),
});

/** A price list as people write and read it. */
export type PriceList = z.infer<typeof PriceListShape>;
type ListedModel = PriceList["models"][string];
type ListedRate = z.infer<typeof Rate>;

/** Nano-USD per token, from a moment (ms since the epoch, inclusive) to the next rate's. */
export type Rate = { readonly from: number } & { readonly [K in Kind]: number } & {
  /** The dearest that a token of the prompt can cost: where nothing is written to a cache, and where it may be. */
  readonly dearest_read: number;
  readonly dearest_prompt: number;
};
/** In order of time; the first one also holds before its beginning. */
export type Rates = readonly [Rate, ...Rate[]];

export type ModelPrices = {
  readonly rates: Rates;
  /** Prompts of more tokens than `above` are billed whole, output included, at these rates. */
  readonly band: { readonly above: number; readonly rates: Rates } | null;
  /** 100 is once. */
  readonly fastHundredths: number;
  readonly usHundredths: number;
};

/** A price list ready to count with. */
export type PriceTable = {
  readonly list: PriceList;
  readonly models: ReadonlyMap<string, ModelPrices>;
  /** By the word that names the family, what an unknown model of it costs. */
  readonly families: ReadonlyMap<string, ModelPrices>;
  /** What a model of no known family costs. */
  readonly dearest: ModelPrices;
  readonly batchHundredths: number;
  readonly webSearchMicroUsd: number;
  /** Model ids as callers wrote them, and what they came to; a cache that prices.ts keeps. */
  readonly seen: Map<string, { readonly prices: ModelPrices; readonly known: boolean }>;
};

/** Checks a price list. The error names every field that is wrong, and how. */
export function parsePriceList(value: unknown): Result<PriceTable, string> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return err("must be a JSON object");
  const parsed = PriceListShape.safeParse(value);
  if (!parsed.success) return err(problemsOf(parsed.error.issues, value).join("; "));
  const problems: string[] = [];
  const listed = Object.entries(parsed.data.models);
  // `z.record` leaves out a model named `__proto__` without a word.
  const given = "models" in value ? Object.keys(Object(value.models)) : [];
  for (const id of given) {
    if (!MODEL_ID.test(id)) problems.push(`models.${shown(id)}: must be a model id in lower case`);
  }
  if (given.length > MAX_MODELS) problems.push(`models: must not hold more than ${MAX_MODELS}`);
  for (const [id, model] of listed) problems.push(...problemsOfModel(`models.${shown(id)}`, model));
  const priced = listed.filter(([, model]) => model.free_because === undefined);
  if (priced.length === 0) problems.push("models: must hold a model that costs something, for unknown models to cost");
  if (problems.length > 0) return err([...new Set(problems)].join("; "));
  return ok(prepare(parsed.data));
}

let builtIn: PriceTable | undefined;

/**
 * The list that comes with the gateway. Its shape is checked by the compiler and the rest by a test, for the first
 * request of an isolate waits for it, and parsing it cold takes some 16 ms.
 */
export function builtInPrices(): PriceTable {
  builtIn ??= prepare(builtInList);
  return builtIn;
}

function problemsOf(issues: readonly z.core.$ZodIssue[], value: object): string[] {
  const problems = issues.flatMap((issue) => {
    if (issue.code === "unrecognized_keys") {
      return issue.keys.map((name) => `${pathOf([...issue.path, name])}: unknown field`);
    }
    return [`${pathOf(issue.path)}: ${isThere(value, issue.path) ? issue.message : "Field required"}`];
  });
  // A number can break one rule in two ways.
  return [...new Set(problems)];
}

function pathOf(path: readonly PropertyKey[]): string {
  return path.map(shown).join(".");
}

function shown(name: PropertyKey): string {
  return String(name).slice(0, MAX_SHOWN_NAME);
}

function isThere(value: object, path: readonly PropertyKey[]): boolean {
  let at: unknown = value;
  for (const name of path) {
    if (typeof at !== "object" || at === null || !Object.hasOwn(at, name)) return false;
    at = (at as Readonly<Record<PropertyKey, unknown>>)[name];
  }
  return true;
}

function problemsOfModel(path: string, model: ListedModel): string[] {
  const problems: string[] = [];
  const mayBeFree = model.free_because !== undefined;
  for (const [name, rates] of [
    ["rates", model.rates],
    ["rates_above", model.rates_above ?? []],
  ] as const) {
    for (const [i, rate] of rates.entries()) {
      for (const kind of KINDS) {
        if (rate[kind] > 0 || mayBeFree) continue;
        problems.push(
          `${path}.${name}.${i}.${kind}: must be above 0; a model that costs nothing says so in \`free_because\``,
        );
      }
      problems.push(...problemsOfTime(`${path}.${name}.${i}`, rates, i));
    }
  }
  if ((model.above_prompt_tokens === undefined) !== (model.rates_above === undefined)) {
    problems.push(`${path}: above_prompt_tokens and rates_above need each other`);
  }
  return problems;
}

/** Rates follow each other without a gap and the last one stays: no moment is without a price. */
function problemsOfTime(path: string, rates: readonly ListedRate[], i: number): string[] {
  const until = rates[i]?.until;
  const next = rates[i + 1];
  if (!next) return until === undefined ? [] : [`${path}.until: the last rate must not end`];
  const problems: string[] = [];
  const end = next.from ?? until;
  if (end === undefined) return [`${path}.until: Field required, since another rate follows`];
  if (until !== undefined && next.from !== undefined && Date.parse(until) !== Date.parse(next.from)) {
    problems.push(`${path}.until: must be the moment that the next rate is valid from`);
  }
  const begin = rates[i]?.from ?? (i > 0 ? rates[i - 1]?.until : undefined);
  if (begin !== undefined && Date.parse(begin) >= Date.parse(end)) {
    problems.push(`${path}: must end later than it begins`);
  }
  return problems;
}

function prepare(list: PriceList): PriceTable {
  const models = new Map<string, ModelPrices>();
  const families = new Map<string, ModelPrices[]>();
  const all: ModelPrices[] = [];
  for (const [id, listed] of Object.entries(list.models)) {
    const prices = prepareModel(listed, list.inference_geo_us_multiplier);
    models.set(id, prices);
    // What is free says nothing about what an unknown model costs.
    if (listed.free_because !== undefined) continue;
    all.push(prices);
    const family = familyOf(id);
    if (family !== undefined) families.set(family, [...(families.get(family) ?? []), prices]);
  }
  return {
    list,
    models,
    families: new Map([...families].map(([family, members]) => [family, dearestOf(members)])),
    dearest: dearestOf(all),
    batchHundredths: hundredths(list.batch_multiplier),
    webSearchMicroUsd: wholeParts(list.web_search_request_usd, 1_000_000) ?? 0,
    seen: new Map(),
  };
}

function familyOf(id: string): string | undefined {
  return id.split(/[^a-z]+/).find((word) => word.length > 2 && !NO_FAMILY.has(word));
}

function hundredths(multiplier: number): number {
  return wholeParts(multiplier, 100) ?? 100;
}

function prepareModel(listed: ListedModel, usMultiplier: number): ModelPrices {
  const { above_prompt_tokens: above, rates_above: ratesAbove } = listed;
  return {
    rates: prepareRates(listed.rates),
    band: above === undefined || ratesAbove === undefined ? null : { above, rates: prepareRates(ratesAbove) },
    fastHundredths: hundredths(listed.fast_multiplier ?? 1),
    usHundredths: listed.us_surcharge === false ? 100 : hundredths(usMultiplier),
  };
}

function prepareRates(listed: readonly ListedRate[]): Rates {
  const [first, ...later] = listed.map((rate, i) => {
    const from = i === 0 ? undefined : (rate.from ?? listed[i - 1]?.until);
    const nano = (kind: Kind): number => wholeParts(rate[kind], 1_000) ?? 0;
    return rateOf(from === undefined ? Number.NEGATIVE_INFINITY : Date.parse(from), nano);
  });
  if (!first) throw new Error("a model without rates");
  return [first, ...later];
}

function rateOf(from: number, nano: (kind: Kind) => number): Rate {
  const [input, output, cacheRead, write5m, write1h] = KINDS.map(nano) as [number, number, number, number, number];
  const dearestRead = Math.max(input, cacheRead);
  return {
    from,
    input,
    output,
    cache_read: cacheRead,
    cache_write_5m: write5m,
    cache_write_1h: write1h,
    dearest_read: dearestRead,
    dearest_prompt: Math.max(dearestRead, write5m, write1h),
  };
}

/** The rate that is valid at a moment. */
export function rateAt(rates: Rates, at: number): Rate {
  let valid = rates[0];
  for (const rate of rates) {
    if (rate.from > at) break;
    valid = rate;
  }
  return valid;
}

/** Never cheaper than any of them, at any time, whatever the tokens are of: each price is the highest among them. */
function dearestOf(members: readonly ModelPrices[]): ModelPrices {
  const rates = members.flatMap((member) => (member.band ? [member.rates, member.band.rates] : [member.rates]));
  const begins = [...new Set(rates.flat().map((rate) => rate.from))].sort((a, b) => (a < b ? -1 : 1));
  const [first, ...later] = begins.map((from) => {
    const valid = rates.map((list) => rateAt(list, from));
    return rateOf(from, (kind) => Math.max(...valid.map((rate) => rate[kind])));
  });
  if (!first) throw new Error("no model to compare with");
  return {
    rates: [first, ...later],
    band: null,
    fastHundredths: Math.max(...members.map((member) => member.fastHundredths)),
    usHundredths: Math.max(...members.map((member) => member.usHundredths)),
  };
}
