/** Conversations over WebSockets: frames and close codes, several viewers, hostile ones, frozen ones, keys that die. */
import { connect } from "node:net";
import fc from "fast-check";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import type { ClientFrame } from "../../clients/typescript/protocol.ts";
import { framesOf, type SseEvent, type Talk, talk } from "../support/conversations.ts";
import { ADMIN_TOKEN, type Gateway, startGateway, UPSTREAM_KEY, until } from "../support/gateway.ts";
import {
  eventsIn,
  type FrameOf,
  follow,
  Joined,
  offering,
  Refused,
  startLine,
  textIn,
  Viewer,
} from "../support/socket.ts";
import { COST, gate, holdBefore, startTellingClaude, type TellingClaude } from "../support/telling-claude.ts";

const CONSOLE = "https://console.example";
let claude: TellingClaude;
let gateway: Gateway;
let mine: Talk;

beforeAll(async () => {
  claude = await startTellingClaude();
  gateway = await startGateway(claude.url, {
    bindings: { ALLOWED_ORIGINS: `${CONSOLE}, http://127.0.0.1:9999`, LEDGER_DEADLINE_MS: "5000" },
  });
  mine = talk(gateway.url, await gateway.makeKey());
});
afterAll(async () => {
  await gateway?.stop();
  await claude?.stop();
});
const usual: TellingClaude["plan"] = ({ asked }) => ({ say: ["I heard ", asked, "."] });
beforeEach(() => {
  claude.plan = usual;
});

const path = (id: string): string => `/v1/conversations/${id}/socket`;
const conversation = async (who = mine): Promise<string> => (await who.create()).id;
const tokens = (count: number, bytes = 10): string[] =>
  Array.from({ length: count }, (_, n) => `${n}`.padStart(bytes - 1, ".").concat(" "));

