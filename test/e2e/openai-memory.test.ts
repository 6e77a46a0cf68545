/** What the gateway keeps for OpenAI's clients, on the real bundle: thinking in a tool loop, and stored responses. */
import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Gateway, type Key, startGateway } from "../support/gateway.ts";
import { type Received, type ScriptedUpstream, startScriptedUpstream } from "../support/scripted-upstream.ts";

type Sent = { messages: { role: string; content: unknown }[]; system?: unknown; thinking?: unknown };

const MODEL = "claude-opus-5-5";
const PARAMETERS = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const SPOKEN = [
  { type: "thinking", thinking: "T1", signature: "S1" },
  { type: "text", text: "Let me look." },
  { type: "redacted_thinking", data: "R1" },
  { type: "tool_use", id: "toolu_a", name: "get_weather", input: { city: "Oslo" } },
  { type: "tool_use", id: "toolu_b", name: "get_weather", input: { city: "Bergen" } },
];
const DONE = [{ type: "text", text: "4C" }];

let upstream: ScriptedUpstream;
let gateway: Gateway;
let messages = 0;

beforeAll(async () => {
  upstream = await startScriptedUpstream();
  gateway = await startGateway(upstream.url);
});
afterAll(async () => {
  await gateway?.stop();
  await upstream?.stop();
});

const openai = ({ key }: Key) => new OpenAI({ apiKey: key, baseURL: `${gateway.url}/v1`, maxRetries: 0 });

/** The upstream's next answers, as a message or as a stream of it. */
function answers(content: readonly Record<string, unknown>[], stream = false): void {
  const stop = content.some(({ type }) => type === "tool_use") ? "tool_use" : "end_turn";
  const message = {
    ...{ id: `msg_${++messages}`, type: "message", role: "assistant", model: MODEL },
    ...{ stop_reason: null, stop_sequence: null, usage: { input_tokens: 10, output_tokens: 5 } },
  };
  const events = [
    { type: "message_start", message: { ...message, content: [] } },
    ...content.flatMap((block, index) => eventsOf(block, index)),
    { type: "message_delta", delta: { stop_reason: stop, stop_sequence: null }, usage: { output_tokens: 5 } },
    { type: "message_stop" },
  ];
  upstream.script = (response, request) => {
    response.setHeader("anthropic-organization-id", `org of ${credentialOf(request)}`);
    response.setHeader("content-type", stream ? "text/event-stream" : "application/json");
    response.end(
      stream
        ? events.map((event) => `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`).join("")
        : JSON.stringify({ ...message, content, stop_reason: stop }),
    );
  };
}

function eventsOf(block: Record<string, unknown>, index: number): Record<string, unknown>[] {
  const delta = (fields: object) => ({ type: "content_block_delta", index, delta: fields });
  const [start, ...deltas] =
    block.type === "thinking"
      ? [
          { ...block, thinking: "", signature: "" },
          delta({ type: "thinking_delta", thinking: block.thinking }),
          delta({ type: "signature_delta", signature: block.signature }),
        ]
      : block.type === "text"
        ? [{ ...block, text: "" }, delta({ type: "text_delta", text: block.text })]
        : block.type === "tool_use"
          ? [{ ...block, input: {} }, delta({ type: "input_json_delta", partial_json: JSON.stringify(block.input) })]
          : [block];
  return [
    { type: "content_block_start", index, content_block: start },
    ...deltas,
    { type: "content_block_stop", index },
  ];
}

const credentialOf = ({ headers }: Received): string | undefined => headers.find(([name]) => name === "x-api-key")?.[1];

function sent(): { body: Sent; betas: string } {
  const last = upstream.received.at(-1);
  const betas = last?.headers.find(([name]) => name === "anthropic-beta")?.[1] ?? "";
  return { body: JSON.parse(last?.body.toString() ?? "{}"), betas };
}

