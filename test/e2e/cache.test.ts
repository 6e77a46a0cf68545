/** The response cache on the real bundle: who gets an answer that another call has paid for, and who never does. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { type Gateway, type Key, startFleet, startGateway, until, withKey } from "../support/gateway.ts";
import { pause, type ScriptedUpstream, sendInPieces, startScriptedUpstream } from "../support/scripted-upstream.ts";

const fixture = (name: string): Buffer => readFileSync(join(import.meta.dirname, "../fixtures/anthropic", name));
const MESSAGE = fixture("text-basic.message.json");
const STREAM = fixture("text-basic.sse");
const TTL = { "x-sluice-cache": "ttl=300" };

let upstream: ScriptedUpstream;
let gateway: Gateway;
let key: Key;

beforeAll(async () => {
  upstream = await startScriptedUpstream();
  gateway = await startGateway(upstream.url, { bindings: { MAX_ATTEMPTS: "1" } });
  key = await gateway.makeKey();
});
afterAll(async () => {
  await gateway?.stop();
  await upstream?.stop();
});

/** Bodies that no test before has sent. */
let made = 0;
const body = (more: object = {}) => ({
  model: "claude-opus-5-5",
  max_tokens: 100,
  messages: [{ role: "user", content: `question ${++made}` }],
  ...more,
});

const post = (
  sent: unknown,
  headers: Record<string, string> = TTL,
  as = key,
  init: RequestInit & { path?: string; at?: string } = {},
) =>
  fetch(`${init.at ?? gateway.url}${init.path ?? "/v1/messages"}`, {
    method: "POST",
    headers: withKey(as, headers),
    body: typeof sent === "string" ? sent : JSON.stringify(sent),
    ...init,
  });

/** What became of a call, with its whole answer. */
async function answer(response: Promise<Response>) {
  const { status, headers } = await response;
  const bytes = Buffer.from(await (await response).arrayBuffer());
  return { status, headers, bytes, text: bytes.toString(), cache: headers.get("x-sluice-cache") };
}
const ask = (...call: Parameters<typeof post>) => answer(post(...call));

const asks = (): number => upstream.received.length;
const replies = (bytes: Uint8Array | string, status = 200) => {
  upstream.script = (response) => void response.writeHead(status, { "content-type": "application/json" }).end(bytes);
};
const streams = (bytes: Uint8Array) => {
  upstream.script = (response) => sendInPieces(response, bytes, 64);
};

beforeEach(() => {
  upstream.received.length = 0;
  replies(MESSAGE);
});

