/**
 * A call's way through the pool: one upstream after the other is asked until one has answered in earnest, the attempts,
 * the time or the retry budget are used up, or the client has left. Nothing has gone to the client until then; after it
 * nothing is tried again. What a failure means is decided in retry.ts, who is asked in pool.ts.
 */
import type { CallTimer } from "../call-timer.ts";
import type { Timeouts } from "../env.ts";
import { err, type Result } from "../result.ts";
import { refusesThinking, withoutThinking } from "../wire/anthropic/without-thinking.ts";
import type { Failure } from "../wire/errors.ts";
import { askUpstream, type Send } from "./ask.ts";
import { hasModel } from "./choice.ts";
import {
  type Answer,
  blame,
  type Failed,
  full,
  isCallersOwn,
  lastWord,
  refusedAs,
  type TellHint,
  verdictOn,
} from "./failed.ts";
import type { Health } from "./health.ts";
import type { Pick, Pool, Tried, Wanted } from "./pool.ts";
import { backoffMs, best, MAX_LATE_ATTEMPTS, MAX_RETRY_WAIT_MS } from "./retry.ts";
import type { Upstream } from "./upstream.ts";

/** What an attempt decides by from outside. */
export type Surroundings = {
  readonly now: () => number;
  /** From [0, 1). */
  readonly random: () => number;
  readonly send: Send;
  readonly pool: Pool;
  /** Finds out where a conversation lives that this isolate does not know, if that may be another place than usual. */
  readonly findHome: (wanted: Wanted) => Promise<void>;
  /** A conversation lives where others would not look for it. */
  readonly moved: () => void;
  /** Tells others that an upstream is to be left alone for so long, with this model or (null) with all. */
  readonly hint: TellHint;
  /** An upstream has answered. */
  readonly recovered: (upstream: string) => void;
  /** Looks for a newer credential of this upstream; true: there is one now. */
  readonly renewed: (upstream: Upstream) => Promise<boolean>;
  /** Whether the upstream gives a sign of life within `ms`. */
  readonly isAlive: (upstream: Upstream, ms: number) => Promise<boolean>;
  /**
   * Takes a slot of the upstream, if these are counted; what comes back gives it up again. With the call's switch it waits
   * for one, without it doesn't. Else all are taken, for about so long.
   */
  readonly hold: (upstream: Upstream, stop: Stop | null) => Promise<(() => void) | { readonly retryAfterMs: number }>;
};

export type PoolCall<T> = {
  /** Path and query. */
  readonly path: string;
  readonly method: string;
  /** Without a credential. */
  readonly headers: Readonly<Record<string, string>>;
  /** A stream can be sent once, so such a call is never tried again. */
  readonly body: Uint8Array | ReadableStream<Uint8Array> | null;
  /** It makes something that must not be made twice: tried again only where the upstream has declined. */
  readonly unique?: boolean;
  readonly wanted: Wanted;
  /** Whether a stream is expected: its first event has a limit of its own. */
  readonly stream: boolean;
  readonly timeouts: Timeouts;
  readonly maxAttempts: number;
  readonly timer: CallTimer;
  readonly stop: Stop;
  readonly read: (response: Response, abort: AbortController) => Promise<Result<T, Failure>>;
};

/** The one switch that ends a call, whichever attempt it is at. */
export class Stop {
  #current: AbortController | undefined;
  #wake: (() => void) | undefined;
  #over: AbortController | undefined;
  /** Nothing more is to be tried. */
  over = false;

  /** Ends the attempt that runs, and the call. */
  now(): void {
    this.#current?.abort();
    this.noMore();
  }

  /** No attempt comes after the one that runs. */
  noMore(): void {
    this.over = true;
    this.#over?.abort();
    this.#wake?.();
  }

  /** Aborted when nothing more is to be tried. Made for those few calls that have to wait for a place. */
  get signal(): AbortSignal {
    this.#over ??= new AbortController();
    if (this.over) this.#over.abort();
    return this.#over.signal;
  }

