/**
 * A request of the OpenAI dialect on its way to a Messages body: what a Chat or Responses body says, already in Messages
 * blocks and in the client's order, but not yet as Claude takes it. The two readers (chat-request.ts,
 * responses-request.ts) make a draft, the steps (steps.ts) bring it into shape, messages-body.ts writes it down.
 *
 * A draft belongs to one call and is changed in place: each step does one thing to it.
 */
import type { Result } from "../../result.ts";
import { MODEL_EFFORTS, type ModelFacts } from "../anthropic/model-facts.ts";
import type { Fields } from "../anthropic/usage.ts";
import type { Failure } from "../errors.ts";

export type { Fields };

/** As it stands on a block, a tool or the whole request. */
export type CacheControl = { readonly type: "ephemeral"; readonly ttl?: "5m" | "1h" };

/** A content block of the Messages API; `type` tells what else it has. */
export type Block = { type: string; cache_control?: CacheControl; [field: string]: unknown };

/** One turn. `system` turns stand where the client wrote them. Ids and names of tools are the client's own until `fitTools`. */
export type Turn = {
  role: "user" | "assistant" | "system";
  content: Block[];
  /** In whose account the thinking in it was signed, where the gateway knows. */
  organization?: string;
};

/** A tool as the client offers it. */
export type ToolDraft = {
  /** The client's name for it. */
  name: string;
  description: string | null;
  /** JSON Schema of its input, as the client wrote it; null: a tool of Anthropic's own, passed as `definition`. */
  schema: Fields | null;
  strict: boolean | null;
  /** Free-form text in place of JSON (OpenAI's custom tools); its input is `{[FREE_FORM_FIELD]: text}` at Claude. */
  freeForm: boolean;
  cacheControl: CacheControl | null;
  /** A whole Messages tool that is passed as it is (built-in types). */
  definition: Fields | null;
  /** Of a bare Anthropic tool: what only Messages has a word for (`defer_loading`, …). */
  native?: Fields;
  /** Responses: the namespace it stands in, which its name begins with (`inNamespace`). */
  namespace?: string;
};

/** A tool of this name, and what else is said of it. */
export function toolDraft(name: string, said: Partial<ToolDraft>): ToolDraft {
  return {
    name,
    description: null,
    schema: null,
    strict: null,
    freeForm: false,
    cacheControl: null,
    definition: null,
    ...said,
  };
}

/** What a tool of a namespace is called among all tools. OpenAI's own names have no dots. */
export function inNamespace(namespace: string, name: string): string {
  return `${namespace}.${name}`;
}

/** The name that such a tool has in its namespace. */
export function bareName(namespace: string, name: string): string {
  return name.slice(namespace.length + 1);
}

/** The one property of a free-form tool's input at Claude. */
export const FREE_FORM_FIELD = "input";

export type ToolChoice =
  | { readonly kind: "auto" | "any" | "none" }
  | { readonly kind: "tool"; readonly name: string }
  /** Of all tools only these. */
  | { readonly kind: "allowed"; readonly names: readonly string[]; readonly must: boolean };

export const EFFORTS = ["none", "minimal", ...MODEL_EFFORTS] as const;
export type Effort = (typeof EFFORTS)[number];

export type OutputFormat =
  | { readonly kind: "text" | "json_object" }
  | { readonly kind: "json_schema"; readonly schema: Fields; readonly param: string };

export type Draft = {
  /** The model as the client names it. */
  model: string;
  stream: boolean;
  turns: Turn[];
  tools: ToolDraft[];
  toolChoice: ToolChoice | null;
  parallelToolCalls: boolean | null;
  maxTokens: number | null;
  temperature: number | null;
  topP: number | null;
  topK: number | null;
  stop: string[];
  format: OutputFormat;
  effort: Effort | null;
  /** The client wants to see what is thought. */
  showThinking: boolean;
  /** `explicit`: no automatic cache breakpoint. */
  caching: "automatic" | "explicit";
  /** Who asks, in the client's words; hashed before it leaves. */
  user: string | null;
  serviceTier: "auto" | "standard_only" | null;
  /** What ties calls of one conversation together, for the choice of an upstream; never sent. */
  conversation: string | null;
  /** Messages fields that the client wrote itself and that pass as they are: thinking, output_config, container, mcp_servers, … */
  extra: Record<string, unknown>;
  /** Betas that the call needs. */
  betas: Set<string>;
  /** Set on the way: fields of the Messages body beside those above. */
  body: {
    thinking?: Fields;
    outputConfig?: Record<string, unknown>;
    cacheControl?: CacheControl;
    userId?: string;
  };
  telling: Telling;
};

/** A tool as its client knows it. */
export type ClientTool = Pick<ToolDraft, "name" | "freeForm" | "namespace">;

/** What the answer has to know of its request. */
export type Telling = {
  /** How the body was read, which is not yet how it is answered (that is the route's). */
  readonly shape: "chat" | "responses";
  /** Tools by the name that Claude calls them, where that is not the client's, or where they are free-form. */
  readonly tools: Map<string, ClientTool>;
  /** Chat: `functions` in place of `tools`; answered with `function_call`. */
  readonly legacyFunctions: boolean;
  /** Chat: `stream_options.include_usage`. */
  readonly includeUsage: boolean;
  /** Responses: `include` has `reasoning.encrypted_content`. */
  readonly encryptedReasoning: boolean;
  /** Responses: `store`, true unless the client says otherwise. */
  readonly store: boolean;
  /** Responses: what of the request is repeated in the answer (instructions, tools, text, metadata, …). */
  readonly echo: Fields;
  /** Set by a step: the tool that stands for the format that was asked for; its input is the text of the answer. */
  jsonTool?: string;
  /** Responses: the stored response that this one goes on from. */
  readonly previousResponseId: string | null;
};

/** Why a body can't be served, and where in it: `param` in OpenAI's notation (`messages[2].content[0]`). */
export function refuse(message: string, param: string | null, code: string | null = null): Failure {
  return { kind: "invalid_request", message, param, code };
}

/** One thing that is done to a draft for the model that is to answer it. */
export type Step = (draft: Draft, model: ModelFacts) => Failure | null;

/** Makes a draft of a body. */
export type ReadBody = (body: Fields) => Result<Draft, Failure>;
