/**
 * Upstreams with scripts, isolates that share hints, and time that passes at once: `askPool` as it is, around it a world
 * in which every moment is known. What the runtime's timers do, this world's do.
 */
import { vi } from "vitest";
import { CallTimer } from "../../src/call-timer.ts";
import { err, ok, type Result } from "../../src/result.ts";
import { askPool, type Outcome, Stop, type Surroundings } from "../../src/upstream/attempts.ts";
import { Pool, type Wanted } from "../../src/upstream/pool.ts";
import type { Upstream } from "../../src/upstream/upstream.ts";
import type { Failure } from "../../src/wire/errors.ts";
import { randomFrom, START } from "../ledger/simulation.ts";

/** How an upstream behaves towards one attempt. */
export type Act =
  | { readonly kind: "answer"; readonly status: number; readonly headers: Record<string, string>; readonly ms: number }
  /** The first event of a 200 is an error. */
  | { readonly kind: "error first"; readonly type: string; readonly ms: number }
  | { readonly kind: "reset"; readonly ms: number }
  | { readonly kind: "cut"; readonly ms: number }
  /** Never answers; whether it gives a sign of life. */
  | { readonly kind: "hang"; readonly alive: boolean };

export const fine = (ms = 10): Act => ({ kind: "answer", status: 200, headers: {}, ms });
export const says = (status: number, headers: Record<string, string> = {}, ms = 5): Act => ({
  kind: "answer",
  status,
  headers,
  ms,
});

/** One upstream: its acts in turn, the last one for ever. */
export type Script = { readonly acts: readonly Act[]; readonly organization: string; readonly slots: number };

export type CallPlan = {
  readonly wanted: Wanted;
  readonly stream: boolean;
  readonly leavesAfterMs: number | null;
  readonly maxAttempts: number;
};

export type Attempt = {
  readonly call: Call;
  readonly upstream: string;
  readonly apiKey: string;
  readonly at: number;
  readonly act: Act;
  endedAt: number | null;
  /** Ended by a limit of time, or by the client. */
  aborted: boolean;
};

export type Call = {
  readonly plan: CallPlan;
  readonly isolate: Isolate;
  readonly begunAt: number;
  readonly stop: Stop;
  readonly attempts: Attempt[];
  /** Where its conversation lived when it came. */
  readonly home: string | undefined;
  outcome: Outcome<Uint8Array> | null;
  endedAt: number;
};

export const TIMEOUTS = {
  connectMs: 2_000,
  firstByteMs: 6_000,
  silenceMs: 6_000,
  totalMs: 15_000,
  streamTotalMs: 60_000,
};

export class World {
  at = START;
  readonly scripts: Map<string, Script>;
  readonly asked = new Map<string, number>();
  readonly attempts: Attempt[] = [];
  readonly isolates: Isolate[];
  readonly random: () => number;
  /** What is to hold at the moment of each attempt. */
  onAttempt: (attempt: Attempt) => void = () => {};
  held = 0;
  /** No upstream gives a sign of life beside its answers. */
  deaf = false;
  /** What went wrong where nobody could be told. */
  readonly bugs: unknown[] = [];
  readonly #timers = new Map<number, { at: number; fire: () => void }>();
  #named = 0;

  constructor(scripts: readonly Script[], isolates = 1, seed = 1) {
    this.random = randomFrom(seed);
    this.scripts = new Map(scripts.map((script, i) => [`up_${i}`, script]));
    this.isolates = Array.from({ length: isolates }, () => new Isolate(this));
  }

  setTimeout = (fire: () => void, ms = 0): number => {
    this.#timers.set(++this.#named, { at: this.at + Math.max(1, ms), fire });
    return this.#named;
  };

  clearTimeout = (name: number): void => {
    this.#timers.delete(name);
  };

  wait(ms: number): Promise<void> {
    return new Promise((done) => this.setTimeout(done, ms));
  }

  /** Lets time pass; what is due happens, and all that follows from it, before time goes on. */
  async pass(ms: number): Promise<void> {
    const end = this.at + ms;
    for (;;) {
      await new Promise((done) => setImmediate(done));
      let next: number | undefined;
      let at = Number.POSITIVE_INFINITY;
      for (const [name, timer] of this.#timers) if (timer.at < at) [next, at] = [name, timer.at];
      if (next === undefined || at > end) break;
      const { fire } = this.#timers.get(next) ?? { fire: () => {} };
      this.#timers.delete(next);
      this.at = at;
      fire();
    }
    this.at = end;
  }

  /** Runs `life` with this world's timers instead of the runtime's. */
  async live(life: () => Promise<void>): Promise<void> {
    vi.stubGlobal("setTimeout", this.setTimeout);
    vi.stubGlobal("clearTimeout", this.clearTimeout);
    try {
      await life();
    } finally {
      vi.unstubAllGlobals();
    }
  }

  actOf(upstream: string): Act {
    const nth = this.asked.get(upstream) ?? 0;
    this.asked.set(upstream, nth + 1);
    const acts = this.scripts.get(upstream)?.acts ?? [];
    return acts[Math.min(nth, acts.length - 1)] ?? fine();
  }
}

export class Isolate {
  readonly pool = new Pool();
  readonly world: World;
  offset = 0;
  readonly calls: Call[] = [];
  readonly #held = new Map<string, number>();

  constructor(world: World) {
    this.world = world;
    this.know([...world.scripts.keys()]);
  }

