/** What the simulated Claude answers: a function of the request alone, so that a test can know it beforehand. */
import { Digest } from "./digest.ts";
import type { Faults } from "./faults.ts";
import { asFields, asList, asText, blocksOf, type Fields, firstChars } from "./json.ts";
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
  | { readonly type: "tool_use"; readonly id: string; readonly name: string; readonly pieces: readonly string[] };

export type Reply = {
  readonly blocks: readonly ReplyBlock[];
  readonly stopReason: string;
  readonly stopSequence: string | null;
  readonly outputTokens: number;
  /** Part of `outputTokens`. */
  readonly thinkingTokens: number;
};

/** The answer to a valid request of an organization, whose prompt is so many tokens long. */
export function replyTo(body: Fields, model: Model, promptTokens: number, faults: Faults, organization: string): Reply {
  const messages = asList(body.messages) as readonly Fields[];
  const turn = lastTurn(messages);
  const room = Math.max(0, model.contextTokens - promptTokens);
  const maxTokens = body.max_tokens as number;
  const limit = Math.min(maxTokens, room);
  const full = room < maxTokens ? "model_context_window_exceeded" : "max_tokens";
  const blocks: ReplyBlock[] = [];
  let left = limit;
  let thinkingTokens = 0;
  const done = (stopReason: string, stopSequence: string | null = null): Reply => {
    return { blocks, stopReason, stopSequence, outputTokens: limit - left, thinkingTokens };
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
    const signature = sign({ organization, model: model.id }, messages, shown ? pieces.join("") : "");
    blocks.push({ type: "thinking", pieces, shown, signature });
    thinkingTokens = pieces.length;
    left -= pieces.length;
  }

  const calls = turn.results.length === 0 || forcesTool(body) ? toolCalls(body, turn.asked) : [];
  const spoken = speak(body, turn, calls, faults);
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
  };
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
