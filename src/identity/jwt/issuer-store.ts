/**
 * Foreign issuers in D1, and an isolate's memory of them. Every value is bound. A row that somebody has changed by hand
 * costs nobody else: what can't be read of it lets nobody in.
 */

import type { Change } from "../../changes/change.ts";
import { ifVersion, writeRecorded } from "../../changes/store.ts";
import { type MasterKey, open, seal } from "../../upstream/sealing.ts";
import { readSealed } from "../../upstream/upstream-store.ts";
import { parseJson } from "../../wire/json.ts";
import { within } from "../../within.ts";
import { type Clock, systemClock } from "./clock.ts";
import { isTexts } from "./form.ts";
import type { IssuerRecord, Mapping } from "./issuer.ts";

/** At the same time: isolates hold all of them. */
export const MAX_ISSUERS = 100;
/** So late at the most does an isolate hear of a change: that an issuer, or a subject of his, is not believed any more. */
export const ISSUERS_HELD_MS = 2_000;
/** From this age on the next request reads anew, and the others need not wait for it. */
const REFRESHED_AFTER_MS = 1_000;
/** How long the last ones serve while D1 does not answer. */
export const ISSUERS_STALE_MS = 60_000;
const READ_DEADLINE_MS = 1_000;

type Row = Omit<IssuerRecord, "audiences" | "sealed_secret" | "mappings" | "blocked_subjects"> & {
  audiences: string;
  sealed_secret: string | null;
  mappings: string;
  blocked_subjects: string;
};

const COLUMNS =
  "id, name, issuer, audiences, jwks_url, sealed_secret, typ, max_lifetime_seconds, mappings, blocked_subjects, state, created_at, updated_at, version";

/** What an issuer's secret is bound to: this column of its row. */
export const secretPlaceOf = (id: string): string => `issuers/${id}/secret`;

function fromRow(row: Row): IssuerRecord {
  const blocked = readTexts(row.blocked_subjects);
  const mappings = parseJson(row.mappings);
  const spoilt = blocked === null || !Array.isArray(mappings) || !mappings.every(isMapping);
  return {
    ...row,
    audiences: readTexts(row.audiences) ?? [],
    sealed_secret: row.sealed_secret === null ? null : readSealed(parseJson(row.sealed_secret)),
    // Whom a list that can't be read was to keep out, nobody knows.
    mappings: spoilt ? [] : mappings,
    blocked_subjects: blocked ?? [],
  };
}

function readTexts(text: string): readonly string[] | null {
  const value = parseJson(text);
  return isTexts(value) ? value : null;
}

/** Whether it has the shape that decides about rights: what is checked at the door is checked again for a row. */
function isMapping(value: unknown): value is Mapping {
  if (typeof value !== "object" || value === null) return false;
  const field = (name: keyof Mapping): unknown => (Object.hasOwn(value, name) ? Reflect.get(value, name) : undefined);
  const [when, scopes, models, admin] = [field("when"), field("scopes"), field("models"), field("admin")];
  return (
    typeof field("key") === "string" &&
    typeof when === "object" &&
    when !== null &&
    Object.values(when).every((condition) => typeof condition === "string" || isTexts(condition)) &&
    (scopes === undefined || isTexts(scopes)) &&
    (models === undefined || isTexts(models)) &&
    (admin === undefined || admin === "read" || admin === "write")
  );
}

/** The values of the changeable columns, in the order of the two statements below. */
function changeable(record: IssuerRecord): unknown[] {
  return [
    record.name,
    record.issuer,
    JSON.stringify(record.audiences),
    record.jwks_url,
    record.sealed_secret === null ? null : JSON.stringify(record.sealed_secret),
    record.typ,
    record.max_lifetime_seconds,
    JSON.stringify(record.mappings),
    JSON.stringify(record.blocked_subjects),
    record.state,
    record.updated_at,
    record.version,
  ];
}

/** Stores it with its change; false when there are as many as there may be, or one of that name or issuer. */
export function insertIssuer(db: D1Database, record: IssuerRecord, change: Change): Promise<boolean> {
  const { id, name, issuer, created_at } = record;
  const sql = "(SELECT count(*) FROM issuers) < ? AND NOT EXISTS (SELECT 1 FROM issuers WHERE name = ? OR issuer = ?)";
  const write = db
    .prepare(
      `INSERT INTO issuers (name, issuer, audiences, jwks_url, sealed_secret, typ, max_lifetime_seconds, mappings, blocked_subjects, state, updated_at, version, id, created_at)
       SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ? WHERE (SELECT count(*) FROM issuers) < ? ON CONFLICT DO NOTHING`,
    )
    .bind(...changeable(record), id, created_at, MAX_ISSUERS);
  return writeRecorded(db, change, { sql, values: [MAX_ISSUERS, name, issuer] }, write);
}

