/** What the simulated Claude answers: a function of the request alone, so that a test can know it beforehand. */
import type { Faults } from "./faults.ts";
import { asFields, asList, asText, blocksOf, type Fields } from "./json.ts";
import { sample } from "./sample.ts";
import { sign } from "./signature.ts";
import { tokenize } from "./tokens.ts";

/** Anthropic's own string for testing refusals begins like this; here it always works. */
const REFUSAL = "ANTHROPIC_MAGIC_STRING_TRIGGER_REFUSAL";
const MAX_REPEAT = 100_000;
const QUOTED_CHARS = 200;

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
  readonly refused: boolean;
  readonly outputTokens: number;
  readonly thinkingTokens: number;
};

export async function replyTo(body: Fields, model: string, faults: Faults): Promise<Reply> {
  const messages = asList(body.messages) as readonly Fields[];
  const asked = lastText(messages);
  const limit = body.max_tokens as number;
  const blocks: ReplyBlock[] = [];
  let left = limit;
  let thinkingTokens = 0;

  const thinking = asFields(body.thinking);
  if ((thinking?.type === "enabled" || thinking?.type === "adaptive") && left > 0) {
    const shown = thinking.display !== "omitted";
    const pieces = tokenize(`The user wants: ${asked.slice(0, 80)}. I shall answer that.`).slice(0, left);
    const text = shown ? pieces.join("") : "";
    blocks.push({ type: "thinking", pieces, shown, signature: await sign(model, messages, [], text) });
    thinkingTokens = pieces.length;
    left -= pieces.length;
  }
  const done = (stopReason: string, stopSequence: string | null = null, refused = false): Reply => ({
    blocks,
    stopReason,
    stopSequence,
    refused,
    outputTokens: limit - left,
    thinkingTokens,
  });
  if (asked.includes(REFUSAL)) return done("refusal", null, true);

  const wanted = answered(messages) ? [] : toolsWanted(body, asked);
  let text = wanted.length > 0 ? (forced(body) ? "" : "I'll look that up.") : answerText(body, messages, asked, faults);
  const stop = wanted.length > 0 ? undefined : firstStop(text, asList(body.stop_sequences).map(String));
  if (stop) text = text.slice(0, stop.at);
  const pieces = faults.events ? chunks(text, faults.events) : tokenize(text);
  if (pieces.length > left) {
    if (left > 0) blocks.push({ type: "text", pieces: pieces.slice(0, left) });
    left = 0;
    return done("max_tokens");
  }
  if (pieces.length > 0) blocks.push({ type: "text", pieces });
  left -= pieces.length;
  for (const tool of wanted) {
    const input = tokenize(JSON.stringify(sample(tool.input_schema)));
    if (input.length > left) {
      blocks.push({ type: "tool_use", id: newToolId(), name: String(tool.name), pieces: input.slice(0, left) });
      left = 0;
      return done("max_tokens");
    }
    blocks.push({ type: "tool_use", id: newToolId(), name: String(tool.name), pieces: input });
    left -= input.length;
  }
  if (wanted.length > 0) return done("tool_use");
  return stop ? done("stop_sequence", stop.sequence) : done("end_turn");
}

function newToolId(): string {
  return `toolu_01${crypto.randomUUID().replaceAll("-", "").slice(0, 22)}`;
}

/** The last text of the last user message: what comes before it may be reminders that a client put in. */
function lastText(messages: readonly Fields[]): string {
  const last = messages.findLast((message) => message.role === "user");
  return asText(blocksOf(last?.content).findLast((block) => block.type === "text")?.text) ?? "";
}

/** Whether the last user message brings results of tools. */
function answered(messages: readonly Fields[]): boolean {
  const last = messages.findLast((message) => message.role === "user");
  return blocksOf(last?.content).some((block) => block.type === "tool_result");
}

function forced(body: Fields): boolean {
  const type = asFields(body.tool_choice)?.type;
  return type === "any" || type === "tool";
}

/** The offered tools that the prompt asks for: named in it, or (`get_weather`) by a telling word of a snake_case name. */
function toolsWanted(body: Fields, asked: string): Fields[] {
  const tools = asList(body.tools).flatMap((tool) => {
    const fields = asFields(tool);
    return fields && (fields.type === undefined || fields.type === "custom") ? [fields] : [];
  });
  const choice = asFields(body.tool_choice);
  if (choice?.type === "none") return [];
  if (choice?.type === "tool") return tools.filter((tool) => tool.name === choice.name);
  const words = new Set(asked.match(/[\p{L}\p{N}_-]+/gu) ?? []);
  const lower = new Set([...words].map((word) => word.toLowerCase()));
  const named = tools.filter((tool) => words.has(String(tool.name)));
  if (named.length > 0 && /\b(?:use|call|run|tools?)\b/i.test(asked)) return onlyOne(choice, named);
  const meant = tools.filter((tool) => {
    const parts = String(tool.name).split("_");
    return parts.length > 1 && parts.some((part) => part.length >= 5 && lower.has(part.toLowerCase()));
  });
  if (meant.length > 0) return onlyOne(choice, meant);
  return choice?.type === "any" ? tools.slice(0, 1) : [];
}

function onlyOne(choice: Fields | undefined, tools: Fields[]): Fields[] {
  return choice?.disable_parallel_tool_use === true ? tools.slice(0, 1) : tools;
}

function answerText(body: Fields, messages: readonly Fields[], asked: string, faults: Faults): string {
  if (faults.events) return "x".repeat(faults.events * (faults.bytes ?? 20));
  const format = asFields(asFields(body.output_config)?.format);
  if (format?.type === "json_schema") return JSON.stringify(sample(format.schema));
  if (answered(messages)) {
    const last = messages.findLast((message) => message.role === "user");
    const results = blocksOf(last?.content).filter((block) => block.type === "tool_result");
    const texts = results.map((result) =>
      blocksOf(result.content)
        .map((block) => asText(block.text) ?? "")
        .join(" "),
    );
    return `The tool says: ${texts.join("; ").slice(0, QUOTED_CHARS)}.`;
  }
  const said = /^say: ?([\s\S]*)$/i.exec(asked)?.[1];
  if (said !== undefined) return said;
  const repeat = /^repeat (\d+) (\S+)\s*$/i.exec(asked);
  if (repeat)
    return Array(Math.min(Number(repeat[1]), MAX_REPEAT))
      .fill(repeat[2])
      .join(" ");
  const quote = asked.replace(/\s+/g, " ").slice(0, QUOTED_CHARS);
  return `Hello from the simulated Claude! You wrote: “${quote}”. I'd gladly help — with that, with Grüße, with 你好 and with a wave 👋.`;
}

/** Where the first stop sequence begins, if one occurs. */
function firstStop(text: string, sequences: readonly string[]): { at: number; sequence: string } | undefined {
  let first: { at: number; sequence: string } | undefined;
  for (const sequence of sequences) {
    const at = text.indexOf(sequence);
    if (at !== -1 && (!first || at < first.at)) first = { at, sequence };
  }
  return first;
}

function chunks(text: string, count: number): string[] {
  const size = Math.ceil(text.length / count);
  return Array.from({ length: count }, (_, i) => text.slice(i * size, (i + 1) * size));
}
