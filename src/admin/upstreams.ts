/**
 * `/admin/upstreams`: the accounts that calls can go to. A credential goes in and never comes out: it is sealed before it
 * is stored, and answers show a fingerprint. Stored ones are used instead of the one that the environment names, which is
 * listed too and can't be changed here.
 */
import { type AppContext, fail, json } from "../context.ts";
import { sha256Hex } from "../digest.ts";
import { CHANGES_NOTHING } from "../fields.ts";
import { clock } from "../hotpath/leases.ts";
import { outdatePool } from "../hotpath/upstreams.ts";
import { adminOnly, reach, unavailable } from "../identity/admin-auth.ts";
import { resealTokens } from "../identity/jwt/keep-signing-keys.ts";
import { ledgerName } from "../ledger/protocol.ts";
import { upstreamRules } from "../ledger/upstream-rules.ts";
import { cursorOf, oneOf } from "../query.ts";
import { parseBaseUrl } from "../upstream/base-url.ts";
import { openUpstream } from "../upstream/open-upstream.ts";
import { type Probed, probe } from "../upstream/probe.ts";
import { type Hint, poolOf, UPSTREAM_ID } from "../upstream/protocol.ts";
import { resealUpstreams } from "../upstream/reseal.ts";
import { type MasterKey, seal } from "../upstream/sealing.ts";
import { standingOf } from "../upstream/standing.ts";
import { DEFAULT_UPSTREAM, type UpstreamRecord } from "../upstream/upstream.ts";
import {
  getUpstream,
  hasUpstreams,
  insertUpstream,
  listUpstreamRecords,
  MAX_UPSTREAMS,
  placeOf,
  updateUpstream,
} from "../upstream/upstream-store.ts";
import { viewOf } from "../upstream/view.ts";
import type { Failure } from "../wire/errors.ts";
import { newId } from "../wire/ids.ts";
import { parseChangeUpstream, parseCreateUpstream, readAdminBody } from "./input.ts";
import { byLedger, change, changeOf, defined, listed, type RecordKind, rfc3339, stored, withRecord } from "./stored.ts";

const DEFAULT_WEIGHT = 100;
const FINGERPRINT_CHARS = 12;

const UPSTREAMS: RecordKind<UpstreamRecord> = {
  noun: "upstream",
  kind: "upstream",
  idPattern: UPSTREAM_ID,
  enforcer: "the upstream pool",
  enforce: async (c, record) => {
    const told = await reach(c, POOL_FAILED, () => poolOf(c.env.UPSTREAM_POOL).put(record));
    // This isolate's next call must not go where its own administrator has just said it shall not.
    outdatePool();
    // A new one's ledger learns of it by itself, when it is asked first.
    return told.ok && record.version > 1 ? enforceSlots(c, record) : told;
  },
  get: getUpstream,
  update: updateUpstream,
  told: viewOf,
  shown,
};

const enforceSlots = byLedger<UpstreamRecord>(ledgerName.upstream, upstreamRules);

const POOL_FAILED = { msg: "pool_failed" };
const REMOVED: Failure = { kind: "conflict", message: "A removed upstream can't be changed or tested." };
const FROM_ENVIRONMENT: Failure = {
  kind: "conflict",
  message:
    "This upstream comes from the settings ANTHROPIC_API_KEY and UPSTREAM_URL and can't be changed here. Storing another one takes it out of use.",
};
const NO_MASTER_KEY: Failure = {
  kind: "misconfigured",
  message: "The secret MASTER_KEY is not set: without it no upstream's key can be sealed, and none is stored unsealed.",
};

/** `POST /admin/upstreams {name, base_url, api_key, weight?, models?, concurrent_requests?}` → 201 with the record. */
export const createUpstream = adminOnly(async (c, admin) => {
  const { settings, startedAt } = c.var.call;
  const body = await readAdminBody(c);
  const input = body.ok ? parseCreateUpstream(body.value) : body;
  if (!input.ok) return fail(c, input.error);
  const { name, api_key, weight, models, concurrent_requests, base_url } = input.value;
  const baseUrl = parseBaseUrl(base_url, settings.baseUrls);
  if (!baseUrl.ok) return fail(c, wrongBaseUrl(baseUrl.error));
  const [masterKey] = settings.masterKeys;
  if (!masterKey) return fail(c, NO_MASTER_KEY);
  const id = newId("up", startedAt);
  const record: UpstreamRecord = {
    id,
    name,
    base_url: baseUrl.value,
    weight: weight ?? DEFAULT_WEIGHT,
    models: models ?? null,
    concurrent_requests: concurrent_requests ?? null,
    state: "active",
    ...(await sealed(masterKey, id, api_key)),
    created_at: startedAt,
    updated_at: startedAt,
    version: 1,
  };
  return stored(
    c,
    async () => {
      if (!(await insertUpstream(c.env.DB, record, changeOf(c, admin, UPSTREAMS, "create", null, record)))) {
        return fail(c, {
          kind: "conflict",
          message: `There are ${MAX_UPSTREAMS} upstreams already. Remove one first.`,
        });
      }
      if ((await UPSTREAMS.enforce(c, record)).ok) return json(c, 201, await shown(record, c));
      return fail(
        c,
        unavailable(`The upstream is stored as ${id} but not yet used. PATCH its name: the upstream pool`),
      );
    },
    "The upstream may be stored. Look at the list before repeating the call: the database",
  );
});

