/** More clients than slots: they wait their turn, for a bounded time, in one runtime and in several. */
import { request } from "node:http";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { type CountingClaude, MODEL, startCountingClaude } from "../support/counting-claude.ts";
import { type Fleet, type Gateway, type Key, startFleet, startGateway, until, withKey } from "../support/gateway.ts";
import { pause } from "../support/scripted-upstream.ts";

const CALL_MS = 200;
const SLOTS = 5;
const CROWD = 50;
/** As in src/ledger/queue.ts. */
const MAX_WAITING = 128;

let claude: CountingClaude;

beforeAll(async () => {
  claude = await startCountingClaude();
});
afterAll(() => claude?.stop());
beforeEach(() => {
  claude.forget();
  claude.plan = () => ({ inputTokens: 10, outputTokens: 5, lastsMs: CALL_MS });
});

const BODY = JSON.stringify({ model: MODEL, max_tokens: 50, messages: [{ role: "user", content: "hello" }] });

type Answered = { readonly status: number; readonly headers: Headers; readonly text: string };

async function ask({ url }: Gateway, key: Key): Promise<Answered> {
  const response = await fetch(`${url}/v1/messages`, { method: "POST", headers: withKey(key), body: BODY });
  return { status: response.status, headers: response.headers, text: await response.text() };
}

const crowd = (gateways: readonly Gateway[], keys: readonly Key[], size: number): Promise<Answered[]> =>
  Promise.all(
    Array.from({ length: size }, (_, n) =>
      ask(gateways[n % gateways.length] as Gateway, keys[Math.floor(n / gateways.length) % keys.length] as Key),
    ),
  );

function expectRefused(answers: readonly Answered[], limit: string): void {
  for (const { status, headers, text } of answers) {
    expect(status).toBe(429);
    expect(JSON.parse(text)).toMatchObject({ error: { type: "rate_limit_error", message: limit } });
    expect(Number(headers.get("retry-after"))).toBeGreaterThanOrEqual(1);
  }
}

describe.each([1, 3])("in %i runtimes", (size) => {
  let fleet: Fleet;
  let gateway: Gateway;
  beforeAll(async () => {
    fleet = await startFleet(claude.url, size, { bindings: { LEDGER_DEADLINE_MS: "5000", QUEUE_WAIT_MS: "20000" } });
    [gateway] = fleet.gateways;
  });
  afterAll(() => fleet?.stop());

  it(`${CROWD} clients on ${SLOTS} slots are all served, ${SLOTS} at a time`, async () => {
    const key = await gateway.makeKey({ limits: { concurrent_requests: SLOTS } });
    const answers = await crowd(fleet.gateways, [key], CROWD);
    expect(answers.map(({ status }) => status)).toEqual(Array(CROWD).fill(200));
    expect(claude.peak).toBe(SLOTS);
    const rows = await gateway.rows(key, CROWD);
    expect(rows.filter((row) => Number(row.ledger_ms) > 5 * CALL_MS).length).toBeGreaterThan(CROWD / 5);
    const { left } = await gateway.settled(key);
    expect(left.concurrent_requests).toEqual({ running: 0, remaining: SLOTS });
  });

  it("so are the keys of a workspace on its slots, whichever of them are limited too", async () => {
    const id = `ws_queue_${size}_${Date.now()}`;
    await gateway.admin("workspaces", { json: { id, name: "queue", limits: { concurrent_requests: SLOTS } } });
    const limits = [{ concurrent_requests: 3 }, {}, { concurrent_requests: SLOTS }];
    const keys = await Promise.all(limits.map((own) => gateway.makeKey({ workspace: id, limits: own })));
    const answers = await crowd(fleet.gateways, keys, CROWD);
    expect(answers.map(({ status }) => status)).toEqual(Array(CROWD).fill(200));
    expect(claude.peak).toBeGreaterThanOrEqual(SLOTS - 1);
    expect(claude.peak).toBeLessThanOrEqual(SLOTS);
    const { shared } = await gateway.settled(keys[0] as Key);
    expect(shared?.left.concurrent_requests).toEqual({ running: 0, remaining: SLOTS });
  });

  it("F-26 whoever leaves while waiting is never asked for upstream, costs nothing, and keeps nobody waiting", async () => {
    const key = await gateway.makeKey({ limits: { concurrent_requests: 1 } });
    claude.plan = () => ({ inputTokens: 10, outputTokens: 5, lastsMs: 2_000 });
    const first = ask(gateway, key);
    await until(() => claude.running === 1, "the first call");
    const leavers = Array.from({ length: 9 }, (_, n) => {
      const { url } = fleet.gateways[n % fleet.gateways.length] as Gateway;
      const call = request(`${url}/v1/messages`, { method: "POST", headers: withKey(key), agent: false });
      call.on("error", () => {});
      call.end(BODY);
      return call;
    });
    await pause(400);
    claude.plan = () => ({ inputTokens: 10, outputTokens: 5, lastsMs: 0 });
    const next = ask(gateway, key);
    await pause(200);
    for (const call of leavers) call.socket?.resetAndDestroy();
    expect((await first).status).toBe(200);
    expect((await next).status).toBe(200);
    const rows = await gateway.rows(key, 11);
    expect(claude.made.calls).toBe(2);
    const gone = rows.filter((row) => row.status === 499);
    expect(gone).toHaveLength(9);
    for (const row of gone) {
      expect(row).toMatchObject({ outcome: "client_gone", input_tokens: 0, cost_micro_usd: 0, attempts: 0 });
      expect(row.duration_ms).toBeLessThan(1_900);
    }
    const { left } = await gateway.settled(key);
    expect(left.concurrent_requests).toEqual({ running: 0, remaining: 1 });
  });
});

