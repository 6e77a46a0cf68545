/**
 * Bytes on their way, with whatever is to go wrong. Every wait ends at once when the client leaves: `cancel()` of the
 * body, or the request's own signal while nothing is being written, stops the timers.
 */
import { errorBody, messageOfType } from "./errors.ts";
import type { Faults } from "./faults.ts";
import type { Entry } from "./journal.ts";
import { type Event, eventsOf, type MessageParts } from "./message.ts";

const DEFAULT_DRIP_MS = 10;
/** `pings_after` without `pace`. */
const DEFAULT_PING_MS = 100;
const PING: Event = { name: "ping", data: '{"type":"ping"}' };
/** Pieces of `chunk` that go out before the runtime gets a breath to send them: one for each would take its time. */
const PIECES_PER_BREATH = 8;
/** Between the last byte and a cut: an error overtakes what the runtime has not sent yet. */
const CUT_DELAY_MS = 25;
/** Longest silence: a client whose leaving nobody could see does not hold its request for good. */
export const MAX_SILENCE_MS = 15 * 60_000;

/** What a body is sent for: its record, the id for errors in the stream, the signal that the client has left. */
export type Delivery = { readonly entry: Entry; readonly requestId: string; readonly signal: AbortSignal };

/** What happens next on the connection. `event`: with these bytes an event is whole. */
type Step =
  | { readonly do: "write"; readonly bytes: Uint8Array; readonly event: boolean }
  | { readonly do: "wait"; readonly ms: number }
  | { readonly do: "break" | "hang" };

const encoder = new TextEncoder();

/** The body of an event stream. */
export function streamBody(parts: MessageParts, faults: Faults, delivery: Delivery): ReadableStream<Uint8Array> {
  const events = eventSteps(eventsOf(parts, faults), faults, delivery.requestId);
  return play(byteSteps(events, faults), faults, delivery);
}

/** The body of an answer that is not streamed. Without a fault it is what it was given. */
export function wholeBody(
  body: string | Uint8Array,
  faults: Faults,
  delivery: Delivery,
): ReadableStream<Uint8Array> | Uint8Array | string {
  const whole = faults.malformed === undefined ? body : body.slice(0, -2);
  if (!BYTE_FAULTS.some((name) => faults[name] !== undefined)) {
    delivery.entry.end("complete");
    return whole;
  }
  const steps: Step[] = [
    { do: "write", bytes: typeof whole === "string" ? encoder.encode(whole) : whole, event: false },
  ];
  return play(byteSteps(steps, faults), faults, delivery);
}

/** One write for each event, with the faults that concern events. */
export function* eventSteps(events: Iterable<Event>, faults: Faults, requestId: string): Generator<Step, void, void> {
  const lineEnd = faults.crlf ? "\r\n" : faults.cr ? "\r" : "\n";
  let count = 0;
  const write = ({ name, data }: Event): Step => {
    const padded = faults.padded ? data.replace(/\}$/, `${" ".repeat(data.length % 17)}}`) : data;
    const comment = `${faults.comments ? `: keep-alive${lineEnd}` : ""}${faults.nul ? `: \0${lineEnd}` : ""}`;
    const fields = `${faults.no_names ? "" : `event: ${name}${lineEnd}`}${faults.sse_fields ? `id: ${count}${lineEnd}retry: 3000${lineEnd}` : ""}`;
    const text = `${comment}${fields}data: ${padded}${lineEnd}${lineEnd}`;
    return { do: "write", bytes: encoder.encode(text), event: true };
  };
  const failure = (type: string): Step =>
    write({
      name: "error",
      data: errorBody(
        { type, message: messageOfType(type), ...(faults.error_code ? { code: faults.error_code } : {}) },
        requestId,
      ),
    });
  if (faults.bom) yield { do: "write", bytes: encoder.encode("\uFEFF"), event: false };
  if (faults.first_event === "comment") {
    yield { do: "write", bytes: encoder.encode(`: first${lineEnd}${lineEnd}`), event: false };
  }
  if (faults.error_first) return yield failure(faults.error_first);
  /** What happens after so many events; undefined when the stream goes on. */
  const turn = (count: number): Step | "end" | undefined => {
    if (faults.error_after === count) return failure(faults.error_type ?? "overloaded_error");
    if (faults.silence_after === count) return { do: "hang" };
    if (faults.cut_after === count) return { do: "break" };
    return faults.end_after === count ? "end" : undefined;
  };
  for (const event of events) {
    if (faults.pings_after === count) {
      for (; ; count++) {
        yield write(PING);
        yield { do: "wait", ms: faults.pace ?? DEFAULT_PING_MS };
      }
    }
    const instead = turn(count);
    if (instead === "end") return;
    if (instead) return yield instead;
    if (count > 0 && faults.pace) yield { do: "wait", ms: faults.pace };
    yield write(faults.malformed === count ? { ...event, data: event.data.slice(0, -2) } : event);
    count++;
  }
  const last = turn(count);
  if (last && last !== "end") yield last;
}

