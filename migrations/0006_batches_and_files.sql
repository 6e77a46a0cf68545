-- Which workspace made a batch or a file, and which upstream holds it. A row is there before the upstream is asked: one
-- that keeps a null `id` tells of a call whose end nobody saw. A deleted one stays for a week, because pages of a list may
-- go on from it. `seq` grows with time. Times are milliseconds since the epoch.
CREATE TABLE batches (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT,
  upstream TEXT,
  request_id TEXT NOT NULL,
  workspace TEXT NOT NULL,
  key_id TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  deleted_at INTEGER
);
CREATE UNIQUE INDEX batches_by_id ON batches (id, upstream);
CREATE INDEX batches_by_workspace ON batches (workspace, seq);
CREATE INDEX batches_deleted ON batches (workspace, deleted_at) WHERE deleted_at IS NOT NULL;

CREATE TABLE files (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT,
  upstream TEXT,
  request_id TEXT NOT NULL,
  workspace TEXT NOT NULL,
  key_id TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  deleted_at INTEGER
);
CREATE UNIQUE INDEX files_by_id ON files (id, upstream);
CREATE INDEX files_by_workspace ON files (workspace, seq);
CREATE INDEX files_deleted ON files (workspace, deleted_at) WHERE deleted_at IS NOT NULL;
