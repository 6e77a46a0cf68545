/** What the gateway decides by in a Messages or count_tokens body. The body itself goes upstream as it came. */
import { err, ok, type Result } from "../../result.ts";
import type { Failure } from "../errors.ts";
import { scanJson, trackFields } from "../json-scan.ts";

/** More messages than this are refused by the API itself (wire notes §5.1). */
export const MAX_MESSAGES = 100_000;
/** Far above what any model accepts; a bound for whoever walks the list. */
export const MAX_TOOLS = 4_096;
/** No model answers with a hundredth of this. */
export const MAX_MAX_TOKENS = 10_000_000;
const MAX_MODEL_CHARS = 256;

const DECIDING = ["model", "stream", "max_tokens"];
const TRACKED = trackFields(...DECIDING, "messages", "tools");
const decoder = new TextDecoder();

export type RequestFacts = {
  readonly model: string;
  readonly stream: boolean;
  /** Null where the body has none; upstream then says whether it needs one. */
  readonly maxTokens: number | null;
};

/** Scans a body and reads the fields that the gateway decides by. */
export function readRequestFacts(bytes: Uint8Array): Result<RequestFacts, Failure> {
  const scan = scanJson(bytes, TRACKED);
  if (!scan.ok) return scan;
  const { isObject, fields, duplicates } = scan.value;
  if (!isObject) return invalid("The request body must be a JSON object.");
  const doubled = duplicates.find((name) => DECIDING.includes(name));
  if (doubled) return invalid(`${doubled}: the field occurs more than once`);

  const value = (name: string): unknown => {
    const span = fields.get(name);
    // Values that decide are short; a long one is of the wrong type, and its own text would say nothing more.
    if (!span) return undefined;
    if (span.end - span.start > MAX_MODEL_CHARS * 6) return null;
    return JSON.parse(decoder.decode(bytes.subarray(span.start, span.end)));
  };
  const model = value("model");
  if (model === undefined) return invalid("model: Field required");
  if (typeof model !== "string" || model === "" || model.length > MAX_MODEL_CHARS) {
    return invalid(`model: must be a string of 1 to ${MAX_MODEL_CHARS} characters`);
  }
  const stream = value("stream") ?? false;
  if (typeof stream !== "boolean") return invalid("stream: must be true or false");
  const maxTokens = value("max_tokens");
  if (maxTokens !== undefined && !(Number.isInteger(maxTokens) && (maxTokens as number) >= 0)) {
    return invalid("max_tokens: must be a whole number, 0 or more");
  }
  if (maxTokens !== undefined && (maxTokens as number) > MAX_MAX_TOKENS) {
    return invalid(`max_tokens: must not be above ${MAX_MAX_TOKENS}`);
  }
  for (const [name, limit] of [
    ["messages", MAX_MESSAGES],
    ["tools", MAX_TOOLS],
  ] as const) {
    if ((fields.get(name)?.elements ?? 0) > limit) return invalid(`${name}: more than ${limit} entries`);
  }
  return ok({ model, stream, maxTokens: (maxTokens as number | undefined) ?? null });
}

function invalid(message: string): Result<never, Failure> {
  return err({ kind: "invalid_request", message });
}
