/**
 * A policy made ready for calls: its patterns compiled, its detectors chosen. What a call's request holds is guarded by
 * `request`; what comes back goes through `message` or `stream`: first what the model may not say is taken out, then the
 * caller's own values are put in. The table of values is the call's, or its conversation's, and never another caller's.
 */
import { LineSplitter } from "../lines.ts";
import { joined } from "../pieces.ts";
import { asFields, asText } from "../wire/anthropic/usage.ts";
import { parseJson } from "../wire/json.ts";
import type { StreamRewriter } from "./apply/stream-rewriter.ts";
import { detect as detectIn, type OwnPattern, parsePattern } from "./detect/detect.ts";
import type { Counts, Detect } from "./detector.ts";
import { type Guarded, guardRequest, type Request } from "./guard.ts";
import { blockedMessage, type OutputRules, redactingStream, redactMessage } from "./output.ts";
import type { Acts, Policy } from "./policy.ts";
import { PlaceholderTable } from "./table.ts";
import { unmaskingStream, unmaskMessage } from "./unmask.ts";

type Kind = "message" | "result";
/** An answer that is one document, as it goes on, or why it does not. */
export type GuardedAnswer = {
  readonly bytes: Uint8Array;
  readonly withheld: string | null;
  /** What was found in it. */
  readonly counts: Counts;
};

/** The bytes of a stream on their way. */
export type Rewriter = {
  push(chunk: Uint8Array): Uint8Array;
  end(): Uint8Array;
  /** The stream was ended before its time, and nothing more is said: the rest is withheld. */
  readonly ended: boolean;
  /** What has been found so far. */
  readonly counts: Counts;
};

export class Rails {
  /** Of its patterns' tables, together: most of the memory that it takes. */
  readonly cells: number;
  readonly #policy: Policy;
  readonly #detect: Detect;
  readonly #output: Omit<OutputRules, "table"> | null;

  constructor(policy: Policy) {
    this.#policy = policy;
    const own = compiled(policy.patterns);
    this.cells = own.reduce((sum, { pattern }) => sum + pattern.next.length, 0);
    const inputTypes = Object.keys(policy.input);
    this.#detect = (text) => detectIn(text, inputTypes, own);
    const outputTypes = Object.keys(policy.output);
    this.#output =
      outputTypes.length === 0
        ? null
        : { detect: (text) => detectIn(text, outputTypes), acts: new Map(Object.entries(policy.output)) };
  }

  request(request: Request, table: PlaceholderTable): Guarded {
    return guardRequest(this.#policy, request, this.#detect, table);
  }

  /** What is looked for in answers; null: nothing. */
  get watchFor(): Acts | null {
    return this.#output && this.#policy.output;
  }

  /** Whether answers to a request with this table have to be looked at. */
  looksAtAnswers(table: PlaceholderTable): boolean {
    return this.#output !== null || this.#unmasks(table);
  }

  /** An answer as a whole. */
  message(bytes: Uint8Array, table: PlaceholderTable, kind: Kind = "message"): GuardedAnswer {
    const seen = this.#output
      ? redactMessage(bytes, { ...this.#output, table: new PlaceholderTable(table) }, kind)
      : { bytes, blocked: null, counts: {} };
    const { blocked, counts } = seen;
    if (blocked !== null) return { bytes: seen.bytes, withheld: blockedMessage(blocked), counts };
    const said = this.#unmasks(table) ? unmaskMessage(seen.bytes, table, kind) : seen.bytes;
    return { bytes: said, withheld: null, counts };
  }

  /** An answer as a stream of events. */
  stream(table: PlaceholderTable): Rewriter {
    const unmasking = this.#unmasks(table) ? unmaskingStream(table) : null;
    const redacting = this.#output && redactingStream({ ...this.#output, table: new PlaceholderTable(table) });
    return new Rewriting(
      [redacting?.stream, unmasking].filter((stream) => !!stream),
      redacting?.counts ?? {},
    );
  }

  /** Results of a batch, line by line; each answer by itself. */
  results(): Rewriter {
    return new ResultLines((line) => this.message(line, new PlaceholderTable(), "result"));
  }

  #unmasks(table: PlaceholderTable): boolean {
    return this.#policy.unmask === true && table.size > 0;
  }
}

const NOTHING = new Uint8Array(0);

/** One after the other. */
class Rewriting implements Rewriter {
  readonly counts: Counts;
  readonly #streams: readonly StreamRewriter[];

  constructor(streams: readonly StreamRewriter[], counts: Counts) {
    this.#streams = streams;
    this.counts = counts;
  }

  get ended(): boolean {
    return this.#streams.some((stream) => stream.ended);
  }

  push(chunk: Uint8Array): Uint8Array {
    return this.#streams.reduce<Uint8Array>((bytes, stream) => stream.push(bytes), chunk);
  }

  end(): Uint8Array {
    return this.#streams.reduce<Uint8Array>((rest, stream) => joined([stream.push(rest), stream.end()]), NOTHING);
  }
}

/** Longest line of a batch's results that can be looked through; an answer of a model has far less. */
const MAX_LINE_BYTES = 16 * 1024 * 1024;
const LINE_FEED = new Uint8Array([0x0a]);

/** An answer that must not be given becomes an error in its line; a line that can't be looked through breaks them off. */
class ResultLines implements Rewriter {
  readonly ended = false;
  readonly counts: Counts = {};
  readonly #guard: (line: Uint8Array) => GuardedAnswer;
  readonly #lines = new LineSplitter(MAX_LINE_BYTES);

  constructor(guard: (line: Uint8Array) => GuardedAnswer) {
    this.#guard = guard;
  }

  push(chunk: Uint8Array): Uint8Array {
    const said: Uint8Array[] = [];
    for (const line of this.#lines.push(chunk)) said.push(this.#said(line), LINE_FEED);
    return joined(said);
  }

  end(): Uint8Array {
    return this.#said(this.#lines.end());
  }

  #said(line: Uint8Array | null): Uint8Array {
    if (line === null) throw new Error("a line of results is too long to be looked through");
    if (line.length === 0) return line;
    const { bytes, withheld, counts } = this.#guard(line);
    for (const [type, found] of Object.entries(counts)) this.counts[type] = (this.counts[type] ?? 0) + found;
    return withheld === null ? bytes : errored(line, withheld);
  }
}

function errored(line: Uint8Array, message: string): Uint8Array {
  const custom_id = asText(asFields(parseJson(new TextDecoder().decode(line)))?.custom_id);
  const error = { type: "error", error: { type: "api_error", message } };
  return new TextEncoder().encode(JSON.stringify({ custom_id, result: { type: "errored", error } }));
}

/** They were checked when they were saved; one that an earlier release took and this one does not finds nothing. */
function compiled(patterns: Policy["patterns"]): readonly OwnPattern[] {
  return patterns.flatMap(({ name, pattern: source }) => {
    const pattern = parsePattern(source);
    return pattern.ok ? [{ name, pattern: pattern.value }] : [];
  });
}
