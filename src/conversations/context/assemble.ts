/**
 * The Messages body for a path of a conversation, valid whatever its history went through: answers that were cancelled or
 * cut off, calls that nobody answered, other models, other accounts, edits, cuts. Pure, and the same to the byte for the
 * same path, so that the prompt cache finds on every turn what it was shown on the one before.
 *
 * What becomes of a message depends on nothing but the messages before it and the results behind its own calls. So what
 * stood before an answer stands there in every later request too, and the answer's thinking, which is signed over it, holds;
 * until a cut. That changes what stands before all answers that were there already, and their thinking goes for good.
 */
import type { ContentBlock, Options } from "../../../clients/typescript/protocol.ts";
import { err, ok, type Result } from "../../result.ts";
import { type ModelFacts, modelFacts } from "../../wire/anthropic/model-facts.ts";
import { asFields } from "../../wire/anthropic/usage.ts";
import type { Failure } from "../../wire/errors.ts";
import { wellFormedJson } from "../../wire/json.ts";
import { versionFor } from "../../wire/openai/messages-body.ts";
import { BINDING_BETA, DROP_BLOCK, isSameModel } from "../../wire/openai/thinking.ts";
import type { Spec } from "../protocol.ts";
import type { Path, StoredCut, StoredMessage } from "../tree.ts";
import {
  blocksOf,
  callOf,
  idOf,
  innerBlocks,
  isBlank,
  isCall,
  isResult,
  isThinking,
  type SentTurn,
  standing,
} from "./blocks.ts";
import { placeBreakpoints } from "./caching.ts";
import { askedFor, withOptions } from "./options.ts";

export type Assembled = {
  readonly body: Uint8Array;
  /** `anthropic-version`, `anthropic-beta`. */
  readonly headers: Readonly<Record<string, string>>;
  readonly hasThinking: boolean;
  /** Who signed it. Null: unknown, or there is none. */
  readonly thoughtsOf: string | null;
};

type More = {
  readonly stream: boolean;
  /** What an answer that paused has said so far; it is gone on with. */
  readonly continued?: readonly ContentBlock[];
  /** The organization that signed the thinking in it. */
  readonly continuedBy?: string | null;
  /** For count_tokens: without what that takes no notice of. */
  readonly counting?: boolean;
};

/** Said to the model before a summary. */
const SUMMARY_INTRO = "[Summary of the earlier part of this conversation]\n";

const SAMPLING = ["temperature", "top_p", "top_k"];
/** What count_tokens takes (wire notes §5.1). */
const COUNTED = new Set([
  ...["model", "system", "messages", "tools", "tool_choice", "thinking", "output_config", "cache_control"],
  ...["mcp_servers", "context_management", "output_format", "speed"],
]);

const encoder = new TextEncoder();

/** And the answer that it is. Null: the user's, or what an answer says that is gone on with. */
type Turn = SentTurn & { readonly answer: StoredMessage | null };

