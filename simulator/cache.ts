/**
 * The prompt cache, by its published rules (wire notes §5.1): blocks in the order tools, system, messages; entries are
 * made at breakpoints only; a prompt hits the longest earlier entry whose blocks are exactly its own, looking back at
 * most twenty blocks from a breakpoint; a read renews the entry's life. Kept in the isolate's memory, per workspace.
 */

import { type ApiError, invalid } from "./errors.ts";
import { asFields, type Fields } from "./json.ts";
import type { Model } from "./models.ts";
import type { PromptBlock } from "./tokens.ts";

const MAX_BREAKPOINTS = 4;
const LOOKBACK_BLOCKS = 20;
const TTL_MS = { "5m": 5 * 60_000, "1h": 60 * 60_000 } as const;
/** Entries kept by one isolate; the oldest go first. */
const MAX_ENTRIES = 20_000;

type Ttl = keyof typeof TTL_MS;
type Breakpoint = { readonly at: number; readonly ttl: Ttl };

export type CacheUse = {
  readonly readTokens: number;
  readonly write5mTokens: number;
  readonly write1hTokens: number;
  /** Makes the entries usable: called when the answer begins. */
  readonly commit: () => void;
};

const entries = new Map<string, { ttl: Ttl; expiresAt: number }>();
const NOTHING: CacheUse = { readTokens: 0, write5mTokens: 0, write1hTokens: 0, commit: () => {} };

/** Where the breakpoints of a request stand, or what is wrong with them. */
export function breakpointsOf(body: Fields, blocks: readonly PromptBlock[]): Breakpoint[] | ApiError {
  const found: Breakpoint[] = [];
  for (const [at, block] of blocks.entries()) {
    const control = asFields(block.value.cache_control);
    if (control) found.push({ at, ttl: control.ttl === "1h" ? "1h" : "5m" });
  }
  const automatic = asFields(body.cache_control);
  const last = blocks.length - 1;
  if (automatic && last >= 0 && found.at(-1)?.at !== last) {
    found.push({ at: last, ttl: automatic.ttl === "1h" ? "1h" : "5m" });
  }
  if (found.length > MAX_BREAKPOINTS) {
    return invalid(`A maximum of 4 blocks with cache_control may be provided. Found ${found.length}.`);
  }
  const fiveMinutes = found.findIndex((breakpoint) => breakpoint.ttl === "5m");
  if (fiveMinutes !== -1 && found.slice(fiveMinutes).some((breakpoint) => breakpoint.ttl === "1h")) {
    return invalid("a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block.");
  }
  return found;
}

/** What this prompt reads from the cache and writes to it. */
export function useCache(
  scope: string,
  model: Model,
  blocks: readonly PromptBlock[],
  breakpoints: readonly Breakpoint[],
  now: number,
): CacheUse {
  const last = breakpoints.at(-1);
  if (!last) return NOTHING;
  const prefix: { key: string; tokens: number }[] = [];
  let hash = 0x811c9dc5;
  let second = 0x1b873593;
  let tokens = 0;
  for (const block of blocks.slice(0, last.at + 1)) {
    const text = `${block.role}${JSON.stringify({ ...block.value, cache_control: undefined })}`;
    for (let i = 0; i < text.length; i++) {
      const code = text.charCodeAt(i);
      hash = Math.imul(hash ^ code, 0x01000193);
      second = Math.imul(second + code, 0xcc9e2d51) ^ (second >>> 15);
    }
    tokens += block.tokens;
    prefix.push({ key: `${scope}|${model.id}|${hash}|${second}|${tokens}`, tokens });
  }
  let hit = -1;
  for (const breakpoint of [...breakpoints].reverse()) {
    for (let at = breakpoint.at; at >= Math.max(0, breakpoint.at - LOOKBACK_BLOCKS) && hit < 0; at--) {
      const entry = entries.get(prefix[at]?.key ?? "");
      if (entry && entry.expiresAt > now) hit = at;
    }
    if (hit >= 0) break;
  }
  const tokensAt = (at: number): number => prefix[at]?.tokens ?? 0;
  const written = { "5m": 0, "1h": 0 };
  let from = tokensAt(hit);
  const toWrite: Breakpoint[] = [];
  for (const breakpoint of breakpoints) {
    const upTo = tokensAt(breakpoint.at);
    if (breakpoint.at <= hit || upTo < model.minCacheTokens) continue;
    written[breakpoint.ttl] += upTo - from;
    from = upTo;
    toWrite.push(breakpoint);
  }
  return {
    readTokens: tokensAt(hit),
    write5mTokens: written["5m"],
    write1hTokens: written["1h"],
    commit() {
      const read = entries.get(prefix[hit]?.key ?? "");
      if (read) read.expiresAt = now + TTL_MS[read.ttl];
      for (const { at, ttl } of toWrite) {
        if (entries.size >= MAX_ENTRIES) entries.delete(entries.keys().next().value ?? "");
        entries.set(prefix[at]?.key ?? "", { ttl, expiresAt: now + TTL_MS[ttl] });
      }
    },
  };
}
