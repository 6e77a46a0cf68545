/**
 * `item_reference`: items of earlier responses that a client names by their ids in place of sending them again. An id says
 * which response it is of and where in its message it stands (`ItemMaker`), so the stored answer is all that is needed.
 * An item of a response that is not stored, of another key's, or of nobody's can't be told apart, and is refused.
 */
import type { Result } from "../../result.ts";
import { asText } from "../anthropic/usage.ts";
import type { Failure } from "../errors.ts";
import { REFERENCE } from "./blocks.ts";
import { type Block, type Draft, refuse } from "./draft.ts";

/** How many responses one request may refer to; each is looked up by itself. */
const MAX_RESPONSES = 200;
const MAX_ID_CHARS = 128;
/** Of all that the references of one request stand for: one item may be referred to a hundred thousand times. */
export const MAX_REFERRED_CHARS = 16 * 1024 * 1024;
/** As `ItemMaker` writes them. */
const ITEM_ID = /^(msg|rs|fc|ctc)_(.+)_(\d{1,6})$/s;

/** What is kept of a response. */
type Stored = { readonly answer: readonly Block[] };
type Item = { readonly prefix: string; readonly tail: string; readonly number: number };

/** Puts the blocks of the items in the place of their references. `lookUp` is asked once for each response. */
export async function resolveReferences(
  draft: Draft,
  lookUp: (responseId: string) => Promise<Result<Stored, Failure>>,
): Promise<Failure | null> {
  const references = draft.turns.flatMap(({ content }) => content.filter(isReference));
  if (references.length === 0) return null;
  const named = new Set(references.map(({ data }) => asText(data) ?? ""));
  const tails = new Set(references.map((block) => itemOf(block)?.tail).filter((tail) => tail !== undefined));
  if (tails.size > MAX_RESPONSES) {
    return refuse(`'input' refers to items of more than ${MAX_RESPONSES} responses.`, "input");
  }
  const answers = new Map<string, readonly Block[]>();
  // One after the other: of each only its answer is held.
  for (const tail of tails) {
    const stored = await lookUp(`resp_${tail}`);
    if (stored.ok) answers.set(tail, stored.value.answer);
    // The store is away: what it holds is not known.
    else if (stored.error.kind !== "invalid_request") return stored.error;
  }
  let room = MAX_REFERRED_CHARS;
  for (const turn of draft.turns) {
    if (!turn.content.some(isReference)) continue;
    const content: Block[] = [];
    for (const block of turn.content) {
      const found = isReference(block) ? blocksOf(itemOf(block), answers, named) : [block];
      if (found === null) return notFound(block);
      if (isReference(block)) room -= charsOf(found);
      if (room < 0) return refuse(`'input' refers to more than ${MAX_REFERRED_CHARS} characters.`, "input");
      for (const one of found) content.push(one);
    }
    turn.content = content;
  }
  return null;
}

const isReference = ({ type }: Block): boolean => type === REFERENCE;

function itemOf({ data }: Block): Item | null {
  const id = asText(data) ?? "";
  const [, prefix, tail, number] = (id.length <= MAX_ID_CHARS && ITEM_ID.exec(id)) || [];
  return prefix && tail ? { prefix, tail, number: Number(number) } : null;
}

/** Null: there is no such item. */
function blocksOf(
  item: Item | null,
  answers: ReadonlyMap<string, readonly Block[]>,
  named: ReadonlySet<string>,
): readonly Block[] | null {
  const answer = item && answers.get(item.tail);
  if (!item || !answer) return null;
  switch (item.prefix) {
    case "msg":
      return textFrom(answer, item, named);
    case "rs": {
      // Thinking is put back by the calls that it led to (thinking.ts), whole, and for its own model alone.
      const type = answer[item.number]?.type;
      return type === "thinking" || type === "redacted_thinking" ? [] : null;
    }
    default: {
      const call = answer.filter(({ type }) => type === "tool_use")[item.number];
      return call ? [{ ...call }] : null;
    }
  }
}

/** The text that one message was made of. A refusal, which stands behind all blocks, leaves nothing. */
function textFrom(answer: readonly Block[], { tail, number }: Item, named: ReadonlySet<string>): Block[] | null {
  if (number === answer.length) return [];
  if (answer[number]?.type !== "text") return null;
  const texts: Block[] = [];
  for (const [at, block] of answer.entries()) {
    if (at < number) continue;
    // Thinking that was sealed but not shown parts messages as well; whether it was is told by what is referred to.
    const another = at > number && named.has(`msg_${tail}_${at}`);
    if (another || block.type === "tool_use" || asText(block.thinking)) break;
    if (block.type === "text") texts.push({ type: "text", text: block.text });
  }
  return texts;
}

/** Of a call's input as well, which is shared by all that refer to it, but written out for each. */
function charsOf(blocks: readonly Block[]): number {
  return blocks.reduce((sum, { text, input }) => sum + (asText(text) ?? JSON.stringify(input) ?? "").length, 0);
}

function notFound({ data, param }: Block): Failure {
  const id = (asText(data) ?? "").slice(0, MAX_ID_CHARS);
  return refuse(
    `Item with id '${id}' not found. Items are kept with stored responses alone ('store' not false).`,
    asText(param),
  );
}
