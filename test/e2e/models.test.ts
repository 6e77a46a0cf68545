/** `GET /v1/models` on the real bundle: one object for both dialects, the key's models, aliases, pages, an upstream that is away. */
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { type LocalWorker, startLocalWorker } from "../../scripts/local-runtime.ts";
import { MODELS, modelInfo } from "../../simulator/models.ts";
import { type Gateway, type Key, startGateway, withKey } from "../support/gateway.ts";
import { type ScriptedUpstream, startScriptedUpstream } from "../support/scripted-upstream.ts";

type Model = Record<string, unknown> & { id: string };
type List = { object: string; data: Model[]; has_more: boolean; first_id: string | null; last_id: string | null };

const ALIASES = { "gpt-4o": "claude-sonnet-5-5(high)", "vendor/name": "haiku" };
const SHORT = ["opus", "sonnet", "haiku", "fable", "sluice-opus", "opus-4-6", "haiku-4-5"];

let simulator: LocalWorker;
let gateway: Gateway;
let key: Key;

beforeAll(async () => {
  simulator = await startLocalWorker({ config: "simulator/wrangler.toml", bundle: "dist/simulator" });
  gateway = await startGateway(simulator.url, { bindings: { MODEL_ALIASES: JSON.stringify(ALIASES) } });
  key = await gateway.makeKey();
});
afterAll(async () => {
  await gateway?.stop();
  await simulator?.stop();
});

const get = (path: string, who: Key = key, headers: Record<string, string> = {}, from = gateway) =>
  fetch(`${from.url}${path}`, { headers: { authorization: `Bearer ${who.key}`, ...headers } });
const list = async (who: Key = key, query = "", headers: Record<string, string> = {}) => {
  const response = await get(`/v1/models${query}`, who, headers);
  expect(response.status).toBe(200);
  return (await response.json()) as List;
};
const idsOf = (page: List) => page.data.map(({ id }) => id);
const NATIVE = { "anthropic-version": "2023-06-01" };

describe("the list", () => {
  it("has each model once with the fields of both dialects, and all of upstream's", async () => {
    const page = await list();
    expect(page).toMatchObject({ object: "list", has_more: false, first_id: MODELS[0]?.id });
    expect(page.last_id).toBe(page.data.at(-1)?.id);
    expect(new Set(idsOf(page)).size).toBe(page.data.length);
    expect(page.data.slice(0, MODELS.length)).toEqual(
      MODELS.map((model) => ({
        ...modelInfo(model),
        object: "model",
        created: Date.parse(model.createdAt) / 1_000,
        owned_by: "anthropic",
      })),
    );
  });

  it("names the gateway's aliases, the key's own and the short ones", async () => {
    const who = await gateway.makeKey({ aliases: { mine: { model: "opus", thinking: true } } });
    const page = await list(who);
    expect(idsOf(page)).toEqual(expect.arrayContaining(["mine", ...Object.keys(ALIASES), ...SHORT]));
    expect(page.data.find(({ id }) => id === "mine")).toMatchObject({
      ...{ object: "model", type: "model", alias_of: "claude-opus-5-5", display_name: "Claude Opus 5.5 (mine)" },
      ...{ owned_by: "anthropic", max_tokens: 128_000, created: expect.any(Number) },
    });
    expect(idsOf(await list())).not.toContain("mine");
  });

  it("K-11 shows a key with a list its models alone, and aliases of them", async () => {
    const who = await gateway.makeKey({ models: ["claude-haiku-*"], aliases: { dear: "opus", cheap: "haiku-4-5" } });
    expect(idsOf(await list(who))).toEqual([
      ...["claude-haiku-5-5", "claude-haiku-4-5", "cheap", "vendor/name"],
      ...["haiku", "sluice-haiku", "haiku-5-5", "haiku-4-5"],
    ]);
  });

  it("has no aliases for a client that speaks the native dialect, which can't use them", async () => {
    const ids = idsOf(await list(key, "", NATIVE));
    expect(ids).toEqual(MODELS.map(({ id }) => id));
  });

  it.each([{}, NATIVE])("comes in pages, forwards and backwards, with %j", async (headers) => {
    const all = idsOf(await list(key, "", headers));
    const forwards: string[] = [];
    for (let after: string | null = ""; after !== null; ) {
      const start: string = after === "" ? "" : `&after_id=${encodeURIComponent(after)}`;
      const page: List = await list(key, `?limit=4${start}`, headers);
      forwards.push(...idsOf(page));
      after = page.has_more ? page.last_id : null;
    }
    expect(forwards).toEqual(all);
    const backwards = await list(key, `?limit=3&before_id=${all[5]}`, headers);
    expect(idsOf(backwards)).toEqual(all.slice(2, 5));
    expect(backwards.has_more).toBe(true);
    expect(idsOf(await list(key, `?limit=1000&after_id=${all.at(-1)}`, headers))).toEqual([]);
  });

  it.each(["limit=0", "limit=1001", "limit=x", "limit=", "after_id=none", "before_id=none"])(
    "?%s is a 400",
    async (query) => {
      const response = await get(`/v1/models?${query}`);
      expect(response.status).toBe(400);
      expect(await response.json()).toMatchObject({
        type: "error",
        error: { type: "invalid_request_error", message: expect.any(String), param: null, code: null },
      });
    },
  );
});