describe("an answer that is kept", () => {
  it("C-07 is given again as it is: cost 0, no tokens, a request id of its own", async () => {
    const fresh = await gateway.makeKey({ workspace: "ws_c07" });
    const sent = body();
    const first = await ask(sent, TTL, fresh);
    const second = await ask(sent, TTL, fresh);
    expect([first.status, first.cache, first.headers.get("age")]).toEqual([200, "miss", null]);
    expect([second.status, second.cache]).toEqual([200, "hit"]);
    expect(Number(second.headers.get("age"))).toBeGreaterThanOrEqual(0);
    expect(second.headers.get("age")).toMatch(/^\d$/);
    expect(second.bytes.equals(MESSAGE)).toBe(true);
    expect(second.headers.get("content-type")).toBe(first.headers.get("content-type"));
    expect(second.headers.get("x-sluice-request-id")).not.toBe(first.headers.get("x-sluice-request-id"));
    expect(asks()).toBe(1);
    const [miss, hit] = await gateway.audit(fresh, 2);
    expect(miss).toMatchObject({ cache: "miss", status: 200, outcome: "complete", attempts: 1 });
    expect(miss?.input_tokens).toBeGreaterThan(0);
    expect(miss?.cost_micro_usd).toBeGreaterThan(0);
    expect(hit).toMatchObject({ cache: "hit", status: 200, outcome: "complete", attempts: 0, cost_micro_usd: 0 });
    expect(hit).toMatchObject({ input_tokens: 0, output_tokens: 0, cache_read_input_tokens: 0, estimated: false });
    expect(hit?.request_id).toBe(second.headers.get("x-sluice-request-id"));
    const sums = await gateway.usage(`group_by=key&key=${fresh.id}`);
    expect(sums).toMatchObject({ requests: 2, cost_micro_usd: miss?.cost_micro_usd, input_tokens: miss?.input_tokens });
  });

  it("is a stream where it was one, byte for byte, whatever its events", async () => {
    for (const name of [
      "text-basic.sse",
      "tool-use.sse",
      "thinking.sse",
      "max-tokens.sse",
      "stop-sequence.sse",
      "unicode.sse",
    ]) {
      const bytes = fixture(name);
      streams(bytes);
      const sent = body({ stream: true });
      const first = await ask(sent);
      const second = await ask(sent);
      expect([name, first.cache, second.cache]).toEqual([name, "miss", "hit"]);
      expect([name, first.bytes.equals(bytes), second.bytes.equals(bytes)]).toEqual([name, true, true]);
      expect(second.headers.get("content-type")).toBe("text/event-stream; charset=utf-8");
    }
    expect(asks()).toBe(6);
  });

  it("C-04 is found whatever the order, the space and the spelling", async () => {
    const sent = '{"model":"claude-opus-5-5","max_tokens":100,"messages":[{"role":"user","content":"spelled é"}]}';
    const same =
      '{ "messages":[{"content":"spelled \\u00e9", "role":"user"}],\n"max_tokens":1e2,"model":"claude-\\u006fpus-5-5" }';
    expect((await ask(sent)).cache).toBe("miss");
    expect((await ask(same)).cache).toBe("hit");
    expect((await ask(sent.replace("é", "e\u0301"))).cache).toBe("miss");
    expect((await ask(sent, { ...TTL, "x-stainless-retry-count": "1", "user-agent": "another" })).cache).toBe("hit");
  });

  it("C-02 is for the same call alone: another version, beta, query, model, form or field is another one", async () => {
    const base = body();
    const calls: readonly Parameters<typeof post>[] = [
      [base],
      [base, { ...TTL, "anthropic-version": "2026-10-21" }],
      [base, { ...TTL, "anthropic-beta": "a-2026" }],
      [base, { ...TTL, "anthropic-beta": "b-2026" }],
      [base, { ...TTL, "anthropic-of-tomorrow": "1" }],
      [base, TTL, key, { path: "/v1/messages?beta=true" }],
      [{ ...base, model: "claude-opus-latest" }],
      [{ ...base, stream: true }],
      [{ ...base, temperature: 0 }],
      [{ ...base, metadata: { user_id: "u" } }],
      [{ ...base, "not known yet": true }],
      [{ ...base, messages: [...base.messages, { role: "assistant", content: "And" }] }],
    ];
    for (const call of calls) {
      if ((call[0] as { stream?: boolean }).stream) streams(STREAM);
      else replies(MESSAGE);
      expect((await ask(...call)).cache).toBe("miss");
    }
    expect(asks()).toBe(calls.length);
    for (const call of calls) {
      const again = await ask(...call);
      expect(again.cache).toBe("hit");
      expect(again.bytes.equals((call[0] as { stream?: boolean }).stream ? STREAM : MESSAGE)).toBe(true);
    }
    expect(asks()).toBe(calls.length);
  });

  it("PAINS 20 is for its workspace alone, and there for all its keys", async () => {
    const [red, other, blue] = await Promise.all(
      ["ws_red", "ws_red", "ws_blue"].map((workspace) => gateway.makeKey({ workspace })),
    );
    if (!red || !other || !blue) throw new Error("no keys");
    const sent = body();
    expect((await ask(sent, TTL, red)).cache).toBe("miss");
    expect((await ask(sent, TTL, other)).cache).toBe("hit");
    expect((await ask(sent, TTL, blue)).cache).toBe("miss");
    expect(asks()).toBe(2);
  });

  it("is for nobody who may not ask for it", async () => {
    const narrow = await gateway.makeKey({ models: ["claude-haiku-*"] });
    const scopeless = await gateway.makeKey({ scopes: ["templates:read"] });
    const revoked = await gateway.makeKey();
    const sent = body();
    expect((await ask(sent, TTL, revoked)).cache).toBe("miss");
    expect((await ask(sent, TTL, revoked)).cache).toBe("hit");
    await gateway.admin(`keys/${revoked.id}`, { method: "DELETE" });
    await until(async () => (await ask(sent, TTL, revoked)).status === 401, "the revocation", 3_000);
    for (const as of [narrow, scopeless]) expect((await ask(sent, TTL, as)).status).toBe(403);
    expect((await ask(sent, TTL, { ...key, key: `${key.key}x` })).status).toBe(401);
    expect(asks()).toBe(1);
  });

  it("C-07 counts against the limit of requests, and against no budget", async () => {
    const sent = body();
    await ask(sent);
    const limited = await gateway.makeKey({ limits: { requests_per_minute: 2 } });
    const got = [];
    for (let i = 0; i < 3; i++) got.push((await ask(sent, TTL, limited)).status);
    expect(got).toEqual([200, 200, 429]);
    const poor = await gateway.makeKey({
      budget: { usd: 0.000001, period: "day" },
      limits: { input_tokens_per_minute: 1 },
    });
    expect(await ask(sent, TTL, poor)).toMatchObject({ status: 200, cache: "hit" });
    expect((await ask(body(), TTL, poor)).status).toBe(429);
    expect(asks()).toBe(1);
    expect((await gateway.settled(poor)).budget).toMatchObject({ spent_micro_usd: 0, reserved_micro_usd: 0 });
  });

  it("expires", async () => {
    const sent = body();
    const short = { "x-sluice-cache": "ttl=2" };
    expect((await ask(sent, short)).cache).toBe("miss");
    expect((await ask(sent, short)).cache).toBe("hit");
    await pause(2_100);
    expect((await ask(sent, short)).cache).toBe("miss");
    expect(asks()).toBe(2);
  });

  it("is too old for a call that says so, and made anew for all by it", async () => {
    const sent = body();
    await ask(sent);
    await pause(1_100);
    const aged = await ask(sent);
    expect([aged.cache, Number(aged.headers.get("age")) >= 1]).toEqual(["hit", true]);
    expect((await ask(sent, { "x-sluice-cache": "ttl=1" })).cache).toBe("miss");
    const fresh = await ask(sent);
    expect([fresh.cache, fresh.headers.get("age")]).toEqual(["hit", "0"]);
    expect(asks()).toBe(2);
  });

  it("is gone for its workspace within two seconds of a purge, and for no other one", async () => {
    const [purged, other] = await Promise.all(
      ["ws_purged", "ws_not_purged"].map((workspace) => gateway.makeKey({ workspace })),
    );
    if (!purged || !other) throw new Error("no keys");
    const sent = body();
    for (const as of [purged, other]) await ask(sent, TTL, as);
    for (const as of [purged, other]) expect((await ask(sent, TTL, as)).cache).toBe("hit");
    const purge = await gateway.admin("workspaces/ws_purged/cache/purge", { method: "POST" });
    expect([purge.status, await purge.json()]).toEqual([200, { workspace: "ws_purged", cache_epoch: 1 }]);
    await pause(2_000);
    expect((await ask(sent, TTL, purged)).cache).toBe("miss");
    expect((await ask(sent, TTL, purged)).cache).toBe("hit");
    expect((await ask(sent, TTL, other)).cache).toBe("hit");
    expect(asks()).toBe(3);
  });
});

