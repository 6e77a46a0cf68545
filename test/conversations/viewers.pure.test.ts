/** Viewers on sockets: who is sent what, how much may be on its way, what closes them, and what survives a sleep. */
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { CLOSE } from "../../clients/typescript/protocol.ts";
import { closeQuietly } from "../../src/conversations/close.ts";
import { frameText, utf8Bytes } from "../../src/conversations/frames.ts";
import { MAX_BODY_BYTES } from "../../src/conversations/limits.ts";
import {
  FRAMES_MS,
  MAX_ALL_UNHEARD_BYTES,
  MAX_BAD_FRAMES,
  MAX_FRAMES,
  MAX_RESUMES,
  MAX_UNHEARD_BYTES,
  RESUMES_MS,
} from "../../src/conversations/viewer.ts";
import { MAX_VIEWERS, SILENCE_MS } from "../../src/conversations/viewers.ts";
import { err, ok } from "../../src/result.ts";
import type { Failure } from "../../src/wire/errors.ts";
import { Room } from "./viewers-room.ts";
import { completed, event, FakeSocket, numbersIn, parsed, type StandIn, sender, started } from "./viewers-stand-ins.ts";

beforeEach(() => {
  vi.stubGlobal("WebSocketRequestResponsePair", class {});
  vi.spyOn(console, "error").mockImplementation(() => {});
});
afterEach(() => {
  vi.unstubAllGlobals();
  vi.restoreAllMocks();
});

const sizeOf = (room: Room, seq: number): number => {
  const entry = room.conversation.log.entries[seq - 1];
  return entry ? utf8Bytes(frameText(entry)) : 0;
};
const errorsOf = (socket: FakeSocket) => parsed(socket.got).filter((frame) => frame.type === "error");
const upTo = (last: number, from = 1): number[] => Array.from({ length: last - from + 1 }, (_, at) => from + at);
const DEAD: Failure = { kind: "unauthenticated" };

describe("what is added", () => {
  it("reaches everybody at the newest number, written out once, with one write beside each socket", () => {
    const room = new Room();
    const sockets = [1, 2, 3, 4, 5].map(() => room.join());
    for (const socket of sockets) socket.writes = 0;
    room.tell(started(), event("a"), event("b"));
    for (const socket of sockets) {
      expect(socket.got).toEqual(room.conversation.log.entries.map(frameText));
      expect(socket.writes).toBe(1);
    }
    expect(room.conversation.log.reads).toBe(0);
  });

  it("reaches the others when one has broken off, who is forgotten", () => {
    const room = new Room();
    const broken = room.join();
    const other = room.join();
    broken.readyState = WebSocket.CLOSED;
    room.tell(started(), event("a"));
    room.tell(event("b"));
    expect(numbersIn(other.got)).toEqual([1, 2, 3]);
    expect(room.viewers.count).toBe(1);
  });

  it("goes on where it was after a sleep, in mid-answer, and skips what was added while nobody told", () => {
    const room = new Room();
    const socket = room.join();
    room.tell(started(), event("a"));
    room.sleep();
    room.tell(event("b"));
    room.conversation.log.append(event("c"), event("d"));
    room.sleep();
    room.tell(event("e"));
    expect(numbersIn(socket.got)).toEqual(upTo(6));
  });

  it("has sockets that are closing left alone when the object comes back", () => {
    const room = new Room();
    const open = room.join();
    const closing = room.join();
    const gone = room.join();
    closing.readyState = WebSocket.CLOSING;
    room.viewers.closed(gone.asSocket, 1000, "bye");
    expect(gone.closedWith).toEqual({ code: 1000, reason: "bye" });
    gone.readyState = WebSocket.OPEN;
    room.sleep();
    room.tell(started());
    expect([open, closing, gone].map(({ got }) => numbersIn(got))).toEqual([[1], [], []]);
    expect(room.viewers.count).toBe(1);
  });
});

