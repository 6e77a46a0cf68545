/** A turn in each of its moments, and everything that may come in between: what is there then, and what goes on. */
import { runDurableObjectAlarm, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { Sender, Sent, Spec } from "../../src/conversations/protocol.ts";
import type { Result } from "../../src/result.ts";
import type { Failure } from "../../src/wire/errors.ts";
import { answer, blockEnd, Call, die, logOf, newSender, START, stop, Talk, text, turnOf, value } from "./talk.ts";

const WAIT = { timeout: 15_000, interval: 3 };
const LONG = "so many words that they are counted ".repeat(90);
const context: Spec["context"] = { strategy: "summarize", max_input_tokens: 2_500, keep_turns: 1, summary_model: null };
const summary = {
  type: "message",
  model: "claude-haiku-5-5",
  content: [{ type: "text", text: "in short" }],
  stop_reason: "end_turn",
  usage: { input_tokens: 100, output_tokens: 10 },
};

let calls: Call[];
/** Which calls hear nothing for the time being. */
let isHeld: (call: Call) => boolean;
/** What a call is told at once. */
let says: (call: Call) => string | null;

const isCount = ({ path }: Call): boolean => path.endsWith("/count_tokens");
const isSummary = ({ path, body }: Call): boolean => !path.endsWith("/count_tokens") && body.stream !== true;
const isTurn = (call: Call): boolean => call.body.stream === true;

beforeEach(() => {
  for (const level of ["log", "error"] as const) vi.spyOn(console, level).mockImplementation(() => {});
  calls = [];
  isHeld = () => false;
  says = () => answer("well");
  vi.spyOn(globalThis, "fetch").mockImplementation(async (input, init) => {
    const call = new Call(String(input), init);
    calls.push(call);
    while (isHeld(call)) {
      if (call.aborted) throw new Error("aborted");
      await scheduler.wait(1);
    }
    if (isCount(call)) return Response.json({ input_tokens: 2_600 - 2_000 * Number(wasCut(call)) });
    if (isSummary(call)) return Response.json(summary);
    const said = says(call);
    if (said !== null) {
      call.send(said);
      call.end();
    }
    return call.response();
  });
});
afterEach(() => {
  vi.restoreAllMocks();
});

const wasCut = ({ body }: Call): boolean => JSON.stringify(body.messages).includes("in short");

type Moment = {
  readonly spec?: Partial<Spec>;
  readonly limits?: Record<string, unknown>;
  readonly words?: string;
  readonly stored: boolean;
  readonly shown?: boolean;
  /** Makes the next turn stop there. */
  readonly hold: (sender: Sender) => Promise<void> | void;
  readonly reached: (talk: Talk) => Promise<unknown>;
};
const calledFor = (is: (call: Call) => boolean) => (): Promise<unknown> =>
  vi.waitFor(() => expect(calls.some((call) => is(call) && isHeld(call))).toBe(true), WAIT);
const shownOf = (talk: Talk): Promise<unknown> =>
  vi.waitFor(async () => expect(JSON.stringify(await logOf(talk))).toContain("so far"), WAIT);

const MOMENTS: Readonly<Record<string, Moment>> = {
  "is counted": {
    spec: { context },
    words: LONG,
    stored: false,
    hold: () => {
      isHeld = isCount;
    },
    reached: calledFor(isCount),
  },
  "is summed up for": {
    spec: { context },
    words: LONG,
    stored: false,
    hold: () => {
      isHeld = isSummary;
    },
    reached: calledFor(isSummary),
  },
  "waits for a slot": {
    limits: { limits: { concurrent_requests: 1 } },
    stored: false,
    hold: async (sender) => {
      const other = await Talk.begin(sender);
      says = () => null;
      await other.send("occupied");
      await vi.waitFor(() => expect(calls).toHaveLength(2), WAIT);
    },
    reached: () => scheduler.wait(60),
  },
  "waits for its first byte": {
    stored: true,
    hold: () => {
      const before = calls.length;
      isHeld = (call) => calls.indexOf(call) >= before;
    },
    reached: calledFor(isTurn),
  },
  "is answered": {
    stored: true,
    shown: true,
    hold: () => {
      says = () => null;
    },
    reached: async (talk) => {
      await vi.waitFor(() => expect(calls).toHaveLength(2), WAIT);
      calls[1]?.send(START, text("so far"));
      await shownOf(talk);
    },
  },
  "is paused": {
    stored: true,
    shown: true,
    hold: () => {
      const before = calls.length;
      isHeld = (call) => calls.indexOf(call) > before;
      says = (call) =>
        calls.indexOf(call) === before ? START + text("so far") + blockEnd() + stop("pause_turn") : answer(" and on");
    },
    reached: async (talk) => {
      await shownOf(talk);
      await calledFor(isTurn)();
    },
  },
};

type Scene = {
  readonly talk: Talk;
  readonly moment: Moment;
  readonly sent: Promise<Result<Sent, Failure> | "dead">;
  /** Newest message and number before it. */
  readonly leaf: string | null;
  readonly seq: number;
};

async function sceneOf(moment: Moment): Promise<Scene> {
  const sender = await newSender(moment.limits);
  const talk = await Talk.begin(sender, { ttlSeconds: 60, ...moment.spec });
  value(await talk.object.ended(turnOf(await talk.send("before")).turn));
  const { leaf, seq } = await talk.view();
  await moment.hold(sender);
  const sent = talk.send(moment.words ?? "now", { clientId: "now" }).catch(() => "dead" as const);
  await moment.reached(talk);
  return { talk, moment, sent, leaf, seq };
}

/** Nothing is held any more, and everything is answered, to the end of all turns. */
async function goOn(talk: Talk): Promise<void> {
  isHeld = () => false;
  says = () => answer("well");
  await vi.waitFor(async () => {
    for (const call of calls) {
      if (call.over || call.aborted) continue;
      call.send(call.begun ? blockEnd() + stop() : answer("well"));
      call.end();
    }
    expect(await talk.view()).toMatchObject({ state: "idle", queued: [] });
  }, WAIT);
}

/** Whatever has been: the log tells of each turn once, and the next message is answered. */
async function checkAfter(talk: Talk): Promise<void> {
  const next = turnOf(await talk.send("after", { clientId: "after" }));
  await goOn(talk);
  expect(value(await talk.object.ended(next.turn)).state).toBe("completed");
  const log = await logOf(talk);
  expect(log.map(({ seq }) => seq)).toEqual(log.map((_, i) => i + 1));
  for (const [turn, lines] of Map.groupBy(log, (line) => line.turn)) {
    const ends = lines.map(({ kind }) => kind === "turn.completed" || kind === "turn.failed");
    expect([turn, ends.indexOf(true), ends.filter(Boolean).length]).toEqual([turn, lines.length - 1, 1]);
  }
}

/** Every call that was made has one row; one that died with its object has none. */
async function checkRows({ sender }: Talk, lost: number): Promise<void> {
  await vi.waitFor(async () => {
    await runDurableObjectAlarm(env.KEY_LEDGER.getByName(sender.keyId));
    const { results } = await env.DB.prepare("SELECT request_id, status FROM audit WHERE key_id = ?")
      .bind(sender.keyId)
      .all<{ request_id: string; status: number }>();
    expect(new Set(results.map(({ request_id }) => request_id)).size).toBe(results.length);
    // What a dead life was about to tell its ledger is gone with it.
    if (lost === 0) expect(results.length).toBe(calls.length);
    else expect(results.length).toBeLessThanOrEqual(calls.length - lost);
  }, WAIT);
}

/** Names of tables, keys, and the alarm. */
const leftOf = (talk: Talk): Promise<unknown[]> =>
  runInDurableObject(talk.stub, async (_, { storage }) => [
    ...storage.sql.exec("SELECT name FROM sqlite_master WHERE name NOT LIKE '\\_cf%' ESCAPE '\\'"),
    ...(await storage.list()).keys(),
    await storage.getAlarm(),
  ]);

const INTERRUPTIONS: Readonly<Record<string, (scene: Scene) => Promise<number>>> = {
  "is cancelled": async ({ talk, moment, sent, leaf, seq }) => {
    value(await talk.object.cancel(null));
    value(await talk.object.cancel(null));
    const answered = await sent;
    if (answered === "dead") throw new Error("no answer");
    if (moment.stored) {
      expect(value(await talk.object.ended(turnOf(answered).turn)).state).toBe("cancelled");
      expect((await talk.view()).leaf === leaf).toBe(!moment.shown);
    } else {
      expect(answered).toMatchObject({ ok: false, error: { kind: "conflict" } });
      expect(await talk.view()).toMatchObject({ state: "idle", turns: 1, seq, leaf });
    }
    return 0;
  },
  "loses its object": async ({ talk, moment, sent, leaf, seq }) => {
    const lost = calls.filter(({ over, aborted }) => !over && !aborted).length;
    await die(talk);
    const view = await talk.view();
    if (!moment.stored) {
      expect(await sent).toBe("dead");
      expect(view).toMatchObject({ state: "idle", turns: 1, seq, leaf });
      return lost;
    }
    const answered = await sent;
    if (answered === "dead") throw new Error("no answer");
    await goOn(talk);
    const state = value(await talk.object.ended(turnOf(answered).turn)).state;
    expect(state).toBe(moment.shown ? "interrupted" : "completed");
    return lost;
  },
  "outlives its time": async ({ talk, moment, sent }) => {
    const start = Date.now();
    vi.spyOn(Date, "now").mockImplementation(() => start + 61_000);
    await runDurableObjectAlarm(talk.stub);
    await goOn(talk);
    const answered = await sent;
    if (answered === "dead") throw new Error("no answer");
    // A message may have waited too long for its slot; then nothing has happened, and the time is over.
    if (moment.limits) return 0;
    expect(value(await talk.object.ended(turnOf(answered).turn)).state).toBe("completed");
    return 0;
  },
  "is of a conversation that changes": async ({ talk, sent, leaf }) => {
    value(await talk.object.change({ model: "claude-haiku-5-5", tools: [], metadata: { a: "b" }, system: "x" }));
    value(await talk.object.change({ context: { ...context, strategy: "none" } }));
    expect(await talk.object.change({ leaf: leaf ?? "" })).toMatchObject({ ok: false, error: { kind: "conflict" } });
    await goOn(talk);
    const answered = await sent;
    if (answered === "dead") throw new Error("no answer");
    expect(value(await talk.object.ended(turnOf(answered).turn))).toMatchObject({ state: "completed" });
    expect(await talk.view()).toMatchObject({ model: "claude-haiku-5-5", metadata: { a: "b" } });
    return 0;
  },
  "is looked after and said again, and others wait": async ({ talk, moment, sent }) => {
    for (let n = 0; n < 3; n++) await runDurableObjectAlarm(talk.stub);
    const again = talk.send(moment.words ?? "now", { clientId: "now" });
    const other = talk.send("other words", { clientId: "now" });
    const [one, two] = [turnOf(await talk.send("one")), turnOf(await talk.send("two"))];
    value(await talk.object.cancel(one.turn));
    await goOn(talk);
    const answered = await sent;
    if (answered === "dead") throw new Error("no answer");
    expect(turnOf(await again)).toMatchObject({ turn: turnOf(answered).turn, known: true });
    expect((await other).ok).toBe(false);
    const ends = [turnOf(answered), one, two].map(async ({ turn }) => value(await talk.object.ended(turn)).state);
    expect(await Promise.all(ends)).toEqual(["completed", "cancelled", "completed"]);
    return 0;
  },
};

describe.each(Object.entries(MOMENTS))("a message that %s", (_, moment) => {
  it.each(Object.entries(INTERRUPTIONS))("and %s", async (name, interrupt) => {
    const scene = await sceneOf(moment);
    const lost = await interrupt(scene);
    // Whoever waited for a slot in a dead life keeps his place for a while, or has waited too long.
    if (moment.limits && (name === "outlives its time" || lost > 0)) return;
    await goOn(scene.talk);
    await checkAfter(scene.talk);
    if (!moment.limits) await checkRows(scene.talk, lost);
  });

  it("and is deleted", async () => {
    const { talk, sent } = await sceneOf(moment);
    await env.DB.exec("ALTER TABLE conversations RENAME TO conversations_away");
    const waiting = moment.stored ? talk.object.ended(turnOf((await sent) as Result<Sent, Failure>).turn) : sent;
    value(await talk.object.remove());
    expect(await waiting).toMatchObject({ ok: false, error: { kind: "not_found" } });
    await env.DB.exec("ALTER TABLE conversations_away RENAME TO conversations");
    if (!moment.limits)
      await vi.waitFor(() => expect(calls.every((call) => call.over || call.aborted)).toBe(true), WAIT);
    await scheduler.wait(20);
    const start = Date.now();
    vi.spyOn(Date, "now").mockImplementation(() => start + 3_600_000);
    await vi.waitFor(async () => {
      await runDurableObjectAlarm(talk.stub);
      expect(await leftOf(talk)).toEqual([null]);
    }, WAIT);
    expect(await env.DB.prepare("SELECT 1 FROM conversations WHERE id = ?").bind(talk.id).first()).toBeNull();
    isHeld = () => false;
    for (const call of calls) call.send(answer("well"));
    for (const call of calls) call.end();
  });
});
