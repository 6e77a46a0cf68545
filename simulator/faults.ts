/**
 * Faults on demand: `name=value` pairs, in the request header `anthropic-sim-fault` (pairs between `;`) or behind the
 * model's id (each pair after a `+`), for clients and gateways that pass no headers on. docs/simulator.md lists them.
 */

/** Numbers with their smallest and largest value. */
const NUMBERS = {
  ttfb: [0, 600_000],
  pace: [0, 600_000],
  status: [300, 599],
  retry_after: [-1, 1_000_000],
  retry_after_ms: [0, 1_000_000],
  error_after: [0, 1_000_000],
  cut: [0, 100_000_000],
  end: [0, 100_000_000],
  cut_after: [0, 1_000_000],
  end_after: [0, 1_000_000],
  silence_after: [0, 1_000_000],
  drip: [1, 1_000_000],
  drip_ms: [0, 60_000],
  chunk: [1, 1_000_000],
  malformed: [0, 1_000_000],
  big_event: [1, 64 * 1024 * 1024],
  events: [1, 1_000_000],
  bytes: [1, 1_000_000],
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
  "model_mismatch",
] as const;
const TEXTS = {
  error_first: /^[a-z_]+_error$/,
  error_type: /^[a-z_]+_error$/,
  should_retry: /^(?:true|false)$/,
  content_type: /^[\w.+/-]+$/,
  redirect: /^(?:301|302|303|307|308)$/,
} as const;

export type Faults = { readonly [K in keyof typeof NUMBERS]?: number } & {
  readonly [K in (typeof FLAGS)[number]]?: true;
} & { readonly [K in keyof typeof TEXTS]?: string };

/** The faults asked for, or a sentence about the first one that is no fault. */
export function parseFaults(pairs: readonly string[]): Faults | string {
  const faults: Record<string, number | string | true> = {};
  for (const pair of pairs.map((text) => text.trim()).filter((text) => text !== "")) {
    const [name = "", value] = pair.split("=", 2);
    if ((FLAGS as readonly string[]).includes(name)) {
      faults[name] = true;
    } else if (Object.hasOwn(NUMBERS, name)) {
      const [min, max] = NUMBERS[name as keyof typeof NUMBERS];
      const number = Number(value);
      if (value === undefined || !Number.isInteger(number) || number < min || number > max) {
        return `fault ${name}: must be a whole number from ${min} to ${max}`;
      }
      faults[name] = number;
    } else if (Object.hasOwn(TEXTS, name)) {
      const pattern = TEXTS[name as keyof typeof TEXTS];
      if (value === undefined || !pattern.test(value)) return `fault ${name}: must match ${pattern.source}`;
      faults[name] = value;
    } else {
      return `fault ${name}: there is no such fault`;
    }
  }
  return faults;
}

/** Splits `claude-opus-5-5+pace=20+cut=300` into the model's id and its pairs. */
export function splitModel(model: string): { readonly id: string; readonly pairs: readonly string[] } {
  const [id = "", ...pairs] = model.split("+");
  return { id, pairs };
}
