/** Calls that the gateway makes for a key by itself: who may, what is reserved, what is settled, and that it is once. */
import { runDurableObjectAlarm } from "cloudflare:test";
import { env } from "cloudflare:workers";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { AuditRecord } from "../../src/audit/record.ts";
import { toldUsage } from "../../src/conversations/usage.ts";
import { type Admitted, admitInner, checkSender, INNER_ROUTE, type InnerCall } from "../../src/hotpath/inner-call.ts";
import { leaseBook } from "../../src/hotpath/leases.ts";
import { getKey } from "../../src/identity/key-store.ts";
import { announce, register } from "../../src/ownership/store.ts";
import type { Result } from "../../src/result.ts";
import { describeFailure, type Failure } from "../../src/wire/errors.ts";
import { newId } from "../../src/wire/ids.ts";
import { call as admin, makeKey } from "../admin/control-plane.ts";

const MODEL = "claude-opus-5-5";
const USAGE = { input_tokens: 10, cache_read_input_tokens: 60, cache_creation_input_tokens: 30, output_tokens: 5 };
const MESSAGE = { type: "message", model: MODEL, content: [], stop_reason: "end_turn", usage: USAGE };
const encoder = new TextEncoder();

const event = (type: string, fields: object = {}): string =>
  `event: ${type}\ndata: ${JSON.stringify({ type, ...fields })}\n\n`;
const START = event("message_start", { message: { model: MODEL, usage: { ...USAGE, output_tokens: 1 } } });
const BLOCK = event("content_block_start", { index: 0, content_block: { type: "text", text: "" } });
const TEXT = event("content_block_delta", { index: 0, delta: { type: "text_delta", text: "Hello" } });
const END = event("message_delta", { delta: { stop_reason: "end_turn" }, usage: USAGE }) + event("message_stop");

/** How a call has ended, in the words of a Message. */
async function endOf({ ended }: Admitted) {
  const { ending, facts, microUsd } = await ended;
  const errorType = ending.errorType ?? facts.errorType;
  return { outcome: ending.outcome, errorType, usage: toldUsage([facts.usage]), microUsd };
}

/** What the upstream does, and what it was asked. */
let upstream: (asked: Asked) => Response | Promise<Response>;
type Asked = { readonly url: string; readonly headers: Headers; readonly signal: AbortSignal; readonly nth: number };
let asked: Asked[];
const ctx = { waitUntil: (work: Promise<unknown>) => void work.catch(() => {}) };
const never = new AbortController().signal;
const ONE_AT_A_TIME = { concurrent_requests: 1 };
const WAIT = { timeout: 10_000, interval: 20 };
/** Nobody waits for a slot. */
const impatient = { ...env, QUEUE_WAIT_MS: "0" };

beforeEach(() => {
  for (const level of ["log", "error"] as const) vi.spyOn(console, level).mockImplementation(() => {});
  asked = [];
  upstream = () => Response.json(MESSAGE);
  vi.spyOn(leaseBook, "settle");
  vi.spyOn(globalThis, "fetch").mockImplementation(async (input, init) => {
    const call = {
      url: String(input),
      headers: new Headers(init?.headers),
      signal: init?.signal ?? never,
      nth: asked.length + 1,
    };
    asked.push(call);
    return upstream(call);
  });
});
afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
});

type Key = { readonly id: string; readonly workspace: string; readonly secretSha256: string };

async function keyWith(fields: Record<string, unknown> = {}): Promise<Key> {
  const { id } = await makeKey(fields);
  const record = await getKey(env.DB, id);
  const secret = record?.secrets[0];
  if (!record || !secret) throw new Error("no key");
  return { id, workspace: record.workspace, secretSha256: secret.sha256 };
}

type Body = { readonly [field: string]: unknown };
const STREAMED: Body = { model: MODEL, max_tokens: 100, stream: true, messages: [{ role: "user", content: "Hi" }] };
const WHOLE: Body = { ...STREAMED, stream: false };

