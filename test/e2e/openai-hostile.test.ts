/** What strangers send to the routes of OpenAI's dialect, on the real bundle (rows of SECURITY: H, K, P, S, D). */
import { afterAll, beforeAll, beforeEach, expect, it } from "vitest";
import { type Gateway, type Key, startGateway, UPSTREAM_KEY, withKey } from "../support/gateway.ts";
import { type ScriptedUpstream, startScriptedUpstream } from "../support/scripted-upstream.ts";

const CANARY = "CANARY-of-a-prompt";
const MB = 1024 * 1024;
const THINKING = { type: "thinking", thinking: "T", signature: "SIGNATURE" };

let upstream: ScriptedUpstream;
let gateway: Gateway;
let alice: Key;
let bob: Key;
beforeAll(async () => {
  upstream = await startScriptedUpstream();
  gateway = await startGateway(upstream.url, { bindings: { MAX_ATTEMPTS: "1" } });
  [alice, bob] = await Promise.all([gateway.makeKey(), gateway.makeKey()]);
});
afterAll(async () => {
  await gateway?.stop();
  await upstream?.stop();
});
let nth = 0;
let content: object[];
beforeEach(() => {
  upstream.received.length = 0;
  content = [{ type: "text", text: "hi" }];
  upstream.script = (response, { target }) => {
    const isCall = target.startsWith("/v1/messages");
    response.writeHead(isCall ? 200 : 404, { "content-type": "application/json" });
    const usage = { input_tokens: 1, output_tokens: 1 };
    const message = { id: `msg_${nth++}`, type: "message", role: "assistant", model: "claude-opus-4-8", usage };
    response.end(JSON.stringify({ ...message, content, stop_reason: "end_turn" }));
  };
});

type Fields = Record<string, unknown>;
async function ask(
  path: string,
  body: Fields | string | null,
  key = alice,
  headers: Record<string, string> = {},
  method = "POST",
) {
  const sent = typeof body === "string" ? body : JSON.stringify(body);
  const response = await fetch(gateway.url + path, {
    method,
    headers: withKey(key, headers),
    ...(body === null ? {} : { body: sent }),
  });
  const text = await response.text();
  expect(text + gateway.log()).not.toContain(UPSTREAM_KEY);
  expect(text + gateway.log()).not.toContain(key.key);
  expect(gateway.log()).not.toContain(CANARY);
  expect(gateway.log()).not.toContain('"level":"error"');
  return { status: response.status, text, headers: response.headers, json: JSON.parse(text || "{}") as Fields };
}
const chat = (more: Fields): Fields => ({
  model: "claude-opus-4-8",
  messages: [{ role: "user", content: CANARY }],
  ...more,
});
const respond = (more: Fields): Fields => ({ model: "claude-opus-4-8", input: CANARY, ...more });
const image = (url: string): Fields =>
  chat({ messages: [{ role: "user", content: [{ type: "image_url", image_url: { url } }] }] });
const calls = () => upstream.received.filter(({ target }) => target.startsWith("/v1/messages"));

it.each([
  "file:///etc/passwd",
  "javascript:alert(1)",
  "ftp://x/y",
  "//host/x",
  "data:text/html;base64,PGI+",
  " http://x",
  "https://",
])("S-01: refuses an image at %s", async (url) => {
  expect(await ask("/v1/chat/completions", image(url))).toMatchObject({ status: 400 });
  expect(calls()).toEqual([]);
});

it("S-01: fetches no address itself, and sends nothing that names another host", async () => {
  const inner = "http://169.254.169.254/latest/meta-data";
  const routes = {
    base_url: inner,
    api_base: inner,
    custom_host: inner,
    endpoint: inner,
    provider_options: { url: inner },
  };
  const headers = { "x-base-url": inner, "x-portkey-custom-host": inner, "x-forwarded-host": "evil" };
  expect(await ask("/v1/chat/completions", { ...image(inner), ...routes }, alice, headers)).toMatchObject({
    status: 200,
  });
  expect(upstream.received).toHaveLength(1);
  const [{ body, headers: sent }] = calls() as [(typeof upstream.received)[number]];
  expect(JSON.parse(body.toString()).messages[0].content[0].source).toEqual({ type: "url", url: inner });
  expect(Object.keys(JSON.parse(body.toString())).filter((name) => name in routes)).toEqual([]);
  expect(JSON.stringify(sent)).not.toContain("169.254");
  expect(JSON.stringify(sent)).not.toContain(alice.key);
});

const NAMES = [
  "__proto__",
  "constructor",
  "toString",
  "hasOwnProperty",
  "CLAUDE-OPUS-4-8",
  "claude-opus-4-8 ",
  "claude‑opus‑4‑8",
  "a\r\nx-evil: 1",
  "../../admin",
  "\u0000",
  "x".repeat(10_000),
];
it.each(NAMES)("K-11: no model is called %j", async (model) => {
  const { status, headers } = await ask("/v1/chat/completions", chat({ model }));
  expect([400, 403, 404]).toContain(status);
  expect(headers.get("x-evil")).toBeNull();
  const one = await ask(`/v1/models/${encodeURIComponent(model.slice(0, 2_000))}`, null, alice, {}, "GET");
  expect([400, 403, 404]).toContain(one.status);
  expect(calls()).toEqual([]);
});

