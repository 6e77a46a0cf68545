/** One WebSocket from its opening to its end, with the heartbeat. What comes over it is somebody else's business. */
import { AUTH_PROTOCOL_PREFIX, HEARTBEAT_MS, PROTOCOL } from "./protocol.ts";

/** As much of a WebSocket as is used: that of browsers, of Node 22, and of the `ws` package. */
export type SocketLike = {
  readonly readyState: number;
  onopen: ((event: never) => unknown) | null;
  onmessage: ((event: never) => unknown) | null;
  onclose: ((event: never) => unknown) | null;
  onerror: ((event: never) => unknown) | null;
  send(text: string): void;
  close(code?: number, reason?: string): void;
};
export type SocketClass = new (url: string, protocols: string[]) => SocketLike;

export type Clock = {
  now(): number;
  setTimeout(run: () => void, ms: number): unknown;
  clearTimeout(timer: unknown): void;
};

/** So many pings without any answer, and the line is taken for dead. */
const MISSED_PONGS = 2;
/** How long opening may take, ms. */
const OPEN_WITHIN_MS = 15_000;
/** How long an answer may take when there is reason to doubt the line, ms. */
const PROBE_MS = 3_000;
/** Close code of a line that this side gave up (RFC 6455 §7.4.1: abnormal closure). */
export const LINE_LOST = 1006;
const OPEN = 1;

export type LineEvents = {
  opened(): void;
  received(text: string): void;
  /** Once, and nothing after it. */
  ended(code: number, reason: string): void;
};

export class Line {
  readonly #socket: SocketLike;
  readonly #clock: Clock;
  readonly #events: LineEvents;
  #timer: unknown;
  #probe: unknown;
  #unanswered = 0;
  #over = false;

  constructor(make: SocketClass, url: string, apiKey: string, clock: Clock, events: LineEvents) {
    this.#clock = clock;
    this.#events = events;
    this.#socket = new make(url, [PROTOCOL, AUTH_PROTOCOL_PREFIX + apiKey]);
    this.#socket.onopen = () => {
      if (this.#over) return;
      clock.clearTimeout(this.#timer);
      this.#beat();
      events.opened();
    };
    this.#socket.onmessage = ({ data }: { readonly data: unknown }) => this.#hear(data);
    this.#socket.onclose = ({ code, reason }: { readonly code: number; readonly reason: string }) =>
      this.#finish(code, reason);
    // `close` follows and says as much as there is to know.
    this.#socket.onerror = () => {};
    this.#timer = clock.setTimeout(() => this.#drop("The line did not open in time."), OPEN_WITHIN_MS);
  }

  /** Whether it was taken; a line that is not open takes nothing. */
  send(text: string): boolean {
    if (this.#over || this.#socket.readyState !== OPEN) return false;
    this.#socket.send(text);
    return true;
  }

  /** The network has changed: whoever does not answer soon is gone. */
  probe(): void {
    if (this.#probe !== undefined || !this.send("ping")) return;
    this.#probe = this.#clock.setTimeout(() => this.#drop("The line is silent."), PROBE_MS);
  }

  close(code: number, reason: string): void {
    if (this.#over) return;
    this.#forget();
    this.#socket.close(code, reason);
  }

  #hear(data: unknown): void {
    if (this.#over || typeof data !== "string") return;
    // Whatever comes shows that the line lives.
    this.#unanswered = 0;
    this.#clock.clearTimeout(this.#probe);
    this.#probe = undefined;
    if (data !== "pong") this.#events.received(data);
  }

  #beat(): void {
    const due = this.#clock.now() + HEARTBEAT_MS;
    this.#timer = this.#clock.setTimeout(() => {
      // A timer that is so late has slept with its machine, and the line may have died meanwhile.
      if (this.#clock.now() - due > HEARTBEAT_MS) this.probe();
      if (this.#unanswered >= MISSED_PONGS) {
        this.#drop("Two pings were not answered.");
        return;
      }
      this.#unanswered++;
      this.send("ping");
      this.#beat();
    }, HEARTBEAT_MS);
  }

  #drop(reason: string): void {
    // A dead line's own `close` event may come minutes later, or never.
    this.#socket.close();
    this.#finish(LINE_LOST, reason);
  }

  #finish(code: number, reason: string): void {
    if (this.#over) return;
    this.#forget();
    this.#events.ended(code, reason);
  }

  #forget(): void {
    this.#over = true;
    this.#clock.clearTimeout(this.#timer);
    this.#clock.clearTimeout(this.#probe);
  }
}
