/** The client's socket against a gateway that drops, repeats, overtakes and falls silent as a script says. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Status } from "../../clients/typescript/connection.ts";
import type { KeySource } from "../../clients/typescript/key.ts";
import { AUTH_PROTOCOL_PREFIX } from "../../clients/typescript/protocol.ts";
import type { Received } from "../../clients/typescript/queue.ts";
import { type ConnectOptions, ConversationSocket } from "../../clients/typescript/socket.ts";
import { ManualClock, ScriptedGateway } from "./scripted-gateway.ts";

function meet(options: ConnectOptions = {}, random: () => number = () => 0.5, apiKey: KeySource = "sk-sluice-x") {
  const gateway = new ScriptedGateway();
  const clock = new ManualClock();
  let ids = 0;
  const seen: Received[] = [];
  const states: Status[] = [];
  const parts = {
    url: "ws://gateway.test/v1/conversations/conv_1/socket",
    apiKey,
    socket: gateway.socketClass,
    clock,
    random,
    newId: () => `c${++ids}`,
  };
  const socket = new ConversationSocket(parts, {
    onEvent: (frame) => seen.push(frame),
    onStatus: (status) => states.push(status),
    ...options,
  });
  return { gateway, clock, socket, seen, states, seqs: () => seen.map(({ seq }) => seq) };
}

const upTo = (n: number): number[] => Array.from({ length: n }, (_, index) => index + 1);
/** Whatever was promised has been kept. */
const settled = () => new Promise((done) => setImmediate(done));

/** Waits for the client's next attempt, and accepts it. */
function comeBack({ gateway, clock, socket }: ReturnType<typeof meet>): void {
  const { status } = socket;
  if (status.state === "waiting") clock.pass(status.retryAt - clock.now());
  expect(socket.status.state).toBe("connecting");
  gateway.accept();
}

/** Drives a script to its end: no drop any more, everything delivered. */
function calmDown(met: ReturnType<typeof meet>): void {
  const { gateway, clock } = met;
  gateway.deaf = false;
  gateway.pongs = true;
  // What was lost with nothing to show for it is found out by the next drop.
  gateway.line.drop();
  comeBack(met);
  for (let round = 0; round < 4; round++) {
    gateway.deliver();
    clock.pass(1_000);
  }
}

