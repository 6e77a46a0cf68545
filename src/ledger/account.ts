/**
 * One account (a key's, a workspace's or an upstream's): three token buckets, running requests, money, and what of all that is out on
 * loan to isolates. Pure arithmetic on integers, told the time; the ledger stores what it marks as changed.
 *
 * For every resource: lent = returned unused + ended + expired + still out. What is still out has been taken from its
 * bucket and counts against concurrency and budget, so no number of isolates can spend more than there is. A loan nobody
 * speaks of expires: its tokens stay taken, its money counts as spent, its slots are free again.
 */
import type { Limits, Rules } from "../identity/key-record.ts";
import { type Amounts, add, covers, isNothing, least, MAX_AMOUNT, NOTHING, subtract } from "./amounts.ts";
import { type Bucket, type BucketLimit, fullBucket, refill, take, tokensIn } from "./bucket.ts";
import { dayOf, firstDay, periodEnd } from "./period.ts";
import {
  type AccountState,
  LEASE_MS,
  type Learned,
  type Level,
  LOAN_EXPIRES_MS,
  type LoanReport,
  type Usual,
} from "./protocol.ts";
import { Turns } from "./turns.ts";

/** Beyond what is wanted this moment a lease takes at most this share of what is left, so near a limit it takes nothing. */
const LEASE_SHARE = 10;
/** How long an expired or disowned loan is remembered, for what comes late. */
const FORGET_LOAN_MS = 3_600_000;
/** Until a key has a history, its answers are taken to have this many tokens. */
const FIRST_OUTPUT_TOKENS = 1_000;
/** A request moves the usual figures by this share. */
const LEARNING_RATE = 0.1;
/** Bounds of a learned ratio: figures beyond are mistakes, of ours or of the upstream. */
const RATIO_BOUNDS = [0.01, 20] as const;

const BUCKETS = ["requests", "inputTokens", "outputTokens"] as const;
type BucketName = (typeof BUCKETS)[number];

/**
 * `open`: requests may still be admitted from it. `closed`: all of `out` belongs to running requests. `expired`: nobody
 * spoke of it any more, `out` is what was booked for it. `disowned`: given up by its isolate before the question for it
 * arrived, so that it lends nothing when it does. A loan of which nothing is out any more is forgotten.
 */
export type Loan = {
  readonly id: string;
  readonly status: "open" | "closed" | "expired" | "disowned";
  readonly out: Amounts;
  /** The day its money belongs to. */
  readonly day: number;
  /** When it expires; of an expired or disowned one, when it is forgotten. */
  readonly until: number;
};

/** The part of an account that is a fixed handful of numbers. */
export type Head = { buckets: { [K in BucketName]?: Bucket }; usual: Usual };

/** What was booked for a loan of which no account was given; negative amounts take back what came to light after all. */
export type Unreported = { readonly loan: string; readonly amounts: Amounts };

export class Account {
  rules: Rules | undefined;
  readonly head: Head;
  readonly loans: Map<string, Loan>;
  /** µUSD by UTC day. */
  readonly spend: Map<number, number>;
  /** Changed since the owner last stored them. */
  readonly changedLoans = new Set<string>();
  readonly changedDays = new Set<number>();
  readonly turns = new Turns();
  #out: Amounts = NOTHING;
  /** The part of `out` that no request has been admitted for yet, as far as is known. */
  #lent: Amounts = NOTHING;

  constructor(
    rules: Rules | undefined,
    head: Head | undefined,
    loans: Iterable<Loan>,
    spend: Iterable<[number, number]>,
  ) {
    this.rules = rules;
    this.head = head ?? {
      buckets: {},
      usual: { inputRatio: 1, promptRatio: 1, outputTokens: FIRST_OUTPUT_TOKENS, costRatio: 1 },
    };
    this.loans = new Map();
    this.spend = new Map(spend);
    for (const loan of loans) this.#put(loan);
    this.changedLoans.clear();
  }

  /** Other rules from now on; what has flowed back until now did so under the old ones. */
  setRules(rules: Rules, now: number): void {
    this.#refill(now);
    this.rules = rules;
    this.#refill(now);
  }

