/**
 * Follows a Messages stream and has each of its events told in another dialect. The one place that knows the order of
 * things: which block stands open, how many tools were called, what the counts add up to, and when it is over. A teller
 * (chat-stream.ts, responses-stream.ts) only finds the words.
 *
 * What reaches a teller is well-formed whatever upstream sends: one start before all else, blocks one after another, each
 * closed before the next begins, and one end, `stop` or `error`, after which nothing is told. Blocks that OpenAI has no
 * form for (server tools, their results, unknown ones) are kept, and told as signs of life.
 */
import type { StreamEvent } from "../anthropic/events.ts";
import { applyUsage, asFields, asText, emptyUsage, servingModel } from "../anthropic/usage.ts";
import { parseJson } from "../json.ts";
import type { Block, Fields, Telling } from "./draft.ts";
import {
  SIGN_OF_LIFE,
  type StreamMapper,
  type Teller,
  type Told,
  type ToolCall,
  type WholeMessage,
} from "./stream-mapper.ts";
import { blockOf, isAnswer, NAMELESS_MODEL, toolCallOf } from "./whole-message.ts";

/** What is told of an upstream that stops speaking before its message is over. */
const CUT_SHORT = "The upstream API ended its answer before it was complete.";
const SECOND_START = "The upstream API began a second answer inside the first.";
const NO_MESSAGE = "The upstream API ended its answer with an error.";

/** The block that stands open. */
type Open = {
  /** Upstream's number for it. */
  readonly index: unknown;
  /** Its place in the message. */
  readonly at: number;
  readonly block: Block;
  /** How many tools were called before. */
  readonly nth: number;
  /** Text that comes as the input of a tool. */
  readonly isJson: boolean;
  /** Text, what was thought, or a tool's JSON, as far as it has come. */
  said: string;
} & ({ readonly kind: "tool"; readonly call: ToolCall } | { readonly kind: "text" | "thinking" | "hidden" });

export class MessageMachine implements StreamMapper {
  readonly #teller: Teller;
  readonly #telling: Telling;
  readonly #content: Block[] = [];
  readonly #usage = emptyUsage();
  #start: { readonly id: string; readonly model: string } | null = null;
  #open: Open | null = null;
  #calls = 0;
  #stopReason: string | null = null;
  #stopDetails: Fields | null = null;
  #message: WholeMessage | null = null;
  #over = false;
  #failed = false;

  constructor(teller: Teller, telling: Telling) {
    this.#teller = teller;
    this.#telling = telling;
  }

  get message(): WholeMessage | null {
    return this.#message;
  }

  get failed(): boolean {
    return this.#failed;
  }

