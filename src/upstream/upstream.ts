/** An upstream account: where calls can go, and with which credential. */

/** `active` takes every call, `draining` only those that can go nowhere else, `removed` none. */
export const UPSTREAM_STATES = ["active", "draining", "removed"] as const;

/** As it is stored. Times are milliseconds since the epoch. */
export type UpstreamRecord = {
  /** `up_…`. */
  readonly id: string;
  readonly name: string;
  /** Without a trailing slash; may hold a path prefix. */
  readonly base_url: string;
  /** Its share of conversations, against the other upstreams'. */
  readonly weight: number;
  /** Models it serves, exact, or a prefix that ends in `*`. Null: every model. */
  readonly models: readonly string[] | null;
  /** Calls it may have running at the same moment. Null: no limit. */
  readonly concurrent_requests: number | null;
  readonly state: (typeof UPSTREAM_STATES)[number];
  /** Null once it is removed. */
  readonly sealed_key: Sealed | null;
  /** What may be shown of its key: the first characters of its SHA-256. */
  readonly fingerprint: string;
  readonly created_at: number;
  readonly updated_at: number;
  readonly version: number;
};

/** A secret under a master key. */
export type Sealed = {
  /** Version of the master key. */
  readonly master: string;
  /** Base64. */
  readonly iv: string;
  /** Base64: ciphertext and tag. */
  readonly data: string;
};

/** As calls use it: the credential is open, and in memory alone. */
export type Upstream = Pick<UpstreamRecord, "id" | "base_url" | "weight" | "models" | "concurrent_requests"> & {
  readonly state: "active" | "draining";
  readonly apiKey: string;
};

/** The one that `ANTHROPIC_API_KEY` and `UPSTREAM_URL` make, used while no other is stored. */
export const DEFAULT_UPSTREAM = "up_default";
