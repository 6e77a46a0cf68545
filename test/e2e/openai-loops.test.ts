/**
 * Agents that call tools for turns on end, in the bodies that Cursor and Codex send. A model that binds its thinking to all
 * that stood before it takes a turn back only where nothing of that has changed: each request has to begin with the one
 * before, and a turn that called tools has to come back as it was said, whatever of it the client has dropped.
 */
import { afterAll, beforeAll, expect, it } from "vitest";
import { type Gateway, type Key, startGateway } from "../support/gateway.ts";
import { parseSSE, readChatStream } from "../support/openai-match.mjs";
import { type ScriptedUpstream, startScriptedUpstream } from "../support/scripted-upstream.ts";

type Fields = { readonly [field: string]: unknown };
type Block = Fields & { readonly type: string };
type Call = { readonly id: string; readonly name: string; readonly input: string; readonly custom: boolean };
type Body = { readonly system: unknown; readonly tools: unknown; readonly messages: readonly Fields[] };

/** How a client keeps its history. */
type Client = {
  readonly path: string;
  readonly fields: Fields;
  /** The field that the history stands in. */
  readonly history: "messages" | "input";
  readonly start: readonly Fields[];
  /** What it keeps of an answer. */
  kept(answer: string): { readonly items: readonly Fields[]; readonly calls: readonly Call[] };
  result(call: Call): Fields;
  said(text: string): Fields;
  /** Sends only what is new. */
  readonly chained?: true;
};

const MODEL = "claude-opus-5-5";
const SCHEMA = { type: "object", properties: { path: { type: "string" } } };
const FLAT_TOOLS = [
  { type: "function", name: "read", parameters: SCHEMA, strict: false },
  { type: "custom", name: "ApplyPatch", format: { type: "grammar", syntax: "lark", definition: "start: /.+/" } },
];
const thought = (thinking: string, signature: string): Block => ({ type: "thinking", thinking, signature });
const text = (said: string): Block => ({ type: "text", text: said });
const call = (id: string, name: string, input: Fields): Block => ({ type: "tool_use", id: `toolu_${id}`, name, input });
/** What the model says, turn by turn; after a turn without a call the user speaks again. */
const TURNS: readonly (readonly Block[])[] = [
  [thought("", "S1"), text("Let me look. "), call("1", "read", { path: "a" })],
  [thought("t2", "S2"), call("2", "read", { path: "b" }), call("3", "ApplyPatch", { input: '*** Begin\n"x"' })],
  [call("4", "read", { path: "c" })],
  [text("Done.")],
  [thought("t5", "S5"), text("Again"), thought("t6", "S6"), call("5", "read", {})],
  [{ type: "redacted_thinking", data: "R7" }, call("6", "read", { path: "d" })],
  [text("End.")],
];

function chatTurn(answer: string): { readonly said: string; readonly calls: readonly Call[] } {
  const { message } = readChatStream(answer);
  const calls = (message.tool_calls ?? []).map(({ id, function: called }) => ({
    id,
    name: called?.name ?? "",
    input: called?.arguments ?? "",
    custom: false,
  }));
  return { said: message.content ?? "", calls };
}

function responseTurn(answer: string): ReturnType<Client["kept"]> {
  const items = parseSSE(answer)
    .map(({ data }) => JSON.parse(data) as { readonly type: string; readonly item: Fields })
    .filter(({ type }) => type === "response.output_item.done")
    .map(({ item: { id: _, status: __, ...item } }) => item);
  const calls = items
    .filter(({ call_id }) => call_id !== undefined)
    .map(({ call_id: id, name, type }) => ({ id, name, input: "", custom: type === "custom_tool_call" }) as Call);
  return { items, calls };
}

const cursor = { path: "/chat/completions", fields: { stream_options: { include_usage: true }, user: "h" } } as const;
const codex: Client = {
  path: "/v1/responses",
  fields: {
    instructions: "You are Codex.",
    store: false,
    include: ["reasoning.encrypted_content"],
    reasoning: { effort: "medium", summary: "auto" },
    parallel_tool_calls: false,
    tools: FLAT_TOOLS,
  },
  history: "input",
  start: [
    { type: "message", role: "developer", content: [{ type: "input_text", text: "rules" }] },
    { type: "message", role: "user", content: [{ type: "input_text", text: "go" }] },
  ],
  kept: responseTurn,
  result: ({ id, custom }) => ({
    type: custom ? "custom_tool_call_output" : "function_call_output",
    call_id: id,
    output: "r",
  }),
  said: (words) => ({ type: "message", role: "user", content: [{ type: "input_text", text: words }] }),
};

