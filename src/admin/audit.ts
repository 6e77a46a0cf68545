/** `/admin/audit`: every authenticated call, newest first, as pages of JSON, or all of them as NDJSON or CSV. */
import type { ChainKeeper } from "../audit/chain.ts";
import { type AuditRecord, DENIALS, OUTCOMES } from "../audit/record.ts";
import { AUDIT_COLUMNS, readAudit, walkAudit } from "../audit/store.ts";
import { verifyChain } from "../audit/verify.ts";
import { type AppContext, fail, json } from "../context.ts";
import { adminOnly, reach } from "../identity/admin-auth.ts";
import { WORKSPACE } from "../identity/fields.ts";
import { between, cursorOf, matches, oneOf, readPageQuery, readQuery, time } from "../query.ts";
import { TEMPLATE_NAME } from "../templates/content.ts";
import { csvRow } from "./csv.ts";
import { KEY_ID } from "./keys.ts";
import { rfc3339, stored } from "./stored.ts";

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
  outcome: oneOf(...OUTCOMES),
  denial: oneOf(...DENIALS),
  route: matches(/^\/[a-z0-9/_:-]{1,100}$/, "a route, such as /v1/messages"),
  session: matches(/^[^\p{Cc}]{1,200}$/u, "a session id"),
  conversation: matches(CONVERSATION_ID, "a conversation id"),
  template: matches(TEMPLATE_NAME, "a template's name"),
  from: time,
  to: time,
  cursor: cursorOf(REQUEST_ID),
};

/**
 * `GET /admin/audit`: filters, `limit`, `cursor`. A page may be short and still have a next one: a rare filter looks at so
 * many records per page and no more.
 */
export const listAudit = adminOnly(async (c) => {
  const query = readPageQuery(c.req.url, FILTERS);
  if (!query.ok) return fail(c, query.error);
  const { limit, ...filter } = query.value;
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

/** Rows that one call looks at: some 50 µs each, D1 included. */
const DEFAULT_WALK = 1_000;
const MAX_WALK = 5_000;
const MAX_SEQ = 999_999_999;

/**
 * `GET /admin/audit/verify?key=&from=&limit=&cursor=`: walks the chain of a key's rows, `limit` of them a call, from the
 * number `from` or behind the one that `cursor` names. `tail` says whether the end was compared with what the key's ledger
 * knows: `unknown` if the ledger could not be asked, `ahead` if the walk has not come so far.
 */
export const verifyAudit = adminOnly(async (c) => {
  const query = readQuery(c.req.url, {
    key: matches(KEY_ID, "a key id"),
    from: between(1, MAX_SEQ),
    limit: between(1, MAX_WALK),
    cursor: between(1, MAX_SEQ),
  });
  if (!query.ok) return fail(c, query.error);
  const { key, limit = DEFAULT_WALK, cursor } = query.value;
  if (key === undefined) return fail(c, { kind: "invalid_request", message: "key: Field required" });
  const from = cursor === undefined ? (query.value.from ?? 1) : cursor + 1;
  // Asked first: what the ledger knows to be stored must be found after.
  const asked = await reach(c, { msg: "ledger_failed", ledger: key }, () =>
    (c.env.KEY_LEDGER.getByName(key) as unknown as ChainKeeper).chainEnd(key),
  );
  const end = asked.ok ? asked.value : undefined;
  return stored(c, async () => {
    const walk = await verifyChain(c.env.DB, key, from, limit, end);
    return json(c, 200, {
      key,
      verified: walk.verified,
      first_seq: walk.first,
      last_seq: walk.last,
      ok: walk.broken === null,
      broken: walk.broken,
      tail: walk.more ? "ahead" : end === undefined ? "unknown" : "compared",
      kept_from: rfc3339(walk.keptFrom || null),
      next_cursor: walk.more ? String(walk.last) : null,
    });
  });
});

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
