/**
 * The streamed answer: every byte goes natively from upstream to the client, and a second branch is read late and in
 * bulk to meter it (a look at each piece costs more than everything else on this path). The meter runs behind the
 * client and looks at about every 32 KB, so it holds nobody up and little waits for it.
 *
 * Four endings are told apart, and the client can tell them apart too:
 * - the upstream finished: its bytes, nothing else, and the end;
 * - it ended or broke before `message_stop`: its bytes, then an `error` event;
 * - a limit of time passed (silence, nothing but pings, the whole stream): the same, and the upstream call is aborted;
 * - the client left: the upstream call is aborted, or read to its end where the key says so.
 * Before the first whole event there is no stream yet, and a failure is a failure that can still become a status code; so
 * is an `error` event that comes first.
 *
 * While the model has not begun to show anything, the upstream may be silent by nature. So long the few bytes there are
 * are handed over here, and a long silence is bridged with pings of our own. The native pipe takes over for good when
 * the answer begins to flow: in this runtime a pipe that is stopped breaks its source (docs/adr/0009-keep-alive.md).
 */
import type { Outcome } from "../audit/record.ts";
import type { Timeouts } from "../env.ts";
import { err, ok, type Result } from "../result.ts";
import type { AnswerFacts } from "../wire/anthropic/answer.ts";
import { StreamMeter } from "../wire/anthropic/stream-meter.ts";
import { asFields, asText } from "../wire/anthropic/usage.ts";
import { describeFailure, errorBody, type Failure } from "../wire/errors.ts";
import { parseJson } from "../wire/json.ts";

/** The first look comes after so long: what a very fast upstream can send meanwhile waits in memory. */
const FIRST_PAUSE_MS = 250;
const MIN_PAUSE_MS = 1;
/** A look at what may be here already takes no longer than this on a busy machine. */
const MIN_WAIT_MS = 20;
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

/** A first event longer than this is not waited for: so much is held for the client at most before its stream opens. */
const MAX_HEAD_BYTES = 64 * 1024;
/**
 * A ping of our own after so much silence, and after each further such stretch. Proxies commonly drop a connection that
 * is silent for 60 or 100 s, some after 30; Claude Code gives up after 300 s.
 */
const KEEP_ALIVE_AFTER_MS = 20_000;
/** More than this before the first output is not handed over byte by byte. */
const MAX_BY_HAND_BYTES = 64 * 1024;
/** A client that takes longer than this for what it is handed gets the rest natively, and no pings. */
const HAND_OVER_MS = 500;

/** How often it is looked whether a client that has not read everything yet is still there. */
const WAIT_FOR_CLIENT_MS = 1_000;

/** What a type of error looks like; anything else is told as `api_error`. */
const ERROR_TYPE = /^[a-z][a-z0-9_]{0,63}$/;

const encoder = new TextEncoder();
const PING = encoder.encode('event: ping\ndata: {"type":"ping"}\n\n');

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
  /** Silence before a ping of our own, ms; left out: `KEEP_ALIVE_AFTER_MS`. */
  readonly keepAliveMs?: number;
  /** Read by a part of the gateway: once `clientGone` says so it may read no more, and yet leave the stream open. */
  readonly readerIsOurs?: boolean;
};

export type StreamEnd = { readonly outcome: Outcome; readonly facts: AnswerFacts; readonly errorType: string | null };

export type OpenStream = {
  readonly readable: ReadableStream<Uint8Array>;
  /** Resolves when the stream is over, however it ended. Never rejects. */
  readonly ended: Promise<StreamEnd>;
};

/**
 * Waits for the first whole event of an upstream's stream, as long as its caller lets it, and then lets it flow.
 *
 * Returns `upstream_error_event` for an `error` event, and `upstream_cut` for a stream that ends or breaks before its first
 * event is whole. What decides is the bytes, however they are cut.
 */
export async function openStream(
  body: ReadableStream<Uint8Array>,
  options: StreamOptions,
): Promise<Result<OpenStream, Failure>> {
  const [toClient, toMeter] = body.tee();
  const look = new Look(toMeter);
  const meter = new StreamMeter();
  let head = 0;
  let refusal: Failure | null = null;
  while (!meter.first && head < MAX_HEAD_BYTES) {
    const piece = await look.next(null);
    if (typeof piece === "string") {
      refusal = { kind: "upstream_cut" };
      break;
    }
    const decisive = MAX_HEAD_BYTES - head;
    meter.push(piece.subarray(0, decisive));
    if (!meter.first && meter.insideError && piece.length >= decisive)
      refusal = errorEventFailure("", options.requestId);
    else if (piece.length > decisive) meter.push(piece.subarray(decisive));
    head += piece.length;
    look.release();
    if (refusal) break;
  }
  if (!refusal && meter.first?.error) refusal = errorEventFailure(meter.first.data, options.requestId);
  if (refusal) {
    options.abort.abort();
    await toClient.cancel().catch(ignoreTeardown);
    return err(refusal);
  }
  const relay = new IdentityTransformStream();
  return ok({ readable: relay.readable, ended: watch(look, meter, { toClient, head }, relay.writable, options) });
}

