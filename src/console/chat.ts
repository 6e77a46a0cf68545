/** One conversation on the page: its history as messages, and the turns that run as they come over the socket. */
import {
  type Content,
  type Conversation,
  type ConversationSocket,
  type Message,
  type Received,
  type SendOptions,
  type SluiceClient,
  SluiceError,
  type Status,
  type Usage,
} from "../../clients/typescript/index.ts";
import { arrange, at } from "./dom.ts";
import { LiveTurn, messageView } from "./messages.ts";
import { Reader } from "./reader.ts";
import { inWords } from "./words.ts";

const PAGE = 500;
/** So near to the end, px, is at the end: what comes is followed. */
const NEAR_PX = 80;

/** What the rest of the page is told. */
export type ChatEvents = {
  /** Something of it has changed. */
  changed(chat: Chat): void;
  line(status: Status): void;
  problem(words: string): void;
  /** Something was said, wherever on the page. */
  sent(): void;
  /** A message was refused, or taken back; its words are given back. */
  refused(words: string): void;
  /** The reader has scrolled up to what was said before, or has come back. */
  away(away: boolean): void;
};

/** What was sent from here and has not begun. */
type Own = {
  readonly live: LiveTurn;
  readonly content: Content | null;
  /** The last message that stays: what comes after it is another branch's. Null: none stays. Left out: all stay. */
  readonly behind?: string | null;
};

