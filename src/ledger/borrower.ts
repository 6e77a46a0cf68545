/**
 * One account as an isolate sees it: what it was told last, what it has been lent and may still spend, and what it has
 * not given account of yet. All of it may be lost at any time; the ledger then books what it lent.
 *
 * At most one loan is open, that is, being spent. Asking for another one closes it in the same message, so nothing is
 * stranded between the two.
 */
import type { Rules } from "../identity/key-record.ts";
import type { BudgetState, LimitState, Meter } from "../wire/anthropic/limit-headers.ts";
import type { Failure } from "../wire/errors.ts";
import { type Amounts, add, covers, isNothing, NOTHING, subtract } from "./amounts.ts";
import { periodEnd } from "./period.ts";
import {
  type AccountState,
  type Answer,
  type Ask,
  KEEP_ALIVE_MS,
  type Learned,
  type Level,
  LOAN_EXPIRES_MS,
  type LoanReport,
  type Message,
  type Usual,
} from "./protocol.ts";
import { Line } from "./queue.ts";

/** A refusal that could end with any request of another isolate (a slot, reserved money) is believed for this long. */
const BRIEF_DENIAL_MS = 100;
/** Nobody waits this long: such a request was cancelled while it did. */
const WAITING_ABANDONED_MS = 5_000;
/**
 * Running requests show that they do each KEEP_ALIVE_MS. The platform may end one without a word; its loan is spoken of
 * no more when nobody has run on it visibly for this long, and then expires.
 */
const VANISHED_MS = LOAN_EXPIRES_MS - KEEP_ALIVE_MS / 2;
/** How quickly the expectation of what a request needs falls when requests get smaller. */
const TYPICAL_DECAY = 0.9;

const FIRST_USUAL: Usual = { inputRatio: 1, promptRatio: 1, outputTokens: 1_000, costRatio: 1 };
/** What a request is taken to need as long as none has been read. */
const FIRST_TYPICAL: Amounts = { requests: 1, inputTokens: 1_000, outputTokens: 1_000, microUsd: 10_000, slots: 1 };

export type Scope = "key" | "workspace" | "upstream";

/** A request's share of a loan. `loan` null: it runs though nobody could be asked. */
export type Share = { readonly loan: string | null; readonly reserved: Amounts };

/** What a request that has ended used. */
export type Usage = {
  readonly inputTokens: number;
  readonly outputTokens: number;
  readonly microUsd: number;
  readonly learned: Learned | null;
};

/** `askedFor`: when a question that is under way asked for it; 0: none does. */
export type Waiter = { readonly need: Amounts; readonly since: number; askedFor: number };
type OpenReport = { unused: Amounts | null; closed: boolean; ended: Amounts | null; used: Usage | null };

