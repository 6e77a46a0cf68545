/**
 * Batches and files in D1: which workspace made each, and which upstream holds it. Every value is bound.
 *
 * A row is written before the upstream is asked, so that nothing is ever made there that nobody here knows of: a call
 * that dies on its way leaves a row without an id, and its request id finds it in log and audit. A deleted one stays for a
 * while, because a page may go on from it.
 */
import { err, ok, type Result } from "../result.ts";
import type { Failure } from "../wire/errors.ts";
import { within } from "../within.ts";

/** The tables. */
export type Kind = "batches" | "files";

export type Owner = { readonly workspace: string; readonly keyId: string };

export type Owned = {
  readonly seq: number;
  readonly id: string;
  readonly upstream: string;
  readonly workspace: string;
  readonly key_id: string;
  readonly created_at: number;
};

/** How long a call waits for D1. */
const DEADLINE_MS = 3_000;
/** How long pages may still go on from a deleted one. */
const DELETED_KEPT_MS = 7 * 86_400_000;

const COLUMNS = "seq, id, upstream, workspace, key_id, created_at";
const LIVE = "id IS NOT NULL AND deleted_at IS NULL";

const AWAY: Failure = {
  kind: "register_away",
  what: "Whose batches and files are whose can't be looked up at the moment.",
};

/** What D1 says, or the failure to answer with while it does not. */
export async function asked<T>(work: Promise<T>): Promise<Result<T, Failure>> {
  try {
    return ok(await within(DEADLINE_MS, work));
  } catch (error) {
    console.error(JSON.stringify({ level: "error", msg: "register_unavailable", error: String(error) }));
    return err(AWAY);
  }
}

/** Notes that one is about to be made, and forgets what was deleted long ago. Returns the row's `seq`. */
export async function announce(
  db: D1Database,
  kind: Kind,
  { workspace, keyId }: Owner,
  requestId: string,
  now: number,
): Promise<number> {
  const [made] = await db.batch<{ seq: number }>([
    db
      .prepare(`INSERT INTO ${kind} (request_id, workspace, key_id, created_at) VALUES (?, ?, ?, ?) RETURNING seq`)
      .bind(requestId, workspace, keyId, now),
    db.prepare(`DELETE FROM ${kind} WHERE workspace = ? AND deleted_at < ?`).bind(workspace, now - DELETED_KEPT_MS),
  ]);
  const seq = made?.results[0]?.seq;
  if (seq === undefined) throw new Error("D1 stored a row and did not say which one");
  return seq;
}

/** It was not made after all. */
export async function withdraw(db: D1Database, kind: Kind, seq: number): Promise<void> {
  await db.prepare(`DELETE FROM ${kind} WHERE seq = ? AND id IS NULL`).bind(seq).run();
}

/** It was made. False: this upstream has given the same id to another workspace, whose it stays. */
export async function register(
  db: D1Database,
  kind: Kind,
  seq: number,
  id: string,
  upstream: string,
): Promise<boolean> {
  const [own, before] = await db.batch([
    db.prepare(`UPDATE OR IGNORE ${kind} SET id = ?, upstream = ? WHERE seq = ?`).bind(id, upstream, seq),
    // An upstream may answer with one that the workspace has already.
    db
      .prepare(
        `UPDATE ${kind} SET deleted_at = NULL WHERE id = ? AND upstream = ? AND seq <> ?
         AND workspace = (SELECT workspace FROM ${kind} WHERE seq = ?)`,
      )
      .bind(id, upstream, seq, seq),
    db.prepare(`DELETE FROM ${kind} WHERE seq = ? AND id IS NULL`).bind(seq),
  ]);
  return (own?.meta.changes ?? 0) > 0 || (before?.meta.changes ?? 0) > 0;
}

/** One that the workspace has; null for every other id, whatever the reason. */
export async function find(db: D1Database, kind: Kind, workspace: string, id: string): Promise<Owned | null> {
  return db
    .prepare(`SELECT ${COLUMNS} FROM ${kind} WHERE id = ? AND workspace = ? AND ${LIVE} ORDER BY seq DESC LIMIT 1`)
    .bind(id, workspace)
    .first<Owned>();
}

/** It is not at its upstream any more. */
export async function forget(db: D1Database, kind: Kind, seqs: readonly number[], now: number): Promise<void> {
  await db
    .prepare(`UPDATE ${kind} SET deleted_at = ? WHERE seq IN (SELECT value FROM json_each(?))`)
    .bind(now, JSON.stringify(seqs))
    .run();
}

/** Where a page begins: behind one (`older`), or before it (`newer`). It may have been deleted meanwhile. */
export type Start = { readonly direction: "older" | "newer"; readonly seq: number };

/** The place of one that the workspace has or had; null: it never had one of this id. */
export async function placeOf(db: D1Database, kind: Kind, workspace: string, id: string): Promise<number | null> {
  const row = await db
    .prepare(`SELECT seq FROM ${kind} WHERE id = ? AND workspace = ? ORDER BY seq DESC LIMIT 1`)
    .bind(id, workspace)
    .first<{ seq: number }>();
  return row?.seq ?? null;
}

/** Rows from a place on, the nearest first. */
export async function rowsFrom(
  db: D1Database,
  kind: Kind,
  workspace: string,
  start: Start | null,
  limit: number,
): Promise<Owned[]> {
  const [sign, order] = start?.direction === "newer" ? [">", "ASC"] : ["<", "DESC"];
  const { results } = await db
    .prepare(
      `SELECT ${COLUMNS} FROM ${kind} WHERE workspace = ? AND seq ${sign} ? AND ${LIVE} ORDER BY seq ${order} LIMIT ?`,
    )
    .bind(workspace, start?.seq ?? Number.MAX_SAFE_INTEGER, limit)
    .all<Owned>();
  return results;
}

/** Those of the ids that the workspace has, newest first. */
export async function rowsOf(db: D1Database, kind: Kind, workspace: string, ids: readonly string[]): Promise<Owned[]> {
  const { results } = await db
    .prepare(
      `SELECT ${COLUMNS} FROM ${kind} WHERE workspace = ? AND id IN (SELECT value FROM json_each(?)) AND ${LIVE}
       ORDER BY seq DESC`,
    )
    .bind(workspace, JSON.stringify(ids))
    .all<Owned>();
  return results;
}

/**
 * The one upstream that holds all these files; null: no files, no upstream. A failure names a file that the workspace does
 * not have (as if there were none of this id at all), or two that different upstreams hold.
 */
export async function ownedUpstream(
  db: D1Database,
  workspace: string,
  fileIds: readonly string[],
): Promise<Result<string | null, Failure>> {
  if (fileIds.length === 0) return ok(null);
  const rows = await asked(rowsOf(db, "files", workspace, fileIds));
  if (!rows.ok) return rows;
  const held = new Map(rows.value.map(({ id, upstream }) => [id, upstream]));
  let first: readonly [id: string, upstream: string] | undefined;
  for (const id of fileIds) {
    const upstream = held.get(id);
    if (upstream === undefined) return err({ kind: "not_found", what: `There is no file \`${id}\`.` });
    first ??= [id, upstream];
    if (upstream !== first[1]) {
      return err({
        kind: "invalid_request",
        message:
          `The files \`${first[0]}\` and \`${id}\` are held by different upstream accounts, and no call can use both. ` +
          "Upload one of them again.",
      });
    }
  }
  return ok(first?.[1] ?? null);
}
