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
import type { Forwarding } from "./forward.ts";
import * as previous from "./previous-release.ts";
import { type Answered, carryOut, failedAnswer, orderBody, readOrder, sendOrder } from "./remote.ts";
import type { CallRecord } from "./settle.ts";

/** Answers of one key that are read on for nobody at the same moment. */
const MAX_DRAINS = 32;

/** Has a key's drain forward a call; `without` does it here, as if the key said `cancel`. From here on the drain settles it. */
export function forwardToDrain(
  drains: Env["DRAIN"],
  forwarding: Forwarding,
  record: CallRecord,
  signal: AbortSignal,
  cut: boolean,
  without: () => Promise<Answered>,
): Promise<Answered> {
  return sendOrder(drains.getByName(record.facts.keyId), forwarding, record, signal, cut, {
    what: "The reader of this key's answers",
    lost: { kind: "internal" },
    without,
  });
}

export class Drain extends DurableObject<Env> {
  #drains = 0;

  /** One call: the order in a header, the request's body as the body. */
  override async fetch(request: Request): Promise<Response> {
    const settings = settingsOf(this.env);
    if (!settings.ok) throw new Error(settings.error);
    const old = previous.readOrder(request, settings.value);
    const order = old ?? readOrder(request);
    const answer = await carryOut(order, await orderBody(request), {
      env: this.env,
      ctx: this.ctx,
      signal: request.signal,
      drain: () => this.#begin(),
    });
    if (answer.ok) return answer.value;
    if (old && answer.error !== "client gone") return previous.failedAnswer(answer.error, order.facts);
    return failedAnswer(answer.error);
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
