import { readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Failure } from "../../../src/wire/errors.ts";
import { errorObject, errorOfAnswer, errorOfFailure, notAMessage } from "../../../src/wire/openai/errors.ts";

const body = (type: string, message: string, details?: object) =>
  JSON.stringify({ type: "error", error: { type, message, details }, request_id: "req_01" });

describe("an upstream's error", () => {
  it.each([
    [400, "invalid_request_error", "bad", 400, "invalid_request_error", null],
    [
      400,
      "invalid_request_error",
      "prompt is too long: 210000 tokens > 200000 maximum",
      400,
      "invalid_request_error",
      "context_length_exceeded",
    ],
    [
      400,
      "invalid_request_error",
      "input length and `max_tokens` exceed context limit: 1 + 2 > 2",
      400,
      "invalid_request_error",
      "context_length_exceeded",
    ],
    [402, "billing_error", "credit balance too low", 429, "insufficient_quota", "insufficient_quota"],
    [403, "permission_error", "no", 403, "permission_error", null],
    [404, "not_found_error", "model: claude-nope", 404, "not_found_error", "model_not_found"],
    [404, "not_found_error", "file_1 was not found", 404, "not_found_error", null],
    [409, "conflict_error", "twice", 409, "conflict_error", null],
    [413, "request_too_large", "too large", 413, "invalid_request_error", "request_too_large"],
    [429, "rate_limit_error", "slow down", 429, "rate_limit_error", "rate_limit_exceeded"],
    [500, "api_error", "oops", 500, "server_error", null],
    [503, "api_error", "away", 503, "server_error", null],
    [504, "timeout_error", "late", 504, "timeout_error", null],
    [529, "overloaded_error", "Overloaded", 503, "overloaded_error", "overloaded"],
    [418, "error_of_tomorrow", "tea", 418, "error_of_tomorrow", null],
  ])("%i %s (%s) is told as %i %s with code %s", (status, type, message, toldStatus, toldType, code) => {
    const told = errorOfAnswer(status, body(type, message));
    expect(told.status).toBe(toldStatus);
    expect(JSON.parse(told.body)).toEqual({ error: { message, type: toldType, param: null, code } });
    expect(told.headers["x-request-id"]).toBe("req_01");
    expect(told.headers["x-should-retry"]).toBe(status === 402 ? "false" : undefined);
  });

  it("gives upstream's own code where there is no other", () => {
    const of = (status: number, type: string) =>
      errorOfAnswer(status, body(type, "m", { error_code: "own_code" })).error.code;
    expect(of(400, "invalid_request_error")).toBe("own_code");
    expect(of(429, "rate_limit_error")).toBe("rate_limit_exceeded");
  });

  it("says nothing of the gateway's own key", () => {
    for (const told of [
      errorOfAnswer(401, body("authentication_error", "invalid x-api-key")),
      errorOfAnswer(401, "nope"),
      errorOfFailure({
        kind: "upstream_error_event",
        type: "authentication_error",
        body: body("authentication_error", "x-api-key"),
      }),
    ]) {
      expect(told).toMatchObject({
        status: 502,
        error: { type: "server_error", code: null },
        headers: { "x-should-retry": "false" },
      });
      expect(told.body).not.toContain("x-api-key");
    }
  });

  it.each([
    [502, "<html>Bad gateway</html>", 502, "server_error", null],
    [529, "", 503, "overloaded_error", "overloaded"],
    [429, "slow", 429, "rate_limit_error", "rate_limit_exceeded"],
    [400, '{"error":"text"}', 400, "invalid_request_error", null],
    [404, "[]", 404, "not_found_error", "model_not_found"],
  ])("has words of its own for %i %j", (status, text, toldStatus, type, code) => {
    const told = errorOfAnswer(status, text);
    expect(told).toMatchObject({ status: toldStatus, error: { type, param: null } });
    expect(told.error.code === code || status === 404).toBe(true);
    expect(told.error.message).toBe(`The upstream API answered with status ${status} and no message.`);
    expect(told.body).not.toContain("html");
  });

  it("tells each of the recorded ones", () => {
    const recorded = readFileSync(join(import.meta.dirname, "../../fixtures/anthropic/errors.json"), "utf8");
    for (const { status, body: said } of JSON.parse(recorded)) {
      const { error } = errorOfAnswer(status, JSON.stringify(said));
      expect(error.message.length).toBeGreaterThan(0);
      expect(error.type).toMatch(/^[a-z_]+$/);
      if (status !== 401) expect(error.message).toBe(said.error.message);
    }
  });

  it("is told whatever the body is", () => {
    fc.assert(
      fc.property(fc.integer({ min: 400, max: 599 }), fc.oneof(fc.string(), fc.json()), (status, text) => {
        const told = errorOfAnswer(status, text);
        expect(told.status).toBeGreaterThanOrEqual(400);
        expect(typeof JSON.parse(told.body).error.message).toBe("string");
        expect(told.error.message).not.toBe("");
      }),
      { numRuns: 500 },
    );
  });
});

