/** Audit rows as tests have them, stored without links of their own unless they name them. */
import type { LinkedRow } from "../../src/audit/chain.ts";
import type { AuditRecord } from "../../src/audit/record.ts";
import { AUDIT_COLUMNS, insertLinked } from "../../src/audit/store.ts";

export function storeAudit(
  db: D1Database,
  rows: readonly { readonly [K in keyof AuditRecord]?: unknown }[],
): Promise<number> {
  const linked = rows.map(({ chain_seq = null, chain_hash = null, ...given }) => {
    const row = Object.fromEntries(AUDIT_COLUMNS.map((name) => [name, Reflect.get(given, name) ?? null]));
    return { row, chain_seq, chain_hash } as LinkedRow;
  });
  return insertLinked(db, linked);
}
