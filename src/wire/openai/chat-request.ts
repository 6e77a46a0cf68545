/**
 * A Chat Completions body as a draft: what OpenAI clients write, and what Cursor writes into it for models it takes for
 * Claude (system as blocks, tool_use and tool_result blocks, bare tools). Fields that Claude has nothing like are passed
 * over; those whose absence the client would notice in the answer (several choices, audio) are refused.
 */
import { err, ok } from "../../result.ts";
import { readMessages } from "./chat-messages.ts";
import type { OutputFormat, ReadBody, Telling } from "./draft.ts";
import { FieldReader, readCacheControl, saysSomething } from "./fields.ts";
import { readParts } from "./parts.ts";
import { freeFormNames, readFormatKind, readIncludeUsage, readOffered, readShared } from "./shared-fields.ts";

/** Reads a Chat Completions body. */
export const readChat: ReadBody = (body) => {
  const fields = new FieldReader(body);
  const shared = readShared(fields);
  const own = {
    maxTokens: readMaxTokens(fields),
    stop: readStop(fields),
    format: readFormat(fields),
    telling: tellingOf(fields),
  };
  refuseUnserved(fields);
  if (fields.failure) return err(fields.failure);

  const offered = readOffered(body);
  if (!offered.ok) return offered;
  const cacheControl = readCacheControl(body, "");
  if (!cacheControl.ok) return cacheControl;
  if (cacheControl.value) shared.extra.cache_control = cacheControl.value;
  const turns = readMessages(body.messages, freeFormNames(offered.value.tools));
  if (!turns.ok) return turns;
  // As in Messages itself, which is where a client that writes it has it from.
  const system = readParts(body.system, "system", "system");
  if (!system.ok) return system;
  if (system.value.length > 0) turns.value.unshift({ role: "system", content: system.value });
  return ok({ ...shared, ...own, ...offered.value, turns: turns.value });
};

function readMaxTokens(fields: FieldReader): number | null {
  const newer = fields.whole("max_completion_tokens", 1);
  const older = fields.whole("max_tokens", 1);
  return newer ?? older;
}

function readStop(fields: FieldReader): string[] {
  const stop = fields.texts("stop") ?? fields.texts("stop_sequences") ?? [];
  return stop.filter(saysSomething);
}

function refuseUnserved(fields: FieldReader): void {
  const n = fields.number("n");
  if (n !== null && n !== 1) fields.refuse("n", "Only one choice (n: 1) is supported.", "unsupported_value");
  const { modalities, audio } = fields.fields;
  if (Array.isArray(modalities) && modalities.includes("audio")) {
    fields.refuse("modalities", "Audio output is not supported.", "unsupported_value");
  }
  if ((audio ?? null) !== null) fields.refuse("audio", "Audio output is not supported.", "unsupported_parameter");
}

function tellingOf(fields: FieldReader): Telling {
  return {
    shape: "chat",
    tools: new Map(),
    legacyFunctions: (fields.fields.tools ?? null) === null && Array.isArray(fields.fields.functions),
    includeUsage: readIncludeUsage(fields),
    encryptedReasoning: false,
    store: false,
    echo: {},
    previousResponseId: null,
  };
}

function readFormat(fields: FieldReader): OutputFormat {
  const written = fields.inner("response_format");
  const kind = readFormatKind(written);
  if (kind !== "json_schema") return { kind };
  if (!written.object("json_schema")) written.missing("json_schema");
  const schema = written.inner("json_schema").object("schema");
  // A format without a schema asks for JSON and nothing more.
  return schema ? { kind, schema, param: "response_format" } : { kind: "json_object" };
}
