/** What is done to every draft, in this order, before it is written down. Each step does one thing and knows no other. */
import type { ModelFacts } from "../anthropic/model-facts.ts";
import type { Failure } from "../errors.ts";
import { fitCaching } from "./caching.ts";
import type { Draft, Step } from "./draft.ts";
import { fitMaxTokens } from "./limits.ts";
import { fitFormat } from "./output-format.ts";
import { fitReasoning } from "./reasoning.ts";
import { fitSampling } from "./sampling.ts";
import { bindThinking } from "./thinking.ts";
import { fitToolChoice, fitTools } from "./tool-fit.ts";
import { pairResults } from "./tool-turns.ts";
import { endTurns, mergeTurns, placeSystem } from "./turns.ts";

/**
 * - A call's results stand behind it before system turns look for a place, and turns are merged when none moves any more.
 * - A format that becomes a tool has to be there before tools and the choice among them are fitted.
 * - Thinking depends on turns, on a forced tool and on the limit; sampling depends on thinking.
 * - Cache breakpoints are counted when everything that may carry one has its place.
 */
export const STEPS: readonly Step[] = [
  pairResults,
  placeSystem,
  mergeTurns,
  endTurns,
  fitFormat,
  fitTools,
  fitToolChoice,
  fitMaxTokens,
  fitReasoning,
  bindThinking,
  fitSampling,
  fitCaching,
];

/** Brings a draft into the shape that its model takes; null, or why that can't be done. */
export function fit(draft: Draft, model: ModelFacts): Failure | null {
  draft.model = model.id;
  for (const step of STEPS) {
    const failure = step(draft, model);
    if (failure) return failure;
  }
  return null;
}