  /** The switch of the next attempt, and of no other: what is left of one that failed must not end its successor. */
  next(): AbortController {
    const next = new AbortController();
    this.#current = next;
    return next;
  }

  /** Waits, or until the call is over. */
  async pause(ms: number, timer: CallTimer): Promise<void> {
    if (this.over) return;
    await new Promise<void>((done) => {
      this.#wake = done;
      timer.limit(ms, done);
    });
    this.#wake = undefined;
    timer.inTime();
  }
}
export type Outcome<T> = {
  /** An upstream's answer, whatever its status, or why there is none. */
  readonly result: Result<Answer<T>, Failure>;
  /** The upstream that was asked last. */
  readonly upstream: Upstream | null;
  readonly attempts: number;
  /** Headers of the answer that count more than the upstream's own. */
  readonly headers: Readonly<Record<string, string>>;
  /** The client left while an upstream was at work: what that has used nobody knows. */
  readonly unseen: boolean;
  /** Gives up the slot that the answering upstream was held by; to be called when the answer is over. */
  readonly release: () => void;
};
/** With these an upstream says that it has done nothing. After any other one, or none, it may have. */
const DECLINED = new Set([401, 402, 403, 404, 408, 429, 503, 529]);

/** Waiting costs a timer of the runtime; a pause shorter than this is none. */
const MIN_PAUSE_MS = 1;

/** What is retried when, as docs/upstreams.md has it in a table. */
export async function askPool<T>(call: PoolCall<T>, around: Surroundings): Promise<Outcome<T>> {
  const { stop, wanted } = call;
  const { pool } = around;
  const begunAt = around.now();
  pool.budget.earn();
  if (pool.upstreams.length > 1) await around.findHome(wanted);
  const attempts = new Attempts(call, around, begunAt);
  do {
    const next = attempts.next();
    if (next.kind === "none") return attempts.noneServes();
    if (next.kind === "resting") {
      if (!attempts.mayWaitOut(next.waitMs)) return attempts.allRest(next.waitMs);
      await attempts.waitOut(next.waitMs);
      continue;
    }
    if (!attempts.isPaidFor(next)) {
      if (attempts.looksFurther(next)) continue;
      return attempts.over();
    }
    const mayQueue = attempts.hasNowhereElse;
    const release = await around.hold(next.upstream, mayQueue ? stop : null);
    if (typeof release !== "function") {
      attempts.foundFull(next, release.retryAfterMs, mayQueue);
      if (wanted.bound) return attempts.over();
      continue;
    }
    if (!attempts.isStillNext(next)) {
      release();
      continue;
    }
    const answer = await attempts.ask(next);
    if (isSuccess(answer)) return attempts.succeeded(next, answer, release);
    release();
    const failed = attempts.learn(next, answer);
    if (stop.over) return { ...attempts.over(), unseen: !answer.ok };
    if (isCallersOwn(failed)) {
      if (attempts.forgetsThinking(next, answer)) continue;
      return attempts.endsWith(answer);
    }
    if (!attempts.mayTryAgain(failed)) return attempts.over();
    await attempts.chooseWhere(next, failed);
    if (!(await attempts.pause(failed))) return attempts.over();
  } while (!stop.over);
  return attempts.over();
}

type Picked = Extract<Pick, { kind: "picked" }>;

/** What one call has tried, and what it knows from that. */
class Attempts<T> {
  readonly #call: PoolCall<T>;
  readonly #around: Surroundings;
  readonly #begunAt: number;
  readonly #failures: Failed<T>[] = [];
  #tried: Tried;
  #stoodBack: ReadonlySet<string> = NOBODY;
  /** Attempts that were begun, and those of them that ended at a limit of time. */
  #made = 0;
  #late = 0;
  /** The upstream that can read the call's thinking, and whether that has been given up: then its body without it. */
  readonly #reader: string | undefined;
  #forgets = false;
  #forgetful: Uint8Array | undefined;
  /** The upstream that was asked last. */
  #last: Upstream | null = null;
  /** It refused: 401, 402, 403 or 404. */
  #wasRefused = false;
  /** The next attempt costs nothing of the retry budget, or what it costs is paid. The first one is free. */
  #isPaid = true;
  #outOfBudget = false;
  /** The first one whose places are all taken, and whether the call, which can go nowhere else, waits there for one. */
  #full: string | null = null;
  #queues = false;

