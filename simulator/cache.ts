/**
 * The prompt cache, by its published rules (wire notes §5.1): blocks in the order tools, system, messages; entries are
 * made at breakpoints only; a prompt hits the longest earlier entry whose blocks are exactly its own, looking at no more
 * than twenty blocks from a breakpoint backwards; a read renews the entry's life. Settings that a level depends on are
 * part of its key. Kept in the isolate's memory, one per credential, and gone with the isolate.
 */
import { Digest } from "./digest.ts";
import { type ApiError, invalid } from "./errors.ts";
import { asFields, asList, type Fields } from "./json.ts";
import type { Model } from "./models.ts";
import type { PromptBlock } from "./tokens.ts";

export const MAX_BREAKPOINTS = 4;
/** Blocks looked at from each breakpoint, itself included. */
export const LOOKBACK_BLOCKS = 20;
const TTL_MS = { "5m": 5 * 60_000, "1h": 60 * 60_000 } as const;
/** Entries kept by one isolate; those not written for longest go first. */
const MAX_ENTRIES = 20_000;

type Ttl = keyof typeof TTL_MS;
export type Breakpoint = { readonly at: number; readonly ttl: Ttl };

export type CacheUse = {
  readonly readTokens: number;
  readonly write5mTokens: number;
  readonly write1hTokens: number;
  /** Makes the entries usable: called when the answer begins. */
  readonly commit: () => void;
};

const NOTHING: CacheUse = { readTokens: 0, write5mTokens: 0, write1hTokens: 0, commit: () => {} };

/** Where the breakpoints of a request stand, or what is wrong with them. */
export function breakpointsOf(body: Fields, blocks: readonly PromptBlock[]): Breakpoint[] | ApiError {
  const found: Breakpoint[] = [];
  for (const [at, { value }] of blocks.entries()) {
    const control = asFields(value.cache_control);
    if (!control) continue;
    const wrong = wrongControl(control);
    if (wrong) return wrong;
    if (value.type === "thinking" || value.type === "redacted_thinking") {
      return invalid("cache_control cannot be set on thinking blocks");
    }
    if (value.type === "text" && value.text === "") {
      return invalid("cache_control cannot be set for empty text blocks");
    }
    found.push({ at, ttl: control.ttl === "1h" ? "1h" : "5m" });
  }
  const automatic = asFields(body.cache_control);
  if (automatic) {
    const wrong = wrongControl(automatic);
    if (wrong) return wrong;
    const last = blocks.findLastIndex(({ value }) => value.type !== "thinking" && value.type !== "redacted_thinking");
    if (last >= 0 && found.at(-1)?.at !== last) found.push({ at: last, ttl: automatic.ttl === "1h" ? "1h" : "5m" });
    found.sort((one, other) => one.at - other.at);
  }
  if (found.length > MAX_BREAKPOINTS) {
    return invalid(`A maximum of ${MAX_BREAKPOINTS} blocks with cache_control may be provided. Found ${found.length}.`);
  }
  const fiveMinutes = found.findIndex((breakpoint) => breakpoint.ttl === "5m");
  if (fiveMinutes !== -1 && found.slice(fiveMinutes).some((breakpoint) => breakpoint.ttl === "1h")) {
    return invalid("a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block.");
  }
  return found;
}

function wrongControl({ type, ttl }: Fields): ApiError | undefined {
  if (type !== "ephemeral") return invalid("cache_control.type: Input should be 'ephemeral'");
  if (ttl !== undefined && ttl !== null && ttl !== "5m" && ttl !== "1h") {
    return invalid("cache_control.ephemeral.ttl: Input should be '5m' or '1h'");
  }
  return undefined;
}

export class PromptCache {
  readonly #entries = new Map<string, { ttl: Ttl; expiresAt: number }>();

  /** What this prompt reads from the cache and writes to it. `now`: when the request began, in ms. */
  use(
    scope: string,
    model: Model,
    body: Fields,
    blocks: readonly PromptBlock[],
    breakpoints: readonly Breakpoint[],
    now: number,
  ): CacheUse {
    const last = breakpoints.at(-1);
    if (!last) return NOTHING;
    const prefix = prefixes(`${scope}|${model.id}`, body, blocks.slice(0, last.at + 1));
    const hit = this.#longest(prefix, breakpoints, now);
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
      commit: () => {
        const read = this.#entries.get(prefix[hit]?.key ?? "");
        if (read) read.expiresAt = now + TTL_MS[read.ttl];
        for (const { at, ttl } of toWrite) this.#write(prefix[at]?.key ?? "", ttl, now);
      },
    };
  }

  /** The place of the longest entry that can be read, or -1. */
  #longest(prefix: readonly { readonly key: string }[], breakpoints: readonly Breakpoint[], now: number): number {
    for (const { at: from } of breakpoints.toReversed()) {
      for (let at = from; at > from - LOOKBACK_BLOCKS && at >= 0; at--) {
        const entry = this.#entries.get(prefix[at]?.key ?? "");
        if (entry && entry.expiresAt > now) return at;
      }
    }
    return -1;
  }

  #write(key: string, ttl: Ttl, now: number): void {
    // Taken out first, so that the map's order is the order of the last writes.
    this.#entries.delete(key);
    if (this.#entries.size >= MAX_ENTRIES) this.#entries.delete(this.#entries.keys().next().value ?? "");
    this.#entries.set(key, { ttl, expiresAt: now + TTL_MS[ttl] });
  }
}

/** The cumulative key and size of the prompt after each of its blocks. */
function prefixes(scope: string, body: Fields, blocks: readonly PromptBlock[]): { key: string; tokens: number }[] {
  const digest = new Digest();
  let level = "tool";
  let tokens = 0;
  return blocks.map((block) => {
    if (level === "tool" && block.role !== "tool") {
      level = "system";
      digest.update(JSON.stringify(["speed", body.speed === "fast"]));
    }
    if (level === "system" && block.role !== "system") {
      level = "messages";
      const effort = asFields(body.output_config)?.effort ?? null;
      digest.update(JSON.stringify([body.tool_choice ?? null, body.thinking ?? null, effort, hasImage(body)]));
    }
    // Not sorted: the real cache, too, is lost when a client changes the order of its keys.
    digest.update(block.role + JSON.stringify({ ...block.value, cache_control: undefined }));
    tokens += block.tokens;
    return { key: `${scope}|${digest.hex}|${tokens}`, tokens };
  });
}

function hasImage(body: Fields): boolean {
  return (asList(body.messages) as readonly Fields[]).some((message) =>
    asList(message.content).some((block) => asFields(block)?.type === "image"),
  );
}