describe("resume", () => {
  it("brings everything after any number, once, while events come", async () => {
    for (let after = 0; after <= 8; after++) {
      const room = new Room();
      room.tell(started(), ...[1, 2, 3, 4].map((n) => event(`${n}`)));
      const socket = room.join();
      room.tell(event("6"), event("7"), event("8"));
      socket.got.length = 0;
      await room.say(socket, { type: "resume", after });
      room.tell(event("9"), completed());
      expect(numbersIn(socket.got)).toEqual(upTo(10, after + 1));
    }
  });

  it("below the floor brings the history, then what comes after it", async () => {
    const room = new Room();
    room.tell(started(), event("a"), completed(), started("turn_2"), event("b"));
    room.conversation.log.floor = 3;
    const socket = room.join();
    await room.say(socket, { type: "resume", after: 2 });
    expect(numbersIn(socket.got)).toEqual(["history 3", 4, 5]);
    expect(parsed(socket.got)[0]).toMatchObject({ messages: [{ id: "msg_1" }] });
    socket.got.length = 0;
    await room.say(socket, { type: "resume", after: 3 });
    expect(numbersIn(socket.got)).toEqual([4, 5]);
  });

  it("above the newest number is an error that closes nothing however often, and changes nothing", async () => {
    const room = new Room();
    room.tell(started());
    const socket = room.join();
    for (let n = 0; n <= MAX_BAD_FRAMES; n++) await room.say(socket, { type: "resume", after: 2 });
    expect(errorsOf(socket)).toHaveLength(MAX_BAD_FRAMES + 1);
    expect(errorsOf(socket)[0]).toMatchObject({
      error: { message: "after: 2 is above the newest number, which is 1." },
    });
    room.tell(event("a"));
    expect(numbersIn(socket.got)).toEqual([2]);
  });

  it(`may come ${MAX_RESUMES} times a minute, over sleeps too, and once more closes`, async () => {
    const room = new Room();
    const socket = room.join();
    for (let n = 0; n < MAX_RESUMES; n++) {
      await room.say(socket, { type: "resume", after: 0 });
      room.now += 1_000;
      room.sleep();
    }
    room.now = 1_000_000 + RESUMES_MS;
    await room.say(socket, { type: "resume", after: 0 });
    expect(socket.closedWith).toBeNull();
    await room.say(socket, { type: "resume", after: 0 });
    expect(socket.closedWith?.code).toBe(CLOSE.limited);
    expect(errorsOf(socket)[0]).toMatchObject({ error: { type: "rate_limit_error" } });
  });
});

