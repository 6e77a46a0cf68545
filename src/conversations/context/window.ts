/**
 * Keeps a conversation within what its model takes. Sizes are upstream's own counts: what the last call counted, and
 * count_tokens where what is new could exceed the limit. Only how far back a cut must reach is reckoned here, and whatever
 * comes of it is counted again. Pure.
 *
 * A cut reaches far back at once, so that the prefix then stays the same, and cached, for many turns. It falls in front of
 * a user's own words only: calls stay with their results.
 */
import type { ContentBlock } from "../../../clients/typescript/protocol.ts";
import { KNOWN_MODELS } from "../../wire/anthropic/model-facts.ts";
import { asFields } from "../../wire/anthropic/usage.ts";
import type { Failure } from "../../wire/errors.ts";
import { isSameModel } from "../../wire/openai/thinking.ts";
import type { Spec } from "../protocol.ts";
import type { Path, StoredMessage } from "../tree.ts";
import { isMadeUnder, keptMessages } from "./assemble.ts";
import { blocksOf, innerBlocks, isResult } from "./blocks.ts";

/** Larger bodies are not sent: the platform's limit on a request to upstream is 32 MB, and an isolate holds several. */
export const MAX_ASSEMBLED_BYTES = 16 * 1024 * 1024;
/** How much of the limit a cut leaves. */
const CUT_TO = 0.6;
/** Of a model that no table has: all newer ones hold as much. */
const USUAL_CONTEXT_TOKENS = 1_000_000;
/** For reckoning what nobody counts: of a text, by and large; and what an image or a page costs. */
const BYTES_PER_TOKEN = 3;
const MEDIA_TOKENS = 1_600;

export type ContextPlan =
  | { readonly kind: "fits" }
  | { readonly kind: "measure" }
  /** `messages`: how many go now, `through` being the last of them. */
  | { readonly kind: "cut"; readonly through: string; readonly messages: number; readonly tokensBefore: number }
  | { readonly kind: "refuse"; readonly failure: Failure };

/** What a model that a table has can hold. */
export function contextTokens(model: string): number | undefined {
  return KNOWN_MODELS.find(({ id }) => isSameModel(id, model))?.max_input_tokens;
}

/** The most tokens that a prompt may have. `spec`: as the message sees it (`withOptions`). */
export function maxInputTokens({ model, maxTokens, context }: Spec): number {
  const holds = contextTokens(model) ?? USUAL_CONTEXT_TOKENS;
  if (context.max_input_tokens !== null) return Math.min(context.max_input_tokens, holds);
  return Math.max(1, holds - maxTokens);
}

/**
 * What to do before a call. `assembledBytes`: of its body; `measured`: what count_tokens says of that, null as long as
 * nobody asked. Asked again after a cut, with the path as it is then, and `measured` null. Every cut is behind the one
 * before, so it comes to an end.
 */
export function planContext(spec: Spec, path: Path, assembledBytes: number, measured: number | null): ContextPlan {
  const { strategy } = spec.context;
  if (assembledBytes > MAX_ASSEMBLED_BYTES) {
    const tooLarge: ContextPlan = {
      kind: "refuse",
      failure: { kind: "request_too_large", limitBytes: MAX_ASSEMBLED_BYTES },
    };
    if (strategy === "none") return tooLarge;
    const bytes = keptMessages(path).map(bytesOf);
    const tokens = measured ?? lastCount(spec, path)?.tokens ?? 0;
    return cutTo(spec, path, bytes, assembledBytes, MAX_ASSEMBLED_BYTES, tokens) ?? tooLarge;
  }
  if (strategy === "none") return { kind: "fits" };
  const limit = maxInputTokens(spec);
  if (measured === null) return couldExceed(spec, path, assembledBytes, limit) ? { kind: "measure" } : { kind: "fits" };
  if (measured <= limit) return { kind: "fits" };
  const tokens = tokensOf(path, measured, assembledBytes);
  return (
    cutTo(spec, path, tokens, measured, limit, measured) ?? { kind: "refuse", failure: tooLong(spec, measured, limit) }
  );
}

/**
 * What a prompt takes where upstream can't be asked: its last count, and the rest reckoned. A guess to go by, and no reason
 * to refuse a message.
 */
export function reckonedTokens(spec: Spec, path: Path, assembledBytes: number): number {
  const counted = lastCount(spec, path);
  const fresh = counted?.behind ?? keptMessages(path);
  const around = counted ? 0 : assembledBytes - keptMessages(path).reduce((sum, message) => sum + bytesOf(message), 0);
  const tokens = fresh.reduce((sum, { content }) => sum + reckoned(blocksOf(content)), 0);
  return Math.ceil((counted?.tokens ?? 0) + Math.max(0, around) / BYTES_PER_TOKEN + tokens);
}

function reckoned(blocks: readonly ContentBlock[]): number {
  let media = 0;
  const text = JSON.stringify(blocks, (name, value) => {
    if (name !== "source") return value;
    media++;
    return null;
  });
  return encoder.encode(text).length / BYTES_PER_TOKEN + media * MEDIA_TOKENS;
}

