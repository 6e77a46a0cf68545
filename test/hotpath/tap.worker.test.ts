/** The tap inside the runtime: what opens a stream, what ends it, and pings of our own. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Timeouts } from "../../src/env.ts";
import { type OpenStream, openStream, type StreamOptions } from "../../src/hotpath/tap.ts";
import { asFields } from "../../src/wire/anthropic/usage.ts";
import { describeFailure, type Failure } from "../../src/wire/errors.ts";
import { parseJson } from "../../src/wire/json.ts";

declare global {
  interface ImportMeta {
    /** Vite's: the files of a pattern, by their paths. */
    glob<T>(pattern: string, options: object): Readonly<Record<string, T>>;
  }
}

const fixtures = import.meta.glob<string>("../fixtures/anthropic/*.sse", {
  query: "?raw",
  import: "default",
  eager: true,
});
const streams = Object.entries(fixtures).map(([path, text]) => [path.split("/").at(-1) ?? "", text] as const);
const encoder = new TextEncoder();
const decoder = new TextDecoder();
const KB = 1024;
const LONG = 60_000;
const LIMITS: Timeouts = { connectMs: LONG, firstByteMs: LONG, silenceMs: LONG, totalMs: LONG, streamTotalMs: LONG };
const PING = 'event: ping\ndata: {"type":"ping"}\n\n';
const sleep = (ms: number) => new Promise((done) => setTimeout(done, ms));

const event = (name: string, fields: object = {}): string =>
  `event: ${name}\ndata: ${JSON.stringify({ type: name, ...fields })}\n\n`;
const START = event("message_start", { message: { model: "m", usage: { input_tokens: 3, output_tokens: 1 } } });
const THINKING = event("content_block_start", { index: 0, content_block: { type: "thinking", thinking: "" } });
const delta = (text: string): string => event("content_block_delta", { index: 0, delta: { type: "text_delta", text } });
const END = event("message_delta", { delta: {}, usage: { output_tokens: 9 } }) + event("message_stop");
const errorEvent = (type: string, message: string) => event("error", { error: { type, message } });

type Upstream = {
  readonly body: ReadableStream<Uint8Array>;
  readonly abort: AbortController;
  send(bytes: string | Uint8Array): Promise<void>;
  end(): Promise<void>;
  breakOff(): Promise<void>;
};

/** An upstream's body, which gives the next piece when it is asked for it, and breaks when the call is aborted. */
function startUpstream(): Upstream {
  const abort = new AbortController();
  const waiting: { readonly bytes: Uint8Array | null; readonly sent: () => void }[] = [];
  let wake = (): void => {};
  let over = false;
  let controller: ReadableByteStreamController | undefined;
  const source: UnderlyingByteSource = {
    type: "bytes",
    start(own: ReadableByteStreamController) {
      controller = own;
    },
    async pull(own: ReadableByteStreamController) {
      if (waiting.length === 0) await new Promise<void>((done) => (wake = done));
      const next = over ? undefined : waiting.shift();
      if (!next) return;
      if (next.bytes) own.enqueue(next.bytes);
      else {
        over = true;
        own.close();
        own.byobRequest?.respond(0);
      }
      next.sent();
    },
  };
  const body = new ReadableStream(source);
  const give = (bytes: Uint8Array | null): Promise<void> =>
    new Promise((sent) => {
      if (over) return sent();
      waiting.push({ bytes, sent });
      wake();
    });
  const breakOff = async () => {
    if (over) return;
    over = true;
    controller?.error(new Error("broke off"));
    for (const { sent } of waiting) sent();
    wake();
  };
  abort.signal.addEventListener("abort", () => void breakOff());
  return {
    body,
    abort,
    send: (bytes) => give(typeof bytes === "string" ? encoder.encode(bytes) : bytes),
    end: () => give(null),
    breakOff,
  };
}

function open({ body, abort }: Upstream, options: Partial<StreamOptions> = {}) {
  let gone = false;
  return openStream(body, {
    abort,
    timeouts: LIMITS,
    requestId: "req_1",
    maxTokens: null,
    clientLeft: () => {
      gone = true;
      abort.abort();
      return false;
    },
    clientGone: () => gone,
    ...options,
  });
}

