/**
 * The upstreams as one isolate sees them: which there are, how each of them does, and which conversation lives where.
 * What it needs to know of them it is told by the pool's object, about every five seconds while calls come; what others
 * should know it tells at the same time.
 *
 * A conversation stays with the upstream that answered it first, for as long as that one can answer: prompt caches and
 * signed thinking are worth nothing elsewhere. When it has to move it stays where it moved to. A call that is *bound*
 * (its body holds what only one organization can read) moves nowhere else at all.
 */
import { hash, hasModel, ranked } from "./choice.ts";
import { Health } from "./health.ts";
import { RetryBudget } from "./retry.ts";
import type { Upstream } from "./upstream.ts";

/** Conversations remembered by one isolate; the longest unused go first. */
const MAX_HOMES = 20_000;

/** What a call asks of the pool. */
export type Wanted = {
  /** What its conversation is known by: the same text, the same upstream. */
  readonly affinity: string;
  /** Null: a call that names none. */
  readonly model: string | null;
  /** Its body holds what only the upstream's own organization can read. */
  readonly bound: boolean;
  /**
   * The body holds thinking that its client can do without: in whose account it was signed, null where nobody knows.
   * Another account gets the call without it. Left out: there is none, or it must not be left out.
   */
  readonly thoughtsOf?: string | null;
  /** The only upstream that can answer: it holds what the call is about. */
  readonly pinned: string | null;
};

/** What an earlier attempt of the same call has taught. */
export type Tried = {
  /** How often each was asked; others come first. */
  readonly asked: Map<string, number>;
  /** Not to be asked again by this call. */
  readonly useless: Set<string>;
  /** The one to ask again before any other. */
  again: string | null;
  /** Where its conversation lived when the call came: another call that moves it meanwhile moves this one not. */
  readonly home: string | undefined;
};

export type Pick =
  | { readonly kind: "picked"; readonly upstream: Upstream; readonly health: Health }
  /** None serves such a call. */
  | { readonly kind: "none" }
  /** All that serve it have asked to be left alone; the first one is back in `waitMs`. */
  | { readonly kind: "resting"; readonly waitMs: number };

const NONE: Pick = { kind: "none" };

export class Pool {
  readonly budget = new RetryBudget();
  #upstreams: readonly Upstream[] = [];
  #forPinned: readonly Upstream[] = [];
  readonly #health = new Map<string, Health>();
  /** By the affinity's digest, in the order of their last use. */
  readonly #homes = new Map<string, string>();
  /** Homes that the pool's object has not heard of. */
  #newHomes = new Map<string, string>();

  get upstreams(): readonly Upstream[] {
    return this.#upstreams;
  }

