/** Key sets in a real Workers runtime, where the request that fetches one can be cancelled. */
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { buildSync } from "esbuild";
import { convertV4MiniflareOptions, Miniflare } from "miniflare";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { DEADLINE_MS } from "../../../src/identity/jwt/key-set.ts";
import { makePair } from "./made.ts";

const WORKER = `
  import { KeySets } from "./src/identity/jwt/key-set.ts";
  const sets = new KeySets();
  export default {
    async fetch(request) {
      const { searchParams } = new URL(request.url);
      const key = await sets.key(searchParams.get("set"), searchParams.get("kid"));
      return new Response(key.ok ? key.value.kid : key.error);
    },
  };`;

let issuer: Server;
let runtime: Miniflare;
let address: string;
let set: string;
/** Fetches that are never answered, before the first that is. */
let silent = 0;
let fetches = 0;
let cancelled = 0;

beforeAll(async () => {
  const { jwk } = await makePair("RS256", "rs");
  issuer = createServer((request, response) => {
    fetches++;
    response.on("close", () => {
      if (!response.writableEnded) cancelled++;
    });
    if (silent-- > 0) return;
    if (request.url === "/redirect") {
      response.writeHead(302, { location: "/jwks" }).end();
      return;
    }
    response.setHeader("content-type", "application/json");
    if (request.url === "/endless") {
      const more = () => response.write(" ".repeat(4_096), () => response.destroyed || setTimeout(more, 1));
      more();
    } else response.end(JSON.stringify({ keys: [jwk] }));
  }).listen(0, "127.0.0.1");
  await new Promise((resolve) => issuer.once("listening", resolve));
  set = `http://127.0.0.1:${(issuer.address() as AddressInfo).port}`;
  const { outputFiles } = buildSync({
    stdin: { contents: WORKER, resolveDir: join(import.meta.dirname, "../../.."), loader: "ts" },
    ...{ bundle: true, format: "esm", target: "esnext", write: false },
  });
  const worker = {
    name: "key-sets",
    modules: true,
    script: outputFiles[0]?.text ?? "",
    compatibilityDate: "2026-10-23",
    compatibilityFlags: ["enable_request_signal"],
    // Straight to the runtime: a client that leaves does so without anybody in between.
    unsafeDirectSockets: [{ host: "127.0.0.1", port: 0 }],
  };
  runtime = new Miniflare(
    convertV4MiniflareOptions({ host: "127.0.0.1", port: 0, cf: false, logRequests: false, workers: [worker] }),
  );
  await runtime.ready;
  address = new URL(await runtime.unsafeGetDirectURL()).origin;
});

afterAll(async () => {
  await runtime?.dispose();
  issuer.closeAllConnections();
  issuer.close();
});

const ask = async (path: string, signal?: AbortSignal) => {
  const query = new URLSearchParams({ set: set + path, kid: "rs" });
  const response = await fetch(`${address}/?${query}`, signal ? { signal } : {});
  return response.text();
};

describe("KeySets in the Workers runtime", () => {
  it("J-19 answer 100 requests within the deadline, though the one that fetches is cancelled", async () => {
    silent = 1;
    const leaving = new AbortController();
    const first = ask("/jwks", leaving.signal).catch(() => "left");
    while (fetches === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    const from = performance.now();
    const others = Promise.all(Array.from({ length: 100 }, () => ask("/jwks")));
    setTimeout(() => leaving.abort(), 100);
    expect(new Set(await others)).toEqual(new Set(["rs"]));
    expect(performance.now() - from).toBeLessThan(DEADLINE_MS);
    expect(await first).toBe("left");
    expect(fetches).toBe(2);
  });

  it("J-18 follow no redirect", async () => {
    fetches = 0;
    expect(await ask("/redirect")).toBe("unavailable");
    expect(fetches).toBe(1);
  });

  it("J-18 stop reading an endless set, and close its connection", async () => {
    cancelled = 0;
    expect(await ask("/endless")).toBe("unavailable");
    for (let i = 0; i < 200 && cancelled === 0; i++) await new Promise((resolve) => setTimeout(resolve, 10));
    expect(cancelled).toBe(1);
  });

  it("J-18 answer in time where an issuer does not", async () => {
    silent = 100;
    const from = performance.now();
    expect(await ask("/silent")).toBe("unavailable");
    expect(performance.now() - from).toBeGreaterThan(DEADLINE_MS - 100);
    silent = 0;
  });
});
