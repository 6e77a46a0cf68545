/** The OpenAI routes on the native path: everything that holds for a Messages call holds for theirs too. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { type Gateway, type Key, startGateway, until } from "../support/gateway.ts";
import { pause, type ScriptedUpstream, sendInPieces, startScriptedUpstream } from "../support/scripted-upstream.ts";

const FIXTURES = join(import.meta.dirname, "../fixtures/anthropic");
const TEXT = readFileSync(join(FIXTURES, "text-basic.sse"));
const CHAT = "/v1/chat/completions";
const RESPONSES = "/v1/responses";

let upstream: ScriptedUpstream;
let gateway: Gateway;
let key: Key;

beforeAll(async () => {
  upstream = await startScriptedUpstream();
  gateway = await startGateway(upstream.url);
  key = await gateway.makeKey();
});
afterAll(async () => {
  await gateway?.stop();
  await upstream?.stop();
});
beforeEach(() => {
  upstream.received.length = 0;
  upstream.script = (response) => void response.setHeader("content-type", "application/json").end(MESSAGE);
});

const MODEL = "claude-sonnet-4-6";
const MESSAGE = JSON.stringify({
  id: "msg_01RELAY",
  type: "message",
  role: "assistant",
  model: MODEL,
  content: [{ type: "text", text: "Hello" }],
  stop_reason: "end_turn",
  stop_sequence: null,
  usage: { input_tokens: 10, output_tokens: 5 },
});
const BODY = { model: MODEL, messages: [{ role: "user", content: "x" }] };
const ASKED = { model: MODEL, input: "x" };
const bodyFor = (path: string, more: object = {}) =>
  JSON.stringify(path.endsWith("responses") ? { ...ASKED, ...more } : { ...BODY, ...more });

const post = (
  path: string,
  body: string,
  own: Key = key,
  headers: Record<string, string> = {},
  init: RequestInit = {},
) =>
  fetch(`${gateway.url}${path}`, {
    method: "POST",
    headers: { authorization: `Bearer ${own.key}`, "content-type": "application/json", ...headers },
    body,
    ...init,
  });

type OpenAIError = { error: { message: string; type: string; param: string | null; code: string | null } };

async function refusal(response: Response): Promise<OpenAIError["error"] & { status: number }> {
  expect(response.headers.get("content-type")).toBe("application/json");
  expect(response.headers.get("access-control-allow-origin")).toBe("*");
  expect(response.headers.get("x-request-id")).toMatch(/^req_/);
  const { error, ...rest } = (await response.json()) as OpenAIError;
  expect(rest).toEqual({});
  expect(Object.keys(error).sort()).toEqual(["code", "message", "param", "type"]);
  expect(error.message).not.toBe("");
  return { status: response.status, ...error };
}

const event = (name: string, fields: object = {}): string =>
  `event: ${name}\ndata: ${JSON.stringify({ type: name, ...fields })}\n\n`;
const START = event("message_start", {
  message: {
    id: "msg_01S",
    type: "message",
    role: "assistant",
    model: MODEL,
    content: [],
    usage: { input_tokens: 10, output_tokens: 1 },
  },
});
const BLOCK = event("content_block_start", { index: 0, content_block: { type: "text", text: "" } });
const delta = (text: string) => event("content_block_delta", { index: 0, delta: { type: "text_delta", text } });
const END =
  event("content_block_stop", { index: 0 }) +
  event("message_delta", { delta: { stop_reason: "end_turn", stop_sequence: null }, usage: { output_tokens: 7 } }) +
  event("message_stop");

/** The data frames of a Chat stream, parsed. */
function framesOf(text: string): Record<string, unknown>[] {
  return [...text.matchAll(/^data: (.*)$/gm)].flatMap(([, data = ""]) => (data === "[DONE]" ? [] : [JSON.parse(data)]));
}
type Chunk = {
  choices?: { delta: { content?: string }; finish_reason: string | null }[];
  error?: OpenAIError["error"];
};
const contentOf = (text: string) =>
  framesOf(text)
    .map((frame) => (frame as Chunk).choices?.[0]?.delta.content ?? "")
    .join("");

