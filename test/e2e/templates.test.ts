/** Templates on the real bundle: calls, streams and conversations in their words, and a rollback that callers see. */
import Anthropic from "@anthropic-ai/sdk";
import { afterAll, beforeAll, expect, it } from "vitest";
import { MODEL, type Talk, talk } from "../support/conversations.ts";
import { type Gateway, type Key, startGateway, withKey } from "../support/gateway.ts";
import { startTellingClaude, type TellingClaude } from "../support/telling-claude.ts";

const HELP = {
  model: MODEL,
  max_tokens: 100,
  system: "You help {{team}}.",
  variables: { type: "object", properties: { team: { type: "string" } }, required: ["team"] },
};
const OPS = { variables: { team: "Ops" } };

let claude: TellingClaude;
let gateway: Gateway;
let key: Key;
let mine: Talk;

beforeAll(async () => {
  claude = await startTellingClaude();
  gateway = await startGateway(claude.url, { bindings: { LEDGER_DEADLINE_MS: "5000" } });
  key = await gateway.makeKey();
  mine = talk(gateway.url, key);
  for (const max_tokens of [100, 200]) {
    const response = await gateway.admin("templates/help", { json: { ...HELP, max_tokens, labels: ["production"] } });
    expect(response.status).toBe(201);
  }
});
afterAll(async () => {
  await gateway?.stop();
  await claude?.stop();
});

const ask = (what: string, json: object) =>
  fetch(`${gateway.url}/v1/templates/help/${what}`, {
    method: "POST",
    headers: withKey(key, { "content-type": "application/json" }),
    body: JSON.stringify(json),
  });

it("an SDK calls and streams in a template's words, rollback included, and the audit names the version", async () => {
  const client = new Anthropic({ baseURL: gateway.url, apiKey: key.key, maxRetries: 0 });
  const body = { ...OPS, messages: [{ role: "user", content: "Hi" }] };
  const message = await client.post<Anthropic.Message>("/v1/templates/help/messages", { body });
  expect(message.content[0]).toMatchObject({ type: "text" });

  const back = await gateway.admin("templates/help", { method: "PATCH", json: { labels: { production: 1 } } });
  expect(back.status).toBe(200);
  const shown = await ask("render", body);
  expect([shown.headers.get("x-sluice-template"), await shown.json()]).toMatchObject([
    "help@1",
    { max_tokens: 100, system: "You help Ops." },
  ]);
  const streamed = await ask("messages", { ...body, stream: true });
  expect(streamed.headers.get("x-sluice-template")).toBe("help@1");
  expect(await streamed.text()).toContain("event: message_stop");

  const rows = await gateway.rows(key, 2, "/v1/templates/:name/messages");
  expect(rows.map((row) => [row.template, row.template_version, row.stream, row.outcome])).toEqual([
    ["help", 2, false, "complete"],
    ["help", 1, true, "complete"],
  ]);
});

it("a call goes out under the version of the API that its caller names, or else under the usual one", async () => {
  const versions: unknown[] = [];
  for (const [i, headers] of [{}, { "anthropic-version": "2026-10-21" }].entries()) {
    const response = await fetch(`${gateway.url}/v1/templates/help/messages`, {
      method: "POST",
      headers: { "x-api-key": key.key, "content-type": "application/json", ...headers },
      body: JSON.stringify({ ...OPS, messages: [{ role: "user", content: `Version ${i}` }], stream: true }),
    });
    expect([response.status, await response.text()]).toEqual([200, expect.stringContaining("message_stop")]);
    const [told] = claude.of(`Version ${i}`);
    versions.push(told?.request.headers.filter(([name]) => name === "anthropic-version"));
  }
  expect(versions).toEqual([[["anthropic-version", "2023-06-01"]], [["anthropic-version", "2026-10-21"]]]);
});

