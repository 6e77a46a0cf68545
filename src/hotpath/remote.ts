/**
 * Calls that a Durable Object forwards in the Worker's place, because they may outlive their client: the order as it
 * travels there, its way back, and how the object carries it out. The object settles what it was handed.
 *
 * The request's body is the body of the fetch to the object; what belongs beside it is ASCII JSON in a header, and so is
 * a failure on the way back. If the object dies the call's loans expire and are booked.
 */
import { settingsOf } from "../env.ts";
import type { Reservation, TravellingShare } from "../ledger/lease-book.ts";
import { hooksOf } from "../ownership/duty.ts";
import { err, ok, type Result } from "../result.ts";
import { describeFailure, type Failure } from "../wire/errors.ts";
import { clientResponse } from "../wire/headers.ts";
import { CLIENT_GONE_STATUS, type Forwarding, type ForwardOptions, forward, type Unanswered } from "./forward.ts";
import { watchAnswer } from "./guard.ts";
import { accessFor, leaseBook, whileLive } from "./leases.ts";
import { foundNoOrder } from "./previous-release.ts";
import { type CallFacts, CallRecord } from "./settle.ts";

/** Another name than in release 0.2, whose orders are others (previous-release.ts). */
const ORDER_HEADER = "x-sluice-forwarding";
const FAILURE_HEADER = "x-sluice-failure";
const DECLINED_HEADER = "x-sluice-declined";

/** What travels beside the body. */
export type Order = {
  readonly forwarding: Omit<Forwarding, "body">;
  readonly facts: CallFacts;
  readonly cache: CallRecord["cache"];
  readonly shares: readonly TravellingShare[];
  readonly by: Reservation["by"];
  /** The stream is cut when the key is revoked. */
  readonly cut: boolean;
};

/** What of a Durable Object's stub is used here. */
type Target = { fetch(url: string, init: RequestInit): Promise<Response> };

/** What came of a call: its answer, a failure to answer with and to settle, or a client that nobody answers any more. */
export type Answered = Result<Response, Unanswered | "client gone">;

export type SendOptions = {
  /** The object in words, for when it has too much to do. The call is then still its sender's to settle. */
  readonly what: string;
  /** What became of a call on whose way the object broke. */
  readonly lost: Failure;
  /** Sent beside the order. */
  readonly headers?: Readonly<Record<string, string>>;
  /** Goes on where the object declined the order (`declineOrder`): the call is its sender's again. */
  readonly declined?: (why: unknown) => Promise<Answered>;
  /** Does without the object where it is still of the release before. */
  readonly without?: () => Promise<Answered>;
};

/** Hands a call to an object. From here on the object settles it. */
export async function sendOrder(
  target: Target,
  { body, ...forwarding }: Forwarding,
  record: CallRecord,
  signal: AbortSignal,
  cut: boolean,
  { what, lost, headers = {}, declined, without }: SendOptions,
): Promise<Answered> {
  const { facts, cache } = record;
  if (signal.aborted) {
    record.settle({ status: CLIENT_GONE_STATUS, outcome: "client_gone" });
    return err("client gone");
  }
  const { shares, by } = record.handOver();
  const order: Order = { forwarding, facts, cache, shares, by, cut };
  let response: Response;
  try {
    response = await target.fetch("https://object.internal/", {
      method: "POST",
      headers: { ...headers, [ORDER_HEADER]: encodeJson(order) },
      body,
      signal,
    });
  } catch (error) {
    if (neverArrived(error)) {
      record.takeBack(shares, by);
      return err(only({ kind: "unavailable", what, retryAfterMs: 1_000 }));
    }
    if (without && foundNoOrder(error)) {
      record.takeBack(shares, by);
      return without();
    }
    return err(signal.aborted ? "client gone" : only(lost));
  }
  const why = response.headers.get(DECLINED_HEADER);
  if (why === null || !declined) return readAnswer(response);
  record.takeBack(shares, by);
  return declined(decodeJson(why));
}

/** An object's answer to an order that it does not carry out. */
export function declineOrder(why: unknown): Response {
  return new Response(null, { headers: { [DECLINED_HEADER]: encodeJson(why) } });
}

