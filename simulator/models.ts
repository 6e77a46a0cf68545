/**
 * The models of the API and what each one can do (wire notes §5.3). Not in any source, so the simulator's own reading:
 * capability flags, the day some of the newer ones appeared, the smallest cacheable prefix of those after Opus 5.
 */
import { pageById } from "./paging.ts";

export type Model = {
  readonly id: string;
  readonly displayName: string;
  readonly createdAt: string;
  readonly line: string;
  /** 4.6 for Claude Opus 4.6. */
  readonly version: number;
  readonly contextTokens: number;
  readonly maxOutputTokens: number;
  /** Smallest prefix that the prompt cache keeps. */
  readonly minCacheTokens: number;
};

const LARGE = [1_000_000, 128_000] as const;
const SMALL = [200_000, 64_000] as const;

function model(
  id: string,
  displayName: string,
  created: string,
  [contextTokens, maxOutputTokens]: readonly [number, number],
  minCacheTokens: number,
): Model {
  const line = id.split("-")[1] ?? "";
  const version = Number(displayName.split(" ").at(-1));
  return {
    id,
    displayName,
    createdAt: `${created}T00:00:00Z`,
    line,
    version,
    contextTokens,
    maxOutputTokens,
    minCacheTokens,
  };
}

/** Newest first. */
export const MODELS: readonly Model[] = [
  model("claude-fable-5-2", "Claude Fable 5.2", "2026-11-09", LARGE, 512),
  model("claude-mythos-5-2", "Claude Mythos 5.2", "2026-11-09", LARGE, 512),
  model("claude-haiku-5-5", "Claude Haiku 5.5", "2026-10-07", LARGE, 1024),
  model("claude-sonnet-5-5", "Claude Sonnet 5.5", "2026-09-28", LARGE, 1024),
  model("claude-fable-5-1", "Claude Fable 5.1", "2026-09-22", LARGE, 512),
  model("claude-opus-5-5", "Claude Opus 5.5", "2026-09-22", LARGE, 512),
  model("claude-mythos-5-1", "Claude Mythos 5.1", "2026-09-15", LARGE, 512),
  model("claude-sonnet-5", "Claude Sonnet 5", "2026-06-30", LARGE, 1024),
  model("claude-fable-5", "Claude Fable 5", "2026-06-30", LARGE, 512),
  model("claude-mythos-5", "Claude Mythos 5", "2026-06-30", LARGE, 512),
  model("claude-opus-5", "Claude Opus 5", "2026-06-30", LARGE, 512),
  model("claude-opus-4-8", "Claude Opus 4.8", "2026-05-20", LARGE, 1024),
  model("claude-opus-4-7", "Claude Opus 4.7", "2026-04-16", LARGE, 2048),
  model("claude-sonnet-4-6", "Claude Sonnet 4.6", "2026-02-17", LARGE, 1024),
  model("claude-opus-4-6", "Claude Opus 4.6", "2026-02-04", LARGE, 4096),
  model("claude-opus-4-5", "Claude Opus 4.5", "2025-11-24", SMALL, 4096),
  model("claude-haiku-4-5", "Claude Haiku 4.5", "2025-10-15", SMALL, 4096),
  model("claude-sonnet-4-5", "Claude Sonnet 4.5", "2025-09-29", SMALL, 1024),
];

/** Some older models have a second name, with the date of their release. */
const DATED: Readonly<Record<string, string>> = {
  "claude-haiku-4-5-20251001": "claude-haiku-4-5",
  "claude-opus-4-5-20251101": "claude-opus-4-5",
  "claude-sonnet-4-5-20250929": "claude-sonnet-4-5",
};

/** A model by one of its names. */
export function findModel(id: string): Model | undefined {
  const name = Object.hasOwn(DATED, id) ? DATED[id] : id;
  return MODELS.find((candidate) => candidate.id === name);
}

/** Only the models before Claude 4.7 take a thinking budget; adaptive thinking came with 4.6. */
export const takesBudget = (model: Model): boolean => model.version < 4.7;
export const takesAdaptive = (model: Model): boolean => model.version >= 4.6;
export const takesBetweenTools = (model: Model): boolean => model.version >= 5;
/** Since 4.6 a conversation must end with a user's turn. */
export const takesPrefill = (model: Model): boolean => model.version < 4.6;
/** Models after Opus 4.6 refuse sampling parameters other than the defaults. */
export const takesSampling = (model: Model): boolean => model.version <= 4.6;

/** A model as `GET /v1/models` tells it. */
export function modelInfo(model: Model): Record<string, unknown> {
  const yes = { supported: true };
  const flag = (supported: boolean) => ({ supported });
  return {
    type: "model",
    id: model.id,
    display_name: model.displayName,
    created_at: model.createdAt,
    line: model.line,
    lifecycle: model.id === "claude-sonnet-4-5" ? "deprecated" : "active",
    deprecated_at: model.id === "claude-sonnet-4-5" ? "2026-09-30T00:00:00Z" : null,
    retires_at: model.id === "claude-sonnet-4-5" ? "2026-11-30T00:00:00Z" : null,
    max_input_tokens: model.contextTokens,
    max_tokens: model.maxOutputTokens,
    capabilities: {
      batch: yes,
      citations: yes,
      code_execution: yes,
      image_input: yes,
      pdf_input: yes,
      structured_outputs: yes,
      context_management: {
        ...yes,
        clear_thinking_20251015: yes,
        clear_tool_uses_20250919: yes,
        compact_20260112: flag(model.version >= 4.6),
      },
      effort: {
        supported: model.version >= 4.6,
        low: flag(model.version >= 4.6),
        medium: flag(model.version >= 4.6),
        high: flag(model.version >= 4.6),
        xhigh: flag(model.version >= 4.7),
        max: flag(model.version >= 4.6),
      },
      server_tools: { ...yes, web_search: yes, code_execution: yes },
      thinking: {
        ...yes,
        types: {
          adaptive: flag(takesAdaptive(model)),
          between_tools: flag(takesBetweenTools(model)),
          disabled: yes,
          enabled: flag(takesBudget(model)),
        },
      },
    },
  };
}

/** `GET /v1/models`. A string is what is wrong with the query. */
export function modelPage(query: URLSearchParams): Record<string, unknown> | string {
  return pageById(MODELS, query, modelInfo, "model");
}
