/**
 * A stream as the Responses API tells it (OpenAI notes §5): items one after the other, each with its events, closed before
 * the next one opens. An item opens with the first that there is to show of it, so empty blocks leave no trace. A message
 * and a call are not told to be done until something else comes: adjacent text shares a message, and only the end of the
 * stream tells whether the last item is whole.
 */
import type { Block, Telling } from "./draft.ts";
import { MessageMachine } from "./message-machine.ts";
import {
  type CallItem,
  echoOf,
  endingOf,
  type Item,
  ItemMaker,
  type MessageItem,
  type ReasoningItem,
  type ResponseState,
  responseId,
  responseJson,
  type Seal,
  sealable,
  type TextPart,
  textPart,
} from "./responses-answer.ts";
import {
  type AnswerName,
  SIGN_OF_LIFE,
  type StreamMapper,
  type Teller,
  type Told,
  type ToolCall,
  type WholeMessage,
} from "./stream-mapper.ts";
import { freeFormTextOf } from "./whole-message.ts";

/**
 * Tells a Messages stream as a Response's. What is pushed has to be awaited before the next event is, where it is a promise:
 * thinking is being sealed.
 */
export function responsesStream(name: AnswerName, telling: Telling, seal: Seal): StreamMapper {
  return new MessageMachine(new ResponsesTeller(name, telling, seal), telling);
}

class ResponsesTeller implements Teller {
  readonly #name: AnswerName;
  readonly #seal: Seal;
  readonly #encrypts: boolean;
  readonly #echo: string;
  #sequence = 0;
  #started = false;
  #id: string;
  #model = "";
  #make: ItemMaker;
  readonly #output: Item[] = [];
  /** The last one of `output`, as long as it is not told to be done. */
  #open: MessageItem | CallItem | ReasoningItem | null = null;
  /** The text of the open message, as long as more of it can come. */
  #text: TextPart | null = null;
  /** The place of the last item, as its events have it. */
  #where = "";
  /** All that stands before a delta of the open item: there is one for nearly each event of upstream's. */
  #deltaHead = "";

  constructor(name: AnswerName, telling: Telling, seal: Seal) {
    this.#name = name;
    this.#id = responseId("", name);
    this.#make = new ItemMaker("", name);
    this.#seal = seal;
    this.#encrypts = telling.encryptedReasoning;
    this.#echo = echoOf(telling);
  }

  start({ id, model }: { readonly id: string; readonly model: string }): string {
    this.#id = responseId(id, this.#name);
    this.#model = model;
    this.#make = new ItemMaker(id, this.#name);
    return this.#begin();
  }

  text(at: number, delta: string): string {
    const told = this.#text === null ? this.#openText(at) : "";
    if (this.#text) this.#text.text += delta;
    return told + this.#delta(delta);
  }

  thinking(at: number, delta: string): string {
    const told = this.#open?.type === "reasoning" ? "" : this.#openSummary(at);
    const part = this.#open?.type === "reasoning" ? this.#open.summary[0] : undefined;
    if (part) part.text += delta;
    return told + this.#delta(delta);
  }

  thinkingEnd(at: number, block: Block): Told {
    const keeps = this.#encrypts && sealable(block);
    let told = this.#open?.type === "reasoning" ? this.#endSummary(this.#open) : "";
    if (keeps && this.#open?.type !== "reasoning") told += this.#openItem(this.#make.reasoning(at));
    const item = this.#open;
    if (item?.type !== "reasoning") return told;
    this.#open = null;
    if (!keeps) return told + this.#itemDone(item);
    // Its place in the order is taken now, though what is sealed comes later.
    const sequence = this.#sequence++;
    const place = this.#output.length - 1;
    return this.#seal(this.#model, [block]).then((sealed) => {
      item.encrypted_content = sealed;
      return told + itemDone(sequence, place, item);
    });
  }

  toolStart(nth: number, call: ToolCall): string {
    const told = this.#openItem(this.#make.call(nth, call));
    this.#expect("response.function_call_arguments.delta", "");
    return told;
  }

  toolArguments(_nth: number, _call: ToolCall, delta: string): string {
    // What a free-form tool is called with stands inside of JSON, which can be read when it is whole.
    if (this.#open?.type !== "function_call") return SIGN_OF_LIFE;
    this.#open.arguments += delta;
    return this.#delta(delta);
  }

  toolEnd(_nth: number, _call: ToolCall, json: string): string {
    const item = this.#open;
    if (item?.type === "function_call") {
      item.arguments = json;
      const said = `"name":${JSON.stringify(item.name)},"arguments":${JSON.stringify(json)}`;
      return this.#event("response.function_call_arguments.done", said);
    }
    if (item?.type !== "custom_tool_call") return "";
    item.input = freeFormTextOf(json);
    const input = JSON.stringify(item.input);
    return (
      (item.input === "" ? "" : this.#event("response.custom_tool_call_input.delta", `"delta":${input}`)) +
      this.#event("response.custom_tool_call_input.done", `"input":${input}`)
    );
  }

  stop(message: WholeMessage): string {
    const { status, reason, refusal } = endingOf(message);
    const { model, usage, content } = message;
    this.#model = model;
    return (
      (refusal === null ? "" : this.#refuse(refusal, content.length)) +
      this.#close(status) +
      this.#whole(status, { status, reason, usage })
    );
  }

  error(type: string, message: string): string {
    const told = this.#started ? "" : this.#begin();
    if (this.#open && this.#open.type !== "reasoning") this.#open.status = "incomplete";
    return told + this.#whole("failed", { status: "failed", error: { code: errorCode(type), message } });
  }

  #begin(): string {
    this.#started = true;
    const state = { status: "in_progress" } as const;
    return this.#whole("created", state) + this.#whole("in_progress", state);
  }

  #openText(at: number): string {
    const item = this.#make.message(at);
    const part = textPart("");
    const told = this.#openItem(item) + this.#addPart(item, part);
    this.#text = part;
    this.#expect("response.output_text.delta", '"content_index":0,"logprobs":[],');
    return told;
  }

  #addPart(item: MessageItem, part: MessageItem["content"][number]): string {
    item.content.push(part);
    return this.#event("response.content_part.added", partMembers(item));
  }

  #openSummary(at: number): string {
    const item = this.#make.reasoning(at);
    const told = this.#openItem(item);
    item.summary.push({ type: "summary_text", text: "" });
    this.#expect("response.reasoning_summary_text.delta", '"summary_index":0,');
    return told + this.#event("response.reasoning_summary_part.added", summaryMembers(item));
  }

