/** A message in its two forms: one JSON, and the events of a stream. Both say the same. */

import type { CacheUse } from "./cache.ts";
import type { Fields } from "./json.ts";
import { blockOf, type Reply, type ReplyBlock } from "./reply.ts";

export type MessageParts = {
  readonly id: string;
  readonly model: string;
  readonly reply: Reply;
  readonly usage: Usage;
  /** Beta: set when the request manages its context; here no edit is ever due. */
  readonly contextManagement: Fields | undefined;
};

/** Every counter of an answer (wire notes §5.2). */
export type Usage = {
  readonly input_tokens: number;
  readonly cache_creation_input_tokens: number;
  readonly cache_read_input_tokens: number;
  readonly cache_creation: {
    readonly ephemeral_5m_input_tokens: number;
    readonly ephemeral_1h_input_tokens: number;
  };
  readonly output_tokens: number;
  readonly output_tokens_details: { readonly thinking_tokens: number } | null;
  readonly server_tool_use: { readonly web_search_requests: number; readonly web_fetch_requests: number } | null;
  readonly service_tier: "standard";
  readonly inference_geo: string;
  readonly speed: "standard" | "fast";
};

const REFUSAL_DETAILS = {
  type: "refusal",
  category: "general_harms",
  explanation: "The simulator was asked to refuse.",
};

/** Input, cache writes and cache reads together are what count_tokens says: `total`. */
export function usageOf(total: number, cache: CacheUse, reply: Reply, body: Fields): Usage {
  const written = cache.write5mTokens + cache.write1hTokens;
  return {
    input_tokens: total - written - cache.readTokens,
    cache_creation_input_tokens: written,
    cache_read_input_tokens: cache.readTokens,
    cache_creation: {
      ephemeral_5m_input_tokens: cache.write5mTokens,
      ephemeral_1h_input_tokens: cache.write1hTokens,
    },
    output_tokens: reply.outputTokens,
    output_tokens_details: reply.thinkingTokens > 0 ? { thinking_tokens: reply.thinkingTokens } : null,
    server_tool_use: reply.searches > 0 ? { web_search_requests: reply.searches, web_fetch_requests: 0 } : null,
    service_tier: "standard",
    inference_geo: typeof body.inference_geo === "string" ? body.inference_geo : "global",
    speed: body.speed === "fast" ? "fast" : "standard",
  };
}

/** The whole Message, as an answer that is not streamed. */
export function messageOf({ id, model, reply, usage, contextManagement }: MessageParts): Fields {
  return {
    model,
    id,
    type: "message",
    role: "assistant",
    content: reply.blocks.map(blockOf),
    ...ending(reply),
    usage,
    ...(contextManagement ? { context_management: contextManagement } : {}),
  };
}

function ending({ stopReason, stopSequence }: Reply): Fields {
  return {
    stop_reason: stopReason,
    stop_sequence: stopSequence,
    stop_details: stopReason === "refusal" ? REFUSAL_DETAILS : null,
  };
}

export type Event = { readonly name: string; readonly data: string };

const event = (name: string, rest: Fields): Event => ({ name, data: JSON.stringify({ type: name, ...rest }) });

/** What may be asked to stand in a stream besides the message. */
export type Extras = {
  /** Puts a type that no client knows after the first block's start. */
  readonly unknown_event?: true;
  /** Puts a `ping` of this many bytes there. */
  readonly big_event?: number;
  /** Lets the first text never end. */
  readonly endless?: true;
  /** Puts an event of this kind before `message_start`; a comment is none. */
  readonly first_event?: string;
};

/** The events of a message, in the grammar of wire notes §4. */
export function* eventsOf(parts: MessageParts, extras: Extras): Generator<Event, void, void> {
  const { id, model, reply, usage, contextManagement } = parts;
  const atStart = {
    ...usage,
    output_tokens: Math.min(1, usage.output_tokens),
    output_tokens_details: null,
    server_tool_use: null,
  };
  if (extras.first_event === "ping") yield event("ping", {});
  if (extras.first_event === "unknown") yield event("sim_unknown", {});
  yield event("message_start", {
    message: {
      model,
      id,
      type: "message",
      role: "assistant",
      content: [],
      stop_reason: null,
      stop_sequence: null,
      stop_details: null,
      usage: atStart,
    },
  });
  for (const [index, block] of reply.blocks.entries()) {
    yield event("content_block_start", { index, content_block: emptyBlock(block) });
    if (index === 0) yield event("ping", {});
    if (index === 0) yield* extraEvents(extras);
    yield* deltasOf(index, block, extras.endless === true);
    yield event("content_block_stop", { index });
  }
  yield event("message_delta", {
    delta: ending(reply),
    usage: {
      input_tokens: usage.input_tokens,
      cache_creation_input_tokens: usage.cache_creation_input_tokens,
      cache_read_input_tokens: usage.cache_read_input_tokens,
      output_tokens: usage.output_tokens,
      ...(usage.server_tool_use ? { server_tool_use: usage.server_tool_use } : {}),
      ...(usage.output_tokens_details ? { output_tokens_details: usage.output_tokens_details } : {}),
    },
    ...(contextManagement ? { context_management: contextManagement } : {}),
  });
  yield event("message_stop", {});
}

function emptyBlock(block: ReplyBlock): Fields {
  if (block.type === "text") return { type: "text", text: "" };
  if (block.type === "thinking") return { type: "thinking", thinking: "", signature: "" };
  if (block.type === "web_search_tool_result") return blockOf(block);
  return { type: block.type, id: block.id, name: block.name, caller: { type: "direct" }, input: {} };
}

function* deltasOf(index: number, block: ReplyBlock, endless: boolean): Generator<Event, void, void> {
  const delta = (fields: Fields): Event => event("content_block_delta", { index, delta: fields });
  if (block.type === "web_search_tool_result") return;
  if (block.type === "tool_use") yield delta({ type: "input_json_delta", partial_json: "" });
  for (const piece of block.pieces) {
    if (block.type === "text") yield delta({ type: "text_delta", text: piece });
    else if (block.type !== "thinking") yield delta({ type: "input_json_delta", partial_json: piece });
    else if (block.shown) yield delta({ type: "thinking_delta", thinking: piece });
  }
  if (block.type === "thinking") yield delta({ type: "signature_delta", signature: block.signature });
  if (block.type === "text" && endless) {
    for (let i = 0; ; i++) yield delta({ type: "text_delta", text: ` word${i}` });
  }
}

function* extraEvents({ unknown_event, big_event }: Extras): Generator<Event, void, void> {
  if (unknown_event) yield event("sim_unknown", { note: "clients ignore what they do not know" });
  if (big_event !== undefined) {
    const padding = (count: number): Event => event("ping", { padding: "x".repeat(count) });
    // With `event: ` and `data: `, two line ends and the blank line.
    const empty = padding(0);
    const size = "event: ".length + empty.name.length + "data: ".length + empty.data.length + 3;
    yield padding(Math.max(0, big_event - size));
  }
}
