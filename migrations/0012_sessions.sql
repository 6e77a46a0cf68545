-- Sessions of people at the control plane. A cookie's value is stored as its SHA-256 alone. `stands_on`: JSON of what the
-- session was opened with, which must still be good at each call. `scopes`: JSON; null: everything. A row stays for a day
-- after its end. Times are milliseconds since the epoch.
CREATE TABLE admin_sessions (
  id TEXT PRIMARY KEY,
  sha256 TEXT NOT NULL UNIQUE,
  actor TEXT NOT NULL,
  stands_on TEXT NOT NULL,
  scopes TEXT,
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  ended_at INTEGER
) WITHOUT ROWID;
CREATE INDEX admin_sessions_by_expiry ON admin_sessions (expires_at);
