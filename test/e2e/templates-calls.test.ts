/** Calls in a template's words on the real bundle: everything that a Messages call has, they have. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { MODEL } from "../support/conversations.ts";
import { type Gateway, type Key, startGateway, withKey } from "../support/gateway.ts";
import { startTellingClaude, type TellingClaude } from "../support/telling-claude.ts";

const TEXT = { type: "string" };
const HELP = {
  model: MODEL,
  max_tokens: 100,
  system: [
    { type: "text", text: "Write to ops@example.com when in doubt." },
    { type: "text", text: "You help {{team}}." },
  ],
  messages: [{ role: "user", content: "The file:\n{{file}}" }],
  tools: [{ name: "look", input_schema: { type: "object" } }],
  defaults: { temperature: 0.5 },
  variables: { type: "object", properties: { team: TEXT, file: TEXT }, required: ["team", "file"] },
};

let claude: TellingClaude;
let gateway: Gateway;
let key: Key;
let asked = 0;
/** What no test before has said. */
const ops = () => ({ variables: { team: "Ops", file: `File ${++asked}` } });

beforeAll(async () => {
  claude = await startTellingClaude();
  gateway = await startGateway(claude.url, { bindings: { MAX_ATTEMPTS: "1", LEDGER_DEADLINE_MS: "5000" } });
  key = await gateway.makeKey();
  expect((await gateway.admin("templates/help", { json: HELP })).status).toBe(201);
});
afterAll(async () => {
  await gateway?.stop();
  await claude?.stop();
});

type Asking = {
  readonly as?: { readonly key: string };
  readonly headers?: Record<string, string>;
  readonly name?: string;
};

async function ask(what: "messages" | "render", json: unknown, { as = key, headers = {}, name = "help" }: Asking = {}) {
  const response = await fetch(`${gateway.url}/v1/templates/${name}/${what}`, {
    method: "POST",
    headers: { "x-api-key": as.key, "content-type": "application/json", ...headers },
    body: JSON.stringify(json),
  });
  return { status: response.status, headers: response.headers, text: await response.text() };
}

/** The bytes that arrived at the Claude last. */
const last = (): string => claude.told.at(-1)?.request.body.toString() ?? "";

describe("T-03 what a preview shows is byte for byte what goes upstream", () => {
  it.each([
    ["plain", {}],
    ["in a stream", { stream: true }],
    [
      "with messages of its own, other fields and odd characters",
      {
        ...{ temperature: 1, metadata: { user_id: "u" }, stop_sequences: ['"', "é", "\u2028", "\ud800"], model: MODEL },
        messages: [
          { role: "assistant", content: "Well," },
          { role: "user", content: [{ type: "text", text: "</script>" }] },
        ],
      },
    ],
  ])("%s", async (_, more) => {
    const call = { ...ops(), ...more };
    const shown = await ask("render", call);
    expect([shown.status, shown.headers.get("x-sluice-template")]).toEqual([200, "help@1"]);
    const before = claude.told.length;
    const sent = await ask("messages", call);
    expect([sent.status, sent.headers.get("x-sluice-template")]).toEqual([200, "help@1"]);
    expect(claude.told.length).toBe(before + 1);
    expect(last()).toBe(shown.text);
  });

  it("as guardrails leave it, values and the operator's words alike", async () => {
    const as = await gateway.makeKey({ guardrails: { redact: ["EMAIL"], unmask: true } });
    const call = { variables: { team: "ada@example.org", file: "ops@example.com, bob@example.net" } };
    const shown = await ask("render", call, { as });
    expect(shown.text).not.toMatch(/@example/);
    expect(shown.text).toContain("Write to [EMAIL_1] when in doubt.");
    expect(shown.text).toContain("You help [EMAIL_2].");
    expect(shown.text).toContain("[EMAIL_1], [EMAIL_3]");
    claude.plan = () => ({ say: ["Dear [EMAIL_2]."] });
    const sent = await ask("messages", call, { as });
    expect(last()).toBe(shown.text);
    expect(sent.text).toContain("Dear ada@example.org.");
    const blocking = await gateway.makeKey({ guardrails: { block: ["EMAIL"] } });
    const refused = [await ask("render", call, { as: blocking }), await ask("messages", call, { as: blocking })];
    for (const { status, text } of refused) expect([status, text.includes("@example")]).toEqual([400, false]);
    const [row] = await gateway.rows(as, 1, "/v1/templates/:name/messages");
    expect(row?.findings).toBe('{"EMAIL":4}');
    claude.plan = () => ({ say: ["Fine."] });
  });
});

