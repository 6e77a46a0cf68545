/** A log, a conversation and a key check that do as they are told, for what looks at them. */
import type { Conversation, Message, ServerFrame } from "../../clients/typescript/protocol.ts";
import type { EventLog, LogEntry, Numbered } from "../../src/conversations/log.ts";
import type { Incoming, Sender, Sent } from "../../src/conversations/protocol.ts";
import type { Commands } from "../../src/conversations/viewers.ts";
import type { Settled } from "../../src/hotpath/settle.ts";
import { err, ok, type Result } from "../../src/result.ts";
import { noFacts } from "../../src/wire/anthropic/answer.ts";
import type { Failure } from "../../src/wire/errors.ts";

export const sender = (keyId = "key_1", more: Partial<Sender> = {}): Sender => ({
  keyId,
  secretSha256: "5".repeat(64),
  workspace: "ws_1",
  requestId: "req_1",
  traceId: "t",
  client: "test",
  ...more,
});

/** How a call ended that cost nothing. */
export const SETTLED: Settled = {
  ending: { status: 200, outcome: "complete" },
  facts: noFacts(),
  microUsd: 0,
};

export class MemoryLog implements Pick<EventLog, "lastSeq" | "floor" | "read"> {
  readonly entries: Numbered[] = [];
  floor = 0;
  reads = 0;

  get lastSeq(): number {
    return this.entries.length;
  }

  append(...entries: LogEntry[]): readonly Numbered[] {
    const numbered = entries.map((entry, at) => ({ ...entry, seq: this.entries.length + at + 1 }));
    this.entries.push(...numbered);
    return numbered;
  }

  read(after: number, maxBytes: number): readonly Numbered[] {
    if (after < this.floor) throw new Error(`${after} is below the floor`);
    this.reads++;
    const found: Numbered[] = [];
    let bytes = 0;
    for (const entry of this.entries.slice(after)) {
      bytes += entry.data.length;
      if (found.length > 0 && bytes > maxBytes) break;
      found.push(entry);
    }
    return found;
  }
}

export const event = (text: string, turn = "turn_1"): LogEntry => ({
  kind: "event",
  turn,
  data: JSON.stringify({ type: "content_block_delta", text }),
});
export const started = (turn = "turn_1"): LogEntry => ({
  kind: "turn.started",
  turn,
  data: '{"id":null,"message":"m"}',
});
export const completed = (turn = "turn_1"): LogEntry => ({
  kind: "turn.completed",
  turn,
  data: '{"state":"completed"}',
});

/** A conversation that does nothing; what is said to it is noted. */
export class StandIn implements Commands {
  readonly log: MemoryLog;
  turn: string | null = null;
  queued: readonly string[] = [];
  readonly said: Incoming[] = [];
  readonly cancelled: (string | null)[] = [];
  answer: () => Promise<Result<Sent, Failure>> = async () =>
    ok({ kind: "turn", turn: "turn_1", state: "processing", after: 0, known: false });
  /** Of keys; null: alive. */
  fate: (keyId: string) => Failure | null = () => null;
  readonly checks: { readonly keyId: string; readonly maxAgeMs: number }[] = [];

  constructor(log = new MemoryLog()) {
    this.log = log;
  }

  send(message: Incoming): Promise<Result<Sent, Failure>> {
    this.said.push(message);
    return this.answer();
  }

  async cancel(turn: string | null): Promise<Result<null, Failure>> {
    this.cancelled.push(turn);
    return this.turn === null ? err({ kind: "invalid_request", message: "Nothing runs." }) : ok(null);
  }

  view(): Conversation {
    const { turn, queued } = this;
    return { id: "conv_1", type: "conversation", seq: this.log.lastSeq, turn, queued } as unknown as Conversation;
  }

  historyMessages(): readonly Message[] {
    return [{ id: "msg_1", content: "what was" } as unknown as Message];
  }

  readonly check = async ({ keyId }: Sender, maxAgeMs: number): Promise<Failure | null> => {
    this.checks.push({ keyId, maxAgeMs });
    return this.fate(keyId);
  };
}

export const parsed = (texts: readonly string[]): ServerFrame[] => texts.map((text) => JSON.parse(text) as ServerFrame);
/** Numbers of what came of the log, in the order in which it came; a `history` frame's as a text. */
export const numbersIn = (texts: readonly string[]): (number | string)[] =>
  parsed(texts).flatMap((frame): (number | string)[] => {
    if (frame.type === "history") return [`history ${frame.seq}`];
    return "turn" in frame && "seq" in frame ? [frame.seq] : [];
  });

/** A server's end of a socket as the runtime makes it: strict about what may be kept beside it and how it is closed. */
export class FakeSocket {
  readyState: number = WebSocket.OPEN;
  readonly got: string[] = [];
  closedWith: { readonly code: number; readonly reason: string } | null = null;
  pinged: Date | null = null;
  writes = 0;
  #attachment: unknown = null;

  get asSocket(): WebSocket {
    return this as unknown as WebSocket;
  }

  send(text: string): void {
    if (this.readyState !== WebSocket.OPEN) throw new TypeError("Can't call WebSocket send() after close().");
    this.got.push(text);
  }

  close(code: number, reason: string): void {
    if (code < 1000 || code >= 5000 || [1004, 1005, 1006, 1015].includes(code)) throw new Error(`invalid code ${code}`);
    if (new TextEncoder().encode(reason).length > 123) throw new Error("reason too long");
    this.closedWith ??= { code, reason };
    this.readyState = WebSocket.CLOSING;
  }

  serializeAttachment(value: unknown): void {
    this.writes++;
    if (JSON.stringify(value).length > 16_384) throw new Error("attachment too large");
    this.#attachment = structuredClone(value);
  }

  deserializeAttachment(): unknown {
    return structuredClone(this.#attachment);
  }
}
