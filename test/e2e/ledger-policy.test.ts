/** Changes of a key while it is used, how soon each is in force, in two runtimes; and what its clients are told. */
import Anthropic from "@anthropic-ai/sdk";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { LEASE_MS } from "../../src/ledger/protocol.ts";
import { event, MODEL } from "../support/counting-claude.ts";
import { type Fleet, type Gateway, type Key, startFleet, until, withKey } from "../support/gateway.ts";
import { pause, type ScriptedUpstream, startScriptedUpstream } from "../support/scripted-upstream.ts";

/** What a call itself may take on a busy machine, beyond the time that a change may. */
const CALL_MS = 500;

let upstream: ScriptedUpstream;
let fleet: Fleet;
let gateway: Gateway;

beforeAll(async () => {
  upstream = await startScriptedUpstream();
  fleet = await startFleet(upstream.url, 2, { bindings: { LEDGER_DEADLINE_MS: "5000" } });
  [gateway] = fleet.gateways;
});
afterAll(async () => {
  await fleet?.stop();
  await upstream?.stop();
});

type Asked = { readonly max_tokens: number; readonly stream?: boolean; readonly lasts?: number };
const usageOf = (output: number) => ({ input_tokens: 100, output_tokens: output });

beforeEach(() => {
  upstream.received.length = 0;
  upstream.script = async (response, { body, target }) => {
    if (target.includes("count_tokens")) {
      response.setHeader("content-type", "application/json");
      return void response.end('{"input_tokens":7}');
    }
    const { max_tokens, stream, lasts = 0 } = JSON.parse(body.toString()) as Asked;
    if (!stream) {
      response.setHeader("content-type", "application/json");
      const message = { id: "msg_1", type: "message", role: "assistant", model: MODEL, content: [] };
      return void response.end(JSON.stringify({ ...message, stop_reason: "end_turn", usage: usageOf(max_tokens) }));
    }
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(event("message_start", { message: { model: MODEL, usage: usageOf(1) } }));
    for (let at = 0; at < lasts && !response.destroyed; at += 100) {
      await pause(100);
      response.write(event("content_block_delta", { index: 0, delta: { type: "text_delta", text: "word " } }));
    }
    response.end(event("message_delta", { usage: usageOf(max_tokens) }) + event("message_stop"));
  };
});

const ask = (at: Gateway, key: Key, fields: object = {}, path = "/v1/messages"): Promise<Response> =>
  fetch(`${at.url}${path}`, {
    method: "POST",
    headers: withKey(key),
    body: JSON.stringify({ model: MODEL, max_tokens: 50, messages: [{ role: "user", content: "hello" }], ...fields }),
  });

const change = async (key: Key, fields: Record<string, unknown>): Promise<number> => {
  const response = await gateway.admin(`keys/${key.id}`, { method: "PATCH", json: fields });
  expect(response.status).toBe(200);
  return Date.now();
};

/** Calls both runtimes until each answers in the new way; tells when each of them first did. */
async function inForce(key: Key, isNew: (response: Response) => boolean): Promise<number> {
  const times = await Promise.all(
    fleet.gateways.map((at) =>
      until(async () => {
        const response = await ask(at, key);
        await response.text();
        return isNew(response) ? Date.now() : undefined;
      }, "the change"),
    ),
  );
  // And it stays so.
  for (const at of fleet.gateways) expect(isNew(await ask(at, key))).toBe(true);
  return Math.max(...times);
}

