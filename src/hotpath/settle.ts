/**
 * The end of an authenticated call, told exactly once: what it used to the ledgers that lent it, one audit record to its
 * key's, and one line to the log, whatever became of the call.
 */
import type { AuditRecord, Denial, Outcome } from "../audit/record.ts";
import { CallTimer } from "../call-timer.ts";
import type { AppContext, Call, LogFacts } from "../context.ts";
import type { Acts } from "../guardrails/policy.ts";
import { speakerName } from "../identity/rights.ts";
import {
  type Access,
  type HeldShare,
  LeaseBook,
  type Reservation,
  type TravellingShare,
} from "../ledger/lease-book.ts";
import { recordLine, writeLine } from "../log.ts";
import { ok, type Result } from "../result.ts";
import { type AnswerFacts, noFacts } from "../wire/anthropic/answer.ts";
import { costMicroUsd } from "../wire/anthropic/prices.ts";
import { within } from "../within.ts";
import type { Caller } from "./authenticate.ts";
import { clock, leaseBook } from "./leases.ts";
import { countedInput, type Guess, lesson } from "./need.ts";
import { priceTable } from "./price-table.ts";

/** Longest text taken from a request header into a record. */
const MAX_HEADER_CHARS = 200;

/** A client may take its time with the last words of an answer; what its call has borrowed is lent for 30 s. */
const MAX_SIGHT_MS = 10_000;

/** What is known of a call, collected while it runs. Plain data: it travels with a call that runs elsewhere. */
export type CallFacts = {
  readonly requestId: string;
  readonly traceId: string;
  /** ms since the epoch. */
  readonly startedAt: number;
  readonly method: string;
  readonly route: string;
  /** Left out in orders of a release that knew no other: `anthropic`. */
  readonly dialect?: AuditRecord["dialect"];
  readonly keyId: string;
  readonly workspace: string;
  readonly sessionId: string | null;
  readonly agentId: string | null;
  readonly parentAgentId: string | null;
  readonly client: string | null;
  modelRequested: string | null;
  stream: boolean;
  maxTokens: number | null;
  guess: Guess | null;
  admission: AuditRecord["admission"];
  ledgerMs: number | null;
  /** What it was made for, or is about. Left out: no conversation. */
  conversationId?: string;
  turnId?: string;
  /** Who a foreign token spoke for; the template its words come from; counts of guardrails' findings, as JSON text. */
  subject?: string | null;
  template?: string | null;
  templateVersion?: number | null;
  findings?: string | null;
  /** What guardrails look for in its answer: an object that makes the answer takes note of it. */
  watchFor?: Acts | null;
};

function factsOf(
  { requestId, traceId, startedAt, headers }: Call,
  method: string,
  { policy, rights }: Pick<Caller, "policy" | "rights">,
  route: string,
  dialect: AuditRecord["dialect"],
): CallFacts {
  const header = (name: string): string | null => headers.get(name)?.slice(0, MAX_HEADER_CHARS) ?? null;
  return {
    requestId,
    traceId,
    startedAt,
    method,
    route,
    dialect,
    keyId: policy.id,
    workspace: policy.workspace,
    sessionId: header("x-claude-code-session-id"),
    agentId: header("x-claude-code-agent-id"),
    parentAgentId: header("x-claude-code-parent-agent-id"),
    client: header("user-agent"),
    modelRequested: null,
    stream: false,
    maxTokens: null,
    guess: null,
    admission: null,
    ledgerMs: null,
    subject: speakerName(rights),
    template: null,
    templateVersion: null,
    findings: null,
  };
}

export type Ending = {
  readonly status: number;
  readonly outcome: Outcome;
  readonly facts?: AnswerFacts;
  readonly errorType?: string | null;
  readonly denial?: Denial | null;
  readonly drained?: boolean;
};

/** What guardrails saw in an answer on its way to the client. */
export type Seen = {
  /** The record's findings, with these beside those of the request. */
  readonly findings: string | null;
  /** How the call ended if the answer was withheld. */
  readonly ending: Partial<Ending> | null;
};

/** What an ended call has come to. */
export type Settled = { readonly ending: Ending; readonly facts: AnswerFacts; readonly microUsd: number };

/** Where the end of a call is told. */
export type Surroundings = {
  readonly access: Access;
  readonly db: D1Database;
  readonly log: LogFacts;
  readonly logJoinMs: number;
};

/** The answer to a call that the gateway has answered itself. */
export function settled(record: CallRecord, response: Response): Result<Response, never> {
  record.settle({ status: response.status, outcome: "complete" });
  return ok(response);
}

