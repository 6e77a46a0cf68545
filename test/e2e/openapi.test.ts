/** `/openapi.json` of the real bundle: a valid document, and true of what the main routes answer. */
import { Validator } from "@seriousme/openapi-schema-validator";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type LocalWorker, startLocalWorker } from "../../scripts/local-runtime.ts";
import { asFields, type Fields, misfits, shapeOf } from "../openapi/shapes.ts";
import { ADMIN_TOKEN, type Gateway, startGateway } from "../support/gateway.ts";

let simulator: LocalWorker;
let gateway: Gateway;
let description: Fields;
let key: { readonly id: string; readonly key: string };

beforeAll(async () => {
  simulator = await startLocalWorker({ config: "simulator/wrangler.toml", bundle: "dist/simulator", onLog: () => {} });
  gateway = await startGateway(simulator.url, { bindings: { LEDGER_DEADLINE_MS: "5000" } });
  const budget = { usd: 5, period: "day" };
  const limits = { requests_per_minute: 1_000, concurrent_requests: 10, max_request_bytes: 1_000_000 };
  const scopes = ["messages", "conversations", "templates:read", "batches", "files"];
  key = await gateway.makeKey({ name: "described", scopes, budget, limits, guardrails: { redact: ["EMAIL"] } });
  description = asFields(await (await fetch(`${gateway.url}/openapi.json`)).json());
});
afterAll(async () => {
  await gateway?.stop();
  await simulator?.stop();
});

type Sent = { readonly as?: string | null; readonly json?: unknown; readonly headers?: Record<string, string> };

/** `path` as the description has it, `filled` what stands for its parts and what comes behind. Returns the answer's body. */
async function asked(method: string, path: string, status: number, filled: readonly string[] = [], sent: Sent = {}) {
  const { as = path.startsWith("/admin/") ? ADMIN_TOKEN : key.key, json, headers } = sent;
  let next = 0;
  const address = path.replace(/\{\w+\}/g, () => filled[next++] ?? "") + filled.slice(next).join("");
  const response = await fetch(gateway.url + address, {
    method,
    headers: {
      "anthropic-version": "2023-06-01",
      ...(as === null ? {} : { authorization: `Bearer ${as}` }),
      ...(json === undefined ? {} : { "content-type": "application/json" }),
      ...headers,
    },
    ...(json === undefined ? {} : { body: JSON.stringify(json) }),
  });
  const body: unknown = await response.json();
  expect([method, path, response.status, JSON.stringify(body).slice(0, 300)]).toEqual([
    method,
    path,
    status,
    expect.anything(),
  ]);
  const schema = shapeOf(description, method, path, status);
  expect(schema, `${method} ${path} ${status} is described`).toBeDefined();
  expect(misfits(description, schema, body), `${method} ${path} ${status}`).toEqual([]);
  return asFields(body);
}

const HELLO = { model: "claude-opus-5-5", max_tokens: 50, messages: [{ role: "user", content: "Hello!" }] };

describe("/openapi.json", () => {
  it("is a valid document of OpenAPI 3.1", async () => {
    const { valid, errors } = await new Validator().validate(structuredClone(description));
    expect(errors ?? []).toEqual([]);
    expect(valid).toBe(true);
    expect(description.openapi).toMatch(/^3\.1\./);
  });

  it("is open to everybody, to pages of any origin too, and may be kept", async () => {
    const response = await fetch(`${gateway.url}/openapi.json`, { headers: { origin: "https://docs.example" } });
    await response.body?.cancel();
    expect([response.status, Object.fromEntries(response.headers)]).toMatchObject([
      200,
      {
        "content-type": "application/json",
        "cache-control": "public, max-age=300",
        "access-control-allow-origin": "*",
        "x-content-type-options": "nosniff",
        "x-sluice-request-id": expect.stringMatching(/^req_/),
        etag: expect.any(String),
      },
    ]);
    expect(response.headers.has("access-control-allow-credentials")).toBe(false);
    const known = { "if-none-match": response.headers.get("etag") ?? "" };
    expect((await fetch(`${gateway.url}/openapi.json`, { headers: known })).status).toBe(304);
    expect((await fetch(`${gateway.url}/openapi.json`, { method: "HEAD" })).status).toBe(200);
    expect((await fetch(`${gateway.url}/openapi.json`, { method: "POST" })).status).toBe(405);
  });
});

