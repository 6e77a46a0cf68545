/** Retention through the Worker's cron: what goes, what stays, and what usage says of the time before. */
import { createScheduledController } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeEach, describe, expect, it, vi } from "vitest";
import { sweepAudit } from "../../src/audit/retention.ts";
import { sumUsage } from "../../src/audit/usage.ts";
import { readSettings } from "../../src/env.ts";
import worker from "../../src/index.ts";
import { newId } from "../../src/wire/ids.ts";
import { auditRecord, call, database } from "../admin/control-plane.ts";
import { storeAudit } from "../support/store-audit.ts";

const HOUR = 60 * 60 * 1_000;
const DAY = 24 * HOUR;

const record = (at: number, workspace: string) => ({ ...auditRecord({ at, workspace, request_id: newId("req", at) }) });
const store = (times: readonly number[], workspace: string) =>
  storeAudit(
    env.DB,
    times.map((at) => record(at, workspace)),
  );
const kept = async (workspace: string) => {
  const { results } = await env.DB.prepare("SELECT at FROM audit WHERE workspace = ? ORDER BY at")
    .bind(workspace)
    .all<{ at: number }>();
  return results.map((row) => row.at);
};
const park = (at: number) =>
  env.DB.prepare("INSERT INTO audit_parked VALUES (?, NULL, ?, 'error', '{}')").bind(newId("req", at), at).run();

const lines: Record<string, unknown>[] = [];
async function cron(bindings: Record<string, unknown>) {
  lines.length = 0;
  const controller = createScheduledController({ scheduledTime: new Date(), cron: "17 * * * *" });
  // Without a master key its other parts have nothing to do, and so nothing to say.
  await worker.scheduled(controller, { ...env, MASTER_KEY: "", ...bindings } as Env);
}

beforeEach(async () => {
  for (const level of ["log", "error"] as const) {
    vi.spyOn(console, level).mockImplementation((line: string) => void lines.push(JSON.parse(line)));
  }
  await env.DB.batch(
    ["audit", "usage_hourly", "audit_parked", "audit_retention"].map((table) => env.DB.prepare(`DELETE FROM ${table}`)),
  );
});

describe("the cron", () => {
  it("deletes rows older than AUDIT_RETENTION_DAYS, to the whole hour, and parked ones; sums stay", async () => {
    const now = Date.now();
    const cut = now - 7 * DAY;
    const edge = cut - (cut % HOUR);
    await store([edge - 40 * DAY, edge - 1, edge, edge + 1, now], "ws_cron");
    await park(edge - 1);
    await park(now);
    await cron({ AUDIT_RETENTION_DAYS: "7" });
    expect(lines).toMatchObject([
      { level: "info", msg: "retention", days: 7, audit_rows: 2, parked_rows: 1, complete: true },
    ]);
    expect(await kept("ws_cron")).toEqual([edge, edge + 1, now]);
    const { results } = await env.DB.prepare("SELECT at FROM audit_parked").all();
    expect(results).toEqual([{ at: now }]);
    const { rows } = await sumUsage(env.DB, ["workspace"], { from: 0, to: now + 1 }, 10);
    expect(rows).toMatchObject([{ workspace: "ws_cron", requests: 5, cost_micro_usd: 500 }]);
  });

  it("keeps everything while no retention is set", async () => {
    await store([1, Date.now() - 4_000 * DAY], "ws_ever");
    for (const days of [undefined, ""]) {
      await cron({ AUDIT_RETENTION_DAYS: days });
      expect(lines).toEqual([]);
    }
    expect((await kept("ws_ever")).length).toBe(2);
  });

  it("says so and deletes nothing when a setting is wrong or D1 fails, and does not throw", async () => {
    await store([1], "ws_wrong");
    await cron({ AUDIT_RETENTION_DAYS: "0" });
    expect(lines).toMatchObject([{ level: "error", msg: "retention_failed" }]);
    expect(String(lines[0]?.error)).toContain("AUDIT_RETENTION_DAYS");
    await cron({ AUDIT_RETENTION_DAYS: "7", ...database((sql) => sql.includes("audit")).env });
    expect(lines).toMatchObject([{ level: "error", msg: "retention_failed", days: 7 }]);
    expect((await kept("ws_wrong")).length).toBe(1);
  });
});

