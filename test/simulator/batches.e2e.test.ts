/** Batches, asked for by the real SDKs, stable and beta, and what only HTTP shows. */
import type Anthropic from "@anthropic-ai/sdk";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { KEY, type Running, startSimulator } from "./running.ts";
import { clientOf, SDKS } from "./sdks.ts";
import { type Json, MODEL } from "./support.ts";

let simulator: Running;
beforeAll(async () => {
  simulator = await startSimulator();
});
afterAll(() => simulator?.stop());

const params = (prompt: string, more: Json = {}): Anthropic.MessageCreateParamsNonStreaming =>
  ({ model: MODEL, max_tokens: 100, messages: [{ role: "user", content: prompt }], ...more }) as never;
const REQUESTS = [
  { custom_id: "good", params: params("say: one") },
  { custom_id: "wrong", params: params("say: two", { messages: [] }) },
  { custom_id: "overloaded", params: params("say: three", { model: `${MODEL}+status=529` }) },
  { custom_id: "late", params: params("say: four", { model: `${MODEL}+expire` }) },
];
const during = (ms: number): Json => ({ headers: { "anthropic-sim-fault": `batch_ms=${ms}` } });
const HOUR_MS = 3_600_000;

describe.each(SDKS)("SDK %s", (version, sdk) => {
  // Each test has an account of its own, so that lists hold what it has made.
  let number = 0;
  const make = (options: Json = {}): Anthropic =>
    clientOf(sdk, simulator, { apiKey: `sk-ant-batches-${version}-${number++}`, ...options });

  describe.each(["stable", "beta"])("%s", (kind) => {
    const batchesOf = (client: Anthropic): Anthropic.Messages.Batches =>
      kind === "beta" ? (client.beta.messages.batches as never) : client.messages.batches;

    it("creates a batch, waits for its end, and reads its results", async () => {
      const batches = batchesOf(make());
      const waiting = await batches.create({ requests: REQUESTS }, during(HOUR_MS));
      expect(waiting).toMatchObject({
        id: expect.stringMatching(/^msgbatch_/),
        processing_status: "in_progress",
        request_counts: { processing: 4 },
        results_url: null,
      });
      await expect(batches.results(waiting.id)).rejects.toThrow("Has it finished processing?");
      const made = await batches.create({ requests: REQUESTS }, during(100));
      await expect.poll(async () => (await batches.retrieve(made.id)).processing_status).toBe("ended");
      const ended = await batches.retrieve(made.id);
      expect(ended.request_counts).toEqual({ processing: 0, succeeded: 1, errored: 2, canceled: 0, expired: 1 });
      expect(ended.results_url).toBe(`${simulator.url}/v1/messages/batches/${made.id}/results`);
      const results: Record<string, unknown> = {};
      for await (const line of await batches.results(made.id)) results[line.custom_id] = line.result;
      expect(results).toMatchObject({
        good: { type: "succeeded", message: { content: [{ text: "one" }], usage: { service_tier: "batch" } } },
        wrong: { type: "errored", error: { type: "error", error: { type: "invalid_request_error" } } },
        overloaded: { type: "errored", error: { type: "error", error: { type: "overloaded_error" } } },
        late: { type: "expired" },
      });
      expect(Object.keys(results)).not.toEqual(REQUESTS.map((request) => request.custom_id));
    });

    it("cancels a batch and deletes it once it has ended", async () => {
      const batches = batchesOf(make());
      const { id } = await batches.create({ requests: REQUESTS }, during(HOUR_MS));
      await expect(batches.delete(id)).rejects.toBeInstanceOf(sdk.BadRequestError);
      expect(await batches.cancel(id, {}, during(100))).toMatchObject({ processing_status: "canceling" });
      await expect.poll(async () => (await batches.retrieve(id)).processing_status).toBe("ended");
      expect((await batches.retrieve(id)).request_counts).toMatchObject({ canceled: 4, processing: 0 });
      for await (const { result } of await batches.results(id)) expect(result).toEqual({ type: "canceled" });
      await expect(batches.cancel(id)).rejects.toBeInstanceOf(sdk.BadRequestError);
      expect(await batches.delete(id)).toMatchObject({ id, type: "message_batch_deleted" });
      await expect(batches.retrieve(id)).rejects.toBeInstanceOf(sdk.NotFoundError);
    });

    it("lists batches through all pages, forwards and backwards", async () => {
      const batches = batchesOf(make());
      const ids: string[] = [];
      for (let i = 0; i < 7; i++) ids.unshift((await batches.create({ requests: REQUESTS })).id);
      const listed = async (query: Json): Promise<string[]> => {
        const found: string[] = [];
        for await (const batch of batches.list(query)) found.push(batch.id);
        return found;
      };
      expect(await listed({ limit: 3 })).toEqual(ids);
      expect(await listed({ limit: 2, after_id: ids[2] })).toEqual(ids.slice(3));
      expect((await listed({ limit: 2, before_id: ids[5] })).sort()).toEqual(ids.slice(0, 5).sort());
      await expect(listed({ limit: 0 })).rejects.toBeInstanceOf(sdk.BadRequestError);
    });
  });

  it("shows a batch to keys of its organization only", async () => {
    const [own, same, other] = ["sk-ant-org-one-1", "sk-ant-org-one-2", "sk-ant-org-two-1"].map(
      (apiKey) => make({ apiKey }).messages.batches,
    );
    const made = await own?.create({ requests: REQUESTS });
    const id = made?.id ?? "";
    expect((await same?.retrieve(id))?.id).toBe(id);
    for (const call of [
      () => other?.retrieve(id),
      () => other?.cancel(id),
      () => other?.delete(id),
      () => other?.results(id),
    ]) {
      await expect(call()).rejects.toBeInstanceOf(sdk.NotFoundError);
    }
    for await (const batch of other?.list() ?? []) expect(batch.id).not.toBe(id);
  });
});