  push(event: StreamEvent): Told {
    if (this.#over) return "";
    switch (event.type) {
      case "content_block_delta":
        return this.#delta(event.index, asFields(event.delta));
      case "content_block_start":
        return this.#start === null ? "" : then(this.#close(), () => this.#blockStart(event));
      case "content_block_stop":
        return this.#open?.index === event.index ? this.#close() : "";
      case "message_start":
        return this.#messageStart(asFields(event.message) ?? {});
      case "message_delta":
        return this.#messageDelta(event);
      case "message_stop":
        return this.#start === null ? "" : then(this.#close(), () => this.#stop());
      case "error": {
        const error = asFields(event.error);
        return this.#fail(asText(error?.type) ?? "api_error", asText(error?.message) ?? NO_MESSAGE);
      }
      default:
        return SIGN_OF_LIFE;
    }
  }

  end(): Told {
    return this.#over ? "" : this.#fail("api_error", CUT_SHORT);
  }

  #messageStart(message: Fields): Told {
    // Whatever comes next would be taken for more of what was told already.
    if (this.#start !== null) return this.#fail("api_error", SECOND_START);
    this.#start = { id: asText(message.id) ?? "", model: asText(message.model) ?? NAMELESS_MODEL };
    applyUsage(this.#usage, message.usage);
    return this.#teller.start(this.#start);
  }

  #blockStart(event: StreamEvent): Told {
    const begun = blockOf(event.content_block) ?? { type: "unknown" };
    const isJson = isAnswer(begun, this.#telling);
    const block: Block = isJson ? { type: "text", text: "" } : begun;
    const { type } = block;
    const at = this.#content.length;
    this.#content.push(block);
    const begin = { index: event.index, at, block, nth: this.#calls, isJson, said: "" };
    const open: Open =
      type === "tool_use"
        ? { ...begin, kind: "tool", call: toolCallOf(block, this.#telling) }
        : { ...begin, kind: KINDS.get(type) ?? "hidden" };
    this.#open = open;
    switch (open.kind) {
      case "text":
      case "thinking":
        return this.#say(open, asText(block[open.kind]) ?? "");
      case "tool":
        this.#calls++;
        return this.#teller.toolStart(open.nth, open.call);
      case "hidden":
        return SIGN_OF_LIFE;
    }
  }

  #delta(index: unknown, delta: Fields | undefined): Told {
    const open = this.#open;
    if (open === null || delta === undefined || open.index !== index) return "";
    switch (delta.type) {
      case "text_delta":
        return open.kind === "text" ? this.#say(open, asText(delta.text) ?? "") : "";
      case "thinking_delta":
        return open.kind === "thinking" ? this.#say(open, asText(delta.thinking) ?? "") : "";
      case "input_json_delta":
        return open.kind === "tool" || open.kind === "hidden" || open.isJson
          ? this.#say(open, asText(delta.partial_json) ?? "")
          : "";
      case "signature_delta":
        open.block.signature = delta.signature;
        return "";
      case "citations_delta":
        open.block.citations = appended(open.block.citations, delta.citation);
        return SIGN_OF_LIFE;
      default:
        // `compaction_delta` carries the block's final fields.
        if (open.kind === "hidden") Object.assign(open.block, { ...delta, type: open.block.type });
        return SIGN_OF_LIFE;
    }
  }

  /** Tells a piece of the open block. */
  #say(open: Open, piece: string): string {
    if (piece === "") return "";
    open.said += piece;
    switch (open.kind) {
      case "text":
        return this.#teller.text(open.at, piece);
      case "thinking":
        return this.#teller.thinking(open.at, piece);
      case "tool":
        return this.#teller.toolArguments(open.nth, open.call, piece);
      case "hidden":
        return SIGN_OF_LIFE;
    }
  }

  #close(): Told {
    const open = this.#open;
    if (open === null) return "";
    this.#open = null;
    const { block, at, nth } = open;
    switch (open.kind) {
      case "text": {
        const rest = open.isJson && open.said === "" ? this.#say(open, "{}") : "";
        block.text = open.said;
        return rest;
      }
      case "thinking":
        if (block.type === "thinking") block.thinking = open.said;
        return this.#teller.thinkingEnd(at, block);
      case "tool": {
        // Without a piece of it, the input is what the block began with, `{}` as a rule.
        const rest = open.said === "" ? this.#say(open, JSON.stringify(asFields(block.input) ?? {})) : "";
        block.input = asFields(parseJson(open.said)) ?? {};
        return rest + this.#teller.toolEnd(nth, open.call, open.said);
      }
      case "hidden":
        if (open.said !== "") block.input = asFields(parseJson(open.said)) ?? {};
        return "";
    }
  }

  #messageDelta(event: StreamEvent): Told {
    if (this.#start === null) return "";
    const delta = asFields(event.delta);
    this.#stopReason = asText(delta?.stop_reason) ?? this.#stopReason;
    this.#stopDetails = asFields(delta?.stop_details) ?? this.#stopDetails;
    if (event.usage !== undefined) applyUsage(this.#usage, event.usage);
    this.#message = this.#whole(this.#start);
    return "";
  }

  #stop(): Told {
    if (this.#start === null) return "";
    this.#over = true;
    this.#message = this.#whole(this.#start);
    return this.#teller.stop(this.#message);
  }

  #fail(type: string, message: string): Told {
    this.#over = true;
    this.#failed = true;
    this.#open = null;
    return this.#teller.error(type, message);
  }

  #whole(start: { readonly id: string; readonly model: string }): WholeMessage {
    return {
      id: start.id,
      model: servingModel(this.#usage) ?? start.model,
      content: this.#content,
      stopReason: this.#stopReason,
      stopDetails: this.#stopDetails,
      usage: this.#usage,
    };
  }
}

const KINDS: ReadonlyMap<string, "text" | "thinking"> = new Map([
  ["text", "text"],
  ["thinking", "thinking"],
  ["redacted_thinking", "thinking"],
]);

function appended(list: unknown, item: unknown): unknown[] {
  const items: unknown[] = Array.isArray(list) ? list : [];
  items.push(item);
  return items;
}

/** One thing after another, and at once where there is nothing to wait for. */
function then(first: Told, next: () => Told): Told {
  if (typeof first === "string") return join(first, next());
  return first.then(async (told) => told + (await next()));
}

function join(first: string, second: Told): Told {
  return typeof second === "string" ? first + second : second.then((told) => first + told);
}
