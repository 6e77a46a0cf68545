/**
 * Reads what a client offers as tools, in every form that clients write, also several in one list: Chat's envelope
 * (`{type: "function", function: {…}}`), the flat form of Responses and Cursor, bare Anthropic tools
 * (`{name, description, input_schema}`), free-form ones (`custom`) in both envelopes, Codex's namespaces of tools,
 * `functions` of old, and built-in types (hosted-tools.ts).
 *
 * Of several tools with one name the last stays, in the first one's place: nobody could tell their calls apart, and
 * Claude refuses the list ("Tool names must be unique").
 */
import { err, ok, type Result } from "../../result.ts";
import { MAX_TOOLS } from "../anthropic/request.ts";
import { asFields, asText } from "../anthropic/usage.ts";
import type { Failure } from "../errors.ts";
import {
  type CacheControl,
  type Fields,
  FREE_FORM_FIELD,
  inNamespace,
  refuse,
  type ToolDraft,
  toolDraft,
} from "./draft.ts";
import { FieldReader, readCacheControl } from "./fields.ts";
import { readHostedTool } from "./hosted-tools.ts";

/** The tools of a Chat or Responses body: `tools`, or else `functions`. */
export function readTools(body: Fields): Result<ToolDraft[], Failure> {
  const tools = body.tools ?? null;
  return tools === null ? readList(body.functions ?? [], "functions") : readList(tools, "tools");
}

function readList(list: unknown, param: string): Result<ToolDraft[], Failure> {
  if (!Array.isArray(list)) {
    return err(refuse(`Invalid type for '${param}': expected an array of tools.`, param, "invalid_type"));
  }
  const tools = new Map<string, ToolDraft>();
  for (const [i, each] of list.entries()) {
    const read = readEntry(each, `${param}[${i}]`);
    if (!read.ok) return read;
    for (const tool of read.value) {
      const { name, definition } = tool;
      // A built-in tool may have the name of a function, or none at all (`mcp_toolset`).
      tools.set(definition === null ? `function ${name}` : `built-in ${name || i}`, tool);
    }
    if (tools.size > MAX_TOOLS) return err(refuse(`'${param}' has more than ${MAX_TOOLS} tools.`, param));
  }
  return ok([...tools.values()]);
}

/** One tool, or those of a namespace. */
function readEntry(each: unknown, param: string): Result<readonly ToolDraft[], Failure> {
  const entry = asFields(each);
  if (entry?.type === "namespace") return readNamespace(entry, param);
  const tool = readTool(each, param);
  return tool.ok ? ok([tool.value]) : tool;
}

/**
 * Claude knows no namespaces: each of its tools stands for itself, under a name that begins with the namespace's. What the
 * client says of them all is said with the first.
 */
function readNamespace(entry: Fields, param: string): Result<readonly ToolDraft[], Failure> {
  const fields = new FieldReader(entry, `${param}.`);
  const namespace = fields.required("name");
  const about = fields.text("description");
  const list = fields.list("tools") ?? [];
  if (list.length === 0) fields.missing("tools");
  if (fields.failure) return err(fields.failure);
  const tools: ToolDraft[] = [];
  for (const [i, each] of list.entries()) {
    const tool = readTool(each, `${param}.tools[${i}]`);
    if (!tool.ok) return tool;
    const { name, description, definition } = tool.value;
    const note = about && i === 0 ? `About all tools of \`${namespace}\`: ${about}` : null;
    tools.push(
      definition
        ? tool.value
        : {
            ...tool.value,
            name: inNamespace(namespace, name),
            description: [description, note].filter((text) => text !== null).join("\n\n") || null,
            namespace,
          },
    );
  }
  return ok(tools);
}

function readTool(each: unknown, param: string): Result<ToolDraft, Failure> {
  const tool = asFields(each);
  if (!tool) return err(refuse(`Invalid type for '${param}': expected an object.`, param, "invalid_type"));
  const type = tool.type ?? null;
  if (type !== null && typeof type !== "string") {
    return err(refuse(`Invalid type for '${param}.type': expected a string.`, `${param}.type`, "invalid_type"));
  }
  const cacheControl = readCacheControl(tool, param);
  if (!cacheControl.ok) return cacheControl;
  // Anthropic's own tools may say `custom` as well; they have a schema.
  if (type === "custom" && !asFields(tool.input_schema)) return readFreeForm(tool, cacheControl.value, param);
  if (type === null || type === "function" || type === "custom") return readFunction(tool, cacheControl.value, param);
  return readHostedTool(tool, type, cacheControl.value, param);
}

function readFunction(tool: Fields, cacheControl: CacheControl | null, param: string): Result<ToolDraft, Failure> {
  const enveloped = asFields(tool.function);
  const at = enveloped ? `${param}.function` : param;
  const fields = new FieldReader(enveloped ?? tool, `${at}.`);
  const name = fields.required("name");
  const description = fields.text("description") || null;
  const strict = fields.flag("strict") ?? (enveloped ? new FieldReader(tool, `${param}.`).flag("strict") : null);
  const schema = readSchema(fields, "parameters" in fields.fields ? "parameters" : "input_schema");
  if (fields.failure) return err(fields.failure);
  const inner = cacheControl || !enveloped ? ok(cacheControl) : readCacheControl(enveloped, at);
  if (!inner.ok) return inner;
  const native = asFields(tool.input_schema) ? nativeFields(tool) : null;
  const said = { description, schema, strict, cacheControl: inner.value };
  return ok(toolDraft(name, native ? { ...said, native } : said));
}

/** What of a bare tool OpenAI has no word for (anthropic SDK 1.11, Tool). A field of another type is passed over. */
function nativeFields(tool: Fields): Fields | null {
  const native: Record<string, unknown> = {};
  for (const name of ["defer_loading", "eager_input_streaming"]) {
    if (typeof tool[name] === "boolean") native[name] = tool[name];
  }
  for (const name of ["allowed_callers", "input_examples"]) if (Array.isArray(tool[name])) native[name] = tool[name];
  return Object.keys(native).length > 0 ? native : null;
}

/** No schema and the one that allows everything are the same here: an object of whatever it likes. */
function readSchema(fields: FieldReader, field: string): Fields {
  return typeof fields.fields[field] === "boolean" ? {} : (fields.object(field) ?? {});
}

function readFreeForm(tool: Fields, cacheControl: CacheControl | null, param: string): Result<ToolDraft, Failure> {
  const enveloped = asFields(tool.custom);
  const fields = new FieldReader(enveloped ?? tool, enveloped ? `${param}.custom.` : `${param}.`);
  const name = fields.required("name");
  const described = fields.text("description") ?? "";
  const format = fields.object("format");
  if (fields.failure) return err(fields.failure);
  const texts = [described, format ? grammarIn(format) : ""].filter((text) => text !== "");
  const description = texts.join("\n\n") || null;
  return ok(toolDraft(name, { description, schema: FREE_FORM_SCHEMA, freeForm: true, cacheControl }));
}

const FREE_FORM_SCHEMA: Fields = {
  type: "object",
  properties: { [FREE_FORM_FIELD]: { type: "string", description: "The whole input of the tool, as plain text." } },
  required: [FREE_FORM_FIELD],
  additionalProperties: false,
};

/** Claude is not held to a grammar, but told of it. Chat has it one level deeper than Responses. */
function grammarIn(format: Fields): string {
  const grammar = asFields(format.grammar) ?? format;
  const definition = asText(grammar.definition);
  if (definition === null) return "";
  const syntax = asText(grammar.syntax);
  return `The input must follow this ${syntax ? `${syntax} ` : ""}grammar:\n${definition}`;
}