describe("bounds", () => {
  let gateway: Gateway;
  const start = async (queueWaitMs: string): Promise<void> => {
    gateway = await startGateway(claude.url, {
      bindings: { LEDGER_DEADLINE_MS: "5000", QUEUE_WAIT_MS: queueWaitMs },
    });
  };
  afterEach(() => gateway?.stop());

  it("a wait that takes too long is refused when its time is over, and not before", async () => {
    await start("1000");
    const key = await gateway.makeKey({ limits: { concurrent_requests: 1 } });
    claude.plan = () => ({ inputTokens: 10, outputTokens: 5, lastsMs: 4_000 });
    const first = ask(gateway, key);
    await until(() => claude.running === 1, "the first call");
    const began = Date.now();
    const refused = await ask(gateway, key);
    expect(Date.now() - began).toBeGreaterThanOrEqual(1_000);
    expect(Date.now() - began).toBeLessThan(2_500);
    expectRefused([refused], "This key's limit of 1 concurrent requests is reached.");
    expect((await first).status).toBe(200);
    const rows = await gateway.rows(key, 2);
    expect(rows.map((row) => row.denial)).toContain("concurrency");
  });

  it(`no more than ${MAX_WAITING} wait: the others are refused at once`, async () => {
    await start("4000");
    const key = await gateway.makeKey({ limits: { concurrent_requests: 1 } });
    claude.plan = () => ({ inputTokens: 10, outputTokens: 5, lastsMs: 6_000 });
    const first = ask(gateway, key);
    await until(() => claude.running === 1, "the first call");
    const early: Answered[] = [];
    const all = Array.from({ length: MAX_WAITING + 20 }, () =>
      ask(gateway, key).then((answer) => {
        if (claude.running === 1) early.push(answer);
        return answer;
      }),
    );
    await until(() => early.length >= 20, "the refusals", 3_500);
    expect(early).toHaveLength(20);
    expectRefused(await Promise.all(all), "This key's limit of 1 concurrent requests is reached.");
    expect((await first).status).toBe(200);
  });

  it("with QUEUE_WAIT_MS=0 nobody waits", async () => {
    await start("0");
    const key = await gateway.makeKey({ limits: { concurrent_requests: SLOTS } });
    claude.plan = () => ({ inputTokens: 10, outputTokens: 5, lastsMs: 2_000 });
    const answers = await crowd([gateway], [key], 20);
    const refused = answers.filter(({ status }) => status !== 200);
    expect(refused).toHaveLength(20 - SLOTS);
    expectRefused(refused, `This key's limit of ${SLOTS} concurrent requests is reached.`);
    expect(claude.peak).toBe(SLOTS);
  });

  it("L5 a key that is revoked while its calls wait lets none of them through", async () => {
    await start("20000");
    const key = await gateway.makeKey({ limits: { concurrent_requests: 1 } });
    claude.plan = () => ({ inputTokens: 10, outputTokens: 5, lastsMs: 3_000 });
    const first = ask(gateway, key);
    await until(() => claude.running === 1, "the first call");
    const waiting = [ask(gateway, key), ask(gateway, key)];
    await pause(300);
    expect((await gateway.admin(`keys/${key.id}`, { method: "DELETE" })).status).toBeLessThan(300);
    for (const { status } of await Promise.all(waiting)) expect(status).toBe(401);
    expect((await first).status).toBe(200);
    expect(claude.made.calls).toBe(1);
  });
});

