/**
 * Which blocks of an answer can stand in a later request. Claude refuses a whole history for one block: a call that nobody
 * has answered, thinking without its signature, a text without a word.
 */
import type { Content, ContentBlock } from "../../../clients/typescript/protocol.ts";
import { asFields, asText } from "../../wire/anthropic/usage.ts";

/** One turn as it is sent. */
export type SentTurn = { readonly role: "user" | "assistant"; readonly content: readonly ContentBlock[] };

/** Content as blocks: a text is one block. The two say the same; a breakpoint takes a block. */
export function blocksOf(content: Content): readonly ContentBlock[] {
  return typeof content === "string" ? [{ type: "text", text: content }] : content;
}

function isBlock(value: unknown): value is ContentBlock {
  return asText(asFields(value)?.type) !== null;
}

/** The blocks inside of one, such as a tool's result. What else may be there is upstream's to judge. */
export function innerBlocks({ content }: ContentBlock): readonly ContentBlock[] {
  return Array.isArray(content) ? content.filter(isBlock) : [];
}

export function isThinking({ type }: ContentBlock): boolean {
  return type === "thinking" || type === "redacted_thinking";
}

export function isCall({ type }: ContentBlock): boolean {
  return type === "tool_use";
}

export function isResult({ type }: ContentBlock): boolean {
  return type === "tool_result";
}

/** A tool that runs at Anthropic's, in the answer itself. */
export function isServerUse({ type }: ContentBlock): boolean {
  return type !== "tool_use" && type.endsWith("_tool_use");
}

function isServerResult({ type }: ContentBlock): boolean {
  return type !== "tool_result" && type.endsWith("_tool_result");
}

/** A text without a word, which is refused. */
export function isBlank({ type, text }: ContentBlock): boolean {
  return type === "text" && (typeof text !== "string" || text.trim() === "");
}

function isUnsigned(block: ContentBlock): boolean {
  return block.type === "thinking" && !asText(block.signature);
}

/** The id of a call. */
export function idOf({ id }: ContentBlock): string {
  return asText(id) ?? "";
}

/** The id of the call that a result is of. */
export function callOf({ tool_use_id: id }: ContentBlock): string {
  return asText(id) ?? "";
}

type Keep = {
  /** Whether a call has its result. Asked once for each call, in order. */
  readonly isAnswered: (id: string) => boolean;
  /** The answer pauses, and is gone on with: a server's tool at its end may still be running. */
  readonly paused?: boolean;
  /** Server's tools of the answers before, whose results may stand here; those of this one are added. Left out: unknown. */
  readonly served?: Set<string>;
};

/** The blocks of an answer that can stand; in their order, and unchanged. */
export function standing(
  blocks: readonly ContentBlock[],
  { isAnswered, paused = false, served }: Keep,
): ContentBlock[] {
  const kept = new Set(blocks.filter((block) => isCall(block) && isAnswered(idOf(block))));
  // A program that runs at Anthropic's and has called the client's tool waits for its result.
  const waiting = new Set([...kept].map(({ caller }) => asText(asFields(caller)?.tool_id)));
  const results = new Set<string>();
  for (const block of blocks.toReversed()) {
    const id = idOf(block);
    if (isServerResult(block)) results.add(callOf(block));
    else if (isServerUse(block) && (results.delete(id) || paused || waiting.has(id))) kept.add(block);
  }
  return blocks.filter((block) => {
    if (isCall(block)) return kept.has(block);
    if (isServerUse(block)) {
      if (kept.has(block)) served?.add(idOf(block));
      return kept.has(block);
    }
    if (isServerResult(block)) return served === undefined || served.delete(callOf(block));
    return !isBlank(block) && !isUnsigned(block);
  });
}