/**
 * `GET /admin/upstreams?removed=&limit=&cursor=`: the environment's first, then the stored ones, newest first. Removed
 * ones are listed by themselves.
 */
export const listUpstreams = adminOnly((c) =>
  listed(
    c,
    { removed: oneOf("true", "false"), cursor: cursorOf(CURSOR) },
    ({ removed, cursor }, rows) => readUpstreams(c, removed === "true", cursor, rows),
    ({ id }) => id,
    (view) => view,
  ),
);

async function readUpstreams(c: AppContext, removed: boolean, after: string | undefined, limit: number) {
  const own = !removed && after === undefined;
  const [rows, environment, healthOf] = await Promise.all([
    listUpstreamRecords(c.env.DB, { removed, after }, limit),
    own ? fromEnvironment(c) : null,
    askHealth(c),
  ]);
  return Promise.all([
    ...(environment ? [{ ...environment, health: await healthOf(null) }] : []),
    ...rows.map(async (row) => ({ ...viewOf(row), health: await healthOf(row) })),
  ]);
}

/** `GET /admin/upstreams/:id`, `up_default` too. */
export const readUpstream = adminOnly(async (c) => {
  if (!isDefault(c)) return withRecord(c, UPSTREAMS, async (record) => json(c, 200, await shown(record, c)));
  return stored(c, async () => {
    const [view, healthOf] = await Promise.all([fromEnvironment(c), askHealth(c)]);
    return json(c, 200, { ...view, health: await healthOf(null) });
  });
});

/** `PATCH /admin/upstreams/:id`: the fields given; `state: "active"` ends draining, `api_key` is the next credential. */
export const changeUpstream = adminOnly(async (c, admin) => {
  const { settings } = c.var.call;
  const body = await readAdminBody(c);
  const input = body.ok ? parseChangeUpstream(body.value) : body;
  if (!input.ok) return fail(c, input.error);
  const { api_key, ...fields } = defined(input.value);
  if (api_key === undefined && Object.keys(fields).length === 0) return fail(c, CHANGES_NOTHING);
  if (fields.base_url !== undefined) {
    const baseUrl = parseBaseUrl(fields.base_url, settings.baseUrls);
    if (!baseUrl.ok) return fail(c, wrongBaseUrl(baseUrl.error));
    fields.base_url = baseUrl.value;
  }
  if (isDefault(c)) return fail(c, FROM_ENVIRONMENT);
  const [masterKey] = settings.masterKeys;
  if (api_key !== undefined && !masterKey) return fail(c, NO_MASTER_KEY);
  return withRecord(c, UPSTREAMS, async (record) => {
    if (record.state === "removed") return fail(c, REMOVED);
    const key = api_key !== undefined && masterKey ? await sealed(masterKey, record.id, api_key) : {};
    return change(c, admin, UPSTREAMS, record, { changes: { ...fields, ...key } });
  });
});

/** `POST /admin/upstreams/:id/drain`: it gets no new conversations any more, and keeps what can go nowhere else. */
export const drainUpstream = adminOnly(async (c, admin) => {
  if (isDefault(c)) return fail(c, FROM_ENVIRONMENT);
  return withRecord(c, UPSTREAMS, (record) => {
    if (record.state === "removed") return fail(c, REMOVED);
    if (record.state === "draining") return tellAgain(c, record);
    return change(c, admin, UPSTREAMS, record, { action: "drain", changes: { state: "draining" } });
  });
});

/** `DELETE /admin/upstreams/:id`: wipes its key and takes it out of use for good. The row stays: audit rows name it. */
export const removeUpstream = adminOnly(async (c, admin) => {
  if (isDefault(c)) return fail(c, FROM_ENVIRONMENT);
  return withRecord(c, UPSTREAMS, (record) => {
    if (record.state === "removed") return tellAgain(c, record);
    return change(c, admin, UPSTREAMS, record, {
      action: "remove",
      changes: { state: "removed", sealed_key: null },
    });
  });
});

