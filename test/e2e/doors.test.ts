/** What comes to the door: credentials, methods, paths, sizes, odd bodies, and raw sockets with worse. */
import { connect } from "node:net";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { ADMIN_TOKEN, type Gateway, type Key, startGateway, until, withKey } from "../support/gateway.ts";
import { type ScriptedUpstream, startScriptedUpstream } from "../support/scripted-upstream.ts";

let upstream: ScriptedUpstream;
let gateway: Gateway;
let key: Key;

beforeAll(async () => {
  upstream = await startScriptedUpstream();
  upstream.script = (response) => void response.setHeader("content-type", "application/json").end('{"data":[]}');
  gateway = await startGateway(upstream.url);
  key = await gateway.makeKey();
});
afterAll(async () => {
  await gateway?.stop();
  await upstream?.stop();
});
beforeEach(() => {
  upstream.received.length = 0;
});

const BODY = '{"model":"claude-opus-5-5","max_tokens":10,"messages":[{"role":"user","content":"x"}]}';
const post = (body: BodyInit, headers: Record<string, string> = {}, path = "/v1/messages") =>
  fetch(`${gateway.url}${path}`, { method: "POST", headers: withKey(key, headers), body });

type ErrorAnswer = { type: string; error: { type: string; message: string }; request_id: string };

/** Checks the shape that every error of our own has, and gives its parts. */
async function refusal(response: Response): Promise<{ status: number; type: string; message: string }> {
  const answer = (await response.json()) as ErrorAnswer;
  expect(answer.type).toBe("error");
  expect(answer.request_id).toMatch(/^req_[0-9a-z]{26}$/);
  expect(response.headers.get("x-sluice-request-id")).toBe(answer.request_id);
  expect(response.headers.get("request-id")).toBe(answer.request_id);
  expect(response.headers.get("content-type")).toBe("application/json");
  return { status: response.status, ...answer.error };
}

/** Sends bytes on a bare socket and gives whatever comes back until it closes. */
function raw(text: string | Buffer): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect(gateway.port, "127.0.0.1");
    let answer = "";
    const timer = setTimeout(() => socket.destroy(), 3000);
    socket.on("data", (piece) => {
      answer += piece.toString("latin1");
    });
    socket.on("error", () => {});
    socket.on("close", () => {
      clearTimeout(timer);
      resolve(answer);
    });
    socket.write(text);
  });
}

describe("credentials", () => {
  const forged = (change: (text: string) => string) => ({ "x-api-key": change(key.key) });
  const cases: Record<string, () => Record<string, string>> = {
    "K-01 none": () => ({}),
    "K-01 empty": () => ({ "x-api-key": "" }),
    "K-01 Bearer without a value": () => ({ authorization: "Bearer" }),
    "K-01 two spaces": () => ({ authorization: `Bearer  ${key.key}` }),
    "K-01 Basic": () => ({ authorization: `Basic ${btoa(key.key)}` }),
    "K-01 10 KB": () => ({ "x-api-key": "x".repeat(10_000) }),
    "K-01 upper case": () => forged((text) => text.toUpperCase()),
    "K-04 wrong tag": () => forged((text) => text.slice(0, -1) + (text.endsWith("0") ? "1" : "0")),
    "K-04 wrong secret": () =>
      forged((text) => text.replace(/-(.)([^-]*)$/, (_, c, rest) => `-${c === "0" ? "1" : "0"}${rest}`)),
    "K-04 another id": () => forged((text) => text.replace(/^sk-sluice-0/, "sk-sluice-1")),
    "H-01 two different ones": () => ({ "x-api-key": "sk-ant-ATTACK", authorization: `Bearer ${key.key}` }),
    "Q-01 SQL": () => ({ "x-api-key": "' OR 1=1--" }),
    "the upstream's kind of key": () => ({ "x-api-key": "sk-ant-api03-xxxx" }),
    "the admin token": () => ({ "x-api-key": ADMIN_TOKEN }),
  };
  it("are refused with one and the same answer for every reason, and nothing is asked", async () => {
    const answers = new Set<string>();
    for (const [name, headers] of Object.entries(cases)) {
      const response = await fetch(`${gateway.url}/v1/messages`, {
        method: "POST",
        headers: { "content-type": "application/json", ...headers() },
        body: BODY,
      });
      expect(response.headers.get("x-should-retry")).toBe("false");
      const { status, type, message } = await refusal(response);
      expect([name, status, type]).toEqual([name, 401, "authentication_error"]);
      answers.add(message);
    }
    expect(answers.size).toBe(1);
    expect(upstream.received).toHaveLength(0);
  });

  it("revoked, expired and rotated keys stop within the two seconds of a lease", async () => {
    const revoked = await gateway.makeKey();
    const rotated = await gateway.makeKey();
    const graced = await gateway.makeKey();
    const expiring = await gateway.makeKey({ expires_at: new Date(Date.now() + 1500).toISOString() });
    const call = async (one: Key) => {
      const response = await fetch(`${gateway.url}/v1/models`, { headers: withKey(one) });
      await response.body?.cancel();
      return response.status;
    };
    for (const one of [revoked, rotated, graced, expiring]) expect(await call(one)).toBe(200);
    expect((await gateway.admin(`keys/${revoked.id}`, { method: "DELETE" })).status).toBe(200);
    const fresh = (await (await gateway.admin(`keys/${rotated.id}/rotate`, { method: "POST" })).json()) as Key;
    const second = (await (
      await gateway.admin(`keys/${graced.id}/rotate`, { json: { grace_seconds: 60 } })
    ).json()) as Key;
    const changedAt = Date.now();
    await until(async () => (await call(revoked)) === 401 || undefined, "the revocation");
    await until(async () => (await call(rotated)) === 401 || undefined, "the rotation");
    expect(Date.now() - changedAt).toBeLessThan(2500);
    expect(await call(fresh)).toBe(200);
    expect(await call(second)).toBe(200);
    expect(await call(graced)).toBe(200);
    await until(async () => (await call(expiring)) === 401 || undefined, "the expiry");
  });
});