describe("a conversation's socket", () => {
  it("shows the gateway's frames once and in order, whatever happens to the line", () => {
    const step = fc.oneof(
      fc.record({ do: fc.constant("turn" as const), n: fc.integer({ min: 0, max: 5 }) }),
      fc.record({ do: fc.constant("deliver" as const), n: fc.integer({ min: 1, max: 8 }) }),
      fc.record({ do: fc.constantFrom("accept", "drop", "deaf", "hears", "mute", "send") }),
      fc.record({ do: fc.constant("again" as const), n: fc.integer({ min: 1, max: 9 }) }),
      fc.record({ do: fc.constant("overtake" as const), n: fc.integer({ min: 1, max: 4 }) }),
      fc.record({ do: fc.constant("pass" as const), n: fc.constantFrom(1, 300, 16_000, 60_000) }),
    );
    fc.assert(
      fc.property(
        fc.array(step, { maxLength: 60 }),
        fc.double({ min: 0, max: 0.999, noNaN: true }),
        (steps, chance) => {
          const met = meet({ after: 0 }, () => chance);
          const { gateway, clock, socket } = met;
          const sent: string[] = [];
          for (const { do: what, n = 0 } of steps as { do: string; n?: number }[]) {
            const { line } = gateway;
            if (what === "turn") gateway.turn(n);
            if (what === "deliver") gateway.deliver(n);
            if (what === "accept") gateway.accept();
            if (what === "drop") line.drop();
            if (what === "deaf") gateway.deaf = true;
            if (what === "hears") gateway.deaf = false;
            if (what === "mute") gateway.pongs = !gateway.pongs;
            if (what === "send") sent.push(socket.send("hello").id);
            if (what === "again") line.cursor = Math.max(0, line.cursor - n);
            // A frame of later on comes first, as a live one may before the answer to a resume.
            const early = gateway.log[line.cursor + n];
            if (what === "overtake" && early) line.say(early);
            if (what === "pass") clock.pass(n);
          }
          calmDown(met);
          expect(met.seqs()).toEqual(upTo(gateway.log.length));
          const started = met.seen.flatMap((frame) => (frame.type === "turn.started" && frame.id ? [frame.id] : []));
          expect(started.sort()).toEqual(sent.sort());
        },
      ),
      { numRuns: 400 },
    );
  });

  it("loses nothing when the line drops after every single frame", () => {
    const met = meet({ after: 0 });
    met.gateway.turn(20);
    while (met.seen.length < met.gateway.log.length) {
      comeBack(met);
      met.gateway.deliver(1);
      met.gateway.line.drop();
    }
    expect(met.seqs()).toEqual(upTo(22));
    expect(met.gateway.frames("resume")).toHaveLength(22);
  });

  it("begins with what comes from now on, unless told a number", () => {
    const met = meet();
    met.gateway.turn(1);
    met.gateway.accept();
    met.gateway.turn(0);
    met.gateway.deliver();
    expect(met.seqs()).toEqual([4, 5]);
    expect(met.gateway.frames("resume")).toEqual([]);
  });

  it("offers the protocol and the key, in this order", () => {
    expect(meet().gateway.line.protocols).toEqual(["sluice.v1", "sluice.auth.sk-sluice-x"]);
  });

  it("takes a history in place of what is kept no more", () => {
    const met = meet({ after: 0 });
    met.gateway.turn(3);
    met.gateway.accept();
    met.gateway.line.say({ type: "history", seq: 4, messages: [] });
    met.gateway.line.cursor = 4;
    met.gateway.deliver();
    expect(met.seqs()).toEqual([4, 5]);
    // The same again is old.
    met.gateway.line.say({ type: "history", seq: 4, messages: [] });
    expect(met.seqs()).toEqual([4, 5]);
  });

  it("refuses a number that the conversation does not have", () => {
    const met = meet({ after: 9 });
    met.gateway.accept();
    expect(met.states.at(-1)).toMatchObject({ state: "closed", error: { type: "invalid_request_error" } });
  });
});

describe("sending", () => {
  it("says it again under the same id until it is confirmed, and the gateway hears it once", async () => {
    const met = meet();
    met.gateway.accept();
    met.gateway.deaf = true;
    const turn = met.socket.send("hello", { max_tokens: 5 });
    met.gateway.line.drop();
    met.gateway.deaf = false;
    comeBack(met);
    expect(met.gateway.frames("send")).toEqual(
      Array.from({ length: 2 }, () => ({ type: "send", id: "c1", content: "hello", options: { max_tokens: 5 } })),
    );
    // It arrived, and the line drops before that could be told.
    met.gateway.line.drop();
    comeBack(met);
    met.gateway.deliver();
    expect(met.gateway.frames("send")).toHaveLength(3);
    expect(met.gateway.log.filter(({ type }) => type === "turn.started")).toHaveLength(1);
    await expect(turn.done).resolves.toMatchObject({ type: "turn.completed", seq: 4 });
    met.gateway.line.drop();
    comeBack(met);
    expect(met.gateway.frames("send")).toHaveLength(3);
  });

  it("gives the turn's text piece by piece", async () => {
    const met = meet();
    met.gateway.accept();
    const text = met.socket.send("hello").text();
    met.gateway.deliver();
    const pieces: string[] = [];
    for await (const piece of text) pieces.push(piece);
    expect(pieces).toEqual(["0 ", "1 "]);
  });

  it("rejects what the gateway refuses, and goes on", async () => {
    const met = meet();
    met.gateway.accept();
    met.gateway.deaf = true;
    const turn = met.socket.send("hello");
    const frames = turn.frames();
    const error = { type: "rate_limit_error", message: "Too fast.", retry_after_seconds: 7 };
    met.gateway.line.say({ type: "error", ref: "c1", error });
    await expect(turn.done).rejects.toMatchObject({ type: "rate_limit_error", retryAfterSeconds: 7 });
    await expect(frames.next()).rejects.toMatchObject({ type: "rate_limit_error" });
    expect(met.socket.status.state).toBe("open");
  });

  it("resolves with what is known when the end lies before what it was told", async () => {
    const met = meet();
    met.gateway.turn(1, "mine");
    met.gateway.accept();
    const turn = met.socket.send("hello", {}, "mine");
    await expect(turn.done).resolves.toMatchObject({ type: "sent", state: "completed" });
  });

  it("resolves with what is known when the end lies among events that a history stands for", async () => {
    const met = meet();
    met.gateway.accept();
    const turn = met.socket.send("hello");
    met.gateway.deliver(2);
    met.gateway.line.drop();
    comeBack(met);
    met.gateway.line.say({ type: "history", seq: 4, messages: [] });
    await expect(turn.done).resolves.toMatchObject({ type: "sent", state: "failed", turn: turn.turn });
  });

  it("cancels again after a drop, until the turn has ended", () => {
    const met = meet();
    met.gateway.accept();
    met.socket.send("hello");
    met.gateway.deliver(1);
    met.gateway.line.drop();
    met.socket.cancel();
    expect(met.gateway.frames("cancel")).toEqual([]);
    comeBack(met);
    expect(met.gateway.frames("cancel")).toEqual([{ type: "cancel", turn: "turn_1" }]);
    met.gateway.deliver();
    met.gateway.line.drop();
    comeBack(met);
    expect(met.gateway.frames("cancel")).toHaveLength(1);
  });
});

