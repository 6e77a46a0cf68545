/** Viewers in the runtime: real sockets that hibernate, the close handshake, and streams that are read as they are taken. */
import { evictDurableObject, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { CLOSE, PROTOCOL } from "../../clients/typescript/protocol.ts";
import { KEEP_ALIVE_MS, SseViewer } from "../../src/conversations/sse-viewer.ts";
import { Viewers } from "../../src/conversations/viewers.ts";
import { TurnStore } from "../../src/openai/turn-store.ts";
import { ok } from "../../src/result.ts";
import { completed, event, MemoryLog, numbersIn, StandIn, sender, started } from "./viewers-stand-ins.ts";

/** What would be in SQLite, by the object's name. */
const conversations = new Map<string, StandIn>();
const rooms = new WeakMap<object, Viewers>();
let names = 0;

type Instance = { readonly ctx: DurableObjectState };
/** An object of some class plays the conversation: its viewers are made anew with each life. */
function viewersOf(instance: object): Viewers {
  const { ctx } = instance as Instance;
  const conversation = conversations.get(ctx.id.name ?? "");
  if (!conversation) throw new Error("no such conversation");
  const { log, check } = conversation;
  const made = (): Viewers => new Viewers({ ctx, log, commands: conversation, check, now: () => Date.now() });
  const viewers = rooms.get(instance) ?? made();
  rooms.set(instance, viewers);
  return viewers;
}
const HANDLERS = {
  async fetch(this: object, request: Request): Promise<Response> {
    const { searchParams, pathname } = new URL(request.url);
    const viewers = viewersOf(this);
    const [after, turn] = [Number(searchParams.get("after")), searchParams.get("turn")];
    const answer =
      pathname === "/socket" ? viewers.accept(sender()) : viewers.stream(after, turn, sender(), request.signal);
    return answer.ok ? answer.value : Response.json(answer.error, { status: 400 });
  },
  webSocketMessage(this: object, socket: WebSocket, data: string | ArrayBuffer): Promise<void> {
    return viewersOf(this).message(socket, data);
  },
  webSocketClose(this: object, socket: WebSocket, code: number, reason: string): void {
    viewersOf(this).closed(socket, code, reason);
  },
};
beforeAll(() => void Object.assign(TurnStore.prototype, HANDLERS));
afterAll(() => {
  for (const name of Object.keys(HANDLERS)) Reflect.deleteProperty(TurnStore.prototype, name);
});
afterEach(() => {
  vi.useRealTimers();
});

function newRoom() {
  const name = `viewers ${++names}`;
  const conversation = new StandIn(new MemoryLog());
  conversations.set(name, conversation);
  const stub = env.TURN_STORE.getByName(name);
  const inside = <T>(act: (viewers: Viewers, ctx: DurableObjectState) => T): Promise<T> =>
    runInDurableObject(stub, (instance, ctx) => act(viewersOf(instance), ctx));
  return {
    conversation,
    stub,
    inside,
    tell: (...entries: Parameters<MemoryLog["append"]>) =>
      inside((viewers) => viewers.publish(conversation.log.append(...entries))),
    async socket(protocols = PROTOCOL) {
      const headers = { upgrade: "websocket", ...(protocols ? { "sec-websocket-protocol": protocols } : {}) };
      const response = await stub.fetch("https://c.test/socket", { headers });
      if (!response.webSocket) throw new Error(`refused: ${response.status}`);
      return new Client(response.webSocket, response);
    },
    events: (query: string, signal?: AbortSignal) =>
      stub.fetch(`https://c.test/events?${query}`, signal ? { signal } : {}),
  };
}

class Client {
  readonly socket: WebSocket;
  readonly response: Response;
  readonly got: string[] = [];
  readonly closed: Promise<{ readonly code: number; readonly reason: string }>;

  constructor(socket: WebSocket, response: Response) {
    this.socket = socket;
    this.response = response;
    socket.accept();
    socket.addEventListener("message", ({ data }) => {
      this.got.push(String(data));
    });
    this.closed = new Promise((resolve) => socket.addEventListener("close", resolve));
  }

  say(frame: unknown): void {
    this.socket.send(typeof frame === "string" ? frame : JSON.stringify(frame));
  }

  get numbers(): (number | string)[] {
    return numbersIn(this.got);
  }

  until(is: () => void): Promise<void> {
    return vi.waitFor(is, { timeout: 10_000, interval: 5 });
  }

  hasNumbers(...numbers: (number | string)[]): Promise<void> {
    return this.until(() => expect(this.numbers).toEqual(numbers));
  }
}

describe("a socket", () => {
  it("is taken, and told where the conversation stands", async () => {
    const room = newRoom();
    room.conversation.log.append(started(), event("a"));
    const client = await room.socket();
    await client.until(() => expect(client.got).toHaveLength(1));
    expect(JSON.parse(client.got[0] ?? "")).toMatchObject({ type: "ready", seq: 2, conversation: { id: "conv_1" } });
    expect(await room.inside((viewers) => viewers.count)).toBe(1);
  });

  it("is not taken where there is nothing to tell", async () => {
    const room = newRoom();
    const left = await room.inside((viewers, ctx) => {
      const view = vi.spyOn(room.conversation, "view").mockImplementation(() => {
        throw new Error("storage is away");
      });
      expect(() => viewers.accept(sender())).toThrow("away");
      view.mockRestore();
      return [viewers.count, ctx.getWebSockets().length];
    });
    expect(left).toEqual([0, 0]);
  });

  it("is the same to the runtime whenever it is asked for it", async () => {
    const room = newRoom();
    const client = await room.socket();
    client.say({ type: "resume", after: 0 });
    await room.tell(started());
    client.say({ type: "resume", after: 0 });
    await client.hasNumbers(1, 1);
    expect(await room.inside((viewers, ctx) => [viewers.count, ctx.getWebSockets().length])).toEqual([1, 1]);
  });

  it("W-08 goes on at its number when the object has slept, in mid-answer, with its window and its place", async () => {
    const room = newRoom();
    const [all, slow] = [await room.socket(), await room.socket()];
    slow.say({ type: "flow", window: 1 });
    // Its answer shows that the window stands.
    slow.say({ type: "what" });
    await slow.until(() => expect(slow.got).toHaveLength(2));
    await room.tell(started(), event("a"), event("b"));
    await all.hasNumbers(1, 2, 3);
    await evictDurableObject(room.stub, { webSockets: "hibernate" });
    await room.tell(event("c"));
    await all.hasNumbers(1, 2, 3, 4);
    slow.say({ type: "ack", seq: 1 });
    await slow.hasNumbers(1, 2);
    await evictDurableObject(room.stub, { webSockets: "hibernate" });
    slow.say({ type: "ack", seq: 2 });
    await slow.hasNumbers(1, 2, 3);
    slow.say({ type: "flow", window: 100_000 });
    await slow.hasNumbers(1, 2, 3, 4);
    all.say({ type: "resume", after: 2 });
    await all.hasNumbers(1, 2, 3, 4, 3, 4);
  });

  it("has its ping answered while the object sleeps, which counts as a sign of life", async () => {
    const room = newRoom();
    const client = await room.socket();
    const connected = Date.now();
    await vi.waitFor(() => expect(Date.now()).toBeGreaterThan(connected + 20), { interval: 10 });
    await evictDurableObject(room.stub, { webSockets: "hibernate" });
    client.say("ping");
    await client.until(() => expect(client.got.at(-1)).toBe("pong"));
    const next = await room.inside((viewers) => viewers.sweep(Date.now()));
    expect(next).toBeGreaterThan(connected + 20 + 35_000);
  });

  it.each([
    [undefined, 1000],
    [1000, 1000],
    [4999, 4999],
  ])("that its client closes with %s is closed by our side, too", async (code, answered) => {
    const room = newRoom();
    const client = await room.socket();
    if (code === undefined) client.socket.close();
    else client.socket.close(code, "done");
    expect((await client.closed).code).toBe(answered);
    await vi.waitFor(async () => expect(await room.inside((viewers) => viewers.count)).toBe(0));
  });

  it("is closed with a code and a reason of ours, and is nobody's after a sleep", async () => {
    const room = newRoom();
    const client = await room.socket();
    for (let n = 0; n < 5; n++) client.say("{");
    expect(await client.closed).toMatchObject({ code: CLOSE.malformed, reason: "5 bad frames in a row" });
    await evictDurableObject(room.stub, { webSockets: "hibernate" });
    await room.tell(started());
    expect(await room.inside((viewers) => viewers.count)).toBe(0);
    expect(client.numbers).toEqual([]);
  });

  it("W-05 may say the wildest things: it is closed, and another one of the same conversation hears nothing of it", async () => {
    const room = newRoom();
    const [wild, calm] = [await room.socket(), await room.socket()];
    wild.socket.send(new Uint8Array([0xff, 0xfe]));
    for (const text of ["", "[".repeat(1_000_000), "\u0000", '{"type":"send"}']) wild.say(text);
    expect((await wild.closed).code).toBe(CLOSE.malformed);
    const flood = await room.socket();
    for (let n = 0; n < 101; n++) flood.say({ type: "ack", seq: 0 });
    expect((await flood.closed).code).toBe(CLOSE.limited);
    await room.tell(started());
    await calm.hasNumbers(1);
    expect(calm.got).toHaveLength(2);
  });

  it("has its cancel heard while its message is still being taken", async () => {
    const room = newRoom();
    const client = await room.socket();
    const taken = Promise.withResolvers<void>();
    room.conversation.turn = "turn_1";
    room.conversation.answer = async () => {
      await taken.promise;
      return ok({ kind: "turn", turn: "turn_1", state: "processing", after: 0, known: true });
    };
    client.say({ type: "send", id: "c1", content: "hi" });
    client.say({ type: "cancel" });
    await client.until(() => expect(room.conversation.cancelled).toEqual([null]));
    client.say("ping");
    await client.until(() => expect(client.got.at(-1)).toBe("pong"));
    await room.inside(() => taken.resolve());
    await client.until(() => expect(JSON.parse(client.got.at(-1) ?? "")).toMatchObject({ type: "sent", ref: "c1" }));
  });

  it("W-06 of a key that has died is closed when it is verified", async () => {
    const room = newRoom();
    const client = await room.socket();
    room.conversation.fate = () => ({ kind: "unauthenticated" });
    await room.inside((viewers) => viewers.verify());
    expect((await client.closed).code).toBe(CLOSE.unauthenticated);
    expect(JSON.parse(client.got.at(-1) ?? "")).toMatchObject({ error: { type: "authentication_error" } });
  });
});

describe("a stream", () => {
  const ids = (text: string): string[] => [...text.matchAll(/^id: (\d+)$/gm)].map(([, id]) => id ?? "");

  it("tells everything after any number, and ends at once where nothing runs", async () => {
    const room = newRoom();
    room.conversation.log.append(started(), event("a"), completed());
    for (let after = 0; after <= 3; after++) {
      const response = await room.events(`after=${after}`);
      expect(ids(await response.text())).toEqual(["1", "2", "3"].slice(after));
    }
    expect(await room.inside((viewers) => viewers.count)).toBe(0);
  });

  it("goes on live to the end of the running turn, and no further", async () => {
    const room = newRoom();
    room.conversation.turn = "turn_1";
    room.conversation.log.append(started(), event("a"));
    const text = (await room.events("after=1")).text();
    await room.tell(event("b"));
    await room.tell(event("c"), completed(), started("turn_2"), event("d", "turn_2"));
    expect(ids(await text)).toEqual(["2", "3", "4", "5"]);
  });

  it("goes on to the end of the turn it is asked for, past that of another; one that has ended is not waited for", async () => {
    const room = newRoom();
    Object.assign(room.conversation, { turn: "turn_1", queued: ["turn_2"] });
    room.conversation.log.append(started());
    const [of2, of0] = [room.events("after=0&turn=turn_2"), room.events("after=0&turn=turn_0")];
    expect(ids(await (await of0).text())).toEqual(["1"]);
    const text = (await of2).text();
    await room.tell(completed(), started("turn_2"));
    await room.tell(completed("turn_2"));
    expect(ids(await text)).toEqual(["1", "2", "3", "4"]);
    room.conversation.turn = null;
    room.conversation.queued = [];
    expect(ids(await (await room.events("after=0&turn=turn_1")).text())).toEqual(["1", "2"]);
  });

  it("below the floor tells the history first, and above the newest number is refused", async () => {
    const room = newRoom();
    room.conversation.log.append(started(), completed(), started("turn_2"), completed("turn_2"));
    room.conversation.log.floor = 2;
    const text = await (await room.events("after=1")).text();
    expect(text).toMatch(/^id: 2\nevent: history\ndata: \{"type":"history","seq":2,/);
    expect(ids(text)).toEqual(["2", "3", "4"]);
    const refused = await room.events("after=5");
    expect(await refused.json()).toMatchObject({ kind: "invalid_request" });
  });

  it("costs its place until its client leaves, and no longer", async () => {
    const room = newRoom();
    room.conversation.turn = "turn_1";
    const count = (): Promise<number> => room.inside((viewers) => viewers.count);
    const gone = new AbortController();
    const response = await room.events("after=0", gone.signal);
    await room.tell(started());
    await response.body?.getReader().read();
    expect(await count()).toBe(1);
    gone.abort();
    await vi.waitFor(async () => expect(await count()).toBe(0));
  });

  it("reads the log as it is taken: one that nobody takes reads nothing more", async () => {
    const room = newRoom();
    for (let n = 0; n < 200; n++) room.conversation.log.append(event("x".repeat(64 * 1024)));
    const response = await room.events("after=0");
    const reader = response.body?.getReader();
    await reader?.read();
    const { reads } = room.conversation.log;
    expect(reads).toBeLessThan(20);
    await room.tell(event("y"));
    expect(room.conversation.log.reads).toBe(reads);
    await reader?.cancel();
  });

  it("W-06 of a key that has died ends with the error", async () => {
    const room = newRoom();
    room.conversation.turn = "turn_1";
    const text = (await room.events("after=0")).text();
    await room.tell(started());
    room.conversation.fate = () => ({ kind: "unauthenticated" });
    await room.inside((viewers) => viewers.verify());
    await room.tell(event("secret"));
    expect(await text).toMatch(/event: error\ndata: .*authentication_error.*\n\n$/);
    expect(await text).not.toContain("secret");
  });

  it("ends with an error when the conversation does", async () => {
    const room = newRoom();
    room.conversation.turn = "turn_1";
    const text = (await room.events("after=0")).text();
    await room.inside((viewers) => viewers.closeAll(CLOSE.unknown, "The conversation was deleted."));
    expect(await text).toMatch(/^event: error\ndata: .*not_found_error.*\n\n$/);
  });

  it("tells that it lives after each long silence", async () => {
    vi.useFakeTimers();
    const conversation = new StandIn();
    conversation.turn = "turn_1";
    let left = 0;
    const viewer = new SseViewer(
      { after: 0, turn: null, sender: sender() },
      conversation.log,
      conversation,
      () => left++,
    );
    const reader = viewer.stream().getReader();
    const take = async () => new TextDecoder().decode((await reader.read()).value);
    const first = take();
    await vi.advanceTimersByTimeAsync(KEEP_ALIVE_MS - 1);
    expect(vi.getTimerCount()).toBe(1);
    await vi.advanceTimersByTimeAsync(1);
    expect(await first).toBe(": keep-alive\n\n");
    const second = take();
    viewer.publish(conversation.log.append(completed()));
    expect(await second).toContain("turn.completed");
    expect((await reader.read()).done).toBe(true);
    expect([left, vi.getTimerCount()]).toEqual([1, 0]);
  });
});
