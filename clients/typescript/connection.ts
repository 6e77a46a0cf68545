/**
 * One line to the gateway after another, for as long as there is use in coming back: what the end of one means, how long to
 * wait for the next, and with which key. What is said over them is somebody else's business.
 */
import { AFTER_A_DROP, AFTER_A_LIMIT, waitMs } from "./backoff.ts";
import { SluiceError } from "./errors.ts";
import { askFor, type KeySource, NO_KEY, unusable } from "./key.ts";
import { type Clock, LINE_LOST, Line, type SocketClass } from "./line.ts";
import { CLOSE, type ClientFrame } from "./protocol.ts";

export type Status =
  | { readonly state: "connecting" }
  | { readonly state: "open" }
  /** Dropped; the next attempt is at `retryAt` (ms since the epoch). */
  | { readonly state: "waiting"; readonly retryAt: number; readonly code: number; readonly reason: string }
  /** For good. `error`: why; null: it was closed from here. */
  | { readonly state: "closed"; readonly error: SluiceError | null };

export type ConnectionParts = {
  readonly url: string;
  readonly apiKey: KeySource;
  readonly socket: SocketClass;
  readonly clock: Clock;
  readonly random: () => number;
};

type ConnectionEvents = {
  became(status: Status): void;
  received(text: string): void;
  /** It is about to be closed for good. */
  closing(error: SluiceError | null): void;
};

/** A line that held for so long was a good one: the next wait is short again. */
const STEADY_MS = 5_000;
/** There is no use in coming back with the same key, to the same conversation, or with the same frame. */
const FINAL = new Map<number, readonly [type: string, message: string]>([
  [CLOSE.malformed, ["invalid_request_error", "The gateway did not understand this client."]],
  [CLOSE.unauthenticated, ["authentication_error", "The key is not valid, or not any more."]],
  [CLOSE.forbidden, ["permission_error", "The key may not use conversations."]],
  [CLOSE.unknown, ["not_found_error", "There is no such conversation, or not any more."]],
  [CLOSE.tooLarge, ["request_too_large", "The message is too large."]],
]);

export class Connection {
  readonly #parts: ConnectionParts;
  readonly #events: ConnectionEvents;
  #status: Status = { state: "connecting" };
  #line: Line | undefined;
  #retry: unknown;
  #stopAsking: () => void = () => {};
  #attempt = 0;
  #openedAt: number | null = null;

  /** Does nothing before `connect`. */
  constructor(parts: ConnectionParts, events: ConnectionEvents) {
    this.#parts = parts;
    this.#events = events;
  }

  get status(): Status {
    return this.#status;
  }

  /** Whether a key that was good, a token that has ended perhaps, may be followed by another. */
  get isRenewable(): boolean {
    return typeof this.#parts.apiKey === "function" && this.#openedAt !== null;
  }

  connect(): void {
    const { apiKey, clock } = this.#parts;
    this.#become({ state: "connecting" });
    // Whoever was told may have closed it.
    if (this.#status.state === "closed") return;
    this.#stopAsking = askFor(apiKey, clock, (key) => {
      if (key === null) this.#dropped(LINE_LOST, NO_KEY);
      else this.#open(key);
    });
  }

  /** The gateway has let it in. */
  opened(): void {
    this.#openedAt = this.#parts.clock.now();
    this.#become({ state: "open" });
  }

  /** A frame that is not taken is said again once the next line is open, or is not needed then. */
  tell(frame: ClientFrame): void {
    this.#line?.send(JSON.stringify(frame));
  }

  reconnectNow(): void {
    if (this.#status.state !== "waiting") return;
    this.#parts.clock.clearTimeout(this.#retry);
    this.connect();
  }

  networkChanged(online: boolean): void {
    const limited = this.#status.state === "waiting" && this.#status.code === CLOSE.limited;
    if (online && !limited) this.reconnectNow();
    this.#line?.probe();
  }

  /** For good. */
  finish(error: SluiceError | null): void {
    this.#parts.clock.clearTimeout(this.#retry);
    this.#stopAsking();
    this.#line?.close(1_000, "");
    this.#line = undefined;
    this.#events.closing(error);
    this.#become({ state: "closed", error });
  }

  #open(key: string): void {
    const { url, socket, clock } = this.#parts;
    const wrong = unusable(key);
    if (wrong) {
      this.finish(wrong);
      return;
    }
    this.#line = new Line(socket, url, key, clock, {
      opened: () => {},
      received: (text) => this.#events.received(text),
      ended: (code, reason) => this.#dropped(code, reason),
    });
  }

  #dropped(code: number, reason: string): void {
    const { clock, random } = this.#parts;
    this.#line = undefined;
    const final = FINAL.get(code);
    if (final && !(code === CLOSE.unauthenticated && this.isRenewable)) {
      const [type, message] = final;
      this.finish(new SluiceError(type, reason === "" ? message : reason, { status: code }));
      return;
    }
    if (this.#openedAt !== null && clock.now() - this.#openedAt >= STEADY_MS) this.#attempt = 0;
    this.#openedAt = null;
    const wait = waitMs(this.#attempt++, random, code === CLOSE.limited ? AFTER_A_LIMIT : AFTER_A_DROP);
    this.#retry = clock.setTimeout(() => this.connect(), wait);
    this.#become({ state: "waiting", retryAt: clock.now() + wait, code, reason });
  }

  #become(status: Status): void {
    this.#status = status;
    this.#events.became(status);
  }
}
