/**
 * Which headers travel between client and upstream. Requests are rebuilt from an open list of families, so that a new
 * `anthropic-*` header works the day it appears and nothing else leaks; answers pass, less what belongs to one hop or
 * describes the account that all keys share (design §4 and §6, wire notes §2 and §6.2).
 */

/** Whose account an upstream's answer is of (wire notes §2). */
export const ORGANIZATION_HEADER = "anthropic-organization-id";

const FORWARDED_FAMILIES = ["anthropic-", "x-stainless-"];
const FORWARDED = new Set(["user-agent", "accept", "content-type"]);
/** Would-be credentials inside the forwarded families. Exactly one credential goes upstream, and it is ours. */
const CREDENTIAL_NAME = /(?:^|-)(?:api-key|admin-key|auth|authorization|token|secret)$/;

/** Headers for the upstream request: the client's (names in lower case), as far as they are forwarded. The credential is added later. */
export function upstreamRequestHeaders(client: Iterable<readonly [string, string]>): Record<string, string> {
  const headers: Record<string, string> = {};
  for (const [name, value] of client) if (isForwarded(name)) headers[name] = value;
  // A compressed stream would have to be unpacked and packed again on its way.
  headers["accept-encoding"] = "identity";
  return headers;
}

function isForwarded(name: string): boolean {
  if (FORWARDED.has(name)) return true;
  return FORWARDED_FAMILIES.some((family) => name.startsWith(family)) && !CREDENTIAL_NAME.test(name);
}

/** Of one hop (RFC 9110 §7.6.1), made anew by the runtime, or cookies of the upstream's own edge. */
const NOT_RETURNED = new Set([
  "connection",
  "keep-alive",
  "proxy-authenticate",
  "proxy-connection",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
  "content-length",
  "content-encoding",
  "set-cookie",
  "alt-svc",
]);
/** Limits of the shared upstream account; the key's own are set instead. */
const NOT_RETURNED_FAMILIES = ["anthropic-ratelimit-", "anthropic-priority-", "anthropic-fast-", "x-sluice-"];

/** The answer for the client: upstream's status and headers, less those that end here, with a body that is given. */
export function clientResponse({ status, headers }: Response, body: BodyInit | null): Response {
  // Copied by the runtime in one go; taking out what stays here is cheaper than handing over each one that goes.
  const answer = new Response(body, { status, headers });
  for (const name of headers.keys()) {
    if (NOT_RETURNED.has(name) || NOT_RETURNED_FAMILIES.some((family) => name.startsWith(family))) {
      answer.headers.delete(name);
    }
  }
  return answer;
}
