/** One cheap, real call that tells whether an upstream can be reached and takes its credential. */
import { readCapped } from "../body.ts";
import { readAnswer } from "../wire/anthropic/answer.ts";

const PROBE_PATH = "/v1/models?limit=1";
const DEADLINE_MS = 10_000;
/** No error body is a tenth of this. */
const MAX_BODY_BYTES = 64 * 1024;

/** Anthropic's own words (wire notes §3); whatever else stands in their place may be anything, a secret too. */
const ERROR_TYPES = [
  "invalid_request_error",
  "authentication_error",
  "billing_error",
  "permission_error",
  "not_found_error",
  "conflict_error",
  "request_too_large",
  "rate_limit_error",
  "timeout_error",
  "api_error",
  "overloaded_error",
];

export type Probed = {
  readonly ok: boolean;
  /** Null where there was no answer. */
  readonly status: number | null;
  readonly latency_ms: number;
  /** The upstream's own for an error it answered with, `other` if that is no known one; else what went wrong. */
  readonly error_type?: string;
};

export type ProbeBy = {
  readonly fetch: typeof fetch;
  /** Milliseconds. */
  readonly now: () => number;
};

/** Never throws, follows no redirect, and repeats nothing the upstream said but a known error type. */
export async function probe(
  { baseUrl, apiKey }: { readonly baseUrl: string; readonly apiKey: string },
  { fetch, now }: ProbeBy,
): Promise<Probed> {
  const startedAt = now();
  const done = (status: number | null, error_type?: string): Probed => ({
    ok: error_type === undefined,
    status,
    latency_ms: now() - startedAt,
    ...(error_type === undefined ? {} : { error_type }),
  });
  const signal = AbortSignal.timeout(DEADLINE_MS);
  let status: number | null = null;
  try {
    const response = await fetch(`${baseUrl}${PROBE_PATH}`, {
      headers: { "x-api-key": apiKey, "anthropic-version": "2023-06-01" },
      redirect: "manual",
      signal,
    });
    status = response.status;
    if (status >= 300 && status < 400) {
      await response.body?.cancel();
      return done(status, "redirect");
    }
    const body = await readCapped(response, null, MAX_BODY_BYTES);
    if (status === 200) return done(status);
    return done(status, body === "too large" ? "other" : errorType(new TextDecoder().decode(body)));
  } catch {
    // The runtime's own words may name hosts and addresses: they are for nobody.
    return done(status, signal.aborted ? "timeout" : "unreachable");
  }
}

function errorType(text: string): string {
  const type = readAnswer(text).errorType;
  return ERROR_TYPES.find((known) => known === type) ?? "other";
}