it("takes `__proto__` and `constructor` for names like any other", async () => {
  content = [{ type: "tool_use", id: "toolu_1", name: "__proto__", input: JSON.parse('{"__proto__":{"a":1}}') }];
  const tool = (name: string) =>
    `{"type":"function","function":{"name":"${name}","parameters":{"type":"object","properties":{"__proto__":{"type":"string"}}}}}`;
  const body = `{"model":"claude-opus-4-8","messages":[{"role":"user","content":"x"}],"metadata":{"__proto__":"x","constructor":"y"},
    "tools":[${tool("__proto__")},${tool("constructor")}],"__proto__":{"model":"evil"}}`;
  const { status, json } = await ask("/v1/chat/completions", body);
  expect(status).toBe(200);
  expect(json).toMatchObject({
    choices: [{ message: { tool_calls: [{ function: { name: "__proto__", arguments: '{"__proto__":{"a":1}}' } }] } }],
  });
  expect(calls()[0]?.body.toString()).toContain('"properties":{"__proto__":{"type":"string"}}');
});

it("K-11: a response is its key's alone, whatever is done with its id", async () => {
  const { json } = await ask("/v1/responses", respond({}));
  const id = json.id as string;
  const path = `/v1/responses/${id}`;
  for (const [method, target] of [
    ["GET", path],
    ["GET", `${path}/input_items`],
    ["DELETE", path],
  ] as const) {
    expect(await ask(target, null, bob, {}, method)).toMatchObject({ status: 404 });
  }
  expect(await ask("/v1/responses", respond({ previous_response_id: id }), bob)).toMatchObject({ status: 400 });
  const item = (json.output as { id: string }[])[0]?.id;
  expect(await ask("/v1/responses", respond({ input: [{ type: "item_reference", id: item }] }), bob)).toMatchObject({
    status: 400,
  });
  expect(calls()).toHaveLength(1);
  expect(await ask(path, null, alice, {}, "GET")).toMatchObject({ status: 200 });
});

it.each([
  "..%2F..%2Fadmin",
  "%2e%2e",
  "resp_%00",
  "resp_%0d%0ax-evil:1",
  "__proto__",
  "resp_a%2Fb",
  "resp_'%20OR%201=1",
  "resp_%F0%9F%98%80",
  `resp_${"x".repeat(10_000)}`,
])("P-02: there is no response called %s", async (id) => {
  for (const method of ["GET", "DELETE"]) {
    const { status, headers } = await ask(`/v1/responses/${id}`, null, alice, {}, method);
    expect([400, 404]).toContain(status);
    expect(headers.get("x-evil")).toBeNull();
  }
  const previous = decodeURIComponent(id);
  expect(await ask("/v1/responses", respond({ previous_response_id: previous }))).toMatchObject({ status: 400 });
  expect(upstream.received).toEqual([]);
});

it("opens sealed thinking for its own key alone, and as it was", async () => {
  content = [THINKING, { type: "text", text: "hi" }];
  const { json } = await ask("/v1/responses", respond({ store: false, include: ["reasoning.encrypted_content"] }));
  const sealed = (json.output as { encrypted_content?: string }[])[0]?.encrypted_content ?? "";
  const sentWith = async (data: string, key = alice) => {
    upstream.received.length = 0;
    const input = [
      { role: "user", content: "x" },
      { type: "reasoning", summary: [], encrypted_content: data },
      { role: "assistant", content: "hi" },
      { role: "user", content: "y" },
    ];
    expect(await ask("/v1/responses", respond({ input, store: false }), key)).toMatchObject({ status: 200 });
    return calls()[0]?.body.toString() ?? "";
  };
  expect(await sentWith(sealed)).toContain("SIGNATURE");
  expect(await sentWith(sealed, bob)).not.toContain("SIGNATURE");
  const changed = sealed.slice(0, 40) + (sealed[40] === "A" ? "B" : "A") + sealed.slice(41);
  for (const data of [changed, sealed.slice(0, -8), sealed.slice(0, 20), "slc1.", "slc1.AAAA", `${sealed}AAAA`]) {
    expect(await sentWith(data)).not.toContain("SIGNATURE");
  }
});

it.each(["/v1/chat/completions", "/v1/responses"])("D: %s takes 16 MB, and says so of more", async (path) => {
  const body = (bytes: number) => {
    const text = (fill: string) =>
      JSON.stringify(
        path.endsWith("responses")
          ? respond({ input: fill, store: false })
          : chat({ messages: [{ role: "user", content: fill }] }),
      );
    return text("x".repeat(bytes - text("").length));
  };
  expect(await ask(path, body(16 * MB - 200))).toMatchObject({ status: 200 });
  const refused = await ask(path, body(16 * MB + 1));
  expect(refused).toMatchObject({ status: 413, json: { error: { code: "request_too_large" } } });
  expect(calls()).toHaveLength(1);
});

it("D: tells no whole answer beyond 16 MB", async () => {
  content = [{ type: "text", text: "x".repeat(17 * MB) }];
  const { status, json } = await ask("/v1/chat/completions", chat({}));
  expect(status).toBe(502);
  expect(json).toMatchObject({ error: { type: "server_error" } });
});