describe("an answer", () => {
  it("of one piece: the Messages call upstream, the answer in the path's own form, the headers OpenAI's clients read", async () => {
    const limited = await gateway.makeKey({ limits: { requests_per_minute: 100, input_tokens_per_minute: 100_000 } });
    for (const path of [
      CHAT,
      RESPONSES,
      "/chat/completions",
      "//v1//chat//completions",
      "/responses",
      "/v1//responses",
    ]) {
      upstream.script = (response) =>
        void response.writeHead(200, { "content-type": "application/json", "request-id": "req_up" }).end(MESSAGE);
      const response = await post(path, bodyFor(path), limited);
      expect([path, response.status]).toEqual([path, 200]);
      expect(response.headers.get("x-request-id")).toBe("req_up");
      expect(response.headers.get("x-sluice-request-id")).toMatch(/^req_/);
      expect(response.headers.get("x-ratelimit-limit-requests")).toBe("100");
      expect(Number(response.headers.get("x-ratelimit-remaining-requests"))).toBeLessThan(100);
      expect(response.headers.get("x-ratelimit-reset-requests")).toMatch(/^(\d+m)?\d+s$/);
      expect(response.headers.get("x-ratelimit-limit-tokens")).toBe("100000");
      const answer = (await response.json()) as { object: string };
      expect(answer.object).toBe(path.endsWith("responses") ? "response" : "chat.completion");
      const sent = upstream.received.at(-1);
      expect(sent?.target).toBe("/v1/messages");
      expect(JSON.parse(sent?.body.toString() ?? "")).toMatchObject({ model: MODEL, max_tokens: expect.any(Number) });
      expect(new Map(sent?.headers).get("authorization")).toBeUndefined();
      expect(new Map(sent?.headers).get("x-api-key")).toBe("sk-ant-UPKEY-CANARY");
    }
  });

  it("asks for the version of the API that takes what the body says", async () => {
    const versionOf = async (more: object, headers: Record<string, string> = {}) => {
      await (await post(CHAT, bodyFor(CHAT, more), key, headers)).text();
      return new Map(upstream.received.at(-1)?.headers).get("anthropic-version");
    };
    expect(await versionOf({})).toBe("2026-10-21");
    expect(await versionOf({ temperature: 0.5 })).toBe("2023-06-01");
    expect(await versionOf({}, { "anthropic-version": "2023-06-01" })).toBe("2023-06-01");
  });

  it("keeps the client's query to itself", async () => {
    await (await post(`${CHAT}?api-version=2024-10-21`, bodyFor(CHAT))).text();
    expect(upstream.received.at(-1)?.target).toBe("/v1/messages");
  });

  it.each([1, 7, 64, Number.MAX_SAFE_INTEGER])("in a stream that comes in pieces of %i", async (size) => {
    upstream.script = (response) => sendInPieces(response, TEXT, size);
    const response = await post(CHAT, bodyFor(CHAT, { stream: true }));
    expect(response.headers.get("content-type")).toMatch(/^text\/event-stream/);
    const text = await response.text();
    expect(text.endsWith("data: [DONE]\n\n")).toBe(true);
    const whole = readFileSync(join(FIXTURES, "text-basic.final.json"), "utf8");
    expect(contentOf(text)).toBe((JSON.parse(whole) as { content: { text: string }[] }).content[0]?.text);
  });

  it("is told event by event, each as soon as it has come", async () => {
    let next = Promise.withResolvers<void>();
    upstream.script = async (response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write(START + BLOCK);
      for (let n = 0; n < 5; n++) {
        await next.promise;
        next = Promise.withResolvers<void>();
        response.write(delta(`piece ${n} `));
      }
      response.end(END);
    };
    const response = await post(CHAT, bodyFor(CHAT, { stream: true }));
    const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (let n = 0; n < 5; n++) {
      next.resolve();
      // The next piece is not sent before this one has arrived.
      while (!text.includes(`piece ${n} `)) text += (await reader?.read())?.value ?? "";
    }
    for (let piece = await reader?.read(); piece && !piece.done; piece = await reader?.read()) text += piece.value;
    expect(contentOf(text)).toBe("piece 0 piece 1 piece 2 piece 3 piece 4 ");
    expect(text.endsWith("data: [DONE]\n\n")).toBe(true);
  });

  it("leaves a row in the audit as any other, with its dialect", async () => {
    const own = await gateway.makeKey();
    await (await post(CHAT, bodyFor(CHAT), own)).text();
    upstream.script = (response) => sendInPieces(response, Buffer.from(START + BLOCK + delta("Hi") + END), 50);
    await (await post(RESPONSES, bodyFor(RESPONSES, { stream: true }), own)).text();
    const [first, second] = await gateway.audit(own, 2);
    const common = { dialect: "openai", outcome: "complete", model: MODEL, model_requested: MODEL, status: 200 };
    expect(first).toMatchObject({ ...common, route: CHAT, stream: false, input_tokens: 10, output_tokens: 5 });
    expect(second).toMatchObject({ ...common, route: RESPONSES, stream: true, input_tokens: 10, output_tokens: 7 });
    expect(Number(first?.cost_micro_usd)).toBeGreaterThan(0);
    const export_ = await (await gateway.admin(`audit.ndjson?key=${own.id}&route=${CHAT}`)).text();
    expect(JSON.parse(export_.trim())).toMatchObject({ dialect: "openai", route: CHAT });
  });
});

