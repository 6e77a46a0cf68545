/**
 * The pool's upkeep: keys that an older master key has sealed are sealed anew under the first one, and the pool's object
 * is told every upstream again, which is how a change that did not reach it gets there. Once an hour, and on demand.
 */
import { type Author, SYSTEM } from "../changes/change.ts";
import { settingsOf } from "../env.ts";
import { poolOf } from "./protocol.ts";
import { type MasterKey, open, seal } from "./sealing.ts";
import type { UpstreamRecord } from "./upstream.ts";
import { getUpstream, loadUpstreams, placeOf, updateUpstream } from "./upstream-store.ts";
import { viewOf } from "./view.ts";

/** A row that others keep changing meanwhile is left to the next time. */
const ATTEMPTS = 3;

type Resealed = {
  readonly resealed: number;
  /** Those still under an older master key, here or in the pool's object: it is needed on. */
  readonly failed: readonly string[];
};

/** Throws what D1 throws; whatever happens to a single upstream is told in `failed`. */
export async function resealUpstreams(
  env: Env,
  masterKeys: readonly MasterKey[],
  now: () => number,
  author: Author,
): Promise<Resealed> {
  let resealed = 0;
  const failed: string[] = [];
  for (const record of await loadUpstreams(env.DB)) {
    const current = await sealAnew(env.DB, masterKeys, record, now, author);
    if (current && current.version !== record.version) resealed++;
    if (!current || !(await tell(env, current))) failed.push(record.id);
  }
  return { resealed, failed };
}

/** The record under the first master key; null if that can't be. */
async function sealAnew(
  db: D1Database,
  [first, ...others]: readonly MasterKey[],
  record: UpstreamRecord,
  now: () => number,
  author: Author,
): Promise<UpstreamRecord | null> {
  let current: UpstreamRecord | null = record;
  for (let attempt = 0; attempt < ATTEMPTS && current; attempt++) {
    if (current.sealed_key === null || current.sealed_key.master === first?.version) return current;
    const place = placeOf(current.id);
    const secret = first ? await open([first, ...others], current.sealed_key, place) : null;
    if (!first || !secret?.ok) return null;
    const sealed_key = await seal(first, secret.value, place);
    const at = now();
    const next: UpstreamRecord = { ...current, sealed_key, updated_at: at, version: current.version + 1 };
    const [before, after] = [viewOf(current), viewOf(next)];
    const change = { author, at, action: "upstream.reseal", target: current.id, before, after } as const;
    if (await updateUpstream(db, next, change)) return next;
    current = await getUpstream(db, record.id);
  }
  return null;
}

async function tell(env: Env, record: UpstreamRecord): Promise<boolean> {
  try {
    await poolOf(env.UPSTREAM_POOL).put(record);
    return true;
  } catch (error) {
    const line = { level: "error", msg: "pool_failed", upstream: record.id, error: String(error).slice(0, 200) };
    console.error(JSON.stringify(line));
    return false;
  }
}

/** The cron's part. Says something only when there was something; a failure waits for the next hour. */
export async function keepPool(env: Env, now: () => number): Promise<void> {
  const settings = settingsOf(env);
  // The other part of the cron says so.
  if (!settings.ok) return;
  try {
    const done = await resealUpstreams(env, settings.value.masterKeys, now, SYSTEM);
    const level = done.failed.length > 0 ? "error" : "info";
    if (done.resealed > 0 || done.failed.length > 0) console.log(JSON.stringify({ level, msg: "resealed", ...done }));
  } catch (error) {
    console.error(JSON.stringify({ level: "error", msg: "reseal_failed", error: String(error).slice(0, 200) }));
  }
}
