/** Audit records in D1: written in bulk by the ledgers' outboxes, read in pages by time. */
import { timePrefix } from "../wire/ids.ts";
import type { LinkedRow } from "./chain.ts";
import type { AuditRecord, Denial, Outcome } from "./record.ts";

/** What a field that a record leaves out means: null, a count, or that the record is not one. */
type Missing = "null" | 0 | 1 | "refused";

/** Every column, in the order of the table. Typed against the record, so that neither can drift from the other. */
export const COLUMNS: Readonly<Record<keyof AuditRecord, Missing>> = {
  request_id: "refused",
  upstream_request_id: "null",
  key_id: "refused",
  workspace: "refused",
  at: "refused",
  route: "refused",
  method: "refused",
  dialect: "refused",
  model_requested: "null",
  model: "null",
  stream: 0,
  status: "refused",
  error_type: "null",
  outcome: "refused",
  estimated: 0,
  input_tokens: 0,
  output_tokens: 0,
  cache_creation_5m_input_tokens: 0,
  cache_creation_1h_input_tokens: 0,
  cache_read_input_tokens: 0,
  thinking_tokens: 0,
  web_search_requests: 0,
  web_fetch_requests: 0,
  cost_micro_usd: 0,
  ttfb_ms: "null",
  duration_ms: 0,
  stop_reason: "null",
  session_id: "null",
  agent_id: "null",
  parent_agent_id: "null",
  client: "null",
  requests: 1,
  denial: "null",
  admission: "null",
  ledger_ms: "null",
  drained: 0,
  upstream: "null",
  attempts: 0,
  cache: "null",
  replayed: 0,
  conversation_id: "null",
  turn_id: "null",
  subject: "null",
  template: "null",
  template_version: "null",
  findings: "null",
  chain_seq: "null",
  chain_hash: "null",
};
export const AUDIT_COLUMNS = Object.keys(COLUMNS) as (keyof AuditRecord)[];
/** Of a row's JSON: each field but those of the chain, what stands before its value, and which number may be left out. */
const MEMBERS = AUDIT_COLUMNS.filter((name) => name !== "chain_seq" && name !== "chain_hash").map(
  (name) => [name, `,"${name}":`, COLUMNS[name]] as const,
);

/**
 * NOT NULL columns refuse the whole statement: `OR IGNORE` would pass over such a row in silence. `jsonb_each`, because
 * `json_each` writes each record out as text for its fields to be read from, which is most of what an insert costs.
 * Stores nothing at all where one of the rows is there under another number, or none; tells of each row that is new.
 */
const INSERT = `INSERT INTO audit (${AUDIT_COLUMNS.join(", ")})
  SELECT ${AUDIT_COLUMNS.map((name) => stored(name, COLUMNS[name])).join(", ")}
  FROM jsonb_each(?1) WHERE NOT EXISTS (
    SELECT 1 FROM jsonb_each(?1) AS given JOIN audit AS known ON known.request_id = given.value->>'request_id'
    WHERE known.chain_seq IS NOT given.value->>'chain_seq')
  ON CONFLICT (request_id) DO NOTHING RETURNING 1`;

function stored(name: string, missing: Missing): string {
  const field = `value->>'${name}'`;
  return typeof missing === "number" ? `coalesce(${field}, ${missing})` : field;
}

/**
 * Stores rows with their links (chain.ts) in one statement with one parameter: all of them or, if one is refused or there
 * under another number, none. One that is there already is left as it is. Returns how many are new.
 */
export async function insertLinked(db: D1Database, rows: readonly LinkedRow[]): Promise<number> {
  const { results } = await db
    .prepare(INSERT)
    .bind(`[${rows.map(lean).join(",")}]`)
    .run();
  return results.length;
}

/** A row as JSON, without what its absence means as well: D1 takes 2 MB. Written by hand: a lean object to be written costs twice as much. */
function lean({ row, chain_seq, chain_hash }: LinkedRow): string {
  let json = "";
  for (const [name, prefix, missing] of MEMBERS) {
    const value = row[name];
    if (typeof value === "string") json += prefix + JSON.stringify(value);
    else if (value !== null && value !== missing) json += prefix + value;
  }
  const place = chain_seq === null ? "" : `,"chain_seq":${chain_seq},"chain_hash":"${chain_hash}"`;
  return `{${(json + place).slice(1)}}`;
}

/** Those of these request ids that are there, and their rows' numbers. */
export async function knownNumbers(
  db: D1Database,
  requestIds: readonly unknown[],
): Promise<ReadonlyMap<string, number | null>> {
  const { results } = await db
    .prepare("SELECT request_id, chain_seq FROM json_each(?) JOIN audit ON request_id = value")
    .bind(JSON.stringify(requestIds))
    .run<{ request_id: string; chain_seq: number | null }>();
  return new Map(results.map(({ request_id, chain_seq }) => [request_id, chain_seq]));
}

/** The newest row of a key that has no link; empty: there is none. */
export async function lastUnlinked(db: D1Database, key: string): Promise<string> {
  const { results } = await db
    .prepare("SELECT max(request_id) AS last FROM audit WHERE key_id = ? AND chain_seq IS NULL")
    .bind(key)
    .run<{ last: string | null }>();
  return results[0]?.last ?? "";
}

