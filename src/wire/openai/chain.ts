/**
 * `previous_response_id`: what a response adds to its conversation, and a conversation put in front of a draft. What is
 * kept is a draft's own language, before any step: blocks of Messages, ids and names of tools as the client has them, so
 * that a kept turn goes through the same steps as one that the client sends itself. Instructions are of one request and
 * not inherited.
 */
import { isSigned } from "./blocks.ts";
import type { Block, Draft, Telling, Turn } from "./draft.ts";
import type { WholeMessage } from "./stream-mapper.ts";
import { isSameModel } from "./thinking.ts";

/** What one response has added. */
export type Link = {
  /** The turns of its input. */
  readonly input: readonly Turn[];
  /** Its answer, and who gave it. */
  readonly model: string;
  /** In whose account, if that is known. */
  readonly organization?: string | null;
  readonly answer: readonly Block[];
};

/** JSON of the turns that a draft adds itself. Taken before a chain is put in front of it and before any step changes it. */
export function ownTurns(draft: Draft): string {
  return JSON.stringify(draft.turns.slice(instructionTurns(draft)));
}

/** JSON of a link, made of what `ownTurns` said and the answer. */
export function linkText(
  own: string,
  { model, content }: WholeMessage,
  organization: string | null,
  telling: Telling,
): string {
  const answer = JSON.stringify({ model, organization, answer: asTold(content, telling) } satisfies Omit<
    Link,
    "input"
  >);
  return `{"input":${own},${answer.slice(1)}`;
}

/** An answer's blocks, with the client's own names of its tools. */
export function asTold(content: readonly Block[], { tools }: Telling): readonly Block[] {
  return content.map((block) => {
    const tool = block.type === "tool_use" && typeof block.name === "string" ? tools.get(block.name) : undefined;
    return tool ? { ...block, name: tool.name } : block;
  });
}

/** Puts a conversation in front of what the draft adds, behind its instructions. Thinking is for the model it is of. */
export function goOn(draft: Draft, links: readonly Link[], modelId: string): void {
  const earlier = links.flatMap(({ input, model, organization, answer }): readonly Turn[] => {
    const content = isSameModel(model, modelId) ? [...answer] : answer.filter((block) => !isSigned(block));
    if (content.length === 0) return input;
    const signer = organization && content.some(isSigned) ? { organization } : {};
    return [...input, { role: "assistant", content, ...signer }];
  });
  const own = instructionTurns(draft);
  draft.turns = [...draft.turns.slice(0, own), ...earlier, ...draft.turns.slice(own)];
}

/** How many turns at the front are the request's `instructions`. */
function instructionTurns({ turns, telling: { echo } }: Draft): number {
  const [first] = turns;
  if (first?.role !== "system" || first.content.length !== 1) return 0;
  const { instructions } = echo;
  return typeof instructions === "string" && first.content[0]?.text === instructions ? 1 : 0;
}
