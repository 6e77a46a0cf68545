/**
 * What isolates and ledgers say to each other. An isolate sends messages; each gives account of what it was lent, hands
 * in audit records, and may ask for more. Everything in a report is a difference, so messages may overtake each other,
 * and each has an id, so one that is delivered twice counts once.
 *
 * Versions of both sides meet during a deploy: fields are only added, and a missing one means what it meant before.
 */
import type { KeyPolicy, Rules } from "../identity/key-record.ts";
import type { Amounts } from "./amounts.ts";

/** How long an isolate may act on what a ledger told it: the bound on revocation and policy changes (design L5). */
export const LEASE_MS = 2_000;
/** How long a ledger waits to hear again of a loan before it books it as `unreported`. Also: of a vanished client's slot. */
export const LOAN_EXPIRES_MS = 30_000;
/** How often an isolate speaks of loans whose requests are still running; twice may fail. */
export const KEEP_ALIVE_MS = 10_000;

/** A question for an allowance. The isolate chooses the loan's id, so that it can disown one whose answer got lost. */
export type Ask = {
  readonly loan: string;
  /** What waits to be admitted this very moment: lent as far as there is any. */
  readonly wanted: Amounts;
  /** What is expected while the lease lasts: lent from plenty only. */
  readonly more: Amounts;
};

/** What the requests that ended did use. */
export type Used = {
  /** Input tokens as limits count them: cache writes included, cache reads not. */
  readonly inputTokens: number;
  readonly outputTokens: number;
  readonly microUsd: number;
  /** From those of them that the upstream gave complete figures for; what estimates are corrected by. */
  readonly learned: Learned | null;
};

export type Learned = {
  readonly requests: number;
  /** Input tokens guessed from the body's size and kind alone. */
  readonly guessedTokens: number;
  readonly inputTokens: number;
  /** All tokens of the prompts, cache reads included. */
  readonly promptTokens: number;
  readonly outputTokens: number;
  /** What the requests were expected to cost, and what they did cost. */
  readonly expectedMicroUsd: number;
  readonly microUsd: number;
};

export type LoanReport = {
  /** Null: the requests ran without a loan, because the ledger could not be reached. */
  readonly loan: string | null;
  /** This much of the loan comes back unspent. */
  readonly unused: Amounts | null;
  /** All that is still out belongs to requests that have been admitted; no more will be. */
  readonly closed: boolean;
  /** What requests that have ended had reserved of the loan, and what they used. */
  readonly ended: Amounts | null;
  readonly used: Used | null;
};

export type Message = {
  readonly id: string;
  /** The ledger's own name, for where the platform does not tell it (another local process asks through the registry). */
  readonly to?: string;
  readonly isolate: string;
  readonly ask: Ask | null;
  readonly loans: readonly LoanReport[];
  /** Loans with requests still running, or still to be admitted; empty where they have been spoken of seconds ago. */
  readonly holding: readonly string[];
  /** Audit records: the text of a JSON array. Empty: none. */
  readonly records: string;
  /** Streams of the key that are open in this isolate. */
  readonly openStreams: number;
  /** How long requests of this isolate have waited for a slot, ms, the longest first. Left out: none waits. */
  readonly waiting?: readonly number[];
};

/** How far a bucket is filled, in whole tokens; `level` is negative in debt. */
export type Level = { readonly capacity: number; readonly perMinute: number; readonly level: number };

/** Where an account stands. Null: no such limit. */
export type AccountState = {
  readonly requests: Level | null;
  readonly inputTokens: Level | null;
  readonly outputTokens: Level | null;
  /** `free`: for the isolate that is answered, without those for which others have waited longer. */
  readonly slots: { readonly limit: number; readonly free: number } | null;
  readonly budget: {
    readonly limitMicroUsd: number;
    readonly spentMicroUsd: number;
    readonly reservedMicroUsd: number;
  } | null;
  /** Requests that are running or may be admitted from a loan. */
  readonly running: number;
};

/** What requests of this account usually turn out to be, beside what is guessed of them. */
export type Usual = {
  /** Counted input tokens for each guessed one. */
  readonly inputRatio: number;
  /** Prompt tokens, cache reads included, for each guessed one. */
  readonly promptRatio: number;
  readonly outputTokens: number;
  /** Actual for expected cost. */
  readonly costRatio: number;
};

export type Answer = {
  /** A key's whole policy, or the rules of a workspace or an upstream. */
  readonly policy: Rules;
  /** Null without a question. */
  readonly lent: Amounts | null;
  /** How long the lease and the policy may be acted on. */
  readonly validMs: number;
  readonly state: AccountState;
  readonly usual: Usual;
};

/** The RPC face of a ledger. */
export interface Ledger {
  /** Takes over a report and lends what is asked for. Null: there is no such key; its records are kept all the same. */
  exchange(message: Message): Promise<Answer | null>;
  /** What a key's ledger enforces; null for a key that does not exist, and for every other account. */
  policy(name?: string): Promise<KeyPolicy | null>;
  /** Puts a changed policy in force. One that is not newer than the stored one changes nothing. */
  putPolicy(policy: Rules): Promise<void>;
}

/** The Durable Object's name for an account; a workspace's own id may look like a key's. */
export const ledgerName = {
  key: (id: string): string => id,
  workspace: (id: string): string => `ws:${id}`,
  workspaceOf: (name: string): string | null => (name.startsWith("ws:") ? name.slice(3) : null),
  upstream: (id: string): string => `up:${id}`,
  upstreamOf: (name: string): string | null => (name.startsWith("up:") ? name.slice(3) : null),
};