describe("a body", () => {
  it("is read by its shape, and answered by its path", async () => {
    for (const [path, body] of [
      [CHAT, bodyFor(RESPONSES, { stream: true, stream_options: { include_usage: true } })],
      [CHAT, bodyFor(CHAT, { stream: true, stream_options: { include_usage: true } })],
    ] as const) {
      upstream.script = (response) => sendInPieces(response, Buffer.from(START + BLOCK + delta("Hi") + END), 64);
      const text = await (await post(path, body)).text();
      expect(contentOf(text)).toBe("Hi");
      expect(new Set(framesOf(text).map(({ object }) => object))).toEqual(new Set(["chat.completion.chunk"]));
      expect(framesOf(text).at(-1)).toMatchObject({ choices: [], usage: { prompt_tokens: 10, completion_tokens: 7 } });
    }
    upstream.script = (response) => void response.setHeader("content-type", "application/json").end(MESSAGE);
    const whole = await post(RESPONSES, bodyFor(CHAT));
    expect(await whole.json()).toMatchObject({ object: "response", status: "completed" });
  });

  it("may come with the same key in several headers, and no User-Agent", async () => {
    for (const headers of [
      { "x-api-key": key.key },
      { "api-key": key.key },
      { "x-api-key": key.key, "user-agent": "" },
    ]) {
      expect((await post(CHAT, bodyFor(CHAT), key, headers as Record<string, string>)).status).toBe(200);
    }
    expect(await refusal(await post(CHAT, bodyFor(CHAT), key, { "x-api-key": "sk-other" }))).toMatchObject({
      status: 401,
    });
  });
});