describe("opting in", () => {
  it("is a key's or a call's own; without it nothing is kept and nothing is said", async () => {
    const sent = body();
    for (let i = 0; i < 2; i++) expect((await ask(sent, {})).headers.has("x-sluice-cache")).toBe(false);
    expect(asks()).toBe(2);
    const caching = await gateway.makeKey({ cache: { ttl_seconds: 60 } });
    expect((await ask(sent, {}, caching)).cache).toBe("miss");
    expect((await ask(sent, {}, caching)).cache).toBe("hit");
    expect(asks()).toBe(3);
    await gateway.admin(`keys/${caching.id}`, { method: "PATCH", json: { cache: null } });
    await pause(2_000);
    expect((await ask(sent, {}, caching)).cache).toBeNull();
  });

  it("C-06 is taken back by the call: nothing is looked up, nothing is kept, and the audit says so", async () => {
    const caching = await gateway.makeKey({ cache: { ttl_seconds: 60 } });
    const sent = body();
    const ways: Record<string, string>[] = [
      { "x-sluice-cache": "bypass" },
      { "x-sluice-cache": "off" },
      { "cache-control": "no-store" },
      { "cache-control": "max-age=0, no-cache" },
      { "cache-control": "no-cache", ...TTL },
    ];
    for (const headers of ways) expect((await ask(sent, headers, caching)).cache).toBe("bypass");
    expect((await ask(sent, {}, caching)).cache).toBe("miss");
    for (const headers of ways) expect((await ask(sent, headers, caching)).cache).toBe("bypass");
    expect(asks()).toBe(2 * ways.length + 1);
    const rows = await gateway.audit(caching, 2 * ways.length + 1);
    expect(rows.map((row) => row.cache)).toEqual([...ways.map(() => "bypass"), "miss", ...ways.map(() => "bypass")]);
    for (const row of rows) expect(row.cost_micro_usd).toBeGreaterThan(0);
  });

  it.each(["ttl=0", "ttl=86401", "ttl=x", "yes", ""])("refuses x-sluice-cache: %s", async (value) => {
    const { status, text } = await ask(body(), { "x-sluice-cache": value });
    expect(status).toBe(400);
    expect(JSON.parse(text).error.message).toMatch(/^x-sluice-cache: /);
    expect(asks()).toBe(0);
  });

  it("does not reach the upstream, and the upstream's word for it does not reach the client", async () => {
    upstream.script = (response) =>
      void response.writeHead(200, { "content-type": "application/json", "x-sluice-cache": "theirs" }).end(MESSAGE);
    expect((await ask(body())).cache).toBe("miss");
    expect((await ask(body(), {})).cache).toBeNull();
    for (const { headers } of upstream.received) expect(headers.map(([name]) => name)).not.toContain("x-sluice-cache");
  });

  it("is passed by where an answer is not to be shared: with an idempotency key, or a stream that a revocation cuts", async () => {
    const cutting = await gateway.makeKey({ on_revoke: "cut", cache: { ttl_seconds: 60 } });
    const sent = body();
    const other = body({ stream: true });
    for (let i = 0; i < 2; i++) {
      expect((await ask(sent, { ...TTL, "idempotency-key": `key ${i}` })).cache).toBe("bypass");
      streams(STREAM);
      expect((await ask(other, {}, cutting)).cache).toBe("bypass");
      replies(MESSAGE);
    }
    expect(asks()).toBe(4);
    expect((await ask(sent, {}, cutting)).cache).toBe("miss");
  });

  it("is no use for calls that rest on more than they say", async () => {
    const sent = [
      { container: "container_1" },
      { tools: [{ type: "web_search_20250305", name: "web_search" }] },
      { mcp_servers: [{ type: "url", url: "https://x", name: "x" }] },
      { max_tokens: 0 },
      { messages: [{ role: "user", content: [{ type: "image", source: { type: "url", url: "https://x" } }] }] },
    ].map(body);
    const twice = '{"model":"claude-opus-5-5","max_tokens":9,"temperature":0,"temperature":1,"messages":[]}';
    for (const call of [...sent, twice]) {
      for (let i = 0; i < 2; i++) expect((await ask(call)).cache).toBe("bypass");
    }
    expect(asks()).toBe(2 * (sent.length + 1));
    replies('{"input_tokens":7}');
    const counted = await ask(sent[0], TTL, key, { path: "/v1/messages/count_tokens" });
    expect([counted.status, counted.cache]).toEqual([200, "bypass"]);
  });
});

