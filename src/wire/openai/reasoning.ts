/** How much the model thinks: OpenAI's effort as adaptive thinking, as a budget, or as none (OpenAI notes §3.7). */
import { MODEL_EFFORTS, type ModelEffort, type ModelFacts } from "../anthropic/model-facts.ts";
import { asFields } from "../anthropic/usage.ts";
import { isThinking } from "./blocks.ts";
import type { Draft, Effort, Fields, Step, Turn } from "./draft.ts";
import { mustCall } from "./tool-choice.ts";

/** What each effort may spend on a model that takes budgets, least first. */
const BUDGETS = { low: 2_048, medium: 4_096, high: 8_192, xhigh: 16_384, max: 32_000 } as const;
const MIN_BUDGET = 1_024;
/** What a model does that is told nothing. */
const USUAL_EFFORT = "high";
/** The most that goes together with thinking switched off. */
const MOST_WITHOUT_THINKING = "high";

/** What is asked for, by the effort or by the client's own `thinking`. `budget`: in the client's own figure. */
type Wish = { readonly thinks: boolean; readonly budget: number | null; readonly display: unknown };

export const fitReasoning: Step = (draft, model) => {
  const wish = wishOf(draft);
  const effort = effortOf(draft, wish, model);
  const thinking = thinkingOf(draft, model, wish);
  if (thinking) draft.body.thinking = thinking;
  if (effort) draft.body.outputConfig = { ...draft.body.outputConfig, effort };
  return null;
};

/** The tokens that an effort may spend on thinking; none for no effort. */
export function budgetOf(effort: Effort | null): number {
  const least = leastEffort(effort);
  return least === null ? 0 : BUDGETS[least];
}

/** `minimal` is the least that Claude has. */
function leastEffort(effort: Effort | null): ModelEffort | null {
  if (effort === "none") return null;
  return effort === "minimal" ? "low" : effort;
}

/** A client's own `thinking` goes before its effort, which then still says how much. */
function wishOf({ extra, effort }: Draft): Wish | null {
  const own = asFields(extra.thinking);
  switch (own?.type) {
    case "adaptive":
      return { thinks: true, budget: null, display: own.display };
    case "enabled":
      return { thinks: true, budget: wholeNumber(own.budget_tokens), display: own.display };
    case "disabled":
    case "between_tools":
      return { thinks: false, budget: null, display: null };
    default:
      return effort === null ? null : { thinks: effort !== "none", budget: null, display: null };
  }
}

function wholeNumber(value: unknown): number | null {
  return typeof value === "number" && Number.isSafeInteger(value) && value > 0 ? value : null;
}

function thinkingOf(draft: Draft, model: ModelFacts, wish: Wish | null): Fields | null {
  if (model.thinking === "none") return null;
  if (wish?.thinks === false) return offSwitch(model);
  // Without a word on effort a model thinks as it always does; where it does, it may still be asked to show it.
  if (wish === null && !(draft.showThinking && model.thinksByDefault && model.thinking === "adaptive")) return null;
  if (forcesTool(draft)) return null;
  if (model.thinking === "adaptive" && !(model.budgets && wish?.budget)) return adaptive(draft, wish);
  return endsBare(draft.turns) ? null : budgeted(draft, wish);
}

function offSwitch({ off }: ModelFacts): Fields | null {
  return off === "disabled" || off === "between_tools" ? { type: off } : null;
}

/** The newer models keep to themselves what they think unless they are asked (OpenAI notes §3.7). */
function adaptive({ showThinking }: Draft, wish: Wish | null): Fields {
  const own = wish?.display;
  if (own === "summarized" || own === "omitted") return { type: "adaptive", display: own };
  return showThinking ? { type: "adaptive", display: "summarized" } : { type: "adaptive" };
}

/** Nothing where the limit leaves no room for the least budget there is. */
function budgeted(draft: Draft, wish: Wish | null): Fields | null {
  const wanted = wish?.budget ?? BUDGETS[statedEffort(draft) ?? USUAL_EFFORT];
  const budget = Math.min(Math.max(wanted, MIN_BUDGET), (draft.maxTokens ?? 0) - 1);
  return budget < MIN_BUDGET ? null : { type: "enabled", budget_tokens: budget };
}

/** "Thinking may not be enabled when tool_choice forces tool use." */
export function forcesTool({ tools, toolChoice: choice }: Draft): boolean {
  return tools.length > 0 && mustCall(choice);
}

/** Whether a `thinking` of the Messages API has the model think. */
export function isOn(thinking: Fields | undefined): boolean {
  return thinking?.type === "enabled" || thinking?.type === "adaptive";
}

/**
 * Whether the assistant's last turn could not have been written while thinking: a prefill, or calls without a thought
 * before them, as clients send them back ("Expected `thinking` or `redacted_thinking`, but found `tool_use`").
 */
function endsBare(turns: readonly Turn[]): boolean {
  const last = turns.findLast(({ role }) => role !== "system");
  if (last?.role === "assistant") return true;
  const content = turns.findLast(({ role }) => role === "assistant")?.content ?? [];
  return content.some(({ type }) => type === "tool_use") && !content.some(isThinking);
}

/** The effort in words, whoever said it: the request, or the client's own `output_config`. */
function statedEffort({ effort, extra }: Draft): ModelEffort | null {
  const own = asFields(extra.output_config)?.effort;
  return leastEffort(effort) ?? MODEL_EFFORTS.find((known) => known === own) ?? null;
}

/** `output_config.effort`. A model of budgets is told the effort as a budget, unless the client has written it so itself. */
function effortOf(draft: Draft, wish: Wish | null, model: ModelFacts): ModelEffort | null {
  if (wish?.thinks === false && model.off === "least_effort") return nearest(model, "low");
  const stated = model.thinking === "budget" ? statedEffort({ ...draft, effort: null }) : statedEffort(draft);
  const wanted = stated ?? (model.budgets ? null : effortOfBudget(wish?.budget ?? null));
  if (wanted === null) return null;
  const off = wish?.thinks === false && MODEL_EFFORTS.indexOf(wanted) > MODEL_EFFORTS.indexOf(MOST_WITHOUT_THINKING);
  return nearest(model, off ? MOST_WITHOUT_THINKING : wanted);
}

/** The effort that a budget was meant for, on a model that takes none. */
function effortOfBudget(budget: number | null): ModelEffort | null {
  if (budget === null) return null;
  return MODEL_EFFORTS.find((effort) => budget <= BUDGETS[effort]) ?? "max";
}

/** The greatest effort the model has that is not above the wanted one. */
function nearest({ efforts }: ModelFacts, wanted: ModelEffort): ModelEffort | null {
  return (
    efforts.findLast((effort) => MODEL_EFFORTS.indexOf(effort) <= MODEL_EFFORTS.indexOf(wanted)) ?? efforts[0] ?? null
  );
}
