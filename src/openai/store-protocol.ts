/**
 * What a Worker and a key's store of turns say to each other, and how much of it. What is kept travels as the bytes of a
 * JSON text: the object never reads it. Fields are only ever added: for a while after a deployment the two may be of
 * different releases.
 */

const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;
const DAY_MS = 24 * HOUR_MS;

/**
 * How long a turn is remembered for the thinking in it. A tool loop goes on within minutes, or, where a person has to
 * allow a call, within a night; no prompt cache lives longer than an hour, so that later little is lost with the thinking.
 */
export const THINKING_KEPT_MS = DAY_MS;
/** As long as OpenAI keeps a stored response. */
export const RESPONSE_KEPT_MS = 30 * DAY_MS;

/** What a Durable Object takes or gives in one call is 32 MiB at most; the rest is for what stands around it. */
const MAX_CALL_BYTES = 24 * 1024 * 1024;
/** Of one turn with thinking: some 128,000 tokens of answer. A larger one is not remembered. */
export const MAX_TURN_BYTES = 4 * 1024 * 1024;
/** Calls of tools that one request asks after, the newest ones first. */
export const MAX_RECALLED_CALLS = 512;
/** Of all turns that are recalled for one request, the newest ones first. */
export const MAX_RECALLED_BYTES = 8 * 1024 * 1024;
/** Of one stored response. Of a larger one only that it was too large is kept. */
export const MAX_RESPONSE_BYTES = MAX_CALL_BYTES;
/** Responses behind a `previous_response_id`, itself included. */
export const MAX_CHAIN_LENGTH = 1_000;
/** Turns of all of them together: more would not fit into a request. */
export const MAX_CHAIN_BYTES = 16 * 1024 * 1024;
/** Of one key; an object may hold 10 GB. The oldest go first. */
export const MAX_STORE_BYTES = 2 * 1024 * 1024 * 1024;
/** Ids that can be asked for. Ours have some thirty characters. */
export const MAX_ID_CHARS = 256;

/** An assistant's turn with thinking and calls of tools. */
export type TurnToRemember = {
  /** Of the message. */
  readonly id: string;
  /** That made it, as the answer names it. */
  readonly model: string;
  /** Ids of its tool calls. */
  readonly calls: readonly string[];
  /** JSON of its blocks, and of whose account they are. */
  readonly said: Uint8Array;
};

export type TurnRecalled = { readonly model: string; readonly said: Uint8Array };

/** `turns`: what it added to its parent's conversation. The other two are given back by GET as they are. */
export const RESPONSE_PARTS = ["turns", "object", "items"] as const;
export type ResponsePart = (typeof RESPONSE_PARTS)[number];

export type ResponseToKeep = {
  readonly id: string;
  readonly parent: string | null;
  /** Null: they are too large together. */
  readonly parts: Readonly<Record<ResponsePart, Uint8Array>> | null;
};

/** The responses up to one, the oldest first, or why they can't be had. `missing` names the first that is not there. */
export type Chain =
  | { readonly kind: "whole"; readonly turns: readonly Uint8Array[] }
  | { readonly kind: "missing"; readonly id: string }
  | { readonly kind: "too_long" | "too_large" };

/** The object's face. */
export type TurnStoreObject = {
  remember(turn: TurnToRemember): Promise<void>;
  /** The turns that these calls belong to, the newest first. */
  recall(calls: readonly string[]): Promise<readonly TurnRecalled[]>;
  keep(response: ResponseToKeep): Promise<void>;
  chain(id: string): Promise<Chain>;
  /** Null: there is no such response, or it was too large. */
  read(id: string, part: ResponsePart): Promise<Uint8Array | null>;
  /** False: there is none. */
  drop(id: string): Promise<boolean>;
  /** Forgets everything. */
  empty(): Promise<void>;
};