describe("scopes and models", () => {
  it("403 names what is missing, and nothing goes upstream", async () => {
    const narrow = await gateway.makeKey({ scopes: ["templates:read"] });
    const one = await gateway.makeKey({ models: ["claude-haiku-4-5"] });
    const as = (who: Key, body: string) =>
      fetch(`${gateway.url}/v1/messages`, { method: "POST", headers: withKey(who), body });
    expect(await refusal(await as(narrow, BODY))).toMatchObject({
      status: 403,
      type: "permission_error",
      message: expect.stringContaining("`messages`"),
    });
    for (const model of [
      "claude-opus-5-5",
      "claude-haiku-4-5 ",
      "Claude-Haiku-4-5",
      "claude-haiku-4-5-latest",
      "ｃlaude-haiku-4-5",
    ]) {
      const answer = await refusal(await as(one, JSON.stringify({ model, max_tokens: 1, messages: [] })));
      expect(answer).toMatchObject({ status: 403, type: "permission_error", message: expect.stringContaining(model) });
    }
    expect((await as(one, '{"model":"claude-haiku-4-5","model":"claude-opus-5-5"}')).status).toBe(400);
    expect((await fetch(`${gateway.url}/v1/models/claude-opus-5-5`, { headers: withKey(one) })).status).toBe(403);
    expect(upstream.received).toHaveLength(0);
    expect((await as(one, JSON.stringify({ model: "claude-haiku-4-5" }))).status).toBe(200);
  });
});