describe("one model", () => {
  it.each([
    ["claude-opus-5-5", "claude-opus-5-5"],
    ["opus", "claude-opus-5-5"],
    ["opus-4-6", "claude-opus-4-6"],
    ["gpt-4o", "claude-sonnet-5-5"],
    ["opus(high)", "claude-opus-5-5"],
    ["opus(high)[1m]-thinking", "claude-opus-5-5"],
    ["anthropic/claude-opus-5-5", "claude-opus-5-5"],
    ["vendor/name", "claude-haiku-5-5"],
    ["claude-haiku-4-5-20251001", "claude-haiku-4-5-20251001"],
  ])("%s is read by its name, encoded or not", async (name, id) => {
    for (const path of [
      name,
      encodeURIComponent(name),
      name.replace(/[()[\]]/g, (mark) => `%${mark.charCodeAt(0).toString(16)}`),
    ]) {
      const response = await get(`/v1/models/${path}`);
      expect([path, response.status]).toEqual([path, 200]);
      const model = (await response.json()) as Model;
      expect(model).toMatchObject({ id: name, object: "model", type: "model", owned_by: "anthropic" });
      expect(model.alias_of ?? model.id).toBe(id);
      expect(model.capabilities).toBeDefined();
    }
  });

  it("is a 404 in both dialects when there is none, and says how a name gets a meaning", async () => {
    for (const name of ["gpt-3.5-turbo", "o3", "Opus", "claude-none"]) {
      const response = await get(`/v1/models/${name}`);
      expect([name, response.status]).toEqual([name, 404]);
      const body = (await response.json()) as { error: { message: string } };
      expect(body).toMatchObject({
        type: "error",
        error: { type: "not_found_error", param: "model", code: "model_not_found" },
      });
      expect(body.error.message).toContain(name);
      expect(body.error.message).toContain("MODEL_ALIASES");
    }
  });

  it("is upstream's own 404 for a native client", async () => {
    const response = await get("/v1/models/claude-none", key, NATIVE);
    expect(response.status).toBe(404);
    expect(await response.json()).toMatchObject({
      type: "error",
      error: {
        type: "not_found_error",
        message: expect.not.stringContaining("MODEL_ALIASES"),
      },
      request_id: expect.stringMatching(/^req_011sim/),
    });
  });

  it("K-11 is a 403 where the key may not use what the name comes to", async () => {
    const who = await gateway.makeKey({ models: ["claude-haiku-4-5"], aliases: { dear: "opus" } });
    for (const name of [
      "dear",
      "opus",
      "claude-opus-5-5",
      "gpt-4o",
      "Claude-Haiku-4-5",
      "claude-haiku-4-5%20",
      "%EF%BD%83laude-haiku-4-5",
    ]) {
      const response = await get(`/v1/models/${name}`, who);
      expect([name, response.status]).toEqual([name, 403]);
    }
    expect((await get("/v1/models/haiku-4-5", who)).status).toBe(200);
  });
});

describe("clients", () => {
  it("the OpenAI SDK lists and reads", async () => {
    const client = new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: key.key, maxRetries: 0 });
    const ids: string[] = [];
    for await (const model of client.models.list()) ids.push(model.id);
    expect(ids).toEqual(expect.arrayContaining(["claude-opus-5-5", ...SHORT]));
    expect(await client.models.retrieve("opus(high)")).toMatchObject({ id: "opus(high)", owned_by: "anthropic" });
    const error = await client.models.retrieve("gpt-4").catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(OpenAI.NotFoundError);
    expect(error).toMatchObject({ code: "model_not_found" });
    const wrong = new OpenAI({ baseURL: gateway.url, apiKey: "sk-nonsense", maxRetries: 0 });
    expect(await wrong.models.list().catch((thrown: unknown) => thrown)).toMatchObject({
      status: 401,
      code: "invalid_api_key",
    });
  });

  it("the Anthropic SDK does, through all pages, and finds upstream's fields", async () => {
    const client = new Anthropic({ baseURL: gateway.url, apiKey: key.key, maxRetries: 0 });
    const ids: string[] = [];
    for await (const model of client.models.list({ limit: 5 })) ids.push(model.id);
    expect(ids).toEqual(MODELS.map(({ id }) => id));
    expect((await client.models.retrieve("claude-opus-5-5")).capabilities?.thinking.types.adaptive.supported).toBe(
      true,
    );
  });
});

