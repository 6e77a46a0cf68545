import { env } from "cloudflare:workers";
import { beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { CurrentPriceTable, priceTable } from "../../src/hotpath/price-table.ts";
import { builtInPrices } from "../../src/wire/anthropic/price-list.ts";
import { costMicroUsd } from "../../src/wire/anthropic/prices.ts";
import { emptyUsage } from "../../src/wire/anthropic/usage.ts";
import { ADMIN_TOKEN, call, database, makeKey, problem } from "./control-plane.ts";

const RATE = { input: 4, output: 20, cache_read: 0.2, cache_write_5m: 5, cache_write_1h: 8 };
const LIST = {
  source: "the contract of May",
  models: {
    "claude-opus-5-5": {
      rates: [
        { ...RATE, until: "2026-12-01T00:00:00Z" },
        { ...RATE, input: 3 },
      ],
      fast_multiplier: 2,
    },
    "claude-haiku-5-5": { rates: [RATE], above_prompt_tokens: 100_000, rates_above: [{ ...RATE, input: 9 }] },
    "in-house": { rates: [{ ...RATE, input: 0 }], us_surcharge: false, free_because: "runs on our own machines" },
  },
  inference_geo_us_multiplier: 1.1,
  batch_multiplier: 0.5,
  web_search_request_usd: 0.01,
};
const read = (more = {}) => call("prices", more);
const put = (json: unknown, more = {}) => call("prices", { method: "PUT", json, ...more });
const restore = (more = {}) => call("prices", { method: "DELETE", ...more });
const rows = async () => {
  const { results } = await env.DB.prepare("SELECT version, actor, json FROM price_lists ORDER BY version").all();
  return results.map(({ json, ...row }) => ({ ...row, list: json === null ? null : JSON.parse(String(json)) }));
};
const opusNow = () =>
  costMicroUsd(
    priceTable.current(),
    "claude-opus-5-5",
    { ...emptyUsage(), inputTokens: 1_000 },
    Date.parse("2026-12-02"),
  );

beforeAll(() => {
  for (const level of ["log", "error"] as const) vi.spyOn(console, level).mockImplementation(() => {});
});
beforeEach(async () => {
  await env.DB.exec("DELETE FROM price_lists");
});

describe("/admin/prices", () => {
  it("shows the built-in list until it is replaced", async () => {
    expect(await read()).toMatchObject({
      status: 200,
      body: {
        version: 0,
        built_in: true,
        since: null,
        actor: null,
        usable: true,
        prices: JSON.parse(JSON.stringify(builtInPrices().list)),
      },
    });
    expect((await restore()).body).toMatchObject({ version: 0, built_in: true });
    expect(await rows()).toEqual([]);
  });

  it("replaces the whole list, shows it as it was sent, and counts by it at once", async () => {
    const before = Date.now();
    const { status, body } = await put(LIST);
    expect(status).toBe(200);
    expect(body).toEqual({
      version: 1,
      built_in: false,
      since: expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/),
      actor: "admin-token",
      usable: true,
      prices: LIST,
    });
    expect(Date.parse(body.since)).toBeGreaterThanOrEqual(before);
    expect((await read()).body).toEqual(body);
    expect(opusNow()).toBe(3_000);
    // What the list lacks costs like the dearest that it has and that is not free: never nothing.
    const usage = { ...emptyUsage(), inputTokens: 1_000 };
    expect(costMicroUsd(priceTable.current(), "claude-sonnet-5", usage, Date.now())).toBe(9_000);
    expect(costMicroUsd(priceTable.current(), "in-house", usage, Date.now())).toBe(0);
  });

  it("returns to the built-in list, and keeps the history", async () => {
    const { key, id } = await makeKey({ scopes: ["admin"] });
    await put(LIST);
    await put({ ...LIST, source: "June" }, { as: key });
    const { status, body } = await restore();
    expect(status).toBe(200);
    expect(body).toMatchObject({ version: 3, built_in: true, actor: "admin-token", prices: { batch_multiplier: 0.5 } });
    expect(body.since).not.toBeNull();
    expect(opusNow()).toBe(4_000);
    expect((await restore()).body).toEqual(body);
    expect(await rows()).toEqual([
      { version: 1, actor: "admin-token", list: LIST },
      { version: 2, actor: id, list: { ...LIST, source: "June" } },
      { version: 3, actor: "admin-token", list: null },
    ]);
    expect((await put(LIST)).body).toMatchObject({ version: 4, built_in: false });
  });

  it("reaches every other isolate with its next look", async () => {
    const other = new CurrentPriceTable({ now: () => Date.now(), wait: (ms) => scheduler.wait(ms) });
    expect(other.current()).toBe(builtInPrices());
    await put(LIST);
    await other.refreshIfDue(env.DB);
    expect(other.current().list).toEqual(LIST);
    const third = new CurrentPriceTable({ now: () => Date.now(), wait: (ms) => scheduler.wait(ms) });
    expect((await third.upToDate(env.DB)).list).toEqual(LIST);
  });

  it("gives each of many writers a version of its own", async () => {
    const answers = await Promise.all(Array.from({ length: 20 }, (_, i) => put({ ...LIST, source: `list ${i}` })));
    const versions = answers.map(({ body }) => body.version).sort((a, b) => a - b);
    expect(versions).toEqual(Array.from({ length: 20 }, (_, i) => i + 1));
    const last = answers.find(({ body }) => body.version === 20);
    expect((await read()).body).toEqual(last?.body);
  });

  it("refuses a list that is wrong, names each field, and stores nothing", async () => {
    const wrong = {
      ...LIST,
      currency: "EUR",
      models: { a: { rates: [{ ...RATE, input: 0 }] }, b: { rates: [{ ...RATE, output: -1 }] } },
    };
    expect(
      problem(await put(wrong), 400, "invalid_request_error")
        .split("; ")
        .sort(),
    ).toEqual([
      "currency: unknown field",
      "models.b.rates.0.output: must be a price in USD per million tokens, above 0 and up to 100000, with at most 3 decimals",
    ]);
    expect(
      problem(await put({ ...LIST, models: { a: { rates: [{ ...RATE, input: 0 }] } } }), 400, "invalid_request_error"),
    ).toBe("models.a.rates.0.input: must be above 0; a model that costs nothing says so in `free_because`");
    problem(await put([]), 400, "invalid_request_error");
    problem(await call("prices", { method: "PUT", raw: "{" }), 415, "invalid_request_error");
    const headers = { "content-type": "application/json" };
    problem(await call("prices", { method: "PUT", raw: "{", headers }), 400, "invalid_request_error");
    problem(await put({ ...LIST, source: "s".repeat(70_000) }), 413, "request_too_large");
    expect(await rows()).toEqual([]);
  });

  it("A-01 is for administrators, and knows three methods", async () => {
    const { key } = await makeKey();
    for (const method of ["GET", "PUT", "DELETE"]) {
      const json = method === "PUT" ? { json: LIST } : {};
      expect((await call("prices", { method, as: null, ...json })).status).toBe(401);
      expect((await call("prices", { method, as: `${ADMIN_TOKEN}x`, ...json })).status).toBe(401);
      problem(await call("prices", { method, as: key, ...json }), 403, "permission_error");
    }
    const answer = await call("prices", { method: "POST", json: LIST });
    expect([answer.status, answer.headers.get("allow")]).toEqual([405, "GET, HEAD, PUT, DELETE"]);
    expect(await rows()).toEqual([]);
  });

  it("is a 503 while D1 is away", async () => {
    const down = database(() => true);
    for (const answer of [
      await read({ env: down.env }),
      await put(LIST, { env: down.env }),
      await restore({ env: down.env }),
    ]) {
      problem(answer, 503, "api_error");
    }
    expect(await rows()).toEqual([]);
  });

  it("shows a stored list that it can't count by as it is, and says so", async () => {
    await env.DB.exec(`INSERT INTO price_lists VALUES (7, 5, 'admin-token', '{"of":"tomorrow"}')`);
    expect((await read()).body).toEqual({
      version: 7,
      built_in: false,
      since: "1970-01-01T00:00:00.005Z",
      actor: "admin-token",
      usable: false,
      prices: { of: "tomorrow" },
    });
    expect((await restore()).body).toMatchObject({ version: 8, built_in: true });
  });
});
