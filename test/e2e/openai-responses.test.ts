/** The Responses API on the real bundle, by OpenAI's own client: answers, streams, and what of them is given back later. */
import OpenAI from "openai";
import type { ResponseCreateParamsNonStreaming, ResponseInputItem } from "openai/resources/responses/responses";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { type Gateway, startGateway } from "../support/gateway.ts";
import { type ScriptedUpstream, startScriptedUpstream } from "../support/scripted-upstream.ts";

const MODEL = "claude-opus-5";
const THINKING = { type: "thinking", thinking: "T1", signature: "SIG1" };
const CALL = { type: "tool_use", id: "toolu_1", name: "get_weather", input: { city: "Oslo" } };
const TOOLS: ResponseCreateParamsNonStreaming["tools"] = [
  {
    type: "function",
    name: "get_weather",
    parameters: { type: "object", properties: { city: { type: "string" } } },
    strict: false,
  },
];

let upstream: ScriptedUpstream;
let gateway: Gateway;
let client: OpenAI;

beforeAll(async () => {
  upstream = await startScriptedUpstream();
  gateway = await startGateway(upstream.url);
  client = await clientOfNewKey();
});
afterAll(async () => {
  await gateway?.stop();
  await upstream?.stop();
});
beforeEach(() => {
  upstream.received.length = 0;
});

async function clientOfNewKey(): Promise<OpenAI> {
  const { key } = await gateway.makeKey();
  return new OpenAI({ apiKey: key, baseURL: `${gateway.url}/v1`, maxRetries: 0 });
}

let messages = 0;
type Block = Readonly<Record<string, unknown>>;

/** Upstream answers with these blocks, as one piece or as a stream, whichever it is asked for. Gives the message's id. */
function answerWith(content: readonly Block[], stopReason = "end_turn"): string {
  const id = `msg_${++messages}RESPONSES`;
  const head = { id, type: "message", role: "assistant", model: MODEL };
  const usage = { input_tokens: 10, output_tokens: 5 };
  upstream.script = (response, { body }) => {
    if (JSON.parse(body.toString()).stream !== true) {
      const whole = { ...head, content, stop_reason: stopReason, stop_sequence: null, usage };
      response.setHeader("content-type", "application/json").end(JSON.stringify(whole));
      return;
    }
    response.setHeader("content-type", "text/event-stream");
    const send = (type: string, fields: object) =>
      void response.write(`event: ${type}\ndata: ${JSON.stringify({ type, ...fields })}\n\n`);
    send("message_start", { message: { ...head, content: [], usage } });
    for (const [index, block] of content.entries()) {
      const [empty, deltas] = inPieces(block);
      send("content_block_start", { index, content_block: empty });
      for (const delta of deltas) send("content_block_delta", { index, delta });
      send("content_block_stop", { index });
    }
    send("message_delta", { delta: { stop_reason: stopReason, stop_sequence: null }, usage });
    send("message_stop", {});
    response.end();
  };
  return id;
}

function inPieces(block: Block): [Block, Block[]] {
  if (block.type === "text") {
    const letters = [...String(block.text)];
    return [{ ...block, text: "" }, letters.map((text) => ({ type: "text_delta", text }))];
  }
  if (block.type === "thinking") {
    const { thinking, signature } = block;
    const deltas = [
      { type: "thinking_delta", thinking },
      { type: "signature_delta", signature },
    ];
    return [{ ...block, thinking: "", signature: "" }, deltas];
  }
  return [{ ...block, input: {} }, [{ type: "input_json_delta", partial_json: JSON.stringify(block.input) }]];
}

type Sent = { readonly role: string; readonly content: string | readonly Block[] };

/** What went up last, without what marks the cache. */
function sent(): { messages: Sent[]; system?: unknown } {
  const body = upstream.received.at(-1)?.body.toString() ?? "";
  return JSON.parse(body, (name, value) => (name === "cache_control" ? undefined : value));
}
const sentTypes = (): string[] =>
  sent().messages.flatMap(({ role, content }) =>
    (typeof content === "string" ? [{ type: "text" }] : content).map(({ type }) => `${role} ${type}`),
  );

const ASKED = { model: MODEL, reasoning: { effort: "high" }, tools: TOOLS } as const;
const RESULT: ResponseInputItem = { type: "function_call_output", call_id: "toolu_1", output: "4C" };

