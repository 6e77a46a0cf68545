/** A conversation's log in the Workers runtime: every number is there once, whoever reads from where. */
import { evictDurableObject } from "cloudflare:test";
import fc from "fast-check";
import { describe, expect, it, vi } from "vitest";
import {
  type EventLog,
  KEPT_BYTES,
  KEPT_TURNS,
  type LogEntry,
  type LogKind,
  type Numbered,
  ROW_BYTES,
} from "../../src/conversations/log.ts";
import { PIECE_BYTES } from "../../src/pieces.ts";
import { emptyObject, inside, inVain, opened, rowsOf } from "./stored.ts";

const MB = 1024 * 1024;
const EVERYTHING = Number.MAX_SAFE_INTEGER;
/** What stands beside an entry's text in its row. */
const BESIDE = 5;

const entry = (kind: LogKind, turn: string, data = "{}"): LogEntry => ({ kind, turn, data });
const event = (turn: string, data: string): LogEntry => entry("event", turn, data);
/** Of so many bytes. */
const sized = (bytes: number): string => `"${"x".repeat(bytes - 2)}"`;
/** Entries as a failed comparison can show them. */
const brief = (entries: Iterable<Numbered>): string[] =>
  [...entries].map(
    ({ seq, kind, turn, data }) => `${seq} ${kind} ${turn} ${data.length}:${data.slice(0, 50)}${data.slice(-5)}`,
  );
const numbersOf = (entries: readonly Numbered[]): number[] => entries.map(({ seq }) => seq);

/** Everything behind a number, read in steps of at most so many bytes. */
function joined(log: EventLog, after: number, step: number): Numbered[] {
  const all: Numbered[] = [];
  for (;;) {
    const more = log.read(all.at(-1)?.seq ?? after, step);
    if (more.length === 0) return all;
    all.push(...more);
  }
}

/** A turn from beginning to end, in one moment per event. */
function played(log: EventLog, turn: string, ...events: string[]): void {
  log.append([entry("turn.started", turn)]);
  for (const data of events) log.append([event(turn, data)]);
  log.append([entry("turn.completed", turn)]);
}

const run = (act: (storage: DurableObjectStorage) => void): Promise<void> =>
  inside(emptyObject(), (storage) => {
    opened(storage).tables.make();
    act(storage);
  });

