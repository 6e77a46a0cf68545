/** Audit records in D1: written in bulk by the ledgers' outboxes, read in pages by time. */
import { timePrefix } from "../wire/ids.ts";
import type { AuditRecord, Outcome } from "./record.ts";

/** Every column, in the order of the table. Typed against the record, so that neither can drift from the other. */
export const AUDIT_COLUMNS = Object.keys({
  request_id: 0,
  upstream_request_id: 0,
  key_id: 0,
  workspace: 0,
  at: 0,
  route: 0,
  method: 0,
  dialect: 0,
  model_requested: 0,
  model: 0,
  stream: 0,
  status: 0,
  error_type: 0,
  outcome: 0,
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
  ttfb_ms: 0,
  duration_ms: 0,
  stop_reason: 0,
  session_id: 0,
  agent_id: 0,
  parent_agent_id: 0,
  client: 0,
} satisfies Record<keyof AuditRecord, 0>);

const INSERT = `INSERT OR IGNORE INTO audit (${AUDIT_COLUMNS.join(", ")}) SELECT ${AUDIT_COLUMNS.map((name) => `value->>'${name}'`).join(", ")} FROM json_each(?)`;

/** Stores records, each given as its JSON text, in one statement. One that is there already is left as it is. */
export async function insertAudit(db: D1Database, rows: readonly string[]): Promise<void> {
  await db
    .prepare(INSERT)
    .bind(`[${rows.join(",")}]`)
    .run();
}

export type AuditFilter = {
  readonly key?: string;
  readonly workspace?: string;
  /** The model asked for or the one that answered. */
  readonly model?: string;
  readonly status?: number;
  readonly outcome?: Outcome;
  readonly route?: string;
  readonly session?: string;
  /** Milliseconds since the epoch, inclusive. */
  readonly from?: number;
  /** Milliseconds since the epoch, exclusive. */
  readonly to?: number;
  /** The last request id of the page before. */
  readonly cursor?: string;
};

/** A WHERE clause of constant text, and the values it binds. Times become ranges of the primary key. */
function conditions(filter: AuditFilter): { readonly where: string; readonly values: unknown[] } {
  const terms: readonly (readonly [string, unknown])[] = [
    ["key_id = ?", filter.key],
    ["workspace = ?", filter.workspace],
    ["? IN (model, model_requested)", filter.model],
    ["status = ?", filter.status],
    ["outcome = ?", filter.outcome],
    ["route = ?", filter.route],
    ["session_id = ?", filter.session],
    ["request_id >= ?", filter.from === undefined ? undefined : `req_${timePrefix(filter.from)}`],
    ["request_id < ?", filter.to === undefined ? undefined : `req_${timePrefix(filter.to)}`],
    ["request_id < ?", filter.cursor],
  ];
  const given = terms.filter(([, value]) => value !== undefined);
  return {
    where: given.length > 0 ? `WHERE ${given.map(([text]) => text).join(" AND ")}` : "",
    values: given.map(([, value]) => value),
  };
}

/** Newest first. */
export async function readAudit(db: D1Database, filter: AuditFilter, limit: number): Promise<AuditRecord[]> {
  const { where, values } = conditions(filter);
  const { results } = await db
    .prepare(`SELECT ${AUDIT_COLUMNS.join(", ")} FROM audit ${where} ORDER BY request_id DESC LIMIT ?`)
    .bind(...values, limit)
    .all<AuditRecord>();
  return results;
}

/** Up to `limit` records that match, newest first, a page at a time, as fast as they are taken. */
export async function* walkAudit(
  db: D1Database,
  filter: AuditFilter,
  pageSize: number,
  limit: number,
): AsyncGenerator<AuditRecord[], void, void> {
  let left = limit;
  let cursor = filter.cursor;
  while (left > 0) {
    const size = Math.min(pageSize, left);
    const rows = await readAudit(db, cursor === undefined ? filter : { ...filter, cursor }, size);
    if (rows.length > 0) yield rows;
    if (rows.length < size) return;
    left -= size;
    cursor = rows.at(-1)?.request_id;
  }
}

/** What usage can be summed up by, and the expression that says so. */
const GROUPS = {
  key: "key_id",
  workspace: "workspace",
  model: "coalesce(model, model_requested, '')",
  day: "strftime('%Y-%m-%d', at / 1000, 'unixepoch')",
} as const;
export type UsageGroup = keyof typeof GROUPS;
export const USAGE_GROUPS = Object.keys(GROUPS) as UsageGroup[];

/** Sums per group: the dearest first, days in their order; equals in the order of their names. */
export async function sumUsage(
  db: D1Database,
  groups: readonly UsageGroup[],
  filter: AuditFilter,
  limit: number,
): Promise<Record<string, string | number>[]> {
  const { where, values } = conditions(filter);
  const names = groups.map((group) => (group === "key" ? "key_id" : group));
  const positions = groups.map((_, i) => i + 1).join(", ");
  const { results } = await db
    .prepare(
      `SELECT ${groups.map((group, i) => `${GROUPS[group]} AS "${names[i]}"`).join(", ")},
        count(*) AS requests,
        sum(status >= 400 OR outcome <> 'complete') AS errors,
        sum(input_tokens) AS input_tokens,
        sum(output_tokens) AS output_tokens,
        sum(cache_creation_5m_input_tokens) AS cache_creation_5m_input_tokens,
        sum(cache_creation_1h_input_tokens) AS cache_creation_1h_input_tokens,
        sum(cache_read_input_tokens) AS cache_read_input_tokens,
        sum(thinking_tokens) AS thinking_tokens,
        sum(web_search_requests) AS web_search_requests,
        sum(web_fetch_requests) AS web_fetch_requests,
        sum(cost_micro_usd) AS cost_micro_usd
       FROM audit ${where}
       GROUP BY ${positions}
       ORDER BY ${groups.includes("day") ? `"day", ` : ""}cost_micro_usd DESC, ${positions}
       LIMIT ?`,
    )
    .bind(...values, limit)
    .all<Record<string, string | number>>();
  return results;
}
