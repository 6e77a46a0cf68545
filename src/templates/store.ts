/**
 * The register of templates, in D1: which there are, their versions, and what their labels mean. Whatever writes is one
 * transaction: all of it is there afterwards, with what the caller adds (the change log), or nothing. D1 is serial, so
 * versions are given in order however many publish at once. Every value is bound. Throws what D1 throws.
 */
import { err, ok, type Result } from "../result.ts";
import type { Failure } from "../wire/errors.ts";
import type { Content } from "./content.ts";
import { DEFAULT_LABEL, type Labels, MAX_LABELS } from "./labels.ts";

export type TemplateState = "active" | "archived";

export type TemplateRecord = {
  readonly name: string;
  /** Those that may use it; null: all. */
  readonly workspaces: readonly string[] | null;
  /** An archived one is kept and shown, and called no more. */
  readonly state: TemplateState;
  readonly labels: Labels;
  /** Its newest version; versions are 1 to this. */
  readonly newest: number;
  /** Grows with every change. */
  readonly revision: number;
  readonly created_at: number;
  readonly updated_at: number;
};

export type VersionRecord = {
  readonly name: string;
  readonly version: number;
  readonly content: Content;
  readonly note: string | null;
  readonly created_by: string;
  readonly created_at: number;
};

type Row = Omit<TemplateRecord, "workspaces" | "labels"> & { workspaces: string | null; labels: string };
type VersionRow = Omit<VersionRecord, "content"> & { content: string };

function fromRow(row: Row): TemplateRecord {
  return {
    ...row,
    workspaces: row.workspaces === null ? null : JSON.parse(row.workspaces),
    labels: JSON.parse(row.labels),
  };
}

export type Draft = {
  readonly name: string;
  readonly content: Content;
  readonly note: string | null;
  /** Labels that mean the new version from now on. A template's first version gets `production` where none is named. */
  readonly labels: readonly string[];
  /** Who publishes. */
  readonly by: string;
};

/**
 * Fails the transaction if the statement before it has changed nothing: a name must not be null. What the caller adds is
 * thereby not written for a change that was none.
 */
const ONLY_IF_CHANGED =
  "INSERT INTO template_versions (name, version, content, created_by, created_at) SELECT NULL, 0, '', '', 0 WHERE changes() = 0";
const CHANGED_NOTHING = "NOT NULL constraint failed: template_versions.name";

/**
 * Gives a draft the next number, and makes the template with its first. Returns the record as it is then: `newest` is the
 * number. Conflict: the template is archived, or has no room for more labels. `also` runs in the same transaction, after it.
 */
export async function publish(
  db: D1Database,
  draft: Draft,
  now: number,
  also: readonly D1PreparedStatement[] = [],
): Promise<Result<TemplateRecord, Failure>> {
  const { name, content, note, labels, by } = draft;
  const written = await whole(db, [
    db
      .prepare(
        `INSERT INTO templates (name, workspaces, state, labels, newest, revision, created_at, updated_at)
         VALUES (?1, NULL, 'active', '{}', 1, 1, ?2, ?2)
         ON CONFLICT (name) DO UPDATE SET newest = newest + 1, revision = revision + 1, updated_at = ?2
         WHERE state = 'active'`,
      )
      .bind(name, now),
    db.prepare(ONLY_IF_CHANGED),
    ...labels.map((label) => labelNewest(db, name, label)),
    db
      .prepare(`UPDATE templates SET labels = json_object(?2, newest) WHERE name = ?1 AND newest = 1 AND labels = '{}'`)
      .bind(name, DEFAULT_LABEL),
    db
      .prepare("UPDATE templates SET name = name WHERE name = ?1 AND (SELECT count(*) FROM json_each(labels)) <= ?2")
      .bind(name, MAX_LABELS),
    db.prepare(ONLY_IF_CHANGED),
    db
      .prepare(
        `INSERT INTO template_versions (name, version, content, note, created_by, created_at)
         SELECT name, newest, ?2, ?3, ?4, ?5 FROM templates WHERE name = ?1`,
      )
      .bind(name, JSON.stringify(content), note, by, now),
    ...also,
    db.prepare("SELECT * FROM templates WHERE name = ?").bind(name),
  ]);
  if (written === "changed nothing") {
    return conflict(`The template is archived, or would have more than ${MAX_LABELS} labels.`);
  }
  const row = written.at(-1)?.results[0];
  if (!row) throw new Error("a template that was published is not there");
  return ok(fromRow(row));
}