describe("a tool loop of a client that drops thinking", () => {
  it.each([false, true])("goes on with the turn as it was said (stream: %s)", async (stream) => {
    const key = await gateway.makeKey();
    const chat = openai(key).chat.completions;
    const tools = [{ type: "function" as const, function: { name: "get_weather", parameters: PARAMETERS } }];
    const ask = { model: MODEL, tools, messages: [{ role: "user" as const, content: "w?" }] };
    answers(SPOKEN, stream);
    const { choices } = stream ? await chat.stream(ask).finalChatCompletion() : await chat.create(ask);
    const said = choices[0]?.message;
    const turn = { role: "assistant" as const, content: said?.content ?? null, tool_calls: said?.tool_calls ?? [] };
    expect(turn).toMatchObject({ content: "Let me look.", tool_calls: [{ id: "toolu_a" }, { id: "toolu_b" }] });
    const results = ["toolu_a", "toolu_b"].map((id) => ({ role: "tool" as const, tool_call_id: id, content: "4C" }));
    const goOn = { ...ask, messages: [...ask.messages, turn, ...results] };
    answers(DONE);
    await chat.create(goOn);
    expect(sent().body.messages[1]).toEqual({ role: "assistant", content: SPOKEN });
    expect(sent().body.thinking).toMatchObject({
      ...{ type: "adaptive", block_binding: { prefix_mismatch_behavior: "drop_block" } },
    });
    expect(sent().betas).toContain("thinking-binding-controls-2026-08-01");
    for (const [who, model] of [
      [await gateway.makeKey(), MODEL],
      [key, "claude-opus-5"],
    ] as const) {
      await openai(who).chat.completions.create({ ...goOn, model });
      expect(JSON.stringify(sent().body)).not.toContain("T1");
      expect(sent().body.thinking).toBeUndefined();
    }
  });
});

describe("stored responses", () => {
  const tools = [{ type: "function" as const, name: "get_weather", parameters: PARAMETERS, strict: false }];
  const results = ["toolu_a", "toolu_b"].map((id) => ({
    ...{ type: "function_call_output" as const, call_id: id, output: "4C" },
  }));

  it.each([false, true])("are gone on from, given back, and deleted (stream: %s)", async (stream) => {
    const key = await gateway.makeKey();
    const { responses } = openai(key);
    answers(SPOKEN, stream);
    const ask = { model: MODEL, tools, instructions: "Be brief.", input: "w?", metadata: { a: "b" } };
    const first = stream ? await responses.stream(ask).finalResponse() : await responses.create(ask);
    answers(DONE);
    const second = await responses.create({ model: MODEL, tools, input: results, previous_response_id: first.id });
    expect(sent().body.messages.slice(0, 2)).toEqual([
      { role: "user", content: [{ type: "text", text: "w?" }] },
      { role: "assistant", content: SPOKEN },
    ]);
    expect(sent().body.system).toBeUndefined();
    answers(DONE);
    await responses.create({ model: MODEL, input: "and now?", previous_response_id: second.id });
    expect(sent().body.messages).toHaveLength(5);

    const { output_text: _, ...kept } = await responses.retrieve(first.id);
    expect(kept).toMatchObject({ id: first.id, status: "completed", instructions: "Be brief.", metadata: { a: "b" } });
    expect(kept.output).toEqual(
      JSON.parse(JSON.stringify(first.output, (name, value) => (name.startsWith("parsed") ? undefined : value))),
    );
    expect((await responses.inputItems.list(second.id, { order: "asc" })).data).toMatchObject(results);
    const other = openai(await gateway.makeKey()).responses;
    const asked = [() => other.retrieve(first.id), () => other.delete(first.id), () => other.inputItems.list(first.id)];
    for (const ask of asked) {
      await expect(Promise.resolve(ask())).rejects.toMatchObject({ status: 404 });
    }
    const goOn = { model: MODEL, input: "?", previous_response_id: second.id };
    const unknown = { status: 400, code: "previous_response_not_found", param: "previous_response_id" };
    await expect(other.create(goOn)).rejects.toMatchObject(unknown);

    await responses.delete(first.id);
    await expect(responses.retrieve(first.id)).rejects.toMatchObject({ status: 404 });
    await expect(responses.create(goOn)).rejects.toMatchObject(unknown);
  });

  it("are none where the client wants none", async () => {
    const key = await gateway.makeKey();
    const { responses } = openai(key);
    answers(SPOKEN);
    const first = await responses.create({ model: MODEL, tools, input: "w?", store: false });
    await expect(responses.retrieve(first.id)).rejects.toMatchObject({ status: 404 });
    const calls = first.output.filter(({ type }) => type === "function_call");
    answers(DONE);
    await responses.create({
      model: MODEL,
      tools,
      store: false,
      input: [{ role: "user", content: "w?" }, ...calls, ...results] as never,
    });
    expect(sent().body.messages).toHaveLength(3);
    expect(JSON.stringify(sent().body)).not.toContain("T1");
  });

  it("is a 400 for a query that means nothing", async () => {
    const key = await gateway.makeKey();
    await expect(openai(key).get("/responses/resp_1?stream=true")).rejects.toMatchObject({
      status: 400,
      param: "stream",
    });
    await expect(openai(key).get("/responses/none")).rejects.toMatchObject({ status: 404 });
  });
});

