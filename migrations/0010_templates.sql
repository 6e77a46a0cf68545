-- Prompt templates: the register. `workspaces`: JSON list of those that may use it, null: all. `labels`: JSON object, a
-- version or a list of {version, weight} each. `revision` grows with every change, publishing included. Times are
-- milliseconds since the epoch.
CREATE TABLE templates (
  name TEXT PRIMARY KEY NOT NULL,
  workspaces TEXT,
  state TEXT NOT NULL,
  labels TEXT NOT NULL,
  newest INTEGER NOT NULL,
  revision INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL
) WITHOUT ROWID;

-- Their versions, from 1 without gaps. Never changed, never deleted. `content`: JSON.
CREATE TABLE template_versions (
  name TEXT NOT NULL,
  version INTEGER NOT NULL,
  content TEXT NOT NULL,
  note TEXT,
  created_by TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  PRIMARY KEY (name, version)
);
