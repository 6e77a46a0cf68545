/** The simulated Claude accepted by the real SDKs, stable and beta helpers, at every size of chunk. */
import type Anthropic from "@anthropic-ai/sdk";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Running, startSimulator } from "./running.ts";
import { clientOf, SDKS } from "./sdks.ts";
import { type Json, MODEL, TOOLS } from "./support.ts";

let simulator: Running;
beforeAll(async () => {
  simulator = await startSimulator();
});
afterAll(() => simulator?.stop());

type Params = Anthropic.MessageStreamParams;
const ask = (content: string, more: Json = {}): Params =>
  ({ model: MODEL, max_tokens: 500, messages: [{ role: "user", content }], ...more }) as Params;
const tools = TOOLS as unknown as Anthropic.Tool[];

const PROMPTS: [string, Params][] = [
  ["text", ask("say: plain text")],
  ["unicode", ask("say: naïve café 你好 🌊 👩‍👩‍👧 done")],
  ["an empty answer", ask("say:")],
  ["max_tokens", ask("repeat 50 word", { max_tokens: 7 })],
  ["a stop sequence", ask("say: one two three", { stop_sequences: [" three"] })],
  ["a refusal", ask("refuse")],
  ["parallel tools", ask("use tools get_weather, save and ping_host", { tools })],
  ["cut tool input", ask("use save", { tools, max_tokens: 20 })],
  ["thinking", ask("Think", { thinking: { type: "adaptive" } })],
  ["omitted thinking and a tool", ask("use save", { tools, thinking: { type: "adaptive", display: "omitted" } })],
  ["an unknown event", { ...ask("say: x"), model: `${MODEL}+unknown_event+comments+padded` }],
];

/** A message without what differs from request to request. */
function content(message: unknown): Json {
  const { id: _, _request_id, _workspace_id, parsed_output, ...rest } = JSON.parse(JSON.stringify(message)) as Json;
  for (const block of rest.content as Json[]) delete block.parsed;
  return rest;
}

describe.each(SDKS)("SDK %s", (_version, errors) => {
  const make = (options: Json = {}): Anthropic => clientOf(errors, simulator, options);

  describe.each(PROMPTS)("%s", (_, params) => {
    it.each([1, 3, 64, 0])("is the same streamed in chunks of %i bytes (0: whole) and not streamed", async (size) => {
      const client = make();
      const model = size === 0 ? params.model : `${params.model}+chunk=${size}`;
      const whole = content(await client.messages.create({ ...params, stream: false } as never));
      const [stable, beta] = await Promise.all([
        client.messages.stream({ ...params, model }).finalMessage(),
        client.beta.messages.stream({ ...params, model } as never).finalMessage(),
      ]);
      expect(content(stable)).toEqual(whole);
      expect(content(beta)).toEqual(whole);
    });
  });

  it("thinks over several turns, and is found out when it edits one", async () => {
    const client = make();
    const thinking = { thinking: { type: "adaptive" } };
    const messages: Json[] = [{ role: "user", content: "one" }];
    for (let turn = 0; turn < 3; turn++) {
      const answer = await client.messages.stream(ask("", { ...thinking, messages })).finalMessage();
      messages.push({ role: "assistant", content: answer.content }, { role: "user", content: `turn ${turn}` });
    }
    const edited = [{ role: "user", content: "two" }, ...messages.slice(1)];
    const error = await client.messages
      .create({ ...ask("", { ...thinking, messages: edited }) } as never)
      .catch((e) => e);
    expect(error).toBeInstanceOf(errors.BadRequestError);
    expect(error.message).toContain("messages.1.content.0");
  });

  it("runs a tool with the beta tool runner", async () => {
    const client = make();
    const runner = client.beta.messages.toolRunner({
      ...ask("use get_weather"),
      tools: [{ ...tools[0], type: "custom", run: () => "sunny", parse: (input: unknown) => input }],
    } as never);
    const final = (await runner) as unknown as { content: { text?: string }[] };
    expect(final.content.at(-1)?.text).toBe("The tool says: sunny.");
  });

  it("counts tokens as the message then reports them", async () => {
    const { messages } = make();
    const params = ask("How many tokens is this?", { tools, system: "Be brief." });
    const { max_tokens: _, ...counted } = params;
    const { input_tokens } = await messages.countTokens(counted as never);
    expect(
      ((await messages.create({ ...params, stream: false } as never)) as Anthropic.Message).usage.input_tokens,
    ).toBe(input_tokens);
    expect((await make().beta.messages.countTokens(counted as never)).input_tokens).toBe(input_tokens);
  });

  it("lists models through all pages", async () => {
    const ids: string[] = [];
    for await (const model of make().models.list({ limit: 5 })) ids.push(model.id);
    expect(new Set(ids).size).toBe(18);
    expect((await make().models.retrieve(MODEL)).id).toBe(MODEL);
  });

  it.each([
    [400, "BadRequestError"],
    [401, "AuthenticationError"],
    [403, "PermissionDeniedError"],
    [404, "NotFoundError"],
    [409, "ConflictError"],
    [422, "UnprocessableEntityError"],
    [429, "RateLimitError"],
    [500, "InternalServerError"],
    [529, "InternalServerError"],
  ] as const)("gets %i as %s", async (status, name) => {
    const call = make().messages.create({ ...ask("x"), model: `${MODEL}+status=${status}` } as never);
    const error = (await call.catch((thrown: unknown) => thrown)) as InstanceType<typeof Anthropic.APIError>;
    expect(error).toBeInstanceOf(errors[name]);
    expect(error.requestID).toMatch(/^req_011sim/);
  });

  it("is refused with its own words for keys of three kinds", async () => {
    const call = (apiKey: string) =>
      make({ apiKey })
        .models.list()
        .then(
          () => undefined,
          (thrown: unknown) => thrown,
        );
    expect(await call("nonsense")).toBeInstanceOf(errors.AuthenticationError);
    expect(await call("sk-ant-denied-1")).toBeInstanceOf(errors.PermissionDeniedError);
    expect(await call("sk-ant-unpaid-1")).toMatchObject({ status: 402 });
  });

  it.each([
    "+cut=900",
    "+cut_after=4",
    "+error_after=4",
    "+error_first=overloaded_error",
    "+end_after=4",
    "+malformed=4",
  ])("rejects a stream with %s", async (fault) => {
    const call = make()
      .messages.stream({ ...ask("say: one two three"), model: `${MODEL}${fault}` })
      .finalMessage();
    await expect(call).rejects.toThrow();
  });

  it("retries what is to be retried", async () => {
    const client = make({ maxRetries: 1 });
    const call = client.messages.create({ ...ask("x"), model: `${MODEL}+status=529+retry_after_ms=10` } as never);
    await expect(call).rejects.toThrow();
    const headers = (await simulator.journal(2)).map((entry) =>
      Object.fromEntries(entry.headers as [string, string][]),
    );
    expect(headers.map((each) => each["x-stainless-retry-count"])).toEqual(["1", "0"]);
  });

  it("aborts, and the simulator notices", async () => {
    const stream = make().messages.stream({ ...ask("go on"), model: `${MODEL}+endless+pace=10` });
    await new Promise<void>((resolve) => stream.once("text", () => resolve()));
    stream.abort();
    await expect(stream.finalMessage()).rejects.toBeInstanceOf(errors.APIUserAbortError);
    await expect.poll(async () => (await simulator.journal())[0]?.outcome).toBe("client_gone");
  });
});
