/**
 * The streamed answer: every byte goes natively from upstream to the client, and a second branch is read late and in
 * bulk to meter it (a look at each piece costs more than everything else on this path). The meter runs behind the
 * client and looks at about every 32 KB, so it holds nobody up and little waits for it.
 *
 * Four endings are told apart, and the client can tell them apart too:
 * - the upstream finished: its bytes, nothing else, and the end;
 * - it ended or broke before `message_stop`: its bytes, then an `error` event;
 * - it fell silent for too long: the same, and the upstream call is aborted;
 * - the client left: the upstream call is aborted, or read to its end where the key says so.
 * Before the first byte there is no stream yet, and a failure is a failure that can still become a status code.
 */
import type { Outcome } from "../audit/record.ts";
import type { Timeouts } from "../env.ts";
import { err, ok, type Result } from "../result.ts";
import type { AnswerFacts } from "../wire/anthropic/answer.ts";
import { StreamMeter } from "../wire/anthropic/stream-meter.ts";
import { describeFailure, errorBody, type Failure } from "../wire/errors.ts";

/** The first look comes after so long: what a very fast upstream can send meanwhile waits in memory. */
const FIRST_PAUSE_MS = 250;
const MIN_PAUSE_MS = 1;
/** Longest pause between two looks; a silence is noticed so much later at the most. */
const MAX_PAUSE_MS = 4_000;
/** Longest where each look also asks whether the stream may go on: a revocation is in force within two seconds. */
const MAX_PAUSE_ASKING_MS = 1_000;
/** The pauses are such that about so much is found at each look. */
const WANTED_BYTES = 32 * 1024;
/** A stream is read with a small buffer, as the runtime collects garbage by their sizes, unless the last look found much. */
const LOOK_BYTES = { small: 8 * 1024, large: WANTED_BYTES } as const;
/** The first read waits for as long as the model thinks, and holds its buffer all that time. */
const FIRST_BYTES = 4 * 1024;
/** Buffers kept for the looks to come, of all streams of this isolate: a stream holds one only while it is read. */
const MAX_SPARE_BUFFERS = 32;
const spare: Readonly<Record<keyof typeof LOOK_BYTES, ArrayBuffer[]>> = { small: [], large: [] };
/** After an abort, what is already here is still read for the count; more than this is not waited for. */
const DRAIN_MS = 1_000;

/** How often it is looked whether a client that has not read everything yet is still there. */
const WAIT_FOR_CLIENT_MS = 1_000;

const encoder = new TextEncoder();