/** What the client gets, and how it ended for the books. */
async function read({ readable, ended }: OpenStream) {
  const bytes = new Uint8Array(await new Response(readable).arrayBuffer());
  return { bytes, text: decoder.decode(bytes), end: await ended };
}

async function opened(upstream: Upstream, options: Partial<StreamOptions> = {}): Promise<OpenStream> {
  const result = await open(upstream, options);
  if (!result.ok) throw new Error(`not opened: ${JSON.stringify(result.error)}`);
  return result.value;
}

/** Sends bytes cut into pieces and then ends, or breaks off. */
async function send(upstream: Upstream, bytes: Uint8Array, size: number, ending: "end" | "breakOff" = "end") {
  for (let at = 0; at < bytes.length; at += size) await upstream.send(bytes.slice(at, at + size));
  await upstream[ending]();
}

/** How a stream of these bytes opens: the failure, or null. */
async function decision(bytes: Uint8Array, size: number): Promise<Failure | null> {
  const upstream = startUpstream();
  void send(upstream, bytes, size);
  const result = await open(upstream);
  if (!result.ok) return result.error;
  await read(result.value);
  return null;
}

describe("the first event", () => {
  it.each([
    ["overloaded_error", 529],
    ["api_error", 500],
    ["rate_limit_error", 429],
    ["timeout_error", 504],
    ["invalid_request_error", 400],
    ["authentication_error", 401],
    ["billing_error", 402],
    ["permission_error", 403],
    ["not_found_error", 404],
    ["request_too_large", 413],
    ["new_kind_of_error", 500],
  ])("F-19 that is an error of the type %s is a failure with the status %i", async (type, status) => {
    const failure = await decision(encoder.encode(`: hello\n\nretry: 5\n\n${errorEvent(type, "Mind the gap")}`), 7);
    if (failure?.kind !== "upstream_error_event") throw new Error(`is ${JSON.stringify(failure)}`);
    expect(parseJson(failure.body)).toEqual({ type: "error", error: { type, message: "Mind the gap" } });
    expect(describeFailure(failure)).toMatchObject({ status, type, message: "Mind the gap" });
  });

  it.each([
    ["is no JSON", "event: error\ndata: {oops\n\n", "api_error"],
    ["has no data", "event: error\n\n", "api_error"],
    ["has another shape", 'event: error\ndata: {"type":"error"}\n\n', "api_error"],
    ["has a type and no words", 'event: error\ndata: {"error":{"type":"overloaded_error"}}\n\n', "overloaded_error"],
    ["has a type that is none", 'event: error\ndata: {"error":{"type":"A b","message":"x"}}\n\n', "api_error"],
    ["is longer than what is held", `event: error\ndata: "${"x".repeat(200 * KB)}"\n\n`, "api_error"],
    ["never ends", `event: error\ndata: {"error":"${"x".repeat(200 * KB)}`, "api_error"],
  ])("that is an error and %s gets a body of ours", async (_, text, type) => {
    for (const size of [61, 4096, 1_000_000]) {
      const failure = await decision(encoder.encode(text), size);
      if (failure?.kind !== "upstream_error_event") throw new Error(`is ${JSON.stringify(failure)}`);
      const body = asFields(parseJson(failure.body));
      expect(body).toMatchObject({ type: "error", error: { type, message: expect.any(String) }, request_id: "req_1" });
      expect(failure.type).toBe(type);
    }
  });

  it("is waited for until its blank line, and comments are none: F-11", async () => {
    const upstream = startUpstream();
    let isOpen = false;
    const opening = opened(upstream).then((stream) => {
      isOpen = true;
      return stream;
    });
    const before = `\n\n: comment\n\nid: 7\n\n${event("ping").slice(0, -1)}`;
    await upstream.send(before);
    await sleep(50);
    expect(isOpen).toBe(false);
    void upstream.send(`\n${START}${END}`).then(() => upstream.end());
    const { text, end } = await read(await opening);
    expect(text).toBe(`${before}\n${START}${END}`);
    expect(end.outcome).toBe("complete");
  });

  it.each(["", ": only this\n\n", START.slice(0, -1), "event: error\ndata: {"])(
    "that never is whole is a cut upstream: %j",
    async (text) => {
      for (const ending of ["end", "breakOff"] as const) {
        const upstream = startUpstream();
        void send(upstream, encoder.encode(text), 3, ending);
        expect(await open(upstream)).toEqual({ ok: false, error: { kind: "upstream_cut" } });
        expect(upstream.abort.signal.aborted).toBe(true);
      }
    },
  );

  it("decides the same, however the bytes are cut", async () => {
    const first = fc.constantFrom(
      START,
      errorEvent("overloaded_error", "Überlastet 😀"),
      errorEvent("api_error", "x").replaceAll("\n", "\r\n"),
      errorEvent("api_error", "x").replaceAll("\n", "\r"),
      `\ufeff${errorEvent("rate_limit_error", "x")}`,
      'data: {"type":"error","error":{"type":"api_error","message":"x"}}\n\n',
      "event: ping\n\n",
      "event: error\ndata: {\n\n",
      "data: \u0000{bad\n\n",
      event("error", { error: { type: "api_error", message: "y".repeat(64 * KB - 90) } }),
      event("error", { error: { type: "api_error", message: "y".repeat(64 * KB) } }),
    );
    const before = fc.constantFrom("", "\n", ": c\r\n\r\n", "retry: 3\n\nid: x\n\n");
    await fc.assert(
      fc.asyncProperty(
        before,
        first,
        fc.constantFrom("", START, END),
        fc.integer({ min: 1, max: 300 }),
        async (...parts) => {
          const size = parts.pop() as number;
          const bytes = encoder.encode(parts.join(""));
          const whole = await decision(bytes, bytes.length);
          expect(await decision(bytes, bytes.length > 10_000 ? size * 40 : size)).toEqual(whole);
        },
      ),
      { numRuns: 120 },
    );
  });
});