describe("an upstream that stumbles", () => {
  const STUMBLES = [
    [429, "rate_limit_error", 429, "rate_limit_exceeded"],
    [529, "overloaded_error", 503, "overloaded"],
    [500, "api_error", 500, null],
    [503, "api_error", 503, null],
  ] as const;

  it.each(STUMBLES)(
    "with %i %s before a stream is told as a status, after it was tried again",
    async (status, type, expected, code) => {
      const own = await gateway.makeKey();
      upstream.script = (response) =>
        void response
          .writeHead(status, { "content-type": "application/json", "retry-after": "1" })
          .end(JSON.stringify({ type: "error", error: { type, message: "Not now." } }));
      const response = await post(CHAT, bodyFor(CHAT, { stream: true }), own);
      expect(await refusal(response)).toMatchObject({ status: expected, code, message: "Not now." });
      if (status === 429) expect(Number(response.headers.get("retry-after"))).toBeGreaterThan(0);
      const [row] = await gateway.audit(own, 1);
      expect(row).toMatchObject({ dialect: "openai", outcome: "error", status, error_type: type });
      expect(upstream.received.length).toBe(row?.attempts);
    },
  );

  it("once is asked again, and the client sees nothing of it", async () => {
    const own = await gateway.makeKey();
    let calls = 0;
    upstream.script = (response) => {
      calls++;
      if (calls > 1) return sendInPieces(response, Buffer.from(START + BLOCK + delta("Hi") + END), 90);
      response.writeHead(529, { "content-type": "application/json" });
      response.end(JSON.stringify({ type: "error", error: { type: "overloaded_error", message: "Not now." } }));
    };
    const response = await post(CHAT, bodyFor(CHAT, { stream: true }), own);
    expect([response.status, contentOf(await response.text())]).toEqual([200, "Hi"]);
    expect(await gateway.audit(own, 1)).toMatchObject([{ attempts: 2, outcome: "complete", dialect: "openai" }]);
  });

  it("with an error as its first event is told as a status too", async () => {
    upstream.script = (response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.end(event("error", { error: { type: "invalid_request_error", message: "prompt is too long: 9 > 8" } }));
    };
    const told = await refusal(await post(CHAT, bodyFor(CHAT, { stream: true })));
    expect(told).toMatchObject({ status: 400, code: "context_length_exceeded" });
  });

  it("with its own key refused is no fault of the caller's", async () => {
    upstream.script = (response) =>
      void response
        .writeHead(401, { "content-type": "application/json" })
        .end(JSON.stringify({ type: "error", error: { type: "authentication_error", message: "invalid x-api-key" } }));
    const response = await post(CHAT, bodyFor(CHAT), await gateway.makeKey());
    expect(response.headers.get("x-should-retry")).toBe("false");
    expect(await refusal(response)).toMatchObject({ status: 502, code: null });
  });

  it("with something that is no message, or no JSON at all", async () => {
    for (const [status, body] of [
      [200, "<html>hi</html>"],
      [200, "{}"],
      [400, "<html>no</html>"],
    ] as const) {
      upstream.script = (response) => void response.writeHead(status, { "content-type": "text/html" }).end(body);
      const told = await refusal(await post(CHAT, bodyFor(CHAT)));
      expect([body, told.status]).toEqual([body, status === 200 ? 502 : 400]);
    }
  });
});

describe("a stream that fails", () => {
  const failing = async (script: ScriptedUpstream["script"], own = key) => {
    upstream.script = script;
    const response = await post(CHAT, bodyFor(CHAT, { stream: true }), own);
    return { status: response.status, text: await response.text() };
  };
  const errorOf = (text: string) => framesOf(text).at(-1) as Chunk;

  it("with an error event of the upstream's, ends in an error frame and nothing else", async () => {
    const { status, text } = await failing((response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.end(
        START + BLOCK + delta("Hel") + event("error", { error: { type: "overloaded_error", message: "Overloaded" } }),
      );
    });
    expect(status).toBe(200);
    expect(contentOf(text)).toBe("Hel");
    expect(errorOf(text).error?.message).toBe("Overloaded");
    expect(text).not.toContain("[DONE]");
    expect(text).not.toMatch(/"finish_reason":"/);
  });

  it("cut between events or within one, ends in an error frame; the row says upstream_cut", async () => {
    const own = await gateway.makeKey();
    const bytes = Buffer.from(START + BLOCK + delta("Hello") + END);
    const cut = bytes.length - event("message_stop").length;
    let calls = 0;
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: START.length, max: cut }), async (at) => {
        calls++;
        const { text } = await failing(async (response) => {
          response.writeHead(200, { "content-type": "text/event-stream" });
          response.write(bytes.subarray(0, at));
          await pause(5);
          response.socket?.destroy();
        }, own);
        expect(errorOf(text).error?.message).toEqual(expect.any(String));
        expect(text).not.toContain("[DONE]");
      }),
      { numRuns: 25 },
    );
    const rows = await gateway.audit(own, calls);
    expect(new Set(rows.map((row) => `${row.outcome} ${row.dialect}`))).toEqual(new Set(["upstream_cut openai"]));
  });
});

