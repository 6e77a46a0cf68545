/** Which of the offered tools the simulated Claude calls, and with what input. */
import { asFields, asList, asText, type Fields } from "./json.ts";
import { sample } from "./sample.ts";

/** A word this long of a tool's name is telling: `weather` in `get_weather`. */
const TELLING_CHARS = 5;

export type ToolCall = { readonly name: string; readonly input: string };

/** Whether the request leaves no choice but to call a tool. */
export function forcesTool(body: Fields): boolean {
  const type = asFields(body.tool_choice)?.type;
  return type === "any" || type === "tool";
}

/** The calls that the prompt asks for, or that `tool_choice` forces. The input is JSON that fits the tool's schema. */
export function toolCalls(body: Fields, asked: string): ToolCall[] {
  const tools = asList(body.tools).flatMap((tool) => {
    const fields = asFields(tool);
    return fields && (fields.type === undefined || fields.type === null || fields.type === "custom") ? [fields] : [];
  });
  if (tools.length === 0) return [];
  const choice = asFields(body.tool_choice);
  const wanted = chosen(choice, tools, asked);
  const called = choice?.disable_parallel_tool_use === true ? wanted.slice(0, 1) : wanted;
  return called.map((tool) => {
    const input = sample(tool.input_schema);
    const text = JSON.stringify(asFields(input) ?? {});
    return { name: String(tool.name), input: text === "{}" ? "" : text };
  });
}

function chosen(choice: Fields | undefined, tools: readonly Fields[], asked: string): readonly Fields[] {
  if (choice?.type === "none") return [];
  if (choice?.type === "tool") return tools.filter((tool) => tool.name === choice.name);
  const words = new Set(asked.match(/[\p{L}\p{N}_-]+/gu) ?? []);
  const telling = /\b(?:use|call|run|tools?)\b/i.test(asked);
  // `Read` is a word as well as a tool, `get_weather` is nothing else.
  const named = tools.filter(({ name }) => words.has(String(name)) && (telling || /[_\d-]/.test(String(name))));
  if (named.length > 0) return named;
  const lower = new Set([...words].map((word) => word.toLowerCase()));
  const meant = tools.filter((tool) => {
    const parts = (asText(tool.name) ?? "").split("_");
    return parts.length > 1 && parts.some((part) => part.length >= TELLING_CHARS && lower.has(part.toLowerCase()));
  });
  if (meant.length > 0) return meant;
  return choice?.type === "any" ? tools.slice(0, 1) : [];
}
