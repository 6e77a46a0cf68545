/** How long an answer may be. */
import type { Draft, Step } from "./draft.ts";
import { budgetOf } from "./reasoning.ts";

/**
 * Longest answer that is given whole when the client names no limit. Longer ones may take over ten minutes, which is when
 * the API gives up on a call without a stream: 3600 s · tokens / 128,000 > 600 s (wire notes §2.5).
 */
const WHOLE_ANSWER_TOKENS = 21_333;

/** OpenAI's limit includes what is thought, and so does Claude's: a client's own goes through as it is, down to the model's. */
export const fitMaxTokens: Step = (draft, model) => {
  draft.maxTokens = Math.min(draft.maxTokens ?? usualLimit(draft, model.maxTokens), model.maxTokens);
  return null;
};

/** A budget for thinking comes on top: a limit that nobody has set must leave room for the answer. */
function usualLimit(draft: Draft, most: number): number {
  return draft.stream ? most : WHOLE_ANSWER_TOKENS + budgetOf(draft.effort);
}
