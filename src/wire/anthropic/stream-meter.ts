/**
 * Reads an Anthropic event stream off to the side of the bytes that flow to the client. It is fed pieces cut
 * anywhere, decodes only the few events that carry usage, and keeps at most one line of them. It never throws:
 * what it cannot read makes the count an estimate and nothing else.
 *
 * Lines end in LF, CRLF or CR and a byte order mark may lead, as the SDKs accept it (wire notes §4.5).
 */
import { joined } from "../../pieces.ts";
import { parseJson } from "../json.ts";
import { type AnswerFacts, noFacts } from "./answer.ts";
import { applyUsage, asFields, asText, servingModel } from "./usage.ts";

/** A line of an event that matters is a few hundred bytes; one longer than this is passed over. */
const MAX_LINE_BYTES = 1024 * 1024;
/** The JSON around the text of a delta event, in bytes, for estimates of tokens from bytes. */
const DELTA_ENVELOPE_BYTES = 85;
/** English text has about four bytes to a token; three keeps the estimate on the dear side. */
const BYTES_PER_TOKEN = 3;
/** An assumption with room: the speeds that are published for the fastest models stay below it. */
const MAX_TOKENS_PER_SECOND = 300;
/** In the first bytes of a block's first event stands what kind of block it is. */
const BLOCK_HEAD_BYTES = 128;

const LF = 10;
const CR = 13;
const decoder = new TextDecoder();
const encoder = new TextEncoder();
const EVENT = encoder.encode("event:");
const DATA = encoder.encode("data:");
const DELTA_NAME = encoder.encode("content_block_delta");
const BLOCK_NAME = encoder.encode("content_block_");
const BLOCK_START_NAME = encoder.encode("content_block_start");
const BLOCK_STOP_NAME = encoder.encode("content_block_stop");
const PING_NAME = encoder.encode("ping");
const START_NAME = encoder.encode("message_start");
const ERROR_NAME = encoder.encode("error");

export class StreamMeter {
  readonly facts: AnswerFacts = noFacts();
  /** `message_stop` has arrived, blank line included. */
  finished = false;
  /** An `error` event has arrived: the stream is over, and the client knows. */
  failed = false;
  /** What the first whole event was; null until its blank line has arrived. Comments and bare fields are no event. */
  first: { readonly error: boolean; readonly data: string } | null = null;
  /** Something other than pings and comments has come. Set back by whoever asks. */
  heard = false;
  /**
   * The model has not begun to show anything: a message, and perhaps a block of thinking, stands open. An upstream is
   * silent then by nature.
   */
  quiet = true;
  /** Bytes of text in deltas since the last cumulative count. */
  private deltaBytes = 0;
  /** A thinking block stands open: more may have been thought than has been shown, or nothing of it be shown at all. */
  private thinking = false;

  private carry: Uint8Array | undefined;
  /** The rest of the present line is too long, or of no interest. */
  private skipping = false;
  private swallowLf = false;
  private firstLine = true;
  private dirty = false;
  private matters = true;
  /** The present event's bytes are output. */
  private isDelta = false;
  private isBlockStart = false;
  private isPing = false;
  private isError = false;
  /** The present block of lines has a name or data: it is an event. */
  private isEvent = false;
  private data: string[] = [];

  /** Whether the stream stands inside an event that no blank line has ended yet. */
  get insideEvent(): boolean {
    return this.dirty || this.carry !== undefined || this.skipping;
  }

  /** Whether the stream stands inside an event that is named `error`. */
  get insideError(): boolean {
    return this.isError;
  }

  /**
   * Tokens written so far, for a stream whose end nobody will see: upstream's own last count, and what came since then.
   *
   * Bound: not below the true count where a token has three bytes or more on average, as in English and most code; not
   * below upstream's last count, nor above `maxTokens` unless that count is. Thinking shows as a summary or not
   * at all while it runs, so inside a thinking block the time since the stream began (`elapsedMs`) bounds it: as many
   * tokens as the fastest model could have written. When the block ends its signature arrives, which holds all that was
   * thought and is counted like text. Without `elapsedMs` an open thinking block counts for what it shows, and the
   * truth lies between that and `maxTokens`.
   */
  estimateOutputTokens(maxTokens: number | null = null, elapsedMs = 0): number {
    const counted = this.facts.usage.outputTokens;
    const shown = Math.ceil(this.deltaBytes / BYTES_PER_TOKEN);
    const thought = this.thinking ? Math.ceil((Math.max(0, elapsedMs) / 1_000) * MAX_TOKENS_PER_SECOND) : 0;
    return Math.max(counted, Math.min(counted + Math.max(shown, thought), maxTokens ?? Number.POSITIVE_INFINITY));
  }

  push(chunk: Uint8Array): void {
    let at = 0;
    if (this.swallowLf && chunk.length > 0) {
      if (chunk[0] === LF) at = 1;
      this.swallowLf = false;
    }
    let nextCr = chunk.indexOf(CR, at);
    while (at < chunk.length) {
      let end = chunk.indexOf(LF, at);
      if (nextCr !== -1 && nextCr < at) nextCr = chunk.indexOf(CR, at);
      if (nextCr !== -1 && (end === -1 || nextCr < end)) end = nextCr;
      if (end === -1) {
        this.keep(chunk.subarray(at));
        return;
      }
      this.line(chunk.subarray(at, end));
      at = end + 1;
      if (chunk[end] === CR) {
        if (at === chunk.length) this.swallowLf = true;
        else if (chunk[at] === LF) at++;
      }
    }
  }