describe("a socket", () => {
  it("is told the conversation, says something, and is told every event as upstream sent it, numbered", async () => {
    const id = await conversation();
    const viewer = await mine.socket(id);
    expect(viewer.protocol).toBe("sluice.v1");
    const ready = await viewer.next("ready");
    expect(ready).toEqual({ type: "ready", conversation: await mine.read(id), seq: 0 });
    claude.plan = () => ({ say: ["grüße ", "👋", ' "q" \\ \u2028'] });
    const end = await viewer.say("hello", "c1");
    expect(end).toMatchObject({
      type: "turn.completed",
      state: "completed",
      stop_reason: "end_turn",
      awaiting_tool_results: [],
      usage: { input_tokens: 30, output_tokens: 20 },
      cost_usd: COST / 1_000_000,
    });
    expect(viewer.frames[1]).toMatchObject({ type: "turn.started", seq: 1, id: "c1", content: "hello" });
    expect(eventsIn(viewer.frames)).toEqual(claude.of("hello")[0]?.events);
    expect((await viewer.say("again", "c2")).type).toBe("turn.completed");
    viewer.check();
    // The same over the other transport.
    expect(framesOf(await mine.log(id))).toEqual(viewer.frames.slice(1));
    expect(await viewer.close()).toMatchObject({ code: 1000 });
  });

  it("resumes after every number, again and again, on the same socket and on new ones", async () => {
    const id = await conversation();
    const first = await mine.socket(id);
    await first.say("one", "c1");
    await first.say("two", "c2");
    const log = first.frames.slice(1);
    const last = log.length;
    for (let after = 0; after <= last; after++) {
      const viewer = await mine.socket(id);
      expect((await viewer.next("ready")).seq).toBe(last);
      viewer.send({ type: "resume", after });
      if (after < last) await viewer.frame((frame) => "seq" in frame && frame.type !== "ready" && frame.seq === last);
      expect(viewer.frames.slice(1)).toEqual(log.slice(after));
      const from = viewer.frames.length;
      viewer.send({ type: "resume", after: Math.max(0, last - 3) });
      await viewer.frame((frame) => "seq" in frame && frame.type !== "ready" && frame.seq === last, from);
      expect(viewer.frames.slice(from)).toEqual(log.slice(Math.max(0, last - 3)));
      viewer.check();
      await viewer.close();
    }
    const viewer = await mine.socket(id);
    viewer.send({ type: "resume", after: last + 1 });
    expect((await viewer.next("error")).error.type).toBe("invalid_request_error");
    expect(viewer.isOpen).toBe(true);
    await viewer.close();
  });

  it("dedupes what it sends, says so, and cancels", async () => {
    const id = await conversation();
    const viewer = await mine.socket(id);
    claude.plan = ({ asked }) => (asked === "long" ? { say: tokens(1_000), paceMs: 10 } : { say: ["fine"] });
    await viewer.say("hello", "c1");
    viewer.send({ type: "send", id: "c1", content: "hello" });
    expect(await viewer.next("sent")).toMatchObject({ ref: "c1", state: "completed" });
    viewer.send({ type: "send", id: "c1", content: "other" });
    expect(await viewer.next("error")).toMatchObject({ ref: "c1" });
    viewer.send({ type: "cancel" });
    await viewer.next("error", 0, ({ ref }) => ref === null);
    viewer.send({ type: "send", id: "c2", content: "long" });
    await viewer.frame(
      (frame) => frame.type === "event" && frame.event.type === "content_block_delta",
      viewer.frames.length,
    );
    viewer.send({ type: "send", id: "c3", content: "queued" });
    expect(await viewer.next("turn.queued")).toMatchObject({ id: "c3" });
    viewer.send({ type: "cancel" });
    expect(await viewer.next("turn.failed")).toMatchObject({ state: "cancelled", error: { type: "cancelled" } });
    const queued = await viewer.next("turn.started", 0, (frame) => frame.id === "c3");
    expect((await viewer.ended({ turn: queued.turn })).type).toBe("turn.completed");
    viewer.check();
    await viewer.close();
    expect(claude.of("hello").length).toBeLessThanOrEqual(2);
    await until(() => claude.of("long")[0]?.state === "gone" || undefined, "upstream to be left");
  });

  it("answers the heartbeat, and every way to say goodbye", async () => {
    const id = await conversation();
    for (const code of [1000, 1001, 3000, 4999]) {
      const viewer = await mine.socket(id);
      await viewer.ping();
      await viewer.ping();
      expect((await viewer.close(code)).code).toBe(code);
      expect(viewer.texts).toEqual(["pong", "pong"]);
    }
    // A bare close without a code, as a browser says it.
    const viewer = await mine.socket(id);
    viewer.raw("ping");
    expect([1000, 1005]).toContain((await viewer.close(undefined)).code);
  });
});

