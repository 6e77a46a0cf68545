import { readFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { expect, it } from "vitest";

const migration = (name: string) => readFileSync(join(import.meta.dirname, "../../migrations", name), "utf8");

it("keys made before there were budgets have none, and the defaults", () => {
  const db = new DatabaseSync(":memory:");
  db.exec(migration("0001_initial.sql"));
  const insert = (id: string) =>
    db
      .prepare(
        `INSERT INTO api_keys (id, workspace, name, scopes, models, limits, metadata, secrets, created_at, updated_at, expires_at, revoked_at, version)
         VALUES (?, 'w', 'n', '["messages"]', NULL, '{"requests_per_minute":5}', '{}', '[]', 1, 2, NULL, NULL, 3)`,
      )
      .run(id);
  insert("key_before");
  db.exec(migration("0002_limits_budgets_workspaces.sql"));
  // While a deploy is under way, a Worker of the version before still writes what it knows.
  insert("key_between");
  for (const id of ["key_before", "key_between"]) {
    expect({ ...db.prepare("SELECT * FROM api_keys WHERE id = ?").get(id) }).toMatchObject({
      id,
      limits: '{"requests_per_minute":5}',
      version: 3,
      budget: null,
      on_disconnect: "cancel",
      on_revoke: "finish",
      fail_open: 0,
    });
  }
  expect(db.prepare("SELECT count(*) AS n FROM workspaces").get()).toMatchObject({ n: 0 });
});

it("keys made before there were aliases have none", () => {
  const db = new DatabaseSync(":memory:");
  db.exec(migration("0001_initial.sql"));
  db.exec(
    `INSERT INTO api_keys (id, workspace, name, scopes, models, limits, metadata, secrets, created_at, updated_at, expires_at, revoked_at, version)
     VALUES ('key_before', 'w', 'n', '["messages"]', NULL, '{}', '{}', '[]', 1, 2, NULL, NULL, 3)`,
  );
  db.exec(migration("0007_aliases.sql"));
  expect({ ...db.prepare("SELECT id, aliases FROM api_keys").get() }).toEqual({ id: "key_before", aliases: null });
});
