/**
 * One Durable Object per API key: the single owner of its policy, its request bucket and the audit records on their
 * way to D1. Being one serial owner it needs no lock; every method here reads, decides and writes without an await in
 * between, so no two calls interleave. The bucket is written before a lease goes out (output gate), so a restart
 * admits nothing twice.
 *
 * Accepted: requests lent to an isolate that dies are lost to the bucket until it refills; a lease that is used late
 * in its two seconds counts in the window it was taken in.
 */
import { DurableObject } from "cloudflare:workers";
import type { KeyPolicy } from "../identity/key-record.ts";
import { loadPolicy } from "../identity/key-store.ts";
import { available, type Bucket, fullBucket, fullInMs, refill, take, waitMs } from "./bucket.ts";
import { Outbox } from "./outbox.ts";
import type { Lease, LeaseRequest, Ledger, Settlement } from "./protocol.ts";

/** A lease takes at most this share of what is left, so that near the limit it is exactly one request. */
const LEASE_SHARE = 10;

export class KeyLedger extends DurableObject<Env> implements Ledger {
  #policy: KeyPolicy | undefined;
  #bucket: Bucket | undefined;
  readonly #outbox: Outbox;

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env);
    const { sql } = ctx.storage;
    sql.exec("CREATE TABLE IF NOT EXISTS policy (id INTEGER PRIMARY KEY CHECK (id = 1), json TEXT NOT NULL)");
    sql.exec(
      "CREATE TABLE IF NOT EXISTS request_bucket (id INTEGER PRIMARY KEY CHECK (id = 1), level INTEGER NOT NULL, at INTEGER NOT NULL)",
    );
    const [policy] = sql.exec<{ json: string }>("SELECT json FROM policy").toArray();
    if (policy) this.#policy = JSON.parse(policy.json) as KeyPolicy;
    const [bucket] = sql.exec<Bucket>("SELECT level, at FROM request_bucket").toArray();
    if (bucket) this.#bucket = bucket;
    this.#outbox = new Outbox(ctx.storage, env.DB);
  }

  async lease(request: LeaseRequest): Promise<Lease | null> {
    if (request.settlements.length > 0) this.#outbox.add(request.settlements, Date.now());
    const policy = this.#policy ?? (await this.#load());
    if (!policy) return null;
    const perMinute = policy.limits.requests_per_minute;
    if (perMinute === undefined) return { policy, granted: null, remaining: null, retryAfterMs: 0, fullInMs: 0 };

    const now = Date.now();
    const before = this.#bucket ?? fullBucket(perMinute, now);
    const bucket = refill(take(before, -Math.max(0, request.unused)), perMinute, now);
    const left = available(bucket);
    const granted = Math.min(left, Math.max(1, Math.min(request.want, Math.floor(left / LEASE_SHARE))));
    const after = take(bucket, granted);
    this.#keepBucket(after);
    return {
      policy,
      granted,
      remaining: left - granted,
      retryAfterMs: granted > 0 ? 0 : waitMs(after, perMinute, 1),
      fullInMs: fullInMs(after, perMinute),
    };
  }

  async settle(settlements: readonly Settlement[]): Promise<void> {
    this.#outbox.add(settlements, Date.now());
  }

  async policy(): Promise<KeyPolicy | null> {
    return this.#policy ?? (await this.#load()) ?? null;
  }

  async putPolicy(policy: KeyPolicy): Promise<void> {
    if (this.#policy && policy.version <= this.#policy.version) return;
    this.#policy = policy;
    this.ctx.storage.sql.exec("INSERT OR REPLACE INTO policy (id, json) VALUES (1, ?)", JSON.stringify(policy));
  }

  override async alarm(): Promise<void> {
    await this.#outbox.flush(() => Date.now());
  }

  /** Answers that the object lives; for the health check. */
  async ping(): Promise<true> {
    return true;
  }

  /**
   * A ledger learns of its key from D1 at the first call, so it is made near the key's first user and not near the
   * administrator. A policy that was put in the meantime is newer and stays.
   */
  async #load(): Promise<KeyPolicy | undefined> {
    const id = this.ctx.id.name;
    const policy = id === undefined ? null : await loadPolicy(this.env.DB, id);
    if (policy) await this.putPolicy(policy);
    return this.#policy;
  }

  #keepBucket(bucket: Bucket): void {
    this.#bucket = bucket;
    this.ctx.storage.sql.exec(
      "INSERT OR REPLACE INTO request_bucket (id, level, at) VALUES (1, ?, ?)",
      bucket.level,
      bucket.at,
    );
  }
}
