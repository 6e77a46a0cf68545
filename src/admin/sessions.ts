/**
 * `/admin/session`: a person at a browser trades the admin token, a key with an admin scope, or a token that acts as one,
 * for a cookie, so that no page keeps a credential. `/admin/sessions`: those that run, and ending one.
 */
import { type AppContext, fail, guarded, json } from "../context.ts";
import { type Admin, adminOnly, adminOr } from "../identity/admin-auth.ts";
import { ATTEMPTS_PERIOD_MS } from "../identity/attempts.ts";
import { broughtBy, NO_COOKIE, newCookie, SESSION_MS } from "../identity/session.ts";
import {
  endSession,
  findSession,
  getSession,
  insertSession,
  listSessions,
  type Session,
} from "../identity/session-store.ts";
import { cursorOf } from "../query.ts";
import type { Failure } from "../wire/errors.ts";
import { newId } from "../wire/ids.ts";
import { changeOf, listed, rfc3339, stored } from "./stored.ts";

const SESSION_ID = /^ses_[0-9a-hjkmnp-tv-z]{26}$/;
const SESSIONS = { kind: "session", told } as const;
const TOO_MANY: Failure = {
  kind: "limit_reached",
  message: "Too many attempts to open a session from this address. Wait a minute.",
  retryAfterMs: ATTEMPTS_PERIOD_MS,
};
const NO_SUCH_SESSION: Failure = { kind: "not_found", what: "There is no such session." };
const BY_SESSION: Failure = {
  kind: "invalid_request",
  message: "A session is opened with a credential, not with another session.",
};

const opened = adminOr("admin:read", async (c, admin) => {
  if (admin.session) return fail(c, BY_SESSION);
  const { startedAt } = c.var.call;
  const endsAt = endOf(admin, startedAt);
  const { header, sha256, csrf } = await newCookie(endsAt - startedAt);
  const session: Session = {
    id: newId("ses", startedAt),
    actor: admin.actor,
    standsOn: admin.standsOn,
    scopes: admin.key?.scopes ?? null,
    createdAt: startedAt,
    expiresAt: endsAt,
  };
  return stored(c, async () => {
    await endOlder(c, admin);
    await insertSession(c.env.DB, session, sha256, changeOf(c, admin, SESSIONS, "open", null, session));
    const answer = json(c, 201, shown({ ...admin, session: { ...session, csrf } }));
    answer.headers.set("set-cookie", header);
    return answer;
  });
});

/** Who signs in anew leaves no session behind that this browser had, and that somebody may have seen. */
async function endOlder(c: AppContext, admin: Admin): Promise<void> {
  const held = await broughtBy(c);
  const older = held && (await findSession(c.env.DB, held.sha256, c.var.call.startedAt));
  if (older) await endSession(c.env.DB, older.id, changeOf(c, admin, SESSIONS, "close", older, null));
}

/** With a token of ours it ends; another issuer's proves once who is there, as a login does. */
function endOf({ standsOn }: Admin, now: number): number {
  const usual = now + SESSION_MS;
  if (standsOn.kind !== "token" || standsOn.rights.speaker !== null) return usual;
  return Math.min(usual, standsOn.rights.expiresAt);
}

/**
 * `POST /admin/session`, with a credential → 201 `{id, actor, scopes, expires_at, csrf_token}` and the cookie. Attempts of
 * one address are limited, those that succeed included.
 */
export const openSession = guarded("admin:read", async (c) => {
  return (await isTooOften(c)) ? fail(c, TOO_MANY) : opened(c);
});

/** `GET /admin/session` → the same of the session that is shown; `id` and `csrf_token` are null where it is a credential. */
export const readSession = adminOr("admin:read", async (c, admin) => json(c, 200, shown(admin)));

/** `DELETE /admin/session` → 204: the session that is shown ends at once. */
export const closeSession = adminOr("admin:read", async (c, admin) => {
  const { session } = admin;
  if (!session) return fail(c, NO_SUCH_SESSION);
  return stored(c, async () => {
    await end(c, admin, session.id);
    return ended(c, { "set-cookie": NO_COOKIE });
  });
});

/** `GET /admin/sessions?limit=&cursor=`, newest first: those that run. */
export const listOpenSessions = adminOnly((c) =>
  listed(
    c,
    { cursor: cursorOf(SESSION_ID) },
    ({ cursor }, rows) => listSessions(c.env.DB, cursor, rows, c.var.call.startedAt),
    ({ id }) => id,
    told,
  ),
);

/** `DELETE /admin/sessions/:id` → 204: somebody's session ends at once. */
export const revokeSession = adminOnly(async (c, admin) => {
  const id = c.req.param("id") ?? "";
  if (!SESSION_ID.test(id)) return fail(c, NO_SUCH_SESSION);
  return stored(c, async () => {
    if (!(await end(c, admin, id))) return fail(c, NO_SUCH_SESSION);
    return ended(c);
  });
});

function ended(c: AppContext, headers: Readonly<Record<string, string>> = {}): Response {
  const ours = { "cache-control": "no-store", "x-sluice-request-id": c.var.call.requestId };
  return new Response(null, { status: 204, headers: { ...ours, ...headers } });
}

/** False: none of this id runs. */
async function end(c: AppContext, admin: Admin, id: string): Promise<boolean> {
  const session = await getSession(c.env.DB, id, c.var.call.startedAt);
  return session !== null && (await endSession(c.env.DB, id, changeOf(c, admin, SESSIONS, "close", session, null)));
}

function told({ id, actor, scopes, createdAt, expiresAt }: Session) {
  return { id, actor, scopes, created_at: rfc3339(createdAt), expires_at: rfc3339(expiresAt) };
}

function shown({ actor, key, session }: Admin) {
  return {
    id: session?.id ?? null,
    actor,
    scopes: key?.scopes ?? null,
    expires_at: session ? rfc3339(session.expiresAt) : null,
    csrf_token: session?.csrf ?? null,
  };
}

/** Counted at the edge, for the address that Cloudflare has seen; where there is none, nobody is told apart. */
async function isTooOften(c: AppContext): Promise<boolean> {
  const address = c.var.call.headers.get("cf-connecting-ip");
  if (address === undefined) return false;
  return !(await c.env.SESSION_LIMIT.limit({ key: address })).success;
}
