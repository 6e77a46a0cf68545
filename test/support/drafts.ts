/** Drafts and what they are made of, for tests of what is done to them. */
import type { ModelFacts } from "../../src/wire/anthropic/model-facts.ts";
import { emptyUsage } from "../../src/wire/anthropic/usage.ts";
import {
  type Block,
  type Draft,
  type Telling,
  type ToolDraft,
  type Turn,
  toolDraft as toolDraftOf,
} from "../../src/wire/openai/draft.ts";
import type { WholeMessage } from "../../src/wire/openai/stream-mapper.ts";

/** A draft that asks nothing but what `changes` say; of a user who says hi. */
export function draftOf(changes: Partial<Draft> = {}): Draft {
  return {
    model: "claude-sonnet-4-6",
    stream: false,
    turns: [user("hi")],
    tools: [],
    toolChoice: null,
    parallelToolCalls: null,
    maxTokens: null,
    temperature: null,
    topP: null,
    topK: null,
    stop: [],
    format: { kind: "text" },
    effort: null,
    showThinking: false,
    caching: "automatic",
    user: null,
    serviceTier: null,
    conversation: null,
    extra: {},
    betas: new Set(),
    body: {},
    telling: tellingOf(),
    ...changes,
  };
}

export function tellingOf(changes: Partial<Telling> = {}): Telling {
  return {
    shape: "chat",
    tools: new Map(),
    legacyFunctions: false,
    includeUsage: false,
    encryptedReasoning: false,
    store: true,
    echo: {},
    previousResponseId: null,
    ...changes,
  };
}

export function toolDraft(name: string, changes: Partial<ToolDraft> = {}): ToolDraft {
  return toolDraftOf(name, { schema: { type: "object", properties: {} }, ...changes });
}

export function modelThat(can: Partial<ModelFacts>): ModelFacts {
  return {
    id: "claude-test",
    sampling: false,
    thinking: "adaptive",
    budgets: false,
    thinksByDefault: true,
    off: "disabled",
    efforts: ["low", "medium", "high"],
    forcedTools: true,
    prefill: false,
    systemTurns: true,
    boundThinking: false,
    structuredOutputs: true,
    maxTokens: 128_000,
    ...can,
  };
}

/** An answer of these blocks. */
export const messageOf = (content: readonly Block[], changes: Partial<WholeMessage> = {}): WholeMessage => ({
  id: "msg_01",
  model: "claude-opus-5",
  content,
  stopReason: "tool_use",
  stopDetails: null,
  usage: emptyUsage(),
  ...changes,
});

const turnOf =
  (role: Turn["role"]) =>
  (...content: readonly (Block | string)[]): Turn => ({
    role,
    content: content.map((each) => (typeof each === "string" ? text(each) : each)),
  });
export const system = turnOf("system");
export const user = turnOf("user");
export const assistant = turnOf("assistant");

export const text = (words: string): Block => ({ type: "text", text: words });
export const thought = (words: string): Block => ({ type: "thinking", thinking: words, signature: `sig-${words}` });
export const call = (id: string, input: unknown = {}): Block => ({ type: "tool_use", id, name: "get_weather", input });
export const result = (id: string, content?: unknown): Block => ({
  type: "tool_result",
  tool_use_id: id,
  ...(content !== undefined && { content }),
});
