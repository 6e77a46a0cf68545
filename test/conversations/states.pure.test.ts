/** The table of a turn: closed, without a way out of an end, and such that its conversation goes by its own diagram. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { ConversationState } from "../../clients/typescript/protocol.ts";
import {
  conversationState,
  isOpen,
  nextTurnState,
  TURN_TABLE,
  type TurnEvent,
  type TurnStage,
} from "../../src/conversations/states.ts";

/** A turn that begins, goes on, or ends, as its conversation sees it (docs/conversations.md). */
type ConversationEvent = "begin" | "restart" | "answered" | "cancel" | "end";
const CONVERSATION: Readonly<Record<ConversationState, Partial<Record<ConversationEvent, ConversationState>>>> = {
  idle: { begin: "processing" },
  processing: { restart: "retrying", cancel: "cancelling", end: "idle" },
  retrying: { restart: "retrying", answered: "processing", cancel: "cancelling", end: "idle" },
  cancelling: { end: "idle" },
};

const EVENTS: readonly TurnEvent[] = [...new Set(TURN_TABLE.map(([, event]) => event))];
/** What an event of a turn is to its conversation. */
const SEEN: Readonly<Record<TurnEvent, ConversationEvent | null>> = {
  arrived: "begin",
  wait: null,
  begin: "begin",
  restart: "restart",
  answered: "answered",
  cancel: "cancel",
  stopped: "end",
  complete: "end",
  fail: "end",
  interrupt: "end",
};

describe("states of a turn", () => {
  it("are left by one way for each event at most", () => {
    expect(new Set(TURN_TABLE.map(([from, event]) => `${from} ${event}`)).size).toBe(TURN_TABLE.length);
  });

  it("stay in the table whatever happens, end once, and are those of the conversation", () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...EVENTS), { maxLength: 40 }), (events) => {
        let turn: TurnStage = "none";
        let conversation = conversationState(turn);
        let ends = 0;
        for (const event of events) {
          const legal = TURN_TABLE.find(([from, by]) => from === turn && by === event);
          if (!legal) {
            expect(() => nextTurnState(turn, event)).toThrow("illegal transition");
            continue;
          }
          const was: TurnStage = turn;
          turn = nextTurnState(turn, event);
          // What never ran is nothing to its conversation.
          const seen = was === "queued" && event !== "begin" ? null : SEEN[event];
          const before: ConversationState = conversation;
          conversation = conversationState(turn);
          expect(conversation).toBe(seen ? CONVERSATION[before][seen] : before);
          if (!isOpen(turn)) ends++;
        }
        expect(ends).toBeLessThanOrEqual(1);
      }),
    );
  });

  it("reach an end from everywhere", () => {
    const reaches = (state: TurnStage, seen: ReadonlySet<TurnStage> = new Set()): boolean =>
      (state !== "none" && !isOpen(state)) ||
      TURN_TABLE.some(([from, , to]) => from === state && !seen.has(to) && reaches(to, new Set([...seen, state])));
    for (const [from] of TURN_TABLE) expect(reaches(from)).toBe(true);
  });
});
