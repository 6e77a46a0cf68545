/**
 * Usage: sums over hours that a trigger keeps beside the audit, and that stay when audit rows are deleted. Whole hours are
 * read there; the parts of hours at the two ends of a span come from the audit rows themselves, so a sum is exact to the
 * millisecond. Where those rows are deleted already, the span is widened to whole hours and the answer says so.
 */
import { firstId } from "./store.ts";

const HOUR_MS = 60 * 60 * 1_000;
/** An id is as old as its call. The range over ids is this much wider than the exact one over times, in case one is not. */
const ID_SLACK_MS = 60_000;

/** What usage can be summed up by, and the expression that says so. */
const GROUPS = {
  key: "key_id",
  workspace: "workspace",
  model: "model",
  day: "strftime('%Y-%m-%d', at / 1000, 'unixepoch')",
} as const;
export type UsageGroup = keyof typeof GROUPS;
export const USAGE_GROUPS = Object.keys(GROUPS) as UsageGroup[];

/** What is summed, and what it is in one audit row. As the trigger of migration 0003 has it. */
const SUMS = {
  requests: "requests",
  errors: "iif(outcome <> 'unreported' AND (status >= 400 OR outcome <> 'complete'), requests, 0)",
  unreported: "iif(outcome = 'unreported', requests, 0)",
  estimated: "iif(estimated <> 0, requests, 0)",
  input_tokens: "input_tokens",
  output_tokens: "output_tokens",
  cache_creation_5m_input_tokens: "cache_creation_5m_input_tokens",
  cache_creation_1h_input_tokens: "cache_creation_1h_input_tokens",
  cache_read_input_tokens: "cache_read_input_tokens",
  thinking_tokens: "thinking_tokens",
  web_search_requests: "web_search_requests",
  web_fetch_requests: "web_fetch_requests",
  cost_micro_usd: "cost_micro_usd",
} as const;
const NAMES = Object.keys(SUMS);

const HOURLY = `SELECT hour AS at, key_id, workspace, model, ${NAMES.join(", ")} FROM usage_hourly WHERE hour >= ? AND hour < ?`;
const SINGLE = `SELECT at, key_id, workspace, coalesce(model, model_requested, '') AS model, ${Object.entries(SUMS)
  .map(([name, expression]) => `${expression} AS ${name}`)
  .join(", ")} FROM audit WHERE request_id >= ? AND request_id < ? AND at >= ? AND at < ?`;

export type UsageFilter = {
  readonly key?: string;
  readonly workspace?: string;
  /** Milliseconds since the epoch, inclusive. */
  readonly from: number;
  /** Milliseconds since the epoch, exclusive. */
  readonly to: number;
};

export type Usage = {
  /** The span that was summed: the one asked for, or whole hours where the audit rows of an end are deleted. */
  readonly from: number;
  readonly to: number;
  /** The dearest first, days in their order; equals in the order of their names. */
  readonly rows: Record<string, string | number>[];
};

/** Sums per group. */
export async function sumUsage(
  db: D1Database,
  groups: readonly UsageGroup[],
  filter: UsageFilter,
  limit: number,
): Promise<Usage> {
  // Rows may be deleted at any moment: the sums and the line up to which rows are gone are read in one transaction, and
  // read again if that line was not where it was thought to be and the span would be another for it.
  let span = widened(filter, 0);
  for (;;) {
    const { sql, values } = query(groups, filter, span, limit);
    const [sums, retention] = await db.batch([
      db.prepare(sql).bind(...values),
      db.prepare("SELECT kept_from FROM audit_retention"),
    ]);
    const [kept] = (retention?.results ?? []) as { kept_from: number }[];
    const right = widened(filter, kept?.kept_from ?? 0);
    if (right.from === span.from && right.to === span.to) {
      return { ...span, rows: (sums?.results ?? []) as Record<string, string | number>[] };
    }
    span = right;
  }
}

type Span = { readonly from: number; readonly to: number };

const hourOf = (at: number): number => at - (at % HOUR_MS);
const nextHour = (at: number): number => hourOf(at + HOUR_MS - 1);

/** A span whose ends, where they lie before the rows that are kept, are moved out to whole hours. Times before 1970 count as 1970. */
function widened({ from, to }: Span, keptFrom: number): Span {
  const [start, end] = [Math.max(0, from), Math.max(0, to)];
  return {
    from: hourOf(start) < keptFrom ? hourOf(start) : start,
    to: hourOf(end) < keptFrom ? nextHour(end) : end,
  };
}

function query(groups: readonly UsageGroup[], filter: UsageFilter, { from, to }: Span, limit: number) {
  const firstHour = nextHour(from);
  const lastHour = hourOf(to);
  // Within one hour there is no whole one, and the two ends are the same piece.
  const ends: Span[] =
    firstHour > lastHour
      ? [{ from, to }]
      : [
          { from, to: firstHour },
          { from: lastHour, to },
        ];
  const only = [
    { text: " AND key_id = ?", value: filter.key },
    { text: " AND workspace = ?", value: filter.workspace },
  ].filter(({ value }) => value !== undefined);
  const where = only.map(({ text }) => text).join("");
  const parts = [
    { sql: HOURLY, values: [firstHour, lastHour] },
    ...ends
      .filter((end) => end.from < end.to)
      .map((end) => ({
        sql: SINGLE,
        values: [firstId(end.from - ID_SLACK_MS), firstId(end.to + ID_SLACK_MS), end.from, end.to],
      })),
  ];
  const names = groups.map((group) => (group === "key" ? "key_id" : group));
  const positions = groups.map((_, i) => i + 1).join(", ");
  return {
    sql: `SELECT ${groups.map((group, i) => `${GROUPS[group]} AS "${names[i]}"`).join(", ")},
        ${NAMES.map((name) => `sum(${name}) AS ${name}`).join(", ")}
      FROM (${parts.map(({ sql }) => sql + where).join(" UNION ALL ")})
      GROUP BY ${positions}
      ORDER BY ${groups.includes("day") ? `"day", ` : ""}cost_micro_usd DESC, ${positions}
      LIMIT ?`,
    values: [...parts.flatMap(({ values }) => [...values, ...only.map(({ value }) => value)]), limit],
  };
}
