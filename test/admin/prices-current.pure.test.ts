import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import {
  CurrentPriceTable,
  LOAD_DEADLINE_MS,
  MAX_AGE_MS,
  type PriceVersion,
  REFRESH_MS,
  RETRY_MS,
} from "../../src/hotpath/price-table.ts";
import { builtInPrices, type PriceTable } from "../../src/wire/anthropic/price-list.ts";

const RATE = { input: 4, output: 20, cache_read: 0.2, cache_write_5m: 5, cache_write_1h: 8 };
const listOf = (source: string) =>
  JSON.stringify({
    source,
    models: { m: { rates: [RATE] } },
    inference_geo_us_multiplier: 1.1,
    batch_multiplier: 0.5,
    web_search_request_usd: 0.01,
  });
const row = (version: number, json: string | null = listOf(`v${version}`)): PriceVersion => ({
  version,
  at: 0,
  actor: "a",
  json,
});
const nameOf = (table: PriceTable) => (table === builtInPrices() ? "built-in" : table.list.source);

/** A D1 that answers what it is told to, when it is told to. */
class FakeDatabase {
  row: PriceVersion | null = null;
  failing = false;
  holding = false;
  asked = 0;
  readonly held: (() => void)[] = [];

  prepare() {
    return { first: () => this.#first() };
  }

  async #first(): Promise<PriceVersion | null> {
    this.asked++;
    const { row, failing } = this;
    if (this.holding) await new Promise<void>((done) => this.held.push(done));
    if (failing) throw new Error("D1_ERROR: away");
    return row;
  }
}

