/** Who may use the control plane: the admin token, or a live key with the scope `admin` or, on some routes, another. */
import { type AppContext, fail, type Handler } from "../context.ts";
import type { Ledger } from "../ledger/protocol.ts";
import { err, ok, type Result } from "../result.ts";
import type { Failure } from "../wire/errors.ts";
import { constantTimeEqual, parseKey } from "./api-key.ts";
import { readCredential } from "./credential.ts";
import { type Scope, secretIsLive } from "./key-record.ts";

const ATTEMPTS = 3;
const RETRY_MS = 100;

export type Admin = {
  /** For the log: `admin-token`, or the id of a key. */
  readonly actor: string;
  /** What the admin may grant. Null: everything. */
  readonly scopes: readonly Scope[] | null;
};

type AdminHandler = (c: AppContext, admin: Admin) => Promise<Response>;

/** Lets only admins through to the handler. */
export function adminOnly(handle: AdminHandler): Handler {
  return adminOr("admin", handle);
}

/** Lets admins through, and keys with this scope. */
export function adminOr(scope: Scope, handle: AdminHandler): Handler {
  return async function asAdmin(c) {
    const { settings, startedAt, log, headers } = c.var.call;
    const credential = readCredential(headers);
    if (credential === null) return fail(c, { kind: "unauthenticated" });
    if (constantTimeEqual(credential, settings.adminToken)) {
      log.actor = "admin-token";
      return handle(c, { actor: "admin-token", scopes: null });
    }
    const key = await parseKey(settings.keyTagSecrets, credential);
    if (!key) return fail(c, { kind: "unauthenticated" });
    const asked = await reachLedger(c, key.id, (ledger) => ledger.policy(key.id));
    if (!asked.ok) return fail(c, unavailable("Nothing was done. Repeat the call: your key's ledger"));
    const policy = asked.value;
    if (!policy || !secretIsLive(policy, key.secretSha256, startedAt)) return fail(c, { kind: "unauthenticated" });
    log.actor = key.id;
    const allowed = policy.scopes.includes("admin") || policy.scopes.includes(scope);
    if (!allowed) return fail(c, { kind: "scope_missing", scope });
    return handle(c, { actor: key.id, scopes: policy.scopes });
  };
}

/** Asks the ledger of a key or a workspace on behalf of an administrator. */
export function reachLedger<T>(
  c: AppContext,
  name: string,
  ask: (ledger: Ledger) => Promise<T>,
): Promise<Result<T, "unreachable">> {
  return reach(c, { msg: "ledger_failed", ledger: name }, () =>
    ask(c.env.KEY_LEDGER.getByName(name) as unknown as Ledger),
  );
}

/**
 * Asks an object on behalf of an administrator: three attempts, each with a stub of its own, since one that has thrown
 * stays broken; `failed` begins their log lines. What is asked must bear repeating. An overloaded object is left in peace.
 */
export async function reach<T>(
  c: AppContext,
  failed: { readonly msg: string; readonly ledger?: string },
  ask: () => Promise<T>,
): Promise<Result<T, "unreachable">> {
  for (let attempt = 1; ; attempt++) {
    try {
      return ok(await ask());
    } catch (error) {
      console.error(
        JSON.stringify({
          level: "error",
          ...failed,
          request_id: c.var.call.requestId,
          attempt,
          error: String(error),
        }),
      );
      const overloaded = error instanceof Error && "overloaded" in error && error.overloaded === true;
      if (overloaded || attempt === ATTEMPTS) return err("unreachable");
    }
    await scheduler.wait(RETRY_MS * attempt);
  }
}

/** `what` ends in the thing that "is unavailable at the moment" and begins with what is and is not in force. */
export function unavailable(what: string): Failure {
  return { kind: "unavailable", what, retryAfterMs: 1_000 };
}
