/** Whose turn it is: whatever calls, orders, leavers and deaths do, there is one run at most, and nobody waits for ever. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { CLAIM_MS, Turns, type Verdict, WAIT_MS } from "../../src/answers/turns.ts";

/** Timers that fire when the test says that time has passed. */
class Timers {
  now = 0;
  #timers = new Set<{ at: number; act: () => void }>();

  readonly later = (ms: number, act: () => void): (() => void) => {
    const timer = { at: this.now + ms, act };
    this.#timers.add(timer);
    return () => void this.#timers.delete(timer);
  };

  pass(ms: number): void {
    const end = this.now + ms;
    for (;;) {
      const [next] = [...this.#timers].filter(({ at }) => at <= end).sort((a, b) => a.at - b.at);
      if (!next) break;
      this.#timers.delete(next);
      this.now = next.at;
      next.act();
    }
    this.now = end;
  }

  /** Timers of an object that has died never fire. */
  clear(): void {
    this.#timers.clear();
  }

  get count(): number {
    return this.#timers.size;
  }
}

function asking(turns: Turns, token: string, fingerprint = "f"): Verdict[] {
  const told: Verdict[] = [];
  turns.ask(token, fingerprint, (verdict) => told.push(verdict));
  return told;
}

const run = { kind: "run" };
const attach = (id: string): object => ({ kind: "attach", run: id });

describe("turns", () => {
  it("the first has it, the others wait until its order begins the run", () => {
    const turns = new Turns(new Timers().later);
    expect(asking(turns, "a")).toEqual([run]);
    const second = asking(turns, "b");
    const other = asking(turns, "c", "another");
    expect([second, other]).toEqual([[], []]);
    expect(turns.begin("f", "r1")).toEqual(run);
    expect([second, other]).toEqual([[attach("r1")], [{ kind: "mismatch" }]]);
    expect(asking(turns, "d")).toEqual([attach("r1")]);
    expect(asking(turns, "e", "another")).toEqual([{ kind: "mismatch" }]);
    turns.end("r1");
    expect(asking(turns, "f", "another")).toEqual([run]);
  });

  it("passes to whoever has waited longest when its holder gives up, or is not heard of for CLAIM_MS", () => {
    const timers = new Timers();
    const turns = new Turns(timers.later);
    asking(turns, "a");
    const waiting = [asking(turns, "b"), asking(turns, "c")];
    turns.release("a");
    expect(waiting).toEqual([[run], []]);
    timers.pass(CLAIM_MS - 1);
    expect(waiting).toEqual([[run], []]);
    timers.pass(1);
    expect(waiting).toEqual([[run], [run]]);
    // Who comes too late joins the run that there is meanwhile.
    expect(turns.begin("f", "of c")).toEqual(run);
    expect(turns.begin("f", "of b")).toEqual(attach("of c"));
  });

  it("a holder that asks again still has it; a waiter that leaves gets none", () => {
    const timers = new Timers();
    const turns = new Turns(timers.later);
    asking(turns, "a");
    expect(asking(turns, "a")).toEqual([run]);
    const left = asking(turns, "b");
    const stays = asking(turns, "c");
    turns.release("b");
    turns.release("a");
    expect([left, stays]).toEqual([[{ kind: "busy" }], [run]]);
    turns.release("c");
    expect([turns.idle, timers.count]).toEqual([true, 0]);
  });
});

/** What may happen to a call between its question and the end of its run. */
const steps = fc.array(
  fc.oneof(
    { weight: 4, arbitrary: fc.record({ do: fc.constant("ask" as const), fingerprint: fc.constantFrom("f", "g") }) },
    { weight: 3, arbitrary: fc.record({ do: fc.constant("begin" as const), nth: fc.nat(5) }) },
    { weight: 2, arbitrary: fc.record({ do: fc.constant("release" as const), nth: fc.nat(8) }) },
    { weight: 2, arbitrary: fc.record({ do: fc.constant("over" as const), kept: fc.boolean() }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant("expire" as const) }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant("die" as const) }) },
    { weight: 3, arbitrary: fc.record({ do: fc.constant("pass" as const), ms: fc.nat(CLAIM_MS) }) },
  ),
  { maxLength: 60 },
);

it("I-02 in any interleaving one run at most, everyone is answered once and in time, and only fellows attach", () => {
  fc.assert(
    fc.property(steps, (script) => {
      const timers = new Timers();
      let turns = new Turns(timers.later);
      type Asked = { token: string; fingerprint: string; at: number; told: Verdict[]; dead: boolean };
      const calls: Asked[] = [];
      type Current = { id: string; fingerprint: string; state: "running" | "kept" };
      let current = null as Current | null;
      let runs = 0;
      const mayBegin = (): Asked[] => calls.filter(({ told, dead }) => told[0]?.kind === "run" && !dead);
      for (const step of script) {
        switch (step.do) {
          case "ask": {
            const call: Asked = {
              token: `t${calls.length}`,
              fingerprint: step.fingerprint,
              at: timers.now,
              told: [],
              dead: false,
            };
            calls.push(call);
            turns.ask(call.token, call.fingerprint, (verdict) => {
              call.told.push(verdict);
              if (verdict.kind === "run") expect(current).toBeNull();
              if (verdict.kind === "attach")
                expect(current).toMatchObject({ id: verdict.run, fingerprint: call.fingerprint });
              if (verdict.kind === "mismatch") expect(current?.fingerprint).not.toBe(call.fingerprint);
            });
            break;
          }
          case "begin": {
            const may = mayBegin();
            const call = may[step.nth % Math.max(1, may.length)];
            if (!call) break;
            call.dead = true;
            const id = `r${++runs}`;
            const before = current;
            // Those who wait are told while it begins.
            if (!before) current = { id, fingerprint: call.fingerprint, state: "running" };
            const verdict = turns.begin(call.fingerprint, id);
            expect(verdict.kind === "run").toBe(before === null);
            if (before)
              expect(verdict).toEqual(
                before.fingerprint === call.fingerprint ? attach(before.id) : { kind: "mismatch" },
              );
            break;
          }
          case "release":
            if (calls.length > 0) {
              // Its order may be on the way already.
              turns.release(calls[step.nth % calls.length]?.token ?? "");
            }
            break;
          case "over":
            if (current?.state !== "running") break;
            if (step.kept) current.state = "kept";
            else {
              const { id } = current;
              current = null;
              turns.end(id);
            }
            break;
          case "expire": {
            if (current?.state !== "kept") break;
            const { id } = current;
            current = null;
            turns.end(id);
            break;
          }
          case "die": {
            // Calls under way break with the object; what is kept it finds again.
            for (const call of calls) {
              call.dead = true;
              if (call.told.length === 0) call.told.push({ kind: "busy" });
            }
            timers.clear();
            turns = new Turns(timers.later);
            if (current?.state === "running") current = null;
            if (current) turns.keep(current.fingerprint, current.id);
            break;
          }
          case "pass":
            timers.pass(step.ms);
            break;
        }
        for (const { told, at } of calls) {
          expect(told.length).toBeLessThanOrEqual(1);
          if (timers.now - at >= WAIT_MS) expect(told).toHaveLength(1);
        }
      }
      timers.pass(WAIT_MS);
      for (const { told } of calls) expect(told).toHaveLength(1);
    }),
    { numRuns: 1_000 },
  );
});
