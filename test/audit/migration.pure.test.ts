/** Migration 0003 on a database of the first release, with rows in it. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { beforeEach, describe, expect, it } from "vitest";

const migration = (name: string) => readFileSync(join(import.meta.dirname, "../../migrations", name), "utf8");
const HOUR = 3_600_000;
const NOON = Date.parse("2026-03-01T12:00:00Z");

let db: DatabaseSync;
let rows = 0;

function insert(changes: Record<string, string | number | null> = {}): void {
  const row = {
    request_id: `req_${rows++}`,
    upstream_request_id: "req_up",
    key_id: "key_a",
    workspace: "ws_a",
    at: NOON,
    route: "/v1/messages",
    method: "POST",
    dialect: "anthropic",
    model_requested: "asked",
    model: "answered",
    stream: 0,
    status: 200,
    error_type: null,
    outcome: "complete",
    estimated: 0,
    input_tokens: 1,
    output_tokens: 2,
    cache_creation_5m_input_tokens: 3,
    cache_creation_1h_input_tokens: 4,
    cache_read_input_tokens: 5,
    thinking_tokens: 6,
    web_search_requests: 7,
    web_fetch_requests: 8,
    cost_micro_usd: 9,
    duration_ms: 10,
    ...changes,
  };
  const names = Object.keys(row);
  db.prepare(`INSERT OR IGNORE INTO audit (${names.join()}) VALUES (${names.map(() => "?").join()})`).run(
    ...Object.values(row),
  );
}

const sample = () => {
  insert();
  insert({ at: NOON + HOUR - 1, status: 500, outcome: "error", estimated: 1 });
  insert({ at: NOON + HOUR });
  insert({ at: NOON - 1, model: null });
  insert({ model: null, model_requested: null, status: 404, outcome: "error" });
  insert({ key_id: "key_b", workspace: "ws_b", cost_micro_usd: 1_000_000_000_000 });
  insert({ outcome: "upstream_cut" });
};

beforeEach(() => {
  rows = 0;
  db = new DatabaseSync(":memory:");
  db.exec(migration("0001_initial.sql"));
});

describe("migration 0003", () => {
  it("sums the rows that are there as the trigger sums those that come", () => {
    sample();
    db.exec(migration("0003_audit.sql"));
    const backfilled = db.prepare("SELECT * FROM usage_hourly").all();
    expect(backfilled.length).toBe(5);
    db.exec("DELETE FROM audit; DELETE FROM usage_hourly");
    rows = 0;
    sample();
    expect(db.prepare("SELECT * FROM usage_hourly").all()).toEqual(backfilled);
    // The first release, still running while a deploy goes through, inserts with OR IGNORE.
    rows = 0;
    sample();
    expect(db.prepare("SELECT * FROM usage_hourly").all()).toEqual(backfilled);
    expect(backfilled[0]).toEqual({
      hour: NOON - HOUR,
      key_id: "key_a",
      workspace: "ws_a",
      model: "asked",
      requests: 1,
      errors: 0,
      unreported: 0,
      estimated: 0,
      input_tokens: 1,
      output_tokens: 2,
      cache_creation_5m_input_tokens: 3,
      cache_creation_1h_input_tokens: 4,
      cache_read_input_tokens: 5,
      thinking_tokens: 6,
      web_search_requests: 7,
      web_fetch_requests: 8,
      cost_micro_usd: 9,
    });
  });

  it("gives old rows their values: one call each, and the denial that was the only one there was", () => {
    insert();
    insert({ status: 429, error_type: "rate_limit_error", outcome: "error", upstream_request_id: null });
    insert({ status: 429, error_type: "rate_limit_error", outcome: "error" });
    db.exec(migration("0003_audit.sql"));
    const found = db
      .prepare("SELECT requests, denial, admission, ledger_ms, drained FROM audit ORDER BY request_id")
      .all();
    const row = { requests: 1, denial: null, admission: null, ledger_ms: null, drained: 0 };
    expect(found).toEqual([row, { ...row, denial: "requests" }, row]);
  });

  it("works on an empty database", () => {
    db.exec(migration("0003_audit.sql"));
    expect(db.prepare("SELECT count(*) AS n FROM usage_hourly").get()).toEqual({ n: 0 });
  });
});
