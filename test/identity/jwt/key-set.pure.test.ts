import { beforeAll, describe, expect, it } from "vitest";
import {
  COOL_DOWN_MS,
  DEADLINE_MS,
  FAILURE_PAUSE_MS,
  FRESH_MS,
  KeySets,
  MAX_SET_BYTES,
  MAX_SET_KEYS,
  type SetFailure,
  STALE_MS,
  TAKE_OVER_MS,
} from "../../../src/identity/jwt/key-set.ts";
import { makePair, NOW, type Pair } from "./made.ts";
import { SharedClock, settle } from "./shared-clock.ts";

const URL = "https://issuer.example/.well-known/jwks.json";
let es: Pair;
let rs: Pair;
beforeAll(async () => {
  [es, rs] = await Promise.all([makePair("ES256", "es"), makePair("RS256", "rs")]);
});

const json = (value: unknown, init: ResponseInit = {}) =>
  new Response(JSON.stringify(value), { headers: { "content-type": "application/json" }, ...init });
const good = () => json({ keys: [es.jwk, rs.jwk] });
const never = () => new Promise<Response>(() => {});

/** An issuer that answers as told, and counts. */
function world(answer: (signal: AbortSignal | undefined) => Response | Promise<Response> = good) {
  const clock = new SharedClock(NOW);
  const asked: { readonly url: string; readonly init: RequestInit }[] = [];
  const issuer = { answer };
  const sets = new KeySets({
    clock,
    fetch: (async (url: string, init: RequestInit) => {
      asked.push({ url, init });
      return issuer.answer(init.signal ?? undefined);
    }) as typeof fetch,
  });
  const ask = async (kid: string | null = "es") => {
    const answered = await sets.key(URL, kid);
    return answered.ok ? answered.value.kid : answered.error;
  };
  /** Waits for an answer while the clock goes on. */
  const timed = async (kid = "es") => {
    const from = clock.now();
    let end = 0;
    const answer = ask(kid).finally(() => {
      end = clock.now();
    });
    await clock.advance(2 * DEADLINE_MS);
    return [await answer, end - from] as const;
  };
  return { clock, asked, issuer, sets, ask, timed };
}

