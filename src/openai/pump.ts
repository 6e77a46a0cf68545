/**
 * The native stream of an answer, told in another dialect: what has come of it is read, mapped and handed on in one go, at
 * the client's pace. It ends when the native one does:
 * - its message is over: nothing is added;
 * - it broke, or ended early: the mapper's own last words;
 * - the client left: the native stream is cancelled, and whoever owns that sees to the upstream.
 * An `error` that was told is the end too; a native stream that goes on after it, since only the mapper found a fault with
 * it, is cancelled.
 */

import { EventReader, type StreamEvent } from "../wire/anthropic/events.ts";
import type { StreamMapper, WholeMessage } from "../wire/openai/stream-mapper.ts";
import { within } from "../within.ts";

/** As much is read at once as has come, up to this. An event is some 150 bytes; a stream holds the buffer while it waits. */
const PIECE_BYTES = 4 * 1024;
/**
 * Of a stream that is told. What is told is kept to its end; 128,000 tokens come in some 25 MB, each an event of its own,
 * and what is kept of them is a tenth of that.
 */
export const MAX_STREAM_BYTES = 64 * 1024 * 1024;
/** So long the end of an answer waits for what is to be kept of it: the next turn may come at once. */
const KEEP_DEADLINE_MS = 1_000;

/** So long a native stream may take to end by itself after an error: then it is settled as what it was. */
const CLOSING_MS = 1_000;

/** Given the message just before its end is told: null if nothing of it is to be kept, or resolves when that is. */
export type BeforeEnd = (message: WholeMessage) => Promise<void> | null;

/** The end of a stream, read but not told, while something is being kept. */
type Held = { readonly events: readonly StreamEvent[]; readonly kept: Promise<void> };

const encoder = new TextEncoder();

export function toldStream(
  native: ReadableStream<Uint8Array>,
  mapper: StreamMapper,
  beforeEnd: BeforeEnd,
): ReadableStream<Uint8Array> {
  const pump = new Pump(native, mapper, beforeEnd);
  return new ReadableStream<Uint8Array>(
    {
      pull: async (controller) => {
        const text = await pump.next().catch(async (bug: unknown) => {
          await pump.cancel();
          throw bug;
        });
        if (text === null) controller.close();
        else controller.enqueue(encoder.encode(text));
      },
      cancel: () => pump.cancel(),
    },
    // Nothing is read ahead of the client.
    { highWaterMark: 0 },
  );
}

class Pump {
  readonly #reader: ReadableStreamBYOBReader;
  readonly #mapper: StreamMapper;
  readonly #beforeEnd: BeforeEnd;
  readonly #events = new EventReader();
  #buffer: ArrayBuffer | undefined;
  #held: Held | null = null;
  #left = MAX_STREAM_BYTES;
  #over = false;

  constructor(native: ReadableStream<Uint8Array>, mapper: StreamMapper, beforeEnd: BeforeEnd) {
    this.#reader = native.getReader({ mode: "byob" });
    this.#mapper = mapper;
    this.#beforeEnd = beforeEnd;
  }

  /** What there is to say next, at least a character of it; null: nothing more. */
  async next(): Promise<string | null> {
    while (!this.#over) {
      const text = await (this.#held ? this.#tellEnd(this.#held) : this.#read());
      if (this.#mapper.failed) this.#finish();
      if (text !== "") return text;
    }
    return null;
  }

  cancel(): Promise<void> {
    this.#over = true;
    // Where the source has broken, that is known already.
    return this.#reader.cancel().catch(() => {});
  }

  async #read(): Promise<string> {
    const piece = await this.#piece();
    this.#left -= piece?.byteLength ?? 0;
    if (piece && this.#left >= 0) return this.#tell(this.#events.read(piece));
    await this.cancel();
    return this.#mapper.end();
  }

  /** The client has its end, whatever the native stream still does. */
  #finish(): void {
    this.#over = true;
    const rest = async (): Promise<void> => {
      while (await this.#piece());
    };
    void within(CLOSING_MS, rest()).catch(() => this.cancel());
  }

  /** Valid until the next one is read; null: that was all, whatever the reason. */
  async #piece(): Promise<Uint8Array | null> {
    try {
      const { done, value } = await this.#reader.read(new Uint8Array(this.#buffer ?? new ArrayBuffer(PIECE_BYTES)));
      if (done || !value) return null;
      this.#buffer = value.buffer;
      return value;
    } catch {
      return null;
    }
  }

  /** All that these events say; an end that has to wait for what is kept comes later. */
  async #tell(events: readonly StreamEvent[]): Promise<string> {
    let text = "";
    for (const [at, event] of events.entries()) {
      const { message } = this.#mapper;
      const kept = event.type === "message_stop" && message ? this.#beforeEnd(message) : null;
      if (kept) {
        this.#held = { events: events.slice(at), kept };
        break;
      }
      const told = this.#mapper.push(event);
      text += typeof told === "string" ? told : await told;
    }
    return text;
  }

  async #tellEnd({ events, kept }: Held): Promise<string> {
    this.#held = null;
    await keptInTime(kept);
    let text = "";
    for (const event of events) text += await this.#mapper.push(event);
    return text;
  }
}

/** Waits for what is kept, but not for long: the client has its answer all the same. */
export async function keptInTime(kept: Promise<void>): Promise<void> {
  await within(KEEP_DEADLINE_MS, kept).catch((error: unknown) => {
    console.error(JSON.stringify({ level: "error", msg: "turn_not_kept", error: String(error) }));
  });
}
