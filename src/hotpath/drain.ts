/**
 * Calls whose answer is read to its end though their client may leave (`on_disconnect: "drain"`). A Worker ends half a
 * minute after its client has gone, so such a call is sent by a Durable Object from the start, one for each key; the
 * answer flows through it to the client while there is one, and on to the meter when there is none.
 *
 * Bounded by a number of answers that are read for nobody, and by time; beyond these the upstream is stopped and the call
 * settled with an estimate, as if the key said `cancel`. If the object itself dies, its loans expire and are booked.
 */
import { DurableObject } from "cloudflare:workers";
import { settingsOf } from "../env.ts";
import type { Reservation, TravellingShare } from "../ledger/lease-book.ts";
import { err, ok, type Result } from "../result.ts";
import { describeFailure, type Failure } from "../wire/errors.ts";
import { clientResponse } from "../wire/headers.ts";
import { CLIENT_GONE_STATUS, type Forwarding, forward } from "./forward.ts";
import { accessFor, leaseBook, whileLive } from "./leases.ts";
import { type CallFacts, CallRecord } from "./settle.ts";

/** Answers of one key that are read on for nobody at the same moment. */
const MAX_DRAINS = 32;

const ORDER_HEADER = "x-sluice-order";
const FAILURE_HEADER = "x-sluice-failure";

/** What travels beside the body, as ASCII JSON in a header. */
type Order = {
  readonly url: string;
  readonly method: string;
  readonly headers: Forwarding["headers"];
  readonly facts: CallFacts;
  readonly shares: readonly TravellingShare[];
  readonly by: Reservation["by"];
  /** The stream is cut when the key is revoked. */
  readonly cut: boolean;
};

/** Has a key's drain forward a call. From here on the drain settles it. */
export async function forwardToDrain(
  drains: Env["DRAIN"],
  { url, method, headers, body }: Forwarding,
  record: CallRecord,
  signal: AbortSignal,
  cut: boolean,
): Promise<Result<Response, Failure | "client gone">> {
  const { facts } = record;
  const { shares, by } = record.handOver();
  const order: Order = { url, method, headers, facts, shares, by, cut };
  try {
    const response = await drains.getByName(facts.keyId).fetch("https://drain.internal/", {
      method: "POST",
      headers: { [ORDER_HEADER]: encodeURIComponent(JSON.stringify(order)) },
      body,
      signal,
    });
    const failed = response.headers.get(FAILURE_HEADER);
    if (failed !== null) return err(JSON.parse(decodeURIComponent(failed)) as Failure | "client gone");
    return ok(clientResponse(response, response.body));
  } catch (error) {
    if (neverArrived(error)) {
      record.takeBack(shares, by);
      return err({ kind: "unavailable", what: "The reader of this key's answers", retryAfterMs: 1_000 });
    }
    return err(signal.aborted ? "client gone" : { kind: "internal" });
  }
}

/** An object with too much to do refuses a call before it runs: then nobody there settles it. */
function neverArrived(error: unknown): boolean {
  return error instanceof Error && "overloaded" in error && error.overloaded === true;
}

function failure(what: Failure | "client gone"): Response {
  return new Response(null, { headers: { [FAILURE_HEADER]: encodeURIComponent(JSON.stringify(what)) } });
}

export class Drain extends DurableObject<Env> {
  #drains = 0;

  /** One call: the order in a header, the request's body as the body. */
  override async fetch(request: Request): Promise<Response> {
    const settings = settingsOf(this.env);
    if (!settings.ok) throw new Error(settings.error);
    const { url, method, headers, facts, shares, by, cut } = JSON.parse(
      decodeURIComponent(request.headers.get(ORDER_HEADER) ?? ""),
    ) as Order;
    const access = accessFor(this.env, this.ctx, settings.value.ledgerDeadlineMs);
    const record = new CallRecord(facts, { access, db: this.env.DB, log: {}, logJoinMs: settings.value.logJoinMs });
    record.hold(leaseBook.adopt(shares, by));
    const body = await request.bytes().catch(() => null);
    if (body === null) {
      // The client left while its request was on the way here; the upstream has heard nothing of it.
      record.settle({ status: CLIENT_GONE_STATUS, outcome: "client_gone" });
      return failure("client gone");
    }
    const forwarding = { url, method, headers, body };
    const answer = await forward(forwarding, record, request.signal, settings.value, {
      drain: () => this.#begin(),
      ...(cut ? { mayGoOn: whileLive(facts.keyId, access) } : {}),
    }).catch((bug: unknown): Result<never, Failure> => {
      console.error(JSON.stringify({ level: "error", msg: "drain_failed", error: String(bug) }));
      return err({ kind: "internal" });
    });
    if (answer.ok) return answer.value;
    if (answer.error !== "client gone") {
      const { status, type } = describeFailure(answer.error);
      record.settle({ status, outcome: "error", errorType: type });
    }
    return failure(answer.error);
  }

  /** Room for one more drain; its end is to be told. Null: there is none. */
  #begin(): (() => void) | null {
    if (this.#drains >= MAX_DRAINS) return null;
    this.#drains++;
    return () => {
      this.#drains--;
    };
  }
}
