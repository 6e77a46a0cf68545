/** Orders between Workers and drains of release 0.2.0 and of today. */
import { env } from "cloudflare:workers";
import { expect, it, vi } from "vitest";
import { settingsOf } from "../../src/env.ts";
import { forwardToDrain } from "../../src/hotpath/drain.ts";
import { accessFor, leaseBook } from "../../src/hotpath/leases.ts";
import * as previous from "../../src/hotpath/previous-release.ts";
import { type CallFacts, CallRecord } from "../../src/hotpath/settle.ts";
import { ok } from "../../src/result.ts";
import { newId } from "../../src/wire/ids.ts";

const body = new TextEncoder().encode('{"model":"claude-opus-5-5","max_tokens":9,"messages":[]}');

const factsOf = (requestId: string, keyId: string): CallFacts => ({
  requestId,
  traceId: "t",
  startedAt: Date.now(),
  method: "POST",
  route: "/v1/messages",
  keyId,
  workspace: "w",
  sessionId: "s",
  agentId: null,
  parentAgentId: null,
  client: null,
  modelRequested: "claude-opus-5-5",
  stream: false,
  maxTokens: 9,
  guess: null,
  admission: "lease",
  ledgerMs: 0,
});

/** The request that a Worker of 0.2.0 sends to a drain. */
function oldOrder(facts: CallFacts, upstreamUrl: string): Request {
  const order = {
    url: `${upstreamUrl}/v1/messages?beta=true`,
    method: "POST",
    headers: {
      "content-type": "application/json",
      "anthropic-version": "2023-06-01",
      "accept-encoding": "identity",
      "x-api-key": "sk-ant-of-the-old",
    },
    facts,
    shares: [
      {
        name: facts.keyId,
        scope: "key",
        share: { loan: null, reserved: { requests: 1, inputTokens: 1, outputTokens: 9, microUsd: 1, slots: 1 } },
      },
    ],
    by: "lease",
    cut: false,
  };
  const headers = { "x-sluice-order": encodeURIComponent(JSON.stringify(order)) };
  return new Request("https://drain.internal/", { method: "POST", headers, body });
}

function settings() {
  const read = settingsOf(env);
  if (!read.ok) throw new Error(read.error);
  return read.value;
}

it("reads the order of a Worker of 0.2.0, without the credential in it", () => {
  const facts = factsOf("req_old", "key_old");
  const order = previous.readOrder(oldOrder(facts, "https://upstream.example/base"), settings());
  expect(order).toEqual({
    forwarding: {
      path: "/v1/messages?beta=true",
      method: "POST",
      headers: { "content-type": "application/json", "anthropic-version": "2023-06-01", "accept-encoding": "identity" },
      wanted: { affinity: "w s", model: "claude-opus-5-5", bound: true, pinned: null },
      timeouts: settings().timeouts,
    },
    facts,
    cache: null,
    shares: [expect.objectContaining({ name: "key_old", scope: "key" })],
    by: "lease",
    cut: false,
  });
  expect(previous.readOrder(new Request("https://drain.internal/"), settings())).toBeNull();
});

it("a drain carries out the order of a Worker of 0.2.0 and settles it", async () => {
  const requestId = newId("req", Date.now());
  const keyId = newId("key", Date.now());
  const response = await env.DRAIN.getByName(keyId).fetch(oldOrder(factsOf(requestId, keyId), env.UPSTREAM_URL));
  expect([response.status, response.headers.get("x-sluice-failure")]).toEqual([200, null]);
  expect(await response.json()).toMatchObject({ id: "msg_1" });
  const row = () => env.DB.prepare("SELECT * FROM audit WHERE request_id = ?").bind(requestId).first();
  const settled = {
    key_id: keyId,
    status: 200,
    outcome: "complete",
    upstream: "up_default",
    attempts: 1,
    output_tokens: 5,
  };
  await vi.waitFor(async () => expect(await row()).toMatchObject(settled), 5_000);
});

it("tells a Worker of 0.2.0 a failure that it has no words for as the client's answer", async () => {
  const failure = { kind: "upstream_error_event", type: "overloaded_error", body: "{}" } as const;
  const response = previous.failedAnswer(
    { failure, headers: { "x-should-retry": "false" } },
    factsOf("req_7", "key_old"),
  );
  // Where there is this header, that release reads one of its own failures from it.
  expect([response.status, response.headers.get("x-sluice-failure")]).toEqual([529, null]);
  expect(response.headers.get("x-should-retry")).toBe("false");
  expect(await response.json()).toMatchObject({
    type: "error",
    error: { type: "overloaded_error" },
    request_id: "req_7",
  });
});

/** How a drain of 0.2.0 begins. */
async function oldDrain(_url: string, { headers }: RequestInit): Promise<Response> {
  const { url } = JSON.parse(decodeURIComponent(new Headers(headers).get("x-sluice-order") ?? "")) as { url: string };
  return fetch(url);
}

async function handedTo(drain: (url: string, init: RequestInit) => Promise<Response>) {
  const background: Promise<unknown>[] = [];
  const access = accessFor(env, { waitUntil: (work) => void background.push(work) }, 250);
  const record = new CallRecord(factsOf("req_1", "key_1"), { access, db: env.DB, log: {}, logJoinMs: 0 });
  record.hold(leaseBook.adopt([], "lease"));
  const drains = { getByName: () => ({ fetch: drain }) } as unknown as Env["DRAIN"];
  const wanted = { affinity: "a", model: null, bound: false, pinned: null };
  const timeouts = { connectMs: 1, firstByteMs: 1, silenceMs: 1, totalMs: 1, streamTotalMs: 1 };
  const forwarding = { path: "/", method: "POST", headers: {}, body, wanted, timeouts };
  let here = 0;
  const without = async () => {
    here++;
    // It is the Worker's again, to be timed and settled.
    expect(record.timer).toBeDefined();
    record.settle({ status: 200, outcome: "complete" });
    return ok(new Response("here"));
  };
  const answer = await forwardToDrain(drains, forwarding, record, new AbortController().signal, false, without);
  await Promise.all(background);
  return { answer, here };
}

it("a call that a drain of 0.2.0 can't read is made by the Worker itself, and once", async () => {
  const { answer, here } = await handedTo(oldDrain);
  expect(here).toBe(1);
  expect(answer.ok && (await answer.value.text())).toBe("here");
});

it("a drain that breaks in any other way may have made the call, and it is not made again", async () => {
  const { answer, here } = await handedTo(() => Promise.reject(new Error("Network connection lost.")));
  expect(here).toBe(0);
  expect(answer).toMatchObject({ ok: false, error: { failure: { kind: "internal" } } });
});
