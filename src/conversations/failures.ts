/** What goes wrong in a conversation, in the words of its callers and of its turns. */
import type { TurnError } from "../../clients/typescript/protocol.ts";
import { asFields, asText } from "../wire/anthropic/usage.ts";
import { describeFailure, type Failure } from "../wire/errors.ts";
import { parseJson } from "../wire/json.ts";

export const OTHER_WORDS: Failure = {
  kind: "idempotency_mismatch",
  message: "A message with this id has said something else. Send a new id (or idempotency-key) with a new message.",
};
export const UNKNOWN_TURN: Failure = { kind: "not_found", what: "There is no such turn in this conversation." };
export const NOTHING_TO_STOP: Failure = { kind: "conflict", message: "No such turn is running or waiting." };
/** To whoever sent a message that was cancelled before its turn began. */
export const CANCELLED_EARLY: Failure = { kind: "conflict", message: "It was cancelled before its turn began." };

export const CANCELLED: TurnError = { type: "cancelled", message: "The turn was cancelled." };
export const INTERRUPTED: TurnError = {
  type: "interrupted",
  message: "The gateway was restarted in the middle of the answer. What had come of it is kept.",
};

/** A failure as turns and `error` frames tell it. */
export function turnError(failure: Failure): TurnError {
  const { type, message, headers } = describeFailure(failure);
  return withRetry(type, message, headers["retry-after"]);
}

/** What the upstream said in place of an answer. */
export function upstreamError(body: string, retryAfter: string | null): TurnError {
  const error = asFields(asFields(parseJson(body))?.error);
  const type = asText(error?.type) ?? "api_error";
  return withRetry(type, asText(error?.message) ?? "The upstream API did not answer as it should.", retryAfter);
}

function withRetry(type: string, message: string, retryAfter: string | null | undefined): TurnError {
  const seconds = Number(retryAfter ?? Number.NaN);
  return Number.isFinite(seconds) ? { type, message, retry_after_seconds: seconds } : { type, message };
}