  /**
   * `forPinned` are asked for nothing but what they hold. What is known of an upstream is about its address and
   * credential: with new ones it begins anew.
   */
  replace(upstreams: readonly Upstream[], forPinned: readonly Upstream[] = []): void {
    const all = [...upstreams, ...forPinned];
    for (const { id, apiKey, base_url } of [...this.#upstreams, ...this.#forPinned]) {
      const now = all.find((upstream) => upstream.id === id);
      if (now?.apiKey !== apiKey || now.base_url !== base_url) this.#health.delete(id);
    }
    this.#upstreams = upstreams;
    this.#forPinned = forPinned;
  }

  health(id: string): Health {
    let health = this.#health.get(id);
    if (!health) {
      health = new Health();
      this.#health.set(id, health);
    }
    return health;
  }

  /** Where a conversation lives, as far as this isolate knows. */
  homeOf(wanted: Wanted): string | undefined {
    if (this.#upstreams.length < 2) return undefined;
    for (const name of this.homeNames(wanted)) {
      const home = this.#homes.get(name);
      if (this.#upstreams.some(({ id, models }) => id === home && hasModel(models, wanted.model))) return home;
    }
    return undefined;
  }

  /** The upstream that can read the call's thinking; where this isolate knows none, one of which it does not know that it can't. */
  readerOf(wanted: Wanted): string | undefined {
    const { thoughtsOf, affinity, model } = wanted;
    if (!thoughtsOf || this.#upstreams.length < 2) return undefined;
    const serving = this.#upstreams.filter(({ state, models }) => state === "active" && hasModel(models, model));
    const known = serving.filter(({ id }) => this.health(id).organization === thoughtsOf);
    const readers = known.length > 0 ? known : serving.filter(({ id }) => this.mayRead(wanted, id));
    const home = this.homeOf(wanted);
    return readers.some(({ id }) => id === home) ? home : ranked(affinity, readers)[0]?.id;
  }

  /** Whether an upstream may be sent the call's thinking; where nobody knows, it may. */
  mayRead({ thoughtsOf }: Wanted, upstream: string): boolean {
    const { organization } = this.health(upstream);
    return !thoughtsOf || organization === null || organization === thoughtsOf;
  }

  /** Takes over where a conversation lives, by each of its names. */
  learnHomes(names: readonly string[], homes: readonly (string | null)[]): void {
    names.forEach((name, i) => {
      const home = homes[i];
      if (home) this.#setHome(name, home);
    });
  }

  /** Others have moved these conversations; what this isolate has not yet told itself is newer. */
  hearMoved(homes: readonly (readonly [name: string, upstream: string])[]): void {
    for (const [name, upstream] of homes) if (!this.#newHomes.has(name)) this.#setHome(name, upstream);
  }

  /**
   * What a conversation is known by, to others too, the name that counts first: names of users stay in the isolate. Calls
   * for a model that not all upstreams serve may have to live elsewhere than the rest, and must not take it along.
   */
  homeNames({ affinity, model }: Wanted): readonly string[] {
    const name = digest(affinity);
    if (this.#upstreams.every(({ models }) => hasModel(models, model))) return [name];
    return [digest(`${affinity} ${model}`), name];
  }

  /**
   * An upstream has answered a call whose conversation lived at `home` when it came: here it lives from now on, unless it
   * has moved meanwhile. True: others would look elsewhere.
   */
  settleIn(wanted: Wanted, upstream: string, home: string | undefined): boolean {
    if (this.#upstreams.length < 2) return false;
    const name = this.homeNames(wanted)[0] ?? "";
    const known = this.homeOf(wanted);
    if (known !== undefined && known !== home) return false;
    this.#setHome(name, upstream);
    if (known === upstream) return false;
    this.#newHomes.set(name, upstream);
    return known !== undefined || ranked(wanted.affinity, this.#upstreams)[0]?.id !== upstream;
  }

  /** The homes that nobody else knows of, to be told; they count as told. */
  takeNewHomes(max: number): [affinity: string, upstream: string][] {
    const all = [...this.#newHomes];
    this.#newHomes = new Map(all.slice(max));
    return all.slice(0, max);
  }

  /** They could not be told. */
  returnNewHomes(homes: readonly (readonly [affinity: string, upstream: string])[]): void {
    for (const [name, upstream] of homes) if (!this.#newHomes.has(name)) this.#newHomes.set(name, upstream);
    for (const oldest of this.#newHomes.keys()) {
      if (this.#newHomes.size <= MAX_HOMES) break;
      this.#newHomes.delete(oldest);
    }
  }

  #setHome(name: string, upstream: string): void {
    this.#homes.delete(name);
    this.#homes.set(name, upstream);
    if (this.#homes.size <= MAX_HOMES) return;
    for (const oldest of this.#homes.keys()) {
      this.#homes.delete(oldest);
      break;
    }
  }

  /**
   * The upstream to ask next. Where none is fit, one that fails or refuses us is asked all the same, since it may be back
   * and its own error says more than ours; one that wants to be left alone is not, unless it is the only one there is.
   */
  pick(wanted: Wanted, tried: Tried, now: number): Pick {
    const { model } = wanted;
    const [only, another] = this.#upstreams;
    if (only && !another && wanted.pinned === null) return this.#pickOnly(only, wanted, tried, now);
    const able = this.#able(wanted, tried, now);
    if (able.length === 0) return NONE;
    const isNew = ({ id }: Upstream): boolean => !tried.asked.has(id) || tried.again === id;
    const isFree = ({ id }: Upstream): boolean => this.health(id).hold(model, now) === null;
    const hasRoom = ({ id }: Upstream): boolean => this.health(id).hasRoom(now);
    const isLeftAlone = ({ id }: Upstream): boolean =>
      this.health(id).coolingMs(model, now) > 0 && (this.#upstreams.length > 1 || tried.asked.has(id));
    const upstream =
      able.find((one) => isFree(one) && isNew(one) && hasRoom(one)) ??
      able.find((one) => isFree(one) && isNew(one)) ??
      able.find(isFree) ??
      able.find((one) => !isLeftAlone(one) && isNew(one)) ??
      able.find((one) => !isLeftAlone(one));
    if (upstream) return { kind: "picked", upstream, health: this.health(upstream.id) };
    return { kind: "resting", waitMs: Math.min(...able.map(({ id }) => this.health(id).coolingMs(model, now))) };
  }

  /** The same, without a list: most gateways have one upstream. */
  #pickOnly(upstream: Upstream, { model, bound }: Wanted, tried: Tried, now: number): Pick {
    const { id, state, models } = upstream;
    if ((state !== "active" && !bound) || !hasModel(models, model) || tried.useless.has(id)) return NONE;
    const health = this.health(id);
    const waitMs = tried.asked.has(id) ? health.coolingMs(model, now) : 0;
    return waitMs > 0 ? { kind: "resting", waitMs } : { kind: "picked", upstream, health };
  }

  /** Those that may be asked for this call at all, the preferred ones first. */
  #able({ affinity, model, bound, pinned }: Wanted, tried: Tried, now: number): readonly Upstream[] {
    if (pinned !== null) {
      const all = [...this.#upstreams, ...this.#forPinned];
      return all.filter(({ id }) => id === pinned && !tried.useless.has(id));
    }
    const lives = this.#upstreams.find(({ id }) => id === tried.home);
    const serving = this.#upstreams.filter(
      (upstream) => (upstream.state === "active" || (bound && upstream === lives)) && hasModel(upstream.models, model),
    );
    let able = [...ranked(affinity, serving)];
    const first = lives && able.includes(lives) ? lives : able[0];
    if (bound && first && !tried.useless.has(first.id)) able = able.filter((other) => this.#isOfOne(first, other));
    able = able.filter(({ id }) => !tried.useless.has(id));
    const having = model === null ? able : able.filter(({ id }) => !this.health(id).lacks(model, now));
    if (having.length > 0) able = having;
    // The conversation's own first, and before it whoever is to be asked again.
    const rank = (upstream: Upstream): number => (upstream.id === tried.again ? 0 : upstream === first ? 1 : 2);
    return able.sort((a, b) => rank(a) - rank(b));
  }

  #isOfOne(home: Upstream, other: Upstream): boolean {
    if (home === other) return true;
    const { organization } = this.health(home.id);
    return organization !== null && organization === this.health(other.id).organization;
  }
}

/** 64 bits: the second half begins with another text, since what follows the same text keeps the same hash the same. */
function digest(affinity: string): string {
  return hash(affinity).toString(36) + hash(`\n${affinity}`).toString(36);
}