export type AuditFilter = {
  readonly key?: string;
  readonly workspace?: string;
  /** The model asked for or the one that answered. */
  readonly model?: string;
  readonly status?: number;
  readonly outcome?: Outcome;
  readonly denial?: Denial;
  readonly route?: string;
  readonly session?: string;
  readonly conversation?: string;
  readonly template?: string;
  /** Milliseconds since the epoch, inclusive. */
  readonly from?: number;
  /** Milliseconds since the epoch, exclusive. */
  readonly to?: number;
  /** The last request id of the page before. */
  readonly cursor?: string;
};

/**
 * Records that one page may look at. Only time and key have an index, since each index would be one more row written for
 * every call, for ever; any other filter reads the records in their order and picks. A page that has looked at so many
 * without being full ends there, and its cursor leads on.
 */
const MAX_SCANNED = 50_000;

export type AuditPage = {
  readonly rows: AuditRecord[];
  /** The cursor of the next page; null: this is the last. */
  readonly next: string | null;
};

type Term = readonly [text: string, value: unknown];

/** A WHERE clause of constant text, and the values it binds. */
function clause(terms: readonly Term[]): { readonly where: string; readonly values: unknown[] } {
  const given = terms.filter(([, value]) => value !== undefined);
  return {
    where: given.length > 0 ? `WHERE ${given.map(([text]) => text).join(" AND ")}` : "",
    values: given.map(([, value]) => value),
  };
}

/** What an index finds. Times become ranges of the primary key. */
const indexed = (filter: AuditFilter): Term[] => [
  ["key_id = ?", filter.key],
  ["request_id >= ?", filter.from === undefined ? undefined : firstId(filter.from)],
  ["request_id < ?", filter.to === undefined ? undefined : firstId(filter.to)],
  ["request_id < ?", filter.cursor],
];

/** What has to be looked for. */
const searched = (filter: AuditFilter): Term[] => [
  ["workspace = ?", filter.workspace],
  ["? IN (model, model_requested)", filter.model],
  ["status = ?", filter.status],
  ["outcome = ?", filter.outcome],
  ["denial = ?", filter.denial],
  ["route = ?", filter.route],
  ["session_id = ?", filter.session],
  ["conversation_id = ?", filter.conversation],
  ["template = ?", filter.template],
];

/** Below every request id of this moment or a later one. */
export function firstId(at: number): string {
  return `req_${timePrefix(at)}`;
}

/** Up to `limit` records that match, newest first. A page may be short, even empty, and still have a next one. */
export async function readAudit(
  db: D1Database,
  filter: AuditFilter,
  limit: number,
  maxScanned: number = MAX_SCANNED,
): Promise<AuditPage> {
  const floor = await scanFloor(db, filter, maxScanned);
  const found = await readRows(db, filter, floor, limit + 1);
  const rows = found.slice(0, limit);
  return { rows, next: (found.length > limit ? rows.at(-1)?.request_id : floor) ?? null };
}

async function readRows(
  db: D1Database,
  filter: AuditFilter,
  floor: string | undefined,
  limit: number,
): Promise<AuditRecord[]> {
  const { where, values } = clause([...indexed(filter), ["request_id >= ?", floor], ...searched(filter)]);
  const { results } = await db
    .prepare(`SELECT ${AUDIT_COLUMNS.join(", ")} FROM audit ${where} ORDER BY request_id DESC LIMIT ?`)
    .bind(...values, limit)
    .all<AuditRecord>();
  return results;
}

/** The last id that a page may look at; undefined: it may look at all there are. */
async function scanFloor(db: D1Database, filter: AuditFilter, maxScanned: number): Promise<string | undefined> {
  if (searched(filter).every(([, value]) => value === undefined)) return undefined;
  const { where, values } = clause(indexed(filter));
  const row = await db
    .prepare(`SELECT request_id FROM audit ${where} ORDER BY request_id DESC LIMIT 1 OFFSET ?`)
    .bind(...values, maxScanned - 1)
    .first<{ request_id: string }>();
  return row?.request_id;
}

/** Up to `limit` records that match, newest first, a page at a time, as fast as they are taken. */
export async function* walkAudit(
  db: D1Database,
  filter: AuditFilter,
  pageSize: number,
  limit: number,
  maxScanned: number = MAX_SCANNED,
): AsyncGenerator<AuditRecord[], void, void> {
  let left = limit;
  let place = filter;
  let floor = await scanFloor(db, place, maxScanned);
  while (left > 0) {
    const size = Math.min(pageSize, left);
    const rows = await readRows(db, place, floor, size);
    if (rows.length > 0) yield rows;
    left -= rows.length;
    const last = rows.at(-1);
    if (last && rows.length === size) place = { ...filter, cursor: last.request_id };
    else if (floor === undefined) return;
    else {
      place = { ...filter, cursor: floor };
      floor = await scanFloor(db, place, maxScanned);
    }
  }
}
