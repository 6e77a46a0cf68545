/**
 * Crowds on small limits, in either dialect, through three runtime processes before one ledger. What passes is held against the limit, and
 * against the upstream's own books: calls, tokens, money, and how many ran at once.
 */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { type CountingClaude, MODEL, startCountingClaude } from "../support/counting-claude.ts";
import { type Fleet, type Gateway, type Key, startFleet, until, withKey } from "../support/gateway.ts";

const RUNTIMES = 3;
const MINUTE_MS = 60_000;

let claude: CountingClaude;
let fleet: Fleet;
let gateway: Gateway;

beforeAll(async () => {
  claude = await startCountingClaude();
  // A machine with few cores takes its time to look at a thousand answers. Nobody waits for a slot: the limit is the test.
  fleet = await startFleet(claude.url, RUNTIMES, {
    bindings: { LEDGER_DEADLINE_MS: "5000", QUEUE_WAIT_MS: "0" },
  });
  [gateway] = fleet.gateways;
});
afterAll(async () => {
  await fleet?.stop();
  await claude?.stop();
});
beforeEach(() => {
  claude.forget();
  claude.plan = ({ max_tokens, bytes }) => ({
    inputTokens: Math.ceil(bytes / 4),
    outputTokens: max_tokens,
    lastsMs: 0,
  });
});

/** Alike in length, so that each costs the same. */
const bodyOf = (maxTokens: number, stream: boolean): string =>
  JSON.stringify({
    model: MODEL,
    max_tokens: maxTokens,
    stream,
    pad: stream ? "" : "x",
    messages: [{ role: "user", content: "y".repeat(200) }],
  }).replace('"pad":"x",', '"pad":"",');

type Answered = { readonly status: number; readonly headers: Headers; readonly text: string };

type Ask = { readonly path: string; readonly body: string };
/** How the client of a number asks. */
type Asking = (n: number, maxTokens: number) => Ask;

const asClaude: Asking = (n, maxTokens) => ({ path: "/v1/messages", body: bodyOf(maxTokens, n % 2 === 0) });

/** Both of OpenAI's routes, streamed and not; all ask for much the same. */
const asOpenAI: Asking = (n, maxTokens) => {
  const text = "y".repeat(200);
  const call = { model: MODEL, stream: n % 2 === 0 };
  return n % 4 < 2
    ? {
        path: "/v1/chat/completions",
        body: JSON.stringify({ ...call, max_tokens: maxTokens, messages: [{ role: "user", content: text }] }),
      }
    : {
        path: "/v1/responses",
        body: JSON.stringify({ ...call, max_output_tokens: maxTokens, input: text, store: false }),
      };
};

async function ask(n: number, key: Key, { path, body }: Ask): Promise<Answered> {
  const at = fleet.gateways[n % fleet.gateways.length]?.url;
  const response = await fetch(`${at}${path}`, { method: "POST", headers: withKey(key), body });
  return { status: response.status, headers: response.headers, text: await response.text() };
}

type Crowd = { readonly answers: Answered[]; readonly passed: number; readonly elapsedMs: number };

/** So many clients in the same moment, one after the other to each of the runtimes. */
async function crowd(size: number, keys: readonly Key[], maxTokens = 50, asking = asClaude): Promise<Crowd> {
  const started = Date.now();
  const answers = await Promise.all(
    Array.from({ length: size }, (_, n) => ask(n, keys[n % keys.length] as Key, asking(n, maxTokens))),
  );
  const elapsedMs = Date.now() - started;
  for (const { status, text } of answers) if (status !== 200 && status !== 429) throw new Error(`${status}: ${text}`);
  return { answers, passed: answers.filter(({ status }) => status === 200).length, elapsedMs };
}

/** What came back in the time that a crowd took, and the half second on either side in which nobody saw the clock. */
const refilled = (perMinute: number, elapsedMs: number): number => Math.floor((elapsedMs * perMinute) / MINUTE_MS);

/** Every call is in the audit once, and the sums are what the upstream has made, no more and no less. */
async function expectConserved(keys: readonly Key[], calls: number): Promise<void> {
  const found: string[] = [];
  let [input, output, microUsd, requests, made] = [0, 0, 0, 0, 0];
  for (const key of keys) {
    await gateway.settled(key);
    const rows = await gateway.rows(key, Math.floor(calls / keys.length));
    found.push(...rows.map((row) => String(row.request_id)));
    made += rows.filter((row) => row.status === 200).length;
    const usage = await gateway.usage(`key=${key.id}`);
    expect(usage.unreported).toBe(0);
    input += Number(usage.input_tokens);
    output += Number(usage.output_tokens);
    microUsd += Number(usage.cost_micro_usd);
    requests += rows.length;
  }
  expect(new Set(found).size).toBe(calls);
  expect(requests).toBe(calls);
  expect({ calls: made, inputTokens: input, outputTokens: output, microUsd }).toEqual(claude.made);
  expect(claude.running).toBe(0);
}

