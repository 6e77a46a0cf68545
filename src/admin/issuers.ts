/**
 * `/admin/issuers`: whose tokens are believed beside our own, and as which key each of them acts. A shared secret goes in,
 * is sealed, and never comes out. Isolates hear of a change within two seconds, each from D1;
 * the one that makes it, at once.
 */
import { type AppContext, fail, json } from "../context.ts";
import { CHANGES_NOTHING } from "../fields.ts";
import { type Admin, adminOnly } from "../identity/admin-auth.ts";
import { beyondGrantor } from "../identity/grants.ts";
import { examine } from "../identity/jwt/believe.ts";
import { type Actor, DEFAULT_LIFETIME_SECONDS, type IssuerRecord, type Mapping } from "../identity/jwt/issuer.ts";
import {
  getIssuer,
  insertIssuer,
  listIssuerRecords,
  loadIssuers,
  MAX_ISSUERS,
  removeIssuer,
  secretPlaceOf,
  updateIssuer,
} from "../identity/jwt/issuer-store.ts";
import { KeySets } from "../identity/jwt/key-set.ts";
import type { Claims } from "../identity/jwt/verify.ts";
import type { KeyRecord } from "../identity/key-record.ts";
import { getKey } from "../identity/key-store.ts";
import { narrowed } from "../identity/rights.ts";
import { believingOf, leftBy, outdateIssuers } from "../identity/tokens.ts";
import { cursorOf } from "../query.ts";
import { err, ok, type Result } from "../result.ts";
import { parseBaseUrl } from "../upstream/base-url.ts";
import { seal } from "../upstream/sealing.ts";
import type { Failure } from "../wire/errors.ts";
import { newId } from "../wire/ids.ts";
import { readAdminBody } from "./input.ts";
import {
  type ChangeIssuerInput,
  mappingsOf,
  parseChangeIssuer,
  parseCreateIssuer,
  parseTestToken,
} from "./issuer-input.ts";
import {
  change,
  changeOf,
  defined,
  grantExceeded,
  listed,
  type RecordKind,
  rfc3339,
  stored,
  withRecord,
} from "./stored.ts";

const ISSUER_ID = /^iss_[0-9a-hjkmnp-tv-z]{26}$/;

const ISSUERS: RecordKind<IssuerRecord> = {
  noun: "issuer",
  kind: "issuer",
  idPattern: ISSUER_ID,
  enforcer: "the database",
  enforce: async () => {
    outdateIssuers();
    return ok(undefined);
  },
  get: getIssuer,
  update: updateIssuer,
  told: shown,
  shown,
};

const NO_MASTER_KEY: Failure = {
  kind: "misconfigured",
  message:
    "The secret MASTER_KEY is not set: without it no issuer's secret can be sealed, and none is stored unsealed.",
};
const OTHERS_CHANGED: Failure = {
  kind: "conflict",
  message: "The issuer was changed by somebody else in the meantime. Read it and try again.",
};

/** `POST /admin/issuers {name, issuer, audiences, jwks_url | secret, mappings, …}` → 201 with the record. */
export const createIssuer = adminOnly(async (c, admin) => {
  const { startedAt } = c.var.call;
  const body = await readAdminBody(c);
  const input = body.ok ? parseCreateIssuer(body.value) : body;
  if (!input.ok) return fail(c, input.error);
  const fields = input.value;
  if (fields.jwks_url === undefined && fields.secret === undefined) return fail(c, invalid(ONE_OF_TWO));
  const id = newId("iss", startedAt);
  const keys = await keysGiven(c, id, fields);
  if (!keys.ok) return fail(c, keys.error);
  const record: IssuerRecord = {
    ...{ id, name: fields.name, issuer: fields.issuer, audiences: fields.audiences },
    ...{ jwks_url: null, sealed_secret: null, ...keys.value },
    typ: fields.typ ?? null,
    max_lifetime_seconds: fields.max_lifetime_seconds ?? DEFAULT_LIFETIME_SECONDS,
    mappings: mappingsOf(fields.mappings),
    blocked_subjects: fields.blocked_subjects ?? [],
    state: fields.state ?? "active",
    ...{ created_at: startedAt, updated_at: startedAt, version: 1 },
  };
  return stored(
    c,
    async () => {
      const refused =
        (await mappingProblem(c, admin, record.mappings, record.mappings)) ?? (await clash(c.env.DB, record));
      if (refused) return fail(c, refused);
      const added = await insertIssuer(c.env.DB, record, changeOf(c, admin, ISSUERS, "create", null, record));
      outdateIssuers();
      return added ? json(c, 201, shown(record)) : fail(c, (await clash(c.env.DB, record)) ?? OTHERS_CHANGED);
    },
    "The issuer may be stored. Look at the list before repeating the call: the database",
  );
});

