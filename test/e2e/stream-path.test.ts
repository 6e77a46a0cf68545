/** What the stream path promises beyond bytes: backpressure, memory, cancellation, silence, and the count at the end. */
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { type Gateway, type Key, startGateway, until, withKey } from "../support/gateway.ts";
import { pause, type ScriptedUpstream, startScriptedUpstream } from "../support/scripted-upstream.ts";

const MB = 1024 * 1024;
const SILENCE_MS = 1_000;
/** What the sockets on both sides and the pieces on their way may hold of a stream that nobody reads. */
const IN_FLIGHT_BYTES = 32 * MB;
/** The runtime's own ups and downs between two collections of garbage. */
const MEMORY_MB = 96;

let upstream: ScriptedUpstream;
let gateway: Gateway;
let key: Key;

beforeAll(async () => {
  upstream = await startScriptedUpstream();
  gateway = await startGateway(upstream.url, { bindings: { SILENCE_TIMEOUT_MS: String(SILENCE_MS) } });
  key = await gateway.makeKey();
});
afterAll(async () => {
  await gateway?.stop();
  await upstream?.stop();
});
beforeEach(() => {
  upstream.received.length = 0;
});

const BODY = JSON.stringify({
  model: "claude-opus-5-5",
  max_tokens: 100,
  stream: true,
  messages: [{ role: "user", content: "x" }],
});
const event = (name: string, fields: object = {}): string =>
  `event: ${name}\ndata: ${JSON.stringify({ type: name, ...fields })}\n\n`;
const START = event("message_start", {
  message: { model: "claude-opus-5-5", usage: { input_tokens: 10, output_tokens: 1 } },
});
const delta = (text: string): string => event("content_block_delta", { index: 0, delta: { type: "text_delta", text } });
const END =
  event("message_delta", { delta: { stop_reason: "end_turn" }, usage: { output_tokens: 77 } }) + event("message_stop");

const ask = (own = key): Promise<Response> =>
  fetch(`${gateway.url}/v1/messages`, { method: "POST", headers: withKey(own), body: BODY });

/** A bare socket that has sent the call; nothing is read from it until someone does. */
function open(own: Key): Socket {
  const socket = connect(gateway.port, "127.0.0.1");
  socket.on("error", () => {});
  socket.pause();
  socket.write(
    `POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: ${own.key}\r\ncontent-type: application/json\r\ncontent-length: ${BODY.length}\r\n\r\n${BODY}`,
  );
  return socket;
}

/** Resident memory, in MB, of the runtime that this process has started. */
function runtimeMb(): number {
  return readdirSync("/proc").reduce((total, pid) => {
    if (!/^\d+$/.test(pid)) return total;
    try {
      const status = readFileSync(`/proc/${pid}/status`, "latin1");
      if (!status.startsWith("Name:\tworkerd\n") || !status.includes(`\nPPid:\t${process.pid}\n`)) return total;
      return total + Number(/VmRSS:\s+(\d+)/.exec(status)?.[1] ?? 0) / 1024;
    } catch {
      // It ended between the listing and the look.
      return total;
    }
  }, 0);
}

/** Sends so many MB of events as fast as they are taken; tells how many bytes have been, and the runtime's peak. */
function flood(megabytes: number): { readonly sent: () => number; readonly peakMb: () => number } {
  const piece = Buffer.from(delta("x".repeat(1_000)).repeat(60));
  let sent = 0;
  let peak = 0;
  upstream.script = async (response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(START);
    const closed = once(response, "close");
    for (let i = 0; sent < megabytes * MB && !response.destroyed; i++) {
      sent += piece.length;
      if (i % 64 === 0) peak = Math.max(peak, runtimeMb());
      if (!response.write(piece)) await Promise.race([once(response, "drain"), closed]);
    }
    response.end(END);
  };
  return { sent: () => sent, peakMb: () => peak };
}

describe("a long stream", () => {
  it("read slowly stops the upstream and costs no memory", async () => {
    const { sent, peakMb } = flood(400);
    const before = runtimeMb();
    const socket = open(key);
    let last = -1;
    await until(async () => {
      const same = sent() > 0 && sent() === last;
      last = sent();
      await pause(500);
      return same || undefined;
    }, "the upstream to be stopped");
    expect(sent()).toBeLessThan(IN_FLIGHT_BYTES);
    expect(Math.max(peakMb(), runtimeMb()) - before).toBeLessThan(MEMORY_MB);
    socket.destroy();
    await until(() => upstream.received[0]?.goneAt, "the upstream to be told");
  });

  it("read fast costs no more memory than a short one, and its count is right", async () => {
    const own = await gateway.makeKey();
    flood(20);
    await (await ask(own)).arrayBuffer();
    const before = runtimeMb();
    const { peakMb } = flood(400);
    const { body } = await ask(own);
    for await (const _ of body ?? []);
    expect(peakMb() - before).toBeLessThan(MEMORY_MB);
    for (const row of await gateway.audit(own, 2)) {
      expect(row).toMatchObject({ outcome: "complete", estimated: false, input_tokens: 10, output_tokens: 77 });
    }
  });
});

it.each([0, 300, 900, 2_500])("counts exactly, however many looks a stream of %i ms takes", async (lasts) => {
  const own = await gateway.makeKey();
  upstream.script = async (response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(START);
    for (let at = 0; at < lasts; at += 100) {
      await pause(100);
      response.write(delta("text"));
    }
    response.end(END);
  };
  expect(await (await ask(own)).text()).toContain("message_stop");
  const [row] = await gateway.audit(own, 1);
  expect(row).toMatchObject({ outcome: "complete", estimated: false, input_tokens: 10, output_tokens: 77 });
});

