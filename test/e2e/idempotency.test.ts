/** `Idempotency-Key` on the real bundle: one run, one charge, the same bytes for everybody. */
import { createHash } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import Anthropic from "@anthropic-ai/sdk";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { event, MODEL } from "../support/counting-claude.ts";
import { type Gateway, type Key, startGateway, until, withKey } from "../support/gateway.ts";
import { pause, type Script, type ScriptedUpstream, startScriptedUpstream } from "../support/scripted-upstream.ts";

const USAGE = { input_tokens: 30, output_tokens: 20 };
/** What one answer costs, in µUSD, by the price of claude-opus-5-5. */
const COST = 30 * 4 + 20 * 20;
const START = event("message_start", { message: { model: MODEL, usage: { ...USAGE, output_tokens: 1 } } });
const DELTAS = Array.from({ length: 20 }, (_, i) =>
  event("content_block_delta", { index: 0, delta: { type: "text_delta", text: `word ${i} ` } }),
);
const END = event("message_delta", { delta: { stop_reason: "end_turn" }, usage: USAGE }) + event("message_stop");
const STREAM = START + DELTAS.join("") + END;

let upstream: ScriptedUpstream;
let gateway: Gateway;
const folder = mkdtempSync(join(tmpdir(), "sluice-idempotency-"));

beforeAll(async () => {
  upstream = await startScriptedUpstream();
  gateway = await startGateway(upstream.url, { bindings: { LEDGER_DEADLINE_MS: "5000" } });
});
afterAll(async () => {
  await gateway?.stop();
  await upstream?.stop();
  rmSync(folder, { recursive: true, force: true });
});
beforeEach(() => {
  upstream.received.length = 0;
  upstream.script = answering();
});

/** A Claude that answers as it is asked to, each time with another text, the stream's events `everyMs` apart. */
function answering(everyMs = 2): Script {
  return async (response, { body, target }) => {
    const nth = upstream.received.length;
    response.setHeader("request-id", `req_upstream_${nth}`);
    response.setHeader("anthropic-ratelimit-requests-remaining", "7");
    const { stream } = JSON.parse(body.toString()) as { stream?: boolean };
    if (target.includes("count_tokens")) {
      response.setHeader("content-type", "application/json");
      return void response.end(`{"input_tokens":${nth}}`);
    }
    if (!stream) {
      await pause(everyMs * DELTAS.length);
      response.setHeader("content-type", "application/json");
      const content = [{ type: "text", text: `number ${nth}` }];
      return void response.end(
        JSON.stringify({ id: "msg_1", type: "message", role: "assistant", model: MODEL, content, usage: USAGE }),
      );
    }
    response.writeHead(200, { "content-type": "text/event-stream; charset=utf-8" });
    response.write(START);
    for (const delta of DELTAS) {
      await pause(everyMs);
      response.write(delta);
    }
    response.end(END);
  };
}

const bodyOf = (fields: object = {}): string =>
  JSON.stringify({ model: MODEL, max_tokens: 50, messages: [{ role: "user", content: "x" }], ...fields });

type Called = { status: number; headers: Headers; sha256: string; text: string };

async function call(
  key: Key,
  idempotencyKey: string,
  fields: object = {},
  options: { at?: Gateway; path?: string; headers?: Record<string, string> } = {},
): Promise<Called> {
  const { at = gateway, path = "/v1/messages", headers = {} } = options;
  const response = await fetch(`${at.url}${path}`, {
    method: "POST",
    headers: withKey(key, { "idempotency-key": idempotencyKey, ...headers }),
    body: bodyOf(fields),
  });
  const text = await response.text();
  return { status: response.status, headers: response.headers, sha256: sha256(text), text };
}

const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex");

/** The key has paid for so many answers, and each call has its row. */
async function expectPaid(key: Key, answers: number, calls: number, at = gateway): Promise<void> {
  const rows = await at.rows(key, calls);
  expect(rows).toHaveLength(calls);
  const replayed = rows.filter((row) => row.replayed);
  expect(replayed).toHaveLength(calls - answers);
  for (const row of replayed) {
    expect(row).toMatchObject({ cost_micro_usd: 0, input_tokens: 0, output_tokens: 0, attempts: 0, status: 200 });
    expect(row.outcome).toBe("complete");
  }
  expect(await at.usage(`key=${key.id}`)).toMatchObject({
    requests: calls,
    cost_micro_usd: answers * COST,
    output_tokens: answers * USAGE.output_tokens,
    unreported: 0,
  });
  expect((await at.settled(key)).budget?.spent_micro_usd).toBe(answers * COST);
}

const limits = { concurrent_requests: 40 };
const makeKey = (at = gateway): Promise<Key> =>
  at.makeKey({ limits, budget: { usd: 10, period: "total", mode: "strict" } });

