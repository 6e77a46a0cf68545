-- Our own keys for signing tokens, made and rotated by the cron. `seq` grows by one with each, and as it is unique, one of
-- two that make the next key at the same moment fails. `sealed_private` is JSON, AES-256-GCM under the master key whose
-- version it names, bound to this row. A key signs from `signs_from` until the next one does (`retired_at`), and verifies
-- until nothing that it has signed can be in force any more (`delete_after`). Times are milliseconds since the epoch.
CREATE TABLE signing_keys (
  seq INTEGER PRIMARY KEY,
  kid TEXT NOT NULL UNIQUE,
  alg TEXT NOT NULL,
  public_jwk TEXT NOT NULL,
  sealed_private TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  signs_from INTEGER NOT NULL,
  retired_at INTEGER,
  delete_after INTEGER
);

-- Whose tokens are believed beside our own, and as which key they act. `audiences`, `mappings` and `blocked_subjects` are
-- JSON. Of `jwks_url` and `sealed_secret` (JSON, sealed as above) one is set. Null: `typ` is `JWT` or absent.
CREATE TABLE issuers (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  issuer TEXT NOT NULL UNIQUE,
  audiences TEXT NOT NULL,
  jwks_url TEXT,
  sealed_secret TEXT,
  typ TEXT,
  max_lifetime_seconds INTEGER NOT NULL,
  mappings TEXT NOT NULL,
  blocked_subjects TEXT NOT NULL,
  state TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  version INTEGER NOT NULL
) WITHOUT ROWID;
