/** The upstream calls of one turn: all of them in one name, cancelled together, and added up. */
import { type Admitted, INNER_ROUTE, type InnerCall } from "../hotpath/inner-call.ts";
import { err, ok, type Result } from "../result.ts";
import { emptyUsage } from "../wire/anthropic/usage.ts";
import type { Failure } from "../wire/errors.ts";
import { within } from "../within.ts";
import type { Assembled } from "./context/assemble.ts";
import { CANCELLED_EARLY, upstreamError } from "./failures.ts";
import type { Sender } from "./protocol.ts";
import { type Spent, toldUsage } from "./usage.ts";

/** So long a turn's end waits for what its calls used to be settled, ms: a ledger that is away must not hold it up. */
const SETTLING_MS = 5_000;
const UNSETTLED = { facts: { usage: { ...emptyUsage(), estimated: true } }, microUsd: 0 };

/** Who makes calls, for which turn. `fresh`: the very secret that the message came with must still be good. */
type Caller = {
  readonly conversation: string;
  /** Whose words it speaks; null: no template's. */
  readonly template?: InnerCall["template"];
  readonly turn: string;
  readonly sender: Sender;
  readonly fresh: boolean;
  readonly signal: AbortSignal;
};
type Purpose = keyof typeof INNER_ROUTE;
type Body = Pick<InnerCall, "body" | "headers"> & Partial<Pick<Assembled, "hasThinking" | "thoughtsOf">>;
/** As `admitInner`, in this object. */
export type Admit = (call: InnerCall, signal: AbortSignal) => Promise<Result<Admitted, Failure | "aborted">>;

export class TurnCalls {
  readonly #admit: Admit;
  readonly #caller: Caller;
  readonly #ends: Admitted["ended"][] = [];

  constructor(admit: Admit, caller: Caller) {
    this.#admit = admit;
    this.#caller = caller;
  }

  /** Fires when nobody wants the turn any more. */
  get signal(): AbortSignal {
    return this.#caller.signal;
  }

  get cancelled(): boolean {
    return this.signal.aborted;
  }

  /** Once it is admitted it is to be sent or released. */
  async open(purpose: Purpose, asked: Body, signal = this.#caller.signal): Promise<Result<Admitted, Failure>> {
    const { conversation, template = null, turn, sender, fresh } = this.#caller;
    if (signal.aborted) return err(CANCELLED_EARLY);
    const path = purpose === "count" ? "/v1/messages/count_tokens" : "/v1/messages";
    const admitted = await this.#admit(
      {
        body: asked.body,
        headers: asked.headers,
        ...(asked.hasThinking && { thoughtsOf: asked.thoughtsOf ?? null }),
        keyId: sender.keyId,
        workspace: sender.workspace,
        secretSha256: fresh ? sender.secretSha256 : null,
        rights: rightsOf(sender, fresh),
        route: INNER_ROUTE[purpose],
        path,
        affinity: conversation,
        conversation,
        ...(template && { template }),
        turn,
        traceId: sender.traceId,
        client: sender.client,
      },
      signal,
    );
    if (!admitted.ok) return err(admitted.error === "aborted" ? CANCELLED_EARLY : admitted.error);
    if (!signal.aborted) return admitted;
    admitted.value.release();
    return err(CANCELLED_EARLY);
  }

  send(admitted: Admitted, signal = this.#caller.signal): ReturnType<Admitted["send"]> {
    this.#ends.push(admitted.ended);
    return admitted.send(signal);
  }

  /** The body of an answer that is not streamed, if it comes within so many ms: a turn is held up by it no longer. */
  async ask(purpose: Purpose, body: Body, limitMs: number): Promise<Result<string, Failure>> {
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(), limitMs);
    try {
      return await this.#ask(purpose, body, AbortSignal.any([this.#caller.signal, late.signal]));
    } finally {
      clearTimeout(timer);
    }
  }

  async #ask(purpose: Purpose, body: Body, signal: AbortSignal): Promise<Result<string, Failure>> {
    const admitted = await this.open(purpose, body, signal);
    if (!admitted.ok) return admitted;
    const sent = await this.send(admitted.value, signal);
    if (!sent.ok) return err(sent.error === "aborted" ? CANCELLED_EARLY : sent.error);
    const text = await sent.value.text().catch(() => null);
    if (this.cancelled) return err(CANCELLED_EARLY);
    if (text === null) return err({ kind: "upstream_cut" });
    if (sent.value.ok) return ok(text);
    return err({ kind: "upstream_error_event", type: upstreamError(text, null).type, body: text });
  }

  /** Of all that were sent. */
  async spent(): Promise<Spent> {
    const ends = await Promise.all(this.#ends.map((end) => within(SETTLING_MS, end).catch(() => UNSETTLED)));
    return {
      usage: toldUsage(ends.map(({ facts }) => facts.usage)),
      microUsd: ends.reduce((sum, { microUsd }) => sum + microUsd, 0),
    };
  }
}

/** What was accepted in time is not too late, but reaches no further than its sender did. */
function rightsOf({ rights = null }: Sender, fresh: boolean): InnerCall["rights"] {
  return rights && !fresh ? { ...rights, expiresAt: Number.POSITIVE_INFINITY } : rights;
}
