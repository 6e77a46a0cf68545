/** What the gateway tells Prometheus, beside what its audit says and over deaths of its runtime. */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { ROOT } from "../../scripts/local-runtime.ts";
import { type Scrape, scraped } from "../metrics/scraped.ts";
import { ADMIN_TOKEN, type Key, UPSTREAM_KEY, until, withKey } from "../support/gateway.ts";
import { pause, type ScriptedUpstream, startScriptedUpstream } from "../support/scripted-upstream.ts";

const STREAM = readFileSync(join(import.meta.dirname, "../fixtures/anthropic/text-basic.sse"), "utf8");
const FIRST_EVENT = STREAM.slice(0, STREAM.indexOf("\n\n") + 2);
/** The longest that a settlement stays in an isolate's memory alone, and room for a busy machine. */
const SETTLED_MS = 1_500;

const folder = mkdtempSync(join(tmpdir(), "sluice-metrics-"));
const children: ChildProcess[] = [];
let upstream: ScriptedUpstream;

beforeAll(async () => {
  upstream = await startScriptedUpstream();
  upstream.script = async (response, request) => {
    const body = request.body.toString();
    const json = (status: number, answer: unknown) => {
      response.writeHead(status, { "content-type": "application/json", "request-id": "req_upstream" });
      response.end(JSON.stringify(answer));
    };
    if (request.target.endsWith("/count_tokens")) return json(200, { input_tokens: 7 });
    if (request.target.startsWith("/v1/models")) return json(200, { data: [], has_more: false });
    if (body.includes("please fail")) {
      return json(529, { type: "error", error: { type: "overloaded_error", message: "PROMPT-CANARY" } });
    }
    if (body.includes('"stream":true')) {
      response.writeHead(200, { "content-type": "text/event-stream; charset=utf-8", "request-id": "req_upstream" });
      response.write(FIRST_EVENT);
      if (body.includes("please cut")) return void setTimeout(() => response.socket.destroy(), 50);
      // A client that leaves is noticed with the next event.
      while (body.includes("please go on") && !response.destroyed) {
        response.write('event: ping\ndata: {"type":"ping"}\n\n');
        await pause(20);
      }
      if (body.includes("please wait")) await pause(700);
      return void response.end(STREAM.slice(FIRST_EVENT.length));
    }
    const { model } = JSON.parse(body) as { model: string };
    const usage = { input_tokens: 11, output_tokens: 5, cache_read_input_tokens: 3, cache_creation_input_tokens: 2 };
    json(200, {
      type: "message",
      model,
      content: [{ type: "text", text: "PROMPT-CANARY" }],
      stop_reason: "end_turn",
      usage,
    });
  };
});
afterEach(async () => {
  for (const child of children.splice(0)) await kill(child);
});
afterAll(async () => {
  await upstream?.stop();
  rmSync(folder, { recursive: true, force: true });
});

/** `npm start` in a process group of its own, on a state folder. */
async function start(stateDir: string): Promise<{ url: string; child: ChildProcess }> {
  const child = spawn("npm", ["start", "--silent"], {
    cwd: ROOT,
    env: {
      ...process.env,
      PORT: "0",
      STATE_DIR: stateDir,
      UPSTREAM_URL: upstream.url,
      ANTHROPIC_API_KEY: UPSTREAM_KEY,
      ADMIN_TOKEN,
    },
    detached: true,
    stdio: ["ignore", "pipe", "pipe"],
  });
  children.push(child);
  let text = "";
  child.stdout?.on("data", (piece: Buffer) => {
    text += piece;
  });
  child.stderr?.resume();
  const url = await until(() => /^ {2}gateway +(\S+)/m.exec(text)?.[1], "the gateway to start");
  return { url, child };
}

/** `kill -9` for the whole group: nobody has the time to write anything. */
async function kill(child: ChildProcess): Promise<void> {
  const group = -(child.pid ?? 0);
  const send = (signal: NodeJS.Signals | 0): boolean => {
    try {
      return process.kill(group, signal);
    } catch {
      return false;
    }
  };
  send("SIGKILL");
  await until(() => !send(0) || undefined, "the processes to end");
}

const ADMIN = { authorization: `Bearer ${ADMIN_TOKEN}`, "content-type": "application/json" };

async function makeKey(url: string, fields: Record<string, unknown> = {}): Promise<Key> {
  const body = JSON.stringify({ name: "NAME-CANARY", ...fields });
  return (await (await fetch(`${url}/admin/keys`, { method: "POST", headers: ADMIN, body })).json()) as Key;
}

