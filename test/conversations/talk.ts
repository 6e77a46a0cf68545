/** Conversations in the Workers runtime: a key, objects, and an upstream that says what a test has it say, when it does. */
import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import type { Message } from "../../clients/typescript/protocol.ts";
import { specOf } from "../../src/conversations/input.ts";
import type { Numbered } from "../../src/conversations/log.ts";
import { EventLog } from "../../src/conversations/log.ts";
import { objectName } from "../../src/conversations/object.ts";
import type { ConversationObject, Incoming, Sender, Sent, Spec } from "../../src/conversations/protocol.ts";
import { Tables } from "../../src/conversations/schema.ts";
import { mintConversationId } from "../../src/identity/conversation-id.ts";
import { getKey } from "../../src/identity/key-store.ts";
import type { Result } from "../../src/result.ts";
import type { Failure } from "../../src/wire/errors.ts";
import { makeKey } from "../admin/control-plane.ts";

export const MODEL = "claude-opus-5-5";
const encoder = new TextEncoder();

export const event = (type: string, fields: object = {}): string =>
  `event: ${type}\ndata: ${JSON.stringify({ type, ...fields })}\n\n`;
const usage = { input_tokens: 10, output_tokens: 5, cache_read_input_tokens: 0, cache_creation_input_tokens: 0 };
export const START = event("message_start", { message: { model: MODEL, role: "assistant", content: [], usage } });
export const PING = event("ping");
export const text = (said: string, index = 0): string =>
  event("content_block_start", { index, content_block: { type: "text", text: "" } }) +
  event("content_block_delta", { index, delta: { type: "text_delta", text: said } });
export const blockEnd = (index = 0): string => event("content_block_stop", { index });
export const toolCall = (id: string, index = 0): string =>
  event("content_block_start", { index, content_block: { type: "tool_use", id, name: "look", input: {} } }) +
  event("content_block_delta", { index, delta: { type: "input_json_delta", partial_json: '{"at":1}' } }) +
  blockEnd(index);
export const stop = (reason = "end_turn"): string =>
  event("message_delta", { delta: { stop_reason: reason }, usage: { output_tokens: 5 } }) + event("message_stop");
/** A whole answer. */
export const answer = (said: string): string => START + text(said) + blockEnd() + stop();

/** One upstream call. */
export class Call {
  readonly path: string;
  readonly body: {
    readonly messages: readonly { role: string; content: unknown }[];
    readonly [field: string]: unknown;
  };
  readonly signal: AbortSignal | null;
  #pieces: string[] = [];
  #state: "open" | "ended" | "broken" = "open";
  /** Something was said. */
  begun = false;

  constructor(url: string, init: RequestInit | undefined) {
    this.path = new URL(url).pathname;
    const bytes = init?.body;
    this.body = JSON.parse(typeof bytes === "string" ? bytes : new TextDecoder().decode(bytes as Uint8Array));
    this.signal = init?.signal ?? null;
  }

  /** Nothing more will be said. */
  get over(): boolean {
    return this.#state !== "open";
  }

  get aborted(): boolean {
    return this.signal?.aborted ?? false;
  }

  send(...pieces: string[]): void {
    this.begun = true;
    this.#pieces.push(...pieces);
  }

  end(): void {
    this.#state = "ended";
  }

  break(): void {
    this.#state = "broken";
  }

