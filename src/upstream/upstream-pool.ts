/**
 * The pool's one object: what isolates ask instead of D1. It keeps the upstreams with their keys sealed (it never opens
 * one), what isolates tell each other of them, and where conversations live. It learns the upstreams from D1 at its first
 * call and from the control plane after every change; from then on D1 may be away. A message is taken over without an
 * await between reading and writing, and stored before it is answered.
 *
 * Left open: a change that reached D1 and not this object is told again by the hourly cron, if the administrator does
 * not repeat the call as the answer says.
 */
import { DurableObject } from "cloudflare:workers";
import { within } from "../within.ts";
import {
  HINT_KINDS,
  HINT_REASONS,
  type Hint,
  type Home,
  isUpstreamId,
  MAX_AFFINITY_CHARS,
  MAX_HINT_MS,
  MAX_HINTS,
  MAX_HOMES,
  MAX_MODEL_CHARS,
  MAX_MOVED,
  type Pool,
  type PoolAnswer,
  type PoolMessage,
} from "./protocol.ts";
import { DEFAULT_UPSTREAM, type UpstreamRecord } from "./upstream.ts";
import { loadUpstreams } from "./upstream-store.ts";

const LOAD_DEADLINE_MS = 5_000;
const DAY_MS = 24 * 60 * 60 * 1_000;
/** A conversation that has not been asked for in this time begins anew. No prompt cache lives an hour. */
const HOME_KEPT_MS = 30 * DAY_MS;
/** Some 40 MB. The ones longest unused go. */
export const MAX_KEPT_HOMES = 200_000;
/** A use is noted only when the one noted is older than this, so that reading seldom writes. */
const NOTE_USE_MS = DAY_MS;
const CLEAN_EVERY_MS = 6 * 60 * 60 * 1_000;

