/**
 * `/admin/keys`: the life of an API key. A secret is shown in exactly one answer, the one that makes it.
 *
 * Two places know a key: D1, for people, and its ledger, which enforces. A revocation reaches the ledger first; every
 * other change is stored first and enforced next. If the second step fails the answer says so, and repeating the same
 * call completes it.
 */
import { type AppContext, fail, json } from "../context.ts";
import { type Admin, adminOnly, reachLedger, unavailable } from "../identity/admin-auth.ts";
import { mintKey } from "../identity/api-key.ts";
import {
  DEFAULT_SCOPES,
  DEFAULT_WORKSPACE,
  type KeyLimits,
  type KeyRecord,
  type KeySecret,
  type Scope,
} from "../identity/key-record.ts";
import { getKey, insertKey, listKeyRecords, markRevoked, policyOf, updateKey } from "../identity/key-store.ts";
import { ok, type Result } from "../result.ts";
import type { Failure } from "../wire/errors.ts";
import { parseChangeKey, parseCreateKey, parseRotateKey, readAdminBody, WORKSPACE } from "./input.ts";
import { between, DEFAULT_PAGE, MAX_PAGE, matches, oneOf, page, readQuery } from "./query.ts";

export const KEY_ID = /^key_[0-9a-hjkmnp-tv-z]{26}$/;
/** Secrets in their grace beside the newest one; an older one ends at once. */
const MAX_OLD_SECRETS = 1;
/** Nothing outruns a revocation: a change that was on its way meanwhile is older for the ledger, whatever its number. */
const LAST_VERSION = Number.MAX_SAFE_INTEGER;

/** `POST /admin/keys` → 201 with the record and, this once, `key`. */
export const createKey = adminOnly(async (c, admin) => {
  const { settings, startedAt } = c.var.call;
  const body = await readAdminBody(c.req.raw);
  const input = body.ok ? parseCreateKey(body.value) : body;
  if (!input.ok) return fail(c, input.error);
  const fields = input.value;
  const scopes = fields.scopes ?? DEFAULT_SCOPES;
  const refused = exceedsGrant(admin, scopes) ?? alreadyPast(fields.expires_at, startedAt);
  if (refused) return fail(c, refused);
  const minted = await mintKey(settings.keyTagSecrets[0] ?? "", startedAt);
  const record: KeyRecord = {
    id: minted.id,
    version: 1,
    workspace: fields.workspace ?? DEFAULT_WORKSPACE,
    name: fields.name,
    scopes,
    models: fields.models ?? null,
    limits: withoutNulls(fields.limits ?? {}),
    metadata: fields.metadata ?? {},
    created_at: startedAt,
    updated_at: startedAt,
    expires_at: fields.expires_at ?? null,
    revoked_at: null,
    secrets: [{ sha256: minted.secretSha256, hint: minted.hint, created_at: startedAt, expires_at: null }],
  };
  return stored(c, async () => {
    await insertKey(c.env.DB, record);
    return json(c, 201, { ...shown(record), key: minted.key });
  });
});

/** `GET /admin/keys?workspace=&revoked=&limit=&cursor=`, newest first. */
export const listKeys = adminOnly(async (c) => {
  const query = readQuery(c.req.url, {
    workspace: matches(WORKSPACE, "a workspace id"),
    revoked: oneOf("true", "false"),
    limit: between(1, MAX_PAGE),
    cursor: matches(KEY_ID, "a cursor from `next_cursor`"),
  });
  if (!query.ok) return fail(c, query.error);
  const { workspace, revoked, cursor, limit = DEFAULT_PAGE } = query.value;
  const filter = {
    ...(workspace === undefined ? {} : { workspace }),
    ...(revoked === undefined ? {} : { revoked: revoked === "true" }),
    ...(cursor === undefined ? {} : { after: cursor }),
  };
  return stored(c, async () => {
    const rows = await listKeyRecords(c.env.DB, filter, limit + 1);
    return json(
      c,
      200,
      page(rows, limit, (row) => row.id, shown),
    );
  });
});

