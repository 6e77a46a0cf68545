/**
 * Answers that are neither a Message nor its stream and may be of any size (files, results of batches): they flow to the
 * client piece by piece, and no more of one is in memory than a piece. What breaks off upstream breaks off at the client
 * too: a cut answer is never closed as if it were complete.
 */
import type { CallTimer } from "../call-timer.ts";
import { err, ok, type Result } from "../result.ts";
import { type AnswerFacts, noFacts } from "../wire/anthropic/answer.ts";
import type { Failure } from "../wire/errors.ts";
import { clock } from "./leases.ts";
import type { OpenStream, StreamEnd } from "./tap.ts";

const PIECE_BYTES = 64 * 1024;
/** How often it is asked whether the answer may go on: with what is known of its key, a revocation cuts within 2 s. */
const ASK_EVERY_MS = 1_000;

/** Looks at what flows, off to the side. What it throws stops the answer. */
export type Onlooker = {
  /** Told each piece before it goes on; the piece is only lent. */
  see(piece: Uint8Array): Promise<void> | undefined;
  /** Told the end before the client is; `whole`: it came to it as it should. Returns what was learned. */
  over(whole: boolean): Promise<AnswerFacts>;
};

/** Sees nothing. */
export const nobody: Onlooker = { see: () => undefined, over: async () => noFacts() };

export type FlowOptions = {
  /** Aborts the upstream call. */
  readonly abort: AbortController;
  readonly timer: CallTimer;
  /** Longest gap between two pieces, ms. */
  readonly silenceMs: number;
  /** Length of the whole, where upstream has told it. */
  readonly length: number | null;
  /** Whether the client is known to have left. */
  readonly clientGone: () => boolean;
  readonly onlooker: Onlooker;
  /** Asked while pieces come; false cuts the answer. */
  readonly mayGoOn?: () => Promise<boolean>;
};

/** Waits for the first piece, as long as its caller lets it, and then lets the answer flow. */
export async function flow(
  body: ReadableStream<Uint8Array>,
  options: FlowOptions,
): Promise<Result<OpenStream, Failure>> {
  const reader = body.getReader({ mode: "byob" });
  const first = await reader.read(new Uint8Array(PIECE_BYTES)).catch((): null => null);
  if (first === null) return err({ kind: "upstream_cut" });
  const { length } = options;
  const relay = length === null ? new IdentityTransformStream() : new FixedLengthStream(length);
  return ok({ readable: relay.readable, ended: pump(reader, first, relay.writable.getWriter(), options) });
}

/** Resolves with how it ended; never rejects. */
async function pump(
  reader: ReadableStreamBYOBReader,
  first: ReadableStreamReadResult<Uint8Array>,
  toClient: WritableStreamDefaultWriter<Uint8Array>,
  { abort, timer, silenceMs, clientGone, onlooker, mayGoOn }: FlowOptions,
): Promise<StreamEnd> {
  // Whose fault it is if the next thing fails.
  let step: "upstream_cut" | "client_gone" | "error" = "error";
  let errorType = "api_error";
  let askedAt = clock.now();
  try {
    for (let next = first; !next.done; ) {
      const { value } = next;
      step = "error";
      const seen = onlooker.see(value);
      if (seen) await seen;
      step = "client_gone";
      await toClient.write(value);
      step = "upstream_cut";
      timer.limit(silenceMs, () => abort.abort());
      next = await reader.read(new Uint8Array(value.buffer));
      timer.inTime();
      if (!mayGoOn || Math.abs(clock.now() - askedAt) < ASK_EVERY_MS) continue;
      askedAt = clock.now();
      if (await mayGoOn()) continue;
      errorType = "authentication_error";
      throw new Error("The key has been revoked.");
    }
    step = "error";
    const facts = await onlooker.over(true);
    step = "client_gone";
    await toClient.close();
    return { outcome: "complete", facts, errorType: null };
  } catch (error) {
    timer.inTime();
    abort.abort();
    if (step === "upstream_cut" && clientGone()) step = "client_gone";
    let facts = noFacts();
    try {
      if (step === "error") throw error;
      facts = await onlooker.over(false);
    } catch (reason) {
      console.error(JSON.stringify({ level: "error", msg: "answer_stopped", error: String(reason) }));
    }
    // Without it the client would wait for the rest for ever.
    await toClient.abort(new Error("The answer ended before it was complete.")).catch(ignoreTeardown);
    return { outcome: step, facts, errorType: step === "client_gone" ? null : errorType };
  }
}

/** The client may have left already; that is known by then. */
function ignoreTeardown(): void {}