describe("errors", () => {
  it("of the upstream have OpenAI's shape and status", async () => {
    const cases = [
      [400, "invalid_request_error", 400],
      [402, "billing_error", 429],
      [404, "not_found_error", 404],
      [413, "request_too_large", 413],
    ] as const;
    for (const path of [CHAT, RESPONSES]) {
      for (const [status, type, expected] of cases) {
        upstream.script = (response) =>
          void response
            .writeHead(status, { "content-type": "application/json", "request-id": "req_up" })
            .end(JSON.stringify({ type: "error", error: { type, message: "Too bad." } }));
        const response = await post(path, bodyFor(path, { stream: path === CHAT }));
        const told = await refusal(response);
        expect([path, status, told.status]).toEqual([path, status, expected]);
        expect(told.message).toContain("Too bad.");
      }
    }
  });

  it("of the gateway have it too", async () => {
    const scoped = await gateway.makeKey({ scopes: ["files"] });
    const modest = await gateway.makeKey({ models: ["claude-opus-5-5"] });
    const small = await gateway.makeKey({ limits: { max_request_bytes: 1_000 } });
    const large = bodyFor(CHAT, { messages: [{ role: "user", content: "x".repeat(2_000) }] });
    const at = async (answer: Promise<Response>) => refusal(await answer);
    for (const path of [CHAT, RESPONSES]) {
      expect(await at(post(path, bodyFor(path), { id: "", key: "sk-wrong" }))).toMatchObject({
        status: 401,
        code: "invalid_api_key",
      });
      expect(await at(post(path, bodyFor(path), scoped))).toMatchObject({ status: 403 });
      expect(await at(post(path, bodyFor(path), modest))).toMatchObject({ status: 403 });
      expect(await at(post(path, large, small))).toMatchObject({ status: 413 });
      expect(await at(post(path, bodyFor(path), key, { "content-type": "text/plain" }))).toMatchObject({ status: 415 });
      expect(await at(post(path, "{"))).toMatchObject({ status: 400, type: "invalid_request_error" });
      expect(await at(post(path, "[]"))).toMatchObject({ status: 400, type: "invalid_request_error" });
      expect(await at(post(path, "{}"))).toMatchObject({ status: 400 });
      expect(await at(fetch(`${gateway.url}${path}`))).toMatchObject({ status: 405 });
    }
    expect(upstream.received).toHaveLength(0);
  });

  it("of limits and budgets say when to come back, or that it is of no use", async () => {
    const slow = await gateway.makeKey({ limits: { requests_per_minute: 1 } });
    await (await post(CHAT, bodyFor(CHAT), slow)).text();
    const limited = await post(CHAT, bodyFor(CHAT), slow);
    expect(limited.headers.get("retry-after")).toMatch(/^\d+$/);
    expect(limited.headers.get("x-ratelimit-remaining-requests")).toBe("0");
    expect(await refusal(limited)).toMatchObject({ status: 429, code: "rate_limit_exceeded" });
    const poor = await gateway.makeKey({ budget: { usd: 0.000_001, period: "total", mode: "strict" } });
    const spent = await post(CHAT, bodyFor(CHAT), poor);
    expect(spent.headers.get("x-should-retry")).toBe("false");
    expect(await refusal(spent)).toMatchObject({ status: 429, code: "insufficient_quota" });
  });
});

