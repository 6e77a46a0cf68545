/**
 * The runtime dies as by `kill -9`, and D1 is away. Money is never undercounted, a settled call is there exactly once, and
 * what was lent and never accounted for is booked as `unreported`.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { LOAN_EXPIRES_MS } from "../../src/ledger/protocol.ts";
import { event, MODEL } from "../support/counting-claude.ts";
import { type Gateway, type Key, startGateway, until, withKey } from "../support/gateway.ts";
import { pause, type ScriptedUpstream, startScriptedUpstream } from "../support/scripted-upstream.ts";

const MAX_TOKENS = 50;
const USAGE = { input_tokens: 30, output_tokens: 20 };
/** What the upstream has made of one answer, in µUSD, by the price of claude-opus-5-5. */
const COST = 30 * 4 + 20 * 20;

const folder = mkdtempSync(join(tmpdir(), "sluice-crash-"));
const registry = mkdtempSync(join(tmpdir(), "sluice-registry-"));
let upstream: ScriptedUpstream;
const running: Gateway[] = [];

beforeAll(async () => {
  upstream = await startScriptedUpstream();
});
afterEach(async () => {
  for (const gateway of running.splice(0)) await gateway.stop();
});
afterAll(async () => {
  await upstream?.stop();
  for (const path of [folder, registry]) rmSync(path, { recursive: true, force: true });
});

async function start(state: string, options: { name?: string; objectsIn?: string } = {}): Promise<Gateway> {
  const stateDir = join(folder, state);
  const bindings = { LEDGER_DEADLINE_MS: "5000" };
  const gateway = await startGateway(upstream.url, { bindings, stateDir, registry, name: "sluice", ...options });
  running.push(gateway);
  return gateway;
}

async function kill(gateway: Gateway): Promise<void> {
  running.splice(running.indexOf(gateway), 1);
  await gateway.kill();
}

/** The call's number says what becomes of it. */
const bodyOf = (what: string, stream: boolean): string =>
  JSON.stringify({ model: MODEL, max_tokens: MAX_TOKENS, stream, what, messages: [{ role: "user", content: "x" }] });

const ask = (gateway: Gateway, key: Key, what = "answer", stream = false): Promise<Response> =>
  fetch(`${gateway.url}/v1/messages`, { method: "POST", headers: withKey(key), body: bodyOf(what, stream) });

/** The chain of the key's rows has neither gap nor double, and all of the rows are in it. */
async function chainHolds(gateway: Gateway, key: Key): Promise<void> {
  const verdict = await gateway.admin(`audit/verify?key=${key.id}&limit=5000`);
  const { ok, broken, tail, verified } = (await verdict.json()) as Record<string, unknown>;
  expect({ ok, broken, tail }).toEqual({ ok: true, broken: null, tail: "compared" });
  const rows = await (await gateway.admin(`audit.ndjson?key=${key.id}`)).text();
  expect(verified).toBe(rows.split("\n").length - 1);
}

/** Calls whose answer, or its beginning, has been made. */
let made = 0;

beforeAll(() => {
  upstream.script = async (response, { body }) => {
    const { what } = JSON.parse(body.toString()) as { what: string };
    if (what === "silent") return;
    made++;
    if (what === "half") {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write(event("message_start", { message: { model: MODEL, usage: { ...USAGE, output_tokens: 1 } } }));
      return;
    }
    if (what === "slow") await pause(20 * Math.random());
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify({ type: "message", model: MODEL, content: [], usage: USAGE }));
  };
});

const strict = (usd: number) => ({ budget: { usd, period: "total", mode: "strict" } });

it("two hundred calls at once in two isolates are two hundred links", async () => {
  const first = await start("crowd");
  const second = await start("crowd-2", { name: "sluice-2", objectsIn: "sluice" });
  const key = await first.makeKey();
  const calls = Array.from({ length: 200 }, (_, i) => ask(i % 2 ? first : second, key));
  for (const { status } of await Promise.all(calls)) expect(status).toBe(200);
  await first.audit(key, 200);
  await chainHolds(first, key);
  const walk = await first.admin(`audit/verify?key=${key.id}`);
  expect(await walk.json()).toMatchObject({ verified: 200, first_seq: 1, last_seq: 200 });
});