describe("the log", () => {
  it("X-01 leaves an object alone in which there is no conversation", () =>
    inside(emptyObject(), (storage) => {
      const { tables, log } = opened(storage);
      log.compact(null);
      expect([tables.made, log.lastSeq, log.floor, log.bytes]).toEqual([false, 0, 0, 0]);
      expect([log.read(0, EVERYTHING), log.hasEvents("t"), [...log.eventsOf("t")], log.before("t")]).toEqual([
        [],
        false,
        [],
        0,
      ]);
      expect(rowsOf(storage, "SELECT name FROM sqlite_master")).toEqual([]);
    }));

  it("stores the entries of one moment in one row, and is the same after an eviction", async () => {
    const stub = emptyObject();
    const entries = [entry("turn.started", "t"), event("t", '{"a":"\u{1f600}\u0000\\n"}'), event("t", "{}")];
    const first = await inside(stub, (storage) => {
      const { tables, log } = opened(storage);
      tables.make();
      return log.append(entries);
    });
    expect(first).toEqual(entries.map((one, i) => ({ ...one, seq: i + 1 })));
    await evictDurableObject(stub);
    await inside(stub, (storage) => {
      const { log } = opened(storage);
      expect(rowsOf(storage, "SELECT count(*) AS n FROM log")).toEqual([{ n: 1 }]);
      expect(log.lastSeq).toBe(3);
      expect(log.append([event("t", "{}")])).toEqual([{ ...event("t", "{}"), seq: 4 }]);
      expect(numbersOf(log.read(1, EVERYTHING))).toEqual([2, 3, 4]);
      expect(log.read(0, EVERYTHING).slice(0, 3)).toEqual(first);
    });
  });

  it("takes back what was rolled back, numbers included", () =>
    run((storage) => {
      const { tables, log } = opened(storage);
      played(log, "a", "{}");
      const before = [log.lastSeq, log.bytes];
      inVain(tables, () => {
        log.append([entry("turn.started", "b"), event("b", sized(2 * MB))]);
        expect(log.lastSeq).toBe(5);
      });
      expect([log.lastSeq, log.bytes, log.before("b"), log.hasEvents("b")]).toEqual([...before, 0, false]);
      expect(numbersOf(log.append([entry("turn.started", "b")]))).toEqual([4]);
      expect(log.before("b")).toBe(3);
      expect(rowsOf(storage, "SELECT * FROM piece")).toEqual([]);
    }));

  it("takes back what was rolled back also where nothing can be read then", () =>
    run((storage) => {
      const { tables, log } = opened(storage);
      played(log, "a", "{}");
      const exec = vi.spyOn(Object.getPrototypeOf(storage.sql) as SqlStorage, "exec");
      try {
        inVain(tables, () => {
          log.append([event("b", "{}")]);
          exec.mockImplementation(() => {
            throw new Error("storage is away");
          });
        });
      } finally {
        exec.mockRestore();
      }
      expect(numbersOf(log.append([event("b", "{}")]))).toEqual([4]);
    }));

  it("reads at most so many bytes, and one entry at least, also in the middle of a row", () =>
    run((storage) => {
      const { log } = opened(storage);
      log.append([100, 100, 100, 100].map((bytes) => event("t", sized(bytes))));
      const read = (after: number, bytes: number): number[] => numbersOf(log.read(after, bytes));
      expect([read(0, 0), read(0, 199), read(0, 200), read(1, 299), read(2, 200), read(3, 1), read(4, 1)]).toEqual([
        [1],
        [1],
        [1, 2],
        [2, 3],
        [3, 4],
        [4],
        [],
      ]);
    }));

  it.each([ROW_BYTES - BESIDE, PIECE_BYTES - BESIDE, 16 * MB])(
    "holds entries of %i bytes, one less and one more, no value above a piece's size",
    (bytes) =>
      run((storage) => {
        const { log } = opened(storage);
        const sizes = [bytes - 1, bytes, bytes + 1];
        const added = sizes.flatMap((size) => log.append([event("t", "{}"), event("t", sized(size)), event("t", "1")]));
        for (const after of [0, 1, 4, 7]) expect(brief(joined(log, after, MB))).toEqual(brief(added.slice(after)));
        expect(brief(log.eventsOf("t"))).toEqual(brief(added));
        const [largest] = rowsOf(
          storage,
          "SELECT (SELECT max(length(bytes)) FROM piece) AS piece, (SELECT max(length(body)) FROM log) AS row",
        );
        expect(Number(largest?.piece)).toBeLessThanOrEqual(PIECE_BYTES);
        expect(Number(largest?.row)).toBeLessThanOrEqual(ROW_BYTES);
      }),
  );

  it("cuts pieces through characters without harm", () =>
    run((storage) => {
      const { log } = opened(storage);
      for (let shift = 0; shift < 4; shift++) {
        const data = `"${"x".repeat(shift)}${"\u{1f600}".repeat(PIECE_BYTES / 4)}é"`;
        log.append([event("t", data)]);
        expect(log.read(shift, 1)[0]?.data === data).toBe(true);
      }
    }));

  it("knows of each turn where it begins, and its events", () =>
    run((storage) => {
      const { log } = opened(storage);
      log.append([entry("turn.started", "a"), event("a", "1")]);
      log.append([entry("turn.queued", "b")]);
      log.append([event("a", "2"), entry("turn.completed", "a")]);
      log.append([entry("turn.started", "b")]);
      expect([log.before("a"), log.before("b"), log.hasEvents("a"), log.hasEvents("b")]).toEqual([0, 2, true, false]);
      log.append([entry("context.cut", "b"), event("b", "3"), event("b", "4")]);
      expect([...log.eventsOf("a")].map(({ seq, data }) => [seq, data])).toEqual([
        [2, "1"],
        [4, "2"],
      ]);
      expect([...log.eventsOf("b")].map(({ data }) => data)).toEqual(["3", "4"]);
      expect(log.hasEvents("b")).toBe(true);
    }));
});