describe("methods and paths", () => {
  it.each([
    ["GET", "/v1/messages", "POST"],
    ["PUT", "/v1/messages", "POST"],
    ["DELETE", "/v1/messages/count_tokens", "POST"],
    ["POST", "/v1/models", "GET, HEAD"],
    ["PATCH", "/admin/audit", "GET, HEAD"],
    ["PUT", "/admin/keys", "POST, GET, HEAD"],
    ["PROPFIND", "/health", "GET, HEAD"],
    ["POST", "/", "GET, HEAD"],
    ["POST", "/console/", "GET, HEAD"],
  ])("%s %s is a 405 that says what is allowed", async (method, path, allow) => {
    const response = await fetch(`${gateway.url}${path}`, { method, headers: withKey(key) });
    expect(response.headers.get("allow")).toBe(allow);
    expect(await refusal(response)).toMatchObject({ status: 405, type: "invalid_request_error" });
  });

  it.each([
    "/v1",
    "/v1/complete",
    "/v1/messages/",
    "/v1/messages/x",
    "/V1/messages",
    "/v1/messages.json",
    "/v2/messages",
    "/admin",
    "/favicon.ico",
  ])("%s is a 404 in our shape", async (path) => {
    expect(await refusal(await post(BODY, {}, path))).toMatchObject({ status: 404, type: "not_found_error" });
  });

  it("paths work with or without /v1 and with doubled slashes", async () => {
    for (const path of ["/v1/messages", "/messages", "//v1//messages", "/v1/messages?beta=true"]) {
      expect((await post(BODY, {}, path)).status).toBe(200);
    }
    expect(new Set(upstream.received.map((request) => request.target.split("?")[0]))).toEqual(
      new Set(["/v1/messages"]),
    );
  });

  it.each([
    "/v1/messages/../../admin/keys",
    "/v1/%2e%2e/admin/keys",
    "/v1/..%2fadmin/keys",
    "/v1/%252e%252e/admin",
    "/v1/messages;x=1",
    "/v1/messages%00",
    "/v1\\messages",
    "/v1/messages%2Fcount_tokens",
  ])("P-01 %s on a bare socket is a 404, and nothing goes upstream", async (path) => {
    const answer = await raw(
      `POST ${path} HTTP/1.1\r\nhost: x\r\nx-api-key: ${key.key}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: ${BODY.length}\r\n\r\n${BODY}`,
    );
    expect(answer).toMatch(/^HTTP\/1\.1 404 /);
    expect(upstream.received).toHaveLength(0);
  });

  it.each(["..%2Fmessages", "a%2Fb", "a%3Fx", "%00", "x".repeat(1000), "%F0%9F%91%8B", "a;b", "%"])(
    "P-02 the model id %.40s is a 400, and nothing goes upstream",
    async (id) => {
      const response = await fetch(`${gateway.url}/v1/models/${id}`, { headers: withKey(key) });
      expect((await refusal(response)).status).toBe(400);
      expect(upstream.received).toHaveLength(0);
    },
  );

  it("HEAD and GET /api/hello answer 200 without a credential", async () => {
    expect((await fetch(`${gateway.url}/api/hello`, { method: "HEAD" })).status).toBe(200);
    expect((await fetch(`${gateway.url}/api/hello`)).status).toBe(200);
  });
});