describe("flow", () => {
  it.each([0, 1])("with a window of %i lets one event be on its way", async (window) => {
    const room = new Room();
    const socket = room.join();
    await room.say(socket, { type: "flow", window });
    room.tellEvents(3);
    expect(numbersIn(socket.got)).toEqual([1]);
    await room.say(socket, { type: "ack", seq: 1 });
    expect(numbersIn(socket.got)).toEqual([1, 2]);
    await room.say(socket, { type: "ack", seq: 1 });
    expect(numbersIn(socket.got)).toEqual([1, 2]);
    await room.say(socket, { type: "ack", seq: 2 });
    expect(numbersIn(socket.got)).toEqual([1, 2, 3]);
  });

  it("sends to the last byte of the window and not one past it", async () => {
    for (const [window, sent] of [
      [0, 3],
      [-1, 2],
    ] as const) {
      const room = new Room();
      const socket = room.join();
      room.conversation.log.append(...[1, 2, 3, 4].map((n) => event(`${n}`)));
      const three = [1, 2, 3].reduce((bytes, seq) => bytes + sizeOf(room, seq), 0);
      await room.say(socket, { type: "flow", window: three + window });
      expect(numbersIn(socket.got)).toEqual(upTo(sent));
      // What was acknowledged in between makes room for just as much.
      await room.say(socket, { type: "ack", seq: 1 });
      expect(numbersIn(socket.got)).toEqual(upTo(sent + 1));
    }
  });

  it("lets one event through that is larger than the window, alone", async () => {
    const room = new Room();
    const socket = room.join();
    await room.say(socket, { type: "flow", window: 500 });
    room.tell(event("a"), event("x".repeat(1_000)), event("b"));
    expect(numbersIn(socket.got)).toEqual([1]);
    await room.say(socket, { type: "ack", seq: 1 });
    expect(numbersIn(socket.got)).toEqual([1, 2]);
    await room.say(socket, { type: "ack", seq: 2 });
    expect(numbersIn(socket.got)).toEqual([1, 2, 3]);
  });

  it("opens when the window grows, over a sleep, and may grow without a bound", async () => {
    const room = new Room();
    const socket = room.join();
    await room.say(socket, { type: "flow", window: 1 });
    room.tellEvents(5);
    room.sleep();
    expect(numbersIn(socket.got)).toEqual([1]);
    await room.say(socket, { type: "flow", window: sizeOf(room, 1) * 3 });
    expect(numbersIn(socket.got)).toEqual([1, 2, 3]);
    await room.say(socket, '{"type":"flow","window":1e300}');
    expect(numbersIn(socket.got)).toEqual(upTo(5));
  });

  it("takes no acknowledgement for what was never sent; an older one does nothing", async () => {
    const room = new Room();
    const socket = room.join();
    await room.say(socket, { type: "flow", window: 1 });
    room.tellEvents(3);
    await room.say(socket, { type: "ack", seq: 2 });
    expect(errorsOf(socket)).toMatchObject([{ error: { message: "seq: 2 was never sent." } }]);
    await room.say(socket, { type: "ack", seq: 0 });
    expect(errorsOf(socket)).toHaveLength(1);
    expect(numbersIn(socket.got)).toEqual([1]);
  });

  it("takes an acknowledgement that was on its way when its viewer went back as an old one", async () => {
    const room = new Room();
    const socket = room.join();
    room.tellEvents(5);
    await room.say(socket, { type: "flow", window: 1 });
    await room.say(socket, { type: "resume", after: 0 });
    await room.say(socket, { type: "ack", seq: 5 });
    expect(errorsOf(socket)).toEqual([]);
    expect(numbersIn(socket.got)).toEqual([1, 2, 3, 4, 5, 1]);
  });

  it("has whoever acknowledges nothing looked at no more often than for its heartbeat", async () => {
    const room = new Room();
    const socket = room.join();
    await room.say(socket, { type: "flow", window: 1 });
    room.tellEvents(3);
    expect(room.viewers.sweep(room.now)).toBe(room.now + SILENCE_MS + 1);
  });

  it("counts on when the log has let go of what is on its way", async () => {
    const room = new Room();
    const socket = room.join();
    await room.say(socket, { type: "flow", window: 1 });
    room.tellEvents(6);
    await room.say(socket, { type: "flow", window: sizeOf(room, 1) * 4 });
    expect(numbersIn(socket.got)).toEqual([1, 2, 3, 4]);
    room.conversation.log.floor = 2;
    await room.say(socket, { type: "ack", seq: 1 });
    expect(numbersIn(socket.got)).toEqual([1, 2, 3, 4]);
    await room.say(socket, { type: "ack", seq: 3 });
    expect(numbersIn(socket.got)).toEqual(upTo(6));
  });

  it("puts the history in the place of what the log has let go of before it was sent", async () => {
    const room = new Room();
    const socket = room.join();
    await room.say(socket, { type: "flow", window: 1 });
    room.tellEvents(6);
    room.conversation.log.floor = 4;
    await room.say(socket, { type: "ack", seq: 1 });
    expect(numbersIn(socket.got)).toEqual([1, "history 4"]);
    await room.say(socket, { type: "ack", seq: 4 });
    expect(numbersIn(socket.got)).toEqual([1, "history 4", 5]);
  });
});

