-- What an audit row says beside what it said before. Rows of the first release each stand for one call; their 429s without
-- an upstream id were the key's own limit of requests, the only one there was.
ALTER TABLE audit ADD COLUMN requests INTEGER NOT NULL DEFAULT 1;
ALTER TABLE audit ADD COLUMN denial TEXT;
ALTER TABLE audit ADD COLUMN admission TEXT;
ALTER TABLE audit ADD COLUMN ledger_ms INTEGER;
ALTER TABLE audit ADD COLUMN drained INTEGER NOT NULL DEFAULT 0;
UPDATE audit SET denial = 'requests' WHERE status = 429 AND error_type = 'rate_limit_error' AND upstream_request_id IS NULL;

-- Usage by the hour, for ever: audit rows may be deleted, sums are not. `hour` is its first millisecond. `model` is the one
-- that answered, else the one asked for, else empty. A row that stands for several calls counts as so many.
CREATE TABLE usage_hourly (
  hour INTEGER NOT NULL,
  key_id TEXT NOT NULL,
  workspace TEXT NOT NULL,
  model TEXT NOT NULL,
  requests INTEGER NOT NULL,
  errors INTEGER NOT NULL,
  unreported INTEGER NOT NULL,
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
  PRIMARY KEY (hour, key_id, workspace, model)
) WITHOUT ROWID;

INSERT INTO usage_hourly
SELECT at - at % 3600000, key_id, workspace, coalesce(model, model_requested, ''),
  count(*), sum(status >= 400 OR outcome <> 'complete'), 0, sum(estimated <> 0),
  sum(input_tokens), sum(output_tokens), sum(cache_creation_5m_input_tokens), sum(cache_creation_1h_input_tokens), sum(cache_read_input_tokens), sum(thinking_tokens), sum(web_search_requests), sum(web_fetch_requests), sum(cost_micro_usd)
FROM audit
GROUP BY 1, 2, 3, 4;

-- Whoever inserts an audit row adds it to its hour, in the same statement: exactly once, since a row that is there already
-- is ignored and fires nothing. One line, because the local runtime splits this file at line ends.
CREATE TRIGGER audit_into_usage AFTER INSERT ON audit BEGIN INSERT INTO usage_hourly VALUES (new.at - new.at % 3600000, new.key_id, new.workspace, coalesce(new.model, new.model_requested, ''), new.requests, iif(new.outcome <> 'unreported' AND (new.status >= 400 OR new.outcome <> 'complete'), new.requests, 0), iif(new.outcome = 'unreported', new.requests, 0), iif(new.estimated <> 0, new.requests, 0), new.input_tokens, new.output_tokens, new.cache_creation_5m_input_tokens, new.cache_creation_1h_input_tokens, new.cache_read_input_tokens, new.thinking_tokens, new.web_search_requests, new.web_fetch_requests, new.cost_micro_usd) ON CONFLICT (hour, key_id, workspace, model) DO UPDATE SET requests = requests + excluded.requests, errors = errors + excluded.errors, unreported = unreported + excluded.unreported, estimated = estimated + excluded.estimated, input_tokens = input_tokens + excluded.input_tokens, output_tokens = output_tokens + excluded.output_tokens, cache_creation_5m_input_tokens = cache_creation_5m_input_tokens + excluded.cache_creation_5m_input_tokens, cache_creation_1h_input_tokens = cache_creation_1h_input_tokens + excluded.cache_creation_1h_input_tokens, cache_read_input_tokens = cache_read_input_tokens + excluded.cache_read_input_tokens, thinking_tokens = thinking_tokens + excluded.thinking_tokens, web_search_requests = web_search_requests + excluded.web_search_requests, web_fetch_requests = web_fetch_requests + excluded.web_fetch_requests, cost_micro_usd = cost_micro_usd + excluded.cost_micro_usd; END;

-- Records that the audit table refused for what they hold, as they came. Written by the ledgers' outboxes.
CREATE TABLE audit_parked (
  request_id TEXT PRIMARY KEY,
  key_id TEXT,
  at INTEGER NOT NULL,
  error TEXT NOT NULL,
  record TEXT NOT NULL
) WITHOUT ROWID;

-- One row: audit rows of calls before `kept_from` are deleted, or about to be. Moved by the cron before it deletes.
CREATE TABLE audit_retention (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  kept_from INTEGER NOT NULL
);