describe("compaction", () => {
  const floorOf = (log: EventLog, running: string | null = null): number => {
    log.compact(running);
    return log.floor;
  };

  it(`keeps ${KEPT_TURNS} ended turns and drops whole ones beyond, over an eviction too`, () =>
    run((storage) => {
      const { log } = opened(storage);
      for (let i = 0; i < KEPT_TURNS; i++) played(log, `t${i}`, "1");
      expect(floorOf(log)).toBe(0);
      const before = log.bytes;
      played(log, "one more", "1");
      expect([floorOf(log), log.bytes]).toEqual([3, before]);
      expect([log.before("t0"), log.before("t1"), log.hasEvents("t0"), log.hasEvents("t1")]).toEqual([
        0,
        3,
        false,
        true,
      ]);
      const again = opened(storage).log;
      expect([again.floor, again.lastSeq, again.bytes]).toEqual([3, 51, log.bytes]);
      expect(numbersOf(again.read(3, EVERYTHING))).toEqual(Array.from({ length: 48 }, (_, i) => i + 4));
      expect(rowsOf(storage, "SELECT min(last) AS first, count(*) AS rows FROM log")).toEqual([{ first: 4, rows: 48 }]);
      expect(rowsOf(storage, "SELECT count(*) AS n FROM log_turn")).toEqual([{ n: KEPT_TURNS }]);
    }));

  it("keeps fewer where they are larger, but the newest one whatever its size; pieces go with their rows", () =>
    run((storage) => {
      const { log } = opened(storage);
      /** Bytes of a turn beside its one event. */
      const frame = 2 * (BESIDE + 2) + BESIDE;
      for (const turn of ["a", "b"]) played(log, turn, sized(KEPT_BYTES / 2 - frame));
      expect([log.bytes, floorOf(log)]).toEqual([KEPT_BYTES, 0]);
      played(log, "c", sized(KEPT_BYTES / 2 - frame + 1));
      expect([floorOf(log), log.bytes]).toEqual([6, KEPT_BYTES / 2 + 1]);
      played(log, "d", sized(KEPT_BYTES + 1));
      expect([floorOf(log), log.hasEvents("d")]).toEqual([9, true]);
      played(log, "e", "1");
      expect(floorOf(log)).toBe(12);
      expect(rowsOf(storage, "SELECT * FROM piece")).toEqual([]);
      expect(log.read(12, EVERYTHING)).toHaveLength(3);
    }));

  it("never drops the running turn, however large or long ago it began", () =>
    run((storage) => {
      const { log } = opened(storage);
      log.append([entry("turn.started", "running"), event("running", sized(MB))]);
      for (let i = 0; i < 2 * KEPT_TURNS; i++) played(log, `t${i}`, sized(MB));
      expect(floorOf(log, "running")).toBe(0);
      expect(floorOf(log, null)).toBeGreaterThan(2);
    }));

  it("is taken back with its transaction", () =>
    run((storage) => {
      const { tables, log } = opened(storage);
      for (let i = 0; i <= KEPT_TURNS; i++) played(log, `t${i}`);
      inVain(tables, () => expect(floorOf(log)).toBe(2));
      expect([log.floor, log.read(0, 1)[0]?.seq, floorOf(log)]).toEqual([0, 1, 2]);
    }));
});

/** What a viewer may ask, and what the log goes through meanwhile. */
type Step =
  | { readonly do: "queue" | "start" | "end" }
  | { readonly do: "evict" }
  | { readonly do: "events" | "in vain"; readonly sizes: readonly number[] }
  | { readonly do: "read"; readonly from: number; readonly step: number };
