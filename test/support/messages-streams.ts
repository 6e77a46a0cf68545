/** Random Messages answers: the same one as events, as bytes and as a whole, as valid as upstream would write it. */
import fc from "fast-check";
import { EventReader, type StreamEvent } from "../../src/wire/anthropic/events.ts";
import type { Telling } from "../../src/wire/openai/draft.ts";
import type { StreamMapper } from "../../src/wire/openai/stream-mapper.ts";
import { tellingOf as tellingOfDraft } from "./drafts.ts";

type Fields = Record<string, unknown>;
type Said = { readonly block: Fields; readonly start: Fields; readonly deltas: readonly Fields[] };

export type Answer = {
  readonly events: readonly StreamEvent[];
  /** What upstream would have answered without `stream`. */
  readonly message: Fields & { readonly content: readonly Fields[] };
};

/** Tools as Claude calls them: one by its own name, one renamed, one that takes free text. */
export const TOOLS: Telling["tools"] = new Map([
  ["renamed", { name: "a name.with/dots", freeForm: false }],
  ["free", { name: "apply_patch", freeForm: true }],
]);

export function tellingOf(more: Partial<Telling> = {}): Telling {
  return tellingOfDraft({ tools: TOOLS, includeUsage: true, ...more });
}

const words = fc.oneof(fc.string({ unit: "binary", maxLength: 30 }), fc.string({ maxLength: 60 }));

/** A text in pieces, cut between any two of its units. */
const inPieces = (text: string): fc.Arbitrary<string[]> =>
  fc.array(fc.nat(text.length), { maxLength: 5 }).map((cuts) => {
    const places = [0, ...cuts.toSorted((a, b) => a - b), text.length];
    return places.slice(1).map((end, i) => text.slice(places[i], end));
  });

const textBlock = words.chain((text) =>
  fc.tuple(inPieces(text), fc.boolean()).map(([pieces, cited]): Said => {
    const citation = { type: "char_location", cited_text: "x", document_index: 0 };
    const deltas: Fields[] = pieces.map((piece) => ({ type: "text_delta", text: piece }));
    if (cited) deltas.push({ type: "citations_delta", citation });
    const block = { type: "text", text, citations: cited ? [citation] : null };
    return { block, start: { ...block, text: "", citations: null }, deltas };
  }),
);

const thinkingBlock = words.chain((thinking) =>
  inPieces(thinking).map((pieces): Said => {
    const block = { type: "thinking", thinking, signature: "c2ln" };
    const said = thinking === "" ? [] : pieces.map((piece) => ({ type: "thinking_delta", thinking: piece }));
    return {
      block,
      start: { ...block, thinking: "", signature: "" },
      deltas: [...said, { type: "signature_delta", signature: "c2ln" }],
    };
  }),
);

const callBlock = (type: string, name: string, input: fc.Arbitrary<Fields>): fc.Arbitrary<Said> =>
  fc.tuple(input, fc.nat(9_999), fc.boolean()).chain(([value, id, spaced]) => {
    const json = JSON.stringify(value, null, spaced ? 1 : 0);
    const block = { type, id: `toolu_${id}`, name, input: JSON.parse(json), caller: { type: "direct" } };
    return inPieces(json === "{}" ? "" : json).map((pieces) => ({
      block,
      start: { ...block, input: {} },
      deltas: ["", ...pieces].map((piece) => ({ type: "input_json_delta", partial_json: piece })),
    }));
  });

const anyInput = fc.dictionary(words, fc.jsonValue({ maxDepth: 2 }), { maxKeys: 4 });
const functionBlock = fc.constantFrom("plain", "renamed").chain((name) => callBlock("tool_use", name, anyInput));
const freeBlock = callBlock(
  "tool_use",
  "free",
  words.map((input) => ({ input })),
);
const hiddenBlock = fc.oneof(
  callBlock("server_tool_use", "web_search", anyInput),
  callBlock("mcp_tool_use", "lookup", anyInput),
  fc
    .constantFrom<Fields>(
      { type: "web_search_tool_result", tool_use_id: "srvtoolu_1", content: [] },
      { type: "mcp_tool_result", tool_use_id: "x", is_error: false, content: [{ type: "text", text: "hidden" }] },
      { type: "block_of_tomorrow", text: "hidden", thinking: "hidden" },
    )
    .map((block): Said => ({ block, start: block, deltas: [] })),
);
const redactedBlock = words.map((data): Said => {
  const block = { type: "redacted_thinking", data };
  return { block, start: block, deltas: [] };
});

export type Shape = { readonly freeForm?: boolean; readonly maxCalls?: number };

