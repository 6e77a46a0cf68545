/**
 * `POST /v1/messages` and `/v1/messages/count_tokens`, in the order that a request meets their rules, and the single
 * requests of a batch.
 */
import { answerWhole, commonHeaders, deliveryOf, errorOf, faultsOf, type KnownCall, strike } from "./answer.ts";
import { breakpointsOf, PromptCache } from "./cache.ts";
import { type ApiError, apiError, errorFields, invalid, isApiError } from "./errors.ts";
import { type Faults, splitName } from "./faults.ts";
import { files } from "./file-calls.ts";
import { wrongFile } from "./files.ts";
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

export async function countTokens(call: KnownCall, bytes: Uint8Array, version: Version): Promise<Response | ApiError> {
  const asked = await open(call, bytes);
  if (asked instanceof Response || isApiError(asked)) return asked;
  const { body, model } = asked;
  const scope = call.caller.organization.id;
  const wrong =
    validatePrompt(body, version, model) ??
    wrongFile(files, scope, body, call.now) ??
    verifySignatures({ organization: scope, model: model.id }, body);
  if (wrong) return wrong;
  return answerWhole(call, JSON.stringify({ input_tokens: sumTokens(promptBlocks(body)) }), asked.faults);
}

export async function createMessage(
  call: KnownCall,
  bytes: Uint8Array,
  version: Version,
): Promise<Response | ApiError> {
  const asked = await open(call, bytes);
  if (asked instanceof Response || isApiError(asked)) return asked;
  const { account, organization } = call.caller;
  const resumed = threads.resume(organization.id, asked.body);
  if (isApiError(resumed)) return resumed;
  const missing = wrongFile(files, organization.id, resumed.body, call.now);
  if (missing) return missing;
  const parts = compose({ ...asked, body: resumed.body }, version, cache, organization.id, call.now);
  if (isApiError(parts)) return parts;
  const { usage } = parts;
  if (resumed.body.thread) threads.hold(organization.id, resumed.body, parts.id, messageOf(parts).content);
  account.use(usage.input_tokens + usage.cache_creation_input_tokens, usage.output_tokens);
  if (asked.body.stream !== true) return answerWhole(call, JSON.stringify(messageOf(parts)), asked.faults);
  const headers = commonHeaders(call, asked.faults);
  headers.set("content-type", asked.faults.content_type ?? "text/event-stream; charset=utf-8");
  headers.set("cache-control", "no-cache");
  return new Response(streamBody(parts, asked.faults, deliveryOf(call)), { headers });
}

/**
 * The `result` of one request of a batch: a message, an error, or `expired` on demand. Only those faults count here that
 * stand behind the model's name. What a batch cannot have is refused in the request's own result, like all that is
 * wrong with its params.
 */
export function answerItem(params: Fields, version: Version, scope: string, now: number): Fields {
  const errored = (error: ApiError): Fields => ({ type: "errored", error: errorFields(error, null) });
  const named = nameOf(params);
  if (isApiError(named)) return errored(named);
  const faults = faultsOf(named.pairs, now);
  if (isApiError(faults)) return errored(faults);
  if (faults.expire) return { type: "expired" };
  if (faults.status !== undefined) return errored(errorOf(faults, faults.status, now));
  const model = findModel(named.id);
  if (!model) return errored(apiError(404, `model: ${named.id}`));
  if (params.stream === true) return errored(invalid("stream: streaming is not supported in a batch"));
  if (params.speed === "fast") return errored(invalid("speed: fast mode is not supported in a batch"));
  if (params.max_tokens === 0) return errored(invalid("max_tokens: must be at least 1 in a batch"));
  const missing = wrongFile(files, scope, params, now);
  if (missing) return errored(missing);
  const parts = compose({ body: params, id: named.id, model, faults }, version, cache, scope, now);
  if (isApiError(parts)) return errored(parts);
  return { type: "succeeded", message: { ...messageOf(parts), usage: { ...parts.usage, service_tier: "batch" } } };
}

/** All that an answer says. `scope`: the organization, whose prompt cache is read at `now`, and written to. */
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
  const forged = verifySignatures({ organization: scope, model: model.id }, body);
  if (forged) return forged;
  const cached = cache.use(scope, model, body, blocks, breakpoints, now);
  const reply = replyTo(body, model, total, faults, scope);
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
async function open(call: KnownCall, bytes: Uint8Array): Promise<Asked | Response | ApiError> {
  const read = readJson(call, bytes);
  if (isApiError(read)) return read;
  const { body } = read;
  const named = nameOf(body);
  if (isApiError(named)) return named;
  const faults = faultsOf([...call.pairs, ...named.pairs], call.now);
  if (isApiError(faults)) return faults;
  const struck = await strike(call, faults);
  if (struck) return struck;
  const model = findModel(named.id);
  return model ? { body, id: named.id, model, faults } : apiError(404, `model: ${named.id}`);
}

/** The model's name and the faults behind it. */
function nameOf(body: Fields): ReturnType<typeof splitName> | ApiError {
  if (body.model === undefined) return invalid("model: Field required");
  const name = asText(body.model);
  return name === undefined ? invalid("model: Input should be a valid string") : splitName(name);
}

/** The JSON object that a request carries. */
export function readJson({ request }: KnownCall, bytes: Uint8Array): { readonly body: Fields } | ApiError {
  const encoding = request.headers.get("content-encoding");
  if (encoding !== null && encoding !== "identity") {
    const error = invalid(`The request body's content-encoding "${encoding}" is not supported.`);
    return { ...error, code: "request_body_encoding_unsupported" };
  }
  try {
    const value: unknown = JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes));
    const body = asFields(value);
    return body ? { body } : invalid("The request body is not valid JSON: it must be an object");
  } catch (error) {
    return invalid(`The request body is not valid JSON: ${error instanceof Error ? error.message : String(error)}`);
  }
}

function otherThan(model: Model): string {
  return MODELS.find((other) => other.id !== model.id)?.id ?? "";
}