  /** Its pieces as they are sent. It asks for them by itself, since what one object waits for another can't wake. */
  response(): Response {
    const body = new ReadableStream({
      type: "bytes",
      pull: async (controller: ReadableByteStreamController) => {
        while (this.#pieces.length === 0 && this.#state === "open" && !this.aborted) await scheduler.wait(1);
        const piece = this.#pieces.shift();
        if (this.aborted || (piece === undefined && this.#state === "broken")) controller.error(new Error("cut"));
        else if (piece !== undefined) controller.enqueue(encoder.encode(piece));
        else {
          controller.close();
          controller.byobRequest?.respond(0);
        }
      },
    });
    return new Response(body, { headers: { "content-type": "text/event-stream", "request-id": "req_upstream" } });
  }
}

export async function newSender(fields: Record<string, unknown> = {}): Promise<Sender> {
  const { id } = await makeKey({ scopes: ["messages", "conversations"], ...fields });
  const record = await getKey(env.DB, id);
  const secret = record?.secrets[0];
  if (!record || !secret) throw new Error("no key");
  return {
    keyId: id,
    secretSha256: secret.sha256,
    workspace: record.workspace,
    requestId: "req_1",
    traceId: "0af7651916cd43dd8448eb211c80319c",
    client: "client/1",
  };
}

export const says = (content: Incoming["content"], more: Partial<Incoming> = {}): Incoming => ({
  clientId: null,
  content,
  options: {},
  onBusy: null,
  edit: null,
  regenerate: null,
  ...more,
});

export function value<T>(result: Result<T, Failure>): T {
  if (!result.ok) throw new Error(JSON.stringify(result.error));
  return result.value;
}

export function turnOf(sent: Result<Sent, Failure>): Extract<Sent, { kind: "turn" }> {
  const told = value(sent);
  if (told.kind !== "turn") throw new Error(JSON.stringify(told));
  return told;
}

/** A conversation as its Worker sees it. */
export class Talk {
  readonly id: string;
  readonly sender: Sender;
  readonly name: string;

  private constructor(id: string, sender: Sender) {
    this.id = id;
    this.sender = sender;
    this.name = objectName(sender.workspace, id);
  }

  static async begin(sender: Sender, more: Partial<Spec> = {}): Promise<Talk> {
    const id = await mintConversationId(["tag-secret-of-the-tests-0123456789"], sender.workspace, Date.now());
    const talk = new Talk(id, sender);
    value(await talk.object.create({ ...specOf(id, { model: MODEL }), ...more }, sender));
    return talk;
  }

  get stub() {
    return env.CONVERSATION.getByName(this.name);
  }

  /** A new stub each time: one that saw its object die is of no use any more. */
  get object(): ConversationObject {
    return this.stub as unknown as ConversationObject;
  }

  send(content: Incoming["content"], more: Partial<Incoming> = {}): Promise<Result<Sent, Failure>> {
    return this.object.send(says(content, more), this.sender);
  }

  async view() {
    return value(await this.object.read());
  }

  async messages(): Promise<readonly Message[]> {
    return value(await this.object.messages({ after: null, limit: 500, leaf: null })).data;
  }

  /** Roles and texts. */
  async said(): Promise<string[]> {
    return (await this.messages()).map(({ role, content }) => `${role}: ${plain(content)}`);
  }
}

function plain(content: Message["content"]): string {
  if (typeof content === "string") return content;
  return content.map((block) => (typeof block.text === "string" ? block.text : `[${block.type}]`)).join("");
}

export type LogLine = Pick<Numbered, "seq" | "kind" | "turn"> & { readonly fields: Readonly<Record<string, unknown>> };

const EVERYTHING = 64 * 1024 * 1024;

export function logOf(talk: Talk): Promise<LogLine[]> {
  return runInDurableObject(talk.stub, (_, { storage }) => {
    const log = new EventLog(new Tables(storage));
    const lines: LogLine[] = [];
    for (let after = log.floor; after < log.lastSeq; after = lines.at(-1)?.seq ?? log.lastSeq) {
      for (const { seq, kind, turn, data } of log.read(after, EVERYTHING))
        lines.push({ seq, kind, turn, fields: JSON.parse(data) });
    }
    return lines;
  });
}

/** The object dies in the middle of whatever it does; whoever asks next finds another life of it. */
export const die = async (talk: Talk): Promise<void> => {
  await runInDurableObject(talk.stub, (_, state) => state.abort("death")).catch(() => {});
};
