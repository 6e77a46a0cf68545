/**
 * The web console: static files, handed out by the Worker so that each comes with the headers that keep a page safe. What
 * the page may do is what it needs: its own script and style, and its own gateway. Nothing inline, nothing foreign.
 */
import { asset } from "./asset.ts";
import { type AppContext, fail } from "./context.ts";

const HOME = "/console/";
/** A year (RFC 6797 §6.1.1); over plain http, as in development, browsers ignore it. */
const HSTS_SECONDS = 31_536_000;
/** Hosts that may stand in a policy as they are: no character with a meaning there. */
const PLAIN_HOST = /^[\w.[\]:-]+$/;

/** `GET /`, `GET /console`. */
export function toConsole(c: AppContext): Response {
  const location = { location: HOME, "cache-control": "no-store" };
  return safely(c, new Response(null, { status: 302, headers: location }));
}

/** `GET /console/` and each file of it. 404 in Anthropic's shape for a file that is not there. */
export async function consoleFile(c: AppContext): Promise<Response> {
  const file = c.req.param("file") ?? "index.html";
  const response = await asset(c, file);
  if (!response) return safely(c, fail(c, { kind: "not_found", what: "There is nothing at this path." }));
  // Asked for each time, and answered 304: a page and a script of two releases never meet.
  response.headers.set("cache-control", "no-cache");
  return safely(c, response);
}

function safely(c: AppContext, response: Response): Response {
  const { headers } = response;
  headers.set("content-security-policy", policyOf(new URL(c.req.url)));
  headers.set("x-content-type-options", "nosniff");
  headers.set("referrer-policy", "no-referrer");
  headers.set("cross-origin-opener-policy", "same-origin");
  headers.set("cross-origin-resource-policy", "same-origin");
  headers.set("strict-transport-security", `max-age=${HSTS_SECONDS}`);
  return response;
}

/** `connect-src`: not every browser counts the WebSocket of the same host as 'self', so it is named. */
function policyOf({ protocol, host }: URL): string {
  const socket = PLAIN_HOST.test(host) ? ` ${protocol === "https:" ? "wss" : "ws"}://${host}` : "";
  return [
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    `connect-src 'self'${socket}`,
    "img-src 'self' data:",
    "frame-ancestors 'none'",
    "base-uri 'none'",
    "form-action 'self'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
  ].join("; ");
}