describe("a tool loop in a pool of several organizations", () => {
  it.each(["chat", "stored", "sealed"])(
    "goes back to where its thinking was signed, and elsewhere goes without (%s)",
    async (how) => {
      const ids = new Map<string | undefined, string>();
      for (const api_key of ["sk-ant-one", "sk-ant-two"]) {
        const response = await gateway.admin("upstreams", {
          json: { name: api_key + how, base_url: upstream.url, api_key },
        });
        ids.set(api_key, ((await response.json()) as { id: string }).id);
      }
      const { chat, responses } = openai(await gateway.makeKey());
      const outputs = ["toolu_a", "toolu_b"];
      let goOn: () => Promise<unknown>;
      answers(SPOKEN);
      if (how === "chat") {
        const tools = [{ type: "function" as const, function: { name: "get_weather", parameters: PARAMETERS } }];
        const messages = [{ role: "user" as const, content: "w?" }];
        const said = (await chat.completions.create({ model: MODEL, tools, messages })).choices[0]?.message;
        const results = outputs.map((id) => ({ role: "tool" as const, tool_call_id: id, content: "4C" }));
        const turn = { role: "assistant" as const, content: said?.content ?? null, tool_calls: said?.tool_calls ?? [] };
        goOn = () => chat.completions.create({ model: MODEL, tools, messages: [...messages, turn, ...results] });
      } else {
        const tools = [{ type: "function" as const, name: "get_weather", parameters: PARAMETERS, strict: false }];
        const store = how === "stored";
        const ask = { model: MODEL, tools, store, include: ["reasoning.encrypted_content" as const] };
        const first = await responses.create({ ...ask, input: "w?" });
        const results = outputs.map((id) => ({ type: "function_call_output" as const, call_id: id, output: "4C" }));
        const input = [{ role: "user" as const, content: "w?" }, ...first.output, ...results];
        goOn = () =>
          store
            ? responses.create({ ...ask, input: results, previous_response_id: first.id })
            : responses.create({ ...ask, input: input as OpenAI.Responses.ResponseInput });
      }
      const [account] = upstream.received.slice(-1).map(credentialOf);
      const path = `upstreams/${ids.get(account)}`;
      answers(DONE);
      const { script } = upstream;
      upstream.script = (response, request) => {
        if (credentialOf(request) === account || !request.body.includes("T1")) return script(response, request);
        response.statusCode = 400;
        const message = "messages.1.content.0: Invalid `signature` in `thinking` block";
        response.end(JSON.stringify({ type: "error", error: { type: "invalid_request_error", message } }));
      };
      for (const [state, stays] of [
        ["active", true],
        ["drained", false],
        ["active", true],
      ] as const) {
        if (state === "drained") await gateway.admin(`${path}/drain`, { method: "POST" });
        else await gateway.admin(path, { method: "PATCH", json: { state } });
        await goOn();
        expect([
          credentialOf(upstream.received.at(-1) as Received) === account,
          JSON.stringify(sent().body).includes("T1"),
        ]).toEqual([stays, stays]);
      }
      for (const id of ids.values()) await gateway.admin(`upstreams/${id}`, { method: "DELETE" });
    },
  );
});