  constructor(call: PoolCall<T>, around: Surroundings, begunAt: number) {
    this.#call = call;
    this.#around = around;
    this.#begunAt = begunAt;
    this.#reader = around.pool.readerOf(call.wanted);
    this.#tried = nothingTried(this.#reader ?? around.pool.homeOf(call.wanted));
  }

  // Whom to ask next

  next(): Pick {
    const pick = this.#pick();
    if (pick.kind === "picked" || this.#full === null || this.#queues) return pick;
    this.#queues = true;
    const useless = new Set(this.#tried.useless);
    useless.delete(this.#full);
    this.#tried = { ...this.#tried, useless, again: this.#full };
    return this.#pick();
  }

  /** While the call waited for its slot others have asked: the upstream may want to be left alone now, or be gone. */
  isStillNext({ upstream }: Picked): boolean {
    if (this.#call.stop.over) return false;
    const now = this.#pick();
    return now.kind === "picked" && now.upstream === upstream;
  }

  /** Only one upstream is left to be asked, so that its slot is worth waiting for. */
  get hasNowhereElse(): boolean {
    const { bound, pinned } = this.#call.wanted;
    return this.#queues || bound || pinned !== null || this.#around.pool.upstreams.length === 1;
  }

  /** An upstream whose slots are all taken is passed over, and come back to if all others fail. */
  foundFull({ upstream }: Picked, retryAfterMs: number, hasQueued: boolean): void {
    this.#failures.push(full(retryAfterMs));
    this.#giveUp(upstream);
    if (!hasQueued) this.#full ??= upstream.id;
  }

  /** A call that has met the rest itself may wait it out if it is short; one that comes later is told at once. */
  mayWaitOut(waitMs: number): boolean {
    if (this.#failures.length === 0 || this.#made >= this.#call.maxAttempts || this.#call.stop.over) return false;
    return waitMs <= Math.min(MAX_RETRY_WAIT_MS, this.#remainingMs);
  }

  async waitOut(waitMs: number): Promise<void> {
    await this.#call.stop.pause(waitMs + this.#backoffMs(), this.#call.timer);
  }

  /**
   * Whether the retry budget allows the attempt. It costs nothing after a refusal, which is no load, and at another
   * upstream that has been answering others.
   */
  isPaidFor({ upstream, health }: Picked): boolean {
    if (this.#isPaid) return true;
    const addsNoLoad = this.#wasRefused || (upstream.id !== this.#last?.id && health.takesOver());
    this.#isPaid = addsNoLoad || this.#around.pool.budget.spend();
    this.#outOfBudget = !this.#isPaid;
    return this.#isPaid;
  }

  /** What the budget does not allow here another upstream may do for nothing: this one stands back for it, once. */
  looksFurther({ upstream: { id } }: Picked): boolean {
    if (this.#stoodBack.has(id)) return false;
    this.#stoodBack = new Set(this.#stoodBack).add(id);
    const asked = new Map(this.#tried.asked).set(id, this.#tried.asked.get(id) ?? 0);
    this.#tried = { ...this.#tried, asked, again: null };
    return true;
  }

  // Asking it

  ask({ upstream, health }: Picked): Promise<Result<Answer<T>, Failure>> {
    this.#last = upstream;
    this.#made++;
    this.#isPaid = false;
    return attempt({ ...this.#call, body: this.#bodyFor(upstream) }, upstream, health, this.#remainingMs, this.#around);
  }

  #bodyFor({ id }: Upstream): PoolCall<T>["body"] {
    const { body, wanted } = this.#call;
    if (wanted.thoughtsOf === undefined || !(body instanceof Uint8Array)) return body;
    if (!this.#forgets && this.#around.pool.mayRead(wanted, id)) return body;
    this.#forgetful ??= withoutThinking(body);
    return this.#forgetful;
  }

  /** An upstream that can't read thinking which the call can do without is asked once more, without it. */
  forgetsThinking({ upstream }: Picked, answer: Result<Answer<T>, Failure>): boolean {
    const { wanted } = this.#call;
    const content = answer.ok ? answer.value.content : null;
    if (this.#forgets || wanted.thoughtsOf === undefined) return false;
    if (!(content instanceof Uint8Array) || !refusesThinking(content)) return false;
    this.#forgets = true;
    this.#isPaid = true;
    this.#tried = { ...this.#tried, again: upstream.id };
    return true;
  }

  /** Takes note of a failure, for this call and for others. */
  learn({ upstream, health }: Picked, answer: Result<Answer<T>, Failure>): Failed<T> {
    const { now, hint } = this.#around;
    const failed = verdictOn(answer, now());
    this.#failures.push(failed);
    blame(failed, upstream, health, this.#call.wanted.model, now(), hint);
    this.#wasRefused = failed.status >= 401 && failed.status <= 404;
    if (!answer.ok && answer.error.kind === "upstream_timeout") this.#late++;
    return failed;
  }

  // Whether, where and when to try again

  mayTryAgain({ verdict, status, result }: Failed<T>): boolean {
    const { body, maxAttempts, wanted, unique } = this.#call;
    if (unique && !(result.ok && DECLINED.has(status))) return false;
    if (verdict.retry === "no" || this.#made >= maxAttempts || body instanceof ReadableStream) return false;
    // What another organization does not have either, or can do no better: it can't read the call.
    if (wanted.bound && (status === 402 || status === 404)) return false;
    return this.#late < MAX_LATE_ATTEMPTS;
  }

  async chooseWhere({ upstream }: Picked, { status, verdict }: Failed<T>): Promise<void> {
    const times = (this.#tried.asked.get(upstream.id) ?? 0) + 1;
    const asked = new Map(this.#tried.asked).set(upstream.id, times);
    // A fault that passes is waited out where the conversation lives, once; a second one moves it.
    this.#tried = { ...this.#tried, asked, again: verdict.retry === "again" && times === 1 ? upstream.id : null };
    if (status < 401 || status > 404) return;
    const isCredential = status === 401 || status === 403;
    if (isCredential && (await this.#around.renewed(upstream))) this.#tried.again = upstream.id;
    else if (verdict.retry === "elsewhere") this.#giveUp(upstream);
  }

  /**
   * Full jitter on top of what the upstream asks for: whoever was told the same does not come back in the same moment.
   * False: the call has no time for it.
   */
  async pause({ verdict }: Failed<T>): Promise<boolean> {
    const pauseMs = verdict.backoff ? this.#backoffMs() + Math.min(verdict.coolMs, MAX_RETRY_WAIT_MS) : 0;
    if (pauseMs >= this.#remainingMs) return false;
    if (pauseMs >= MIN_PAUSE_MS) await this.#call.stop.pause(pauseMs, this.#call.timer);
    return true;
  }

  // How it ends

  succeeded({ upstream, health }: Picked, answer: Result<Answer<T>, Failure>, release: () => void): Outcome<T> {
    const { pool, now, recovered, moved } = this.#around;
    const { wanted } = this.#call;
    health.succeeded();
    pool.budget.succeeded(now());
    recovered(upstream.id);
    // Where thinking has called it, its conversation need not live.
    const isAtHome = wanted.pinned === null && this.#reader === undefined;
    if (isAtHome && pool.settleIn(wanted, upstream.id, this.#tried.home)) moved();
    return this.endsWith(answer, {}, release);
  }

  /** With the failure that says most to the caller. */
  over(): Outcome<T> {
    const told = best(this.#failures);
    if (!told) return this.endsWith(err({ kind: "upstream_unreachable" }));
    const { pool, now } = this.#around;
    const isEnough = this.#made > 1 || this.#outOfBudget;
    const afresh = pool.pick(this.#call.wanted, nothingTried(this.#tried.home), now());
    return this.endsWith(refusedAs(told), lastWord(told, isEnough, afresh));
  }

  allRest(waitMs: number): Outcome<T> {
    if (this.#failures.length > 0) return this.over();
    return this.endsWith(err({ kind: "upstreams_cooling", retryAfterMs: waitMs }));
  }

  noneServes(): Outcome<T> {
    if (this.#failures.length > 0) return this.over();
    const { model, pinned } = this.#call.wanted;
    const { upstreams } = this.#around.pool;
    // The model is what is wrong only where no upstream serves it: one that is drained might.
    const isUnknown = upstreams.length > 0 && !upstreams.some(({ models }) => hasModel(models, model));
    return this.endsWith(err({ kind: "no_upstream", model: pinned === null && isUnknown ? model : null }));
  }

  endsWith(result: Outcome<T>["result"], headers: Outcome<T>["headers"] = {}, release = nothing): Outcome<T> {
    return { result, upstream: this.#last, attempts: this.#made, headers, unseen: false, release };
  }

  #pick(): Pick {
    return this.#around.pool.pick(this.#call.wanted, this.#tried, this.#around.now());
  }

  #giveUp({ id }: Upstream): void {
    this.#tried = { ...this.#tried, useless: new Set(this.#tried.useless).add(id) };
  }

  #backoffMs(): number {
    return backoffMs(this.#made + 1, this.#around.random());
  }

  /** A clock that steps neither ends a call nor lets it run on for ever: attempts are bounded by themselves. */
  get #remainingMs(): number {
    const { totalMs } = this.#call.timeouts;
    return totalMs - Math.min(totalMs, Math.max(0, this.#around.now() - this.#begunAt));
  }
}

const nothing = (): void => {};

/** Never added to: a call that has failed nowhere, as nearly all are, has no need of its own. */
const NOBODY: ReadonlySet<string> = new Set();
const NOTHING_TRIED: Omit<Tried, "home"> = { asked: new Map(), useless: new Set(), again: null };

function nothingTried(home: string | undefined): Tried {
  return { ...NOTHING_TRIED, home };
}

function isSuccess<T>(answer: Result<Answer<T>, Failure>): boolean {
  return answer.ok && answer.value.response.status < 400;
}

/** Asks one upstream once. */
async function attempt<T>(
  call: PoolCall<T>,
  upstream: Upstream,
  health: Health,
  remainingMs: number,
  around: Surroundings,
): Promise<Result<Answer<T>, Failure>> {
  const { timeouts, timer } = call;
  const limitMs = call.stream ? Math.min(timeouts.firstByteMs, timeouts.totalMs) : timeouts.totalMs;
  const abort = call.stop.next();
  const begun = around.now();
  const wasProbe = health.begin(begun);
  try {
    return await askUpstream({
      send: around.send,
      url: upstream.base_url + call.path,
      method: call.method,
      headers: { ...call.headers, "x-api-key": upstream.apiKey },
      body: call.body,
      abort,
      timer,
      limit: { phase: call.stream ? "first byte" : "total", limitMs },
      leftMs: Math.max(1, Math.min(limitMs, remainingMs)),
      connectMs: timeouts.connectMs,
      isReachable: async () => health.heardAt >= begun || (await around.isAlive(upstream, timeouts.connectMs)),
      heard: (response) => {
        health.heardAt = around.now();
        health.learn(response.headers, health.heardAt);
      },
      read: (response) => call.read(response, abort),
    });
  } finally {
    health.end(wasProbe);
  }
}
