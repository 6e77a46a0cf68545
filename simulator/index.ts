/**
 * The simulated Claude: the Messages API as the wire notes tell it, as a Worker of its own. For development, tests and
 * benchmarks, ours and our users' (docs/simulator.md). All state (prompt cache, rate limits, the journal of requests)
 * is in the memory of the isolate and gone with it.
 */
import { breakpointsOf, type CacheUse, useCache } from "./cache.ts";
import { type ApiError, apiError, errorBody, invalid, typeOf } from "./errors.ts";
import { type Faults, parseFaults, splitModel } from "./faults.ts";
import { forget, note, recall } from "./journal.ts";
import { asFields, asText, type Fields } from "./json.ts";
import { Account } from "./limits.ts";
import { findModel, type Model, modelInfo, modelPage } from "./models.ts";
import { type Reply, replyTo } from "./reply.ts";
import { verifySignatures } from "./signature.ts";
import { jsonBody, messageOf, streamBody } from "./stream.ts";
import { type PromptBlock, promptBlocks, sumTokens } from "./tokens.ts";
import { VERSIONS, type Version, validatePrompt, validateSampling } from "./validate.ts";

const MAX_BODY_BYTES = 32 * 1024 * 1024;
const ORGANIZATION = "00000000-0000-4000-8000-000000000000";
const WORKSPACE = "wrkspc_01Simulated00000000000000";
const NO_FAULTS: Faults = {};

type Entry = ReturnType<typeof note>;
type Call = { readonly id: string; readonly request: Request; readonly entry: Entry; readonly account?: Account };

export default {
  async fetch(request: Request): Promise<Response> {
    const url = new URL(request.url);
    if (url.pathname === "/api/hello") return new Response(null);
    if (url.pathname === "/sim/requests") return journal(request, url);
    const id = `req_011sim${crypto.randomUUID().replaceAll("-", "").slice(0, 18)}`;
    const body = request.body ? new Uint8Array(await request.arrayBuffer()) : new Uint8Array(0);
    const entry = note(id, request, body);
    const answer = await route({ id, request, entry }, url, body);
    const response = answer instanceof Response ? answer : refuse({ id, request, entry }, answer);
    entry.status = response.status;
    return response;
  },
};

async function journal(request: Request, url: URL): Promise<Response> {
  if (request.method === "DELETE") forget();
  return Response.json({ data: await recall(Number(url.searchParams.get("limit") ?? 20)) });
}

async function route(call: Call, url: URL, body: Uint8Array): Promise<Response | ApiError> {
  const { request } = call;
  const { pathname } = url;
  const isMessages = pathname === "/v1/messages";
  const isCount = pathname === "/v1/messages/count_tokens";
  const isModels = pathname === "/v1/models" || pathname.startsWith("/v1/models/");
  if (!isMessages && !isCount && !isModels) return apiError(404, "Not found");
  if (request.method !== (isModels ? "GET" : "POST")) return apiError(405, "Method Not Allowed");

  const credential = authenticate(request.headers);
  if (typeof credential !== "string") return credential;
  const version = request.headers.get("anthropic-version");
  if (version === null) return invalid("anthropic-version: header is required");
  if (!VERSIONS.some((known) => known === version))
    return invalid(`anthropic-version: "${version}" is not a valid version`);
  const lowered = request.headers.get("anthropic-sim-ratelimit-requests");
  const account = new Account(credential, lowered === null ? undefined : Number(lowered), Date.now());
  const limited = account.admit();
  if (limited) return limited;
  const known: Call = { ...call, account };

  if (isModels) {
    const name = pathname.slice("/v1/models/".length);
    if (name === "") {
      const page = modelPage(url.searchParams);
      return typeof page === "string" ? invalid(page) : answer(known, JSON.stringify(page), NO_FAULTS);
    }
    const model = findModel(name);
    return model ? answer(known, JSON.stringify(modelInfo(model)), NO_FAULTS) : apiError(404, `model: ${name}`);
  }
  return respond(known, body, version as Version, credential, isMessages);
}

function authenticate(headers: Headers): string | ApiError {
  const key = headers.get("x-api-key");
  const bearer = /^Bearer (.+)$/i.exec(headers.get("authorization") ?? "")?.[1] ?? null;
  if (key === null && bearer === null) return apiError(401, "x-api-key header is required");
  const credential = key ?? bearer ?? "";
  if ((bearer !== null && bearer !== credential) || !credential.startsWith("sk-ant-")) {
    return apiError(401, "invalid x-api-key");
  }
  if (credential.startsWith("sk-ant-denied-")) {
    return apiError(403, "Your API key does not have permission to use the specified resource.");
  }
  if (credential.startsWith("sk-ant-unpaid-")) return apiError(402, "There is an issue with your billing details.");
  return credential;
}

