/** Limits in the headers of OpenAI's clients, and paths of OpenAI's that nobody serves. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { canonicalPath } from "../../../src/route-path.ts";
import { notServed, OPENAI_SEGMENTS, openAIRoot } from "../../../src/wire/openai/endpoints.ts";
import { duration, LIMIT_NAMES, openAILimits } from "../../../src/wire/openai/limit-headers.ts";

describe("limits", () => {
  it("are told under OpenAI's names, as far as they are known", () => {
    const now = Date.parse("2026-11-21T12:00:00Z");
    const headers = new Headers({
      "anthropic-ratelimit-requests-limit": "100",
      "anthropic-ratelimit-requests-remaining": "0",
      "anthropic-ratelimit-requests-reset": "2026-11-21T12:06:00Z",
      "anthropic-ratelimit-tokens-limit": "5",
      "anthropic-ratelimit-tokens-reset": "soon",
    });
    expect(openAILimits((name) => headers.get(name), now)).toEqual({
      "x-ratelimit-limit-requests": "100",
      "x-ratelimit-remaining-requests": "0",
      "x-ratelimit-reset-requests": "6m0s",
      "x-ratelimit-limit-tokens": "5",
    });
    expect(openAILimits(() => null, now)).toEqual({});
    expect(LIMIT_NAMES).toHaveLength(6);
  });

  it.each([
    [-5, "0s"],
    [0, "0s"],
    [1, "1s"],
    [59_001, "1m0s"],
    [360_000, "6m0s"],
    [3_600_000, "1h0m0s"],
    [3_690_500, "1h1m31s"],
  ])("%i ms is %s", (ms, text) => expect(duration(ms)).toBe(text));

  it("any duration is true when it has passed, and less than a second too long", () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 10 ** 9 }), (ms) => {
        const [, h = "0", m = "0", s = ""] = /^(?:(\d+)h)?(?:(\d+)m)?(\d+)s$/.exec(duration(ms)) ?? [];
        const told = ((Number(h) * 60 + Number(m)) * 60 + Number(s)) * 1_000;
        expect(told).toBeGreaterThanOrEqual(ms);
        expect(told).toBeLessThan(ms + 1_000);
      }),
    );
  });
});

describe("paths of OpenAI's", () => {
  it("are known with and without /v1 and with doubled slashes, and nobody else's are", () => {
    for (const root of OPENAI_SEGMENTS) {
      for (const path of [`/${root}`, `/v1/${root}/x`, `//v1//${root}//x`]) {
        const canonical = canonicalPath(`https://gateway.example${path}?q=1`);
        expect([path, openAIRoot(canonical)]).toEqual([path, root]);
        expect(notServed(canonical, root)).toMatchObject({ kind: "not_served", why: expect.stringMatching(/\.$/) });
      }
    }
    for (const path of ["/v1/messages", "/v1/models", "/v1/files", "/chat", "/v1/chatx", "/v1/constructor", "/admin"]) {
      expect([path, openAIRoot(path)]).toEqual([path, null]);
    }
  });
});
