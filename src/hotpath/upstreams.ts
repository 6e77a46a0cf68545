/**
 * The isolate's one pool of upstreams, kept up to date with the pool's object while calls come: what the control plane
 * changed, what other isolates have learned, and what this one has. A change is in force for every call that comes
 * MAX_AGE_MS after it, unless the object can't be reached; then the pool stays as it was.
 *
 * Calls never wait for each other's promises: work begun by a call that is cancelled would never finish for the others.
 */
import type { Settings } from "../env.ts";
import type { Access } from "../ledger/lease-book.ts";
import { err, ok, type Result } from "../result.ts";
import type { Stop, Surroundings } from "../upstream/attempts.ts";
import { openUpstream, type Unusable } from "../upstream/open-upstream.ts";
import { Pool, type Wanted } from "../upstream/pool.ts";
import { type Hint, MAX_HOMES, poolOf } from "../upstream/protocol.ts";
import { DEFAULT_UPSTREAM, type Upstream, type UpstreamRecord } from "../upstream/upstream.ts";
import { loadUpstreams } from "../upstream/upstream-store.ts";
import type { Failure } from "../wire/errors.ts";
import { within } from "../within.ts";
import { clock, leaseBook } from "./leases.ts";
import type { CallRecord } from "./settle.ts";

/** Calls begin a refresh in the background when the last one is so old, */
const REFRESH_MS = 2_000;
/** and wait for it when it is so old, as after a pause. */
const MAX_AGE_MS = 5_000;
/** How long a call waits: for the isolate's first pool, and for a newer one. */
const FIRST_DEADLINE_MS = 3_000;
const DEADLINE_MS = 500;
/** The object is given up after this; whoever has no pool yet asks the database then. */
const EXCHANGE_DEADLINE_MS = 1_500;
/** Nobody waits for the object again so soon after it could not be reached: the pool at hand serves meanwhile. */
const RETRY_MS = 5_000;
/** What another call began to ask so short a time ago is looked out for, every so often, rather than asked again. */
const SHARED_MS = 250;
const LOOK_MS = 5;
/** What is learned of an upstream is told so soon, with what else is learned in that moment. */
const TELL_DELAY_MS = 200;
/** How long people are shown a breaker that opened, since it closes and opens by the second. */
const SHOW_OPEN_MS = 10_000;
/** So long after a change of the pool conversations may live elsewhere than where a hash would have them. */
const UNSETTLED_MS = 24 * 60 * 60 * 1_000;
/** Weights are relative, so the only one's is any. */
const ONLY_WEIGHT = 100;

/** Why a stored upstream is not used. */
export type Unusables = readonly { readonly id: string; readonly reason: Unusable["kind"] }[];

/** What a list of stored upstreams has come to. */
type OpenPool = {
  readonly records: readonly UpstreamRecord[];
  readonly opened: readonly Upstream[];
  readonly unusable: Unusables;
};

class Keeper {
  readonly pool = new Pool();
  unusable: Unusables = [];
  #known = false;
  #version = 0;
  #cursor = 0;
  #moves = 0;
  #changedAt = 0;
  /** Refreshes are numbered as they begin, so that a late answer never replaces a newer one. */
  #begun = 0;
  #taken = 0;
  /** When the last one began, when the one that was taken did, and when one failed. */
  #begunAt = Number.NEGATIVE_INFINITY;
  #freshAt = Number.NEGATIVE_INFINITY;
  #failedAt = Number.NEGATIVE_INFINITY;
  readonly #hints = new Map<string, Hint>();
  /** What this isolate has said itself, by upstream: it knows better than its own echo. */
  readonly #told = new Map<string, Hint>();
  #tellingSince = Number.NEGATIVE_INFINITY;

