/**
 * `/admin/workspaces`: limits and budgets that all keys of a workspace share. A key may name a workspace before, or
 * without, its being made; there is no deleting one, since keys and audit rows name it.
 */
import { fail, json } from "../context.ts";
import { CHANGES_NOTHING } from "../fields.ts";
import { adminOnly, unavailable } from "../identity/admin-auth.ts";
import type { WorkspaceRecord } from "../identity/key-record.ts";
import { namesWorkspace } from "../identity/key-store.ts";
import {
  getWorkspace,
  insertWorkspace,
  listWorkspaceRecords,
  purgeCache,
  rulesOf,
  updateWorkspace,
  workspaceLedger,
} from "../identity/workspace-store.ts";
import { between, DEFAULT_PAGE, MAX_PAGE, matches, page, readQuery } from "../query.ts";
import { newId } from "../wire/ids.ts";
import { parseChangeWorkspace, parseCreateWorkspace, readAdminBody, WORKSPACE } from "./input.ts";
import {
  byLedger,
  change,
  defined,
  mergeLimits,
  type RecordKind,
  rfc3339,
  shownBudget,
  stored,
  withRecord,
} from "./stored.ts";

const WORKSPACES: RecordKind<WorkspaceRecord> = {
  noun: "workspace",
  idPattern: WORKSPACE,
  enforcer: "the workspace's ledger",
  enforce: byLedger(workspaceLedger, rulesOf),
  get: getWorkspace,
  update: updateWorkspace,
  shown,
};

/**
 * `POST /admin/workspaces` → 201 with the record. Its ledger is told only if keys name the workspace already: they may
 * have been served without its limits. Else it learns by itself, near its first user and not near the administrator.
 */
export const createWorkspace = adminOnly(async (c) => {
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
    metadata: fields.metadata ?? {},
    created_at: startedAt,
    updated_at: startedAt,
  };
  return stored(
    c,
    async () => {
      if (!(await insertWorkspace(c.env.DB, record))) {
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
export const listWorkspaces = adminOnly(async (c) => {
  const query = readQuery(c.req.url, {
    limit: between(1, MAX_PAGE),
    cursor: matches(WORKSPACE, "a cursor from `next_cursor`"),
  });
  if (!query.ok) return fail(c, query.error);
  const { cursor, limit = DEFAULT_PAGE } = query.value;
  return stored(c, async () => {
    const rows = await listWorkspaceRecords(c.env.DB, cursor, limit + 1);
    return json(
      c,
      200,
      page(rows, limit, (row) => row.id, shown),
    );
  });
});

/** `GET /admin/workspaces/:id`. */
export const readWorkspace = adminOnly((c) => withRecord(c, WORKSPACES, (record) => json(c, 200, shown(record))));

/** `PATCH /admin/workspaces/:id`: the fields given; `limits` are merged one by one, and null takes one away. */
export const changeWorkspace = adminOnly(async (c) => {
  const body = await readAdminBody(c);
  const input = body.ok ? parseChangeWorkspace(body.value) : body;
  if (!input.ok) return fail(c, input.error);
  const { limits: limitChanges, ...fields } = input.value;
  if (limitChanges === undefined && Object.keys(fields).length === 0) return fail(c, CHANGES_NOTHING);
  return withRecord(c, WORKSPACES, (record) => {
    const limits = mergeLimits(record.limits, limitChanges ?? {});
    if (!limits.ok) return fail(c, limits.error);
    return change(c, WORKSPACES, record, { ...defined(fields), limits: limits.value });
  });
});

/**
 * `POST /admin/workspaces/:id/cache/purge` → `{workspace, cache_epoch}`: no answer cached before is given any more, within
 * the two seconds of every change. A workspace that keys merely name is made by it.
 */
export const purgeWorkspaceCache = adminOnly(async (c) => {
  const id = c.req.param("id") ?? "";
  if (!WORKSPACE.test(id)) return fail(c, { kind: "not_found", what: "There is no such workspace." });
  return stored(
    c,
    async () => {
      const record = await purgeCache(c.env.DB, id, c.var.call.startedAt);
      if ((await WORKSPACES.enforce(c, record)).ok) {
        return json(c, 200, { workspace: id, cache_epoch: record.cache_epoch });
      }
      return fail(c, unavailable("The purge is stored but not yet in force. Repeat the call: the workspace's ledger"));
    },
    "The cache may not be purged. Repeat the call: the database",
  );
});

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
