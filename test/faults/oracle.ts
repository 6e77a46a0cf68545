/**
 * What holds for every call, whatever its upstreams did: it ends in time, a cut answer never ends as if it were whole,
 * bytes are the upstream's own, upstreams are asked no more often than allowed and never for a client that has left,
 * the books hold one row a call, and money is what was delivered.
 */
import type { AuditRow } from "../support/gateway.ts";
import type { Answer } from "./client.ts";
import { MICRO_USD } from "./script.ts";
import type { Attempt } from "./upstream.ts";

/** A call is on its way to the upstream when its client leaves, and gets there so much later at the most, ms. */
const ON_ITS_WAY_MS = 400;
/** What the gateway adds where it ends a stream: the torn event closed, and an `error` event. */
const ERROR_TAIL = /(?:\nevent: ping\n\n)?event: error\ndata: (\{"type":"error","error":\{[^\n]*\})\n\n$/;

export type Played = {
  readonly call: number;
  readonly stream: boolean;
  readonly maxTokens: number;
  readonly answer: Answer;
  readonly attempts: readonly Attempt[];
};

export type Rules = {
  readonly maxAttempts: number;
  /** No attempt is given up sooner for being late. */
  readonly shortestLimitMs: number;
};

/** How an answer came to its end, as the client can tell. */
export type Ending =
  | { readonly kind: "whole"; readonly of: Attempt }
  /** An error status: the gateway's own, or an upstream's. */
  | { readonly kind: "refused"; readonly status: number; readonly of: Attempt | null; readonly type: string }
  /** A stream that ended in an error event, or whose connection broke; `delivered` bytes of the upstream's came. */
  | { readonly kind: "cut"; readonly of: Attempt; readonly delivered: number; readonly type: string | null }
  | { readonly kind: "left"; readonly of: Attempt | null }
  | { readonly kind: "wrong"; readonly why: string };

/** Holds what the client got against what the upstreams sent. */
export function endingOf({ answer, attempts }: Pick<Played, "answer" | "attempts">): Ending {
  const { status, body, end } = answer;
  if (end === "hung") return { kind: "wrong", why: "hung" };
  if (status === 0) {
    return end === "left"
      ? { kind: "left", of: null }
      : { kind: "wrong", why: "the connection broke without an answer" };
  }
  const sources = attempts
    .filter((attempt) => attempt.status === status)
    .map((attempt) => ({ attempt, sent: Buffer.concat(attempt.sent) }))
    .reverse();
  if (status !== 200) {
    const same = sources.find(({ sent }) => sent.equals(body));
    if (end === "left") return { kind: "left", of: null };
    if (end !== "clean") return { kind: "wrong", why: `a ${status} whose body broke off` };
    const type = errorTypeOf(body.toString());
    if (!same && type === null)
      return { kind: "wrong", why: `a ${status} without an error: ${body.toString().slice(0, 200)}` };
    return { kind: "refused", status, of: same?.attempt ?? null, type: type ?? "" };
  }
  const whole = sources.find(({ sent }) => sent.equals(body));
  if (whole && end === "clean") {
    const { attempt } = whole;
    if (attempt.whole) return { kind: "whole", of: attempt };
    const type = endsInError(body);
    if (type !== null) return { kind: "cut", of: attempt, delivered: body.length, type };
    return { kind: "wrong", why: "a cut answer ended cleanly" };
  }
  const from = sources.find(({ sent }) => startsWith(sent, body));
  if (end !== "clean") {
    if (end === "left")
      return from || body.length === 0 ? { kind: "left", of: from?.attempt ?? null } : leftInTail(body, sources);
    if (from?.attempt.whole) return { kind: "wrong", why: `a whole answer broke after ${body.length} bytes` };
    if (from) return { kind: "cut", of: from.attempt, delivered: body.length, type: null };
  }
  const tail = ERROR_TAIL.exec(body.toString("latin1"));
  if (tail) {
    const before = body.subarray(0, tail.index);
    // Where the upstream was cut inside a line end the pattern may have taken one byte of it along.
    const source = sources.find(({ sent }) => startsWith(sent, before));
    if (source && before.length > 0) {
      return { kind: "cut", of: source.attempt, delivered: before.length, type: errorTypeOf(tail[1] ?? "") };
    }
  }
  return { kind: "wrong", why: `bytes that no upstream sent (${end}): …${body.subarray(-300).toString()}` };
}

function leftInTail(body: Buffer, sources: readonly { attempt: Attempt; sent: Buffer }[]): Ending {
  const source = sources.find(({ sent }) => sent.length > 0 && startsWith(body, sent));
  return source ? { kind: "left", of: source.attempt } : { kind: "wrong", why: "bytes that no upstream sent" };
}

/** Everything that is wrong with a call; empty: nothing is. `row` is its line in the audit, once it is there. */
export function judge(played: Played, rows: readonly AuditRow[] | null, rules: Rules): string[] {
  const { answer, attempts } = played;
  const wrong: string[] = [];
  const ending = endingOf(played);
  if (ending.kind === "wrong") wrong.push(ending.why);
  if (attempts.length > rules.maxAttempts) wrong.push(`${attempts.length} attempts`);
  if (answer.leftAt !== null && answer.end === "left") {
    const late = attempts.filter(({ at }) => at > (answer.leftAt ?? 0) + ON_ITS_WAY_MS);
    if (late.length > 0) wrong.push(`asked ${late.length} times after the client had left`);
  }
  const ways = new Set(attempts.map(({ target, body }) => `${target} ${body.toString("base64")}`));
  if (
    answer.end !== "left" &&
    attempts.length > 1 &&
    ways.size > 1 &&
    attempts.every(({ goneAt }) => goneAt === null)
  ) {
    wrong.push("attempts that differ");
  }
  if (rows === null) return wrong;
  const [row] = rows;
  if (!row || rows.length > 1) {
    wrong.push(`${rows.length} audit rows`);
    return wrong;
  }
  // One that was called back, by a client that left or a limit of time, may never have been heard of upstream.
  const unseen = Number(row.attempts) - attempts.length;
  const calledBack = Math.floor(answer.ms / rules.shortestLimitMs) + (answer.end === "left" ? 1 : 0);
  if (unseen < 0 || unseen > calledBack) wrong.push(`${attempts.length} attempts, and ${row.attempts} in the audit`);
  return [...wrong, ...judgeMoney(played, ending, row)];
}

/** An answer that was delivered costs what it is worth; one that was not costs no more than one answer can, or nothing. */
function judgeMoney({ maxTokens, attempts }: Played, ending: Ending, row: AuditRow): string[] {
  const cost = Number(row.cost_micro_usd);
  const worth = ({ tokens }: Attempt): number => tokens.input * MICRO_USD.input + tokens.output * MICRO_USD.output;
  switch (ending.kind) {
    case "whole": {
      const right = row.outcome === "complete" && row.status === 200 && !row.estimated;
      if (!right) return [`delivered, and ${row.outcome} ${row.status} estimated=${row.estimated} in the audit`];
      return cost === worth(ending.of) ? [] : [`delivered ${worth(ending.of)} µUSD, and ${cost} in the audit`];
    }
    case "refused": {
      const wrong = row.status === ending.status ? [] : [`${ending.status}, and ${row.status} in the audit`];
      return cost === 0 ? wrong : [...wrong, `nothing delivered, and ${cost} µUSD in the audit`];
    }
    case "cut": {
      const wrong = row.outcome === "complete" ? ["cut, and complete in the audit"] : [];
      const most = ending.of.tokens.input * MICRO_USD.input + maxTokens * MICRO_USD.output;
      return cost <= most ? wrong : [...wrong, `cut: ${cost} µUSD of ${most} at the most`];
    }
    case "left": {
      // The prompt is guessed where the upstream had told nothing: as many tokens as the body has bytes, at the most.
      const bytes = Math.max(0, ...attempts.map(({ body }) => body.length));
      const most = Math.max(bytes, 64) * MICRO_USD.input + maxTokens * MICRO_USD.output;
      return cost <= most ? [] : [`left: ${cost} µUSD of ${most} at the most`];
    }
    case "wrong":
      return [];
  }
}

/** Texts that must be nowhere, by where they were found. */
export function canariesIn(places: Readonly<Record<string, string>>, canaries: readonly string[]): string[] {
  return Object.entries(places).flatMap(([place, text]) =>
    canaries.filter((canary) => text.includes(canary)).map((canary) => `${canary} in ${place}`),
  );
}

function errorTypeOf(text: string): string | null {
  try {
    const { type, error } = JSON.parse(text) as { type?: unknown; error?: { type?: unknown } };
    return type === "error" && typeof error?.type === "string" ? error.type : null;
  } catch {
    return null;
  }
}

function endsInError(body: Buffer): string | null {
  const tail = ERROR_TAIL.exec(body.toString("latin1"));
  return tail ? errorTypeOf(tail[1] ?? "") : null;
}

function startsWith(whole: Buffer, start: Buffer): boolean {
  return whole.length >= start.length && whole.subarray(0, start.length).equals(start);
}