describe("flow", () => {
  it("acknowledges what the slowest consumer has taken, and no more than five times a second", async () => {
    const met = meet({ window: 1_000 });
    met.gateway.accept();
    expect(met.gateway.frames("flow")).toEqual([{ type: "flow", window: 1_000 }]);
    const slow = met.socket.frames();
    met.gateway.turn(8);
    for (let n = 0; n < 10; n++) {
      met.gateway.deliver(1);
      met.clock.pass(10);
    }
    expect(met.gateway.frames("ack")).toEqual([]);
    for (let n = 0; n < 3; n++) await slow.next();
    met.clock.pass(0);
    expect(met.gateway.frames("ack")).toEqual([{ type: "ack", seq: 3 }]);
    for (let n = 0; n < 7; n++) {
      await slow.next();
      met.clock.pass(20);
    }
    met.clock.pass(200);
    expect(met.gateway.frames("ack").at(-1)).toEqual({ type: "ack", seq: 10 });
    expect(met.gateway.frames("ack").length).toBeLessThan(4);
  });

  it("is held back by nobody who has left", async () => {
    const met = meet();
    met.gateway.accept();
    const leaving = met.socket.frames();
    met.gateway.turn(3);
    met.gateway.deliver();
    await leaving.return?.();
    met.clock.pass(200);
    expect(met.gateway.frames("ack").at(-1)).toEqual({ type: "ack", seq: 5 });
  });

  it("is held back by a consumer that is not through with a turn which has ended", async () => {
    const met = meet();
    met.gateway.accept();
    const frames = met.socket.send("hello").frames();
    met.gateway.deliver();
    met.clock.pass(1_000);
    expect(met.gateway.frames("ack")).toEqual([]);
    const taken: number[] = [];
    for await (const { seq } of frames) taken.push(seq);
    met.clock.pass(1_000);
    expect(taken).toEqual([1, 2, 3, 4]);
    expect(met.gateway.frames("ack").at(-1)).toEqual({ type: "ack", seq: 4 });
  });
});

