/**
 * An answer that is made once and read by many: by calls that come while it is made, and by those that come while it is
 * kept. The object owns the upstream call, so that the answer is made to its end whoever leaves; it goes on for nobody as
 * long as a drain does (MAX_DRAIN_MS). Then it is stopped and settled with an estimate.
 *
 * What is kept survives the object: it is written before any reader sees the answer's end. A run does not: if the object
 * dies with it, its loans expire and are booked, its readers' connections break, what it had written is void, and
 * whoever asks next is the first again.
 *
 * Accepted: a clock that leaps ahead by more than an answer's life ends it, since an object that sleeps can't tell that
 * from time that has passed. One that leaps back never makes it longer than its life from then on.
 */
import { DurableObject } from "cloudflare:workers";
import { MAX_DRAIN_MS } from "../hotpath/forward.ts";
import { clock } from "../hotpath/leases.ts";
import { carryOut, declineOrder, failedAnswer, type Order, only, orderBody, readOrder } from "../hotpath/remote.ts";
import type { Ending } from "../hotpath/settle.ts";
import { within } from "../within.ts";
import {
  type AnswerObject,
  ATTACH_HEADER,
  type Claim,
  type Keep,
  RUN_HEADER,
  type RunEnd,
  type RunOrder,
  UPLOAD_HEADER,
} from "./protocol.ts";
import { type Head, PIECES_TABLE, type Reader, Run } from "./run.ts";
import { CLAIM_MS, PATIENCE_MS, Turns, type Verdict } from "./turns.ts";
import { type Reading, readThrough } from "./upload.ts";

/** After so long it is looked whether anything is left of a run that came to nothing. */
const SWEEP_MS = 600_000;
/** While a run is under way or still read, the object is looked at again after so long. */
const GRACE_MS = 60_000;
/** A client error that says nothing about the request: of the upstream's credential, its load, or its limits. */
const NOT_THE_CLIENTS = new Set([401, 402, 403, 407, 408, 409, 425, 429]);

const KEPT_TABLE =
  "CREATE TABLE IF NOT EXISTS kept (one INTEGER PRIMARY KEY CHECK (one = 1), run TEXT NOT NULL, about TEXT NOT NULL, expires_at INTEGER NOT NULL)";

/** An answer in storage, beside its bytes. */
type Kept = {
  readonly fingerprint: string;
  readonly head: Head;
  readonly bytes: number;
  readonly end: RunEnd;
  readonly keepMs: number;
  /** Of the upload that it is the answer to. */
  readonly uploaded?: string | null;
};
type KeptRow = { readonly run: string; readonly about: string; readonly expires_at: number };

/** What became of a run. `whole`: its readers have all that there is, be it a failure. */
type Over =
  | { readonly kept: false; readonly whole: boolean; readonly end: RunEnd }
  | { readonly kept: boolean; readonly whole: boolean; readonly end: RunEnd; readonly head: Head };

type Known = {
  readonly run: Run;
  readonly end: PromiseWithResolvers<RunEnd>;
  /** The hash of what was uploaded; null: nothing was, or not all of it. */
  readonly uploaded: Promise<string | null>;
};

/** It died, or was dropped, between two questions of the same call. */
const GONE = only({ kind: "unavailable", what: "The answer of the first request", retryAfterMs: 1_000 });
/** What nobody is there to hear. */
const DESERTED = only({ kind: "unavailable", what: "The answer", retryAfterMs: 1_000 });

