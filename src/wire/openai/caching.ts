/** Where a prompt may be cached: the client's own breakpoints, and the automatic one that OpenAI's clients expect (OpenAI notes §3.8). */
import { asFields } from "../anthropic/usage.ts";
import type { CacheControl, Draft, Step, ToolDraft } from "./draft.ts";

/** What the API takes, the automatic one included; a fifth is a 400. */
const MAX_BREAKPOINTS = 4;

/** A place that has a breakpoint. */
type Breakpoint = { readonly remove: () => void };

/**
 * Keeps the last four breakpoints in the order of the cached prefix: tools, system, messages. The automatic one is added where
 * there is room for it and the end of the prompt has none: a client that sets four itself knows what it is doing, and one on
 * the last block already is where the automatic one would be.
 */
export const fitCaching: Step = (draft) => {
  const breakpoints = [...draft.tools.flatMap(onTool), ...draft.turns.flatMap(({ content }) => onBlocks(content))];
  for (const { remove } of breakpoints.slice(0, Math.max(0, breakpoints.length - MAX_BREAKPOINTS))) remove();
  const wanted = topLevel(draft);
  if (wanted && breakpoints.length < MAX_BREAKPOINTS && !endsWithBreakpoint(draft)) draft.body.cacheControl = wanted;
  return null;
};

function topLevel({ caching, extra }: Draft): CacheControl | null {
  return asCacheControl(extra.cache_control) ?? (caching === "automatic" ? { type: "ephemeral" } : null);
}

function endsWithBreakpoint({ turns }: Draft): boolean {
  return turns.at(-1)?.content.at(-1)?.cache_control !== undefined;
}

function onTool(tool: ToolDraft): Breakpoint[] {
  const { definition } = tool;
  if (!definition) return tool.cacheControl ? [{ remove: () => (tool.cacheControl = null) }] : [];
  if (!definition.cache_control) return [];
  const { cache_control: _, ...rest } = definition;
  return [{ remove: () => (tool.definition = rest) }];
}

/** Results of tools have blocks inside, which may have breakpoints of their own. Thinking takes none. */
function onBlocks(blocks: readonly unknown[]): Breakpoint[] {
  const found: Breakpoint[] = [];
  for (const item of blocks) {
    const block = asFields(item) as Record<string, unknown> | undefined;
    if (!block) continue;
    if (Array.isArray(block.content)) for (const inner of onBlocks(block.content)) found.push(inner);
    if (block.cache_control === undefined) continue;
    const cacheControl = asCacheControl(block.cache_control);
    if (!cacheControl || block.type === "thinking" || block.type === "redacted_thinking") delete block.cache_control;
    else {
      block.cache_control = cacheControl;
      found.push({ remove: () => delete block.cache_control });
    }
  }
  return found;
}

/** The client's words, where they are ones that Claude knows. */
function asCacheControl(value: unknown): CacheControl | null {
  const { type, ttl } = asFields(value) ?? {};
  if (type !== "ephemeral") return null;
  return ttl === "5m" || ttl === "1h" ? { type, ttl } : { type };
}
