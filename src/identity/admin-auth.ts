/** Who may use the control plane: the admin token, or a live key with the scope `admin`. */
import { type AppContext, fail, type Handler } from "../context.ts";
import type { Ledger } from "../ledger/protocol.ts";
import { constantTimeEqual, parseKey } from "./api-key.ts";
import { readCredential } from "./credential.ts";
import { type Scope, secretIsLive } from "./key-record.ts";

export type Admin = {
  /** For the log: `admin-token`, or the id of a key. */
  readonly actor: string;
  /** What the admin may grant. Null: everything. */
  readonly scopes: readonly Scope[] | null;
};

/** Lets only admins through to the handler. */
export function adminOnly(handle: (c: AppContext, admin: Admin) => Promise<Response>): Handler {
  return async function asAdmin(c) {
    const { settings, startedAt, log } = c.var.call;
    const credential = readCredential(c.req.raw.headers);
    if (credential === null) return fail(c, { kind: "unauthenticated" });
    if (constantTimeEqual(credential, settings.adminToken)) {
      log.actor = "admin-token";
      return handle(c, { actor: "admin-token", scopes: null });
    }
    const key = await parseKey(settings.keyTagSecrets, credential);
    if (!key) return fail(c, { kind: "unauthenticated" });
    const policy = await (c.env.KEY_LEDGER.getByName(key.id) as unknown as Ledger).policy();
    if (!policy || !secretIsLive(policy, key.secretSha256, startedAt)) return fail(c, { kind: "unauthenticated" });
    log.actor = key.id;
    if (!policy.scopes.includes("admin")) return fail(c, { kind: "scope_missing", scope: "admin" });
    return handle(c, { actor: key.id, scopes: policy.scopes });
  };
}
