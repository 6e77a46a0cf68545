/**
 * The simulated Claude: the Messages API as the wire notes tell it, as a Worker of its own. For development, tests and
 * benchmarks, ours and our users' (docs/simulator.md). All state (prompt cache, rate limits, the journal of requests)
 * is in the memory of the isolate and gone with it. The journal can be read by anyone who reaches the Worker, so it is
 * no place for real prompts.
 */
import { answerJson, type Call, commonHeaders, refuse, strike } from "./answer.ts";
import { authenticate } from "./authenticate.ts";
import { type ApiError, apiError, invalid, isApiError, messageOfType } from "./errors.ts";
import { type Faults, pairsOf, parseFaults } from "./faults.ts";
import { Entry, journal, note } from "./journal.ts";
import { Accounts, limitsOf } from "./limits.ts";
import { countTokens, createMessage } from "./messages.ts";
import { findModel, modelInfo, modelPage } from "./models.ts";
import { asVersion } from "./validate.ts";

const MAX_BODY_BYTES = 32 * 1024 * 1024;

const accounts = new Accounts();

export default {
  async fetch(request: Request, _env: unknown, context: ExecutionContext): Promise<Response> {
    const url = new URL(request.url);
    if (url.pathname === "/sim/requests") return journal(request, url);
    const id = `req_011sim${crypto.randomUUID().replaceAll("-", "").slice(0, 18)}`;
    const entry = new Entry(id, request);
    note(entry);
    const call: Call = { id, request, entry, now: Date.now(), context };
    const body = await readBody(request);
    await entry.received(body ?? new Uint8Array(0));
    const answer = body ? await route(call, url, body) : apiError(413, messageOfType("request_too_large"));
    const response = answer instanceof Response ? answer : refuse(call, answer);
    entry.status = response.status;
    return response;
  },
};

/** The whole body, or undefined when it is too long. */
async function readBody(request: Request): Promise<Uint8Array | undefined> {
  if (!request.body) return new Uint8Array(0);
  if (Number(request.headers.get("content-length") ?? 0) > MAX_BODY_BYTES) {
    // Read to the end all the same, since many clients look for the answer only then.
    await request.body.pipeTo(new WritableStream());
    return undefined;
  }
  const body = new Uint8Array(await request.arrayBuffer());
  return body.length > MAX_BODY_BYTES ? undefined : body;
}

async function route(call: Call, url: URL, body: Uint8Array): Promise<Response | ApiError> {
  const { method, headers } = call.request;
  const { pathname } = url;
  const isModels = pathname === "/v1/models" || pathname.startsWith("/v1/models/");
  const isMessages = pathname === "/v1/messages";
  const isCount = pathname === "/v1/messages/count_tokens";
  const isHello = pathname === "/api/hello";
  if (!isModels && !isMessages && !isCount && !isHello) return apiError(404, messageOfType("not_found_error"));
  const allowed = isHello ? ["GET", "HEAD"] : isModels ? ["GET"] : ["POST"];
  if (!allowed.includes(method)) return apiError(405, "Method Not Allowed", { allow: allowed.join(", ") });
  if (isHello) {
    call.entry.end("complete");
    return new Response(null, { headers: commonHeaders(call) });
  }

  const credential = authenticate(headers);
  if (typeof credential !== "string") return credential;
  const limits = limitsOf(headers);
  if (isApiError(limits)) return limits;
  const account = accounts.open(credential, limits, call.now);
  const known: Call = { ...call, account };
  const answer = async (): Promise<Response | ApiError> => {
    const version = asVersion(headers.get("anthropic-version"));
    if (typeof version !== "string") return version;
    if (isModels) return answerModels(known, url);
    if (isCount) return account.admitCount() ?? countTokens(known, body, version);
    return account.admitMessage() ?? createMessage(known, body, version, credential);
  };
  const answered = await answer();
  return answered instanceof Response ? answered : refuse(known, answered);
}

async function answerModels(call: Call, url: URL): Promise<Response | ApiError> {
  const faults: Faults | string = parseFaults(pairsOf(call.request.headers.get("anthropic-sim-fault")));
  if (typeof faults === "string") return invalid(faults);
  const struck = await strike(call, faults);
  if (struck) return struck;
  const id = url.pathname.slice("/v1/models/".length);
  if (id === "") {
    const page = modelPage(url.searchParams);
    return typeof page === "string" ? invalid(page) : answerJson(call, JSON.stringify(page), faults);
  }
  const model = findModel(id);
  return model ? answerJson(call, JSON.stringify(modelInfo(model)), faults) : apiError(404, `model: ${id}`);
}
