/** Failures in OpenAI's shape, with the headers that its clients read. */
import { type AppContext, jsonHeaders, noteFailure } from "../context.ts";
import type { Failure } from "../wire/errors.ts";
import { errorOfFailure } from "../wire/openai/errors.ts";
import { openAILimits } from "../wire/openai/limit-headers.ts";

/** The answer for a failure; `headers` are added to the failure's own. */
export function failOpenAI(c: AppContext, failure: Failure, headers: Readonly<Record<string, string>> = {}): Response {
  const { requestId, startedAt } = c.var.call;
  noteFailure(c, failure);
  const { status, body, headers: own } = errorOfFailure(failure);
  const all: Record<string, string> = { ...own, ...headers };
  const limits = openAILimits((name) => all[name], startedAt);
  return new Response(body, { status, headers: { ...jsonHeaders(requestId), ...all, ...limits } });
}