  #endSummary(item: ReasoningItem): string {
    const text = JSON.stringify(item.summary[0]?.text ?? "");
    return (
      this.#event("response.reasoning_summary_text.done", `"summary_index":0,"text":${text}`) +
      this.#event("response.reasoning_summary_part.done", summaryMembers(item))
    );
  }

  /** The refusal is the last part of the open message, or a message of its own. It comes whole. */
  #refuse(refusal: string, at: number): string {
    const open = this.#open?.type === "message" ? this.#open : null;
    const item = open ?? this.#make.message(at);
    const told = open ? this.#endPart(open) : this.#openItem(item);
    const added = this.#addPart(item, { type: "refusal", refusal: "" });
    item.content[item.content.length - 1] = { type: "refusal", refusal };
    const part = `"content_index":${item.content.length - 1}`;
    return told + added + this.#event("response.refusal.delta", `${part},"delta":${JSON.stringify(refusal)}`);
  }

  /** The last part is whole. */
  #endPart(item: MessageItem): string {
    const part = item.content.at(-1);
    if (!part) return "";
    const at = `"content_index":${item.content.length - 1}`;
    const done =
      part.type === "output_text"
        ? this.#event("response.output_text.done", `${at},"logprobs":[],"text":${JSON.stringify(part.text)}`)
        : this.#event("response.refusal.done", `${at},"refusal":${JSON.stringify(part.refusal)}`);
    return done + this.#event("response.content_part.done", partMembers(item));
  }

  #openItem(item: Item): string {
    const told = this.#close("completed");
    const at = this.#output.push(item) - 1;
    this.#open = item;
    this.#where = `"output_index":${at},"item_id":${JSON.stringify(item.id)}`;
    return (
      told + line("response.output_item.added", this.#sequence++, `"output_index":${at},"item":${JSON.stringify(item)}`)
    );
  }

  /** Nothing more comes of the open item. */
  #close(status: "completed" | "incomplete"): string {
    const item = this.#open;
    this.#open = null;
    this.#text = null;
    if (!item) return "";
    const told = item.type === "message" ? this.#endPart(item) : "";
    if (item.type !== "reasoning") item.status = status;
    return told + this.#itemDone(item);
  }

  #itemDone(item: Item): string {
    return itemDone(this.#sequence++, this.#output.length - 1, item);
  }

  /** The open item gets deltas of this type. */
  #expect(type: string, members: string): void {
    this.#deltaHead = `event: ${type}\ndata: {"type":"${type}",${this.#where},${members}"delta":`;
  }

  #delta(delta: string): string {
    return `${this.#deltaHead}${JSON.stringify(delta)},"sequence_number":${this.#sequence++}}\n\n`;
  }

  /** An event of the last item. */
  #event(type: string, members: string): string {
    return line(type, this.#sequence++, `${this.#where},${members}`);
  }

  /** An event that holds the response as it is now. */
  #whole(type: string, now: Pick<ResponseState, "status"> & Partial<ResponseState>): string {
    const state = {
      id: this.#id,
      created: this.#name.created,
      model: this.#model,
      output: this.#output,
      reason: null,
      error: null,
      usage: null,
      ...now,
    };
    return line(`response.${type}`, this.#sequence++, `"response":${responseJson(state, this.#echo)}`);
  }
}

function line(type: string, sequence: number, members: string): string {
  return `event: ${type}\ndata: {"type":"${type}","sequence_number":${sequence},${members}}\n\n`;
}

function itemDone(sequence: number, at: number, item: Item): string {
  return line("response.output_item.done", sequence, `"output_index":${at},"item":${JSON.stringify(item)}`);
}

/** The last part of a message. */
function partMembers({ content }: MessageItem): string {
  return `"content_index":${content.length - 1},"part":${JSON.stringify(content.at(-1))}`;
}

function summaryMembers({ summary }: ReasoningItem): string {
  return `"summary_index":0,"part":${JSON.stringify(summary[0])}`;
}

/** The words for it that the Responses API has. */
function errorCode(type: string): string {
  switch (type) {
    case "rate_limit_error":
      return "rate_limit_exceeded";
    case "invalid_request_error":
    case "request_too_large":
      return "invalid_prompt";
    default:
      return "server_error";
  }
}