describe("a stored response", () => {
  it("is read, listed and deleted by its key alone, and goes on from there", async () => {
    const own = await gateway.makeKey();
    for (const stream of [false, true]) {
      const id = `msg_01STORED${stream}`;
      upstream.script = (response) =>
        stream
          ? sendInPieces(response, Buffer.from(START.replace("msg_01S", id) + BLOCK + delta("Hi") + END), 100)
          : void response.setHeader("content-type", "application/json").end(MESSAGE.replace("msg_01RELAY", id));
      const made = await (await post(RESPONSES, bodyFor(RESPONSES, { stream }), own)).text();
      const told = stream
        ? (framesOf(made).at(-1) as { response: { id: string } }).response
        : (JSON.parse(made) as { id: string });
      const ask = (one: Key, path = "", init: RequestInit = {}) =>
        fetch(`${gateway.url}/v1/responses/${told.id}${path}`, {
          ...init,
          headers: { authorization: `Bearer ${one.key}` },
        });
      const read = await ask(own);
      expect(read.headers.get("x-request-id")).toMatch(/^req_/);
      expect(await read.json()).toEqual(told);
      expect(await (await ask(own, "/input_items")).json()).toMatchObject({ object: "list" });
      expect(await refusal(await ask(key))).toMatchObject({ status: 404 });
      const body = bodyFor(RESPONSES, { input: "and?", previous_response_id: told.id });
      upstream.script = (response) => void response.setHeader("content-type", "application/json").end(MESSAGE);
      expect((await post(RESPONSES, body, own)).status).toBe(200);
      expect(JSON.parse(upstream.received.at(-1)?.body.toString() ?? "")).toMatchObject({ messages: { length: 3 } });
      expect(await refusal(await post(RESPONSES, body))).toMatchObject({
        status: 400,
        code: "previous_response_not_found",
      });
      expect((await ask(own, "", { method: "DELETE" })).status).toBe(200);
      expect((await refusal(await ask(own))).status).toBe(404);
    }
  });
});

describe("paths", () => {
  it("that nobody serves are told in OpenAI's shape, and why", async () => {
    for (const path of [
      "/v1/embeddings",
      "/embeddings",
      "/v1/completions",
      "/v1/audio/speech",
      "/v1/images/generations",
      "/v1/moderations",
      "/v1/chat/completions/chatcmpl-1",
      "/v1/fine_tuning/jobs",
      "/v1/threads",
      "/v1/chat",
    ]) {
      const told = await refusal(await post(path, "{}"));
      expect([path, told.status]).toEqual([path, 404]);
      expect(told.message.length).toBeGreaterThan(50);
    }
  });

  it("V-05 answer a preflight and every page, without credentials; no other route does", async () => {
    const ask = (path: string, headers: Record<string, string> = {}) =>
      fetch(`${gateway.url}${path}`, {
        method: "OPTIONS",
        headers: { origin: "https://evil.example", "access-control-request-method": "POST", ...headers },
      });
    const asked = "authorization,content-type,x-stainless-os,openai-organization";
    for (const path of [
      CHAT,
      "/chat/completions",
      RESPONSES,
      "/v1/models",
      "/models",
      "/v1/models/x",
      "/v1/embeddings",
    ]) {
      const response = await ask(path, { "access-control-request-headers": asked });
      expect([path, response.status]).toEqual([path, 204]);
      expect(response.headers.get("access-control-allow-origin")).toBe("*");
      expect(response.headers.get("access-control-allow-headers")).toBe(asked);
      expect(response.headers.get("access-control-allow-methods")).toMatch(/(GET|POST).*OPTIONS/);
      expect(response.headers.get("access-control-expose-headers")).toMatch(/x-request-id.*retry-after.*x-ratelimit-/);
      expect(response.headers.has("access-control-allow-credentials")).toBe(false);
    }
    for (const path of [
      "/admin/keys",
      "/metrics",
      "/health",
      "/v1/messages",
      "/v1/key",
      "/v1/files",
      "/",
      "/v1/modelsx",
    ]) {
      const response = await ask(path, { "access-control-request-headers": asked });
      expect([path, response.headers.has("access-control-allow-origin")]).toEqual([path, false]);
      expect(response.status).not.toBe(204);
    }
    const injected = await ask(CHAT, { "access-control-request-headers": "x;y, <script>" });
    expect(injected.headers.get("access-control-allow-headers")).toMatch(/^authorization/);
    const models = await fetch(`${gateway.url}/v1/models`, { headers: { origin: "null" } });
    expect(models.status).toBe(401);
    expect(models.headers.get("access-control-allow-origin")).toBe("*");
    expect(models.headers.get("x-request-id")).toBe(models.headers.get("x-sluice-request-id"));
  });
});

