/** What the simulated Claude answers: a function of the request alone, so that a test can know it beforehand. */
import { Digest } from "./digest.ts";
import type { Faults } from "./faults.ts";
import { asFields, asList, asText, blocksOf, type Fields, firstChars, readTruncated } from "./json.ts";
import type { Model } from "./models.ts";
import { sample } from "./sample.ts";
import { sign } from "./signature.ts";
import { tokenize } from "./tokens.ts";
import { forcesTool, type ToolCall, toolCalls } from "./tools.ts";

/** Anthropic's own string for testing refusals begins like this; here it always works. */
const REFUSAL = "ANTHROPIC_MAGIC_STRING_TRIGGER_REFUSAL";
const MAX_REPEAT = 100_000;
const QUOTED_CHARS = 200;
/** What a call costs besides its input. */
const CALL_TOKENS = 1;

/** A block, and the pieces its deltas bring. */
export type ReplyBlock =
  | { readonly type: "text"; readonly pieces: readonly string[] }
  | {
      readonly type: "thinking";
      readonly pieces: readonly string[];
      readonly shown: boolean;
      readonly signature: string;
    }
  | {
      readonly type: "tool_use" | "server_tool_use";
      readonly id: string;
      readonly name: string;
      readonly pieces: readonly string[];
    }
  /** Comes in one piece. */
  | { readonly type: "web_search_tool_result"; readonly of: string; readonly content: readonly Fields[] };

export type Reply = {
  readonly blocks: readonly ReplyBlock[];
  readonly stopReason: string;
  readonly stopSequence: string | null;
  readonly outputTokens: number;
  /** Part of `outputTokens`. */
  readonly thinkingTokens: number;
  readonly searches: number;
};

/** The answer to a valid request of an organization, whose prompt is so many tokens long. */
export function replyTo(body: Fields, model: Model, promptTokens: number, faults: Faults, organization: string): Reply {
  const messages = asList(body.messages) as readonly Fields[];
  const turn = lastTurn(messages);
  const room = Math.max(0, model.contextTokens - promptTokens);
  const maxTokens = body.max_tokens as number;
  const limit = Math.min(maxTokens, room);
  const full = room < maxTokens ? "model_context_window_exceeded" : "max_tokens";
  const search = searchFor(body, turn);
  const blocks: ReplyBlock[] = search?.found ? [search.found] : [];
  const searches = blocks.length;
  let left = limit;
  let thinkingTokens = 0;
  const done = (stopReason: string, stopSequence: string | null = null): Reply => {
    return { blocks, stopReason, stopSequence, outputTokens: limit - left, thinkingTokens, searches };
  };
  if (left === 0) return done(full);
  if (turn.asked.includes(REFUSAL) || /^refuse\.?$/i.test(turn.asked.trim())) {
    left -= 1;
    blocks.push({ type: "text", pieces: [] });
    return done("refusal");
  }

  if (thinks(body, turn)) {
    const shown = asFields(body.thinking)?.display !== "omitted";
    const pieces = tokenize(`The user wants: ${firstChars(turn.asked, 80)}. I shall answer that.`, left);
    const before = [...turn.begun, ...blocks.map(blockOf)];
    const whole = turn.begun.length > 0 ? messages.slice(0, -1) : messages;
    const signature = sign({ organization, model: model.id }, whole, shown ? pieces.join("") : "", before);
    blocks.push({ type: "thinking", pieces, shown, signature });
    thinkingTokens = pieces.length;
    left -= pieces.length;
  }

  const mayCall = !search && (turn.results.length === 0 || forcesTool(body));
  const calls = mayCall ? toolCalls(body, turn.asked) : [];
  const spoken = search?.says ?? speak(body, turn, calls, faults);
  const stop = firstStop(spoken, asList(body.stop_sequences) as readonly string[]);
  const pieces = faults.events
    ? Array<string>(Math.min(faults.events, left + 1)).fill(spoken)
    : tokenize(stop ? spoken.slice(0, stop.at) : spoken, left + 1);
  if (pieces.length > left) {
    if (left > 0) blocks.push({ type: "text", pieces: pieces.slice(0, left) });
    left = 0;
    return done(full);
  }
  if (pieces.length > 0) blocks.push({ type: "text", pieces });
  left -= pieces.length;
  if (stop && !faults.events) return done("stop_sequence", stop.sequence);
  if (search?.next) {
    blocks.push(search.next);
    left = Math.max(0, left - search.next.pieces.length);
    return done("pause_turn");
  }

  for (const [i, call] of calls.entries()) {
    if (left === 0) return done(full);
    const id = toolUseId(messages.length, turn.asked, call, i);
    const input = tokenize(call.input, left + 1);
    blocks.push({ type: "tool_use", id, name: call.name, pieces: input.slice(0, left) });
    const cost = input.length + CALL_TOKENS;
    const fits = cost <= left;
    left = Math.max(0, left - cost);
    if (!fits) return done(full);
  }
  return done(calls.length > 0 ? "tool_use" : "end_turn");
}

/** What the answer is to: the end of the conversation. */
type Turn = {
  /** The last text of the last user message: what comes before it may be reminders that a client put in. */
  readonly asked: string;
  /** Texts of the tool results in that message. */
  readonly results: readonly string[];
  /** The beginning of the answer, when the client has put it there. */
  readonly prefill: string;
  /** All of that. */
  readonly begun: readonly Fields[];
};

