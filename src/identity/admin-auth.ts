/**
 * Who may use the control plane: the admin token, a live key with an admin scope or, on some routes, another, a token that
 * leaves such a key this scope, or a session that was opened with one of these and lasts as long as that does.
 */
import { type AppContext, fail, type Guarded, guarded } from "../context.ts";
import type { Ledger } from "../ledger/protocol.ts";
import { err, ok, type Result } from "../result.ts";
import type { Failure } from "../wire/errors.ts";
import { constantTimeEqual, keyedTag, parseKey } from "./api-key.ts";
import { refusalOf } from "./attempts.ts";
import { CREDENTIAL_HEADERS, readCredential } from "./credential.ts";
import { looksLikeToken } from "./jwt/form.ts";
import { type KeyPolicy, secretIsLive } from "./key-record.ts";
import { narrowed, speakerName } from "./rights.ts";
import { mayControl, neededFor, type Scope } from "./scopes.ts";
import { broughtBy, heldBy } from "./session.ts";
import { findSession, type StandsOn } from "./session-store.ts";
import { believingOf, type Shown, secretOf, shownBy, speakerRefused } from "./tokens.ts";

const ADMIN_TOKEN = "admin-token";
const ATTEMPTS = 3;
const RETRY_MS = 100;

export type Admin = {
  /** For the log: `admin-token`, the id of a key, or for whom another issuer's token speaks. */
  readonly actor: string;
  /** The key that it is or, by a token, acts as, whose rights bound what the admin may do and grant. Null: everything. */
  readonly key: KeyPolicy | null;
  /** What all that stands on, for a session. */
  readonly standsOn: StandsOn;
  /** The session that it comes by; null: the credential itself was shown. */
  readonly session: { readonly id: string; readonly csrf: string; readonly expiresAt: number } | null;
};

type AdminHandler = (c: AppContext, admin: Admin) => Promise<Response>;

/** Lets only admins through to the handler: those who may read, or, by methods that change something, write. */
export function adminOnly(handle: AdminHandler): Guarded {
  return adminOr("admin", handle);
}

/** Lets the admin token through, keys with this scope and, where they only look, those that may read the control plane. */
export function adminOr(scope: Scope, handle: AdminHandler): Guarded {
  return guarded(scope, async function asAdmin(c) {
    const admin = await adminOf(c);
    if (!admin.ok) return fail(c, await refusalOf(c, admin.error));
    const { actor, key } = admin.value;
    c.var.call.log.actor = actor;
    const { method } = c.req;
    if (key && !mayControl(key.scopes, method, scope)) {
      return fail(c, { kind: "scope_missing", scope: neededFor(method, scope) });
    }
    return handle(c, admin.value);
  });
}

/**
 * Who is asking, by whatever is shown. A credential that is shown counts, and no session beside it; what Cloudflare Access
 * adds to a call counts where it shows neither.
 */
async function adminOf(c: AppContext): Promise<Result<Admin, Failure>> {
  const { headers } = c.var.call;
  const shows = CREDENTIAL_HEADERS.some((name) => headers.has(name));
  if (!shows && (await broughtBy(c)) !== null) return bySession(c);
  const credential = readCredential(headers);
  return credential === null ? err({ kind: "unauthenticated" }) : byCredential(c, credential);
}

async function byCredential(c: AppContext, credential: string): Promise<Result<Admin, Failure>> {
  const { adminToken, keyTagSecrets } = c.var.call.settings;
  if (constantTimeEqual(credential, adminToken)) {
    const tag = await tokenTag(keyTagSecrets[0] ?? "", adminToken);
    return ok({ actor: ADMIN_TOKEN, key: null, standsOn: { kind: "admin-token", tag }, session: null });
  }
  if (looksLikeToken(credential)) return byToken(c, credential);
  const key = await parseKey(keyTagSecrets, credential);
  if (!key) return err({ kind: "unauthenticated" });
  const policy = await livePolicy(c, key);
  if (!policy.ok) return policy;
  const standsOn: StandsOn = { kind: "key", ...key };
  return ok({ actor: key.id, key: policy.value, standsOn, session: null });
}

