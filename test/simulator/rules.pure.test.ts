/** What the API refuses, with its wordings; faults, limits and models. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { authenticate } from "../../simulator/authenticate.ts";
import { isApiError } from "../../simulator/errors.ts";
import { Failures, type Faults, pairsOf, parseFaults, splitName } from "../../simulator/faults.ts";
import { Accounts, limitsOf } from "../../simulator/limits.ts";
import { findModel, MODELS, modelInfo, modelPage } from "../../simulator/models.ts";
import { organizationOf } from "../../simulator/organization.ts";
import { asVersion } from "../../simulator/validate.ts";
import { ask, type Json, MODEL } from "./support.ts";

const hi = { role: "user", content: "Hi" };
const use = { type: "tool_use", id: "toolu_1", name: "t", input: {} };
const tools = [{ name: "t", input_schema: { type: "object" } }];

describe("validation", () => {
  it.each([
    [{}, "messages: Field required"],
    [{ messages: "x" }, "messages: Input should be a valid list"],
    [{ messages: [] }, "messages: at least one message is required"],
    [{ messages: [{ content: "x" }] }, "messages.0.role: Field required"],
    [
      { messages: [{ role: "robot", content: "x" }] },
      "messages.0.role: Input should be 'user', 'assistant' or 'system'",
    ],
    [{ messages: [{ role: "user" }] }, "messages.0.content: Field required"],
    [{ messages: [hi], max_tokens: undefined }, "max_tokens: Field required"],
    [{ messages: [hi], max_tokens: 1.5 }, "max_tokens: Input should be a valid integer"],
    [{ messages: [hi], max_tokens: -1 }, "max_tokens: Input should be greater than or equal to 0"],
    [
      { messages: [hi], max_tokens: 128_001 },
      `max_tokens: 128001 > 128000, which is the maximum allowed number of output tokens for ${MODEL}`,
    ],
    [{ messages: [hi], stream: "yes" }, "stream: Input should be a valid boolean"],
    [
      { messages: [{ role: "user", content: [{ type: "text", text: "" }] }] },
      "messages: text content blocks must be non-empty",
    ],
    [
      { messages: [hi, { role: "assistant", content: "x" }] },
      "This model does not support assistant message prefill. The conversation must end with a user message.",
    ],
    [
      { messages: [hi], thinking: { type: "enabled", budget_tokens: 2000 } },
      '"thinking.type.enabled" is not supported',
    ],
    [{ messages: [hi], thinking: { type: "deep" } }, "thinking.type: Input should be"],
    [
      { messages: [hi], tools, thinking: { type: "adaptive" }, tool_choice: { type: "any" } },
      "Thinking may not be enabled when tool_choice forces tool use.",
    ],
    [{ messages: [hi], tool_choice: { type: "any" } }, "tool_choice: may only be specified while providing tools."],
    [{ messages: [hi], tools: [...tools, ...tools] }, "tools: Tool names must be unique."],
    [
      { messages: [hi], tools: [{ name: "a b", input_schema: { type: "object" } }] },
      "tools.0.custom.name: String should",
    ],
    [{ messages: [hi], tools: [{ name: "a" }] }, "tools.0.custom.input_schema: Field required"],
    [{ messages: [hi], stop_sequences: [" "] }, "stop_sequences: each stop sequence must contain non-whitespace"],
    [
      { messages: [hi, { role: "assistant", content: [use] }, hi] },
      "messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: toolu_1",
    ],
    [
      { messages: [{ role: "user", content: [{ type: "tool_result", tool_use_id: "toolu_9" }] }] },
      "messages.0.content.0: unexpected `tool_use_id` found in `tool_result` blocks: toolu_9",
    ],
  ] as [Json, string][])("refuses %o", (body, wording) => {
    expect(ask(body)).toContain(`400 invalid_request_error ${wording}`);
  });

  it("accepts unknown fields, a system turn in the conversation, and a call answered by its result", () => {
    expect(typeof ask({ messages: [hi], safeguards: {}, tags: ["x"] })).toBe("object");
    expect(typeof ask({ messages: [hi, { role: "system", content: "note" }, hi] })).toBe("object");
    const result = { role: "user", content: [{ type: "tool_result", tool_use_id: "toolu_1", content: "ok" }] };
    expect(typeof ask({ tools, messages: [hi, { role: "assistant", content: [use] }, result] })).toBe("object");
  });

  it("takes a thinking budget only on models before 4.7, below max_tokens", () => {
    const body = { model: "claude-sonnet-4-6", messages: [hi], max_tokens: 2000 };
    expect(typeof ask({ ...body, thinking: { type: "enabled", budget_tokens: 1024 } })).toBe("object");
    expect(ask({ ...body, thinking: { type: "enabled", budget_tokens: 1023 } })).toMatch(/equal to 1024/);
    expect(ask({ ...body, thinking: { type: "enabled", budget_tokens: 2000 } })).toMatch(/must be greater than/);
    expect(ask({ ...body, model: "claude-sonnet-4-5", thinking: { type: "adaptive" } })).toMatch(/not supported/);
  });
});

describe("API versions", () => {
  it("are the two known, and required", () => {
    expect(asVersion("2023-06-01")).toBe("2023-06-01");
    expect(asVersion(null)).toMatchObject({ status: 400, message: "anthropic-version: header is required" });
    expect(asVersion("2024-01-01")).toMatchObject({ status: 400 });
  });

  it.each(["temperature", "top_p", "top_k"])("differ about %s", (name) => {
    const old = { model: "claude-sonnet-4-6", messages: [hi], [name]: 1 };
    expect(typeof ask(old, { version: "2023-06-01" })).toBe("object");
    expect(ask(old, { version: "2026-10-21" })).toContain(`\`${name}\` is not supported`);
    const newer = { ...old, model: MODEL };
    const neutral = name === "top_k" ? "string" : "object";
    expect(typeof ask(newer, { version: "2023-06-01" })).toBe(neutral);
    expect(ask({ ...newer, [name]: 0.5 }, { version: "2023-06-01" })).toContain(`\`${name}\` is not supported on`);
  });

  it("differ about documents of the assistant and citations of the user", () => {
    const document = { type: "document", source: { type: "text", media_type: "text/plain", data: "x" } };
    const answer = { messages: [hi, { role: "assistant", content: [document] }, hi] };
    const cited = { messages: [{ role: "user", content: [{ type: "text", text: "x", citations: [{}] }] }] };
    for (const body of [answer, cited]) {
      expect(typeof ask(body, { version: "2023-06-01" })).toBe("object");
      expect(ask(body, { version: "2026-10-21" })).toMatch(/^400 .*not allowed/);
    }
    const empty = { messages: [{ role: "user", content: [{ type: "text", text: "x", citations: [] }] }] };
    expect(typeof ask(empty, { version: "2026-10-21" })).toBe("object");
  });
});

describe("credentials", () => {
  const call = (headers: Record<string, string>): unknown => authenticate(new Headers(headers));

  it("are one key, in either header or in both", () => {
    expect(call({ "x-api-key": "sk-ant-1" })).toBe("sk-ant-1");
    expect(call({ authorization: "bearer sk-ant-1" })).toBe("sk-ant-1");
    expect(call({ authorization: "Bearer sk-ant-1", "x-api-key": "sk-ant-1" })).toBe("sk-ant-1");
    expect(call({ "x-api-key": "sk-ant-1+status=529" })).toBe("sk-ant-1");
  });

  it.each([
    [{}, 401, "x-api-key header is required"],
    [{ "x-api-key": "" }, 401, "invalid x-api-key"],
    [{ "x-api-key": "sk-ant-" }, 401, "invalid x-api-key"],
    [{ "x-api-key": "sk-ant-+status=529" }, 401, "invalid x-api-key"],
    [{ "x-api-key": "sk-other" }, 401, "invalid x-api-key"],
    [{ authorization: "Basic x" }, 401, "x-api-key header is required"],
    [{ authorization: "Bearer sk-ant-1", "x-api-key": "sk-ant-2" }, 401, "invalid x-api-key"],
    [{ "x-api-key": "sk-ant-denied-1" }, 403, "Your API key does not have permission to use the specified resource."],
    [{ "x-api-key": "sk-ant-unpaid-1" }, 402, "There is an issue with your billing details."],
  ] as [Record<string, string>, number, string][])("%o are refused", (headers, status, message) => {
    expect(call(headers)).toMatchObject({ status, message });
  });
});

describe("faults", () => {
  it("are read from a header and from a model's suffix", () => {
    expect(parseFaults(pairsOf("anthropic=1"))).toMatch(/no such fault/);
    expect(parseFaults(pairsOf(" ttfb=500; pace=20 ;cut=813;"))).toEqual({ ttfb: 500, pace: 20, cut: 813 });
    expect(splitName(`${MODEL}+ttfb=5+endless`)).toEqual({ id: MODEL, pairs: ["ttfb=5", "endless"] });
    expect(parseFaults(["location=/a?b=c", "content_type=text/html"])).toEqual({
      location: "/a?b=c",
      content_type: "text/html",
    });
  });

  it.each([
    "ttfb",
    "ttfb=",
    "ttfb=x",
    "ttfb=-1",
    "ttfb=600001",
    "ttfb=1.5",
    "status=399",
    "status=600",
    "redirect=304",
    "endless=no",
    "error_first=Oops",
    "content_type=html",
    "should_retry=maybe",
    "nothing=1",
    "chunk=0",
    "retry_after=",
    "first_event=message",
    "fail_times=1",
    "fail_ms=1",
    "fail_id=a b",
    "events=1000000",
  ])("name the knob that is wrong: %s", (pair) => {
    const all = pair.startsWith("events") ? [pair, "bytes=1000"] : [pair];
    expect(parseFaults(all)).toMatch(new RegExp(`^fault ${pair.split("=")[0]}: `));
  });
});

describe("a fault that heals", () => {
  const faults = (pairs: string): Faults => parseFaults(pairsOf(pairs)) as Faults;

  it("strikes the first calls with its id, whatever else they ask for, and no others", () => {
    const failures = new Failures();
    const [one, other] = [faults("status=529;fail_times=2;fail_id=a"), faults("status=500;fail_times=1;fail_id=b")];
    const struck = [one, one, other, one, other].map((each) => failures.next(each, 0).status);
    expect(struck).toEqual([529, 529, 500, undefined, undefined]);
    expect(failures.next(faults("status=529"), 0).status).toBe(529);
  });

  it("strikes for so long after its first call", () => {
    const failures = new Failures();
    const down = faults("status=529;fail_ms=1000;fail_id=a");
    expect([5, 500, 1004, 1005].map((now) => failures.next(down, now).status)).toEqual([529, 529, 529, undefined]);
  });
});

describe("organizations", () => {
  it("are one for each key, with ids of the right form", () => {
    const ids = Array.from({ length: 2000 }, (_, i) => organizationOf(`sk-ant-${i}`).id);
    expect(new Set(ids).size).toBe(2000);
    for (const id of ids) expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}$/);
    expect(organizationOf("sk-ant-1")).toEqual(organizationOf("sk-ant-1"));
    expect(organizationOf("sk-ant-1").workspace).not.toBe(organizationOf("sk-ant-2").workspace);
  });

  it("are shared by keys that name one", () => {
    expect(organizationOf("sk-ant-org-acme-1")).toEqual(organizationOf("sk-ant-org-acme-2"));
    expect(organizationOf("sk-ant-org-acme-1").id).not.toBe(organizationOf("sk-ant-org-other-1").id);
  });
});

describe("rate limits", () => {
  it("refuse after as many requests as allowed, say when to come back, and refill continuously", () => {
    const accounts = new Accounts();
    const limits = { requests: 60 };
    for (let i = 0; i < 60; i++) expect(accounts.open("key", limits, 0).admitMessage()).toBeUndefined();
    expect(accounts.open("key", limits, 0).admitMessage()).toMatchObject({
      status: 429,
      type: "rate_limit_error",
      headers: { "retry-after": "1" },
    });
    expect(accounts.open("key", limits, 999).admitMessage()).toBeDefined();
    expect(accounts.open("key", limits, 1000).admitMessage()).toBeUndefined();
    expect(accounts.open("other", limits, 0).admitMessage()).toBeUndefined();
    expect(accounts.open("key", undefined, 0).admitMessage()).toBeUndefined();
  });

  it("count tokens as they are used", () => {
    const accounts = new Accounts();
    const limits = { "input-tokens": 1000, "output-tokens": 600 };
    accounts.open("key", limits, 0).use(400, 700);
    expect(accounts.open("key", limits, 0).admitMessage()).toMatchObject({
      message: "This request would exceed your account's rate limit of 600 output tokens per minute.",
      headers: { "retry-after": "11" },
    });
    expect(accounts.open("key", limits, 11_000).admitMessage()).toBeUndefined();
  });

  it("do not count the counting of tokens as messages", () => {
    const account = new Accounts().open("key", { requests: 1 }, 0);
    expect(account.admitCount()).toBeUndefined();
    expect(account.admitMessage()).toBeUndefined();
    expect(account.admitMessage()).toBeDefined();
  });

  it("are told in twelve headers", () => {
    const accounts = new Accounts();
    const account = accounts.open("key", undefined, Date.UTC(2026, 10, 21));
    account.admitMessage();
    account.use(4_600, 400);
    const headers = new Headers();
    account.setHeaders(headers);
    expect(Object.fromEntries(headers)).toEqual({
      "anthropic-ratelimit-requests-limit": "1000000",
      "anthropic-ratelimit-requests-remaining": "999999",
      "anthropic-ratelimit-requests-reset": "2026-11-21T00:00:01Z",
      "anthropic-ratelimit-input-tokens-limit": "2000000000",
      "anthropic-ratelimit-input-tokens-remaining": "1999995000",
      "anthropic-ratelimit-input-tokens-reset": "2026-11-21T00:00:01Z",
      "anthropic-ratelimit-output-tokens-limit": "400000000",
      "anthropic-ratelimit-output-tokens-remaining": "400000000",
      "anthropic-ratelimit-output-tokens-reset": "2026-11-21T00:00:01Z",
      "anthropic-ratelimit-tokens-limit": "2400000000",
      "anthropic-ratelimit-tokens-remaining": "2399995000",
      "anthropic-ratelimit-tokens-reset": "2026-11-21T00:00:01Z",
    });
  });

  it("are lowered by a header, under either prefix", () => {
    expect(limitsOf(new Headers({ "x-sim-ratelimit-requests": "5" }))).toEqual({ requests: 5 });
    expect(limitsOf(new Headers({ "anthropic-sim-ratelimit-input-tokens": "5" }))).toEqual({ "input-tokens": 5 });
    expect(limitsOf(new Headers())).toBeUndefined();
    expect(isApiError(limitsOf(new Headers({ "x-sim-ratelimit-requests": "0" })))).toBe(true);
  });
});

describe("models", () => {
  it("are paged forwards and backwards without a gap", () => {
    const forwards: unknown[] = [];
    let after: unknown;
    for (;;) {
      const page = modelPage(new URLSearchParams({ limit: "4", ...(after ? { after_id: String(after) } : {}) }));
      if (typeof page === "string") throw new Error(page);
      forwards.push(...(page.data as Json[]).map((model) => model.id));
      after = page.last_id;
      if (!page.has_more) break;
    }
    expect(forwards).toEqual(MODELS.map((model) => model.id));
    const back = modelPage(new URLSearchParams({ limit: "2", before_id: String(forwards[5]) })) as Json;
    expect((back.data as Json[]).map((model) => model.id)).toEqual(forwards.slice(3, 5));
    expect(back).toMatchObject({ has_more: true, first_id: forwards[3], last_id: forwards[4] });
  });

  it("are newest first, known by their dated names too, and say what they can do", () => {
    const days = MODELS.map((model) => model.createdAt);
    expect(days).toEqual(days.toSorted().reverse());
    expect(findModel("claude-haiku-4-5-20251001")?.id).toBe("claude-haiku-4-5");
    expect(findModel("claude-opus-5-5-20260101")).toBeUndefined();
    expect(modelInfo(MODELS[0] ?? ({} as never))).toMatchObject({
      type: "model",
      capabilities: { thinking: { types: { enabled: { supported: false }, adaptive: { supported: true } } } },
    });
  });

  it("look as in the recorded list", () => {
    const recorded = JSON.parse(
      readFileSync(join(import.meta.dirname, "../fixtures/anthropic/models.list.json"), "utf8"),
    );
    for (const model of recorded.data as Json[]) {
      expect(modelInfo(findModel(String(model.id)) ?? ({} as never))).toEqual(model);
    }
    const page = modelPage(new URLSearchParams({ limit: "1" }));
    expect(Object.keys(page as Json).sort()).toEqual(Object.keys(recorded).sort());
  });

  it.each([{ limit: "0" }, { limit: "1001" }, { after_id: "x" }, { before_id: "x" }])(
    "refuse the query %o",
    (query) => {
      expect(typeof modelPage(new URLSearchParams(query as Record<string, string>))).toBe("string");
    },
  );
});
