/**
 * All that a running call waits for, with one timer of the runtime: one that is set and taken back for nothing costs a
 * short call more than most of what is decided about it (docs/adr/0005-stream-path.md).
 */
import type { Clock } from "./ledger/lease-book.ts";

export class CallTimer {
  readonly #clock: Clock;
  readonly #everyMs: number;
  readonly #tick: () => void;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #armedMs = 0;
  #armedAt = 0;
  /** Counted from when the timer was set last. */
  #limitMs = Number.POSITIVE_INFINITY;
  #late: () => void = () => {};

  /** Calls `tick` about every `everyMs`, until `stop`. */
  constructor(clock: Clock, everyMs: number, tick: () => void) {
    this.#clock = clock;
    this.#everyMs = everyMs;
    this.#tick = tick;
    this.#arm();
  }

  /** Calls `late` in `ms`, unless `inTime` is called before. There is one limit at a time. */
  limit(ms: number, late: () => void): void {
    // A clock that steps moves the limit by no more than the timer's own length.
    const passed = Math.max(0, Math.min(this.#armedMs, this.#clock.now() - this.#armedAt));
    this.#late = late;
    this.#limitMs = ms + passed;
    if (this.#limitMs < this.#armedMs) {
      this.#limitMs = ms;
      this.stop();
      this.#arm();
    }
  }

  inTime(): void {
    this.#limitMs = Number.POSITIVE_INFINITY;
  }

  stop(): void {
    if (this.#timer !== undefined) clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #arm(): void {
    this.#armedMs = Math.min(this.#everyMs, this.#limitMs);
    this.#armedAt = this.#clock.now();
    this.#timer = setTimeout(() => {
      this.#limitMs -= this.#armedMs;
      const isLate = this.#limitMs <= 0;
      if (isLate) this.inTime();
      this.#arm();
      if (isLate) this.#late();
      else this.#tick();
    }, this.#armedMs);
  }
}
