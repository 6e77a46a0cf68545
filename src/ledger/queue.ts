/**
 * The line of requests that wait, in this isolate, for a slot of one account. First come, first served: the first one
 * alone tries, the others only look from time to time whether it is their turn, the further back the less often. Nobody
 * waits for another request's promise; one that has vanished is passed over when it has not looked for a while.
 */
import type { Amounts } from "./amounts.ts";

/**
 * Requests that wait for one account in one isolate; the next one is refused. Each holds its body: so many of a usual
 * quarter of a megabyte take a quarter of an isolate's 128 MB.
 */
export const MAX_WAITING = 128;
/** How long the first one sleeps between two looks; each that is further back so much longer, up to a bound. */
const LOOK_MS = 10;
const MAX_LOOK_MS = 500;
/** Nobody sleeps this long: such a request was cancelled. One that was only held up goes back to its place. */
const VANISHED_MS = 2_000;
/** How long the first one leaves the ledger alone after an answer in vain, and how much longer after each further one. */
const ASK_AGAIN_MS = 100;
const MAX_ASK_AGAIN_MS = 250;
/** How much the last gap between two that were served counts in their mean. */
const PACE_WEIGHT = 0.2;
const LEAST_RETRY_MS = 1_000;
const MOST_RETRY_MS = 60_000;

/** A request's place, whichever line it stands in. */
export type Ticket = {
  /** Grows with each request of the isolate. */
  readonly number: number;
  /** When it came, by the isolate's clock. */
  readonly since: number;
  /** What it needs of the account it waits for. */
  need: Amounts;
  /** The accounts that have counted it as demand. */
  readonly countedBy: unknown[];
  /** It is trying at this moment, so whoever asks the ledger asks for it already. */
  tries: boolean;
  seenAt: number;
};

export class Line {
  /** In the order in which they came. */
  #tickets: Ticket[] = [];
  #inVain = 0;
  #askAt = 0;
  /** Mean time between two that were served, and when the last one was; 0: not known. */
  #paceMs = 0;
  #servedAt = 0;

  get length(): number {
    return this.#tickets.length;
  }

  /** Takes its place by when it came, not by when it gets here. False: there is no room. */
  enter(ticket: Ticket, now: number): boolean {
    if (this.#tickets.length >= MAX_WAITING) this.#tickets = this.#tickets.filter((other) => isThere(other, now));
    if (this.#tickets.length >= MAX_WAITING) return false;
    ticket.seenAt = now;
    const behind = this.#tickets.findIndex(({ number }) => number > ticket.number);
    this.#tickets.splice(behind === -1 ? this.#tickets.length : behind, 0, ticket);
    return true;
  }

  leave(ticket: Ticket): void {
    const at = this.#tickets.indexOf(ticket);
    if (at !== -1) this.#tickets.splice(at, 1);
    if (this.#tickets.length === 0) this.#servedAt = 0;
  }

  /** How many are before it; it shows by asking that it is there. Infinite: it was passed over, and there is no room. */
  before(ticket: Ticket, now: number): number {
    ticket.seenAt = now;
    this.#passOver(now);
    const before = this.#tickets.indexOf(ticket);
    if (before !== -1) return before;
    return this.enter(ticket, now) ? this.#tickets.indexOf(ticket) : Number.POSITIVE_INFINITY;
  }

  /** Whether somebody waits who came earlier. */
  bars(ticket: Ticket, now: number): boolean {
    if (this.#tickets.length === 0) return false;
    this.#passOver(now);
    const [first] = this.#tickets;
    return first !== undefined && first.number < ticket.number;
  }

  /** How long to sleep with so many before one. */
  static pause(before: number): number {
    return Math.min(MAX_LOOK_MS, LOOK_MS * (before + 1));
  }

  /** Whether the first one may ask the ledger again. */
  mayAsk(now: number): boolean {
    return now >= this.#askAt;
  }

  triedInVain(now: number): void {
    this.#inVain++;
    this.#askAt = now + Math.min(MAX_ASK_AGAIN_MS, ASK_AGAIN_MS * this.#inVain);
  }

  /** One of the line got what it waited for. */
  served(now: number): void {
    this.#inVain = 0;
    this.#askAt = 0;
    if (this.#servedAt > 0) {
      // A clock that leaps ahead must not make for long waits long after.
      const gap = Math.min(MOST_RETRY_MS, Math.max(0, now - this.#servedAt));
      this.#paceMs = this.#paceMs === 0 ? gap : this.#paceMs + PACE_WEIGHT * (gap - this.#paceMs);
    }
    this.#servedAt = now;
  }

  /** When it may be worth another try: when as many have been served as wait now. */
  get retryAfterMs(): number {
    return Math.min(MOST_RETRY_MS, Math.max(LEAST_RETRY_MS, this.#paceMs * (this.#tickets.length + 1)));
  }

  /** How long the first ones have waited, ms. */
  ages(most: number, now: number): readonly number[] {
    return this.#tickets.slice(0, most).map(({ since }) => Math.max(0, now - since));
  }

  /** What the next ones need that do not ask for themselves. */
  needs(most: number): readonly Amounts[] {
    const needs: Amounts[] = [];
    for (const { tries, need } of this.#tickets) {
      if (needs.length >= most) break;
      if (!tries) needs.push(need);
    }
    return needs;
  }

  #passOver(now: number): void {
    for (let [first] = this.#tickets; first && !isThere(first, now); [first] = this.#tickets) this.#tickets.shift();
  }
}

const isThere = ({ seenAt }: Ticket, now: number): boolean => now - seenAt <= VANISHED_MS;
