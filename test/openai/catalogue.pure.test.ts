/** How an isolate keeps upstream's list of models: an upstream that is slow, away or wrong, and clocks that step. */
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { Catalogue, FETCH_MS, FRESH_MS, RETRY_MS, readPage, WAIT_MS } from "../../src/openai/catalogue.ts";
import type { ModelsAtHand } from "../../src/openai/model-names.ts";

let catalogue: Catalogue;
let fetches: number;
let offset: number;
let answer: () => Promise<ModelsAtHand>;

const list = (...ids: string[]) => ids.map((id) => ({ id }));
const after = <T>(ms: number, what: T): Promise<T> => new Promise((done) => setTimeout(() => done(what), ms));
const pass = (ms: number) => vi.advanceTimersByTimeAsync(ms);
const get = () =>
  catalogue.get(
    () => {
      fetches++;
      return answer();
    },
    () => {},
  );
/** What a call gets, and how long it waited for it. */
async function timed(): Promise<[ModelsAtHand, number]> {
  const begun = Date.now();
  let took = -1;
  const got = get().then((models) => {
    took = Date.now() - begun;
    return models;
  });
  await pass(WAIT_MS + 50);
  return [await got, took];
}

beforeEach(() => {
  vi.useFakeTimers();
  vi.spyOn(console, "error").mockImplementation(() => {});
  fetches = 0;
  offset = 0;
  answer = () => after(100, list("a"));
  catalogue = new Catalogue({ now: () => Date.now() + offset, wait: (ms) => after(ms, undefined) });
});
afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
});

it("asks nobody until somebody needs it", () => {
  expect(catalogue.models).toBeNull();
  expect(fetches).toBe(0);
});

it("fetches once for all that come at the same time, and keeps it for some minutes", async () => {
  const calls = Array.from({ length: 20 }, get);
  await pass(150);
  expect(await Promise.all(calls)).toEqual(calls.map(() => list("a")));
  expect(fetches).toBe(1);
  await pass(FRESH_MS - 200);
  expect(await get()).toEqual(list("a"));
  expect(fetches).toBe(1);
});

it("gives the old copy while a new one is fetched", async () => {
  await timed();
  await pass(FRESH_MS);
  answer = () => after(100, list("b"));
  expect(await Promise.all([get(), get(), get()])).toEqual([list("a"), list("a"), list("a")]);
  expect(fetches).toBe(2);
  await pass(150);
  expect(await get()).toEqual(list("b"));
  expect(fetches).toBe(2);
});

it.each([
  ["null", () => after(10, null)],
  ["an empty list", () => after(10, list())],
  ["an exception", () => after(10, null).then(() => Promise.reject(new Error("x")))],
])("leaves an upstream alone for a minute that has answered with %s", async (_name, failing) => {
  answer = failing;
  expect((await timed())[0]).toBeNull();
  answer = () => after(10, list("a"));
  await pass(RETRY_MS - 10_000);
  expect(await get()).toBeNull();
  expect(fetches).toBe(1);
  await pass(10_000);
  expect((await timed())[0]).toEqual(list("a"));
  expect(fetches).toBe(2);
});

it("keeps the old copy for as long as upstream is away", async () => {
  await timed();
  answer = async () => null;
  for (let minute = 0; minute < 120; minute++) {
    await pass(60_000);
    expect(await get()).toEqual(list("a"));
  }
  expect(fetches).toBeGreaterThan(100);
  expect(fetches).toBeLessThan(120);
});

it("nobody waits long for a slow upstream, and what it brings late is taken", async () => {
  answer = () => after(2 * WAIT_MS, list("late"));
  expect(await timed()).toEqual([null, WAIT_MS]);
  const [models, took] = await timed();
  expect(models).toBeNull();
  expect(took).toBeLessThan(50);
  await pass(WAIT_MS);
  expect(await get()).toEqual(list("late"));
  expect(fetches).toBe(1);
});

it("does without a fetch that died with its call, and takes nothing from it when another has begun", async () => {
  const dead = Promise.withResolvers<ModelsAtHand>();
  answer = () => dead.promise;
  await timed();
  await pass(FETCH_MS);
  answer = () => after(10, list("alive"));
  expect((await timed())[0]).toEqual(list("alive"));
  dead.resolve(list("dead"));
  await pass(1);
  expect(catalogue.models).toEqual(list("alive"));
});

it("a clock that steps makes it ask sooner, never later", async () => {
  await timed();
  offset = -3_600_000;
  answer = () => after(10, list("b"));
  expect(await get()).toEqual(list("a"));
  await pass(20);
  expect(catalogue.models).toEqual(list("b"));
});

it("reads pages: what is no model is left out, and a page that leads nowhere is the last", () => {
  const page = (fields: object) =>
    readPage(JSON.stringify({ data: list("a", "b"), last_id: "b", has_more: true, ...fields }));
  expect(page({})).toEqual({ data: list("a", "b"), next: "/v1/models?limit=1000&after_id=b" });
  expect(page({ last_id: "b&c" }).next).toBe("/v1/models?limit=1000&after_id=b%26c");
  expect(page({ has_more: false }).next).toBeNull();
  expect(page({ last_id: null }).next).toBeNull();
  expect(page({ data: [] }).next).toBeNull();
  expect(
    page({ data: [null, 5, {}, { id: "" }, { id: 5 }, { id: "x".repeat(201) }, { id: "a", more: 1 }] }).data,
  ).toEqual([{ id: "a", more: 1 }]);
  for (const text of ["", "x", "[]", "null", '{"data":5}']) expect(readPage(text)).toEqual({ data: [], next: null });
});
