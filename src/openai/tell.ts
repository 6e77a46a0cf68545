/** What upstream has answered, told as OpenAI tells it: a message, a stream, or an error. */
import { readCapped } from "../body.ts";
import type { AppContext } from "../context.ts";
import { isEventStream } from "../hotpath/forward.ts";
import { ORGANIZATION_HEADER } from "../wire/headers.ts";
import { parseJson } from "../wire/json.ts";
import type { Telling } from "../wire/openai/draft.ts";
import { errorOfAnswer, notAMessage, type ToldError } from "../wire/openai/errors.ts";
import { openAILimits } from "../wire/openai/limit-headers.ts";
import type { AnswerName, StreamMapper, WholeMessage } from "../wire/openai/stream-mapper.ts";
import { wholeMessage } from "../wire/openai/whole-message.ts";
import { keptInTime, toldStream } from "./pump.ts";

const decoder = new TextDecoder();

/** Of an answer that is told whole, which takes four times as much. 128,000 tokens are a megabyte at most. */
const MAX_WHOLE_BYTES = 16 * 1024 * 1024;

/** What an answer is called, and in whose account it was made, if upstream says. */
export type Named = AnswerName & { readonly organization: string | null };

/** How one call is answered (answering.ts). */
export interface Answering {
  readonly telling: Telling;
  /** The answer's body. */
  answer(message: WholeMessage, name: Named): string | Promise<string>;
  stream(name: Named): StreamMapper;
  /**
   * Sees to what is kept of an answer: null if nothing is, or resolves when that has been done. `body`: the answer's, where
   * it has been made.
   */
  keep(message: WholeMessage, name: Named, body?: string): Promise<void> | null;
}

export async function tellAnswer(c: AppContext, answer: Response, answering: Answering): Promise<Response> {
  const told = withOpenAIHeaders(c, answer);
  const { status, headers } = told;
  const { requestId: id, startedAt } = c.var.call;
  const organization = headers.get(ORGANIZATION_HEADER);
  const name = { id, created: createdAt(answer, startedAt), organization };
  if (status < 400 && isEventStream(told)) {
    const readable = toldStream(told.body, answering.stream(name), (message) => answering.keep(message, name));
    return new Response(readable, { status, headers });
  }
  // It was whole before; where an object hands it over it may break on the way.
  const bytes = await readCapped(answer, null, MAX_WHOLE_BYTES).catch(() => new Uint8Array(0));
  if (bytes === "too large") return errorAnswer(notAMessage(), headers);
  const text = decoder.decode(bytes);
  if (status >= 400) return errorAnswer(errorOfAnswer(status, text), headers);
  const message = wholeMessage(parseJson(text), answering.telling);
  if (!message) return errorAnswer(notAMessage(), headers);
  const body = await answering.answer(message, name);
  const kept = answering.keep(message, name, body);
  if (kept) await keptInTime(kept);
  headers.set("content-type", "application/json");
  return new Response(body, { status, headers });
}

function errorAnswer({ status, body, headers: own }: ToldError, headers: Headers): Response {
  headers.set("content-type", "application/json");
  for (const name in own) headers.set(name, own[name] ?? "");
  return new Response(body, { status, headers });
}

/** An answer with what OpenAI's clients look for in its headers. */
export function withOpenAIHeaders(c: AppContext, answer: Response): Response {
  const { headers } = answer;
  const limits = openAILimits((name) => headers.get(name), c.var.call.startedAt);
  for (const name in limits) headers.set(name, limits[name] ?? "");
  return answer;
}

/** In seconds: when the upstream answered, so that a replay of the answer says the same. */
function createdAt({ headers }: Response, now: number): number {
  const date = Date.parse(headers.get("date") ?? "");
  return Math.floor((Number.isNaN(date) ? now : date) / 1_000);
}
