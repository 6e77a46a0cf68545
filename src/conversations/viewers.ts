/**
 * Everybody who looks at a conversation. The log is the truth and each viewer has a place in it: whoever is at its newest
 * number is sent what is added at once, everyone else is brought there as there is room. So a viewer that is slow, asleep
 * or gone costs no memory, and holds nobody up.
 *
 * Sockets are the runtime's and hibernate; what is known of them lies beside them (viewer.ts). Streams live as long as
 * their connections.
 *
 * Accepted: a key that can't be asked about (its ledger is away) is taken to be alive. Its turns are admitted by that
 * same ledger, so nothing is spent; and what it had been shown so far it had a right to.
 */
import { CLOSE, type Conversation, HEARTBEAT_MS, type Message } from "../../clients/typescript/protocol.ts";
import { err, ok, type Result } from "../result.ts";
import type { Failure } from "../wire/errors.ts";
import { closeQuietly } from "./close.ts";
import { errorFrame, type Frame, historyFrame, parseFrame, readyFrame, sentFrame, utf8Bytes } from "./frames.ts";
import { MAX_BODY_BYTES } from "./limits.ts";
import type { EventLog, Numbered } from "./log.ts";
import type { Incoming, Sender, Sent } from "./protocol.ts";
import { SseViewer } from "./sse-viewer.ts";
import { type Line, lineOf, MAX_BAD_FRAMES, MAX_FRAMES, MAX_RESUMES, Viewer } from "./viewer.ts";

/** Sockets and streams of one conversation. */
export const MAX_VIEWERS = 100;
/** Two heartbeats may be missed, and one may be this late. */
export const SILENCE_MS = 2 * HEARTBEAT_MS + 5_000;
/** Frames that cost or change nothing are taken from a key that was seen alive so long ago. */
const CHECKED_MS = 1_000;
/** Old knowledge for `verify`, which is called about every second: together below the two seconds of a revocation. */
const VERIFIED_MS = 500;
/** How much of the log is looked at in one piece. */
const LOOK_BYTES = 64 * 1024;
/** A ping wakes nobody: whoever gets more after its next one is looked at this often. */
const LIFE_LOOK_MS = 1_000;

/** What viewers ask of the conversation. */
export type Commands = {
  send(message: Incoming, sender: Sender): Promise<Result<Sent, Failure>>;
  cancel(turn: string | null): Promise<Result<unknown, Failure>>;
  view(): Conversation;
  /** The whole present branch, for `history` frames. */
  historyMessages(): readonly Message[];
};

export type Surroundings = {
  readonly ctx: Pick<
    DurableObjectState,
    "acceptWebSocket" | "getWebSockets" | "getWebSocketAutoResponseTimestamp" | "setWebSocketAutoResponse" | "waitUntil"
  >;
  readonly log: Pick<EventLog, "lastSeq" | "floor" | "read">;
  readonly commands: Commands;
  /** Why a key may not be used any more, by what is known of it for so long at most. */
  readonly check: (sender: Sender, maxAgeMs: number) => Promise<Failure | null>;
  readonly now: () => number;
};

export class Viewers {
  readonly #at: Surroundings;
  readonly #sockets = new Map<WebSocket, Viewer>();
  readonly #streams = new Set<SseViewer>();
  /** When keys were last seen alive. */
  readonly #alive = new Map<string, number>();

