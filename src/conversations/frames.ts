/**
 * Frames of the socket, and the same as events of an SSE stream (docs/conversations.md). What upstream said is put in as
 * the text that lies in the log, so that no number, escape or unknown field changes on its way.
 */
import type { ClientFrame, Conversation, Message, ServerFrame, TurnState } from "../../clients/typescript/protocol.ts";
import { err, ok, type Result } from "../result.ts";
import { asFields, asText, type Fields } from "../wire/anthropic/usage.ts";
import type { Failure } from "../wire/errors.ts";
import { parseJson } from "../wire/json.ts";
import { scanJson } from "../wire/json-scan.ts";
import { turnError } from "./failures.ts";
import { readIncoming } from "./input.ts";
import type { Numbered } from "./log.ts";
import type { Incoming } from "./protocol.ts";

/** Longest id of a client's frame that is said back. */
const MAX_REF_CHARS = 256;
/** Longest name of an unknown type or field that is said back. */
const MAX_SHOWN_CHARS = 64;

/** A name that can be written into a line, and that no frame of ours has. */
const EVENT_NAME = /^(?!history$)[\w-]{1,64}$/;

const encoder = new TextEncoder();
export const utf8Bytes = (text: string): number => encoder.encode(text).length;

/** An entry of the log as a frame. */
export function frameText({ kind, seq, turn, data }: Numbered): string {
  const start = `{"type":"${kind}","seq":${seq},"turn":${JSON.stringify(turn)}`;
  if (kind === "event") return `${start},"event":${data}}`;
  return data === "{}" ? `${start}}` : `${start},${data.slice(1)}`;
}

/**
 * The same as an event of an SSE stream, which goes on from its `id` with `Last-Event-ID`. What upstream said stands as it
 * does in a Messages stream, so that whoever reads those reads this one.
 */
export function sseText(entry: Numbered): string {
  const { kind, seq, data } = entry;
  if (kind !== "event") return numberedEvent(kind, seq, frameText(entry));
  const type = asText(asFields(parseJson(data))?.type) ?? "";
  return numberedEvent(EVENT_NAME.test(type) ? type : "message", seq, data);
}

export const readyFrame = (conversation: Conversation, seq: number): string =>
  text({ type: "ready", conversation, seq });

export const historyFrame = (seq: number, messages: readonly Message[]): string =>
  text({ type: "history", seq, messages });

export const historySse = (seq: number, messages: readonly Message[]): string =>
  numberedEvent("history", seq, historyFrame(seq, messages));

export const sentFrame = (
  ref: string | null,
  turn: string | null,
  state: TurnState | "awaiting_tool_results",
  awaiting: readonly string[],
): string => text({ type: "sent", ref, turn, state, awaiting_tool_results: awaiting });

export const errorFrame = (ref: string | null, failure: Failure): string =>
  text({ type: "error", ref, error: turnError(failure) });

export const errorSse = (failure: Failure): string =>
  `event: error\ndata: ${JSON.stringify({ type: "error", error: turnError(failure) })}\n\n`;

const text = (frame: ServerFrame): string => JSON.stringify(frame);
const numberedEvent = (event: string, id: number, data: string): string =>
  `id: ${id}\nevent: ${event}\ndata: ${data}\n\n`;

/** A client's frame, checked in itself. */
export type Frame =
  | { readonly type: "send"; readonly ref: string | null; readonly incoming: Incoming }
  | { readonly type: "cancel"; readonly turn: string | null }
  | { readonly type: "resume"; readonly after: number }
  | { readonly type: "flow"; readonly window: number }
  | { readonly type: "ack"; readonly seq: number };
/** What is wrong with a frame, and its id if it has one. */
export type BadFrame = { readonly ref: string | null; readonly failure: Failure };

/** `on_busy` and the like stand in `options`, or beside them as in the body of a request. */
const FIELDS: Readonly<Record<ClientFrame["type"], readonly string[]>> = {
  send: ["id", "content", "options", "on_busy", "edit", "regenerate"],
  cancel: ["turn"],
  resume: ["after"],
  flow: ["window"],
  ack: ["seq"],
};

/** Reads a client's frame. The error names what is wrong and never repeats a value. */
export function parseFrame(json: string): Result<Frame, BadFrame> {
  // Before anything is made of it: depth and number of values are bounded as in the body of a request.
  const scan = scanJson(encoder.encode(json));
  if (!scan.ok && scan.error.kind !== "invalid_json") return err({ ref: null, failure: scan.error });
  const fields = scan.ok ? asFields(parseJson(json)) : undefined;
  if (!fields) return bad(null, "A frame is a JSON object.");
  const ref = refOf(fields);
  const type = asText(fields.type);
  if (type === null) return bad(ref, "type: must be a text.");
  if (!isKnown(type)) {
    return bad(ref, `type: there is no frame ${shown(type)}. There are: ${Object.keys(FIELDS).join(", ")}.`);
  }
  const stranger = Object.keys(fields).find((name) => name !== "type" && !FIELDS[type].includes(name));
  if (stranger !== undefined) return bad(ref, `A frame \`${type}\` has no field ${shown(stranger)}.`);
  if (type === "send") return sendFrame(fields, ref);
  if (type === "cancel") return cancelFrame(fields, ref);
  if (type === "flow") {
    const { window } = fields;
    // However large: no more is on its way at once than what is sent to anybody.
    if (typeof window !== "number" || !Number.isInteger(window) || window < 0) return bad(ref, notWhole("window"));
    return ok({ type, window: Math.min(window, Number.MAX_SAFE_INTEGER) });
  }
  const name = type === "ack" ? "seq" : "after";
  const seq = fields[name];
  if (typeof seq !== "number" || !Number.isSafeInteger(seq) || seq < 0) return bad(ref, notWhole(name));
  return ok(type === "ack" ? { type, seq } : { type, after: seq });
}

function sendFrame({ type, ...fields }: Fields, ref: string | null): Result<Frame, BadFrame> {
  const incoming = readIncoming(fields);
  return incoming.ok ? ok({ type: "send", ref, incoming: incoming.value }) : err({ ref, failure: incoming.error });
}

function cancelFrame({ turn }: Fields, ref: string | null): Result<Frame, BadFrame> {
  if (turn === undefined) return ok({ type: "cancel", turn: null });
  return typeof turn === "string" ? ok({ type: "cancel", turn }) : bad(ref, "turn: must be a text.");
}

const isKnown = (type: string): type is ClientFrame["type"] => Object.hasOwn(FIELDS, type);
const notWhole = (name: string): string => `${name}: must be a whole number from 0.`;
const shown = (name: string): string =>
  name.length <= MAX_SHOWN_CHARS ? `\`${name}\`` : `\`${name.slice(0, MAX_SHOWN_CHARS)}…\``;
const bad = (ref: string | null, message: string): Result<never, BadFrame> =>
  err({ ref, failure: { kind: "invalid_request", message } });

function refOf({ id }: Fields): string | null {
  return typeof id === "string" && id.length <= MAX_REF_CHARS ? id : null;
}
