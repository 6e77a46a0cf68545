/** `GET /.well-known/jwks.json`: what others verify our tokens with. Public members alone, for everybody. */
import { fail, json, open } from "../context.ts";
import { AGAIN_MS, believingOf } from "../identity/tokens.ts";

/** Shorter than a new key is published before it signs (identity/jwt/keep-signing-keys.ts). */
const CACHED_SECONDS = 300;

export const readKeySet = open(async (c) => {
  const by = believingOf(c.env, c.var.call.settings);
  const set = await by.signing.publicKeySet(by.room);
  if (!set.ok) return fail(c, { kind: "unavailable", what: "The key set", retryAfterMs: AGAIN_MS });
  const answer = json(c, 200, set.value);
  // Without a key yet: the first one signs as soon as it is made.
  if (set.value.keys.length > 0) answer.headers.set("cache-control", `public, max-age=${CACHED_SECONDS}`);
  return answer;
});