async function respond(
  call: Call,
  bytes: Uint8Array,
  version: Version,
  credential: string,
  isMessages: boolean,
): Promise<Response | ApiError> {
  const { headers } = call.request;
  const encoding = headers.get("content-encoding");
  if (encoding !== null && encoding !== "identity") return invalid("The request body's encoding is not supported.");
  if (bytes.length > MAX_BODY_BYTES) return apiError(413, "Request exceeds the maximum size");
  const body = parseBody(bytes);
  if (typeof body === "string") return invalid(body);
  if (body.model === undefined) return invalid("model: Field required");
  const asked = asText(body.model);
  if (asked === undefined) return invalid("model: Input should be a valid string");
  const { id, pairs } = splitModel(asked);
  const faults = parseFaults([...pairs, ...(headers.get("anthropic-sim-fault") ?? "").split(";")]);
  if (typeof faults === "string") return invalid(faults);
  const broken = await early(call, faults);
  if (broken) return broken;

  const model = findModel(id);
  if (!model) return apiError(404, `model: ${id}`);
  const wrong =
    validatePrompt(body, version, model) ?? (isMessages ? validateSampling(body, version, model) : undefined);
  if (wrong) return wrong;
  const blocks = promptBlocks(body);
  const total = sumTokens(blocks);
  if (total > model.contextTokens)
    return invalid(`prompt is too long: ${total} tokens > ${model.contextTokens} maximum`);
  const breakpoints = breakpointsOf(body, blocks);
  if (!Array.isArray(breakpoints)) return breakpoints;
  const forged = await verifySignatures(model.id, body);
  if (forged) return forged;
  if (!isMessages) return answer(call, JSON.stringify({ input_tokens: total }), faults);

  const cache = useCache(credential, model, blocks, breakpoints, Date.now());
  return message(call, body, faults, model, blocks, cache);
}

async function message(
  call: Call,
  body: Fields,
  faults: Faults,
  model: Model,
  blocks: readonly PromptBlock[],
  cache: CacheUse,
): Promise<Response> {
  const reply = await replyTo(body, model.id, faults);
  const usage = usageOf(sumTokens(blocks), cache, reply, body);
  cache.commit();
  call.account?.use(usage.input_tokens + usage.cache_creation_input_tokens, reply.outputTokens);
  const parts = {
    id: `msg_01${crypto.randomUUID().replaceAll("-", "").slice(0, 22)}`,
    model: faults.model_mismatch ? "claude-mythos-5-2" : model.id,
    reply,
    usage,
  };
  if (body.stream !== true) return answer(call, JSON.stringify(messageOf(parts)), faults);
  const headers = commonHeaders(call);
  headers.set("content-type", faults.content_type ?? "text/event-stream; charset=utf-8");
  headers.set("cache-control", "no-cache");
  return new Response(streamBody(parts, faults, call.id, ending(call)), { headers });
}

/** Every counter of the answer. Input, cache writes and cache reads together are what count_tokens says. */
function usageOf(total: number, cache: CacheUse, reply: Reply, body: Fields) {
  const written = cache.write5mTokens + cache.write1hTokens;
  return {
    input_tokens: total - written - cache.readTokens,
    cache_creation_input_tokens: written,
    cache_read_input_tokens: cache.readTokens,
    cache_creation: {
      ephemeral_5m_input_tokens: cache.write5mTokens,
      ephemeral_1h_input_tokens: cache.write1hTokens,
    },
    output_tokens: reply.outputTokens,
    ...(reply.thinkingTokens > 0 ? { output_tokens_details: { thinking_tokens: reply.thinkingTokens } } : {}),
    service_tier: "standard",
    inference_geo: asText(body.inference_geo) ?? "global",
    ...(body.speed === "fast" ? { speed: "fast" } : {}),
  };
}

/** The faults that strike before there is an answer. */
async function early(call: Call, faults: Faults): Promise<Response | ApiError | undefined> {
  if (faults.ttfb) await scheduler.wait(faults.ttfb);
  if (faults.hang) await new Promise(() => {});
  if (faults.redirect !== undefined) {
    const headers = commonHeaders(call);
    headers.set("location", "https://redirected.invalid/v1/messages");
    return new Response(null, { status: Number(faults.redirect), headers });
  }
  if (faults.status === undefined) return undefined;
  const headers: Record<string, string> = {};
  if (faults.retry_after !== undefined) headers["retry-after"] = String(faults.retry_after);
  if (faults.retry_after_ms !== undefined) headers["retry-after-ms"] = String(faults.retry_after_ms);
  if (faults.should_retry !== undefined) headers["x-should-retry"] = faults.should_retry;
  const type = faults.error_type ?? typeOf(faults.status);
  return { status: faults.status, type, message: "Simulated failure", headers };
}

function parseBody(bytes: Uint8Array): Fields | string {
  try {
    const body = asFields(JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes)));
    return body ?? "The request body must be a JSON object.";
  } catch (error) {
    return `The request body is not valid JSON: ${(error as Error).message}`;
  }
}

function ending(call: Call): (end: Entry["outcome"]) => void {
  return (end) => {
    call.entry.outcome = end;
    call.entry.ended_at = Date.now();
  };
}

function commonHeaders(call: Call): Headers {
  const headers = new Headers({
    "request-id": call.id,
    "anthropic-organization-id": ORGANIZATION,
    "anthropic-workspace-id": WORKSPACE,
  });
  call.account?.setHeaders(headers);
  return headers;
}

function answer(call: Call, text: string, faults: Faults): Response {
  const headers = commonHeaders(call);
  headers.set("content-type", faults.content_type ?? "application/json");
  return new Response(jsonBody(text, faults, ending(call)), { headers });
}

function refuse(call: Call, error: ApiError): Response {
  const headers = commonHeaders(call);
  headers.set("content-type", "application/json");
  for (const [name, value] of Object.entries(error.headers ?? {})) headers.set(name, value);
  ending(call)("complete");
  return new Response(errorBody(error.type, error.message, call.id), { status: error.status, headers });
}