/** `POST /admin/upstreams/:id/test` → `{ok, status, latency_ms, error_type?}` of one real call that costs nothing. */
export const testUpstream = adminOnly(async (c) => {
  const { settings } = c.var.call;
  const ask = (baseUrl: string, apiKey: string) => probe({ baseUrl, apiKey }, { fetch, now: clock.now });
  if (isDefault(c)) return json(c, 200, await ask(settings.upstreamUrl, settings.upstreamKey));
  return withRecord(c, UPSTREAMS, async (record) => {
    if (record.state === "removed") return fail(c, REMOVED);
    const upstream = await openUpstream(record, settings);
    if (upstream.ok) return json(c, 200, await ask(upstream.value.base_url, upstream.value.apiKey));
    const untested: Probed = { ok: false, status: null, latency_ms: 0, error_type: upstream.error.kind };
    return json(c, 200, untested);
  });
});

/**
 * `POST /admin/upstreams/reseal` → `{resealed, failed}`: seals what is under an older master key under the first one,
 * issuers' secrets and signing keys too.
 */
export const resealAll = adminOnly((c, { actor }) => {
  const { settings, requestId } = c.var.call;
  const { masterKeys } = settings;
  if (masterKeys.length === 0) return Promise.resolve(fail(c, NO_MASTER_KEY));
  return stored(
    c,
    async () => {
      const upstreams = await resealUpstreams(c.env, masterKeys, clock.now, { actor, requestId });
      const tokens = await resealTokens(c.env.DB, masterKeys);
      const failed = [...upstreams.failed, ...tokens.failed];
      return json(c, 200, { resealed: upstreams.resealed + tokens.resealed, failed });
    },
    "Some keys may still be under an older master key. Repeat the call: the database",
  );
});

const CURSOR = new RegExp(`${UPSTREAM_ID.source}|^${DEFAULT_UPSTREAM}$`);

const isDefault = (c: AppContext): boolean => c.req.param("id") === DEFAULT_UPSTREAM;

const wrongBaseUrl = (problem: string): Failure => ({ kind: "invalid_request", message: `base_url: ${problem}` });

/** What is stored of a key. */
async function sealed(masterKey: MasterKey, id: string, apiKey: string) {
  return { sealed_key: await seal(masterKey, apiKey, placeOf(id)), fingerprint: await fingerprintOf(apiKey) };
}

async function fingerprintOf(apiKey: string): Promise<string> {
  return (await sha256Hex(apiKey)).slice(0, FINGERPRINT_CHARS);
}

/** For a change that was stored before: perhaps the pool has not heard of it. */
async function tellAgain(c: AppContext, record: UpstreamRecord): Promise<Response> {
  if ((await UPSTREAMS.enforce(c, record)).ok) return json(c, 200, await shown(record, c));
  return fail(c, unavailable(`The change is stored but not yet enforced. Repeat the call: ${UPSTREAMS.enforcer}`));
}

async function shown(record: UpstreamRecord, c: AppContext): Promise<object> {
  const healthOf = await askHealth(c);
  return { ...viewOf(record), health: await healthOf(record) };
}

async function fromEnvironment(c: AppContext) {
  const { upstreamUrl, upstreamKey } = c.var.call.settings;
  return {
    id: DEFAULT_UPSTREAM,
    source: "environment" as const,
    in_use: !(await hasUpstreams(c.env.DB)),
    name: "ANTHROPIC_API_KEY",
    base_url: upstreamUrl,
    weight: DEFAULT_WEIGHT,
    models: null,
    concurrent_requests: null,
    state: "active" as const,
    fingerprint: await fingerprintOf(upstreamKey),
    sealed_under: null,
    created_at: null,
    updated_at: null,
    version: 0,
  };
}

/**
 * What isolates have told the pool of a stored upstream or (null) of the environment's, or why none can use it; null for
 * a removed one, and for all while the pool can't be asked.
 */
async function askHealth(c: AppContext): Promise<(record: UpstreamRecord | null) => Promise<object | null>> {
  const asked = await reach(c, POOL_FAILED, () => poolOf(c.env.UPSTREAM_POOL).hints());
  if (!asked.ok) return async () => null;
  const hints = new Map<string, Hint>(asked.value.map((hint) => [hint.upstream, hint]));
  return async (record) => {
    if (record?.state === "removed") return null;
    const { settings } = c.var.call;
    const { state, reason, hint } = await standingOf(record, hints.get(record?.id ?? DEFAULT_UPSTREAM), settings);
    return {
      state,
      ...(reason === null ? {} : { reason }),
      ...(hint ? { since: rfc3339(hint.at), until: rfc3339(hint.until) } : {}),
    };
  };
}
