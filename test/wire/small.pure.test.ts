import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { readSettings } from "../../src/env.ts";
import { type KeyPolicy, mayUseModel, secretIsLive, timeoutsFor } from "../../src/identity/key-record.ts";
import { canonicalPath } from "../../src/route-path.ts";
import { MAX_MAX_TOKENS, MAX_MESSAGES, MAX_TOOLS, readRequestFacts } from "../../src/wire/anthropic/request.ts";
import { describeFailure, errorBody, type Failure } from "../../src/wire/errors.ts";
import { clientResponse, upstreamRequestHeaders } from "../../src/wire/headers.ts";
import { newId, timePrefix } from "../../src/wire/ids.ts";
import { traceIdOf } from "../../src/wire/trace.ts";

const facts = (text: string) => readRequestFacts(new TextEncoder().encode(text));
const refusal = (text: string): string => {
  const result = facts(text);
  if (result.ok) throw new Error("accepted");
  return describeFailure(result.error).message;
};

describe("readRequestFacts", () => {
  it("reads the deciding fields, wherever and however they are written", () => {
    expect(
      facts('{"stream":true,"messages":[],"max_tokens":1e3,"model":"claude-\\u006fpus-5-5","new_field":{}}'),
    ).toEqual({
      ok: true,
      value: {
        model: "claude-opus-5-5",
        stream: true,
        maxTokens: 1000,
        bytes: 92,
        mediaBytes: 0,
        mediaCount: 0,
        fast: false,
        geo: null,
        userId: null,
        bound: false,
        fileIds: [],
        extras: {},
      },
    });
    expect(facts('{"model":"m"}')).toMatchObject({ ok: true, value: { model: "m", stream: false, maxTokens: null } });
  });

  it.each([
    ["[]", "must be a JSON object"],
    ["{}", "model: Field required"],
    ['{"model":7}', "model: must be a string"],
    ['{"model":""}', "model: must be a string"],
    [`{"model":"${"m".repeat(257)}"}`, "model: must be a string of 1 to 256"],
    [`{"model":"${"m".repeat(5000)}"}`, "model: must be a string of 1 to 256"],
    ['{"model":"m","stream":"yes"}', "stream: must be true or false"],
    ['{"model":"m","model":"n"}', "model: the field occurs more than once"],
    ['{"model":"m","stream":true,"str\\u0065am":false}', "stream: the field occurs more than once"],
    ['{"model":"m","max_tokens":1,"max_tokens":1}', "max_tokens: the field occurs more than once"],
    ['{"model":"m","max_tokens":-1}', "max_tokens: must be a whole number"],
    ['{"model":"m","max_tokens":1.5}', "max_tokens: must be a whole number"],
    ['{"model":"m","max_tokens":"5"}', "max_tokens: must be a whole number"],
    ['{"model":"m","max_tokens":null}', "max_tokens: must be a whole number"],
    ['{"model":"m","max_tokens":1000000000}', `max_tokens: must not be above ${MAX_MAX_TOKENS}`],
    [`{"model":"m","tools":[${"{},".repeat(MAX_TOOLS)}{}]}`, `tools: more than ${MAX_TOOLS} entries`],
    [`{"model":"m","messages":[${"1,".repeat(MAX_MESSAGES)}1]}`, `messages: more than ${MAX_MESSAGES} entries`],
  ])("refuses %.60s", (text, message) => {
    expect(refusal(text)).toContain(message);
  });

  it("takes counts at their limits, and other fields twice", () => {
    expect(facts(`{"model":"m","tools":[${"{},".repeat(MAX_TOOLS - 1)}{}],"metadata":1,"metadata":2}`).ok).toBe(true);
    expect(facts(`{"model":"m","max_tokens":${MAX_MAX_TOKENS}}`).ok).toBe(true);
    expect(facts('{"model":"m","max_tokens":0}').ok).toBe(true);
  });
});

describe("canonicalPath", () => {
  it.each([
    ["http://h/v1/messages?beta=true", "/v1/messages"],
    ["http://h/messages", "/v1/messages"],
    ["http://h//v1///messages//count_tokens", "/v1/messages/count_tokens"],
    ["http://h", "/"],
    ["http://h/v1/messages/../../admin/keys", "/v1/messages/../../admin/keys"],
    ["http://h/v1/%2e%2e/admin", "/v1/%2e%2e/admin"],
    ["http://h/V1/messages", "/V1/messages"],
    ["http://h/messagesx", "/messagesx"],
  ])("%s is %s", (url, path) => {
    expect(canonicalPath(url)).toBe(path);
  });
});

