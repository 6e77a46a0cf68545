/**
 * `/admin/templates`: prompts that are kept here, their versions and what their labels mean. D1 decides; what it has taken
 * is brought to where calls look (templates/shelf.ts). Should that fail, it gets there by itself within a minute.
 */
import type { Change } from "../changes/change.ts";
import { recorded } from "../changes/store.ts";
import { type AppContext, fail, type Guarded, json } from "../context.ts";
import { type Admin, adminOr } from "../identity/admin-auth.ts";
import { between, cursorOf, page, readPageQuery, readQuery } from "../query.ts";
import { err, ok, type Result } from "../result.ts";
import { MAX_CONTENT_BYTES, TEMPLATE_NAME } from "../templates/content.ts";
import { diffVersions } from "../templates/diff.ts";
import { readChange, readPublication } from "../templates/input.ts";
import { shelf } from "../templates/shelf.ts";
import { shelvesOf } from "../templates/shelves.ts";
import {
  changedRecord,
  changeTemplate,
  getTemplate,
  getVersion,
  listTemplates,
  listVersions,
  publish,
  type TemplateRecord,
  type VersionRecord,
} from "../templates/store.ts";
import { parseVersion } from "../templates/version.ts";
import { diffView, templateView, versionSummary, versionView } from "../templates/views.ts";
import type { Failure } from "../wire/errors.ts";
import { readAdminBody } from "./input.ts";
import { listed, stored } from "./stored.ts";

/** A version's JSON as people write it, with spaces between. */
const MAX_BODY_BYTES = 2 * MAX_CONTENT_BYTES;
const MAX_VERSION = 999_999_999;
/** How often a change that names no revision is tried: more than there are people who publish in one second. */
const CHANGE_ROUNDS = 50;
const NO_TEMPLATE: Failure = { kind: "not_found", what: "There is no such template." };
const NO_VERSION: Failure = { kind: "not_found", what: "There is no such version of this template." };

type Handle = (c: AppContext, admin: Admin) => Promise<Response>;

const forWriters = (handle: Handle): Guarded => adminOr("templates:write", handle);

/** `POST /admin/templates/:name` → 201 with the version, which is the next number. Its first makes the template. */
export const publishTemplate = forWriters(async (c, admin) => {
  const name = c.req.param("name") ?? "";
  if (!TEMPLATE_NAME.test(name)) return fail(c, badName());
  const body = await readAdminBody(c, MAX_BODY_BYTES);
  const given = body.ok ? readPublication(body.value) : body;
  if (!given.ok) return fail(c, given.error);
  const content = parseVersion(given.value.content);
  if (!content.ok) return fail(c, content.error);
  const { labels, note } = given.value;
  const draft = { name, content: content.value, labels, note, by: admin.actor };
  const { startedAt } = c.var.call;
  return stored(
    c,
    async () => {
      const also = [recordedPublication(c, admin, name, note)];
      const published = await publish(c.env.DB, draft, startedAt, also);
      if (!published.ok) return fail(c, published.error);
      const record = published.value;
      const version = record.newest;
      const brought = await shelf.bring(shelvesOf(c), record, { template: name, version, content: content.value });
      if (!brought.ok) noteLate(c, record);
      const made: VersionRecord = { ...draft, version, created_by: admin.actor, created_at: startedAt };
      return json(c, 201, versionView(made, record.labels));
    },
    "Nobody can say whether the version is stored. Look at the template's versions: the database",
  );
});

/** The number is given in the same transaction, and so are the labels that lead to it. */
function recordedPublication(c: AppContext, admin: Admin, name: string, note: string | null): D1PreparedStatement {
  const change = {
    ...changeBy(c, admin, name),
    action: "template.publish",
    before: null,
    after: { name, note },
  } as const;
  return recorded(c.env.DB, change, undefined, {
    sql: `json_set(?, '$.version', (SELECT newest FROM templates WHERE name = ?),
          '$.labels', json((SELECT labels FROM templates WHERE name = ?)))`,
    values: [name, name],
  });
}

function changeBy(c: AppContext, { actor }: Admin, target: string): Pick<Change, "author" | "at" | "target"> {
  const { requestId, startedAt } = c.var.call;
  return { author: { actor, requestId }, at: startedAt, target };
}

/** `PATCH /admin/templates/:name`: labels (all of them), workspaces, state. */
export const changeTemplateByName = forWriters(async (c, admin) => {
  const body = await readAdminBody(c);
  if (!body.ok) return fail(c, body.error);
  return stored(
    c,
    () =>
      withTemplate(c, async (record) => {
        const changed = await changedAsAsked(c, admin, record, body.value);
        if (!changed.ok) return fail(c, changed.error);
        const brought = await shelf.bring(shelvesOf(c), changed.value);
        return brought.ok ? json(c, 200, templateView(changed.value)) : fail(c, brought.error);
      }),
    "Nobody can say whether the change is stored. Repeat the call: the database",
  );
});

