/**
 * A Messages body without the thinking of its earlier turns, for an account that can't read it: what was thought is lost,
 * what was said and called is not.
 */
import { parseJson } from "../json.ts";
import { asFields, asText, type Fields } from "./usage.ts";

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** `body`: one that has been scanned. No turn of it is nothing but thinking. */
export function withoutThinking(body: Uint8Array): Uint8Array {
  const { thinking, ...request } = JSON.parse(decoder.decode(body)) as Fields;
  const messages = (Array.isArray(request.messages) ? request.messages : []).map(spoken);
  // A budget goes with thinking before the last calls only ("Expected `thinking` or `redacted_thinking`").
  const asked =
    thinking === undefined || (asFields(thinking)?.type === "enabled" && endsInCalls(messages)) ? {} : { thinking };
  return encoder.encode(JSON.stringify({ ...request, ...asked, messages }));
}

function spoken(message: unknown): unknown {
  const { role, content } = asFields(message) ?? {};
  if (role !== "assistant" || !Array.isArray(content) || !content.some(isThinking)) return message;
  return { ...asFields(message), content: content.filter((block) => !isThinking(block)) };
}

function endsInCalls(messages: readonly unknown[]): boolean {
  const last = asFields(messages.findLast((message) => asFields(message)?.role === "assistant"))?.content;
  return Array.isArray(last) && last.some((block) => asFields(block)?.type === "tool_use");
}

function isThinking(block: unknown): boolean {
  const type = asFields(block)?.type;
  return type === "thinking" || type === "redacted_thinking";
}

/** Whether an error says that thinking of the request's history can't be read, or not in this place. */
export function refusesThinking(error: Uint8Array): boolean {
  const { error: said } = asFields(parseJson(decoder.decode(error))) ?? {};
  const message = asText(asFields(said)?.message) ?? "";
  return message.includes("`thinking`") || message.includes("bound to a different conversation");
}
