/** Conversations over HTTP, as tests speak to them: every route, and event streams that keep their numbers. */
import { request } from "node:http";
import type {
  Conversation,
  ConversationSummary,
  LoggedFrame,
  Message,
  Page,
  TurnResult,
} from "../../clients/typescript/protocol.ts";
import type { Key } from "./gateway.ts";
import { type Opening, offering, Viewer } from "./socket.ts";

export const MODEL = "claude-opus-5-5";

export type Json = Record<string, unknown>;
export type SseEvent = { readonly id: number | null; readonly event: string; readonly data: Json };

/** An answer of any route. */
export type Reply<T = Json> = {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
  /** The body as JSON; an error's body where the status is not 2xx. */
  readonly json: T;
};

export type EventStream = {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  /** What has come so far. */
  readonly events: readonly SseEvent[];
  readonly text: string;
  /** Resolves when the stream has ended; `whole`: as HTTP wants it. */
  readonly ended: Promise<{ readonly whole: boolean }>;
  /** Waits until there are so many events. */
  until(is: (events: readonly SseEvent[]) => boolean): Promise<void>;
  leave(): void;
};

export type Talk = {
  readonly key: Key;
  call<T = Json>(method: string, path: string, json?: unknown, headers?: Record<string, string>): Promise<Reply<T>>;
  /** A conversation; `fields` as the route takes them. */
  create(fields?: Json): Promise<Conversation>;
  read(id: string): Promise<Conversation>;
  list(query?: string): Promise<Page<ConversationSummary>>;
  messages(id: string, query?: string): Promise<Page<Message>>;
  /** Sends a message and waits for its turn; `body` of more than words as the route takes it. */
  send(id: string, body: string | Json, headers?: Record<string, string>): Promise<Reply<TurnResult>>;
  /** The same, read as it comes. */
  stream(id: string, body: string | Json, headers?: Record<string, string>): Promise<EventStream>;
  /** `GET …/events`. */
  events(id: string, query?: string, headers?: Record<string, string>): Promise<EventStream>;
  /** The whole log from a number on, of an idle conversation. */
  log(id: string, after?: number): Promise<readonly SseEvent[]>;
  socket(id: string, opening?: Opening, url?: string): Promise<Viewer>;
};

export function talk(url: string, key: Key): Talk {
  const own = (headers: Record<string, string> = {}): Record<string, string> => ({
    authorization: `Bearer ${key.key}`,
    ...headers,
  });
  const call: Talk["call"] = async <T>(
    method: string,
    path: string,
    json?: unknown,
    headers?: Record<string, string>,
  ) => {
    const body = json === undefined ? {} : { body: typeof json === "string" ? json : JSON.stringify(json) };
    const response = await fetch(`${url}${path}`, {
      method,
      headers: own({ ...(json === undefined ? {} : { "content-type": "application/json" }), ...headers }),
      ...body,
    });
    const text = await response.text();
    const isJson = /json/.test(response.headers.get("content-type") ?? "");
    return {
      status: response.status,
      headers: response.headers,
      text,
      json: (isJson && text !== "" ? JSON.parse(text) : {}) as T,
    };
  };
  const good = async <T>(method: string, path: string, json?: unknown): Promise<T> => {
    const reply = await call<T>(method, path, json);
    if (reply.status >= 300) throw new Error(`${method} ${path}: ${reply.status} ${reply.text}`);
    return reply.json;
  };
  const one = (id: string, rest = ""): string => `/v1/conversations/${id}${rest}`;
  const fields = (body: string | Json): Json => (typeof body === "string" ? { content: body } : body);
  const events: Talk["events"] = (id, query = "", headers) =>
    openStream("GET", `${url}${one(id, `/events${query}`)}`, own(headers));
  return {
    key,
    call,
    create: (given = {}) => good("POST", "/v1/conversations", { model: MODEL, ...given }),
    read: (id) => good("GET", one(id)),
    list: (query = "") => good("GET", `/v1/conversations${query}`),
    messages: (id, query = "") => good("GET", one(id, `/messages${query}`)),
    send: (id, body, headers) => call("POST", one(id, "/messages"), fields(body), headers),
    stream: (id, body, headers) =>
      openStream(
        "POST",
        `${url}${one(id, "/messages")}`,
        own({ "content-type": "application/json", ...headers }),
        JSON.stringify({ ...fields(body), stream: true }),
      ),
    events,
    async log(id, after = 0) {
      const stream = await events(id, `?after=${after}`);
      if (stream.status !== 200) throw new Error(`events: ${stream.status} ${stream.text}`);
      await stream.ended;
      return stream.events;
    },
    socket: (id, opening = {}, at = url) =>
      Viewer.open(`${at}${one(id, "/socket")}`, { protocols: offering(key.key), ...opening }),
  };
}

