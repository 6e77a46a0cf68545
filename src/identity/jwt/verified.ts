/**
 * Tokens that this isolate has verified a moment ago, so that a session's next call does not pay for a signature again: a
 * hit costs 10 µs in the Workers runtime, where parsing and verifying cost 100 µs (ES256) or 39 µs (RS256).
 *
 * A token is found by SHA-256 over the whole of it: its issuer, its key and its signature are parts of that, so a token of
 * somebody else's never finds this one's entry, however alike they begin, and neither does a forged twin. Whatever can be
 * withdrawn while a token lives (its issuer's configuration, its subject) is for the caller to look at with every hit.
 */
import { Recent } from "../../recent.ts";
import { LEEWAY_SECONDS } from "./verify.ts";

/** Tokens held, and characters of them together: what is remembered of a token is as long as the token at the very most. */
const MAX_TOKENS = 5_000;
const MAX_CHARS = 8 * 1024 * 1024;
/** So long at the most is a token believed without another look at its key: as long as a foreign key set is fresh. */
export const MAX_HELD_MS = 5 * 60_000;

type Entry<T> = { readonly value: T; readonly until: number };

const encoder = new TextEncoder();

export class VerifiedTokens<T> {
  readonly #entries: Recent<Entry<T>>;

  constructor(maxTokens = MAX_TOKENS, maxChars = MAX_CHARS) {
    this.#entries = new Recent(maxTokens, maxChars);
  }

  /** What was remembered of this very token, if it has not ended. `name` is what `remember` wants to hear. */
  async find(token: string, now: number): Promise<{ readonly name: string; readonly value: T | null }> {
    const digest = await crypto.subtle.digest("SHA-256", encoder.encode(token));
    const name = String.fromCharCode(...new Uint8Array(digest));
    const entry = this.#entries.get(name);
    if (!entry) return { name, value: null };
    if (now < entry.until) return { name, value: entry.value };
    this.#entries.delete(name);
    return { name, value: null };
  }

  /** `name`: of `find`, before. `expiresAt`: the token's own, seconds. `chars`: how long the token is. */
  remember(name: string, value: T, expiresAt: number, chars: number, now: number): void {
    const until = Math.min((expiresAt + LEEWAY_SECONDS) * 1_000, now + MAX_HELD_MS);
    this.#entries.set(name, { value, until }, chars);
  }

  get size(): number {
    return this.#entries.size;
  }
}
