/**
 * Where clients put their credential: `Authorization: Bearer`, `x-api-key`, `api-key`, or the same one in several; and
 * where Cloudflare Access puts one on their behalf.
 */

import { looksLikeToken, MAX_TOKEN_CHARS } from "./jwt/form.ts";

export const CREDENTIAL_HEADERS = ["authorization", "x-api-key", "api-key"] as const;
/**
 * The edge adds it to every call through Cloudflare Access, whatever else the client shows, so it counts where nothing else
 * is shown, and is no second credential beside a key.
 */
const ACCESS_ASSERTION = "cf-access-jwt-assertion";
const BEARER = "bearer ";
/**
 * Claude Code reads budget headers only if its bearer token has three parts and the middle one says
 * `{"aud":"claude-gateway"}` (ADR 0006). A key behind these two parts is that key.
 */
const CLAUDE_CODE_PARTS = "sluice.eyJhdWQiOiJjbGF1ZGUtZ2F0ZXdheSJ9.";

type Headers = { get(name: string): string | null | undefined };

/**
 * The credential, or null when there is none, a malformed one, or two different ones. `elsewhere`: where else it was shown,
 * a WebSocket's subprotocols.
 */
export function readCredential(headers: Headers, elsewhere: readonly string[] = []): string | null {
  const shown = [...CREDENTIAL_HEADERS.map((name) => headers.get(name) ?? null), ...elsewhere];
  if (shown.every((value) => value === null)) return readAssertion(headers);
  let found: string | null = null;
  const authorization = headers.get("authorization") ?? null;
  if (authorization !== null) {
    if (authorization.slice(0, BEARER.length).toLowerCase() !== BEARER) return null;
    found = authorization.slice(BEARER.length);
    if (found.startsWith(CLAUDE_CODE_PARTS)) found = found.slice(CLAUDE_CODE_PARTS.length);
  }
  for (const value of [headers.get("x-api-key") ?? null, headers.get("api-key") ?? null, ...elsewhere]) {
    if (value === null) continue;
    if (found !== null && found !== value) return null;
    found = value;
  }
  return found === null || found === "" || found.length > MAX_TOKEN_CHARS ? null : found;
}

/**
 * What Cloudflare Access says of who is calling. A browser has it added by a cookie, whoever's page makes the call: so none
 * counts of a page of another origin, nor where a page asks and nobody says which.
 */
function readAssertion(headers: Headers): string | null {
  const site = headers.get("sec-fetch-site") ?? null;
  const own = site === "same-origin" || (site === null && (headers.get("origin") ?? null) === null);
  const assertion = headers.get(ACCESS_ASSERTION) ?? null;
  return own && assertion !== null && assertion.length <= MAX_TOKEN_CHARS && looksLikeToken(assertion)
    ? assertion
    : null;
}