describe("an answer that is not whole", () => {
  const cut = STREAM.subarray(0, STREAM.length - 60);
  const cases: readonly (readonly [string, object, () => void])[] = [
    [
      "a client error",
      {},
      () => replies('{"type":"error","error":{"type":"invalid_request_error","message":"no"}}', 400),
    ],
    ["an overload", {}, () => replies('{"type":"error","error":{"type":"overloaded_error","message":"no"}}', 529)],
    ["a refusal", {}, () => replies(fixture("refusal.message.json"))],
    ["a streamed refusal", { stream: true }, () => streams(fixture("refusal.sse"))],
    ["a pause", { stream: true }, () => streams(fixture("pause-turn.sse"))],
    ["an error event", { stream: true }, () => streams(fixture("error-mid-text.sse"))],
    ["a cut stream", { stream: true }, () => streams(cut)],
    ["no Message", {}, () => replies("{}")],
    [
      "a broken connection",
      { stream: true },
      () => {
        upstream.script = (response) => {
          response.writeHead(200, { "content-type": "text/event-stream" });
          response.write(cut, () => response.socket.destroy());
        };
      },
    ],
  ];
  it.each(cases)("is not kept: %s", async (_, more, script) => {
    script();
    const sent = body(more);
    expect((await ask(sent)).cache).toBe("miss");
    expect(asks()).toBe(1);
    expect((await ask(sent)).cache).toBe("miss");
    expect(asks()).toBe(2);
    // The next good one is.
    if ("stream" in more) streams(STREAM);
    else replies(MESSAGE);
    expect(await ask(sent)).toMatchObject({ status: 200, cache: "miss" });
    expect(await ask(sent)).toMatchObject({ status: 200, cache: "hit" });
    expect(asks()).toBe(3);
  });
});