describe("kill -9", () => {
  it("at every moment of a call, in the ledger's runtime and in another: nothing is free, nothing counts twice (U-05, R-07)", async () => {
    const limits = { concurrent_requests: 10 };
    let first = await start("moments");
    const second = await start("moments-2", { name: "sluice-2", objectsIn: "sluice" });
    const makeKey = () => first.makeKey({ limits, ...strict(1) });
    const moments: { at: Gateway; key: Key; what: string; calls: number }[] = [];
    for (const at of [second, first]) {
      for (const what of ["silent", "half", "answered", "settled"])
        moments.push({ at, key: await makeKey(), what, calls: 3 });
    }
    const spender = await first.makeKey(strict(0.02));
    const of = (what: string) => moments.filter((moment) => moment.what === what);
    const all = (what: string, act: (at: Gateway, key: Key) => Promise<unknown>) =>
      Promise.all(of(what).flatMap(({ at, key, calls }) => Array.from({ length: calls }, () => act(at, key))));

    await all("settled", async (at, key) => expect((await ask(at, key)).status).toBe(200));
    void all("silent", (at, key) => ask(at, key, "silent").catch(() => {}));
    await all("half", async (at, key) => {
      const response = await ask(at, key, "half", true);
      void response.text().catch(() => {});
    });
    // Told to the ledger after 50 ms, to D1 after a second.
    await pause(400);
    await until(
      () => upstream.received.filter(({ body }) => body.includes('"silent"')).length === 6 || undefined,
      "calls",
    );
    await all("answered", async (at, key) => {
      const response = await ask(at, key);
      expect(response.status).toBe(200);
    });
    await Promise.all([kill(second), kill(first)]);
    const killedAt = Date.now();

    first = await start("moments");
    for (const { key, what } of of("settled")) {
      const rows = await first.rows(key, 3);
      expect([what, rows.length]).toEqual([what, 3]);
    }
    // While the loans are still out they are held against the budget, so that what was lent can't be spent again.
    for (const { key } of [...of("silent"), ...of("half")]) {
      const { budget, left } = await first.standing(key);
      expect((budget?.spent_micro_usd ?? 0) + (budget?.reserved_micro_usd ?? 0)).toBeGreaterThanOrEqual(3 * COST);
      expect(left.concurrent_requests?.remaining).toBeLessThanOrEqual(7);
    }

    // Meanwhile, in the same half minute: a loop of crashes, each in the middle of a crowd.
    made = 0;
    for (let life = 0; life < 3; life++) {
      const crowd = Array.from({ length: 20 }, () => ask(first, spender, "slow").catch(() => {}));
      await pause(life === 2 ? 1_000 : 30 + 10 * life);
      await kill(first);
      await Promise.all(crowd);
      expect(made * COST).toBeLessThanOrEqual(20_000);
      first = await start("moments");
    }
    const restarted = Date.now();
    await until(
      async () => {
        const { budget } = await first.standing(spender);
        return budget?.reserved_micro_usd === 0 || undefined;
      },
      "the last loan to run out",
      restarted + LOAN_EXPIRES_MS + 10_000 - Date.now(),
    );
    const spent = (await first.standing(spender)).budget;
    expect(spent?.spent_micro_usd).toBeGreaterThanOrEqual(made * COST);
    expect(spent?.spent_micro_usd).toBeLessThanOrEqual(20_000);

    expect(Date.now() - killedAt).toBeGreaterThan(LOAN_EXPIRES_MS);
    for (const { at, key, what, calls } of moments) {
      const where = `${what} ${at === second ? "elsewhere" : "beside the ledger"}`;
      const standing = await first.settled(key);
      expect([where, standing.left.concurrent_requests]).toEqual([where, { running: 0, remaining: 10 }]);
      // The rows of what was booked follow the booking by a second.
      const usage = await until(async () => {
        const sums = await first.usage(`key=${key.id}`);
        return sums.cost_micro_usd === standing.budget?.spent_micro_usd ? sums : undefined;
      }, `the rows of ${where}`);
      expect([where, Number(usage.cost_micro_usd)]).toEqual([where, expect.any(Number)]);
      expect(Number(usage.cost_micro_usd)).toBeGreaterThanOrEqual(what === "silent" ? 1 : calls * COST);
      const rows = await first.rows(key, 0);
      expect(new Set(rows.map((row) => row.request_id)).size).toBe(rows.length);
      expect(Number(usage.unreported)).toBeGreaterThanOrEqual(calls - rows.length);
      if (what === "settled") {
        expect(usage).toMatchObject({ unreported: 0, cost_micro_usd: calls * COST });
        expect(rows).toHaveLength(calls);
      } else if (what !== "answered") {
        expect(rows).toHaveLength(0);
        expect(usage.unreported).toBe(calls);
      }
      await chainHolds(first, key);
    }
    await chainHolds(first, spender);
  }, 120_000);
});