function callOf(key: Key, body: Body = WHOLE, more: Partial<InnerCall> = {}): InnerCall {
  return {
    keyId: key.id,
    rights: null,
    secretSha256: key.secretSha256,
    workspace: key.workspace,
    route: INNER_ROUTE.turn,
    path: "/v1/messages",
    body: encoder.encode(JSON.stringify(body)),
    headers: { "anthropic-version": "2023-06-01" },
    affinity: "conv_1",
    conversation: "conv_1",
    turn: "turn_1",
    traceId: "0af7651916cd43dd8448eb211c80319c",
    client: "client/1",
    ...more,
  };
}

async function admitted(key: Key, body?: Body, more?: Partial<InnerCall>): Promise<Admitted> {
  const inner = await admitInner(callOf(key, body, more), env, ctx, never);
  if (!inner.ok) throw new Error(JSON.stringify(inner.error));
  return inner.value;
}

async function refusal(key: Key, body?: Body, more?: Partial<InnerCall>, at = env): Promise<unknown> {
  const inner = await admitInner(callOf(key, body, more), at, ctx, never);
  return inner.ok ? "admitted" : inner.error;
}

function answered(result: Result<Response, Failure | "aborted">): Response {
  if (!result.ok) throw new Error(JSON.stringify(result.error));
  return result.value;
}

/** The key's audit rows, once there are so many. */
async function rowsOf(key: Key, count = 1): Promise<AuditRecord[]> {
  return vi.waitFor(async () => {
    await runDurableObjectAlarm(env.KEY_LEDGER.getByName(key.id));
    const { results } = await env.DB.prepare("SELECT * FROM audit WHERE key_id = ? ORDER BY at, denial")
      .bind(key.id)
      .all<AuditRecord>();
    expect(results.length).toBe(count);
    return results;
  }, WAIT);
}

/** How many of the key's calls have been settled. */
const settlements = ({ id }: Key): number =>
  vi.mocked(leaseBook.settle).mock.calls.filter(([keyId]) => keyId === id).length;

/** Of a key that may have one call running: whether none does. */
async function isIdle(key: Key): Promise<boolean> {
  const inner = await admitInner(callOf(key), impatient, ctx, never);
  if (inner.ok) inner.value.release();
  return inner.ok;
}

/** A stream of events that begins so and goes on by `send`, until it is ended or its call is aborted. */
function openEvents(
  signal: AbortSignal,
  ...events: string[]
): { response: Response; send(text: string): void; end(): void } {
  const controlled = Promise.withResolvers<ReadableByteStreamController>();
  const body = new ReadableStream({
    type: "bytes",
    start(controller: ReadableByteStreamController) {
      for (const text of events) controller.enqueue(encoder.encode(text));
      controlled.resolve(controller);
    },
  } satisfies UnderlyingByteSource);
  void controlled.promise.then((controller) =>
    signal.addEventListener("abort", () => controller.error(new Error("aborted"))),
  );
  return {
    response: new Response(body, { headers: { "content-type": "text/event-stream", "request-id": "req_upstream" } }),
    send: (text) => void controlled.promise.then((controller) => controller.enqueue(encoder.encode(text))),
    end: () => void controlled.promise.then((controller) => controller.close()),
  };
}

const streaming =
  (...events: string[]) =>
  ({ signal }: Asked): Response => {
    const { response, end } = openEvents(signal, ...events);
    end();
    return response;
  };