describe("the same call again", () => {
  for (const stream of [false, true]) {
    it(`I-01 replays the first answer, byte for byte, and charges once (stream: ${stream})`, async () => {
      const key = await makeKey();
      const first = await call(key, "again", { stream });
      const second = await call(key, "again", { stream });
      const third = await call(key, "again", { stream });
      expect(first.status).toBe(200);
      expect(first.headers.get("idempotent-replayed")).toBeNull();
      for (const again of [second, third]) {
        expect(again.sha256).toBe(first.sha256);
        expect(again.status).toBe(200);
        expect(again.headers.get("idempotent-replayed")).toBe("true");
        for (const name of ["content-type", "request-id"]) {
          expect([name, again.headers.get(name)]).toEqual([name, first.headers.get(name)]);
        }
        expect(again.headers.get("x-sluice-request-id")).not.toBe(first.headers.get("x-sluice-request-id"));
        expect(again.headers.get("anthropic-ratelimit-requests-remaining")).not.toBe("7");
      }
      if (stream) expect(first.text).toBe(STREAM);
      expect(upstream.received).toHaveLength(1);
      await expectPaid(key, 1, 3);
    });

    it(`I-02 twenty at once: one reaches the upstream, all get its bytes (stream: ${stream})`, async () => {
      upstream.script = answering(20);
      const key = await makeKey();
      const calls = await Promise.all(Array.from({ length: 20 }, () => call(key, "crowd", { stream })));
      expect(calls.map(({ status }) => status)).toEqual(calls.map(() => 200));
      expect(new Set(calls.map((one) => one.sha256)).size).toBe(1);
      expect(calls.filter(({ headers }) => headers.has("idempotent-replayed"))).toHaveLength(19);
      expect(upstream.received).toHaveLength(1);
      await expectPaid(key, 1, 20);
    });
  }

  it("holds for count_tokens too", async () => {
    const key = await makeKey();
    const path = "/v1/messages/count_tokens";
    const first = await call(key, "count", {}, { path });
    const second = await call(key, "count", {}, { path });
    expect([first.text, second.text]).toEqual(['{"input_tokens":1}', '{"input_tokens":1}']);
    expect(upstream.received).toHaveLength(1);
  });

  it("attaches to a running stream live: events come as they are made", async () => {
    let go = (): void => {};
    const gate = new Promise<void>((done) => {
      go = done;
    });
    upstream.script = async (response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write(START + DELTAS[0]);
      await gate;
      response.end(DELTAS.slice(1).join("") + END);
    };
    const key = await makeKey();
    const first = call(key, "live", { stream: true });
    await until(() => upstream.received.length === 1 || undefined, "the run");
    const second = await fetch(`${gateway.url}/v1/messages`, {
      method: "POST",
      headers: withKey(key, { "idempotency-key": "live" }),
      body: bodyOf({ stream: true }),
    });
    const reader = second.body?.getReader();
    let seen = "";
    while (seen.length < (START + DELTAS[0]).length) seen += new TextDecoder().decode((await reader?.read())?.value);
    // The rest has not been made yet.
    expect(seen).toBe(START + DELTAS[0]);
    go();
    for (;;) {
      const piece = await reader?.read();
      if (!piece || piece.done) break;
      seen += new TextDecoder().decode(piece.value);
    }
    expect(seen).toBe(STREAM);
    expect((await first).text).toBe(STREAM);
    expect(upstream.received).toHaveLength(1);
  });
});

