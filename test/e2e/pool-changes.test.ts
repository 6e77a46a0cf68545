/** What may be changed while calls run, and that nobody's call fails for it; and a pool that is overloaded. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Answer, call } from "../faults/client.ts";
import { errorJson, MODEL, type Script } from "../faults/script.ts";
import { CALL_HEADER, type FaultyUpstreams, startFaultyUpstreams } from "../faults/upstream.ts";
import { addUpstream, BINDINGS, PATIENT } from "../faults/world.ts";
import { type Gateway, type Key, startGateway, until, withKey } from "../support/gateway.ts";
import { pause } from "../support/scripted-upstream.ts";

/** A change is in force for every call that comes so long after it, and a bit. */
const IN_FORCE_MS = 5_500;
/** As many that each upstream has more calls running than a retry budget has room for at once. */
const CLIENTS = 60;
const SLOW: Script = [{ after: "connect", do: { sleep: 150 } }];
const REFUSED: Script = [...SLOW, { after: "connect", do: { status: 401, body: errorJson("authentication_error") } }];
const MASTER = [1, 2].map((version) => `${version}:${Buffer.alloc(32, version).toString("base64")}`);

let upstreams: FaultyUpstreams;
beforeAll(async () => {
  upstreams = await startFaultyUpstreams(3);
});
afterAll(() => upstreams?.stop());

const nameOf = (k: number, version = 1): string => `sk-ant-UPKEY-CANARY-changes-${k}-${version}`;

async function start(bindings: Record<string, string> = {}, stateDir?: string): Promise<Gateway> {
  return startGateway(upstreams.urls[0] ?? "", {
    bindings: { ...BINDINGS, ...PATIENT, ...bindings },
    ...(stateDir ? { stateDir } : {}),
  });
}

/** Three upstreams, one on each server. */
async function fill(gateway: Gateway): Promise<string[]> {
  const ids: string[] = [];
  for (const [k, base_url] of upstreams.urls.entries()) {
    ids.push(await addUpstream(gateway, { name: `u${k}`, base_url, api_key: nameOf(k) }));
  }
  return ids;
}

let calls = 0;
function ask(gateway: Gateway, key: Key, session: string, stream = false): Promise<Answer> {
  const body = JSON.stringify({ model: MODEL, max_tokens: 50, stream, messages: [] });
  const headers = withKey(key, { [CALL_HEADER]: String(++calls), "x-claude-code-session-id": session });
  return call(`${gateway.url}/v1/messages`, headers, body);
}

/** Clients that call without a pause while something happens; what they got. */
async function underLoad(gateway: Gateway, key: Key, happens: () => Promise<void>): Promise<Answer[]> {
  const answers: Answer[] = [];
  let over = false;
  const clients = Array.from({ length: CLIENTS }, async (_, n) => {
    for (let turn = 0; !over; turn++) {
      answers.push(await ask(gateway, key, turn % 2 ? `load-${n}` : `load-${n}-${turn}`, n % 2 === 0));
      await pause(20);
    }
  });
  try {
    await happens();
  } finally {
    over = true;
    await Promise.all(clients);
  }
  return answers;
}

const failed = (answers: readonly Answer[]): string[] =>
  answers
    .filter(({ status, end }) => status !== 200 || end !== "clean")
    .map(({ status, end, body }) => `${status} ${end} ${body.toString().slice(0, 200)}`);

/** Credentials that were used since `mark`. */
const usedSince = (mark: number): Set<string> =>
  new Set(upstreams.attempts.slice(mark).map(({ credential }) => credential));

