import { describe, expect, it } from "vitest";
import { EventReader } from "../../src/wire/anthropic/events.ts";

/** The runtime has a decoder of its own: what the reader takes from it is looked at here. */
describe("EventReader in the Workers runtime", () => {
  const text = "Grüße, 世界 👩🏽‍🚀 \u2028";
  const data = (escaped: string) =>
    `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":${escaped}}}`;
  const stream = [
    "\ufeff",
    ...[JSON.stringify(text), '"\\ud83d"', '"a\\nb"'].map(
      (json) => `event: content_block_delta\ndata: ${data(json)}\n\n`,
    ),
  ];
  const bytes = new TextEncoder().encode(stream.join(""));
  const meant = [text, "\ud83d", "a\nb"].map((said) => ({
    type: "content_block_delta",
    index: 0,
    delta: { type: "text_delta", text: said },
  }));

  it.each([1, 2, 3, 7, 1_000])("reads a stream in pieces of %i bytes", (size) => {
    const reader = new EventReader();
    const events = [];
    for (let at = 0; at < bytes.length; at += size) events.push(...reader.read(bytes.subarray(at, at + size)));
    expect(events).toEqual(meant);
  });
});
