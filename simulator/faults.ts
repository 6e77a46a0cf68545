/**
 * Faults on demand: `name=value` pairs, in the request header `anthropic-sim-fault` (pairs between `;`) or behind the
 * model's id or the key (each pair after a `+`), for clients and gateways that pass no headers on, and for one of
 * several accounts. docs/simulator.md lists them.
 */

/** Numbers with their smallest and largest value. */
const NUMBERS = {
  ttfb: [0, 600_000],
  pace: [0, 600_000],
  status: [400, 599],
  redirect: [301, 308],
  retry_after_date: [-1_000_000, 1_000_000],
  error_after: [0, 1_000_000],
  cut: [0, 100_000_000],
  cut_after: [0, 1_000_000],
  end: [0, 100_000_000],
  end_after: [0, 1_000_000],
  silence: [0, 100_000_000],
  silence_after: [0, 1_000_000],
  pings_after: [0, 1_000_000],
  drip: [1, 1_000_000],
  drip_ms: [0, 60_000],
  chunk: [1, 1_000_000],
  malformed: [0, 1_000_000],
  big_event: [100, 64 * 1024 * 1024],
  events: [1, 1_000_000],
  bytes: [1, 1_000_000],
  big_headers: [1, 16 * 1024 * 1024],
  slow_body: [0, 600_000],
  fail_times: [1, 1_000_000],
  fail_ms: [1, 3_600_000],
  batch_ms: [0, 7 * 24 * 3_600_000],
} as const;
const FLAGS = [
  "endless",
  "crlf",
  "cr",
  "bom",
  "comments",
  "padded",
  "unknown_event",
  "hang",
  "no_headers",
  "model_mismatch",
  "no_names",
  "sse_fields",
  "nul",
  "double_headers",
  "expire",
  "downloadable",
] as const;
const TEXTS = {
  error_first: /^[a-z_]+_error$/,
  error_type: /^[a-z_]+_error$/,
  error_code: /^[a-z_]+$/,
  should_retry: /^(?:true|false)$/,
  content_type: /^[\w.-]+\/[\w.+-]+$/,
  location: /^[\x21-\x7e]+$/,
  retry_after: /^[\x21-\x7e]+$/,
  retry_after_ms: /^[\x21-\x7e]+$/,
  first_event: /^(?:ping|comment|unknown)$/,
  fail_id: /^[\w.-]{1,100}$/,
} as const;
const REDIRECTS = [301, 302, 303, 307, 308];
/** `events` without `bytes`. */
const DEFAULT_EVENT_BYTES = 20;
/** `events` times `bytes` may not be more: a Worker has 128 MB of memory. */
const MAX_TEXT_BYTES = 16 * 1024 * 1024;
/** Counts of `fail_id` kept; the oldest are forgotten first. */
const MAX_FAIL_IDS = 10_000;

export type Faults = { readonly [K in keyof typeof NUMBERS]?: number } & {
  readonly [K in (typeof FLAGS)[number]]?: true;
} & { readonly [K in keyof typeof TEXTS]?: string };

export const NO_FAULTS: Faults = {};

/** The pairs of a header's value. */
export function pairsOf(header: string | null): readonly string[] {
  return header === null ? [] : header.split(";");
}

/** The faults asked for, or a sentence about the first one that is no fault. Of two with one name the last counts. */
export function parseFaults(pairs: readonly string[]): Faults | string {
  const faults: Record<string, number | string | true> = {};
  for (const text of pairs) {
    const pair = text.trim();
    if (pair === "") continue;
    const equals = pair.indexOf("=");
    const name = equals === -1 ? pair : pair.slice(0, equals);
    const value = equals === -1 ? undefined : pair.slice(equals + 1);
    const parsed = parseFault(name, value);
    if (typeof parsed === "string" && parsed.startsWith("fault ")) return parsed;
    faults[name] = parsed;
  }
  const { events = 0, bytes = DEFAULT_EVENT_BYTES } = faults as Faults;
  if (events * bytes > MAX_TEXT_BYTES) return `fault events: events times bytes must be at most ${MAX_TEXT_BYTES}`;
  if (events > 0) faults.bytes = bytes;
  for (const name of ["fail_times", "fail_ms"] as const) {
    if (faults[name] !== undefined && faults.fail_id === undefined) return `fault ${name}: needs a fail_id`;
  }
  return faults;
}

/** One value, or a sentence that begins with `fault `, which no value does. */
function parseFault(name: string, value: string | undefined): number | string | true {
  if ((FLAGS as readonly string[]).includes(name)) {
    return value === undefined || value === "1" || value === "true" ? true : `fault ${name}: takes no value`;
  }
  if (Object.hasOwn(NUMBERS, name)) {
    const [min, max] = NUMBERS[name as keyof typeof NUMBERS];
    const number = value === undefined || value === "" ? Number.NaN : Number(value);
    if (!Number.isInteger(number) || number < min || number > max) {
      return `fault ${name}: must be a whole number from ${min} to ${max}`;
    }
    if (name === "redirect" && !REDIRECTS.includes(number)) {
      return `fault redirect: must be one of ${REDIRECTS.join(", ")}`;
    }
    return number;
  }
  if (Object.hasOwn(TEXTS, name)) {
    const pattern = TEXTS[name as keyof typeof TEXTS];
    return value !== undefined && pattern.test(value) ? value : `fault ${name}: must match ${pattern.source}`;
  }
  return `fault ${name}: there is no such fault`;
}

/** Splits `claude-opus-5-5+pace=20+cut=300`, or a key of that form, into the name itself and its pairs. */
export function splitName(name: string): { readonly id: string; readonly pairs: readonly string[] } {
  const [id = "", ...pairs] = name.split("+");
  return { id, pairs };
}

/** Which calls a fault with a `fail_id` still strikes: the first `fail_times`, and those in the first `fail_ms`. */
export class Failures {
  readonly #struck = new Map<string, { count: number; readonly since: number }>();

  /** The faults of a call at a time in ms: those asked for, or none at all when they have struck for long enough. */
  next(faults: Faults, now: number): Faults {
    const { fail_id: id, fail_times: times, fail_ms: ms } = faults;
    if (id === undefined) return faults;
    let struck = this.#struck.get(id);
    if (!struck) {
      if (this.#struck.size >= MAX_FAIL_IDS) this.#struck.delete(this.#struck.keys().next().value ?? "");
      struck = { count: 0, since: now };
      this.#struck.set(id, struck);
    }
    if (times !== undefined && struck.count >= times) return NO_FAULTS;
    if (ms !== undefined && now - struck.since >= ms) return NO_FAULTS;
    struck.count++;
    return faults;
  }
}
