/** Where clients put their credential: `Authorization: Bearer`, `x-api-key`, `api-key`, or the same one in several. */

/** No credential of ours is longer; what is, is not looked at. */
const MAX_CREDENTIAL_CHARS = 1_024;
const BEARER = "bearer ";

/** The credential, or null when there is none, a malformed one, or two different ones. */
export function readCredential(headers: Headers): string | null {
  let found: string | null = null;
  const authorization = headers.get("authorization");
  if (authorization !== null) {
    if (authorization.slice(0, BEARER.length).toLowerCase() !== BEARER) return null;
    found = authorization.slice(BEARER.length);
  }
  for (const name of ["x-api-key", "api-key"]) {
    const value = headers.get(name);
    if (value === null) continue;
    if (found !== null && found !== value) return null;
    found = value;
  }
  return found === null || found === "" || found.length > MAX_CREDENTIAL_CHARS ? null : found;
}
