/**
 * What one isolate knows of the accounts it serves, and how it asks their ledgers: admission from the loan at hand or by
 * asking, account given of what has ended, in messages shared by all requests of the same moment.
 *
 * While a question to a ledger is under way, other requests of the account wait for its answer and not for a call of
 * their own. Each looks for itself, by its own timer: a request that is cancelled takes its promises along, so none waits
 * for another one's. Where only running requests are in its way, a request that is patient waits for a slot in its
 * account's line (queue.ts), and holds nothing of any account while it does.
 *
 * A ledger that does not answer in time costs a request its deadline, once. If it is not only late but
 * silent or broken, one request a second finds that out again, and nobody else waits.
 */
import { type KeyPolicy, limitsNothing, type Rules } from "../identity/key-record.ts";
import type { Failure } from "../wire/errors.ts";
import { randomBase32 } from "../wire/ids.ts";
import { type Amounts, NOTHING } from "./amounts.ts";
import { Borrower, type Share, type Usage, type Waiter } from "./borrower.ts";
import { type Denied, InTurn, type Left } from "./in-turn.ts";
import { exchange } from "./previous-release.ts";
import { KEEP_ALIVE_MS, LEASE_MS, type Ledger, ledgerName, type Message } from "./protocol.ts";

/** Accounts remembered by one isolate; the longest known go first. */
const MAX_ACCOUNTS = 10_000;
/** An account that nobody has used for this long is forgotten when others come. */
const FORGET_ACCOUNT_MS = 600_000;
/** So many of the longest known are looked at for each new one, and so many more where there is no room. */
const LOOK_AT_OLD = 2;
const LOOK_FOR_ROOM = 100;
/** A ledger that failed is left alone for this long; requests are answered without it meanwhile. */
const DOWN_MS = 1_000;
/** How long a request waits for another one's question before it asks itself, and how long it sleeps between looks. */
const FOLLOW_MS = 100;
const MAX_FOLLOW_PAUSE_MS = 8;
/** How long what ends waits for company before it is told; longer where a lot ends. */
const TELL_DELAY_MS = 50;
const TELL_DELAY_BUSY_MS = 400;
/** A message that has been collecting for this long was cancelled; the next one takes its place. */
const COLLECTING_ABANDONED_MS = 1_500;
const TELL_ATTEMPTS = 5;
const TELL_RETRY_MS = 500;
/** With the pauses 25 s for all attempts: what outlasts a client has 30. */
const TELL_DEADLINE_MS = 4_000;
/** Others may take what a request has just asked for; after so many times it gives up. */
const ASK_ATTEMPTS = 50;
/** A timer this late tells of an isolate that had no time to look, not of a slow ledger: it waits on, so often at most. */
const LATE_TIMER_MS = 50;
const MAX_PATIENCE = 8;

/** Platform pieces that decide by time, passed in. */
export type Clock = { now(): number; wait(ms: number): Promise<unknown> };

/** How a request reaches ledgers. */
export type Access = {
  /** The way to a ledger by its name; taken anew for each call, since one that has failed stays broken. */
  readonly ledger: (name: string) => Ledger;
  /** Keeps work alive that outlasts the request's answer. */
  readonly background: (work: Promise<unknown>) => void;
  /** How long a request waits for a ledger, ms. */
  readonly deadlineMs: number;
  /** When the request came, by `LeaseBook.now`. */
  readonly since: number;
  /** A workspace's rules as they are stored, for where its ledger can't tell them. Null: it was never made. May throw. */
  readonly storedRules: (workspace: string) => Promise<Rules | null>;
};

/** How a request waits where only running requests are in its way. */
export type Patience = {
  /** For how long at most, ms; 0: not at all. */
  readonly forMs: number;
  /** The client's: when it leaves, the wait is over. Null: nobody can leave. */
  readonly signal: AbortSignal | null;
  /** Why the key's policy, changed while the request waited, refuses it. */
  readonly refused?: (policy: KeyPolicy) => Failure | null;
};

/** A request's share of a loan at one account. */
export type HeldShare = { readonly borrower: Borrower; readonly share: Share };

/** What an admitted request holds: a share at each account it counts for. */
export type Reservation = {
  readonly shares: readonly HeldShare[];
  readonly by: "lease" | "ledger" | "fail_open";
};

export type TravellingShare = { readonly name: string; readonly scope: Borrower["scope"]; readonly share: Share };

export type Admission =
  | { readonly kind: "admitted"; readonly reservation: Reservation }
  | Denied
  | Left
  | { readonly kind: "unknown" }
  | { readonly kind: "unreachable" };

