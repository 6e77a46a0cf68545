/**
 * Tokens. The real tokenizer is not public; this one is cheap, deterministic and additive, so that every part of a
 * usage adds up and count_tokens agrees with what a message reports.
 */
import { asFields, asList, asText, blocksOf, type Fields } from "./json.ts";

/** Role and separators of one message. */
const MESSAGE_OVERHEAD = 4;
const BLOCK_OVERHEAD = 3;
const CHARS_PER_TOKEN = 4;

/** Base64 of an image or a document is no text. An image costs by its area, of which the bytes are a poor but stable
 * measure, and never more than the largest one that is not scaled down; a document costs by its pages. */
const BASE64_CHARS_PER_IMAGE_TOKEN = 100;
const MIN_IMAGE_TOKENS = 60;
const MAX_IMAGE_TOKENS = 1600;
const BASE64_CHARS_PER_DOCUMENT_TOKEN = 40;
/** What is fetched or looked up by the API itself: its size is not in the request. */
const REFERENCED_TOKENS = 1500;

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

/** Characters of all texts, names and numbers in a block. Cache breakpoints and signatures cost nothing. */
function lengthOf(value: unknown): number {
  if (typeof value === "string") return value.length;
  if (Array.isArray(value)) return value.reduce<number>((sum, item) => sum + lengthOf(item), 0);
  if (typeof value !== "object" || value === null) return String(value).length;
  let length = 0;
  const fields = value as Fields;
  for (const name in fields) {
    if (name === "cache_control" || name === "signature") continue;
    const source = name === "source" ? asFields(fields[name]) : undefined;
    length += source ? mediaLength(String(fields.type), source) : name.length + lengthOf(fields[name]);
  }
  return length;
}

/** The same for the source of an image or a document. */
function mediaLength(type: string, source: Fields): number {
  if (source.type === "text" || source.type === "content") return lengthOf(source.data ?? source.content);
  const data = asText(source.data);
  if (data === undefined) return REFERENCED_TOKENS * CHARS_PER_TOKEN;
  if (type !== "image") return Math.ceil(data.length / BASE64_CHARS_PER_DOCUMENT_TOKEN) * CHARS_PER_TOKEN;
  const tokens = Math.ceil(data.length / BASE64_CHARS_PER_IMAGE_TOKEN);
  return Math.min(MAX_IMAGE_TOKENS, Math.max(MIN_IMAGE_TOKENS, tokens)) * CHARS_PER_TOKEN;
}

const TOKEN = /\s?[A-Za-z]{1,6}|\s?\d{1,3}|\s?[^\sA-Za-z\d]|\s+/gu;

/** Cuts a text into its first tokens, at most `limit`. All of them, joined, are the text. A character is never torn. */
export function tokenize(text: string, limit = Number.POSITIVE_INFINITY): string[] {
  const tokens: string[] = [];
  if (limit <= 0) return tokens;
  for (const [token] of text.matchAll(TOKEN)) {
    tokens.push(token);
    if (tokens.length >= limit) break;
  }
  return tokens;
}
