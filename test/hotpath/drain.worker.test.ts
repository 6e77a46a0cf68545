/** A call that is handed to a drain which refuses it before it runs. */
import { env } from "cloudflare:workers";
import { expect, it } from "vitest";
import { forwardToDrain } from "../../src/hotpath/drain.ts";
import { leaseBook } from "../../src/hotpath/leases.ts";
import { type CallFacts, CallRecord } from "../../src/hotpath/settle.ts";
import { KEY_DEFAULTS, type KeyPolicy } from "../../src/identity/key-record.ts";
import { NOTHING } from "../../src/ledger/amounts.ts";
import type { Access } from "../../src/ledger/lease-book.ts";
import { type Answer, LEASE_MS, type Ledger, type Message } from "../../src/ledger/protocol.ts";

const policy: KeyPolicy = {
  ...KEY_DEFAULTS,
  id: "key_overloaded",
  version: 1,
  workspace: "w",
  name: "n",
  scopes: ["messages"],
  models: null,
  limits: {},
  budget: null,
  expires_at: null,
  revoked_at: null,
  secrets: [],
};
const facts: CallFacts = {
  requestId: "req_1",
  traceId: "t",
  startedAt: Date.now(),
  method: "POST",
  route: "/v1/messages",
  keyId: policy.id,
  workspace: "w",
  sessionId: null,
  agentId: null,
  parentAgentId: null,
  client: null,
  modelRequested: null,
  stream: true,
  maxTokens: null,
  guess: null,
  admission: "lease",
  ledgerMs: 0,
};

it("R-07 a drain with too much to do leaves the call with the Worker, which settles it and gives back what it held", async () => {
  const told: Message[] = [];
  const ledger: Ledger = {
    exchange: async (message): Promise<Answer> => {
      told.push(message);
      return {
        policy,
        lent: message.ask ? message.ask.wanted : null,
        validMs: LEASE_MS,
        state: { requests: null, inputTokens: null, outputTokens: null, slots: null, budget: null, running: 0 },
        usual: { inputRatio: 1, promptRatio: 1, outputTokens: 1, costRatio: 1 },
      };
    },
    policy: async () => policy,
    putPolicy: async () => {},
  };
  const background: Promise<unknown>[] = [];
  const access: Access = {
    ledger: () => ledger,
    background: (work) => void background.push(work),
    deadlineMs: 250,
    since: leaseBook.now,
    storedRules: async () => null,
  };
  const admission = await leaseBook.admit(policy, () => ({ ...NOTHING, requests: 1, slots: 1, microUsd: 900 }), access);
  if (admission.kind !== "admitted") throw new Error(admission.kind);
  const record = new CallRecord(facts, { access, db: env.DB, log: {}, logJoinMs: 0 });
  record.hold(admission.reservation);
  const busy = { fetch: () => Promise.reject(Object.assign(new Error("overloaded"), { overloaded: true })) };
  const drains = { getByName: () => busy } as unknown as Env["DRAIN"];
  const wanted = { affinity: "a", model: null, bound: false, pinned: null };
  const timeouts = { connectMs: 1, firstByteMs: 1, silenceMs: 1, totalMs: 1, streamTotalMs: 1 };
  const forwarding = { path: "/", method: "POST", headers: {}, body: null, wanted, timeouts };
  const never = () => Promise.reject(new Error("not to be made here"));
  const { signal } = new AbortController();
  const answer = await forwardToDrain(drains, forwarding, record, signal, false, never);
  expect(answer).toMatchObject({ ok: false, error: { failure: { kind: "unavailable" } } });
  record.settle({ status: 503, outcome: "error" });
  await Promise.all(background);
  const reports = told.flatMap(({ loans }) => loans);
  expect(reports.map(({ ended }) => ended?.microUsd).filter(Boolean)).toEqual([900]);
  expect(reports.find(({ ended }) => ended)?.used).toMatchObject({ microUsd: 0 });
  expect(told.map(({ records }) => records).join("")).toContain("req_1");
});
