/**
 * Turns of one conversation, one after the other: a message is prepared (placed, fitted, admitted), then its turn is
 * written down, and its answer is called for, read, and ended; then comes the next of the queue.
 *
 * Everything between two awaits is one step of the object. After each await the turn may have been cancelled, or all of
 * the conversation deleted: both fire the job's signal, and whoever comes back from an await looks at it before writing.
 *
 * Promises: a turn that is written down gets one terminal entry, whatever happens to this process; at most one call for an
 * answer is under way; a refusal before its turn is written down leaves nothing behind.
 *
 * Left open: what a call cost whose object died before it was settled is not known here. Its ledger books it from the loan
 * (`unreported`), and the turn is told as estimated.
 */
import type { TurnError, TurnResult } from "../../clients/typescript/protocol.ts";
import { NO_SUCH_CONVERSATION } from "../identity/conversation-id.ts";
import { err, ok, type Result } from "../result.ts";
import type { Failure } from "../wire/errors.ts";
import { newId } from "../wire/ids.ts";
import { answerInLog, type Called, callForAnswer, type Question } from "./answer.ts";
import { assemble } from "./context/assemble.ts";
import { AnswerBuilder } from "./context/builder.ts";
import { withOptions } from "./context/options.ts";
import { awaitingResults } from "./context/tools.ts";
import { CANCELLED, CANCELLED_EARLY, INTERRUPTED, OTHER_WORDS, turnError, UNKNOWN_TURN } from "./failures.ts";
import { fitIn } from "./fitting.ts";
import { lacksRoom, MAX_QUEUED } from "./limits.ts";
import { place, type Said } from "./place.ts";
import type { Incoming, Sender, Sent, Spec } from "./protocol.ts";
import { isOpen } from "./states.ts";
import { type BookParts, type Ending, TurnBook } from "./turn-book.ts";
import { type Admit, TurnCalls } from "./turn-calls.ts";
import type { StoredTurn } from "./turns.ts";
import { NOTHING_SPENT, type Spent } from "./usage.ts";
import { turnView } from "./views.ts";

/** Calls for one turn after the first, because the object died before anything of an answer was there. */
export const MAX_RESTARTS = 3;
/** While a turn runs, whether its viewers may still watch is looked at this often. */
const VERIFY_MS = 1_000;

export type Parts = BookParts & {
  readonly admit: Admit;
  /** Closes the sockets of viewers whose key has died. */
  readonly verify: () => Promise<void>;
  /** Something has happened that lists show: a turn has ended, the time to live begins anew. */
  readonly shown: () => void;
  /** Something has begun or ended: alarms are to be set anew. */
  readonly changed: () => void;
  /** Keeps the object alive. */
  readonly background: (work: Promise<unknown>) => void;
};

/** A message on its way, from the moment that it is looked at until its turn has ended. */
type Job = {
  readonly turn: string;
  readonly incoming: Incoming;
  readonly sender: Sender;
  readonly stop: AbortController;
  /** Answers its sender; of a turn that was stored before, nobody hears it. */
  readonly begun: PromiseWithResolvers<Result<Sent, Failure>>;
  /** Its sender has not been answered: nothing of it is stored. */
  fresh: boolean;
};

export class Runner {
  readonly #parts: Parts;
  readonly #book: TurnBook;
  readonly #ended = new Map<string, PromiseWithResolvers<void>>();
  #job: Job | null = null;
  #gone = false;

  constructor(parts: Parts) {
    this.#parts = parts;
    this.#book = new TurnBook(parts);
  }

  /** A turn runs, waits, or is being prepared. */
  get busy(): boolean {
    return !this.#gone && (this.#job !== null || this.#parts.history.openTurns().length > 0);
  }

  get running(): StoredTurn | undefined {
    return this.#book.running;
  }

  /** Tool calls of the newest answer whose results have not come. */
  get awaiting(): readonly string[] {
    const { leaf, heldResults } = this.#parts.history;
    const newest = leaf === null ? undefined : this.#parts.history.message(leaf);
    const held = new Set(heldResults.map(({ id }) => id));
    return awaitingResults({ messages: newest ? [newest] : [] }).filter((id) => !held.has(id));
  }