/** Whether a message has become a turn, be it one that a death of the gateway has interrupted: that is told as an error. */
export function isTaken({ status, json }: Reply<unknown>): boolean {
  const { error } = json as { readonly error?: { readonly type?: unknown } | null };
  return status === 200 || error?.type === "interrupted";
}

/** What is no event of upstream's own. */
const FRAMES = ["turn.queued", "turn.started", "context.cut", "turn.completed", "turn.failed", "history"];

/**
 * The frames that a stream's events stand for: a socket would have been told them. Which turn an event of upstream's belongs
 * to is told by the `turn.started` before it; "" where that was not part of the stream.
 */
export function framesOf(events: readonly SseEvent[]): LoggedFrame[] {
  let turn = "";
  return events.map(({ id, event, data }) => {
    if (id === null) throw new Error(`${event} has no number: ${JSON.stringify(data)}`);
    if (!FRAMES.includes(event)) return { type: "event", seq: id, turn, event: data } as LoggedFrame;
    if (data.seq !== id || data.type !== event) throw new Error(`${event} ${id} says ${JSON.stringify(data)}`);
    if (event === "turn.started") turn = String(data.turn);
    return data as LoggedFrame;
  });
}

/** Opens a stream of events with a connection of its own; an answer that is none has its body in `text`. */
export function openStream(
  method: string,
  url: string,
  headers: Record<string, string>,
  body?: string,
): Promise<EventStream> {
  return new Promise((resolve, reject) => {
    const events: SseEvent[] = [];
    const waiting = new Set<() => void>();
    const state = { text: "", over: false };
    const sent = request(url, {
      method,
      headers: { ...headers, ...(body === undefined ? {} : { "content-length": String(Buffer.byteLength(body)) }) },
      agent: false,
    });
    const parser = new SseParser((event) => events.push(event));
    sent.on("error", reject);
    sent.on("response", (response) => {
      const isStream = /event-stream/.test(response.headers["content-type"] ?? "");
      response.setEncoding("utf8");
      response.on("error", () => {});
      response.on("data", (piece: string) => {
        state.text += piece;
        if (isStream) parser.push(piece);
        for (const look of waiting) look();
      });
      const ended = new Promise<{ whole: boolean }>((done) =>
        response.once("close", () => {
          state.over = true;
          for (const look of waiting) look();
          done({ whole: response.complete && (!isStream || parser.isBetween) });
        }),
      );
      const stream: EventStream = {
        status: response.statusCode ?? 0,
        headers: Object.fromEntries(Object.entries(response.headers).map(([name, value]) => [name, String(value)])),
        events,
        get text() {
          return state.text;
        },
        ended,
        until: (is) =>
          new Promise<void>((done, fail) => {
            const look = (): void => {
              const now = is(events);
              if (!now && !state.over) return;
              waiting.delete(look);
              if (now) done();
              else fail(new Error(`the stream ended before; it said ${state.text.slice(-500)}`));
            };
            waiting.add(look);
            look();
          }),
        leave: () => void sent.destroy(),
      };
      if (isStream) resolve(stream);
      else void ended.then(() => resolve(stream));
    });
    sent.end(body);
  });
}

/** Reads an event stream as WHATWG wants it, as far as a well-behaved server goes. */
class SseParser {
  #rest = "";
  #id: number | null = null;
  #event = "message";
  #data: string[] = [];
  readonly #take: (event: SseEvent) => void;

  constructor(take: (event: SseEvent) => void) {
    this.#take = take;
  }

  /** Nothing has been begun and not ended. */
  get isBetween(): boolean {
    return this.#rest === "" && this.#data.length === 0;
  }

  push(piece: string): void {
    const lines = (this.#rest + piece).split("\n");
    this.#rest = lines.pop() ?? "";
    for (const line of lines) this.#line(line.endsWith("\r") ? line.slice(0, -1) : line);
  }

  #line(line: string): void {
    if (line === "") {
      if (this.#data.length > 0) {
        this.#take({ id: this.#id, event: this.#event, data: JSON.parse(this.#data.join("\n")) as Json });
      }
      this.#id = null;
      this.#event = "message";
      this.#data = [];
      return;
    }
    const at = line.indexOf(":");
    const [name, value] = at === -1 ? [line, ""] : [line.slice(0, at), line.slice(at + 1).replace(/^ /, "")];
    if (name === "id") this.#id = Number(value);
    if (name === "event") this.#event = value;
    if (name === "data") this.#data.push(value);
  }
}
