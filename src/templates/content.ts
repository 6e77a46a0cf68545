/**
 * What a version of a template holds, and where in it text stands that variables may fill: the `text` of text blocks in
 * system and messages, inside of tool results and documents too, the text of a plain-text document, and a content that is
 * just a text. Everything else (tools, sources, ids, cache_control) is sent as it was saved. Pure.
 */
import { asFields } from "../wire/anthropic/usage.ts";

export const TEMPLATE_NAME = /^[a-z0-9][a-z0-9_-]{0,63}$/;

/**
 * A version's JSON, in bytes. A render is to take 10 ms at most, of a version that is new to its isolate as well; this is
 * half of what one with 500 variables does in that (`npm run bench:templates`).
 */
export const MAX_CONTENT_BYTES = 256 * 1024;
/** What a call fills in, in UTF-16 units over all texts. */
export const MAX_RENDERED_CHARS = 4 * 1024 * 1024;
export const MAX_BLOCKS = 1_000;
export const MAX_MESSAGES = 500;
export const MAX_TOOLS = 500;
/** Sections within sections, and levels of the variables' schema. */
export const MAX_NESTING = 16;

export type Fields = Readonly<Record<string, unknown>>;
export type Block = Fields & { readonly type: string };
export type BlocksOrText = string | readonly Block[];
export type Message = { readonly role: "user" | "assistant" | "system"; readonly content: BlocksOrText };

/** An immutable version, as it is stored. What is left out is left to the caller. */
export type Content = {
  readonly model?: string;
  readonly max_tokens?: number;
  readonly system?: BlocksOrText;
  readonly messages: readonly Message[];
  readonly tools?: readonly Fields[];
  /** Other fields of the Messages body, laid under the caller's. */
  readonly defaults: Fields;
  /** JSON Schema of the variables. */
  readonly variables: Fields;
  /** Fields of the body that a caller may not set. */
  readonly operator: readonly string[];
};

/** Which version of which template. */
export type Version = { readonly template: string; readonly version: number; readonly content: Content };

/** One text of a version, told by its place: `messages.0.content.1.text`. */
type Fill = (text: string, path: string) => string;

/** The same blocks with other texts. Blocks without a text stay the very same objects. */
export function mapSystem(content: Content, fill: Fill): BlocksOrText | undefined {
  return content.system === undefined ? undefined : mapBlocks(content.system, "system", fill);
}

export function mapMessages(content: Content, fill: Fill): readonly Message[] {
  return content.messages.map((message, i) => ({
    ...message,
    content: mapBlocks(message.content, `messages.${i}.content`, fill),
  }));
}

function mapBlocks(blocks: BlocksOrText, path: string, fill: Fill): BlocksOrText {
  if (typeof blocks === "string") return fill(blocks, path);
  return blocks.map((block, i) => mapBlock(block, `${path}.${i}`, fill));
}

function mapBlock<B extends Fields>(block: B, path: string, fill: Fill): B {
  if (block.type === "text" && typeof block.text === "string") {
    return { ...block, text: fill(block.text, `${path}.text`) };
  }
  const inner = mapInner(block.content, `${path}.content`, fill);
  const source = mapSource(block.source, `${path}.source`, fill);
  if (inner === block.content && source === block.source) return block;
  return { ...block, ...(inner !== block.content && { content: inner }), ...(source !== block.source && { source }) };
}

/** The content of a tool's result, of a search result, of a document made of blocks. */
function mapInner(content: unknown, path: string, fill: Fill): unknown {
  if (typeof content === "string") return fill(content, path);
  if (!Array.isArray(content)) return content;
  return content.map((block: unknown, i) => {
    const fields = asFields(block);
    return fields ? mapBlock(fields, `${path}.${i}`, fill) : block;
  });
}

function mapSource(source: unknown, path: string, fill: Fill): unknown {
  const fields = asFields(source);
  if (fields?.type === "text" && typeof fields.data === "string") {
    return { ...fields, data: fill(fields.data, `${path}.data`) };
  }
  if (fields?.type !== "content") return source;
  return { ...fields, content: mapInner(fields.content, `${path}.content`, fill) };
}

/** Every text with its place, in the order of the body. */
export function textsOf(content: Content): readonly { readonly text: string; readonly path: string }[] {
  const texts: { text: string; path: string }[] = [];
  const note: Fill = (text, path) => {
    texts.push({ text, path });
    return text;
  };
  mapSystem(content, note);
  mapMessages(content, note);
  return texts;
}

/** Levels and values of a JSON value. Not recursive: the value may be what recursion must not be tried on. */
export function measure(value: unknown): { readonly depth: number; readonly values: number } {
  let level: unknown[] = [value];
  let depth = 0;
  let values = 0;
  while (level.length > 0) {
    values += level.length;
    const next: unknown[] = [];
    for (const each of level) {
      if (typeof each === "object" && each !== null) for (const inner of Object.values(each)) next.push(inner);
    }
    if (next.length > 0) depth++;
    level = next;
  }
  return { depth, values };
}
