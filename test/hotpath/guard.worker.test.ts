/** Guardrails on the path of a call, through the real routes: what reaches the upstream, what comes back, what is noted. */
import { createExecutionContext, runDurableObjectAlarm, waitOnExecutionContext } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { app } from "../../src/app.ts";
import type { AuditRecord } from "../../src/audit/record.ts";
import { betasAsked, railsFor } from "../../src/hotpath/guard.ts";
import { leaseBook } from "../../src/hotpath/leases.ts";
import { KEY_DEFAULTS, type KeyPolicy } from "../../src/identity/key-record.ts";
import type { Access } from "../../src/ledger/lease-book.ts";
import { BINDING_BETA } from "../../src/wire/openai/thinking.ts";
import { call as admin, type MadeKey, makeKey } from "../admin/control-plane.ts";

const MODEL = "claude-opus-5-5";
const EMAIL = "ada@example.com";
const OTHER = "bob@example.org";
const USAGE = { input_tokens: 10, output_tokens: 5 };
const encoder = new TextEncoder();

const event = (type: string, fields: object = {}): string =>
  `event: ${type}\ndata: ${JSON.stringify({ type, ...fields })}\n\n`;
const message = (text: string): Response =>
  Response.json({
    ...{ id: "msg_1", type: "message", role: "assistant", model: MODEL, stop_reason: "end_turn", usage: USAGE },
    content: [{ type: "text", text }],
  });
const streamed = (pieces: readonly string[]): Response => {
  const deltas = pieces.map((text) => event("content_block_delta", { index: 0, delta: { type: "text_delta", text } }));
  const all = [
    event("message_start", {
      message: { id: "msg_1", type: "message", role: "assistant", content: [], model: MODEL, usage: USAGE },
    }),
    event("content_block_start", { index: 0, content_block: { type: "text", text: "" } }),
    ...deltas,
    event("content_block_stop", { index: 0 }),
    event("message_delta", { delta: { stop_reason: "end_turn" }, usage: USAGE }),
    event("message_stop"),
  ];
  const body = new ReadableStream({
    type: "bytes",
    start(controller) {
      for (const text of all) controller.enqueue(encoder.encode(text));
      controller.close();
    },
  });
  return new Response(body, { headers: { "content-type": "text/event-stream" } });
};

/** What the upstream answers, and the bodies it got. */
let answer: () => Response;
let bodies: string[];
let logged: string[];

beforeEach(() => {
  logged = [];
  for (const level of ["log", "error"] as const) {
    vi.spyOn(console, level).mockImplementation((line: unknown) => void logged.push(String(line)));
  }
  bodies = [];
  answer = () => message("fine");
  vi.spyOn(globalThis, "fetch").mockImplementation(async (_, init) => {
    const { body } = init ?? {};
    bodies.push(body instanceof Uint8Array ? new TextDecoder().decode(body) : String(body));
    return answer();
  });
});
afterEach(() => void vi.restoreAllMocks());

type Sent = { readonly path?: string; readonly headers?: Record<string, string> };

async function ask({ key }: MadeKey, body: unknown, { path = "/v1/messages", headers = {} }: Sent = {}) {
  const context = createExecutionContext();
  const request = new Request(`https://gw.test${path}`, {
    method: "POST",
    headers: { authorization: `Bearer ${key}`, "content-type": "application/json", ...headers },
    body: typeof body === "string" ? body : JSON.stringify(body),
  });
  const response = await app.fetch(request, env, context);
  const text = await response.text();
  await waitOnExecutionContext(context);
  return { status: response.status, headers: response.headers, text };
}

const saying = (content: unknown, more: object = {}) => ({
  model: MODEL,
  max_tokens: 100,
  messages: [{ role: "user", content }],
  ...more,
});
const wordsIn = (sse: string): string =>
  [...sse.matchAll(/^data: (\{.*\})$/gm)].map(([, data]) => JSON.parse(data ?? "").delta?.text ?? "").join("");

async function rowsOf({ id }: MadeKey): Promise<AuditRecord[]> {
  return vi.waitFor(
    async () => {
      await runDurableObjectAlarm(env.KEY_LEDGER.getByName(id));
      const { results } = await env.DB.prepare("SELECT * FROM audit WHERE key_id = ?").bind(id).all<AuditRecord>();
      expect(results.length).toBeGreaterThan(0);
      return results;
    },
    { timeout: 10_000, interval: 20 },
  );
}

