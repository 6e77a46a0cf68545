/**
 * Collects the events of Messages streams into the blocks of one answer (wire notes §4). Total: it never throws, whatever
 * comes, and at any moment what it has can stand in a later request. Pure.
 *
 * One answer may take several calls (`pause_turn`), each with a stream of its own. What a broken stream says behind its
 * error, or before its beginning, counts for nothing.
 */
import type { ContentBlock, Usage } from "../../../clients/typescript/protocol.ts";
import type { StreamEvent } from "../../wire/anthropic/events.ts";
import {
  applyUsage,
  asFields,
  asText,
  emptyUsage,
  type Fields,
  servingModel,
  type Usage as Tokens,
} from "../../wire/anthropic/usage.ts";
import { parseJson } from "../../wire/json.ts";
import { promptOf, toldUsage } from "../usage.ts";
import { isCall, isServerUse, standing } from "./blocks.ts";

/** A block as it grows. */
type Growing = {
  readonly index: unknown;
  /** As far as it has come, but for what `said` has. */
  readonly block: Record<string, unknown> & { readonly type: string };
  /** Its text, what was thought, or a tool's input. */
  readonly said: Said;
  state: "open" | "whole" | "torn";
};

/** Where the stream of the present call stands. */
type Phase = "awaited" | "running" | "finished" | "failed";

/** Stops that come in the middle of whatever is being written. */
const CUTS_SHORT: ReadonlySet<string> = new Set(["max_tokens", "model_context_window_exceeded"]);

export class AnswerBuilder {
  readonly #blocks: Growing[] = [];
  /** Of calls that are over. */
  readonly #before: Tokens[] = [];
  #usage: Tokens | null = null;
  #open: Growing | null = null;
  #phase: Phase = "awaited";
  #model: string | null = null;
  #stopReason: string | null = null;

