/** What a client shows the gateway: a key, or a token that a function gets anew wherever one is needed. */
import { SluiceError } from "./errors.ts";
import type { Clock } from "./line.ts";

/**
 * A key, or a function that gives one or a token, called for each request and each time a socket connects. A request fails
 * where it does; a socket asks again, as after a drop.
 */
export type KeySource = string | (() => string | Promise<string>);

export const NO_KEY = "There was no key to be had.";
/** What a subprotocol may be made of (RFC 6455 §4.1: a token of RFC 9110 §5.6.2). */
const TOKEN = /^[\w!#$%&'*+.^`|~-]+$/;
/** How long a socket waits for a key, ms. */
const WITHIN_MS = 15_000;

/** Why no header and no subprotocol could carry it; null: they could. */
export function unusable(key: unknown): SluiceError | null {
  if (typeof key === "string" && TOKEN.test(key)) return null;
  return new SluiceError("authentication_error", "The key has characters that no key has.");
}

/** Tells the key, once; null: none was to be had in time. A text is told before this returns. Returns how to stop. */
export function askFor(source: KeySource, clock: Clock, tell: (key: string | null) => void): () => void {
  if (typeof source === "string") {
    tell(source);
    return () => {};
  }
  let over = false;
  const stop = (): void => {
    over = true;
    clock.clearTimeout(late);
  };
  const take = (key: string | null): void => {
    if (over) return;
    stop();
    tell(key);
  };
  const late = clock.setTimeout(() => take(null), WITHIN_MS);
  new Promise<string>((done) => done(source())).then(take, () => take(null));
  return stop;
}
