/** Workspaces in D1. Every value is bound. */
import type { Rules, WorkspaceRecord } from "./key-record.ts";

type Row = {
  id: string;
  name: string;
  limits: string;
  budget: string | null;
  metadata: string;
  created_at: number;
  updated_at: number;
  version: number;
  cache_epoch: number;
};

const COLUMNS = "id, name, limits, budget, metadata, created_at, updated_at, version, cache_epoch";

function fromRow(row: Row): WorkspaceRecord {
  return {
    ...row,
    limits: JSON.parse(row.limits),
    budget: row.budget === null ? null : JSON.parse(row.budget),
    metadata: JSON.parse(row.metadata),
  };
}

/** The values of the changeable columns, in the order of the statements below. */
function changeable(record: WorkspaceRecord): unknown[] {
  return [
    record.name,
    JSON.stringify(record.limits),
    record.budget === null ? null : JSON.stringify(record.budget),
    JSON.stringify(record.metadata),
    record.updated_at,
    record.version,
  ];
}

/** The name of a workspace's ledger. No key's id has a colon. */
export function workspaceLedger(id: string): string {
  return `ws:${id}`;
}

/** False when there is a workspace with this id already, which stays as it is. */
export async function insertWorkspace(db: D1Database, record: WorkspaceRecord): Promise<boolean> {
  const { meta } = await db
    .prepare(
      `INSERT INTO workspaces (name, limits, budget, metadata, updated_at, version, id, created_at)
       VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING`,
    )
    .bind(...changeable(record), record.id, record.created_at)
    .run();
  return meta.changes > 0;
}

export async function getWorkspace(db: D1Database, id: string): Promise<WorkspaceRecord | null> {
  const row = await db.prepare(`SELECT ${COLUMNS} FROM workspaces WHERE id = ?`).bind(id).first<Row>();
  return row ? fromRow(row) : null;
}

/** Replaces a record that has not changed since it was read; false when somebody else was faster. */
export async function updateWorkspace(db: D1Database, record: WorkspaceRecord): Promise<boolean> {
  const { meta } = await db
    .prepare(
      `UPDATE workspaces SET name = ?, limits = ?, budget = ?, metadata = ?, updated_at = ?, version = ?
       WHERE id = ? AND version = ?`,
    )
    .bind(...changeable(record), record.id, record.version - 1)
    .run();
  return meta.changes > 0;
}

/**
 * Lets no cached answer of a workspace be found again, and makes a workspace of which there is no record: one that limits
 * nothing. Needs no version, since no two purges mean different things.
 */
export async function purgeCache(db: D1Database, id: string, at: number): Promise<WorkspaceRecord> {
  const row = await db
    .prepare(
      `INSERT INTO workspaces (id, name, limits, budget, metadata, created_at, updated_at, version, cache_epoch)
       VALUES (?1, ?1, '{}', NULL, '{}', ?2, ?2, 1, 1)
       ON CONFLICT (id) DO UPDATE SET cache_epoch = cache_epoch + 1, version = version + 1, updated_at = ?2
       RETURNING ${COLUMNS}`,
    )
    .bind(id, at)
    .first<Row>();
  if (!row) throw new Error("an upsert that returns nothing");
  return fromRow(row);
}

/**
 * Newest first. Ids that people choose do not sort by time, so the page goes on from the moment at which the
 * workspace `after`, the last of the page before, was made; none is ever deleted.
 */
export async function listWorkspaceRecords(
  db: D1Database,
  after: string | undefined,
  limit: number,
): Promise<WorkspaceRecord[]> {
  const condition =
    after === undefined ? "" : "WHERE (created_at, id) < (SELECT created_at, id FROM workspaces WHERE id = ?)";
  const { results } = await db
    .prepare(`SELECT ${COLUMNS} FROM workspaces ${condition} ORDER BY created_at DESC, id DESC LIMIT ?`)
    .bind(...(after === undefined ? [] : [after]), limit)
    .all<Row>();
  return results.map(fromRow);
}

/** What a workspace's ledger enforces, or null for a workspace that was never made. */
export async function loadWorkspaceRules(db: D1Database, id: string): Promise<Rules | null> {
  const record = await getWorkspace(db, id);
  return record && rulesOf(record);
}

/** The enforced part of a record. */
export function rulesOf(record: WorkspaceRecord): Rules {
  const { id, version, limits, budget, cache_epoch } = record;
  return { id, version, limits, budget, cache_epoch };
}
