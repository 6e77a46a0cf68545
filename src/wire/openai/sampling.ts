/** Temperature and its kin, which only models up to 4.6 take (OpenAI notes §3.4). */
import type { Draft, Step } from "./draft.ts";
import { isOn } from "./reasoning.ts";

/** The least `top_p` that is taken while the model thinks; a temperature or `top_k` is not taken then at all. */
const LEAST_THINKING_TOP_P = 0.95;

/**
 * Keeps of the three what the model takes: of temperature and `top_p` only one. What is dropped is dropped in silence, as
 * clients send these with every call whatever the model.
 */
export const fitSampling: Step = (draft, model) => {
  const temperature = unit(draft.temperature);
  // 1 is what there is without it, of both.
  const topP = unit(draft.topP) === 1 ? null : unit(draft.topP);
  if (!model.sampling) keep(draft, null, null, null);
  else if (isOn(draft.body.thinking))
    keep(draft, null, topP !== null && topP >= LEAST_THINKING_TOP_P ? topP : null, null);
  else if (topP !== null && (temperature === null || temperature === 1)) keep(draft, null, topP, draft.topK);
  else keep(draft, temperature, null, draft.topK);
  return null;
};

function keep(draft: Draft, temperature: number | null, topP: number | null, topK: number | null): void {
  draft.temperature = temperature;
  draft.topP = topP;
  draft.topK = topK;
}

/** OpenAI's temperatures go up to 2. */
function unit(value: number | null): number | null {
  return value === null ? null : Math.min(1, Math.max(0, value));
}