export class CallRecord {
  readonly facts: CallFacts;
  upstreamRequestId: string | null = null;
  /** The upstream asked last, and how often one was asked. */
  upstream: string | null = null;
  attempts = 0;
  cache: AuditRecord["cache"] = null;
  /** The answer is an earlier call's. */
  replayed = false;
  firstByteAt: number | null = null;
  /** Sees the call's end before it is settled, and may say it otherwise. */
  onEnd: ((ending: Ending) => Ending) | null = null;
  /** Told what was booked, once all that the call held here has been given back; the ledgers hear of it a moment later. */
  onSettled: ((settled: Settled) => void) | null = null;
  readonly #around: Surroundings;
  #settled = Promise.withResolvers<unknown>();
  #reservation: Reservation | null = null;
  readonly #alsoHeld = new Set<HeldShare>();
  #timer: CallTimer | null = null;
  #watched: PromiseWithResolvers<Seen | null> | null = null;
  #ended = false;

  constructor(facts: CallFacts, around: Surroundings) {
    this.facts = facts;
    this.#around = around;
    // From the start: without it the platform may end the call with its client, before anyone has settled it.
    around.access.background(this.#settled.promise);
  }

  /** The call is admitted: what it holds is kept for it until it has ended. */
  hold(reservation: Reservation): void {
    this.#reservation = reservation;
    if (this.facts.stream) for (const { borrower } of reservation.shares) borrower.openStreams++;
    this.#timer = new CallTimer(clock, LeaseBook.keepAliveMs, () => {
      const { access } = this.#around;
      const shares = [...reservation.shares, ...this.#alsoHeld];
      access.background(leaseBook.keepAlive({ shares }, access));
    });
  }