describe("who may come in", () => {
  const knock = async (headers: Record<string, string>, protocols: string[] = []): Promise<number> => {
    const id = await conversation();
    try {
      const viewer = await Viewer.open(`${gateway.url}${path(id)}`, { headers, protocols });
      await viewer.next("ready").catch(() => {});
      const code = viewer.closedAs?.code ?? 101;
      viewer.break();
      return code;
    } catch (why) {
      if (why instanceof Refused) return why.status;
      throw why;
    }
  };

  it("decides by origin first: the gateway's own and the listed ones, exactly (W-01)", async () => {
    const good = offering(mine.key.key);
    const own = new URL(gateway.url).origin;
    for (const origin of [own, CONSOLE, "http://127.0.0.1:9999"])
      expect([origin, await knock({ origin }, good)]).toEqual([origin, 101]);
    for (const origin of [
      "https://evil.example",
      "null",
      `${CONSOLE}.evil`,
      `${CONSOLE}:444`,
      CONSOLE.replace("https", "http"),
      "http://127.0.0.1:9998",
      `http://localhost:${gateway.port}`,
      CONSOLE.toUpperCase(),
      `${CONSOLE}/`,
      "",
    ]) {
      // An empty header is none for some clients; it must at least not be worth more than none.
      const status = await knock({ origin }, good);
      expect([origin, status]).toEqual([origin, origin === "" ? expect.any(Number) : 403]);
    }
    expect(await knock({}, good)).toBe(101);
  });

  it("takes the credential from a header or a subprotocol, and never from a cookie (W-02, W-04)", async () => {
    const { key } = mine.key;
    expect(await knock({ authorization: `Bearer ${key}` })).toBe(101);
    expect(await knock({ "x-api-key": key })).toBe(101);
    expect(await knock({ authorization: `Bearer ${key}` }, ["sluice.v1"])).toBe(101);
    expect(await knock({ cookie: `key=${key}; authorization=Bearer ${key}` })).toBe(401);
    expect(await knock({ cookie: `key=${key}` }, ["sluice.v1"])).toBe(4401);
    expect(await knock({}, ["sluice.v1", `sluice.auth.${key}x`])).toBe(4401);
    const viewer = await mine.socket(await conversation(), { protocols: [`sluice.auth.${key}`, "sluice.v1"] });
    expect(viewer.protocol).toBe("sluice.v1");
    await viewer.close();
  });

  it("wants an upgrade", async () => {
    const id = await conversation();
    const reply = await mine.call("GET", path(id));
    expect(reply.status).toBe(426);
  });

  it("lets a hundred in, and the next one when somebody has gone (W-10)", async () => {
    const id = await conversation();
    const viewers = await Promise.all(Array.from({ length: 100 }, () => mine.socket(id)));
    await Promise.all(viewers.map((viewer) => viewer.next("ready")));
    const late = await mine.socket(id);
    expect((await late.closed).code).toBe(4429);
    const refused = await mine
      .socket(id, { protocols: [], headers: { authorization: `Bearer ${mine.key.key}` } })
      .catch((why) => why);
    expect(refused).toMatchObject({ status: 429 });
    await viewers[0]?.close();
    const next = await mine.socket(id);
    await next.next("ready");
    // They all hear the same.
    viewers[0] = next;
    viewers[1]?.send({ type: "send", id: "c1", content: "everybody" });
    const ends = await Promise.all(viewers.map((viewer) => viewer.ended()));
    expect(new Set(ends.map((end) => JSON.stringify(end))).size).toBe(1);
    for (const viewer of viewers) {
      viewer.check();
      expect(viewer.frames.slice(1)).toEqual(viewers[1]?.frames.slice(1));
      viewer.break();
    }
  });
});