describe("a request", () => {
  it("is masked in its texts, and is the same outside of them byte for byte", async () => {
    const key = await makeKey({ guardrails: { redact: ["EMAIL"] } });
    const body = `{ "model":"${MODEL}", "max_tokens" :100,\n"messages":[{"role":"user","content":"\\u0041sk ${EMAIL} or ${OTHER}, ${EMAIL}"}] }`;
    expect((await ask(key, body)).status).toBe(200);
    expect(bodies).toEqual([body.replaceAll(EMAIL, "[EMAIL_1]").replace(OTHER, "[EMAIL_2]")]);
    const rows = await rowsOf(key);
    expect(rows.map(({ findings }) => findings)).toEqual(['{"EMAIL":3}']);
    expect(JSON.stringify([rows, logged])).not.toContain("ada@");
  });

  it("is refused before anything is asked or reserved, and no word of it is repeated", async () => {
    const key = await makeKey({ guardrails: { block: ["EMAIL"] } });
    const refused = await ask(key, saying(`to ${EMAIL}`));
    expect([refused.status, JSON.parse(refused.text).error]).toEqual([
      400,
      { type: "invalid_request_error", message: expect.stringContaining("(EMAIL)") },
    ]);
    expect(bodies).toEqual([]);
    const [row] = await rowsOf(key);
    expect(row).toMatchObject({
      status: 400,
      outcome: "error",
      denial: "guardrails",
      cost_micro_usd: 0,
      admission: null,
    });
    expect(row?.findings).toBe('{"EMAIL":1}');
    expect(JSON.stringify([refused.text, row, logged])).not.toContain("ada@");
  });

  it("is only counted in audit mode, and untouched with everything off", async () => {
    const audited = await makeKey({ guardrails: { mode: "audit", redact: ["EMAIL"], max_input_chars: 1 } });
    const off = await makeKey({ guardrails: { mode: "off", block: ["EMAIL"] } });
    const body = JSON.stringify(saying(EMAIL));
    for (const key of [audited, off]) expect((await ask(key, body)).status).toBe(200);
    expect(bodies).toEqual([body, body]);
    expect((await rowsOf(audited))[0]?.findings).toBe('{"max_input_chars!":1,"EMAIL":1}');
    expect((await rowsOf(off))[0]?.findings).toBe(null);
  });

  it("keeps to its workspace's guardrails from the first call on, and after each change", async () => {
    const { body: workspace } = await admin("workspaces", {
      json: {
        name: "guarded",
        guardrails: { redact: ["EMAIL"], patterns: [{ name: "ORDER", pattern: "AB-[0-9]{4}" }] },
      },
    });
    const key = await makeKey({ workspace: workspace.id, guardrails: { redact: ["IP"] } });
    await ask(key, saying(`${EMAIL} at 192.0.2.17 for AB-1234`));
    expect(JSON.parse(bodies[0] ?? "").messages[0].content).toBe("[EMAIL_1] at [IP_1] for [ORDER_1]");
    const path = `workspaces/${workspace.id}`;
    expect((await admin(path, { method: "PATCH", json: { guardrails: null } })).body.guardrails).toBe(null);
    await vi.waitFor(
      async () => {
        await ask(key, saying(EMAIL));
        expect(JSON.parse(bodies.at(-1) ?? "").messages[0].content).toBe(EMAIL);
      },
      { timeout: 8_000, interval: 200 },
    );
  });

  it.each([
    ["/v1/messages/count_tokens", { model: MODEL, messages: [{ role: "user", content: EMAIL }] }],
    ["/v1/chat/completions", { model: MODEL, max_tokens: 9, messages: [{ role: "user", content: EMAIL }] }],
    ["/v1/responses", { model: MODEL, input: EMAIL, store: false }],
    ["/v1/messages/batches", { requests: [{ custom_id: "a", params: saying(EMAIL) }] }],
  ])("is masked on %s", async (path, body) => {
    const key = await makeKey({ guardrails: { redact: ["EMAIL"] }, scopes: ["messages", "batches"] });
    await ask(key, body, { path });
    expect(bodies).toHaveLength(1);
    expect(bodies[0]).toContain("[EMAIL_1]");
    expect(bodies[0]).not.toContain("ada@");
  });
});

describe("the betas of a call", () => {
  it("are what its client asks for, in whatever way", () => {
    expect(betasAsked(undefined, undefined)).toBeNull();
    expect(betasAsked("a, b", undefined)).toBe("a, b");
    expect(betasAsked(undefined, BINDING_BETA)).toBeNull();
    expect(betasAsked("a", `b,${BINDING_BETA},c`)).toBe("a,b,c");
    expect(betasAsked(BINDING_BETA, undefined)).toBe(BINDING_BETA);
  });

  it("are bounded in OpenAI's dialect, too, where a field stands for one", async () => {
    const servers = [{ type: "url", name: "intern", url: "https://mcp.example.com/sse" }];
    const chat = { model: MODEL, max_tokens: 9, messages: [{ role: "user", content: "hi" }], mcp_servers: servers };
    const path = "/v1/chat/completions";
    const refused = await ask(await makeKey({ guardrails: { betas: [] } }), chat, { path });
    expect([refused.status, JSON.parse(refused.text).error.message]).toEqual([
      400,
      "Guardrails: anthropic-beta: this key may not use the beta `mcp-client-2025-11-20`.",
    ]);
    expect(bodies).toEqual([]);
    expect((await ask(await makeKey({ guardrails: { betas: ["mcp-client-*"] } }), chat, { path })).status).toBe(200);
  });
});