describe("a client that leaves", () => {
  const running = () => {
    upstream.script = async (response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write(START + BLOCK);
      for (let n = 0; n < 400 && !response.destroyed; n++) {
        response.write(delta(`piece ${n} `));
        await pause(5);
      }
      response.end(END);
    };
  };
  const leaveAfter = async (bytes: number, own: Key) => {
    const leaver = new AbortController();
    const response = await post(CHAT, bodyFor(CHAT, { stream: true }), own, {}, { signal: leaver.signal });
    const reader = response.body?.getReader();
    for (let got = 0; got < bytes; ) got += (await reader?.read())?.value?.length ?? bytes;
    leaver.abort();
  };

  it("at whatever offset, stops the upstream; the row says so", async () => {
    running();
    const own = await gateway.makeKey();
    const offsets = [0, 1, 250, 999, 3_000];
    for (const bytes of offsets) {
      await leaveAfter(bytes, own);
      await until(() => upstream.received.at(-1)?.goneAt !== undefined || undefined, "the upstream to be left");
    }
    const rows = await gateway.audit(own, offsets.length);
    expect(rows.map(({ outcome }) => outcome)).toEqual(offsets.map(() => "client_gone"));
    await gateway.settled(own);
  });

  it("has its answer read to its end where the key drains", async () => {
    upstream.script = async (response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write(START + BLOCK);
      for (let n = 0; n < 40; n++) {
        response.write(delta(`piece ${n} `));
        await pause(10);
      }
      response.end(END);
    };
    const own = await gateway.makeKey({ on_disconnect: "drain" });
    await leaveAfter(300, own);
    expect(await gateway.audit(own, 1)).toMatchObject([
      { outcome: "client_gone", drained: true, output_tokens: 7, dialect: "openai" },
    ]);
    expect(upstream.received.at(-1)?.goneAt).toBeUndefined();
  });

  it("drains without leaving: the same answer", async () => {
    upstream.script = (response) => sendInPieces(response, Buffer.from(START + BLOCK + delta("Hi") + END), 40);
    const own = await gateway.makeKey({ on_disconnect: "drain" });
    const text = await (await post(CHAT, bodyFor(CHAT, { stream: true }), own)).text();
    expect(contentOf(text)).toBe("Hi");
    expect(await gateway.audit(own, 1)).toMatchObject([{ outcome: "complete", dialect: "openai", output_tokens: 7 }]);
  });
});

describe("a key that is revoked", () => {
  it("ends its streams with an error frame where it says cut", async () => {
    upstream.script = async (response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write(START + BLOCK);
      for (let n = 0; n < 1_000 && !response.destroyed; n++) {
        response.write(delta(`piece ${n} `));
        await pause(10);
      }
      response.end(END);
    };
    const own = await gateway.makeKey({ on_revoke: "cut" });
    const response = await post(CHAT, bodyFor(CHAT, { stream: true }), own);
    await gateway.admin(`keys/${own.id}`, { method: "DELETE" });
    const text = await response.text();
    expect((framesOf(text).at(-1) as Chunk).error?.type).toBe("authentication_error");
    expect(text).not.toContain("[DONE]");
    await until(() => upstream.received.at(-1)?.goneAt !== undefined || undefined, "the upstream to be left");
    expect(await gateway.audit(own, 1)).toMatchObject([{ dialect: "openai", error_type: "authentication_error" }]);
  });
});

