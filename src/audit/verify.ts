/**
 * Walks the chain of a key's audit rows and finds the first link that does not hold. What is compared: the numbers, which
 * leave none out; each hash with the one before and the row itself; and the end with what the key's ledger keeps, so that
 * neither a cut tail nor a chain that was made anew from some row on passes.
 *
 * Retention takes rows away by the time at which their calls began, and numbers are given when calls have ended, so where
 * it has been the first numbers are gone, and near that line some in between. A row behind such a gap is taken at its
 * word. Behind a pause of more than a day the line may be far away; the ledger knows such pauses. So whoever can write D1
 * can, near that line and nowhere else, delete rows that the next sweeps delete, and change the one behind them; or move
 * the line itself (`kept_from`), which shows as one that is newer than the setting says.
 */
import { type ChainEnd, LONGEST_WAY_MS, linkHash, NO_HASH } from "./chain.ts";
import type { AuditRecord } from "./record.ts";
import { AUDIT_COLUMNS } from "./store.ts";

export type Broken = {
  /** The number that does not hold; null: a row that has none. */
  readonly chain_seq: number | null;
  /** The row there; null: it is missing. */
  readonly request_id: string | null;
  readonly reason: "hash" | "missing" | "repeated" | "unchained";
};

export type Walk = {
  /** Rows that this walk has looked at and found right. */
  readonly verified: number;
  readonly first: number | null;
  readonly last: number | null;
  readonly broken: Broken | null;
  /** Whether rows are left for the next walk. */
  readonly more: boolean;
  /** Rows of calls before it are deleted, or about to be; 0: none is. */
  readonly keptFrom: number;
};

type Found = { readonly rows: AuditRecord[]; readonly keptFrom: number; readonly unchained: string | null };

/** The link before the one that is looked at. `hash` null: not known, and the next row is taken at its word. */
type Before = { readonly seq: number; readonly hash: string | null };

/**
 * Looks at up to `limit` rows from the number `from` on. `end`: what the ledger knows, asked before; null: no chain has
 * begun; undefined: it could not be asked, and the end stays unverified.
 */
export async function verifyChain(
  db: D1Database,
  key: string,
  from: number,
  limit: number,
  end: ChainEnd | null | undefined,
): Promise<Walk> {
  const { rows, keptFrom, unchained } = await read(db, key, from, limit, end);
  const isOld = (at: number): boolean => at < keptFrom + LONGEST_WAY_MS && keptFrom > 0;
  // Whether retention may have taken the row before this one.
  const mayFollowGap = ({ at, chain_seq }: AuditRecord): boolean => {
    if (isOld(at)) return true;
    if (end === undefined) return keptFrom > 0;
    return end?.pauses?.some((pause) => pause.seq + 1 === chain_seq && isOld(pause.at)) ?? false;
  };
  let before: Before = { seq: Math.max(0, from - 2), hash: from <= 2 ? NO_HASH : null };
  const [anchor] = rows;
  // The row before the first one: its hash is what the first is compared with.
  if (from > 1 && anchor?.chain_seq === from - 1) {
    before = { seq: from - 1, hash: anchor.chain_hash ?? "" };
    rows.shift();
  }
  let verified = 0;
  let first: number | null = null;
  let last: number | null = null;
  const ended = (broken: Broken | null, more = false): Walk => ({ verified, first, last, broken, more, keptFrom });
  for (const [i, row] of rows.slice(0, limit).entries()) {
    const broken = await look(row, rows[i + 1], before, mayFollowGap(row), end);
    if (broken) return ended(broken);
    before = { seq: row.chain_seq ?? 0, hash: row.chain_hash };
    verified++;
    first ??= row.chain_seq;
    last = row.chain_seq;
  }
  if (rows.length > limit) return ended(null, true);
  if (end && end.seq > before.seq && !isOld(end.at)) {
    return ended({ chain_seq: before.seq + 1, request_id: null, reason: "missing" });
  }
  return ended(unchained === null ? null : { chain_seq: null, request_id: unchained, reason: "unchained" });
}

async function read(
  db: D1Database,
  key: string,
  from: number,
  limit: number,
  end: ChainEnd | null | undefined,
): Promise<Found> {
  const [rows, retention, unchained] = await db.batch([
    db
      .prepare(
        `SELECT ${AUDIT_COLUMNS.join(", ")} FROM audit INDEXED BY audit_by_chain
         WHERE key_id = ? AND chain_seq >= ? ORDER BY chain_seq, request_id LIMIT ?`,
      )
      // A walk from the start meets whatever is numbered below 1, too.
      // One row for the one before the first, one to know whether there are more and whether a number is there twice.
      .bind(key, from <= 1 ? -Number.MAX_VALUE : from - 1, limit + 2),
    db.prepare("SELECT kept_from FROM audit_retention"),
    db
      .prepare("SELECT request_id FROM audit WHERE key_id = ? AND chain_seq IS NULL AND request_id > ? LIMIT 1")
      .bind(end ? key : "", end?.before ?? ""),
  ]);
  const [kept] = (retention?.results ?? []) as { kept_from: number }[];
  const [stray] = (unchained?.results ?? []) as { request_id: string }[];
  return {
    rows: (rows?.results ?? []) as AuditRecord[],
    keptFrom: kept?.kept_from ?? 0,
    unchained: stray?.request_id ?? null,
  };
}

/** What is wrong with a row behind the link `before`; null: nothing. */
async function look(
  row: AuditRecord,
  next: AuditRecord | undefined,
  { seq, hash }: Before,
  mayFollowGap: boolean,
  end: ChainEnd | null | undefined,
): Promise<Broken | null> {
  const { chain_seq, request_id } = row;
  const broken = (reason: Broken["reason"], where = row): Broken => ({
    chain_seq: where.chain_seq,
    request_id: where.request_id,
    reason,
  });
  if (chain_seq === null || !Number.isSafeInteger(chain_seq) || chain_seq < 1) return broken("hash");
  if (chain_seq <= seq) return broken("repeated");
  const behindGap = chain_seq > seq + 1;
  if (behindGap && !mayFollowGap) return { chain_seq: seq + 1, request_id: null, reason: "missing" };
  const expected = hash === null || behindGap ? null : await linkHash(hash, chain_seq, row);
  const holds = expected === null || expected === row.chain_hash;
  // Of two with one number the false one is named, as far as that can be told.
  if (next?.chain_seq === chain_seq) return broken("repeated", holds ? next : row);
  if (!holds) return broken("hash");
  if (end && end.seq === chain_seq && end.hash !== row.chain_hash) return { chain_seq, request_id, reason: "hash" };
  return null;
}