  /** Keeps the beginning of a line until its end arrives, unless nobody will ask for it. */
  private keep(piece: Uint8Array): void {
    if (this.skipping) {
      if (this.isDelta) this.deltaBytes += piece.length;
      if (this.isEvent && !this.isPing) this.heard = true;
      return;
    }
    const line = this.carry ? joined([this.carry, piece]) : piece.slice();
    const boring = !this.matters && startsWith(line, DATA) && !(this.isBlockStart && line.length < BLOCK_HEAD_BYTES);
    if (boring && this.isBlockStart) this.readBlockStart(line);
    if (this.isEvent && !this.isPing && startsWith(line, DATA)) this.heard = true;
    if (!boring && line.length <= MAX_LINE_BYTES) {
      this.carry = line;
      return;
    }
    if (!boring) this.facts.usage.estimated = true;
    if (boring && this.isDelta) this.deltaBytes += Math.max(0, line.length - DELTA_ENVELOPE_BYTES);
    this.carry = undefined;
    this.skipping = true;
    this.dirty = true;
  }

  private line(piece: Uint8Array): void {
    if (this.skipping) {
      if (this.isDelta) this.deltaBytes += piece.length;
      this.skipping = false;
      this.isEvent = true;
      return;
    }
    let line = this.carry ? joined([this.carry, piece]) : piece;
    this.carry = undefined;
    if (this.firstLine) {
      this.firstLine = false;
      if (line[0] === 0xef && line[1] === 0xbb && line[2] === 0xbf) line = line.subarray(3);
    }
    if (line.length === 0) {
      this.dispatch();
      return;
    }
    this.dirty = true;
    if (startsWith(line, DATA)) {
      this.isEvent = true;
      if (this.matters) this.data.push(decoder.decode(line.subarray(line[5] === 0x20 ? 6 : 5)));
      else {
        if (this.isBlockStart) this.readBlockStart(line);
        if (this.isDelta) this.deltaBytes += Math.max(0, line.length - DELTA_ENVELOPE_BYTES);
      }
    } else if (startsWith(line, EVENT)) {
      const name = line.subarray(line[6] === 0x20 ? 7 : 6);
      this.isEvent = true;
      this.isPing = startsWith(name, PING_NAME);
      this.isError = name.length === ERROR_NAME.length && startsWith(name, ERROR_NAME);
      this.isDelta = startsWith(name, DELTA_NAME);
      this.isBlockStart = startsWith(name, BLOCK_START_NAME);
      if (startsWith(name, BLOCK_STOP_NAME)) this.thinking = false;
      this.matters = !startsWith(name, BLOCK_NAME) && !this.isPing;
      if (this.quiet) this.quiet = this.isPing || this.isBlockStart || startsWith(name, START_NAME);
    }
  }

  /** Notes whether a thinking block begins. Redacted thinking and a tool's name are all there at once, and count. */
  private readBlockStart(line: Uint8Array): void {
    const head = decoder.decode(line.subarray(0, BLOCK_HEAD_BYTES));
    this.thinking = /"type":\s*"thinking"/.test(head);
    if (!this.thinking) this.quiet = false;
    this.isDelta = /"type":\s*"(?:redacted_thinking|(?:\w+_)?tool_use)"/.test(head);
    this.isBlockStart = false;
  }

  private dispatch(): void {
    const { data, matters, isEvent, isError, isPing } = this;
    this.dirty = false;
    this.matters = true;
    this.isDelta = false;
    this.isBlockStart = false;
    this.isPing = false;
    this.isError = false;
    this.isEvent = false;
    if (!isEvent) return;
    if (data.length > 0) this.data = [];
    const text = data.length > 0 && matters ? data.join("\n") : null;
    const type = text === null ? null : this.event(text);
    // The SDKs go by the name, whatever the data is.
    if (isError) this.failed = true;
    if (!isPing && type !== "ping") this.heard = true;
    this.first ??= { error: this.failed, data: this.failed ? (text ?? "") : "" };
  }

  /** Notes what an event says, and returns its type. */
  private event(text: string): string | null {
    const { facts } = this;
    const event = asFields(parseJson(text));
    if (!event) facts.usage.estimated = true;
    switch (event?.type) {
      case "message_start": {
        const message = asFields(event.message);
        facts.model = asText(message?.model);
        applyUsage(facts.usage, message?.usage);
        break;
      }
      case "message_delta":
        applyUsage(facts.usage, event.usage);
        facts.model = servingModel(facts.usage) ?? facts.model;
        facts.stopReason = asText(asFields(event.delta)?.stop_reason) ?? facts.stopReason;
        this.deltaBytes = 0;
        break;
      case "message_stop":
        this.finished = true;
        break;
      case "error":
        this.failed = true;
        facts.errorType = asText(asFields(event.error)?.type);
        break;
    }
    return asText(event?.type);
  }
}

function startsWith(bytes: Uint8Array, prefix: Uint8Array): boolean {
  for (let i = 0; i < prefix.length; i++) if (bytes[i] !== prefix[i]) return false;
  return true;
}
