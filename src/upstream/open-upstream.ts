/** From a stored upstream to one that calls can use. */
import { err, ok, type Result } from "../result.ts";
import { type BaseUrlRules, parseBaseUrl } from "./base-url.ts";
import { type CannotOpen, type MasterKey, open } from "./sealing.ts";
import type { Upstream, UpstreamRecord } from "./upstream.ts";
import { placeOf } from "./upstream-store.ts";

/** Why a stored upstream can't be used; `host_not_allowed`: the deployment's list has changed since, or D1 was. */
export type Unusable = CannotOpen | { readonly kind: "removed" } | { readonly kind: "host_not_allowed" };

/**
 * Opens its key. The address is checked again: a sealed key is bound to its row, and whoever could write the row's other
 * columns must not be able to have the key sent to a host of theirs.
 */
export async function openUpstream(
  record: UpstreamRecord,
  { masterKeys, baseUrls }: { readonly masterKeys: readonly MasterKey[]; readonly baseUrls: BaseUrlRules },
): Promise<Result<Upstream, Unusable>> {
  const { id, base_url, weight, models, concurrent_requests, state, sealed_key } = record;
  if (state === "removed" || sealed_key === null) return err({ kind: "removed" });
  if (!parseBaseUrl(base_url, baseUrls).ok) return err({ kind: "host_not_allowed" });
  const apiKey = await open(masterKeys, sealed_key, placeOf(id));
  return apiKey.ok
    ? ok({ id, base_url, weight, models, concurrent_requests, state, apiKey: apiKey.value })
    : err(apiKey.error);
}