describe("an admitted call", () => {
  it("goes to the upstream as the key's, and ends with what it used in one row that names conversation and turn", async () => {
    const key = await keyWith();
    upstream = streaming(START, BLOCK, TEXT, END);
    const inner = await admitted(key, STREAMED);
    expect(asked).toEqual([]);
    const answer = answered(await inner.send(never));
    // Too late: it runs.
    inner.release();
    expect(await answer.text()).toBe(START + BLOCK + TEXT + END);
    const end = await endOf(inner);
    expect(end).toEqual({
      outcome: "complete",
      errorType: null,
      usage: { ...USAGE, cache_read_share: 0.6 },
      microUsd: expect.any(Number),
    });
    expect(end.microUsd).toBeGreaterThan(0);
    const [call] = asked;
    expect(call?.url).toMatch(/\/v1\/messages$/);
    expect(Object.fromEntries(call?.headers ?? [])).toEqual({
      "accept-encoding": "identity",
      "anthropic-version": "2023-06-01",
      "content-type": "application/json",
      "user-agent": "client/1",
      "x-api-key": "sk-ant-UPKEY-CANARY",
    });
    expect(await rowsOf(key)).toMatchObject([
      {
        request_id: inner.requestId,
        upstream_request_id: "req_upstream",
        route: "/v1/conversations/:id/turn",
        method: "POST",
        dialect: "anthropic",
        status: 200,
        outcome: "complete",
        stream: 1,
        conversation_id: "conv_1",
        turn_id: "turn_1",
        client: "client/1",
        cost_micro_usd: end.microUsd,
        cache_read_input_tokens: 60,
        output_tokens: 5,
      },
    ]);
  });

  it("has given back its slot when its end is told", async () => {
    const key = await keyWith({ limits: ONE_AT_A_TIME });
    for (let nth = 1; nth <= 3; nth++) {
      const inner = await admitInner(callOf(key), impatient, ctx, never);
      if (!inner.ok) throw new Error("not admitted");
      answered(await inner.value.send(never));
      await endOf(inner.value);
    }
    expect(asked.length).toBe(3);
  });

  it("brings back an upstream's error as it is, and settles it as one", async () => {
    const key = await keyWith();
    const text = '{"type":"error","error":{"type":"invalid_request_error","message":"No."},"request_id":"req_u"}';
    upstream = () => new Response(text, { status: 400, headers: { "content-type": "application/json" } });
    const inner = await admitted(key, STREAMED);
    const answer = answered(await inner.send(never));
    expect([answer.status, await answer.text()]).toEqual([400, text]);
    expect(await endOf(inner)).toMatchObject({ outcome: "error", errorType: "invalid_request_error", microUsd: 0 });
    expect(await rowsOf(key)).toMatchObject([{ status: 400, outcome: "error", error_type: "invalid_request_error" }]);
  });

  it("is tried again where an upstream fails before its answer", async () => {
    const key = await keyWith();
    upstream = ({ nth, signal }) =>
      nth === 1 ? new Response("{}", { status: 529 }) : streaming(START, BLOCK, TEXT, END)({ signal } as Asked);
    const inner = await admitted(key, STREAMED);
    expect(await answered(await inner.send(never)).text()).toContain("Hello");
    expect((await endOf(inner)).outcome).toBe("complete");
    expect(await rowsOf(key)).toMatchObject([{ attempts: 2, outcome: "complete" }]);
  });

  it("fails where no upstream can be reached, and is settled", async () => {
    const key = await keyWith({ timeouts: { total_ms: 500 }, limits: ONE_AT_A_TIME });
    upstream = () => Promise.reject(new Error("no connection"));
    const inner = await admitted(key);
    const answer = await inner.send(never);
    expect(answer).toMatchObject({ ok: false, error: { kind: "upstream_unreachable" } });
    expect(await endOf(inner)).toMatchObject({ outcome: "error", errorType: "api_error" });
    expect(await rowsOf(key)).toMatchObject([{ outcome: "error", cost_micro_usd: 0 }]);
    expect(await isIdle(key)).toBe(true);
  });

  it("that is not sent gives everything back, for nothing", async () => {
    const key = await keyWith({
      budget: { usd: 1, period: "total", mode: "strict" },
      limits: ONE_AT_A_TIME,
    });
    const inner = await admitted(key);
    expect(await isIdle(key)).toBe(false);
    inner.release();
    inner.release();
    expect(await endOf(inner)).toMatchObject({ outcome: "client_gone", microUsd: 0, usage: { output_tokens: 0 } });
    expect(await inner.send(never)).toEqual({ ok: false, error: "aborted" });
    expect(asked).toEqual([]);
    const rows = await rowsOf(key, 2);
    expect(await isIdle(key)).toBe(true);
    expect(rows.find((row) => row.request_id === inner.requestId)).toMatchObject({
      status: 499,
      outcome: "client_gone",
      cost_micro_usd: 0,
      attempts: 0,
      estimated: 0,
    });
  });

  it("tells no pings of its own, however long the upstream is silent", async () => {
    const key = await keyWith();
    const inner = await admitted(key, STREAMED);
    const opened = Promise.withResolvers<ReturnType<typeof openEvents>>();
    upstream = ({ signal }) => {
      const events = openEvents(signal, START);
      opened.resolve(events);
      return events.response;
    };
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "Date"] });
    const answer = answered(await inner.send(never));
    const text = answer.text();
    const events = await opened.promise;
    const pass = async (seconds: number): Promise<void> => {
      for (let second = 0; second < seconds; second++) {
        await vi.advanceTimersByTimeAsync(1_000);
        await scheduler.wait(1);
      }
    };
    await pass(50);
    events.send(BLOCK + TEXT + END);
    events.end();
    await pass(2);
    expect(await text).toBe(START + BLOCK + TEXT + END);
    expect((await endOf(inner)).outcome).toBe("complete");
  });
});

