/**
 * Thinking for clients that drop it. The API wants an assistant's thinking back, to the letter and in its place, while
 * the tools that it called are answered; OpenAI's clients have no field for it. So a turn is remembered by the ids of its
 * tool calls, and put back where the client's history lacks it. Pure: who remembers is `openai/memory.ts`.
 *
 * Tool calls stay the client's own blocks: what it says of them is what counts, under the names that it uses.
 */
import type { ModelFacts } from "../anthropic/model-facts.ts";
import { asFields, asText } from "../anthropic/usage.ts";
import { isSigned, isThinking } from "./blocks.ts";
import type { Block, CacheControl, Draft, Fields, Step, Turn } from "./draft.ts";
import { forcesTool, isOn } from "./reasoning.ts";
import type { WholeMessage } from "./stream-mapper.ts";
import { mergeTurns, placeSystem } from "./turns.ts";

/** What lets a request with thinking of another prefix pass: such blocks are left out upstream, in place of a 400. */
export const BINDING_BETA = "thinking-binding-controls-2026-08-01";
export const DROP_BLOCK = { prefix_mismatch_behavior: "drop_block" } as const;

/**
 * An assistant's turn as it was said, by which model, and in which organization's account if that is known. Tools have the
 * client's names.
 */
export type RecalledTurn = {
  readonly model: string;
  readonly organization: string | null;
  readonly blocks: readonly Block[];
};

/** Ids of the tool calls that are worth remembering a message by; none: nothing in it needs to be. */
export function callsToRemember({ content }: WholeMessage): readonly string[] {
  if (!content.some(isSigned)) return [];
  return content.filter((block) => block.type === "tool_use").map(idOf);
}

/** Ids of the tool calls whose turns lack their thinking, the newest first; none: nobody has to be asked. */
export function callsToRecall(draft: Draft, model: ModelFacts): readonly string[] {
  if (!thinks(draft, model)) return [];
  const calls: string[] = [];
  for (const { blocks } of runsToRestore(draft, model)) {
    for (const block of blocks) if (block.type === "tool_use") calls.push(idOf(block));
  }
  return calls.reverse();
}

/**
 * Puts remembered thinking back, `recalled` being the newest first. Blocks of another model stay away: no model takes
 * those. And so do those of a turn that called other tools, or the same ones otherwise: ids are not everybody's own.
 */
export function restoreThinking(draft: Draft, recalled: readonly RecalledTurn[], model: ModelFacts): void {
  if (!thinks(draft, model)) return;
  const byCall = new Map<string, RecalledTurn>();
  for (const turn of recalled) {
    if (!isSameModel(turn.model, model.id)) continue;
    for (const block of turn.blocks) {
      if (block.type === "tool_use" && !byCall.has(idOf(block))) byCall.set(idOf(block), turn);
    }
  }
  if (byCall.size === 0) return;
  const restored = new Set<RecalledTurn>();
  for (const { blocks, turns } of runsToRestore(draft, model)) {
    const call = blocks.find((block) => block.type === "tool_use" && byCall.has(idOf(block)));
    const turn = call && byCall.get(idOf(call));
    // Calls of one turn that a client tells as several turns: the thinking belongs before the first of them.
    if (!turn || restored.has(turn) || !calledSo(turn.blocks, blocks)) continue;
    restored.add(turn);
    const [first, ...others] = turns;
    if (first) {
      first.content = verbatim(turn.blocks, blocks) ?? [...turn.blocks.filter(isSigned), ...blocks];
      if (turn.organization !== null) first.organization = turn.organization;
    }
    for (const other of others) other.content = [];
  }
  if (restored.size > 0) draft.turns = draft.turns.filter(({ content }) => content.length > 0);
}

/**
 * For models that bind thinking to all that stood before it: a client that edits its history loses the thinking there
 * and gets no 400 for it. Where thinking is switched off, or a tool forced, there is no such way out, and its history goes
 * without. A step that runs when it is settled how the request thinks.
 */
export const bindThinking: Step = (draft, model) => {
  if (!model.boundThinking || !draft.turns.some(({ content }) => content.some(isSigned))) return null;
  const asked = draft.body.thinking ?? asFields(draft.extra.thinking) ?? { type: "adaptive" };
  if (!isOn(asked) || forcesTool(draft)) {
    for (const turn of draft.turns) turn.content = turn.content.filter((block) => !isThinking(block));
    draft.turns = draft.turns.filter(({ content }) => content.length > 0);
    // Where a turn was nothing but thinking, its neighbours stand next to each other now.
    return placeSystem(draft, model) ?? mergeTurns(draft);
  }
  draft.body.thinking = { block_binding: DROP_BLOCK, ...asked };
  draft.betas.add(BINDING_BETA);
  return null;
};

/**
 * Leaves the thinking of one organization, that of the newest: no account reads another's. Says which that is, null where
 * nobody knows, undefined where there is no thinking. Of what a client itself brings back only it can know.
 */
export function keepOneOrganization(draft: Draft): string | null | undefined {
  const newest = draft.turns.findLast(({ organization }) => organization !== undefined)?.organization;
  for (const turn of draft.turns) {
    if (turn.organization === undefined || turn.organization === newest) continue;
    turn.content = turn.content.filter((block) => !isSigned(block));
  }
  if (newest !== undefined) return newest;
  return draft.turns.some(({ content }) => content.some(isSigned)) ? null : undefined;
}

