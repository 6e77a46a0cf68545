/**
 * Key sets of foreign issuers (RFC 7517 §5), fetched when a token needs one, and kept by this isolate. Issuers are asked
 * rarely, and what they answer is read with suspicion: in time, not too much of it, no redirect, only public keys that sign.
 *
 * A fetch belongs to one request, and nobody else waits for its promise: on Workers that never resolves once its request is
 * cancelled. Others who need the same answer look every few milliseconds whether it has come, and one of them asks itself
 * when it is late. The address comes from the issuer's configuration, whose rules are those of upstreams' addresses.
 */
import { Recent } from "../../recent.ts";
import { err, ok, type Result } from "../../result.ts";
import { parseJson } from "../../wire/json.ts";
import { type Clock, systemClock } from "./clock.ts";
import type { Json } from "./form.ts";
import { readPublicKey, type VerificationKey } from "./keys.ts";

/** How long a set counts as it was fetched. */
export const FRESH_MS = 5 * 60_000;
/** How long the last good one serves while the issuer does not give another. */
export const STALE_MS = 60 * 60_000;
/** How rarely an issuer is asked because of a key it did not have, or for a set while an old one serves. */
export const COOL_DOWN_MS = 30_000;
/** After a failure with nothing to fall back on, the issuer is left in peace for so long. */
export const FAILURE_PAUSE_MS = 2_000;
/** How long a request waits for a key, whoever fetches. */
export const DEADLINE_MS = 3_000;
/** When another request's answer has not come by then, a request asks itself: that one may have been cancelled. */
export const TAKE_OVER_MS = 1_000;
export const MAX_SET_BYTES = 64 * 1024;
/** Real sets have two to ten keys; each costs an import. */
export const MAX_SET_KEYS = 100;
const LOOK_EVERY_MS = 25;
/** Addresses remembered; issuers that were taken away make room. */
const MAX_SETS = 200;

/** Why a set was not to be had, for the log. */
export type SetFailure = "unreachable" | "timeout" | "status" | "content_type" | "too_large" | "malformed" | "no_keys";
type Keys = ReadonlyMap<string, VerificationKey>;
export type KeySetOptions = { readonly fetch?: typeof fetch; readonly clock?: Clock };

type State = {
  keys: Keys | null;
  /** When the request was made whose answer these keys are. */
  keysAt: number;
  askedAt: number;
  /** While somebody asks, as far as anybody knows; null: the last one has come to an end. */
  underWay: number | null;
  /** What became of the last question. */
  failure: SetFailure | null;
};

export class KeySets {
  readonly #states = new Recent<State>(MAX_SETS);
  readonly #fetch: typeof fetch;
  readonly #clock: Clock;

  constructor({ fetch: ask = (...request) => fetch(...request), clock = systemClock }: KeySetOptions = {}) {
    this.#fetch = ask;
    this.#clock = clock;
  }

  /**
   * The key of that name in the set at an address. `unknown`: a good set does not have it. `unavailable`: there is no set
   * that would count. Answers within `DEADLINE_MS`.
   */
  async key(url: string, kid: string | null): Promise<Result<VerificationKey, "unknown" | "unavailable">> {
    if (kid === null) return err("unknown");
    const state = this.#stateOf(url);
    const since = this.#clock.now();
    for (;;) {
      const now = this.#clock.now();
      const age = now - state.keysAt;
      const known = age >= 0 && age < STALE_MS ? (state.keys?.get(kid) ?? null) : null;
      if (known && age < FRESH_MS) return ok(known);
      const asking = state.underWay !== null && now >= state.underWay && now - state.underWay < TAKE_OVER_MS;
      // Nobody waits for a new set who finds his key in the old one.
      if (known && (asking || isWithin(now - state.askedAt, COOL_DOWN_MS))) return ok(known);
      const left = DEADLINE_MS - (now - since);
      if (asking && left > 0) {
        await this.#clock.sleep(LOOK_EVERY_MS);
        continue;
      }
      const answer = this.#settled(state, now);
      if (answer) return err(answer);
      if (left <= 0) return err("unavailable");
      await this.#ask(url, state, left);
    }
  }

  /** Why the last fetch from there has failed; null: it has not. */
  failureOf(url: string): SetFailure | null {
    return this.#states.get(url)?.failure ?? null;
  }

