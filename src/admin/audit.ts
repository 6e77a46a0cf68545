/** `/admin/audit`: every authenticated call, newest first, as pages of JSON, or all of them as NDJSON or CSV. */
import type { AuditRecord } from "../audit/record.ts";
import { AUDIT_COLUMNS, readAudit, walkAudit } from "../audit/store.ts";
import { type AppContext, fail, json } from "../context.ts";
import { adminOnly } from "../identity/admin-auth.ts";
import { between, DEFAULT_PAGE, MAX_PAGE, matches, oneOf, readQuery, time } from "../query.ts";
import { csvRow } from "./csv.ts";
import { WORKSPACE } from "./input.ts";
import { KEY_ID } from "./keys.ts";
import { stored } from "./stored.ts";

const REQUEST_ID = /^req_[0-9a-hjkmnp-tv-z]{26}$/;
/** Time and chance, and a tag behind them. */
const CONVERSATION_ID = /^conv_[0-9a-hjkmnp-tv-z]{26}[0-9a-z]{1,64}$/;
/** Rows fetched at once for an export. */
const EXPORT_PAGE = 500;

/** Longest export that can be asked for by number; without one, everything. */
const MAX_EXPORT = 100_000_000;

const FILTERS = {
  key: matches(KEY_ID, "a key id"),
  workspace: matches(WORKSPACE, "a workspace id"),
  model: matches(/^[^\p{Cc}]{1,256}$/u, "a model id"),
  status: between(100, 599),
  outcome: oneOf("complete", "client_gone", "upstream_cut", "error", "unreported"),
  denial: oneOf(
    "requests",
    "input_tokens",
    "output_tokens",
    "concurrency",
    "budget",
    "workspace_requests",
    "workspace_input_tokens",
    "workspace_output_tokens",
    "workspace_concurrency",
    "workspace_budget",
    "ledger",
  ),
  route: matches(/^\/[a-z0-9/_:-]{1,100}$/, "a route, such as /v1/messages"),
  session: matches(/^[^\p{Cc}]{1,200}$/u, "a session id"),
  conversation: matches(CONVERSATION_ID, "a conversation id"),
  from: time,
  to: time,
  cursor: matches(REQUEST_ID, "a cursor from `next_cursor`"),
};

/**
 * `GET /admin/audit`: filters, `limit`, `cursor`. A page may be short and still have a next one: a rare filter looks at so
 * many records per page and no more.
 */
export const listAudit = adminOnly(async (c) => {
  const query = readQuery(c.req.url, { ...FILTERS, limit: between(1, MAX_PAGE) });
  if (!query.ok) return fail(c, query.error);
  const { limit = DEFAULT_PAGE, ...filter } = query.value;
  return stored(c, async () => {
    const { rows, next } = await readAudit(c.env.DB, filter, limit);
    return json(c, 200, { data: rows.map(shown), has_more: next !== null, next_cursor: next });
  });
});

/** `GET /admin/audit.ndjson`: the same filters, one object a line; everything, unless `limit` says how much. */
export const exportAuditNdjson = adminOnly((c) =>
  exported(c, "application/x-ndjson", "ndjson", "", (row) => `${JSON.stringify(shown(row))}\n`),
);

/** `GET /admin/audit.csv`: the same, with a header line; safe to open in a spreadsheet. */
export const exportAuditCsv = adminOnly((c) =>
  exported(c, "text/csv; charset=utf-8", "csv", csvRow(AUDIT_COLUMNS), (row) => csvRow(Object.values(shown(row)))),
);

async function exported(
  c: AppContext,
  contentType: string,
  ending: string,
  head: string,
  line: (row: AuditRecord) => string,
): Promise<Response> {
  const query = readQuery(c.req.url, { ...FILTERS, limit: between(1, MAX_EXPORT) });
  if (!query.ok) return fail(c, query.error);
  const { limit = Number.POSITIVE_INFINITY, ...filter } = query.value;
  const { requestId } = c.var.call;
  const encoder = new TextEncoder();
  const pages = walkAudit(c.env.DB, filter, EXPORT_PAGE, limit);
  return stored(c, async () => {
    // The first page before the status: a database that is down is then a 503 and not a torn file.
    let next = await pages.next();
    let before = head;
    const body = new ReadableStream<Uint8Array>({
      async pull(controller) {
        const text = before + (next.done ? [] : next.value).map(line).join("");
        before = "";
        if (text !== "") controller.enqueue(encoder.encode(text));
        if (next.done) return controller.close();
        try {
          next = await pages.next();
        } catch (error) {
          // The status is out: the file ends torn, which every client notices, and never as if it were complete.
          console.error(
            JSON.stringify({ level: "error", msg: "export_torn", request_id: requestId, error: String(error) }),
          );
          controller.error(new Error("The database failed during the export."));
        }
      },
    });
    return new Response(body, {
      headers: {
        "content-type": contentType,
        "content-disposition": `attachment; filename="audit.${ending}"`,
        "cache-control": "no-store",
        "x-sluice-request-id": requestId,
      },
    });
  });
}

/** A record as it is answered: the time in RFC 3339, flags as booleans. */
function shown(row: AuditRecord) {
  return {
    ...row,
    at: new Date(row.at).toISOString(),
    stream: row.stream === 1,
    estimated: row.estimated === 1,
    drained: row.drained === 1,
    replayed: row.replayed === 1,
  };
}
