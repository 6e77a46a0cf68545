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

export type Pace = { readonly events: number; readonly gapMs: number };
export type Delays = { readonly events: number; readonly p50: number; readonly p99: number; readonly max: number };

/** The model's name tells the upstream how to answer. */
export const modelOf = ({ events, gapMs }: Pace): string => `claude-sonnet-4-5_n${events}_t50_g${gapMs * 1_000}`;

/** Delays of events, µs. */
class Clock {
  readonly #delays: number[] = [];

  /** Notes the marks in a text; returns how many there were. */
  read(text: string): number {
    const now = Number(process.hrtime.bigint() / 1_000n);
    let count = 0;
    for (const [, at] of text.matchAll(MARK)) {
      this.#delays.push(now - Number(at));
      count++;
    }
    return count;
  }

  get delays(): Delays {
    const sorted = Float64Array.from(this.#delays).sort();
    const at = (share: number): number =>
      sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
    return { events: sorted.length, p50: at(0.5), p99: at(0.99), max: at(1) };
  }
}

/** So many streams of the Messages API at once, their beginnings spread over a while. */
export async function plainStreams(subject: Subject, count: number, pace: Pace, rampMs: number): Promise<Delays> {
  const clock = new Clock();
  const agent = new Agent({ keepAlive: false, maxSockets: Number.POSITIVE_INFINITY });
  const body = JSON.stringify({
    model: modelOf(pace),
    max_tokens: 1_024,
    stream: true,
    messages: [{ role: "user", content: "Tell me." }],
  });
  const one = async (nth: number): Promise<void> => {
    await pause((rampMs * nth) / count);
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
  turns(pace: Pace, rampMs: number): Promise<Delays>;
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
  let clock = new Clock();
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
        seat.events += clock.read(text);
        if (!text.startsWith("{")) return seat.answered();
        const { type, seq } = JSON.parse(data.toString()) as { type: string; seq?: number };
        if (type === "error") return seat.answered();
        if (type !== "ready" && seq !== seat.seq + 1) failure ??= `${type} ${seq} came after ${seat.seq}`;
        seat.seq = seq ?? seat.seq;
        if (type === "ready") resolve(seat);
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
    async turns(pace, rampMs) {
      clock = new Clock();
      for (const seat of seats) seat.events = 0;
      const ends = seats.map((seat) => new Promise<void>((done) => Object.assign(seat, { ended: done })));
      const id = `turn-${++turn}`;
      const options = { model: modelOf(pace) };
      for (const [nth, { socket }] of speakers.entries()) {
        setTimeout(
          () => socket.send(JSON.stringify({ type: "send", id, content: "Tell me.", options })),
          (rampMs * nth) / conversations,
        );
      }
      await inTime(Promise.all(ends), "the ends of all turns").finally(good);
      const short = seats.find(({ events }) => events !== pace.events);
      if (short) throw new SubjectFailed(`a viewer saw ${short.events} of ${pace.events} events`);
      return clock.delays;
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