describe("a stream that is cut at any byte", () => {
  it.each(streams)(
    "F-14 F-15 %s: the bytes until there, at most one error event of ours, no throw",
    async (_, text) => {
      const bytes = encoder.encode(text);
      const run = fc.tuple(
        fc.nat(bytes.length),
        fc.constantFrom(1, 2, 3, 7, 64, 100_000),
        fc.constantFrom("end", "breakOff") as fc.Arbitrary<"end" | "breakOff">,
      );
      await fc.assert(
        fc.asyncProperty(run, async ([cut, size, ending]) => {
          const upstream = startUpstream();
          const part = bytes.slice(0, cut);
          const sending = send(upstream, part, cut > 400 ? Math.max(size, 7) : size, ending);
          const result = await open(upstream);
          if (!result.ok) return;
          const { bytes: got, end } = await read(result.value);
          await sending;
          // A break may overtake bytes that the gateway has not read; what it has read, everybody has.
          const own = decoder.decode(got).lastIndexOf("event: error\ndata: ");
          if (end.outcome !== "upstream_cut") {
            expect(decoder.decode(part).startsWith(decoder.decode(got))).toBe(true);
            expect(["complete", "error"]).toContain(end.outcome);
            return;
          }
          expect(own).toBeGreaterThanOrEqual(0);
          const whole = decoder.decode(got);
          const tail = whole.slice(own);
          expect(asFields(parseJson(tail.split("\n")[1]?.slice(6) ?? ""))).toMatchObject({
            type: "error",
            request_id: "req_1",
          });
          const relayed = got.slice(0, got.length - encoder.encode(tail).length);
          const closing = encoder.encode("\nevent: ping\n\n");
          const isPrefix = (piece: Uint8Array) => piece.every((byte, i) => byte === part[i]);
          const untorn = relayed.slice(0, Math.max(0, relayed.length - closing.length));
          expect(isPrefix(relayed) || isPrefix(untorn)).toBe(true);
          if (ending === "end") expect([part.length, part.length + closing.length]).toContain(relayed.length);
        }),
        { numRuns: 25 },
      );
    },
  );

  it.each([
    ["malformed JSON", "event: message_delta\ndata: {oops\n\n"],
    ["an unknown type", event("brand_new", { x: 1 })],
    ["data without a name", "data: 1\n\n"],
    ["comments", ": a\n\n:\n\n"],
    ["CR alone", event("ping").replaceAll("\n", "\r")],
    ["a late BOM", `\ufeff${event("ping")}`],
    ["retry and id", "retry: 9\nid: 4\n\n"],
    ["NUL", "event: x\ndata: \u0000\u0000\n\n\u0000\n"],
  ])("F-18 passes %s byte for byte", async (_, odd) => {
    const bytes = encoder.encode(`${odd}${START}${odd}${delta("x")}${odd}${END}`);
    for (const size of [1, 5, 10_000]) {
      const upstream = startUpstream();
      void send(upstream, bytes, size);
      const { bytes: got, end } = await read(await opened(upstream));
      expect(got).toEqual(bytes);
      expect(end).toMatchObject({ outcome: "complete", facts: { usage: { inputTokens: 3, outputTokens: 9 } } });
    }
  });
});

