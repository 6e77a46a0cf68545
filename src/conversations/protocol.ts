/**
 * What a Worker and the object of one conversation say to each other. Fields are only ever added: for a while after a
 * deployment the two may be of different releases.
 */
import type {
  Content,
  ContextPolicy,
  Conversation,
  Message,
  OnBusy,
  Options,
  Page,
  Tool,
  TurnResult,
  TurnState,
} from "../../clients/typescript/protocol.ts";
import type { Rights } from "../identity/rights.ts";
import type { Result } from "../result.ts";
import type { Failure } from "../wire/errors.ts";

/** Who asks. Plain data: it travels, and lies beside sockets that sleep. */
export type Sender = {
  readonly keyId: string;
  /** Of the secret that was shown: it must still be one of the key's. Null: another issuer's token was shown. */
  readonly secretSha256: string | null;
  readonly workspace: string;
  readonly requestId: string;
  readonly traceId: string;
  /** `user-agent`. */
  readonly client: string | null;
  /** Of the token that was shown; null, or left out by an earlier release: it was the key itself. */
  readonly rights?: Rights | null;
};

/** Where a conversation's words come from, and which fields are that template's: nobody may set them afterwards. */
export type FromTemplate = { readonly name: string; readonly version: number; readonly operator: readonly string[] };

/** A conversation to be made, complete and checked. */
export type Spec = {
  readonly id: string;
  readonly model: string;
  readonly system: Content | null;
  readonly maxTokens: number;
  readonly tools: readonly Tool[];
  readonly options: Options;
  readonly context: ContextPolicy;
  readonly ttlSeconds: number;
  readonly onBusy: OnBusy;
  readonly metadata: Readonly<Record<string, string>>;
  /** Left out: of no template. */
  readonly template?: FromTemplate;
};

export type Change = Partial<Omit<Spec, "id" | "template">> & { readonly leaf?: string };

/** A message as it was sent over either transport, checked in itself. */
export type Incoming = {
  /** The client's own id: one that comes again with the same words is the same message. */
  readonly clientId: string | null;
  /** Null: `regenerate`. */
  readonly content: Content | null;
  readonly options: Options;
  /** Null: as the conversation says. */
  readonly onBusy: OnBusy | null;
  readonly edit: string | null;
  readonly regenerate: string | true | null;
};

/** What became of a message. */
export type Sent =
  /** Events of its turn come after `after`. `known`: it had arrived before. */
  | {
      readonly kind: "turn";
      readonly turn: string;
      readonly state: TurnState;
      readonly after: number;
      readonly known: boolean;
    }
  /** Some tool results are still awaited; these are kept until then. */
  | { readonly kind: "awaiting"; readonly awaiting: readonly string[] };

export type MessagesQuery = {
  /** A message's id. */
  readonly after: string | null;
  readonly limit: number;
  /** Which branch; null: the present one. */
  readonly leaf: string | null;
};

export type Answer<T> = Promise<Result<T, Failure>>;

/** The object's face. A conversation that does not exist (any more) answers everything with `not_found`. */
export type ConversationObject = {
  create(spec: Spec, sender: Sender): Answer<Conversation>;
  read(): Answer<Conversation>;
  change(change: Change): Answer<Conversation>;
  remove(): Answer<null>;
  messages(query: MessagesQuery): Answer<Page<Message>>;
  send(message: Incoming, sender: Sender): Answer<Sent>;
  /** Resolves when the turn has ended. */
  ended(turn: string): Answer<TurnResult>;
  /** Stops the running turn, or the one that is named. Nothing to stop: no failure. */
  cancel(turn: string | null): Answer<Conversation>;
  /** GET `/events?after=n[&turn=id]`: SSE. GET `/socket`: the upgrade. GET `/export`: JSON. SENDER_HEADER on all of them. */
  fetch(request: Request): Promise<Response>;
};

/** ASCII JSON of a `Sender`. Never taken from a client. */
export const SENDER_HEADER = "x-sluice-sender";
/** ASCII JSON of a failure on the way back from `fetch`. */
export const FAILURE_HEADER = "x-sluice-failure";

/** JSON that a header can carry. */
export function asciiJson(value: unknown): string {
  const escaped = (char: string): string => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return JSON.stringify(value).replace(/[^\x20-\x7e]/g, escaped);
}
