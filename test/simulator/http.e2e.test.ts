/** What holds for every answer, the limits on bodies, and the journal. */
import { createHash } from "node:crypto";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, expect, it } from "vitest";
import { KEY, type Running, startSimulator } from "./running.ts";
import { type Json, MODEL } from "./support.ts";

let simulator: Running;
beforeAll(async () => {
  simulator = await startSimulator();
});
afterAll(() => simulator?.stop());

const body = { model: MODEL, max_tokens: 10, messages: [{ role: "user", content: "say: yes" }] };

it("gives every answer a request id, and workspace and rate limits to who is recognized", async () => {
  const good = await simulator.post(body);
  const wrong = await simulator.post({ ...body, messages: [] });
  const unknown = await simulator.post(body, { "x-api-key": "nonsense" });
  for (const response of [good, wrong, unknown]) {
    expect(response.headers.get("request-id")).toMatch(/^req_011sim[0-9a-f]{18}$/);
    expect(response.headers.get("anthropic-organization-id")).toMatch(/^[0-9a-f-]{36}$/);
  }
  for (const [response, isKnown] of [
    [good, true],
    [wrong, true],
    [unknown, false],
  ] as const) {
    expect(response.headers.has("anthropic-workspace-id")).toBe(isKnown);
    expect([...response.headers.keys()].filter((name) => name.startsWith("anthropic-ratelimit-")).length).toBe(
      isKnown ? 12 : 0,
    );
  }
  expect(await wrong.json()).toMatchObject({
    type: "error",
    error: { type: "invalid_request_error", message: "messages: at least one message is required" },
    request_id: wrong.headers.get("request-id"),
  });
  expect(unknown.status).toBe(401);
});

it("U-18: tells organization and workspace by the key, and refuses thinking of another organization", async () => {
  const thinking = { thinking: { type: "adaptive" }, max_tokens: 500 };
  const first = await simulator.post({ ...body, ...thinking }, { "x-api-key": "sk-ant-org-one-1" });
  const { content } = (await first.json()) as { content: Json[] };
  const messages = [...body.messages, { role: "assistant", content }, ...body.messages];
  const next = (key: string): Promise<Response> =>
    simulator.post({ ...body, ...thinking, messages }, { "x-api-key": key });
  const [same, other] = await Promise.all([next("sk-ant-org-one-2"), next("sk-ant-org-two-1")]);
  expect([same.status, other.status]).toEqual([200, 400]);
  expect(await other.text()).toContain("messages.1.content.0: Invalid `signature` in `thinking` block");
  for (const name of ["anthropic-organization-id", "anthropic-workspace-id"]) {
    expect(same.headers.get(name)).toBe(first.headers.get(name));
    expect(other.headers.get(name)).not.toBe(first.headers.get(name));
  }
});

it("streams without a length, as events", async () => {
  const response = await simulator.post({ ...body, stream: true });
  expect(Object.fromEntries(response.headers)).toMatchObject({
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "transfer-encoding": "chunked",
  });
  expect(response.headers.has("content-length")).toBe(false);
  await response.body?.cancel();
});

it.each([
  ["GET", "/v1/messages", 405],
  ["POST", "/v1/models", 405],
  ["POST", "/v1/complete", 404],
  ["GET", "/", 404],
  ["HEAD", "/api/hello", 200],
  ["GET", "/v1/models/claude-none", 404],
  ["GET", `/v1/models/${MODEL}`, 200],
] as const)("%s %s is %i", async (method, path, status) => {
  const headers = { "x-api-key": KEY, "anthropic-version": "2023-06-01" };
  expect((await fetch(`${simulator.url}${path}`, { method, headers })).status).toBe(status);
});

it("accepts unknown fields, also those that an error has", async () => {
  expect((await simulator.post({ ...body, status: 1, message: "x" })).status).toBe(200);
});

it("ignores the query of a path", async () => {
  expect((await simulator.post(body, {}, "/v1/messages?beta=true")).status).toBe(200);
});

it.each([
  ["no JSON", "{", {}, 400, "The request body is not valid JSON"],
  ["no object", "[]", {}, 400, "The request body is not valid JSON"],
  ["no UTF-8", new Uint8Array([0x22, 0xff, 0x22]), {}, 400, "The request body is not valid JSON"],
  [
    "compressed",
    new Uint8Array(gzipSync("{}")),
    { "content-encoding": "gzip" },
    400,
    "request_body_encoding_unsupported",
  ],
  ["an unknown model", { ...body, model: "claude-none" }, {}, 404, "model: claude-none"],
  ["no version", body, { "anthropic-version": "" }, 400, "anthropic-version"],
] as const)("refuses a body with %s", async (_, content, headers, status, wording) => {
  const response = await simulator.post(content, headers as Record<string, string>);
  expect(response.status).toBe(status);
  expect(await response.text()).toContain(wording);
});