/** Lays the faults that concern bytes over the writes: size of pieces, cut or end after a number of bytes. */
export function* byteSteps(steps: Iterable<Step>, faults: Faults): Generator<Step, void, void> {
  const limit = faults.cut ?? faults.end ?? faults.silence ?? Number.POSITIVE_INFINITY;
  const size = faults.drip ?? faults.chunk ?? Number.POSITIVE_INFINITY;
  const breath: Step = { do: "wait", ms: faults.drip ? (faults.drip_ms ?? DEFAULT_DRIP_MS) : 0 };
  const piecesPerBreath = faults.drip ? 1 : PIECES_PER_BREATH;
  let pieces = 0;
  let sent = 0;
  for (const step of steps) {
    if (step.do !== "write") {
      yield step;
      continue;
    }
    const bytes = step.bytes.subarray(0, Math.max(0, limit - sent));
    for (let at = 0; at < bytes.length; at += size) {
      if (size !== Number.POSITIVE_INFINITY && pieces > 0 && pieces % piecesPerBreath === 0) yield breath;
      pieces++;
      const end = Math.min(bytes.length, at + size);
      yield { do: "write", bytes: bytes.subarray(at, end), event: step.event && end === step.bytes.length };
    }
    sent += bytes.length;
    if (sent >= limit) {
      if (faults.cut !== undefined) yield { do: "break" };
      else if (faults.end === undefined) yield { do: "hang" };
      return;
    }
  }
}

/** Faults that only a stream of bytes can play. */
const BYTE_FAULTS: readonly (keyof Faults)[] = ["cut", "end", "silence", "drip", "chunk"];
/** Faults that need time, break something or never end; the rest is written at once, which keeps load tests cheap. */
const TIMED: readonly (keyof Faults)[] = [
  "pace",
  "drip",
  "chunk",
  "cut",
  "cut_after",
  "silence",
  "silence_after",
  "pings_after",
  "endless",
];

function play(steps: Generator<Step, void, void>, faults: Faults, delivery: Delivery): ReadableStream<Uint8Array> {
  return TIMED.some((name) => faults[name] !== undefined) ? playInTime(steps, delivery) : playAtOnce(steps, delivery);
}

function playAtOnce(steps: Iterable<Step>, { entry }: Delivery): ReadableStream<Uint8Array> {
  const pieces: Uint8Array[] = [];
  for (const step of steps) {
    if (step.do !== "write") continue;
    pieces.push(step.bytes);
    if (step.event) entry.events++;
  }
  return new ReadableStream<Uint8Array>({
    start(controller) {
      controller.enqueue(concat(pieces));
      controller.close();
      entry.end("complete");
    },
  });
}

function playInTime(steps: Generator<Step, void, void>, { entry, signal }: Delivery): ReadableStream<Uint8Array> {
  const stop = new AbortController();
  const leave = (): void => {
    entry.end("client_gone");
    stop.abort();
    steps.return();
  };
  signal.addEventListener("abort", leave, { once: true });
  const finish = (end: "complete" | "cut"): void => {
    entry.end(end);
    signal.removeEventListener("abort", leave);
  };
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        for (;;) {
          const { value: step, done } = steps.next();
          if (stop.signal.aborted) return;
          if (done || !step) {
            finish("complete");
            controller.close();
            return;
          }
          if (step.do === "write") {
            controller.enqueue(step.bytes);
            if (step.event) entry.events++;
            return;
          }
          if (step.do === "break") {
            if (!(await waited(CUT_DELAY_MS, stop.signal))) return;
            finish("cut");
            controller.error(new Error("the connection is cut on request"));
            return;
          }
          if (!(await waited(step.do === "wait" ? step.ms : MAX_SILENCE_MS, stop.signal))) return;
        }
      },
      cancel: leave,
    },
    { highWaterMark: 0 },
  );
}

/** Waits so many milliseconds; false when the signal came first. */
export async function waited(ms: number, signal: AbortSignal): Promise<boolean> {
  try {
    await scheduler.wait(ms, { signal });
    return true;
  } catch {
    // The only thing that a wait throws is its signal's reason.
    return false;
  }
}

function concat(pieces: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}
