/** What releases before this one stored and say, written down as it is there, before today's ledger and today's isolate. */
import { evictDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { expect, it, vi } from "vitest";
import { sharedAnswer } from "../../src/cache/shared-answer.ts";
import {
  KEY_DEFAULTS,
  type KeyPolicy,
  type KeyRecord,
  type Rules,
  timeoutsFor,
} from "../../src/identity/key-record.ts";
import { insertKey, updateKey } from "../../src/identity/key-store.ts";
import { insertWorkspace, updateWorkspace } from "../../src/identity/workspace-store.ts";
import type { KeyLedger } from "../../src/ledger/key-ledger.ts";
import { type Access, LeaseBook } from "../../src/ledger/lease-book.ts";
import { LEASE_MS, type Ledger, type Message } from "../../src/ledger/protocol.ts";
import { newId } from "../../src/wire/ids.ts";
import { SOME_CHANGE } from "../support/changes.ts";

const timeouts = { total_ms: 5_000 };
const cache = { ttl_seconds: 60 };

/** A key's policy with all the fields that 0.2.0 knew. */
const policyOfOld = (id: string, version: number, workspace = "ws_default") => ({
  id,
  version,
  workspace,
  name: "test",
  scopes: ["messages"],
  models: null,
  limits: { requests_per_minute: 60 },
  budget: null,
  on_disconnect: "cancel",
  on_revoke: "finish",
  fail_open: false,
  expires_at: null,
  revoked_at: null,
  secrets: [],
});
const asRules = (rules: object): Rules => rules as Rules;

const recordOf = (id: string, version = 1): KeyRecord => ({
  ...KEY_DEFAULTS,
  ...(policyOfOld(id, version) as unknown as KeyPolicy),
  timeouts,
  cache,
  metadata: {},
  created_at: 1,
  updated_at: 1,
});

let messages = 0;
/** As 0.2.0 sends it. */
const message = (to: string, fields: Partial<Message> = {}): Message => ({
  id: `old${++messages}`,
  to,
  isolate: "i",
  ask: null,
  loans: [],
  holding: [],
  records: "",
  openStreams: 0,
  ...fields,
});

const ledgerOf = (name: string): DurableObjectStub<KeyLedger> => env.KEY_LEDGER.getByName(name);
const told = async (name: string) => (await ledgerOf(name).exchange(message(name)))?.policy;

it("a key's ledger that wakes up with a policy of 0.2.0 acts on it, and then on what D1 has beside it", async () => {
  const id = newId("key", Date.now());
  await insertKey(env.DB, recordOf(id), SOME_CHANGE);
  await ledgerOf(id).putPolicy(asRules(policyOfOld(id, 1)));
  await evictDurableObject(ledgerOf(id));
  expect(await told(id)).toMatchObject({ version: 1, limits: { requests_per_minute: 60 }, timeouts: {}, cache: null });
  await vi.waitFor(async () => expect(await told(id)).toMatchObject({ version: 1, timeouts, cache }));
  await evictDurableObject(ledgerOf(id));
  expect(await told(id)).toMatchObject({ version: 1, timeouts, cache });
});

it("a change by a Worker of 0.2.0 takes nothing away that it does not know of", async () => {
  const id = newId("key", Date.now());
  await insertKey(env.DB, recordOf(id), SOME_CHANGE);
  expect(await told(id)).toMatchObject({ version: 1, timeouts, cache });
  await updateKey(env.DB, { ...recordOf(id, 2), limits: { requests_per_minute: 7 } }, SOME_CHANGE);
  await ledgerOf(id).putPolicy(asRules({ ...policyOfOld(id, 2), limits: { requests_per_minute: 7 } }));
  expect(await told(id)).toMatchObject({ version: 2, limits: { requests_per_minute: 7 } });
  await vi.waitFor(async () => expect(await told(id)).toMatchObject({ version: 2, timeouts, cache }));
  expect(await told(id)).toMatchObject({ limits: { requests_per_minute: 7 } });
});

it("a key's ledger that wakes up with a policy of 0.3.0 acts on it, and then on the aliases that D1 has beside it", async () => {
  const id = newId("key", Date.now());
  const aliases = { mine: "opus" };
  const { aliases: _, guardrails: __, ...beside } = KEY_DEFAULTS;
  const stored = { ...beside, ...policyOfOld(id, 1), timeouts, cache };
  await insertKey(env.DB, { ...recordOf(id), aliases }, SOME_CHANGE);
  await ledgerOf(id).putPolicy(asRules(stored));
  await evictDurableObject(ledgerOf(id));
  expect(await told(id)).toMatchObject({ version: 1, timeouts, cache, aliases: {} });
  await vi.waitFor(async () => expect(await told(id)).toMatchObject({ version: 1, timeouts, cache, aliases }));
});

it("a workspace's ledger that wakes up with rules of 0.2.0 learns from D1 what was purged", async () => {
  const id = newId("ws", Date.now());
  const rules = { limits: { concurrent_requests: 1 }, budget: null };
  const record = { name: "n", metadata: {}, created_at: 1, updated_at: 1, cache_epoch: 0, guardrails: null };
  await insertWorkspace(env.DB, { id, version: 1, ...rules, ...record }, SOME_CHANGE);
  const [version, cache_epoch] = [2, 1];
  await updateWorkspace(env.DB, { id, ...rules, ...record, version, cache_epoch }, SOME_CHANGE);
  const name = `ws:${id}`;
  await ledgerOf(name).putPolicy({ id, version, ...rules });
  await evictDurableObject(ledgerOf(name));
  expect(await told(name)).toEqual({ id, version, ...rules });
  await vi.waitFor(async () =>
    expect(await told(name)).toEqual({ id, version, ...rules, cache_epoch, guardrails: null }),
  );
});

it("takes the records of 0.2.0 to D1 as those of calls that no pool had a part in", async () => {
  const id = newId("key", Date.now());
  await insertKey(env.DB, recordOf(id), SOME_CHANGE);
  const record = {
    request_id: newId("req", Date.now()),
    key_id: id,
    workspace: "ws_default",
    at: Date.now(),
    route: "/v1/messages",
    method: "POST",
    dialect: "anthropic",
    model: "claude-opus-5-5",
    status: 200,
    outcome: "complete",
    admission: "lease",
    input_tokens: 3,
    cost_micro_usd: 5,
    duration_ms: 5,
  };
  await ledgerOf(id).exchange(message(id, { records: JSON.stringify([record]) }));
  const stored = () => env.DB.prepare("SELECT * FROM audit WHERE key_id = ?").bind(id).first();
  const beside = { upstream: null, attempts: 0, cache: null, replayed: 0 };
  await vi.waitFor(async () => expect(await stored()).toMatchObject({ ...record, ...beside }), 5_000);
});

/** A ledger of 0.2.0, as an isolate meets it. */
function oldLedger(policy: object): Access {
  const ledger: Ledger = {
    exchange: async ({ ask }) => ({
      policy: asRules(policy),
      lent: ask?.wanted ?? null,
      validMs: LEASE_MS,
      state: { requests: null, inputTokens: null, outputTokens: null, slots: null, budget: null, running: 0 },
      usual: { inputRatio: 1, promptRatio: 1, outputTokens: 1, costRatio: 1 },
    }),
    policy: async () => null,
    putPolicy: async () => {},
  };
  return { ledger: () => ledger, background: () => {}, deadlineMs: 250, since: 0, storedRules: async () => null };
}

it("an isolate lays the gateway's own limits of time over a policy that a ledger of 0.2.0 tells", async () => {
  const book = new LeaseBook({ now: () => Date.now(), wait: (ms) => scheduler.wait(ms) });
  const policy = await book.policyOf("key_old", oldLedger(policyOfOld("key_old", 3)));
  if (typeof policy === "string") throw new Error(policy);
  expect(policy).toEqual({ ...policyOfOld("key_old", 3), timeouts: {}, cache: null, guardrails: null, aliases: {} });
  const own = { connectMs: 1, firstByteMs: 2, silenceMs: 3, totalMs: 4, streamTotalMs: 5 };
  expect(timeoutsFor(own, policy.timeouts)).toEqual(own);
});

it("no cached answer is looked for while a ledger of 0.2.0 can't say what was purged", async () => {
  const wishOf = (workspace: string, rules: object) =>
    sharedAnswer({
      cached: true,
      headers: new Map([["x-sluice-cache", "ttl=300"]]),
      policy: { ...recordOf("key_any"), workspace },
      access: oldLedger(rules),
      requestId: "req_1",
      stream: false,
      forwarding: {
        path: "/v1/messages",
        method: "POST",
        headers: {},
        body: new TextEncoder().encode('{"model":"m","max_tokens":1,"messages":[]}'),
        wanted: { affinity: "a", model: null, bound: false, pinned: null },
        timeouts: { connectMs: 1, firstByteMs: 1, silenceMs: 1, totalMs: 1, streamTotalMs: 1 },
      },
    });
  const rules = { id: "w", version: 2, limits: {}, budget: null };
  expect(await wishOf("ws_old_rules", rules)).toEqual({ ok: true, value: "bypass" });
  expect(await wishOf("ws_new_rules", { ...rules, cache_epoch: 4, guardrails: null })).toMatchObject({
    value: { claim: {} },
  });
  // One that was never made has nothing purged.
  expect(await wishOf("ws_never_made", { ...rules, version: 0 })).toMatchObject({ value: { claim: {} } });
});