describe("the gateway's own failure", () => {
  const budget = { limitMicroUsd: 1, spentMicroUsd: 1, reservedMicroUsd: 0, period: "day", resetsAt: null } as const;
  it.each<[Failure, number, string, string | null, string | null]>([
    [
      { kind: "invalid_request", message: "n", param: "n", code: "unsupported_value" },
      400,
      "invalid_request_error",
      "n",
      "unsupported_value",
    ],
    [{ kind: "invalid_request", message: "n" }, 400, "invalid_request_error", null, null],
    [{ kind: "invalid_json", problem: "x", position: 1 }, 400, "invalid_request_error", null, null],
    [{ kind: "unauthenticated" }, 401, "authentication_error", null, "invalid_api_key"],
    [{ kind: "scope_missing", scope: "messages" }, 403, "permission_error", null, null],
    [{ kind: "model_not_allowed", model: "m" }, 403, "permission_error", "model", "model_not_found"],
    [{ kind: "no_upstream", model: "m" }, 404, "not_found_error", "model", "model_not_found"],
    [{ kind: "no_upstream", model: null }, 503, "server_error", null, null],
    [{ kind: "not_found", what: "No such model" }, 404, "not_found_error", null, null],
    [{ kind: "not_served", path: "/v1/x" }, 404, "invalid_request_error", null, "unknown_url"],
    [{ kind: "request_too_large", limitBytes: 1 }, 413, "invalid_request_error", null, "request_too_large"],
    [
      { kind: "rate_limited", limit: "requests", scope: "key", figure: 1, retryAfterMs: 1 },
      429,
      "rate_limit_error",
      null,
      "rate_limit_exceeded",
    ],
    [
      { kind: "over_budget", scope: "key", mode: "strict", budget, neededMicroUsd: 1, retryAfterMs: null },
      429,
      "insufficient_quota",
      null,
      "insufficient_quota",
    ],
    [{ kind: "upstream_refused", status: 401 }, 502, "server_error", null, null],
    [{ kind: "upstream_refused", status: 403 }, 403, "permission_error", null, null],
    [{ kind: "upstream_timeout", phase: "total", limitMs: 1 }, 504, "timeout_error", null, null],
    [{ kind: "upstreams_cooling", retryAfterMs: 1 }, 429, "rate_limit_error", null, "rate_limit_exceeded"],
    [
      { kind: "upstream_error_event", type: "overloaded_error", body: body("overloaded_error", "Overloaded") },
      503,
      "overloaded_error",
      null,
      "overloaded",
    ],
    [{ kind: "internal" }, 500, "server_error", null, null],
  ])("%j", (failure, status, type, param, code) => {
    const told = errorOfFailure(failure);
    expect(told).toMatchObject({ status, error: { type, param, code } });
    expect(JSON.parse(told.body)).toEqual({ error: told.error });
  });

  it("keeps the headers that go with it", () => {
    const limited = { kind: "rate_limited", limit: "requests", scope: "key", figure: 1, retryAfterMs: 2_500 } as const;
    expect(errorOfFailure(limited).headers).toEqual({ "retry-after": "3" });
    expect(errorOfFailure({ kind: "unauthenticated" }).headers).toEqual({ "x-should-retry": "false" });
  });

  it("has words for an answer that is no message, and for a frame in a stream", () => {
    expect(notAMessage()).toMatchObject({ status: 502, error: { type: "server_error", code: null } });
    expect(errorObject("overloaded_error", "Overloaded")).toEqual({
      message: "Overloaded",
      type: "overloaded_error",
      param: null,
      code: "overloaded",
    });
  });
});
