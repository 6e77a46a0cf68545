/** Bytes, headers and endings, with an upstream that does exactly as told. */
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { type Gateway, type Key, startGateway, UPSTREAM_KEY, until, withKey } from "../support/gateway.ts";
import { pause, type ScriptedUpstream, sendInPieces, startScriptedUpstream } from "../support/scripted-upstream.ts";

const FIXTURES = join(import.meta.dirname, "../fixtures/anthropic");
const SILENCE_MS = 1500;
const FIRST_BYTE_MS = 1000;
const TOTAL_MS = 2000;

let upstream: ScriptedUpstream;
let gateway: Gateway;
let key: Key;

beforeAll(async () => {
  upstream = await startScriptedUpstream();
  gateway = await startGateway(upstream.url, {
    bindings: {
      SILENCE_TIMEOUT_MS: String(SILENCE_MS),
      FIRST_BYTE_TIMEOUT_MS: String(FIRST_BYTE_MS),
      TOTAL_TIMEOUT_MS: String(TOTAL_MS),
    },
  });
  key = await gateway.makeKey();
});
afterAll(async () => {
  await gateway?.stop();
  await upstream?.stop();
});
beforeEach(() => {
  upstream.received.length = 0;
});

const sha256 = (bytes: Uint8Array | string): string => createHash("sha256").update(bytes).digest("hex");
const BODY = { model: "claude-opus-5-5", max_tokens: 100, messages: [{ role: "user", content: "x" }] };
const plain = JSON.stringify(BODY);
const streamed = JSON.stringify({ ...BODY, stream: true });

const post = (
  body: string | Uint8Array,
  headers: Record<string, string> = {},
  path = "/v1/messages",
  init: RequestInit = {},
) =>
  fetch(`${gateway.url}${path}`, { method: "POST", headers: withKey(key, headers), body: body as BodyInit, ...init });

const event = (name: string, fields: object): string =>
  `event: ${name}\ndata: ${JSON.stringify({ type: name, ...fields })}\n\n`;
const START = event("message_start", {
  message: { model: "claude-opus-5-5", usage: { input_tokens: 10, output_tokens: 1 } },
});
const DELTA = event("content_block_delta", { index: 0, delta: { type: "text_delta", text: "grüße 👋" } });

