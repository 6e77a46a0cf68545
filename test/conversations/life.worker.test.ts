/** A conversation's life over its routes, with the real object behind them. */
import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { objectName } from "../../src/conversations/object.ts";
import { call, keyOf, type Options, settled } from "./door.ts";

const NAME = "/v1/conversations";
let keyA: string;
let keyB: string;

beforeAll(async () => {
  vi.spyOn(console, "log").mockImplementation(() => {});
  vi.spyOn(console, "error").mockImplementation(() => {});
  keyA = await keyOf("ws_life_a");
  keyB = await keyOf("ws_life_b");
});
afterAll(settled);

const ask = (path: string, options: Options = {}) => call(env.CONVERSATION, NAME + path, { as: keyA, ...options });
type Shown = {
  id: string;
  context: object;
  max_tokens: number;
  metadata: object;
  expires_at: string;
  updated_at: string;
};

async function listed(as = keyA): Promise<{ id: string; model: string; metadata: object }[]> {
  return (await (await ask("", { as })).json<{ data: { id: string; model: string; metadata: object }[] }>()).data;
}

describe("a conversation", () => {
  it("is made, found, changed and deleted, and X-08 leaves nothing", async () => {
    const made = await ask("", { json: { model: "claude-haiku-5-5", metadata: { a: "b" }, ttl_seconds: 60 } });
    expect(made.status).toBe(201);
    const { id, expires_at, updated_at } = await made.json<Shown>();
    expect(Date.parse(expires_at) - Date.parse(updated_at)).toBe(60_000);
    expect(await listed()).toMatchObject([{ id, model: "claude-haiku-5-5", metadata: { a: "b" } }]);
    expect(await listed(keyB)).toEqual([]);

    const changed = await ask(`/${id}`, { method: "PATCH", json: { context: { keep_turns: 2 }, max_tokens: 9 } });
    expect(changed.status).toBe(200);
    const shown = await (await ask(`/${id}`)).json<Shown>();
    expect(shown).toMatchObject({
      max_tokens: 9,
      context: { strategy: "summarize", max_input_tokens: null, keep_turns: 2, summary_model: null },
    });

    expect(await (await ask(`/${id}/messages`)).json()).toEqual({ data: [], has_more: false, next_cursor: null });
    expect(await (await ask(`/${id}/events`)).text()).toBe("");
    expect((await ask(`/${id}/events?after=1`)).status).toBe(400);
    expect((await ask(`/${id}/cancel`, { method: "POST" })).status).toBe(200);
    expect(await (await ask(`/${id}/export`)).json()).toMatchObject({ conversation: { id } });

    for (const as of [keyB, keyA]) {
      const gone = await ask(`/${id}`, { as, method: "DELETE" });
      expect(gone.status).toBe(as === keyA ? 200 : 404);
    }
    expect(await listed()).toEqual([]);
    const told = new Set<string>();
    for (const [method, path, json] of [
      ["GET", ""],
      ["PATCH", "", { max_tokens: 1 }],
      ["DELETE", ""],
      ["GET", "/messages"],
      ["POST", "/messages", { content: "hi" }],
      ["GET", "/events"],
      ["POST", "/cancel", {}],
      ["GET", "/export"],
    ] as const) {
      const response = await ask(`/${id}${path}`, { method, ...(json ? { json } : {}) });
      expect(response.status).toBe(404);
      told.add((await response.json<{ error: { message: string } }>()).error.message);
    }
    expect([...told]).toEqual(["There is no such conversation."]);
    const left = await runInDurableObject(env.CONVERSATION.getByName(objectName("ws_life_a", id)), async (_, state) => [
      ...state.storage.sql.exec("SELECT name FROM sqlite_master WHERE name NOT LIKE '\\_cf%' ESCAPE '\\'"),
      ...(await state.storage.list()).keys(),
      await state.storage.getAlarm(),
    ]);
    expect(left).toEqual([null]);
  });

  it("may be used by its whole workspace", async () => {
    const { id } = await (await ask("", { json: { model: "m" } })).json<Shown>();
    const other = await keyOf("ws_life_a");
    expect((await ask(`/${id}`, { as: other })).status).toBe(200);
    expect((await ask(`/${id}`, { as: other, method: "DELETE" })).status).toBe(200);
    expect((await ask(`/${id}`)).status).toBe(404);
  });
});
