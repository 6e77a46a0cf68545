/**
 * The cache breakpoint at the end of a template's constant part (wire notes §5.1): the longest prefix of tools, system and
 * messages without a variable is the same in every call, whatever the rest says. Those that the template or the caller
 * has set stay as they are, but for the lifetime: an hour must not come behind five minutes. Pure.
 */
import { asFields } from "../wire/anthropic/usage.ts";
import type { BlocksOrText, Fields, Message } from "./content.ts";

/** Upstream refuses a fifth. */
export const MAX_BREAKPOINTS = 4;

export type Prompt = {
  readonly tools?: readonly unknown[] | undefined;
  readonly system?: BlocksOrText | undefined;
  readonly messages: readonly { readonly role: unknown; readonly content: unknown }[];
};

/** How much of a prompt is the template's own and holds no variable. */
export type Constant = {
  readonly tools: number;
  readonly system: number;
  /** Of each message, as far as it goes. */
  readonly messages: readonly number[];
};

/** Blocks that have no place for one (types of Anthropic's SDK 1.11). */
const UNMARKED = new Set<unknown>(["thinking", "redacted_thinking", "fallback", "mcp_tool_listing"]);

/** How many breakpoints a prompt has, those inside of tool results and documents included. */
export function ownBreakpoints({ tools = [], system = [], messages }: Prompt): number {
  return marks(tools) + marks(system) + messages.reduce((sum, { content }) => sum + marks(content), 0);
}

function marks(blocks: unknown): number {
  if (!Array.isArray(blocks)) return 0;
  return blocks.reduce((sum: number, block: unknown) => {
    const fields = asFields(block);
    return (
      sum + (fields?.cache_control ? 1 : 0) + insideOf(fields).reduce((inner: number, list) => inner + marks(list), 0)
    );
  }, 0);
}

/** Where blocks may stand inside of a block. */
const insideOf = (block: Fields | undefined): readonly unknown[] => [block?.content, asFields(block?.source)?.content];

/**
 * What of a template does not vary. `varies` tells a block by its place (`system.0`). `ends`: the call brings tools or a
 * system of its own, and everything behind them is no longer the same.
 */
export function constantPart(
  { tools = [], system, messages }: { tools?: readonly unknown[]; system?: BlocksOrText; messages: readonly Message[] },
  varies: (path: string) => boolean,
  ends: "tools" | "system" | null,
): Constant {
  if (ends === "tools") return { tools: 0, system: 0, messages: [] };
  if (ends === "system") return { tools: tools.length, system: 0, messages: [] };
  const inSystem = leading(system ?? [], "system", varies);
  const lengths: number[] = [];
  if (inSystem === lengthOf(system ?? [])) {
    for (const [i, { content }] of messages.entries()) {
      lengths.push(leading(content, `messages.${i}.content`, varies));
      if (lengths[i] !== lengthOf(content)) break;
    }
  }
  return { tools: tools.length, system: inSystem, messages: lengths };
}

const lengthOf = (blocks: BlocksOrText): number => (typeof blocks === "string" ? 1 : blocks.length);

function leading(blocks: BlocksOrText, path: string, varies: (path: string) => boolean): number {
  if (typeof blocks === "string") return varies(path) ? 0 : 1;
  const first = blocks.findIndex((_, i) => varies(`${path}.${i}`));
  return first === -1 ? blocks.length : first;
}

/** The same prompt with the breakpoint, if there is room and a place for it. What it is given stays as it is. */
export function placeBreakpoint<P extends Prompt>(prompt: P, constant: Constant): P {
  if (ownBreakpoints(prompt) >= MAX_BREAKPOINTS) return prompt;
  for (const [i, length] of [...constant.messages.entries()].reverse()) {
    const message = prompt.messages[i];
    const hour = prompt.messages.slice(i).some((later, j) => hasHour(later.content, j === 0 ? length : 0));
    const content = message && marked(message.content, length, hour);
    if (content === "there") return prompt;
    if (message && content) return { ...prompt, messages: prompt.messages.with(i, { ...message, content }) };
  }
  const hourInMessages = prompt.messages.some(({ content }) => hasHour(content, 0));
  const system = marked(prompt.system, constant.system, hourInMessages || hasHour(prompt.system, constant.system));
  if (system === "there") return prompt;
  if (system) return { ...prompt, system };
  const tools = marked(prompt.tools, constant.tools, hourInMessages || hasHour(prompt.system, 0));
  return tools === "there" || !tools ? prompt : { ...prompt, tools };
}

/** The list with its last block that can be marked marked, among the first `length`. Null: there is none. */
function marked(blocks: unknown, length: number, hour: boolean): readonly Fields[] | "there" | null {
  const list: readonly unknown[] = typeof blocks === "string" ? [{ type: "text", text: blocks }] : asList(blocks);
  const at = list.slice(0, length).findLastIndex((block) => canBeMarked(asFields(block)));
  const block = asFields(list[at]);
  if (!block) return null;
  if (block.cache_control || insideOf(block).some(endsMarked)) return "there";
  const control = { type: "ephemeral", ...(hour && { ttl: "1h" }) };
  return list.with(at, { ...block, cache_control: control }) as readonly Fields[];
}

const endsMarked = (blocks: unknown): boolean => Boolean(asFields(asList(blocks).at(-1))?.cache_control);

const asList = (blocks: unknown): readonly unknown[] => (Array.isArray(blocks) ? blocks : []);

/** One that can have it, and no empty text; a tool that is looked up later is no part of the prefix. */
function canBeMarked(block: Fields | undefined): boolean {
  if (!block || block.defer_loading === true || UNMARKED.has(block.type)) return false;
  return block.type !== "text" || (typeof block.text === "string" && block.text.trim() !== "");
}

/** Whether a breakpoint from the block at `from` on lives for an hour. */
function hasHour(blocks: unknown, from: number): boolean {
  return asList(blocks)
    .slice(from)
    .some((block) => {
      const fields = asFields(block);
      return asFields(fields?.cache_control)?.ttl === "1h" || insideOf(fields).some((inner) => hasHour(inner, 0));
    });
}
