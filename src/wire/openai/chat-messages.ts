/** The messages of a Chat body as turns, in the client's order and in its words; ids and names are still its own. */
import { err, ok, type Result } from "../../result.ts";
import { MAX_MESSAGES } from "../anthropic/request.ts";
import { asFields, asText } from "../anthropic/usage.ts";
import type { Failure } from "../errors.ts";
import { isThinking, markLast, toolResult } from "./blocks.ts";
import { CallsInOrder } from "./calls-in-order.ts";
import { type Block, type Fields, refuse, type Turn } from "./draft.ts";
import { readCacheControl, toolInput } from "./fields.ts";
import { readParts, readReasoning } from "./parts.ts";

type Blocks = Result<Block[], Failure>;

/** Reads `messages`. `freeForm` names the tools whose input is plain text, which JSON must not be looked for in. */
export function readMessages(messages: unknown, freeForm: ReadonlySet<string>): Result<Turn[], Failure> {
  if (messages === undefined || messages === null) {
    return err(refuse("Missing required parameter: 'messages'.", "messages", "missing_required_parameter"));
  }
  if (!Array.isArray(messages)) {
    return err(refuse("Invalid type for 'messages': expected an array of messages.", "messages", "invalid_type"));
  }
  if (messages.length === 0) {
    return err(refuse("'messages' must have at least one message.", "messages", "empty_array"));
  }
  if (messages.length > MAX_MESSAGES) {
    return err(refuse(`'messages' has more than ${MAX_MESSAGES} entries.`, "messages", "array_above_max_length"));
  }
  const reader = new MessageReader(freeForm);
  const turns: Turn[] = [];
  for (let i = 0; i < messages.length; i++) {
    const turn = reader.read(messages[i], `messages[${i}]`);
    if (!turn.ok) return turn;
    turns.push(turn.value);
  }
  return ok(turns);
}

export class MessageReader {
  readonly #freeForm: ReadonlySet<string>;
  readonly #calls = new CallsInOrder();

  constructor(freeForm: ReadonlySet<string>) {
    this.#freeForm = freeForm;
  }

  read(written: unknown, param: string): Result<Turn, Failure> {
    const message = asFields(written);
    if (!message) return err(refuse(`'${param}' must be a message object.`, param, "invalid_type"));
    const role = roleOf(message.role);
    if (role === null) {
      const known = "'system', 'developer', 'user', 'assistant', 'tool' and 'function'";
      return err(refuse(`'${param}.role' must be one of ${known}.`, `${param}.role`, "invalid_value"));
    }
    const content = this.#content(message, role, param);
    if (!content.ok) return content;
    const cache = readCacheControl(message, param);
    if (!cache.ok) return cache;
    if (cache.value) markLast(content.value, cache.value);
    return ok({ role: role === "tool" || role === "function" ? "user" : role, content: content.value });
  }