/** The newest count of what is sent now, and the messages behind it. Another model counts otherwise. */
function lastCount(
  { model }: Spec,
  path: Path,
): { readonly tokens: number; readonly behind: readonly StoredMessage[] } | null {
  const kept = keptMessages(path);
  const isCounted = (message: StoredMessage): boolean =>
    message.tokensThrough !== null && message.model !== null && isSameModel(message.model, model);
  const at = kept.findLastIndex((message) => isCounted(message) && isMadeUnder(path.cut, message));
  const tokens = kept[at]?.tokensThrough;
  return typeof tokens === "number" ? { tokens, behind: kept.slice(at + 1) } : null;
}

/**
 * Whether the prompt could be too long, at a token for every byte that nobody has counted yet. System prompt, tools and
 * options may be others than when it was counted.
 */
function couldExceed(spec: Spec, path: Path, assembledBytes: number, limit: number): boolean {
  const counted = lastCount(spec, path);
  const fresh = counted?.behind ?? keptMessages(path);
  if (fresh.some(({ content }) => hasHiddenSize(blocksOf(content)))) return true;
  if (assembledBytes <= limit) return false;
  if (counted === null) return true;
  const around = sizeOf([spec.system, spec.tools, spec.options]);
  return counted.tokens + around + fresh.reduce((sum, message) => sum + bytesOf(message), 0) > limit;
}

/** Media that may be any number of tokens: pages of a document, and what upstream itself fetches. */
function hasHiddenSize(blocks: readonly ContentBlock[]): boolean {
  return blocks.some((block) => {
    if (block.type === "container_upload") return true;
    if (hasHiddenSize(innerBlocks(block))) return true;
    const source = asFields(block.source);
    if (source === undefined || source.type === "text" || source.type === "content") return false;
    return !(block.type === "image" && source.type === "base64");
  });
}

const encoder = new TextEncoder();

/** As it is sent: what its frame has in bytes more than pays for what it costs in tokens. */
function bytesOf({ content }: StoredMessage): number {
  return sizeOf(blocksOf(content));
}

function sizeOf(value: unknown): number {
  return encoder.encode(JSON.stringify(value)).length;
}

/**
 * Tokens of each message that is kept: differences of upstream's counts where there are some, shared out by bytes among the
 * messages between two counts.
 */
function tokensOf(path: Path, total: number, assembledBytes: number): number[] {
  const kept = keptMessages(path);
  const bytes = kept.map(bytesOf);
  const perByte = total / Math.max(1, assembledBytes);
  const tokens = bytes.map((one) => one * perByte);
  let from = -1;
  let before: number | null = null;
  const share = (to: number, through: number): void => {
    const counted = before === null ? 0 : through - before;
    const all = bytes.slice(from + 1, to + 1).reduce((sum, one) => sum + one, 0);
    // Without a count before it, or with one from before a cut, bytes must do.
    if (counted > 0) for (let i = from + 1; i <= to; i++) tokens[i] = (counted * (bytes[i] ?? 0)) / Math.max(1, all);
    from = to;
    before = through;
  };
  for (const [i, { tokensThrough }] of kept.entries()) if (tokensThrough !== null) share(i, tokensThrough);
  if (path.cut === null || kept.some((message) => isMadeUnder(path.cut, message) && message.tokensThrough !== null)) {
    share(kept.length - 1, total);
  }
  return tokens;
}

/** The first cut that leaves little enough, else the last one there is; null: there is none. */
function cutTo(
  spec: Spec,
  path: Path,
  sizes: readonly number[],
  total: number,
  limit: number,
  tokensBefore: number,
): ContextPlan | null {
  const kept = keptMessages(path);
  const places = placesToCut(kept, spec.context.keep_turns);
  let left = total;
  let at = 0;
  let chosen: number | null = null;
  for (const place of places) {
    for (; at < place; at++) left -= sizes[at] ?? 0;
    chosen = place;
    if (left <= limit * CUT_TO) break;
  }
  const through = chosen === null ? undefined : kept[chosen - 1];
  if (chosen === null || through === undefined) return null;
  return { kind: "cut", through: through.id, messages: chosen, tokensBefore };
}

/** Messages that a history may begin with, oldest first: a user's own words, the newest turns all being behind them. */
function placesToCut(kept: readonly StoredMessage[], keepTurns: number): number[] {
  const places: number[] = [];
  let turns = 0;
  // A turn is what one message of the user begins; whoever had it answered anew has begun no other.
  for (let i = kept.length - 1; i > 0; i--) {
    const message = kept[i];
    if (message?.role !== "user") continue;
    turns++;
    if (turns >= keepTurns && !blocksOf(message.content).some(isResult)) places.push(i);
  }
  return places.reverse();
}

function tooLong({ context: { keep_turns: turns } }: Spec, measured: number, limit: number): Failure {
  const message =
    `The newest ${turns === 1 ? "turn" : `${turns} turns`}, which always stay, and what they need are ${measured} tokens ` +
    `together with the system prompt and the tools; this conversation's context takes ${limit} (context.max_input_tokens).`;
  return { kind: "invalid_request", message };
}