describe("another call", () => {
  it("I-03 another body, path, query or header is a 422 that reaches nobody", async () => {
    const key = await makeKey();
    await call(key, "other");
    const others = await Promise.all([
      call(key, "other", { max_tokens: 51 }),
      call(key, "other", { stream: true }),
      call(key, "other", {}, { path: "/v1/messages/count_tokens" }),
      call(key, "other", {}, { path: "/v1/messages?beta=true" }),
      call(key, "other", {}, { headers: { "anthropic-version": "2023-01-01" } }),
      call(key, "other", {}, { headers: { "anthropic-beta": "x-2026-01-01" } }),
      call(key, "other", {}, { headers: { "anthropic-workspace-id": "w" } }),
      call(key, "other", {}, { headers: { "anthropic-user-profile-id": "p" } }),
    ]);
    for (const { status, headers, text } of others) {
      expect([status, headers.get("x-should-retry")]).toEqual([422, "false"]);
      expect(JSON.parse(text)).toMatchObject({ type: "error", error: { type: "invalid_request_error" } });
      expect(text).toContain("Idempotency-Key");
    }
    expect(upstream.received).toHaveLength(1);
    // Headers that change nothing do not matter.
    const same = await call(key, "other", {}, { headers: { "user-agent": "another", "x-stainless-retry-count": "1" } });
    expect([same.status, same.headers.get("idempotent-replayed")]).toEqual([200, "true"]);
  });

  it("I-03 while the first one runs, too", async () => {
    upstream.script = answering(20);
    const key = await makeKey();
    const first = call(key, "busy");
    await until(() => upstream.received.length === 1 || undefined, "the run");
    expect((await call(key, "busy", { max_tokens: 51 })).status).toBe(422);
    expect((await first).status).toBe(200);
    expect(upstream.received).toHaveLength(1);
  });

  it("I-03 another gateway key is independent, of the same workspace or not", async () => {
    const keys = await Promise.all([makeKey(), makeKey(), gateway.makeKey({ workspace: "elsewhere" })]);
    const answers = await Promise.all(keys.map((key) => call(key, "shared name")));
    expect(new Set(answers.map(({ sha256 }) => sha256)).size).toBe(3);
    expect(answers.some(({ headers }) => headers.has("idempotent-replayed"))).toBe(false);
    expect(upstream.received).toHaveLength(3);
  });

  it("I-05 a key of 255 characters is one, of 256 or with others than printable ASCII a 400", async () => {
    const key = await makeKey();
    expect((await call(key, "~ !".repeat(85))).status).toBe(200);
    for (const wrong of ["k".repeat(256), "a\tb", "caf\u00e9"]) {
      const { status, text } = await call(key, wrong);
      expect([wrong, status]).toEqual([wrong, 400]);
      expect(text).toContain("idempotency-key");
    }
    expect((await call(key, "")).status).toBe(400);
    expect(upstream.received).toHaveLength(1);
  });
});

describe("a first call that failed", () => {
  const refusing =
    (status: number, type: string): Script =>
    (response) => {
      response.writeHead(status, { "content-type": "application/json", "x-should-retry": "false" });
      response.end(JSON.stringify({ type: "error", error: { type, message: `try ${upstream.received.length}` } }));
    };

  it("I-04 for what it asked is kept; for anything else the next one runs anew", async () => {
    const key = await makeKey();
    for (const status of [400, 404, 413, 422]) {
      upstream.script = refusing(status, "invalid_request_error");
      const before = upstream.received.length;
      const first = await call(key, `failed ${status}`);
      const asked = upstream.received.length - before;
      const second = await call(key, `failed ${status}`);
      expect([first.status, second.status, second.sha256]).toEqual([status, status, first.sha256]);
      expect(second.headers.get("idempotent-replayed")).toBe("true");
      expect([status, upstream.received.length - before]).toEqual([status, asked]);
    }
    for (const status of [408, 409, 429, 500, 529]) {
      upstream.script = refusing(status, "api_error");
      const first = await call(key, `failed ${status}`);
      expect(first.status).toBeGreaterThanOrEqual(400);
      upstream.script = answering();
      const second = await call(key, `failed ${status}`);
      expect([status, second.status, second.headers.get("idempotent-replayed")]).toEqual([status, 200, null]);
      const third = await call(key, `failed ${status}`);
      expect([third.sha256, third.headers.get("idempotent-replayed")]).toEqual([second.sha256, "true"]);
    }
  });

  it("I-04 a cut stream ends in an error event for all who read it, and runs anew", async () => {
    const key = await makeKey();
    let go = (): void => {};
    const gate = new Promise<void>((done) => {
      go = done;
    });
    upstream.script = async (response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write(START + DELTAS[0]);
      await gate;
      response.destroy();
    };
    const first = call(key, "cut", { stream: true });
    await until(() => upstream.received.length === 1 || undefined, "the run");
    const second = call(key, "cut", { stream: true });
    await pause(200);
    go();
    const cut = await Promise.all([first, second]);
    expect(cut[0].text.startsWith(START + DELTAS[0])).toBe(true);
    expect(cut[0].text).toContain("event: error");
    expect(cut[1].text).toBe(cut[0].text);
    upstream.script = answering();
    const third = await call(key, "cut", { stream: true });
    expect([third.text, third.headers.get("idempotent-replayed")]).toEqual([STREAM, null]);
    expect(upstream.received).toHaveLength(2);
    const rows = await gateway.rows(key, 3);
    expect(rows.map((row) => row.outcome).sort()).toEqual(["complete", "upstream_cut", "upstream_cut"]);
    expect(rows.filter((row) => row.replayed).map((row) => row.cost_micro_usd)).toEqual([0]);
  });

  it("I-04 what the gateway refuses holds no key: the next one runs", async () => {
    const key = await gateway.makeKey({ limits: { max_request_bytes: 2_000 }, models: [MODEL] });
    expect((await call(key, "refused", { model: "claude-other" })).status).toBe(403);
    expect((await call(key, "refused", { metadata: { user_id: "x".repeat(3_000) } })).status).toBe(413);
    expect((await call(key, "refused")).status).toBe(200);
    const poor = await gateway.makeKey({ budget: { usd: 0.000001, period: "total", mode: "strict" } });
    expect((await call(poor, "refused")).status).toBe(429);
    await gateway.admin(`keys/${poor.id}`, {
      method: "PATCH",
      json: { budget: { usd: 10, period: "total", mode: "strict" } },
    });
    // In force within two seconds.
    await until(
      async () => (await call(poor, "refused", { max_tokens: 51 })).status === 200 || undefined,
      "the budget",
    );
  });
});