describe("a workspace whose ledger is away", () => {
  const policy = {
    ...KEY_DEFAULTS,
    id: "key_1",
    version: 1,
    workspace: "",
    limits: {},
    secrets: [],
  } as never as KeyPolicy;
  const accessTo = (storedRules: Access["storedRules"]): Access => ({
    ledger: () => ({ exchange: () => Promise.reject(new Error("away")) }) as never,
    ...{ background: () => {}, deadlineMs: 100, since: leaseBook.now, storedRules },
  });

  it("is looked up in D1 by one of many at once, and once in two seconds", async () => {
    let asked = 0;
    const access = accessTo(async (id) => {
      asked++;
      await scheduler.wait(30);
      return { id, version: 1, limits: {}, budget: null, guardrails: { redact: ["EMAIL"] } };
    });
    const of = { ...policy, workspace: "ws_away" };
    const found = await Promise.all(Array.from({ length: 20 }, () => railsFor(of, access)));
    for (let again = 0; again < 5; again++) found.push(await railsFor(of, access));
    expect(found.every((rails) => rails.ok && rails.value !== null)).toBe(true);
    expect(asked).toBe(1);
  });

  it("refuses calls in time where D1 says nothing, and asks as seldom", async () => {
    let asked = 0;
    const access = accessTo(() => {
      asked++;
      return new Promise(() => {});
    });
    const began = Date.now();
    const of = { ...policy, workspace: "ws_lost" };
    const found = await Promise.all(Array.from({ length: 20 }, () => railsFor(of, access)));
    for (let again = 0; again < 5; again++) found.push(await railsFor(of, access));
    expect(found.map((rails) => rails.ok)).toEqual(found.map(() => false));
    expect(asked).toBe(1);
    expect(Date.now() - began).toBeLessThan(2_000);
  });
});