describe("an aborted call", () => {
  it.each(["reads", "reads nothing"])(
    "is stopped at once and settled with an estimate when its reader %s",
    async (how) => {
      const key = await keyWith({ limits: ONE_AT_A_TIME });
      upstream = ({ signal }) => openEvents(signal, START, BLOCK, TEXT).response;
      const inner = await admitted(key, STREAMED);
      const leaving = new AbortController();
      const answer = answered(await inner.send(leaving.signal));
      const reader = answer.body?.getReader();
      await reader?.read();
      const rest = how === "reads" ? reader?.read().then(() => reader.read()) : undefined;
      const broken = rest?.then(
        () => "whole",
        () => "broken",
      );
      await scheduler.wait(20);
      leaving.abort();
      expect(asked[0]?.signal.aborted).toBe(true);
      expect(await endOf(inner)).toMatchObject({
        outcome: "client_gone",
        errorType: null,
        usage: { input_tokens: 10, estimated: true },
      });
      if (broken) expect(await broken).toBe("broken");
      expect(await rowsOf(key)).toMatchObject([
        { status: 200, outcome: "client_gone", estimated: 1, input_tokens: 10 },
      ]);
      expect(await isIdle(key)).toBe(true);
    },
  );

  it("has no answer when it was stopped before there was one", async () => {
    const key = await keyWith();
    const leaving = new AbortController();
    upstream = ({ signal }) => {
      const gone = Promise.withResolvers<Response>();
      signal.addEventListener("abort", () => gone.reject(new Error("aborted")));
      queueMicrotask(() => leaving.abort());
      return gone.promise;
    };
    const inner = await admitted(key);
    expect(await inner.send(leaving.signal)).toEqual({ ok: false, error: "aborted" });
    expect(await endOf(inner)).toMatchObject({ outcome: "client_gone", usage: { estimated: true } });
    expect(await rowsOf(key)).toMatchObject([{ status: 499, outcome: "client_gone" }]);
  });

  it("asks nobody when it was stopped before", async () => {
    const key = await keyWith();
    const inner = await admitted(key);
    expect(await inner.send(AbortSignal.abort())).toEqual({ ok: false, error: "aborted" });
    expect(await endOf(inner)).toMatchObject({ outcome: "client_gone", microUsd: 0 });
    expect(asked).toEqual([]);
  });

  it("does not wait on for its slot", async () => {
    const key = await keyWith({ limits: ONE_AT_A_TIME });
    const running = await admitted(key);
    const leaving = new AbortController();
    const waiting = admitInner(callOf(key), env, ctx, leaving.signal);
    await scheduler.wait(20);
    leaving.abort();
    expect(await waiting).toEqual({ ok: false, error: "aborted" });
    running.release();
    await endOf(running);
    expect((await rowsOf(key, 2)).map(({ status, outcome }) => [status, outcome])).toEqual([
      [499, "client_gone"],
      [499, "client_gone"],
    ]);
  });

  it("is cut when its key is revoked, where the key says so", async () => {
    const key = await keyWith({ on_revoke: "cut" });
    upstream = ({ signal }) => openEvents(signal, START, BLOCK, TEXT).response;
    const inner = await admitted(key, STREAMED);
    const text = answered(await inner.send(never)).text();
    await admin(`keys/${key.id}`, { method: "DELETE" });
    expect(await text).toContain("authentication_error");
    expect(await endOf(inner)).toMatchObject({ outcome: "upstream_cut", errorType: "authentication_error" });
    expect(asked[0]?.signal.aborted).toBe(true);
  });

  it("is settled exactly once, whatever is done to it in whatever order", () =>
    fc.assert(
      fc.asyncProperty(
        fc.array(fc.constantFrom("send", "abort", "release", "cancel", "wait"), { maxLength: 6 }),
        fc.boolean(),
        async (acts, isStreamed) => {
          const key = await keyWith({ limits: ONE_AT_A_TIME });
          upstream = isStreamed ? streaming(START, BLOCK, TEXT, END) : () => Response.json(MESSAGE);
          const inner = await admitted(key, isStreamed ? STREAMED : WHOLE);
          const leaving = new AbortController();
          const bodies: Promise<Response | null>[] = [];
          for (const act of acts) {
            if (act === "send") {
              const sent = inner.send(leaving.signal);
              bodies.push(sent.then((answer) => (answer.ok ? answer.value : null)));
            } else if (act === "abort") leaving.abort();
            else if (act === "release") inner.release();
            else if (act === "wait") await scheduler.wait(1);
            else for (const body of bodies) void body.then((answer) => answer?.body?.cancel().catch(() => {}));
          }
          inner.release();
          for (const body of bodies) void body.then((answer) => answer?.text().catch(() => {}));
          await endOf(inner);
          expect(settlements(key)).toBe(1);
          expect(await isIdle(key)).toBe(true);
        },
      ),
      { numRuns: 15 },
    ));
});

