/** The control plane inside the Workers runtime: the real routes, on bindings that can be made to fail. */
import { createExecutionContext, waitOnExecutionContext } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { expect } from "vitest";
import { app } from "../../src/app.ts";
import type { AuditRecord } from "../../src/audit/record.ts";
import type { Rules } from "../../src/identity/key-record.ts";
import type { Ledger } from "../../src/ledger/protocol.ts";
import { newId } from "../../src/wire/ids.ts";

export const ADMIN_TOKEN = "admin-token-of-the-tests";

export type Answer = {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
  // biome-ignore lint/suspicious/noExplicitAny: what a test reads out of an answer, it has checked by reading it
  readonly body: any;
};

type Options = {
  readonly method?: string;
  /** Sent as JSON. */
  readonly json?: unknown;
  /** Sent as it is. */
  readonly raw?: string | ReadableStream | null;
  readonly headers?: Record<string, string>;
  /** The credential, if it is not the admin token; null for none. */
  readonly as?: string | null;
  readonly env?: Partial<Env>;
};

/** One call as the Worker gets it; the answer's body is still to be read. */
export async function send(path: string, options: Options = {}): Promise<Response> {
  const { json, raw, as = ADMIN_TOKEN } = options;
  const method = options.method ?? (json !== undefined || raw !== undefined ? "POST" : "GET");
  const request = new Request(`https://gw.test/admin/${path}`, {
    method,
    headers: {
      ...(as === null ? {} : { authorization: `Bearer ${as}` }),
      ...(json === undefined ? {} : { "content-type": "application/json" }),
      ...options.headers,
    },
    ...(json === undefined ? {} : { body: JSON.stringify(json) }),
    ...(raw === undefined || raw === null ? {} : { body: raw }),
  });
  const context = createExecutionContext();
  const response = await app.fetch(request, options.env ? { ...env, ...options.env } : env, context);
  await waitOnExecutionContext(context);
  return response;
}

/** Every text that was answered, for the tests of what must not be in any. */
export const answered: string[] = [];

/** One call and its whole answer. Own answers are never cached, and name their request. */
export async function call(path: string, options: Options = {}): Promise<Answer> {
  const response = await send(path, options);
  const text = await response.text();
  answered.push(text);
  expect(response.headers.get("cache-control")).toBe("no-store");
  expect(response.headers.get("x-sluice-request-id")).toMatch(/^req_/);
  const isJson = response.headers.get("content-type") === "application/json";
  return { status: response.status, headers: response.headers, text, body: isJson ? JSON.parse(text) : undefined };
}

export type MadeKey = { readonly id: string; readonly key: string };

export async function makeKey(fields: Record<string, unknown> = {}, as?: string): Promise<MadeKey> {
  const { status, body } = await call("keys", { json: { name: "test", ...fields }, ...(as ? { as } : {}) });
  expect(status).toBe(201);
  return body;
}

/** The message of an error answer, after a look at its shape. */
export function problem(answer: Answer, status: number, type: string): string {
  expect([answer.status, answer.body?.error?.type]).toEqual([status, type]);
  expect(Object.keys(answer.body)).toEqual(["type", "error", "request_id"]);
  return answer.body.error.message;
}

/**
 * Ledgers whose named method fails as often as given, before and instead of doing anything; counts all calls, and
 * keeps what was put in force, with the ledger's name.
 */
export function ledgers(failing: Partial<Record<"policy" | "putPolicy", number>> = {}, error = new Error("cut")) {
  const left = { policy: 0, putPolicy: 0, ...failing };
  const calls = { policy: 0, putPolicy: 0, stubs: 0 };
  const puts: (readonly [ledger: string, rules: Rules])[] = [];
  const guarded = (name: "policy" | "putPolicy") => {
    calls[name]++;
    if (left[name]-- > 0) throw error;
  };
  const binding = {
    getByName(id: string) {
      calls.stubs++;
      const real = env.KEY_LEDGER.getByName(id) as unknown as Ledger;
      return {
        policy: async () => {
          guarded("policy");
          return real.policy();
        },
        putPolicy: async (rules: Rules) => {
          guarded("putPolicy");
          await real.putPolicy(rules);
          puts.push([id, rules]);
        },
      };
    },
  };
  return { calls, puts, env: { KEY_LEDGER: binding as unknown as Env["KEY_LEDGER"] } };
}

/** A database that fails at the statements that `fails` picks, and remembers all of them. */
export function database(fails: (sql: string, nth: number) => boolean = () => false) {
  const statements: string[] = [];
  const binding = {
    prepare(sql: string) {
      statements.push(sql);
      if (fails(sql, statements.length)) throw new Error(`D1_ERROR: no answer to ${sql}`);
      return env.DB.prepare(sql);
    },
    batch: (statements: D1PreparedStatement[]) => env.DB.batch(statements),
  };
  return { statements, env: { DB: binding as unknown as D1Database } };
}

export const policyOf = (id: string) => (env.KEY_LEDGER.getByName(id) as unknown as Ledger).policy();

/** An audit record of a plain, complete call. */
export function auditRecord(changes: Partial<AuditRecord> = {}): AuditRecord {
  const at = changes.at ?? Date.now();
  return {
    request_id: newId("req", at),
    upstream_request_id: "req_upstream",
    key_id: newId("key", at),
    workspace: "ws_default",
    at,
    route: "/v1/messages",
    method: "POST",
    dialect: "anthropic",
    model_requested: "claude-opus-5-5",
    model: "claude-opus-5-5",
    stream: 1,
    status: 200,
    error_type: null,
    outcome: "complete",
    requests: 1,
    denial: null,
    admission: "lease",
    ledger_ms: 8,
    drained: 0,
    upstream: "up_default",
    attempts: 1,
    cache: null,
    replayed: 0,
    estimated: 0,
    input_tokens: 10,
    output_tokens: 5,
    cache_creation_5m_input_tokens: 1,
    cache_creation_1h_input_tokens: 2,
    cache_read_input_tokens: 3,
    thinking_tokens: 4,
    web_search_requests: 6,
    web_fetch_requests: 7,
    cost_micro_usd: 100,
    ttfb_ms: 50,
    duration_ms: 500,
    stop_reason: "end_turn",
    session_id: null,
    agent_id: null,
    parent_agent_id: null,
    client: "claude-cli/2.0",
    conversation_id: null,
    turn_id: null,
    subject: null,
    template: null,
    template_version: null,
    findings: null,
    chain_seq: null,
    chain_hash: null,
    ...changes,
  };
}
