/** Frames on their way to one consumer. What it has not taken yet holds back the acknowledgement, and so the gateway. */
import type { LoggedFrame, ServerFrame } from "./protocol.ts";

/** What a consumer gets: the log's frames, and `history` in place of those that are kept no more. */
export type Received = LoggedFrame | Extract<ServerFrame, { type: "history" }>;

export class FrameQueue implements AsyncIterableIterator<Received> {
  readonly #frames: Received[] = [];
  readonly #taken: () => void;
  readonly #detach: () => void;
  #waiting: { resolve(result: IteratorResult<Received>): void; reject(error: unknown): void } | undefined;
  #end: { readonly error: Error | null } | undefined;

  /** `taken` is called after each frame that the consumer took, `detach` when it wants no more. */
  constructor(taken: () => void, detach: () => void) {
    this.#taken = taken;
    this.#detach = detach;
  }

  /** Number of the oldest frame that was not taken; null: all were. */
  get oldest(): number | null {
    return this.#frames[0]?.seq ?? null;
  }

  /** No more will come. */
  get isOver(): boolean {
    return this.#end !== undefined;
  }

  push(frame: Received): void {
    if (this.#end) return;
    if (!this.#waiting) {
      this.#frames.push(frame);
      return;
    }
    const { resolve } = this.#waiting;
    this.#waiting = undefined;
    resolve({ value: frame, done: false });
  }

  /** No more will come. What is here can still be taken; then the iteration ends, or throws `error`. */
  finish(error: Error | null): void {
    if (this.#end) return;
    this.#end = { error };
    const waiting = this.#waiting;
    this.#waiting = undefined;
    if (!waiting) return;
    if (error) waiting.reject(error);
    else waiting.resolve({ value: undefined, done: true });
  }

  next(): Promise<IteratorResult<Received>> {
    const frame = this.#frames.shift();
    if (frame) {
      this.#taken();
      return Promise.resolve({ value: frame, done: false });
    }
    if (this.#end?.error) return Promise.reject(this.#end.error);
    if (this.#end) return Promise.resolve({ value: undefined, done: true });
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
    });
  }

  return(): Promise<IteratorResult<Received>> {
    this.#frames.length = 0;
    this.finish(null);
    this.#detach();
    this.#taken();
    return Promise.resolve({ value: undefined, done: true });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}
