/**
 * What isolates and a key's ledger say to each other. Versions of both meet during a deploy: fields are only added,
 * and a missing one means what it meant before.
 */
import type { KeyPolicy } from "../identity/key-record.ts";

/** How long an isolate may act on what the ledger told it: the bound on revocation and policy changes (design L5). */
export const LEASE_MS = 2_000;

/** The end of one admitted call: its audit record, ready for storage. */
export type Settlement = { readonly requestId: string; readonly record: string };

export type LeaseRequest = {
  /** Requests the isolate expects to admit while the lease lasts, at least 1. */
  readonly want: number;
  /** Requests of an earlier lease that were never admitted: they go back into the bucket. */
  readonly unused: number;
  /** Settlements that travel along. They are stored even if no lease is granted. */
  readonly settlements: readonly Settlement[];
};

export type Lease = {
  readonly policy: KeyPolicy;
  /** Requests the isolate may admit, taken out of the bucket already. Null: the key has no request limit. */
  readonly granted: number | null;
  /** Whole requests left in the bucket. Null with `granted`. */
  readonly remaining: number | null;
  /** When nothing was granted: ms until one request could be. */
  readonly retryAfterMs: number;
  /** Ms until the bucket is full. */
  readonly fullInMs: number;
};

/** The RPC face of a key's ledger. */
export interface Ledger {
  /** Policy and allowance; null for a key that does not exist. */
  lease(request: LeaseRequest): Promise<Lease | null>;
  /** Takes over the ends of calls. Once per request id counts, however often it is told. */
  settle(settlements: readonly Settlement[]): Promise<void>;
  policy(): Promise<KeyPolicy | null>;
  /** Puts a changed policy in force. One that is not newer than the stored one changes nothing. */
  putPolicy(policy: KeyPolicy): Promise<void>;
}
