/** A Messages answer as JSON, read into the shape in which both forms of OpenAI's API are told from. */
import { readMessage } from "../anthropic/answer.ts";
import { asFields, asText } from "../anthropic/usage.ts";
import { parseJson } from "../json.ts";
import { type Block, type Fields, FREE_FORM_FIELD, type Telling } from "./draft.ts";
import type { AnswerName, ToolCall, WholeMessage } from "./stream-mapper.ts";

/** What a model is called that upstream gives no name; clients take no answer without one. */
export const NAMELESS_MODEL = "claude";

/** A Message as upstream's body has it; null for a body that is none. Of a call that stands for the answer only its text is left. */
export function wholeMessage(body: unknown, telling: Pick<Telling, "jsonTool"> = {}): WholeMessage | null {
  const fields = asFields(body);
  if (fields?.type !== "message" || !Array.isArray(fields.content)) return null;
  const { usage, model } = readMessage(fields);
  return {
    id: asText(fields.id) ?? "",
    model: model ?? NAMELESS_MODEL,
    content: fields.content
      .map(blockOf)
      .filter((block) => block !== null)
      .map((block) =>
        isAnswer(block, telling) ? { type: "text", text: JSON.stringify(asFields(block.input) ?? {}) } : block,
      ),
    stopReason: asText(fields.stop_reason),
    stopDetails: asFields(fields.stop_details) ?? null,
    usage,
  };
}

/** A block of an answer; null for what has no type. */
export function blockOf(value: unknown): Block | null {
  const fields = asFields(value);
  const type = asText(fields?.type);
  return fields === undefined || type === null ? null : { ...fields, type };
}

/** Whether a block is the tool that stands for the format that was asked for. Its input is the answer's text. */
export function isAnswer({ type, name }: Block, { jsonTool }: Pick<Telling, "jsonTool">): boolean {
  return jsonTool !== undefined && type === "tool_use" && name === jsonTool;
}

/** The call that a `tool_use` block makes, by the client's own name for its tool. */
export function toolCallOf(block: Block, { tools }: Telling): ToolCall {
  const called = asText(block.name) ?? "";
  const tool = tools.get(called);
  return { name: called, freeForm: false, ...tool, id: asText(block.id) ?? "" };
}

/** The text in a free-form tool's input; the input itself where Claude kept to no form. */
export function freeFormText(input: Fields): string {
  const text = input[FREE_FORM_FIELD];
  if (typeof text === "string") return text;
  const values = Object.values(input);
  const [only] = values;
  if (values.length === 1 && typeof only === "string") return only;
  return values.length === 0 ? "" : JSON.stringify(input);
}

/** The same of an input as it was streamed, which may be cut anywhere. */
export function freeFormTextOf(json: string): string {
  const input = asFields(parseJson(json)) ?? asFields(parseJson(`${json}}`)) ?? asFields(parseJson(endedString(json)));
  if (input) return freeFormText(input);
  return BEFORE_TEXT.test(json) ? "" : json;
}

/** An input that was cut before its text began. */
const BEFORE_TEXT = /^\s*\{\s*(?:"[^"]*"?\s*:?\s*)?$/;

/** An object that was cut inside a string, with both of their ends put in place. */
function endedString(json: string): string {
  // Of what is escaped only the last can be torn, and an even number of backslashes is none.
  const torn = /(?<!\\)(?:\\\\)*(\\(?:u[0-9a-fA-F]{0,3})?)$/.exec(json)?.[1] ?? "";
  return `${json.slice(0, json.length - torn.length)}"}`;
}

/** An answer's id, from the id of the message that it tells: the same at every replay. */
export function answerId(prefix: string, messageId: string, name: AnswerName): string {
  return prefix + (messageId === "" ? name.id : messageId).replace(/^[a-z]+[_-]/, "");
}