describe("a change of a key that is in use is in force in both runtimes within two seconds", () => {
  const warm = async (fields: Record<string, unknown> = {}): Promise<Key> => {
    const key = await gateway.makeKey(fields);
    for (const at of fleet.gateways) for (let i = 0; i < 3; i++) expect((await ask(at, key)).status).toBe(200);
    return key;
  };

  it("its revocation (K-07)", async () => {
    const key = await warm();
    const revoked = await gateway.admin(`keys/${key.id}`, { method: "DELETE" });
    expect(revoked.status).toBe(200);
    const since = Date.now();
    expect((await inForce(key, ({ status }) => status === 401)) - since).toBeLessThan(LEASE_MS + CALL_MS);
  });

  it("its limits, its models and its budget", async () => {
    const key = await warm({ limits: { requests_per_minute: 10_000 } });
    const limit = ({ headers }: Response) => headers.get("anthropic-ratelimit-requests-limit");
    let since = await change(key, { limits: { requests_per_minute: 5_000 } });
    expect((await inForce(key, (response) => limit(response) === "5000")) - since).toBeLessThan(LEASE_MS + CALL_MS);
    since = await change(key, { budget: { usd: 0.000001, period: "day", mode: "strict" } });
    expect((await inForce(key, ({ status }) => status === 429)) - since).toBeLessThan(LEASE_MS + CALL_MS);
    since = await change(key, { budget: null, models: ["claude-haiku-*"] });
    expect((await inForce(key, ({ status }) => status === 403)) - since).toBeLessThan(LEASE_MS + CALL_MS);
  });

  it.each([
    ["finish", "cancel", "message_stop"],
    ["cut", "cancel", "event: error"],
    ["cut", "drain", "event: error"],
  ])(
    "a running stream of a revoked key, on_revoke %s, on_disconnect %s: ends with %s (K-08)",
    async (on_revoke, on_disconnect, end) => {
      const key = await gateway.makeKey({ on_revoke, on_disconnect });
      await Promise.all(
        fleet.gateways.map(async (at) => {
          const response = await ask(at, key, { stream: true, lasts: 4_000 });
          expect(response.status).toBe(200);
          if (at === gateway) await gateway.admin(`keys/${key.id}`, { method: "DELETE" });
          const since = Date.now();
          const text = await response.text();
          expect(text).toContain(end);
          if (on_revoke === "cut") {
            expect(text).not.toContain("message_stop");
            expect(Date.now() - since).toBeLessThan(LEASE_MS + CALL_MS + 500);
          }
        }),
      );
      const rows = await gateway.rows(key, 2);
      for (const row of rows) expect(row.output_tokens).toBeGreaterThan(0);
    },
  );

  /** A secret that ends at a moment works until then, and not once after it, wherever it is used. */
  async function expectEnd(key: Key, endsAt: number): Promise<void> {
    let [before, after] = [0, 0];
    await Promise.all(
      fleet.gateways.map(async (at) => {
        while (Date.now() < endsAt + 700) {
          const sentAt = Date.now();
          const { status } = await ask(at, key);
          if (Date.now() < endsAt) {
            expect(status).toBe(200);
            before++;
          } else if (sentAt >= endsAt) {
            expect(status).toBe(401);
            after++;
          }
          await pause(20);
        }
      }),
    );
    expect(Math.min(before, after)).toBeGreaterThan(1);
  }

  it("an old secret works until its grace ends, and not once after it", async () => {
    const old = await gateway.makeKey();
    const response = await gateway.admin(`keys/${old.id}/rotate`, { json: { grace_seconds: 3 } });
    const rotated = (await response.json()) as Key & { secrets: { expires_at: string | null }[] };
    const ends = rotated.secrets.map((secret) => secret.expires_at).find((time) => time !== null);
    await expectEnd(old, Date.parse(String(ends)));
    for (const at of fleet.gateways) expect((await ask(at, rotated)).status).toBe(200);
  });

  it("a key works until it expires, and not once after it", async () => {
    const endsAt = Math.ceil(Date.now() / 1000) * 1000 + 2_000;
    const key = await gateway.makeKey({ expires_at: new Date(endsAt).toISOString() });
    await expectEnd(key, endsAt);
  });
});

