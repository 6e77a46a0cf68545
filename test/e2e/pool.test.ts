/** How a pool behaves over many calls: who is asked, who is asked no more, and who comes back. */
import Anthropic from "@anthropic-ai/sdk";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { errorJson, MODEL, type Script } from "../faults/script.ts";
import { CALL_HEADER } from "../faults/upstream.ts";
import { BINDINGS, type Lane, MAX_TOKENS, type Plan, startWorld, type World } from "../faults/world.ts";
import { startFleet, until, withKey } from "../support/gateway.ts";
import { pause } from "../support/scripted-upstream.ts";

/** An isolate learns of changes at least so often, and a bit. */
const REFRESH_MS = 6_500;
const WORKS: Plan = { order: [[]] };
const FAILS: Script = [{ after: "connect", do: { status: 500 } }];

const SHARED = ["claude-haiku-*", "claude-sonnet-5"];
let world: World;

beforeAll(async () => {
  world = await startWorld([
    3,
    3,
    [{ weight: 1 }, { weight: 3 }],
    3,
    3,
    3,
    3,
    [{ models: [SHARED[0]] }, { models: [SHARED[1]] }],
    1,
  ]);
});
afterAll(() => world?.stop());

const lane = (n: number): Lane => {
  const found = world.lanes[n];
  if (!found) throw new Error(`no lane ${n}`);
  return found;
};

/** Which upstream answered a call that works; a number in its lane. */
async function homeOf(lane: Lane, session: string, plan: Plan = WORKS): Promise<number> {
  const { answer, attempts } = await world.play(lane, false, plan, { session });
  expect(answer.status, answer.body.toString()).toBe(200);
  return indexOf(lane, attempts.at(-1)?.credential);
}

const indexOf = (lane: Lane, credential: string | undefined): number =>
  lane.upstreams.findIndex((upstream) => upstream.credential === credential);

const sessions = (name: string, count: number): string[] => Array.from({ length: count }, (_, n) => `${name}-${n}`);

describe("a conversation", () => {
  it("stays where it is, over 200 calls of 20 sessions, and they are not all in one place", async () => {
    const own = lane(0);
    const homes = new Map<string, Set<number>>();
    for (let turn = 0; turn < 10; turn++) {
      const at = await Promise.all(sessions("stays", 20).map((session) => homeOf(own, session)));
      for (const [n, home] of at.entries()) {
        const name = `stays-${n}`;
        homes.set(name, (homes.get(name) ?? new Set()).add(home));
      }
    }
    expect([...homes.values()].every((seen) => seen.size === 1)).toBe(true);
    expect(new Set([...homes.values()].flatMap((seen) => [...seen])).size).toBe(3);
  });

  it("is known by metadata.user_id where there is no session, and else by the key", async () => {
    const own = lane(0);
    const seen = new Map<string, Set<number>>();
    const { key } = own;
    const ask = async (name: string, body: object): Promise<void> => {
      const mark = world.upstreams.attempts.length;
      const response = await fetch(`${world.gateway.url}/v1/messages`, {
        method: "POST",
        headers: withKey(key),
        body: JSON.stringify({ model: own.model, max_tokens: 10, messages: [], ...body }),
      });
      expect(response.status).toBe(200);
      const [attempt] = world.upstreams.attempts.slice(mark).filter(({ call }) => call === -1);
      seen.set(name, (seen.get(name) ?? new Set()).add(indexOf(own, attempt?.credential)));
    };
    for (let turn = 0; turn < 3; turn++) {
      for (let n = 0; n < 12; n++) await ask(`user-${n}`, { metadata: { user_id: `user-${n}` } });
      await ask("nobody", {});
    }
    expect([...seen.values()].every((homes) => homes.size === 1)).toBe(true);
    expect(new Set([...seen.values()].flatMap((homes) => [...homes])).size).toBeGreaterThan(1);
  });

  it("moves once when its upstream dies, and does not move back when it heals (U-18)", async () => {
    const own = lane(1);
    const names = sessions("moves", 20);
    const before = await Promise.all(names.map((name) => homeOf(own, name)));
    const dead = before[0] ?? 0;
    const each = own.upstreams.map((_, k) => (k === dead ? FAILS : []));
    const moved: number[] = [];
    for (const [n, name] of names.entries()) {
      moved.push(await homeOf(own, name, { each }));
      if (before[n] !== dead) expect(moved[n]).toBe(before[n]);
      else expect(moved[n]).not.toBe(dead);
    }
    for (const [n, name] of names.entries()) expect(await homeOf(own, name, { each })).toBe(moved[n]);
    await world.heal(own);
    for (const [n, name] of names.entries()) expect(await homeOf(own, name)).toBe(moved[n]);
    await pause(REFRESH_MS);
    for (const [n, name] of names.entries()) expect(await homeOf(own, name)).toBe(moved[n]);
    // New ones do go there again.
    const fresh = await Promise.all(sessions("fresh", 30).map((name) => homeOf(own, name)));
    expect(fresh).toContain(dead);
  });

  it("that is bound to its organisation stays there, whatever happens (U-18)", async () => {
    const own = lane(3);
    const bound = [
      { messages: [{ role: "assistant", content: [{ type: "thinking", thinking: "t", signature: "c2ln" }] }] },
      { container: "container_1" },
    ];
    for (const [n, body] of bound.entries()) {
      const session = `bound-${n}`;
      const home = await homeOf(own, session);
      for (const script of [FAILS, limited("30")]) {
        const { answer, attempts } = await world.play(own, false, { order: [script] }, { session, body });
        expect([429, 500]).toContain(answer.status);
        expect(new Set(attempts.map(({ credential }) => indexOf(own, credential)))).toEqual(new Set([home]));
      }
      // It has been told to wait for longer than anybody does.
      const { answer, attempts } = await world.play(own, false, WORKS, { session, body });
      expect([answer.status, attempts.length]).toEqual([429, 0]);
      // One that is not bound goes elsewhere.
      expect(await homeOf(own, `unbound-${n}`)).not.toBe(home);
    }
  }, 60_000);
});