/** Replaces the version before, with its change; false when somebody else was faster, or has that name or issuer. */
export function updateIssuer(db: D1Database, record: IssuerRecord, change: Change): Promise<boolean> {
  const { id, name, issuer, version } = record;
  const before = ifVersion("issuers", id, version - 1);
  const sql = `${before.sql} AND NOT EXISTS (SELECT 1 FROM issuers WHERE id <> ? AND (name = ? OR issuer = ?))`;
  const write = db
    .prepare(
      `UPDATE OR IGNORE issuers SET name = ?, issuer = ?, audiences = ?, jwks_url = ?, sealed_secret = ?, typ = ?, max_lifetime_seconds = ?, mappings = ?, blocked_subjects = ?, state = ?, updated_at = ?, version = ?
       WHERE id = ? AND version = ?`,
    )
    .bind(...changeable(record), id, version - 1);
  return writeRecorded(db, change, { sql, values: [...before.values, id, name, issuer] }, write);
}

/** Deletes it with its change; false when it is not as it was read, so that a change and a removal at once are told in order. */
export function removeIssuer(
  db: D1Database,
  { id, version }: Pick<IssuerRecord, "id" | "version">,
  change: Change,
): Promise<boolean> {
  const write = db.prepare("DELETE FROM issuers WHERE id = ? AND version = ?").bind(id, version);
  return writeRecorded(db, change, ifVersion("issuers", id, version), write);
}

/** Newest first, after that id. */
export async function listIssuerRecords(
  db: D1Database,
  after: string | undefined,
  limit: number,
): Promise<IssuerRecord[]> {
  const { results } = await db
    .prepare(`SELECT ${COLUMNS} FROM issuers WHERE ?1 IS NULL OR id < ?1 ORDER BY id DESC LIMIT ?2`)
    .bind(after ?? null, limit)
    .all<Row>();
  return results.map(fromRow);
}

export async function getIssuer(db: D1Database, id: string): Promise<IssuerRecord | null> {
  const row = await db.prepare(`SELECT ${COLUMNS} FROM issuers WHERE id = ?`).bind(id).first<Row>();
  return row ? fromRow(row) : null;
}

/** All of them, in the order in which they were made. */
export async function loadIssuers(db: D1Database): Promise<IssuerRecord[]> {
  const { results } = await db.prepare(`SELECT ${COLUMNS} FROM issuers ORDER BY id`).all<Row>();
  return results.map(fromRow);
}

/**
 * Secrets that an older master key has sealed, sealed anew under the first one: how many, and the ids of those that no key at
 * hand opens. A row that has changed meanwhile is left to the next time. Throws what D1 throws.
 */
export async function resealIssuers(
  db: D1Database,
  masterKeys: readonly MasterKey[],
): Promise<{ readonly resealed: number; readonly failed: readonly string[] }> {
  const [first] = masterKeys;
  const failed: string[] = [];
  let resealed = 0;
  for (const { id, sealed_secret: sealed } of await loadIssuers(db)) {
    if (sealed === null || sealed.master === first?.version) continue;
    const secret = await open(masterKeys, sealed, secretPlaceOf(id));
    if (!first || !secret.ok) {
      failed.push(id);
      continue;
    }
    const anew = JSON.stringify(await seal(first, secret.value, secretPlaceOf(id)));
    const { meta } = await db
      .prepare("UPDATE issuers SET sealed_secret = ? WHERE id = ? AND sealed_secret = ?")
      .bind(anew, id, JSON.stringify(sealed))
      .run();
    resealed += meta.changes;
  }
  return { resealed, failed };
}

/** An isolate's memory of the issuers. Requests share what was read, and no promise. */
export class Issuers {
  readonly #clock: Clock;
  #held: { readonly at: number; readonly byName: ReadonlyMap<string, IssuerRecord> } | null = null;
  #readingSince = Number.NEGATIVE_INFINITY;
  #outdatedAt = Number.NEGATIVE_INFINITY;

  constructor(clock: Clock = systemClock) {
    this.#clock = clock;
  }

  /** What was read until now does not count any more, unless D1 does not answer. */
  outdate(): void {
    this.#outdatedAt = this.#clock.now();
  }

  /** The issuer that a token names; null: nobody has configured it. */
  async find(db: D1Database, issuer: string): Promise<IssuerRecord | null | "unavailable"> {
    const now = this.#clock.now();
    const age = now - (this.#held?.at ?? Number.NEGATIVE_INFINITY);
    const another = now >= this.#readingSince && now - this.#readingSince < REFRESHED_AFTER_MS;
    const outdated = (this.#held?.at ?? Number.NEGATIVE_INFINITY) <= this.#outdatedAt;
    const fresh = !outdated && age >= 0 && age < (another ? ISSUERS_HELD_MS : REFRESHED_AFTER_MS);
    if (!fresh) await this.#read(db, now);
    const held = this.#held;
    if (!held || this.#clock.now() - held.at >= ISSUERS_STALE_MS) return "unavailable";
    return held.byName.get(issuer) ?? null;
  }

  async #read(db: D1Database, at: number): Promise<void> {
    this.#readingSince = at;
    try {
      const records = await within(READ_DEADLINE_MS, loadIssuers(db));
      if (this.#held && this.#held.at > at) return;
      this.#held = { at, byName: new Map(records.map((record) => [record.issuer, record])) };
    } catch {
      // D1 is away. The last ones serve for a while.
    }
  }
}