/** `claude-haiku-4-5` is answered by `claude-haiku-4-5-20251001`. */
export function isSameModel(one: string, other: string): boolean {
  return one.replace(SNAPSHOT, "") === other.replace(SNAPSHOT, "");
}

const SNAPSHOT = /-(?:20\d{6}|latest)$/;

/** Whether a request of this model thinks in earnest, so that it wants its earlier thinking back. */
function thinks(draft: Draft, { thinking, off, thinksByDefault }: ModelFacts): boolean {
  if (thinking === "none") return false;
  const asked = asFields(draft.extra.thinking);
  if (asked) return isOn(asked);
  if (draft.effort === "none") return off === "least_effort";
  return draft.effort !== null || thinksByDefault;
}

/** Assistant turns next to each other, which are one turn to the API. */
type Run = { readonly turns: Turn[]; readonly blocks: readonly Block[] };

/**
 * Runs with tool calls and without thinking. Of a model that binds it, in all of the conversation, since what was said
 * later was said after that thinking; of the others in the running tool loop.
 */
function runsToRestore({ turns }: Draft, { boundThinking }: ModelFacts): Run[] {
  const runs: Run[] = [];
  let run: Turn[] = [];
  const close = (): void => {
    const blocks = run.length === 1 && run[0] ? run[0].content : run.flatMap(({ content }) => content);
    let calls = false;
    let signed = false;
    for (const block of blocks) {
      if (block.type === "tool_use") calls = true;
      else if (isSigned(block)) signed = true;
    }
    if (calls && !signed) runs.push({ turns: run, blocks });
    run = [];
  };
  for (const turn of boundThinking ? turns : turns.slice(loopStart(turns))) {
    if (turn.role === "assistant") run.push(turn);
    else if (run.length > 0) close();
  }
  close();
  return runs;
}

/**
 * Where the running tool loop begins: behind the last thing that the user has said. What is said beside the results of
 * tools goes to the API in one turn with them and ends no loop.
 */
function loopStart(turns: readonly Turn[]): number {
  let end = turns.length;
  while (end > 0) {
    let start = end;
    let said = false;
    let results = false;
    while (start > 0) {
      const turn = turns[start - 1];
      if (!turn || turn.role === "assistant") break;
      if (turn.role === "user") {
        for (const { type } of turn.content) {
          if (type === "tool_result") results = true;
          else said = true;
        }
      }
      start--;
    }
    if (said && !results) return end;
    while (start > 0 && turns[start - 1]?.role === "assistant") start--;
    end = start;
  }
  return 0;
}

/** Whether the calls that the client tells under ids of this turn are those that were made. */
function calledSo(said: readonly Block[], told: readonly Block[]): boolean {
  const made = new Map(said.filter(({ type }) => type === "tool_use").map((block) => [idOf(block), block]));
  return told.every((block) => {
    const call = block.type === "tool_use" ? made.get(idOf(block)) : undefined;
    return !call || (call.name === block.name && isSame(call.input, block.input));
  });
}

/** Whether two values of JSON say the same; the order of fields says nothing. */
function isSame(one: unknown, other: unknown): boolean {
  if (Object.is(one, other)) return true;
  if (typeof one !== "object" || typeof other !== "object" || one === null || other === null) return one === other;
  if (Array.isArray(one) !== Array.isArray(other)) return false;
  const names = Object.keys(one);
  if (names.length !== Object.keys(other).length) return false;
  return names.every((name) => Object.hasOwn(other, name) && isSame((one as Fields)[name], (other as Fields)[name]));
}

/** The turn as it was said, if that is what the client says it was; null: it says otherwise. */
function verbatim(said: readonly Block[], told: readonly Block[]): Block[] | null {
  if (told.some(({ type }) => type !== "text" && type !== "tool_use")) return null;
  const own = told.filter(({ type }) => type === "tool_use");
  const calls = new Map(own.map((block) => [idOf(block), block]));
  const ids = said.filter(({ type }) => type === "tool_use").map(idOf);
  if (ids.length !== own.length || !ids.every((id) => calls.has(id)) || textOf(said) !== textOf(told)) return null;
  const blocks = said.map((block) => ({ ...(calls.get(block.type === "tool_use" ? idOf(block) : "") ?? block) }));
  keepBreakpoint(told, blocks);
  return blocks;
}

/** A breakpoint on what the client told as text stands on the last text that was said. */
function keepBreakpoint(told: readonly Block[], blocks: readonly Block[]): void {
  const marked: CacheControl | undefined = told.findLast(
    ({ type, cache_control }) => type === "text" && cache_control,
  )?.cache_control;
  const text = blocks.findLast(({ type }) => type === "text");
  if (marked && text) text.cache_control = marked;
}

/** Clients join texts and trim them. */
function textOf(blocks: readonly Block[]): string {
  let text = "";
  for (const block of blocks) if (block.type === "text" && typeof block.text === "string") text += block.text;
  return text.trim();
}

function idOf({ id }: Block): string {
  return asText(id) ?? "";
}
