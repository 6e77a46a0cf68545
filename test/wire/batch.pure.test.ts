/** Batches on the wire. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { readBatchBody, readBatchResult, withResultsUrl } from "../../src/wire/anthropic/batch.ts";

const encoder = new TextEncoder();

function read(body: unknown) {
  return readBatchBody(encoder.encode(typeof body === "string" ? body : JSON.stringify(body)));
}

function messageOf(result: { ok: boolean; error?: unknown }): unknown {
  return result.ok ? null : (result.error as { message?: string }).message;
}

const params = (model: string) => ({ model, max_tokens: 5, messages: [{ role: "user", content: "hi" }] });

describe("R-03 the body of a batch", () => {
  it("tells each request's model, and the files of all", () => {
    const file = { type: "document", source: { type: "file", file_id: "file_1" } };
    const body = read({
      requests: [
        { custom_id: "a", params: params("m1") },
        { params: { ...params("m2"), messages: [{ role: "user", content: [file] }] }, custom_id: "b" },
      ],
    });
    if (!body.ok) throw new Error("refused");
    expect(body.value).toMatchObject({ count: 2, fileIds: ["file_1"] });
    const facts = [...body.value.requests()];
    expect(facts.map((each) => each.ok && [each.value.model, each.value.maxTokens])).toEqual([
      ["m1", 5],
      ["m2", 5],
    ]);
  });

  it.each([
    ["[]", "The request body must be a JSON object."],
    ["{}", "requests: Field required"],
    ['{"requests":{}}', "requests: must be an array"],
    ['{"requests":[],"requests":[]}', "requests: the field occurs more than once"],
    ['{"requests":[],"r\\u0065quests":[]}', "requests: the field occurs more than once"],
  ])("%s is refused: %s", (text, message) => {
    expect(messageOf(read(text))).toBe(message);
  });

  it.each([
    ["1", "requests.1: must be an object"],
    ["{}", "requests.1.params: Field required"],
    ['{"params":{"model":"a"},"params":{"model":"b"}}', "requests.1.params: the field occurs more than once"],
    ['{"params":{}}', "requests.1.params.model: Field required"],
    ['{"params":{"model":"a","model":"b"}}', "requests.1.params.model: the field occurs more than once"],
    ['{"params":[]}', "requests.1.params: must be an object"],
  ])("a request %s is refused: %s", (text, message) => {
    const body = read(`{"requests":[{"params":{"model":"m"}},${text}]}`);
    if (!body.ok) throw new Error("refused as a whole");
    expect([...body.value.requests()].map(messageOf)).toEqual([null, message]);
  });

  it("may have a hundred thousand requests", () => {
    const one = JSON.stringify({ custom_id: "c", params: { ...params("m"), system: "s", temperature: 1, top_k: 3 } });
    const body = read(`{"requests":[${new Array<string>(100_000).fill(one).join(",")}]}`);
    if (!body.ok) throw new Error(JSON.stringify(body.error));
    let models = 0;
    for (const facts of body.value.requests()) if (facts.ok && facts.value.model === "m") models++;
    expect(models).toBe(100_000);
  });
});

describe("withResultsUrl", () => {
  const ours = "https://gateway.example/v1/messages/batches/b/results";

  it("replaces the URL and no other byte (200 batches)", () => {
    const value = fc.jsonValue({ maxDepth: 2 });
    const pairs = fc.array(
      fc.tuple(
        fc.string().filter((name) => name !== "results_url"),
        value,
      ),
      { maxLength: 5 },
    );
    fc.assert(
      fc.property(
        pairs,
        pairs,
        fc.string({ unit: "binary" }),
        fc.constantFrom("", " ", "\n  "),
        (before, after, theirs, gap) => {
          const field = ([name, content]: readonly [string, unknown]) =>
            `${gap}${JSON.stringify(name)}${gap}:${gap}${JSON.stringify(content)}`;
          const text = (url: string) => {
            const own = `${gap}"results_url"${gap}:${gap}${url}`;
            return `{${[...before.map(field), own, ...after.map(field)].join(",")}${gap}}${gap}`;
          };
          expect(withResultsUrl(text(JSON.stringify(theirs)), ours)).toBe(text(JSON.stringify(ours)));
        },
      ),
      { numRuns: 200 },
    );
  });

  it("leaves a batch without one, a URL further in, and what is no JSON", () => {
    for (const text of ['{"results_url":null}', "{}", '{"a":{"results_url":"u"}}', '["results_url","u"]', "no", ""]) {
      expect(withResultsUrl(text, ours)).toBeNull();
    }
  });
});

describe("readBatchResult", () => {
  const line = (result: unknown, id: unknown = "a") => JSON.stringify({ custom_id: id, result });
  const usage = { input_tokens: 10, output_tokens: 20, service_tier: "batch" };

  it("reads what a request used, at the price of a batch whether or not it says so", () => {
    for (const reported of [usage, { ...usage, service_tier: undefined }]) {
      const message = { type: "message", model: "m", usage: reported };
      expect(readBatchResult(line({ type: "succeeded", message }))).toMatchObject({
        customId: "a",
        model: "m",
        usage: { inputTokens: 10, outputTokens: 20, serviceTier: "batch", estimated: false },
      });
    }
  });

  it("one that did not succeed used nothing; one without figures is an estimate", () => {
    for (const type of ["errored", "canceled", "expired"]) {
      expect(readBatchResult(line({ type }))).toEqual({ customId: "a", model: null, usage: null });
    }
    expect(readBatchResult(line({ type: "succeeded", message: {} }))).toMatchObject({ usage: { estimated: true } });
  });

  it("what is no line of results is none", () => {
    for (const text of ["", "{}", "no", line(null), line({}), line({ type: "succeeded" }, 7)]) {
      expect(readBatchResult(text)).toBeNull();
    }
  });
});
