/** The pump inside the runtime: pace, endings, and who is told of them. */
import { describe, expect, it, vi } from "vitest";
import { type BeforeEnd, MAX_STREAM_BYTES, toldStream } from "../../src/openai/pump.ts";
import type { StreamEvent } from "../../src/wire/anthropic/events.ts";
import type { StreamMapper, WholeMessage } from "../../src/wire/openai/stream-mapper.ts";

const encoder = new TextEncoder();
const event = (name: string, fields: object = {}): string =>
  `event: ${name}\ndata: ${JSON.stringify({ type: name, ...fields })}\n\n`;
const delta = (text: string) => event("content_block_delta", { index: 0, delta: { type: "text_delta", text } });
const START = event("message_start", { message: {} });
const END = event("message_delta", { delta: {} }) + event("message_stop");

const MESSAGE = { id: "msg_1", model: "m", content: [] } as unknown as WholeMessage;

/** Says the name of each event, a text for its own, and `cut` where the end comes too early. */
function echo(): StreamMapper & { pushed: StreamEvent[] } {
  let message: WholeMessage | null = null;
  let over = false;
  let failed = false;
  return {
    pushed: [],
    get message() {
      return message;
    },
    get failed() {
      return failed;
    },
    push(one) {
      this.pushed.push(one);
      if (one.type === "message_delta") message = MESSAGE;
      if (one.type === "message_stop") over = true;
      if (one.type === "error") failed = true;
      if (one.type !== "content_block_delta") return one.type === "message_delta" ? "" : `<${one.type}>`;
      return Promise.resolve(String((one.delta as { text: string }).text));
    },
    end: () => (over ? "" : "<cut>"),
  };
}

/** A native stream that gives a piece when it is asked for one, and tells what happened to it. */
function nativeOf(pieces: readonly string[], how: "ends" | "breaks" | "goes on" = "ends") {
  const seen = { pulls: 0, cancelled: false };
  const source: UnderlyingByteSource = {
    type: "bytes",
    async pull(controller: ReadableByteStreamController) {
      const piece = pieces[seen.pulls++];
      if (piece !== undefined) return controller.enqueue(encoder.encode(piece));
      if (how === "breaks") return controller.error(new Error("broke"));
      if (how === "goes on") return new Promise(() => {});
      controller.close();
      controller.byobRequest?.respond(0);
    },
    cancel() {
      seen.cancelled = true;
    },
  };
  const stream = new ReadableStream(source, { highWaterMark: 0 });
  return { stream, seen };
}

const nothingKept: BeforeEnd = () => null;
const textOf = (stream: ReadableStream<Uint8Array>) => new Response(stream).text();

async function pieceOf(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<string | null> {
  const { done, value } = await reader.read();
  return done ? null : new TextDecoder().decode(value);
}

describe("a told stream", () => {
  it("F-17: follows no stream beyond its limit, and says that it was cut", async () => {
    const comment = `: ${"x".repeat(MAX_STREAM_BYTES / 16 - 3)}\n`;
    const within = nativeOf([...Array.from({ length: 15 }, () => comment), START, END]);
    expect(await textOf(toldStream(within.stream, echo(), nothingKept))).toBe("<message_start><message_stop>");
    const beyond = nativeOf([...Array.from({ length: 16 }, () => comment), START, END]);
    expect(await textOf(toldStream(beyond.stream, echo(), nothingKept))).toBe("<cut>");
    expect(beyond.seen.cancelled).toBe(true);
  });

  it("says what has come of each piece in one go, and nothing for a piece without a whole event", async () => {
    const { stream } = nativeOf([START + delta("a").slice(0, 20), delta("a").slice(20), delta("b") + delta("c"), END]);
    const reader = toldStream(stream, echo(), nothingKept).getReader();
    const pieces: (string | null)[] = [];
    do pieces.push(await pieceOf(reader));
    while (pieces.at(-1) !== null);
    expect(pieces).toEqual(["<message_start>", "a", "bc", "<message_stop>", null]);
  });

  it("reads no further than its client does", async () => {
    const { stream, seen } = nativeOf([START, ...Array.from({ length: 100 }, (_, n) => delta(`${n} `)), END]);
    const reader = toldStream(stream, echo(), nothingKept).getReader();
    await reader.read();
    await reader.read();
    await new Promise((done) => setTimeout(done, 20));
    expect(seen.pulls).toBeLessThanOrEqual(3);
  });

  it("ends with the mapper's own words where the native one breaks or ends early", async () => {
    for (const how of ["ends", "breaks"] as const) {
      const { stream } = nativeOf([START, delta("a")], how);
      expect(await textOf(toldStream(stream, echo(), nothingKept))).toBe("<message_start>a<cut>");
    }
  });

  it("cancels the native one when its client leaves, while it waits too", async () => {
    const { stream, seen } = nativeOf([START], "goes on");
    const reader = toldStream(stream, echo(), nothingKept).getReader();
    await reader.read();
    const waiting = reader.read();
    await reader.cancel();
    expect(await waiting).toEqual({ done: true, value: undefined });
    expect(seen.cancelled).toBe(true);
  });
});

describe("the end of a told stream", () => {
  it("is an error's, though the native one goes on: that is cancelled soon", async () => {
    const { stream, seen } = nativeOf([START, delta("a") + event("error")], "goes on");
    expect(await textOf(toldStream(stream, echo(), nothingKept))).toBe("<message_start>a<error>");
    expect(seen.cancelled).toBe(false);
    await vi.waitFor(() => expect(seen.cancelled).toBe(true), 3_000);
  });

  it("is a break where the mapper has a bug, and the native one is cancelled", async () => {
    const { stream, seen } = nativeOf([START, delta("a")], "goes on");
    const mapper = { ...echo(), message: null, push: () => Promise.reject(new Error("a bug")) };
    await expect(textOf(toldStream(stream, mapper, nothingKept))).rejects.toThrow("a bug");
    expect(seen.cancelled).toBe(true);
  });

  it("waits for what is kept of the message, and what was said before it does not", async () => {
    const kept = Promise.withResolvers<void>();
    const asked: WholeMessage[] = [];
    const { stream } = nativeOf([START, delta("a") + END]);
    const reader = toldStream(stream, echo(), (message) => {
      asked.push(message);
      return kept.promise;
    }).getReader();
    expect(await pieceOf(reader)).toBe("<message_start>");
    expect(await pieceOf(reader)).toBe("a");
    expect(asked).toEqual([MESSAGE]);
    let told: string | null = null;
    const end = pieceOf(reader).then((text) => {
      told = text;
    });
    await new Promise((done) => setTimeout(done, 20));
    expect(told).toBe(null);
    kept.resolve();
    await end;
    expect(told).toBe("<message_stop>");
    expect(await pieceOf(reader)).toBe(null);
  });

  it("comes all the same when that fails or takes too long", async () => {
    const error = vi.spyOn(console, "error").mockImplementation(() => {});
    for (const kept of [Promise.reject(new Error("away")), new Promise<void>(() => {})]) {
      const { stream } = nativeOf([START, END]);
      expect(await textOf(toldStream(stream, echo(), () => kept))).toBe("<message_start><message_stop>");
    }
    expect(error.mock.calls.filter(([line]) => String(line).includes("turn_not_kept"))).toHaveLength(2);
    error.mockRestore();
  });

  it("of a message that failed keeps nothing", async () => {
    const kept = vi.fn(nothingKept);
    const { stream } = nativeOf([START, delta("a"), event("error", { error: { type: "api_error", message: "no" } })]);
    await textOf(toldStream(stream, echo(), kept));
    expect(kept).not.toHaveBeenCalled();
  });
});
