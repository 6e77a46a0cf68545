/** The clients people have, with nothing changed but base URL, key and the model's name. */
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { HumanMessage, ToolMessage } from "@langchain/core/messages";
import { tool } from "@langchain/core/tools";
import { ChatOpenAI } from "@langchain/openai";
import { tool as aiTool, generateObject, generateText, stepCountIs, streamText } from "ai";
import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import * as z from "zod";
import { type LocalWorker, startLocalWorker } from "../../scripts/local-runtime.ts";
import { type Gateway, type Key, startGateway, UPSTREAM_KEY } from "../support/gateway.ts";

const MODEL = "claude-opus-5";
const SIZES = [1, 3, 64, 0];
const TEXT = "naïve café 你好 🌊 done";
const Weather = z.object({ place: z.string(), days: z.number() });
const WEATHER = {
  type: "function" as const,
  function: {
    name: "get_weather",
    description: "Weather of a place",
    parameters: {
      type: "object",
      properties: { place: { type: "string" }, days: { type: "integer", minimum: 1 } },
      required: ["place", "days"],
    },
  },
};
const ask = (content: string) => [{ role: "user" as const, content }];

let simulator: LocalWorker;
const gateways = new Map<number, { gateway: Gateway; key: Key }>();
beforeAll(async () => {
  simulator = await startLocalWorker({ config: "simulator/wrangler.toml", bundle: "dist/simulator" });
  // The simulator cuts its streams as it is told behind the key.
  for (const size of SIZES) {
    const gateway = await startGateway(simulator.url, {
      bindings: size === 0 ? {} : { ANTHROPIC_API_KEY: `${UPSTREAM_KEY}+chunk=${size}` },
    });
    gateways.set(size, { gateway, key: await gateway.makeKey() });
  }
});
afterAll(async () => {
  for (const { gateway } of gateways.values()) await gateway.stop();
  await simulator?.stop();
});

function at(size: number): { baseURL: string; apiKey: string } {
  const found = gateways.get(size);
  if (!found) throw new Error(`no gateway for pieces of ${size}`);
  return { baseURL: `${found.gateway.url}/v1`, apiKey: found.key.key };
}

