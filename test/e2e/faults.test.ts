/** The fault table: every row, streamed and not, at the places where it makes sense. */
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { endingOf, judge, type Played } from "../faults/oracle.ts";
import { ROWS, type Row } from "../faults/rows.ts";
import { canariesOf, type Lane, LIMITS, PATIENT, RULES, startWorld, type World } from "../faults/world.ts";

vi.setConfig({ maxConcurrency: 6 });

/** Lanes of three upstreams, which are used again and again, and lanes of one, which are used once. */
const LANES = [...Array.from({ length: 12 }, () => 3), ...Array.from({ length: 16 }, () => 1)];

type Free = { readonly lane: Lane; readonly healed: Promise<void> };
type Stage = { readonly world: World; readonly free: Map<number, Free[]> };
const stages = new Map<boolean, Stage>();

/** The gateway whose limits of time are those of the table, and the one that has patience. */
beforeAll(async () => {
  for (const timed of [true, false]) {
    const world = await startWorld(LANES, timed ? {} : { bindings: PATIENT });
    const free = new Map<number, Free[]>();
    for (const lane of world.lanes) {
      const size = lane.upstreams.length;
      free.set(size, [...(free.get(size) ?? []), { lane, healed: Promise.resolve() }]);
    }
    stages.set(timed, { world, free });
  }
});
afterAll(async () => {
  for (const { world } of stages.values()) await world.stop();
});

/** A lane whose upstreams all work, for as long as `use` takes. */
async function withLane(row: Row, use: (world: World, lane: Lane) => Promise<void>): Promise<void> {
  const stage = stages.get(row.timed ?? false);
  const lanes = stage?.free.get(row.upstreams ?? 3);
  const next = lanes?.shift();
  if (!stage || !lanes || !next) throw new Error("more cases at the same time than lanes");
  const { lane, healed } = next;
  try {
    await healed;
    await use(stage.world, lane);
  } finally {
    // Of lanes of one there are as many as rows that want one, and some are left cooling for a minute.
    if (lane.upstreams.length > 1) {
      const heals = stage.world.heal(lane);
      heals.catch(() => {});
      lanes.push({ lane, healed: heals });
    }
  }
}

/** The books are looked at when all is over, since they take a second to be written. */
const cases: { readonly name: string; readonly row: Row; readonly lane: Lane; readonly played: Played }[] = [];

describe.concurrent("faults", () => {
  it.each(ROWS.map((row) => [`${row.name} (${row.stream ? "stream" : "whole"})`, row] as const))(
    "%s",
    async (name, row) => {
      await withLane(row, async (world, lane) => {
        const played = await play(row, world, lane);
        cases.push({ name, row, lane, played });
        check(row, played);
      });
    },
    100_000,
  );
});

async function play({ order, stream, padding, timed }: Row, world: World, lane: Lane): Promise<Played> {
  const body = padding ? { padding: "x".repeat(padding) } : {};
  return world.play(lane, stream, { order }, { body, manners: { deadlineMs: timed ? 15_000 : 60_000 } });
}

/** What client and upstreams saw. */
function check({ expected, timed }: Row, played: Played): void {
  const { answer, attempts } = played;
  const ending = endingOf(played);
  const context = JSON.stringify({ ending, status: answer.status, ms: answer.ms, headers: answer.headers }, shorten);
  expect(ending.kind, context).toBe(expected.ending);
  if (expected.status !== undefined) expect(answer.status, context).toBe(expected.status);
  if (expected.type !== undefined) expect("type" in ending ? ending.type : undefined, context).toBe(expected.type);
  const [least, most] =
    typeof expected.attempts === "number" ? [expected.attempts, expected.attempts] : expected.attempts;
  expect(attempts.length, context).toBeGreaterThanOrEqual(least);
  expect(attempts.length, context).toBeLessThanOrEqual(most);
  if (expected.asked !== undefined) {
    expect(new Set(attempts.map(({ credential }) => credential)).size, context).toBe(expected.asked);
  }
  for (const [name, value] of Object.entries(expected.headers ?? {})) {
    if (value === null) expect(answer.headers[name], context).toBeUndefined();
    else expect(answer.headers[name], context).toMatch(value);
  }
  if (expected.atLeastMs) expect(answer.ms, context).toBeGreaterThanOrEqual(expected.atLeastMs);
  expect(answer.ms, context).toBeLessThanOrEqual(timed ? LIMITS.totalMs + 3_000 : (expected.atMostMs ?? 30_000));
  if (expected.allBytes) {
    const sent = Buffer.concat(attempts.at(-1)?.sent ?? []);
    const got = ending.kind === "cut" ? answer.body.subarray(0, ending.delivered) : answer.body;
    expect(got.equals(sent), context).toBe(true);
  }
  expect(attempts.every(({ target }) => target === "/v1/messages")).toBe(true);
}

describe("after all these faults", () => {
  it("the books have one row for each call, with what was delivered and who was asked", async () => {
    const wrong: string[] = [];
    for (const { world, free } of stages.values()) {
      await Promise.all([...free.values()].flat().map(({ healed }) => healed));
      for (const lane of world.lanes) {
        const own = cases.filter((one) => one.lane === lane);
        const rows = await world.rowsOf(
          lane,
          own.map(({ played }) => played),
        );
        for (const { name, row, played } of own) {
          const { expected } = row;
          const about = rows.get(played.call) ?? [];
          const found = judge(played, about, RULES);
          const counted = expected.otherMoney ? found.filter((line) => !line.startsWith("delivered")) : found;
          const asked = lane.upstreams.find(({ credential }) => credential === played.attempts.at(-1)?.credential);
          if (about[0]?.upstream !== (asked?.id ?? null)) counted.push(`upstream ${about[0]?.upstream} in the audit`);
          for (const [field, value] of Object.entries(expected.audit ?? {})) {
            if (about[0]?.[field] !== value) counted.push(`${field} is ${about[0]?.[field]} in the audit`);
          }
          wrong.push(...counted.map((line) => `${name}: ${line}`));
        }
        await world.gateway.settled(lane.key);
      }
    }
    expect(wrong).toEqual([]);
    expect(cases).toHaveLength(ROWS.length);
  }, 60_000);

  it("no credential and no prompt has been shown to anybody", async () => {
    for (const { world } of stages.values()) {
      const exported = await world.gateway.admin("audit.ndjson");
      const answers = cases.map(({ played }) => played.answer);
      expect(await canariesOf(world, answers, await exported.text())).toEqual([]);
    }
  });
});

/** Long bodies are of no use in a message. */
function shorten(name: string, value: unknown): unknown {
  return name === "of" && value && typeof value === "object" ? "…" : value;
}