describe("limits of time", () => {
  const drip = async (upstream: Upstream, text: string, everyMs: number, times: number) => {
    for (let i = 0; i < times && !upstream.abort.signal.aborted; i++) {
      await sleep(everyMs);
      void upstream.send(text);
    }
    return upstream.abort.signal.aborted;
  };

  it.each([
    ["pings", START, event("ping")],
    ["comments", START, ": here\n\n"],
    ["pings after output", START + delta("x"), event("ping")],
    ["nameless pings", START + delta("x"), 'data: {"type":"ping"}\n\n'],
  ])("F-13 nothing but %s for ever ends in an error event", async (_, before, text) => {
    const upstream = startUpstream();
    void upstream.send(before).then(() => drip(upstream, text, 40, 100));
    const startedAt = Date.now();
    const { text: got, end } = await read(await opened(upstream, { timeouts: { ...LIMITS, totalMs: 500 } }));
    expect(Date.now() - startedAt).toBeGreaterThanOrEqual(480);
    expect(Date.now() - startedAt).toBeLessThan(2_500);
    expect(got.replaceAll(text, "").slice(before.length)).toMatch(
      /^event: error\ndata: .*timeout_error.*total limit of 500 ms/,
    );
    expect(end).toMatchObject({ outcome: "upstream_cut", errorType: "timeout_error" });
  });

  it("a stream that goes on telling something outlives the limit for pings", async () => {
    const upstream = startUpstream();
    void upstream
      .send(START)
      .then(() => drip(upstream, delta("x"), 100, 12))
      .then(() => upstream.send(END))
      .then(() => upstream.end());
    const { text, end } = await read(await opened(upstream, { timeouts: { ...LIMITS, totalMs: 500 } }));
    expect(end.outcome).toBe("complete");
    expect(text).not.toContain("event: error");
  });

  it("the whole stream has one too, whatever comes, and no event is torn by it", async () => {
    const upstream = startUpstream();
    const half = delta("x".repeat(50)).length / 2;
    const piece = encoder.encode(delta("x".repeat(50)));
    void upstream.send(START + delta("x")).then(async () => {
      for (let i = 0; i < 400 && !upstream.abort.signal.aborted; i++) {
        await upstream.send(piece.slice(0, half));
        await sleep(5);
        await upstream.send(piece.slice(half));
      }
    });
    const startedAt = Date.now();
    const { text, end } = await read(await opened(upstream, { timeouts: { ...LIMITS, streamTotalMs: 400 } }));
    expect(Date.now() - startedAt).toBeLessThan(2_000);
    expect(end).toMatchObject({ outcome: "upstream_cut", errorType: "timeout_error" });
    const events = text.split("\n\n").filter((part) => part !== "");
    expect(events.at(-1)).toMatch(/^event: error\ndata: .*total limit of 400 ms/);
    // Whole deltas, perhaps one torn and renamed.
    const torn = events.slice(2, -1).filter((part) => `${part}\n\n` !== delta("x".repeat(50)));
    expect(torn.every((part) => part.endsWith("\nevent: ping") || part === "event: ping")).toBe(true);
  });

  it("a stream that is whole ends as such, though its connection stays open", async () => {
    const upstream = startUpstream();
    void upstream.send(START + delta("x") + END);
    const { text, end } = await read(await opened(upstream, { timeouts: { ...LIMITS, silenceMs: 400 } }));
    expect(text).toBe(START + delta("x") + END);
    expect(end.outcome).toBe("complete");
  });
});