  /** Lends an isolate what is wanted as far as there is any and it is its turn, and of `more` what can be spared. */
  lend(id: string, wanted: Amounts, more: Amounts, now: number, isolate = ""): Amounts {
    if (this.loans.has(id)) return NOTHING;
    this.#refill(now);
    const { turns } = this;
    const left = this.#left(now);
    const asked = clamp(wanted);
    const needed = least(asked, { ...left, slots: turns.share(isolate, asked.slots, left.slots, now) });
    // What would help nobody is not lent, so that it is there for others.
    if (asked.requests > 0 && (needed.requests === 0 || needed.slots < Math.min(1, asked.slots))) return NOTHING;
    if (asked.requests === 1 && !this.#serves(needed, asked)) return NOTHING;
    const rest = subtract(left, needed);
    const spare: Amounts = { ...rest, slots: Math.max(0, rest.slots - turns.elsewhere(isolate, now).all) };
    const extra = clamp(more);
    // One share for all resources: requests without their tokens would be of no use to anybody.
    let share = 1;
    for (const name of ["requests", "inputTokens", "outputTokens", "microUsd", "slots"] as const) {
      if (extra[name] > 0) share = Math.min(share, Math.floor(spare[name] / LEASE_SHARE) / extra[name]);
    }
    const amounts = extra.requests * share >= 1 ? add(needed, scaleDown(extra, share)) : needed;
    if (isNothing(amounts)) return NOTHING;
    for (const name of BUCKETS) {
      const bucket = this.head.buckets[name];
      if (bucket) this.head.buckets[name] = take(bucket, amounts[name]);
    }
    turns.served(isolate, needed.slots);
    this.#put({ id, status: "open", out: amounts, day: dayOf(now), until: now + LOAN_EXPIRES_MS });
    return amounts;
  }

  /** Whether a single request gets along with this: a soft budget lets its last one have what is left. */
  #serves(lent: Amounts, wanted: Amounts): boolean {
    const soft = this.rules?.budget?.mode === "soft" && lent.microUsd > 0;
    return covers(soft ? { ...lent, microUsd: wanted.microUsd } : lent, wanted);
  }

  /** Takes over a report. What it brings to light of an expired loan is returned. */
  report({ loan: id, unused, closed, ended, used }: LoanReport, now: number): Unreported | null {
    this.#refill(now);
    const known = id === null ? undefined : this.loans.get(id);
    let loan = known;
    let late = NOTHING;
    if (id !== null && !loan && unused && closed) {
      // Disowned before it was asked for.
      this.#put({ id, status: "disowned", out: NOTHING, day: dayOf(now), until: now + FORGET_LOAN_MS });
    }
    if (loan && unused) {
      const back = least(clamp(unused), loan.out);
      if (loan.status === "expired") late = add(late, back);
      else this.#giveBack(back);
      loan = { ...loan, out: subtract(loan.out, back) };
    }
    if (loan?.status === "open" && closed) loan = { ...loan, status: "closed" };
    const reserved = ended ? (loan ? least(clamp(ended), loan.out) : NOTHING) : NOTHING;
    if (loan && ended) {
      if (loan.status === "expired") late = add(late, reserved);
      loan = { ...loan, out: subtract(loan.out, reserved) };
    }
    const day = loan?.day ?? dayOf(now);
    if (loan && loan !== known) {
      this.#put(loan);
      if (loan.status !== "open" && isNothing(loan.out)) this.#forget(loan);
    }
    // Requests that ran without a loan had nothing reserved: what they used is taken now.
    if (used) {
      this.#adjust("inputTokens", count(used.inputTokens) - reserved.inputTokens);
      this.#adjust("outputTokens", count(used.outputTokens) - reserved.outputTokens);
      this.#book(day, count(used.microUsd));
      if (used.learned) this.#learn(used.learned);
    }
    if (late.microUsd > 0) this.#book(day, -late.microUsd);
    return isNothing(late) || id === null ? null : { loan: id, amounts: subtract(NOTHING, late) };
  }

