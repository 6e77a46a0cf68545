/** The ledger inside the Workers runtime: its bucket over evictions, its policy, its outbox, and who instantiates it. */
import { evictDurableObject, listDurableObjectIds, runDurableObjectAlarm } from "cloudflare:test";
import { env, exports } from "cloudflare:workers";
import { describe, expect, it } from "vitest";
import { mintKey } from "../../src/identity/api-key.ts";
import type { KeyRecord } from "../../src/identity/key-record.ts";
import { insertKey, policyOf } from "../../src/identity/key-store.ts";
import { newId } from "../../src/wire/ids.ts";

const NOTHING = { want: 1, unused: 0, settlements: [] };

/** A key that stands in D1, as the control plane leaves it. */
async function makeKey(limit?: number): Promise<KeyRecord & { key: string }> {
  const now = Date.now();
  const minted = await mintKey(env.KEY_TAG_SECRET, now);
  const record: KeyRecord = {
    id: minted.id,
    version: 1,
    workspace: "ws_default",
    name: "test",
    scopes: ["messages"],
    models: null,
    limits: limit === undefined ? {} : { requests_per_minute: limit },
    metadata: {},
    created_at: now,
    updated_at: now,
    expires_at: null,
    revoked_at: null,
    secrets: [{ sha256: minted.secretSha256, hint: minted.hint, created_at: now, expires_at: null }],
  };
  await insertKey(env.DB, record);
  return { ...record, key: minted.key };
}

const ledgerOf = (id: string) => env.KEY_LEDGER.getByName(id);

function settlement(keyId: string, requestId = newId("req", Date.now())) {
  const record = {
    request_id: requestId,
    key_id: keyId,
    workspace: "ws_default",
    at: Date.now(),
    route: "/v1/messages",
    method: "POST",
    dialect: "anthropic",
    stream: 0,
    status: 200,
    outcome: "complete",
    estimated: 0,
    input_tokens: 1,
    output_tokens: 1,
    cache_creation_5m_input_tokens: 0,
    cache_creation_1h_input_tokens: 0,
    cache_read_input_tokens: 0,
    thinking_tokens: 0,
    web_search_requests: 0,
    web_fetch_requests: 0,
    cost_micro_usd: 24,
    duration_ms: 5,
  };
  return { requestId, record: JSON.stringify(record) };
}

const rowsOf = async (keyId: string): Promise<string[]> => {
  const { results } = await env.DB.prepare("SELECT request_id FROM audit WHERE key_id = ? ORDER BY request_id")
    .bind(keyId)
    .all<{ request_id: string }>();
  return results.map((row) => row.request_id);
};

/** Runs the alarm until nothing is left to carry. */
async function carry(keyId: string): Promise<void> {
  while (await runDurableObjectAlarm(ledgerOf(keyId)));
}

describe("KeyLedger", () => {
  it("learns its key from D1 at the first call, and knows no strangers", async () => {
    const key = await makeKey();
    expect(await ledgerOf(key.id).lease(NOTHING)).toMatchObject({ granted: null, policy: { id: key.id } });
    expect(await ledgerOf(newId("key", Date.now())).lease(NOTHING)).toBeNull();
  });

  it("grants a bucket's worth under any concurrency, and not one more after an eviction", async () => {
    const key = await makeKey(50);
    const leases = await Promise.all(Array.from({ length: 200 }, () => ledgerOf(key.id).lease(NOTHING)));
    const granted = leases.reduce((sum, lease) => sum + (lease?.granted ?? 0), 0);
    // 50, and what flowed back while the calls ran (50 a minute).
    expect(granted).toBeGreaterThanOrEqual(50);
    expect(granted).toBeLessThanOrEqual(54);
    await evictDurableObject(ledgerOf(key.id));
    const after = await ledgerOf(key.id).lease(NOTHING);
    expect(after?.granted).toBeLessThanOrEqual(1);
    expect(after?.remaining).toBe(0);
  });

  it("lends by demand far from the limit, one by one near it, and takes back what was not used", async () => {
    const key = await makeKey(1000);
    const ledger = ledgerOf(key.id);
    expect((await ledger.lease({ ...NOTHING, want: 500 }))?.granted).toBe(100);
    expect((await ledger.lease({ ...NOTHING, want: 20, unused: 100 }))?.granted).toBe(20);
    expect((await ledger.lease(NOTHING))?.remaining).toBeGreaterThanOrEqual(979);
    for (let i = 0; i < 60; i++) await ledger.lease({ ...NOTHING, want: 1000 });
    expect((await ledger.lease({ ...NOTHING, want: 1000 }))?.granted).toBeLessThanOrEqual(2);
  });

  it("says when to come back", async () => {
    const key = await makeKey(1);
    expect((await ledgerOf(key.id).lease(NOTHING))?.granted).toBe(1);
    const denied = await ledgerOf(key.id).lease(NOTHING);
    expect(denied).toMatchObject({ granted: 0, remaining: 0 });
    expect(denied?.retryAfterMs).toBeGreaterThan(50_000);
    expect(denied?.retryAfterMs).toBeLessThanOrEqual(60_000);
  });

  it("keeps the newest policy, whatever order they come in, over evictions", async () => {
    const key = await makeKey();
    const ledger = ledgerOf(key.id);
    await ledger.putPolicy(policyOf({ ...key, version: 3, revoked_at: 1 }));
    await ledger.putPolicy(policyOf({ ...key, version: 2, name: "late" }));
    await evictDurableObject(ledger);
    expect(await ledgerOf(key.id).policy()).toMatchObject({ version: 3, revoked_at: 1, name: "test" });
  });

  it("carries records to D1 once, however often they are told", async () => {
    const key = await makeKey();
    const records = Array.from({ length: 700 }, () => settlement(key.id));
    await ledgerOf(key.id).settle(records.slice(0, 400));
    await ledgerOf(key.id).settle(records.slice(300));
    await evictDurableObject(ledgerOf(key.id));
    await ledgerOf(key.id).settle(records.slice(0, 10));
    await carry(key.id);
    expect(await rowsOf(key.id)).toEqual(records.map((record) => record.requestId).sort());
    await ledgerOf(key.id).settle(records.slice(0, 5));
    await carry(key.id);
    expect(await rowsOf(key.id)).toHaveLength(700);
  });

  it("keeps records while D1 fails, and loses and doubles none", async () => {
    const key = await makeKey();
    const first = settlement(key.id);
    await env.DB.prepare("ALTER TABLE audit RENAME TO audit_away").run();
    try {
      await ledgerOf(key.id).settle([first]);
      expect(await runDurableObjectAlarm(ledgerOf(key.id))).toBe(true);
      await ledgerOf(key.id).settle([settlement(key.id)]);
      await evictDurableObject(ledgerOf(key.id));
    } finally {
      await env.DB.prepare("ALTER TABLE audit_away RENAME TO audit").run();
    }
    await ledgerOf(key.id).settle([first]);
    await carry(key.id);
    expect(await rowsOf(key.id)).toHaveLength(2);
  });
});

describe("the door", () => {
  const call = (key: string) =>
    exports.default.fetch("https://gateway.test/v1/messages", {
      method: "POST",
      headers: { "x-api-key": key, "content-type": "application/json", "anthropic-version": "2023-06-01" },
      body: '{"model":"claude-opus-5-5","max_tokens":10,"messages":[]}',
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
    expect((await listDurableObjectIds(env.KEY_LEDGER)).length).toBe(before + 1);
  });

  it("answers a refused request with the key's own limits and the time to come back", async () => {
    const key = await makeKey(1);
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
});
