/**
 * The change log in D1. Nothing of the control plane is written but together with its change, in one transaction: either
 * both are stored or neither. Stores of records therefore take a `Change` for each write and hand it on to `writeRecorded`.
 */
import { newId } from "../wire/ids.ts";
import type { Change } from "./change.ts";

type Expression = { readonly sql: string; readonly values: readonly unknown[] };
/** When a write takes effect: a condition on what is stored before it, as its own statement has it. */
export type When = Expression;

/** Of a write that takes effect, or fails as a whole. */
export const ALWAYS: When = { sql: "true", values: [] };

/** Of a write that replaces version `version` of a record. */
export function ifVersion(
  table: "api_keys" | "workspaces" | "upstreams" | "issuers",
  id: string,
  version: number,
): When {
  return { sql: `EXISTS (SELECT 1 FROM ${table} WHERE id = ? AND version = ?)`, values: [id, version] };
}

/**
 * Runs a write and keeps its change if it takes effect; false if it did not. The change comes first, so that the condition
 * is asked of the same rows that the write meets.
 */
export async function writeRecorded(
  db: D1Database,
  change: Change,
  when: When,
  write: D1PreparedStatement,
): Promise<boolean> {
  const [first] = await db.batch([recorded(db, change, when), write]);
  return (first?.results.length ?? 0) > 0;
}

/**
 * What keeps a change, for a store that runs transactions of its own; its row is a result if it is kept. `filledIn`: what
 * SQL makes of `after`, which is its first value, where only the transaction knows all of it.
 */
export function recorded(
  db: D1Database,
  { author, at, action, target, before, after }: Change,
  when: When = ALWAYS,
  filledIn: Expression = { sql: "?", values: [] },
): D1PreparedStatement {
  const text = (value: object | null): string | null => (value === null ? null : JSON.stringify(value));
  const kind = action.slice(0, action.indexOf("."));
  return db
    .prepare(
      `INSERT INTO changes (id, at, actor, action, kind, target, before, after, request_id)
       SELECT ?, ?, ?, ?, ?, ?, ?, ${filledIn.sql}, ? WHERE ${when.sql} RETURNING id`,
    )
    .bind(
      newId("chg", at),
      at,
      author.actor,
      action,
      kind,
      target,
      text(before),
      text(after),
      ...filledIn.values,
      author.requestId,
      ...when.values,
    );
}

export type StoredChange = {
  readonly id: string;
  readonly at: number;
  readonly actor: string;
  readonly action: string;
  readonly kind: string;
  readonly target: string;
  /** JSON text. */
  readonly before: string | null;
  readonly after: string | null;
  readonly request_id: string | null;
};

export type ChangeFilter = {
  readonly kind?: string;
  readonly target?: string;
  readonly actor?: string;
  /** Milliseconds since the epoch, inclusive. */
  readonly from?: number;
  /** Milliseconds since the epoch, exclusive. */
  readonly to?: number;
  /** The last id of the page before. */
  readonly cursor?: string;
};

/** The last ones first, in the order of the writes. */
export async function listChanges(db: D1Database, filter: ChangeFilter, limit: number): Promise<StoredChange[]> {
  const terms: readonly (readonly [text: string, value: unknown])[] = [
    ["kind = ?", filter.kind],
    ["target = ?", filter.target],
    ["actor = ?", filter.actor],
    ["at >= ?", filter.from],
    ["at < ?", filter.to],
    ["seq < (SELECT seq FROM changes WHERE id = ?)", filter.cursor],
  ];
  const given = terms.filter(([, value]) => value !== undefined);
  const where = given.length > 0 ? `WHERE ${given.map(([text]) => text).join(" AND ")}` : "";
  const { results } = await db
    .prepare(
      `SELECT id, at, actor, action, kind, target, before, after, request_id FROM changes ${where} ORDER BY seq DESC LIMIT ?`,
    )
    .bind(...given.map(([, value]) => value), limit)
    .all<StoredChange>();
  return results;
}