  push(event: StreamEvent): void {
    if (event.type === "message_start") this.#start(asFields(event.message) ?? {});
    if (this.#phase !== "running") return;
    switch (event.type) {
      case "content_block_delta":
        this.#delta(event.index, asFields(event.delta));
        break;
      case "content_block_start":
        this.#close();
        this.#begin(event.index, asFields(event.content_block));
        break;
      case "content_block_stop":
        if (this.#open?.index === event.index) this.#close();
        break;
      case "message_delta":
        this.#stop(asText(asFields(event.delta)?.stop_reason));
        if (event.usage !== undefined && this.#usage) applyUsage(this.#usage, event.usage);
        break;
      case "message_stop":
        this.#close();
        this.#phase = "finished";
        break;
      case "error":
        this.#phase = "failed";
        break;
    }
  }

  /** Another call of the same turn follows: its blocks are added behind these. Where an answer ended that is understood. */
  goOn(): void {
    if (this.#usage) this.#before.push(this.#usage);
    this.#usage = null;
    if (this.#open) this.#open.state = "torn";
    this.#open = null;
    this.#phase = "awaited";
  }

  /** Who wrote the end of it. */
  get model(): string | null {
    return (this.#usage && servingModel(this.#usage)) ?? this.#model;
  }

  /** Of the call that spoke last. */
  get stopReason(): string | null {
    return this.#stopReason;
  }

  /** Whether the last call's stream has come to its end. */
  get finished(): boolean {
    return this.#phase === "finished";
  }

  /** Of all calls so far, as their events told it. */
  get usage(): Usage {
    return toldUsage(this.#usage ? [...this.#before, this.#usage] : this.#before);
  }

  /** The last call's prompt as upstream counts it. Null: it has not said. */
  get promptTokens(): number | null {
    const usage = this.#last;
    return usage?.stated.input ? promptOf(toldUsage([usage])) : null;
  }

  get outputTokens(): number {
    return this.#last?.outputTokens ?? 0;
  }

  /**
   * What there is of the answer: blocks that are whole, and of one that is not its text. Calls stand in a finished answer
   * only, since nobody answers those of another; a server's tool has its result, or is what the answer paused for.
   */
  content(): readonly ContentBlock[] {
    const { finished } = this;
    // Between two calls the answer is as it was at the pause.
    const paused =
      this.#stopReason === "pause_turn" && (finished || (this.#phase === "awaited" && this.#before.length > 0));
    return standing(this.#blocks.flatMap(told), { isAnswered: () => finished, paused });
  }

  get #last(): Tokens | null {
    return this.#usage ?? this.#before.at(-1) ?? null;
  }

  #start(message: Fields): void {
    // A second beginning inside of an answer is passed over, with the answer going on.
    if (this.#phase === "running" || this.#phase === "failed") return;
    if (this.#phase === "finished") this.goOn();
    this.#phase = "running";
    this.#stopReason = null;
    this.#model = asText(message.model) ?? this.#model;
    this.#usage = emptyUsage();
    applyUsage(this.#usage, message.usage);
  }

  #stop(reason: string | null): void {
    if (reason === null) return;
    this.#stopReason = reason;
    const last = this.#blocks.at(-1);
    // A call that was cut before the first piece of its input reads like one without input.
    if (CUTS_SHORT.has(reason) && last && takesInput(last.block) && last.said.empty) last.state = "torn";
  }

  #begin(index: unknown, fields: Fields | undefined): void {
    const type = asText(fields?.type);
    const block: Growing["block"] = { ...fields, type: type ?? "" };
    if (Array.isArray(block.citations)) block.citations = [...block.citations];
    this.#open = { index, block, said: new Said(), state: "open" };
    // What does not say what it is can't be sent back; its deltas find it, and it is left out.
    if (type !== null) this.#blocks.push(this.#open);
    const begun = type === "text" || type === "thinking" ? asText(fields?.[type]) : null;
    if (begun) this.#open.said.add(begun);
  }

  #delta(index: unknown, delta: Fields | undefined): void {
    const open = this.#open;
    if (open === null || delta === undefined || open.index !== index) return;
    const { block, said } = open;
    switch (delta.type) {
      case "text_delta":
        if (block.type === "text") said.add(asText(delta.text) ?? "");
        break;
      case "thinking_delta":
        if (block.type === "thinking") said.add(asText(delta.thinking) ?? "");
        break;
      case "input_json_delta":
        if (block.type !== "text" && block.type !== "thinking") said.add(asText(delta.partial_json) ?? "");
        break;
      case "signature_delta":
        if (asText(delta.signature) !== null) block.signature = delta.signature;
        break;
      case "citations_delta": {
        if (Array.isArray(block.citations)) block.citations.push(delta.citation);
        else block.citations = [delta.citation];
        break;
      }
      default:
        // `compaction_delta` and its like carry the final fields.
        if (!SAID_IN.has(block.type)) Object.assign(block, delta, { type: block.type });
    }
  }

  #close(): void {
    const open = this.#open;
    if (open === null) return;
    this.#open = null;
    const { block, said } = open;
    open.state = "whole";
    if (SAID_IN.has(block.type)) return;
    const json = said.text;
    if (json !== "") {
      const input = asFields(parseJson(json));
      if (input) block.input = input;
      else open.state = "torn";
    } else if (takesInput(block)) block.input = asFields(block.input) ?? {};
  }
}

/** So many pieces are joined at once. */
const JOINED_PIECES = 256;

/** A text that comes in pieces, joined as they come: a short one by itself costs more than what it says. */
class Said {
  readonly #joined: string[] = [];
  #pieces: string[] = [];

  add(piece: string): void {
    if (piece === "" || this.#pieces.push(piece) < JOINED_PIECES) return;
    this.#joined.push(this.#pieces.join(""));
    this.#pieces = [];
  }

  get empty(): boolean {
    return this.#joined.length + this.#pieces.length === 0;
  }

  get text(): string {
    return [...this.#joined, ...this.#pieces].join("");
  }
}

/** Blocks whose deltas are text, and the field that it is. */
const SAID_IN: ReadonlyMap<string, string> = new Map([
  ["text", "text"],
  ["thinking", "thinking"],
]);

function takesInput(block: ContentBlock): boolean {
  return isCall(block) || isServerUse(block);
}

function told({ block, said, state }: Growing): ContentBlock[] {
  const field = SAID_IN.get(block.type);
  if (field === undefined) return state === "whole" || block.type === "redacted_thinking" ? [block] : [];
  const { text } = said;
  // A character of two units that is cut in two would have the history refused.
  return [{ ...block, [field]: state === "whole" ? text : text.replace(HALF_AT_END, "") }];
}

const HALF_AT_END = /[\ud800-\udbff]$/;
