-- Price lists that replace the one that comes with the gateway: written by /admin/prices, read by every isolate. The
-- highest version is in force; json is NULL where the built-in list was put back. Nothing is changed or deleted, so
-- that a cost of the past can be explained. Times are milliseconds since the epoch.
CREATE TABLE price_lists (
  version INTEGER PRIMARY KEY,
  at INTEGER NOT NULL,
  actor TEXT NOT NULL,
  json TEXT
);