describe("OpenAI's client", () => {
  it("gets an answer, and the same one as a stream", async () => {
    answerWith([THINKING, { type: "text", text: "Hello" }]);
    const plain = await client.responses.create({ model: MODEL, instructions: "Be brief.", input: "Hi" });
    expect(plain).toMatchObject({ status: "completed", output_text: "Hello", instructions: "Be brief." });
    expect(sent()).toMatchObject({ messages: [{ role: "user" }] });
    const stream = client.responses.stream({ model: MODEL, instructions: "Be brief.", input: "Hi" });
    const deltas: string[] = [];
    stream.on("response.output_text.delta", ({ delta }) => void deltas.push(delta));
    const streamed = await stream.finalResponse();
    expect(deltas.join("")).toBe("Hello");
    expect(streamed.output).toMatchObject(plain.output);
    expect({ ...streamed, output: [], output_parsed: null }).toMatchObject({
      ...plain,
      output: [],
      created_at: expect.any(Number),
    });
  });

  it.each([false, true])(
    "keeps sealed thinking and gives it back (streamed: %s); another key's is dropped",
    async (stream) => {
      const encrypted = { ...ASKED, store: false, include: ["reasoning.encrypted_content" as const] };
      answerWith([THINKING, CALL], "tool_use");
      const first = stream
        ? await client.responses.stream({ ...encrypted, input: "w?" }).finalResponse()
        : await client.responses.create({ ...encrypted, input: "w?" });
      expect(JSON.stringify(first)).not.toContain("SIG1");
      answerWith([{ type: "text", text: "cold" }]);
      const again = first.output.map((item): ResponseInputItem => JSON.parse(JSON.stringify(item)));
      const input: ResponseInputItem[] = [{ role: "user", content: "w?" }, ...again, RESULT];
      await client.responses.create({ ...encrypted, input });
      expect(sentTypes()).toEqual(["user text", "assistant thinking", "assistant tool_use", "user tool_result"]);
      expect(sent().messages[1]?.content[0]).toEqual(THINKING);
      await (await clientOfNewKey()).responses.create({ ...encrypted, input });
      expect(sentTypes()).toEqual(["user text", "assistant tool_use", "user tool_result"]);
    },
  );

  it("goes on from a stored response, and refers to its items", async () => {
    const id = answerWith([THINKING, { type: "text", text: "Let me see" }, CALL], "tool_use");
    const first = await client.responses.create({ ...ASKED, instructions: "Once.", input: "w?" });
    expect(first.id).toBe(`resp_${id.slice(4)}`);
    answerWith([{ type: "text", text: "cold" }]);
    const whole = ["user text", "assistant thinking", "assistant text", "assistant tool_use", "user tool_result"];

    await client.responses.create({ ...ASKED, previous_response_id: first.id, input: [RESULT] });
    expect(sentTypes()).toEqual(whole);
    expect(sent().system).toBeUndefined();

    const references = first.output.map(({ id = "" }): ResponseInputItem => ({ type: "item_reference", id }));
    const input: ResponseInputItem[] = [{ role: "user", content: "w?" }, ...references, RESULT];
    await client.responses.create({ ...ASKED, input });
    expect(sentTypes()).toEqual(whole);

    const calls = upstream.received.length;
    const stranger = await clientOfNewKey();
    const byReference = stranger.responses.create({ ...ASKED, input });
    await expect(byReference).rejects.toMatchObject({ status: 400, param: "input[1]" });
    const byId = stranger.responses.create({ ...ASKED, previous_response_id: first.id, input: [RESULT] });
    await expect(byId).rejects.toMatchObject({ status: 400, code: "previous_response_not_found" });
    expect(upstream.received.length).toBe(calls);
  });

  it("is told that a stream has failed", async () => {
    upstream.script = (response) => {
      const head = { id: "msg_1", type: "message", role: "assistant", model: MODEL, content: [], usage: {} };
      response.setHeader("content-type", "text/event-stream");
      response.write(`event: message_start\ndata: ${JSON.stringify({ type: "message_start", message: head })}\n\n`);
      const block = { type: "content_block_start", index: 0, content_block: { type: "text", text: "" } };
      response.write(`event: content_block_start\ndata: ${JSON.stringify(block)}\n\n`);
      const delta = { type: "content_block_delta", index: 0, delta: { type: "text_delta", text: "Hel" } };
      response.write(`event: content_block_delta\ndata: ${JSON.stringify(delta)}\n\n`);
      const error = { type: "error", error: { type: "overloaded_error", message: "Overloaded" } };
      response.end(`event: error\ndata: ${JSON.stringify(error)}\n\n`);
    };
    const response = await client.responses.stream({ model: MODEL, input: "x" }).finalResponse();
    expect(response).toMatchObject({
      status: "failed",
      error: { message: "Overloaded" },
      output: [{ status: "incomplete", content: [{ text: "Hel" }] }],
    });
  });
});