/** What an object answered: the client's answer, or the failure that it met. */
export function readAnswer(response: Response): Answered {
  const failed = response.headers.get(FAILURE_HEADER);
  if (failed !== null) return err(decodeJson(failed) as Unanswered | "client gone");
  return ok(clientResponse(response, response.body));
}

/** A failure of ours, which no upstream has anything to say about. */
export const only = (failure: Failure): Unanswered => ({ failure, headers: {} });

/** A failure on its way back. */
export function failedAnswer(failure: Unanswered | "client gone"): Response {
  return new Response(null, { headers: { [FAILURE_HEADER]: encodeJson(failure) } });
}

/** An object with too much to do refuses a call before it runs: then nobody there settles it. */
export function neverArrived(error: unknown): boolean {
  return error instanceof Error && "overloaded" in error && error.overloaded === true;
}

/** The order that a request brings. Its body is still to be read. */
export function readOrder(request: Request): Order {
  return decodeJson(request.headers.get(ORDER_HEADER)) as Order;
}

/** Where an order is carried out. */
export type Place = {
  readonly env: Env;
  readonly ctx: { waitUntil(work: Promise<unknown>): void };
  /** Fires when the client has left. */
  readonly signal: AbortSignal;
  readonly drain?: NonNullable<ForwardOptions["drain"]>;
  /** Sees the call's end before it is settled, and may say it otherwise. */
  readonly onEnd?: NonNullable<CallRecord["onEnd"]>;
};

/**
 * Forwards the call and settles it. `body` null: the client left while its request was on the way, and the upstream has
 * heard nothing of it.
 */
export async function carryOut(
  { forwarding, facts, cache, shares, by, cut }: Order,
  body: Uint8Array | ReadableStream<Uint8Array> | null,
  { env, ctx, signal, drain, onEnd }: Place,
): Promise<Answered> {
  const settings = settingsOf(env);
  if (!settings.ok) throw new Error(settings.error);
  const access = accessFor(env, ctx, settings.value.ledgerDeadlineMs);
  const record = new CallRecord(facts, { access, db: env.DB, log: {}, logJoinMs: settings.value.logJoinMs });
  record.cache = cache;
  if (onEnd) record.onEnd = onEnd;
  record.hold(leaseBook.adopt(shares, by));
  if (body === null) {
    record.settle({ status: CLIENT_GONE_STATUS, outcome: "client_gone" });
    return err("client gone");
  }
  const watch = await watchAnswer(record);
  const { headers, duty } = forwarding;
  const hooks = duty ? hooksOf(duty, { env, settings: settings.value, headers, record }) : null;
  const hindered = await hooks?.begin?.();
  const answer = hindered
    ? err(only(hindered))
    : await forward({ ...forwarding, body }, record, signal, env, settings.value, {
        ...(hooks?.take ? { take: hooks.take } : {}),
        ...(hooks?.readOn ? { drain: () => () => {} } : drain ? { drain } : {}),
        ...(cut ? { mayGoOn: whileLive(facts.keyId, access) } : {}),
      }).catch((bug: unknown): Result<never, Unanswered> => {
        console.error(JSON.stringify({ level: "error", msg: "order_failed", error: String(bug) }));
        return err(only({ kind: "internal" }));
      });
  if (answer.ok) {
    const seen = await watch?.(answer.value);
    return seen?.ok ? seen : answer;
  }
  record.saw(null);
  if (answer.error === "client gone") {
    await hooks?.unanswered?.({ kind: "upstream_cut" });
    return answer;
  }
  const failure = (await hooks?.unanswered?.(answer.error.failure)) ?? answer.error.failure;
  const { status, type } = describeFailure(failure);
  record.settle({ status, outcome: "error", errorType: type });
  return err({ ...answer.error, failure });
}

/** The body of an order; null when its client left before all of it had come. */
export function orderBody(request: Request): Promise<Uint8Array | null> {
  return request.bytes().catch(() => null);
}

function encodeJson(value: unknown): string {
  return encodeURIComponent(JSON.stringify(value));
}

function decodeJson(text: string | null): unknown {
  return JSON.parse(decodeURIComponent(text ?? ""));
}
