/** A whole Messages answer told as a Chat Completion (OpenAI notes §4.1). Streams: chat-stream.ts; both give the same. */
import { asFields, asText } from "../anthropic/usage.ts";
import type { Block, Fields, Telling } from "./draft.ts";
import type { AnswerName, ToolCall, WholeMessage } from "./stream-mapper.ts";
import { chatUsage } from "./usage.ts";
import { answerId, freeFormText, toolCallOf } from "./whole-message.ts";

export type FinishReason = "stop" | "length" | "tool_calls" | "function_call" | "content_filter";

/** The body of the Chat Completion that a message is. */
export function chatAnswer(message: WholeMessage, name: AnswerName, telling: Telling): string {
  const calls = callsOf(message, telling);
  const legacy = legacyCall(calls, telling);
  const details = message.content.map(reasoningDetail).filter((detail) => detail !== null);
  const thought = joined(message, "thinking", "thinking");
  const told: Record<string, unknown> = {
    role: "assistant",
    content: joined(message, "text", "text"),
    refusal: refusalOf(message),
  };
  if (thought) told.reasoning_content = thought;
  if (details.length > 0) told.reasoning_details = details;
  if (legacy) told.function_call = legacy;
  else if (calls.length > 0) told.tool_calls = calls;
  return JSON.stringify({
    id: chatId(message.id, name),
    object: "chat.completion",
    created: name.created,
    model: message.model,
    choices: [
      {
        index: 0,
        message: told,
        logprobs: null,
        finish_reason: finishReason(message.stopReason, calls.length, legacy !== null),
      },
    ],
    usage: chatUsage(message.usage),
    service_tier: null,
    system_fingerprint: null,
  });
}

export function chatId(messageId: string, name: AnswerName): string {
  return answerId("chatcmpl-", messageId, name);
}

/** Why an answer ended, in OpenAI's words; what they have none for is a plain end. */
export function finishReason(stopReason: string | null, calls: number, legacy: boolean): FinishReason {
  switch (stopReason) {
    case "max_tokens":
    case "model_context_window_exceeded":
      return "length";
    case "refusal":
      return "content_filter";
    case "tool_use":
    case null:
      // Without a call to make, a client would wait for one.
      if (calls === 0) return "stop";
      return legacy ? "function_call" : "tool_calls";
    default:
      return "stop";
  }
}

/** The one call of an answer in the old form, which has room for no more; null where the new one must be used. */
export function legacyCall(calls: readonly Fields[], { legacyFunctions }: Telling): Fields | null {
  const [only] = calls;
  return legacyFunctions && calls.length === 1 ? (asFields(only?.function) ?? null) : null;
}

/** Why Claude would not answer, in its own words. */
export function refusalOf({ stopReason, stopDetails }: WholeMessage): string | null {
  return stopReason === "refusal" ? asText(stopDetails?.explanation) : null;
}

/** What a client hands back so that Claude knows its thinking again; null for what could not go back. */
export function reasoningDetail(block: Block): Fields | null {
  if (block.type === "redacted_thinking") {
    const data = asText(block.data);
    return data === null ? null : { type: "reasoning.encrypted", data };
  }
  const signature = block.type === "thinking" ? asText(block.signature) : null;
  return signature ? { type: "reasoning.text", text: asText(block.thinking) ?? "", signature } : null;
}

/** A call of a function, with its arguments in JSON. */
export function functionCall({ id, name }: ToolCall, json: string): Fields {
  return { id, type: "function", function: { name, arguments: json } };
}

/** A call of a free-form tool, as the client spoke of the tool: Cursor offers them in Responses bodies, and takes functions. */
export function freeFormCall(call: ToolCall, text: string, { shape }: Telling): Fields {
  if (shape === "responses") return functionCall(call, text);
  return { id: call.id, type: "custom", custom: { name: call.name, input: text } };
}

function callsOf({ content }: WholeMessage, telling: Telling): Fields[] {
  return content
    .filter((block) => block.type === "tool_use")
    .map((block) => {
      const call = toolCallOf(block, telling);
      const input = asFields(block.input) ?? {};
      return call.freeForm
        ? freeFormCall(call, freeFormText(input), telling)
        : functionCall(call, JSON.stringify(input));
    });
}

/** One field of all blocks of a type, or null where there is none. */
function joined({ content }: WholeMessage, type: string, field: string): string | null {
  const parts = content.filter((block) => block.type === type).map((block) => asText(block[field]) ?? "");
  return parts.length === 0 ? null : parts.join("");
}