it("a conversation begins with a template, stays with its version, and keeps what is the operator's", async () => {
  const made = await mine.create({ template: { name: "help", version: 1, ...OPS }, model: undefined });
  expect(made).toMatchObject({
    model: MODEL,
    system: "You help Ops.",
    max_tokens: 100,
    template: { name: "help", version: 1 },
  });
  const turn = await mine.send(made.id, "Hello");
  expect([turn.status, turn.json.state]).toEqual([200, "completed"]);
  const [row] = await gateway.rows(key, 1, "/v1/conversations/:id/turn");
  expect([row?.template, row?.template_version, row?.conversation_id]).toEqual(["help", 1, made.id]);

  const one = `/v1/conversations/${made.id}`;
  const refused = [
    await mine.call("PATCH", one, { system: "mine" }),
    await mine.call("PATCH", one, { tools: [] }),
    await mine.call("PATCH", one, { options: { mcp_servers: [] } }),
    await mine.send(made.id, { content: "x", options: { tools: [] } }),
    await mine.call("POST", "/v1/conversations", { template: { name: "help", ...OPS }, tools: [] }),
    await mine.call("POST", "/v1/conversations", { template: { name: "help", ...OPS }, system: "mine" }),
    await mine.call("POST", "/v1/conversations", { template: { name: "help" } }),
  ];
  expect(refused.map(({ status }) => status)).toEqual(Array(7).fill(400));
  expect((await mine.call("PATCH", one, { max_tokens: 50 })).json).toMatchObject({
    template: { name: "help", version: 1 },
  });
  expect((await mine.call("POST", "/v1/conversations", { template: { name: "none" } })).status).toBe(404);
  const talker = talk(gateway.url, await gateway.makeKey({ scopes: ["conversations"] }));
  expect((await talker.call("POST", "/v1/conversations", { template: { name: "help", ...OPS } })).status).toBe(403);
});

it("nobody sets in a conversation what its template keeps, by whatever way it is said", async () => {
  const strict = {
    ...HELP,
    operator: ["model", "max_tokens", "system", "tools", "temperature"],
    defaults: { temperature: 0.5 },
  };
  expect((await gateway.admin("templates/strict", { json: strict })).status).toBe(201);
  const begin = { template: { name: "strict", ...OPS }, model: undefined };
  const { id } = await mine.create(begin);
  const said = { content: "x" };
  const refused = [
    await mine.call("POST", "/v1/conversations", { ...begin, model: MODEL }),
    await mine.call("POST", "/v1/conversations", { ...begin, max_tokens: 5 }),
    await mine.call("POST", "/v1/conversations", { ...begin, options: { temperature: 1 } }),
    ...(await Promise.all(
      [{ model: MODEL }, { max_tokens: 5 }, { system: null }, { tools: [] }, { options: { temperature: 1 } }].map(
        (fields) => mine.call("PATCH", `/v1/conversations/${id}`, fields),
      ),
    )),
    await mine.send(id, { ...said, options: { model: MODEL } }),
    await mine.send(id, { ...said, options: { temperature: 1 } }),
    await mine.send(id, { ...said, options: { max_tokens: 5 } }),
  ];
  expect(refused.map(({ status }) => status)).toEqual(Array(11).fill(400));
  for (const { text } of refused) expect(text).toContain("is the template's, and can't be set by a caller");
  // Nor takes it away: options are replaced, but for the template's.
  expect((await mine.call("PATCH", `/v1/conversations/${id}`, { options: { top_k: 3 } })).status).toBe(200);
  expect((await mine.call("PATCH", `/v1/conversations/${id}`, { options: {} })).json).toMatchObject({
    options: { temperature: 0.5 },
  });
  expect((await mine.send(id, "Hello")).status).toBe(200);
  expect(claude.told.at(-1)?.body).toMatchObject({ model: MODEL, max_tokens: 100, temperature: 0.5 });
  for (const template of [{ name: "none" }, { name: "archived", ...OPS }]) {
    await gateway.admin("templates/archived", { json: HELP });
    await gateway.admin("templates/archived", { method: "PATCH", json: { state: "archived" } });
    expect((await mine.call("POST", "/v1/conversations", { template })).status).toBe(404);
  }
});