  /** Finds the sockets that were there before the object was. */
  constructor(surroundings: Surroundings) {
    this.#at = surroundings;
    const { ctx } = surroundings;
    ctx.setWebSocketAutoResponse(new WebSocketRequestResponsePair("ping", "pong"));
    for (const socket of ctx.getWebSockets()) {
      const viewer = Viewer.restore(socket, this.#sockets);
      if (viewer) this.#sockets.set(socket, viewer);
    }
  }

  get count(): number {
    return this.#sockets.size + this.#streams.size;
  }

  /** The upgrade. Which protocol was offered is the Worker's to look at. */
  accept(sender: Sender): Result<Response, Failure> {
    if (this.count >= MAX_VIEWERS) return err(TOO_MANY_VIEWERS);
    const { ctx, log, commands, now } = this.#at;
    // What can't be read leaves no socket behind.
    const newest = log.lastSeq;
    const ready = readyFrame(commands.view(), newest);
    const { 0: client, 1: server } = new WebSocketPair();
    ctx.acceptWebSocket(server);
    const viewer = Viewer.begin(server, sender, newest, now(), this.#sockets);
    this.#sockets.set(server, viewer);
    viewer.say(ready);
    return ok(new Response(null, { status: 101, webSocket: client }));
  }

  /**
   * SSE of everything after a number, until a turn ends (null: the running one). Where nothing runs, or the turn has
   * ended, it ends behind the newest number. `signal`: its client has left.
   */
  stream(after: number, turn: string | null, sender: Sender, signal: AbortSignal): Result<Response, Failure> {
    const { log, commands } = this.#at;
    if (this.count >= MAX_VIEWERS) return err(TOO_MANY_VIEWERS);
    if (after > log.lastSeq) return err(aboveNewest(after, log.lastSeq));
    const viewer = new SseViewer({ after, turn, sender }, log, commands, (who) => this.#streams.delete(who));
    this.#streams.add(viewer);
    // Also while nobody takes anything, when the stream itself is not told.
    signal.addEventListener("abort", () => viewer.leave(), { once: true });
    return ok(new Response(viewer.stream()));
  }

  /** The log has grown by these entries. Synchronous and cheap: each is written out once, whoever looks. */
  publish(added: readonly Numbered[]): void {
    const first = added[0];
    if (!first) return;
    let lines: readonly Line[] | undefined;
    for (const viewer of this.#sockets.values()) {
      if (viewer.sent !== first.seq - 1) {
        this.#catchUp(viewer);
        continue;
      }
      lines ??= added.map(lineOf);
      for (const { seq, text, bytes } of lines) if (!viewer.take(seq, text, bytes)) break;
      this.#settle(viewer);
    }
    for (const stream of this.#streams) stream.publish(added);
  }

  /**
   * A frame has come. Resolves when it has been dealt with, but for what takes long: until then the runtime hands on no
   * other one of the same socket.
   */
  message(socket: WebSocket, data: string | ArrayBuffer): Promise<void> {
    const viewer = this.#sockets.get(socket);
    if (!viewer) return Promise.resolve();
    viewer.turn = viewer.turn.then(() => this.#message(viewer, data)).catch((bug) => this.#failed(viewer, null, bug));
    return viewer.turn;
  }

  /** A socket has been closed, or broke: our side of the handshake (the runtime does not send it). */
  closed(socket: WebSocket, code: number, reason: string): void {
    const viewer = this.#sockets.get(socket);
    if (viewer) this.#close(viewer, code, reason);
    else closeQuietly(socket, code, reason);
  }

  /** Closes those whose key has died. Called before a turn's first event, and about every second while one runs. */
  async verify(): Promise<void> {
    const senders = new Map<string, Sender>();
    for (const { sender } of [...this.#sockets.values(), ...this.#streams]) senders.set(secretOf(sender), sender);
    await Promise.all(
      [...senders].map(async ([secret, sender]) => {
        const death = await this.#deathOf(sender, VERIFIED_MS);
        if (!death) return;
        for (const viewer of this.#sockets.values()) if (secretOf(viewer.sender) === secret) this.#bury(viewer, death);
        for (const stream of this.#streams) if (secretOf(stream.sender) === secret) stream.end(death);
      }),
    );
  }

  closeAll(code: number, reason: string): void {
    for (const viewer of this.#sockets.values()) this.#close(viewer, code, reason);
    const why: Failure =
      code === CLOSE.unknown ? { kind: "not_found", what: reason } : { kind: "conflict", message: reason };
    for (const stream of this.#streams) stream.end(why);
  }

  /** Closes whoever has missed its heartbeats; returns when to come again, or null: no socket is there. */
  sweep(now: number): number | null {
    let next = Number.POSITIVE_INFINITY;
    for (const viewer of this.#sockets.values()) {
      this.#listen(viewer);
      // A clock that has leapt back: it counts from here.
      if (viewer.heard > now) viewer.hear(now);
      if (now - viewer.heard > SILENCE_MS) {
        this.#close(viewer, CLOSE.heartbeat, "no heartbeat");
        continue;
      }
      this.#catchUp(viewer);
      next = Math.min(next, viewer.heard + SILENCE_MS + 1, viewer.waitsFor === "life" ? now + LIFE_LOOK_MS : next);
    }
    return this.#sockets.size === 0 ? null : next;
  }

  async #message(viewer: Viewer, data: string | ArrayBuffer): Promise<void> {
    if (viewer.over) return;
    const now = this.#at.now();
    viewer.hear(now);
    if (!viewer.mayFrame(now)) return this.#end(viewer, TOO_MANY_FRAMES, CLOSE.limited, "too many frames");
    const tooLarge = typeof data === "string" ? isLarge(data) : data.byteLength > MAX_BODY_BYTES;
    if (tooLarge) return this.#end(viewer, TOO_LARGE, CLOSE.tooLarge, "frame too large");
    const frame = typeof data === "string" ? parseFrame(data) : BINARY;
    const costs = frame.ok && (frame.value.type === "send" || frame.value.type === "cancel");
    if (costs || !this.#seenAlive(viewer.sender, now)) {
      const death = await this.#deathOf(viewer.sender, costs ? 0 : CHECKED_MS);
      if (death) return this.#bury(viewer, death);
      if (viewer.over) return;
    }
    if (frame.ok) this.#obey(viewer, frame.value, now);
    else this.#refuseBad(viewer, frame.error.ref, frame.error.failure);
    if (!viewer.over && !this.#catchUp(viewer)) this.#settle(viewer);
  }

  #obey(viewer: Viewer, frame: Frame, now: number): void {
    const { log } = this.#at;
    if (frame.type === "ack" && !viewer.ack(frame.seq, log)) {
      this.#refuseBad(viewer, null, { kind: "invalid_request", message: `seq: ${frame.seq} was never sent.` });
      return;
    }
    viewer.good();
    if (frame.type === "flow") viewer.flow(frame.window);
    else if (frame.type === "resume") this.#resume(viewer, frame.after, now);
    else if (frame.type === "send") this.#aside(viewer, frame.ref, this.#send(viewer, frame.ref, frame.incoming));
    else if (frame.type === "cancel") this.#aside(viewer, null, this.#cancel(viewer, frame.turn));
  }

  #resume(viewer: Viewer, after: number, now: number): void {
    const { lastSeq } = this.#at.log;
    if (!viewer.mayResume(now)) this.#end(viewer, TOO_MANY_RESUMES, CLOSE.limited, "too many resumes");
    else if (after > lastSeq) viewer.say(errorFrame(null, aboveNewest(after, lastSeq)));
    else viewer.resume(after);
  }

  async #send(viewer: Viewer, ref: string | null, incoming: Incoming): Promise<void> {
    const sent = await this.#at.commands.send(incoming, viewer.sender);
    if (!sent.ok) return this.#refuse(viewer, ref, sent.error);
    const { value } = sent;
    if (value.kind === "awaiting") viewer.say(sentFrame(ref, null, "awaiting_tool_results", value.awaiting));
    // A new one is told of by the log.
    else if (value.known) viewer.say(sentFrame(ref, value.turn, value.state, []));
  }

  async #cancel(viewer: Viewer, turn: string | null): Promise<void> {
    const cancelled = await this.#at.commands.cancel(turn);
    if (!cancelled.ok) this.#refuse(viewer, null, cancelled.error);
  }

  /** What may take seconds, while other frames come. */
  #aside(viewer: Viewer, ref: string | null, work: Promise<void>): void {
    this.#at.ctx.waitUntil(work.catch((bug) => this.#failed(viewer, ref, bug)));
  }

  #failed(viewer: Viewer, ref: string | null, bug: unknown): void {
    console.error(JSON.stringify({ level: "error", msg: "frame_failed", error: String(bug) }));
    viewer.say(errorFrame(ref, { kind: "internal" }));
    this.#settle(viewer);
  }

  /** Says why something was not done. A budget that is spent and a key that is dead close. */
  #refuse(viewer: Viewer, ref: string | null, failure: Failure): void {
    if (failure.kind === "unauthenticated") {
      this.#bury(viewer, failure, ref);
      return;
    }
    viewer.say(errorFrame(ref, failure));
    if (failure.kind === "over_budget") this.#close(viewer, CLOSE.limited, "the budget is spent");
  }

  #refuseBad(viewer: Viewer, ref: string | null, failure: Failure): void {
    const row = viewer.bad();
    viewer.say(errorFrame(ref, failure));
    if (row >= MAX_BAD_FRAMES) this.#close(viewer, CLOSE.malformed, `${MAX_BAD_FRAMES} bad frames in a row`);
  }

  #bury(viewer: Viewer, death: Failure, ref: string | null = null): void {
    const lost = death.kind === "unauthenticated";
    const why = lost ? "the key is revoked or has expired" : "the key has lost its scope";
    this.#end(viewer, death, lost ? CLOSE.unauthenticated : CLOSE.forbidden, why, ref);
  }

  #end(viewer: Viewer, failure: Failure, code: number, reason: string, ref: string | null = null): void {
    viewer.say(errorFrame(ref, failure));
    this.#close(viewer, code, reason);
  }

  #close(viewer: Viewer, code: number, reason: string): void {
    this.#sockets.delete(viewer.socket);
    viewer.close(code, reason);
  }

