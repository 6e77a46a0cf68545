/**
 * What one isolate knows of one upstream: whether it answers (a circuit breaker), whether it has asked to be left alone
 * for a while, whether it refuses our credential, and what is left of its own limits. Decides nothing but whether it may
 * be asked now. Lost with the isolate, which does no harm: the next one finds out again.
 *
 * Times are ms by the clock that is passed in. One that steps back must not shut an upstream out: nothing lasts longer
 * than its longest span, counted from now.
 */

import { ORGANIZATION_HEADER } from "../wire/headers.ts";
import type { Hint } from "./protocol.ts";

/** Failures in a row that open the breaker. */
export const OPEN_AFTER = 5;
/** How long it stays open; then one call may try. Short, so that an upstream that is back is used within two seconds. */
export const OPEN_MS = 1_000;
/** So many calls of an upstream that dies under them can go to one that works, whatever the retry budget holds. */
const MAX_CREDIT = 100;
/** A probe that nobody has told the end of was cancelled; another call may try. */
const PROBE_FORGOTTEN_MS = 30_000;
/** An upstream that refuses our credential is asked again after this: somebody may have put in a new one. */
export const REFUSED_MS = 10_000;
/** The longest pause that an upstream is granted. */
export const MAX_COOLING_MS = 60_000;
/** A model that an upstream has said it does not have is asked for elsewhere for so long. */
const LACKS_MODEL_MS = 60_000;
/** Callers name models, so what is remembered of them has a bound; past it, it is learned anew. */
const MAX_MODELS = 100;
const EVERY_MODEL = "";
/** What an upstream has said of its limits counts no longer than the minute that these are for. */
const ROOM_KNOWN_MS = 60_000;

const LIMIT_HEADERS = ["requests", "tokens", "input-tokens", "output-tokens"].map(
  (limit) => [`anthropic-ratelimit-${limit}-remaining`, `anthropic-ratelimit-${limit}-reset`] as const,
);

type Reason = Hint["reason"];
export type BreakerState = "closed" | "open" | "half_open";
/** Why an upstream is not asked at the moment. */
export type Hold = "cooling" | "open" | "refused";

export class Health {
  #failures = 0;
  /** Calls that it has answered since its last failure, less those that it has taken over for it. */
  #credit = 0;
  #openUntil = 0;
  #isOpen = false;
  #probeSince: number | null = null;
  /** By model: an account's limits are kept for each class of models (wire notes §2.3). */
  readonly #cooling = new Map<string, number>();
  #refusedUntil = 0;
  #fullUntil = 0;
  readonly #lacks = new Map<string, number>();
  /** What was wrong with it last, while it is; null: nothing. */
  reason: Reason | null = null;
  /** When anything was heard of it last. */
  heardAt = Number.NEGATIVE_INFINITY;
  /** The organization that its credential belongs to, as its answers say. */
  organization: string | null = null;

  breaker(now: number): BreakerState {
    if (!this.#isOpen) return "closed";
    return left(this.#openUntil, now, OPEN_MS) > 0 ? "open" : "half_open";
  }

  /** What stands in the way of asking it for this model now; null: nothing. */
  hold(model: string | null, now: number): Hold | null {
    if (left(this.#refusedUntil, now, REFUSED_MS) > 0) return "refused";
    if (this.#isOpen && (this.breaker(now) === "open" || this.#isProbed(now))) return "open";
    return this.coolingMs(model, now) > 0 ? "cooling" : null;
  }

  /** What stands in the way of asking it now for some model at least; for people. */
  held(now: number): Hold | null {
    const isCooling = [...this.#cooling.keys()].some((model) => this.coolingMs(model, now) > 0);
    return this.hold(null, now) ?? (isCooling ? "cooling" : null);
  }

  /** How long it still wants to be left alone with this model. */
  coolingMs(model: string | null, now: number): number {
    if (this.#cooling.size === 0) return 0;
    const until = Math.max(this.#cooling.get(model ?? EVERY_MODEL) ?? 0, this.#cooling.get(EVERY_MODEL) ?? 0);
    return left(until, now, MAX_COOLING_MS);
  }

  /** Whether its own limits, as it told them last, have room for a call. */
  hasRoom(now: number): boolean {
    return left(this.#fullUntil, now, ROOM_KNOWN_MS) <= 0;
  }

  lacks(model: string, now: number): boolean {
    return left(this.#lacks.get(model) ?? 0, now, LACKS_MODEL_MS) > 0;
  }

  /** A call is sent. True: it is the probe of an open breaker, of which there is one at a time. */
  begin(now: number): boolean {
    if (!this.#isOpen || this.#isProbed(now)) return false;
    this.#probeSince = now;
    return true;
  }

  /** The call is over, whatever came of it. */
  end(wasProbe: boolean): void {
    if (wasProbe) this.#probeSince = null;
  }

  succeeded(): void {
    this.#credit = Math.min(MAX_CREDIT, this.#credit + 1);
    this.reason = null;
    this.answered();
    this.#refusedUntil = 0;
  }

  /** It has answered, if only that it will not do what was asked: it works. */
  answered(): void {
    this.#failures = 0;
    this.#isOpen = false;
  }

  /** True: this failure has opened the breaker, or kept it open. */
  failed(now: number): boolean {
    this.#credit = 0;
    this.#failures++;
    if (this.#failures < OPEN_AFTER && !this.#isOpen) return false;
    this.openFor(OPEN_MS, now);
    return true;
  }

  /** Whether a call that has failed elsewhere may come here without costing of the retry budget; it is taken then. */
  takesOver(): boolean {
    if (this.#credit < 1 || this.#isOpen) return false;
    this.#credit--;
    return true;
  }

  openFor(ms: number, now: number): void {
    this.#isOpen = true;
    this.#openUntil = now + Math.min(ms, OPEN_MS);
  }

  coolFor(ms: number, model: string | null, now: number): void {
    const name = model ?? EVERY_MODEL;
    // A pause that is running is not made shorter by whoever was told of none.
    const running = left(this.#cooling.get(name) ?? 0, now, MAX_COOLING_MS);
    if (this.#cooling.size >= MAX_MODELS) this.#cooling.clear();
    this.#cooling.set(name, now + Math.max(running, Math.min(ms, MAX_COOLING_MS)));
  }

  refusedFor(ms: number, now: number): void {
    this.#refusedUntil = now + Math.min(ms, REFUSED_MS);
  }

  lacksModel(model: string, now: number): void {
    if (this.#lacks.size >= MAX_MODELS) this.#lacks.clear();
    this.#lacks.set(model, now + LACKS_MODEL_MS);
  }

  /** Takes over what an answer says of the upstream's own limits and of whose account it is. */
  learn(headers: Headers, now: number): void {
    this.organization = headers.get(ORGANIZATION_HEADER) ?? this.organization;
    let fullUntil = 0;
    for (const [remaining, resets] of LIMIT_HEADERS) {
      if (headers.get(remaining) !== "0") continue;
      const reset = Date.parse(headers.get(resets) ?? "");
      if (reset > fullUntil) fullUntil = reset;
    }
    this.#fullUntil = Math.min(fullUntil, now + ROOM_KNOWN_MS);
  }

  #isProbed(now: number): boolean {
    return this.#probeSince !== null && left(this.#probeSince + PROBE_FORGOTTEN_MS, now, PROBE_FORGOTTEN_MS) > 0;
  }
}

/** What is left until `until`, and nothing where it is further away than it can ever have been. */
function left(until: number, now: number, longest: number): number {
  const ms = until - now;
  return ms > longest ? 0 : Math.max(0, ms);
}