async function byToken(c: AppContext, token: string): Promise<Result<Admin, Failure>> {
  const { settings, log, startedAt } = c.var.call;
  const shown = await shownBy(token, believingOf(c.env, settings), startedAt, (word) => {
    log.token_refused = word;
  });
  return shown.ok ? ofToken(c, shown.value) : shown;
}

/** What is left of its key's rights to whom a token shows, or has shown when the session was opened with it. */
async function ofToken(c: AppContext, shown: Shown): Promise<Result<Admin, Failure>> {
  const { keyId, secretMark, rights } = shown;
  // What a session was opened with may have ended since, whatever its own time.
  if (rights.speaker === null && rights.expiresAt <= c.var.call.startedAt) return err({ kind: "unauthenticated" });
  if (rights.conversation !== null) return err({ kind: "token_too_narrow", what: "one conversation" });
  const policy = await livePolicy(c, { id: keyId, secretSha256: null });
  if (!policy.ok) return policy;
  if (secretMark !== null && (await secretOf(policy.value, secretMark, c.var.call.startedAt)) === null) {
    return err({ kind: "unauthenticated" });
  }
  const actor = speakerName(rights) ?? keyId;
  const left = narrowed(policy.value, rights);
  const key = rights.speaker === null ? { ...left, expires_at: endOf(left, rights.expiresAt) } : left;
  return ok({ actor, key, standsOn: { kind: "token", ...shown }, session: null });
}

/** What a token of ours grants ends with it, or it would live on in a key. Another issuer's is a login, made for each day. */
function endOf({ expires_at }: KeyPolicy, tokenEnds: number): number {
  return Math.min(expires_at ?? tokenEnds, tokenEnds);
}

async function bySession(c: AppContext): Promise<Result<Admin, Failure>> {
  const held = await heldBy(c);
  if (!held.ok) return held;
  const found = await findSession(c.env.DB, held.value.sha256, c.var.call.startedAt).catch((error: unknown) => {
    console.error(
      JSON.stringify({ level: "error", msg: "d1_failed", request_id: c.var.call.requestId, error: String(error) }),
    );
    return "away" as const;
  });
  if (found === "away") return err(unavailable("Nothing was done. Repeat the call: the database"));
  if (!found) return err({ kind: "unauthenticated" });
  const { id, actor, standsOn, expiresAt } = found;
  const session = { id, csrf: held.value.csrf, expiresAt };
  if (standsOn.kind === "admin-token") {
    const { adminToken, keyTagSecrets } = c.var.call.settings;
    const tags = await Promise.all(keyTagSecrets.map((secret) => tokenTag(secret, adminToken)));
    if (!tags.includes(standsOn.tag)) return err({ kind: "unauthenticated" });
    return ok({ actor, key: null, standsOn, session });
  }
  if (standsOn.kind === "token") {
    const { speaker } = standsOn.rights;
    const refused = speaker && (await speakerRefused(c.env.DB, speaker));
    if (refused) return err(refused);
    const admin = await ofToken(c, standsOn);
    return admin.ok ? ok({ ...admin.value, session }) : admin;
  }
  const policy = await livePolicy(c, standsOn);
  return policy.ok ? ok({ actor, key: policy.value, standsOn, session }) : policy;
}

/** Tells whether the admin token is still the one that a session was opened with, and nothing of it to who reads this. */
function tokenTag(tagSecret: string, adminToken: string): Promise<string> {
  return keyedTag(tagSecret, `admin-token ${adminToken}`);
}

/** A key's policy, asked of its ledger, if the key is live, and this secret of it, where one is given. */
async function livePolicy(
  c: AppContext,
  { id, secretSha256 }: { readonly id: string; readonly secretSha256: string | null },
): Promise<Result<KeyPolicy, Failure>> {
  const asked = await reachLedger(c, id, (ledger) => ledger.policy(id));
  if (!asked.ok) return err(unavailable("Nothing was done. Repeat the call: your key's ledger"));
  const policy = asked.value;
  return policy && secretIsLive(policy, secretSha256, c.var.call.startedAt)
    ? ok(policy)
    : err({ kind: "unauthenticated" });
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
