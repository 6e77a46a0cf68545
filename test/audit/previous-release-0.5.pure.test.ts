/** 0.5.0 and today's tables: its rows outlive the migrations, and it goes on, in its own words, until it is replaced. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { expect, it } from "vitest";

const FOLDER = join(import.meta.dirname, "../../migrations");
const LAST_OF_OLD = "0008";

function migrate(db: DatabaseSync, wanted: (number: string) => boolean): void {
  const names = readdirSync(FOLDER).filter((name) => name.endsWith(".sql") && wanted(name.slice(0, 4)));
  for (const name of names.sort()) db.exec(readFileSync(join(FOLDER, name), "utf8"));
}

const KEY =
  "name, scopes, models, limits, budget, on_disconnect, on_revoke, fail_open, timeouts, cache, aliases, metadata, secrets, updated_at, expires_at, revoked_at, version, id, workspace, created_at";
const AUDIT = [
  ...["request_id", "upstream_request_id", "key_id", "workspace", "at", "route", "method", "dialect"],
  ...["model_requested", "model", "stream", "status", "error_type", "outcome", "estimated", "input_tokens"],
  ...["output_tokens", "cache_creation_5m_input_tokens", "cache_creation_1h_input_tokens"],
  ...["cache_read_input_tokens", "thinking_tokens", "web_search_requests", "web_fetch_requests", "cost_micro_usd"],
  ...["ttfb_ms", "duration_ms", "stop_reason", "session_id", "agent_id", "parent_agent_id", "client", "requests"],
  ...["denial", "admission", "ledger_ms", "drained", "upstream", "attempts", "cache", "replayed", "conversation_id"],
  "turn_id",
];
/** What they are where a record leaves them out. */
const ZERO = /^stream$|^estimated$|tokens$|^web_|^cost|^duration|^drained$|^attempts$|^replayed$/;

/** As 0.5.0 stores audit records: JSON in, one statement. */
function storeAudit(db: DatabaseSync, ...records: object[]): void {
  const values = AUDIT.map((name) => {
    const missing = name === "requests" ? 1 : ZERO.test(name) ? 0 : null;
    return missing === null ? `value->>'${name}'` : `coalesce(value->>'${name}', ${missing})`;
  });
  db.prepare(
    `INSERT INTO audit (${AUDIT.join(", ")}) SELECT ${values.join(", ")} FROM jsonb_each(?) WHERE true
     ON CONFLICT (request_id) DO NOTHING`,
  ).run(JSON.stringify(records));
}

/** Everything that the Worker of 0.5.0 writes into the tables that have changed, once over, under other names each time. */
function work(db: DatabaseSync, n: number): void {
  const key = [
    "n",
    '["messages"]',
    null,
    '{"requests_per_minute":5}',
    null,
    "cancel",
    "finish",
    0,
    null,
    null,
    '{"mine":"opus"}',
  ];
  const values = [...key, "{}", "[]", 1, null, null, 1, `key_${n}`, "w", 1];
  db.prepare(`INSERT INTO api_keys (${KEY}) VALUES (${values.map(() => "?").join()})`).run(...values);
  db.prepare(
    `UPDATE api_keys SET name = ?, scopes = ?, models = ?, limits = ?, budget = ?, on_disconnect = ?, on_revoke = ?, fail_open = ?, timeouts = ?, cache = ?, aliases = ?, metadata = ?, secrets = ?, updated_at = ?, expires_at = ?, revoked_at = ?, version = ?
     WHERE id = ? AND version = ?`,
  ).run(...values.slice(0, 16), 2, `key_${n}`, 1);
  db.prepare(
    "UPDATE api_keys SET revoked_at = ?1, updated_at = ?1, version = version + 1 WHERE id = ?2 AND revoked_at IS NULL",
  ).run(9, `key_${n}`);
  db.prepare(
    `INSERT INTO workspaces (name, limits, budget, metadata, updated_at, version, id, created_at)
     VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING`,
  ).run("n", "{}", null, "{}", 1, 1, `ws_${n}`, 1);
  db.prepare(
    `INSERT INTO workspaces (id, name, limits, budget, metadata, created_at, updated_at, version, cache_epoch)
     VALUES (?1, ?1, '{}', NULL, '{}', ?2, ?2, 1, 1)
     ON CONFLICT (id) DO UPDATE SET cache_epoch = cache_epoch + 1, version = version + 1, updated_at = ?2`,
  ).run(`ws_${n}`, 2);
  storeAudit(
    db,
    ...["a", "b"].map((end) => ({
      ...{ request_id: `req_${n}${end}`, key_id: `key_${n}`, workspace: "w", at: n, route: "/v1/messages" },
      ...{
        method: "POST",
        dialect: "openai",
        status: 200,
        outcome: "complete",
        cost_micro_usd: 7,
        conversation_id: "c",
      },
    })),
  );
}

const rowsOf = (db: DatabaseSync, table: string): Record<string, unknown>[] =>
  db
    .prepare(`SELECT * FROM ${table} ORDER BY 1`)
    .all()
    .map((row) => ({ ...row }));
/** What the migrations have brought, and 0.5.0 never says. */
const NEW: Readonly<Record<string, object>> = {
  api_keys: { guardrails: null },
  workspaces: { guardrails: null },
  audit: { subject: null, template: null, template_version: null, findings: null, chain_seq: null, chain_hash: null },
  usage_hourly: {},
};

it("keep every row of 0.5.0 as it was, with nothing in the new columns", () => {
  const db = new DatabaseSync(":memory:");
  migrate(db, (number) => number <= LAST_OF_OLD);
  for (const n of [1, 2]) work(db, n);
  const before = Object.fromEntries(Object.keys(NEW).map((table) => [table, rowsOf(db, table)]));
  migrate(db, (number) => number > LAST_OF_OLD);
  for (const [table, added] of Object.entries(NEW)) {
    expect(before[table]?.length).toBeGreaterThan(0);
    expect(rowsOf(db, table)).toEqual(before[table]?.map((row) => ({ ...row, ...added })));
  }
});

it("take what 0.5.0 goes on to write as its own tables took it, and leave alone what it does not know of", () => {
  const [own, todays] = [new DatabaseSync(":memory:"), new DatabaseSync(":memory:")];
  migrate(own, (number) => number <= LAST_OF_OLD);
  migrate(todays, () => true);
  for (const db of [own, todays]) for (const n of [1, 2]) work(db, n);
  for (const [table, added] of Object.entries(NEW)) {
    expect(rowsOf(todays, table)).toEqual(rowsOf(own, table).map((row) => ({ ...row, ...added })));
  }
  todays.exec(`UPDATE api_keys SET guardrails = '{"redact":["EMAIL"]}'`);
  todays.exec(`UPDATE workspaces SET guardrails = '{"redact":["IP"]}'`);
  todays.exec("UPDATE api_keys SET name = 'm', version = 4 WHERE id = 'key_1' AND version = 3");
  todays.exec("UPDATE workspaces SET name = 'm', limits = '{}', version = 3 WHERE id = 'ws_1' AND version = 2");
  expect(rowsOf(todays, "api_keys")[0]).toMatchObject({ version: 4, guardrails: '{"redact":["EMAIL"]}' });
  expect(rowsOf(todays, "workspaces")[0]).toMatchObject({ version: 3, guardrails: '{"redact":["IP"]}' });
});
