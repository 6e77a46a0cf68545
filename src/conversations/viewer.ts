/**
 * One socket: who looks, how far it has been brought, and how much may be on its way. All of that lies beside the socket
 * in the runtime's keeping and is written whenever something was sent, so that an object that slept, or died, goes on at
 * the very number where it was.
 */

import { closeQuietly } from "./close.ts";
import { frameText, utf8Bytes } from "./frames.ts";
import type { EventLog, Numbered } from "./log.ts";
import type { Sender } from "./protocol.ts";

/** So much is sent to a viewer between two signs of life, whatever window it asks for: what nobody reads lies in memory. */
export const MAX_UNHEARD_BYTES = 4 * 1024 * 1024;
/** The same for all viewers of a conversation together, each of whom has an equal share: an object has 128 MB in all. */
export const MAX_ALL_UNHEARD_BYTES = 32 * 1024 * 1024;
/** Bad frames in a row; the last of them closes. */
export const MAX_BAD_FRAMES = 5;
export const MAX_FRAMES = 100;
export const FRAMES_MS = 10_000;
export const MAX_RESUMES = 30;
export const RESUMES_MS = 60_000;
/** What lies beside a socket may have 16,384 bytes; a client's name is the one part without a bound of its own. */
const MAX_CLIENT_CHARS = 512;
/** How much of the log is looked at in one piece. */
const LOOK_BYTES = 64 * 1024;

/** Ids and numbers only. Fields are only ever added: sockets outlive a release. */
type Kept = {
  readonly sender: Sender;
  /** Last sign of life; at first, the moment it connected. */
  heard: number;
  /** Number of the last entry sent. */
  sent: number;
  /** The highest number ever sent, which `resume` does not take back. */
  reached: number;
  acked: number;
  /** Bytes that may be on their way beyond `acked`; null: it has not said. */
  window: number | null;
  /** Bytes on their way beyond `acked`. Counted while there is a window. */
  underWay: number;
  /** Bytes sent since the last sign of life. */
  unheard: number;
  /** Bad frames in a row. */
  bad: number;
  /** When it resumed, within the last minute. */
  resumes: readonly number[];
  /** We have closed it, or it us. */
  over: boolean;
};

/** An entry as a frame, made once for all viewers. */
export type Line = { readonly seq: number; readonly text: string; readonly bytes: number };
export function lineOf(entry: Numbered): Line {
  const text = frameText(entry);
  return { seq: entry.seq, text, bytes: utf8Bytes(text) };
}

export class Viewer {
  readonly socket: WebSocket;
  readonly #kept: Kept;
  /** All the viewers that there are. */
  readonly #all: { readonly size: number };
  /** Its frames, one after the other. */
  turn: Promise<void> = Promise.resolve();
  /** There is more for it in the log, and what is waited for. Not kept: whoever is restored is looked at once. */
  waitsFor: "ack" | "life" | null = null;
  /** When its frames of the last seconds came. Not kept: an object that sleeps has had none for as long. */
  readonly #frames: number[] = [];

  private constructor(socket: WebSocket, all: { readonly size: number }, kept: Kept) {
    this.socket = socket;
    this.#all = all;
    this.#kept = kept;
  }

  /** A new one, which is told what comes after the newest number. */
  static begin(socket: WebSocket, sender: Sender, newest: number, now: number, all: { readonly size: number }): Viewer {
    const viewer = new Viewer(socket, all, {
      sender: { ...sender, client: sender.client?.slice(0, MAX_CLIENT_CHARS) ?? null },
      heard: now,
      sent: newest,
      reached: newest,
      acked: newest,
      window: null,
      underWay: 0,
      unheard: 0,
      bad: 0,
      resumes: [],
      over: false,
    });
    viewer.save();
    return viewer;
  }

  /** One whose socket was there before this object was; null: it is closing, and nobody's any more. */
  static restore(socket: WebSocket, all: { readonly size: number }): Viewer | null {
    const kept = socket.deserializeAttachment() as Kept | null;
    return kept && !kept.over && socket.readyState === WebSocket.OPEN ? new Viewer(socket, all, kept) : null;
  }

  get sender(): Sender {
    return this.#kept.sender;
  }
  get sent(): number {
    return this.#kept.sent;
  }
  get heard(): number {
    return this.#kept.heard;
  }
  get over(): boolean {
    return this.#kept.over;
  }

