/** Frames: what lies in the log goes out as it is, and what comes in is told by name what is wrong with it. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  errorFrame,
  errorSse,
  frameText,
  historySse,
  parseFrame,
  sentFrame,
  sseText,
} from "../../src/conversations/frames.ts";
import { MAX_DEPTH } from "../../src/conversations/input.ts";
import type { Numbered } from "../../src/conversations/log.ts";

const read = (frame: unknown) => parseFrame(typeof frame === "string" ? frame : JSON.stringify(frame));
const problem = (frame: unknown): { ref: string | null; message: string } => {
  const result = read(frame);
  if (result.ok || result.error.failure.kind !== "invalid_request") throw new Error(JSON.stringify(result));
  return { ref: result.error.ref, message: result.error.failure.message };
};

describe("a frame of the log", () => {
  it("has an event's text as it lies there, whatever numbers and escapes it is written with", () => {
    const data = '{"type":"new_kind", "n":1.0e2,"big":12345678901234567890,"t":"\\u00e9\\/é"}';
    const entry: Numbered = { kind: "event", seq: 7, turn: "turn_x", data };
    expect(frameText(entry)).toBe(`{"type":"event","seq":7,"turn":"turn_x","event":${data}}`);
    expect(sseText(entry)).toBe(`id: 7\nevent: new_kind\ndata: ${data}\n\n`);
    // An upstream can't pass for the gateway, nor write lines of its own.
    for (const type of ["a\\nb", "history", "turn.completed", "context.cut", "", "x".repeat(65)]) {
      const odd = `{"type":"${type}"}`;
      expect(sseText({ ...entry, data: odd })).toBe(`id: 7\nevent: message\ndata: ${odd}\n\n`);
    }
  });

  it("has the members of any other entry beside its own", () => {
    const entry: Numbered = { kind: "turn.started", seq: 1, turn: "t", data: '{"id":"c1","message":"m"}' };
    expect(JSON.parse(frameText(entry))).toEqual({ type: "turn.started", seq: 1, turn: "t", id: "c1", message: "m" });
    expect(frameText({ ...entry, data: "{}" })).toBe('{"type":"turn.started","seq":1,"turn":"t"}');
  });

  it("is one line of valid JSON whatever it tells", () => {
    fc.assert(
      fc.property(
        fc.dictionary(fc.string({ unit: "binary" }), fc.jsonValue({ maxDepth: 2 }), { maxKeys: 4 }),
        fc.nat(),
        (fields, seq) => {
          const data = JSON.stringify(fields);
          const text = frameText({ kind: "event", seq, turn: "t", data });
          expect(JSON.parse(text)).toEqual({ type: "event", seq, turn: "t", event: JSON.parse(data) });
          expect(sseText({ kind: "event", seq, turn: "t", data }).split(/\r\n|\r|\n/)).toHaveLength(5);
        },
      ),
      { numRuns: 50 },
    );
  });
});

describe("frames beside the log", () => {
  it("tell errors as turns do, with the time to wait", () => {
    const failure = { kind: "unavailable", what: "It", retryAfterMs: 2_500 } as const;
    const error = { type: "api_error", message: "It is unavailable at the moment.", retry_after_seconds: 3 };
    expect(JSON.parse(errorFrame("c1", failure))).toEqual({ type: "error", ref: "c1", error });
    expect(errorSse({ kind: "internal" })).toMatch(/^event: error\ndata: \{"type":"error","error":\{.*\}\n\n$/);
  });

  it("tell what became of a message, and the history with its number", () => {
    expect(JSON.parse(sentFrame("c1", null, "awaiting_tool_results", ["toolu_1"]))).toEqual({
      type: "sent",
      ref: "c1",
      turn: null,
      state: "awaiting_tool_results",
      awaiting_tool_results: ["toolu_1"],
    });
    expect(historySse(4, [])).toBe('id: 4\nevent: history\ndata: {"type":"history","seq":4,"messages":[]}\n\n');
  });
});

describe("a client's frame", () => {
  it("is read", () => {
    expect(read({ type: "cancel" })).toEqual({ ok: true, value: { type: "cancel", turn: null } });
    expect(read({ type: "cancel", turn: "turn_1" })).toEqual({ ok: true, value: { type: "cancel", turn: "turn_1" } });
    expect(read({ type: "resume", after: 0 })).toEqual({ ok: true, value: { type: "resume", after: 0 } });
    expect(read({ type: "ack", seq: 3 })).toEqual({ ok: true, value: { type: "ack", seq: 3 } });
    expect(read({ type: "flow", window: 0 })).toEqual({ ok: true, value: { type: "flow", window: 0 } });
    expect(read('{"type":"flow","window":1e300}')).toEqual({
      ok: true,
      value: { type: "flow", window: Number.MAX_SAFE_INTEGER },
    });
    expect(read({ type: "send", id: "c1", content: "hi", options: { max_tokens: 1 } })).toMatchObject({
      ok: true,
      value: { type: "send", ref: "c1", incoming: { clientId: "c1", content: "hi", options: { max_tokens: 1 } } },
    });
  });

  it.each([
    ["{", "A frame is a JSON object."],
    ["[".repeat(1_000_000), "The request body's JSON nesting is too deep: more than 100 levels (at position 100)."],
    ["null", "A frame is a JSON object."],
    [[], "A frame is a JSON object."],
    [{}, "type: must be a text."],
    [{ type: 1 }, "type: must be a text."],
    [{ type: "toString" }, "type: there is no frame `toString`. There are: send, cancel, resume, flow, ack."],
    [
      { type: "x".repeat(65) },
      `type: there is no frame \`${"x".repeat(64)}…\`. There are: send, cancel, resume, flow, ack.`,
    ],
    [{ type: "cancel", now: true }, "A frame `cancel` has no field `now`."],
    [{ type: "send", content: "hi", stream: true }, "A frame `send` has no field `stream`."],
    ['{"type":"ack","seq":1,"__proto__":{}}', "A frame `ack` has no field `__proto__`."],
    [{ type: "cancel", turn: null }, "turn: must be a text."],
    [{ type: "resume" }, "after: must be a whole number from 0."],
    [{ type: "resume", after: -1 }, "after: must be a whole number from 0."],
    [{ type: "resume", after: 1.5 }, "after: must be a whole number from 0."],
    [{ type: "resume", after: "1" }, "after: must be a whole number from 0."],
    [{ type: "resume", after: 2 ** 53 }, "after: must be a whole number from 0."],
    ['{"type":"ack","seq":1e999}', "seq: must be a whole number from 0."],
    [{ type: "flow", window: -1 }, "window: must be a whole number from 0."],
    [{ type: "flow", window: 0.5 }, "window: must be a whole number from 0."],
    ['{"type":"flow","window":1e999}', "window: must be a whole number from 0."],
    [{ type: "send", content: 1 }, "content: must be a text or a list of content blocks"],
  ])("W-05 that is bad is told why: %.60j", (frame, message) => {
    expect(problem(frame).message).toBe(message);
  });

  it("that is bad is told with its id, unless that is too long to be said back", () => {
    expect(problem({ type: "what", id: "c1" }).ref).toBe("c1");
    expect(problem({ type: "send", id: "x".repeat(256), content: 1 }).ref).toBe("x".repeat(256));
    expect(problem({ type: "send", id: "x".repeat(257), content: 1 }).ref).toBeNull();
    expect(problem({ type: "send", id: 5, content: 1 }).ref).toBeNull();
  });

  it("W-05 that is nested deeper than a request may be is refused before anybody reads it", () => {
    const nested = (depth: number) =>
      `{"type":"send","content":"x","options":{"a":${"[".repeat(depth)}${"]".repeat(depth)}}}`;
    expect(read(nested(MAX_DEPTH - 2)).ok).toBe(true);
    expect(read(nested(MAX_DEPTH + 1)).ok).toBe(false);
    expect(read(nested(200_000)).ok).toBe(false);
  });

  it("never throws, whatever comes", () => {
    fc.assert(fc.property(fc.oneof(fc.string(), fc.json()), (text) => typeof read(text).ok === "boolean"));
    const type = fc.constantFrom("send", "cancel", "resume", "flow", "ack");
    const fields = fc.dictionary(fc.constantFrom("id", "content", "after", "window", "seq", "turn"), fc.jsonValue());
    fc.assert(fc.property(type, fields, (name, more) => typeof read({ ...more, type: name }).ok === "boolean"));
  });
});
