/**
 * Whose turn it is when slots are short: every message tells how long its isolate's requests have waited, so that a slot
 * is lent to the one that has waited longest, wherever that is. In memory alone: after a restart isolates tell it again
 * with their next question, a quarter of a second later at most.
 *
 * Accepted: a slot that is kept for an isolate which has died meanwhile, or whose requests have left, is free for others
 * when nothing has been heard of it for a second. And what an isolate has been lent while nobody waited it may use up,
 * for as long as its lease lasts, before those who wait elsewhere.
 */

/** Isolates with requests that wait ask four times a second. */
const KNOWN_MS = 1_000;

export class Turns {
  /** By isolate: since when its requests wait, the longest first; and when that was heard. */
  readonly #waiting = new Map<string, { since: readonly number[]; readonly heardAt: number }>();

  /** What an isolate's latest message tells, ms. */
  heard(isolate: string, ages: readonly number[], now: number): void {
    if (ages.length === 0) this.#waiting.delete(isolate);
    else this.#waiting.set(isolate, { since: ages.map((age) => now - age), heardAt: now });
  }

  /** How many of the slots that an isolate wants it may have of those that are free. */
  share(isolate: string, wanted: number, free: number, now: number): number {
    if (this.#waiting.size === 0) return Math.min(wanted, free);
    const own = this.#waiting.get(isolate)?.since ?? [];
    const others = this.#others(isolate, now);
    let share = 0;
    while (share < wanted && longer(others, own[share] ?? now) + share < free) share++;
    return share;
  }

  /** The isolate was lent slots: so many of its requests wait no more. */
  served(isolate: string, slots: number): void {
    const known = this.#waiting.get(isolate);
    if (!known || slots === 0) return;
    known.since = known.since.slice(slots);
    if (known.since.length === 0) this.#waiting.delete(isolate);
  }

  /** Requests of other isolates that wait, and those of them that have waited longer than any of this one's. */
  elsewhere(isolate: string, now: number): { readonly all: number; readonly before: number } {
    if (this.#waiting.size === 0) return { all: 0, before: 0 };
    const others = this.#others(isolate, now);
    return { all: others.length, before: longer(others, this.#waiting.get(isolate)?.since[0] ?? now) };
  }

  #others(isolate: string, now: number): number[] {
    const others: number[] = [];
    for (const [name, { since, heardAt }] of this.#waiting) {
      // Heard in the future: the clock has stepped back.
      if (Math.abs(now - heardAt) > KNOWN_MS) this.#waiting.delete(name);
      else if (name !== isolate) others.push(...since);
    }
    return others;
  }
}

const longer = (others: readonly number[], since: number): number => {
  let count = 0;
  for (const other of others) if (other < since) count++;
  return count;
};
