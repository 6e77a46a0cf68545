/**
 * What a turn may become, and by what. Whatever the table does not have is a bug: `nextTurnState` throws, before
 * anything has been written or announced.
 *
 * A conversation has at most one turn under way, and is in that turn's state; else it is idle. So the state of a turn is
 * stored, and that of its conversation follows from it.
 */
import type { ConversationState, TurnState } from "../../clients/typescript/protocol.ts";

/**
 * - `arrived`, `wait`: it is begun at once, or waits in the queue; `begin`: its time has come.
 * - `restart`: the object died, and it is called for once more; `answered`: then something of its answer is there.
 * - `cancel`: somebody wants it stopped; `stopped`: it is.
 * - `complete`, `fail`, `interrupt`: how it ends by itself, by a failure, by a death of the object.
 */
export type TurnEvent =
  | "arrived"
  | "wait"
  | "begin"
  | "restart"
  | "answered"
  | "cancel"
  | "stopped"
  | "complete"
  | "fail"
  | "interrupt";
/** `none`: before it is stored. */
export type TurnStage = TurnState | "none";

type Row = readonly [from: TurnStage, event: TurnEvent, to: TurnState];

export const TURN_TABLE: readonly Row[] = [
  ["none", "arrived", "processing"],
  ["none", "wait", "queued"],
  ["queued", "begin", "processing"],
  ["queued", "cancel", "cancelled"],
  ["queued", "fail", "failed"],
  ["processing", "restart", "retrying"],
  ["processing", "cancel", "cancelling"],
  ["processing", "complete", "completed"],
  ["processing", "fail", "failed"],
  ["processing", "interrupt", "interrupted"],
  ["retrying", "restart", "retrying"],
  ["retrying", "answered", "processing"],
  ["retrying", "cancel", "cancelling"],
  ["retrying", "fail", "failed"],
  ["retrying", "interrupt", "interrupted"],
  ["cancelling", "stopped", "cancelled"],
];

/** What `event` makes of it: it is stored from then on. */
export function nextTurnState(from: TurnStage, event: TurnEvent): TurnState {
  const row = TURN_TABLE.find(([state, by]) => state === from && by === event);
  if (!row) throw new Error(`illegal transition: ${event} in state ${from}`);
  return row[2];
}

/** That of its conversation: what the turn under way is in, else idle. */
export function conversationState(turn: TurnStage): ConversationState {
  return turn === "processing" || turn === "retrying" || turn === "cancelling" ? turn : "idle";
}

const OPEN: ReadonlySet<TurnStage> = new Set(["queued", "processing", "retrying", "cancelling"]);

/** Whether a turn has not ended. */
export function isOpen(state: TurnState): boolean {
  return OPEN.has(state);
}