function expectTold({ answers }: Crowd, type: string): void {
  for (const { status, headers, text } of answers) {
    if (status === 200) continue;
    expect(JSON.parse(text)).toMatchObject({ type: "error", error: { type } });
    expect(Number(headers.get("retry-after"))).toBeGreaterThanOrEqual(1);
  }
}

const SIZES = [200, 1_000];

describe.each(SIZES)("%i clients at once, in three runtimes", (size) => {
  it("pass requests_per_minute as often as it says, and never once more (R-02)", async () => {
    const key = await gateway.makeKey({ limits: { requests_per_minute: 60, requests_burst: 80 } });
    const crowded = await crowd(size, [key]);
    expect(crowded.passed).toBeLessThanOrEqual(80 + refilled(60, crowded.elapsedMs));
    // One that a runtime has on loan when its last client has been refused goes unused.
    expect(crowded.passed).toBeGreaterThanOrEqual(80 - RUNTIMES);
    expect(claude.made.calls).toBe(crowded.passed);
    expectTold(crowded, "rate_limit_error");
    await expectConserved([key], size);
  });

  it("get no more input tokens than the bucket holds (R-02)", async () => {
    const key = await gateway.makeKey({ limits: { input_tokens_per_minute: 3_000 } });
    const crowded = await crowd(size, [key]);
    const each = claude.made.inputTokens / claude.made.calls;
    expect(claude.made.inputTokens).toBeLessThanOrEqual(3_000 + refilled(3_000, crowded.elapsedMs));
    // The first ones are reserved with a third of room, since nothing is known of the key.
    expect(claude.made.inputTokens).toBeGreaterThanOrEqual(3_000 * 0.7 - each);
    expectTold(crowded, "rate_limit_error");
    await expectConserved([key], size);
  });

  it("get no more output tokens than the bucket holds (R-02)", async () => {
    const key = await gateway.makeKey({ limits: { output_tokens_per_minute: 2_500 } });
    const crowded = await crowd(size, [key], 50);
    expect(claude.made.outputTokens).toBeLessThanOrEqual(2_500 + refilled(2_500, crowded.elapsedMs));
    // What one runtime has on loan while its last clients are refused elsewhere goes unused: a tenth at the most.
    expect(claude.made.outputTokens).toBeGreaterThanOrEqual(2_500 * 0.9 - 50);
    expectTold(crowded, "rate_limit_error");
    await expectConserved([key], size);
  });

  it("never have more calls running than concurrent_requests, and every slot comes back (R-06)", async () => {
    const key = await gateway.makeKey({ limits: { concurrent_requests: 7 } });
    claude.plan = ({ max_tokens, bytes }) => {
      return { inputTokens: Math.ceil(bytes / 4), outputTokens: max_tokens, lastsMs: 30 };
    };
    const crowded = await crowd(size, [key]);
    expect(claude.peak).toBeLessThanOrEqual(7);
    expect(crowded.passed).toBeGreaterThanOrEqual(7);
    expectTold(crowded, "rate_limit_error");
    const { left } = await gateway.settled(key);
    expect(left.concurrent_requests).toEqual({ running: 0, remaining: 7 });
    await expectConserved([key], size);
  });

  it("cost no more than a strict budget, whatever they ask for (B-01, B-03)", async () => {
    const key = await gateway.makeKey({ budget: { usd: 0.05, period: "total", mode: "strict" } });
    claude.plan = ({ max_tokens, bytes }) => {
      const outputTokens = Math.ceil(max_tokens * Math.random());
      return { inputTokens: Math.ceil(bytes / 4), outputTokens, lastsMs: 5 };
    };
    const crowded = await crowd(size, [key], 100);
    expect(crowded.passed).toBeGreaterThanOrEqual(10);
    expect(claude.made.microUsd).toBeLessThanOrEqual(50_000);
    const again = await crowd(size, [key], 100);
    expect(claude.made.microUsd).toBeLessThanOrEqual(50_000);
    for (const one of [crowded, again]) expectBilled(one);
    const { budget } = await gateway.settled(key);
    expect(budget).toMatchObject({ spent_micro_usd: claude.made.microUsd, reserved_micro_usd: 0 });
    await expectConserved([key], 2 * size);
  });

  it("exceed a soft budget by no more than what was running (B-05)", async () => {
    const key = await gateway.makeKey({ budget: { usd: 0.05, period: "total", mode: "soft" } });
    claude.plan = ({ max_tokens, bytes }) => {
      return { inputTokens: Math.ceil(bytes / 4), outputTokens: max_tokens, lastsMs: 20 };
    };
    let passed = 0;
    for (let round = 0; round < 3; round++) passed += (await crowd(size, [key], 100)).passed;
    const each = claude.made.microUsd / claude.made.calls;
    expect(claude.made.microUsd).toBeLessThanOrEqual(50_000 + claude.peak * each);
    expect(passed * each).toBeGreaterThanOrEqual(50_000 - each);
    const { budget } = await gateway.settled(key);
    expect(budget).toMatchObject({ spent_micro_usd: claude.made.microUsd, reserved_micro_usd: 0 });
    await expectConserved([key], 3 * size);
  });
});

