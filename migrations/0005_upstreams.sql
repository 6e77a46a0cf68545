-- Upstream accounts: written by the control plane, handed to the isolates by the upstream pool's object. `sealed_key` is
-- JSON, AES-256-GCM under the master key whose version it names, bound to this row; the key itself is stored nowhere. A
-- removed one stays without it, since audit rows name it. Times are milliseconds since the epoch.
CREATE TABLE upstreams (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  base_url TEXT NOT NULL,
  weight INTEGER NOT NULL,
  models TEXT,
  concurrent_requests INTEGER,
  state TEXT NOT NULL,
  sealed_key TEXT,
  fingerprint TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  version INTEGER NOT NULL
) WITHOUT ROWID;

-- Which upstream answered (the last one tried), how often one was asked, and whether one had to be asked at all.
ALTER TABLE audit ADD COLUMN upstream TEXT;
ALTER TABLE audit ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE audit ADD COLUMN cache TEXT;
ALTER TABLE audit ADD COLUMN replayed INTEGER NOT NULL DEFAULT 0;

-- What a key may set for itself: limits of time, and the response cache (JSON; null: the gateway's own, and none).
ALTER TABLE api_keys ADD COLUMN timeouts TEXT;
ALTER TABLE api_keys ADD COLUMN cache TEXT;
-- Grows with each purge: cached answers of an earlier number are not found any more.
ALTER TABLE workspaces ADD COLUMN cache_epoch INTEGER NOT NULL DEFAULT 0;
