/**
 * Rate limits of an account: real buckets with continuous refill, one set per credential, in the isolate's memory.
 * Requests are taken when they arrive; tokens are owed as they are used, so a bucket may go below nothing and then
 * refuses until it has refilled. Token counting has requests of its own and costs no tokens, as on the real API.
 */
import { type ApiError, apiError, invalid } from "./errors.ts";

const NAMES = ["requests", "input-tokens", "output-tokens", "count-requests"] as const;
type Name = (typeof NAMES)[number];
/** Buckets that a request may ask to have smaller, by a header of this name behind one of the prefixes. */
const LOWERABLE = ["requests", "input-tokens", "output-tokens"] as const;
const PREFIXES = ["anthropic-sim-ratelimit-", "x-sim-ratelimit-"] as const;

/** Per minute. Generous: a load test should meet them only when it asks for lower ones. */
const DEFAULTS: Readonly<Record<Name, number>> = {
  requests: 1_000_000,
  "input-tokens": 2_000_000_000,
  "output-tokens": 400_000_000,
  "count-requests": 1_000_000,
};
const MINUTE_MS = 60_000;
/** Accounts kept; the oldest go first and start with full buckets when they come back. */
const MAX_ACCOUNTS = 10_000;

type Bucket = { readonly limit: number; level: number; at: number };
type Buckets = Readonly<Record<Name, Bucket>>;
export type Limits = Readonly<Partial<Record<Name, number>>>;

/** The limits a request asks for; undefined for none. */
export function limitsOf(headers: Headers): Limits | ApiError | undefined {
  let limits: Partial<Record<Name, number>> | undefined;
  for (const name of LOWERABLE) {
    for (const prefix of PREFIXES) {
      const text = headers.get(`${prefix}${name}`);
      if (text === null) continue;
      const limit = Number(text);
      if (!Number.isInteger(limit) || limit < 1 || limit > DEFAULTS[name]) {
        return invalid(`${prefix}${name}: must be a whole number from 1 to ${DEFAULTS[name]}`);
      }
      limits = { ...limits, [name]: limit };
    }
  }
  return limits;
}

export class Accounts {
  readonly #buckets = new Map<string, Buckets>();

  /** The account of a credential at a time in ms. Other limits have buckets of their own, so they disturb nobody. */
  open(credential: string, limits: Limits | undefined, now: number): Account {
    const key = limits ? `${credential}|${JSON.stringify(limits)}` : credential;
    let buckets = this.#buckets.get(key);
    if (!buckets) {
      const full = (name: Name): Bucket => {
        const limit = limits?.[name] ?? DEFAULTS[name];
        return { limit, level: limit, at: now };
      };
      buckets = {
        requests: full("requests"),
        "input-tokens": full("input-tokens"),
        "output-tokens": full("output-tokens"),
        "count-requests": full("count-requests"),
      };
      if (this.#buckets.size >= MAX_ACCOUNTS) this.#buckets.delete(this.#buckets.keys().next().value ?? "");
      this.#buckets.set(key, buckets);
    }
    return new Account(buckets, now);
  }
}

export class Account {
  readonly #buckets: Buckets;
  readonly #now: number;

  constructor(buckets: Buckets, now: number) {
    this.#buckets = buckets;
    this.#now = now;
    for (const name of NAMES) {
      const bucket = buckets[name];
      const refill = (Math.max(0, now - bucket.at) * bucket.limit) / MINUTE_MS;
      bucket.level = Math.min(bucket.limit, bucket.level + refill);
      bucket.at = now;
    }
  }

  /** Takes one message, or says when to come back. */
  admitMessage(): ApiError | undefined {
    return this.#take("requests") ?? this.#owed("input-tokens") ?? this.#owed("output-tokens");
  }

  /** Takes one counting of tokens, or says when to come back. */
  admitCount(): ApiError | undefined {
    return this.#take("count-requests");
  }

  /** Tokens count as they are used; reads from the prompt cache do not. */
  use(inputTokens: number, outputTokens: number): void {
    this.#buckets["input-tokens"].level -= inputTokens;
    this.#buckets["output-tokens"].level -= outputTokens;
  }

  /** The twelve headers of wire notes §2.3. Those of `tokens` are for input and output together. */
  setHeaders(headers: Headers): void {
    const { requests, "input-tokens": input, "output-tokens": output } = this.#buckets;
    this.#setHeader(headers, "requests", requests.limit, requests.level, [requests]);
    this.#setHeader(headers, "input-tokens", input.limit, thousands(input.level), [input]);
    this.#setHeader(headers, "output-tokens", output.limit, thousands(output.level), [output]);
    const both = thousands(input.level + output.level);
    this.#setHeader(headers, "tokens", input.limit + output.limit, both, [input, output]);
  }

  #setHeader(headers: Headers, name: string, limit: number, remaining: number, buckets: readonly Bucket[]): void {
    const wait = Math.max(...buckets.map((bucket) => ((bucket.limit - bucket.level) * MINUTE_MS) / bucket.limit));
    headers.set(`anthropic-ratelimit-${name}-limit`, String(limit));
    headers.set(`anthropic-ratelimit-${name}-remaining`, String(Math.max(0, Math.floor(remaining))));
    headers.set(`anthropic-ratelimit-${name}-reset`, secondsOf(this.#now + wait));
  }

  #take(name: Name): ApiError | undefined {
    const bucket = this.#buckets[name];
    if (bucket.level < 1) return exceeded(bucket, 1, "requests");
    bucket.level -= 1;
    return undefined;
  }

  #owed(name: "input-tokens" | "output-tokens"): ApiError | undefined {
    const bucket = this.#buckets[name];
    return bucket.level <= 0 ? exceeded(bucket, 1, name.replace("-", " ")) : undefined;
  }
}

function exceeded(bucket: Bucket, wanted: number, what: string): ApiError {
  const seconds = Math.max(1, Math.ceil(((wanted - bucket.level) * MINUTE_MS) / bucket.limit / 1000));
  const message = `This request would exceed your account's rate limit of ${bucket.limit} ${what} per minute.`;
  return apiError(429, message, { "retry-after": String(seconds) });
}

const thousands = (level: number): number => Math.round(level / 1000) * 1000;

let lastTime = Number.NaN;
let lastText = "";

/** RFC 3339 in whole seconds, never before the time itself. Most calls in a second ask for the same text. */
function secondsOf(ms: number): string {
  const time = Math.ceil(ms / 1000) * 1000;
  if (time !== lastTime) {
    lastTime = time;
    lastText = `${new Date(time).toISOString().slice(0, 19)}Z`;
  }
  return lastText;
}