  /** What there is to say without asking, to a token whose key is not there; null: it is time to ask. */
  #settled({ keys, keysAt, askedAt, underWay, failure }: State, now: number): "unknown" | "unavailable" | null {
    if (underWay !== null) return null;
    const counts = keys !== null && isWithin(now - keysAt, STALE_MS);
    if (!isWithin(now - askedAt, counts ? COOL_DOWN_MS : FAILURE_PAUSE_MS)) return null;
    if (failure !== null) return "unavailable";
    return counts ? "unknown" : null;
  }

  #stateOf(url: string): State {
    const known = this.#states.get(url);
    if (known) return known;
    const never = Number.NEGATIVE_INFINITY;
    const state: State = { keys: null, keysAt: never, askedAt: never, underWay: null, failure: null };
    this.#states.set(url, state);
    return state;
  }

  async #ask(url: string, state: State, ms: number): Promise<void> {
    const at = this.#clock.now();
    state.askedAt = at;
    state.underWay = at;
    const answer = await this.#fetchSet(url, ms);
    // Of several that were under way, the one asked last counts; a good answer counts where there is none later.
    if (answer.ok && at >= state.keysAt) {
      state.keys = answer.value;
      state.keysAt = at;
    }
    if (state.askedAt !== at) {
      if (answer.ok) state.failure = null;
      return;
    }
    state.failure = answer.ok ? null : answer.error;
    state.underWay = null;
  }

  /** The set, or why there is none, after `ms` at the latest: what has not come by then is not waited for. */
  async #fetchSet(url: string, ms: number): Promise<Result<Keys, SetFailure>> {
    const [late, done] = [new AbortController(), new AbortController()];
    const timeout = this.#clock.sleep(ms, done.signal).then((): Result<Keys, SetFailure> => err("timeout"));
    try {
      return await Promise.race([fetchKeySet(url, this.#fetch, late.signal), timeout]);
    } finally {
      done.abort();
      late.abort();
    }
  }
}

function isWithin(passed: number, ms: number): boolean {
  return passed >= 0 && passed < ms;
}

/** One fetch of a key set; never throws. */
async function fetchKeySet(url: string, ask: typeof fetch, signal: AbortSignal): Promise<Result<Keys, SetFailure>> {
  try {
    const response = await ask(url, { headers: { accept: "application/json" }, redirect: "manual", signal });
    const text = await readSet(response);
    return text.ok ? await readKeys(text.value) : text;
  } catch {
    return err("unreachable");
  }
}

async function readSet(response: Response): Promise<Result<string, SetFailure>> {
  const refuse = async (failure: SetFailure) => {
    await response.body?.cancel();
    return err(failure);
  };
  // A redirect is not followed, and is no 200.
  if (response.status !== 200) return refuse("status");
  const type = response.headers.get("content-type") ?? "";
  if (!/^application\/(?:[\w.-]+\+)?json\s*(?:;|$)/i.test(type)) return refuse("content_type");
  if (Number(response.headers.get("content-length") ?? 0) > MAX_SET_BYTES) return refuse("too_large");
  return readText(response);
}

/** The body, as far as it is not too large: counted as it is read, since what is declared may be its compressed size. */
async function readText({ body }: Response): Promise<Result<string, SetFailure>> {
  if (!body) return err("malformed");
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let text = "";
  let bytes = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return ok(text + decoder.decode());
    bytes += value.length;
    if (bytes > MAX_SET_BYTES) {
      await reader.cancel();
      return err("too_large");
    }
    text += decoder.decode(value, { stream: true });
  }
}

/** The keys of a set that are good. Of two with one name neither is: nobody can tell which of them is meant. */
async function readKeys(text: string): Promise<Result<Keys, SetFailure>> {
  const value = parseJson(text);
  const list: unknown = typeof value === "object" && value !== null ? Reflect.get(value, "keys") : undefined;
  if (!Array.isArray(list) || list.length > MAX_SET_KEYS) return err("malformed");
  const names = new Set<unknown>();
  const twice = new Set<unknown>();
  for (const jwk of list) {
    const name = nameOf(jwk);
    if (names.has(name)) twice.add(name);
    names.add(name);
  }
  const keys = new Map<string, VerificationKey>();
  for (const jwk of list) {
    const key = twice.has(nameOf(jwk)) ? null : await readPublicKey(jwk);
    if (key) keys.set(key.kid, key);
  }
  return keys.size > 0 ? ok(keys) : err("no_keys");
}

function nameOf(jwk: Json): Json | undefined {
  return typeof jwk === "object" && jwk !== null && "kid" in jwk ? jwk.kid : undefined;
}