/** The body that answers a path's last message, or goes on with `continued`. Refuses a path without a message to answer. */
export function assemble(spec: Spec, options: Options, path: Path, more: More): Result<Assembled, Failure> {
  const { fields, betas } = askedFor(spec, options);
  const { model } = withOptions(spec, options);
  const facts = modelFacts(model);
  const { continued = [], continuedBy = null } = more;

  const thinks = isThinkingOn(fields, facts);
  const thoughts = thoughtsToKeep(path, continued, continuedBy, (message) => thinks && isFrom(message, model));
  const turns = merged(withoutThoughts(turnsOf(path, continued), thoughts.from));
  if (turns.at(-1)?.role !== (continued.length > 0 ? "assistant" : "user")) {
    return refuse("There is no message to answer: the last one says nothing.");
  }
  const hasThinking = turns.some(({ content }) => content.some(isThinking));
  const bound = facts.boundThinking && thinks ? boundThinking(asFields(fields.thinking), hasThinking) : null;
  const { thinking: own, ...others } = fields;
  const thinking = bound ?? (asFields(own)?.type === "enabled" && endsBare(turns) ? undefined : own);
  const system = spec.system === null ? [] : blocksOf(spec.system).filter((block) => !isBlank(block));
  const tools = Array.isArray(fields.tools) ? fields.tools : [];
  const marked = placeBreakpoints({ tools, system, turns }, fields.cache_control);
  const body: Record<string, unknown> = {
    ...others,
    ...(marked.tools.length > 0 && { tools: marked.tools }),
    ...(thinking !== undefined && { thinking }),
    ...(system.length > 0 && { system: marked.system }),
    messages: marked.turns,
    ...(more.stream && { stream: true }),
  };
  const allBetas = bound ? [...new Set([...betas, BINDING_BETA])] : betas;
  return ok({
    body: encoder.encode(wellFormedJson(more.counting ? counted(body) : body)),
    headers: {
      "anthropic-version": versionFor(SAMPLING.some((name) => fields[name] !== undefined)),
      ...(allBetas.length > 0 && { "anthropic-beta": allBetas.toSorted().join(",") }),
    },
    hasThinking,
    thoughtsOf: hasThinking ? thoughts.organization : null,
  });
}

/** Messages that the model sees. */
export function keptMessages({ messages, cut }: Path): readonly StoredMessage[] {
  return cut === null ? messages : messages.slice(messages.findIndex(({ id }) => id === cut.through) + 1);
}

/** Whether an answer was made from what stands before it now, the newest cut being what it is. */
export function isMadeUnder(cut: StoredCut | null, { turn, createdAt }: StoredMessage): boolean {
  return cut === null || turn === cut.turn || createdAt > cut.createdAt;
}

/** Messages with what can stand of them, still one turn each. */
function turnsOf(path: Path, continued: readonly ContentBlock[]): Turn[] {
  const messages = keptMessages(path);
  const summary = path.cut?.summary;
  const turns: Turn[] = [];
  if (summary) turns.push({ role: "user", content: [{ type: "text", text: SUMMARY_INTRO + summary }], answer: null });
  const served = new Set<string>();
  let open = new Set<string>();
  for (const [i, message] of messages.entries()) {
    const blocks = blocksOf(message.content);
    if (message.role === "user") {
      const content = blocks.flatMap((block) => said(block, open));
      turns.push({ role: "user", content, answer: null });
      continue;
    }
    const answered = resultsBehind(messages, i);
    // Taken out, so that of two calls of one id only the first is answered.
    const content = standing(blocks, { isAnswered: (id) => answered.delete(id), served });
    open = new Set(content.filter(isCall).map(idOf));
    turns.push({ role: "assistant", content, answer: message });
  }
  if (continued.length > 0) {
    const content = standing(continued, { isAnswered: () => false, paused: true, served });
    turns.push({ role: "assistant", content, answer: null });
  }
  return turns;
}

/** Calls that have a result before the next answer. */
function resultsBehind(messages: readonly StoredMessage[], at: number): Set<string> {
  const ids = new Set<string>();
  for (let i = at + 1; messages[i]?.role === "user"; i++) {
    for (const block of blocksOf(messages[i]?.content ?? "")) if (isResult(block)) ids.add(callOf(block));
  }
  return ids;
}

/** A user's block: nothing where it says nothing, or is no result of an open call. */
function said(block: ContentBlock, open: Set<string>): ContentBlock[] {
  if (isBlank(block) || (isResult(block) && !open.delete(callOf(block)))) return [];
  if (!isResult(block)) return [block];
  const { content, ...rest } = block;
  if (!Array.isArray(content)) return [block];
  const blank = new Set<unknown>(innerBlocks(block).filter(isBlank));
  const inner = content.filter((one) => !blank.has(one));
  if (inner.length === content.length && inner.length > 0) return [block];
  return [inner.length === 0 ? rest : { ...rest, content: inner }];
}

type Thoughts = { readonly from: ReadonlySet<StoredMessage | null>; readonly organization: string | null };