export class Answer extends DurableObject<Env> implements Omit<AnswerObject, "fetch"> {
  readonly #turns = new Turns((ms, act) => {
    const timer = setTimeout(act, ms);
    return () => clearTimeout(timer);
  });
  /** Runs that can be read: the one under way or kept, and for a moment those that came to nothing. */
  readonly #runs = new Map<string, Known>();
  /** Calls that wait to see whether the run they would join comes to nothing. */
  readonly #apart = new Set<string>();
  #kept: { readonly id: string; readonly keepMs: number; expiresAt: number } | null = null;

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env);
    const { sql } = ctx.storage;
    if (sql.exec("SELECT 1 FROM sqlite_master WHERE name = 'kept'").toArray().length === 0) return;
    const [row] = sql.exec<KeptRow>("SELECT run, about, expires_at FROM kept").toArray();
    // What else there is was left by a run that died.
    sql.exec("DELETE FROM pieces WHERE run IS NOT ?", row?.run ?? null);
    if (!row) return;
    const { fingerprint, head, bytes, end, keepMs, uploaded = null } = JSON.parse(row.about) as Kept;
    this.#kept = { id: row.run, keepMs, expiresAt: row.expires_at };
    this.#know(Run.kept(row.run, sql, head, bytes), Promise.resolve(uploaded)).resolve(end);
    this.#turns.keep(fingerprint, row.run);
  }

  async claim({ token, fingerprint, maxAgeMs, apart }: Claim): Promise<Verdict> {
    this.#expire(clock.now(), maxAgeMs);
    const turn = (): Promise<Verdict> => new Promise((tell) => this.#turns.ask(token, fingerprint, tell));
    const verdict = await turn();
    if (verdict.kind !== "attach" || !apart) return verdict;
    this.#apart.add(token);
    const failed = await this.#failsSoon(verdict.run);
    if (!this.#apart.delete(token)) return { kind: "busy" };
    return failed ? turn() : verdict;
  }

  async release(token: string): Promise<void> {
    this.#apart.delete(token);
    this.#turns.release(token);
  }

  async ending(run: string): Promise<RunEnd | null> {
    return (await this.#runs.get(run)?.end.promise) ?? null;
  }

  override async fetch(request: Request): Promise<Response> {
    const attach = request.headers.get(ATTACH_HEADER);
    if (attach !== null) return this.#attach(attach, request.headers.get(UPLOAD_HEADER), request.signal);
    const { claim, keep, upload } = JSON.parse(request.headers.get(RUN_HEADER) ?? "") as RunOrder;
    const order = readOrder(request);
    const body = upload ? request.body : await orderBody(request);
    if (body === null) {
      this.#turns.release(claim.token);
      const { env, ctx } = this;
      const gone = await carryOut(order, null, { env, ctx, signal: request.signal });
      return gone.ok ? gone.value : failedAnswer(gone.error);
    }
    this.#expire(clock.now());
    const id = crypto.randomUUID();
    const verdict = this.#turns.begin(claim.fingerprint, id);
    if (verdict.kind !== "run") return declineOrder(verdict);
    if (!upload || body instanceof Uint8Array) return this.#run(id, claim, keep, order, body, null, request.signal);
    const passed = new FixedLengthStream(upload.bytes);
    const reading = readThrough(body, upload, passed.writable);
    return this.#run(id, claim, keep, order, passed.readable, reading, request.signal);
  }

  override async alarm(): Promise<void> {
    const now = clock.now();
    this.#expire(now);
    if (this.#kept) await this.ctx.storage.setAlarm(Math.max(this.#kept.expiresAt, now + 1));
    else if (this.#runs.size > 0 || !this.#turns.idle) await this.ctx.storage.setAlarm(now + GRACE_MS);
    else await this.ctx.blockConcurrencyWhile(() => this.ctx.storage.deleteAll());
  }

  /** A reader gets the answer from its first byte on, and no sooner than it begins. */
  async #read(run: Run, reader: Reader, signal: AbortSignal): Promise<Response> {
    if (signal.aborted) reader.leave();
    signal.addEventListener("abort", () => reader.leave(), { once: true });
    const beginning = await run.beginning;
    if (!beginning.ok) {
      reader.leave();
      return failedAnswer(beginning.why);
    }
    const { status, headers, hasBody } = beginning.head;
    if (!hasBody) reader.leave();
    return new Response(hasBody ? run.stream(reader) : null, { status, headers: headers.map(([...pair]) => pair) });
  }

  async #attach(id: string, uploaded: string | null, signal: AbortSignal): Promise<Response> {
    const known = this.#runs.get(id);
    if (!known) return failedAnswer(GONE);
    const { run } = known;
    if (uploaded !== null) {
      const first = await known.uploaded;
      if (first !== uploaded) return failedAnswer(first === null ? GONE : only({ kind: "idempotency_mismatch" }));
    }
    if (!run.keepable) {
      return failedAnswer(
        only({ kind: "conflict", message: "The first request is running, and its answer is too large to be shared." }),
      );
    }
    const answer = await this.#read(run, run.join(), signal);
    answer.headers.set("age", this.#ageOf(id));
    return answer;
  }

  /** How long ago an answer was complete, in seconds; 0 for one that is being made. */
  #ageOf(id: string): string {
    const kept = this.#kept?.id === id ? this.#kept : null;
    const ms = kept ? clock.now() - (kept.expiresAt - kept.keepMs) : 0;
    return String(Math.max(0, Math.floor(ms / 1000)));
  }

  /** Whether a run is over within PATIENCE_MS without having begun to answer as it should. */
  async #failsSoon(id: string): Promise<boolean> {
    const known = this.#runs.get(id);
    if (!known) return true;
    const beginning = await within(PATIENCE_MS, known.run.beginning).catch(() => null);
    if (beginning === null || (beginning.ok && beginning.head.status === 200)) return false;
    // Until then it is still the run that whoever asks is sent to.
    await known.end.promise;
    return true;
  }

  #run(
    id: string,
    { fingerprint }: Claim,
    keep: Keep,
    order: Order,
    body: Uint8Array | ReadableStream<Uint8Array>,
    upload: Reading | null,
    signal: AbortSignal,
  ): Promise<Response> {
    const run = new Run(id, this.ctx.storage.sql, () => this.#prepare(clock.now() + SWEEP_MS));
    // Known from this very moment: those who waited have been told of it.
    const end = this.#know(run, upload?.hash ?? Promise.resolve(null));
    const reader = run.join();
    const make = async (): Promise<void> => {
      const over = await this.#make(
        run,
        keep,
        order,
        body,
        () => signal.aborted || (reader.left && reader.at < run.bytes),
      );
      upload?.stop();
      const uploaded = (await upload?.hash) ?? null;
      const whole = upload === null || uploaded !== null;
      const kept = over.kept && whole && this.#keep(run, fingerprint, keep.ms, over.head, over.end, uploaded);
      if (!kept) {
        this.#turns.end(id);
        this.#retire(run);
      }
      run.finish(over.whole ? "whole" : "broken");
      end.resolve(over.end);
    };
    this.ctx.waitUntil(make());
    return this.#read(run, reader, signal);
  }

  /** Has the answer made, to its end or until nobody has wanted it for long. Never rejects. */
  async #make(
    run: Run,
    keep: Keep,
    order: Order,
    body: Uint8Array | ReadableStream<Uint8Array>,
    alone: () => boolean,
  ): Promise<Over> {
    const { env, ctx } = this;
    const deserted = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const stay = (): void => {
      if (timer !== undefined) clearTimeout(timer);
    };
    run.onReader = stay;
    run.onDeserted = () => {
      timer = setTimeout(() => deserted.abort(), MAX_DRAIN_MS);
    };
    try {
      const ended = Promise.withResolvers<Ending>();
      const answer = await carryOut(order, body, {
        env,
        ctx,
        signal: deserted.signal,
        onEnd: (told) => {
          ended.resolve(told);
          // Its own client did not stay for it, and it was made all the same.
          return told.outcome === "complete" && alone() ? { ...told, outcome: "client_gone", drained: true } : told;
        },
      });
      if (!answer.ok) {
        run.fail(answer.error === "client gone" ? DESERTED : answer.error);
        const { outcome, errorType = null } = await ended.promise;
        return { kept: false, whole: true, end: { outcome, errorType } };
      }
      const { status, headers, body: bytes } = answer.value;
      // Whoever keeps an answer dates it where its origin has not (RFC 9110 §6.6.1): it is told the same each time.
      if (!headers.has("date")) headers.set("date", new Date(clock.now()).toUTCString());
      const head: Head = { status, headers: [...headers], hasBody: bytes !== null };
      run.begin(head);
      const whole = await run.take(bytes);
      const { outcome, errorType = null, facts } = await ended.promise;
      const wanted = !keep.stopReasons || (status === 200 && keep.stopReasons.includes(facts?.stopReason ?? ""));
      const worth = (outcome === "complete" && wanted) || (keep.clientErrors && isTheClients(status));
      return { kept: whole && worth && run.keepable, whole, head, end: { outcome, errorType } };
    } catch (bug) {
      console.error(JSON.stringify({ level: "error", msg: "answer_failed", error: String(bug) }));
      run.fail(only({ kind: "internal" }));
      return { kept: false, whole: false, end: { outcome: "error", errorType: "api_error" } };
    } finally {
      stay();
      run.onDeserted = () => {};
    }
  }

  /** Before something is written: if the object dies, the alarm has it cleared away. */
  #prepare(alarmAt: number): void {
    const { storage } = this.ctx;
    storage.sql.exec(PIECES_TABLE);
    storage.sql.exec(KEPT_TABLE);
    this.ctx.waitUntil(storage.setAlarm(alarmAt));
  }

  /** In one transaction with the last of its bytes. False: it can't be stored. */
  #keep(run: Run, fingerprint: string, keepMs: number, head: Head, end: RunEnd, uploaded: string | null): boolean {
    const expiresAt = clock.now() + keepMs;
    const about: Kept = { fingerprint, head, bytes: run.bytes, end, keepMs, uploaded };
    try {
      this.ctx.storage.transactionSync(() => {
        run.save();
        this.#prepare(expiresAt);
        this.ctx.storage.sql.exec(
          "INSERT OR REPLACE INTO kept (one, run, about, expires_at) VALUES (1, ?, ?, ?)",
          run.id,
          JSON.stringify(about),
          expiresAt,
        );
      });
    } catch (error) {
      console.error(JSON.stringify({ level: "error", msg: "answer_not_kept", error: String(error) }));
      return false;
    }
    this.#kept = { id: run.id, keepMs, expiresAt };
    return true;
  }

  /** Ends an answer's life when it is over, or for a call that wants none so old. */
  #expire(now: number, maxAgeMs = Number.POSITIVE_INFINITY): void {
    const kept = this.#kept;
    if (!kept) return;
    const { sql } = this.ctx.storage;
    const latest = now + kept.keepMs;
    if (kept.expiresAt > latest) {
      // The clock has leapt back.
      kept.expiresAt = latest;
      sql.exec("UPDATE kept SET expires_at = ?", latest);
      this.ctx.waitUntil(this.ctx.storage.setAlarm(latest));
    }
    if (now < kept.expiresAt && now < kept.expiresAt - kept.keepMs + maxAgeMs) return;
    sql.exec("DELETE FROM kept");
    this.#kept = null;
    this.#turns.end(kept.id);
    const run = this.#runs.get(kept.id)?.run;
    if (run) this.#retire(run);
  }

  /** Drops an answer that nobody is sent to any more, when those who have been sent have come and read it. */
  #retire(run: Run): void {
    const drop = (): void => {
      run.onDeserted = drop;
      if (run.hasReaders || !this.#runs.delete(run.id)) return;
      run.drop();
    };
    setTimeout(drop, CLAIM_MS);
  }

  #know(run: Run, uploaded: Known["uploaded"]): Known["end"] {
    const end = Promise.withResolvers<RunEnd>();
    this.#runs.set(run.id, { run, end, uploaded });
    return end;
  }
}

function isTheClients(status: number): boolean {
  return status >= 400 && status < 500 && !NOT_THE_CLIENTS.has(status);
}
