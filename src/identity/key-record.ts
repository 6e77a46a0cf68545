/** What a key is and may do, as it is stored in D1 and enforced by its ledger. */

/** Rights a key can hold (design §4). `admin` opens the control plane, the others the data plane. */
export const SCOPES = [
  "messages",
  "conversations",
  "templates:read",
  "templates:write",
  "batches",
  "files",
  "tasks",
  "metrics",
  "admin",
] as const;
export type Scope = (typeof SCOPES)[number];

export const DEFAULT_SCOPES: readonly Scope[] = ["messages", "conversations", "templates:read"];
export const DEFAULT_WORKSPACE = "ws_default";

export type KeyLimits = {
  /** Requests per minute: capacity of the bucket, and what flows back into it in a minute. Absent: unlimited. */
  readonly requests_per_minute?: number;
  /** Largest request body in bytes, below the gateway's own limit. */
  readonly max_request_bytes?: number;
};

/** One accepted secret of a key. A key has one, and two while a rotation's grace lasts. */
export type KeySecret = {
  /** SHA-256 of the secret part, lower-case hex. The secret itself is stored nowhere. */
  readonly sha256: string;
  /** What may be shown of the whole key again: its first characters and its last four. */
  readonly hint: string;
  /** Milliseconds since the epoch. */
  readonly created_at: number;
  /** When this secret stops working (end of a rotation's grace), or null. */
  readonly expires_at: number | null;
};

/**
 * What is enforced. `version` grows by one with every change, so that a late write never replaces a newer one.
 * Times are milliseconds since the epoch.
 */
export type KeyPolicy = {
  readonly id: string;
  readonly version: number;
  readonly workspace: string;
  readonly name: string;
  readonly scopes: readonly Scope[];
  /** Allowed model ids, exact, or a prefix that ends in `*`. Null: every model. */
  readonly models: readonly string[] | null;
  readonly limits: KeyLimits;
  readonly expires_at: number | null;
  readonly revoked_at: number | null;
  readonly secrets: readonly KeySecret[];
};

/** The whole record: the policy, and what only people read. */
export type KeyRecord = KeyPolicy & {
  readonly metadata: Readonly<Record<string, string>>;
  readonly created_at: number;
  readonly updated_at: number;
};

/** Whether the policy lets the key use a model: exact id, or a listed prefix ending in `*`. */
export function mayUseModel(policy: KeyPolicy, model: string): boolean {
  if (policy.models === null) return true;
  return policy.models.some((allowed) =>
    allowed.endsWith("*") ? model.startsWith(allowed.slice(0, -1)) : allowed === model,
  );
}

/** Whether this secret opens the key at this moment: key neither revoked nor expired, secret known and not run out. */
export function secretIsLive(policy: KeyPolicy, sha256: string, now: number): boolean {
  if (policy.revoked_at !== null) return false;
  if (policy.expires_at !== null && policy.expires_at <= now) return false;
  // Hashes of 160 random bits: how long this comparison takes tells nothing that could be used.
  return policy.secrets.some(
    (secret) => secret.sha256 === sha256 && (secret.expires_at === null || secret.expires_at > now),
  );
}
