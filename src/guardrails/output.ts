/**
 * Looks through what a model says: a whole message, or a stream, whose words are held back no longer than a finding can
 * be (apply/growing-text.ts). Joined, a stream says what the whole message would.
 *
 * Thinking stays as it is: it is signed. What nobody can look into, such as an event that is no JSON or has more than
 * 16 MB, ends the stream with an `error` event.
 */
import { GrowingJson } from "./apply/growing-json.ts";
import { GrowingText, HoldBack, type Replace } from "./apply/growing-text.ts";
import { isJson } from "./apply/json-text.ts";
import { type Flow, StreamRewriter } from "./apply/stream-rewriter.ts";
import { type Counts, count, type Detect } from "./detector.ts";
import { countsOf, inspect, replaceFound } from "./mask.ts";
import type { Act } from "./policy.ts";
import type { PlaceholderTable } from "./table.ts";
import { type DocumentKind, textsOf } from "./texts.ts";

export type OutputRules = {
  readonly detect: Detect;
  /** What is done about each type that `detect` is to find. */
  readonly acts: ReadonlyMap<string, Act>;
  /** Beside the request's own (`new PlaceholderTable(itsTable)`), so that nothing is put back that is masked here. */
  readonly table: PlaceholderTable;
};

export type Redacted = {
  /** The bytes that were given, if nothing was masked. */
  readonly bytes: Uint8Array;
  readonly counts: Counts;
  /** The type for which the answer must not be given at all; null: none. */
  readonly blocked: string | null;
};

/** An answer that is one document. What is no JSON is left as it is: it is no message. */
export function redactMessage(
  bytes: Uint8Array,
  { detect, acts, table }: OutputRules,
  kind: Extract<DocumentKind, "message" | "result"> = "message",
): Redacted {
  if (!isJson(bytes)) return { bytes, counts: {}, blocked: null };
  const inspected = inspect(bytes, textsOf(bytes, kind), detect);
  const blocked = inspected.found.find(({ type }) => acts.get(type) === "block")?.type ?? null;
  return {
    // What the model itself writes like a placeholder stays its own: a stream can't know of it in advance.
    bytes: replaceFound(bytes, { ...inspected, ...NONE }, table, (type) => acts.get(type) !== "audit"),
    counts: countsOf(inspected),
    blocked,
  };
}

const NONE = { written: new Set<string>(), echoed: new Map<string, number>() };

export type RedactingStream = { readonly stream: StreamRewriter; readonly counts: Counts };

/** A stream of events, for one answer. The counts grow with it. */
export function redactingStream({ detect, acts, table }: OutputRules): RedactingStream {
  const counts: Counts = {};
  const holdBack = new HoldBack(acts.keys());
  const onlyCounts = [...acts.values()].every((act) => act === "audit");
  let blocked: string | null = null;
  const replace: Replace = (type, value) => {
    count(counts, type);
    const act = acts.get(type);
    if (act === "block") blocked ??= type;
    return act === "audit" ? null : table.placeholderFor(type, value);
  };
  const grows = () => new GrowingText(detect, holdBack, replace);
  const shown = (flow: Flow): Flow => (onlyCounts ? besides(flow) : flow);
  const whole = (data: Uint8Array): Uint8Array => {
    const inspected = inspect(data, textsOf(data, "event"), detect);
    for (const { type } of inspected.found) {
      count(counts, type);
      if (acts.get(type) === "block") blocked ??= type;
    }
    return replaceFound(data, { ...inspected, ...NONE }, table, (type) => acts.get(type) !== "audit");
  };
  const stream = new StreamRewriter({
    text: () => shown(textFlow(grows())),
    json: () => shown(new GrowingJson(grows)),
    whole,
    concerns: () => true,
    unreadable: onlyCounts ? "pass" : "end",
    refused: () => (blocked === null ? null : blockedMessage(blocked)),
  });
  return { stream, counts };
}

/** Why an answer is not given. */
export const blockedMessage = (type: string): string =>
  `The answer was withheld: it holds what the guardrails of this key do not allow (${type}).`;

function textFlow(text: GrowingText): Flow {
  return { push: (piece) => text.push(piece), end: () => text.end(), holds: () => true };
}

/** A flow that is listened to, and says what it is given at once. */
function besides(flow: Flow): Flow {
  return {
    push: (piece) => {
      flow.push(piece);
      return piece;
    },
    end: () => {
      flow.end();
      return "";
    },
    holds: () => true,
  };
}
