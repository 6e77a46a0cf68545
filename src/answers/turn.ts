/**
 * A call's way to an answer that may be another one's: asked before the call is admitted, since what it has to be
 * admitted for depends on it.
 */

import { type Forwarding, isEventStream } from "../hotpath/forward.ts";
import { clock } from "../hotpath/leases.ts";
import { type Answered, only, readAnswer, sendOrder } from "../hotpath/remote.ts";
import type { CallRecord } from "../hotpath/settle.ts";
import { endClientStream, errorEvent } from "../hotpath/tap.ts";
import { err, ok, type Result } from "../result.ts";
import { describeFailure, errorBody, type Failure } from "../wire/errors.ts";
import { within } from "../within.ts";
import {
  type AnswerObject,
  ATTACH_HEADER,
  type Claim,
  type Keep,
  RUN_HEADER,
  type RunEnd,
  type RunOrder,
  UPLOAD_HEADER,
} from "./protocol.ts";
import { PATIENCE_MS, type Verdict, WAIT_MS } from "./turns.ts";
import { readThrough, type Upload } from "./upload.ts";

/** How long an object may take to say what a call is to do, its wait for another one's run included. */
const CLAIM_DEADLINE_MS = WAIT_MS + 5_000;
/** The same where it may wait for a run to fail, and for another one's turn again. */
const APART_DEADLINE_MS = CLAIM_DEADLINE_MS + PATIENCE_MS + WAIT_MS;
/** An object that has just restarted, or moved, breaks the first call to it. A claim may be made again. */
const CLAIM_ATTEMPTS = 3;

const AWAY: Failure = { kind: "unavailable", what: "What keeps this request's answer", retryAfterMs: 1_000 };

export type Turn = {
  /** The answer is made for another call, or was: this one is to be admitted as a request and nothing else. */
  readonly attached: boolean;
  /** The call has been admitted. What it is answered with; `record` is settled unless that is a failure. */
  answer(forwarding: Forwarding, record: CallRecord, signal: AbortSignal, cut: boolean): Promise<Answered>;
  /** The call was not admitted, so another one may have the turn. */
  release(): void;
};

export type Wish = {
  /** The object's name. */
  readonly name: string;
  readonly claim: Claim;
  readonly keep: Keep;
  /** Its body is a stream that can be read once. */
  readonly upload?: Upload | undefined;
  /** Its answer when it is an earlier call's. */
  readonly replayed: (response: Response, record: CallRecord) => void;
};

/** Asks what a call is to do. `background` keeps work alive that outlasts it; `signal` fires when its client leaves. */
export async function takeTurn(
  answers: Env["ANSWER"],
  wish: Wish,
  background: (work: Promise<unknown>) => void,
  signal: AbortSignal,
): Promise<Result<Turn, Failure | "client gone">> {
  const { name, claim, keep, upload } = wish;
  const object = (): AnswerObject => answers.getByName(name) as unknown as AnswerObject;
  let mayRelease = true;
  const release = (): void => {
    if (!mayRelease) return;
    mayRelease = false;
    background(object().release(claim.token).catch(ignoreAway));
  };
  signal.addEventListener("abort", release, { once: true });
  const verdict = await ask(object, claim);
  if (signal.aborted) return err("client gone");
  if (verdict === null) {
    release();
    return err(AWAY);
  }
  if (verdict.kind === "mismatch") return err({ kind: "idempotency_mismatch" });
  if (verdict.kind === "busy") return err(AWAY);
  if (verdict.kind === "attach") mayRelease = false;

  const attach = async (
    run: string,
    record: CallRecord,
    leaving: AbortSignal,
    uploaded: string | null,
  ): Promise<Answered> => {
    let answer: Answered;
    try {
      const headers = { [ATTACH_HEADER]: run, ...(uploaded === null ? {} : { [UPLOAD_HEADER]: uploaded }) };
      answer = readAnswer(await object().fetch("https://object.internal/", { headers, signal: leaving }));
    } catch {
      answer = err(leaving.aborted ? "client gone" : only(AWAY));
    }
    if (!answer.ok) return answer;
    wish.replayed(answer.value, record);
    return ok(deliver(answer.value, record, leaving, () => object().ending(run).catch(ignoreAway)));
  };
  return ok({
    attached: verdict.kind === "attach",
    release,
    async answer(forwarding, record, leaving, cut) {
      if (verdict.kind === "attach") {
        if (!upload || !(forwarding.body instanceof ReadableStream)) return attach(verdict.run, record, leaving, null);
        const uploaded = await readThrough(forwarding.body, upload, null).hash;
        return uploaded === null ? err("client gone") : attach(verdict.run, record, leaving, uploaded);
      }
      mayRelease = false;
      const order: RunOrder = { claim, keep, upload };
      return sendOrder(object(), forwarding, record, leaving, cut, {
        what: "What keeps this request's answer",
        // Another call of the same kind joins what there is of this one, or is the first one again: nothing is lost by it.
        lost: AWAY,
        headers: { [RUN_HEADER]: JSON.stringify(order) },
        // It took so long to be admitted that another one has begun meanwhile.
        declined: async (why) => {
          const { kind, ...now } = why as Verdict;
          // An upload has been read by now.
          if (kind !== "attach" || upload)
            return err(only(kind === "mismatch" ? { kind: "idempotency_mismatch" } : AWAY));
          return attach((now as { run: string }).run, record, leaving, null);
        },
      });
    },
  });
}

async function ask(object: () => AnswerObject, claim: Claim): Promise<Verdict | null> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await within(claim.apart ? APART_DEADLINE_MS : CLAIM_DEADLINE_MS, object().claim(claim));
    } catch (error) {
      const again = error instanceof Error && "retryable" in error && error.retryable === true;
      if (!again || attempt === CLAIM_ATTEMPTS) return null;
    }
  }
}

/** The answer, which the call's record follows to its end. A stream whose object dies ends in an `error` event. */
function deliver(
  answer: Response,
  record: CallRecord,
  leaving: AbortSignal,
  ending: () => Promise<RunEnd | null>,
): Response {
  const { status, headers, body } = answer;
  record.firstByteAt = clock.now();
  const delivered = async (): Promise<void> => {
    const end = await ending();
    record.settle({ status, ...(end ?? { outcome: status < 400 ? "complete" : "error" }) });
  };
  if (!body) {
    void delivered();
    return answer;
  }
  const relay = new IdentityTransformStream();
  const broken = async (): Promise<void> => {
    const { type, message } = describeFailure({ kind: "upstream_cut" });
    let stayed = !leaving.aborted;
    if (isEventStream(answer)) {
      // It may have broken inside an event or between two: what is written fits both.
      stayed = await endClientStream(
        relay.writable,
        errorEvent(errorBody(type, message, record.facts.requestId), true),
      );
    } else await relay.writable.abort().catch(ignoreAway);
    record.settle({ status, ...(stayed ? { outcome: "upstream_cut", errorType: type } : { outcome: "client_gone" }) });
  };
  void body.pipeTo(relay.writable, { preventAbort: true }).then(delivered, broken);
  return new Response(relay.readable, { status, headers });
}

/** An object that can't be told forgets by itself. */
function ignoreAway(): null {
  return null;
}
