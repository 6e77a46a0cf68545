/** Sessions of the control plane in D1, each write with its change. Every value is bound. */
import type { Change } from "../changes/change.ts";
import { ALWAYS, writeRecorded } from "../changes/store.ts";
import type { Rights } from "./rights.ts";
import type { Scope } from "./scopes.ts";

/** What a session was opened with. It is good as long as that is. */
export type StandsOn =
  /** `tag`: a keyed tag of the token, which tells whether it is still the same. */
  | { readonly kind: "admin-token"; readonly tag: string }
  | { readonly kind: "key"; readonly id: string; readonly secretSha256: string }
  /** `secretMark`: of the secret that a token of ours was traded for. Null: another issuer has made it. */
  | { readonly kind: "token"; readonly keyId: string; readonly secretMark: string | null; readonly rights: Rights };

export type Session = {
  readonly id: string;
  readonly actor: string;
  readonly standsOn: StandsOn;
  /** Null: everything. */
  readonly scopes: readonly Scope[] | null;
  /** Milliseconds since the epoch. */
  readonly createdAt: number;
  readonly expiresAt: number;
};

type Row = {
  id: string;
  actor: string;
  stands_on: string;
  scopes: string | null;
  created_at: number;
  expires_at: number;
};

/** Of an id, at a moment. */
const RUNS = "id = ? AND ended_at IS NULL AND expires_at > ?";
const COLUMNS = "id, actor, stands_on, scopes, created_at, expires_at";

function fromRow(row: Row): Session {
  return {
    id: row.id,
    actor: row.actor,
    standsOn: JSON.parse(row.stands_on),
    scopes: row.scopes === null ? null : JSON.parse(row.scopes),
    createdAt: row.created_at,
    expiresAt: row.expires_at,
  };
}

/** `sha256`: of the cookie's value. */
export async function insertSession(db: D1Database, session: Session, sha256: string, change: Change): Promise<void> {
  const { id, actor, standsOn, scopes, createdAt, expiresAt } = session;
  const write = db
    .prepare(
      "INSERT INTO admin_sessions (id, sha256, actor, stands_on, scopes, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(id, sha256, actor, JSON.stringify(standsOn), scopes && JSON.stringify(scopes), createdAt, expiresAt);
  await writeRecorded(db, change, ALWAYS, write);
}

/** One that runs at this moment; null: none, or not any more. */
export async function findSession(db: D1Database, sha256: string, now: number): Promise<Session | null> {
  const row = await db
    .prepare(`SELECT ${COLUMNS} FROM admin_sessions WHERE sha256 = ? AND ended_at IS NULL AND expires_at > ?`)
    .bind(sha256, now)
    .first<Row>();
  return row && fromRow(row);
}

/** One that runs at this moment, by its id; null: none. */
export async function getSession(db: D1Database, id: string, now: number): Promise<Session | null> {
  const row = await db.prepare(`SELECT ${COLUMNS} FROM admin_sessions WHERE ${RUNS}`).bind(id, now).first<Row>();
  return row && fromRow(row);
}

/** Ends a session; false: none of this id runs. */
export function endSession(db: D1Database, id: string, change: Change): Promise<boolean> {
  const when = { sql: `EXISTS (SELECT 1 FROM admin_sessions WHERE ${RUNS})`, values: [id, change.at] };
  const write = db.prepare(`UPDATE admin_sessions SET ended_at = ? WHERE ${RUNS}`).bind(change.at, id, change.at);
  return writeRecorded(db, change, when, write);
}

/** Those that run, newest first. */
export async function listSessions(
  db: D1Database,
  after: string | undefined,
  limit: number,
  now: number,
): Promise<Session[]> {
  const { results } = await db
    .prepare(
      `SELECT ${COLUMNS} FROM admin_sessions WHERE ended_at IS NULL AND expires_at > ?1 AND (?2 IS NULL OR id < ?2)
       ORDER BY id DESC LIMIT ?3`,
    )
    .bind(now, after ?? null, limit)
    .all<Row>();
  return results.map(fromRow);
}

/** So long after its end a session's row stays. */
const KEPT_MS = 24 * 3_600_000;

/** The cron's part: forgets sessions that are over. Never throws; the next hour does what is left. */
export async function forgetSessions({ DB }: Env, now: () => number): Promise<void> {
  try {
    const before = now() - KEPT_MS;
    await DB.prepare("DELETE FROM admin_sessions WHERE expires_at < ?").bind(before).run();
  } catch (error) {
    console.error(JSON.stringify({ level: "error", msg: "sessions_not_forgotten", error: String(error) }));
  }
}