describe("a call is refused, with a row that says so and no call of an upstream,", () => {
  afterEach(() => expect(asked).toEqual([]));

  it("over its key's rate", async () => {
    const key = await keyWith({ limits: { requests_per_minute: 1 } });
    (await admitted(key)).release();
    expect(await refusal(key)).toMatchObject({ kind: "rate_limited", limit: "requests", scope: "key" });
    const [, row] = await rowsOf(key, 2);
    expect(row).toMatchObject({ status: 429, denial: "requests", conversation_id: "conv_1", turn_id: "turn_1" });
  });

  it("while as many run as its key may have", async () => {
    const key = await keyWith({ limits: ONE_AT_A_TIME });
    const running = await admitted(key);
    expect(await refusal(key, WHOLE, {}, impatient)).toMatchObject({ kind: "rate_limited", limit: "concurrency" });
    running.release();
    await endOf(running);
    expect((await rowsOf(key, 2)).map(({ denial }) => denial).sort()).toEqual(["concurrency", null]);
  });

  it("over a strict budget", async () => {
    const key = await keyWith({ budget: { usd: 0.000001, period: "total", mode: "strict" } });
    expect(await refusal(key)).toMatchObject({ kind: "over_budget", scope: "key" });
    expect(await rowsOf(key)).toMatchObject([{ status: 429, denial: "budget", error_type: "billing_error" }]);
  });

  it("with a model that its key may not use", async () => {
    const key = await keyWith({ models: ["claude-haiku-*"] });
    expect(await refusal(key)).toEqual({ kind: "model_not_allowed", model: MODEL });
    expect(await rowsOf(key)).toMatchObject([{ status: 403, model_requested: MODEL, outcome: "error" }]);
  });

  it("with a model beyond its key's as a fallback", async () => {
    const key = await keyWith({ models: [MODEL] });
    const body = { model: MODEL, max_tokens: 5, messages: [], fallbacks: [{ model: "claude-fable-5" }] };
    expect(await refusal(key, body)).toEqual({ kind: "model_not_allowed", model: "claude-fable-5" });
  });

  it("without the scope", async () => {
    const key = await keyWith({ scopes: ["messages"] });
    expect(await refusal(key)).toEqual({ kind: "scope_missing", scope: "conversations" });
    expect(await rowsOf(key)).toMatchObject([{ status: 403 }]);
  });

  it("X-01 with a file of another workspace", async () => {
    const [key, other] = [await keyWith({ workspace: "ws_files_a" }), await keyWith({ workspace: "ws_files_b" })];
    const file = await fileOf(other, "up_default");
    expect(await refusal(key, withFile(file))).toEqual({ kind: "not_found", what: `There is no file \`${file}\`.` });
    expect(await rowsOf(key)).toMatchObject([{ status: 404 }]);
  });
});