/** `unreachable`: the call may go on without; an upstream's cap protects an account and no money. */
export type UpstreamSlot =
  | { readonly kind: "held"; readonly held: HeldShare }
  | { readonly kind: "full"; readonly retryAfterMs: number }
  | Left
  | { readonly kind: "unreachable" };

/** What a request needs of an account with these rules: a strict budget reserves more of it than a soft one. */
export type NeedFor = (rules: Rules | undefined) => Amounts;

type Held =
  | { readonly kind: "held"; readonly share: Share; readonly asked: boolean }
  | Exclude<Admission, { kind: "admitted" | "left" }>;

export class LeaseBook {
  readonly #borrowers = new Map<string, Borrower>();
  readonly #clock: Clock;
  #isolate = "";
  #count = 0;
  #arrivals = 0;

  constructor(clock: Clock) {
    this.#clock = steady(clock);
  }

  /** A clock that never goes back, ms. */
  get now(): number {
    return this.#clock.now();
  }

  /** What is known of a key, for headers and for where no ledger can be asked. */
  key(id: string): Borrower {
    return this.#borrower(ledgerName.key(id), "key");
  }

  workspace(id: string): Borrower {
    return this.#borrower(ledgerName.workspace(id), "workspace");
  }

  /** The key's policy, at most `maxAgeMs` old (LEASE_MS at the very most). */
  async policyOf(keyId: string, access: Access, maxAgeMs = LEASE_MS): Promise<KeyPolicy | "unknown" | "unreachable"> {
    const borrower = this.key(keyId);
    const fresh = (): boolean => this.#clock.now() < borrower.policyUntil - LEASE_MS + maxAgeMs;
    if (!fresh()) {
      const outcome = await this.#waiting(borrower.arriving, NOTHING, () => this.#ask(borrower, access, true));
      if (outcome !== "answered") return outcome;
    }
    return (borrower.policy as KeyPolicy | undefined) ?? "unknown";
  }

  /** A workspace's rules, at most LEASE_MS old. One that was never made has some too: they limit nothing. */
  async rulesOf(workspaceId: string, access: Access): Promise<Rules | "unreachable"> {
    const workspace = this.workspace(workspaceId);
    if (this.#clock.now() >= workspace.policyUntil) {
      const outcome = await this.#ask(workspace, access, false);
      if (outcome !== "answered") return "unreachable";
    }
    return workspace.policy ?? "unreachable";
  }

  /** Asks how an account stands at this moment. */
  async refresh(borrower: Borrower, access: Access): Promise<"answered" | "unknown" | "unreachable"> {
    borrower.close();
    return this.#call(borrower, access, false);
  }

