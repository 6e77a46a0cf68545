/**
 * The content of a message as Messages blocks: OpenAI's parts of both APIs, and Anthropic's own blocks, which Cursor puts
 * into a Chat body for models it takes for Claude. What Claude would refuse at that place is refused here, with its `param`.
 */
import { err, ok, type Result } from "../../result.ts";
import { asFields } from "../anthropic/usage.ts";
import type { Failure } from "../errors.ts";
import { isThinking, toolResult } from "./blocks.ts";
import { type Block, type Fields, refuse } from "./draft.ts";
import { readCacheControl, saysSomething, toolInput } from "./fields.ts";
import { readFile, readImage, readNativeMedia } from "./media.ts";

/** Whose content it is; `tool`: the output of a tool. */
export type PartRole = "system" | "user" | "assistant" | "tool";

/** null: nothing of it goes up. */
type ReadPart = (part: Fields, param: string) => Result<Block | null, Failure>;
type PartReader = { readonly roles: readonly PartRole[]; readonly read: ReadPart };

const ANYWHERE: readonly PartRole[] = ["system", "user", "assistant", "tool"];
/** Claude takes images and documents from users and tools alone. */
const SHOWN: readonly PartRole[] = ["user", "tool"];
const CALLED: readonly PartRole[] = ["assistant"];

const READERS: ReadonlyMap<string, PartReader> = new Map<string, PartReader>([
  ["text", { roles: ANYWHERE, read: textOf("text") }],
  ["input_text", { roles: ANYWHERE, read: textOf("text") }],
  ["output_text", { roles: ANYWHERE, read: textOf("text") }],
  ["refusal", { roles: ANYWHERE, read: textOf("refusal") }],
  ["image_url", { roles: SHOWN, read: readImage }],
  ["input_image", { roles: SHOWN, read: readImage }],
  ["file", { roles: SHOWN, read: readFile }],
  ["input_file", { roles: SHOWN, read: readFile }],
  ["image", { roles: SHOWN, read: readNativeMedia }],
  ["document", { roles: SHOWN, read: readNativeMedia }],
  ["search_result", { roles: SHOWN, read: asWritten }],
  ["tool_reference", { roles: ["tool"], read: asWritten }],
  ["container_upload", { roles: ["user"], read: asWritten }],
  ["tool_result", { roles: ["user"], read: readToolResult }],
  ["tool_use", { roles: CALLED, read: readToolUse }],
  ["thinking", { roles: CALLED, read: readThinking }],
  ["redacted_thinking", { roles: CALLED, read: readRedactedThinking }],
  ["server_tool_use", { roles: CALLED, read: asWritten }],
  ["mcp_tool_use", { roles: CALLED, read: asWritten }],
]);
const SERVER_RESULT: PartReader = { roles: CALLED, read: asWritten };

/**
 * Reads a message's content: a text, a list of parts, or nothing. `param` names it (`messages[2].content`). Blank texts are
 * still there; `placeSystem` drops them.
 */
export function readParts(content: unknown, param: string, role: PartRole): Result<Block[], Failure> {
  if (content === undefined || content === null) return ok([]);
  if (typeof content === "string") return ok([{ type: "text", text: content }]);
  if (!Array.isArray(content)) {
    return err(refuse(`'${param}' must be a string or an array of content parts.`, param, "invalid_type"));
  }
  const blocks: Block[] = [];
  for (let i = 0; i < content.length; i++) {
    const part: unknown = content[i];
    if (typeof part === "string") {
      blocks.push({ type: "text", text: part });
      continue;
    }
    const block = readPart(asFields(part), `${param}[${i}]`, role);
    if (!block.ok) return block;
    if (block.value) blocks.push(block.value);
  }
  return ok(blocks);
}

