/** A draft that fits its model, as the body of a Messages call, and the headers that this body needs. */
import { wellFormedJson } from "../json.ts";
import type { Block, Draft, Fields, ToolDraft, Turn } from "./draft.ts";

/** The last API version that takes `temperature`, `top_p` and `top_k` (OpenAI notes §0.1). */
const VERSION_WITH_SAMPLING = "2023-06-01";
const VERSION = "2026-10-21";

/** Fields of `extra` that steps have taken into the draft. */
const TAKEN = new Set(["thinking", "output_config", "cache_control", "top_k"]);

/** The `anthropic-version` for a body with or without sampling parameters. */
export function versionFor(samples: boolean): string {
  return samples ? VERSION_WITH_SAMPLING : VERSION;
}

/** The body of `POST /v1/messages`. It shares its blocks and schemas with the draft. */
export function messagesBody(draft: Draft): Fields {
  const { systems, rest } = splitSystem(draft.turns);
  const tools = draft.tools.map(toolOf);
  const { thinking, outputConfig, cacheControl, userId } = draft.body;
  const body: Record<string, unknown> = {
    model: draft.model,
    max_tokens: draft.maxTokens,
    ...(systems.length > 0 && { system: systems }),
    messages: rest,
    ...(tools.length > 0 && { tools, ...choiceOf(draft) }),
    ...(thinking && { thinking }),
    ...(outputConfig && { output_config: outputConfig }),
    ...(draft.temperature !== null && { temperature: draft.temperature }),
    ...(draft.topP !== null && { top_p: draft.topP }),
    ...(draft.topK !== null && { top_k: draft.topK }),
    ...(draft.stop.length > 0 && { stop_sequences: draft.stop }),
    ...(draft.stream && { stream: true }),
    ...(cacheControl && { cache_control: cacheControl }),
    ...(userId !== undefined && { metadata: { user_id: userId } }),
    ...(draft.serviceTier && { service_tier: draft.serviceTier }),
  };
  for (const [field, value] of Object.entries(draft.extra)) {
    if (!TAKEN.has(field) && !Object.hasOwn(body, field)) body[field] = value;
  }
  return body;
}

/** The same as JSON. */
export function messagesJson(draft: Draft): string {
  return wellFormedJson(messagesBody(draft));
}

/** The system turns at the front are the `system` of the call; later ones stay where they are. */
function splitSystem(turns: readonly Turn[]): { systems: Block[]; rest: readonly Turn[] } {
  const first = turns.findIndex(({ role }) => role !== "system");
  const at = first === -1 ? turns.length : first;
  return { systems: turns.slice(0, at).flatMap(({ content }) => content), rest: at === 0 ? turns : turns.slice(at) };
}

function toolOf({ name, description, schema, strict, cacheControl, definition, native }: ToolDraft): Fields {
  if (definition) return definition;
  return {
    name,
    ...(description && { description }),
    input_schema: schema ?? { type: "object", properties: {} },
    ...(strict === true && { strict }),
    ...(cacheControl && { cache_control: cacheControl }),
    ...native,
  };
}

/** `auto` is what the API does by itself. `none` has no word on parallel calls, as it makes none. */
function choiceOf({ toolChoice: choice, parallelToolCalls }: Draft): Fields | null {
  const one = parallelToolCalls === false ? { disable_parallel_tool_use: true } : null;
  switch (choice?.kind) {
    case "none":
      return { tool_choice: { type: "none" } };
    case "any":
      return { tool_choice: { type: "any", ...one } };
    case "tool":
      return { tool_choice: { type: "tool", name: choice.name, ...one } };
    case "allowed":
      return choice.must ? { tool_choice: { type: "any", ...one } } : one && { tool_choice: { type: "auto", ...one } };
    default:
      return one && { tool_choice: { type: "auto", ...one } };
  }
}

/** The headers that the body of a draft that has been fitted needs. A version that the client sent itself goes before. */
export function requestHeaders(draft: Draft): Readonly<Record<string, string>> {
  const samples = draft.temperature !== null || draft.topP !== null || draft.topK !== null;
  const version = versionFor(samples);
  if (draft.betas.size === 0) return { "anthropic-version": version };
  return { "anthropic-version": version, "anthropic-beta": [...draft.betas].sort().join(",") };
}