describe("headers", () => {
  it("lets nothing but the open families through, and no credential", () => {
    const token = fc.stringMatching(/^[a-z][a-z0-9-]{0,30}$/);
    fc.assert(
      fc.property(fc.uniqueArray(token, { maxLength: 60 }), (names) => {
        const client = new Headers(names.map((name): [string, string] => [name, "v"]));
        client.set("x-api-key", "sk-sluice-x");
        client.set("authorization", "Bearer sk-sluice-x");
        for (const name of Object.keys(upstreamRequestHeaders(client))) {
          expect(name).toMatch(/^(?:anthropic-.*|x-stainless-.*|user-agent|accept|content-type|accept-encoding)$/);
        }
      }),
    );
  });

  it("forwards what belongs to the protocol and drops the rest", () => {
    const sent = upstreamRequestHeaders(
      new Headers({
        "anthropic-version": "2026-10-21",
        "anthropic-beta": "a,b",
        "anthropic-new-thing": "1",
        "x-stainless-lang": "js",
        "user-agent": "x",
        accept: "application/json",
        "content-type": "application/json",
        cookie: "a=b",
        "x-forwarded-for": "1.2.3.4",
        "x-claude-code-session-id": "s",
        "x-sluice-cache": "ttl=1",
        "anthropic-admin-key": "sk-ant-ATTACK",
        traceparent: "00-1-2-3",
        "x-app": "cli",
      }),
    );
    expect(Object.keys(sent).sort()).toEqual(
      [
        "accept",
        "accept-encoding",
        "anthropic-beta",
        "anthropic-new-thing",
        "anthropic-version",
        "content-type",
        "user-agent",
        "x-stainless-lang",
      ].sort(),
    );
  });

  it("returns upstream's headers less the shared account's limits", () => {
    const headers = {
      "request-id": "req_1",
      "retry-after": "7",
      "x-should-retry": "false",
      "anthropic-organization-id": "o",
      "anthropic-ratelimit-requests-remaining": "1",
      "anthropic-priority-input-tokens-limit": "1",
      "set-cookie": "a=b",
      "transfer-encoding": "chunked",
      "x-sluice-request-id": "forged",
    };
    const returned = clientResponse(new Response(null, { status: 429, headers }), null);
    expect(returned.status).toBe(429);
    expect([...returned.headers.keys()]).toEqual([
      "anthropic-organization-id",
      "request-id",
      "retry-after",
      "x-should-retry",
    ]);
  });
});

describe("ids", () => {
  it("sort by their time", () => {
    fc.assert(
      fc.property(fc.nat(2 ** 46), fc.nat(2 ** 46), (a, b) => {
        fc.pre(a !== b);
        expect(newId("req", a) < newId("req", b)).toBe(a < b);
      }),
    );
    expect(newId("req", 5)).toMatch(/^req_[0-9a-hjkmnp-tv-z]{26}$/);
    expect(timePrefix(0)).toBe("0000000000");
  });
});

describe("traceIdOf", () => {
  it("takes over a valid trace id and makes one otherwise", () => {
    const id = "0af7651916cd43dd8448eb211c80319c";
    expect(traceIdOf(`00-${id}-b7ad6b7169203331-01`)).toBe(id);
    for (const bad of [
      undefined,
      "",
      "00-xyz",
      `00-${"0".repeat(32)}-b7ad6b7169203331-01`,
      `ff-${id}-b7ad6b7169203331-01`,
    ]) {
      expect(traceIdOf(bad)).toMatch(/^[0-9a-f]{32}$/);
      expect(traceIdOf(bad)).not.toBe(id);
    }
  });
});

