/**
 * Retention: audit rows older than AUDIT_RETENTION_DAYS are deleted by the hourly cron, usage sums stay. Whole hours at a
 * time, so that an hour's rows are either all there or not to be relied on, and in small steps, since D1 does one thing at
 * a time and the ledgers' outboxes want to write.
 */
import { settingsOf } from "../env.ts";
import { firstId } from "./store.ts";

const HOUR_MS = 60 * 60 * 1_000;
const DAY_MS = 24 * HOUR_MS;
/** Rows of one DELETE. */
const CHUNK = 2_000;
/** The platform gives a cron 15 minutes; what is left then waits for the next hour. */
const BUDGET_MS = 5 * 60_000;

export type Swept = {
  readonly audit_rows: number;
  readonly parked_rows: number;
  /** Whether everything that is too old is gone. */
  readonly complete: boolean;
};

export type SweepOptions = { readonly chunk?: number; readonly budgetMs?: number };

/** Deletes what is older than `days`, as far as the time allows. */
export async function sweepAudit(
  db: D1Database,
  days: number,
  clock: () => number,
  { chunk = CHUNK, budgetMs = BUDGET_MS }: SweepOptions = {},
): Promise<Swept> {
  const startedAt = clock();
  const limit = startedAt - days * DAY_MS;
  const keptFrom = Math.max(0, limit - (limit % HOUR_MS));
  // Told first: from now on nobody counts on the rows before it. It never moves back, since what is deleted stays so.
  await db
    .prepare(
      "INSERT INTO audit_retention (id, kept_from) VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET kept_from = max(kept_from, excluded.kept_from)",
    )
    .bind(keptFrom)
    .run();
  const inTime = () => clock() - startedAt < budgetMs;
  const audit = await inChunks(chunk, inTime, () =>
    db
      .prepare(
        `DELETE FROM audit WHERE request_id < coalesce(
           (SELECT request_id FROM audit WHERE request_id < ?1 ORDER BY request_id LIMIT 1 OFFSET ?2), ?1)`,
      )
      .bind(firstId(keptFrom), chunk),
  );
  const parked = await inChunks(chunk, inTime, () =>
    db
      .prepare(
        "DELETE FROM audit_parked WHERE request_id IN (SELECT request_id FROM audit_parked WHERE at < ? LIMIT ?)",
      )
      .bind(keptFrom, chunk),
  );
  return { audit_rows: audit.rows, parked_rows: parked.rows, complete: audit.complete && parked.complete };
}

async function inChunks(
  chunk: number,
  inTime: () => boolean,
  statement: () => D1PreparedStatement,
): Promise<{ rows: number; complete: boolean }> {
  let rows = 0;
  while (inTime()) {
    const { meta } = await statement().run();
    rows += meta.changes;
    if (meta.changes < chunk) return { rows, complete: true };
  }
  return { rows, complete: false };
}

/** The cron: does what the settings say and tells the log. A failure waits for the next hour. */
export async function enforceRetention(env: Env, clock: () => number): Promise<void> {
  const startedAt = clock();
  const settings = settingsOf(env);
  const days = settings.ok ? settings.value.auditRetentionDays : null;
  try {
    if (!settings.ok) throw new Error(settings.error);
    if (days === null) return;
    const swept = await sweepAudit(env.DB, days, clock);
    console.log(JSON.stringify({ level: "info", msg: "retention", days, ...swept, duration_ms: clock() - startedAt }));
  } catch (error) {
    console.error(
      JSON.stringify({ level: "error", msg: "retention_failed", days, error: String(error).slice(0, 200) }),
    );
  }
}
