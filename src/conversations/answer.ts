/**
 * A turn's answer: called for, and read into the log event by event as long as the turn is wanted. Memory is flat: a piece
 * is written down and told before the next is read.
 */
import type { Options, TurnError } from "../../clients/typescript/protocol.ts";
import type { Admitted } from "../hotpath/inner-call.ts";
import { RawEventReader, type StreamEvent } from "../wire/anthropic/events.ts";
import { asFields, asText } from "../wire/anthropic/usage.ts";
import { describeFailure, errorBody } from "../wire/errors.ts";
import { parseJson } from "../wire/json.ts";
import { assemble } from "./context/assemble.ts";
import { AnswerBuilder } from "./context/builder.ts";
import { CANCELLED_EARLY, turnError, upstreamError } from "./failures.ts";
import type { EventLog } from "./log.ts";
import type { Spec } from "./protocol.ts";
import type { Path } from "./tree.ts";
import type { TurnCalls } from "./turn-calls.ts";

/** Calls for one turn after the first, because the upstream paused. */
const MAX_PAUSES = 10;
/** As much is read at once as has come, up to this. */
const PIECE_BYTES = 16 * 1024;
/** Of an error body so much is looked at. */
const MAX_ERROR_BYTES = 64 * 1024;
/**
 * All that is read for one turn. More than any model says, even token by token; and what an object gives in one call is
 * 32 MiB at most.
 */
const MAX_TURN_BYTES = 24 * 1024 * 1024;
const TOO_LONG: TurnError = {
  type: "api_error",
  message: `The upstream API said more than ${MAX_TURN_BYTES} bytes, the most that a turn may have.`,
};

const END = { done: true, value: undefined } as const;
const ORGANIZATION_HEADER = "anthropic-organization-id";

/** What is to be answered, and the call for it that has been admitted. */
export type Question = {
  readonly spec: Spec;
  readonly options: Options;
  readonly path: Path;
  readonly admitted: Admitted;
};
/** How the calls for an answer went. Of a turn that was stopped an error says nothing. */
export type Called = { readonly error: TurnError | null; readonly organization: string | null };

/** Calls for an answer, and again as long as the upstream pauses in it. `log` writes down and tells events. */
export async function callForAnswer(
  { spec, options, path, admitted }: Question,
  calls: TurnCalls,
  builder: AnswerBuilder,
  log: (texts: readonly string[]) => void,
): Promise<Called> {
  const { signal } = calls;
  const read = { bytes: 0 };
  let organization: string | null = null;
  let call = admitted;
  for (let pauses = 0; ; pauses++) {
    const sent = await calls.send(call);
    if (!sent.ok) return { error: turnError(sent.error === "aborted" ? CANCELLED_EARLY : sent.error), organization };
    organization = sent.value.headers.get(ORGANIZATION_HEADER) ?? organization;
    const error = await readAnswer(sent.value, { builder, log, signal, requestId: call.requestId, read });
    const paused = !error && !signal.aborted && builder.stopReason === "pause_turn";
    if (!paused || pauses === MAX_PAUSES) return { error, organization };
    const more = { stream: true, continued: builder.content(), continuedBy: organization };
    const assembled = assemble(spec, options, path, more);
    if (!assembled.ok) return { error: turnError(assembled.error), organization };
    const next = await calls.open("turn", assembled.value);
    if (!next.ok) return { error: turnError(next.error), organization };
    call = next.value;
    builder.goOn();
  }
}

/** The answer as the log has it. */
export function answerInLog(log: EventLog, turn: string): AnswerBuilder {
  const builder = new AnswerBuilder();
  for (const { data } of log.eventsOf(turn)) {
    const event = asFields(parseJson(data));
    if (event) builder.push({ ...event, type: asText(event.type) ?? "" });
  }
  return builder;
}

type Stream = {
  readonly builder: AnswerBuilder;
  readonly log: (texts: readonly string[]) => void;
  readonly signal: AbortSignal;
  /** Of the upstream call, for an `error` event of ours. */
  readonly requestId: string;
  /** Bytes that were read for the turn so far. */
  readonly read: { bytes: number };
};

/** Null: it came whole, or was no longer wanted. Else why it did not. */
export async function readAnswer(response: Response, stream: Stream): Promise<TurnError | null> {
  const { signal } = stream;
  const isStream = /^text\/event-stream\b/i.test(response.headers.get("content-type") ?? "");
  if (!response.ok || !isStream || !response.body) return await readError(response);
  const told = await pump(response.body, stream);
  if (signal.aborted) return null;
  if (told) return told;
  if (stream.builder.finished) return null;
  const { type, message } = stream.read.bytes > MAX_TURN_BYTES ? TOO_LONG : describeFailure({ kind: "upstream_cut" });
  stream.log([errorBody(type, message, stream.requestId)]);
  return { type, message };
}

/** The error that the stream told, if it did; it is over then. */
async function pump(
  body: ReadableStream<Uint8Array>,
  { builder, log, signal, read: all }: Stream,
): Promise<TurnError | null> {
  const reader = body.getReader({ mode: "byob" });
  const stop = (): void => void reader.cancel().catch(() => {});
  signal.addEventListener("abort", stop);
  if (signal.aborted) stop();
  const events = new RawEventReader();
  let failed: TurnError | null = null;
  let buffer = new ArrayBuffer(PIECE_BYTES);
  try {
    while (!signal.aborted) {
      // A source that breaks off has ended: what came of it is there.
      const { done, value } = await reader.read(new Uint8Array(buffer)).catch(() => END);
      if (done || !value || signal.aborted) break;
      all.bytes += value.byteLength;
      if (all.bytes > MAX_TURN_BYTES) break;
      const read = events.read(value);
      buffer = value.buffer;
      for (const { event } of read) {
        builder.push(event);
        if (event.type === "error") failed = errorOf(event);
      }
      log(read.map(({ data }) => data));
    }
  } finally {
    signal.removeEventListener("abort", stop);
    // Where it could not be written down it is not read on, either.
    stop();
  }
  return failed;
}

function errorOf(event: StreamEvent): TurnError {
  const error = asFields(event.error);
  return {
    type: asText(error?.type) ?? "api_error",
    message: asText(error?.message) ?? "The upstream API ended its answer with an error.",
  };
}

async function readError(response: Response): Promise<TurnError> {
  const text = await response.text().catch(() => "");
  return upstreamError(text.slice(0, MAX_ERROR_BYTES), response.headers.get("retry-after"));
}
