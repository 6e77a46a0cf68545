/** Clocks that tests turn. */
import type { Clock } from "../../../src/identity/jwt/clock.ts";

/** Sleeping takes no time, and moves the clock: for one thing at a time. */
export class LoneClock implements Clock {
  at: number;
  constructor(at: number) {
    this.at = at;
  }
  now(): number {
    return this.at;
  }
  async sleep(ms: number): Promise<void> {
    this.at += ms;
  }
}

/** A moment that lasts until the test sets another: nothing is ever late. */
export class StillClock extends LoneClock {
  override async sleep(_: number, signal?: AbortSignal): Promise<void> {
    await new Promise<void>((resolve) => signal?.addEventListener("abort", () => resolve(), { once: true }));
  }
}
