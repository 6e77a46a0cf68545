-- API keys: written by the control plane, read by a key's ledger at its first call. Kept for ever: revoked keys stay
-- readable, since audit rows name them. Secrets are stored as SHA-256 alone. Times are milliseconds since the epoch.
CREATE TABLE api_keys (
  id TEXT PRIMARY KEY,
  workspace TEXT NOT NULL,
  name TEXT NOT NULL,
  scopes TEXT NOT NULL,
  models TEXT,
  limits TEXT NOT NULL,
  metadata TEXT NOT NULL,
  secrets TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  expires_at INTEGER,
  revoked_at INTEGER,
  version INTEGER NOT NULL
) WITHOUT ROWID;

-- One row per authenticated call: written by the ledgers' outboxes, read by /admin/audit and /admin/usage. Kept for
-- ever. Request ids begin with their millisecond, so the primary key is also the order of time. No text of any prompt
-- or answer.
CREATE TABLE audit (
  request_id TEXT PRIMARY KEY,
  upstream_request_id TEXT,
  key_id TEXT NOT NULL,
  workspace TEXT NOT NULL,
  at INTEGER NOT NULL,
  route TEXT NOT NULL,
  method TEXT NOT NULL,
  dialect TEXT NOT NULL,
  model_requested TEXT,
  model TEXT,
  stream INTEGER NOT NULL,
  status INTEGER NOT NULL,
  error_type TEXT,
  outcome TEXT NOT NULL,
  estimated INTEGER NOT NULL,
  input_tokens INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  cache_creation_5m_input_tokens INTEGER NOT NULL,
  cache_creation_1h_input_tokens INTEGER NOT NULL,
  cache_read_input_tokens INTEGER NOT NULL,
  thinking_tokens INTEGER NOT NULL,
  web_search_requests INTEGER NOT NULL,
  web_fetch_requests INTEGER NOT NULL,
  cost_micro_usd INTEGER NOT NULL,
  ttfb_ms INTEGER,
  duration_ms INTEGER NOT NULL,
  stop_reason TEXT,
  session_id TEXT,
  agent_id TEXT,
  parent_agent_id TEXT,
  client TEXT
) WITHOUT ROWID;

CREATE INDEX audit_by_key ON audit (key_id, request_id);
