/** Every route of the gateway on one page, in the order a request meets them. */
import { HonoBase } from "hono/hono-base";
import { TrieRouter } from "hono/router/trie-router";
import { consoleFile, toConsole } from "./console-page.ts";
import {
  type AppContext,
  type AppEnv,
  fail,
  failureResponse,
  type Guarded,
  type Handler,
  type LogFacts,
  open,
} from "./context.ts";
import { exportConversation, readEvents, sendMessage } from "./conversations/events-route.ts";
import { openSocket } from "./conversations/socket-route.ts";
import { description } from "./description.ts";
import { settingsOf } from "./env.ts";
import { health } from "./health.ts";
import { readKeySet } from "./hotpath/key-set-route.ts";
import { clock } from "./hotpath/leases.ts";
import { readOwnKey } from "./hotpath/own-key.ts";
import { countTokens, messages } from "./hotpath/routes.ts";
import { later } from "./later.ts";
import { requestLine, writeLine } from "./log.ts";
import { preflight, readableAnywhere } from "./openai/cors.ts";
import { failOpenAI } from "./openai/fail.ts";
import { originOf, readableBy } from "./origins.ts";
import { cancelBatch, createBatch, listBatches, oneBatch, readResults } from "./ownership/batches.ts";
import { downloadFile, listFiles, oneFile, uploadFile } from "./ownership/files.ts";
import { canonicalPath } from "./route-path.ts";
import type { Failure } from "./wire/errors.ts";
import { newId } from "./wire/ids.ts";
import { notServed, openAIRoot } from "./wire/openai/endpoints.ts";
import { traceIdOf } from "./wire/trace.ts";

