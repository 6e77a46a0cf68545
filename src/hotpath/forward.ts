/**
 * An admitted call goes to the upstream, and its answer comes back untouched. Everything here is plain data and web
 * types, so that it runs the same in the Worker and in a Durable Object that outlives the client.
 */
import { readCapped } from "../body.ts";
import type { Settings, Timeouts } from "../env.ts";
import type { Duty } from "../ownership/duty.ts";
import { err, ok, type Result } from "../result.ts";
import { askPool, Stop } from "../upstream/attempts.ts";
import type { Wanted } from "../upstream/pool.ts";
import type { Upstream } from "../upstream/upstream.ts";
import { type AnswerFacts, noFacts, readAnswer } from "../wire/anthropic/answer.ts";
import type { Failure } from "../wire/errors.ts";
import { clientResponse } from "../wire/headers.ts";
import { flow, type Onlooker } from "./flow.ts";
import { clock } from "./leases.ts";
import type { CallRecord } from "./settle.ts";
import { type OpenStream, openStream } from "./tap.ts";
import { poolFor } from "./upstreams.ts";

/** Answers that are not streamed are held until they are whole, so that a cut one can still become a status code. */
const MAX_ANSWER_BYTES = 64 * 1024 * 1024;
/** What nginx and others write for a client that left before its answer; nobody ever receives it. */
export const CLIENT_GONE_STATUS = 499;
/** An answer is read for nobody no longer than this. The platform keeps an object for a call for 15 minutes. */
export const MAX_DRAIN_MS = 600_000;
const NO_BODY_STATUS = new Set([204, 205, 304]);
const decoder = new TextDecoder();

/** What is sent to an upstream, whichever it will be. Plain data, unless its body is a stream. */
export type Forwarding = {
  /** Path and query. */
  readonly path: string;
  readonly method: string;
  /** Without a credential. */
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Uint8Array | ReadableStream<Uint8Array> | null;
  /** It makes something that must not be made twice. */
  readonly unique?: boolean;
  /** What an object that forwards it has to tell the tables of batches and files. */
  readonly duty?: Duty | null;
  readonly wanted: Wanted;
  /** The gateway's limits of time with the key's own laid over them. */
  readonly timeouts: Timeouts;
};

export type ForwardOptions = {
  /** Rewrites a complete 200 answer; null leaves its bytes as they are. */
  readonly rewrite?: (text: string) => string | null;
  /**
   * Given each whole answer before anybody else: what it returns goes to the client in its place (null: nothing does), and
   * so does a failure.
   */
  readonly take?: (answer: WholeAnswer) => Promise<Result<string | null, Failure>>;
  /** A successful answer may be of any size: it flows to the client, seen by this one. */
  readonly flow?: Onlooker;
  /**
   * Asked when the client leaves: null stops the upstream, a function lets the answer be read to its end, and is called
   * then.
   */
  readonly drain?: () => (() => void) | null;
  /** Asked while a stream runs: false cuts it. */
  readonly mayGoOn?: () => Promise<boolean>;
  /** As `StreamOptions` has them. */
  readonly keepAliveMs?: number;
  readonly readerIsOurs?: boolean;
};

export type WholeAnswer = { readonly status: number; readonly text: string; readonly upstream: string };

/** Why there is no answer of an upstream, and what the caller is told beside it. */
export type Unanswered = { readonly failure: Failure; readonly headers: Readonly<Record<string, string>> };

/**
 * Sends the call and settles it when it is over. A failure is left for the caller to answer with and to settle; a client
 * that left before its answer is settled here.
 */
