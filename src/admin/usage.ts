/** `GET /admin/usage?group_by=key|workspace|model|day&from=&to=`: who spent what. */
import { sumUsage, USAGE_GROUPS, type UsageGroup } from "../audit/usage.ts";
import { fail, json } from "../context.ts";
import { adminOnly } from "../identity/admin-auth.ts";
import { WORKSPACE } from "../identity/fields.ts";
import { matches, readQuery, time } from "../query.ts";
import { err, ok, type Result } from "../result.ts";
import { KEY_ID } from "./keys.ts";
import { stored } from "./stored.ts";

/** Without `from`: the last thirty days. */
const DEFAULT_SPAN_MS = 30 * 24 * 60 * 60 * 1000;
const MAX_GROUPS = 1_000;

/** One name, or several with commas between them. */
function groups(text: string): Result<UsageGroup[], string> {
  const names = text.split(",");
  const known = USAGE_GROUPS.filter((group) => names.includes(group));
  return known.length === names.length ? ok(known) : err(`must be of ${USAGE_GROUPS.join(", ")}, each at most once`);
}

/**
 * Sums of requests, tokens and cost per group, the dearest first; days in their order. `from` and `to` of the answer are
 * what was summed: an end whose audit rows are deleted already is moved out to the whole hour.
 */
export const listUsage = adminOnly(async (c) => {
  const { startedAt } = c.var.call;
  const query = readQuery(c.req.url, {
    group_by: groups,
    from: time,
    to: time,
    key: matches(KEY_ID, "a key id"),
    workspace: matches(WORKSPACE, "a workspace id"),
  });
  if (!query.ok) return fail(c, query.error);
  const { group_by = ["key"], to = startedAt + 1, ...filter } = query.value;
  const from = filter.from ?? to - DEFAULT_SPAN_MS;
  return stored(c, async () => {
    const usage = await sumUsage(c.env.DB, group_by, { ...filter, from, to }, MAX_GROUPS + 1);
    return json(c, 200, {
      from: new Date(usage.from).toISOString(),
      to: new Date(usage.to).toISOString(),
      data: usage.rows.slice(0, MAX_GROUPS),
      has_more: usage.rows.length > MAX_GROUPS,
      next_cursor: null,
    });
  });
});