type Route = readonly [method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE", path: string, handle: Guarded];

// What the hot path does not need. Each is loaded by the first call that asks for something of it.
const control = later(() => import("./control-plane.ts"));
const openAI = later(() => import("./openai/routes.ts"));
const templates = later(() => import("./templates/routes.ts"));
const conversations = later(() => import("./conversations/routes.ts"));
const tokens = later(() => import("./hotpath/token-route.ts"));

/** What is not here is not served, and what does not say whom it serves can't be here. */
export const routes: readonly Route[] = [
  // The native wire: authenticate, admit, relay, settle.
  ["POST", "/v1/messages", messages],
  ["POST", "/v1/messages/count_tokens", countTokens],
  ["GET", "/v1/models", openAI("messages", "listModels")],
  ["GET", "/v1/models/:id", openAI("messages", "readModel")],
  ["GET", "/v1/models/:vendor/:id", openAI("messages", "readModel")],
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
  ["POST", "/v1/token", tokens("key", "createToken")],
  // Prompts that are kept here.
  ["POST", "/v1/templates/:name/messages", templates("templates:read", "templateMessages")],
  ["POST", "/v1/templates/:name/render", templates("templates:read", "renderTemplate")],
  // Dialogues that the gateway keeps.
  ["POST", "/v1/conversations", conversations("conversations", "createConversation")],
  ["GET", "/v1/conversations", conversations("conversations", "listConversations")],
  ["GET", "/v1/conversations/:id", conversations("conversations", "readConversation")],
  ["PATCH", "/v1/conversations/:id", conversations("conversations", "changeConversation")],
  ["DELETE", "/v1/conversations/:id", conversations("conversations", "deleteConversation")],
  ["POST", "/v1/conversations/:id/messages", sendMessage],
  ["GET", "/v1/conversations/:id/messages", conversations("conversations", "readMessages")],
  ["GET", "/v1/conversations/:id/events", readEvents],
  ["POST", "/v1/conversations/:id/cancel", conversations("conversations", "cancelTurn")],
  ["GET", "/v1/conversations/:id/socket", openSocket],
  ["GET", "/v1/conversations/:id/export", exportConversation],
  // The same in OpenAI's words.
  ["POST", "/v1/chat/completions", openAI("messages", "createChatCompletion")],
  ["POST", "/v1/responses", openAI("messages", "createResponse")],
  ["GET", "/v1/responses/:id", openAI("messages", "storedResponse")],
  ["DELETE", "/v1/responses/:id", openAI("messages", "storedResponse")],
  ["GET", "/v1/responses/:id/input_items", openAI("messages", "storedInput")],
  // Open to everyone.
  ["GET", "/api/hello", open(() => new Response(null))],
  ["GET", "/.well-known/jwks.json", readKeySet],
  ["GET", "/openapi.json", open(description)],
  ["GET", "/health", open(health)],
  ["GET", "/", open(toConsole)],
  ["GET", "/console", open(toConsole)],
  ["GET", "/console/", open(consoleFile)],
  ["GET", "/console/:file", open(consoleFile)],
  // The control plane.
  ["GET", "/metrics", control("metrics", "readMetrics")],
  ["POST", "/admin/keys", control("admin", "createKey")],
  ["GET", "/admin/keys", control("admin", "listKeys")],
  ["GET", "/admin/keys/:id", control("admin", "readKey")],
  ["PATCH", "/admin/keys/:id", control("admin", "changeKey")],
  ["DELETE", "/admin/keys/:id", control("admin", "revokeKey")],
  ["POST", "/admin/keys/:id/rotate", control("admin", "rotateKey")],
  ["POST", "/admin/workspaces", control("admin", "createWorkspace")],
  ["GET", "/admin/workspaces", control("admin", "listWorkspaces")],
  ["GET", "/admin/workspaces/:id", control("admin", "readWorkspace")],
  ["PATCH", "/admin/workspaces/:id", control("admin", "changeWorkspace")],
  ["POST", "/admin/workspaces/:id/cache/purge", control("admin", "purgeWorkspaceCache")],
  ["POST", "/admin/upstreams", control("admin", "createUpstream")],
  ["GET", "/admin/upstreams", control("admin", "listUpstreams")],
  ["GET", "/admin/upstreams/:id", control("admin", "readUpstream")],
  ["PATCH", "/admin/upstreams/:id", control("admin", "changeUpstream")],
  ["DELETE", "/admin/upstreams/:id", control("admin", "removeUpstream")],
  ["POST", "/admin/upstreams/:id/drain", control("admin", "drainUpstream")],
  ["POST", "/admin/upstreams/:id/test", control("admin", "testUpstream")],
  ["POST", "/admin/upstreams/reseal", control("admin", "resealAll")],
  ["POST", "/admin/issuers", control("admin", "createIssuer")],
  ["GET", "/admin/issuers", control("admin", "listIssuers")],
  ["GET", "/admin/issuers/:id", control("admin", "readIssuer")],
  ["PATCH", "/admin/issuers/:id", control("admin", "changeIssuer")],
  ["DELETE", "/admin/issuers/:id", control("admin", "deleteIssuer")],
  ["POST", "/admin/issuers/:id/test", control("admin", "testIssuer")],
  ["GET", "/admin/templates", control("templates:write", "listAllTemplates")],
  ["GET", "/admin/templates/:name", control("templates:write", "readTemplate")],
  ["POST", "/admin/templates/:name", control("templates:write", "publishTemplate")],
  ["PATCH", "/admin/templates/:name", control("templates:write", "changeTemplateByName")],
  ["GET", "/admin/templates/:name/versions", control("templates:write", "listTemplateVersions")],
  ["GET", "/admin/templates/:name/versions/:version", control("templates:write", "readTemplateVersion")],
  ["GET", "/admin/templates/:name/diff", control("templates:write", "diffTemplate")],
  ["POST", "/admin/session", control("admin:read", "openSession")],
  ["GET", "/admin/session", control("admin:read", "readSession")],
  ["DELETE", "/admin/session", control("admin:read", "closeSession")],
  ["GET", "/admin/sessions", control("admin", "listOpenSessions")],
  ["DELETE", "/admin/sessions/:id", control("admin", "revokeSession")],
  ["GET", "/admin/audit", control("admin", "listAudit")],
  ["GET", "/admin/audit.ndjson", control("admin", "exportAuditNdjson")],
  ["GET", "/admin/audit.csv", control("admin", "exportAuditCsv")],
  ["GET", "/admin/audit/verify", control("admin", "verifyAudit")],
  ["GET", "/admin/changes", control("admin", "readChanges")],
  ["GET", "/admin/usage", control("admin", "listUsage")],
  ["GET", "/admin/prices", control("admin", "readPrices")],
  ["PUT", "/admin/prices", control("admin", "replacePrices")],
  ["DELETE", "/admin/prices", control("admin", "restorePrices")],
];

/** Of Hono's routers the one that takes all of these routes; by default three would be in the bundle. 1 µs a call. */
export const app = new HonoBase<AppEnv>({
  router: new TrieRouter(),
  getPath: (request) => canonicalPath(request.url),
});

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
  if (path === "/.well-known/jwks.json" || path === "/openapi.json") return { fail, pages: "any" };
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
