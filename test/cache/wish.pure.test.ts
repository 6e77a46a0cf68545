import { describe, expect, it } from "vitest";
import { readCacheWish } from "../../src/cache/wish.ts";

const wish = (headers: Record<string, string>, ttl: number | null = null) =>
  readCacheWish(new Map(Object.entries(headers)), ttl === null ? null : { ttl_seconds: ttl });
const use = (ttlSeconds: number) => ({ ok: true, value: { kind: "use", ttlSeconds } });
const BYPASS = { ok: true, value: { kind: "bypass" } };
const NONE = { ok: true, value: { kind: "none" } };

describe("readCacheWish", () => {
  it("is nothing where nobody asks", () => {
    expect(wish({})).toEqual(NONE);
    expect(wish({ "cache-control": "no-store" })).toEqual(NONE);
  });

  it("follows the key, and the call's own header before it", () => {
    expect(wish({}, 60)).toEqual(use(60));
    expect(wish({ "x-sluice-cache": "ttl=10" }, 60)).toEqual(use(10));
    expect(wish({ "x-sluice-cache": "ttl=86400" }, 60)).toEqual(use(86_400));
    expect(wish({ "x-sluice-cache": "ttl" }, 60)).toEqual(use(60));
    expect(wish({ "x-sluice-cache": "ttl" })).toEqual(use(300));
    expect(wish({ "x-sluice-cache": " TTL=300 " })).toEqual(use(300));
  });

  it.each(["bypass", "off", "Bypass"])("C-06 passes the cache by for x-sluice-cache: %s", (value) => {
    expect(wish({ "x-sluice-cache": value }, 60)).toEqual(BYPASS);
    expect(wish({ "x-sluice-cache": value })).toEqual(BYPASS);
  });

  it.each(["no-store", "no-cache", "max-age=0, no-cache", "No-Store,max-age=0"])(
    "C-06 passes the cache by for cache-control: %s",
    (value) => {
      expect(wish({ "cache-control": value }, 60)).toEqual(BYPASS);
      expect(wish({ "cache-control": value, "x-sluice-cache": "ttl=5" })).toEqual(BYPASS);
    },
  );

  it.each(["max-age=0", "no-cachet", "x-no-store", "no-transform"])("C-06 does not for cache-control: %s", (value) => {
    expect(wish({ "cache-control": value }, 60)).toEqual(use(60));
  });

  it.each([
    "",
    "ttl=",
    "ttl=0",
    "ttl=86401",
    "ttl=-1",
    "ttl=1.5",
    "ttl=1e3",
    "ttl=99999999999",
    "300",
    "hit",
    "ttl=5, ttl=5",
    "ttl = 5",
  ])("refuses x-sluice-cache: %s, and names it", (value) => {
    const made = wish({ "x-sluice-cache": value }, 60);
    expect(made.ok).toBe(false);
    expect(made).toMatchObject({
      error: { kind: "invalid_request", message: expect.stringMatching(/^x-sluice-cache: /) },
    });
  });
});