describe("while calls run", () => {
  let gateway: Gateway;
  let key: Key;
  let ids: string[];
  beforeAll(async () => {
    gateway = await start();
    ids = await fill(gateway);
    key = await gateway.makeKey();
  });
  afterAll(() => gateway?.stop());

  it("each upstream's key is replaced in its turn, the old one being refused at once, and no request fails", async () => {
    const live = new Map(upstreams.urls.map((_, k) => [nameOf(k), true]));
    upstreams.direct = ({ credential }) => (live.get(credential) === false ? REFUSED : SLOW);
    const answers = await underLoad(gateway, key, async () => {
      await pause(300);
      for (const [k, id] of ids.entries()) {
        const response = await gateway.admin(`upstreams/${id}`, { method: "PATCH", json: { api_key: nameOf(k, 2) } });
        expect(response.status).toBe(200);
        live.set(nameOf(k), false);
        await pause(500);
      }
      await pause(IN_FORCE_MS);
      const mark = upstreams.attempts.length;
      await pause(1_500);
      expect(usedSince(mark)).toEqual(new Set(upstreams.urls.map((_, k) => nameOf(k, 2))));
    });
    expect(answers.length).toBeGreaterThan(100);
    expect(failed(answers)).toEqual([]);
  }, 60_000);

  it("an upstream dies under a crowd that waits for it, and no request fails", async () => {
    let dead = false;
    upstreams.direct = ({ server }) =>
      dead && server === 1 ? [{ after: "connect", do: { reset: true } }] : [{ after: "connect", do: { sleep: 300 } }];
    const answers = await underLoad(gateway, key, async () => {
      // Those that wait are cut off, and those that come are.
      const waiting = () => upstreams.attempts.filter(({ server, status }) => server === 1 && status === null).length;
      await until(async () => waiting() > 10 || undefined, "a crowd to wait for the upstream");
      dead = true;
      upstreams.cutOff(1);
      await pause(3_000);
    });
    expect(failed(answers)).toEqual([]);
    dead = false;
  }, 60_000);

  it("an upstream is drained, taken back, drained and removed, and no request fails", async () => {
    upstreams.direct = ({ serial }) => [{ after: "mid", do: { sleep: serial % 2 ? 300 : 20 } }];
    const [first = ""] = ids;
    const answers = await underLoad(gateway, key, async () => {
      await pause(300);
      expect((await gateway.admin(`upstreams/${first}/drain`, { method: "POST" })).status).toBe(200);
      await pause(IN_FORCE_MS);
      const mark = upstreams.attempts.length;
      await pause(1_000);
      expect(usedSince(mark)).toEqual(new Set([nameOf(1, 2), nameOf(2, 2)]));
      const back = await gateway.admin(`upstreams/${first}`, { method: "PATCH", json: { state: "active" } });
      expect(back.status).toBe(200);
      await pause(IN_FORCE_MS);
      const again = upstreams.attempts.length;
      await pause(1_000);
      expect(usedSince(again).has(nameOf(0, 2))).toBe(true);
      expect((await gateway.admin(`upstreams/${first}`, { method: "DELETE" })).status).toBe(200);
      await pause(IN_FORCE_MS);
      const gone = upstreams.attempts.length;
      await pause(1_000);
      expect(usedSince(gone)).toEqual(new Set([nameOf(1, 2), nameOf(2, 2)]));
    });
    expect(failed(answers)).toEqual([]);
  }, 90_000);
});

describe("the master key", () => {
  it("is replaced: both, seal anew, the new one alone", async () => {
    const stateDir = mkdtempSync(join(tmpdir(), "sluice-master-"));
    upstreams.direct = () => [];
    const [one = "", two = ""] = MASTER;
    let key: Key | undefined;
    const works = async (master: string, then: (gateway: Gateway) => Promise<void>): Promise<void> => {
      const gateway = await start({ MASTER_KEY: master }, stateDir);
      try {
        await then(gateway);
        const own = key;
        if (!own) throw new Error("no key");
        const mark = upstreams.attempts.length;
        const answers = await Promise.all(Array.from({ length: 12 }, (_, n) => ask(gateway, own, `${master}-${n}`)));
        expect(failed(answers)).toEqual([]);
        expect(usedSince(mark)).toEqual(new Set(upstreams.urls.map((_, k) => nameOf(k))));
      } finally {
        await gateway.stop();
      }
    };
    try {
      await works(one, async (gateway) => {
        await fill(gateway);
        key = await gateway.makeKey();
      });
      await works(`${two},${one}`, async (gateway) => {
        const response = await gateway.admin("upstreams/reseal", { method: "POST" });
        expect(await response.json()).toMatchObject({ resealed: 3, failed: [] });
      });
      await works(two, async () => {});
      // With the old one alone none can be opened: nothing works, and nothing falls back to the deployment's own key.
      const gateway = await start({ MASTER_KEY: one }, stateDir);
      try {
        const mark = upstreams.attempts.length;
        const answer = await ask(gateway, key ?? { id: "", key: "" }, "none");
        expect(answer.status).toBe(503);
        expect(usedSince(mark)).toEqual(new Set());
      } finally {
        await gateway.stop();
      }
    } finally {
      rmSync(stateDir, { recursive: true, force: true });
    }
  }, 90_000);
});