describe("without flow", () => {
  const BIG = 1024 * 1024;

  it("so much is sent between two signs of life: a frame, or a ping that nobody sees", async () => {
    const room = new Room();
    const socket = room.join();
    for (let n = 0; n < 9; n++) room.tell(event("x".repeat(BIG)));
    const sent = () => socket.got.reduce((bytes, text) => bytes + utf8Bytes(text), 0);
    expect(numbersIn(socket.got)).toEqual([1, 2, 3]);
    expect(sent()).toBeLessThanOrEqual(MAX_UNHEARD_BYTES);
    room.now += 1_000;
    expect(room.viewers.sweep(room.now)).toBe(room.now + 1_000);
    expect(numbersIn(socket.got)).toEqual([1, 2, 3]);
    room.ping(socket);
    room.tell(event("x".repeat(BIG)));
    expect(numbersIn(socket.got)).toEqual(upTo(6));
    room.now += 1_000;
    room.ping(socket);
    room.viewers.sweep(room.now);
    expect(numbersIn(socket.got)).toEqual(upTo(9));
    room.now += 1_000;
    await room.say(socket, { type: "ack", seq: 1 });
    expect(numbersIn(socket.got)).toEqual(upTo(10));
  });

  it("D-07 many share what may lie in memory for them, and each goes on by its own pings", () => {
    const room = new Room();
    const sockets = Array.from({ length: MAX_VIEWERS }, () => room.join());
    for (let n = 0; n < 64; n++) room.tell(event("x".repeat(BIG / 16)));
    const sent = (of: FakeSocket): number => of.got.reduce((bytes, text) => bytes + utf8Bytes(text), 0);
    expect(sockets.reduce((bytes, socket) => bytes + sent(socket), 0)).toBeLessThanOrEqual(MAX_ALL_UNHEARD_BYTES);
    const [one] = sockets;
    for (let pings = 1; one && numbersIn(one.got).length < 64; pings++) {
      expect(pings).toBeLessThan(64);
      room.now += 1_000;
      room.ping(one);
      room.viewers.sweep(room.now);
    }
    expect(numbersIn(one?.got ?? [])).toEqual(upTo(64));
  });

  it("one event larger than that is sent when nothing is on its way", () => {
    const room = new Room();
    const socket = room.join();
    room.tell(event("x".repeat(MAX_UNHEARD_BYTES)));
    room.tell(event("y"));
    expect(numbersIn(socket.got)).toEqual([1]);
  });

  it("one that takes nothing costs the log no reading", () => {
    const room = new Room();
    room.join();
    for (let n = 0; n < 5; n++) room.tell(event("x".repeat(BIG)));
    const before = room.conversation.log.reads;
    for (let n = 0; n < 100; n++) room.tell(event("y"));
    expect(room.conversation.log.reads).toBe(before);
  });
});

describe("heartbeat", () => {
  it("closes whoever was not heard of for two beats and some, and not a moment sooner", () => {
    const room = new Room();
    const silent = room.join();
    expect(room.viewers.sweep(room.now)).toBe(room.now + SILENCE_MS + 1);
    room.now += 15_000;
    const pinging = room.join();
    room.now += SILENCE_MS - 15_000;
    room.ping(pinging);
    expect(room.viewers.sweep(room.now)).toBe(room.now + 1);
    expect(silent.closedWith).toBeNull();
    room.now += 1;
    expect(room.viewers.sweep(room.now)).toBe(room.now + SILENCE_MS);
    expect(silent.closedWith?.code).toBe(CLOSE.heartbeat);
    room.now += SILENCE_MS;
    expect(room.viewers.sweep(room.now)).toBeNull();
    expect(pinging.closedWith?.code).toBe(CLOSE.heartbeat);
    expect(room.viewers.count).toBe(0);
  });

  it("counts a frame as a sign of life, over a sleep, and a clock that leaps back as none", async () => {
    const room = new Room();
    const socket = room.join();
    room.now += SILENCE_MS;
    await room.say(socket, { type: "ack", seq: 0 });
    room.sleep();
    room.now += SILENCE_MS;
    room.viewers.sweep(room.now);
    expect(socket.closedWith).toBeNull();
    room.now -= 10 * SILENCE_MS;
    expect(room.viewers.sweep(room.now)).toBe(room.now + SILENCE_MS + 1);
  });
});