export class Borrower {
  /** The ledger's name: a key's id, or `ws:` and a workspace's, or `up:` and an upstream's. */
  readonly name: string;
  readonly scope: Scope;
  policy: Rules | undefined;
  usual: Usual = FIRST_USUAL;
  /** Until then the policy may be acted on. */
  policyUntil = 0;
  /** Until then what D1 said of the policy is acted on, while the ledger is away. */
  storedUntil = Number.NEGATIVE_INFINITY;
  /** The ledger failed: nobody waits for it before this moment. */
  downUntil = 0;
  /** It refused to answer, or did not even do so late. */
  isBroken = false;
  /** When the question that is under way was sent; 0: there is none. */
  askedAt = 0;
  /** Requests that need more than there is at hand. */
  readonly waiting = new Set<Waiter>();
  /** Requests that have not been read yet: they wait for the policy, and what they will need is not known. */
  readonly arriving = new Set<Waiter>();
  /** Requests that wait for a slot. */
  readonly line = new Line();
  /** When a message that collects what ends has begun to; 0: there is none. */
  collectingSince = 0;
  /** Messages whose delivery failed or is unknown. */
  unsent: Message[] = [];
  openStreams = 0;
  /** When the loans whose requests run were last spoken of. */
  spokenAt = Number.NEGATIVE_INFINITY;
  usedAt = 0;
  #typical: Amounts | undefined;
  /** Until then a refusal for slots or reserved money is believed. */
  #briefUntil = 0;
  #seen: { readonly askedAt: number; readonly at: number; readonly state: AccountState } | undefined;
  #open: { readonly id: string; left: Amounts; readonly until: number } | undefined;
  /** Requests running from each loan that is not over, and when one of them last showed that it does. */
  readonly #running = new Map<string, { count: number; seenAt: number }>();
  /** Those of them that are held here but not admitted yet, since another account was asked too. */
  readonly #held = new Map<string, number>();
  /** Loans that nothing more is taken from. They are told as closed when nothing of them is held any more. */
  readonly #closing = new Set<string>();
  readonly #reports = new Map<string | null, OpenReport>();
  /** What messages give back that have not been answered yet, and what the next one will. */
  #comingBack = NOTHING;
  #records: string[] = [];
  /** Requests in the present and in the last full second. */
  #demandNow = 0;
  #demandBefore = 0;
  #demandSince = 0;
  #peakRunning = 0;
  #runningNow = 0;

  constructor(name: string, scope: Scope) {
    this.name = name;
    this.scope = scope;
  }

  /** Nothing here would be missed. */
  get idle(): boolean {
    return (
      this.#running.size === 0 &&
      !this.#open &&
      this.waiting.size === 0 &&
      this.line.length === 0 &&
      this.askedAt === 0 &&
      !this.somethingToTell
    );
  }

  get somethingToTell(): boolean {
    return this.#records.length > 0 || this.#reports.size > 0 || this.#closing.size > 0 || this.unsent.length > 0;
  }

  /** Few enough requests that none is expected while a lease lasts. */
  get quiet(): boolean {
    return this.#demandNow + this.#demandBefore <= 2;
  }

  /** Whether there was no slot left for this isolate, as it was told last: somebody may wait for what ends here. */
  get isFull(): boolean {
    const slots = this.#seen?.state.slots;
    return slots !== null && slots !== undefined && slots.free <= 0;
  }

  /** Whether a slot may be had that was not there at the last try: one at hand, or one that the next question gives back. */
  hasNews(need: Amounts, now: number): boolean {
    return this.#briefUntil === 0 || this.#covers(need, now) !== null;
  }

  get hasLeftover(): boolean {
    return this.#open !== undefined;
  }

  /** Requests that run at this account or may be admitted from a loan, in all isolates, as it was told last. */
  get running(): number {
    return this.#seen?.state.running ?? 0;
  }