const CLIENTS: Readonly<Record<string, Client>> = {
  "Cursor, plain Chat": {
    path: cursor.path,
    fields: {
      ...cursor.fields,
      temperature: 0,
      reasoning: { effort: "medium" },
      tools: ["read", "ApplyPatch"].map((name) => ({ type: "function", function: { name, parameters: SCHEMA } })),
    },
    history: "messages",
    start: [
      { role: "system", content: "S" },
      { role: "user", content: "a" },
      { role: "user", content: "b" },
    ],
    kept(answer) {
      const { said, calls } = chatTurn(answer);
      const tool_calls = calls.map(({ id, name, input }, index) => ({
        index,
        id,
        type: "function",
        function: { name, arguments: input },
      }));
      return { items: [{ role: "assistant", content: said, tool_calls }], calls };
    },
    result: ({ id, name }) => ({ role: "tool", name, tool_call_id: id, content: "r" }),
    said: (words) => ({ role: "user", content: words }),
  },
  "Cursor, Anthropic blocks": {
    path: cursor.path,
    fields: {
      ...cursor.fields,
      tools: ["read", "ApplyPatch"].map((name) => ({ name, description: "d", input_schema: SCHEMA })),
      tool_choice: { type: "auto" },
    },
    history: "messages",
    start: [
      { role: "system", content: [{ ...text("S"), cache_control: { type: "ephemeral" } }] },
      { role: "user", content: [text("go")] },
    ],
    kept(answer) {
      const { said, calls } = chatTurn(answer);
      const uses = calls.map(({ id, name, input }) => ({ type: "tool_use", id, name, input: JSON.parse(input) }));
      return { items: [{ role: "assistant", content: said === "" ? uses : [text(said), ...uses] }], calls };
    },
    result: ({ id }) => ({ role: "user", content: [{ type: "tool_result", tool_use_id: id, content: "r" }] }),
    said: (words) => ({ role: "user", content: [text(words)] }),
  },
  "Cursor, a Responses body": {
    ...codex,
    path: cursor.path,
    fields: { ...codex.fields, ...cursor.fields },
    kept(answer) {
      const { said, calls } = chatTurn(answer);
      const items = calls.map(({ id, name, input }) => ({
        type: "function_call",
        call_id: id,
        name,
        arguments: input,
      }));
      const message = { type: "message", role: "assistant", content: [{ type: "output_text", text: said }] };
      return { items: said === "" ? items : [message, ...items], calls };
    },
  },
  Codex: codex,
  "Responses that go on": { ...codex, fields: { ...codex.fields, store: true, include: [] }, chained: true },
};

let upstream: ScriptedUpstream;
let gateway: Gateway;
beforeAll(async () => {
  upstream = await startScriptedUpstream();
  gateway = await startGateway(upstream.url);
});
afterAll(async () => {
  await gateway?.stop();
  await upstream?.stop();
});

it.each(Object.entries(CLIENTS))("%s: nothing that was sent changes, no thinking is lost", async (_, client) => {
  const key = await gateway.makeKey();
  let history = [...client.start];
  let previous: unknown;
  let before: { readonly body: Body; readonly turn: readonly Block[] } | undefined;
  for (const [nth, turn] of TURNS.entries()) {
    const { answer, body } = await ask(client, key, history, previous, turn, nth);
    if (before) {
      const { length } = before.body.messages;
      expect(body).toMatchObject({ system: before.body.system, tools: before.body.tools });
      expect(body.messages.slice(0, length)).toEqual(before.body.messages);
      expect(body.messages[length]).toEqual({ role: "assistant", content: before.turn });
    }
    before = { body, turn };
    const { items, calls } = client.kept(answer);
    expect(calls.map(({ id }) => id)).toEqual(turn.filter(({ type }) => type === "tool_use").map(({ id }) => id));
    const next = calls.length > 0 ? calls.map(client.result) : [client.said(`more ${nth}`)];
    history = client.chained ? next : [...history, ...items, ...next];
    if (client.chained)
      previous = (JSON.parse(parseSSE(answer).at(-1)?.data ?? "") as { response: Fields }).response.id;
  }
});

/** One call of the client's, and what of it reached the upstream. */
async function ask(
  { path, fields, history: field }: Client,
  key: Key,
  history: readonly Fields[],
  previous: unknown,
  turn: readonly Block[],
  nth: number,
): Promise<{ readonly answer: string; readonly body: Body }> {
  upstream.received.length = 0;
  upstream.script = (response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.end(streamOf(turn, `msg_${key.id}${nth}`));
  };
  const answer = await fetch(gateway.url + path, {
    method: "POST",
    headers: { authorization: `Bearer ${key.key}`, "content-type": "application/json" },
    body: JSON.stringify({
      model: MODEL,
      stream: true,
      ...fields,
      [field]: history,
      ...(previous ? { previous_response_id: previous } : {}),
    }),
  });
  const told = await answer.text();
  expect(answer.status, told).toBe(200);
  const sent = upstream.received[0]?.body.toString() ?? "";
  // A breakpoint is no part of what is bound.
  return {
    answer: told,
    body: JSON.parse(sent, (name, value) => (name === "cache_control" ? undefined : value)) as Body,
  };
}

/** The turn as upstream streams it. */
function streamOf(turn: readonly Block[], id: string): string {
  const usage = { input_tokens: 5, output_tokens: 1 };
  const stop_reason = turn.some(({ type }) => type === "tool_use") ? "tool_use" : "end_turn";
  const events: (Fields & { readonly type: string })[] = [
    { type: "message_start", message: { id, type: "message", role: "assistant", model: MODEL, content: [], usage } },
    ...turn.flatMap((block, index) => {
      const [begun, deltas] = inPieces(block);
      return [
        { type: "content_block_start", index, content_block: begun },
        ...deltas.map((delta) => ({ type: "content_block_delta", index, delta })),
        { type: "content_block_stop", index },
      ];
    }),
    { type: "message_delta", delta: { stop_reason }, usage: { output_tokens: 5 } },
    { type: "message_stop" },
  ];
  return events.map((event) => `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`).join("");
}

/** What a block begins with, and what comes of it afterwards. */
function inPieces(block: Block): readonly [Fields, readonly Fields[]] {
  switch (block.type) {
    case "text":
      return [text(""), [{ type: "text_delta", text: block.text }]];
    case "thinking": {
      const { thinking, signature } = block;
      const deltas = [
        { type: "thinking_delta", thinking },
        { type: "signature_delta", signature },
      ];
      return [thought("", ""), deltas];
    }
    case "tool_use":
      return [{ ...block, input: {} }, [{ type: "input_json_delta", partial_json: JSON.stringify(block.input) }]];
    default:
      return [block, []];
  }
}
