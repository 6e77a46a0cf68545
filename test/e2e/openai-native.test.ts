/**
 * What the native path promises of a call's whole life, held for OpenAI's two routes: nothing is kept back, whoever leaves
 * is settled right, an answer that is shared is told to each in its own form, and nothing of it is in the log.
 */
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { request } from "node:http";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { event, MODEL } from "../support/counting-claude.ts";
import { type Gateway, type Key, startGateway, until } from "../support/gateway.ts";
import { pause, type ScriptedUpstream, startScriptedUpstream } from "../support/scripted-upstream.ts";

const CHAT = "/v1/chat/completions";
const RESPONSES = "/v1/responses";
const PATHS = [CHAT, RESPONSES] as const;
const SILENCE_MS = 700;
const MAX_TOKENS = 60;
const USAGE = { input_tokens: 25, cache_read_input_tokens: 40, output_tokens: 31 };
/** Input, cache reads and output at the prices of claude-opus-5-5, in µUSD. */
const costOf = (output: number): number => Math.round(25 * 4 + 40 * 0.2 + output * 20);
const COST = costOf(USAGE.output_tokens);

let upstream: ScriptedUpstream;
let gateway: Gateway;
let messages = 0;
const stateDir = mkdtempSync(join(tmpdir(), "sluice-openai-"));
const bindings = { SILENCE_TIMEOUT_MS: String(SILENCE_MS), LEDGER_DEADLINE_MS: "5000" };

beforeAll(async () => {
  upstream = await startScriptedUpstream();
  gateway = await startGateway(upstream.url, { bindings, stateDir });
});
afterAll(async () => {
  await gateway?.stop();
  await upstream?.stop();
  rmSync(stateDir, { recursive: true, force: true });
});
beforeEach(() => {
  upstream.received.length = 0;
  upstream.script = answers();
});

type Path = (typeof PATHS)[number];
type Options = { readonly stream?: boolean; readonly headers?: Record<string, string>; readonly more?: object };

const bodyOf = (path: Path, text: string, { stream = false, more = {} }: Options): string =>
  JSON.stringify(
    path === CHAT
      ? { model: MODEL, max_tokens: MAX_TOKENS, messages: [{ role: "user", content: text }], stream, ...more }
      : { model: MODEL, max_output_tokens: MAX_TOKENS, input: text, stream, ...more },
  );

const ask = (path: Path, key: Key, text: string, options: Options = {}, at = gateway): Promise<Response> =>
  fetch(`${at.url}${path}`, {
    method: "POST",
    headers: { authorization: `Bearer ${key.key}`, "content-type": "application/json", ...options.headers },
    body: bodyOf(path, text, options),
  });

/** An event of each kind that a client is told of; each carries a word that no other does. */
const block = (index: number, start: object): string => event("content_block_start", { index, content_block: start });
const delta = (index: number, fields: object): string => event("content_block_delta", { index, delta: fields });
const stop = (index: number): string => event("content_block_stop", { index });
const start = (id: string): string =>
  event("message_start", {
    message: {
      ...{ id, type: "message", role: "assistant", model: MODEL, content: [], stop_reason: null, stop_sequence: null },
      usage: { ...USAGE, output_tokens: 1 },
    },
  });
const textDelta = (text: string): string => delta(0, { type: "text_delta", text });
const BLOCK = block(0, { type: "text", text: "" });
const end = (reason = "end_turn"): string =>
  event("message_delta", { delta: { stop_reason: reason, stop_sequence: null }, usage: USAGE }) + event("message_stop");
const TEXTS = ["The quick ", "brown fox ", "jumps over", " lazy dogs"];
const wholeStream = (id: string): string => start(id) + BLOCK + TEXTS.map(textDelta).join("") + stop(0) + end();
const wholeMessage = (id: string, text = TEXTS.join("")): string =>
  JSON.stringify({
    ...{ id, type: "message", role: "assistant", model: MODEL, stop_reason: "end_turn", stop_sequence: null },
    ...{ content: [{ type: "text", text }], usage: USAGE },
  });

const askedFor = (body: Buffer): { stream?: boolean } => JSON.parse(body.toString()) as { stream?: boolean };

