import { DENIALS, OUTCOMES } from "../../audit/record.ts";
import { answer, type Operation, PAGE, type Parameter, type Tag } from "../operation.ts";
import { between, flag, list, number, object, oneOf, orNull, pageOf, ref, text, time, whole } from "../schema.ts";

const spanned = {
  from: { schema: time, description: "Inclusive.", example: "2026-11-21T00:00:00Z" },
  to: { schema: time, description: "Exclusive.", example: "2026-11-22T00:00:00Z" },
};
const key: Parameter = { schema: text, example: "key_01m7yvn10kkhtpy2favmpcatn2" };
const denial = oneOf(...DENIALS);
const outcome = oneOf(...OUTCOMES);
const filters: Readonly<Record<string, Parameter>> = {
  key,
  workspace: { schema: text, example: "ws_default" },
  model: { schema: text, example: "claude-opus-5-5" },
  status: { schema: between(100, 599), example: 429 },
  outcome: { schema: outcome, example: "error" },
  denial: { schema: denial, example: "budget" },
  route: { schema: text, example: "/v1/messages" },
  session: { schema: text, example: "session-1" },
  conversation: { schema: text, example: "conv_01m80dm6nnc2xdfymvrfefn39v5k2q8r1s0t9v7w0x" },
  template: { schema: text, example: "support" },
  ...spanned,
  cursor: PAGE.cursor ?? { schema: text },
};
const exported = (type: string): Operation["answers"] => ({
  200: { description: "A file with everything.", content: { [type]: { schema: text } } },
});
const exportLimit: Parameter = {
  schema: between(1, 100_000_000),
  description: "How many; all unless it is said.",
  example: 10,
};
const counts = {
  requests: whole,
  input_tokens: whole,
  output_tokens: whole,
  cache_creation_5m_input_tokens: whole,
  cache_creation_1h_input_tokens: whole,
  cache_read_input_tokens: whole,
  thinking_tokens: whole,
  web_search_requests: whole,
  web_fetch_requests: whole,
  cost_micro_usd: whole,
};

export const audit: Tag = {
  name: "Audit",
  description: "Who called, who changed what, what it cost.",
  docs: "docs/api.md#audit",
  operations: [
    {
      id: "listAudit",
      route: "GET /admin/audit",
      summary: "One row per call, newest first",
      description: "A page may be short, even empty, and still have a next one.",
      query: { ...filters, limit: PAGE.limit ?? { schema: whole } },
      answers: { 200: answer("A page of them.", pageOf(ref("AuditRow"))) },
    },
    {
      id: "exportAuditNdjson",
      route: "GET /admin/audit.ndjson",
      summary: "The same, one object a line",
      query: { ...filters, limit: exportLimit },
      answers: exported("application/x-ndjson"),
    },
    {
      id: "exportAuditCsv",
      route: "GET /admin/audit.csv",
      summary: "The same, with a header line",
      query: { ...filters, limit: exportLimit },
      answers: exported("text/csv"),
    },
    {
      id: "verifyAudit",
      route: "GET /admin/audit/verify",
      summary: "Walks the chain of a key's rows and names the first link that does not hold",
      query: {
        key: { ...key, required: true },
        from: { schema: between(1, 999_999_999), description: "The number to begin with.", example: 1 },
        limit: { schema: { ...between(1, 5_000), default: 1_000 }, example: 1000 },
        cursor: { schema: text, description: "`next_cursor` of the walk before.", example: "1000" },
      },
      answers: {
        200: answer("How far it holds.", ref("ChainWalk"), {
          key: "key_01m7yvn10kkhtpy2favmpcatn2",
          verified: 411,
          first_seq: 1,
          last_seq: 411,
          ok: false,
          broken: { chain_seq: 412, request_id: null, reason: "missing" },
          tail: "compared",
          kept_from: null,
          next_cursor: null,
        }),
      },
    },
    {
      id: "listChanges",
      route: "GET /admin/changes",
      summary: "Who changed what, the last first",
      query: {
        kind: { schema: text, example: "key" },
        target: { schema: text, example: "key_01m7yvn10kkhtpy2favmpcatn2" },
        actor: { schema: text, example: "admin-token" },
        ...spanned,
        ...PAGE,
      },
      answers: { 200: answer("A page of them.", pageOf(ref("Change"))) },
    },
    {
      id: "listUsage",
      route: "GET /admin/usage",
      summary: "Sums; the last thirty days unless a span is given",
      query: {
        group_by: {
          schema: { ...text, default: "key" },
          description: "Of `key`, `workspace`, `model`, `day`, with commas between them.",
          example: "key,model",
        },
        ...spanned,
        key,
        workspace: { schema: text, example: "ws_default" },
      },
      answers: {
        200: answer(
          "At most 1,000 groups, the dearest first.",
          object({ from: time, to: time, data: list(ref("UsageRow")), has_more: flag, next_cursor: { type: "null" } }),
        ),
      },
    },
  ],
  schemas: {
    AuditRow: object({
      request_id: text,
      upstream_request_id: orNull(text),
      key_id: text,
      workspace: text,
      at: time,
      route: text,
      method: text,
      dialect: oneOf("anthropic", "openai"),
      model_requested: orNull(text),
      model: orNull(text),
      stream: flag,
      status: whole,
      error_type: orNull(text),
      outcome,
      denial: orNull(denial),
      admission: orNull(oneOf("lease", "ledger", "fail_open")),
      upstream: orNull(text),
      attempts: whole,
      cache: orNull(oneOf("hit", "miss", "bypass")),
      replayed: flag,
      ledger_ms: orNull(number),
      drained: flag,
      estimated: flag,
      ...counts,
      ttfb_ms: orNull(number),
      duration_ms: number,
      stop_reason: orNull(text),
      session_id: orNull(text),
      agent_id: orNull(text),
      parent_agent_id: orNull(text),
      client: orNull(text),
      conversation_id: orNull(text),
      turn_id: orNull(text),
      subject: orNull(text),
      template: orNull(text),
      template_version: orNull(whole),
      findings: { ...orNull(text), description: "JSON text: counts per type." },
      chain_seq: orNull(whole),
      chain_hash: orNull(text),
    }),
    ChainWalk: object({
      key: text,
      verified: whole,
      first_seq: orNull(whole),
      last_seq: orNull(whole),
      ok: flag,
      broken: orNull(
        object({
          chain_seq: orNull(whole),
          request_id: orNull(text),
          reason: oneOf("hash", "missing", "repeated", "unchained"),
        }),
      ),
      tail: oneOf("compared", "ahead", "unknown"),
      kept_from: orNull(time),
      next_cursor: orNull(text),
    }),
    Change: object({
      id: text,
      at: time,
      actor: text,
      action: text,
      kind: text,
      target: text,
      before: orNull({ type: "object" }),
      after: orNull({ type: "object" }),
      request_id: orNull(text),
    }),
    UsageRow: object(
      { ...counts, errors: whole, unreported: whole, estimated: whole },
      { key_id: text, workspace: text, model: text, day: text },
    ),
  },
};
