/**
 * A viewer of a conversation that trusts nobody: over the `ws` package, with every number checked as it comes. It can send
 * what no client would, stop reading, and have its connection broken at a given byte.
 */
import { once } from "node:events";
import { type AddressInfo, type Socket as Connection, connect, createServer } from "node:net";
import { WebSocket } from "ws";
import {
  AUTH_PROTOCOL_PREFIX,
  type ClientFrame,
  type LoggedFrame,
  PROTOCOL,
  type ServerFrame,
} from "../../clients/typescript/protocol.ts";

/** Nothing here takes this long, however busy the machine is. */
const PATIENCE_MS = 15_000;

export type Closed = { readonly code: number; readonly reason: string };
export type FrameType = ServerFrame["type"];
export type FrameOf<T extends FrameType> = Extract<ServerFrame, { type: T }>;

/** The upgrade was refused with a status. */
export class Refused extends Error {
  readonly status: number;
  readonly body: string;
  constructor(status: number, body: string) {
    super(`the upgrade was refused with ${status}: ${body}`);
    this.status = status;
    this.body = body;
  }
}

export type Opening = {
  /** Left out: `sluice.v1` and the credential. */
  readonly protocols?: readonly string[];
  readonly headers?: Readonly<Record<string, string>>;
};

/** What a browser offers: the protocol, and its credential as another one. */
export const offering = (credential: string): string[] => [PROTOCOL, `${AUTH_PROTOCOL_PREFIX}${credential}`];

/**
 * Joins what one viewer is told over all its connections. Numbers come without a gap and none comes twice; a `history`
 * frame stands for everything up to its number. What breaks that is an error at once.
 */
export class Joined {
  /** Number of the last frame. */
  last = 0;
  readonly frames: LoggedFrame[] = [];
  /** Numbers that `history` frames stood for in place of frames. */
  readonly skippedTo: number[] = [];

  constructor(after = 0) {
    this.last = after;
  }

  add(frame: ServerFrame): void {
    if (frame.type === "history") {
      if (frame.seq <= this.last) throw new Error(`history up to ${frame.seq} for one who has ${this.last}`);
      this.skippedTo.push(frame.seq);
      this.last = frame.seq;
      return;
    }
    if (!("seq" in frame) || frame.type === "ready") return;
    if (frame.seq !== this.last + 1) throw new Error(`${frame.type} ${frame.seq} came after ${this.last}`);
    this.last = frame.seq;
    this.frames.push(frame);
  }
}

/** The upstream events among frames, as they were sent, of one turn or of all. */
export const eventsIn = (frames: readonly ServerFrame[], turn?: string): string[] =>
  frames.flatMap((frame) =>
    frame.type === "event" && (turn === undefined || frame.turn === turn) ? [JSON.stringify(frame.event)] : [],
  );

/** The text that the deltas among frames bring. */
export const textIn = (frames: readonly ServerFrame[], turn?: string): string =>
  frames
    .map((frame) => {
      if (frame.type !== "event" || (turn !== undefined && frame.turn !== turn)) return "";
      const { delta } = frame.event as { delta?: { text?: unknown } };
      return typeof delta?.text === "string" ? delta.text : "";
    })
    .join("");

type Waiting = { readonly look: () => void; readonly fail: (why: Error) => void };

export class Viewer {
  /** Every frame, in the order they came. */
  readonly frames: ServerFrame[] = [];
  /** Everything that was no JSON: `pong`. */
  readonly texts: string[] = [];
  /** Bytes of all text frames. */
  bytes = 0;
  readonly closed: Promise<Closed>;
  closedAs: Closed | undefined;
  /** What was wrong with the numbers; `check` throws it. */
  readonly wrong: string[] = [];
  readonly #ws: WebSocket;
  readonly #waiting = new Set<Waiting>();
  /** The number that must come next, once it is known. */
  #next: number | undefined;
  /** Where a `resume` that was said will begin. */
  #resumed: number[] = [];

