/**
 * What each model takes and refuses: one table, overlaid with what upstream says of the model itself (`GET /v1/models`).
 * Sampling, forced tools, prefill, system turns and bound thinking are in no capability and stand here alone.
 */
import { asFields, type Fields } from "./usage.ts";

/** `output_config.effort`, least first. */
export const MODEL_EFFORTS = ["low", "medium", "high", "xhigh", "max"] as const;
export type ModelEffort = (typeof MODEL_EFFORTS)[number];

export type ModelFacts = {
  readonly id: string;
  /** Takes `temperature`, `top_p` and `top_k`, though never the first two together. */
  readonly sampling: boolean;
  /** How thinking is asked for: with a budget, adaptively, or not at all. */
  readonly thinking: "budget" | "adaptive" | "none";
  /** Takes a budget; where `thinking` is adaptive only from a client that writes one itself. */
  readonly budgets: boolean;
  /** Thinks when the request says nothing of it. */
  readonly thinksByDefault: boolean;
  /** What `reasoning_effort: "none"` becomes: nothing is sent, `disabled`, `between_tools`, or only the least effort. */
  readonly off: "omit" | "disabled" | "between_tools" | "least_effort";
  /** `output_config.effort` that it takes, least first. Empty: none. */
  readonly efforts: readonly ModelEffort[];
  /** Takes `tool_choice` of type `any` and `tool`. */
  readonly forcedTools: boolean;
  /** The last message may be the assistant's. */
  readonly prefill: boolean;
  /** Takes `{role: "system"}` among its messages. */
  readonly systemTurns: boolean;
  /** Replayed thinking is bound to exactly what stood before it. */
  readonly boundThinking: boolean;
  readonly structuredOutputs: boolean;
  readonly maxTokens: number;
};

/** As `GET /v1/models` names a model, for when upstream's own list can't be had. */
export type KnownModel = {
  readonly id: string;
  readonly display_name: string;
  /** RFC 3339. */
  readonly created_at: string;
  readonly max_input_tokens: number;
  readonly max_tokens: number;
};

type Rules = Omit<ModelFacts, "id" | "maxTokens">;

const OPUS_5: Rules = {
  sampling: false,
  thinking: "adaptive",
  budgets: false,
  thinksByDefault: true,
  off: "disabled",
  efforts: MODEL_EFFORTS,
  forcedTools: true,
  prefill: false,
  systemTurns: true,
  boundThinking: false,
  structuredOutputs: true,
};
/** Whether it takes system turns is not known; without them every model works. */
const SONNET_5: Rules = { ...OPUS_5, systemTurns: false };
const HAIKU_5_5: Rules = { ...OPUS_5, boundThinking: true };
const SONNET_5_5: Rules = { ...HAIKU_5_5, off: "between_tools", forcedTools: false };
const OPUS_5_5: Rules = { ...SONNET_5_5, off: "least_effort" };
const FABLE_5: Rules = { ...OPUS_5, off: "least_effort" };
const OPUS_4_8: Rules = { ...OPUS_5, thinksByDefault: false };
const OPUS_4_7: Rules = { ...OPUS_4_8, systemTurns: false };
const CLAUDE_4_6: Rules = { ...OPUS_4_7, sampling: true, budgets: true, efforts: ["low", "medium", "high", "max"] };
const CLAUDE_4_5: Rules = { ...CLAUDE_4_6, thinking: "budget", off: "omit", efforts: [], prefill: true };
const OPUS_4_5: Rules = { ...CLAUDE_4_5, efforts: ["low", "medium", "high"] };

const LARGE = [1_000_000, 128_000] as const;
const SMALL = [200_000, 64_000] as const;

