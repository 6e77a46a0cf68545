/** Migrations come before the Worker that needs them: release 0.2.0 still writes, in its own words, into today's tables. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { expect, it } from "vitest";

const FOLDER = join(import.meta.dirname, "../../migrations");

function migrated(): DatabaseSync {
  const db = new DatabaseSync(":memory:");
  const names = readdirSync(FOLDER).filter((name) => name.endsWith(".sql"));
  for (const name of names.sort()) db.exec(readFileSync(join(FOLDER, name), "utf8"));
  return db;
}

it("0.2.0 writes its audit rows, which no pool and no cache had a part in", () => {
  const db = migrated();
  const record = { request_id: "req_1", key_id: "key_1", workspace: "w", at: 1, route: "/v1/messages", method: "POST" };
  const more = { dialect: "anthropic", status: 200, outcome: "complete", duration_ms: 3, cost_micro_usd: 7 };
  const columns = [
    ...["request_id", "upstream_request_id", "key_id", "workspace", "at", "route", "method", "dialect"],
    ...["model_requested", "model", "stream", "status", "error_type", "outcome", "estimated", "input_tokens"],
    ...["output_tokens", "cache_creation_5m_input_tokens", "cache_creation_1h_input_tokens"],
    ...["cache_read_input_tokens", "thinking_tokens", "web_search_requests", "web_fetch_requests", "cost_micro_usd"],
    ...["ttfb_ms", "duration_ms", "stop_reason", "session_id", "agent_id", "parent_agent_id", "client", "requests"],
    ...["denial", "admission", "ledger_ms", "drained"],
  ];
  const zero = /^stream$|^estimated$|tokens$|_requests$|^drained$/;
  const values: Record<string, string | number | null> = Object.fromEntries(
    columns.map((name) => [name, zero.test(name) ? 0 : null]),
  );
  const row = { ...values, ...record, ...more, requests: 1 };
  db.prepare(`INSERT INTO audit (${columns.join()}) VALUES (${columns.map(() => "?").join()})`).run(
    ...columns.map((name) => row[name as keyof typeof row] as string | number | null),
  );
  const linked = { subject: null, template: null, findings: null, chain_seq: null, chain_hash: null };
  const beside = { upstream: null, attempts: 0, cache: null, replayed: 0, conversation_id: null, turn_id: null };
  expect({ ...db.prepare("SELECT * FROM audit").get() }).toMatchObject({ ...row, ...beside, ...linked });
  expect({ ...db.prepare("SELECT * FROM usage_hourly").get() }).toMatchObject({ requests: 1, cost_micro_usd: 7 });
});

it("0.2.0 makes and changes keys and workspaces, and takes nothing away that it does not know of", () => {
  const db = migrated();
  db.exec(`INSERT INTO api_keys (name, scopes, models, limits, budget, on_disconnect, on_revoke, fail_open, metadata, secrets, updated_at, expires_at, revoked_at, version, id, workspace, created_at)
    VALUES ('n', '["messages"]', NULL, '{}', NULL, 'cancel', 'finish', 0, '{}', '[]', 1, NULL, NULL, 1, 'key_1', 'w', 1)`);
  const key = () => ({ ...db.prepare("SELECT name, timeouts, cache, version FROM api_keys").get() });
  expect(key()).toEqual({ name: "n", timeouts: null, cache: null, version: 1 });
  db.exec(`UPDATE api_keys SET timeouts = '{"total_ms":5}', cache = '{"ttl_seconds":6}'`);
  db.exec(`UPDATE api_keys SET name = 'm', scopes = '[]', models = NULL, limits = '{}', budget = NULL, on_disconnect = 'drain', on_revoke = 'cut', fail_open = 1, metadata = '{}', secrets = '[]', updated_at = 2, expires_at = NULL, revoked_at = NULL, version = 2
    WHERE id = 'key_1' AND version = 1`);
  expect(key()).toEqual({ name: "m", timeouts: '{"total_ms":5}', cache: '{"ttl_seconds":6}', version: 2 });
  db.exec(`INSERT INTO workspaces (name, limits, budget, metadata, updated_at, version, id, created_at)
    VALUES ('n', '{}', NULL, '{}', 1, 1, 'w', 1)`);
  db.exec("UPDATE workspaces SET cache_epoch = 3");
  db.exec(
    `UPDATE workspaces SET name = 'm', limits = '{}', budget = NULL, metadata = '{}', updated_at = 2, version = 2 WHERE id = 'w' AND version = 1`,
  );
  const { name, cache_epoch } = db.prepare("SELECT * FROM workspaces").get() ?? {};
  expect({ name, cache_epoch }).toEqual({ name: "m", cache_epoch: 3 });
});