describe("200 clients of OpenAI's at once, on both of its routes, in three runtimes", () => {
  const limits = {
    requests_per_minute: 60,
    requests_burst: 120,
    concurrent_requests: 9,
    output_tokens_per_minute: 4_000,
  };
  it.each(["strict", "soft"] as const)(
    "keep every limit and a %s budget at once, to the token and the µUSD (R-02, R-06, B-01, B-05)",
    async (mode) => {
      const key = await gateway.makeKey({ limits, budget: { usd: 0.06, period: "total", mode } });
      claude.plan = ({ max_tokens, bytes }) => ({
        inputTokens: Math.ceil(bytes / 4),
        outputTokens: Math.ceil(max_tokens * Math.random()),
        lastsMs: 10,
      });
      const started = Date.now();
      const answers: Answered[] = [];
      for (let round = 0; round < 2; round++) answers.push(...(await crowd(200, [key], 80, asOpenAI)).answers);
      const elapsedMs = Date.now() - started;
      const passed = answers.filter(({ status }) => status === 200).length;
      expect(passed).toBeGreaterThanOrEqual(9);
      expect(claude.peak).toBeLessThanOrEqual(9);
      expect(claude.made.calls).toBe(passed);
      expect(claude.made.calls).toBeLessThanOrEqual(120 + refilled(60, elapsedMs));
      expect(claude.made.outputTokens).toBeLessThanOrEqual(4_000 + refilled(4_000, elapsedMs));
      const each = (80 * 20 + 100 * 4) * claude.peak;
      expect(claude.made.microUsd).toBeLessThanOrEqual(60_000 + (mode === "soft" ? each : 0));
      for (const { status, headers, text } of answers) {
        if (status === 200) continue;
        const { error } = JSON.parse(text) as { error: { code: string } };
        expect(["rate_limit_exceeded", "insufficient_quota"]).toContain(error.code);
        if (error.code === "insufficient_quota") expect(headers.get("x-should-retry")).toBe("false");
        else expect(Number(headers.get("retry-after"))).toBeGreaterThanOrEqual(1);
      }
      const { budget, left } = await gateway.settled(key);
      expect(budget).toMatchObject({ spent_micro_usd: claude.made.microUsd, reserved_micro_usd: 0 });
      expect(left.concurrent_requests).toEqual({ running: 0, remaining: 9 });
      const rows = (await gateway.audit(key, 400)).filter(({ dialect }) => dialect === "openai");
      expect(new Set(rows.map(({ request_id }) => request_id)).size).toBe(400);
      const { calls, inputTokens, outputTokens, microUsd } = claude.made;
      expect(rows.filter(({ status }) => status === 200)).toHaveLength(calls);
      expect(await gateway.usage(`key=${key.id}`)).toMatchObject({
        ...{ unreported: 0, input_tokens: inputTokens, output_tokens: outputTokens, cost_micro_usd: microUsd },
      });
    },
  );
});

