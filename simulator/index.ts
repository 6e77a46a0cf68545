/**
 * The simulated Claude: the Messages API as the wire notes tell it, as a Worker of its own. For development, tests and
 * benchmarks, ours and our users' (docs/simulator.md). All state (prompt cache, rate limits, batches, files, the journal
 * of requests) is in the memory of the isolate and gone with it. The journal can be read by anyone who reaches the Worker, so it is
 * no place for real prompts.
 */
import {
  answerWhole,
  type Call,
  type Caller,
  commonHeaders,
  faultsOf,
  gone,
  type KnownCall,
  refuse,
  stayed,
  strike,
} from "./answer.ts";
import { authenticate, keyFaults } from "./authenticate.ts";
import { answerBatchCall, createBatch, listBatches, MAX_BATCH_BYTES } from "./batch-calls.ts";
import { type ApiError, apiError, invalid, isApiError, messageOfType } from "./errors.ts";
import { type Faults, pairsOf, parseFaults } from "./faults.ts";
import { answerFile, listFiles, MAX_UPLOAD_BYTES, uploadFile } from "./file-calls.ts";
import { Entry, journal, note } from "./journal.ts";
import { Accounts, limitsOf } from "./limits.ts";
import { countTokens, createMessage } from "./messages.ts";
import { findModel, modelInfo, modelPage } from "./models.ts";
import { organizationOf } from "./organization.ts";
import { asVersion, type Version } from "./validate.ts";

const MAX_BODY_BYTES = 32 * 1024 * 1024;

const accounts = new Accounts();

export default {
  async fetch(request: Request, _env: unknown, context: ExecutionContext): Promise<Response> {
    const url = new URL(request.url);
    if (url.pathname === "/sim/requests") return journal(request, url);
    const id = `req_011sim${crypto.randomUUID().replaceAll("-", "").slice(0, 18)}`;
    const entry = new Entry(id, request);
    note(entry);
    const pairs = [...keyFaults(request.headers), ...pairsOf(request.headers.get("anthropic-sim-fault"))];
    const call: Call = { id, request, entry, now: Date.now(), context, pairs };
    if (!(await stall(call))) return gone(call);
    const route = routeOf(url.pathname);
    const body = await readBody(request, route?.maxBytes ?? MAX_BODY_BYTES);
    await entry.received(body ?? new Uint8Array(0));
    const answer = body ? await respond(call, url, body, route) : apiError(413, messageOfType("request_too_large"));
    const response = answer instanceof Response ? answer : refuse(call, answer);
    entry.status = response.status;
    return response;
  },
};

/** Leaves the body unread for as long as `slow_body` says; false when the client left. Wrong faults are told later. */
async function stall(call: Call): Promise<boolean> {
  const faults = parseFaults(call.pairs);
  return typeof faults === "string" || !faults.slow_body || stayed(call, faults.slow_body);
}

/** The whole body, or undefined when it is too long. */
async function readBody(request: Request, maxBytes: number): Promise<Uint8Array | undefined> {
  if (!request.body) return new Uint8Array(0);
  if (Number(request.headers.get("content-length") ?? 0) > maxBytes) {
    // Read to the end all the same, since many clients look for the answer only then.
    await request.body.pipeTo(new WritableStream());
    return undefined;
  }
  const body = new Uint8Array(await request.arrayBuffer());
  return body.length > maxBytes ? undefined : body;
}

type Answered = Response | ApiError | Promise<Response | ApiError>;

/** A path: the methods it takes, and who answers. */
type Route = {
  readonly methods: readonly string[];
  readonly maxBytes?: number;
  /** Left out where nobody need be known. */
  readonly answer?: (call: KnownCall, body: Uint8Array, version: Version, url: URL) => Answered;
};

const BATCH_ACTIONS: Readonly<Record<string, readonly string[]>> = {
  "": ["GET", "DELETE"],
  cancel: ["POST"],
  results: ["GET"],
};