describe("an upstream's own slots", () => {
  let fleet: Fleet;
  let other: CountingClaude;
  const makeUpstream = async (claude: CountingClaude, slots: number, weight = 100): Promise<string> => {
    const json = { name: "one", base_url: claude.url, api_key: "sk-ant-ONE", weight, concurrent_requests: slots };
    const made = await fleet.gateways[0].admin("upstreams", { json });
    expect(made.status).toBe(201);
    return ((await made.json()) as { id: string }).id;
  };
  beforeAll(async () => {
    other = await startCountingClaude();
    other.plan = () => ({ inputTokens: 10, outputTokens: 5, lastsMs: CALL_MS });
    fleet = await startFleet(claude.url, 3, { bindings: { LEDGER_DEADLINE_MS: "5000", QUEUE_WAIT_MS: "20000" } });
  });
  afterAll(async () => {
    await fleet?.stop();
    await other?.stop();
  });

  it("are waited for, by streams and drained calls too, and each comes back", async () => {
    const [gateway] = fleet.gateways;
    const id = await makeUpstream(claude, 4);
    const keys = await Promise.all([gateway.makeKey(), gateway.makeKey({ on_disconnect: "drain" })]);
    const streamed = (n: number): Promise<number> =>
      fetch(`${(fleet.gateways[n % 3] as Gateway).url}/v1/messages`, {
        method: "POST",
        headers: withKey(keys[n % 2] as Key),
        body: BODY.replace("{", '{"stream":true,'),
      }).then(async (response) => {
        expect(await response.text()).toContain("message_stop");
        return response.status;
      });
    const answers = await Promise.all([
      crowd(fleet.gateways, keys, 20).then((all) => all.map(({ status }) => status)),
      ...Array.from({ length: 10 }, (_, n) => streamed(n)),
    ]);
    expect(answers.flat()).toEqual(Array(30).fill(200));
    expect(claude.peak).toBe(4);

    // A second account takes what the first one has no room for, and a conversation waits only where both are full.
    const second = await makeUpstream(other, 2);
    await pause(6_000);
    claude.forget();
    const both = await crowd(fleet.gateways, keys, 30);
    expect(both.map(({ status }) => status)).toEqual(Array(30).fill(200));
    expect(claude.peak).toBeLessThanOrEqual(4);
    expect(other.peak).toBe(2);
    expect(claude.made.calls + other.made.calls).toBe(30);

    // A limit that is changed holds at once.
    for (const changed of [id, second]) {
      const patched = await gateway.admin(`upstreams/${changed}`, {
        method: "PATCH",
        json: { concurrent_requests: 1 },
      });
      expect(patched.status).toBe(200);
    }
    await pause(2_500);
    claude.forget();
    other.forget();
    await crowd(fleet.gateways, keys, 12);
    expect([claude.peak, other.peak]).toEqual([1, 1]);
    // Each was sent once, whoever had no room for it.
    const rows = await Promise.all(keys.map((key, n) => gateway.rows(key, [37, 35][n] as number)));
    expect(rows.flat().map(({ attempts }) => attempts)).toEqual(Array(72).fill(1));
  });
});
