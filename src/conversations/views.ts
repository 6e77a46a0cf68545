/** How what is stored of a conversation looks from outside. */
import type { Conversation, Message, Turn } from "../../clients/typescript/protocol.ts";
import type { Spec } from "./protocol.ts";
import type { StoredCut, StoredMessage } from "./tree.ts";
import type { StoredTurn } from "./turns.ts";

const MICRO = 1_000_000;

/** What the object knows of the moment. */
export type Live = {
  readonly seq: number;
  readonly state: Conversation["state"];
  readonly turn: string | null;
  readonly turnSeq: number | null;
  readonly awaiting: readonly string[];
};
export type About = Pick<Conversation, "queued" | "leaf" | "turns" | "usage" | "cost_micro_usd"> & {
  readonly spec: Spec;
  readonly createdAt: number;
  readonly updatedAt: number;
};

export function conversationView({ spec, createdAt, updatedAt, ...about }: About, live: Live): Conversation {
  return {
    id: spec.id,
    type: "conversation",
    state: live.state,
    model: spec.model,
    system: spec.system,
    ...(spec.template && { template: { name: spec.template.name, version: spec.template.version } }),
    max_tokens: spec.maxTokens,
    tools: spec.tools,
    options: spec.options,
    context: spec.context,
    ttl_seconds: spec.ttlSeconds,
    on_busy: spec.onBusy,
    metadata: spec.metadata,
    created_at: time(createdAt),
    updated_at: time(updatedAt),
    expires_at: time(updatedAt + spec.ttlSeconds * 1000),
    seq: live.seq,
    turn: live.turn,
    turn_seq: live.turnSeq,
    awaiting_tool_results: live.awaiting,
    ...about,
  };
}

export function turnView(turn: StoredTurn): Turn {
  return {
    id: turn.id,
    type: "turn",
    state: turn.state,
    client_id: turn.incoming.clientId,
    key_id: turn.sender.keyId,
    model: turn.model,
    created_at: time(turn.createdAt),
    started_at: turn.startedAt === null ? null : time(turn.startedAt),
    ended_at: turn.endedAt === null ? null : time(turn.endedAt),
    stop_reason: turn.stopReason,
    usage: turn.usage,
    cost_micro_usd: turn.microUsd,
    cost_usd: turn.microUsd / MICRO,
    cut: turn.cut,
    error: turn.error,
  };
}

/** `of`: the turn of an answer. */
export function messageView(
  message: StoredMessage,
  siblings: readonly string[],
  of: Pick<StoredTurn, "usage" | "microUsd"> | undefined,
): Message {
  const { id, role, turn, parent, model, stopReason } = message;
  return {
    id,
    type: "message",
    role,
    content: message.content,
    turn,
    parent,
    siblings,
    created_at: time(message.createdAt),
    ...(role === "assistant" && { ...(model !== null && { model }), stop_reason: stopReason }),
    ...(of && { usage: of.usage, cost_micro_usd: of.microUsd }),
    ...(message.incomplete && { incomplete: true }),
  };
}

/** A summary as it stands in the history: behind the last of what it is about. */
export function summaryView({ id, summary, turn, through, createdAt }: StoredCut): Message {
  return {
    id,
    type: "summary",
    role: "user",
    content: summary ?? "",
    turn,
    parent: through,
    siblings: [id],
    created_at: time(createdAt),
  };
}

/** Of an export: with the summary's words. */
export function cutView({ id, turn, summary, createdAt, cut }: StoredCut): object {
  return { ...cut, id, turn, created_at: time(createdAt), summary };
}

function time(ms: number): string {
  return new Date(ms).toISOString();
}
