/** How much one conversation may be (docs/conversations.md). */
import type { Failure } from "../wire/errors.ts";
import type { History } from "./history.ts";
import type { EventLog } from "./log.ts";
import type { Incoming } from "./protocol.ts";

/** The body of a request, or a frame. */
export const MAX_BODY_BYTES = 8 * 1024 * 1024;
/** Messages that wait while a turn runs. */
export const MAX_QUEUED = 8;
export const MAX_TURNS = 10_000;
/** What its messages and events may take in storage. */
export const MAX_STORED_BYTES = 32 * 1024 * 1024;

/** Why there is no room for a message; null: there is. */
export function lacksRoom(history: History, log: EventLog, { content, options }: Incoming): Failure | null {
  if (history.turns >= MAX_TURNS) {
    const message = `This conversation has had ${MAX_TURNS} turns, as many as one may have. Go on in a new one.`;
    return { kind: "invalid_request", message };
  }
  const bytes = history.bytes + log.bytes + JSON.stringify([content, options]).length;
  if (bytes <= MAX_STORED_BYTES) return null;
  const message = `This conversation would hold more than ${MAX_STORED_BYTES} bytes, the most that one may hold. Go on in a new one.`;
  return { kind: "invalid_request", message };
}
