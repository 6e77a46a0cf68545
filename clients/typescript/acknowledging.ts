/** Acknowledges what every consumer has taken: the gateway sends no more than a window beyond that. */
import type { Clock } from "./line.ts";
import { FrameQueue } from "./queue.ts";

/** The gateway closes whoever sends more than 100 frames in 10 s; acknowledgements take half of that at most. */
const ACK_EVERY_MS = 200;

export class Acknowledging {
  readonly #clock: Clock;
  /** Number of the last frame that was handed on; null: nobody can be told of any at present. */
  readonly #last: () => number | null;
  readonly #tell: (seq: number) => void;
  /** Those too whose frames have ended, until all of them are taken. */
  readonly #queues = new Set<FrameQueue>();
  #acked = 0;
  #ackedAt = Number.NEGATIVE_INFINITY;
  #timer: unknown;

  constructor(clock: Clock, last: () => number | null, tell: (seq: number) => void) {
    this.#clock = clock;
    this.#last = last;
    this.#tell = tell;
  }

  /** A new line begins behind this number. */
  begin(seq: number): void {
    this.#acked = seq;
  }

  /** A consumer, who stands among these for as long as he wants frames. */
  queue(among: Set<FrameQueue>): FrameQueue {
    const queue: FrameQueue = new FrameQueue(
      () => this.due(),
      () => {
        among.delete(queue);
        this.#queues.delete(queue);
      },
    );
    among.add(queue);
    this.#queues.add(queue);
    return queue;
  }

  /** Something was handed on or taken. */
  due(): void {
    if (this.#timer !== undefined || this.#last() === null) return;
    const wait = Math.max(0, this.#ackedAt + ACK_EVERY_MS - this.#clock.now());
    this.#timer = this.#clock.setTimeout(() => {
      this.#timer = undefined;
      const last = this.#last();
      const taken = last === null ? 0 : this.#taken(last);
      if (taken <= this.#acked) return;
      this.#acked = taken;
      this.#ackedAt = this.#clock.now();
      this.#tell(taken);
    }, wait);
  }

  stop(): void {
    this.#clock.clearTimeout(this.#timer);
  }

  #taken(last: number): number {
    let taken = last;
    for (const queue of this.#queues) {
      if (queue.oldest !== null) taken = Math.min(taken, queue.oldest - 1);
      else if (queue.isOver) this.#queues.delete(queue);
    }
    return taken;
  }
}
