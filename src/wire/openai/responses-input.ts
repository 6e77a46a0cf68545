/**
 * The `input` of a Responses body as turns, item by item (OpenAI notes §5). Items of one side that follow each other make one
 * turn: a model's thinking, words and calls come as items of their own.
 */
import { err, ok, type Result } from "../../result.ts";
import { MAX_MESSAGES } from "../anthropic/request.ts";
import { asFields, asText } from "../anthropic/usage.ts";
import type { Failure } from "../errors.ts";
import { markLast, REFERENCE, SEALED, toolResult } from "./blocks.ts";
import { MessageReader } from "./chat-messages.ts";
import { type Block, type Fields, inNamespace, refuse, type Turn } from "./draft.ts";
import { FieldReader, readCacheControl, toolInput } from "./fields.ts";
import { readParts } from "./parts.ts";

type ReadTurn = Result<Turn | null, Failure>;

/**
 * Reads `input`. `freeForm` names the tools whose input is plain text, also where a client tells their calls as functions'.
 * `goesOn`: what came before is stored, so there may be nothing new.
 */
export function readInput(input: unknown, freeForm: ReadonlySet<string>, goesOn: boolean): Result<Turn[], Failure> {
  if (typeof input === "string") return ok([{ role: "user", content: [{ type: "text", text: input }] }]);
  if ((input ?? null) === null) {
    if (goesOn) return ok([]);
    return err(refuse("Missing required parameter: 'input'.", "input", "missing_required_parameter"));
  }
  if (!Array.isArray(input)) {
    return err(refuse("Invalid type for 'input': expected a string or an array of items.", "input", "invalid_type"));
  }
  if (input.length === 0 && !goesOn) return err(refuse("'input' must have at least one item.", "input", "empty_array"));
  if (input.length > MAX_MESSAGES) {
    return err(refuse(`'input' has more than ${MAX_MESSAGES} items.`, "input", "array_above_max_length"));
  }
  const messages = new MessageReader(freeForm);
  const turns: Turn[] = [];
  for (let i = 0; i < input.length; i++) {
    const turn = readItem(asFields(input[i]), `input[${i}]`, messages, freeForm);
    if (!turn.ok) return turn;
    if (turn.value) add(turns, turn.value);
  }
  return ok(turns);
}

function add(turns: Turn[], turn: Turn): void {
  const last = turns.at(-1);
  if (last?.role !== turn.role || turn.role === "system") turns.push(turn);
  // Not spread into one call: a hundred thousand arguments are too many for it.
  else for (const block of turn.content) last.content.push(block);
}

function readItem(
  item: Fields | undefined,
  param: string,
  messages: MessageReader,
  freeForm: ReadonlySet<string>,
): ReadTurn {
  if (!item) return err(refuse(`'${param}' must be an item object.`, param, "invalid_type"));
  const type = item.type ?? null;
  if (type === null) return isReference(item) ? readReference(item, param) : messages.read(item, param);
  switch (type) {
    case "message":
      return messages.read(item, param);
    case "function_call":
      return readCall(item, "json", param, freeForm);
    case "custom_tool_call":
      return readCall(item, "text", param, freeForm);
    case "function_call_output":
    case "custom_tool_call_output":
      return readOutput(item, param);
    case "reasoning":
      return ok(readReasoningItem(item));
    case REFERENCE:
      return readReference(item, param);
    default: {
      const named = typeof type === "string" ? ` of type '${type.slice(0, 64)}'` : "";
      return err(refuse(`Input items${named} are not supported by this gateway.`, param, "unsupported_value"));
    }
  }
}

const isReference = ({ role, id }: Fields): boolean => role === undefined && typeof id === "string";

function readCall(item: Fields, written: "json" | "text", param: string, freeForm: ReadonlySet<string>): ReadTurn {
  const fields = new FieldReader(item, `${param}.`);
  const id = fields.required("call_id");
  const called = fields.required("name");
  const namespace = fields.text("namespace");
  if (fields.failure) return err(fields.failure);
  const name = namespace ? inNamespace(namespace, called) : called;
  const isText = written === "text" || freeForm.has(name);
  const input = toolInput(written === "text" ? item.input : item.arguments, isText);
  return marked({ role: "assistant", content: [{ type: "tool_use", id, name, input }] }, item, param);
}

function readOutput(item: Fields, param: string): ReadTurn {
  const fields = new FieldReader(item, `${param}.`);
  const id = fields.required("call_id");
  if (fields.failure) return err(fields.failure);
  const content = readParts(item.output, `${param}.output`, "tool");
  if (!content.ok) return content;
  return marked({ role: "user", content: [toolResult(id, content.value, false)] }, item, param);
}

/** With the cache breakpoint that the item carries, if any. */
function marked(turn: Turn, item: Fields, param: string): ReadTurn {
  const cache = readCacheControl(item, param);
  if (!cache.ok) return cache;
  if (cache.value) markLast(turn.content, cache.value);
  return ok(turn);
}

/** Only what is sealed goes back: a summary is no thinking of Claude's. */
function readReasoningItem({ encrypted_content: sealed }: Fields): Turn | null {
  const data = asText(sealed);
  return data ? { role: "assistant", content: [{ type: SEALED, data }] } : null;
}

function readReference(item: Fields, param: string): ReadTurn {
  const fields = new FieldReader(item, `${param}.`);
  const data = fields.required("id");
  if (fields.failure) return err(fields.failure);
  const block: Block = { type: REFERENCE, data, param };
  return ok({ role: "assistant", content: [block] });
}
