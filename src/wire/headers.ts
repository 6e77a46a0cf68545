/**
 * Which headers travel between client and upstream. Requests are rebuilt from an open list of families, so that a new
 * `anthropic-*` header works the day it appears and nothing else leaks; answers pass, less what belongs to one hop or
 * describes the account that all keys share (design §4 and §6, wire notes §2 and §6.2).
 */

const FORWARDED_FAMILIES = ["anthropic-", "x-stainless-"];
const FORWARDED = new Set(["user-agent", "accept", "content-type"]);
/** Would-be credentials inside the forwarded families. Exactly one credential goes upstream, and it is ours. */
const CREDENTIAL_NAME = /(?:^|-)(?:api-key|admin-key|auth|authorization|token|secret)$/;

/** Name and value pairs: what the runtime takes as headers, without a crossing into it for each one. */
export type HeaderPairs = [name: string, value: string][];

/** Headers for the upstream request: the client's, as far as they are forwarded, and the upstream credential. */
export function upstreamRequestHeaders(client: Headers, credential: string): HeaderPairs {
  const headers: HeaderPairs = [];
  for (const [name, value] of client) {
    if (FORWARDED.has(name)) headers.push([name, value]);
    else if (FORWARDED_FAMILIES.some((family) => name.startsWith(family)) && !CREDENTIAL_NAME.test(name)) {
      headers.push([name, value]);
    }
  }
  headers.push(["x-api-key", credential]);
  // A compressed stream would have to be unpacked and packed again on its way.
  headers.push(["accept-encoding", "identity"]);
  return headers;
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

/** Headers for the client: upstream's, less those that end here. */
export function clientResponseHeaders(upstream: Headers): HeaderPairs {
  const headers: HeaderPairs = [];
  for (const [name, value] of upstream) {
    if (NOT_RETURNED.has(name) || NOT_RETURNED_FAMILIES.some((family) => name.startsWith(family))) continue;
    headers.push([name, value]);
  }
  return headers;
}