/** Answers whose thinking goes back: those of one organization, the newest one's, since none reads another's. */
function thoughtsToKeep(
  path: Path,
  continued: readonly ContentBlock[],
  continuedBy: string | null,
  mayStand: (message: StoredMessage) => boolean,
): Thoughts {
  const answers = keptMessages(path).filter(
    (message) =>
      message.role === "assistant" &&
      isMadeUnder(path.cut, message) &&
      blocksOf(message.content).some(isThinking) &&
      mayStand(message),
  );
  const goesOn = continued.some(isThinking);
  // Where an answer was cut off nobody may know: that one gives way, lest those of the others come and go with it.
  const newest = answers.findLast((answer) => answer.organization !== null)?.organization ?? null;
  const organization = (goesOn ? continuedBy : null) ?? newest;
  const from = new Set<StoredMessage | null>(answers.filter((answer) => answer.organization === organization));
  if (goesOn) from.add(null);
  return { from, organization };
}

function isFrom({ model }: StoredMessage, asked: string): boolean {
  return model !== null && isSameModel(model, asked);
}

/** Leaves thinking in these answers only, and nowhere at the end of one, where it can't be. */
function withoutThoughts(turns: readonly Turn[], from: Thoughts["from"]): Turn[] {
  return turns.map((turn) => {
    const { role, content, answer } = turn;
    if (role === "user" || !content.some(isThinking)) return turn;
    if (!from.has(answer)) return { ...turn, content: content.filter((block) => !isThinking(block)) };
    // What another model had begun (`fallback`) it has thought itself.
    const other = content.findLastIndex(({ type }) => type === "fallback");
    const end = content.findLastIndex((block) => !isThinking(block)) + 1;
    return { ...turn, content: content.slice(0, end).filter((block, i) => i > other || !isThinking(block)) };
  });
}

/** Neighbours of one role as one turn, results of tools before all else in it, and nothing empty. */
function merged(turns: readonly Turn[]): SentTurn[] {
  const joined: { role: SentTurn["role"]; content: ContentBlock[] }[] = [];
  for (const { role, content } of turns) {
    if (content.length === 0) continue;
    const last = joined.at(-1);
    if (last?.role !== role) joined.push({ role, content: [...content] });
    // Not spread into one call: a hundred thousand arguments are too many for it.
    else for (const block of content) last.content.push(block);
  }
  return joined.map(({ role, content }) => {
    const inOrder = role === "assistant" || !content.some(isResult);
    if (inOrder) return { role, content };
    return { role, content: [...content.filter(isResult), ...content.filter((block) => !isResult(block))] };
  });
}

/** Whether the request may think. Where it may not, it needs no thinking back. */
function isThinkingOn(fields: Readonly<Record<string, unknown>>, facts: ModelFacts): boolean {
  const choice = asFields(fields.tool_choice)?.type;
  if (choice === "any" || choice === "tool") return false;
  const asked = asFields(fields.thinking);
  return asked ? asked.type !== "disabled" : facts.thinksByDefault;
}

/**
 * For models that bind thinking to what stood before it. That the messages there are the same is our care; system and tools
 * may have been changed since: such thinking is to be left out upstream, in place of a 400. Asked for whenever the request
 * itself is about thinking, so that the cached prefix does not depend on whether there is some.
 */
function boundThinking(asked: Readonly<Record<string, unknown>> | undefined, hasThinking: boolean) {
  if (asked ? asked.type !== "adaptive" : !hasThinking) return null;
  return { block_binding: DROP_BLOCK, ...(asked ?? { type: "adaptive" }) };
}

/** A budget goes with thinking before the last calls only ("Expected `thinking` or `redacted_thinking`"). */
function endsBare(turns: readonly SentTurn[]): boolean {
  const content = turns.findLast(({ role }) => role === "assistant")?.content ?? [];
  return content.some(isCall) && !content.some(isThinking);
}

function counted(body: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> {
  return Object.fromEntries(Object.entries(body).filter(([name]) => COUNTED.has(name)));
}

function refuse(message: string): Result<never, Failure> {
  return err({ kind: "invalid_request", message });
}