describe("a stream's reader", () => {
  it("that is slow gets everything", async () => {
    const piece = delta("x".repeat(10_000));
    const pieces = 500;
    upstream.script = (response) =>
      sendInPieces(response, Buffer.from(START + BLOCK + piece.repeat(pieces) + END), 65_536);
    const response = await post(CHAT, bodyFor(CHAT, { stream: true }));
    const reader = response.body?.getReader();
    await reader?.read();
    await pause(700);
    let text = "";
    const decoder = new TextDecoder();
    for (let next = await reader?.read(); next && !next.done; next = await reader?.read()) {
      text += decoder.decode(next.value, { stream: true });
    }
    expect(text.endsWith("data: [DONE]\n\n")).toBe(true);
    expect(text.length).toBeGreaterThan(pieces * 9_900);
  });
});

describe("asked twice", () => {
  const again = async (path: string, body: string, own: Key, headers: Record<string, string>) => {
    const response = await post(path, body, own, headers);
    return {
      replayed: response.headers.get("idempotent-replayed"),
      cache: response.headers.get("x-sluice-cache"),
      text: await response.text(),
      status: response.status,
    };
  };

  it("with an Idempotency-Key: byte by byte the same, later too, and asked upstream once", async () => {
    const own = await gateway.makeKey();
    for (const path of [CHAT, RESPONSES]) {
      for (const stream of [false, true]) {
        upstream.received.length = 0;
        upstream.script = (response) =>
          stream
            ? sendInPieces(response, Buffer.from(START + BLOCK + delta("Hi") + END), 100)
            : void response.setHeader("content-type", "application/json").end(MESSAGE);
        const headers = { "idempotency-key": `${path} ${stream}` };
        const first = await again(path, bodyFor(path, { stream }), own, headers);
        await pause(1_100);
        const second = await again(path, bodyFor(path, { stream }), own, headers);
        expect(first.status).toBe(200);
        expect([first.replayed, second.replayed]).toEqual([null, "true"]);
        expect(second.text).toBe(first.text);
        expect(upstream.received).toHaveLength(1);
        // It says the same to Claude, and is another request all the same.
        const other = await post(path, ` ${bodyFor(path, { stream })}`, own, headers);
        expect((await refusal(other)).status).toBe(422);
      }
    }
    const mismatch = await post(RESPONSES, bodyFor(CHAT), own, { "idempotency-key": `${CHAT} false` });
    expect((await refusal(mismatch)).status).toBe(422);
  });

  it("of an upstream that tells no date: the same all the same", async () => {
    const own = await gateway.makeKey();
    upstream.script = (response) => {
      response.sendDate = false;
      response.setHeader("content-type", "application/json").end(MESSAGE);
    };
    const headers = { "idempotency-key": "undated" };
    const first = await again(CHAT, bodyFor(CHAT), own, headers);
    await pause(1_100);
    const second = await again(CHAT, bodyFor(CHAT), own, headers);
    expect([second.replayed, second.text]).toEqual(["true", first.text]);
  });

  it("from the response cache: by another key of the workspace, each in its own form", async () => {
    const own = await gateway.makeKey();
    for (const stream of [false, true]) {
      upstream.received.length = 0;
      upstream.script = (response) =>
        stream
          ? sendInPieces(response, Buffer.from(START + BLOCK + delta("Hi") + END), 100)
          : void response.setHeader("content-type", "application/json").end(MESSAGE);
      const wish = { "x-sluice-cache": "ttl=60" };
      const first = await again(CHAT, bodyFor(CHAT, { stream }), own, wish);
      const second = await again(CHAT, bodyFor(CHAT, { stream, ignored: 1 }), await gateway.makeKey(), wish);
      expect([first.cache, second.cache]).toEqual(["miss", "hit"]);
      expect(second.text).toBe(first.text);
      expect(upstream.received).toHaveLength(1);
    }
  });
});