const STOPS = [
  "end_turn",
  "max_tokens",
  "stop_sequence",
  "pause_turn",
  "refusal",
  "model_context_window_exceeded",
  "new",
];
const counts = fc.record({ input: fc.nat(9), output: fc.nat(99), read: fc.nat(99), written: fc.nat(99) });
const between = fc.constantFrom<StreamEvent | null>(
  null,
  null,
  null,
  { type: "ping" },
  { type: "event_of_tomorrow", text: "hidden" },
);

/** An answer of random blocks, with pings and unknown events between its own. */
export function answers({ freeForm = true, maxCalls = 9 }: Shape = {}): fc.Arbitrary<Answer> {
  const blocks = [textBlock, textBlock, thinkingBlock, redactedBlock, functionBlock, hiddenBlock];
  const anyBlock = fc.oneof(...blocks, ...(freeForm ? [freeBlock] : []));
  return fc
    .tuple(
      fc.array(anyBlock, { maxLength: 7 }),
      fc.constantFrom(...STOPS),
      counts,
      fc.infiniteStream(between).map((stream) => () => stream.next().value ?? null),
      fc.option(words),
    )
    .map(([all, stop, { input, output, read, written }, strange, explanation]) => {
      let calls = 0;
      const said = all.filter(({ block }) => block.type !== "tool_use" || ++calls <= maxCalls);
      const content = said.map(({ block }) => block);
      const called = content.some(({ type }) => type === "tool_use");
      const stop_reason = called && !["max_tokens", "refusal"].includes(stop) ? "tool_use" : stop;
      const stop_details = stop_reason === "refusal" && explanation !== null ? { type: "refusal", explanation } : null;
      const usage = {
        input_tokens: input,
        output_tokens: output,
        cache_read_input_tokens: read,
        cache_creation_input_tokens: written,
        cache_creation: { ephemeral_5m_input_tokens: written, ephemeral_1h_input_tokens: 0 },
        output_tokens_details: { thinking_tokens: Math.floor(output / 2) },
      };
      const message = { id: "msg_01Random", type: "message", role: "assistant", model: "claude-opus-5-5" };
      const events: StreamEvent[] = [];
      const push = (event: StreamEvent) => {
        const also = strange();
        if (also) events.push(also);
        events.push(event);
      };
      push({
        type: "message_start",
        message: {
          ...message,
          content: [],
          stop_reason: null,
          usage: { ...usage, output_tokens: 1, output_tokens_details: null },
        },
      });
      said.forEach(({ start, deltas }, index) => {
        push({ type: "content_block_start", index, content_block: start });
        for (const delta of deltas) push({ type: "content_block_delta", index, delta });
        push({ type: "content_block_stop", index });
      });
      const delta = { stop_reason, stop_sequence: null, stop_details };
      push({ type: "message_delta", delta, usage: { ...usage, cache_creation: undefined, input_tokens: null } });
      push({ type: "message_stop" });
      return { events, message: { ...message, content, stop_reason, stop_details, usage } };
    });
}

export type Lines = {
  readonly eol: string;
  readonly before: string;
  readonly padding: number;
  readonly split: boolean;
};

/** How an event stream may be written. */
export const lines: fc.Arbitrary<Lines> = fc.record({
  eol: fc.constantFrom("\n", "\r\n", "\r"),
  before: fc.constantFrom("", "\ufeff", ": hello\n\n", "id: 7\nretry: 1\n"),
  padding: fc.nat(3),
  split: fc.boolean(),
});
export const PLAIN: Lines = { eol: "\n", before: "", padding: 0, split: false };

export function bytesOf(events: readonly StreamEvent[], { eol, before, padding, split }: Lines = PLAIN): Uint8Array {
  const text = events
    .map((event) => {
      const json = JSON.stringify(event).replace(/\}$/, `${" ".repeat(padding)}}`);
      const data = split && json.startsWith("{") ? `data: {\ndata:${json.slice(1)}` : `data: ${json}`;
      return `event: ${event.type}\n${data}\n\n`;
    })
    .join("");
  return new TextEncoder().encode((before + text).replaceAll("\n", eol));
}

/** The bytes in pieces. */
export function cut(bytes: Uint8Array, at: readonly number[]): Uint8Array[] {
  const places = [0, ...at.map((place) => place % (bytes.length + 1)), bytes.length].sort((a, b) => a - b);
  return places.slice(1).map((end, i) => bytes.subarray(places[i], end));
}

/** What a mapper makes of pieces of a stream. */
export async function tellBytes(mapper: StreamMapper, pieces: readonly Uint8Array[]): Promise<string> {
  const reader = new EventReader();
  let told = "";
  for (const piece of pieces) for (const event of reader.read(piece)) told += await mapper.push(event);
  return told + (await mapper.end());
}
