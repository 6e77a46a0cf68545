/** A key and its workspace under load: requests come in bursts to isolates that trouble befalls, drawn from a seed. */
import fc from "fast-check";
import { expect } from "vitest";
import type { Rules } from "../../src/identity/key-record.ts";
import type { Amounts } from "../../src/ledger/amounts.ts";
import type { Reservation } from "../../src/ledger/lease-book.ts";
import { LOAN_EXPIRES_MS } from "../../src/ledger/protocol.ts";
import { Isolate, keyPolicy, type Network, randomFrom, SimulatedLedger, START, Time } from "./simulation.ts";

export type World = {
  readonly key: Rules;
  readonly workspace: Rules;
  readonly network: Network;
  readonly isolates: number;
  /** Chance that a step kills an isolate, restarts a ledger, or steps a clock. */
  readonly deaths: number;
  readonly restarts: number;
  readonly clockSteps: number;
  /** The same for an isolate's clock. */
  readonly isolateSteps: number;
  /** Chance that an admitted request goes on in another isolate. */
  readonly handOvers: number;
  /** How long requests wait for a slot, ms. */
  readonly patienceMs: number;
  /** Chance that a client leaves at some moment while it waits. */
  readonly leavers: number;
  readonly startAt: number;
  readonly overrun: number;
  readonly steps: number;
  readonly seed: number;
};

export type Done = {
  readonly at: number;
  readonly need: Amounts;
  /** What it really used; of money up to `overrun` times what it was expected to. */
  readonly used: { inputTokens: number; outputTokens: number; microUsd: number };
  /** Where it runs. */
  isolate: Isolate;
  readonly by: Reservation["by"];
  endedAt: number | null;
  lost: boolean;
};

export type Outcome = {
  readonly admitted: Done[];
  readonly key: SimulatedLedger;
  readonly workspace: SimulatedLedger;
  readonly time: Time;
  readonly kinds: Map<string, number>;
  /** Requests that have not been answered yet. */
  waiting: number;
};

