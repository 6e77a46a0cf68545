/** What the health check asks the database. */
import { env } from "cloudflare:workers";
import { expect, it } from "vitest";
import { DATABASE_CHECK } from "../src/health.ts";

const check = (): Promise<unknown> => env.DB.prepare(DATABASE_CHECK).first();

it("fails while a table is missing, whichever it is", async () => {
  await expect(check()).resolves.toBeNull();
  const { results } = await env.DB.prepare(
    "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name NOT LIKE '\\_cf%' ESCAPE '\\' AND name <> 'd1_migrations'",
  ).all<{ name: string }>();
  expect(results.length).toBeGreaterThan(4);
  for (const { name } of results) {
    await env.DB.prepare(`ALTER TABLE ${name} RENAME TO away`).run();
    await expect(check(), name).rejects.toThrow(/no such table/);
    await env.DB.prepare(`ALTER TABLE away RENAME TO ${name}`).run();
  }
  await expect(check()).resolves.toBeNull();
});
