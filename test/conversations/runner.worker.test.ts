/** Storage that fails in the middle of a turn: nothing that was admitted is lost, and no second turn runs beside it. */
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { specOf } from "../../src/conversations/input.ts";
import type { Incoming, Sender } from "../../src/conversations/protocol.ts";
import { Runner } from "../../src/conversations/runner.ts";
import type { Admit } from "../../src/conversations/turn-calls.ts";
import { ok } from "../../src/result.ts";
import { emptyObject, inside, opened } from "./stored.ts";
import { SETTLED, sender } from "./viewers-stand-ins.ts";

const WAIT = { timeout: 10_000, interval: 5 };
const says = (content: string): Incoming => ({
  clientId: null,
  content,
  options: {},
  onBusy: null,
  edit: null,
  regenerate: null,
});
const WHO: Sender = sender();
const ANSWER = [
  { type: "message_start", message: { model: "claude-opus-5-5", usage: { input_tokens: 1, output_tokens: 1 } } },
  { type: "content_block_start", index: 0, content_block: { type: "text", text: "Yes." } },
  { type: "content_block_stop", index: 0 },
  { type: "message_delta", delta: { stop_reason: "end_turn" }, usage: { output_tokens: 2 } },
  { type: "message_stop" },
]
  .map((event) => `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`)
  .join("");

beforeEach(() => {
  vi.spyOn(console, "error").mockImplementation(() => {});
});
afterEach(() => {
  vi.restoreAllMocks();
});

/** A runner over real tables whose transactions fail when they are told to. */
function running(storage: DurableObjectStorage) {
  const { tables, log, history } = opened(storage);
  history.create(specOf("conv_1", { model: "claude-opus-5-5" }), 1);
  const calls = { admitted: 0, released: 0, sent: 0 };
  const state = { failing: 0, answer: Promise.resolve() };
  const admit: Admit = async () => {
    calls.admitted++;
    return ok({
      requestId: "req_1",
      async send() {
        calls.sent++;
        await state.answer;
        return ok(new Response(ANSWER, { headers: { "content-type": "text/event-stream" } }));
      },
      release: () => void calls.released++,
      ended: Promise.resolve(SETTLED),
    });
  };
  const runner = new Runner({
    kv: storage.kv,
    transaction: (act) =>
      tables.transaction(() => {
        const done = act();
        if (state.failing > 0 && state.failing-- > 0) throw new Error("no space left");
        return done;
      }),
    log,
    history,
    publish: () => {},
    verify: async () => {},
    admit,
    shown: () => {},
    changed: () => {},
    background: (work) => void work,
    now: () => 1,
  });
  return { runner, history, log, calls, state };
}

it("a turn that can't be written down gives back what was admitted for it, and leaves nothing", () =>
  inside(emptyObject(), async (storage) => {
    const { runner, history, log, calls, state } = running(storage);
    state.failing = 1;
    expect(await runner.send(says("Hi"), WHO)).toEqual({ ok: false, error: { kind: "internal" } });
    expect(calls).toEqual({ admitted: 1, released: 1, sent: 0 });
    expect([history.turns, history.leaf, log.lastSeq]).toEqual([0, null, 0]);
    await vi.waitFor(() => expect(runner.busy).toBe(false), WAIT);
    const said = await runner.send(says("Hi"), WHO);
    expect(said).toMatchObject({ ok: true, value: { after: 0 } });
    if (said.ok && said.value.kind === "turn") expect((await runner.ended(said.value.turn)).ok).toBe(true);
    expect(log.read(0, 1e6).map(({ seq }) => seq)).toEqual(Array.from({ length: log.lastSeq }, (_, i) => i + 1));
  }));

it("a turn that can't be ended is ended later, and the next one waits until then", () =>
  inside(emptyObject(), async (storage) => {
    const { runner, history, calls, state } = running(storage);
    const answered = Promise.withResolvers<void>();
    state.answer = answered.promise;
    const first = await runner.send(says("one"), WHO);
    const second = await runner.send(says("two"), WHO);
    if (!first.ok || !second.ok || first.value.kind !== "turn" || second.value.kind !== "turn") throw new Error("sent");
    // Neither its end can be written down, nor that it has failed.
    state.failing = 2;
    answered.resolve();
    await vi.waitFor(() => expect(state.failing).toBe(0), WAIT);
    await scheduler.wait(20);
    expect(history.turn(first.value.turn)?.state).toBe("processing");
    expect(history.turn(second.value.turn)?.state).toBe("queued");
    expect(calls.sent).toBe(1);
    runner.takeUp();
    expect(await runner.ended(first.value.turn)).toMatchObject({ ok: true, value: { state: "completed" } });
    expect(await runner.ended(second.value.turn)).toMatchObject({ ok: true, value: { state: "completed" } });
    expect(calls.sent).toBe(2);
  }));
