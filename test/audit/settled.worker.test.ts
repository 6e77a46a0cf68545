/** What a call has collected, from its settlement through the key's ledger into D1. */
import { runDurableObjectAlarm } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { expect, it, vi } from "vitest";
import type { ChainKeeper } from "../../src/audit/chain.ts";
import { type CallFacts, CallRecord } from "../../src/hotpath/settle.ts";
import type { Ledger } from "../../src/ledger/protocol.ts";
import { newId } from "../../src/wire/ids.ts";
import { call } from "../admin/control-plane.ts";

it("tells who a token spoke for, the template and the findings, and links the row", async () => {
  vi.spyOn(console, "log").mockImplementation(() => {});
  const now = Date.now();
  const facts = (changes: Partial<CallFacts>): CallFacts => ({
    ...{ requestId: newId("req", now), traceId: "t", startedAt: now, method: "POST", route: "/v1/messages" },
    ...{ keyId: key, workspace: "ws_settled", sessionId: null, agentId: null, parentAgentId: null, client: null },
    ...{ modelRequested: null, stream: false, maxTokens: null, guess: null, admission: null, ledgerMs: null },
    ...changes,
  });
  const key = newId("key", now);
  const stub = env.KEY_LEDGER.getByName(key);
  const work: Promise<unknown>[] = [];
  const access = {
    ledger: () => stub as unknown as Ledger,
    background: (promise: Promise<unknown>) => void work.push(promise),
    deadlineMs: 5_000,
    since: 0,
    storedRules: async () => null,
  };
  const settle = (changes: Partial<CallFacts>): void =>
    new CallRecord(facts(changes), { access, db: env.DB, log: {}, logJoinMs: 0 }).settle({
      status: 200,
      outcome: "complete",
    });
  const told = { subject: "repo:a/b", template: "greeting", findings: '{"EMAIL":2}' };
  settle({ ...told, templateVersion: 3 });
  // An order of a release that knew none of these.
  settle({});
  await Promise.all(work);
  await vi.waitFor(async () => {
    await runDurableObjectAlarm(stub);
    const { body } = await call("audit?workspace=ws_settled&template=greeting");
    expect(body.data).toMatchObject([
      { ...told, template_version: 3, chain_hash: expect.stringMatching(/^[0-9a-f]{64}$/) },
    ]);
    expect((await call("audit?workspace=ws_settled")).body.data.length).toBe(2);
  });
  const { body } = await call(`audit/verify?key=${key}`);
  expect(body).toMatchObject({ verified: 2, ok: true, tail: "compared" });
  expect(await (stub as unknown as ChainKeeper).chainEnd(key)).toMatchObject({ seq: 2, at: now });
});