/** Names of labels have no quotes (`LABEL`), so they can stand in a path. */
function labelNewest(db: D1Database, name: string, label: string): D1PreparedStatement {
  return db
    .prepare(`UPDATE templates SET labels = json_set(labels, '$."' || ?2 || '"', newest) WHERE name = ?1`)
    .bind(name, label);
}

export type TemplateChange = {
  readonly labels?: Labels;
  readonly workspaces?: readonly string[] | null;
  readonly state?: TemplateState;
};

/** A record as a change leaves it. */
export function changedRecord(read: TemplateRecord, change: TemplateChange, now: number): TemplateRecord {
  return { ...read, ...change, revision: read.revision + 1, updated_at: now };
}

/** Changes a record that has not changed since it was read; conflict when somebody else was faster. */
export async function changeTemplate(
  db: D1Database,
  read: TemplateRecord,
  change: TemplateChange,
  now: number,
  also: readonly D1PreparedStatement[] = [],
): Promise<Result<TemplateRecord, Failure>> {
  const next = changedRecord(read, change, now);
  const written = await whole(db, [
    db
      .prepare(
        `UPDATE templates SET labels = ?, workspaces = ?, state = ?, revision = ?, updated_at = ?
         WHERE name = ? AND revision = ?`,
      )
      .bind(
        JSON.stringify(next.labels),
        next.workspaces === null ? null : JSON.stringify(next.workspaces),
        next.state,
        next.revision,
        now,
        next.name,
        read.revision,
      ),
    db.prepare(ONLY_IF_CHANGED),
    ...also,
  ]);
  if (written !== "changed nothing") return ok(next);
  return conflict("The template was changed by somebody else in the meantime. Read it and try again.");
}

/** Runs a transaction; one that `ONLY_IF_CHANGED` has stopped is no fault of D1's. */
async function whole(db: D1Database, statements: D1PreparedStatement[]): Promise<D1Result<Row>[] | "changed nothing"> {
  try {
    return await db.batch<Row>(statements);
  } catch (error) {
    if (String(error).includes(CHANGED_NOTHING)) return "changed nothing";
    throw error;
  }
}

export async function getTemplate(db: D1Database, name: string): Promise<TemplateRecord | null> {
  const row = await db.prepare("SELECT * FROM templates WHERE name = ?").bind(name).first<Row>();
  return row && fromRow(row);
}

/** By name, from behind `after`. */
export async function listTemplates(
  db: D1Database,
  after: string | undefined,
  limit: number,
): Promise<readonly TemplateRecord[]> {
  const { results } = await db
    .prepare("SELECT * FROM templates WHERE name > ? ORDER BY name LIMIT ?")
    .bind(after ?? "", limit)
    .all<Row>();
  return results.map(fromRow);
}

export async function getVersion(db: D1Database, name: string, version: number): Promise<VersionRecord | null> {
  const row = await db
    .prepare("SELECT * FROM template_versions WHERE name = ? AND version = ?")
    .bind(name, version)
    .first<VersionRow>();
  return row && { ...row, content: JSON.parse(row.content) };
}

/** Newest first, below `before`, without their contents. */
export async function listVersions(
  db: D1Database,
  name: string,
  before: number | undefined,
  limit: number,
): Promise<readonly Omit<VersionRecord, "content">[]> {
  const { results } = await db
    .prepare(
      `SELECT name, version, note, created_by, created_at FROM template_versions
       WHERE name = ? AND version < ? ORDER BY version DESC LIMIT ?`,
    )
    .bind(name, before ?? Number.MAX_SAFE_INTEGER, limit)
    .all<Omit<VersionRecord, "content">>();
  return results;
}

function conflict(message: string): Result<never, Failure> {
  return err({ kind: "conflict", message });
}