/** Id, name, day of release, what it takes, [context, longest answer]. Newest first, as upstream lists them. */
const TABLE: readonly (readonly [string, string, string, Rules, readonly [number, number]])[] = [
  ["claude-fable-5-2", "Claude Fable 5.2", "2026-11-09", OPUS_5_5, LARGE],
  ["claude-mythos-5-2", "Claude Mythos 5.2", "2026-11-09", OPUS_5_5, LARGE],
  ["claude-haiku-5-5", "Claude Haiku 5.5", "2026-10-07", HAIKU_5_5, LARGE],
  ["claude-sonnet-5-5", "Claude Sonnet 5.5", "2026-09-28", SONNET_5_5, LARGE],
  ["claude-fable-5-1", "Claude Fable 5.1", "2026-09-22", OPUS_5_5, LARGE],
  ["claude-opus-5-5", "Claude Opus 5.5", "2026-09-22", OPUS_5_5, LARGE],
  ["claude-mythos-5-1", "Claude Mythos 5.1", "2026-09-15", OPUS_5_5, LARGE],
  ["claude-sonnet-5", "Claude Sonnet 5", "2026-06-30", SONNET_5, LARGE],
  ["claude-fable-5", "Claude Fable 5", "2026-06-30", FABLE_5, LARGE],
  ["claude-mythos-5", "Claude Mythos 5", "2026-06-30", FABLE_5, LARGE],
  ["claude-opus-5", "Claude Opus 5", "2026-06-30", OPUS_5, LARGE],
  ["claude-opus-4-8", "Claude Opus 4.8", "2026-05-20", OPUS_4_8, LARGE],
  ["claude-opus-4-7", "Claude Opus 4.7", "2026-04-16", OPUS_4_7, LARGE],
  ["claude-sonnet-4-6", "Claude Sonnet 4.6", "2026-02-17", CLAUDE_4_6, LARGE],
  ["claude-opus-4-6", "Claude Opus 4.6", "2026-02-04", CLAUDE_4_6, LARGE],
  ["claude-opus-4-5", "Claude Opus 4.5", "2025-11-24", OPUS_4_5, SMALL],
  ["claude-haiku-4-5", "Claude Haiku 4.5", "2025-10-15", CLAUDE_4_5, SMALL],
  ["claude-sonnet-4-5", "Claude Sonnet 4.5", "2025-09-29", CLAUDE_4_5, SMALL],
];

/** A model that the table does not have is taken for a newer one. */
const UNKNOWN = { rules: OPUS_5, maxTokens: LARGE[1] };

const KNOWN = new Map(TABLE.map(([id, , , rules, [, maxTokens]]) => [id, { rules, maxTokens }]));

/** `claude-haiku-4-5-20251001`: the same model under its full name. */
const RELEASE_DATE = /-20\d{6}$/;

/** The models of the table, newest first. */
export const KNOWN_MODELS: readonly KnownModel[] = TABLE.map(([id, name, day, , [context, maxTokens]]) => ({
  id,
  display_name: name,
  created_at: `${day}T00:00:00Z`,
  max_input_tokens: context,
  max_tokens: maxTokens,
}));

/** Whether the table decides about a model, with or without the date in its name. */
export function isKnownModel(id: string): boolean {
  return KNOWN.has(id.replace(RELEASE_DATE, ""));
}

/** What a model takes. `info`: its entry in upstream's list, where that is at hand; whatever it lacks the table says. */
export function modelFacts(id: string, info?: unknown): ModelFacts {
  const known = KNOWN.get(id.replace(RELEASE_DATE, ""));
  const { rules, maxTokens } = known ?? UNKNOWN;
  const facts = { id, ...rules, maxTokens };
  const stated = asFields(info);
  return stated ? overlaid(facts, stated, known !== undefined) : facts;
}

function overlaid(facts: ModelFacts, info: Fields, known: boolean): ModelFacts {
  const capabilities = asFields(info.capabilities) ?? {};
  const types = asFields(asFields(capabilities.thinking)?.types);
  const limit = info.max_tokens;
  return {
    ...facts,
    ...(types && thinkingOf(facts, types, known)),
    efforts: effortsOf(facts, asFields(capabilities.effort)),
    structuredOutputs: supports(capabilities.structured_outputs) ?? facts.structuredOutputs,
    maxTokens: typeof limit === "number" && Number.isSafeInteger(limit) && limit > 0 ? limit : facts.maxTokens,
  };
}

function thinkingOf(
  facts: ModelFacts,
  types: Fields,
  known: boolean,
): Pick<ModelFacts, "thinking" | "budgets" | "off"> {
  const adaptive = supports(types.adaptive) ?? facts.thinking === "adaptive";
  const budgets = supports(types.enabled) ?? facts.budgets;
  const thinking = adaptive ? "adaptive" : budgets ? "budget" : "none";
  return { thinking, budgets, off: offOf(facts, types, known) };
}

/**
 * Of a model that the table has, upstream's word counts only against a switch: the models that refuse `disabled` are known
 * from their migration guides, and lists have been seen that say otherwise.
 */
function offOf({ off }: ModelFacts, types: Fields, known: boolean): ModelFacts["off"] {
  const switches = (["disabled", "between_tools"] as const).filter((type) => supports(types[type]) !== false);
  if (off !== "disabled" && off !== "between_tools") {
    if (known) return off;
    return switches.find((type) => supports(types[type])) ?? off;
  }
  return switches.includes(off) ? off : (switches.find((type) => supports(types[type])) ?? "least_effort");
}

function effortsOf({ efforts }: ModelFacts, stated: Fields | undefined): readonly ModelEffort[] {
  if (!stated) return efforts;
  if (supports(stated) === false) return [];
  return MODEL_EFFORTS.filter((effort) => supports(stated[effort]) ?? efforts.includes(effort));
}

function supports(capability: unknown): boolean | undefined {
  const supported = asFields(capability)?.supported;
  return typeof supported === "boolean" ? supported : undefined;
}