export async function forward(
  forwarding: Forwarding,
  record: CallRecord,
  signal: AbortSignal,
  env: Env,
  settings: Settings,
  options: ForwardOptions = {},
): Promise<Result<Response, Unanswered | "client gone">> {
  const { timeouts } = forwarding;
  const { facts } = record;
  const upstreams = await poolFor(env, settings, record.access, record);
  if (!upstreams.ok) return err({ failure: upstreams.error, headers: {} });
  const stop = new Stop();
  const leaver = new Leaver(stop, options.drain);
  if (signal.aborted) stop.now();
  else signal.addEventListener("abort", () => leaver.clientLeft(), { once: true });
  const call = {
    ...forwarding,
    stream: facts.stream,
    maxAttempts: settings.maxAttempts,
    timer: record.timer,
    stop,
    // A stream is read by the tap; everything else, errors of whatever type too, is held until it is whole.
    read: async (response: Response, abort: AbortController): Promise<Result<OpenStream | Uint8Array, Failure>> => {
      if (response.status < 400 && isEventStream(response)) {
        return openStream(response.body, {
          abort,
          timeouts,
          requestId: facts.requestId,
          maxTokens: facts.maxTokens,
          clientLeft: () => leaver.clientLeft(),
          clientGone: () => signal.aborted,
          ...(options.mayGoOn ? { mayGoOn: options.mayGoOn } : {}),
          ...(options.keepAliveMs === undefined ? {} : { keepAliveMs: options.keepAliveMs }),
          ...(options.readerIsOurs ? { readerIsOurs: true } : {}),
        });
      }
      if (options.flow && response.ok && response.body) {
        return flow(response.body, {
          abort,
          timer: record.timer,
          silenceMs: timeouts.silenceMs,
          length: lengthOf(response),
          clientGone: () => signal.aborted,
          onlooker: options.flow,
          ...(options.mayGoOn ? { mayGoOn: options.mayGoOn } : {}),
        });
      }
      record.firstByteAt = clock.now();
      const bytes = await readCapped(response, response.headers.get("content-length"), MAX_ANSWER_BYTES);
      return bytes === "too large" ? err({ kind: "upstream_cut" }) : ok(bytes);
    },
  };
  const { result, upstream, attempts, headers, ...asked } = await askPool(call, upstreams.value);
  record.upstream = upstream?.id ?? null;
  record.attempts = attempts;
  if (!result.ok) {
    leaver.over();
    if (!signal.aborted) return err({ failure: result.error, headers });
    const facts = asked.unseen ? unseen(record) : noFacts();
    record.settle({ status: CLIENT_GONE_STATUS, outcome: "client_gone", facts });
    return err("client gone");
  }
  const { response, content } = result.value;
  record.firstByteAt ??= clock.now();
  record.upstreamRequestId = response.headers.get("request-id");
  const { status } = response;
  if (!(content instanceof Uint8Array)) {
    // What ends a stream ends it without throwing, so this is the one way to its settlement.
    void content.ended.then((end) => {
      leaver.over();
      asked.release();
      if (end.outcome === "client_gone" && end.facts.model === null)
        end.facts.usage.inputTokens = guessedPrompt(record);
      // Where the upstream broke it only looked as if the client had left.
      const drained = leaver.drained && end.outcome !== "upstream_cut";
      const outcome = drained && end.outcome === "complete" ? "client_gone" : end.outcome;
      record.settle({ status, ...end, outcome, drained });
    });
    return ok(clientResponse(response, content.readable));
  }
  asked.release();
  const text = decoder.decode(content);
  const taken = options.take ? await options.take({ status, text, upstream: upstream?.id ?? "" }) : ok(null);
  if (!taken.ok) {
    leaver.over();
    return err({ failure: taken.error, headers: {} });
  }
  const answer = readAnswer(text);
  const failed = status >= 400;
  if (!failed && facts.guess && answer.model === null) answer.usage.estimated = true;
  leaver.over();
  const outcome = failed ? "error" : leaver.drained ? "client_gone" : "complete";
  record.settle({ status, outcome, facts: answer, errorType: answer.errorType, drained: leaver.drained });
  if (NO_BODY_STATUS.has(status)) return ok(clientResponse(response, null));
  const rewritten = failed ? withoutSecret(text, upstream) : status === 200 ? options.rewrite?.(text) : null;
  const body = taken.value ?? rewritten;
  const answered = clientResponse(response, body ?? content);
  for (const name in headers) answered.headers.set(name, headers[name] ?? "");
  return ok(answered);
}

/** An error that repeats our credential, without it; null: it does not. */
function withoutSecret(text: string, upstream: Upstream | null): string | null {
  return upstream && text.includes(upstream.apiKey) ? text.replaceAll(upstream.apiKey, "[redacted]") : null;
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
  readonly #stop: Stop;
  readonly #drain: ForwardOptions["drain"];
  #end: (() => void) | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #left = false;

  constructor(stop: Stop, drain: ForwardOptions["drain"]) {
    this.#stop = stop;
    this.#drain = drain;
  }

  /** Whether the answer is to be read on. */
  clientLeft(): boolean {
    if (this.#left) return this.drained;
    this.#left = true;
    const end = this.#drain?.();
    if (!end) {
      this.#stop.now();
      return false;
    }
    this.#stop.noMore();
    this.drained = true;
    this.#end = end;
    this.#timer = setTimeout(() => this.#stop.now(), MAX_DRAIN_MS);
    return true;
  }

  /** The answer has ended. */
  over(): void {
    if (this.#timer !== undefined) clearTimeout(this.#timer);
    this.#end?.();
    this.#end = undefined;
  }
}

/** The length that an answer's body will have, if upstream has told it. */
function lengthOf({ headers }: Response): number | null {
  const length = headers.get("content-length");
  return length !== null && /^\d{1,15}$/.test(length) && !headers.has("content-encoding") ? Number(length) : null;
}

/** Whether a response has a body of server-sent events. */
export function isEventStream(response: Response): response is Response & { body: ReadableStream<Uint8Array> } {
  return response.body !== null && /^text\/event-stream\b/i.test(response.headers.get("content-type") ?? "");
}