describe("bytes", () => {
  // An error that comes first becomes a status.
  const streams = readdirSync(FIXTURES).filter((name) => /^(?!truncated-|error-first-event).*\.sse$/.test(name));

  it.each([1, 3, 64, Number.MAX_SAFE_INTEGER])(
    "of every stream reach the client unchanged, in pieces of %i",
    async (size) => {
      for (const name of streams) {
        const bytes = readFileSync(join(FIXTURES, name));
        upstream.script = (response) => sendInPieces(response, bytes, size);
        const response = await post(streamed);
        expect([name, sha256(new Uint8Array(await response.arrayBuffer()))]).toEqual([name, sha256(bytes)]);
        expect(response.headers.get("content-type")).toBe("text/event-stream; charset=utf-8");
      }
    },
  );

  it("of requests reach the upstream unchanged, whatever spelling", async () => {
    upstream.script = (response) => void response.end("{}");
    const odd = [
      '{"model":"claude-opus-5-5","max_tokens":1e2,"temperature":1.0,"zzz":{"b":1,"a":-0.0},"messages":[]}',
      '\n { "messages" : [ ] ,\t"unknown_beta_field":"\\u00e9\\/\\ud83d\\ude00", "model":"m" , "n": 1E+2 } \r\n',
      '{"model":"m","s":"é😀\u2028","metadata":{"user_id":"a"},"metadata":{"user_id":"b"}}',
    ];
    for (const body of odd) {
      const response = await post(body);
      expect(response.status).toBe(200);
      expect(upstream.received.at(-1)?.body.toString()).toBe(body);
    }
    const chunked = new ReadableStream({
      start(controller) {
        for (const piece of [plain.slice(0, 7), plain.slice(7)]) controller.enqueue(new TextEncoder().encode(piece));
        controller.close();
      },
    });
    await post(chunked as never, {}, "/v1/messages", { duplex: "half" } as never);
    expect(upstream.received.at(-1)?.body.toString()).toBe(plain);
  });

  it("of any JSON object reach the upstream unchanged", async () => {
    upstream.script = (response) => void response.end("{}");
    await fc.assert(
      fc.asyncProperty(fc.dictionary(fc.string(), fc.jsonValue({ maxDepth: 3 })), async (extra) => {
        const { model: _, stream: __, max_tokens: ___, tools: ____, messages: _____, ...rest } = extra;
        const body = JSON.stringify({ ...rest, model: "m" });
        expect((await post(body)).status).toBe(200);
        expect(upstream.received.at(-1)?.body.toString()).toBe(body);
      }),
      { numRuns: 60 },
    );
  });

  it("of a 10 MB event pass through, and the count stays right", async () => {
    const own = await gateway.makeKey();
    const big = event("content_block_delta", { index: 0, delta: { type: "text_delta", text: "x".repeat(10_000_000) } });
    const end = event("message_delta", { delta: { stop_reason: "end_turn" }, usage: { output_tokens: 77 } });
    const whole = Buffer.from(START + big + end + event("message_stop", {}));
    upstream.script = (response) => sendInPieces(response, whole, 65_536);
    const response = await fetch(`${gateway.url}/v1/messages`, {
      method: "POST",
      headers: withKey(own),
      body: streamed,
    });
    expect(sha256(new Uint8Array(await response.arrayBuffer()))).toBe(sha256(whole));
    const [row] = await gateway.audit(own, 1);
    expect(row).toMatchObject({ outcome: "complete", output_tokens: 77, estimated: false });
  });

  it("of errors pass verbatim, with status and the headers that steer retries", async () => {
    const body = '{"type":"error","error":{"type":"overloaded_error","message":"Overloaded","details":null},"x": 1}';
    upstream.script = (response) => {
      response.writeHead(529, {
        "content-type": "application/json",
        "request-id": "req_up",
        "retry-after": "7",
        "x-should-retry": "true",
        "anthropic-ratelimit-requests-remaining": "3",
      });
      response.end(body);
    };
    for (const request of [plain, streamed]) {
      const response = await post(request);
      expect(response.status).toBe(529);
      expect(await response.text()).toBe(body);
      expect(Object.fromEntries(response.headers)).toMatchObject({
        "request-id": "req_up",
        "retry-after": "7",
        "x-should-retry": "true",
        "x-sluice-request-id": expect.stringMatching(/^req_/),
      });
      expect(response.headers.has("anthropic-ratelimit-requests-remaining")).toBe(false);
    }
  });
});

describe("headers", () => {
  it("go on as an open list, with exactly one credential and nothing of one hop", async () => {
    upstream.script = (response) => void response.end("{}");
    await post(
      plain,
      {
        authorization: `Bearer ${key.key}`,
        "anthropic-version": "2026-10-21",
        "anthropic-beta": "a-2025-01-01,b",
        "anthropic-invented": "yes",
        "x-stainless-lang": "js",
        "user-agent": "claude-cli/2.1.329 (external, sdk-cli)",
        cookie: "session=1",
        "x-forwarded-for": "1.2.3.4",
        "x-real-ip": "1.2.3.4",
        "x-claude-code-session-id": "s-1",
        "x-sluice-anything": "1",
        "x-original-url": "/admin",
        "x-http-method-override": "DELETE",
      },
      "/v1/messages?beta=true&x=%20y",
    );
    const [request] = upstream.received;
    const sent = Object.fromEntries(request?.headers ?? []);
    expect(request?.target).toBe("/v1/messages?beta=true&x=%20y");
    expect(request?.method).toBe("POST");
    expect(sent).toMatchObject({
      "x-api-key": UPSTREAM_KEY,
      "anthropic-version": "2026-10-21",
      "anthropic-beta": "a-2025-01-01,b",
      "anthropic-invented": "yes",
      "x-stainless-lang": "js",
      "user-agent": "claude-cli/2.1.329 (external, sdk-cli)",
      "content-type": "application/json",
      "accept-encoding": "identity",
    });
    expect(request?.headers.filter(([name]) => name === "x-api-key")).toHaveLength(1);
    for (const name of Object.keys(sent)) {
      // The runtime adds host, content-length and, as Cloudflare does, cf-worker.
      expect(name).toMatch(
        /^(?:anthropic-|x-stainless-|user-agent$|accept|content-|x-api-key$|host$|connection$|cf-worker$)/,
      );
    }
    expect(JSON.stringify(request?.headers)).not.toContain(key.key);
  });

  it("with two API versions are refused before anything is sent", async () => {
    const response = await post(plain, { "anthropic-version": "2023-06-01, 2026-10-21" });
    expect(response.status).toBe(400);
    expect(upstream.received).toHaveLength(0);
  });
});