describe("F-30 a pool that is overloaded", () => {
  it("is asked at most 1.2 times per request, and is in use again within two seconds", async () => {
    const gateway = await start();
    try {
      await fill(gateway);
      const key = await gateway.makeKey();
      upstreams.direct = () => [];
      await ask(gateway, key, "warm");
      upstreams.forget();
      const overloaded: Script = [{ after: "connect", do: { status: 529, body: errorJson("overloaded_error") } }];
      upstreams.direct = () => overloaded;
      const asked: Promise<Answer>[] = [];
      const begun = Date.now();
      while (Date.now() - begun < 10_000) {
        asked.push(ask(gateway, key, `storm-${asked.length}`));
        await pause(20 * asked.length - (Date.now() - begun));
      }
      const answers = await Promise.all(asked);
      // A breaker that is open may hold calls back altogether: then there are fewer.
      expect(upstreams.attempts.length).toBeLessThanOrEqual(1.2 * answers.length + 10);
      expect(answers.every(({ status, end }) => (status === 529 || status === 503) && end === "clean")).toBe(true);
      upstreams.direct = () => [];
      const healed = Date.now();
      await until(
        async () => {
          const some = await Promise.all(Array.from({ length: 6 }, (_, n) => ask(gateway, key, `after-${n}`)));
          return some.every(({ status }) => status === 200) || undefined;
        },
        "the pool to be in use again",
        10_000,
      );
      expect(Date.now() - healed).toBeLessThan(2_000);
    } finally {
      await gateway.stop();
    }
  }, 60_000);
});

describe("F-26 a client that leaves", () => {
  it("during a pause before a retry is not asked for any more, and nothing stays reserved", async () => {
    const gateway = await start();
    try {
      await addUpstream(gateway, { base_url: upstreams.urls[0] ?? "", api_key: nameOf(0) });
      const key = await gateway.makeKey({
        budget: { usd: 100, period: "total", mode: "strict" },
        limits: { concurrent_requests: 50 },
      });
      upstreams.direct = () => [
        { after: "connect", do: { status: 429, headers: [["retry-after", "1"]], body: errorJson("rate_limit_error") } },
      ];
      upstreams.forget();
      const body = JSON.stringify({ model: MODEL, max_tokens: 50, stream: true, messages: [] });
      const numbers = Array.from({ length: 5 }, (_, n) => 5_000_000 + n);
      await Promise.all(
        numbers.map((number) =>
          call(`${gateway.url}/v1/messages`, withKey(key, { [CALL_HEADER]: String(number) }), body, {
            leave: { afterMs: 500 },
          }),
        ),
      );
      const before = upstreams.attempts.length;
      expect(before).toBeGreaterThan(0);
      await pause(2_500);
      expect(upstreams.attempts.length).toBe(before);
      const { budget } = await gateway.settled(key);
      expect(budget).toMatchObject({ spent_micro_usd: 0, reserved_micro_usd: 0 });
      const rows = await gateway.audit(key, numbers.length);
      expect(rows).toHaveLength(numbers.length);
    } finally {
      await gateway.stop();
    }
  }, 60_000);
});