/** Calls, and leaves once so many characters of the answer have come. */
function leaveAfter(at: Gateway, key: Key, idempotencyKey: string, chars: number): Promise<string> {
  return new Promise((resolve) => {
    const headers = withKey(key, { "idempotency-key": idempotencyKey });
    const sent = request(`${at.url}/v1/messages`, { method: "POST", headers, agent: false });
    let text = "";
    sent.on("error", () => {});
    sent.on("response", (response) => {
      response.on("error", () => {});
      response.on("data", (piece: Buffer) => {
        text += piece;
        if (text.length < chars) return;
        sent.destroy();
        resolve(text);
      });
    });
    sent.end(bodyOf({ stream: true }));
  });
}

it("a client that leaves in mid-stream and comes back gets all of it, running or finished, and has paid once", async () => {
  upstream.script = answering(30);
  const key = await makeKey();
  const part = await leaveAfter(gateway, key, "leaver", START.length + 1);
  expect(STREAM.startsWith(part)).toBe(true);
  const back = await call(key, "leaver", { stream: true });
  expect([back.text, back.headers.get("idempotent-replayed")]).toEqual([STREAM, "true"]);
  await leaveAfter(gateway, key, "leaver, longer", START.length + 1);
  await until(() => upstream.received.length === 2 || undefined, "the second run");
  await pause(30 * DELTAS.length + 500);
  const later = await call(key, "leaver, longer", { stream: true });
  expect([later.text, later.headers.get("idempotent-replayed")]).toEqual([STREAM, "true"]);
  expect(upstream.received).toHaveLength(2);
  expect(upstream.received.some(({ goneAt }) => goneAt !== undefined)).toBe(false);
  await expectPaid(key, 2, 4);
  const left = (await gateway.rows(key, 4)).filter((row) => row.outcome === "client_gone");
  expect(left).toHaveLength(2);
  for (const row of left) expect(row).toMatchObject({ drained: true, estimated: false, cost_micro_usd: COST });
});

it("kill -9: what was kept is kept, what was running is void and runs anew", async () => {
  const stateDir = join(folder, "killed");
  const bindings = { LEDGER_DEADLINE_MS: "5000" };
  let first = await startGateway(upstream.url, { bindings, stateDir });
  const key = await makeKey(first);
  const kept = await call(key, "kept", { stream: true }, { at: first });
  upstream.script = answering(100);
  await leaveAfter(first, key, "running", START.length + DELTAS.join("").length / 2);
  await first.kill();
  first = await startGateway(upstream.url, { bindings, stateDir });
  try {
    upstream.script = answering();
    const again = await call(key, "kept", { stream: true }, { at: first });
    expect([again.sha256, again.headers.get("idempotent-replayed")]).toEqual([kept.sha256, "true"]);
    const anew = await call(key, "running", { stream: true }, { at: first });
    expect([anew.text, anew.headers.get("idempotent-replayed")]).toEqual([STREAM, null]);
    expect(upstream.received).toHaveLength(3);
    const last = await call(key, "running", { stream: true }, { at: first });
    expect([last.sha256, last.headers.get("idempotent-replayed")]).toEqual([anew.sha256, "true"]);
  } finally {
    await first.stop();
  }
});

it("the official SDK sends it as a header", async () => {
  const key = await makeKey();
  const client = new Anthropic({ apiKey: key.key, baseURL: gateway.url });
  const ask = async (): Promise<string> => {
    const message = await client.messages.create(
      { model: MODEL, max_tokens: 50, messages: [{ role: "user", content: "x" }] },
      { headers: { "Idempotency-Key": "from the SDK" } },
    );
    return JSON.stringify(message.content);
  };
  expect(await ask()).toBe(await ask());
  const stream = async (): Promise<string> => {
    const events: unknown[] = [];
    const made = await client.messages.create(
      { model: MODEL, max_tokens: 50, messages: [{ role: "user", content: "x" }], stream: true },
      { headers: { "Idempotency-Key": "from the SDK, streamed" } },
    );
    for await (const one of made) events.push(one);
    expect(events).toHaveLength(DELTAS.length + 3);
    return JSON.stringify(events);
  };
  expect(await stream()).toBe(await stream());
  expect(upstream.received).toHaveLength(2);
});
