/** Names of models on the real bundle: what goes upstream for each, and that none goes around a key's list. */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { type Gateway, type Key, startGateway } from "../support/gateway.ts";
import { type ScriptedUpstream, startScriptedUpstream } from "../support/scripted-upstream.ts";

const MESSAGE = {
  ...{ id: "msg_1", type: "message", role: "assistant", model: "claude-opus-5-5", stop_reason: "end_turn" },
  ...{ content: [{ type: "text", text: "Hi" }], usage: { input_tokens: 1, output_tokens: 1 } },
};
const ALIASES = { "gpt-4o": "claude-sonnet-4-6(high)", "gpt-3.5-turbo": "haiku" };

let upstream: ScriptedUpstream;
let gateway: Gateway;
let key: Key;

beforeAll(async () => {
  upstream = await startScriptedUpstream();
  gateway = await startGateway(upstream.url, { bindings: { MODEL_ALIASES: JSON.stringify(ALIASES) } });
  key = await gateway.makeKey({
    aliases: { mine: { model: "opus-4-6(low)", thinking: true }, window: "sonnet-4-5[1m]" },
  });
});
afterAll(async () => {
  await gateway?.stop();
  await upstream?.stop();
});
beforeEach(() => {
  upstream.received.length = 0;
  upstream.script = (response, { target }) => {
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify(target.startsWith("/v1/models") ? { data: [], has_more: false } : MESSAGE));
  };
});

const BODIES = {
  "/v1/chat/completions": { messages: [{ role: "user", content: "Hi" }], max_tokens: 20_000 },
  "/v1/responses": { input: "Hi", max_output_tokens: 20_000, store: false },
} as const;
const ask = (model: string, who: Key = key, path: keyof typeof BODIES = "/v1/chat/completions", more: object = {}) =>
  fetch(`${gateway.url}${path}`, {
    method: "POST",
    headers: { authorization: `Bearer ${who.key}`, "content-type": "application/json" },
    body: JSON.stringify({ model, ...BODIES[path], ...more }),
  });
/** What upstream was sent for a name. */
async function sent(model: string, path?: keyof typeof BODIES, more?: object) {
  const response = await ask(model, key, path, more);
  expect([model, response.status, response.ok ? "" : await response.text()]).toEqual([model, 200, ""]);
  expect(upstream.received.length).toBe(1);
  const call = upstream.received.pop();
  return {
    body: JSON.parse(String(call?.body)) as Record<string, unknown>,
    betas: call?.headers.find(([name]) => name === "anthropic-beta")?.[1] ?? "",
  };
}

describe.each(Object.keys(BODIES) as (keyof typeof BODIES)[])("%s", (path) => {
  it.each([
    ["opus", "claude-opus-5-5", undefined],
    ["sluice-sonnet(high)", "claude-sonnet-5-5", "high"],
    ["anthropic/claude-opus-4-6(max)", "claude-opus-4-6", "max"],
    ["gpt-4o", "claude-sonnet-4-6", "high"],
    ["gpt-4o(low)", "claude-sonnet-4-6", "low"],
    ["gpt-3.5-turbo", "claude-haiku-5-5", undefined],
    ["mine", "claude-opus-4-6", "low"],
  ])("%s asks for %s with effort %s", async (name, model, effort) => {
    const { body } = await sent(name, path);
    expect(body.model).toBe(model);
    expect((body.output_config as { effort?: string } | undefined)?.effort).toBe(effort);
  });

  it("the body's effort counts for more than the name's", async () => {
    const more = path === "/v1/responses" ? { reasoning: { effort: "high" } } : { reasoning_effort: "high" };
    expect((await sent("mine", path, more)).body.output_config).toMatchObject({ effort: "high" });
  });

  it("-thinking has thinking shown, and a window of a million tokens brings its beta", async () => {
    expect((await sent("mine", path)).body.thinking).toMatchObject({ type: "adaptive", display: "summarized" });
    expect((await sent("opus-4-6-thinking", path)).body.thinking).toMatchObject({
      type: "adaptive",
      display: "summarized",
    });
    expect((await sent("window", path)).betas).toContain("context-1m-2025-08-07");
    expect((await sent("opus[1m]", path)).betas).not.toContain("context-1m");
  });

  it("an unknown gpt-… is a 404 that says how to make it work, and nothing goes upstream", async () => {
    for (const name of ["gpt-5.5", "o3", "gpt-4o-mini", "Opus", "sluice-gpt-5"]) {
      const response = await ask(name, key, path);
      expect([name, response.status]).toEqual([name, 404]);
      const { error } = (await response.json()) as { error: { message: string; param: string; code: string } };
      expect(error).toMatchObject({ param: "model", code: "model_not_found" });
      for (const part of [`\`${name}\``, "mine", "opus", "aliases", "MODEL_ALIASES"])
        expect(error.message).toContain(part);
    }
    expect(upstream.received).toEqual([]);
  });

  it("K-11 no name goes around a key's list of models", async () => {
    const aliases = { cheap: "haiku-4-5", dear: "opus", "claude-haiku-4-5": "claude-opus-5-5" };
    const narrow = await gateway.makeKey({ models: ["claude-haiku-4-5"], aliases });
    for (const name of [
      ...["opus", "haiku", "dear", "dear(low)", "gpt-4o", "gpt-3.5-turbo", "sluice-opus", "anthropic/claude-opus-5-5"],
      ...["claude-haiku-4-5", "claude-haiku-4-5-latest", "claude-haiku-4-5 ", "Claude-Haiku-4-5", "ｃlaude-haiku-4-5"],
      ...["claude-new-1", "claude-haiku-4-5\u0000"],
    ]) {
      const response = await ask(name, narrow, path);
      expect([name, response.status]).toEqual([name, 403]);
    }
    expect(upstream.received).toEqual([]);
    expect((await ask("cheap", narrow, path)).status).toBe(200);
    expect((await ask("haiku-4-5(none)", narrow, path)).status).toBe(200);
  });
});

it("a claude that nobody knows goes upstream by its name, which is asked once for its list", async () => {
  for (const name of ["claude-new-7(high)", "claude-new-8"]) {
    expect((await ask(name)).status).toBe(200);
  }
  expect(upstream.received.map(({ target }) => target.split("?")[0])).toEqual([
    "/v1/models",
    "/v1/messages",
    "/v1/messages",
  ]);
  const models = upstream.received.slice(1).map(({ body }) => (JSON.parse(String(body)) as { model: string }).model);
  expect(models).toEqual(["claude-new-7", "claude-new-8"]);
});

it("the audit names the model that was asked for upstream", async () => {
  const who = await gateway.makeKey();
  expect((await ask("gpt-4o", who)).status).toBe(200);
  const [row] = await gateway.audit(who, 1);
  expect(row).toMatchObject({ dialect: "openai", model_requested: "claude-sonnet-4-6", route: "/v1/chat/completions" });
});
