/** D1 as a consumer of the ledgers' outboxes. */
import type { Parked } from "../ledger/batch-queue.ts";
import type { Consumer } from "../ledger/outbox.ts";
import { type ChainEnd, type ChainEnds, type LinkedRow, link, NO_HASH, type Row, readEnds, rowOf } from "./chain.ts";
import { insertLinked, knownNumbers, lastUnlinked } from "./store.ts";

/** The name of its place in an outbox, and of the note that holds the ends of chains. */
export const AUDIT_CONSUMER = "audit";

/** Rows of one statement: about 45 ms of D1's time. */
const MAX_ROWS = 1_000;

/** What SQLite says when it minds a row. */
const REFUSED =
  /SQLITE_(CONSTRAINT|TOOBIG|MISMATCH)|constraint failed|malformed JSON|string or blob too big|datatype mismatch/i;
/** What is said when the database is away, busy, full, or behind the code. */
const AWAY =
  /no such (table|column)|has no column|SQLITE_(BUSY|LOCKED|FULL|IOERR|CORRUPT|READONLY|NOMEM|INTERRUPT|AUTH)|overloaded|exceeded|timed? ?out|no answer|network|connection|internal error|storage|reset|too many/i;

/** Stores every record once, as a link of its key's chain: D1 leaves alone a request id that it knows. */
export function auditConsumer(db: D1Database): Consumer {
  return {
    name: AUDIT_CONSUMER,
    maxRows: MAX_ROWS,
    async deliver(batches, note = "") {
      const rows = batches.flatMap(({ records }) => (JSON.parse(records) as unknown[]).map(rowOf));
      return JSON.stringify(await store(db, rows, await withBeginnings(db, rows, readEnds(note))));
    },
    refusals: {
      judge,
      // The very statement, with no row: it fails where the table or the trigger behind it does.
      works: async () => void (await insertLinked(db, [])),
      report: (parked) => insertParked(db, parked),
    },
  };
}

function judge(error: unknown): "refused" | "away" | "unclear" {
  const text = String(error);
  if (REFUSED.test(text)) return "refused";
  return AWAY.test(text) ? "away" : "unclear";
}

/** Stores rows behind the ends of their chains and returns the ends that follow (chain.ts has the rule). */
async function store(db: D1Database, rows: readonly Row[], ends: ChainEnds): Promise<ChainEnds> {
  const first = await link(rows, ends, new Map());
  try {
    if ((await insertLinked(db, first.rows)) === rows.length) return first.ends;
  } catch (error) {
    // Perhaps the work was done all the same, and these rows must not be taken for refused.
    if (judge(error) !== "unclear" || !(await isStored(db, first.rows))) throw error;
    return first.ends;
  }
  // Some were there: from a delivery that is repeated, or with another number than this one, and then nothing was stored.
  const known = await knownNumbers(
    db,
    rows.map((row) => row.request_id),
  );
  const second = await link(rows, ends, known);
  const missing = second.rows.filter(({ row }) => !known.has(String(row.request_id)));
  if (missing.length > 0 && (await insertLinked(db, missing)) !== missing.length) {
    throw new Error("internal error: rows of one key came from two places");
  }
  return second.ends;
}

async function isStored(db: D1Database, rows: readonly LinkedRow[]): Promise<boolean> {
  const known = await knownNumbers(
    db,
    rows.map(({ row }) => row.request_id),
  );
  return rows.every(({ row, chain_seq }) => chain_seq !== null && known.get(String(row.request_id)) === chain_seq);
}

/** The ends, and where chains begin of which there is no row yet. */
async function withBeginnings(db: D1Database, rows: readonly Row[], ends: ChainEnds): Promise<ChainEnds> {
  const all: Record<string, ChainEnd> = { ...ends };
  for (const { key_id } of rows) {
    if (typeof key_id !== "string" || Object.hasOwn(all, key_id)) continue;
    all[key_id] = { seq: 0, hash: NO_HASH, at: 0, before: await lastUnlinked(db, key_id) };
  }
  return all;
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
