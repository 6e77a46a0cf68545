/**
 * What a conversation looks like from outside: its JSON, and the frames of its WebSocket (docs/conversations.md). The
 * gateway and its clients share these types. Times are RFC 3339, money is whole millionths of a dollar where a name says so.
 */

/** The subprotocol of the socket; the credential travels as another one behind `AUTH_PROTOCOL_PREFIX`. */
export const PROTOCOL = "sluice.v1";
export const AUTH_PROTOCOL_PREFIX = "sluice.auth.";
/** A client sends the text `ping` this often, ms, and is answered `pong`; whoever misses two is taken for gone. */
export const HEARTBEAT_MS = 15_000;

/** Why a socket was closed by the gateway. */
export const CLOSE = {
  malformed: 4400,
  unauthenticated: 4401,
  forbidden: 4403,
  unknown: 4404,
  heartbeat: 4408,
  tooLarge: 4413,
  limited: 4429,
} as const;

export type ConversationState = "idle" | "processing" | "retrying" | "cancelling";
export type TurnState =
  | "queued"
  | "processing"
  | "retrying"
  | "cancelling"
  | "completed"
  | "failed"
  | "cancelled"
  | "interrupted";
export type OnBusy = "queue" | "reject";

/** A content block of the Messages API, whatever its type. */
export type ContentBlock = { readonly type: string; readonly [field: string]: unknown };
export type Content = string | readonly ContentBlock[];
/** A tool definition of the Messages API. */
export type Tool = { readonly [field: string]: unknown };

export type ContextPolicy = {
  readonly strategy: "summarize" | "truncate" | "none";
  /** Null: what the model's context holds beside its answer. */
  readonly max_input_tokens: number | null;
  /** The newest so many turns always stay. */
  readonly keep_turns: number;
  /** Null: a cheaper model of the gateway's choice. */
  readonly summary_model: string | null;
};

/**
 * Fields of a Messages request that are laid over the conversation's own: `model`, `max_tokens`, `tools`, `tool_choice`,
 * `thinking`, `temperature`, `output_config`, … and any that the API has or will have; `betas` becomes `anthropic-beta`.
 */
export type Options = { readonly [field: string]: unknown };

export type Conversation = {
  readonly id: string;
  readonly type: "conversation";
  readonly state: ConversationState;
  readonly model: string;
  readonly system: Content | null;
  /** Whose words it began with; left out: no template's. */
  readonly template?: { readonly name: string; readonly version: number };
  readonly max_tokens: number;
  readonly tools: readonly Tool[];
  readonly options: Options;
  readonly context: ContextPolicy;
  /** Without activity for so long it is deleted. */
  readonly ttl_seconds: number;
  readonly on_busy: OnBusy;
  readonly metadata: Readonly<Record<string, string>>;
  readonly created_at: string;
  /** Of the last message, end of a turn or change. */
  readonly updated_at: string;
  readonly expires_at: string;
  /** Number of the newest event. */
  readonly seq: number;
  /** The running turn. */
  readonly turn: string | null;
  /** Number of its `turn.started`: whoever resumes after the one before it sees all of the turn. */
  readonly turn_seq: number | null;
  readonly queued: readonly string[];
  /** Tool calls whose results are awaited: nothing else can be said before. */
  readonly awaiting_tool_results: readonly string[];
  /** The newest message of the branch that is gone on from. */
  readonly leaf: string | null;
  readonly turns: number;
  readonly usage: Usage;
  readonly cost_micro_usd: number;
};

export type ConversationSummary = Pick<
  Conversation,
  "id" | "type" | "model" | "metadata" | "created_at" | "updated_at" | "expires_at" | "turns"
>;

/** Tokens as the Messages API counts them, of all upstream calls together. */
export type Usage = {
  readonly input_tokens: number;
  readonly output_tokens: number;
  readonly cache_read_input_tokens: number;
  readonly cache_creation_input_tokens: number;
  /** Of all input, what was read from the prompt cache: 0 to 1. */
  readonly cache_read_share: number;
  /** Some count is a bounded guess. */
  readonly estimated?: true;
};

export type TurnError = {
  readonly type: string;
  readonly message: string;
  readonly retry_after_seconds?: number;
};

/** What was left out of the model's sight, and why. It stays in the history. */
export type ContextCut = {
  readonly strategy: "summarize" | "truncate";
  /** `summary_failed`: a summary was wanted and could not be had. */
  readonly reason: "max_input_tokens" | "summary_failed";
  /** How many messages, and the last of them. */
  readonly messages: number;
  readonly through: string;
  readonly tokens_before: number;
  /** As the upstream counts them. */
  readonly tokens_after: number;
  /** The message that stands for them. */
  readonly summary: string | null;
};

