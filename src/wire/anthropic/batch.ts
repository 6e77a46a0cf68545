/** Batches on the wire: what is asked for in one, where its results are, and what each of them used. */
import { err, ok, type Result } from "../../result.ts";
import type { Failure } from "../errors.ts";
import { parseJson } from "../json.ts";
import { elementsOf, type FieldSpan, MAX_JSON_VALUES, scanJson, trackFields } from "../json-scan.ts";
import { readMessage } from "./answer.ts";
import { type RequestFacts, readRequestFacts } from "./request.ts";
import { asFields, asText, type Usage } from "./usage.ts";

/** Values in one body: a hundred thousand requests, the most the API takes, of some forty each. */
const MAX_BATCH_VALUES = 4 * MAX_JSON_VALUES;
const REQUESTS = trackFields("requests");
const PARAMS = trackFields("params");
const RESULTS_URL = trackFields("results_url");

const encoder = new TextEncoder();
const decoder = new TextDecoder();

export type BatchBody = {
  /** How many requests it has. */
  readonly count: number;
  /** Files that any of them refers to. */
  readonly fileIds: readonly string[];
  /** Each request's facts, or what is wrong with it; read one by one, since a body may have a hundred thousand. */
  readonly requests: () => Generator<Result<RequestFacts, Failure>>;
};

/** Scans the body of a batch. */
export function readBatchBody(bytes: Uint8Array): Result<BatchBody, Failure> {
  const scan = scanJson(bytes, REQUESTS, MAX_BATCH_VALUES);
  if (!scan.ok) return scan;
  const { isObject, fields, duplicates, fileIds } = scan.value;
  if (!isObject) return invalid("The request body must be a JSON object.");
  if (duplicates.length > 0) return invalid("requests: the field occurs more than once");
  const span = fields.get("requests");
  if (!span) return invalid("requests: Field required");
  if (bytes[span.start] !== "[".charCodeAt(0)) return invalid("requests: must be an array");
  return ok({ count: span.elements, fileIds, requests: () => factsOf(bytes, span) });
}

function* factsOf(bytes: Uint8Array, span: FieldSpan): Generator<Result<RequestFacts, Failure>> {
  let n = 0;
  for (const element of elementsOf(bytes, span)) {
    const at = `requests.${n++}`;
    const scan = scanJson(element, PARAMS, MAX_BATCH_VALUES);
    if (!scan.ok) yield scan;
    else if (!scan.value.isObject) yield invalid(`${at}: must be an object`);
    else if (scan.value.duplicates.length > 0) yield invalid(`${at}.params: the field occurs more than once`);
    else {
      const params = scan.value.fields.get("params");
      if (!params) yield invalid(`${at}.params: Field required`);
      else if (element[params.start] !== "{".charCodeAt(0)) yield invalid(`${at}.params: must be an object`);
      else {
        const facts = readRequestFacts(element.subarray(params.start, params.end));
        const wrong = !facts.ok && facts.error.kind === "invalid_request" ? facts.error.message : null;
        yield wrong === null ? facts : invalid(`${at}.params.${wrong}`);
      }
    }
  }
}

/** A batch with its `results_url`, if it has one, replaced; every other byte stays. Null: there is nothing to replace. */
export function withResultsUrl(text: string, url: string): string | null {
  const bytes = encoder.encode(text);
  const scan = scanJson(bytes, RESULTS_URL);
  const span = scan.ok ? scan.value.fields.get("results_url") : undefined;
  if (!span || bytes[span.start] !== '"'.charCodeAt(0)) return null;
  return decoder.decode(bytes.subarray(0, span.start)) + JSON.stringify(url) + decoder.decode(bytes.subarray(span.end));
}

/** What one request of a batch used. Those that failed, expired or were cancelled used nothing. */
export type BatchResult = {
  readonly customId: string;
  readonly model: string | null;
  /** Null: nothing that is paid for. */
  readonly usage: Usage | null;
};

/** Reads one line of results. Null: it is not one. */
export function readBatchResult(line: string): BatchResult | null {
  const fields = asFields(parseJson(line));
  const customId = asText(fields?.custom_id);
  const result = asFields(fields?.result);
  if (customId === null || !result || typeof result.type !== "string") return null;
  const message = asFields(result.message);
  if (result.type !== "succeeded" || !message) return { customId, model: null, usage: null };
  const { usage, model } = readMessage({ ...message, type: "message" });
  usage.serviceTier ??= "batch";
  return { customId, model, usage };
}

function invalid(message: string): Result<never, Failure> {
  return err({ kind: "invalid_request", message });
}
