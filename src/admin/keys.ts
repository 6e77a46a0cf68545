/**
 * `/admin/keys`: the life of an API key. A secret is shown in exactly one answer, the one that makes it. A revocation
 * reaches the ledger first and D1 next, every other change the other way round (see stored.ts).
 */
import { hasBody } from "../body.ts";
import { type AppContext, fail, json } from "../context.ts";
import { CHANGES_NOTHING } from "../fields.ts";
import { type Admin, adminOnly, reachLedger, unavailable } from "../identity/admin-auth.ts";
import { mintKey } from "../identity/api-key.ts";
import { WORKSPACE } from "../identity/fields.ts";
import { beyondChange, beyondGrantor } from "../identity/grants.ts";
import {
  DEFAULT_WORKSPACE,
  KEY_DEFAULTS,
  type KeyPolicy,
  type KeyRecord,
  type KeySecret,
  type KeyTimeouts,
} from "../identity/key-record.ts";
import { getKey, insertKey, listKeyRecords, policyOf, updateKey } from "../identity/key-store.ts";
import { DEFAULT_SCOPES } from "../identity/scopes.ts";
import { emptyMemory } from "../openai/memory.ts";
import { cursorOf, matches, oneOf } from "../query.ts";
import { ok } from "../result.ts";
import type { Failure } from "../wire/errors.ts";
import { parseChangeKey, parseCreateKey, parseRotateKey, readAdminBody } from "./input.ts";
import {
  byLedger,
  change,
  changeOf,
  defined,
  grantExceeded,
  listed,
  mergeLimits,
  type RecordKind,
  rfc3339,
  shownBudget,
  stored,
  withRecord,
} from "./stored.ts";

export const KEY_ID = /^key_[0-9a-hjkmnp-tv-z]{26}$/;
/** Secrets in their grace beside the newest one; an older one ends at once. */
const MAX_OLD_SECRETS = 1;
/** How often a revocation is noted while others change the key. */
const ATTEMPTS = 10;
/** Nothing outruns a revocation: a change that was on its way meanwhile is older for the ledger, whatever its number. */
const LAST_VERSION = Number.MAX_SAFE_INTEGER;

const KEYS: RecordKind<KeyRecord> = {
  noun: "key",
  kind: "key",
  idPattern: KEY_ID,
  enforcer: "the key's ledger",
  enforce: byLedger((id) => id, policyOf),
  get: getKey,
  update: updateKey,
  told: shown,
  shown,
};

/** `POST /admin/keys` → 201 with the record and, this once, `key`. */
export const createKey = adminOnly(async (c, admin) => {
  const { settings, startedAt } = c.var.call;
  const body = await readAdminBody(c);
  const input = body.ok ? parseCreateKey(body.value) : body;
  if (!input.ok) return fail(c, input.error);
  const fields = input.value;
  const late = alreadyPast(fields.expires_at, startedAt);
  if (late) return fail(c, late);
  const limits = mergeLimits({}, fields.limits ?? {});
  if (!limits.ok) return fail(c, limits.error);
  const minted = await mintKey(settings.keyTagSecrets[0] ?? "", startedAt);
  const record: KeyRecord = {
    id: minted.id,
    version: 1,
    workspace: fields.workspace ?? admin.key?.workspace ?? DEFAULT_WORKSPACE,
    name: fields.name,
    scopes: fields.scopes ?? DEFAULT_SCOPES,
    models: fields.models ?? null,
    limits: limits.value,
    budget: fields.budget ?? KEY_DEFAULTS.budget,
    on_disconnect: fields.on_disconnect ?? KEY_DEFAULTS.on_disconnect,
    on_revoke: fields.on_revoke ?? KEY_DEFAULTS.on_revoke,
    fail_open: fields.fail_open ?? KEY_DEFAULTS.fail_open,
    timeouts: mergeTimeouts(KEY_DEFAULTS.timeouts, fields.timeouts ?? {}),
    cache: fields.cache ?? KEY_DEFAULTS.cache,
    aliases: fields.aliases ?? KEY_DEFAULTS.aliases,
    guardrails: fields.guardrails ?? KEY_DEFAULTS.guardrails,
    metadata: fields.metadata ?? {},
    created_at: startedAt,
    updated_at: startedAt,
    expires_at: fields.expires_at ?? null,
    revoked_at: null,
    secrets: [{ sha256: minted.secretSha256, hint: minted.hint, created_at: startedAt, expires_at: null }],
  };
  const refused = beyond(admin, record);
  if (refused) return fail(c, refused);
  return stored(c, async () => {
    await insertKey(c.env.DB, record, changeOf(c, admin, KEYS, "create", null, record));
    return json(c, 201, { ...shown(record), key: minted.key });
  });
});

/** `GET /admin/keys?workspace=&revoked=&limit=&cursor=`, newest first. */
export const listKeys = adminOnly((c) =>
  listed(
    c,
    {
      workspace: matches(WORKSPACE, "a workspace id"),
      revoked: oneOf("true", "false"),
      cursor: cursorOf(KEY_ID),
    },
    ({ workspace, revoked, cursor: after }, rows) =>
      listKeyRecords(c.env.DB, { workspace, revoked: revoked && revoked === "true", after }, rows),
    ({ id }) => id,
    shown,
  ),
);

/** `GET /admin/keys/:id`. */
export const readKey = adminOnly((c) => withRecord(c, KEYS, (record) => json(c, 200, shown(record))));