  /** Bytes that may be sent now. Where nothing is on its way one entry may be sent, however large it is. */
  get room(): number {
    const { window, underWay, unheard } = this.#kept;
    const own = window === null ? Number.POSITIVE_INFINITY : window - underWay;
    return Math.max(0, Math.min(own, this.#mostUnheard - unheard));
  }

  /** Sends an entry if there is room; false: it was not sent. To be followed by `save`. */
  take(seq: number, text: string, bytes: number): boolean {
    const kept = this.#kept;
    this.waitsFor = this.#lacks(bytes);
    if (this.waitsFor || !this.say(text)) return false;
    kept.sent = seq;
    kept.reached = Math.max(kept.reached, seq);
    kept.unheard += bytes;
    if (kept.window !== null) kept.underWay += bytes;
    return true;
  }

  get #mostUnheard(): number {
    return Math.min(MAX_UNHEARD_BYTES, Math.floor(MAX_ALL_UNHEARD_BYTES / Math.max(1, this.#all.size)));
  }

  #lacks(bytes: number): "ack" | "life" | null {
    const { window, underWay, unheard } = this.#kept;
    if (window !== null && underWay > 0 && underWay + bytes > window) return "ack";
    return unheard > 0 && unheard + bytes > this.#mostUnheard ? "life" : null;
  }

  /** Sends a frame that is none of the log. False: nobody is there any more. */
  say(text: string): boolean {
    if (this.#kept.over) return false;
    try {
      this.socket.send(text);
      return true;
    } catch {
      // The connection broke, or the client has closed it, and the runtime has not told us yet.
      this.#kept.over = true;
      return false;
    }
  }

  /** A sign of life. */
  hear(now: number): void {
    this.#kept.heard = now;
    this.#kept.unheard = 0;
    this.waitsFor = null;
  }

  /** Whether it may send one more frame. */
  mayFrame(now: number): boolean {
    return isWithin(this.#frames, now, FRAMES_MS, MAX_FRAMES);
  }

  mayResume(now: number): boolean {
    const resumes = [...this.#kept.resumes];
    const may = isWithin(resumes, now, RESUMES_MS, MAX_RESUMES);
    this.#kept.resumes = resumes;
    return may;
  }

  /** How many bad frames it has sent in a row, this one included. */
  bad(): number {
    return ++this.#kept.bad;
  }

  good(): void {
    this.#kept.bad = 0;
  }

  /** What comes after this number is sent, be it for the second time. */
  resume(after: number): void {
    Object.assign(this.#kept, { sent: after, acked: after, underWay: 0 });
    this.waitsFor = null;
  }

  /** From the first time on, what is sent is counted until it is acknowledged. */
  flow(window: number): void {
    const kept = this.#kept;
    if (kept.window === null) Object.assign(kept, { acked: kept.sent, underWay: 0 });
    kept.window = window;
    this.waitsFor = null;
  }

  /** Everything up to a number has arrived. False: it was never sent. */
  ack(seq: number, log: Pick<EventLog, "floor" | "read">): boolean {
    const kept = this.#kept;
    if (seq > kept.reached) return false;
    // An earlier one came late, or was on its way when its viewer resumed from further back.
    if (kept.window === null || seq <= kept.acked || seq > kept.sent) return true;
    // There are no more of those that say something new than there were entries: they are no flood.
    this.#frames.pop();
    if (seq === kept.sent) kept.underWay = 0;
    else if (kept.acked >= log.floor) kept.underWay -= bytesBetween(log, kept.acked, seq);
    else if (seq >= log.floor) kept.underWay = bytesBetween(log, seq, kept.sent);
    // What it has of entries that are kept no more, or that a `history` stood for, can't be told from the rest.
    else return true;
    kept.acked = seq;
    this.waitsFor = null;
    return true;
  }

  /** Written after whatever changed it. */
  save(): void {
    try {
      this.socket.serializeAttachment(this.#kept);
    } catch (error) {
      // What can't be kept can't be gone on from.
      console.error(JSON.stringify({ level: "error", msg: "viewer_not_kept", error: String(error) }));
      this.close(1011, "internal error");
    }
  }

  /** Ends it from our side. Nothing is sent after it. */
  close(code: number, reason: string): void {
    this.#kept.over = true;
    try {
      this.socket.serializeAttachment(this.#kept);
    } catch {
      // It closes all the same; whoever is restored asks for its state as well.
    }
    closeQuietly(this.socket, code, reason);
  }
}

/** Bytes of the frames after one number, up to another one; both are in the log. */
function bytesBetween(log: Pick<EventLog, "read">, after: number, through: number): number {
  let bytes = 0;
  for (let at = after; at < through; ) {
    for (const entry of log.read(at, LOOK_BYTES)) {
      if (entry.seq > through) return bytes;
      bytes += lineOf(entry).bytes;
      at = entry.seq;
    }
  }
  return bytes;
}

/** Notes one more of what may happen so often in so long, unless it was too often. `times`: oldest first. */
function isWithin(times: number[], now: number, ms: number, most: number): boolean {
  // A clock that has leapt back makes nothing count twice as long.
  while (times[0] !== undefined && (now - times[0] >= ms || times[0] > now)) times.shift();
  return times.length < most && times.push(now) > 0;
}