describe("a crowd that stays within nine tenths of a limit, in three runtimes that have never seen its key", () => {
  const cases: [string, Record<string, unknown>][] = [
    ["requests_per_minute", { limits: { requests_per_minute: 200 } }],
    ["input_tokens_per_minute", { limits: { input_tokens_per_minute: 22_000 } }],
    ["output_tokens_per_minute", { limits: { output_tokens_per_minute: 10_000 } }],
    ["concurrent_requests", { limits: { concurrent_requests: 200 } }],
    ["a strict budget", { budget: { usd: 0.46, period: "total", mode: "strict" } }],
    ["a soft budget", { budget: { usd: 0.46, period: "total", mode: "soft" } }],
  ];
  it.each(cases)("%s: at least 99 of a hundred pass (R-02)", async (_, fields) => {
    const key = await gateway.makeKey(fields);
    const { passed } = await crowd(180, [key]);
    expect(passed).toBeGreaterThanOrEqual(179);
    await expectConserved([key], 180);
  });
});

/** A refusal for money: not to be tried again by itself, and with a time only where time helps. */
function expectBilled({ answers }: Crowd): void {
  for (const { status, headers, text } of answers) {
    if (status === 200) continue;
    expect(JSON.parse(text)).toMatchObject({ type: "error", error: { type: "billing_error" } });
    expect(headers.get("x-should-retry")).toBe("false");
  }
}

describe("a workspace with limits of its own (B-02)", () => {
  it("shares them among its keys, in three runtimes, and a refusal leaves nothing reserved with the other", async () => {
    const id = `ws_crowd_${Date.now()}`;
    const limits = { requests_per_minute: 120, concurrent_requests: 9 };
    const budget = { usd: 0.06, period: "total", mode: "strict" };
    const made = await gateway.admin("workspaces", { json: { id, name: "crowd", limits, budget } });
    expect(made.status).toBe(201);
    const keys = await Promise.all(
      [
        { requests_per_minute: 10 },
        { requests_per_minute: 1_000 },
        { concurrent_requests: 2 },
        { output_tokens_per_minute: 400 },
        {},
      ].map((own) => gateway.makeKey({ workspace: id, limits: own })),
    );
    claude.plan = ({ max_tokens, bytes }) => {
      return { inputTokens: Math.ceil(bytes / 4), outputTokens: max_tokens, lastsMs: 15 };
    };
    const started = Date.now();
    let calls = 0;
    for (let round = 0; round < 4; round++) {
      await crowd(200, keys);
      calls += 200;
    }
    expect(claude.peak).toBeLessThanOrEqual(9);
    expect(claude.made.calls).toBeLessThanOrEqual(120 + refilled(120, Date.now() - started));
    expect(claude.made.microUsd).toBeLessThanOrEqual(60_000);
    await expectConserved(keys, calls);
    const [first, , slow] = await Promise.all(keys.map((key) => gateway.settled(key)));
    expect(first?.shared?.budget).toMatchObject({ spent_micro_usd: claude.made.microUsd, reserved_micro_usd: 0 });
    expect(first?.shared?.left.concurrent_requests).toEqual({ running: 0, remaining: 9 });
    expect(slow?.left.concurrent_requests).toEqual({ running: 0, remaining: 2 });
    const sums = await gateway.usage(`group_by=workspace&workspace=${id}`);
    expect(sums.cost_micro_usd).toBe(claude.made.microUsd);
  });

  it("takes nothing of a key's bucket for what the workspace refuses, nor of the workspace's for what the key does", async () => {
    const id = `ws_both_${Date.now()}`;
    await gateway.admin("workspaces", {
      json: { id, name: "both", limits: { requests_per_minute: 1, requests_burst: 20 } },
    });
    const wide = await gateway.makeKey({ workspace: id, limits: { requests_per_minute: 1, requests_burst: 500 } });
    const narrow = await gateway.makeKey({ workspace: id, limits: { requests_per_minute: 1, requests_burst: 5 } });
    const few = await crowd(100, [narrow]);
    expect(few.passed).toBeGreaterThanOrEqual(5);
    expect(few.passed).toBeLessThanOrEqual(5 + refilled(1, few.elapsedMs));
    const most = await crowd(200, [wide]);
    const together = few.passed + most.passed;
    expect(together).toBeGreaterThanOrEqual(20);
    expect(together).toBeLessThanOrEqual(20 + refilled(1, few.elapsedMs + most.elapsedMs) + 1);
    // What other runtimes had been lent comes back when their leases have run out.
    const { shared } = await until(async () => {
      const standing = await gateway.standing(wide);
      return (standing.left.requests?.remaining ?? 0) >= 500 - most.passed ? standing : undefined;
    }, "all that was not used to be back");
    expect(shared?.left.requests?.remaining).toBeLessThanOrEqual(1);
  });
});
