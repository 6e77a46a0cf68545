/**
 * CORS of the OpenAI routes: Cursor's "Verify" and web interfaces with direct connections ask from a browser. A key
 * travels in a header that the page itself must know, never in a cookie, so any origin may ask, and none is ever allowed
 * to send credentials. No other route says anything to another origin.
 */
import { LIMIT_NAMES } from "../wire/openai/limit-headers.ts";

const EXPOSED = [
  "x-request-id",
  "x-sluice-request-id",
  "retry-after",
  "retry-after-ms",
  "x-should-retry",
  ...LIMIT_NAMES,
].join(", ");
/** A browser asks again after a day at the latest; they all have shorter limits of their own. */
const MAX_AGE_SECONDS = "86400";
/** Where nothing is served: the page is to read why. */
const USUAL_METHODS = ["GET", "POST"];
/** What is allowed where a preflight names no headers. */
const USUAL_HEADERS = "authorization, content-type, x-api-key, api-key";
/** Header names as they may be said back: tokens (RFC 9110 §5.6.2), separated by commas. */
const HEADER_NAMES = /^[\w!#$%&'*+.^`|~-]+(?: *, *[\w!#$%&'*+.^`|~-]+)*$/;
const MAX_HEADER_NAMES_CHARS = 4_096;

/** The answer to a preflight. `methods`: those that the path has. */
export function preflight(methods: readonly string[], asked: string | undefined): Response {
  const echoed = asked !== undefined && asked.length <= MAX_HEADER_NAMES_CHARS && HEADER_NAMES.test(asked);
  return new Response(null, {
    status: 204,
    headers: {
      "access-control-allow-methods": [...(methods.length > 0 ? methods : USUAL_METHODS), "OPTIONS"].join(", "),
      "access-control-allow-headers": echoed ? asked : USUAL_HEADERS,
      "access-control-max-age": MAX_AGE_SECONDS,
      vary: "access-control-request-headers",
    },
  });
}

/**
 * An answer that a page of any origin may read, whatever it says. It carries the id that OpenAI's clients show, upstream's
 * own where upstream was asked.
 */
export function readableAnywhere(response: Response, requestId: string): Response {
  const { headers } = response;
  headers.set("access-control-allow-origin", "*");
  headers.set("access-control-expose-headers", EXPOSED);
  if (!headers.has("x-request-id")) headers.set("x-request-id", headers.get("request-id") ?? requestId);
  return response;
}