function lastTurn(messages: readonly Fields[]): Turn {
  const last = messages.findLast((message) => message.role === "user");
  const blocks = blocksOf(last?.content);
  const final = messages.at(-1);
  return {
    asked: asText(blocks.findLast((block) => block.type === "text")?.text) ?? "",
    results: blocks
      .filter((block) => block.type === "tool_result")
      .map((result) =>
        blocksOf(result.content)
          .map((block) => asText(block.text) ?? `[${String(block.type)}]`)
          .join(" "),
      ),
    prefill: final?.role === "assistant" ? (asText(blocksOf(final.content).at(-1)?.text) ?? "") : "",
    begun: final?.role === "assistant" ? blocksOf(final.content) : [],
  };
}

/** A search of the web, one in each call: what the one before has found, what is said, and which comes next. */
function searchFor(body: Fields, { asked, begun }: Turn) {
  const wanted = Number(/^\s*search (\d{1,2})\s*$/i.exec(asked)?.[1] ?? 0);
  const tool = asList(body.tools).find((one) => asText(asFields(one)?.type)?.startsWith("web_search_"));
  if (wanted === 0 || tool === undefined) return undefined;
  const before = begun.filter(({ type }) => type === "server_tool_use");
  const open = asText(before.at(-1)?.id);
  const found =
    open === undefined ? undefined : ({ type: "web_search_tool_result", of: open, content: FOUND } as const);
  const n = before.length + 1;
  if (n > wanted) return { found, says: `I have searched ${wanted} times.`, next: undefined };
  const id = `srv${toolUseId(n, asked, { name: "web_search", input: "" }, n)}`;
  const pieces = tokenize(JSON.stringify({ query: `search ${n}` }));
  return { found, says: `Search ${n}.`, next: { type: "server_tool_use", id, name: "web_search", pieces } as const };
}

const FOUND = [
  {
    type: "web_search_result",
    title: "An example",
    url: "https://example.com/",
    encrypted_content: "c2ltdWxhdGVk",
    page_age: null,
  },
] as const;

/** A block as it is once it is whole. */
export function blockOf(block: ReplyBlock): Fields {
  switch (block.type) {
    case "text":
      return { type: "text", text: block.pieces.join("") };
    case "thinking":
      return { type: "thinking", thinking: block.shown ? block.pieces.join("") : "", signature: block.signature };
    case "web_search_tool_result":
      return { type: block.type, tool_use_id: block.of, caller: { type: "direct" }, content: block.content };
    default: {
      const input = asFields(readTruncated(block.pieces.join(""))) ?? {};
      return { type: block.type, id: block.id, name: block.name, caller: { type: "direct" }, input };
    }
  }
}

function thinks(body: Fields, turn: Turn): boolean {
  const type = asFields(body.thinking)?.type;
  return type === "enabled" || type === "adaptive" || (type === "between_tools" && turn.results.length > 0);
}

/** The text of the answer; with `events` the text of one event. */
function speak(body: Fields, turn: Turn, calls: readonly ToolCall[], faults: Faults): string {
  if (faults.events) return "x".repeat(faults.bytes ?? 1);
  if (calls.length > 0) return forcesTool(body) ? "" : "I'll look that up.";
  const text = answerText(body, turn);
  return turn.prefill !== "" && text.startsWith(turn.prefill) ? text.slice(turn.prefill.length) : text;
}

function answerText(body: Fields, { asked, results }: Turn): string {
  const format = asFields(asFields(body.output_config)?.format) ?? asFields(body.output_format);
  if (format?.type === "json_schema") return JSON.stringify(sample(format.schema));
  if (results.length > 0) return `The tool says: ${firstChars(results.join("; "), QUOTED_CHARS)}.`;
  const said = /^\s*say: ?([\s\S]*)$/i.exec(asked)?.[1];
  if (said !== undefined) return said;
  const [, count, word] = /^\s*repeat (\d{1,9}) (\S+)\s*$/i.exec(asked) ?? [];
  if (word !== undefined) return `${word} `.repeat(Math.min(Number(count), MAX_REPEAT)).trimEnd();
  const quote = firstChars(asked.replace(/\s+/g, " ").trim(), QUOTED_CHARS);
  return `Hello from the simulated Claude! You wrote: “${quote}”. I'd gladly help — with that, with Grüße, with 你好 and with a wave 👋.`;
}

/** Where the first stop sequence begins, if one occurs. Of two that begin together the one named first counts. */
function firstStop(text: string, sequences: readonly string[]): { at: number; sequence: string } | undefined {
  let first: { at: number; sequence: string } | undefined;
  for (const sequence of sequences) {
    const at = text.indexOf(sequence);
    if (at !== -1 && (!first || at < first.at)) first = { at, sequence };
  }
  return first;
}

/** Different for every call of a conversation, and the same when the same request comes again. */
function toolUseId(turns: number, asked: string, { name }: ToolCall, at: number): string {
  const digest = new Digest();
  for (const part of [String(turns), asked, name]) digest.update(part);
  return `toolu_01sim${digest.hex}${String(at).padStart(3, "0")}`;
}
