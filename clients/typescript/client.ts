/** Conversations of a Sluice gateway, for browsers and Node 22 or later. No dependencies. */
import { SluiceError } from "./errors.ts";
import { type KeySource, NO_KEY, unusable } from "./key.ts";
import type { Clock, SocketClass } from "./line.ts";
import type {
  Content,
  ContextPolicy,
  Conversation,
  ConversationSummary,
  Message,
  OnBusy,
  Options,
  Page,
  SendOptions,
  Tool,
  TurnResult,
} from "./protocol.ts";
import { type ConnectOptions, ConversationSocket } from "./socket.ts";

export type ClientOptions = {
  /** Where the gateway is, with or without a path: `https://gateway.example`. */
  readonly baseUrl: string;
  readonly apiKey: KeySource;
  /** For tests, proxies and runtimes without these globals. */
  readonly fetch?: typeof fetch;
  readonly socket?: SocketClass;
  readonly clock?: Clock;
  readonly random?: () => number;
};

/** What a conversation is made of; only `model` is needed. */
export type ConversationFields = {
  readonly model: string;
  readonly system?: Content | null;
  readonly max_tokens?: number;
  readonly tools?: readonly Tool[];
  readonly options?: Options;
  readonly context?: Partial<ContextPolicy>;
  readonly ttl_seconds?: number;
  readonly on_busy?: OnBusy;
  readonly metadata?: Readonly<Record<string, string>>;
};

/** What can be changed; `leaf` goes to another branch. */
export type ConversationChange = Partial<ConversationFields> & { readonly leaf?: string };

const CLOCK: Clock = {
  now: () => Date.now(),
  setTimeout: (run, ms) => setTimeout(run, ms),
  clearTimeout: (timer) => clearTimeout(timer as ReturnType<typeof setTimeout>),
};

export class SluiceClient {
  readonly #base: string;
  readonly #apiKey: KeySource;
  readonly #options: ClientOptions;

  /** Throws a `SluiceError` for a key that no header and no subprotocol could carry. */
  constructor(options: ClientOptions) {
    const wrong = typeof options.apiKey === "function" ? null : unusable(options.apiKey);
    if (wrong) throw wrong;
    this.#base = options.baseUrl.replace(/\/+$/, "");
    this.#apiKey = options.apiKey;
    this.#options = options;
  }

  createConversation(fields: ConversationFields): Promise<Conversation> {
    return this.#ask("POST", "", fields);
  }

  /** Newest first, a page at a time: `cursor` is the `next_cursor` of the page before. */
  listConversations(query: { limit?: number; cursor?: string } = {}): Promise<Page<ConversationSummary>> {
    return this.#ask("GET", queryOf(query));
  }

  getConversation(id: string): Promise<Conversation> {
    return this.#ask("GET", pathOf(id));
  }

  changeConversation(id: string, change: ConversationChange): Promise<Conversation> {
    return this.#ask("PATCH", pathOf(id), change);
  }

  /** It and everything in it. */
  async deleteConversation(id: string): Promise<void> {
    await this.#request("DELETE", pathOf(id));
  }

  /** The messages of the present branch, or of the one that ends with `leaf`, oldest first. */
  messages(id: string, query: { limit?: number; after?: string; leaf?: string } = {}): Promise<Page<Message>> {
    return this.#ask("GET", `${pathOf(id)}/messages${queryOf(query)}`);
  }

  /** Says something and waits for the whole answer. The same `clientId` again is the same message. */
  send(id: string, content: Content | null, options: SendOptions = {}, clientId?: string): Promise<TurnResult> {
    const said = content === null ? {} : { content };
    const named = clientId === undefined ? {} : { id: clientId };
    return this.#ask("POST", `${pathOf(id)}/messages`, { ...named, ...said, options });
  }

  /** Stops the running turn, if there is one. */
  cancel(id: string): Promise<Conversation> {
    return this.#ask("POST", `${pathOf(id)}/cancel`, {});
  }