  /** A share for which the call counts only for a while, at an upstream; what comes back lets go of it. */
  holdAlso(held: HeldShare): () => void {
    this.#alsoHeld.add(held);
    return () => {
      if (this.#alsoHeld.delete(held)) leaseBook.releaseUpstream(held, this.access);
    };
  }

  get access(): Access {
    return this.#around.access;
  }

  /** Runs from the admission to the settlement. */
  get timer(): CallTimer {
    if (!this.#timer) throw new Error("not admitted, or settled");
    return this.#timer;
  }

  /** The call goes on elsewhere, and is settled there. */
  handOver(): { shares: TravellingShare[]; by: Reservation["by"] } {
    const reservation = this.#release();
    if (!reservation) throw new Error("handed over without a reservation");
    this.#ended = true;
    this.#settled.resolve(undefined);
    return { shares: leaseBook.handOver(reservation), by: reservation.by };
  }

  /** The call did not arrive where it was to go on: it is settled here after all. */
  takeBack(shares: readonly TravellingShare[], by: Reservation["by"]): void {
    this.#ended = false;
    this.#settled = Promise.withResolvers();
    this.#around.access.background(this.#settled.promise);
    this.hold(leaseBook.adopt(shares, by));
  }

  /**
   * Somebody looks at the answer on its way: the account of the call is given when `saw` has told what there was, and not
   * much later than it would be anyway.
   */
  watched(): void {
    this.#watched = Promise.withResolvers();
  }

  /** Null: nothing, or there was no answer. */
  saw(seen: Seen | null): void {
    this.#watched?.resolve(seen);
  }

  /** Writes the record. A second ending of the same call is ignored. */
  settle(end: Ending): void {
    if (this.#ended) return;
    this.#ended = true;
    const ending = this.onEnd?.(end) ?? end;
    const answer = ending.facts ?? noFacts();
    this.#settled.resolve(this.#tell(ending, answer, this.#release(), clock.now() - this.facts.startedAt));
  }

  async #tell(ended: Ending, answer: AnswerFacts, held: Reservation | null, durationMs: number): Promise<void> {
    const { facts } = this;
    const seen = this.#watched && (await within(MAX_SIGHT_MS, this.#watched.promise).catch(() => null));
    if (seen) facts.findings = seen.findings;
    const ending = { ...ended, ...seen?.ending };
    const { access, db, log, logJoinMs } = this.#around;
    const { usage } = answer;
    const model = answer.model ?? facts.modelRequested;
    const microUsd = model === null ? 0 : costMicroUsd(await priceTable.upToDate(db), model, usage, facts.startedAt);
    const learned =
      facts.guess && ended.outcome === "complete" && !usage.estimated && usage.outputTokens > 0
        ? lesson(facts.guess, usage, microUsd)
        : null;
    const used = { inputTokens: countedInput(usage), outputTokens: usage.outputTokens, microUsd, learned };
    const record = JSON.stringify(this.#record(ending, answer, microUsd, durationMs));
    const line = recordLine(facts.traceId, log, ending.status, record);
    const told = leaseBook.settle(facts.keyId, held, used, record, access);
    this.onSettled?.({ ending, facts: answer, microUsd });
    await Promise.all([told, writeLine(line, logJoinMs, clock.wait)]);
  }

  #release(): Reservation | null {
    const reservation = this.#reservation;
    this.#reservation = null;
    this.#timer?.stop();
    for (const held of this.#alsoHeld) leaseBook.releaseUpstream(held, this.access);
    this.#alsoHeld.clear();
    if (this.facts.stream) for (const { borrower } of reservation?.shares ?? []) borrower.openStreams--;
    return reservation;
  }

  /** Counts of 0 and what is not known are left out: that is what their absence means. */
  #record(
    ending: Ending,
    { usage, model, errorType, stopReason }: AnswerFacts,
    microUsd: number,
    durationMs: number,
  ): AuditDraft {
    const { facts } = this;
    return {
      request_id: facts.requestId,
      upstream_request_id: this.upstreamRequestId ?? undefined,
      key_id: facts.keyId,
      workspace: facts.workspace,
      at: facts.startedAt,
      route: facts.route,
      method: facts.method,
      dialect: facts.dialect ?? "anthropic",
      model_requested: facts.modelRequested ?? undefined,
      model: model ?? undefined,
      stream: facts.stream ? 1 : undefined,
      status: ending.status,
      error_type: ending.errorType ?? errorType ?? undefined,
      outcome: ending.outcome,
      denial: ending.denial ?? undefined,
      admission: facts.admission ?? undefined,
      ledger_ms: facts.ledgerMs ?? undefined,
      drained: ending.drained ? 1 : undefined,
      upstream: this.upstream ?? undefined,
      attempts: this.attempts || undefined,
      cache: this.cache ?? undefined,
      replayed: this.replayed ? 1 : undefined,
      estimated: usage.estimated ? 1 : undefined,
      input_tokens: usage.inputTokens || undefined,
      output_tokens: usage.outputTokens || undefined,
      cache_creation_5m_input_tokens: usage.cacheWrite5mTokens || undefined,
      cache_creation_1h_input_tokens: usage.cacheWrite1hTokens || undefined,
      cache_read_input_tokens: usage.cacheReadTokens || undefined,
      thinking_tokens: usage.thinkingTokens || undefined,
      web_search_requests: usage.webSearchRequests || undefined,
      web_fetch_requests: usage.webFetchRequests || undefined,
      cost_micro_usd: microUsd || undefined,
      ttfb_ms: this.firstByteAt === null ? undefined : this.firstByteAt - facts.startedAt,
      duration_ms: durationMs,
      stop_reason: stopReason ?? undefined,
      session_id: facts.sessionId ?? undefined,
      agent_id: facts.agentId ?? undefined,
      parent_agent_id: facts.parentAgentId ?? undefined,
      client: facts.client ?? undefined,
      conversation_id: facts.conversationId,
      turn_id: facts.turnId,
      subject: facts.subject ?? undefined,
      template: facts.template ?? undefined,
      template_version: facts.templateVersion ?? undefined,
      findings: facts.findings ?? undefined,
    };
  }
}

/** The record of a call whose caller is known: from here on every way out of it goes through `settle`. */
export function openRecord(
  c: AppContext,
  caller: Caller,
  route: string,
  dialect: AuditRecord["dialect"] = "anthropic",
): CallRecord {
  return recordOf(c.var.call, c.req.raw.method, c.env.DB, caller, route, dialect);
}

/** The same of a call that need not have come to the door. */
export function recordOf(
  call: Call,
  method: string,
  db: D1Database,
  caller: Caller,
  route: string,
  dialect: AuditRecord["dialect"],
): CallRecord {
  const { log, settings } = call;
  log.settles = true;
  const facts = factsOf(call, method, caller, route, dialect);
  return new CallRecord(facts, { access: caller.access, db, log, logJoinMs: settings.logJoinMs });
}

type Always =
  | "request_id"
  | "key_id"
  | "workspace"
  | "at"
  | "route"
  | "method"
  | "dialect"
  | "status"
  | "outcome"
  | "duration_ms";
/** A record as it travels. */
type AuditDraft = Pick<AuditRecord, Always> & {
  readonly [K in Exclude<keyof AuditRecord, Always>]?: AuditRecord[K] | undefined;
};
