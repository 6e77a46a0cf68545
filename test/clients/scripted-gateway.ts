/** The gateway's side of a conversation's socket as a script plays it, and a clock that only the script moves. */
import type { Clock, SocketClass, SocketLike } from "../../clients/typescript/line.ts";
import type {
  ClientFrame,
  Content,
  Conversation,
  LoggedFrame,
  ServerFrame,
} from "../../clients/typescript/protocol.ts";

export class ManualClock implements Clock {
  #now = 0;
  #next = 1;
  readonly #timers = new Map<number, { readonly at: number; readonly run: () => void }>();

  now(): number {
    return this.#now;
  }

  setTimeout(run: () => void, ms: number): unknown {
    this.#timers.set(this.#next, { at: this.#now + ms, run });
    return this.#next++;
  }

  clearTimeout(timer: unknown): void {
    if (typeof timer === "number") this.#timers.delete(timer);
  }

  get waiting(): number {
    return this.#timers.size;
  }

  /** The machine sleeps: time goes on, and no timer runs before it has woken up. */
  sleep(ms: number): void {
    this.#now += ms;
  }

  pass(ms: number): void {
    const end = this.#now + ms;
    for (;;) {
      const [next] = [...this.#timers].filter(([, { at }]) => at <= end).sort(([, a], [, b]) => a.at - b.at);
      if (!next) break;
      const [id, { at, run }] = next;
      this.#timers.delete(id);
      this.#now = Math.max(this.#now, at);
      run();
    }
    this.#now = end;
  }
}

export class ScriptedSocket implements SocketLike {
  readyState = 0;
  onopen: ((event: never) => unknown) | null = null;
  onmessage: ((event: never) => unknown) | null = null;
  onclose: ((event: never) => unknown) | null = null;
  onerror: ((event: never) => unknown) | null = null;
  /** Frames that the client sent on this line, pings among them. */
  readonly heard: string[] = [];
  readonly url: string;
  readonly protocols: readonly string[];
  /** What the gateway sends comes after this number. */
  cursor = 0;
  #listen: (text: string) => void = () => {};

  constructor(url: string, protocols: readonly string[]) {
    this.url = url;
    this.protocols = protocols;
  }

  listen(listen: (text: string) => void): void {
    this.#listen = listen;
  }

  send(text: string): void {
    if (this.readyState !== 1) throw new Error("sent on a line that is not open");
    this.heard.push(text);
    this.#listen(text);
  }

  close(): void {
    this.readyState = 3;
  }

  open(): void {
    this.readyState = 1;
    this.onopen?.({} as never);
  }

  say(frame: ServerFrame | string): void {
    if (this.readyState !== 1) return;
    this.onmessage?.({ data: typeof frame === "string" ? frame : JSON.stringify(frame) } as never);
  }

  drop(code = 1006, reason = ""): void {
    if (this.readyState === 3) return;
    this.readyState = 3;
    this.onclose?.({ code, reason } as never);
  }
}

/** A conversation with its log. Nothing moves by itself: lines are opened, frames delivered and lines dropped by calls. */
export class ScriptedGateway {
  readonly log: LoggedFrame[] = [];
  readonly sockets: ScriptedSocket[] = [];
  readonly socketClass: SocketClass;
  /** What the client sends is lost on the way. */
  deaf = false;
  pongs = true;
  #turns = 0;
  readonly #known = new Map<string, string>();

  constructor() {
    const { sockets } = this;
    const hear = (socket: ScriptedSocket, text: string): void => this.#hear(socket, text);
    this.socketClass = class extends ScriptedSocket {
      constructor(url: string, protocols: readonly string[]) {
        super(url, protocols);
        sockets.push(this);
        this.listen((text) => hear(this, text));
      }
    };
  }

  get line(): ScriptedSocket {
    const last = this.sockets.at(-1);
    if (!last) throw new Error("no line yet");
    return last;
  }

  /** Accepts the newest line. */
  accept(): void {
    if (this.line.readyState !== 0) return;
    this.line.cursor = this.log.length;
    this.line.open();
    this.line.say({ type: "ready", conversation: conversation(this.log), seq: this.log.length });
  }

  /** Delivers so many of the frames that the newest line is due. */
  deliver(count = Number.POSITIVE_INFINITY): void {
    for (let n = 0; n < count; n++) {
      const frame = this.log[this.line.cursor];
      if (!frame || this.line.readyState !== 1) return;
      this.line.cursor++;
      this.line.say(frame);
    }
  }

  /** Adds to the log: a whole turn, with so many events. */
  turn(events: number, id: string | null = null, content: Content = "hi"): string {
    const turn = `turn_${++this.#turns}`;
    if (id !== null) this.#known.set(id, turn);
    const add = (frame: object): void => {
      this.log.push({ ...frame, seq: this.log.length + 1, turn } as LoggedFrame);
    };
    add({ type: "turn.started", id, message: `msg_${turn}`, content });
    for (let n = 0; n < events; n++) {
      const delta = { type: "text_delta", text: `${n} ` };
      add({ type: "event", event: { type: "content_block_delta", index: 0, delta } });
    }
    add({
      type: "turn.completed",
      state: "completed",
      message: `msg_${turn}a`,
      stop_reason: "end_turn",
      awaiting_tool_results: [],
      usage: NO_USAGE,
      cost_usd: 0,
    });
    return turn;
  }

  frames(type: ClientFrame["type"]): ClientFrame[] {
    const all = this.sockets.flatMap(({ heard }) => heard).filter((text) => text !== "ping");
    return all.map((text) => JSON.parse(text) as ClientFrame).filter((frame) => frame.type === type);
  }

  #hear(socket: ScriptedSocket, text: string): void {
    if (this.deaf) return;
    if (text === "ping") {
      if (this.pongs) socket.say("pong");
      return;
    }
    const frame = JSON.parse(text) as ClientFrame;
    if (frame.type === "resume") socket.cursor = frame.after;
    if (frame.type !== "send") return;
    const id = frame.id ?? null;
    const known = id === null ? undefined : this.#known.get(id);
    if (known === undefined) this.turn(2, id, frame.content);
    else socket.say({ type: "sent", ref: id, turn: known, state: "completed", awaiting_tool_results: [] });
  }
}

const NO_USAGE = {
  input_tokens: 0,
  output_tokens: 0,
  cache_read_input_tokens: 0,
  cache_creation_input_tokens: 0,
  cache_read_share: 0,
};

export function conversation(log: readonly LoggedFrame[]): Conversation {
  return {
    id: "conv_1",
    type: "conversation",
    state: "idle",
    model: "claude-opus-5-5",
    system: null,
    max_tokens: 1_024,
    tools: [],
    options: {},
    context: { strategy: "none", max_input_tokens: null, keep_turns: 4, summary_model: null },
    ttl_seconds: 60,
    on_busy: "queue",
    metadata: {},
    created_at: "2026-11-21T00:00:00Z",
    updated_at: "2026-11-21T00:00:00Z",
    expires_at: "2026-12-21T00:00:00Z",
    seq: log.length,
    turn: null,
    turn_seq: null,
    queued: [],
    awaiting_tool_results: [],
    leaf: null,
    turns: 0,
    usage: NO_USAGE,
    cost_micro_usd: 0,
  };
}
