/** The tests' own viewer sees what is wrong, and the line breaks where it is told to. */
import { once } from "node:events";
import { createServer } from "node:http";
import { type AddressInfo, connect, createServer as createTcp } from "node:net";
import { afterEach, describe, expect, it } from "vitest";
import { WebSocketServer } from "ws";
import type { ServerFrame } from "../../clients/typescript/protocol.ts";
import { follow, Joined, startLine, Viewer } from "./socket.ts";

const stops: (() => void)[] = [];
afterEach(() => {
  for (const stop of stops.splice(0)) stop();
});

/** A server that says these frames to each client, and after its first frame the others. */
async function saying(first: readonly object[], then: readonly object[] = []): Promise<string> {
  const http = createServer();
  const server = new WebSocketServer({ server: http, handleProtocols: () => "sluice.v1" });
  server.on("connection", (socket) => {
    for (const frame of first) socket.send(JSON.stringify(frame));
    socket.once("message", () => {
      for (const frame of then) socket.send(JSON.stringify(frame));
    });
  });
  http.listen(0, "127.0.0.1");
  await once(http, "listening");
  stops.push(() => {
    for (const socket of server.clients) socket.terminate();
    http.close();
  });
  return `http://127.0.0.1:${(http.address() as AddressInfo).port}`;
}

const ready = (seq: number): object => ({ type: "ready", conversation: {}, seq });
const event = (seq: number): ServerFrame => ({ type: "event", seq, turn: "turn_1", event: { type: "ping" } });

async function heard(first: readonly object[], then: readonly object[] = [], after?: number): Promise<() => void> {
  const viewer = await Viewer.open(await saying(first, then), { protocols: ["sluice.v1"] });
  if (after !== undefined) viewer.send({ type: "resume", after });
  await viewer.frame(() => viewer.frames.length === first.length + then.length);
  viewer.break();
  return () => viewer.check();
}

describe("a viewer", () => {
  it("is content with numbers that follow one another, also over a resume", async () => {
    expect(await heard([ready(4), event(5), event(6)])).not.toThrow();
    expect(await heard([ready(4), event(5)], [event(3), event(4), event(5), event(6)], 2)).not.toThrow();
    expect(await heard([ready(4)], [{ type: "history", seq: 3, messages: [] }, event(4), event(5)], 0)).not.toThrow();
  });

  it("complains of a gap, a repeat, and what nobody asked for", async () => {
    expect(await heard([ready(4), event(6)])).toThrow("event 6 came where 5 was due");
    expect(await heard([ready(4), event(5), event(5)])).toThrow("event 5 came where 6 was due");
    expect(await heard([ready(4)], [event(3), event(4), event(3)], 2)).toThrow("event 3 came where 5 was due");
    expect(await heard([ready(4), { type: "history", seq: 4, messages: [] }])).toThrow("nobody asked");
    expect(await heard([event(1), ready(1)])).toThrow("before ready");
  });

  it("joins what one is told, and nothing else", () => {
    const joined = new Joined();
    joined.add(event(1));
    expect(() => joined.add(event(1))).toThrow();
    expect(() => joined.add(event(3))).toThrow();
    joined.add({ type: "history", seq: 8, messages: [] });
    joined.add(event(9));
    expect([joined.last, joined.frames.length, joined.skippedTo]).toEqual([9, 2, [8]]);
  });

  it("follows over a resume that live events overtake", async () => {
    const url = await saying([ready(2), event(3)], [event(1), event(2), event(3), event(4)]);
    const open = (): Promise<Viewer> => Viewer.open(url, { protocols: ["sluice.v1"] });
    const { joined, connections } = await follow(open, (frame) => "seq" in frame && frame.seq === 4);
    expect([connections, joined.frames.map(({ seq }) => seq)]).toEqual([1, [1, 2, 3, 4]]);
    const taken = follow(open, () => false, new Joined(9));
    await expect(taken).rejects.toThrow("9 was told, and now 2 is the newest");
  });
});

describe("a line", () => {
  it("lets through exactly as many bytes as it is told, and then breaks", async () => {
    const server = createTcp((socket) => {
      socket.on("error", () => {});
      socket.write("x".repeat(1_000));
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const line = await startLine((server.address() as AddressInfo).port);
    for (const bytes of [1, 2, 500, 999]) {
      line.breakAfter = () => bytes;
      const client = connect(Number(new URL(line.url).port), "127.0.0.1");
      let came = 0;
      client.on("data", (piece) => {
        came += piece.length;
      });
      client.on("error", () => {});
      await new Promise((done) => client.on("close", done));
      expect(came).toBe(bytes);
    }
    await line.stop();
    server.close();
  });
});