  /** Sees to it that there is a pool, and one that is new enough. */
  async ready(env: Env, settings: Settings, access: Access): Promise<Failure | null> {
    const age = since(this.#freshAt);
    if (this.#known && age < REFRESH_MS) return null;
    if (this.#known && (age < MAX_AGE_MS || since(this.#failedAt) < RETRY_MS)) {
      if (since(this.#begunAt) >= REFRESH_MS) access.background(this.#refresh(env, settings));
      return null;
    }
    await this.renew(env, settings, access, this.#known ? DEADLINE_MS : FIRST_DEADLINE_MS);
    return this.#known ? null : POOL_AWAY;
  }

  /** The control plane has changed something: the next call is to wait for it. */
  outdate(): void {
    this.#taken = this.#begun;
    this.#begunAt = Number.NEGATIVE_INFINITY;
    this.#freshAt = Number.NEGATIVE_INFINITY;
    this.#failedAt = Number.NEGATIVE_INFINITY;
  }

  /**
   * Waits for what is new, whatever the age of what is known. Of many calls that come at once one asks; the others look
   * out for its answer, and the next one asks if it takes long.
   */
  async renew(env: Env, settings: Settings, access: Access, deadlineMs = DEADLINE_MS): Promise<void> {
    const taken = this.#taken;
    for (let waitedMs = 0; waitedMs < deadlineMs; waitedMs += LOOK_MS) {
      if (since(this.#begunAt) >= SHARED_MS) {
        const refresh = this.#refresh(env, settings);
        access.background(refresh);
        await within(deadlineMs - waitedMs, refresh).catch(() => {
          this.#failedAt = clock.now();
        });
        return;
      }
      await clock.wait(LOOK_MS);
      if (this.#taken > taken) return;
    }
  }

  learn(hint: Hint): void {
    this.#hints.set(hint.upstream, hint);
    this.#told.set(hint.upstream, hint);
  }

  /** Whether others still think, from what this isolate has told, that an upstream is unwell which has just answered. */
  wasWarnedOf(upstream: string, now: number): boolean {
    const told = this.#told.get(upstream);
    if (!told || told.kind === "healthy") return false;
    return told.kind !== "cooling" || told.until <= now;
  }

  /** Tells what has been learned, together with what is learned in the same moment. */
  async tellSoon(env: Env, settings: Settings): Promise<void> {
    if (since(this.#tellingSince) < 5 * TELL_DELAY_MS) return;
    this.#tellingSince = clock.now();
    await clock.wait(TELL_DELAY_MS);
    this.#tellingSince = Number.NEGATIVE_INFINITY;
    await this.#refresh(env, settings);
  }

  /** A conversation's home, if this isolate does not know it and it may be another one than a hash would say. */
  async findHome(env: Env, wanted: Wanted, deadlineMs: number): Promise<void> {
    const { pool } = this;
    if (pool.upstreams.length < 2 || wanted.pinned !== null || pool.homeOf(wanted) !== undefined) return;
    if (!wanted.bound && wanted.thoughtsOf === undefined && since(this.#changedAt) > UNSETTLED_MS) return;
    const names = pool.homeNames(wanted);
    try {
      pool.learnHomes(names, await within(deadlineMs, poolOf(env.UPSTREAM_POOL).homesOf(names)));
    } catch {
      // It begins anew where the hash says, which is where it most likely is.
    }
  }

  /** Never rejects. */
  async #refresh(env: Env, settings: Settings): Promise<void> {
    const nth = ++this.#begun;
    const begunAt = clock.now();
    this.#begunAt = begunAt;
    const hints = [...this.#hints.values()];
    this.#hints.clear();
    const homes = this.pool.takeNewHomes(MAX_HOMES);
    try {
      const message = { version: this.#version, hints, homes, since: this.#cursor, moves: this.#moves };
      const answer = await within(EXCHANGE_DEADLINE_MS, poolOf(env.UPSTREAM_POOL).exchange(message));
      const pool = answer.upstreams && (await this.#open(answer.upstreams, settings));
      this.pool.hearMoved(answer.moved ?? []);
      if (nth < this.#taken) return;
      if (pool) this.#take(pool, answer.version, settings);
      this.#taken = nth;
      this.#cursor = answer.cursor;
      this.#moves = answer.moves ?? 0;
      this.#freshAt = begunAt;
      this.#failedAt = Number.NEGATIVE_INFINITY;
      for (const hint of answer.hints) this.#hear(hint);
    } catch (error) {
      this.#failedAt = clock.now();
      for (const hint of hints) if (!this.#hints.has(hint.upstream)) this.#hints.set(hint.upstream, hint);
      this.pool.returnNewHomes(homes);
      console.error(JSON.stringify({ level: "error", msg: "pool_failed", error: String(error).slice(0, 200) }));
      if (!this.#known) await this.#takeStored(env, settings);
    }
  }

  /** An isolate that has never had a pool asks the database itself; it has all but the others' hints. */
  async #takeStored(env: Env, settings: Settings): Promise<void> {
    try {
      const pool = await this.#open(await loadUpstreams(env.DB), settings);
      if (this.#known) return;
      this.#take(pool, 0, settings);
      this.#taken++;
    } catch (error) {
      console.error(JSON.stringify({ level: "error", msg: "pool_not_loaded", error: String(error).slice(0, 200) }));
    }
  }

  async #open(records: readonly UpstreamRecord[], settings: Settings): Promise<OpenPool> {
    const opened: Upstream[] = [];
    const unusable: Unusables[number][] = [];
    for (const record of records) {
      const upstream = await openUpstream(record, settings);
      if (upstream.ok) opened.push(upstream.value);
      else if (upstream.error.kind !== "removed") {
        unusable.push({ id: record.id, reason: upstream.error.kind });
        // Sealed by a deployment that knows a newer master key than this one, which is about to go.
        const before = this.pool.upstreams.find(({ id }) => id === record.id);
        if (before && upstream.error.kind === "unknown_master") opened.push(before);
      }
    }
    return { records, opened, unusable };
  }

  #take({ records, opened, unusable }: OpenPool, version: number, settings: Settings): void {
    for (const { id, reason } of unusable) {
      console.error(JSON.stringify({ level: "error", msg: "upstream_unusable", upstream: id, reason }));
    }
    const stored = records.some(({ state }) => state !== "removed");
    this.unusable = unusable;
    this.#version = version;
    this.#changedAt = Math.max(0, ...records.map(({ updated_at }) => updated_at));
    const own = [defaultUpstream(settings)];
    // What was made there before others were stored is still to be had.
    if (stored) this.pool.replace(opened, own);
    else this.pool.replace(own);
    this.#known = true;
  }

  /** What another isolate has learned. Its breaker is its own: whether an upstream answers each finds out by itself. */
  #hear({ upstream, kind, until, at, reason, model }: Hint): void {
    if (this.#told.get(upstream)?.at === at || !this.pool.upstreams.some(({ id }) => id === upstream)) return;
    const now = clock.now();
    const health = this.pool.health(upstream);
    if (kind !== "healthy" && kind !== "open" && until > now) health.reason = reason;
    if (kind === "cooling" && until > now) health.coolFor(until - now, model ?? null, now);
    if (kind === "refused" && until > now) health.refusedFor(until - now, now);
  }
}

/** How long ago; a clock that has stepped makes it long. */
const since = (at: number): number => Math.abs(clock.now() - at);

const POOL_AWAY: Failure = { kind: "unavailable", what: "The pool of upstream accounts", retryAfterMs: 1_000 };

const keeper = new Keeper();

/** What `askPool` needs from outside, for one call; a failure where no pool could be had at all. */
export async function poolFor(
  env: Env,
  settings: Settings,
  access: Access,
  record: CallRecord | null = null,
): Promise<Result<Surroundings, Failure>> {
  const away = await keeper.ready(env, settings, access);
  if (away) return err(away);
  const { pool } = keeper;
  const tell = (): void => access.background(keeper.tellSoon(env, settings));
  return ok({
    now: clock.now,
    random: Math.random,
    send: (url, init) => fetch(url, init),
    pool,
    findHome: (wanted) => keeper.findHome(env, wanted, settings.ledgerDeadlineMs),
    moved: tell,
    hint: (upstream, kind, forMs, reason, model) => {
      const at = clock.now();
      const shownMs = kind === "open" ? SHOW_OPEN_MS : forMs;
      keeper.learn({ upstream, kind, until: at + shownMs, reason, at, ...(model === null ? {} : { model }) });
      tell();
    },
    recovered: (upstream) => {
      const at = clock.now();
      if (!keeper.wasWarnedOf(upstream, at)) return;
      keeper.learn({ upstream, kind: "healthy", until: at + SHOW_OPEN_MS, reason: "recovered", at });
      tell();
    },
    renewed: async (upstream) => {
      await keeper.renew(env, settings, access);
      const now = pool.upstreams.find(({ id }) => id === upstream.id);
      return now !== undefined && now.apiKey !== upstream.apiKey;
    },
    isAlive,
    hold: async (upstream, stop) => (record ? hold(upstream, stop, record, settings.queueWaitMs) : nothing),
  });
}

/** A place among the calls that an upstream may have running, from all isolates. One without a limit costs nothing. */
async function hold(
  { id, concurrent_requests }: Upstream,
  stop: Stop | null,
  record: CallRecord,
  waitMs: number,
): ReturnType<Surroundings["hold"]> {
  if (concurrent_requests === null) return nothing;
  const patience = stop ? { forMs: waitMs, signal: stop.signal } : { forMs: 0, signal: null };
  const slot = await leaseBook.holdUpstream(id, record.access, patience);
  switch (slot.kind) {
    case "held":
      return record.holdAlso(slot.held);
    case "unreachable":
      // The limit protects an account and no money, so the call goes on; it is counted as one that nobody admitted.
      record.facts.admission = "fail_open";
      return nothing;
    case "full":
      return slot;
    case "left":
      return { retryAfterMs: 0 };
  }
}

const nothing = (): void => {};

/** The control plane has changed the pool. */
export function outdatePool(): void {
  keeper.outdate();
}

/** The pool as this isolate sees it; for people. */
export function poolView(): { readonly pool: Pool; readonly unusable: Unusables } {
  return keeper;
}

/** The upstream that the Worker's own secrets make. */
function defaultUpstream({ upstreamUrl, upstreamKey }: Settings): Upstream {
  return {
    id: DEFAULT_UPSTREAM,
    base_url: upstreamUrl,
    weight: ONLY_WEIGHT,
    models: null,
    concurrent_requests: null,
    state: "active",
    apiKey: upstreamKey,
  };
}

/** Any answer will do: it is about the connection, and carries no credential. */
async function isAlive(upstream: Upstream, ms: number): Promise<boolean> {
  try {
    const response = await fetch(`${upstream.base_url}/api/hello`, {
      method: "HEAD",
      redirect: "manual",
      signal: AbortSignal.timeout(ms),
    });
    await response.body?.cancel();
    return true;
  } catch {
    return false;
  }
}
