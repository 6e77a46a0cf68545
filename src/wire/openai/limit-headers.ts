/** What is left of a key's limits, in the headers that OpenAI's clients read. */

const KINDS = ["requests", "tokens"] as const;
const FIGURES = ["limit", "remaining"] as const;

/** All names that `openAILimits` may give. */
export const LIMIT_NAMES: readonly string[] = KINDS.flatMap((kind) =>
  [...FIGURES, "reset"].map((figure) => `x-ratelimit-${figure}-${kind}`),
);

/** `x-ratelimit-*` for what an answer's `anthropic-ratelimit-*` say; `now` in ms since the epoch. */
export function openAILimits(
  get: (name: string) => string | null | undefined,
  now: number,
): Readonly<Record<string, string>> {
  const limits: Record<string, string> = {};
  for (const kind of KINDS) {
    for (const figure of FIGURES) {
      const value = get(`anthropic-ratelimit-${kind}-${figure}`);
      if (value) limits[`x-ratelimit-${figure}-${kind}`] = value;
    }
    const reset = Date.parse(get(`anthropic-ratelimit-${kind}-reset`) ?? "");
    if (!Number.isNaN(reset)) limits[`x-ratelimit-reset-${kind}`] = duration(reset - now);
  }
  return limits;
}

/** A time span as OpenAI writes it: `1s`, `6m0s`, `1h0m30s`. Rounded up, so that it is true when it has passed. */
export function duration(ms: number): string {
  const all = Math.max(0, Math.ceil(ms / 1_000));
  const hours = Math.floor(all / 3_600);
  const minutes = Math.floor(all / 60) % 60;
  const seconds = `${all % 60}s`;
  if (hours > 0) return `${hours}h${minutes}m${seconds}`;
  return minutes > 0 ? `${minutes}m${seconds}` : seconds;
}