  /** A socket that comes back by itself whenever the line drops, until `close` or a reason that no waiting would change. */
  connect(id: string, options: ConnectOptions = {}): ConversationSocket {
    const { socket = globalSocket(), clock = CLOCK, random = Math.random } = this.#options;
    const url = `${this.#base.replace(/^http/, "ws")}/v1/conversations${pathOf(id)}/socket`;
    const newId = (): string => crypto.randomUUID();
    const watched = watchNetwork();
    const made = new ConversationSocket(
      { url, apiKey: this.#apiKey, socket, clock, random, newId },
      {
        ...options,
        onStatus(status) {
          if (status.state === "closed") watched.stop();
          options.onStatus?.(status);
        },
      },
    );
    watched.tell((online) => made.networkChanged(online));
    return made;
  }

  async #ask<T>(method: string, path: string, body?: object): Promise<T> {
    const response = await this.#request(method, path, body);
    try {
      return (await response.json()) as T;
    } catch (cause) {
      throw new SluiceError("connection_error", "The answer was cut off.", { status: response.status, cause });
    }
  }

  async #key(): Promise<string> {
    if (typeof this.#apiKey === "string") return this.#apiKey;
    let key: string;
    try {
      key = await this.#apiKey();
    } catch (cause) {
      throw new SluiceError("connection_error", NO_KEY, { cause });
    }
    const wrong = unusable(key);
    if (wrong) throw wrong;
    return key;
  }

  async #request(method: string, path: string, body?: object): Promise<Response> {
    const ask = this.#options.fetch ?? fetch;
    const headers = { "x-api-key": await this.#key(), ...(body ? { "content-type": "application/json" } : {}) };
    let response: Response;
    try {
      const url = `${this.#base}/v1/conversations${path}`;
      response = await ask(url, { method, headers, ...(body ? { body: JSON.stringify(body) } : {}) });
    } catch (cause) {
      throw new SluiceError("connection_error", "The gateway cannot be reached.", { cause });
    }
    if (!response.ok) throw await refusal(response);
    return response;
  }
}

async function refusal(response: Response): Promise<SluiceError> {
  const after = Number(response.headers.get("retry-after") ?? Number.NaN);
  const more = {
    status: response.status,
    retryAfterSeconds: Number.isFinite(after) ? after : null,
    requestId: response.headers.get("request-id"),
  };
  const body: unknown = await response.json().catch(() => null);
  if (typeof body === "object" && body !== null && "error" in body) {
    const { error } = body;
    if (typeof error === "object" && error !== null && "type" in error && "message" in error) {
      return new SluiceError(String(error.type), String(error.message), more);
    }
  }
  return new SluiceError("api_error", `The gateway answered ${response.status}.`, more);
}

function pathOf(id: string): string {
  return `/${encodeURIComponent(id)}`;
}

function queryOf(query: Readonly<Record<string, string | number | undefined>>): string {
  const given = Object.entries(query).filter(([, value]) => value !== undefined);
  return given.length === 0 ? "" : `?${new URLSearchParams(given.map(([name, value]) => [name, String(value)]))}`;
}

function globalSocket(): SocketClass {
  const { WebSocket } = globalThis as { WebSocket?: unknown };
  if (typeof WebSocket !== "function") throw new SluiceError("connection_error", "This runtime has no WebSocket.");
  return WebSocket as SocketClass;
}

/** A browser's `online` and `offline`, and a page that is looked at again; elsewhere nothing is ever told. */
function watchNetwork(): { tell(changed: (online: boolean) => void): void; stop(): void } {
  const { document: shown } = globalThis as { document?: unknown };
  if (shown === undefined) return { tell() {}, stop() {} };
  const page = globalThis as unknown as EventTarget & { readonly navigator: { readonly onLine: boolean } };
  const document = shown as EventTarget & { readonly visibilityState: string };
  const stopped = new AbortController();
  return {
    tell(changed) {
      const { signal } = stopped;
      page.addEventListener("online", () => changed(true), { signal });
      page.addEventListener("offline", () => changed(false), { signal });
      // The timers of a page that nobody looks at are slow: its next attempt may be a minute away.
      const seen = (): void => {
        if (document.visibilityState === "visible") changed(page.navigator.onLine);
      };
      document.addEventListener("visibilitychange", seen, { signal });
    },
    stop: () => stopped.abort(),
  };
}