const withFile = (file: string): Body => ({
  ...WHOLE,
  messages: [{ role: "user", content: [{ type: "document", source: { type: "file", file_id: file } }] }],
});

async function fileOf({ workspace, id: keyId }: Key, holder: string): Promise<string> {
  const id = `file_${newId("x", Date.now())}`;
  const seq = await announce(env.DB, "files", { workspace, keyId }, "req_1", Date.now());
  await register(env.DB, "files", seq, id, holder);
  return id;
}

it("a call with files goes to the upstream that holds them, and nowhere else", async () => {
  const key = await keyWith({ workspace: "ws_files_c" });
  const here = await admitted(key, withFile(await fileOf(key, "up_default")));
  expect(answered(await here.send(never)).status).toBe(200);
  const gone = await admitted(key, withFile(await fileOf(key, "up_gone")));
  expect(await gone.send(never)).toMatchObject({ ok: false, error: { kind: "holder_removed", upstream: "up_gone" } });
  expect(await endOf(gone)).toMatchObject({ outcome: "error", microUsd: 0 });
  expect(asked.length).toBe(1);
});

describe("a key that is not live any more", () => {
  const check = (key: Key, more: Partial<Key> = {}, maxAgeMs = 0) => {
    const { id: keyId, secretSha256, workspace } = { ...key, ...more };
    return checkSender({ keyId, secretSha256, workspace }, env, ctx, maxAgeMs);
  };

  it("W-06 makes no call and is known to be dead, which leaves no row", async () => {
    const key = await keyWith();
    expect(await check(key)).toBeNull();
    await admin(`keys/${key.id}`, { method: "DELETE" });
    expect(await check(key)).toEqual({ kind: "unauthenticated" });
    expect(await refusal(key)).toEqual({ kind: "unauthenticated" });
    expect(await refusal(key, WHOLE, { secretSha256: null })).toEqual({ kind: "unauthenticated" });
    expect(settlements(key)).toBe(0);
    expect(asked).toEqual([]);
  });

  it("W-06 is one whose secret was rotated away, unless none is asked for", async () => {
    const key = await keyWith();
    expect((await admin(`keys/${key.id}/rotate`, { json: { grace_seconds: 0 } })).status).toBe(200);
    expect(await check(key)).toEqual({ kind: "unauthenticated" });
    expect(await refusal(key)).toEqual({ kind: "unauthenticated" });
    (await admitted(key, WHOLE, { secretSha256: null })).release();
  });

  it("X-01 is none of the conversation's workspace", async () => {
    const key = await keyWith();
    expect(await check(key, { workspace: "ws_another" })).toEqual({ kind: "unauthenticated" });
    expect(await refusal(key, WHOLE, { workspace: "ws_another" })).toEqual({ kind: "unauthenticated" });
    expect(settlements(key)).toBe(0);
  });

  it("W-06 may not have the scope any more", async () => {
    const key = await keyWith();
    await admin(`keys/${key.id}`, { method: "PATCH", json: { scopes: ["messages"] } });
    const refused = await check(key);
    expect(refused && describeFailure(refused).status).toBe(403);
  });

  it("is not told apart from others where nobody can be asked", async () => {
    const key = await keyWith();
    const away = { ...env, KEY_LEDGER: { getByName: () => silent }, DB: noDatabase } as unknown as typeof env;
    const { id: keyId, secretSha256, workspace } = key;
    expect(await checkSender({ keyId, secretSha256, workspace }, away, ctx, 0)).toBeNull();
    expect(await refusal(key, WHOLE, {}, away)).toMatchObject({ kind: "unavailable" });
  });
});