async function scrape(url: string): Promise<Scrape & { text: string }> {
  const response = await fetch(`${url}/metrics`, { headers: ADMIN });
  const text = await response.text();
  expect([response.status, text.slice(0, response.status === 200 ? 0 : 300)]).toEqual([200, ""]);
  return { ...scraped(text), text };
}

const KINDS = {
  input: "input_tokens",
  output: "output_tokens",
  cache_read: "cache_read_input_tokens",
  cache_write_5m: "cache_creation_5m_input_tokens",
  cache_write_1h: "cache_creation_1h_input_tokens",
  thinking: "thinking_tokens",
};

/** What is told by both: the audit's sums, and the same of the metrics. */
async function bothSums(url: string) {
  const { data } = (await (await fetch(`${url}/admin/usage?group_by=key`, { headers: ADMIN })).json()) as {
    data: Record<string, number>[];
  };
  const total = (name: string) => data.reduce((sum, row) => sum + (row[name] ?? 0), 0);
  const metrics = await scrape(url);
  const unreported = (name: string) =>
    metrics.sum(`sluice_unreported_${name}_total`, { entry: "booked" }) -
    metrics.sum(`sluice_unreported_${name}_total`, { entry: "returned" });
  const complete = metrics.sum("sluice_requests_total", { outcome: "complete" });
  const audit: Record<string, number> = {
    requests: total("requests"),
    errors: total("errors"),
    unreported: total("unreported"),
    estimated: total("estimated") - total("unreported"),
    cost: total("cost_micro_usd"),
    ...Object.fromEntries(Object.values(KINDS).map((name) => [name, total(name)])),
  };
  const told: Record<string, number> = {
    requests: metrics.sum("sluice_requests_total") + unreported("requests"),
    errors: metrics.sum("sluice_requests_total") - complete,
    unreported: unreported("requests"),
    estimated: metrics.sum("sluice_estimated_requests_total"),
    cost: metrics.sum("sluice_cost_micro_usd_total") + unreported("cost_micro_usd"),
    ...Object.fromEntries(
      Object.entries(KINDS).map(([kind, name]) => [name, metrics.sum("sluice_tokens_total", { kind })]),
    ),
  };
  return { audit, told, metrics };
}

/**
 * The metrics once the audit has so many calls and both say the same. What a killed isolate had been lent is booked half
 * a minute later, in both, and is no call.
 */
async function agreed(url: string, calls: number) {
  let last: Awaited<ReturnType<typeof bothSums>> | undefined;
  const counted = () => (last?.audit.requests ?? 0) - (last?.audit.unreported ?? 0);
  await until(async () => {
    last = await bothSums(url);
    return (JSON.stringify(last.audit) === JSON.stringify(last.told) && counted() >= calls) || undefined;
  }, `${calls} calls in audit and metrics`).catch(() => {});
  expect(last?.told).toEqual(last?.audit);
  expect(counted()).toBe(calls);
  if (!last) throw new Error("nothing was read");
  return last;
}

/** Fails where a counter, or a bucket of a histogram, is lower or gone. */
function expectNoFall(before: Scrape, after: Scrape): void {
  for (const [name, { type, samples }] of before.families) {
    if (type === "gauge") continue;
    for (const [series, value] of samples) {
      const now = after.families.get(name)?.samples.get(series);
      if (now === undefined || now < value) throw new Error(`${series} fell from ${value} to ${now}`);
    }
  }
}

const body = (fields: Record<string, unknown> = {}, content = "PROMPT-CANARY") =>
  JSON.stringify({ model: "claude-opus-5-5", max_tokens: 50, messages: [{ role: "user", content }], ...fields });
async function post(url: string, key: Key, text: string, path = "/v1/messages"): Promise<number> {
  const response = await fetch(`${url}${path}`, {
    method: "POST",
    headers: withKey(key, { "user-agent": "AGENT-CANARY", "x-claude-code-session-id": "SESSION-CANARY" }),
    body: text,
  });
  await response.text().catch(() => {});
  return response.status;
}
/** Leaves a stream after its first bytes. */
async function leave(url: string, key: Key): Promise<void> {
  const left = new AbortController();
  const response = await fetch(`${url}/v1/messages`, {
    method: "POST",
    headers: withKey(key),
    body: body({ stream: true }, "please go on"),
    signal: left.signal,
  });
  await response.body?.getReader().read();
  left.abort();
}

