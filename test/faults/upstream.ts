/**
 * Upstreams that break as their scripts say, down to the socket, and keep books: who was asked, with which credential,
 * when, what was sent of which answer, how many tokens that answer is worth, and who closed the connection.
 */
import { once } from "node:events";
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import { type Action, errorJson, event, MODEL, type Place, piecesOf, type Script, type Tokens } from "./script.ts";

/** Names the client's call to the upstream; of a family of headers that gateways forward. */
export const CALL_HEADER = "x-stainless-call";

/** One attempt, as the upstream saw it. */
export type Attempt = {
  /** Number of the client's call; -1 where it names none. */
  readonly call: number;
  /** Which one of the call's attempts it is, from 0. */
  readonly serial: number;
  /** Which of the servers. */
  readonly server: number;
  readonly credential: string;
  readonly method: string;
  readonly target: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer;
  /** ms since the epoch. */
  readonly at: number;
  readonly stream: boolean;
  /** What its whole answer is worth. */
  readonly tokens: Tokens;
  status: number | null;
  /** The answer's body, as far as it was sent. */
  sent: Buffer[];
  /** All of the usual answer was sent, and the body was closed. */
  whole: boolean;
  /** When the other side closed the connection before this one had done with it. */
  goneAt: number | null;
};

/** Which script an attempt follows. */
export type Director = (attempt: Attempt) => Script;

export type FaultyUpstreams = {
  readonly urls: readonly string[];
  readonly attempts: Attempt[];
  /** Requests that are running, and the most that ever were. */
  running: number;
  peak: number;
  of(call: number): Attempt[];
  direct: Director;
  /** Resets all connections of a server. */
  cutOff(server: number): void;
  /** Forgets the attempts so far. */
  forget(): void;
  stop(): Promise<void>;
};