/** `GET /admin/keys/:id`. */
export const readKey = adminOnly((c) => withKey(c, async (record) => json(c, 200, shown(record))));

/** `PATCH /admin/keys/:id`: the fields given; `limits` are merged one by one, and null takes one away. */
export const changeKey = adminOnly(async (c, admin) => {
  const body = await readAdminBody(c.req.raw);
  const input = body.ok ? parseChangeKey(body.value) : body;
  if (!input.ok) return fail(c, input.error);
  const { limits, ...fields } = input.value;
  if (limits === undefined && Object.keys(fields).length === 0) {
    return fail(c, { kind: "invalid_request", message: "the request body changes nothing" });
  }
  const refused =
    (fields.scopes && exceedsGrant(admin, fields.scopes)) ?? alreadyPast(fields.expires_at, c.var.call.startedAt);
  if (refused) return fail(c, refused);
  return withKey(c, (record) => {
    if (record.revoked_at !== null) return Promise.resolve(fail(c, REVOKED));
    return change(c, record, { ...defined(fields), limits: withoutNulls({ ...record.limits, ...limits }) });
  });
});

/**
 * `DELETE /admin/keys/:id`: revokes. A key revoked already stays as it is. It starts at the ledger and ends in D1, so
 * that a key in use can be revoked while D1 is down.
 */
export const revokeKey = adminOnly(async (c) => {
  const id = c.req.param("id") ?? "";
  if (!KEY_ID.test(id)) return fail(c, NO_SUCH_KEY);
  const revoked = await reachLedger(c, id, async (ledger) => {
    const policy = await ledger.policy();
    if (!policy || policy.revoked_at !== null) return policy;
    const last = { ...policy, revoked_at: c.var.call.startedAt, version: LAST_VERSION };
    await ledger.putPolicy(last);
    return last;
  });
  if (!revoked.ok) return fail(c, unavailable("The key may still be in force. Repeat the call: the key's ledger"));
  const at = revoked.value?.revoked_at;
  if (at === null || at === undefined) return fail(c, NO_SUCH_KEY);
  return stored(
    c,
    async () => {
      await markRevoked(c.env.DB, id, at);
      const record = await getKey(c.env.DB, id);
      return record ? json(c, 200, shown(record)) : fail(c, NO_SUCH_KEY);
    },
    "The key is revoked, but this is not stored yet. Repeat the call: the database",
  );
});

/** `POST /admin/keys/:id/rotate {grace_seconds?}` → the record and, this once, the new `key`. */
export const rotateKey = adminOnly(async (c, admin) => {
  const empty = c.req.raw.body === null || c.req.raw.headers.get("content-length") === "0";
  const body: Result<unknown, Failure> = empty ? ok({}) : await readAdminBody(c.req.raw);
  const input = body.ok ? parseRotateKey(body.value) : body;
  if (!input.ok) return fail(c, input.error);
  const { settings, startedAt } = c.var.call;
  const graceEnds = startedAt + (input.value.grace_seconds ?? 0) * 1000;
  return withKey(c, async (record) => {
    if (record.revoked_at !== null) return fail(c, REVOKED);
    // Whoever gets a key's secret gets its rights.
    const refused = exceedsGrant(admin, record.scopes);
    if (refused) return fail(c, refused);
    const minted = await mintKey(settings.keyTagSecrets[0] ?? "", startedAt, record.id);
    const fresh: KeySecret = {
      sha256: minted.secretSha256,
      hint: minted.hint,
      created_at: startedAt,
      expires_at: null,
    };
    const old = record.secrets
      .map((secret) => ({ ...secret, expires_at: Math.min(secret.expires_at ?? graceEnds, graceEnds) }))
      .filter((secret) => secret.expires_at > startedAt);
    return change(c, record, { secrets: [fresh, ...old.slice(0, MAX_OLD_SECRETS)] }, minted.key);
  });
});

const NO_SUCH_KEY: Failure = { kind: "not_found", what: "There is no such key." };
const REVOKED: Failure = { kind: "conflict", message: "A revoked key can't be changed." };
const CHANGED_MEANWHILE: Failure = {
  kind: "conflict",
  message: "The key was changed by somebody else in the meantime. Read it and try again.",
};

