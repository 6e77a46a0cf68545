/** Anything that may happen to a conversation, in any order: what its log, its state and its history always say. */
import { runDurableObjectAlarm } from "cloudflare:test";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { Sender } from "../../src/conversations/protocol.ts";
import { answer, blockEnd, Call, die, logOf, newSender, START, stop, Talk, text, toolCall } from "./talk.ts";

const WAIT = { timeout: 20_000, interval: 2 };
const TERMINAL = new Set(["turn.completed", "turn.failed"]);

type Command =
  | { readonly do: "send"; readonly id: number | null; readonly reject: boolean }
  | { readonly do: "edit" | "regenerate" | "leaf" | "results"; readonly nth: number }
  | { readonly do: "upstream"; readonly says: "begins" | "ends" | "calls" | "pauses" | "breaks" | "refuses" }
  | { readonly do: "cancel" | "cancel queued" | "die" | "alarm" | "remove" | "look" };

const nth = fc.nat(9);
const COMMAND: fc.Arbitrary<Command> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({ do: fc.constant("send" as const), id: fc.option(fc.nat(4)), reject: fc.boolean() }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constantFrom("edit" as const, "regenerate" as const, "leaf" as const, "results" as const),
      nth,
    }),
  },
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constant("upstream" as const),
      says: fc.constantFrom(
        "begins" as const,
        "ends" as const,
        "ends" as const,
        "calls" as const,
        "pauses" as const,
        "breaks" as const,
        "refuses" as const,
      ),
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      do: fc.constantFrom(
        "cancel" as const,
        "cancel queued" as const,
        "die" as const,
        "alarm" as const,
        "look" as const,
      ),
    }),
  },
  { weight: 1, arbitrary: fc.constant({ do: "remove" as const }) },
);

let sender: Sender;
let calls: Call[];
let refuses = 0;
/** Messages whose sender does not wait for what is being prepared. */
let sent: Promise<unknown>[] = [];
const aside = (sending: Promise<unknown>): void => void sent.push(sending.catch(() => {}));

beforeEach(async () => {
  for (const level of ["log", "error"] as const) vi.spyOn(console, level).mockImplementation(() => {});
  calls = [];
  refuses = 0;
  vi.spyOn(globalThis, "fetch").mockImplementation(async (input, init) => {
    const call = new Call(String(input), init);
    calls.push(call);
    if (refuses === 0) return call.response();
    refuses--;
    return Response.json({ type: "error", error: { type: "invalid_request_error", message: "no" } }, { status: 400 });
  });
  sender ??= await newSender();
});
afterEach(() => {
  vi.restoreAllMocks();
});

async function obey(talk: Talk, command: Command): Promise<void> {
  const call = calls.findLast(({ over, aborted }) => !over && !aborted);
  switch (command.do) {
    case "send": {
      const { id, reject } = command;
      const clientId = id === null ? null : `c${id}`;
      aside(talk.send(`words ${id}`, { clientId, onBusy: reject ? "reject" : null }));
      break;
    }
    case "edit":
    case "regenerate":
    case "leaf":
    case "results":
      await branch(talk, command.do, command.nth);
      break;
    case "upstream":
      if (command.says === "refuses") refuses = 1;
      else if (call) speak(call, command.says);
      break;
    case "cancel":
      await talk.object.cancel(null);
      break;
    case "cancel queued": {
      const view = await talk.object.read();
      const last = view.ok ? view.value.queued.at(-1) : undefined;
      if (last !== undefined) await talk.object.cancel(last);
      break;
    }
    case "die":
      await die(talk);
      break;
    case "alarm":
      await runDurableObjectAlarm(talk.stub);
      break;
    case "remove":
      await talk.object.remove();
      break;
    case "look":
      await talk.object.read();
      break;
  }
}