  /** Brings one up to date as far as there is room, and keeps its place; false: nothing has changed. */
  #catchUp(viewer: Viewer): boolean {
    const { log, commands } = this.#at;
    if (viewer.sent >= log.lastSeq) return false;
    if (viewer.waitsFor === "life") this.#listen(viewer);
    const before = viewer.sent;
    while (!viewer.waitsFor && !viewer.over && viewer.sent < log.lastSeq) {
      if (viewer.sent < log.floor) {
        const text = historyFrame(log.floor, commands.historyMessages());
        viewer.take(log.floor, text, utf8Bytes(text));
        continue;
      }
      for (const entry of log.read(viewer.sent, Math.max(1, Math.min(LOOK_BYTES, viewer.room)))) {
        const { seq, text, bytes } = lineOf(entry);
        if (!viewer.take(seq, text, bytes)) break;
      }
    }
    const changed = viewer.sent !== before || viewer.over;
    if (changed) this.#settle(viewer);
    return changed;
  }

  /** Keeps what has changed; forgets whoever turned out to be gone. */
  #settle(viewer: Viewer): void {
    if (!viewer.over) viewer.save();
    else if (this.#sockets.delete(viewer.socket)) closeQuietly(viewer.socket, 1011, "connection lost");
  }

  /** A `ping` is answered without us; it is a sign of life all the same. */
  #listen(viewer: Viewer): void {
    const at = this.#at.ctx.getWebSocketAutoResponseTimestamp(viewer.socket)?.getTime() ?? 0;
    if (at > viewer.heard) viewer.hear(at);
  }

  #seenAlive(sender: Sender, now: number): boolean {
    const at = this.#alive.get(secretOf(sender));
    return at !== undefined && now >= at && now - at <= CHECKED_MS;
  }

  /** Why a key may not be used any more; null: it may, as far as is known. */
  async #deathOf(sender: Sender, maxAgeMs: number): Promise<Failure | null> {
    const failure = await this.#at.check(sender, maxAgeMs).catch((error: unknown): Failure => {
      console.error(JSON.stringify({ level: "error", msg: "sender_not_checked", error: String(error) }));
      return { kind: "internal" };
    });
    const dead = failure?.kind === "unauthenticated" || failure?.kind === "scope_missing";
    if (this.#alive.size >= MAX_VIEWERS) this.#alive.clear();
    if (failure === null) this.#alive.set(secretOf(sender), this.#at.now());
    else if (dead) this.#alive.delete(secretOf(sender));
    return dead ? failure : null;
  }
}

