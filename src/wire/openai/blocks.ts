/** What the blocks of a turn are, and how those are made that more than one reader makes. */
import { asText } from "../anthropic/usage.ts";
import type { Block, CacheControl } from "./draft.ts";

/** The type of what stands for thinking that the client keeps sealed (openai/sealed-reasoning.ts) until it is opened. */
export const SEALED = "sealed";
/** The type of what stands for an item of an earlier response (item-reference.ts) until that is looked up. */
export const REFERENCE = "item_reference";

export function isThinking({ type }: Block): boolean {
  return type === "thinking" || type === "redacted_thinking" || type === SEALED;
}

/** Thinking that goes back: what the API has signed, in the clear, redacted, or sealed by ourselves. */
export function isSigned(block: Block): boolean {
  return block.type === "thinking" ? Boolean(asText(block.signature)) : isThinking(block);
}

/** Whether a block is the result of a tool that ran at Anthropic's, which stands in the assistant's own turn. */
export function isServerResult({ type }: Block): boolean {
  return type !== "tool_result" && type.endsWith("_tool_result");
}

/** The result of a tool call as a block. */
export function toolResult(id: string, content: Block[], isError: boolean): Block {
  const block: Block = { type: "tool_result", tool_use_id: id };
  if (content.length > 0) block.content = content;
  if (isError) block.is_error = true;
  return block;
}

/** Puts a cache breakpoint behind the last block that can carry one, unless there is one already. */
export function markLast(blocks: readonly Block[], cache: CacheControl): void {
  const last = blocks.findLast((block) => !isThinking(block));
  if (last) last.cache_control ??= cache;
}
