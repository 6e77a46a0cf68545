/**
 * Tools that the model's maker runs or defines. Anthropic's pass as they are, OpenAI's web search becomes Claude's; the
 * rest of OpenAI's run nowhere here and are refused, because a client that offers one counts on it.
 */
import { err, ok, type Result } from "../../result.ts";
import { asFields, asText } from "../anthropic/usage.ts";
import type { Failure } from "../errors.ts";
import { type CacheControl, type Fields, refuse, type ToolDraft, toolDraft } from "./draft.ts";

/** As Anthropic names its own: `bash_20250124`, `web_search_20260318`. Which there are upstream knows best. */
const ANTHROPIC_TYPE = /^[a-z_]+_20\d{6}$/;
const UNDATED_TYPES: readonly string[] = ["mcp_toolset", "tool_search_tool_regex", "tool_search_tool_bm25"];
/** OpenAI's (openai 6.49, resources/responses: WebSearchTool, WebSearchPreviewTool). */
const WEB_SEARCH_TYPE = /^web_search(?:_preview)?(?:_20\d\d_\d\d_\d\d)?$/;

/** Claude's search that every model of the table has; the later ones run code as well. */
const WEB_SEARCH = { type: "web_search_20250305", name: "web_search" } as const;

/** For `mcp_servers`, and the tools that stand for them. */
export const MCP_BETA = "mcp-client-2025-11-20";
/** Types that upstream takes only with a beta (anthropic SDK 1.11, AnthropicBeta). */
const BETAS: readonly (readonly [type: string, beta: string])[] = [
  ["computer_20241022", "computer-use-2024-10-22"],
  ["bash_20241022", "computer-use-2024-10-22"],
  ["text_editor_20241022", "computer-use-2024-10-22"],
  ["computer_20250124", "computer-use-2025-01-24"],
  ["computer_20251124", "computer-use-2025-11-24"],
  ["code_execution_20250522", "code-execution-2025-05-22"],
  ["advisor_20260301", "advisor-tool-2026-03-01"],
  ["mcp_toolset", MCP_BETA],
];
const BETA_OF: ReadonlyMap<unknown, string> = new Map(BETAS);

/** The beta that a built-in tool needs, if any. */
export function betaFor(definition: Fields): string | undefined {
  return BETA_OF.get(definition.type);
}

/** Reads a tool of a type that is neither `function` nor `custom`. */
export function readHostedTool(
  tool: Fields,
  type: string,
  cacheControl: CacheControl | null,
  param: string,
): Result<ToolDraft, Failure> {
  if (WEB_SEARCH_TYPE.test(type)) return ok(builtIn(webSearch(tool), cacheControl));
  if (ANTHROPIC_TYPE.test(type) || UNDATED_TYPES.includes(type)) {
    const { cache_control: _, prompt_cache_breakpoint: __, ...definition } = tool;
    return ok(builtIn(definition, cacheControl));
  }
  return err(
    refuse(
      `Tools of the type '${type.slice(0, 64)}' are not served here. There are 'function', 'custom', 'namespace', 'web_search' and Anthropic's own types.`,
      `${param}.type`,
      "unsupported_value",
    ),
  );
}

/** What a `tool_choice` of OpenAI's calls web search, as Claude calls it; null: another type. */
export function hostedToolName(type: string): string | null {
  return WEB_SEARCH_TYPE.test(type) ? WEB_SEARCH.name : null;
}

/** Passed whole, its cache breakpoint in it. */
function builtIn(tool: Fields, cacheControl: CacheControl | null): ToolDraft {
  const definition = cacheControl ? { ...tool, cache_control: cacheControl } : tool;
  return toolDraft(asText(tool.name) ?? "", { definition });
}

/** `search_context_size` has nothing that answers to it. */
function webSearch(tool: Fields): Fields {
  const filters = asFields(tool.filters) ?? {};
  const allowed = domains(filters.allowed_domains);
  const blocked = domains(filters.blocked_domains);
  const place = asFields(tool.user_location);
  return {
    ...WEB_SEARCH,
    // Claude takes one list or the other.
    ...(allowed ? { allowed_domains: allowed } : blocked ? { blocked_domains: blocked } : {}),
    ...(place ? { user_location: userLocation(place) } : {}),
  };
}

function domains(list: unknown): string[] | null {
  const names = Array.isArray(list) ? list.filter((each) => typeof each === "string" && each !== "") : [];
  return names.length > 0 ? names : null;
}

function userLocation(place: Fields): Fields {
  const location: Record<string, unknown> = { type: "approximate" };
  for (const field of ["city", "region", "country", "timezone"]) {
    if (typeof place[field] === "string" && place[field] !== "") location[field] = place[field];
  }
  return location;
}