describe("policies", () => {
  const policy: KeyPolicy = {
    id: "key_x",
    version: 1,
    workspace: "w",
    name: "n",
    scopes: ["messages"],
    models: ["claude-opus-5-5", "claude-haiku-*"],
    limits: {},
    budget: null,
    on_disconnect: "cancel",
    on_revoke: "finish",
    fail_open: false,
    timeouts: {},
    cache: null,
    aliases: {},
    guardrails: null,
    expires_at: 1000,
    revoked_at: null,
    secrets: [
      { sha256: "a", hint: "", created_at: 0, expires_at: null },
      { sha256: "b", hint: "", created_at: 0, expires_at: 500 },
    ],
  };

  it("match models exactly or by a listed prefix", () => {
    for (const model of ["claude-opus-5-5", "claude-haiku-4-5", "claude-haiku-"])
      expect(mayUseModel(policy, model)).toBe(true);
    for (const model of [
      "claude-opus-5-5 ",
      "Claude-Opus-5-5",
      "claude-opus-5",
      "claude-opus-5-5-latest",
      "",
      "ｃlaude-opus-5-5",
    ]) {
      expect(mayUseModel(policy, model)).toBe(false);
    }
    expect(mayUseModel({ ...policy, models: null }, "anything")).toBe(true);
  });

  it("are live up to the very millisecond", () => {
    expect(secretIsLive(policy, "a", 999)).toBe(true);
    expect(secretIsLive(policy, "a", 1000)).toBe(false);
    expect(secretIsLive(policy, "b", 499)).toBe(true);
    expect(secretIsLive(policy, "b", 500)).toBe(false);
    expect(secretIsLive(policy, "c", 0)).toBe(false);
    expect(secretIsLive({ ...policy, revoked_at: 1 }, "a", 0)).toBe(false);
  });
});

describe("timeoutsFor", () => {
  const gateway = { connectMs: 1, firstByteMs: 2, silenceMs: 3, totalMs: 4, streamTotalMs: 5 };
  it("lays a key's own limits over the gateway's, one by one", () => {
    expect(timeoutsFor(gateway, {})).toEqual(gateway);
    expect(timeoutsFor(gateway, { connect_ms: 11 })).toEqual({ ...gateway, connectMs: 11 });
    expect(timeoutsFor(gateway, { first_byte_ms: 12, silence_ms: 13 })).toEqual({
      ...gateway,
      firstByteMs: 12,
      silenceMs: 13,
    });
    expect(timeoutsFor(gateway, { total_ms: 14, stream_total_ms: 15 })).toEqual({
      ...gateway,
      totalMs: 14,
      streamTotalMs: 15,
    });
  });
});

describe("readSettings", () => {
  const good = {
    ANTHROPIC_API_KEY: "k",
    ADMIN_TOKEN: "a",
    KEY_TAG_SECRET: "0123456789abcdef",
    UPSTREAM_URL: "https://u.test/x/",
  };
  it("reads good ones and says in one sentence what is wrong with others, without its value", () => {
    expect(readSettings(good)).toMatchObject({
      ok: true,
      value: { upstreamUrl: "https://u.test/x", timeouts: { silenceMs: 60_000 } },
    });
    for (const [change, message] of [
      [{ ANTHROPIC_API_KEY: "" }, "The secret ANTHROPIC_API_KEY is not set."],
      [{ KEY_TAG_SECRET: "short-canary" }, "The secret KEY_TAG_SECRET is shorter than 16 characters."],
      [{ UPSTREAM_URL: "https://user:canary@u.test" }, "UPSTREAM_URL is not an http or https address"],
      [{ SILENCE_TIMEOUT_MS: "canary" }, "SILENCE_TIMEOUT_MS is not a whole number"],
    ] as const) {
      const result = readSettings({ ...good, ...change });
      expect(result).toMatchObject({ ok: false, error: expect.stringContaining(message) });
      expect(JSON.stringify(result)).not.toContain("canary");
    }
  });
});

describe("describeFailure", () => {
  it("answers every failure in Anthropic's shape", () => {
    const failures: Failure[] = [
      { kind: "unauthenticated" },
      { kind: "rate_limited", limit: "requests", scope: "key", figure: 5, retryAfterMs: 1 },
      { kind: "upstream_timeout", phase: "total", limitMs: 5 },
      { kind: "unavailable", what: "x", retryAfterMs: 1500 },
      { kind: "internal" },
    ];
    expect(failures.map((failure) => [describeFailure(failure).status, describeFailure(failure).type])).toEqual([
      [401, "authentication_error"],
      [429, "rate_limit_error"],
      [504, "timeout_error"],
      [503, "api_error"],
      [500, "api_error"],
    ]);
    expect(describeFailure({ kind: "unavailable", what: "x", retryAfterMs: 1500 }).headers["retry-after"]).toBe("2");
    expect(JSON.parse(errorBody("t", "m", "req_1"))).toEqual({
      type: "error",
      error: { type: "t", message: "m" },
      request_id: "req_1",
    });
  });
});
