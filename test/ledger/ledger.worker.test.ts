/** The ledger inside the Workers runtime: its account over evictions, its policy, its outbox, and who instantiates it. */
import { evictDurableObject, listDurableObjectIds, runDurableObjectAlarm, runInDurableObject } from "cloudflare:test";
import { env, exports } from "cloudflare:workers";
import { describe, expect, it, vi } from "vitest";
import { mintKey } from "../../src/identity/api-key.ts";
import { KEY_DEFAULTS, type KeyRecord } from "../../src/identity/key-record.ts";
import { insertKey, policyOf } from "../../src/identity/key-store.ts";
import { insertWorkspace } from "../../src/identity/workspace-store.ts";
import { type Amounts, NOTHING } from "../../src/ledger/amounts.ts";
import type { KeyLedger } from "../../src/ledger/key-ledger.ts";
import { LOAN_EXPIRES_MS, type LoanReport, ledgerName, type Message } from "../../src/ledger/protocol.ts";
import { loadUpstreamRules, upstreamRules } from "../../src/ledger/upstream-rules.ts";
import type { UpstreamRecord } from "../../src/upstream/upstream.ts";
import { insertUpstream } from "../../src/upstream/upstream-store.ts";
import { newId } from "../../src/wire/ids.ts";
import { SOME_CHANGE } from "../support/changes.ts";

/** A key that stands in D1, as the control plane leaves it. */
async function makeKey(fields: Partial<KeyRecord> = {}): Promise<KeyRecord & { key: string }> {
  const now = Date.now();
  const minted = await mintKey(env.KEY_TAG_SECRET, now);
  const record: KeyRecord = {
    ...KEY_DEFAULTS,
    id: minted.id,
    version: 1,
    workspace: "ws_default",
    name: "test",
    scopes: ["messages"],
    models: null,
    limits: {},
    metadata: {},
    created_at: now,
    updated_at: now,
    expires_at: null,
    revoked_at: null,
    secrets: [{ sha256: minted.secretSha256, hint: minted.hint, created_at: now, expires_at: null }],
    ...fields,
  };
  await insertKey(env.DB, record, SOME_CHANGE);
  return { ...record, key: minted.key };
}

const ledgerOf = (id: string): DurableObjectStub<KeyLedger> => env.KEY_LEDGER.getByName(id);

let messages = 0;
function message(fields: Partial<Message> = {}): Message {
  return {
    id: `m${++messages}`,
    isolate: "i",
    ask: null,
    loans: [],
    holding: [],
    records: "",
    openStreams: 0,
    ...fields,
  };
}
const one: Amounts = { requests: 1, inputTokens: 10, outputTokens: 10, microUsd: 100, slots: 1 };
const asking = (loan: string, wanted = one, more = NOTHING): Message => message({ ask: { loan, wanted, more } });
const report = (loan: string | null, fields: Partial<LoanReport>): Message =>
  message({ loans: [{ loan, unused: null, closed: false, ended: null, used: null, ...fields }] });

function auditRecord(keyId: string, requestId = newId("req", Date.now())) {
  return {
    request_id: requestId,
    key_id: keyId,
    workspace: "ws_default",
    at: Date.now(),
    route: "/v1/messages",
    method: "POST",
    dialect: "anthropic",
    status: 200,
    outcome: "complete",
    duration_ms: 5,
  };
}

const rowsOf = async (keyId: string): Promise<string[]> => {
  const { results } = await env.DB.prepare("SELECT request_id FROM audit WHERE key_id = ? ORDER BY request_id")
    .bind(keyId)
    .all<{ request_id: string }>();
  return results.map((row) => row.request_id);
};

/** Runs the alarm until D1 has everything. */
async function carry(keyId: string): Promise<void> {
  for (let i = 0; i < 20; i++) {
    await runDurableObjectAlarm(ledgerOf(keyId));
    const rows = await runInDurableObject(ledgerOf(keyId), (_, { storage }) =>
      storage.sql.exec<{ n: number }>("SELECT count(*) AS n FROM outbox_batch").one(),
    );
    if (rows.n === 0) return;
  }
  throw new Error("the outbox does not empty");
}

