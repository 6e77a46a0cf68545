/** Real SDKs, new and old, with nothing changed but base URL and key. */
import Anthropic from "@anthropic-ai/sdk";
import Anthropic0 from "anthropic-sdk-0";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type LocalWorker, startLocalWorker } from "../../scripts/local-runtime.ts";
import { type Gateway, type Key, startGateway } from "../support/gateway.ts";

let simulator: LocalWorker;
let gateway: Gateway;
let key: Key;

beforeAll(async () => {
  simulator = await startLocalWorker({ config: "simulator/wrangler.toml", bundle: "dist/simulator" });
  gateway = await startGateway(simulator.url);
  key = await gateway.makeKey();
});
afterAll(async () => {
  await gateway?.stop();
  await simulator?.stop();
});

const MODEL = "claude-opus-5-5";
const tools = [
  {
    name: "get_weather",
    description: "Weather of a place",
    input_schema: {
      type: "object" as const,
      properties: { place: { type: "string" as const }, days: { type: "integer" as const, minimum: 1 } },
      required: ["place", "days"],
    },
  },
];
const ask = (text: string) => [{ role: "user" as const, content: text }];

// One SDK's types stand for both: the calls below are the same in each.
const clients = {
  "1.11.0": () => new Anthropic({ baseURL: gateway.url, apiKey: key.key, maxRetries: 0 }),
  "0.137.0": () => new Anthropic0({ baseURL: gateway.url, apiKey: key.key, maxRetries: 0 }) as unknown as Anthropic,
  "1.11.0 with a path and doubled slashes": () =>
    new Anthropic({ baseURL: `${gateway.url}//`, apiKey: key.key, maxRetries: 0 }),
};

