/**
 * `/admin/workspaces`: limits and budgets that all keys of a workspace share. A key may name a workspace before, or
 * without, its being made; there is no deleting one, since keys and audit rows name it.
 */
import { type AppContext, fail, json } from "../context.ts";
import { CHANGES_NOTHING } from "../fields.ts";
import { type Admin, adminOnly, unavailable } from "../identity/admin-auth.ts";
import { WORKSPACE } from "../identity/fields.ts";
import { beyondChange, type Grantor } from "../identity/grants.ts";
import type { KeyPolicy, WorkspaceRecord } from "../identity/key-record.ts";
import { namesWorkspace } from "../identity/key-store.ts";
import {
  getWorkspace,
  insertWorkspace,
  listWorkspaceRecords,
  rulesOf,
  updateWorkspace,
  workspaceLedger,
} from "../identity/workspace-store.ts";
import { cursorOf } from "../query.ts";
import { newId } from "../wire/ids.ts";
import { parseChangeWorkspace, parseCreateWorkspace, readAdminBody } from "./input.ts";
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

/** How often a purge is stored while others change the workspace. */
const ATTEMPTS = 20;

const WORKSPACES: RecordKind<WorkspaceRecord> = {
  noun: "workspace",
  kind: "workspace",
  idPattern: WORKSPACE,
  enforcer: "the workspace's ledger",
  enforce: byLedger(workspaceLedger, rulesOf),
  get: getWorkspace,
  update: updateWorkspace,
  told: shown,
  shown,
};

/**
 * `POST /admin/workspaces` → 201 with the record. Its ledger is told only if keys name the workspace already: they may
 * have been served without its limits. Else it learns by itself, near its first user and not near the administrator.
 */
export const createWorkspace = adminOnly(async (c, admin) => {
  const { startedAt } = c.var.call;
  const body = await readAdminBody(c);
  const input = body.ok ? parseCreateWorkspace(body.value) : body;
  if (!input.ok) return fail(c, input.error);
  const fields = input.value;
  const limits = mergeLimits({}, fields.limits ?? {});
  if (!limits.ok) return fail(c, limits.error);
  const record: WorkspaceRecord = {
    id: fields.id ?? newId("ws", startedAt),
    version: 1,
    name: fields.name,
    limits: limits.value,
    budget: fields.budget ?? null,
    cache_epoch: 0,
    guardrails: fields.guardrails ?? null,
    metadata: fields.metadata ?? {},
    created_at: startedAt,
    updated_at: startedAt,
  };
  return stored(
    c,
    async () => {
      if (!(await insertWorkspace(c.env.DB, record, changeOf(c, admin, WORKSPACES, "create", null, record)))) {
        return fail(c, { kind: "conflict", message: "There is a workspace with this id already." });
      }
      if (!(await namesWorkspace(c.env.DB, record.id)) || (await WORKSPACES.enforce(c, record)).ok) {
        return json(c, 201, shown(record));
      }
      const what = "The workspace is stored but not yet enforced. PATCH its limits and budget: the workspace's ledger";
      return fail(c, unavailable(what));
    },
    "The workspace may be stored. Repeat the call, and after a 409 PATCH its limits and budget: the database",
  );
});

/** `GET /admin/workspaces?limit=&cursor=`, newest first. */
export const listWorkspaces = adminOnly((c) =>
  listed(
    c,
    { cursor: cursorOf(WORKSPACE) },
    ({ cursor }, rows) => listWorkspaceRecords(c.env.DB, cursor, rows),
    ({ id }) => id,
    shown,
  ),
);

/** `GET /admin/workspaces/:id`. */
export const readWorkspace = adminOnly((c) => withRecord(c, WORKSPACES, (record) => json(c, 200, shown(record))));

/** `PATCH /admin/workspaces/:id`: the fields given; `limits` are merged one by one, and null takes one away. */
export const changeWorkspace = adminOnly(async (c, admin) => {
  const body = await readAdminBody(c);
  const input = body.ok ? parseChangeWorkspace(body.value) : body;
  if (!input.ok) return fail(c, input.error);
  const { limits: limitChanges, ...fields } = input.value;
  if (limitChanges === undefined && Object.keys(fields).length === 0) return fail(c, CHANGES_NOTHING);
  return withRecord(c, WORKSPACES, (record) => {
    const limits = mergeLimits(record.limits, limitChanges ?? {});
    if (!limits.ok) return fail(c, limits.error);
    const changes = { ...defined(fields), limits: limits.value };
    const beyond = admin.key ? beyondShared(admin.key, record, { ...record, ...changes }) : [];
    if (beyond.length > 0) return fail(c, grantExceeded(beyond));
    return change(c, admin, WORKSPACES, record, { changes });
  });
});

/** What keys share is a bound of each of them: who is one can draw it closer, for its own workspace, and not loosen it. */
function beyondShared({ workspace }: KeyPolicy, before: WorkspaceRecord, after: WorkspaceRecord): readonly string[] {
  const rightsIn = ({ id, limits, budget, guardrails }: WorkspaceRecord): Grantor => ({
    ...{ workspace: id, limits, budget, guardrails },
    ...{ scopes: [], models: null, expires_at: null, fail_open: true, on_revoke: "finish" },
  });
  return beyondChange({ ...rightsIn(before), workspace }, rightsIn(before), rightsIn(after));
}

/**
 * `POST /admin/workspaces/:id/cache/purge` → `{workspace, cache_epoch}`: no answer cached before is given any more, within
 * the two seconds of every change. A workspace that keys merely name is made by it.
 */
export const purgeWorkspaceCache = adminOnly(async (c, admin) => {
  const id = c.req.param("id") ?? "";
  if (!WORKSPACE.test(id)) return fail(c, { kind: "not_found", what: "There is no such workspace." });
  return stored(
    c,
    async () => {
      const record = await purge(c, admin, id);
      if ((await WORKSPACES.enforce(c, record)).ok) {
        return json(c, 200, { workspace: id, cache_epoch: record.cache_epoch });
      }
      return fail(c, unavailable("The purge is stored but not yet in force. Repeat the call: the workspace's ledger"));
    },
    "The cache may not be purged. Repeat the call: the database",
  );
});

/**
 * Lets no cached answer of a workspace be found again, and makes a workspace of which there is no record: one that limits
 * nothing. Whoever changes it meanwhile is outrun in the end.
 */
async function purge(c: AppContext, admin: Admin, id: string): Promise<WorkspaceRecord> {
  const at = c.var.call.startedAt;
  for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
    const record = await getWorkspace(c.env.DB, id);
    const next: WorkspaceRecord = record
      ? { ...record, cache_epoch: record.cache_epoch + 1, updated_at: at, version: record.version + 1 }
      : {
          id,
          version: 1,
          name: id,
          limits: {},
          budget: null,
          cache_epoch: 1,
          guardrails: null,
          metadata: {},
          created_at: at,
          updated_at: at,
        };
    const told = changeOf(c, admin, WORKSPACES, "purge_cache", record, next);
    const write = record ? updateWorkspace : insertWorkspace;
    if (await write(c.env.DB, next, told)) return next;
  }
  throw new Error("others keep changing the workspace");
}

/** A record as it is answered. */
function shown(record: WorkspaceRecord) {
  const { budget, created_at, updated_at, ...rest } = record;
  return {
    ...rest,
    budget: shownBudget(budget),
    created_at: rfc3339(created_at),
    updated_at: rfc3339(updated_at),
  };
}
