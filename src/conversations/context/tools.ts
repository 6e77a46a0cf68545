/**
 * Calls of the client's tools, and the results that are awaited for them. Claude takes the results of one answer in one
 * message, each of its calls answered once; clients may send them one by one. Pure.
 */
import type { Content, ContentBlock } from "../../../clients/typescript/protocol.ts";
import { err, ok, type Result } from "../../result.ts";
import { asText } from "../../wire/anthropic/usage.ts";
import type { Failure } from "../../wire/errors.ts";
import type { Incoming } from "../protocol.ts";
import type { Path } from "../tree.ts";
import { blocksOf, callOf, idOf, isCall, isResult } from "./blocks.ts";

/** Ids that an error names at most. */
const MAX_NAMED = 20;

/** Ids of the calls of a path's last answer, in their order. None where it is no whole answer, or Claude refused to go on. */
export function awaitingResults({ messages }: Pick<Path, "messages">): readonly string[] {
  const last = messages.at(-1);
  if (last?.role !== "assistant" || last.incomplete || last.stopReason === "refusal") return [];
  return blocksOf(last.content).filter(isCall).map(idOf);
}

/** A result that is kept until the others of its answer are there. `block`: its JSON. */
export type HeldResult = { readonly id: string; readonly block: string };

export type Checked =
  /** It can be said now. Null: there is nothing to say (`regenerate`). */
  | { readonly kind: "complete"; readonly content: Content | null }
  | { readonly kind: "partial"; readonly results: readonly HeldResult[]; readonly awaiting: readonly string[] };

/**
 * Whether a message may come now. `awaiting`: all calls of the answer that it follows, of an edited message those before
 * it; `held`: results that have come for them. When the last result is there the message is all of them in the order of the
 * calls, and the words behind.
 */
export function checkIncoming(
  { content, regenerate }: Pick<Incoming, "content" | "regenerate">,
  awaiting: readonly string[],
  held: readonly HeldResult[],
): Result<Checked, Failure> {
  if (content === null || regenerate !== null) return ok({ kind: "complete", content: null });
  const blocks = blocksOf(content);
  const results = new Map<string, ContentBlock>();
  const known = new Set(awaiting);
  const before = new Set(held.map(({ id }) => id));
  for (const block of blocks.filter(isResult)) {
    const id = callOf(block);
    if (!known.has(id)) return refuse(unknownCall(block, awaiting));
    if (before.has(id) || results.has(id)) return refuse(`The call ${named([id])} has its result already.`);
    results.set(id, block);
  }
  if (awaiting.length === 0) return ok({ kind: "complete", content });
  const missing = awaiting.filter((id) => !before.has(id) && !results.has(id));
  const words = blocks.filter((block) => !isResult(block));
  if (results.size === 0) {
    return refuse(
      `Results are awaited for the tool calls ${named(missing)}: send a tool_result block for each of them.`,
    );
  }
  if (blocks.slice(0, results.size).some((block) => !isResult(block))) {
    return refuse("The tool_result blocks of a message come first, before all else in it.");
  }
  if (missing.length === 0) return ok({ kind: "complete", content: [...inOrder(awaiting, held, results), ...words] });
  if (words.length > 0) {
    return refuse(`Nothing can be said before all results are there. Still awaited: ${named(missing)}.`);
  }
  const kept = [...results].map(([id, block]) => ({ id, block: JSON.stringify(block) }));
  return ok({ kind: "partial", results: kept, awaiting: missing });
}

function inOrder(
  calls: readonly string[],
  held: readonly HeldResult[],
  results: ReadonlyMap<string, ContentBlock>,
): ContentBlock[] {
  const kept = new Map(held.map(({ id, block }) => [id, block]));
  return calls.flatMap((id) => {
    const stored = kept.get(id);
    const result = stored === undefined ? results.get(id) : (JSON.parse(stored) as ContentBlock);
    return result ?? [];
  });
}

function unknownCall(block: ContentBlock, awaiting: readonly string[]): string {
  const of = asText(block.tool_use_id);
  const said =
    of === null ? "A tool_result block has no tool_use_id" : `No result is awaited for the tool call ${named([of])}`;
  return awaiting.length === 0 ? `${said}.` : `${said}; those awaited are ${named(awaiting)}.`;
}

function named(ids: readonly string[]): string {
  const shown = ids.slice(0, MAX_NAMED).map((id) => `\`${id.slice(0, 100)}\``);
  return ids.length > MAX_NAMED ? `${shown.join(", ")} and ${ids.length - MAX_NAMED} more` : shown.join(", ");
}

function refuse(message: string): Result<never, Failure> {
  return err({ kind: "invalid_request", message });
}
