/** Workspaces in D1. Every value is bound. */
import type { Change } from "../changes/change.ts";
import { ifVersion, writeRecorded } from "../changes/store.ts";
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
  guardrails: string | null;
};

const COLUMNS = "id, name, limits, budget, metadata, created_at, updated_at, version, cache_epoch, guardrails";

function fromRow(row: Row): WorkspaceRecord {
  return {
    ...row,
    limits: JSON.parse(row.limits),
    budget: row.budget === null ? null : JSON.parse(row.budget),
    metadata: JSON.parse(row.metadata),
    guardrails: row.guardrails === null ? null : JSON.parse(row.guardrails),
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
    record.cache_epoch,
    record.guardrails === null ? null : JSON.stringify(record.guardrails),
  ];
}

/** The name of a workspace's ledger. No key's id has a colon. */
export function workspaceLedger(id: string): string {
  return `ws:${id}`;
}

/** False when there is a workspace with this id already, which stays as it is. */
export async function insertWorkspace(db: D1Database, record: WorkspaceRecord, change: Change): Promise<boolean> {
  const insert = db
    .prepare(
      `INSERT INTO workspaces (name, limits, budget, metadata, updated_at, version, cache_epoch, guardrails, id, created_at)
       VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING`,
    )
    .bind(...changeable(record), record.id, record.created_at);
  const isNew = { sql: "NOT EXISTS (SELECT 1 FROM workspaces WHERE id = ?)", values: [record.id] };
  return writeRecorded(db, change, isNew, insert);
}

export async function getWorkspace(db: D1Database, id: string): Promise<WorkspaceRecord | null> {
  const row = await db.prepare(`SELECT ${COLUMNS} FROM workspaces WHERE id = ?`).bind(id).first<Row>();
  return row ? fromRow(row) : null;
}

/** Replaces a record that has not changed since it was read; false when somebody else was faster. */
export async function updateWorkspace(db: D1Database, record: WorkspaceRecord, change: Change): Promise<boolean> {
  const before = record.version - 1;
  const update = db
    .prepare(
      `UPDATE workspaces SET name = ?, limits = ?, budget = ?, metadata = ?, updated_at = ?, version = ?, cache_epoch = ?, guardrails = ?
       WHERE id = ? AND version = ?`,
    )
    .bind(...changeable(record), record.id, before);
  return writeRecorded(db, change, ifVersion("workspaces", record.id, before), update);
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
  const { id, version, limits, budget, cache_epoch, guardrails } = record;
  return { id, version, limits, budget, cache_epoch, guardrails };
}
