/**
 * The list of conversations in D1: for pages of a workspace, for their number, and for ids whose tag is of a secret that
 * is gone. It follows the objects, which write it themselves, and nothing but a list waits for it: with D1 away
 * conversations are made, used and deleted as ever. Every value is bound.
 */
import { err, ok, type Result } from "../result.ts";
import type { Failure } from "../wire/errors.ts";
import { within } from "../within.ts";

/** Conversations that a workspace may have at the same time (docs/conversations.md). */
export const MAX_CONVERSATIONS = 10_000;
/** How long anybody waits for D1. */
const DEADLINE_MS = 3_000;
/** How long a call waits that can do without the answer. */
const SHORT_DEADLINE_MS = 1_000;

/** What stands in the list. Times in ms since the epoch, `metadata` as JSON. */
export type Entry = {
  readonly id: string;
  readonly workspace: string;
  readonly keyId: string;
  readonly model: string;
  readonly metadata: string;
  readonly createdAt: number;
  readonly updatedAt: number;
  readonly expiresAt: number;
  readonly turns: number;
};

/** The object's side. Both reject when D1 is away or late, and may be repeated. */
export type Registry = {
  /** Writes an entry; an older state of it never replaces a newer one. */
  put(entry: Entry): Promise<void>;
  remove(id: string): Promise<void>;
};

export function registryOf(db: D1Database): Registry {
  return {
    async put({ id, workspace, keyId, model, metadata, createdAt, updatedAt, expiresAt, turns }) {
      const written = db
        .prepare(
          `INSERT INTO conversations (id, workspace, key_id, model, metadata, created_at, updated_at, expires_at, turns)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
           ON CONFLICT (id) DO UPDATE SET model = excluded.model, metadata = excluded.metadata,
             updated_at = excluded.updated_at, expires_at = excluded.expires_at, turns = excluded.turns
           WHERE excluded.updated_at >= updated_at`,
        )
        .bind(id, workspace, keyId, model, metadata, createdAt, updatedAt, expiresAt, turns)
        .run();
      await within(DEADLINE_MS, written);
    },
    async remove(id) {
      await within(DEADLINE_MS, db.prepare("DELETE FROM conversations WHERE id = ?").bind(id).run());
    },
  };
}

export type Row = {
  readonly id: string;
  readonly model: string;
  readonly metadata: string;
  readonly created_at: number;
  readonly updated_at: number;
  readonly expires_at: number;
  readonly turns: number;
};

/** A workspace's conversations, newest first, from before an id on. Whatever has expired is not among them. */
export async function listRows(
  db: D1Database,
  workspace: string,
  before: string | null,
  limit: number,
  now: number,
): Promise<Result<readonly Row[], Failure>> {
  const asked = db
    .prepare(
      `SELECT id, model, metadata, created_at, updated_at, expires_at, turns FROM conversations
       WHERE workspace = ?1 AND (?2 IS NULL OR id < ?2) AND expires_at > ?3 ORDER BY id DESC LIMIT ?4`,
    )
    .bind(workspace, before, now, limit)
    .all<Row>();
  try {
    return ok((await within(DEADLINE_MS, asked)).results);
  } catch (error) {
    noteAway(error);
    return err({ kind: "register_away", what: "The list of conversations can't be read at the moment." });
  }
}

/** Whether the workspace has a conversation of this id. D1 away: not as far as is known. */
export async function isListed(db: D1Database, workspace: string, id: string): Promise<boolean> {
  const asked = db.prepare("SELECT 1 FROM conversations WHERE id = ? AND workspace = ?").bind(id, workspace).first();
  try {
    return (await within(SHORT_DEADLINE_MS, asked)) !== null;
  } catch (error) {
    noteAway(error);
    return false;
  }
}

/**
 * Whether a workspace has as many conversations as it may have. D1 away: no. Left open: calls that come in the same
 * moment may together go beyond by their own number.
 */
export async function isFull(db: D1Database, workspace: string, most = MAX_CONVERSATIONS): Promise<boolean> {
  const asked = db
    .prepare("SELECT count(*) AS n FROM (SELECT 1 FROM conversations WHERE workspace = ? LIMIT ?)")
    .bind(workspace, most)
    .first<{ n: number }>();
  try {
    return ((await within(SHORT_DEADLINE_MS, asked))?.n ?? 0) >= most;
  } catch (error) {
    noteAway(error);
    return false;
  }
}

function noteAway(error: unknown): void {
  console.error(JSON.stringify({ level: "error", msg: "conversation_list_unavailable", error: String(error) }));
}
