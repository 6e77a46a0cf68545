/** Every route of the gateway on one page, in the order a request meets them. */
import { Hono } from "hono";
import { exportAuditCsv, exportAuditNdjson, listAudit } from "./admin/audit.ts";
import { changeKey, createKey, listKeys, readKey, revokeKey, rotateKey } from "./admin/keys.ts";
import { listUsage } from "./admin/usage.ts";
import { type AppEnv, fail, failureResponse, type Handler } from "./context.ts";
import { settingsOf } from "./env.ts";
import { health } from "./health.ts";
import { clock } from "./hotpath/leases.ts";
import { countTokens, listModels, messages, readModel } from "./hotpath/routes.ts";
import { requestLine, writeLine } from "./log.ts";
import { canonicalPath } from "./route-path.ts";
import { newId } from "./wire/ids.ts";
import { traceIdOf } from "./wire/trace.ts";

type Route = readonly [method: "GET" | "POST" | "PATCH" | "DELETE", path: string, handle: Handler];

const routes: readonly Route[] = [
  // The native wire: authenticate, admit, relay, settle.
  ["POST", "/v1/messages", messages],
  ["POST", "/v1/messages/count_tokens", countTokens],
  ["GET", "/v1/models", listModels],
  ["GET", "/v1/models/:id", readModel],
  // Open to everyone.
  ["GET", "/api/hello", () => new Response(null)],
  ["GET", "/health", health],
  // The control plane.
  ["POST", "/admin/keys", createKey],
  ["GET", "/admin/keys", listKeys],
  ["GET", "/admin/keys/:id", readKey],
  ["PATCH", "/admin/keys/:id", changeKey],
  ["DELETE", "/admin/keys/:id", revokeKey],
  ["POST", "/admin/keys/:id/rotate", rotateKey],
  ["GET", "/admin/audit", listAudit],
  ["GET", "/admin/audit.ndjson", exportAuditNdjson],
  ["GET", "/admin/audit.csv", exportAuditCsv],
  ["GET", "/admin/usage", listUsage],
];

export const app = new Hono<AppEnv>({ getPath: (request) => canonicalPath(request.url) });

app.use(async function arrive(c, next) {
  const now = clock.now();
  const requestId = newId("req", now);
  const settings = settingsOf(c.env);
  if (!settings.ok) {
    console.error(
      JSON.stringify({ level: "error", msg: "misconfigured", request_id: requestId, error: settings.error }),
    );
    return failureResponse({ kind: "misconfigured", message: settings.error }, requestId);
  }
  const { headers } = c.req.raw;
  const traceId = traceIdOf(headers.get("traceparent"));
  c.set("call", { requestId, startedAt: now, traceId, settings: settings.value, log: {} });
  await next();
  if (c.var.call.log.settles) return;
  const line = requestLine(c, { status: c.res.status, duration_ms: clock.now() - now });
  c.executionCtx.waitUntil(writeLine(line, settings.value.logJoinMs, clock.wait));
});

for (const [method, path, handle] of routes) {
  app.on(method, path, (c) => {
    c.var.call.log.route = path;
    return handle(c);
  });
}
for (const path of new Set(routes.map((route) => route[1]))) {
  const methods = routes.filter((route) => route[1] === path).map((route) => route[0]);
  const allow = methods.flatMap((method) => (method === "GET" ? ["GET", "HEAD"] : [method]));
  app.all(path, (c) => fail(c, { kind: "method_not_allowed", allow }));
}

app.notFound((c) => fail(c, { kind: "not_found", what: "There is nothing at this path." }));

app.onError((error, c) => {
  const { requestId } = c.var.call;
  console.error(
    JSON.stringify({ level: "error", msg: "bug", request_id: requestId, error: error.stack ?? String(error) }),
  );
  return fail(c, { kind: "internal" });
});