  /**
   * Admits one request of a key: all it needs is reserved at the key's account and at its workspace's, or nothing is. With
   * patience it waits for slots, and for nothing else.
   */
  admit(policy: KeyPolicy, needFor: NeedFor, access: Access, patience = IMPATIENT): Promise<Admission> {
    const key = this.key(policy.id);
    const workspace = this.workspace(policy.workspace);
    const latest = (): KeyPolicy =>
      key.policy && key.policy.version > policy.version ? (key.policy as KeyPolicy) : policy;
    const refused = (): Failure | null => (latest() === policy ? null : (patience.refused?.(latest()) ?? null));
    const turn = this.#inTurn(patience, (scope) => (scope === "key" ? key : workspace), refused);
    return turn.keepTrying(() => this.#admitNow(key, workspace, latest(), needFor, access, turn));
  }

  /**
   * A slot of an upstream account, for a call that is about to be sent there; with patience it waits for one. It is given
   * back by `releaseUpstream`, or settled with the reservation whose shares it is put to.
   */
  async holdUpstream(id: string, access: Access, patience: Patience): Promise<UpstreamSlot> {
    const account = this.#borrower(ledgerName.upstream(id), "upstream");
    const turn = this.#inTurn(patience, () => account, nothingRefused);
    const slot = await turn.keepTrying(() => this.#holdSlotNow(account, access, turn));
    if (slot.kind !== "denied") return slot;
    const { failure } = slot;
    return {
      kind: "full",
      retryAfterMs: failure.kind === "rate_limited" ? failure.retryAfterMs : CROWDED.retryAfterMs,
    };
  }

  /** The call has ended at this upstream, or goes on to another one. */
  releaseUpstream({ borrower, share }: HeldShare, access: Access): void {
    borrower.end(share, NO_USAGE);
    access.background(this.#tellSoon(borrower, access));
  }

  #inTurn(
    patience: Patience,
    accountOf: (scope: Borrower["scope"]) => Borrower,
    refused: () => Failure | null,
  ): InTurn {
    return new InTurn(this.#clock, { number: ++this.#arrivals, patience, accountOf, refused });
  }

  async #holdSlotNow(account: Borrower, access: Access, turn: InTurn): Promise<UpstreamSlot | Denied> {
    const outcome = await this.#holdInTurn(account, ONE_SLOT, access, turn);
    // Its ledger knows no such upstream: there is nothing to be limited.
    if (outcome.kind === "unknown") return { kind: "unreachable" };
    if (outcome.kind !== "held") return outcome;
    const { share } = outcome;
    const stop = turn.stopped();
    if (stop) account.putBack(share);
    else account.admitted(share);
    return stop ?? { kind: "held", held: { borrower: account, share } };
  }

  async #admitNow(
    key: Borrower,
    workspace: Borrower,
    policy: KeyPolicy,
    needFor: NeedFor,
    access: Access,
    turn: InTurn,
  ): Promise<Admission> {
    // Mostly both have what is needed at hand, and nobody waits for anything. The workspace is asked for its rules at the
    // same time, but for its share afterwards: what the key refuses must not hold, even for a moment, what another
    // request needs.
    const [held, rules] = await Promise.all([
      this.#holdInTurn(key, needFor(policy), access, turn),
      this.#learnWorkspace(workspace, access),
    ]);
    if (held.kind === "denied" || held.kind === "unknown") return held;
    const keyAway = held.kind === "unreachable";
    if (keyAway && !(await this.#mayFailOpen(policy, workspace, access))) return held;
    const also = rules ?? (await this.#holdWorkspace(workspace, needFor, access, turn));
    const shares: HeldShare[] = [];
    if (held.kind === "held") shares.push({ borrower: key, share: held.share });
    if (also.kind === "held" && also.share !== UNLIMITED) shares.push({ borrower: workspace, share: also.share });
    const stop = turn.stopped();
    if (stop) {
      for (const { borrower, share } of shares) borrower.putBack(share);
      return stop;
    }
    if (held.kind === "held" && also.kind === "held") {
      for (const { borrower, share } of shares) borrower.admitted(share);
      return { kind: "admitted", reservation: { shares, by: held.asked || also.asked ? "ledger" : "lease" } };
    }
    // A refusal counts for more than a ledger that is away, and what one of the two did lend is made use of.
    const open = also.kind === "unreachable" && (keyAway || (await this.#mayFailOpen(policy, workspace, access)));
    if (open || also.kind === "held") {
      for (const { borrower, share } of shares) borrower.admitted(share);
      if (keyAway) shares.push({ borrower: key, share: UNASKED });
      if (also.kind !== "held") shares.push({ borrower: workspace, share: UNASKED });
      return { kind: "admitted", reservation: { shares, by: "fail_open" } };
    }
    for (const { borrower, share } of shares) borrower.putBack(share);
    // One that waits for its workspace now has no end to tell it with.
    if (key.somethingToTell) access.background(this.#tellSoon(key, access));
    return also;
  }

  /** A reservation as it travels to where its request will run. */
  handOver(reservation: Reservation): TravellingShare[] {
    return reservation.shares.map(({ borrower, share }) => {
      borrower.handOver(share);
      return { name: borrower.name, scope: borrower.scope, share };
    });
  }

  /** Takes over what another isolate handed over. */
  adopt(shares: readonly TravellingShare[], by: Reservation["by"]): Reservation {
    return {
      by,
      shares: shares.map(({ name, scope, share }) => {
        const borrower = this.#borrower(name, scope);
        borrower.adopt(share, this.#clock.now());
        return { borrower, share };
      }),
    };
  }

  /** A request of these shares runs on: its loans must not expire. */
  async keepAlive(reservation: Pick<Reservation, "shares">, access: Access): Promise<void> {
    const now = this.#clock.now();
    for (const { borrower, share } of reservation.shares) borrower.alive(share, now);
    await Promise.all(
      reservation.shares.map(({ borrower }) => (borrower.mustSpeak(now) ? this.#tell(borrower, access) : undefined)),
    );
  }

  static readonly keepAliveMs = KEEP_ALIVE_MS;

  /**
   * Gives account of a request that has ended: what it used at each account it had a share of, and its audit record to
   * its key's ledger. Resolves when nothing is left for this request to do; meant for `waitUntil`.
   */
  async settle(
    keyId: string,
    reservation: Reservation | null,
    used: Usage,
    record: string,
    access: Access,
  ): Promise<void> {
    const key = this.key(keyId);
    key.record(record);
    const told: Promise<void>[] = [];
    for (const { borrower, share } of reservation?.shares ?? []) {
      borrower.end(share, borrower.scope === "upstream" ? NO_USAGE : used);
      if (borrower !== key) told.push(this.#tellSoon(borrower, access));
    }
    told.push(this.#tellSoon(key, access));
    await Promise.all(told);
  }

  /** Design L6: a budget is never guessed, and so is none of a workspace whose rules can't be had. */
  async #mayFailOpen(policy: KeyPolicy, workspace: Borrower, access: Access): Promise<boolean> {
    if (!policy.fail_open || policy.budget !== null) return false;
    if (workspace.policy) return workspace.policy.budget === null;
    const rules = await this.#inTime(access.storedRules(policy.workspace), access.deadlineMs);
    return rules !== "failed" && !rules?.budget;
  }

  /** A workspace without limits lends nothing and is told nothing; only whether it is still so has to be asked. */
  async #learnWorkspace(workspace: Borrower, access: Access): Promise<{ kind: "unreachable" } | null> {
    if (this.#clock.now() < workspace.policyUntil || !limitsNothing(workspace.policy)) return null;
    const outcome = await this.#ask(workspace, access, false);
    return outcome === "unreachable" ? { kind: outcome } : null;
  }

  async #holdWorkspace(workspace: Borrower, needFor: NeedFor, access: Access, turn: InTurn): Promise<Held> {
    if (limitsNothing(workspace.policy)) return UNLIMITED_HELD;
    return this.#holdInTurn(workspace, needFor(workspace.policy), access, turn);
  }

  /** Holds a need at one account, unless others have come earlier who wait there. */
  #holdInTurn(borrower: Borrower, need: Amounts, access: Access, turn: InTurn): Held | Promise<Held> {
    const now = this.#clock.now();
    const barred = turn.barredAt(borrower, need, now);
    if (barred) return barred;
    const share = borrower.take(need, now);
    return share ? holding(share) : this.#hold(borrower, need, access);
  }

  /** Holds a need at one account, from its loan or by asking. */
  #hold(borrower: Borrower, need: Amounts, access: Access): Promise<Held> {
    return this.#waiting(borrower.waiting, need, (waiter) => this.#insist(borrower, waiter, access));
  }

  /** While this lasts, whoever asks the ledger asks for this need too. */
  async #waiting<T>(waiters: Set<Waiter>, need: Amounts, work: (waiter: Waiter) => Promise<T>): Promise<T> {
    const waiter: Waiter = { need, since: this.#clock.now(), askedFor: 0 };
    waiters.add(waiter);
    try {
      return await work(waiter);
    } finally {
      waiters.delete(waiter);
    }
  }

  async #insist(borrower: Borrower, waiter: Waiter, access: Access): Promise<Held> {
    const { need } = waiter;
    for (let attempt = 0; ; attempt++) {
      const now = this.#clock.now();
      const share = borrower.take(need, now);
      if (share) return { kind: "held", share, asked: true };
      const failure = borrower.refusal(need, now);
      // What a question under way gives back is lent again by its answer: until then it looks as if it were gone.
      if (failure && (borrower.askedAt === 0 || failure.kind === "exceeds_bucket"))
        return { kind: "denied", failure, scope: borrower.scope };
      if (attempt === ASK_ATTEMPTS) {
        // The ledger did answer, so this is no case for `fail_open`.
        const crowded = borrower.refusal(need, now, true) ?? CROWDED;
        return { kind: "denied", failure: crowded, scope: borrower.scope };
      }
      const outcome = await this.#ask(borrower, access, true, waiter);
      if (outcome !== "answered") return { kind: outcome };
    }
  }

  /** Asks for what waits, or waits for the answer that another request is asking for. */
  async #ask(
    borrower: Borrower,
    access: Access,
    forLoan: boolean,
    waiter?: Waiter,
  ): Promise<"answered" | "unknown" | "unreachable"> {
    const started = this.#clock.now();
    if (borrower.askedAt > 0) {
      for (let pause = 1; ; pause = Math.min(2 * pause, MAX_FOLLOW_PAUSE_MS)) {
        await this.#clock.wait(pause);
        if (borrower.askedAt === 0) {
          // Else that question failed.
          if (borrower.policy && this.#clock.now() >= borrower.downUntil) return "answered";
          break;
        }
        const now = this.#clock.now();
        if (now - borrower.askedAt >= FOLLOW_MS || now - started >= access.deadlineMs) break;
      }
    }
    // It may only be slow: whoever comes while it is thought to be away waits for it as long as for an answer.
    while (this.#clock.now() < borrower.downUntil) {
      if (borrower.isBroken || this.#clock.now() - access.since >= access.deadlineMs) return "unreachable";
      await this.#clock.wait(MAX_FOLLOW_PAUSE_MS);
    }
    // Whoever is tired of waiting for another one's question asks for itself, and for nobody who still waits.
    if (waiter) waiter.askedFor = 0;
    return this.#call(borrower, access, forLoan);
  }

  /** Goes on to its end though the request that began it be cancelled: it carries what others have to tell. */
  #call(borrower: Borrower, access: Access, forLoan: boolean): Promise<"answered" | "unknown" | "unreachable"> {
    const call = this.#converse(borrower, access, forLoan);
    access.background(call);
    return call;
  }

  async #converse(
    borrower: Borrower,
    access: Access,
    forLoan: boolean,
  ): Promise<"answered" | "unknown" | "unreachable"> {
    const askedAt = this.#clock.now();
    borrower.askedAt = askedAt;
    const ask = forLoan ? borrower.question(this.#newId(), askedAt) : null;
    const message = borrower.message(this.#newId(), this.#isolate, ask, askedAt);
    const call = exchange(access.ledger(borrower.name), message);
    let isBroken = false;
    call.catch(() => {
      isBroken = true;
    });
    const answer = await this.#inTime(call, access.deadlineMs);
    borrower.askedAt = 0;
    if (answer === "failed") {
      if (isBroken) borrower.isBroken = true;
      borrower.disown(message, askedAt);
      borrower.downUntil = this.#clock.now() + DOWN_MS;
      access.background(this.#tellSoon(borrower, access));
      access.background(this.#hearLate(borrower, call, message, askedAt));
      return "unreachable";
    }
    if (!answer) return "unknown";
    borrower.answered(answer, message, askedAt, this.#clock.now());
    if (ask) access.background(this.#closeLater(borrower, access));
    return "answered";
  }

  /** A ledger that was only slow is back with its answer. The loan in it is disowned already. */
  async #hearLate(
    borrower: Borrower,
    call: ReturnType<Ledger["exchange"]>,
    message: Message,
    askedAt: number,
  ): Promise<void> {
    const answer = await this.#inTime(call, DOWN_MS);
    const told = { ...message, ask: null, loans: [] };
    if (answer === "failed") borrower.isBroken = true;
    else if (answer) borrower.answered(answer, told, askedAt, this.#clock.now());
  }

  /** The answer, or "failed" when it throws or does not come in time. */
  async #inTime<T>(answer: Promise<T>, deadlineMs: number): Promise<T | "failed"> {
    const settled = answer.catch((): "failed" => "failed");
    for (let patience = 0; ; patience++) {
      const began = this.#clock.now();
      const late = this.#clock.wait(deadlineMs).then((): "late" => "late");
      const outcome = await Promise.race([settled, late]);
      if (outcome !== "late") return outcome;
      const overslept = this.#clock.now() - began - deadlineMs;
      if (overslept < LATE_TIMER_MS || patience === MAX_PATIENCE) return "failed";
    }
  }

  /** Returns what is left of a loan when it has run out of time and no question has closed it. */
  async #closeLater(borrower: Borrower, access: Access): Promise<void> {
    if (!borrower.hasLeftover) return;
    await this.#clock.wait(LEASE_MS + TELL_DELAY_MS);
    borrower.closeIdle(this.#clock.now());
    if (borrower.somethingToTell) await this.#tellSoon(borrower, access);
  }

  /** Tells what has ended, together with what ends in the same moment. */
  async #tellSoon(borrower: Borrower, access: Access): Promise<void> {
    const started = this.#clock.now();
    if (started - borrower.collectingSince < COLLECTING_ABANDONED_MS) return;
    borrower.collectingSince = started;
    await this.#clock.wait(borrower.quiet || borrower.isFull ? TELL_DELAY_MS : TELL_DELAY_BUSY_MS);
    // Whoever comes from here on collects anew, so that this call ends when its own message has arrived.
    borrower.collectingSince = 0;
    if (borrower.quiet) borrower.closeIdle(this.#clock.now());
    if (borrower.somethingToTell) await this.#tell(borrower, access);
  }

  /** Sends what there is to tell, and what could not be told before; again if need be. */
  async #tell(borrower: Borrower, access: Access): Promise<void> {
    const now = this.#clock.now();
    const messages = [...borrower.unsent.splice(0), borrower.message(this.#newId(), this.#isolate, null, now)];
    await Promise.all(messages.map((message) => this.#deliver(borrower, message, access)));
  }

  async #deliver(borrower: Borrower, message: Message, access: Access): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      const askedAt = this.#clock.now();
      let error: unknown = "no answer in time";
      const answer = await this.#inTime(
        exchange(access.ledger(borrower.name), message).catch((reason: unknown) => {
          error = reason;
          throw reason;
        }),
        TELL_DEADLINE_MS,
      );
      if (answer !== "failed") {
        if (answer) borrower.answered(answer, message, askedAt, this.#clock.now());
        return;
      }
      if (attempt === TELL_ATTEMPTS) {
        borrower.over(message);
        return logUntold(borrower.name, message, error);
      }
      await this.#clock.wait(TELL_RETRY_MS * attempt);
    }
  }

  #newId(): string {
    // Made with the first use: there is no chance to be had before a request.
    this.#isolate ||= randomBase32(16);
    return `${this.#isolate}.${++this.#count}`;
  }

  #borrower(name: string, scope: Borrower["scope"]): Borrower {
    const now = this.#clock.now();
    const known = this.#borrowers.get(name);
    if (known) {
      known.usedAt = now;
      return known;
    }
    this.#forgetOld(now);
    const borrower = new Borrower(name, scope);
    borrower.usedAt = now;
    this.#borrowers.set(name, borrower);
    return borrower;
  }

  /** Accounts remembered. */
  get size(): number {
    return this.#borrowers.size;
  }

  /** Goes round all accounts little by little: one that is in use goes to the end of the line. */
  #forgetOld(now: number): void {
    let looks = LOOK_AT_OLD;
    for (const [name, old] of this.#borrowers) {
      const full = this.#borrowers.size >= MAX_ACCOUNTS;
      if (full && looks === LOOK_AT_OLD) looks = LOOK_FOR_ROOM;
      if (looks-- === 0) return;
      this.#borrowers.delete(name);
      const unused = now - old.usedAt > FORGET_ACCOUNT_MS;
      if (!(old.idle && (unused || full))) this.#borrowers.set(name, old);
    }
  }
}

/** As requests are that nobody has given time to. */
const IMPATIENT: Patience = { forMs: 0, signal: null };
const nothingRefused = (): null => null;
const ONE_SLOT: Amounts = { ...NOTHING, requests: 1, slots: 1 };
/** An upstream's account counts calls alone. */
const NO_USAGE: Usage = { inputTokens: 0, outputTokens: 0, microUsd: 0, learned: null };

const UNLIMITED: Share = { loan: null, reserved: NOTHING };
/** A request that runs though nobody could be asked. */
const UNASKED: Share = { loan: null, reserved: NOTHING };
/** Others took each time what a request had asked for. */
const CROWDED = { kind: "unavailable", what: "The key's ledger", retryAfterMs: 1_000 } as const satisfies Failure;
const UNLIMITED_HELD: Held = { kind: "held", share: UNLIMITED, asked: false };
const holding = (share: Share): Held => ({ kind: "held", share, asked: false });

/**
 * A clock that never goes back: what is known here is known for a span of time, and a step back would make it last for
 * as long as the step is wide. How much time went by when the clock stepped nobody can tell, so a lease's worth is taken
 * to have: nothing is believed for longer than it may be.
 */
function steady(clock: Clock): Clock {
  let ahead = 0;
  let last = Number.NEGATIVE_INFINITY;
  return {
    now() {
      const shown = clock.now();
      if (shown + ahead < last) ahead = last - shown + LEASE_MS;
      last = shown + ahead;
      return last;
    },
    wait: (ms) => clock.wait(ms),
  };
}

/** The last resort: the records go to the log, which holds no secret of theirs, so that they can be booked by hand. */
function logUntold(ledger: string, message: Message, error: unknown): void {
  // That loans are still held goes without saying again, or they expire.
  if (message.records === "" && message.loans.length === 0) return;
  console.error(
    JSON.stringify({
      level: "error",
      msg: "unsettled",
      ledger,
      records: message.records,
      loans: message.loans,
      error: String(error),
    }),
  );
}