export class Chat {
  readonly id: string;
  readonly #client: SluiceClient;
  readonly #events: ChatEvents;
  readonly #log = at("log", HTMLElement);
  readonly #talk = at("talk", HTMLElement);
  readonly #reader = new Reader();
  readonly #live = new Map<string, LiveTurn>();
  readonly #own = new Map<string, Own>();
  readonly #views = new Map<string, { readonly of: string; readonly root: HTMLElement }>();
  #socket: ConversationSocket | undefined;
  #conversation: Conversation | undefined;
  #messages: readonly Message[] = [];
  /** Of a conversation whose first answer is being written. */
  #first: Content | undefined;
  #awaiting: readonly string[] = [];
  /** Reads of the history happen one after the other. */
  #reading: Promise<void> = Promise.resolve();
  #gone = false;
  /** Whoever has not scrolled away follows what comes. */
  #following = true;
  #top = 0;
  /** Called once per frame at most, when what is in the log, or the log itself, has another size. */
  readonly #resized = new ResizeObserver(() => this.#follow());
  readonly #scrolled = (): void => {
    const { scrollHeight, scrollTop, clientHeight } = this.#log;
    const near = scrollHeight - scrollTop - clientHeight < NEAR_PX;
    // What comes makes the end go away; only people go up.
    this.#following = near || (this.#following && scrollTop >= this.#top);
    this.#top = scrollTop;
    this.#events.away(!this.#following);
  };

  constructor(client: SluiceClient, id: string, events: ChatEvents) {
    this.#client = client;
    this.id = id;
    this.#events = events;
    this.#resized.observe(this.#log);
    this.#resized.observe(this.#talk);
    this.#log.addEventListener("scroll", this.#scrolled);
  }

  get conversation(): Conversation | undefined {
    return this.#conversation;
  }

  get messages(): readonly Message[] {
    return this.#messages;
  }

  /** What was said first, if it is known. */
  get first(): Content | undefined {
    return this.#messages[0]?.content ?? this.#first;
  }

  get awaiting(): readonly string[] {
    return this.#awaiting;
  }

  /** Whether something can be said: then it arrives, with or without a line. */
  get listening(): boolean {
    return this.#socket !== undefined && this.#socket.status.state !== "closed";
  }

  get running(): boolean {
    return (this.#socket?.running ?? null) !== null;
  }

  /** Rejects with a `SluiceError` when it cannot be read. */
  async open(): Promise<void> {
    const conversation = await this.#client.getConversation(this.id);
    this.#note(conversation);
    await this.#read(null, true);
    if (this.#gone) return;
    // The events of a running turn are wanted from its beginning; else what comes from now on.
    const { turn_seq: begun, seq } = conversation;
    const after = begun === null ? seq : begun - 1;
    this.#socket = this.#client.connect(this.id, {
      after,
      onEvent: (frame) => this.#take(frame),
      onStatus: (status) => {
        if (!this.#gone) this.#events.line(status);
      },
      onReady: (now) => this.#note(now),
      onError: (error) => this.#events.problem(inWords(error, error.retryAfterSeconds)),
    });
    // In the order in which they are answered.
    if (conversation.turn !== null) this.#turn(conversation.turn, null).started();
    for (const waiting of conversation.queued) this.#queued(waiting, null);
    this.toEnd();
    this.#events.changed(this);
  }

  async rename(metadata: Readonly<Record<string, string>>): Promise<void> {
    this.#note(await this.#client.changeConversation(this.id, { metadata }));
  }

  close(): void {
    this.#gone = true;
    this.#resized.disconnect();
    this.#log.removeEventListener("scroll", this.#scrolled);
    this.#socket?.close();
  }

  reconnectNow(): void {
    this.#socket?.reconnectNow();
  }

  cancel(): void {
    if (this.running) this.#socket?.cancel();
  }

  say(content: Content): void {
    this.#send(content, undefined, {});
  }

  #send(content: Content | null, options: SendOptions | undefined, place: Pick<Own, "behind">): void {
    const socket = this.#socket;
    if (!socket) return;
    const live = new LiveTurn();
    live.ask(content);
    if (socket.status.state !== "open") live.unsent();
    const sent = socket.send(content, options);
    this.#own.set(sent.id, { live, content, ...place });
    this.#draw();
    this.toEnd();
    this.#events.sent();
    sent.done.then(
      (end) => {
        this.#own.delete(sent.id);
        if (end.type === "sent") {
          this.#awaiting = end.awaiting_tool_results;
          this.#readSoon(null, true);
        }
      },
      (error: unknown) => {
        this.#own.delete(sent.id);
        this.#draw();
        this.#events.changed(this);
        if (this.#gone) return;
        if (typeof content === "string") this.#events.refused(content);
        if (error instanceof SluiceError) this.#events.problem(inWords(error, error.retryAfterSeconds));
      },
    );
  }

  #take(frame: Received): void {
    if (this.#gone) return;
    if (frame.type === "history") {
      this.#readSoon(null, true);
      return;
    }
    if (frame.type === "turn.completed" || frame.type === "turn.failed") {
      this.#end(frame);
      return;
    }
    // It was over before this page was here, and stands in the history.
    if (this.#messages.some(({ turn, role }) => turn === frame.turn && role === "assistant")) return;
    if (frame.type === "turn.queued") this.#queued(frame.turn, frame.id);
    if (frame.type === "turn.started") this.#begin(frame);
    if (frame.type === "context.cut") this.#turn(frame.turn, null).cut(frame.cut);
    if (frame.type === "event") this.#reader.hear(this.#turn(frame.turn, null).take(frame.event));
  }

  #queued(turn: string, id: string | null): void {
    this.#turn(turn, id).queued(() => this.#socket?.cancel(turn));
  }

  #begin(frame: Extract<Received, { type: "turn.started" }>): void {
    const own = frame.id === null ? undefined : this.#own.get(frame.id);
    const live = this.#turn(frame.turn, frame.id);
    live.started();
    this.#awaiting = [];
    const known = this.#messages.findIndex(({ id }) => id === frame.message);
    if (known >= 0) this.#messages = this.#messages.slice(0, known + 1);
    else {
      live.ask(frame.content ?? own?.content ?? null);
      this.#first ??= frame.content;
      if (!own) this.#readSoon(null, true);
      else if (own.behind !== undefined) {
        this.#messages = this.#messages.slice(0, this.#messages.findIndex(({ id }) => id === own.behind) + 1);
      }
    }
    this.#draw();
    this.#events.changed(this);
  }

  /** The turn as it is shown below the history. `id`: what it was sent under. */
  #turn(turn: string, id: string | null): LiveTurn {
    const known = this.#live.get(turn);
    if (known) return known;
    const own = id === null ? undefined : this.#own.get(id);
    const live = own?.live ?? new LiveTurn();
    this.#live.set(turn, live);
    this.#draw();
    return live;
  }

  #end(frame: Extract<Received, { type: "turn.completed" | "turn.failed" }>): void {
    const live = this.#live.get(frame.turn);
    // Long over.
    if (!live) return;
    const failed = frame.type === "turn.failed";
    const note = failed ? inWords(frame.error, frame.error.retry_after_seconds ?? null) : "";
    live.ended(note);
    this.#reader.finish(note);
    if (failed && frame.state === "failed") this.#events.problem(note);
    // Nothing was answered: the question is gone, too.
    if (failed && frame.message === null) this.#giveBack(live);
    if (frame.type === "turn.completed") this.#awaiting = frame.awaiting_tool_results;
    this.#count(frame);
    this.#readSoon(frame.turn, failed);
    queueMicrotask(() => this.#events.changed(this));
  }

  #giveBack(live: LiveTurn): void {
    const own = [...this.#own.values()].find((one) => one.live === live);
    if (typeof own?.content === "string") this.#events.refused(own.content);
  }

  /**
   * Reads the history on, or `whole`; then `ended`, a turn that is over, stands there and no more below. Null: whatever is
   * not open.
   */
  #readSoon(ended: string | null, whole: boolean): void {
    // What is shown stays where it can't be had, and the next turn reads again.
    this.#inTurn(() => this.#read(ended, whole));
  }

  /** Behind every read before it. */
  #inTurn(run: () => Promise<void>): void {
    this.#reading = this.#reading.then(async () => {
      if (this.#gone) return;
      try {
        await run();
      } catch (error) {
        if (!(error instanceof SluiceError)) throw error;
        this.#events.problem(inWords(error, error.retryAfterSeconds));
      }
    });
  }

  async #read(ended: string | null, whole: boolean): Promise<void> {
    const before = whole ? [] : this.#messages;
    let news: readonly Message[];
    try {
      news = await this.#pages({}, before.at(-1)?.id);
    } catch (error) {
      // What is shown is another branch than the one that was gone on from.
      if (whole || !(error instanceof SluiceError) || error.status !== 400) throw error;
      return this.#read(ended, true);
    }
    if (this.#gone) return;
    this.#messages = [...before, ...news];
    if (ended !== null) this.#live.delete(ended);
    for (const turn of this.#live.keys()) {
      if (news.some((message) => message.turn === turn && message.role === "assistant")) this.#live.delete(turn);
    }
    this.#draw();
    this.#events.changed(this);
  }

  async #pages(of: { leaf?: string }, behind?: string): Promise<readonly Message[]> {
    const messages: Message[] = [];
    let after = behind;
    do {
      const query = { ...of, limit: PAGE, ...(after === undefined ? {} : { after }) };
      const page = await this.#client.messages(this.id, query);
      messages.push(...page.data);
      after = page.has_more ? (page.next_cursor ?? undefined) : undefined;
    } while (after !== undefined);
    return messages;
  }

  #note(conversation: Conversation): void {
    this.#conversation = conversation;
    this.#awaiting = conversation.awaiting_tool_results;
    this.#events.changed(this);
  }

  /** Adds what a turn used, unless the conversation was read after it. */
  #count({ seq, usage, cost_usd: dollars }: Extract<Received, { type: "turn.completed" | "turn.failed" }>): void {
    const now = this.#conversation;
    if (!now || seq <= now.seq) return;
    const sum = (name: Exclude<keyof Usage, "estimated">): number => now.usage[name] + usage[name];
    const read = sum("cache_read_input_tokens");
    const [plain, made] = [sum("input_tokens"), sum("cache_creation_input_tokens")];
    const total = {
      input_tokens: plain,
      output_tokens: sum("output_tokens"),
      cache_read_input_tokens: read,
      cache_creation_input_tokens: made,
      cache_read_share: read === 0 ? 0 : read / (plain + read + made),
    };
    this.#conversation = { ...now, seq, usage: total, cost_micro_usd: now.cost_micro_usd + Math.round(dollars * 1e6) };
  }

  #draw(): void {
    const messages = this.#messages.map((message) => this.#view(message));
    const waiting = [...this.#own.values()].map(({ live }) => live);
    // A question that stands in the history is not shown twice.
    for (const [turn, live] of this.#live) if (this.#messages.some((one) => one.turn === turn)) live.asked();
    const live = new Set([...this.#live.values(), ...waiting]);
    arrange(this.#talk, [...messages, ...[...live].map(({ root }) => root)]);
  }

  #view(message: Message): HTMLElement {
    const of = message.siblings.join();
    const known = this.#views.get(message.id);
    if (known?.of === of) return known.root;
    const root = messageView(message, {
      edit: (changed, words) => this.#send(words, { edit: changed.id }, { behind: changed.parent }),
      regenerate: (again) => this.#send(null, { regenerate: again.id }, {}),
      go: (other) => this.#go(other),
    });
    this.#views.set(message.id, { of, root });
    return root;
  }

  #go(message: string): void {
    if (this.running) {
      this.#events.problem("Other versions can be seen when the answer is complete, or stopped.");
      return;
    }
    this.#inTurn(async () => {
      const messages = await this.#pages({ leaf: message });
      const leaf = messages.findLast(({ type }) => type === "message")?.id ?? message;
      this.#note(await this.#client.changeConversation(this.id, { leaf }));
      if (this.#gone) return;
      this.#messages = messages;
      this.#draw();
      this.#events.changed(this);
    });
  }

  #follow(): void {
    if (this.#following) this.#log.scrollTop = this.#log.scrollHeight;
  }

  toEnd(): void {
    this.#following = true;
    this.#events.away(false);
    this.#follow();
  }
}
