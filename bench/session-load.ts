/**
 * Streams whose events say when they were written (native/upstream.c), read by plain SSE clients or by viewers of
 * conversations, in this process: the delay of each event on its way, and whether all of them came.
 */
import { Agent, request } from "node:http";
import { WebSocket } from "ws";
import { AUTH_PROTOCOL_PREFIX, HEARTBEAT_MS, PROTOCOL } from "../clients/typescript/protocol.ts";
import { type Subject, SubjectFailed } from "./load.ts";

/** Nothing that is sent stays away so long. */
const DEADLINE_MS = 60_000;
const MARK = /@@(\d{16})@@/g;
const MARK_CHARS = 20;
/** Type and number of a frame, which stand first in what comes of the log. It is not parsed: the next viewer waits. */
const FRAME = /^\{"type":"([a-z.]+)"(?:,"seq":(\d+))?/;

/** So long after the last beginning the delays count: what beginnings cost is over by then. */
const SETTLE_MS = 1_000;
/** The golden section: its multiples keep step with no period. */
const SECTION = 0.618_033_988_749_895;

/** Streams of so many events, one each `gapMs`, whose beginnings are spread over `rampMs`. */
export type Pace = { readonly events: number; readonly gapMs: number; readonly rampMs: number };
/**
 * `events`: all that came. The delays, µs, are those of the events that were sent while all streams were under way: the
 * beginnings cost hundreds of times what an event does, and would be measured in its place.
 */
export type Delays = { readonly events: number; readonly p50: number; readonly p99: number };

/** When the nth of some streams begins, ms: no two of them write at the same moments, as they would begun one by one. */
const beginningOf = (nth: number, { rampMs }: Pace): number => ((nth * SECTION) % 1) * rampMs;
const nowMicros = (): number => Number(process.hrtime.bigint() / 1_000n);

/** The model's name tells the upstream how to answer. */
export const modelOf = ({ events, gapMs }: Pace): string => `claude-sonnet-4-5_n${events}_t50_g${gapMs * 1_000}`;

/** Reads the delays of the events of one load, which begins now. */
class Clock {
  readonly #delays: number[] = [];
  readonly #from: number;
  readonly #to: number;
  #events = 0;

  constructor({ events, gapMs, rampMs }: Pace) {
    const now = nowMicros();
    this.#from = now + (rampMs + SETTLE_MS) * 1_000;
    this.#to = now + events * gapMs * 1_000;
  }

  /** Notes the marks in a text; returns how many there were. */
  read(text: string): number {
    const now = nowMicros();
    let count = 0;
    for (const [, mark] of text.matchAll(MARK)) {
      const at = Number(mark);
      if (at >= this.#from && at < this.#to) this.#delays.push(now - at);
      count++;
    }
    this.#events += count;
    return count;
  }

  get delays(): Delays {
    const sorted = Float64Array.from(this.#delays).sort();
    const at = (share: number): number => sorted[Math.floor(sorted.length * share)] ?? Number.NaN;
    return { events: this.#events, p50: at(0.5), p99: at(0.99) };
  }
}

/** So many streams of the Messages API at once. */
export async function plainStreams(subject: Subject, count: number, pace: Pace): Promise<Delays> {
  const clock = new Clock(pace);
  const agent = new Agent({ keepAlive: false, maxSockets: Number.POSITIVE_INFINITY });
  const body = JSON.stringify({
    model: modelOf(pace),
    max_tokens: 1_024,
    stream: true,
    messages: [{ role: "user", content: "Tell me." }],
  });
  const one = async (nth: number): Promise<void> => {
    await pause(beginningOf(nth, pace));
    const events = await plainStream(subject, agent, body, clock);
    if (events !== pace.events) throw new SubjectFailed(`${subject.name}: ${events} of ${pace.events} events`);
  };
  await inTime(Promise.all(Array.from({ length: count }, (_, nth) => one(nth))), `${count} streams of ${subject.name}`);
  agent.destroy();
  return clock.delays;
}

function plainStream({ name, port, key }: Subject, agent: Agent, body: string, clock: Clock): Promise<number> {
  return new Promise((resolve, reject) => {
    const headers = { "x-api-key": key, "anthropic-version": "2023-06-01", "content-type": "application/json" };
    const sent = request(
      { host: "127.0.0.1", port, path: "/v1/messages", method: "POST", agent, headers },
      (response) => {
        if (response.statusCode !== 200) return reject(new SubjectFailed(`${name} answered ${response.statusCode}`));
        let rest = "";
        let events = 0;
        response.setEncoding("latin1");
        response.on("data", (piece: string) => {
          const text = rest + piece;
          events += clock.read(text);
          // A mark that is cut in two; one that was read already is not kept.
          const last = text.lastIndexOf("@@") + 2;
          rest = text.slice(Math.max(last, text.length - MARK_CHARS + 1));
          if (last > 1 && !/@@\d{16}@@$/.test(text.slice(0, last))) rest = text.slice(last - 2);
        });
        response.on("error", reject);
        response.on("end", () => resolve(events));
      },
    );
    sent.on("error", reject);
    sent.end(body);
  });
}

/** Conversations with their viewers, all connected. */
export type Audience = {
  readonly conversations: readonly string[];
  /** One turn in each conversation, seen by every viewer. */
  turns(pace: Pace): Promise<Delays>;
  /** The text `ping` from every viewer; resolves when all have been answered. */
  beat(): Promise<void>;
  /** A frame that wakes the object of each conversation. */
  wake(): Promise<void>;
  close(): Promise<void>;
};

type Seat = {
  readonly socket: WebSocket;
  /** Number of the last frame. */
  seq: number;
  events: number;
  /** Told of the turn's end, of `pong` and of the error that `wake` asks for. */
  ended: () => void;
  answered: () => void;
};

export async function seatAudience(subject: Subject, conversations: number, each: number): Promise<Audience> {
  let clock: Clock | null = null;
  let failure: string | null = null;
  const url = `http://127.0.0.1:${subject.port}/v1/conversations`;
  const headers = { "x-api-key": subject.key, "content-type": "application/json" };
  const create = async (): Promise<string> => {
    const response = await fetch(url, { method: "POST", headers, body: '{"model":"claude-sonnet-4-5"}' });
    const made = (await response.json()) as { id?: string };
    if (!made.id) throw new SubjectFailed(`no conversation: ${response.status} ${JSON.stringify(made)}`);
    return made.id;
  };
  const sit = (id: string): Promise<Seat> =>
    new Promise((resolve, reject) => {
      const protocols = [PROTOCOL, `${AUTH_PROTOCOL_PREFIX}${subject.key}`];
      const socket = new WebSocket(`${url.replace("http", "ws")}/${id}/socket`, protocols, {
        perMessageDeflate: false,
      });
      const seat: Seat = { socket, seq: -1, events: 0, ended: () => {}, answered: () => {} };
      socket.on("error", reject);
      socket.on("close", (code) => {
        failure ??= `a socket was closed with ${code}`;
        reject(new SubjectFailed(failure));
      });
      socket.on("message", (data: Buffer) => {
        const text = data.toString("latin1");
        seat.events += clock?.read(text) ?? 0;
        if (!text.startsWith("{")) return seat.answered();
        const [, type, number] = FRAME.exec(text) ?? [];
        if (type === "error") return seat.answered();
        if (type === "ready") {
          seat.seq = (JSON.parse(text) as { seq: number }).seq;
          return resolve(seat);
        }
        if (Number(number) !== seat.seq + 1) failure ??= `${type} ${number} came after ${seat.seq}`;
        seat.seq++;
        if (type === "turn.failed") failure ??= `a turn failed: ${text.slice(0, 300)}`;
        if (type === "turn.completed" || type === "turn.failed") seat.ended();
      });
    });
  const ids = await pooled(conversations, 8, create);
  const seats = await pooled(conversations * each, 32, (nth) => sit(ids[nth % conversations] ?? ""));
  const speakers = seats.slice(0, conversations);
  const heartbeat = setInterval(() => {
    for (const { socket } of seats) if (socket.readyState === WebSocket.OPEN) socket.send("ping");
  }, HEARTBEAT_MS / 2);
  const good = (): void => {
    if (failure !== null) throw new SubjectFailed(failure);
  };
  const answers = (of: readonly Seat[], text: string, what: string): Promise<unknown> =>
    inTime(
      Promise.all(
        of.map(
          (seat) =>
            new Promise<void>((done) => {
              seat.answered = done;
              seat.socket.send(text);
            }),
        ),
      ),
      what,
    );
  let turn = 0;
  return {
    conversations: ids,
    async turns(pace) {
      const reading = new Clock(pace);
      clock = reading;
      for (const seat of seats) seat.events = 0;
      const ends = seats.map((seat) => new Promise<void>((done) => Object.assign(seat, { ended: done })));
      const id = `turn-${++turn}`;
      const options = { model: modelOf(pace) };
      for (const [nth, { socket }] of speakers.entries()) {
        setTimeout(
          () => socket.send(JSON.stringify({ type: "send", id, content: "Tell me.", options })),
          beginningOf(nth, pace),
        );
      }
      await inTime(Promise.all(ends), "the ends of all turns").finally(good);
      const short = seats.find(({ events }) => events !== pace.events);
      if (short) throw new SubjectFailed(`a viewer saw ${short.events} of ${pace.events} events`);
      return reading.delays;
    },
    async beat() {
      await answers(seats, "ping", "all pongs");
      good();
    },
    async wake() {
      // A number that is not there yet: the answer is an error, which counts as nothing.
      await answers(speakers, '{"type":"resume","after":1000000000}', "all objects");
    },
    async close() {
      clearInterval(heartbeat);
      good();
      for (const { socket } of seats) socket.terminate();
    },
  };
}

/** So many of them, at most `width` at once. */
async function pooled<T>(count: number, width: number, make: (nth: number) => Promise<T>): Promise<T[]> {
  const all: T[] = new Array(count);
  let next = 0;
  const work = async (): Promise<void> => {
    for (let nth = next++; nth < count; nth = next++) all[nth] = await make(nth);
  };
  await inTime(Promise.all(Array.from({ length: width }, work)), "everybody to come in");
  return all;
}

const pause = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));

async function inTime<T>(work: Promise<T>, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new SubjectFailed(`waited in vain for ${what}`)), DEADLINE_MS);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}
