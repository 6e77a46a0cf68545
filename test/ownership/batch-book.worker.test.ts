/** A batch's book in the Workers runtime: what it books, once, whoever tells it and whatever breaks. */
import { runDurableObjectAlarm, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { describe, expect, it } from "vitest";
import { mintKey } from "../../src/identity/api-key.ts";
import { type Budget, KEY_DEFAULTS } from "../../src/identity/key-record.ts";
import { insertKey } from "../../src/identity/key-store.ts";
import { insertWorkspace } from "../../src/identity/workspace-store.ts";
import { NOTHING } from "../../src/ledger/amounts.ts";
import type { Message } from "../../src/ledger/protocol.ts";
import type { BatchBook, Booking, ResultLine } from "../../src/ownership/batch-book.ts";
import { SOME_CHANGE } from "../support/changes.ts";

const budget: Budget = { micro_usd: 1_000_000, period: "total", mode: "strict" };
let made = 0;

/** A key with a budget, in a workspace of its own that has one or limits nothing. */
async function makeKey(shared: Budget | null = budget) {
  const now = Date.now();
  const { id, secretSha256, hint } = await mintKey(env.KEY_TAG_SECRET, now);
  const workspace = `w_book_${++made}`;
  const times = { metadata: {}, created_at: now, updated_at: now };
  const secrets = [{ sha256: secretSha256, hint, created_at: now, expires_at: null }];
  await insertKey(
    env.DB,
    {
      ...KEY_DEFAULTS,
      ...times,
      id,
      version: 1,
      workspace,
      name: "n",
      scopes: ["batches"],
      models: null,
      limits: {},
      budget,
      expires_at: null,
      revoked_at: null,
      secrets,
    },
    SOME_CHANGE,
  );
  await insertWorkspace(
    env.DB,
    {
      ...times,
      id: workspace,
      version: 1,
      guardrails: null,
      name: "n",
      limits: {},
      budget: shared,
      cache_epoch: 0,
    },
    SOME_CHANGE,
  );
  return { keyId: id, workspace };
}

const line = (customId: string, microUsd = 10, model = "m"): ResultLine => ({
  customId,
  model,
  counts: [1, 2, 3, 4, 5, 6, 7, 8, microUsd],
  estimated: false,
});

function book(): DurableObjectStub<BatchBook> {
  return env.BATCH_BOOK.getByName(`up_1:batch_${++made}`);
}

async function spent(name: string): Promise<number> {
  const quiet: Message = { id: "q", isolate: "i", ask: null, loans: [], holding: [], records: "", openStreams: 0 };
  const answer = await env.KEY_LEDGER.getByName(name).exchange(quiet);
  return answer?.state.budget?.spentMicroUsd ?? -1;
}

async function rows(keyId: string): Promise<Record<string, unknown>[]> {
  await runDurableObjectAlarm(env.KEY_LEDGER.getByName(keyId));
  const { results } = await env.DB.prepare("SELECT * FROM audit WHERE key_id = ? ORDER BY request_id")
    .bind(keyId)
    .all();
  return results;
}

/** Waits until everything is told. */
async function told(stub: DurableObjectStub<BatchBook>): Promise<void> {
  for (let i = 0; i < 50; i++) {
    const due = await runInDurableObject(stub, (_, { storage }) =>
      storage.sql.exec<{ n: number }>("SELECT count(*) AS n FROM due").one(),
    );
    if (due.n === 0) return;
    await runDurableObjectAlarm(stub);
  }
  throw new Error("something stays due");
}

describe("L-03 a batch's book", () => {
  it("books each request once, to the key that made the batch and to its workspace, however often it is told", async () => {
    const owner = await makeKey();
    const stub = book();
    const booking = (lines: ResultLine[]): Booking => ({ ...owner, upstream: "up_1", lines });
    await Promise.all([
      stub.book(booking([line("a"), line("b", 20)])),
      stub.book(booking([line("b", 20), line("c", 30, "m2")])),
      stub.book(booking([line("a"), line("b", 20), line("c", 30, "m2")])),
    ]);
    await stub.book(booking([line("a"), line("c", 30, "m2"), line("d", 40)]));
    await told(stub);
    expect(await spent(owner.keyId)).toBe(100);
    expect(await spent(`ws:${owner.workspace}`)).toBe(100);
    const records = await rows(owner.keyId);
    const sum = (name: string, model: string) =>
      records.reduce((total, row) => total + (row.model === model ? Number(row[name]) : 0), 0);
    expect([sum("cost_micro_usd", "m"), sum("input_tokens", "m"), sum("cost_micro_usd", "m2")]).toEqual([70, 3, 30]);
    for (const row of records) {
      expect(row).toMatchObject({ route: "/v1/messages/batches/:id/results", upstream: "up_1", requests: 0 });
      expect(row).toMatchObject({ outcome: "complete", status: 200, workspace: owner.workspace });
    }
  });

  it("takes no token from a bucket and no request: money alone", async () => {
    const owner = await makeKey();
    const stub = book();
    await stub.book({ ...owner, upstream: "up_1", lines: [line("a")] });
    await told(stub);
    const ledger = env.KEY_LEDGER.getByName(owner.keyId);
    const answer = await ledger.exchange({
      id: "ask",
      isolate: "i",
      ask: { loan: "l", wanted: { ...NOTHING, requests: 1, slots: 1 }, more: NOTHING },
      loans: [],
      holding: [],
      records: "",
      openStreams: 0,
    });
    expect(answer?.state).toMatchObject({ running: 1, budget: { spentMicroUsd: 10 } });
  });

  it("tells a workspace that limits nothing nothing", async () => {
    const owner = await makeKey(null);
    const stub = book();
    await stub.book({ ...owner, upstream: "up_1", lines: [line("a")] });
    await told(stub);
    expect(await spent(owner.keyId)).toBe(10);
    const days = await runInDurableObject(env.KEY_LEDGER.getByName(`ws:${owner.workspace}`), (_, { storage }) =>
      storage.sql.exec("SELECT * FROM spend").toArray(),
    );
    expect(days).toEqual([]);
  });

  it("a ledger that is away is told later, and once", async () => {
    const owner = await makeKey();
    const stub = book();
    const workspace = env.KEY_LEDGER.getByName(`ws:${owner.workspace}`);
    await spent(`ws:${owner.workspace}`);
    const rename = (from: string, to: string) =>
      runInDurableObject(workspace, (_, { storage }) => void storage.sql.exec(`ALTER TABLE ${from} RENAME TO ${to}`));
    await rename("message", "message_away");
    await stub.book({ ...owner, upstream: "up_1", lines: [line("a")] });
    await runDurableObjectAlarm(stub);
    // The key has it, the workspace has not; nobody forgets that.
    expect(await spent(owner.keyId)).toBe(10);
    const due = await runInDurableObject(stub, (_, { storage }) => storage.sql.exec("SELECT * FROM due").toArray());
    expect(due).toMatchObject([{ key_told: 1 }]);
    await rename("message_away", "message");
    await told(stub);
    expect(await spent(owner.keyId)).toBe(10);
    expect(await spent(`ws:${owner.workspace}`)).toBe(10);
    expect(await rows(owner.keyId)).toHaveLength(1);
  });

  it("X-08 forgets everything when nothing more can come, and would begin anew", async () => {
    const owner = await makeKey();
    const stub = book();
    const booking = { ...owner, upstream: "up_1", lines: [line("a")] };
    await stub.book(booking);
    await told(stub);
    const alarm = await runInDurableObject(stub, (_, { storage }) => storage.getAlarm());
    expect((alarm ?? 0) - Date.now()).toBeGreaterThan(29 * 86_400_000);
    await runDurableObjectAlarm(stub);
    const left = await runInDurableObject(stub, (_, { storage }) =>
      storage.sql.exec("SELECT name FROM sqlite_master WHERE name IN ('booked', 'due')").toArray(),
    );
    expect(left).toEqual([]);
    await stub.book(booking);
    await told(stub);
    expect(await spent(owner.keyId)).toBe(20);
  });
});