const limited = (retryAfter: string): Script => [
  {
    after: "connect",
    do: { status: 429, headers: [["retry-after", retryAfter]], body: errorJson("rate_limit_error") },
  },
];

describe("an upstream", () => {
  it("has its share by weight", async () => {
    const own = lane(2);
    const counts = [0, 0];
    for (let batch = 0; batch < 10; batch++) {
      for (const home of await Promise.all(sessions(`weight-${batch}`, 40).map((name) => homeOf(own, name)))) {
        counts[home] = (counts[home] ?? 0) + 1;
      }
    }
    // 400 draws at 3/4: seven points are more than three standard deviations.
    expect((counts[1] ?? 0) / 400).toBeGreaterThan(0.68);
    expect((counts[1] ?? 0) / 400).toBeLessThan(0.82);
  });

  it("gets only the models on its list", async () => {
    const own = lane(7);
    for (const [model, home] of [
      ["claude-haiku-4-5", 0],
      ["claude-haiku-9", 0],
      ["claude-sonnet-5", 1],
    ] as const) {
      for (const session of sessions(`models-${model}`, 8)) {
        expect(await homeOf({ ...own, model }, session)).toBe(home);
      }
    }
    const { answer, attempts } = await world.play({ ...own, model: "claude-nobody-1" }, false, WORKS);
    expect(answer.status).toBeGreaterThanOrEqual(400);
    expect(attempts).toEqual([]);
  });

  it("is left alone for exactly as long as it asked (F-01)", async () => {
    const own = lane(4);
    const first = await world.play(own, false, { order: [limited("2"), []] }, { session: "cools" });
    expect(first.answer.status).toBe(200);
    const [asked] = first.attempts;
    const cooled = indexOf(own, asked?.credential);
    let again = 0;
    await until(
      async () => {
        const homes = await Promise.all(sessions(`cool-${Date.now()}`, 6).map((name) => homeOf(own, name)));
        if (homes.includes(cooled)) again = Date.now();
        return again > 0 || undefined;
      },
      "the cooled upstream to be asked again",
      6_000,
    );
    const rest = again - (asked?.at ?? 0);
    expect(rest).toBeGreaterThanOrEqual(1_950);
    expect(rest).toBeLessThanOrEqual(3_000);
  });

  it("that all others share the pause of answers for the smallest of them, at once (F-01)", async () => {
    const own = lane(5);
    const { answer } = await world.play(own, false, {
      order: [limited("20"), limited("12"), limited("30")],
    });
    expect([answer.status, answer.headers["retry-after"]]).toEqual([429, expect.stringMatching(/^1[12]$/)]);
    const next = await world.play(own, true, WORKS);
    expect([next.answer.status, next.attempts.length]).toEqual([429, 0]);
    expect(Number(next.answer.headers["retry-after"])).toBeGreaterThan(8);
    expect(Number(next.answer.headers["retry-after"])).toBeLessThanOrEqual(12);
    expect(next.answer.ms).toBeLessThan(1_000);
  });

  it("that fails five times in a row is probed by one call after a second, and is in use again when that works", async () => {
    const own = lane(6);
    const each = own.upstreams.map((_, k) => (k === 0 ? FAILS : []));
    await until(async () => {
      await Promise.all(sessions(`breaks-${Date.now()}`, 6).map((name) => homeOf(own, name, { each })));
      const tried = world.upstreams.attempts.filter(({ credential }) => credential === own.upstreams[0]?.credential);
      return tried.length >= 5 || undefined;
    }, "five failures");
    const askedNow = (): number =>
      world.upstreams.attempts.filter(({ credential }) => credential === own.upstreams[0]?.credential).length;
    const before = askedNow();
    await Promise.all(sessions("open", 20).map((name) => homeOf(own, name, { each })));
    expect(askedNow() - before).toBeLessThanOrEqual(1);
    await pause(1_100);
    const opened = askedNow();
    await Promise.all(
      sessions("probe", 20).map((name) =>
        homeOf(own, name, {
          each: own.upstreams.map((_, k) => (k === 0 ? [{ after: "connect", do: { sleep: 300 } }] : [])),
        }),
      ),
    );
    expect(askedNow() - opened).toBe(1);
    const homes = await Promise.all(sessions("closed", 30).map((name) => homeOf(own, name)));
    expect(homes).toContain(0);
  });
});