/** A clock that stands still until it is moved; waits end when it passes them. */
class FakeClock {
  at = 1_000_000;
  #waits: { readonly until: number; readonly done: () => void }[] = [];
  now = () => this.at;
  wait = (ms: number) => new Promise<void>((done) => this.#waits.push({ until: this.at + ms, done }));
  async move(ms: number): Promise<void> {
    this.at += ms;
    for (const { done } of this.#waits.filter(({ until }) => until <= this.at)) done();
    this.#waits = this.#waits.filter(({ until }) => until > this.at);
    await settled();
  }
}

const settled = () => new Promise((done) => setImmediate(done));
let clock: FakeClock;
let fake: FakeDatabase;
let db: D1Database;
let prices: CurrentPriceTable;
let logged: string[];

beforeEach(() => {
  clock = new FakeClock();
  fake = new FakeDatabase();
  db = fake as unknown as D1Database;
  prices = new CurrentPriceTable(clock);
  logged = [];
  vi.spyOn(console, "error").mockImplementation((line) => void logged.push(line));
});
afterEach(() => vi.restoreAllMocks());

describe("CurrentPriceTable", () => {
  it("serves the built-in table until the first load has come, and asks nobody for it", async () => {
    fake.row = row(1);
    expect(nameOf(prices.current())).toBe("built-in");
    expect(fake.asked).toBe(0);
    const due = prices.refreshIfDue(db);
    expect(nameOf(prices.current())).toBe("built-in");
    await due;
    expect(nameOf(prices.current())).toBe("v1");
  });

  it("lets the first settlement wait for the first load", async () => {
    fake.row = row(1);
    expect(nameOf(await prices.upToDate(db))).toBe("v1");
  });

  it("looks again when a look is due, one call at a time", async () => {
    await prices.refreshIfDue(db);
    for (let i = 0; i < 1_000; i++) expect(prices.refreshIfDue(db)).toBeUndefined();
    await clock.move(REFRESH_MS - 1);
    expect(prices.refreshIfDue(db)).toBeUndefined();
    await clock.move(1);
    await prices.refreshIfDue(db);
    expect(fake.asked).toBe(2);
  });

  it("takes up a replaced table within thirty seconds under steady calls, though a refresh is lost and one fails", async () => {
    await prices.refreshIfDue(db);
    fake.row = row(1);
    const replacedAt = clock.at;
    // The first refresh belongs to a call that is cancelled, and never ends; the second meets a D1 that is away.
    fake.holding = true;
    await clock.move(REFRESH_MS);
    void prices.refreshIfDue(db);
    fake.holding = false;
    fake.failing = true;
    await clock.move(REFRESH_MS);
    await prices.refreshIfDue(db);
    fake.failing = false;
    expect(nameOf(prices.current())).toBe("built-in");
    await clock.move(REFRESH_MS);
    await prices.refreshIfDue(db);
    expect(nameOf(prices.current())).toBe("v1");
    expect(clock.at - replacedAt).toBeLessThanOrEqual(MAX_AGE_MS);
    expect(MAX_AGE_MS).toBe(30_000);
  });

  it("settles by a table that is at most thirty seconds behind, however long the isolate was idle", async () => {
    await prices.upToDate(db);
    fake.row = row(1);
    await clock.move(MAX_AGE_MS);
    expect(nameOf(await prices.upToDate(db))).toBe("built-in");
    await clock.move(1);
    expect(nameOf(await prices.upToDate(db))).toBe("v1");
    fake.row = row(2);
    await clock.move(24 * 60 * 60 * 1_000);
    expect(nameOf(await prices.upToDate(db))).toBe("v2");
    expect(fake.asked).toBe(3);
  });

  it("returns to the built-in table when that was put back", async () => {
    fake.row = row(1);
    await prices.refreshIfDue(db);
    fake.row = row(2, null);
    await clock.move(REFRESH_MS);
    await prices.refreshIfDue(db);
    expect(nameOf(prices.current())).toBe("built-in");
  });

  it("L7 keeps the last table while D1 is away, and holds no settlement up for longer than its deadline", async () => {
    fake.row = row(1);
    await prices.upToDate(db);
    fake.failing = true;
    await clock.move(MAX_AGE_MS + 1);
    expect(nameOf(await prices.upToDate(db))).toBe("v1");
    expect(logged.join()).toContain("price_list_not_loaded");
    // Not each settlement asks a D1 that is down.
    const { asked } = fake;
    for (let i = 0; i < 100; i++) await prices.upToDate(db);
    expect(fake.asked).toBe(asked);
    await clock.move(RETRY_MS + 1);
    await prices.upToDate(db);
    expect(fake.asked).toBe(asked + 1);

    fake.failing = false;
    fake.holding = true;
    await clock.move(RETRY_MS + 1);
    let table: PriceTable | undefined;
    void prices.upToDate(db).then((value) => {
      table = value;
    });
    await clock.move(LOAD_DEADLINE_MS - 1);
    expect(table).toBeUndefined();
    await clock.move(1);
    expect(table && nameOf(table)).toBe("v1");
    const { asked: before } = fake;
    await prices.upToDate(db);
    expect(fake.asked).toBe(before);
  });

  it("waits for no other call's load", async () => {
    fake.row = row(1);
    fake.holding = true;
    void prices.upToDate(db);
    fake.holding = false;
    expect(nameOf(await prices.upToDate(db))).toBe("v1");
  });

  it("takes no late answer for a newer one", async () => {
    fake.row = row(1);
    fake.holding = true;
    const slow = prices.refreshIfDue(db);
    fake.holding = false;
    prices.take(row(2));
    for (const done of fake.held) done();
    await slow;
    expect(nameOf(prices.current())).toBe("v2");
  });

  it("goes on with what it has when a stored table can't be read, and says so once", async () => {
    fake.row = row(1);
    await prices.refreshIfDue(db);
    for (const json of ["{", "{}", listOf("v2").replace('"input":4', '"input":0')]) {
      fake.row = row((fake.row?.version ?? 0) + 1, json);
      for (let i = 0; i < 3; i++) {
        await clock.move(REFRESH_MS);
        await prices.refreshIfDue(db);
      }
      expect(nameOf(prices.current())).toBe("v1");
    }
    expect(logged.filter((line) => line.includes("price_list_unusable"))).toHaveLength(3);
    fake.row = row(9);
    await clock.move(REFRESH_MS);
    await prices.refreshIfDue(db);
    expect(nameOf(prices.current())).toBe("v9");
  });

  it("is not stopped by a clock that steps back", async () => {
    await prices.upToDate(db);
    await prices.refreshIfDue(db);
    const { asked } = fake;
    fake.row = row(1);
    await clock.move(-60 * 60 * 1_000);
    await prices.refreshIfDue(db);
    expect(fake.asked).toBe(asked + 1);
    expect(nameOf(prices.current())).toBe("v1");
    fake.row = row(2);
    await clock.move(-60 * 60 * 1_000);
    expect(nameOf(await prices.upToDate(db))).toBe("v2");
  });
});