/** `GET /admin/issuers?limit=&cursor=`, newest first. */
export const listIssuers = adminOnly((c) =>
  listed(
    c,
    { cursor: cursorOf(ISSUER_ID) },
    ({ cursor }, rows) => listIssuerRecords(c.env.DB, cursor, rows),
    ({ id }) => id,
    shown,
  ),
);

/** `GET /admin/issuers/:id`. */
export const readIssuer = adminOnly((c) => withRecord(c, ISSUERS, (record) => json(c, 200, shown(record))));

/** `PATCH /admin/issuers/:id`: the fields given; `jwks_url` and `secret` take each other's place. */
export const changeIssuer = adminOnly(async (c, admin) => {
  const body = await readAdminBody(c);
  const input = body.ok ? parseChangeIssuer(body.value) : body;
  if (!input.ok) return fail(c, input.error);
  const { jwks_url, secret, mappings, ...others } = input.value;
  if (Object.keys(input.value).length === 0) return fail(c, CHANGES_NOTHING);
  return withRecord(c, ISSUERS, async (record) => {
    const keys = await keysGiven(c, record.id, defined({ issuer: others.issuer, jwks_url, secret }));
    if (!keys.ok) return fail(c, keys.error);
    const given = mappings && mappingsOf(mappings);
    const changes = { ...defined(others), ...keys.value, ...(given ? { mappings: given } : {}) };
    const next: IssuerRecord = { ...record, ...changes };
    // Who decides whose tokens count decides who gets the rights of every mapping, not only of new ones.
    const rights = onlyTakes(input.value, record) ? [] : next.mappings;
    const refused = (await mappingProblem(c, admin, rights, given ?? [])) ?? (await clash(c.env.DB, next));
    return refused ? fail(c, refused) : change(c, admin, ISSUERS, record, { changes });
  });
});

/** `DELETE /admin/issuers/:id` → the record as it was: its tokens are not believed any more, and its row is gone. */
export const deleteIssuer = adminOnly((c, admin) =>
  withRecord(c, ISSUERS, async (record) => {
    const removed = await removeIssuer(c.env.DB, record, changeOf(c, admin, ISSUERS, "remove", record, null));
    outdateIssuers();
    return removed ? json(c, 200, shown(record)) : fail(c, OTHERS_CHANGED);
  }),
);

/**
 * `POST /admin/issuers/:id/test {token}`: whether the token would be believed now, if not why not, and as whom it acts. The
 * issuer is asked anew, so that what it publishes counts and nothing that this isolate remembers. The token goes nowhere.
 */
export const testIssuer = adminOnly(async (c) => {
  const { settings, startedAt } = c.var.call;
  const body = await readAdminBody(c);
  const input = body.ok ? parseTestToken(body.value) : body;
  if (!input.ok) return fail(c, input.error);
  return withRecord(c, ISSUERS, async (record) => {
    if (record.jwks_url !== null && !parseBaseUrl(record.jwks_url, settings.keySetUrls).ok) {
      return json(c, 200, { believed: false, refused: "host_not_allowed" });
    }
    const sets = new KeySets();
    const by = { ...believingOf(c.env, settings), sets };
    const found = await examine(input.value.token, record, by, startedAt);
    if (found.ok) return json(c, 200, await actsAs(c, record, found.value));
    const failure = record.jwks_url === null ? null : sets.failureOf(record.jwks_url);
    return json(c, 200, { believed: false, refused: found.error, ...(failure ? { key_set: failure } : {}) });
  });
});

/** As whom a good token acts, and what may still be in its way. */
async function actsAs(c: AppContext, issuer: IssuerRecord, { claims, actor }: { claims: Claims; actor: Actor }) {
  const key = await getKey(c.env.DB, actor.key);
  const refused =
    issuer.state === "active" ? (key && isLive(key, c.var.call.startedAt) ? null : "key_dead") : "disabled";
  const rights = key && narrowed(key, leftBy(actor));
  return {
    believed: refused === null,
    ...(refused === null ? {} : { refused }),
    subject: claims.subject,
    expires_at: rfc3339(claims.expiresAt * 1_000),
    key: actor.key,
    ...(rights ? { workspace: rights.workspace, scopes: rights.scopes, models: rights.models } : {}),
  };
}

const ONE_OF_TWO = "jwks_url, secret: one of them must be there, and not both";
const invalid = (message: string): Failure => ({ kind: "invalid_request", message });

type Keys = Pick<IssuerRecord, "jwks_url" | "sealed_secret">;

