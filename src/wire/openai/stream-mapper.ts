/** How a Messages stream is told in another dialect: one event in, its chunk out at once. */
import type { StreamEvent } from "../anthropic/events.ts";
import type { Usage } from "../anthropic/usage.ts";
import type { Block, ClientTool, Fields } from "./draft.ts";

/** Told where there is nothing to show. A comment: clients read over it, and whoever counts silence does not. */
export const SIGN_OF_LIFE = ": keep-alive\n\n";

/** Text for the client; "" where there is nothing to say. A promise only where something has to be sealed first. */
export type Told = string | Promise<string>;

export type StreamMapper = {
  push(event: StreamEvent): Told;
  /** The upstream's stream has ended; what is still to be said, an error frame if its message was not over. */
  end(): Told;
  /** Its last word was an error. */
  readonly failed: boolean;
  /** The message as far as it has come, when its `message_delta` has arrived; null before. Whoever keeps it reads it then. */
  readonly message: WholeMessage | null;
};

/** An answer in Messages blocks, thinking and signatures included. */
export type WholeMessage = {
  readonly id: string;
  readonly model: string;
  readonly content: readonly Block[];
  readonly stopReason: string | null;
  /** Why, where it was refused. */
  readonly stopDetails: Fields | null;
  readonly usage: Usage;
};

/** What an answer is called: `id` stands in for the upstream message's own where that has none. `created` in seconds. */
export type AnswerName = { readonly id: string; readonly created: number };

/**
 * A dialect's words for what happens in a stream. The machine (message-machine.ts) keeps order, indexes and usage, and
 * calls these for each event; what they return goes out at once.
 */
export interface Teller {
  start(message: { readonly id: string; readonly model: string }): string;
  /** A piece of text, never empty. `at` counts the blocks of the message. */
  text(at: number, delta: string): string;
  thinking(at: number, delta: string): string;
  /** The block is whole: its text and signature, or `redacted` data. */
  thinkingEnd(at: number, block: Block): Told;
  /** `nth`: of the tool calls, from 0. `name` and `freeForm` are the client's. */
  toolStart(nth: number, call: ToolCall): string;
  /** A piece of the call's JSON, never empty. */
  toolArguments(nth: number, call: ToolCall, delta: string): string;
  /** `json`: all of it, `{}` where none came. */
  toolEnd(nth: number, call: ToolCall, json: string): string;
  stop(message: WholeMessage): Told;
  /** `type` in Anthropic's vocabulary. */
  error(type: string, message: string): string;
}

export type ToolCall = Readonly<ClientTool> & { readonly id: string };