  /** Loans that somebody still speaks of. */
  keep(ids: readonly string[], now: number): void {
    for (const id of ids) {
      const loan = this.loans.get(id);
      if (!loan || (loan.status !== "open" && loan.status !== "closed")) continue;
      // Stored only when it matters: every message speaks of all loans.
      if (loan.until < now + LOAN_EXPIRES_MS / 2) this.#put({ ...loan, until: now + LOAN_EXPIRES_MS });
    }
  }

  /** Books loans nobody spoke of in time, and forgets those that ended long ago. */
  expire(now: number): Unreported[] {
    const booked: Unreported[] = [];
    for (const loan of [...this.loans.values()]) {
      if (loan.until > now) {
        const until = dueBy(loan, now);
        if (until < loan.until) this.#put({ ...loan, until });
        continue;
      }
      if (loan.status === "disowned" || loan.status === "expired") {
        this.#forget(loan);
        continue;
      }
      this.#book(loan.day, loan.out.microUsd);
      booked.push({ loan: loan.id, amounts: loan.out });
      this.#put({ ...loan, status: "expired", until: now + FORGET_LOAN_MS });
    }
    return booked;
  }

  /** When `expire` has something to do, or null. */
  nextExpiry(now: number): number | null {
    let next: number | null = null;
    for (const loan of this.loans.values()) {
      const due = dueBy(loan, now);
      if (next === null || due < next) next = due;
    }
    return next;
  }

  /** How long a lease given now may be used: not beyond the end of the budget's period. */
  validMs(now: number): number {
    const end = this.rules?.budget ? periodEnd(this.rules.budget.period, now) : null;
    return end === null ? LEASE_MS : Math.max(1, Math.min(LEASE_MS, end - now));
  }

  /** Where it stands, as it is told to an isolate. */
  state(now: number, isolate = ""): AccountState {
    this.#refill(now);
    const { rules } = this;
    const level = (name: BucketName): Level | null => {
      const limit = rules && bucketLimit(rules.limits, name);
      const bucket = this.head.buckets[name];
      return limit && bucket ? { ...limit, level: tokensIn(bucket) } : null;
    };
    const slots = rules?.limits.concurrent_requests;
    const budget = rules?.budget;
    return {
      requests: level("requests"),
      inputTokens: level("inputTokens"),
      outputTokens: level("outputTokens"),
      slots:
        slots === undefined
          ? null
          : { limit: slots, free: slots - this.#out.slots - this.turns.elsewhere(isolate, now).before },
      budget: budget
        ? {
            limitMicroUsd: budget.micro_usd,
            spentMicroUsd: this.#spent(now),
            reservedMicroUsd: this.#out.microUsd,
          }
        : null,
      running: this.#out.requests,
    };
  }

  /** Everything that is out on loan. */
  get out(): Amounts {
    return this.#out;
  }

  #spent(now: number): number {
    if (!this.rules?.budget) return 0;
    const first = firstDay(this.rules.budget.period, now);
    let spent = 0;
    for (const [day, microUsd] of this.spend) if (day >= first) spent += microUsd;
    return spent;
  }

  /** What can be lent of each resource; infinite where there is no limit, never negative. */
  #left(now: number): Amounts {
    const { rules, head } = this;
    const inBucket = (name: BucketName): number => {
      const bucket = head.buckets[name];
      return bucket ? Math.max(0, tokensIn(bucket)) : Number.POSITIVE_INFINITY;
    };
    const slots = rules?.limits.concurrent_requests;
    const budget = rules?.budget;
    return {
      requests: inBucket("requests"),
      inputTokens: inBucket("inputTokens"),
      outputTokens: inBucket("outputTokens"),
      microUsd: budget
        ? Math.max(0, budget.micro_usd - this.#spent(now) - this.#out.microUsd)
        : Number.POSITIVE_INFINITY,
      slots: slots === undefined ? Number.POSITIVE_INFINITY : Math.max(0, slots - this.#out.slots),
    };
  }

  #refill(now: number): void {
    for (const name of BUCKETS) {
      const limit = this.rules && bucketLimit(this.rules.limits, name);
      if (!limit) {
        delete this.head.buckets[name];
        continue;
      }
      const bucket = this.head.buckets[name] ?? fullBucket(limit, now);
      this.head.buckets[name] = refill(bucket, limit, now, this.#lent[name]);
    }
  }

  #giveBack(amounts: Amounts): void {
    for (const name of BUCKETS) this.#adjust(name, -amounts[name]);
  }