/** What a change makes of the issuer's keys, and whether its name can be one; an empty object: nothing of the keys. */
async function keysGiven(
  c: AppContext,
  id: string,
  { issuer, jwks_url, secret }: Pick<ChangeIssuerInput, "issuer" | "jwks_url" | "secret">,
): Promise<Result<Keys | Record<never, never>, Failure>> {
  const { masterKeys, keySetUrls, tokenIssuer } = c.var.call.settings;
  if (issuer === tokenIssuer) return err(invalid("issuer: is this gateway's own (TOKEN_ISSUER)"));
  if (jwks_url !== undefined && secret !== undefined) return err(invalid(ONE_OF_TWO));
  if (jwks_url !== undefined) {
    const url = parseBaseUrl(jwks_url, keySetUrls, "ISSUER_HOSTS");
    if (!url.ok) return err(invalid(`jwks_url: ${url.error}`));
    const path = new URL(url.value).pathname;
    return path === "/" ? err(invalid("jwks_url: must have a path")) : ok({ jwks_url: url.value, sealed_secret: null });
  }
  if (secret === undefined) return ok({});
  const [masterKey] = masterKeys;
  if (!masterKey) return err(NO_MASTER_KEY);
  return ok({ jwks_url: null, sealed_secret: await seal(masterKey, secret, secretPlaceOf(id)) });
}

/** Why another issuer, or too many of them, is in the way; null: none is. */
async function clash(db: D1Database, { id, name, issuer }: IssuerRecord): Promise<Failure | null> {
  const all = await loadIssuers(db);
  const others = all.filter((one) => one.id !== id);
  const conflict = (message: string): Failure => ({ kind: "conflict", message });
  if (others.some((one) => one.issuer === issuer)) return conflict("There is another record of this issuer already.");
  if (others.some((one) => one.name === name)) return conflict("There is an issuer with this name already.");
  if (others.length < MAX_ISSUERS) return null;
  return conflict(`There are ${MAX_ISSUERS} issuers already. Remove one first.`);
}

/** Whether a change lets nobody in who was not let in before. Whoever may write may do that. */
function onlyTakes(input: ChangeIssuerInput, record: IssuerRecord): boolean {
  const { name: _, state, blocked_subjects: blocked, ...others } = input;
  return (
    Object.keys(others).length === 0 &&
    (state === undefined || state === "disabled") &&
    (blocked === undefined || record.blocked_subjects.every((subject) => blocked.includes(subject)))
  );
}

/**
 * What is wrong with mappings: `given` must lead to live keys, and none of `rights` beyond what the admin could give. A key
 * that is gone has no rights to give.
 */
async function mappingProblem(
  c: AppContext,
  { key: own }: Admin,
  rights: readonly Mapping[],
  given: readonly Mapping[],
): Promise<Failure | null> {
  const ids = [...new Set([...(own ? rights : []), ...given].map(({ key }) => key))];
  const found = await Promise.all(ids.map((id) => getKey(c.env.DB, id)));
  const keys = new Map(found.flatMap((key) => (key ? [[key.id, key] as const] : [])));
  const dead = given.flatMap(({ key }, i) => {
    const record = keys.get(key);
    if (!record) return [`mappings.${i}.key: there is no such key`];
    return record.revoked_at === null ? [] : [`mappings.${i}.key: is revoked`];
  });
  if (dead.length > 0) return invalid(dead.join("; "));
  if (!own) return null;
  const beyond = rights.flatMap((mapping, i) => {
    const key = keys.get(mapping.key);
    if (!key || key.revoked_at !== null) return [];
    const { scopes = null, models = null, admin = null } = mapping;
    return beyondGrantor(own, narrowed(key, leftBy({ scopes, models, admin }))).map(
      (problem) => `mappings.${i}.${problem}`,
    );
  });
  return beyond.length === 0 ? null : grantExceeded(beyond);
}

function isLive({ revoked_at, expires_at }: KeyRecord, now: number): boolean {
  return revoked_at === null && (expires_at === null || expires_at > now);
}

/** A record as it is answered and written down, made field by field: of its secret, that there is one. */
function shown(record: IssuerRecord) {
  const { id, name, issuer, audiences, jwks_url, typ, max_lifetime_seconds, mappings, blocked_subjects, state } =
    record;
  return {
    ...{ id, name, issuer, audiences, jwks_url, has_secret: record.sealed_secret !== null, typ, max_lifetime_seconds },
    ...{ mappings, blocked_subjects, state },
    created_at: rfc3339(record.created_at),
    updated_at: rfc3339(record.updated_at),
    version: record.version,
  };
}