  private constructor(ws: WebSocket) {
    this.#ws = ws;
    ws.on("message", (data, binary) => this.#received(data as Buffer, binary));
    ws.on("error", () => {});
    this.closed = new Promise((resolve) => {
      ws.once("close", (code, reason) => {
        this.closedAs = { code, reason: reason.toString() };
        resolve(this.closedAs);
        for (const { look } of [...this.#waiting]) look();
        for (const { fail } of [...this.#waiting]) fail(new Error(`closed with ${code} ${reason.toString()}`));
      });
    });
  }

  /** Rejects with `Refused` when the answer is a status. */
  static async open(url: string, { protocols, headers = {} }: Opening): Promise<Viewer> {
    const ws = new WebSocket(url.replace(/^http/, "ws"), [...(protocols ?? [])], {
      headers: { ...headers },
      perMessageDeflate: false,
      maxPayload: 64 * 1024 * 1024,
    });
    const viewer = new Viewer(ws);
    await new Promise<void>((resolve, reject) => {
      ws.once("open", resolve);
      ws.once("error", reject);
      ws.once("unexpected-response", (_, response) => {
        let body = "";
        response.on("data", (piece: Buffer) => {
          body += piece;
        });
        response.on("end", () => reject(new Refused(response.statusCode ?? 0, body)));
        response.on("error", reject);
      });
    });
    return viewer;
  }

  get protocol(): string {
    return this.#ws.protocol;
  }

  get isOpen(): boolean {
    return this.#ws.readyState === WebSocket.OPEN;
  }

  /** The number of the last frame that counts. */
  get last(): number {
    return (this.#next ?? 1) - 1;
  }

  send(frame: ClientFrame): void {
    if (frame.type === "resume") this.#resumed.push(frame.after + 1);
    this.raw(JSON.stringify(frame));
  }

  /** Text, or bytes as a binary frame. */
  raw(data: string | Buffer): void {
    this.#ws.send(data);
  }

  /** A text frame whose payload is these bytes, whatever they are. */
  rawText(bytes: Buffer): void {
    this.#ws.send(bytes, { binary: false });
  }

  /** The heartbeat; resolves when it has been answered. */
  async ping(): Promise<void> {
    const before = this.texts.length;
    this.raw("ping");
    await this.#until(() => this.texts.length > before || undefined, "pong");
  }

  /** Reads nothing more: the kernel's buffers fill, and then the other side waits. */
  freeze(): void {
    this.#ws.pause();
  }

  thaw(): void {
    this.#ws.resume();
  }

  /** The connection is gone, without a close frame. */
  break(): void {
    this.#ws.terminate();
  }

  async close(code = 1000): Promise<Closed> {
    this.#ws.close(code);
    return this.closed;
  }

  /** The first frame (after the first `from`) of which this is true; waits for it. */
  async frame(is: (frame: ServerFrame) => boolean, from = 0, what = "a frame"): Promise<ServerFrame> {
    let at = from;
    return this.#until(() => {
      for (; at < this.frames.length; at++) {
        const frame = this.frames[at];
        if (frame && is(frame)) return frame;
      }
      return undefined;
    }, what);
  }

  /** The first frame of a type (after the first `from`). */
  async next<T extends FrameType>(
    type: T,
    from = 0,
    is: (frame: FrameOf<T>) => boolean = () => true,
  ): Promise<FrameOf<T>> {
    return (await this.frame((frame) => frame.type === type && is(frame as FrameOf<T>), from, type)) as FrameOf<T>;
  }

  /** How a turn ended: by its own id, or the client's id of what was sent, or the first one to end after `from`. */
  async ended(of: { turn?: string; from?: number } = {}): Promise<FrameOf<"turn.completed"> | FrameOf<"turn.failed">> {
    const ends = (frame: ServerFrame): boolean =>
      (frame.type === "turn.completed" || frame.type === "turn.failed") &&
      (of.turn === undefined || frame.turn === of.turn);
    return (await this.frame(ends, of.from, "the end of a turn")) as FrameOf<"turn.completed">;
  }

  /** Sends words and waits for the end of their turn. */
  async say(
    content: string,
    id: string,
    options?: Record<string, unknown>,
  ): Promise<FrameOf<"turn.completed"> | FrameOf<"turn.failed">> {
    const from = this.frames.length;
    this.send({ type: "send", id, content, ...(options ? { options } : {}) });
    const begun = (await this.frame(
      (frame) => (frame.type === "turn.started" && frame.id === id) || (frame.type === "error" && frame.ref === id),
      from,
      `turn.started of ${id}`,
    )) as FrameOf<"turn.started"> | FrameOf<"error">;
    if (begun.type === "error") throw new Error(`${id}: ${JSON.stringify(begun.error)}`);
    return this.ended({ turn: begun.turn, from });
  }

  /** Throws when a number was missing, or came twice. */
  check(): void {
    if (this.wrong.length > 0) throw new Error(this.wrong.join("; "));
  }

  #received(data: Buffer, binary: boolean): void {
    const text = data.toString();
    this.bytes += data.length;
    if (binary) this.wrong.push("a binary frame");
    if (!text.startsWith("{")) {
      this.texts.push(text);
    } else {
      const frame = JSON.parse(text) as ServerFrame;
      this.#count(frame);
      this.frames.push(frame);
    }
    for (const { look } of [...this.#waiting]) look();
  }

  #count(frame: ServerFrame): void {
    if (this.frames.length === 0 && frame.type !== "ready" && frame.type !== "error")
      this.wrong.push(`${frame.type} came before ready`);
    if (frame.type === "ready") {
      if (this.#next !== undefined) this.wrong.push("a second ready");
      this.#next = frame.seq + 1;
      return;
    }
    if (!("seq" in frame)) return;
    if (this.#next === undefined) return;
    if (frame.type === "history") {
      const resumed = this.#resumed.shift();
      if (resumed === undefined) this.wrong.push("a history that nobody asked for");
      else if (frame.seq < resumed) this.wrong.push(`history up to ${frame.seq} for one who has ${resumed - 1}`);
      this.#next = frame.seq + 1;
      return;
    }
    const resumed = this.#resumed.indexOf(frame.seq);
    // One that had nothing to tell has nothing to begin with. What is due may be live, and come once more for it.
    if (resumed !== -1 && frame.seq !== this.#next) this.#resumed.splice(0, resumed + 1);
    else if (frame.seq !== this.#next) this.wrong.push(`${frame.type} ${frame.seq} came where ${this.#next} was due`);
    this.#next = frame.seq + 1;
  }

  #until<T>(ask: () => T | undefined, what: string): Promise<T> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(
        () => waiting.fail(new Error(`waited in vain for ${what}; ${this.#lastFrames()}`)),
        PATIENCE_MS,
      );
      const done = (): void => {
        clearTimeout(timer);
        this.#waiting.delete(waiting);
      };
      const waiting: Waiting = {
        look: () => {
          const answer = ask();
          if (answer === undefined) return;
          done();
          resolve(answer);
        },
        fail: (why) => {
          done();
          reject(why);
        },
      };
      this.#waiting.add(waiting);
      waiting.look();
      if (this.#waiting.has(waiting) && this.closedAs) {
        waiting.fail(
          new Error(`waited for ${what}, but it is closed with ${this.closedAs.code} ${this.closedAs.reason}`),
        );
      }
    });
  }

  #lastFrames(): string {
    return `last frames: ${this.frames
      .slice(-3)
      .map((frame) => JSON.stringify(frame).slice(0, 200))
      .join(" ")}`;
  }
}

export type Followed = { readonly joined: Joined; readonly connections: number };

/**
 * Follows a conversation as a client does whose connections break: it opens another one, resumes after the last number it
 * has, and so on until a frame of which this is true. Rejects when a number is missing, comes twice or was taken back.
 */
export async function follow(
  open: () => Promise<Viewer>,
  isLast: (frame: ServerFrame) => boolean,
  joined = new Joined(),
  limitMs = 4 * PATIENCE_MS,
): Promise<Followed> {
  const end = Date.now() + limitMs;
  for (let connections = 1; ; connections++) {
    if (Date.now() > end) throw new Error(`followed in vain; the last number was ${joined.last}`);
    const viewer = await open().catch(() => null);
    const ready = await viewer?.next("ready").catch(() => null);
    if (!viewer || !ready) {
      viewer?.break();
      await new Promise((done) => setTimeout(done, 20));
      continue;
    }
    const over = await hear(viewer, ready.seq, joined, isLast);
    viewer.check();
    viewer.break();
    if (over) return { joined, connections };
  }
}

/** One connection's part of it; true: the last frame has come. */
async function hear(
  viewer: Viewer,
  newest: number,
  joined: Joined,
  isLast: (frame: ServerFrame) => boolean,
): Promise<boolean> {
  if (newest < joined.last) throw new Error(`${joined.last} was told, and now ${newest} is the newest`);
  let waiting = newest > joined.last;
  if (waiting) viewer.send({ type: "resume", after: joined.last });
  for (let at = 1; ; at++) {
    const frame = await viewer.frame(() => true, at).catch(() => null);
    if (!frame) {
      if (viewer.isOpen) throw new Error(`nothing more came after ${joined.last}`);
      return false;
    }
    if (frame.type === "error") throw new Error(JSON.stringify(frame.error));
    if (!("seq" in frame) || frame.type === "ready") continue;
    // What is live overtakes what was resumed, and comes again behind it.
    if (waiting && frame.type !== "history" && frame.seq !== joined.last + 1) continue;
    waiting = false;
    joined.add(frame);
    if (isLast(frame)) return true;
  }
}

export type Line = {
  readonly url: string;
  /** The connections from now on are broken after so many bytes to the client, each; Infinity: never. */
  breakAfter: () => number;
  /** Connections that were broken so far. */
  broken: number;
  /** Breaks every connection now. */
  breakAll(): void;
  stop(): Promise<void>;
};

/** A line to a server that can be cut at an exact byte, with a reset. */
export async function startLine(port: number): Promise<Line> {
  const open = new Set<Connection>();
  const clients = new Set<Connection>();
  const server = createServer((client) => {
    clients.add(client);
    let left = line.breakAfter();
    const far = connect(port, "127.0.0.1");
    const both = [client, far];
    let isCut = false;
    const cut = (): void => {
      if (isCut) return;
      isCut = true;
      for (const end of both) {
        open.delete(end);
        end.resetAndDestroy();
      }
    };
    for (const end of both) {
      open.add(end);
      end.on("error", cut);
      end.setNoDelay(true);
    }
    client.on("data", (piece) => {
      if (!far.write(piece)) client.pause();
    });
    far.on("drain", () => client.resume());
    far.on("data", (piece: Buffer) => {
      if (piece.length < left) {
        left -= piece.length;
        if (!client.write(piece)) far.pause();
        return;
      }
      // The bytes before the cut arrive: a reset right behind them would take them along.
      far.pause();
      line.broken++;
      client.write(piece.subarray(0, left), () => setTimeout(cut, 5));
    });
    client.on("drain", () => far.resume());
    client.on("end", () => far.end());
    far.on("end", () => client.end());
    client.on("close", () => {
      open.delete(client);
      clients.delete(client);
    });
    far.on("close", () => open.delete(far));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const line: Line = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    breakAfter: () => Number.POSITIVE_INFINITY,
    broken: 0,
    breakAll() {
      line.broken += clients.size;
      for (const end of [...open]) end.resetAndDestroy();
    },
    stop: () =>
      new Promise((done) => {
        server.close(() => done());
        line.breakAll();
      }),
  };
  return line;
}