describe("bodies", () => {
  it.each([
    ["not JSON at all", "hello", "position 0"],
    ["cut off", BODY.slice(0, -1), `position ${BODY.length - 1}`],
    ["empty", "", "the body is empty"],
    ["a raw newline in a string", '{"model":"a\nb"}', "position 11"],
    ["a byte order mark", `\uFEFF${BODY}`, "position 0"],
    ["a list", "[]", "must be a JSON object"],
    ["no model", "{}", "model: Field required"],
    ["N-02 two models", '{"model":"a","\\u006dodel":"b"}', "model: the field occurs more than once"],
    ["N-02 two streams", '{"model":"a","stream":true,"stream":false}', "stream: the field occurs more than once"],
    ["D-13 max_tokens of 1e9", '{"model":"a","max_tokens":1e9}', "max_tokens: must not be above"],
    ["D-13 negative max_tokens", '{"model":"a","max_tokens":-1}', "max_tokens: must be a whole number"],
    ["D-13 10,000 tools", `{"model":"a","tools":[${"{},".repeat(9999)}{}]}`, "tools: more than"],
    ["D-03 nesting of 10,000", `{"model":"a","x":${"[".repeat(10_000)}`, "nesting is too deep"],
    ["D-03 nesting of 1,000,000", "[".repeat(1_000_000), "nesting is too deep"],
  ])("%s is a 400 that says where", async (_name, body, message) => {
    const answer = await refusal(await post(body));
    expect(answer).toMatchObject({ status: 400, type: "invalid_request_error" });
    expect(answer.message).toContain(message);
    expect(upstream.received).toHaveLength(0);
  });

  it("N-04 invalid UTF-8 and UTF-16 are refused, an escaped lone surrogate passes as it is", async () => {
    const bytes = (text: string) => Buffer.from(`{"model":"a","x":"${text}"}`, "latin1");
    expect(await refusal(await post(bytes("\xff")))).toMatchObject({ status: 400 });
    expect(await refusal(await post(Buffer.from(BODY, "utf16le")))).toMatchObject({ status: 400 });
    expect((await post('{"model":"a","x":"\\ud800\\u0000"}')).status).toBe(200);
    expect(upstream.received.at(-1)?.body.toString()).toBe('{"model":"a","x":"\\ud800\\u0000"}');
  });

  it("N-01 prototype keys are just bytes", async () => {
    const body = '{"__proto__":{"isAdmin":true},"constructor":{"prototype":1},"model":"a"}';
    expect((await post(body)).status).toBe(200);
    expect(upstream.received.at(-1)?.body.toString()).toBe(body);
  });

  it.each([
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "",
    "application/json; charset=utf-16",
  ])("content-type %j is a 415", async (type) => {
    expect(await refusal(await post(Buffer.from(BODY), { "content-type": type }))).toMatchObject({ status: 415 });
  });

  it.each(["gzip", "br", "gzip, gzip", "zstd"])("D-05 content-encoding %s is a 415", async (encoding) => {
    expect(await refusal(await post(Buffer.from(BODY), { "content-encoding": encoding }))).toMatchObject({
      status: 415,
    });
  });

  it("D-01 32 MB pass, one byte more is a 413, declared or chunked", async () => {
    const limit = 32 * 1024 * 1024;
    const sized = (size: number) => Buffer.from(`{"model":"a","x":"${"y".repeat(size - 20)}"}`);
    expect(sized(limit)).toHaveLength(limit);
    expect((await post(sized(limit))).status).toBe(200);
    expect(upstream.received.at(-1)?.body).toHaveLength(limit);
    upstream.received.length = 0;
    expect(await refusal(await post(sized(limit + 1)))).toMatchObject({
      status: 413,
      type: "request_too_large",
      message: expect.stringContaining(String(limit)),
    });
    // Without an end in sight: 48 MB, each piece on its own turn of the loop.
    let pieces = 768;
    const chunked = new ReadableStream({
      async pull(controller) {
        await new Promise((done) => setImmediate(done));
        controller.enqueue(new Uint8Array(65_536).fill(0x20));
        if (--pieces === 0) controller.close();
      },
    });
    const endless = fetch(`${gateway.url}/v1/messages`, {
      method: "POST",
      headers: withKey(key),
      body: chunked,
      duplex: "half",
      signal: AbortSignal.timeout(10_000),
    } as RequestInit);
    // The answer comes while the client still sends; some clients see the closed connection first.
    const outcome = await endless.then(
      (response) => response.status,
      () => "closed",
    );
    expect([413, "closed"]).toContain(outcome);
    expect(upstream.received).toHaveLength(0);
  });

  it("D-02 a key's own limit is named", async () => {
    const small = await gateway.makeKey({ limits: { max_request_bytes: 200 } });
    const send = (size: number) =>
      fetch(`${gateway.url}/v1/messages`, {
        method: "POST",
        headers: withKey(small),
        body: `{"model":"a","x":"${"y".repeat(size - 20)}"}`,
      });
    expect((await send(200)).status).toBe(200);
    expect(await refusal(await send(201))).toMatchObject({
      status: 413,
      message: expect.stringContaining("200 bytes"),
    });
  });
});

describe("bare sockets", () => {
  const head = () =>
    `POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: ${key.key}\r\ncontent-type: application/json\r\n`;
  it.each([
    ["H-10 two lengths", () => `${head()}content-length: 5\r\ncontent-length: ${BODY.length}\r\n\r\n${BODY}`],
    [
      "H-10 a length and chunks",
      () =>
        `${head()}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n5\r\n${BODY.slice(0, 5)}\r\n0\r\n\r\nGET /x HTTP/1.1\r\n\r\n`,
    ],
    ["H-09 a NUL in a header", () => `${head()}x-a: b\0c\r\ncontent-length: ${BODY.length}\r\n\r\n${BODY}`],
    ["H-09 a folded header", () => `${head()}x-a: b\r\n x-api-key: y\r\ncontent-length: ${BODY.length}\r\n\r\n${BODY}`],
    ["no HTTP at all", () => "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n"],
    ["H-11 a header of 256 KB", () => `${head()}x-a: ${"b".repeat(262_144)}\r\ncontent-length: 0\r\n\r\n`],
  ])("%s: never two requests, never a 5xx of ours", async (_name, text) => {
    const answer = await raw(text());
    expect(answer).not.toMatch(/^HTTP\/1\.1 5(?!01)/);
    expect(upstream.received.length).toBeLessThanOrEqual(1);
    for (const request of upstream.received)
      expect(request.headers.filter(([name]) => name === "x-api-key")).toHaveLength(1);
    expect((await fetch(`${gateway.url}/api/hello`)).status).toBe(200);
  });
});

it("nothing a client sent here made a 5xx", () => {
  expect(gateway.log()).not.toMatch(/"status":5\d\d/);
  expect(gateway.log()).not.toContain('"msg":"bug"');
});
