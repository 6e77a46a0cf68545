/**
 * The response cache: the answer to a call is an object's, which makes it once for every call of the workspace that sends
 * the same, and keeps it for a while (see answers/). Which calls are the same is decided here.
 *
 * A purge counts the workspace's epoch up, which is in the object's name: what was kept before is not found any more, and
 * expires where it is.
 */
import type { Wish } from "../answers/turn.ts";
import type { Forwarding } from "../hotpath/forward.ts";
import { leaseBook } from "../hotpath/leases.ts";
import type { CallRecord } from "../hotpath/settle.ts";
import type { KeyPolicy } from "../identity/key-record.ts";
import type { Access } from "../ledger/lease-book.ts";
import { isOld } from "../ledger/previous-release.ts";
import { ok, type Result } from "../result.ts";
import type { Failure } from "../wire/errors.ts";
import { cacheKey } from "./cache-key.ts";
import { CACHE_HEADER, readCacheWish } from "./wish.ts";

/**
 * Ends that a model came to by itself. Not among them: a `refusal`, which a classifier may judge otherwise the next time;
 * `pause_turn`, which asks to be gone on with; and whatever is not known yet.
 */
const STOP_REASONS = ["end_turn", "max_tokens", "stop_sequence", "tool_use"];

export type Caching = {
  /** Whether the route's answers can be kept at all. */
  readonly cached: boolean;
  readonly headers: ReadonlyMap<string, string>;
  readonly policy: KeyPolicy;
  readonly access: Access;
  readonly requestId: string;
  readonly stream: boolean;
  readonly forwarding: Forwarding;
};

/** What the call wants of the cache; `bypass`: it can't have it, or wants none; null: it does not speak of it. */
export async function sharedAnswer(call: Caching): Promise<Result<Wish | "bypass" | null, Failure>> {
  const { cached, headers, policy, access, requestId, stream, forwarding } = call;
  const wish = readCacheWish(headers, policy.cache);
  if (!wish.ok) return wish;
  const { value } = wish;
  if (value.kind === "none") return ok(null);
  // A key's policy speaks of the calls that can be cached.
  if (!cached) return ok(headers.has(CACHE_HEADER) ? "bypass" : null);
  if (value.kind === "bypass" || !(forwarding.body instanceof Uint8Array)) return ok("bypass");
  // A stream that is cut when its key is revoked can't be one that others read too.
  if (stream && policy.on_revoke === "cut") return ok("bypass");
  const rules = await leaseBook.rulesOf(policy.workspace, access);
  // Which of its answers a workspace has purged, a ledger of the release before can't tell.
  if (rules === "unreachable" || isOld(rules)) return ok("bypass");
  const { path, body } = forwarding;
  const epoch = rules.cache_epoch ?? 0;
  const key = await cacheKey({ workspace: policy.workspace, epoch, target: path, headers: forwarding.headers, body });
  if (!key.ok) return ok("bypass");
  const ms = value.ttlSeconds * 1_000;
  return ok({
    name: `cache:${policy.workspace}:${epoch}:${key.value}`,
    claim: { token: requestId, fingerprint: key.value, maxAgeMs: ms, apart: true },
    keep: { ms, clientErrors: false, stopReasons: STOP_REASONS },
    replayed,
  });
}

/** Where the run that was joined failed after all, there is nothing that was hit. */
function replayed({ status }: Response, record: CallRecord): void {
  if (status === 200) record.cache = "hit";
}