describe("the line", () => {
  it("is given up after two pings without an answer, and not before", () => {
    const met = meet();
    met.gateway.accept();
    met.clock.pass(60_000);
    expect(met.socket.status.state).toBe("open");
    met.gateway.pongs = false;
    met.clock.pass(44_999);
    expect(met.socket.status.state).toBe("open");
    met.clock.pass(1);
    expect(met.socket.status).toMatchObject({ state: "waiting", code: 1006 });
  });

  it("is not given up for pongs that are late", () => {
    const met = meet();
    met.gateway.accept();
    met.gateway.pongs = false;
    for (let n = 0; n < 10; n++) {
      met.clock.pass(29_000);
      met.gateway.line.say("pong");
    }
    expect(met.gateway.sockets).toHaveLength(1);
  });

  it("is given up when it does not open", () => {
    const met = meet();
    met.clock.pass(15_000);
    expect(met.socket.status).toMatchObject({ state: "waiting" });
  });

  it("is doubted when the network changes, and tried again when it is back", () => {
    const met = meet();
    met.gateway.accept();
    met.gateway.pongs = false;
    met.socket.networkChanged(false);
    met.clock.pass(3_000);
    expect(met.socket.status).toMatchObject({ state: "waiting" });
    met.socket.networkChanged(true);
    expect(met.socket.status.state).toBe("connecting");
    expect(met.gateway.sockets).toHaveLength(2);
  });

  it.each([
    [4400, "invalid_request_error"],
    [4401, "authentication_error"],
    [4403, "permission_error"],
    [4404, "not_found_error"],
    [4413, "request_too_large"],
  ])("stays closed after %i", async (code, type) => {
    const met = meet();
    met.gateway.accept();
    const frames = met.socket.frames();
    met.gateway.deaf = true;
    const turn = met.socket.send("hello");
    met.gateway.line.drop(code);
    met.clock.pass(3_600_000);
    expect(met.gateway.sockets).toHaveLength(1);
    expect(met.states.at(-1)).toMatchObject({ state: "closed", error: { type, status: code } });
    await expect(turn.done).rejects.toMatchObject({ type });
    await expect(frames.next()).rejects.toMatchObject({ type });
    await expect(met.socket.send("more").done).rejects.toMatchObject({ type });
    expect(met.clock.waiting).toBe(0);
  });

  describe("with a function that gives a key", () => {
    const shown = ({ gateway }: ReturnType<typeof meet>) =>
      gateway.sockets.map(({ protocols }) => protocols.at(-1)?.replace(AUTH_PROTOCOL_PREFIX, ""));

    /** At the next attempt it asks for a key, and is let in. */
    async function again(met: ReturnType<typeof meet>): Promise<void> {
      const { status } = met.socket;
      if (status.state === "waiting") met.clock.pass(status.retryAt - met.clock.now());
      await settled();
      met.gateway.accept();
    }

    it.each<[string, (nth: number) => string | Promise<string>]>([
      ["at once", (nth) => `token-${nth}`],
      ["later", async (nth) => `token-${nth}`],
    ])("shows a fresh one at each connect, given %s", async (_, give) => {
      let nth = 0;
      const met = meet({}, undefined, () => give(++nth));
      await settled();
      met.gateway.accept();
      const turn = met.socket.send("hello");
      met.gateway.line.drop();
      await again(met);
      met.gateway.deliver();
      await turn.done;
      expect(shown(met)).toEqual(["token-1", "token-2"]);
    });

    it("comes back with another when one has ended, and says again what was refused for it", async () => {
      let nth = 0;
      const met = meet({}, undefined, () => `token-${++nth}`);
      await settled();
      met.gateway.accept();
      met.gateway.deaf = true;
      const turn = met.socket.send("hello");
      const error = { type: "authentication_error", message: "no" };
      met.gateway.line.say({ type: "error", ref: turn.id, error });
      met.gateway.line.drop(4401);
      met.gateway.deaf = false;
      expect(met.socket.status.state).toBe("waiting");
      await again(met);
      met.gateway.deliver();
      await expect(turn.done).resolves.toMatchObject({ state: "completed" });
      expect(shown(met)).toEqual(["token-1", "token-2"]);
    });

    it("stays closed where a fresh one is refused, or is none", async () => {
      const refused = meet({}, undefined, () => "token");
      await settled();
      refused.gateway.line.drop(4401);
      expect(refused.socket.status).toMatchObject({ state: "closed", error: { type: "authentication_error" } });
      for (const none of ["", "no key", undefined as never]) {
        const met = meet({}, undefined, () => none);
        await settled();
        expect(met.socket.status).toMatchObject({ state: "closed", error: { type: "authentication_error" } });
        expect([met.gateway.sockets, met.clock.waiting]).toEqual([[], 0]);
      }
    });

    it.each<[string, () => string | Promise<string>]>([
      [
        "throws",
        () => {
          throw new Error("away");
        },
      ],
      ["rejects", () => Promise.reject(new Error("away"))],
      ["never answers", () => new Promise<string>(() => {})],
    ])("asks again, as after a drop, where it %s", async (_, fails) => {
      let works = false;
      const met = meet({}, undefined, () => (works ? "token" : fails()));
      await settled();
      met.clock.pass(15_000);
      await settled();
      expect(met.gateway.sockets).toEqual([]);
      works = true;
      await again(met);
      expect([met.socket.status.state, shown(met)]).toEqual(["open", ["token"]]);
    });

    it("opens nothing when it answers after the socket was closed", async () => {
      const { promise, resolve } = Promise.withResolvers<string>();
      const met = meet({}, undefined, () => promise);
      met.socket.close();
      resolve("token");
      await settled();
      expect([met.gateway.sockets, met.clock.waiting]).toEqual([[], 0]);
    });
  });

  it.each([1001, 1006, 1011, 1012, 4408])("comes back soon after %i", (code) => {
    const met = meet({}, () => 0.999);
    met.gateway.accept();
    met.gateway.line.drop(code);
    met.clock.pass(500);
    expect(met.gateway.sockets).toHaveLength(2);
  });

  it("waits in earnest after 4429", () => {
    const met = meet({}, () => 0);
    met.gateway.accept();
    met.gateway.line.drop(4429);
    met.clock.pass(9_999);
    expect(met.gateway.sockets).toHaveLength(1);
    met.clock.pass(1);
    expect(met.gateway.sockets).toHaveLength(2);
  });

  it("waits longer each time, until one has held", () => {
    const met = meet({}, () => 0.5);
    const waits: number[] = [];
    for (let n = 0; n < 4; n++) {
      comeBack(met);
      met.gateway.line.drop();
      const { status } = met.socket;
      if (status.state === "waiting") waits.push(status.retryAt - met.clock.now());
    }
    expect(waits).toEqual([250, 500, 1_000, 2_000]);
    comeBack(met);
    met.clock.pass(5_000);
    met.gateway.line.drop();
    expect(met.socket.status).toMatchObject({ retryAt: met.clock.now() + 250 });
  });

  it("is closed from here for good, with nothing left behind", async () => {
    const met = meet();
    met.gateway.accept();
    const turn = met.socket.send("hello");
    const frames = met.socket.frames();
    met.socket.close();
    await expect(turn.done).rejects.toMatchObject({ type: "connection_error" });
    await expect(frames.next()).resolves.toMatchObject({ done: true });
    await settled();
    expect(met.clock.waiting).toBe(0);
    expect(met.states.at(-1)).toEqual({ state: "closed", error: null });
  });

  it.each<[when: string, act: (met: ReturnType<typeof meet>) => void]>([
    ["before it opens", ({ socket }) => socket.close()],
    ["before it opens, and it opens all the same", ({ gateway, socket }) => [socket.close(), gateway.accept()]],
    ["before it is ready", ({ gateway, socket }) => [gateway.line.open(), socket.close()]],
    ["while it waits", ({ gateway, socket }) => [gateway.accept(), gateway.line.drop(), socket.close()]],
    [
      "while it doubts the line",
      ({ gateway, socket }) => [gateway.accept(), socket.networkChanged(false), socket.close()],
    ],
    ["twice", ({ gateway, socket }) => [gateway.accept(), socket.close(), socket.close()]],
  ])("can be closed %s, and nothing of it goes on", (_, act) => {
    const met = meet();
    act(met);
    const lines = met.gateway.sockets.length;
    met.clock.pass(600_000);
    met.socket.reconnectNow();
    met.socket.networkChanged(true);
    expect([met.socket.status.state, met.clock.waiting, met.gateway.sockets.length]).toEqual(["closed", 0, lines]);
  });

  it.each(["connecting", "open", "waiting"] as const)("can be closed by whoever is told that it is %s", (state) => {
    let told = 0;
    const met = meet({
      onStatus: (status) => {
        if (status.state === state && ++told === 2) met.socket.close();
      },
    });
    for (let n = 0; n < 2 && met.socket.status.state !== "closed"; n++) {
      met.gateway.accept();
      met.gateway.line.drop();
      if (met.socket.status.state === "waiting") met.socket.reconnectNow();
    }
    met.clock.pass(600_000);
    expect([met.socket.status.state, met.clock.waiting]).toEqual(["closed", 0]);
  });

  it("is doubted at once when the machine has slept", () => {
    const met = meet();
    met.gateway.accept();
    met.gateway.pongs = false;
    met.clock.sleep(600_000);
    met.clock.pass(3_000);
    expect(met.socket.status).toMatchObject({ state: "waiting" });
  });
});
