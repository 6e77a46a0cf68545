/** What the gateway decides by in a Messages or count_tokens body. The body itself goes upstream as it came. */
import { err, ok, type Result } from "../../result.ts";
import type { Failure } from "../errors.ts";
import { parseJson } from "../json.ts";
import { type FieldSpan, scanJson, trackFields } from "../json-scan.ts";
import { asFields, asText } from "./usage.ts";

/** More messages than this are refused by the API itself (wire notes §5.1). */
export const MAX_MESSAGES = 100_000;
/** Far above what any model accepts; a bound for whoever walks the list. */
export const MAX_TOOLS = 4_096;
/** No model answers with a hundredth of this. */
export const MAX_MAX_TOKENS = 10_000_000;
const MAX_MODEL_CHARS = 256;

const DECIDING = ["model", "stream", "max_tokens", "speed", "inference_geo", "fallbacks", "tools"];
const TRACKED = trackFields(...DECIDING, ...["messages", "context_management", "compaction", "metadata", "container"]);
/** A longer `metadata` names nobody; Claude Code's is some 200 characters. */
const MAX_METADATA_BYTES = 4_096;
const decoder = new TextDecoder();

export type RequestFacts = {
  readonly model: string;
  readonly stream: boolean;
  /** Null where the body has none; upstream then says whether it needs one. */
  readonly maxTokens: number | null;
  /** Size of the whole body. */
  readonly bytes: number;
  /** Bytes of it that are base64 of images and documents, and in how many pieces; for estimates of input tokens. */
  readonly mediaBytes: number;
  readonly mediaCount: number;
  /** `speed: "fast"`, or any other but `standard`: the price of fast mode is the dearest known. */
  readonly fast: boolean;
  /** What `inference_geo` says; null: nothing, so the upstream account's default counts. */
  readonly geo: string | null;
  /** `metadata.user_id`, or null. */
  readonly userId: string | null;
  /** Whether the body holds what only the account that made it can read (signed thinking, a container, a file). */
  readonly bound: boolean;
  /** Files that it refers to. */
  readonly fileIds: readonly string[];
  /** Where the body says what may ask another model or cost another pass; read only where it counts. */
  readonly extras: { readonly [K in (typeof EXTRA_FIELDS)[number]]?: Uint8Array };
};

const EXTRA_FIELDS = ["tools", "fallbacks", "context_management", "compaction"] as const;

/** Scans a body and reads the fields that the gateway decides by. */
export function readRequestFacts(bytes: Uint8Array): Result<RequestFacts, Failure> {
  const scan = scanJson(bytes, TRACKED);
  if (!scan.ok) return scan;
  const { isObject, fields, duplicates, mediaBytes, mediaCount, fileIds } = scan.value;
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
  const speed = value("speed") ?? "standard";
  const geo = value("inference_geo") ?? null;
  const extras: { [K in (typeof EXTRA_FIELDS)[number]]?: Uint8Array } = {};
  for (const name of EXTRA_FIELDS) {
    const span = fields.get(name);
    if (span) extras[name] = bytes.subarray(span.start, span.end);
  }
  return ok({
    model,
    stream,
    maxTokens: (maxTokens as number | undefined) ?? null,
    bytes: bytes.length,
    mediaBytes,
    mediaCount,
    fast: speed !== "standard",
    // Of whatever type: what is not known costs what the dearest does.
    geo: geo === null ? null : String(geo),
    userId: userIdOf(fields.get("metadata"), bytes),
    bound: scan.value.bound || fileIds.length > 0 || isThere(fields.get("container"), bytes),
    fileIds,
    extras,
  });
}

function userIdOf(span: FieldSpan | undefined, bytes: Uint8Array): string | null {
  if (!span || span.end - span.start > MAX_METADATA_BYTES) return null;
  return asText(asFields(parseJson(decoder.decode(bytes.subarray(span.start, span.end))))?.user_id);
}

/** Whether a field says anything but `null`. */
function isThere(span: FieldSpan | undefined, bytes: Uint8Array): boolean {
  return span !== undefined && bytes[span.start] !== 0x6e;
}

/** Searches of a web search tool without `max_uses`: the API's own loop pauses after about ten rounds. */
const UNSTATED_SEARCHES = 10;
/** No reservation multiplies by more of anything than this. */
const MAX_TIMES = 100;

/** What a request may cost beside one pass over its model. */
export type Extras = {
  readonly webSearches: number;
  /** Models that may pass over the prompt too: fallbacks, advisors, and the request's own for a compaction. */
  readonly passes: readonly string[];
};

const NO_EXTRAS: Extras = { webSearches: 0, passes: [] };

/** Reads what may make a request dearer than its prompt and `max_tokens`. Never throws: the body has been scanned. */
export function extrasOf({ model, extras }: RequestFacts): Extras {
  const tools = asList(readIf(extras.tools, /web_search|advisor|\\u/));
  const fallbacks = extras.fallbacks ? asList(readIf(extras.fallbacks, /./)) : [];
  const compacts = extras.compaction
    ? readIf(extras.compaction, /./) !== null
    : readIf(extras.context_management, /compact|\\u/) !== null;
  if (tools.length === 0 && fallbacks.length === 0 && !compacts) return NO_EXTRAS;
  let webSearches = 0;
  const passes: string[] = compacts ? [model] : [];
  for (const tool of tools) {
    const { type, max_uses: uses, model: named } = asFields(tool) ?? {};
    if (typeof type !== "string") continue;
    const times = (unstated: number): number =>
      typeof uses === "number" && uses >= 0 ? Math.min(MAX_TIMES, Math.ceil(uses)) : unstated;
    if (type.startsWith("web_search")) webSearches += times(UNSTATED_SEARCHES);
    else if (type.startsWith("advisor")) {
      for (let n = times(1); n > 0; n--) passes.push(typeof named === "string" ? named : model);
    }
  }
  for (const fallback of fallbacks) {
    passes.push(modelOfFallback(fallback) ?? model);
  }
  return { webSearches, passes: passes.slice(0, MAX_TIMES) };
}

/** Every model that a request may put to work: its own, and those that its advisors and fallbacks name. */
export function* modelsOf({ model, extras }: RequestFacts): Generator<string> {
  yield model;
  for (const tool of asList(readIf(extras.tools, /advisor|\\u/))) {
    const { type, model: named } = asFields(tool) ?? {};
    if (typeof type === "string" && type.startsWith("advisor") && typeof named === "string") yield named;
  }
  for (const fallback of asList(readIf(extras.fallbacks, /./))) {
    const named = modelOfFallback(fallback);
    if (named !== null) yield named;
  }
}

function modelOfFallback(fallback: unknown): string | null {
  return asText(fallback) ?? asText(asFields(fallback)?.model);
}

/** The value of a field in whose text there is a sign of what is looked for; null: there is none. */
function readIf(bytes: Uint8Array | undefined, sign: RegExp): unknown {
  if (!bytes) return null;
  const text = decoder.decode(bytes);
  return sign.test(text) ? JSON.parse(text) : null;
}

const asList = (value: unknown): readonly unknown[] => (Array.isArray(value) ? value : []);

function invalid(message: string): Result<never, Failure> {
  return err({ kind: "invalid_request", message });
}