describe.each(SIZES)("openai 6, pieces of %i bytes (0: as they come)", (size) => {
  const client = (): OpenAI => new OpenAI({ ...at(size), maxRetries: 0 });

  it("creates a completion", async () => {
    const answer = await client().chat.completions.create({ model: MODEL, messages: ask(`say: ${TEXT}`) });
    expect(answer.choices[0]).toMatchObject({ finish_reason: "stop", message: { role: "assistant", content: TEXT } });
    const { usage } = answer;
    expect(usage?.total_tokens).toBe((usage?.prompt_tokens ?? 0) + (usage?.completion_tokens ?? 0));
    expect(answer._request_id).toBeTruthy();
  });

  it("streams, with the usage at the end", async () => {
    const stream = client().chat.completions.stream({
      model: MODEL,
      messages: ask(`say: ${TEXT}`),
      stream_options: { include_usage: true },
    });
    let text = "";
    stream.on("content", (delta) => {
      text += delta;
    });
    const final = await stream.finalChatCompletion();
    expect(text).toBe(TEXT);
    expect(final.choices[0]?.message.content).toBe(TEXT);
    expect((await stream.totalUsage()).completion_tokens).toBeGreaterThan(5);
  });

  it("carries a tool loop, two calls at once", async () => {
    const parallel = client();
    const other = { ...WEATHER, function: { ...WEATHER.function, name: "get_time" } };
    const messages: OpenAI.ChatCompletionMessageParam[] = ask("use tools get_weather and get_time");
    const first = await parallel.chat.completions
      .stream({ model: MODEL, messages, tools: [WEATHER, other] })
      .finalChatCompletion();
    const [choice] = first.choices;
    expect(choice?.finish_reason).toBe("tool_calls");
    const calls = choice?.message.tool_calls ?? [];
    expect(calls.map((call) => call.type === "function" && call.function.name)).toEqual(["get_weather", "get_time"]);
    for (const call of calls) expect(JSON.parse(call.function.arguments)).toHaveProperty("place");
    if (choice) messages.push(choice.message);
    calls.forEach((call, n) => void messages.push({ role: "tool", tool_call_id: call.id, content: `result ${n}` }));
    const last = await parallel.chat.completions.create({ model: MODEL, messages, tools: [WEATHER, other] });
    expect(last.choices[0]?.message.content).toMatch(/result 0.*result 1/s);
  });

  it("runs tools by its own runner", async () => {
    const asked: unknown[] = [];
    const runner = client().chat.completions.runTools({
      model: MODEL,
      messages: ask("use tool get_weather"),
      stream: true,
      tools: [
        {
          type: "function",
          function: {
            ...WEATHER.function,
            parse: JSON.parse,
            function: (input: unknown) => {
              asked.push(input);
              return "sunny";
            },
          },
        },
      ],
    });
    expect(await runner.finalContent()).toContain("sunny");
    expect(asked).toHaveLength(1);
  });

  it("parses a structured answer", async () => {
    const answer = await client().chat.completions.parse({
      model: MODEL,
      messages: ask("Weather, please."),
      response_format: zodResponseFormat(Weather, "weather"),
    });
    expect(Weather.safeParse(answer.choices[0]?.message.parsed).success).toBe(true);
  });

  it("answers responses, and goes on from one", async () => {
    const openai = client();
    const first = await openai.responses.create({ model: MODEL, input: `say: ${TEXT}` });
    expect(first.output_text).toBe(TEXT);
    expect(first.status).toBe("completed");
    const next = await openai.responses.create({ model: MODEL, input: "say: on", previous_response_id: first.id });
    expect(next.output_text).toBe("on");
    expect(next.usage?.input_tokens).toBeGreaterThan(first.usage?.input_tokens ?? 0);
  });

  it("streams responses", async () => {
    const stream = client().responses.stream({ model: MODEL, input: `say: ${TEXT}` });
    let text = "";
    stream.on("response.output_text.delta", ({ delta }) => {
      text += delta;
    });
    const final = await stream.finalResponse();
    expect(text).toBe(TEXT);
    expect(final.output_text).toBe(TEXT);
  });

  it("carries a tool loop through responses", async () => {
    const openai = client();
    const { function: weather } = WEATHER;
    const tools = [{ type: "function" as const, strict: false, ...weather }];
    const first = await openai.responses
      .stream({ model: MODEL, input: "use tool get_weather", tools, reasoning: { effort: "high", summary: "auto" } })
      .finalResponse();
    const call = first.output.find((item) => item.type === "function_call");
    expect(call?.name).toBe("get_weather");
    const next = await openai.responses.create({
      model: MODEL,
      tools,
      previous_response_id: first.id,
      input: [{ type: "function_call_output", call_id: call?.call_id ?? "", output: "sunny" }],
    });
    expect(next.output_text).toContain("sunny");
  });

  it("parses a structured response", async () => {
    const answer = await client().responses.parse({
      model: MODEL,
      input: "Weather, please.",
      text: { format: zodTextFormat(Weather, "weather") },
    });
    expect(Weather.safeParse(answer.output_parsed).success).toBe(true);
  });

  it("shows its thinking, and the tool loop keeps it though the client drops it", async () => {
    const openai = client();
    const messages: OpenAI.ChatCompletionMessageParam[] = ask("use tool get_weather");
    const first = await openai.chat.completions.create({
      model: "claude-opus-5-5",
      messages,
      tools: [WEATHER],
      reasoning_effort: "high",
    });
    const [choice] = first.choices;
    const { role, content = null, tool_calls: calls = [] } = choice?.message ?? { role: "assistant" as const };
    messages.push({ role, content, tool_calls: calls });
    for (const { id } of calls) messages.push({ role: "tool", tool_call_id: id, content: "sunny" });
    const last = await openai.chat.completions.create({
      model: "claude-opus-5-5",
      messages,
      tools: [WEATHER],
      reasoning_effort: "high",
    });
    expect(last.choices[0]?.message.content).toContain("sunny");
  });
});

