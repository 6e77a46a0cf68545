/**
 * The orders of release 0.2, met while a deploy is under way. Goes with the release after this one.
 *
 * Its Workers' orders to a drain of today are read here, and answered as they understand it. The other way round nothing
 * is translated: an order of today is in a header that a drain of 0.2 does not look for, so it throws before it has done
 * anything, and the Worker makes the call itself. Such a drain knows one upstream only, and an order that it understood
 * would have to carry that one's credential, for a call that may belong to another account.
 */
import { failureResponse } from "../context.ts";
import type { Settings } from "../env.ts";
import type { Unanswered } from "./forward.ts";
import type { Order } from "./remote.ts";
import type { CallFacts } from "./settle.ts";

const ORDER_HEADER = "x-sluice-order";

type OldOrder = Pick<Order, "shares" | "by" | "cut"> & {
  readonly url: string;
  readonly method: string;
  /** With the credential of the one upstream. */
  readonly headers: Readonly<Record<string, string>>;
  readonly facts: CallFacts;
};

/** The order of a Worker of 0.2; null: it is one of today. */
export function readOrder(request: Request, { timeouts }: Settings): Order | null {
  const text = request.headers.get(ORDER_HEADER);
  if (text === null) return null;
  const { url, method, headers, facts, shares, by, cut } = JSON.parse(decodeURIComponent(text)) as OldOrder;
  const { "x-api-key": _, ...withoutCredential } = headers;
  return {
    forwarding: {
      path: facts.route + new URL(url).search,
      method,
      headers: withoutCredential,
      wanted: {
        affinity: `${facts.workspace} ${facts.sessionId ?? facts.keyId}`,
        model: facts.modelRequested,
        // Not looked for, so it is taken for one that only its own upstream can read.
        bound: true,
        pinned: null,
      },
      timeouts,
    },
    facts,
    cache: null,
    shares,
    by,
    cut,
  };
}

/** A failure as the client is told it: of 0.2's own words for failures some are missing. It is settled by now. */
export function failedAnswer({ failure, headers }: Unanswered, { requestId }: CallFacts): Response {
  return failureResponse(failure, requestId, headers);
}

/** What a drain of 0.2 throws where it finds no order; a drain of today has been sent one. */
export function foundNoOrder(error: unknown): boolean {
  return /Unexpected end of JSON input/.test(String(error));
}
