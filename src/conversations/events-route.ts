/** What is answered while a turn runs: a message's answer, as JSON or as events, the events after a number, and the export. */
import type { TurnResult } from "../../clients/typescript/protocol.ts";
import { type AppContext, jsonHeaders } from "../context.ts";
import { settled } from "../hotpath/settle.ts";
import { err, ok, type Result } from "../result.ts";
import { type Failure, statusOfEvent } from "../wire/errors.ts";
import { type About, ofOne, readBody, told } from "./call.ts";
import { CLIENT_ID, readMessage } from "./input.ts";
import type { Incoming } from "./protocol.ts";

const ONE = "/v1/conversations/:id";
const NUMBER = /^\d{1,15}$/;

type Answered = Result<Response, Failure | "client gone">;

/**
 * `POST /v1/conversations/:id/messages`: says something. Answered when its turn has ended, or with its events as they come.
 * The turn goes on whatever becomes of the client.
 */
export const sendMessage = ofOne(
  `${ONE}/messages`,
  async (call) => {
    const { headers } = call.c.var.call;
    const body = await readBody(call);
    const read = body.ok ? readMessage(body.value) : body;
    if (!read.ok) return read;
    const incoming = named(read.value.incoming, headers.get("idempotency-key"));
    if (!incoming.ok) return incoming;
    const stream = read.value.stream ?? headers.get("accept")?.includes("text/event-stream") ?? false;
    call.record.facts.stream = stream;
    return ok(() => answerTo(call, incoming.value, stream));
  },
  { free: true },
);

/** `idempotency-key` is the client's id of a message that has none in its body. */
function named(incoming: Incoming, key: string | undefined): Result<Incoming, Failure> {
  if (key === undefined || incoming.clientId !== null) return ok(incoming);
  return CLIENT_ID.test(key)
    ? ok({ ...incoming, clientId: key })
    : err({ kind: "invalid_request", message: "idempotency-key: must be 1 to 255 printable ASCII characters" });
}

async function answerTo(call: About, incoming: Incoming, stream: boolean): Promise<Answered> {
  const { remote, sender } = call;
  // Said twice, a message with an id is the same one; without, it would be two.
  const sent = await remote.ask(incoming.clientId !== null, (object) => object.send(incoming, sender));
  if (!sent.ok) return sent;
  if (sent.value.kind === "awaiting") {
    return told(call, ok({ state: "awaiting_tool_results", awaiting_tool_results: sent.value.awaiting }), 202);
  }
  const { turn, after } = sent.value;
  return stream ? eventsAfter(call, after, turn) : whenEnded(call, turn);
}

async function whenEnded(call: About, turn: string): Promise<Answered> {
  const result = await orGone(
    call.c.req.raw.signal,
    call.remote.ask(true, (object) => object.ended(turn)),
  );
  if (result === "client gone") return err(result);
  if (!result.ok) return result;
  const { state } = result.value;
  return state === "failed" || state === "interrupted" ? turnFailed(call, result.value) : told(call, result);
}

/** What it comes to, unless the client leaves before. */
async function orGone<T>(signal: AbortSignal, answer: Promise<T>): Promise<T | "client gone"> {
  const gone = Promise.withResolvers<"client gone">();
  const leave = (): void => gone.resolve("client gone");
  if (signal.aborted) leave();
  signal.addEventListener("abort", leave);
  try {
    return await Promise.race([answer, gone.promise]);
  } finally {
    signal.removeEventListener("abort", leave);
  }
}

/** Errors of turns whose status is not that of the same name at the upstream. */
const STATUS: Readonly<Record<string, number>> = {
  // A budget of the gateway's, as at every other route.
  billing_error: 429,
  conflict_error: 409,
  interrupted: 502,
};

/** An error's answer, with the turn beside it: what was said, as far as it came, and what it cost. */
function turnFailed({ c, record }: About, turn: TurnResult): Answered {
  const { requestId, log } = c.var.call;
  const { type = "api_error", message = "The turn failed.", retry_after_seconds: seconds } = turn.error ?? {};
  const status = STATUS[type] ?? statusOfEvent(type);
  log.error_type = type;
  record.settle({ status, outcome: "error", errorType: type });
  const body = { type: "error", error: { type, message }, request_id: requestId, turn };
  const headers = { ...jsonHeaders(requestId), "request-id": requestId };
  const retry = seconds === undefined ? {} : { "retry-after": String(seconds) };
  return ok(new Response(JSON.stringify(body), { status, headers: { ...headers, ...retry } }));
}

/** `GET /v1/conversations/:id/events?after=`: what comes after a number, live to the end of the running turn. */
export const readEvents = ofOne(`${ONE}/events`, async (call) => {
  const after = placeOf(call.c);
  if (!after.ok) return after;
  call.record.facts.stream = true;
  return ok(() => eventsAfter(call, after.value, null));
});

/** `last-event-id`, which a client sends that comes again, counts before the address that it came with first. */
function placeOf(c: AppContext): Result<number, Failure> {
  const last = c.var.call.headers.get("last-event-id") || undefined;
  const asked = new URL(c.req.url).searchParams.getAll("after");
  const [name, text] =
    last === undefined ? ["after", asked.length > 1 ? "" : (asked[0] ?? "0")] : ["last-event-id", last];
  return NUMBER.test(text)
    ? ok(Number(text))
    : err({ kind: "invalid_request", message: `${name}: must be the number of an event, or 0` });
}

async function eventsAfter(call: About, after: number, turn: string | null): Promise<Answered> {
  const path = `/events?after=${after}${turn === null ? "" : `&turn=${turn}`}`;
  return passedOn(call, path, { "content-type": "text/event-stream; charset=utf-8", "x-accel-buffering": "no" });
}

/** `GET /v1/conversations/:id/export`: everything there is of it, as one JSON document. */
export const exportConversation = ofOne(`${ONE}/export`, async (call) =>
  ok(() => passedOn(call, "/export", { "content-disposition": `attachment; filename="${call.id}.json"` })),
);

/** What the object answers, piece by piece, with headers of our own. */
async function passedOn(
  { c, record, remote, sender }: About,
  path: string,
  headers: Readonly<Record<string, string>>,
): Promise<Answered> {
  const answer = await remote.fetch(path, sender);
  if (!answer.ok) return answer;
  const { body } = answer.value;
  const isHead = c.req.raw.method === "HEAD";
  // Nobody reads it: it must not be held open.
  if (isHead) await body?.cancel();
  const all = { ...jsonHeaders(c.var.call.requestId), ...headers };
  return settled(record, new Response(isHead ? null : body, { headers: all }));
}
