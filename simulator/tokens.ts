/**
 * Tokens. The real tokenizer is not public; this one is cheap, deterministic and additive, so that every part of a
 * usage adds up and count_tokens agrees with what a message reports.
 */
import { asList, blocksOf, type Fields } from "./json.ts";

/** Role and separators of one message. */
const MESSAGE_OVERHEAD = 4;
const BLOCK_OVERHEAD = 3;
const CHARS_PER_TOKEN = 4;

/** One piece of the prompt in the order that the prompt cache sees: tools, then system, then messages. */
export type PromptBlock = { readonly tokens: number; readonly value: Fields; readonly role: string };

/** The prompt as its blocks. */
export function promptBlocks(body: Fields): PromptBlock[] {
  const blocks: PromptBlock[] = [];
  const add = (value: Fields, role: string, overhead: number): void => {
    blocks.push({ tokens: Math.ceil(lengthOf(value) / CHARS_PER_TOKEN) + overhead, value, role });
  };
  for (const tool of asList(body.tools)) add(tool as Fields, "tool", BLOCK_OVERHEAD);
  for (const block of blocksOf(body.system)) add(block, "system", BLOCK_OVERHEAD);
  for (const message of asList(body.messages) as readonly Fields[]) {
    blocksOf(message.content).forEach((block, i) => {
      add(block, String(message.role), BLOCK_OVERHEAD + (i === 0 ? MESSAGE_OVERHEAD : 0));
    });
  }
  return blocks;
}

export function sumTokens(blocks: readonly PromptBlock[]): number {
  return blocks.reduce((sum, block) => sum + block.tokens, 0);
}

/** Characters of all texts, names and numbers in a block; where its cache breakpoint stands does not count. */
function lengthOf(value: unknown): number {
  if (typeof value === "string") return value.length;
  if (Array.isArray(value)) return value.reduce<number>((sum, item) => sum + lengthOf(item), 0);
  if (typeof value !== "object" || value === null) return String(value).length;
  let length = 0;
  for (const [name, item] of Object.entries(value))
    if (name !== "cache_control") length += name.length + lengthOf(item);
  return length;
}

/** Cuts a text into tokens: joined, they are the text. A character is never torn. */
export function tokenize(text: string): string[] {
  return text.match(/\s?[A-Za-z]{1,6}|\s?\d{1,3}|\s?[^\sA-Za-z\d]|\s+/gu) ?? [];
}
