-- Who a foreign token spoke for, the template that made a call's words, what guardrails found in it (JSON: counts per type),
-- and the row's link in the chain of its key: a number from 1, and the SHA-256 over the link before and this row. Rows of
-- earlier releases are in no chain.
ALTER TABLE audit ADD COLUMN subject TEXT;
ALTER TABLE audit ADD COLUMN template TEXT;
ALTER TABLE audit ADD COLUMN template_version INTEGER;
ALTER TABLE audit ADD COLUMN findings TEXT;
ALTER TABLE audit ADD COLUMN chain_seq INTEGER;
ALTER TABLE audit ADD COLUMN chain_hash TEXT;
-- To walk a chain. Not unique: a number that is there twice is found by the walk, and must not keep a row out.
CREATE INDEX audit_by_chain ON audit (key_id, chain_seq) WHERE chain_seq IS NOT NULL;
-- To find a row that came without a link later than those of earlier releases. Nothing is added to it any more.
CREATE INDEX audit_unchained ON audit (key_id, request_id) WHERE chain_seq IS NULL;

-- Who changed what in the control plane: written in the transaction of the change itself, never changed or deleted. `seq`
-- is the order of the writes. `before` and `after`: JSON without any secret; null where there was or is nothing. Times are
-- milliseconds since the epoch.
CREATE TABLE changes (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  at INTEGER NOT NULL,
  actor TEXT NOT NULL,
  action TEXT NOT NULL,
  kind TEXT NOT NULL,
  target TEXT NOT NULL,
  before TEXT,
  after TEXT,
  request_id TEXT
);
CREATE INDEX changes_by_kind ON changes (kind, seq);
CREATE INDEX changes_by_target ON changes (target, seq);
CREATE INDEX changes_by_actor ON changes (actor, seq);
