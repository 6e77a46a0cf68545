/** `POST /v1/messages` and `/v1/messages/count_tokens`, in the order that a request meets their rules. */
import { answerJson, type Call, commonHeaders, deliveryOf, strike } from "./answer.ts";
import { breakpointsOf, PromptCache } from "./cache.ts";
import { type ApiError, apiError, invalid, isApiError } from "./errors.ts";
import { type Faults, pairsOf, parseFaults, splitModel } from "./faults.ts";
import { asFields, asText, type Fields } from "./json.ts";
import { type MessageParts, messageOf, usageOf } from "./message.ts";
import { findModel, MODELS, type Model } from "./models.ts";
import { replyTo } from "./reply.ts";
import { verifySignatures } from "./signature.ts";
import { streamBody } from "./stream.ts";
import { Threads } from "./threads.ts";
import { promptBlocks, sumTokens } from "./tokens.ts";
import { type Version, validatePrompt, validateSampling } from "./validate.ts";

const cache = new PromptCache();
const threads = new Threads();

/** A request whose body could be read and whose faults, if any, have not ended it. */
export type Asked = { readonly body: Fields; readonly id: string; readonly model: Model; readonly faults: Faults };

export async function countTokens(call: Call, bytes: Uint8Array, version: Version): Promise<Response | ApiError> {
  const asked = await open(call, bytes);
  if (asked instanceof Response || isApiError(asked)) return asked;
  const wrong = validatePrompt(asked.body, version, asked.model) ?? verifySignatures(asked.model.id, asked.body);
  if (wrong) return wrong;
  return answerJson(call, JSON.stringify({ input_tokens: sumTokens(promptBlocks(asked.body)) }), asked.faults);
}

/** `scope`: whose prompt cache it is. */
export async function createMessage(
  call: Call,
  bytes: Uint8Array,
  version: Version,
  scope: string,
): Promise<Response | ApiError> {
  const asked = await open(call, bytes);
  if (asked instanceof Response || isApiError(asked)) return asked;
  const resumed = threads.resume(scope, asked.body);
  if (isApiError(resumed)) return resumed;
  const parts = compose({ ...asked, body: resumed.body }, version, cache, scope, call.now);
  if (isApiError(parts)) return parts;
  const { usage } = parts;
  if (resumed.body.thread) threads.hold(scope, resumed.body, parts.id, messageOf(parts).content);
  call.account?.use(usage.input_tokens + usage.cache_creation_input_tokens, usage.output_tokens);
  if (asked.body.stream !== true) return answerJson(call, JSON.stringify(messageOf(parts)), asked.faults);
  const headers = commonHeaders(call);
  headers.set("content-type", asked.faults.content_type ?? "text/event-stream; charset=utf-8");
  headers.set("cache-control", "no-cache");
  return new Response(streamBody(parts, asked.faults, deliveryOf(call)), { headers });
}

/** All that an answer says. `scope` and `now` are for the prompt cache, which is also written to. */
export function compose(
  { body, id, model, faults }: Asked,
  version: Version,
  cache: PromptCache,
  scope: string,
  now: number,
): MessageParts | ApiError {
  const wrong = validatePrompt(body, version, model) ?? validateSampling(body, version, model);
  if (wrong) return wrong;
  const blocks = promptBlocks(body);
  const total = sumTokens(blocks);
  if (total > model.contextTokens) {
    return invalid(`prompt is too long: ${total} tokens > ${model.contextTokens} maximum`);
  }
  const breakpoints = breakpointsOf(body, blocks);
  if (isApiError(breakpoints)) return breakpoints;
  const forged = verifySignatures(model.id, body);
  if (forged) return forged;
  const cached = cache.use(scope, model, body, blocks, breakpoints, now);
  const reply = replyTo(body, model, total, faults);
  cached.commit();
  return {
    id: `msg_01${crypto.randomUUID().replaceAll("-", "").slice(0, 22)}`,
    model: faults.model_mismatch ? otherThan(model) : id,
    reply,
    usage: usageOf(total, cached, reply, body),
    contextManagement: asFields(body.context_management) ? { applied_edits: [] } : undefined,
  };
}

/** Reads the body and the model, and plays the faults that strike before anything else is looked at. */
async function open(call: Call, bytes: Uint8Array): Promise<Asked | Response | ApiError> {
  const { headers } = call.request;
  const encoding = headers.get("content-encoding");
  if (encoding !== null && encoding !== "identity") {
    const error = invalid(`The request body's content-encoding "${encoding}" is not supported.`);
    return { ...error, code: "request_body_encoding_unsupported" };
  }
  const body = parseBody(bytes);
  if (typeof body === "string") return invalid(body);
  if (body.model === undefined) return invalid("model: Field required");
  const name = asText(body.model);
  if (name === undefined) return invalid("model: Input should be a valid string");
  const { id, pairs } = splitModel(name);
  const faults = parseFaults([...pairsOf(headers.get("anthropic-sim-fault")), ...pairs]);
  if (typeof faults === "string") return invalid(faults);
  const struck = await strike(call, faults);
  if (struck) return struck;
  const model = findModel(id);
  return model ? { body, id, model, faults } : apiError(404, `model: ${id}`);
}

function parseBody(bytes: Uint8Array): Fields | string {
  try {
    const body: unknown = JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes));
    return asFields(body) ?? "The request body is not valid JSON: it must be an object";
  } catch (error) {
    return `The request body is not valid JSON: ${error instanceof Error ? error.message : String(error)}`;
  }
}

function otherThan(model: Model): string {
  return MODELS.find((other) => other.id !== model.id)?.id ?? "";
}
