/**
 * Where a prompt is cached (wire notes §5.1): entries are made and found at breakpoints, at most four of them. The client's
 * own are kept. Ours stand at the end of what this call asks, so that the next call reads all of it; at the end of what the
 * previous call asked, which is thereby found however many blocks have come since; and at the end of system or tools, which
 * is what remains of the prefix after a cut or on another branch. Pure.
 */
import type { ContentBlock, Tool } from "../../../clients/typescript/protocol.ts";
import { asFields } from "../../wire/anthropic/usage.ts";
import { isBlank, isThinking, type SentTurn } from "./blocks.ts";

const MAX_BREAKPOINTS = 4;

type Prompt = {
  readonly tools: readonly Tool[];
  readonly system: readonly ContentBlock[];
  readonly turns: readonly SentTurn[];
};

type Fields = Readonly<Record<string, unknown>>;
/** A block in its list, which may be changed. */
type Place = { readonly list: Fields[]; readonly at: number };

/**
 * The same prompt with its breakpoints. What it is given stays as it is. `automatic`: the client's own top-level
 * `cache_control`, which then decides alone.
 */
export function placeBreakpoints({ tools, system, turns }: Prompt, automatic: unknown): Prompt {
  const lists = {
    tools: [...tools],
    system: [...system],
    turns: turns.map(({ role, content }) => ({ role, content: [...content] })),
  };
  const content: Fields[][] = lists.turns.map((turn) => turn.content as Fields[]);
  const prompt: readonly Fields[][] = [lists.tools as Fields[], lists.system as Fields[], ...content];
  const isAutomatic = asFields(automatic) !== undefined;
  const room = MAX_BREAKPOINTS - (isAutomatic ? 1 : 0);
  removeOldest(prompt.map(marked), room);
  if (!isAutomatic) addOurs(prompt, lists.turns, room);
  hoursFirst(prompt.flatMap(marked), automatic);
  return lists;
}

/** The client's breakpoints in a list, those inside of tool results included. */
function marked(list: Fields[]): Place[] {
  return list.flatMap((block, at) => {
    const places: Place[] = [];
    // What is no block inside of a result is upstream's to judge.
    if (!asFields(block)) return places;
    if (Array.isArray(block.content) && block.content.some((inner) => asFields(inner)?.cache_control)) {
      const inner = [...(block.content as Fields[])];
      list[at] = { ...block, content: inner };
      places.push(...marked(inner));
    }
    if (block.cache_control) places.push({ list, at });
    return places;
  });
}

/** A client that marks every message comes to have too many: of those in messages the oldest go first. */
function removeOldest([inTools = [], inSystem = [], ...inTurns]: readonly Place[][], room: number): void {
  const all = [...inTurns.flat(), ...inTools, ...inSystem];
  for (const place of all.slice(0, Math.max(0, all.length - room))) set(place, undefined);
}

function addOurs(prompt: readonly Fields[][], turns: readonly SentTurn[], room: number): void {
  let left = room - prompt.flatMap(marked).length;
  const [tools = [], system = [], ...content] = prompt;
  const asked = turns.findLastIndex(({ role }) => role === "user");
  const answer = turns.slice(0, Math.max(0, asked)).findLastIndex(({ role }) => role === "assistant");
  const before = turns.slice(0, Math.max(0, answer)).findLastIndex(({ role }) => role === "user");
  // An answer that is gone on with grows by what it has found, from call to call.
  const newest = asked < turns.length - 1 ? [content.at(-1), content[asked]] : [content[asked], content[before]];
  for (const list of [...newest, system.length > 0 ? system : tools]) {
    const at = list?.findLastIndex(canBeMarked) ?? -1;
    // One of the client's in there that is as far behind does as well.
    if (!list || at < 0 || left <= 0 || list[at]?.cache_control || hasMarked(list[at]?.content)) continue;
    set({ list, at }, { type: "ephemeral" });
    left--;
  }
}

function hasMarked(content: unknown): boolean {
  return Array.isArray(content) && content.some((inner) => asFields(inner)?.cache_control);
}

/** Not thinking, no empty text; a tool that is looked up later is no part of the prefix. */
function canBeMarked(block: Fields): boolean {
  if (typeof block.type !== "string") return block.defer_loading !== true;
  const typed = { ...block, type: block.type };
  return !isThinking(typed) && !isBlank(typed) && block.defer_loading !== true;
}

/** An hour must not come behind five minutes: whatever stands before it lives as long. */
function hoursFirst(places: readonly Place[], automatic: unknown): void {
  let hour = asFields(automatic)?.ttl === "1h";
  for (const place of places.toReversed()) {
    const control = asFields(place.list[place.at]?.cache_control);
    if (control?.ttl === "1h") hour = true;
    else if (hour) set(place, { ...control, ttl: "1h" });
  }
}

function set({ list, at }: Place, control: Fields | undefined): void {
  const { cache_control: _, ...block } = list[at] ?? {};
  list[at] = control ? { ...block, cache_control: control } : block;
}
