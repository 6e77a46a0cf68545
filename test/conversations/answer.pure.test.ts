/** How much of an upstream's answer is read. */
import { expect, it } from "vitest";
import { readAnswer } from "../../src/conversations/answer.ts";
import { AnswerBuilder } from "../../src/conversations/context/builder.ts";

const encoder = new TextEncoder();
const named = (event: { type: string }): Uint8Array =>
  encoder.encode(`event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`);

it("F-17 an answer without end is left, with an error, and what had come of it is kept", async () => {
  const delta = { type: "text_delta", text: "x".repeat(1024 * 1024) };
  const piece = named({ type: "content_block_delta", index: 0, delta } as { type: string });
  let pulled = 0;
  let left = false;
  const body = new ReadableStream({
    type: "bytes",
    start(controller) {
      controller.enqueue(named({ type: "message_start", message: {} } as { type: string }));
      const block = { type: "content_block_start", index: 0, content_block: { type: "text", text: "" } };
      controller.enqueue(named(block));
    },
    pull(controller) {
      pulled += piece.length;
      controller.enqueue(piece.slice());
    },
    cancel() {
      left = true;
    },
  });
  const logged: string[] = [];
  const builder = new AnswerBuilder();
  const error = await readAnswer(new Response(body, { headers: { "content-type": "Text/Event-Stream" } }), {
    builder,
    log: (texts) => void logged.push(...texts),
    signal: new AbortController().signal,
    requestId: "req_1",
    read: { bytes: 0 },
  });
  expect([left, error?.type]).toEqual([true, "api_error"]);
  expect(pulled).toBeLessThan(27 * 1024 * 1024);
  expect(JSON.parse(logged.at(-1) ?? "")).toMatchObject({ type: "error", error: { message: error?.message } });
  expect(JSON.stringify(builder.content()).length).toBeGreaterThan(20 * 1024 * 1024);
});