describe("a call", () => {
  it("has its idempotency key: the same answer, once made, streams included", async () => {
    for (const stream of [false, true]) {
      const headers = { "idempotency-key": `once-${stream}` };
      const call = { ...ops(), stream };
      const before = claude.told.length;
      const [first, second] = [await ask("messages", call, { headers }), await ask("messages", call, { headers })];
      expect([first.status, second.status, second.headers.get("idempotent-replayed")]).toEqual([200, 200, "true"]);
      expect(second.text).toBe(first.text);
      expect(claude.told.length).toBe(before + 1);
      expect((await ask("messages", { ...ops(), stream }, { headers })).status).toBe(422);
    }
  });

  it("finds what the response cache has for the same words, and for the same body of nobody's", async () => {
    const headers = { "x-sluice-cache": "ttl=300" };
    const call = ops();
    const cacheOf = async (json: unknown) => (await ask("messages", json, { headers })).headers.get("x-sluice-cache");
    expect([await cacheOf(call), await cacheOf(call), await cacheOf(ops())]).toEqual(["miss", "hit", "miss"]);
  });

  it("is kept to its key's budget, limits and models, and to its token's", async () => {
    const poor = await gateway.makeKey({ budget: { usd: 0.000001, period: "total", mode: "strict" } });
    expect((await ask("messages", ops(), { as: poor })).status).toBe(429);
    // A preview costs nothing.
    expect((await ask("render", ops(), { as: poor })).status).toBe(200);
    const few = await gateway.makeKey({ limits: { requests_per_minute: 2 } });
    const statuses = [];
    for (const what of ["render", "messages", "render"] as const)
      statuses.push((await ask(what, ops(), { as: few })).status);
    expect(statuses).toEqual([200, 200, 429]);
    const token = async (fields: object) => {
      const made = await fetch(`${gateway.url}/v1/token`, {
        method: "POST",
        headers: withKey(key),
        body: JSON.stringify(fields),
      });
      const { token } = (await made.json()) as { token: string };
      expect(made.status).toBe(201);
      return { key: token };
    };
    const haiku = await token({ models: ["claude-haiku-*"] });
    for (const what of ["render", "messages"] as const) {
      expect((await ask(what, ops(), { as: haiku })).status).toBe(403);
      const model = "claude-haiku-4-5";
      expect((await ask(what, { ...ops(), model }, { as: haiku })).status).toBe(200);
    }
    expect((await ask("render", ops(), { as: await token({ scopes: ["messages"] }) })).status).toBe(403);
    expect((await ask("render", ops(), { as: await token({ scopes: ["templates:read"] }) })).status).toBe(200);
  });

  it("is found in the audit by its template", async () => {
    const as = await gateway.makeKey();
    expect((await gateway.admin("templates/other", { json: HELP })).status).toBe(201);
    await ask("messages", ops(), { as });
    await ask("messages", ops(), { as, name: "other" });
    await gateway.audit(as, 2);
    const found = await gateway.admin(`audit?key=${as.id}&template=other`);
    const { data } = (await found.json()) as { data: { template: string; template_version: number }[] };
    expect(data.map((row) => [row.template, row.template_version])).toEqual([["other", 1]]);
  });

  it("T-02 of a template that is none, is archived or is another workspace's is the same 404, byte for byte", async () => {
    for (const name of ["archived", "theirs"]) {
      expect((await gateway.admin(`templates/${name}`, { json: HELP })).status).toBe(201);
    }
    const change = (name: string, json: object) => gateway.admin(`templates/${name}`, { method: "PATCH", json });
    expect((await change("archived", { state: "archived" })).status).toBe(200);
    expect((await change("theirs", { workspaces: ["ws_theirs"] })).status).toBe(200);
    for (const what of ["render", "messages"] as const) {
      const wishes = [{}, { version: 1 }, { version: 9 }, { label: "canary" }, { variables: 3, system: "mine" }];
      const seen = new Set<string>();
      for (const name of ["none", "archived", "theirs", "NO-NAME", "__proto__", "%2e%2e%2fhelp", "a".repeat(300)]) {
        for (const wish of wishes) {
          const { status, text, headers } = await ask(what, { ...ops(), ...wish }, { name });
          const request = headers.get("x-sluice-request-id") ?? "?";
          const names = [...headers.keys()].filter((name) => !name.startsWith("anthropic-ratelimit"));
          seen.add([status, text.replaceAll(request, ""), ...names].join("\n"));
        }
      }
      expect([...seen]).toHaveLength(1);
      expect([...seen][0]).toContain("404\n");
    }
  });

  it("is made by POST and by nothing else", async () => {
    for (const what of ["render", "messages"]) {
      for (const method of ["GET", "HEAD", "PUT", "PATCH", "DELETE"]) {
        const response = await fetch(`${gateway.url}/v1/templates/help/${what}`, { method, headers: withKey(key) });
        expect([method, response.status]).toEqual([method, 405]);
        expect(response.headers.get("allow")).toContain("POST");
      }
    }
    const other = await fetch(`${gateway.url}/v1/templates/help/other`, {
      method: "POST",
      headers: withKey(key),
      body: "{}",
    });
    expect(other.status).toBe(404);
  });
});
