/** Whoever shows credentials that are none, again and again, is told to wait in place of being told no. */
import type { AppContext } from "../context.ts";
import type { Failure } from "../wire/errors.ts";

/** The period of the limits on attempts, as their bindings have it. */
export const ATTEMPTS_PERIOD_MS = 60_000;

const TOO_MANY: Failure = {
  kind: "limit_reached",
  message: "Too many calls from this address showed no valid credential. Wait a minute.",
  retryAfterMs: ATTEMPTS_PERIOD_MS,
};

/**
 * What a caller without a valid credential is told: that, or that there were too many. Counted at the edge and by the
 * address that Cloudflare has seen; where there is none nobody is told apart. Valid credentials never come here, so whoever
 * shares an address with a guesser is served.
 */
export async function refusalOf(c: AppContext, failure: Failure): Promise<Failure> {
  const address = c.var.call.headers.get("cf-connecting-ip");
  if (failure.kind !== "unauthenticated" || address === undefined) return failure;
  const counted = await c.env.FAILURE_LIMIT.limit({ key: address }).catch(() => null);
  return counted?.success === false ? TOO_MANY : failure;
}
