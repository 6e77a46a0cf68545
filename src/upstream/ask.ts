/** One attempt at one upstream: from sending to the first event of a stream, or to the last byte of anything else. */
import type { CallTimer } from "../call-timer.ts";
import { err, ok, type Result } from "../result.ts";
import type { Failure } from "../wire/errors.ts";

/** The runtime's `fetch`, or what stands for it. */
export type Send = (url: string, init: RequestInit) => Promise<Response>;

export type UpstreamCall<T> = {
  readonly send: Send;
  readonly url: string;
  readonly method: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: BodyInit | null;
  /** Aborted when a limit passes; its owner may abort it too. */
  readonly abort: AbortController;
  readonly timer: CallTimer;
  /** The limit by which sending, waiting and `read` have to end. */
  readonly limit: { readonly phase: "first byte" | "total"; readonly limitMs: number };
  /** What is left of it for this attempt. */
  readonly leftMs: number;
  /** After so long without an answer `isReachable` is asked. */
  readonly connectMs: number;
  /** Whether the upstream has shown, or shows within `connectMs`, that it can be reached. */
  readonly isReachable: () => Promise<boolean>;
  /** The upstream has answered: with what, the status will say. */
  readonly heard: (response: Response) => void;
  /** Reads of the answer what has to be there before a status goes out. */
  readonly read: (response: Response) => Promise<Result<T, Failure>>;
};

/**
 * Sends the call. A refused, broken or late call and a redirect are failures; every other answer is passed on with
 * whatever status it has. Redirects are never followed: the credential would travel along.
 *
 * The platform tells nobody whether a connection stands, only when an answer begins. So an upstream that is silent for
 * `connectMs` is asked for a sign of life beside the call, and given up if there is none.
 */
export async function askUpstream<T>(
  call: UpstreamCall<T>,
): Promise<Result<{ readonly response: Response; readonly content: T }, Failure>> {
  const { abort, limit, leftMs, timer, connectMs } = call;
  let late: { readonly phase: "connect" | "first byte" | "total"; readonly limitMs: number } | undefined;
  let response: Response | undefined;
  const giveUp = (reason: typeof late): void => {
    late = reason;
    abort.abort();
  };
  if (connectMs < leftMs) {
    timer.limit(connectMs, () => {
      timer.limit(leftMs - connectMs, () => giveUp(limit));
      if (response) return;
      void call.isReachable().then((reachable) => {
        if (!reachable && !response && !late && !abort.signal.aborted) giveUp({ phase: "connect", limitMs: connectMs });
      });
    });
  } else timer.limit(leftMs, () => giveUp(limit));
  try {
    response = await call.send(call.url, {
      method: call.method,
      headers: call.headers,
      body: call.body,
      redirect: "manual",
      signal: abort.signal,
    });
    call.heard(response);
    if (response.status < 200 || (response.status >= 300 && response.status < 400)) {
      await response.body?.cancel();
      return err({ kind: "upstream_redirect" });
    }
    const content = await call.read(response);
    if (content.ok) return ok({ response, content: content.value });
    // Of an answer that was not read to its end nothing more is wanted.
    abort.abort();
    return late ? err({ kind: "upstream_timeout", ...late }) : content;
  } catch {
    // The runtime's own words may name hosts and addresses: they are for nobody.
    if (late) return err({ kind: "upstream_timeout", ...late });
    return err({ kind: response ? "upstream_cut" : "upstream_unreachable" });
  } finally {
    timer.inTime();
  }
}
