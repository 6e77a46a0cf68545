-- Which conversation a call was about, and which of its turns it was made for.
ALTER TABLE audit ADD COLUMN conversation_id TEXT;
ALTER TABLE audit ADD COLUMN turn_id TEXT;

-- Conversations by workspace, for lists: each is kept by an object of its own, which writes its row. Ids sort by time.
-- `metadata`: JSON. Times are milliseconds since the epoch.
CREATE TABLE conversations (
  id TEXT PRIMARY KEY,
  workspace TEXT NOT NULL,
  key_id TEXT NOT NULL,
  model TEXT NOT NULL,
  metadata TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  turns INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX conversations_by_workspace ON conversations (workspace, id);
