/**
 * A request's way through the lines of its accounts (queue.ts). Where a slot alone is missing it waits for one, as long as
 * its patience lasts, and holds nothing of any account meanwhile. It waits at one account at a time; its place there is by
 * when it came, so one that has waited for its key's slot is not last at its workspace.
 */
import type { Failure } from "../wire/errors.ts";
import { type Amounts, NOTHING } from "./amounts.ts";
import type { Borrower } from "./borrower.ts";
import type { Clock, Patience } from "./lease-book.ts";
import { Line, type Ticket } from "./queue.ts";

export type Denied = { readonly kind: "denied"; readonly failure: Failure; readonly scope: Borrower["scope"] };
/** The client left while its request waited. Nothing is held. */
export type Left = { readonly kind: "left" };

const LEFT: Left = { kind: "left" };

/** What a request is to its accounts while it tries. */
type Claim = {
  /** Grows with each request of the isolate. */
  readonly number: number;
  readonly patience: Patience;
  readonly accountOf: (scope: Borrower["scope"]) => Borrower;
  /** Why it may no longer be served, though it waits: its key has changed. */
  readonly refused: () => Failure | null;
};

export class InTurn {
  readonly #clock: Clock;
  readonly #claim: Claim;
  readonly #ticket: Ticket;
  /** Where it waits, or has waited last. */
  #at: Borrower | null = null;
  #wake: (() => void) | null = null;

  constructor(clock: Clock, claim: Claim) {
    const now = clock.now();
    this.#clock = clock;
    this.#claim = claim;
    this.#ticket = { number: claim.number, since: now, need: NOTHING, countedBy: [], tries: true, seenAt: now };
  }

  /** Tries until it is no longer a slot alone that is missing, or patience ends. */
  async keepTrying<T extends { readonly kind: string }>(attempt: () => Promise<T>): Promise<T | Denied | Left> {
    const ticket = this.#ticket;
    try {
      for (;;) {
        ticket.tries = true;
        const outcome = await attempt();
        ticket.tries = false;
        if (outcome.kind === "admitted" || outcome.kind === "held") this.#at?.line.served(this.#clock.now());
        if (!isForSlot(outcome) || this.#claim.patience.forMs === 0) return outcome;
        const over = await this.#waitFor(outcome);
        if (over) return over;
      }
    } finally {
      this.#at?.line.leave(ticket);
    }
  }

  /** Asked by an attempt before it takes anything of an account: what is in its way if others wait there who came earlier. */
  barredAt(account: Borrower, need: Amounts, now: number): Denied | null {
    const ticket = this.#ticket;
    ticket.need = need;
    if (!ticket.countedBy.includes(account)) {
      ticket.countedBy.push(account);
      account.expect(need, now);
    }
    if (now < account.downUntil || !account.line.bars(ticket, now)) return null;
    return elseRefused(account, need, now) ?? noSlot(account);
  }

  /** Asked by an attempt that has what it needs: why it must not have it any more, if it has waited. */
  stopped(): Denied | Left | null {
    if (this.#at === null) return null;
    if (this.#claim.patience.signal?.aborted) return LEFT;
    const failure = this.#claim.refused();
    return failure && { kind: "denied", failure, scope: this.#at.scope };
  }

  /** Waits in line for the slot that is missing. Null: it is this request's turn to try again. */
  async #waitFor(missing: Denied): Promise<Denied | Left | null> {
    const account = this.#claim.accountOf(missing.scope);
    const { line } = account;
    if (account !== this.#at) this.#at?.line.leave(this.#ticket);
    this.#at = account;
    const now = this.#clock.now();
    const before = line.before(this.#ticket, now);
    if (before === Number.POSITIVE_INFINITY) return withRetryAfter(missing, line);
    if (before === 0) line.triedInVain(now);
    const over = await this.#sleepUntilTurn(account);
    return over === "late" ? withRetryAfter(missing, line) : over;
  }

  async #sleepUntilTurn(account: Borrower): Promise<Denied | Left | "late" | null> {
    const { line } = account;
    const ticket = this.#ticket;
    const until = ticket.since + this.#claim.patience.forMs;
    for (let now = this.#clock.now(); ; ) {
      const pause = Math.min(Line.pause(line.before(ticket, now)), until - now);
      await this.#sleep(Math.max(1, pause));
      now = this.#clock.now();
      const stop = this.stopped() ?? elseRefused(account, ticket.need, now);
      if (stop) return stop;
      if (now >= until) return "late";
      const first = line.before(ticket, now) === 0;
      if (first && (account.hasNews(ticket.need, now) || line.mayAsk(now))) return null;
      // Without its ledger there are no turns to wait for.
      if (now < account.downUntil) return null;
    }
  }

  /** Sleeps, or until the client leaves. */
  #sleep(ms: number): Promise<void> {
    if (this.#wake === null) {
      this.#claim.patience.signal?.addEventListener("abort", () => this.#wake?.(), { once: true });
    }
    return new Promise((done) => {
      this.#wake = done;
      void this.#clock.wait(ms).then(() => done());
    });
  }
}

/** Whether a slot is all that is missing. */
function isForSlot(outcome: { readonly kind: string }): outcome is Denied {
  if (outcome.kind !== "denied") return false;
  const { failure } = outcome as Denied;
  return failure.kind === "rate_limited" && failure.limit === "concurrency";
}

function noSlot({ scope, policy, line }: Borrower): Denied {
  const figure = policy?.limits.concurrent_requests ?? 0;
  return {
    kind: "denied",
    scope,
    failure: { kind: "rate_limited", limit: "concurrency", scope, figure, retryAfterMs: line.retryAfterMs },
  };
}

/** The refusal of a need that no slot would help; null where there is none, or where an answer is about to tell. */
function elseRefused(borrower: Borrower, need: Amounts, now: number): Denied | null {
  const failure = borrower.askedAt === 0 ? borrower.refusal(need, now) : null;
  if (!failure) return null;
  const denied: Denied = { kind: "denied", failure, scope: borrower.scope };
  return isForSlot(denied) ? null : denied;
}

function withRetryAfter({ failure, ...denied }: Denied, { retryAfterMs }: Line): Denied {
  return { ...denied, failure: failure.kind === "rate_limited" ? { ...failure, retryAfterMs } : failure };
}