describe("bad frames", () => {
  it("W-05 answer an error with their id; five in a row close, over a sleep too; a good one counts anew", async () => {
    const room = new Room();
    const socket = room.join();
    const bad = async (times: number): Promise<void> => {
      for (let n = 0; n < times; n++) await room.say(socket, { type: "what", id: "c1" });
    };
    await bad(MAX_BAD_FRAMES - 1);
    room.sleep();
    await room.say(socket, { type: "ack", seq: 0 });
    await bad(MAX_BAD_FRAMES - 1);
    room.sleep();
    expect(errorsOf(socket)).toHaveLength(2 * (MAX_BAD_FRAMES - 1));
    expect(errorsOf(socket)[0]).toMatchObject({ ref: "c1", error: { type: "invalid_request_error" } });
    expect(socket.closedWith).toBeNull();
    room.tell(started());
    expect(numbersIn(socket.got)).toEqual([1]);
    await bad(1);
    expect(socket.closedWith?.code).toBe(CLOSE.malformed);
    await bad(1);
    expect(errorsOf(socket)).toHaveLength(2 * MAX_BAD_FRAMES - 1);
  });

  it("W-05 are binary ones, too", async () => {
    const room = new Room();
    const socket = room.join();
    await room.say(socket, new ArrayBuffer(4));
    expect(errorsOf(socket)).toMatchObject([{ ref: null, error: { message: "A frame is text, never binary." } }]);
  });

  it("W-05 that are too large close, by their bytes", async () => {
    const room = new Room();
    const shell = '{"type":"send","content":""}'.length;
    const frame = (bytes: number, letter: string) =>
      JSON.stringify({ type: "send", content: letter.repeat((bytes - shell) / utf8Bytes(letter)) });
    const fits = room.join();
    await room.say(fits, frame(MAX_BODY_BYTES, "é"));
    expect(room.conversation.said).toHaveLength(1);
    for (const data of [frame(MAX_BODY_BYTES + 2, "é"), new ArrayBuffer(MAX_BODY_BYTES + 1)]) {
      const socket = room.join();
      await room.say(socket, data);
      expect(socket.closedWith?.code).toBe(CLOSE.tooLarge);
      expect(errorsOf(socket)[0]).toMatchObject({ error: { type: "request_too_large" } });
    }
    expect(fits.closedWith).toBeNull();
  });

  it(`W-05 or good ones: more than ${MAX_FRAMES} in ten seconds close, whenever the ten begin`, async () => {
    const room = new Room();
    const socket = room.join();
    const frames = async (times: number): Promise<void> => {
      for (let n = 0; n < times; n++) await room.say(socket, { type: "ack", seq: 0 });
    };
    await frames(10);
    room.now += FRAMES_MS - 1;
    await frames(MAX_FRAMES - 10);
    room.now += 1;
    await frames(10);
    expect(socket.closedWith).toBeNull();
    await frames(1);
    expect(socket.closedWith?.code).toBe(CLOSE.limited);
  });

  it("W-05 are no flood where they acknowledge what has come, one by one", async () => {
    const room = new Room();
    const socket = room.join();
    await room.say(socket, { type: "flow", window: 100_000 });
    for (let seq = 1; seq <= 2 * MAX_FRAMES; seq++) {
      room.tellEvents(1);
      await room.say(socket, { type: "ack", seq });
    }
    for (let n = 0; n < MAX_FRAMES - 1; n++) await room.say(socket, { type: "ack", seq: 1 });
    expect(socket.closedWith).toBeNull();
    await room.say(socket, { type: "ack", seq: 1 });
    expect(socket.closedWith?.code).toBe(CLOSE.limited);
  });

  it("that hit a bug answer an error, and the next one is taken", async () => {
    const room = new Room();
    const socket = room.join();
    vi.spyOn(room.conversation.log, "lastSeq", "get").mockImplementationOnce(() => {
      throw new Error("a bug");
    });
    await room.say(socket, { type: "resume", after: 0 });
    expect(errorsOf(socket)).toMatchObject([{ error: { type: "api_error" } }]);
    room.conversation.answer = () => Promise.reject(new Error("a bug"));
    await room.say(socket, { type: "send", id: "c2", content: "x" });
    await Promise.all(room.aside);
    expect(errorsOf(socket)[1]).toMatchObject({ ref: "c2", error: { type: "api_error" } });
    expect(socket.closedWith).toBeNull();
  });
});