export type Turn = {
  readonly id: string;
  readonly type: "turn";
  readonly state: TurnState;
  /** The client's own id of what it sent. */
  readonly client_id: string | null;
  readonly key_id: string;
  readonly model: string;
  readonly created_at: string;
  readonly started_at: string | null;
  readonly ended_at: string | null;
  readonly stop_reason: string | null;
  readonly usage: Usage;
  readonly cost_micro_usd: number;
  readonly cost_usd: number;
  readonly cut: ContextCut | null;
  readonly error: TurnError | null;
};

export type Message = {
  readonly id: string;
  /** `summary`: stands for all before it, in the model's sight. */
  readonly type: "message" | "summary";
  readonly role: "user" | "assistant";
  readonly content: Content;
  readonly turn: string;
  readonly parent: string | null;
  /** All messages with the same parent, oldest first: the branches that begin here. */
  readonly siblings: readonly string[];
  readonly created_at: string;
  /** Of an answer. */
  readonly model?: string;
  readonly stop_reason?: string | null;
  /** Of an answer: what its turn used, and cost. */
  readonly usage?: Usage;
  readonly cost_micro_usd?: number;
  /** The answer was cancelled, cut off or interrupted: this is as far as it came. */
  readonly incomplete?: true;
};

/** The answer to a message that is not streamed. */
export type TurnResult = Turn & { readonly message: Message | null };

export type Page<T> = { readonly data: readonly T[]; readonly has_more: boolean; readonly next_cursor: string | null };

/** Beside Messages fields, what `options` of a message may say. */
export type SendOptions = Options & {
  readonly on_busy?: OnBusy;
  /** Says a user message in other words: a new branch beside it. */
  readonly edit?: string;
  /** Has the last message, or this one, answered anew; then there is no `content`. */
  readonly regenerate?: string | true;
};

export type ClientFrame =
  | { readonly type: "send"; readonly id?: string; readonly content?: Content; readonly options?: SendOptions }
  | { readonly type: "cancel"; readonly turn?: string }
  | { readonly type: "resume"; readonly after: number }
  | { readonly type: "flow"; readonly window: number }
  | { readonly type: "ack"; readonly seq: number };

type Numbered = { readonly seq: number; readonly turn: string };

/** Frames that stand in the log and reach every viewer, each once and in order of their numbers. */
export type LoggedFrame =
  /** It waits until others have ended. */
  | ({ readonly type: "turn.queued"; readonly id: string | null } & Numbered)
  /** `content`: what was said, unless it is long (then: the history has it) or nothing was (regenerate). */
  | ({
      readonly type: "turn.started";
      readonly id: string | null;
      readonly message: string;
      readonly content?: Content;
    } & Numbered)
  | ({ readonly type: "context.cut"; readonly cut: ContextCut } & Numbered)
  /** One event of the Messages stream, as upstream sent it. */
  | ({
      readonly type: "event";
      readonly event: { readonly type: string; readonly [field: string]: unknown };
    } & Numbered)
  | ({
      readonly type: "turn.completed";
      readonly state: "completed";
      readonly message: string;
      readonly stop_reason: string | null;
      readonly awaiting_tool_results: readonly string[];
      readonly usage: Usage;
      readonly cost_usd: number;
    } & Numbered)
  /** `message`: the partial answer that is kept; null: nothing was said. */
  | ({
      readonly type: "turn.failed";
      readonly state: "failed" | "cancelled" | "interrupted";
      readonly message: string | null;
      readonly error: TurnError;
      readonly usage: Usage;
      readonly cost_usd: number;
    } & Numbered);

export type ServerFrame =
  | LoggedFrame
  /** The first one on every socket. `seq`: the newest number. */
  | { readonly type: "ready"; readonly conversation: Conversation; readonly seq: number }
  /** In place of events that are kept no more: everything up to `seq`, as messages. Events go on behind it. */
  | { readonly type: "history"; readonly seq: number; readonly messages: readonly Message[] }
  /** A `send` that had arrived before, or that added to tool results which are not complete. */
  | {
      readonly type: "sent";
      readonly ref: string | null;
      readonly turn: string | null;
      readonly state: TurnState | "awaiting_tool_results";
      readonly awaiting_tool_results: readonly string[];
    }
  | { readonly type: "error"; readonly ref: string | null; readonly error: TurnError };
