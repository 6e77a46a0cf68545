/**
 * A world in which ledgers and isolates meet: time that passes only when told to, a network that delays, loses and
 * repeats, isolates that die, a ledger that restarts, clocks that step. Driven by seeds, so that every run can be had
 * again.
 */
import type { KeyPolicy, Limits, Rules } from "../../src/identity/key-record.ts";
import { KEY_DEFAULTS } from "../../src/identity/key-record.ts";
import { Account, type Head, type Loan, type Unreported } from "../../src/ledger/account.ts";
import { type Access, LeaseBook } from "../../src/ledger/lease-book.ts";
import type { Answer, Ledger, Message } from "../../src/ledger/protocol.ts";

export const START = Date.UTC(2026, 10, 21, 12);

/** Time that passes only when the simulation says so. */
export class Time {
  at: number;
  #sleepers: { until: number; wake: () => void }[] = [];

  constructor(at = START) {
    this.at = at;
  }

  clock(offset: () => number = () => 0) {
    return {
      now: () => this.at + offset(),
      wait: (ms: number) => new Promise<void>((wake) => this.#sleepers.push({ until: this.at + ms, wake })),
    };
  }

  async pass(ms: number): Promise<void> {
    const end = this.at + ms;
    for (;;) {
      // Everything that follows from what has happened until now happens before time goes on.
      await new Promise((done) => setImmediate(done));
      let next = Number.POSITIVE_INFINITY;
      for (const { until } of this.#sleepers) next = Math.min(next, until);
      if (next > end) break;
      this.at = Math.max(this.at, next);
      const due = this.#sleepers.filter(({ until }) => until <= this.at);
      this.#sleepers = this.#sleepers.filter(({ until }) => until > this.at);
      for (const { wake } of due) wake();
    }
    this.at = end;
  }
}

/** Numbers in [0, 1) from a seed (mulberry32). */
export function randomFrom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

export function keyPolicy(limits: Limits, budget: Rules["budget"] = null, more: Partial<KeyPolicy> = {}): KeyPolicy {
  return {
    ...KEY_DEFAULTS,
    id: "key_1",
    version: 1,
    workspace: "w",
    name: "n",
    scopes: ["messages"],
    models: null,
    limits,
    budget,
    expires_at: null,
    revoked_at: null,
    secrets: [],
    ...more,
  };
}

export type Network = { readonly delayMs: number; readonly lose: number; readonly repeat: number };

/** A ledger around the real account, on the other side of a network. What it stores survives its restart. */
export class SimulatedLedger implements Ledger {
  account: Account;
  calls = 0;
  clockOffset = 0;
  readonly records: string[] = [];
  readonly unreported: Unreported[] = [];
  reportedMicroUsd = 0;
  readonly #known = new Set<string>();
  /** What the object's storage holds: only what the account marks as changed gets there. */
  readonly #stored = { head: "", loans: new Map<string, string>(), spend: new Map<number, number>() };

  rules: Rules;
  readonly time: Time;
  network: Network;
  readonly random: () => number;

  constructor(rules: Rules, time: Time, network: Network, random: () => number) {
    this.rules = rules;
    this.time = time;
    this.network = network;
    this.random = random;
    this.account = new Account(rules, undefined, [], []);
    this.#store();
  }

  get now(): number {
    return this.time.at + this.clockOffset;
  }

  async exchange(message: Message): Promise<Answer | null> {
    this.calls++;
    const { random, network, time } = this;
    // What is sent is a copy, as it is over RPC.
    const sent = structuredClone(message);
    const clock = time.clock();
    await clock.wait(Math.ceil(random() * network.delayMs));
    if (random() < network.lose) throw new Error("the network lost the call");
    const answer = this.#handle(sent);
    if (random() < network.repeat) void clock.wait(random() * 5_000).then(() => this.#handle(sent));
    await clock.wait(Math.ceil(random() * network.delayMs));
    if (random() < network.lose) throw new Error("the network lost the answer");
    return structuredClone(answer);
  }

  async policy(): Promise<KeyPolicy | null> {
    return null;
  }

  async putPolicy(rules: Rules): Promise<void> {
    this.rules = rules;
    this.account.setRules(rules, this.now);
    this.#store();
  }

  /** What the alarm does. */
  expire(): void {
    this.unreported.push(...this.account.expire(this.now));
    this.#store();
  }

  restart(): void {
    const { head, loans, spend } = this.#stored;
    const kept = [...loans.values()].map((text) => JSON.parse(text) as Loan);
    this.account = new Account(this.rules, JSON.parse(head) as Head, kept, spend);
  }

  #store(): void {
    const { head, loans, spend, changedLoans, changedDays } = this.account;
    this.#stored.head = JSON.stringify(head);
    for (const id of changedLoans) {
      const loan = loans.get(id);
      if (loan) this.#stored.loans.set(id, JSON.stringify(loan));
      else this.#stored.loans.delete(id);
    }
    for (const day of changedDays) this.#stored.spend.set(day, spend.get(day) ?? 0);
    changedLoans.clear();
    changedDays.clear();
  }

  #handle(message: Message): Answer {
    const { now, account } = this;
    const first = !this.#known.has(message.id);
    this.#known.add(message.id);
    if (first) {
      for (const report of message.loans) {
        const corrected = account.report(report, now);
        if (corrected) this.unreported.push(corrected);
        this.reportedMicroUsd += report.used?.microUsd ?? 0;
      }
      account.keep(message.holding, now);
      account.turns.heard(message.isolate, message.waiting ?? [], now);
      if (message.records !== "") this.records.push(...(JSON.parse(message.records) as string[]));
    }
    const { ask } = message;
    const lent = ask && first ? account.lend(ask.loan, ask.wanted, ask.more, now, message.isolate) : null;
    this.#store();
    return {
      policy: this.rules,
      lent,
      validMs: account.validMs(now),
      state: account.state(now, message.isolate),
      usual: account.head.usual,
    };
  }
}

/** An isolate: a lease book, and what its requests keep alive. */
export class Isolate {
  readonly book: LeaseBook;
  dead = false;
  readonly #access: Omit<Access, "since">;

  constructor(
    time: Time,
    ledger: (name: string) => Ledger,
    deadlineMs: number,
    offset: () => number = () => 0,
    stored: () => Promise<Rules | null> = () => Promise.reject(new Error("the database is away")),
  ) {
    this.book = new LeaseBook(time.clock(offset));
    this.#access = {
      deadlineMs,
      background: (work) => void work,
      storedRules: () => stored(),
      // A dead isolate sends nothing any more, and hears nothing.
      ledger: (name) => (this.dead ? SILENT : ledger(name)),
    };
  }

  /** That of a request which comes at this moment. */
  get access(): Access {
    return { ...this.#access, since: this.book.now };
  }
}

const never = new Promise<never>(() => {});
const SILENT: Ledger = { exchange: () => never, policy: () => never, putPolicy: () => never };