describe("hostile frames", () => {
  it("are answered with an error each and lose nothing; five in a row are too many (W-05)", async () => {
    const id = await conversation();
    const [hostile, neighbour] = [await mine.socket(id), await mine.socket(id)];
    const bad: readonly (string | Buffer)[] = [
      "x",
      "[1]",
      "null",
      "{}",
      '{"type":"nothing"}',
      '{"type":"send"}',
      '{"type":"send","id":7,"content":"x"}',
      '{"type":"send","id":"c9","content":"x","extra":1}',
      '{"type":"resume"}',
      '{"type":"resume","after":-1}',
      '{"type":"resume","after":"1"}',
      '{"type":"ack","seq":1.5}',
      '{"type":"flow","window":-1}',
      '{"type":"__proto__"}',
      Buffer.from('{"type":"cancel"}'),
      "[".repeat(1_000_000),
      "PING",
    ];
    for (const [n, frame] of bad.entries()) {
      const from = hostile.frames.length;
      hostile.raw(frame);
      const { error } = await hostile.next("error", from);
      expect([String(frame).slice(0, 40), error.type]).toEqual([String(frame).slice(0, 40), "invalid_request_error"]);
      // A good one between them: never five in a row.
      if (n % 4 === 3) {
        hostile.send({ type: "resume", after: 0 });
        await hostile.ping();
      }
    }
    expect(hostile.frames.filter(({ type }) => type === "error").length).toBe(bad.length);
    const ref = (await hostile.next("error", 0, (frame) => frame.ref === "c9")).ref;
    expect(ref).toBe("c9");
    expect((await hostile.say("still there", "c1")).type).toBe("turn.completed");
    hostile.check();
    for (let n = 0; n < 5; n++) hostile.raw("bad");
    expect((await hostile.closed).code).toBe(4400);
    await neighbour.ended();
    neighbour.check();
    expect(neighbour.isOpen).toBe(true);
    expect((await neighbour.say("me too", "c2")).type).toBe("turn.completed");
    await neighbour.close();
  });

  it("whatever they are: nothing but errors and closing comes of it, and the conversation is as it was (W-05)", async () => {
    const id = await conversation();
    const neighbour = await mine.socket(id);
    const piece = fc.oneof(
      fc.string({ unit: "binary", maxLength: 50 }),
      fc.json({ maxDepth: 3 }),
      fc
        .record({
          type: fc.constantFrom("resume", "flow", "ack", "nothing", "send"),
          after: fc.oneof(fc.integer(), fc.double(), fc.string()),
          window: fc.oneof(fc.integer({ max: -1 }), fc.string(), fc.constant(1e308)),
          seq: fc.oneof(fc.integer({ min: 1 }), fc.string()),
          // Never words that could be said.
          content: fc.oneof(fc.integer(), fc.constant(null), fc.array(fc.integer(), { minLength: 1 })),
        })
        .map((frame) => JSON.stringify(frame)),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(piece, { minLength: 1, maxLength: 12 }), async (pieces) => {
        const hostile = await mine.socket(id);
        for (const text of pieces) if (hostile.isOpen) hostile.raw(text);
        if (hostile.isOpen) await Promise.race([hostile.ping().catch(() => {}), hostile.closed]);
        for (const frame of hostile.frames) expect(["ready", "error"]).toContain(frame.type);
        expect([undefined, 4400]).toContain(hostile.closedAs?.code);
        hostile.break();
      }),
      { numRuns: 40 },
    );
    expect(await mine.read(id)).toMatchObject({ turns: 0, seq: 0, state: "idle" });
    expect((await neighbour.say("fine", "c1")).type).toBe("turn.completed");
    await neighbour.close();
  });

  it("too large, of broken text, or too many at once close that socket alone (W-05)", async () => {
    const id = await conversation();
    const neighbour = await mine.socket(id);
    const large = await mine.socket(id);
    large.raw(`{"type":"send","id":"c1","content":"${"x".repeat(8 * 1024 * 1024)}"}`);
    expect((await large.closed).code).toBe(4413);
    const broken = await mine.socket(id);
    broken.rawText(Buffer.from([0x7b, 0xff, 0xfe, 0x7d]));
    await Promise.race([broken.closed, broken.next("error").catch(() => {})]);
    broken.break();
    const flood = await mine.socket(id);
    for (let n = 0; n < 1_000 && flood.isOpen; n++) flood.send({ type: "ack", seq: 0 });
    expect((await flood.closed).code).toBe(4429);
    const resuming = await mine.socket(id);
    for (let n = 0; n < 40 && resuming.isOpen; n++) resuming.send({ type: "resume", after: 0 });
    expect((await resuming.closed).code).toBe(4429);
    expect((await neighbour.say("fine", "c2")).type).toBe("turn.completed");
    neighbour.check();
    await neighbour.close();
  });

  it("that are no WebSocket at all end the connection, and nothing else", async () => {
    const id = await conversation();
    const request = `GET ${path(id)} HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: ${offering(mine.key.key).join(", ")}\r\n\r\n`;
    for (const after of [
      Buffer.from("GET / HTTP/1.1\r\n\r\n"),
      Buffer.from([0xff, 0xff, 0xff, 0xff]),
      Buffer.from([0x81, 0x05, 1, 2, 3, 4, 5]),
    ]) {
      await new Promise<void>((done) => {
        const socket = connect(gateway.port, "127.0.0.1", () => socket.write(request));
        socket.once("data", () => socket.write(after));
        socket.on("error", () => {});
        socket.on("close", () => done());
        setTimeout(() => socket.destroy(), 500);
      });
    }
    const viewer = await mine.socket(id);
    expect((await viewer.say("fine", "c1")).type).toBe("turn.completed");
    await viewer.close();
  });
});

