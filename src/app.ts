/** Every route of the gateway on one page, in the order a request meets them. */
import { Hono } from "hono";
import { exportAuditCsv, exportAuditNdjson, listAudit } from "./admin/audit.ts";
import { changeKey, createKey, listKeys, readKey, revokeKey, rotateKey } from "./admin/keys.ts";
import { readPrices, replacePrices, restorePrices } from "./admin/prices.ts";
import {
  changeUpstream,
  createUpstream,
  drainUpstream,
  listUpstreams,
  readUpstream,
  removeUpstream,
  resealAll,
  testUpstream,
} from "./admin/upstreams.ts";
import { listUsage } from "./admin/usage.ts";
import {
  changeWorkspace,
  createWorkspace,
  listWorkspaces,
  purgeWorkspaceCache,
  readWorkspace,
} from "./admin/workspaces.ts";
import { consoleFile, toConsole } from "./console-page.ts";
import { type AppContext, type AppEnv, fail, failureResponse, type Handler, type LogFacts } from "./context.ts";
import { exportConversation, readEvents, sendMessage } from "./conversations/events-route.ts";
import {
  cancelTurn,
  changeConversation,
  createConversation,
  deleteConversation,
  listConversations,
  readConversation,
  readMessages,
} from "./conversations/routes.ts";
import { openSocket } from "./conversations/socket-route.ts";
import { settingsOf } from "./env.ts";
import { health } from "./health.ts";
import { clock } from "./hotpath/leases.ts";
import { readOwnKey } from "./hotpath/own-key.ts";
import { countTokens, messages } from "./hotpath/routes.ts";
import { requestLine, writeLine } from "./log.ts";
import { readMetrics } from "./metrics/scrape.ts";
import { preflight, readableAnywhere } from "./openai/cors.ts";
import { failOpenAI } from "./openai/fail.ts";
import { listModels, readModel } from "./openai/models.ts";
import { createChatCompletion, createResponse } from "./openai/routes.ts";
import { storedInput, storedResponse } from "./openai/stored-responses.ts";
import { originOf, readableBy } from "./origins.ts";
import { cancelBatch, createBatch, listBatches, oneBatch, readResults } from "./ownership/batches.ts";
import { downloadFile, listFiles, oneFile, uploadFile } from "./ownership/files.ts";
import { canonicalPath } from "./route-path.ts";
import type { Failure } from "./wire/errors.ts";
import { newId } from "./wire/ids.ts";
import { notServed, openAIRoot } from "./wire/openai/endpoints.ts";
import { traceIdOf } from "./wire/trace.ts";

