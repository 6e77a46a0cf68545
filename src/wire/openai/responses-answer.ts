/**
 * A whole answer as a Response object (OpenAI notes §5): its items in the order of the blocks, and what of the request is
 * repeated in it. responses-stream.ts tells the same items event by event, so both are made of what stands here.
 */
import { asFields, asText, type Usage } from "../anthropic/usage.ts";
import { type Block, bareName, type Fields, type Telling } from "./draft.ts";
import type { AnswerName, ToolCall, WholeMessage } from "./stream-mapper.ts";
import { responsesUsage } from "./usage.ts";
import { answerId, freeFormText, toolCallOf } from "./whole-message.ts";

/**
 * Makes thinking of a model unreadable for the client who keeps it. The same gives the same text, so that a replay is equal.
 */
export type Seal = (model: string, blocks: readonly Block[]) => Promise<string>;

/** Only the last item of a response can be incomplete. */
type ItemStatus = "in_progress" | "completed" | "incomplete";
export type TextPart = { readonly type: "output_text"; text: string; readonly annotations: []; readonly logprobs: [] };
type RefusalPart = { readonly type: "refusal"; readonly refusal: string };

export type MessageItem = {
  readonly id: string;
  readonly type: "message";
  status: ItemStatus;
  readonly role: "assistant";
  readonly content: (TextPart | RefusalPart)[];
};
export type ReasoningItem = {
  readonly id: string;
  readonly type: "reasoning";
  readonly summary: { readonly type: "summary_text"; text: string }[];
  encrypted_content?: string;
};
export type FunctionCallItem = {
  readonly id: string;
  readonly type: "function_call";
  status: ItemStatus;
  readonly call_id: string;
  readonly namespace?: string;
  readonly name: string;
  arguments: string;
};
export type CustomCallItem = {
  readonly id: string;
  readonly type: "custom_tool_call";
  status: ItemStatus;
  readonly call_id: string;
  readonly namespace?: string;
  readonly name: string;
  input: string;
};
export type CallItem = FunctionCallItem | CustomCallItem;
export type Item = MessageItem | ReasoningItem | CallItem;

/** The id of the response that a message becomes. */
export function responseId(messageId: string, name: AnswerName): string {
  return answerId("resp_", messageId, name);
}

/**
 * Makes the items of one response. Their ids say which block of the message each begins with, or which of its calls it is,
 * so that a client can refer to them later on (item-reference.ts).
 */
export class ItemMaker {
  readonly #tail: string;

  constructor(messageId: string, name: AnswerName) {
    this.#tail = answerId("", messageId, name);
  }