describe("KeySets", () => {
  it("fetches once, and finds every key of the set for five minutes", async () => {
    const { asked, ask, clock } = world();
    expect(await Promise.all([ask("es"), ask("es")].slice(0, 1))).toEqual(["es"]);
    expect(await ask("rs")).toBe("rs");
    clock.at = NOW + FRESH_MS - 1;
    expect(await ask("es")).toBe("es");
    expect(asked).toHaveLength(1);
    expect(asked[0]).toMatchObject({ url: URL, init: { redirect: "manual", headers: { accept: "application/json" } } });
    clock.at = NOW + FRESH_MS;
    expect(await ask("es")).toBe("es");
    expect(asked).toHaveLength(2);
  });

  it("asks again for an unknown key at most once in 30 s", async () => {
    const { asked, ask, clock, issuer } = world();
    expect(await ask("es")).toBe("es");
    for (let i = 0; i < 100; i++) expect(await ask(`forged-${i}`)).toBe("unknown");
    expect(asked).toHaveLength(1);
    clock.at = NOW + COOL_DOWN_MS - 1;
    expect(await ask("new")).toBe("unknown");
    expect(asked).toHaveLength(1);
    issuer.answer = () => json({ keys: [{ ...es.jwk, kid: "new" }] });
    clock.at = NOW + COOL_DOWN_MS;
    expect(await ask("new")).toBe("new");
    expect(await ask("es")).toBe("unknown");
    expect(asked).toHaveLength(2);
    expect(await ask(null)).toBe("unknown");
  });

  const offending: [string, SetFailure, () => Response | Promise<Response>][] = [
    ["500", "status", () => json({ keys: [es.jwk] }, { status: 500 })],
    ["404", "status", () => json({ keys: [es.jwk] }, { status: 404 })],
    ["201", "status", () => json({ keys: [es.jwk] }, { status: 201 })],
    ["a redirect", "status", () => new Response(null, { status: 302, headers: { location: "https://evil.example" } })],
    ["nothing in time", "timeout", never],
    ["no connection", "unreachable", () => Promise.reject(new TypeError("fetch failed"))],
    ["HTML", "content_type", () => new Response("<html>", { headers: { "content-type": "text/html" } })],
    [
      "a set that is called text",
      "content_type",
      () => new Response(JSON.stringify({ keys: [es.jwk] }), { headers: { "content-type": "text/plain" } }),
    ],
    [
      "no content type",
      "content_type",
      () => new Response(new TextEncoder().encode(JSON.stringify({ keys: [es.jwk] }))),
    ],
    ["HTML that is called JSON", "malformed", () => new Response("<html>", json({}))],
    ["an empty body", "malformed", () => new Response("", json({}))],
    ["no keys", "malformed", () => json({})],
    ["null", "malformed", () => json(null)],
    ["keys that are no list", "malformed", () => json({ keys: { es: es.jwk } })],
    ["an empty set", "no_keys", () => json({ keys: [] })],
    ["too many keys", "malformed", () => json({ keys: Array.from({ length: MAX_SET_KEYS + 1 }, () => es.jwk) })],
    ["two keys of one name", "no_keys", () => json({ keys: [es.jwk, { ...rs.jwk, kid: "es" }] })],
    ["private members", "no_keys", () => json({ keys: [{ ...es.jwk, d: es.jwk.x }] })],
    ["a key for encryption", "no_keys", () => json({ keys: [{ ...es.jwk, use: "enc" }] })],
    ["entries that are no keys", "no_keys", () => json({ keys: [null, 1, "es", []] })],
    ["more than 64 KB", "too_large", () => json({ keys: [es.jwk], more: "x".repeat(MAX_SET_BYTES) })],
    [
      "more than 64 KB by its own account",
      "too_large",
      () => json({}, { headers: { "content-type": "application/json", "content-length": "65537" } }),
    ],
  ];
  it.each(offending)("J-18 %s: no set, and so 503", async (_, failure, answer) => {
    const { sets, timed } = world(answer);
    const [answered, ms] = await timed();
    expect(answered).toBe("unavailable");
    expect(ms).toBeLessThanOrEqual(DEADLINE_MS);
    expect(sets.failureOf(URL)).toBe(failure);
  });

  it.each(offending)("J-18 %s: the last good set for an hour, then 503", async (_, __, answer) => {
    const { clock, issuer, timed, asked } = world();
    await timed();
    issuer.answer = answer;
    clock.at = NOW + FRESH_MS;
    expect((await timed())[0]).toBe("es");
    const [at, count] = [clock.at, asked.length];
    // Not everybody pays for the issuer's failure.
    for (let i = 0; i < 3; i++) expect((await timed())[1]).toBe(0);
    expect(clock.at - at).toBeLessThan(COOL_DOWN_MS);
    expect(asked).toHaveLength(count);
    // Whether it has a key that we don't, nobody can say.
    expect((await timed("new"))[0]).toBe("unavailable");
    clock.at = NOW + STALE_MS - 1 - 2 * DEADLINE_MS;
    expect((await timed())[0]).toBe("es");
    clock.at = NOW + STALE_MS;
    expect((await timed())[0]).toBe("unavailable");
    issuer.answer = good;
    expect((await timed())[0]).toBe("es");
  });

  it("J-18 takes what is good of a set, and leaves out the rest", async () => {
    const { ask } = world(() =>
      json({ keys: [{ kty: "oct", k: "AAAA" }, { ...rs.jwk, kid: "twice" }, { ...es.jwk, kid: "twice" }, 7, es.jwk] }),
    );
    expect([await ask("es"), await ask("twice"), await ask("rs")]).toEqual(["es", "unknown", "unknown"]);
  });

  it("takes the media types that key sets are sent with", async () => {
    for (const type of ["application/json; charset=utf-8", "application/jwk-set+json", "Application/JSON"]) {
      const { ask } = world(() => json({ keys: [es.jwk] }, { headers: { "content-type": type } }));
      expect(await ask()).toBe("es");
    }
  });

  it("J-18 stops reading a large body at its limit, however it comes", async () => {
    let pulled = 0;
    let cancelled = false;
    const { timed, sets } = world(() => {
      const body = new ReadableStream<Uint8Array>({
        pull(controller) {
          pulled += 1_024;
          controller.enqueue(new Uint8Array(1_024).fill(0x20));
        },
        cancel() {
          cancelled = true;
        },
      });
      return new Response(body, { headers: { "content-type": "application/json" } });
    });
    expect((await timed())[0]).toBe("unavailable");
    expect(sets.failureOf(URL)).toBe("too_large");
    expect(cancelled).toBe(true);
    expect(pulled).toBeLessThanOrEqual(MAX_SET_BYTES + 4 * 1_024);
    // Exactly the limit is taken.
    const text = JSON.stringify({ keys: [es.jwk] }).padEnd(MAX_SET_BYTES, " ");
    const exact = world(() => new Response(text, { headers: { "content-type": "application/json" } }));
    expect(await exact.ask()).toBe("es");
  });

  it("J-18 does not wait for a body that stands still, and aborts it", async () => {
    let aborted = false;
    const { timed, sets } = world((signal) => {
      signal?.addEventListener("abort", () => {
        aborted = true;
      });
      return new Response(new ReadableStream({}), { headers: { "content-type": "application/json" } });
    });
    expect(await timed()).toEqual(["unavailable", DEADLINE_MS]);
    expect(sets.failureOf(URL)).toBe("timeout");
    expect(aborted).toBe(true);
  });

  it("leaves an issuer in peace for a moment after a failure", async () => {
    const { clock, asked, ask, issuer } = world(() => json({}, { status: 500 }));
    for (let i = 0; i < 50; i++) expect(await ask()).toBe("unavailable");
    expect(asked).toHaveLength(1);
    issuer.answer = good;
    clock.at += FAILURE_PAUSE_MS;
    expect(await ask()).toBe("es");
  });

  it("J-19 answers 100 that wait within the deadline, though the one that asked was cancelled", async () => {
    const { clock, asked, ask, issuer } = world(never);
    void ask();
    await settle();
    issuer.answer = good;
    const from = clock.now();
    let last = 0;
    const others = Promise.all(
      Array.from({ length: 100 }, async () => {
        const answer = await ask();
        last = clock.now();
        return answer;
      }),
    );
    await clock.advance(DEADLINE_MS);
    expect(new Set(await others)).toEqual(new Set(["es"]));
    expect(last - from).toBeLessThanOrEqual(TAKE_OVER_MS + 1_000);
    expect(asked).toHaveLength(2);
  });

  it("J-19 asks once for many that come together, and not for each of them", async () => {
    const { clock, asked, ask, issuer } = world();
    issuer.answer = async () => {
      await clock.sleep(700);
      return good();
    };
    const all = Promise.all(Array.from({ length: 100 }, (_, i) => ask(["es", "rs", "forged"][i % 3])));
    await clock.advance(1_000);
    expect(new Set(await all)).toEqual(new Set(["es", "rs", "unknown"]));
    expect(asked).toHaveLength(1);
  });

  it("serves from the old set while another request fetches the new one", async () => {
    const { clock, ask, issuer, timed } = world();
    await timed();
    clock.at = NOW + FRESH_MS;
    issuer.answer = never;
    void ask();
    await settle();
    expect(await ask("es")).toBe("es");
    expect(clock.at).toBe(NOW + FRESH_MS);
  });

  it("keeps the sets of different addresses apart", async () => {
    const { sets, issuer } = world();
    await sets.key(URL, "es");
    issuer.answer = () => json({ keys: [rs.jwk] });
    expect((await sets.key("https://other.example/jwks", "es")).ok).toBe(false);
    expect((await sets.key("https://other.example/jwks", "rs")).ok).toBe(true);
    expect((await sets.key(URL, "es")).ok).toBe(true);
  });
});
