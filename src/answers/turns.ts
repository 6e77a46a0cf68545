/**
 * Whose turn it is to have an answer made. Of the calls that want the same one, the first to come holds the turn until
 * its order begins the run; the others wait for that. A holder that gives up, or is not heard of any more, passes the
 * turn to whoever has waited longest.
 *
 * The turn keeps a crowd from being admitted for nothing. That there is one run at most is decided when an order begins:
 * what comes from a former holder after that joins the run that there is. All of it is memory: an object that restarts
 * knows no turn, and whoever asks next is the first.
 */

/** How long a holder has for being admitted, its wait for a slot (QUEUE_WAIT_MS, 10 s by default) included. */
export const CLAIM_MS = 15_000;
/** How long a call waits for another one's run to begin. */
export const WAIT_MS = 20_000;
/** How long a call that stands apart from another one's failure waits to see whether it fails. */
export const PATIENCE_MS = 15_000;

/** What a call is to do. */
export type Verdict =
  /** Be admitted, and send the order. */
  | { readonly kind: "run" }
  /** Read the answer of this run, whether it is still being made or kept. */
  | { readonly kind: "attach"; readonly run: string }
  /** The answer is another request's. */
  | { readonly kind: "mismatch" }
  /** Others had the turn for too long. */
  | { readonly kind: "busy" };

type Waiter = {
  readonly token: string;
  readonly fingerprint: string;
  readonly tell: (verdict: Verdict) => void;
  readonly stop: () => void;
};

/** Calls `act` in `ms` unless it is stopped before. */
export type Later = (ms: number, act: () => void) => () => void;

export class Turns {
  readonly #later: Later;
  #holder: { readonly token: string; readonly stop: () => void } | null = null;
  #run: { readonly id: string; readonly fingerprint: string } | null = null;
  #waiting: Waiter[] = [];

  constructor(later: Later) {
    this.#later = later;
  }

  /** Whether anybody has a use for this object at the moment. */
  get idle(): boolean {
    return this.#holder === null && this.#run === null;
  }

  /** Tells a call what to do, at once or when it is known. `token` is the call's own. */
  ask(token: string, fingerprint: string, tell: (verdict: Verdict) => void): void {
    if (this.#run) {
      tell(this.#join(fingerprint, this.#run));
      return;
    }
    // A holder may ask again: the answer to its first question was lost.
    if (!this.#holder || this.#holder.token === token) {
      this.#hold(token);
      tell({ kind: "run" });
      return;
    }
    const stop = this.#later(WAIT_MS, () => {
      this.#forget(token);
      tell({ kind: "busy" });
    });
    this.#waiting.push({ token, fingerprint, tell, stop });
  }

  /** A call holds or waits no more: it was refused, or its client left. */
  release(token: string): void {
    if (this.#holder?.token === token) this.#pass();
    else for (const waiter of this.#forget(token)) waiter.tell({ kind: "busy" });
  }

  /** An order has come. `run`: it is to be carried out as the run of this id; else what its call is to do instead. */
  begin(fingerprint: string, id: string): Verdict {
    if (this.#run) return this.#join(fingerprint, this.#run);
    this.#holder?.stop();
    this.#holder = null;
    this.keep(fingerprint, id);
    return { kind: "run" };
  }

  /** There is a run: it has begun, or is found kept. */
  keep(fingerprint: string, id: string): void {
    const run = { id, fingerprint };
    this.#run = run;
    for (const waiter of this.#waiting.splice(0)) {
      waiter.stop();
      waiter.tell(this.#join(waiter.fingerprint, run));
    }
  }

  /** A run is over without an answer to keep, or its answer is kept no more: whoever asks next is the first. */
  end(id: string): void {
    if (this.#run?.id === id) this.#run = null;
  }

  #join(fingerprint: string, run: { readonly id: string; readonly fingerprint: string }): Verdict {
    return run.fingerprint === fingerprint ? { kind: "attach", run: run.id } : { kind: "mismatch" };
  }

  #hold(token: string): void {
    this.#holder?.stop();
    this.#holder = { token, stop: this.#later(CLAIM_MS, () => this.#pass()) };
  }

  #pass(): void {
    this.#holder?.stop();
    this.#holder = null;
    const next = this.#waiting.shift();
    if (!next) return;
    next.stop();
    this.#hold(next.token);
    next.tell({ kind: "run" });
  }

  #forget(token: string): Waiter[] {
    const gone = this.#waiting.filter((waiter) => waiter.token === token);
    for (const waiter of gone) waiter.stop();
    this.#waiting = this.#waiting.filter((waiter) => waiter.token !== token);
    return gone;
  }
}
