/**
 * The streamed answer: every byte goes natively from upstream to the client, and a second branch is read late and in
 * bulk to meter it (platform note: a look at each piece costs more than everything else on this path). The meter runs
 * behind the client, at most one look a second, so it holds nobody up.
 *
 * Four endings are told apart, and the client can tell them apart too:
 * - the upstream finished: its bytes, nothing else, and the end;
 * - it ended or broke before `message_stop`: its bytes, then an `error` event;
 * - it fell silent for too long: the same, and the upstream call is aborted;
 * - the client left: the upstream call is aborted.
 * Before the first byte there is no stream yet, and a failure is a failure that can still become a status code.
 */
import type { Outcome } from "../audit/record.ts";
import type { Timeouts } from "../env.ts";
import { err, ok, type Result } from "../result.ts";
import type { AnswerFacts } from "../wire/anthropic/answer.ts";
import { StreamMeter } from "../wire/anthropic/stream-meter.ts";
import { describeFailure, errorBody, type Failure } from "../wire/errors.ts";

/** How often the meter looks while a stream runs: often enough to bound what waits for it, too seldom to cost. */
const LOOK_EVERY_MS = 1_000;
const LOOK_BYTES = 64 * 1024;
/** After an abort, what is already here is still read for the count; more than this is not waited for. */
const DRAIN_MS = 1_000;

const encoder = new TextEncoder();

export type StreamOptions = {
  /** Aborts the upstream call. */
  readonly abort: AbortController;
  readonly timeouts: Timeouts;
  readonly requestId: string;
  /** Bound of the estimate when the end is never seen. */
  readonly maxTokens: number | null;
};

export type StreamEnd = { readonly outcome: Outcome; readonly facts: AnswerFacts; readonly errorType: string | null };

export type OpenStream = {
  readonly readable: ReadableStream<Uint8Array>;
  /** Resolves when the stream is over, however it ended. Never rejects. */
  readonly ended: Promise<StreamEnd>;
};

/** Waits for the first byte of an upstream's stream, as long as its caller lets it, and then lets it flow. */
export async function openStream(
  body: ReadableStream<Uint8Array>,
  options: StreamOptions,
): Promise<Result<OpenStream, Failure>> {
  const [toClient, toMeter] = body.tee();
  const look = new Look(toMeter);
  const first = await look.next(null);
  if (typeof first === "string") {
    options.abort.abort();
    await toClient.cancel().catch(ignoreTeardown);
    return err({ kind: "upstream_cut" });
  }
  const relay = new IdentityTransformStream();
  const flowed = toClient.pipeTo(relay.writable, { preventClose: true, preventAbort: true }).then(
    (): Flow => "ended",
    (): Flow => "broken",
  );
  const meter = new StreamMeter();
  meter.push(first);
  return ok({ readable: relay.readable, ended: watch(look, meter, flowed, relay.writable, options) });
}

/** How the client's branch came to its end: the upstream closed it, or one of the two sides broke. */
type Flow = "ended" | "broken";

async function watch(
  look: Look,
  meter: StreamMeter,
  flowed: Promise<Flow>,
  toClient: WritableStream<Uint8Array>,
  options: StreamOptions,
): Promise<StreamEnd> {
  const { abort, timeouts, requestId } = options;
  let silent = false;
  let flow: Flow | undefined;
  void flowed.then((end) => {
    flow = end;
    // Broken means that the client left or the upstream did: either way nobody needs the upstream any more.
    if (end === "broken") abort.abort();
  });
  for (;;) {
    // The read that tells silence begins when everything so far has been read; what it finds waits for the next look.
    look.begin();
    const pause = Math.min(LOOK_EVERY_MS, timeouts.silenceMs);
    if (!flow) await within(flowed, pause);
    const piece = await look.next(flow === "broken" ? DRAIN_MS : timeouts.silenceMs - pause);
    if (piece === "over") break;
    if (piece === "late") {
      silent = flow === undefined;
      abort.abort();
      break;
    }
    meter.push(piece);
  }
  await flowed;
  const complete = meter.finished || meter.failed;
  const failure: Failure = silent
    ? { kind: "upstream_timeout", phase: "silence", limitMs: timeouts.silenceMs }
    : { kind: "upstream_cut" };
  const wire = describeFailure(failure);
  const clientStayed = await endClientStream(
    toClient,
    complete ? null : errorEvent(errorBody(wire.type, wire.message, requestId), meter.insideEvent),
  );
  const { facts } = meter;
  if (meter.failed) return { outcome: "error", facts, errorType: facts.errorType };
  if (meter.finished) return { outcome: "complete", facts, errorType: null };
  facts.usage.estimated = true;
  facts.usage.outputTokens = Math.max(
    facts.usage.outputTokens,
    Math.min(meter.estimateOutputTokens(), options.maxTokens ?? Number.POSITIVE_INFINITY),
  );
  return clientStayed
    ? { outcome: "upstream_cut", facts, errorType: wire.type }
    : { outcome: "client_gone", facts, errorType: null };
}

/**
 * The terminal event. If the upstream was cut in the middle of an event, the client's parser holds a torn half of one;
 * naming it `ping` and closing it makes every SDK drop it unread (wire notes §4.5), so that the error is what it sees.
 */
function errorEvent(data: string, insideEvent: boolean): Uint8Array {
  return encoder.encode(`${insideEvent ? "\nevent: ping\n\n" : ""}event: error\ndata: ${data}\n\n`);
}

/** Writes the last event, if there is one, and closes. False when the client is not there any more. */
async function endClientStream(stream: WritableStream<Uint8Array>, last: Uint8Array | null): Promise<boolean> {
  const writer = stream.getWriter();
  try {
    if (last) await writer.write(last);
    await writer.close();
    return true;
  } catch {
    // The readable side was cancelled: the client has gone. There is no other way for these calls to fail.
    return false;
  }
}

/** Reads the meter's branch, one piece at a time; a read that was given up on is still the next one to be awaited. */
class Look {
  readonly #reader: ReadableStreamBYOBReader;
  #buffer = new Uint8Array(LOOK_BYTES);
  #pending: Promise<Uint8Array | "over"> | undefined;

  constructor(stream: ReadableStream<Uint8Array>) {
    this.#reader = stream.getReader({ mode: "byob" });
  }

  /** Begins to wait for the next piece. */
  begin(): void {
    this.#pending ??= this.#read();
  }

  /** The next piece; "over" at the end or after a break; "late" when none came in time. Valid until the next call. */
  async next(limitMs: number | null): Promise<Uint8Array | "over" | "late"> {
    const pending = this.#pending ?? this.#read();
    this.#pending = pending;
    const piece = await (limitMs === null ? pending : within(pending, limitMs));
    if (piece !== "late") this.#pending = undefined;
    return piece;
  }

  async #read(): Promise<Uint8Array | "over"> {
    try {
      const { done, value } = await this.#reader.read(this.#buffer);
      if (done || !value) return "over";
      this.#buffer = new Uint8Array(value.buffer);
      return value;
    } catch {
      // The upstream broke off, or was aborted by us.
      return "over";
    }
  }
}

/** The promise's value, or "late" after the limit. The promise itself goes on. */
async function within<T>(promise: Promise<T>, limitMs: number): Promise<T | "late"> {
  const late = Promise.withResolvers<"late">();
  const timer = setTimeout(() => late.resolve("late"), limitMs);
  try {
    return await Promise.race([promise, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}

/** Cancelling a branch whose source has broken rejects with that break, which is known already. */
function ignoreTeardown(): void {}
