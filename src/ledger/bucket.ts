/**
 * A token bucket with continuous refill, as pure arithmetic on integers, so that nothing drifts: one token is
 * 60,000 units, and a limit of N a minute brings N units back each millisecond. The caller brings the clock. A clock
 * that goes backwards refills nothing and costs nothing.
 */

const UNITS_PER_TOKEN = 60_000;

/** `level` in units, at the moment `at` (ms since the epoch). */
export type Bucket = { readonly level: number; readonly at: number };

/** A full bucket: capacity is one minute's worth. */
export function fullBucket(perMinute: number, now: number): Bucket {
  return { level: perMinute * UNITS_PER_TOKEN, at: now };
}

/** The bucket as it stands now; also how a bucket takes over a changed limit. */
export function refill(bucket: Bucket, perMinute: number, now: number): Bucket {
  const elapsed = Math.max(0, now - bucket.at);
  return {
    level: Math.min(perMinute * UNITS_PER_TOKEN, bucket.level + elapsed * perMinute),
    at: Math.max(bucket.at, now),
  };
}

/** Whole tokens that can be taken. */
export function available(bucket: Bucket): number {
  return Math.max(0, Math.floor(bucket.level / UNITS_PER_TOKEN));
}

/** The bucket after taking (or, with a negative count, giving back) tokens. */
export function take(bucket: Bucket, tokens: number): Bucket {
  return { level: bucket.level - tokens * UNITS_PER_TOKEN, at: bucket.at };
}

/** Milliseconds until `tokens` can be taken; 0 if they can be now. */
export function waitMs(bucket: Bucket, perMinute: number, tokens: number): number {
  return Math.max(0, Math.ceil((tokens * UNITS_PER_TOKEN - bucket.level) / perMinute));
}

/** Milliseconds until the bucket is full again. */
export function fullInMs(bucket: Bucket, perMinute: number): number {
  return waitMs(bucket, perMinute, perMinute);
}
