/** D1 as a consumer of the ledgers' outboxes. */
import type { Batch, Parked } from "../ledger/batch-queue.ts";
import type { Consumer } from "../ledger/outbox.ts";
import { insertAudit } from "./store.ts";

/** Rows of one statement: about 45 ms of D1's time. */
const MAX_ROWS = 1_000;

/** What SQLite says when it minds a row. */
const REFUSED =
  /SQLITE_(CONSTRAINT|TOOBIG|MISMATCH)|constraint failed|malformed JSON|string or blob too big|datatype mismatch/i;
/** What is said when the database is away, busy, full, or behind the code. */
const AWAY =
  /no such (table|column)|has no column|SQLITE_(BUSY|LOCKED|FULL|IOERR|CORRUPT|READONLY|NOMEM|INTERRUPT|AUTH)|overloaded|exceeded|timed? ?out|no answer|network|connection|internal error|storage|reset|too many/i;

/** Stores every record once: D1 leaves alone a request id that it knows. */
export function auditConsumer(db: D1Database): Consumer {
  return {
    name: "audit",
    maxRows: MAX_ROWS,
    deliver: (batches) => insertAudit(db, joined(batches)),
    refusals: {
      judge(error) {
        const text = String(error);
        if (REFUSED.test(text)) return "refused";
        return AWAY.test(text) ? "away" : "unclear";
      },
      // The very statement, with no row: it fails where the table or the trigger behind it does.
      works: () => insertAudit(db, "[]"),
      report: (parked) => insertParked(db, parked),
    },
  };
}

/** One array of the records of several, by their text alone. */
function joined(batches: readonly Batch[]): string {
  const [first] = batches;
  if (first && batches.length === 1) return first.records;
  return `[${batches.map(({ records }) => records.trim().slice(1, -1)).join(",")}]`;
}

/** Keeps a refused record where people look for it, under its request id or, if it has none, one of its own. */
async function insertParked(db: D1Database, { requestId, record, error, at }: Parked): Promise<void> {
  await db
    .prepare(
      `INSERT INTO audit_parked (request_id, key_id, at, error, record)
       VALUES (coalesce(nullif(?1, ''), 'unknown_' || lower(hex(randomblob(8)))),
         iif(json_type(?4) = 'object', ?4->>'key_id', NULL), ?2, ?3, ?4)
       ON CONFLICT (request_id) DO NOTHING`,
    )
    .bind(requestId, at, error, record)
    .run();
}