describe("slow viewers", () => {
  /** 6 MB of events: more than what the kernel keeps for a socket that is not read. */
  const LONG = { say: tokens(600, 10_000) };

  it("that are frozen hold nobody up, and have everything when they wake", async () => {
    const id = await conversation();
    const [frozen, live] = [await mine.socket(id), await mine.socket(id)];
    await frozen.next("ready");
    frozen.freeze();
    claude.plan = () => LONG;
    // Any frame says that it is still there.
    const beats = setInterval(() => {
      for (const viewer of [frozen, live]) if (viewer.isOpen) viewer.send({ type: "ack", seq: 0 });
    }, 300);
    const end = await live.say("much", "c1");
    expect(end.type).toBe("turn.completed");
    expect(eventsIn(live.frames)).toEqual(claude.of("much").at(-1)?.events);
    frozen.thaw();
    await frozen.ended();
    clearInterval(beats);
    frozen.check();
    live.check();
    expect(frozen.frames.filter(({ type }) => type !== "error").slice(1)).toEqual(live.frames.slice(1));
    await Promise.all([frozen.close(), live.close()]);
  });

  it("with a window get no more than it beyond their last ack, and go on with each (flow, ack)", async () => {
    const id = await conversation();
    const WINDOW = 20_000;
    const [careful, live] = [await mine.socket(id), await mine.socket(id)];
    careful.send({ type: "flow", window: WINDOW });
    await careful.ping();
    claude.plan = () => ({ say: tokens(100, 1_000) });
    await live.say("windowed", "c1");
    await careful.ping();
    const head = live.frames.length - 1;
    const held = (): number => careful.frames.length - 1;
    expect(held()).toBeLessThan(head / 2);
    let acked = careful.bytes;
    let rounds = 0;
    while (careful.last < head) {
      const before = careful.last;
      expect(careful.bytes - acked).toBeLessThanOrEqual(WINDOW + 5_000);
      acked = careful.bytes;
      careful.send({ type: "ack", seq: before });
      await careful.frame(
        (frame) => "seq" in frame && frame.type !== "ready" && frame.seq > before,
        0,
        `more than ${before}`,
      );
      await careful.ping();
      if (++rounds > 50) throw new Error("no end of it");
    }
    expect(rounds).toBeGreaterThan(3);
    careful.check();
    expect(careful.frames.slice(1)).toEqual(live.frames.slice(1));
    await Promise.all([careful.close(), live.close()]);
  });

  it("get an event that is larger than their window, one at a time", async () => {
    const id = await conversation();
    const viewer = await mine.socket(id);
    viewer.send({ type: "flow", window: 1 });
    await viewer.ping();
    claude.plan = () => ({ say: ["x".repeat(300_000), "y"] });
    viewer.send({ type: "send", id: "c1", content: "big" });
    for (let n = 1; ; n++) {
      const frame = await viewer.frame((one) => "seq" in one && one.type !== "ready" && one.seq === n);
      if (frame.type === "turn.completed") break;
      viewer.send({ type: "ack", seq: n });
    }
    viewer.check();
    await viewer.close();
  });
});

describe("several viewers and broken lines", () => {
  it("hear the same while one sends, one reads SSE, and one breaks at every few bytes and resumes (W-07)", async () => {
    const id = await conversation();
    const line = await startLine(gateway.port);
    const steady = await mine.socket(id);
    claude.plan = () => ({ say: tokens(150, 40), paceMs: 4 });
    let cut = 3;
    // From the status line over the handshake into frames, at every offset that comes.
    line.breakAfter = () => (cut += 191);
    steady.send({ type: "send", id: "c1", content: "told" });
    const end = steady.ended();
    const { joined, connections } = await follow(
      () => mine.socket(id, {}, line.url),
      ({ type }) => type === "turn.completed",
    );
    await end;
    steady.check();
    expect(connections).toBeGreaterThan(5);
    expect(joined.frames).toEqual(steady.frames.slice(1));
    expect(eventsIn(joined.frames)).toEqual(claude.of("told").at(-1)?.events);
    await steady.close();
    await line.stop();
  });

  it("SSE that breaks at any byte goes on with Last-Event-ID, without a gap or a repeat", async () => {
    const id = await conversation();
    const line = await startLine(gateway.port);
    const far = talk(line.url, mine.key);
    claude.plan = () => ({ say: tokens(100, 40), paceMs: 3 });
    let cut = 500;
    line.breakAfter = () => (cut += 377);
    const joined = new Joined();
    const heard: SseEvent[] = [];
    const first = await mine.stream(id, "over sse");
    for (let over = false; !over; ) {
      const stream = await far.events(id, "", { "last-event-id": String(joined.last) }).catch(() => null);
      if (!stream) continue;
      const { whole } = await stream.ended;
      for (const frame of framesOf(stream.events)) joined.add(frame);
      heard.push(...stream.events);
      over = whole && joined.frames.at(-1)?.type === "turn.completed";
    }
    await first.ended;
    expect(heard).toEqual(first.events);
    await line.stop();
  });

  it("two that send at once are heard one after the other (W-09)", async () => {
    const id = await conversation();
    const viewers = await Promise.all(Array.from({ length: 6 }, () => mine.socket(id)));
    for (const [n, viewer] of viewers.entries()) viewer.send({ type: "send", id: `c${n}`, content: `words ${n}` });
    const starts = await Promise.all(
      viewers.map((viewer, n) => viewer.next("turn.started", 0, (frame) => frame.id === `c${n}`)),
    );
    for (const viewer of viewers) {
      for (const { turn } of starts) await viewer.ended({ turn });
      viewer.check();
      expect(viewer.frames.slice(1)).toEqual(viewers[0]?.frames.slice(1));
    }
    for (const [n, { turn }] of starts.entries()) {
      expect(textIn(viewers[0]?.frames ?? [], turn)).toBe(`I heard words ${n}.`);
    }
    for (const viewer of viewers) await viewer.close();
  });
});