/** Each answer has an id of its own, so that it is seen which one was told. */
function answers(): ScriptedUpstream["script"] {
  return (response, { body }) => {
    const id = `msg_${++messages}`;
    const { stream } = askedFor(body);
    response.setHeader("content-type", stream ? "text/event-stream" : "application/json");
    response.end(stream ? wholeStream(id) : wholeMessage(id));
  };
}

/** What the clients of either route make of an answer: which message it is of, and its text. */
function told(path: Path, text: string, stream: boolean): { id: string; text: string; object: string } {
  const frames = stream
    ? [...text.matchAll(/^data: (\{.*)$/gm)].map(([, data = ""]) => JSON.parse(data) as Record<string, unknown>)
    : [JSON.parse(text) as Record<string, unknown>];
  if (path === CHAT) {
    type Choice = { delta?: { content?: string }; message?: { content: string } };
    const choices = frames.flatMap(({ choices }) => choices as Choice[]);
    const said = choices.map(({ delta, message }) => delta?.content ?? message?.content ?? "").join("");
    return { id: String(frames[0]?.id), text: said, object: String(frames[0]?.object) };
  }
  type Whole = { id: string; object: string; output: { content: { text: string }[] }[] };
  const whole = (stream ? frames.at(-1)?.response : frames[0]) as Whole;
  return { id: whole.id, text: whole.output[0]?.content[0]?.text ?? "", object: whole.object };
}

describe.each(PATHS)("%s", (path) => {
  it("tells each event before the next one is made, of whatever kind it is", async () => {
    const pieces: [string, string][] = [
      [start("msg_causal"), path === CHAT ? '"role":"assistant"' : "response.created"],
      [block(0, { type: "thinking", thinking: "", signature: "" }), ""],
      [delta(0, { type: "thinking_delta", thinking: "thought-1" }), "thought-1"],
      [event("ping"), ": "],
      [delta(0, { type: "thinking_delta", thinking: "thought-2" }), "thought-2"],
      [delta(0, { type: "signature_delta", signature: "signed-3" }), ""],
      [stop(0), path === CHAT ? "signed-3" : "reasoning_summary_text.done"],
      [block(1, { type: "text", text: "" }), ""],
      [delta(1, { type: "text_delta", text: "text-4" }), "text-4"],
      [delta(1, { type: "text_delta", text: 'text-5 "ünï\\"' }), "text-5"],
      [stop(1), ""],
      [block(2, { type: "tool_use", id: "toolu_6", name: "look", input: {} }), "toolu_6"],
      [delta(2, { type: "input_json_delta", partial_json: '{"a":"json-7' }), "json-7"],
      [delta(2, { type: "input_json_delta", partial_json: ',json-8"}' }), "json-8"],
      [stop(2), ""],
      [end("tool_use"), path === CHAT ? "[DONE]" : "response.completed"],
    ];
    const next = pieces.map(() => Promise.withResolvers<void>());
    upstream.script = async (response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.socket.setNoDelay(true);
      for (const [at, [piece]] of pieces.entries()) {
        await next[at]?.promise;
        response.write(piece);
      }
      response.end();
    };
    const look = { name: "look", parameters: { type: "object", properties: { a: { type: "string" } } } };
    const more =
      path === CHAT
        ? { tools: [{ type: "function", function: look }], reasoning_effort: "high" }
        : { tools: [{ type: "function", ...look }], reasoning: { effort: "high", summary: "auto" } };
    next[0]?.resolve();
    const response = await ask(path, await gateway.makeKey(), "x", { stream: true, more });
    const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (const [at, [, word]] of pieces.entries()) {
      next[at]?.resolve();
      const from = text.length;
      while (!text.includes(word, at === 0 ? 0 : from)) {
        const piece = await reader?.read();
        if (!piece || piece.done) throw new Error(`no ${word} in ${text.slice(from)}`);
        text += piece.value;
      }
    }
  });

  it("D-07 stops an upstream whose client does not read, and tells it when that one goes", async () => {
    const piece = Buffer.from(textDelta("x".repeat(1_000)).repeat(60));
    let sent = 0;
    upstream.script = async (response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write(start("msg_flood") + BLOCK);
      const closed = once(response, "close");
      while (sent < 200 * 1024 * 1024 && !response.destroyed) {
        sent += piece.length;
        if (!response.write(piece)) await Promise.race([once(response, "drain"), closed]);
      }
    };
    const key = await gateway.makeKey();
    const body = bodyOf(path, "x", { stream: true });
    const socket = connect(gateway.port, "127.0.0.1");
    socket.on("error", () => {});
    socket.pause();
    socket.write(
      `POST ${path} HTTP/1.1\r\nhost: x\r\nx-api-key: ${key.key}\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
    );
    let last = -1;
    await until(async () => {
      const same = sent > 0 && sent === last;
      last = sent;
      await pause(200);
      return same || undefined;
    }, "the upstream to be stopped");
    expect(sent).toBeLessThan(32 * 1024 * 1024);
    socket.destroy();
    await until(() => upstream.received[0]?.goneAt, "the upstream to be told");
    expect(await gateway.audit(key, 1)).toMatchObject([{ outcome: "client_gone", dialect: "openai" }]);
  });

  it("tells a silence as an error, and the call is dropped", async () => {
    upstream.script = (response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write(start("msg_silent") + BLOCK + textDelta("Hel"));
    };
    const key = await gateway.makeKey();
    const text = await (await ask(path, key, "x", { stream: true })).text();
    expect(text).toContain("Hel");
    expect(text).toMatch(path === CHAT ? /data: \{"error":\{.*timeout_error.*\n\n$/ : /event: response\.failed\n/);
    expect(text).not.toContain("[DONE]");
    await until(() => upstream.received.at(-1)?.goneAt, "the call to be dropped");
    const [row] = await gateway.audit(key, 1);
    expect(row).toMatchObject({ outcome: "upstream_cut", error_type: "timeout_error", dialect: "openai" });
  });
});

describe("an upstream that stumbles", () => {
  it("F-03, F-19 before its first event is asked again, for the same; after it, never", async () => {
    const overloaded = { error: { type: "overloaded_error", message: "Overloaded" } };
    const key = await gateway.makeKey({ budget: { usd: 1, period: "total", mode: "strict" } });
    upstream.script = (response, call) => {
      const nth = upstream.received.length;
      if (nth === 3) return answers()(response, call);
      response.writeHead(nth === 1 ? 529 : 200, {
        "content-type": nth === 1 ? "application/json" : "text/event-stream",
      });
      response.end(nth === 1 ? JSON.stringify({ type: "error", ...overloaded }) : event("error", overloaded));
    };
    const response = await ask(RESPONSES, key, "x", { stream: true });
    expect(told(RESPONSES, await response.text(), true).text).toBe(TEXTS.join(""));
    const bodies = new Set(upstream.received.map(({ body }) => body.toString()));
    expect([upstream.received.length, bodies.size]).toEqual([3, 1]);
    upstream.received.length = 0;
    upstream.script = (response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.end(start("msg_late") + event("error", overloaded));
    };
    const late = await (await ask(RESPONSES, key, "x", { stream: true })).text();
    expect(late).toContain("Overloaded");
    expect(upstream.received).toHaveLength(1);
    const rows = await gateway.audit(key, 2);
    expect(rows.map(({ attempts, outcome }) => [attempts, outcome])).toEqual([
      [3, "complete"],
      [1, "error"],
    ]);
    expect(rows[0]).toMatchObject({ cost_micro_usd: COST, estimated: false });
  });
});

it("a stream that can't be read any more ends in an error at once, and its upstream is left", async () => {
  upstream.script = async (response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(`${start("msg_garbled")}${BLOCK}event: content_block_delta\ndata: {"x\n\n`);
    while (!response.destroyed) {
      await pause(50);
      response.write(textDelta("more"));
    }
  };
  const key = await gateway.makeKey();
  const text = await (await ask(CHAT, key, "x", { stream: true })).text();
  expect(text).toMatch(/data: \{"error":[^\n]*\n\n$/);
  expect(text).not.toContain("more");
  await until(() => upstream.received.at(-1)?.goneAt, "the upstream to be left");
  expect(await gateway.audit(key, 1)).toMatchObject([{ dialect: "openai", estimated: true }]);
});

describe("a client that leaves (B-06)", () => {
  const WHOLE = wholeStream("msg_leave");
  const HEAD = start("msg_leave").length;
  const limits = { concurrent_requests: 40 };
  const budget = { usd: 100, period: "total", mode: "strict" };
  const left = new Set<string>();

  /** So many bytes, then silence until the client has left, then the rest a bit at a time. */
  const script =
    (cancels: boolean): ScriptedUpstream["script"] =>
    async (response, { body }) => {
      const [, n = "", at = ""] = /leaver-(\d+)-(\d+)/.exec(body.toString()) ?? [];
      const { stream } = askedFor(body);
      if (stream) {
        response.writeHead(200, { "content-type": "text/event-stream" });
        response.write(WHOLE.slice(0, Number(at)));
      }
      while (!left.has(n) && !response.destroyed) await pause(5);
      if (!stream) {
        await pause(100);
        return void response.setHeader("content-type", "application/json").end(wholeMessage("msg_leave"));
      }
      // One that is to be stopped has no end of its own.
      while (cancels && !response.destroyed) {
        await pause(20);
        response.write(event("ping"));
      }
      for (let from = Number(at); from < WHOLE.length && !response.destroyed; from += 300) {
        await pause(20);
        response.write(WHOLE.slice(from, from + 300));
      }
      response.end();
    };

  /** Leaves when the upstream has said so much and something of it has come, or at 0 before anything has. */
  function leave(path: Path, key: Key, n: number, at: number, stream: boolean): Promise<void> {
    return new Promise((done) => {
      const headers = { authorization: `Bearer ${key.key}`, "content-type": "application/json" };
      const call = request(`${gateway.url}${path}`, { method: "POST", headers, agent: false });
      const go = (): void => {
        call.socket?.resetAndDestroy();
        left.add(String(n));
        done();
      };
      call.on("error", () => {});
      call.on("response", (response) => response.on("error", () => {}).once("data", at > 0 ? go : () => {}));
      call.end(bodyOf(path, `leaver-${n}-${at}-`, { stream }));
      if (at > 0) return;
      void until(() => upstream.received.some(({ body }) => body.includes(`leaver-${n}-`)) || undefined, "it").then(go);
    });
  }

  it.each(["cancel", "drain"] as const)(
    "at random moments, with %s, is settled once and right",
    async (on_disconnect) => {
      left.clear();
      upstream.script = script(on_disconnect === "cancel");
      const key = await gateway.makeKey({ on_disconnect, limits, budget });
      const offsets = fc.sample(fc.integer({ min: HEAD, max: WHOLE.length - end().length }), 20);
      const streamed = offsets.map((at, n) => leave(PATHS[n % 2] ?? CHAT, key, n, at, true));
      const unheard = [0, 1, 2, 3, 4, 5, 6, 7].map((n) => leave(PATHS[n % 2] ?? CHAT, key, 100 + n, 0, n < 4));
      await Promise.all([...streamed, ...unheard]);
      const rows = await gateway.audit(key, 28);
      expect(new Set(rows.map(({ request_id }) => request_id)).size).toBe(28);
      for (const row of rows) {
        expect(row.dialect).toBe("openai");
        if (on_disconnect === "drain") {
          expect(row).toMatchObject({ ...USAGE, cost_micro_usd: COST, estimated: false });
        } else if (row.model === MODEL) {
          const output = Number(row.output_tokens);
          expect(row).toMatchObject({ input_tokens: 25, cache_read_input_tokens: 40, cost_micro_usd: costOf(output) });
          expect(output).toBeGreaterThanOrEqual(1);
          expect(output).toBeLessThanOrEqual(MAX_TOKENS);
        }
        if (on_disconnect === "cancel") expect(row).toMatchObject({ outcome: "client_gone", estimated: true });
      }
      const stopped = upstream.received.filter(({ goneAt, body }) => goneAt !== undefined && askedFor(body).stream);
      expect(stopped).toHaveLength(on_disconnect === "cancel" ? 24 : 0);
      const standing = await gateway.settled(key);
      expect(standing.left.concurrent_requests).toEqual({ running: 0, remaining: 40 });
      const spent = rows.reduce((sum, row) => sum + Number(row.cost_micro_usd), 0);
      expect(standing.budget).toMatchObject({ spent_micro_usd: spent, reserved_micro_usd: 0 });
      expect(await gateway.usage(`key=${key.id}`)).toMatchObject({ unreported: 0, cost_micro_usd: spent });
    },
  );
});

describe("an answer for several", () => {
  const idempotent = (key: string, more: object = {}): Options => ({ headers: { "idempotency-key": key }, ...more });

  it.each(PATHS)("I-02 who comes while a stream runs is told all of it, as it is made (%s)", async (path) => {
    const go = Promise.withResolvers<void>();
    upstream.script = async (response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write(start("msg_live") + BLOCK + textDelta("so far"));
      await go.promise;
      response.end(textDelta(", all") + stop(0) + end());
    };
    const key = await gateway.makeKey({ budget: { usd: 1, period: "total", mode: "strict" } });
    const first = ask(path, key, "x", idempotent("live", { stream: true }));
    await until(() => upstream.received.length === 1 || undefined, "the run");
    const second = await ask(path, key, "x", idempotent("live", { stream: true }));
    const reader = second.body?.pipeThrough(new TextDecoderStream()).getReader();
    let seen = "";
    while (!seen.includes("so far")) seen += (await reader?.read())?.value ?? "";
    go.resolve();
    for (let piece = await reader?.read(); piece && !piece.done; piece = await reader?.read()) seen += piece.value;
    expect(second.headers.get("idempotent-replayed")).toBe("true");
    expect(await (await first).text()).toBe(seen);
    expect(told(path, seen, true).text).toBe("so far, all");
    expect(upstream.received).toHaveLength(1);
    expect((await gateway.settled(key)).budget?.spent_micro_usd).toBe(COST);
    const rows = await gateway.rows(key, 2, path);
    expect(rows.map(({ replayed }) => replayed).sort()).toEqual([false, true]);
  });

  it("I-01 with thinking that is sealed is replayed byte by byte; I-03 by the other route it is another call", async () => {
    const thought = [
      block(0, { type: "thinking", thinking: "", signature: "" }),
      delta(0, { type: "thinking_delta", thinking: "hm" }),
      delta(0, { type: "signature_delta", signature: "sig" }),
      stop(0) + BLOCK.replace('"index":0', '"index":1'),
      textDelta("ok").replace('"index":0', '"index":1'),
    ].join("");
    upstream.script = (response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.end(start("msg_sealed") + thought + stop(1) + end());
    };
    const key = await gateway.makeKey();
    const more = {
      include: ["reasoning.encrypted_content"],
      reasoning: { effort: "high", summary: "auto" },
      store: false,
    };
    const call = idempotent("sealed", { stream: true, more });
    const first = await (await ask(RESPONSES, key, "x", call)).text();
    expect(first).toContain("slc1.");
    const again = await ask(RESPONSES, key, "x", call);
    expect([again.headers.get("idempotent-replayed"), await again.text()]).toEqual(["true", first]);
    const elsewhere = await fetch(`${gateway.url}${CHAT}`, {
      method: "POST",
      headers: { authorization: `Bearer ${key.key}`, "content-type": "application/json", "idempotency-key": "sealed" },
      body: bodyOf(RESPONSES, "x", { stream: true, more }),
    });
    expect(elsewhere.status).toBe(422);
    expect(await elsewhere.json()).toEqual({
      error: { message: expect.any(String), type: "invalid_request_error", param: null, code: null },
    });
    expect(upstream.received).toHaveLength(1);
  });

  it("C-02 from the cache is told to each in its own form: a route, a stream, an alias; and never a wrong one", async () => {
    const key = await gateway.makeKey({ workspace: "ws_openai", aliases: { mine: MODEL } });
    const ttl = { "x-sluice-cache": "ttl=60" };
    const of = async (path: Path, question: string, stream: boolean, more: object = {}, headers = ttl) => {
      const response = await ask(path, key, question, { stream, headers, more });
      const bytes = await response.text();
      return { cache: response.headers.get("x-sluice-cache"), bytes, ...told(path, bytes, stream) };
    };
    const seen = new Set<string>();
    for (const question of ["one", "two"]) {
      for (const stream of [false, true]) {
        const made: string[] = [];
        for (const path of PATHS) {
          const first = await of(path, question, stream);
          for (const more of [{}, { model: "mine" }, { model: "opus" }]) {
            const again = await of(path, question, stream, more);
            expect([again.cache, again.bytes]).toEqual(["hit", first.bytes]);
          }
          const object = path === RESPONSES ? "response" : `chat.completion${stream ? ".chunk" : ""}`;
          expect(first).toMatchObject({ text: TEXTS.join(""), object });
          made.push(first.id.replace(/^[a-z]+[-_]/, ""));
        }
        // Both ask the same of the upstream; no other call of these does.
        expect(new Set(made).size).toBe(1);
        expect(seen.has(made[0] ?? "")).toBe(false);
        seen.add(made[0] ?? "");
      }
    }
    expect(upstream.received).toHaveLength(4);
    for (const more of [{ model: "sonnet" }, { model: "opus(low)" }, { stop: ["x"] }]) {
      expect([more, (await of(CHAT, "one", false, more)).cache]).toEqual([more, "miss"]);
    }
    expect((await of(CHAT, "one", false, {}, { "x-sluice-cache": "bypass" })).cache).toBe("bypass");
    expect((await gateway.admin("workspaces/ws_openai/cache/purge", { method: "POST" })).status).toBe(200);
    await until(async () => (await of(CHAT, "one", false)).cache === "miss" || undefined, "the purge");
    const narrow = await gateway.makeKey({ workspace: "ws_openai", models: ["claude-haiku-4-5"] });
    expect((await ask(CHAT, narrow, "one", { headers: ttl })).status).toBe(403);
  });
});

describe("a call's life in the gateway", () => {
  it("Q-01 waits for its turn where all slots are taken, on either route", async () => {
    let running = 0;
    let peak = 0;
    upstream.script = async (response, call) => {
      peak = Math.max(peak, ++running);
      await pause(60);
      running--;
      await answers()(response, call);
    };
    const key = await gateway.makeKey({ limits: { concurrent_requests: 2 } });
    const calls = Array.from({ length: 10 }, (_, n) => ask(PATHS[n % 2] ?? CHAT, key, `${n}`, { stream: n % 3 === 0 }));
    const statuses = await Promise.all(
      calls.map(async (call) => [(await call).status, (await (await call).text()) !== ""]),
    );
    expect(statuses).toEqual(Array(10).fill([200, true]));
    expect(peak).toBe(2);
  });

  it("A-07 a stream of responses fails when its key is revoked with cut", async () => {
    upstream.script = async (response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write(start("msg_cut") + BLOCK);
      while (!response.destroyed) {
        response.write(textDelta("more "));
        await pause(10);
      }
    };
    const key = await gateway.makeKey({ on_revoke: "cut" });
    const response = await ask(RESPONSES, key, "x", { stream: true });
    await gateway.admin(`keys/${key.id}`, { method: "DELETE" });
    const last = [...(await response.text()).matchAll(/^data: (.*)$/gm)].at(-1)?.[1] ?? "";
    expect(JSON.parse(last)).toMatchObject({ type: "response.failed", response: { status: "failed" } });
    await until(() => upstream.received.at(-1)?.goneAt, "the upstream to be left");
  });

  it("L-06 is counted by its route in the metrics, and in the usage", async () => {
    const key = await gateway.makeKey();
    for (const path of PATHS) await (await ask(path, key, "x")).text();
    await (await ask(CHAT, key, "x", { more: { n: 2 } })).text();
    const rows = await gateway.audit(key, 3);
    expect(rows.map(({ route, status }) => `${route} ${status}`)).toEqual([
      `${CHAT} 200`,
      `${RESPONSES} 200`,
      `${CHAT} 400`,
    ]);
    expect(await gateway.usage(`key=${key.id}`)).toMatchObject({ requests: 3, cost_micro_usd: 2 * COST });
    const reader = await gateway.makeKey({ scopes: ["metrics"] });
    const headers = { authorization: `Bearer ${reader.key}` };
    await until(async () => {
      const text = await (await fetch(`${gateway.url}/metrics`, { headers })).text();
      return PATHS.every((path) => text.includes(`route="${path}"`)) || undefined;
    }, "the metrics");
  });

  it("L-02 leaves no word of what was said, and no secret, in the log or the audit", async () => {
    const key = await gateway.makeKey({ on_disconnect: "drain" });
    const canary = (n: number): string => `CANARY-${n}-of-the-tests`;
    const said = [
      block(0, { type: "thinking", thinking: "", signature: "" }),
      delta(0, { type: "thinking_delta", thinking: canary(1) }) +
        delta(0, { type: "signature_delta", signature: canary(2) }),
      stop(0) + block(1, { type: "tool_use", id: "toolu_canary", name: "look", input: {} }),
      delta(1, { type: "input_json_delta", partial_json: JSON.stringify({ a: canary(3) }) }) + stop(1),
    ].join("");
    const ends = [
      end("tool_use"),
      event("error", { error: { type: "api_error", message: "Sorry." } }),
      `event: content_block_delta\ndata: {${canary(4)}`,
    ];
    const secrets: string[] = [key.key.split("_").at(-1) ?? key.key, ...[1, 2, 3, 4, 5, 6, 7, 8, 9].map(canary)];
    for (const path of PATHS) {
      for (const ending of ends) {
        upstream.script = (response) => {
          response.writeHead(200, { "content-type": "text/event-stream" });
          response.end(start("msg_canary") + said + ending);
        };
        const look = { name: "look", description: canary(5), parameters: { type: "object", properties: {} } };
        const tools = path === CHAT ? [{ type: "function", function: look }] : [{ type: "function", ...look }];
        const more = { tools, user: canary(6), metadata: { a: canary(7) }, reasoning_effort: "high" };
        const text = await (await ask(path, key, canary(8), { stream: true, more })).text();
        const sealed = /slc1\.[\w+/=]+/.exec(text)?.[0];
        if (sealed) secrets.push(sealed);
      }
      for (const bad of [
        { temperature: canary(9) },
        { tools: canary(9) },
        { model: canary(9) },
        { stop: { a: canary(9) } },
      ]) {
        expect((await ask(path, key, canary(8), { more: bad })).status).toBeLessThan(500);
      }
      const rest = await fetch(`${gateway.url}${path}`, {
        method: "POST",
        headers: { authorization: `Bearer ${key.key}`, "content-type": "application/json" },
        body: `{"model":"${MODEL}","messages":[{"role":"user","content":"${canary(8)}"`,
      });
      expect(rest.status).toBe(400);
    }
    await gateway.audit(key, 16);
    const rows = await (await gateway.admin(`audit.ndjson?key=${key.id}`)).text();
    const log = gateway.log();
    for (const secret of secrets) {
      expect([secret, rows.includes(secret), log.includes(secret)]).toEqual([secret, false, false]);
    }
    expect(log).toContain(key.id);
  });

  it("goes on while D1 is away; over a kill -9 what was kept is replayed, and what ran is held against the budget", async () => {
    const key = await gateway.makeKey({ budget: { usd: 1, period: "total", mode: "strict" } });
    const rename = async (from: string, to: string): Promise<void> => {
      const db = await gateway.worker.miniflare.getD1Database("DB");
      await db.prepare(`ALTER TABLE ${from} RENAME TO ${to}`).run();
    };
    const kept = (path: Path, stream: boolean): Promise<Response> =>
      ask(path, key, "kept", { stream, headers: { "idempotency-key": `kept ${path} ${stream}` } });
    const ways = PATHS.flatMap((path) => [false, true].map((stream) => [path, stream] as const));
    await rename("audit", "audit_away");
    const first: string[] = [];
    for (const [path, stream] of ways) first.push(await (await kept(path, stream)).text());
    upstream.script = (response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write(start("msg_killed") + BLOCK + textDelta("Hel"));
    };
    const cut = PATHS.map(async (path) => {
      const response = await ask(path, key, "x", { stream: true });
      return response.text().catch(() => "broken");
    });
    await until(() => upstream.received.length === ways.length + 2 || undefined, "the calls");
    await pause(400);
    await gateway.kill();
    for (const text of await Promise.all(cut)) expect(text).not.toMatch(/\[DONE\]|response\.completed/);
    gateway = await startGateway(upstream.url, { bindings, stateDir });
    upstream.received.length = 0;
    for (const [at, [path, stream]] of ways.entries()) {
      const again = await kept(path, stream);
      expect([again.headers.get("idempotent-replayed"), await again.text()]).toEqual(["true", first[at]]);
    }
    expect(upstream.received).toHaveLength(0);
    const { budget } = await gateway.standing(key);
    expect(budget?.spent_micro_usd).toBe(ways.length * COST);
    expect(budget?.reserved_micro_usd).toBeGreaterThanOrEqual(2 * COST);
    await rename("audit_away", "audit");
    const rows = (await gateway.audit(key, 2 * ways.length)).filter(({ route }) => route !== "/v1/key");
    expect(rows).toHaveLength(2 * ways.length);
    for (const row of rows) expect(row).toMatchObject({ dialect: "openai", outcome: "complete" });
  });
});
