/**
 * A viewer over SSE: everything after a number, live to the end of a turn. It is read from the log when its client takes
 * it, so one that takes nothing costs nothing but its place.
 */

import type { Failure } from "../wire/errors.ts";
import { errorSse, historySse, sseText } from "./frames.ts";
import type { EventLog, Numbered } from "./log.ts";
import type { Sender } from "./protocol.ts";
import type { Commands } from "./viewers.ts";

/** After so much silence a comment is sent: proxies drop a connection that is silent, and a client that has left shows. */
export const KEEP_ALIVE_MS = 15_000;
/** How much of the log is handed over at once. */
const PIECE_BYTES = 64 * 1024;

const encoder = new TextEncoder();
const KEEP_ALIVE = encoder.encode(": keep-alive\n\n");

export class SseViewer {
  readonly sender: Sender;
  readonly #log: Pick<EventLog, "lastSeq" | "floor" | "read">;
  readonly #commands: Pick<Commands, "view" | "historyMessages">;
  readonly #left: (viewer: SseViewer) => void;
  readonly #keepAliveMs: number;
  #sent: number;
  /** Its end is the stream's. */
  readonly #turn: string | null;
  /** It has not ended: there is something to wait for behind the newest number. */
  #live: boolean;
  /** Said when what is there has been told, in place of more. */
  #lastWords: string | null = null;
  #state: "open" | "ending" | "over" = "open";
  #wake: ((added: readonly Numbered[] | null) => void) | null = null;

  /** `turn` null: the running one. `left` is told once that it needs no place any more. */
  constructor(
    from: { readonly after: number; readonly turn: string | null; readonly sender: Sender },
    log: Pick<EventLog, "lastSeq" | "floor" | "read">,
    commands: Pick<Commands, "view" | "historyMessages">,
    left: (viewer: SseViewer) => void,
    keepAliveMs = KEEP_ALIVE_MS,
  ) {
    this.sender = from.sender;
    this.#sent = from.after;
    this.#log = log;
    this.#commands = commands;
    this.#left = left;
    this.#keepAliveMs = keepAliveMs;
    const { turn, queued } = commands.view();
    this.#turn = from.turn ?? turn ?? queued[0] ?? null;
    this.#live = this.#isOpen();
  }

  stream(): ReadableStream<Uint8Array> {
    const pull = (controller: ReadableByteStreamController): Promise<void> =>
      this.#pull(controller).catch((bug: unknown) => {
        // What can't be read on is broken off, and nobody looks any more.
        this.leave();
        throw bug;
      });
    return new ReadableStream({ type: "bytes", pull, cancel: () => this.leave() }, { highWaterMark: 0 });
  }

  /** The log has grown. */
  publish(added: readonly Numbered[]): void {
    this.#wakeUp(added);
  }

  /** Ends it before its time, and says why. */
  end(why: Failure): void {
    if (this.#state !== "open") return;
    this.#state = "ending";
    this.#lastWords = errorSse(why);
    this.#wakeUp(null);
  }

  /** Its client has left, or has everything. May be called twice. */
  leave(): void {
    if (this.#state === "over") return;
    this.#state = "over";
    this.#wakeUp(null);
    this.#left(this);
  }

  async #pull(controller: ReadableByteStreamController): Promise<void> {
    let text = this.#next();
    if (text === null && this.#state === "open" && this.#live) {
      const added = await this.#wait();
      if (added === "silence") {
        controller.enqueue(KEEP_ALIVE);
        return;
      }
      text = this.#next(added);
    }
    // It was cancelled meanwhile; there is nobody to tell.
    if (this.#state === "over") return;
    if (text !== null) controller.enqueue(encoder.encode(text));
    if (this.#state === "open" && (this.#live || this.#sent < this.#log.lastSeq)) {
      // Pulled again when this has been taken; nothing yet is a pull that goes on.
      if (text === null) await this.#pull(controller);
      return;
    }
    if (this.#lastWords !== null) controller.enqueue(encoder.encode(this.#lastWords));
    this.leave();
    controller.close();
    controller.byobRequest?.respond(0);
  }

  /** What comes next; null: nothing yet, or ever. `added`: what the log has just grown by. */
  #next(added: readonly Numbered[] | null = null): string | null {
    const { lastSeq, floor } = this.#log;
    if (this.#state !== "open" || this.#sent >= lastSeq) return null;
    if (this.#sent < floor) {
      this.#sent = floor;
      this.#live = this.#isOpen();
      return historySse(floor, this.#commands.historyMessages());
    }
    const entries = added?.[0]?.seq === this.#sent + 1 ? added : this.#log.read(this.#sent, PIECE_BYTES);
    let text = "";
    for (const entry of entries) {
      text += sseText(entry);
      this.#sent = entry.seq;
      if (this.#isEnd(entry)) {
        this.#state = "ending";
        break;
      }
    }
    return text;
  }

  #isEnd({ kind, turn }: Numbered): boolean {
    return turn === this.#turn && (kind === "turn.completed" || kind === "turn.failed");
  }

  #isOpen(): boolean {
    const { turn, queued } = this.#commands.view();
    return this.#turn !== null && (this.#turn === turn || queued.includes(this.#turn));
  }

  /** Until the log grows (or what it waits for is over), or for as long as a silence may last. */
  #wait(): Promise<readonly Numbered[] | null | "silence"> {
    return new Promise((resolve) => {
      const timer = setTimeout(() => done("silence"), this.#keepAliveMs);
      const done = (what: readonly Numbered[] | null | "silence"): void => {
        clearTimeout(timer);
        this.#wake = null;
        resolve(what);
      };
      this.#wake = done;
    });
  }

  #wakeUp(added: readonly Numbered[] | null): void {
    this.#wake?.(added);
  }
}
