/** Streams of events for the tests, and what a client makes of them. */
import type { StreamRewriter } from "../../src/guardrails/apply/stream-rewriter.ts";
import { EventReader, type StreamEvent } from "../../src/wire/anthropic/events.ts";
import { bytesOf } from "./stand-in.ts";

type Fields = Record<string, unknown>;

export const event = (data: Fields, lineEnd = "\n"): string =>
  `event: ${data.type}${lineEnd}data: ${JSON.stringify(data)}${lineEnd}${lineEnd}`;

const start = (index: number, content_block: Fields): Fields => ({ type: "content_block_start", index, content_block });
export const delta = (index: number, type: string, field: string, value: unknown): Fields => ({
  type: "content_block_delta",
  index,
  delta: { type, [field]: value },
});
const stop = (index: number): Fields => ({ type: "content_block_stop", index });

export const BEGIN: Fields = {
  type: "message_start",
  message: { id: "msg_1", type: "message", content: [], model: "m" },
};
export const END: readonly Fields[] = [
  { type: "message_delta", delta: { stop_reason: "end_turn" }, usage: { output_tokens: 3 } },
  { type: "message_stop" },
];

export const textBlock = (index: number, ...pieces: string[]): Fields[] => [
  start(index, { type: "text", text: "" }),
  ...pieces.map((piece) => delta(index, "text_delta", "text", piece)),
  stop(index),
];
export const callBlock = (index: number, ...pieces: string[]): Fields[] => [
  start(index, { type: "tool_use", id: `toolu_${index}`, name: "f", input: {} }),
  ...pieces.map((piece) => delta(index, "input_json_delta", "partial_json", piece)),
  stop(index),
];
export const thinkingBlock = (index: number, ...pieces: string[]): Fields[] => [
  start(index, { type: "thinking", thinking: "", signature: "" }),
  ...pieces.map((piece) => delta(index, "thinking_delta", "thinking", piece)),
  delta(index, "signature_delta", "signature", "c2ln[EMAIL_1]"),
  stop(index),
];

export const streamOf = (events: readonly Fields[], lineEnd = "\n"): string =>
  [BEGIN, ...events, ...END].map((data) => event(data, lineEnd)).join("");

/** Cuts a text between any of its units. */
export function cut(text: string, places: readonly number[]): string[] {
  const at = [0, ...places.map((place) => place % (text.length + 1)).toSorted((a, b) => a - b), text.length];
  return at.slice(1).map((end, i) => text.slice(at[i], end));
}

/** What comes out of a stream that is cut into pieces of a size, or at some places. */
export function through(rewriter: StreamRewriter, text: string, pieces: number | readonly number[]): string {
  const bytes = bytesOf(text);
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  const ends =
    typeof pieces === "number"
      ? Array.from({ length: Math.ceil(bytes.length / pieces) }, (_, i) => (i + 1) * pieces)
      : [...pieces.map((place) => place % (bytes.length + 1)).toSorted((a, b) => a - b), bytes.length];
  let said = "";
  let at = 0;
  for (const end of ends) {
    // The buffer is used again, as some readers do.
    const piece = bytes.slice(at, end);
    said += decoder.decode(rewriter.push(piece).slice(), { stream: true });
    piece.fill(0);
    at = end;
  }
  return said + decoder.decode(rewriter.end());
}

export type Said = { readonly blocks: Fields[]; readonly types: string[] };

/** What a client has put together in the end; an event where none may be is an exception. */
export function told(stream: string): Said {
  const events: StreamEvent[] = new EventReader().read(bytesOf(stream));
  const blocks: Fields[] = [];
  let open: number | null = null;
  for (const { type, index, content_block, delta: added } of events) {
    if (type === "content_block_start") {
      if (open !== null || index !== blocks.length) throw new Error("a block begins inside of another");
      open = blocks.length;
      blocks.push({ ...(content_block as Fields), json: "" });
    } else if (type === "content_block_delta") {
      const block = open !== null && open === index ? blocks[open] : undefined;
      if (!block) throw new Error("a delta outside of its block");
      const { type: kind, ...fields } = added as Fields;
      if (kind === "citations_delta") block.citations = [...((block.citations as unknown[]) ?? []), fields.citation];
      else if (kind === "input_json_delta") block.json = `${block.json}${fields.partial_json}`;
      else for (const [name, value] of Object.entries(fields)) block[name] = `${block[name] ?? ""}${value}`;
    } else if (type === "content_block_stop") {
      if (open !== index) throw new Error("a block ends that is not open");
      open = null;
    }
  }
  return { blocks, types: events.map(({ type }) => type) };
}