describe("KeyLedger", () => {
  it("learns its key from D1 at the first call, and knows no strangers", async () => {
    const key = await makeKey();
    expect(await ledgerOf(key.id).exchange(asking("a"))).toMatchObject({ lent: one, policy: { id: key.id } });
    expect(await ledgerOf(newId("key", Date.now())).exchange(asking("a"))).toBeNull();
  });

  it("grants a bucket's worth under any concurrency, and not one more after an eviction", async () => {
    const key = await makeKey({ limits: { requests_per_minute: 50 } });
    const answers = await Promise.all(
      Array.from({ length: 200 }, (_, i) => ledgerOf(key.id).exchange(asking(`a${i}`))),
    );
    const granted = answers.reduce((sum, answer) => sum + (answer?.lent?.requests ?? 0), 0);
    // 50, and what flowed back while the calls ran (50 a minute).
    expect(granted).toBeGreaterThanOrEqual(50);
    expect(granted).toBeLessThanOrEqual(54);
    await evictDurableObject(ledgerOf(key.id));
    const after = await ledgerOf(key.id).exchange(asking("b"));
    expect(after?.lent?.requests).toBeLessThanOrEqual(1);
    expect(after?.state.requests?.level).toBe(0);
  });

  it("lends by demand far from the limit, nothing beyond what is wanted near it, and takes back what was not used", async () => {
    const key = await makeKey({ limits: { requests_per_minute: 1000 } });
    const ledger = ledgerOf(key.id);
    const more = { ...NOTHING, requests: 500 };
    expect((await ledger.exchange(asking("a", one, more)))?.lent?.requests).toBe(100);
    await ledger.exchange(report("a", { unused: { ...NOTHING, requests: 100 }, closed: true }));
    expect((await ledger.exchange(message()))?.state.requests?.level).toBe(1000);
    for (let i = 0; i < 60; i++) await ledger.exchange(asking(`b${i}`, one, more));
    expect((await ledger.exchange(asking("c", one, more)))?.lent?.requests).toBeLessThanOrEqual(2);
  });

  it("counts a message once, however often it is told, over evictions", async () => {
    const key = await makeKey({ budget: { micro_usd: 1_000, period: "day", mode: "strict" } });
    await ledgerOf(key.id).exchange(asking("a"));
    const used = { inputTokens: 1, outputTokens: 1, microUsd: 60, learned: null };
    const told = {
      ...report("a", { closed: true, ended: one, used }),
      records: JSON.stringify([auditRecord(key.id)]),
    };
    for (let i = 0; i < 3; i++) await ledgerOf(key.id).exchange(told);
    await evictDurableObject(ledgerOf(key.id));
    const answer = await ledgerOf(key.id).exchange(told);
    expect(answer?.state.budget).toMatchObject({ spentMicroUsd: 60, reservedMicroUsd: 0 });
    expect(answer?.lent).toBeNull();
    await carry(key.id);
    expect(await rowsOf(key.id)).toHaveLength(1);
    await ledgerOf(key.id).exchange(told);
    await carry(key.id);
    expect(await rowsOf(key.id)).toHaveLength(1);
  });

  it("L3 books a loan nobody speaks of as unreported, and takes it back when its account comes after all", async () => {
    const key = await makeKey({
      limits: { concurrent_requests: 2 },
      budget: { micro_usd: 1_000, period: "day", mode: "strict" },
    });
    const ledger = ledgerOf(key.id);
    await ledger.exchange(asking("a", { ...one, requests: 2, microUsd: 200, slots: 2 }));
    // Without a slot nothing else would be of use, or be booked when nobody comes back.
    expect((await ledger.exchange(asking("b")))?.lent).toEqual(NOTHING);
    vi.useFakeTimers({ now: Date.now() + LOAN_EXPIRES_MS + 1, toFake: ["Date"] });
    try {
      await runDurableObjectAlarm(ledger);
      const state = (await ledger.exchange(message()))?.state;
      expect(state?.budget).toMatchObject({ spentMicroUsd: 200, reservedMicroUsd: 0 });
      expect(state?.slots).toMatchObject({ free: 2 });
      const used = { inputTokens: 4, outputTokens: 4, microUsd: 150, learned: null };
      await ledger.exchange(
        report("a", { closed: true, ended: { ...one, requests: 2, microUsd: 200, slots: 2 }, used }),
      );
      expect((await ledger.exchange(message()))?.state.budget?.spentMicroUsd).toBe(150);
      await carry(key.id);
    } finally {
      vi.useRealTimers();
    }
    const { results } = await env.DB.prepare(
      "SELECT requests, cost_micro_usd FROM audit WHERE key_id = ? AND outcome = 'unreported' ORDER BY requests",
    )
      .bind(key.id)
      .all();
    expect(results).toEqual([
      { requests: -2, cost_micro_usd: -200 },
      { requests: 2, cost_micro_usd: 200 },
    ]);
  });

  it("R-07 keeps what is reserved, what is spent and how far its buckets are filled over restarts", async () => {
    const key = await makeKey({
      limits: {
        requests_per_minute: 10,
        input_tokens_per_minute: 100,
        output_tokens_per_minute: 100,
        concurrent_requests: 3,
      },
      budget: { micro_usd: 1_000, period: "month", mode: "strict" },
    });
    await ledgerOf(key.id).exchange(asking("a"));
    const before = (await ledgerOf(key.id).exchange(message()))?.state;
    await evictDurableObject(ledgerOf(key.id));
    expect((await ledgerOf(key.id).exchange(message()))?.state).toEqual(before);
  });

  it("takes what is used beyond a reservation into debt, and lends nothing until it is repaid", async () => {
    const key = await makeKey({ limits: { output_tokens_per_minute: 100 } });
    const ledger = ledgerOf(key.id);
    await ledger.exchange(asking("a"));
    const used = { inputTokens: 1, outputTokens: 400, microUsd: 1, learned: null };
    const state = (await ledger.exchange(report("a", { closed: true, ended: one, used })))?.state;
    expect(state?.outputTokens?.level).toBe(-300);
    expect((await ledger.exchange(asking("b")))?.lent?.outputTokens).toBe(0);
  });

  it("keeps the newest policy, whatever order they come in, over evictions", async () => {
    const key = await makeKey();
    const ledger = ledgerOf(key.id);
    await ledger.putPolicy(policyOf({ ...key, version: 3, revoked_at: 1 }));
    await ledger.putPolicy(policyOf({ ...key, version: 2, name: "late" }));
    await evictDurableObject(ledger);
    expect(await ledgerOf(key.id).policy()).toMatchObject({ version: 3, revoked_at: 1, name: "test" });
  });

  it("keeps a workspace's rules, and none for one that was never made", async () => {
    const id = newId("ws", Date.now());
    const rules = { limits: { concurrent_requests: 1 }, budget: null, cache_epoch: 0, guardrails: null };
    const empty = await env.KEY_LEDGER.getByName(`ws:${id}`).exchange(message());
    expect(empty?.policy).toMatchObject({ id, version: 0, limits: {}, budget: null });
    await insertWorkspace(
      env.DB,
      { id, version: 1, name: "n", metadata: {}, created_at: 1, updated_at: 1, ...rules },
      SOME_CHANGE,
    );
    await env.KEY_LEDGER.getByName(`ws:${id}`).putPolicy({ id, version: 1, ...rules });
    await evictDurableObject(env.KEY_LEDGER.getByName(`ws:${id}`));
    expect((await env.KEY_LEDGER.getByName(`ws:${id}`).exchange(asking("a")))?.state.slots).toEqual({
      limit: 1,
      free: 0,
    });
  });

  it("keeps an upstream's slots by its row, none for one that was removed, and none for one that is not stored", async () => {
    const id = newId("up", Date.now());
    const ledger = () => env.KEY_LEDGER.getByName(ledgerName.upstream(id));
    const rules = async () => (await ledger().exchange(message()))?.policy;
    expect(await rules()).toEqual({ id, version: 0, limits: {}, budget: null });
    const record: UpstreamRecord = {
      id,
      name: "n",
      base_url: "https://api.anthropic.com",
      weight: 1,
      models: null,
      concurrent_requests: 2,
      state: "active",
      sealed_key: null,
      fingerprint: "f",
      created_at: 1,
      updated_at: 1,
      version: 1,
    };
    await insertUpstream(env.DB, record, SOME_CHANGE);
    await ledger().putPolicy(upstreamRules(record));
    await evictDurableObject(ledger());
    expect((await ledger().exchange(asking("a")))?.state.slots).toEqual({ limit: 2, free: 1 });
    // A ledger that has never been told finds the same.
    expect(await loadUpstreamRules(env.DB, id)).toEqual(upstreamRules(record));
    // Else calls of the tests below would want its key, and it has none.
    await env.DB.prepare("DELETE FROM upstreams WHERE id = ?").bind(id).run();
    await ledger().putPolicy(upstreamRules({ ...record, version: 2, state: "removed" }));
    expect(await rules()).toEqual({ id, version: 2, limits: {}, budget: null });
    expect(await loadUpstreamRules(env.DB, "up_other")).toBeNull();
  });

  it("lends a slot to the isolate whose request has waited longest", async () => {
    const key = await makeKey({ limits: { concurrent_requests: 1 } });
    const ledger = ledgerOf(key.id);
    await ledger.exchange(asking("a"));
    const waits = (isolate: string, loan: string, ...waiting: number[]): Message => ({
      ...asking(loan),
      isolate,
      waiting,
    });
    expect((await ledger.exchange(waits("late", "b", 100)))?.lent).toEqual(NOTHING);
    expect((await ledger.exchange(waits("early", "c", 800, 50)))?.lent).toEqual(NOTHING);
    await ledger.exchange(report("a", { closed: true, ended: one }));
    expect((await ledger.exchange(waits("late", "d", 150)))?.lent).toEqual(NOTHING);
    expect((await ledger.exchange(waits("early", "e", 850, 100)))?.lent?.slots).toBe(1);
  });

  it("U-05 keeps records while D1 fails, and loses and doubles none", async () => {
    const key = await makeKey();
    const told = (): Message => message({ records: JSON.stringify([auditRecord(key.id)]) });
    const first = told();
    await env.DB.prepare("ALTER TABLE audit RENAME TO audit_away").run();
    try {
      await ledgerOf(key.id).exchange(first);
      expect(await runDurableObjectAlarm(ledgerOf(key.id))).toBe(true);
      await ledgerOf(key.id).exchange(told());
      await evictDurableObject(ledgerOf(key.id));
    } finally {
      await env.DB.prepare("ALTER TABLE audit_away RENAME TO audit").run();
    }
    await ledgerOf(key.id).exchange(first);
    vi.useFakeTimers({ now: Date.now() + 120_000, toFake: ["Date"] });
    try {
      await carry(key.id);
    } finally {
      vi.useRealTimers();
    }
    expect(await rowsOf(key.id)).toHaveLength(2);
  });
});