it("tells the upstream within one event that the client has left", async () => {
  let written = 0;
  upstream.script = async (response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(START);
    for (; !response.destroyed; written++) {
      response.write(delta("text"));
      await pause(100);
    }
  };
  for (const events of [1, 5, 12]) {
    upstream.received.length = 0;
    written = 0;
    const socket = open(key);
    socket.resume();
    await until(() => written >= events || undefined, "events");
    const seen = written;
    socket.destroy();
    await until(() => upstream.received[0]?.goneAt, "the upstream to be told");
    // The one that was on its way, and the one whose write meets the closed connection.
    expect(written - seen).toBeLessThanOrEqual(2);
  }
});

it("gives no status before the first event has come", async () => {
  let begun = false;
  upstream.script = async (response) => {
    response.writeHead(200, { "content-type": "text/event-stream" }).flushHeaders();
    await pause(300);
    begun = true;
    response.end(START + END);
  };
  const response = await ask();
  expect(begun).toBe(true);
  expect(await response.text()).toBe(START + END);
  upstream.script = (answer) => {
    answer.writeHead(200, { "content-type": "text/event-stream" }).flushHeaders();
    answer.destroy();
  };
  expect((await ask()).status).toBe(502);
});

describe("the first event", () => {
  it("F-17 of 10 MB is passed on while it comes, and its size costs no memory", async () => {
    const piece = Buffer.alloc(64 * 1024, "a");
    const head = "event: content_block_delta\ndata: ";
    let sent = 0;
    let peakMb = 0;
    const before = runtimeMb();
    const opened = Promise.withResolvers<void>();
    upstream.script = async (response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write(head);
      for (; sent < 160; sent++) {
        if (sent === 4) await opened.promise;
        if (sent % 16 === 0) peakMb = Math.max(peakMb, runtimeMb());
        if (!response.write(piece)) await once(response, "drain");
      }
      response.end(`\n\n${START}${END}`);
    };
    const own = await gateway.makeKey();
    const response = await ask(own);
    expect(response.status).toBe(200);
    opened.resolve();
    const bytes = Buffer.from(await response.arrayBuffer());
    expect(
      bytes.equals(
        Buffer.concat([Buffer.from(head), Buffer.alloc(160 * piece.length, "a"), Buffer.from(`\n\n${START}${END}`)]),
      ),
    ).toBe(true);
    expect(peakMb - before).toBeLessThan(MEMORY_MB);
    const [row] = await gateway.audit(own, 1);
    expect(row).toMatchObject({ outcome: "complete", input_tokens: 10, output_tokens: 77 });
  });

  it("is handed over whole and at once, though nothing follows it", async () => {
    let go = (): void => {};
    upstream.script = async (response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write(START.slice(0, 30));
      await pause(50);
      response.write(START.slice(30));
      await new Promise<void>((done) => (go = done));
      response.end(END);
    };
    const reader = (await ask()).body?.getReader();
    let text = "";
    while (text.length < START.length) text += Buffer.from((await reader?.read())?.value ?? "").toString();
    expect(text).toBe(START);
    go();
    for (;;) {
      const { done, value } = (await reader?.read()) ?? { done: true, value: undefined };
      if (done) break;
      text += Buffer.from(value).toString();
    }
    expect(text).toBe(START + END);
  });

  it("F-19 that is an error is answered with its status", async () => {
    upstream.script = (response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.end(`: hello\n\n${event("error", { error: { type: "overloaded_error", message: "Overloaded" } })}`);
    };
    const response = await ask();
    expect(response.status).toBe(529);
    expect(await response.json()).toMatchObject({ error: { type: "overloaded_error", message: "Overloaded" } });
  });
});

it("F-13 pings for ever end in an error event", async () => {
  const own = await startGateway(upstream.url, { bindings: { TOTAL_TIMEOUT_MS: "1500" } });
  try {
    upstream.script = async (response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write(START + delta("x"));
      while (!response.destroyed) {
        await pause(100);
        response.write(event("ping"));
      }
    };
    const caller = await own.makeKey();
    const response = await fetch(`${own.url}/v1/messages`, { method: "POST", headers: withKey(caller), body: BODY });
    const text = await response.text();
    expect(text).toMatch(/event: error\ndata: .*timeout_error.*total limit of 1500 ms/);
    await until(() => upstream.received.at(-1)?.goneAt, "the call to be dropped");
    const [row] = await own.audit(caller, 1);
    expect(row).toMatchObject({ outcome: "upstream_cut", error_type: "timeout_error" });
  } finally {
    await own.stop();
  }
});

describe("silence", () => {
  it("is of upstream bytes: a stream that drips comments for three limits lives", async () => {
    upstream.script = async (response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write(START);
      for (let i = 0; i < 12; i++) {
        await pause(SILENCE_MS / 4);
        response.write(": still here\n\n");
      }
      response.end(END);
    };
    const text = await (await ask()).text();
    expect(text).not.toContain("event: error");
    expect(text).toContain("message_stop");
  });

  it.each([0, 3])(
    "is noticed after %i looks: an error, not before its time, and the call is dropped",
    async (drips) => {
      let lastAt = 0;
      upstream.script = async (response) => {
        response.writeHead(200, { "content-type": "text/event-stream" });
        response.write(START);
        for (let i = 0; i < drips; i++) {
          await pause(400);
          response.write(delta("text"));
        }
        lastAt = Date.now();
      };
      expect(await (await ask()).text()).toContain("event: error");
      expect(Date.now() - lastAt).toBeGreaterThanOrEqual(SILENCE_MS - 20);
      await until(() => upstream.received.at(-1)?.goneAt, "the call to be dropped");
    },
  );
});
