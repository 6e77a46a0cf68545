/** One message that was sent, and the turn it began. */
import type { SluiceError } from "./errors.ts";
import type { ClientFrame, ServerFrame } from "./protocol.ts";
import type { FrameQueue, Received } from "./queue.ts";

/** `sent`: the end was not seen (it lies before what this socket was told), or tool results are still awaited. */
export type TurnEnd = Extract<ServerFrame, { type: "turn.completed" | "turn.failed" | "sent" }>;

export class SentTurn {
  /** The client's own id: a message that comes again under it is recognised. */
  readonly id: string;
  /**
   * Resolves with the turn's end, whether it completed, failed or was cancelled. Rejects with a `SluiceError` when the
   * message was refused, or when the socket was closed for good before the end.
   */
  readonly done: Promise<TurnEnd>;
  readonly #watch: (turn: SentTurn) => FrameQueue;
  #turn: string | null = null;
  #resolve: (end: TurnEnd) => void = () => {};
  #reject: (error: SluiceError) => void = () => {};

  constructor(id: string, watch: (turn: SentTurn) => FrameQueue) {
    this.id = id;
    this.#watch = watch;
    this.done = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    // Whoever only iterates does not look at `done`, and is told by the iteration.
    this.done.catch(() => {});
  }

  /** The turn's id, once the gateway has told it. */
  get turn(): string | null {
    return this.#turn;
  }

  /** All frames of the turn from now on, to its end. Ask at once after `send` to get every one. */
  frames(): AsyncIterableIterator<Received> {
    return this.#watch(this);
  }

  /** The text of the answer, piece by piece. Ask at once after `send` to get all of it. */
  text(): AsyncGenerator<string, void, undefined> {
    return textsOf(this.frames());
  }

  /** For the socket: the gateway has told which turn it is. */
  begun(turn: string): void {
    this.#turn = turn;
  }

  /** For the socket. */
  ended(end: TurnEnd): void {
    this.#resolve(end);
  }

  /** For the socket. */
  refused(error: SluiceError): void {
    this.#reject(error);
  }
}

async function* textsOf(frames: AsyncIterable<Received>): AsyncGenerator<string, void, undefined> {
  for await (const frame of frames) {
    const piece = textOf(frame);
    if (piece !== "") yield piece;
  }
}

/** A message that has no end yet, with what is needed to say it again. */
export type PendingTurn = {
  readonly turn: SentTurn;
  readonly frame: Extract<ClientFrame, { type: "send" }>;
  /** The gateway has it: it is not said again. */
  confirmed: boolean;
  readonly queues: Set<FrameQueue>;
};

/** The piece of an answer's text that a frame brings, or "". */
export function textOf(frame: Received): string {
  if (frame.type !== "event" || frame.event.type !== "content_block_delta") return "";
  const { delta } = frame.event;
  if (typeof delta !== "object" || delta === null || !("type" in delta) || delta.type !== "text_delta") return "";
  return "text" in delta && typeof delta.text === "string" ? delta.text : "";
}
