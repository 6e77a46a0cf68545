/** The model that a name stands for, for one key: whatever the name was, the key must be allowed what it came to. Pure. */
import type { Settings } from "../env.ts";
import { type KeyPolicy, mayUseModel } from "../identity/key-record.ts";
import { err, ok, type Result } from "../result.ts";
import { KNOWN_MODELS, type ModelFacts, modelFacts } from "../wire/anthropic/model-facts.ts";
import type { Failure } from "../wire/errors.ts";
import type { Effort } from "../wire/openai/draft.ts";
import {
  listedModels,
  looksLikeClaude,
  type ModelInfo,
  type ModelsAtHand,
  meaningOf,
  readModelName,
} from "./model-names.ts";

export type ResolvedModel = {
  readonly id: string;
  readonly facts: ModelFacts;
  /** What its name asks for; null: nothing. The body's own counts for more. */
  readonly effort: Effort | null;
  /** `anthropic-beta` values that the name asks for. */
  readonly betas: readonly string[];
  /** What is thought is shown. */
  readonly showThinking: boolean;
  /** Some list has it: upstream's as it is at hand, or that of this release. */
  readonly isKnown: boolean;
};

/** Below this a model needs the beta for a window of a million tokens. */
const LONG_CONTEXT_TOKENS = 1_000_000;
const LONG_CONTEXT_BETA = "context-1m-2025-08-07";

/** The model that a name stands for, for this key. A model that nobody has heard of is left for upstream to refuse. */
export function resolveModel(
  asked: string,
  policy: KeyPolicy,
  settings: Pick<Settings, "modelAliases">,
  models: ModelsAtHand,
): Result<ResolvedModel, Failure> {
  const meaning = meaningOf(asked, [policy.aliases, settings.modelAliases], models);
  if (!meaning) {
    const isBeyondList = policy.models !== null && looksLikeClaude(asked);
    return err(
      isBeyondList ? { kind: "model_not_allowed", model: asked } : unknownModel(asked, policy, settings, models),
    );
  }
  const { id, isKnown, thinking, long } = meaning;
  if (!mayUseModel(policy, id)) return err({ kind: "model_not_allowed", model: id });
  const info = models?.find((model) => model.id === id);
  const betas = long && contextOf(id, info) < LONG_CONTEXT_TOKENS ? [LONG_CONTEXT_BETA] : [];
  const facts = modelFacts(id, info);
  // To have thinking shown there must be some.
  const effort = meaning.effort ?? (thinking && !facts.thinksByDefault ? "medium" : null);
  return ok({ id, facts, effort, betas, showThinking: thinking, isKnown });
}

function contextOf(id: string, info: ModelInfo | undefined): number {
  if (typeof info?.max_input_tokens === "number") return info.max_input_tokens;
  return KNOWN_MODELS.find((model) => id.startsWith(model.id))?.max_input_tokens ?? LONG_CONTEXT_TOKENS;
}

/** The names of a key's aliases that lead to a model it may use: its own, the gateway's, and the short ones. */
export function aliasesFor(
  policy: KeyPolicy,
  settings: Pick<Settings, "modelAliases">,
  models: ModelsAtHand,
): readonly { readonly name: string; readonly id: string }[] {
  const configured = [policy.aliases, settings.modelAliases];
  const ids = listedModels(models).map(({ id }) => id);
  const lines = ids.flatMap((id) => readModelName(id)?.line ?? []);
  const short = ids.flatMap((id) => (id.startsWith("claude-") ? id.slice("claude-".length) : []));
  const names = [...configured.flatMap(Object.keys), ...lines, ...lines.map((line) => `sluice-${line}`), ...short];
  return [...new Set(names)].flatMap((name) => {
    const id = meaningOf(name, configured, models)?.id;
    return id !== undefined && !ids.includes(name) && mayUseModel(policy, id) ? [{ name, id }] : [];
  });
}

/** Names that can be said back as they came. */
const PRINTABLE = /^[\x21-\x7e]{1,100}$/;
const MAX_NAMES_TOLD = 30;

/** That there is no such model, which names there are, and how to make this one mean something. */
export function unknownModel(
  asked: string,
  policy: KeyPolicy,
  settings: Pick<Settings, "modelAliases">,
  models: ModelsAtHand,
): Failure {
  const names = aliasesFor(policy, settings, models).map(({ name }) => name);
  const told = names.slice(0, MAX_NAMES_TOLD).join(", ") + (names.length > MAX_NAMES_TOLD ? ", …" : "");
  const what = PRINTABLE.test(asked) ? `The model \`${asked}\` does not exist here.` : "There is no such model here.";
  const use = names.length > 0 ? ` Use a model that GET /v1/models lists, or one of: ${told}.` : "";
  const configure =
    " To use this name, let an alias lead to a Claude model: in `aliases` of the key, or for all keys in MODEL_ALIASES.";
  return { kind: "not_found", what: what + use + configure, param: "model", code: "model_not_found" };
}