describe("openai 6 and what goes wrong", () => {
  const client = (): OpenAI => new OpenAI({ ...at(0), maxRetries: 0 });

  it.each([
    [400, OpenAI.BadRequestError],
    [403, OpenAI.PermissionDeniedError],
    [404, OpenAI.NotFoundError],
    [409, OpenAI.ConflictError],
    [422, OpenAI.UnprocessableEntityError],
    [429, OpenAI.RateLimitError],
    [500, OpenAI.InternalServerError],
    [529, OpenAI.InternalServerError],
  ])("throws its own error for upstream's %i, streamed or not", async (status, type) => {
    for (const stream of [false, true]) {
      const asked = client().chat.completions.create({
        model: `claude-opus-5+status=${status}`,
        messages: ask("x"),
        stream,
      });
      const error: unknown = await asked.then(
        () => null,
        (why: unknown) => why,
      );
      if (status === 403) expect(error).toBeInstanceOf(OpenAI.APIError);
      else expect(error).toBeInstanceOf(type);
      expect((error as InstanceType<typeof OpenAI.APIError>).error).toHaveProperty("message");
    }
  });

  it("throws for a key that is unknown", async () => {
    const asked = new OpenAI({ ...at(0), apiKey: "sk-wrong", maxRetries: 0 }).models.list();
    await expect(asked).rejects.toBeInstanceOf(OpenAI.AuthenticationError);
  });

  it.each(["+cut=900", "+error_after=4", "+end_after=4", "+malformed=4"])(
    "throws in mid-stream for %s, and never pretends an end",
    async (fault) => {
      const stream = client().chat.completions.stream({
        model: `claude-opus-5${fault}`,
        messages: ask("repeat 200 word"),
      });
      const finished: unknown[] = [];
      await expect(
        (async () => {
          for await (const chunk of stream) if (chunk.choices[0]?.finish_reason) finished.push(chunk);
        })(),
      ).rejects.toBeInstanceOf(OpenAI.OpenAIError);
      expect(finished).toEqual([]);
    },
  );

  it("aborts", async () => {
    const stream = client().chat.completions.stream({ model: MODEL, messages: ask("repeat 5000 word") });
    let chunks = 0;
    for await (const _ of stream) if (++chunks === 5) break;
    stream.abort();
    expect(chunks).toBe(5);
  });

  it("is told what embeddings are not", async () => {
    const asked = client().embeddings.create({ model: "text-embedding-3-small", input: "x" });
    await expect(asked).rejects.toThrow(/embeddings/i);
  });

  it("lists models and reads each", async () => {
    const openai = client();
    const ids: string[] = [];
    for await (const model of openai.models.list()) ids.push(model.id);
    expect(ids).toContain("claude-opus-5-5");
    expect(ids).toContain("opus");
    for (const id of ids) expect((await openai.models.retrieve(id)).id).toBe(id);
  });
});

describe.each(SIZES)("Vercel's AI SDK, pieces of %i bytes (0: as they come)", (size) => {
  const model = () =>
    createOpenAICompatible({ name: "sluice", ...at(size), includeUsage: true, supportsStructuredOutputs: true })(MODEL);
  const tools = {
    get_weather: aiTool({
      description: "Weather of a place",
      inputSchema: Weather,
      execute: async ({ place }) => `sunny in ${place}`,
    }),
  };

  it("generates text", async () => {
    const { text, usage, finishReason } = await generateText({ model: model(), prompt: `say: ${TEXT}`, maxRetries: 0 });
    expect(text).toBe(TEXT);
    expect(finishReason).toBe("stop");
    expect(usage.outputTokens).toBeGreaterThan(5);
  });

  it("streams text", async () => {
    const { textStream, usage } = streamText({ model: model(), prompt: `say: ${TEXT}`, maxRetries: 0 });
    let text = "";
    for await (const piece of textStream) text += piece;
    expect(text).toBe(TEXT);
    expect((await usage).outputTokens).toBeGreaterThan(5);
  });

  it("carries a tool loop of several steps", async () => {
    const result = streamText({
      model: model(),
      tools,
      prompt: "use tool get_weather",
      stopWhen: stepCountIs(3),
      maxRetries: 0,
    });
    expect(await result.text).toContain("sunny in");
    expect(await result.steps).toHaveLength(2);
  });

  it("generates an object", async () => {
    const { object } = await generateObject({ model: model(), schema: Weather, prompt: "Weather?", maxRetries: 0 });
    expect(Weather.safeParse(object).success).toBe(true);
  });
});

describe.each(SIZES)("LangChain's ChatOpenAI, pieces of %i bytes (0: as they come)", (size) => {
  describe.each([false, true])("with the Responses API: %s", (useResponsesApi) => {
    const model = (): ChatOpenAI => {
      const { baseURL, apiKey } = at(size);
      return new ChatOpenAI({ model: MODEL, apiKey, configuration: { baseURL }, maxRetries: 0, useResponsesApi });
    };

    it("invokes and streams", async () => {
      expect((await model().invoke(`say: ${TEXT}`)).text).toBe(TEXT);
      let text = "";
      for await (const chunk of await model().stream(`say: ${TEXT}`)) text += chunk.text;
      expect(text).toBe(TEXT);
    });

    it("carries a tool loop", async () => {
      const weather = tool(async ({ place }: z.infer<typeof Weather>) => `sunny in ${place}`, {
        name: "get_weather",
        description: "Weather of a place",
        schema: Weather,
      });
      const bound = model().bindTools([weather]);
      const question = new HumanMessage("use tool get_weather");
      const first = await bound.invoke([question]);
      const [call] = first.tool_calls ?? [];
      expect(call?.name).toBe("get_weather");
      const result = new ToolMessage({ tool_call_id: call?.id ?? "", content: "sunny" });
      expect((await bound.invoke([question, first, result])).text).toContain("sunny");
    });

    it("answers in a structure", async () => {
      const answer = await model().withStructuredOutput(Weather).invoke("Weather, please.");
      expect(Weather.safeParse(answer).success).toBe(true);
    });
  });
});
