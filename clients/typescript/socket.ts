/**
 * A conversation over one WebSocket after another: every frame of its log once and in order, however often the line
 * drops. A number that was seen is never shown again, one that would leave a gap is never shown before it is filled: the
 * gateway is asked for what comes after the last number instead.
 *
 * Every consumer (`frames`, a turn's frames) has a queue of its own; acknowledged is only what all of them have taken, and
 * the gateway sends at most `window` bytes beyond that. So a slow consumer costs `window` bytes and nobody else's time.
 */
import { Acknowledging } from "./acknowledging.ts";
import { Connection, type ConnectionParts, type Status } from "./connection.ts";
import { SluiceError } from "./errors.ts";
import type { Content, Conversation, LoggedFrame, SendOptions, ServerFrame } from "./protocol.ts";
import { FrameQueue, type Received } from "./queue.ts";
import { type PendingTurn, SentTurn, type TurnEnd } from "./sent-turn.ts";

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

export type SocketParts = ConnectionParts & { readonly newId: () => string };

const WINDOW_BYTES = 256 * 1_024;
const ENDED = new Set(["completed", "failed", "cancelled", "interrupted"]);

export class ConversationSocket {
  readonly #newId: () => string;
  readonly #options: ConnectOptions;
  readonly #connection: Connection;
  readonly #acks: Acknowledging;
  /** Of those who take every frame. */
  readonly #queues = new Set<FrameQueue>();
  readonly #pending = new Map<string, PendingTurn>();
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

  constructor({ newId, ...parts }: SocketParts, options: ConnectOptions = {}) {
    this.#newId = newId;
    this.#options = options;
    this.#after = options.after ?? null;
    this.#connection = new Connection(parts, {
      became: (status) => options.onStatus?.(status),
      received: (text) => this.#receive(text),
      closing: (error) => this.#closing(error),
    });
    this.#acks = new Acknowledging(
      parts.clock,
      () => (this.status.state === "open" ? this.#after : null),
      (seq) => this.#connection.tell({ type: "ack", seq }),
    );
    this.#connection.connect();
  }

  get status(): Status {
    return this.#connection.status;
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
  send(content: Content | null, options?: SendOptions, id: string = this.#newId()): SentTurn {
    const known = this.#pending.get(id);
    if (known) return known.turn;
    const turn = new SentTurn(id, (of) => this.#watch(of));
    const { status } = this;
    if (status.state === "closed") {
      turn.refused(status.error ?? closedHere());
      return turn;
    }
    const frame = {
      type: "send",
      id,
      ...(content === null ? {} : { content }),
      ...(options ? { options } : {}),
    } as const;
    this.#pending.set(id, { turn, frame, confirmed: false, queues: new Set() });
    if (status.state === "open") this.#connection.tell(frame);
    return turn;
  }

  /** Stops the running turn, or the one that is named; again after a drop, until it has ended. */
  cancel(turn: string | null = this.#running): void {
    if (turn !== null) this.#cancelling.add(turn);
    if (this.status.state !== "open") return;
    this.#connection.tell(turn === null ? { type: "cancel" } : { type: "cancel", turn });
  }

  /** Every frame from now on, until the socket is closed for good; an error then is thrown. */
  frames(): AsyncIterableIterator<Received> {
    const queue = this.#acks.queue(this.#queues);
    const { status } = this;
    if (status.state === "closed") queue.finish(status.error);
    return queue;
  }

  /** Does not wait for the next attempt. Does nothing where the line is open. */
  reconnectNow(): void {
    this.#connection.reconnectNow();
  }

  /**
   * The network came or went, or the machine has woken up: see at once whether the line still lives, and if there is none,
   * try. Whoever was told that it asks too much goes on waiting.
   */
  networkChanged(online: boolean): void {
    this.#connection.networkChanged(online);
  }

  /** For good. Messages without an end are rejected. */
  close(): void {
    if (this.status.state !== "closed") this.#connection.finish(null);
  }

  #closing(error: SluiceError | null): void {
    this.#acks.stop();
    for (const pending of [...this.#pending.values()]) this.#refuse(pending, error ?? closedHere());
    for (const queue of this.#queues) queue.finish(error);
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
    this.#conversation = conversation;
    this.#target = seq;
    this.#after ??= seq;
    this.#running = conversation.turn;
    if (this.#after > seq) {
      this.#connection.finish(
        new SluiceError("invalid_request_error", `The conversation has no event ${this.#after}.`),
      );
      return;
    }
    this.#connection.tell({ type: "flow", window: this.#options.window ?? WINDOW_BYTES });
    this.#acks.begin(this.#after);
    this.#resuming = this.#after < seq;
    if (this.#resuming) this.#connection.tell({ type: "resume", after: this.#after });
    this.#connection.opened();
    this.#options.onReady?.(conversation);
    for (const { confirmed, frame } of this.#pending.values()) if (!confirmed) this.#connection.tell(frame);
    for (const turn of this.#cancelling) this.#connection.tell({ type: "cancel", turn });
  }

  #logged(frame: LoggedFrame): void {
    if (this.#after === null || frame.seq <= this.#after) return;
    if (frame.seq > this.#after + 1) {
      // Live events may overtake the answer to a resume. Anything else that leaves a gap is asked for.
      if (!this.#resuming) this.#connection.tell({ type: "resume", after: this.#after });
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
    this.#acks.due();
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
    // The line is closed next, and what was refused is said again with another key.
    if (error.type === "authentication_error" && this.#connection.isRenewable) return;
    const told = new SluiceError(error.type, error.message, { retryAfterSeconds: error.retry_after_seconds ?? null });
    const pending = ref === null ? undefined : this.#pending.get(ref);
    if (pending) this.#refuse(pending, told);
    else this.#options.onError?.(told);
  }

  #settle(pending: PendingTurn, end: TurnEnd): void {
    this.#pending.delete(pending.turn.id);
    pending.turn.ended(end);
    for (const queue of pending.queues) queue.finish(null);
  }

  #refuse(pending: PendingTurn, error: SluiceError): void {
    this.#pending.delete(pending.turn.id);
    pending.turn.refused(error);
    for (const queue of pending.queues) queue.finish(error);
  }

  #watch(turn: SentTurn): FrameQueue {
    const pending = this.#pending.get(turn.id);
    if (pending?.turn === turn) return this.#acks.queue(pending.queues);
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