export class UpstreamPool extends DurableObject<Env> implements Pool {
  readonly #upstreams = new Map<string, UpstreamRecord>();
  readonly #hints = new Map<string, Hint>();
  readonly #sql: SqlStorage;
  #loaded: boolean;
  #loading: Promise<void> | undefined;
  #version: number;
  #cursor: number;
  /** Lost with the object: an isolate that has not heard of a move by then goes on where the conversation was. */
  readonly #moved: { readonly nth: number; readonly home: Home }[] = [];
  #moves = 0;
  /** How many are stored; undefined until somebody needs to know. */
  #homes: number | undefined;

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env);
    const { sql } = ctx.storage;
    this.#sql = sql;
    const table = (text: string): unknown => sql.exec(`CREATE TABLE IF NOT EXISTS ${text}`);
    table(
      "pool (id INTEGER PRIMARY KEY CHECK (id = 1), loaded INTEGER NOT NULL, version INTEGER NOT NULL, cursor INTEGER NOT NULL)",
    );
    table("upstream (id TEXT PRIMARY KEY, json TEXT NOT NULL) WITHOUT ROWID");
    table("hint (upstream TEXT PRIMARY KEY, json TEXT NOT NULL) WITHOUT ROWID");
    table(
      "home (affinity TEXT PRIMARY KEY, upstream TEXT NOT NULL, at INTEGER NOT NULL, used INTEGER NOT NULL) WITHOUT ROWID",
    );
    sql.exec("CREATE INDEX IF NOT EXISTS home_by_use ON home (used)");
    const [state] = sql
      .exec<{ loaded: number; version: number; cursor: number }>("SELECT loaded, version, cursor FROM pool")
      .toArray();
    this.#loaded = state?.loaded === 1;
    this.#version = state?.version ?? 0;
    this.#cursor = state?.cursor ?? 0;
    for (const { json } of sql.exec<{ json: string }>("SELECT json FROM upstream")) {
      const record = JSON.parse(json) as UpstreamRecord;
      this.#upstreams.set(record.id, record);
    }
    for (const { json } of sql.exec<{ json: string }>("SELECT json FROM hint")) {
      const hint = JSON.parse(json) as Hint;
      this.#hints.set(hint.upstream, hint);
    }
  }

  async exchange(message: PoolMessage): Promise<PoolAnswer> {
    if (!this.#loaded) await this.#load();
    const now = Date.now();
    for (const hint of listed(message.hints, MAX_HINTS)) this.#takeHint(hint, now);
    // What the isolate itself tells now it knows.
    const known = whole(message.moves) ?? 0;
    const moved = this.#moved.filter(({ nth }) => nth > known).map(({ home }) => home);
    const chosenAt = Math.min(now, whole(message.at) ?? now);
    for (const home of listed(message.homes, MAX_HOMES)) this.#takeHome(home, chosenAt, now);
    const live = [...this.#upstreams.values()].filter(({ state }) => state !== "removed");
    return {
      version: this.#version,
      upstreams: message.version === this.#version ? null : live,
      hints: this.#inForce(now),
      cursor: this.#cursor,
      moved,
      moves: this.#moves,
    };
  }

  async homesOf(affinities: readonly string[]): Promise<(string | null)[]> {
    const now = Date.now();
    return affinities.map((affinity, i) => {
      const home = i < MAX_HOMES && isAffinity(affinity) ? this.#homeOf(affinity) : undefined;
      if (!home || home.used <= now - HOME_KEPT_MS || this.#upstreams.get(home.upstream)?.state === "removed")
        return null;
      if (home.used < now - NOTE_USE_MS) this.#sql.exec("UPDATE home SET used = ? WHERE affinity = ?", now, affinity);
      return home.upstream;
    });
  }

  async put(record: UpstreamRecord): Promise<void> {
    this.#take(record);
    this.#storeState();
  }

  async hints(): Promise<readonly Hint[]> {
    return this.#inForce(Date.now());
  }

  /** Never throws: an alarm that throws is given up after six tries. */
  override async alarm(): Promise<void> {
    try {
      const now = Date.now();
      this.#sql.exec("DELETE FROM home WHERE used <= ?", now - HOME_KEPT_MS);
      this.#homes = undefined;
      for (const [upstream, hint] of this.#hints) if (!isInForce(hint, now)) this.#dropHint(upstream);
      if (this.#hints.size > 0 || this.#countHomes() > 0) await this.ctx.storage.setAlarm(now + CLEAN_EVERY_MS);
    } catch (error) {
      console.error(JSON.stringify({ level: "error", msg: "pool_alarm_failed", error: String(error).slice(0, 200) }));
    }
  }

  /** All who wait share one look; what was put meanwhile is newer and stays. */
  #load(): Promise<void> {
    this.#loading ??= within(LOAD_DEADLINE_MS, loadUpstreams(this.env.DB))
      .then((records) => {
        for (const record of records) this.#take(record);
        this.#loaded = true;
        // A pool of none has a version too, so that an isolate that has it is told so.
        if (this.#version === 0) this.#version = Date.now();
        this.#storeState();
      })
      .finally(() => {
        this.#loading = undefined;
      });
    return this.#loading;
  }

  #take(record: UpstreamRecord): void {
    const known = this.#upstreams.get(record.id);
    if (known && record.version <= known.version) return;
    this.#upstreams.set(record.id, record);
    this.#sql.exec("INSERT OR REPLACE INTO upstream (id, json) VALUES (?, ?)", record.id, JSON.stringify(record));
    if (record.state === "removed") this.#dropHint(record.id);
    // By the clock, so that an object that has lost everything never gives a number of before to another pool.
    this.#version = Math.max(this.#version + 1, Date.now());
  }

  #takeHint(told: Hint, now: number): void {
    const hint = readHint(told, now);
    // What is not in the pool is nobody's concern, and the pool bounds how many there can be.
    if (!hint || !this.#isLive(hint.upstream)) return;
    const known = this.#hints.get(hint.upstream);
    // One from a clock that was ahead of ours, which has stepped back, keeps no other one out.
    const stands = known !== undefined && known.at <= now;
    if (stands && (hint.at < known.at || (hint.at === known.at && hint.until <= known.until))) return;
    this.#hints.set(hint.upstream, hint);
    this.#sql.exec("INSERT OR REPLACE INTO hint (upstream, json) VALUES (?, ?)", hint.upstream, JSON.stringify(hint));
    this.#cursor++;
    this.#storeState();
    this.#armSoon();
  }

  #takeHome([affinity, upstream]: Home, at: number, now: number): void {
    if (!isAffinity(affinity) || typeof upstream !== "string" || !isUpstreamId(upstream)) return;
    const known = this.#homeOf(affinity);
    // One that was chosen after now was chosen before a clock stepped back.
    if (known && known.at <= now) {
      if (known.at > at) return;
      if (known.upstream === upstream && known.used > now - NOTE_USE_MS) return;
    }
    if (!known) this.#makeRoom();
    else if (known.upstream !== upstream) {
      // By the clock, so that an object that begins anew never gives a number of before to another move.
      this.#moves = Math.max(this.#moves + 1, now);
      this.#moved.push({ nth: this.#moves, home: [affinity, upstream] });
      if (this.#moved.length > MAX_MOVED) this.#moved.shift();
    }
    this.#sql.exec(
      "INSERT OR REPLACE INTO home (affinity, upstream, at, used) VALUES (?, ?, ?, ?)",
      affinity,
      upstream,
      at,
      now,
    );
    this.#armSoon();
  }

  #homeOf(affinity: string): { upstream: string; at: number; used: number } | undefined {
    return this.#sql
      .exec<{ upstream: string; at: number; used: number }>(
        "SELECT upstream, at, used FROM home WHERE affinity = ?",
        affinity,
      )
      .toArray()[0];
  }

  /** For one home more. */
  #makeRoom(): void {
    const homes = this.#countHomes();
    const over = homes + 1 - MAX_KEPT_HOMES;
    if (over > 0) {
      this.#sql.exec("DELETE FROM home WHERE affinity IN (SELECT affinity FROM home ORDER BY used LIMIT ?)", over);
    }
    this.#homes = homes + 1 - Math.max(0, over);
  }

  /** Counted once, and then kept up: the count reads them all. */
  #countHomes(): number {
    this.#homes ??= this.#sql.exec<{ n: number }>("SELECT count(*) AS n FROM home").one().n;
    return this.#homes;
  }

  #inForce(now: number): Hint[] {
    return [...this.#hints.values()].filter((hint) => isInForce(hint, now));
  }

  #dropHint(upstream: string): void {
    this.#hints.delete(upstream);
    this.#sql.exec("DELETE FROM hint WHERE upstream = ?", upstream);
  }

  #isLive(id: string): boolean {
    const state = id === DEFAULT_UPSTREAM ? "active" : this.#upstreams.get(id)?.state;
    return state !== undefined && state !== "removed";
  }

  #storeState(): void {
    this.#sql.exec(
      "INSERT OR REPLACE INTO pool (id, loaded, version, cursor) VALUES (1, ?, ?, ?)",
      this.#loaded ? 1 : 0,
      this.#version,
      this.#cursor,
    );
  }

  /** An alarm that is set already stays: one that were moved with every message would never come. */
  #armSoon(): void {
    const { storage } = this.ctx;
    this.ctx.waitUntil(
      storage.getAlarm().then((at) => (at === null ? storage.setAlarm(Date.now() + CLEAN_EVERY_MS) : undefined)),
    );
  }
}