  message(at: number): MessageItem {
    return { id: this.#id("msg", at), type: "message", status: "in_progress", role: "assistant", content: [] };
  }

  reasoning(at: number): ReasoningItem {
    return { id: this.#id("rs", at), type: "reasoning", summary: [] };
  }

  call(nth: number, { id, name, freeForm, namespace }: ToolCall): CallItem {
    const called = namespace === undefined ? { name } : { namespace, name: bareName(namespace, name) };
    const known = { status: "in_progress", call_id: id, ...called } as const;
    return freeForm
      ? { id: this.#id("ctc", nth), type: "custom_tool_call", ...known, input: "" }
      : { id: this.#id("fc", nth), type: "function_call", ...known, arguments: "" };
  }

  #id(prefix: string, number: number): string {
    return `${prefix}_${this.#tail}_${number}`;
  }
}

export function textPart(text: string): TextPart {
  return { type: "output_text", text, annotations: [], logprobs: [] };
}

/** How a response ends. */
export type Ending = {
  readonly status: "completed" | "incomplete";
  readonly reason: "max_output_tokens" | "content_filter" | null;
  /** Why the model refused, in words. */
  readonly refusal: string | null;
};

export function endingOf({ stopReason, stopDetails }: WholeMessage): Ending {
  switch (stopReason) {
    case "max_tokens":
    case "model_context_window_exceeded":
      return { status: "incomplete", reason: "max_output_tokens", refusal: null };
    case "refusal":
      return { status: "incomplete", reason: "content_filter", refusal: asText(stopDetails?.explanation) || null };
    default:
      return { status: "completed", reason: null, refusal: null };
  }
}

/** What of a response changes while it is made; the rest is repeated from its request. */
export type ResponseState = {
  readonly id: string;
  readonly created: number;
  readonly model: string;
  readonly status: "in_progress" | "completed" | "incomplete" | "failed";
  readonly reason: Ending["reason"];
  readonly error: { readonly code: string; readonly message: string } | null;
  readonly output: readonly Item[];
  readonly usage: Usage | null;
};

/** What a client that asked for nothing in particular is told it asked for. */
const UNASKED: Fields = {
  background: false,
  instructions: null,
  max_output_tokens: null,
  max_tool_calls: null,
  metadata: {},
  parallel_tool_calls: true,
  previous_response_id: null,
  reasoning: { effort: null, summary: null },
  safety_identifier: null,
  service_tier: "auto",
  store: true,
  temperature: null,
  text: { format: { type: "text" } },
  tool_choice: "auto",
  tools: [],
  top_logprobs: 0,
  top_p: null,
  truncation: "disabled",
  user: null,
};

/** The members of a Response that repeat its request, as JSON without the braces: a stream says them three times. */
export function echoOf(telling: Telling): string {
  return JSON.stringify({
    ...UNASKED,
    ...telling.echo,
    previous_response_id: telling.previousResponseId,
    store: telling.store,
  }).slice(1, -1);
}

/** A Response as JSON. `echo` is `echoOf` its telling. */
export function responseJson(state: ResponseState, echo: string): string {
  const { id, created, model, status, reason, error, output, usage } = state;
  const changing = {
    id,
    object: "response",
    created_at: created,
    status,
    error,
    incomplete_details: reason === null ? null : { reason },
    model,
    output,
    usage: usage && responsesUsage(usage),
  };
  return `${JSON.stringify(changing).slice(0, -1)},${echo}}`;
}

/** The answer to a call that is not streamed. */
export async function responsesAnswer(
  message: WholeMessage,
  name: AnswerName,
  telling: Telling,
  seal: Seal,
): Promise<string> {
  const ending = endingOf(message);
  const output = await itemsOf(message, ending, new ItemMaker(message.id, name), telling, seal);
  const { status, reason } = ending;
  const { model, usage } = message;
  const id = responseId(message.id, name);
  return responseJson(
    { id, created: name.created, model, status, reason, error: null, output, usage },
    echoOf(telling),
  );
}

async function itemsOf(
  { model, content }: WholeMessage,
  ending: Ending,
  make: ItemMaker,
  telling: Telling,
  seal: Seal,
): Promise<Item[]> {
  const items: Item[] = [];
  let calls = 0;
  for (const [at, block] of content.entries()) {
    switch (block.type) {
      case "text":
        addText(items, asText(block.text) ?? "", () => make.message(at));
        break;
      case "thinking":
      case "redacted_thinking": {
        const text = asText(block.thinking) ?? "";
        const keeps = telling.encryptedReasoning && sealable(block);
        if (text === "" && !keeps) break;
        const item = make.reasoning(at);
        if (text !== "") item.summary.push({ type: "summary_text", text });
        if (keeps) item.encrypted_content = await seal(model, [block]);
        items.push(item);
        break;
      }
      case "tool_use":
        items.push(calledItem(block, make.call(calls++, toolCallOf(block, telling))));
        break;
    }
  }
  if (ending.refusal !== null) {
    const open = messageOf(items, () => make.message(content.length));
    open.content.push({ type: "refusal", refusal: ending.refusal });
  }
  for (const item of items) if (item.type !== "reasoning") item.status = "completed";
  const last = items.at(-1);
  if (last && last.type !== "reasoning") last.status = ending.status;
  return items;
}

/** The message that stands last, or else a new one. */
function messageOf(items: Item[], make: () => MessageItem): MessageItem {
  const last = items.at(-1);
  if (last?.type === "message") return last;
  const made = make();
  items.push(made);
  return made;
}

function addText(items: Item[], text: string, make: () => MessageItem): void {
  if (text === "") return;
  const { content } = messageOf(items, make);
  const part = content[0];
  if (part?.type === "output_text") part.text += text;
  else content.push(textPart(text));
}

function calledItem(block: Block, item: CallItem): CallItem {
  const input = asFields(block.input) ?? {};
  if (item.type === "function_call") item.arguments = JSON.stringify(input);
  else item.input = freeFormText(input);
  return item;
}

/** Whether upstream would take a block back: without its signature it would not. */
export function sealable(block: Block): boolean {
  return Boolean(block.type === "thinking" ? asText(block.signature) : asText(block.data));
}
