/** One call to the upstream: from sending to the first byte of a stream, or to the last byte of anything else. */
import type { CallTimer } from "../call-timer.ts";
import { err, ok, type Result } from "../result.ts";
import type { Failure } from "../wire/errors.ts";

export type UpstreamCall<T> = {
  readonly url: string;
  readonly method: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Uint8Array | null;
  /** Aborted when the limit passes; its owner may abort it too. */
  readonly abort: AbortController;
  readonly timer: CallTimer;
  /** How long sending, waiting and `read` may take together. */
  readonly limit: { readonly phase: "first byte" | "total"; readonly limitMs: number };
  /** Reads of the answer what has to be there before a status goes out. */
  readonly read: (response: Response) => Promise<Result<T, Failure>>;
};

/**
 * Sends the call. A refused, broken or late call and a redirect are failures; every other answer is passed on with
 * whatever status it has. Redirects are never followed: the credential would travel along.
 */
export async function askUpstream<T>(
  call: UpstreamCall<T>,
): Promise<Result<{ readonly response: Response; readonly content: T }, Failure>> {
  const { abort, limit, timer } = call;
  let late = false;
  timer.limit(limit.limitMs, () => {
    late = true;
    abort.abort();
  });
  let response: Response | undefined;
  try {
    response = await fetch(call.url, {
      method: call.method,
      headers: call.headers,
      body: call.body,
      redirect: "manual",
      signal: abort.signal,
    });
    if (response.status < 200 || (response.status >= 300 && response.status < 400)) {
      await response.body?.cancel();
      return err({ kind: "upstream_redirect" });
    }
    const content = await call.read(response);
    if (content.ok) return ok({ response, content: content.value });
    return late ? err({ kind: "upstream_timeout", ...limit }) : content;
  } catch {
    // The runtime's own words may name hosts and addresses: they are for nobody.
    if (late) return err({ kind: "upstream_timeout", ...limit });
    return err({ kind: response ? "upstream_cut" : "upstream_unreachable" });
  } finally {
    timer.inTime();
  }
}
