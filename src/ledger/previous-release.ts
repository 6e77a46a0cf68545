/**
 * What release 0.1 stored and said, where it is still met: a ledger wakes up with its tables, and during a deploy
 * Workers and ledgers of both releases talk to each other. It knew requests per minute and nothing else. Goes with the
 * release after this one.
 */
import { completePolicy, type KeyPolicy } from "../identity/key-record.ts";

import type { Head } from "./account.ts";
import { NOTHING } from "./amounts.ts";
import type { Bucket } from "./bucket.ts";
import { type Answer, LEASE_MS, type Ledger, type Message } from "./protocol.ts";

export type Settlement = { readonly requestId: string; readonly record: string };
export type LeaseRequest = {
  readonly want: number;
  readonly unused: number;
  readonly settlements: readonly Settlement[];
};
export type Lease = {
  readonly policy: KeyPolicy;
  readonly granted: number | null;
  readonly remaining: number | null;
  readonly retryAfterMs: number;
  readonly fullInMs: number;
};
type OldLedger = {
  lease(request: LeaseRequest): Promise<Lease | null>;
  settle(settlements: readonly Settlement[]): Promise<void>;
};

/** The account's head as 0.1 left it, or undefined. */
export function head(sql: SqlStorage): Head | undefined {
  const [table] = sql.exec("SELECT 1 FROM sqlite_master WHERE name = 'request_bucket'").toArray();
  const [requests] = table ? sql.exec<Bucket>("SELECT level, at FROM request_bucket").toArray() : [];
  return (
    requests && {
      buckets: { requests },
      usual: { inputRatio: 1, promptRatio: 1, outputTokens: 1_000, costRatio: 1 },
    }
  );
}

/** An old Worker's question. What it is lent counts as spent at once, since it will never give account of it. */
export async function lease(ledger: Ledger, request: LeaseRequest): Promise<Lease | null> {
  if (request.settlements.length > 0) await settle(ledger, request.settlements);
  const id = crypto.randomUUID();
  const ask = { loan: id, wanted: { ...NOTHING, requests: 1 }, more: { ...NOTHING, requests: request.want - 1 } };
  const answer = await ledger.exchange(message({ id, ask }));
  if (!answer) return null;
  const { lent, policy, state } = answer;
  const used = { inputTokens: 0, outputTokens: 0, microUsd: 0, learned: null };
  const report = { loan: id, unused: null, closed: true, ended: lent ?? NOTHING, used };
  await ledger.exchange(message({ id: `${id}.spent`, loans: [report] }));
  const level = state.requests;
  const inMs = (tokens: number): number =>
    level ? Math.max(0, Math.ceil(((tokens - level.level) * 60_000) / level.perMinute)) : 0;
  return {
    policy: policy as KeyPolicy,
    granted: level ? (lent?.requests ?? 0) : null,
    remaining: level ? Math.max(0, level.level) : null,
    retryAfterMs: lent?.requests ? 0 : inMs(1),
    fullInMs: level ? inMs(level.capacity) : 0,
  };
}

/** An old Worker's records, with the money that stands in them. */
export async function settle(ledger: Ledger, settlements: readonly Settlement[]): Promise<void> {
  const [first] = settlements;
  if (!first) return;
  const records = `[${settlements.map(({ record }) => record).join(",")}]`;
  const microUsd = (JSON.parse(records) as { cost_micro_usd?: number }[]).reduce(
    (sum, record) => sum + (record.cost_micro_usd ?? 0),
    0,
  );
  const used = { inputTokens: 0, outputTokens: 0, microUsd, learned: null };
  // The same batch is told again under the same ids.
  const id = `settle.${first.requestId}.${settlements.length}`;
  await ledger.exchange(
    message({ id, records, loans: [{ loan: null, unused: null, closed: false, ended: null, used }] }),
  );
}

function message(fields: Partial<Message> & { id: string }): Message {
  return { isolate: "", ask: null, loans: [], holding: [], records: "", openStreams: 0, ...fields };
}

/** A new Worker's message to a ledger that may still be an old one. */
export async function exchange(ledger: Ledger, sent: Message): Promise<Answer | null> {
  try {
    return await ledger.exchange(sent);
  } catch (error) {
    if (!/does not implement/.test(String(error))) throw error;
  }
  const old = ledger as unknown as OldLedger;
  const records = sent.records === "" ? [] : (JSON.parse(sent.records) as { request_id: string }[]);
  const settlements = records.map((record) => ({
    requestId: record.request_id,
    record: JSON.stringify(complete(record)),
  }));
  if (settlements.length > 0) await old.settle(settlements);
  const want = sent.ask ? sent.ask.wanted.requests + sent.ask.more.requests : 1;
  const answer = await old.lease({ want: Math.max(1, want), unused: sent.ask ? 0 : 1, settlements: [] });
  if (!answer) return null;
  const policy = completePolicy(answer.policy);
  const capacity = policy.limits.requests_per_minute;
  const asked = sent.ask && { ...sent.ask.wanted, requests: want };
  return {
    policy,
    lent: asked && { ...asked, requests: answer.granted ?? want },
    validMs: LEASE_MS,
    state: {
      requests: capacity === undefined ? null : { capacity, perMinute: capacity, level: answer.remaining ?? 0 },
      inputTokens: null,
      outputTokens: null,
      slots: null,
      budget: null,
      running: 0,
    },
    usual: { inputRatio: 1, promptRatio: 1, outputTokens: 1_000, costRatio: 1 },
  };
}

/** The old insert refuses rows without these. */
function complete(record: object): object {
  const zero = [
    "stream",
    "estimated",
    "input_tokens",
    "output_tokens",
    "cache_creation_5m_input_tokens",
    "cache_creation_1h_input_tokens",
    "cache_read_input_tokens",
    "thinking_tokens",
    "web_search_requests",
    "web_fetch_requests",
    "cost_micro_usd",
    "duration_ms",
  ];
  return { ...Object.fromEntries(zero.map((name) => [name, 0])), ...record };
}