export async function startFaultyUpstreams(count: number): Promise<FaultyUpstreams> {
  const sockets = new Map<Socket, number>();
  const servers: Server[] = [];
  let byCall = new Map<number, Attempt[]>();
  const world: FaultyUpstreams = {
    urls: [],
    attempts: [],
    running: 0,
    peak: 0,
    of: (call) => byCall.get(call) ?? [],
    direct: () => [],
    cutOff(server) {
      for (const [socket, of] of sockets) if (of === server) socket.resetAndDestroy();
    },
    forget() {
      world.attempts.length = 0;
      byCall = new Map();
      world.peak = world.running;
    },
    async stop() {
      for (const server of servers) server.close();
      for (const socket of sockets.keys()) socket.destroy();
      await Promise.all(servers.filter((server) => server.listening).map((server) => once(server, "close")));
    },
  };
  const open = (head: Head, server: number): Attempt => {
    const call = Number(head.headers[CALL_HEADER] ?? -1);
    const before = byCall.get(call) ?? [];
    const serial = before.length;
    const attempt: Attempt = {
      call,
      serial,
      server,
      credential: head.headers["x-api-key"] ?? "",
      ...head,
      body: Buffer.alloc(0),
      at: Date.now(),
      stream: false,
      tokens: { input: 20 + (Math.abs(call) % 7), output: 10 + (serial % 5) },
      status: null,
      sent: [],
      whole: false,
      goneAt: null,
    };
    world.attempts.push(attempt);
    byCall.set(call, [...before, attempt]);
    return attempt;
  };
  for (let n = 0; n < count; n++) {
    const server = createServer({ noDelay: true }, (socket) => {
      sockets.set(socket, n);
      socket.on("close", () => sockets.delete(socket));
      socket.on("error", () => {});
      void new Connection(socket, world, (head) => open(head, n)).serve();
    });
    server.listen(0, "127.0.0.1", 1_024);
    await once(server, "listening");
    servers.push(server);
  }
  (world as { urls: readonly string[] }).urls = servers.map(
    (server) => `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
  );
  return world;
}

type Head = Pick<Attempt, "method" | "target" | "headers">;
/** The other side is gone, or this one has closed: nothing more is to be done on this connection. */
class Over extends Error {}

class Connection {
  readonly #socket: Socket;
  readonly #world: FaultyUpstreams;
  readonly #open: (head: Head) => Attempt;
  readonly #closed: Promise<never>;
  #input = Buffer.alloc(0);
  #more = Promise.withResolvers<void>();
  #attempt: Attempt | null = null;

  constructor(socket: Socket, world: FaultyUpstreams, open: (head: Head) => Attempt) {
    this.#socket = socket;
    this.#world = world;
    this.#open = open;
    const closed = Promise.withResolvers<never>();
    this.#closed = closed.promise;
    this.#closed.catch(() => {});
    const left = (): void => {
      if (this.#attempt && this.#attempt.goneAt === null) this.#attempt.goneAt = Date.now();
      closed.reject(new Over());
    };
    socket.on("data", (piece) => {
      this.#input = Buffer.concat([this.#input, piece]);
      this.#more.resolve();
    });
    socket.on("end", left);
    socket.on("close", left);
  }

  async serve(): Promise<void> {
    try {
      for (;;) await this.#request();
    } catch (error) {
      this.#socket.destroy();
      if (!(error instanceof Over)) throw error;
    }
  }

  async #request(): Promise<void> {
    const head = await this.#head();
    const length = Number(head.headers["content-length"] ?? 0);
    if (head.target.startsWith("/api/hello")) {
      this.#write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
      return;
    }
    const attempt = this.#open(head);
    this.#attempt = attempt;
    const script = this.#world.direct(attempt);
    this.#world.running++;
    this.#world.peak = Math.max(this.#world.peak, this.#world.running);
    try {
      const stall = script.map((step) => step.do).find((action) => "stall" in action);
      if (stall) {
        await this.#read(Math.min(stall.stall, length));
        this.#socket.pause();
        await this.#never();
      }
      const body = head.headers["transfer-encoding"] ? await this.#chunks() : await this.#read(length);
      Object.assign(attempt, { body, stream: /"stream"\s*:\s*true/.test(body.toString("latin1")) });
      await this.#answer(attempt, script);
    } finally {
      this.#world.running--;
      this.#attempt = null;
    }
  }

  async #head(): Promise<Head> {
    const end = await this.#until("\r\n\r\n");
    const [first = "", ...lines] = end.toString("latin1").split("\r\n");
    const [method = "", target = ""] = first.split(" ");
    const headers: Record<string, string> = {};
    for (const line of lines) {
      const colon = line.indexOf(":");
      if (colon > 0) headers[line.slice(0, colon).toLowerCase()] = line.slice(colon + 1).trim();
    }
    return { method, target, headers };
  }

  async #until(mark: string): Promise<Buffer> {
    for (;;) {
      const at = this.#input.indexOf(mark);
      if (at !== -1) {
        const found = this.#input.subarray(0, at);
        this.#input = this.#input.subarray(at + mark.length);
        return found;
      }
      await this.#arrival();
    }
  }

  async #read(length: number): Promise<Buffer> {
    while (this.#input.length < length) await this.#arrival();
    const found = this.#input.subarray(0, length);
    this.#input = this.#input.subarray(length);
    return found;
  }

  async #chunks(): Promise<Buffer> {
    const pieces: Buffer[] = [];
    for (;;) {
      const size = Number.parseInt((await this.#until("\r\n")).toString("latin1"), 16);
      pieces.push(await this.#read(size));
      await this.#until("\r\n");
      if (size === 0) return Buffer.concat(pieces);
    }
  }

  async #arrival(): Promise<void> {
    this.#more = Promise.withResolvers();
    await Promise.race([this.#more.promise, this.#closed]);
  }

  #write(bytes: string | Buffer): void {
    if (!this.#socket.writable) throw new Over();
    this.#socket.write(bytes);
  }

  async #never(): Promise<never> {
    return this.#closed;
  }

  async #pause(ms: number): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const slept = new Promise<void>((done) => {
      timer = setTimeout(done, ms);
    });
    try {
      await Promise.race([slept, this.#closed]);
    } finally {
      clearTimeout(timer);
    }
  }

  async #answer(attempt: Attempt, script: Script): Promise<void> {
    const extra: (readonly [string, string])[] = [];
    let model = MODEL;
    for (const { do: action } of script) {
      if ("headers" in action && !("status" in action)) extra.push(...action.headers);
      if ("headerBytes" in action) extra.push(...manyHeaders(action.headerBytes));
      if ("model" in action) model = action.model;
    }
    const at = async (place: Place): Promise<boolean> => {
      for (const step of script) if (step.after === place && (await this.#act(step.do, attempt))) return true;
      return false;
    };
    if (await at("connect")) return;
    attempt.status = 200;
    const type = attempt.stream ? "text/event-stream; charset=utf-8" : "application/json";
    this.#write(
      head(200, [
        ["content-type", type],
        ["request-id", `req_${attempt.call}_${attempt.serial}`],
        ["transfer-encoding", "chunked"],
        ...extra,
      ]),
    );
    if (await at("headers")) return;
    const pieces = piecesOf(attempt.stream, `${attempt.call}-${attempt.serial}`, model, attempt.tokens);
    this.#send(attempt, Buffer.from(pieces.first));
    if (await at("first_event")) return;
    this.#send(attempt, Buffer.from(pieces.second));
    if (await at("mid")) return;
    this.#send(attempt, Buffer.from(pieces.third));
    if (await at("last_event")) return;
    this.#send(attempt, Buffer.from(pieces.last));
    // Told before it is so: the client has it all a moment after this write.
    attempt.whole = true;
    this.#write("0\r\n\r\n");
  }

  /** Does one thing. True: that was the end of the answer, and the connection can be used again. */
  async #act(action: Action, attempt: Attempt): Promise<boolean> {
    if ("status" in action) {
      attempt.status = action.status;
      const body = Buffer.from(action.body ?? errorJson("api_error", `status ${action.status}`));
      this.#write(
        head(action.status, [
          ["content-type", "application/json"],
          ["request-id", `req_${attempt.call}_${attempt.serial}`],
          ["content-length", String(body.length)],
          ...(action.headers ?? []),
        ]),
      );
      attempt.sent.push(body);
      this.#write(body);
      return true;
    }
    if ("sleep" in action) await this.#pause(action.sleep);
    if ("informational" in action) this.#write(head(action.informational, [["link", "</x>; rel=preload"]]));
    if ("hang" in action) await this.#never();
    if ("reset" in action) {
      // What has been written is to arrive first.
      await this.#pause(20);
      this.#attempt = null;
      this.#socket.resetAndDestroy();
      throw new Over();
    }
    if ("fin" in action) {
      await this.#pause(20);
      this.#attempt = null;
      this.#socket.end();
      await this.#never();
    }
    if ("end" in action) {
      this.#write("0\r\n\r\n");
      return true;
    }
    if ("error" in action) {
      this.#send(attempt, Buffer.from(`event: error\ndata: ${errorJson(action.error)}\n\n`));
      this.#write("0\r\n\r\n");
      return true;
    }
    if ("pings" in action) {
      for (;;) {
        this.#send(attempt, Buffer.from(event("ping")));
        await this.#pause(action.pings);
      }
    }
    if ("text" in action) this.#send(attempt, Buffer.from(action.text));
    if ("hex" in action) this.#send(attempt, Buffer.from(action.hex, "hex"));
    if ("line" in action) await this.#longLine(attempt, action.line);
    return false;
  }

  async #longLine(attempt: Attempt, bytes: number): Promise<void> {
    const open =
      'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"';
    this.#send(attempt, Buffer.from(open));
    const piece = Buffer.alloc(64 * 1024, "x");
    for (let left = bytes; left > 0; left -= piece.length) {
      this.#send(attempt, piece.subarray(0, left));
      if (this.#socket.writableNeedDrain) await Promise.race([once(this.#socket, "drain"), this.#closed]);
    }
    this.#send(attempt, Buffer.from('"}}\n\n'));
  }

  #send(attempt: Attempt, bytes: Buffer): void {
    this.#write(Buffer.concat([Buffer.from(`${bytes.length.toString(16)}\r\n`), bytes, Buffer.from("\r\n")]));
    attempt.sent.push(bytes);
  }
}

function head(status: number, headers: readonly (readonly [string, string])[]): Buffer {
  const lines = headers.map(([name, value]) => `${name}: ${value}\r\n`).join("");
  return Buffer.from(`HTTP/1.1 ${status} Scripted\r\n${lines}\r\n`, "latin1");
}

const HEADER_VALUE = "v".repeat(1_000);

function manyHeaders(bytes: number): [string, string][] {
  return Array.from({ length: Math.ceil(bytes / HEADER_VALUE.length) }, (_, n) => [`x-many-${n}`, HEADER_VALUE]);
}