const sizes = fc.array(
  fc.oneof(
    { weight: 60, arbitrary: fc.integer({ min: 2, max: 300 }) },
    { weight: 2, arbitrary: fc.integer({ min: ROW_BYTES - 10, max: ROW_BYTES + 10 }) },
    { weight: 1, arbitrary: fc.integer({ min: PIECE_BYTES - 10, max: PIECE_BYTES + 10 }) },
  ),
  { minLength: 1, maxLength: 12 },
);
const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.oneof(
    fc.record({ do: fc.constantFrom("queue" as const, "start", "end", "end") }),
    fc.record({ do: fc.constant("evict" as const) }),
    fc.record({ do: fc.constantFrom("events" as const, "events", "in vain"), sizes }),
    fc.record({ do: fc.constant("read" as const), from: fc.nat(), step: fc.integer({ min: 0, max: 2 * MB }) }),
  ),
  { minLength: 30, maxLength: 200, size: "max" },
);

/** A conversation that plays steps, on a log that is just a list. */
class Model {
  readonly all: Numbered[] = [];
  readonly ends: number[] = [];
  readonly #queue: string[] = [];
  running: string | null = null;
  #made = 0;

  next(step: Exclude<Step, { do: "evict" } | { do: "read" }>): LogEntry[] {
    if (step.do === "queue") {
      this.#queue.push(`turn_${++this.#made}`);
      return [entry("turn.queued", this.#queue.at(-1) ?? "")];
    }
    const turn = this.running;
    if (turn === null || step.do === "start") {
      if (turn !== null) return [];
      this.running = this.#queue.shift() ?? `turn_${++this.#made}`;
      return [entry("turn.started", this.running, `"${this.running}"`)];
    }
    if ("sizes" in step) return step.sizes.map((size) => event(turn, sized(size)));
    this.running = null;
    return [entry("turn.completed", turn)];
  }

  /** Where the newest so many ended turns begin to be all there is. */
  floorFor(turns: number): number {
    return this.ends.at(-1 - turns) ?? 0;
  }
}

describe("whatever happens to it", () => {
  it("reading on from any number gives all that came after, once, in order", async () => {
    await fc.assert(
      fc.asyncProperty(steps, (script) =>
        run((storage) => {
          let { tables, log } = opened(storage);
          const model = new Model();
          for (const step of script) {
            if (step.do === "evict") ({ tables, log } = opened(storage));
            else if (step.do === "read") {
              const from = log.floor + (step.from % (model.all.length - log.floor + 1));
              expect(brief(joined(log, from, step.step))).toEqual(brief(model.all.slice(from)));
            } else if (step.do === "in vain") {
              inVain(tables, () => log.append(step.sizes.map((size) => event("nobody's", sized(size)))));
            } else {
              const entries = model.next(step);
              const added = log.append(entries);
              expect(brief(added)).toEqual(brief(entries.map((one, i) => ({ ...one, seq: model.all.length + i + 1 }))));
              model.all.push(...added);
              if (entries[0]?.kind !== "turn.completed") continue;
              model.ends.push(log.lastSeq);
              log.compact(model.running);
              const least = Math.max(model.floorFor(KEPT_TURNS), 0);
              expect(log.floor === least || log.bytes > KEPT_BYTES - 3 * MB).toBe(true);
              expect(log.floor).toBeLessThanOrEqual(model.floorFor(1));
              expect([0, ...model.ends]).toContain(log.floor);
            }
            expect(log.lastSeq).toBe(model.all.length);
          }
          for (let from = log.floor; from <= model.all.length; from++) {
            expect(numbersOf(log.read(from, 1))).toEqual(numbersOf(model.all.slice(from, from + 1)));
          }
          expect(brief(joined(log, log.floor, 100_000))).toEqual(brief(model.all.slice(log.floor)));
          if (model.running) {
            const events = model.all.filter(({ turn, kind }) => turn === model.running && kind === "event");
            expect(brief(log.eventsOf(model.running))).toEqual(brief(events));
            expect(log.hasEvents(model.running)).toBe(events.length > 0);
          }
        }),
      ),
      { numRuns: 25 },
    );
  });
});
