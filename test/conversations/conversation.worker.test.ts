/** The object of one conversation: turns from their message to their end, and everything that may come in between. */
import { runDurableObjectAlarm, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { MAX_STORED_BYTES, MAX_TURNS } from "../../src/conversations/limits.ts";
import { FAILURE_HEADER, SENDER_HEADER, type Sender } from "../../src/conversations/protocol.ts";
import { Tables } from "../../src/conversations/schema.ts";
import { call as admin } from "../admin/control-plane.ts";
import {
  answer,
  blockEnd,
  Call,
  die,
  event,
  logOf,
  newSender,
  PING,
  START,
  stop,
  Talk,
  text,
  toolCall,
  turnOf,
  value,
} from "./talk.ts";

const WAIT = { timeout: 10_000, interval: 5 };

let calls: Call[];
/** What is said to a call at once; by default a test says it. */
let reply: (call: Call) => Response | undefined;
let sender: Sender;

beforeEach(async () => {
  for (const level of ["log", "error"] as const) vi.spyOn(console, level).mockImplementation(() => {});
  calls = [];
  reply = () => undefined;
  vi.spyOn(globalThis, "fetch").mockImplementation(async (input, init) => {
    const call = new Call(String(input), init);
    calls.push(call);
    return reply(call) ?? call.response();
  });
  sender ??= await newSender();
});
afterEach(() => {
  vi.restoreAllMocks();
});

/** The n-th upstream call, once it has come. */
const called = (n: number): Promise<Call> =>
  vi.waitFor(() => {
    const call = calls[n - 1];
    if (!call) throw new Error(`only ${calls.length} calls`);
    return call;
  }, WAIT);

/** Answers every call at once. */
function answering(...said: string[]): void {
  let n = 0;
  reply = (call) => {
    call.send(said[n++] ?? answer(`answer ${n}`));
    call.end();
    return undefined;
  };
}

const kinds = async (talk: Talk): Promise<string[]> => (await logOf(talk)).map(({ kind }) => kind);
describe("a turn", () => {
  it("goes from the message to its end, each step in the log, numbered without gaps", async () => {
    const talk = await Talk.begin(sender);
    const sent = turnOf(await talk.send("Hi", { clientId: "c1" }));
    expect(sent).toMatchObject({ state: "processing", after: 0, known: false });
    expect(await talk.view()).toMatchObject({ state: "processing", turn: sent.turn, turn_seq: 1 });
    const ended = talk.object.ended(sent.turn);
    const call = await called(1);
    call.send(START, PING, text("Hel"));
    await vi.waitFor(async () => expect(await kinds(talk)).toContain("event"), WAIT);
    call.send(
      event("content_block_delta", { index: 0, delta: { type: "text_delta", text: "lo" } }) + blockEnd() + stop(),
    );
    call.end();
    const result = value(await ended);
    expect(result).toMatchObject({ state: "completed", stop_reason: "end_turn", client_id: "c1", error: null });
    expect(result.message).toMatchObject({ role: "assistant", content: [{ type: "text", text: "Hello" }] });
    expect(result.usage).toMatchObject({ input_tokens: 10, output_tokens: 5 });
    expect(result.cost_micro_usd).toBeGreaterThan(0);
    const { usage, cost_micro_usd } = result;
    expect(result.message).toMatchObject({ usage, cost_micro_usd });
    const log = await logOf(talk);
    expect(log.map(({ seq }) => seq)).toEqual(log.map((_, i) => i + 1));
    expect(log[0]).toMatchObject({ kind: "turn.started", fields: { id: "c1", content: "Hi" } });
    expect(log.at(-1)).toMatchObject({
      kind: "turn.completed",
      fields: { state: "completed", stop_reason: "end_turn" },
    });
    expect(await talk.said()).toEqual(["user: Hi", "assistant: Hello"]);
    expect(await talk.view()).toMatchObject({ state: "idle", turn: null, turn_seq: null, turns: 1, seq: log.length });
  });
});

describe("messages while a turn runs", () => {
  it("wait in the queue, in their order, and are answered with what came before them", async () => {
    const talk = await Talk.begin(sender);
    const first = turnOf(await talk.send("one"));
    await called(1);
    const second = turnOf(await talk.send("two", { clientId: "c2" }));
    const third = turnOf(await talk.send("three"));
    expect([second.state, third.state]).toEqual(["queued", "queued"]);
    expect(await talk.view()).toMatchObject({ turn: first.turn, queued: [second.turn, third.turn] });
    for (const n of [1, 2, 3]) {
      const call = await called(n);
      call.send(answer(`answer ${n}`));
      call.end();
    }
    expect(value(await talk.object.ended(third.turn)).state).toBe("completed");
    const said = [
      "user: one",
      "assistant: answer 1",
      "user: two",
      "assistant: answer 2",
      "user: three",
      "assistant: answer 3",
    ];
    expect(await talk.said()).toEqual(said);
    expect(calls.map(({ body }) => body.messages.length)).toEqual([1, 3, 5]);
    const log = await logOf(talk);
    const ofSecond = log.filter(({ turn }) => turn === second.turn).map(({ kind }) => kind);
    expect([ofSecond[0], ofSecond[1], ofSecond.at(-1)]).toEqual(["turn.queued", "turn.started", "turn.completed"]);
    expect(log[second.after]?.turn).toBe(second.turn);
  });

  it("are refused where they are not to wait, and when eight wait already", async () => {
    const talk = await Talk.begin(sender);
    await talk.send("one");
    expect(await talk.send("no", { onBusy: "reject" })).toMatchObject({ ok: false, error: { kind: "conflict" } });
    for (let i = 0; i < 8; i++) value(await talk.send(`waits ${i}`));
    expect(await talk.send("too many")).toMatchObject({ ok: false, error: { kind: "limit_reached" } });
    expect((await talk.view()).queued).toHaveLength(8);
    value(await talk.object.remove());
  });

  it("that come while another one is being prepared are not lost, be it refused or not", async () => {
    const talk = await Talk.begin(sender);
    const [one, two] = await Promise.all([
      talk.send("bad", { edit: "msg_00000000000000000000000000" }),
      talk.send("good"),
    ]);
    expect(one).toMatchObject({ ok: false, error: { kind: "invalid_request" } });
    const call = await called(1);
    call.send(answer("fine"));
    call.end();
    expect(value(await talk.object.ended(turnOf(two).turn)).state).toBe("completed");
    expect(await talk.said()).toEqual(["user: good", "assistant: fine"]);
    expect(calls).toHaveLength(1);
  });

  it("fail for themselves when their time has come and they may not be said", async () => {
    const talk = await Talk.begin(sender);
    await talk.send("one");
    const bad = turnOf(await talk.send("two", { edit: "msg_00000000000000000000000000" }));
    const call = await called(1);
    call.send(answer("one"));
    call.end();
    expect(value(await talk.object.ended(bad.turn))).toMatchObject({
      state: "failed",
      message: null,
      error: { type: "invalid_request_error" },
    });
    expect(await talk.said()).toEqual(["user: one", "assistant: one"]);
    expect((await logOf(talk)).at(-1)).toMatchObject({ kind: "turn.failed", turn: bad.turn });
  });
});

describe("a message that comes twice", () => {
  it("is the same one while it is prepared, while it runs and when it has ended", async () => {
    const talk = await Talk.begin(sender);
    const again = () => talk.send("Hi", { clientId: "c" });
    const both = (await Promise.all([again(), again()])).map(turnOf);
    expect(both.map(({ known }) => known).sort()).toEqual([false, true]);
    expect(both[0]?.turn).toBe(both[1]?.turn);
    expect(turnOf(await again())).toMatchObject({ known: true, state: "processing", after: 0 });
    const call = await called(1);
    call.send(answer("Hello"));
    call.end();
    value(await talk.object.ended(both[0]?.turn ?? ""));
    expect(turnOf(await again())).toMatchObject({ known: true, state: "completed" });
    expect(await talk.send("Other", { clientId: "c" })).toMatchObject({
      ok: false,
      error: { kind: "idempotency_mismatch" },
    });
    expect(calls).toHaveLength(1);
  });

  it("is called for anew when its turn has failed", async () => {
    const talk = await Talk.begin(sender);
    reply = () =>
      Response.json({ type: "error", error: { type: "invalid_request_error", message: "no" } }, { status: 400 });
    const first = turnOf(await talk.send("Hi", { clientId: "c" }));
    expect(value(await talk.object.ended(first.turn))).toMatchObject({
      state: "failed",
      message: null,
      error: { message: "no" },
    });
    expect(await talk.said()).toEqual([]);
    answering();
    const second = turnOf(await talk.send("Hi", { clientId: "c" }));
    expect(second).toMatchObject({ known: false });
    value(await talk.object.ended(second.turn));
    expect(await talk.said()).toEqual(["user: Hi", "assistant: answer 1"]);
  });
});

describe("messages of one id", () => {
  it("that waited for one of another key, which was refused, are one message", async () => {
    const context = { strategy: "truncate", max_input_tokens: 10, keep_turns: 1, summary_model: null } as const;
    const talk = await Talk.begin(sender, { context });
    const said = { clientId: "c", content: "so many words that they have to be counted" };
    const message = { options: {}, onBusy: null, edit: null, regenerate: null, ...said };
    const other = await newSender({ workspace: sender.workspace });
    const first = talk.object.send(message, other);
    const count = await called(1);
    const [second, third] = [talk.object.send(message, sender), talk.object.send(message, sender)];
    value(await talk.object.change({ context: { ...context, strategy: "none" } }));
    value(await talk.object.cancel(null));
    expect(await first).toMatchObject({ ok: false });
    answering();
    count.end();
    expect(turnOf(await second).turn).toBe(turnOf(await third).turn);
    value(await talk.object.ended(turnOf(await second).turn));
    expect(await talk.view()).toMatchObject({ state: "idle", turns: 1, queued: [] });
  });
});

describe("storage that fails", () => {
  it("at whichever statements leaves a conversation that goes on, with its numbers and its branch", async () => {
    const talk = await Talk.begin(sender);
    const own = await runInDurableObject(talk.stub, (_, { storage }) => storage.sql);
    const sql: SqlStorage = Object.getPrototypeOf(own);
    const { exec } = sql;
    let count = 0;
    let fails: (nth: number) => boolean = () => false;
    vi.spyOn(sql, "exec").mockImplementation(function (this: SqlStorage, ...args: Parameters<typeof exec>) {
      if (this === own && fails(++count)) throw new Error("storage is away");
      return exec.apply(this, args);
    } as typeof exec);
    answering();
    value(await talk.object.ended(turnOf(await talk.send("before")).turn));
    const { leaf } = await talk.view();
    let first = 1;
    for (let failed = true; failed; first += 3) {
      // From there each time: what a longer branch takes to read would put the end off for ever.
      value(await talk.object.change({ leaf: leaf ?? "" }));
      failed = false;
      count = 0;
      fails = (nth) => {
        const now = nth >= first && nth < first + 2;
        failed ||= now;
        return now;
      };
      const sent = await Promise.all([talk.send(`words ${first}`, { clientId: `c${first}` }), talk.send("and more")]);
      // What could not be ended is found by the guard.
      await vi.waitFor(async () => {
        await runDurableObjectAlarm(talk.stub);
        expect(await talk.object.read()).toMatchObject({ value: { state: "idle", queued: [] } });
      }, WAIT);
      fails = () => false;
      for (const one of sent) {
        if (!one.ok) expect(one.error.kind).toBe("internal");
        else expect(["completed", "failed", "interrupted"]).toContain(await stateOf(talk, turnOf(one).turn));
      }
      await expectWhole(talk);
    }
    expect(first).toBeGreaterThan(100);
    expect(await stateOf(talk, turnOf(await talk.send("after")).turn)).toBe("completed");
  });
});

const stateOf = async (talk: Talk, turn: string) => value(await talk.object.ended(turn)).state;

/** Its numbers have no gap, every turn one end, every message an answer, and the branch its beginning. */
async function expectWhole(talk: Talk): Promise<void> {
  const log = await logOf(talk);
  expect(log.map(({ seq }) => seq)).toEqual(log.map((_, i) => (log[0]?.seq ?? 0) + i));
  for (const [turn, lines] of Map.groupBy(log, (line) => line.turn)) {
    const ends = lines.filter(({ kind }) => kind === "turn.completed" || kind === "turn.failed").length;
    expect([turn, ends]).toEqual([turn, 1]);
  }
  const messages = await talk.messages();
  expect(messages[0]?.content).toBe("before");
  expect(messages.map(({ role }) => role)).toEqual(messages.map((_, i) => (i % 2 === 0 ? "user" : "assistant")));
}

describe("a failure", () => {
  it("of the upstream in mid-answer keeps what came, and ends the turn once", async () => {
    const talk = await Talk.begin(sender);
    const { turn } = turnOf(await talk.send("Hi"));
    const call = await called(1);
    call.send(START, text("so far"));
    await vi.waitFor(async () => expect(await kinds(talk)).toContain("event"), WAIT);
    call.break();
    const ended = value(await talk.object.ended(turn));
    expect(ended).toMatchObject({
      state: "failed",
      message: { incomplete: true, content: [{ type: "text", text: "so far" }] },
    });
    const log = await logOf(talk);
    expect(log.at(-2)).toMatchObject({ kind: "event", fields: { type: "error" } });
    expect(log.at(-1)).toMatchObject({ kind: "turn.failed", fields: { state: "failed" } });
    expect(log.filter(({ kind }) => kind === "turn.failed")).toHaveLength(1);
    expect(await talk.said()).toEqual(["user: Hi", "assistant: so far"]);
  });

  it("before anything of the answer leaves the history as it was", async () => {
    const talk = await Talk.begin(sender);
    answering();
    value(await talk.object.ended(turnOf(await talk.send("one")).turn));
    const before = await talk.view();
    reply = () =>
      Response.json({ type: "error", error: { type: "invalid_request_error", message: "no" } }, { status: 400 });
    const { turn } = turnOf(await talk.send("two"));
    expect(value(await talk.object.ended(turn))).toMatchObject({ state: "failed", message: null });
    expect((await talk.view()).leaf).toBe(before.leaf);
    expect(await talk.said()).toEqual(["user: one", "assistant: answer 1"]);
  });

  it("of a refused key is the answer to the message, and nothing is stored", async () => {
    const talk = await Talk.begin(sender);
    const stranger = { ...sender, secretSha256: "0".repeat(64) };
    expect(
      await talk.object.send(
        { clientId: null, content: "Hi", options: {}, onBusy: null, edit: null, regenerate: null },
        stranger,
      ),
    ).toMatchObject({
      ok: false,
      error: { kind: "unauthenticated" },
    });
    expect(await talk.view()).toMatchObject({ state: "idle", turns: 0, seq: 0, leaf: null });
    expect(calls).toHaveLength(0);
  });
});

describe("cancel", () => {
  it("of a message that came twice refuses both", async () => {
    const talk = await Talk.begin(sender, {
      context: { strategy: "truncate", max_input_tokens: 10, keep_turns: 1, summary_model: null },
    });
    const words = "so many words that they have to be counted";
    const both = [talk.send(words, { clientId: "c" }), talk.send(words, { clientId: "c" })];
    await called(1);
    value(await talk.object.cancel(null));
    for (const sent of await Promise.all(both)) expect(sent).toMatchObject({ ok: false, error: { kind: "conflict" } });
    expect(await talk.view()).toMatchObject({ state: "idle", turns: 0 });
  });

  it("stops the upstream at once and keeps what was said", async () => {
    const talk = await Talk.begin(sender);
    const { turn } = turnOf(await talk.send("Hi"));
    const call = await called(1);
    call.send(START, text("so far"));
    await vi.waitFor(async () => expect(await kinds(talk)).toContain("event"), WAIT);
    expect(value(await talk.object.cancel(null)).state).toBe("cancelling");
    expect(value(await talk.object.ended(turn))).toMatchObject({
      state: "cancelled",
      error: { type: "cancelled" },
      message: { incomplete: true, content: [{ type: "text", text: "so far" }] },
    });
    await vi.waitFor(() => expect(call.aborted).toBe(true), WAIT);
    expect(await talk.view()).toMatchObject({ state: "idle", awaiting_tool_results: [] });
    expect((await logOf(talk)).at(-1)).toMatchObject({ kind: "turn.failed", fields: { state: "cancelled" } });
  });

  it("before the first byte leaves no answer, and the branch as it was", async () => {
    const talk = await Talk.begin(sender);
    const { turn } = turnOf(await talk.send("Hi"));
    await called(1);
    value(await talk.object.cancel(turn));
    expect(value(await talk.object.ended(turn))).toMatchObject({ state: "cancelled", message: null });
    expect((await talk.view()).leaf).toBeNull();
  });

  it("refuses a message that is still being prepared, which leaves nothing", async () => {
    const talk = await Talk.begin(sender, {
      context: { strategy: "truncate", max_input_tokens: 10, keep_turns: 1, summary_model: null },
    });
    const sent = talk.send("so many words that they have to be counted");
    expect((await called(1)).path).toBe("/v1/messages/count_tokens");
    value(await talk.object.cancel(null));
    expect(await sent).toMatchObject({ ok: false, error: { kind: "conflict" } });
    expect(await talk.view()).toMatchObject({ state: "idle", turns: 0, seq: 0 });
    await vi.waitFor(() => expect(calls[0]?.aborted).toBe(true), WAIT);
    expect(calls).toHaveLength(1);
  });

  it("takes a message out of the queue, and lets the others come", async () => {
    const talk = await Talk.begin(sender);
    await talk.send("one");
    const two = turnOf(await talk.send("two"));
    const three = turnOf(await talk.send("three"));
    value(await talk.object.cancel(two.turn));
    expect(value(await talk.object.ended(two.turn))).toMatchObject({ state: "cancelled", message: null });
    const call = await called(1);
    call.send(answer("1"));
    call.end();
    const last = await called(2);
    last.send(answer("3"));
    last.end();
    expect(value(await talk.object.ended(three.turn)).state).toBe("completed");
    expect(await talk.said()).toEqual(["user: one", "assistant: 1", "user: three", "assistant: 3"]);
  });

  it("of what has ended, or never was, does nothing", async () => {
    const talk = await Talk.begin(sender);
    answering();
    const { turn } = turnOf(await talk.send("one"));
    value(await talk.object.ended(turn));
    const before = await talk.view();
    for (const which of [null, turn, "turn_00000000000000000000000000"]) value(await talk.object.cancel(which));
    expect(await talk.view()).toEqual(before);
  });
});

describe("a death of the object", () => {
  it("before anything was shown has the turn called for again, without anybody asking", async () => {
    const talk = await Talk.begin(sender);
    const { turn } = turnOf(await talk.send("Hi"));
    await called(1);
    await die(talk);
    expect(await runDurableObjectAlarm(talk.stub)).toBe(true);
    const call = await called(2);
    expect(await talk.view()).toMatchObject({ state: "retrying", turn });
    call.send(START);
    await vi.waitFor(async () => expect((await talk.view()).state).toBe("processing"), WAIT);
    call.send(text("Hello") + blockEnd() + stop());
    call.end();
    expect(value(await talk.object.ended(turn))).toMatchObject({ state: "completed" });
    expect(await talk.said()).toEqual(["user: Hi", "assistant: Hello"]);
    expect((await kinds(talk)).filter((kind) => kind === "turn.started")).toHaveLength(1);
  });

  it("is survived so often and no more", async () => {
    const talk = await Talk.begin(sender);
    const { turn } = turnOf(await talk.send("Hi"));
    for (let life = 1; life <= 4; life++) {
      await called(life);
      await die(talk);
      await talk.view();
    }
    expect(value(await talk.object.ended(turn))).toMatchObject({
      state: "interrupted",
      message: null,
      error: { type: "interrupted" },
    });
    expect(await talk.view()).toMatchObject({ state: "idle", leaf: null });
    expect(calls).toHaveLength(4);
  });

  it("in mid-answer ends the turn with what was shown of it; the queue goes on", async () => {
    const talk = await Talk.begin(sender);
    const first = turnOf(await talk.send("one"));
    (await called(1)).send(START, text("so far"));
    await vi.waitFor(async () => expect(await kinds(talk)).toContain("event"), WAIT);
    const second = turnOf(await talk.send("two"));
    await die(talk);
    expect(value(await talk.object.ended(first.turn))).toMatchObject({
      state: "interrupted",
      message: { incomplete: true, content: [{ type: "text", text: "so far" }] },
    });
    const call = await called(2);
    call.send(answer("2"));
    call.end();
    expect(value(await talk.object.ended(second.turn)).state).toBe("completed");
    expect(await talk.said()).toEqual(["user: one", "assistant: so far", "user: two", "assistant: 2"]);
    expect((await kinds(talk)).filter((kind) => kind === "turn.failed")).toHaveLength(1);
  });

  it("while it is cancelled ends as cancelled", async () => {
    const talk = await Talk.begin(sender);
    const { turn } = turnOf(await talk.send("one"));
    (await called(1)).send(START, text("so far"));
    await vi.waitFor(async () => expect(await kinds(talk)).toContain("event"), WAIT);
    await runInDurableObject(talk.stub, (_, { storage }) => {
      const tables = new Tables(storage);
      const stored = JSON.parse(tables.text(`turn ${turn}`));
      tables.putText(`turn ${turn}`, JSON.stringify({ ...stored, state: "cancelling" }));
    });
    await die(talk);
    expect(value(await talk.object.ended(turn))).toMatchObject({ state: "cancelled", message: { incomplete: true } });
  });

  it("behind the last event has the turn complete", async () => {
    const talk = await Talk.begin(sender);
    const { turn } = turnOf(await talk.send("one"));
    // The upstream has said all, and keeps its connection.
    (await called(1)).send(answer("all"));
    await vi.waitFor(async () => expect((await logOf(talk)).at(-1)?.fields.type).toBe("message_stop"), WAIT);
    await die(talk);
    expect(value(await talk.object.ended(turn))).toMatchObject({ state: "completed", usage: { estimated: true } });
    expect(await talk.said()).toEqual(["user: one", "assistant: all"]);
  });
});

describe("tools", () => {
  const result = (id: string) => ({ type: "tool_result", tool_use_id: id, content: `of ${id}` });

  it("of one answer are answered together, whenever their results come", async () => {
    const talk = await Talk.begin(sender);
    answering(START + toolCall("t1") + toolCall("t2", 1) + stop("tool_use"), answer("done"));
    const { turn } = turnOf(await talk.send("look"));
    value(await talk.object.ended(turn));
    expect(await talk.view()).toMatchObject({ state: "idle", awaiting_tool_results: ["t1", "t2"] });
    expect((await logOf(talk)).at(-1)?.fields).toMatchObject({
      stop_reason: "tool_use",
      awaiting_tool_results: ["t1", "t2"],
    });
    expect(await talk.send("words")).toMatchObject({ ok: false, error: { kind: "invalid_request" } });
    expect(value(await talk.send([result("t2")], { clientId: "r2" }))).toEqual({ kind: "awaiting", awaiting: ["t1"] });
    await die(talk);
    expect((await talk.view()).awaiting_tool_results).toEqual(["t1"]);
    expect(value(await talk.send([result("t2")], { clientId: "r2" }))).toEqual({ kind: "awaiting", awaiting: ["t1"] });
    expect(await talk.send([result("t2")])).toMatchObject({ ok: false, error: { kind: "invalid_request" } });
    const last = turnOf(await talk.send([result("t1")]));
    value(await talk.object.ended(last.turn));
    const results = calls.at(-1)?.body.messages.at(-1)?.content as { tool_use_id: string }[];
    expect(results.map(({ tool_use_id }) => tool_use_id)).toEqual(["t1", "t2"]);
    expect(await talk.view()).toMatchObject({ awaiting_tool_results: [], turns: 2 });
  });

  it("whose turn came to nothing are still there, and known by the ids they came with", async () => {
    const talk = await Talk.begin(sender);
    answering(START + toolCall("toolu_a") + toolCall("toolu_b", 1) + stop("tool_use"));
    value(await talk.object.ended(turnOf(await talk.send("one")).turn));
    const result = (id: string) => [{ type: "tool_result", tool_use_id: id, content: id }];
    const a = () => talk.send(result("toolu_a"), { clientId: "a" });
    expect(value(await a())).toEqual({ kind: "awaiting", awaiting: ["toolu_b"] });
    const refused = { type: "error", error: { type: "invalid_request_error", message: "no" } };
    reply = () => Response.json(refused, { status: 400 });
    const { turn } = turnOf(await talk.send(result("toolu_b"), { clientId: "b" }));
    expect(value(await talk.object.ended(turn)).state).toBe("failed");
    expect((await talk.view()).awaiting_tool_results).toEqual(["toolu_b"]);
    expect(value(await a())).toEqual({ kind: "awaiting", awaiting: ["toolu_b"] });
    answering();
    const again = turnOf(await talk.send(result("toolu_b"), { clientId: "b" }));
    expect(value(await talk.object.ended(again.turn)).state).toBe("completed");
    expect(turnOf(await a())).toMatchObject({ turn: again.turn, known: true });
    expect(calls.at(-1)?.body.messages.at(-1)?.content).toMatchObject([
      { tool_use_id: "toolu_a" },
      { tool_use_id: "toolu_b" },
    ]);
  });

  it("are not waited for any more in another branch", async () => {
    const talk = await Talk.begin(sender);
    answering(START + toolCall("t1") + toolCall("t2", 1) + stop("tool_use"), answer("anew"));
    value(await talk.object.ended(turnOf(await talk.send("look")).turn));
    value(await talk.send([result("t1")]));
    value(await talk.object.ended(turnOf(await talk.send(null, { regenerate: true })).turn));
    expect(await talk.view()).toMatchObject({ awaiting_tool_results: [] });
    expect(await talk.said()).toEqual(["user: look", "assistant: anew"]);
  });

  it("of the upstream's own are gone on with where it pauses, in the same turn", async () => {
    const talk = await Talk.begin(sender);
    answering(START + text("first ") + blockEnd() + stop("pause_turn"), answer("second"));
    const { turn } = turnOf(await talk.send("search"));
    const ended = value(await talk.object.ended(turn));
    expect(ended).toMatchObject({ state: "completed", usage: { input_tokens: 20, output_tokens: 10 } });
    expect(ended.message?.content).toMatchObject([{ text: "first " }, { text: "second" }]);
    expect(calls).toHaveLength(2);
    expect(calls[1]?.body.messages.at(-1)).toMatchObject({ role: "assistant" });
    expect((await logOf(talk)).filter(({ fields }) => fields.type === "message_start")).toHaveLength(2);
  });
});

describe("branches", () => {
  it("begin where a message is said in other words, or answered anew, and can be gone back to", async () => {
    const talk = await Talk.begin(sender);
    answering();
    value(await talk.object.ended(turnOf(await talk.send("one")).turn));
    value(await talk.object.ended(turnOf(await talk.send("two")).turn));
    const [first, , second, answered] = await talk.messages();
    value(await talk.object.ended(turnOf(await talk.send("two, again", { edit: second?.id ?? "" })).turn));
    expect(await talk.said()).toEqual(["user: one", "assistant: answer 1", "user: two, again", "assistant: answer 3"]);
    expect((await talk.messages())[2]?.siblings).toHaveLength(2);
    value(await talk.object.change({ leaf: answered?.id ?? "" }));
    expect((await talk.said())[2]).toBe("user: two");
    value(await talk.object.ended(turnOf(await talk.send(null, { regenerate: answered?.id ?? "" })).turn));
    expect((await talk.said()).slice(2)).toEqual(["user: two", "assistant: answer 4"]);
    expect((await talk.messages())[3]?.siblings).toHaveLength(2);
    value(await talk.object.ended(turnOf(await talk.send("zero", { edit: first?.id ?? "" })).turn));
    expect(await talk.said()).toEqual(["user: zero", "assistant: answer 5"]);
  });

  it("are as they were when nothing came of a new one", async () => {
    const talk = await Talk.begin(sender);
    answering();
    value(await talk.object.ended(turnOf(await talk.send("one")).turn));
    value(await talk.object.ended(turnOf(await talk.send("two")).turn));
    const before = await talk.said();
    const [first] = await talk.messages();
    reply = () =>
      Response.json({ type: "error", error: { type: "invalid_request_error", message: "no" } }, { status: 400 });
    for (const more of [{ edit: first?.id ?? "" }, { regenerate: first?.id ?? "" }]) {
      const { turn } = turnOf(await talk.send("edit" in more ? "other" : null, more));
      expect(value(await talk.object.ended(turn)).state).toBe("failed");
      expect(await talk.said()).toEqual(before);
    }
  });

  it("are not switched while a turn runs", async () => {
    const talk = await Talk.begin(sender);
    answering();
    value(await talk.object.ended(turnOf(await talk.send("one")).turn));
    const [first] = await talk.messages();
    reply = () => undefined;
    await talk.send("two");
    expect(await talk.object.change({ leaf: first?.id ?? "" })).toMatchObject({
      ok: false,
      error: { kind: "conflict" },
    });
    value(await talk.object.remove());
  });
});

describe("the end of a conversation", () => {
  const tables = (talk: Talk): Promise<number> =>
    runInDurableObject(
      talk.stub,
      (_, { storage }) =>
        storage.sql.exec("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT GLOB '_cf_*'").toArray()
          .length,
    );
  const listed = (talk: Talk) => env.DB.prepare("SELECT * FROM conversations WHERE id = ?").bind(talk.id).first();

  it("by deletion, in mid-turn, takes everything, and answers everybody who waits", async () => {
    const talk = await Talk.begin(sender);
    expect(await listed(talk)).toMatchObject({ workspace: sender.workspace, key_id: sender.keyId });
    const { turn } = turnOf(await talk.send("Hi"));
    const queued = turnOf(await talk.send("waits"));
    const waiting = [talk.object.ended(turn), talk.object.ended(queued.turn)];
    const call = await called(1);
    call.send(START, text("so far"));
    await vi.waitFor(async () => expect(await kinds(talk)).toContain("event"), WAIT);
    value(await talk.object.remove());
    for (const ended of await Promise.all(waiting))
      expect(ended).toMatchObject({ ok: false, error: { kind: "not_found" } });
    await vi.waitFor(() => expect(call.aborted).toBe(true), WAIT);
    expect(await tables(talk)).toBe(0);
    expect(await listed(talk)).toBeNull();
    for (const gone of [
      talk.object.read(),
      talk.send("Hi"),
      talk.object.cancel(null),
      talk.object.remove(),
      talk.object.ended(turn),
    ]) {
      expect(await gone).toMatchObject({ ok: false, error: { kind: "not_found" } });
    }
    await die(talk);
    expect(await talk.object.read()).toMatchObject({ ok: false, error: { kind: "not_found" } });
    expect(await runDurableObjectAlarm(talk.stub)).toBe(false);
  });

  it("by deletion while a message is being prepared refuses it", async () => {
    const talk = await Talk.begin(sender, {
      context: { strategy: "truncate", max_input_tokens: 10, keep_turns: 1, summary_model: null },
    });
    const sent = talk.send("so many words that they have to be counted");
    await called(1);
    value(await talk.object.remove());
    expect(await sent).toMatchObject({ ok: false, error: { kind: "not_found" } });
    expect(await tables(talk)).toBe(0);
  });

  it("comes when nothing has happened for its time to live, and not while a turn runs", async () => {
    const talk = await Talk.begin(sender, { ttlSeconds: 60 });
    const { turn } = turnOf(await talk.send("Hi"));
    const call = await called(1);
    const start = Date.now();
    vi.spyOn(Date, "now").mockImplementation(() => start + 61_000);
    await runDurableObjectAlarm(talk.stub);
    expect(value(await talk.object.read()).state).toBe("processing");
    call.send(answer("Hello"));
    call.end();
    value(await talk.object.ended(turn));
    await runDurableObjectAlarm(talk.stub);
    expect(value(await talk.object.read()).state).toBe("idle");
    vi.spyOn(Date, "now").mockImplementation(() => start + 122_000);
    expect(await runDurableObjectAlarm(talk.stub)).toBe(true);
    expect(await talk.object.read()).toMatchObject({ ok: false, error: { kind: "not_found" } });
    expect(await tables(talk)).toBe(0);
    expect(await listed(talk)).toBeNull();
  });

  it("waits for D1 with nothing but a note", async () => {
    const talk = await Talk.begin(sender);
    await talk.send("Hi");
    await env.DB.exec("ALTER TABLE conversations RENAME TO conversations_away");
    value(await talk.object.remove());
    expect(await tables(talk)).toBe(0);
    const kept = runInDurableObject(talk.stub, (_, { storage }) => [...storage.kv.list()].map(([key]) => key));
    expect(await kept).toEqual(["listing"]);
    expect(await talk.object.read()).toMatchObject({ ok: false, error: { kind: "not_found" } });
    await env.DB.exec("ALTER TABLE conversations_away RENAME TO conversations");
    expect(await listed(talk)).not.toBeNull();
    const later = Date.now() + 60_000;
    vi.spyOn(Date, "now").mockImplementation(() => later);
    await runDurableObjectAlarm(talk.stub);
    expect(await listed(talk)).toBeNull();
    expect(await runDurableObjectAlarm(talk.stub)).toBe(false);
  });
});

describe("with D1 away", () => {
  it("everything goes on, and the list hears of it later", async () => {
    await env.DB.exec("ALTER TABLE conversations RENAME TO conversations_away");
    const talk = await Talk.begin(sender, { metadata: { a: "b" } });
    answering();
    value(await talk.object.ended(turnOf(await talk.send("one")).turn));
    await runDurableObjectAlarm(talk.stub);
    await env.DB.exec("ALTER TABLE conversations_away RENAME TO conversations");
    const later = Date.now() + 60_000;
    vi.spyOn(Date, "now").mockImplementation(() => later);
    await runDurableObjectAlarm(talk.stub);
    const row = await env.DB.prepare("SELECT * FROM conversations WHERE id = ?").bind(talk.id).first();
    expect(row).toMatchObject({ turns: 1, metadata: '{"a":"b"}' });
  });
});

describe("alarms", () => {
  it("come in time again when the clock, a day ahead, has come back", async () => {
    const talk = await Talk.begin(sender);
    answering();
    const start = Date.now();
    vi.spyOn(Date, "now").mockImplementation(() => start + 86_400_000);
    await env.DB.exec("ALTER TABLE conversations RENAME TO conversations_away");
    value(await talk.object.ended(turnOf(await talk.send("one")).turn));
    await runDurableObjectAlarm(talk.stub);
    const { updated_at } = await talk.view();
    await env.DB.exec("ALTER TABLE conversations_away RENAME TO conversations");
    vi.mocked(Date.now).mockRestore();
    value(await talk.object.ended(turnOf(await talk.send("two")).turn));
    expect((await talk.view()).updated_at).toBe(updated_at);
    await vi.waitFor(async () => {
      await runDurableObjectAlarm(talk.stub);
      const row = await env.DB.prepare("SELECT turns FROM conversations WHERE id = ?").bind(talk.id).first();
      expect(row).toEqual({ turns: 2 });
    }, WAIT);
  });

  it("of a whole day at once do no harm", async () => {
    const talk = await Talk.begin(sender);
    answering();
    value(await talk.object.ended(turnOf(await talk.send("one")).turn));
    const before = await talk.view();
    const start = Date.now();
    for (let hour = 0; hour < 24; hour++) {
      vi.spyOn(Date, "now").mockImplementation(() => start + hour * 3_600_000);
      for (let again = 0; again < 3; again++) await runDurableObjectAlarm(talk.stub);
    }
    vi.mocked(Date.now).mockRestore();
    expect(await talk.view()).toEqual(before);
  });
});

describe("a context that is too large", () => {
  const LONG = "many words ".repeat(200);
  /** Counts a token for every four characters of the messages. */
  const counting = (summary: (call: Call) => Response): void => {
    reply = (call) => {
      const tokens = Math.ceil(JSON.stringify(call.body.messages).length / 4);
      if (call.path.endsWith("/count_tokens")) return Response.json({ input_tokens: tokens });
      if (call.body.stream !== true) return summary(call);
      call.send(START.replace('"input_tokens":10', `"input_tokens":${tokens}`) + text(LONG) + blockEnd() + stop());
      call.end();
      return undefined;
    };
  };
  const summarized = (): Response =>
    Response.json({
      type: "message",
      model: "claude-haiku-5-5",
      content: [{ type: "text", text: "in short" }],
      stop_reason: "end_turn",
      usage: { input_tokens: 100, output_tokens: 10 },
    });
  const policy = (strategy: "summarize" | "truncate") =>
    ({ context: { strategy, max_input_tokens: 2_500, keep_turns: 1, summary_model: null } }) as const;
  const say = async (talk: Talk, words: string) => value(await talk.object.ended(turnOf(await talk.send(words)).turn));

  it("is summed up, which is told, billed, shown, and gone on from", async () => {
    const talk = await Talk.begin(sender, policy("summarize"));
    counting(summarized);
    let ended = await say(talk, LONG);
    while (ended.cut === null) ended = await say(talk, LONG);
    expect(ended.cut).toMatchObject({ strategy: "summarize", reason: "max_input_tokens" });
    expect(ended.cut.tokens_after).toBeGreaterThan(0);
    expect(ended.cut.tokens_after).toBeLessThan(ended.cut.tokens_before);
    const asked = calls.findLast(({ body }) => body.stream !== true && body.max_tokens !== undefined);
    expect(asked?.body.model).toBe("claude-haiku-5-5");
    expect(ended.usage.input_tokens).toBeGreaterThanOrEqual(ended.cut.tokens_after + 100);
    const shown = (await talk.messages()).filter(({ type }) => type === "summary");
    expect(shown).toMatchObject([{ id: ended.cut.summary, content: "in short" }]);
    const sent = JSON.stringify(calls.at(-1)?.body.messages);
    expect(sent).toContain("in short");
    expect((await kinds(talk)).filter((kind) => kind === "context.cut")).toHaveLength(1);
  });

  it("is cut where there is no summary to be had, and says why", async () => {
    const talk = await Talk.begin(sender, policy("summarize"));
    counting(() => Response.json({ type: "error", error: { type: "api_error", message: "no" } }, { status: 400 }));
    let ended = await say(talk, LONG);
    while (ended.cut === null) ended = await say(talk, LONG);
    expect(ended).toMatchObject({
      state: "completed",
      cut: { strategy: "truncate", reason: "summary_failed", summary: null },
    });
  });

  it("is refused where the newest turns alone are too large", async () => {
    const talk = await Talk.begin(sender, policy("truncate"));
    counting(summarized);
    expect(await talk.send(LONG.repeat(10))).toMatchObject({ ok: false, error: { kind: "invalid_request" } });
    expect(await talk.view()).toMatchObject({ turns: 0, seq: 0 });
  });
});

describe("limits", () => {
  it("of stored bytes are told before anything is stored", async () => {
    const talk = await Talk.begin(sender);
    answering();
    await runInDurableObject(talk.stub, (_, { storage }) => {
      storage.sql.exec("UPDATE conversation SET bytes = ?", MAX_STORED_BYTES - 10);
    });
    await die(talk);
    expect(await talk.send("more than ten bytes")).toMatchObject({ ok: false, error: { kind: "invalid_request" } });
    value(await talk.object.ended(turnOf(await talk.send("few")).turn));
  });

  it("D-01 of stored bytes count what else a message brings, also when it is stored", async () => {
    const talk = await Talk.begin(sender);
    answering();
    const send = (chars: number) => talk.send("hi", { options: { metadata: { note: "x".repeat(chars) } } });
    const some = 50_000;
    await talk.object.ended(turnOf(await send(some)).turn);
    await runInDurableObject(talk.stub, (_, { storage }) => {
      expect(storage.sql.exec("SELECT bytes FROM conversation").one().bytes).toBeGreaterThan(some);
      storage.sql.exec("UPDATE conversation SET bytes = ?", MAX_STORED_BYTES - some);
    });
    await die(talk);
    expect(await send(some)).toMatchObject({ ok: false, error: { kind: "invalid_request" } });
    await talk.object.ended(turnOf(await send(some / 2)).turn);
  });

  it("D-01 of settings hold for all of them together, so that they can be read", async () => {
    const talk = await Talk.begin(sender);
    const system = "x".repeat(5 * 1024 * 1024);
    expect(value(await talk.object.change({ system })).system).toBe(system);
    expect(await talk.object.change({ options: { stop_sequences: [system] } })).toMatchObject({
      ok: false,
      error: { kind: "invalid_request" },
    });
    expect(await talk.view()).toMatchObject({ system, options: {} });
  });

  it("of turns as well", async () => {
    const talk = await Talk.begin(sender);
    answering();
    await runInDurableObject(talk.stub, (_, { storage }) => {
      storage.sql.exec("UPDATE conversation SET turns = ?", MAX_TURNS - 1);
    });
    await die(talk);
    value(await talk.object.ended(turnOf(await talk.send("the last")).turn));
    expect(await talk.send("one more")).toMatchObject({ ok: false, error: { kind: "invalid_request" } });
  });
});

describe("a socket", () => {
  async function connect(
    talk: Talk,
  ): Promise<{ socket: WebSocket; frames: { type: string; seq?: number }[]; closed: Promise<number> }> {
    const response = await talk.stub.fetch("https://object.internal/socket", {
      headers: {
        upgrade: "websocket",
        [SENDER_HEADER]: JSON.stringify(talk.sender),
        "sec-websocket-protocol": "sluice.v1",
      },
    });
    const socket = response.webSocket;
    if (!socket) throw new Error(`status ${response.status}`);
    const frames: { type: string; seq?: number }[] = [];
    socket.addEventListener("message", ({ data }) => frames.push(JSON.parse(String(data))));
    const closed = new Promise<number>((done) => socket.addEventListener("close", ({ code }) => done(code)));
    socket.accept();
    return { socket, frames, closed };
  }

  it("sends, sees every event of the turn once, and is closed when the conversation is deleted", async () => {
    const talk = await Talk.begin(sender);
    const { socket, frames, closed } = await connect(talk);
    answering();
    socket.send(JSON.stringify({ type: "send", id: "c1", content: "Hi" }));
    await vi.waitFor(() => expect(frames.at(-1)?.type).toBe("turn.completed"), WAIT);
    expect(frames[0]?.type).toBe("ready");
    expect(frames.slice(1).map(({ seq }) => seq)).toEqual((await logOf(talk)).map(({ seq }) => seq));
    value(await talk.object.remove());
    expect(await closed).toBe(4404);
  });

  it("of a key that is revoked is closed while a turn runs", async () => {
    const own = await newSender();
    const talk = await Talk.begin(own);
    const { closed } = await connect(talk);
    const { turn } = turnOf(await talk.send("Hi"));
    (await called(1)).send(START, text("so far"));
    await admin(`keys/${own.keyId}`, { method: "DELETE" });
    expect(await closed).toBe(4401);
    value(await talk.object.cancel(turn));
  });

  it("that says nothing for long is closed by the alarm", async () => {
    const talk = await Talk.begin(sender);
    const { closed } = await connect(talk);
    const later = Date.now() + 60_000;
    vi.spyOn(Date, "now").mockImplementation(() => later);
    expect(await runDurableObjectAlarm(talk.stub)).toBe(true);
    expect(await closed).toBe(4408);
  });
});

describe("what is asked over HTTP", () => {
  const ask = (talk: Talk, path: string): Promise<Response> =>
    talk.stub.fetch(`https://object.internal${path}`, { headers: { [SENDER_HEADER]: JSON.stringify(talk.sender) } });

  it("is answered with everything, as JSON, and with the events after a number", async () => {
    const talk = await Talk.begin(sender);
    answering();
    value(await talk.object.ended(turnOf(await talk.send("Hi")).turn));
    const exported = await (await ask(talk, "/export")).json<{ messages: unknown[]; turns: unknown[] }>();
    expect([exported.messages.length, exported.turns.length]).toEqual([2, 1]);
    const told = await (await ask(talk, "/events?after=1")).text();
    const log = await logOf(talk);
    expect(told.match(/^id: \d+$/gm)?.length).toBe(log.length - 1);
    const unknown = await ask(talk, "/events?after=0&turn=turn_00000000000000000000000000");
    expect(JSON.parse(unknown.headers.get(FAILURE_HEADER) ?? "")).toMatchObject({ kind: "not_found" });
    value(await talk.object.remove());
    const gone = await ask(talk, "/events?after=0");
    expect(JSON.parse(gone.headers.get(FAILURE_HEADER) ?? "")).toMatchObject({ kind: "not_found" });
  });
});