describe.each(Object.entries(clients))("SDK %s", (version, make) => {
  const errors = version.startsWith("0") ? (Anthropic0 as unknown as typeof Anthropic) : Anthropic;

  it("creates a message", async () => {
    const message = await make().messages.create({ model: MODEL, max_tokens: 100, messages: ask("say: Grüße 👋") });
    expect(message.content).toMatchObject([{ type: "text", text: "Grüße 👋" }]);
    expect(message.stop_reason).toBe("end_turn");
    expect(message._request_id).toMatch(/^req_011sim/);
  });

  it.each([1, 3, 64, 0])("streams text in pieces of %i bytes (0: as they come)", async (size) => {
    const model = size === 0 ? MODEL : `${MODEL}+chunk=${size}`;
    const stream = make().messages.stream({ model, max_tokens: 100, messages: ask("say: naïve café 你好 🌊 done") });
    let text = "";
    stream.on("text", (delta) => {
      text += delta;
    });
    const final = await stream.finalMessage();
    expect(text).toBe("naïve café 你好 🌊 done");
    expect(final.usage.output_tokens).toBeGreaterThan(5);
  });

  it("streams through the beta helpers", async () => {
    const stream = make().beta.messages.stream({
      model: MODEL,
      max_tokens: 100,
      messages: ask("say: beta"),
      betas: ["context-management-2025-06-27"],
    });
    expect((await stream.finalMessage()).content).toMatchObject([{ type: "text", text: "beta" }]);
  });

  it("carries a tool loop, parallel pieces of input included", async () => {
    const client = make();
    const question = ask("What is the weather in Göteborg?");
    const first = await client.messages
      .stream({ model: MODEL, max_tokens: 200, tools, messages: question })
      .finalMessage();
    expect(first.stop_reason).toBe("tool_use");
    const use = first.content.find((block) => block.type === "tool_use");
    expect(use?.input).toEqual({ place: "example", days: 1 });
    const second = await client.messages.create({
      model: MODEL,
      max_tokens: 200,
      tools,
      messages: [
        ...question,
        { role: "assistant", content: first.content as never },
        { role: "user", content: [{ type: "tool_result", tool_use_id: use?.id ?? "", content: "sunny" }] },
      ],
    });
    expect(second.content).toMatchObject([{ type: "text", text: "The tool says: sunny." }]);
  });

  it("keeps thinking and its signature whole over a turn", async () => {
    const client = make();
    const params = { model: MODEL, max_tokens: 300, thinking: { type: "adaptive" as const } };
    const first = await client.messages.stream({ ...params, messages: ask("Think of it") } as never).finalMessage();
    expect(first.content.map((block) => block.type)).toEqual(["thinking", "text"]);
    const turn = [
      ...ask("Think of it"),
      { role: "assistant" as const, content: first.content as never },
      ...ask("say: on"),
    ];
    const second = await client.messages.create({ ...params, messages: turn } as never);
    expect((second as Anthropic.Message).content.at(-1)).toMatchObject({ text: "on" });
    const edited = [...ask("Think of something else"), ...turn.slice(1)];
    await expect(client.messages.create({ ...params, messages: edited } as never)).rejects.toThrow(
      /messages\.1\.content\.0: Invalid `signature`/,
    );
  });

  it("counts tokens as the message then reports them", async () => {
    const client = make();
    const { input_tokens } = await client.messages.countTokens({ model: MODEL, messages: ask("How many?") });
    const message = await client.messages.create({ model: MODEL, max_tokens: 10, messages: ask("How many?") });
    expect(message.usage.input_tokens).toBe(input_tokens);
  });

  it("lists models through all pages and reads one", async () => {
    const client = make();
    const ids: string[] = [];
    for await (const model of client.models.list({ limit: 5 })) ids.push(model.id);
    expect(new Set(ids).size).toBe(18);
    expect((await client.models.retrieve(MODEL)).display_name).toBe("Claude Opus 5.5");
  });

  it.each([
    [429, "RateLimitError", "+status=429+retry_after=7"],
    [529, "InternalServerError", "+status=529"],
    [500, "InternalServerError", "+status=500"],
    [403, "InternalServerError", "+status=403"],
    [409, "ConflictError", "+status=409"],
  ] as const)("gets upstream's %i as %s, with its headers", async (status, name, fault) => {
    const call = make().messages.create({ model: `${MODEL}${fault}`, max_tokens: 10, messages: ask("x") });
    const error = (await call.catch((thrown: unknown) => thrown)) as InstanceType<typeof Anthropic.APIError>;
    expect(error).toBeInstanceOf(errors[name]);
    // A refusal of the gateway's own credential is none of the caller's, so it is told in our words.
    expect(error.status).toBe(status === 403 ? 502 : status);
    expect(error.requestID).toMatch(status === 403 ? /^req_0/ : /^req_011sim/);
    if (status === 429) expect(error.headers?.get("retry-after")).toBe("7");
  });

  it("gets the gateway's own errors in the classes it knows", async () => {
    const wrong = version.startsWith("0")
      ? (new Anthropic0({ baseURL: gateway.url, apiKey: "sk-sluice-nonsense", maxRetries: 0 }) as unknown as Anthropic)
      : new Anthropic({ baseURL: gateway.url, apiKey: "sk-sluice-nonsense", maxRetries: 0 });
    const error = (await wrong.models.list().catch((thrown: unknown) => thrown)) as InstanceType<
      typeof Anthropic.APIError
    >;
    expect(error).toBeInstanceOf(errors.AuthenticationError);
    expect(error.requestID).toMatch(/^req_[0-9a-z]{26}$/);
    const narrow = await gateway.makeKey({ models: ["claude-haiku-*"] });
    const other = new Anthropic({ baseURL: gateway.url, apiKey: narrow.key, maxRetries: 0 });
    await expect(other.messages.create({ model: MODEL, max_tokens: 1, messages: ask("x") })).rejects.toThrow(
      Anthropic.PermissionDeniedError,
    );
    const list = await other.models.list({ limit: 1000 });
    expect(list.data.map((model) => model.id)).toEqual(["claude-haiku-5-5", "claude-haiku-4-5"]);
  });

  it.each(["+cut_after=4", "+end_after=4", "+cut=700", "+error_after=4", "+error_first=overloaded_error"])(
    "rejects a stream that fails with %s, in raw iteration and in the helper",
    async (fault) => {
      const params = { model: `${MODEL}${fault}`, max_tokens: 100, messages: ask("say: one two three four five") };
      const client = make();
      const raw = async () => {
        for await (const _ of await client.messages.create({ ...params, stream: true }));
      };
      await expect(raw()).rejects.toBeInstanceOf(errors.APIError);
      await expect(client.messages.stream(params).finalMessage()).rejects.toBeInstanceOf(errors.APIError);
    },
  );

  it("aborts: the upstream is told", async () => {
    const stream = make().messages.stream({
      model: `${MODEL}+endless+pace=20`,
      max_tokens: 100,
      messages: ask("go on"),
    });
    await new Promise<void>((resolve) => stream.once("text", () => resolve()));
    stream.abort();
    await expect(stream.finalMessage()).rejects.toBeInstanceOf(errors.APIUserAbortError);
    await expect
      .poll(async () => {
        const { data } = (await (await fetch(`${simulator.url}/sim/requests?limit=1`)).json()) as {
          data: { outcome: string }[];
        };
        return data[0]?.outcome;
      })
      .toBe("client_gone");
  });
});

it("accepts both credential headers at once, and `api-key`, and refuses two different ones", async () => {
  const body = JSON.stringify({ model: MODEL, max_tokens: 5, messages: ask("x") });
  const call = async (headers: Record<string, string>) => {
    const response = await fetch(`${gateway.url}/v1/messages`, {
      method: "POST",
      headers: { "anthropic-version": "2026-10-21", "content-type": "application/json", ...headers },
      body,
    });
    await response.body?.cancel();
    return response.status;
  };
  expect(await call({ authorization: `Bearer ${key.key}`, "x-api-key": key.key })).toBe(200);
  expect(await call({ authorization: `bearer ${key.key}`, "api-key": key.key })).toBe(200);
  expect(await call({ "api-key": key.key })).toBe(200);
  expect(await call({ authorization: `Bearer ${key.key}`, "x-api-key": "sk-ant-ATTACK" })).toBe(401);
});

it("lets each API version's rules come from the upstream", async () => {
  const call = (version: string) =>
    fetch(`${gateway.url}/v1/messages`, {
      method: "POST",
      headers: { "x-api-key": key.key, "anthropic-version": version, "content-type": "application/json" },
      body: JSON.stringify({ model: "claude-sonnet-4-6", max_tokens: 5, temperature: 0.5, messages: ask("x") }),
    });
  expect((await call("2023-06-01")).status).toBe(200);
  const refused = await call("2026-10-21");
  expect(refused.status).toBe(400);
  expect(await refused.text()).toContain("`temperature` is not supported");
});
