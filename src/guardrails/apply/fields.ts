/**
 * What a field's name says about its value. Text is looked at wherever it is not known to be something else: what is
 * opaque is listed by name, and a field or a block that is new tomorrow is looked at.
 */

/** How a value is read. A container hands its own on to what is inside of it, unless a name says otherwise. */
export const READ = {
  /** Nothing in it is text. */
  skip: 0,
  /** Strings are text, at any depth, but for opaque fields. */
  look: 1,
  /** Strings are text, at any depth, whatever their fields are called: what a tool is given. */
  values: 2,
  /** A JSON Schema: what describes is text; what decides what is valid is not. */
  schema: 3,
  /** A body of `POST /v1/messages`. */
  body: 4,
  /** A body of `POST /v1/messages/batches`. */
  batch: 5,
  /** A list of tools, and one of them. */
  tools: 6,
  tool: 7,
  servers: 8,
  server: 9,
  /** A list of names of betas. */
  betas: 10,
  /** A message as it is answered. */
  answer: 11,
  /** An event of a stream, and what it adds to a block. */
  event: 12,
  delta: 13,
  /** A string names the type of what it stands in, the name, the address. */
  type: 14,
  name: 15,
  url: 16,
  /** Text, unless the type says that it is not. */
  data: 17,
  thinking: 18,
  compacted: 19,
  /** An address if it is a string, else where a document or an image comes from. */
  source: 20,
  /** A line of a batch's results. */
  result: 21,
  /** As `look`, in an answer: what the model has signed stays as it is. */
  said: 22,
  /** Whose words a message is. */
  role: 23,
} as const;
export type Read = (typeof READ)[keyof typeof READ];

type Names = Readonly<Record<string, Read>>;

const named = (read: Read, ...names: string[]): Names => Object.fromEntries(names.map((name) => [name, read]));

/** Of everything inside of a message. */
const BLOCK: Names = {
  ...named(READ.skip, "id", "name", "model", "signature", "cache_control", "metadata", "container", "caller"),
  ...named(READ.skip, "media_type", "mime_type", "uri", "tool_name", "server_name", "toolset_name", "mcp_server_name"),
  ...named(READ.skip, "stop_reason", "stop_sequence", "usage", "error_code", "file_type"),
  ...named(READ.skip, "page_age", "retrieved_at", "created_at", "expires_at"),
  type: READ.type,
  role: READ.role,
  url: READ.url,
  data: READ.data,
  thinking: READ.thinking,
  source: READ.source,
  input: READ.values,
  tools: READ.tools,
};

/** In an answer, a summary of what was is bound by its signature, like thinking. */
const SAID: Names = { ...BLOCK, content: READ.compacted };

/** Of a body. What is not named here is looked at as what stands in a message is. */
const BODY: Names = {
  ...BLOCK,
  ...named(READ.skip, "thinking", "stop_sequences", "tool_choice", "service_tier", "speed", "inference_geo"),
  ...named(READ.skip, "diagnostics", "thread", "fallback_credit_token", "billing_policy", "anthropic_version"),
  ...named(READ.schema, "output_config", "output_format"),
  mcp_servers: READ.servers,
  betas: READ.betas,
};

/** Domains are addresses; the rest is settings. */
const TOOL: Names = {
  ...BLOCK,
  ...named(READ.skip, "allowed_domains", "blocked_domains", "user_location", "allowed_callers", "configs"),
  ...named(READ.skip, "default_config"),
  ...named(READ.name, "name", "mcp_server_name"),
  input_schema: READ.schema,
  input_examples: READ.values,
};

const BY_READ: Readonly<Partial<Record<Read, { readonly names: Names; readonly others: Read }>>> = {
  [READ.look]: { names: BLOCK, others: READ.look },
  [READ.tools]: { names: BLOCK, others: READ.look },
  [READ.said]: { names: SAID, others: READ.said },
  [READ.schema]: { names: {}, others: READ.schema },
  [READ.body]: { names: BODY, others: READ.look },
  [READ.batch]: { names: { requests: READ.batch, params: READ.body }, others: READ.skip },
  [READ.tool]: { names: TOOL, others: READ.look },
  [READ.server]: { names: { name: READ.name, url: READ.url }, others: READ.skip },
  [READ.answer]: { names: { content: READ.said }, others: READ.skip },
  [READ.result]: { names: { result: READ.result, message: READ.answer }, others: READ.skip },
  [READ.event]: {
    names: {
      ...named(READ.skip, "index", "usage", "error", "context_management"),
      type: READ.type,
      delta: READ.delta,
      content_block: READ.said,
      message: READ.answer,
    },
    others: READ.said,
  },
  [READ.delta]: { names: { ...SAID, partial_json: READ.look }, others: READ.said },
};

/** Of a schema, what is written for whoever fills it in. */
const DESCRIBING = new Set(["description", "title", "$comment"]);

/** How the value of a field is read in a container that is read as `read`. */
export function readingOf(read: Read, name: string): Read {
  const rule = BY_READ[read];
  if (!rule) return read;
  if (Object.hasOwn(rule.names, name)) return rule.names[name] ?? rule.others;
  if (read === READ.schema && DESCRIBING.has(name)) return READ.data;
  if (rule.others === READ.look || rule.others === READ.said) {
    if (name.endsWith("_id") || name.endsWith("_ids") || name.startsWith("encrypted_")) return READ.skip;
  }
  return rule.others;
}

/** How an element of a list is read. */
export function readingOfElement(read: Read): Read {
  if (read === READ.tools) return READ.tool;
  return read === READ.servers ? READ.server : read;
}

/** How what is inside of a container is read whose own field is read so: a string was expected of some. */
export function readingInside(read: Read, parent: Read): Read {
  switch (read) {
    case READ.data:
      return parent === READ.schema ? READ.schema : READ.look;
    case READ.thinking:
    case READ.source:
      return parent === READ.said ? READ.said : READ.look;
    case READ.compacted:
      return READ.said;
    case READ.type:
    case READ.name:
    case READ.role:
    case READ.url:
      return READ.skip;
    default:
      return read;
  }
}

const OPAQUE_DATA = new Set(["base64", "redacted_thinking"]);
const THOUGHT = new Set(["thinking", "thinking_delta"]);
const COMPACTED = new Set(["compaction", "compaction_delta"]);

/** Whether a string is no text after all, by the types of the object it stands in: all of them, if it has several. */
export function isOpaque(read: Read, types: readonly string[]): boolean {
  const opaque = read === READ.data ? OPAQUE_DATA : read === READ.thinking ? THOUGHT : COMPACTED;
  return types.length > 0 && types.every((type) => opaque.has(type));
}
