/**
 * A Messages stream told in chunks of a Chat Completion (OpenAI notes §4.2). A chunk never holds two kinds of things,
 * because clients read but one of them, and is written around a fixed frame, because there is one for each event.
 *
 * Free-form calls, and all calls in the old `function_call` form, are told when they are whole: the text of the first
 * stands inside a JSON string, and of the others it shows only at the end whether the old form has room for them.
 */

import {
  chatId,
  finishReason,
  freeFormCall,
  functionCall,
  legacyCall,
  reasoningDetail,
  refusalOf,
} from "./chat-answer.ts";
import type { Block, Fields, Telling } from "./draft.ts";
import { errorObject } from "./errors.ts";
import { MessageMachine } from "./message-machine.ts";
import {
  type AnswerName,
  SIGN_OF_LIFE,
  type StreamMapper,
  type Teller,
  type ToolCall,
  type WholeMessage,
} from "./stream-mapper.ts";
import { chatUsage } from "./usage.ts";
import { freeFormTextOf } from "./whole-message.ts";

const DONE = "data: [DONE]\n\n";

/** Tells a Messages stream as a Chat Completion's. */
export function chatStream(name: AnswerName, telling: Telling): StreamMapper {
  return new MessageMachine(new ChatTeller(name, telling), telling);
}

class ChatTeller implements Teller {
  readonly #name: AnswerName;
  readonly #telling: Telling;
  /** What stands before a delta and behind it in every chunk. */
  #head = "";
  #tail = "";
  #contentHead = "";
  #argumentsHead = "";
  #calls = 0;
  /** Calls that wait for the end of the message. */
  readonly #held: Fields[] = [];

  constructor(name: AnswerName, telling: Telling) {
    this.#name = name;
    this.#telling = telling;
  }

  start({ id, model }: { readonly id: string; readonly model: string }): string {
    const chunk = {
      id: chatId(id, this.#name),
      object: "chat.completion.chunk",
      created: this.#name.created,
      model,
    };
    this.#head = `data: ${JSON.stringify(chunk).slice(0, -1)},"choices":[`;
    this.#tail = `]${this.#telling.includeUsage ? ',"usage":null' : ""}}\n\n`;
    this.#contentHead = `${this.#head}{"index":0,"delta":{"content":`;
    return this.#delta('{"role":"assistant","content":""}');
  }

  text(_at: number, piece: string): string {
    return `${this.#contentHead}${JSON.stringify(piece)}},"logprobs":null,"finish_reason":null}${this.#tail}`;
  }

  thinking(_at: number, piece: string): string {
    return this.#delta(`{"reasoning_content":${JSON.stringify(piece)}}`);
  }

  thinkingEnd(_at: number, block: Block): string {
    const detail = reasoningDetail(block);
    return detail === null ? "" : this.#delta(JSON.stringify({ reasoning_details: [detail] }));
  }

  toolStart(nth: number, call: ToolCall): string {
    this.#calls++;
    return this.#isHeld(call) ? SIGN_OF_LIFE : this.#callStart(nth, call);
  }

  toolArguments(_nth: number, call: ToolCall, piece: string): string {
    if (this.#isHeld(call)) return SIGN_OF_LIFE;
    return `${this.#argumentsHead}${JSON.stringify(piece)}}}]},"logprobs":null,"finish_reason":null}${this.#tail}`;
  }

  toolEnd(nth: number, call: ToolCall, json: string): string {
    if (!this.#isHeld(call)) return "";
    const whole = call.freeForm ? freeFormCall(call, freeFormTextOf(json), this.#telling) : functionCall(call, json);
    if (!this.#telling.legacyFunctions) return this.#call(nth, whole);
    this.#held.push(whole);
    return "";
  }

  stop(message: WholeMessage): string {
    const refusal = refusalOf(message);
    const refused = refusal === null ? "" : this.#delta(JSON.stringify({ refusal }));
    const legacy = legacyCall(this.#held, this.#telling);
    const held = legacy ? this.#delta(JSON.stringify({ function_call: legacy })) : this.#heldCalls();
    const reason = finishReason(message.stopReason, this.#calls, legacy !== null);
    return `${refused}${held}${this.#delta("{}", `"${reason}"`)}${this.#usage(message)}${DONE}`;
  }

  error(type: string, message: string): string {
    return `data: ${JSON.stringify({ error: errorObject(type, message) })}\n\n`;
  }

  #isHeld(call: ToolCall): boolean {
    return call.freeForm || this.#telling.legacyFunctions;
  }

  #callStart(nth: number, call: ToolCall): string {
    this.#argumentsHead = `${this.#head}{"index":0,"delta":{"tool_calls":[{"index":${nth},"function":{"arguments":`;
    return this.#call(nth, functionCall(call, ""));
  }

  #call(nth: number, call: Fields): string {
    return this.#delta(JSON.stringify({ tool_calls: [{ index: nth, ...call }] }));
  }

  #heldCalls(): string {
    return this.#held.map((call, nth) => this.#call(nth, call)).join("");
  }

  #usage({ usage }: WholeMessage): string {
    if (!this.#telling.includeUsage) return "";
    return `${this.#head}],"usage":${JSON.stringify(chatUsage(usage))}}\n\n`;
  }

  #delta(delta: string, reason = "null"): string {
    return `${this.#head}{"index":0,"delta":${delta},"logprobs":null,"finish_reason":${reason}}${this.#tail}`;
  }
}