/** Requests come in bursts to random isolates, run for a while, and are settled; then everything is let come to rest. */
export async function live(world: World, check: (now: Outcome) => void): Promise<Outcome> {
  const random = randomFrom(world.seed);
  const time = new Time(world.startAt);
  const key = new SimulatedLedger(world.key, time, world.network, random);
  const workspace = new SimulatedLedger(world.workspace, time, world.network, random);
  const reach = (name: string): SimulatedLedger => (name.startsWith("ws:") ? workspace : key);
  const offsets = new Map<Isolate, number>();
  const start = (): Isolate => {
    const isolate: Isolate = new Isolate(time, reach, 250, () => offsets.get(isolate) ?? 0);
    return isolate;
  };
  const isolates = Array.from({ length: world.isolates }, start);
  const policy = keyPolicy(world.key.limits, world.key.budget);
  const outcome: Outcome = { admitted: [], key, workspace, time, kinds: new Map(), waiting: 0 };
  let count = 0;

  const request = async (isolate: Isolate): Promise<void> => {
    const need: Amounts = {
      requests: 1,
      inputTokens: 1 + Math.floor(random() * 40),
      outputTokens: 1 + Math.floor(random() * 20),
      microUsd: 1 + Math.floor(random() * 100),
      slots: 1,
    };
    const runsMs = random() < 0.1 ? 20_000 * random() : 400 * random();
    const share = random();
    const used = {
      inputTokens: Math.floor(need.inputTokens * share),
      outputTokens: Math.floor(need.outputTokens * share),
      microUsd: Math.floor(need.microUsd * share * world.overrun),
    };
    const gone = new AbortController();
    if (random() < world.leavers)
      void time
        .clock()
        .wait(random() * world.patienceMs)
        .then(() => gone.abort());
    const came = time.at;
    outcome.waiting++;
    const patience = { forMs: world.patienceMs, signal: gone.signal };
    const admission = await isolate.book.admit(policy, () => need, isolate.access, patience);
    outcome.waiting--;
    // A wait, and asking at both accounts.
    if (!isolate.dead && world.isolateSteps === 0) expect(time.at - came).toBeLessThan(world.patienceMs + 3_000);
    outcome.kinds.set(admission.kind, (outcome.kinds.get(admission.kind) ?? 0) + 1);
    if (admission.kind !== "admitted" || isolate.dead) return;
    let { reservation } = admission;
    const done: Done = { at: time.at, need, used, isolate, by: reservation.by, endedAt: null, lost: false };
    outcome.admitted.push(done);
    const other = random() < world.handOvers ? isolates[Math.floor(random() * isolates.length)] : undefined;
    if (other) {
      done.isolate = other;
      const shares = structuredClone(isolate.book.handOver(reservation));
      await time.clock().wait(random() * 100);
      reservation = other.book.adopt(shares, reservation.by);
    }
    await run(done.isolate, reservation, runsMs);
    if (done.isolate.dead) {
      done.lost = true;
      return;
    }
    done.endedAt = time.at;
    const { book, access } = done.isolate;
    void book.settle("key_1", reservation, { ...used, learned: null }, `"${++count}"`, access);
  };
  const run = async (isolate: Isolate, reservation: Reservation, ms: number): Promise<void> => {
    const clock = time.clock();
    for (let left = ms; left > 0; left -= 10_000) {
      await clock.wait(Math.min(left, 10_000));
      if (left > 10_000) void isolate.book.keepAlive(reservation, isolate.access);
    }
  };

  const rest = async (ms: number): Promise<void> => {
    for (let passed = 0; passed < ms; passed += 1_000) {
      await time.pass(1_000);
      key.expire();
      workspace.expire();
    }
  };
  for (let step = 0; step < world.steps; step++) {
    const at = Math.floor(random() * isolates.length);
    if (random() < world.deaths) {
      const dying = isolates[at];
      if (dying) dying.dead = true;
      for (const done of outcome.admitted) if (done.isolate === dying && done.endedAt === null) done.lost = true;
      isolates[at] = start();
    }
    if (random() < world.restarts) (random() < 0.5 ? key : workspace).restart();
    if (random() < world.clockSteps) {
      const by = Math.floor((random() - 0.5) * 20_000);
      key.clockOffset = by;
      workspace.clockOffset = by;
    }
    const isolate = isolates[at];
    if (isolate && random() < world.isolateSteps) offsets.set(isolate, Math.floor((random() - 0.5) * 7_200_000));
    const burst = 1 + Math.floor(random() * 25);
    if (isolate) for (let i = 0; i < burst; i++) void request(isolate);
    await time.pass(Math.floor(random() * 1_500));
    key.expire();
    workspace.expire();
    check(outcome);
  }
  key.network = { ...world.network, lose: 0 };
  workspace.network = { ...world.network, lose: 0 };
  await rest(30_000 + 2 * LOAN_EXPIRES_MS);
  check(outcome);
  expect(outcome.waiting).toBe(0);
  return outcome;
}

export const worlds = (
  rules: fc.Arbitrary<Rules>,
  trouble: Partial<
    Record<
      | "leavers"
      | "deaths"
      | "restarts"
      | "clockSteps"
      | "isolateSteps"
      | "handOvers"
      | "overrun"
      | "startAt"
      | "lose"
      | "repeat",
      number
    >
  > = {},
) =>
  fc.record({
    key: rules,
    workspace: rules,
    network: fc.record({
      delayMs: fc.integer({ min: 0, max: 60 }),
      lose: fc.constant(trouble.lose ?? 0),
      repeat: fc.constant(trouble.repeat ?? 0),
    }),
    isolates: fc.integer({ min: 1, max: 5 }),
    deaths: fc.constant(trouble.deaths ?? 0),
    restarts: fc.constant(trouble.restarts ?? 0),
    clockSteps: fc.constant(trouble.clockSteps ?? 0),
    isolateSteps: fc.constant(trouble.isolateSteps ?? 0),
    handOvers: fc.constant(trouble.handOvers ?? 0),
    overrun: fc.constant(trouble.overrun ?? 1),
    patienceMs: fc.constantFrom(0, 2_000, 10_000),
    leavers: fc.constant(trouble.leavers ?? 0.1),
    startAt: fc.constant(trouble.startAt ?? START),
    steps: fc.integer({ min: 3, max: 25 }),
    seed: fc.integer(),
  });