/** A list of at most so many, also where the Worker of another release sends none. */
function listed<T>(list: readonly T[] | undefined, most: number): readonly T[] {
  return Array.isArray(list) ? list.slice(0, most) : [];
}

const whole = (value: unknown): number | undefined => (Number.isSafeInteger(value) ? (value as number) : undefined);

const isAffinity = (text: unknown): boolean =>
  typeof text === "string" && text.length > 0 && text.length <= MAX_AFFINITY_CHARS;

/** One that would last longer than any can is of before the clock stepped back. */
const isInForce = ({ until }: Hint, now: number): boolean => until > now && until - now <= MAX_HINT_MS;

/** A hint within its bounds, or null for one that this release can't read. A clock ahead of ours counts as ours. */
function readHint(told: Hint, now: number): Hint | null {
  const { upstream, kind } = told;
  const until = whole(told.until);
  const at = whole(told.at);
  if (until === undefined || at === undefined || !HINT_KINDS.includes(kind)) return null;
  if (typeof upstream !== "string" || !isUpstreamId(upstream)) return null;
  const reason = HINT_REASONS.includes(told.reason) ? told.reason : "other";
  const model = typeof told.model === "string" ? { model: told.model.slice(0, MAX_MODEL_CHARS) } : {};
  return { upstream, kind, until: Math.min(until, now + MAX_HINT_MS), reason, at: Math.min(at, now), ...model };
}