describe("a key's aliases", () => {
  const change = (id: string, json: unknown) => gateway.admin(`keys/${id}`, { method: "PATCH", json });

  it("are set, shown and changed as a whole, and in force within two seconds", async () => {
    const aliases = { fast: "haiku(low)", "gpt-4o": "claude-opus-4-6" };
    const made = (await (await gateway.admin("keys", { json: { name: "n", aliases } })).json()) as Key & {
      aliases: unknown;
    };
    expect(made.aliases).toEqual(aliases);
    const own = await fetch(`${gateway.url}/v1/key`, { headers: withKey(made) });
    expect(await own.json()).toMatchObject({ aliases });
    const read = async (name: string) => ((await (await get(`/v1/models/${name}`, made)).json()) as Model).alias_of;
    // The key's own counts for more than the gateway's.
    expect(await read("gpt-4o")).toBe("claude-opus-4-6");
    expect(await (await change(made.id, { aliases: { slow: "opus" } })).json()).toMatchObject({
      aliases: { slow: "opus" },
    });
    const end = Date.now() + 2_500;
    while ((await read("slow")) === undefined) expect(Date.now()).toBeLessThan(end);
    expect(await read("fast")).toBeUndefined();
    expect(await read("gpt-4o")).toBe("claude-sonnet-5-5");
    expect(await (await change(made.id, { aliases: {} })).json()).toMatchObject({ aliases: {} });
  });

  it("are refused with what is wrong with each", async () => {
    for (const [aliases, message] of [
      [null, "aliases: must be an object"],
      [["a"], "aliases: must be an object"],
      [{ a: "b" }, "aliases.a: must lead to a Claude model"],
      [{ a: "opus", b: "a(high)" }, "aliases.b: must not lead to another alias"],
      [{ "a b": "opus" }, "aliases.a b: must be named by"],
      [
        Object.fromEntries(Array.from({ length: 51 }, (_, n) => [`a${n}`, "opus"])),
        "aliases: must not hold more than 50",
      ],
    ]) {
      for (const response of [
        await gateway.admin("keys", { json: { name: "n", aliases } }),
        await change(key.id, { aliases }),
      ]) {
        expect(response.status).toBe(400);
        expect(((await response.json()) as { error: { message: string } }).error.message).toContain(message);
      }
    }
    const most = Object.fromEntries(Array.from({ length: 50 }, (_, n) => [`a${n}`, "opus"]));
    expect((await gateway.admin("keys", { json: { name: "n", aliases: most } })).status).toBe(201);
  });
});

describe("an upstream that has no list to give", () => {
  let upstream: ScriptedUpstream;
  let alone: Gateway | undefined;

  beforeAll(async () => {
    upstream = await startScriptedUpstream();
  });
  afterEach(async () => {
    await alone?.stop();
    alone = undefined;
  });
  afterAll(() => upstream.stop());

  it.each([
    ["an error", () => (upstream.script = (response) => void response.writeHead(500).end("{}"))],
    ["nonsense", () => (upstream.script = (response) => void response.end("<html>"))],
    ["silence", () => (upstream.script = () => {})],
  ])("answering with %s leaves the models that this release knows", async (_name, script) => {
    upstream.received.length = 0;
    script();
    alone = await startGateway(upstream.url);
    const who = await alone.makeKey();
    const response = await get("/v1/models", who, {}, alone);
    expect(response.status).toBe(200);
    const page = (await response.json()) as List;
    expect(idsOf(page)).toEqual(expect.arrayContaining(["claude-opus-5-5", "claude-sonnet-4-5", ...SHORT]));
    for (const model of page.data) {
      expect(model).toMatchObject({
        object: "model",
        type: "model",
        created: expect.any(Number),
        owned_by: "anthropic",
      });
    }
    const asked = upstream.received.length;
    expect((await get("/v1/models/opus", who, {}, alone)).status).toBe(200);
    expect((await get("/v1/models/gpt-4", who, {}, alone)).status).toBe(404);
    // Upstream is left alone for a while.
    expect(upstream.received.length).toBe(asked);
  });

  it("and settings with aliases that lead nowhere are said at once", async () => {
    alone = await startGateway(upstream.url, { bindings: { MODEL_ALIASES: '{"a":"b"}' } });
    const response = await fetch(`${alone.url}/v1/models`);
    expect(response.status).toBe(503);
    expect(await response.text()).toContain("MODEL_ALIASES, `a`: must lead to a Claude model");
  });
});