describe("an answer", () => {
  const unmasking = { redact: ["EMAIL"], unmask: true };

  it("has the values again, whole and streamed, cut anywhere", async () => {
    const key = await makeKey({ guardrails: unmasking });
    answer = () => message("I wrote to [EMAIL_1], not [EMAIL_2].");
    const whole = await ask(key, saying(EMAIL));
    expect(JSON.parse(whole.text).content[0].text).toBe(`I wrote to ${EMAIL}, not [EMAIL_2].`);
    expect(whole.headers.get("content-length") ?? String(whole.text.length)).toBe(String(whole.text.length));
    answer = () => streamed(["I wrote to [EM", "AIL_", "1], not [", "EMAIL_2]."]);
    const stream = await ask(key, saying(EMAIL, { stream: true }));
    expect(wordsIn(stream.text)).toBe(`I wrote to ${EMAIL}, not [EMAIL_2].`);
    expect(stream.text).toContain("message_stop");
  });

  it("has them in both of OpenAI's ways, too", async () => {
    const key = await makeKey({ guardrails: unmasking });
    answer = () => message("to [EMAIL_1]");
    const chat = { model: MODEL, max_tokens: 9, messages: [{ role: "user", content: EMAIL }] };
    const told = await ask(key, chat, { path: "/v1/chat/completions" });
    expect(JSON.parse(told.text).choices[0].message.content).toBe(`to ${EMAIL}`);
    const responses = await ask(key, { model: MODEL, input: EMAIL, store: false }, { path: "/v1/responses" });
    expect(responses.text).toContain(`to ${EMAIL}`);
    answer = () => streamed(["to [EMAIL", "_1]"]);
    const live = await ask(key, { ...chat, stream: true }, { path: "/v1/chat/completions" });
    expect(live.text).toContain(EMAIL);
  });

  it("is redacted, and what is masked there is never put back from the request", async () => {
    const key = await makeKey({ guardrails: { ...unmasking, output: { redact: ["EMAIL"] } } });
    answer = () => message(`[EMAIL_1] knows ${OTHER}`);
    expect(JSON.parse((await ask(key, saying(EMAIL))).text).content[0].text).toBe(`${EMAIL} knows [EMAIL_2]`);
    answer = () => streamed(["[EMAIL_1] knows bob@exa", "mple.org"]);
    expect(wordsIn((await ask(key, saying(EMAIL, { stream: true }))).text)).toBe(`${EMAIL} knows [EMAIL_2]`);
  });

  it("is withheld where it holds what must not be said", async () => {
    const key = await makeKey({ guardrails: { output: { secrets: "block" } } });
    answer = () =>
      message("key AKIAQYLPMN5HHHFPZAM2 it is: sk-ant-api03-AbCdEf0123456789AbCdEf0123456789AbCdEf0123456789");
    const { status, text } = await ask(key, saying("hi"));
    expect([status, text.includes("AKIA")]).toEqual([400, false]);
  });

  /** A key's own ways of having an answer made: here, for whoever asks the same, and to its end. */
  const WAYS = [
    ["here", {}, {}],
    ["under an idempotency key", {}, { "idempotency-key": "one" }],
    ["for the response cache", { cache: { ttl_seconds: 60 } }, {}],
    ["where it is drained", { on_disconnect: "drain" }, {}],
  ] as const;

  it("is looked through for the audit, too, wherever it is made", async () => {
    const guardrails = { redact: ["EMAIL"], output: { redact: ["EMAIL"], secrets: "audit" } };
    await Promise.all(
      WAYS.map(async ([where, fields, headers]) => {
        for (const stream of [false, true]) {
          const key = await makeKey({ ...fields, guardrails });
          const words = [`[EMAIL_1] or ${OTHER} `, "or carol@exa", "mple.com"];
          answer = () => (bodies.at(-1)?.includes('"stream":true') ? streamed(words) : message(words.join("")));
          const { text } = await ask(key, saying(`${EMAIL} ${where}`, { stream }), { headers });
          expect(text).not.toMatch(/bob@|carol@/);
          const [row] = await rowsOf(key);
          expect([where, stream, row?.findings]).toEqual([where, stream, '{"EMAIL":1,"output.EMAIL":2}']);
          expect(row).toMatchObject({ status: 200, outcome: "complete", denial: null });
        }
      }),
    );
  });

  it("that is withheld says so in its row, and costs what it cost", async () => {
    const guardrails = { output: { secrets: "block" } };
    const secret = "it is sk-ant-api03-AbCdEf0123456789AbCdEf0123456789AbCdEf0123456789 indeed";
    await Promise.all(
      WAYS.map(async ([where, fields, headers]) => {
        for (const stream of [false, true]) {
          const key = await makeKey({ ...fields, guardrails });
          answer = () =>
            bodies.at(-1)?.includes('"stream":true') ? streamed([...secret, " and so on"]) : message(secret);
          const { status, text } = await ask(key, saying(where, { stream }), { headers });
          expect([status, text.includes("sk-ant")]).toEqual([stream ? 200 : 400, false]);
          const [row] = await rowsOf(key);
          expect([where, row]).toMatchObject([
            where,
            {
              ...{ status, outcome: "error", denial: "guardrails", findings: '{"output.SECRET":1}' },
              error_type: stream ? "api_error" : "invalid_request_error",
              input_tokens: USAGE.input_tokens,
            },
          ]);
          expect(row?.cost_micro_usd).toBeGreaterThan(0);
        }
      }),
    );
  });

  it("of an upstream's error stays as it is", async () => {
    const key = await makeKey({ guardrails: unmasking });
    const error = '{"type":"error","error":{"type":"invalid_request_error","message":"[EMAIL_1]?"}}';
    answer = () => new Response(error, { status: 400, headers: { "content-type": "application/json" } });
    expect((await ask(key, saying(EMAIL))).text).toBe(error);
  });

  it("that two callers share has each one's own values", async () => {
    const { body: workspace } = await admin("workspaces", { json: { name: "sharing" } });
    const fields = { workspace: workspace.id, guardrails: unmasking, cache: { ttl_seconds: 60 } };
    const [ada, bob] = [await makeKey(fields), await makeKey(fields)];
    answer = () => message("to [EMAIL_1]");
    const first = await ask(ada, saying(EMAIL));
    const second = await ask(bob, saying(OTHER));
    expect([first.headers.get("x-sluice-cache"), second.headers.get("x-sluice-cache")]).toEqual(["miss", "hit"]);
    expect(bodies).toHaveLength(1);
    expect(JSON.parse(first.text).content[0].text).toBe(`to ${EMAIL}`);
    expect(JSON.parse(second.text).content[0].text).toBe(`to ${OTHER}`);
    const again = { headers: { "idempotency-key": "once" } };
    const [once, twice] = [await ask(ada, saying(EMAIL), again), await ask(ada, saying(EMAIL), again)];
    expect([once, twice].map(({ text }) => JSON.parse(text).content[0].text)).toEqual([`to ${EMAIL}`, `to ${EMAIL}`]);
  });
});