  /** Counts a request, so that loans fit the demand. */
  expect(need: Amounts, now: number): void {
    const elapsed = now - this.#demandSince;
    if (elapsed >= 1_000) {
      this.#demandBefore = elapsed < 2_000 ? this.#demandNow : 0;
      this.#demandNow = 0;
      this.#demandSince = now;
      this.#peakRunning = this.#runningNow;
    }
    this.#demandNow++;
    const larger = (now: number, before: number): number => Math.max(now, Math.ceil(before * TYPICAL_DECAY));
    const typical = this.#typical ?? NOTHING;
    this.#typical = {
      requests: 1,
      inputTokens: larger(need.inputTokens, typical.inputTokens),
      outputTokens: larger(need.outputTokens, typical.outputTokens),
      microUsd: larger(need.microUsd, typical.microUsd),
      slots: 1,
    };
  }

  /** Holds a request's need, taken from the open loan; null if that does not cover it. `admitted` or `putBack` follows. */
  take(need: Amounts, now: number): Share | null {
    const open = this.#open;
    const reserved = this.#covers(need, now);
    if (!open || !reserved) return null;
    open.left = subtract(open.left, reserved);
    this.#enter(open.id, now);
    change(this.#held, open.id, 1);
    if (open.left.requests === 0) this.close();
    return { loan: open.id, reserved };
  }

  #covers(need: Amounts, now: number): Amounts | null {
    const open = this.#open;
    if (!open || now >= open.until) return null;
    const reserved = this.#affordable(need, open.left.microUsd);
    return covers(open.left, reserved) ? reserved : null;
  }

  /** The request of a share is admitted. */
  admitted({ loan }: Share): void {
    if (loan !== null) change(this.#held, loan, -1);
  }

  /** The request of a share goes on elsewhere, where it will be accounted for. */
  handOver({ loan }: Share): void {
    if (loan !== null) this.#leave(loan);
  }

  /** The request of a share, lent to another isolate, runs here from now on. */
  adopt({ loan }: Share, now: number): void {
    if (loan !== null) this.#enter(loan, now);
  }

  /** The request of a share still runs. */
  alive({ loan }: Share, now: number): void {
    const running = loan === null ? undefined : this.#running.get(loan);
    if (running) running.seenAt = now;
  }

  /** Gives a share back that no request was admitted for. */
  putBack({ loan, reserved }: Share): void {
    if (loan === null) return;
    this.#leave(loan);
    change(this.#held, loan, -1);
    if (this.#open?.id === loan) this.#open.left = add(this.#open.left, reserved);
    else this.#giveAccount(loan, { unused: reserved });
  }

  /** A request that had a share has ended. */
  end({ loan, reserved }: Share, used: Usage): void {
    let ended = reserved;
    if (loan !== null) {
      this.#leave(loan);
      if (this.#open?.id === loan) {
        this.#open.left = { ...this.#open.left, slots: this.#open.left.slots + reserved.slots };
        ended = { ...reserved, slots: 0 };
      }
    }
    this.#giveAccount(loan, { ended, used });
    // The next question tells of this, so it may be answered otherwise.
    this.#briefUntil = 0;
  }

  record(text: string): void {
    this.#records.push(text);
  }

  /** No request will be admitted from the open loan any more. */
  close(): void {
    if (!this.#open) return;
    const { id, left } = this.#open;
    this.#open = undefined;
    this.#closing.add(id);
    this.#giveAccount(id, { unused: isNothing(left) ? null : left });
  }

  /** Closes a loan that has run out of time, or that no request is expected for. */
  closeIdle(now: number): void {
    if (this.#open && (now >= this.#open.until || this.quiet)) this.close();
  }

  /** The question for what waits now and what is expected while the lease lasts. */
  question(loan: string, now: number): Ask {
    this.close();
    let wanted = NOTHING;
    forgetAbandoned(this.waiting, now);
    for (const waiter of this.waiting) {
      // Asked for twice it would be lent twice, and others would go without. A question that stays away was cancelled.
      if (now - waiter.askedFor < WAITING_ABANDONED_MS) continue;
      waiter.askedFor = now;
      wanted = add(wanted, waiter.need);
    }
    for (const need of this.line.needs(this.#slotsInSight() - wanted.slots)) wanted = add(wanted, need);
    forgetAbandoned(this.arriving, now);
    // Those get something from plenty only: a guess must not take from others what they know to need.
    const demand = 2 * Math.max(this.#demandNow, this.#demandBefore);
    const expected = Math.max(this.arriving.size, demand - wanted.requests);
    const { inputTokens, outputTokens, microUsd } = this.#typical ?? FIRST_TYPICAL;
    // Slots come back when their requests end, so there need be no more of them than run at the same moment.
    const limited = this.policy?.limits.concurrent_requests !== undefined;
    const more: Amounts = {
      requests: expected,
      inputTokens: expected * inputTokens,
      outputTokens: expected * outputTokens,
      microUsd: expected * microUsd,
      slots: limited ? Math.min(expected, this.#peakRunning) : expected,
    };
    return { loan, wanted, more };
  }

  /** How many slots the next answer may have: what its question gives back, and what was free at the last one. */
  #slotsInSight(): number {
    const slots = this.#seen?.state.slots;
    if (!slots) return Number.POSITIVE_INFINITY;
    let inSight = Math.max(0, slots.free);
    for (const { unused, ended } of this.#reports.values()) inSight += (unused?.slots ?? 0) + (ended?.slots ?? 0);
    return inSight;
  }

  /** Everything there is to tell, as one message; from here on it is the message that has to arrive. */
  message(id: string, isolate: string, ask: Ask | null, now: number): Message {
    for (const loan of this.#closing) {
      if (this.#held.has(loan)) continue;
      this.#closing.delete(loan);
      this.#giveAccount(loan, { closed: true });
    }
    const loans: LoanReport[] = [];
    for (const [loan, report] of this.#reports) loans.push({ loan, ...report });
    this.#reports.clear();
    const records = this.#records.length > 0 ? `[${this.#records.join(",")}]` : "";
    this.#records = [];
    const { name: to, openStreams } = this;
    const waiting = this.line.ages(this.policy?.limits.concurrent_requests ?? 0, now);
    return {
      id,
      to,
      isolate,
      ask,
      loans,
      holding: this.#holding(now),
      records,
      openStreams,
      ...(waiting.length > 0 ? { waiting } : {}),
    };
  }

  /** The loans to speak of: every few seconds, for with many streams there are thousands of them. */
  #holding(now: number): readonly string[] {
    if (now - this.spokenAt < KEEP_ALIVE_MS / 2) return [];
    this.spokenAt = now;
    const holding: string[] = [];
    for (const [loan, { count, seenAt }] of this.#running) {
      if (now - seenAt < VANISHED_MS) holding.push(loan);
      else {
        this.#running.delete(loan);
        this.#runningNow -= count;
      }
    }
    if (this.#open && !this.#running.has(this.#open.id)) holding.push(this.#open.id);
    return holding;
  }

  /** A policy as it is stored, read because the ledger is away. Only a newer one counts. */
  read(policy: Rules): void {
    if (!this.policy || policy.version > this.policy.version) this.policy = policy;
  }

  /** Takes up an answer. Nothing in it is fresher than the moment of asking. */
  answered(answer: Answer, message: Message, askedAt: number, now: number): void {
    if (!this.policy || answer.policy.version >= this.policy.version) this.policy = answer.policy;
    this.policyUntil = Math.max(this.policyUntil, askedAt + answer.validMs);
    this.downUntil = 0;
    this.isBroken = false;
    // Answers may overtake each other; the newer question's counts.
    if (!this.#seen || askedAt >= this.#seen.askedAt) {
      this.#seen = { askedAt, at: now, state: answer.state };
      this.usual = answer.usual;
      this.#briefUntil = now + BRIEF_DENIAL_MS;
    }
    this.over(message);
    const { ask } = message;
    if (!ask) return;
    this.#askedInVain(askedAt);
    const { lent } = answer;
    if (!lent || isNothing(lent)) return;
    const open = this.#open;
    if (open && now < open.until && open.left.requests >= lent.requests) {
      // A late answer finds another loan open; the larger one is kept.
      this.#closing.add(ask.loan);
      this.#giveAccount(ask.loan, { unused: lent });
      return;
    }
    this.close();
    this.#open = { id: ask.loan, left: lent, until: askedAt + answer.validMs };
  }

  /** What a message gave back is in the ledger's own figures now, or will never be. */
  over({ loans }: Message): void {
    for (const { unused } of loans) if (unused) this.#comingBack = subtract(this.#comingBack, unused);
  }

  /** A question has been answered, or never will be: who still waits for it may be asked for again. */
  #askedInVain(askedAt: number): void {
    for (const waiter of this.waiting) if (waiter.askedFor === askedAt) waiter.askedFor = 0;
  }

  /** The question went unanswered: whatever was lent for it comes back, and what else the message told is told again. */
  disown(message: Message, askedAt: number): void {
    const { ask } = message;
    this.#askedInVain(askedAt);
    // How much was lent is not known; no more than was asked for is taken back.
    if (ask) this.#giveAccount(ask.loan, { unused: add(ask.wanted, ask.more), closed: true });
    if (message.records !== "" || message.loans.length > 0) this.unsent.push({ ...message, ask: null });
  }

  /** Whether loans whose requests still run have to be spoken of again. */
  mustSpeak(now: number): boolean {
    return this.#running.size > 0 && now - this.spokenAt >= KEEP_ALIVE_MS - 500;
  }

  /**
   * Why a need can't be met, from what the ledger said last, projected to now; null if it may be met, so that asking is
   * worth it. `final`: there will be no more asking, so what is refused only briefly is refused.
   */
  refusal(need: Amounts, now: number, final = false): Failure | null {
    const { policy } = this;
    if (!this.#seen || !policy || now >= this.policyUntil) return null;
    const { state, at } = this.#seen;
    // What comes back with the question can be lent by its answer.
    const left = add(this.#open && now < this.#open.until ? this.#open.left : NOTHING, this.#comingBack);
    const { scope } = this;
    const brief = final || now < this.#briefUntil;
    for (const [resource, limit] of BUCKETS) {
      const level = state[resource];
      if (!level || need[resource] === 0) continue;
      if (need[resource] > level.capacity) {
        return { kind: "exceeds_bucket", limit, scope, needed: need[resource], capacity: level.capacity };
      }
      const missing = need[resource] - left[resource] - projected(level, now - at);
      if (missing > 0) {
        const retryAfterMs = Math.max(1, Math.ceil((missing * 60_000) / level.perMinute));
        return { kind: "rate_limited", limit, scope, figure: level.perMinute, retryAfterMs };
      }
    }
    const { slots, budget } = state;
    const noSlot = slots && need.slots > left.slots + Math.max(0, slots.free) && brief;
    const money = this.#budget(left.microUsd);
    if (budget && money && policy.budget && need.microUsd > 0) {
      const least = this.#affordable(need, 1).microUsd;
      const unspent = money.limitMicroUsd - money.spentMicroUsd;
      const spent = least > unspent;
      // What is reserved may be free again when there is a slot; what is spent is not.
      if (spent || (least > unspent - money.reservedMicroUsd && brief && !noSlot)) {
        const { resetsAt } = money;
        return {
          kind: "over_budget",
          scope,
          mode: policy.budget.mode,
          budget: money,
          neededMicroUsd: need.microUsd,
          // What is reserved may be free again in a moment; what is spent is not before the period ends.
          retryAfterMs: spent ? resetsAt && Math.max(1, resetsAt - now) : 1_000,
        };
      }
    }
    return noSlot
      ? { kind: "rate_limited", limit: "concurrency", scope, figure: slots.limit, retryAfterMs: 1_000 }
      : null;
  }

  /** Where the account stands, as far as is known. */
  standing(now: number): LimitState | null {
    const seen = this.#seen;
    if (!seen) return null;
    // What comes back with the next message is as good as back.
    const left = add(this.#open?.left ?? NOTHING, this.#comingBack);
    const meter = (resource: "requests" | "inputTokens" | "outputTokens"): Meter | null => {
      const level = seen.state[resource];
      if (!level) return null;
      const inBucket = Math.min(level.capacity, projected(level, now - seen.at));
      const remaining = Math.max(0, Math.min(level.capacity, Math.floor(inBucket + left[resource])));
      return {
        limit: level.capacity,
        remaining,
        fullAt: now + ((level.capacity - inBucket) * 60_000) / level.perMinute,
      };
    };
    return {
      requests: meter("requests"),
      inputTokens: meter("inputTokens"),
      outputTokens: meter("outputTokens"),
      budget: this.#budget(left.microUsd),
    };
  }

  /** The budget as it was told last; what is lent but free is not reserved for anybody. */
  #budget(freeMicroUsd: number): BudgetState | null {
    const budget = this.#seen?.state.budget;
    if (!this.#seen || !budget || !this.policy?.budget) return null;
    return {
      limitMicroUsd: budget.limitMicroUsd,
      spentMicroUsd: budget.spentMicroUsd,
      reservedMicroUsd: Math.max(0, budget.reservedMicroUsd - freeMicroUsd),
      period: this.policy.budget.period,
      resetsAt: periodEnd(this.policy.budget.period, this.#seen.at),
    };
  }

  /** A soft budget takes what is left for the last request; a strict one needs the whole of it. */
  #affordable(need: Amounts, leftMicroUsd: number): Amounts {
    if (this.policy?.budget?.mode !== "soft" || leftMicroUsd < 1) return need;
    return { ...need, microUsd: Math.min(need.microUsd, leftMicroUsd) };
  }

  #enter(loan: string, now: number): void {
    const running = this.#running.get(loan);
    if (running) {
      running.count++;
      running.seenAt = now;
    } else this.#running.set(loan, { count: 1, seenAt: now });
    this.#runningNow++;
    this.#peakRunning = Math.max(this.#peakRunning, this.#runningNow);
  }

  #leave(loan: string): void {
    const running = this.#running.get(loan);
    if (!running) return;
    this.#runningNow--;
    if (--running.count === 0) this.#running.delete(loan);
  }

  #giveAccount(
    loan: string | null,
    { unused = null, closed = false, ended = null, used = null }: Partial<OpenReport>,
  ): void {
    if (unused) this.#comingBack = add(this.#comingBack, unused);
    const report = this.#reports.get(loan);
    if (!report) {
      this.#reports.set(loan, { unused, closed, ended, used });
      return;
    }
    if (closed) report.closed = true;
    if (unused) report.unused = report.unused ? add(report.unused, unused) : unused;
    if (ended) report.ended = report.ended ? add(report.ended, ended) : ended;
    if (used) report.used = report.used ? addUsage(report.used, used) : used;
  }
}

const BUCKETS = [
  ["requests", "requests"],
  ["inputTokens", "input_tokens"],
  ["outputTokens", "output_tokens"],
] as const;

function forgetAbandoned(waiters: Set<Waiter>, now: number): void {
  for (const waiter of waiters) if (now - waiter.since > WAITING_ABANDONED_MS) waiters.delete(waiter);
}

/** Counts, and forgets what has come down to nothing. */
function change(counts: Map<string, number>, id: string, by: number): void {
  const count = (counts.get(id) ?? 0) + by;
  if (count > 0) counts.set(id, count);
  else counts.delete(id);
}

function projected({ level, perMinute }: Level, elapsedMs: number): number {
  return level + (Math.max(0, elapsedMs) * perMinute) / 60_000;
}

function addUsage(a: Usage, b: Usage): Usage {
  return {
    inputTokens: a.inputTokens + b.inputTokens,
    outputTokens: a.outputTokens + b.outputTokens,
    microUsd: a.microUsd + b.microUsd,
    learned: a.learned && b.learned ? addLearned(a.learned, b.learned) : (a.learned ?? b.learned),
  };
}

function addLearned(a: Learned, b: Learned): Learned {
  return {
    requests: a.requests + b.requests,
    guessedTokens: a.guessedTokens + b.guessedTokens,
    inputTokens: a.inputTokens + b.inputTokens,
    promptTokens: a.promptTokens + b.promptTokens,
    outputTokens: a.outputTokens + b.outputTokens,
    expectedMicroUsd: a.expectedMicroUsd + b.expectedMicroUsd,
    microUsd: a.microUsd + b.microUsd,
  };
}
