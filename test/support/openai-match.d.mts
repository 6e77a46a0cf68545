type Fields = Readonly<Record<string, unknown>>;

export type ReadToolCall = {
  readonly id: string;
  readonly type: "function" | "custom";
  readonly function?: { readonly name: string; readonly arguments: string };
  readonly custom?: { readonly name: string; readonly input: string };
};

export type ReadChat = {
  /** Invariants that do not hold, by number. */
  readonly errors: readonly string[];
  readonly message: {
    readonly role: string | null;
    readonly content: string | null;
    readonly reasoning_content: string | null;
    readonly refusal: string | null;
    readonly tool_calls?: readonly ReadToolCall[];
  };
  readonly finish_reason: string | null;
  readonly usage: Fields | undefined;
  readonly order: readonly string[];
  readonly contentDeltas: number;
  readonly done: boolean;
  readonly error: Fields | null;
};

export function canonRequest(body: unknown): unknown;
export function matchRequest(expected: unknown, body: unknown, vars?: Record<string, unknown>): string[];
export function matchResponse(expected: unknown, json: unknown, vars?: Record<string, unknown>): string[];
export function parseSSE(text: string): { event: string | null; data: string }[];
export function readChatStream(text: string): ReadChat;
export function checkChatStream(expected: Fields, text: string, vars?: Record<string, unknown>): string[];
export function checkResponsesStream(expected: Fields, text: string, vars?: Record<string, unknown>): string[];
