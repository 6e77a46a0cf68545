/** A clock that many wait by, for tests in Node. */
import type { Clock } from "../../../src/identity/jwt/clock.ts";

/** Time passes only in `advance`: for many that wait together. */
export class SharedClock implements Clock {
  at: number;
  #sleepers: { readonly due: number; readonly wake: () => void }[] = [];
  constructor(at: number) {
    this.at = at;
  }
  now(): number {
    return this.at;
  }
  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#sleepers.push({ due: this.at + ms, wake: resolve });
    signal?.addEventListener("abort", () => resolve(), { once: true });
    return promise;
  }
  /** Lets `ms` pass, a moment after the other; what follows from each is done before the next. */
  async advance(ms: number): Promise<void> {
    const end = this.at + ms;
    await settle();
    for (;;) {
      const due = Math.min(...this.#sleepers.map((one) => one.due));
      if (due > end) break;
      this.at = Math.max(this.at, due);
      const awake = this.#sleepers.filter((one) => one.due <= this.at);
      this.#sleepers = this.#sleepers.filter((one) => one.due > this.at);
      for (const { wake } of awake) wake();
      await settle();
    }
    this.at = end;
  }
}

/** Cryptography is done beside this thread: how much of it is under way. */
let underWay = 0;
const { subtle } = crypto;
for (const name of [
  "digest",
  "sign",
  "verify",
  "encrypt",
  "decrypt",
  "importKey",
  "exportKey",
  "generateKey",
] as const) {
  const own = subtle[name] as (...given: unknown[]) => Promise<unknown>;
  const counted = (...given: unknown[]): Promise<unknown> => {
    underWay++;
    return own.apply(subtle, given).finally(() => underWay--);
  };
  Object.defineProperty(subtle, name, { value: counted });
}
/** So many turns of the loop without any: nothing more follows from what has been done. */
const QUIET_TURNS = 10;

/** Work that is not waiting for the clock: hashes, signatures, microtasks. */
export async function settle(): Promise<void> {
  for (let quiet = 0; quiet < QUIET_TURNS; quiet++) {
    await new Promise((resolve) => setImmediate(resolve));
    if (underWay > 0) quiet = 0;
  }
}
