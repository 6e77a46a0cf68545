/** Where clients put their credential: `Authorization: Bearer`, `x-api-key`, `api-key`, or the same one in several. */

/** No credential of ours is longer; what is, is not looked at. */
const MAX_CREDENTIAL_CHARS = 1_024;
const BEARER = "bearer ";
/**
 * Claude Code reads budget headers only if its bearer token has three parts and the middle one says
 * `{"aud":"claude-gateway"}` (ADR 0006). A key behind these two parts is that key.
 */
const CLAUDE_CODE_PARTS = "sluice.eyJhdWQiOiJjbGF1ZGUtZ2F0ZXdheSJ9.";

/**
 * The credential, or null when there is none, a malformed one, or two different ones. `elsewhere`: where else it was shown,
 * a WebSocket's subprotocols.
 */
export function readCredential(
  headers: { get(name: string): string | null | undefined },
  elsewhere: readonly string[] = [],
): string | null {
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
  return found === null || found === "" || found.length > MAX_CREDENTIAL_CHARS ? null : found;
}