/** `PATCH /admin/keys/:id`: the fields given; `limits` and `timeouts` are merged one by one, and null takes one away. */
export const changeKey = adminOnly(async (c, admin) => {
  const body = await readAdminBody(c);
  const input = body.ok ? parseChangeKey(body.value) : body;
  if (!input.ok) return fail(c, input.error);
  const { limits: limitChanges, timeouts: timeoutChanges, ...fields } = input.value;
  if (!limitChanges && !timeoutChanges && Object.keys(fields).length === 0) return fail(c, CHANGES_NOTHING);
  const late = alreadyPast(fields.expires_at, c.var.call.startedAt);
  if (late) return fail(c, late);
  return withRecord(c, KEYS, (record) => {
    if (record.revoked_at !== null) return fail(c, REVOKED);
    const limits = mergeLimits(record.limits, limitChanges ?? {});
    if (!limits.ok) return fail(c, limits.error);
    const timeouts = mergeTimeouts(record.timeouts, timeoutChanges ?? {});
    const changes = { ...defined(fields), limits: limits.value, timeouts };
    const refused = beyond(admin, { ...record, ...changes }, record);
    return refused ? fail(c, refused) : change(c, admin, KEYS, record, { changes });
  });
});

/**
 * `DELETE /admin/keys/:id`: revokes. A key revoked already stays as it is. It starts at the ledger and ends in D1, so
 * that a key in use can be revoked while D1 is down.
 */
export const revokeKey = adminOnly(async (c, admin) => {
  const id = c.req.param("id") ?? "";
  if (!KEY_ID.test(id)) return fail(c, NO_SUCH_KEY);
  const revoked = await reachLedger(c, id, async (ledger) => {
    const policy = await ledger.policy(id);
    if (!policy || policy.revoked_at !== null) return policy;
    const last = { ...policy, revoked_at: c.var.call.startedAt, version: LAST_VERSION };
    await ledger.putPolicy(last);
    return last;
  });
  if (!revoked.ok) return fail(c, unavailable("The key may still be in force. Repeat the call: the key's ledger"));
  const at = revoked.value?.revoked_at;
  if (at === null || at === undefined) return fail(c, NO_SUCH_KEY);
  // What is kept of its conversations goes with it.
  c.executionCtx.waitUntil(emptyMemory(c.env, id));
  return stored(
    c,
    async () => {
      const record = await storeRevocation(c, admin, id, at);
      return record ? json(c, 200, shown(record)) : fail(c, NO_SUCH_KEY);
    },
    "The key is revoked, but this is not stored yet. Repeat the call: the database",
  );
});

/** Notes in D1 that a key is revoked, unless that is noted already. Whoever changes it meanwhile is outrun in the end. */
async function storeRevocation(c: AppContext, admin: Admin, id: string, at: number): Promise<KeyRecord | null> {
  for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
    const record = await getKey(c.env.DB, id);
    if (!record || record.revoked_at !== null) return record;
    const next = { ...record, revoked_at: at, updated_at: at, version: record.version + 1 };
    if (await updateKey(c.env.DB, next, changeOf(c, admin, KEYS, "revoke", record, next))) return next;
  }
  throw new Error("others keep changing the key");
}

/** `POST /admin/keys/:id/rotate {grace_seconds?}` → the record and, this once, the new `key`. */
export const rotateKey = adminOnly(async (c, admin) => {
  const body = hasBody(c.req.raw, c.var.call.headers) ? await readAdminBody(c) : ok({});
  const input = body.ok ? parseRotateKey(body.value) : body;
  if (!input.ok) return fail(c, input.error);
  const { settings, startedAt } = c.var.call;
  const graceEnds = startedAt + (input.value.grace_seconds ?? 0) * 1000;
  return withRecord(c, KEYS, async (record) => {
    if (record.revoked_at !== null) return fail(c, REVOKED);
    // Whoever gets a key's secret gets its rights.
    const refused = beyond(admin, record);
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
    const secrets = [fresh, ...old.slice(0, MAX_OLD_SECRETS)];
    return change(c, admin, KEYS, record, { action: "rotate", changes: { secrets }, key: minted.key });
  });
});

const NO_SUCH_KEY: Failure = { kind: "not_found", what: "There is no such key." };
const REVOKED: Failure = { kind: "conflict", message: "A revoked key can't be changed." };

/** Why an admin's own key is not enough to make a key this, of what it was before; null: it is. */
function beyond({ key: own }: Admin, key: KeyPolicy, before?: KeyPolicy): Failure | null {
  if (!own) return null;
  const problems = before ? beyondChange(own, before, key) : beyondGrantor(own, key);
  return problems.length === 0 ? null : grantExceeded(problems);
}

/** A key's limits of time with changes to some of them; null takes one away. */
function mergeTimeouts(
  timeouts: KeyTimeouts,
  changes: { readonly [K in keyof KeyTimeouts]?: number | null | undefined },
): KeyTimeouts {
  return Object.fromEntries(
    Object.entries({ ...timeouts, ...changes }).filter(([, value]) => typeof value === "number"),
  );
}

function alreadyPast(expiresAt: number | null | undefined, now: number): Failure | null {
  if (expiresAt === undefined || expiresAt === null || expiresAt > now) return null;
  return { kind: "invalid_request", message: "expires_at: must be in the future" };
}

/** A record as it is answered: times in RFC 3339, secrets as hints. */
function shown(record: KeyRecord) {
  const { secrets, budget, created_at, updated_at, expires_at, revoked_at, ...rest } = record;
  return {
    ...rest,
    budget: shownBudget(budget),
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