const broken = (): Promise<never> => Promise.reject(new Error("away"));
const silent = { exchange: broken, policy: broken };
const noDatabase = {
  prepare() {
    throw new Error("away");
  },
};

describe("a count of tokens", () => {
  it("is free: it takes a request, and neither tokens nor money", async () => {
    const key = await keyWith({
      budget: { usd: 0.000001, period: "total", mode: "strict" },
      limits: { requests_per_minute: 2, input_tokens_per_minute: 1, output_tokens_per_minute: 1 },
    });
    upstream = () => Response.json({ input_tokens: 4_321 });
    const free = { path: "/v1/messages/count_tokens", route: INNER_ROUTE.count } as const;
    const body = { model: MODEL, messages: WHOLE.messages };
    for (let nth = 1; nth <= 2; nth++) {
      const inner = await admitted(key, body, free);
      expect(await answered(await inner.send(never)).json()).toEqual({ input_tokens: 4_321 });
      expect(await endOf(inner)).toMatchObject({ outcome: "complete", microUsd: 0 });
    }
    expect(asked.map(({ url }) => new URL(url).pathname)).toEqual([free.path, free.path]);
    expect(await refusal(key, body, free)).toMatchObject({ kind: "rate_limited", limit: "requests" });
    expect(
      (await rowsOf(key, 3)).map(({ route, cost_micro_usd, input_tokens }) => [route, cost_micro_usd, input_tokens]),
    ).toEqual(Array.from({ length: 3 }, () => ["/v1/conversations/:id/count", 0, 0]));
  });
});

it("a call goes on at another account of the pool where the first one fails", async () => {
  const made = await Promise.all(
    ["a", "b"].map((name) =>
      admin("upstreams", { json: { name, base_url: "https://api.anthropic.com", api_key: `sk-ant-${name}` } }),
    ),
  );
  try {
    const key = await keyWith();
    // A fault that passes is waited out where the conversation lives; a lack of credit is not.
    upstream = ({ nth, signal }) =>
      nth === 1 ? new Response("{}", { status: 402 }) : streaming(START, BLOCK, TEXT, END)({ signal } as Asked);
    const inner = await admitted(key, STREAMED);
    expect(await answered(await inner.send(never)).text()).toContain("Hello");
    expect(new Set(asked.map(({ headers }) => headers.get("x-api-key")))).toEqual(new Set(["sk-ant-a", "sk-ant-b"]));
    expect(await rowsOf(key)).toMatchObject([
      { attempts: 2, outcome: "complete", upstream: expect.stringMatching(/^up_/) },
    ]);
  } finally {
    for (const { body } of made) await admin(`upstreams/${body.id}`, { method: "DELETE" });
  }
});
