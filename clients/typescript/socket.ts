/**
 * A conversation over one WebSocket after another: every frame of its log once and in order, however often the line
 * drops. A number that was seen is never shown again, one that would leave a gap is never shown before it is filled: the
 * gateway is asked for what comes after the last number instead.
 *
 * Every consumer (`frames`, a turn's frames) has a queue of its own; acknowledged is only what all of them have taken, and
 * the gateway sends at most `window` bytes beyond that. So a slow consumer costs `window` bytes and nobody else's time.
 */
import { AFTER_A_DROP, AFTER_A_LIMIT, waitMs } from "./backoff.ts";
import { SluiceError } from "./errors.ts";
import { type Clock, Line, type SocketClass } from "./line.ts";
import {
  CLOSE,
  type ClientFrame,
  type Content,
  type Conversation,
  type LoggedFrame,
  type SendOptions,
  type ServerFrame,
} from "./protocol.ts";
import { FrameQueue } from "./queue.ts";
import { type PendingTurn, SentTurn, type TurnEnd } from "./sent-turn.ts";

/** What a consumer gets: the log's frames, and `history` in place of those that are kept no more. */
export type Received = LoggedFrame | Extract<ServerFrame, { type: "history" }>;

export type Status =
  | { readonly state: "connecting" }
  | { readonly state: "open" }
  /** Dropped; the next attempt is at `retryAt` (ms since the epoch). */
  | { readonly state: "waiting"; readonly retryAt: number; readonly code: number; readonly reason: string }
  /** For good. `error`: why; null: it was closed from here. */
  | { readonly state: "closed"; readonly error: SluiceError | null };

export type ConnectOptions = {
  /** Frames after this number, whenever they were; left out: from now on. */
  readonly after?: number;
  /** Bytes that the gateway may send ahead of the slowest consumer. */
  readonly window?: number;
  /** Each frame as it comes, once and in order. */
  readonly onEvent?: (frame: Received) => void;
  readonly onStatus?: (status: Status) => void;
  /** The conversation as it is at each (re)connecting. */
  readonly onReady?: (conversation: Conversation) => void;
  /** What the gateway refused without naming a message. */
  readonly onError?: (error: SluiceError) => void;
};

export type SocketParts = {
  readonly url: string;
  readonly apiKey: string;
  readonly socket: SocketClass;
  readonly clock: Clock;
  readonly random: () => number;
  readonly newId: () => string;
};

const WINDOW_BYTES = 256 * 1_024;
/** The gateway closes whoever sends more than 100 frames in 10 s; acknowledgements take half of that at most. */
const ACK_EVERY_MS = 200;
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
const ENDED = new Set(["completed", "failed", "cancelled", "interrupted"]);

export class ConversationSocket {
  readonly #parts: SocketParts;
  readonly #options: ConnectOptions;
  readonly #queues = new Set<FrameQueue>();
  /** Of turns that have ended, and whose frames were not all taken. */
  readonly #lingering = new Set<FrameQueue>();
  readonly #pending = new Map<string, PendingTurn>();
  #status: Status = { state: "connecting" };
  #line: Line | undefined;
  #retry: unknown;
  #attempt = 0;
  #openedAt: number | null = null;
  /** The last number that was handed on; null: the first `ready` says where to begin. */
  #after: number | null;
  /** The newest number as the last `ready` told it. */
  #target = 0;
  #conversation: Conversation | undefined;
  /** `resume` was sent, and its first frame is not here. */
  #resuming = false;
  #running: string | null = null;
  /** Turns that are to be cancelled, until they have ended. */
  readonly #cancelling = new Set<string>();
  #acked = 0;
  #ackedAt = Number.NEGATIVE_INFINITY;
  #ackTimer: unknown;

  constructor(parts: SocketParts, options: ConnectOptions = {}) {
    this.#parts = parts;
    this.#options = options;
    this.#after = options.after ?? null;
    this.#connect();
  }

  get status(): Status {
    return this.#status;
  }

  /** Number of the last frame that was handed on: what to give as `after` next time. */
  get seq(): number | null {
    return this.#after;
  }