/** What answers a path, or undefined when nothing does. */
function routeOf(pathname: string): Route | undefined {
  switch (pathname) {
    case "/api/hello":
      return { methods: ["GET", "HEAD"] };
    case "/v1/messages":
      return {
        methods: ["POST"],
        answer: (call, body, version) => call.caller.account.admitMessage() ?? createMessage(call, body, version),
      };
    case "/v1/messages/count_tokens":
      return {
        methods: ["POST"],
        answer: (call, body, version) => call.caller.account.admitCount() ?? countTokens(call, body, version),
      };
    case "/v1/messages/batches":
      return {
        methods: ["GET", "POST"],
        maxBytes: MAX_BATCH_BYTES,
        answer: (call, body, version, url) =>
          withFaults(call, (faults) =>
            call.request.method === "GET" ? listBatches(call, faults, url) : createBatch(call, faults, body, version),
          ),
      };
    case "/v1/files":
      return {
        methods: ["GET", "POST"],
        maxBytes: MAX_UPLOAD_BYTES,
        answer: (call, body, _version, url) =>
          withFaults(call, (faults) =>
            call.request.method === "GET" ? listFiles(call, faults, url.searchParams) : uploadFile(call, faults, body),
          ),
      };
  }
  const [, batch, action = ""] = /^\/v1\/messages\/batches\/([^/]+)(?:\/(cancel|results))?$/.exec(pathname) ?? [];
  if (batch !== undefined) {
    return {
      methods: BATCH_ACTIONS[action] ?? [],
      answer: (call) => withFaults(call, (faults) => answerBatchCall(call, faults, batch, action)),
    };
  }
  const [, file, content] = /^\/v1\/files\/([^/]+)(\/content)?$/.exec(pathname) ?? [];
  if (file !== undefined) {
    return {
      methods: content ? ["GET"] : ["GET", "DELETE"],
      answer: (call) => withFaults(call, (faults) => answerFile(call, faults, file, content !== undefined)),
    };
  }
  const [, model] = /^\/v1\/models(?:\/(.*))?$/.exec(pathname) ?? [];
  if (pathname === "/v1/models" || model !== undefined) {
    return {
      methods: ["GET"],
      answer: (call, _body, _version, url) => withFaults(call, (faults) => answerModels(call, faults, url, model)),
    };
  }
  return undefined;
}

async function respond(call: Call, url: URL, body: Uint8Array, route: Route | undefined): Promise<Response | ApiError> {
  const { method, headers } = call.request;
  if (!route) return apiError(404, messageOfType("not_found_error"));
  const { methods, answer } = route;
  if (!methods.includes(method)) return apiError(405, "Method Not Allowed", { allow: methods.join(", ") });
  if (!answer) {
    call.entry.end("complete");
    return new Response(null, { headers: commonHeaders(call) });
  }
  const key = authenticate(headers);
  if (typeof key !== "string") return key;
  const limits = limitsOf(headers);
  if (isApiError(limits)) return limits;
  const organization = organizationOf(key);
  const caller: Caller = { organization, account: accounts.open(organization.id, limits, call.now) };
  const known: KnownCall = { ...call, caller };
  const version = asVersion(headers.get("anthropic-version"));
  const answered = typeof version === "string" ? await answer(known, body, version, url) : version;
  return answered instanceof Response ? answered : refuse(known, answered);
}

/** For calls without a model: the faults of key and headers, which may end the call before it begins. */
async function withFaults(call: KnownCall, answer: (faults: Faults) => Answered): Promise<Response | ApiError> {
  const faults = faultsOf(call.pairs, call.now);
  if (isApiError(faults)) return faults;
  return (await strike(call, faults)) ?? answer(faults);
}

function answerModels(call: KnownCall, faults: Faults, url: URL, id: string | undefined): Response | ApiError {
  if (id === undefined || id === "") {
    const page = modelPage(url.searchParams);
    return typeof page === "string" ? invalid(page) : answerWhole(call, JSON.stringify(page), faults);
  }
  const model = findModel(id);
  return model ? answerWhole(call, JSON.stringify(modelInfo(model)), faults) : apiError(404, `model: ${id}`);
}