/**
 * A change that names no revision goes over whatever the record has become: where somebody was faster, it is read and changed
 * again. Each round somebody else has got on, so it ends.
 */
async function changedAsAsked(
  c: AppContext,
  admin: Admin,
  read: TemplateRecord,
  asked: unknown,
): Promise<Result<TemplateRecord, Failure>> {
  const { startedAt } = c.var.call;
  let record = read;
  for (let round = 1; ; round++) {
    const input = readChange(asked, record.newest);
    if (!input.ok) return input;
    const { change, revision } = input.value;
    if (revision !== null && revision !== record.revision) {
      const message = `The template is at revision ${record.revision}. Read it and try again.`;
      return err({ kind: "conflict", message });
    }
    const also = recorded(c.env.DB, {
      ...changeBy(c, admin, record.name),
      action: "template.change",
      before: templateView(record),
      after: templateView(changedRecord(record, change, startedAt)),
    });
    const changed = await changeTemplate(c.env.DB, record, change, startedAt, [also]);
    if (changed.ok || revision !== null || round === CHANGE_ROUNDS) return changed;
    record = (await getTemplate(c.env.DB, record.name)) ?? record;
  }
}

/** `GET /admin/templates?limit=&cursor=`: by name. */
export const listAllTemplates = forWriters((c) =>
  listed(
    c,
    { cursor: cursorOf(TEMPLATE_NAME) },
    ({ cursor }, rows) => listTemplates(c.env.DB, cursor, rows),
    ({ name }) => name,
    templateView,
  ),
);

/** `GET /admin/templates/:name`. */
export const readTemplate = forWriters((c) =>
  stored(c, () => withTemplate(c, async (record) => json(c, 200, templateView(record)))),
);

const aVersion = between(1, MAX_VERSION);

/** `GET /admin/templates/:name/versions?limit=&cursor=`: newest first, without what they hold. */
export const listTemplateVersions = forWriters(async (c) => {
  const query = readPageQuery(c.req.url, { cursor: aVersion });
  if (!query.ok) return fail(c, query.error);
  const { limit, cursor } = query.value;
  return stored(c, () =>
    withTemplate(c, async ({ name, labels }) => {
      const rows = await listVersions(c.env.DB, name, cursor, limit + 1);
      const shown = page(
        rows,
        limit,
        ({ version }) => String(version),
        (row) => versionSummary(row, labels),
      );
      return json(c, 200, shown);
    }),
  );
});

/** `GET /admin/templates/:name/versions/:version`, with what it holds. */
export const readTemplateVersion = forWriters((c) =>
  stored(c, () =>
    withTemplate(c, async ({ name, labels }) => {
      const number = aVersion(c.req.param("version") ?? "");
      const found = number.ok ? await versionOf(c, name, number.value) : err(NO_VERSION);
      return found.ok ? json(c, 200, versionView(found.value, labels)) : fail(c, found.error);
    }),
  ),
);

/** `GET /admin/templates/:name/diff?from=&to=`: what has changed, field by field and line by line. */
export const diffTemplate = forWriters(async (c) => {
  const query = readQuery(c.req.url, { from: aVersion, to: aVersion });
  if (!query.ok) return fail(c, query.error);
  const { from, to } = query.value;
  if (from === undefined || to === undefined) {
    return fail(c, { kind: "invalid_request", message: "from, to: both are required" });
  }
  return stored(c, () =>
    withTemplate(c, async ({ name }) => {
      const [before, after] = await Promise.all([versionOf(c, name, from), versionOf(c, name, to)]);
      if (!before.ok) return fail(c, before.error);
      if (!after.ok) return fail(c, after.error);
      return json(c, 200, diffView(name, from, to, diffVersions(before.value.content, after.value.content)));
    }),
  );
});

/** A name that can't be one and an unknown one are the same 404. */
async function withTemplate(c: AppContext, then: (record: TemplateRecord) => Promise<Response>): Promise<Response> {
  const name = c.req.param("name") ?? "";
  const record = TEMPLATE_NAME.test(name) ? await getTemplate(c.env.DB, name) : null;
  return record ? then(record) : fail(c, NO_TEMPLATE);
}

async function versionOf(c: AppContext, name: string, version: number): Promise<Result<VersionRecord, Failure>> {
  const found = await getVersion(c.env.DB, name, version);
  return found ? ok(found) : err(NO_VERSION);
}

/** Repeating the call would publish once more, so it is not told as a failure. */
function noteLate(c: AppContext, { name, newest }: TemplateRecord): void {
  const { requestId } = c.var.call;
  console.error(
    JSON.stringify({ level: "error", msg: "template_late", request_id: requestId, template: name, version: newest }),
  );
}

function badName(): Failure {
  return { kind: "invalid_request", message: "name: must be 1 to 64 of a-z, 0-9, _ and -, the first no _ or -" };
}
