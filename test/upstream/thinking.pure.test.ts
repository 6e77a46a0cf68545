/** Thinking that a call can do without: who is sent it, and what the others are sent. */
import { describe, expect, it } from "vitest";
import { CallTimer } from "../../src/call-timer.ts";
import { ok } from "../../src/result.ts";
import { askPool, Stop } from "../../src/upstream/attempts.ts";
import { ranked } from "../../src/upstream/choice.ts";
import { Pool, type Wanted } from "../../src/upstream/pool.ts";
import type { Upstream } from "../../src/upstream/upstream.ts";
import { TIMEOUTS } from "./world.ts";

const upstreamOf = (id: string): Upstream => ({
  ...{ id, base_url: `https://${id}.test`, weight: 100, models: null, concurrent_requests: null },
  ...{ state: "active", apiKey: "key" },
});
const pair = ranked("c", [upstreamOf("one"), upstreamOf("two")]).map(({ id }) => id) as [string, string];
const [home, other] = pair;

const THINKING = { type: "thinking", thinking: "t", signature: "s" };
const CALL = { type: "tool_use", id: "toolu_1", name: "f", input: {} };
const body = (thinking: object) => ({
  model: "m",
  thinking,
  messages: [
    { role: "user", content: "w?" },
    { role: "assistant", content: [THINKING, { type: "redacted_thinking", data: "r" }, CALL] },
    { role: "user", content: [{ type: "tool_result", tool_use_id: "toolu_1" }] },
  ],
});
const ADAPTIVE = { type: "adaptive" };
const BUDGET = { type: "enabled", budget_tokens: 2_000 };
const bare = (thinking: object) => ({
  ...body(thinking),
  messages: body(thinking).messages.with(1, { role: "assistant", content: [CALL] as never }),
});

const REFUSAL = "messages.1.content.0: Invalid `signature` in `thinking` block";

type World = {
  readonly thoughtsOf: string | null | undefined;
  /** Organizations that are known of from earlier answers. */
  readonly known?: Record<string, string>;
  readonly down?: readonly string[];
  /** Upstreams that refuse thinking, in these words. */
  readonly refuse?: readonly string[];
  readonly words?: string;
  readonly asks?: object;
};

/** Who was asked and whether with thinking, and the status of the end. */
async function play({ thoughtsOf, known = {}, down = [], refuse = [], words = REFUSAL, asks = ADAPTIVE }: World) {
  const pool = new Pool();
  pool.replace(pair.map(upstreamOf));
  for (const [id, organization] of Object.entries(known)) {
    pool.health(id).learn(new Headers({ "anthropic-organization-id": organization }), 0);
  }
  const asked: [string, boolean][] = [];
  const wanted: Wanted = { affinity: "c", model: "m", bound: false, pinned: null };
  const timer = new CallTimer({ now: () => 0, wait: async () => {} }, 10_000, () => {});
  const { result } = await askPool<Uint8Array>(
    {
      ...{
        path: "/v1/messages",
        method: "POST",
        headers: {},
        stream: false,
        timeouts: TIMEOUTS,
        maxAttempts: 3,
        timer,
      },
      body: new TextEncoder().encode(JSON.stringify(body(asks))),
      wanted: thoughtsOf === undefined ? wanted : { ...wanted, thoughtsOf },
      stop: new Stop(),
      read: async (response) => ok(await response.bytes()),
    },
    {
      ...{ now: () => 0, random: () => 0, pool, findHome: async () => {}, moved: () => {}, hint: () => {} },
      ...{ recovered: () => {}, renewed: async () => false, isAlive: async () => true, hold: async () => () => {} },
      send: async (url, { body: sent }) => {
        const id = new URL(url).hostname.split(".")[0] ?? "";
        const text = new TextDecoder().decode(sent as Uint8Array);
        const thinks = text.includes("signature");
        if (!thinks)
          expect(JSON.parse(text)).toEqual(asks === BUDGET ? { ...bare(asks), thinking: undefined } : bare(asks));
        asked.push([id, thinks]);
        if (down.includes(id)) return Response.json({}, { status: 429 });
        if (thinks && refuse.includes(id)) return Response.json({ error: { message: words } }, { status: 400 });
        return Response.json({});
      },
    },
  );
  timer.stop();
  return { asked, status: result.ok ? result.value.response.status : 0 };
}

describe("a call with thinking that it can do without", () => {
  const known = { [home]: "org-h", [other]: "org-o" };
  it.each<[string, World, [string, boolean][]]>([
    ["goes where that was signed", { thoughtsOf: "org-o", known }, [[other, true]]],
    ["and not where it can't have been", { thoughtsOf: "org-o", known: { [home]: "org-h" } }, [[other, true]]],
    ["goes home where nobody knows", { thoughtsOf: null, known }, [[home, true]]],
    [
      "goes elsewhere without it",
      { thoughtsOf: "org-h", known, down: [home] },
      [
        [home, true],
        [other, false],
      ],
    ],
    [
      "and without a budget too",
      { thoughtsOf: "org-h", known, down: [home], asks: BUDGET },
      [
        [home, true],
        [other, false],
      ],
    ],
    ["whose account is gone does without it", { thoughtsOf: "org-x", known }, [[home, false]]],
    [
      "is asked again without it where it is refused",
      { thoughtsOf: null, refuse: pair },
      [
        [home, true],
        [home, false],
      ],
    ],
    [
      "the last attempt included",
      { thoughtsOf: null, down: [home], refuse: [other] },
      [
        [home, true],
        [other, true],
        [other, false],
      ],
    ],
  ])("%s", async (_, world, asked) => {
    expect(await play(world)).toEqual({ asked, status: 200 });
  });

  it("hears of every other refusal as before, and so does a call that has to have it", async () => {
    const others = { thoughtsOf: null, refuse: pair, words: "max_tokens: too many for thinking" };
    expect(await play(others)).toEqual({ asked: [[home, true]], status: 400 });
    expect(await play({ thoughtsOf: undefined, refuse: pair })).toEqual({ asked: [[home, true]], status: 400 });
  });
});
