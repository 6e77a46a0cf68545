/**
 * Reads an Anthropic event stream off to the side of the bytes that flow to the client. It is fed pieces cut
 * anywhere, decodes only the few events that carry usage, and keeps at most one line of them. It never throws:
 * what it cannot read makes the count an estimate and nothing else.
 *
 * Lines end in LF, CRLF or CR and a byte order mark may lead, as the SDKs accept it (wire notes §4.5).
 */
import { parseJson } from "../json.ts";
import { type AnswerFacts, noFacts } from "./answer.ts";
import { applyUsage, asFields, asText } from "./usage.ts";

/** A line of an event that matters is a few hundred bytes; one longer than this is passed over. */
const MAX_LINE_BYTES = 1024 * 1024;
/** The JSON around the text of a delta event, in bytes, for estimates of tokens from bytes. */
const DELTA_ENVELOPE_BYTES = 85;
/** English text has about four bytes to a token; three keeps the estimate on the dear side. */
const BYTES_PER_TOKEN = 3;

const LF = 10;
const CR = 13;
const decoder = new TextDecoder();
const encoder = new TextEncoder();
const EVENT = encoder.encode("event:");
const DATA = encoder.encode("data:");
const DELTA_NAME = encoder.encode("content_block_delta");
const BLOCK_NAME = encoder.encode("content_block_");
const PING_NAME = encoder.encode("ping");

export class StreamMeter {
  readonly facts: AnswerFacts = noFacts();
  /** `message_stop` has arrived, blank line included. */
  finished = false;
  /** An `error` event has arrived: the stream is over, and the client knows. */
  failed = false;
  /** Bytes of text in deltas since the last cumulative count. */
  private deltaBytes = 0;

  private carry: Uint8Array | undefined;
  /** The rest of the present line is too long, or of no interest. */
  private skipping = false;
  private swallowLf = false;
  private firstLine = true;
  private dirty = false;
  private matters = true;
  private isDelta = false;
  private data: string[] = [];

  /** Whether the stream stands inside an event that no blank line has ended yet. */
  get insideEvent(): boolean {
    return this.dirty || this.carry !== undefined || this.skipping;
  }

  /** Tokens written so far: upstream's own last count, or more if the text since then says so. */
  estimateOutputTokens(): number {
    return this.facts.usage.outputTokens + Math.ceil(this.deltaBytes / BYTES_PER_TOKEN);
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
      return;
    }
    const line = this.carry ? join(this.carry, piece) : piece.slice();
    const boring = !this.matters && startsWith(line, DATA);
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
      return;
    }
    let line = this.carry ? join(this.carry, piece) : piece;
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
      if (this.matters) this.data.push(decoder.decode(line.subarray(line[5] === 0x20 ? 6 : 5)));
      else if (this.isDelta) this.deltaBytes += Math.max(0, line.length - DELTA_ENVELOPE_BYTES);
    } else if (startsWith(line, EVENT)) {
      const name = line.subarray(line[6] === 0x20 ? 7 : 6);
      this.isDelta = startsWith(name, DELTA_NAME);
      this.matters = !startsWith(name, BLOCK_NAME) && !startsWith(name, PING_NAME);
    }
  }

  private dispatch(): void {
    const { data, matters } = this;
    this.dirty = false;
    this.matters = true;
    this.isDelta = false;
    if (data.length === 0) return;
    this.data = [];
    if (matters) this.event(data.join("\n"));
  }

  private event(text: string): void {
    const { facts } = this;
    const event = asFields(parseJson(text));
    if (!event) facts.usage.estimated = true;
    switch (event?.type) {
      case "message_start": {
        const message = asFields(event.message);
        facts.model = asText(message?.model);
        applyUsage(facts.usage, message?.usage);
        return;
      }
      case "message_delta":
        applyUsage(facts.usage, event.usage);
        facts.stopReason = asText(asFields(event.delta)?.stop_reason) ?? facts.stopReason;
        this.deltaBytes = 0;
        return;
      case "message_stop":
        this.finished = true;
        return;
      case "error":
        this.failed = true;
        facts.errorType = asText(asFields(event.error)?.type);
        return;
    }
  }
}

function startsWith(bytes: Uint8Array, prefix: Uint8Array): boolean {
  for (let i = 0; i < prefix.length; i++) if (bytes[i] !== prefix[i]) return false;
  return true;
}

function join(a: Uint8Array, b: Uint8Array): Uint8Array {
  const whole = new Uint8Array(a.length + b.length);
  whole.set(a);
  whole.set(b, a.length);
  return whole;
}
