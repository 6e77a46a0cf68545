/** Rate limits of an account: real buckets with continuous refill, one set per credential, in the isolate's memory. */
import { type ApiError, apiError } from "./errors.ts";

const NAMES = ["requests", "input-tokens", "output-tokens"] as const;
type Name = (typeof NAMES)[number];

/** Per minute. Generous: a load test should meet them only when it asks for lower ones. */
const DEFAULTS: Readonly<Record<Name, number>> = {
  requests: 1_000_000,
  "input-tokens": 2_000_000_000,
  "output-tokens": 400_000_000,
};

type Bucket = { limit: number; level: number; at: number };
const accounts = new Map<string, Record<Name, Bucket>>();

export class Account {
  readonly #buckets: Record<Name, Bucket>;
  readonly #now: number;

  /** `requestLimit` replaces the default for this credential from now on. */
  constructor(credential: string, requestLimit: number | undefined, now: number) {
    let buckets = accounts.get(credential);
    if (!buckets || (requestLimit !== undefined && buckets.requests.limit !== requestLimit)) {
      const full = (limit: number): Bucket => ({ limit, level: limit, at: now });
      buckets = {
        requests: full(requestLimit ?? DEFAULTS.requests),
        "input-tokens": full(DEFAULTS["input-tokens"]),
        "output-tokens": full(DEFAULTS["output-tokens"]),
      };
      accounts.set(credential, buckets);
    }
    this.#buckets = buckets;
    this.#now = now;
    for (const bucket of Object.values(buckets)) {
      bucket.level = Math.min(bucket.limit, bucket.level + (Math.max(0, now - bucket.at) * bucket.limit) / 60_000);
      bucket.at = now;
    }
  }

  /** Takes one request, or says when to come back. */
  admit(): ApiError | undefined {
    const { requests } = this.#buckets;
    if (requests.level < 1) {
      const seconds = Math.max(1, Math.ceil(((1 - requests.level) * 60) / requests.limit));
      const message = `This request would exceed your account's rate limit of ${requests.limit} requests per minute.`;
      return apiError(429, message, { "retry-after": String(seconds) });
    }
    requests.level -= 1;
    return undefined;
  }

  /** Tokens count as they are used; reads from the prompt cache do not. */
  use(inputTokens: number, outputTokens: number): void {
    this.#buckets["input-tokens"].level -= inputTokens;
    this.#buckets["output-tokens"].level -= outputTokens;
  }

  setHeaders(headers: Headers): void {
    const set = (name: string, limit: number, level: number): void => {
      const full = this.#now + ((limit - level) * 60_000) / limit;
      headers.set(`anthropic-ratelimit-${name}-limit`, String(limit));
      headers.set(`anthropic-ratelimit-${name}-remaining`, String(Math.max(0, Math.floor(level))));
      headers.set(`anthropic-ratelimit-${name}-reset`, `${new Date(full).toISOString().slice(0, 19)}Z`);
    };
    for (const name of NAMES) set(name, this.#buckets[name].limit, this.#buckets[name].level);
    // The most restrictive of the token limits, to the nearest thousand.
    const tightest = this.#buckets["output-tokens"];
    set("tokens", tightest.limit, Math.round(tightest.level / 1000) * 1000);
  }
}