describe("what a frame asks for", () => {
  it("a message that takes long holds up no other frame", async () => {
    const room = new Room();
    const socket = room.join();
    const answer = Promise.withResolvers<Awaited<ReturnType<StandIn["answer"]>>>();
    room.conversation.answer = () => answer.promise;
    room.conversation.turn = "turn_1";
    await room.say(socket, { type: "send", id: "c1", content: "x" });
    await room.say(socket, { type: "cancel", turn: "turn_1" });
    expect(room.conversation.cancelled).toEqual(["turn_1"]);
    answer.resolve(ok({ kind: "turn", turn: "turn_1", state: "completed", after: 0, known: true }));
    await Promise.all(room.aside);
    expect(parsed(socket.got)).toEqual([
      { type: "sent", ref: "c1", turn: "turn_1", state: "completed", awaiting_tool_results: [] },
    ]);
  });

  it("a new message is answered by the log alone; tool results that are not complete by what is awaited", async () => {
    const room = new Room();
    const socket = room.join();
    await room.say(socket, { type: "send", id: "c1", content: "x" });
    room.conversation.answer = async () => ok({ kind: "awaiting", awaiting: ["toolu_2"] });
    await room.say(socket, { type: "send", id: "c2", content: "x" });
    await Promise.all(room.aside);
    expect(parsed(socket.got)).toEqual([
      { type: "sent", ref: "c2", turn: null, state: "awaiting_tool_results", awaiting_tool_results: ["toolu_2"] },
    ]);
  });

  it("a cancel where nothing runs is an error that counts for nothing", async () => {
    const room = new Room();
    const socket = room.join();
    for (let n = 0; n <= MAX_BAD_FRAMES; n++) await room.say(socket, { type: "cancel" });
    await Promise.all(room.aside);
    expect(errorsOf(socket)).toHaveLength(MAX_BAD_FRAMES + 1);
    expect(socket.closedWith).toBeNull();
  });

  it("frames are dealt with in the order in which they came, be the key asked about in between", async () => {
    const room = new Room();
    const socket = room.join();
    room.tellEvents(3);
    const slow = Promise.withResolvers<null>();
    const { check } = room.conversation;
    let first = true;
    Object.assign(room.conversation, {
      check: (...what: Parameters<typeof check>) => {
        if (!first) return check(...what);
        first = false;
        return slow.promise;
      },
    });
    room.sleep();
    const all = [room.say(socket, { type: "resume", after: 0 }), room.say(socket, { type: "ack", seq: 3 })];
    expect(numbersIn(socket.got)).toEqual([1, 2, 3]);
    slow.resolve(null);
    await Promise.all(all);
    expect(numbersIn(socket.got)).toEqual([1, 2, 3, 1, 2, 3]);
  });
});

describe("a key", () => {
  it("W-06 that has died closes at the next frame, whatever it is, and is asked about anew for what costs", async () => {
    const room = new Room();
    const socket = room.join();
    await room.say(socket, { type: "ack", seq: 0 });
    await room.say(socket, { type: "ack", seq: 0 });
    expect(room.conversation.checks).toHaveLength(1);
    room.conversation.fate = () => DEAD;
    await room.say(socket, { type: "send", id: "c1", content: "x" });
    expect(room.conversation.checks[1]?.maxAgeMs).toBe(0);
    expect(room.conversation.said).toEqual([]);
    expect(errorsOf(socket)).toMatchObject([{ error: { type: "authentication_error" } }]);
    expect(socket.closedWith?.code).toBe(CLOSE.unauthenticated);

    const later = room.join();
    await room.say(later, "{");
    expect(later.closedWith?.code).toBe(CLOSE.unauthenticated);
  });

  it("W-06 that has died closes its viewers when they are verified, each key asked about once, and nobody else", async () => {
    const room = new Room();
    const dead = [room.join(sender("key_dead")), room.join(sender("key_dead"))];
    const alive = [room.join(sender("key_live")), room.join(sender("key_live", { secretSha256: "6".repeat(64) }))];
    room.conversation.fate = (keyId) => (keyId === "key_dead" ? DEAD : null);
    await room.viewers.verify();
    expect(room.conversation.checks).toHaveLength(3);
    expect(dead.map(({ closedWith }) => closedWith?.code)).toEqual([4401, 4401]);
    expect(alive.map(({ closedWith }) => closedWith)).toEqual([null, null]);
    room.tell(started());
    expect(dead.map(({ got }) => numbersIn(got))).toEqual([[], []]);
    expect(alive.map(({ got }) => numbersIn(got))).toEqual([[1], [1]]);
  });

  it("that has lost its scope closes with another code; one that can't be asked about closes nothing", async () => {
    const room = new Room();
    const socket = room.join();
    room.conversation.fate = () => ({ kind: "unavailable", what: "The ledger", retryAfterMs: 1_000 });
    await room.viewers.verify();
    Object.assign(room.conversation, { check: () => Promise.reject(new Error("away")) });
    room.sleep();
    await room.viewers.verify();
    await room.say(socket, { type: "ack", seq: 0 });
    expect(socket.closedWith).toBeNull();
    Object.assign(room.conversation, { check: async () => ({ kind: "scope_missing", scope: "conversations" }) });
    room.sleep();
    await room.viewers.verify();
    expect(socket.closedWith?.code).toBe(CLOSE.forbidden);
  });

  it("W-06 without a budget closes after the error; a rate limit closes nothing", async () => {
    const room = new Room();
    const socket = room.join();
    room.conversation.answer = async () =>
      err({ kind: "rate_limited", limit: "requests", scope: "key", figure: 1, retryAfterMs: 1_000 });
    await room.say(socket, { type: "send", id: "c1", content: "x" });
    await Promise.all(room.aside);
    expect(errorsOf(socket)).toMatchObject([
      { ref: "c1", error: { type: "rate_limit_error", retry_after_seconds: 1 } },
    ]);
    expect(socket.closedWith).toBeNull();
    const budget = {
      limitMicroUsd: 1,
      spentMicroUsd: 1,
      reservedMicroUsd: 0,
      resetsAt: null,
      period: "total",
    } as const;
    room.conversation.answer = async () =>
      err({ kind: "over_budget", scope: "key", mode: "strict", budget, neededMicroUsd: 1, retryAfterMs: null });
    await room.say(socket, { type: "send", id: "c2", content: "x" });
    await Promise.all(room.aside);
    expect(errorsOf(socket)[1]).toMatchObject({ ref: "c2", error: { type: "billing_error" } });
    expect(socket.closedWith?.code).toBe(CLOSE.limited);
  });
});

