/**
 * An admitted call goes to the upstream, and its answer comes back untouched. Everything here is plain data and web
 * types, so that it runs the same in the Worker and in a Durable Object that outlives the client.
 */
import { readCapped } from "../body.ts";
import type { Settings } from "../env.ts";
import { err, ok, type Result } from "../result.ts";
import { askUpstream } from "../upstream/ask.ts";
import { type AnswerFacts, noFacts, readAnswer } from "../wire/anthropic/answer.ts";
import type { Failure } from "../wire/errors.ts";
import { clientResponse } from "../wire/headers.ts";
import { clock } from "./leases.ts";
import type { CallRecord } from "./settle.ts";
import { type OpenStream, openStream } from "./tap.ts";

/** Answers that are not streamed are held until they are whole, so that a cut one can still become a status code. */
const MAX_ANSWER_BYTES = 64 * 1024 * 1024;
/** What nginx and others write for a client that left before its answer; nobody ever receives it. */
export const CLIENT_GONE_STATUS = 499;
/** An answer is read for nobody no longer than this. The platform keeps an object for a call for 15 minutes. */
const MAX_DRAIN_MS = 600_000;
const NO_BODY_STATUS = new Set([204, 205, 304]);
const decoder = new TextDecoder();

/** What is sent to the upstream. */
export type Forwarding = {
  readonly url: string;
  readonly method: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Uint8Array | null;
};

export type ForwardOptions = {
  /** Rewrites a complete 200 answer; null leaves its bytes as they are. */
  readonly rewrite?: (text: string) => string | null;
  /**
   * Asked when the client leaves: null stops the upstream, a function lets the answer be read to its end, and is called
   * then.
   */
  readonly drain?: () => (() => void) | null;
  /** Asked while a stream runs: false cuts it. */
  readonly mayGoOn?: () => Promise<boolean>;
};

/**
 * Sends the call and settles it when it is over. A failure is left for the caller to answer with and to settle; a client
 * that left before its answer is settled here.
 */
export async function forward(
  forwarding: Forwarding,
  record: CallRecord,
  signal: AbortSignal,
  settings: Settings,
  options: ForwardOptions = {},
): Promise<Result<Response, Failure | "client gone">> {
  const { timeouts } = settings;
  const { facts } = record;
  const abort = new AbortController();
  const leaver = new Leaver(abort, options.drain);
  if (signal.aborted) abort.abort();
  else signal.addEventListener("abort", () => leaver.clientLeft(), { once: true });
  const asked = await askUpstream({
    ...forwarding,
    abort,
    timer: record.timer,
    limit: facts.stream
      ? { phase: "first byte", limitMs: timeouts.firstByteMs }
      : { phase: "total", limitMs: timeouts.totalMs },
    // A stream is read by the tap; everything else is held until it is whole.
    read: async (response): Promise<Result<OpenStream | Uint8Array, Failure>> => {
      if (isEventStream(response)) {
        return openStream(response.body, {
          abort,
          timeouts,
          requestId: facts.requestId,
          maxTokens: facts.maxTokens,
          clientLeft: () => leaver.clientLeft(),
          clientGone: () => signal.aborted,
          ...(options.mayGoOn ? { mayGoOn: options.mayGoOn } : {}),
        });
      }
      record.firstByteAt = clock.now();
      const bytes = await readCapped(response, response.headers.get("content-length"), MAX_ANSWER_BYTES);
      return bytes === "too large" ? err({ kind: "upstream_cut" }) : ok(bytes);
    },
  });
  if (!asked.ok) {
    leaver.over();
    if (!signal.aborted) return asked;
    record.settle({ status: CLIENT_GONE_STATUS, outcome: "client_gone", facts: unseen(record) });
    return err("client gone");
  }
  const { response, content } = asked.value;
  record.firstByteAt ??= clock.now();
  record.upstreamRequestId = response.headers.get("request-id");
  const { status } = response;
  if (!(content instanceof Uint8Array)) {
    // What ends a stream ends it without throwing, so this is the one way to its settlement.
    void content.ended.then((end) => {
      leaver.over();
      if (end.outcome === "client_gone" && end.facts.model === null)
        end.facts.usage.inputTokens = guessedPrompt(record);
      // Where the upstream broke it only looked as if the client had left.
      const drained = leaver.drained && end.outcome !== "upstream_cut";
      const outcome = drained && end.outcome === "complete" ? "client_gone" : end.outcome;
      record.settle({ status, ...end, outcome, drained });
    });
    return ok(clientResponse(response, content.readable));
  }
  const text = decoder.decode(content);
  const answer = readAnswer(text);
  const failed = status >= 400;
  if (!failed && facts.guess && answer.model === null) answer.usage.estimated = true;
  leaver.over();
  const outcome = failed ? "error" : leaver.drained ? "client_gone" : "complete";
  record.settle({ status, outcome, facts: answer, errorType: answer.errorType, drained: leaver.drained });
  if (NO_BODY_STATUS.has(status)) return ok(clientResponse(response, null));
  return ok(clientResponse(response, (status === 200 ? options.rewrite?.(text) : null) ?? content));
}

/**
 * What a call is taken to have used whose client left before the upstream said anything: the prompt as guessed, and of an
 * answer that was being made unseen as much as is usual. Known to be unknown, and not free.
 */
function unseen(record: CallRecord): AnswerFacts {
  const facts = noFacts();
  const { guess, stream } = record.facts;
  if (!guess) return facts;
  facts.usage.inputTokens = guessedPrompt(record);
  if (!stream) facts.usage.outputTokens = guess.outputTokens;
  facts.usage.estimated = true;
  return facts;
}

function guessedPrompt({ facts: { guess } }: CallRecord): number {
  return guess?.promptTokens ?? 0;
}

/** What becomes of the upstream call when its client leaves. */
class Leaver {
  /** The client has left and the answer is read all the same. */
  drained = false;
  readonly #abort: AbortController;
  readonly #drain: ForwardOptions["drain"];
  #end: (() => void) | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #left = false;

  constructor(abort: AbortController, drain: ForwardOptions["drain"]) {
    this.#abort = abort;
    this.#drain = drain;
  }

  /** Whether the answer is to be read on. */
  clientLeft(): boolean {
    if (this.#left) return this.drained;
    this.#left = true;
    const end = this.#drain?.();
    if (!end) {
      this.#abort.abort();
      return false;
    }
    this.drained = true;
    this.#end = end;
    this.#timer = setTimeout(() => this.#abort.abort(), MAX_DRAIN_MS);
    return true;
  }

  /** The answer has ended. */
  over(): void {
    if (this.#timer !== undefined) clearTimeout(this.#timer);
    this.#end?.();
    this.#end = undefined;
  }
}

function isEventStream(response: Response): response is Response & { body: ReadableStream<Uint8Array> } {
  return response.body !== null && /^text\/event-stream\b/i.test(response.headers.get("content-type") ?? "");
}
