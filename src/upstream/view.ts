/** An upstream as it may be shown and written down, made field by field: its credential is a fingerprint. */
import type { UpstreamRecord } from "./upstream.ts";

export function viewOf(record: UpstreamRecord) {
  const { id, name, base_url, weight, models, concurrent_requests, state, fingerprint, version } = record;
  return {
    ...{ id, source: "stored" as const, name, base_url, weight, models, concurrent_requests, state, fingerprint },
    sealed_under: record.sealed_key?.master ?? null,
    created_at: new Date(record.created_at).toISOString(),
    updated_at: new Date(record.updated_at).toISOString(),
    version,
  };
}