  async send(incoming: Incoming, sender: Sender): Promise<Result<Sent, Failure>> {
    for (;;) {
      if (this.#gone) return err(NO_SUCH_CONVERSATION);
      const known = this.#known(incoming);
      if (known) return known;
      const job = this.#job;
      if (!job?.fresh || incoming.clientId === null || job.incoming.clientId !== incoming.clientId) break;
      // The same message is being prepared: what becomes of that one decides about this.
      const begun = await job.begun.promise;
      if (begun.ok && begun.value.kind === "turn") continue;
      if (job.sender.keyId === sender.keyId && wordsOf(job.incoming) === wordsOf(incoming)) return begun;
    }
    if (this.#gone) return err(NO_SUCH_CONVERSATION);
    const { history, log, now } = this.#parts;
    const lacking = lacksRoom(history, log, incoming);
    if (lacking) return err(lacking);
    const job = newJob(newId("turn", now()), incoming, sender, true);
    if (this.busy) return this.#queue(job);
    this.#start(job);
    return job.begun.promise;
  }

  /** Resolves when the turn has ended. */
  async ended(id: string): Promise<Result<TurnResult, Failure>> {
    const { history } = this.#parts;
    for (;;) {
      if (this.#gone) return err(NO_SUCH_CONVERSATION);
      const turn = history.turn(id);
      if (!turn) return err(UNKNOWN_TURN);
      if (!isOpen(turn.state)) {
        const message = turn.answer === null ? undefined : history.message(turn.answer);
        return ok({ ...turnView(turn), message: message ? history.messageView(message) : null });
      }
      const waiting = this.#ended.get(id) ?? Promise.withResolvers<void>();
      this.#ended.set(id, waiting);
      await waiting.promise;
    }
  }

  /** Stops the running turn, or the one that is named; false: there is nothing to stop. */
  cancel(id: string | null): boolean {
    const job = this.#job;
    if (job && (id === null || id === job.turn)) return this.#stop(job);
    if (id === null || this.#parts.history.turn(id)?.state !== "queued") return false;
    this.#drop(id);
    return true;
  }

  /** In a transaction: the branch is left. */
  leaveBranch(): void {
    this.#book.forgetHeld();
  }

  /** The conversation is deleted: nothing is written any more, and nobody waits any longer. */
  abandon(): void {
    this.#gone = true;
    this.#job?.stop.abort();
    if (this.#job) answerSender(this.#job, err(NO_SUCH_CONVERSATION));
    for (const { resolve } of this.#ended.values()) resolve();
    this.#ended.clear();
  }

  /**
   * Sees to whatever is open and has nobody: turns that a death of the object left, and the queue. Does nothing where all
   * is well.
   */
  takeUp(): void {
    if (this.#job || this.#gone) return;
    const turn = this.#book.running;
    if (!turn) {
      this.#next();
      return;
    }
    const { log } = this.#parts;
    if (turn.state !== "cancelling" && !log.hasEvents(turn.id) && turn.restarts < MAX_RESTARTS) {
      this.#book.restart(turn);
      this.#start(newJob(turn.id, turn.incoming, turn.sender, false));
      return;
    }
    const answer = answerInLog(log, turn.id);
    const spent: Spent = { usage: { ...answer.usage, estimated: true }, microUsd: turn.microUsd };
    const whole = answer.finished && answer.stopReason !== "pause_turn";
    if (turn.state === "cancelling") this.#end(turn.id, "stopped", answer, spent, CANCELLED);
    else if (turn.state === "processing" && whole) this.#end(turn.id, "complete", answer, spent, null);
    else this.#end(turn.id, "interrupt", answer, spent, INTERRUPTED);
    this.#next();
  }

  /** A message that has come before, or an id that has. */
  #known(incoming: Incoming): Result<Sent, Failure> | null {
    const { history, log } = this.#parts;
    if (incoming.clientId === null) return null;
    const held = this.#book.heldOf(incoming.clientId);
    if (held?.turn === null) return ok({ kind: "awaiting", awaiting: this.awaiting });
    const turn = held ? history.turn(held.turn) : history.turnByClientId(incoming.clientId);
    // What came to nothing may be said again.
    if (!turn || turn.state === "failed" || (turn.state === "interrupted" && turn.answer === null)) return null;
    if (!held && wordsOf(turn.incoming) !== wordsOf(incoming)) return err(OTHER_WORDS);
    return ok({ kind: "turn", turn: turn.id, state: turn.state, after: log.before(turn.id), known: true });
  }

  #queue({ turn, incoming, sender }: Job): Result<Sent, Failure> {
    const spec = this.#spec();
    if ((incoming.onBusy ?? spec.onBusy) === "reject") {
      return err({ kind: "conflict", message: "A turn is running, and this message was not to wait for its end." });
    }
    if (this.#book.queued.length >= MAX_QUEUED)
      return err({ kind: "limit_reached", message: `${MAX_QUEUED} messages wait for their turn already.` });
    const after = this.#book.queue({ id: turn, incoming, sender, model: withOptions(spec, incoming.options).model });
    this.#parts.changed();
    return ok({ kind: "turn", turn, state: "queued", after, known: false });
  }

  #start(job: Job): void {
    this.#job = job;
    this.#parts.background(this.#run(job));
  }

  /** Never rejects. */
  async #run(job: Job): Promise<void> {
    let calls: TurnCalls | null = null;
    try {
      calls = this.#callsOf(job);
      const stored = this.#parts.history.turn(job.turn);
      const ready = await (stored && stored.state !== "queued"
        ? this.#again(stored, calls)
        : this.#prepare(job, calls));
      if (!ready.ok) await this.#refuse(job, ready.error, calls);
      else if (ready.value) await this.#answer(job, ready.value, calls);
    } catch (bug) {
      logBug("turn_failed", job, bug);
      // Where that fails too, the guard comes by.
      await this.#refuse(job, { kind: "internal" }, calls).catch((more: unknown) =>
        logBug("turn_left_open", job, more),
      );
    }
    // Whatever happened, its sender hears something.
    answerSender(job, err({ kind: "internal" }));
    this.#job = null;
    try {
      this.#next();
    } catch (bug) {
      logBug("queue_left_waiting", job, bug);
      this.#parts.changed();
    }
  }

  /** Null: there is no turn in it yet. */
  async #prepare(job: Job, calls: TurnCalls): Promise<Result<Question | null, Failure>> {
    const { history, now, verify } = this.#parts;
    const spec = this.#spec();
    const at = now();
    const { turn, incoming, sender } = job;
    const said = place(history, incoming, { id: newId("msg", at), turn, createdAt: at });
    if (!said.ok) return said;
    if (said.value.kind === "partial") return this.#hold(job, said.value);
    const { message, answers, path } = said.value;
    const wanted = { spec, options: incoming.options, path, turn, now: at };
    const fitted = await fitIn(calls, wanted, this.#book.shelf);
    if (!fitted.ok) return fitted;
    const [admitted] = await Promise.all([calls.open("turn", fitted.value.assembled), verify().catch(() => {})]);
    if (!admitted.ok) return admitted;
    if (calls.cancelled) {
      admitted.value.release();
      return err(CANCELLED_EARLY);
    }
    const { cut } = fitted.value;
    const { model } = withOptions(spec, incoming.options);
    let after: number;
    try {
      after = this.#book.begin({ id: turn, incoming, sender, model, message, answers, cut });
    } catch (bug) {
      admitted.value.release();
      throw bug;
    }
    answerSender(job, ok({ kind: "turn", turn, state: "processing", after, known: false }));
    this.#parts.changed();
    return ok({ spec, options: incoming.options, path: fitted.value.path, admitted: admitted.value });
  }

  /** Of a turn that is written down already. It fitted when it began. */
  async #again(turn: StoredTurn, calls: TurnCalls): Promise<Result<Question, Failure>> {
    const { history } = this.#parts;
    const spec = this.#spec();
    const path = history.path(turn.message);
    const { options } = turn.incoming;
    const assembled = assemble(spec, options, path, { stream: true });
    if (!assembled.ok) return assembled;
    const admitted = await calls.open("turn", assembled.value);
    return admitted.ok ? ok({ spec, options, path, admitted: admitted.value }) : admitted;
  }

  #hold(job: Job, { results, awaiting }: Extract<Said, { kind: "partial" }>): Result<null, Failure> {
    this.#book.hold(results, job.incoming);
    if (this.#parts.history.turn(job.turn)) {
      const message = `Its tool results are kept, and those of ${awaiting.join(", ")} are still awaited.`;
      return err({ kind: "invalid_request", message });
    }
    this.#parts.shown();
    answerSender(job, ok({ kind: "awaiting", awaiting }));
    return ok(null);
  }

  async #answer(job: Job, question: Question, calls: TurnCalls): Promise<void> {
    const { verify, background } = this.#parts;
    const builder = new AnswerBuilder();
    const timer = setInterval(() => background(verify().catch(() => {})), VERIFY_MS);
    let called: Called;
    try {
      called = await callForAnswer(question, calls, builder, (texts) => this.#book.events(job.turn, texts));
    } finally {
      clearInterval(timer);
    }
    const spent = await calls.spent();
    const { error, organization } = called;
    if (calls.cancelled) this.#end(job.turn, "stopped", builder, spent, CANCELLED, organization);
    else if (error) this.#end(job.turn, "fail", builder, spent, error, organization);
    else this.#end(job.turn, "complete", builder, spent, null, organization);
  }

  /** A message that gets no answer. If it is stored its turn has failed; else its sender is told, and nobody else. */
  async #refuse(job: Job, failure: Failure, calls: TurnCalls | null): Promise<void> {
    answerSender(job, err(failure));
    const { history, log } = this.#parts;
    const spent = calls ? await calls.spent() : NOTHING_SPENT;
    if (this.#gone) return;
    const turn = history.turn(job.turn);
    if (!turn) history.charge(spent);
    else if (turn.state === "queued") this.#end(turn.id, "fail", null, spent, turnError(failure));
    else if (turn.state === "cancelling") this.#end(turn.id, "stopped", answerInLog(log, turn.id), spent, CANCELLED);
    else this.#end(turn.id, "fail", answerInLog(log, turn.id), spent, turnError(failure));
  }

  #stop(job: Job): boolean {
    const turn = this.#parts.history.turn(job.turn);
    if (turn && !isOpen(turn.state)) return false;
    if (turn?.state === "queued") this.#drop(turn.id);
    else if (turn) this.#book.cancelling(turn);
    else answerSender(job, err(CANCELLED_EARLY));
    job.stop.abort();
    return true;
  }

  /** Takes a turn out of the queue. */
  #drop(id: string): void {
    this.#end(id, "cancel", null, NOTHING_SPENT, CANCELLED);
  }

