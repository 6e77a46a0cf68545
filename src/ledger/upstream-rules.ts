/** What an upstream account's ledger enforces: how many calls it may have running at the same moment, from all isolates. */
import type { Rules } from "../identity/key-record.ts";
import type { UpstreamRecord } from "../upstream/upstream.ts";

type Row = Pick<UpstreamRecord, "id" | "version" | "concurrent_requests" | "state">;

/** A removed one takes no calls: there is nothing to be limited. */
export function upstreamRules({ id, version, concurrent_requests, state }: Row): Rules {
  const limited = concurrent_requests !== null && state !== "removed";
  return { id, version, limits: limited ? { concurrent_requests } : {}, budget: null };
}

/** Null: no such upstream is stored. */
export async function loadUpstreamRules(db: D1Database, id: string): Promise<Rules | null> {
  const row = await db
    .prepare("SELECT id, version, concurrent_requests, state FROM upstreams WHERE id = ?")
    .bind(id)
    .first<Row>();
  return row && upstreamRules(row);
}
