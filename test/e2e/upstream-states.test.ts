/** What people are told of upstreams that are at fault: the same in /health, /metrics and /admin/upstreams. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Scrape, scraped } from "../metrics/scraped.ts";
import { ADMIN_TOKEN, type Gateway, type Key, startGateway, until, withKey } from "../support/gateway.ts";
import { type ScriptedUpstream, startScriptedUpstream } from "../support/scripted-upstream.ts";

type Health = { readonly id: string; readonly held: string | null; readonly breaker: string; readonly reason: string };

let gateway: Gateway;
let key: Key;
const upstreams: ScriptedUpstream[] = [];
const ids: string[] = [];

beforeAll(async () => {
  for (let i = 0; i < 3; i++) upstreams.push(await startScriptedUpstream());
  gateway = await startGateway("http://127.0.0.1:9", { bindings: { MAX_ATTEMPTS: "4", QUEUE_WAIT_MS: "100" } });
  key = await gateway.makeKey();
  for (const [i, { url }] of upstreams.entries()) {
    const json = { name: `u${i}`, base_url: url, api_key: `sk-ant-STATE-CANARY-${i}` };
    ids.push(((await (await gateway.admin("upstreams", { json })).json()) as { id: string }).id);
  }
});
afterAll(async () => {
  await gateway?.stop();
  for (const upstream of upstreams) await upstream.stop();
});

/** Every upstream answers with its status from now on. */
function answerWith(...statuses: number[]): void {
  for (const [i, upstream] of upstreams.entries()) {
    const status = statuses[i] ?? 200;
    upstream.script = (response) => {
      response.writeHead(status, {
        "content-type": "application/json",
        ...(status === 429 ? { "retry-after": "30" } : {}),
      });
      const error = { type: "error", error: { type: "some_error", message: "no" } };
      const usage = { input_tokens: 1, output_tokens: 1 };
      const message = { type: "message", model: "claude-opus-5-5", content: [], stop_reason: "end_turn", usage };
      response.end(JSON.stringify(status === 200 ? message : error));
    };
  }
}

async function ask(session: string, as = key): Promise<number> {
  const response = await fetch(`${gateway.url}/v1/messages`, {
    method: "POST",
    headers: withKey(as, { "x-claude-code-session-id": session }),
    body: JSON.stringify({ model: "claude-opus-5-5", max_tokens: 5, messages: [{ role: "user", content: "x" }] }),
  });
  await response.text();
  return response.status;
}

async function scrape(): Promise<Scrape> {
  const response = await fetch(`${gateway.url}/metrics`, { headers: { authorization: `Bearer ${ADMIN_TOKEN}` } });
  return scraped(await response.text());
}

/** Index of an upstream, its state, and why, as each of the three tells it. */
async function told() {
  const { upstreams: healths } = (await (await fetch(`${gateway.url}/health`)).json()) as { upstreams: Health[] };
  const { data } = (await (await gateway.admin("upstreams")).json()) as {
    data: { id: string; health: { state: string; reason?: string } }[];
  };
  const series = [...((await scrape()).families.get("sluice_upstream_state")?.samples.keys() ?? [])];
  return ids.map((id) => {
    const own = healths.find((one) => one.id === id);
    const stored = data.find((one) => one.id === id)?.health;
    const word = (label: string): string | null =>
      new RegExp(`${label}="(\\w+)"`).exec(series.find((one) => one.includes(id)) ?? "")?.[1] ?? null;
    return {
      health: [own?.held ?? "healthy", own?.reason ?? null],
      admin: [stored?.state, stored?.reason ?? null],
      metrics: [word("state"), word("reason")],
    };
  });
}

const everywhere = (state: string, reason: string | null) => ({
  health: [state, reason],
  admin: [state, reason],
  metrics: [state, reason],
});

describe("upstreams at fault", () => {
  it("are told alike in /health, /metrics and /admin/upstreams, and are no denial of the key's", async () => {
    answerWith(429, 401, 200);
    // Conversations enough for each upstream to be asked; at once they would use up what there is for retries.
    const statuses: number[] = [];
    for (let i = 0; i < 20; i++) statuses.push(await ask(`session-${i}`));
    expect(new Set(statuses)).toEqual(new Set([200]));
    let last: Awaited<ReturnType<typeof told>> | undefined;
    await until(async () => {
      last = await told();
      return last[0]?.admin[0] === "cooling" && last[1]?.admin[0] === "refused" ? true : undefined;
    }, "the pool's object to be told").catch(() => {});
    expect(last).toEqual([
      everywhere("cooling", "rate_limited"),
      everywhere("refused", "authentication"),
      everywhere("healthy", null),
    ]);
    await gateway.admin(`upstreams/${ids[1]}`, { method: "DELETE" });
    await gateway.admin(`upstreams/${ids[2]}`, { method: "DELETE" });
    // Only the one that wants to be left alone is there: its limit is no limit of the key's.
    answerWith(429);
    const after = await Promise.all(Array.from({ length: 3 }, (_, i) => ask(`late-${i}`)));
    expect(new Set(after)).toEqual(new Set([429]));
    const rows = await gateway.rows(key, 23);
    expect(rows.filter(({ denial }) => denial !== null)).toEqual([]);
    const attempts = rows.reduce((sum, row) => sum + Number(row.attempts), 0);
    const seen = await until(async () => {
      const metrics = await scrape();
      return metrics.sum("sluice_requests_total") === 23 ? metrics : undefined;
    }, "23 calls in the metrics");
    expect(seen.sum("sluice_denials_total")).toBe(0);
    expect(seen.value("sluice_upstream_attempts_total")).toBe(attempts);
    expect(seen.value("sluice_upstream_retries_total")).toBe(
      attempts - rows.filter((row) => Number(row.attempts)).length,
    );
    expect(attempts).toBe(upstreams.reduce((sum, { received }) => sum + received.length, 0));
    expect(seen.value("sluice_upstream_pool_up")).toBe(1);
  });

  it("whose places are all taken make a 503 that is no denial of the key's either, though its slots are counted alike", async () => {
    await gateway.admin(`upstreams/${ids[0]}`, { method: "DELETE" });
    const held = Promise.withResolvers<void>();
    const busy = upstreams[2];
    if (!busy) throw new Error("no upstream");
    busy.received.length = 0;
    busy.script = async (response) => {
      await held.promise;
      response.writeHead(400, { "content-type": "application/json" });
      response.end('{"type":"error","error":{"type":"invalid_request_error","message":"no"}}');
    };
    const json = { name: "one place", base_url: busy.url, api_key: "sk-ant-STATE-CANARY-9", concurrent_requests: 1 };
    expect((await gateway.admin("upstreams", { json })).status).toBe(201);
    const limited = await gateway.makeKey({ limits: { concurrent_requests: 9 } });
    const before = (await scrape()).sum("sluice_requests_total");
    const first = ask("first", limited);
    await until(async () => busy.received.length || undefined, "the first call to be there");
    expect(await ask("second", limited)).toBe(503);
    held.resolve();
    expect(await first).toBe(400);
    const rows = await gateway.rows(limited, 2);
    expect(rows.map(({ status, denial, attempts }) => [status, denial, attempts]).sort()).toEqual([
      [400, null, 1],
      [503, null, 0],
    ]);
    const seen = await until(async () => {
      const metrics = await scrape();
      return metrics.sum("sluice_requests_total") === before + 2 ? metrics : undefined;
    }, "both calls in the metrics");
    expect(seen.sum("sluice_denials_total")).toBe(0);
  });
});