  /** These upstreams are the pool from now on. */
  know(ids: readonly string[], keys: Readonly<Record<string, string>> = {}): void {
    this.pool.replace(
      ids.map(
        (id): Upstream => ({
          id,
          base_url: `https://${id}.test`,
          weight: 100,
          models: null,
          concurrent_requests: null,
          state: "active",
          apiKey: keys[id] ?? `key of ${id}`,
        }),
      ),
    );
  }

  now = (): number => this.world.at + this.offset;

  /** Begins a call; it goes on while time passes. */
  call(plan: CallPlan): Call {
    const { world } = this;
    const stop = new Stop();
    const call: Call = {
      plan,
      isolate: this,
      begunAt: world.at,
      stop,
      attempts: [],
      home: this.pool.homeOf(plan.wanted),
      outcome: null,
      endedAt: Number.NaN,
    };
    this.calls.push(call);
    const timer = new CallTimer({ now: this.now, wait: (ms) => world.wait(ms) }, 10_000, () => {});
    if (plan.leavesAfterMs !== null) world.setTimeout(() => stop.now(), plan.leavesAfterMs);
    const finish = (outcome: Outcome<Uint8Array>): void => {
      timer.stop();
      call.outcome = outcome;
      call.endedAt = world.at;
      // A stream is held until its end.
      world.setTimeout(() => outcome.release(), plan.stream ? 50 : 1);
    };
    askPool<Uint8Array>(
      {
        path: "/v1/messages",
        method: "POST",
        headers: {},
        body: new Uint8Array(),
        wanted: plan.wanted,
        stream: plan.stream,
        timeouts: TIMEOUTS,
        maxAttempts: plan.maxAttempts,
        timer,
        stop,
        read,
      },
      this.#around(call),
    ).then(finish, (bug: unknown) => {
      timer.stop();
      world.bugs.push(bug);
    });
    return call;
  }

  #around(call: Call): Surroundings {
    const { world, pool } = this;
    return {
      now: this.now,
      random: world.random,
      pool,
      send: (url, init) => this.#send(call, url, init),
      findHome: async () => {},
      moved: () => {},
      hint: (upstream, kind, forMs, _reason, model) => {
        for (const other of world.isolates) {
          if (other === this || !other.pool.upstreams.some(({ id }) => id === upstream)) continue;
          world.setTimeout(() => {
            const health = other.pool.health(upstream);
            if (kind === "cooling") health.coolFor(forMs, model, other.now());
            if (kind === "refused") health.refusedFor(forMs, other.now());
          }, 300);
        }
      },
      recovered: () => {},
      renewed: async (upstream) =>
        pool.upstreams.some(({ id, apiKey }) => id === upstream.id && apiKey !== upstream.apiKey),
      isAlive: async (upstream, ms) => {
        const running = call.attempts.findLast((attempt) => attempt.upstream === upstream.id);
        if (!world.deaf && (running?.act.kind !== "hang" || running.act.alive)) return true;
        await world.wait(ms);
        return false;
      },
      hold: async ({ id }) => {
        const waitMs = Math.floor(world.random() * 8);
        if (waitMs > 4) await world.wait(waitMs);
        const held = this.#held.get(id) ?? 0;
        if (held >= (world.scripts.get(id)?.slots ?? 1)) return { retryAfterMs: 1_000 };
        this.#held.set(id, held + 1);
        world.held++;
        let over = false;
        return () => {
          if (over) world.bugs.push(new Error("a slot was given up twice"));
          over = true;
          world.held--;
          this.#held.set(id, (this.#held.get(id) ?? 0) - 1);
        };
      },
    };
  }

  async #send(call: Call, url: string, { signal, headers }: RequestInit): Promise<Response> {
    const { world } = this;
    const upstream = new URL(url).hostname.replace(".test", "");
    const act = world.actOf(upstream);
    const apiKey = (headers as Record<string, string>)["x-api-key"] ?? "";
    const attempt: Attempt = { call, upstream, apiKey, at: world.at, act, endedAt: null, aborted: false };
    call.attempts.push(attempt);
    world.attempts.push(attempt);
    try {
      world.onAttempt(attempt);
    } catch (failed) {
      world.bugs.push(failed);
    }
    const end = Promise.withResolvers<void>();
    const abort = (): void => {
      attempt.aborted = true;
      attempt.endedAt ??= world.at;
      end.reject(new Error("aborted"));
    };
    if (signal?.aborted) abort();
    signal?.addEventListener("abort", () => attempt.endedAt ?? abort());
    if (act.kind !== "hang") world.setTimeout(end.resolve, act.ms);
    await end.promise;
    attempt.endedAt = world.at;
    if (act.kind === "reset") throw new Error("reset");
    const organization = world.scripts.get(upstream)?.organization ?? "";
    const known = { "anthropic-organization-id": organization };
    if (act.kind === "answer") return new Response(null, { status: act.status, headers: { ...known, ...act.headers } });
    const first = act.kind === "cut" ? "cut" : act.kind === "error first" ? act.type : "";
    return new Response(null, { status: 200, headers: { ...known, first } });
  }
}

async function read(response: Response): Promise<Result<Uint8Array, Failure>> {
  const first = response.headers.get("first");
  if (first === "cut") return err({ kind: "upstream_cut" });
  return first === null ? ok(new Uint8Array()) : err({ kind: "upstream_error_event", type: first, body: "{}" });
}