type Route = readonly [method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE", path: string, handle: Handler];

const routes: readonly Route[] = [
  // The native wire: authenticate, admit, relay, settle.
  ["POST", "/v1/messages", messages],
  ["POST", "/v1/messages/count_tokens", countTokens],
  ["GET", "/v1/models", listModels],
  ["GET", "/v1/models/:id", readModel],
  ["GET", "/v1/models/:vendor/:id", readModel],
  ["POST", "/v1/messages/batches", createBatch],
  ["GET", "/v1/messages/batches", listBatches],
  ["GET", "/v1/messages/batches/:id", oneBatch],
  ["DELETE", "/v1/messages/batches/:id", oneBatch],
  ["POST", "/v1/messages/batches/:id/cancel", cancelBatch],
  ["GET", "/v1/messages/batches/:id/results", readResults],
  ["POST", "/v1/files", uploadFile],
  ["GET", "/v1/files", listFiles],
  ["GET", "/v1/files/:id", oneFile],
  ["DELETE", "/v1/files/:id", oneFile],
  ["GET", "/v1/files/:id/content", downloadFile],
  ["GET", "/v1/key", readOwnKey],
  // Dialogues that the gateway keeps.
  ["POST", "/v1/conversations", createConversation],
  ["GET", "/v1/conversations", listConversations],
  ["GET", "/v1/conversations/:id", readConversation],
  ["PATCH", "/v1/conversations/:id", changeConversation],
  ["DELETE", "/v1/conversations/:id", deleteConversation],
  ["POST", "/v1/conversations/:id/messages", sendMessage],
  ["GET", "/v1/conversations/:id/messages", readMessages],
  ["GET", "/v1/conversations/:id/events", readEvents],
  ["POST", "/v1/conversations/:id/cancel", cancelTurn],
  ["GET", "/v1/conversations/:id/socket", openSocket],
  ["GET", "/v1/conversations/:id/export", exportConversation],
  // The same in OpenAI's words.
  ["POST", "/v1/chat/completions", createChatCompletion],
  ["POST", "/v1/responses", createResponse],
  ["GET", "/v1/responses/:id", storedResponse],
  ["DELETE", "/v1/responses/:id", storedResponse],
  ["GET", "/v1/responses/:id/input_items", storedInput],
  // Open to everyone.
  ["GET", "/api/hello", () => new Response(null)],
  ["GET", "/health", health],
  ["GET", "/", toConsole],
  ["GET", "/console", toConsole],
  ["GET", "/console/", consoleFile],
  ["GET", "/console/:file", consoleFile],
  // The control plane.
  ["GET", "/metrics", readMetrics],
  ["POST", "/admin/keys", createKey],
  ["GET", "/admin/keys", listKeys],
  ["GET", "/admin/keys/:id", readKey],
  ["PATCH", "/admin/keys/:id", changeKey],
  ["DELETE", "/admin/keys/:id", revokeKey],
  ["POST", "/admin/keys/:id/rotate", rotateKey],
  ["POST", "/admin/workspaces", createWorkspace],
  ["GET", "/admin/workspaces", listWorkspaces],
  ["GET", "/admin/workspaces/:id", readWorkspace],
  ["PATCH", "/admin/workspaces/:id", changeWorkspace],
  ["POST", "/admin/workspaces/:id/cache/purge", purgeWorkspaceCache],
  ["POST", "/admin/upstreams", createUpstream],
  ["GET", "/admin/upstreams", listUpstreams],
  ["GET", "/admin/upstreams/:id", readUpstream],
  ["PATCH", "/admin/upstreams/:id", changeUpstream],
  ["DELETE", "/admin/upstreams/:id", removeUpstream],
  ["POST", "/admin/upstreams/:id/drain", drainUpstream],
  ["POST", "/admin/upstreams/:id/test", testUpstream],
  ["POST", "/admin/upstreams/reseal", resealAll],
  ["GET", "/admin/audit", listAudit],
  ["GET", "/admin/audit.ndjson", exportAuditNdjson],
  ["GET", "/admin/audit.csv", exportAuditCsv],
  ["GET", "/admin/usage", listUsage],
  ["GET", "/admin/prices", readPrices],
  ["PUT", "/admin/prices", replacePrices],
  ["DELETE", "/admin/prices", restorePrices],
];

export const app = new Hono<AppEnv>({ getPath: (request) => canonicalPath(request.url) });

/** How a path answers beside what its handler does. */
type Manners = {
  /** In whose shape a failure is told. */
  readonly fail: typeof fail;
  /** Which pages may ask: those of any origin, those of `ALLOWED_ORIGINS`, or none. */
  readonly pages: "any" | "listed" | "none";
};

/** Lists of models are both dialects' own, and what a browser asks for to see whether a key works. */
function mannersOf(path: string): Manners {
  if (openAIRoot(path) !== null) return { fail: failOpenAI, pages: "any" };
  if (/^\/v1\/models(?:\/|$)/.test(path)) return { fail, pages: "any" };
  return { fail, pages: /^\/v1\/conversations(?:\/|$)/.test(path) ? "listed" : "none" };
}

/** What comes before and after every handler. The handler is Hono's only one for its path, which is its short way. */
async function arrive(c: AppContext, route: string | null, handle: Handler, manners: Manners): Promise<Response> {
  const now = clock.now();
  const requestId = newId("req", now);
  const settings = settingsOf(c.env);
  if (!settings.ok) {
    console.error(
      JSON.stringify({ level: "error", msg: "misconfigured", request_id: requestId, error: settings.error }),
    );
    const refused = failureResponse({ kind: "misconfigured", message: settings.error }, requestId);
    return manners.pages === "any" ? readableAnywhere(refused, requestId) : refused;
  }
  const headers = new Map<string, string>();
  c.req.raw.headers.forEach((value, name) => {
    headers.set(name, value);
  });
  const traceId = traceIdOf(headers.get("traceparent"));
  const log: LogFacts = route === null ? {} : { route };
  c.set("call", { requestId, startedAt: now, traceId, settings: settings.value, headers, log });
  const response = await answer(c, handle, manners);
  readableTo(c, response, manners);
  if (!log.settles) {
    const { method } = c.req.raw;
    const line = requestLine({ ...c.var.call, method }, response.status, clock.now() - now);
    c.executionCtx.waitUntil(writeLine(line, settings.value.logJoinMs, clock.wait));
  }
  return response;
}

function readableTo(c: AppContext, response: Response, { pages }: Manners): void {
  const { requestId } = c.var.call;
  if (pages === "any") readableAnywhere(response, requestId);
  // A socket is nobody's to read but whose it is.
  else if (pages === "listed" && response.status !== 101) readableBy(response, listedOrigin(c));
}

/** Null: no page asks, or one that may not. */
function listedOrigin(c: AppContext): string | null {
  const { headers, settings } = c.var.call;
  const origin = originOf(headers, c.req.url, settings.allowedOrigins);
  return origin === "refused" ? null : origin.allowed;
}

async function answer(c: AppContext, handle: Handler, manners: Manners): Promise<Response> {
  try {
    return await handle(c);
  } catch (bug) {
    const error = bug instanceof Error ? (bug.stack ?? String(bug)) : String(bug);
    const { requestId } = c.var.call;
    console.error(JSON.stringify({ level: "error", msg: "bug", request_id: requestId, error }));
    return manners.fail(c, { kind: "internal" });
  }
}

for (const [method, path, handle] of routes) {
  const manners = mannersOf(path);
  app.on(method, path, (c) => arrive(c, path, handle, manners));
}

const patterns = routes.map(([method, path]) => {
  const methods = method === "GET" ? ["GET", "HEAD"] : [method];
  return { methods, pattern: new RegExp(`^${path.replace(/:\w+/g, "[^/]+").replaceAll(".", "\\.")}$`), path };
});

/** A path that exists has another method; every other one has nothing. */
app.notFound((c) => {
  const { path, method } = c.req;
  const here = patterns.filter(({ pattern }) => pattern.test(path));
  const allow = here.flatMap(({ methods }) => methods);
  const manners = mannersOf(path);
  const mayAsk = (): boolean => manners.pages === "any" || (manners.pages === "listed" && listedOrigin(c) !== null);
  const handle = (): Response =>
    method === "OPTIONS" && mayAsk()
      ? preflight(allow, c.var.call.headers.get("access-control-request-headers"))
      : manners.fail(c, allow.length > 0 ? { kind: "method_not_allowed", allow } : nothingAt(path));
  return arrive(c, here[0]?.path ?? null, handle, manners);
});

function nothingAt(path: string): Failure {
  const root = openAIRoot(path);
  if (root !== null) return notServed(path, root);
  return path.startsWith("/v1/")
    ? { kind: "not_served", path }
    : { kind: "not_found", what: "There is nothing at this path." };
}
