/**
 * Calls of tools and their results as Claude takes them: every call has exactly one result, in the user turn right behind
 * its own and before all else in it, and every result has its call there.
 *
 * Clients write results late, twice, in any order, for calls that a shortened history no longer has, or not at all, and
 * some begin to count their ids anew with each answer. A result belongs to the last call of its id before it. Of two
 * results the later stays; a call without one gets an error; a result without a call becomes a user's text.
 */
import { asFields, asText } from "../anthropic/usage.ts";
import type { Block, Draft, Turn } from "./draft.ts";
import { toolInput } from "./fields.ts";
import { FittedNames } from "./fitted-names.ts";

const NO_RESULT = "There is no result: the call was interrupted or its result is lost.";

type Call = { readonly id: string; result: Block | null };
/** Calls of one id in one turn; `answered` of them have their result. */
type Line = { readonly calls: Call[]; answered: number };

/**
 * Pairs calls and results, and gives calls ids that Claude takes, each a different one, the same for the same history.
 * Makes one turn of an assistant's neighbouring turns, since their calls are answered together.
 */
export function pairResults(draft: Draft): null {
  const pairing = new Pairing();
  for (const turn of draft.turns) pairing.add(turn);
  draft.turns = pairing.finish();
  return null;
}

/** A turn as it will be, and the calls in it. */
type Paired = { readonly turn: Turn; readonly calls: Call[] };

class Pairing {
  readonly #ids = new FittedNames(Number.POSITIVE_INFINITY);
  readonly #turns: Paired[] = [];
  /** By the client's id, of the last turn that has calls of it. */
  readonly #lines = new Map<string, { line: Line; of: Paired }>();

  add(turn: Turn): void {
    const last = this.#turns.at(-1);
    const joins = turn.role === "assistant" && last?.turn.role === "assistant";
    const paired = joins ? last : { turn: { role: turn.role, content: [] }, calls: [] };
    if (!joins) this.#turns.push(paired);
    for (const block of turn.content) {
      if (block.type === "tool_result") this.#result(block, paired.turn);
      else if (block.type === "tool_use") this.#call(block, paired);
      else paired.turn.content.push(block);
    }
  }

  #call(block: Block, paired: Paired): void {
    if (paired.turn.role !== "assistant") {
      paired.turn.content.push({ type: "text", text: `[Tool call: ${JSON.stringify([block.name, block.input])}]` });
      return;
    }
    const id = asText(block.id) ?? "";
    const call: Call = { id: this.#ids.fit(id), result: null };
    const known = this.#lines.get(id);
    if (known?.of === paired) known.line.calls.push(call);
    else this.#lines.set(id, { line: { calls: [call], answered: 0 }, of: paired });
    paired.calls.push(call);
    block.id = call.id;
    block.input = toolInput(block.input);
    paired.turn.content.push(block);
  }

  #result(block: Block, turn: Turn): void {
    const line = this.#lines.get(asText(block.tool_use_id) ?? "")?.line;
    if (!line) {
      for (const each of asOrphan(block)) turn.content.push(each);
      return;
    }
    // Where one turn has several calls of one id, their results come in their order.
    const call = line.calls[Math.min(line.answered, line.calls.length - 1)] as Call;
    line.answered++;
    block.tool_use_id = call.id;
    if (isEmpty(block.content)) delete block.content;
    call.result = block;
  }

  finish(): Turn[] {
    const turns: Turn[] = [];
    let results: Turn | null = null;
    for (const { turn, calls } of this.#turns) {
      // Its results have gone to their calls.
      if (turn.content.length === 0) continue;
      // What a user says right behind the results stands in their turn, as the API would have it anyway.
      if (results && turn.role === "user") for (const block of turn.content) results.content.push(block);
      else turns.push(turn);
      results = null;
      if (calls.length === 0) continue;
      results = { role: "user", content: calls.map(resultOf) };
      turns.push(results);
    }
    return turns;
  }
}

function resultOf({ id, result }: Call): Block {
  return result ?? { type: "tool_result", tool_use_id: id, content: NO_RESULT, is_error: true };
}

function isEmpty(content: unknown): boolean {
  return (
    content === "" || content === null || content === undefined || (Array.isArray(content) && content.length === 0)
  );
}

/** What a result says, for a user to say: in one text, as far as it is text. */
function asOrphan({ tool_use_id: id, content, cache_control: cacheControl }: Block): Block[] {
  const said: Block[] =
    typeof content === "string"
      ? [{ type: "text", text: content }]
      : Array.isArray(content)
        ? content.filter(isBlock)
        : [];
  const shown = said.findIndex(({ type }) => type !== "text");
  const texts = shown < 0 ? said : said.slice(0, shown);
  const lines = [
    `[Result of a tool call that is no longer in this conversation: ${asText(id) ?? ""}]`,
    ...texts.map(({ text }) => asText(text) ?? "").filter((text) => text !== ""),
  ];
  const blocks: Block[] = [{ type: "text", text: lines.join("\n") }, ...said.slice(texts.length)];
  const last = blocks.at(-1);
  if (last && cacheControl) last.cache_control ??= cacheControl;
  return blocks;
}

function isBlock(value: unknown): value is Block {
  return typeof asFields(value)?.type === "string";
}
