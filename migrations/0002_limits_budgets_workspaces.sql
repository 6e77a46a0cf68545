-- Budgets (JSON: micro_usd, period, mode; null: none) and what happens at a client's leaving, a revocation and a ledger
-- that is away. Keys made before keep what they had: no budget, and the defaults of a new key.
ALTER TABLE api_keys ADD COLUMN budget TEXT;
ALTER TABLE api_keys ADD COLUMN on_disconnect TEXT NOT NULL DEFAULT 'cancel';
ALTER TABLE api_keys ADD COLUMN on_revoke TEXT NOT NULL DEFAULT 'finish';
ALTER TABLE api_keys ADD COLUMN fail_open INTEGER NOT NULL DEFAULT 0;

-- The keys of a workspace, newest last: for the list's filter, and to know whether any key names a new workspace.
CREATE INDEX api_keys_by_workspace ON api_keys (workspace, id);

-- Workspaces: what their keys share. Written by the control plane, read by a workspace's ledger at its first call. Kept
-- for ever: keys and audit rows name them. Times are milliseconds since the epoch.
CREATE TABLE workspaces (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  limits TEXT NOT NULL,
  budget TEXT,
  metadata TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  version INTEGER NOT NULL
) WITHOUT ROWID;

CREATE INDEX workspaces_by_time ON workspaces (created_at, id);
