import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { StreamEvent } from "../../../src/wire/anthropic/events.ts";
import { MessageMachine } from "../../../src/wire/openai/message-machine.ts";
import { SIGN_OF_LIFE, type Teller, type Told } from "../../../src/wire/openai/stream-mapper.ts";
import { answers, tellingOf } from "../../support/messages-streams.ts";

/** Writes down what it is told, one letter each; what is thought takes a while to be sealed, where asked for. */
function scribe(sealing: boolean): Teller & { readonly calls: string[] } {
  const calls: string[] = [];
  const note = (call: string) => {
    calls.push(call);
    return call;
  };
  return {
    calls,
    start: () => note("("),
    text: (at) => note(`t${at}`),
    thinking: (at) => note(`r${at}`),
    thinkingEnd: (at): Told => {
      const told = note(`R${at}.`);
      return sealing ? new Promise((resolve) => setTimeout(resolve, 0, told)) : told;
    },
    toolStart: (nth) => note(`C${nth}`),
    toolArguments: (nth) => note(`c${nth}`),
    toolEnd: (nth) => note(`C${nth}.`),
    stop: (): Told => note(")"),
    error: () => note("!"),
  };
}

async function follow(events: readonly StreamEvent[], sealing = false) {
  const teller = scribe(sealing);
  const machine = new MessageMachine(teller, tellingOf());
  let told = "";
  for (const event of structuredClone(events)) told += await machine.push(event);
  told += await machine.end();
  return { told: told.replaceAll(SIGN_OF_LIFE, ""), calls: teller.calls };
}

/** One start, blocks one after another, thoughts and calls closed before the next begins or the message ends, and one end. */
const WELL_FORMED =
  /^(?:\((?:t(\d+)(?:t\1)*|(?:r\d+)*R\d+\.|C(\d+)(?:c\2)+C\2\.)*(?:\)|(?:(?:r\d+)+|C\d+(?:c\d+)*)?!)|!)$/;

const pieces = answers().chain(({ events }) =>
  fc.tuple(fc.constant(events), fc.array(fc.nat(), { maxLength: 40 })).map(([all, picks]) => ({ all, picks })),
);

describe("MessageMachine", () => {
  it("tells any valid stream from its start to its stop", async () => {
    await fc.assert(
      fc.asyncProperty(answers(), async ({ events, message }) => {
        const { told, calls } = await follow(events);
        expect(told).toMatch(WELL_FORMED);
        expect(calls.at(-1)).toBe(")");
        expect(calls.filter((call) => /^C\d+$/.test(call))).toEqual(
          message.content.filter(({ type }) => type === "tool_use").map((_, nth) => `C${nth}`),
        );
      }),
      { numRuns: 200 },
    );
  });

  it("gives a teller a well-formed message, whatever events come in whatever order", async () => {
    await fc.assert(
      fc.asyncProperty(pieces, fc.boolean(), async ({ all, picks }, started) => {
        const events = picks.map((pick) => all[pick % all.length] ?? { type: "ping" });
        const start = all.find(({ type }) => type === "message_start");
        const later = events.filter(({ type }) => !started || type !== "message_start");
        const { told } = await follow(started && start ? [start, ...later] : later);
        expect(told).toMatch(WELL_FORMED);
      }),
      { numRuns: 200 },
    );
  });

  it("says things in their order where one of them takes time", async () => {
    const block = (index: number, content_block: object): StreamEvent => ({
      type: "content_block_start",
      index,
      content_block,
    });
    const events: StreamEvent[] = [
      { type: "message_start", message: {} },
      block(0, { type: "redacted_thinking", data: "D" }),
      // Nobody closes the first two.
      block(1, { type: "thinking", thinking: "", signature: "S" }),
      block(2, { type: "text", text: "a" }),
      block(3, { type: "redacted_thinking", data: "D" }),
      { type: "message_stop" },
    ];
    const { told, calls } = await follow(events, true);
    expect(told).toBe("(R0.R1.t2R3.)");
    expect(calls.join("")).toBe(told);
  });

  it("does not fall over events of any other form", () => {
    const types = [
      "message_start",
      "content_block_start",
      "content_block_delta",
      "content_block_stop",
      "message_delta",
    ];
    const event = fc.record(
      {
        type: fc.constantFrom(...types, "message_stop", "error", "x"),
        index: fc.oneof(fc.nat(1), fc.jsonValue()),
        message: fc.jsonValue(),
        usage: fc.jsonValue(),
        content_block: fc.oneof(
          fc.jsonValue(),
          fc.record({ type: fc.constantFrom("text", "thinking", "tool_use", "y") }),
        ),
        delta: fc.oneof(
          fc.jsonValue(),
          fc.record({
            type: fc.constantFrom(
              "text_delta",
              "thinking_delta",
              "input_json_delta",
              "citations_delta",
              "signature_delta",
            ),
            text: fc.jsonValue(),
            partial_json: fc.jsonValue(),
          }),
        ),
        error: fc.jsonValue(),
      },
      { requiredKeys: ["type"] },
    );
    return fc.assert(
      fc.asyncProperty(fc.array(event, { maxLength: 20 }), async (events) => {
        expect((await follow(events as StreamEvent[])).told).toMatch(WELL_FORMED);
        expect((await follow([{ type: "message_start" }, ...(events as StreamEvent[])])).told).toMatch(WELL_FORMED);
      }),
      { numRuns: 200 },
    );
  });
});
