/**
 * A Responses body as a draft (OpenAI notes §5), Cursor's among them, which come to Chat's path and carry Chat's
 * `stream_options`. Fields that change nothing at Claude (truncation, verbosity, cache retention) are repeated in the answer
 * and otherwise passed over; those whose absence the client would notice are refused.
 */
import { err, ok } from "../../result.ts";
import { asFields } from "../anthropic/usage.ts";
import type { Fields, OutputFormat, ReadBody, Telling } from "./draft.ts";
import { FieldReader } from "./fields.ts";
import { readInput } from "./responses-input.ts";
import { freeFormNames, readFormatKind, readIncludeUsage, readOffered, readShared } from "./shared-fields.ts";

/** Limits of `metadata` (openai 6.49, resources/shared: Metadata). */
const MAX_METADATA_PAIRS = 16;
const MAX_METADATA_KEY_CHARS = 64;
const MAX_METADATA_VALUE_CHARS = 512;

const ENCRYPTED = "reasoning.encrypted_content";
/** What is repeated in the answer as it was written. */
const ECHOED = [
  "instructions",
  "max_output_tokens",
  "max_tool_calls",
  "metadata",
  "parallel_tool_calls",
  "prompt_cache_key",
  "prompt_cache_options",
  "prompt_cache_retention",
  "safety_identifier",
  "service_tier",
  "temperature",
  "tool_choice",
  "tools",
  "top_logprobs",
  "top_p",
  "truncation",
  "user",
];

/** Reads a Responses body. */
export const readResponses: ReadBody = (body) => {
  const fields = new FieldReader(body);
  const shared = readShared(fields);
  const telling = tellingOf(fields);
  const own = { maxTokens: fields.whole("max_output_tokens", 1), stop: [], format: readTextFormat(fields), telling };
  const instructions = fields.text("instructions") ?? "";
  refuseUnserved(fields);
  checkMetadata(fields);
  if (fields.failure) return err(fields.failure);

  const offered = readOffered(body);
  if (!offered.ok) return offered;
  const freeForm = freeFormNames(offered.value.tools);
  const turns = readInput(body.input, freeForm, telling.previousResponseId !== null);
  if (!turns.ok) return turns;
  if (instructions !== "") turns.value.unshift({ role: "system", content: [{ type: "text", text: instructions }] });
  return ok({ ...shared, ...own, ...offered.value, turns: turns.value });
};

function refuseUnserved(fields: FieldReader): void {
  if (fields.flag("background") === true) {
    fields.refuse("background", "Background responses are not supported; use 'stream'.", "unsupported_parameter");
  }
  for (const name of ["prompt", "conversation"]) {
    if ((fields.fields[name] ?? null) !== null) {
      fields.refuse(name, `'${name}' is not supported: nothing of that kind is stored here.`, "unsupported_parameter");
    }
  }
}

function checkMetadata(fields: FieldReader): void {
  const pairs = Object.entries(fields.object("metadata") ?? {});
  if (pairs.length > MAX_METADATA_PAIRS) {
    const message = `'metadata' has more than ${MAX_METADATA_PAIRS} pairs.`;
    fields.refuse("metadata", message, "object_above_max_properties");
  }
  for (const [key, value] of pairs) {
    if (key.length > MAX_METADATA_KEY_CHARS) {
      fields.refuse("metadata", `A key of 'metadata' is longer than ${MAX_METADATA_KEY_CHARS} characters.`);
    }
    if (typeof value !== "string" || value.length > MAX_METADATA_VALUE_CHARS) {
      const message = `The values of 'metadata' must be strings of at most ${MAX_METADATA_VALUE_CHARS} characters.`;
      fields.refuse("metadata", message, "invalid_type");
    }
  }
}

/** `text.format`: as Chat's `response_format`, but flat. */
function readTextFormat(fields: FieldReader): OutputFormat {
  const format = fields.inner("text").inner("format");
  const kind = readFormatKind(format);
  if (kind !== "json_schema") return { kind };
  const schema = format.object("schema") ?? format.missing("schema");
  return schema ? { kind, schema, param: "text.format.schema" } : { kind: "text" };
}

function tellingOf(fields: FieldReader): Telling {
  return {
    shape: "responses",
    tools: new Map(),
    legacyFunctions: false,
    includeUsage: readIncludeUsage(fields),
    encryptedReasoning: fields.texts("include")?.includes(ENCRYPTED) ?? false,
    store: fields.flag("store") ?? true,
    echo: echoed(fields.fields),
    previousResponseId: fields.text("previous_response_id") || null,
  };
}

function echoed(body: Fields): Fields {
  const echo: Record<string, unknown> = {};
  for (const name of ECHOED) if ((body[name] ?? null) !== null) echo[name] = body[name];
  const reasoning = asFields(body.reasoning);
  const text = asFields(body.text);
  if (reasoning) echo.reasoning = { effort: null, summary: null, ...reasoning };
  if (text) echo.text = { ...text, format: text.format ?? { type: "text" } };
  return echo;
}