it("takes a body of 32 MB and refuses one byte more", async () => {
  const filler = (size: number): string => `{"x":"${"y".repeat(size - 8)}"}`;
  const limit = 32 * 1024 * 1024;
  expect((await simulator.post(filler(limit))).status).toBe(400);
  const response = await simulator.post(filler(limit + 1));
  expect(response.status).toBe(413);
  expect(await response.json()).toMatchObject({ error: { type: "request_too_large" } });
});

it("refuses requests above a lowered limit, for those who ask for it only", async () => {
  const lowered = { "x-sim-ratelimit-requests": "2", "x-api-key": "sk-ant-limited" };
  const statuses: number[] = [];
  for (let i = 0; i < 3; i++) statuses.push((await simulator.post(body, lowered)).status);
  expect(statuses).toEqual([200, 200, 429]);
  const refused = await simulator.post(body, lowered);
  expect(Number(refused.headers.get("retry-after"))).toBeGreaterThan(0);
  expect(refused.headers.get("anthropic-ratelimit-requests-remaining")).toBe("0");
  expect((await simulator.post(body, { "x-api-key": "sk-ant-limited" })).status).toBe(200);
});

it("keeps a journal: what came, with credentials masked, and how it ended", async () => {
  await fetch(`${simulator.url}/sim/requests`, { method: "DELETE" });
  expect(await simulator.journal(200)).toEqual([]);
  const text = JSON.stringify({ ...body, stream: true });
  const response = await simulator.post(text, { authorization: `Bearer ${KEY}` }, "/v1/messages?beta=true");
  const events = (await response.text()).match(/^event: /gm)?.length;
  const long = JSON.stringify({ ...body, metadata: { user_id: "x".repeat(70_000) } });
  await simulator.post(long);
  const [second, first] = await simulator.journal(5);
  const sha256 = (value: string): string => createHash("sha256").update(value).digest("hex");
  expect(first).toMatchObject({
    id: response.headers.get("request-id"),
    method: "POST",
    target: "/v1/messages?beta=true",
    credentials: 2,
    body_bytes: text.length,
    body_sha256: sha256(text),
    body: text,
    status: 200,
    outcome: "complete",
    events,
  });
  expect(Object.fromEntries(first?.headers as [string, string][])).toMatchObject({
    authorization: "…ests",
    "x-api-key": "…ests",
    "anthropic-version": "2026-10-21",
  });
  expect(second).toMatchObject({ body: null, body_bytes: long.length, body_sha256: sha256(long), events: 0 });
  expect(JSON.stringify([first, second])).not.toContain(KEY);
});

it("reads the prompt cache over requests", async () => {
  const system = [{ type: "text", text: "rule ".repeat(800), cache_control: { type: "ephemeral" } }];
  const usages: Json[] = [];
  for (let i = 0; i < 2; i++) {
    const response = await simulator.post({ ...body, system }, { "x-api-key": "sk-ant-cache" });
    usages.push(((await response.json()) as { usage: Json }).usage);
  }
  expect(usages[1]?.cache_read_input_tokens).toBe(usages[0]?.cache_creation_input_tokens);
  expect(usages[1]?.cache_read_input_tokens).toBeGreaterThan(512);
});

it("holds a conversation as a thread: only new messages are sent, each answer is continued once", async () => {
  const betas = { "anthropic-beta": "message-threads-2026-08-12" };
  const turn = async (more: Json): Promise<{ status: number; answer: Json }> => {
    const response = await simulator.post({ ...body, max_tokens: 100, ...more }, betas);
    return { status: response.status, answer: (await response.json()) as Json };
  };
  const tools = [{ name: "get_weather", input_schema: { type: "object" } }];
  const ask = [{ role: "user", content: "use get_weather" }];
  const first = await turn({ tools, messages: ask, thread: { type: "create" } });
  const use = (first.answer.content as Json[]).at(-1);
  const thread = { type: "continue", previous_message_id: first.answer.id };
  const result = {
    messages: [{ role: "user", content: [{ type: "tool_result", tool_use_id: use?.id, content: "sun" }] }],
  };
  expect(await turn({ ...result, thread, tools: [] })).toMatchObject({
    status: 400,
    answer: { error: { details: { error_code: "thread_fingerprint_mismatch" } } },
  });
  const second = await turn({ ...result, thread });
  expect(second.answer).toMatchObject({ content: [{ text: "The tool says: sun." }] });
  expect((second.answer.usage as Json).input_tokens).toBeGreaterThan(Number((first.answer.usage as Json).input_tokens));
  expect(await turn({ ...result, thread })).toMatchObject({
    status: 400,
    answer: { error: { details: { error_code: "thread_already_continued" } } },
  });
  const lost = { type: "continue", previous_message_id: "msg_nowhere" };
  expect(await turn({ messages: ask, thread: lost })).toMatchObject({
    status: 404,
    answer: { error: { details: { error_code: "thread_not_found" } } },
  });
});