describe("F-29 the SDK's own retries on top of the gateway's", () => {
  it.each([
    ["overloaded", 1_000_001, [{ after: "connect", do: { status: 529, body: errorJson("overloaded_error") } }]],
    ["broken", 1_000_002, [{ after: "connect", do: { reset: true } }]],
    ["silent", 1_000_003, [{ after: "connect", do: { hang: true } }]],
  ] as const)(
    "do not multiply: %s",
    async (_, number, script) => {
      const own = lane(8);
      // The call's number is not the world's: it is directed here.
      const direct = world.upstreams.direct;
      world.upstreams.direct = (attempt) => (attempt.call === number ? script : direct(attempt));
      try {
        const client = new Anthropic({ baseURL: world.gateway.url, apiKey: own.key.key });
        const asking = client.messages.create(
          { model: own.model, max_tokens: MAX_TOKENS, stream: true, messages: [{ role: "user", content: "x" }] },
          { headers: { [CALL_HEADER]: String(number) } },
        );
        await expect(asking).rejects.toThrow();
        expect(world.upstreams.of(number).length).toBeLessThanOrEqual(3);
      } finally {
        world.upstreams.direct = direct;
      }
    },
    60_000,
  );
});

describe("several runtimes", () => {
  it("tell each other within seconds that an upstream cools, and where a conversation lives", async () => {
    const { urls } = world.upstreams;
    const fleet = await startFleet(urls[0] ?? "", 2, { bindings: BINDINGS });
    const direct = world.upstreams.direct;
    try {
      const [first, second] = fleet.gateways;
      const credentials = [0, 1].map((k) => `sk-ant-UPKEY-CANARY-fleet-${k}`);
      for (const [k, api_key] of credentials.entries()) {
        const response = await first.admin("upstreams", { json: { name: `fleet-${k}`, base_url: urls[k], api_key } });
        expect(response.status).toBe(201);
      }
      const key = await first.makeKey();
      let limit = false;
      world.upstreams.direct = ({ credential }) => (limit && credential === credentials[0] ? limited("30") : []);
      let number = 2_000_000;
      const ask = async (url: string, session: string): Promise<string | undefined> => {
        const own = ++number;
        const response = await fetch(`${url}/v1/messages`, {
          method: "POST",
          headers: withKey(key, { "x-claude-code-session-id": session, [CALL_HEADER]: String(own) }),
          body: JSON.stringify({ model: MODEL, max_tokens: 10, messages: [] }),
        });
        expect(response.status).toBe(200);
        return world.upstreams.of(own).map(({ credential }) => credential)[0];
      };
      const names = sessions("fleet", 12);
      const here = await Promise.all(names.map((name) => ask(first.url, name)));
      const there = await Promise.all(names.map((name) => ask(second?.url ?? "", name)));
      expect(there).toEqual(here);
      expect(new Set(here)).toEqual(new Set(credentials));
      limit = true;
      await Promise.all(names.map((name) => ask(first.url, name)));
      await pause(1_000);
      await until(
        async () => {
          const asked = await Promise.all(
            sessions(`later-${Date.now()}`, 12).map((name) => ask(second?.url ?? "", name)),
          );
          return !asked.includes(credentials[0]) || undefined;
        },
        "the other runtime to have heard of it",
        8_000,
      );
    } finally {
      world.upstreams.direct = direct;
      await fleet.stop();
    }
  }, 90_000);
});