const secretOf = ({ keyId, secretSha256, rights }: Sender): string =>
  rights ? `${keyId} ${secretSha256} ${JSON.stringify(rights)}` : `${keyId} ${secretSha256}`;

/** A UTF-16 unit is one to three bytes of UTF-8. */
function isLarge(text: string): boolean {
  return text.length > MAX_BODY_BYTES || (text.length * 3 > MAX_BODY_BYTES && utf8Bytes(text) > MAX_BODY_BYTES);
}

const aboveNewest = (after: number, newest: number): Failure => ({
  kind: "invalid_request",
  message: `after: ${after} is above the newest number, which is ${newest}.`,
});
const tooMany = (message: string): Failure => ({ kind: "limit_reached", message });
const TOO_MANY_VIEWERS = tooMany(`This conversation has ${MAX_VIEWERS} viewers, which is the limit.`);
const TOO_MANY_FRAMES = tooMany(`More than ${MAX_FRAMES} frames in 10 seconds.`);
const TOO_MANY_RESUMES = tooMany(`More than ${MAX_RESUMES} resumes in a minute.`);
const TOO_LARGE: Failure = { kind: "request_too_large", limitBytes: MAX_BODY_BYTES };
const BINARY = {
  ok: false,
  error: { ref: null, failure: { kind: "invalid_request", message: "A frame is text, never binary." } },
} as const;
