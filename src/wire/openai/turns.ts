/**
 * The order of turns as Claude takes it. OpenAI lets a client write any roles in any order; Claude wants system text at the
 * front or at few places between, users and assistants in turn, nothing empty, and most models a user at the end.
 *
 * Afterwards the draft's leading `system` turn, if there is one, is the request's top-level `system`; `system` turns further
 * behind stay among the messages. Text is never lost, and the order of what one role says never changes.
 */
import type { ModelFacts } from "../anthropic/model-facts.ts";
import { asFields } from "../anthropic/usage.ts";
import type { Failure } from "../errors.ts";
import { isServerResult, isThinking } from "./blocks.ts";
import { type Block, type Draft, refuse, type Turn } from "./draft.ts";
import { saysSomething } from "./fields.ts";
import { isOn } from "./reasoning.ts";

/** What a user says where the client has left the last word to the assistant and the model wants to be asked. */
export const GO_ON = "Continue.";

/**
 * Drops what says nothing and finds each system turn its place: those at the front stay there. A later one goes to the front
 * too where the model knows no other place, which changes the prefix that caches and signed thinking depend on; else it
 * goes behind the user turns that follow it, tool results among them, because Claude takes it only after a user and before
 * an assistant or the end. Where no user stands before it or behind it, it becomes a user's text.
 */
export function placeSystem(draft: Draft, model: ModelFacts): Failure | null {
  const turns = withoutBlanks(draft.turns);
  const start = turns.findIndex(({ role }) => role !== "system");
  if (start < 0) {
    const last = turns.at(-1);
    if (!last) return refuse("At least one message must say something.", "messages");
    last.role = "user";
    draft.turns = turns;
    return null;
  }
  draft.turns = model.systemTurns ? placedBetween(turns, start) : placedInFront(turns, start);
  return null;
}

function placedInFront(turns: readonly Turn[], start: number): Turn[] {
  const rest = turns.slice(start);
  const later = rest.filter(({ role }) => role === "system");
  if (later.length === 0) return [...turns];
  return [...turns.slice(0, start), ...later, ...rest.filter(({ role }) => role !== "system")];
}

function placedBetween(turns: readonly Turn[], start: number): Turn[] {
  const placed = turns.slice(0, start);
  let waiting: Turn[] = [];
  const settle = (): void => {
    if (waiting.length === 0) return;
    const before = placed.at(-1);
    const native = before?.role === "user" || (before?.role === "assistant" && endsAtServer(before));
    for (const turn of waiting) placed.push(native ? turn : { role: "user", content: turn.content });
    waiting = [];
  };
  for (let i = start; i < turns.length; i++) {
    const turn = turns[i] as Turn;
    if (turn.role === "system") waiting.push(turn);
    else {
      if (turn.role === "assistant") settle();
      placed.push(turn);
    }
  }
  settle();
  return placed;
}

/** Whether the API takes a system turn right behind this assistant's. */
function endsAtServer({ content }: Turn): boolean {
  const last = content.at(-1);
  return last !== undefined && isServerResult(last) && !content.some(({ type }) => type === "tool_use");
}

/**
 * Drops texts without a word, in tool results too, thoughts that nothing follows ("The final block in an assistant message
 * cannot be `thinking`"), and turns that have nothing else.
 */
function withoutBlanks(turns: readonly Turn[]): Turn[] {
  const kept: Turn[] = [];
  for (const turn of turns) {
    turn.content = spoken(turn.content);
    const end = turn.content.findLastIndex((block) => !isThinking(block)) + 1;
    if (end < turn.content.length) turn.content = turn.content.slice(0, end);
    for (const block of turn.content) if (block.type === "tool_result") pruneResult(block);
    if (turn.content.length > 0) kept.push(turn);
  }
  return kept;
}

function pruneResult(block: Block): void {
  const { content } = block;
  if (Array.isArray(content)) {
    const blocks = spoken(content as Block[]);
    if (blocks.length > 0) block.content = blocks;
    else delete block.content;
  } else if (typeof content === "string" && !saysSomething(content)) delete block.content;
}

function spoken(blocks: Block[]): Block[] {
  if (!blocks.some(isBlank)) return blocks;
  const kept: Block[] = [];
  // The last one that can carry a breakpoint: looked for anew behind each of many blanks it would be looked for long.
  let last: Block | undefined;
  for (const block of blocks) {
    if (!isBlank(block)) {
      kept.push(block);
      if (!isThinking(block)) last = block;
    } else if (last && block.cache_control) last.cache_control ??= block.cache_control;
  }
  return kept;
}

const isBlank = ({ type, text }: Block): boolean => type === "text" && typeof text === "string" && !saysSomething(text);

/** Makes one turn of neighbours of one role, and puts an assistant's tool calls behind its text. Idempotent. */
export function mergeTurns(draft: Draft): null {
  const merged: Turn[] = [];
  for (const turn of draft.turns) {
    if (turn.content.length === 0) continue;
    const last = merged.at(-1);
    if (last?.role !== turn.role) merged.push({ role: turn.role, content: [...turn.content] });
    // Not spread into one call: a hundred thousand arguments are too many for it.
    else for (const block of turn.content) last.content.push(block);
  }
  for (const turn of merged) if (turn.role === "assistant") turn.content = callsLast(turn.content);
  draft.turns = merged;
  return null;
}

/** Thinking keeps its place, which its signature may depend on: a turn that thinks between its calls stays as it is. */
function callsLast(blocks: Block[]): Block[] {
  const first = blocks.findIndex(({ type }) => type === "tool_use");
  if (first < 0) return blocks;
  const behind = blocks.slice(first);
  if (behind.some(isThinking) || behind.every(({ type }) => type === "tool_use")) return blocks;
  const calls = behind.filter(({ type }) => type === "tool_use");
  return [...blocks.slice(0, first), ...behind.filter(({ type }) => type !== "tool_use"), ...calls];
}

/**
 * Sees to it that the list may end as it does. Where the assistant has the last word, a model that takes it goes on from
 * there, its last text trimmed as the API wants it; any other is told to go on. An effort gives way to that (`fitReasoning`),
 * the client's own `thinking` does not.
 */
export function endTurns(draft: Draft, model: ModelFacts): null {
  const turn = draft.turns.at(-1);
  const last = turn?.content.at(-1);
  if (turn?.role !== "assistant" || !last) return null;
  // What a server tool has left unfinished is gone on with by sending it back as it is.
  if (last.type === "server_tool_use" || isServerResult(last)) return null;
  // Neither thinking nor an output format goes with words put into the assistant's mouth.
  if (
    last.type === "text" &&
    model.prefill &&
    !isOn(asFields(draft.extra.thinking)) &&
    draft.format.kind !== "json_schema"
  ) {
    last.text = String(last.text).trimEnd();
  } else draft.turns.push({ role: "user", content: [{ type: "text", text: GO_ON }] });
  return null;
}
