/**
 * One conversation: the object that holds it, runs its turns and knows its viewers. What happens is in the pieces (the log,
 * the history, the runner, the viewers, the listing); here they are put together, and here is what the platform calls.
 *
 * Promises: an expected failure is a value; a bug is logged, answered as `internal`, and kills nothing. A conversation that
 * was never made, has expired or was deleted is not there for anybody: the same `not_found`. Deletion takes everything in
 * one step, in the middle of whatever is going on; what is left is a note until D1's list has dropped it, then nothing.
 *
 * Accepted: whether a conversation has expired is told by the clock. One that leaps ahead ends it early by as much.
 */
import { DurableObject } from "cloudflare:workers";
import {
  CLOSE,
  type Conversation as ConversationView,
  type Message,
  type Page,
  type TurnResult,
} from "../../clients/typescript/protocol.ts";
import type { TableData } from "../guardrails/table.ts";
import type { Shelf } from "../hotpath/guard.ts";
import { admitInner, checkSender } from "../hotpath/inner-call.ts";
import { NO_SUCH_CONVERSATION } from "../identity/conversation-id.ts";
import { err, ok, type Result } from "../result.ts";
import type { Failure } from "../wire/errors.ts";
import { NOTHING_TO_STOP, UNKNOWN_TURN } from "./failures.ts";
import { History, type KeptSpec } from "./history.ts";
import { Listing } from "./listing.ts";
import { EventLog } from "./log.ts";
import {
  type Answer,
  asciiJson,
  type Change,
  type ConversationObject,
  FAILURE_HEADER,
  type Incoming,
  type MessagesQuery,
  SENDER_HEADER,
  type Sender,
  type Sent,
  type Spec,
} from "./protocol.ts";
import { type Entry, registryOf } from "./registry.ts";
import { ownFields, reservedFields, withReserved } from "./reserved.ts";
import { Runner } from "./runner.ts";
import { Tables } from "./schema.ts";
import { conversationState } from "./states.ts";
import { alarmAt, GUARD_MS } from "./timetable.ts";
import { TURN_KEYS } from "./turn-book.ts";
import { Viewers } from "./viewers.ts";

/** Key of who made the conversation. */
const MAKER = "maker";
/** Which placeholder stands for what in the conversation's words. */
const PLACEHOLDERS = "placeholders";
type Maker = Pick<Sender, "keyId" | "workspace">;

/** Its settings together, as JSON: as much as the body may have that makes it. */
const MAX_SETTINGS_CHARS = 8 * 1024 * 1024;
const TOO_MUCH: Failure = {
  kind: "invalid_request",
  message: `Its settings would be longer than ${MAX_SETTINGS_CHARS} characters together, the most that they may be.`,
};

/** Why sockets are closed. */
const GONE = NO_SUCH_CONVERSATION.what;
/** The runtime's own code for a socket that broke; it is never sent. */
const BROKEN = 1006;