  #content(message: Fields, role: Role, param: string): Blocks {
    if (role === "assistant") return this.#assistant(message, param);
    if (role === "tool" || role === "function") return this.#result(message, role, param);
    return readParts(message.content, `${param}.content`, role);
  }

  /** Thinking first, then what was said, then what was called: the order in which Claude wrote it. */
  #assistant(message: Fields, param: string): Blocks {
    if ((message.audio ?? null) !== null) {
      return err(refuse("Audio is not supported by this gateway.", `${param}.audio`, "unsupported_parameter"));
    }
    const said = readParts(message.content, `${param}.content`, "assistant");
    if (!said.ok) return said;
    const calls = this.#callsOf(message, said.value, param);
    if (!calls.ok) return calls;
    const refusal = asText(message.refusal);
    if (refusal !== null) said.value.push({ type: "text", text: refusal });
    // LiteLLM's name for Anthropic's blocks; only thinking is looked for.
    const native = readParts(asThinking(message.thinking_blocks), `${param}.thinking_blocks`, "assistant");
    if (!native.ok) return native;
    const thoughts = native.value.length
      ? native.value
      : readReasoning(message.reasoning_details, message.reasoning_content ?? message.reasoning);
    return ok(
      said.value.some(isThinking) ? [...said.value, ...calls.value] : [...thoughts, ...said.value, ...calls.value],
    );
  }

  #callsOf(message: Fields, said: readonly Block[], param: string): Blocks {
    const written = message.tool_calls ?? [];
    if (!Array.isArray(written)) {
      return err(refuse(`'${param}.tool_calls' must be an array.`, `${param}.tool_calls`, "invalid_type"));
    }
    // Where a client writes its calls as Anthropic's blocks and as OpenAI's, they are the same ones.
    const known = new Set<unknown>();
    for (const block of said) if (block.type === "tool_use") known.add(block.id);
    const legacy = message.function_call ?? null;
    if (known.size > 0 || written.length > 0 || legacy !== null) this.#calls.begin();
    for (const block of said) if (block.type === "tool_use") this.#calls.add(block.id as string, block.name as string);
    const blocks: Block[] = [];
    for (let i = 0; i < written.length; i++) {
      const block = this.#toolCall(written[i], `${param}.tool_calls[${i}]`, known);
      if (!block.ok) return block;
      if (block.value) blocks.push(block.value);
    }
    if (legacy === null || blocks.length > 0 || known.size > 0) return ok(blocks);
    const call = this.#call(null, legacy, "arguments", `${param}.function_call`);
    return call.ok ? ok([call.value]) : call;
  }

  #toolCall(written: unknown, param: string, known: ReadonlySet<unknown>): Result<Block | null, Failure> {
    const call = asFields(written);
    if (!call) return err(refuse(`'${param}' must be a tool call.`, param, "invalid_type"));
    const id = call.id ?? null;
    if (id !== null && typeof id !== "string") {
      return err(refuse(`'${param}.id' must be a string.`, `${param}.id`, "invalid_type"));
    }
    if (known.has(id)) return ok(null);
    const free = call.type === "custom" || (call.function === undefined && asFields(call.custom) !== undefined);
    const field = free ? "custom" : "function";
    const block = this.#call(id || null, call[field], free ? "input" : "arguments", `${param}.${field}`);
    if (!block.ok) return block;
    const cache = readCacheControl(call, param);
    if (!cache.ok) return cache;
    if (cache.value) block.value.cache_control = cache.value;
    return block;
  }

  #call(id: string | null, written: unknown, field: "arguments" | "input", param: string): Result<Block, Failure> {
    const called = asFields(written);
    if (!called) return err(refuse(`'${param}' must be an object.`, param, "invalid_type"));
    const { name } = called;
    if (typeof name !== "string" || name === "") {
      return err(refuse(`'${param}.name' must be a string.`, `${param}.name`, "invalid_type"));
    }
    const input = toolInput(called[field], field === "input" || this.#freeForm.has(name));
    return ok({ type: "tool_use", id: this.#calls.add(id, name), name, input });
  }

  #result(message: Fields, role: "tool" | "function", param: string): Blocks {
    const id = message.tool_call_id ?? null;
    if (id !== null && typeof id !== "string") {
      return err(refuse(`'${param}.tool_call_id' must be a string.`, `${param}.tool_call_id`, "invalid_type"));
    }
    const content = readParts(message.content, `${param}.content`, "tool");
    if (!content.ok) return content;
    const of = this.#calls.answer((role === "tool" && id) || null, asText(message.name));
    return ok([toolResult(of, content.value, message.is_error === true)]);
  }
}

type Role = "system" | "user" | "assistant" | "tool" | "function";
const ROLES: readonly Role[] = ["system", "user", "assistant", "tool", "function"];

const roleOf = (role: unknown): Role | null =>
  role === "developer" ? "system" : (ROLES.find((each) => each === role) ?? null);

const asThinking = (blocks: unknown): unknown[] =>
  Array.isArray(blocks)
    ? blocks.filter((each) => {
        const type = asFields(each)?.type;
        return type === "thinking" || type === "redacted_thinking";
      })
    : [];