describe("sweepAudit", () => {
  it.each([1, 9, 10, 11])("deletes 10 rows %i at a time, whatever the remainder", async (chunk) => {
    const now = 100 * DAY;
    await store([...Array.from({ length: 10 }, (_, i) => DAY + i), 99 * DAY], "ws_chunks");
    expect(await sweepAudit(env.DB, 30, () => now, { chunk })).toEqual({
      audit_rows: 10,
      parked_rows: 0,
      complete: true,
    });
    expect(await kept("ws_chunks")).toEqual([99 * DAY]);
  });

  it("stops when its time is up, says that it is not done, and goes on next time", async () => {
    let now = 100 * DAY;
    await store(
      Array.from({ length: 10 }, (_, i) => DAY + i),
      "ws_budget",
    );
    const clock = () => now++;
    const first = await sweepAudit(env.DB, 30, clock, { chunk: 2, budgetMs: 4 });
    expect(first.complete).toBe(false);
    expect(first.audit_rows).toBeGreaterThan(0);
    expect(first.audit_rows).toBeLessThan(10);
    expect((await sweepAudit(env.DB, 30, () => now)).audit_rows).toBe(10 - first.audit_rows);
  });
});

describe("usage after rows are deleted", () => {
  it("is exact where rows are kept, and by whole hours, which it says, where they are not", async () => {
    const now = Date.parse("2026-06-01T10:20:00Z");
    const old = Date.parse("2026-05-01T08:10:00Z");
    const edge = Date.parse("2026-05-31T10:00:00Z");
    await store([old, old + 1, old + 3 * HOUR, edge + 10, now], "ws_edges");
    await sweepAudit(env.DB, 1, () => now);
    expect(await kept("ws_edges")).toEqual([edge + 10, now]);
    const sum = async (from: number, to: number) => {
      const usage = await sumUsage(env.DB, ["workspace"], { from, to }, 10);
      return [new Date(usage.from).toISOString(), new Date(usage.to).toISOString(), usage.rows[0]?.requests ?? 0];
    };
    expect(await sum(old + 1, now)).toEqual(["2026-05-01T08:00:00.000Z", "2026-06-01T10:20:00.000Z", 4]);
    expect(await sum(old, old + 1)).toEqual(["2026-05-01T08:00:00.000Z", "2026-05-01T09:00:00.000Z", 2]);
    expect(await sum(old + HOUR, old + 3 * HOUR)).toEqual(["2026-05-01T09:00:00.000Z", "2026-05-01T12:00:00.000Z", 1]);
    expect(await sum(edge + 11, now)).toEqual(["2026-05-31T10:00:00.011Z", "2026-06-01T10:20:00.000Z", 0]);
    expect(await sum(edge + 10, now)).toEqual(["2026-05-31T10:00:00.010Z", "2026-06-01T10:20:00.000Z", 1]);
    const { body } = await call("usage?group_by=workspace&from=2026-05-01T08:30:00Z&to=2026-05-01T08:31:00Z");
    expect(body).toMatchObject({ from: "2026-05-01T08:00:00.000Z", to: "2026-05-01T09:00:00.000Z" });
    expect(body.data[0].requests).toBe(2);
  });

  it("does not bring deleted rows back into the exact part when the retention is lengthened", async () => {
    const now = Date.parse("2026-06-01T10:20:00Z");
    await store([now - 3 * DAY], "ws_longer");
    await sweepAudit(env.DB, 1, () => now);
    await sweepAudit(env.DB, 30, () => now);
    const usage = await sumUsage(env.DB, ["workspace"], { from: now - 3 * DAY, to: now - 3 * DAY + 1 }, 10);
    expect(usage.rows).toMatchObject([{ requests: 1 }]);
    expect(usage.to - usage.from).toBe(HOUR);
  });
});

describe("AUDIT_RETENTION_DAYS", () => {
  const settings = (days?: string) =>
    readSettings({
      UPSTREAM_URL: "https://up.test",
      ANTHROPIC_API_KEY: "k",
      ADMIN_TOKEN: "a",
      KEY_TAG_SECRET: "0123456789abcdef",
      ...(days === undefined ? {} : { AUDIT_RETENTION_DAYS: days }),
    });

  it.each(["0", "-1", "1.5", "abc", "1e3", " 7", "100000", "07"])("refuses %j by name", (days) => {
    const result = settings(days);
    expect(result.ok ? "" : result.error).toMatch(/^AUDIT_RETENTION_DAYS is not a whole number of days/);
  });

  it.each([
    ["1", 1],
    ["99999", 99_999],
    ["", null],
    [undefined, null],
  ])("takes %j", (days, value) => {
    const result = settings(days);
    expect(result.ok && result.value.auditRetentionDays).toBe(value);
  });
});
