/** What becomes of a batch: its states in time, its counts, who sees it, and what is forgotten. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { beforeEach, describe, expect, it } from "vitest";
import { type Batch, Batches, tellBatch } from "../../simulator/batches.ts";
import { isApiError } from "../../simulator/errors.ts";
import { answerItem } from "../../simulator/messages.ts";
import { type Json, MODEL } from "./support.ts";

const HOUR = 3_600_000;
const ORIGIN = "https://claude.example";
const order = { scope: "own", version: "2026-10-21", processingMs: 1000, chars: 100 } as const;
const FIXTURES = join(import.meta.dirname, "../fixtures/anthropic");
const STATES = ["in_progress", "canceling", "ended"];
const params = { model: MODEL, max_tokens: 10, messages: [{ role: "user", content: "say: yes" }] };
const requests = (count: number): Json => ({
  requests: Array.from({ length: count }, (_, i) => ({ custom_id: `c${i}`, params })),
});

let batches: Batches;
beforeEach(() => {
  batches = new Batches(() => ({ type: "succeeded", message: {} }));
});

function must<T>(value: T): Exclude<T, { status: number; message: string }> {
  if (isApiError(value)) throw new Error(value.message);
  return value as Exclude<T, { status: number; message: string }>;
}
const create = (count = 4, more: Partial<typeof order> | Json = {}, now = 0): Batch =>
  must(batches.create({ ...order, ...more }, requests(count), now));
const told = (batch: Batch, now: number): Json =>
  tellBatch(must(batches.find(batch.scope, batch.id, now)), ORIGIN, now) as Json;
const lines = (text: string): Json[] =>
  text
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Json);

describe("a new batch", () => {
  it.each([
    [{}, "requests: Field required"],
    [{ requests: {} }, "requests: Input should be a valid list"],
    [{ requests: [] }, "requests: List should have at least 1 item"],
    [requests(100_001), "requests: List should have at most 100000 items"],
    [{ requests: ["x"] }, "requests.0: Input should be a valid dictionary"],
    [{ requests: [{ params }] }, "requests.0.custom_id: Field required"],
    [{ requests: [{ custom_id: 1, params }] }, "requests.0.custom_id: Input should be a valid string"],
    [{ requests: [{ custom_id: "", params }] }, "requests.0.custom_id: String should match pattern"],
    [{ requests: [{ custom_id: "a b", params }] }, "requests.0.custom_id: String should match pattern"],
    [{ requests: [{ custom_id: "x".repeat(65), params }] }, "requests.0.custom_id: String should match pattern"],
    [
      {
        requests: [
          { custom_id: "a", params },
          { custom_id: "a", params },
        ],
      },
      "requests.1.custom_id: must be unique",
    ],
    [{ requests: [{ custom_id: "a" }] }, "requests.0.params: Field required"],
    [{ requests: [{ custom_id: "a", params: [] }] }, "requests.0.params: Input should be a valid dictionary"],
  ])("is refused: %#", (body, wording) => {
    expect(batches.create(order, body as Json, 0)).toMatchObject({
      status: 400,
      message: expect.stringContaining(wording),
    });
  });

  it("may have 100,000 requests and ids of 64 characters", () => {
    expect(create(100_000).count).toBe(100_000);
    const long = { requests: [{ custom_id: "x_-".repeat(22).slice(0, 64), params }] };
    expect(isApiError(batches.create(order, long, 0))).toBe(false);
  });
});

describe("in time", () => {
  it("is told as the fixtures have it, in progress and ended", () => {
    const fixture = (name: string): Json =>
      JSON.parse(readFileSync(join(FIXTURES, `batch.${name}.json`), "utf8")) as Json;
    const batch = create();
    for (const [name, now] of [
      ["in_progress", 999],
      ["ended", 1000],
    ] as const) {
      const shape = fixture(name);
      const answer = told(batch, now);
      expect(Object.keys(answer).sort()).toEqual(Object.keys(shape).sort());
      expect(Object.keys(answer.request_counts as Json)).toEqual(Object.keys(shape.request_counts as Json));
      expect(answer.processing_status).toBe(name);
      for (const key of Object.keys(shape)) expect([key, typeof answer[key]]).toEqual([key, typeof shape[key]]);
    }
    expect(told(batch, 1000)).toMatchObject({
      created_at: "1970-01-01T00:00:00.000Z",
      expires_at: "1970-01-02T00:00:00.000Z",
      ended_at: "1970-01-01T00:00:01.000Z",
      results_url: `${ORIGIN}/v1/messages/batches/${batch.id}/results`,
    });
  });

  it("is canceled in two steps: what has been processed counts, the rest is canceled", () => {
    const batch = create(4);
    expect(batches.cancel(batch, 100, 500)).toBeUndefined();
    expect(told(batch, 500)).toMatchObject({ processing_status: "canceling", results_url: null });
    expect(batches.cancel(batch, 100, 550)).toBeUndefined();
    expect(told(batch, 600)).toMatchObject({
      processing_status: "ended",
      cancel_initiated_at: "1970-01-01T00:00:00.500Z",
      request_counts: { processing: 0, succeeded: 2, canceled: 2 },
    });
    expect(batches.cancel(batch, 100, 700)).toMatchObject({ status: 400 });
  });

  it("expires after 24 hours", () => {
    const batch = create(4, { processingMs: 48 * HOUR });
    expect(told(batch, 24 * HOUR - 1)).toMatchObject({ processing_status: "in_progress" });
    expect(told(batch, 24 * HOUR)).toMatchObject({
      processing_status: "ended",
      request_counts: { succeeded: 2, expired: 2 },
    });
  });

  it("has results only once it has ended, and for 29 days; after that it can still be looked at", () => {
    const batch = create();
    expect(batches.results(batch, 999)).toMatchObject({ status: 404 });
    told(batch, 1000);
    const last = 29 * 24 * HOUR - 1;
    expect(lines(must(batches.results(batch, last)) as string).length).toBe(4);
    expect(batches.results(batch, last + 1)).toMatchObject({ status: 404 });
    expect(told(batch, last + 1)).toMatchObject({
      processing_status: "ended",
      archived_at: "1970-01-30T00:00:00.000Z",
      results_url: null,
    });
  });

  it("is deleted only once it has ended", () => {
    const batch = create();
    expect(batches.delete(batch)).toMatchObject({ status: 400 });
    told(batch, 1000);
    expect(batches.delete(batch)).toBeUndefined();
    expect(batches.find("own", batch.id, 1000)).toMatchObject({ status: 404, type: "not_found_error" });
  });

  it("goes through its states in order, loses no request, and answers each one once", () => {
    fc.assert(
      fc.property(
        fc.record({
          count: fc.integer({ min: 1, max: 20 }),
          processingMs: fc.nat(50 * HOUR),
          cancelAt: fc.option(fc.nat(30 * HOUR), { nil: undefined }),
          takesMs: fc.nat(HOUR),
          looks: fc.array(fc.nat(30 * HOUR), { minLength: 1, maxLength: 10 }),
        }),
        ({ count, processingMs, cancelAt, takesMs, looks }) => {
          let answers = 0;
          batches = new Batches(() => ({ type: answers++ % 2 ? "errored" : "succeeded" }));
          const batch = create(count, { processingMs });
          let state = 0;
          const times = [...looks, ...(cancelAt === undefined ? [] : [cancelAt]), 31 * HOUR].sort((a, b) => a - b);
          for (const now of times) {
            must(batches.find("own", batch.id, now));
            if (now === cancelAt) batches.cancel(batch, takesMs, now);
            const answer = told(batch, now);
            expect(STATES.indexOf(String(answer.processing_status))).toBeGreaterThanOrEqual(state);
            state = STATES.indexOf(String(answer.processing_status));
            const counts = answer.request_counts as Record<string, number>;
            expect(Object.values(counts).reduce((sum, each) => sum + each, 0)).toBe(count);
            expect(counts.processing).toBe(state === 2 ? 0 : count);
          }
          expect(state).toBe(2);
          const results = lines(must(batches.results(batch, 31 * HOUR)) as string);
          expect(results.map((line) => line.custom_id).sort()).toEqual(
            Array.from({ length: count }, (_, i) => `c${i}`).sort(),
          );
          const { succeeded = 0, errored = 0 } = told(batch, 31 * HOUR).request_counts as Record<string, number>;
          expect(succeeded + errored).toBe(answers);
        },
      ),
    );
  });
});

describe("among others", () => {
  it("belongs to who made it", () => {
    const batch = create();
    expect(batches.find("other", batch.id, 0)).toMatchObject({ status: 404 });
    expect(batches.list("other", 0)).toEqual([]);
    expect(batches.list("own", 0)).toEqual([batch]);
  });

  it("is listed with the newest first", () => {
    const made = [create(), create(), create()];
    expect(batches.list("own", 0)).toEqual(made.toReversed());
  });

  it("makes room by forgetting what ended first, never what is in progress", () => {
    const half = { chars: 128 * 1024 * 1024 };
    const [ended, running] = [create(1, half), create(1, { ...half, processingMs: 5000 })];
    expect(batches.create({ ...order, ...half }, requests(1), 0)).toMatchObject({ status: 529 });
    told(ended, 1000);
    const next = create(1, half, 1000);
    expect(batches.list("own", 1000)).toEqual([next, running]);
  });
});

describe("a request of a batch", () => {
  const result = (more: Json): Json => answerItem({ ...params, ...more }, "2026-10-21", "own", 0) as Json;

  it("is answered like a message, at the price of a batch", () => {
    expect(result({})).toMatchObject({
      type: "succeeded",
      message: { type: "message", content: [{ text: "yes" }], usage: { service_tier: "batch", output_tokens: 1 } },
    });
  });

  it.each([
    [{ model: "claude-none" }, "not_found_error", "model: claude-none"],
    [{ model: undefined }, "invalid_request_error", "model: Field required"],
    [{ messages: [] }, "invalid_request_error", "messages: at least one message is required"],
    [{ temperature: 1 }, "invalid_request_error", "`temperature` is not supported"],
    [{ stream: true }, "invalid_request_error", "stream: streaming is not supported in a batch"],
    [{ speed: "fast" }, "invalid_request_error", "speed: fast mode is not supported in a batch"],
    [{ max_tokens: 0 }, "invalid_request_error", "max_tokens: must be at least 1 in a batch"],
    [{ model: `${MODEL}+status=529` }, "overloaded_error", "Overloaded"],
    [{ model: `${MODEL}+oops` }, "invalid_request_error", "fault oops: there is no such fault"],
  ])("is errored: %o", (more, type, message) => {
    expect(result(more)).toEqual({
      type: "errored",
      error: { type: "error", error: { type, message, details: null }, request_id: null },
    });
  });

  it("expires on demand", () => {
    expect(result({ model: `${MODEL}+expire` })).toEqual({ type: "expired" });
  });
});
