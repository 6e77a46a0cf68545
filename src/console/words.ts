/** What went wrong, and what was used, in plain words. */
import type { Usage } from "../../clients/typescript/protocol.ts";

const WORDS: Readonly<Record<string, string>> = {
  authentication_error: "The key is not valid, or not any more.",
  permission_error: "The key may not do this.",
  billing_error: "The key's budget is spent.",
  rate_limit_error: "The key's limit is reached for the moment.",
  overloaded_error: "Claude has too much to do at the moment.",
  api_error: "Claude could not answer.",
  timeout_error: "Claude took too long.",
  connection_error: "The gateway cannot be reached.",
  not_found_error: "This conversation is not there, or not any more.",
  request_too_large: "The message is too large.",
  conflict_error: "Another answer is being written.",
  cancelled: "Stopped.",
  interrupted: "The answer was interrupted. What had come is kept.",
};

/** `message` is the gateway's own sentence, shown behind ours where it tells more. */
export function inWords(
  error: { readonly type: string; readonly message: string },
  retryAfter?: number | null,
): string {
  const plain = WORDS[error.type];
  const wait = retryAfter ? ` It can be tried again in ${inTime(retryAfter)}.` : "";
  if (plain === undefined) return `${error.message}${wait}`;
  const quiet = error.type === "cancelled" || error.type === "interrupted" || error.message === plain;
  return quiet ? `${plain}${wait}` : `${plain}${wait} (${error.message})`;
}

function inTime(seconds: number): string {
  if (seconds < 90) return `${Math.ceil(seconds)} s`;
  if (seconds < 90 * 60) return `${Math.ceil(seconds / 60)} min`;
  return seconds < 36 * 3_600 ? `${Math.ceil(seconds / 3_600)} h` : `${Math.ceil(seconds / 86_400)} days`;
}

const whole = new Intl.NumberFormat("en");
const percent = new Intl.NumberFormat("en", { style: "percent", maximumFractionDigits: 0 });
const money = new Intl.NumberFormat("en", { style: "currency", currency: "USD", maximumSignificantDigits: 3 });

/** Tokens that were read and written at all. */
export function isUsed({ input_tokens, output_tokens, cache_read_input_tokens }: Usage): boolean {
  return input_tokens + output_tokens + cache_read_input_tokens > 0;
}

/** "1,204 in (87 % from cache) · 312 out · $0.0123" */
export function usageLine(usage: Usage, dollars: number): string {
  const input = usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens;
  const cached = `${percent.format(usage.cache_read_share)} from cache`;
  return `${whole.format(input)} in (${cached}) · ${whole.format(usage.output_tokens)} out · ${money.format(dollars)}`;
}