  #end(
    id: string,
    by: Ending["by"],
    answer: AnswerBuilder | null,
    spent: Spent,
    error: TurnError | null,
    organization: string | null = null,
  ): void {
    if (this.#gone) return;
    try {
      this.#book.end(id, { by, answer, organization, spent, error });
      this.#parts.shown();
    } finally {
      // Whoever waits looks for himself whether it has.
      this.#ended.get(id)?.resolve();
      this.#ended.delete(id);
      this.#parts.changed();
    }
  }

  /** The next of the queue begins, if nothing else runs. A turn that could not be ended is the guard's, and comes first. */
  #next(): void {
    if (this.#gone || this.#job || this.#book.running) return;
    const [turn] = this.#book.queued;
    if (turn) this.#start(newJob(turn.id, turn.incoming, turn.sender, false));
    this.#parts.changed();
  }

  #callsOf({ turn, sender, fresh, stop: { signal } }: Job): TurnCalls {
    const { id, template = null } = this.#spec();
    return new TurnCalls(this.#parts.admit, { conversation: id, template, turn, sender, fresh, signal });
  }

  #spec(): Spec {
    const { spec } = this.#parts.history;
    if (!spec) throw new Error("a turn without a conversation");
    return spec;
  }
}

function newJob(turn: string, incoming: Incoming, sender: Sender, fresh: boolean): Job {
  return { turn, incoming, sender, fresh, stop: new AbortController(), begun: Promise.withResolvers() };
}

function answerSender(job: Job, answer: Result<Sent, Failure>): void {
  job.fresh = false;
  job.begun.resolve(answer);
}

/** What makes two messages the same. */
function wordsOf({ content, options, edit, regenerate }: Incoming): string {
  return JSON.stringify([content, options, edit, regenerate]);
}

function logBug(msg: string, { turn }: Job, bug: unknown): void {
  console.error(JSON.stringify({ level: "error", msg, turn, error: String(bug) }));
}