describe("C-08 many at once", () => {
  it.each([
    ["a stream", { stream: true }, STREAM],
    ["JSON", {}, MESSAGE],
  ] as const)("50 calls for %s make one, and each gets all of it", async (_, more, bytes) => {
    upstream.script = async (response) => {
      await pause(400);
      if ("stream" in more) return sendInPieces(response, bytes, 32);
      response.writeHead(200, { "content-type": "application/json" }).end(bytes);
    };
    const crowd = await gateway.makeKey({ workspace: "ws_crowd" });
    const sent = body(more);
    const got = await Promise.all(Array.from({ length: 50 }, () => ask(sent, TTL, crowd)));
    for (const one of got) expect([one.status, one.bytes.equals(bytes)]).toEqual([200, true]);
    expect(got.map((one) => one.cache).sort()).toEqual([...Array.from({ length: 49 }, () => "hit"), "miss"]);
    expect(asks()).toBe(1);
    const rows = await gateway.audit(crowd, 50);
    expect(rows.filter((row) => row.cost_micro_usd !== 0)).toHaveLength(1);
    expect(rows.filter((row) => row.cache === "hit")).toHaveLength(49);
  });

  it.each([
    ["before the answer begins", 0],
    ["in the middle of it", STREAM.indexOf("\n\n") + 2],
  ])("the first one's leaving %s harms nobody, and its answer is kept", async (_, sentBytes) => {
    const gate = Promise.withResolvers<void>();
    upstream.script = async (response) => {
      response.writeHead(200, { "content-type": "text/event-stream; charset=utf-8" });
      if (sentBytes > 0) response.write(STREAM.subarray(0, sentBytes));
      await gate.promise;
      for (let at = sentBytes; at < STREAM.length; at += 200) {
        response.write(STREAM.subarray(at, at + 200));
        await pause(30);
      }
      response.end();
    };
    const leaver = await gateway.makeKey();
    const sent = body({ stream: true });
    const leave = new AbortController();
    const first = post(sent, TTL, leaver, { signal: leave.signal }).catch(() => null);
    await until(() => asks() === 1, "the upstream to be asked");
    const others = Array.from({ length: 5 }, () => ask(sent));
    if (sentBytes > 0) await (await first)?.body?.getReader().read();
    await pause(200);
    leave.abort();
    await first;
    await pause(200);
    expect(upstream.received[0]?.goneAt).toBeUndefined();
    gate.resolve();
    for (const one of await Promise.all(others)) {
      expect([one.status, one.cache, one.bytes.equals(STREAM)]).toEqual([200, "hit", true]);
    }
    expect((await ask(sent)).cache).toBe("hit");
    expect(asks()).toBe(1);
    const [row] = await gateway.audit(leaver, 1);
    expect(row).toMatchObject({ outcome: "client_gone", cache: "miss", estimated: false });
    expect(row?.cost_micro_usd).toBeGreaterThan(0);
  });

  it("one failure is not multiplied: who waited for it asks once more, one for all", async () => {
    upstream.script = async (response) => {
      await pause(300);
      response.writeHead(529, { "content-type": "application/json" });
      response.end('{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}');
    };
    const sent = body();
    const got = await Promise.all(Array.from({ length: 20 }, () => ask(sent)));
    expect(new Set(got.map((one) => `${one.status} ${one.cache}`))).toEqual(new Set(["529 miss"]));
    expect(asks()).toBeLessThanOrEqual(2);
  });

  it("one failure is nobody else's if the next attempt succeeds", async () => {
    upstream.script = async (response) => {
      const nth = asks();
      await pause(300);
      if (nth === 1) return void response.writeHead(500, { "content-type": "application/json" }).end("{}");
      response.writeHead(200, { "content-type": "application/json" }).end(MESSAGE);
    };
    const sent = body();
    const got = await Promise.all(Array.from({ length: 10 }, () => ask(sent)));
    expect(got.map((one) => one.status).sort()).toEqual([...Array.from({ length: 9 }, () => 200), 500]);
    expect(asks()).toBe(2);
  });
});

