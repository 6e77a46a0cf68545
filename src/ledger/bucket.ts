/**
 * A token bucket with continuous refill, as pure arithmetic on integers, so that nothing drifts: one token is
 * 60,000 units, and a limit of N a minute brings N units back each millisecond. The caller brings the clock.
 */

const UNITS_PER_TOKEN = 60_000;

/**
 * A clock that goes back brings nothing, and time counts again from where it had been; after a step back of more than
 * this it counts from where the clock now is, so that a clock that was wrong once starves nobody. (Whoever can step it
 * there and back gains one refill for each such step.)
 */
const STEP_BACK_MS = 60_000;

/** `level` in units, below 0 when in debt, at the moment `at` (ms since the epoch). */
export type Bucket = { readonly level: number; readonly at: number };

/** What a bucket holds at most, and what comes back in a minute, in tokens. */
export type BucketLimit = { readonly capacity: number; readonly perMinute: number };

export function fullBucket(limit: BucketLimit, now: number): Bucket {
  return { level: limit.capacity * UNITS_PER_TOKEN, at: now };
}

/**
 * The bucket as it stands now. `lent` tokens are out and may come back or be spent at any moment: they keep their place,
 * so that what is in the bucket and what is out never exceed its capacity together.
 */
export function refill(bucket: Bucket, limit: BucketLimit, now: number, lent = 0): Bucket {
  const elapsed = Math.max(0, now - bucket.at);
  return {
    level: Math.min((limit.capacity - lent) * UNITS_PER_TOKEN, bucket.level + elapsed * limit.perMinute),
    at: now < bucket.at - STEP_BACK_MS ? now : Math.max(bucket.at, now),
  };
}

/** Whole tokens in it; negative in debt. */
export function tokensIn(bucket: Bucket): number {
  return Math.floor(bucket.level / UNITS_PER_TOKEN);
}

/** The bucket after taking (or, with a negative count, giving back) tokens. */
export function take(bucket: Bucket, tokens: number): Bucket {
  return { level: bucket.level - tokens * UNITS_PER_TOKEN, at: bucket.at };
}