async function branch(talk: Talk, how: "edit" | "regenerate" | "leaf" | "results", nth: number): Promise<void> {
  const view = await talk.object.read();
  const page = await talk.object.messages({ after: null, limit: 500, leaf: null });
  if (!view.ok || !page.ok) return;
  const of = (role: string) => page.value.data.filter((message) => message.role === role).at(nth % 3)?.id;
  const [user, assistant] = [of("user"), of("assistant")];
  const awaited = view.value.awaiting_tool_results;
  if (how === "edit" && user) aside(talk.send("other words", { edit: user }));
  if (how === "regenerate") aside(talk.send(null, { regenerate: assistant ?? true }));
  if (how === "leaf" && assistant) await talk.object.change({ leaf: assistant });
  if (how !== "results") return;
  const some = nth % 2 === 0 ? awaited : awaited.slice(0, 1);
  const blocks = some.map((id) => ({ type: "tool_result", tool_use_id: id, content: "r" }));
  if (blocks.length > 0) aside(talk.send(blocks));
}

function speak(call: Call, says: "begins" | "ends" | "calls" | "pauses" | "breaks"): void {
  const id = `toolu_${calls.indexOf(call)}`;
  const start = call.begun ? "" : START;
  if (says === "begins") call.send(start + text("so far") + blockEnd());
  else if (says === "breaks") call.break();
  else if (says === "ends") call.send(`${start}${text("all")}${blockEnd()}${stop()}`);
  else if (says === "pauses") call.send(`${start}${text("part")}${blockEnd()}${stop("pause_turn")}`);
  else call.send(start + toolCall(`${id}_a`, 1) + toolCall(`${id}_b`, 2) + stop("tool_use"));
  if (says !== "begins" && says !== "breaks") call.end();
}

/** The upstream says all that it is asked for, until nothing is asked any more. */
async function settle(talk: Talk): Promise<void> {
  // Until its turn has begun a conversation is idle.
  await Promise.all(sent);
  await vi.waitFor(async () => {
    for (const call of calls) {
      if (call.over) continue;
      if (!call.begun) call.send(answer("in the end"));
      call.end();
    }
    const view = await talk.object.read();
    if (view.ok) expect([view.value.state, view.value.queued]).toEqual(["idle", []]);
  }, WAIT);
}

async function check(talk: Talk, over: boolean): Promise<void> {
  const view = await talk.object.read();
  if (!view.ok) {
    expect(view.error.kind).toBe("not_found");
    return;
  }
  const log = await logOf(talk);
  expect(log.map(({ seq }) => seq)).toEqual(log.map((_, i) => i + 1));
  for (const [turn, lines] of Map.groupBy(log, (line) => line.turn)) {
    const said = lines.map(({ kind }) => kind).join(" ");
    const ends = lines.filter(({ kind }) => TERMINAL.has(kind)).length;
    expect(said, turn).toMatch(/^(turn.queued ?)?(turn.started ?(event ?)*)?(turn.completed|turn.failed)?$/);
    if (over) expect(ends, `${turn}: ${said}`).toBe(1);
  }
  const page = await talk.object.messages({ after: null, limit: 500, leaf: null });
  if (!page.ok || !over) return;
  const roles = page.value.data.map(({ role }) => role);
  expect(roles).toEqual(roles.map((_, i) => (i % 2 === 0 ? "user" : "assistant")));
  expect(roles.length % 2).toBe(0);
  expect(page.value.data.at(-1)?.id ?? null).toBe(view.value.leaf);
}

describe("a conversation", () => {
  it("keeps its promises whatever comes, in whatever order", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(COMMAND, { minLength: 3, maxLength: 25 }), async (commands) => {
        calls = [];
        sent = [];
        refuses = 0;
        const talk = await Talk.begin(sender);
        for (const command of commands) {
          await obey(talk, command);
          await check(talk, false);
        }
        await settle(talk);
        await check(talk, true);
      }),
      { numRuns: 40, interruptAfterTimeLimit: 25_000, endOnFailure: true },
    );
  }, 60_000);
});