describe("D1 away", () => {
  it("under traffic, and over a kill -9: no call fails, and each row is there once and in order (U-05, L7)", async () => {
    let gateway = await start("away");
    const keys = await Promise.all(Array.from({ length: 3 }, () => gateway.makeKey(strict(10))));
    const calls = new Map<Key, number>(keys.map((key) => [key, 0]));
    const traffic = async (ms: number): Promise<void> => {
      const end = Date.now() + ms;
      await Promise.all(
        keys.map(async (key) => {
          while (Date.now() < end) {
            const response = await ask(gateway, key);
            expect(response.status).toBe(200);
            await response.text();
            calls.set(key, (calls.get(key) ?? 0) + 1);
            await pause(40);
          }
        }),
      );
    };
    const rename = async (from: string, to: string): Promise<void> => {
      const db = await gateway.worker.miniflare.getD1Database("DB");
      await db.prepare(`ALTER TABLE ${from} RENAME TO ${to}`).run();
    };
    let db = await gateway.worker.miniflare.getD1Database("DB");
    await db.batch([
      db.prepare("CREATE TABLE arrived (nth INTEGER PRIMARY KEY, key_id TEXT, request_id TEXT)"),
      db.prepare(
        "CREATE TRIGGER arriving AFTER INSERT ON audit WHEN NEW.route = '/v1/messages' BEGIN INSERT INTO arrived (key_id, request_id) VALUES (NEW.key_id, NEW.request_id); END",
      ),
    ]);
    await traffic(500);
    await rename("audit", "audit_away");
    await traffic(3_000);
    // All of it is with the ledgers by now, and none of it with D1.
    for (const key of keys) await gateway.settled(key);
    await pause(400);
    await kill(gateway);
    gateway = await start("away");
    await traffic(1_500);
    for (const key of keys) await gateway.settled(key);
    await rename("audit_away", "audit");
    db = await gateway.worker.miniflare.getD1Database("DB");
    const stored = async (key: Key): Promise<string[]> => {
      const { results } = await db
        .prepare("SELECT request_id FROM arrived WHERE key_id = ? ORDER BY nth")
        .bind(key.id)
        .all<{ request_id: string }>();
      return results.map((row: { request_id: string }) => row.request_id);
    };
    for (const key of keys) {
      const count = calls.get(key) ?? 0;
      const ids = await until(
        async () => {
          const found = await stored(key);
          return found.length >= count ? found : undefined;
        },
        "the rows to arrive",
        20_000,
      );
      expect(ids).toHaveLength(count);
      // Each call began after the one before had been answered, and ids sort by time.
      expect(ids).toEqual([...new Set(ids)].sort());
      expect(await gateway.usage(`key=${key.id}`)).toMatchObject({ unreported: 0, cost_micro_usd: count * COST });
      expect((await gateway.standing(key)).budget?.spent_micro_usd).toBe(count * COST);
      await chainHolds(gateway, key);
    }
  }, 60_000);
});
