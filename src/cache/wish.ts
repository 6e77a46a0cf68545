/** Whether a call wants to be answered from the response cache: what its key says, and what its own headers say. Pure. */
import type { KeyCache } from "../identity/key-record.ts";
import { err, ok, type Result } from "../result.ts";
import type { Failure } from "../wire/errors.ts";

export const CACHE_HEADER = "x-sluice-cache";
/** How long an answer is kept for a call that does not say. */
const USUAL_TTL_SECONDS = 300;
/** A day. */
export const MAX_TTL_SECONDS = 86_400;

const TTL = /^ttl(?:=(\d{1,9}))?$/;
/** Directives by which a client asks for an answer of its own (RFC 9111 §5.2.1). */
const OWN_ANSWER = /(?:^|,)\s*no-(?:store|cache)\s*(?:,|$)/i;

/** `none`: the cache has no part in the call, and nothing is said of it. `bypass`: it was spoken of, and is passed by. */
export type CacheWish =
  | { readonly kind: "none" }
  | { readonly kind: "bypass" }
  /** Take an answer up to this old, and keep one for so long. */
  | { readonly kind: "use"; readonly ttlSeconds: number };

/** The call's own header counts for more than the key's policy, and a wish for no cache for more than both. */
export function readCacheWish(
  headers: ReadonlyMap<string, string>,
  policy: KeyCache | null,
): Result<CacheWish, Failure> {
  const named = headers.get(CACHE_HEADER);
  if (named === undefined && policy === null) return ok({ kind: "none" });
  let ttlSeconds = policy?.ttl_seconds ?? USUAL_TTL_SECONDS;
  if (named !== undefined) {
    const text = named.trim().toLowerCase();
    if (text === "bypass" || text === "off") return ok({ kind: "bypass" });
    const ttl = TTL.exec(text);
    if (ttl?.[1] !== undefined) ttlSeconds = Number(ttl[1]);
    if (!ttl || ttlSeconds < 1 || ttlSeconds > MAX_TTL_SECONDS) {
      return err({
        kind: "invalid_request",
        message: `${CACHE_HEADER}: must be ttl=<seconds>, from 1 to ${MAX_TTL_SECONDS}, ttl, bypass or off`,
      });
    }
  }
  if (OWN_ANSWER.test(headers.get("cache-control") ?? "")) return ok({ kind: "bypass" });
  return ok({ kind: "use", ttlSeconds });
}