describe("answers are as they are described", () => {
  it("calls, in both dialects", async () => {
    await asked("POST", "/v1/messages", 200, [], { json: HELLO });
    await asked("POST", "/v1/messages/count_tokens", 200, [], {
      json: { model: HELLO.model, messages: HELLO.messages },
    });
    await asked("GET", "/v1/models", 200);
    await asked("GET", "/v1/models/{id}", 200, ["claude-opus-5-5"]);
    await asked("POST", "/v1/chat/completions", 200, [], { json: { model: "opus", messages: HELLO.messages } });
    const { id } = await asked("POST", "/v1/responses", 200, [], { json: { model: "opus", input: "Hello!" } });
    await asked("GET", "/v1/responses/{id}", 200, [String(id)]);
    await asked("GET", "/v1/responses/{id}/input_items", 200, [String(id)]);
    await asked("DELETE", "/v1/responses/{id}", 200, [String(id)]);
    const requests = [{ custom_id: "a", params: HELLO }];
    const batch = await asked("POST", "/v1/messages/batches", 200, [], { json: { requests } });
    await asked("GET", "/v1/messages/batches/{id}", 200, [String(batch.id)]);
    await asked("GET", "/v1/messages/batches", 200);
    await asked("GET", "/v1/files", 200);
  });

  it("keys and tokens", async () => {
    await asked("GET", "/v1/key", 200);
    const { token } = await asked("POST", "/v1/token", 201, [], {
      json: { scopes: ["messages"], models: ["claude-*"] },
    });
    await asked("GET", "/v1/key", 200, [], { as: String(token) });
    await asked("GET", "/.well-known/jwks.json", 200);
    const made = await asked("POST", "/admin/keys", 201, [], {
      json: { name: "k", aliases: { a: "opus(high)" }, metadata: { a: "b" }, expires_at: "2099-01-01T00:00:00Z" },
    });
    const id = [String(made.id)];
    await asked("GET", "/admin/keys", 200);
    await asked("GET", "/admin/keys/{id}", 200, id);
    await asked("PATCH", "/admin/keys/{id}", 200, id, { json: { budget: { usd: 1, period: "total" } } });
    await asked("POST", "/admin/keys/{id}/rotate", 200, id, { json: { grace_seconds: 60 } });
    await asked("DELETE", "/admin/keys/{id}", 200, id);
    await asked("POST", "/admin/workspaces", 201, [], {
      json: { id: "ws_described", name: "w", guardrails: { mode: "audit" } },
    });
    await asked("GET", "/admin/workspaces", 200);
    await asked("POST", "/admin/workspaces/{id}/cache/purge", 200, ["ws_described"]);
  });

  it("templates", async () => {
    const version = {
      model: HELLO.model,
      max_tokens: 50,
      system: "You know {{product}}.\nBe brief.",
      variables: { properties: { product: { type: "string" } }, required: ["product"] },
      labels: ["production"],
    };
    await asked("POST", "/admin/templates/{name}", 201, ["described"], { json: version });
    const second = { ...version, system: "You know {{product}} well.\nBe brief.", note: "second" };
    await asked("POST", "/admin/templates/{name}", 201, ["described"], { json: second });
    const labels = {
      production: 1,
      canary: [
        { version: 1, weight: 9 },
        { version: 2, weight: 1 },
      ],
    };
    await asked("PATCH", "/admin/templates/{name}", 200, ["described"], { json: { labels } });
    await asked("GET", "/admin/templates", 200);
    await asked("GET", "/admin/templates/{name}", 200, ["described"]);
    await asked("GET", "/admin/templates/{name}/versions", 200, ["described"]);
    await asked("GET", "/admin/templates/{name}/versions/{version}", 200, ["described", "2"]);
    await asked("GET", "/admin/templates/{name}/diff", 200, ["described", "?from=1&to=2"]);
    const json = { variables: { product: "tea" }, messages: HELLO.messages };
    await asked("POST", "/v1/templates/{name}/render", 200, ["described"], { json });
    await asked("POST", "/v1/templates/{name}/messages", 200, ["described"], { json });
    await asked("POST", "/v1/templates/{name}/render", 400, ["described"], { json: { variables: {} } });
    await asked("POST", "/v1/templates/{name}/render", 404, ["nothing"], { json });
  });

  it("conversations", async () => {
    const { id } = await asked("POST", "/v1/conversations", 201, [], {
      json: { template: { name: "described", variables: { product: "tea" } }, metadata: { a: "b" } },
    });
    const one = [String(id)];
    await asked("POST", "/v1/conversations/{id}/messages", 200, one, { json: { content: "Hello!" } });
    await asked("GET", "/v1/conversations/{id}", 200, one);
    await asked("GET", "/v1/conversations/{id}/messages", 200, one);
    await asked("GET", "/v1/conversations", 200);
    await asked("PATCH", "/v1/conversations/{id}", 200, one, { json: { max_tokens: 60 } });
    await asked("POST", "/v1/conversations/{id}/cancel", 200, one);
    await asked("GET", "/v1/conversations/{id}/export", 200, one);
    await asked("DELETE", "/v1/conversations/{id}", 200, one);
    await asked("GET", "/v1/conversations/{id}", 404, one);
  });

  it("issuers, upstreams, sessions and prices", async () => {
    const issuer = {
      name: "described",
      issuer: "https://issuer.example",
      audiences: ["sluice"],
      secret: "a secret that two parties have in common",
      mappings: [{ when: { sub: ["a*", "b"] }, key: key.id, scopes: ["messages"], models: ["claude-*"] }],
    };
    const { id } = await asked("POST", "/admin/issuers", 201, [], { json: issuer });
    const one = [String(id)];
    await asked("GET", "/admin/issuers", 200);
    await asked("GET", "/admin/issuers/{id}", 200, one);
    await asked("PATCH", "/admin/issuers/{id}", 200, one, { json: { blocked_subjects: ["mallory"] } });
    await asked("POST", "/admin/issuers/{id}/test", 200, one, { json: { token: "no.token.atall" } });
    await asked("DELETE", "/admin/issuers/{id}", 200, one);
    await asked("GET", "/admin/upstreams", 200);
    const json = { name: "described", base_url: simulator.url, api_key: "sk-ant-CANARY-0123" };
    const upstream = [String((await asked("POST", "/admin/upstreams", 201, [], { json })).id)];
    await asked("POST", "/admin/upstreams/{id}/test", 200, upstream);
    await asked("DELETE", "/admin/upstreams/{id}", 200, upstream);
    await asked("POST", "/admin/upstreams/reseal", 200);
    await asked("POST", "/admin/session", 201);
    await asked("GET", "/admin/session", 200);
    await asked("GET", "/admin/sessions", 200);
    await asked("GET", "/admin/prices", 200);
  });

  it("changes, audit, usage and health", async () => {
    await asked("GET", "/admin/changes", 200, ["?limit=500"]);
    await gateway.audit(key, 10);
    await asked("GET", "/admin/audit", 200, ["?limit=500"]);
    await asked("GET", "/admin/audit/verify", 200, [`?key=${key.id}`]);
    await asked("GET", "/admin/usage", 200, ["?group_by=key,workspace,model,day"]);
    await asked("GET", "/health", 200);
  });

  it("failures, in both dialects", async () => {
    const stranger = { as: "sk-sluice-nobody" };
    await asked("POST", "/v1/messages", 401, [], { ...stranger, json: HELLO });
    await asked("POST", "/v1/chat/completions", 401, [], { ...stranger, json: HELLO });
    await asked("GET", "/v1/models", 401, [], stranger);
    await asked("GET", "/admin/keys", 401, [], stranger);
    await asked("GET", "/admin/keys", 403, [], { as: key.key });
    await asked("POST", "/v1/messages", 400, [], { json: {} });
    await asked("POST", "/v1/messages", 413, [], { json: { ...HELLO, system: "x".repeat(1_000_001) } });
    await asked("POST", "/v1/messages", 415, [], { json: HELLO, headers: { "content-type": "text/plain" } });
    await asked("POST", "/v1/chat/completions", 400, [], { json: { model: "opus" } });
    await asked("GET", "/v1/models/{id}", 404, ["gpt-nothing"]);
    await asked("POST", "/v1/token", 403, [], { json: { scopes: ["admin"] } });
    await asked("GET", "/admin/keys", 400, ["?nonsense=1"]);
    await asked("GET", "/admin/issuers/{id}", 404, ["iss_nothing"]);
  });
});