  /** The turn that runs, as far as was seen. */
  get running(): string | null {
    return this.#running;
  }

  /**
   * Says something. It is said again, under the same id, until the gateway has confirmed it, so it arrives once whatever
   * the line does. `content` is null with `options.regenerate`.
   */
  send(content: Content | null, options?: SendOptions, id: string = this.#parts.newId()): SentTurn {
    const known = this.#pending.get(id);
    if (known) return known.turn;
    const turn = new SentTurn(id, (of) => this.#watch(of));
    if (this.#status.state === "closed") {
      turn.refused(this.#status.error ?? closedHere());
      return turn;
    }
    const frame = {
      type: "send",
      id,
      ...(content === null ? {} : { content }),
      ...(options ? { options } : {}),
    } as const;
    this.#pending.set(id, { turn, frame, confirmed: false, queues: new Set() });
    if (this.#status.state === "open") this.#tell(frame);
    return turn;
  }

  /** Stops the running turn, or the one that is named; again after a drop, until it has ended. */
  cancel(turn: string | null = this.#running): void {
    if (turn !== null) this.#cancelling.add(turn);
    if (this.#status.state === "open") this.#tell(turn === null ? { type: "cancel" } : { type: "cancel", turn });
  }

  /** Every frame from now on, until the socket is closed for good; an error then is thrown. */
  frames(): AsyncIterableIterator<Received> {
    const queue = this.#queue(this.#queues);
    if (this.#status.state === "closed") queue.finish(this.#status.error);
    return queue;
  }

  /** Does not wait for the next attempt. Does nothing where the line is open. */
  reconnectNow(): void {
    if (this.#status.state !== "waiting") return;
    this.#parts.clock.clearTimeout(this.#retry);
    this.#connect();
  }

  /**
   * The network came or went, or the machine has woken up: see at once whether the line still lives, and if there is none,
   * try. Whoever was told that it asks too much goes on waiting.
   */
  networkChanged(online: boolean): void {
    const limited = this.#status.state === "waiting" && this.#status.code === CLOSE.limited;
    if (online && !limited) this.reconnectNow();
    this.#line?.probe();
  }

  /** For good. Messages without an end are rejected. */
  close(): void {
    if (this.#status.state !== "closed") this.#finish(null);
  }

  #connect(): void {
    const { url, apiKey, socket, clock } = this.#parts;
    this.#become({ state: "connecting" });
    // Whoever was told may have closed it.
    if (this.#status.state === "closed") return;
    this.#line = new Line(socket, url, apiKey, clock, {
      opened: () => {},
      received: (text) => this.#receive(text),
      ended: (code, reason) => this.#dropped(code, reason),
    });
  }

  #dropped(code: number, reason: string): void {
    const { clock, random } = this.#parts;
    this.#line = undefined;
    const final = FINAL.get(code);
    if (final) {
      const [type, message] = final;
      this.#finish(new SluiceError(type, reason === "" ? message : reason, { status: code }));
      return;
    }
    if (this.#openedAt !== null && clock.now() - this.#openedAt >= STEADY_MS) this.#attempt = 0;
    this.#openedAt = null;
    const wait = waitMs(this.#attempt++, random, code === CLOSE.limited ? AFTER_A_LIMIT : AFTER_A_DROP);
    this.#retry = clock.setTimeout(() => this.#connect(), wait);
    this.#become({ state: "waiting", retryAt: clock.now() + wait, code, reason });
  }

  #finish(error: SluiceError | null): void {
    const { clock } = this.#parts;
    clock.clearTimeout(this.#retry);
    clock.clearTimeout(this.#ackTimer);
    this.#line?.close(1_000, "");
    this.#line = undefined;
    for (const pending of [...this.#pending.values()]) this.#refuse(pending, error ?? closedHere());
    for (const queue of this.#queues) queue.finish(error);
    this.#become({ state: "closed", error });
  }

  #become(status: Status): void {
    this.#status = status;
    this.#options.onStatus?.(status);
  }

  #tell(frame: ClientFrame): void {
    // One that is not taken is said again after the next `ready`, or is not needed then.
    this.#line?.send(JSON.stringify(frame));
  }

  #receive(text: string): void {
    const frame = parseFrame(text);
    if (frame === null) return;
    switch (frame.type) {
      case "ready":
        this.#ready(frame.conversation, frame.seq);
        return;
      case "sent":
        this.#confirmed(frame);
        return;
      case "error":
        this.#errorTold(frame);
        return;
      case "history":
        if (this.#after === null || frame.seq <= this.#after) return;
        this.#handOn(frame);
        this.#overtaken(frame);
        return;
      default:
        this.#logged(frame);
    }
  }

  #ready(conversation: Conversation, seq: number): void {
    this.#openedAt = this.#parts.clock.now();
    this.#conversation = conversation;
    this.#target = seq;
    this.#after ??= seq;
    this.#running = conversation.turn;
    if (this.#after > seq) {
      this.#finish(new SluiceError("invalid_request_error", `The conversation has no event ${this.#after}.`));
      return;
    }
    this.#tell({ type: "flow", window: this.#options.window ?? WINDOW_BYTES });
    this.#acked = this.#after;
    this.#resuming = this.#after < seq;
    if (this.#resuming) this.#tell({ type: "resume", after: this.#after });
    this.#become({ state: "open" });
    this.#options.onReady?.(conversation);
    for (const { confirmed, frame } of this.#pending.values()) if (!confirmed) this.#tell(frame);
    for (const turn of this.#cancelling) this.#tell({ type: "cancel", turn });
  }

  #logged(frame: LoggedFrame): void {
    if (this.#after === null || frame.seq <= this.#after) return;
    if (frame.seq > this.#after + 1) {
      // Live events may overtake the answer to a resume. Anything else that leaves a gap is asked for.
      if (!this.#resuming) this.#tell({ type: "resume", after: this.#after });
      this.#resuming = true;
      return;
    }
    this.#note(frame);
    this.#handOn(frame);
    if (frame.type === "turn.completed" || frame.type === "turn.failed") this.#turnEnded(frame);
  }

  /** What the socket itself learns from a frame, before anybody is told. */
  #note(frame: LoggedFrame): void {
    if (frame.type === "turn.queued" || frame.type === "turn.started") {
      const pending = frame.id === null ? undefined : this.#pending.get(frame.id);
      if (pending) this.#begun(pending, frame.turn);
    }
    if (frame.type === "turn.started") this.#running = frame.turn;
  }

  #handOn(frame: Received): void {
    this.#after = frame.seq;
    this.#resuming = false;
    for (const queue of this.#queues) queue.push(frame);
    if ("turn" in frame) {
      for (const { turn, queues } of this.#pending.values()) {
        if (turn.turn === frame.turn) for (const queue of queues) queue.push(frame);
      }
    }
    this.#options.onEvent?.(frame);
    this.#acknowledge();
  }

  #begun(pending: PendingTurn, turn: string): void {
    pending.confirmed = true;
    pending.turn.begun(turn);
  }

  #turnEnded(end: Extract<LoggedFrame, TurnEnd>): void {
    if (this.#running === end.turn) this.#running = null;
    this.#cancelling.delete(end.turn);
    for (const pending of this.#pending.values()) if (pending.turn.turn === end.turn) this.#settle(pending, end);
  }

  #confirmed(sent: Extract<ServerFrame, { type: "sent" }>): void {
    const pending = sent.ref === null ? undefined : this.#pending.get(sent.ref);
    if (!pending) return;
    pending.confirmed = true;
    if (sent.turn !== null) this.#begun(pending, sent.turn);
    // Its end lies before what this socket is told, or it waits for more tool results.
    const past = ENDED.has(sent.state) && (this.#after ?? 0) >= this.#target;
    if (past || sent.state === "awaiting_tool_results") this.#settle(pending, sent);
  }

  /** The end of a turn may lie among the events that a `history` stands for. */
  #overtaken(history: Extract<ServerFrame, { type: "history" }>): void {
    const now = this.#conversation;
    for (const pending of this.#pending.values()) {
      const { turn } = pending.turn;
      if (turn === null || turn === now?.turn || now?.queued.includes(turn)) continue;
      const answer = history.messages.find((message) => message.turn === turn && message.role === "assistant");
      const state = answer ? (answer.incomplete ? "interrupted" : "completed") : "failed";
      this.#settle(pending, { type: "sent", ref: pending.turn.id, turn, state, awaiting_tool_results: [] });
    }
  }

  #errorTold({ ref, error }: Extract<ServerFrame, { type: "error" }>): void {
    const told = new SluiceError(error.type, error.message, { retryAfterSeconds: error.retry_after_seconds ?? null });
    const pending = ref === null ? undefined : this.#pending.get(ref);
    if (pending) this.#refuse(pending, told);
    else this.#options.onError?.(told);
  }

  #settle(pending: PendingTurn, end: TurnEnd): void {
    this.#pending.delete(pending.turn.id);
    pending.turn.ended(end);
    for (const queue of pending.queues) queue.finish(null);
    this.#keepUntilTaken(pending.queues);
  }

  #refuse(pending: PendingTurn, error: SluiceError): void {
    this.#pending.delete(pending.turn.id);
    pending.turn.refused(error);
    for (const queue of pending.queues) queue.finish(error);
    this.#keepUntilTaken(pending.queues);
  }

  /** A consumer that is not through with a turn that ended holds back what comes next, as any other. */
  #keepUntilTaken(queues: Iterable<FrameQueue>): void {
    for (const queue of queues) if (queue.oldest !== null) this.#lingering.add(queue);
  }

  #watch(turn: SentTurn): FrameQueue {
    const pending = this.#pending.get(turn.id);
    if (pending?.turn === turn) return this.#queue(pending.queues);
    const over = new FrameQueue(
      () => {},
      () => {},
    );
    turn.done.then(
      () => over.finish(null),
      (error: SluiceError) => over.finish(error),
    );
    return over;
  }

  #queue(among: Set<FrameQueue>): FrameQueue {
    const queue: FrameQueue = new FrameQueue(
      () => this.#acknowledge(),
      () => {
        among.delete(queue);
        this.#lingering.delete(queue);
      },
    );
    among.add(queue);
    return queue;
  }

  /** The last number that every consumer has taken. */
  #taken(): number {
    let taken = this.#after ?? 0;
    const turns = [...this.#pending.values()].flatMap(({ queues }) => [...queues]);
    for (const queue of [...this.#queues, ...this.#lingering, ...turns]) {
      if (queue.oldest === null) this.#lingering.delete(queue);
      else taken = Math.min(taken, queue.oldest - 1);
    }
    return taken;
  }

  #acknowledge(): void {
    if (this.#ackTimer !== undefined || this.#status.state !== "open") return;
    const { clock } = this.#parts;
    const wait = Math.max(0, this.#ackedAt + ACK_EVERY_MS - clock.now());
    this.#ackTimer = clock.setTimeout(() => {
      this.#ackTimer = undefined;
      const taken = this.#taken();
      if (this.#status.state !== "open" || taken <= this.#acked) return;
      this.#acked = taken;
      this.#ackedAt = clock.now();
      this.#tell({ type: "ack", seq: taken });
    }, wait);
  }
}

function closedHere(): SluiceError {
  return new SluiceError("connection_error", "The socket was closed.");
}

/** Null: nothing that this client could use. Types that it does not know but that are numbered stand in the log. */
function parseFrame(text: string): ServerFrame | null {
  let frame: unknown;
  try {
    frame = JSON.parse(text);
  } catch {
    return null;
  }
  if (typeof frame !== "object" || frame === null || !("type" in frame) || typeof frame.type !== "string") return null;
  const numbered = "seq" in frame && typeof frame.seq === "number";
  // The gateway is trusted with the rest: its types are shared.
  return numbered || frame.type === "sent" || frame.type === "error" ? (frame as ServerFrame) : null;
}
