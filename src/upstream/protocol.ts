/**
 * What isolates and the upstream pool's object say to each other. Both sides may be of different releases for a while:
 * fields are only ever added, an object takes messages without the newer ones, and neither relies on the other's sizes.
 */
import { DEFAULT_UPSTREAM, type UpstreamRecord } from "./upstream.ts";

/** The one instance's name. */
const POOL_NAME = "pool";

/** Hints and homes of one message that are looked at; the rest is left. */
export const MAX_HINTS = 1_000;
export const MAX_HOMES = 1_000;
/** The last conversations that have moved, for isolates that think they live where they were. */
export const MAX_MOVED = 1_000;
/** A longer affinity has no home. */
export const MAX_AFFINITY_CHARS = 256;
/** As much of a model's name as a hint holds; callers choose it. */
export const MAX_MODEL_CHARS = 128;
/** No hint is in force for longer after it was made. */
export const MAX_HINT_MS = 60 * 60 * 1_000;

/**
 * `cooling`: it asked for a pause, or has no room. `open`: an isolate's breaker is open. `refused`: it refuses our
 * credential. `healthy`: it has answered again, so that nothing said before counts.
 */
export const HINT_KINDS = ["cooling", "open", "refused", "healthy"] as const;

/** Why; an unknown word becomes `other`. */
export const HINT_REASONS = [
  "rate_limited",
  "overloaded",
  "no_room",
  "server_error",
  "first_byte_timeout",
  "silent",
  "unreachable",
  "cut",
  "redirect",
  "authentication",
  "permission",
  "billing",
  "not_found",
  "recovered",
  "other",
] as const;

/** What one isolate has learned of an upstream and the others may want to know. There is one per upstream, the newest. */
export type Hint = {
  /** Id of a stored upstream, or `up_default`. */
  readonly upstream: string;
  readonly kind: (typeof HINT_KINDS)[number];
  /** Until when it is in force, ms since the epoch. */
  readonly until: number;
  readonly reason: (typeof HINT_REASONS)[number];
  /** The model that it is about; left out: every one. */
  readonly model?: string;
  /** When it was learned, ms since the epoch; a newer one replaces an older one. */
  readonly at: number;
};

/** Which upstream a conversation lives at. */
export type Home = readonly [affinity: string, upstreamId: string];

export type PoolMessage = {
  /** The version of the pool that the isolate has; 0: none. */
  readonly version: number;
  /** What it has learned since its last message. */
  readonly hints: readonly Hint[];
  /**
   * Conversations that have found a home or moved since then. An affinity is opaque here; it should be a digest, since
   * it is stored.
   */
  readonly homes: readonly Home[];
  /** `cursor` of the last answer; 0: there was none. */
  readonly since: number;
  /** `moves` of the last answer; left out: there was none. */
  readonly moves?: number;
  /** When the homes were chosen, ms since the epoch; left out: at the moment of arrival. An older choice replaces no newer one. */
  readonly at?: number;
};

export type PoolAnswer = {
  /** Grows with every change of an upstream. */
  readonly version: number;
  /** All that are active or draining, their keys sealed; null: as in the isolate's version. */
  readonly upstreams: readonly UpstreamRecord[] | null;
  /** All that are in force, whatever `since` says; at most one for each upstream. */
  readonly hints: readonly Hint[];
  /** Grows with every change of a hint: an isolate that knows it knows these hints. */
  readonly cursor: number;
  /** Homes of conversations that others have moved since `moves`, as far as the object remembers; the last one counts. */
  readonly moved?: readonly Home[];
  /** Grows with every move. */
  readonly moves?: number;
};

/** The object's RPC face. */
export interface Pool {
  /**
   * Takes over what the isolate has learned and says what it lacks. Throws while D1 is away only if the pool was never
   * read from it.
   */
  exchange(message: PoolMessage): Promise<PoolAnswer>;
  /** Where conversations live, in the order asked; null: nowhere yet, or at one that was removed. Asks nobody. */
  homesOf(affinities: readonly string[]): Promise<(string | null)[]>;
  /** The control plane's word on one upstream. One of a version that is known, or older, changes nothing. */
  put(record: UpstreamRecord): Promise<void>;
  /** The hints in force, for people. */
  hints(): Promise<readonly Hint[]>;
}

/** A stub that has thrown stays broken, so it is taken anew for each call. */
export function poolOf(namespace: Env["UPSTREAM_POOL"]): Pool {
  return namespace.getByName(POOL_NAME) as unknown as Pool;
}

/** The id of a stored upstream. */
export const UPSTREAM_ID = /^up_[0-9a-hjkmnp-tv-z]{26}$/;

export const isUpstreamId = (id: string): boolean => id === DEFAULT_UPSTREAM || UPSTREAM_ID.test(id);