describe("pings of our own", () => {
  const KEEP = { keepAliveMs: 60 };

  it.each([
    ["a message stands open", START],
    ["a thinking block stands open", START + THINKING],
    ["upstream's own ping was the last", event("ping") + START + event("ping")],
  ])("bridge a silence while %s, and count for nothing", async (_, before) => {
    const upstream = startUpstream();
    void upstream.send(before);
    const { text, end } = await read(await opened(upstream, { ...KEEP, timeouts: { ...LIMITS, silenceMs: 400 } }));
    const pings = text.slice(before.length).split(PING).length - 1;
    // The silence still ends it: what we send hides nothing.
    expect(pings).toBeGreaterThanOrEqual(2);
    expect(pings).toBeLessThanOrEqual(7);
    expect(text.slice(before.length + pings * PING.length)).toMatch(/^event: error\ndata: .*silence limit of 400 ms/);
    expect(end).toMatchObject({ outcome: "upstream_cut", facts: { usage: { inputTokens: 3 } } });
  });

  it.each([
    ["inside an event", START + delta("x").slice(0, 40), KEEP],
    ["inside an event before any output", `${START}${THINKING.slice(0, -1)}`, KEEP],
    ["once the answer flows", START + delta("x"), KEEP],
    ["where the silence limit is shorter", START, { keepAliveMs: 400 }],
  ])("none %s", async (_, before, options) => {
    const upstream = startUpstream();
    void upstream.send(before);
    const { text } = await read(await opened(upstream, { ...options, timeouts: { ...LIMITS, silenceMs: 300 } }));
    expect(text.startsWith(before)).toBe(true);
    expect(text).not.toContain(PING);
  });

  it("do not pile up for a client that reads nothing, which gets every byte when it does", async () => {
    const upstream = startUpstream();
    void upstream.send(START);
    const stream = await opened(upstream, KEEP);
    await sleep(900);
    void upstream.send(THINKING + delta("x") + END).then(() => upstream.end());
    await sleep(100);
    const { text, end } = await read(stream);
    expect(text).toBe(START + THINKING + delta("x") + END);
    expect(end.outcome).toBe("complete");
  });

  it("end when the client leaves, and so does the upstream call", async () => {
    const upstream = startUpstream();
    void upstream.send(START);
    const stream = await opened(upstream, KEEP);
    const reader = stream.readable.getReader();
    await reader.read();
    await reader.cancel();
    expect((await stream.ended).outcome).toBe("client_gone");
    expect(upstream.abort.signal.aborted).toBe(true);
  });

  it("stop when the key is revoked", async () => {
    const upstream = startUpstream();
    void upstream.send(START);
    let asked = 0;
    const stream = await opened(upstream, { ...KEEP, mayGoOn: async () => ++asked < 3 });
    const { text, end } = await read(stream);
    expect(text).toContain(PING);
    expect(text).toMatch(/event: error\ndata: .*authentication_error/);
    expect(end).toMatchObject({ outcome: "upstream_cut", errorType: "authentication_error" });
  });

  it("never cost or double a byte, whenever the upstream speaks again (1,000 streams)", async () => {
    let pings = 0;
    const one = async (seed: number) => {
      let state = seed * 2_654_435_761 + 1;
      const random = (most: number) => {
        state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
        return Math.floor((state / 2 ** 32) * most);
      };
      const parts = [START, ...Array.from({ length: random(4) }, () => event("ping", { n: random(1_000) })), THINKING];
      for (let i = random(5); i >= 0; i--) parts.push(delta(`${random(1_000_000)}`.repeat(1 + random(200))));
      parts.push(END);
      const whole = parts.join("");
      const upstream = startUpstream();
      void (async () => {
        for (const part of parts) {
          const cut = random(2) === 0 ? random(part.length) : 0;
          if (cut > 0) await upstream.send(part.slice(0, cut));
          if (cut > 0 && random(2) === 0) await sleep(10 + random(30));
          await upstream.send(part.slice(cut));
          if (random(3) > 0) await sleep(10 + random(30));
        }
        await upstream.end();
      })();
      // Just when the next piece comes.
      const { text, end } = await read(await opened(upstream, { keepAliveMs: 20 }));
      pings += text.split(PING).length - 1;
      expect(end).toMatchObject({ outcome: "complete", facts: { usage: { outputTokens: 9 } } });
      expect(text.replaceAll(PING, "")).toBe(whole);
    };
    for (let from = 0; from < 1_000; from += 100) {
      await Promise.all(Array.from({ length: 100 }, (_, i) => one(from + i)));
    }
    expect(pings).toBeGreaterThan(100);
  }, 120_000);
});