describe("GET /metrics", () => {
  it("L-06 adds up exactly to /admin/usage, for calls that end in every way, and holds no word of theirs", async () => {
    const { url } = await start(join(folder, "sums"));
    const [key, other, few, poor, drained] = await Promise.all(
      [
        {},
        { workspace: "ws_other" },
        { limits: { requests_per_minute: 1 } },
        { budget: { usd: 0.000001, period: "total" } },
        { on_disconnect: "drain" },
      ].map((fields) => makeKey(url, fields)),
    );
    if (!key || !other || !few || !poor || !drained) throw new Error("no keys");
    expect(await post(url, key, body())).toBe(200);
    expect(await post(url, key, body({ model: "claude-opus-5-5-20261121" }))).toBe(200);
    expect(await post(url, other, body({ model: "MODEL-CANARY" }))).toBe(200);
    expect(await post(url, key, body({ stream: true }))).toBe(200);
    expect(await post(url, drained, body({ stream: true }))).toBe(200);
    expect(await post(url, key, body({}, "please fail"))).toBe(529);
    expect(await post(url, key, "{")).toBe(400);
    expect(await post(url, key, body({ stream: true }, "please cut"))).toBe(200);
    expect(await post(url, key, body(), "/v1/messages/count_tokens")).toBe(200);
    expect([await post(url, few, body()), await post(url, few, body())]).toEqual([200, 429]);
    expect(await post(url, poor, body())).toBe(429);
    expect((await fetch(`${url}/v1/models`, { headers: withKey(other) })).status).toBe(200);
    expect((await fetch(`${url}/v1/key`, { headers: withKey(other) })).status).toBe(200);
    await leave(url, key);
    // A 401 is nobody's call.
    expect(await post(url, { id: "", key: "sk-sluice-forged" }, body())).toBe(401);

    const { metrics, audit } = await agreed(url, 15);
    expect(audit.cost).toBeGreaterThan(0);
    expect(metrics.sum("sluice_denials_total")).toBe(2);
    expect(metrics.value('sluice_denials_total{reason="requests"}')).toBe(1);
    expect(metrics.value('sluice_denials_total{reason="budget"}')).toBe(1);
    expect(metrics.sum("sluice_requests_total", { model: "claude-opus-5-5", status: "529", outcome: "error" })).toBe(1);
    expect(metrics.sum("sluice_requests_total", { model: "other" })).toBe(1);
    expect(metrics.sum("sluice_requests_total", { outcome: "upstream_cut" })).toBe(1);
    expect(metrics.sum("sluice_requests_total", { outcome: "client_gone" })).toBe(1);
    expect(metrics.sum("sluice_requests_total", { route: "/v1/key" })).toBe(1);
    expect(metrics.sum("sluice_request_duration_seconds_count")).toBe(13);
    expect(metrics.sum("sluice_time_to_first_byte_seconds_count", { stream: "true" })).toBeGreaterThanOrEqual(4);
    expect(metrics.sum("sluice_ledger_wait_seconds_count")).toBe(metrics.sum("sluice_admissions_total"));
    expect(metrics.sum("sluice_ledger_calls_total")).toBeGreaterThan(5);
    expect(metrics.sum("sluice_unreadable_records_total")).toBe(0);
    for (const word of [key.key, key.id, ADMIN_TOKEN, UPSTREAM_KEY]) expect(metrics.text).not.toContain(word);
    expect(metrics.text).not.toMatch(/CANARY|key_|req_|ws_|msg_|sk-/);
    // Streams that have ended are told to have ended.
    await until(async () => (await scrape(url)).value("sluice_open_streams") === 0 || undefined, "no open stream");
  }, 60_000);

  it("L7 counts on where it was after every kill -9: no counter falls, and nothing is counted twice or lost", async () => {
    const stateDir = join(folder, "kills");
    let { url, child } = await start(stateDir);
    const keys = await Promise.all([makeKey(url), makeKey(url, { workspace: "ws_two" })]);
    let calls = 0;
    let before: Scrape | undefined;
    for (let round = 0; round < 3; round++) {
      const statuses = await Promise.all(
        Array.from({ length: 24 }, async (_, i) => {
          const key = keys[i % 2];
          if (!key) throw new Error("no key");
          const stream = i % 3 === 0;
          return post(url, key, body({ stream }, stream ? "please wait" : "x"));
        }),
      );
      expect(new Set(statuses)).toEqual(new Set([200]));
      calls += statuses.length;
      // All is settled; some of it is still to be delivered, or being delivered, or just was.
      await pause(SETTLED_MS + round * 300);
      const seen = await scrape(url);
      if (before) expectNoFall(before, seen);
      await kill(child);
      ({ url, child } = await start(stateDir));
      const again = await scrape(url);
      expectNoFall(seen, again);
      before = (await agreed(url, calls)).metrics;
      expectNoFall(again, before);
      expect(before.sum("sluice_requests_total", { outcome: "complete", status: "200" })).toBe(calls);
    }
  }, 120_000);
});