/** What an `error` event says that came first, in an error body's shape: its own, if it has it. */
function errorEventFailure(data: string, requestId: string): Failure {
  const error = asFields(asFields(parseJson(data))?.error);
  const type = asText(error?.type) ?? "";
  const message = asText(error?.message);
  if (ERROR_TYPE.test(type) && message !== null) return { kind: "upstream_error_event", type, body: data };
  const ownType = ERROR_TYPE.test(type) ? type : "api_error";
  const words = message ?? "The upstream API ended its answer with an error.";
  return { kind: "upstream_error_event", type: ownType, body: errorBody(ownType, words, requestId) };
}

/** How the client's branch came to its end: the upstream closed it, or one of the two sides broke. */
type Flow = "ended" | "broken";

/** The client's branch of a stream, from which nothing has been read, and how much of it the meter has seen. */
type Untouched = { readonly toClient: ReadableStream<Uint8Array>; readonly head: number };

async function watch(
  look: Look,
  meter: StreamMeter,
  untouched: Untouched,
  relay: WritableStream<Uint8Array>,
  options: StreamOptions,
): Promise<StreamEnd> {
  const { abort, requestId, mayGoOn } = options;
  const openedAt = Date.now();
  const waits = new Waits(options.timeouts);
  if (meter.quiet) await handOver(look, meter, untouched, relay, waits, options);
  const flowed = untouched.toClient.pipeTo(relay, { preventClose: true, preventAbort: true }).then(
    (): Flow => "ended",
    (): Flow => "broken",
  );
  let failure: Failure | null = null;
  let flow: Flow | undefined;
  let readOn = false;
  void flowed.then((end) => {
    flow = end;
    // Broken means that the client left or the upstream did. If it was the upstream, reading on ends at once.
    if (end === "broken") readOn = options.clientLeft();
  });
  const longest = mayGoOn ? MAX_PAUSE_ASKING_MS : MAX_PAUSE_MS;
  let pause = FIRST_PAUSE_MS;
  let found = 0;
  /** Stops the upstream. What is here already has gone to the client, or will, so it is counted all the same. */
  const stop = (why: Failure): void => {
    failure = why;
    abort.abort();
  };
  looking: for (;;) {
    if (!flow && !failure) await waits.until(flowed, Math.min(pause, longest, waits.leftMs));
    if (mayGoOn && !failure && !(await mayGoOn())) stop({ kind: "unauthenticated" });
    look.size = found < LOOK_BYTES.small ? "small" : "large";
    found = 0;
    for (;;) {
      const cut = failure !== null || (flow === "broken" && !readOn);
      const wait = cut ? DRAIN_MS : mayGoOn ? Math.min(waits.leftMs, longest) : waits.leftMs;
      // All that will ever come is here already.
      const piece = await (flow === "ended" ? look.next(null) : waits.next(look, wait));
      if (piece === "over") break looking;
      if (piece === "late" && cut) {
        abort.abort();
        break looking;
      }
      if (piece !== "late") {
        meter.push(piece);
        found += piece.length;
        look.release();
        waits.heard(meter);
        // The last event has been seen, and nothing of it waits for anyone.
        if (flow === "ended" && meter.finished && !meter.insideEvent) break looking;
      }
      const passed = cut || flow === "ended" ? null : waits.passed();
      if (passed) stop(passed);
      else if (piece === "late") continue looking;
      if (!look.full && !failure) break;
    }
    const wanted = Math.min(2 * pause, (pause * WANTED_BYTES) / found, longest);
    pause = Math.max(wanted, MIN_PAUSE_MS);
  }
  // A client may take its time to read the rest. One that left before it got anything takes nothing, and breaks nothing.
  while (!flow && !options.clientGone()) await within(flowed, WAIT_FOR_CLIENT_MS);
  const complete = meter.finished || meter.failed;
  const wire = describeFailure(failure ?? { kind: "upstream_cut" });
  const last = complete ? null : errorEvent(errorBody(wire.type, wire.message, requestId), meter.insideEvent);
  const clientStayed =
    options.readerIsOurs && options.clientGone() ? breakOff(relay) : await endClientStream(relay, last);
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
 * Hands to the client what the meter has seen, and pings where the upstream is silent for long, until the answer flows or
 * anything is out of the ordinary: a break, a limit, a slow client. Whatever that is, the native pipe goes on from the
 * next byte, and its owner finds it.
 */
async function handOver(
  look: Look,
  meter: StreamMeter,
  { toClient, head }: Untouched,
  relay: WritableStream<Uint8Array>,
  waits: Waits,
  { timeouts, mayGoOn, keepAliveMs = KEEP_ALIVE_AFTER_MS }: StreamOptions,
): Promise<void> {
  const source = toClient.getReader({ mode: "byob" });
  const writer = relay.getWriter();
  let writing: Promise<boolean> | null = null;
  const put = (bytes: Uint8Array): void => {
    const written: Promise<boolean> = writer.write(bytes).then(
      () => {
        if (writing === written) writing = null;
        return true;
      },
      () => false,
    );
    writing = written;
  };
  /** Whether the client has taken all it was handed, or does so soon. */
  const taken = async (): Promise<boolean> => !writing || (await within(writing, HAND_OVER_MS)) === true;
  const longest = mayGoOn ? MAX_PAUSE_ASKING_MS : Number.POSITIVE_INFINITY;
  let due = head;
  let all = head;
  let pingedAtMs = 0;
  try {
    while (meter.quiet && all <= MAX_BY_HAND_BYTES) {
      if (due > 0) {
        if (!(await taken())) return;
        // The meter has read them, so they are here.
        const { value } = await source.readAtLeast(due, new Uint8Array(due));
        if (!value) return;
        put(value);
        due = 0;
        pingedAtMs = 0;
      }
      const bridged = timeouts.silenceMs > keepAliveMs && !meter.insideEvent;
      const untilPing = bridged ? pingedAtMs + keepAliveMs - waits.silentMs : waits.leftMs;
      const piece = await waits.next(look, Math.min(Math.max(MIN_WAIT_MS, untilPing), waits.leftMs, longest));
      if (piece === "over") return;
      if (piece !== "late") {
        meter.push(piece);
        due = piece.length;
        all += due;
        look.release();
        waits.heard(meter);
      }
      if (waits.passed()) return;
      if (piece !== "late") continue;
      if (mayGoOn && !(await mayGoOn())) return;
      if (!bridged || waits.silentMs < pingedAtMs + keepAliveMs) continue;
      pingedAtMs = waits.silentMs;
      if (!(await taken())) return;
      put(PING);
    }
  } catch {
    // The client's branch broke: the pipe will say so too.
  } finally {
    source.releaseLock();
    writer.releaseLock();
  }
}

/**
 * How long the upstream has been waited for, against the limits of a stream. Counted in waits: a clock that steps moves a
 * limit by no more than was waited.
 */
class Waits {
  readonly #timeouts: Timeouts;
  /** Since the last byte. */
  silentMs = 0;
  /** Since the last event that was no ping. */
  #emptyMs = 0;
  #streamMs = 0;

  constructor(timeouts: Timeouts) {
    this.#timeouts = timeouts;
  }

  /** How long may be waited until the nearest limit. */
  get leftMs(): number {
    const { silenceMs, totalMs, streamTotalMs } = this.#timeouts;
    return Math.max(
      MIN_WAIT_MS,
      Math.min(silenceMs - this.silentMs, totalMs - this.#emptyMs, streamTotalMs - this.#streamMs),
    );
  }

  /** Waits for a promise; "late" when it took longer. */
  async until<T>(promise: Promise<T>, limitMs: number): Promise<T | "late"> {
    const from = Date.now();
    const value = await within(promise, limitMs);
    this.#add(value === "late" ? limitMs : Math.min(Math.max(0, Date.now() - from), limitMs));
    return value;
  }

  async next(look: Look, limitMs: number): Promise<Uint8Array | "over" | "late"> {
    const from = Date.now();
    const piece = await look.next(limitMs);
    this.#add(piece === "late" ? limitMs : Math.min(Math.max(0, Date.now() - from), limitMs));
    return piece;
  }

  /** Bytes have come, and the meter has read them. */
  heard(meter: StreamMeter): void {
    this.silentMs = 0;
    if (meter.heard) this.#emptyMs = 0;
    meter.heard = false;
  }

  /** The limit that has passed. */
  passed(): Failure | null {
    const { silenceMs, totalMs, streamTotalMs } = this.#timeouts;
    const late = (phase: "silence" | "total", limitMs: number): Failure => ({
      kind: "upstream_timeout",
      phase,
      limitMs,
    });
    if (this.silentMs >= silenceMs) return late("silence", silenceMs);
    if (this.#emptyMs >= totalMs) return late("total", totalMs);
    return this.#streamMs >= streamTotalMs ? late("total", streamTotalMs) : null;
  }

  #add(ms: number): void {
    this.silentMs += ms;
    this.#emptyMs += ms;
    this.#streamMs += ms;
  }
}

/**
 * The terminal event. If the upstream was cut in the middle of an event, the client's parser holds a torn half of one;
 * naming it `ping` and closing it makes every SDK drop it unread (wire notes §4.5), so that the error is what it sees.
 */
export function errorEvent(data: string, insideEvent: boolean): Uint8Array {
  return encoder.encode(`${insideEvent ? "\nevent: ping\n\n" : ""}event: error\ndata: ${data}\n\n`);
}

/** Writes the last event, if there is one, and closes. False when the client is not there any more. */
export async function endClientStream(stream: WritableStream<Uint8Array>, last: Uint8Array | null): Promise<boolean> {
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

/** Ends the stream of a reader that may not be reading, so that nothing waits for it. */
function breakOff(stream: WritableStream<Uint8Array>): false {
  void stream.abort(new Error("The call was stopped.")).catch(ignoreTeardown);
  return false;
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

/** Tearing down a stream rejects where it has broken, or is still being written to, which is known already. */
function ignoreTeardown(): void {}