describe("keys that die while they are connected", () => {
  it("are told at their next frame, and at once while a turn runs (W-06)", async () => {
    const [key, idleKey] = [await gateway.makeKey(), await gateway.makeKey()];
    const id = await conversation();
    const [dying, quiet, steady] = [
      await talk(gateway.url, key).socket(id),
      await talk(gateway.url, idleKey).socket(id),
      await mine.socket(id),
    ];
    // As clients do: whoever has never said anything is closed by the runtime only when its own patience ends.
    await dying.ping();
    const held = gate();
    claude.plan = () => ({ say: tokens(5), before: (nth) => (nth === 4 ? held.passed : undefined) });
    const ended = steady.say("long", "c1");
    await dying.frame((frame) => frame.type === "event");
    expect((await gateway.admin(`keys/${key.id}`, { method: "DELETE" })).status).toBeLessThan(300);
    expect((await dying.closed).code).toBe(4401);
    expect(dying.frames.findLast(({ type }) => type === "error")).toMatchObject({
      error: { type: "authentication_error" },
    });
    held.open();
    expect((await ended).type).toBe("turn.completed");
    await gateway.admin(`keys/${idleKey.id}`, { method: "DELETE" });
    await until(
      async () =>
        (await fetch(`${gateway.url}/v1/key`, { headers: { "x-api-key": idleKey.key } })).status === 401 || undefined,
      "the key to be gone",
    );
    quiet.send({ type: "send", id: "c2", content: "may I" } as ClientFrame);
    expect((await quiet.closed).code).toBe(4401);
    expect(claude.of("may I")).toHaveLength(0);
    steady.check();
    await steady.close();
  });

  it("whose money is spent are told so, with what they sent, and closed (W-06)", async () => {
    const key = await gateway.makeKey({ budget: { usd: (2 * COST) / 1_000_000, period: "total", mode: "soft" } });
    const id = await conversation();
    const [poor, other] = [await talk(gateway.url, key).socket(id), await mine.socket(id)];
    for (let n = 0; ; n++) {
      poor.send({ type: "send", id: `c${n}`, content: `n${n}` });
      const answer = await poor.frame(
        (frame) =>
          (frame.type === "turn.started" && frame.id === `c${n}`) || (frame.type === "error" && frame.ref === `c${n}`),
      );
      if (answer.type === "error") {
        expect(answer.error.type).toBe("billing_error");
        break;
      }
      await poor.ended({ turn: "turn" in answer ? String(answer.turn) : "" });
      expect(n).toBeLessThan(5);
    }
    expect((await poor.closed).code).toBe(4429);
    expect((await other.say("I can", "mine")).type).toBe("turn.completed");
    await other.close();
  });

  it("whose rate is used up are told so, and nothing is closed", async () => {
    const key = await gateway.makeKey({ limits: { requests_per_minute: 3 } });
    const viewer = await talk(gateway.url, key).socket(await conversation());
    // One after the other: what waits for its turn is refused when that comes, and its turn says so.
    let refused: FrameOf<"error"> | undefined;
    for (let n = 0; n < 6 && !refused; n++) {
      viewer.send({ type: "send", id: `c${n}`, content: `n${n}` });
      const answer = await viewer.frame(
        (frame) => (frame.type === "turn.started" && frame.id === `c${n}`) || frame.type === "error",
      );
      if (answer.type === "error") refused = answer;
      else await viewer.ended({ turn: "turn" in answer ? String(answer.turn) : "" });
    }
    expect(refused?.error.type).toBe("rate_limit_error");
    expect(refused?.error.retry_after_seconds).toBeGreaterThan(0);
    expect(viewer.isOpen).toBe(true);
    await viewer.ping();
    viewer.check();
    await viewer.close();
  });
});

