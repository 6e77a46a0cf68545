/**
 * The upkeep of our signing keys, once an hour: a new one each day, the one before retired, ended ones deleted, all of them
 * sealed under the first master key. Done twice, or by two at once, it does no more than done once: whether there is
 * something to do is read from the table, and the next key's number can be taken once.
 */
import type { MasterKey } from "../../upstream/sealing.ts";
import { resealIssuers } from "./issuer-store.ts";
import type { PublicAlgorithm } from "./keys.ts";
import {
  deleteEndedKeys,
  insertSigningKey,
  loadSigningKeys,
  makeSigningKey,
  openSigningKey,
  readVerificationKey,
  resealSigningKey,
  type SigningKeyRecord,
} from "./signing-store.ts";

const DAY_MS = 24 * 3_600_000;
/** So long is a key published before it signs: ten times an isolate's memory, and longer than our key set may be cached. */
export const PUBLISHED_BEFORE_MS = 10 * 60_000;

/** Where the keys are, and what opens them and is asked of them. */
export type SigningRoom = {
  readonly db: D1Database;
  /** The first one seals; all of them open. */
  readonly masterKeys: readonly MasterKey[];
  /** What new keys are made for. */
  readonly alg: PublicAlgorithm;
};

export type KeptKeys = {
  /** Of the key that was made now. Null: none was. */
  readonly made: string | null;
  readonly deleted: number;
  readonly resealed: number;
  /** Keys that no master key at hand opens, or whose row is spoilt: they sign no more. */
  readonly closed: readonly string[];
};

/** Throws what D1 throws; the next hour does what is left. Without a master key no key is made. */
export async function keepSigningKeys(room: SigningRoom, now: number): Promise<KeptKeys> {
  const { db, masterKeys, alg } = room;
  const records = await loadSigningKeys(db);
  const closed: string[] = [];
  let resealed = 0;
  for (const record of records) {
    const works = (await openSigningKey(record, masterKeys)) && (await readVerificationKey(record));
    if (!works) closed.push(record.kid);
    else if (record.sealed_private.master !== masterKeys[0]?.version) {
      if (await resealSigningKey(db, record, masterKeys)) resealed++;
    }
  }
  const newest = records.at(-1);
  const signs = newest !== undefined && !closed.includes(newest.kid);
  let made: string | null = null;
  if (!signs) made = await makeNextKey(room, newest, now, now);
  else if (newest.alg !== alg || dayOf(newest.created_at) < dayOf(now)) {
    made = await makeNextKey(room, newest, now, now + PUBLISHED_BEFORE_MS);
  }
  return { made, deleted: await deleteEndedKeys(db, now), resealed, closed };
}

/** All that is sealed about tokens, under the first master key: how much of it now, and what no key at hand opens. */
export async function resealTokens(
  db: D1Database,
  masterKeys: readonly MasterKey[],
): Promise<{ readonly resealed: number; readonly failed: readonly string[] }> {
  let { resealed, failed } = await resealIssuers(db, masterKeys);
  for (const key of await loadSigningKeys(db)) {
    if (key.sealed_private.master === masterKeys[0]?.version) continue;
    if (await resealSigningKey(db, key, masterKeys)) resealed++;
    else failed = [...failed, key.kid];
  }
  return { resealed, failed };
}

/** The key after `last`, if there is none yet; its name if it was made here. */
export async function makeNextKey(
  { db, masterKeys, alg }: SigningRoom,
  last: Pick<SigningKeyRecord, "seq"> | undefined,
  now: number,
  signsFrom: number,
): Promise<string | null> {
  const [master] = masterKeys;
  if (!master) return null;
  const key = await makeSigningKey(alg, master, (last?.seq ?? 0) + 1, now, signsFrom);
  return (await insertSigningKey(db, key)) ? key.kid : null;
}

/** Days since the epoch, UTC. */
function dayOf(ms: number): number {
  return Math.floor(ms / DAY_MS);
}

/** The cron's part, of everything about tokens that is sealed. Says something only when there was something. */
export async function keepTokens(room: SigningRoom, now: number): Promise<void> {
  try {
    const { made, deleted, resealed, closed } = await keepSigningKeys(room, now);
    const issuers = await resealIssuers(room.db, room.masterKeys);
    const unopened = [...closed, ...issuers.failed];
    if (made === null && deleted + resealed + issuers.resealed + unopened.length === 0) return;
    const done = { made, deleted, resealed: resealed + issuers.resealed, unopened };
    console.log(JSON.stringify({ level: unopened.length > 0 ? "error" : "info", msg: "tokens_kept", ...done }));
  } catch (error) {
    const line = { level: "error", msg: "tokens_not_kept", error: String(error).slice(0, 200) };
    console.error(JSON.stringify(line));
  }
}
