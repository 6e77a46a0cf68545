/** How an isolate keeps its pool: an object that is asked seldom, that may be away, and clocks that step. */
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import type { Settings } from "../../src/env.ts";
import type { Access } from "../../src/ledger/lease-book.ts";
import type { PoolAnswer, PoolMessage } from "../../src/upstream/protocol.ts";

const HOUR_MS = 3_600_000;
const settings = {
  upstreamUrl: "https://api.anthropic.com",
  upstreamKey: "sk",
  masterKeys: [],
  baseUrls: { hosts: [], allowLocal: false },
  ledgerDeadlineMs: 250,
} as unknown as Settings;

let asked: PoolMessage[];
let loads: number;
let answer: (message: PoolMessage) => Promise<PoolAnswer>;
let load: () => Promise<{ results: unknown[] }>;
let background: Promise<unknown>[];
let room: typeof import("../../src/hotpath/upstreams.ts");
let offset: number;

const env = {
  UPSTREAM_POOL: {
    getByName: () => ({
      exchange: (message: PoolMessage) => {
        asked.push(message);
        return answer(message);
      },
    }),
  },
  DB: {
    prepare: () => ({
      all: () => {
        loads++;
        return load();
      },
    }),
  },
} as unknown as Env;
const access = { background: (work: Promise<unknown>) => background.push(work) } as unknown as Access;

const none = (version = 1): PoolAnswer => ({ version, upstreams: [], hints: [], cursor: 0 });
const after = (ms: number, what: PoolAnswer): Promise<PoolAnswer> =>
  new Promise((done) => setTimeout(() => done(what), ms));
const call = () => room.poolFor(env, settings, access);
const pass = (ms: number) => vi.advanceTimersByTimeAsync(ms);

beforeEach(async () => {
  vi.useFakeTimers();
  vi.resetModules();
  vi.spyOn(console, "error").mockImplementation(() => {});
  asked = [];
  background = [];
  loads = 0;
  offset = 0;
  answer = () => after(20, none());
  load = async () => ({ results: [] });
  const { clock } = await import("../../src/hotpath/leases.ts");
  vi.spyOn(clock, "now").mockImplementation(() => Date.now() + offset);
  vi.spyOn(clock, "wait").mockImplementation((ms) => new Promise((done) => setTimeout(done, ms)));
  room = await import("../../src/hotpath/upstreams.ts");
});

afterEach(async () => {
  await pass(HOUR_MS);
  // What is left to run behind an answer never rejects.
  const left = await Promise.allSettled(background);
  expect(left.filter(({ status }) => status === "rejected")).toEqual([]);
  vi.useRealTimers();
  vi.restoreAllMocks();
});

it("200 first calls at once ask the object once", async () => {
  const calls = Promise.all(Array.from({ length: 200 }, call));
  await pass(100);
  expect((await calls).every(({ ok }) => ok)).toBe(true);
  expect(asked.length).toBe(1);
});

it("200 first calls go on when the one that asks gets no answer", async () => {
  answer = () => (asked.length === 1 ? new Promise(() => {}) : after(20, none()));
  const calls = Promise.all(Array.from({ length: 200 }, call));
  await pass(400);
  const early = await Promise.race([calls, "waiting"]);
  expect(early).toBe("waiting");
  await pass(3_000);
  expect((await calls).filter(({ ok }) => ok).length).toBe(200);
  expect(asked.length).toBeLessThan(10);
});

it("an object that hangs at first costs the first calls a while, and those after them nothing", async () => {
  answer = () => new Promise(() => {});
  const first = call();
  await pass(2_000);
  expect((await first).ok).toBe(true);
  expect(loads).toBe(1);
  for (let i = 0; i < 20; i++) {
    const later = Promise.race([call(), pass(1).then(() => "late")]);
    expect(await later).toMatchObject({ ok: true });
    await pass(100);
  }
});

it("an object that goes away later holds up a call each five seconds at most, and is used again when it is back", async () => {
  const start = call();
  await pass(50);
  await start;
  answer = () => new Promise(() => {});
  await pass(60_000);
  let held = 0;
  for (let i = 0; i < 100; i++) {
    const one = call().then(() => true);
    if (!(await Promise.race([one, pass(1).then(() => false)]))) held++;
    await pass(200);
  }
  expect(held).toBeLessThanOrEqual(13);
  answer = () => after(20, none(2));
  await pass(5_000);
  const back = call();
  await pass(600);
  await back;
  const before = asked.length;
  await pass(100);
  await call();
  expect(asked.length).toBe(before);
});

it.each([-HOUR_MS, HOUR_MS])("a clock that steps by %d ms costs one question", async (step) => {
  const start = call();
  await pass(50);
  await start;
  offset = step;
  const next = call();
  await pass(50);
  await next;
  const before = asked.length;
  for (let i = 0; i < 20; i++) {
    expect(await Promise.race([call(), pass(1).then(() => "late")])).toMatchObject({ ok: true });
    await pass(50);
  }
  expect(asked.length).toBe(before);
});

it("an answer that comes late replaces no newer one", async () => {
  const start = call();
  await pass(50);
  await start;
  await pass(3_000);
  answer = () => after(1_000, none(2));
  await call();
  room.outdatePool();
  answer = () => after(20, none(3));
  const next = call();
  await pass(50);
  await next;
  await pass(1_500);
  await pass(2_000);
  await call();
  await pass(100);
  expect(asked.at(-1)?.version).toBe(3);
});

it("with neither the object nor the database a first call is told to come back", async () => {
  answer = async () => Promise.reject(new Error("away"));
  load = async () => Promise.reject(new Error("away"));
  const first = call();
  await pass(50);
  expect(await first).toMatchObject({ ok: false, error: { kind: "unavailable" } });
});