/**
 * Stores a changed record, then has it enforced. With a new `key` that could not be put in force the change is taken
 * back: nobody has seen that key, and a repeated call must not push out the secret in use. (Left open: an isolate that
 * dies between the two steps; then the repeated call ends the older secret's grace.)
 */
async function change(c: AppContext, record: KeyRecord, changes: Partial<KeyRecord>, key?: string): Promise<Response> {
  const next = { ...record, ...changes, version: record.version + 1, updated_at: c.var.call.startedAt };
  return stored(
    c,
    async () => {
      if (!(await updateKey(c.env.DB, next))) return fail(c, CHANGED_MEANWHILE);
      const enforced = await reachLedger(c, next.id, (ledger) => ledger.putPolicy(policyOf(next)));
      if (enforced.ok) return json(c, 200, { ...shown(next), ...(key === undefined ? {} : { key }) });
      if (key !== undefined && (await updateKey(c.env.DB, { ...record, version: next.version + 1 }))) {
        return fail(
          c,
          unavailable("The rotation is taken back, for it could not be enforced. Repeat the call: the key's ledger"),
        );
      }
      return fail(c, unavailable("The change is stored but not yet enforced. Repeat the call: the key's ledger"));
    },
    "The change may be stored but is not yet enforced. Repeat the call: the database",
  );
}

/** Finds the key that the path names. An id that can't be one and an unknown one are the same 404. */
async function withKey(c: AppContext, then: (record: KeyRecord) => Promise<Response>): Promise<Response> {
  const id = c.req.param("id") ?? "";
  return stored(c, async () => {
    const record = KEY_ID.test(id) ? await getKey(c.env.DB, id) : null;
    return record ? await then(record) : fail(c, NO_SUCH_KEY);
  });
}

/**
 * Runs what needs D1; a D1 that fails is a 503 and not a bug. Its words may hold SQL, so they stay in the log. `what`
 * tells what is and is not in force then.
 */
export async function stored(c: AppContext, run: () => Promise<Response>, what = "The database"): Promise<Response> {
  try {
    return await run();
  } catch (error) {
    console.error(
      JSON.stringify({ level: "error", msg: "d1_failed", request_id: c.var.call.requestId, error: String(error) }),
    );
    return fail(c, unavailable(what));
  }
}

/** Nobody grants what they do not hold. */
function exceedsGrant(admin: Admin, scopes: readonly Scope[]): Failure | null {
  const own = admin.scopes;
  const beyond = own ? scopes.filter((scope) => !own.includes(scope)) : [];
  if (beyond.length === 0) return null;
  return {
    kind: "grant_exceeded",
    message: `Your own key lacks these scopes and can't grant them: ${beyond.join(", ")}.`,
  };
}

function alreadyPast(expiresAt: number | null | undefined, now: number): Failure | null {
  if (expiresAt === undefined || expiresAt === null || expiresAt > now) return null;
  return { kind: "invalid_request", message: "expires_at: must be in the future" };
}

function withoutNulls(limits: { [K in keyof KeyLimits]?: number | null | undefined }): KeyLimits {
  return Object.fromEntries(Object.entries(limits).filter(([, value]) => typeof value === "number"));
}

/** The fields that are there, without the undefined ones that an optional field may leave. */
function defined<T extends object>(fields: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as never;
}

const rfc3339 = (at: number | null): string | null => (at === null ? null : new Date(at).toISOString());

/** A record as it is answered: times in RFC 3339, secrets as hints. */
function shown(record: KeyRecord) {
  const { secrets, created_at, updated_at, expires_at, revoked_at, ...rest } = record;
  return {
    ...rest,
    hint: secrets[0]?.hint ?? null,
    created_at: rfc3339(created_at),
    updated_at: rfc3339(updated_at),
    expires_at: rfc3339(expires_at),
    revoked_at: rfc3339(revoked_at),
    secrets: secrets.map((secret) => ({
      hint: secret.hint,
      created_at: rfc3339(secret.created_at),
      expires_at: rfc3339(secret.expires_at),
    })),
  };
}