  /** Takes more of a bucket, or with a negative count gives back; the next refill keeps it within its capacity. */
  #adjust(name: BucketName, tokens: number): void {
    const bucket = this.head.buckets[name];
    if (bucket) this.head.buckets[name] = take(bucket, tokens);
  }

  #book(day: number, microUsd: number): void {
    if (microUsd === 0) return;
    this.spend.set(day, (this.spend.get(day) ?? 0) + microUsd);
    this.changedDays.add(day);
  }

  /** Sets a loan, and keeps the sums of what is out. */
  #put(loan: Loan): void {
    const before = this.loans.get(loan.id);
    if (before) this.#count(before, subtract);
    this.#count(loan, add);
    this.loans.set(loan.id, loan);
    this.changedLoans.add(loan.id);
  }

  /** Only of loans that count for nothing any more. */
  #forget(loan: Loan): void {
    this.loans.delete(loan.id);
    this.changedLoans.add(loan.id);
  }

  #count(loan: Loan, change: (a: Amounts, b: Amounts) => Amounts): void {
    if (loan.status !== "open" && loan.status !== "closed") return;
    this.#out = change(this.#out, loan.out);
    if (loan.status === "open") this.#lent = change(this.#lent, loan.out);
  }

  #learn(learned: Learned): void {
    const { requests } = learned;
    if (requests < 1) return;
    const { usual } = this.head;
    const weight = 1 - (1 - LEARNING_RATE) ** requests;
    const move = (from: number, to: number): number => from + (to - from) * weight;
    const ratio = (from: number, actual: number, guess: number): number =>
      guess < 1 ? from : Math.min(RATIO_BOUNDS[1], Math.max(RATIO_BOUNDS[0], move(from, actual / guess)));
    this.head.usual = {
      inputRatio: ratio(usual.inputRatio, learned.inputTokens, learned.guessedTokens),
      promptRatio: ratio(usual.promptRatio, learned.promptTokens, learned.guessedTokens),
      outputTokens: move(usual.outputTokens, learned.outputTokens / requests),
      costRatio: ratio(usual.costRatio, learned.microUsd, learned.expectedMicroUsd),
    };
  }
}

/**
 * When a loan is due; never later than one that is made now, or spoken of now, would be. A clock that has stepped back
 * would otherwise keep the slots of a vanished client for as long as the step was wide.
 */
function dueBy({ status, until }: Loan, now: number): number {
  return Math.min(until, now + (status === "open" || status === "closed" ? LOAN_EXPIRES_MS : FORGET_LOAN_MS));
}

/** The limit of a bucket: a minute's worth is its capacity unless a burst is set. */
export function bucketLimit(limits: Limits, name: BucketName): BucketLimit | undefined {
  const [perMinute, burst] = {
    requests: [limits.requests_per_minute, limits.requests_burst],
    inputTokens: [limits.input_tokens_per_minute, limits.input_tokens_burst],
    outputTokens: [limits.output_tokens_per_minute, limits.output_tokens_burst],
  }[name];
  return perMinute === undefined ? undefined : { perMinute, capacity: burst ?? perMinute };
}

/** What comes over the wire is made whole, not negative, and not absurd. */
const count = (value: number): number =>
  value > 0 && Number.isFinite(value) ? Math.min(MAX_AMOUNT, Math.ceil(value)) : 0;

function clamp(amounts: Amounts): Amounts {
  return {
    requests: count(amounts.requests),
    inputTokens: count(amounts.inputTokens),
    outputTokens: count(amounts.outputTokens),
    microUsd: count(amounts.microUsd),
    slots: count(amounts.slots),
  };
}

/** A share below 1 of each amount, rounded down. */
function scaleDown(amounts: Amounts, share: number): Amounts {
  const of = (value: number): number => Math.floor(value * share);
  return {
    requests: of(amounts.requests),
    inputTokens: of(amounts.inputTokens),
    outputTokens: of(amounts.outputTokens),
    microUsd: of(amounts.microUsd),
    slots: of(amounts.slots),
  };
}