describe("the end", () => {
  it("closes everybody, once", () => {
    const room = new Room();
    const sockets = [room.join(), room.join()];
    room.viewers.closeAll(CLOSE.unknown, "The conversation was deleted.");
    room.viewers.closeAll(CLOSE.heartbeat, "again");
    for (const { closedWith } of sockets) expect(closedWith?.code).toBe(CLOSE.unknown);
    expect(room.viewers.count).toBe(0);
  });

  it("closes with codes and reasons that a frame can carry", () => {
    const closing = (code: number, reason: string) => {
      const socket = new FakeSocket();
      closeQuietly(socket.asSocket, code, reason);
      return socket.closedWith;
    };
    for (const code of [1004, 1005, 1006, 1015]) expect(closing(code, "")).toEqual({ code: 1000, reason: "" });
    expect(closing(4400, "x".repeat(123))).toEqual({ code: 4400, reason: "x".repeat(123) });
    expect(closing(4400, "x".repeat(124))).toEqual({ code: 4400, reason: "x".repeat(123) });
    expect(closing(4400, "é".repeat(62))).toEqual({ code: 4400, reason: "é".repeat(61) });
    expect(closing(999, "")).toBeNull();
  });

  it("keeps what lies beside a socket small, whatever its client calls itself", () => {
    const room = new Room();
    expect(() => room.join(sender("key_1", { client: "x".repeat(100_000) }))).not.toThrow();
    expect(room.viewers.count).toBe(1);
  });

  it("keeps no stream whose log can't be read", async () => {
    const room = new Room();
    room.tell(started());
    const { signal } = new AbortController();
    const stream = room.viewers.stream(0, null, sender(), signal);
    vi.spyOn(room.conversation.log, "read").mockImplementation(() => {
      throw new Error("storage is away");
    });
    await expect(stream.ok && stream.value.text()).rejects.toThrow("away");
    expect(room.viewers.count).toBe(0);
  });

  it(`W-10 lets ${MAX_VIEWERS} look and refuses the next one`, () => {
    const room = new Room();
    for (let n = 0; n < MAX_VIEWERS - 1; n++) room.join();
    const { signal } = new AbortController();
    expect(room.viewers.stream(0, null, sender(), signal).ok).toBe(true);
    for (const refused of [room.viewers.stream(0, null, sender(), signal), room.viewers.accept(sender())]) {
      expect(refused).toMatchObject({ ok: false, error: { kind: "limit_reached" } });
    }
  });
});