function readPart(part: Fields | undefined, param: string, role: PartRole): Result<Block | null, Failure> {
  const type = part?.type;
  if (!part || typeof type !== "string") {
    return err(refuse(`'${param}' must be a content part with a type.`, param, "invalid_type"));
  }
  const reader = READERS.get(type) ?? (type.endsWith("_tool_result") ? SERVER_RESULT : undefined);
  if (!reader?.roles.includes(role)) {
    const why = reader ? `in ${role} messages` : "by this gateway";
    return err(
      refuse(`Content parts of type '${type.slice(0, 80)}' are not supported ${why}.`, param, "invalid_value"),
    );
  }
  const block = reader.read(part, param);
  if (!block.ok || block.value === null || isThinking(block.value)) return block;
  const cache = readCacheControl(part, param);
  if (!cache.ok) return cache;
  if (cache.value) block.value.cache_control = cache.value;
  return block;
}

function textOf(field: "text" | "refusal"): ReadPart {
  return (part, param) => {
    const text = part[field];
    if (typeof text === "string") return ok({ type: "text", text });
    return err(refuse(`'${param}.${field}' must be a string.`, `${param}.${field}`, "invalid_type"));
  };
}

/** A block that only Anthropic's own API has, and that therefore comes from somebody who knows it. */
function asWritten(part: Fields): Result<Block, Failure> {
  const { cache_control: _, prompt_cache_breakpoint: __, ...block } = part;
  return ok(block as Block);
}

function readToolResult(part: Fields, param: string): Result<Block, Failure> {
  const { tool_use_id: id, is_error: isError } = part;
  if (typeof id !== "string" || id === "") {
    return err(refuse(`'${param}.tool_use_id' must be a string.`, `${param}.tool_use_id`));
  }
  const content = readParts(part.content, `${param}.content`, "tool");
  if (!content.ok) return content;
  return ok(toolResult(id, content.value, isError === true));
}

function readToolUse(part: Fields, param: string): Result<Block, Failure> {
  const { id, name, input } = part;
  if (typeof id !== "string" || id === "") return err(refuse(`'${param}.id' must be a string.`, `${param}.id`));
  if (typeof name !== "string" || name === "") return err(refuse(`'${param}.name' must be a string.`, `${param}.name`));
  const block: Block = { type: "tool_use", id, name, input: toolInput(input) };
  if (isCaller(part.caller)) block.caller = part.caller;
  return ok(block);
}

/** Who called it: Claude itself, or its code in a server tool's run. */
function isCaller(written: unknown): boolean {
  const { type, tool_id: id } = asFields(written) ?? {};
  return type === "direct" || (typeof type === "string" && typeof id === "string");
}

/** Thinking goes back only with its signature: without one Claude refuses it. */
function readThinking({ thinking, signature }: Fields): Result<Block | null, Failure> {
  if (typeof signature !== "string" || signature === "") return ok(null);
  return ok({ type: "thinking", thinking: typeof thinking === "string" ? thinking : "", signature });
}

function readRedactedThinking({ data }: Fields): Result<Block | null, Failure> {
  return ok(typeof data === "string" && data !== "" ? { type: "redacted_thinking", data } : null);
}

/**
 * The thinking that a Chat client gives back in `reasoning_details`, with `reasoning_content` for its text. A stream tells
 * text and signature apart, and some clients keep them as entries of their own: a signature closes the text before it.
 */
export function readReasoning(details: unknown, content: unknown): Block[] {
  if (!Array.isArray(details)) return [];
  const blocks: Block[] = [];
  let text = "";
  for (const each of details) {
    const detail = asFields(each) ?? {};
    if (detail.type === "reasoning.encrypted") {
      const { data } = detail;
      if (typeof data === "string" && data !== "") blocks.push({ type: "redacted_thinking", data });
      continue;
    }
    // Summaries are no thinking of Claude's.
    if (detail.type !== undefined && detail.type !== "reasoning.text") continue;
    if (typeof detail.text === "string") text += detail.text;
    if (typeof detail.signature !== "string" || detail.signature === "") continue;
    blocks.push({ type: "thinking", thinking: text, signature: detail.signature });
    text = "";
  }
  const [only] = blocks;
  if (blocks.length === 1 && only?.thinking === "" && typeof content === "string" && saysSomething(content)) {
    only.thinking = content;
  }
  return blocks;
}
