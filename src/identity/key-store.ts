/** Key records in D1. Every value is bound; the only text put together here is made of constants. */
import type { Change } from "../changes/change.ts";
import { ALWAYS, ifVersion, writeRecorded } from "../changes/store.ts";
import type { KeyPolicy, KeyRecord } from "./key-record.ts";

type Row = {
  id: string;
  workspace: string;
  name: string;
  scopes: string;
  models: string | null;
  limits: string;
  budget: string | null;
  on_disconnect: KeyRecord["on_disconnect"];
  on_revoke: KeyRecord["on_revoke"];
  fail_open: number;
  timeouts: string | null;
  cache: string | null;
  aliases: string | null;
  guardrails: string | null;
  metadata: string;
  secrets: string;
  created_at: number;
  updated_at: number;
  expires_at: number | null;
  revoked_at: number | null;
  version: number;
};

const COLUMNS =
  "id, workspace, name, scopes, models, limits, budget, on_disconnect, on_revoke, fail_open, timeouts, cache, aliases, guardrails, metadata, secrets, created_at, updated_at, expires_at, revoked_at, version";

function fromRow(row: Row): KeyRecord {
  return {
    ...row,
    scopes: JSON.parse(row.scopes),
    models: row.models === null ? null : JSON.parse(row.models),
    limits: JSON.parse(row.limits),
    budget: row.budget === null ? null : JSON.parse(row.budget),
    fail_open: row.fail_open === 1,
    timeouts: row.timeouts === null ? {} : JSON.parse(row.timeouts),
    cache: row.cache === null ? null : JSON.parse(row.cache),
    aliases: row.aliases === null ? {} : JSON.parse(row.aliases),
    guardrails: row.guardrails === null ? null : JSON.parse(row.guardrails),
    metadata: JSON.parse(row.metadata),
    secrets: JSON.parse(row.secrets),
  };
}

/** The values of the changeable columns, in the order of the statements below. */
function changeable(record: KeyRecord): unknown[] {
  return [
    record.name,
    JSON.stringify(record.scopes),
    record.models === null ? null : JSON.stringify(record.models),
    JSON.stringify(record.limits),
    record.budget === null ? null : JSON.stringify(record.budget),
    record.on_disconnect,
    record.on_revoke,
    record.fail_open ? 1 : 0,
    JSON.stringify(record.timeouts),
    record.cache === null ? null : JSON.stringify(record.cache),
    JSON.stringify(record.aliases),
    record.guardrails === null ? null : JSON.stringify(record.guardrails),
    JSON.stringify(record.metadata),
    JSON.stringify(record.secrets),
    record.updated_at,
    record.expires_at,
    record.revoked_at,
    record.version,
  ];
}

export async function insertKey(db: D1Database, record: KeyRecord, change: Change): Promise<void> {
  const insert = db
    .prepare(
      `INSERT INTO api_keys (name, scopes, models, limits, budget, on_disconnect, on_revoke, fail_open, timeouts, cache, aliases, guardrails, metadata, secrets, updated_at, expires_at, revoked_at, version, id, workspace, created_at)
       VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    )
    .bind(...changeable(record), record.id, record.workspace, record.created_at);
  await writeRecorded(db, change, ALWAYS, insert);
}

export async function getKey(db: D1Database, id: string): Promise<KeyRecord | null> {
  const row = await db.prepare(`SELECT ${COLUMNS} FROM api_keys WHERE id = ?`).bind(id).first<Row>();
  return row ? fromRow(row) : null;
}

/** Replaces a record that has not changed since it was read; false when somebody else was faster. */
export async function updateKey(db: D1Database, record: KeyRecord, change: Change): Promise<boolean> {
  const before = record.version - 1;
  const update = db
    .prepare(
      `UPDATE api_keys SET name = ?, scopes = ?, models = ?, limits = ?, budget = ?, on_disconnect = ?, on_revoke = ?, fail_open = ?, timeouts = ?, cache = ?, aliases = ?, guardrails = ?, metadata = ?, secrets = ?, updated_at = ?, expires_at = ?, revoked_at = ?, version = ?
       WHERE id = ? AND version = ?`,
    )
    .bind(...changeable(record), record.id, before);
  return writeRecorded(db, change, ifVersion("api_keys", record.id, before), update);
}

export type KeyFilter = {
  readonly workspace?: string | undefined;
  readonly revoked?: boolean | undefined;
  /** The last id of the page before. */
  readonly after?: string | undefined;
};

/** Newest first. */
export async function listKeyRecords(db: D1Database, filter: KeyFilter, limit: number): Promise<KeyRecord[]> {
  const where: string[] = [];
  const values: unknown[] = [];
  if (filter.workspace !== undefined) {
    where.push("workspace = ?");
    values.push(filter.workspace);
  }
  if (filter.revoked !== undefined) where.push(filter.revoked ? "revoked_at IS NOT NULL" : "revoked_at IS NULL");
  if (filter.after !== undefined) {
    where.push("id < ?");
    values.push(filter.after);
  }
  const condition = where.length > 0 ? `WHERE ${where.join(" AND ")}` : "";
  const { results } = await db
    .prepare(`SELECT ${COLUMNS} FROM api_keys ${condition} ORDER BY id DESC LIMIT ?`)
    .bind(...values, limit)
    .all<Row>();
  return results.map(fromRow);
}

/** Whether any key, revoked ones too, names this workspace. */
export async function namesWorkspace(db: D1Database, workspace: string): Promise<boolean> {
  return (await db.prepare("SELECT 1 FROM api_keys WHERE workspace = ? LIMIT 1").bind(workspace).first()) !== null;
}

/** What a key's ledger enforces, or null for a key that does not exist. */
export async function loadPolicy(db: D1Database, id: string): Promise<KeyPolicy | null> {
  const record = await getKey(db, id);
  return record && policyOf(record);
}

/** The enforced part of a record. */
export function policyOf(record: KeyRecord): KeyPolicy {
  const { id, version, workspace, name, scopes, models, limits, budget } = record;
  const { on_disconnect, on_revoke, fail_open, timeouts, cache, aliases, guardrails, expires_at, revoked_at, secrets } =
    record;
  return {
    ...{ id, version, workspace, name, scopes, models, limits, budget },
    ...{ on_disconnect, on_revoke, fail_open, timeouts, cache, aliases, guardrails, expires_at, revoked_at, secrets },
  };
}