export type StreamOptions = {
  /** Aborts the upstream call. */
  readonly abort: AbortController;
  readonly timeouts: Timeouts;
  readonly requestId: string;
  /** Bound of the estimate when the end is never seen. */
  readonly maxTokens: number | null;
  /** Told when the client has left. Stops the upstream, or says that its answer is to be read to the end. */
  readonly clientLeft: () => boolean;
  /** Whether the client is known to have left, be it before its answer began. */
  readonly clientGone: () => boolean;
  /** Asked at each look; false cuts the stream. */
  readonly mayGoOn?: () => Promise<boolean>;
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
  look.release();
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
  const openedAt = Date.now();
  let failure: Failure = { kind: "upstream_cut" };
  let flow: Flow | undefined;
  let readOn = false;
  void flowed.then((end) => {
    flow = end;
    // Broken means that the client left or the upstream did. If it was the upstream, reading on ends at once.
    if (end === "broken") readOn = options.clientLeft();
  });
  const longest = Math.min(timeouts.silenceMs, options.mayGoOn ? MAX_PAUSE_ASKING_MS : MAX_PAUSE_MS);
  let pause = Math.min(FIRST_PAUSE_MS, longest);
  // Counted in waits, not by the clock, which may step.
  let silentMs = 0;
  let found = 0;
  looking: for (;;) {
    if (!flow && (await within(flowed, pause)) === "late") silentMs += pause;
    if (options.mayGoOn && !(await options.mayGoOn())) {
      failure = { kind: "unauthenticated" };
      abort.abort();
      break;
    }
    look.size = found < LOOK_BYTES.small ? "small" : "large";
    found = 0;
    for (;;) {
      const cut = flow === "broken" && !readOn;
      const patience = cut ? DRAIN_MS : Math.max(1, timeouts.silenceMs - silentMs);
      const wait = options.mayGoOn ? Math.min(patience, longest) : patience;
      // All that will ever come is here already.
      const piece = await look.next(flow === "ended" ? null : wait);
      if (piece === "over") break looking;
      if (piece === "late") {
        silentMs += wait;
        if (!cut && silentMs < timeouts.silenceMs) continue looking;
        if (!cut) failure = { kind: "upstream_timeout", phase: "silence", limitMs: timeouts.silenceMs };
        abort.abort();
        break looking;
      }
      meter.push(piece);
      found += piece.length;
      look.release();
      silentMs = 0;
      // The last event has been seen, and nothing of it waits for anyone.
      if (flow === "ended" && meter.finished && !meter.insideEvent) break looking;
      if (!look.full) break;
    }
    const wanted = Math.min(2 * pause, (pause * WANTED_BYTES) / found, longest);
    pause = Math.max(wanted, MIN_PAUSE_MS);
  }
  // A client may take its time to read the rest. One that left before it got anything takes nothing, and breaks nothing.
  while (!flow && !options.clientGone()) await within(flowed, WAIT_FOR_CLIENT_MS);
  const complete = meter.finished || meter.failed;
  const wire = describeFailure(failure);
  const clientStayed = await endClientStream(
    toClient,
    complete ? null : errorEvent(errorBody(wire.type, wire.message, requestId), meter.insideEvent),
  );
  const { facts } = meter;
  if (meter.failed) return { outcome: "error", facts, errorType: facts.errorType };
  if (meter.finished) return { outcome: "complete", facts, errorType: null };
  facts.usage.estimated = true;
  facts.usage.outputTokens = meter.estimateOutputTokens(options.maxTokens, Date.now() - openedAt);
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
  try {
    if (last) {
      const writer = stream.getWriter();
      await writer.write(last);
      writer.releaseLock();
    }
    await stream.close();
    return true;
  } catch {
    // The readable side was cancelled: the client has gone. There is no other way for these calls to fail.
    return false;
  }
}

/** Reads the meter's branch, one piece at a time; a read that was given up on is still the next one to be awaited. */
class Look {
  readonly #reader: ReadableStreamBYOBReader;
  size: keyof typeof LOOK_BYTES | "first" = "first";
  /** The last piece filled its buffer: there may be more. */
  full = false;
  #buffer: ArrayBuffer | undefined;
  #pending: Promise<Uint8Array | "over"> | undefined;

  constructor(stream: ReadableStream<Uint8Array>) {
    this.#reader = stream.getReader({ mode: "byob" });
  }

  /** The next piece; "over" at the end or after a break; "late" when none came in time. Valid until `release`. */
  async next(limitMs: number | null): Promise<Uint8Array | "over" | "late"> {
    const pending = this.#pending ?? this.#read();
    this.#pending = pending;
    const piece = await (limitMs === null ? pending : within(pending, limitMs));
    if (piece !== "late") this.#pending = undefined;
    return piece;
  }

  /** Gives the buffer of the last piece to whoever reads next. */
  release(): void {
    const buffer = this.#buffer;
    this.#buffer = undefined;
    for (const size of ["small", "large"] as const) {
      if (buffer?.byteLength === LOOK_BYTES[size] && spare[size].length < MAX_SPARE_BUFFERS) spare[size].push(buffer);
    }
  }

  async #read(): Promise<Uint8Array | "over"> {
    const { size } = this;
    const buffer =
      size === "first" ? new ArrayBuffer(FIRST_BYTES) : (spare[size].pop() ?? new ArrayBuffer(LOOK_BYTES[size]));
    try {
      const { done, value } = await this.#reader.read(new Uint8Array(buffer));
      if (done || !value) return "over";
      this.#buffer = value.buffer;
      this.full = value.length === value.buffer.byteLength;
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