describe("in several isolates", () => {
  it("C-08 calls at once make one, and what is kept is found in each; a purge reaches each", async () => {
    const fleet = await startFleet(upstream.url, 2, {
      // Two runtimes that start at once are slow to find each other.
      bindings: { MAX_ATTEMPTS: "1", LEDGER_DEADLINE_MS: "5000" },
    });
    try {
      const [near, far] = fleet.gateways;
      if (!far) throw new Error("no fleet");
      const member = await near.makeKey({ workspace: "ws_fleet" });
      upstream.script = async (response) => {
        await pause(500);
        return sendInPieces(response, STREAM, 32);
      };
      const sent = body({ stream: true });
      const askAt = (url: string) => answer(post(sent, TTL, member, { at: url }));
      const both = [near.url, far.url];
      const got = await Promise.all(Array.from({ length: 20 }, (_, i) => askAt(both[i % 2] ?? "")));
      for (const one of got) expect([one.status, one.bytes.equals(STREAM)]).toEqual([200, true]);
      expect(got.filter((one) => one.cache === "miss")).toHaveLength(1);
      for (const url of both) expect((await askAt(url)).cache).toBe("hit");
      expect(asks()).toBe(1);
      await near.admin("workspaces/ws_fleet/cache/purge", { method: "POST" });
      await pause(2_000);
      for (const [i, url] of both.entries()) expect((await askAt(url)).cache).toBe(i === 0 ? "miss" : "hit");
      expect(asks()).toBe(2);
    } finally {
      await fleet.stop();
    }
  });
});