describe("what the client is told", () => {
  const RFC_3339 = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/;
  const limits = {
    requests_per_minute: 2,
    requests_burst: 4,
    input_tokens_per_minute: 50_000,
    output_tokens_per_minute: 8_000,
  };

  it("its buckets on every kind of answer, as GET /v1/key has them", async () => {
    const key = await gateway.makeKey({ limits });
    const answers = [
      await ask(gateway, key),
      await ask(gateway, key, { stream: true }),
      await ask(gateway, key, {}, "/v1/messages/count_tokens"),
      await ask(gateway, key, { max_tokens: "five" }),
    ];
    for (const answer of answers) await answer.text();
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 200, 400]);
    await ask(gateway, key);
    const refused = await ask(gateway, key);
    expect(refused.status).toBe(429);
    expect(Number(refused.headers.get("retry-after"))).toBeGreaterThan(0);
    expect(await refused.json()).toMatchObject({ error: { type: "rate_limit_error" } });
    for (const { headers } of [...answers, refused]) {
      for (const [name, limit] of [
        ["requests", 4],
        ["input-tokens", 50_000],
        ["output-tokens", 8_000],
      ] as const) {
        expect([name, headers.get(`anthropic-ratelimit-${name}-limit`)]).toEqual([name, String(limit)]);
        const remaining = Number(headers.get(`anthropic-ratelimit-${name}-remaining`));
        expect(remaining).toBeGreaterThanOrEqual(0);
        expect(remaining).toBeLessThanOrEqual(limit);
        expect(headers.get(`anthropic-ratelimit-${name}-reset`)).toMatch(RFC_3339);
      }
      expect(headers.get("anthropic-ratelimit-unified-status")).toBeNull();
    }
    expect(answers.map(({ headers }) => headers.get("anthropic-ratelimit-requests-remaining"))).toEqual([
      "3",
      "2",
      "1",
      "1",
    ]);
    expect(refused.headers.get("anthropic-ratelimit-requests-remaining")).toBe("0");
    const { left } = await until(async () => {
      const standing = await gateway.standing(key);
      // Three answers of 50 tokens each; a minute brings 8,000 back.
      return (standing.left.output_tokens?.remaining ?? 0) >= 8_000 - 150 ? standing : undefined;
    }, "the answers to be counted");
    expect(left.requests?.remaining).toBe(0);
  });

  it("the SDK waits out a refusal, and raises it where it may not retry", async () => {
    const key = await gateway.makeKey({ limits: { requests_per_minute: 60, requests_burst: 1 } });
    const client = (maxRetries: number) => new Anthropic({ baseURL: gateway.url, apiKey: key.key, maxRetries });
    const call = { model: MODEL, max_tokens: 5, messages: [{ role: "user" as const, content: "x" }] };
    await client(0).messages.create(call);
    const refused = await client(0)
      .messages.create(call)
      .catch((error: unknown) => error);
    expect(refused).toBeInstanceOf(Anthropic.RateLimitError);
    expect((refused as InstanceType<typeof Anthropic.RateLimitError>).headers.get("retry-after")).toBe("1");
    const started = Date.now();
    await client(2).messages.create(call);
    expect(Date.now() - started).toBeGreaterThan(500);
    expect(upstream.received).toHaveLength(2);
  });

  it("a request larger than its bucket is refused at once, by whichever limit, and never waits (R-04)", async () => {
    const key = await gateway.makeKey({ limits: { input_tokens_per_minute: 1_000 } });
    const response = await ask(gateway, key, { messages: [{ role: "user", content: "word ".repeat(4_000) }] });
    expect(response.status).toBe(429);
    expect(response.headers.get("x-should-retry")).toBe("false");
    expect(response.headers.get("retry-after")).toBeNull();
    expect(await response.text()).toMatch(/1[,. ]?000/);
    expect(upstream.received).toHaveLength(0);
    expect((await ask(gateway, key)).status).toBe(200);
  });

  it("its budget at 75 and 95 percent, and that it is spent; count_tokens goes on (R-03)", async () => {
    // 100 tokens in, 230 out: 400 + 4,600 µUSD, a twentieth of the budget.
    const key = await gateway.makeKey({ budget: { usd: 0.1, period: "day", mode: "soft" } });
    const seen: [string | null, string | null][] = [];
    let last: Response | undefined;
    for (let n = 0; n < 22; n++) {
      last = await ask(gateway, key, { max_tokens: 230 });
      await last.text();
      if (last.status !== 200) break;
      const { headers } = last;
      seen.push([
        headers.get("anthropic-ratelimit-unified-status"),
        headers.get("anthropic-ratelimit-unified-overage-surpassed-threshold"),
      ]);
      await gateway.settled(key);
    }
    // What an answer tells is what had been spent before it.
    expect(seen).toEqual([
      ...Array.from({ length: 15 }, () => ["allowed", null]),
      ...Array.from({ length: 4 }, () => ["allowed_warning", "0.75"]),
      ["allowed_warning", "0.95"],
    ]);
    expect(last?.status).toBe(429);
    expect(Object.fromEntries(last?.headers ?? [])).toMatchObject({
      "x-should-retry": "false",
      "anthropic-ratelimit-unified-status": "rejected",
      "anthropic-ratelimit-unified-overage-surpassed-threshold": "1",
      "anthropic-ratelimit-unified-overage-disabled-reason": "org_spend_cap_reached",
    });
    const midnight = Math.floor(Date.now() / 86_400_000 + 1) * 86_400;
    expect(last?.headers.get("anthropic-ratelimit-unified-reset")).toBe(String(midnight));
    const wait = Number(last?.headers.get("retry-after"));
    expect(Math.abs(wait - (midnight - Date.now() / 1000))).toBeLessThan(30);
    const counted = await ask(gateway, key, {}, "/v1/messages/count_tokens");
    expect(counted.status).toBe(200);
    const sdk = new Anthropic({ baseURL: gateway.url, apiKey: key.key, maxRetries: 3 });
    const before = upstream.received.length;
    const refused = await sdk.messages
      .create({ model: MODEL, max_tokens: 5, messages: [{ role: "user", content: "x" }] })
      .catch((error: unknown) => error);
    expect(refused).toMatchObject({ status: 429, error: { error: { type: "billing_error" } } });
    expect(upstream.received).toHaveLength(before);
    // The SDK has not tried again.
    expect(await gateway.rows(key, 22)).toHaveLength(22);
    expect((await gateway.settled(key)).budget).toMatchObject({
      limit_micro_usd: 100_000,
      spent_micro_usd: 100_000,
      reserved_micro_usd: 0,
      remaining_micro_usd: 0,
    });
  });
});