const call = (path: string, init: RequestInit & { headers?: Record<string, string> } = {}): Promise<Response> =>
  fetch(`${simulator.url}${path}`, {
    ...init,
    headers: { "x-api-key": KEY, "anthropic-version": "2026-10-21", ...init.headers },
  });

it("sends results as lines of JSON, which can be cut like any answer, and names the host that was asked", async () => {
  const created = await simulator.post(
    { requests: REQUESTS },
    { "anthropic-sim-fault": "batch_ms=0" },
    "/v1/messages/batches",
  );
  const { id } = (await created.json()) as { id: string };
  const elsewhere = simulator.url.replace("127.0.0.1", "localhost");
  const ended = await fetch(`${elsewhere}/v1/messages/batches/${id}`, {
    headers: { "x-api-key": KEY, "anthropic-version": "2026-10-21" },
  });
  const { results_url } = (await ended.json()) as { results_url: string };
  expect(results_url).toBe(`${elsewhere}/v1/messages/batches/${id}/results`);
  const results = await call(new URL(results_url).pathname);
  expect(results.headers.get("content-type")).toBe("application/x-jsonl");
  const text = await results.text();
  expect(text.split("\n").map((line) => line && typeof JSON.parse(line))).toEqual([
    ...REQUESTS.map(() => "object"),
    "",
  ]);
  const cut = await call(new URL(results_url).pathname, { headers: { "anthropic-sim-fault": "cut=100" } });
  await expect(cut.text()).rejects.toThrow();
});

it("is not ready before the end, and says so", async () => {
  const created = await simulator.post(
    { requests: REQUESTS },
    { "anthropic-sim-fault": "batch_ms=100000" },
    "/v1/messages/batches",
  );
  const { id } = (await created.json()) as { id: string };
  expect((await call(`/v1/messages/batches/${id}/results`)).status).toBe(404);
});

it.each([
  ["PUT", "/v1/messages/batches", 405],
  ["POST", "/v1/messages/batches/msgbatch_1", 405],
  ["GET", "/v1/messages/batches/msgbatch_1/cancel", 405],
  ["POST", "/v1/messages/batches/msgbatch_1/results", 405],
  ["GET", "/v1/messages/batches/msgbatch_1/other", 404],
  ["GET", "/v1/messages/batches/msgbatch_1", 404],
  ["GET", "/v1/messages/batches", 200],
])("%s %s is %i", async (method, path, status) => {
  expect((await call(path, { method })).status).toBe(status);
});

it("fails like any other call, and is in the journal", async () => {
  const headers = { "anthropic-sim-fault": "status=529;retry_after=3" };
  const response = await call("/v1/messages/batches?limit=3", { headers });
  expect([response.status, response.headers.get("retry-after")]).toEqual([529, "3"]);
  expect((await simulator.journal())[0]).toMatchObject({
    method: "GET",
    target: "/v1/messages/batches?limit=3",
    status: 529,
    outcome: "complete",
  });
});

it("takes more than a message may have: 40 MB", async () => {
  const prompt = "x".repeat(10 * 1024 * 1024);
  const requests = ["a", "b", "c", "d"].map((custom_id) => ({ custom_id, params: params(prompt) }));
  const created = await simulator.post({ requests }, {}, "/v1/messages/batches");
  expect(await created.json()).toMatchObject({ request_counts: { processing: 4 } });
});