describe("what is remembered of messages", () => {
  const known = (id: string): Promise<number> =>
    runInDurableObject(
      ledgerOf(id),
      (_, { storage }) => storage.sql.exec<{ n: number }>("SELECT count(*) AS n FROM message").one().n,
    );

  it("is nothing of one that tells nothing, and ends though nothing else wakes the ledger", async () => {
    const id = `ws:${newId("ws", Date.now())}`;
    for (let i = 0; i < 5; i++) await ledgerOf(id).exchange(message());
    expect(await known(id)).toBe(0);
    // Money without a loan leaves neither a loan nor a record behind.
    const used = { inputTokens: 1, outputTokens: 1, microUsd: 5, learned: null };
    await ledgerOf(id).exchange(report(null, { used }));
    expect(await known(id)).toBe(1);
    vi.useFakeTimers({ now: Date.now() + 600_001, toFake: ["Date"] });
    try {
      expect(await runDurableObjectAlarm(ledgerOf(id))).toBe(true);
    } finally {
      vi.useRealTimers();
    }
    expect(await known(id)).toBe(0);
  });
});

describe("the door", () => {
  const call = (key: string, more: Record<string, unknown> = {}) =>
    exports.default.fetch("https://gateway.test/v1/messages", {
      method: "POST",
      headers: { "x-api-key": key, "content-type": "application/json", "anthropic-version": "2023-06-01" },
      body: JSON.stringify({ model: "claude-opus-5-5", max_tokens: 10, messages: [], ...more }),
    });

  it("K-04 lets no forged key touch a Durable Object", async () => {
    const key = await makeKey();
    const before = (await listDurableObjectIds(env.KEY_LEDGER)).length;
    for (let i = 0; i < 50; i++) {
      const forged = `sk-sluice-${newId("x", Date.now()).slice(2)}${key.key.slice(36)}`;
      expect((await call(forged)).status).toBe(401);
    }
    expect((await listDurableObjectIds(env.KEY_LEDGER)).length).toBe(before);
    expect((await call(key.key)).status).toBe(200);
    expect((await listDurableObjectIds(env.KEY_LEDGER)).length).toBeGreaterThan(before);
  });

  it("answers a refused request with the key's own limits and the time to come back", async () => {
    const key = await makeKey({ limits: { requests_per_minute: 1 } });
    const first = await call(key.key);
    expect(first.status).toBe(200);
    expect(first.headers.get("anthropic-ratelimit-requests-limit")).toBe("1");
    expect(first.headers.get("anthropic-ratelimit-requests-remaining")).toBe("0");
    const second = await call(key.key);
    expect(second.status).toBe(429);
    expect(Number(second.headers.get("retry-after"))).toBeGreaterThan(50);
    expect(second.headers.get("anthropic-ratelimit-requests-reset")).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/);
    expect(await second.json()).toMatchObject({ type: "error", error: { type: "rate_limit_error" } });
  });

  it("R-04 refuses at once what no waiting would let through", async () => {
    const key = await makeKey({ limits: { input_tokens_per_minute: 20 } });
    const response = await call(key.key, { system: "x".repeat(2_000) });
    expect(response.status).toBe(429);
    expect(response.headers.get("retry-after")).toBeNull();
    expect(response.headers.get("x-should-retry")).toBe("false");
    expect(await response.text()).toMatch(/exceeds bucket size: it needs \d+ input tokens, .* more than 20/);
  });

  it("B-03 holds the first requests of a new key to its budget, and says what the budget says", async () => {
    // Ten output tokens of the model and the input are some 500 µUSD at the most.
    const key = await makeKey({ budget: { micro_usd: 1_500, period: "day", mode: "strict" } });
    const answers = await Promise.all(Array.from({ length: 30 }, () => call(key.key)));
    const statuses = answers.map(({ status }) => status);
    expect(statuses.filter((status) => status === 200).length).toBeGreaterThan(0);
    expect(statuses.filter((status) => status === 200).length).toBeLessThan(8);
    expect(new Set(statuses)).toEqual(new Set([200, 429]));
    const refused = answers.find(({ status }) => status === 429);
    // Nothing is spent yet: it is the running ones that stand in the way, and only for a moment (the header is every budget's).
    expect(refused?.headers.get("x-should-retry")).toBe("false");
    expect(refused?.headers.get("retry-after")).toBe("1");
    expect(await refused?.json()).toMatchObject({
      error: { type: "billing_error", message: expect.stringContaining("reserved by running requests") },
    });
    const large = await call(key.key, { max_tokens: 1_000_000 });
    expect(large.status).toBe(429);
    expect(large.headers.get("x-should-retry")).toBe("false");
    const counted = await exports.default.fetch("https://gateway.test/v1/messages/count_tokens", {
      method: "POST",
      headers: { "x-api-key": key.key, "content-type": "application/json", "anthropic-version": "2023-06-01" },
      body: JSON.stringify({ model: "claude-opus-5-5", messages: [] }),
    });
    expect(counted.status).toBe(200);
  });

  it("shows a key where it stands", async () => {
    const key = await makeKey({
      limits: { requests_per_minute: 5, concurrent_requests: 2 },
      budget: { micro_usd: 1_000_000, period: "total", mode: "soft" },
    });
    expect((await call(key.key)).status).toBe(200);
    await vi.waitFor(async () => {
      const response = await exports.default.fetch("https://gateway.test/v1/key", {
        headers: { "x-api-key": key.key },
      });
      expect(await response.json()).toMatchObject({
        id: key.id,
        left: { requests: { capacity: 5, remaining: 4 }, concurrent_requests: { running: 0, remaining: 2 } },
        budget: { limit_micro_usd: 1_000_000, spent_micro_usd: 140, reserved_micro_usd: 0, resets_at: null },
        shared: null,
      });
    });
  });
});