export class Conversation extends DurableObject<Env> implements Omit<ConversationObject, "fetch"> {
  readonly #tables: Tables;
  readonly #log: EventLog;
  readonly #history: History;
  readonly #viewers: Viewers;
  readonly #runner: Runner;
  readonly #listing: Listing;
  /** When the alarm rings; null: it is not set. */
  #alarmAt: number | null = null;
  /** It was deleted in this life, or in one before, and D1 has not heard of it. */
  #buried = false;

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env);
    const { kv } = ctx.storage;
    const now = (): number => Date.now();
    this.#tables = new Tables(ctx.storage);
    this.#log = new EventLog(this.#tables);
    this.#history = new History(this.#tables);
    this.#listing = new Listing({
      kv,
      registry: registryOf(env.DB),
      entry: () => this.#entry(),
      now,
      random: Math.random,
    });
    this.#viewers = new Viewers({
      ctx,
      log: this.#log,
      commands: {
        send: (message, sender) => this.send(message, sender),
        cancel: (turn) => this.#stop(turn),
        view: () => this.#view(),
        historyMessages: () => this.#history.branch(this.#history.leaf),
      },
      check: (sender, maxAgeMs) => checkSender(sender, env, ctx, maxAgeMs),
      now,
    });
    const placeholders: Shelf = {
      read: () => kv.get<TableData>(PLACEHOLDERS),
      // Of one that has been deleted meanwhile nothing is kept.
      write: (data) => {
        if (this.#history.spec) kv.put(PLACEHOLDERS, data);
      },
    };
    this.#runner = new Runner({
      kv,
      transaction: (act) => this.#tables.transaction(act),
      log: this.#log,
      history: this.#history,
      publish: (added) => this.#viewers.publish(added),
      verify: () => this.#viewers.verify(),
      admit: (call, signal) => admitInner({ ...call, placeholders }, env, ctx, signal),
      changed: () => this.#arm(),
      shown: () => this.#listing.note(),
      background: (work) => ctx.waitUntil(work),
      now,
    });
    void ctx.blockConcurrencyWhile(() => this.#wake());
  }

  async create(spec: Spec, sender: Sender): Answer<ConversationView> {
    return this.#guarded(async () => {
      if (this.#history.spec || this.#buried) {
        return err({ kind: "conflict", message: "This conversation is there already." });
      }
      const maker: Maker = { keyId: sender.keyId, workspace: sender.workspace };
      this.#tables.transaction(() => {
        this.ctx.storage.kv.put(MAKER, maker);
        this.#history.create(spec, Date.now());
        this.#listing.note();
      });
      this.#arm();
      await this.#listing.write();
      return this.#here() ? ok(this.#view()) : err(NO_SUCH_CONVERSATION);
    });
  }

  async read(): Answer<ConversationView> {
    return this.#guarded(async () => ok(this.#view()), true);
  }

  async change(asked: Change): Answer<ConversationView> {
    return this.#guarded(async () => {
      const reserved = reservedFields(this.#history.spec, { ...asked.options, ...ownFields(asked) });
      if (reserved) return err(reserved);
      const change = withReserved(this.#history.spec, asked);
      const { leaf } = change;
      if (leaf !== undefined) {
        if (!this.#history.message(leaf)) return err({ kind: "invalid_request", message: "leaf: no such message." });
        if (this.#runner.busy) {
          return err({ kind: "conflict", message: "leaf: a turn is running, and goes on in its own branch." });
        }
      }
      if (JSON.stringify({ ...this.#history.spec, ...change }).length > MAX_SETTINGS_CHARS) return err(TOO_MUCH);
      this.#tables.transaction(() => {
        if (leaf !== undefined && leaf !== this.#history.leaf) this.#runner.leaveBranch();
        this.#history.change(change, Date.now());
        this.#listing.note();
      });
      return ok(this.#view());
    }, true);
  }

  async remove(): Answer<null> {
    return this.#guarded(async () => {
      this.#bury();
      await this.#tellList();
      return ok(null);
    }, true);
  }

  async messages(query: MessagesQuery): Answer<Page<Message>> {
    return this.#guarded(async () => this.#history.page(query), true);
  }

  async send(message: Incoming, sender: Sender): Answer<Sent> {
    return this.#guarded(async () => {
      const reserved = reservedFields(this.#history.spec, message.options);
      return reserved ? err(reserved) : this.#runner.send(message, sender);
    }, true);
  }

  async ended(turn: string): Answer<TurnResult> {
    return this.#guarded(() => this.#runner.ended(turn), true);
  }

  async cancel(turn: string | null): Answer<ConversationView> {
    return this.#guarded(async () => {
      this.#runner.cancel(turn);
      return ok(this.#view());
    }, true);
  }

  /** As a socket asks for it, which has no other way to hear that there was nothing to stop. */
  #stop(turn: string | null): Answer<null> {
    return this.#guarded(async () => (this.#runner.cancel(turn) ? ok(null) : err(NOTHING_TO_STOP)), true);
  }

  override async fetch(request: Request): Promise<Response> {
    const answered = await this.#guarded(async () => this.#fetched(request), true);
    if (answered.ok) return answered.value;
    // The Worker tells it in the caller's way.
    return new Response(null, { headers: { [FAILURE_HEADER]: asciiJson(answered.error) } });
  }

  override async webSocketMessage(socket: WebSocket, data: string | ArrayBuffer): Promise<void> {
    await this.#guarded(async () => {
      if (this.#here()) await this.#viewers.message(socket, data);
      else this.#viewers.closeAll(CLOSE.unknown, GONE);
      return ok(null);
    });
  }

  override async webSocketClose(socket: WebSocket, code: number, reason: string): Promise<void> {
    this.#viewers.closed(socket, code, reason);
  }

  override async webSocketError(socket: WebSocket): Promise<void> {
    this.#viewers.closed(socket, BROKEN, "connection lost");
  }

  /** Never throws: an alarm that throws is given up after six tries. It may come twice, or late: it does what is due. */
  override async alarm(): Promise<void> {
    this.#alarmAt = null;
    await this.#guarded(async () => {
      if (this.#here()) this.#runner.takeUp();
      if (this.#isDue()) await this.#tellList();
      return ok(null);
    });
  }

  #isDue(): boolean {
    const { dueAt } = this.#listing;
    return dueAt !== null && dueAt <= Date.now();
  }

  /** Takes up what the life before has left. */
  async #wake(): Promise<void> {
    try {
      this.#alarmAt = await this.ctx.storage.getAlarm();
      this.#buried = this.#listing.buried;
      if (this.#here()) this.#runner.takeUp();
    } catch (bug) {
      logBug(bug);
    }
    this.#arm();
  }

  /** What there is of a conversation; null: none, or its time to live is over, which ends it. */
  #here(): KeptSpec | null {
    const { spec } = this.#history;
    if (!spec || Date.now() < expiryOf(spec) || this.#runner.busy) return spec;
    this.#bury();
    return null;
  }

  /** Ends it, whatever is going on. */
  #bury(): void {
    const { spec } = this.#history;
    if (!spec) return;
    this.#tables.transaction(() => {
      this.#tables.drop();
      for (const key of [MAKER, PLACEHOLDERS, ...TURN_KEYS]) this.ctx.storage.kv.delete(key);
      this.#listing.bury(spec.id);
    });
    this.#buried = true;
    this.#runner.abandon();
    this.#viewers.closeAll(CLOSE.unknown, GONE);
    this.#arm();
  }

  async #tellList(): Promise<void> {
    // What was deleted and is listed no more leaves nothing behind.
    if (!(await this.#listing.write())) return;
    await this.ctx.storage.deleteAll();
    this.#alarmAt = null;
  }

  /** Sees to it that the alarm rings in time. One that rings too early finds nothing to do. */
  #arm(): void {
    let at: number | null;
    try {
      at = this.#dueAt(Date.now());
    } catch (bug) {
      logBug(bug);
      // What could not be read now is to be read later.
      at = Date.now() + GUARD_MS;
    }
    if (at === null || (this.#alarmAt !== null && this.#alarmAt <= at)) return;
    this.#alarmAt = at;
    this.ctx.waitUntil(this.ctx.storage.setAlarm(at));
  }

  /** Whoever has fallen silent meanwhile goes at the same time. */
  #dueAt(now: number): number | null {
    const { spec } = this.#history;
    return alarmAt({
      now,
      busy: this.#runner.busy,
      expiresAt: spec && expiryOf(spec),
      heartbeatAt: this.#viewers.sweep(now),
      registryAt: this.#listing.dueAt,
    });
  }

  #view(): ConversationView {
    const turn = this.#runner.running;
    return this.#history.view({
      seq: this.#log.lastSeq,
      state: conversationState(turn?.state ?? "none"),
      turn: turn?.id ?? null,
      turnSeq: turn ? this.#log.began(turn.id) : null,
      awaiting: this.#runner.awaiting,
    });
  }

  #entry(): Entry | null {
    const { spec, turns } = this.#history;
    const maker = this.ctx.storage.kv.get<Maker>(MAKER);
    if (!spec || !maker) return null;
    const { id, model, metadata, createdAt, updatedAt } = spec;
    return {
      ...maker,
      id,
      model,
      metadata: JSON.stringify(metadata),
      createdAt,
      updatedAt,
      expiresAt: expiryOf(spec),
      turns,
    };
  }

  #fetched(request: Request): Result<Response, Failure> {
    const sender = JSON.parse(request.headers.get(SENDER_HEADER) ?? "null") as Sender;
    const { pathname, searchParams } = new URL(request.url);
    if (pathname === "/socket") return this.#viewers.accept(sender);
    if (pathname === "/export") return ok(exported(this.#history.export(this.#view())));
    const turn = searchParams.get("turn");
    if (turn !== null && !this.#history.turn(turn)) return err(UNKNOWN_TURN);
    return this.#viewers.stream(Number(searchParams.get("after") ?? 0), turn, sender, request.signal);
  }

  /** Answers, for a conversation that is there; a bug is a failure like others, and the object lives on. */
  async #guarded<T>(act: () => Answer<T>, mustBeHere = false): Answer<T> {
    try {
      if (mustBeHere && !this.#here()) return err(NO_SUCH_CONVERSATION);
      return await act();
    } catch (bug) {
      logBug(bug);
      return err({ kind: "internal" });
    } finally {
      this.#arm();
    }
  }
}

function expiryOf({ updatedAt, ttlSeconds }: KeptSpec): number {
  return updatedAt + ttlSeconds * 1000;
}

/** In pieces, as they are read. */
function exported(pieces: Iterable<string>): Response {
  const iterator = pieces[Symbol.iterator]();
  const encoder = new TextEncoder();
  const body = new ReadableStream<Uint8Array>({
    pull(controller) {
      const { done, value } = iterator.next();
      if (done) controller.close();
      else controller.enqueue(encoder.encode(value));
    },
  });
  return new Response(body);
}

function logBug(bug: unknown): void {
  console.error(JSON.stringify({ level: "error", msg: "conversation_failed", error: String(bug) }));
}