describe("prices", () => {
  const M = 1_000_000;
  const cases: [string, string, object, number][] = [
    ["plain", MODEL, { input_tokens: 1_000, output_tokens: 500 }, 1_000 * 4 + 500 * 20],
    [
      "cache writes of both kinds and reads",
      MODEL,
      {
        input_tokens: 10,
        cache_creation_input_tokens: 3_000,
        cache_creation: { ephemeral_5m_input_tokens: 1_000, ephemeral_1h_input_tokens: 2_000 },
        cache_read_input_tokens: 10_000,
        output_tokens: 10,
      },
      10 * 4 + 1_000 * 5 + 2_000 * 8 + 10_000 * 0.2 + 10 * 20,
    ],
    [
      "cache writes without their kind: five minutes",
      MODEL,
      { input_tokens: 0, cache_creation_input_tokens: 3_000, output_tokens: 0 },
      3_000 * 5,
    ],
    ["fast", MODEL, { input_tokens: 1_000, output_tokens: 500, speed: "fast" }, 2 * 14_000],
    ["in the US", MODEL, { input_tokens: 1_000, output_tokens: 500, inference_geo: "us" }, 15_400],
    ["fast in the US", MODEL, { input_tokens: 1_000, output_tokens: 500, inference_geo: "us", speed: "fast" }, 30_800],
    [
      "in the US, where that costs nothing more",
      "claude-haiku-4-5-20251001",
      { input_tokens: 1_000, output_tokens: 500, inference_geo: "us" },
      1_000 + 2_500,
    ],
    ["of the batch tier", MODEL, { input_tokens: 1_000, output_tokens: 500, service_tier: "batch" }, 7_000],
    [
      "three web searches and two fetches",
      MODEL,
      { input_tokens: 1_000, output_tokens: 0, server_tool_use: { web_search_requests: 3, web_fetch_requests: 2 } },
      4_000 + 30_000,
    ],
    ["a prompt of 100,000", "claude-haiku-5-5", { input_tokens: 100_000, output_tokens: 1_000 }, 10_000 + 500],
    [
      "a prompt of 100,001, cache reads included: all of it dearer",
      "claude-haiku-5-5",
      { input_tokens: 1, cache_read_input_tokens: 100_000, output_tokens: 1_000 },
      // 0.5 + 5,000 + 2,500, rounded half up.
      7_501,
    ],
    ["half a µUSD, rounded up", "claude-haiku-5-5", { input_tokens: 5, output_tokens: 0 }, 1],
    ["less than half of one", "claude-haiku-5-5", { input_tokens: 4, output_tokens: 0 }, 0],
    [
      "an unknown model: the dearest of its family (B-10)",
      "claude-opus-99",
      { input_tokens: 1_000, output_tokens: 100 },
      7_500,
    ],
    [
      "of no known family: the dearest of all (B-10)",
      "claude-new-1",
      { input_tokens: 1_000, output_tokens: 100 },
      15_000,
    ],
    [
      "a compaction beside the answer",
      MODEL,
      {
        input_tokens: 120,
        output_tokens: 33,
        iterations: [
          { type: "compaction", input_tokens: 150_500, output_tokens: 900 },
          { type: "message", model: MODEL, input_tokens: 120, output_tokens: 33 },
        ],
      },
      120 * 4 + 33 * 20 + 150_500 * 4 + 900 * 20,
    ],
    ["a million tokens", "claude-fable-5-2", { input_tokens: M, output_tokens: 128_000 }, 8 * M + 128_000 * 40],
  ];

  it.each(["a stream", "one piece"])("of every odd case are those worked out by hand, in %s (B-05)", async (how) => {
    const key = await gateway.makeKey({ budget: { usd: 1_000, period: "total", mode: "strict" } });
    const stream = how === "a stream";
    for (const [, model, usage] of cases) {
      upstream.script = (response) => {
        response.setHeader("content-type", stream ? "text/event-stream" : "application/json");
        if (!stream) return void response.end(JSON.stringify({ type: "message", model, content: [], usage }));
        const { output_tokens } = usage as { output_tokens: number };
        // The split stands in the first event alone, the total of the output in the last.
        const { cache_creation: _, ...later } = usage as { cache_creation?: object };
        response.end(
          event("message_start", {
            message: { model, usage: { ...usage, output_tokens: Math.min(1, output_tokens) } },
          }) +
            event("message_delta", { usage: later }) +
            event("message_stop"),
        );
      };
      expect((await ask(gateway, key, { model, stream })).status).toBe(200);
    }
    const rows = await gateway.rows(key, cases.length);
    expect(rows.map((row, i) => [cases[i]?.[0], row.cost_micro_usd])).toEqual(
      cases.map(([name, , , cost]) => [name, cost]),
    );
    const total = cases.reduce((sum, [, , , cost]) => sum + cost, 0);
    expect((await gateway.settled(key)).budget?.spent_micro_usd).toBe(total);
    expect((await gateway.usage(`key=${key.id}`)).cost_micro_usd).toBe(total);
  });

  it("replaced while calls go on count at once where they were put, and no call is lost or counted by both", async () => {
    const key = await gateway.makeKey();
    let going = true;
    let calls = 0;
    const traffic = Promise.all(
      Array.from({ length: 5 }, async () => {
        while (going) {
          expect((await ask(gateway, key)).status).toBe(200);
          calls++;
          await pause(20);
        }
      }),
    );
    await pause(400);
    const rate = { input: 7, output: 70, cache_read: 1, cache_write_5m: 8, cache_write_1h: 9 };
    const list = {
      models: { [MODEL]: { rates: [rate] } },
      inference_geo_us_multiplier: 1.1,
      batch_multiplier: 0.5,
      web_search_request_usd: 0.01,
    };
    const put = await gateway.admin("prices", { method: "PUT", json: list });
    expect([put.status, put.status === 200 || (await put.text())]).toEqual([200, true]);
    const putAt = Date.now();
    await pause(400);
    going = false;
    await traffic;
    const restored = await gateway.admin("prices", { method: "DELETE" });
    expect(restored.status).toBe(200);
    const rows = await gateway.rows(key, calls);
    expect(rows).toHaveLength(calls);
    const [before, after] = [100 * 4 + 50 * 20, 100 * 7 + 50 * 70];
    for (const row of rows) expect([before, after]).toContain(row.cost_micro_usd);
    const later = rows.filter((row) => Date.parse(String(row.at)) > putAt);
    expect(later.length).toBeGreaterThan(5);
    for (const row of later) expect(row.cost_micro_usd).toBe(after);
  });
});