describe("a turn that is held", () => {
  it("is seen by a viewer who comes in its middle: live from there, and all of it when it resumes", async () => {
    const id = await conversation();
    const middle = holdBefore(4);
    claude.plan = () => ({ say: tokens(6), before: middle.before });
    const first = await mine.socket(id);
    first.send({ type: "send", id: "c1", content: "held" });
    await first.frame((frame) => frame.type === "event" && frame.seq === 5);
    const [late, resumed] = [await mine.socket(id), await mine.socket(id)];
    expect((await late.next("ready")).conversation.state).toBe("processing");
    resumed.send({ type: "resume", after: 0 });
    await resumed.frame((frame) => frame.type === "event" && frame.seq === 5);
    middle.open();
    await Promise.all([first, late, resumed].map((viewer) => viewer.ended()));
    for (const viewer of [first, late, resumed]) viewer.check();
    expect(late.frames.slice(1)).toEqual(first.frames.slice(6));
    expect(resumed.frames.slice(1)).toEqual(first.frames.slice(1));
    for (const viewer of [first, late, resumed]) await viewer.close();
  });
});

it("I1 nothing that was said and no credential is in the log, the audit or the metrics (L-01, L-05, W-04)", async () => {
  const [words, guess] = ["CANARY-of-what-was-said", "sluice-CANARY-of-a-credential"];
  const id = await conversation();
  const viewer = await mine.socket(id);
  await viewer.say(words, "c1");
  viewer.raw(`{"type":"${words}"}`);
  await viewer.next("error");
  await viewer.close();
  const refused = await Viewer.open(`${gateway.url}${path(id)}`, { protocols: offering(guess) });
  expect((await refused.closed).code).toBe(4401);
  expect(JSON.stringify([refused.protocol, refused.frames, refused.closedAs])).not.toContain(guess);
  const rows = await gateway.audit(mine.key, 3);
  const metrics = await fetch(`${gateway.url}/metrics`, { headers: { authorization: `Bearer ${ADMIN_TOKEN}` } });
  const told = [gateway.log(), JSON.stringify(rows), await metrics.text()];
  expect(told[0]).toContain("/v1/conversations/:id/socket");
  for (const canary of [words, guess, mine.key.key, UPSTREAM_KEY]) {
    expect(told.map((text) => text.includes(canary))).toEqual([false, false, false]);
  }
});

it("I2 of 50 that say the same at once one is heard, and each call has one row (D-11, B-09)", async () => {
  const speaker = await gateway.makeKey({ budget: { usd: 1, period: "total", mode: "strict" } });
  const who = talk(gateway.url, speaker);
  const id = await conversation(who);
  const replies = await Promise.all(Array.from({ length: 50 }, () => who.send(id, { content: "at once", id: "c1" })));
  expect(new Set(replies.map(({ status, json }) => `${status} ${json.id}`)).size).toBe(1);
  expect(claude.of("at once")).toHaveLength(1);
  expect((await gateway.settled(speaker)).budget?.spent_micro_usd).toBe(COST);
  const rows = await gateway.audit(speaker, 52);
  expect(Map.groupBy(rows, ({ route }) => route).get("/v1/conversations/:id/turn")).toHaveLength(1);
  expect(new Set(rows.map(({ request_id }) => request_id)).size).toBe(rows.length);
});