describe("a redirect", () => {
  it.each([301, 302, 307, 308])("%i is an error, and the key is not sent on", async (status) => {
    const elsewhere = await startScriptedUpstream();
    upstream.script = (response) => void response.writeHead(status, { location: `${elsewhere.url}/v1/messages` }).end();
    const response = await post(plain);
    expect(response.status).toBe(502);
    expect(await response.json()).toMatchObject({
      type: "error",
      error: { type: "api_error" },
      request_id: expect.any(String),
    });
    expect(elsewhere.connections).toBe(0);
    await elsewhere.stop();
  });
});

describe("events", () => {
  it("are on their way before the next one exists", async () => {
    let release = () => {};
    upstream.script = async (response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      for (let i = 0; i < 5; i++) {
        response.write(event("ping", { i }));
        // The next event is only written when the client has got this one.
        await new Promise<void>((resolve) => {
          release = resolve;
        });
      }
      response.end(event("message_stop", {}));
    };
    const response = await post(streamed);
    let text = "";
    let seen = 0;
    for await (const piece of response.body ?? []) {
      text += Buffer.from(piece).toString();
      while (text.includes(`"i":${seen}}`)) {
        seen++;
        release();
      }
    }
    expect(seen).toBe(5);
  });
});

describe("an upstream that breaks", () => {
  const cases: Record<string, (response: Parameters<ScriptedUpstream["script"]>[0]) => void | Promise<void>> = {
    "resets before headers": (response) => void response.socket.resetAndDestroy(),
    "closes before headers": (response) => void response.socket.destroy(),
    "resets after headers": async (response) => {
      response.writeHead(200, { "content-type": "text/event-stream" }).flushHeaders();
      await pause(50);
      response.socket.resetAndDestroy();
    },
    "ends after headers": (response) => void response.writeHead(200, { "content-type": "text/event-stream" }).end(),
  };
  it.each(Object.entries(cases))("%s gives a status code", async (_name, script) => {
    upstream.script = script;
    const response = await post(streamed);
    expect(response.status).toBe(502);
    expect(response.headers.get("content-type")).toBe("application/json");
    expect(await response.json()).toMatchObject({ error: { type: "api_error" } });
  });

  it("never answers: 504 in time, and the call is dropped", async () => {
    upstream.script = () => {};
    for (const [body, limit] of [
      [streamed, FIRST_BYTE_MS],
      [plain, TOTAL_MS],
    ] as const) {
      const started = Date.now();
      const response = await post(body);
      expect(response.status).toBe(504);
      expect(await response.json()).toMatchObject({ error: { type: "timeout_error" } });
      expect(Date.now() - started).toBeGreaterThanOrEqual(limit - 50);
    }
    await until(() => upstream.received.every((request) => request.goneAt !== undefined) || undefined, "dropped calls");
  });

  it("is cut in a JSON answer: a status code, since nothing was sent", async () => {
    upstream.script = async (response) => {
      response.writeHead(200, { "content-type": "application/json", "content-length": "100" });
      response.write('{"type":');
      await pause(50);
      response.socket.destroy();
    };
    expect((await post(plain)).status).toBe(502);
  });

  const pieces = [START, DELTA, DELTA];
  const cut = Buffer.from(pieces.join(""));
  const euro = cut.indexOf("👋") + 2;
  it.each([
    ["after a whole event", Buffer.byteLength(START + DELTA), "socket"],
    ["after a whole event, cleanly", Buffer.byteLength(START + DELTA), "end"],
    ["inside an event", Buffer.byteLength(START) + 30, "socket"],
    ["inside an event, cleanly", Buffer.byteLength(START) + 30, "end"],
    ["inside an event's name", Buffer.byteLength(START) + 9, "socket"],
    ["inside a character", euro, "socket"],
    ["before the last blank line", Buffer.byteLength(START + DELTA) - 1, "end"],
  ])("is cut %s: every byte, then an `error` event, and the audit says so", async (_name, at, how) => {
    const own = await gateway.makeKey();
    upstream.script = async (response) => {
      response.writeHead(200, { "content-type": "text/event-stream", "request-id": "req_up" });
      response.write(cut.subarray(0, at));
      await pause(100);
      if (how === "end") response.end();
      else response.socket.destroy();
    };
    const response = await fetch(`${gateway.url}/v1/messages`, {
      method: "POST",
      headers: withKey(own),
      body: streamed,
    });
    expect(response.status).toBe(200);
    const bytes = Buffer.from(await response.arrayBuffer());
    expect(bytes.subarray(0, at).equals(cut.subarray(0, at))).toBe(true);
    const rest = bytes.subarray(at).toString();
    expect(rest).toMatch(
      /^(?:\nevent: ping\n\n)?event: error\ndata: \{"type":"error","error":\{"type":"api_error".*\}\n\n$/,
    );
    const [row] = await gateway.audit(own, 1);
    expect(row).toMatchObject({ outcome: "upstream_cut", status: 200, error_type: "api_error", estimated: true });
    expect(row?.input_tokens).toBe(10);
  });

  it.each(["socket", "end"])(
    "is cut before its first event is whole (%s): a status, for nothing has gone out",
    async (how) => {
      upstream.script = async (response) => {
        response.writeHead(200, { "content-type": "text/event-stream" });
        response.write(`: hello\n\n${START.slice(0, -1)}`);
        await pause(100);
        if (how === "end") response.end();
        else response.socket.destroy();
      };
      expect((await post(streamed)).status).toBe(502);
    },
  );

  it("falls silent: an `error` event, not before its time, and the call is dropped", async () => {
    upstream.script = (response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write(START + DELTA);
    };
    const started = Date.now();
    const text = await (await post(streamed)).text();
    expect(Date.now() - started).toBeGreaterThanOrEqual(SILENCE_MS);
    expect(text.startsWith(START + DELTA)).toBe(true);
    expect(text.slice((START + DELTA).length)).toMatch(/^event: error\ndata: .*timeout_error/);
    await until(() => upstream.received[0]?.goneAt, "the dropped call");
  });

  it("sends its own `error` event: passed as it came, and only once", async () => {
    const bytes = readFileSync(join(FIXTURES, "error-mid-text.sse"));
    const own = await gateway.makeKey();
    upstream.script = (response) => sendInPieces(response, bytes, 64);
    const response = await fetch(`${gateway.url}/v1/messages`, {
      method: "POST",
      headers: withKey(own),
      body: streamed,
    });
    expect(sha256(new Uint8Array(await response.arrayBuffer()))).toBe(sha256(bytes));
    expect((await gateway.audit(own, 1))[0]).toMatchObject({ outcome: "error", error_type: "overloaded_error" });
  });

  it("answers something else than it should: passed as it came", async () => {
    for (const [type, body] of [
      ["text/html", "<html>hello</html>"],
      ["application/json", "not json"],
    ]) {
      upstream.script = (response) => void response.writeHead(200, { "content-type": type ?? "" }).end(body);
      const response = await post(streamed);
      expect([response.status, response.headers.get("content-type"), await response.text()]).toEqual([200, type, body]);
    }
  });
});

describe("a client that leaves", () => {
  /** Opens a stream with a bare socket and closes it after so many bytes; `reset` or a plain close. */
  function leaveAfter(bytes: number, own: Key, how: "reset" | "close"): Promise<number> {
    return new Promise((resolve) => {
      const socket = connect(gateway.port, "127.0.0.1");
      let got = 0;
      socket.write(
        `POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: ${own.key}\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(streamed)}\r\n\r\n${streamed}`,
      );
      socket.on("error", () => {});
      socket.on("data", (piece) => {
        got += piece.length;
        if (got < bytes) return;
        if (how === "reset") socket.resetAndDestroy();
        else socket.destroy();
        resolve(Date.now());
      });
    });
  }

  it("at random moments: the upstream call ends within an event, and the record says so, once", async () => {
    const own = await gateway.makeKey();
    upstream.script = async (response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write(START);
      while (!response.destroyed) {
        response.write(DELTA);
        await pause(20);
      }
    };
    const runs = 12;
    for (let i = 0; i < runs; i++) {
      upstream.received.length = 0;
      const leftAt = await leaveAfter(300 + Math.floor(Math.random() * 3000), own, i % 2 ? "reset" : "close");
      const goneAt = await until(() => upstream.received[0]?.goneAt, "the upstream to be told");
      expect(goneAt - leftAt).toBeLessThan(500);
    }
    const rows = await gateway.audit(own, runs);
    expect(rows).toHaveLength(runs);
    for (const row of rows) {
      expect(row).toMatchObject({ outcome: "client_gone", estimated: true, input_tokens: 10 });
      expect(row.output_tokens).toBeGreaterThanOrEqual(1);
      expect(row.output_tokens).toBeLessThanOrEqual(100);
    }
  });

  it("while it waits for the first byte: the call is dropped when its connection breaks", async () => {
    upstream.script = () => {};
    const own = await gateway.makeKey();
    const socket = connect(gateway.port, "127.0.0.1");
    socket.on("error", () => {});
    socket.write(
      `POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: ${own.key}\r\ncontent-type: application/json\r\ncontent-length: ${plain.length}\r\n\r\n${plain}`,
    );
    await until(() => upstream.received[0], "the call");
    socket.resetAndDestroy();
    const leftAt = Date.now();
    const goneAt = await until(() => upstream.received[0]?.goneAt, "the upstream to be told");
    expect(goneAt - leftAt).toBeLessThan(500);
    expect((await gateway.audit(own, 1))[0]).toMatchObject({ outcome: "client_gone" });
  });
});

it("puts what was told of the call in its record, and neither text nor secret anywhere", async () => {
  const own = await gateway.makeKey({ workspace: "ws_blue" });
  upstream.script = (response) => {
    response.setHeader("content-type", "application/json");
    response.setHeader("request-id", "req_up_1");
    response.end(
      JSON.stringify({
        type: "message",
        model: "claude-opus-5-5",
        stop_reason: "end_turn",
        content: [{ type: "text", text: "ANSWER-CANARY" }],
        usage: {
          input_tokens: 100,
          output_tokens: 50,
          cache_read_input_tokens: 1000,
          cache_creation_input_tokens: 300,
          cache_creation: { ephemeral_5m_input_tokens: 100, ephemeral_1h_input_tokens: 200 },
          output_tokens_details: { thinking_tokens: 20 },
          server_tool_use: { web_search_requests: 1, web_fetch_requests: 2 },
        },
      }),
    );
  };
  await fetch(`${gateway.url}/v1/messages?beta=true`, {
    method: "POST",
    headers: withKey(own, {
      "user-agent": "claude-cli/2.1.329",
      "x-claude-code-session-id": "session-1",
      "x-claude-code-agent-id": "agent-1",
      "x-claude-code-parent-agent-id": "parent-1",
      traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }),
    body: JSON.stringify({ ...BODY, messages: [{ role: "user", content: "PROMPT-CANARY" }] }),
  });
  const [row] = await gateway.audit(own, 1);
  expect(row).toMatchObject({
    key_id: own.id,
    workspace: "ws_blue",
    upstream_request_id: "req_up_1",
    route: "/v1/messages",
    model_requested: "claude-opus-5-5",
    model: "claude-opus-5-5",
    stream: false,
    status: 200,
    outcome: "complete",
    estimated: false,
    input_tokens: 100,
    output_tokens: 50,
    cache_creation_5m_input_tokens: 100,
    cache_creation_1h_input_tokens: 200,
    cache_read_input_tokens: 1000,
    thinking_tokens: 20,
    web_search_requests: 1,
    web_fetch_requests: 2,
    cost_micro_usd: 100 * 4 + 50 * 20 + 1000 * 0.2 + 100 * 5 + 200 * 8 + 10_000,
    stop_reason: "end_turn",
    session_id: "session-1",
    agent_id: "agent-1",
    parent_agent_id: "parent-1",
    client: "claude-cli/2.1.329",
  });
  expect(gateway.log()).toContain('"trace_id":"0af7651916cd43dd8448eb211c80319c"');
  const db = await gateway.worker.miniflare.getD1Database("DB");
  const tables = await Promise.all(["audit", "api_keys"].map((table) => db.prepare(`SELECT * FROM ${table}`).all()));
  for (const place of [gateway.log(), JSON.stringify(tables)]) {
    for (const secret of ["PROMPT-CANARY", "ANSWER-CANARY", UPSTREAM_KEY, own.key, own.key.slice(-48)]) {
      expect(place).not.toContain(secret);
    }
  }
});
