/**
 * A Claude that says what a test wants it to say, event by event, and remembers what it has sent: the original that all
 * viewers of a turn must have seen.
 */
import type { ServerResponse } from "node:http";
import { pause, type Received, type ScriptedUpstream, startScriptedUpstream } from "./scripted-upstream.ts";

type Json = Record<string, unknown>;

/** What each answer says it has used, unless a plan says otherwise; and what that costs by the price of claude-opus-5-5. */
export const USAGE = { input_tokens: 30, output_tokens: 20 };
export const COST = 30 * 4 + 20 * 20;

/** What was written has been read after so long. */
const FLUSH_MS = 50;

export type Plan = {
  /** Texts of the deltas. */
  readonly say?: readonly string[];
  /** Whole content blocks behind the text: `tool_use`, `thinking`, `server_tool_use`, … */
  readonly blocks?: readonly Json[];
  readonly stopReason?: string;
  readonly usage?: Json;
  /** Between two events, ms. */
  readonly paceMs?: number;
  /** Waits before the event of a number, counted from 0 (`message_start`). */
  readonly before?: (nth: number) => Promise<void> | undefined;
  /** Breaks the connection after so many events. */
  readonly cutAfter?: number;
  /** A status in place of the stream. */
  readonly status?: number;
};

/** One call that has arrived. */
export type Told = {
  /** The `request-id` of its answer. */
  readonly id: string;
  readonly request: Received;
  readonly body: Json & { readonly messages: readonly Json[] };
  /** The words of its last text: what the user said last. */
  readonly asked: string;
  /** The events that were sent, as JSON. */
  readonly events: string[];
  state: "running" | "complete" | "cut" | "gone";
};

export type TellingClaude = {
  readonly upstream: ScriptedUpstream;
  readonly url: string;
  /** Calls of the Messages API, oldest first. */
  readonly told: Told[];
  /** Calls of count_tokens. */
  counted: number;
  /** Decides what is said to a call. */
  plan: (call: Told) => Plan;
  /** Tokens that count_tokens tells. */
  count: (body: Json) => number;
  /** Calls whose last words hold this text. */
  of(text: string): Told[];
  stop(): Promise<void>;
};

export async function startTellingClaude(): Promise<TellingClaude> {
  const upstream = await startScriptedUpstream();
  const told: Told[] = [];
  const claude: TellingClaude = {
    upstream,
    url: upstream.url,
    told,
    counted: 0,
    plan: ({ asked }) => ({ say: ["I heard ", asked, "."] }),
    count: (body) => Math.ceil(JSON.stringify(body.messages).length / 4),
    of: (text) => told.filter(({ asked }) => asked.includes(text)),
    stop: () => upstream.stop(),
  };
  upstream.script = async (response, request) => {
    const body = JSON.parse(request.body.toString()) as Told["body"];
    if (request.target.includes("count_tokens")) {
      claude.counted++;
      response.setHeader("content-type", "application/json");
      return void response.end(JSON.stringify({ input_tokens: claude.count(body) }));
    }
    const id = `req_told_${told.length}`;
    const call: Told = { id, request, body, asked: lastWords(body), events: [], state: "running" };
    told.push(call);
    response.on("close", () => {
      if (call.state === "running") call.state = "gone";
    });
    await answer(response, call, claude.plan(call));
  };
  return claude;
}

async function answer(response: ServerResponse, call: Told, plan: Plan): Promise<void> {
  if (plan.status !== undefined) {
    const error = { type: "invalid_request_error", message: "the test says no" };
    response.writeHead(plan.status, { "content-type": "application/json" });
    response.end(JSON.stringify({ type: "error", error }));
    call.state = "complete";
    return;
  }
  if (call.body.stream !== true) {
    const content = [{ type: "text", text: (plan.say ?? []).join("") }, ...(plan.blocks ?? [])];
    response.writeHead(200, { "content-type": "application/json" });
    const message = { ...messageOf(call), content, stop_reason: plan.stopReason ?? "end_turn" };
    response.end(JSON.stringify({ ...message, usage: plan.usage ?? USAGE }));
    call.state = "complete";
    return;
  }
  response.writeHead(200, { "content-type": "text/event-stream", "request-id": call.id });
  response.socket?.setNoDelay(true);
  for (const [nth, event] of eventsOf(call, plan).entries()) {
    if (nth === plan.cutAfter) {
      call.state = "cut";
      // A reset takes along what has not been read yet.
      await pause(FLUSH_MS);
      return void response.socket?.resetAndDestroy();
    }
    await plan.before?.(nth);
    if (plan.paceMs && nth > 0) await pause(plan.paceMs);
    if (call.state !== "running") return;
    const text = JSON.stringify(event);
    call.events.push(text);
    response.write(`event: ${String(event.type)}\ndata: ${text}\n\n`);
  }
  call.state = "complete";
  response.end();
}

const messageOf = ({ body }: Told): Json => ({
  id: "msg_told",
  type: "message",
  role: "assistant",
  model: body.model,
  content: [],
  stop_reason: null,
  stop_sequence: null,
});

function eventsOf(call: Told, { say = [], blocks = [], stopReason, usage = USAGE }: Plan): Json[] {
  const text = say.length > 0 ? [{ type: "text", text: "" }] : [];
  const events: Json[] = [
    { type: "message_start", message: { ...messageOf(call), usage: { ...usage, output_tokens: 1 } } },
  ];
  for (const [index, block] of [...text, ...blocks].entries()) {
    const deltas =
      index === 0 && say.length > 0 ? say.map((one) => ({ type: "text_delta", text: one })) : deltasOf(block);
    events.push({ type: "content_block_start", index, content_block: emptied(block) });
    for (const delta of deltas) events.push({ type: "content_block_delta", index, delta });
    events.push({ type: "content_block_stop", index });
  }
  const delta = { stop_reason: stopReason ?? "end_turn", stop_sequence: null };
  return [...events, { type: "message_delta", delta, usage }, { type: "message_stop" }];
}

/** A block as its `content_block_start` has it. */
function emptied(block: Json): Json {
  if (block.type === "tool_use" || block.type === "server_tool_use") return { ...block, input: {} };
  if (block.type === "thinking") return { ...block, thinking: "", signature: "" };
  return block;
}

function deltasOf(block: Json): Json[] {
  if (block.type === "tool_use" || block.type === "server_tool_use") {
    const json = JSON.stringify(block.input);
    const middle = Math.floor(json.length / 2);
    return [json.slice(0, middle), json.slice(middle)].map((part) => ({
      type: "input_json_delta",
      partial_json: part,
    }));
  }
  if (block.type !== "thinking") return [];
  return [
    { type: "thinking_delta", thinking: block.thinking },
    { type: "signature_delta", signature: block.signature },
  ];
}

function lastWords({ messages }: { readonly messages: readonly Json[] }): string {
  const { content } = messages.at(-1) ?? {};
  if (typeof content === "string") return content;
  const blocks = Array.isArray(content) ? (content as Json[]) : [];
  return String(blocks.findLast(({ type }) => type === "text")?.text ?? "");
}

/** A door that tests open. */
export function gate(): { readonly passed: Promise<void>; open(): void } {
  const { promise, resolve } = Promise.withResolvers<void>();
  return { passed: promise, open: resolve };
}

/** Holds a stream before the event of a number until it is opened. */
export function holdBefore(nth: number): { readonly before: NonNullable<Plan["before"]>; open(): void } {
  const { passed, open } = gate();
  return { before: (now) => (now === nth ? passed : undefined), open };
}
