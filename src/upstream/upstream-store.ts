/**
 * Upstream accounts in D1. Every value is bound. A row that somebody has changed by hand costs nobody else: what can't be
 * read of it is a key that does not open, or a list of models without any.
 */
import type { Change } from "../changes/change.ts";
import { ifVersion, writeRecorded } from "../changes/store.ts";
import { parseJson } from "../wire/json.ts";
import type { Sealed, UpstreamRecord } from "./upstream.ts";

/** Live ones at the same time: isolates hold all of them, and look at all of them for a call. */
export const MAX_UPSTREAMS = 100;

type Row = Omit<UpstreamRecord, "models" | "sealed_key"> & { models: string | null; sealed_key: string | null };

const COLUMNS =
  "id, name, base_url, weight, models, concurrent_requests, state, sealed_key, fingerprint, created_at, updated_at, version";

function fromRow(row: Row): UpstreamRecord {
  return {
    ...row,
    models: row.models === null ? null : readModels(parseJson(row.models)),
    sealed_key: row.sealed_key === null ? null : readSealed(parseJson(row.sealed_key)),
  };
}

function readModels(value: unknown): readonly string[] {
  return Array.isArray(value) ? value.filter((model) => typeof model === "string") : [];
}

/** A sealed text as it was stored; whatever else is there becomes one that does not open. */
export function readSealed(value: unknown): Sealed {
  const text = (name: keyof Sealed): string => {
    const field: unknown = typeof value === "object" && value !== null ? Reflect.get(value, name) : undefined;
    return typeof field === "string" ? field : "";
  };
  return { master: text("master"), iv: text("iv"), data: text("data") };
}

/** The values of the changeable columns, in the order of the statements below. */
function changeable(record: UpstreamRecord): unknown[] {
  return [
    record.name,
    record.base_url,
    record.weight,
    record.models === null ? null : JSON.stringify(record.models),
    record.concurrent_requests,
    record.state,
    record.sealed_key === null ? null : JSON.stringify(record.sealed_key),
    record.fingerprint,
    record.updated_at,
    record.version,
  ];
}

/** What an upstream's key is bound to: this column of its row. */
export const placeOf = (id: string): string => `upstreams/${id}/api_key`;

/** False when there are as many as there may be. */
export async function insertUpstream(db: D1Database, record: UpstreamRecord, change: Change): Promise<boolean> {
  const hasRoom = { sql: "(SELECT count(*) FROM upstreams WHERE state <> 'removed') < ?", values: [MAX_UPSTREAMS] };
  const insert = db
    .prepare(
      `INSERT INTO upstreams (name, base_url, weight, models, concurrent_requests, state, sealed_key, fingerprint, updated_at, version, id, created_at)
       SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ? WHERE ${hasRoom.sql}`,
    )
    .bind(...changeable(record), record.id, record.created_at, ...hasRoom.values);
  return writeRecorded(db, change, hasRoom, insert);
}

export async function getUpstream(db: D1Database, id: string): Promise<UpstreamRecord | null> {
  const row = await db.prepare(`SELECT ${COLUMNS} FROM upstreams WHERE id = ?`).bind(id).first<Row>();
  return row ? fromRow(row) : null;
}

/** Replaces a record that has not changed since it was read; false when somebody else was faster. */
export async function updateUpstream(db: D1Database, record: UpstreamRecord, change: Change): Promise<boolean> {
  const before = record.version - 1;
  const update = db
    .prepare(
      `UPDATE upstreams SET name = ?, base_url = ?, weight = ?, models = ?, concurrent_requests = ?, state = ?, sealed_key = ?, fingerprint = ?, updated_at = ?, version = ?
       WHERE id = ? AND version = ?`,
    )
    .bind(...changeable(record), record.id, before);
  return writeRecorded(db, change, ifVersion("upstreams", record.id, before), update);
}

export type UpstreamFilter = {
  readonly removed: boolean;
  /** The last id of the page before. */
  readonly after: string | undefined;
};

/** Newest first. */
export async function listUpstreamRecords(
  db: D1Database,
  { removed, after }: UpstreamFilter,
  limit: number,
): Promise<UpstreamRecord[]> {
  const { results } = await db
    .prepare(
      `SELECT ${COLUMNS} FROM upstreams WHERE (state = 'removed') = ?1 AND (?2 IS NULL OR id < ?2) ORDER BY id DESC LIMIT ?3`,
    )
    .bind(removed ? 1 : 0, after ?? null, limit)
    .all<Row>();
  return results.map(fromRow);
}

/** All that there ever were; removed ones without their keys. */
export async function loadUpstreams(db: D1Database): Promise<UpstreamRecord[]> {
  const { results } = await db.prepare(`SELECT ${COLUMNS} FROM upstreams`).all<Row>();
  return results.map(fromRow);
}

/** Whether any upstream is stored, so that the one of the environment is not used. */
export async function hasUpstreams(db: D1Database): Promise<boolean> {
  return (await db.prepare("SELECT 1 FROM upstreams WHERE state <> 'removed' LIMIT 1").first()) !== null;
}
